//! The parser of a server's replies (RFC 5321 4.2). The input may be divided anywhere.
//!
//! ```text
//! 250-mx.example.org greets you        three digits, "-", text: more lines follow
//! 250 SIZE 1000                        three digits, blank (or nothing at all): the last line
//! ```
//! The server is not trusted. Lines and replies have a limit. The text of a long line is cut,
//! because the code before it is enough. If the 250 to a message were not understood, the message
//! would be sent again. Anything that is not a reply is a [`MalformedReply`], after which the
//! connection cannot be used. Only CR LF ends a line (RFC 5321 2.3.8). A bare LF is an error at
//! once, because otherwise the client would wait for a CR LF until its timeout. The text is
//! converted to UTF-8 without control characters, so that it can be written to a log or a report.

use std::fmt;

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerReply {
    /// The reply code, 200 to 599.
    pub code: u16,
    /// The texts of the lines, separated by LF.
    text: String,
}

/// The reason why input is not a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedReply(pub &'static str);

/// A parser that is fed bytes and returns replies.
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// Input that was not parsed yet: at most the last input and a part of a line.
    input: Vec<u8>,
    /// The bytes of the current line that were cut out of its middle.
    cut: usize,
    /// The incomplete reply: its code, its text, and its number of lines.
    partial: Option<(u16, String, usize)>,
}

impl ServerReply {
    /// Returns the texts of the lines, without the code.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.split('\n')
    }

    /// Returns the enhanced status code, if there is one of the same class as the code (RFC 2034
    /// 4).
    pub fn enhanced(&self) -> Option<(u8, u16, u16)> {
        split_status(self.code, &self.text).map(|(status, _)| status)
    }

    /// Returns the reply in one line of at most [`TEXT_MAX`] bytes: the code, the enhanced status
    /// code, and the texts, `550 5.1.1 No such user`.
    pub fn text(&self) -> String {
        let mut text = self.code.to_string();
        for (number, line) in self.lines().enumerate() {
            // The status code is on every line (RFC 2034 4), but is shown once.
            let line = match split_status(self.code, line) {
                Some((_, rest)) if number > 0 => rest,
                _ => line,
            };
            let line = line.trim();
            if !line.is_empty() {
                text.push(' ');
                text.push_str(line);
            }
        }
        truncate_text(&mut text);
        text
    }
}

impl ReplyParser {
    /// Appends input from the server.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Returns the next reply, or None if the input contains no whole one.
    ///
    /// # Errors
    /// The input is not a reply. The parser cannot be used any more.
    pub fn next(&mut self) -> Result<Option<ServerReply>, MalformedReply> {
        while let Some(end) = memchr::memchr(b'\n', &self.input) {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            if line.len() + std::mem::take(&mut self.cut) > LONG_LINE_MAX {
                return Err(TOO_LONG);
            }
            let line = line.strip_suffix(b"\r\n").ok_or(BARE_LF)?;
            let line = line.get(..LINE_MAX - 2).unwrap_or(line);
            if let Some(answer) = self.parse_line(line)? {
                return Ok(Some(answer));
            }
        }
        // The last byte may be the CR of a CR LF.
        if self.input.len() > LINE_MAX + 1 {
            split_code(&self.input)?;
            self.cut += self.input.len() - LINE_MAX - 1;
            self.input.drain(LINE_MAX..self.input.len() - 1);
        }
        if self.input.len() + self.cut >= LONG_LINE_MAX { Err(TOO_LONG) } else { Ok(None) }
    }

    /// True if there is no input after the last reply.
    pub fn is_empty(&self) -> bool {
        self.input.is_empty() && self.partial.is_none()
    }

    /// Drops all input (RFC 3207 4.2).
    pub fn clear(&mut self) {
        *self = ReplyParser::default();
    }

    /// Parses one line. Returns the reply if it is the last line of one.
    fn parse_line(&mut self, line: &[u8]) -> Result<Option<ServerReply>, MalformedReply> {
        let (code, more, text) = split_code(line)?;
        let (first, mut so_far, lines) = self.partial.take().unwrap_or((code, String::new(), 0));
        if first != code {
            return Err(TWO_CODES);
        }
        if lines > 0 {
            so_far.push('\n');
        }
        so_far.extend(String::from_utf8_lossy(text).chars().map(printable));
        if lines >= LINES_MAX || so_far.len() > REPLY_MAX {
            return Err(TOO_LARGE);
        }
        if more {
            self.partial = Some((code, so_far, lines + 1));
            return Ok(None);
        }
        Ok(Some(ServerReply { code, text: so_far }))
    }
}

