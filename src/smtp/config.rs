//! What a receiver offers and demands: its configuration.

/// What the receiver is told of itself.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// The name in the greeting and wherever a reply must begin with it (RFC 5321 4.2).
    pub hostname: String,
    /// The largest message, in octets; announced by SIZE (RFC 1870).
    pub size_max: u64,
    /// Recipients of one message; at least 100 (RFC 5321 4.5.3.1.8). Announced by LIMITS.
    pub recipients_max: usize,
    /// Whether VRFY answers. Off: 252, and EHLO does not name it.
    pub vrfy: bool,
    /// Whether EXPN answers. Off: 252, and EHLO does not name it.
    pub expn: bool,
    /// Whether SEND, SOML and SAML are carried out. Off: 502, and EHLO does not name them.
    pub terminals: bool,
    /// Whether ETRN is carried out (RFC 1985). Off: 502, and EHLO does not name it.
    pub etrn: bool,
    /// Commands in error (5yz of syntax, order or unknown) that are answered; the next one is 421
    /// and close.
    pub errors_max: u32,
    /// Whether it is LMTP (RFC 2033), and not SMTP.
    pub lmtp: bool,
    /// Whether a client of SMTP is offered a reply for each recipient (PRDR): see [`ReplyMode`].
    pub prdr: bool,
    /// Whether delivery reports are offered (DSN, RFC 3461). They are the host's to write.
    pub dsn: bool,
    /// Whether a client in clear text is offered STARTTLS, or has to use it (RFC 3207).
    pub tls: StartTlsMode,
}

impl ReceiverConfig {
    /// The least that every receiver must do (RFC 5321 4.5.3.1), and nothing optional.
    pub fn new(hostname: impl Into<String>) -> ReceiverConfig {
        ReceiverConfig {
            hostname: hostname.into(),
            size_max: 64 * 1024,
            recipients_max: 100,
            vrfy: false,
            expn: false,
            terminals: false,
            etrn: false,
            errors_max: 20,
            lmtp: false,
            prdr: false,
            dsn: false,
            tls: StartTlsMode::Off,
        }
    }

    /// LMTP has no use for it.
    pub(super) fn offers_prdr(&self) -> bool {
        self.prdr && !self.lmtp
    }
}

/// What a client in clear text is told of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTlsMode {
    /// There is none: STARTTLS is 502, and EHLO does not name it.
    Off,
    /// It may say STARTTLS.
    Offered,
    /// It hears 530 until it does. Not for a host that the Internet's MX records lead to (RFC 3207
    /// 4).
    Required,
}
