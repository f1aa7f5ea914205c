//! Mailboxes, domains, address literals; reverse-path and forward-path (RFC 5321 4.1.2, 4.1.3).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Literal {
    /// `[192.0.2.1]`
    V4(Ipv4Addr),
    /// `[IPv6:2001:db8::1]`
    V6(Ipv6Addr),
    /// `[tag:content]`, a form registered later than this program.
    General(String),
}

/// What stands behind the `@`. Compares without regard to ASCII case.
#[derive(Clone, Debug)]
pub enum Domain {
    /// A name, at most 255 octets, as the client wrote it.
    Name(String),
    /// An address in brackets.
    Literal(Literal),
}

/// `local-part@domain`. The local-part is kept without its quotes and backslashes, so that
/// `"al"@x` and `al@x` are the same mailbox (RFC 5321 4.1.2); it is quoted again when written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    local: String,
    domain: Domain,
}

/// The argument of MAIL FROM: a mailbox, or `<>` for a notification (RFC 5321 4.5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`
    Null,
    /// `<user@host>`
    Mailbox(Mailbox),
}

/// The argument of RCPT TO: a mailbox, or `<postmaster>` alone (RFC 5321 4.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<Postmaster>`, in any case and without a domain.
    Postmaster,
    /// `<user@host>`
    Mailbox(Mailbox),
}

impl Mailbox {
    /// The local-part, unquoted: 1 to 64 octets, printable ASCII and blanks.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Parses `local-part@domain`, all of `text`.
    pub fn parse(text: &str) -> Result<Mailbox, SyntaxError> {
        let _ = text;
        todo!()
    }
}

/// Why an address is not one, in a few words for the reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError(pub &'static str);

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}
impl PartialEq for Domain {
    fn eq(&self, _other: &Domain) -> bool {
        todo!()
    }
}
impl Eq for Domain {}
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}
/// Writes `<>` or `<user@host>`, brackets included.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}
/// Writes `<Postmaster>` or `<user@host>`, brackets included.
impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = f;
        todo!()
    }
}
