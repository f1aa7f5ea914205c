//! What a crash left, set right: journals without an owner are read, and each record in them that
//! is not forgotten is held against the mailboxes, under their locks.
//!
//! For each copy of a message that is in the journal:
//!
//! | the mailbox | what is done |
//! | --- | --- |
//! | the record is done, and the host has not rebooted | nothing: what lacks, a reader took |
//! | our octets are there, whole | nothing |
//! | it ends within our stretch, or zeros stand in it, all else is ours | completed in place |
//! | it ends at or before our stretch | appended |
//! | something else stands there, but the message is found whole | nothing |
//! | something else stands there | appended; not an octet of the other is touched |
//!
//! What is appended goes through the journal of the living process like new mail: its record is
//! durable before the first octet, so recovery may be killed at any point and start again.
//!
//! A message in place is not in the journal. If no copy of it is whole it was never acknowledged,
//! and copies that were begun are cut off, where all behind the cut is known to be ours. If one is
//! whole, the others are made from it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;

use super::disk::{Disk, DiskFile, Open};
use super::engine::{Done, Engine, HeldBoxes, copy_len};
use super::journal::{Copy, Entry, Journal, Record, delivered_to_line};
use super::lock::Attempt;
use super::mailbox::{Held, read_exact_at, write_all_at};
use crate::logging::value;
use crate::message::{BoxName, Content, Message, Owner};

/// A journal whose process is gone, ours now, and what is in it.
#[derive(Debug)]
pub struct Orphan<D: Disk> {
    journal: Journal<D>,
    records: Vec<Record>,
}

/// An empty journal to use, and those that have something in them.
pub type Claimed<D> = (Option<Journal<D>>, Vec<Orphan<D>>);

/// Takes over every journal in `spool` that no living process has. The first empty one with halves
/// of `half` octets is returned as well, for the caller to use. Locks in the name of a dead owner
/// are stale from now on.
pub fn claim<D: Disk>(
    folder: &super::mailbox::Folder<D>,
    spool: &std::path::Path,
    half: u64,
    own: Option<&PathBuf>,
) -> io::Result<Claimed<D>> {
    let (mut empty, mut orphans) = (None, Vec::new());
    for path in Journal::list(&*folder.disk, spool)? {
        if own == Some(&path) {
            continue;
        }
        let Some((mut journal, owner)) = Journal::claim(&*folder.disk, &path)? else { continue };
        if let Some(owner) = owner {
            folder.dotlocks.bury(owner);
        }
        let records = journal.read()?;
        if journal.half() == 0 {
            // Its maker was killed before it was written out.
            folder.disk.unlink(&path)?;
        } else if !records.is_empty() {
            orphans.push(Orphan { journal, records });
        } else if empty.is_none() && journal.half() == half {
            empty = Some(journal);
        }
    }
    Ok((empty, orphans))
}

impl<D: Disk> Engine<D> {
    /// Recovers everything that `orphans` hold, waiting up to `patience` for a mailbox that
    /// somebody keeps locked. A journal that could not be finished stays for the next time.
    pub fn recover(&mut self, orphans: Vec<Orphan<D>>, patience: Duration) -> io::Result<()> {
        for Orphan { mut journal, mut records } in orphans {
            let path = value(journal.path.display()).to_string();
            log::warn!("recovery-begun journal={path} records={}", records.len());
            let finished = self.undo_in_place(&journal, &mut records, patience)
                & self.redo(&journal, &mut records, patience);
            self.settle_all()?;
            if finished {
                journal.empty(&super::lock::Identity::nobody())?;
                self.folder.disk.unlink(&journal.path)?;
            }
            log::warn!("recovery-ended journal={path} finished={finished}");
        }
        Ok(())
    }

    /// Recovers what another process left that died while this one runs.
    pub fn recover_orphans(&mut self) -> io::Result<()> {
        let own = self.journal.path.clone();
        let (_, orphans) = claim(&self.folder, &self.spool, 0, Some(&own))?;
        self.recover(orphans, ORPHAN_PATIENCE)
    }

