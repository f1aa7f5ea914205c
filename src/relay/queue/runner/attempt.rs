//! One attempt at one entry: sent, its outcomes reported, its state recorded.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::locked_entry::{LockedEntry, Unavailable};
use super::schedule::{DueEntry, latest_due};
use super::{KeptConnection, QueueRunner};
use crate::message::trace::{unix_time, zoned};
use crate::observe::events;
use crate::relay::client::{Connection, OutgoingMessage};
use crate::relay::dsn_message::DsnAction;
use crate::relay::queue::next_hop::{ConnectError, HopServers, NextHop};
use crate::relay::queue::state::{EntryState, corrected_arrival, retry_delay, tries_min};
use crate::relay::queue::{EntryKind, OutageReport, held, seconds};
use crate::relay::{SenderMap, from_field};
use crate::smtp::sender::{ContentSurvey, OutcomeReason, RecipientOutcome};
use crate::smtp::{Mailbox, ReversePath};

/// The state of an entry after an attempt at one of its next hops.
enum AttemptResult {
    /// The entry is finished and removed.
    Removed,
    /// The recipients at the next hop are finished, or it has none.
    HopFinished,
    /// The entry waits at the next hop.
    Waiting {
        due: i64,
        tries: u32,
        /// Time at which the sender must get a report about the entry's age.
        report_due: i64,
    },
    /// The entry was not tried, and waits at all of its next hops.
    Postponed(i64),
    /// The entry was read, and has these next hops. So many attempts were made.
    HopsFound(Vec<NextHop>, u32),
    /// The entry was not tried, because this server, the last of the next hop, cannot be reached.
    Unreachable { reason: OutcomeReason, server: String },
}

/// Whether outcomes are the result of an attempt.
pub(super) enum AttemptMade {
    No,
    /// Made on this host. The recipients at these indexes have the message in their mailboxes.
    Here {
        delivered: Vec<(usize, OutcomeReason)>,
    },
    /// Made. The servers of the recipients at these indexes report no success, because they do not
    /// support DSN.
    Yes {
        without_dsn: Vec<usize>,
    },
}

impl QueueRunner {
    /// Makes an attempt that was taken from the schedule, and schedules the next one.
    pub(super) fn attempt(self: &Arc<Self>, due: &DueEntry, kept: &mut KeptConnection) {
        let result = self.send(due, kept);
        self.reschedule(due, result);
        self.shared().schedule.end(due, kept.as_ref().map(|(hop, _)| hop));
        self.attempt_ended.notify_all();
    }

    fn reschedule(&self, due: &DueEntry, result: io::Result<AttemptResult>) {
        let DueEntry { id, hop } = due;
        let mut shared = self.shared();
        let schedule = &mut shared.schedule;
        match result {
            Ok(AttemptResult::Removed) => {
                schedule.remove(id);
                shared.unsaved.remove(id);
            }
            Ok(AttemptResult::HopFinished) => schedule.remove_hop(id, hop),
            Ok(AttemptResult::Waiting { due, tries, report_due }) => {
                schedule.set_due(id, hop, due, tries, report_due);
            }
            Ok(AttemptResult::Postponed(due)) => schedule.postpone(id, due),
            Ok(AttemptResult::HopsFound(hops, tries)) => {
                let paused = |hop: &NextHop| Some((hop.clone(), schedule.pause_reason(hop)?));
                let paused: Vec<_> = hops.iter().filter_map(paused).collect();
                schedule.set_hops(id, hops, tries);
                drop(shared);
                for (hop, reason) in paused {
                    self.report_age(id, &hop, &reason);
                }
            }
            Ok(AttemptResult::Unreachable { reason, server }) => {
                drop(shared);
                self.back_off(due, &reason, &server);
            }
            Err(e) => {
                events::queue_failed(Some(id), e);
                schedule.insert(id, unix_time() + retry_delay(1, 0), true);
            }
        }
    }

