//! The message on standard input: read to its end, with a completed header, and its recipients.
//!
//! ```text
//! From root Mon ...            (removed: the separator line of a mailbox)
//! To: root                     To: root@host.example
//! Bcc: boss@example.org        (removed)
//!                              Date, From and Message-ID, if they are missing
//! ```
//! The header is held in memory and has at most [`HEADER_MAX`] bytes. A large body is held in a
//! temporary file. Lines may end with LF or with CR LF. A line that is not a field ends the header
//! and is part of the body.
//!
//! If there is a field with a name that begins with `Resent-`, the Resent- fields are completed and
//! hold the recipients (RFC 5322 3.6.6). Postfix does the same.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;

use jiff::Zoned;
use tempfile::{SpooledData, SpooledTempFile};

use super::addresses;
use crate::message::{MEMORY_MAX, field_name};
use crate::message::{encoded_word, trace};
use crate::smtp::{Domain, Mailbox};

/// Options for reading and completing a message.
#[derive(Debug)]
pub struct ComposeOptions<'a> {
    /// True if a line of one dot does not end the message.
    pub dot_is_text: bool,
    /// True if the header holds recipients.
    pub recipients_in_header: bool,
    /// The domain for bare names.
    pub domain: &'a Domain,
    /// The address in a missing From field.
    pub author: &'a Mailbox,
    /// The name in a missing From field. May be empty.
    pub full_name: &'a str,
    /// The time in a missing Date field.
    pub now: &'a Zoned,
    /// The id in a missing Message-ID field: `id@host`.
    pub id: &'a str,
}

/// A message ready to be sent.
#[derive(Debug)]
pub struct ComposedMessage {
    /// The header and the empty line after it.
    header: Vec<u8>,
    body: ComposedBody,
    /// The recipients in the header, if the options ask for them.
    pub recipients: Vec<Mailbox>,
    /// The invalid elements of the fields that hold the recipients, each as a clause with the field
    /// and the error.
    pub invalid_recipients: Vec<String>,
    /// Size in octets on the wire, where a line end is two.
    pub wire_size: u64,
    /// True if a byte is not ASCII.
    pub eight_bit: bool,
}

#[derive(Debug)]
enum ComposedBody {
    Memory(Vec<u8>),
    File(File),
}

/// A reason why a message cannot be composed.
#[derive(Debug)]
pub enum ComposeError {
    /// The header has more than [`HEADER_MAX`] bytes.
    HeaderTooLarge,
    /// Standard input or the temporary file failed.
    Io(io::Error),
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ComposeError::HeaderTooLarge => {
                write!(f, "the header is larger than {HEADER_MAX} bytes")
            }
            ComposeError::Io(e) => write!(f, "the message cannot be read: {e}"),
        }
    }
}

impl From<io::Error> for ComposeError {
    fn from(e: io::Error) -> ComposeError {
        ComposeError::Io(e)
    }
}

/// Reads `input` to its end, or to a line of one dot, and completes the header.
///
/// # Errors
/// The header is too large, or an input or output error.
pub fn read(
    input: &mut dyn BufRead,
    options: &ComposeOptions<'_>,
) -> Result<ComposedMessage, ComposeError> {
    let ends_at_dot = !options.dot_is_text;
    let mut lines = LineReader { input, ends_at_dot, at_line_start: true, ended: false };
    let (mut fields, first_body_line) = read_header(&mut lines)?;
    let is_resent = fields.iter().any(|field| has_prefix(field, "Resent-"));
    let prefix = if is_resent { "Resent-" } else { "" };
    let (recipients, invalid_recipients) = match options.recipients_in_header {
        true => header_recipients(&fields, prefix, options.domain),
        false => Default::default(),
    };
    fields.retain(|field| !is_named(field, "", &["Bcc", "Resent-Bcc"]));
    fields.iter_mut().for_each(|field| complete_addresses(field, options.domain));
    let mut header = fields.concat();
    header.extend_from_slice(missing_fields(&fields, prefix, options).as_bytes());
    header.push(b'\n');

    let mut statistics = ContentStatistics { wire_size: 0, eight_bit: false };
    statistics.count(&header);
    let mut body = SpooledTempFile::new(MEMORY_MAX);
    let mut line = first_body_line;
    loop {
        statistics.count(&line);
        body.write_all(&line)?;
        line.clear();
        if !lines.next(&mut line)? {
            break;
        }
    }
    let body = match body.into_inner() {
        SpooledData::InMemory(bytes) => ComposedBody::Memory(bytes.into_inner()),
        SpooledData::OnDisk(file) => ComposedBody::File(file),
    };
    let ContentStatistics { wire_size, eight_bit } = statistics;
    Ok(ComposedMessage { header, body, recipients, invalid_recipients, wire_size, eight_bit })
}

