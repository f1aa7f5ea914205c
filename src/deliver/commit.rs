//! What the writer does with one batch: record it in the journal, append it to the mailboxes, take
//! back what failed; and later, beside it, write the mailboxes back and forget the record.
//!
//! The order of writes and syncs, and what each state leaves to the next start (`recover.rs`):
//!
//! | after | on disk for sure | killed here (memory survives) | power lost here |
//! | --- | --- | --- | --- |
//! | locks | - | locks of a dead process: broken when its journal is recovered | the same |
//! | a new mailbox made | - | an empty mailbox stays | the same, or none |
//! | record written | - | whole, or cut short: redone or not; never acknowledged | the same |
//! | record synced | the record | redone: completed or appended | redone |
//! | appended | the record | found whole: nothing | lost or cut short: redone |
//! | a failed append cut back | record, length before | redone: refused, yet delivered | the same |
//! | marked void | record, length before | nothing | redone, if the mark was lost |
//! | marked done, answered | the record | nothing: a reader may have taken it out | redone |
//! | mailboxes and folder synced | record, mailboxes | nothing | found whole: nothing |
//! | record forgotten | mailboxes | nothing | nothing |
//!
//! A message in place (a large one):
//!
//! | after | on disk for sure | killed here | power lost here |
//! | --- | --- | --- | --- |
//! | record synced | the record | nothing to undo | the same |
//! | appended to some | the record | whole in one: completed in all; else cut off | the same |
//! | some mailboxes synced | record, these mailboxes | completed in all | the same |
//! | all and the folder synced | record, mailboxes | nothing | nothing |
//!
//! And the journal itself:
//!
//! | after | killed or power lost here |
//! | --- | --- |
//! | a half is full | the mailboxes of both halves' records are looked at |
//! | the other half is begun, its mailboxes synced | the same, but for records written over |
//! | the journal failed, a new one is made | the old one is redone |
//! | the old one is removed | nothing: the mailboxes were synced before |
//! | or kept, settled for all but suspended mailboxes | these are redone |
//!
//! An error of any sync is believed once: what it covered is written again (a mailbox, from the
//! journal), or refused and cut back (a message in place), or abandoned (a journal).

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::disk::{Disk, DiskFile, Stat};
use super::journal::{Draft, Journal, Placement, Sums, Trailer};
use super::locks::{Identity, TryLock};
use super::mailbox::{LockedMailbox, MailboxStore, OpenMailbox, sync_folders};
use super::{DeferReason, DeliveryError, Outcome};
use crate::message::{Content, Destination, MailboxName, Message};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::process::privilege;

/// The mailboxes that a batch holds, by name.
pub type LockedMailboxes<D> = HashMap<MailboxName, LockedMailbox<D>>;

/// Mailboxes that wait to be synced.
type MailboxFiles<D> = Vec<(MailboxName, OpenMailbox<D>)>;

/// What became of one message of a batch.
#[derive(Debug)]
pub enum CommitResult {
    /// In all its mailboxes and durable; how to take it back as long as the locks are held.
    Delivered(Vec<WrittenCopy>),
    /// In none.
    Failed(Outcome),
    /// In none, through no fault of its own: it comes again with the next batch.
    Retry,
}

/// One copy, as it was written.
#[derive(Clone, Debug)]
pub struct WrittenCopy {
    mailbox: MailboxName,
    /// Its number in the record.
    number: usize,
    before: (u64, usize),
    after: u64,
}

/// The writer's tools, all of them.
#[derive(Debug)]
pub struct Committer<D: Disk> {
    /// The mail folder.
    pub directory: MailboxStore<D>,
    pub(super) spool: PathBuf,
    pub(super) identity: Identity,
    pub(super) counters: Arc<Counters>,
    pub(super) journal: Journal<D>,
    /// The journal itself failed; it is made anew before the next record.
    pub(super) broken: bool,
    /// The record of the batch whose locks are held.
    last: Option<Trailer>,
    /// The mailboxes written to since the last checkpoint began.
    dirty: HashMap<MailboxName, OpenMailbox<D>>,
    /// Files that were mailboxes then, before another program put others in their place.
    replaced: MailboxFiles<D>,
    checkpointer: Checkpointer<D>,
    /// The newest record whose mailboxes were all written back, but for those that failed.
    written_back: u64,
    /// Mailboxes whose sync failed, or that could not be cut back, and that are not mended yet.
    failed: HashSet<MailboxName>,
    /// The journal is full, and cannot be used again as long as any are.
    pressed: bool,
    /// Mailboxes whose disk failed twice, or that a recovery could not finish: no mail until one
    /// has. What they need is in journals without an owner.
    pub(super) suspended: HashSet<MailboxName>,
    /// When that was last tried.
    tried: Instant,
    /// Journals that could not be removed or handed on. Kept locked: they are in our name, and
    /// whoever took one for a dead process's would break our locks.
    abandoned: Vec<Journal<D>>,
    /// Marks of records that could not be written.
    pending_marks: Vec<Trailer>,
}