/// Splits a line into its code, whether more lines follow, and its text.
fn split_code(line: &[u8]) -> Result<(u16, bool, &[u8]), MalformedReply> {
    let (code, rest) = line.split_at_checked(3).ok_or(NO_CODE)?;
    let code = match code {
        [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
            code.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'))
        }
        _ => return Err(NO_CODE),
    };
    match rest {
        [] => Ok((code, false, rest)),
        [b' ', text @ ..] => Ok((code, false, text)),
        [b'-', text @ ..] => Ok((code, true, text)),
        _ => Err(NO_CODE),
    }
}

impl fmt::Display for MalformedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Splits `5.1.1 No such user` into status code and text.
fn split_status(code: u16, text: &str) -> Option<((u8, u16, u16), &str)> {
    let (status, rest) = text.split_once([' ', '\n']).unwrap_or((text, ""));
    let mut numbers = status.split('.');
    let mut number = |digits_max| {
        let digits = numbers.next()?;
        let fits = (1..=digits_max).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit());
        if fits { digits.parse::<u16>().ok() } else { None }
    };
    let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
    let fits = numbers.next().is_none() && class == code / 100;
    fits.then_some(((u8::try_from(class).ok()?, subject, detail), rest))
}

/// Truncates `text` to [`TEXT_MAX`] bytes, at the boundary of a character.
pub(super) fn truncate_text(text: &mut String) {
    let fits = |end: &usize| text.is_char_boundary(*end);
    text.truncate((0..=text.len().min(TEXT_MAX)).rev().find(fits).unwrap_or(0));
}

fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        c if c.is_control() => '?',
        c => c,
    }
}

