//! Listening sockets across a restart: the service manager keeps the sockets that the server opened
//! (`FDSTORE=1`, sd_notify(3)), and passes them to the next start. A connection that comes
//! meanwhile waits in the socket, and is then served.
//!
//! ```text
//! start: passed sockets --- of a socket unit ------> served
//!                      \--- kept, and still wanted -> served; otherwise closed, here and there
//!        other addresses of --listen, --lmtp ------> opened, and kept
//! ```
//! Only TCP sockets are kept. A Unix socket is created again at each start.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, getsockopt, sockopt};

use super::listen::{self, ListenAddress, Listener};
use crate::observe::events;

/// Opens the sockets of a server that listens on the addresses `smtp` and `lmtp`. Uses those that
/// the service manager passed, and opens the addresses that these do not cover.
///
/// # Errors
/// An address cannot be used. If a socket unit has it, the text names the unit.
pub fn open(smtp: &[ListenAddress], lmtp: &[ListenAddress]) -> io::Result<Vec<Listener>> {
    let wanted: Vec<Wanted> =
        resolve(smtp, false).chain(resolve(lmtp, true)).collect::<io::Result<_>>()?;
    let (kept, mut passed): (Vec<_>, Vec<_>) = listen::passed()?.into_iter().partition(is_kept);
    let is_wanted = |l: &Listener| wanted.iter().any(|wanted| wanted.is_address_of(l));
    let (kept, unwanted): (Vec<_>, Vec<_>) = kept.into_iter().partition(is_wanted);
    let retry_time = if unwanted.is_empty() { Duration::ZERO } else { RELEASE_TIME };
    release(unwanted);
    let units = passed.iter().map(Listener::to_string).collect::<Vec<_>>().join(", ");
    let has_kept = !kept.is_empty();
    passed.extend(kept);
    // A socket unit may leave the protocol to the configuration.
    for listener in &mut passed {
        if let Some(wanted) = wanted.iter().find(|wanted| wanted.is_address_of(listener)) {
            listener.set_service(wanted.lmtp, wanted.tls());
        }
    }
    let opened = match open_rest(&wanted, &passed, retry_time) {
        // An address that was added, such as 0.0.0.0:25 when 127.0.0.1:25 is kept, may conflict
        // with those that were kept. So all are opened again.
        Err(_) if has_kept => {
            let (kept, units): (Vec<_>, Vec<_>) = passed.into_iter().partition(is_kept);
            release(kept);
            passed = units;
            open_rest(&wanted, &passed, RELEASE_TIME)
        }
        opened => opened,
    };
    let opened = opened.map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse if !units.is_empty() => io::Error::new(
            e.kind(),
            format!(
                "{e}; systemd passed {units}, so give the address in ListenStream= of \
                 mailslot.socket, or disable that unit"
            ),
        ),
        _ => e,
    })?;
    opened.iter().for_each(keep);
    passed.extend(opened);
    // systemd passes them in any order.
    passed.sort_unstable_by_key(|l| {
        wanted.iter().position(|wanted| wanted.is_address_of(l)).unwrap_or(usize::MAX)
    });
    Ok(passed)
}

/// True if all of the passed sockets, by their names (`LISTEN_FDNAMES`), are sockets that were
/// kept, so that no socket unit says where to listen.
pub fn are_all_kept(names: &str) -> bool {
    !names.is_empty() && names.split(':').all(|name| name.starts_with(NAME_PREFIX))
}

/// An address to listen on: of `socket`, or the Unix socket of `address`.
struct Wanted {
    address: ListenAddress,
    socket: Option<SocketAddr>,
    lmtp: bool,
}

impl Wanted {
    fn tls(&self) -> bool {
        matches!(self.address, ListenAddress::Tcp { tls: true, .. })
    }

    fn is_address_of(&self, listener: &Listener) -> bool {
        match (self.socket, &self.address) {
            (None, ListenAddress::Unix { path, .. }) => {
                listener.to_string() == format!("unix:{}", path.display())
            }
            (socket, _) => socket.is_some() && listener.local_addr() == socket,
        }
    }

    /// True if `listener` gets the connections for this address, because it has the address or a
    /// wildcard.
    fn is_covered_by(&self, listener: &Listener) -> bool {
        let (Some(wanted), Some(found)) = (self.socket, listener.local_addr()) else {
            return self.is_address_of(listener);
        };
        let v6_only = || getsockopt(&listener.as_fd(), sockopt::Ipv6V6Only).unwrap_or(true);
        let is_wildcard = found.ip().is_unspecified()
            && (found.is_ipv4() == wanted.is_ipv4() || (found.is_ipv6() && !v6_only()));
        found.port() == wanted.port() && (found.ip() == wanted.ip() || is_wildcard)
    }
}

