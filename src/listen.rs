//! Where sockets come from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen, as the options `--listen` and `--lmtp` give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `host:port`, `192.0.2.1:25` or `[2001:db8::1]:25`; port 0 takes a free one.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// `unix:PATH`, or `unix:PATH,mode=660`; the mode is 666 if not given.
    Unix {
        /// Where the socket is made.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        let wrong =
            |why: &str| format!("{text:?}: {why} (expected host:port, [v6]:port, unix:PATH)");
        if let Some(rest) = text.strip_prefix("unix:") {
            let (path, mode) = match rest.rsplit_once(",mode=") {
                None => (rest, 0o666),
                Some((path, octal)) => match u32::from_str_radix(octal, 8) {
                    Ok(mode) if mode <= 0o777 => (path, mode),
                    _ => return Err(wrong("the mode is not octal, 0 to 777")),
                },
            };
            // sun_path has 108 octets on Linux and 104 on the BSDs, a NUL at the end included.
            return match path.len() {
                0 => Err(wrong("no path")),
                1..=103 if !path.contains('\0') => Ok(Address::Unix { path: path.into(), mode }),
                _ => Err(wrong("the path is longer than 103 octets, or holds a NUL")),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("no port"))?;
        // u16::from_str would take a sign.
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|_| digits);
        let port = port.ok_or_else(|| wrong("the port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(Some(v6)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(wrong("no IPv6 address in the brackets")),
            None if host.contains(':') => return Err(wrong("an IPv6 address needs brackets")),
            None if host.is_empty() => return Err(wrong("no host")),
            None if host.bytes().any(|b| !b.is_ascii_alphanumeric() && !b"-._".contains(&b)) => {
                return Err(wrong("not a host name"));
            }
            None => host,
        };
        Ok(Address::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
            Address::Unix { path, mode: 0o666 } => write!(f, "unix:{}", path.display()),
            Address::Unix { path, mode } => write!(f, "unix:{},mode={mode:o}", path.display()),
        }
    }
}
