//! Listening sockets: opened at configured addresses, or passed by systemd.
//!
//! ```text
//! 127.0.0.1:25   [::1]:25   mx.example.org:25   unix:/run/mailslot/smtp,mode=660
//! tls:mx.example.org:465   plain:mx.example.org:465
//! ```
//! On port 465 TLS begins with the first byte (RFC 8314 3.3) unless `plain:` is given.
//!
//! A name is resolved once, and all of its addresses are used. `[::]:25` takes IPv4 connections too
//! where the system is configured so, as Linux is. If an IPv4 address with the same port is given
//! too, it takes IPv6 alone (IPV6_V6ONLY, RFC 3493 5.3), so that both can be given. A Unix socket
//! that no process listens on is replaced. Any other file of that name is left alone, and is an
//! error.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, IoSlice, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use listenfd::ListenFd;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use socket2::{Domain, Protocol, Type};

use crate::message::peer::Peer;
use crate::net::socket::unix_peer;
use crate::net::stream::Socket;
use crate::observe::events;
use crate::observe::quote::quoted;

/// An address to listen on, in the form of the options `--listen` and `--lmtp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`, `192.0.2.1:25` or `[2001:db8::1]:25`.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port; 0 is replaced by a free one.
        port: u16,
        /// Whether TLS begins with the first byte (RFC 8314 3.3): with `tls:` before the host, and
        /// on [`TLS_PORT`] without `plain:`.
        tls: bool,
    },
    /// `unix:PATH`, or `unix:PATH,mode=660`; the mode is 666 if not given.
    Unix {
        /// Path of the socket.
        path: PathBuf,
        /// Permission bits.
        mode: u32,
    },
}

/// The protocol of a listener's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Whether it is LMTP (RFC 2033), and not SMTP.
    pub lmtp: bool,
    /// Whether TLS begins with the first byte (RFC 8314 3).
    pub tls: bool,
}

/// A source of connections. This is all that the server needs of a [`Listener`], so that tests can
/// replace it by a source that fails.
pub trait Accept: AsFd {
    /// Returns the next connection, without blocking.
    ///
    /// # Errors
    /// Those of accept(2). `WouldBlock` if there is none.
    fn accept(&self) -> io::Result<(Socket, Peer)>;

