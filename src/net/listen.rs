//! Where connections come from: addresses to listen on, and sockets that systemd passes.
//!
//! ```text
//! 127.0.0.1:25   [::1]:25   mx.example.org:25   unix:/run/mailslot/smtp,mode=660
//! tls:mx.example.org:465
//! ```
//! A name is looked up once, and every address it has is listened on. `[::]:25` takes IPv4 too,
//! where the system is set up so (Linux is). A Unix socket that nobody listens on any more is
//! replaced; anything else that bears its name is left alone, and an error.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use listenfd::ListenFd;
use nix::sys::socket::Backlog;

use crate::net::stream::{Peer, Socket};
use crate::observe::events;

/// Where to listen, as the options `--listen` and `--lmtp` give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`, `192.0.2.1:25` or `[2001:db8::1]:25`; port 0 takes a free one.
    Tcp {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
        /// `tls:` in front: TLS from the first octet on (RFC 8314 3.3).
        tls: bool,
    },
    /// `unix:PATH`, or `unix:PATH,mode=660`; the mode is 666 if not given.
    Unix {
        /// Where the socket is made.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// What is spoken with whoever connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// LMTP (RFC 2033), or else SMTP.
    pub lmtp: bool,
    /// Inside TLS from the first octet on (RFC 8314 3).
    pub tls: bool,
}

/// A source of connections: what the server needs of a [`Listener`], so that a test can fail it.
pub trait Accept: AsFd {
    /// The next connection. Does not block: without one the error is `WouldBlock`.
    ///
    /// # Errors
    /// As accept(2).
    fn accept(&self) -> io::Result<(Socket, Peer)>;

    /// What is spoken over its connections.
    fn service(&self) -> Service {
        Service::default()
    }
}

/// An open listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    service: Service,
    /// The Unix socket that was made here, by device and inode; removed when it is closed.
    made: Option<(PathBuf, u64, u64)>,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Listens on all of `addresses`. A loopback address that this host does not have is passed over
/// with a warning if another could be had: many a container has no `::1`.
///
/// # Errors
/// The first address that cannot be had, with the cure where it is known.
pub fn open(addresses: &[ListenAddress]) -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    let mut passed_over = None;
    for address in addresses {
        match address {
            ListenAddress::Unix { path, mode } => {
                listeners.push(listen_unix(path, *mode).map_err(|e| address.explain(e))?);
            }
            ListenAddress::Tcp { host, port, tls } => {
                let found = (host.as_str(), *port).to_socket_addrs();
                for socket_address in found.map_err(|e| address.explain(e))? {
                    let missing = |e: &io::Error| e.kind() == io::ErrorKind::AddrNotAvailable;
                    match listen_tcp(socket_address) {
                        Ok(mut listener) => {
                            listener.service.tls = *tls;
                            listeners.push(listener);
                        }
                        Err(e) if missing(&e) && socket_address.ip().is_loopback() => {
                            passed_over = Some(address.explain(e));
                        }
                        Err(e) => return Err(address.explain(e)),
                    }
                }
            }
        }
    }
    match passed_over {
        Some(e) if listeners.is_empty() => return Err(e),
        Some(e) => events::listen_failed(e),
        None => {}
    }
    Ok(listeners)
}

