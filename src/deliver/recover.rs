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
//! Newer records are looked at first: where a reader emptied the mailbox, an older one tells of a
//! stretch that is somebody else's by now. What is appended goes through the journal of the living
//! process like new mail: its record is durable before the first octet. So recovery may be killed
//! at any point and start again, and then finds a message in two journals: it is one message.
//!
//! A message in place is not in the journal. Copies that were begun are cut off, where all behind
//! the cut is known to be ours. If one is whole where it was written, the others are made from it;
//! if none is, it was never acknowledged.
//!
//! A mailbox that cannot be finished (somebody keeps it locked, its disk fails) is suspended: its
//! records stay, settled for all others, and are tried again when mail comes. What is finished is
//! synced, and only then its journal emptied and removed: an old record must not outlive new mail.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memmem;

use super::commit::{CommitResult, Committer, LockedMailboxes, copy_len};
use super::disk::{Disk, DiskFile};
use super::journal::{Draft, Journal, MESSAGES_MAX, Placement, Record, RecordedMessage};
use super::locks::{Identity, TryLock};
use super::mailbox::{LockedMailbox, MailboxStore, read_exact_at, write_all_at};
use crate::message::{Content, Destination, MailboxName, Message, Owner};
use crate::observe::events;

/// A journal whose process is gone, ours now, and what is in it.
#[derive(Debug)]
pub struct OrphanedJournal<D: Disk> {
    journal: Journal<D>,
    records: Vec<Record>,
    owner: Option<Identity>,
}

/// The journals that no living process has.
#[derive(Debug)]
pub struct ClaimedJournals<D: Disk> {
    /// Those with nothing in them. Locks in the name of their owners are stale from now on.
    pub empty: Vec<Journal<D>>,
    /// Those with something to recover. Locks in the name of their owners keep everybody off
    /// mailboxes until [`Committer::recover`] begins.
    pub orphans: Vec<OrphanedJournal<D>>,
}

/// Takes over, in the name of `us`, every journal in `spool` that no living process has.
pub fn claim<D: Disk>(
    directory: &MailboxStore<D>,
    spool: &Path,
    us: &Identity,
) -> io::Result<ClaimedJournals<D>> {
    let (mut empty, mut orphans) = (Vec::new(), Vec::new());
    for path in Journal::list(&*directory.disk, spool)? {
        let claimed = Journal::claim(&*directory.disk, &path, us)?;
        let Some((mut journal, owner)) = claimed else { continue };
        let records = journal.read()?;
        if !records.is_empty() {
            orphans.push(OrphanedJournal { journal, records, owner });
            continue;
        }
        owner.into_iter().for_each(|owner| directory.dotlocks.mark_dead(owner));
        empty.push(journal);
    }
    Ok(ClaimedJournals { empty, orphans })
}

