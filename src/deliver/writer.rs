//! The one thread that writes to mailboxes, and the door to it.
//!
//! A batch is the first message that waits and whatever else waits by then, up to a bound. On a
//! disk that is slow to sync the writer waits a moment for more, where there were more before.
//!
//! For each message in turn all of its mailboxes are locked, in sorted order; mailboxes that the
//! batch holds already are taken as they are. If somebody else holds one, the locks just taken for
//! the message are let go and it is set aside, so that no mailbox holds up another; it comes again
//! after 50 ms, doubling to 1 s, plus a random part. At its deadline it is `Later(Busy)`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::commit::{CommitResult, Committer, LockedMailboxes};
use super::disk::{Disk, FileKind};
use super::journal::{COPIES_MAX, Draft, Journal, MESSAGES_MAX};
use super::locks::{DotlockDirectory, Identity, TryLock};
use super::mailbox::{MailboxStore, check};
use super::recover::claim;
use super::{DeferReason, DeliveryConfig, DeliveryError, Outcome, forward};
use crate::message::{Content, Destination, MailboxName, Message, Owner};
use crate::observe::counters::Counters;
use crate::observe::events;

/// The sessions' end of the channel to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    jobs: Sender<Job>,
    forward_requests: Sender<ForwardFileRequest>,
    looker: Arc<dyn MailboxPrecheck>,
}

impl WriterHandle {
    /// Hands `message` over and waits for its outcome, at most `timeout`. When that is over the
    /// outcome is `Later(GivenUp)` and the message is not delivered afterwards.
    pub fn deliver(&self, message: Message, timeout: Duration) -> Outcome {
        self.send(message, timeout).outcome()
    }

    /// Hands `message` over, which takes at most `timeout`. Whoever does not wait for its outcome
    /// leaves it to the writer, which delivers it if it can.
    pub fn send(&self, message: Message, timeout: Duration) -> PendingOutcome {
        let until = Instant::now() + timeout;
        let ticket = Arc::new(OutcomeCell::default());
        let job = Job::new(message, OutcomeSender(ticket.clone()));
        match self.jobs.send_timeout(job, timeout) {
            Ok(()) => {}
            Err(crossbeam_channel::SendTimeoutError::Timeout(job)) => {
                job.answer.give(Outcome::Later(DeferReason::GivenUp));
            }
            Err(crossbeam_channel::SendTimeoutError::Disconnected(job)) => {
                job.answer.give(Outcome::Later(DeferReason::Stopping));
            }
        }
        PendingOutcome { ticket, until }
    }

    /// What `.forward` in the folder `home` says, which is `owner`'s; see
    /// [`forward`](super::forward::read). Waits `timeout` at most.
    ///
    /// # Errors
    /// It is not to be used, or the writer has no time.
    pub fn forward_file(
        &self,
        home: &Path,
        owner: Owner,
        timeout: Duration,
    ) -> io::Result<Option<Vec<u8>>> {
        let (answer, told) = bounded(1);
        let errand = ForwardFileRequest { home: home.to_owned(), owner, answer };
        let busy = || io::Error::new(io::ErrorKind::TimedOut, "the writer is busy");
        self.forward_requests.send_timeout(errand, timeout).map_err(|_| busy())?;
        told.recv_timeout(timeout).map_err(|_| busy())?
    }

    /// Whether mail for `to` stands a chance now, without a lock: a mailbox that is no regular
    /// file, or is somebody else's, or is full, is better refused before its mail data is read.
    ///
    /// # Errors
    /// What a delivery would end in.
    pub fn look(&self, to: &Destination) -> Result<(), Outcome> {
        self.looker.look(to)
    }
}

/// A message that was handed over.
#[derive(Debug)]
pub struct PendingOutcome {
    ticket: Arc<OutcomeCell>,
    until: Instant,
}

impl PendingOutcome {
    /// Whether waiting for the outcome takes no time.
    pub fn is_decided(&self) -> bool {
        self.ticket.lock().is_some()
    }

    /// Waits for the outcome. When the patience is over it is `Later(GivenUp)`, and the message is
    /// not delivered afterwards.
    pub fn outcome(self) -> Outcome {
        self.ticket.wait(self.until)
    }
}

/// The running writer.
#[derive(Debug)]
pub struct WriterThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl WriterThread {
    /// Ends the thread, after every message in hand has its outcome and all is synced.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            events::writer_panicked();
        }
    }
}

