//! The socket with its deadlines: the lower end of a [`Stream`](super::Stream), which speaks clear
//! text here or has TLS speak.
//!
//! No call takes longer than it is told, and none outlasts the session's deadline, but by an eighth
//! of the time-out at most: exact times would cost a system call for each read.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::PollFlags;

use super::session_handle::{StreamShared, WaitPhase};
use super::socket::{Socket, is_timeout, ready};
use super::stream::Disconnect;

/// A socket that is waited for no longer than allowed.
#[derive(Debug)]
pub(super) struct ServerSocket {
    pub(super) shared: Arc<StreamShared>,
    pub(super) timeout: Duration,
    /// How long mail data may pause.
    pub(super) pause: Duration,
    /// The session's.
    pub(super) deadline: Instant,
    /// What SO_RCVTIMEO is now.
    armed: Duration,
}

impl ServerSocket {
    /// The wire of a session that may last until `deadline`. `shared`'s socket waits `pause` for
    /// something to read, and `timeout` to write.
    pub(super) fn new(
        shared: Arc<StreamShared>,
        timeout: Duration,
        pause: Duration,
        deadline: Instant,
    ) -> ServerSocket {
        ServerSocket { shared, timeout, pause, deadline, armed: pause }
    }

    /// One read(2) that returns by `until` or the session's deadline. 0 is the end, as the client
    /// made it or a [`SessionHandle`](super::SessionHandle).
    pub(super) fn read(&mut self, buffer: &mut [u8], until: Instant) -> Result<usize, Disconnect> {
        loop {
            let left = self.left(Instant::now(), until)?;
            let result = match &self.shared.socket {
                Socket::Pipe { input, .. } => {
                    // Nobody can wake us here but time.
                    let wait = left.min(Duration::from_secs(1));
                    if !ready(input, PollFlags::POLLIN, wait).map_err(Disconnect::Broken)? {
                        if self.shared.notice().is_some() {
                            return Ok(0);
                        }
                        continue;
                    }
                    (&mut &*input).read(buffer)
                }
                Socket::Tcp(_) | Socket::Unix(_) => {
                    // Too late by an eighth is allowed, and too early is seen below; so most reads
                    // need no second call.
                    if left + self.timeout / 8 < self.armed {
                        self.arm(left)?;
                    }
                    self.shared.socket.read(buffer)
                }
            };
            match result {
                Ok(n) => return Ok(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if is_timeout(&e) => {
                    let eighth = self.timeout / 8;
                    let left = self.left(Instant::now() + eighth, until)?;
                    self.arm(left + eighth)?;
                }
                Err(e) => return Err(Disconnect::Broken(e)),
            }
        }
    }

    fn arm(&mut self, wait: Duration) -> Result<(), Disconnect> {
        self.armed = wait.max(Duration::from_millis(1));
        self.shared.socket.set_read_timeout(self.armed).map_err(Disconnect::Broken)
    }

    /// Writes all of `bytes` by `until`. Nearly always they fit into the socket's buffer; only when
    /// they do not is the client to blame for a wait.
    pub(super) fn write_all(&self, bytes: &[u8], until: Instant) -> Result<(), Disconnect> {
        let sent = self.shared.socket.write_what_fits(bytes).map_err(Disconnect::Broken)?;
        let rest = bytes.get(sent..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        let before = self.shared.wait(WaitPhase::Reply, Instant::now())?;
        let result = self.write_rest(rest, until);
        match self.shared.resume(before) {
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
            if !rest.is_empty() && Instant::now() >= until.min(self.deadline) {
                return Err(Disconnect::NotReading);
            }
        }
        Ok(())
    }

    /// The wire as TLS sees it, up to `until`.
    pub(super) fn until(&mut self, until: Instant) -> DeadlineSocket<'_> {
        DeadlineSocket { wire: self, until }
    }

    /// How long there is at `now` before `until` and the session's deadline.
    fn left(&self, now: Instant, until: Instant) -> Result<Duration, Disconnect> {
        if now >= self.deadline {
            Err(Disconnect::Deadline)
        } else if now >= until {
            Err(Disconnect::TimedOut)
        } else {
            Ok(until.min(self.deadline) - now)
        }
    }
}

/// The wire for whoever reads and writes by std's traits. A [`Disconnect`] is inside the error.
pub(super) struct DeadlineSocket<'a> {
    wire: &'a mut ServerSocket,
    until: Instant,
}

impl Read for DeadlineSocket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wire.read(buffer, self.until).map_err(io::Error::other)
    }
}

impl Write for DeadlineSocket<'_> {
    /// Writes all of it.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wire.write_all(bytes, self.until).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
