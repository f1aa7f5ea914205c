//! A message that came whole: handed to the writer, and what is said of it, counted, logged and
//! reported.
//!
//! One reply for all recipients is all or nothing. By LMTP, and where PRDR asks, each recipient has
//! a reply and its own truth.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use jiff::Zoned;

use super::{SessionContext, first_line, say, terminal_delivery};
use crate::deliver::{DeferReason, Outcome, PendingOutcome, mbox};
use crate::message::trace;
use crate::message::{Destination, MailboxName, Message};
use crate::net::stream::{Disconnect, Stream};
use crate::observe::events::{self, LINES_MAX, MessageFields};
use crate::relay::dsn_message::{self, DsnAction, DsnMessage, RecipientStatus, ReturnedContent};
use crate::relay::queue;
use crate::route::Resolution;
use crate::smtp::{
    Delivery, Envelope, ForwardPath, Mailbox, Recipient, Reply, ReplyMode, ReversePath, reply,
};

/// What is known of a message besides what the writer is given.
pub(super) struct MessageDelivery<'a> {
    pub context: &'a SessionContext,
    /// The session's id.
    pub session: &'a str,
    pub envelope: &'a Envelope<Resolution>,
    /// When it began to come.
    pub at: &'a Zoned,
    /// Its size as sent.
    pub octets: u64,
    /// When its end was read.
    pub dot: Instant,
}

/// What became of a message.
struct DeliveryReplies<'a> {
    /// Who got it.
    delivered: Vec<&'a AcceptedRecipient>,
    /// Whether somebody may get it later.
    later: bool,
    /// The last reply, which was not said yet.
    last: Option<Reply>,
    /// Whether the client could be told. When it could not, everybody else got theirs all the same.
    heard: Result<(), Disconnect>,
}

/// A recipient and where it leads.
type AcceptedRecipient = Recipient<Resolution>;

impl<'a> MessageDelivery<'a> {
    /// Delivers `message` to the recipients of the envelope, and says what became of it as
    /// `answers` asks: all but the last reply, which is returned.
    pub fn deliver(
        &self,
        stream: &mut Stream,
        answers: ReplyMode,
        message: Message,
    ) -> Result<Reply, Disconnect> {
        let id = message.id.clone();
        // For a report, and before the content is gone.
        let asks = self.envelope.to.iter().any(|to| dsn_message::asks(self.envelope, to));
        let header = asks.then(|| dsn_message::header(&message.content).unwrap_or_default());
        let told = match answers {
            ReplyMode::Single => self.deliver_all(message),
            ReplyMode::PerRecipient => self.each(stream, message),
            ReplyMode::Prdr => self.deliver_prdr(stream, message),
        };
        if let Some(header) = header {
            self.report(&id, header, &told.delivered);
        }
        told.heard?;
        Ok(told.last.unwrap_or_else(reply::data_error))
    }

