//! What travels from a session to the writer, and how it is made: [`ContentBuilder`] takes the lines of
//! mail data as they come and makes the [`Content`] that the writer only has to move.
//!
//! It promises
//! - **bounded memory**: [`MEMORY_MAX`] for a message; more waits in a file without a name;
//! - **no stranger steers the reader**: the header fields by which mailbox readers keep their own
//!   notes ([`STEERING`]) are left out, and nothing of the message can continue or change the
//!   fields that mailslot writes above it;
//! - **the framing holds**: no line of content begins with `From `. The quoting is that of the
//!   mailbox's format (`deliver/mbox.rs`), done here because sessions run in parallel and the
//!   writer does not;
//! - **the rest stays as it came**, octet for octet. It does not judge headers, add missing
//!   fields, fold long lines or look into MIME.
//!
//! The first [`ContentError`] stays: the rest of the message is swallowed, and its storage given back.

pub mod peer;
pub mod trace;

use std::fmt;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::memmem;

use crate::smtp::data::Piece;

/// The most octets of content that are held in memory; more waits in a file without a name.
pub const MEMORY_MAX: usize = 256 * 1024;

/// The most Received fields a message may come with; one more is a loop (RFC 5321 6.3).
pub const HOPS_MAX: u32 = 100;

/// The longest line of text, in octets without its line end (RFC 5321 4.5.3.1.6). A longer one may
/// reach a reader in parts, and a part that begins with `From ` begins a message.
pub const LINE_MAX: usize = 998;

/// The fields by which a sender would steer the reader of a mailbox: lengths it believes, flags it
/// keeps, and the Return-Path that only final delivery may write (RFC 5321 4.4).
pub const STEERING: [&str; 11] = [
    "Content-Length",
    "Return-Path",
    "Status",
    "X-IMAP",
    "X-IMAPbase",
    "X-Keywords",
    "X-Mozilla-Keys",
    "X-Mozilla-Status",
    "X-Mozilla-Status2",
    "X-Status",
    "X-UID",
];

/// The name of a mailbox's file in the mail folder. Never a path: no `/`, no NUL, no control
/// character, no leading dot, no `.lock` at the end; 1 to 200 octets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxName(String);

impl MailboxName {
    /// The name, if it may be one.
    pub fn new(name: &str) -> Option<MailboxName> {
        let fits = (1..=200).contains(&name.len())
            && !name.starts_with('.')
            && !name.ends_with(".lock")
            && name.chars().all(|c| c > ' ' && c != '/' && !c.is_control());
        fits.then(|| MailboxName(name.to_owned()))
    }

    /// An entry of the queue, `queue/ID`: not in the mail folder but in the spool, and no mailbox
    /// can have such a name. None unless `id` is letters, digits and hyphens, at most 100.
    pub fn in_queue(id: &str) -> Option<MailboxName> {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (plain && (1..=100).contains(&id.len())).then(|| MailboxName(format!("{QUEUE_PREFIX}{id}")))
    }

    /// What [`as_str`](MailboxName::as_str) gave.
    pub fn parse(name: &str) -> Option<MailboxName> {
        name.strip_prefix(QUEUE_PREFIX)
            .map_or_else(|| MailboxName::new(name), MailboxName::in_queue)
    }

    /// The id of an entry of the queue.
    pub fn queue_id(&self) -> Option<&str> {
        self.0.strip_prefix(QUEUE_PREFIX)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of the queue, in the spool.
pub const QUEUE_FOLDER: &str = "queue";
/// What the names of its entries begin with.
const QUEUE_PREFIX: &str = "queue/";

/// Who owns a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// The user's primary group id.
    pub gid: u32,
}

/// One mailbox that a message goes to, and for which address; or an entry of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The file in the mail folder, or in the queue.
    pub mailbox: MailboxName,
    /// Whose it must be; None: whoever runs mailslot.
    pub owner: Option<Owner>,
    /// The address for the Delivered-To line, `user@host`, without control characters. Of an entry
    /// of the queue what its Mailslot-Queue line says (`queue/entry.rs`).
    pub delivered_to: String,
}

impl Destination {
    /// The line that stands below Return-Path in this copy alone, with its LF.
    pub fn delivered_to_line(&self) -> Vec<u8> {
        let field = if self.mailbox.queue_id().is_some() { QUEUE_FIELD } else { "Delivered-To" };
        format!("{field}: {}\n", self.delivered_to).into_bytes()
    }
}

/// The name of the line that an entry of the queue has for Delivered-To.
pub const QUEUE_FIELD: &str = "Mailslot-Queue";

/// Content ready for a mailbox: LF line ends, mboxrd-quoted, the Received line on top, and a last
/// line end; without From_ line, Return-Path and Delivered-To, and without the blank line behind.
/// Cheap to clone, for messages that have it in common.
#[derive(Clone, Debug)]
pub enum Content {
    /// Up to [`MEMORY_MAX`] octets.
    Memory(Arc<Vec<u8>>),
    /// More: a file without a name, standing at its start, and its length. It is read by position.
    File(Arc<File>, u64),
}