/// Resolves `addresses` to one address for each socket.
fn resolve(addresses: &[ListenAddress], lmtp: bool) -> impl Iterator<Item = io::Result<Wanted>> {
    addresses.iter().flat_map(move |address| {
        let ListenAddress::Tcp { host, port, tls } = address else {
            return vec![Ok(Wanted { address: address.clone(), socket: None, lmtp })];
        };
        match (host.as_str(), *port).to_socket_addrs() {
            Err(e) => vec![Err(address.explain(e))],
            Ok(found) => {
                let wanted = |socket: SocketAddr| {
                    let host = socket.ip().to_string();
                    let address = ListenAddress::Tcp { host, port: *port, tls: *tls };
                    Ok(Wanted { address, socket: Some(socket), lmtp })
                };
                found.map(wanted).collect()
            }
        }
    })
}

/// Opens the addresses that `passed` does not cover. Retries for `retry_time` while one is in use.
fn open_rest(
    wanted: &[Wanted],
    passed: &[Listener],
    retry_time: Duration,
) -> io::Result<Vec<Listener>> {
    let is_covered = |wanted: &&Wanted| passed.iter().any(|l| wanted.is_covered_by(l));
    let of = |lmtp: bool| {
        let rest = wanted.iter().filter(|w| w.lmtp == lmtp && !is_covered(w));
        rest.map(|w| w.address.clone()).collect::<Vec<_>>()
    };
    let (smtp, lmtp) = (of(false), of(true));
    let deadline = Instant::now() + retry_time;
    loop {
        let opened = listen::open(&smtp).and_then(|mut listeners| {
            listeners.extend(listen::open(&lmtp)?.into_iter().map(Listener::lmtp));
            Ok(listeners)
        });
        match opened {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(RELEASE_TIME / 40);
            }
            // This host has no ::1. The other addresses are served, as without passed sockets.
            Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable && !passed.is_empty() => {
                events::listen_failed(e);
                return Ok(Vec::new());
            }
            opened => return opened,
        }
    }
}

fn is_kept(listener: &Listener) -> bool {
    listener.passed_name().is_some_and(|name| name.starts_with(NAME_PREFIX))
}

/// Has the service manager keep the socket, if it is for TCP and there is a manager.
fn keep(listener: &Listener) {
    let Some(address) = listener.local_addr() else { return };
    let fd = [listener.as_fd().as_raw_fd()];
    let state = format!("FDSTORE=1\nFDNAME={}", name(address));
    listen::notify_with(&state, &[ControlMessage::ScmRights(&fd)]);
}

/// Closes the sockets, and has the service manager close them.
fn release(listeners: Vec<Listener>) {
    for listener in &listeners {
        if let Some(name) = listener.passed_name() {
            listen::notify_with(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]);
        }
    }
}

/// Returns the name under which the socket at `address` is kept, which must not have a colon.
fn name(address: SocketAddr) -> String {
    format!("{NAME_PREFIX}{}", address.to_string().replace(':', "_"))
}

const NAME_PREFIX: &str = "kept-";
/// Time in which the service manager closes a socket that it is not to keep any more.
const RELEASE_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kept_sockets_are_recognized() {
        for address in ["127.0.0.1:25", "[::1]:25"] {
            let name = name(address.parse().unwrap());
            assert!(are_all_kept(&name) && !name.contains(':'), "{name}");
            assert!(are_all_kept(&format!("{name}:{name}")));
            assert!(!are_all_kept(&format!("mailslot.socket:{name}")));
        }
        assert!(!are_all_kept("") && !are_all_kept("mailslot.socket"));
    }

    #[test]
    fn a_wildcard_covers_the_addresses_of_its_port() {
        let listen = |text: &str| {
            let address: ListenAddress = text.parse().unwrap();
            listen::open(&[address]).unwrap().remove(0)
        };
        let listener = listen("0.0.0.0:0");
        let port = listener.local_addr().unwrap().port();
        let wanted = |text: String| {
            let address: [ListenAddress; 1] = [text.parse().unwrap()];
            resolve(&address, false).next().unwrap().unwrap()
        };
        let other = if port == 65535 { 65534 } else { port + 1 };
        assert!(wanted(format!("127.0.0.1:{port}")).is_covered_by(&listener));
        assert!(wanted(format!("0.0.0.0:{port}")).is_covered_by(&listener));
        assert!(!wanted(format!("127.0.0.1:{other}")).is_covered_by(&listener));
        assert!(!wanted(format!("[::1]:{port}")).is_covered_by(&listener));
        let loopback = listen("127.0.0.1:0");
        let port = loopback.local_addr().unwrap().port();
        assert!(!wanted(format!("0.0.0.0:{port}")).is_covered_by(&loopback));
    }
}
