//! The journal: makes a whole batch durable with one write and one sync, so that mailboxes may be
//! written back later, all together.
//!
//! One file for each process, `journal-N` in the spool, locked (flock) for the process's life and
//! written out with zeros once, so that no later sync has metadata to write. All numbers are
//! little-endian. Version 1:
//!
//! ```text
//! offset 0          the header, one block of 4096 octets
//!   0   8  "mslotjn1"
//!   8   8  octets in each half
//!  16   8  forgotten: records up to this number are no longer needed
//!  24   8  the key: random, another one each time the journal is taken into use
//!  32   4  octets in the owner's identity line (lock.rs), and the line
//!   .   4  CRC-32 of all that stands before it
//! offset 4096       half 0, then half 1: records, each at the start of a block
//!
//! a record
//!   0   8  "mslotrec"
//!   8   8  its number; each is greater than the one before
//!  16   8  forgotten, as in the header; the greatest that is found counts
//!  24   8  octets in the table
//!  32   8  octets in the contents
//!  40   4  messages
//!  44   4  CRC-32 of the key, the 44 octets before, the table and the contents
//!  48      the table: for each message its id, head, length, and for each of its copies the
//!          mailbox's name and owner, what its own line says, device, inode, offset, missing
//!          line ends; for a message in place also the checksums of what it will be
//!          the contents, one after the other
//!          zeros to the end of the block
//!          the trailer, a block of its own: written again later, it can never tear the record
//!   0   8  "mslotend"
//!   8   8  the record's number
//!  16   8  done: the mark of the boot in which all of it was written to the mailboxes, or 0
//!  24      one bit for each copy: settled, nothing is to be recovered for it
//!   .      one bit for each copy: void, it was refused and cut off; should it stand there again at
//!          the mailbox's end, or still, in whole or in part, it is cut off by recovery
//! ```
//!
//! A record that is cut short, or is left from an earlier use of the half, fails its checksum or
//! has a number that is not greater: it was never acknowledged, or is forgotten. The key is not
//! known outside, so that nobody can send mail whose content, left over in a half, reads as a
//! record. Numbers go on from those of the journals that were recovered: a message that is recorded
//! again when it is recovered has the greater number in the later record.
//!
//! A message above `message::MEMORY_MAX` octets is not copied into the journal: it is written and
//! synced *in place*. Its record, made before, tells where, and holds a checksum of each aligned
//! chunk of the mailbox that it will fill. A crash leaves such a chunk whole, zero or missing, so
//! recovery can tell our bytes from a stranger's. (Where a chunk is more than a block, since a very
//! large message has very many copies, one that was begun cannot be told, and is left alone.)

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, FileLock, OpenMode};
use super::locks::{IDENTITY_MAX, Identity};
use super::mailbox::{read_exact_at, write_all_at};
use crate::message::{Content, Destination, MailboxName, Message, Owner};

/// Octets of a block: what a disk writes at once, and what memory is paged by.
pub const BLOCK: u64 = 4096;
/// The most messages in one record.
pub const MESSAGES_MAX: usize = 64;
/// The most copies in one record: two bits each in the trailer.
pub const COPIES_MAX: usize = (BLOCK as usize - 24) / 2 * 8;

/// Where one copy of a message is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The mailbox, whose it is, and the address.
    pub to: Destination,
    /// The mailbox's device and inode.
    pub file: (u64, u64),
    /// Where the copy begins: the mailbox's length before it.
    pub offset: u64,
    /// Line ends put before it.
    pub repair: usize,
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

/// A record as it is read back.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number.
    pub seq: u64,
    /// All of it was written to the mailboxes, in this boot.
    pub done: bool,
    /// Its messages.
    pub entries: Vec<RecordedMessage>,
    trailer: Trailer,
    checkpoint: u64,
    end: u64,
}

/// One message of a record.
#[derive(Clone, Debug)]
pub struct RecordedMessage {
    /// The message's id.
    pub id: String,
    /// From_ line and Return-Path.
    pub head: Vec<u8>,
    /// Octets of content.
    pub len: u64,
    /// Where in the journal the content begins; None for a message in place.
    pub at: Option<u64>,
    /// Its copies that are neither settled nor void, with their number in the record.
    pub copies: Vec<(usize, Placement)>,
    /// Its copies that are void.
    pub aborted: Vec<Placement>,
}

/// Where a record's trailer is, and what is in it.
#[derive(Clone, Debug)]
pub struct Trailer {
    at: u64,
    seq: u64,
    done: u64,
    resolved: Vec<u8>,
    aborted: Vec<u8>,
}

