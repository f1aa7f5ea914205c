//! Checks of the addresses to listen on: in use, not permitted, or not of this host.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use nix::unistd::geteuid;

use super::{advice, problem};
use crate::net::listen::ListenAddress;
use crate::observe::quote::quoted;
use crate::route::Problem;

/// Checks that the server can listen on `address`.
pub fn check(address: &ListenAddress) -> Option<Problem> {
    let ListenAddress::Tcp { host, port, .. } = address else { return None };
    let error = TcpListener::bind((host.as_str(), *port)).err()?;
    Some(match error.kind() {
        ErrorKind::AddrInUse => match greeting(host, *port) {
            Some(line) if line.contains("mailslot") => advice(
                format!("{address} is in use by a running mailslot: {}", quoted(line)),
                "none needed if that is the intended server",
            ),
            Some(line) => problem(
                format!("{address} is in use by another server: {}", quoted(line)),
                "stop it, or choose another address",
            ),
            None => problem(
                format!("{address} is in use by a program that sends no greeting"),
                "stop it, or choose another address",
            ),
        },
        ErrorKind::PermissionDenied => problem(
            format!("{address}: not permitted to uid {}: {error}", geteuid()),
            "start as root, or let systemd pass the socket, or choose a port above 1023",
        ),
        // This host has no IPv6. The server ignores such an address if it is a default.
        ErrorKind::AddrNotAvailable => advice(
            format!("{address} is not an address of this host: {error}"),
            "correct the address",
        ),
        _ => problem(format!("{address}: {error}"), "correct the address"),
    })
}

/// Returns the first line that the server at this address sends within [`GREETING_TIMEOUT`].
fn greeting(host: &str, port: u16) -> Option<String> {
    let stream = TcpStream::connect((host, port)).ok()?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT)).ok()?;
    let mut line = Vec::new();
    // At most 512 octets (RFC 5321 4.5.3.1.5). Text received before an error counts.
    let _ = BufReader::new(stream.take(512)).read_until(b'\n', &mut line);
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    (!line.is_empty()).then_some(line)
}

/// Longer than a server takes to start that systemd starts for this connection.
const GREETING_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::assert_found;

    #[test]
    fn port_in_use_is_reported_with_the_greeting() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: ListenAddress = other.local_addr().unwrap().to_string().parse().unwrap();
        for (greeting, word, stops_mail) in [
            ("220 h ESMTP Postfix\r\n", "another server: \"220 h ESMTP Postfix\"", true),
            ("220 h ESMTP mailslot\r\n", "a running mailslot", false),
            ("", "sends no greeting", true),
        ] {
            let problem = std::thread::scope(|scope| {
                let asked = scope.spawn(|| check(&address));
                let (mut stream, _) = other.accept().unwrap();
                std::io::Write::write_all(&mut stream, greeting.as_bytes()).unwrap();
                drop(stream);
                asked.join().unwrap()
            });
            assert_found(&Vec::from_iter(problem), word, stops_mail);
        }
        drop(other);
        assert_eq!(check(&address), None);
    }
}