/// As [`start`](super::start), on a disk of the caller's choice.
///
/// # Errors
/// The mail folder or the spool cannot be used; the text names the path and the cure.
pub fn start_on<D: Disk>(
    disk: Arc<D>,
    settings: DeliveryConfig,
    counters: Arc<Counters>,
) -> io::Result<(WriterHandle, WriterThread)> {
    let looker = Arc::new(DiskPrecheck {
        disk: disk.clone(),
        directory: settings.mail_dir.clone(),
        uid: nix::unistd::geteuid().as_raw(),
        limit: settings.mailbox_limit,
    });
    let mut committer = open_engine(&disk, &settings, &counters)?;
    let (jobs, queue) = bounded(settings.queue.max(1));
    let (forward_requests, asked) = bounded(settings.queue.max(1));
    let (stop, stopped) = bounded(0);
    let thread = thread::Builder::new().name("writer".into()).spawn(move || {
        let mut line = BatchQueue::new(queue, asked, stopped, &settings);
        loop {
            match catch_unwind(AssertUnwindSafe(|| line.serve(&mut committer))) {
                Ok(()) => return committer.close(),
                // Whoever was in the batch has been answered 451 by the unwinding. What it left
                // half done is what a killed process leaves, and is set right in the same way.
                Err(_) => {
                    events::writer_panicked();
                    drop(committer);
                    loop {
                        match open_engine(&disk, &settings, &counters) {
                            Ok(fresh) => break committer = fresh,
                            Err(e) => events::writer_restart_failed(e),
                        }
                        if !line.refuse_all(Duration::from_secs(1)) {
                            return;
                        }
                    }
                }
            }
        }
    })?;
    Ok((WriterHandle { jobs, forward_requests, looker }, WriterThread { stop, thread }))
}

fn open_engine<D: Disk>(
    disk: &Arc<D>,
    settings: &DeliveryConfig,
    counters: &Arc<Counters>,
) -> io::Result<Committer<D>> {
    let named = |path: &Path, fix: &str, e: io::Error| {
        io::Error::new(e.kind(), format!("{}: {e}; {fix}", path.display()))
    };
    let identity = Identity::new(&**disk);
    let mail = disk.look(&settings.mail_dir).and_then(|stat| match stat.kind {
        FileKind::Directory | FileKind::Symlink => Ok(stat),
        _ => Err(io::ErrorKind::NotADirectory.into()),
    });
    let mail = mail.map_err(|e| named(&settings.mail_dir, "choose another with --mail-dir", e))?;
    let mail_group = nix::unistd::Group::from_name("mail").ok().flatten();
    let directory = MailboxStore {
        disk: disk.clone(),
        path: settings.mail_dir.clone(),
        spool: settings.spool.clone(),
        dotlocks: DotlockDirectory::new(disk.clone(), &settings.mail_dir, identity.clone()),
        locks: settings.locks,
        limit: settings.mailbox_limit,
        uid: nix::unistd::geteuid().as_raw(),
        group: mail_group.map(|g| g.gid.as_raw()).filter(|gid| *gid == mail.gid),
    };
    let spool = &settings.spool;
    let fix = "choose another with --spool";
    let claimed = claim(&directory, spool, &identity).map_err(|e| named(spool, fix, e))?;
    // Gone for good before their journals tell no more that the owners of these locks are dead: a
    // power loss brings back even what was removed long ago.
    let swept =
        directory.dotlocks.sweep(|_| false).and_then(|()| disk.sync_folder(&directory.path));
    swept.map_err(|e| named(&settings.mail_dir, "see mailslot check", e))?;
    let mut journal = None;
    for empty in claimed.empty {
        if journal.is_none() && empty.segment() == settings.journal_segment {
            journal = Some(empty);
        } else if empty.segment() == settings.journal_segment || empty.segment() == 0 {
            // One is enough; and one whose maker was killed before it was written out is none.
            disk.unlink(&empty.path).map_err(|e| named(&empty.path, "remove it", e))?;
        }
    }
    let mut journal = match journal {
        Some(journal) => journal,
        None => Journal::create(&**disk, spool, settings.journal_segment, &identity)
            .map_err(|e| named(spool, fix, e))?,
    };
    // Its maker may have been killed before its name was durable.
    let taken = journal.empty(&identity).and_then(|()| disk.sync_folder(spool));
    taken.map_err(|e| named(&journal.path, fix, e))?;
    let mut committer =
        Committer::new(directory, spool.clone(), identity, counters.clone(), journal)?;
    committer.recover(claimed.orphans, Instant::now() + settings.lock_timeout);
    if let Err(e) = committer.checkpoint_all() {
        events::journal_failed(None::<&str>, e);
    }
    committer.sweep().map_err(|e| named(&settings.mail_dir, "see mailslot check", e))?;
    Ok(committer)
}