    /// Redoes the copies whose octets are in the journal, mailbox by mailbox. Whether all are done.
    fn redo(&mut self, journal: &Journal<D>, records: &mut [Record], patience: Duration) -> bool {
        let mut boxes: BTreeMap<BoxName, Option<Owner>> = BTreeMap::new();
        for record in records.iter().filter(|r| !r.done) {
            for (_, copy) in
                record.entries.iter().filter(|e| e.at.is_some()).flat_map(|e| &e.copies)
            {
                boxes.insert(copy.to.mailbox.clone(), copy.to.owner);
            }
        }
        let mut finished = true;
        for (name, owner) in boxes {
            match self.redo_box(journal, records, &name, owner, patience) {
                Ok(()) => {
                    self.suspended.remove(&name);
                }
                Err(e) => {
                    let path = value(self.folder.path_of(&name).display()).to_string();
                    log::error!("recovery-failed mailbox={path} error={}", value(e));
                    finished = false;
                }
            }
        }
        finished
    }

    fn redo_box(
        &mut self,
        journal: &Journal<D>,
        records: &mut [Record],
        name: &BoxName,
        owner: Option<Owner>,
        patience: Duration,
    ) -> io::Result<()> {
        let mut held = self.take_patiently(name, owner, patience)?;
        let rewritable = self.folder.disk.open(&self.folder.path_of(name), Open::Write)?;
        let mut missing: Vec<(usize, usize, Message)> = Vec::new();
        for (r, record) in records.iter().enumerate().filter(|(_, r)| !r.done) {
            for entry in &record.entries {
                let Some((number, copy)) = entry.copies.iter().find(|(_, c)| c.to.mailbox == *name)
                else {
                    continue;
                };
                let Some(content) = journal.content(entry)? else { continue };
                let message = Message {
                    id: entry.id.clone(),
                    head: entry.head.clone(),
                    content: Content::Memory(content),
                    to: vec![copy.to.clone()],
                };
                let place = Self::compare(&held, copy, &message)?;
                match place {
                    // Written again even if it reads well: a sync that failed once leaves in
                    // memory what is not on the disk.
                    Place::Ours => {
                        let octets = octets_of(&message, copy.repair);
                        write_all_at(&rewritable, &[&octets], copy.offset)?;
                        held.len = held.len.max(copy.offset + octets.len() as u64);
                        held.look_at_end()?;
                    }
                    Place::Beyond => missing.push((r, *number, message)),
                    Place::Other => {
                        if !find_whole(&*held.file, &message)? {
                            missing.push((r, *number, message));
                        }
                    }
                }
            }
        }
        rewritable.sync()?;
        let mut boxes = HeldBoxes::from([(name.clone(), held)]);
        // A few at a time: one record holds at most 8 of the largest.
        for batch in missing.chunks(8) {
            let messages: Vec<&Message> = batch.iter().map(|(_, _, message)| message).collect();
            for done in self.commit(&mut boxes, &messages) {
                if !matches!(done, Done::Delivered(_)) {
                    return Err(io::Error::other(format!("not appended: {done:?}")));
                }
            }
            for (r, number, message) in batch {
                log::warn!("recovered message={} mailbox={}", message.id, value(name));
                if let Some(record) = records.get_mut(*r) {
                    journal.settle_record(record, &[*number])?;
                }
            }
        }
        Ok(())
    }

    /// What stands where `copy` was to be.
    fn compare(held: &Held<D>, copy: &Copy, message: &Message) -> io::Result<Place> {
        if (held.stat.dev, held.stat.ino) != copy.file {
            // A new mailbox of that name, empty: nothing to search.
            return Ok(if held.len == 0 { Place::Beyond } else { Place::Other });
        }
        if held.len <= copy.offset {
            return Ok(Place::Beyond);
        }
        let ours = octets_of(message, copy.repair);
        let stands = (held.len - copy.offset).min(ours.len() as u64) as usize;
        let mut theirs = vec![0; stands];
        read_exact_at(&*held.file, &mut theirs, copy.offset)?;
        let alike = theirs.iter().zip(&ours).all(|(a, b)| a == b || *a == 0);
        Ok(if alike { Place::Ours } else { Place::Other })
    }

