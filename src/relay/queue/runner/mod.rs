//! The one thread of the queue: it sends what is due, puts off what cannot be sent now, and tells
//! senders.
//!
//! All mail goes to the first smarthost that can be reached, over one connection that is used
//! again as long as there is mail. If none can be reached the whole queue waits, and one entry
//! probes: after a minute, twice as long each time, at most a quarter of an hour.
//!
//! An entry that was refused for now comes again by itself (`state::retry_after`). A sender is told
//! once that it takes long, and at last that it was given up (RFC 5321 4.5.4.1); each only if that
//! was asked for, or nothing was said (RFC 3461 4.1). What fails of a message without a sender,
//! mostly a report, goes to postmaster: a report on a report would go round for ever.

mod attempt;
mod reports;
mod schedule;

use std::collections::{BTreeSet, HashMap};
use std::hash::RandomState;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::state::EntryState;
use super::{QueueConfig, QueueEvent, create_directory};
use crate::deliver::WriterHandle;
use crate::message::trace::IdGenerator;
use crate::observe::counters::Counters;
use crate::observe::logging::value;
use crate::relay::client::Connection;
use crate::route::Route;
use crate::smtp::command::EtrnNode;
use crate::smtp::{ForwardPath, Recipient};
use schedule::{SCAN_EVERY, Schedule};

/// The queue's thread, and what it knows.
pub struct QueueRunner {
    settings: QueueConfig,
    directory: PathBuf,
    route: Arc<dyn Route>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    ids: IdGenerator,
    /// The entries there are, by id.
    items: HashMap<Arc<str>, Schedule>,
    /// The same by when they are due.
    line: BTreeSet<(i64, Arc<str>)>,
    /// States that could not be written: better here than nowhere.
    unsaved: HashMap<Arc<str>, EntryState>,
    scanned: Instant,
    connection: Option<Connection>,
    /// No smarthost could be reached: since so many attempts, and until when it is not tried.
    down: Option<(u32, Instant)>,
    random: RandomState,
    jitter: u64,
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
            items: HashMap::new(),
            line: BTreeSet::new(),
            unsaved: HashMap::new(),
            scanned: Instant::now(),
            connection: None,
            down: None,
            random: RandomState::new(),
            jitter: 0,
        };
        runner.scan()?;
        Ok(runner)
    }

    /// Sends until it is stopped.
    pub fn run(
        &mut self,
        events: &Receiver<QueueEvent>,
        stopped: &Receiver<()>,
        missed: &AtomicBool,
    ) {
        while let Err(TryRecvError::Empty) = stopped.try_recv() {
            let look =
                missed.swap(false, Ordering::Relaxed) || self.scanned.elapsed() >= SCAN_EVERY;
            if look && let Err(e) = self.scan() {
                log::error!("queue-failed error={}", value(e));
            }
            events.try_iter().for_each(|word| self.handle(word));
            if let Some(id) = self.first_due() {
                self.attempt(&id);
                continue;
            }
            let wait = self.wait();
            let idle = self.connection.is_some();
            crossbeam_channel::select! {
                recv(events) -> word => match word {
                    Ok(word) => self.handle(word),
                    // Every session is gone, and the server with them: it will be stopped.
                    Err(_) => match stopped.recv_timeout(wait) {
                        Err(RecvTimeoutError::Timeout) => {}
                        _ => break,
                    },
                },
                recv(stopped) -> _ => break,
                default(if idle { wait.min(IDLE) } else { wait }) => {
                    if idle && let Some(connection) = self.connection.take() {
                        connection.quit();
                    }
                }
            }
        }
        if let Some(connection) = self.connection.take() {
            connection.quit();
        }
    }

    /// Tries all entries once, or these.
    pub fn flush(&mut self, ids: &[String]) {
        let mut all: Vec<Arc<str>> = self.line.iter().map(|(_, id)| id.clone()).collect();
        all.retain(|id| ids.is_empty() || ids.iter().any(|wanted| **wanted == **id));
        for id in all {
            self.put(&id, Schedule { forced: true, ..Schedule::NEW });
            self.attempt(&id);
            if self.down.is_some() {
                break;
            }
        }
        if let Some(connection) = self.connection.take() {
            connection.quit();
        }
    }

    fn handle(&mut self, word: QueueEvent) {
        match word {
            QueueEvent::EntryCreated(id) => self.put(&id, Schedule::NEW),
            QueueEvent::Flush(node) => self.flush_node(&node),
        }
    }

    /// Has what waits for this node tried at once.
    fn flush_node(&mut self, node: &EtrnNode) {
        let ids: Vec<Arc<str>> = self.items.keys().cloned().collect();
        let mut count = 0_usize;
        for id in ids {
            // One that is in another's hands is tried by them.
            let Ok(Ok(locked)) = self.open(&id) else { continue };
            let pending = locked.envelope_for(&locked.pending()).to;
            let is_its = |to: &Recipient<()>| match &to.path {
                ForwardPath::Mailbox(mailbox) => node.holds(&mailbox.domain().to_string()),
                ForwardPath::Postmaster => false,
            };
            if pending.iter().any(is_its) {
                self.put(&id, Schedule { forced: true, ..Schedule::NEW });
                count += 1;
            }
        }
        if count > 0
            && let Some((_, until)) = &mut self.down
        {
            *until = Instant::now();
        }
        log::info!("queue-flushed node={} entries={count}", value(node));
    }

    /// How many entries there are.
    pub fn left(&self) -> usize {
        self.items.len()
    }
}

/// For how long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(2);
