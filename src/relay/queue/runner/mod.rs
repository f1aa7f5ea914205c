//! A thread of the queue. It sends or delivers the entries that are due, retries those that are
//! deferred, and reports to senders. There is one thread for each kind of entry.
//!
//! | file | contains |
//! | --- | --- |
//! | `schedule.rs` | the entries there are, and when each is due |
//! | `locked_entry.rs` | an entry that is worked on: open, locked, read |
//! | `reports.rs` | reports to the sender (`impl QueueRunner`) |
//! | `attempt.rs` | one attempt at one entry (`impl QueueRunner`) |
//! | `local.rs` | delivery of held mail to mailboxes (`impl QueueRunner`) |
//!
//! All mail for other hosts goes to the first smarthost that can be reached, over one connection
//! that is reused as long as there is mail. While none can be reached all of this mail waits,
//! except for one entry that probes: after a minute, then after twice as long each time, at most a
//! quarter of an hour.
//!
//! A deferred entry is retried at a time of its own ([`retry_delay`](super::state::retry_delay)).
//! Its sender gets one report about the delay, and one when the message is returned (RFC 5321
//! 4.5.4.1), each unless NOTIFY excludes it (RFC 3461 4.1). A failed message without a sender,
//! which is mostly a report, is reported to postmaster, because reports about reports would go back
//! and forth forever.
//!
//! A clock can be wrong at arrival, and step later. No message is returned for its age before a
//! least number of attempts ([`tries_min`](super::state::tries_min)), nor in the hour after a step.

mod attempt;
mod local;
mod locked_entry;
mod reports;
mod schedule;

use std::collections::HashMap;
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::entry::QueueEntry;
use super::state::{ClockObserver, EntryState};
use super::{
    EntryKind, FlushProgress, FlushReport, FlushSelection, QueueConfig, QueueEvent, QueueHandle,
    create_directory, now,
};
use crate::deliver::WriterHandle;
use crate::message::MailboxName;
use crate::message::trace::IdGenerator;
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::relay::client::Connection;
use crate::route::Route;
use crate::smtp::EtrnNode;
use crate::smtp::{ForwardPath, Recipient};
use locked_entry::{LockedEntry, Unavailable};
pub use reports::{RETURNED_MAX, ReportRecipient, is_wanted};
use schedule::{Schedule, ScheduledEntry};

/// The state of a thread of the queue.
pub struct QueueRunner {
    kind: EntryKind,
    settings: QueueConfig,
    directory: PathBuf,
    route: Arc<dyn Route>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    queue: QueueHandle,
    ids: IdGenerator,
    schedule: Schedule,
    scanned_at: Instant,
    /// Time at which the writer of this process had recovered all journals.
    recovered_at: SystemTime,
    /// States that could not be written.
    unsaved: HashMap<Arc<str>, EntryState>,
    connection: Option<Connection>,
    outage: Option<Outage>,
    clock: ClockObserver,
    random: RandomState,
    jitter_count: u64,
    /// Mailboxes that were locked, and when.
    locked_mailboxes: HashMap<MailboxName, Instant>,
}

/// A time in which no smarthost can be reached.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// Failures after the first.
    failures: u32,
    retry_at: Instant,
}

impl QueueRunner {
    pub fn new(
        kind: EntryKind,
        settings: QueueConfig,
        route: Arc<dyn Route>,
        writer: WriterHandle,
        counters: Arc<Counters>,
        queue: QueueHandle,
    ) -> io::Result<QueueRunner> {
        let mut runner = QueueRunner {
            kind,
            directory: create_directory(&settings.spool)?,
            settings,
            route,
            writer,
            counters,
            queue,
            ids: IdGenerator::new(),
            schedule: Schedule::new(kind),
            scanned_at: Instant::now(),
            recovered_at: SystemTime::now(),
            unsaved: HashMap::new(),
            connection: None,
            outage: None,
            clock: ClockObserver::new(Instant::now(), now()),
            random: RandomState::new(),
            jitter_count: 0,
            locked_mailboxes: HashMap::new(),
        };
        runner.scan()?;
        Ok(runner)
    }

