//! The threads of the queue. They send or deliver the entries that are due, retry those that are
//! deferred, and report to senders. There is one thread for each kind of entry, and sender threads.
//!
//! | file | contains |
//! | --- | --- |
//! | `schedule.rs` | the entries there are, and when each is due |
//! | `locked_entry.rs` | an entry that is worked on: open, locked, read |
//! | `reports.rs` | reports to the sender (`impl QueueRunner`) |
//! | `attempt.rs` | one attempt at one entry (`impl QueueRunner`) |
//! | `local.rs` | delivery of held mail to mailboxes (`impl QueueRunner`) |
//!
//! ```text
//! QueueHandle --event--> dispatcher --starts--> sender thread --connection--> next hop
//!                            |                       |  attempts, one after the other
//!                            +------ Schedule -------+
//! ```
//! Mail for each next hop (`next_hop.rs`) waits for itself alone. The thread of the queue, the
//! dispatcher, starts sender threads as there is mail that is due: up to
//! [`connections_max`](super::QueueConfig::connections_max) for one next hop, and [`SENDERS_MAX`]
//! in all. A sender thread reuses its connection as long as there is mail for that next hop, and
//! ends when there is nothing left to send. While a next hop cannot be reached its mail waits,
//! except for one entry that probes: after a minute, then after twice as long each time, at most a
//! quarter of an hour.
//!
//! Held mail is delivered by the thread itself.
//!
//! The time of a retry differs from entry to entry ([`retry_delay`](super::state::retry_delay)).
//! Its sender gets one report about the delay, and one when the message is returned (RFC 5321
//! 4.5.4.1), each unless NOTIFY excludes it (RFC 3461 4.1). A failed message without a sender,
//! which is mostly a report, is reported to postmaster, because two hosts could otherwise report
//! each other's reports forever.
//!
//! A clock can be wrong at arrival, and step later. No message is returned for its age before a
//! least number of attempts ([`tries_min`](super::state::tries_min)), nor in the hour after a step.

mod attempt;
mod local;
mod locked_entry;
mod reports;
mod schedule;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::entry::QueueEntry;
use super::next_hop::NextHop;
use super::state::{ClockObserver, EntryState};
use super::{
    EntryKind, FlushProgress, FlushReport, FlushSelection, QueueConfig, QueueEvent, QueueHandle,
    create_directory,
};
use crate::deliver::WriterHandle;
use crate::message::MailboxName;
use crate::message::trace::{IdGenerator, unix_time};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::observe::vital_thread::VitalThread;
use crate::relay::client::Connection;
use crate::resolver::AddressResolver;
use crate::smtp::EtrnNode;
use crate::smtp::{ForwardPath, Recipient};
use locked_entry::{LockedEntry, Unavailable};
pub use reports::{ReportRecipient, is_wanted};
use schedule::{DueEntry, Schedule};

/// The state of the queue's threads for one kind of entry.
pub struct QueueRunner {
    kind: EntryKind,
    config: QueueConfig,
    directory: PathBuf,
    resolver: Arc<dyn AddressResolver>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    queue: QueueHandle,
    ids: IdGenerator,
    shared: Mutex<SharedState>,
    /// Signals mail that is due to a sender thread that waits.
    mail_due: Condvar,
    /// Signals the end of an attempt or of a sender thread.
    attempt_ended: Condvar,
    /// Time at which the writer of this process had recovered all journals.
    recovered_at: SystemTime,
    random: RandomState,
    jitter_count: AtomicU64,
}

/// The state that all threads change.
struct SharedState {
    schedule: Schedule,
    scanned_at: Instant,
    /// States that could not be written.
    unsaved: HashMap<Arc<str>, EntryState>,
    clock: ClockObserver,
    /// Mailboxes that were locked, and when.
    locked_mailboxes: HashMap<MailboxName, Instant>,
    /// Number of sender threads.
    senders: usize,
    /// Number of sender threads that wait for mail.
    idle_senders: usize,
    /// True from the start of the dispatcher to its end.
    is_running: bool,
}

/// The connection that a thread keeps for the next attempt, and its next hop.
type KeptConnection = Option<(NextHop, Connection)>;