/// A forward file that somebody wants to know.
#[derive(Debug)]
struct ForwardFileRequest {
    home: PathBuf,
    owner: Owner,
    answer: Sender<io::Result<Option<Vec<u8>>>>,
}

/// One message on its way through the writer.
#[derive(Debug)]
struct Job {
    message: Message,
    /// Its mailboxes, sorted: the order in which they are locked.
    names: Vec<(MailboxName, usize)>,
    answer: OutcomeSender,
    came: Instant,
    wait: Duration,
    due: Instant,
    /// The mailbox it was set aside for.
    behind: Option<MailboxName>,
}

impl Job {
    fn new(message: Message, answer: OutcomeSender) -> Job {
        let mut names: Vec<(MailboxName, usize)> =
            message.to.iter().enumerate().map(|(i, to)| (to.mailbox.clone(), i)).collect();
        names.sort();
        let now = Instant::now();
        Job { message, names, answer, came: now, wait: FIRST_WAIT, due: now, behind: None }
    }

    fn is_large(&self) -> bool {
        matches!(self.message.content, Content::File(..))
    }
}

/// The messages that wait: in the channel, and set aside.
struct BatchQueue {
    queue: Receiver<Job>,
    forward_requests: Receiver<ForwardFileRequest>,
    stopped: Receiver<()>,
    aside: Vec<Job>,
    lock_timeout: Duration,
    aside_max: usize,
    batch_octets: u64,
    /// How long the last batch took to become durable, and how many it had.
    last: (Duration, usize),
    random: RandomState,
    jitter: u64,
    busy_since: Option<Instant>,
}

impl BatchQueue {
    fn new(
        queue: Receiver<Job>,
        forward_requests: Receiver<ForwardFileRequest>,
        stopped: Receiver<()>,
        settings: &DeliveryConfig,
    ) -> BatchQueue {
        BatchQueue {
            queue,
            forward_requests,
            stopped,
            aside: Vec::new(),
            lock_timeout: settings.lock_timeout,
            // So many may wait long for one mailbox, each keeping a session: a quarter of them.
            aside_max: (settings.queue / 4).max(1),
            batch_octets: settings.journal_segment / 4,
            last: (Duration::ZERO, 0),
            random: RandomState::new(),
            jitter: 0,
            busy_since: None,
        }
    }

    /// Batch after batch until the writer is stopped and nobody waits.
    fn serve<D: Disk>(&mut self, committer: &mut Committer<D>) {
        let mut stopping = None;
        loop {
            let batch = match stopping {
                None => match self.next_batch(committer) {
                    Some(batch) => batch,
                    None => {
                        stopping = Some(Instant::now() + STOP_PATIENCE);
                        continue;
                    }
                },
                Some(until) => {
                    let mut batch: Vec<Job> = self.queue.try_iter().take(MESSAGES_MAX).collect();
                    let (due, rest) = self.aside.drain(..).partition(|j| j.due <= Instant::now());
                    self.aside = rest;
                    batch.extend::<Vec<Job>>(due);
                    if batch.is_empty() && self.aside.is_empty() {
                        return;
                    }
                    if Instant::now() >= until {
                        for job in batch.into_iter().chain(self.aside.drain(..)) {
                            job.answer.give(Outcome::Later(DeferReason::Stopping));
                        }
                        return;
                    }
                    if batch.is_empty() {
                        thread::sleep(FIRST_WAIT / 5);
                    }
                    batch
                }
            };
            if !batch.is_empty() {
                self.deliver(committer, batch);
            }
        }
    }

