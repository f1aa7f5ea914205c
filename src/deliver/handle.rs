//! The sessions' end of the channel to the writer, and the outcome that the writer returns.
//!
//! ```text
//! session:  WriterHandle::send --- DeliveryJob (message, OutcomeSender) ---> writer
//!           PendingOutcome::wait <-------- OutcomeCell <--------- OutcomeSender::set
//! ```
//! An outcome is set once, by the writer or by a session that gives up, whichever comes first. So a
//! message is never delivered after its session has reported a timeout.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender, bounded};

use super::contents::ContentSpool;
use super::disk::Disk;
use super::mailbox::{DestinationDirectories, check_access};
use super::outcome::{DeferReason, DeliveryError, Outcome};
use crate::message::{ContentDirectory, MailboxName, Message, Owner, UserMailbox};
use crate::observe::events;

/// Handle to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WriterHandle {
    pub(super) jobs: Sender<DeliveryJob>,
    pub(super) forward_requests: Sender<ForwardFileRequest>,
    pub(super) precheck: Arc<Precheck>,
    pub(super) contents: ContentSpool,
    /// True if sessions no longer wait for outcomes.
    pub(super) gives_up: Arc<AtomicBool>,
}

/// Message for the writer.
#[derive(Debug)]
pub(super) struct DeliveryJob {
    pub message: Message,
    pub outcome: OutcomeSender,
}

/// Request to read a user's forward file.
#[derive(Debug)]
pub(super) struct ForwardFileRequest {
    pub home: PathBuf,
    pub owner: Owner,
    pub answer: Sender<io::Result<Option<Vec<u8>>>>,
}

/// Facts by which a mailbox is checked without a lock.
#[derive(Debug)]
pub(super) struct Precheck {
    pub disk: Arc<dyn Disk>,
    pub directories: DestinationDirectories,
    pub uid: u32,
    pub limit: Option<u64>,
    pub usable: UsableMailboxes,
}

/// Mailboxes that could be delivered to less than a second ago.
#[derive(Debug, Default)]
pub(super) struct UsableMailboxes(Mutex<HashMap<MailboxName, (u32, Instant)>>);

impl UsableMailboxes {
    /// Returns true if `name` was usable as a mailbox of `uid`.
    fn contains(&self, name: &MailboxName, uid: u32) -> bool {
        let known = self.lock().get(name).copied();
        known.is_some_and(|(of, at)| of == uid && at.elapsed() < USABLE_TIME)
    }

