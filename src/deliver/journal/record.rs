//! The bytes of a record, which is a batch in the journal: encoded and parsed.
//!
//! The head of `mod.rs` shows the layout. This file contains no call on a file.

use crate::deliver::disk::{BLOCK, ChangeTime, SECTOR};
use crate::message::{
    Content, Destination, DestinationFile, MailboxName, Message, Owner, QueueId, UserMailbox,
};

/// Maximum number of messages in a record.
pub const MESSAGES_MAX: usize = 64;

/// Position at which one copy of a message is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Destination of the copy.
    pub to: Destination,
    /// File of the destination.
    pub file: DestinationFile,
    /// Inode of the file. The device is not recorded, because a disk may be another device when it
    /// is mounted again.
    pub inode: u64,
    /// Offset of the copy in bytes: the length of the file before it.
    pub offset: u64,
    /// Number of LFs, 0 to 2, that the copy begins with because the message before it has fewer
    /// than two.
    pub missing_newlines: usize,
}

/// Record as it is read back, without its messages, which may be many and are read again when they
/// are needed ([`Journal::visit`](super::Journal::visit)).
#[derive(Clone, Debug)]
pub struct Record {
    /// Sequence number.
    pub seq: u64,
    /// True if all copies were written to the mailboxes since the last boot.
    pub done: bool,
    /// Times of the changes of that write.
    pub changed: ChangeTimes,
    /// Offset in the journal.
    pub(super) at: u64,
    /// Bytes in the table.
    pub(super) table: u64,
    /// Number of messages in the table.
    pub(super) messages: u32,
    pub(super) trailer: Trailer,
    pub(super) checkpoint: u64,
}

/// Reference to a file of large content (`contents.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentReference {
    /// Number that is the name of the file.
    pub number: u64,
    /// CRC-32 of the content.
    pub checksum: u32,
}

/// Content of a recorded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedContent {
    /// In the journal, at this offset.
    Journal(u64),
    /// In a separate file.
    File(ContentReference),
}

/// Message of a record.
#[derive(Clone, Debug)]
pub struct RecordedMessage {
    /// Id of the message.
    pub id: String,
    /// From_ line and Return-Path field.
    pub head: Vec<u8>,
    /// Bytes of content.
    pub octets: u64,
    /// Content, which has this size.
    pub content: RecordedContent,
    /// Copies that are neither resolved nor aborted, each with its number in the record.
    pub copies: Vec<(usize, Placement)>,
    /// Copies that are aborted.
    pub aborted: Vec<Placement>,
}

impl RecordedMessage {
    /// Returns the placements of its copies, aborted ones included.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.copies.iter().map(|(_, copy)| copy).chain(&self.aborted)
    }

    /// Sorts the copies by their marks in `trailer`.
    pub(super) fn apply_marks(&mut self, trailer: &Trailer) {
        self.copies.retain(|(n, _)| !trailer.has(*n, RESOLVED));
        let aborted = self.copies.extract_if(.., |(n, _)| trailer.has(*n, ABORTED));
        self.aborted = aborted.map(|(_, copy)| copy).collect();
    }
}

/// Fields of a copy in a table.
pub struct CopyFields<'a> {
    kind: u8,
    /// Name of the mailbox, or id of the entry of the queue.
    name: &'a str,
    /// Address of the mailbox, or envelope of the entry.
    detail: &'a str,
    owner: Option<Owner>,
    inode: u64,
    offset: u64,
    missing_newlines: usize,
}

impl CopyFields<'_> {
    /// True if the copy is for `file`.
    pub fn is_for(&self, file: &DestinationFile) -> bool {
        match file {
            DestinationFile::Mailbox(name) => self.kind == MAILBOX && self.name == name.as_str(),
            DestinationFile::QueueEntry(id) => self.kind == QUEUE_ENTRY && self.name == id.as_str(),
        }
    }

    /// Returns the placement of the copy.
    fn placement(&self) -> Option<Placement> {
        let to = match self.kind {
            MAILBOX => Destination::Mailbox(UserMailbox {
                name: MailboxName::new(self.name)?,
                owner: self.owner,
                delivered_to: self.detail.into(),
            }),
            _ => Destination::Queue {
                id: QueueId::new(self.name)?,
                envelope: self.detail.to_owned(),
            },
        };
        let (inode, offset, missing_newlines) = (self.inode, self.offset, self.missing_newlines);
        Some(Placement { file: to.file(), to, inode, offset, missing_newlines })
    }
}