    /// Waits for the next batch; None when the writer is to stop.
    fn next_batch<D: Disk>(&mut self, committer: &mut Committer<D>) -> Option<Vec<Job>> {
        let now = Instant::now();
        let next = self.aside.iter().map(|j| j.due).min();
        let quiet = if committer.is_clean() { IDLE } else { QUIET };
        let timeout = next.map_or(quiet, |due| due.saturating_duration_since(now).min(quiet));
        let mut batch = Vec::new();
        crossbeam_channel::select! {
            recv(self.queue) -> job => match job {
                Ok(job) => batch.push(job),
                Err(_) => return None,
            },
            recv(self.stopped) -> _ => return None,
            recv(self.forward_requests) -> errand => if let Ok(ForwardFileRequest { home, owner, answer }) = errand {
                // Whoever asked may have given up.
                let _ = answer.send(forward::read(&*committer.directory.disk, &home, owner));
            },
            default(timeout) => {
                let still = self.busy_since.is_none_or(|since| since.elapsed() >= QUIET);
                if still && !committer.is_clean() {
                    if let Err(e) = committer.checkpoint_in_background() {
                        events::journal_failed(None::<&str>, e);
                    }
                    // Whatever came of it, the next step is a while away.
                    self.busy_since = Some(Instant::now());
                }
            }
        }
        let now = Instant::now();
        let (due, rest) = self.aside.drain(..).partition(|j| j.due <= now);
        self.aside = rest;
        batch.extend::<Vec<Job>>(due);
        self.gather(&mut batch);
        Some(batch)
    }

    /// Adds whatever else waits. Where syncing is slow and others came lately, also what comes
    /// within a fraction of the time that the sync will take: it would else wait for two syncs.
    fn gather(&self, batch: &mut Vec<Job>) {
        if batch.is_empty() {
            return;
        }
        let mut octets: u64 = batch.iter().map(|j| j.message.content.size()).sum();
        let mut copies: usize = batch.iter().map(|j| j.names.len()).sum();
        let slow = self.last.0 >= SLOW_SYNC && self.last.1 > 1;
        let until = Instant::now() + self.last.0 / 2;
        while batch.len() < MESSAGES_MAX && octets < self.batch_octets && copies < COPIES_MAX / 4 {
            let more = match self.queue.try_recv() {
                Ok(job) => Some(job),
                Err(_) if slow && Instant::now() < until => {
                    self.queue.recv_timeout(self.last.0 / 8).ok()
                }
                Err(_) => None,
            };
            let Some(job) = more else { return };
            octets += job.message.content.size();
            copies += job.names.len();
            batch.push(job);
        }
    }

    /// One batch: locks, delivery, answers.
    fn deliver<D: Disk>(&mut self, committer: &mut Committer<D>, batch: Vec<Job>) {
        committer.maintain();
        let mut locked = LockedMailboxes::new();
        let mut large = HashSet::new();
        let mut ready: Vec<Job> = Vec::with_capacity(batch.len());
        let mut orphaned = false;
        let known = !batch.iter().any(Job::is_large);
        let (segment, mut octets) = (committer.journal_segment(), 0);
        let mut batch = VecDeque::from(batch);
        while let Some(job) = batch.pop_front() {
            if job.answer.is_given_up() {
                continue;
            }
            // At most one message in place for each mailbox in a batch (recover.rs needs it); and
            // none where files are used that were open before.
            let taken = job.names.iter().any(|(name, _)| large.contains(name));
            if job.is_large() && (taken || known) {
                self.set_aside(job, None);
                continue;
            }
            // One record holds the batch. What was set aside comes in any number.
            octets += Draft::octets_for(&job.message, segment);
            if octets > segment / 2 && !ready.is_empty() {
                self.set_aside(job, None);
                continue;
            }
            match lock_all(committer, &mut locked, &job, known) {
                Ok(TryLock::Taken(())) => {
                    if job.is_large() {
                        large.extend(job.names.iter().map(|(name, _)| name.clone()));
                    }
                    // Who waits for what is ours now need not try for it alone.
                    batch.extend(self.behind(&job));
                    ready.push(job);
                }
                Ok(TryLock::Busy((name, who))) => self.wait_for(committer, job, name, &who),
                Ok(TryLock::Orphaned) => {
                    if let Some((name, _)) = job.names.first().cloned() {
                        self.wait_for(committer, job, name, "a dead process");
                    }
                    orphaned = true;
                }
                Err(fault) => {
                    fault.log(&job.message.id);
                    job.answer.give(fault.outcome);
                }
            }
        }
        self.commit(committer, locked, ready);
        if orphaned && let Err(e) = committer.recover_orphans() {
            events::recovery_failed(None::<&str>, None::<&str>, e);
        }
    }

