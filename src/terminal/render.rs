//! The text of a message for a terminal: the sender, the header fields that people read, and the
//! body.
//!
//! ```text
//!
//! Message from <smith@alpha.arpa> at 14:05 ...
//! From: Fred Smith <smith@alpha.arpa>
//! Subject: lunch
//!
//! Blah blah blah...
//! EOF
//! ```
//! It guarantees:
//! - **No control sequences.** Of all control characters only the line end and the tab are written,
//!   and one bell at the start. The others are shown as by write(1) and cat(1): ESC as `^[`, the
//!   8-bit CSI as `M-^[`, bytes that are not UTF-8 as `M-x`. Invisible characters (text direction,
//!   zero width, unassigned) become `?`.
//! - **Two forms.** UTF-8 for terminals that are set to it, and ASCII for all others, on which the
//!   bytes of UTF-8 could be control characters.
//! - **Bounded size.** At most [`TEXT_MAX`] bytes and [`LINES_MAX`] lines. A longer message is cut
//!   and marked ([`RenderedMessage::is_whole`]), and must be stored elsewhere.
//!
//! Header fields for programs ([`HIDDEN_FIELDS`]) are left out. All others are shown, because the
//! first line of a message without a header (`Reminder: lunch`) looks like one. MIME is not
//! decoded.

use std::io;

use crate::message::{Content, field_name, needs_from_quoting};

/// The most bytes of a message that are shown on a terminal.
pub const TEXT_MAX: usize = 4096;

/// The most lines of a message that are shown on a terminal.
pub const LINES_MAX: usize = 60;

/// The header fields that are not shown. A `*` matches the rest of a name.
pub const HIDDEN_FIELDS: [&str; 20] = [
    "ARC-*",
    "Authentication-Results",
    "Auto-Submitted",
    "Autocrypt",
    "Content-*",
    "DKIM-Signature",
    "Delivered-To",
    "Errors-To",
    "Feedback-ID",
    "In-Reply-To",
    "List-*",
    "MIME-Version",
    "Message-ID",
    "Precedence",
    "Received",
    "Received-SPF",
    "References",
    "Return-Path",
    "User-Agent",
    "X-*",
];

/// A message as it is written to terminals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedMessage {
    utf8: Vec<u8>,
    ascii: Vec<u8>,
    whole: bool,
}

impl RenderedMessage {
    /// Renders `content`, which `sender` sent at `time`.
    ///
    /// # Errors
    /// The file of the content cannot be read.
    pub fn new(sender: &str, time: &str, content: &Content) -> io::Result<RenderedMessage> {
        let source = content.read(0, SOURCE_MAX)?;
        let source = source.as_ref();
        let is_all = source.len() as u64 == content.size();
        let lines = lines_to_show(source);
        let text = |utf8| {
            let mut text = TerminalText { out: Vec::new(), utf8 };
            text.out.extend_from_slice(b"\r\n\x07Message from ");
            text.add(format!("{sender} at {time} ...\n").as_bytes(), usize::MAX);
            let end = text.out.len() + TEXT_MAX;
            let fits = lines.iter().take(LINES_MAX).all(|line| text.add(line, end));
            let whole = fits && is_all && lines.len() <= LINES_MAX;
            text.out.extend_from_slice(if whole { END } else { END_CUT });
            (text.out, whole)
        };
        let ((utf8, whole), (ascii, whole_too)) = (text(true), text(false));
        Ok(RenderedMessage { utf8, ascii, whole: whole && whole_too })
    }

    /// Returns the bytes to write to a terminal, in UTF-8 or ASCII.
    pub fn bytes(&self, utf8: bool) -> &[u8] {
        if utf8 { &self.utf8 } else { &self.ascii }
    }

    /// True if the whole message is shown, so that the user needs no other copy.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

/// The text for terminals with or without UTF-8.
struct TerminalText {
    out: Vec<u8>,
    utf8: bool,
}

impl TerminalText {
    /// Appends any bytes, up to a length of `end`. Returns whether all of them fit.
    fn add(&mut self, bytes: &[u8], end: usize) -> bool {
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if self.out.len() >= end {
                    return false;
                }
                self.add_char(c);
            }
            for byte in chunk.invalid() {
                if self.out.len() >= end {
                    return false;
                }
                self.add_meta(*byte);
            }
        }
        true
    }

    fn add_char(&mut self, c: char) {
        match c {
            // A terminal in raw mode does not add the CR.
            '\n' => self.out.extend_from_slice(b"\r\n"),
            '\t' | ' '..='~' => self.out.push(c as u8),
            '\0'..='\u{7f}' => self.add_ascii(c as u8),
            // These are the 8-bit control characters, such as CSI, encoded in UTF-8.
            '\u{80}'..='\u{9f}' => self.add_meta(c as u8),
            _ if c.is_whitespace() => self.out.push(b' '),
            _ if self.utf8 && is_printable(c) => {
                self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => self.out.push(b'?'),
        }
    }

    /// Appends `M-` and the character of the lower seven bits: 0x9b becomes `M-^[`.
    fn add_meta(&mut self, byte: u8) {
        self.out.extend_from_slice(b"M-");
        self.add_ascii(byte & 0x7f);
    }

    /// Appends a character of ASCII. A control character becomes `^` and a letter: 0x1b becomes
    /// `^[`, 0x7f becomes `^?`.
    fn add_ascii(&mut self, byte: u8) {
        match byte {
            b' '..=b'~' => self.out.push(byte),
            _ => self.out.extend_from_slice(&[b'^', byte ^ 0x40]),
        }
    }
}

