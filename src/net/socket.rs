//! What a connection is made of, and who is at its other end.
//!
//! Three kinds of socket with one way to read, write and shut down. Deadlines are the
//! [`Stream`](super::Stream)'s; but a pipe has no time-out of its own, so that here its writes are
//! waited for.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client over TCP; IPv4-mapped IPv6 addresses are turned into IPv4.
    Ip(SocketAddr),
    /// A process on this host, over a Unix socket.
    Unix,
    /// Whoever holds the other end of standard input.
    Pipe,
}

impl Peer {
    /// A client at `addr`.
    pub fn ip(addr: SocketAddr) -> Peer {
        Peer::Ip(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }

    /// The client's address, if it has one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Peer::Ip(addr) => Some(addr.ip()),
            Peer::Unix | Peer::Pipe => None,
        }
    }

    /// Whether the client is on this host, as far as can be told.
    pub fn is_local(&self) -> bool {
        self.address().is_none_or(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(addr) => addr.fmt(f),
            Peer::Unix => f.write_str("unix"),
            Peer::Pipe => f.write_str("pipe"),
        }
    }
}

/// What a connection is made of.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
    /// Two descriptors that are no sockets, as standard input and output may be.
    Pipe {
        /// Where the client's octets come from.
        input: File,
        /// Where ours go to.
        output: File,
    },
}

/// The connection that a super-server (inetd, systemd, tcpserver) or a shell left on standard
/// input: a socket, whose own address is asked for, or a pipe, where `TCPREMOTEIP` (tcpserver),
/// `REMOTE_ADDR` (systemd) or `REMOTE_HOST` (xinetd) may hold the client's address.
///
/// # Errors
/// Standard input is closed, or is a socket without a peer.
pub fn standard_input() -> io::Result<(Socket, Peer)> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if !input.metadata()?.file_type().is_socket() {
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let address = ["TCPREMOTEIP", "REMOTE_ADDR", "REMOTE_HOST"]
            .iter()
            .find_map(|name| std::env::var(name).ok()?.parse::<IpAddr>().ok());
        let port = ["TCPREMOTEPORT", "REMOTE_PORT"]
            .iter()
            .find_map(|name| std::env::var(name).ok()?.parse::<u16>().ok());
        let peer = address.map(|ip| Peer::ip(SocketAddr::new(ip, port.unwrap_or(0))));
        return Ok((Socket::Pipe { input, output }, peer.unwrap_or(Peer::Pipe)));
    }
    let tcp = TcpStream::from(OwnedFd::from(input));
    // Whoever made it may have left it non-blocking; our time-outs need it to block.
    tcp.set_nonblocking(false)?;
    // The address family decides: std refuses to show an address that is not IP.
    if tcp.local_addr().is_ok() {
        let peer = Peer::ip(tcp.peer_addr()?);
        return Ok((Socket::Tcp(tcp), peer));
    }
    let unix = UnixStream::from(OwnedFd::from(tcp));
    unix.peer_addr()?;
    Ok((Socket::Unix(unix), Peer::Unix))
}

impl Socket {
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&mut &*s).read(buffer),
            Socket::Unix(s) => (&mut &*s).read(buffer),
            Socket::Pipe { input, .. } => (&mut &*input).read(buffer),
        }
    }

    pub(super) fn write(&self, bytes: &[u8], until: Instant) -> io::Result<usize> {
        match self {
            Socket::Tcp(s) => (&mut &*s).write(bytes),
            Socket::Unix(s) => (&mut &*s).write(bytes),
            Socket::Pipe { output, .. } => {
                let left = until.saturating_duration_since(Instant::now());
                if !ready(output, PollFlags::POLLOUT, left)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                // A pipe that poll calls writable takes this much without blocking.
                (&mut &*output).write(&bytes[..bytes.len().min(PIPE_PIECE)])
            }
        }
    }

    /// Whether there is something to read, at once. Of a pipe nobody can tell without reading.
    pub(super) fn has_input(&self) -> bool {
        let fd = match self {
            Socket::Tcp(s) => s.as_raw_fd(),
            Socket::Unix(s) => s.as_raw_fd(),
            Socket::Pipe { .. } => return false,
        };
        recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok_and(|n| n > 0)
    }

    /// Writes as many of `bytes` as can be without waiting, which may be none.
    pub(super) fn write_what_fits(&self, bytes: &[u8]) -> io::Result<usize> {
        let fd = match self {
            Socket::Tcp(s) => s.as_raw_fd(),
            Socket::Unix(s) => s.as_raw_fd(),
            Socket::Pipe { .. } => return Ok(0),
        };
        match send(fd, bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes `bytes` and ends our side, without ever blocking, for a client that gets no session.
    /// What it sent already is read: left unread, it would turn the close into a reset, which may
    /// take our line with it.
    pub fn send_at_once(&self, bytes: &[u8]) {
        let unblocked = match self {
            Socket::Tcp(s) => s.set_nonblocking(true),
            Socket::Unix(s) => s.set_nonblocking(true),
            Socket::Pipe { .. } => return,
        };
        if unblocked.is_ok() {
            let _ = self.write(bytes, Instant::now());
            self.shutdown(Shutdown::Write);
            let _ = self.read(&mut [0; 1024]);
        }
    }

    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_read_timeout(Some(timeout)),
            Socket::Unix(s) => s.set_read_timeout(Some(timeout)),
            Socket::Pipe { .. } => Ok(()),
        }
    }

    /// A failure means that the client was faster.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let _ = match self {
            Socket::Tcp(s) => s.shutdown(how),
            Socket::Unix(s) => s.shutdown(how),
            Socket::Pipe { .. } => Ok(()),
        };
    }
}

pub(super) fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Waits until `file` can be read or written, or has ended; false when `wait` is over.
pub(super) fn ready(file: &File, what: PollFlags, wait: Duration) -> io::Result<bool> {
    // Rounded up, or the last fraction of a millisecond would be spent in a busy loop.
    let millis = wait.as_millis().saturating_add(1);
    let wait = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut [PollFd::new(file.as_fd(), what)], wait) {
        Ok(n) => Ok(n > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// PIPE_BUF on Linux; POSIX allows less on others, where a write may then block.
const PIPE_PIECE: usize = 512;
