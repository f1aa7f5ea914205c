//! Held mail (`held.rs`), delivered to the mailboxes of this host.
//!
//! Recipients with the same mailbox get one copy, as one message to the writer. All messages of an
//! entry are sent to the writer before the first outcome, because one sync is then enough.

use std::io;
use std::time::{Duration, Instant};

use super::QueueRunner;
use super::locked_entry::LockedEntry;
use crate::deliver::{DeferReason, Outcome, mbox};
use crate::message::{Content, Destination, Message, UserMailbox};
use crate::observe::events;
use crate::relay::queue::{destinations, forwarded_destinations, held};
use crate::resolver::Resolution;
use crate::smtp::sender::{OutcomeReason, RecipientOutcome};
use crate::smtp::{Mailbox, Recipient};

/// Recipients with common mailboxes, and the destinations of all of them.
#[derive(Default)]
struct CommonCopy {
    /// Indexes of the recipients.
    recipients: Vec<usize>,
    local: Vec<UserMailbox>,
    /// Recipients on other hosts, to which an alias leads now.
    forwards: Vec<ForwardedCopy>,
    /// Names of mailboxes and addresses on other hosts.
    names: Vec<String>,
    /// True if all mailboxes are on this host.
    is_here: bool,
}

/// Recipients on other hosts to which the recipient `n` leads.
struct ForwardedCopy {
    n: usize,
    via: String,
    to: Vec<Recipient<Mailbox>>,
    owner: Option<Mailbox>,
    is_relay: bool,
}

/// Outcomes of recipients by index.
type Outcomes = Vec<(usize, RecipientOutcome)>;

impl QueueRunner {
    /// Delivers the entry to its recipients at the indexes `pending`. Returns their outcomes, and
    /// the recipients that have the message in mailboxes of this host.
    ///
    /// # Errors
    /// The entry cannot be read.
    pub(super) fn deliver_here(
        &self,
        locked: &mut LockedEntry,
        pending: &[usize],
    ) -> io::Result<(Outcomes, Vec<(usize, OutcomeReason)>)> {
        let (copies, mut outcomes) = self.resolve_pending(locked, pending);
        self.shared().locked_mailboxes.retain(|_, since| since.elapsed() < LOCKED_PAUSE);
        let mut delivered = Vec::new();
        let mut sent = Vec::new();
        let mut content: Option<Content> = None;
        for copy in copies {
            let outcome = match self.known_outcome(&copy) {
                Some(outcome) => outcome,
                None => {
                    let content = match &content {
                        Some(content) => content.clone(),
                        None => {
                            let contents = self.writer.contents();
                            let read = locked.entry.stored_content(&locked.file, contents)?;
                            content.insert(read).clone()
                        }
                    };
                    match message(locked, content, &copy) {
                        Some(message) => {
                            let queued: Vec<String> = message
                                .to
                                .iter()
                                .filter_map(Destination::queue_id)
                                .filter(|id| held::entry_of_receipt(id).is_none())
                                .map(str::to_owned)
                                .collect();
                            let pending = self.writer.send(message, self.config.timeout);
                            sent.push((copy, queued, pending));
                            continue;
                        }
                        None => Outcome::Deferred(DeferReason::Io),
                    }
                }
            };
            self.add_outcome(locked, &copy, outcome, &mut outcomes, &mut delivered);
        }
        for (copy, queued, pending) in sent {
            let outcome = pending.wait();
            if outcome == Outcome::Delivered {
                queued.iter().for_each(|id| self.entry_created(id));
            }
            self.add_outcome(locked, &copy, outcome, &mut outcomes, &mut delivered);
        }
        outcomes.sort_unstable_by_key(|(n, _)| *n);
        self.log_outcomes(locked, &outcomes);
        Ok((outcomes, delivered))
    }

    /// Resolves the recipients at the indexes `pending`. Returns the copies to be delivered, and
    /// the outcomes of recipients that are refused.
    fn resolve_pending(
        &self,
        locked: &LockedEntry,
        pending: &[usize],
    ) -> (Vec<CommonCopy>, Outcomes) {
        let (mut copies, mut outcomes) = (Vec::<CommonCopy>::new(), Vec::new());
        for n in pending {
            let Some(recipient) = locked.entry.envelope.to.get(*n) else { continue };
            let mut new = match self.resolver.resolve(&recipient.path) {
                Ok(resolution) => new_copy(locked, *n, recipient, resolution),
                Err(refusal) => {
                    let reason = OutcomeReason::local(refusal.status(), &refusal.to_string());
                    outcomes.push((
                        *n,
                        match refusal.status() {
                            (4, ..) => RecipientOutcome::Deferred(reason),
                            _ => RecipientOutcome::Failed(reason),
                        },
                    ));
                    continue;
                }
            };
            // A copy that shares a mailbox with the new one is merged into it.
            let shares = |copy: &mut CommonCopy| copy.names.iter().any(|n| new.names.contains(n));
            let common: Vec<CommonCopy> = copies.extract_if(.., shares).collect();
            common.into_iter().for_each(|copy| new.merge(copy));
            copies.push(new);
        }
        (copies, outcomes)
    }

    /// Returns the outcome of a copy that need not be sent to the writer: no mailbox is left, or
    /// one cannot take mail now.
    fn known_outcome(&self, copy: &CommonCopy) -> Option<Outcome> {
        if copy.names.is_empty() {
            return Some(Outcome::Delivered);
        }
        let is_locked = |name: &_| self.shared().locked_mailboxes.contains_key(name);
        if copy.local.iter().any(|mailbox| is_locked(&mailbox.name)) {
            return Some(Outcome::Deferred(DeferReason::Locked));
        }
        copy.local.iter().find_map(|to| self.writer.precheck(to).err()).map(|e| e.outcome())
    }

