//! The journal makes a whole batch durable with one write and one sync, so that mailboxes can be
//! synced later, all together.
//!
//! Each process has one file, `journal-N` in the spool, which it locks (flock) for its lifetime and
//! fills with zeros once, so that no later sync has metadata to write. All numbers are
//! little-endian. Version 3:
//!
//! ```text
//! offset 0          the header, in the first sector of 512 bytes of a block of 4096
//!   0   8  "mslotjn3"
//!   8   8  bytes in each segment
//!  16   8  checkpoint: records up to this number are not needed any more
//!  24   8  key: random, and new each time the journal is reset
//!  32   4  bytes in the identity of the owner (locks.rs), and the identity
//!   .   4  CRC-32 of all bytes before it
//! offset 512        the mark of a stop after which no record is needed, in the next sector
//!   0   8  "mslotcln"
//!   8   8  the key of the header; another key means that the journal was used again
//!  16   4  CRC-32 of the key and the 16 bytes before
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
//!  48      the table: for each message its id, head and length, for a large one the number and
//!          the CRC-32 of its file, and for each of its copies the destination, inode,
//!          offset and missing newlines
//!          the contents, one after the other, without large ones
//!          zeros to the end of the block
//!          the trailer, in separate blocks, so that writing it again cannot damage the record:
//!          a sector of 512 bytes for each 452 copies
//!   0   8  "mslotend"
//!   8   8  sequence number of the record
//!  16   8  done: the mark of the boot in which all copies were written to the mailboxes, or 0
//!  24  16  the latest ctime of these mailboxes after that: seconds, nanoseconds
//!  40  16  the ctime of the queue's directory after that, if the record has an entry of the queue
//!  56 452  one byte for each copy: 1 if it is resolved, so that recovery has nothing to do for
//!          it; 2 if it is aborted: it was not delivered and was removed again. If its bytes, or
//!          some of them, are at the end of the mailbox, recovery removes them
//! 508   4  CRC-32 of the key, the number of the sector in the trailer, and the bytes before it
//! ```
//!
//! No disk is trusted to write more than a sector as a whole. The header is in one. A record that
//! is cut short, or has only some of its sectors, fails its checksum. So does a sector of a
//! trailer, which then counts as not written: its copies are examined, and the record is not done.
//!
//! A record that fails its checksum was never acknowledged. A record from an earlier use of the
//! segment has a number that is not greater, and is not needed any more. The key is secret, so that
//! no client can send content that would be read as a valid record in an old segment. Sequence
//! numbers continue those of the journals that were recovered, because a message that recovery
//! records again must have the greater number in the later record.
//!
//! After a stop with the mark the next start reads no record. The mark needs no sync, because it is
//! true whenever it reaches the disk: the header with its checkpoint was synced before. It needs no
//! removal, because a process gives the journal a new key, durably, before its first record.
//!
//! Only a journal with a header of zeros was never filled. Any other header that does not match
//! its checksum is damage, and so is a bad record that was durable: newer records follow it, or its
//! trailer says that it was done. A damaged journal is kept as `journal-N.damaged-INODE`, and its
//! intact records are used.
//!
//! A message above `message::MEMORY_MAX` bytes is in a separate file (`contents.rs`), which was
//! synced before the record was written. The file is needed as long as the record.
//!
//! | file | contains |
//! | --- | --- |
//! | `record.rs` | the bytes of a record |
//! | `listing.rs` | the list of the journals in a spool |

mod listing;
mod record;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::listing::JournalListing;
pub use self::record::{
    ChangeTimes, ContentReference, CopyFields, Draft, MESSAGES_MAX, Placement, Record,
    RecordedContent, RecordedMessage, Trailer,
};
use self::record::{FieldReader, Magic, RECORD_HEAD, RecordHead, journaled, parse_table};
use super::disk::{BLOCK, Disk, DiskFile, FileKind, FileLock, OpenMode, SECTOR};
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
    header_checkpoint: u64,
    /// Greatest checkpoint that is on disk for certain, in the header or in a record.
    persisted_checkpoint: u64,
    /// Checkpoint in the newest record.
    record_checkpoint: u64,
    key: u64,
    boot_mark: u64,
    /// Sequence number of the first record that could not be synced. Its messages were not
    /// delivered.
    failed: Option<u64>,
    /// Damage that was found in the file, as a clause for the log.
    damage: Option<&'static str>,
}

