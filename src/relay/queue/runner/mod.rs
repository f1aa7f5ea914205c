//! The thread of the queue. It sends the entries that are due, retries those that are deferred, and
//! reports to senders.
//!
//! | file | contains |
//! | --- | --- |
//! | `schedule.rs` | the entries there are, and when each is due |
//! | `locked_entry.rs` | an entry that is worked on: open, locked, read |
//! | `reports.rs` | reports to the sender (`impl QueueRunner`) |
//! | `attempt.rs` | one attempt at one entry (`impl QueueRunner`) |
//!
//! All mail goes to the first smarthost that can be reached, over one connection that is reused as
//! long as there is mail. While none can be reached the whole queue waits, except for one entry
//! that probes: after a minute, then after twice as long each time, at most a quarter of an hour.
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
mod locked_entry;
mod reports;
mod schedule;

use std::collections::HashMap;
use std::hash::RandomState;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::state::{ClockObserver, EntryState};
use super::{QueueConfig, QueueEvent, create_directory, now};
use crate::deliver::WriterHandle;
use crate::message::trace::IdGenerator;
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::relay::client::Connection;
use crate::route::Route;
use crate::smtp::EtrnNode;
use crate::smtp::{ForwardPath, Recipient};
use locked_entry::LockedEntry;
use schedule::{Schedule, ScheduledEntry};

/// The state of the queue's thread.
pub struct QueueRunner {
    settings: QueueConfig,
    directory: PathBuf,
    route: Arc<dyn Route>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    ids: IdGenerator,
    schedule: Schedule,
    scanned_at: Instant,
    /// States that could not be written.
    unsaved: HashMap<Arc<str>, EntryState>,
    connection: Option<Connection>,
    outage: Option<Outage>,
    clock: ClockObserver,
    random: RandomState,
    jitter_count: u64,
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
        settings: QueueConfig,
        route: Arc<dyn Route>,
        writer: WriterHandle,
        counters: Arc<Counters>,
    ) -> io::Result<QueueRunner> {
        let mut runner = QueueRunner {
            directory: create_directory(&settings.spool)?,
            settings,
            route,
            writer,
            counters,
            ids: IdGenerator::new(),
            schedule: Schedule::default(),
            scanned_at: Instant::now(),
            unsaved: HashMap::new(),
            connection: None,
            outage: None,
            clock: ClockObserver::new(Instant::now(), now()),
            random: RandomState::new(),
            jitter_count: 0,
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
            requests.try_iter().for_each(|event| self.handle_event(event));
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
                    Ok(event) => self.handle_event(event),
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

    /// Tries each entry once, or those in `ids` if there are any. Stops at an outage.
    pub fn flush(&mut self, ids: &[String]) {
        let mut entries = self.schedule.ids();
        entries.retain(|id| ids.is_empty() || ids.iter().any(|wanted| **wanted == **id));
        for id in entries {
            self.schedule.insert(&id, ScheduledEntry::FORCED);
            self.attempt(&id);
            if self.outage.is_some() {
                break;
            }
        }
        self.close_connection();
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.schedule.len()
    }

    fn handle_event(&mut self, event: QueueEvent) {
        match event {
            QueueEvent::EntryCreated(id) => self.schedule.insert(&id, ScheduledEntry::NEW),
            QueueEvent::Flush(node) => self.flush_node(&node),
        }
    }

    /// Makes the entries for `node` due at once (ETRN).
    fn flush_node(&mut self, node: &EtrnNode) {
        let mut count = 0_usize;
        for id in self.schedule.ids() {
            // An entry that is locked is being tried, or will be by the process that holds it.
            let opened = LockedEntry::open(&self.directory, &id, self.unsaved.get(&id));
            let Ok(Ok(locked)) = opened else { continue };
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

/// Time after which an idle connection is closed.
const CONNECTION_IDLE_MAX: Duration = Duration::from_secs(2);
/// Time between two scans of the directory, for entries that other processes create.
const SCAN_INTERVAL: Duration = Duration::from_secs(300);