impl ComposedMessage {
    /// Returns a reader of the whole message. Each reader begins at the start.
    pub fn reader(&self) -> Box<dyn Read + '_> {
        let header = self.header.as_slice();
        match &self.body {
            ComposedBody::Memory(bytes) => Box::new(header.chain(bytes.as_slice())),
            ComposedBody::File(file) => Box::new(header.chain(PositionedReader { file, at: 0 })),
        }
    }
}

/// A reader of a file with its own position.
struct PositionedReader<'a> {
    file: &'a File,
    at: u64,
}

impl Read for PositionedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A reader of lines. A long line is returned in parts.
struct LineReader<'a> {
    input: &'a mut dyn BufRead,
    ends_at_dot: bool,
    at_line_start: bool,
    ended: bool,
}

impl LineReader<'_> {
    /// Appends the next line with its LF, or at most [`PART_MAX`] bytes of it, to `out`. Returns
    /// false at the end.
    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let from = out.len();
        self.input.take(PART_MAX).read_until(b'\n', out)?;
        let line = out.get(from..).unwrap_or_default();
        let is_dot = self.at_line_start && matches!(line, b".\n" | b".\r\n" | b".");
        if is_dot && self.ends_at_dot || line.is_empty() {
            out.truncate(from);
            self.ended = true;
            return Ok(false);
        }
        self.at_line_start = line.ends_with(b"\n");
        Ok(true)
    }
}

/// Reads the fields, each with its continuation lines and with LF as line end. Returns them, and
/// the line that ended the header if it was not empty.
fn read_header(lines: &mut LineReader<'_>) -> Result<(Vec<Vec<u8>>, Vec<u8>), ComposeError> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut size = 0;
    let mut is_first = true;
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") && lines.next(&mut line)? {
            if size + line.len() > HEADER_MAX {
                return Err(ComposeError::HeaderTooLarge);
            }
        }
        size += line.len();
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let separator = is_first && (text.starts_with(b"From ") || text.starts_with(b">From "));
        is_first = false;
        match fields.last_mut() {
            _ if line.is_empty() || text.is_empty() => return Ok((fields, Vec::new())),
            _ if separator => {}
            Some(field) if matches!(text, [b' ' | b'\t', ..]) => {
                field.extend_from_slice(text);
                field.push(b'\n');
            }
            _ if field_name(text).is_some() => fields.push([text, b"\n"].concat()),
            _ => return Ok((fields, line)),
        }
    }
}

/// Returns the recipients in To, Cc and Bcc, or in their Resent- fields, each once, and the
/// elements that are invalid.
fn header_recipients(
    fields: &[Vec<u8>],
    prefix: &str,
    domain: &Domain,
) -> (Vec<Mailbox>, Vec<String>) {
    let (mut found, mut invalid): (Vec<Mailbox>, _) = (Vec::new(), Vec::new());
    for field in fields.iter().filter(|field| is_named(field, prefix, &["To", "Cc", "Bcc"])) {
        let (name, value) = split_field(field);
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        let list = addresses::parse_each(&value, domain);
        for address in list.addresses {
            if !found.contains(&address.mailbox) {
                found.push(address.mailbox);
            }
        }
        let clause = |(element, error)| format!("{name}: {element:?} is not an address: {error}");
        invalid.extend(list.invalid.into_iter().map(clause));
    }
    (found, invalid)
}