impl<D: Disk> Committer<D> {
    /// An engine that writes through `journal`, which is empty and ours.
    pub fn new(
        directory: MailboxStore<D>,
        spool: PathBuf,
        identity: Identity,
        counters: Arc<Counters>,
        journal: Journal<D>,
    ) -> io::Result<Committer<D>> {
        let (mail, queue) = (directory.path.clone(), directory.spool.clone());
        let checkpointer = Checkpointer::start(directory.disk.clone(), [mail, queue], &counters)?;
        Ok(Committer {
            directory,
            spool,
            identity,
            counters,
            journal,
            broken: false,
            last: None,
            dirty: HashMap::new(),
            replaced: Vec::new(),
            checkpointer,
            written_back: 0,
            failed: HashSet::new(),
            pressed: false,
            suspended: HashSet::new(),
            tried: Instant::now(),
            abandoned: Vec::new(),
            pending_marks: Vec::new(),
        })
    }

    /// Octets in each half of the journal.
    pub fn journal_segment(&self) -> u64 {
        self.journal.segment()
    }

    /// Whether mail may be appended to a mailbox; false as long as it waits to be mended.
    ///
    /// # Errors
    /// The mailbox is suspended.
    pub fn admits(&self, name: &MailboxName) -> Result<bool, DeliveryError> {
        if self.suspended.contains(name) {
            let text = "suspended until its records are recovered; see the log".into();
            return Err(DeliveryError::new(Outcome::Later(DeferReason::Io), text));
        }
        Ok(!self.failed.contains(name))
    }

    /// Delivers `messages`, whose mailboxes are all in `locked`, and makes them durable. The answers
    /// are in the order of the messages. At most one message in place for each mailbox.
    pub fn commit(
        &mut self,
        locked: &mut LockedMailboxes<D>,
        messages: &[&Message],
    ) -> Vec<CommitResult> {
        self.last = None;
        let mut done: Vec<CommitResult> = messages.iter().map(|_| CommitResult::Retry).collect();
        // Small ones first: what is redone must not stand behind what may be undone.
        let mut order: Vec<usize> = (0..messages.len()).collect();
        order.sort_by_key(|&i| matches!(messages[i].content, Content::File(..)));
        let mut ends: HashMap<MailboxName, (u64, usize)> =
            locked.iter().map(|(name, h)| (name.clone(), (h.len, h.repair))).collect();
        let mut draft = Draft::default();
        let mut drafted = Vec::new();
        for i in order {
            match self.place(locked, &mut ends, messages[i]) {
                Ok(copies) => {
                    draft.messages.push((messages[i], copies));
                    drafted.push(i);
                }
                Err(fault) => {
                    fault.log(&messages[i].id);
                    done[i] = CommitResult::Failed(fault.outcome);
                }
            }
        }
        if drafted.is_empty() {
            return done;
        }
        let mut trailer = match self.record(&draft) {
            Ok(Some(trailer)) => trailer,
            Ok(None) => return done,
            Err(e) => {
                self.broken = true;
                events::journal_failed(Some(self.journal.path.display()), &e);
                // A spool that is full, or over its own quota, is no user's mailbox over quota.
                let outcome = match DeliveryError::outcome_of(&e) {
                    Outcome::Never(_) => Outcome::Later(DeferReason::NoSpace),
                    outcome => outcome,
                };
                for (&i, (message, copies)) in drafted.iter().zip(&draft.messages) {
                    let text = format!("not recorded: {e}");
                    let fault = DeliveryError::new(outcome.clone(), text);
                    let fault = fault.on(self.directory.path_of(&copies[0].to.mailbox));
                    fault.log(&message.id);
                    done[i] = CommitResult::Failed(fault.outcome);
                }
                return done;
            }
        };
        let mut number = 0;
        let mut shifted: HashSet<MailboxName> = HashSet::new();
        for ((message, copies), &i) in draft.messages.iter().zip(&drafted) {
            let numbers = number..number + copies.len();
            number = numbers.end;
            // Behind a message that failed nothing stands where the record says.
            if copies.iter().any(|c| shifted.contains(&c.to.mailbox)) {
                shifted.extend(copies.iter().map(|c| c.to.mailbox.clone()));
                numbers.for_each(|n| trailer.aborted(n));
                continue;
            }
            match self.append(locked, message, copies, numbers.start) {
                Ok(written) => done[i] = CommitResult::Delivered(written),
                Err(fault) => {
                    fault.log(&message.id);
                    done[i] = CommitResult::Failed(fault.outcome);
                    shifted.extend(copies.iter().map(|c| c.to.mailbox.clone()));
                    numbers.for_each(|n| trailer.aborted(n));
                }
            }
        }
        self.journal.mark_done(&mut trailer);
        self.write_marks(&trailer);
        for h in locked.values() {
            self.touch(h);
        }
        let copies = done.iter().map(|d| match d {
            CommitResult::Delivered(written) => written.len() as u64,
            CommitResult::Failed(_) | CommitResult::Retry => 0,
        });
        self.counters.copies.add(copies.sum());
        let delivered =
            done.iter().filter(|d| matches!(d, CommitResult::Delivered(_))).count() as u64;
        self.counters.batches.one();
        self.counters.batch_max.at_least(delivered);
        self.last = Some(trailer);
        done
    }

