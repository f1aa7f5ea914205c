//! A message from the hand-over directory: a session within the process, in which the message comes
//! in as from a program of this host.
//!
//! ```text
//! HandedOverMessage --client--> socket pair --> session --> mailboxes, queue entries, receipt
//!                     outcomes <--
//! ```
//! **Once.** A receipt ([`QueueId::receipt`]) is one more destination of the message. The writer
//! delivers to all destinations or to none, so after a crash the receipt says whether the message
//! was delivered, however far the process came. The order of the steps:
//!
//! | after | killed or power lost here |
//! | --- | --- |
//! | a report about rejected recipients is delivered | it is reported again |
//! | the message and its receipt are durable | the file is removed by the next start |
//! | the file is removed, and its directory synced | the receipt is removed by the next start |
//! | the receipt is removed | nothing to do |
//!
//! **All or none.** If a recipient is refused, no recipient gets the message in that transaction.
//! Recipients that are rejected are reported to the sender first, as for a message in the queue.
//! Then the message is delivered to the others in a new transaction. If a recipient is deferred,
//! the message stays where it is.

use std::fs::File;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::SessionContext;
use crate::deliver::{Outcome, mbox};
use crate::message::peer::Peer;
use crate::message::trace;
use crate::message::{Destination, Message, QUEUE_DIRECTORY, QueueId};
use crate::net::listen::Service;
use crate::net::stream::{Socket, Stream};
use crate::observe::events;
use crate::relay::client::{self, ClientConfig, OutgoingMessage};
use crate::relay::dsn_message::{DsnAction, DsnMessage, RecipientStatus, ReturnedContent};
use crate::relay::hand_over::HandedOverMessage;
use crate::relay::queue::entry::{self, QueueEntry};
use crate::relay::queue::{self, ReportRecipient};
use crate::smtp::dsn::DsnReturn;
use crate::smtp::sender::{OutcomeReason, RecipientOutcome};
use crate::smtp::{Envelope, ForwardPath, Mailbox, Recipient, Reply};

/// Result of taking a message from the hand-over directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandOverResult {
    /// The message is durable in its destinations, or its sender has a report. Its file must be
    /// removed.
    Taken,
    /// The message is in none of its destinations, for this reason. It must be tried again.
    Deferred(String),
}

/// The state of one transaction of a hand-over, which its session and its client share.
#[derive(Debug)]
pub(super) struct HandOverTransaction {
    id: QueueId,
    /// The first recipient. An entry of the queue, and so a receipt, must have one.
    recipient: Recipient<Mailbox>,
    rejected: AtomicBool,
    deferred: AtomicBool,
}

impl HandOverTransaction {
    /// Notes the reply to a recipient that was refused.
    pub(super) fn note_refusal(&self, reply: &Reply) {
        let flag = if reply.code / 100 == 5 { &self.rejected } else { &self.deferred };
        flag.store(true, Ordering::Relaxed);
    }

    /// True if a recipient was refused, so that no recipient gets the message.
    pub(super) fn has_refusal(&self) -> bool {
        self.rejected.load(Ordering::Relaxed) || self.deferred.load(Ordering::Relaxed)
    }

    /// Returns the receipt for a message with `size` bytes of content. Returns None if it cannot be
    /// encoded, which does not occur for addresses that were decoded.
    pub(super) fn receipt<D>(&self, envelope: &Envelope<D>, size: u64) -> Option<Destination> {
        let to = std::slice::from_ref(&self.recipient);
        let arrived_at = trace::now().timestamp().as_second();
        let envelope = entry::encode(envelope, to, None, arrived_at, size)?;
        Some(Destination::Queue { id: self.id.clone(), envelope })
    }
}

/// State of the receipt for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptState {
    /// The message was not delivered.
    Absent,
    /// The message is being delivered by a process, or was when the process was killed. Recovery of
    /// that process's journal decides it.
    Incomplete,
    /// The message was delivered.
    Complete,
}

