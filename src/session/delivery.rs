//! A message that came whole: handed to the writer, and what is said of it, counted, logged and
//! reported.
//!
//! One reply for all recipients is all or nothing. By LMTP, and where PRDR asks, each recipient has
//! a reply and its own truth.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Instant;

use jiff::Zoned;

use super::replies::outcome_reply;
use super::{SessionContext, say, shown, terminal_delivery};
use crate::deliver::{DeferReason, Outcome, PendingOutcome, mbox};
use crate::message::trace;
use crate::message::{Destination, MailboxName, Message};
use crate::net::stream::{Disconnect, Stream};
use crate::observe::logging::value;
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
            ReplyMode::Together => self.deliver_all(message),
            ReplyMode::Each => self.each(stream, message),
            ReplyMode::EachAndTogether => self.deliver_prdr(stream, message),
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
        let octets = message.content.octets();
        let Some(queued) = self.queued(&self.envelope.to, &message.id, octets) else {
            told.last = Some(reply::data_error());
            return told;
        };
        message.to.extend(queued);
        let (id, to) = (message.id.clone(), message.to.clone());
        let reply = terminal_delivery::deliver(self.context, self.envelope, self.at, message);
        if reply.is_positive() {
            told.delivered.extend(&self.envelope.to);
            self.note_queued(&to);
        }
        self.note(&id, &to, &reply);
        told.last = Some(reply);
        told
    }

    /// The entries of the queue for the recipients on other hosts that these lead to: one for those
    /// whom the sender named, and one for each address here that leads there, so that none is told
    /// of another. None if that cannot be written down.
    fn queued(&self, of: &[AcceptedRecipient], id: &str, octets: u64) -> Option<Vec<Destination>> {
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
        let mut queued = queue::destinations(self.envelope, &named, None, id, octets)?;
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
            queued.extend(queue::destinations(&envelope, &to, Some(&via), &id, octets)?);
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
            1.. => reply::data_for_some(),
            // Who hears 5yz gives up, for those too who may get it later.
            0 if told.later => reply::data_for_none_yet(),
            0 => reply::data_for_none(),
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
        let mut ways: Vec<Option<Vec<Destination>>> = Vec::new();
        for (n, recipient) in self.envelope.to.iter().enumerate() {
            let one = std::slice::from_ref(recipient);
            let way = self.queued(one, &format!("{id}-to{n}"), content.octets()).map(|queued| {
                recipient.destination.here.iter().cloned().chain(queued).collect::<Vec<_>>()
            });
            let mut fresh = way.clone().unwrap_or_default();
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
        for (recipient, to) in self.envelope.to.iter().zip(ways) {
            if let Some(reply) = told.last.take() {
                told.heard = told.heard.and_then(|()| say(stream, &reply));
            }
            let to = to.unwrap_or_default();
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
            self.note(&id, &to, &reply);
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
                let (sender, why) = (value(sender), value(&refusal));
                log::info!("no-report message={about} to={sender} why={why}");
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
        log::info!("report message={about} id={id} to={}", value(sender));
        counters.reports.one();
        let Some(to) = queue::with_queued(to, None, &id, &content) else { return };
        writer.send(Message { id, head, content, to: to.clone() }, settings.outcome_timeout);
        self.note_queued(&to);
    }

    fn note(&self, id: &str, to: &[Destination], reply: &Reply) {
        let about =
            DeliveryLogFields { session: self.session, message: id, envelope: self.envelope, to };
        self.context.note(&about, reply, self.octets, self.dot);
    }
}

impl DeliveryReplies<'_> {
    fn nothing() -> Self {
        DeliveryReplies { delivered: Vec::new(), later: false, last: None, heard: Ok(()) }
    }
}

impl SessionContext {
    /// Counts and logs what became of a message, or of one recipient's copy of it.
    pub(super) fn note(&self, about: &dyn fmt::Display, reply: &Reply, octets: u64, dot: Instant) {
        let counters = &self.counters;
        let ms = u64::try_from(dot.elapsed().as_millis()).unwrap_or(u64::MAX);
        counters.slowest_ms.at_least(ms);
        match reply.code {
            ..400 => {
                counters.messages.one();
                counters.octets.add(octets);
                log::info!("delivered {about} size={octets} ms={ms}");
            }
            400..500 => {
                counters.messages_later.one();
                log::warn!("later {about} size={octets} ms={ms} reply={}", shown(reply));
            }
            500.. => {
                counters.messages_never.one();
                log::info!("refused {about} size={octets} ms={ms} reply={}", shown(reply));
            }
        }
    }
}

/// What every log line about a message begins with.
pub(super) struct DeliveryLogFields<'a> {
    pub session: &'a str,
    pub message: &'a str,
    pub envelope: &'a Envelope<Resolution>,
    pub to: &'a [Destination],
}

impl fmt::Display for DeliveryLogFields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut to: Vec<&str> = self.to.iter().take(SHOWN).map(|d| d.mailbox.as_str()).collect();
        if self.to.len() > SHOWN {
            to.push("...");
        }
        let (session, message) = (self.session, self.message);
        let (from, to) = (value(&self.envelope.from), value(to.join(",")));
        write!(f, "session={session} message={message} from={from} to={to}")?;
        write!(f, " mailboxes={}", self.to.len())?;
        match self.envelope.delivery {
            Delivery::Mail => Ok(()),
            delivery => write!(f, " by={}", delivery.verb()),
        }
    }
}

/// Mailboxes that a log line names.
const SHOWN: usize = 10;
