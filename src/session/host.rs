//! What the receiver asks while a session goes on, and who answers: the route, the disk, the
//! counters. A refusal becomes a reply here, and nowhere else.

use std::fmt;
use std::path::Path;

use super::recipient_limiter::RecipientLimiter;
use super::{SessionConfig, SessionContext, first_line};
use crate::deliver::{DeferReason, Outcome};
use crate::net::stream::Peer;
use crate::observe::events;
use crate::route::{Member, Refusal, Resolution};
use crate::smtp::EtrnNode;
use crate::smtp::receiver::Host;
use crate::smtp::{Delivery, ForwardPath, Mailbox, Reply, reply};

/// What the receiver asks, and who answers: the route, the disk, the counters.
pub(super) struct SessionHost<'a> {
    pub context: &'a SessionContext,
    pub session: &'a str,
    pub peer: Peer,
    pub recipient_limiter: RecipientLimiter,
    /// Whether the client may send mail to other hosts through this one.
    pub may_relay: bool,
}

impl SessionHost<'_> {
    /// Where mail for `to` goes that comes from this client.
    fn way(&self, to: &ForwardPath) -> Result<Resolution, Reply> {
        let way =
            self.context.route.way(to).and_then(|way| match way.is_relay && !self.may_relay {
                true => Err(Refusal::NotLocal),
                false => Ok(way),
            });
        way.map_err(|no| self.refuse(&no, &RefusedCommand::Rcpt(to)))
    }

    fn refuse(&self, refusal: &Refusal, asked: &RefusedCommand<'_>) -> Reply {
        if let Refusal::Later(why) | Refusal::Misconfigured(why) = refusal {
            events::lookup_failed(self.session, asked, why);
        }
        let SessionConfig { forward_replies, relay, hostname, .. } = &self.context.settings;
        let told = forward_replies.allows(self.peer);
        let reply = match (refusal, asked) {
            (Refusal::Forward(to), RefusedCommand::Vrfy(_)) if told && relay.is_some() => {
                reply::will_forward(to)
            }
            (Refusal::NotLocal, RefusedCommand::Rcpt(to))
                if self.peer.is_local() && relay.is_none() =>
            {
                reply::no_smarthost(to)
            }
            _ => refusal_reply(refusal, asked, told),
        };
        match reply.code {
            550 | 553 => self.recipient_limiter.refuse(hostname, reply),
            _ => reply,
        }
    }
}

impl Host for SessionHost<'_> {
    type Destination = Resolution;

    fn check_space(&self, size: Option<u64>) -> Result<(), Reply> {
        let SessionConfig { spool, mail_dir, .. } = &self.context.settings;
        let needed = size.unwrap_or(0).saturating_add(ROOM_MIN);
        match has_room(spool, needed) && has_room(mail_dir, needed) {
            true => Ok(()),
            false => Err(reply::no_room()),
        }
    }

    fn resolve_recipient(&self, to: &ForwardPath, delivery: Delivery) -> Result<Resolution, Reply> {
        let SessionContext { writer, counters, .. } = self.context;
        let accepted = self.way(to).and_then(|way| {
            let on_terminal = match delivery {
                Delivery::Send => true,
                Delivery::SendOrMail => self.is_active(&way),
                Delivery::Mail | Delivery::SendAndMail => false,
            };
            // A mailbox that cannot take mail is better refused before its mail data than after.
            let mut mailboxes = way.here.iter().filter(|_| !on_terminal);
            let looked = mailboxes.try_for_each(|destination| writer.look(destination));
            looked.map(|()| way).map_err(|outcome| look_reply(&outcome, to))
        });
        match &accepted {
            Ok(_) => counters.recipients.one(),
            Err(reply) => {
                counters.recipients_rejected.one();
                events::recipient_rejected(self.session, self.peer, to, first_line(reply));
            }
        }
        accepted
    }

    fn is_active(&self, to: &Resolution) -> bool {
        to.elsewhere.is_empty() && self.context.settings.terminals.are_active(&to.here)
    }

    fn forward_mailbox<'d>(&self, to: &'d Resolution) -> Option<&'d Mailbox> {
        let told = self.context.settings.forward_replies.allows(self.peer);
        match (to.here.as_slice(), to.elsewhere.as_slice()) {
            // Who wrote to another host need not be told that it is one.
            ([], [only]) if told && !to.is_relay => Some(only),
            _ => None,
        }
    }

    fn vrfy(&self, name: &str) -> Reply {
        match self.context.route.vrfy(name) {
            Ok(member) => members_reply(vec![member]),
            Err(refusal) => self.refuse(&refusal, &RefusedCommand::Vrfy(name)),
        }
    }

    fn expn(&self, list: &str) -> Reply {
        match self.context.route.expn(list) {
            Ok(members) => members_reply(members),
            Err(refusal) => self.refuse(&refusal, &RefusedCommand::Expn(list)),
        }
    }

    fn etrn(&self, node: &EtrnNode) -> Reply {
        let relay = self.context.settings.relay.as_ref();
        match relay.is_some_and(|relay| relay.queue.flush(node)) {
            true => reply::queuing_started(node),
            false => reply::cannot_queue(node),
        }
    }

    fn help(&self) -> Option<Reply> {
        let counters = self.peer.is_local().then(|| self.context.counters.list())?;
        let mut lines =
            vec![concat!("mailslot ", env!("CARGO_PKG_VERSION"), " since its start:").into()];
        lines.extend(counters.iter().map(|(name, _, n)| format!("{name} {n}")));
        lines.push("Send HELP followed by a command for its syntax".into());
        Some(reply::status(lines))
    }
}

