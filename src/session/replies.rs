//! Replies to refusals, outcomes, content errors and the end of a session. No other file chooses a
//! reply for any of them. The texts are in [`smtp::reply`](crate::smtp::reply).
//!
//! | function | reply to | because of |
//! | --- | --- | --- |
//! | [`for_refusal`] | RCPT, VRFY, EXPN | a resolver's refusal |
//! | [`for_precheck`] | RCPT | a mailbox that cannot take mail now |
//! | [`too_many_unknown`] | RCPT, VRFY, EXPN | the recipient limiter |
//! | [`for_members`], [`for_counters`] | VRFY and EXPN, HELP | what the client may see |
//! | [`for_data`], [`for_content_error`] | the final dot | mail data that is no message |
//! | [`for_outcome`], [`for_prdr`] | the final dot | the writer's outcome |
//! | [`for_terminals`] | the final dot | the terminals that show the message |
//! | [`for_session_end`] | none | a session that the server ends |

use std::fmt;
use std::io;

use super::SessionEnd;
use super::access::Access;
use crate::deliver::{DeferReason, Outcome};
use crate::message::ContentError;
use crate::net::stream::Disconnect;
use crate::observe::counters::Counters;
use crate::resolver::{Member, Refusal};
use crate::smtp::data::DataEnd;
use crate::smtp::{ForwardPath, Reply, reply};

/// The command that a refusal is the answer to, with its argument.
pub(super) enum RefusedCommand<'a> {
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

/// Writes the argument.
impl fmt::Display for RefusedCommand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusedCommand::Rcpt(to) => to.fmt(f),
            RefusedCommand::Vrfy(name) | RefusedCommand::Expn(name) => name.fmt(f),
        }
    }
}

/// Returns the reply to a refused command. `relays` is whether this host relays mail for addresses
/// that an alias leads away from it.
pub(super) fn for_refusal(
    refusal: &Refusal,
    command: &RefusedCommand<'_>,
    access: &Access,
    relays: bool,
) -> Reply {
    let verb = command.verb();
    match (refusal, command) {
        (Refusal::Forward(to), RefusedCommand::Vrfy(_)) if access.forward_replies && relays => {
            reply::will_forward(to)
        }
        (Refusal::Forward(to), _) if access.forward_replies => reply::please_try(to),
        (Refusal::Ambiguous(users), _) => reply::ambiguous(users),
        (Refusal::LookupFailed(_), _) => reply::lookup_failed(verb),
        (Refusal::Misconfigured(_), _) => reply::misconfigured(verb),
        // A client that may not see the new address must not learn that there is one.
        (Refusal::Unknown | Refusal::Forward(_), RefusedCommand::Rcpt(to)) => {
            reply::no_such_user(to)
        }
        (Refusal::NameNotAllowed, RefusedCommand::Rcpt(to)) => reply::name_not_allowed(to),
        (Refusal::Unsupported(_), RefusedCommand::Rcpt(to)) => reply::alias_unsupported(to),
        (Refusal::NotLocal, RefusedCommand::Rcpt(to)) if access.suggest_smarthost => {
            reply::no_smarthost(to)
        }
        (Refusal::NotLocal, RefusedCommand::Rcpt(to)) => reply::relaying_denied(to),
        (_, RefusedCommand::Vrfy(_) | RefusedCommand::Expn(_)) => reply::no_such_name(verb),
    }
}

/// Returns the reply to RCPT for a mailbox that the writer would not deliver to now.
pub(super) fn for_precheck(outcome: Outcome, to: &ForwardPath) -> Reply {
    match outcome {
        Outcome::OverQuota => reply::mailbox_full(to),
        Outcome::Deferred(_) | Outcome::Delivered => reply::mailbox_unavailable(to),
    }
}

/// Returns the reply to RCPT, VRFY or EXPN from a client that has asked for too many unknown names.
pub(super) fn too_many_unknown(hostname: &str) -> Reply {
    reply::client_error(hostname, "too many unknown names")
}

/// Returns the positive reply to VRFY or EXPN, `Full Name <user@host>` on each line (RFC 5321
/// 3.5.2).
pub(super) fn for_members(members: Vec<Member>) -> Reply {
    let line = |Member { full_name, mailbox }| match full_name.as_str() {
        "" => format!("<{mailbox}>"),
        name => format!("{name} <{mailbox}>"),
    };
    reply::mailboxes(members.into_iter().map(line).collect())
}

