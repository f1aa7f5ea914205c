//! A server's connection with deadlines. A [`Stream`](super::stream::Stream) uses it directly for
//! clear text, and below TLS.
//!
//! No call blocks longer than the caller allows, and none past the session's deadline. Reads may
//! exceed either by an eighth of the timeout, because exact times would cost a system call for each
//! read.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::disconnect::Disconnect;
use super::session_handle::{StreamShared, WaitPhase};
use super::socket::{Socket, is_timeout, wait_ready};

/// A connection with deadlines.
#[derive(Debug)]
pub(super) struct ServerSocket {
    pub(super) shared: Arc<StreamShared>,
    pub(super) timeout: Duration,
    /// The longest pause in mail data.
    pub(super) data_pause: Duration,
    /// The session's deadline.
    pub(super) deadline: Instant,
    /// The socket's SO_RCVTIMEO.
    receive_timeout: Duration,
    /// The time of the first write that blocked, of those since the client last waited for replies.
    blocked_since: Option<Instant>,
}

impl ServerSocket {
    /// Returns a connection for a session that must end by `deadline`. The socket in `shared` has
    /// SO_RCVTIMEO `data_pause` and SO_SNDTIMEO `timeout`.
    pub(super) fn new(
        shared: Arc<StreamShared>,
        timeout: Duration,
        data_pause: Duration,
        deadline: Instant,
    ) -> ServerSocket {
        let receive_timeout = data_pause;
        ServerSocket { shared, timeout, data_pause, deadline, receive_timeout, blocked_since: None }
    }

    /// Makes one read(2) that returns by `until` or the session's deadline. Returns 0 at the end,
    /// whether the client or a [`SessionHandle`](super::stream::SessionHandle) caused it.
    pub(super) fn read(&mut self, buffer: &mut [u8], until: Instant) -> Result<usize, Disconnect> {
        // A client that has sent nothing more waits for the replies, and so it reads them.
        if self.blocked_since.is_some() && !self.shared.socket.has_input() {
            self.blocked_since = None;
        }
        loop {
            let left = self.time_left(Instant::now(), until)?;
            let result = match &self.shared.socket {
                Socket::Pipe { input, .. } => {
                    // A pipe cannot be shut down from another thread, so notices are polled for.
                    let wait = left.min(Duration::from_secs(1));
                    if !wait_ready(input, PollFlags::POLLIN, wait).map_err(Disconnect::Broken)? {
                        if self.shared.notice().is_some() {
                            return Ok(0);
                        }
                        continue;
                    }
                    (&mut &*input).read(buffer)
                }
                Socket::Tcp(_) | Socket::Unix(_) => {
                    // A socket timeout that is an eighth too long is good enough, and one that is
                    // too short is made up for below. So most reads need no second system call.
                    if left + self.timeout / 8 < self.receive_timeout {
                        self.set_receive_timeout(left)?;
                    }
                    self.shared.socket.read(buffer)
                }
            };
            match result {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => {
                    let eighth = self.timeout / 8;
                    let left = self.time_left(Instant::now() + eighth, until)?;
                    self.set_receive_timeout(left + eighth)?;
                }
                Err(e) => return Err(Disconnect::Broken(e)),
            }
        }
    }

    fn set_receive_timeout(&mut self, timeout: Duration) -> Result<(), Disconnect> {
        // Zero would mean no timeout.
        self.receive_timeout = timeout.max(Duration::from_millis(1));
        self.shared.socket.set_read_timeout(self.receive_timeout).map_err(Disconnect::Broken)
    }

    /// Writes all of `bytes` by `until`. They nearly always fit into the socket's buffer. Only when
    /// they do not does the session count as waiting for its client.
    ///
    /// A client that continues to send commands counts as idle since the first write that blocked,
    /// although later ones succeed. The kernels at both ends enlarge their buffers now and then,
    /// and take a part of the replies without the client.
    pub(super) fn write_all(&mut self, bytes: &[u8], until: Instant) -> Result<(), Disconnect> {
        let sent = self.shared.socket.write_what_fits(bytes).map_err(Disconnect::Broken)?;
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let idle_since = *self.blocked_since.get_or_insert_with(Instant::now);
        let before = self.shared.begin_wait(WaitPhase::Reply, idle_since)?;
        let result = self.write_rest(rest, until);
        match self.shared.end_wait(before) {
            Some(notice) if result.is_err() => Err(notice.into()),
            _ => result,
        }
    }

