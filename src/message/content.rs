//! The content of a message: a [`ContentBuilder`] takes the lines of mail data and builds the
//! [`Content`], which the writer copies to mailboxes unchanged.
//!
//! It guarantees:
//! - **Bounded memory.** At most [`MEMORY_MAX`] bytes of a message are in memory. A larger message
//!   is in a file of the spool, which is synced before the writer gets the message, because the
//!   journal refers to the file instead of containing its bytes.
//! - **The client cannot control the mail reader.** Header fields in which mail readers store their
//!   own data ([`STRIPPED_FIELDS`]) are removed, and no line of the message can continue or change
//!   the fields that mailslot writes above it.
//! - **No line begins with `From `.** Lines are quoted as the mailbox format requires
//!   (`deliver/mbox.rs`). This is done here because sessions run in parallel and the writer does
//!   not.
//! - **The header ends with an empty line**, also in a message without a body, because a mail
//!   reader would take the next message of the mailbox for its body. A message that was resent from
//!   a mailbox begins with the `From ` line of that mailbox, which becomes the field
//!   [`MAILBOX_LINE`], as in Postfix, because otherwise it would end the header.
//! - **All other bytes are unchanged.** Headers are not checked, no other fields are added, long
//!   lines are not folded, and MIME is not decoded.
//!
//! After the first [`ContentError`] the rest of the message is dropped and its storage is released.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memchr::memmem;

use crate::smtp::data::LinePiece;

/// The largest content that is held in memory, in bytes.
pub const MEMORY_MAX: usize = 256 * 1024;

/// The most Received fields of a message. One more is a mail loop (RFC 5321 6.3).
pub const HOPS_MAX: u32 = 100;

/// The longest line of text without its line end, in octets (RFC 5321 4.5.3.1.6). A mail reader may
/// split a longer line, and take a part that begins with `From ` for the start of a message.
pub const TEXT_LINE_MAX: usize = 998;

/// The header fields that are removed because mail readers trust them: lengths, flags, and the
/// Return-Path, which only final delivery may write (RFC 5321 4.4).
pub const STRIPPED_FIELDS: [&str; 11] = [
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

/// The header field that holds the `From ` line at the start of a message.
pub const MAILBOX_LINE: &str = "X-Mailbox-Line";

/// Content ready for a mailbox, with the Received field on top: lines end with LF, `From ` is
/// quoted as mboxrd. The From_ line, Return-Path, Delivered-To and the final blank line are not
/// part of it. It is cheap to clone.
#[derive(Clone, Debug)]
pub enum Content {
    /// Content of up to [`MEMORY_MAX`] bytes.
    Memory(Arc<Vec<u8>>),
    /// Larger content.
    File(Arc<ContentFile>),
}

impl Content {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(file) => file.size,
        }
    }

    /// Returns at most `len` bytes from `offset`, fewer only at the end.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was.
    pub fn read(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        match self {
            Content::Memory(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|at| bytes.get(at..));
                let rest = rest.unwrap_or_default();
                Ok(Cow::Borrowed(rest.get(..len).unwrap_or(rest)))
            }
            Content::File(file) => {
                let left = file.size.saturating_sub(offset);
                let mut bytes = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
                file.read_exact_at(&mut bytes, offset)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Returns all bytes from `offset` on, in pieces of [`PIECE`] bytes.
    pub fn pieces(&self, offset: u64) -> impl Iterator<Item = io::Result<Cow<'_, [u8]>>> {
        (offset..self.size()).step_by(PIECE).map(|at| self.read(at, PIECE))
    }

    /// Reads content that is already in its final form. A large one is copied to a file in
    /// `directory`.
    ///
    /// # Errors
    /// `input` cannot be read, or the file cannot be written.
    pub fn read_from(
        mut input: impl Read,
        directory: Arc<dyn ContentDirectory>,
    ) -> io::Result<Content> {
        let mut out = ContentWriter::new(directory);
        let mut buffer = vec![0; PIECE];
        loop {
            match input.read(&mut buffer)? {
                0 => return out.finish(),
                n => out.write(buffer.get(..n).unwrap_or_default())?,
            }
        }
    }
}

/// Directory for the files of large content.
pub trait ContentDirectory: fmt::Debug + Send + Sync + 'static {
    /// Creates an empty file with a new name. No other process removes it while it is open.
    fn create(&self) -> io::Result<Box<dyn SpoolFile>>;
}

/// System calls on a file of large content.
pub trait SpoolFile: fmt::Debug + Send + Sync + 'static {
    /// Returns the number that is the file's name in its directory.
    fn number(&self) -> u64;
    /// Appends all of `bytes`.
    fn append(&self, bytes: &[u8]) -> io::Result<()>;
    /// Fills `buf` from `offset`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Makes the content and the name durable.
    fn sync(&self) -> io::Result<()>;
    /// Removes the name.
    fn remove(&self);
}