/// One journal file, ours as long as it is open.
#[derive(Debug)]
pub struct Journal<D: Disk> {
    /// Its path.
    pub path: PathBuf,
    file: Arc<D::File>,
    segment: u64,
    active: u64,
    position: u64,
    seq: u64,
    checkpoint: u64,
    /// What the header says is forgotten.
    told: u64,
    key: u64,
    /// The mark of this boot.
    boot: u64,
    /// The number of a record that failed: its messages were refused, and nothing was appended.
    refused: Option<u64>,
}

impl<D: Disk> Journal<D> {
    /// Makes a new journal in `spool` with halves of `segment` octets, owned by `identity`.
    pub fn create(
        disk: &D,
        spool: &Path,
        segment: u64,
        owner: &Identity,
    ) -> io::Result<Journal<D>> {
        for n in 0..1000 {
            let path = spool.join(format!("{PREFIX}{n}"));
            match disk.open(&path, OpenMode::Create { mode: 0o600, owner: None }) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            }
            let Some(file) = lock(disk, &path)? else { continue };
            let mut journal = Journal {
                path,
                file: Arc::new(file),
                segment,
                active: 0,
                position: BLOCK,
                seq: 0,
                checkpoint: 0,
                told: 0,
                key: new_key(),
                boot: owner.boot_mark(),
                refused: None,
            };
            let made = journal.write_out(owner).and_then(|()| disk.sync_folder(spool));
            if let Err(e) = made {
                let _ = disk.unlink(&journal.path);
                return Err(e);
            }
            return Ok(journal);
        }
        Err(io::Error::other("a thousand journals in the spool"))
    }

    /// Opens the journal `path` if no living process has it, in the name of `us`. The identity is
    /// that of the process that had it last, if its header can be read.
    pub fn claim(
        disk: &D,
        path: &Path,
        us: &Identity,
    ) -> io::Result<Option<(Journal<D>, Option<Identity>)>> {
        let Some(file) = lock(disk, path)? else { return Ok(None) };
        let header = read_header(&file)?;
        let (segment, checkpoint, key, owner) = header.unwrap_or((0, 0, 0, None));
        let journal = Journal::opened(path, file, us.boot_mark(), segment, checkpoint, key);
        Ok(Some((journal, owner)))
    }

    /// The journal in `file`, with what its header tells.
    fn opened(
        path: &Path,
        file: D::File,
        boot: u64,
        segment: u64,
        checkpoint: u64,
        key: u64,
    ) -> Journal<D> {
        Journal {
            path: path.to_owned(),
            file: Arc::new(file),
            segment,
            active: 0,
            position: BLOCK,
            seq: checkpoint,
            checkpoint,
            told: checkpoint,
            key,
            boot,
            refused: None,
        }
    }

    /// Who has the journal `path`, or had it last, if that can be read.
    pub fn owner(disk: &D, path: &Path) -> Option<Identity> {
        let file = disk.open(path, OpenMode::Read).ok()?;
        read_header(&file).ok()??.3
    }

    /// Whose the journal `path` was, if that process is known to be gone, and how many messages in
    /// it are not forgotten. Takes no lock and changes nothing, so it may be a moment behind.
    pub fn left(disk: &D, path: &Path) -> io::Result<Option<(Option<u32>, usize)>> {
        let file = disk.open(path, OpenMode::Read)?;
        let Some((segment, checkpoint, key, Some(owner))) = read_header(&file)? else {
            return Ok(None);
        };
        let boot = Identity::new(disk).boot_mark();
        if owner.boot_mark() == boot && !owner.is_gone(disk) {
            return Ok(None);
        }
        let mut journal: Journal<D> = Journal::opened(path, file, boot, segment, checkpoint, key);
        let records = journal.read()?;
        let entries = records.iter().flat_map(|record| &record.entries);
        let messages = entries.filter(|entry| !entry.copies.is_empty()).count();
        Ok(Some((owner.pid().filter(|pid| *pid != 0), messages)))
    }

    /// The paths of all journals in `spool`.
    pub fn list(disk: &D, spool: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = disk.list(spool)?;
        names.retain(|n| n.strip_prefix(PREFIX).is_some_and(|n| n.parse::<u32>().is_ok()));
        names.sort();
        Ok(names.iter().map(|n| spool.join(n)).collect())
    }

    /// Octets in each half.
    pub fn segment(&self) -> u64 {
        self.segment
    }

    /// The number of the newest record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Writes an empty header: nothing is to be recovered, and `owner` has it now.
    pub fn empty(&mut self, owner: &Identity) -> io::Result<()> {
        (self.checkpoint, self.key) = (self.seq, new_key());
        (self.active, self.position) = (0, BLOCK);
        self.write_header(owner)
    }

    /// Says in the header, synced, what is forgotten.
    pub fn checkpoint_now(&mut self, owner: &Identity) -> io::Result<()> {
        self.write_header(owner)
    }

    /// Gives the journal up, to be recovered by whoever finds it: all is settled but what concerns
    /// `mailboxes`. If their `disk_failed`, nothing of that counts as done: a file system that is
    /// checked and mounted again forgets what it could not write, as in a reboot.
    pub fn retain_for(
        &mut self,
        mailboxes: &HashSet<MailboxName>,
        disk_failed: bool,
    ) -> io::Result<()> {
        for mut record in self.read()? {
            if disk_failed {
                record.trailer.done = 0;
            }
            let copies = record.entries.iter().flat_map(|e| &e.copies);
            let refused = self.is_refused(&record);
            let others = copies.filter(|(_, c)| refused || !mailboxes.contains(&c.to.mailbox));
            let others: Vec<usize> = others.map(|(n, _)| *n).collect();
            self.settle(&mut record, &others)?;
        }
        self.write_header(&Identity::none())
    }

    /// The next record's number will be greater than `seq`.
    pub fn skip_to(&mut self, seq: u64) {
        if self.is_clean() {
            self.checkpoint = self.checkpoint.max(seq);
        }
        self.seq = self.seq.max(seq);
    }

    /// Notes that records up to `seq` are not needed any more; the next record says it.
    pub fn advance_checkpoint(&mut self, seq: u64) {
        self.checkpoint = self.checkpoint.max(seq);
    }

    /// Whether nothing is to be recovered from it.
    pub fn is_clean(&self) -> bool {
        self.checkpoint >= self.seq
    }

    /// Whether its header says so.
    pub fn is_checkpoint_persisted(&self) -> bool {
        self.told >= self.seq
    }

    /// Whether a record of `draft` can be written to the half in use.
    pub fn has_room(&self, draft: &Draft<'_>) -> bool {
        self.position + draft.octets() <= BLOCK + (self.active + 1) * self.segment
    }

    /// Goes over to the other half, whose records must be forgotten.
    pub fn switch_segment(&mut self) {
        self.active ^= 1;
        self.position = BLOCK + self.active * self.segment;
    }

    /// Writes `draft` as one record. It is durable when [`Journal::sync`] has returned.
    pub fn write(&mut self, draft: &Draft<'_>) -> io::Result<Trailer> {
        let seq = self.seq + 1;
        let table = draft.table();
        let mut head = Vec::with_capacity(RECORD_HEAD);
        head.extend_from_slice(RECORD_MAGIC);
        for n in [seq, self.checkpoint, table.len() as u64, draft.contents()] {
            head.extend_from_slice(&n.to_le_bytes());
        }
        head.extend_from_slice(&(draft.messages.len() as u32).to_le_bytes());
        let mut crc = self.keyed_crc();
        crc.update(&head);
        crc.update(&table);
        for (message, _) in &draft.messages {
            crc.update(journaled(message));
        }
        head.extend_from_slice(&crc.finalize().to_le_bytes());
        let used = (RECORD_HEAD + table.len()) as u64 + draft.contents();
        let padding = vec![0; (used.next_multiple_of(BLOCK) - used) as usize];
        let trailer = Trailer {
            at: self.position + used.next_multiple_of(BLOCK),
            seq,
            done: 0,
            resolved: vec![0; draft.copies().div_ceil(8)],
            aborted: vec![0; draft.copies().div_ceil(8)],
        };
        let end = trailer.block();
        let mut parts = vec![&head[..], &table[..]];
        parts.extend(draft.messages.iter().map(|(message, _)| journaled(message)));
        parts.extend([&padding[..], &end[..]]);
        write_all_at(&*self.file, &parts, self.position)?;
        self.seq = seq;
        self.position = trailer.at + BLOCK;
        Ok(trailer)
    }

    /// fdatasync
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// The newest record, or the one that would be next, could not be made durable: its messages
    /// are refused, whatever of it may be on the disk.
    pub fn refuse(&mut self, seq: u64) {
        self.refused = Some(self.refused.map_or(seq, |first| first.min(seq)));
    }

    /// Whether `record` is one that was refused.
    pub fn is_refused(&self, record: &Record) -> bool {
        self.refused.is_some_and(|seq| record.seq >= seq)
    }

    /// Marks the record done: in this boot, what is missing was taken out by a reader.
    pub fn mark_done(&self, trailer: &mut Trailer) {
        trailer.done = self.boot;
    }

    /// Writes the trailer with its marks. Not synced.
    pub fn write_marks(&self, trailer: &Trailer) -> io::Result<()> {
        let block = trailer.block();
        let used = (24 + 2 * trailer.resolved.len()).min(block.len());
        write_all_at(&*self.file, &[block.get(..used).unwrap_or_default()], trailer.at)
    }

    /// Marks copies of a record that was read back as settled: nothing is to be recovered for them.
    /// Not synced.
    pub fn settle(&self, record: &mut Record, copies: &[usize]) -> io::Result<()> {
        copies.iter().for_each(|n| set(&mut record.trailer.resolved, *n));
        self.write_marks(&record.trailer)
    }

    /// The records that are not forgotten, oldest first. Also finds where numbers go on.
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

    /// The content of a message that is in the journal.
    pub fn content(&self, entry: &RecordedMessage) -> io::Result<Option<Vec<u8>>> {
        let Some(at) = entry.at else { return Ok(None) };
        let mut content = vec![0; usize::try_from(entry.len).unwrap_or_default()];
        read_exact_at(&*self.file, &mut content, at)?;
        Ok(Some(content))
    }

    fn read_record(&self, at: u64, end: u64) -> io::Result<Option<Record>> {
        let mut head = [0; RECORD_HEAD];
        if at + RECORD_HEAD as u64 > end {
            return Ok(None);
        }
        if !read_whole(&*self.file, &mut head, at)? {
            return Ok(None);
        }
        let mut fields = FieldReader(&head);
        let parsed = (|| {
            (fields.take(8)? == RECORD_MAGIC).then_some(())?;
            let (seq, checkpoint) = (fields.u64()?, fields.u64()?);
            let (table, contents) = (fields.u64()?, fields.u64()?);
            Some((seq, checkpoint, table, contents, fields.u32()?, fields.u32()?))
        })();
        let Some((seq, checkpoint, table_len, contents, messages, sum)) = parsed else {
            return Ok(None);
        };
        let used = (RECORD_HEAD as u64).saturating_add(table_len).saturating_add(contents);
        if used > end - at {
            return Ok(None);
        }
        let mut body = vec![0; (table_len + contents) as usize];
        if !read_whole(&*self.file, &mut body, at + RECORD_HEAD as u64)? {
            return Ok(None);
        }
        let mut crc = self.keyed_crc();
        crc.update(&head[..RECORD_HEAD - 4]);
        crc.update(&body);
        if crc.finalize() != sum {
            return Ok(None);
        }
        let mut contents_at = at + RECORD_HEAD as u64 + table_len;
        let mut table = FieldReader(body.get(..table_len as usize).unwrap_or_default());
        let mut entries = Vec::new();
        let mut number = 0;
        for _ in 0..messages {
            let Some(mut entry) = table.entry(&mut number) else { return Ok(None) };
            if entry.at.is_some() {
                entry.at = Some(contents_at);
                contents_at += entry.len;
            }
            entries.push(entry);
        }
        let trailer = self.read_trailer(at + used.next_multiple_of(BLOCK), seq, number)?;
        let done = trailer.done == self.boot;
        for entry in &mut entries {
            entry.copies.retain(|(n, _)| !is_set(&trailer.resolved, *n));
            let aborted = entry.copies.extract_if(.., |(n, _)| is_set(&trailer.aborted, *n));
            entry.aborted = aborted.map(|(_, copy)| copy).collect();
        }
        let end = trailer.at + BLOCK;
        Ok(Some(Record { seq, done, entries, trailer, checkpoint, end }))
    }

    fn read_trailer(&self, at: u64, seq: u64, copies: usize) -> io::Result<Trailer> {
        let bits = vec![0; copies.div_ceil(8)];
        let mut trailer = Trailer { at, seq, done: 0, resolved: bits.clone(), aborted: bits };
        let mut block = [0; BLOCK as usize];
        if !read_whole(&*self.file, &mut block, at)? {
            return Ok(trailer);
        }
        let mut fields = FieldReader(&block);
        // A trailer that was torn says nothing: all is looked at.
        if fields.take(8) == Some(TRAILER_MAGIC) && fields.u64() == Some(seq) {
            trailer.done = fields.u64().unwrap_or_default();
            let n = copies.div_ceil(8);
            if let (Some(resolved), Some(aborted)) = (fields.take(n), fields.take(n)) {
                (trailer.resolved, trailer.aborted) = (resolved.to_vec(), aborted.to_vec());
            }
        }
        Ok(trailer)
    }

    fn keyed_crc(&self) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.key.to_le_bytes());
        crc
    }

    fn write_out(&mut self, owner: &Identity) -> io::Result<()> {
        let zeros = vec![0; 64 * 1024];
        let (mut at, end) = (0, BLOCK + 2 * self.segment);
        while at < end {
            let n = zeros.len().min((end - at) as usize);
            write_all_at(&*self.file, &[zeros.get(..n).unwrap_or_default()], at)?;
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
        write_all_at(&*self.file, &[&header], 0)?;
        self.file.sync()?;
        self.told = self.checkpoint;
        Ok(())
    }
}