/// The longest text for a log line or a report, in bytes.
pub const TEXT_MAX: usize = 512;
/// The octets of a reply line with its CR LF that are read: four times the limit of RFC 5321
/// 4.5.3.1.5. The rest of the line is dropped.
const LINE_MAX: usize = 2048;
/// The longest reply line with its CR LF, in octets.
const LONG_LINE_MAX: usize = 64 * 1024;
/// The most lines of a reply.
const LINES_MAX: usize = 128;
/// The longest text of a reply, in bytes.
const REPLY_MAX: usize = 16 * 1024;
const TOO_LONG: MalformedReply = MalformedReply("a reply line that is too long");
const NO_CODE: MalformedReply = MalformedReply("a line without a reply code");
const BARE_LF: MalformedReply = MalformedReply("a bare LF");
const TWO_CODES: MalformedReply = MalformedReply("a reply with two codes");
const TOO_LARGE: MalformedReply = MalformedReply("a reply that is too long");

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns all replies in `bytes`, fed in parts of `cut` bytes, and the error, or whether all
    /// input was used.
    fn read(bytes: &[u8], cut: usize) -> (Vec<(u16, String)>, Result<bool, MalformedReply>) {
        let mut parser = ReplyParser::default();
        let mut found = Vec::new();
        for piece in bytes.chunks(cut) {
            parser.feed(piece);
            loop {
                match parser.next() {
                    Ok(Some(answer)) => found.push((answer.code, answer.text.clone())),
                    Ok(None) => break,
                    Err(malformed) => return (found, Err(malformed)),
                }
            }
        }
        (found, Ok(parser.is_empty()))
    }

    #[test]
    fn replies_do_not_depend_on_the_division_of_input() {
        let long = |n: usize| format!("250 {}\r\n", "x".repeat(n - 6));
        let many = |n: usize| format!("{}250 z\r\n", "250-y\r\n".repeat(n - 1));
        let wide = |n: usize| format!("{}250 z\r\n", long(2000).replace("250 ", "250-").repeat(n));
        let codes = Err(TWO_CODES);
        let endless = Err(TOO_LARGE);
        let rows: &[(&str, &[u16], Result<bool, MalformedReply>)] = &[
            ("", &[], Ok(true)),
            ("250 ok\r\n", &[250], Ok(true)),
            ("250\r\n", &[250], Ok(true)),
            ("250 \r\n", &[250], Ok(true)),
            ("250-\r\n250\r\n", &[250], Ok(true)),
            ("250-a\r\n250-b\r\n250 c\r\n354 go\r\n", &[250, 354], Ok(true)),
            ("599 a\r\n200 b\r\n", &[599, 200], Ok(true)),
            ("250 a", &[], Ok(false)),
            ("250-a\r\n", &[], Ok(false)),
            ("250 a\r", &[], Ok(false)),
            // The code.
            ("\r\n", &[], Err(NO_CODE)),
            ("25\r\n", &[], Err(NO_CODE)),
            ("250_a\r\n", &[], Err(NO_CODE)),
            ("2500 a\r\n", &[], Err(NO_CODE)),
            ("150 a\r\n", &[], Err(NO_CODE)),
            ("650 a\r\n", &[], Err(NO_CODE)),
            ("+50 a\r\n", &[], Err(NO_CODE)),
            ("250 a\r\nhello\r\n", &[250], Err(NO_CODE)),
            ("HTTP/1.1 400 Bad Request\r\n", &[], Err(NO_CODE)),
            ("250-a\r\n251 b\r\n", &[], codes),
            ("250-a\r\n550 b\r\n", &[], codes),
            // Line ends.
            ("250 a\n", &[], Err(BARE_LF)),
            ("250-a\n250 b\r\n", &[], Err(BARE_LF)),
            ("250 a\rb\r\n", &[250], Ok(true)),
            // Limits.
            (&long(2048), &[250], Ok(true)),
            (&long(2049), &[250], Ok(true)),
            (&long(2050), &[250], Ok(true)),
            (&long(LONG_LINE_MAX), &[250], Ok(true)),
            (&long(LONG_LINE_MAX + 1), &[], Err(TOO_LONG)),
            (&long(5000).replace("\r\n", "\n"), &[], Err(BARE_LF)),
            (&"2".repeat(1500), &[], Ok(false)),
            (&"2".repeat(5000), &[], Err(NO_CODE)),
            (&"220 ".repeat(LONG_LINE_MAX), &[], Err(TOO_LONG)),
            (&many(128), &[250], Ok(true)),
            (&many(129), &[], endless),
            (&wide(8), &[250], Ok(true)),
            (&wide(9), &[], endless),
        ];
        for (bytes, codes, end) in rows {
            let whole = read(bytes.as_bytes(), usize::MAX);
            assert_eq!(whole.0.iter().map(|found| found.0).collect::<Vec<_>>(), *codes, "{bytes}");
            assert_eq!(whole.1, *end, "{bytes}");
            for cut in [1, 2, 3, 5, 7, 1000] {
                assert_eq!(read(bytes.as_bytes(), cut), whole, "{cut} {bytes}");
            }
        }
    }

    #[test]
    fn texts_are_one_line_without_control_characters() {
        let text = |bytes: &[u8]| {
            let mut parser = ReplyParser::default();
            parser.feed(bytes);
            let answer = parser.next().unwrap().unwrap();
            (answer.enhanced(), answer.text())
        };
        let is = |status, text: &str| (status, text.to_owned());
        let unknown = Some((5, 1, 1));
        assert_eq!(text(b"550 5.1.1 No\tuser\x1b\r\n"), is(unknown, "550 5.1.1 No user?"));
        let lines = text(b"550-5.1.1 a\r\n550-\r\n550 5.1.1 b\r\n");
        assert_eq!(lines, is(unknown, "550 5.1.1 a b"));
        assert_eq!(text(b"550 5.1.1\r\n"), is(unknown, "550 5.1.1"));
        assert_eq!(text(b"550-5.1.1\r\n550 b\r\n"), is(unknown, "550 5.1.1 b"));
        assert_eq!(text(b"250\r\n"), is(None, "250"));
        for none in ["450 5.1.1 a", "550 5.1 a", "550 5.1.1.1 a", "550 5.1234.1 a", "550 5.+1.1 a"]
        {
            assert_eq!(text(format!("{none}\r\n").as_bytes()), is(None, none));
        }
        let strange = text(b"250 j\xc3\xbcrgen \xff\xc2\x9b\r\n");
        assert_eq!(strange, is(None, "250 j\u{fc}rgen \u{fffd}?"));
        let long = format!("250-x{0}\r\n250 {0}\r\n", "\u{4e00}".repeat(100));
        assert_eq!(text(long.as_bytes()).1.len(), 510);
    }
}