    /// Keeps a mailbox's file open until it is synced; and for the next message, if that is sooner.
    fn touch(&mut self, h: &LockedMailbox<D>) {
        let of = |stat: &Stat| (stat.dev, stat.ino);
        if self.dirty.get(&h.name).is_some_and(|known| of(&known.stat) == of(&h.stat)) {
            return;
        }
        let known = OpenMailbox { file: h.file().clone(), stat: h.stat };
        if let Some(old) = self.dirty.insert(h.name.clone(), known) {
            self.replaced.push((h.name.clone(), old));
        }
    }

    /// The file of a mailbox, if it is open.
    pub fn known(&self, name: &MailboxName) -> Option<&OpenMailbox<D>> {
        self.dirty.get(name)
    }

    /// Takes back a message of the last [`Committer::commit`], whose locks are still held, unless
    /// something stands behind one of its copies: then all of them stay. Whether it is gone.
    pub fn take_back(&mut self, locked: &mut LockedMailboxes<D>, written: &[WrittenCopy]) -> bool {
        if !written.iter().all(|w| locked.get(&w.mailbox).is_some_and(|h| h.len == w.after)) {
            return false;
        }
        let gone = self.cut_back(locked, written);
        if let Some(mut trailer) = self.last.take() {
            written.iter().for_each(|w| trailer.aborted(w.number));
            self.write_marks(&trailer);
            self.last = Some(trailer);
        }
        gone
    }

    /// Writes marks; now, or when the journal takes them again.
    fn write_marks(&mut self, trailer: &Trailer) {
        if let Err(e) = self.journal.write_marks(trailer) {
            events::journal_mark_failed(e);
            self.pending_marks.push(trailer.clone());
        }
    }

    /// Cuts copies back, the last one first. Whether all are gone.
    fn cut_back(&mut self, locked: &mut LockedMailboxes<D>, written: &[WrittenCopy]) -> bool {
        let mut gone = true;
        for copy in written.iter().rev() {
            let Some(h) = locked.get_mut(&copy.mailbox) else { continue };
            if let Err(e) = h.cut_back(copy.before.0, copy.before.1) {
                events::truncate_failed(self.directory.path_of(&copy.mailbox).display(), e);
                // If it was the sync, what else of this mailbox was not on disk yet may be lost.
                self.failed.insert(copy.mailbox.clone());
                gone = false;
            }
        }
        gone
    }