    fn commit<D: Disk>(
        &mut self,
        committer: &mut Committer<D>,
        mut locked: LockedMailboxes<D>,
        jobs: Vec<Job>,
    ) {
        if jobs.is_empty() {
            return;
        }
        let began = Instant::now();
        let messages: Vec<&Message> = jobs.iter().map(|j| &j.message).collect();
        let mut results = committer.commit(&mut locked, &messages);
        self.last = (began.elapsed(), jobs.len());
        self.busy_since = Some(Instant::now());
        // From the last to the first: what is taken back must stand at the end.
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs.into_iter().rev() {
            match results.pop() {
                Some(CommitResult::Delivered(written)) => {
                    if !job.answer.decide(Outcome::Delivered) {
                        let gone = committer.take_back(&mut locked, &written);
                        events::delivery_withdrawn(&job.message.id, gone);
                    }
                    answers.push(job.answer);
                }
                Some(CommitResult::Failed(outcome)) => {
                    job.answer.decide(outcome);
                    answers.push(job.answer);
                }
                Some(CommitResult::Retry) | None => self.set_aside(job, None),
            }
        }
        drop(locked);
        drop(answers);
    }

    /// The mailbox is locked: again later, unless it has waited long enough, or too many wait for
    /// it and it is not just a reader's short moment.
    fn wait_for<D: Disk>(
        &mut self,
        committer: &Committer<D>,
        job: Job,
        name: MailboxName,
        who: &str,
    ) {
        let waited = job.came.elapsed();
        let others = self.aside.iter().filter(|j| j.behind.as_ref() == Some(&name));
        let (others, first) =
            others.fold((0, job.came), |(n, first), j| (n + 1, first.min(j.came)));
        let crowded = others >= self.aside_max && first.elapsed() >= CROWD_PATIENCE;
        if waited >= self.lock_timeout || crowded {
            let path = committer.directory.path_of(&name);
            events::mailbox_busy(&job.message.id, path.display(), who, waited.as_secs());
            job.answer.give(Outcome::Later(DeferReason::Busy));
            return;
        }
        if job.behind.is_none() {
            committer.counters.lock_waits.one();
        }
        self.set_aside(job, Some(name));
    }

    /// Takes up again the messages that were set aside for a mailbox of `job`.
    fn behind(&mut self, job: &Job) -> Vec<Job> {
        let is_ours = |name: &MailboxName| job.names.iter().any(|(ours, _)| ours == name);
        let (behind, rest) =
            self.aside.drain(..).partition(|j| j.behind.as_ref().is_some_and(is_ours));
        self.aside = rest;
        behind
    }

    /// Puts a message off: at once if it is not for a lock, else for its next waiting time.
    fn set_aside(&mut self, mut job: Job, behind: Option<MailboxName>) {
        let now = Instant::now();
        job.due = now;
        if behind.is_some() {
            self.jitter = self.jitter.wrapping_add(1);
            let lot = self.random.hash_one(self.jitter) % 1000;
            job.due += job.wait + job.wait / 2 * (lot as u32) / 1000;
            let deadline = job.came + self.lock_timeout;
            job.due = job.due.min(deadline.max(now + FIRST_WAIT / 5));
            job.wait = (job.wait * 2).min(LONGEST_WAIT);
        }
        job.behind = behind;
        self.aside.push(job);
    }

    /// Answers everybody who waits, and who comes within `time`, with `Later(Io)`. False once the
    /// writer is to stop.
    fn refuse_all(&mut self, time: Duration) -> bool {
        self.aside.clear();
        crossbeam_channel::select! {
            recv(self.queue) -> job => job.is_ok(),
            recv(self.stopped) -> _ => false,
            default(time) => true,
        }
    }
}