/// The listening sockets that systemd passed (`LISTEN_FDS`, sd_listen_fds(3)): TCP or Unix. What is
/// spoken on each is told by its name (`LISTEN_FDNAMES`): `tls` or `lmtp`; any other is SMTP, first
/// of all its unit's own name, which systemd gives it when it is told none.
///
/// # Errors
/// One of them is something else, or LMTP on the port of SMTP.
pub fn passed() -> io::Result<Vec<Listener>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut fds = ListenFd::from_env();
    let mut listeners = Vec::with_capacity(fds.len());
    for i in 0..fds.len() {
        let name = names.next().unwrap_or_default();
        let socket = match fds.take_tcp_listener(i) {
            Ok(tcp) => tcp.map(Listening::Tcp),
            Err(_) => fds.take_unix_listener(i)?.map(Listening::Unix),
        };
        let Some(mut listener) = socket.map(Listener::new).transpose()? else { continue };
        listener.service = Service { lmtp: name == "lmtp", tls: name == "tls" };
        if listener.service.lmtp && listener.local_addr().is_some_and(|a| a.port() == 25) {
            // RFC 2033 5
            let why = format!("systemd passed {listener} by the name of lmtp: port 25 is SMTP's");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Tells the service manager, if there is one (`NOTIFY_SOCKET`, sd_notify(3)): `READY=1` once
/// connections are accepted, `STOPPING=1` when it ends. A failure is logged: mail matters more.
pub fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(e) = send_datagram(Path::new(&socket), state.as_bytes()) {
        events::notify_failed(state, e);
    }
}

fn send_datagram(to: &Path, bytes: &[u8]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    if let Some(name) = to.as_os_str().as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return socket.send_to_addr(bytes, &address).map(drop);
    }
    socket.send_to(bytes, to).map(drop)
}

impl Listener {
    fn new(socket: Listening) -> io::Result<Listener> {
        // The server waits in poll; a connection that is gone again must not make accept wait.
        match &socket {
            Listening::Tcp(tcp) => tcp.set_nonblocking(true)?,
            Listening::Unix(unix) => unix.set_nonblocking(true)?,
        }
        Ok(Listener { socket, service: Service::default(), made: None })
    }

    /// The same for LMTP.
    pub fn lmtp(mut self) -> Listener {
        self.service.lmtp = true;
        self
    }

    /// The address it really has, with the port that port 0 became; None for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(tcp) => tcp.local_addr().ok(),
            Listening::Unix(_) => None,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match &self.socket {
            Listening::Tcp(_) => None,
            Listening::Unix(unix) => {
                let address = unix.local_addr().ok();
                address.and_then(|a| a.as_pathname().map(Path::to_owned))
            }
        };
        match (self.local_addr(), path) {
            (Some(address), _) => address.fmt(f),
            (None, Some(path)) => write!(f, "unix:{}", path.display()),
            (None, None) => f.write_str("unix socket"),
        }
    }
}