impl<D: Disk> Committer<D> {
    /// Recovers everything that `orphans` hold, waiting up to `until` for mailboxes that somebody
    /// keeps locked. What could not be finished is suspended.
    pub fn recover(&mut self, mut orphans: Vec<OrphanedJournal<D>>, until: Instant) {
        if orphans.is_empty() {
            return;
        }
        for OrphanedJournal { journal, records, owner } in &orphans {
            events::recovery_started(journal.path.display(), records.len());
            self.journal.skip_to(journal.seq());
            owner.iter().for_each(|owner| self.directory.dotlocks.mark_dead(owner.clone()));
        }
        let mut mailboxes: BTreeMap<MailboxName, Option<Owner>> = BTreeMap::new();
        for copy in orphans.iter().flat_map(|o| &o.records).flat_map(copies_of) {
            mailboxes.insert(copy.to.mailbox.clone(), copy.to.owner);
        }
        // What was read may be in memory only, and a power loss now would leave a message in those
        // mailboxes that were done by then.
        let mut unfinished = HashSet::new();
        for OrphanedJournal { journal, records, .. } in &orphans {
            if let Err(e) = journal.sync() {
                events::recovery_failed(Some(journal.path.display()), None::<&str>, e);
                let copies = records.iter().flat_map(copies_of);
                unfinished.extend(copies.map(|c| c.to.mailbox.clone()));
            }
        }
        // Halves of messages go first: nothing may be appended behind one.
        for entry in orphans.iter().flat_map(OrphanedJournal::in_place) {
            for (_, copy) in &entry.copies {
                if unfinished.contains(&copy.to.mailbox) {
                    continue;
                }
                let cut = self.cut_torn(entry, copy, until);
                self.note(&copy.to.mailbox, cut, &mut unfinished);
            }
        }
        for (name, owner) in &mailboxes {
            if !unfinished.contains(name) {
                let redone = self.redo(&mut orphans, name, *owner, until);
                self.note(name, redone, &mut unfinished);
            }
        }
        for entry in orphans.iter().flat_map(OrphanedJournal::in_place) {
            if entry.copies.iter().any(|(_, copy)| unfinished.contains(&copy.to.mailbox)) {
                unfinished.extend(entry.copies.iter().map(|(_, copy)| copy.to.mailbox.clone()));
            } else if let Err(e) = self.complete(entry, until) {
                for (_, copy) in &entry.copies {
                    let error = io::Error::new(e.kind(), e.to_string());
                    self.note(&copy.to.mailbox, Err(error), &mut unfinished);
                }
            }
        }
        // Once its journal is gone, nothing tells that the owner of a lock is dead.
        let swept = self.sweep();
        if let Err(e) = swept.and_then(|()| self.directory.sync_names(mailboxes.keys())) {
            events::recovery_failed(None::<&str>, None::<&str>, e);
            unfinished.extend(mailboxes.into_keys());
        }
        for OrphanedJournal { mut journal, records, .. } in orphans {
            let finished =
                !records.iter().flat_map(copies_of).any(|c| unfinished.contains(&c.to.mailbox));
            let ended = match finished {
                true => journal
                    .empty(&Identity::none())
                    .and_then(|()| self.directory.disk.unlink(&journal.path)),
                false => journal.retain_for(&unfinished, false),
            };
            match ended {
                Ok(()) => events::recovery_ended(journal.path.display(), finished),
                Err(e) => events::journal_not_removed(journal.path.display(), e),
            }
        }
        self.suspended.extend(unfinished);
    }

    /// Recovers what other processes left that died while this one runs, and removes their locks.
    pub fn recover_orphans(&mut self) -> io::Result<()> {
        let claimed = claim(&self.directory, &self.spool, &self.identity)?;
        self.recover(claimed.orphans, Instant::now() + ORPHAN_PATIENCE);
        self.sweep()
    }

    /// Removes the locks that dead processes left.
    pub fn sweep(&self) -> io::Result<()> {
        let (disk, spool) = (&*self.directory.disk, &self.spool);
        let owners = Journal::list(disk, spool)?.into_iter();
        let owners: Vec<Identity> = owners.filter_map(|path| Journal::owner(disk, &path)).collect();
        // A journal of theirs that is still there is being recovered by some other process.
        self.directory.dotlocks.sweep(|id| !owners.contains(id))
    }

    fn note(
        &self,
        name: &MailboxName,
        result: io::Result<()>,
        unfinished: &mut HashSet<MailboxName>,
    ) {
        if let Err(e) = result
            && unfinished.insert(name.clone())
        {
            let path = self.directory.path_of(name);
            events::recovery_failed(None::<&str>, Some(path.display()), e);
        }
    }