    /// Where each copy of `message` will stand.
    fn place(
        &self,
        locked: &LockedMailboxes<D>,
        ends: &mut HashMap<MailboxName, (u64, usize)>,
        message: &Message,
    ) -> Result<Vec<Placement>, DeliveryError> {
        let path_of = |to: &Destination| self.directory.path_of(&to.mailbox);
        let mut copies = Vec::with_capacity(message.to.len());
        for to in &message.to {
            let (Some(h), Some(&(offset, repair))) =
                (locked.get(&to.mailbox), ends.get(&to.mailbox))
            else {
                return Err(
                    DeliveryError::io("lock", io::ErrorKind::NotFound.into()).on(path_of(to))
                );
            };
            let len = copy_len(message, to, repair);
            let limit = self.directory.limit.filter(|_| to.mailbox.queue_id().is_none());
            if limit.is_some_and(|limit| offset + len > limit) {
                let outcome = Outcome::Never(DeferReason::OverQuota);
                let text = format!("would be larger than its limit, {offset} octets now");
                return Err(DeliveryError::new(outcome, text).on(path_of(to)));
            }
            let sums = match &message.content {
                Content::Memory(_) => None,
                Content::File(file, octets) => {
                    let head =
                        [&b"\n\n"[..repair], &message.head, &to.delivered_to_line()].concat();
                    let chunk = Sums::chunk(*octets, message.to.len(), self.journal.segment());
                    let sums = Sums::of_message(offset, chunk, &head, file, *octets);
                    Some(
                        sums.map_err(|e| DeliveryError::io("read content for", e).on(path_of(to)))?,
                    )
                }
            };
            copies.push(Placement {
                to: to.clone(),
                file: (h.stat.dev, h.stat.ino),
                offset,
                repair,
                sums,
            });
        }
        for (to, copy) in message.to.iter().zip(&copies) {
            let end = copy.offset + copy_len(message, to, copy.repair);
            ends.insert(to.mailbox.clone(), (end, 0));
        }
        Ok(copies)
    }

    /// Writes the record and makes it durable. None: a mailbox must be mended first, which cannot
    /// be done while its lock is held for this batch.
    fn record(&mut self, draft: &Draft<'_>) -> io::Result<Option<Trailer>> {
        if self.broken {
            self.renew_journal()?;
        }
        self.collect_checkpoints(false);
        if !self.journal.has_room(draft) {
            self.begin_checkpoint();
            if !self.failed.is_empty() {
                self.pressed = true;
                return Ok(None);
            }
            self.journal.switch_segment();
            if !self.journal.has_room(draft) {
                return Err(io::Error::other("a batch larger than half of the journal"));
            }
        } else if self.dirty.len() + self.replaced.len() >= TOUCHED_MAX {
            // Bounds the descriptors that are kept open.
            self.begin_checkpoint();
        }
        let seq = self.journal.seq() + 1;
        self.counters.syncs.one();
        let written = self.journal.write(draft).and_then(|trailer| {
            self.journal.sync()?;
            Ok(Some(trailer))
        });
        written.inspect_err(|_| self.journal.refuse(seq))
    }

    /// Appends `message` to all of its mailboxes, or to none.
    fn append(
        &mut self,
        locked: &mut LockedMailboxes<D>,
        message: &Message,
        copies: &[Placement],
        first: usize,
    ) -> Result<Vec<WrittenCopy>, DeliveryError> {
        let mut written: Vec<WrittenCopy> = Vec::with_capacity(copies.len());
        let mut failed = None;
        for (n, copy) in copies.iter().enumerate() {
            let name = &copy.to.mailbox;
            let Some(h) = locked.get_mut(name) else { continue };
            let before = (h.len, h.repair);
            let line = copy.to.delivered_to_line();
            let result = h.append([&message.head, &line], &message.content);
            let (mailbox, number, after) = (name.clone(), first + n, h.len);
            written.push(WrittenCopy { mailbox, number, before, after });
            if let Err(e) = result {
                failed = Some(DeliveryError::io("append", e).on(self.directory.path_of(name)));
                break;
            }
        }
        if failed.is_none() && matches!(message.content, Content::File(..)) {
            failed = self.sync_in_place(locked, copies).err();
        }
        match failed {
            None => Ok(written),
            Some(fault) => {
                self.cut_back(locked, &written);
                Err(fault)
            }
        }
    }

    /// Makes a large message durable where it stands, and the mailboxes' names: one may be new,
    /// with a record or nothing standing in for its name, or a reader may have put another file
    /// under it.
    fn sync_in_place(
        &mut self,
        locked: &LockedMailboxes<D>,
        copies: &[Placement],
    ) -> Result<(), DeliveryError> {
        for copy in copies {
            let Some(h) = locked.get(&copy.to.mailbox) else { continue };
            self.counters.syncs.one();
            if let Err(e) = h.file().sync() {
                // What else of this mailbox was not on disk yet may be lost as well.
                self.failed.insert(copy.to.mailbox.clone());
                let path = self.directory.path_of(&copy.to.mailbox);
                return Err(DeliveryError::io("sync", e).on(path));
            }
        }
        self.counters.syncs.one();
        let synced = self.directory.sync_names(copies.iter().map(|copy| &copy.to.mailbox));
        synced.map_err(|e| {
            let path = self.directory.path_of(&copies[0].to.mailbox);
            DeliveryError::io("sync the directory of", e).on(path)
        })
    }