impl Accept for Listener {
    fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.socket {
            Listening::Tcp(tcp) => {
                let (tcp, address) = tcp.accept()?;
                // The BSDs let it inherit O_NONBLOCK.
                #[cfg(not(target_os = "linux"))]
                tcp.set_nonblocking(false)?;
                Ok((Socket::Tcp(tcp), Peer::ip(address)))
            }
            Listening::Unix(unix) => {
                let (unix, _) = unix.accept()?;
                #[cfg(not(target_os = "linux"))]
                unix.set_nonblocking(false)?;
                Ok((Socket::Unix(unix), Peer::Unix))
            }
        }
    }

    fn service(&self) -> Service {
        self.service
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Listening::Tcp(tcp) => tcp.as_fd(),
            Listening::Unix(unix) => unix.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, device, inode)) = &self.made
            && fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (*device, *inode))
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl ListenAddress {
    fn explain(&self, e: io::Error) -> io::Error {
        let fix = match (e.kind(), self) {
            (io::ErrorKind::PermissionDenied, ListenAddress::Tcp { .. }) => {
                "; ports below 1024 take root or CAP_NET_BIND_SERVICE, or a socket unit"
            }
            (io::ErrorKind::PermissionDenied, ListenAddress::Unix { .. }) => {
                "; its folder must be ours to write to"
            }
            (io::ErrorKind::AddrInUse, _) => {
                "; somebody else listens there, choose another with --listen"
            }
            _ => "",
        };
        io::Error::new(e.kind(), format!("cannot listen on {self}: {e}{fix}"))
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<Listener> {
    let tcp = TcpListener::bind(address).map_err(|e| match e.raw_os_error() {
        // A kernel without IPv6 says this, one with it switched off says EADDRNOTAVAIL.
        Some(code) if code == nix::Error::EAFNOSUPPORT as i32 => {
            io::Error::new(io::ErrorKind::AddrNotAvailable, e)
        }
        _ => e,
    })?;
    // std lets 128 connections wait, and a burst of more costs each client a second.
    let _ = nix::sys::socket::listen(&tcp, Backlog::MAXCONN);
    Listener::new(Listening::Tcp(tcp))
}

fn listen_unix(path: &Path, mode: u32) -> io::Result<Listener> {
    let unix = match UnixListener::bind(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_stale(path) => {
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        result => result?,
    };
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    let found = fs::symlink_metadata(path)?;
    let mut listener = Listener::new(Listening::Unix(unix))?;
    listener.made = Some((path.to_owned(), found.dev(), found.ino()));
    Ok(listener)
}

/// Whether `path` is a socket that nobody listens on.
fn is_stale(path: &Path) -> bool {
    let refused = || {
        let tried = UnixStream::connect(path);
        tried.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    };
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) && refused()
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        let wrong = |why: &str| {
            format!("{text:?}: {why} (expected host:port, [v6]:port, tls:host:port, unix:PATH)")
        };
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
                1..=103 if !path.contains('\0') => {
                    Ok(ListenAddress::Unix { path: path.into(), mode })
                }
                _ => Err(wrong("the path is longer than 103 octets, or holds a NUL")),
            };
        }
        let (tls, place) = match text.strip_prefix("tls:") {
            // The host may be called tls.
            Some(rest) if rest.contains(':') => (true, rest),
            _ => (false, text),
        };
        let (host, port) = place.rsplit_once(':').ok_or_else(|| wrong("no port"))?;
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
        Ok(ListenAddress::Tcp { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp { host, port, tls } => {
                let tls = if *tls { "tls:" } else { "" };
                match host.contains(':') {
                    true => write!(f, "{tls}[{host}]:{port}"),
                    false => write!(f, "{tls}{host}:{port}"),
                }
            }
            ListenAddress::Unix { path, mode: 0o666 } => write!(f, "unix:{}", path.display()),
            ListenAddress::Unix { path, mode } => {
                write!(f, "unix:{},mode={mode:o}", path.display())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for text in [
            "127.0.0.1:25",
            "[::1]:25",
            "localhost:0",
            "mx-1.example.org:65535",
            "tls:mx.example.org:465",
            "tls:[::1]:465",
            "tls:25",
            "unix:/run/smtp",
            "unix:smtp:25",
            "unix:/run/smtp,mode=600",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, why) in [
            ("", "no port"),
            ("localhost", "no port"),
            (":25", "no host"),
            ("::1:25", "needs brackets"),
            ("[::1]", "the port is not"),
            ("[::1:25", "no IPv6 address in the brackets"),
            ("[localhost]:25", "no IPv6 address in the brackets"),
            ("h:", "the port is not"),
            ("h:+25", "the port is not"),
            ("h:65536", "the port is not"),
            ("a b:25", "not a host name"),
            ("tls:", "the port is not"),
            ("tls::465", "no host"),
            ("tls:::1:465", "needs brackets"),
            ("tls:tls:h:465", "needs brackets"),
            ("unix:", "no path"),
            ("unix:/run/smtp,mode=1666", "the mode is not octal"),
            ("unix:/run/smtp,mode=", "the mode is not octal"),
        ] {
            let said = text.parse::<ListenAddress>().unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
        assert!(format!("unix:{}", "x".repeat(103)).parse::<ListenAddress>().is_ok());
        assert!(format!("unix:{}", "x".repeat(104)).parse::<ListenAddress>().is_err());
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let address = ListenAddress::Unix { path: path.clone(), mode: 0o640 };
        drop(UnixListener::bind(&path).unwrap());
        let first = open(std::slice::from_ref(&address)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        // Somebody listens: refused, and the socket stays.
        let second = open(std::slice::from_ref(&address)).unwrap_err();
        assert!(second.to_string().contains("somebody else listens"), "{second}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(open(&[address]).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_service_manager_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send_datagram(&path, b"READY=1").unwrap();
        let mut told = [0; 16];
        let n = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..n], b"READY=1");
        assert!(send_datagram(&directory.path().join("nobody"), b"READY=1").is_err());
    }
}