impl QueueRunner {
    pub fn new(
        kind: EntryKind,
        config: QueueConfig,
        resolver: Arc<dyn AddressResolver>,
        writer: WriterHandle,
        counters: Arc<Counters>,
        queue: QueueHandle,
    ) -> io::Result<QueueRunner> {
        let runner = QueueRunner {
            kind,
            directory: create_directory(&config.spool)?,
            config,
            resolver,
            writer,
            counters,
            queue,
            ids: IdGenerator::new(),
            shared: Mutex::new(SharedState {
                schedule: Schedule::new(kind),
                scanned_at: Instant::now(),
                unsaved: HashMap::new(),
                clock: ClockObserver::new(Instant::now(), unix_time()),
                locked_mailboxes: HashMap::new(),
                senders: 0,
                idle_senders: 0,
                is_running: false,
            }),
            mail_due: Condvar::new(),
            attempt_ended: Condvar::new(),
            recovered_at: SystemTime::now(),
            random: RandomState::new(),
            jitter_count: AtomicU64::new(0),
        };
        runner.scan()?;
        Ok(runner)
    }

    /// Works on the queue until `stopped` is closed. `overflowed` is set by a sender of `requests`
    /// that found the channel full.
    pub fn run(
        self: &Arc<Self>,
        requests: &Receiver<QueueEvent>,
        stopped: &Receiver<()>,
        overflowed: &AtomicBool,
    ) {
        self.shared().is_running = true;
        while let Err(TryRecvError::Empty) = stopped.try_recv() {
            let scan_due = overflowed.swap(false, Ordering::Relaxed)
                || self.shared().scanned_at.elapsed() >= SCAN_INTERVAL;
            if scan_due && let Err(e) = self.scan() {
                events::queue_failed(None::<&str>, e);
            }
            requests.try_iter().for_each(|event| self.handle_event(event, stopped));
            if self.kind == EntryKind::Held && self.attempt_next(&mut None) {
                continue;
            }
            self.start_sender();
            let timeout = self.idle_time();
            crossbeam_channel::select! {
                recv(requests) -> event => match event {
                    Ok(event) => self.handle_event(event, stopped),
                    // All sessions have ended, and the server with them, so that a stop follows.
                    Err(_) => match stopped.recv_timeout(timeout) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => break,
                    },
                },
                recv(stopped) -> _ => break,
                default(timeout) => {}
            }
        }
        let mut shared = self.shared();
        shared.is_running = false;
        self.mail_due.notify_all();
        while shared.senders > 0 {
            shared = self.attempt_ended.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Wakes the sender threads that wait, or else starts one, if mail is due.
    fn start_sender(self: &Arc<Self>) {
        let mut shared = self.shared();
        if self.kind == EntryKind::Held
            || !shared.is_running
            || !shared.schedule.is_due(self.config.connections_max)
        {
            return;
        }
        if shared.idle_senders > 0 {
            // All of them, because one may keep the only connection that is possible.
            self.mail_due.notify_all();
        } else if shared.senders < SENDERS_MAX {
            shared.senders += 1;
            let runner = self.clone();
            let thread = std::thread::Builder::new().name(SENDER_NAME.into());
            let started = thread.spawn(move || {
                let _vital = VitalThread::new(SENDER_NAME);
                runner.run_sender();
            });
            if let Err(e) = started {
                // The other threads do its work, or this one after the next event.
                shared.senders -= 1;
                events::queue_failed(None::<&str>, e);
            }
        }
    }

    /// Makes attempts until none is due for a while.
    fn run_sender(self: &Arc<Self>) {
        let mut kept = None;
        loop {
            if self.attempt_next(&mut kept) {
                continue;
            }
            let hop = kept.as_ref().map(|(hop, _)| hop);
            let mut shared = self.shared();
            if !shared.is_running {
                break;
            }
            if shared.schedule.find_due(self.config.connections_max, hop).is_some() {
                continue;
            }
            shared.idle_senders += 1;
            hop.inspect(|hop| shared.schedule.set_idle(hop, true));
            let waited = self.mail_due.wait_timeout(shared, CONNECTION_IDLE_MAX);
            let (mut shared, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            shared.idle_senders -= 1;
            hop.inspect(|hop| shared.schedule.set_idle(hop, false));
            if waited.timed_out() {
                break;
            }
        }
        self.close(&mut kept);
        self.shared().senders -= 1;
        self.attempt_ended.notify_all();
    }

    /// Makes the attempt that is due first. Returns false if none is.
    fn attempt_next(self: &Arc<Self>, kept: &mut KeptConnection) -> bool {
        let hop = kept.as_ref().map(|(hop, _)| hop);
        let due = {
            let mut shared = self.shared();
            if !shared.is_running {
                return false;
            }
            shared.schedule.take(self.config.connections_max, hop)
        };
        let Some(due) = due else { return false };
        // For the rest of the mail that is due.
        self.start_sender();
        self.attempt(&due, kept);
        true
    }

    /// Closes the connection that is kept, if there is one.
    fn close(&self, kept: &mut KeptConnection) {
        if let Some((hop, connection)) = kept.take() {
            connection.quit();
            self.shared().schedule.connection_closed(&hop);
        }
    }

    /// Tries each entry of `selection` once, and calls `report` before. Ends when `is_stopped`
    /// returns true. Returns the number of entries left: those of the submitter, or else of the
    /// whole queue.
    pub fn flush(
        self: &Arc<Self>,
        selection: &FlushSelection,
        mut report: impl FnMut(FlushProgress),
        is_stopped: impl Fn() -> bool,
    ) -> usize {
        let FlushSelection { ids, submitter } = selection;
        let mut entries = self.shared().schedule.ids();
        entries.retain(|id| ids.is_empty() || ids.iter().any(|wanted| **wanted == **id));
        if let Some(uid) = submitter {
            entries.retain(|id| submitter_of(&self.directory, id) == Some(*uid));
        }
        let mut kept = None;
        let mut unreachable = HashSet::new();
        let mut logged_at = Instant::now();
        for (tried, id) in entries.iter().enumerate() {
            let progress = FlushProgress { tried, entries: entries.len() };
            report(progress);
            if logged_at.elapsed() >= PROGRESS_INTERVAL {
                logged_at = Instant::now();
                events::queue_flush_progress(progress.tried, progress.entries);
            }
            if is_stopped() {
                break;
            }
            self.flush_entry(id, &mut kept, &mut unreachable);
        }
        self.close(&mut kept);
        // Reports that the attempts created are entries, too.
        let shared = self.shared();
        match submitter {
            Some(_) => entries.iter().filter(|id| shared.schedule.contains(id)).count(),
            None => shared.schedule.len(),
        }
    }

    /// Tries the entry `id` once at each of its next hops, except those that are `unreachable`.
    fn flush_entry(
        self: &Arc<Self>,
        id: &Arc<str>,
        kept: &mut KeptConnection,
        unreachable: &mut HashSet<NextHop>,
    ) {
        let mut tried = HashSet::new();
        loop {
            let mut shared = self.shared();
            while shared.schedule.is_busy(id) {
                shared = self.attempt_ended.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            if tried.is_empty() {
                // Another attempt may have removed it.
                if !shared.schedule.contains(id) {
                    return;
                }
                shared.schedule.insert(id, 0, true);
            }
            let hops = shared.schedule.hops_of(id);
            let next = hops.into_iter().find(|hop| !tried.contains(hop));
            let Some(hop) = next else { return };
            tried.insert(hop.clone());
            if unreachable.contains(&hop) {
                continue;
            }
            let due = DueEntry { id: id.clone(), hop };
            shared.schedule.begin(&due, kept.as_ref().map(|(hop, _)| hop));
            drop(shared);
            self.attempt(&due, kept);
            if self.shared().schedule.pause_reason(&due.hop).is_some() {
                unreachable.insert(due.hop);
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, SharedState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle_event(self: &Arc<Self>, event: QueueEvent, stopped: &Receiver<()>) {
        match event {
            QueueEvent::FlushSelected(selection, reports) => {
                // Entries of other processes count, too.
                if let Err(e) = self.scan() {
                    events::queue_failed(None::<&str>, e);
                }
                let is_stopped = || stopped.try_recv() != Err(TryRecvError::Empty);
                // Progress is left out while the client has not read the one before.
                let report = |progress| {
                    if reports.is_empty() {
                        let _ = reports.send(FlushReport::Progress(progress));
                    }
                };
                let left = self.flush(&selection, report, is_stopped);
                // The client may be gone.
                let _ = reports.send(FlushReport::Left(left));
            }
            QueueEvent::EntryCreated(id) => self.shared().schedule.insert(&id, 0, false),
            QueueEvent::Flush(node) => self.flush_node(&node),
        }
    }

    /// Makes the entries for `node` due at once (ETRN).
    fn flush_node(&self, node: &EtrnNode) {
        let (mut count, mut hops) = (0_usize, HashSet::new());
        let ids = self.shared().schedule.ids();
        for id in ids {
            // An entry that is locked is being tried, or will be by the process that holds it.
            let Ok(Ok(locked)) = self.open_entry(&id) else { continue };
            let pending = locked.envelope_for(&locked.pending()).to;
            drop(locked);
            let matches_node = |to: &&Recipient<()>| match &to.path {
                ForwardPath::Mailbox(mailbox) => node.matches(&mailbox.domain().to_string()),
                ForwardPath::Postmaster => false,
            };
            let wanted: Vec<NextHop> =
                pending.iter().filter(matches_node).map(|to| self.next_hop(&to.path)).collect();
            if !wanted.is_empty() {
                self.shared().schedule.insert(&id, 0, true);
                hops.extend(wanted);
                count += 1;
            }
        }
        // Once for each next hop, because a server that is down is tried after each.
        let mut shared = self.shared();
        hops.iter().for_each(|hop| shared.schedule.end_pause(hop));
        drop(shared);
        events::queue_flushed(node, count);
    }

    /// Returns the next hop of a recipient.
    fn next_hop(&self, to: &ForwardPath) -> NextHop {
        match self.kind {
            EntryKind::Relayed => self.config.next_hop(to),
            EntryKind::Held => NextHop::Unknown,
        }
    }

    /// Schedules an entry that was created, or passes it to the thread of its kind.
    fn entry_created(&self, id: &str) {
        if EntryKind::of(id) == self.kind {
            self.shared().schedule.insert(id, 0, false);
        } else {
            self.queue.entry_created(id);
        }
    }

    /// Opens and locks the entry `id`.
    fn open_entry(&self, id: &Arc<str>) -> io::Result<Result<LockedEntry, Unavailable>> {
        let unsaved = self.shared().unsaved.get(id).cloned();
        LockedEntry::open(&self.directory, id, unsaved.as_ref(), self.recovered_at)
    }

    /// Brings the schedule up to date with the directory.
    fn scan(&self) -> io::Result<()> {
        let mut shared = self.shared();
        shared.scanned_at = Instant::now();
        shared.schedule.scan(&self.directory)?;
        let SharedState { schedule, unsaved, .. } = &mut *shared;
        unsaved.retain(|id, _| schedule.contains(id));
        if self.kind == EntryKind::Relayed {
            let is_left = schedule.retain_hops();
            self.queue.outages.lock().retain(|hop, _| is_left(hop));
        }
        Ok(())
    }

    /// Returns the time until an attempt is due or the directory is scanned.
    fn idle_time(&self) -> Duration {
        let shared = self.shared();
        let until_due = shared.schedule.time_until_due(self.config.connections_max);
        let least = match self.kind {
            // The sender threads have all that is due, as far as there are enough of them.
            EntryKind::Relayed => Duration::from_secs(1),
            EntryKind::Held => Duration::from_millis(10),
        };
        until_due.unwrap_or(SCAN_INTERVAL).clamp(least, SCAN_INTERVAL)
    }
}

/// Returns the user that submitted the entry `id`, if it is known.
fn submitter_of(directory: &Path, id: &str) -> Option<u32> {
    let file = File::open(directory.join(id)).ok()?;
    QueueEntry::read(&file).ok()??.envelope.submitter
}

/// Maximum number of sender threads. A few next hops that answer slowly do not take all of them.
const SENDERS_MAX: usize = 100;
/// The name of the sender threads.
const SENDER_NAME: &str = "sender";
/// Time after which an idle connection is closed.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(2);
/// Time between two lines of the log while a flush lasts.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two scans of the directory, for entries that other processes create.
const SCAN_INTERVAL: Duration = Duration::from_secs(300);
