//! The journal makes a whole batch durable with one write and one sync, so that mailboxes can be
//! synced later, all together.
//!
//! Each process has one file, `journal-N` in the spool, which it locks (flock) for its lifetime and
//! fills with zeros once, so that no later sync has metadata to write. All numbers are
//! little-endian. Version 2:
//!
//! ```text
//! offset 0          the header, one block of 4096 bytes
//!   0   8  "mslotjn2"
//!   8   8  bytes in each segment
//!  16   8  checkpoint: records up to this number are not needed any more
//!  24   8  key: random, and new each time the journal is reset
//!  32   4  bytes in the identity of the owner (locks.rs), and the identity
//!   .   4  CRC-32 of all bytes before it
//! offset 4096       segment 0, then segment 1: records, each at the start of a block
//!
//! a record
//!   0   8  "mslotrec"
//!   8   8  sequence number, greater than that of the record before
//!  16   8  checkpoint, as in the header; the greatest one that is found counts
//!  24   8  bytes in the table
//!  32   8  bytes in the contents
//!  40   4  number of messages
//!  44   4  CRC-32 of the key, the 44 bytes before, the table and the contents
//!  48      the table: for each message its id, head and length, and for each of its copies the
//!          destination, device, inode, offset and missing newlines; for a message in place also
//!          the checksums of what it will be
//!          the contents, one after the other
//!          zeros to the end of the block
//!          the trailer, a block of its own, so that writing it again cannot damage the record
//!   0   8  "mslotend"
//!   8   8  sequence number of the record
//!  16   8  done: the mark of the boot in which all copies were written to the mailboxes, or 0
//!  24      one bit for each copy: resolved, recovery has nothing to do for it
//!   .      one bit for each copy: aborted, it was not delivered and was removed again. If its
//!          bytes, or some of them, are at the end of the mailbox, recovery removes them
//! ```
//!
//! A record that is cut short fails its checksum. A record from an earlier use of the segment has a
//! number that is not greater. The first was never acknowledged, and the second is not needed any
//! more. The key is secret, so that no client can send mail whose content, left in a segment, reads
//! as a record. Sequence numbers continue those of the journals that were recovered, because a
//! message that recovery records again must have the greater number in the later record.
//!
//! A message above `message::MEMORY_MAX` bytes is not copied into the journal. It is written and
//! synced *in place*. Its record, made before, has the position, and a checksum of each aligned
//! chunk of the mailbox that it will fill. A crash leaves such a chunk whole, zero or missing, so
//! recovery can distinguish our bytes from those of another program. A very large message with very
//! many copies has chunks larger than a block. Such a chunk that was begun is not recognized, and
//! is left alone.

mod record;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::record::{
    COPIES_MAX, Draft, MESSAGES_MAX, Placement, Record, RecordedMessage, Sums, Trailer,
};
use self::record::{FieldReader, RECORD_HEAD, RecordHead, apply_marks, journaled, parse_table};
use super::disk::{BLOCK, Disk, DiskFile, FileLock, OpenMode};
use super::locks::{IDENTITY_MAX, Identity};
use crate::message::DestinationFile;

/// Journal file, locked by this process as long as this value exists.
#[derive(Debug)]
pub struct Journal {
    /// Path of the file.
    pub path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Bytes in each segment.
    segment: u64,
    /// Segment that records are written to: 0 or 1.
    active: u64,
    /// Offset of the next record.
    position: u64,
    /// Sequence number of the newest record.
    seq: u64,
    checkpoint: u64,
    /// Checkpoint in the header on disk.
    persisted_checkpoint: u64,
    key: u64,
    boot_mark: u64,
    /// Sequence number of the first record that could not be synced. Its messages were not
    /// delivered.
    failed: Option<u64>,
}

/// Journal whose process is dead, as [`inspect`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanSummary {
    /// Process that had the journal.
    pub pid: Option<u32>,
    /// Messages that are perhaps not in their mailboxes.
    pub messages: usize,
}