    /// Cuts off, or completes from a whole copy, the messages in place that a crash interrupted.
    /// Only the last record can hold any: the one before was durable before it was written.
    fn undo_in_place(
        &mut self,
        journal: &Journal<D>,
        records: &mut [Record],
        patience: Duration,
    ) -> bool {
        let Some(record) = records.last_mut().filter(|r| !r.done) else { return true };
        let mut settled = Vec::new();
        for entry in record.entries.iter().filter(|e| e.at.is_none()) {
            match self.undo_entry(entry, patience) {
                Ok(()) => settled.extend(entry.copies.iter().map(|(n, _)| *n)),
                Err(e) => {
                    log::error!("recovery-failed message={} error={}", entry.id, value(e));
                    return false;
                }
            }
        }
        journal.settle_record(record, &settled).is_ok()
    }

    fn undo_entry(&mut self, entry: &Entry, patience: Duration) -> io::Result<()> {
        let mut copies: Vec<&Copy> = entry.copies.iter().map(|(_, copy)| copy).collect();
        copies.sort_by(|a, b| a.to.mailbox.cmp(&b.to.mailbox));
        let mut held = Vec::with_capacity(copies.len());
        for copy in &copies {
            held.push(self.take_patiently(&copy.to.mailbox, copy.to.owner, patience)?);
        }
        let mut states = Vec::with_capacity(copies.len());
        for (copy, h) in copies.iter().zip(&held) {
            states.push(in_place_state(h, copy, entry)?);
        }
        let whole = states.iter().position(|s| *s == InPlace::Whole);
        let mut messages = Vec::new();
        for ((copy, h), state) in copies.iter().zip(&mut held).zip(&states) {
            if *state == InPlace::Torn {
                h.cut_back(&self.folder.disk, copy.offset, copy.repair)?;
                h.file.sync()?;
                let mailbox = value(&copy.to.mailbox).to_string();
                log::warn!("cut-back message={} mailbox={mailbox}", entry.id);
            }
            if *state == InPlace::Whole {
                // Whole in memory is not yet whole on disk: it may never have been acknowledged.
                h.file.sync()?;
                self.folder.disk.sync_folder(&self.folder.path)?;
            }
            if whole.is_some() && matches!(state, InPlace::Torn | InPlace::Missing) {
                messages.push(copy.to.clone());
            }
        }
        let (Some(n), false) = (whole, messages.is_empty()) else { return Ok(()) };
        let (Some(source), Some(copy)) = (held.get(n), copies.get(n)) else { return Ok(()) };
        let before = copy.repair + entry.head.len() + delivered_to_line(&copy.to).len();
        let file = self.copy_out(source, copy.offset + before as u64, entry.len)?;
        let message = Message {
            id: entry.id.clone(),
            head: entry.head.clone(),
            content: Content::File(file, entry.len),
            to: messages,
        };
        let mut boxes: HeldBoxes<D> = held.into_iter().map(|h| (h.name.clone(), h)).collect();
        match self.commit(&mut boxes, &[&message]).pop() {
            Some(Done::Delivered(_)) => Ok(()),
            done => Err(io::Error::other(format!("not appended: {done:?}"))),
        }
    }

    /// A stretch of a mailbox in a file without a name.
    fn copy_out(&self, held: &Held<D>, offset: u64, len: u64) -> io::Result<File> {
        let mut file = tempfile::tempfile_in(&self.spool)?;
        let (mut buf, mut at) = (vec![0; 64 * 1024], 0);
        while at < len {
            let n = buf.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
            read_exact_at(&*held.file, &mut buf[..n], offset + at)?;
            file.write_all(&buf[..n])?;
            at += n as u64;
        }
        Ok(file)
    }

    fn take_patiently(
        &mut self,
        name: &BoxName,
        owner: Option<Owner>,
        patience: Duration,
    ) -> io::Result<Held<D>> {
        let until = Instant::now() + patience;
        loop {
            match self.folder.take(name, owner) {
                Ok(Attempt::Taken(held)) => return Ok(held),
                Ok(Attempt::Orphaned) => continue,
                Ok(Attempt::Busy(who)) if Instant::now() >= until => {
                    return Err(io::Error::other(format!("locked: {who}")));
                }
                Ok(Attempt::Busy(_)) => thread::sleep(Duration::from_millis(50)),
                Err(fault) => return Err(io::Error::other(fault.to_string())),
            }
        }
    }

