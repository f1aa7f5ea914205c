//! The bytes of a record: what a batch becomes in the journal, and what is read back from it.
//!
//! The head of `mod.rs` shows the layout. This file contains no call on a file but those that read
//! the content of a large message.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::deliver::disk::{BLOCK, ChangeTime};
use crate::message::{
    Content, Destination, DestinationFile, MailboxName, Message, Owner, QueueId, UserMailbox,
};

/// Maximum number of messages in a record.
pub const MESSAGES_MAX: usize = 64;
/// Maximum number of copies in a record, because each has two bits in the trailer.
pub const COPIES_MAX: usize = (BLOCK as usize - TRAILER_HEAD) / 2 * 8;

/// Position at which one copy of a message is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Destination of the copy.
    pub to: Destination,
    /// File of the destination.
    pub file: DestinationFile,
    /// Device and inode of the file.
    pub file_id: (u64, u64),
    /// Offset of the copy in bytes: the length of the file before it.
    pub offset: u64,
    /// Number of LFs, 0 to 2, that the copy begins with because the message before lacks them.
    pub missing_newlines: usize,
    /// For a message in place: what each chunk of it must be.
    pub sums: Option<Sums>,
}

/// Checksums of a stretch of a file, one for each chunk; chunks are aligned in the file, so the
/// first and the last may be shorter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// Octets in a chunk, a multiple of [`BLOCK`].
    pub chunk: u64,
    /// CRC-32 of each.
    pub crcs: Vec<u32>,
}

/// Record as it is read back.
#[derive(Clone, Debug)]
pub struct Record {
    /// Sequence number.
    pub seq: u64,
    /// True if all copies were written to the mailboxes since the last boot.
    pub done: bool,
    /// Times of the changes of that write.
    pub changed: ChangeTimes,
    /// Messages in the order in which they were written.
    pub messages: Vec<RecordedMessage>,
    pub(super) trailer: Trailer,
    pub(super) checkpoint: u64,
    pub(super) end: u64,
}

impl Record {
    /// Returns the placements of all copies that are not resolved, aborted ones included.
    pub fn placements(&self) -> impl Iterator<Item = &Placement> {
        self.messages.iter().flat_map(|m| m.copies.iter().map(|(_, copy)| copy).chain(&m.aborted))
    }
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
    /// Offset of the content in the journal; None for a message in place.
    pub content_at: Option<u64>,
    /// Copies that are neither resolved nor aborted, each with its number in the record.
    pub copies: Vec<(usize, Placement)>,
    /// Copies that are aborted.
    pub aborted: Vec<Placement>,
}

/// Times (ctime) of what a batch has changed, after it was written. What was changed later was
/// changed by another program.
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

/// Marks of a record, which follow it in a block of their own.
#[derive(Clone, Debug)]
pub struct Trailer {
    /// Offset in the journal.
    pub(super) at: u64,
    /// Sequence number of the record.
    pub(super) seq: u64,
    /// Boot mark of the boot in which all copies were written, or 0.
    pub(super) done: u64,
    pub(super) changed: ChangeTimes,
    resolved: Vec<u8>,
    aborted: Vec<u8>,
}

impl Trailer {
    /// Makes a trailer without marks for a record of `copies` copies.
    pub(super) fn new(at: u64, seq: u64, copies: usize) -> Trailer {
        let bits = vec![0; copies.div_ceil(8)];
        let changed = ChangeTimes::UNKNOWN;
        Trailer { at, seq, done: 0, changed, resolved: bits.clone(), aborted: bits }
    }

    /// Reads the marks from the block of the trailer. A block of another record is ignored, so that
    /// every copy is examined.
    pub(super) fn read_marks(&mut self, block: &[u8]) {
        let mut fields = FieldReader(block);
        if fields.take(8) != Some(TRAILER_MAGIC) || fields.u64() != Some(self.seq) {
            return;
        }
        self.done = fields.u64().unwrap_or_default();
        if let (Some(mailboxes), Some(queue)) = (fields.change_time(), fields.change_time()) {
            self.changed = ChangeTimes { mailboxes, queue };
        }
        let n = self.resolved.len();
        if let (Some(resolved), Some(aborted)) = (fields.take(n), fields.take(n)) {
            (self.resolved, self.aborted) = (resolved.to_vec(), aborted.to_vec());
        }
    }

    /// Marks a copy as resolved: recovery has nothing to do for it.
    pub(super) fn resolve(&mut self, copy: usize) {
        set_bit(&mut self.resolved, copy);
    }

