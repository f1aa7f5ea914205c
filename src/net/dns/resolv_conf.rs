//! The file `/etc/resolv.conf` (resolv.conf(5)), as far as it matters for complete names:
//!
//! ```text
//! nameserver 192.0.2.53
//! nameserver [2001:db8::53]:5353      a port, as on OpenBSD
//! options timeout:2 attempts:3
//! ```
//! Other lines are ignored: `search` and `ndots` are for names that people abbreviate, which the
//! domain of a mailbox must not be (RFC 5321 2.3.5).

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// The name servers of this host.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NameServers {
    /// Their addresses, at least one.
    pub servers: Vec<SocketAddr>,
    /// Time to wait for each reply.
    pub timeout: Duration,
    /// Number of times that each is asked.
    pub attempts: u32,
}

impl NameServers {
    /// Reads the file. If it cannot be read or names no server, the server is that of this host,
    /// as in the C library.
    pub fn read(file: &Path) -> NameServers {
        let mut text = String::new();
        let _ = File::open(file).and_then(|file| file.take(FILE_MAX).read_to_string(&mut text));
        NameServers::parse(&text)
    }

    fn parse(text: &str) -> NameServers {
        let mut found = NameServers { servers: Vec::new(), timeout: TIMEOUT, attempts: ATTEMPTS };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().and_then(server)),
                Some("options") => words.for_each(|option| found.set(option)),
                _ => {}
            }
        }
        found.servers.truncate(SERVERS_MAX);
        if found.servers.is_empty() {
            found.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        found
    }

    /// Sets an option such as `timeout:2`, within the limits of the C library.
    fn set(&mut self, option: &str) {
        let Some((name, Ok(value))) =
            option.split_once(':').map(|(name, value)| (name, value.parse::<u32>()))
        else {
            return;
        };
        match name {
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 30).into()),
            "attempts" => self.attempts = value.clamp(1, 5),
            _ => {}
        }
    }
}

/// Parses an address, or an address in brackets with a port. `fe80::1%eth0` is not supported.
fn server(word: &str) -> Option<SocketAddr> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Some((address, PORT).into());
    }
    let (address, port) = word.strip_prefix('[')?.split_once("]:")?;
    Some((address.parse::<IpAddr>().ok()?, port.parse().ok()?).into())
}

/// The port of name servers.
const PORT: u16 = 53;
/// Default time to wait for a reply.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Default number of times that each server is asked.
const ATTEMPTS: u32 = 2;
/// Maximum number of servers that are used, as in the C library.
const SERVERS_MAX: usize = 3;
/// Maximum number of bytes read.
const FILE_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let parse = |text: &str| {
            let NameServers { servers, timeout, attempts } = NameServers::parse(text);
            let servers: Vec<String> = servers.iter().map(SocketAddr::to_string).collect();
            (servers.join(" "), timeout.as_secs(), attempts)
        };
        for (text, servers, timeout, attempts) in [
            ("", "127.0.0.1:53", 5, 2),
            ("nameserver nonsense\nnameserver\n", "127.0.0.1:53", 5, 2),
            ("# nameserver 192.0.2.9\n;x\nnameserver\t192.0.2.1 x\n", "192.0.2.1:53", 5, 2),
            ("nameserver ::1\nsearch a.example\n", "[::1]:53", 5, 2),
            ("nameserver [::1]:53535\nnameserver [192.0.2.1]:54", "[::1]:53535 192.0.2.1:54", 5, 2),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n\
                 nameserver 192.0.2.4\noptions timeout:1 rotate attempts:3\n",
                "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53",
                1,
                3,
            ),
            ("options timeout:0 attempts:0", "127.0.0.1:53", 1, 1),
            ("options timeout:99999 attempts:99999 timeout:x", "127.0.0.1:53", 30, 5),
        ] {
            assert_eq!(parse(text), (servers.to_owned(), timeout, attempts), "{text:?}");
        }
        assert_eq!(NameServers::read(Path::new("/nonexistent")), NameServers::parse(""));
    }
}
