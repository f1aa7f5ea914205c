//! SEND, SOML and SAML (RFC 821 3.4): a message to terminals, mailboxes or both. Ordinary mail does
//! not come here.
//!
//! | | on a terminal | in the mailbox | 250 after the final dot means |
//! | --- | --- | --- | --- |
//! | SEND | of each user | never | every user has it on a terminal |
//! | SOML | of the active users | of the others | every user has it in one of the two |
//! | SAML | of the active users | of all users | every user has it in the mailbox |
//!
//! A message that does not fit on a terminal is not shown on any. SEND rejects it (552), and SOML
//! handles it as SAML. Where a user gets both, the mailbox is written first, because a message on a
//! terminal cannot be removed. A user who saw a message that was then answered 451 sees it again
//! when the client retries, as RFC 1047 allows for mailboxes.
//!
//! The session's thread writes to the terminals. A stopped terminal delays its own sender, for at
//! most a second, and no other mail.

use jiff::Zoned;

use super::{SessionContext, replies};
use crate::message::{ContentError, Destination, Message, UserMailbox};
use crate::resolver::Resolution;
use crate::smtp::envelope::Envelope;
use crate::smtp::reply::Reply;
use crate::terminal::render::RenderedMessage;

/// Returns the message as a terminal shows it, or the reply if its content cannot be read. `time`
/// is when its transaction began.
pub(super) fn render(
    envelope: &Envelope<Resolution>,
    time: &Zoned,
    message: &Message,
) -> Result<RenderedMessage, Reply> {
    let (sender, time) = (envelope.from.to_string(), time.strftime("%H:%M").to_string());
    RenderedMessage::new(&sender, &time, &message.content)
        .map_err(|e| replies::for_content_error(&ContentError::Disk(e)))
}

/// Delivers to terminals. Returns the reply.
pub(super) fn send(
    context: &SessionContext,
    rendered: &RenderedMessage,
    message: Message,
) -> Reply {
    if !rendered.is_whole() {
        return replies::too_large_for_terminals();
    }
    replies::for_terminals(&show(context, &message.to, rendered), &message.id)
}

/// Delivers to the terminals of the active users, and to the mailboxes of the others. Returns the
/// reply.
pub(super) fn send_or_mail(
    context: &SessionContext,
    rendered: &RenderedMessage,
    mut message: Message,
) -> Reply {
    if !rendered.is_whole() {
        return send_and_mail(context, rendered, message);
    }
    let shown = show(context, &message.to, rendered);
    let mut was_shown = shown.iter();
    message.to.retain(|to| to.mailbox().is_none() || was_shown.next() != Some(&true));
    if message.to.is_empty() {
        replies::for_terminals(&shown, &message.id)
    } else {
        context.deliver_to_mailboxes(message)
    }
}

/// Delivers to the mailboxes of all users, and then to the terminals of the active ones. Returns
/// the reply.
pub(super) fn send_and_mail(
    context: &SessionContext,
    rendered: &RenderedMessage,
    message: Message,
) -> Reply {
    let to = message.to.clone();
    let reply = context.deliver_to_mailboxes(message);
    if reply.is_positive() {
        show(context, &to, rendered);
    }
    reply
}

/// Shows the message on the terminals of these users. Returns for each of them whether it is on
/// one.
fn show(context: &SessionContext, to: &[Destination], rendered: &RenderedMessage) -> Vec<bool> {
    let users: Vec<UserMailbox> = to.iter().filter_map(Destination::mailbox).cloned().collect();
    context.config.host_terminals.show(&users, rendered)
}