    /// Returns the protocol of its connections.
    fn service(&self) -> Service {
        Service::default()
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Listening,
    service: Service,
    /// Path, device and inode of a Unix socket that was created here. It is removed at the end.
    created: Option<(PathBuf, u64, u64)>,
    /// Name of a socket that systemd passed.
    passed_name: Option<String>,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Opens sockets that listen on all of `addresses`. A loopback address that this host does not have
/// is skipped with a warning if there is another, because many containers have no `::1`.
///
/// # Errors
/// One of the addresses cannot be used. The text names it, and how to fix it if that is known.
pub fn open(addresses: &[ListenAddress]) -> io::Result<Vec<Listener>> {
    let listen =
        |address: &ListenAddress, socket: Option<SocketAddr>, v6_only| match (address, socket) {
            (ListenAddress::Unix { path, mode }, _) => {
                remove_stale(path).and_then(|()| listen_unix(path, *mode)).map(Some)
            }
            (_, Some(socket)) => listen_tcp(socket, v6_only).map(Some),
            (_, None) => Ok(None),
        };
    open_by(addresses, listen)
}

/// Opens all of `addresses` as [`open`] does, and closes them again. An address of the server that
/// runs already, if `server_runs`, is skipped. Returns a line for each of these. A Unix socket gets
/// another name in its directory, so that the file of the address is not changed.
///
/// # Errors
/// The same as those of [`open`].
pub fn rehearse(addresses: &[ListenAddress], server_runs: bool) -> io::Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut skip_own = |address: &ListenAddress, result: io::Result<Listener>| match result {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && server_runs => {
            let line = greeting(address).unwrap_or_default();
            let tls = matches!(address, ListenAddress::Tcp { tls: true, .. });
            if !tls && !line.contains("mailslot") {
                return Err(e);
            }
            let line = if tls { String::new() } else { format!(": {}", quoted(line)) };
            notes.push(format!("{address} is in use by a running mailslot{line}"));
            Ok(None)
        }
        result => result.map(Some),
    };
    let listen = |address: &ListenAddress, socket: Option<SocketAddr>, v6_only| {
        let listener = match (address, socket) {
            (ListenAddress::Unix { path, mode }, _) => {
                let other = format!(".{}", std::process::id());
                check_free(path).and_then(|_| listen_unix(&path.with_file_name(other), *mode))
            }
            (_, Some(socket)) => listen_tcp(socket, v6_only),
            (_, None) => return Ok(None),
        };
        skip_own(address, listener)
    };
    open_by(addresses, listen)?;
    Ok(notes)
}

/// Resolves `addresses`, and calls `listen` for each socket address. Its last argument is true if
/// the socket must be for IPv6 alone.
fn open_by<F>(addresses: &[ListenAddress], mut listen: F) -> io::Result<Vec<Listener>>
where
    F: FnMut(&ListenAddress, Option<SocketAddr>, bool) -> io::Result<Option<Listener>>,
{
    let mut resolved = Vec::new();
    for address in addresses {
        match address {
            ListenAddress::Unix { .. } => resolved.push((address, None)),
            ListenAddress::Tcp { host, port, .. } => {
                let found = (host.as_str(), *port).to_socket_addrs();
                let found = found.map_err(|e| address.explain(e))?;
                resolved.extend(found.map(|socket| (address, Some(socket))));
            }
        }
    }
    let v4_ports: Vec<u16> = resolved
        .iter()
        .filter_map(|(_, socket)| socket.filter(|s| s.is_ipv4() && s.port() != 0))
        .map(|socket| socket.port())
        .collect();
    let mut listeners = Vec::new();
    let mut skipped = None;
    for (address, socket) in resolved {
        let v6_only = socket.is_some_and(|s| s.is_ipv6() && v4_ports.contains(&s.port()));
        let missing = |e: &io::Error| e.kind() == io::ErrorKind::AddrNotAvailable;
        match listen(address, socket, v6_only) {
            Ok(Some(mut listener)) => {
                listener.service.tls = matches!(address, ListenAddress::Tcp { tls: true, .. });
                listeners.push(listener);
            }
            Ok(None) => {}
            Err(e) if missing(&e) && socket.is_some_and(|s| s.ip().is_loopback()) => {
                skipped = Some(address.explain(e));
            }
            Err(e) => return Err(address.explain(e)),
        }
    }
    match skipped {
        Some(e) if listeners.is_empty() => return Err(e),
        Some(e) => events::listen_failed(e),
        None => {}
    }
    Ok(listeners)
}

/// Returns the first line that the server at `address` sends within `GREETING_TIMEOUT`.
pub fn greeting(address: &ListenAddress) -> Option<String> {
    let stream: Box<dyn Read> = match address {
        ListenAddress::Tcp { host, port, .. } => {
            let stream = TcpStream::connect((host.as_str(), *port)).ok()?;
            stream.set_read_timeout(Some(GREETING_TIMEOUT)).ok()?;
            Box::new(stream)
        }
        ListenAddress::Unix { path, .. } => {
            let stream = UnixStream::connect(path).ok()?;
            stream.set_read_timeout(Some(GREETING_TIMEOUT)).ok()?;
            Box::new(stream)
        }
    };
    let mut line = Vec::new();
    // At most 512 octets (RFC 5321 4.5.3.1.5). Text received before an error counts.
    let _ = BufReader::new(stream.take(512)).read_until(b'\n', &mut line);
    let line = String::from_utf8_lossy(&line).trim_end().to_owned();
    (!line.is_empty()).then_some(line)
}

/// Returns the listening sockets that systemd passed (`LISTEN_FDS`, sd_listen_fds(3)), TCP or Unix.
/// The name of each (`LISTEN_FDNAMES`) selects its protocol: `tls` or `lmtp`. Any other name is
/// SMTP, because the default is the name of the socket unit.
///
/// # Errors
/// One of them is no such socket, or is LMTP on port 25.
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
        listener.passed_name = Some(name.to_owned());
        if listener.service.lmtp && listener.local_addr().is_some_and(|a| a.port() == 25) {
            // RFC 2033 5
            let why = format!("systemd passed {listener} as lmtp, but port 25 is for SMTP");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Notifies the service manager, if there is one (`NOTIFY_SOCKET`, sd_notify(3)):
/// `EXTEND_TIMEOUT_USEC=` while recovery works, `READY=1` when connections are accepted,
/// `STOPPING=1` at the end. An error is only logged, because mail is more important.
pub fn notify(state: &str) {
    notify_with(state, &[]);
}

/// Notifies the service manager like [`notify`], and passes it `descriptors`.
pub(super) fn notify_with(state: &str, descriptors: &[ControlMessage<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(e) = send_datagram(Path::new(&socket), state.as_bytes(), descriptors) {
        events::notify_failed(state, e);
    }
}

fn send_datagram(to: &Path, bytes: &[u8], descriptors: &[ControlMessage<'_>]) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    let address = match to.as_os_str().as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(to)?,
    };
    #[cfg(not(target_os = "linux"))]
    let address = UnixAddr::new(to)?;
    let (fd, bytes) = (socket.as_raw_fd(), [IoSlice::new(bytes)]);
    sendmsg(fd, &bytes, descriptors, MsgFlags::empty(), Some(&address))?;
    Ok(())
}

impl Listener {
    fn new(socket: Listening) -> io::Result<Listener> {
        // The server waits in poll(2). If the connection is gone by then, accept must not block.
        match &socket {
            Listening::Tcp(tcp) => tcp.set_nonblocking(true)?,
            Listening::Unix(unix) => unix.set_nonblocking(true)?,
        }
        Ok(Listener { socket, service: Service::default(), created: None, passed_name: None })
    }

    /// Makes it a listener for LMTP.
    pub fn lmtp(mut self) -> Listener {
        self.service.lmtp = true;
        self
    }

    /// Sets the protocol of its connections.
    pub(super) fn set_service(&mut self, lmtp: bool, tls: bool) {
        self.service = Service { lmtp, tls };
    }

    /// Returns the name that systemd gave it, if systemd passed it.
    pub(super) fn passed_name(&self) -> Option<&str> {
        self.passed_name.as_deref()
    }

    /// Returns its address, with the real port if 0 was asked for, or None for a Unix socket.
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
                // On BSD it inherits O_NONBLOCK.
                #[cfg(not(target_os = "linux"))]
                tcp.set_nonblocking(false)?;
                Ok((Socket::Tcp(tcp), Peer::ip(address)))
            }
            Listening::Unix(unix) => {
                let (unix, _) = unix.accept()?;
                #[cfg(not(target_os = "linux"))]
                unix.set_nonblocking(false)?;
                let peer = unix_peer(&unix);
                Ok((Socket::Unix(unix), peer))
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
        if let Some((path, device, inode)) = &self.created
            && fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (*device, *inode))
        {
            let _ = fs::remove_file(path);
        }
    }
}

impl ListenAddress {
    pub(super) fn explain(&self, e: io::Error) -> io::Error {
        let fix = match (e.kind(), self) {
            (io::ErrorKind::PermissionDenied, ListenAddress::Tcp { .. }) => {
                "; ports below 1024 need root, CAP_NET_BIND_SERVICE or a socket unit"
            }
            (io::ErrorKind::PermissionDenied, ListenAddress::Unix { .. }) => {
                "; its directory must be writable by mailslot"
            }
            (io::ErrorKind::NotFound, ListenAddress::Unix { .. }) => {
                "; its directory does not exist, create it or choose another path with --listen"
            }
            (io::ErrorKind::AddrInUse, _) => {
                "; another program listens there, choose another address with --listen"
            }
            (io::ErrorKind::AlreadyExists, _) => {
                "; choose another path with --listen, or remove the file"
            }
            (io::ErrorKind::AddrNotAvailable, _) => {
                "; this host has no such address, choose another with --listen"
            }
            _ => "",
        };
        io::Error::new(e.kind(), format!("cannot listen on {self}: {e}{fix}"))
    }
}

fn listen_tcp(address: SocketAddr, v6_only: bool) -> io::Result<Listener> {
    let open = || {
        let kind = Type::STREAM;
        let socket = socket2::Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        // Like std, ignores connections of the last server that are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        if v6_only {
            socket.set_only_v6(true)?;
        }
        socket.bind(&address.into())?;
        // std's backlog is 128, and each connection of a burst beyond it waits a second.
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    let tcp = open().map_err(|e: io::Error| match e.raw_os_error() {
        // A kernel without IPv6 returns this, one with IPv6 switched off returns EADDRNOTAVAIL.
        Some(code) if code == nix::Error::EAFNOSUPPORT as i32 => {
            io::Error::new(io::ErrorKind::AddrNotAvailable, e)
        }
        _ => e,
    })?;
    Listener::new(Listening::Tcp(tcp))
}

fn listen_unix(path: &Path, mode: u32) -> io::Result<Listener> {
    let unix = UnixListener::bind(path)?;
    let found = fs::symlink_metadata(path)?;
    let mut listener = Listener::new(Listening::Unix(unix))?;
    listener.created = Some((path.to_owned(), found.dev(), found.ino()));
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

/// Removes the socket at `path` if no process listens on it.
fn remove_stale(path: &Path) -> io::Result<()> {
    if check_free(path)? { fs::remove_file(path) } else { Ok(()) }
}

/// Checks that a Unix socket can be created at `path`. Returns true if a socket is there that no
/// process listens on.
fn check_free(path: &Path) -> io::Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    if !meta.file_type().is_socket() {
        let text = "a file is there that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// The port of mail submission by TLS (RFC 8314 7.3).
pub const TLS_PORT: u16 = 465;
/// The longest queue of connections that wait for accept(2). The kernel limits it further.
const BACKLOG: i32 = 4096;
/// Longer than a server takes to start that systemd starts for this connection.
const GREETING_TIMEOUT: Duration = Duration::from_secs(3);

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        let error = |why: &str| {
            format!("{text:?}: {why} (expected host:port, [v6]:port, tls:host:port, unix:PATH)")
        };
        if let Some(rest) = text.strip_prefix("unix:") {
            let (path, mode) = match rest.rsplit_once(",mode=") {
                None => (rest, 0o666),
                Some((path, octal)) => match u32::from_str_radix(octal, 8) {
                    Ok(mode) if mode <= 0o777 => (path, mode),
                    _ => return Err(error("the mode is not octal, from 0 to 777")),
                },
            };
            // sun_path has 108 bytes on Linux and 104 on BSD, with the NUL at the end.
            return match path.len() {
                0 => Err(error("no path")),
                1..=103 if !path.contains('\0') => {
                    Ok(ListenAddress::Unix { path: path.into(), mode })
                }
                _ => Err(error("the path is longer than 103 bytes, or contains a NUL")),
            };
        }
        // A host may be named tls or plain.
        let after = |prefix| text.strip_prefix(prefix).filter(|rest| rest.contains(':'));
        let (tls, address) = match (after("tls:"), after("plain:")) {
            (Some(rest), _) => (Some(true), rest),
            (_, Some(rest)) => (Some(false), rest),
            (None, None) => (None, text),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(|| error("no port"))?;
        // u16::from_str would take a sign.
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse::<u16>().ok().filter(|_| digits);
        let port = port.ok_or_else(|| error("the port is not a number from 0 to 65535"))?;
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(Some(v6)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(error("no IPv6 address in the brackets")),
            None if host.contains(':') => return Err(error("an IPv6 address needs brackets")),
            None if host.is_empty() => return Err(error("no host")),
            None if host.bytes().any(|b| !b.is_ascii_alphanumeric() && !b"-._".contains(&b)) => {
                return Err(error("not a host name"));
            }
            None => host,
        };
        let tls = tls.unwrap_or(port == TLS_PORT);
        Ok(ListenAddress::Tcp { host: host.to_owned(), port, tls })
    }
}

/// Writes `HOST:PORT`, with brackets around an IPv6 address, and with the prefix `tls:` or `plain:`
/// unless it is that of the port.
pub fn write_tcp(f: &mut fmt::Formatter<'_>, host: &str, port: u16, tls: bool) -> fmt::Result {
    f.write_str(match (tls, port) {
        (true, _) => "tls:",
        (false, TLS_PORT) => "plain:",
        (false, _) => "",
    })?;
    if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp { host, port, tls } => write_tcp(f, host, *port, *tls),
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
    fn addresses_can_be_parsed_and_written() {
        for text in [
            "127.0.0.1:25",
            "[::1]:25",
            "localhost:0",
            "mx-1.example.org:65535",
            "tls:mx.example.org:465",
            "tls:[::1]:465",
            "tls:25",
            "plain:25",
            "plain:mx.example.org:465",
            "unix:/run/smtp",
            "unix:smtp:25",
            "unix:/run/smtp,mode=600",
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
    }

    /// A client that expects TLS waited for a greeting, and the server for a command.
    #[test]
    fn port_465_has_tls_from_the_start() {
        for (text, shown) in [
            ("mx.example.org:465", "tls:mx.example.org:465"),
            ("[::1]:465", "tls:[::1]:465"),
            ("plain:mx.example.org:587", "mx.example.org:587"),
        ] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn invalid_addresses_are_explained() {
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
        // Another process listens, so this fails and the socket stays.
        let second = open(std::slice::from_ref(&address)).unwrap_err();
        assert!(second.to_string().contains("another program listens"), "{second}");
        UnixStream::connect(&path).unwrap();
        drop(first);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let third = open(std::slice::from_ref(&address)).unwrap_err();
        assert!(third.to_string().contains("a file is there that is no socket"), "{third}");
        assert_eq!(rehearse(&[address], true).unwrap_err().to_string(), third.to_string());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    /// Linux serves IPv4 on `[::]` too, so a second socket for it was refused.
    #[test]
    fn any_address_of_both_families_with_one_port() {
        if TcpListener::bind("[::1]:0").is_err() {
            return println!("skipped: this host has no IPv6");
        }
        // The kernel chooses a port that is free for IPv4.
        let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
        let both = [format!("0.0.0.0:{port}"), format!("[::]:{port}")];
        let both = both.map(|address| address.parse::<ListenAddress>().unwrap());
        assert_eq!(rehearse(&both, false).unwrap(), Vec::<String>::new());
        let listeners = open(&both).unwrap();
        for (listener, client) in listeners.iter().zip(["127.0.0.1", "::1"]) {
            let _client = TcpStream::connect((client, port)).unwrap();
            listener.accept().unwrap();
        }
        // Alone it has both.
        drop(listeners);
        let listeners = open(&both[1..]).unwrap();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        listeners[0].accept().unwrap();
    }

    #[test]
    fn a_unix_socket_in_a_missing_directory_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none/s");
        let address = [ListenAddress::Unix { path, mode: 0o666 }];
        let error = open(&address).unwrap_err().to_string();
        assert!(error.contains("its directory does not exist"), "{error}");
        assert_eq!(rehearse(&address, false).unwrap_err().to_string(), error);
    }

    #[test]
    fn the_service_manager_is_notified() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        send_datagram(&path, b"READY=1", &[]).unwrap();
        let mut received = [0; 16];
        let n = manager.recv(&mut received).unwrap();
        assert_eq!(&received[..n], b"READY=1");
        assert!(send_datagram(&directory.path().join("nobody"), b"READY=1", &[]).is_err());
    }
}
