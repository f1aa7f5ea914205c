//! The envelope of a transaction: the sender, the recipients, and the parameters of both.

use super::dsn::{DsnNotify, DsnReturn, OriginalRecipient};
use super::path::{ForwardPath, ReversePath};

/// The value of MAIL's BODY parameter (RFC 6152). All 8 bits of the content are kept either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// `BODY=7BIT`, or no BODY.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// The command that began a transaction, and so the place of delivery (RFC 821 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// MAIL, to the mailbox.
    #[default]
    Mail,
    /// SEND, to a terminal of the user.
    Send,
    /// SOML, to a terminal if the user is active on one, otherwise to the mailbox.
    SendOrMail,
    /// SAML, to the mailbox, and to a terminal as well if the user is active on one.
    SendAndMail,
}

impl Delivery {
    /// Returns the name of the command.
    pub fn verb(self) -> &'static str {
        match self {
            Delivery::Mail => "MAIL",
            Delivery::Send => "SEND",
            Delivery::SendOrMail => "SOML",
            Delivery::SendAndMail => "SAML",
        }
    }
}

/// An accepted recipient and its destination.
#[derive(Clone, Debug)]
pub struct Recipient<D> {
    /// The forward-path that the client sent.
    pub path: ForwardPath,
    /// The destination that [`Host::resolve_recipient`](super::Host::resolve_recipient) returned.
    pub destination: D,
    /// The NOTIFY parameter (RFC 3461 4.1).
    pub notify: Option<DsnNotify>,
    /// The ORCPT parameter (RFC 3461 4.2).
    pub original: Option<OriginalRecipient>,
}

impl<D> Recipient<D> {
    /// Returns a recipient without parameters.
    pub fn new(path: ForwardPath, destination: D) -> Recipient<D> {
        Recipient { path, destination, notify: None, original: None }
    }

    /// Returns the same recipient with another destination.
    pub fn with_destination<E>(&self, destination: E) -> Recipient<E> {
        let Recipient { path, notify, original, .. } = self;
        Recipient { path: path.clone(), destination, notify: *notify, original: original.clone() }
    }
}

/// The envelope of one mail transaction. It cannot be cloned, because a copy for each recipient
/// would make the cost of a message quadratic.
#[derive(Debug)]
pub struct Envelope<D> {
    /// The place of delivery.
    pub delivery: Delivery,
    /// The reverse-path.
    pub from: ReversePath,
    /// The SIZE parameter, in octets (RFC 1870). It is an estimate by the client, and not used to
    /// find the end of the mail data.
    pub size: Option<u64>,
    /// The BODY parameter.
    pub body: BodyType,
    /// Whether SMTPUTF8 was given, so that addresses and header may be UTF-8 (RFC 6531).
    pub utf8: bool,
    /// The RET parameter (RFC 3461 4.3).
    pub ret: Option<DsnReturn>,
    /// The ENVID parameter (RFC 3461 4.4), decoded.
    pub envid: Option<String>,
    /// The id of the user of this host who submitted the message, if it is known.
    pub submitter: Option<u32>,
    /// The recipients in the order of their RCPT commands. There is at least one once DATA or BDAT
    /// was accepted.
    pub to: Vec<Recipient<D>>,
}

impl<D> Envelope<D> {
    /// Returns an envelope with the null reverse-path, no recipients and no parameters.
    pub fn blank() -> Envelope<D> {
        Envelope {
            delivery: Delivery::Mail,
            from: ReversePath::Null,
            size: None,
            body: BodyType::default(),
            utf8: false,
            ret: None,
            envid: None,
            submitter: None,
            to: Vec::new(),
        }
    }

    /// Returns an envelope with the same reverse-path and parameters, for the recipients `to`.
    /// The cost does not depend on the recipients of this one.
    pub fn with_recipients<E>(&self, to: Vec<Recipient<E>>) -> Envelope<E> {
        Envelope {
            delivery: self.delivery,
            from: self.from.clone(),
            size: self.size,
            body: self.body,
            utf8: self.utf8,
            ret: self.ret,
            envid: self.envid.clone(),
            submitter: self.submitter,
            to,
        }
    }
}