    /// Delivers `message` to all recipients or to none.
    fn deliver_all(&self, mut message: Message) -> DeliveryReplies<'a> {
        let mut told = DeliveryReplies::nothing();
        let octets = message.content.size();
        let Some(queued) = self.queued(&self.envelope.to, &message.id, octets) else {
            told.last = Some(reply::data_error());
            return told;
        };
        message.to.extend(queued.entries.iter().cloned());
        let id = message.id.clone();
        let reply = terminal_delivery::deliver(self.context, self.envelope, self.at, message);
        if reply.is_positive() {
            told.delivered.extend(&self.envelope.to);
            self.note_queued(&queued.entries);
        }
        self.attempt(&id).ended(&self.envelope.to, &queued.recipients, &reply);
        told.last = Some(reply);
        told
    }

    /// The entries of the queue for the recipients on other hosts that these lead to: one for those
    /// whom the sender named, and one for each address here that leads there, so that none is told
    /// of another. None if that cannot be written down.
    fn queued(&self, of: &[AcceptedRecipient], id: &str, octets: u64) -> Option<QueuedMail> {
        let mut seen = HashSet::new();
        let mut copy = |recipient: &AcceptedRecipient, mailbox: &Mailbox| {
            let new = seen.insert(mailbox.to_string());
            new.then(|| Recipient {
                path: recipient.path.clone(),
                destination: mailbox.clone(),
                notify: recipient.notify,
                original: recipient.original.clone(),
            })
        };
        let (named, led): (Vec<&AcceptedRecipient>, Vec<&AcceptedRecipient>) =
            of.iter().partition(|recipient| recipient.destination.is_relay);
        let named: Vec<_> = named
            .iter()
            .flat_map(|recipient| recipient.destination.elsewhere.iter().map(|to| (*recipient, to)))
            .filter_map(|(recipient, to)| copy(recipient, to))
            .collect();
        let mut queued = QueuedMail::default();
        queued.add(&named, queue::destinations(self.envelope, &named, None, id, octets)?);
        for (n, recipient) in led.into_iter().enumerate() {
            let Resolution { elsewhere, owner, .. } = &recipient.destination;
            let mut to: Vec<_> = elsewhere.iter().filter_map(|to| copy(recipient, to)).collect();
            let mut envelope = self.envelope.clone();
            // What nobody sent nobody needs to hear of.
            if let (Some(owner), ReversePath::Mailbox(_)) = (owner, &self.envelope.from) {
                // A list's members are told of to its owner alone (RFC 3461 5.2.7.3).
                to.iter_mut().for_each(|to| (to.notify, to.original) = (None, None));
                (envelope.ret, envelope.envid) = (None, None);
                envelope.from = ReversePath::Mailbox(owner.clone());
            }
            let via = recipient.path.address();
            let id = format!("{id}-via{n}");
            queued.add(&to, queue::destinations(&envelope, &to, Some(&via), &id, octets)?);
        }
        Some(queued)
    }

    /// Tells the queue of its new entries.
    fn note_queued(&self, to: &[Destination]) {
        let Some(relay) = &self.context.settings.relay else { return };
        to.iter().filter_map(|to| to.mailbox.queue_id()).for_each(|id| relay.queue.note(id));
    }

    /// As [`each`](MessageDelivery::each), between 353 and a reply for all.
    fn deliver_prdr(&self, stream: &mut Stream, message: Message) -> DeliveryReplies<'a> {
        let all_delivered = reply::delivered(&message.id);
        let chunked = say(stream, &reply::each_recipient());
        let mut told = self.each(stream, message);
        let all = match told.delivered.len() {
            n if n == self.envelope.to.len() => all_delivered,
            1.. => reply::data_some_accepted(),
            // Who hears 5yz gives up, for those too who may get it later.
            0 if told.later => reply::data_all_deferred(),
            0 => reply::data_all_rejected(),
        };
        let last = told.last.replace(all);
        told.heard = chunked.and(told.heard);
        told.heard = told.heard.and_then(|()| last.map_or(Ok(()), |last| say(stream, &last)));
        told
    }

    /// Delivers `message` to each recipient by itself, and says what became of it as soon as it is
    /// known, all but the last reply.
    ///
    /// All are handed to the writer at once, which may make many durable with one sync. A mailbox
    /// that several recipients lead to gets one copy, and what becomes of it is true for them all.
    fn each(&self, stream: &mut Stream, message: Message) -> DeliveryReplies<'a> {
        let SessionContext { writer, settings, .. } = self.context;
        let Message { id, head, content, .. } = message;
        let mut pending: Vec<PendingOutcome> = Vec::new();
        let mut pending_by_mailbox: HashMap<MailboxName, usize> = HashMap::new();
        let mut ways: Vec<(Vec<Destination>, Vec<QueuedRecipient>)> = Vec::new();
        for (n, recipient) in self.envelope.to.iter().enumerate() {
            let one = std::slice::from_ref(recipient);
            let way = self.queued(one, &format!("{id}-to{n}"), content.size()).map(|queued| {
                let here = recipient.destination.here.iter().cloned();
                (here.chain(queued.entries).collect::<Vec<_>>(), queued.recipients)
            });
            let way = way.unwrap_or_default();
            let mut fresh = way.0.clone();
            ways.push(way);
            fresh.retain(|to| !pending_by_mailbox.contains_key(&to.mailbox));
            if fresh.is_empty() {
                continue;
            }
            for to in &fresh {
                pending_by_mailbox.insert(to.mailbox.clone(), pending.len());
            }
            let (id, head, content) = (id.clone(), head.clone(), content.clone());
            pending.push(
                writer.send(Message { id, head, content, to: fresh }, settings.outcome_timeout),
            );
        }

        let mut pending = pending.into_iter();
        let mut outcomes: Vec<Outcome> = Vec::new();
        let mut told = DeliveryReplies::nothing();
        for (recipient, (to, queued)) in self.envelope.to.iter().zip(ways) {
            if let Some(reply) = told.last.take() {
                told.heard = told.heard.and_then(|()| say(stream, &reply));
            }
            let needed: Vec<usize> =
                to.iter().filter_map(|to| pending_by_mailbox.get(&to.mailbox)).copied().collect();
            while needed.iter().any(|n| *n >= outcomes.len())
                && let Some(parcel) = pending.next()
            {
                if !parcel.is_decided() {
                    told.heard = told.heard.and_then(|()| stream.flush());
                }
                outcomes.push(parcel.outcome());
            }
            let worse = |one, other| if one == Outcome::Delivered { other } else { one };
            let known =
                |n: &usize| outcomes.get(*n).cloned().unwrap_or(Outcome::Later(DeferReason::Io));
            let outcome = needed.iter().map(known).reduce(worse);
            let outcome = outcome.unwrap_or(Outcome::Later(DeferReason::Io));
            if outcome == Outcome::Delivered {
                told.delivered.push(recipient);
                self.note_queued(&to);
            }
            told.later |= matches!(outcome, Outcome::Later(_));
            let reply = outcome_reply(outcome, &id);
            self.attempt(&id).ended(std::slice::from_ref(recipient), &queued, &reply);
            told.last = Some(reply);
        }
        told
    }

    /// Reports the delivery of the message `about` to its sender, if that is one of ours. Nobody
    /// waits for it: what becomes of a report is told to nobody (RFC 3461 6.1).
    fn report(&self, about: &str, header: Vec<u8>, delivered: &[&AcceptedRecipient]) {
        let SessionContext { settings, writer, counters, route, .. } = self.context;
        let (envelope, came) = (self.envelope, self.at);
        let ReversePath::Mailbox(sender) = &envelope.from else { return };
        // Of what is in the queue nobody knows yet whether it will arrive.
        let is_here = |to: &&AcceptedRecipient| to.destination.elsewhere.is_empty();
        let asks = |to: &&AcceptedRecipient| dsn_message::asks(envelope, to);
        let delivered: Vec<&AcceptedRecipient> =
            delivered.iter().copied().filter(is_here).filter(asks).collect();
        if delivered.is_empty() {
            return;
        }
        let to = match route.way(&ForwardPath::Mailbox(sender.clone())) {
            Ok(to) => to,
            Err(refusal) => {
                events::dsn_suppressed(about, &envelope.from, refusal);
                return;
            }
        };
        let id = format!("{about}-r");
        let at = trace::now();
        let told: Vec<RecipientStatus> =
            delivered.into_iter().map(RecipientStatus::delivered).collect();
        let report = DsnMessage {
            hostname: &settings.hostname,
            id: &id,
            at: &at,
            came,
            to: &envelope.from.to_string(),
            action: DsnAction::Delivered,
            envid: envelope.envid.as_deref(),
            recipients: &told,
            returned: &ReturnedContent::Header(header),
        };
        let content = report.content();
        let head = mbox::head(&ReversePath::Null, at.timestamp().as_second());
        events::dsn_created(Some(about), None::<&str>, &id, &envelope.from);
        counters.dsns.one();
        let Some(to) = queue::with_queued(to, None, &id, &content) else { return };
        writer.send(Message { id, head, content, to: to.clone() }, settings.outcome_timeout);
        self.note_queued(&to);
    }

    /// Returns the attempt to deliver the message `id`, for the counters and the log.
    fn attempt<'m>(&'m self, message: &'m str) -> DeliveryAttempt<'m> {
        let MessageDelivery { context, session, envelope, octets, dot, .. } = *self;
        DeliveryAttempt { context, session, message, envelope, octets, dot }
    }
}

