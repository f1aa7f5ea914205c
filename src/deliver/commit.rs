//! Commit of one batch: the writer records the batch in the journal, appends it to the
//! mailboxes and undoes what failed. Later the mailboxes are synced (`checkpoint.rs`), and the
//! journal does not need the record any more.
//!
//! The order of writes and syncs, and the action of the next start (`recover.rs`) after a crash:
//!
//! | after | on disk for sure | killed here (memory survives) | power lost here |
//! | --- | --- | --- | --- |
//! | locks | - | locks of a dead process: broken when its journal is recovered | the same |
//! | a new mailbox is created | - | an empty mailbox stays | the same, or none |
//! | record written | - | whole, or cut short: redone or not; never acknowledged | the same |
//! | record synced | the record | redone: completed or appended | redone |
//! | appended | the record | found whole: nothing to do | lost or cut short: redone |
//! | a failed append truncated | record, old length | redone: refused, yet delivered | the same |
//! | marked aborted | record, old length | nothing to do | redone, if the mark was lost |
//! | marked done, acknowledged | the record | nothing, if a reader has changed it since | redone |
//! | mailboxes and directory synced | record, mailboxes | nothing to do | found whole |
//! | checkpoint advanced | mailboxes | nothing to do | nothing to do |
//!
//! The file of a large message (`contents.rs`) is there and on disk before its record is written:
//!
//! | after | on disk for sure | killed or power lost here |
//! | --- | --- | --- |
//! | file created, written | - | removed: no journal refers to it |
//! | file and name synced | file | the same |
//! | record synced | file, record | redone from the file |
//! | checkpoint advanced, and on disk | mailboxes | removed: the record is not needed |
//! | file removed | mailboxes | nothing to do, or removed again |
//!
//! And the journal itself:
//!
//! | after | killed or power lost here |
//! | --- | --- |
//! | a segment is full | the mailboxes of both segments' records are examined |
//! | the other segment is begun, its mailboxes synced | the same, without overwritten records |
//! | the journal failed, a new one is created | the old one is replayed |
//! | the old one is removed | nothing to do: the mailboxes were synced before |
//! | or kept, resolved for all but suspended mailboxes | these are replayed |
//!
//! A failed sync is never simply repeated, because the kernel reports an error once and then counts
//! the lost data as written. Instead a mailbox is written again from the journal, a large message
//! is refused, and a journal is abandoned.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checkpoint::{Checkpointer, DirtyMailboxes};
use super::contents::ContentSpool;
use super::journal::{ChangeTimes, Draft, Journal, JournalListing, Placement, Trailer};
use super::locks::{Identity, TryLock};
use super::mailbox::{LockedMailbox, MailboxStore, OpenMailbox};
use super::mbox::MailboxCopy;
use super::outcome::{DeferReason, DeliveryError, Outcome};
use crate::message::{Content, ContentFile, DestinationFile, Message};
use crate::observe::counters::Counters;
use crate::observe::events;

/// Mailboxes that a batch has locked.
pub type LockedMailboxes = HashMap<DestinationFile, LockedMailbox>;

/// Ends of mailboxes as a batch plans them: length and missing newlines.
type PlannedEnds = HashMap<DestinationFile, (u64, usize)>;

/// Result for one message of a batch.
#[derive(Debug)]
pub enum CommitResult {
    /// The message is in all its mailboxes and durable. The copies can be undone while the locks
    /// are held.
    Delivered(Vec<WrittenCopy>),
    /// The message is in none of its mailboxes.
    Failed(Outcome),
    /// The message is in none of its mailboxes, because of another one. It belongs in the next
    /// batch.
    Retry,
}

/// Copy as it was appended.
#[derive(Clone, Debug)]
pub struct WrittenCopy {
    mailbox: DestinationFile,
    /// Number in the record.
    number: usize,
    /// Length and missing newlines of the mailbox before the copy.
    before: (u64, usize),
    /// Length of the mailbox after the copy.
    after: u64,
}

