//! Explanations of an address that the server cannot listen on: in use, not permitted, or not of
//! this host.

use std::io::ErrorKind;
use std::net::TcpListener;

use nix::unistd::geteuid;

use super::{problem, user_name};
use crate::net::listen::{ListenAddress, greeting};
use crate::observe::quote::quoted;
use crate::resolver::Problem;

/// Returns the reason why the server cannot listen on `address`.
pub fn explain(address: &ListenAddress) -> Option<Problem> {
    let ListenAddress::Tcp { host, port, .. } = address else { return None };
    let error = TcpListener::bind((host.as_str(), *port)).err()?;
    Some(match error.kind() {
        ErrorKind::AddrInUse => {
            let what = match greeting(address) {
                Some(line) => format!("by another server: {}", quoted(line)),
                None => "by a program that sends no greeting".to_owned(),
            };
            problem(format!("{address} is in use {what}"), "stop it, or choose another address")
        }
        ErrorKind::PermissionDenied => problem(
            format!("{address}: not permitted to {}: {error}", user_name(geteuid())),
            "start as root, or let systemd pass the socket, or choose a port above 1023",
        ),
        // The start says it as well.
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::assert_found;

    #[test]
    fn port_in_use_is_reported_with_the_greeting() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address: ListenAddress = other.local_addr().unwrap().to_string().parse().unwrap();
        for (greeting, word) in [
            ("220 h ESMTP Postfix\r\n", "another server: \"220 h ESMTP Postfix\""),
            ("", "sends no greeting"),
        ] {
            let problem = std::thread::scope(|scope| {
                let asked = scope.spawn(|| explain(&address));
                let (mut stream, _) = other.accept().unwrap();
                std::io::Write::write_all(&mut stream, greeting.as_bytes()).unwrap();
                drop(stream);
                asked.join().unwrap()
            });
            assert_found(&Vec::from_iter(problem), word, true);
        }
        drop(other);
        // Not that port, because another program may use it by now.
        assert_eq!(explain(&"127.0.0.1:0".parse().unwrap()), None);
    }
}
