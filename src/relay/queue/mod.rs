//! Mail for other hosts, from its `250` until it is sent, or its sender is told that it cannot be.
//!
//! ```text
//! session --Message--> Post --> writer --> queue/ID        synced, before the 250
//!    |                                        |
//!    +-- Handle::note(ID) --> runner ---------+--> client --> smarthost
//!                               |
//!                               +-- a report --> Post --> the sender's mailbox, or queue/ID
//! ```
//! | file | owns |
//! | --- | --- |
//! | `entry.rs` | one message that waits: the format of its file |
//! | `state.rs` | what was done with it, in a file beside it; when it is tried again |
//! | `runner.rs` | the one thread that sends, retries and reports |
//! | `list.rs` | the queue for people: `mailslot queue` |
//!
//! The states that a crash can leave, and what the next start makes of them:
//!
//! | after | killed, or power lost here |
//! | --- | --- |
//! | the entry is made | an empty file, or one cut short: mended by the writer, or it goes |
//! | the record of the message is synced | redone by the writer: the entry is whole |
//! | the other server has answered | not crossed off: sent again (RFC 1047) |
//! | the new state is written | the old one counts; what is left of the new one goes |
//! | the state is renamed | crossed off |
//! | a report is delivered | not crossed off: reported again |
//! | the entry is removed | its state goes; should the removal be lost, it is sent again |
//!
//! So a message may be sent twice; it is never lost, and it always belongs to somebody: the queue,
//! the other server, or, by a report, its sender.
//!
//! Several processes may work on one queue: an entry is locked (flock) by whoever has it in hand.

pub mod entry;
pub mod list;
mod runner;
pub mod state;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Sender, bounded};

use crate::deliver::WriterHandle;
use crate::message::{Content, Destination, MailboxName, QUEUE_FOLDER};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::relay::client;
use crate::route::{Resolution, Route};
use crate::smtp::EtrnNode;
use crate::smtp::dsn::DsnNotify;
use crate::smtp::{BodyType, Envelope, ForwardPath, Mailbox, Recipient};
use runner::QueueRunner;

/// What the queue is told.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// The spool, in which the queue's folder is.
    pub spool: PathBuf,
    /// The name of this host, in reports.
    pub hostname: String,
    /// The servers that take the mail, and how; the first that can be reached is taken.
    pub smarthosts: Vec<Smarthost>,
    /// The age at which a sender is told that it takes long.
    pub warn_after: Duration,
    /// The age at which it is given up; at least 4 to 5 days (RFC 5321 4.5.4.1).
    pub give_up_after: Duration,
    /// How long a report may wait for its mailbox.
    pub timeout: Duration,
}

/// A server that takes mail for other hosts.
#[derive(Clone, Debug)]
pub struct Smarthost {
    /// Where it is.
    pub target: client::ServerAddress,
    /// How it is spoken with.
    pub settings: client::ClientConfig,
}

/// The sessions' end of the queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QueueHandle {
    events: Sender<QueueEvent>,
    /// The channel was full: the folder has all there is.
    missed: Arc<AtomicBool>,
}

/// What the queue is told while it runs.
#[derive(Debug)]
enum QueueEvent {
    /// An entry was made.
    EntryCreated(String),
    /// What waits for this node is to be tried now.
    Flush(EtrnNode),
}

/// The running queue.
#[derive(Debug)]
pub struct QueueThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Starts the thread of the queue in the spool, whose folder is made if it is missing. `writer` must
/// belong to a writer that has recovered.
///
/// # Errors
/// The folder cannot be made or read, or no thread can be started.
pub fn start(
    settings: QueueConfig,
    route: Arc<dyn Route>,
    writer: WriterHandle,
    counters: Arc<Counters>,
) -> io::Result<(QueueHandle, QueueThread)> {
    let (events, received) = bounded(1024);
    let (stop, stopped) = bounded(0);
    let missed = Arc::new(AtomicBool::new(false));
    let handle = QueueHandle { events, missed: missed.clone() };
    let mut runner = QueueRunner::new(settings, route, writer, counters)?;
    let thread = std::thread::Builder::new()
        .name("queue".into())
        .spawn(move || runner.run(&received, &stopped, &missed))?;
    Ok((handle, QueueThread { stop, thread }))
}