/// The messages of one record to be, and where each copy will be written.
#[derive(Debug, Default)]
pub struct Draft<'a> {
    /// In the order in which they are written.
    pub messages: Vec<(&'a Message, Vec<Placement>)>,
}

impl Draft<'_> {
    /// The most octets that the record will take in the journal.
    pub fn octets(&self) -> u64 {
        let used = RECORD_HEAD as u64 + self.table().len() as u64 + self.contents();
        used.next_multiple_of(BLOCK) + BLOCK
    }

    /// The most octets that `message` alone will take in a journal with halves of `segment` octets.
    pub fn octets_for(message: &Message, segment: u64) -> u64 {
        let copy = |to: &Destination| COPY_MAX + to.delivered_to.len() as u64;
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

    fn contents(&self) -> u64 {
        self.messages.iter().map(|(m, _)| journaled(m).len() as u64).sum()
    }

    fn copies(&self) -> usize {
        self.messages.iter().map(|(_, copies)| copies.len()).sum()
    }

    fn table(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 * self.messages.len());
        for (message, copies) in &self.messages {
            put(&mut out, message.id.as_bytes());
            put(&mut out, &message.head);
            out.extend_from_slice(&message.content.size().to_le_bytes());
            out.push(u8::from(matches!(message.content, Content::Memory(_))));
            out.extend_from_slice(&(copies.len() as u32).to_le_bytes());
            for copy in copies {
                put(&mut out, copy.to.mailbox.as_str().as_bytes());
                put(&mut out, copy.to.delivered_to.as_bytes());
                let owner = copy.to.owner;
                out.push(u8::from(owner.is_some()));
                out.extend_from_slice(&owner.map_or(0, |o| o.uid).to_le_bytes());
                out.extend_from_slice(&owner.map_or(0, |o| o.gid).to_le_bytes());
                for n in [copy.file.0, copy.file.1, copy.offset] {
                    out.extend_from_slice(&n.to_le_bytes());
                }
                out.push(copy.repair as u8);
                let sums = copy.sums.as_ref();
                out.extend_from_slice(&sums.map_or(0, |s| s.chunk).to_le_bytes());
                out.extend_from_slice(&(sums.map_or(0, |s| s.crcs.len()) as u32).to_le_bytes());
                for crc in sums.iter().flat_map(|s| &s.crcs) {
                    out.extend_from_slice(&crc.to_le_bytes());
                }
            }
        }
        out
    }
}

