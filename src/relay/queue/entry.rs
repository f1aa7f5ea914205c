//! An entry of the queue: a message in a file `queue/ID` in the spool. It is for recipients on
//! other hosts, or for recipients of this host that cannot get it now (`held.rs`).
//!
//! ```text
//! From smith@example.org Tue Jul  1 08:52:37 2025
//! Return-Path: <smith@example.org>
//! Mailslot-Queue: c10:1751359957,z311:f17:smith@example.org,t17:jones@example.net,n1:F,
//! Received: ...                  the content, in the form of a mailbox
//!                                an empty line
//! ```
//! The writer appends an entry as it appends to a mailbox, by way of the journal. So the entry is
//! complete before the `250`, and a message is in all of its destinations or in none. The file
//! never changes afterwards. Its progress is kept in `queue/ID.state`. The entry is removed once
//! all recipients are finished.
//!
//! The envelope is in the third line alone. It is a sequence of netstrings, each after a letter:
//! `LETTER LENGTH ":" BYTES ","`. No byte of an address can therefore end a field or begin another.
//!
//! | letter | field of the message | letter | field of a recipient |
//! | --- | --- | --- | --- |
//! | `c` | time of arrival, in seconds since 1970 | `t` | the address, which begins a recipient |
//! | `z` | number of bytes of content | `n` | NOTIFY: `S`, `F` and `D`, empty for NEVER |
//! | `f` | reverse-path, empty for the null one | `o` | ORCPT: type, semicolon, address |
//! | `b` | `8` for BODY=8BITMIME | | |
//! | `u` | `1` for SMTPUTF8 | | |
//! | `r` | RET: `F` or `H` | | |
//! | `e` | ENVID | | |
//! | `d` | the local address that led to the recipients | | |
//! | `s` | the id of the user that submitted the message here, if it is known | | |
//! | `w` | reason why mail for this host is held | | |
//! | `h` | mailbox or address that has its copy already, repeated | | |
//! | `g` | in a receipt: index of a recipient that has the message, repeated | | |
//!
//! Mail that an alias or a forward file relays leaves with that local address in a Delivered-To
//! field, so that a mail loop can be detected when the message returns.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::message::{Content, ContentDirectory, QUEUE_FIELD};
use crate::smtp::dsn::{DsnNotify, DsnReturn, OriginalRecipient};
use crate::smtp::envelope::BodyType;
use crate::smtp::sender::ContentSurvey;
use crate::smtp::{Envelope, ForwardPath, Mailbox, Recipient, ReversePath};

/// The fields of an entry, without its content.
#[derive(Debug)]
pub struct QueueEntry {
    /// Time of arrival, in seconds since 1970.
    pub arrived_at: i64,
    /// Size of the content in bytes.
    pub size: u64,
    /// The envelope. Its recipients are all on other hosts, or all on this host.
    pub envelope: Envelope<()>,
    /// The local address with the alias or forward file that led to the recipients. None if the
    /// client named them.
    pub via: Option<String>,
    /// Fields of held mail. Empty for recipients on other hosts.
    pub held: HeldFields,
    /// Position of the content in the file.
    content_at: u64,
}

/// Fields that only an entry for recipients of this host has, or its receipt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldFields {
    /// Reply that the client would have got, in one line. None in a receipt.
    pub reason: Option<String>,
    /// Names of mailboxes, and addresses on other hosts, that have their copy already.
    pub has: Vec<String>,
    /// Indexes of the recipients that a receipt is about.
    pub done: Vec<usize>,
}

/// Returns the value of the Mailslot-Queue field, or None if it would hold a control character,
/// which no parsed address does.
pub fn encode<D>(
    envelope: &Envelope<D>,
    to: &[Recipient<Mailbox>],
    via: Option<&str>,
    arrived_at: i64,
    size: u64,
) -> Option<String> {
    let held = HeldFields::default();
    let to: Vec<_> = to.iter().map(|to| (to.destination.to_string(), to)).collect();
    encode_fields(envelope, &to, via, &held, arrived_at, size)
}

/// Returns the value of the field for recipients of this host, who are written as the client named
/// them. None as for [`encode`].
pub fn encode_held<D, E>(
    envelope: &Envelope<D>,
    to: &[&Recipient<E>],
    held: &HeldFields,
    arrived_at: i64,
    size: u64,
) -> Option<String> {
    let address = |path: &ForwardPath| match path {
        ForwardPath::Postmaster => POSTMASTER.to_owned(),
        ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
    };
    let to: Vec<_> = to.iter().map(|to| (address(&to.path), *to)).collect();
    encode_fields(envelope, &to, None, held, arrived_at, size)
}