/// Times (ctime) of the files that a batch has changed, after it was written. A file with a later
/// time was changed by another program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeTimes {
    /// The latest time of its mailboxes.
    pub mailboxes: ChangeTime,
    /// Time of the queue's directory.
    pub queue: ChangeTime,
}

impl ChangeTimes {
    /// Times that are not known, so that no change is later.
    pub const UNKNOWN: ChangeTimes = ChangeTimes { mailboxes: (i64::MAX, 0), queue: (i64::MAX, 0) };
}

/// Marks of a record, which follow it in separate blocks.
#[derive(Clone, Debug)]
pub struct Trailer {
    /// Offset in the journal.
    pub(super) at: u64,
    /// Sequence number of the record.
    pub(super) seq: u64,
    /// Boot mark of the boot in which all copies were written, or 0.
    pub(super) done: u64,
    pub(super) changed: ChangeTimes,
    /// Marks of each copy: [`RESOLVED`], [`ABORTED`], both or none.
    marks: Vec<u8>,
}

impl Trailer {
    /// Makes a trailer without marks for a record of `copies` copies.
    pub(super) fn new(at: u64, seq: u64, copies: usize) -> Trailer {
        Trailer { at, seq, done: 0, changed: ChangeTimes::UNKNOWN, marks: vec![0; copies] }
    }

    /// Reads the marks from the block of the trailer. A sector that is torn, or of another record,
    /// is ignored, so that its copies are examined and the record does not count as done.
    pub(super) fn read_marks(&mut self, block: &[u8], key: u64) {
        let sectors = block.chunks(SECTOR as usize).zip(self.marks.chunks_mut(SECTOR_COPIES));
        let done = sectors
            .enumerate()
            .map(|(number, (sector, marks))| read_sector(sector, key, self.seq, number, marks));
        let all: Vec<Option<(u64, ChangeTimes)>> = done.collect();
        let same = all.iter().copied().reduce(|a, b| a.filter(|_| a == b)).flatten();
        (self.done, self.changed) = same.unwrap_or((0, ChangeTimes::UNKNOWN));
    }

    /// Returns the number of bytes of the trailer of a record of `copies` copies: whole blocks.
    pub(super) fn octets(copies: usize) -> u64 {
        (copies.div_ceil(SECTOR_COPIES) as u64 * SECTOR).next_multiple_of(BLOCK)
    }

    /// Returns the offset of its end in the journal.
    pub(super) fn end(&self) -> u64 {
        self.at + Trailer::octets(self.marks.len())
    }

    /// Marks a copy as resolved: recovery has nothing to do for it.
    pub(super) fn resolve(&mut self, copy: usize) {
        self.mark(copy, RESOLVED);
    }

    /// Marks a copy as aborted: it was not delivered, and was removed again.
    pub fn abort(&mut self, copy: usize) {
        self.mark(copy, ABORTED);
    }

    fn mark(&mut self, copy: usize, mark: u8) {
        self.marks.get_mut(copy).into_iter().for_each(|marks| *marks |= mark);
    }

    fn has(&self, copy: usize, mark: u8) -> bool {
        self.marks.get(copy).is_some_and(|marks| marks & mark != 0)
    }

    /// Returns the sectors of the trailer that have marks.
    pub(super) fn to_bytes(&self, key: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK as usize);
        for (number, marks) in self.marks.chunks(SECTOR_COPIES).enumerate() {
            let at = bytes.len();
            bytes.extend_from_slice(TRAILER_MAGIC);
            bytes.extend_from_slice(&self.seq.to_le_bytes());
            bytes.extend_from_slice(&self.done.to_le_bytes());
            for (seconds, nanoseconds) in [self.changed.mailboxes, self.changed.queue] {
                bytes.extend_from_slice(&seconds.to_le_bytes());
                bytes.extend_from_slice(&nanoseconds.to_le_bytes());
            }
            bytes.extend_from_slice(marks);
            bytes.resize(at + SECTOR as usize - 4, 0);
            let crc = sector_crc(bytes.get(at..).unwrap_or_default(), key, number);
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        bytes
    }
}