/// Locks all mailboxes of `job` that the batch does not hold yet, or none of them. Files that are
/// open already are taken only if they may be `known`: not for a message in place, whose own sync
/// must tell of its own writes. An error is told once to each descriptor, and the checkpoint, which
/// has those files, may be told of this one.
fn lock_all<D: Disk>(
    committer: &Committer<D>,
    locked: &mut LockedMailboxes<D>,
    job: &Job,
    known: bool,
) -> Result<TryLock<(), (MailboxName, String)>, DeliveryError> {
    let mut taken = HashMap::new();
    for (name, i) in &job.names {
        if locked.contains_key(name) {
            continue;
        }
        let on = |error: DeliveryError| error.on(committer.directory.path_of(name));
        if !committer.admits(name).map_err(on)? {
            return Ok(TryLock::Busy((name.clone(), "nobody, but to be mended".into())));
        }
        let owner = job.message.to.get(*i).and_then(|to| to.owner);
        let file = committer.known(name).filter(|_| known);
        match committer.directory.take(name, owner, file).map_err(on)? {
            TryLock::Taken(h) => {
                taken.insert(name.clone(), h);
            }
            TryLock::Busy(who) => return Ok(TryLock::Busy((name.clone(), who))),
            TryLock::Orphaned => return Ok(TryLock::Orphaned),
        }
    }
    locked.extend(taken);
    Ok(TryLock::Taken(()))
}

/// What session and writer share of one message: it is decided once, by whichever comes first.
#[derive(Debug, Default)]
struct OutcomeCell {
    outcome: Mutex<Option<Outcome>>,
    told: Condvar,
}

impl OutcomeCell {
    /// The session's side.
    fn wait(&self, until: Instant) -> Outcome {
        let mut outcome = self.lock();
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return outcome.insert(Outcome::Later(DeferReason::GivenUp)).clone();
            };
            outcome =
                self.told.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's side of a [`OutcomeCell`]. Dropped without a decision, the message was not delivered.
#[derive(Debug)]
struct OutcomeSender(Arc<OutcomeCell>);

impl OutcomeSender {
    /// Decides; false if the session has given up. The session wakes when this is dropped.
    fn decide(&self, outcome: Outcome) -> bool {
        let mut decided = self.0.lock();
        match &*decided {
            Some(_) => false,
            None => {
                *decided = Some(outcome);
                true
            }
        }
    }

    /// Decides and wakes the session.
    fn give(self, outcome: Outcome) {
        self.decide(outcome);
    }

    fn is_given_up(&self) -> bool {
        self.0.lock().is_some()
    }
}

impl Drop for OutcomeSender {
    fn drop(&mut self) {
        self.decide(Outcome::Later(DeferReason::Io));
        self.0.told.notify_one();
    }
}

/// The look at a mailbox before its mail data, for any disk.
trait MailboxPrecheck: Send + Sync + std::fmt::Debug {
    fn look(&self, to: &Destination) -> Result<(), Outcome>;
}

struct DiskPrecheck<D> {
    disk: Arc<D>,
    directory: std::path::PathBuf,
    uid: u32,
    limit: Option<u64>,
}

impl<D: Disk> MailboxPrecheck for DiskPrecheck<D> {
    fn look(&self, to: &Destination) -> Result<(), Outcome> {
        let path = self.directory.join(to.mailbox.as_str());
        let looked = match self.disk.look(&path) {
            Ok(stat) => {
                check(&stat, to.owner.map_or(self.uid, |o| o.uid)).and_then(|()| match self.limit {
                    Some(limit) if stat.len >= limit => {
                        let text = format!("is at its limit, {} octets now", stat.len);
                        Err(DeliveryError::new(Outcome::Never(DeferReason::OverQuota), text))
                    }
                    _ => Ok(()),
                })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(DeliveryError::io("stat", e)),
        };
        looked.map_err(|fault| {
            events::mailbox_unavailable(path.display(), fault.text);
            fault.outcome
        })
    }
}

impl<D> std::fmt::Debug for DiskPrecheck<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Looker").field("folder", &self.directory).finish_non_exhaustive()
    }
}

/// The first waiting time for a locked mailbox; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// The longest waiting time between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How long any number may wait for one mailbox. A reader that rewrites it is done by then, and
/// nobody's mail was turned away; a lock that stays must not keep all sessions.
const CROWD_PATIENCE: Duration = Duration::from_secs(2);
/// A sync that takes longer makes it worth while to wait for company.
const SLOW_SYNC: Duration = Duration::from_millis(4);
/// Without mail for so long, mailboxes are written back and the journal emptied.
const QUIET: Duration = Duration::from_secs(3);
/// How long the writer sleeps when there is nothing to do at all.
const IDLE: Duration = Duration::from_secs(3600);
/// How long messages that wait for a lock keep a server from stopping.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