impl DeliveryReplies<'_> {
    fn nothing() -> Self {
        DeliveryReplies { delivered: Vec::new(), later: false, last: None, heard: Ok(()) }
    }
}

/// The copies of a message for other hosts: entries of the queue, and the recipients in them.
#[derive(Default)]
struct QueuedMail {
    entries: Vec<Destination>,
    recipients: Vec<QueuedRecipient>,
}

/// A recipient on another host in an entry of the queue.
struct QueuedRecipient {
    /// As the client named it.
    path: ForwardPath,
    to: Mailbox,
    queue_id: String,
}

impl QueuedMail {
    /// Adds the entries that [`queue::destinations`] made for `recipients`.
    fn add(&mut self, recipients: &[Recipient<Mailbox>], entries: Vec<Destination>) {
        for (recipients, entry) in recipients.chunks(queue::RECIPIENTS_MAX).zip(&entries) {
            let queue_id = entry.mailbox.queue_id().unwrap_or_default();
            self.recipients.extend(recipients.iter().map(|recipient| QueuedRecipient {
                path: recipient.path.clone(),
                to: recipient.destination.clone(),
                queue_id: queue_id.to_owned(),
            }));
        }
        self.entries.extend(entries);
    }
}

/// An attempt to deliver a message, which ends in counters and in lines of the log.
pub(super) struct DeliveryAttempt<'a> {
    pub context: &'a SessionContext,
    /// Id of the session.
    pub session: &'a str,
    /// Id of the message.
    pub message: &'a str,
    pub envelope: &'a Envelope<Resolution>,
    /// Size of the message as sent.
    pub octets: u64,
    /// Time at which its end was read.
    pub dot: Instant,
}