fn encode_fields<D, E>(
    envelope: &Envelope<D>,
    to: &[(String, &Recipient<E>)],
    via: Option<&str>,
    held: &HeldFields,
    arrived_at: i64,
    size: u64,
) -> Option<String> {
    let mut line = String::new();
    let mut put = |letter: char, value: &str| {
        line.push(letter);
        line.push_str(&format!("{}:{value},", value.len()));
    };
    put('c', &arrived_at.to_string());
    put('z', &size.to_string());
    match &envelope.from {
        ReversePath::Null => put('f', ""),
        ReversePath::Mailbox(mailbox) => put('f', &mailbox.to_string()),
    }
    if envelope.body == BodyType::EightBitMime {
        put('b', "8");
    }
    if envelope.utf8 {
        put('u', "1");
    }
    match envelope.ret {
        Some(DsnReturn::Full) => put('r', "F"),
        Some(DsnReturn::Headers) => put('r', "H"),
        None => {}
    }
    if let Some(envid) = &envelope.envid {
        put('e', envid);
    }
    if let Some(via) = via {
        put('d', via);
    }
    if let Some(uid) = envelope.submitter {
        put('s', &uid.to_string());
    }
    if let Some(reason) = &held.reason {
        put('w', reason);
    }
    held.has.iter().for_each(|name| put('h', name));
    held.done.iter().for_each(|n| put('g', &n.to_string()));
    for (address, recipient) in to {
        put('t', address);
        if let Some(DsnNotify { success, failure, delay }) = recipient.notify {
            let letters = [(success, 'S'), (failure, 'F'), (delay, 'D')];
            let letters = letters.iter().filter(|(on, _)| *on).map(|(_, letter)| *letter);
            put('n', &letters.collect::<String>());
        }
        if let Some(OriginalRecipient { addr_type: kind, address }) = &recipient.original {
            put('o', &format!("{kind};{address}"));
        }
    }
    if line.chars().any(char::is_control) { None } else { Some(line) }
}

/// Decodes a line of [`encode`], for an entry with its content at `content_at`. Returns None
/// for any other line.
pub fn decode(mut line: &str, content_at: u64) -> Option<QueueEntry> {
    let (mut arrived_at, mut size, mut from, mut via) = (None, None, None, None);
    let mut held = HeldFields::default();
    let mut envelope = Envelope::blank();
    while !line.is_empty() {
        let (letter, value, rest) = split_field(line)?;
        line = rest;
        let last = envelope.to.last_mut();
        match (letter, last) {
            ('c', None) => arrived_at = Some(value.parse().ok()?),
            ('z', None) => size = Some(value.parse().ok()?),
            ('f', None) if value.is_empty() => from = Some(ReversePath::Null),
            ('f', None) => from = Some(ReversePath::Mailbox(Mailbox::parse(value).ok()?)),
            ('b', None) if value == "8" => envelope.body = BodyType::EightBitMime,
            ('u', None) if value == "1" => envelope.utf8 = true,
            ('r', None) if value == "F" => envelope.ret = Some(DsnReturn::Full),
            ('r', None) if value == "H" => envelope.ret = Some(DsnReturn::Headers),
            ('e', None) => envelope.envid = Some(value.to_owned()),
            ('d', None) => via = Some(value.to_owned()),
            ('s', None) => envelope.submitter = Some(value.parse().ok()?),
            ('w', None) => held.reason = Some(value.to_owned()),
            ('h', None) => held.has.push(value.to_owned()),
            ('g', None) => held.done.push(value.parse().ok()?),
            ('t', _) => {
                let path = match value {
                    POSTMASTER => ForwardPath::Postmaster,
                    _ => ForwardPath::Mailbox(Mailbox::parse(value).ok()?),
                };
                envelope.to.push(Recipient::new(path, ()));
            }
            ('n', Some(recipient)) => {
                let (success, failure) = (value.contains('S'), value.contains('F'));
                recipient.notify = Some(DsnNotify { success, failure, delay: value.contains('D') });
            }
            ('o', Some(recipient)) => {
                let (kind, address) = value.split_once(';')?;
                let (kind, address) = (kind.to_owned(), address.to_owned());
                recipient.original = Some(OriginalRecipient { addr_type: kind, address });
            }
            _ => return None,
        }
    }
    envelope.from = from?;
    if envelope.to.is_empty() && held.done.is_empty() {
        return None;
    }
    Some(QueueEntry { arrived_at: arrived_at?, size: size?, envelope, via, held, content_at })
}

