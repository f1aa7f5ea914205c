//! The transaction: who from, who to, and what was declared of the mail data.

use super::dsn::{DsnNotify, DsnReturn, OriginalRecipient};
use super::path::{ForwardPath, ReversePath};

/// What MAIL's BODY parameter said (RFC 6152). The content is kept in all 8 bits either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyType {
    /// `BODY=7BIT`, or none given.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`
    EightBitMime,
}

/// Where mail data is wanted: by which command its transaction began (RFC 821 3.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// MAIL: in the mailbox.
    #[default]
    Mail,
    /// SEND: on a terminal of the user.
    Send,
    /// SOML: on a terminal if the user is at one, otherwise in the mailbox.
    SendOrMail,
    /// SAML: in the mailbox, and on a terminal too if the user is at one.
    SendAndMail,
}

impl Delivery {
    /// Its command.
    pub fn verb(self) -> &'static str {
        match self {
            Delivery::Mail => "MAIL",
            Delivery::Send => "SEND",
            Delivery::SendOrMail => "SOML",
            Delivery::SendAndMail => "SAML",
        }
    }
}

/// One accepted recipient and what the [`Host`](super::Host) said of it.
#[derive(Clone, Debug)]
pub struct Recipient<D> {
    /// As the client gave it.
    pub path: ForwardPath,
    /// Where it leads.
    pub destination: D,
    /// NOTIFY, if given (RFC 3461 4.1).
    pub notify: Option<DsnNotify>,
    /// ORCPT, if given (RFC 3461 4.2).
    pub original: Option<OriginalRecipient>,
}

/// One mail transaction from MAIL, or SEND, SOML or SAML, to the end of data.
#[derive(Clone, Debug)]
pub struct Envelope<D> {
    /// Where the mail data is wanted.
    pub delivery: Delivery,
    /// The reverse-path.
    pub from: ReversePath,
    /// SIZE as declared, in octets (RFC 1870). A hint, never used to find the end of data.
    pub size: Option<u64>,
    /// BODY as declared.
    pub body: BodyType,
    /// Whether SMTPUTF8 was given: addresses and header may be UTF-8 (RFC 6531).
    pub utf8: bool,
    /// RET, if given (RFC 3461 4.3).
    pub ret: Option<DsnReturn>,
    /// ENVID, if given (RFC 3461 4.4).
    pub envid: Option<String>,
    /// In the order of their RCPT commands; never empty once DATA was accepted.
    pub to: Vec<Recipient<D>>,
}

impl<D> Envelope<D> {
    /// From the null reverse-path, and so far to nobody; nothing is declared.
    pub fn blank() -> Envelope<D> {
        Envelope {
            delivery: Delivery::Mail,
            from: ReversePath::Null,
            size: None,
            body: BodyType::default(),
            utf8: false,
            ret: None,
            envid: None,
            to: Vec::new(),
        }
    }
}