/// Commits batches to the journal and the mailboxes.
#[derive(Debug)]
pub struct Committer {
    /// Mailboxes and entries of the queue.
    pub store: MailboxStore,
    pub(super) spool: PathBuf,
    pub(super) identity: Identity,
    pub(super) counters: Arc<Counters>,
    pub(super) journal: Journal,
    pub(super) content_spool: ContentSpool,
    /// Content files that the journal refers to, by number, each with the number of the last such
    /// record.
    contents: HashMap<u64, (u64, Arc<ContentFile>)>,
    /// Bytes of content files that no checkpoint covers, finished or running.
    uncovered_octets: u64,
    /// True if the journal failed and must be replaced before the next record.
    pub(super) journal_failed: bool,
    /// True if the journal is full and no segment can be used again while a mailbox is failed.
    journal_full: bool,
    /// Trailer of the last batch, while its locks are held.
    last_trailer: Option<Trailer>,
    /// Mailboxes written to since the last checkpoint began.
    dirty: HashMap<DestinationFile, OpenMailbox>,
    /// Files that were dirty mailboxes before another program put other files under their names.
    replaced: DirtyMailboxes,
    checkpointer: Checkpointer,
    /// Age of a record at which a checkpoint begins.
    checkpoint_age: Duration,
    /// Time of the oldest record that no checkpoint covers, finished or running.
    uncovered_since: Option<Instant>,
    /// Newest record that a finished checkpoint covers.
    checkpointed: u64,
    /// Mailboxes that could not be synced or truncated, and are not repaired yet.
    failed: HashSet<DestinationFile>,
    /// Mailboxes that could not be repaired or recovered. They get no mail until recovery succeeds.
    /// Their records are in journals without an owner.
    pub(super) suspended: HashSet<DestinationFile>,
    /// Time of the last attempt to recover suspended mailboxes.
    last_retry: Instant,
    /// Journals that could be neither removed nor left to recovery. They stay locked, because they
    /// have our identity: a process that took one over would break our dotlocks.
    pub(super) abandoned: Vec<Journal>,
    /// Marks that could not be written.
    pending_marks: Vec<Trailer>,
    /// Journals without a process in which nothing can be recovered now, with their last owners.
    pub(super) examined: HashMap<(u64, u64), Option<Identity>>,
    /// Journals of the spool, those of other processes among them.
    pub(super) journals: JournalListing,
}

impl Committer {
    /// Makes a committer that writes through `journal`, which is empty.
    pub fn new(
        store: MailboxStore,
        content_spool: ContentSpool,
        identity: Identity,
        counters: Arc<Counters>,
        journal: Journal,
        checkpoint_age: Duration,
    ) -> io::Result<Committer> {
        let checkpointer =
            Checkpointer::start(store.disk.clone(), store.directories.clone(), counters.clone())?;
        Ok(Committer {
            store,
            spool: content_spool.directory.clone(),
            content_spool,
            contents: HashMap::new(),
            uncovered_octets: 0,
            identity,
            counters,
            journal,
            journal_failed: false,
            journal_full: false,
            last_trailer: None,
            dirty: HashMap::new(),
            replaced: Vec::new(),
            checkpointer,
            checkpoint_age,
            uncovered_since: None,
            checkpointed: 0,
            failed: HashSet::new(),
            suspended: HashSet::new(),
            last_retry: Instant::now(),
            abandoned: Vec::new(),
            pending_marks: Vec::new(),
            examined: HashMap::new(),
            journals: JournalListing::default(),
        })
    }

    /// Returns the number of bytes in each segment of the journal.
    pub fn journal_segment(&self) -> u64 {
        self.journal.segment()
    }

