//! The thread that writes to mailboxes.
//!
//! A batch is the first message that waits and all others that wait by then, up to a limit. On a
//! disk with slow syncs the writer waits a moment for more, if the last batch had several. Messages
//! with a content file are in separate batches, in turn with the others, because copying them takes
//! long. So a small message waits for at most one batch of them.
//!
//! For each message in turn all of its mailboxes are locked, in sorted order. Mailboxes that the
//! batch has locked already are shared. If another program has a lock, the locks just taken for the
//! message are released and the message is postponed, so that no mailbox delays the mail of
//! another. It is tried again after 50 ms, then after twice the time, up to 1 s, plus a random
//! part. At its deadline it is deferred with `Locked`.
//!
//! At the end of a batch the messages that wait by then are taken. A mailbox that one of them needs
//! stays locked for the next batch, but no longer than [`HANDOVER_MAX`] from its first batch on. So
//! a busy mailbox costs one set of locks for several batches, and its readers still get their turn.
//!
//! A panic in a batch ends the process with status 70. The next start recovers the batch as after a
//! kill.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::commit::{CommitResult, Committer, LockedMailboxes};
use super::contents::ContentSpool;
use super::disk::Disk;
use super::handle::{DeliveryJob, ForwardFileRequest, OutcomeSender, Precheck, WriterHandle};
use super::journal::{Draft, MESSAGES_MAX};
use super::locks::TryLock;
use super::mailbox::DestinationDirectories;
use super::outcome::{DeferReason, DeliveryError, Outcome};
use super::recover::open_committer;
use super::{DeliveryConfig, forward};
use crate::message::{Content, DestinationFile, Message};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::observe::vital_thread::VitalThread;
use crate::process::descriptors;

/// Running writer.
#[derive(Debug)]
pub struct WriterThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl WriterThread {
    /// Ends the thread after every message in hand has its outcome and all mailboxes are synced.
    pub fn stop(self) {
        drop(self.stop);
        // A writer that panics has ended the process.
        let _ = self.thread.join();
    }
}

/// Does the same as [`start`](super::start) on a given disk.
///
/// # Errors
/// The mail directory or the spool cannot be used. The text names the path and the fix.
pub fn start_on(
    disk: Arc<dyn Disk>,
    config: DeliveryConfig,
    counters: Arc<Counters>,
) -> io::Result<(WriterHandle, WriterThread)> {
    let precheck = Arc::new(Precheck {
        disk: disk.clone(),
        directories: DestinationDirectories::new(config.mail_dir.clone(), &config.spool),
        uid: nix::unistd::geteuid().as_raw(),
        limit: config.mailbox_limit,
        usable: Default::default(),
    });
    let contents = ContentSpool::new(disk.clone(), &config.spool);
    let mut committer = open_committer(&contents, &config, &counters)?;
    let (jobs, incoming) = bounded(config.queue.max(1));
    let (forward_requests, forward_queue) = bounded(config.queue.max(1));
    let (stop, stopped) = bounded(0);
    let thread = thread::Builder::new().name("writer".into()).spawn(move || {
        let _vital = VitalThread::new("writer");
        BatchQueue::new(incoming, forward_queue, stopped, &config).run(&mut committer);
        committer.close();
    })?;
    let handle =
        WriterHandle { jobs, forward_requests, precheck, contents, gives_up: Arc::default() };
    Ok((handle, WriterThread { stop, thread }))
}

/// Message in the writer.
#[derive(Debug)]
struct QueuedMessage {
    message: Message,
    /// Files of its destinations, each with its index in `message.to`, sorted: the order in which
    /// they are locked.
    files: Vec<(DestinationFile, usize)>,
    outcome: OutcomeSender,
    arrived: Instant,
    /// Time until the attempt after the next one.
    retry_delay: Duration,
    /// Time of the next attempt.
    retry_at: Instant,
    /// Locked mailbox that the message waits for.
    blocked_on: Option<DestinationFile>,
}