    fn write_rest(&self, bytes: &[u8], until: Instant) -> Result<(), Disconnect> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.shared.socket.write(rest, until) {
                Ok(0) => return Err(Disconnect::Closed),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => return Err(Disconnect::NotReading),
                Err(e) => return Err(Disconnect::Broken(e)),
            }
            // A client that reads a few bytes at a time makes no single write time out.
            if !rest.is_empty() && Instant::now() >= until.min(self.deadline) {
                return Err(Disconnect::NotReading);
            }
        }
        Ok(())
    }

    /// Returns the connection for TLS, with a deadline for all it reads and writes.
    pub(super) fn until(&mut self, until: Instant) -> DeadlineSocket<'_> {
        DeadlineSocket { socket: self, until }
    }

    /// Returns the time from `now` until `until` or the session's deadline, whichever is first.
    fn time_left(&self, now: Instant, until: Instant) -> Result<Duration, Disconnect> {
        if now >= self.deadline {
            Err(Disconnect::Deadline)
        } else if now >= until {
            Err(Disconnect::TimedOut)
        } else {
            Ok(until.min(self.deadline) - now)
        }
    }
}

/// A [`ServerSocket`] for readers and writers of std's traits. Its errors contain a [`Disconnect`].
pub(super) struct DeadlineSocket<'a> {
    socket: &'a mut ServerSocket,
    until: Instant,
}

impl Read for DeadlineSocket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer, self.until).map_err(io::Error::other)
    }
}

impl Write for DeadlineSocket<'_> {
    /// Writes all of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write_all(bytes, self.until).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::session_handle::SessionHandle;
    use std::os::unix::net::UnixStream;
    use std::thread;

    const LONG: Duration = Duration::from_secs(600);

    /// Writes more than the buffers take, while the client reads it after `blocked` returned for
    /// the session's handle.
    fn write_much<T>(
        server: &mut ServerSocket,
        client: &mut UnixStream,
        blocked: impl FnOnce(&SessionHandle) -> T,
    ) -> T {
        let handle = SessionHandle::new(&server.shared);
        let bytes = vec![b'x'; 4 << 20];
        thread::scope(|scope| {
            scope.spawn(|| server.write_all(&bytes, Instant::now() + LONG).unwrap());
            while handle.waiting_since().is_none() {
                thread::yield_now();
            }
            let result = blocked(&handle);
            client.read_exact(&mut vec![0; 4 << 20]).unwrap();
            result
        })
    }

    #[test]
    fn a_client_that_sends_on_is_idle_since_the_first_write_that_blocked() {
        let (mut client, server) = UnixStream::pair().unwrap();
        let shared = Arc::new(StreamShared::new(Socket::Unix(server)));
        let mut server = ServerSocket::new(shared, LONG, LONG, Instant::now() + LONG);
        client.write_all(b"two commands").unwrap();
        let blocked_at = write_much(&mut server, &mut client, |_| Instant::now());
        // There is unread input, so the client does not wait for the replies.
        assert_eq!(server.read(&mut [0; 3], Instant::now() + LONG).unwrap(), 3);
        write_much(&mut server, &mut client, |handle| {
            assert!(handle.idle_for().unwrap() >= blocked_at.elapsed());
        });
        // There is none any more: the client waits, and counts as active.
        assert_eq!(server.read(&mut [0; 100], Instant::now() + LONG).unwrap(), 9);
        let empty = server.read(&mut [0; 100], Instant::now() + Duration::from_millis(1));
        assert!(matches!(empty, Err(Disconnect::TimedOut)), "{empty:?}");
        let caught_up_at = Instant::now();
        write_much(&mut server, &mut client, |handle| {
            assert!(handle.idle_for().unwrap() <= caught_up_at.elapsed());
        });
    }
}