/// Tries each entry of the queue once, now, or just those in `ids`; how many are left.
///
/// # Errors
/// As for [`start`].
pub fn flush(
    settings: QueueConfig,
    route: Arc<dyn Route>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    ids: &[String],
) -> io::Result<usize> {
    let mut runner = QueueRunner::new(settings, route, writer, counters)?;
    runner.flush(ids);
    Ok(runner.left())
}

impl QueueHandle {
    /// Of a queue that another process works on, now or later.
    pub fn of_others() -> QueueHandle {
        QueueHandle { events: bounded(0).0, missed: Arc::default() }
    }

    /// An entry was made. (Should this be missed, the folder is looked through now and then.)
    pub fn note(&self, id: &str) {
        if self.events.try_send(QueueEvent::EntryCreated(id.to_owned())).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }

    /// Has what waits for a node tried now (ETRN). Whether somebody here does.
    pub fn flush(&self, node: &EtrnNode) -> bool {
        self.events.try_send(QueueEvent::Flush(node.clone())).is_ok()
    }
}

impl QueueThread {
    /// Ends the thread. An attempt that is under way has until `grace` is over; what is cut then
    /// is tried again by the next process.
    pub fn stop(self, grace: Duration) {
        drop(self.stop);
        let until = std::time::Instant::now() + grace;
        while !self.thread.is_finished() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.thread.is_finished() && self.thread.join().is_err() {
            events::queue_panicked();
        }
    }
}

/// The entries of the queue that a message becomes: the destinations for its copies. `to` are its
/// recipients on other hosts, none twice, `via` the address here that led to them, if one did;
/// `octets` are its content's, `id` is its own. More than [`RECIPIENTS_MAX`] recipients are more
/// than one entry.
///
/// None if it cannot be written down.
pub fn destinations<D>(
    envelope: &Envelope<D>,
    to: &[Recipient<Mailbox>],
    via: Option<&str>,
    id: &str,
    octets: u64,
) -> Option<Vec<Destination>> {
    let came = now();
    let entry = |(n, to): (usize, &[Recipient<Mailbox>])| {
        let id = if n == 0 { id.to_owned() } else { format!("{id}-{n}") };
        let delivered_to = entry::encode(envelope, to, via, came, octets)?;
        Some(Destination { mailbox: MailboxName::in_queue(&id)?, owner: None, delivered_to })
    };
    to.chunks(RECIPIENTS_MAX).enumerate().map(entry).collect()
}

/// The same for a report, which we write ourselves: the copies for all recipients of a way, of
/// which is told what `notify` asks for.
pub fn with_queued(
    way: Resolution,
    notify: Option<DsnNotify>,
    id: &str,
    content: &Content,
) -> Option<Vec<Destination>> {
    // Declared where it must be: a server without 8BITMIME takes the others.
    let is_ascii = matches!(content, Content::Memory(octets) if octets.is_ascii());
    let envelope = Envelope::<()> {
        body: if is_ascii { BodyType::SevenBit } else { BodyType::EightBitMime },
        utf8: way.elsewhere.iter().any(|to| !to.to_string().is_ascii()),
        ..Envelope::blank()
    };
    let to = way.elsewhere.into_iter().map(|mailbox| Recipient {
        path: ForwardPath::Mailbox(mailbox.clone()),
        destination: mailbox,
        notify,
        original: None,
    });
    let to: Vec<_> = to.collect();
    let queued = destinations(&envelope, &to, None, id, content.size())?;
    Some(way.here.into_iter().chain(queued).collect())
}

/// The folder of the queue, made if it is missing.
///
/// # Errors
/// It cannot be made.
pub fn make_folder(spool: &Path) -> io::Result<PathBuf> {
    let directory = spool.join(QUEUE_FOLDER);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(directory)
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The most recipients of one entry: what every receiver takes (RFC 5321 4.5.3.1.8).
pub const RECIPIENTS_MAX: usize = 100;
