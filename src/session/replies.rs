//! Replies of a session: what an outcome, a refusal, a content error and the end of a session become.

use std::fmt;
use std::io;

use super::SessionEnd;
use crate::deliver::{DeferReason, Outcome};
use crate::message::{Content, ContentError};
use crate::net::stream::Disconnect;
use crate::observe::logging::value;
use crate::route::{Member, Refusal};
use crate::smtp::data::DataEnd;
use crate::smtp::{ForwardPath, Reply, reply};

/// What a refusal answers.
pub(super) enum RefusedCommand<'a> {
    Rcpt(&'a ForwardPath),
    Vrfy(&'a str),
    Expn(&'a str),
}

impl RefusedCommand<'_> {
    pub(super) fn verb(&self) -> &'static str {
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

/// What a recipient, or the name in VRFY and EXPN, hears; `told` whether a new address is told.
pub(super) fn refusal_reply(refusal: &Refusal, asked: &RefusedCommand<'_>, told: bool) -> Reply {
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
        (_, RefusedCommand::Vrfy(_) | RefusedCommand::Expn(_)) => reply::nobody(verb),
    }
}

/// What a recipient hears whose mailbox cannot take mail.
pub(super) fn look_reply(outcome: &Outcome, to: &ForwardPath) -> Reply {
    match outcome {
        Outcome::Never(DeferReason::OverQuota) => reply::mailbox_full(to),
        _ => reply::mailbox_unavailable(to),
    }
}

/// VRFY's and EXPN's 250: `Full Name <user@host>` (RFC 5321 3.5.2).
pub(super) fn members_reply(members: Vec<Member>) -> Reply {
    let line = |Member { full_name, mailbox }| match full_name.as_str() {
        "" => format!("<{mailbox}>"),
        name => format!("{name} <{mailbox}>"),
    };
    reply::members(members.into_iter().map(line).collect())
}

/// What the sender hears of mail data that ended so, and of which nothing can be delivered.
pub(super) fn refusal_of(end: DataEnd, content: Result<Content, ContentError>, id: &str) -> Reply {
    match (end, content) {
        (DataEnd::BareLineEnd, _) => reply::data_bare_line_end(),
        (DataEnd::TooLarge, _) => reply::data_too_large(),
        (DataEnd::Whole, Ok(_)) => reply::data_error(),
        (DataEnd::Whole, Err(fault)) => {
            let level = match fault {
                ContentError::Disk(_) => log::Level::Warn,
                ContentError::Loop | ContentError::HiddenFrom => log::Level::Debug,
            };
            log::log!(level, "fault message={id} why={}", value(&fault));
            fault_reply(&fault)
        }
    }
}

/// What the sender hears of mail data that could not be taken in.
pub(super) fn fault_reply(fault: &ContentError) -> Reply {
    match fault {
        ContentError::Loop => reply::data_loop(),
        ContentError::HiddenFrom => reply::data_hidden_from(),
        ContentError::Disk(e) => match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => reply::data_no_room(),
            _ => reply::data_error(),
        },
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

/// What a client hears of the end of its session; None if it knows, or will not listen.
pub(super) fn last_reply(end: &SessionEnd, hostname: &str) -> Option<Reply> {
    let cut = match end {
        SessionEnd::Quit | SessionEnd::GivenUp(_) => return None,
        SessionEnd::Panicked => return Some(reply::broken(hostname)),
        SessionEnd::Disconnect(cut) => cut,
    };
    let slow = |why| Some(reply::timed_out(hostname, why));
    match cut {
        Disconnect::Closed
        | Disconnect::Broken(_)
        | Disconnect::NotReading
        | Disconnect::ClearText
        | Disconnect::Tls(_) => None,
        Disconnect::TimedOut => slow("nothing came for too long"),
        Disconnect::TooSlow => slow("mail data comes too slowly"),
        Disconnect::Deadline => slow("the session takes too long"),
        Disconnect::Evict => slow("idle or slow, and others are waiting"),
        Disconnect::Stopping => Some(reply::closing(hostname, "the service is stopping")),
    }
}