/// Content in a file, which is removed when this is dropped, unless a journal refers to it.
#[derive(Debug)]
pub struct ContentFile {
    file: Box<dyn SpoolFile>,
    size: u64,
    crc: crc32fast::Hasher,
    /// Whether this process's journal may refer to the file, so that a crash must not lose it.
    is_recorded: AtomicBool,
    /// Whether another journal may refer to it, too.
    is_shared: AtomicBool,
}

impl ContentFile {
    /// Creates an empty file in `directory`.
    ///
    /// # Errors
    /// It could not be created.
    pub fn create(directory: &dyn ContentDirectory) -> io::Result<ContentFile> {
        Ok(ContentFile::new(directory.create()?, 0, false))
    }

    fn new(file: Box<dyn SpoolFile>, size: u64, is_shared: bool) -> ContentFile {
        let (is_recorded, is_shared) = (false.into(), is_shared.into());
        ContentFile { file, size, crc: crc32fast::Hasher::new(), is_recorded, is_shared }
    }

    /// Returns the content in `file`, to which an orphaned journal refers.
    ///
    /// # Errors
    /// `InvalidData` if it does not have this size and checksum.
    pub fn recorded(file: Box<dyn SpoolFile>, size: u64, checksum: u32) -> io::Result<ContentFile> {
        let mut content = ContentFile::new(file, size, true);
        let mut crc = crc32fast::Hasher::new();
        content.copy(|piece| {
            crc.update(piece);
            Ok(())
        })?;
        content.crc = crc;
        if content.checksum() != checksum {
            let text = "the content does not match its checksum";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(content)
    }

    /// Returns the number that is the file's name.
    pub fn number(&self) -> u64 {
        self.file.number()
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the CRC-32 of the content.
    pub fn checksum(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// Notes whether this process's journal may refer to the file. If no journal does, dropping
    /// this removes it.
    pub fn set_recorded(&self, recorded: bool) {
        self.is_recorded.store(recorded, Ordering::Relaxed);
    }

    /// Notes that an orphaned journal refers to the file, which dropping this never removes then.
    pub fn share(&self) {
        self.is_shared.store(true, Ordering::Relaxed);
    }

    /// True if an orphaned journal may refer to the file.
    pub fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    /// Calls `write` with all bytes in turn, in pieces of at most 120 KiB.
    ///
    /// # Errors
    /// The file cannot be read, or is shorter than it was, or `write` failed.
    pub fn copy(&self, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let length =
            |at: u64| usize::try_from(self.size - at).unwrap_or(COPY_PIECE).min(COPY_PIECE);
        let mut buffer = vec![0; length(0)];
        for at in (0..self.size).step_by(COPY_PIECE) {
            let piece = buffer.get_mut(..length(at)).unwrap_or_default();
            self.file.read_exact_at(piece, at)?;
            write(piece)?;
        }
        Ok(())
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// Some of them may have been written. The file must not be used any more.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)?;
        self.crc.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Makes content and name durable.
    ///
    /// # Errors
    /// They may not be on the disk, and another attempt proves nothing. The file must not be used
    /// any more.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

impl Drop for ContentFile {
    fn drop(&mut self) {
        if !self.is_recorded.load(Ordering::Relaxed) && !self.is_shared() {
            self.file.remove();
        }
    }
}

/// The reason why mail data is rejected.
#[derive(Debug)]
pub enum ContentError {
    /// A mail loop, which gets 554 5.4.6: more than [`HOPS_MAX`] Received fields.
    Loop,
    /// A mail loop, which gets 554 5.4.6: a Delivered-To field with the address of an alias that
    /// relays the message again.
    DeliveredLoop,
    /// `From ` beyond column [`TEXT_LINE_MAX`], where a mail reader with a fixed buffer
    /// would find a new message. It gets 554 5.6.0.
    HiddenFrom,
    /// An error of the spool's file system.
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
            ContentError::Loop => write!(f, "mail loop: more than {HOPS_MAX} Received fields"),
            ContentError::DeliveredLoop => write!(f, "mail loop: Delivered-To is an alias here"),
            ContentError::HiddenFrom => {
                write!(f, "a line contains \"From \" beyond column {TEXT_LINE_MAX}")
            }
            ContentError::Disk(error) => write!(f, "spool: {error}"),
        }
    }
}

impl std::error::Error for ContentError {}

/// A builder of content, which is fed the lines of mail data.
#[derive(Debug)]
pub struct ContentBuilder(Result<HeaderFilter, ContentError>);

impl ContentBuilder {
    /// Returns a builder for one message. `received` is written above it: whole header fields, each
    /// with its LF (see [`trace`](super::trace)). Large content is written to a file in
    /// `directory`.
    pub fn new(directory: Arc<dyn ContentDirectory>, received: &[u8]) -> ContentBuilder {
        let mut out = ContentWriter::new(directory);
        // Only these, because the client may leave it at that for a while.
        out.memory.reserve_exact(received.len());
        ContentBuilder(out.write(received).map_err(ContentError::from).map(|()| HeaderFilter {
            out,
            part: MessagePart::Top,
            keep: true,
            hops: 0,
            delivered_to: Vec::new(),
            overlong_tail: Vec::new(),
        }))
    }

    /// Makes room for `octets` more, which have arrived and are to be appended in pieces.
    pub fn reserve(&mut self, octets: usize) {
        if let Ok(filter) = &mut self.0 {
            filter.out.reserve(octets);
        }
    }

    /// Appends the next piece. After an error it is dropped.
    pub fn push(&mut self, piece: LinePiece<'_>) {
        if let Ok(filter) = &mut self.0
            && let Err(error) = filter.push(piece)
        {
            self.0 = Err(error);
        }
    }

    /// True after an error. The rest of the mail data need not be passed on.
    pub fn has_failed(&self) -> bool {
        self.0.is_err()
    }

    /// True if the message has a Delivered-To field with `address`, because an alias that relays
    /// mail adds one. Only the first [`HOPS_MAX`] such fields are compared.
    pub fn has_delivered_to(&self, address: &str) -> bool {
        let fields = self.0.as_ref().map_or(&[][..], |filter| &filter.delivered_to);
        fields.iter().any(|field| field.eq_ignore_ascii_case(address))
    }

    /// Returns the content, after all mail data was appended. A file is synced.
    ///
    /// # Errors
    /// The first error.
    pub fn finish(self) -> Result<Content, ContentError> {
        let mut filter = self.0?;
        if filter.part != MessagePart::Body {
            filter.out.write(b"\n")?;
        }
        Ok(filter.out.finish()?)
    }

    /// Drops the content. Returns the first error, if there was one.
    pub fn discard(self) -> Option<ContentError> {
        self.0.err()
    }
}

/// True if `line` begins with `>*From `. The mboxrd format adds a `>` to such a line when it is
/// written, and removes one when it is read.
pub fn needs_from_quoting(mut line: &[u8]) -> bool {
    while let [b'>', rest @ ..] = line {
        line = rest;
    }
    line.starts_with(b"From ")
}

/// The part of the message that the current line belongs to.
#[derive(Debug, PartialEq, Eq)]
enum MessagePart {
    /// The start. No line was kept yet, so the line would follow the fields of mailslot.
    Top,
    /// The header, after a field that was kept.
    Header,
    /// The text after the first empty line.
    Body,
}

/// The state of a builder without an error.
#[derive(Debug)]
struct HeaderFilter {
    out: ContentWriter,
    part: MessagePart,
    /// Whether the current line is kept, or in the header the current field with its continuation
    /// lines.
    keep: bool,
    /// The number of Received fields so far.
    hops: u32,
    /// The addresses in the Delivered-To fields so far.
    delivered_to: Vec<String>,
    /// The last bytes of the current line beyond column [`TEXT_LINE_MAX`], because `From ` may be
    /// divided between two pieces.
    overlong_tail: Vec<u8>,
}

impl HeaderFilter {
    fn push(&mut self, piece: LinePiece<'_>) -> Result<(), ContentError> {
        if piece.first {
            self.begin_line(piece.bytes)?;
        }
        if !self.keep {
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

    /// Decides about a line that begins with `line`, which is all of it or its first 2048 bytes.
    /// This is enough to quote it, because `From ` after more than 2043 `>` is beyond column 998
    /// and is rejected.
    fn begin_line(&mut self, line: &[u8]) -> Result<(), ContentError> {
        if self.part == MessagePart::Top && needs_from_quoting(line) {
            (self.part, self.keep) = (MessagePart::Header, true);
            self.out.write(MAILBOX_LINE.as_bytes())?;
            self.out.write(b": ")?;
            return Ok(());
        }
        if self.part != MessagePart::Body {
            self.filter_header_line(line)?;
        }
        if self.keep && needs_from_quoting(line) {
            self.out.write(b">")?;
        }
        Ok(())
    }

    /// Handles a line of the header. The header ends at the first empty line, not at a line that is
    /// not a field: some mail readers continue after it and would find a field to be removed.
    fn filter_header_line(&mut self, line: &[u8]) -> Result<(), ContentError> {
        let after_a_field = self.part == MessagePart::Header || !self.keep;
        if after_a_field && matches!(line, [b' ' | b'\t', ..]) {
            return Ok(()); // a continuation line is kept or removed with its field
        }
        self.keep = true;
        match field_name(line) {
            _ if line.is_empty() => self.part = MessagePart::Body,
            Some(name) if is_one_of(name, &STRIPPED_FIELDS) => self.keep = false,
            Some(name) => {
                self.part = MessagePart::Header;
                self.hops += u32::from(is_one_of(name, &["Received"]));
                if self.hops > HOPS_MAX {
                    return Err(ContentError::Loop);
                }
                if is_one_of(name, &["Delivered-To"]) && self.delivered_to.len() < HOPS_MAX as usize
                {
                    let address = line.splitn(2, |b| *b == b':').nth(1).unwrap_or_default();
                    let address = String::from_utf8_lossy(address.trim_ascii());
                    self.delivered_to.push(address.chars().take(ADDRESS_MAX).collect());
                }
            }
            // The message has no header. Without an empty line it would continue the last field of
            // mailslot, if it begins with white space, or end the header in the wrong place.
            None if self.part == MessagePart::Top => {
                self.out.write(b"\n")?;
                self.part = MessagePart::Body;
            }
            None => {}
        }
        Ok(())
    }

    /// True if the line contains `From ` beyond column [`TEXT_LINE_MAX`].
    fn hides_from(&mut self, piece: LinePiece<'_>) -> bool {
        let overlong = if piece.first {
            self.overlong_tail.clear();
            piece.bytes.get(TEXT_LINE_MAX..).unwrap_or_default()
        } else {
            piece.bytes
        };
        if overlong.is_empty() {
            return false;
        }
        self.overlong_tail.extend_from_slice(overlong);
        let found = memmem::find(&self.overlong_tail, b"From ").is_some();
        self.overlong_tail.drain(..self.overlong_tail.len().saturating_sub("From".len()));
        found
    }
}

/// Returns the name of the header field that `line` begins (RFC 5322 3.6.8), with blanks allowed
/// before the colon (4.5.8): `Status` of `Status : RO`.
pub fn field_name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|b| !b.is_ascii_graphic() || *b == b':')?;
    let (name, mut rest) = line.split_at(end);
    while let [b' ' | b'\t', more @ ..] = rest {
        rest = more;
    }
    (!name.is_empty() && rest.first() == Some(&b':')).then_some(name)
}

/// The longest address in Delivered-To that is stored, in characters. RFC 5321 4.5.3.1 allows
/// fewer.
const ADDRESS_MAX: usize = 400;

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

/// A buffer in memory that becomes a file when it is full.
#[derive(Debug)]
struct ContentWriter {
    directory: Arc<dyn ContentDirectory>,
    /// All content, or the part that was not written to the file yet.
    memory: Vec<u8>,
    file: Option<ContentFile>,
}

impl ContentWriter {
    fn new(directory: Arc<dyn ContentDirectory>) -> ContentWriter {
        ContentWriter { directory, memory: Vec::new(), file: None }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.memory.len() + bytes.len() > self.memory_max() {
            self.spill()?;
        }
        self.reserve(bytes.len());
        self.memory.extend_from_slice(bytes);
        Ok(())
    }

    /// Returns the largest part of the content that is kept in memory, in bytes.
    fn memory_max(&self) -> usize {
        if self.file.is_some() { PIECE } else { MEMORY_MAX }
    }

    /// Makes room for `octets` more in memory, as far as they are kept there.
    fn reserve(&mut self, octets: usize) {
        let (length, capacity) = (self.memory.len(), self.memory.capacity());
        let needed = (length + octets).min(self.memory_max());
        if needed > capacity {
            let grown = needed.max(2 * capacity).min(self.memory_max());
            self.memory.reserve_exact(grown - length);
        }
    }

    /// Writes the content in memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(ContentFile::create(&*self.directory)?),
        };
        file.append(&self.memory)?;
        self.memory.clear();
        self.memory.shrink_to(PIECE);
        Ok(())
    }

    fn finish(mut self) -> io::Result<Content> {
        if self.file.is_some() {
            self.spill()?;
        }
        Ok(match self.file {
            None => Content::Memory(Arc::new(self.memory)),
            Some(file) => {
                file.sync()?;
                Content::File(Arc::new(file))
            }
        })
    }
}

/// The size of reads and writes of large content, in bytes.
pub const PIECE: usize = 64 * 1024;

/// The size of reads and writes of a copy to a mailbox, in bytes. Larger pieces cost fewer calls.
/// From 128 KiB on malloc maps and unmaps the buffer, and then keeps more freed memory for all
/// threads.
const COPY_PIECE: usize = 120 * 1024;