    /// Between batches, with no lock held: takes in what was written back beside, mends the
    /// mailboxes whose sync failed, and tries suspended ones again.
    pub fn maintain(&mut self) {
        self.collect_checkpoints(false);
        let journal = &self.journal;
        self.pending_marks.retain(|trailer| journal.write_marks(trailer).is_err());
        for name in std::mem::take(&mut self.failed) {
            let error = match self.mend(&name) {
                Ok(TryLock::Taken(())) => continue,
                Ok(TryLock::Busy(_)) if !self.pressed => {
                    self.failed.insert(name);
                    continue;
                }
                Ok(TryLock::Busy(who)) => io::Error::other(format!("locked: {who}")),
                Ok(TryLock::Orphaned) => io::Error::other("locked by a dead process"),
                Err(e) => e,
            };
            events::mailbox_suspended(self.directory.path_of(&name).display(), error);
            self.suspended.insert(name);
            self.broken = true;
        }
        self.pressed = false;
        self.collect_checkpoints(false);
        if !self.suspended.is_empty() && self.tried.elapsed() >= TRY_AGAIN {
            if let Err(e) = self.try_again() {
                events::recovery_failed(None::<&str>, None::<&str>, e);
            }
            self.tried = Instant::now();
        }
    }

    /// Recovers what suspended mailboxes wait for.
    fn try_again(&mut self) -> io::Result<()> {
        if self.broken {
            // Their records are in it still.
            self.renew_journal()?;
        }
        self.suspended.clear();
        self.recover_orphans()
    }

    /// Starts writing back the mailboxes of all records so far, on the other thread, once it has
    /// finished the checkpoint before.
    pub fn begin_checkpoint(&mut self) {
        self.collect_checkpoints(true);
        if !self.journal.is_clean() {
            let mailboxes = self.dirty.drain().chain(self.replaced.drain(..)).collect();
            let unsynced = self.checkpointer.begin(self.journal.seq(), mailboxes);
            self.failed.extend(unsynced);
        }
    }

    /// Everything recorded is synced in its mailboxes, and the journal's header says so.
    ///
    /// # Errors
    /// A mailbox or the journal could not be synced; the records are kept.
    pub fn checkpoint_all(&mut self) -> io::Result<()> {
        self.begin_checkpoint();
        self.collect_checkpoints(true);
        self.maintain();
        if self.broken {
            self.renew_journal()?;
        }
        if !self.journal.is_clean() {
            return Err(io::Error::other("mailboxes could not be synced; their records are kept"));
        }
        self.journal.checkpoint_now(&self.identity)
    }

    /// A step towards it that waits for no mailbox, for a writer without mail: starts what
    /// [`checkpoint_all`](Committer::checkpoint_all) does, and ends it when called again later.
    ///
    /// # Errors
    /// As for `checkpoint_all`.
    pub fn checkpoint_in_background(&mut self) -> io::Result<()> {
        self.collect_checkpoints(false);
        if self.checkpointer.running {
            return Ok(());
        }
        if self.broken || !self.failed.is_empty() {
            return self.checkpoint_all();
        }
        if self.journal.is_clean() {
            return self.journal.checkpoint_now(&self.identity);
        }
        self.begin_checkpoint();
        Ok(())
    }

    /// Whether nothing waits to be written back, and the journal's header says so.
    pub fn is_clean(&self) -> bool {
        self.journal.is_checkpoint_persisted() && self.failed.is_empty()
    }

    fn collect_checkpoints(&mut self, wait: bool) {
        if let Some((seq, failed)) = self.checkpointer.finish(wait) {
            self.failed.extend(failed);
            self.written_back = self.written_back.max(seq);
        }
        if self.failed.is_empty() && !self.broken {
            self.journal.advance_checkpoint(self.written_back);
        }
    }

