//! Delivery of a message that was received whole: the writer's outcome becomes replies, counters, a
//! log line and, where the sender asked for one, a delivery report.
//!
//! A single reply for all recipients means all or nothing. Over LMTP, and with PRDR, there is a
//! separate reply for each recipient, which is true for that recipient alone. Mail of clients on
//! this host that cannot be delivered now is queued (`relay/queue/held.rs`), and the reply is
//! positive.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use jiff::Zoned;

use super::delivery_log::{DeliveryAttempt, QueuedMail, QueuedRecipient};
use super::{SessionConfig, SessionContext, replies, terminal_delivery, write_reply};
use crate::deliver::{DeferReason, Outcome, PendingOutcome, mbox};
use crate::message::trace;
use crate::message::{Destination, DestinationFile, Message};
use crate::net::stream::{Disconnect, Stream};
use crate::observe::events;
use crate::relay::dsn_message::{self, DsnAction, DsnMessage, RecipientStatus, ReturnedContent};
use crate::relay::queue::{self, held};
use crate::resolver::Resolution;
use crate::smtp::{
    Delivery, Envelope, ForwardPath, Mailbox, Recipient, Reply, ReplyMode, ReversePath, reply,
};

/// A message to be delivered, without the content, which the writer gets.
pub(super) struct MessageDelivery<'a> {
    pub context: &'a SessionContext,
    /// The session's id.
    pub session: &'a str,
    pub envelope: &'a Envelope<Resolution>,
    /// The time at which its mail data began.
    pub time: &'a Zoned,
    /// Its size as sent.
    pub octets: u64,
    /// The time at which the end of its mail data was read.
    pub received_at: Instant,
    /// Whether it is queued if it cannot be delivered now.
    pub hold: bool,
}

/// The replies to a message.
struct DeliveryReplies<'a> {
    /// The recipients that the message was delivered to or queued for.
    delivered: Vec<&'a AcceptedRecipient>,
    /// The number of positive replies, over PRDR.
    accepted: usize,
    /// Whether the client may try again for another recipient.
    any_deferred: bool,
    /// The last reply, which has not been written yet.
    last: Option<Reply>,
    /// Whether the replies before it could be written. An error here stops no delivery, because
    /// the other recipients do not depend on the client's connection.
    write_result: Result<(), Disconnect>,
}

/// A recipient and its destinations.
type AcceptedRecipient = Recipient<Resolution>;

impl<'a> MessageDelivery<'a> {
    /// Delivers `message` to the recipients of the envelope. Writes the replies that `mode` asks
    /// for but for the last one, which it returns.
    ///
    /// # Errors
    /// A reply could not be written. The message was delivered all the same.
    pub fn deliver(
        &self,
        stream: &mut Stream,
        mode: ReplyMode,
        message: Message,
    ) -> Result<Reply, Disconnect> {
        let id = message.id.clone();
        // The report quotes the header, and delivery takes the content.
        let wants_report =
            self.envelope.to.iter().any(|to| dsn_message::wants_success_report(self.envelope, to));
        let header =
            wants_report.then(|| dsn_message::read_header(&message.content).unwrap_or_default());
        let replies = match mode {
            ReplyMode::Single => self.deliver_all(message),
            ReplyMode::PerRecipient => self.deliver_each(stream, message),
            ReplyMode::Prdr => self.deliver_prdr(stream, message),
        };
        if let Some(header) = header {
            self.send_success_report(&id, header, &replies.delivered);
        }
        replies.write_result?;
        Ok(replies.last.unwrap_or_else(replies::processing_error))
    }