/// Returns the paths of all journals in `spool`.
pub fn list(disk: &dyn Disk, spool: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = disk.read_directory(spool)?;
    names.retain(|n| n.strip_prefix(PREFIX).is_some_and(|n| n.parse::<u32>().is_ok()));
    names.sort();
    Ok(names.iter().map(|n| spool.join(n)).collect())
}

/// Returns the identity of the last owner of the journal `path`, if it can be read.
pub fn owner(disk: &dyn Disk, path: &Path) -> Option<Identity> {
    let file = disk.open(path, OpenMode::Read).ok()?;
    read_header(&*file).ok()??.owner
}

/// Reads the journal `path` without a lock. Returns None if its process lives, or if the journal
/// was never used. The result may be outdated if a process takes the journal over meanwhile.
pub fn inspect(disk: &dyn Disk, path: &Path) -> io::Result<Option<OrphanSummary>> {
    let file = disk.open(path, OpenMode::Read)?;
    let Some(header) = read_header(&*file)? else { return Ok(None) };
    let Some(owner) = header.owner.clone() else { return Ok(None) };
    let boot_mark = Identity::new(disk).boot_mark();
    if owner.boot_mark() == boot_mark && !owner.is_dead(disk) {
        return Ok(None);
    }
    let mut journal = Journal::with_header(path.to_owned(), file, boot_mark, &header);
    let records = journal.read()?;
    let messages = records.iter().flat_map(|record| &record.messages);
    let messages = messages.filter(|message| !message.copies.is_empty()).count();
    Ok(Some(OrphanSummary { pid: owner.pid().filter(|pid| *pid != 0), messages }))
}

impl Journal {
    /// Creates a journal in `spool` with segments of `segment` bytes, owned by `owner`.
    pub fn create(
        disk: &dyn Disk,
        spool: &Path,
        segment: u64,
        owner: &Identity,
    ) -> io::Result<Journal> {
        for n in 0..1000 {
            let path = spool.join(format!("{PREFIX}{n}"));
            match disk.open(&path, OpenMode::Create { mode: 0o600, owner: None }) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            let Some(file) = open_and_lock(disk, &path)? else { continue };
            let header = JournalHeader { segment, checkpoint: 0, key: new_key(), owner: None };
            let mut journal = Journal::with_header(path, file, owner.boot_mark(), &header);
            let created = journal.fill(owner).and_then(|()| disk.sync_directory(spool));
            if let Err(e) = created {
                let _ = disk.unlink(&journal.path);
                return Err(e);
            }
            return Ok(journal);
        }
        Err(io::Error::other("a thousand journals in the spool"))
    }

    /// Opens and locks the journal `path` in the name of `us`. Returns None if a living process has
    /// it. The identity is that of its last owner, if the header can be read.
    pub fn take_over(
        disk: &dyn Disk,
        path: &Path,
        us: &Identity,
    ) -> io::Result<Option<(Journal, Option<Identity>)>> {
        let Some(file) = open_and_lock(disk, path)? else { return Ok(None) };
        let header = read_header(&*file)?.unwrap_or_default();
        let journal = Journal::with_header(path.to_owned(), file, us.boot_mark(), &header);
        Ok(Some((journal, header.owner)))
    }

    fn with_header(
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        boot_mark: u64,
        header: &JournalHeader,
    ) -> Journal {
        Journal {
            path,
            file,
            segment: header.segment,
            active: 0,
            position: BLOCK,
            seq: header.checkpoint,
            checkpoint: header.checkpoint,
            persisted_checkpoint: header.checkpoint,
            key: header.key,
            boot_mark,
            failed: None,
        }
    }