    /// True if mail may be appended to a mailbox. False while it waits to be repaired.
    ///
    /// # Errors
    /// The mailbox is suspended.
    pub fn admits(&self, name: &DestinationFile) -> Result<bool, DeliveryError> {
        if self.suspended.contains(name) {
            let text = "suspended until its records are recovered; see the log".into();
            return Err(DeliveryError::deferred(DeferReason::Io, text));
        }
        Ok(!self.failed.contains(name))
    }

    /// Delivers `messages` to their mailboxes, which are all in `locked`, and makes them durable.
    /// The results are in the order of the messages.
    pub fn commit(
        &mut self,
        locked: &mut LockedMailboxes,
        messages: &[&Message],
    ) -> Vec<CommitResult> {
        self.last_trailer = None;
        let mut results: Vec<CommitResult> = messages.iter().map(|_| CommitResult::Retry).collect();
        let mut ends: PlannedEnds =
            locked.iter().map(|(name, h)| (name.clone(), (h.len, h.missing_newlines))).collect();
        let mut draft = Draft::default();
        let mut drafted = Vec::new();
        for (i, message) in messages.iter().enumerate() {
            match self.place(locked, &mut ends, message) {
                Ok(copies) => {
                    draft.messages.push((message, copies));
                    drafted.push(i);
                }
                Err(fault) => {
                    fault.log(&message.id);
                    results[i] = CommitResult::Failed(fault.outcome());
                }
            }
        }
        if drafted.is_empty() {
            return results;
        }
        // Nothing is appended before the record is durable, so a crash can only leave copies that
        // the journal knows.
        let mut trailer = match self.record(&draft) {
            Ok(Some(trailer)) => trailer,
            Ok(None) => return results,
            Err(e) => {
                self.journal_failed = true;
                events::journal_failed(Some(self.journal.path.display()), &e);
                for (&i, (message, copies)) in drafted.iter().zip(&draft.messages) {
                    let fault = DeliveryError::spool("not recorded", &e)
                        .on(self.store.path_of(&copies[0].file));
                    fault.log(&message.id);
                    results[i] = CommitResult::Failed(fault.outcome());
                }
                return results;
            }
        };
        let mut number = 0;
        let mut shifted: HashSet<DestinationFile> = HashSet::new();
        for ((message, copies), &i) in draft.messages.iter().zip(&drafted) {
            let numbers = number..number + copies.len();
            number = numbers.end;
            // A failed message before this one was truncated, so the offsets of this one in the
            // record are wrong. Recovery would overwrite other mail there.
            if copies.iter().any(|copy| shifted.contains(&copy.file)) {
                shifted.extend(copies.iter().map(|copy| copy.file.clone()));
                numbers.for_each(|n| trailer.abort(n));
                continue;
            }
            match self.append(locked, message, copies, numbers.start) {
                Ok(written) => results[i] = CommitResult::Delivered(written),
                Err(fault) => {
                    fault.log(&message.id);
                    results[i] = CommitResult::Failed(fault.outcome());
                    shifted.extend(copies.iter().map(|copy| copy.file.clone()));
                    numbers.for_each(|n| trailer.abort(n));
                }
            }
        }
        // The mark is not synced: without it recovery only looks at mailboxes that are in order.
        self.journal.mark_done(&mut trailer, self.change_times(locked));
        self.write_marks(&trailer);
        for h in locked.values() {
            self.mark_dirty(h);
        }
        self.count(&results);
        self.last_trailer = Some(trailer);
        results
    }

    /// Returns the times of the changes that the batch has made. The times before it count too,
    /// because the clock may have been set back since.
    fn change_times(&self, locked: &LockedMailboxes) -> ChangeTimes {
        let (mut times, mut any_entry) = (ChangeTimes::default(), false);
        for (name, h) in locked {
            match name {
                DestinationFile::Mailbox(_) => {
                    let Ok(stat) = h.file().stat() else { return ChangeTimes::UNKNOWN };
                    times.mailboxes = times.mailboxes.max(stat.changed).max(h.stat.changed);
                }
                DestinationFile::QueueEntry(_) => any_entry = true,
            }
        }
        if any_entry {
            let Ok(stat) = self.store.disk.lstat(&self.store.directories.queue) else {
                return ChangeTimes::UNKNOWN;
            };
            times.queue = stat.changed;
        }
        times
    }

