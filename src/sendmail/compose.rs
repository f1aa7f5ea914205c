//! The message on standard input: read to its end, its header completed, its recipients found.
//!
//! ```text
//! From root Mon ...            (a mailbox's separator on top: left out)
//! To: root                     To: root@host.example
//! Bcc: boss@example.org        (left out, always)
//!                              Date, From and Message-ID, where they are missing
//! ```
//! The header is held in memory, at most [`HEADER_MAX`] octets; the body is not, where it is large.
//! Lines may end with LF or with CR LF. A line that is no field ends the header, and is text.
//!
//! Where a field begins with `Resent-`, the fields that are completed, and looked into for
//! recipients, are the Resent- ones (RFC 5322 3.6.6), as Postfix does.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::FileExt;

use jiff::Zoned;
use tempfile::{SpooledData, SpooledTempFile};

use super::addresses;
use crate::message::trace;
use crate::message::{MEMORY_MAX, field_name};
use crate::smtp::{Domain, Mailbox};

/// How a message is to be read.
#[derive(Debug)]
pub struct ComposeOptions<'a> {
    /// Whether a line of one dot is text.
    pub dot_is_text: bool,
    /// Whether the header names recipients.
    pub recipients_in_header: bool,
    /// The domain of bare names.
    pub domain: &'a Domain,
    /// Who From names if nobody does.
    pub author: &'a Mailbox,
    /// The author's full name, or nothing.
    pub full_name: &'a str,
    /// The date, if it has none.
    pub now: &'a Zoned,
    /// The Message-ID, if it has none: `id@host`.
    pub id: &'a str,
}

/// A message that was read.
#[derive(Debug)]
pub struct ComposedMessage {
    /// The header with the empty line behind it.
    header: Vec<u8>,
    body: ComposedBody,
    /// The recipients that the header names, if it was asked.
    pub recipients: Vec<Mailbox>,
    /// How long it is, each line end counted as two octets.
    pub octets: u64,
    /// Whether an octet is not ASCII.
    pub eight_bit: bool,
}

#[derive(Debug)]
enum ComposedBody {
    Memory(Vec<u8>),
    File(File),
}

/// Why there is no message.
#[derive(Debug)]
pub enum ComposeError {
    /// The header is larger than [`HEADER_MAX`].
    Header,
    /// The field is no address list, and why.
    Field(String, String),
    /// Standard input, or the temporary file.
    Io(io::Error),
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ComposeError::Header => write!(f, "the header is larger than {HEADER_MAX} octets"),
            ComposeError::Field(name, why) => {
                write!(f, "the field {name} is no address list: {why}")
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

/// Reads all of `input`, or to the line of one dot.
///
/// # Errors
/// It is no message that can be sent.
pub fn read(
    input: &mut dyn BufRead,
    how: &ComposeOptions<'_>,
) -> Result<ComposedMessage, ComposeError> {
    let mut lines = Lines { input, ends_at_dot: !how.dot_is_text, at_start: true, ended: false };
    let (mut fields, first) = read_header(&mut lines)?;
    let prefix = match fields.iter().any(|field| is_prefix(field, "Resent-")) {
        true => "Resent-",
        false => "",
    };
    let recipients = match how.recipients_in_header {
        true => recipients(&fields, prefix, how.domain)?,
        false => Vec::new(),
    };
    fields.retain(|field| !is_named(field, "", &["Bcc", "Resent-Bcc"]));
    fields.iter_mut().for_each(|field| complete(field, how.domain));
    let mut header = fields.concat();
    header.extend_from_slice(missing(&fields, prefix, how).as_bytes());
    header.push(b'\n');

    let mut counted = ContentStatistics { octets: 0, eight_bit: false };
    counted.count(&header);
    let mut body = SpooledTempFile::new(MEMORY_MAX);
    let mut piece = first;
    loop {
        counted.count(&piece);
        body.write_all(&piece)?;
        piece.clear();
        if !lines.next(&mut piece)? {
            break;
        }
    }
    let body = match body.into_inner() {
        SpooledData::InMemory(octets) => ComposedBody::Memory(octets.into_inner()),
        SpooledData::OnDisk(file) => ComposedBody::File(file),
    };
    let ContentStatistics { octets, eight_bit } = counted;
    Ok(ComposedMessage { header, body, recipients, octets, eight_bit })
}

impl ComposedMessage {
    /// All of it, from the beginning.
    pub fn reader(&self) -> Box<dyn Read + '_> {
        let header = self.header.as_slice();
        match &self.body {
            ComposedBody::Memory(octets) => Box::new(header.chain(octets.as_slice())),
            ComposedBody::File(file) => Box::new(header.chain(PositionedReader { file, at: 0 })),
        }
    }
}

/// A file, read by position.
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

/// Input in lines, or pieces of long ones.
struct Lines<'a> {
    input: &'a mut dyn BufRead,
    ends_at_dot: bool,
    at_start: bool,
    ended: bool,
}