    /// The journal's own disk failed, or it holds what a suspended mailbox needs: all else is made
    /// durable in the mailboxes, and a new journal takes its place.
    fn renew_journal(&mut self) -> io::Result<()> {
        self.begin_checkpoint();
        self.collect_checkpoints(true);
        self.suspended.extend(self.failed.drain());
        let disk = self.directory.disk.clone();
        let fresh = Journal::create(&*disk, &self.spool, self.journal.segment(), &self.identity)?;
        let mut old = std::mem::replace(&mut self.journal, fresh);
        self.pending_marks.drain(..).for_each(|trailer| drop(old.write_marks(&trailer)));
        self.journal.skip_to(old.seq());
        self.broken = false;
        self.written_back = 0;
        let given_up = match self.suspended.is_empty() {
            true => disk.unlink(&old.path),
            false => old.retain_for(&self.suspended, true),
        };
        events::journal_renewed(self.journal.path.display());
        if let Err(e) = given_up {
            events::journal_not_removed(old.path.display(), e);
            self.abandoned.push(old);
        }
        Ok(())
    }

    /// Ends the checkpoint thread and removes what only a living process needs.
    pub fn close(mut self) {
        if let Err(e) = self.checkpoint_all() {
            events::journal_failed(Some(self.journal.path.display()), e);
        }
        self.directory.dotlocks.close();
    }
}

/// Octets of one copy in its mailbox.
pub fn copy_len(message: &Message, to: &Destination, repair: usize) -> u64 {
    let lines = repair + message.head.len() + to.delivered_to_line().len() + 1;
    lines as u64 + message.content.size()
}

/// The thread beside the writer that syncs mailboxes, so that a slow disk delays nobody.
#[derive(Debug)]
struct Checkpointer<D: Disk> {
    work: Sender<(u64, MailboxFiles<D>)>,
    results: Receiver<(u64, Vec<MailboxName>)>,
    running: bool,
}

impl<D: Disk> Checkpointer<D> {
    fn start(disk: Arc<D>, folders: [PathBuf; 2], counters: &Arc<Counters>) -> io::Result<Self> {
        let (work, tasks) = bounded::<(u64, MailboxFiles<D>)>(1);
        let (done, results) = bounded(1);
        let counters = counters.clone();
        std::thread::Builder::new().name("checkpoint".into()).stack_size(256 * 1024).spawn(
            move || {
                // Syncing takes no powers; the writer alone keeps them.
                if let Err(e) = privilege::drop_capabilities() {
                    events::checkpoint_failed(e);
                    return;
                }
                for (seq, mailboxes) in tasks {
                    let failed = sync_boxes(&*disk, &folders, &counters, mailboxes);
                    if done.send((seq, failed)).is_err() {
                        return;
                    }
                }
            },
        )?;
        Ok(Checkpointer { work, results, running: false })
    }

    /// Hands `mailboxes` to the thread. Returns those that nobody will sync, should it have died.
    fn begin(&mut self, seq: u64, mailboxes: MailboxFiles<D>) -> Vec<MailboxName> {
        match self.work.send((seq, mailboxes)) {
            Ok(()) => self.running = true,
            Err(unsent) => return unsent.0.1.into_iter().map(|(name, _)| name).collect(),
        }
        Vec::new()
    }

    /// What it has finished: the record's number, and the mailboxes that failed.
    fn finish(&mut self, wait: bool) -> Option<(u64, Vec<MailboxName>)> {
        if !self.running {
            return None;
        }
        let result = if wait { self.results.recv().ok() } else { self.results.try_recv().ok() };
        self.running = result.is_none() && !wait;
        result
    }
}

/// Syncs each mailbox once, and their folder. The names of those that failed.
fn sync_boxes<D: Disk>(
    disk: &D,
    [mail, spool]: &[PathBuf; 2],
    counters: &Counters,
    mailboxes: MailboxFiles<D>,
) -> Vec<MailboxName> {
    let mut failed = Vec::new();
    for (name, known) in &mailboxes {
        counters.syncs.one();
        if let Err(e) = known.file.sync() {
            let directory = if name.queue_id().is_some() { spool } else { mail };
            let mailbox = directory.join(name.as_str());
            events::sync_failed(Some(mailbox.display()), None::<&str>, e);
            failed.push(name.clone());
        }
    }
    // Always: a mailbox may be new, or a reader may have put another file under its name.
    if !mailboxes.is_empty() {
        counters.syncs.one();
        if let Err(e) = sync_folders(disk, mail, spool, mailboxes.iter().map(|(name, _)| name)) {
            events::sync_failed(None::<&str>, Some(mail.display()), e);
            failed.extend(mailboxes.into_iter().map(|(name, _)| name));
        }
    }
    failed
}

/// Mailboxes that are kept open until they are synced.
const TOUCHED_MAX: usize = 256;
/// How soon a suspended mailbox is tried again, when there is mail for anybody.
const TRY_AGAIN: Duration = Duration::from_secs(1);