    /// Returns the number of bytes in each segment, which is 0 if the journal was never filled.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// Returns the sequence number of the newest record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Discards all records and makes `owner` the owner of the journal.
    pub fn reset(&mut self, owner: &Identity) -> io::Result<()> {
        (self.checkpoint, self.key) = (self.seq, new_key());
        (self.active, self.position) = (0, BLOCK);
        self.write_header(owner)
    }

    /// Writes the checkpoint to the header and syncs it.
    pub fn persist_checkpoint(&mut self, owner: &Identity) -> io::Result<()> {
        self.write_header(owner)
    }

    /// Leaves the journal to the next recovery: resolves all copies but those in `files`. If their
    /// `disk_failed`, the records do not count as done, because a file system that is checked and
    /// mounted again forgets what it could not write, as after a reboot.
    pub fn retain_for(
        &mut self,
        files: &HashSet<DestinationFile>,
        disk_failed: bool,
    ) -> io::Result<()> {
        for mut record in self.read()? {
            if disk_failed {
                record.trailer.done = 0;
            }
            let copies = record.messages.iter().flat_map(|m| &m.copies);
            let failed = self.has_failed(&record);
            let others = copies.filter(|(_, copy)| failed || !files.contains(&copy.file));
            let others: Vec<usize> = others.map(|(n, _)| *n).collect();
            self.resolve(&mut record, &others)?;
        }
        self.write_header(&Identity::none())
    }

    /// Makes the number of the next record greater than `seq`.
    pub fn skip_to(&mut self, seq: u64) {
        if self.is_clean() {
            self.checkpoint = self.checkpoint.max(seq);
        }
        self.seq = self.seq.max(seq);
    }

    /// Notes that records up to `seq` are not needed any more. The next record says so on disk.
    pub fn advance_checkpoint(&mut self, seq: u64) {
        self.checkpoint = self.checkpoint.max(seq);
    }

    /// True if no record is needed any more.
    pub fn is_clean(&self) -> bool {
        self.checkpoint >= self.seq
    }

    /// True if no record is needed any more, and the header on disk says so.
    pub fn is_checkpoint_persisted(&self) -> bool {
        self.persisted_checkpoint >= self.seq
    }

    /// True if a record of `draft` fits into the active segment.
    pub fn has_room(&self, draft: &Draft<'_>) -> bool {
        self.position + draft.octets() <= BLOCK + (self.active + 1) * self.segment
    }

    /// Makes the other segment the active one. Its records must not be needed any more.
    pub fn switch_segment(&mut self) {
        self.active ^= 1;
        self.position = BLOCK + self.active * self.segment;
    }

    /// Writes `draft` as one record. It is durable after [`Journal::sync`].
    pub fn write(&mut self, draft: &Draft<'_>) -> io::Result<Trailer> {
        let seq = self.seq + 1;
        let table = draft.table();
        let head = RecordHead {
            seq,
            checkpoint: self.checkpoint,
            table: table.len() as u64,
            contents: draft.contents(),
            messages: draft.messages.len() as u32,
        };
        let mut head_bytes = head.to_bytes();
        let mut crc = self.keyed_crc();
        crc.update(&head_bytes);
        crc.update(&table);
        for (message, _) in &draft.messages {
            crc.update(journaled(message));
        }
        head_bytes.extend_from_slice(&crc.finalize().to_le_bytes());
        let used = head.octets();
        let padding = vec![0; (used.next_multiple_of(BLOCK) - used) as usize];
        let trailer =
            Trailer::new(self.position + used.next_multiple_of(BLOCK), seq, draft.copies());
        let mut trailer_block = trailer.to_bytes();
        trailer_block.resize(BLOCK as usize, 0);
        let mut parts = vec![&head_bytes[..], &table[..]];
        parts.extend(draft.messages.iter().map(|(message, _)| journaled(message)));
        parts.extend([&padding[..], &trailer_block[..]]);
        self.file.write_all_at(&parts, self.position)?;
        self.seq = seq;
        self.position = trailer.at + BLOCK;
        Ok(trailer)
    }