    fn send(
        self: &Arc<Self>,
        due: &DueEntry,
        kept: &mut KeptConnection,
    ) -> io::Result<AttemptResult> {
        let DueEntry { id, hop } = due;
        let mut locked = match self.open(id)? {
            Ok(locked) => locked,
            Err(result) => return Ok(result),
        };
        let retry_at = locked.state.retry_at;
        if !self.shared().schedule.is_forced(id)
            && retry_at > unix_time()
            && retry_at <= latest_due()
        {
            // Another process has tried the entry since it was scheduled.
            return Ok(AttemptResult::Postponed(retry_at));
        }
        let mut pending = locked.pending();
        if pending.is_empty() {
            // A crash came between the last state and the removal of the entry.
            return self.record(&mut locked, hop, Vec::new(), AttemptMade::No);
        }
        if self.kind == EntryKind::Held {
            let (outcomes, delivered) = self.deliver_here(&mut locked, &pending)?;
            return self.record(&mut locked, hop, outcomes, AttemptMade::Here { delivered });
        }
        if *hop == NextHop::Unknown {
            return Ok(AttemptResult::HopsFound(self.hops_of(&locked), locked.state.tries));
        }
        pending.retain(|n| self.is_at(&locked, *n, hop));
        if pending.is_empty() {
            return Ok(AttemptResult::HopFinished);
        }
        let (connection, servers) = match self.connect(hop, kept) {
            Ok(connected) => connected,
            Err(ConnectError::Unreachable { reason, server }) => {
                return Ok(AttemptResult::Unreachable { reason, server });
            }
            Err(ConnectError::Failed(reason)) => {
                let failed = |_: &usize| RecipientOutcome::Failed(reason.clone());
                let outcomes: Vec<RecipientOutcome> = pending.iter().map(failed).collect();
                // No server was asked.
                self.log_outcomes_at("none", &locked, &pending, &outcomes);
                let outcomes = pending.into_iter().zip(outcomes).collect();
                let attempt = AttemptMade::Yes { without_dsn: Vec::new() };
                return self.record(&mut locked, hop, outcomes, attempt);
            }
        };
        let survey = locked.entry.survey(&locked.file)?;
        let (connection, outcomes, attempt) =
            self.send_to_servers(connection, servers, &mut locked, &survey, hop, pending);
        if connection.is_open() {
            *kept = Some((hop.clone(), connection));
        }
        self.record(&mut locked, hop, outcomes, attempt)
    }

