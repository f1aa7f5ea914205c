//! Reports to the senders of entries.

use std::io;
use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::QueueRunner;
use super::attempt::LockedEntry;
use super::schedule::Schedule;
use crate::deliver::{Outcome as Delivery, mbox};
use crate::message::trace;
use crate::message::{Content, Message};
use crate::observe::logging::value;
use crate::relay::dsn_message::{self, DsnAction, DsnMessage, RecipientStatus, ReturnedContent};
use crate::relay::queue::report_destinations;
use crate::route::Resolution;
use crate::smtp::dsn::{Notify, Return};
use crate::smtp::sender::FailureReason;
use crate::smtp::{ForwardPath, Recipient, ReversePath};

impl QueueRunner {
    /// Tells the sender what became of the message for these recipients, as far as that was asked
    /// for. Whether that is done.
    pub(super) fn report(
        &mut self,
        locked: &LockedEntry,
        action: DsnAction,
        of: &[(usize, FailureReason)],
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
                let (from, why) = (value(&envelope.from), value(why));
                log::warn!("no-report entry={} to={from} why={why}", locked.id);
                return false;
            }
        };
        let returned = match self.returned(locked, &action) {
            Ok(returned) => returned,
            Err(e) => {
                log::error!("queue-failed entry={} error={}", locked.id, value(e));
                return false;
            }
        };
        let (id, at) = (trace::message_id(&self.ids.session(), 1), trace::now());
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
        log::info!("report entry={} id={id} to={}", locked.id, value(&to));
        self.counters.reports.one();
        self.writer(&id, &at, report.content(), way, notify)
    }

    /// To whom a report goes: to the sender; or, if there is none, or one whom nobody knows, to
    /// postmaster. Their address, the way there, and what is told of the report itself: of one to
    /// postmaster nothing, or two hosts that refuse each other's would go on for ever.
    fn way_back(&self, from: &ReversePath) -> Result<(String, Resolution, Option<Notify>), String> {
        if let ReversePath::Mailbox(sender) = from {
            match self.route.resolve(&ForwardPath::Mailbox(sender.clone())) {
                Ok(way) => return Ok((format!("<{sender}>"), way, None)),
                Err(crate::route::Refusal::LookupFailed(why)) => return Err(why),
                Err(refusal) => {
                    let why = value(&refusal).to_string();
                    log::warn!("report-to-postmaster sender={} why={why}", value(sender));
                }
            }
        }
        let way =
            self.route.resolve(&ForwardPath::Postmaster).map_err(|refusal| refusal.to_string())?;
        let never = Some(Notify::default());
        Ok((format!("<postmaster@{}>", self.settings.hostname), way, never))
    }

    /// What of the message is in a report on it (RFC 3461 4.3, 6.2).
    fn returned(&self, locked: &LockedEntry, action: &DsnAction) -> io::Result<ReturnedContent> {
        let whole = locked.entry.envelope.ret == Some(Return::Full)
            && matches!(action, DsnAction::Failed)
            && locked.entry.octets <= WHOLE_MAX;
        let most = if whole { WHOLE_MAX } else { dsn_message::HEADER_MAX as u64 };
        let octets = locked.entry.begin(&locked.file, most)?;
        Ok(match whole {
            true => ReturnedContent::Whole(octets),
            false => ReturnedContent::Header(dsn_message::read_header(&Content::Memory(
                Arc::new(octets),
            ))?),
        })
    }

    /// Delivers a report. Whether it arrived.
    fn writer(
        &mut self,
        id: &str,
        at: &Zoned,
        content: Content,
        way: Resolution,
        notify: Option<Notify>,
    ) -> bool {
        let Some(to) = report_destinations(way, notify, id, &content) else { return false };
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

pub(super) fn zoned(seconds: i64) -> Zoned {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(TimeZone::system())
}

/// A message of up to so many octets is returned whole, to whom asked for it.
const WHOLE_MAX: u64 = 256 * 1024;