    fn count(&self, results: &[CommitResult]) {
        let (mut messages, mut copies) = (0, 0);
        for result in results {
            if let CommitResult::Delivered(written) = result {
                messages += 1;
                copies += written.len() as u64;
            }
        }
        self.counters.copies.add(copies);
        self.counters.batches.one();
        self.counters.batch_max.at_least(messages);
    }

    /// Keeps the file of a mailbox open until it is synced, and for the next message.
    fn mark_dirty(&mut self, mailbox: &LockedMailbox) {
        let is_same = |open: &OpenMailbox| open.stat.id() == mailbox.stat.id();
        if self.dirty.get(&mailbox.name).is_some_and(is_same) {
            return;
        }
        let open = OpenMailbox { file: mailbox.file().clone(), stat: mailbox.stat };
        if let Some(old) = self.dirty.insert(mailbox.name.clone(), open) {
            self.replaced.push((mailbox.name.clone(), old));
        }
    }

    /// Returns the file of a mailbox, if it is open.
    pub fn open_mailbox(&self, name: &DestinationFile) -> Option<&OpenMailbox> {
        self.dirty.get(name)
    }

    /// Returns the number of files that are kept open until a checkpoint covers them.
    pub fn cached_files(&self) -> usize {
        self.dirty.len() + self.replaced.len() + self.contents.len()
    }

    /// Makes a checkpoint to close the files that are kept open until then. Returns true if
    /// descriptors became free.
    pub fn close_cached_files(&mut self) -> bool {
        let any = self.cached_files() > 0 || self.checkpointer.is_running();
        self.begin_checkpoint();
        self.collect_checkpoints(true);
        if !self.contents.is_empty()
            && !self.journal_failed
            && let Err(e) = self.persist_checkpoint()
        {
            events::journal_failed(Some(self.journal.path.display()), e);
        }
        any && self.cached_files() == 0
    }

    /// Undoes a message of the last [`Committer::commit`], while its locks are still held. Keeps
    /// all copies if other mail follows one of them. Returns true if the message is undone.
    pub fn undo(&mut self, locked: &mut LockedMailboxes, written: &[WrittenCopy]) -> bool {
        if !written.iter().all(|w| locked.get(&w.mailbox).is_some_and(|h| h.len == w.after)) {
            return false;
        }
        let undone = self.truncate(locked, written);
        if let Some(mut trailer) = self.last_trailer.take() {
            written.iter().for_each(|w| trailer.abort(w.number));
            self.journal.mark_done(&mut trailer, self.change_times(locked));
            self.write_marks(&trailer);
            self.last_trailer = Some(trailer);
        }
        undone
    }

    /// Writes marks now, or at the next [`Committer::maintain`] if that fails.
    fn write_marks(&mut self, trailer: &Trailer) {
        if let Err(e) = self.journal.write_marks(trailer) {
            events::journal_mark_failed(e);
            self.pending_marks.push(trailer.clone());
        }
    }

    /// Truncates mailboxes to remove `written`, the last copy first. Returns true if all are gone.
    fn truncate(&mut self, locked: &mut LockedMailboxes, written: &[WrittenCopy]) -> bool {
        let mut gone = true;
        for copy in written.iter().rev() {
            let Some(h) = locked.get_mut(&copy.mailbox) else { continue };
            if let Err(e) = h.truncate(copy.before.0, copy.before.1) {
                events::truncate_failed(self.store.path_of(&copy.mailbox).display(), e);
                // If the sync failed, other mail that was not yet on disk may be lost as well.
                self.failed.insert(copy.mailbox.clone());
                gone = false;
            }
        }
        gone
    }

