//! Mail data in a session: read from the stream, decoded into content, and passed to
//! [`MessageDelivery`] when it is complete.
//!
//! Mail data with an error is read to its end before it is answered, so that nothing in it can be
//! mistaken for a command.

use std::collections::HashSet;
use std::fmt;
use std::time::Instant;

use jiff::Zoned;

use super::delivery::MessageDelivery;
use super::delivery_log::DeliveryAttempt;
use super::{Session, replies};
use crate::deliver::mbox;
use crate::message::trace::{self, ReceivedField};
use crate::message::{ContentBuilder, ContentError, Destination, Message};
use crate::net::stream::Disconnect;
use crate::observe::events::{self, MessageFields};
use crate::resolver::Resolution;
use crate::smtp::chunk::Chunks;
use crate::smtp::data::{DataEnd, Decoder};
use crate::smtp::receiver::Step;
use crate::smtp::{Delivery, Envelope, Reply};

/// A message with mail data that is being read.
pub(super) struct Incoming {
    id: String,
    time: Zoned,
    to: Vec<Destination>,
    content: ContentBuilder,
    /// The reverse-path, for the log.
    from: String,
    /// The number of recipients, for the log.
    recipients: usize,
}

impl Session<'_> {
    /// Reads the mail data after DATA to its end, and delivers it. Returns the last reply.
    #[inline(never)]
    pub(super) fn data(&mut self) -> Result<Reply, Disconnect> {
        let Some(mut incoming) = self.begin_message() else {
            return Ok(replies::processing_error());
        };
        let mut decoder = Decoder::new(self.context.config.size_max);
        let mut octets = 0;
        self.stream.begin_data();
        let end = loop {
            let input =
                self.stream.read_data().inspect_err(|e| incoming.log_abandoned(self.id, e))?;
            incoming.content.reserve(input.len());
            let (used, end) = decoder.feed(input, &mut |piece| incoming.content.push(piece));
            self.stream.consume(used);
            octets += used as u64;
            if let Some(end) = end {
                break end;
            }
        };
        self.finish_message(incoming, end, octets)
    }

    /// Reads one chunk of mail data, and delivers the message after the last one.
    #[inline(never)]
    pub(super) fn chunk(&mut self, octets: u64, last: bool) -> Result<Step, Disconnect> {
        let chunked = match self.chunked.take() {
            None => self.begin_message().map(|incoming| (incoming, Chunks::new())),
            chunked => chunked,
        };
        let Some((mut incoming, mut chunks)) = chunked else {
            self.skip(octets)?;
            return Ok(self.receiver.finish_chunk(Err(replies::processing_error())));
        };
        chunks.begin_chunk(octets);
        self.stream.begin_data();
        while chunks.remaining() > 0 {
            let input =
                self.stream.read_data().inspect_err(|e| incoming.log_abandoned(self.id, e))?;
            incoming.content.reserve(input.len());
            let used = chunks.feed(input, &mut |piece| incoming.content.push(piece));
            self.stream.consume(used);
        }
        let sum = chunks.octets();
        if last {
            let end = chunks.finish(&mut |piece| incoming.content.push(piece));
            let reply = self.finish_message(incoming, end, sum)?;
            return Ok(self.receiver.finish_data(reply));
        }
        if chunks.end_so_far() == DataEnd::Whole && !incoming.content.has_failed() {
            self.chunked = Some((incoming, chunks));
            return Ok(self.receiver.finish_chunk(Ok(octets)));
        }
        // No further chunk can make this a message, so the reply is sent now.
        let reply = rejection(&incoming.id, chunks.end_so_far(), incoming.content.discard());
        self.record_failure(&incoming.id, &reply, sum, Instant::now());
        Ok(self.receiver.finish_chunk(Err(reply)))
    }

    /// Reads and drops `octets` of mail data.
    pub(super) fn skip(&mut self, octets: u64) -> Result<(), Disconnect> {
        let mut left = octets;
        self.stream.begin_data();
        while left > 0 {
            let available = self.stream.read_data()?.len();
            let used = usize::try_from(left).unwrap_or(usize::MAX).min(available);
            self.stream.consume(used);
            left -= used as u64;
        }
        Ok(())
    }

    /// Begins a message with its Received field. None does not occur, because the receiver takes
    /// mail data only from a client that has sent EHLO and named a recipient.
    fn begin_message(&mut self) -> Option<Incoming> {
        let (envelope, (client, protocol)) =
            self.receiver.envelope().zip(self.receiver.client())?;
        let config = &self.context.config;
        self.messages += 1;
        let id = trace::message_id(self.id, self.messages);
        let time = trace::now();
        let to = destinations(envelope);
        let received = ReceivedField {
            client,
            peer: self.access().peer,
            hostname: &config.hostname,
            protocol,
            tls: self.tls_info.as_deref(),
            id: &id,
            // Several recipients must not learn of each other (RFC 5321 7.2).
            recipient: match envelope.to.as_slice() {
                [only] => Some(&only.path),
                _ => None,
            },
            at: &time,
        };
        let content = ContentBuilder::new(self.context.writer.contents(), &received.to_bytes());
        let (from, recipients) = (envelope.from.to_string(), envelope.to.len());
        Some(Incoming { id, time, to, content, from, recipients })
    }

    /// Counts and logs that no recipient gets the message `id`.
    fn record_failure(&self, id: &str, reply: &Reply, octets: u64, received_at: Instant) {
        if let Some(envelope) = self.receiver.envelope() {
            let (context, session) = (self.context, self.id);
            DeliveryAttempt { context, session, message: id, envelope, octets, received_at }
                .record_failure(&envelope.to, reply);
        }
    }

    /// Delivers the message, or rejects it if its mail data or its content is bad. Writes all
    /// replies but the last one, which it returns.
    fn finish_message(
        &mut self,
        incoming: Incoming,
        end: DataEnd,
        octets: u64,
    ) -> Result<Reply, Disconnect> {
        // The time of a delivery counts from here.
        let received_at = Instant::now();
        let Some(envelope) = self.receiver.envelope() else {
            return Ok(replies::processing_error());
        };
        let Incoming { id, time, to, content, .. } = incoming;
        // Only now is the header known as a whole, with its Delivered-To fields.
        let content = if is_mail_loop(envelope, &content) {
            Err(Some(ContentError::DeliveredLoop))
        } else if end == DataEnd::Whole {
            content.finish().map_err(Some)
        } else {
            Err(content.discard())
        };
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                let reply = rejection(&id, end, error);
                self.record_failure(&id, &reply, octets, received_at);
                // LMTP has one reply for each recipient even to a message without content.
                let mut replies = self.receiver.repeat_per_recipient(reply.clone());
                replies.pop();
                replies.iter().try_for_each(|reply| self.reply(reply))?;
                return Ok(reply);
            }
        };

        let head = mbox::head(&envelope.from, time.timestamp().as_second());
        let mut message = Message { id: id.clone(), head, content, to };
        if let Some(hand_over) = self.receiver.host().hand_over {
            // In all of its destinations or in none, and the receipt is one of them.
            let receipt = hand_over.receipt(envelope, message.content.size());
            let Some(receipt) = receipt.filter(|_| !hand_over.has_refusal()) else {
                return Ok(replies::processing_error());
            };
            message.to.push(receipt);
        }
        let delivery = MessageDelivery {
            context: self.context,
            session: self.id,
            envelope,
            time: &time,
            octets,
            received_at,
            hold: self.access().hold && envelope.delivery == Delivery::Mail,
        };
        let reply = delivery.deliver(self.stream, self.receiver.reply_mode(), message)?;
        // A client that has mail accepted is not harvesting addresses.
        if reply.is_positive() {
            self.receiver.host().recipient_limiter.reset();
        }
        Ok(reply)
    }
}

