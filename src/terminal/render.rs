//! A message as a terminal shows it: from whom, the header fields that people read, and the text.
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
//! It promises
//! - **nothing that acts**: of all control characters only the line end and the tab get through,
//!   and the one bell that is ours. The others are shown as write(1) and cat(1) show them: ESC as
//!   `^[`, the 8-bit CSI as `M-^[`, octets that are no UTF-8 as `M-x`. Characters that are not to
//!   be seen (directions, zero widths, unassigned ones) are a `?`;
//! - **two forms**: UTF-8 for terminals that say they take it, and ASCII for the others, on which
//!   the octets of harmless UTF-8 could be controls;
//! - **a bound**: [`TEXT_MAX`] octets and [`LINES_MAX`] lines. What does not fit is cut, and said
//!   to be ([`RenderedMessage::is_whole`]): the rest must be kept elsewhere.
//!
//! Fields of machines ([`HIDDEN_FIELDS`]) are left out; any other is shown, because the first line of a
//! message without a header (`Reminder: lunch`) looks like one. It does not decode MIME.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::message::{Content, field_name, needs_from_quoting};

/// The most octets of a message that a terminal is shown.
pub const TEXT_MAX: usize = 4096;

/// The most lines of a message that a terminal is shown.
pub const LINES_MAX: usize = 60;

/// Header fields that are left out. A `*` stands for the rest of a name.
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

/// What is written to terminals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderedMessage {
    utf8: Vec<u8>,
    ascii: Vec<u8>,
    whole: bool,
}

impl RenderedMessage {
    /// Shows `content`, that came from `sender` at a `time` of day. A file is left standing where
    /// it stands.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(sender: &str, time: &str, content: &Content) -> io::Result<RenderedMessage> {
        let read;
        let source = match content {
            Content::Memory(bytes) => bytes.get(..SOURCE_MAX).unwrap_or(bytes),
            Content::File(file, _) => {
                read = read_head(file)?;
                read.as_slice()
            }
        };
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

    /// The octets to write to a terminal; `utf8` whether it takes that.
    pub fn bytes(&self, utf8: bool) -> &[u8] {
        if utf8 { &self.utf8 } else { &self.ascii }
    }

    /// Whether the message fits, so that who sees it on a terminal needs no other copy.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}

/// Text for one kind of terminal.
struct TerminalText {
    out: Vec<u8>,
    utf8: bool,
}

impl TerminalText {
    /// Adds octets of any kind, as far as they fit before the place `end`; whether they did.
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
            // The terminal may be in raw mode, where nobody adds the CR.
            '\n' => self.out.extend_from_slice(b"\r\n"),
            '\t' | ' '..='~' => self.out.push(c as u8),
            '\0'..='\u{7f}' => self.add_ascii(c as u8),
            // In UTF-8 these are the controls of one octet, such as CSI, once more.
            '\u{80}'..='\u{9f}' => self.add_meta(c as u8),
            _ if c.is_whitespace() => self.out.push(b' '),
            _ if self.utf8 && is_printable(c) => {
                self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => self.out.push(b'?'),
        }
    }

    /// `M-` and the character that the lower seven bits are: 0x9b is `M-^[`.
    fn add_meta(&mut self, byte: u8) {
        self.out.extend_from_slice(b"M-");
        self.add_ascii(byte & 0x7f);
    }

    /// A character of ASCII; a control as `^` and a letter: 0x1b is `^[`, 0x7f is `^?`.
    fn add_ascii(&mut self, byte: u8) {
        match byte {
            b' '..=b'~' => self.out.push(byte),
            _ => self.out.extend_from_slice(&[b'^', byte ^ 0x40]),
        }
    }
}

/// Whether `c`, beyond ASCII, is there to be seen, by std's own tables: they let a mark that
/// combines pass only behind another character.
fn is_printable(c: char) -> bool {
    ['x', c].iter().collect::<String>().escape_debug().skip(1).eq([c])
}

/// The lines of content that are shown, each with its LF, the quoting of the mailbox undone.
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
    // The empty line that ended a header of which nothing is left.
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