    /// Marks a copy as aborted: it was not delivered, and was removed again.
    pub fn abort(&mut self, copy: usize) {
        set_bit(&mut self.aborted, copy);
    }

    /// Returns the bytes of the trailer, without the zeros that fill its block.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = TRAILER_MAGIC.to_vec();
        bytes.extend_from_slice(&self.seq.to_le_bytes());
        bytes.extend_from_slice(&self.done.to_le_bytes());
        for (seconds, nanoseconds) in [self.changed.mailboxes, self.changed.queue] {
            bytes.extend_from_slice(&seconds.to_le_bytes());
            bytes.extend_from_slice(&nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(&self.resolved);
        bytes.extend_from_slice(&self.aborted);
        bytes
    }
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
        used.next_multiple_of(BLOCK) + BLOCK
    }

    /// Returns the most bytes that `message` alone can take in a journal with segments of `segment`
    /// bytes.
    pub fn octets_max(message: &Message, segment: u64) -> u64 {
        let copy = |to: &Destination| {
            COPY_MAX
                + match to {
                    Destination::Mailbox(mailbox) => mailbox.delivered_to.len() as u64,
                    Destination::Queue { envelope, .. } => envelope.len() as u64,
                }
        };
        let table = message.to.iter().map(copy).sum::<u64>() + message.head.len() as u64;
        let contents = match &message.content {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::File(_, octets) => {
                let chunks = (octets / BLOCK + 2) * message.to.len() as u64;
                (4 * chunks).min(segment / 8)
            }
        };
        table + contents + BLOCK
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
            out.push(u8::from(matches!(message.content, Content::Memory(_))));
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
    for n in [copy.file_id.0, copy.file_id.1, copy.offset] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    out.push(copy.missing_newlines as u8);
    let sums = copy.sums.as_ref();
    out.extend_from_slice(&sums.map_or(0, |s| s.chunk).to_le_bytes());
    out.extend_from_slice(&(sums.map_or(0, |s| s.crcs.len()) as u32).to_le_bytes());
    for crc in sums.iter().flat_map(|s| &s.crcs) {
        out.extend_from_slice(&crc.to_le_bytes());
    }
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

/// Returns what the block at offset `at` begins as.
pub(super) fn magic_of(block: &[u8], at: u64) -> Option<Magic> {
    let mut fields = FieldReader(block);
    match fields.take(8)? {
        RECORD_MAGIC => Some(Magic::Record { at, seq: fields.u64()? }),
        TRAILER_MAGIC => Some(Magic::Trailer { at, seq: fields.u64()?, done: fields.u64()? != 0 }),
        _ => None,
    }
}

/// Parses a table of `count` messages, whose contents begin at `contents_at` in the journal.
/// Returns the messages and the number of their copies.
pub(super) fn parse_table(
    table: &[u8],
    count: u32,
    mut contents_at: u64,
) -> Option<(Vec<RecordedMessage>, usize)> {
    let mut fields = FieldReader(table);
    let (mut messages, mut copies) = (Vec::new(), 0);
    for _ in 0..count {
        let mut message = fields.message(&mut copies)?;
        if message.content_at.is_some() {
            message.content_at = Some(contents_at);
            contents_at += message.octets;
        }
        messages.push(message);
    }
    Some((messages, copies))
}

/// Sorts the copies of `messages` by the marks in `trailer`.
pub(super) fn apply_marks(messages: &mut [RecordedMessage], trailer: &Trailer) {
    for message in messages {
        message.copies.retain(|(n, _)| !has_bit(&trailer.resolved, *n));
        let aborted = message.copies.extract_if(.., |(n, _)| has_bit(&trailer.aborted, *n));
        message.aborted = aborted.map(|(_, copy)| copy).collect();
    }
}

impl Sums {
    /// Returns the size of a chunk in bytes: one block, or as many as keep the checksums of all
    /// copies of a message within an eighth of a segment.
    pub fn chunk(octets: u64, copies: usize, segment: u64) -> u64 {
        let room = (segment / 8 / 4 / copies.max(1) as u64).max(1);
        octets.div_ceil(room).next_multiple_of(BLOCK).next_power_of_two()
    }

    /// Returns the checksums of a copy at `offset`: `head`, the content in `file`, an empty line.
    pub fn of_message(
        offset: u64,
        chunk: u64,
        head: &[u8],
        file: &File,
        octets: u64,
    ) -> io::Result<Sums> {
        let mut sums =
            ChecksumBuilder { sums: Sums { chunk, crcs: Vec::new() }, at: offset, open: None };
        sums.update(head);
        let (mut buf, mut at) = (vec![0; 64 * 1024], 0);
        while at < octets {
            let most = buf.len().min(usize::try_from(octets - at).unwrap_or(usize::MAX));
            match FileExt::read_at(file, &mut buf[..most], at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    sums.update(&buf[..n]);
                    at += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        sums.update(b"\n");
        Ok(sums.finish())
    }

    /// Returns begin, length and checksum of each chunk of a range of `len` bytes.
    pub fn chunks(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64, u32)> {
        let mut at = offset;
        self.crcs.iter().map_while(move |&crc| {
            let end = (at + 1).next_multiple_of(self.chunk).min(offset + len);
            let this = (at, end.checked_sub(at).filter(|&n| n > 0)?, crc);
            at = end;
            Some(this)
        })
    }
}

struct ChecksumBuilder {
    sums: Sums,
    at: u64,
    open: Option<crc32fast::Hasher>,
}

impl ChecksumBuilder {
    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (self.at + 1).next_multiple_of(self.sums.chunk) - self.at;
            let n = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (now, rest) = bytes.split_at(n);
            self.open.get_or_insert_default().update(now);
            self.at += n as u64;
            if n as u64 == room {
                self.close();
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        self.sums.crcs.extend(self.open.take().map(crc32fast::Hasher::finalize));
    }

    fn finish(mut self) -> Sums {
        self.close();
        self.sums
    }
}

/// Returns the content that goes into the journal: all of it, or nothing for a message in place.
pub(super) fn journaled(message: &Message) -> &[u8] {
    match &message.content {
        Content::Memory(bytes) => bytes,
        Content::File(..) => &[],
    }
}

fn set_bit(bits: &mut [u8], n: usize) {
    if let Some(byte) = bits.get_mut(n / 8) {
        *byte |= 1 << (n % 8);
    }
}

fn has_bit(bits: &[u8], n: usize) -> bool {
    bits.get(n / 8).is_some_and(|byte| byte & (1 << (n % 8)) != 0)
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

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.field()?.to_vec()).ok()
    }

    /// Reads a message, whose copies are numbered from `number` on.
    fn message(&mut self, number: &mut usize) -> Option<RecordedMessage> {
        let (id, head) = (self.text()?, self.field()?.to_vec());
        let (octets, journaled) = (self.u64()?, self.u8()? == 1);
        let mut copies = Vec::new();
        for _ in 0..self.u32()? {
            copies.push((*number, self.placement()?));
            *number += 1;
        }
        let content_at = journaled.then_some(0);
        Some(RecordedMessage { id, head, octets, content_at, copies, aborted: Vec::new() })
    }

    fn placement(&mut self) -> Option<Placement> {
        let to = self.destination()?;
        let file_id = (self.u64()?, self.u64()?);
        let (offset, missing_newlines) = (self.u64()?, usize::from(self.u8()?));
        let (chunk, count) = (self.u64()?, self.u32()?);
        let crcs: Vec<u32> = (0..count).map_while(|_| self.u32()).collect();
        (crcs.len() == count as usize).then_some(())?;
        let sums = (chunk > 0).then_some(Sums { chunk, crcs });
        Some(Placement { file: to.file(), to, file_id, offset, missing_newlines, sums })
    }

    fn destination(&mut self) -> Option<Destination> {
        match self.u8()? {
            MAILBOX => {
                let (name, delivered_to) = (MailboxName::new(&self.text()?)?, self.text()?);
                let (owned, uid, gid) = (self.u8()? == 1, self.u32()?, self.u32()?);
                let owner = owned.then_some(Owner { uid, gid });
                Some(Destination::Mailbox(UserMailbox { name, owner, delivered_to }))
            }
            QUEUE_ENTRY => {
                let (id, envelope) = (QueueId::new(&self.text()?)?, self.text()?);
                Some(Destination::Queue { id, envelope })
            }
            _ => None,
        }
    }
}

/// Kinds of destination in the table.
const MAILBOX: u8 = 0;
const QUEUE_ENTRY: u8 = 1;

const RECORD_MAGIC: &[u8] = b"mslotrec";
const TRAILER_MAGIC: &[u8] = b"mslotend";
/// Bytes in the head of a record, its checksum included.
pub(super) const RECORD_HEAD: usize = 48;
/// Bytes in a trailer before its bits.
const TRAILER_HEAD: usize = 56;
/// Most bytes that a copy takes in the table without its address or envelope and its checksums.
const COPY_MAX: u64 = 300;