    /// Delivers `message` to all recipients or to none. Recipients that could not be resolved get
    /// an entry of the queue instead. If the writer defers the message for a mailbox, and it may
    /// wait, it is queued for all recipients of this host. The queue then delivers it to the other
    /// ones at once.
    fn deliver_all(&self, mut message: Message) -> DeliveryReplies<'a> {
        let mut replies = DeliveryReplies::none();
        let octets = message.content.size();
        let all: Vec<&AcceptedRecipient> = self.envelope.to.iter().collect();
        let Some(mut queued) = self.queue_entries(&all, &message.id, octets) else {
            replies.last = Some(replies::processing_error());
            return replies;
        };
        let local = message.to.clone();
        let held = all.iter().filter_map(|to| Some((*to, to.destination.held.clone()?)));
        let held: Vec<_> = held.collect();
        if !held.is_empty() {
            let mut has = queued.addresses();
            has.extend(local.iter().filter_map(|to| Some(to.mailbox()?.name.to_string())));
            if !self.hold_for(held, &has, &message.id, octets, &mut queued) {
                replies.last = Some(replies::processing_error());
                return replies;
            }
        }
        message.to.extend(queued.entries.iter().cloned());
        let id = message.id.clone();
        let again = self.hold.then(|| (message.head.clone(), message.content.clone()));
        let (outcome, reply) = self.deliver_as_commanded(message);
        let attempt = self.attempt(&id);
        if reply.is_positive() {
            replies.delivered.extend(&self.envelope.to);
            // Before the queue works on the entries, so that the log has the lines in their order.
            attempt.record(&self.envelope.to, &queued.recipients, &reply);
            self.notify_queue(&queued.entries);
            replies.last = Some(if queued.is_held() { reply::held(&id) } else { reply });
            return replies;
        }
        if let (Some((head, content)), Some(outcome), false) = (again, outcome, local.is_empty()) {
            // The receipt of a message that was handed over stays one of its destinations.
            let to = local.into_iter().filter(|to| to.mailbox().is_none()).collect();
            let message = Message { id: id.clone(), head, content, to };
            if let Some(queued) = self.hold_all(message, outcome) {
                let reply = reply::held(&id);
                attempt.record(&[], &queued.recipients, &reply);
                self.notify_queue(&queued.entries);
                replies.last = Some(reply);
                return replies;
            }
        }
        attempt.record(&self.envelope.to, &queued.recipients, &reply);
        replies.last = Some(reply);
        replies
    }

    /// Queues `message` for all recipients of this host, because the writer deferred it with
    /// `outcome`, and for those on other hosts. Returns None if it is not queued.
    fn hold_all(&self, mut message: Message, outcome: Outcome) -> Option<QueuedMail> {
        let octets = message.content.size();
        let (local, remote): (Vec<_>, Vec<_>) = self
            .envelope
            .to
            .iter()
            .partition(|to| !to.destination.local.is_empty() || to.destination.held.is_some());
        let mut queued = self.queue_entries(&remote, &message.id, octets)?;
        let reason = replies::first_line(&replies::for_outcome(outcome, &message.id));
        let reason_for =
            |to: &AcceptedRecipient| to.destination.held.clone().unwrap_or(reason.clone());
        let local = local.into_iter().map(|to| (to, reason_for(to))).collect();
        let has = queued.addresses();
        if !self.hold_for(local, &has, &message.id, octets, &mut queued) {
            return None;
        }
        message.to.extend(queued.entries.iter().cloned());
        let SessionContext { writer, config, .. } = self.context;
        if writer.deliver(message, config.outcome_timeout) != Outcome::Delivered {
            return None;
        }
        Some(queued)
    }

    /// Adds the entries for recipients of this host that must wait, each with the reason, to
    /// `queued`. `has` names the mailboxes and addresses that get the message at the same time.
    /// Returns false if an entry cannot be encoded.
    fn hold_for(
        &self,
        to: Vec<(&AcceptedRecipient, String)>,
        has: &[String],
        id: &str,
        octets: u64,
        queued: &mut QueuedMail,
    ) -> bool {
        let entries = held::destinations(self.envelope, &to, has, id, octets);
        entries.map(|entries| queued.add_held(&to, entries)).is_some()
    }

    /// Delivers `message` to mailboxes, terminals or both, by the command that began its
    /// transaction. Returns the writer's outcome after MAIL, and the reply.
    fn deliver_as_commanded(&self, message: Message) -> (Option<Outcome>, Reply) {
        let deliver = match self.envelope.delivery {
            Delivery::Mail => {
                let id = message.id.clone();
                let SessionContext { writer, config, .. } = self.context;
                let outcome = writer.deliver(message, config.outcome_timeout);
                return (Some(outcome), replies::for_outcome(outcome, &id));
            }
            Delivery::Send => terminal_delivery::send,
            Delivery::SendOrMail => terminal_delivery::send_or_mail,
            Delivery::SendAndMail => terminal_delivery::send_and_mail,
        };
        let rendered = terminal_delivery::render(self.envelope, self.time, &message);
        let reply = match rendered {
            Ok(rendered) => deliver(self.context, &rendered, message),
            Err(reply) => reply,
        };
        (None, reply)
    }

    /// Returns the queue entries for the recipients on other hosts that `recipients` lead to, or
    /// None if one cannot be encoded. There is one entry for all that the client named itself, and
    /// one for each address of this host that leads to others, so that recipients do not learn of
    /// each other.
    fn queue_entries(
        &self,
        recipients: &[&AcceptedRecipient],
        id: &str,
        octets: u64,
    ) -> Option<QueuedMail> {
        if recipients.iter().all(|recipient| recipient.destination.remote.is_empty()) {
            return Some(QueuedMail::default());
        }
        let mut seen = HashSet::new();
        // None for a mailbox that has its copy already, through another recipient.
        let mut queued_recipient = |recipient: &AcceptedRecipient, mailbox: &Mailbox| {
            seen.insert(mailbox.to_string()).then(|| recipient.with_destination(mailbox.clone()))
        };
        let (named, local): (Vec<&AcceptedRecipient>, Vec<&AcceptedRecipient>) =
            recipients.iter().partition(|recipient| recipient.destination.is_relay);
        let named: Vec<_> = named
            .iter()
            .flat_map(|recipient| recipient.destination.remote.iter().map(|to| (*recipient, to)))
            .filter_map(|(recipient, to)| queued_recipient(recipient, to))
            .collect();
        let mut queued = QueuedMail::default();
        queued.add(&named, queue::destinations(self.envelope, &named, None, id, octets)?);
        for (n, recipient) in local.into_iter().enumerate() {
            let Resolution { remote, owner, .. } = &recipient.destination;
            let mut to: Vec<_> =
                remote.iter().filter_map(|to| queued_recipient(recipient, to)).collect();
            let via = recipient.path.address();
            let id = format!("{id}-via{n}");
            let owner = owner.as_ref();
            let entries =
                queue::forwarded_destinations(self.envelope, &mut to, owner, &via, &id, octets)?;
            queued.add(&to, entries);
        }
        Some(queued)
    }

    /// Notifies the queue of the entries among `to`.
    fn notify_queue(&self, to: &[Destination]) {
        let SessionConfig { relay, hold, .. } = &self.context.config;
        let Some(queue) = relay.as_ref().map(|relay| &relay.queue).or(hold.as_ref()) else {
            return;
        };
        to.iter().filter_map(Destination::queue_id).for_each(|id| queue.entry_created(id));
    }

    /// Delivers `message` like [`deliver_each`](MessageDelivery::deliver_each), between 353 and a
    /// reply that sums up the others (PRDR).
    fn deliver_prdr(&self, stream: &mut Stream, message: Message) -> DeliveryReplies<'a> {
        let id = message.id.clone();
        let first = write_reply(stream, &reply::each_recipient());
        let mut replies = if self.hold {
            self.deliver_held(stream, message)
        } else {
            self.deliver_each(stream, message)
        };
        replies.write_result = first.and(replies.write_result);
        let (recipients, accepted) = (self.envelope.to.len(), replies.accepted);
        let summary = replies::for_prdr(&id, recipients, accepted, replies.any_deferred);
        if let Some(last) = replies.last.replace(summary) {
            replies.attempt(|| write_reply(stream, &last));
        }
        replies
    }

    /// Delivers `message` like [`deliver_all`](MessageDelivery::deliver_all), and writes the reply
    /// for each recipient, but for the last one. It is the same for all, because what cannot be
    /// delivered now is queued.
    fn deliver_held(&self, stream: &mut Stream, message: Message) -> DeliveryReplies<'a> {
        let mut replies = self.deliver_all(message);
        replies.accepted = match &replies.last {
            Some(reply) if reply.is_positive() => self.envelope.to.len(),
            reply => {
                replies.any_deferred = reply.as_ref().is_some_and(|reply| reply.code < 500);
                0
            }
        };
        if let Some(reply) = replies.last.clone() {
            for _ in self.envelope.to.iter().skip(1) {
                replies.attempt(|| write_reply(stream, &reply));
            }
        }
        replies
    }

    /// Delivers `message` to each recipient on its own. Writes each reply as soon as it is known,
    /// but for the last one.
    fn deliver_each(&self, stream: &mut Stream, message: Message) -> DeliveryReplies<'a> {
        let id = message.id.clone();
        let (destinations, mut pending) = self.send_each(message);
        let mut replies = DeliveryReplies::none();
        for (recipient, to) in self.envelope.to.iter().zip(destinations) {
            // The previous recipient's reply turns out not to be the last.
            if let Some(reply) = replies.last.take() {
                replies.attempt(|| write_reply(stream, &reply));
            }
            // Replies that are known are sent before the session blocks, because the client may
            // act on each of them.
            let (outcome, to) = match to {
                Some(to) => (pending.outcome(&to.all, || replies.attempt(|| stream.flush())), to),
                None => (Outcome::Deferred(DeferReason::Io), RecipientDestinations::default()),
            };
            if outcome == Outcome::Delivered {
                replies.delivered.push(recipient);
                replies.accepted += 1;
                self.notify_queue(&to.all);
            }
            replies.any_deferred |= matches!(outcome, Outcome::Deferred(_));
            let reply = replies::for_outcome(outcome, &id);
            let recipients = std::slice::from_ref(recipient);
            self.attempt(&id).record(recipients, &to.queued, &reply);
            replies.last = Some(reply);
        }
        replies
    }

    /// Sends the writer a message for each recipient, all before the first outcome, so that the
    /// writer can make many durable with one sync. Returns the destinations of each recipient, None
    /// if a queue entry could not be encoded, and the messages that the writer has.
    fn send_each(
        &self,
        message: Message,
    ) -> (Vec<Option<RecipientDestinations>>, PendingDeliveries) {
        let Message { id, head, content, .. } = message;
        let mut pending = Vec::new();
        let mut by_mailbox: HashMap<DestinationFile, usize> = HashMap::new();
        let mut all = Vec::new();
        for (n, recipient) in self.envelope.to.iter().enumerate() {
            let queued = self.queue_entries(&[recipient], &format!("{id}-to{n}"), content.size());
            let Some(queued) = queued else {
                all.push(None);
                continue;
            };
            let here = recipient.destination.local.iter().cloned().map(Destination::Mailbox);
            let destinations: Vec<_> = here.chain(queued.entries).collect();
            // A mailbox that several recipients lead to gets one copy, and its outcome is theirs
            // all.
            let mut unsent = destinations.clone();
            unsent.retain(|to| !by_mailbox.contains_key(&to.file()));
            all.push(Some(RecipientDestinations { all: destinations, queued: queued.recipients }));
            if unsent.is_empty() {
                continue;
            }
            by_mailbox.extend(unsent.iter().map(|to| (to.file(), pending.len())));
            let (id, head, content) = (id.clone(), head.clone(), content.clone());
            let message = Message { id, head, content, to: unsent };
            pending.push(self.context.writer.send(message, self.context.config.outcome_timeout));
        }
        (all, PendingDeliveries { by_mailbox, pending: pending.into_iter(), outcomes: Vec::new() })
    }

    /// Sends a delivery report to the sender of message `about`, if it asked for one and
    /// something was delivered. The session does not wait for its outcome, because a report that
    /// fails is not reported (RFC 3461 6.1).
    fn send_success_report(&self, about: &str, header: Vec<u8>, delivered: &[&AcceptedRecipient]) {
        let SessionContext { config, writer, counters, resolver, .. } = self.context;
        let (envelope, received) = (self.envelope, self.time);
        let ReversePath::Mailbox(sender) = &envelope.from else { return };
        // Whether a queued message arrives is not known yet; the queue reports on it.
        let is_here = |to: &&AcceptedRecipient| {
            to.destination.remote.is_empty() && to.destination.held.is_none()
        };
        let wants_report =
            |to: &&AcceptedRecipient| dsn_message::wants_success_report(envelope, to);
        let delivered: Vec<&AcceptedRecipient> =
            delivered.iter().copied().filter(is_here).filter(wants_report).collect();
        if delivered.is_empty() {
            return;
        }
        let to = match resolver.resolve(&ForwardPath::Mailbox(sender.clone())) {
            Ok(to) => to,
            Err(refusal) => {
                events::dsn_suppressed(about, &envelope.from, refusal);
                return;
            }
        };
        let id = format!("{about}-r");
        let at = trace::now();
        let recipients: Vec<RecipientStatus> =
            delivered.into_iter().map(RecipientStatus::delivered).collect();
        let report = DsnMessage {
            hostname: &config.hostname,
            id: &id,
            date: &at,
            arrived: received,
            to: &envelope.from.to_string(),
            action: DsnAction::Delivered,
            envid: envelope.envid.as_deref(),
            recipients: &recipients,
            returned: &ReturnedContent::Header(header),
        };
        let content = report.content();
        let head = mbox::head(&ReversePath::Null, at.timestamp().as_second());
        events::dsn_created(Some(about), None::<&str>, &id, &envelope.from);
        counters.dsns.one();
        let Some(to) = queue::report_destinations(to, None, &id, &content) else { return };
        writer.send(Message { id, head, content, to: to.clone() }, config.outcome_timeout);
        self.notify_queue(&to);
    }

    fn attempt<'m>(&'m self, message: &'m str) -> DeliveryAttempt<'m> {
        let MessageDelivery { context, session, envelope, octets, received_at, .. } = *self;
        DeliveryAttempt { context, session, message, envelope, octets, received_at }
    }
}

