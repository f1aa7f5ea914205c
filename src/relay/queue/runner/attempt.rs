//! One attempt at one entry: locked, sent, its state recorded.

use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs2::FileExt;

use super::QueueRunner;
use super::reports::zoned;
use super::schedule::{Schedule, latest};
use crate::observe::logging::value;
use crate::relay::client::{self, Connection, OutgoingMessage};
use crate::relay::dsn_message::DsnAction;
use crate::relay::queue::entry::QueueEntry;
use crate::relay::queue::state::{EntryState, retry_after};
use crate::relay::queue::{Smarthost, now};
use crate::smtp::Envelope;
use crate::smtp::sender::{FailureReason, RecipientOutcome};

/// What becomes of an entry.
pub(super) enum AttemptResult {
    /// It is gone.
    Gone,
    /// It waits.
    Waits(Schedule),
    /// No smarthost can be reached.
    Down(FailureReason),
}

/// An entry in hand: open, and locked as long as it is.
pub(super) struct LockedEntry {
    pub id: Arc<str>,
    pub file: File,
    pub entry: QueueEntry,
    pub state: EntryState,
}

impl LockedEntry {
    /// The recipients that are not crossed off.
    pub(super) fn pending(&self) -> Vec<usize> {
        let all = 0..self.entry.envelope.to.len();
        all.filter(|n| !self.state.gone.contains(n)).collect()
    }

    /// The envelope for these recipients.
    pub(super) fn envelope_for(&self, to: &[usize]) -> Envelope<()> {
        let all = &self.entry.envelope;
        let to = to.iter().filter_map(|n| all.to.get(*n)).cloned().collect();
        Envelope { to, ..all.clone() }
    }
}

impl QueueRunner {
    /// Tries one entry.
    pub(super) fn attempt(&mut self, id: &Arc<str>) {
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
                log::error!("queue-failed entry={id} error={}", value(e));
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
        let (relay, supports_dsn) = (connection.target().to_string(), connection.supports_dsn());
        self.connection = Some(connection).filter(Connection::is_open);
        for (n, outcome) in to.iter().zip(&outcomes) {
            let Some(recipient) = locked.entry.envelope.to.get(*n) else { continue };
            let (verb, count, reason) = match outcome {
                RecipientOutcome::Done(reason) => ("sent", &self.counters.sent, reason),
                RecipientOutcome::Later(reason) => ("put-off", &self.counters.put_off, reason),
                RecipientOutcome::Never(reason) => ("returned", &self.counters.returned, reason),
            };
            count.one();
            log::info!(
                "{verb} entry={id} from={} to={} relay={} reply={}",
                value(&locked.entry.envelope.from),
                value(&recipient.path),
                value(&relay),
                value(&reason.text)
            );
        }
        self.conclude(&mut locked, to.into_iter().zip(outcomes).collect(), true, supports_dsn)
    }

    /// Opens and locks an entry. Or else what becomes of it.
    pub(super) fn open(&self, id: &Arc<str>) -> io::Result<Result<LockedEntry, AttemptResult>> {
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
            log::warn!("queue-entry-not-whole entry={id} octets={}", stat.len());
            return again(retry_after(1, 0));
        };
        let state = match self.unsaved.get(id) {
            Some(state) => state.clone(),
            None => EntryState::read(&self.directory, id)?,
        };
        Ok(Ok(LockedEntry { id: id.clone(), file, entry, state }))
    }

    /// The connection there is, or a new one to the first smarthost that can be reached.
    fn connect(&mut self) -> Result<Connection, FailureReason> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut why = FailureReason::own((4, 3, 5), "no smarthost is given");
        for Smarthost { target, settings } in &self.settings.smarthosts {
            match client::connect(target, settings) {
                Ok(connection) => {
                    if self.down.take().is_some() {
                        log::info!("smarthost-back relay={}", value(target));
                    }
                    return Ok(connection);
                }
                Err(reason) => {
                    log::warn!(
                        "smarthost-unreachable relay={} reply={}",
                        value(target),
                        value(&reason.text)
                    );
                    why = reason;
                }
            }
        }
        Err(why)
    }

    /// No smarthost can be reached: nothing is tried for a while, but senders are told of the age
    /// that their mail comes to.
    fn rest(&mut self, reason: &FailureReason) {
        let tries = self.down.map_or(0, |(tries, _)| tries.saturating_add(1));
        let rest = (FIRST_REST * (1 << tries.min(8))).min(LAST_REST);
        self.down = Some((tries, Instant::now() + rest));
        let now = now();
        let aged: Vec<Arc<str>> =
            self.items.iter().filter(|(_, i)| i.watch <= now).map(|(id, _)| id.clone()).collect();
        for id in aged {
            let next = self.open(&id).and_then(|opened| match opened {
                Ok(mut locked) => {
                    let later = |n| (n, RecipientOutcome::Later(reason.clone()));
                    let outcomes = locked.pending().into_iter().map(later).collect();
                    self.conclude(&mut locked, outcomes, false, true)
                }
                Err(next) => Ok(next),
            });
            self.place(&id, next);
        }
    }

    /// Crosses off and reports what is to be by these outcomes, after a try or without one. A
    /// sender who asked to hear of success is told by the server, if that `supports_dsn`.
    fn conclude(
        &mut self,
        locked: &mut LockedEntry,
        outcomes: Vec<(usize, RecipientOutcome)>,
        tried: bool,
        supports_dsn: bool,
    ) -> io::Result<AttemptResult> {
        let age = now().saturating_sub(locked.entry.came);
        let (warn, give_up) =
            (seconds(self.settings.warn_after), seconds(self.settings.give_up_after));
        let before = locked.state.clone();
        let (mut sent, mut later, mut never) = (Vec::new(), Vec::new(), Vec::new());
        for (n, outcome) in outcomes {
            match outcome {
                RecipientOutcome::Done(reason) => sent.push((n, reason)),
                // RFC 3463: delivery time expired.
                RecipientOutcome::Later(reason) if age >= give_up => {
                    never.push((n, FailureReason { status: (5, 4, 7), ..reason }));
                }
                RecipientOutcome::Later(reason) => later.push((n, reason)),
                RecipientOutcome::Never(reason) => never.push((n, reason)),
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
        if !supports_dsn {
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
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// The first rest after no smarthost could be reached; it doubles.
const FIRST_REST: Duration = Duration::from_secs(60);
/// The longest rest.
const LAST_REST: Duration = Duration::from_secs(900);
/// The age at which an entry without an octet is taken for left behind.
const LEFT_BEHIND: Duration = Duration::from_secs(3600);