/// Appends `domain` to the bare names of an address field. A field that is not a valid list stays
/// as it is, and so does the author's field with several elements, because in `Smith, John <j@x>`
/// the quotes are missing, and `Smith` is no address.
fn complete_addresses(field: &mut Vec<u8>, domain: &Domain) {
    if !["", "Resent-"].iter().any(|prefix| is_named(field, prefix, &ADDRESS_FIELDS)) {
        return;
    }
    let start = field.len() - split_field(field).1.len();
    let Ok(value) = std::str::from_utf8(field.get(start..).unwrap_or_default()) else { return };
    let Ok(list) = addresses::parse(value, domain) else { return };
    if list.len() > 1 && ["", "Resent-"].iter().any(|p| is_named(field, p, &AUTHOR_FIELDS)) {
        return;
    }
    let suffix = format!("@{domain}");
    // From the last to the first, so that an insertion does not move the positions still to come.
    for at in list.iter().rev().filter_map(|address| address.domain_missing_at) {
        let at = start + at;
        field.splice(at..at, suffix.bytes());
    }
}

/// Returns the fields that every message must have (RFC 5322 3.6) and this one has not.
fn missing_fields(fields: &[Vec<u8>], prefix: &str, options: &ComposeOptions<'_>) -> String {
    let lacks = |name: &str| !fields.iter().any(|field| is_named(field, prefix, &[name]));
    let mut text = String::new();
    if lacks("Date") {
        text += &format!("{prefix}Date: {}\n", trace::format_date(options.now));
    }
    if lacks("From") {
        let author = options.author;
        let from = match display_name(options.full_name) {
            name if name.is_empty() => author.to_string(),
            name => format!("{name} <{author}>"),
        };
        text += &format!("{prefix}From: {from}\n");
    }
    if lacks("Message-ID") {
        text += &format!("{prefix}Message-ID: <{}>\n", options.id);
    }
    text
}

/// Returns a full name in the form of a display name: plain, quoted, or as encoded words (RFC 2047
/// 5).
fn display_name(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
    let name = name.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " !#$%&'*+-/=?^_`{|}~".contains(c);
    if name.chars().all(is_plain) && !name.contains("=?") {
        return name.to_owned();
    }
    if name.is_ascii() {
        return format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    }
    encoded_word::encode(name).join("\n ")
}

/// True if the field's name is `prefix` followed by one of `names`.
fn is_named(field: &[u8], prefix: &str, names: &[&str]) -> bool {
    let (name, _) = split_field(field);
    let Some((start, rest)) = name.split_at_checked(prefix.len()) else { return false };
    start.eq_ignore_ascii_case(prefix.as_bytes())
        && names.iter().any(|n| rest.eq_ignore_ascii_case(n.as_bytes()))
}

fn has_prefix(field: &[u8], prefix: &str) -> bool {
    let start = field.get(..prefix.len()).unwrap_or_default();
    start.eq_ignore_ascii_case(prefix.as_bytes())
}

/// Returns the name of a field, and the value after its colon.
fn split_field(field: &[u8]) -> (&[u8], &[u8]) {
    let name = field_name(field).unwrap_or_default();
    let colon = memchr::memchr(b':', field).map_or(field.len(), |at| at + 1);
    (name, field.get(colon..).unwrap_or_default())
}

/// Statistics of the content for the envelope.
struct ContentStatistics {
    wire_size: u64,
    eight_bit: bool,
}