/// True if `c`, a character beyond ASCII, is visible according to the tables of std. The `x` is
/// needed because a combining mark is escaped unless it follows another character.
fn is_printable(c: char) -> bool {
    ['x', c].iter().collect::<String>().escape_debug().skip(1).eq([c])
}

/// Returns the lines of the content that are shown, each with its LF, and without the quoting of
/// the mailbox format.
fn lines_to_show(source: &[u8]) -> Vec<&[u8]> {
    let (mut in_header, mut keep) = (true, true);
    let mut lines = Vec::new();
    for line in source.split_inclusive(|byte| *byte == b'\n') {
        let continues = matches!(line, [b' ' | b'\t', ..]);
        in_header &= line != b"\n";
        if !in_header {
            keep = true;
        } else if !continues {
            keep = !field_name(line).is_some_and(is_hidden_field);
        }
        if keep {
            let quoted = line.first() == Some(&b'>') && needs_from_quoting(line);
            lines.push(line.get(usize::from(quoted)..).unwrap_or(line));
        }
    }
    // If no field is shown, the empty line after the header is not shown either.
    if lines.first() == Some(&b"\n".as_slice()) {
        lines.remove(0);
    }
    lines
}

fn is_hidden_field(field: &[u8]) -> bool {
    HIDDEN_FIELDS.iter().any(|name| match name.strip_suffix('*') {
        Some(start) => field
            .get(..start.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(start.as_bytes())),
        None => field.eq_ignore_ascii_case(name.as_bytes()),
    })
}

/// The most bytes of content that are read: room for a long hidden header and the text after it.
const SOURCE_MAX: usize = 64 * 1024;