    /// Adds the outcome of a copy to those of its recipients.
    fn add_outcome(
        &self,
        locked: &mut LockedEntry,
        copy: &CommonCopy,
        outcome: Outcome,
        outcomes: &mut Outcomes,
        delivered: &mut Vec<(usize, OutcomeReason)>,
    ) {
        let reason = held::outcome_reason(outcome);
        let result = match outcome {
            Outcome::Delivered => {
                locked.state.has.extend(copy.names.iter().cloned());
                if copy.is_here {
                    delivered.extend(copy.recipients.iter().map(|n| (*n, reason.clone())));
                }
                RecipientOutcome::Accepted(reason)
            }
            Outcome::Deferred(DeferReason::Locked) => {
                let names = copy.local.iter().map(|mailbox| mailbox.name.clone());
                self.shared().locked_mailboxes.extend(names.map(|name| (name, Instant::now())));
                RecipientOutcome::Deferred(reason)
            }
            Outcome::Deferred(_) | Outcome::OverQuota => RecipientOutcome::Deferred(reason),
        };
        outcomes.extend(copy.recipients.iter().map(|n| (*n, result.clone())));
    }

    fn log_outcomes(&self, locked: &LockedEntry, outcomes: &Outcomes) {
        let (id, envelope) = (&locked.id, &locked.entry.envelope);
        for (n, outcome) in outcomes {
            let Some(to) = envelope.to.get(*n).map(|recipient| &recipient.path) else { continue };
            match outcome {
                RecipientOutcome::Accepted(_) => {
                    self.counters.held_delivered.one();
                    events::held_delivered(id, &envelope.from, to);
                }
                RecipientOutcome::Deferred(reason) => {
                    self.counters.held_deferred.one();
                    events::held_deferred(id, &envelope.from, to, &reason.text);
                }
                RecipientOutcome::Failed(reason) => {
                    self.counters.held_bounced.one();
                    events::held_bounced(id, &envelope.from, to, &reason.text);
                }
            }
        }
    }
}

impl CommonCopy {
    fn merge(&mut self, other: CommonCopy) {
        let known = |names: &[String], name: &str| names.iter().any(|n| n == name);
        let new: Vec<UserMailbox> =
            other.local.into_iter().filter(|m| !known(&self.names, m.name.as_str())).collect();
        self.local.extend(new);
        for mut forward in other.forwards {
            forward.to.retain(|to| !known(&self.names, &to.destination.to_string()));
            self.forwards.push(forward);
        }
        self.recipients.extend(other.recipients);
        self.recipients.sort_unstable();
        self.names.extend(other.names);
        self.names.sort_unstable();
        self.names.dedup();
        self.is_here &= other.is_here;
    }
}

/// Returns the copy for recipient `n`, without the mailboxes that have the message already.
fn new_copy(
    locked: &LockedEntry,
    n: usize,
    recipient: &Recipient<()>,
    resolution: Resolution,
) -> CommonCopy {
    let (entry, state) = (&locked.entry, &locked.state);
    let has = |name: &str| entry.held.has.iter().any(|h| h == name) || state.has.contains(name);
    let Resolution { mut local, mut remote, is_relay, owner, .. } = resolution;
    let is_here = remote.is_empty();
    local.retain(|mailbox| !has(mailbox.name.as_str()));
    remote.retain(|mailbox| !has(&mailbox.to_string()));
    let mut names: Vec<String> = local.iter().map(|mailbox| mailbox.name.to_string()).collect();
    names.extend(remote.iter().map(Mailbox::to_string));
    let to: Vec<Recipient<Mailbox>> =
        remote.into_iter().map(|mailbox| recipient.with_destination(mailbox)).collect();
    let forward = ForwardedCopy { n, via: recipient.path.address(), to, owner, is_relay };
    CommonCopy { recipients: vec![n], local, forwards: vec![forward], names, is_here }
}

/// Returns the message for the writer: the copy, and the receipt for its recipients. Returns None
/// if an entry for another host cannot be encoded.
fn message(locked: &LockedEntry, content: Content, copy: &CommonCopy) -> Option<Message> {
    let entry = &locked.entry;
    let receipt = held::receipt(&locked.id, entry, &copy.recipients, &copy.names)?;
    let mut to: Vec<Destination> = copy.local.iter().cloned().map(Destination::Mailbox).collect();
    for ForwardedCopy { n, via, to: addresses, owner, is_relay } in &copy.forwards {
        let (id, mut addresses) = (format!("{}-via{n}", locked.id), addresses.clone());
        let (envelope, size) = (&entry.envelope, entry.size);
        to.extend(if *is_relay {
            destinations(envelope, &addresses, None, &id, size)?
        } else {
            forwarded_destinations(envelope, &mut addresses, owner.as_ref(), via, &id, size)?
        });
    }
    to.push(receipt);
    let head = mbox::head(&entry.envelope.from, entry.arrived_at);
    Some(Message { id: locked.id.to_string(), head, content, to })
}

/// Time for which a mailbox that was locked is not tried again, because the writer waits for each
/// message until its lock timeout.
const LOCKED_PAUSE: Duration = Duration::from_secs(60);