/// Journal of a dead process, as [`inspect`] finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanSummary {
    /// Process that had the journal.
    pub pid: Option<u32>,
    /// Messages that are perhaps not in their mailboxes.
    pub messages: usize,
    /// Damage in the file.
    pub damage: Option<&'static str>,
}

/// Id of the file and last owner of a journal that no process has.
type UnownedJournal = ((u64, u64), Option<Identity>);

/// Returns the paths of all journals in `spool`.
pub fn list(disk: &dyn Disk, spool: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = disk.read_directory(spool)?;
    names.retain(|n| n.strip_prefix(PREFIX).is_some_and(|n| n.parse::<u32>().is_ok()));
    names.sort_unstable();
    Ok(names.iter().map(|n| spool.join(n)).collect())
}

/// Returns the paths of the damaged journals that were kept in `spool`.
pub fn list_damaged(disk: &dyn Disk, spool: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = disk.read_directory(spool)?;
    names.retain(|n| n.starts_with(PREFIX) && n.contains(DAMAGED));
    names.sort_unstable();
    Ok(names.iter().map(|n| spool.join(n)).collect())
}

/// Returns the numbers of the content files that the journals in `spool` refer to, living and
/// orphaned ones. Returns None if there is a damaged journal, because it may refer to any.
pub fn referenced_contents(disk: &dyn Disk, spool: &Path) -> io::Result<Option<Vec<u64>>> {
    if !list_damaged(disk, spool)?.is_empty() {
        return Ok(None);
    }
    let mut numbers = Vec::new();
    for path in list(disk, spool)? {
        let file = match disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        let (header, damage) = read_header(&*file)?;
        let mut journal = Journal::with_header(path, file, 0, &header);
        let records = journal.read()?;
        // If the owner of the journal lives, it may write while the journal is read.
        if damage.or(journal.damage).is_some() {
            return Ok(None);
        }
        for record in &records {
            journal.visit(record, |message| {
                if let RecordedContent::File(file) = message.content {
                    numbers.push(file.number);
                }
            })?;
        }
    }
    Ok(Some(numbers))
}

/// Returns the identity of the last owner of the journal `path`, if it can be read.
pub fn owner(disk: &dyn Disk, path: &Path) -> Option<Identity> {
    let file = disk.open(path, OpenMode::Read).ok()?;
    read_header(&*file).ok()?.0.owner
}

/// Opens the journal `path` as its next owner would, but takes no lock. Returns the bytes in one of
/// its segments, or None if it is no journal that can be used again.
///
/// # Errors
/// It cannot be opened, or other users can have written it.
pub fn probe(disk: &dyn Disk, path: &Path) -> io::Result<Option<u64>> {
    let file = match disk.open(path, OpenMode::Write) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    check_access(disk, path, &*file)?;
    let (header, damage) = read_header(&*file)?;
    Ok(damage.is_none().then_some(header.segment))
}

/// True if a process that runs on this host owns a journal in `spool`.
pub fn has_living_owner(disk: &dyn Disk, spool: &Path) -> bool {
    let journals = list(disk, spool).unwrap_or_default();
    let boot_mark = Identity::new(disk).boot_mark();
    journals.iter().filter_map(|path| owner(disk, path)).any(|owner| {
        owner.boot_mark() == boot_mark
            && owner.pid().is_some_and(|pid| pid != 0)
            && !owner.is_dead(disk)
    })
}

/// Returns the id of the file and the last owner of the journal `path`. Returns None if a process
/// has it.
pub fn find_unowned(disk: &dyn Disk, path: &Path) -> io::Result<Option<UnownedJournal>> {
    let Some(file) = open_and_lock(disk, path)? else { return Ok(None) };
    Ok(Some((file.stat()?.id(), read_header(&*file)?.0.owner)))
}