/// The first [`SOURCE_MAX`] octets of a file, or all, without moving in it.
fn read_head(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; SOURCE_MAX];
    let mut length = 0;
    while let Some(room) = bytes.get_mut(length..).filter(|room| !room.is_empty()) {
        match file.read_at(room, length as u64) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Octets of content that are looked at: a long header of machinery, and the text below it.
const SOURCE_MAX: usize = 64 * 1024;

const END: &[u8] = b"EOF\r\n";
const END_CUT: &[u8] = b"\r\n... the rest is in your mailbox\r\nEOF\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown below the first line, without its CRs.
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
    fn what_people_read_is_shown() {
        for (content, expected) in [
            // RFC 821's own example has no header; ours stands above an empty line.
            ("Received: x\n\tby y\n\nBlah blah...\n", "Blah blah...\nEOF\n"),
            ("Received: x\n\n", "EOF\n"),
            ("Received: x\nSubject: lunch\n\nat noon?\n", "Subject: lunch\n\nat noon?\nEOF\n"),
            // The first line of a message may only look like a field.
            ("Reminder: lunch\n", "Reminder: lunch\nEOF\n"),
            // A field goes with its continuation lines, in any case of letters.
            (
                "SUBJECT: a\n b\nx-spam: 1\n\t2\nDKIM-signature: v\n w\nTo: c\n\nd\n",
                "SUBJECT: a\n b\nTo: c\n\nd\nEOF\n",
            ),
            // Below the header nothing is a field.
            ("\nReceived: no\n continued\n", "Received: no\n continued\nEOF\n"),
            // The mailbox's quoting is undone, and only that.
            ("\n>From me\n>>From you\n> From\n>Frog\n", "From me\n>From you\n> From\n>Frog\nEOF\n"),
        ] {
            assert_eq!(shown(content, true), expected);
            assert_eq!(shown(content, false), expected);
        }
    }

    #[test]
    fn nothing_acts_on_the_terminal() {
        for (bytes, utf8, ascii) in [
            // Harmless ones stay.
            (&b"\ttab ~"[..], "\ttab ~", "\ttab ~"),
            // C0: title, bell, backspace, CR, form feed, NUL, DEL, shift out.
            (b"\x1b]0;x\x07", "^[]0;x^G", "^[]0;x^G"),
            (b"a\x08b\rc\x0cd\x00e\x7f\x0e", "a^Hb^Mc^Ld^@e^?^N", "a^Hb^Mc^Ld^@e^?^N"),
            // C1: as one octet, as UTF-8, and the shortest and longest.
            (b"\x9b2J", "M-^[2J", "M-^[2J"),
            (b"\xc2\x9b2J", "M-^[2J", "M-^[2J"),
            (b"\x80 \xc2\x80 \x9f \xc2\x9f", "M-^@ M-^@ M-^_ M-^_", "M-^@ M-^@ M-^_ M-^_"),
            // No UTF-8: Latin-1, cut short, overlong, a surrogate, beyond Unicode.
            (b"caf\xe9", "cafM-i", "cafM-i"),
            (b"\xe2\x82", "M-bM-^B", "M-bM-^B"),
            (b"\xc0\x9b", "M-@M-^[", "M-@M-^["),
            (b"\xff", "M-^?", "M-^?"),
            // UTF-8 that can be seen; its octets could be CSI where UTF-8 is not understood.
            ("caf\u{e9} \u{db}".as_bytes(), "caf\u{e9} \u{db}", "caf? ?"),
            ("\u{65e5}\u{672c} e\u{301}".as_bytes(), "\u{65e5}\u{672c} e\u{301}", "?? e?"),
            // Blanks are blanks; line and paragraph separators as well.
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

    /// Every octet there is, alone and behind every lead octet of UTF-8.
    #[test]
    fn no_bytes_act_whatever_they_are() {
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
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let line = |length: usize| format!("\n{}\n", "x".repeat(length));
        let lines = |count: usize| format!("\n{}", "x\n".repeat(count));
        for (content, whole) in [
            (line(TEXT_MAX - 1), true),
            (line(TEXT_MAX), false),
            (line(1 << 20), false),
            (lines(LINES_MAX), true),
            (lines(LINES_MAX + 1), false),
            // The one that fits as UTF-8 and not as ASCII is not whole.
            (format!("\n{}\n", "\x1b".repeat(TEXT_MAX / 2)), false),
            // A header of machinery that hides where the text begins.
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

    #[test]
    fn a_file_is_read_and_left_standing() {
        use std::io::{Read, Seek, Write};
        let content = format!("\n{}\n", "x".repeat(1000));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.rewind().unwrap();
        let in_file = Content::File(file.into(), content.len() as u64);
        let rendered = RenderedMessage::new("<s@a>", "14:05", &in_file).unwrap();
        assert_eq!(
            rendered,
            RenderedMessage::new("<s@a>", "14:05", &memory(content.as_bytes())).unwrap()
        );
        let Content::File(mut file, _) = in_file else { panic!() };
        let mut left = String::new();
        file.read_to_string(&mut left).unwrap();
        assert_eq!(left, content);
    }
}