    /// Makes the records durable (fdatasync).
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Notes that record `seq`, the newest or the next one, could not be made durable. Its messages
    /// are not delivered, whatever part of it may be on the disk.
    pub fn mark_failed(&mut self, seq: u64) {
        self.failed = Some(self.failed.map_or(seq, |first| first.min(seq)));
    }

    /// True if `record` could not be made durable.
    pub fn has_failed(&self, record: &Record) -> bool {
        self.failed.is_some_and(|seq| record.seq >= seq)
    }

    /// Marks the record as done: until the next boot, a missing copy was removed by a mail reader.
    pub fn mark_done(&self, trailer: &mut Trailer) {
        trailer.done = self.boot_mark;
    }

    /// Writes the marks of a record. They are not synced.
    pub fn write_marks(&self, trailer: &Trailer) -> io::Result<()> {
        self.file.write_all_at(&[&trailer.to_bytes()], trailer.at)
    }

    /// Marks copies of a record that was read back as resolved. The marks are not synced.
    pub fn resolve(&self, record: &mut Record, copies: &[usize]) -> io::Result<()> {
        copies.iter().for_each(|n| record.trailer.resolve(*n));
        self.write_marks(&record.trailer)
    }

    /// Reads the records that are still needed, oldest first, and continues their numbers.
    pub fn read(&mut self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for segment in 0..2 {
            let mut at = BLOCK + segment * self.segment;
            let end = at + self.segment;
            let mut last = 0;
            while let Some(record) = self.read_record(at, end)? {
                if record.seq <= last {
                    break;
                }
                (last, at) = (record.seq, record.end);
                self.seq = self.seq.max(record.seq);
                self.checkpoint = self.checkpoint.max(record.checkpoint);
                records.push(record);
            }
        }
        records.retain(|r| r.seq > self.checkpoint);
        records.sort_by_key(|r| r.seq);
        Ok(records)
    }

    /// Reads the content of a message. Returns None for a message in place.
    pub fn content(&self, message: &RecordedMessage) -> io::Result<Option<Vec<u8>>> {
        let Some(at) = message.content_at else { return Ok(None) };
        let mut content = vec![0; usize::try_from(message.octets).unwrap_or_default()];
        self.file.read_exact_at(&mut content, at)?;
        Ok(Some(content))
    }

    /// Reads the record at `at`. Returns None if no whole record is there.
    fn read_record(&self, at: u64, end: u64) -> io::Result<Option<Record>> {
        let mut head_bytes = [0; RECORD_HEAD];
        if at + RECORD_HEAD as u64 > end || !read_whole(&*self.file, &mut head_bytes, at)? {
            return Ok(None);
        }
        let Some((head, sum)) = RecordHead::parse(&head_bytes) else { return Ok(None) };
        if head.octets() > end - at {
            return Ok(None);
        }
        let mut body = vec![0; (head.table + head.contents) as usize];
        if !read_whole(&*self.file, &mut body, at + RECORD_HEAD as u64)? {
            return Ok(None);
        }
        let mut crc = self.keyed_crc();
        crc.update(&head_bytes[..RECORD_HEAD - 4]);
        crc.update(&body);
        if crc.finalize() != sum {
            return Ok(None);
        }
        let table = body.get(..head.table as usize).unwrap_or_default();
        let contents_at = at + RECORD_HEAD as u64 + head.table;
        let Some((mut messages, copies)) = parse_table(table, head.messages, contents_at) else {
            return Ok(None);
        };
        let mut trailer =
            Trailer::new(at + head.octets().next_multiple_of(BLOCK), head.seq, copies);
        let mut block = [0; BLOCK as usize];
        if read_whole(&*self.file, &mut block, trailer.at)? {
            trailer.read_marks(&block);
        }
        apply_marks(&mut messages, &trailer);
        Ok(Some(Record {
            seq: head.seq,
            done: trailer.done == self.boot_mark,
            messages,
            end: trailer.at + BLOCK,
            trailer,
            checkpoint: head.checkpoint,
        }))
    }