    /// Plans the position of each copy of `message`, after `ends`, which are updated.
    fn place(
        &self,
        locked: &LockedMailboxes,
        ends: &mut PlannedEnds,
        message: &Message,
    ) -> Result<Vec<Placement>, DeliveryError> {
        let mut copies = Vec::with_capacity(message.to.len());
        let mut new_ends = Vec::with_capacity(message.to.len());
        for to in &message.to {
            let file = to.file();
            let (Some(h), Some(&(offset, missing_newlines))) = (locked.get(&file), ends.get(&file))
            else {
                return Err(DeliveryError::io("lock", io::ErrorKind::NotFound.into())
                    .on(self.store.path_of(&file)));
            };
            let copy = MailboxCopy::new(message, to, missing_newlines);
            let end = offset + copy.size();
            if self.store.limit_of(&file).is_some_and(|limit| end > limit) {
                let text = format!("would be larger than its limit, {offset} octets now");
                return Err(DeliveryError::over_quota(text).on(self.store.path_of(&file)));
            }
            new_ends.push((file.clone(), end));
            let (to, inode) = (to.clone(), h.stat.ino);
            copies.push(Placement { to, file, inode, offset, missing_newlines });
        }
        // Only now, because a message that fails takes no room in any of its mailboxes.
        ends.extend(new_ends.into_iter().map(|(file, end)| (file, (end, 0))));
        Ok(copies)
    }

    /// Writes the record and makes it durable. Returns None if a failed mailbox must be repaired
    /// first, which is not possible while its lock is held for this batch.
    fn record(&mut self, draft: &Draft<'_>) -> io::Result<Option<Trailer>> {
        if self.journal_failed {
            self.replace_journal()?;
        }
        self.collect_checkpoints(false);
        if !self.journal.has_room(draft) {
            self.begin_checkpoint();
            // The other segment has the records from which failed mailboxes are repaired.
            if !self.failed.is_empty() {
                self.journal_full = true;
                return Ok(None);
            }
            // On disk before the segment is reused, because records of its earlier use follow the
            // first new one, and would make a torn one look like damage.
            self.counters.syncs.one();
            self.persist_checkpoint()?;
            self.journal.switch_segment();
            if !self.journal.has_room(draft) {
                return Err(io::Error::other("a batch larger than a segment of the journal"));
            }
        } else if self.dirty.len() + self.replaced.len() >= DIRTY_MAX
            || self.uncovered_octets >= CONTENTS_MAX
        {
            // Bounds the number of open descriptors, and the room in the spool.
            self.begin_checkpoint();
        }
        let seq = self.journal.seq() + 1;
        for (message, _) in &draft.messages {
            if let Content::File(file) = &message.content {
                file.set_recorded(true);
                self.uncovered_octets += file.size();
                self.contents.insert(file.number(), (seq, file.clone()));
            }
        }
        self.counters.syncs.one();
        let written = self.journal.write(draft).and_then(|trailer| {
            self.journal.sync()?;
            Ok(Some(trailer))
        });
        self.uncovered_since.get_or_insert_with(Instant::now);
        written.inspect_err(|_| self.journal.mark_failed(seq))
    }

    /// Appends `message` to all of its mailboxes or to none. Its copies are numbered from `first`.
    fn append(
        &mut self,
        locked: &mut LockedMailboxes,
        message: &Message,
        copies: &[Placement],
        first: usize,
    ) -> Result<Vec<WrittenCopy>, DeliveryError> {
        let mut written: Vec<WrittenCopy> = Vec::with_capacity(copies.len());
        let mut failed = None;
        for (n, copy) in copies.iter().enumerate() {
            let Some(h) = locked.get_mut(&copy.file) else { continue };
            let before = (h.len, h.missing_newlines);
            let result = h.append(&MailboxCopy::new(message, &copy.to, h.missing_newlines));
            let (mailbox, number, after) = (copy.file.clone(), first + n, h.len);
            written.push(WrittenCopy { mailbox, number, before, after });
            if let Err(e) = result {
                failed = Some(DeliveryError::io("append", e).on(self.store.path_of(&copy.file)));
                break;
            }
        }
        match failed {
            None => Ok(written),
            Some(fault) => {
                self.truncate(locked, &written);
                Err(fault)
            }
        }
    }

