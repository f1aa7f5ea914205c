//! One attempt at one entry: sent, its outcomes reported, its state recorded.

use std::hash::BuildHasher;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::locked_entry::{LockedEntry, Unavailable};
use super::schedule::{ScheduledEntry, latest_due};
use super::{Outage, QueueRunner};
use crate::observe::events;
use crate::relay::client::{self, Connection, OutgoingMessage};
use crate::relay::dsn_message::DsnAction;
use crate::relay::queue::state::{EntryState, corrected_arrival, retry_delay, tries_min};
use crate::relay::queue::{EntryKind, OutageReport, Smarthost, held, now, seconds, zoned};
use crate::relay::{SenderMap, from_field};
use crate::smtp::sender::{OutcomeReason, RecipientOutcome};
use crate::smtp::{Mailbox, ReversePath};

/// The state of an entry after an attempt.
enum AttemptResult {
    /// The entry is finished and removed.
    Removed,
    /// The entry stays in the queue.
    Waiting(ScheduledEntry),
    /// The entry was not tried, because no smarthost can be reached.
    Unreachable(OutcomeReason),
}

/// Whether outcomes come from an attempt.
pub(super) enum AttemptMade {
    No,
    /// Made on this host. The recipients at these indexes have the message in their mailboxes.
    Here {
        delivered: Vec<(usize, OutcomeReason)>,
    },
    /// Made, over a server that reports successes itself if it supports DSN.
    Yes {
        supports_dsn: bool,
    },
}

impl QueueRunner {
    /// Tries to send the entry `id`, and schedules or removes it.
    pub(super) fn attempt(&mut self, id: &Arc<str>) {
        let result = self.send(id);
        self.reschedule(id, result);
    }

    fn reschedule(&mut self, id: &Arc<str>, result: io::Result<AttemptResult>) {
        match result {
            Ok(AttemptResult::Removed) => {
                self.unsaved.remove(id);
                self.schedule.remove(id);
            }
            Ok(AttemptResult::Waiting(entry)) => self.schedule.insert(id, entry),
            Ok(AttemptResult::Unreachable(reason)) => self.back_off(&reason),
            Err(e) => {
                events::queue_failed(Some(id), e);
                let due = now() + retry_delay(1, 0);
                let entry = ScheduledEntry { due, report_due: due, forced: true };
                self.schedule.insert(id, entry);
            }
        }
    }

    fn send(&mut self, id: &Arc<str>) -> io::Result<AttemptResult> {
        let mut locked = match self.open(id)? {
            Ok(locked) => locked,
            Err(result) => return Ok(result),
        };
        let retry_at = locked.state.retry_at;
        if !self.schedule.is_forced(id) && retry_at > now() && retry_at <= latest_due() {
            // Another process has tried the entry since it was scheduled.
            let entry = ScheduledEntry { due: retry_at, ..ScheduledEntry::NEW };
            return Ok(AttemptResult::Waiting(entry));
        }
        let pending = locked.pending();
        if pending.is_empty() {
            // A crash came between the last state and the removal of the entry.
            return self.record(&mut locked, Vec::new(), AttemptMade::No);
        }
        if self.kind == EntryKind::Held {
            let (outcomes, delivered) = self.deliver_here(&mut locked, &pending)?;
            return self.record(&mut locked, outcomes, AttemptMade::Here { delivered });
        }
        let mut connection = match self.connect() {
            Ok(connection) => connection,
            Err(reason) => return Ok(AttemptResult::Unreachable(reason)),
        };
        let mut envelope = locked.envelope_for(&pending);
        let senders = self.settings.senders.as_ref();
        let sender = match (senders, &envelope.from) {
            (Some(senders), ReversePath::Mailbox(sender)) => self
                .mapped(senders, sender)
                .map(|mapped| (senders, sender.domain().clone(), mapped)),
            _ => None,
        };
        if let Some((_, _, mapped)) = &sender {
            envelope.from = ReversePath::Mailbox(mapped.clone());
        }
        let content = || -> io::Result<Box<dyn Read + '_>> {
            let content = locked.entry.content(&locked.file)?;
            match &sender {
                Some((senders, domain, _)) if senders.maps_from_field => {
                    let mapped = |old: &Mailbox| self.mapped(senders, old);
                    Ok(Box::new(from_field::replace_address(content, domain, &mapped)?))
                }
                _ => Ok(Box::new(content)),
            }
        };
        let survey = locked.entry.survey(&locked.file)?;
        let outcomes = connection.send(&OutgoingMessage {
            envelope: &envelope,
            size: survey.wire_size(),
            survey: Some(&survey),
            content: &content,
        });
        let relay = connection.address().to_string();
        let attempt = AttemptMade::Yes { supports_dsn: connection.supports_dsn() };
        self.connection = if connection.is_open() { Some(connection) } else { None };
        for (n, outcome) in pending.iter().zip(&outcomes) {
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
        self.record(&mut locked, pending.into_iter().zip(outcomes).collect(), attempt)
    }