    /// Notes that `name` is usable as a mailbox of `uid`.
    fn insert(&self, name: &MailboxName, uid: u32) {
        let mut mailboxes = self.lock();
        if mailboxes.len() >= USABLE_MAX {
            mailboxes.clear();
        }
        mailboxes.insert(name.clone(), (uid, Instant::now()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MailboxName, (u32, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriterHandle {
    /// Returns the directory for the content of messages that are handed to this writer.
    pub fn contents(&self) -> Arc<dyn ContentDirectory> {
        Arc::new(self.contents.clone())
    }

    /// Delivers `message` and returns its outcome. After `timeout` the outcome is
    /// `Deferred(TimedOut)`, and the message is not delivered afterwards.
    pub fn deliver(&self, message: Message, timeout: Duration) -> Outcome {
        self.send(message, timeout).wait()
    }

    /// Hands `message` to the writer, which takes `timeout` at most. A message without destinations
    /// is delivered at once. If the outcome is dropped
    /// without waiting, the writer delivers the message if it can.
    pub fn send(&self, message: Message, timeout: Duration) -> PendingOutcome {
        let deadline = Instant::now() + timeout;
        let cell = Arc::new(OutcomeCell::default());
        if message.to.is_empty() {
            *cell.lock() = Some(Outcome::Delivered);
            return PendingOutcome { cell, deadline, gives_up: self.gives_up.clone() };
        }
        let job = DeliveryJob { message, outcome: OutcomeSender(cell.clone()) };
        match self.jobs.send_timeout(job, timeout) {
            Ok(()) => {}
            Err(SendTimeoutError::Timeout(job)) => {
                job.outcome.send(Outcome::Deferred(DeferReason::TimedOut));
            }
            Err(SendTimeoutError::Disconnected(job)) => {
                job.outcome.send(Outcome::Deferred(DeferReason::Stopping));
            }
        }
        PendingOutcome { cell, deadline, gives_up: self.gives_up.clone() }
    }

    /// Ends all waits for outcomes within a quarter of a second, and all later waits too. A message
    /// without an outcome is `Deferred(Stopping)`, and is not delivered afterwards.
    pub fn give_up(&self) {
        self.gives_up.store(true, Ordering::SeqCst);
    }

    /// Returns the content of `.forward` in the home directory of `owner`; see
    /// [`forward::read`](super::forward::read). Waits `timeout` at most.
    ///
    /// # Errors
    /// The file must not be used, or the writer is busy.
    pub fn forward_file(
        &self,
        home: &Path,
        owner: Owner,
        timeout: Duration,
    ) -> io::Result<Option<Vec<u8>>> {
        let (answer, result) = bounded(1);
        let request = ForwardFileRequest { home: home.to_owned(), owner, answer };
        let busy = || io::Error::new(io::ErrorKind::TimedOut, "the writer is busy");
        self.forward_requests.send_timeout(request, timeout).map_err(|_| busy())?;
        result.recv_timeout(timeout).map_err(|_| busy())?
    }

    /// Checks, without a lock, whether delivery to `to` would fail for certain, so that a client is
    /// refused before it sends the mail data. If there is no limit of size, a mailbox that was
    /// usable counts as such for a second.
    ///
    /// # Errors
    /// The mailbox is not a regular file, belongs to another user, or is full.
    pub fn precheck(&self, to: &UserMailbox) -> Result<(), DeliveryError> {
        let Precheck { disk, directories, uid, limit, usable } = &*self.precheck;
        let uid = to.owner.map_or(*uid, |o| o.uid);
        if usable.contains(&to.name, uid) {
            return Ok(());
        }
        let path = directories.mail.join(to.name.as_str());
        let checked = match disk.lstat(&path) {
            Ok(stat) => check_access(&stat, uid).and_then(|()| match limit {
                Some(limit) if stat.len >= *limit => Err(DeliveryError::over_quota(format!(
                    "is at its limit, {} octets now",
                    stat.len
                ))),
                Some(_) => Ok(()),
                None => {
                    usable.insert(&to.name, uid);
                    Ok(())
                }
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(DeliveryError::io("stat", e)),
        };
        checked.inspect_err(|error| {
            events::mailbox_unavailable(path.display(), error.text());
        })
    }
}

/// Outcome of a message that was passed to the writer.
#[derive(Debug)]
pub struct PendingOutcome {
    cell: Arc<OutcomeCell>,
    deadline: Instant,
    gives_up: Arc<AtomicBool>,
}

impl PendingOutcome {
    /// True if [`wait`](PendingOutcome::wait) returns at once.
    pub fn is_ready(&self) -> bool {
        self.cell.lock().is_some()
    }

    /// Waits for the outcome. At the deadline it becomes `Deferred(TimedOut)`, after
    /// [`WriterHandle::give_up`] `Deferred(Stopping)`, and the message is not delivered afterwards.
    pub fn wait(self) -> Outcome {
        let reason = loop {
            let until = self.deadline.min(Instant::now() + GIVE_UP_INTERVAL);
            if let Some(outcome) = self.cell.wait(until) {
                return outcome;
            }
            if self.gives_up.load(Ordering::SeqCst) {
                break DeferReason::Stopping;
            }
            if Instant::now() >= self.deadline {
                break DeferReason::TimedOut;
            }
        };
        // The writer may have set it meanwhile.
        *self.cell.lock().get_or_insert(Outcome::Deferred(reason))
    }
}

/// Outcome shared by session and writer.
#[derive(Debug, Default)]
struct OutcomeCell {
    outcome: Mutex<Option<Outcome>>,
    is_set: Condvar,
}

impl OutcomeCell {
    /// Waits until the outcome is set, up to `until`.
    fn wait(&self, until: Instant) -> Option<Outcome> {
        let mut outcome = self.lock();
        while outcome.is_none() {
            let left = until.checked_duration_since(Instant::now())?;
            outcome =
                self.is_set.wait_timeout(outcome, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *outcome
    }

    fn lock(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writer's end of an [`OutcomeCell`]. If it is dropped unset, the outcome is `Deferred(Io)`.
#[derive(Debug)]
pub(super) struct OutcomeSender(Arc<OutcomeCell>);

impl OutcomeSender {
    /// Sets the outcome. Returns false if the session has given up. The session is woken when this
    /// sender is dropped, so that a whole batch can be decided before any session runs.
    pub fn set(&self, outcome: Outcome) -> bool {
        let mut cell = self.0.lock();
        if cell.is_some() {
            return false;
        }
        *cell = Some(outcome);
        true
    }

    /// Sets the outcome and wakes the session.
    pub fn send(self, outcome: Outcome) {
        self.set(outcome);
    }

    /// True if the session has given up.
    pub fn is_given_up(&self) -> bool {
        self.0.lock().is_some()
    }
}

impl Drop for OutcomeSender {
    fn drop(&mut self) {
        self.set(Outcome::Deferred(DeferReason::Io));
        self.0.is_set.notify_one();
    }
}

/// Time for which a mailbox that was usable is not checked again.
const USABLE_TIME: Duration = Duration::from_secs(1);
/// Most mailboxes that are remembered as usable.
const USABLE_MAX: usize = 1024;
/// Interval at which a waiting session checks whether it must give up.
const GIVE_UP_INTERVAL: Duration = Duration::from_millis(250);