impl DeliveryAttempt<'_> {
    /// Counts and logs the outcome for `recipients`, of which `queued` are on other hosts.
    fn ended(&self, recipients: &[AcceptedRecipient], queued: &[QueuedRecipient], reply: &Reply) {
        if !reply.is_positive() {
            return self.failed(recipients, reply);
        }
        let SessionContext { counters, settings, .. } = self.context;
        counters.messages.one();
        counters.octets.add(self.octets);
        let (message, size, ms) = (self.fields(), self.octets, self.milliseconds());
        let here =
            recipients.iter().flat_map(|of| of.destination.here.iter().map(move |to| (of, to)));
        let lines = here.clone().count() + queued.len();
        for (recipient, to) in here.clone().take(LINES_MAX) {
            let orig_to = Some(&recipient.path).filter(|path| path.address() != to.delivered_to);
            let mailbox = settings.mail_dir.join(to.mailbox.as_str());
            let mailbox = match self.envelope.delivery {
                Delivery::Mail | Delivery::SendAndMail => Some(mailbox.display()),
                Delivery::Send | Delivery::SendOrMail => None,
            };
            let to = format_args!("<{}>", to.delivered_to);
            events::delivered(message, to, orig_to, mailbox, self.command(), size, ms);
        }
        for QueuedRecipient { path, to, queue_id } in
            queued.iter().take(LINES_MAX.saturating_sub(here.count()))
        {
            let to = format!("<{to}>");
            let orig_to = Some(path.to_string()).filter(|path| *path != to);
            events::queued(message, to, orig_to, queue_id, size, ms);
        }
        if lines > LINES_MAX {
            events::recipients_omitted(message, lines - LINES_MAX);
        }
    }

    /// Counts and logs that `recipients` do not get the message.
    pub(super) fn failed(&self, recipients: &[AcceptedRecipient], reply: &Reply) {
        let counters = &self.context.counters;
        let (message, size, ms) = (self.fields(), self.octets, self.milliseconds());
        let (command, text) = (self.command(), first_line(reply));
        let is_deferred = reply.code < 500;
        match is_deferred {
            true => counters.messages_deferred.one(),
            false => counters.messages_rejected.one(),
        }
        for Recipient { path, .. } in recipients.iter().take(LINES_MAX) {
            match is_deferred {
                true => events::deferred(message, path, command, size, ms, &text),
                false => events::rejected(message, path, command, size, ms, &text),
            }
        }
        if recipients.len() > LINES_MAX {
            events::recipients_omitted(message, recipients.len() - LINES_MAX);
        }
    }

    fn fields(&self) -> MessageFields<'_> {
        MessageFields { session: self.session, message: self.message, from: &self.envelope.from }
    }

    /// Returns the command of the transaction, unless it is MAIL.
    fn command(&self) -> Option<&'static str> {
        Some(self.envelope.delivery).filter(|d| *d != Delivery::Mail).map(Delivery::verb)
    }

    /// Returns the time since the end of the message was read, and keeps the longest.
    fn milliseconds(&self) -> u64 {
        let ms = u64::try_from(self.dot.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.context.counters.slowest_ms.at_least(ms);
        ms
    }
}

/// What the sender hears after the dot.
pub(super) fn outcome_reply(outcome: Outcome, id: &str) -> Reply {
    match outcome {
        Outcome::Delivered => reply::delivered(id),
        Outcome::Later(DeferReason::Busy | DeferReason::Unusable) => reply::data_mailbox_busy(),
        Outcome::Later(DeferReason::NoSpace) => reply::data_no_room(),
        Outcome::Later(DeferReason::OverQuota) => reply::data_mailbox_filled(),
        Outcome::Later(DeferReason::Stopping) => reply::data_stopping(),
        Outcome::Later(DeferReason::Io | DeferReason::GivenUp) => reply::data_error(),
        Outcome::Never(DeferReason::OverQuota) => reply::data_mailbox_full(),
        Outcome::Never(_) => reply::data_undeliverable(),
    }
}
