//! Counters and log lines of a message: one line for each destination that got it, or for each
//! recipient that did not.

use std::time::Instant;

use super::{SessionContext, replies};
use crate::message::Destination;
use crate::observe::events::{self, LINES_MAX, MessageFields};
use crate::relay::queue;
use crate::resolver::Resolution;
use crate::smtp::{Delivery, Envelope, ForwardPath, Mailbox, Recipient, Reply};

/// The copies of a message for other hosts: queue entries, and the recipients in them.
#[derive(Default)]
pub(super) struct QueuedMail {
    pub entries: Vec<Destination>,
    pub recipients: Vec<QueuedRecipient>,
}

/// A recipient in a queue entry.
pub(super) struct QueuedRecipient {
    /// The recipient as the client named it.
    path: ForwardPath,
    /// The address that the entry is for, in angle brackets.
    to: String,
    queue_id: String,
    /// The reason why mail for a recipient of this host waits.
    reason: Option<String>,
}

impl QueuedMail {
    /// Adds the entries that [`queue::destinations`] made for `recipients`.
    pub fn add(&mut self, recipients: &[Recipient<Mailbox>], entries: Vec<Destination>) {
        for (recipients, entry) in recipients.chunks(queue::RECIPIENTS_MAX).zip(&entries) {
            let queue_id = entry.queue_id().unwrap_or_default();
            self.recipients.extend(recipients.iter().map(|recipient| QueuedRecipient {
                path: recipient.path.clone(),
                to: format!("<{}>", recipient.destination),
                queue_id: queue_id.to_owned(),
                reason: None,
            }));
        }
        self.entries.extend(entries);
    }

    /// Adds the entries that [`held::destinations`] made for `recipients`, each with its reason.
    pub fn add_held<D>(
        &mut self,
        recipients: &[(&Recipient<D>, String)],
        entries: Vec<Destination>,
    ) {
        for (recipients, entry) in recipients.chunks(queue::RECIPIENTS_MAX).zip(&entries) {
            let queue_id = entry.queue_id().unwrap_or_default();
            self.recipients.extend(recipients.iter().map(|(recipient, reason)| QueuedRecipient {
                path: recipient.path.clone(),
                to: recipient.path.to_string(),
                queue_id: queue_id.to_owned(),
                reason: Some(reason.clone()),
            }));
        }
        self.entries.extend(entries);
    }

    /// Returns the addresses on other hosts.
    pub fn addresses(&self) -> Vec<String> {
        let bare = |to: &str| to.trim_start_matches('<').trim_end_matches('>').to_owned();
        self.recipients.iter().filter(|to| to.reason.is_none()).map(|to| bare(&to.to)).collect()
    }

    /// True if mail for a recipient of this host waits.
    pub fn is_held(&self) -> bool {
        self.recipients.iter().any(|recipient| recipient.reason.is_some())
    }
}

/// An attempt to deliver a message, which ends in counters and in lines of the log.
pub(super) struct DeliveryAttempt<'a> {
    pub context: &'a SessionContext,
    /// The session's id.
    pub session: &'a str,
    /// The message's id.
    pub message: &'a str,
    pub envelope: &'a Envelope<Resolution>,
    /// The size of the message as sent.
    pub octets: u64,
    /// The time at which the end of its mail data was read.
    pub received_at: Instant,
}

impl DeliveryAttempt<'_> {
    /// Counts and logs the reply to `recipients`, of which `queued` are on other hosts.
    pub fn record(
        &self,
        recipients: &[Recipient<Resolution>],
        queued: &[QueuedRecipient],
        reply: &Reply,
    ) {
        if !reply.is_positive() {
            return self.record_failure(recipients, reply);
        }
        let SessionContext { counters, config, .. } = self.context;
        counters.messages.one();
        counters.octets.add(self.octets);
        let (message, size, ms) = (self.fields(), self.octets, self.milliseconds());
        let here =
            recipients.iter().flat_map(|of| of.destination.local.iter().map(move |to| (of, to)));
        let discarded: Vec<_> = recipients
            .iter()
            .map(|recipient| (recipient, &recipient.destination))
            .filter(|(_, to)| to.local.is_empty() && to.remote.is_empty() && to.held.is_none())
            .map(|(recipient, _)| recipient)
            .collect();
        counters.discarded.add(discarded.len() as u64);
        let lines = here.clone().count() + queued.len() + discarded.len();
        for (recipient, to) in here.clone().take(LINES_MAX) {
            let orig_to = Some(&recipient.path).filter(|path| path.address() != *to.delivered_to);
            let mailbox = match self.envelope.delivery {
                Delivery::Mail | Delivery::SendAndMail => {
                    Some(format_args!("{}/{}", config.mail_dir.display(), to.name))
                }
                Delivery::Send | Delivery::SendOrMail => None,
            };
            let to = format_args!("<{}>", to.delivered_to);
            events::delivered(message, to, orig_to, mailbox, self.command(), size, ms);
        }
        counters.held.add(queued.iter().filter(|to| to.reason.is_some()).count() as u64);
        let rest = LINES_MAX.saturating_sub(here.count());
        for recipient in discarded.iter().take(rest) {
            events::discarded(message, &recipient.path, size, ms);
        }
        for QueuedRecipient { path, to, queue_id, reason } in
            queued.iter().take(rest.saturating_sub(discarded.len()))
        {
            let orig_to = Some(path.to_string()).filter(|path| path != to);
            events::queued(message, to, orig_to, queue_id, size, ms, reason.as_ref());
        }
        if lines > LINES_MAX {
            events::recipients_omitted(message, lines - LINES_MAX);
        }
    }

    /// Counts and logs that `recipients` do not get the message.
    pub fn record_failure(&self, recipients: &[Recipient<Resolution>], reply: &Reply) {
        let counters = &self.context.counters;
        let (message, size, ms) = (self.fields(), self.octets, self.milliseconds());
        let (command, text) = (self.command(), replies::first_line(reply));
        let is_deferred = reply.code < 500;
        if is_deferred {
            counters.messages_deferred.one();
        } else {
            counters.messages_rejected.one();
        }
        for Recipient { path, .. } in recipients.iter().take(LINES_MAX) {
            if is_deferred {
                events::deferred(message, path, command, size, ms, &text);
            } else {
                events::rejected(message, path, command, size, ms, &text);
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
        let ms = u64::try_from(self.received_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.context.counters.slowest_ms.at_least(ms);
        ms
    }
}
