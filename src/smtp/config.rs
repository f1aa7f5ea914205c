//! The configuration of a receiver: its limits, and the extensions that it offers.

/// Configuration of a [`Receiver`](super::Receiver).
///
/// The default is what every receiver must support (RFC 5321 4.5.3.1), and nothing optional.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// The name of the server in the greeting and in replies that begin with it (RFC 5321 4.2).
    pub hostname: String,
    /// The largest message, in octets. EHLO announces it with SIZE (RFC 1870).
    pub size_max: u64,
    /// The most recipients of a message, at least 100 (RFC 5321 4.5.3.1.8). EHLO announces it with
    /// LIMITS (RFC 9422).
    pub recipients_max: usize,
    /// Whether VRFY is answered. If not, it gets 252, and EHLO does not list it.
    pub vrfy: bool,
    /// Whether EXPN is answered. If not, it gets 252, and EHLO does not list it.
    pub expn: bool,
    /// Whether SEND, SOML and SAML are supported. If not, they get 502, and EHLO does not list
    /// them.
    pub terminals: bool,
    /// Whether ETRN is supported (RFC 1985). If not, it gets 502, and EHLO does not list it.
    pub etrn: bool,
    /// The number of client errors that are answered. The next one gets 421 and ends the
    /// connection. An error is an unknown command, wrong syntax, or a wrong order of commands.
    pub errors_max: u32,
    /// Whether the protocol is LMTP (RFC 2033) instead of SMTP.
    pub lmtp: bool,
    /// Whether SMTP clients may ask for a reply for each recipient (PRDR, draft-hall-prdr).
    pub prdr: bool,
    /// Whether clients may ask for delivery status notifications (DSN, RFC 3461). The host must
    /// then send them.
    pub dsn: bool,
    /// The id of the user that the client runs as, for the envelope; None if it is not known.
    pub submitter: Option<u32>,
    /// The availability of STARTTLS (RFC 3207).
    pub tls: StartTlsMode,
}

impl Default for ReceiverConfig {
    fn default() -> ReceiverConfig {
        ReceiverConfig {
            hostname: "localhost".to_owned(),
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
            submitter: None,
            tls: StartTlsMode::Off,
        }
    }
}

impl ReceiverConfig {
    /// Returns the default configuration of a server called `hostname`.
    pub fn new(hostname: impl Into<String>) -> ReceiverConfig {
        ReceiverConfig { hostname: hostname.into(), ..ReceiverConfig::default() }
    }

    /// True if PRDR is listed. LMTP always has a reply for each recipient and does not need it.
    pub(super) fn offers_prdr(&self) -> bool {
        self.prdr && !self.lmtp
    }
}

/// The availability of STARTTLS on a connection in clear text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTlsMode {
    /// STARTTLS gets 502, and EHLO does not list it.
    Off,
    /// The client may send STARTTLS.
    Offered,
    /// Most commands get 530 before STARTTLS. A server that MX records on the Internet name must
    /// not require it (RFC 3207 4).
    Required,
}
