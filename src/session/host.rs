//! The session as the host of its receiver: answers the receiver's questions about senders,
//! recipients and users from the resolver, the disk and the counters.

use super::access::Access;
use super::hand_over::HandOverTransaction;
use super::recipient_limiter::RecipientLimiter;
use super::replies::{self, RefusedCommand};
use super::{SessionConfig, SessionContext};
use crate::observe::events;
use crate::resolver::{Refusal, Resolution};
use crate::smtp::EtrnNode;
use crate::smtp::receiver::Host;
use crate::smtp::{Delivery, ForwardPath, Mailbox, Reply, ReversePath, reply};

/// The host of one session's receiver.
pub(super) struct SessionHost<'a> {
    pub context: &'a SessionContext,
    pub session: &'a str,
    pub access: Access,
    pub recipient_limiter: RecipientLimiter,
    /// The hand-over that the session is for, if it is.
    pub hand_over: Option<&'a HandOverTransaction>,
}

impl SessionHost<'_> {
    /// Returns the destinations of mail for `to` from this client, or the reply that rejects it.
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Reply> {
        let resolution = match self.context.resolver.resolve(to) {
            Ok(resolution) if resolution.is_relay && !self.access.relay => Err(Refusal::NotLocal),
            result => result,
        };
        resolution.map_err(|refusal| self.refuse(&refusal, &RefusedCommand::Rcpt(to)))
    }

    fn refuse(&self, refusal: &Refusal, command: &RefusedCommand<'_>) -> Reply {
        if let Refusal::LookupFailed(why)
        | Refusal::Misconfigured(why)
        | Refusal::Unsupported(why) = refusal
        {
            events::lookup_failed(self.session, command, why);
        }
        let SessionConfig { relay, hostname, .. } = &self.context.config;
        let reply = replies::for_refusal(refusal, command, &self.access, relay.is_some());
        // Only these two say that a name does not exist; the others are this host's fault or ask
        // the client to choose.
        if matches!(reply.code, 550 | 553) && self.recipient_limiter.count_rejected() {
            return replies::too_many_unknown(hostname);
        }
        reply
    }

    /// Checks that the mailboxes of `resolution` can take mail now, so that the client need not
    /// send a message that would be deferred.
    ///
    /// # Errors
    /// The reply, if one cannot.
    fn precheck(&self, resolution: &Resolution, to: &ForwardPath) -> Result<(), Reply> {
        for destination in &resolution.local {
            self.context
                .writer
                .precheck(destination)
                .map_err(|error| replies::for_precheck(error.outcome(), to))?;
        }
        Ok(())
    }
}

impl Host for SessionHost<'_> {
    type Destination = Resolution;

    fn check_mail(&self, from: &ReversePath, size: Option<u64>) -> Result<(), Reply> {
        let SessionContext { spool_space, mail_space, .. } = self.context;
        let needed = size.unwrap_or(0).saturating_add(ROOM_MIN);
        // A message for a full disk of mailboxes can wait in the spool.
        if spool_space.take(needed) && (self.access.hold || mail_space.take(needed)) {
            Ok(())
        } else {
            events::no_room(self.session, self.access.peer, from, size.unwrap_or(0));
            Err(reply::no_room())
        }
    }

    fn resolve_recipient(&self, to: &ForwardPath, delivery: Delivery) -> Result<Resolution, Reply> {
        let counters = &self.context.counters;
        let accepted = self.resolve(to).and_then(|resolution| {
            let needs_mailbox = match delivery {
                Delivery::Send => false,
                Delivery::SendOrMail => !self.is_active(&resolution),
                Delivery::Mail | Delivery::SendAndMail => true,
            };
            if needs_mailbox {
                self.precheck(&resolution, to)?;
            }
            Ok(resolution)
        });
        let accepted = accepted.or_else(|reply| {
            if self.access.hold && delivery == Delivery::Mail && can_wait(&reply) {
                let held = Some(replies::first_line(&reply));
                return Ok(Resolution { held, ..Resolution::default() });
            }
            Err(reply)
        });
        match &accepted {
            Ok(_) => counters.recipients.one(),
            Err(reply) => {
                counters.recipients_rejected.one();
                if let Some(hand_over) = self.hand_over {
                    hand_over.note_refusal(reply);
                }
                let text = replies::first_line(reply);
                events::recipient_rejected(self.session, self.access.peer, to, text);
            }
        }
        accepted
    }

    fn is_active(&self, to: &Resolution) -> bool {
        to.remote.is_empty()
            && !to.local.is_empty()
            && self.context.config.host_terminals.are_active(&to.local)
    }

    fn forward_mailbox<'d>(&self, to: &'d Resolution) -> Option<&'d Mailbox> {
        match (to.local.as_slice(), to.remote.as_slice()) {
            // A client that itself named another host knows the address already.
            ([], [only]) if self.access.forward_replies && !to.is_relay => Some(only),
            _ => None,
        }
    }

    fn vrfy(&self, name: &str) -> Reply {
        match self.context.resolver.vrfy(name) {
            Ok(member) => replies::for_members(vec![member]),
            Err(refusal) => self.refuse(&refusal, &RefusedCommand::Vrfy(name)),
        }
    }

    fn expn(&self, list: &str) -> Reply {
        match self.context.resolver.expn(list) {
            Ok(members) => replies::for_members(members),
            Err(refusal) => self.refuse(&refusal, &RefusedCommand::Expn(list)),
        }
    }

    fn etrn(&self, node: &EtrnNode) -> Reply {
        let relay = self.context.config.relay.as_ref();
        if relay.is_some_and(|relay| relay.queue.flush(node)) {
            reply::queuing_started(node)
        } else {
            reply::cannot_queue(node)
        }
    }

    fn help(&self) -> Option<Reply> {
        self.access.counters.then(|| replies::for_counters(&self.context.counters))
    }
}

/// Returns true if mail for a recipient that is refused with `reply` can wait in the queue: for the
/// lookup, for the mailbox, or for room in it.
fn can_wait(reply: &Reply) -> bool {
    matches!(reply.code, 450 | 451) || reply.enhanced == Some((5, 2, 2))
}

/// Free bytes that a disk must have in addition to the size of the message.
const ROOM_MIN: u64 = 64 * 1024;