/// Reads the marks in one sector of the trailer of record `seq`. Returns its mark `done` and the
/// times that belong to it, or None if the sector was not written whole.
fn read_sector(
    sector: &[u8],
    key: u64,
    seq: u64,
    number: usize,
    marks: &mut [u8],
) -> Option<(u64, ChangeTimes)> {
    let (body, crc) = sector.split_last_chunk::<4>()?;
    let mut fields = FieldReader(body);
    let is_ours = fields.take(8)? == TRAILER_MAGIC && fields.u64()? == seq;
    if !is_ours || u32::from_le_bytes(*crc) != sector_crc(body, key, number) {
        return None;
    }
    marks.copy_from_slice(body.get(TRAILER_HEAD..)?.get(..marks.len())?);
    let done = fields.u64()?;
    Some((done, ChangeTimes { mailboxes: fields.change_time()?, queue: fields.change_time()? }))
}

fn sector_crc(body: &[u8], key: u64, number: usize) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&key.to_le_bytes());
    crc.update(&(number as u64).to_le_bytes());
    crc.update(body);
    crc.finalize()
}

/// Messages of a record to be written, with the placement of each copy.
#[derive(Debug, Default)]
pub struct Draft<'a> {
    /// Messages in the order in which they are written.
    pub messages: Vec<(&'a Message, Vec<Placement>)>,
}

impl Draft<'_> {
    /// Returns the number of bytes that the record takes in the journal.
    pub fn octets(&self) -> u64 {
        let used = RECORD_HEAD as u64 + self.table().len() as u64 + self.contents();
        used.next_multiple_of(BLOCK) + Trailer::octets(self.copies())
    }

    /// Returns the most bytes that `message` alone can take in a journal.
    pub fn octets_max(message: &Message) -> u64 {
        let copy = |to: &Destination| {
            COPY_MAX
                + match to {
                    Destination::Mailbox(mailbox) => mailbox.delivered_to.len() as u64,
                    Destination::Queue { envelope, .. } => envelope.len() as u64,
                }
        };
        let table = message.to.iter().map(copy).sum::<u64>() + message.head.len() as u64;
        table + journaled(message).len() as u64 + BLOCK + Trailer::octets(message.to.len())
    }

    /// Returns the number of bytes of all contents that the record contains.
    pub(super) fn contents(&self) -> u64 {
        self.messages.iter().map(|(m, _)| journaled(m).len() as u64).sum()
    }

    /// Returns the number of copies.
    pub(super) fn copies(&self) -> usize {
        self.messages.iter().map(|(_, copies)| copies.len()).sum()
    }

    /// Returns the bytes of the table.
    pub(super) fn table(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 * self.messages.len());
        for (message, copies) in &self.messages {
            put_field(&mut out, message.id.as_bytes());
            put_field(&mut out, &message.head);
            out.extend_from_slice(&message.content.size().to_le_bytes());
            match &message.content {
                Content::Memory(_) => out.push(IN_JOURNAL),
                Content::File(file) => {
                    out.push(IN_FILE);
                    out.extend_from_slice(&file.number().to_le_bytes());
                    out.extend_from_slice(&file.checksum().to_le_bytes());
                }
            }
            out.extend_from_slice(&(copies.len() as u32).to_le_bytes());
            copies.iter().for_each(|copy| put_placement(&mut out, copy));
        }
        out
    }
}

fn put_placement(out: &mut Vec<u8>, copy: &Placement) {
    match &copy.to {
        Destination::Mailbox(UserMailbox { name, owner, delivered_to }) => {
            out.push(MAILBOX);
            put_field(out, name.as_str().as_bytes());
            put_field(out, delivered_to.as_bytes());
            out.push(u8::from(owner.is_some()));
            out.extend_from_slice(&owner.map_or(0, |o| o.uid).to_le_bytes());
            out.extend_from_slice(&owner.map_or(0, |o| o.gid).to_le_bytes());
        }
        Destination::Queue { id, envelope } => {
            out.push(QUEUE_ENTRY);
            put_field(out, id.as_str().as_bytes());
            put_field(out, envelope.as_bytes());
        }
    }
    for n in [copy.inode, copy.offset] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.push(copy.missing_newlines as u8);
}

