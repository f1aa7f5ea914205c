//! The converter of a message that the next server would not take as it is (`survey.rs`): folds
//! long lines, and encodes a body in quoted-printable. Lines have LF on both sides; the
//! [`Encoder`](super::Encoder) follows.
//!
//! ```text
//! Fold     References: <1@a> ... <40@a> LF    ->  References: <1@a> ... LF <40@a> LF
//!          a line of 2,000 x                  ->  998 x, LF, blank, 997 x, LF, blank, 5 x
//! Encode   Grüße LF                           ->  Gr=C3=BC=C3=9Fe LF
//! ```
//! It holds one line of [`LINE_MAX`] bytes in memory at most.

use super::survey::{Conversion, LINE_MAX};

/// The converter of one message.
#[derive(Debug)]
pub struct Converter {
    /// The fields to be added to the header, or None if the body is folded too.
    added_fields: Option<String>,
    part: ConvertedPart,
    /// The text of the current line that is not written yet, at most [`PENDING_MAX`] bytes.
    pending: Vec<u8>,
    /// Whether a part of the current line was written.
    is_folded: bool,
    /// Whether the current header field is left out.
    is_dropped: bool,
    quoted: QuotedPrintableEncoder,
}

/// The part of the message that is being converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConvertedPart {
    Header,
    FoldedBody,
    EncodedBody,
}

impl Converter {
    /// Returns a converter, or None if `conversion` changes nothing.
    pub fn new(conversion: &Conversion) -> Option<Converter> {
        let added_fields = match conversion {
            Conversion::Unchanged => return None,
            Conversion::Fold => None,
            Conversion::Encode(fields) => Some(fields.clone()),
        };
        Some(Converter {
            added_fields,
            part: ConvertedPart::Header,
            pending: Vec::new(),
            is_folded: false,
            is_dropped: false,
            quoted: QuotedPrintableEncoder::default(),
        })
    }

    /// Converts the next part of the content, divided anywhere, and appends it to `out`.
    pub fn convert(&mut self, content: &[u8], out: &mut Vec<u8>) {
        let mut rest = content;
        while !rest.is_empty() {
            if self.part == ConvertedPart::EncodedBody {
                return self.quoted.encode(rest, out);
            }
            let room = PENDING_MAX.saturating_sub(self.pending.len());
            let window = rest.get(..room).unwrap_or(rest);
            match memchr::memchr(b'\n', window) {
                Some(at) => {
                    self.add_pending(window.get(..at).unwrap_or_default());
                    self.end_line(out);
                    rest = rest.get(at + 1..).unwrap_or_default();
                }
                None => {
                    self.add_pending(window);
                    rest = rest.get(window.len()..).unwrap_or_default();
                    if self.pending.len() >= PENDING_MAX {
                        self.fold(out);
                    }
                }
            }
        }
    }

    /// Appends the rest of a last line without LF.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if self.part == ConvertedPart::EncodedBody {
            self.quoted.finish(out);
        } else if !self.pending.is_empty() {
            self.end_line(out);
        }
    }

    fn add_pending(&mut self, text: &[u8]) {
        let without_nul = text.iter().map(|byte| if *byte == 0 { b' ' } else { *byte });
        self.pending.extend(without_nul);
    }

    /// Writes the rest of the current line, and its LF.
    fn end_line(&mut self, out: &mut Vec<u8>) {
        if self.pending.last() == Some(&b'\r') {
            self.pending.pop();
        }
        if self.part == ConvertedPart::Header && !self.is_folded && self.pending.is_empty() {
            self.part = match &self.added_fields {
                None => ConvertedPart::FoldedBody,
                Some(fields) => {
                    out.extend_from_slice(fields.as_bytes());
                    ConvertedPart::EncodedBody
                }
            };
            out.push(b'\n');
            return;
        }
        self.fold(out);
        let line = std::mem::take(&mut self.pending);
        self.write_line(&line, out);
        self.pending = line;
        self.pending.clear();
        self.is_folded = false;
    }

    /// Writes parts of the current line until the rest is at most [`LINE_MAX`] bytes long.
    fn fold(&mut self, out: &mut Vec<u8>) {
        while self.pending.len() > LINE_MAX {
            let (at, at_blank) = fold_position(&self.pending);
            let rest = self.pending.split_off(at);
            let line = std::mem::replace(&mut self.pending, rest);
            if !at_blank {
                self.pending.insert(0, b' ');
            }
            self.write_line(&line, out);
            self.is_folded = true;
        }
    }

    /// Writes a line, or a part of a folded one, with LF.
    fn write_line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if self.part == ConvertedPart::Header {
            let continues = self.is_folded || line.first().is_some_and(|b| is_blank(*b));
            if !continues {
                self.is_dropped = self.added_fields.is_some() && is_transfer_encoding(line);
            }
            // A line of blanks could be mistaken for the end of the header.
            if self.is_dropped || self.is_folded && line.iter().all(|b| is_blank(*b)) {
                return;
            }
        }
        out.extend_from_slice(line);
        out.push(b'\n');
    }
}