    fn keyed_crc(&self) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.key.to_le_bytes());
        crc
    }

    /// Fills a new journal with zeros and writes its header.
    fn fill(&mut self, owner: &Identity) -> io::Result<()> {
        let zeros = vec![0; 64 * 1024];
        let (mut at, end) = (0, BLOCK + 2 * self.segment);
        while at < end {
            let n = zeros.len().min((end - at) as usize);
            self.file.write_all_at(&[zeros.get(..n).unwrap_or_default()], at)?;
            at += n as u64;
        }
        self.write_header(owner)
    }

    fn write_header(&mut self, owner: &Identity) -> io::Result<()> {
        let mut header = HEADER_MAGIC.to_vec();
        header.extend_from_slice(&self.segment.to_le_bytes());
        header.extend_from_slice(&self.checkpoint.to_le_bytes());
        header.extend_from_slice(&self.key.to_le_bytes());
        header.extend_from_slice(&(owner.as_bytes().len() as u32).to_le_bytes());
        header.extend_from_slice(owner.as_bytes());
        let crc = crc32fast::hash(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        header.resize(BLOCK as usize, 0);
        self.file.write_all_at(&[&header], 0)?;
        self.file.sync()?;
        self.persisted_checkpoint = self.checkpoint;
        Ok(())
    }
}

/// Opens and locks a journal. Returns None if a living process has it, or it was removed.
fn open_and_lock(disk: &dyn Disk, path: &Path) -> io::Result<Option<Arc<dyn DiskFile>>> {
    let file = match disk.open(path, OpenMode::Write) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if !file.try_lock(FileLock::Flock)? {
        return Ok(None);
    }
    let (opened, named) = (file.stat()?, disk.lstat(path));
    Ok(named.is_ok_and(|named| named.id() == opened.id()).then_some(file))
}

/// Header of a journal. The default is that of a journal that was never filled.
#[derive(Debug, Default)]
struct JournalHeader {
    segment: u64,
    checkpoint: u64,
    key: u64,
    owner: Option<Identity>,
}

/// Reads the header. Returns None if the file was never filled, because its process was killed
/// before anything was recorded.
///
/// # Errors
/// `InvalidData` for a journal of another version, which may contain mail.
fn read_header(file: &dyn DiskFile) -> io::Result<Option<JournalHeader>> {
    let mut block = [0; BLOCK as usize];
    if !read_whole(file, &mut block, 0)? {
        return Ok(None);
    }
    let magic = &block[..HEADER_MAGIC.len()];
    if magic != HEADER_MAGIC && magic.starts_with(ANY_HEADER_MAGIC) {
        let text = "a journal of another version of mailslot; start that version once to empty it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(parse_header(&block))
}

fn parse_header(block: &[u8]) -> Option<JournalHeader> {
    let mut fields = FieldReader(block);
    if fields.take(8)? != HEADER_MAGIC {
        return None;
    }
    let (segment, checkpoint, key) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let line = fields.u32()? as usize;
    let line = fields.take(line.min(IDENTITY_MAX))?;
    let summed = block.len() - fields.0.len();
    if fields.u32()? != crc32fast::hash(block.get(..summed)?) {
        return None;
    }
    Some(JournalHeader { segment, checkpoint, key, owner: Identity::parse(line) })
}

fn new_key() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}

/// Fills `buf` from `offset`. Returns false if the file is shorter.
fn read_whole(file: &dyn DiskFile, buf: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(buf, offset) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

const PREFIX: &str = "journal-";
const HEADER_MAGIC: &[u8] = b"mslotjn2";
/// Prefix of the magic of all versions.
const ANY_HEADER_MAGIC: &[u8] = b"mslotjn";