    /// Works on the queue until `stopped` is closed. `overflowed` is set by a sender of `requests`
    /// that found the channel full.
    pub fn run(
        &mut self,
        requests: &Receiver<QueueEvent>,
        stopped: &Receiver<()>,
        overflowed: &AtomicBool,
    ) {
        while let Err(TryRecvError::Empty) = stopped.try_recv() {
            let scan_due = overflowed.swap(false, Ordering::Relaxed)
                || self.scanned_at.elapsed() >= SCAN_INTERVAL;
            if scan_due && let Err(e) = self.scan() {
                events::queue_failed(None::<&str>, e);
            }
            requests.try_iter().for_each(|event| self.handle_event(event, stopped));
            if let Some(id) = self.next_due() {
                self.attempt(&id);
                continue;
            }
            let timeout = match &self.connection {
                Some(_) => self.idle_time().min(CONNECTION_IDLE_MAX),
                None => self.idle_time(),
            };
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
                default(timeout) => self.close_connection(),
            }
        }
        self.close_connection();
    }

    /// Tries each entry of `selection` once, and calls `report` before. Ends at an outage, or when
    /// `is_stopped` returns true. Returns the number of entries left: those of the submitter, or
    /// else of the whole queue.
    pub fn flush(
        &mut self,
        selection: &FlushSelection,
        mut report: impl FnMut(FlushProgress),
        is_stopped: impl Fn() -> bool,
    ) -> usize {
        let FlushSelection { ids, submitter } = selection;
        let mut entries = self.schedule.ids();
        entries.retain(|id| ids.is_empty() || ids.iter().any(|wanted| **wanted == **id));
        if let Some(uid) = submitter {
            entries.retain(|id| submitter_of(&self.directory, id) == Some(*uid));
        }
        if let (Some(outage), false) = (&mut self.outage, entries.is_empty()) {
            outage.retry_at = Instant::now();
        }
        let mut logged_at = Instant::now();
        for (tried, id) in entries.iter().enumerate() {
            let progress = FlushProgress { tried, entries: entries.len() };
            report(progress);
            if logged_at.elapsed() >= PROGRESS_INTERVAL {
                logged_at = Instant::now();
                events::queue_flush_progress(progress.tried, progress.entries);
            }
            self.schedule.insert(id, ScheduledEntry::FORCED);
            self.attempt(id);
            let outage = self.outage.is_some_and(|outage| Instant::now() < outage.retry_at);
            if outage || is_stopped() {
                break;
            }
        }
        self.close_connection();
        // Reports that the attempts created are entries, too.
        match submitter {
            Some(_) => entries.iter().filter(|id| self.schedule.contains(id)).count(),
            None => self.schedule.ids().len(),
        }
    }

    fn handle_event(&mut self, event: QueueEvent, stopped: &Receiver<()>) {
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
                // The client may have gone.
                let _ = reports.send(FlushReport::Left(left));
            }
            QueueEvent::EntryCreated(id) => self.schedule.insert(&id, ScheduledEntry::NEW),
            QueueEvent::Flush(node) => self.flush_node(&node),
        }
    }

    /// Makes the entries for `node` due at once (ETRN).
    fn flush_node(&mut self, node: &EtrnNode) {
        let mut count = 0_usize;
        for id in self.schedule.ids() {
            // An entry that is locked is being tried, or will be by the process that holds it.
            let Ok(Ok(locked)) = self.open_entry(&id) else { continue };
            let pending = locked.envelope_for(&locked.pending()).to;
            let matches_node = |to: &Recipient<()>| match &to.path {
                ForwardPath::Mailbox(mailbox) => node.matches(&mailbox.domain().to_string()),
                ForwardPath::Postmaster => false,
            };
            if pending.iter().any(matches_node) {
                self.schedule.insert(&id, ScheduledEntry::FORCED);
                count += 1;
            }
        }
        if count > 0
            && let Some(outage) = &mut self.outage
        {
            outage.retry_at = Instant::now();
        }
        events::queue_flushed(node, count);
    }

    /// Schedules an entry that was created, or passes it to the thread of its kind.
    fn entry_created(&mut self, id: &str) {
        if EntryKind::of(id) == self.kind {
            self.schedule.insert(id, ScheduledEntry::NEW);
        } else {
            self.queue.entry_created(id);
        }
    }

    /// Opens and locks the entry `id`.
    fn open_entry(&self, id: &Arc<str>) -> io::Result<Result<LockedEntry, Unavailable>> {
        LockedEntry::open(&self.directory, id, self.unsaved.get(id), self.recovered_at)
    }

    /// Brings the schedule up to date with the directory.
    fn scan(&mut self) -> io::Result<()> {
        self.scanned_at = Instant::now();
        self.schedule.scan(&self.directory)?;
        let schedule = &self.schedule;
        self.unsaved.retain(|id, _| schedule.contains(id));
        Ok(())
    }

    /// Returns the entry to be tried now, if any.
    fn next_due(&self) -> Option<Arc<str>> {
        if self.outage.is_some_and(|outage| Instant::now() < outage.retry_at) {
            return None;
        }
        let (due, id) = self.schedule.first()?;
        (due <= now()).then(|| id.clone())
    }

    /// Returns the time until an entry is due or the directory is scanned.
    fn idle_time(&self) -> Duration {
        let due = self.schedule.first().map_or(i64::MAX, |(due, _)| due);
        let until_due = Duration::from_secs(u64::try_from(due.saturating_sub(now())).unwrap_or(0));
        let pause = self.outage.map_or(Duration::ZERO, |outage| {
            outage.retry_at.saturating_duration_since(Instant::now())
        });
        until_due.max(pause).clamp(Duration::from_millis(10), SCAN_INTERVAL)
    }

    fn close_connection(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.quit();
        }
    }
}

/// Returns the user that submitted the entry `id`, if it is known.
fn submitter_of(directory: &Path, id: &str) -> Option<u32> {
    let file = File::open(directory.join(id)).ok()?;
    QueueEntry::read(&file).ok()??.envelope.submitter
}

/// Time after which an idle connection is closed.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(2);
/// Time between two lines of the log while a flush lasts.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two scans of the directory, for entries that other processes create.
const SCAN_INTERVAL: Duration = Duration::from_secs(300);