/// Returns the position where the rest of `line`, which is too long, begins, and whether a blank is
/// there. It is the last blank between two words, or else the last position between two characters.
fn fold_position(line: &[u8]) -> (usize, bool) {
    let blank_at = |at: usize| line.get(at).is_some_and(|byte| is_blank(*byte));
    let is_between_words = |at: &usize| blank_at(*at) && !blank_at(at - 1) && !blank_at(at + 1);
    if let Some(at) = (1..=LINE_MAX).rev().find(is_between_words) {
        return (at, true);
    }
    // A character of UTF-8 has up to three bytes after the first.
    let is_inside = |at: usize| line.get(at).is_some_and(|byte| (0x80..0xc0).contains(byte));
    let between = (LINE_MAX - 3..=LINE_MAX).rev().find(|at| !is_inside(*at));
    let at = between.unwrap_or(LINE_MAX);
    (at, blank_at(at))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// True if a header field begins with this line.
fn is_transfer_encoding(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    name.trim_ascii_end().eq_ignore_ascii_case(b"Content-Transfer-Encoding")
}

/// An encoder of quoted-printable (RFC 2045 6.7). The content is text, so that LF is a line end. A
/// CR that is not before LF is encoded, like all octets that a mail system may change.
#[derive(Debug, Default)]
struct QuotedPrintableEncoder {
    /// Length of the current line.
    column: usize,
    /// A blank that is not written yet, because it is encoded at the end of a line.
    pending_blank: Option<u8>,
    /// Whether a CR is not written yet, because it belongs to the line end before LF.
    pending_cr: bool,
}

impl QuotedPrintableEncoder {
    fn encode(&mut self, text: &[u8], out: &mut Vec<u8>) {
        for byte in text {
            if *byte == b'\n' {
                self.finish(out);
                out.push(b'\n');
                self.column = 0;
                continue;
            }
            if (self.pending_cr || !is_blank(*byte) && *byte != b'\r')
                && let Some(blank) = self.pending_blank.take()
            {
                self.write(&[blank], out);
            }
            if std::mem::take(&mut self.pending_cr) {
                self.write_encoded(b'\r', out);
            }
            match byte {
                b'\r' => self.pending_cr = true,
                b' ' | b'\t' => {
                    if let Some(blank) = self.pending_blank.replace(*byte) {
                        self.write(&[blank], out);
                    }
                }
                b'=' => self.write_encoded(b'=', out),
                b'!'..=b'~' => self.write(&[*byte], out),
                _ => self.write_encoded(*byte, out),
            }
        }
    }

    /// Writes the rest of the current line.
    fn finish(&mut self, out: &mut Vec<u8>) {
        if let Some(blank) = self.pending_blank.take() {
            self.write_encoded(blank, out);
        }
        self.pending_cr = false;
    }

    fn write_encoded(&mut self, byte: u8, out: &mut Vec<u8>) {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
        self.write(&[b'=', digit(byte >> 4), digit(byte & 15)], out);
    }

    /// Writes one octet as it is or encoded, after a soft line break if the line is full.
    fn write(&mut self, octet: &[u8], out: &mut Vec<u8>) {
        if self.column + octet.len() >= QUOTED_LINE_MAX {
            out.extend_from_slice(b"=\n");
            self.column = 0;
        }
        out.extend_from_slice(octet);
        self.column += octet.len();
    }
}

/// Number of bytes of a line after which it is folded: the first part, the blank after it, and one
/// byte more, which says whether a word follows.
const PENDING_MAX: usize = LINE_MAX + 2;
/// The longest line of quoted-printable, with the `=` of a soft line break.
const QUOTED_LINE_MAX: usize = 76;

#[cfg(test)]
mod tests {
    use super::super::ContentSurvey;
    use super::*;
    use proptest::prelude::*;

    fn converted(content: &[u8], conversion: &Conversion, cut: usize) -> Vec<u8> {
        let mut converter = Converter::new(conversion).unwrap();
        let mut out = Vec::new();
        content.chunks(cut).for_each(|part| converter.convert(part, &mut out));
        converter.finish(&mut out);
        out
    }

    /// Decodes quoted-printable by simple means.
    fn decoded(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text;
        while let Some((first, after)) = rest.split_first() {
            rest = match (first, after) {
                (b'=', [b'\n', after @ ..]) => after,
                (b'=', [high, low, after @ ..]) => {
                    let pair = [*high, *low];
                    let digits = std::str::from_utf8(&pair).unwrap();
                    assert_eq!(digits, digits.to_uppercase());
                    out.push(u8::from_str_radix(digits, 16).unwrap());
                    after
                }
                (byte, after) => {
                    out.push(*byte);
                    after
                }
            };
        }
        out
    }

    fn fold(content: &str) -> String {
        let found = converted(content.as_bytes(), &Conversion::Fold, content.len());
        for cut in [1, 7, 998, 999, 1000, 1001] {
            assert_eq!(converted(content.as_bytes(), &Conversion::Fold, cut), found, "{cut}");
        }
        String::from_utf8(found).unwrap()
    }

    #[test]
    fn lines_are_folded_at_blanks() {
        let x = |n: usize| "x".repeat(n);
        for (line, folded) in [
            (x(998), x(998)),
            (x(999), format!("{}\n x", x(998))),
            (x(2000), format!("{}\n {}\n {}", x(998), x(997), x(5))),
            (format!("a {}", x(998)), format!("a\n {}\n x", x(997))),
            (format!("a {}", x(997)), format!("a\n {}", x(997))),
            (format!("{} {}", x(998), x(998)), format!("{}\n {}\n x", x(998), x(997))),
            (format!("{}\tb c", x(996)), format!("{}\tb\n c", x(996))),
            (format!("{}\u{e9}", x(997)), format!("{}\n \u{e9}", x(997))),
        ] {
            assert_eq!(fold(&format!("{line}\n\n{line}\n")), format!("{folded}\n\n{folded}\n"));
        }
        assert_eq!(fold(&format!("A:{}\n\nb", " ".repeat(3000))), {
            format!("A:{}\n\nb\n", " ".repeat(996))
        });
        assert_eq!(fold("A: b\0c\r\n\r\na\0\r\n"), "A: b c\n\na \n");
    }

    #[test]
    fn fields_of_an_encoded_message() {
        let encode = Conversion::Encode("New: x\n".to_owned());
        let content = b"A: b\ncontent-transfer-encoding :\n 8bit\nC: d\n\nContent-: \xe9 \n.\n";
        for cut in 1..=content.len() {
            let found = converted(content, &encode, cut);
            assert_eq!(found, b"A: b\nC: d\nNew: x\n\nContent-: =E9=20\n.\n", "{cut}");
        }
    }

    proptest! {
        #[test]
        fn encoded_body_decodes_to_the_body(
            words in prop::collection::vec(
                prop::sample::select(&[
                    "a", " ", "\t", "=", "\n", "\r", "\r\n", "\0", "\u{e9}", ".", "=3D", "\x7f",
                    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                ]),
                0..60,
            ),
            cut in 1usize..20,
        ) {
            let body = words.concat();
            let content = format!("A: b\n\n{body}");
            let encode = Conversion::Encode(String::new());
            let found = converted(content.as_bytes(), &encode, cut);
            let found = found.strip_prefix(b"A: b\n\n").unwrap();
            // A CR belongs to the line end before LF, and at the end.
            let text = body.strip_suffix('\r').unwrap_or(&body).replace("\r\n", "\n");
            prop_assert_eq!(decoded(found), text.into_bytes());
            for line in found.split(|byte| *byte == b'\n') {
                prop_assert!(line.len() <= QUOTED_LINE_MAX);
                prop_assert!(line.iter().all(|b| *b == b'\t' || (b' '..=b'~').contains(b)));
                prop_assert!(!matches!(line.last(), Some(b' ' | b'\t')));
            }
        }

        /// Text without the line ends and blanks that were added.
        #[test]
        fn folded_lines_are_short_and_complete(
            words in prop::collection::vec(
                (prop::sample::select(&["x", "\u{e9}", "x\u{e9}"]), 1usize..1200, "[ \t\n]{0,3}"),
                0..8,
            ),
            cut in 1usize..2000,
        ) {
            let body: String = words.iter().map(|(word, n, gap)| word.repeat(*n) + gap).collect();
            let content = format!("A: b\n\n{body}");
            let found = converted(content.as_bytes(), &Conversion::Fold, cut);
            prop_assert!(found.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE_MAX));
            let found = String::from_utf8(found).unwrap();
            let plain = |text: &str| text.split_whitespace().collect::<String>();
            prop_assert_eq!(plain(&found), plain(&content));
            let mut survey = ContentSurvey::new();
            survey.feed(found.as_bytes());
            prop_assert_eq!(survey.conversion(true), Conversion::Unchanged);
        }
    }
}
