//! The socket of a client, inside TLS or not, where no call takes longer than it is told.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::net::tls::{TlsClientSession, TlsInfo, Trust};

/// One connection.
#[derive(Debug)]
pub(super) struct ClientSocket {
    socket: Socket,
    tls: Option<Box<TlsClientSession>>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl ClientSocket {
    pub(super) fn tcp(address: SocketAddr, timeout: Duration) -> io::Result<ClientSocket> {
        let socket = TcpStream::connect_timeout(&address, timeout)?;
        // A group of commands is one write.
        socket.set_nodelay(true)?;
        Ok(ClientSocket { socket: Socket::Tcp(socket), tls: None })
    }

    pub(super) fn unix(path: &Path) -> io::Result<ClientSocket> {
        Ok(ClientSocket::connected(UnixStream::connect(path)?))
    }

    pub(super) fn connected(socket: UnixStream) -> ClientSocket {
        ClientSocket { socket: Socket::Unix(socket), tls: None }
    }

    /// Makes the handshake with `host`, by `until`.
    pub(super) fn start_tls(
        &mut self,
        trust: &Trust,
        host: &str,
        until: Instant,
    ) -> io::Result<TlsInfo> {
        let mut tls = Box::new(trust.session(host)?);
        let facts = tls.handshake(&mut DeadlineIo { socket: &self.socket, until })?;
        self.tls = Some(tls);
        Ok(facts)
    }

    /// At least one octet, or 0 at the end, by `until`.
    pub(super) fn read(&mut self, buffer: &mut [u8], until: Instant) -> io::Result<usize> {
        let mut socket = DeadlineIo { socket: &self.socket, until };
        match &mut self.tls {
            Some(tls) => tls.read(&mut socket, buffer),
            None => socket.read(buffer),
        }
    }

    /// Writes all of `octets` by `until`.
    pub(super) fn write_all(&mut self, octets: &[u8], until: Instant) -> io::Result<()> {
        let mut socket = DeadlineIo { socket: &self.socket, until };
        match &mut self.tls {
            Some(tls) => tls.write_all(&mut socket, octets),
            None => socket.write_all(octets),
        }
    }

    /// Says that nothing more comes, if there is a way to.
    pub(super) fn end(&mut self, until: Instant) {
        if let Some(tls) = &mut self.tls {
            let _ = tls.end(&mut DeadlineIo { socket: &self.socket, until });
        }
    }
}

/// The socket up to a moment.
struct DeadlineIo<'a> {
    socket: &'a Socket,
    until: Instant,
}

impl DeadlineIo<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for DeadlineIo<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.left()?;
            let result = match self.socket {
                Socket::Tcp(s) => s.set_read_timeout(left).and_then(|()| (&mut &*s).read(buffer)),
                Socket::Unix(s) => s.set_read_timeout(left).and_then(|()| (&mut &*s).read(buffer)),
            };
            if !result.as_ref().is_err_and(is_early) {
                return result;
            }
        }
    }
}

impl Write for DeadlineIo<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        loop {
            let left = self.left()?;
            let result = match self.socket {
                Socket::Tcp(s) => s.set_write_timeout(left).and_then(|()| (&mut &*s).write(octets)),
                Socket::Unix(s) => {
                    s.set_write_timeout(left).and_then(|()| (&mut &*s).write(octets))
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

/// Whether the call is to be made again, if there is time left.
fn is_early(e: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(e.kind(), Interrupted | TimedOut | WouldBlock)
}