    /// Collects a finished checkpoint, repairs mailboxes after a failed sync, and retries suspended
    /// ones. Is called between two batches. Releases the locks in `locked` before it locks a
    /// mailbox itself.
    pub fn maintain(&mut self, locked: &mut LockedMailboxes) {
        self.collect_checkpoints(false);
        if !self.failed.is_empty() || !self.suspended.is_empty() {
            locked.clear();
        }
        self.remove_contents();
        let journal = &self.journal;
        self.pending_marks.retain(|trailer| journal.write_marks(trailer).is_err());
        for name in std::mem::take(&mut self.failed) {
            let error = match self.repair(&name) {
                Ok(TryLock::Acquired(())) => continue,
                Ok(TryLock::Contended(_) | TryLock::HeldByMailslot(_)) if !self.journal_full => {
                    self.failed.insert(name);
                    continue;
                }
                Ok(TryLock::Contended(holder) | TryLock::HeldByMailslot(holder)) => {
                    io::Error::other(format!("locked: {holder}"))
                }
                Err(e) => e,
            };
            events::mailbox_suspended(self.store.path_of(&name).display(), error);
            self.suspended.insert(name);
            // The records of the mailbox must outlive this journal.
            self.journal_failed = true;
        }
        self.journal_full = false;
        self.collect_checkpoints(false);
        if !self.suspended.is_empty() && self.last_retry.elapsed() >= RETRY_INTERVAL {
            if let Err(e) = self.retry_suspended() {
                events::recovery_failed(None::<&str>, None::<&str>, e);
            }
            self.last_retry = Instant::now();
        }
    }

    /// Recovers the journals that suspended mailboxes wait for.
    fn retry_suspended(&mut self) -> io::Result<()> {
        if self.journal_failed {
            // It still has their records.
            self.replace_journal()?;
        }
        self.suspended.clear();
        self.recover_orphans()
    }

    /// Begins a checkpoint if a record is old, unless one is running.
    pub fn checkpoint_by_age(&mut self) {
        let is_old = self.uncovered_since.is_some_and(|at| at.elapsed() >= self.checkpoint_age);
        if is_old {
            self.collect_checkpoints(false);
            if !self.checkpointer.is_running() {
                self.begin_checkpoint();
            }
        }
    }

    /// Begins a checkpoint of all records, after the one before has ended.
    fn begin_checkpoint(&mut self) {
        self.collect_checkpoints(true);
        (self.uncovered_since, self.uncovered_octets) = (None, 0);
        if !self.journal.is_clean() {
            let mailboxes = self.dirty.drain().chain(self.replaced.drain(..)).collect();
            let unsynced = self.checkpointer.begin(self.journal.seq(), mailboxes);
            self.failed.extend(unsynced);
        }
    }

    /// Makes a checkpoint of all records, waits for it, and persists it.
    ///
    /// # Errors
    /// A mailbox or the journal could not be synced. The records are kept.
    pub fn checkpoint_all(&mut self) -> io::Result<()> {
        self.begin_checkpoint();
        self.collect_checkpoints(true);
        self.maintain(&mut LockedMailboxes::new());
        if self.journal_failed {
            self.replace_journal()?;
        }
        if !self.journal.is_clean() {
            return Err(io::Error::other("mailboxes could not be synced; their records are kept"));
        }
        self.persist_checkpoint()
    }

    /// Writes the checkpoint to the header of the journal, and removes the content files that only
    /// older records need.
    fn persist_checkpoint(&mut self) -> io::Result<()> {
        self.journal.persist_checkpoint(&self.identity)?;
        self.remove_contents();
        Ok(())
    }