    /// Returns the address that `senders` has for `sender`, if that is an address of this host.
    fn mapped(&self, senders: &SenderMap, sender: &Mailbox) -> Option<Mailbox> {
        let mapped = senders.find(sender).filter(|_| self.route.is_local_address(sender));
        mapped.cloned()
    }

    /// Opens and locks the entry `id`, or returns when to try again.
    fn open(&self, id: &Arc<str>) -> io::Result<Result<LockedEntry, AttemptResult>> {
        let retry_in = |seconds| {
            let forced = self.schedule.is_forced(id);
            // The sender's report waits too, because it needs the entry.
            let entry = ScheduledEntry { due: now() + seconds, report_due: i64::MAX, forced };
            Err(AttemptResult::Waiting(entry))
        };
        Ok(self.open_entry(id)?.or_else(|unavailable| match unavailable {
            Unavailable::Removed => Err(AttemptResult::Removed),
            Unavailable::Busy => retry_in(1),
            Unavailable::Incomplete => retry_in(retry_delay(1, 0)),
        }))
    }

    /// Returns the open connection, or a new one to the first smarthost that can be reached.
    fn connect(&mut self) -> Result<Connection, OutcomeReason> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        let mut last = OutcomeReason::local((4, 3, 5), "no smarthost is configured");
        let mut last_address = None;
        for Smarthost { address, settings } in &self.settings.smarthosts {
            match client::connect(address, settings) {
                Ok(connection) => {
                    if self.outage.take().is_some() {
                        events::smarthost_restored(address);
                        self.queue.outage.set(None);
                    }
                    return Ok(connection);
                }
                Err(reason) => {
                    events::smarthost_unreachable(address, &reason.text);
                    last = reason;
                    last_address = Some(address);
                }
            }
        }
        let reason = match last_address {
            Some(address) => format!("{address}: {}", last.text),
            None => last.text.clone(),
        };
        // The time follows when the pause is known.
        self.queue.outage.set(Some(OutageReport { reason, retry_at: now() }));
        Err(last)
    }

    /// Begins or extends the outage, in which no entry is tried. Senders still get reports about
    /// the age of their mail.
    fn back_off(&mut self, reason: &OutcomeReason) {
        let failures = self.outage.map_or(0, |outage| outage.failures.saturating_add(1));
        let pause = (BACK_OFF_MIN * (1 << failures.min(8))).min(BACK_OFF_MAX);
        self.outage = Some(Outage { failures, retry_at: Instant::now() + pause });
        let retry_at = now().saturating_add(seconds(pause));
        self.queue.outage.set(self.queue.outage.get().map(|r| OutageReport { retry_at, ..r }));
        for id in self.schedule.ids_to_report(now()) {
            let result = self.open(&id).and_then(|opened| match opened {
                Ok(mut locked) => {
                    let deferred = |n| (n, RecipientOutcome::Deferred(reason.clone()));
                    let outcomes = locked.pending().into_iter().map(deferred).collect();
                    self.record(&mut locked, outcomes, AttemptMade::No)
                }
                Err(result) => Ok(result),
            });
            self.reschedule(&id, result);
        }
    }

    /// Records the outcomes of recipients, by index, and reports them to the sender. Recipients
    /// that got the message, or that have their failure reported, are finished. The entry is
    /// removed once all are.
    fn record(
        &mut self,
        locked: &mut LockedEntry,
        outcomes: Vec<(usize, RecipientOutcome)>,
        attempt: AttemptMade,
    ) -> io::Result<AttemptResult> {
        let before = locked.state.clone();
        let arrived_at = corrected_arrival(locked.arrived_at(), now());
        if arrived_at != locked.arrived_at() {
            locked.state.arrived_at = Some(arrived_at);
        }
        let age = now().saturating_sub(arrived_at);
        let warn_after = seconds(self.settings.warn_after);
        let give_up_after = seconds(self.settings.give_up_after);
        let is_overdue = age >= give_up_after;
        let attempted = !matches!(attempt, AttemptMade::No);
        // In an outage each probe of a smarthost counts, because nothing else is tried.
        if attempted || is_overdue && !outcomes.is_empty() {
            locked.state.tries = locked.state.tries.saturating_add(1);
        }
        let has_expired = self.clock.is_settled(Instant::now(), now())
            && is_overdue
            && locked.state.tries >= tries_min(give_up_after);
        let (mut sent, mut deferred, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (n, outcome) in outcomes {
            match outcome {
                RecipientOutcome::Accepted(reason) => sent.push((n, reason)),
                RecipientOutcome::Deferred(reason) if has_expired => failed.push((n, reason)),
                RecipientOutcome::Deferred(reason) => deferred.push((n, reason)),
                RecipientOutcome::Failed(reason) => failed.push((n, reason)),
            }
        }
        if let Some((_, reason)) = deferred.last().or(failed.last()) {
            locked.state.last_reply.clone_from(&reason.text);
        }
        locked.state.finished.extend(sent.iter().map(|(n, _)| *n));
        if !sent.is_empty() && !locked.pending().is_empty() {
            // Saved before any report, because these recipients must not get the message again if
            // the process dies meanwhile.
            self.save(locked)?;
        }
        match &attempt {
            AttemptMade::Yes { supports_dsn: false } => {
                self.report(locked, DsnAction::Relayed, &sent);
            }
            AttemptMade::Here { delivered } => {
                self.report(locked, DsnAction::Delivered, delivered);
            }
            AttemptMade::Yes { supports_dsn: true } | AttemptMade::No => {}
        }
        // A failure that cannot be reported leaves the recipient pending, so that the report is
        // tried again.
        if self.report(locked, DsnAction::Failed, &failed) {
            locked.state.finished.extend(failed.iter().map(|(n, _)| *n));
        }
        if !locked.state.warned && age >= warn_after && !deferred.is_empty() {
            let give_up_at = arrived_at.saturating_add(give_up_after);
            let until = zoned(if is_overdue { latest_due() } else { give_up_at });
            locked.state.warned = self.report(locked, DsnAction::Delayed(until), &deferred);
        }
        if locked.pending().is_empty() {
            EntryState::remove(&self.directory, &locked.id).inspect_err(|_| {
                self.unsaved.insert(locked.id.clone(), locked.state.clone());
            })?;
            self.remove_receipts(locked);
            return Ok(AttemptResult::Removed);
        }
        if attempted {
            self.jitter_count = self.jitter_count.wrapping_add(1);
            let jitter = self.random.hash_one(self.jitter_count);
            locked.state.retry_at = now().saturating_add(retry_delay(locked.state.tries, jitter));
        }
        // In an outage only the last reply may have changed. That is not worth two syncs for each
        // entry of the queue.
        let mut after = locked.state.clone();
        after.last_reply.clone_from(&before.last_reply);
        let changed = after != before;
        if attempted || changed {
            self.save(locked)?;
        }
        let report_age = if locked.state.warned { give_up_after } else { warn_after };
        // At least a minute from now, because a report that could not be delivered is overdue.
        let report_due = arrived_at.saturating_add(report_age).max(now() + 60);
        let due = locked.state.retry_at;
        Ok(AttemptResult::Waiting(ScheduledEntry { due, report_due, forced: false }))
    }

    /// Writes the entry's state. If that fails, as on a full disk, the state is kept in memory, so
    /// that a message that was sent is not sent again every few minutes.
    fn save(&mut self, locked: &LockedEntry) -> io::Result<()> {
        let written = locked.state.write(&self.directory, &locked.id);
        match &written {
            Ok(()) => {
                self.unsaved.remove(&locked.id);
                self.remove_receipts(locked);
            }
            Err(_) => drop(self.unsaved.insert(locked.id.clone(), locked.state.clone())),
        }
        written
    }

    /// Removes the receipts that the state on disk, or the removal of the entry, has made needless.
    fn remove_receipts(&self, locked: &LockedEntry) {
        if self.kind == EntryKind::Held {
            let finished = locked.state.finished.iter().copied();
            held::remove_receipts(&self.directory, &locked.id, finished);
        }
    }
}

/// First pause of an outage. Each further one is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_secs(60);
/// Longest pause of an outage.
const BACK_OFF_MAX: Duration = Duration::from_secs(900);
