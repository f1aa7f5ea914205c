//! The encoder of mail data: converts stored content, with LF at line ends, to what is sent.
//!
//! ```text
//! stored       sent by DATA, . CR LF at the end (RFC 5321 4.5.2)   sent by BDAT (RFC 3030)
//! .hello LF    ..hello CR LF                                       .hello CR LF
//! ```
//! Every line is sent with CR LF, including a last line without LF. A CR before LF belongs to the
//! line end. Any other CR becomes a blank, because a bare CR must not be sent (RFC 5321 2.3.8) and
//! a receiver that accepts one as a line end could find an end of data in the text. All other bytes
//! are unchanged: a message with long lines or 8-bit text is converted before (`converter.rs`).

use memchr::memchr2;

/// The encoder of one message.
#[derive(Debug)]
pub struct Encoder {
    /// Whether the data is sent by DATA.
    dot_stuffing: bool,
    /// Whether the next byte begins a line.
    at_start: bool,
    /// Whether the last byte was a CR, which is not written yet.
    pending_cr: bool,
}

impl Encoder {
    /// Returns an encoder for DATA, which stuffs dots and writes the final dot.
    pub fn for_data() -> Encoder {
        Encoder { dot_stuffing: true, at_start: true, pending_cr: false }
    }

    /// Returns an encoder for BDAT, which does not change dots.
    pub fn for_chunks() -> Encoder {
        Encoder { dot_stuffing: false, ..Encoder::for_data() }
    }

    /// Encodes the next part of the content, divided anywhere, and appends it to `out`.
    pub fn encode(&mut self, content: &[u8], out: &mut Vec<u8>) {
        let mut rest = content;
        while let Some((&first, after)) = rest.split_first() {
            if self.pending_cr && first != b'\n' {
                self.write_text(b" ", out);
            }
            self.pending_cr = false;
            match first {
                b'\n' => {
                    out.extend_from_slice(b"\r\n");
                    self.at_start = true;
                    rest = after;
                }
                b'\r' => (self.pending_cr, rest) = (true, after),
                _ => {
                    let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    let (text, after) = rest.split_at(end);
                    self.write_text(text, out);
                    rest = after;
                }
            }
        }
    }

    /// Ends the last line, and for DATA the mail data.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if self.pending_cr || !self.at_start {
            self.encode(b"\n", out);
        }
        if self.dot_stuffing {
            out.extend_from_slice(b".\r\n");
        }
    }

    /// Appends `text`, which is not empty and contains no line end.
    fn write_text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if self.at_start && self.dot_stuffing && text.first() == Some(&b'.') {
            out.push(b'.');
        }
        out.extend_from_slice(text);
        self.at_start = false;
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::data::{DataEnd, Decoder};
    use super::*;
    use proptest::prelude::*;

    fn encoded(content: &[u8], cut: usize, mut encoder: Encoder) -> Vec<u8> {
        let mut out = Vec::new();
        content.chunks(cut).for_each(|piece| encoder.encode(piece, &mut out));
        encoder.finish(&mut out);
        out
    }

    /// Returns the same by simple means, as a reference.
    fn reference(content: &str, dot_stuffing: bool) -> String {
        let ended = content.is_empty() || content.ends_with('\n');
        let content = content.to_owned() + if ended { "" } else { "\n" };
        let content = content.replace("\r\n", "\n").replace('\r', " ");
        let mut lines: Vec<&str> = content.split('\n').collect();
        if lines.last() == Some(&"") {
            lines.pop();
        }
        let stuffed =
            |line: &&str| if dot_stuffing && line.starts_with('.') { "." } else { "" }.to_owned();
        let all: String = lines.iter().map(|line| stuffed(line) + line + "\r\n").collect();
        all + if dot_stuffing { ".\r\n" } else { "" }
    }

    #[test]
    fn lines_and_dots() {
        for (content, data) in [
            ("", ".\r\n"),
            ("\n", "\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            ("a\n", "a\r\n.\r\n"),
            (".", "..\r\n.\r\n"),
            (".\n", "..\r\n.\r\n"),
            ("..\na.\n.b", "...\r\na.\r\n..b\r\n.\r\n"),
            ("\n.\nQUIT\n", "\r\n..\r\nQUIT\r\n.\r\n"),
            ("a\r\nb", "a\r\nb\r\n.\r\n"),
            ("a\r.\rb\n", "a . b\r\n.\r\n"),
            ("\r.\r\n", " .\r\n.\r\n"),
            ("a\r", "a\r\n.\r\n"),
            ("\r", "\r\n.\r\n"),
            ("\r\r\n", " \r\n.\r\n"),
            ("\r\r", " \r\n.\r\n"),
        ] {
            for cut in 1..=content.len().max(1) {
                let found = encoded(content.as_bytes(), cut, Encoder::for_data());
                assert_eq!(String::from_utf8(found).unwrap(), data, "{content:?} {cut}");
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference_and_decodes_to_the_content(
            words in prop::collection::vec(
                prop::sample::select(&[".", "\n", "\r", "a", "\r\n", "From ", "\u{e9}", "\0"]),
                0..40,
            ),
            cut in 1usize..20,
        ) {
            let content = words.concat();
            let bytes = content.as_bytes();
            let chunks = encoded(bytes, cut, Encoder::for_chunks());
            prop_assert_eq!(&chunks, &reference(&content, false).into_bytes());
            let data = encoded(bytes, cut, Encoder::for_data());
            prop_assert_eq!(&data, &reference(&content, true).into_bytes());
            let mut read = Vec::new();
            let (used, end) = Decoder::new(u64::MAX).feed(&data, &mut |piece| {
                read.extend_from_slice(piece.bytes);
                if piece.last {
                    read.extend_from_slice(b"\r\n");
                }
            });
            prop_assert_eq!((used, end), (data.len(), Some(DataEnd::Whole)));
            prop_assert_eq!(read, chunks);
        }
    }
}
