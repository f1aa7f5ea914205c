//! Messages for the client side of the library, which sends mail to other servers.

use std::io::{self, Read};

use mailslot::relay::client::{ClientConfig, OutgoingMessage, Timeouts};
use mailslot::smtp::sender::{ContentSurvey, RecipientOutcome};
use mailslot::smtp::{Envelope, ForwardPath, Mailbox, Recipient, ReversePath};

use super::TIMEOUT;

/// Returns the configuration of a client that connects in clear text.
pub fn client_config() -> ClientConfig {
    let timeouts = Timeouts {
        connect: TIMEOUT,
        greeting: TIMEOUT,
        command: TIMEOUT,
        data: TIMEOUT,
        block: TIMEOUT,
        dot: TIMEOUT,
        quit: TIMEOUT,
    };
    ClientConfig { hostname: "here.example".to_owned(), timeouts, ..ClientConfig::default() }
}

/// Returns an envelope from me@here.example.
pub fn envelope(to: &[&str]) -> Envelope<()> {
    let mailbox = |address: &str| Mailbox::parse(address).unwrap();
    let recipient = |to: &&str| Recipient::new(ForwardPath::Mailbox(mailbox(to)), ());
    Envelope {
        from: ReversePath::Mailbox(mailbox("me@here.example")),
        to: to.iter().map(recipient).collect(),
        ..Envelope::blank()
    }
}

/// Calls `send` with a message of this envelope and content, which is sent as it is.
pub fn with_mail<R>(
    envelope: &Envelope<()>,
    content: &[u8],
    send: impl FnOnce(&OutgoingMessage<'_, ()>) -> R,
) -> R {
    with_outgoing(envelope, content, None, send)
}

/// Does the same as [`with_mail`] for a message that is converted if the server requires it.
pub fn with_surveyed_mail<R>(
    envelope: &Envelope<()>,
    content: &[u8],
    send: impl FnOnce(&OutgoingMessage<'_, ()>) -> R,
) -> R {
    let mut survey = ContentSurvey::new();
    survey.feed(content);
    with_outgoing(envelope, content, Some(&survey), send)
}

fn with_outgoing<R>(
    envelope: &Envelope<()>,
    content: &[u8],
    survey: Option<&ContentSurvey>,
    send: impl FnOnce(&OutgoingMessage<'_, ()>) -> R,
) -> R {
    let open = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(content)) };
    let lines = content.iter().filter(|byte| **byte == b'\n').count();
    let size = (content.len() + lines) as u64;
    send(&OutgoingMessage { envelope, size, content: &open, survey })
}

/// Returns each outcome as text: `done`, `later` or `never`, and the reason.
pub fn show_outcomes(outcomes: &[RecipientOutcome]) -> Vec<String> {
    let word = |outcome: &RecipientOutcome| match outcome {
        RecipientOutcome::Accepted(_) => "done",
        RecipientOutcome::Deferred(_) => "later",
        RecipientOutcome::Failed(_) => "never",
    };
    outcomes.iter().map(|outcome| format!("{} {}", word(outcome), outcome.reason())).collect()
}