const END: &[u8] = b"EOF\r\n";
const END_CUT: &[u8] = b"\r\n... the rest is in your mailbox\r\nEOF\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the text after the first line, without CRs.
    fn shown(content: &str, utf8: bool) -> String {
        text_of(&RenderedMessage::new("<s@a>", "14:05", &memory(content.as_bytes())).unwrap(), utf8)
    }

    fn memory(bytes: &[u8]) -> Content {
        Content::Memory(bytes.to_vec().into())
    }

    fn text_of(rendered: &RenderedMessage, utf8: bool) -> String {
        let text = String::from_utf8(rendered.bytes(utf8).to_vec()).unwrap();
        let body = text.strip_prefix("\r\n\x07Message from <s@a> at 14:05 ...\r\n").unwrap();
        assert_eq!(body.matches('\r').count(), body.matches("\r\n").count());
        body.replace('\r', "")
    }

    #[test]
    fn header_fields_for_people_and_the_body_are_shown() {
        for (content, expected) in [
            // The example of RFC 821 has no header. The Received field gets an empty line.
            ("Received: x\n\tby y\n\nBlah blah...\n", "Blah blah...\nEOF\n"),
            ("Received: x\n\n", "EOF\n"),
            ("Received: x\nSubject: lunch\n\nat noon?\n", "Subject: lunch\n\nat noon?\nEOF\n"),
            // The first line of a message may only look like a field.
            ("Reminder: lunch\n", "Reminder: lunch\nEOF\n"),
            // A field is hidden with its continuation lines, in any case.
            (
                "SUBJECT: a\n b\nx-spam: 1\n\t2\nDKIM-signature: v\n w\nTo: c\n\nd\n",
                "SUBJECT: a\n b\nTo: c\n\nd\nEOF\n",
            ),
            // After the header nothing is a field.
            ("\nReceived: no\n continued\n", "Received: no\n continued\nEOF\n"),
            // The quoting of the mailbox format is removed, and nothing else.
            ("\n>From me\n>>From you\n> From\n>Frog\n", "From me\n>From you\n> From\n>Frog\nEOF\n"),
        ] {
            assert_eq!(shown(content, true), expected);
            assert_eq!(shown(content, false), expected);
        }
    }

    #[test]
    fn control_characters_are_made_visible() {
        for (bytes, utf8, ascii) in [
            // Unchanged.
            (&b"\ttab ~"[..], "\ttab ~", "\ttab ~"),
            // C0: title, bell, backspace, CR, form feed, NUL, DEL, shift out.
            (b"\x1b]0;x\x07", "^[]0;x^G", "^[]0;x^G"),
            (b"a\x08b\rc\x0cd\x00e\x7f\x0e", "a^Hb^Mc^Ld^@e^?^N", "a^Hb^Mc^Ld^@e^?^N"),
            // C1: as one byte, as UTF-8, and the first and last.
            (b"\x9b2J", "M-^[2J", "M-^[2J"),
            (b"\xc2\x9b2J", "M-^[2J", "M-^[2J"),
            (b"\x80 \xc2\x80 \x9f \xc2\x9f", "M-^@ M-^@ M-^_ M-^_", "M-^@ M-^@ M-^_ M-^_"),
            // Not UTF-8: Latin-1, incomplete, overlong, a surrogate, beyond Unicode.
            (b"caf\xe9", "cafM-i", "cafM-i"),
            (b"\xe2\x82", "M-bM-^B", "M-bM-^B"),
            (b"\xc0\x9b", "M-@M-^[", "M-@M-^["),
            (b"\xff", "M-^?", "M-^?"),
            // Visible UTF-8, with bytes that could be CSI on a terminal without UTF-8.
            ("caf\u{e9} \u{db}".as_bytes(), "caf\u{e9} \u{db}", "caf? ?"),
            ("\u{65e5}\u{672c} e\u{301}".as_bytes(), "\u{65e5}\u{672c} e\u{301}", "?? e?"),
            // All blanks become a blank, and so do line and paragraph separators.
            ("a\u{a0}b\u{3000}c\u{2028}d".as_bytes(), "a b c d", "a b c d"),
            // Right-to-left override, isolates, zero width, byte order mark, soft hyphen, private
            // use, tags.
            ("\u{202e}\u{2066}\u{200b}\u{feff}\u{ad}".as_bytes(), "?????", "?????"),
            ("\u{e000}\u{e0041}\u{10ffff}".as_bytes(), "???", "???"),
        ] {
            let content = [b"\n", bytes, b"\n"].concat();
            let rendered = RenderedMessage::new("<s@a>", "14:05", &memory(&content)).unwrap();
            assert_eq!(text_of(&rendered, true), format!("{utf8}\nEOF\n"), "{bytes:?}");
            assert_eq!(text_of(&rendered, false), format!("{ascii}\nEOF\n"), "{bytes:?}");
        }
    }

    /// Every byte, alone and after every kind of lead byte of UTF-8.
    #[test]
    fn no_bytes_become_control_characters() {
        for lead in [&b""[..], b"\xc2", b"\xc3", b"\xe2\x80", b"\xf0\x9f\x98", b"\x1b", b"\xed"] {
            for byte in 0..=u8::MAX {
                let content = [b"\n", lead, &[byte], b"\n"].concat();
                let rendered = RenderedMessage::new("\x1b[2J", "\x07", &memory(&content)).unwrap();
                let (_, utf8) = rendered.bytes(true).split_at(3);
                let utf8 = std::str::from_utf8(utf8).unwrap();
                let is_shown = |c: char| !c.is_control() || "\r\n\t".contains(c);
                assert!(utf8.chars().all(is_shown), "{lead:?} {byte}: {utf8:?}");
                let (_, ascii) = rendered.bytes(false).split_at(3);
                let is_shown = |b: &u8| matches!(b, b' '..=b'~' | b'\r' | b'\n' | b'\t');
                assert!(ascii.iter().all(is_shown), "{lead:?} {byte}: {ascii:?}");
            }
        }
    }

    #[test]
    fn a_message_that_does_not_fit_is_cut_and_marked() {
        let line = |length: usize| format!("\n{}\n", "x".repeat(length));
        let lines = |count: usize| format!("\n{}", "x\n".repeat(count));
        for (content, whole) in [
            (line(TEXT_MAX - 1), true),
            (line(TEXT_MAX), false),
            (line(1 << 20), false),
            (lines(LINES_MAX), true),
            (lines(LINES_MAX + 1), false),
            // A message that fits in UTF-8 and not in ASCII is not whole.
            (format!("\n{}\n", "\x1b".repeat(TEXT_MAX / 2)), false),
            // A hidden header that is too long to find the text after it.
            (format!("X-a: {}\n\nx\n", "x".repeat(SOURCE_MAX)), false),
        ] {
            let rendered =
                RenderedMessage::new("<s@a>", "14:05", &memory(content.as_bytes())).unwrap();
            let text = text_of(&rendered, true);
            assert_eq!(rendered.is_whole(), whole, "{} bytes", content.len());
            assert_eq!(!text.ends_with("... the rest is in your mailbox\nEOF\n"), whole);
            assert!(text.len() < TEXT_MAX + 64);
        }
    }
}
