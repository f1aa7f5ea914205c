//! A connection: three kinds of socket with one way to read, write and shut down.
//!
//! Deadlines are those of [`ServerSocket`](super::server_socket::ServerSocket), except for writes
//! to a pipe, which has no timeouts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};
#[cfg(any(target_os = "linux", target_os = "android"))]
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::message::peer::Peer;

/// A connection.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
    /// Two descriptors that are not sockets, as standard input and output may be.
    Pipe {
        /// Bytes from the client.
        input: File,
        /// Bytes to the client.
        output: File,
    },
}

/// Returns the connection that a super-server (inetd, systemd, tcpserver) or a shell passed on
/// standard input. A socket is asked for its peer. For a pipe the peer is read from the
/// environment: `TCPREMOTEIP` (tcpserver), `REMOTE_ADDR` (systemd) or `REMOTE_HOST` (xinetd).
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
    // The super-server may have left it non-blocking, and then socket timeouts have no effect.
    tcp.set_nonblocking(false)?;
    // std returns an error for an address that is not of an IP family.
    if tcp.local_addr().is_ok() {
        let peer = Peer::ip(tcp.peer_addr()?);
        return Ok((Socket::Tcp(tcp), peer));
    }
    let unix = UnixStream::from(OwnedFd::from(tcp));
    unix.peer_addr()?;
    let peer = unix_peer(&unix);
    Ok((Socket::Unix(unix), peer))
}

/// Returns the peer of a connected Unix socket: the user that its process ran as when it
/// connected, if the system reports that.
pub(super) fn unix_peer(socket: &UnixStream) -> Peer {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let uid = getsockopt(socket, PeerCredentials).map(|peer| peer.uid());
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let uid = nix::unistd::getpeereid(socket).map(|(uid, _)| uid.as_raw());
    uid.map_or(Peer::Unix, Peer::LocalUser)
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
                if !wait_ready(output, PollFlags::POLLOUT, left)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                // A pipe that is ready takes this much without blocking.
                (&mut &*output).write(&bytes[..bytes.len().min(PIPE_PIECE)])
            }
        }
    }

    /// Returns true if there is input, without blocking. Always false for a pipe, because that
    /// cannot be peeked into.
    pub(super) fn has_input(&self) -> bool {
        let Some(fd) = self.socket_fd() else { return false };
        recv(fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok_and(|n| n > 0)
    }

    /// Waits until there is input, or the client has closed the connection. Returns false after
    /// `wait`.
    pub(super) fn wait_for_input(&self, wait: Duration) -> io::Result<bool> {
        match self {
            Socket::Tcp(s) => wait_ready(s, PollFlags::POLLIN, wait),
            Socket::Unix(s) => wait_ready(s, PollFlags::POLLIN, wait),
            Socket::Pipe { input, .. } => wait_ready(input, PollFlags::POLLIN, wait),
        }
    }

    /// Writes as many of `bytes` as fit without blocking. Returns their number, which may be 0.
    pub(super) fn write_what_fits(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(fd) = self.socket_fd() else { return Ok(0) };
        let flags = MsgFlags::MSG_DONTWAIT;
        // Without the flag, std protects a program, because it ignores SIGPIPE from the start.
        #[cfg(not(target_vendor = "apple"))]
        let flags = flags | MsgFlags::MSG_NOSIGNAL;
        match send(fd, bytes, flags) {
            Ok(sent) => Ok(sent),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Writes `bytes` and closes this side, without blocking, for a client that gets no session.
    /// Input that came already is read, because unread input turns the close into a reset, which
    /// may destroy the reply on its way.
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

    /// Returns the descriptor for calls on sockets, or None for a pipe.
    fn socket_fd(&self) -> Option<RawFd> {
        match self {
            Socket::Tcp(s) => Some(s.as_raw_fd()),
            Socket::Unix(s) => Some(s.as_raw_fd()),
            Socket::Pipe { .. } => None,
        }
    }

    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Socket::Tcp(s) => s.set_read_timeout(Some(timeout)),
            Socket::Unix(s) => s.set_read_timeout(Some(timeout)),
            Socket::Pipe { .. } => Ok(()),
        }
    }

    /// Shuts the connection down. An error means that the client has closed it before.
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

/// Waits until `file` can be read or written, or is at its end. Returns false after `wait`.
pub(super) fn wait_ready(file: &impl AsFd, what: PollFlags, wait: Duration) -> io::Result<bool> {
    // Rounded up, because the last fraction of a millisecond would be a busy loop.
    let millis = wait.as_millis().saturating_add(1);
    let wait = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut [PollFd::new(file.as_fd(), what)], wait) {
        Ok(n) => Ok(n > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// POSIX's least PIPE_BUF. A write of so many bytes to a pipe that is ready does not block.
const PIPE_PIECE: usize = 512;
