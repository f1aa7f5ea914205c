//! The name that a client gives in HELO, EHLO or LHLO (RFC 5321 4.1.1.1).
//!
//! The name is only shown, in the reply and in the Received field, so a server must not reject mail
//! because of it (4.1.4). Devices send their computer name in any form: with blanks, umlauts, or a
//! dot at its end. So any name is accepted, and cleaned.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

use super::path::Domain;

/// The name of a client: a domain or an address literal as it was sent, or a cleaned form of
/// something else. It has 1 to 255 bytes, all of them letters, digits or `.-_:[]?`, or is an
/// address literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientName(String);

impl ClientName {
    /// Reads the argument of a greeting command. Returns None if it is empty.
    ///
    /// A dot at the end is removed, a bare IPv6 address becomes a literal, and in any other name
    /// that is not a domain in ASCII, [`clean_host_name`] replaces the characters that no name
    /// contains. They include UTF-8, because a client does not know before the reply whether it may
    /// send UTF-8 (RFC 6531 3.7.1).
    pub(super) fn read(argument: &[u8]) -> Option<ClientName> {
        if argument.is_empty() {
            return None;
        }
        let name = argument.strip_suffix(b".").unwrap_or(argument);
        if let Some(domain) = Domain::parse_bytes(name).ok().filter(Domain::is_ascii) {
            return Some(ClientName(domain.to_string()));
        }
        let name = String::from_utf8_lossy(name);
        if let Ok(address) = name.parse::<Ipv6Addr>() {
            return Some(ClientName(format!("[IPv6:{address}]")));
        }
        Some(ClientName(clean_host_name(&name).into_owned()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns a host name for a reply or a header field: at most 255 letters, digits and `.-_:[]`.
/// Any other character becomes `?`, and an empty name `unknown`.
pub fn clean_host_name(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if name.is_empty() {
        Cow::Borrowed("unknown")
    } else if name.len() <= 255 && name.chars().all(fits) {
        Cow::Borrowed(name)
    } else {
        name.chars().take(255).map(|c| if fits(c) { c } else { '?' }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_accepted_and_cleaned() {
        let rows: &[(&[u8], &str)] = &[
            (b"alpha.arpa", "alpha.arpa"),
            (b"my_pc", "my_pc"),
            (b"[127.0.0.1]", "[127.0.0.1]"),
            (b"[IPv6:::1]", "[IPv6:::1]"),
            (b"192.0.2.1", "192.0.2.1"),
            (b"host.example.", "host.example"),
            (b"2001:db8::1", "[IPv6:2001:db8::1]"),
            (b"printer-.lan", "printer-.lan"),
            (b"-", "-"),
            (b".", "unknown"),
            (b"Jo's computer", "Jo?s?computer"),
            ("M\u{dc}LLER-PC".as_bytes(), "M?LLER-PC"),
            (b"M\xdcLLER-PC", "M?LLER-PC"),
            (b"a\x7f\x01", "a??"),
            (b"[127.0.0.1", "[127.0.0.1"),
            (b"(x)", "?x?"),
            (b"<host>", "?host?"),
        ];
        for (argument, expected) in rows {
            let name = ClientName::read(argument).unwrap();
            assert_eq!(name.as_str(), *expected, "{}", argument.escape_ascii());
        }
        assert_eq!(ClientName::read(b""), None);
    }

    #[test]
    fn a_long_name_is_cut() {
        for length in [255, 256, 1000] {
            let name = ClientName::read("d".repeat(length).as_bytes()).unwrap();
            assert_eq!(name.as_str(), "d".repeat(255), "{length}");
        }
    }
}
