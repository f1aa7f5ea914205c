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

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};
use fs2::FileExt;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::entry::QueueEntry;
use super::state::{EntryState, retry_after};
use super::{QueueConfig, QueueEvent, Smarthost, make_folder, now, with_queued};
use crate::deliver::{Outcome as Delivery, WriterHandle, mbox};
use crate::message::trace::{self, IdGenerator};
use crate::message::{Content, MailboxName, Message};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::relay::client::{self, Connection, OutgoingMessage};
use crate::relay::dsn_message::{self, DsnAction, DsnMessage, RecipientStatus, ReturnedContent};
use crate::route::{Resolution, Route};
use crate::smtp::EtrnNode;
use crate::smtp::dsn::{DsnNotify, DsnReturn};
use crate::smtp::sender::{OutcomeReason, RecipientOutcome};
use crate::smtp::{Envelope, ForwardPath, Recipient, ReversePath};

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

/// What is known of an entry without reading it.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// When it is tried.
    due: i64,
    /// When its sender has to be told something of its age.
    watch: i64,
    /// Whether it is tried then whatever its state says.
    forced: bool,
}

impl Schedule {
    /// Of an entry of which nothing is known.
    const NEW: Schedule = Schedule { due: 0, watch: 0, forced: false };
}

/// What becomes of an entry.
enum AttemptResult {
    /// It is gone.
    Gone,
    /// It waits.
    Waits(Schedule),
    /// No smarthost can be reached.
    Down(OutcomeReason),
}

/// An entry in hand: open, and locked as long as it is.
struct LockedEntry {
    id: Arc<str>,
    file: File,
    entry: QueueEntry,
    state: EntryState,
}

impl LockedEntry {
    /// The recipients that are not crossed off.
    fn pending(&self) -> Vec<usize> {
        let all = 0..self.entry.envelope.to.len();
        all.filter(|n| !self.state.gone.contains(n)).collect()
    }

    /// The envelope for these recipients.
    fn envelope_for(&self, to: &[usize]) -> Envelope<()> {
        let all = &self.entry.envelope;
        let to = to.iter().filter_map(|n| all.to.get(*n)).cloned().collect();
        Envelope { to, ..all.clone() }
    }
}