impl Incoming {
    /// Logs that the rest of the message did not come.
    pub(super) fn log_abandoned(&self, session: &str, error: impl fmt::Display) {
        let message = MessageFields { session, message: &self.id, from: &self.from };
        events::abandoned(message, self.recipients, error);
    }
}

/// Returns the reply to mail data that ended in `end`, or to content with an `error`.
fn rejection(id: &str, end: DataEnd, error: Option<ContentError>) -> Reply {
    // The reply describes the other errors completely.
    if let (DataEnd::Whole, Some(ContentError::Disk(e))) = (end, &error) {
        events::spool_failed(id, e);
    }
    replies::for_data(end, error.as_ref())
}

/// Returns the mailboxes of the recipients, each once even if it is in several aliases.
fn destinations(envelope: &Envelope<Resolution>) -> Vec<Destination> {
    let mut seen = HashSet::new();
    let all = envelope.to.iter().flat_map(|recipient| &recipient.destination.local);
    all.filter(|to| seen.insert(&to.name)).cloned().map(Destination::Mailbox).collect()
}

/// Returns true if the message returns from another host that an address here relays it to: a
/// Delivered-To field names that address.
fn is_mail_loop(envelope: &Envelope<Resolution>, content: &ContentBuilder) -> bool {
    let is_relayed = |to: &Resolution| !to.is_relay && !to.remote.is_empty();
    envelope
        .to
        .iter()
        .filter(|recipient| is_relayed(&recipient.destination))
        .any(|recipient| content.has_delivered_to(&recipient.path.address()))
}