/// Reads the journal `path` without a lock. Returns None if its process lives, or if the journal
/// was never filled. The result may be outdated if a process takes the journal over meanwhile.
pub fn inspect(disk: &dyn Disk, path: &Path) -> io::Result<Option<OrphanSummary>> {
    let file = disk.open(path, OpenMode::Read)?;
    let (header, damage) = read_header(&*file)?;
    let boot_mark = Identity::new(disk).boot_mark();
    match &header.owner {
        Some(owner) if owner.boot_mark() == boot_mark && !owner.is_dead(disk) => return Ok(None),
        None if damage.is_none() => return Ok(None),
        _ => {}
    }
    let owner = header.owner.clone();
    let mut journal = Journal::with_header(path.to_owned(), file, boot_mark, &header);
    journal.damage = damage;
    let records = journal.read()?;
    let mut messages = 0;
    for record in &records {
        journal.visit(record, |message| messages += usize::from(!message.copies.is_empty()))?;
    }
    let pid = owner.and_then(|owner| owner.pid()).filter(|pid| *pid != 0);
    Ok(Some(OrphanSummary { pid, messages, damage: journal.damage }))
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

    /// Creates a journal under a name that no process takes over, and removes it.
    ///
    /// # Errors
    /// The same as those of [`Journal::create`].
    pub fn rehearse(
        disk: &dyn Disk,
        spool: &Path,
        segment: u64,
        owner: &Identity,
    ) -> io::Result<()> {
        let path = spool.join(format!("rehearsal-{}", disk.pid()));
        let file = disk.open(&path, OpenMode::Create { mode: 0o600, owner: None })?;
        let header = JournalHeader { segment, checkpoint: 0, key: new_key(), owner: None };
        let mut journal = Journal::with_header(path, file, owner.boot_mark(), &header);
        let filled = journal.fill(owner);
        filled.and(disk.unlink(&journal.path))
    }

    /// Opens and locks the journal `path` in the name of `us`. Returns None if a living process has
    /// it. The identity is that of its last owner, if the header can be read.
    pub fn take_over(
        disk: &dyn Disk,
        path: &Path,
        us: &Identity,
    ) -> io::Result<Option<(Journal, Option<Identity>)>> {
        let Some(file) = open_and_lock(disk, path)? else { return Ok(None) };
        check_access(disk, path, &*file)?;
        let (header, damage) = read_header(&*file)?;
        let mut journal = Journal::with_header(path.to_owned(), file, us.boot_mark(), &header);
        journal.damage = damage;
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
            header_checkpoint: header.checkpoint,
            persisted_checkpoint: header.checkpoint,
            record_checkpoint: header.checkpoint,
            key: header.key,
            boot_mark,
            failed: None,
            damage: None,
        }
    }

    /// Returns the id of the file.
    pub fn file_id(&self) -> io::Result<(u64, u64)> {
        Ok(self.file.stat()?.id())
    }

    /// Returns the damage that [`Journal::take_over`] or [`Journal::read`] found.
    pub fn damage(&self) -> Option<&'static str> {
        self.damage
    }

    /// True if [`Journal::keep_damaged`] has given the file its second name.
    pub fn is_kept(&self) -> io::Result<bool> {
        Ok(self.file.stat()?.links > 1)
    }

    /// Keeps the file under a second name, which is durable and says that it is damaged. Returns
    /// that name, and whether it is new.
    pub fn keep_damaged(&self, disk: &dyn Disk) -> io::Result<(PathBuf, bool)> {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!("{DAMAGED}{}", self.file.stat()?.ino));
        let kept = self.path.with_file_name(name);
        let new = match disk.link(&self.path, &kept) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e),
        };
        disk.sync_directory(kept.parent().unwrap_or(Path::new(".")))?;
        Ok((kept, new))
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

    /// Writes the mark that no record is needed, if that is true of the header on disk. No record
    /// may be written afterwards.
    pub fn mark_clean(&self) -> io::Result<()> {
        if !self.is_checkpoint_persisted() || self.failed.is_some() {
            return Ok(());
        }
        self.file.write_all_at(&[&self.clean_mark()], SECTOR)
    }

    /// Returns the sector of the mark that no record is needed.
    fn clean_mark(&self) -> Vec<u8> {
        let mut mark = CLEAN_MAGIC.to_vec();
        mark.extend_from_slice(&self.key.to_le_bytes());
        let mut crc = self.keyed_crc();
        crc.update(&mark);
        mark.extend_from_slice(&crc.finalize().to_le_bytes());
        mark.resize(SECTOR as usize, 0);
        mark
    }

    /// True if the file has the mark that no record is needed, and nothing is damaged.
    fn is_marked_clean(&self) -> io::Result<bool> {
        let mut mark = vec![0; SECTOR as usize];
        Ok(self.damage.is_none()
            && read_whole(&*self.file, &mut mark, SECTOR)?
            && mark == self.clean_mark())
    }

    /// Leaves the journal to the next recovery: resolves all copies but those in `files`. If their
    /// `disk_failed`, the records do not count as done, because a file system that is checked and
    /// mounted again has lost the data that it could not write, as after a reboot.
    pub fn retain_for(
        &mut self,
        files: &HashSet<DestinationFile>,
        disk_failed: bool,
    ) -> io::Result<()> {
        for mut record in self.read()? {
            if disk_failed {
                record.trailer.done = 0;
            }
            let (failed, mut others) = (self.has_failed(&record), Vec::new());
            self.visit(&record, |message| {
                let copies = message.copies.iter();
                let copies = copies.filter(|(_, copy)| failed || !files.contains(&copy.file));
                others.extend(copies.map(|(n, _)| *n));
            })?;
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
        self.header_checkpoint >= self.seq
    }

    /// Returns the number of the newest record of which the disk says that it is not needed any
    /// more.
    pub fn persisted_checkpoint(&self) -> u64 {
        self.persisted_checkpoint
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
        let mut trailer_block = trailer.to_bytes(self.key);
        trailer_block.resize((trailer.end() - trailer.at) as usize, 0);
        let mut parts = vec![&head_bytes[..], &table[..]];
        parts.extend(draft.messages.iter().map(|(message, _)| journaled(message)));
        parts.extend([&padding[..], &trailer_block[..]]);
        self.file.write_all_at(&parts, self.position)?;
        (self.seq, self.record_checkpoint) = (seq, head.checkpoint);
        self.position = trailer.end();
        Ok(trailer)
    }

    /// Makes the records durable (fdatasync).
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        self.persisted_checkpoint = self.persisted_checkpoint.max(self.record_checkpoint);
        Ok(())
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

    /// Marks the record as done, with the times of the files that it `changed`. If a copy is
    /// missing from a mailbox that was changed later, and there was no reboot, a mail reader
    /// removed it.
    pub fn mark_done(&self, trailer: &mut Trailer, changed: ChangeTimes) {
        (trailer.done, trailer.changed) = (self.boot_mark, changed);
    }

    /// Removes the mark of a record that was read back, which keeps it in memory. The removal is
    /// not synced.
    pub fn forget_done(&self, record: &mut Record) -> io::Result<()> {
        record.trailer.done = 0;
        self.write_marks(&record.trailer)
    }

    /// Writes the marks of a record. They are not synced.
    pub fn write_marks(&self, trailer: &Trailer) -> io::Result<()> {
        self.file.write_all_at(&[&trailer.to_bytes(self.key)], trailer.at)
    }

    /// Marks copies of a record that was read back as resolved. The marks are not synced.
    pub fn resolve(&self, record: &mut Record, copies: &[usize]) -> io::Result<()> {
        copies.iter().for_each(|n| record.trailer.resolve(*n));
        self.write_marks(&record.trailer)
    }

    /// Reads the records that are still needed, oldest first, and continues their numbers. Notes
    /// whether records that were durable cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<Record>> {
        let mut records: Vec<Record> = Vec::new();
        // Numbers of bad records, and of records that were durable although a bad one hides them.
        let (mut bad, mut durable) = (Vec::new(), Vec::new());
        let octets = self.file.stat()?.len;
        if self.segment > 0 && octets < BLOCK + 2 * self.segment {
            self.damage = self.damage.or(Some("it is cut short"));
        }
        if self.is_marked_clean()? {
            self.seq = self.seq.max(self.checkpoint);
            return Ok(records);
        }
        for segment in 0..2 {
            let mut at = BLOCK + segment * self.segment;
            let end = (at + self.segment).min(octets);
            let (mut last, mut passed) = (0, false);
            loop {
                match self.read_record(at, end)? {
                    // It is from an earlier use of the segment.
                    Some(record) if record.seq <= last => break,
                    Some(record) => {
                        (last, at) = (record.seq, record.trailer.end());
                        if std::mem::take(&mut passed) {
                            durable.push(record.seq);
                        }
                        self.checkpoint = self.checkpoint.max(record.checkpoint);
                        records.push(record);
                        continue;
                    }
                    None => {}
                }
                // The records after an unreadable one may be intact.
                match self.next_magic(at, end)? {
                    Some(Magic::Record { at: found, seq }) if found == at => {
                        bad.extend((seq > last).then_some(seq));
                        passed |= seq <= last;
                        at += BLOCK;
                    }
                    Some(Magic::Record { at: found, .. }) => {
                        passed = true;
                        at = found;
                    }
                    Some(Magic::Trailer { at: found, seq, done }) => {
                        durable.extend((done && seq > last).then_some(seq));
                        at = found + BLOCK;
                    }
                    None => break,
                }
            }
        }
        let newest = records.iter().map(|r| r.seq).max().unwrap_or_default();
        self.seq = self.seq.max(newest).max(self.checkpoint);
        let needed = |seq: &&u64| **seq > self.checkpoint;
        let overtaken = bad.iter().filter(needed).any(|seq| *seq < newest);
        if overtaken || durable.iter().any(|seq| needed(&seq)) {
            self.damage = self.damage.or(Some("a record in it cannot be read"));
        }
        // The number of a record that was cut short is not used again, so that the record is not
        // mistaken for a durable one. A number that is far away is damage.
        let next = bad.into_iter().filter(|seq| seq.wrapping_sub(self.seq) < 1 << 32);
        self.seq = next.max().unwrap_or_default().max(self.seq);
        records.retain(|r| r.seq > self.checkpoint);
        records.sort_by_key(|r| r.seq);
        Ok(records)
    }

    /// Finds the next block from `at` on that begins as a record or a trailer does.
    fn next_magic(&self, mut at: u64, end: u64) -> io::Result<Option<Magic>> {
        let mut buf = vec![0; PIECE as usize];
        while at < end {
            let n = buf.len().min((end - at) as usize);
            let Some(piece) = buf.get_mut(..n) else { break };
            if !read_whole(&*self.file, piece, at)? {
                break;
            }
            for (block, at) in piece.chunks(BLOCK as usize).zip((at..).step_by(BLOCK as usize)) {
                let magic = record::magic_of(block, at);
                if magic.is_some() {
                    return Ok(magic);
                }
            }
            at += n as u64;
        }
        Ok(None)
    }

    /// Calls `visit` with each message of a record in turn, and with its copies that are not
    /// resolved. A message without such copies is passed over.
    pub fn visit(&self, record: &Record, visit: impl FnMut(RecordedMessage)) -> io::Result<()> {
        self.visit_selected(record, |_, _| true, visit)
    }

    /// Returns the messages of a record that have copies for `file`, with only these copies. The
    /// same copies are left out as in [`Journal::visit`].
    pub fn messages_for(
        &self,
        record: &Record,
        file: &DestinationFile,
    ) -> io::Result<Vec<RecordedMessage>> {
        let mut messages = Vec::new();
        self.visit_selected(record, |_, copy| copy.is_for(file), |m| messages.push(m))?;
        Ok(messages)
    }

    /// Returns a message of a record with the copy `number` alone.
    ///
    /// # Errors
    /// The record cannot be read, or the copy is resolved.
    pub fn message_with(&self, record: &Record, number: usize) -> io::Result<RecordedMessage> {
        let mut message = None;
        self.visit_selected(record, |n, _| n == number, |m| message = Some(m))?;
        message.ok_or_else(changed_record)
    }

    fn visit_selected(
        &self,
        record: &Record,
        is_selected: impl Fn(usize, &CopyFields<'_>) -> bool,
        mut visit: impl FnMut(RecordedMessage),
    ) -> io::Result<()> {
        let mut table = vec![0; record.table as usize];
        let table_at = record.at + RECORD_HEAD as u64;
        self.file.read_exact_at(&mut table, table_at)?;
        let contents_at = table_at + record.table;
        let copies =
            parse_table(&table, record.messages, contents_at, is_selected, |mut message| {
                message.apply_marks(&record.trailer);
                if message.placements().next().is_some() {
                    visit(message);
                }
            });
        copies.map(drop).ok_or_else(changed_record)
    }

    /// Reads the `octets` bytes of content at offset `at`.
    pub fn content(&self, at: u64, octets: u64) -> io::Result<Vec<u8>> {
        let mut content = vec![0; usize::try_from(octets).unwrap_or_default()];
        self.file.read_exact_at(&mut content, at)?;
        Ok(content)
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
        let mut table = vec![0; head.table as usize];
        if !read_whole(&*self.file, &mut table, at + RECORD_HEAD as u64)? {
            return Ok(None);
        }
        let mut crc = self.keyed_crc();
        crc.update(&head_bytes[..RECORD_HEAD - 4]);
        crc.update(&table);
        let contents_at = at + RECORD_HEAD as u64 + head.table;
        if !self.update_crc(&mut crc, contents_at, head.contents)? || crc.finalize() != sum {
            return Ok(None);
        }
        let Some(copies) = parse_table(&table, head.messages, contents_at, |_, _| true, drop)
        else {
            return Ok(None);
        };
        let mut trailer =
            Trailer::new(at + head.octets().next_multiple_of(BLOCK), head.seq, copies);
        let mut block = vec![0; (trailer.end() - trailer.at) as usize];
        if read_whole(&*self.file, &mut block, trailer.at)? {
            trailer.read_marks(&block, self.key);
        }
        Ok(Some(Record {
            seq: head.seq,
            done: trailer.done == self.boot_mark,
            changed: trailer.changed,
            at,
            table: head.table,
            messages: head.messages,
            trailer,
            checkpoint: head.checkpoint,
        }))
    }

    /// Adds `octets` bytes at `at` to `crc`, in pieces, because the contents of a record may fill a
    /// segment. Returns false if the file is shorter.
    fn update_crc(&self, crc: &mut crc32fast::Hasher, at: u64, octets: u64) -> io::Result<bool> {
        let mut piece = vec![0; octets.min(PIECE) as usize];
        let mut left = octets;
        while left > 0 {
            piece.truncate(left.min(PIECE) as usize);
            if !read_whole(&*self.file, &mut piece, at + (octets - left))? {
                return Ok(false);
            }
            crc.update(&piece);
            left -= piece.len() as u64;
        }
        Ok(true)
    }

    fn keyed_crc(&self) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.key.to_le_bytes());
        crc
    }

    /// Fills a new journal with zeros and writes its header.
    fn fill(&mut self, owner: &Identity) -> io::Result<()> {
        let zeros = vec![0; PIECE as usize];
        let (mut at, end) = (0, BLOCK + 2 * self.segment);
        while at < end {
            let n = zeros.len().min((end - at) as usize);
            self.file.write_all_at(&[zeros.get(..n).unwrap_or_default()], at)?;
            at += n as u64;
        }
        // A header on the disk of a file that is not all there would be taken for damage.
        self.file.sync()?;
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
        header.resize(SECTOR as usize, 0);
        self.file.write_all_at(&[&header], 0)?;
        self.file.sync()?;
        (self.header_checkpoint, self.persisted_checkpoint) = (self.checkpoint, self.checkpoint);
        Ok(())
    }
}