    /// Writes a mailbox whose sync failed again from the journal, and syncs it again.
    ///
    /// # Errors
    /// It failed again, or somebody keeps it locked.
    pub(super) fn mend(&mut self, name: &BoxName) -> io::Result<()> {
        let mut records = self.journal.read()?;
        for record in &mut records {
            record.done = false;
        }
        let mut owner = None;
        for copy in records.iter().flat_map(|r| &r.entries).flat_map(|e| &e.copies) {
            if copy.1.to.mailbox == *name {
                owner = copy.1.to.owner;
            }
        }
        let held = self.take_patiently(name, owner, ORPHAN_PATIENCE)?;
        let rewritable = self.folder.disk.open(&self.folder.path_of(name), Open::Write)?;
        for entry in records.iter().flat_map(|r| &r.entries) {
            for copy in entry.copies.iter().map(|(_, c)| c).filter(|c| c.to.mailbox == *name) {
                let Some(content) = self.journal.content(entry)? else { continue };
                let message = Message {
                    id: entry.id.clone(),
                    head: entry.head.clone(),
                    content: Content::Memory(content),
                    to: vec![copy.to.clone()],
                };
                // What a reader took out or moved meanwhile is its own to keep.
                if Self::compare(&held, copy, &message)? == Place::Ours {
                    write_all_at(&rewritable, &[&octets_of(&message, copy.repair)], copy.offset)?;
                }
            }
        }
        rewritable.sync()?;
        self.folder.disk.sync_folder(&self.folder.path)
    }
}

/// What stands where a copy was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Our octets, as far as the file goes, perhaps with zeros among them.
    Ours,
    /// Nothing: the file ends before.
    Beyond,
    /// Something else.
    Other,
}

/// What stands where a message in place was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InPlace {
    /// All of it.
    Whole,
    /// A part of it, and nothing that could be somebody else's.
    Torn,
    /// The file ends before.
    Missing,
    /// Somebody else's octets, or a part of it with somebody else's behind.
    Other,
}

fn in_place_state<D: Disk>(held: &Held<D>, copy: &Copy, entry: &Entry) -> io::Result<InPlace> {
    let Some(sums) = copy.sums.as_ref().filter(|_| (held.stat.dev, held.stat.ino) == copy.file)
    else {
        return Ok(InPlace::Other);
    };
    if held.len <= copy.offset {
        return Ok(InPlace::Missing);
    }
    let len = in_place_len(entry, copy);
    let (mut whole, mut ours) = (held.len >= copy.offset + len, held.len <= copy.offset + len);
    let mut buf = Vec::new();
    for (at, octets, crc) in sums.chunks(copy.offset, len) {
        if at >= held.len {
            break;
        }
        let stands = octets.min(held.len - at);
        buf.resize(usize::try_from(stands).unwrap_or_default(), 0);
        read_exact_at(&*held.file, &mut buf, at)?;
        let right = stands == octets && crc32fast::hash(&buf) == crc;
        whole &= right;
        let cut_short = || match at == copy.offset {
            true => begins_ours(&buf, copy, entry),
            false => !may_begin_message(&buf),
        };
        ours &= right || buf.iter().all(|b| *b == 0) || (stands < octets && cut_short());
    }
    Ok(match (whole, ours) {
        (true, _) => InPlace::Whole,
        (false, true) => InPlace::Torn,
        (false, false) => InPlace::Other,
    })
}

/// Whether a chunk that the file's end cuts short, so that its checksum tells nothing, is what the
/// copy begins with, and nobody's message stands behind.
fn begins_ours(chunk: &[u8], copy: &Copy, entry: &Entry) -> bool {
    let ends = b"\n\n".get(..copy.repair).unwrap_or_default();
    let head = [ends, &entry.head, &delivered_to_line(&copy.to)].concat();
    match chunk.strip_prefix(&head[..]) {
        Some(rest) => !may_begin_message(rest),
        None => head.starts_with(chunk),
    }
}