impl From<DeliveryJob> for QueuedMessage {
    fn from(DeliveryJob { message, outcome }: DeliveryJob) -> QueuedMessage {
        let mut files: Vec<(DestinationFile, usize)> =
            message.to.iter().enumerate().map(|(i, to)| (to.file(), i)).collect();
        files.sort_unstable();
        let now = Instant::now();
        QueuedMessage {
            message,
            files,
            outcome,
            arrived: now,
            retry_delay: FIRST_RETRY,
            retry_at: now,
            blocked_on: None,
        }
    }
}

impl QueuedMessage {
    /// True if the content is in a file.
    fn is_large(&self) -> bool {
        matches!(self.message.content, Content::File(_))
    }
}

/// Messages that wait for the writer: in the channel, taken for the next batch, or postponed.
struct BatchQueue {
    incoming: Receiver<DeliveryJob>,
    /// Messages taken from the channel for the next batch.
    taken: Vec<QueuedMessage>,
    /// Messages with a content file, taken from the channel for batches of their own.
    large: VecDeque<QueuedMessage>,
    /// Mailboxes that the last batch left locked for those messages.
    handed_over: LockedMailboxes,
    /// The time at which the first of them was locked.
    locked_since: Option<Instant>,
    forward_requests: Receiver<ForwardFileRequest>,
    stopped: Receiver<()>,
    postponed: Vec<QueuedMessage>,
    lock_timeout: Duration,
    /// Number of messages that may wait long for the lock of one mailbox.
    blocked_max: usize,
    /// Bytes of content after which a batch is full.
    batch_octets: u64,
    /// Number of mailboxes that a batch and the files cached from earlier ones may keep open. A
    /// single message may exceed it.
    files_max: usize,
    /// Time that the last batch took to become durable, and its number of messages.
    last_batch: (Duration, usize),
    random: RandomState,
    jitter: u64,
    /// Time of the last batch or checkpoint.
    last_activity: Option<Instant>,
}

impl BatchQueue {
    fn new(
        incoming: Receiver<DeliveryJob>,
        forward_requests: Receiver<ForwardFileRequest>,
        stopped: Receiver<()>,
        config: &DeliveryConfig,
    ) -> BatchQueue {
        BatchQueue {
            incoming,
            taken: Vec::new(),
            large: VecDeque::new(),
            handed_over: LockedMailboxes::new(),
            locked_since: None,
            forward_requests,
            stopped,
            postponed: Vec::new(),
            lock_timeout: config.lock_timeout,
            // Each of them keeps a session, so one mailbox may have a quarter of the sessions.
            blocked_max: (config.queue / 4).max(1),
            batch_octets: config.journal_segment / 4,
            // The other half is for sessions.
            files_max: descriptors::limit() / 2,
            last_batch: (Duration::ZERO, 0),
            random: RandomState::new(),
            jitter: 0,
            last_activity: None,
        }
    }

