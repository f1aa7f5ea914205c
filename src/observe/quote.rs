//! Quoting of values for log lines, and for texts that a person pastes.

use std::fmt::{self, Write};

/// Appends `v` to `line` as one value of a log line: unchanged if it is plain, otherwise in double
/// quotes with `"`, `\` and every byte outside printable ASCII escaped (`\x0a`).
pub fn push_quoted(line: &mut String, v: impl fmt::Display) {
    let start = line.len();
    // Writing to a string fails only if `v` does, and then its text ends there.
    let _ = write!(line, "{v}");
    let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if line.len() > start && line.bytes().skip(start).all(plain) {
        return;
    }
    let value = line.split_off(start);
    line.push('"');
    for b in value.bytes() {
        match b {
            b'"' | b'\\' => line.extend(['\\', char::from(b)]),
            b' '..=b'~' => line.push(char::from(b)),
            _ => line.push_str(&format!("\\x{b:02x}")),
        }
    }
    line.push('"');
}

/// Returns `v` as one value of a log line, like [`push_quoted`].
pub fn quoted(v: impl fmt::Display) -> String {
    let mut value = String::new();
    push_quoted(&mut value, v);
    value
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
            assert_eq!(quoted(given), shown);
            let mut line = "é=".to_owned();
            push_quoted(&mut line, given);
            assert_eq!(line, format!("é={shown}"));
        }
    }
}
