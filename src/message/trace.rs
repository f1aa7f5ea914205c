//! The trace fields that a receiver adds above a message (RFC 5321 4.4), the dates in them, and
//! message ids.
//!
//! ```text
//! Return-Path: <smith@example.org>
//! Received: from relay.example.org ([192.0.2.7])
//!         by mx.example.com with ESMTP id 5k0hj2m8q1v7c3xd-7-1
//!         for <jones@example.com>; Tue, 1 Jul 2025 10:52:37 +0200
//! ```
//! Text from the client is sanitized before it is written, and no line is longer than the 998
//! octets of RFC 5322 2.1.1. The fields of other hosts are read in [`content`](super::content).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use jiff::{Timestamp, Zoned};

use super::peer::Peer;
use crate::process::time_zone;
use crate::smtp::client_name::clean_host_name;
use crate::smtp::{ForwardPath, Protocol, ReversePath};

/// The values of the Received field of a message (RFC 5321 4.4).
#[derive(Clone, Copy, Debug)]
pub struct ReceivedField<'a> {
    /// The name that the client gave in EHLO.
    pub client: &'a str,
    /// The other end of the connection.
    pub peer: Peer,
    /// The name of this server.
    pub hostname: &'a str,
    /// The protocol of the transaction.
    pub protocol: Protocol,
    /// Version and cipher of TLS, `using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384`.
    pub tls: Option<&'a str>,
    /// The message id.
    pub id: &'a str,
    /// The recipient, if there is only one. Otherwise each would learn of the others (RFC 5321
    /// 7.2).
    pub recipient: Option<&'a ForwardPath>,
    /// The time when the mail data began.
    pub at: &'a Zoned,
}

impl ReceivedField<'_> {
    /// Returns the field, folded with tabs, with its last LF.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut field = Vec::with_capacity(256);
        // Writing to a vector does not fail.
        drop(self.write(&mut field));
        field
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "Received: from {} ", clean_host_name(self.client))?;
        match self.peer {
            Peer::Ip(address) => match address.ip() {
                IpAddr::V4(ip) => write!(out, "([{ip}])"),
                IpAddr::V6(ip) => write!(out, "([IPv6:{ip}])"),
            },
            Peer::Unix | Peer::LocalUser(_) => write!(out, "(local)"),
            Peer::Pipe => write!(out, "(unknown)"),
            Peer::HandOver(uid) => write!(out, "(handed over by uid {uid})"),
        }?;
        write!(out, "\n\tby {} with {}", clean_host_name(self.hostname), self.protocol)?;
        if let Some(tls) = self.tls {
            write!(out, " ({tls})")?;
        }
        write!(out, " id {}", self.id)?;
        // The date is on the third line, after `for` or alone.
        let gap = match self.recipient {
            Some(path) => {
                write!(out, "\n\tfor {path}")?;
                " "
            }
            None => "\n\t",
        };
        writeln!(out, ";{gap}{}", self.at.strftime(HEADER_DATE))
    }
}

/// Appends the Return-Path field of final delivery with its LF, `Return-Path: <smith@example.org>`,
/// to `out`.
pub fn write_return_path(sender: &ReversePath, out: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    drop(writeln!(out, "Return-Path: {sender}"));
}

/// Formats a date for a header field (RFC 5322 3.3): `Tue, 1 Jul 2025 10:52:37 +0200`.
pub fn format_date(at: &Zoned) -> String {
    at.strftime(HEADER_DATE).to_string()
}

const HEADER_DATE: &str = "%a, %-d %b %Y %H:%M:%S %z";

/// Returns the current time in the time zone of the host, or 1970 if the clock is out of range.
pub fn now() -> Zoned {
    Timestamp::try_from(SystemTime::now())
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_zoned(time_zone::local())
}

/// Returns the current time in seconds since 1970.
pub fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Returns the time `at`, in seconds since 1970, in the time zone of the host.
pub fn zoned(at: i64) -> Zoned {
    Timestamp::from_second(at).unwrap_or(Timestamp::UNIX_EPOCH).to_zoned(time_zone::local())
}

