//! One entry of the queue: a message for recipients on other hosts, a file `queue/ID` in the spool.
//!
//! ```text
//! From smith@example.org Tue Jul  1 08:52:37 2025
//! Return-Path: <smith@example.org>
//! Mailslot-Queue: c10:1751359957,z311:f17:smith@example.org,t17:jones@example.net,n1:F,
//! Received: ...                  the content, as it stands in a mailbox
//!                                an empty line
//! ```
//! The writer appends it as it appends to a mailbox, under the same journal: an entry is there
//! whole before its `250`, and in all destinations of its message or in none. It never changes
//! afterwards. What was done with it stands beside it, in `ID.state`; and it is removed when every
//! recipient is crossed off.
//!
//! The third line is all that is believed of the envelope. It is a row of netstrings with a letter
//! in front, `LETTER LENGTH ":" OCTETS ","`, so that no octet of an address can end a field or
//! begin another:
//!
//! | letter | of the message | letter | of the recipient before it |
//! | --- | --- | --- | --- |
//! | `c` | when it came, in seconds since 1970 | `t` | the address: begins a recipient |
//! | `z` | octets of content | `n` | NOTIFY: `S`, `F` and `D`, or nothing for NEVER |
//! | `f` | reverse-path, empty for the null one | `o` | ORCPT: type, semicolon, address |
//! | `b` | `8`: BODY=8BITMIME | | |
//! | `u` | `1`: SMTPUTF8 | | |
//! | `r` | RET: `F` or `H` | | |
//! | `e` | ENVID | | |
//! | `d` | the address here that led elsewhere | | |
//!
//! What an alias or a forward file sent on says so when it leaves, in a Delivered-To line: should
//! it come back for the same address, it goes round in a loop.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};

use crate::message::QUEUE_FIELD;
use crate::smtp::dsn::{DsnNotify, DsnReturn, OriginalRecipient};
use crate::smtp::envelope::BodyType;
use crate::smtp::{Envelope, ForwardPath, Mailbox, Recipient, ReversePath};

/// What an entry says above its content.
#[derive(Clone, Debug)]
pub struct QueueEntry {
    /// When the message came, in seconds since 1970.
    pub came: i64,
    /// Octets of content.
    pub octets: u64,
    /// The envelope; its recipients are all on other hosts.
    pub envelope: Envelope<()>,
    /// The address of this host that led there, if it was not the sender who named them.
    pub via: Option<String>,
    /// Where the content begins in the file.
    content_at: u64,
}

/// What its Mailslot-Queue line says. None if a field holds a control character, which no parsed
/// address does.
pub fn encode<D>(
    envelope: &Envelope<D>,
    to: &[Recipient<Mailbox>],
    via: Option<&str>,
    came: i64,
    octets: u64,
) -> Option<String> {
    let mut line = String::new();
    let mut put = |letter: char, value: &str| {
        line.push(letter);
        line.push_str(&format!("{}:{value},", value.len()));
    };
    put('c', &came.to_string());
    put('z', &octets.to_string());
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
    for recipient in to {
        put('t', &recipient.destination.to_string());
        if let Some(DsnNotify { success, failure, delay }) = recipient.notify {
            let letters = [(success, 'S'), (failure, 'F'), (delay, 'D')];
            let letters = letters.iter().filter(|(on, _)| *on).map(|(_, letter)| *letter);
            put('n', &letters.collect::<String>());
        }
        if let Some(OriginalRecipient { addr_type: kind, address }) = &recipient.original {
            put('o', &format!("{kind};{address}"));
        }
    }
    Some(line).filter(|line| !line.chars().any(char::is_control))
}