fn put_field(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&(field.len() as u32).to_le_bytes());
    out.extend_from_slice(field);
}

/// Head of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHead {
    pub seq: u64,
    /// Checkpoint as it was when the record was written.
    pub checkpoint: u64,
    /// Bytes in the table.
    pub table: u64,
    /// Bytes in the contents.
    pub contents: u64,
    pub messages: u32,
}

impl RecordHead {
    /// Returns the head without its checksum.
    pub fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_HEAD);
        bytes.extend_from_slice(RECORD_MAGIC);
        for n in [self.seq, self.checkpoint, self.table, self.contents] {
            bytes.extend_from_slice(&n.to_le_bytes());
        }
        bytes.extend_from_slice(&self.messages.to_le_bytes());
        bytes
    }

    /// Parses a head and returns it with its checksum.
    pub fn parse(bytes: &[u8; RECORD_HEAD]) -> Option<(RecordHead, u32)> {
        let mut fields = FieldReader(bytes);
        if fields.take(8)? != RECORD_MAGIC {
            return None;
        }
        let head = RecordHead {
            seq: fields.u64()?,
            checkpoint: fields.u64()?,
            table: fields.u64()?,
            contents: fields.u64()?,
            messages: fields.u32()?,
        };
        Some((head, fields.u32()?))
    }

    /// Returns the number of bytes of head, table and contents.
    pub fn octets(&self) -> u64 {
        (RECORD_HEAD as u64).saturating_add(self.table).saturating_add(self.contents)
    }
}

/// Block that begins as a record or a trailer does, whatever follows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Magic {
    Record { at: u64, seq: u64 },
    Trailer { at: u64, seq: u64, done: bool },
}

/// Returns the magic at the beginning of the block at offset `at`, if it has one.
pub(super) fn magic_of(block: &[u8], at: u64) -> Option<Magic> {
    let mut fields = FieldReader(block);
    match fields.take(8)? {
        RECORD_MAGIC => Some(Magic::Record { at, seq: fields.u64()? }),
        TRAILER_MAGIC => Some(Magic::Trailer { at, seq: fields.u64()?, done: fields.u64()? != 0 }),
        _ => None,
    }
}

/// Parses a table of `count` messages. Their contents begin at `contents_at` in the journal. Calls
/// `visit` with each message that has copies for which `is_selected` returns true, and with these
/// copies only. Copies are numbered. Returns the number of all copies, or None if the table is
/// damaged.
pub(super) fn parse_table(
    table: &[u8],
    count: u32,
    mut contents_at: u64,
    is_selected: impl Fn(usize, &CopyFields<'_>) -> bool,
    mut visit: impl FnMut(RecordedMessage),
) -> Option<usize> {
    let (mut fields, mut number) = (FieldReader(table), 0);
    for _ in 0..count {
        let (id, head, octets) = (fields.text()?, fields.field()?, fields.u64()?);
        let content = match fields.u8()? {
            IN_JOURNAL => {
                let at = contents_at;
                contents_at = contents_at.saturating_add(octets);
                RecordedContent::Journal(at)
            }
            IN_FILE => RecordedContent::File(ContentReference {
                number: fields.u64()?,
                checksum: fields.u32()?,
            }),
            _ => return None,
        };
        let mut copies = Vec::new();
        for _ in 0..fields.u32()? {
            let copy = fields.copy()?;
            if is_selected(number, &copy) {
                copies.push((number, copy.placement()?));
            }
            number += 1;
        }
        if !copies.is_empty() {
            let (id, head, aborted) = (id.to_owned(), head.to_vec(), Vec::new());
            visit(RecordedMessage { id, head, octets, content, copies, aborted });
        }
    }
    Some(number)
}

/// Returns the content that goes into the journal: all of it, or nothing if it is in a file.
pub(super) fn journaled(message: &Message) -> &[u8] {
    match &message.content {
        Content::Memory(bytes) => bytes,
        Content::File(..) => &[],
    }
}

/// Reader of binary fields. Each method returns None at the end of the bytes.
pub(super) struct FieldReader<'a>(pub &'a [u8]);

