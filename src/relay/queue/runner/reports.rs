//! Reports about an entry, delivered to its sender or to postmaster.

use jiff::Zoned;

use super::QueueRunner;
use super::locked_entry::LockedEntry;
use crate::deliver::{Outcome, mbox};
use crate::message::trace;
use crate::message::{Content, Message};
use crate::observe::events;
use crate::relay::dsn_message::{self, DsnAction, DsnMessage, RecipientStatus, ReturnedContent};
use crate::relay::queue::report_destinations;
use crate::resolver::{AddressResolver, Refusal, Resolution};
use crate::smtp::dsn::{DsnNotify, DsnReturn};
use crate::smtp::sender::OutcomeReason;
use crate::smtp::{ForwardPath, Recipient, ReversePath};

/// The recipient of a report.
pub struct ReportRecipient {
    /// The address in the To field, in angle brackets.
    pub address: String,
    /// The destinations of that address.
    pub resolution: Resolution,
    /// Which reports about the report itself are wanted.
    pub notify: Option<DsnNotify>,
}

impl ReportRecipient {
    /// Returns the sender `from`, or postmaster if there is none, or if mail for the sender is
    /// refused. `hostname` is the name of this host.
    ///
    /// # Errors
    /// The lookup failed now, or mail for postmaster is refused.
    pub fn find(
        resolver: &dyn AddressResolver,
        hostname: &str,
        from: &ReversePath,
    ) -> Result<ReportRecipient, String> {
        if let ReversePath::Mailbox(sender) = from {
            match resolver.resolve(&ForwardPath::Mailbox(sender.clone())) {
                Ok(resolution) => {
                    let address = format!("<{sender}>");
                    return Ok(ReportRecipient { address, resolution, notify: None });
                }
                Err(Refusal::LookupFailed(error)) => return Err(error),
                Err(refusal) => {
                    events::dsn_to_postmaster(format_args!("<{sender}>"), refusal);
                }
            }
        }
        let resolution =
            resolver.resolve(&ForwardPath::Postmaster).map_err(|refusal| refusal.to_string())?;
        let address = format!("<postmaster@{hostname}>");
        // NOTIFY=NEVER, because two hosts that refuse each other's reports to postmaster would
        // otherwise report to each other forever.
        Ok(ReportRecipient { address, resolution, notify: Some(DsnNotify::default()) })
    }
}

impl QueueRunner {
    /// Reports `action` for the recipients at these indexes, as far as NOTIFY asks for it. Returns
    /// false if a report is due and could not be delivered.
    pub(super) fn report(
        &self,
        locked: &LockedEntry,
        action: DsnAction,
        recipients: &[(usize, OutcomeReason)],
    ) -> bool {
        let envelope = &locked.entry.envelope;
        let statuses: Vec<RecipientStatus<'_>> = recipients
            .iter()
            .filter_map(|(n, reason)| Some((envelope.to.get(*n)?, reason)))
            .filter(|(recipient, _)| is_wanted(&action, recipient))
            .map(|(recipient, reason)| RecipientStatus {
                path: &recipient.path,
                original: recipient.original.as_ref(),
                status: match (&action, reason.status) {
                    (DsnAction::Failed, (4, ..)) => dsn_message::EXPIRED,
                    (_, status) => status,
                },
                reason: match action {
                    DsnAction::Delivered => None,
                    _ => Some(reason),
                },
            })
            .collect();
        let is_null = envelope.from == ReversePath::Null;
        if statuses.is_empty() || is_null && !matches!(action, DsnAction::Failed) {
            return true;
        }
        let to = match ReportRecipient::find(&*self.resolver, &self.config.hostname, &envelope.from)
        {
            Ok(to) => to,
            Err(error) => {
                events::dsn_deferred(&locked.id, &envelope.from, error);
                return false;
            }
        };
        let entry = &locked.entry;
        let wants_whole =
            envelope.ret == Some(DsnReturn::Full) && matches!(action, DsnAction::Failed);
        let returned = entry
            .stored(&locked.file)
            .and_then(|content| ReturnedContent::read(content, entry.size, wants_whole));
        let returned = match returned {
            Ok(returned) => returned,
            Err(e) => {
                events::queue_failed(Some(&locked.id), e);
                return false;
            }
        };
        let (id, date) = (trace::message_id(&self.ids.next_session_id(), 1), trace::now());
        let report = DsnMessage {
            hostname: &self.config.hostname,
            id: &id,
            date: &date,
            arrived: &trace::zoned(locked.arrived_at()),
            to: &to.address,
            action,
            envid: envelope.envid.as_deref(),
            recipients: &statuses,
            returned: &returned,
        };
        events::dsn_created(None::<&str>, Some(&locked.id), &id, &to.address);
        self.counters.dsns.one();
        self.deliver_report(&id, &date, report.content(), to)
    }

    /// Delivers a report to mailboxes and into the queue. Returns whether that succeeded.
    fn deliver_report(
        &self,
        id: &str,
        date: &Zoned,
        content: Content,
        to: ReportRecipient,
    ) -> bool {
        let Some(to) = report_destinations(to.resolution, to.notify, id, &content) else {
            return false;
        };
        let queued: Vec<String> =
            to.iter().filter_map(|to| to.queue_id()).map(str::to_owned).collect();
        let head = mbox::head(&ReversePath::Null, date.timestamp().as_second());
        let message = Message { id: id.to_owned(), head, content, to };
        if self.writer.deliver(message, self.config.timeout) != Outcome::Delivered {
            return false;
        }
        queued.iter().for_each(|id| self.entry_created(id));
        true
    }
}

/// True if the NOTIFY parameter of `recipient` asks for a report of `action`. Without one, failure
/// and delay are reported (RFC 3461 4.1).
pub fn is_wanted(action: &DsnAction, recipient: &Recipient<()>) -> bool {
    let notify = recipient.notify;
    match action {
        DsnAction::Relayed | DsnAction::Delivered => notify.is_some_and(|n| n.success),
        DsnAction::Failed => notify.is_none_or(|n| n.failure),
        DsnAction::Delayed(_) => notify.is_none_or(|n| n.delay),
    }
}