/// Of [`encode`]: the entry, its content beginning at `content_at`. None if it is not what `encode`
/// writes.
fn decode(mut line: &str, content_at: u64) -> Option<QueueEntry> {
    let (mut came, mut octets, mut from, mut via) = (None, None, None, None);
    let mut envelope = Envelope::blank();
    while !line.is_empty() {
        let (letter, value, rest) = field(line)?;
        line = rest;
        let last = envelope.to.last_mut();
        match (letter, last) {
            ('c', None) => came = Some(value.parse().ok()?),
            ('z', None) => octets = Some(value.parse().ok()?),
            ('f', None) if value.is_empty() => from = Some(ReversePath::Null),
            ('f', None) => from = Some(ReversePath::Mailbox(Mailbox::parse(value).ok()?)),
            ('b', None) if value == "8" => envelope.body = BodyType::EightBitMime,
            ('u', None) if value == "1" => envelope.utf8 = true,
            ('r', None) if value == "F" => envelope.ret = Some(DsnReturn::Full),
            ('r', None) if value == "H" => envelope.ret = Some(DsnReturn::Headers),
            ('e', None) => envelope.envid = Some(value.to_owned()),
            ('d', None) => via = Some(value.to_owned()),
            ('t', _) => envelope.to.push(Recipient {
                path: ForwardPath::Mailbox(Mailbox::parse(value).ok()?),
                destination: (),
                notify: None,
                original: None,
            }),
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
    (!envelope.to.is_empty()).then_some(())?;
    Some(QueueEntry { came: came?, octets: octets?, envelope, via, content_at })
}

/// The first field of a line: its letter, its value, and what stands behind.
fn field(line: &str) -> Option<(char, &str, &str)> {
    let letter = line.chars().next()?;
    let (length, rest) = line.get(letter.len_utf8()..)?.split_once(':')?;
    let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
    let length: usize = length.parse().ok().filter(|_| plain)?;
    let (value, rest) = (rest.get(..length)?, rest.get(length..)?);
    Some((letter, value, rest.strip_prefix(',')?))
}

impl QueueEntry {
    /// Reads what stands above the content. None: this is no whole entry; one that is being
    /// written, or one that a crash has cut short and recovery has not mended yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(file: &File) -> io::Result<Option<QueueEntry>> {
        let mut input = BufReader::new(file).take(HEAD_MAX);
        input.get_mut().seek(SeekFrom::Start(0))?;
        let mut head = Vec::new();
        for _ in 0..3 {
            input.read_until(b'\n', &mut head)?;
        }
        let content_at = head.len() as u64;
        let found = std::str::from_utf8(&head).ok().and_then(|head| {
            let mut lines = head.split_inclusive('\n');
            lines.next()?.strip_prefix("From ")?;
            lines.next()?.strip_prefix("Return-Path: ")?;
            let line = lines.next()?.strip_prefix(QUEUE_FIELD)?.strip_prefix(": ")?;
            decode(line.strip_suffix('\n')?, content_at)
        });
        let Some(entry) = found else { return Ok(None) };
        let whole = file.metadata()?.len() == content_at + entry.octets + 1;
        Ok(Some(entry).filter(|_| whole))
    }

    /// The message as it came, with what we wrote above it: lines with LF, the header first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn content<'a>(&self, file: &'a File) -> io::Result<impl Read + use<'a>> {
        let mut file = file;
        file.seek(SeekFrom::Start(self.content_at))?;
        let input = BufReader::new(file.take(self.octets));
        let above = self.via.iter().map(|via| format!("Delivered-To: {via}\n")).collect::<String>();
        let unquoted = Unquoted { input, line_begins: true, quotes: 0, ahead: &[] };
        Ok(io::Cursor::new(above).chain(unquoted))
    }

    /// The first octets of the content as they are in the file, at most `most`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn begin(&self, mut file: &File, most: u64) -> io::Result<Vec<u8>> {
        file.seek(SeekFrom::Start(self.content_at))?;
        let mut octets = Vec::new();
        file.take(self.octets.min(most)).read_to_end(&mut octets)?;
        Ok(octets)
    }

    /// How long the message is on the wire, each line end counted as two octets (RFC 1870).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn octets_on_wire(&self, file: &File) -> io::Result<u64> {
        let mut content = self.content(file)?;
        let mut octets = 0;
        let mut piece = vec![0; 16 * 1024];
        loop {
            match content.read(&mut piece)? {
                0 => return Ok(octets),
                n => {
                    let piece = piece.get(..n).unwrap_or_default();
                    octets += (n + memchr::memchr_iter(b'\n', piece).count()) as u64;
                }
            }
        }
    }
}

/// Content as it was before it was quoted for a mailbox: what
/// [`unquote`](crate::deliver::mbox::unquote) makes of each line, however long it is.
#[derive(Debug)]
pub struct Unquoted<R> {
    input: R,
    line_begins: bool,
    /// `>` that were read, and are still to be given.
    quotes: u64,
    /// What was read behind them to see whether it is `From `, and is still to be given.
    ahead: &'static [u8],
}

