//! The lines a receiver adds on top of a message, the dates in them, and the ids that tell
//! messages apart.
//!
//! ```text
//! Return-Path: <smith@example.org>
//! Received: from relay.example.org ([192.0.2.7])
//!         by mx.example.com with ESMTP id 5k0hj2m8q1v7c3xd-7-1
//!         for <jones@example.com>; Tue, 1 Jul 2025 10:52:37 +0200
//! ```
//! Nothing that the client said gets into a line uncleaned, and no line can grow beyond the 998
//! octets of RFC 5322 2.1.1. It does not read such lines; [`message`](crate::message) counts them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::smtp::receiver::Protocol;
use crate::smtp::{ForwardPath, ReversePath};

/// Where a client connected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// From this address.
    Address(IpAddr),
    /// Through a Unix socket.
    Local,
    /// Nobody can tell: a pipe.
    Unknown,
}

/// What the Received line of one message says (RFC 5321 4.4).
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// What the client called itself.
    pub client: &'a str,
    /// Where it really is.
    pub peer: Peer,
    /// What we call ourselves.
    pub hostname: &'a str,
    /// How it greeted.
    pub protocol: Protocol,
    /// The message's id, from [`Ids`].
    pub id: &'a str,
    /// The recipient, if there is only one: else each would learn of the others (RFC 5321 7.2).
    pub recipient: Option<&'a ForwardPath>,
    /// The end of its transaction's DATA command.
    pub at: &'a Zoned,
}

impl Received<'_> {
    /// The field, folded by tabs, with its last LF.
    pub fn line(&self) -> Vec<u8> {
        let client = clean(self.client);
        let from = match self.peer {
            Peer::Address(ip) => match ip.to_canonical() {
                IpAddr::V4(ip) => format!("{client} ([{ip}])"),
                IpAddr::V6(ip) => format!("{client} ([IPv6:{ip}])"),
            },
            Peer::Local => format!("{client} (local)"),
            Peer::Unknown => format!("{client} (unknown)"),
        };
        let by = clean(self.hostname);
        let with = match self.protocol {
            Protocol::Smtp => "SMTP",
            Protocol::Esmtp => "ESMTP",
        };
        let id = self.id;
        let to = self.recipient.map(|path| format!("\n\tfor {path}")).unwrap_or_default();
        let date = self.at.strftime("%a, %-d %b %Y %H:%M:%S %z");
        // Without `for` the date takes its place on the third line.
        let gap = if to.is_empty() { "\n\t" } else { " " };
        format!("Received: from {from}\n\tby {by} with {with} id {id}{to};{gap}{date}\n")
            .into_bytes()
    }
}

/// The Return-Path line of final delivery, with its LF: `Return-Path: <smith@example.org>`.
pub fn return_path(sender: &ReversePath) -> Vec<u8> {
    format!("Return-Path: {sender}\n").into_bytes()
}

/// The time by the host's clock and zone. A clock that no calendar can hold is read as 1970.
pub fn now() -> Zoned {
    Timestamp::try_from(SystemTime::now())
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_zoned(TimeZone::system())
}

/// Gives out ids that no other message has, in this process or another, on this host or another,
/// before a restart or after it: recovery looks for them in mailboxes, and must not find another's.
///
/// ```text
/// 5k0hj2m8q1v7c3xd-7-1     the process, its 7th session, that session's 1st message
/// ```
/// The process's part is 48 bits of the microseconds at its start and 32 random ones. All are of
/// lower-case letters, digits and hyphens; an id can begin another (`…-1`, `…-12`), so whoever
/// searches for one looks at the octet behind it too.
#[derive(Debug)]
pub struct Ids {
    process: String,
    sessions: AtomicU64,
}

impl Ids {
    /// The ids of a process that starts now. One is enough for a process.
    pub fn new() -> Ids {
        let since_1970 =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // std seeds its hashers from the system's random source.
        let random = RandomState::new().build_hasher().finish() as u32;
        let bits = since_1970.as_micros() << 32 | u128::from(random);
        Ids { process: base32(bits, 16), sessions: AtomicU64::new(0) }
    }

    /// The next session's id.
    pub fn session(&self) -> String {
        let n = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{}-{n}", self.process)
    }
}

impl Default for Ids {
    fn default() -> Ids {
        Ids::new()
    }
}

/// The id of the `n`th message of a session.
pub fn message_id(session: &str, n: u64) -> String {
    format!("{session}-{n}")
}

/// A host's name as it may stand in a header: at most 255 octets of letters, digits and `.-_:[]`;
/// anything else becomes `?`.
fn clean(name: &str) -> String {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    let name: String =
        name.bytes().take(255).map(|b| if fits(b) { char::from(b) } else { '?' }).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// The lowest `5 * digits` bits of `n`, the highest first, without the letters that are misread
/// (i, l, o, u).
fn base32(n: u128, digits: u32) -> String {
    (0..digits)
        .rev()
        .filter_map(|place| ALPHABET.chars().nth((n >> (5 * place)) as usize % 32))
        .collect()
}

const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";