/// Returns the error of a record that is not as it was when it was read first.
fn changed_record() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a record of the journal has changed")
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

/// Checks that no other user can have written the journal.
///
/// # Errors
/// `PermissionDenied`, with the fix.
fn check_access(disk: &dyn Disk, path: &Path, file: &dyn DiskFile) -> io::Result<()> {
    let stat = file.stat()?;
    let directory = disk.lstat(&path.parent().unwrap_or(path).join("."))?;
    let trusted = [0, nix::unistd::geteuid().as_raw(), directory.uid];
    let is_safe = stat.mode & 0o022 == 0 && trusted.contains(&stat.uid);
    if stat.kind == FileKind::Regular && is_safe {
        return Ok(());
    }
    let text = format!(
        "{}: uid {} or others may have written to it (mode {:o}); look at it, then chown and chmod \
         0600 it, or remove it",
        path.display(),
        stat.uid,
        stat.mode
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// Header of a journal. The default is that of a journal that was never filled.
#[derive(Debug, Default)]
struct JournalHeader {
    segment: u64,
    checkpoint: u64,
    key: u64,
    owner: Option<Identity>,
}

/// Reads the header and returns it with its damage. The header of a journal that was never filled
/// is the default. Of a damaged one, the key and the owner are taken as they are, because the
/// checksums of the records prove the key, and a wrong owner has no locks.
fn read_header(file: &dyn DiskFile) -> io::Result<(JournalHeader, Option<&'static str>)> {
    let octets = file.stat()?.len;
    let mut block = vec![0; octets.min(BLOCK) as usize];
    file.read_exact_at(&mut block, 0)?;
    if block.iter().all(|b| *b == 0) {
        return Ok((JournalHeader::default(), None));
    }
    if let Some(header) = parse_header(&block) {
        return Ok((header, None));
    }
    let magic = block.get(..HEADER_MAGIC.len()).unwrap_or_default();
    let other_version = magic.split_last().is_some_and(|(version, rest)| {
        rest == ANY_HEADER_MAGIC && version.is_ascii_digit() && magic != HEADER_MAGIC
    });
    if other_version && parse_fields(&block).is_some() {
        return Ok((JournalHeader::default(), Some("it is of another version of mailslot")));
    }
    let segment = octets.saturating_sub(BLOCK) / 2;
    let mut header = JournalHeader { segment, ..JournalHeader::default() };
    let mut fields = FieldReader(block.get(24..).unwrap_or_default());
    header.key = fields.u64().unwrap_or_default();
    let line = fields.u32().and_then(|n| fields.take((n as usize).min(IDENTITY_MAX)));
    header.owner = line.and_then(Identity::parse);
    Ok((header, Some("its header does not match its checksum")))
}

fn parse_header(block: &[u8]) -> Option<JournalHeader> {
    block.starts_with(HEADER_MAGIC).then(|| parse_fields(block))?
}

/// Parses a header of any version, if its checksum is right.
fn parse_fields(block: &[u8]) -> Option<JournalHeader> {
    let mut fields = FieldReader(block.get(HEADER_MAGIC.len()..)?);
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

// The header is in one sector.
const _: () = assert!(HEADER_MAGIC.len() + 32 + IDENTITY_MAX <= SECTOR as usize);

/// Bytes that are read or written at once.
const PIECE: u64 = 64 * 1024;
const PREFIX: &str = "journal-";
/// Part of the name of a damaged journal between that of the journal and its inode.
const DAMAGED: &str = ".damaged-";
const HEADER_MAGIC: &[u8] = b"mslotjn3";
const CLEAN_MAGIC: &[u8] = b"mslotcln";
/// Magic of all versions without the digit at its end.
const ANY_HEADER_MAGIC: &[u8] = b"mslotjn";