impl ContentStatistics {
    fn count(&mut self, bytes: &[u8]) {
        self.wire_size += (bytes.len() + memchr::memchr_iter(b'\n', bytes).count()) as u64;
        self.eight_bit |= !bytes.is_ascii();
    }
}

/// Maximum size of a header in bytes.
pub const HEADER_MAX: usize = 1024 * 1024;
/// Maximum number of bytes of a line that are read at once.
const PART_MAX: u64 = 64 * 1024;
/// Maximum number of characters of a full name.
const NAME_MAX: usize = 200;
/// Fields that hold an address of the author.
const AUTHOR_FIELDS: [&str; 3] = ["From", "Sender", "Reply-To"];
/// Fields that hold addresses.
const ADDRESS_FIELDS: [&str; 6] = ["From", "Sender", "Reply-To", "To", "Cc", "Bcc"];

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(input: &[u8], dot_is_text: bool) -> Result<(String, Vec<String>), String> {
        let domain = Domain::parse("here.example").unwrap();
        let author = Mailbox::parse("me@here.example").unwrap();
        let now = "2026-11-22T10:00:00+01:00[+01:00]".parse().unwrap();
        let options = ComposeOptions {
            dot_is_text,
            recipients_in_header: true,
            domain: &domain,
            author: &author,
            full_name: "Me",
            now: &now,
            id: "id@here.example",
        };
        let message = read(&mut &input[..], &options).map_err(|error| error.to_string())?;
        let mut text = Vec::new();
        for _ in 0..2 {
            text.clear();
            message.reader().read_to_end(&mut text).unwrap();
        }
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(message.wire_size, (text.len() + lines) as u64);
        assert_eq!(message.eight_bit, !text.is_ascii());
        let recipients = message.recipients.iter().map(Mailbox::to_string).collect();
        Ok((String::from_utf8(text).unwrap(), recipients))
    }

    const DATE: &str = "Date: Sun, 22 Nov 2026 10:00:00 +0100\n";
    const FROM: &str = "From: Me <me@here.example>\n";
    const ID: &str = "Message-ID: <id@here.example>\n";

    #[test]
    fn headers_are_completed() {
        let all = format!("{DATE}{FROM}{ID}");
        for (input, expected) in [
            ("", format!("{all}\n")),
            ("\n", format!("{all}\n")),
            ("x\n", format!("{all}\nx\n")),
            ("Subject: x\n\nx", format!("Subject: x\n{all}\nx")),
            ("Subject: x\r\n\r\nx\r\n", format!("Subject: x\n{all}\nx\r\n")),
            ("Subject: x\nno field\n\ny\n", format!("Subject: x\n{all}\nno field\n\ny\n")),
            (" folded\n\ny\n", format!("{all}\n folded\n\ny\n")),
            ("From root Mon\nSubject: x\n\n", format!("Subject: x\n{all}\n")),
            (">From root Mon\nSubject: x\n\n", format!("Subject: x\n{all}\n")),
            ("Subject: x\nFrom me Mon\n\n", format!("Subject: x\n{all}\nFrom me Mon\n\n")),
            ("date: x\n\n", format!("date: x\n{FROM}{ID}\n")),
            ("From: a@b\nmessage-id : <x>\n\n", format!("From: a@b\nmessage-id : <x>\n{DATE}\n")),
            // Bare names
            ("To: root\n\n", format!("To: root@here.example\n{all}\n")),
            (
                "From: root (Cron)\nTo: a,\n\tb@c\n\n",
                format!("From: root@here.example (Cron)\nTo: a@here.example,\n\tb@c\n{DATE}{ID}\n"),
            ),
            // A name without quotes is no address
            (
                "From: Smith, John <b@x>\nTo: a, B <b@x>\n\n",
                format!("From: Smith, John <b@x>\nTo: a@here.example, B <b@x>\n{DATE}{ID}\n"),
            ),
            // Bcc
            ("Bcc: a@b,\n c@d\nSubject: x\n\n", format!("Subject: x\n{all}\n")),
            ("BCC : a@b\n\n", format!("{all}\n")),
            // Resent
            (
                "Resent-To: a@b\nResent-Bcc: b@c\nFrom: x\n\n",
                format!(
                    "Resent-To: a@b\nFrom: x@here.example\nResent-{DATE}Resent-{FROM}Resent-{ID}\n"
                ),
            ),
        ] {
            assert_eq!(composed(input.as_bytes(), false).unwrap().0, expected, "{input:?}");
        }
    }

    #[test]
    fn recipients_are_in_the_header() {
        for (input, expected) in [
            ("To: a@b, c\nCc: d@e\nBcc: f@g\n\n", &["a@b", "c@here.example", "d@e", "f@g"][..]),
            ("To: a@b\nTo: c@d\nCc: a@b\n\n", &["a@b", "c@d"]),
            ("to : undisclosed-recipients:;\n\n", &[]),
            ("To: =?utf-8?q?x=2C?=\n\t<a@b>\n\nTo: c@d\n", &["a@b"]),
            ("Resent-Cc: a@b\nTo: c@d\n\n", &["a@b"]),
            ("Apparently-To: a@b\nSubject: To: c@d\n\n", &[]),
            ("To: \r\n a@b\r\n\r\n", &["a@b"]),
            ("To: a@b", &["a@b"]),
        ] {
            assert_eq!(composed(input.as_bytes(), false).unwrap().1, expected, "{input:?}");
        }
    }

    #[test]
    fn a_dot_ends_the_message_unless_it_is_text() {
        for (input, body) in [
            ("\na\n.\nb\n", "a\n"),
            ("\na\r\n.\r\nb\n", "a\r\n"),
            ("\na\n.", "a\n"),
            ("\na\n..\n.b\n. \n", "a\n..\n.b\n. \n"),
            ("Subject: x\n.\nb\n", ""),
        ] {
            let found = composed(input.as_bytes(), false).unwrap().0;
            assert_eq!(found.split_once("\n\n").unwrap().1, body, "{input:?}");
        }
        let found = composed(b"\na\n.\nb\n", true).unwrap().0;
        assert!(found.ends_with("\n\na\n.\nb\n"), "{found}");
        // A part of a long line is not a line.
        let long = format!("\n{}.\nb\n", "x".repeat(64 * 1024));
        assert!(composed(long.as_bytes(), false).unwrap().0.ends_with("x.\nb\n"));
    }

    #[test]
    fn large_messages_and_large_headers() {
        let large = format!("Subject: x\n\n{}", "0123456\n".repeat(1 << 17));
        let text = composed(large.as_bytes(), false).unwrap().0;
        assert!(text.ends_with("0123456\n") && text.len() > 1 << 20);
        let line = format!("X: {}\n", "y".repeat(1000));
        assert!(composed(line.repeat(1000).as_bytes(), false).is_ok());
        let wrong = composed(line.repeat(1100).as_bytes(), false).unwrap_err();
        assert!(wrong.starts_with("the header is larger"), "{wrong}");
        assert!(composed(&vec![b'x'; 2 << 20], false).is_err());
    }

    #[test]
    fn full_names() {
        for (name, expected) in [
            ("", ""),
            ("Me", "Me"),
            ("J. Smith", "\"J. Smith\""),
            (" a\"b\\c\n ", "\"a\\\"b\\\\c\""),
            ("=?x?=", "\"=?x?=\""),
            ("J\u{fc}rgen X.", "=?utf-8?q?J=C3=BCrgen_X=2E?="),
        ] {
            assert_eq!(display_name(name), expected, "{name}");
        }
        let long = display_name(&"\u{4e00}".repeat(30));
        assert!(long.lines().all(|line| line.trim().len() <= 75), "{long}");
        assert_eq!(long.matches("=E4=B8=80").count(), 30);
    }
}