impl Lines<'_> {
    /// Puts the next line, with its LF, or [`PIECE`] octets of it, behind what is in `out`; false
    /// at the end.
    fn next(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        let from = out.len();
        self.input.take(PIECE).read_until(b'\n', out)?;
        let line = out.get(from..).unwrap_or_default();
        let dot = self.at_start && matches!(line, b".\n" | b".\r\n" | b".");
        if dot && self.ends_at_dot || line.is_empty() {
            out.truncate(from);
            self.ended = true;
            return Ok(false);
        }
        self.at_start = line.ends_with(b"\n");
        Ok(true)
    }
}

/// The fields, each with its continuation lines and all LF; and the line that ended them, unless it
/// was empty.
fn read_header(lines: &mut Lines<'_>) -> Result<(Vec<Vec<u8>>, Vec<u8>), ComposeError> {
    let mut fields: Vec<Vec<u8>> = Vec::new();
    let mut octets = 0;
    let mut is_first = true;
    loop {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") && lines.next(&mut line)? {
            if octets + line.len() > HEADER_MAX {
                return Err(ComposeError::Header);
            }
        }
        octets += line.len();
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

/// The recipients in To, Cc and Bcc, or their Resent- fields; none twice.
fn recipients(
    fields: &[Vec<u8>],
    prefix: &str,
    own: &Domain,
) -> Result<Vec<Mailbox>, ComposeError> {
    let mut found: Vec<Mailbox> = Vec::new();
    for field in fields.iter().filter(|field| is_named(field, prefix, &["To", "Cc", "Bcc"])) {
        let (name, value) = split(field);
        let value = String::from_utf8_lossy(value);
        let list = addresses::parse(&value, own)
            .map_err(|why| ComposeError::Field(String::from_utf8_lossy(name).into_owned(), why))?;
        for address in list {
            if !found.contains(&address.mailbox) {
                found.push(address.mailbox);
            }
        }
    }
    Ok(found)
}

/// Puts the host's domain behind bare names, where the field is a good list of addresses.
fn complete(field: &mut Vec<u8>, own: &Domain) {
    if !ADDRESS_FIELDS.iter().any(|prefix| is_named(field, prefix, &ADDRESSES)) {
        return;
    }
    let begin = field.len() - split(field).1.len();
    let Ok(value) = std::str::from_utf8(field.get(begin..).unwrap_or_default()) else { return };
    let Ok(list) = addresses::parse(value, own) else { return };
    let domain = format!("@{own}");
    // From the last to the first, so that places stay right.
    for at in list.iter().rev().filter_map(|address| address.bare_at) {
        let at = begin + at;
        field.splice(at..at, domain.bytes());
    }
}

/// The fields that every message has (RFC 5322 3.6), as far as this one has not.
fn missing(fields: &[Vec<u8>], prefix: &str, how: &ComposeOptions<'_>) -> String {
    let lacks = |name: &str| !fields.iter().any(|field| is_named(field, prefix, &[name]));
    let mut text = String::new();
    if lacks("Date") {
        text += &format!("{prefix}Date: {}\n", trace::format_date(how.now));
    }
    if lacks("From") {
        let name = phrase(how.full_name);
        let from = if name.is_empty() {
            how.author.to_string()
        } else {
            format!("{name} <{}>", how.author)
        };
        text += &format!("{prefix}From: {from}\n");
    }
    if lacks("Message-ID") {
        text += &format!("{prefix}Message-ID: <{}>\n", how.id);
    }
    text
}

/// A full name as a display name: as it is, in quotes, or in encoded words (RFC 2047 5).
fn phrase(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
    let name = name.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || " !#$%&'*+-/=?^_`{|}~".contains(c);
    if name.chars().all(is_plain) && !name.contains("=?") {
        return name.to_owned();
    }
    if name.is_ascii() {
        return format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""));
    }
    let mut words = vec![String::new()];
    for c in name.chars() {
        let mut octets = [0; 4];
        let encoded: String = match c {
            ' ' => "_".to_owned(),
            c if c.is_ascii_alphanumeric() => c.to_string(),
            c => c.encode_utf8(&mut octets).bytes().map(|octet| format!("={octet:02X}")).collect(),
        };
        match words.last_mut() {
            Some(word) if word.len() + encoded.len() <= WORD_MAX => word.push_str(&encoded),
            _ => words.push(encoded),
        }
    }
    let words: Vec<String> = words.iter().map(|word| format!("=?utf-8?Q?{word}?=")).collect();
    words.join("\n ")
}