/// Returns the reply to HELP for a client that may see the counters.
pub(super) fn for_counters(counters: &Counters) -> Reply {
    let mut lines =
        vec![concat!("mailslot ", env!("CARGO_PKG_VERSION"), " since its start:").into()];
    lines.extend(counters.list().iter().map(|(name, _, n)| format!("{name} {n}")));
    lines.push("Send HELP followed by a command for its syntax".into());
    reply::status(lines)
}

/// Returns the reply to mail data that is not delivered: because of how it ended, or else because
/// of `error`.
pub(super) fn for_data(end: DataEnd, error: Option<&ContentError>) -> Reply {
    match (end, error) {
        (DataEnd::BareLineEnd, _) => reply::data_bare_line_end(),
        (DataEnd::TooLarge, _) => reply::data_too_large(),
        (DataEnd::Whole, Some(error)) => for_content_error(error),
        (DataEnd::Whole, None) => processing_error(),
    }
}

/// Returns the reply to mail data of which no content could be made.
pub(super) fn for_content_error(error: &ContentError) -> Reply {
    match error {
        ContentError::Loop => reply::data_loop(),
        ContentError::DeliveredLoop => reply::data_delivered_loop(),
        ContentError::HiddenFrom => reply::data_hidden_from(),
        ContentError::Disk(e) => match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => reply::data_no_room(),
            _ => processing_error(),
        },
    }
}

/// Returns the reply to a message that this host failed to process, 451.
pub(super) fn processing_error() -> Reply {
    reply::data_error()
}

/// Returns the reply to a message that the writer has finished with. `id` is the message's.
pub(super) fn for_outcome(outcome: Outcome, id: &str) -> Reply {
    match outcome {
        Outcome::Delivered => reply::delivered(id),
        Outcome::Deferred(DeferReason::Locked | DeferReason::Unusable) => {
            reply::data_mailbox_busy()
        }
        Outcome::Deferred(DeferReason::NoSpace) => reply::data_no_room(),
        Outcome::Deferred(DeferReason::Stopping) => reply::data_stopping(),
        Outcome::Deferred(DeferReason::Io | DeferReason::TimedOut) => processing_error(),
        Outcome::OverQuota => reply::data_mailbox_full(),
    }
}

/// Returns the reply to SEND or SOML: `shown` is whether each recipient has the message on a
/// terminal.
pub(super) fn for_terminals(shown: &[bool], id: &str) -> Reply {
    if shown.iter().all(|shown| *shown) { reply::shown(id) } else { reply::not_shown_to_all() }
}

/// Returns the reply to SEND with a message that no terminal shows as a whole.
pub(super) fn too_large_for_terminals() -> Reply {
    reply::too_large_to_show()
}

/// Returns the last reply of PRDR, which sums up those of the `recipients`: `delivered` of them
/// were positive, and `any_deferred` is whether another was 4yz.
pub(super) fn for_prdr(id: &str, recipients: usize, delivered: usize, any_deferred: bool) -> Reply {
    match delivered {
        n if n == recipients => reply::delivered(id),
        1.. => reply::data_some_accepted(),
        // A client that gets 5yz here gives up for all recipients, so one recipient that can be
        // retried makes it 4yz.
        0 if any_deferred => reply::data_all_deferred(),
        0 => reply::data_all_rejected(),
    }
}

/// Returns the last reply of a session that the server ended, or None if the client has had its
/// reply or does not read any more.
pub(super) fn for_session_end(end: &SessionEnd, hostname: &str) -> Option<Reply> {
    let disconnect = match end {
        SessionEnd::Quit | SessionEnd::Errors(_) => return None,
        SessionEnd::Panicked => return Some(reply::internal_error(hostname)),
        SessionEnd::Disconnect(disconnect) => disconnect,
    };
    let timed_out = |why| Some(reply::timed_out(hostname, why));
    match disconnect {
        Disconnect::Closed
        | Disconnect::Broken(_)
        | Disconnect::NotReading
        | Disconnect::ClearText
        | Disconnect::Tls(_) => None,
        Disconnect::TimedOut => timed_out("no input for too long"),
        Disconnect::TooSlow => timed_out("mail data came too slowly"),
        Disconnect::Deadline => timed_out("the session took too long"),
        Disconnect::Evicted => timed_out("idle or slow while other clients wait"),
        Disconnect::Stopping => Some(reply::closing(hostname, "the service is stopping")),
    }
}

/// Returns the first line of a reply for the log, such as `451 4.2.0 Mailbox in use`.
pub(super) fn first_line(reply: &Reply) -> String {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let text = String::from_utf8_lossy(&wire);
    text.lines().next().unwrap_or_default().to_owned()
}
