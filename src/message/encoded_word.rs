//! Encoded words (RFC 2047): text in UTF-8 for a header field in ASCII.
//!
//! ```text
//! Grüße    =?utf-8?q?Gr=C3=BC=C3=9Fe?=
//! ```

/// Returns `text` as encoded words, each of whole characters and at most 75 bytes (RFC 2047 2).
pub fn encode(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = BEGIN.to_owned();
    for c in text.chars() {
        let mut utf8 = [0; 4];
        let encoded: String = match c {
            ' ' => "_".to_owned(),
            c if c.is_ascii_alphanumeric() => c.to_string(),
            c => c.encode_utf8(&mut utf8).bytes().map(|byte| format!("={byte:02X}")).collect(),
        };
        if word.len() + encoded.len() + END.len() > WORD_MAX {
            words.push(word + END);
            word = BEGIN.to_owned();
        }
        word += &encoded;
    }
    words.push(word + END);
    words
}

const BEGIN: &str = "=?utf-8?q?";
const END: &str = "?=";
/// Maximum length of an encoded word.
const WORD_MAX: usize = 75;