    /// Removes the content files of records of which the disk says that they are not needed.
    fn remove_contents(&mut self) {
        let covered = self.journal.persisted_checkpoint();
        for (_, (_, content)) in self.contents.extract_if(|_, (seq, _)| *seq <= covered) {
            content.set_recorded(false);
            if content.is_shared() {
                self.content_spool.note_orphans();
            }
        }
        if let Err(e) = self.content_spool.remove_orphans() {
            events::contents_not_removed(self.spool.display(), e);
        }
    }

    /// Makes a step towards [`checkpoint_all`](Committer::checkpoint_all) without waiting for a
    /// mailbox: begins the checkpoint, and persists it when called again later.
    ///
    /// # Errors
    /// Those of [`Committer::checkpoint_all`].
    pub fn checkpoint_in_background(&mut self) -> io::Result<()> {
        self.collect_checkpoints(false);
        if self.checkpointer.is_running() {
            return Ok(());
        }
        if self.journal_failed || !self.failed.is_empty() {
            return self.checkpoint_all();
        }
        if self.journal.is_clean() {
            return self.persist_checkpoint();
        }
        self.begin_checkpoint();
        Ok(())
    }

    /// True if files of large messages wait for a checkpoint.
    pub fn has_contents(&self) -> bool {
        !self.contents.is_empty()
    }

    /// True if no mailbox waits to be synced, and the journal's header says so.
    pub fn is_clean(&self) -> bool {
        self.journal.is_checkpoint_persisted() && self.failed.is_empty()
    }

    fn collect_checkpoints(&mut self, wait: bool) {
        if let Some(result) = self.checkpointer.collect(wait) {
            self.failed.extend(result.failed);
            self.checkpointed = self.checkpointed.max(result.seq);
        }
        // While a mailbox is failed its records are needed, so the checkpoint stays.
        if self.failed.is_empty() && !self.journal_failed {
            self.journal.advance_checkpoint(self.checkpointed);
        }
    }

    /// Replaces a journal that could not be written or has the records of a suspended mailbox.
    /// Makes everything else durable in the mailboxes and creates a new journal.
    fn replace_journal(&mut self) -> io::Result<()> {
        self.begin_checkpoint();
        self.collect_checkpoints(true);
        self.suspended.extend(self.failed.drain());
        let disk = self.store.disk.clone();
        let fresh = Journal::create(&*disk, &self.spool, self.journal.segment(), &self.identity)?;
        let mut old = std::mem::replace(&mut self.journal, fresh);
        self.pending_marks.drain(..).for_each(|trailer| drop(old.write_marks(&trailer)));
        self.journal.skip_to(old.seq());
        self.journal_failed = false;
        self.checkpointed = 0;
        let contents = std::mem::take(&mut self.contents);
        contents.values().for_each(|(_, content)| content.share());
        let left = match self.suspended.is_empty() {
            true => disk.unlink(&old.path).and_then(|()| disk.sync_directory(&self.spool)),
            false => old.retain_for(&self.suspended, true),
        };
        if left.is_ok() && !contents.is_empty() {
            self.content_spool.note_orphans();
        }
        events::journal_renewed(self.journal.path.display());
        if let Err(e) = left {
            events::journal_not_removed(old.path.display(), e);
            self.abandoned.push(old);
        }
        Ok(())
    }

    /// Syncs all mailboxes, ends the checkpoint thread, and removes the files that only a living
    /// process needs.
    pub fn close(mut self) {
        let cleaned = self.checkpoint_all().and_then(|()| self.journal.mark_clean());
        if let Err(e) = cleaned {
            events::journal_failed(Some(self.journal.path.display()), e);
        }
        self.store.dotlocks.close();
    }
}

/// Number of dirty mailboxes above which a checkpoint begins.
const DIRTY_MAX: usize = 256;
/// Bytes of content files above which a checkpoint begins.
const CONTENTS_MAX: u64 = 32 << 20;
/// Interval at which suspended mailboxes are retried, if there is any mail.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