impl<R: BufRead> Read for Unquoted<R> {
    fn read(&mut self, mut out: &mut [u8]) -> io::Result<usize> {
        let wanted = out.len();
        while !out.is_empty() {
            if self.line_begins {
                self.begin_line()?;
            }
            let n = if self.quotes > 0 {
                let n = usize::try_from(self.quotes).unwrap_or(usize::MAX).min(out.len());
                out.split_at_mut(n).0.fill(b'>');
                self.quotes -= n as u64;
                n
            } else if !self.ahead.is_empty() {
                self.ahead.read(out)?
            } else {
                let there = self.input.fill_buf()?;
                let line = memchr::memchr(b'\n', there).map_or(there.len(), |at| at + 1);
                let (line, _) = there.split_at(line.min(out.len()));
                let n = line.len();
                out.split_at_mut(n).0.copy_from_slice(line);
                self.line_begins = line.last() == Some(&b'\n');
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

impl<R: BufRead> Unquoted<R> {
    /// Goes past the `>` and the `From ` that a line begins with, and one `>` less is given.
    fn begin_line(&mut self) -> io::Result<()> {
        self.line_begins = false;
        while self.input.fill_buf()?.first() == Some(&b'>') {
            self.input.consume(1);
            self.quotes += 1;
        }
        if self.quotes == 0 {
            return Ok(());
        }
        let mut same = 0;
        for octet in FROM {
            if self.input.fill_buf()?.first() != Some(octet) {
                break;
            }
            self.input.consume(1);
            same += 1;
        }
        self.ahead = FROM.split_at(same).0;
        self.quotes -= u64::from(same == FROM.len());
        Ok(())
    }
}

/// What no line of content begins with.
const FROM: &[u8] = b"From ";
/// The most octets above the content: two lines of one address each, and the envelope's.
const HEAD_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::deliver::mbox;

    fn recipient(address: &str) -> Recipient<Mailbox> {
        let mailbox = Mailbox::parse(address).unwrap();
        let path = ForwardPath::Mailbox(mailbox.clone());
        Recipient { path, destination: mailbox, notify: None, original: None }
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
    fn what_is_encoded_is_decoded() {
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
                ..envelope(from)
            };
            let line = encode(&whole, &to, Some(hard[1]), -7, u64::MAX).unwrap();
            let entry = decode(&line, 3).unwrap();
            assert_eq!((entry.came, entry.octets, entry.content_at), (-7, u64::MAX, 3));
            assert_eq!(entry.via.as_deref(), Some(hard[1]));
            let entire = format!("{entry:?}");
            let back = entry.envelope;
            assert_eq!(back.from, whole.from);
            assert_eq!((back.body, back.utf8, back.ret), (whole.body, true, whole.ret));
            assert_eq!(back.envid, whole.envid);
            assert_eq!(back.to.len(), to.len());
            for (back, one) in back.to.iter().zip(&to) {
                assert_eq!(back.path, one.path);
                assert_eq!((back.notify, &back.original), (one.notify, &one.original));
            }
            // Cut anywhere, or with any octet missing, it is none, or says less of the end.
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
    fn what_is_not_encoded_is_not_decoded() {
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

    /// Line by line, as mailbox readers do it.
    fn naive(content: &[u8]) -> Vec<u8> {
        content.split_inclusive(|b| *b == b'\n').flat_map(mbox::unquote).copied().collect()
    }

    #[test]
    fn content_comes_out_as_it_came_whatever_is_read_at_once() {
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
            assert!(QueueEntry::read(&file).unwrap().is_none(), "not whole yet");
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"\n").unwrap();
            let entry = QueueEntry::read(&file).unwrap().unwrap();
            assert_eq!((entry.came, entry.octets), (5, content.len() as u64));
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
            let octets = entry.octets_on_wire(&file).unwrap();
            assert_eq!(octets, naive(content).len() as u64 + lines);
            file.seek(SeekFrom::End(0)).unwrap();
            file.write_all(b"x").unwrap();
            assert!(QueueEntry::read(&file).unwrap().is_none(), "not ours any more");
        }
    }
}