/// Earliest time, since 1970, that a clock which was set can show: the beginning of 2020. A small
/// host without a hardware clock boots in 1970.
pub const EARLIEST_TIME: Duration = Duration::from_secs(1_577_836_800);

/// A generator of message ids that are unique among all processes, hosts and restarts, because
/// recovery searches mailboxes for them.
///
/// ```text
/// 5k0hj2m8q1v7c3xd-7-1     the process, its 7th session, the 1st message of that session
/// ```
/// The part of the process is 48 bits of its start time in microseconds and 32 random bits. An id
/// consists of lower-case letters, digits and hyphens. One id can be the beginning of another
/// (`…-1`, `…-12`), so a search must check the byte after it.
#[derive(Debug)]
pub struct IdGenerator {
    process: String,
    sessions: AtomicU64,
}

impl IdGenerator {
    /// Returns the generator of a process. A process needs only one.
    pub fn new() -> IdGenerator {
        let since_1970 =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // std seeds its hashers from the random source of the system.
        let random = RandomState::new().build_hasher().finish() as u32;
        let bits = since_1970.as_micros() << 32 | u128::from(random);
        IdGenerator { process: base32(bits, 16), sessions: AtomicU64::new(0) }
    }

    /// Returns the id of the next session.
    pub fn next_session_id(&self) -> String {
        let n = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{}-{n}", self.process)
    }
}

impl Default for IdGenerator {
    fn default() -> IdGenerator {
        IdGenerator::new()
    }
}

/// Returns the id of the `n`th message of a session.
pub fn message_id(session: &str, n: u64) -> String {
    format!("{session}-{n}")
}

/// Returns the lowest `5 * digits` bits of `n` in base 32. The digits exclude i, l, o and u, which
/// are easily misread.
fn base32(n: u128, digits: u32) -> String {
    (0..digits)
        .rev()
        .filter_map(|place| ALPHABET.chars().nth((n >> (5 * place)) as usize % 32))
        .collect()
}

