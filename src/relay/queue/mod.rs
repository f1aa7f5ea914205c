//! The queue: mail for other hosts, and mail of this host's programs that waits for a mailbox of
//! this host, from its `250` until it is sent, delivered or returned to its sender.
//!
//! ```text
//! session --Message--> WriterHandle --> writer --> queue/ID        synced, before the 250
//!    |                                                |
//!    +-- QueueHandle::entry_created(ID) --> runner ---+--> client --> smarthost
//!                                             |
//!                                             +-- report --> WriterHandle --> sender's mailbox,
//!                                                                             or queue/ID
//! ```
//! | file | contains |
//! | --- | --- |
//! | `entry.rs` | the file of one message |
//! | `state.rs` | the file with its progress, and the times of retries |
//! | `held.rs` | entries for recipients of this host |
//! | `next_hop.rs` | the routes, and the connection to the next hop of a recipient |
//! | `runner/` | the threads that send, deliver, retry and report |
//! | `list.rs` | `mailslot queue` |
//!
//! A crash can leave these states, from which the next start recovers:
//!
//! | crash after | result |
//! | --- | --- |
//! | the entry is created | an empty or short file: the writer completes or removes it |
//! | the message's record is synced | an incomplete entry: the writer completes it |
//! | the other server has replied | a recipient that is not finished gets it again (RFC 1047) |
//! | the new state is written | the old state is used, and the new file removed |
//! | the state is renamed | the recipient is finished |
//! | a report is delivered | a recipient that is not finished is reported again |
//! | the entry is removed | its state is removed; if the removal is lost, it is sent again |
//!
//! So a message may be sent twice to another host, but it is never lost: the queue, the other
//! server, or (after a report) its sender has it.
//!
//! Several processes may work on one queue. Each locks (flock) an entry while it works on it.

pub mod entry;
pub mod held;
pub mod list;
mod next_hop;
mod runner;
pub mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::deliver::WriterHandle;
use crate::message::trace::unix_time;
use crate::message::{Content, Destination, QUEUE_DIRECTORY, QueueId};
use crate::net::tls::Trust;
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::observe::vital_thread::VitalThread;
use crate::relay::{SenderMap, client};
use crate::resolver::{AddressResolver, DomainPattern, Resolution};
use crate::smtp::EtrnNode;
use crate::smtp::dsn::DsnNotify;
use crate::smtp::{BodyType, Envelope, ForwardPath, Mailbox, Recipient, ReversePath};
use next_hop::NextHop;
pub use next_hop::{MxConfig, RelayRoute, RouteTarget};
use runner::QueueRunner;
pub use runner::{ReportRecipient, is_wanted};

/// Configuration of the queue. The default has no smarthosts, and the times of the options.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// The spool directory, which holds the queue directory.
    pub spool: PathBuf,
    /// The name of this host in reports.
    pub hostname: String,
    /// Servers for all domains without a route, in the order in which they are tried.
    pub smarthosts: Vec<Smarthost>,
    /// The routes of other domains.
    pub routes: Vec<RelayRoute>,
    /// The certificates by which these servers are verified, to be read again by
    /// [`QueueHandle::reload_trusted`]. None if no server is verified.
    pub trusted: Option<Trust>,
    /// Maximum number of connections to one next hop.
    pub connections_max: usize,
    /// The senders that the smarthosts accept; None to keep the local ones.
    pub senders: Option<SenderMap>,
    /// Age of a message at which its sender gets a report about the delay.
    pub warn_after: Duration,
    /// Age at which a message is returned, at least 4 to 5 days (RFC 5321 4.5.4.1).
    pub give_up_after: Duration,
    /// Maximum time for delivering a report to a mailbox.
    pub timeout: Duration,
}

impl Default for QueueConfig {
    fn default() -> QueueConfig {
        let hours = |n: u64| Duration::from_secs(n * 3600);
        QueueConfig {
            spool: "/var/spool/mailslot".into(),
            hostname: "localhost".to_owned(),
            smarthosts: Vec::new(),
            routes: Vec::new(),
            trusted: None,
            connections_max: 20,
            senders: None,
            warn_after: hours(4),
            give_up_after: hours(5 * 24),
            timeout: Duration::from_secs(60),
        }
    }
}