/// Whether the field's name is `prefix` and one of `names`.
fn is_named(field: &[u8], prefix: &str, names: &[&str]) -> bool {
    let (name, _) = split(field);
    let Some((begin, rest)) = name.split_at_checked(prefix.len()) else { return false };
    begin.eq_ignore_ascii_case(prefix.as_bytes())
        && names.iter().any(|n| rest.eq_ignore_ascii_case(n.as_bytes()))
}

fn is_prefix(field: &[u8], prefix: &str) -> bool {
    let begin = field.get(..prefix.len()).unwrap_or_default();
    begin.eq_ignore_ascii_case(prefix.as_bytes())
}

/// The name of a field, and what is behind its colon.
fn split(field: &[u8]) -> (&[u8], &[u8]) {
    let name = field_name(field).unwrap_or_default();
    let colon = memchr::memchr(b':', field).map_or(field.len(), |at| at + 1);
    (name, field.get(colon..).unwrap_or_default())
}

/// What is known of octets that went by.
struct ContentStatistics {
    octets: u64,
    eight_bit: bool,
}

impl ContentStatistics {
    fn count(&mut self, octets: &[u8]) {
        self.octets += (octets.len() + memchr::memchr_iter(b'\n', octets).count()) as u64;
        self.eight_bit |= !octets.is_ascii();
    }
}

/// The largest header, in octets.
pub const HEADER_MAX: usize = 1024 * 1024;
/// What is read at once, in octets.
const PIECE: u64 = 64 * 1024;
/// Characters of a full name.
const NAME_MAX: usize = 200;
/// What fits into the 75 characters of an encoded word (RFC 2047 2).
const WORD_MAX: usize = 75 - "=?utf-8?Q??=".len();
const ADDRESS_FIELDS: [&str; 2] = ["", "Resent-"];
const ADDRESSES: [&str; 6] = ["From", "Sender", "Reply-To", "To", "Cc", "Bcc"];

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(input: &[u8], dot_is_text: bool) -> Result<(String, Vec<String>), String> {
        let domain = Domain::parse("here.example").unwrap();
        let author = Mailbox::parse("me@here.example").unwrap();
        let now = "2026-11-22T10:00:00+01:00[+01:00]".parse().unwrap();
        let how = ComposeOptions {
            dot_is_text,
            recipients_in_header: true,
            domain: &domain,
            author: &author,
            full_name: "Me",
            now: &now,
            id: "id@here.example",
        };
        let letter = read(&mut &input[..], &how).map_err(|fault| fault.to_string())?;
        let mut text = Vec::new();
        for _ in 0..2 {
            text.clear();
            letter.reader().read_to_end(&mut text).unwrap();
        }
        let lines = text.iter().filter(|octet| **octet == b'\n').count();
        assert_eq!(letter.octets, (text.len() + lines) as u64);
        assert_eq!(letter.eight_bit, !text.is_ascii());
        let recipients = letter.recipients.iter().map(Mailbox::to_string).collect();
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
        let wrong = composed(b"To: a b c\n\n", false).unwrap_err();
        assert!(wrong.starts_with("the field To is no address list: "), "{wrong}");
    }

    #[test]
    fn a_dot_ends_it_unless_it_is_text() {
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
        // A piece of a long line is no line.
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
            ("J\u{fc}rgen X.", "=?utf-8?Q?J=C3=BCrgen_X=2E?="),
        ] {
            assert_eq!(phrase(name), expected, "{name}");
        }
        let long = phrase(&"\u{4e00}".repeat(30));
        assert!(long.lines().all(|line| line.trim().len() <= 75), "{long}");
        assert_eq!(long.matches("=E4=B8=80").count(), 30);
    }
}