/// What a refusal answers.
enum RefusedCommand<'a> {
    Rcpt(&'a ForwardPath),
    Vrfy(&'a str),
    Expn(&'a str),
}

impl RefusedCommand<'_> {
    fn verb(&self) -> &'static str {
        match self {
            RefusedCommand::Rcpt(_) => "RCPT",
            RefusedCommand::Vrfy(_) => "VRFY",
            RefusedCommand::Expn(_) => "EXPN",
        }
    }
}

impl fmt::Display for RefusedCommand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusedCommand::Rcpt(to) => to.fmt(f),
            RefusedCommand::Vrfy(name) | RefusedCommand::Expn(name) => name.fmt(f),
        }
    }
}

/// Whether the disk that holds `directory` has `octets` free. A disk that cannot be asked, or knows no
/// size, has: the writer will see.
fn has_room(directory: &Path, octets: u64) -> bool {
    #[allow(clippy::useless_conversion)] // 32 bits where the system's are
    nix::sys::statvfs::statvfs(directory).map_or(true, |disk| {
        let free = u64::from(disk.blocks_available()).saturating_mul(disk.fragment_size().into());
        disk.blocks() == 0 || free >= octets
    })
}

/// What a recipient, or the name in VRFY and EXPN, hears; `told` whether a new address is told.
fn refusal_reply(refusal: &Refusal, asked: &RefusedCommand<'_>, told: bool) -> Reply {
    let verb = asked.verb();
    match (refusal, asked) {
        (Refusal::Forward(to), _) if told => reply::please_try(to),
        (Refusal::Ambiguous(users), _) => reply::ambiguous(users),
        (Refusal::Later(_), _) => reply::lookup_failed(verb),
        (Refusal::Misconfigured(_), _) => reply::misconfigured(verb),
        (Refusal::Unknown | Refusal::Forward(_), RefusedCommand::Rcpt(to)) => {
            reply::no_such_user(to)
        }
        (Refusal::NameNotAllowed, RefusedCommand::Rcpt(to)) => reply::name_not_allowed(to),
        (Refusal::NotLocal, RefusedCommand::Rcpt(to)) => reply::relaying_denied(to),
        (_, RefusedCommand::Vrfy(_) | RefusedCommand::Expn(_)) => reply::no_such_name(verb),
    }
}

/// What a recipient hears whose mailbox cannot take mail.
fn look_reply(outcome: &Outcome, to: &ForwardPath) -> Reply {
    match outcome {
        Outcome::Never(DeferReason::OverQuota) => reply::mailbox_full(to),
        _ => reply::mailbox_unavailable(to),
    }
}

/// VRFY's and EXPN's 250: `Full Name <user@host>` (RFC 5321 3.5.2).
fn members_reply(members: Vec<Member>) -> Reply {
    let line = |Member { full_name, mailbox }| match full_name.as_str() {
        "" => format!("<{mailbox}>"),
        name => format!("{name} <{mailbox}>"),
    };
    reply::mailboxes(members.into_iter().map(line).collect())
}

/// Free octets below which no message is taken.
const ROOM_MIN: u64 = 64 * 1024;