impl Trailer {
    /// Marks a copy as void: refused, and cut off.
    pub fn aborted(&mut self, copy: usize) {
        set(&mut self.aborted, copy);
    }

    fn block(&self) -> Vec<u8> {
        let mut block = TRAILER_MAGIC.to_vec();
        block.extend_from_slice(&self.seq.to_le_bytes());
        block.extend_from_slice(&self.done.to_le_bytes());
        block.extend_from_slice(&self.resolved);
        block.extend_from_slice(&self.aborted);
        block.resize(BLOCK as usize, 0);
        block
    }
}

impl Sums {
    /// The size of a chunk: one block, or as many as keep the checksums of one message, all copies
    /// together, within an eighth of a half of `segment` octets.
    pub fn chunk(octets: u64, copies: usize, segment: u64) -> u64 {
        let room = (segment / 8 / 4 / copies.max(1) as u64).max(1);
        octets.div_ceil(room).next_multiple_of(BLOCK).next_power_of_two()
    }

    /// Of a copy that is to stand at `offset`: `head`, the content in `file`, an empty line.
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

    /// Where each chunk begins, how long it is, and its checksum, for a stretch of `len` octets.
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

/// What of a message goes into the journal: all of its content, or nothing.
fn journaled(message: &Message) -> &[u8] {
    match &message.content {
        Content::Memory(bytes) => bytes,
        Content::File(..) => &[],
    }
}

/// Opens and locks a journal; None if a living process has it, or it is gone.
fn lock<D: Disk>(disk: &D, path: &Path) -> io::Result<Option<D::File>> {
    let file = match disk.open(path, OpenMode::Write) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if !file.try_lock(FileLock::Flock)? {
        return Ok(None);
    }
    let (opened, named) = (file.stat()?, disk.look(path));
    let same = named.is_ok_and(|n| (n.dev, n.ino) == (opened.dev, opened.ino));
    Ok(same.then_some(file))
}

/// Octets in each half, what is forgotten, the key, the owner.
type JournalHeader = (u64, u64, u64, Option<Identity>);

/// None for a file that was never written out: its maker was killed over it, and nothing was ever
/// recorded there.
fn read_header<F: DiskFile>(file: &F) -> io::Result<Option<JournalHeader>> {
    let mut block = [0; BLOCK as usize];
    if !read_whole(file, &mut block, 0)? {
        return Ok(None);
    }
    let mut fields = FieldReader(&block);
    Ok((|| {
        (fields.take(8)? == HEADER_MAGIC).then_some(())?;
        let (segment, checkpoint, key) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let line = fields.u32()? as usize;
        let line = fields.take(line.min(IDENTITY_MAX))?;
        let summed = block.len() - fields.0.len();
        (fields.u32()? == crc32fast::hash(block.get(..summed)?)).then_some(())?;
        Some((segment, checkpoint, key, Identity::parse(line)))
    })())
}

fn set(bits: &mut [u8], n: usize) {
    if let Some(octet) = bits.get_mut(n / 8) {
        *octet |= 1 << (n % 8);
    }
}

fn is_set(bits: &[u8], n: usize) -> bool {
    bits.get(n / 8).is_some_and(|octet| octet & (1 << (n % 8)) != 0)
}

fn new_key() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}

