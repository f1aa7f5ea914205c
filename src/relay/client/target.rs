//! To whom a client connects, as options and files have it.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

/// Whom to connect to: `HOST`, `HOST:PORT`, `[IPV6]:PORT`, `tls:HOST:PORT` or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// A host.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// 25 where none was given, or 465 with `tls:` in front.
        port: u16,
        /// TLS from the first octet on (RFC 8314 3.3).
        tls: bool,
    },
    /// A server on this host.
    Unix(PathBuf),
}

impl FromStr for ServerAddress {
    type Err = String;

    /// # Errors
    /// The text has another form; the error tells which is expected.
    fn from_str(text: &str) -> Result<ServerAddress, String> {
        let wrong = |why: &str| format!("{text:?}: {why}");
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() || path.contains('\0') {
                true => Err(wrong("no path")),
                false => Ok(ServerAddress::Unix(path.into())),
            };
        }
        let (tls, place) = match text.strip_prefix("tls:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (host, port) = match place.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, rest))) if host.parse::<Ipv6Addr>().is_ok() => match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or_else(|| wrong("no port"))?)),
            },
            Some(_) => return Err(wrong("no IPv6 address in the brackets")),
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(wrong("not a host name"));
        }
        let port = match port {
            None => {
                if tls {
                    465
                } else {
                    25
                }
            }
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port > 0).ok_or_else(|| wrong(NO_PORT))?
            }
            Some(port) if port.contains(':') => {
                return Err(wrong("an IPv6 address needs brackets"));
            }
            Some(_) => return Err(wrong(NO_PORT)),
        };
        Ok(ServerAddress::Tcp { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            ServerAddress::Tcp { host, port, tls } => {
                let tls = if *tls { "tls:" } else { "" };
                match host.contains(':') {
                    true => write!(f, "{tls}[{host}]:{port}"),
                    false => write!(f, "{tls}{host}:{port}"),
                }
            }
        }
    }
}

const NO_PORT: &str = "the port is not a number from 1 to 65535";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_back() {
        for (text, shown) in [
            ("mx.example.org", "mx.example.org:25"),
            ("mx.example.org:587", "mx.example.org:587"),
            ("192.0.2.1", "192.0.2.1:25"),
            ("[::1]", "[::1]:25"),
            ("[::1]:2525", "[::1]:2525"),
            ("tls:mx.example.org", "tls:mx.example.org:465"),
            ("tls:[::1]:1465", "tls:[::1]:1465"),
            ("unix:/run/mailslot/smtp", "unix:/run/mailslot/smtp"),
        ] {
            let target = text.parse::<ServerAddress>().unwrap();
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse::<ServerAddress>().unwrap(), target);
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