    /// Sends the message over `connection` to the recipients of `hop` at the indexes `pending`, and
    /// what its server defers to the other servers of `hop`: `left`, or all if that is None.
    /// Returns the last connection, and the outcomes of the recipients by index.
    fn send_to_servers<'a>(
        &'a self,
        mut connection: Connection,
        mut left: Option<HopServers<'a>>,
        locked: &mut LockedEntry,
        survey: &ContentSurvey,
        hop: &NextHop,
        mut pending: Vec<usize>,
    ) -> (Connection, Vec<(usize, RecipientOutcome)>, AttemptMade) {
        let (mut all, mut without_dsn) = (Vec::new(), Vec::new());
        loop {
            let outcomes = self.send_over(&mut connection, locked, survey, hop, &pending);
            self.log_outcomes_at(&connection.address().to_string(), locked, &pending, &outcomes);
            all.retain(|(n, _)| !pending.contains(n));
            without_dsn.retain(|n| !pending.contains(n));
            if !connection.supports_dsn() {
                without_dsn.extend(&pending);
            }
            let outcomes: Vec<_> = pending.into_iter().zip(outcomes).collect();
            let is_pending = |outcome: &_| match outcome {
                RecipientOutcome::Deferred(reason) => {
                    reason.code.is_some() || !connection.may_have_accepted()
                }
                _ => false,
            };
            pending = outcomes.iter().filter(|(_, o)| is_pending(o)).map(|(n, _)| *n).collect();
            all.extend(outcomes);
            if pending.is_empty() {
                break;
            }
            let left = left.get_or_insert_with(|| self.config.servers(hop).unwrap_or_default());
            left.remove(connection.address());
            if left.is_empty() || self.save_accepted(locked, &all).is_err() {
                break;
            }
            let Ok(other) = left.connect() else { break };
            std::mem::replace(&mut connection, other).quit();
        }
        all.sort_unstable_by_key(|(n, _)| *n);
        (connection, all, AttemptMade::Yes { without_dsn })
    }

    /// Sends the message to the recipients of the next hop `hop`, at the indexes `pending`.
    /// Returns their outcomes.
    fn send_over(
        &self,
        connection: &mut Connection,
        locked: &LockedEntry,
        survey: &ContentSurvey,
        hop: &NextHop,
        pending: &[usize],
    ) -> Vec<RecipientOutcome> {
        let mut envelope = locked.envelope_for(pending);
        // They are addresses that the smarthosts accept. Another server may require others.
        let senders = self.config.senders.as_ref().filter(|_| *hop == NextHop::Smarthosts);
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
        connection.send(&OutgoingMessage {
            envelope: &envelope,
            size: survey.wire_size(),
            survey: Some(survey),
            content: &content,
        })
    }

    /// Logs and counts the outcomes of the recipients at the indexes `pending`.
    fn log_outcomes_at(
        &self,
        relay: &str,
        locked: &LockedEntry,
        pending: &[usize],
        outcomes: &[RecipientOutcome],
    ) {
        let id = &locked.id;
        for (n, outcome) in pending.iter().zip(outcomes) {
            let Some(recipient) = locked.entry.envelope.to.get(*n) else { continue };
            let (from, to) = (&locked.entry.envelope.from, &recipient.path);
            match outcome {
                RecipientOutcome::Accepted(reason) => {
                    self.counters.relay_sent.one();
                    events::relay_sent(id, from, to, relay, &reason.text);
                }
                RecipientOutcome::Deferred(reason) => {
                    self.counters.relay_deferred.one();
                    events::relay_deferred(id, from, to, relay, &reason.text);
                }
                RecipientOutcome::Failed(reason) => {
                    self.counters.relay_bounced.one();
                    events::relay_bounced(id, from, to, relay, &reason.text);
                }
            }
        }
    }

    /// Returns the next hops of the recipients that are not finished.
    fn hops_of(&self, locked: &LockedEntry) -> Vec<NextHop> {
        let all = locked.envelope_for(&locked.pending()).to;
        let hops: BTreeSet<NextHop> = all.iter().map(|to| self.next_hop(&to.path)).collect();
        hops.into_iter().collect()
    }

    /// True if `hop` is the next hop of the recipient with the index `n`.
    fn is_at(&self, locked: &LockedEntry, n: usize, hop: &NextHop) -> bool {
        locked.entry.envelope.to.get(n).is_some_and(|to| self.next_hop(&to.path) == *hop)
    }

    /// Returns the address that `senders` has for `sender`, if that is an address of this host.
    fn mapped(&self, senders: &SenderMap, sender: &Mailbox) -> Option<Mailbox> {
        let mapped = senders.find(sender).filter(|_| self.resolver.is_local_address(sender));
        mapped.cloned()
    }

    /// Opens and locks the entry `id`, or returns when to try again.
    fn open(&self, id: &Arc<str>) -> io::Result<Result<LockedEntry, AttemptResult>> {
        Ok(self.open_entry(id)?.map_err(|unavailable| match unavailable {
            Unavailable::Removed => AttemptResult::Removed,
            Unavailable::Busy => AttemptResult::Postponed(unix_time() + 1),
            Unavailable::Incomplete => AttemptResult::Postponed(unix_time() + retry_delay(1, 0)),
        }))
    }

    /// Returns the connection that is kept, or a new one with the servers that are left.
    fn connect<'a>(
        self: &'a Arc<Self>,
        hop: &NextHop,
        kept: &mut KeptConnection,
    ) -> Result<(Connection, Option<HopServers<'a>>), ConnectError> {
        if let Some((_, connection)) = kept.take_if(|(to, _)| to == hop) {
            return Ok((connection, None));
        }
        self.close(kept);
        let connected = self.config.servers(hop).and_then(|mut servers| {
            let connection = servers.connect()?;
            Ok((connection, Some(servers)))
        });
        if !matches!(connected, Err(ConnectError::Unreachable { .. })) {
            if self.shared().schedule.set_reachable(hop) {
                self.queue.outages.remove(hop);
                match &connected {
                    Ok((connection, _)) => events::smarthost_restored(connection.address()),
                    // There is an answer that the domain takes no mail.
                    Err(_) => events::smarthost_restored(self.config.domains_of(hop)),
                }
            }
            // More connections are possible now.
            self.start_sender();
        }
        connected
    }

    /// Begins or extends the outage of the next hop, in which no entry is tried there.
    fn back_off(&self, DueEntry { id, hop }: &DueEntry, reason: &OutcomeReason, server: &str) {
        let ids = {
            let mut shared = self.shared();
            let Some(pause) = shared.schedule.back_off(hop, reason.clone()) else { return };
            let retry_at = unix_time().saturating_add(seconds(pause));
            let domains = self.config.domains_of(hop);
            let reason = format!("{server}: {}", reason.text);
            self.queue.outages.insert(hop.clone(), OutageReport { domains, reason, retry_at });
            shared.schedule.ids_to_report(hop, id, unix_time())
        };
        ids.iter().for_each(|id| self.report_age(id, hop, reason));
    }

    /// Reports the age of an entry that is not tried at `hop` because of `reason`, if a report is
    /// due.
    fn report_age(&self, id: &Arc<str>, hop: &NextHop, reason: &OutcomeReason) {
        let result = self.open(id).and_then(|opened| match opened {
            Ok(mut locked) => {
                let mut pending = locked.pending();
                pending.retain(|n| self.is_at(&locked, *n, hop));
                let deferred = |n| (n, RecipientOutcome::Deferred(reason.clone()));
                let outcomes = pending.into_iter().map(deferred).collect();
                self.record(&mut locked, hop, outcomes, AttemptMade::No)
            }
            Err(result) => Ok(result),
        });
        self.reschedule(&DueEntry { id: id.clone(), hop: hop.clone() }, result);
    }

    /// Records the outcomes of recipients, by index, and reports them to the sender. Recipients
    /// that got the message, or that have their failure reported, are finished. The entry is
    /// removed once all are.
    fn record(
        &self,
        locked: &mut LockedEntry,
        hop: &NextHop,
        outcomes: Vec<(usize, RecipientOutcome)>,
        attempt: AttemptMade,
    ) -> io::Result<AttemptResult> {
        let before = locked.state.clone();
        let arrived_at = corrected_arrival(locked.arrived_at(), unix_time());
        if arrived_at != locked.arrived_at() {
            locked.state.arrived_at = Some(arrived_at);
        }
        let age = unix_time().saturating_sub(arrived_at);
        let warn_after = seconds(self.config.warn_after);
        let give_up_after = seconds(self.config.give_up_after);
        let is_overdue = age >= give_up_after;
        let attempted = !matches!(attempt, AttemptMade::No);
        let (mut tries, due_elsewhere, is_settled) = {
            let mut shared = self.shared();
            let tries = shared.schedule.tries(&locked.id, hop).filter(|_| *hop != NextHop::Unknown);
            let due_elsewhere = shared.schedule.due_elsewhere(&locked.id, hop);
            let is_settled = shared.clock.is_settled(Instant::now(), unix_time());
            (tries.unwrap_or(locked.state.tries), due_elsewhere, is_settled)
        };
        // In an outage each probe of a server counts, because nothing else is tried.
        if attempted || is_overdue && !outcomes.is_empty() {
            tries = tries.saturating_add(1);
            locked.state.tries = locked.state.tries.max(tries);
        }
        let has_expired = is_settled && is_overdue && tries >= tries_min(give_up_after);
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
            AttemptMade::Yes { without_dsn } => {
                sent.retain(|(n, _)| without_dsn.contains(n));
                self.report(locked, DsnAction::Relayed, &sent);
            }
            AttemptMade::Here { delivered } => {
                self.report(locked, DsnAction::Delivered, delivered);
            }
            AttemptMade::No => {}
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
                self.shared().unsaved.insert(locked.id.clone(), locked.state.clone());
            })?;
            self.remove_receipts(locked);
            return Ok(AttemptResult::Removed);
        }
        let waits_here = locked.pending().into_iter().any(|n| self.is_at(locked, n, hop));
        let mut due = locked.state.retry_at;
        if attempted {
            let count = self.jitter_count.fetch_add(1, Ordering::Relaxed);
            let jitter = self.random.hash_one(count);
            due = unix_time().saturating_add(retry_delay(tries, jitter));
            // The time in the file is that of the first attempt at any next hop.
            let here = if waits_here { Some(due) } else { None };
            let first = here.into_iter().chain(due_elsewhere).min();
            locked.state.retry_at = first.unwrap_or(due);
        }
        // In an outage only the last reply may have changed. That is not worth two syncs for each
        // entry of the queue.
        let mut after = locked.state.clone();
        after.last_reply.clone_from(&before.last_reply);
        let changed = after != before;
        if attempted || changed {
            self.save(locked)?;
        }
        if !waits_here {
            return Ok(AttemptResult::HopFinished);
        }
        let report_age = if locked.state.warned { give_up_after } else { warn_after };
        // At least a minute from now, because a report that could not be delivered is overdue.
        let report_due = arrived_at.saturating_add(report_age).max(unix_time() + 60);
        Ok(AttemptResult::Waiting { due, tries, report_due })
    }

    /// Records the recipients that a server has accepted, because they must not get the message
    /// again if the process dies while the others are sent to another server.
    fn save_accepted(
        &self,
        locked: &mut LockedEntry,
        outcomes: &[(usize, RecipientOutcome)],
    ) -> io::Result<()> {
        let accepted = outcomes.iter().filter(|(_, o)| matches!(o, RecipientOutcome::Accepted(_)));
        let known = locked.state.finished.len();
        locked.state.finished.extend(accepted.map(|(n, _)| *n));
        if locked.state.finished.len() > known { self.save(locked) } else { Ok(()) }
    }

    /// Writes the entry's state. If that fails, as on a full disk, the state is kept in memory, so
    /// that a message that was sent is not sent again every few minutes.
    fn save(&self, locked: &LockedEntry) -> io::Result<()> {
        let written = locked.state.write(&self.directory, &locked.id);
        match &written {
            Ok(()) => {
                self.shared().unsaved.remove(&locked.id);
                self.remove_receipts(locked);
            }
            Err(_) => drop(self.shared().unsaved.insert(locked.id.clone(), locked.state.clone())),
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
