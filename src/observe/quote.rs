//! Quoting of values for log lines, and for texts that a person pastes.

use std::fmt::{self, Write};

/// Shows `v` as one value of a log line: unchanged if it is plain, otherwise in double quotes with
/// `"`, `\` and every byte outside printable ASCII escaped (`\x0a`).
pub fn quoted<T: fmt::Display>(v: T) -> impl fmt::Display {
    Quoted(v)
}

struct Quoted<T>(T);

impl<T: fmt::Display> fmt::Display for Quoted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if !text.is_empty() && text.bytes().all(plain) {
            return f.write_str(&text);
        }
        f.write_char('"')?;
        for b in text.bytes() {
            match b {
                b'"' | b'\\' => write!(f, "\\{}", b as char)?,
                b' '..=b'~' => f.write_char(b as char)?,
                _ => write!(f, "\\x{b:02x}")?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_or_quoted() {
        for (given, shown) in [
            ("smith", "smith"),
            ("<jones@example.org>", "<jones@example.org>"),
            ("", r#""""#),
            ("two words", r#""two words""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("x\r\nfake=1", r#""x\x0d\x0afake=1""#),
            ("\u{1b}[2J", r#""\x1b[2J""#),
            ("é", r#""\xc3\xa9""#),
        ] {
            assert_eq!(quoted(given).to_string(), shown);
        }
    }
}
