//! The client's socket, in clear text or TLS. Every call has a deadline.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, UnixAddr, connect, socket,
};

use crate::net::deadline::{is_early, time_left};
use crate::net::tls::{PeerCertificate, TlsClientSession, TlsInfo, Trust};

/// A connected socket.
#[derive(Debug)]
pub(super) struct ClientSocket {
    socket: TcpOrUnix,
    tls: Option<Box<TlsClientSession>>,
}

#[derive(Debug)]
enum TcpOrUnix {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientSocket {
    pub(super) fn tcp(address: SocketAddr, timeout: Duration) -> io::Result<ClientSocket> {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        // A group of commands is one write, so that Nagle's algorithm would only delay it.
        socket.set_nodelay(true)?;
        Ok(ClientSocket { socket: TcpOrUnix::Tcp(socket), tls: None })
    }

    pub(super) fn unix(path: &Path, timeout: Duration) -> io::Result<ClientSocket> {
        Ok(ClientSocket::connected(connect_unix(path, timeout)?))
    }

    pub(super) fn connected(socket: UnixStream) -> ClientSocket {
        ClientSocket { socket: TcpOrUnix::Unix(socket), tls: None }
    }

    /// Makes the TLS handshake with `host`.
    pub(super) fn start_tls(
        &mut self,
        trust: &Trust,
        host: &str,
        deadline: Instant,
    ) -> io::Result<TlsInfo> {
        let mut tls = Box::new(trust.session(host)?);
        let info = tls.handshake(&mut DeadlineIo { socket: &self.socket, deadline })?;
        self.tls = Some(tls);
        Ok(info)
    }

    /// Returns the server's certificate, inside TLS.
    pub(super) fn certificate(&self) -> Option<PeerCertificate> {
        self.tls.as_ref()?.certificate()
    }

    /// Returns the address of the server, or None for a Unix socket.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        match &self.socket {
            TcpOrUnix::Tcp(socket) => socket.peer_addr().ok(),
            TcpOrUnix::Unix(_) => None,
        }
    }

    /// Reads at least one byte, or returns 0 at the end of the stream.
    pub(super) fn read(&mut self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        let mut socket = DeadlineIo { socket: &self.socket, deadline };
        match &mut self.tls {
            Some(tls) => tls.read(&mut socket, buffer),
            None => socket.read(buffer),
        }
    }

    pub(super) fn write_all(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let mut socket = DeadlineIo { socket: &self.socket, deadline };
        match &mut self.tls {
            Some(tls) => tls.write_all(&mut socket, bytes),
            None => socket.write_all(bytes),
        }
    }

    /// Sends the end of the TLS session, if there is one.
    pub(super) fn end(&mut self, deadline: Instant) {
        if let Some(tls) = &mut self.tls {
            let _ = tls.close_notify(&mut DeadlineIo { socket: &self.socket, deadline });
        }
    }
}

/// Connects to a Unix socket. Linux would otherwise wait as long as the server's backlog is full.
///
/// # Errors
/// `TimedOut` if the server does not accept the connection within `timeout`.
pub fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, CLOEXEC, None::<SockProtocol>)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(timeout))?;
    match connect(stream.as_raw_fd(), &address) {
        Ok(()) => {}
        Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
        Err(e) => return Err(e.into()),
    }
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// A program that this process starts does not get the socket.
#[cfg(not(target_vendor = "apple"))]
const CLOEXEC: SockFlag = SockFlag::SOCK_CLOEXEC;
/// macOS has no such flag; mailslot starts no programs.
#[cfg(target_vendor = "apple")]
const CLOEXEC: SockFlag = SockFlag::empty();

/// A socket with a deadline, at which its calls fail with `TimedOut`.
struct DeadlineIo<'a> {
    socket: &'a TcpOrUnix,
    deadline: Instant,
}

impl Read for DeadlineIo<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let timeout = Some(time_left(self.deadline)?);
            let result = match self.socket {
                TcpOrUnix::Tcp(s) => {
                    s.set_read_timeout(timeout).and_then(|()| (&mut &*s).read(buffer))
                }
                TcpOrUnix::Unix(s) => {
                    s.set_read_timeout(timeout).and_then(|()| (&mut &*s).read(buffer))
                }
            };
            if !result.as_ref().is_err_and(is_early) {
                return result;
            }
        }
    }
}

impl Write for DeadlineIo<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let timeout = Some(time_left(self.deadline)?);
            let result = match self.socket {
                TcpOrUnix::Tcp(s) => {
                    s.set_write_timeout(timeout).and_then(|()| (&mut &*s).write(bytes))
                }
                TcpOrUnix::Unix(s) => {
                    s.set_write_timeout(timeout).and_then(|()| (&mut &*s).write(bytes))
                }
            };
            if !result.as_ref().is_err_and(is_early) {
                return result;
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
