//! The subject of a report, which includes the subject of the message that it is about.
//!
//! ```text
//! Subject: Backup of host alpha              ->  Not delivered: Backup of host alpha
//! Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=       ->  Not delivered: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
//! Subject: Grüße                             ->  Not delivered: =?utf-8?q?Gr=C3=BC=C3=9Fe?=
//!                                            ->  Not delivered: your message
//! ```
//! The words of the message are untrusted text. Encoded words (RFC 2047) pass unchanged, other
//! words that are not ASCII become encoded words, so that a report needs no SMTPUTF8, and control
//! characters become `?`. The result is bounded, and folded between words.

use crate::message::encoded_word;

/// Returns the value of the Subject field: `title`, a colon, and the subject found in `header`. The
/// value has no LF at its end. Continuation lines begin with a blank.
pub fn report_subject(title: &str, header: &[u8]) -> String {
    let subject = subject_of(header).unwrap_or_default();
    let mut words = encoded_words(&subject);
    if words.is_empty() {
        words = vec!["your".to_owned(), "message".to_owned()];
    }
    let mut value = format!("{title}:");
    let mut column = FIELD_NAME.len() + value.len();
    for word in words {
        if column + 1 + word.len() > LINE_MAX {
            value.push('\n');
            column = 0;
        }
        value.push(' ');
        value.push_str(&word);
        column += 1 + word.len();
    }
    value
}

/// Returns the value of the first Subject field in `header`, with its continuation lines.
fn subject_of(header: &[u8]) -> Option<Vec<u8>> {
    let mut lines = header.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let value = lines.by_ref().find_map(|line| {
        let (name, value) = line.split_at_checked(FIELD_NAME.len())?;
        name.eq_ignore_ascii_case(FIELD_NAME.as_bytes()).then_some(value)
    })?;
    let mut subject = value.to_vec();
    for line in lines.take_while(|line| matches!(line.first(), Some(b' ' | b'\t'))) {
        subject.extend_from_slice(line);
    }
    Some(subject)
}

/// Returns the words of `subject` in ASCII, at most [`SUBJECT_MAX`] bytes of them and `...`.
fn encoded_words(subject: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(subject);
    let mut words: Vec<String> = Vec::new();
    let mut room = SUBJECT_MAX;
    let mut after_encoded = false;
    for word in text.split_ascii_whitespace() {
        let clean: String = word.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let is_encoded_word = clean.starts_with("=?") && clean.ends_with("?=");
        // Blanks between two encoded words are not shown (RFC 2047 6.2), so the blank is encoded.
        let new = match clean.is_ascii() {
            true => vec![clean],
            false if after_encoded => encoded_word::encode(&format!(" {clean}")),
            false => encoded_word::encode(&clean),
        };
        for mut part in new {
            if part.len() > room {
                if words.is_empty() && !is_encoded_word && part.is_ascii() {
                    part.truncate(room);
                    words.push(part);
                }
                if !words.is_empty() {
                    words.push("...".to_owned());
                }
                return words;
            }
            room -= part.len();
            words.push(part);
        }
        after_encoded = is_encoded_word || !word.is_ascii();
    }
    words
}

const FIELD_NAME: &str = "Subject:";
/// Length of a line above which it is folded.
const LINE_MAX: usize = 76;
/// Maximum number of bytes of the message's subject.
const SUBJECT_MAX: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn subjects_of_messages() {
        let long = "x".repeat(300);
        for (header, expected) in [
            (&b"Subject: Backup of host alpha\n"[..], "Failed: Backup of host alpha"),
            (b"From: a\nSUBJECT:b\n  c\n\td\nTo: e\n", "Failed: b c d"),
            (b"X-Subject: no\nTo: e\n\nSubject: body\n", "Failed: your message"),
            (b"Subject:  \n", "Failed: your message"),
            (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= x\n", "Failed: =?utf-8?q?Gr=C3=BC=C3=9Fe?= x"),
            ("Subject: Grüße x\n".as_bytes(), "Failed: =?utf-8?q?Gr=C3=BC=C3=9Fe?= x"),
            ("Subject: é à\n".as_bytes(), "Failed: =?utf-8?q?=C3=A9?= =?utf-8?q?_=C3=A0?="),
            (b"Subject: \xff\n", "Failed: =?utf-8?q?=EF=BF=BD?="),
            (b"Subject: a\x1b[1mb\0\r\n", "Failed: a?[1mb?"),
            (b"", "Failed: your message"),
        ] {
            assert_eq!(report_subject("Failed", header), expected);
        }
        let cut = report_subject("Failed", format!("Subject: {long}\n").as_bytes());
        assert_eq!(cut, format!("Failed:\n {}\n ...", "x".repeat(240)));
    }

    proptest! {
        #[test]
        fn lines_are_short_ascii_and_folded_between_words(
            words in prop::collection::vec(
                prop::sample::select(&["a", "é", "日本語", "=?utf-8?b?w6k=?=", "\n ", "\r", "\0"]),
                0..200,
            ),
            glue in prop::sample::select(&["", " "]),
        ) {
            let header = format!("Subject: {}\n\n", words.join(glue));
            let value = report_subject("Not delivered", header.as_bytes());
            prop_assert!(value.len() < 400);
            prop_assert!(value.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
            for (n, line) in value.split('\n').enumerate() {
                prop_assert!(n == 0 || line.starts_with(' ') && line.trim() != "");
                let is_one_word = line.trim().split(' ').count() == 1;
                prop_assert!(line.len() <= LINE_MAX || is_one_word, "{line:?}");
            }
        }
    }
}