    /// Delivers batches until the writer is stopped and no message waits.
    fn run(&mut self, committer: &mut Committer) {
        while let Some(batch) = self.next_batch(committer) {
            for batch in [batch, self.next_large_batch()] {
                if !batch.is_empty() {
                    self.deliver(committer, batch);
                }
            }
            // Steady traffic never lets the quiet time pass that empties the journal.
            committer.checkpoint_by_age();
        }
        let deadline = Instant::now() + STOP_GRACE;
        loop {
            let mut batch = std::mem::take(&mut self.taken);
            batch.extend(self.large.drain(..));
            batch.extend(self.incoming.try_iter().take(MESSAGES_MAX).map(QueuedMessage::from));
            self.take_due(&mut batch);
            self.postponed.retain(|queued| !queued.outcome.is_given_up());
            if batch.is_empty() && self.postponed.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                for queued in batch.into_iter().chain(self.postponed.drain(..)) {
                    queued.outcome.send(Outcome::Deferred(DeferReason::Stopping));
                }
                return;
            }
            match batch.is_empty() {
                true => thread::sleep(FIRST_RETRY / 5),
                false => self.deliver(committer, batch),
            }
        }
    }

    /// Waits for the next batch. Returns None when the writer is to stop.
    fn next_batch(&mut self, committer: &mut Committer) -> Option<Vec<QueuedMessage>> {
        let now = Instant::now();
        let next_retry = self.postponed.iter().map(|queued| queued.retry_at).min();
        let quiet_time = if committer.has_contents() { CONTENTS_QUIET_TIME } else { QUIET_TIME };
        let quiet = if committer.is_clean() { IDLE_TIMEOUT } else { quiet_time };
        let timeout = next_retry.map_or(quiet, |at| at.saturating_duration_since(now).min(quiet));
        let mut batch = std::mem::take(&mut self.taken);
        let waiting = batch.len();
        let is_idle = batch.is_empty() && self.large.is_empty();
        let timeout = if is_idle { timeout } else { Duration::ZERO };
        crossbeam_channel::select! {
            recv(self.incoming) -> job => match job {
                Ok(job) => self.take(job.into(), &mut batch),
                Err(_) => return self.end_with(batch),
            },
            recv(self.stopped) -> _ => return self.end_with(batch),
            recv(self.forward_requests) -> request => if let Ok(request) = request {
                let ForwardFileRequest { home, owner, answer } = request;
                // The requester may have given up, so a failed send is no error.
                let _ = answer.send(forward::read(&*committer.store.disk, &home, owner));
            },
            default(timeout) => {
                let is_quiet = is_idle
                    && self.last_activity.is_none_or(|at| at.elapsed() >= quiet_time);
                if is_quiet && !committer.is_clean() {
                    if let Err(e) = committer.checkpoint_in_background() {
                        events::journal_failed(None::<&str>, e);
                    }
                    // Whatever the result, the next step is a while away.
                    self.last_activity = Some(Instant::now());
                }
            }
        }
        self.take_due(&mut batch);
        if !batch.is_empty() {
            // Each client of the last batch may send another message.
            let (sync_time, last_size) = self.last_batch;
            self.gather(&mut batch, gather_time(sync_time, last_size), waiting + last_size);
        }
        Some(batch)
    }

    /// Leaves `batch` to the end of [`run`](BatchQueue::run).
    fn end_with(&mut self, batch: Vec<QueuedMessage>) -> Option<Vec<QueuedMessage>> {
        self.taken = batch;
        None
    }

    /// Takes the messages with a content file for a batch, at least one if any waits.
    fn next_large_batch(&mut self) -> Vec<QueuedMessage> {
        let (mut batch, mut octets) = (Vec::new(), 0);
        while octets < self.batch_octets
            && let Some(queued) = self.large.pop_front()
        {
            octets += queued.message.content.size() * queued.files.len() as u64;
            batch.push(queued);
        }
        batch
    }

    /// Adds `queued` to `batch`, or to the messages for separate batches.
    fn take(&mut self, queued: QueuedMessage, batch: &mut Vec<QueuedMessage>) {
        match queued.is_large() {
            false => batch.push(queued),
            true => self.large.push_back(queued),
        }
    }

    /// Takes the postponed messages that are due.
    fn take_due(&mut self, batch: &mut Vec<QueuedMessage>) {
        let now = Instant::now();
        let due = self.postponed.extract_if(.., |queued| queued.retry_at <= now);
        due.collect::<Vec<_>>().into_iter().for_each(|queued| self.take(queued, batch));
    }

    /// Takes all messages that wait, up to the limits of a batch. Also takes those that arrive
    /// within `wait`, until there are `expected` messages in `batch`, or none has arrived for half
    /// of that time.
    fn gather(&mut self, batch: &mut Vec<QueuedMessage>, wait: Duration, expected: usize) {
        let mut octets: u64 = batch.iter().map(|queued| queued.message.content.size()).sum();
        let mut copies: usize = batch.iter().map(|queued| queued.files.len()).sum();
        let deadline = Instant::now() + wait;
        while batch.len() < MESSAGES_MAX && octets < self.batch_octets && copies < COPIES_MAX {
            let job = match self.incoming.try_recv() {
                Ok(job) => Some(job),
                Err(_) if batch.len() < expected && Instant::now() < deadline => {
                    self.incoming.recv_timeout(wait / 2).ok()
                }
                Err(_) => None,
            };
            let Some(job) = job else { return };
            let queued = QueuedMessage::from(job);
            if !queued.is_large() {
                octets += queued.message.content.size();
                copies += queued.files.len();
            }
            self.take(queued, batch);
        }
    }

    /// Locks the mailboxes of a batch, delivers it, and sends the outcomes.
    fn deliver(&mut self, committer: &mut Committer, batch: Vec<QueuedMessage>) {
        let mut locked = std::mem::take(&mut self.handed_over);
        committer.maintain(&mut locked);
        locked.retain(|file, mailbox| {
            committer.admits(file).is_ok_and(|admitted| admitted) && mailbox.is_unchanged()
        });
        if locked.is_empty() {
            self.locked_since = None;
        }
        let mut ready: Vec<QueuedMessage> = Vec::with_capacity(batch.len());
        let mut looks_for_dead = false;
        let (segment, mut octets) = (committer.journal_segment(), 0);
        let mut batch = VecDeque::from(batch);
        while let Some(queued) = batch.pop_front() {
            if queued.outcome.is_given_up() {
                continue;
            }
            // The batch becomes one record, and any number of postponed messages can be due.
            octets += Draft::octets_max(&queued.message);
            if octets > segment / 2 && !ready.is_empty() {
                self.postpone(queued, None);
                continue;
            }
            let files = locked.len() + queued.files.len();
            if files > self.files_max && !ready.is_empty() {
                self.postpone(queued, None);
                continue;
            }
            if files + committer.cached_files() > self.files_max {
                committer.close_cached_files();
            }
            match lock_all(committer, &mut locked, &queued) {
                Ok(TryLock::Acquired(())) => {
                    // Messages that wait for these mailboxes need not try again on their own.
                    batch.extend(self.take_blocked_on(&queued));
                    ready.push(queued);
                }
                Ok(TryLock::Contended((file, holder))) => {
                    self.wait_for_lock(committer, queued, file, &holder);
                }
                Ok(TryLock::HeldByMailslot((file, holder))) => {
                    self.wait_for_lock(committer, queued, file, &holder);
                    looks_for_dead = true;
                }
                Err(fault) if fault.is_out_of_descriptors() && committer.close_cached_files() => {
                    batch.push_front(queued);
                }
                // The next batch has the descriptors of this one.
                Err(fault) if fault.is_out_of_descriptors() && !ready.is_empty() => {
                    self.postpone(queued, None);
                }
                Err(fault) => {
                    fault.log(&queued.message.id);
                    queued.outcome.send(fault.outcome());
                }
            }
        }
        let found = if ready.is_empty() { Ok(false) } else { find_orphans(committer) };
        match found {
            Ok(false) => self.commit(committer, locked, ready),
            found => {
                // Recovery locks the mailboxes itself.
                drop(locked);
                looks_for_dead = false;
                match found.and_then(|_| committer.recover_orphans()) {
                    Ok(()) => ready.into_iter().for_each(|queued| self.postpone(queued, None)),
                    Err(e) => ready.into_iter().for_each(|queued| {
                        let files = queued.files.first();
                        let path = files.map(|(file, _)| committer.store.path_of(file));
                        let fault = DeliveryError::spool("recover the mail of dead processes", &e)
                            .on(path.unwrap_or_default());
                        fault.log(&queued.message.id);
                        queued.outcome.send(fault.outcome());
                    }),
                }
            }
        }
        if looks_for_dead {
            // Recovery locks the mailboxes itself.
            self.handed_over.clear();
        }
        if looks_for_dead && let Err(e) = committer.recover_orphans() {
            events::recovery_failed(None::<&str>, None::<&str>, e);
        }
    }

    fn commit(
        &mut self,
        committer: &mut Committer,
        mut locked: LockedMailboxes,
        batch: Vec<QueuedMessage>,
    ) {
        if batch.is_empty() {
            return;
        }
        let began = Instant::now();
        let locked_since = *self.locked_since.get_or_insert(began);
        let messages: Vec<&Message> = batch.iter().map(|queued| &queued.message).collect();
        let mut results = committer.commit(&mut locked, &messages);
        // The time of a batch of content files is not that of a sync.
        if !batch.iter().any(QueuedMessage::is_large) {
            self.last_batch = (began.elapsed(), batch.len());
        }
        self.last_activity = Some(Instant::now());
        let is_whole = results.iter().all(|r| matches!(r, CommitResult::Delivered(_)));
        // From the last to the first, because only copies at the end of a mailbox can be undone.
        let mut outcomes = Vec::with_capacity(batch.len());
        for queued in batch.into_iter().rev() {
            match results.pop() {
                Some(CommitResult::Delivered(written)) => {
                    if !queued.outcome.set(Outcome::Delivered) {
                        let gone = committer.undo(&mut locked, &written);
                        events::delivery_withdrawn(&queued.message.id, gone);
                    }
                    outcomes.push(queued.outcome);
                }
                Some(CommitResult::Failed(outcome)) => {
                    queued.outcome.set(outcome);
                    outcomes.push(queued.outcome);
                }
                Some(CommitResult::Retry) | None => self.postpone(queued, None),
            }
        }
        // A batch of content files comes between two others, and the next one is taken already.
        let mut taken = std::mem::take(&mut self.taken);
        self.gather(&mut taken, Duration::ZERO, 0);
        self.taken = taken;
        if is_whole && locked_since.elapsed() < HANDOVER_MAX {
            let next = self.taken.iter().chain(&self.large);
            let needed: HashSet<&DestinationFile> =
                next.flat_map(|queued| &queued.files).map(|(file, _)| file).collect();
            locked.retain(|file, _| needed.contains(file));
            self.handed_over = std::mem::take(&mut locked);
        }
        // The locks first, so that a session's client can read the mailbox when it gets its 250.
        drop(locked);
        drop(outcomes);
    }

    /// Postpones a message, because a mailbox is locked. Defers it if it has waited long enough, or
    /// if too many messages have waited for the same lock for longer than a mail reader takes.
    fn wait_for_lock(
        &mut self,
        committer: &Committer,
        queued: QueuedMessage,
        file: DestinationFile,
        holder: &str,
    ) {
        let waited = queued.arrived.elapsed();
        let others = self.postponed.iter().filter(|other| other.blocked_on.as_ref() == Some(&file));
        let (others, first) =
            others.fold((0, queued.arrived), |(n, first), other| (n + 1, first.min(other.arrived)));
        let too_many = others >= self.blocked_max && first.elapsed() >= BLOCKED_GRACE;
        if waited >= self.lock_timeout || too_many {
            let path = committer.store.path_of(&file);
            events::mailbox_busy(&queued.message.id, path.display(), holder, waited.as_secs());
            queued.outcome.send(Outcome::Deferred(DeferReason::Locked));
            return;
        }
        if queued.blocked_on.is_none() {
            committer.counters.lock_waits.one();
        }
        self.postpone(queued, Some(file));
    }

    /// Takes the postponed messages that wait for a mailbox of `queued`.
    fn take_blocked_on(&mut self, queued: &QueuedMessage) -> Vec<QueuedMessage> {
        let is_shared = |file: &DestinationFile| queued.files.iter().any(|(own, _)| own == file);
        let is_blocked =
            |other: &mut QueuedMessage| other.blocked_on.as_ref().is_some_and(is_shared);
        self.postponed.extract_if(.., is_blocked).collect()
    }

    /// Postpones a message: to the next batch, or if it waits for a lock, by its delay.
    fn postpone(&mut self, mut queued: QueuedMessage, blocked_on: Option<DestinationFile>) {
        let now = Instant::now();
        queued.retry_at = now;
        if blocked_on.is_some() {
            self.jitter = self.jitter.wrapping_add(1);
            let random = self.random.hash_one(self.jitter) % 1000;
            queued.retry_at += queued.retry_delay + queued.retry_delay / 2 * (random as u32) / 1000;
            let deadline = queued.arrived + self.lock_timeout;
            queued.retry_at = queued.retry_at.min(deadline.max(now + FIRST_RETRY / 5));
            queued.retry_delay = (queued.retry_delay * 2).min(LAST_RETRY);
        }
        queued.blocked_on = blocked_on;
        self.postponed.push(queued);
    }
}