/// Returns the state of the receipt for the message `name` in `spool`.
///
/// # Errors
/// The receipt cannot be read.
pub fn receipt_state(spool: &Path, name: &str) -> io::Result<ReceiptState> {
    let Some(id) = QueueId::receipt(name) else { return Ok(ReceiptState::Absent) };
    match File::open(spool.join(QUEUE_DIRECTORY).join(id.as_str())) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(ReceiptState::Absent),
        Err(e) => Err(e),
        Ok(file) => match QueueEntry::read(&file)? {
            Some(_) => Ok(ReceiptState::Complete),
            None => Ok(ReceiptState::Incomplete),
        },
    }
}

/// Removes the receipt for the message `name` in `spool`, if there is one.
///
/// # Errors
/// The receipt cannot be removed.
pub fn remove_receipt(spool: &Path, name: &str) -> io::Result<()> {
    let Some(id) = QueueId::receipt(name) else { return Ok(()) };
    match std::fs::remove_file(spool.join(QUEUE_DIRECTORY).join(id.as_str())) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

impl SessionContext {
    /// Delivers a message from the hand-over directory, with its receipt.
    pub fn take_hand_over(&self, message: &HandedOverMessage) -> HandOverResult {
        let mut envelope = message.envelope.with_recipients(message.envelope.to.clone());
        // A transaction without a refusal is the last. Each other one has fewer recipients.
        loop {
            let (outcomes, is_deferred) = match self.offer(message, &envelope) {
                Ok(offered) => offered,
                Err(error) => return HandOverResult::Deferred(error),
            };
            let is_accepted =
                outcomes.iter().any(|outcome| matches!(outcome, RecipientOutcome::Accepted(_)));
            let failed: Vec<(&Recipient<()>, &OutcomeReason)> = envelope
                .to
                .iter()
                .zip(&outcomes)
                .filter(|(_, outcome)| matches!(outcome, RecipientOutcome::Failed(_)))
                .map(|(recipient, outcome)| (recipient, outcome.reason()))
                .collect();
            if !is_accepted && (is_deferred || failed.is_empty()) {
                let reason = outcomes
                    .iter()
                    .find(|outcome| matches!(outcome, RecipientOutcome::Deferred(_)))
                    .map_or_else(|| "no reply".to_owned(), |out| out.reason().text.clone());
                return HandOverResult::Deferred(reason);
            }
            if let Err(error) = self.report_failure(message, &envelope, &failed) {
                if !is_accepted {
                    return HandOverResult::Deferred(error);
                }
                events::hand_over_failed(&message.name, message.uid, error);
            }
            if is_accepted || failed.len() == envelope.to.len() {
                return HandOverResult::Taken;
            }
            let mut failed = outcomes.iter().map(|o| matches!(o, RecipientOutcome::Failed(_)));
            envelope.to.retain(|_| failed.next() == Some(false));
        }
    }

    /// Offers a message for the recipients of `envelope` to a session. Returns their outcomes, and
    /// whether RCPT was deferred for one.
    fn offer(
        &self,
        message: &HandedOverMessage,
        envelope: &Envelope<()>,
    ) -> Result<(Vec<RecipientOutcome>, bool), String> {
        let first = envelope.to.iter().find_map(|recipient| match &recipient.path {
            ForwardPath::Mailbox(mailbox) => {
                Some(Recipient::new(recipient.path.clone(), mailbox.clone()))
            }
            ForwardPath::Postmaster => None,
        });
        let (Some(id), Some(recipient)) = (QueueId::receipt(&message.name), first) else {
            return Err("the message has no recipient".to_owned());
        };
        let (rejected, deferred) = (AtomicBool::new(false), AtomicBool::new(false));
        let transaction = HandOverTransaction { id, recipient, rejected, deferred };
        let (ours, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
        let peer = Peer::HandOver(message.uid);
        let config = &self.config;
        let limits = (config.timeout, config.session_timeout);
        let mut stream = Stream::new(Socket::Unix(theirs), peer, limits.0, limits.1)
            .map_err(|e| e.to_string())?;
        std::thread::scope(|scope| {
            let session = std::thread::Builder::new().name("hand-over-session".into());
            let (context, shared) = (self, &transaction);
            let serve = move || {
                context.serve_for(Service::default(), &mut stream, Some(shared));
                stream.close(false);
            };
            if let Err(e) = session.spawn_scoped(scope, serve) {
                let _ = ours.shutdown(Shutdown::Both);
                return Err(e.to_string());
            }
            let config =
                ClientConfig { hostname: config.hostname.clone(), ..ClientConfig::default() };
            let mut connection =
                client::connect_over(ours, &config).map_err(|reason| reason.to_string())?;
            let content = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(message.content())) };
            // No mailbox is to be changed. The queue converts a message if another server must.
            let (size, survey) = (message.wire_size, None);
            let outgoing = OutgoingMessage { envelope, size, content: &content, survey };
            let outcomes = connection.send(&outgoing);
            connection.quit();
            Ok(outcomes)
        })
        .map(|outcomes| (outcomes, transaction.deferred.load(Ordering::Relaxed)))
    }

    /// Reports to the sender of a message that these recipients will not get it, as far as NOTIFY
    /// asks for it.
    ///
    /// # Errors
    /// The report could not be delivered now.
    fn report_failure(
        &self,
        message: &HandedOverMessage,
        envelope: &Envelope<()>,
        failed: &[(&Recipient<()>, &OutcomeReason)],
    ) -> Result<(), String> {
        let action = DsnAction::Failed;
        // The replies are of this host, so no other server is named.
        let local =
            |reason: &OutcomeReason| OutcomeReason { code: None, server: None, ..reason.clone() };
        let reported: Vec<(&Recipient<()>, OutcomeReason)> = failed
            .iter()
            .filter(|(recipient, _)| queue::is_wanted(&action, recipient))
            .map(|(recipient, reason)| (*recipient, local(reason)))
            .collect();
        let statuses: Vec<RecipientStatus<'_>> = reported
            .iter()
            .map(|(recipient, reason)| RecipientStatus {
                path: &recipient.path,
                original: recipient.original.as_ref(),
                status: reason.status,
                reason: Some(reason),
            })
            .collect();
        for (recipient, reason) in failed {
            let (name, uid, path) = (&message.name, message.uid, &recipient.path);
            events::hand_over_rejected(name, uid, &envelope.from, path, &reason.text);
        }
        if statuses.is_empty() {
            return Ok(());
        }
        let SessionContext { config, writer, counters, resolver, .. } = self;
        let to = ReportRecipient::find(&**resolver, &config.hostname, &envelope.from)?;
        let returned = ReturnedContent::read(
            message.content(),
            message.content_size(),
            envelope.ret == Some(DsnReturn::Full),
        )
        .map_err(|e| e.to_string())?;
        let (id, date) = (trace::message_id(&self.ids.next_session_id(), 1), trace::now());
        let report = DsnMessage {
            hostname: &config.hostname,
            id: &id,
            date: &date,
            arrived: &trace::zoned(message.left_at),
            to: &to.address,
            action,
            envid: envelope.envid.as_deref(),
            recipients: &statuses,
            returned: &returned,
        };
        events::dsn_created(None::<&str>, None::<&str>, &id, &to.address);
        counters.dsns.one();
        let content = report.content();
        let to = queue::report_destinations(to.resolution, to.notify, &id, &content);
        let to = to.ok_or("the report cannot be encoded")?;
        let head = mbox::head(&crate::smtp::ReversePath::Null, date.timestamp().as_second());
        let queued: Vec<Destination> = to.clone();
        let outcome = writer.deliver(Message { id, head, content, to }, config.outcome_timeout);
        if outcome != Outcome::Delivered {
            return Err("the report about rejected recipients cannot be delivered".to_owned());
        }
        if let Some(relay) = &config.relay {
            queued.iter().filter_map(Destination::queue_id).for_each(|id| {
                relay.queue.entry_created(id);
            });
        }
        Ok(())
    }
}