/// Splits the first field off `line`. Returns its letter, its value, and the rest of the line.
fn split_field(line: &str) -> Option<(char, &str, &str)> {
    let letter = line.chars().next()?;
    let (length, rest) = line.get(letter.len_utf8()..)?.split_once(':')?;
    // `parse` alone would accept a sign.
    if !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: usize = length.parse().ok()?;
    let (value, rest) = (rest.get(..length)?, rest.get(length..)?);
    Some((letter, value, rest.strip_prefix(',')?))
}

impl QueueEntry {
    /// Reads the lines above the content. Returns None if the entry is not complete: it is still
    /// being written, or was cut short by a crash and is not recovered yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(file: &File) -> io::Result<Option<QueueEntry>> {
        let mut input = BufReader::new(file).take(PROLOGUE_MAX);
        input.get_mut().seek(SeekFrom::Start(0))?;
        let mut prologue = Vec::new();
        for _ in 0..3 {
            input.read_until(b'\n', &mut prologue)?;
        }
        let content_at = prologue.len() as u64;
        let decoded = std::str::from_utf8(&prologue).ok().and_then(|prologue| {
            let mut lines = prologue.split_inclusive('\n');
            lines.next()?.strip_prefix("From ")?;
            lines.next()?.strip_prefix("Return-Path: ")?;
            let line = lines.next()?.strip_prefix(QUEUE_FIELD)?.strip_prefix(": ")?;
            decode(line.strip_suffix('\n')?, content_at)
        });
        let Some(entry) = decoded else { return Ok(None) };
        // The content and the blank line after it. Saturating, because the size is only a claim of
        // the file.
        let end = content_at.saturating_add(entry.size).saturating_add(1);
        let is_complete = file.metadata()?.len() == end;
        Ok(if is_complete { Some(entry) } else { None })
    }

    /// Returns a reader of the message as it leaves, with our trace fields above it: lines with LF,
    /// the header first, without the quoting of a mailbox.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn content<'a>(&self, file: &'a File) -> io::Result<impl Read + use<'a>> {
        let input = BufReader::new(self.stored(file)?);
        let field = self.via.iter().map(|via| format!("Delivered-To: {via}\n")).collect::<String>();
        let content = UnquotingReader { input, at_line_start: true, quotes: 0, lookahead: &[] };
        Ok(io::Cursor::new(field).chain(content))
    }

    /// Returns a reader of the content as it is in the file, ready for a mailbox.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn stored<'a>(&self, mut file: &'a File) -> io::Result<io::Take<&'a File>> {
        file.seek(SeekFrom::Start(self.content_at))?;
        Ok(file.take(self.size))
    }

    /// Returns the content as it is in the file. A large one is copied to a file in `directory`.
    ///
    /// # Errors
    /// The entry cannot be read, or the copy cannot be written.
    pub fn stored_content(
        &self,
        file: &File,
        directory: Arc<dyn ContentDirectory>,
    ) -> io::Result<Content> {
        Content::read_from(self.stored(file)?, directory)
    }

    /// Returns the survey of the message as it leaves.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn survey(&self, file: &File) -> io::Result<ContentSurvey> {
        let mut content = self.content(file)?;
        let mut survey = ContentSurvey::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match content.read(&mut buffer)? {
                0 => return Ok(survey),
                n => survey.feed(buffer.get(..n).unwrap_or_default()),
            }
        }
    }
}

/// A reader that removes the quoting of a mailbox, as [`unquote`](crate::deliver::mbox::unquote)
/// does for a line. It holds no line in memory, because a line may be as long as the message.
#[derive(Debug)]
struct UnquotingReader<R> {
    input: R,
    at_line_start: bool,
    /// Number of `>` that were read and are still to be returned.
    quotes: u64,
    /// The part of `From ` that was read after them and is still to be returned.
    lookahead: &'static [u8],
}