/// Whether somebody's message may begin in `octets`, in the middle of a line even, behind one that
/// was cut short: `From ` and a time. Ours is quoted, it has none but `>From ` at a line's start.
fn may_begin_message(octets: &[u8]) -> bool {
    memmem::find_iter(octets, b"From ").any(|at| {
        let (before, rest) = octets.split_at(at);
        let quotes = before.iter().rev().take_while(|b| **b == b'>').count();
        let quoted = quotes > 0 && before[..at - quotes].ends_with(b"\n");
        let line = rest.split(|b| *b == b'\n').next().unwrap_or_default();
        let time = |w: &[u8]| w[0].is_ascii_digit() && w[1] == b':' && w[2].is_ascii_digit();
        !quoted && line.windows(3).any(time)
    })
}

fn in_place_len(entry: &Entry, copy: &Copy) -> u64 {
    let lines = copy.repair + entry.head.len() + delivered_to_line(&copy.to).len() + 1;
    lines as u64 + entry.len
}

/// A copy of a message in memory, octet for octet.
fn octets_of(message: &Message, repair: usize) -> Vec<u8> {
    let Content::Memory(content) = &message.content else { return Vec::new() };
    let line = message.to.first().map(delivered_to_line).unwrap_or_default();
    let ends = b"\n\n".get(..repair).unwrap_or_default();
    let octets = [ends, &message.head, &line, content, b"\n"].concat();
    debug_assert!(message.to.iter().all(|to| octets.len() as u64 == copy_len(message, to, repair)));
    octets
}

/// Whether the message stands anywhere in the file: its id, and behind it the whole body. A reader
/// that rewrites a mailbox may add to the header, never to the body.
fn find_whole<F: DiskFile>(file: &F, message: &Message) -> io::Result<bool> {
    let Content::Memory(content) = &message.content else { return Ok(false) };
    let needle = format!(" id {}", message.id);
    let body_at = memmem::find(content, b"\n\n").map_or(content.len(), |n| n + 2);
    let body = content.get(body_at..).unwrap_or_default();
    let finder = memmem::Finder::new(&needle);
    let mut from = 0;
    while let Some(at) = find_at(file, &finder, from)? {
        // One id can be the beginning of another.
        let mut next = [0];
        let ends = read_exact_at(file, &mut next, at + needle.len() as u64).is_ok();
        if !ends || !matches!(next, [b'\n' | b';' | b' ']) {
            from = at + 1;
            continue;
        }
        if let Some(header_end) = find_at(file, &memmem::Finder::new(b"\n\n"), at)? {
            let mut theirs = vec![0; body.len()];
            match read_exact_at(file, &mut theirs, header_end + 2) {
                Ok(()) if theirs == body => return Ok(true),
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(e),
            }
        }
        from = at + 1;
    }
    Ok(false)
}

/// Where the finder's needle stands next, at or behind `from`.
fn find_at<F: DiskFile>(
    file: &F,
    finder: &memmem::Finder<'_>,
    mut from: u64,
) -> io::Result<Option<u64>> {
    let overlap = finder.needle().len() - 1;
    let mut buf = vec![0; 256 * 1024];
    let mut filled = 0;
    loop {
        let n = match file.read_at(&mut buf[filled..], from + filled as u64) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if let Some(at) = finder.find(&buf[..filled + n]) {
            return Ok(Some(from + at as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        filled += n;
        let keep = filled.min(overlap);
        buf.copy_within(filled - keep..filled, 0);
        from += (filled - keep) as u64;
        filled = keep;
    }
}

/// How long a mailbox is waited for while mail for others stands still.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::may_begin_message;

    #[test]
    fn a_strangers_message_behind_a_torn_one_is_seen() {
        for (octets, expected) in [
            ("", false),
            ("no such line\n", false),
            ("From noon on, she wrote\n", false),
            ("\n>From noon at 12:30 on\n>>From 12:30\n", false),
            ("From a@b Tue Jul  1 08:52:37 2025\n", true),
            ("cut in the middle of a lineFrom a@b Tue Jul  1 08:52:37 2025\n", true),
            ("cut behind <a@b>From a@b Tue Jul  1 08:52:37 2025\n", true),
            (">From what may have begun before at 12:30\n", true),
        ] {
            assert_eq!(may_begin_message(octets.as_bytes()), expected, "{octets:?}");
        }
    }
}