impl<'a> FieldReader<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(field)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn change_time(&mut self) -> Option<ChangeTime> {
        Some((self.i64()?, self.i64()?))
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    fn text(&mut self) -> Option<&'a str> {
        str::from_utf8(self.field()?).ok()
    }

    fn copy(&mut self) -> Option<CopyFields<'a>> {
        let (kind, name, detail) = (self.u8()?, self.text()?, self.text()?);
        let owner = match kind {
            MAILBOX => {
                let (owned, uid, gid) = (self.u8()? == 1, self.u32()?, self.u32()?);
                owned.then_some(Owner { uid, gid })
            }
            QUEUE_ENTRY => None,
            _ => return None,
        };
        let (inode, offset) = (self.u64()?, self.u64()?);
        let missing_newlines = usize::from(self.u8()?);
        Some(CopyFields { kind, name, detail, owner, inode, offset, missing_newlines })
    }
}

/// Kinds of destination in the table.
const MAILBOX: u8 = 0;
const QUEUE_ENTRY: u8 = 1;
/// Places of content in the table.
const IN_FILE: u8 = 0;
const IN_JOURNAL: u8 = 1;

const RECORD_MAGIC: &[u8] = b"mslotrec";
const TRAILER_MAGIC: &[u8] = b"mslotend";
/// Bytes in the head of a record, its checksum included.
pub(super) const RECORD_HEAD: usize = 48;
/// Bytes in a sector of a trailer before the marks of its copies.
const TRAILER_HEAD: usize = 56;
/// Number of copies with marks in a sector of a trailer.
const SECTOR_COPIES: usize = SECTOR as usize - TRAILER_HEAD - 4;
/// Marks of a copy in a trailer.
const RESOLVED: u8 = 1;
const ABORTED: u8 = 2;
/// Most bytes that a copy takes in the table without its address or envelope.
const COPY_MAX: u64 = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_sector_of_a_trailer_counts_as_not_written() {
        let (key, seq, copies) = (77, 5, 3 * SECTOR_COPIES + 10);
        let mut trailer = Trailer::new(BLOCK, seq, copies);
        let marked: Vec<usize> = (0..copies).step_by(7).collect();
        marked.iter().for_each(|n| trailer.resolve(*n));
        marked.iter().for_each(|n| trailer.abort(*n + 1));
        trailer.done = 99;
        trailer.changed = ChangeTimes { mailboxes: (-1, 5), queue: (7, 999_999_999) };
        let whole = trailer.to_bytes(key);
        assert_eq!(whole.len(), 4 * SECTOR as usize);
        let octets = |sectors| Trailer::octets(sectors * SECTOR_COPIES);
        assert_eq!([octets(4), octets(8), octets(9)], [BLOCK, BLOCK, 2 * BLOCK]);
        let read = |bytes: &[u8]| {
            let mut read = Trailer::new(BLOCK, seq, copies);
            read.read_marks(bytes, key);
            read
        };
        let all = read(&whole);
        assert_eq!((all.done, &all.marks), (99, &trailer.marks));
        assert_eq!(all.changed, trailer.changed);
        for torn in 0..4 {
            // Zeros, another record's sector, a bit, and the sector of another place.
            for way in 0..4 {
                let mut bytes = whole.clone();
                let sector = &mut bytes[torn * SECTOR as usize..][..SECTOR as usize];
                match way {
                    0 => sector.fill(0),
                    1 => {
                        let other = Trailer::new(BLOCK, seq - 1, copies).to_bytes(key);
                        sector.copy_from_slice(&other[torn * SECTOR as usize..][..SECTOR as usize]);
                    }
                    2 => sector[60] ^= 1,
                    _ => {
                        let other = (torn + 1) % 4 * SECTOR as usize;
                        sector.copy_from_slice(&whole[other..][..SECTOR as usize]);
                    }
                }
                let found = read(&bytes);
                assert_eq!(found.done, 0, "sector {torn}, way {way}");
                assert_eq!(found.changed, ChangeTimes::UNKNOWN);
                for n in 0..copies {
                    let (there, is_marked) = (n / SECTOR_COPIES != torn, n % 7 == 0);
                    assert_eq!(found.has(n, RESOLVED), there && is_marked, "copy {n}");
                }
            }
        }
    }
}