/// A server that accepts mail for other hosts.
#[derive(Clone, Debug)]
pub struct Smarthost {
    /// The server.
    pub address: client::ServerAddress,
    /// Configuration of connections to it.
    pub config: client::ClientConfig,
}

/// A handle to the queue's threads, for sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QueueHandle {
    relayed: EventSender,
    held: EventSender,
    outages: OutageCell,
    trusted: Option<Trust>,
}

/// The sending end of one thread's events.
#[derive(Clone, Debug)]
struct EventSender {
    events: Sender<QueueEvent>,
    /// True if the channel was full, so that the directory must be scanned.
    overflowed: Arc<AtomicBool>,
}

/// The outages of the queue, as other threads see them.
#[derive(Clone, Debug, Default)]
struct OutageCell(Arc<Mutex<BTreeMap<NextHop, OutageReport>>>);

/// A time in which no server for some domains can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutageReport {
    /// The domains.
    pub domains: DomainPattern,
    /// The last server that was tried, and its error, in one line.
    pub reason: String,
    /// Time of the next attempt, in seconds since 1970.
    pub retry_at: i64,
}

impl OutageCell {
    fn insert(&self, hop: NextHop, report: OutageReport) {
        self.lock().insert(hop, report);
    }

    fn remove(&self, hop: &NextHop) {
        self.lock().remove(hop);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NextHop, OutageReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries that a flush is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushSelection {
    /// Their ids; empty for all.
    pub ids: Vec<String>,
    /// The user that submitted them; None for every user.
    pub submitter: Option<u32>,
}

/// A request to the running queue.
#[derive(Debug)]
enum QueueEvent {
    /// An entry with this id was created.
    EntryCreated(String),
    /// The entries for this node are to be tried now.
    Flush(EtrnNode),
    /// These entries are to be tried now. The progress is sent back, and then the end.
    FlushSelected(FlushSelection, Sender<FlushReport>),
}

/// A report of a flush to the program that waits for it.
#[derive(Debug)]
enum FlushReport {
    Progress(FlushProgress),
    /// The flush has ended. This number of entries is left.
    Left(usize),
}

/// The progress of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushProgress {
    /// Number of entries that were tried.
    pub tried: usize,
    /// Number of entries that the flush is for.
    pub entries: usize,
}

impl fmt::Display for FlushProgress {
    /// Writes `3 of 5 tried`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} tried", self.tried, self.entries)
    }
}

/// The queue's threads.
#[derive(Debug)]
pub struct QueueThreads {
    stop: Sender<()>,
    threads: Vec<JoinHandle<()>>,
}

/// Kind of the entries that a thread of the queue works on. A mailbox that is locked for long does
/// not delay mail for other hosts, and a smarthost that does not answer no mail for mailboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EntryKind {
    /// Entries for other hosts.
    Relayed,
    /// Entries for this host (`held.rs`).
    Held,
}

impl EntryKind {
    fn of(id: &str) -> EntryKind {
        if held::is_held(id) { EntryKind::Held } else { EntryKind::Relayed }
    }
}

/// Starts the queue's threads. Creates the queue directory if it is missing. The writer of `writer`
/// must have recovered.
///
/// # Errors
/// The directory cannot be created or read, or a thread cannot be started.
pub fn start(
    config: QueueConfig,
    resolver: Arc<dyn AddressResolver>,
    writer: WriterHandle,
    counters: Arc<Counters>,
) -> io::Result<(QueueHandle, QueueThreads)> {
    let (stop, stopped) = bounded(0);
    let (relayed, relayed_events) = event_channel();
    let (held, held_events) = event_channel();
    let trusted = config.trusted.clone();
    let handle = QueueHandle { relayed, held, outages: OutageCell::default(), trusted };
    let mut threads = Vec::new();
    for (kind, name, events, sender) in [
        (EntryKind::Relayed, "queue", relayed_events, &handle.relayed),
        (EntryKind::Held, "held", held_events, &handle.held),
    ] {
        let (config, resolver, stopped) = (config.clone(), resolver.clone(), stopped.clone());
        let (writer, counters, queue) = (writer.clone(), counters.clone(), handle.clone());
        let overflowed = sender.overflowed.clone();
        let runner = QueueRunner::new(kind, config, resolver, writer, counters, queue)?;
        let runner = Arc::new(runner);
        threads.push(std::thread::Builder::new().name(name.into()).spawn(move || {
            let _vital = VitalThread::new(name);
            runner.run(&events, &stopped, &overflowed);
        })?);
    }
    Ok((handle, QueueThreads { stop, threads }))
}