impl Content {
    /// Its length in octets.
    pub fn octets(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(_, length) => *length,
        }
    }
}

/// One message on its way to its mailboxes.
#[derive(Debug)]
pub struct Message {
    /// Unique for ever; stands in the Received line's `id` and in every log line.
    pub id: String,
    /// The From_ line and the Return-Path line, ready to be written.
    pub head: Vec<u8>,
    /// The rest, ready to be written.
    pub content: Content,
    /// At least one, none twice.
    pub to: Vec<Destination>,
}

/// Why mail data that came whole cannot become content.
#[derive(Debug)]
pub enum ContentError {
    /// More than [`HOPS_MAX`] Received fields, or it was here before for an address that leads to
    /// another host: 554 5.4.6.
    Loop,
    /// A line hides `From ` beyond column [`LINE_MAX`], where a reader with a fixed buffer would
    /// see a new message: 554 5.6.0.
    HiddenFrom,
    /// The spool's disk; the errno is kept.
    Disk(io::Error),
}

impl From<io::Error> for ContentError {
    fn from(error: io::Error) -> ContentError {
        ContentError::Disk(error)
    }
}

impl fmt::Display for ContentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentError::Loop => write!(f, "it goes round in a loop"),
            ContentError::HiddenFrom => {
                write!(f, "a line hides \"From \" beyond column {LINE_MAX}")
            }
            ContentError::Disk(error) => write!(f, "spool: {error}"),
        }
    }
}

impl std::error::Error for ContentError {}

/// Makes content of mail data, line by line.
#[derive(Debug)]
pub struct ContentBuilder(Result<HeaderFilter, ContentError>);

impl ContentBuilder {
    /// An intake for one message. `received` is what stands above it, whole header lines each with
    /// its LF (see [`trace`](crate::message::trace)); what does not fit in memory waits in the folder
    /// `spool`.
    pub fn new(spool: &Path, received: &[u8]) -> ContentBuilder {
        let mut out = ContentWriter::new(spool);
        ContentBuilder(out.write(received).map_err(ContentError::from).map(|()| HeaderFilter {
            out,
            place: MessagePart::Top,
            kept: true,
            hops: 0,
            delivered_to: Vec::new(),
            far: Vec::new(),
        }))
    }

    /// Takes the next piece. After a fault it drops it, and has already given back what was stored.
    pub fn piece(&mut self, piece: Piece<'_>) {
        if let Ok(filter) = &mut self.0
            && let Err(fault) = filter.piece(piece)
        {
            self.0 = Err(fault);
        }
    }

    /// Whether it has met a fault: no more mail data is of use.
    pub fn is_faulty(&self) -> bool {
        self.0.is_err()
    }

    /// Whether the message was here before, for `address`: an alias that sends mail on says so
    /// above it, in Delivered-To. Of more than [`HOPS_MAX`] such fields the first count.
    pub fn has_delivered_to(&self, address: &str) -> bool {
        let fields = self.0.as_ref().map_or(&[][..], |filter| &filter.delivered_to);
        fields.iter().any(|field| field.eq_ignore_ascii_case(address))
    }

    /// The content, once the mail data ended.
    ///
    /// # Errors
    /// The first fault met.
    pub fn finish(self) -> Result<Content, ContentError> {
        Ok(self.0?.out.finish()?)
    }
}

/// mboxrd's question: whether `line` reads `>*From `, and so gets one more `>` (or, read back,
/// loses one).
pub fn needs_from_quoting(mut line: &[u8]) -> bool {
    while let [b'>', rest @ ..] = line {
        line = rest;
    }
    line.starts_with(b"From ")
}

/// Where in the message the line in hand stands.
#[derive(Debug, PartialEq, Eq)]
enum MessagePart {
    /// Nothing was kept yet: it would stand right below our own fields.
    Top,
    /// In the header, below a field that was kept.
    Header,
    /// Behind the first empty line.
    Body,
}

/// An intake that has met no fault.
#[derive(Debug)]
struct HeaderFilter {
    out: ContentWriter,
    place: MessagePart,
    /// Whether the line in hand is kept; in the header, the field in hand with its continuation.
    kept: bool,
    /// Received fields seen.
    hops: u32,
    /// Delivered-To fields seen.
    delivered_to: Vec<String>,
    /// Of the line in hand, the last octets beyond column [`LINE_MAX`]: what the next piece might
    /// complete to `From `.
    far: Vec<u8>,
}