impl QueueRunner {
    pub fn new(
        settings: QueueConfig,
        route: Arc<dyn Route>,
        writer: WriterHandle,
        counters: Arc<Counters>,
    ) -> io::Result<QueueRunner> {
        let mut runner = QueueRunner {
            directory: make_folder(&settings.spool)?,
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
                events::queue_failed(None::<&str>, e);
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
                ForwardPath::Mailbox(mailbox) => node.matches(&mailbox.domain().to_string()),
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
        events::queue_flushed(node, count);
    }

    /// How many entries there are.
    pub fn left(&self) -> usize {
        self.items.len()
    }

    /// Takes in what is in the folder, and clears away what a crash left there.
    fn scan(&mut self) -> io::Result<()> {
        self.scanned = Instant::now();
        let mut names = HashSet::new();
        for file in fs::read_dir(&self.directory)? {
            names.extend(file?.file_name().into_string());
        }
        // A clock that was wrong then must not make mail wait for ever.
        let latest = latest();
        for name in &names {
            if let Some((id, _)) = EntryState::name(name) {
                // Its entry was there before it; and no id comes twice.
                if !names.contains(id) && !self.directory.join(id).exists() {
                    let _ = fs::remove_file(self.directory.join(name));
                }
            } else if MailboxName::in_queue(name).is_none() {
                events::queue_file_ignored(self.directory.join(name).display());
            } else if let Some(item) = self.items.get(name.as_str()) {
                if item.due > latest {
                    self.put(name, Schedule::NEW);
                }
            } else {
                // What cannot be read is seen to when its turn comes.
                let due = EntryState::read(&self.directory, name).map_or(0, |state| state.next);
                let due = if due > latest { 0 } else { due };
                self.put(name, Schedule { due, ..Schedule::NEW });
            }
        }
        let gone: Vec<Arc<str>> =
            self.items.keys().filter(|id| !names.contains(&***id)).cloned().collect();
        gone.iter().for_each(|id| self.forget(id));
        Ok(())
    }

    fn put(&mut self, id: &str, item: Schedule) {
        let id: Arc<str> = id.into();
        if let Some(item) = self.items.remove(&id) {
            self.line.remove(&(item.due, id.clone()));
        }
        self.line.insert((item.due, id.clone()));
        self.items.insert(id, item);
    }

    fn forget(&mut self, id: &Arc<str>) {
        self.unsaved.remove(id);
        if let Some(item) = self.items.remove(id) {
            self.line.remove(&(item.due, id.clone()));
        }
    }

    /// What is to be tried now, if anything is.
    fn first_due(&self) -> Option<Arc<str>> {
        let resting = self.down.is_some_and(|(_, until)| Instant::now() < until);
        let (due, id) = self.line.first().filter(|_| !resting)?;
        (*due <= now()).then(|| id.clone())
    }

    /// How long there is nothing to do.
    fn wait(&self) -> Duration {
        let due = self.line.first().map_or(i64::MAX, |(due, _)| *due);
        let due = Duration::from_secs(u64::try_from(due.saturating_sub(now())).unwrap_or(0));
        let until = self
            .down
            .map_or(Duration::ZERO, |(_, until)| until.saturating_duration_since(Instant::now()));
        due.max(until).clamp(Duration::from_millis(10), SCAN_EVERY)
    }

    /// Tries one entry.
    fn attempt(&mut self, id: &Arc<str>) {
        let next = self.try_one(id);
        self.place(id, next);
    }

    /// Puts an entry where it belongs now.
    fn place(&mut self, id: &Arc<str>, next: io::Result<AttemptResult>) {
        match next {
            Ok(AttemptResult::Gone) => self.forget(id),
            Ok(AttemptResult::Waits(item)) => self.put(id, item),
            Ok(AttemptResult::Down(reason)) => self.rest(&reason),
            Err(e) => {
                events::queue_failed(Some(id), e);
                let due = now() + retry_after(1, 0);
                self.put(id, Schedule { due, watch: due, forced: true });
            }
        }
    }

    fn try_one(&mut self, id: &Arc<str>) -> io::Result<AttemptResult> {
        let mut locked = match self.open(id)? {
            Ok(locked) => locked,
            Err(next) => return Ok(next),
        };
        let is_forced = self.items.get(id).is_some_and(|item| item.forced);
        let next = locked.state.next;
        if !is_forced && next > now() && next <= latest() {
            // Another process has tried it meanwhile.
            return Ok(AttemptResult::Waits(Schedule { due: next, ..Schedule::NEW }));
        }
        let to = locked.pending();
        if to.is_empty() {
            return self.conclude(&mut locked, Vec::new(), false, true);
        }
        let mut connection = match self.connect() {
            Ok(connection) => connection,
            Err(reason) => return Ok(AttemptResult::Down(reason)),
        };
        let outcomes = connection.send(&OutgoingMessage {
            envelope: &locked.envelope_for(&to),
            octets: locked.entry.octets_on_wire(&locked.file)?,
            content: &|| Ok(Box::new(locked.entry.content(&locked.file)?)),
        });
        let (relay, takes_dsn) = (connection.target().to_string(), connection.takes_dsn());
        self.connection = Some(connection).filter(Connection::is_open);
        for (n, outcome) in to.iter().zip(&outcomes) {
            let Some(recipient) = locked.entry.envelope.to.get(*n) else { continue };
            let (from, to) = (&locked.entry.envelope.from, &recipient.path);
            match outcome {
                RecipientOutcome::Accepted(reason) => {
                    self.counters.relay_sent.one();
                    events::relay_sent(id, from, to, &relay, &reason.text);
                }
                RecipientOutcome::Deferred(reason) => {
                    self.counters.relay_deferred.one();
                    events::relay_deferred(id, from, to, &relay, &reason.text);
                }
                RecipientOutcome::Failed(reason) => {
                    self.counters.relay_bounced.one();
                    events::relay_bounced(id, from, to, &relay, &reason.text);
                }
            }
        }
        self.conclude(&mut locked, to.into_iter().zip(outcomes).collect(), true, takes_dsn)
    }

    /// Opens and locks an entry. Or else what becomes of it.
    fn open(&self, id: &Arc<str>) -> io::Result<Result<LockedEntry, AttemptResult>> {
        let forced = self.items.get(id).is_some_and(|item| item.forced);
        let again = |seconds| {
            Ok(Err(AttemptResult::Waits(Schedule {
                due: now() + seconds,
                watch: i64::MAX,
                forced,
            })))
        };
        let path = self.directory.join(&**id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(AttemptResult::Gone)),
            Err(e) => return Err(e),
        };
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => {}
            // The writer, whose batch is not through yet; or another process of ours.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return again(1),
            Err(e) => return Err(e),
        }
        let stat = file.metadata()?;
        if stat.nlink() == 0 {
            return Ok(Err(AttemptResult::Gone));
        }
        let Some(entry) = QueueEntry::read(&file)? else {
            let old = stat.modified()?.elapsed().is_ok_and(|age| age > LEFT_BEHIND);
            if stat.len() == 0 && old {
                // Made for a message whose record was never written.
                fs::remove_file(&path)?;
                return Ok(Err(AttemptResult::Gone));
            }
            events::queue_entry_incomplete(id, stat.len());
            return again(retry_after(1, 0));
        };
        let state = match self.unsaved.get(id) {
            Some(state) => state.clone(),
            None => EntryState::read(&self.directory, id)?,
        };
        Ok(Ok(LockedEntry { id: id.clone(), file, entry, state }))
    }

    /// The connection there is, or a new one to the first smarthost that can be reached.
    fn connect(&mut self) -> Result<Connection, OutcomeReason> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut why = OutcomeReason::local((4, 3, 5), "no smarthost is given");
        for Smarthost { target, settings } in &self.settings.smarthosts {
            match client::connect(target, settings) {
                Ok(connection) => {
                    if self.down.take().is_some() {
                        events::smarthost_restored(target);
                    }
                    return Ok(connection);
                }
                Err(reason) => {
                    events::smarthost_unreachable(target, &reason.text);
                    why = reason;
                }
            }
        }
        Err(why)
    }

    /// No smarthost can be reached: nothing is tried for a while, but senders are told of the age
    /// that their mail comes to.
    fn rest(&mut self, reason: &OutcomeReason) {
        let tries = self.down.map_or(0, |(tries, _)| tries.saturating_add(1));
        let rest = (FIRST_REST * (1 << tries.min(8))).min(LAST_REST);
        self.down = Some((tries, Instant::now() + rest));
        let now = now();
        let aged: Vec<Arc<str>> =
            self.items.iter().filter(|(_, i)| i.watch <= now).map(|(id, _)| id.clone()).collect();
        for id in aged {
            let next = self.open(&id).and_then(|opened| match opened {
                Ok(mut locked) => {
                    let later = |n| (n, RecipientOutcome::Deferred(reason.clone()));
                    let outcomes = locked.pending().into_iter().map(later).collect();
                    self.conclude(&mut locked, outcomes, false, true)
                }
                Err(next) => Ok(next),
            });
            self.place(&id, next);
        }
    }

    /// Crosses off and reports what is to be by these outcomes, after a try or without one. A
    /// sender who asked to hear of success is told by the server, if that `takes_dsn`.
    fn conclude(
        &mut self,
        locked: &mut LockedEntry,
        outcomes: Vec<(usize, RecipientOutcome)>,
        tried: bool,
        takes_dsn: bool,
    ) -> io::Result<AttemptResult> {
        let age = now().saturating_sub(locked.entry.came);
        let (warn, give_up) =
            (seconds(self.settings.warn_after), seconds(self.settings.give_up_after));
        let before = locked.state.clone();
        let (mut sent, mut later, mut never) = (Vec::new(), Vec::new(), Vec::new());
        for (n, outcome) in outcomes {
            match outcome {
                RecipientOutcome::Accepted(reason) => sent.push((n, reason)),
                // RFC 3463: delivery time expired.
                RecipientOutcome::Deferred(reason) if age >= give_up => {
                    never.push((n, OutcomeReason { status: (5, 4, 7), ..reason }));
                }
                RecipientOutcome::Deferred(reason) => later.push((n, reason)),
                RecipientOutcome::Failed(reason) => never.push((n, reason)),
            }
        }
        if let Some((_, reason)) = later.last().or(never.last()) {
            locked.state.last.clone_from(&reason.text);
        }
        locked.state.gone.extend(sent.iter().map(|(n, _)| *n));
        if !sent.is_empty() && !locked.pending().is_empty() {
            // Whatever becomes of the reports, these do not get it again.
            self.save(locked)?;
        }
        if !takes_dsn {
            self.report(locked, DsnAction::Relayed, &sent);
        }
        if self.report(locked, DsnAction::Failed, &never) {
            locked.state.gone.extend(never.iter().map(|(n, _)| *n));
        }
        if !locked.state.warned && age >= warn && !later.is_empty() {
            let until = zoned(locked.entry.came.saturating_add(give_up));
            locked.state.warned = self.report(locked, DsnAction::Delayed(until), &later);
        }
        if locked.pending().is_empty() {
            EntryState::remove(&self.directory, &locked.id).inspect_err(|_| {
                self.unsaved.insert(locked.id.clone(), locked.state.clone());
            })?;
            return Ok(AttemptResult::Gone);
        }
        if tried {
            locked.state.tries = locked.state.tries.saturating_add(1);
            self.jitter = self.jitter.wrapping_add(1);
            let lot = self.random.hash_one(self.jitter);
            locked.state.next = now().saturating_add(retry_after(locked.state.tries, lot));
        }
        // Not two syncs for each entry there is, just to note why all of them wait.
        let is_moved = (&locked.state.gone, locked.state.warned) != (&before.gone, before.warned);
        if tried || is_moved {
            self.save(locked)?;
        }
        let next_age = if locked.state.warned { give_up } else { warn };
        // What should have been told and was not is not tried over and over.
        let watch = locked.entry.came.saturating_add(next_age).max(now() + 60);
        Ok(AttemptResult::Waits(Schedule { due: locked.state.next, watch, forced: false }))
    }

    /// Makes the state of an entry durable; or, on a disk that is full, remembers it, so that what
    /// was sent is not sent every few minutes.
    fn save(&mut self, locked: &LockedEntry) -> io::Result<()> {
        let written = locked.state.write(&self.directory, &locked.id);
        match &written {
            Ok(()) => self.unsaved.remove(&locked.id),
            Err(_) => self.unsaved.insert(locked.id.clone(), locked.state.clone()),
        };
        written
    }

    /// Tells the sender what became of the message for these recipients, as far as that was asked
    /// for. Whether that is done.
    fn report(
        &mut self,
        locked: &LockedEntry,
        action: DsnAction,
        of: &[(usize, OutcomeReason)],
    ) -> bool {
        let envelope = &locked.entry.envelope;
        let wanted = |recipient: &Recipient<()>| match (&action, recipient.notify) {
            (DsnAction::Relayed | DsnAction::Delivered, notify) => {
                notify.is_some_and(|n| n.success)
            }
            (DsnAction::Failed, notify) => notify.is_none_or(|n| n.failure),
            (DsnAction::Delayed(_), notify) => notify.is_none_or(|n| n.delay),
        };
        let fates: Vec<RecipientStatus<'_>> = of
            .iter()
            .filter_map(|(n, reason)| Some((envelope.to.get(*n)?, reason)))
            .filter(|(recipient, _)| wanted(recipient))
            .map(|(recipient, reason)| RecipientStatus {
                path: &recipient.path,
                original: recipient.original.as_ref(),
                status: reason.status,
                why: Some(reason.text.clone()),
                is_reply: reason.code.is_some(),
            })
            .collect();
        let is_null = envelope.from == ReversePath::Null;
        if fates.is_empty() || is_null && !matches!(action, DsnAction::Failed) {
            return true;
        }
        let (to, way, notify) = match self.way_back(&envelope.from) {
            Ok(found) => found,
            Err(why) => {
                events::dsn_deferred(&locked.id, &envelope.from, why);
                return false;
            }
        };
        let returned = match self.returned(locked, &action) {
            Ok(returned) => returned,
            Err(e) => {
                events::queue_failed(Some(&locked.id), e);
                return false;
            }
        };
        let (id, at) = (trace::message_id(&self.ids.next_session_id(), 1), trace::now());
        let report = DsnMessage {
            hostname: &self.settings.hostname,
            id: &id,
            at: &at,
            came: &zoned(locked.entry.came),
            to: &to,
            action,
            envid: envelope.envid.as_deref(),
            recipients: &fates,
            returned: &returned,
        };
        events::dsn_created(None::<&str>, Some(&locked.id), &id, &to);
        self.counters.dsns.one();
        self.writer(&id, &at, report.content(), way, notify)
    }

    /// To whom a report goes: to the sender; or, if there is none, or one whom nobody knows, to
    /// postmaster. Their address, the way there, and what is told of the report itself: of one to
    /// postmaster nothing, or two hosts that refuse each other's would go on for ever.
    fn way_back(
        &self,
        from: &ReversePath,
    ) -> Result<(String, Resolution, Option<DsnNotify>), String> {
        if let ReversePath::Mailbox(sender) = from {
            match self.route.way(&ForwardPath::Mailbox(sender.clone())) {
                Ok(way) => return Ok((format!("<{sender}>"), way, None)),
                Err(crate::route::Refusal::Later(why)) => return Err(why),
                Err(refusal) => {
                    events::dsn_to_postmaster(format_args!("<{sender}>"), refusal);
                }
            }
        }
        let way =
            self.route.way(&ForwardPath::Postmaster).map_err(|refusal| refusal.to_string())?;
        let never = Some(DsnNotify::default());
        Ok((format!("<postmaster@{}>", self.settings.hostname), way, never))
    }

    /// What of the message is in a report on it (RFC 3461 4.3, 6.2).
    fn returned(&self, locked: &LockedEntry, action: &DsnAction) -> io::Result<ReturnedContent> {
        let whole = locked.entry.envelope.ret == Some(DsnReturn::Full)
            && matches!(action, DsnAction::Failed)
            && locked.entry.octets <= WHOLE_MAX;
        let most = if whole { WHOLE_MAX } else { dsn_message::HEADER_MAX as u64 };
        let octets = locked.entry.begin(&locked.file, most)?;
        Ok(match whole {
            true => ReturnedContent::Whole(octets),
            false => {
                ReturnedContent::Header(dsn_message::header(&Content::Memory(Arc::new(octets)))?)
            }
        })
    }

    /// Delivers a report. Whether it arrived.
    fn writer(
        &mut self,
        id: &str,
        at: &Zoned,
        content: Content,
        way: Resolution,
        notify: Option<DsnNotify>,
    ) -> bool {
        let Some(to) = with_queued(way, notify, id, &content) else { return false };
        let ids: Vec<String> =
            to.iter().filter_map(|to| to.mailbox.queue_id()).map(str::to_owned).collect();
        let head = mbox::head(&ReversePath::Null, at.timestamp().as_second());
        let message = Message { id: id.to_owned(), head, content, to };
        let arrived = self.writer.deliver(message, self.settings.timeout) == Delivery::Delivered;
        if arrived {
            ids.iter().for_each(|id| self.put(id, Schedule::NEW));
        }
        arrived
    }
}

fn zoned(seconds: i64) -> Zoned {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::system())
}

/// No entry waits longer, unless the clock was set back since.
fn latest() -> i64 {
    now().saturating_add(retry_after(u32::MAX, u64::MAX))
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// For how long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(2);
/// How often the folder is looked through for what others put there.
const SCAN_EVERY: Duration = Duration::from_secs(300);
/// The first rest after no smarthost could be reached; it doubles.
const FIRST_REST: Duration = Duration::from_secs(60);
/// The longest rest.
const LAST_REST: Duration = Duration::from_secs(900);
/// The age at which an entry without an octet is taken for left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
/// A message of up to so many octets is returned whole, to whom asked for it.
const WHOLE_MAX: u64 = 256 * 1024;