const ALPHABET: &str = "0123456789abcdefghjkmnpqrstvwxyz";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::{Hello, Mailbox};
    use std::collections::HashSet;

    const ESMTP: Protocol = Protocol { hello: Hello::Ehlo, tls: false, utf8: false };

    fn zoned(rfc2822: &str) -> Zoned {
        jiff::fmt::rfc2822::parse(rfc2822).unwrap()
    }

    fn text(received: ReceivedField<'_>) -> String {
        String::from_utf8(received.to_bytes()).unwrap()
    }

    #[test]
    fn received_lines() {
        let jones = ForwardPath::Mailbox(Mailbox::parse("\"j o\"@example.com").unwrap());
        let at = zoned("Tue, 1 Jul 2025 10:52:37 +0200");
        let received = ReceivedField {
            client: "relay.example.org",
            peer: Peer::ip(([192, 0, 2, 7], 4711).into()),
            hostname: "mx.example.com",
            protocol: ESMTP,
            tls: None,
            id: "id-1-1",
            recipient: Some(&jones),
            at: &at,
        };
        assert_eq!(
            text(received),
            "Received: from relay.example.org ([192.0.2.7])\n\
             \tby mx.example.com with ESMTP id id-1-1\n\
             \tfor <\"j o\"@example.com>; Tue, 1 Jul 2025 10:52:37 +0200\n"
        );
        let smtp = Protocol { hello: Hello::Helo, ..ESMTP };
        assert_eq!(
            text(ReceivedField { recipient: None, protocol: smtp, ..received }),
            "Received: from relay.example.org ([192.0.2.7])\n\
             \tby mx.example.com with SMTP id id-1-1;\n\
             \tTue, 1 Jul 2025 10:52:37 +0200\n"
        );
        let tls = ReceivedField {
            protocol: Protocol { tls: true, ..ESMTP },
            tls: Some("using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"),
            ..received
        };
        assert!(
            text(tls).contains(
                "\n\tby mx.example.com with ESMTPS (using TLSv1.3 with cipher \
                 TLS_AES_256_GCM_SHA384) id id-1-1\n"
            ),
            "{}",
            text(tls)
        );

        let first = |received| text(received).lines().next().map(str::to_owned).unwrap();
        for (peer, shown) in [
            (Peer::ip("[2001:db8::7]:4711".parse().unwrap()), "([IPv6:2001:db8::7])"),
            (Peer::ip("[::ffff:192.0.2.7]:4711".parse().unwrap()), "([192.0.2.7])"),
            (Peer::Unix, "(local)"),
            (Peer::LocalUser(1000), "(local)"),
            (Peer::Pipe, "(unknown)"),
            (Peer::HandOver(1000), "(handed over by uid 1000)"),
        ] {
            assert_eq!(
                first(ReceivedField { peer, ..received }),
                format!("Received: from relay.example.org {shown}")
            );
        }
        for (client, shown) in [
            ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
            ("my_host", "my_host"),
            ("", "unknown"),
            ("a b\r\nX-UID: 1", "a?b??X-UID:?1"),
            ("a(b)\"\\;\u{e9}", "a?b?????"),
        ] {
            assert_eq!(
                first(ReceivedField { client, ..received }),
                format!("Received: from {shown} ([192.0.2.7])")
            );
        }
        for (date, shown) in [
            ("Thu, 1 Jan 1970 00:00:00 +0000", "Thu, 1 Jan 1970 00:00:00 +0000"),
            ("Wed, 29 Dec 9999 00:00:00 -0330", "Wed, 29 Dec 9999 00:00:00 -0330"),
        ] {
            let line = text(ReceivedField { at: &zoned(date), ..received });
            assert!(line.ends_with(&format!("; {shown}\n")), "{line}");
        }
    }

    #[test]
    fn no_line_grows_beyond_998_octets() {
        let path = format!("{}@{}", "l".repeat(64), "d.".repeat(90) + "org");
        let path = ForwardPath::Mailbox(Mailbox::parse(&path).unwrap());
        let line = text(ReceivedField {
            client: &"c".repeat(5000),
            peer: Peer::Pipe,
            hostname: &"h".repeat(5000),
            protocol: ESMTP,
            tls: None,
            id: &message_id(&format!("{}-{}", IdGenerator::new().process, u64::MAX), u64::MAX),
            recipient: Some(&path),
            at: &now(),
        });
        assert!(line.lines().all(|line| line.len() <= 998), "{line}");
        assert_eq!(line.lines().count(), 3);
    }

    #[test]
    fn return_paths() {
        let smith = ReversePath::Mailbox(Mailbox::parse("smith@example.org").unwrap());
        let mut lines = Vec::new();
        write_return_path(&smith, &mut lines);
        write_return_path(&ReversePath::Null, &mut lines);
        assert_eq!(lines, b"Return-Path: <smith@example.org>\nReturn-Path: <>\n");
    }

    #[test]
    fn ids_differ() {
        let sessions: HashSet<String> = std::thread::scope(|scope| {
            let many = |_| {
                scope.spawn(|| {
                    let ids = IdGenerator::new();
                    (0..100).map(|_| ids.next_session_id()).collect::<Vec<_>>()
                })
            };
            let threads: Vec<_> = (0..20).map(many).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(sessions.len(), 2000);
        for id in sessions.iter().map(|session| message_id(session, 1)) {
            assert!(id.len() <= 22 && id.ends_with("-1"), "{id}");
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            assert!(id.bytes().all(fits), "{id}");
        }
    }

    #[test]
    fn base32_digits() {
        for (n, digits, shown) in [
            (0, 1, "0"),
            (31, 1, "z"),
            (32, 2, "10"),
            (32, 1, "0"),
            (u128::MAX, 3, "zzz"),
            (0b00001_00000_11111, 4, "010z"),
        ] {
            assert_eq!(base32(n, digits), shown);
        }
    }
}
