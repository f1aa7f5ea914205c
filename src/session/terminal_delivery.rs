//! SEND, SOML and SAML (RFC 821 3.4): a message to terminals, mailboxes or both.
//!
//! | | on a terminal | in the mailbox | 250 after the final dot means |
//! | --- | --- | --- | --- |
//! | SEND | of each user | never | every user has it on a terminal |
//! | SOML | of those who are active | of the others | every user has it here or there |
//! | SAML | of those who are active | of all | every user has it in the mailbox |
//!
//! A message that does not fit on a terminal is not on one: SEND refuses it (552), and SOML is SAML
//! for it. What a terminal shows cannot be taken back, so mailboxes come first where both get it;
//! and a user of several who saw a message that was answered 451 will see it again, as RFC 1047
//! allows for mailboxes.
//!
//! Terminals are written to in the session's thread: one that is stopped keeps its own sender
//! waiting, a second at most, and no other mail.

use jiff::Zoned;

use super::delivery::outcome_reply;
use super::{SessionContext, fault_reply};
use crate::message::{ContentError, Destination, Message};
use crate::route::Resolution;
use crate::smtp::envelope::{Delivery, Envelope};
use crate::smtp::reply::{self, Reply};
use crate::terminal::render::RenderedMessage;

/// Delivers a message as the command wants that began its transaction; what became of it.
pub(super) fn deliver(
    context: &SessionContext,
    envelope: &Envelope<Resolution>,
    at: &Zoned,
    mut message: Message,
) -> Reply {
    let id = message.id.clone();
    let mail = |message| {
        let outcome = context.writer.deliver(message, context.settings.outcome_timeout);
        outcome_reply(outcome, &id)
    };
    if envelope.delivery == Delivery::Mail {
        return mail(message);
    }
    let time = at.strftime("%H:%M").to_string();
    let screen = match RenderedMessage::new(&envelope.from.to_string(), &time, &message.content) {
        Ok(screen) => screen,
        Err(e) => return fault_reply(&ContentError::Disk(e)),
    };
    let show = |to: &[Destination]| context.settings.terminals.show(to, &screen);
    match envelope.delivery {
        Delivery::Mail => mail(message),
        Delivery::Send if !screen.is_whole() => reply::too_large_to_show(),
        Delivery::Send => match show(&message.to).iter().all(|shown| *shown) {
            true => reply::shown(&id),
            false => reply::not_shown_to_all(),
        },
        Delivery::SendOrMail if screen.is_whole() => {
            let mut shown = show(&message.to).into_iter();
            message.to.retain(|_| shown.next() != Some(true));
            if message.to.is_empty() { reply::shown(&id) } else { mail(message) }
        }
        Delivery::SendOrMail | Delivery::SendAndMail => {
            let to = message.to.clone();
            let reply = mail(message);
            if reply.is_positive() {
                show(&to);
            }
            reply
        }
    }
}