impl<R: BufRead> Read for UnquotingReader<R> {
    fn read(&mut self, mut out: &mut [u8]) -> io::Result<usize> {
        let wanted = out.len();
        while !out.is_empty() {
            if self.at_line_start {
                self.read_quoting()?;
            }
            let n = if self.quotes > 0 {
                let n = usize::try_from(self.quotes).unwrap_or(usize::MAX).min(out.len());
                out.split_at_mut(n).0.fill(b'>');
                self.quotes -= n as u64;
                n
            } else if !self.lookahead.is_empty() {
                self.lookahead.read(out)?
            } else {
                let buffered = self.input.fill_buf()?;
                let line = memchr::memchr(b'\n', buffered).map_or(buffered.len(), |at| at + 1);
                let (line, _) = buffered.split_at(line.min(out.len()));
                let n = line.len();
                out.split_at_mut(n).0.copy_from_slice(line);
                self.at_line_start = line.last() == Some(&b'\n');
                self.input.consume(n);
                n
            };
            if n == 0 {
                break;
            }
            out = out.split_at_mut(n).1;
        }
        Ok(wanted - out.len())
    }
}

impl<R: BufRead> UnquotingReader<R> {
    /// Reads the `>` at the start of a line, and `From ` after them. If both are there, the line is
    /// quoted, and one `>` less will be returned.
    fn read_quoting(&mut self) -> io::Result<()> {
        self.at_line_start = false;
        while self.input.fill_buf()?.first() == Some(&b'>') {
            self.input.consume(1);
            self.quotes += 1;
        }
        if self.quotes == 0 {
            return Ok(());
        }
        let mut matched = 0;
        for byte in FROM {
            if self.input.fill_buf()?.first() != Some(byte) {
                break;
            }
            self.input.consume(1);
            matched += 1;
        }
        self.lookahead = FROM.split_at(matched).0;
        self.quotes -= u64::from(matched == FROM.len());
        Ok(())
    }
}

