//! The address of a server, as options and files have it.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::net::listen::{TLS_PORT, write_tcp};

/// The address of a server: `HOST`, `HOST:PORT`, `[IPV6]:PORT`, `tls:HOST:PORT` or `unix:PATH`.
/// Port 465 means `tls:` unless `plain:` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// A host, over TCP.
    Tcp {
        /// A name or an IP address, without brackets.
        host: String,
        /// The port. If not given, 25, or 465 after `tls:`.
        port: u16,
        /// True for TLS from the first byte (RFC 8314 3.3).
        tls: bool,
    },
    /// The path of a socket on this host.
    Unix(PathBuf),
}

impl FromStr for ServerAddress {
    type Err = String;

    /// # Errors
    /// The text has another form.
    fn from_str(text: &str) -> Result<ServerAddress, String> {
        let wrong = |error: &str| format!("{text:?}: {error}");
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.contains('\0') {
                return Err(wrong("no path"));
            }
            return Ok(ServerAddress::Unix(path.into()));
        }
        let (tls, host_and_port) = match (text.strip_prefix("tls:"), text.strip_prefix("plain:")) {
            (Some(rest), _) => (Some(true), rest),
            // A host may be named plain.
            (None, Some(rest)) if rest.contains(':') => (Some(false), rest),
            _ => (None, text),
        };
        let bracketed = host_and_port.strip_prefix('[').map(|rest| rest.split_once(']'));
        let (host, port) = match bracketed {
            Some(Some((host, rest))) if host.parse::<Ipv6Addr>().is_ok() => match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or_else(|| wrong("no port"))?)),
            },
            Some(_) => return Err(wrong("no IPv6 address in the brackets")),
            None => match host_and_port.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (host_and_port, None),
            },
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(wrong("not a host name"));
        }
        let port = match port {
            None if tls == Some(true) => TLS_PORT,
            None => 25,
            // `parse` alone would accept a sign.
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => match port.parse() {
                Ok(port @ 1..) => port,
                _ => return Err(wrong(NOT_A_PORT)),
            },
            Some(port) if port.contains(':') => {
                return Err(wrong("an IPv6 address needs brackets"));
            }
            Some(_) => return Err(wrong(NOT_A_PORT)),
        };
        let tls = tls.unwrap_or(port == TLS_PORT);
        Ok(ServerAddress::Tcp { host: host.to_owned(), port, tls })
    }
}

impl ServerAddress {
    /// Returns the server without the port: a host name, an IP address without brackets, or
    /// `unix:PATH`.
    pub fn server_name(&self) -> String {
        match self {
            ServerAddress::Tcp { host, .. } => host.clone(),
            ServerAddress::Unix(_) => self.to_string(),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ServerAddress::Tcp { host, port, tls } => write_tcp(f, host, *port, *tls),
        }
    }
}

const NOT_A_PORT: &str = "the port is not a number from 1 to 65535";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for (text, shown) in [
            ("mx.example.org", "mx.example.org:25"),
            ("mx.example.org:587", "mx.example.org:587"),
            ("192.0.2.1", "192.0.2.1:25"),
            ("[::1]", "[::1]:25"),
            ("[::1]:2525", "[::1]:2525"),
            ("tls:mx.example.org", "tls:mx.example.org:465"),
            ("mx.example.org:465", "tls:mx.example.org:465"),
            ("plain:mx.example.org:465", "plain:mx.example.org:465"),
            ("plain:587", "plain:587"),
            ("tls:[::1]:1465", "tls:[::1]:1465"),
            ("unix:/run/mailslot/smtp", "unix:/run/mailslot/smtp"),
        ] {
            let address = text.parse::<ServerAddress>().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<ServerAddress>().unwrap(), address);
        }
        for (text, why) in [
            ("", "not a host name"),
            (":25", "not a host name"),
            ("a b", "not a host name"),
            ("tls:", "not a host name"),
            ("h:", "the port is not"),
            ("h:0", "the port is not"),
            ("h:+25", "the port is not"),
            ("h:65536", "the port is not"),
            ("::1", "not a host name"),
            ("2001:db8::1", "needs brackets"),
            ("[::1", "no IPv6 address"),
            ("[::1]25", "no port"),
            ("[localhost]:25", "no IPv6 address"),
            ("unix:", "no path"),
        ] {
            let said = text.parse::<ServerAddress>().unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }
}