    /// Redoes the copies in `name` whose octets are in the journals.
    fn redo(
        &mut self,
        orphans: &mut [OrphanedJournal<D>],
        name: &MailboxName,
        owner: Option<Owner>,
        until: Instant,
    ) -> io::Result<()> {
        let mut locked = self.take_patiently(name, owner, until)?;
        let rewritable = locked.rewritable()?;
        let mut records = Vec::new();
        for (o, OrphanedJournal { journal, records: all, .. }) in orphans.iter().enumerate() {
            records.extend(all.iter().enumerate().map(|(r, record)| ((o, r), journal, record)));
        }
        records.sort_by_key(|(_, _, record)| std::cmp::Reverse(record.seq));
        let (mut there, doubtful) = put_right(&mut locked, &rewritable, &records, |r| !r.done)?;
        rewritable.sync()?;
        locked.look_at_end()?;
        let mut missing = Vec::new();
        for ((o, r), number, message) in doubtful.into_iter().rev() {
            let Content::Memory(content) = &message.content else { continue };
            if !there.contains(&message.id)
                && !find_whole(&**locked.file(), &message.id, Known::Content(content))?
            {
                there.insert(message.id.clone());
                missing.push((o, r, number, message));
            }
        }
        let mut mailboxes = LockedMailboxes::from([(name.clone(), locked)]);
        while !missing.is_empty() {
            let mut octets = 0;
            let fits = |(_, _, _, message): &&(usize, usize, usize, Message)| {
                octets += Draft::octets_for(message, self.journal.segment());
                octets <= self.journal.segment() / 2
            };
            let n = missing.iter().take(MESSAGES_MAX).take_while(fits).count().max(1);
            let batch: Vec<_> = missing.drain(..n).collect();
            let messages: Vec<&Message> = batch.iter().map(|(_, _, _, message)| message).collect();
            for done in self.commit(&mut mailboxes, &messages) {
                if !matches!(done, CommitResult::Delivered(_)) {
                    return Err(io::Error::other(format!("not appended: {done:?}")));
                }
            }
            for (o, r, number, message) in batch {
                events::recovered(message.id, self.directory.path_of(name).display());
                let OrphanedJournal { journal, records, .. } = &mut orphans[o];
                journal.settle(&mut records[r], &[number])?;
            }
        }
        Ok(())
    }

    /// Cuts off a message in place that was begun in one of its mailboxes.
    fn cut_torn(
        &mut self,
        entry: &RecordedMessage,
        copy: &Placement,
        until: Instant,
    ) -> io::Result<()> {
        let mut locked = self.take_patiently(&copy.to.mailbox, copy.to.owner, until)?;
        if in_place_state(&locked, copy, entry)? == InPlace::Torn {
            locked.cut_back(copy.offset, copy.repair)?;
            events::truncated(&entry.id, locked.path().display());
        }
        Ok(())
    }

    /// Makes the copies of a message in place that are missing from one that is whole.
    fn complete(&mut self, entry: &RecordedMessage, until: Instant) -> io::Result<()> {
        let mut copies: Vec<&Placement> = entry.copies.iter().map(|(_, copy)| copy).collect();
        copies.sort_by(|a, b| a.to.mailbox.cmp(&b.to.mailbox));
        let mut locked = Vec::with_capacity(copies.len());
        let (mut whole, mut others) = (None, Vec::new());
        for (n, copy) in copies.iter().enumerate() {
            locked.push(self.take_patiently(&copy.to.mailbox, copy.to.owner, until)?);
            let len = in_place_len(entry, copy);
            match in_place_state(&locked[n], copy, entry)? {
                InPlace::Whole => {
                    // In memory; on the disk perhaps not, and a sync that failed is not repeated.
                    let file = locked[n].rewritable()?;
                    for (at, bytes) in Pieces::of(&**locked[n].file(), copy.offset, len) {
                        write_all_at(&file, &[&bytes?], at)?;
                    }
                    file.sync()?;
                    whole = Some(n);
                }
                InPlace::Torn | InPlace::Missing | InPlace::Other => others.push(n),
            }
        }
        let Some(whole) = whole.filter(|_| !others.is_empty()) else { return Ok(()) };
        let lines =
            copies[whole].repair + entry.head.len() + copies[whole].to.delivered_to_line().len();
        let (source, at) = (locked[whole].file().clone(), copies[whole].offset + lines as u64);
        let mut to = Vec::new();
        for n in others {
            let known = Known::Stretch(&*source, at, entry.len);
            if !find_whole(&**locked[n].file(), &entry.id, known)? {
                to.push(copies[n].to.clone());
            }
        }
        if to.is_empty() {
            return Ok(());
        }
        let mut file = tempfile::tempfile_in(&self.spool)?;
        for (_, bytes) in Pieces::of(&*source, at, entry.len) {
            file.write_all(&bytes?)?;
        }
        let content = Content::File(file.into(), entry.len);
        let message = Message { id: entry.id.clone(), head: entry.head.clone(), content, to };
        let mut mailboxes: LockedMailboxes<D> =
            locked.into_iter().map(|h| (h.name.clone(), h)).collect();
        match self.commit(&mut mailboxes, &[&message]).pop() {
            Some(CommitResult::Delivered(_)) => Ok(()),
            done => Err(io::Error::other(format!("not appended: {done:?}"))),
        }
    }