impl DeliveryReplies<'_> {
    fn none() -> Self {
        let write_result = Ok(());
        DeliveryReplies {
            delivered: Vec::new(),
            accepted: 0,
            any_deferred: false,
            last: None,
            write_result,
        }
    }

    /// Writes to the client, unless that has failed before.
    fn attempt(&mut self, write: impl FnOnce() -> Result<(), Disconnect>) {
        if self.write_result.is_ok() {
            self.write_result = write();
        }
    }
}

/// The destinations of one recipient; none if mail for it is thrown away.
#[derive(Default)]
struct RecipientDestinations {
    all: Vec<Destination>,
    /// The recipients in the queue entries among them.
    queued: Vec<QueuedRecipient>,
}

/// Messages that were passed to the writer one after the other.
struct PendingDeliveries {
    /// For each mailbox the index of the message that goes there.
    by_mailbox: HashMap<DestinationFile, usize>,
    pending: std::vec::IntoIter<PendingOutcome>,
    /// The outcomes so far, of the first messages.
    outcomes: Vec<Outcome>,
}

impl PendingDeliveries {
    /// Waits for the messages to these destinations. Returns the first outcome that is not
    /// `Delivered`, if there is one; without destinations `Delivered`. Calls `before_blocking`
    /// before it blocks.
    fn outcome(&mut self, to: &[Destination], mut before_blocking: impl FnMut()) -> Outcome {
        let indexes: Vec<usize> =
            to.iter().filter_map(|to| self.by_mailbox.get(&to.file())).copied().collect();
        while indexes.iter().any(|index| *index >= self.outcomes.len())
            && let Some(next) = self.pending.next()
        {
            if !next.is_ready() {
                before_blocking();
            }
            self.outcomes.push(next.wait());
        }
        let failed = Outcome::Deferred(DeferReason::Io);
        if to.is_empty() {
            return Outcome::Delivered;
        }
        indexes
            .iter()
            .map(|index| self.outcomes.get(*index).copied().unwrap_or(failed))
            .reduce(|one, other| if one == Outcome::Delivered { other } else { one })
            .unwrap_or(failed)
    }
}

impl SessionContext {
    /// Delivers to all mailboxes and queue entries or to none. Returns the reply.
    pub(super) fn deliver_to_mailboxes(&self, message: Message) -> Reply {
        let id = message.id.clone();
        let outcome = self.writer.deliver(message, self.config.outcome_timeout);
        replies::for_outcome(outcome, &id)
    }
}