/// Returns the time to wait for more messages, after a batch of `last_size` messages that took
/// `sync_time` to become durable. If syncs are slow and the last batch had several messages, it is
/// a fraction of the time of a sync, because the messages would otherwise wait for two syncs.
fn gather_time(sync_time: Duration, last_size: usize) -> Duration {
    let waits = sync_time >= SLOW_SYNC && last_size > 1;
    if waits { (sync_time / 2).min(GATHER_MAX) } else { Duration::ZERO }
}

/// Locks all mailboxes of a message that the batch has not locked yet, or none of them.
fn lock_all(
    committer: &Committer,
    locked: &mut LockedMailboxes,
    queued: &QueuedMessage,
) -> Result<TryLock<(), (DestinationFile, String)>, DeliveryError> {
    let mut acquired = HashMap::new();
    for (file, i) in &queued.files {
        if locked.contains_key(file) {
            continue;
        }
        let on = |error: DeliveryError| error.on(committer.store.path_of(file));
        if !committer.admits(file).map_err(on)? {
            return Ok(TryLock::Contended((file.clone(), "awaiting repair".into())));
        }
        let owner = queued.message.to.get(*i).and_then(|to| to.owner());
        let open = committer.open_mailbox(file);
        match committer.store.try_lock(file, owner, open).map_err(on)? {
            TryLock::Acquired(mailbox) => {
                acquired.insert(file.clone(), mailbox);
            }
            TryLock::Contended(holder) => return Ok(TryLock::Contended((file.clone(), holder))),
            TryLock::HeldByMailslot(holder) => {
                return Ok(TryLock::HeldByMailslot((file.clone(), holder)));
            }
        }
    }
    locked.extend(acquired);
    Ok(TryLock::Acquired(()))
}