/// The address without a domain (RFC 5321 4.1.1.3).
const POSTMASTER: &str = "postmaster";
/// The start of a line that must be quoted in a mailbox.
const FROM: &[u8] = b"From ";
/// Maximum number of bytes above the content: two lines with one address each, and the envelope.
const PROLOGUE_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::deliver::mbox;

    fn recipient(address: &str) -> Recipient<Mailbox> {
        let mailbox = Mailbox::parse(address).unwrap();
        Recipient::new(ForwardPath::Mailbox(mailbox.clone()), mailbox)
    }

    fn envelope(from: &str) -> Envelope<()> {
        let from = match from {
            "" => ReversePath::Null,
            from => ReversePath::Mailbox(Mailbox::parse(from).unwrap()),
        };
        let envelope = Envelope::<()> { from, ..Envelope::blank() };
        let line = encode(&envelope, &[recipient("x@y.example")], None, 0, 0).unwrap();
        decode(&line, 0).unwrap().envelope
    }

    #[test]
    fn encoded_envelope_is_decoded() {
        let hard = [
            r#""a,t5:b"@c.example"#,
            r#""1:x,"@[127.0.0.1]"#,
            "jürgen@bücher.example",
            r#""\"@\""@x.example"#,
        ];
        for from in ["", "smith@example.org"].iter().chain(&hard) {
            let mut one = recipient("jones@example.net");
            one.notify = Some(DsnNotify { success: true, failure: false, delay: true });
            let mut two = recipient(hard[0]);
            two.notify = Some(DsnNotify::default());
            let address = "a,b;5:c,".to_owned();
            two.original = Some(OriginalRecipient { addr_type: "rfc822".to_owned(), address });
            let to: Vec<_> =
                [one, two].into_iter().chain(hard.iter().map(|to| recipient(to))).collect();
            let whole = Envelope {
                body: BodyType::EightBitMime,
                utf8: true,
                ret: Some(DsnReturn::Headers),
                envid: Some("c1:2,".to_owned()),
                submitter: Some(u32::MAX),
                ..envelope(from)
            };
            let line = encode(&whole, &to, Some(hard[1]), -7, u64::MAX).unwrap();
            let entry = decode(&line, 3).unwrap();
            assert_eq!((entry.arrived_at, entry.size, entry.content_at), (-7, u64::MAX, 3));
            assert_eq!(entry.via.as_deref(), Some(hard[1]));
            let entire = format!("{entry:?}");
            let back = entry.envelope;
            assert_eq!(back.from, whole.from);
            assert_eq!((back.body, back.utf8, back.ret), (whole.body, true, whole.ret));
            assert_eq!((&back.envid, back.submitter), (&whole.envid, Some(u32::MAX)));
            assert_eq!(back.to.len(), to.len());
            for (back, one) in back.to.iter().zip(&to) {
                assert_eq!(back.path, one.path);
                assert_eq!((back.notify, &back.original), (one.notify, &one.original));
            }
            // A line that is cut, or lacks a byte, is invalid or has fewer recipients.
            for at in (0..line.len()).filter(|at| line.is_char_boundary(*at)) {
                if let Some(QueueEntry { envelope: cut, .. }) = decode(&line[..at], 0) {
                    assert!(cut.to.len() <= to.len(), "{at}");
                    assert_eq!(cut.from, whole.from);
                }
                let without: String =
                    line[..at].chars().chain(line[at..].chars().skip(1)).collect();
                let other = decode(&without, 3).map(|entry| format!("{entry:?}"));
                assert_ne!(other, Some(entire.clone()));
            }
        }
    }

    #[test]
    fn other_lines_are_not_decoded() {
        let good = "c1:1,z1:2,f0:,t3:a@b,";
        assert!(decode(good, 0).is_some());
        for bad in [
            "",
            "c1:1,z1:2,f0:,",
            "c1:1,z1:2,t3:a@b,",
            "c1:1,f0:,t3:a@b,",
            "c1:1,z1:2,f0:,t3:a@b",
            "c1:1,z1:2,f0:,t4:a@b,",
            "c1:1,z1:2,f0:,t+3:a@b,",
            "c1:1,z1:2,f0:,t:a@b,",
            "c1:1,z1:2,f0:,t99999999999999999999999:a@b,",
            "c1:1,z1:2,f0:,t3:a@b,f0:,",
            "c1:1,z1:2,f0:,n0:,t3:a@b,",
            "c1:1,z1:2,f0:,?0:,t3:a@b,",
            "c1:x,z1:2,f0:,t3:a@b,",
            "c1:1,z1:2,f0:,t0:,",
            " c1:1,z1:2,f0:,t3:a@b,",
        ] {
            assert!(decode(bad, 0).is_none(), "{bad}");
        }
    }

    #[test]
    fn huge_size_in_an_entry_is_not_added_up() {
        let mut file = tempfile::tempfile().unwrap();
        let line = encode(&envelope("a@b.c"), &[recipient("x@y")], None, 5, u64::MAX).unwrap();
        let head = format!("From a\nReturn-Path: <a@b.c>\n{QUEUE_FIELD}: {line}\n");
        file.write_all(head.as_bytes()).unwrap();
        assert!(QueueEntry::read(&file).unwrap().is_none());
    }

    /// The reference: line by line, as mailbox readers do it.
    fn naive(content: &[u8]) -> Vec<u8> {
        content.split_inclusive(|b| *b == b'\n').flat_map(mbox::unquote).copied().collect()
    }

    #[test]
    fn content_is_unquoted_with_every_buffer_size() {
        let long = [&b">".repeat(70_000)[..], b"From x\n"].concat();
        for content in [
            &b""[..],
            b"\n",
            b">",
            b">From",
            b">From ",
            b"From x\n>From y\n>>From z\n> From\n>Fro\n>>Fr\n>From",
            b"a: b\n\n>From x\n>\n>>\n>From : y\nFroma\n",
            &long,
        ] {
            let mut file = tempfile::tempfile().unwrap();
            let head = b"From a Tue Jul  1 08:52:37 2025\nReturn-Path: <a@b>\n";
            let line =
                encode(&envelope("a@b.c"), &[recipient("x@y")], None, 5, content.len() as u64);
            let line = format!("{QUEUE_FIELD}: {}\n", line.unwrap());
            file.write_all(&[head, line.as_bytes(), content].concat()).unwrap();
            assert!(QueueEntry::read(&file).unwrap().is_none(), "not complete yet");
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"\n").unwrap();
            let entry = QueueEntry::read(&file).unwrap().unwrap();
            assert_eq!((entry.arrived_at, entry.size), (5, content.len() as u64));
            for step in [1, 2, 3, 7, 1000, 100_000] {
                let mut all = Vec::new();
                let mut reader = entry.content(&file).unwrap();
                let mut piece = vec![0; step];
                loop {
                    match reader.read(&mut piece).unwrap() {
                        0 => break,
                        n => all.extend_from_slice(&piece[..n]),
                    }
                    if step == 1 && all.len() > 1000 {
                        break;
                    }
                }
                let expected = naive(content);
                assert!(expected.starts_with(&all) && (step == 1 || expected == all), "{step}");
            }
            let lines = content.iter().filter(|b| **b == b'\n').count() as u64;
            let size = entry.survey(&file).unwrap().wire_size();
            assert_eq!(size, naive(content).len() as u64 + lines);
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"x").unwrap();
            assert!(QueueEntry::read(&file).unwrap().is_none(), "longer than it says");
        }
    }
}