    fn take_patiently(
        &mut self,
        name: &MailboxName,
        owner: Option<Owner>,
        until: Instant,
    ) -> io::Result<LockedMailbox<D>> {
        loop {
            let who = match self.directory.take(name, owner, None) {
                Ok(TryLock::Taken(locked)) => return Ok(locked),
                Ok(TryLock::Orphaned) => {
                    self.sweep()?;
                    "a dead process".into()
                }
                Ok(TryLock::Busy(who)) => who,
                Err(fault) => return Err(io::Error::other(fault.text)),
            };
            if Instant::now() >= until {
                return Err(io::Error::other(format!("locked: {who}")));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Writes a mailbox whose sync failed again from the journal, and syncs it again. Does not wait
    /// for its locks.
    ///
    /// # Errors
    /// It failed again.
    pub(super) fn mend(&mut self, name: &MailboxName) -> io::Result<TryLock<()>> {
        let records = self.journal.read()?;
        let owner = records.iter().flat_map(copies_of).find(|c| c.to.mailbox == *name);
        let owner = owner.and_then(|copy| copy.to.owner);
        let mut locked = match self.directory.take(name, owner, None) {
            Ok(TryLock::Taken(locked)) => locked,
            Ok(TryLock::Busy(who)) => return Ok(TryLock::Busy(who)),
            Ok(TryLock::Orphaned) => return Ok(TryLock::Orphaned),
            Err(fault) => return Err(io::Error::other(fault.text)),
        };
        let rewritable = locked.rewritable()?;
        let records = records.iter().rev().filter(|record| !self.journal.is_refused(record));
        let records: Vec<_> = records.map(|record| ((), &self.journal, record)).collect();
        // What a reader took out or moved meanwhile is its own to keep.
        put_right(&mut locked, &rewritable, &records, |_| false)?;
        rewritable.sync()?;
        self.directory.sync_names([name])?;
        Ok(TryLock::Taken(()))
    }
}

impl<D: Disk> OrphanedJournal<D> {
    /// The messages in place that a crash may have interrupted. Only the last record can hold any:
    /// those before it were durable before it was written.
    fn in_place(&self) -> impl Iterator<Item = &RecordedMessage> {
        let last = self.records.last().filter(|r| !r.done);
        last.into_iter().flat_map(|r| &r.entries).filter(|e| e.at.is_none())
    }
}

fn copies_of(record: &Record) -> impl Iterator<Item = &Placement> {
    record.entries.iter().flat_map(|e| e.copies.iter().map(|(_, copy)| copy).chain(&e.aborted))
}

/// Which ids were found in a mailbox, and what was not: where from, its number there, and itself.
type MailboxRepair<From> = (HashSet<String>, Vec<(From, usize, Message)>);

/// Writes again, from `records`, the newest first, whatever stands where it was written to a
/// mailbox, in whole or, if `completed` says so, in part; and cuts off what is void.
///
/// Written again even if it reads well, and even if done: a sync that failed once leaves in memory
/// what is not on the disk.
fn put_right<D: Disk, From: std::marker::Copy>(
    locked: &mut LockedMailbox<D>,
    file: &D::File,
    records: &[(From, &Journal<D>, &Record)],
    completed: impl Fn(&Record) -> bool,
) -> io::Result<MailboxRepair<From>> {
    let (mut there, mut doubtful) = (HashSet::new(), Vec::new());
    for (from, journal, record) in records {
        for entry in record.entries.iter().rev() {
            if there.contains(&entry.id) {
                continue;
            }
            let copy = entry.copies.iter().find(|(_, c)| c.to.mailbox == locked.name);
            let Some((number, copy)) = copy else { continue };
            let Some(message) = message_of(journal, entry, copy)? else { continue };
            if rewrite(locked, file, copy, &message, completed(record))? {
                locked.len = locked.file().stat()?.len;
                there.insert(message.id);
            } else if record.done {
                there.insert(message.id);
            } else {
                doubtful.push((*from, *number, message));
            }
        }
    }
    for (_, journal, record) in records {
        for entry in record.entries.iter().rev().filter(|e| !there.contains(&e.id)) {
            let aborted = entry.aborted.iter().find(|c| c.to.mailbox == locked.name);
            let Some(copy) = aborted else { continue };
            let (ours, len) = match message_of(journal, entry, copy)? {
                Some(message) => stands(locked, copy, &message)?,
                None => {
                    let state = in_place_state(locked, copy, entry)?;
                    (matches!(state, InPlace::Whole | InPlace::Torn), in_place_len(entry, copy))
                }
            };
            if ours && locked.len > copy.offset && locked.len <= copy.offset + len {
                locked.cut_back(copy.offset, copy.repair)?;
                events::truncated(&entry.id, locked.path().display());
            }
        }
    }
    Ok((there, doubtful))
}

/// A copy as it was recorded; None for a message in place.
fn message_of<D: Disk>(
    journal: &Journal<D>,
    entry: &RecordedMessage,
    copy: &Placement,
) -> io::Result<Option<Message>> {
    Ok(journal.content(entry)?.map(|content| Message {
        id: entry.id.clone(),
        head: entry.head.clone(),
        content: Content::Memory(content.into()),
        to: vec![copy.to.clone()],
    }))
}

/// Whether what stands where `copy` says is ours, in whole or in part, zeros among it or none of
/// it at all; and how long it would be.
fn stands<D: Disk>(
    locked: &LockedMailbox<D>,
    copy: &Placement,
    message: &Message,
) -> io::Result<(bool, u64)> {
    let ours = octets_of(message, copy.repair);
    let len = ours.len() as u64;
    if (locked.stat.dev, locked.stat.ino) != copy.file {
        return Ok((false, len));
    }
    let mut theirs = vec![0; locked.len.saturating_sub(copy.offset).min(len) as usize];
    read_exact_at(&**locked.file(), &mut theirs, copy.offset)?;
    Ok((theirs.iter().zip(&ours).all(|(a, b)| a == b || *a == 0), len))
}

/// Writes `message` where `copy` says, if what stands there is ours as far as it goes. Unless it is
/// to be `completed` it must go all the way: where a reader took it out, the empty line that ends
/// the message before may be what ours began with.
fn rewrite<D: Disk>(
    locked: &LockedMailbox<D>,
    file: &D::File,
    copy: &Placement,
    message: &Message,
    completed: bool,
) -> io::Result<bool> {
    let (ours, len) = stands(locked, copy, message)?;
    let whole = locked.len >= copy.offset + len;
    if !ours || locked.len <= copy.offset || !(whole || completed) {
        return Ok(false);
    }
    write_all_at(file, &[&octets_of(message, copy.repair)], copy.offset)?;
    Ok(true)
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

/// A chunk that the file's end cuts short tells nothing, and is not taken for ours: it may be the
/// whole of a short message that came since. Ours end where chunks do.
fn in_place_state<D: Disk>(
    locked: &LockedMailbox<D>,
    copy: &Placement,
    entry: &RecordedMessage,
) -> io::Result<InPlace> {
    let Some(sums) = copy.sums.as_ref().filter(|_| (locked.stat.dev, locked.stat.ino) == copy.file)
    else {
        return Ok(InPlace::Other);
    };
    if locked.len <= copy.offset {
        return Ok(InPlace::Missing);
    }
    let len = in_place_len(entry, copy);
    let (mut whole, mut ours) = (locked.len >= copy.offset + len, locked.len <= copy.offset + len);
    let mut buf = Vec::new();
    for (at, octets, crc) in sums.chunks(copy.offset, len) {
        if at >= locked.len {
            break;
        }
        let stands = octets.min(locked.len - at);
        buf.resize(usize::try_from(stands).unwrap_or_default(), 0);
        read_exact_at(&**locked.file(), &mut buf, at)?;
        let right = stands == octets && crc32fast::hash(&buf) == crc;
        whole &= right;
        ours &= right || buf.iter().all(|b| *b == 0);
    }
    Ok(match (whole, ours) {
        (true, _) => InPlace::Whole,
        (false, true) => InPlace::Torn,
        (false, false) => InPlace::Other,
    })
}

fn in_place_len(entry: &RecordedMessage, copy: &Placement) -> u64 {
    let lines = copy.repair + entry.head.len() + copy.to.delivered_to_line().len() + 1;
    lines as u64 + entry.len
}

/// A copy of a message in memory, octet for octet.
fn octets_of(message: &Message, repair: usize) -> Vec<u8> {
    let Content::Memory(content) = &message.content else { return Vec::new() };
    let line = message.to.first().map(Destination::delivered_to_line).unwrap_or_default();
    let ends = b"\n\n".get(..repair).unwrap_or_default();
    let octets = [ends, &message.head, &line, content, b"\n"].concat();
    debug_assert!(message.to.iter().all(|to| octets.len() as u64 == copy_len(message, to, repair)));
    octets
}

/// The content of a message that is looked for.
enum Known<'a, F> {
    Content(&'a [u8]),
    /// A stretch of a file: where it begins, and its length.
    Stretch(&'a F, u64, u64),
}

/// Whether the message stands anywhere in the file: its id, and behind it the whole body. A reader
/// that rewrites a mailbox may add to the header, never to the body.
fn find_whole<F: DiskFile>(file: &F, id: &str, known: Known<'_, F>) -> io::Result<bool> {
    let empty_line = memmem::Finder::new(b"\n\n");
    // Where the body begins in what is known.
    let body = match &known {
        Known::Content(content) => empty_line.find(content).map_or(content.len(), |n| n + 2) as u64,
        Known::Stretch(source, at, len) => {
            let end = find_at(*source, &empty_line, *at)?.map_or(at + len, |n| n + 2);
            end.min(at + len) - at
        }
    };
    let needle = format!(" id {id}");
    let finder = memmem::Finder::new(&needle);
    let mut from = 0;
    while let Some(at) = find_at(file, &finder, from)? {
        from = at + 1;
        // One id can be the beginning of another.
        let mut next = [0];
        let ends = read_exact_at(file, &mut next, at + needle.len() as u64).is_ok();
        if !ends || !matches!(next, [b'\n' | b';' | b' ']) {
            continue;
        }
        let Some(header_end) = find_at(file, &empty_line, at)? else { continue };
        let same = match &known {
            Known::Content(content) => {
                same(file, header_end + 2, content.get(body as usize..).unwrap_or_default())?
            }
            Known::Stretch(source, start, len) => {
                let mut same_so_far = true;
                for (n, bytes) in Pieces::of(*source, start + body, len - body) {
                    same_so_far = same(file, header_end + 2 + (n - start - body), &bytes?)?;
                    if !same_so_far {
                        break;
                    }
                }
                same_so_far
            }
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether `bytes` stand in the file at `offset`.
fn same<F: DiskFile>(file: &F, offset: u64, bytes: &[u8]) -> io::Result<bool> {
    let mut theirs = vec![0; bytes.len()];
    match read_exact_at(file, &mut theirs, offset) {
        Ok(()) => Ok(theirs == bytes),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// A stretch of a file in pieces of 64 KiB, each with where it stands.
struct Pieces<'a, F> {
    file: &'a F,
    at: u64,
    end: u64,
}

impl<'a, F: DiskFile> Pieces<'a, F> {
    fn of(file: &'a F, at: u64, len: u64) -> Self {
        Pieces { file, at, end: at + len }
    }
}

impl<F: DiskFile> Iterator for Pieces<'_, F> {
    type Item = (u64, io::Result<Vec<u8>>);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, n) = (self.at, (self.end - self.at).min(64 * 1024));
        if n == 0 {
            return None;
        }
        self.at += n;
        let mut bytes = vec![0; n as usize];
        let read = read_exact_at(self.file, &mut bytes, at);
        Some((at, read.map(|()| bytes)))
    }
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

/// How long locked mailboxes are waited for while mail for others stands still.
const ORPHAN_PATIENCE: Duration = Duration::from_millis(200);
/// Between two attempts at a lock.
const PAUSE: Duration = Duration::from_millis(10);