impl HeaderFilter {
    fn piece(&mut self, piece: Piece<'_>) -> Result<(), ContentError> {
        if piece.first {
            self.begin(piece.bytes)?;
        }
        if !self.kept {
            return Ok(());
        }
        if self.hides_from(piece) {
            return Err(ContentError::HiddenFrom);
        }
        self.out.write(piece.bytes)?;
        if piece.last {
            self.out.write(b"\n")?;
        }
        Ok(())
    }

    /// Judges the line that begins with `line`: all of it, or 2048 octets. That is enough to quote
    /// it right: a `From ` behind more than 2043 `>` stands beyond column 998 and is refused.
    fn begin(&mut self, line: &[u8]) -> Result<(), ContentError> {
        if self.place != MessagePart::Body {
            self.header_line(line)?;
        }
        if self.kept && needs_from_quoting(line) {
            self.out.write(b">")?;
        }
        Ok(())
    }

    /// The header goes to the first empty line, also past a line that is no field: some readers
    /// end it there and some go on, and none of them shall find a steering field.
    fn header_line(&mut self, line: &[u8]) -> Result<(), ContentError> {
        let below_a_field = self.place == MessagePart::Header || !self.kept;
        if below_a_field && matches!(line, [b' ' | b'\t', ..]) {
            return Ok(()); // continues its field, and is kept or left out with it
        }
        self.kept = true;
        match field_name(line) {
            _ if line.is_empty() => self.place = MessagePart::Body,
            Some(name) if is_any(name, &STEERING) => self.kept = false,
            Some(name) => {
                self.place = MessagePart::Header;
                self.hops += u32::from(is_any(name, &["Received"]));
                if self.hops > HOPS_MAX {
                    return Err(ContentError::Loop);
                }
                if is_any(name, &["Delivered-To"]) && self.delivered_to.len() < HOPS_MAX as usize {
                    let address = line.splitn(2, |b| *b == b':').nth(1).unwrap_or_default();
                    let address = String::from_utf8_lossy(address.trim_ascii());
                    self.delivered_to.push(address.chars().take(ADDRESS_MAX).collect());
                }
            }
            // No header at all: a blank line keeps it out of our own fields, which it would
            // continue (if it begins with white space) or end in the wrong place.
            None if self.place == MessagePart::Top => {
                self.out.write(b"\n")?;
                self.place = MessagePart::Body;
            }
            None => {}
        }
        Ok(())
    }

    fn hides_from(&mut self, piece: Piece<'_>) -> bool {
        let far = if piece.first {
            self.far.clear();
            piece.bytes.get(LINE_MAX..).unwrap_or_default()
        } else {
            piece.bytes
        };
        if far.is_empty() {
            return false;
        }
        self.far.extend_from_slice(far);
        let found = memmem::find(&self.far, b"From ").is_some();
        self.far.drain(..self.far.len().saturating_sub("From".len()));
        found
    }
}

/// The name of the field that `line` begins (RFC 5322 3.6.8), blanks before the colon allowed
/// (4.5.8): `Status` of `Status : RO`.
pub fn field_name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|b| !b.is_ascii_graphic() || *b == b':')?;
    let (name, mut rest) = line.split_at(end);
    while let [b' ' | b'\t', more @ ..] = rest {
        rest = more;
    }
    (!name.is_empty() && rest.first() == Some(&b':')).then_some(name)
}

/// No address is longer (RFC 5321 4.5.3.1).
const ADDRESS_MAX: usize = 400;

fn is_any(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

/// Holds content in memory as long as it fits, and then in a file without a name.
#[derive(Debug)]
struct ContentWriter {
    spool: PathBuf,
    /// All of it, or behind a file what waits to be written there.
    memory: Vec<u8>,
    /// The file, and how much was written to it.
    file: Option<(File, u64)>,
}

impl ContentWriter {
    fn new(spool: &Path) -> ContentWriter {
        ContentWriter {
            spool: spool.to_owned(),
            memory: Vec::with_capacity(MEMORY_FIRST),
            file: None,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = if self.file.is_some() { FILE_CHUNK } else { MEMORY_MAX };
        if self.memory.len() + bytes.len() > room {
            self.spill()?;
        }
        self.memory.extend_from_slice(bytes);
        Ok(())
    }

    /// Moves what is in memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some((tempfile::tempfile_in(&self.spool)?, 0));
        }
        if let Some((file, length)) = &mut self.file {
            file.write_all(&self.memory)?;
            *length += self.memory.len() as u64;
            self.memory.clear();
            self.memory.shrink_to(FILE_CHUNK);
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<Content> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(match self.file {
            None => Content::Memory(Arc::new(self.memory)),
            Some((mut file, length)) => {
                file.rewind()?;
                Content::File(Arc::new(file), length)
            }
        })
    }
}

/// Holds most messages without growing.
const MEMORY_FIRST: usize = 8 * 1024;

/// How much is written to the file at once.
const FILE_CHUNK: usize = 64 * 1024;