/// Tries each entry of the queue once, or just those in `ids` if there are any. Calls `report`
/// before each entry. Returns the number of entries left.
///
/// # Errors
/// The directory cannot be created or read.
pub fn flush(
    config: QueueConfig,
    resolver: Arc<dyn AddressResolver>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    ids: &[String],
    mut report: impl FnMut(FlushProgress),
) -> io::Result<usize> {
    let mut left = 0;
    let all = FlushSelection { ids: ids.to_vec(), submitter: None };
    // Held mail first, because it may become entries for other hosts.
    for kind in [EntryKind::Held, EntryKind::Relayed] {
        let (config, resolver) = (config.clone(), resolver.clone());
        let (writer, counters, queue) = (writer.clone(), counters.clone(), QueueHandle::detached());
        let runner = QueueRunner::new(kind, config, resolver, writer, counters, queue)?;
        let runner = Arc::new(runner);
        left += runner.flush(&all, &mut report, || false);
    }
    Ok(left)
}

/// Returns both ends of the channel of one thread's events.
fn event_channel() -> (EventSender, Receiver<QueueEvent>) {
    let (events, received) = bounded(EVENTS_MAX);
    (EventSender { events, overflowed: Arc::default() }, received)
}

impl QueueHandle {
    /// Returns a handle to a queue that another process works on.
    pub fn detached() -> QueueHandle {
        let detached = || EventSender { events: bounded(0).0, overflowed: Arc::default() };
        let (relayed, held, outages) = (detached(), detached(), OutageCell::default());
        QueueHandle { relayed, held, outages, trusted: None }
    }

    /// Announces an entry that was created. If the channel is full, the queue finds the entry by a
    /// scan.
    pub fn entry_created(&self, id: &str) {
        let EventSender { events, overflowed } = match EntryKind::of(id) {
            EntryKind::Relayed => &self.relayed,
            EntryKind::Held => &self.held,
        };
        if events.try_send(QueueEvent::EntryCreated(id.to_owned())).is_err() {
            overflowed.store(true, Ordering::Relaxed);
        }
    }

    /// Requests that entries for `node` are tried now (ETRN). Returns false if this process does
    /// not work on the queue.
    pub fn flush(&self, node: &EtrnNode) -> bool {
        self.relayed.events.try_send(QueueEvent::Flush(node.clone())).is_ok()
    }

    /// Tries the entries of `selection` once, and waits until that is done. Calls `report` before
    /// entries. Returns the number of entries left, of the submitter or of the whole queue. Returns
    /// None if the queue stops or is too busy.
    pub fn flush_selected(
        &self,
        selection: FlushSelection,
        mut report: impl FnMut(FlushProgress),
    ) -> Option<usize> {
        let mut count = 0;
        // Held mail first, because it may become entries for other hosts.
        for thread in [&self.held, &self.relayed] {
            // Room for a report of progress and the end, so that the queue never waits for the
            // client.
            let (sender, reports) = bounded(2);
            let event = QueueEvent::FlushSelected(selection.clone(), sender);
            thread.events.try_send(event).ok()?;
            count += loop {
                match reports.recv().ok()? {
                    FlushReport::Progress(progress) => report(progress),
                    FlushReport::Left(left) => break left,
                }
            };
        }
        Some(count)
    }

    /// Reads the certificates to trust again, for connections that begin after it. On an error the
    /// old ones stay in use.
    pub fn reload_trusted(&self) {
        if let Some(Err(why)) = self.trusted.as_ref().map(Trust::reload) {
            events::tls_reload_failed(why);
        }
    }

    /// Returns the outages that the queue is in.
    pub fn outages(&self) -> Vec<OutageReport> {
        self.outages.lock().values().cloned().collect()
    }
}

