//! Mail data as it goes over the wire, made of content as it is stored: lines that end with LF.
//!
//! ```text
//! for DATA      .hello LF     ..hello CR LF     and behind all of it  . CR LF  (RFC 5321 4.5.2)
//! for BDAT      .hello LF     .hello CR LF      (RFC 3030)
//! ```
//! Every line goes out with CR LF, the last one too where it had no LF. A CR in front of LF belongs
//! to the line end; another one becomes a blank, for the wire knows no bare CR (RFC 5321 2.3.8) and
//! a receiver that takes one for a line end would see `CR . CR` where we sent text. Otherwise no
//! octet changes: long lines stay long, and 8 bits stay 8.

use memchr::memchr2;

/// The encoder of one message.
#[derive(Debug)]
pub struct Encoder {
    /// Whether it is for DATA.
    dots: bool,
    /// Whether a line begins here.
    at_start: bool,
    /// Whether a CR came, and nothing behind it yet.
    cr: bool,
}

impl Encoder {
    /// For DATA: with stuffed dots, and the final one.
    pub fn for_data() -> Encoder {
        Encoder { dots: true, at_start: true, cr: false }
    }

    /// For BDAT: dots are just dots.
    pub fn for_chunks() -> Encoder {
        Encoder { dots: false, ..Encoder::for_data() }
    }

    /// Encodes the next octets of content, cut anywhere, behind what is in `out`.
    pub fn encode(&mut self, content: &[u8], out: &mut Vec<u8>) {
        let mut rest = content;
        while let Some((&first, behind)) = rest.split_first() {
            if self.cr && first != b'\n' {
                self.text(b" ", out);
            }
            self.cr = false;
            match first {
                b'\n' => {
                    out.extend_from_slice(b"\r\n");
                    self.at_start = true;
                    rest = behind;
                }
                b'\r' => (self.cr, rest) = (true, behind),
                _ => {
                    let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    let (text, behind) = rest.split_at(end);
                    self.text(text, out);
                    rest = behind;
                }
            }
        }
    }

    /// Ends the last line, and the mail data where that is done by a dot.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        if self.cr || !self.at_start {
            self.encode(b"\n", out);
        }
        if self.dots {
            out.extend_from_slice(b".\r\n");
        }
    }

    /// `text` is not empty, and no line end is in it.
    fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        if self.at_start && self.dots && text.first() == Some(&b'.') {
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

    /// The same, said in the words of the manual above.
    fn twin(content: &str, dots: bool) -> String {
        let ended = content.is_empty() || content.ends_with('\n');
        let content = content.to_owned() + if ended { "" } else { "\n" };
        let content = content.replace("\r\n", "\n").replace('\r', " ");
        let mut lines: Vec<&str> = content.split('\n').collect();
        if lines.last() == Some(&"") {
            lines.pop();
        }
        let stuffed = |line: &&str| if dots && line.starts_with('.') { "." } else { "" }.to_owned();
        let all: String = lines.iter().map(|line| stuffed(line) + line + "\r\n").collect();
        all + if dots { ".\r\n" } else { "" }
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
        fn agrees_with_its_twin_and_is_read_back(
            words in prop::collection::vec(
                prop::sample::select(&[".", "\n", "\r", "a", "\r\n", "From ", "\u{e9}", "\0"]),
                0..40,
            ),
            cut in 1usize..20,
        ) {
            let content = words.concat();
            let octets = content.as_bytes();
            let chunks = encoded(octets, cut, Encoder::for_chunks());
            prop_assert_eq!(&chunks, &twin(&content, false).into_bytes());
            let data = encoded(octets, cut, Encoder::for_data());
            prop_assert_eq!(&data, &twin(&content, true).into_bytes());
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