/// Fills `buf` from `offset`; false if the file is shorter.
fn read_whole<F: DiskFile>(file: &F, buf: &mut [u8], offset: u64) -> io::Result<bool> {
    match read_exact_at(file, buf, offset) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

fn put(out: &mut Vec<u8>, field: &[u8]) {
    out.extend_from_slice(&(field.len() as u32).to_le_bytes());
    out.extend_from_slice(field);
}

/// Reads a table; every step may find that there is no more.
struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(field)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.field()?.to_vec()).ok()
    }

    fn entry(&mut self, number: &mut usize) -> Option<RecordedMessage> {
        let (id, head) = (self.text()?, self.field()?.to_vec());
        let (len, journaled) = (self.u64()?, self.u8()? == 1);
        let mut copies = Vec::new();
        for _ in 0..self.u32()? {
            copies.push((*number, self.copy()?));
            *number += 1;
        }
        Some(RecordedMessage {
            id,
            head,
            len,
            at: journaled.then_some(0),
            copies,
            aborted: Vec::new(),
        })
    }

    fn copy(&mut self) -> Option<Placement> {
        let (mailbox, delivered_to) = (MailboxName::parse(&self.text()?)?, self.text()?);
        let (owned, uid, gid) = (self.u8()? == 1, self.u32()?, self.u32()?);
        let file = (self.u64()?, self.u64()?);
        let (offset, repair) = (self.u64()?, usize::from(self.u8()?));
        let (chunk, count) = (self.u64()?, self.u32()?);
        let crcs: Vec<u32> = (0..count).map_while(|_| self.u32()).collect();
        (crcs.len() == count as usize).then_some(())?;
        Some(Placement {
            to: Destination { mailbox, owner: owned.then_some(Owner { uid, gid }), delivered_to },
            file,
            offset,
            repair,
            sums: (chunk > 0).then_some(Sums { chunk, crcs }),
        })
    }
}

const PREFIX: &str = "journal-";
const HEADER_MAGIC: &[u8] = b"mslotjn1";
const RECORD_MAGIC: &[u8] = b"mslotrec";
const TRAILER_MAGIC: &[u8] = b"mslotend";
const RECORD_HEAD: usize = 48;
/// More than a copy takes in the table, but for its address and its checksums.
const COPY_MAX: u64 = 300;