impl QueueThreads {
    /// Stops the threads. Waits up to `grace` for attempts under way. The entry of an attempt that
    /// takes longer is tried again by the next process.
    pub fn stop(self, grace: Duration) {
        drop(self.stop);
        let deadline = Instant::now() + grace;
        let is_running = |thread: &JoinHandle<()>| !thread.is_finished();
        while self.threads.iter().any(is_running) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Returns the destinations of a message for other hosts, which are entries of the queue: one for
/// each [`RECIPIENTS_MAX`] of its recipients. `to` has each recipient once, `via` is the local
/// address with the alias or forward file that led to them, `id` is the message's, and `size` the
/// number of bytes of its content.
///
/// Returns None if a field cannot be encoded.
pub fn destinations<D>(
    envelope: &Envelope<D>,
    to: &[Recipient<Mailbox>],
    via: Option<&str>,
    id: &str,
    size: u64,
) -> Option<Vec<Destination>> {
    let arrived_at = unix_time();
    let entry = |(n, to): (usize, &[Recipient<Mailbox>])| {
        let id = if n == 0 { id.to_owned() } else { format!("{id}-{n}") };
        let envelope = entry::encode(envelope, to, via, arrived_at, size)?;
        Some(Destination::Queue { id: QueueId::new(&id)?, envelope })
    };
    to.chunks(RECIPIENTS_MAX).enumerate().map(entry).collect()
}

/// Returns the destinations of a message for `to` on other hosts, to which the alias or the forward
/// file of the local address `via` leads. If it is a list with an `owner`, reports go to that
/// address alone (RFC 3461 5.2.7.3), unless the message has the null reverse-path: a bounce keeps
/// it, or it could bounce again.
///
/// Returns None if a field cannot be encoded.
pub fn forwarded_destinations<D>(
    envelope: &Envelope<D>,
    to: &mut [Recipient<Mailbox>],
    owner: Option<&Mailbox>,
    via: &str,
    id: &str,
    size: u64,
) -> Option<Vec<Destination>> {
    let mut envelope = envelope.with_recipients::<Mailbox>(Vec::new());
    if let (Some(owner), ReversePath::Mailbox(_)) = (owner, &envelope.from) {
        to.iter_mut().for_each(|to| (to.notify, to.original) = (None, None));
        (envelope.ret, envelope.envid) = (None, None);
        envelope.from = ReversePath::Mailbox(owner.clone());
    }
    destinations(&envelope, to, Some(via), id, size)
}

/// Returns the destinations of a report to all of `resolution`, in mailboxes and in the queue.
/// `notify` says which reports about the report itself are wanted.
///
/// Returns None if a field cannot be encoded.
pub fn report_destinations(
    resolution: Resolution,
    notify: Option<DsnNotify>,
    id: &str,
    content: &Content,
) -> Option<Vec<Destination>> {
    // 8BITMIME and SMTPUTF8 are declared only if needed, because not every server supports them.
    let is_ascii = matches!(content, Content::Memory(bytes) if bytes.is_ascii());
    let envelope = Envelope::<()> {
        body: if is_ascii { BodyType::SevenBit } else { BodyType::EightBitMime },
        utf8: resolution.remote.iter().any(|to| !to.to_string().is_ascii()),
        ..Envelope::blank()
    };
    let to = resolution.remote.into_iter().map(|mailbox| Recipient {
        path: ForwardPath::Mailbox(mailbox.clone()),
        destination: mailbox,
        notify,
        original: None,
    });
    let to: Vec<_> = to.collect();
    let queued = destinations(&envelope, &to, None, id, content.size())?;
    Some(resolution.local.into_iter().map(Destination::Mailbox).chain(queued).collect())
}

/// Creates the queue directory in the existing directory `spool` if it is missing, and returns its
/// path.
///
/// # Errors
/// The directory cannot be created, perhaps because there is no spool, or its name is that of
/// another kind of file. The text names it.
pub fn create_directory(spool: &Path) -> io::Result<PathBuf> {
    let directory = spool.join(QUEUE_DIRECTORY);
    let created = match DirBuilder::new().mode(0o700).create(&directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        created => created,
    };
    created.map_err(|e| {
        let text = format!("cannot create directory {}: {e}", directory.display());
        io::Error::new(e.kind(), text)
    })?;
    Ok(directory)
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Maximum number of events that wait for a thread of the queue. The memory for all of them is
/// taken at the start.
const EVENTS_MAX: usize = 256;

/// Maximum number of recipients of one entry, which every receiver accepts (RFC 5321 4.5.3.1.8).
pub const RECIPIENTS_MAX: usize = 100;