/// Returns true if a process has died and its journal must be recovered before mail is appended.
fn find_orphans(committer: &mut Committer) -> io::Result<bool> {
    match committer.finds_orphans() {
        Err(e) if descriptors::are_exhausted(&e) && committer.close_cached_files() => {
            committer.finds_orphans()
        }
        found => found,
    }
}

/// Number of copies after which a batch is full.
const COPIES_MAX: usize = 4096;
/// Delay before the second attempt at a locked mailbox. It doubles with each attempt.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Longest delay between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(1);
/// Time that any number of messages may wait for one mailbox. A mail reader that rewrites it is
/// done by then, so a short lock delays mail and a long one cannot block every session.
const BLOCKED_GRACE: Duration = Duration::from_secs(2);
/// Time for which batches pass a locked mailbox on. A program that waits for the lock gets it then,
/// at the latest after the batch and the wait for its messages.
const HANDOVER_MAX: Duration = Duration::from_millis(10);
/// Time of a sync above which it is worthwhile to wait for more messages.
const SLOW_SYNC: Duration = Duration::from_millis(4);
/// Longest time that a batch waits for more messages. One sync may have been slow by chance.
const GATHER_MAX: Duration = Duration::from_millis(20);
/// Time without mail after which mailboxes are synced and the journal is emptied.
const QUIET_TIME: Duration = Duration::from_secs(3);
/// The same if files of large messages take room in the spool.
const CONTENTS_QUIET_TIME: Duration = Duration::from_millis(250);
/// Time that the writer sleeps if there is nothing to do at all.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Time that messages which wait for a lock delay the stop of a server. The graces of a stop are
/// 10 s together.
const STOP_GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_more_messages_after_a_slow_sync_is_bounded() {
        let ms = Duration::from_millis;
        assert_eq!(gather_time(ms(10), 2), ms(5));
        assert_eq!(gather_time(ms(10), 1), ms(0), "a message alone waits for no other");
        assert_eq!(gather_time(ms(1), 2), ms(0));
        assert_eq!(gather_time(ms(30_000), 64), ms(20));
    }
}
