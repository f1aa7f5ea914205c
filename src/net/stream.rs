//! Octets in and out, with limits and deadlines: TCP, Unix sockets, or standard input and output.
//!
//! A [`Stream`] has one buffer for each direction. Replies gather in the outgoing one and leave
//! **when the stream is about to block** for more input, so a group of pipelined commands is
//! answered in one write (RFC 2920 3.2) and a lone command at once; or earlier, when somebody
//! [`flush_now`](Stream::flush_now)es.
//!
//! Promises:
//! - No call blocks for ever. A command line must be complete within the time-out (however slowly
//!   its octets come), a client that does not read is given up after it, and nothing outlasts the
//!   session's deadline. Each is kept to within an eighth of the time-out: exact times would cost
//!   a system call for each read.
//! - Mail data must come at [`PACE_MIN`] octets a second or more. A client may fall behind that
//!   pace, or pause, by three fifths of the time-out, and no burst buys it more: 3 minutes of 5,
//!   which is as long as a sender waits for a block of its own (RFC 5321 4.5.3.2.5), so that a
//!   network that fails for a while fails neither side first.
//! - Memory is bounded: an over-long line is read and dropped to its CR LF within the same buffer.
//! - TLS begins on an empty buffer, with the same deadlines, and one of its own for the handshake.
//!   After a handshake or a write that failed nothing more is sent.
//!
//! Another thread may end a session through its [`SessionHandle`] (`stream/handle.rs`): gently, where it
//! waits for a command, or at once; and a server under stress asks for more ([`OverloadFlag`]). What a
//! connection is made of is in `stream/socket.rs`, and what waits for it in `stream/wire.rs`.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server_socket::ServerSocket;
pub use super::session_handle::{OverloadFlag, SessionHandle};
use super::session_handle::{StreamShared, WaitPhase};
pub use super::socket::{Peer, Socket, standard_input};
use crate::net::tls::{self, ServerCertificate};

/// The slowest mail data that is put up with, in octets a second. The slowest links that carry mail
/// still, a modem of 1,200 bit/s or packet radio, bring as much; GSM at 9,600 bit/s brings ten
/// times that.
pub const PACE_MIN: u64 = 100;
/// The same under stress, which is what Postfix asks for then (`smtpd_min_data_rate`): GPRS at its
/// slowest, 8 kbit/s, brings twice as much.
pub const PACE_MIN_UNDER_STRESS: u64 = 500;

/// Why nothing more will be read or written.
#[derive(Debug)]
pub enum Disconnect {
    /// The client has closed its side.
    Closed,
    /// The client was silent for too long.
    TimedOut,
    /// The client did not read what it was answered.
    NotReading,
    /// Mail data came too slowly.
    TooSlow,
    /// The session has taken as long as any may.
    Deadline,
    /// [`SessionHandle::stop`] was called.
    Stopping,
    /// [`SessionHandle::evict_if_idle`] was called.
    Evict,
    /// Something came in clear text where TLS was to begin.
    ClearText,
    /// No TLS, or none that both sides know, came where there should be some.
    Tls(io::Error),
    /// The connection broke.
    Broken(io::Error),
}

impl fmt::Display for Disconnect {
    /// One word for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disconnect::Closed => "closed",
            Disconnect::TimedOut => "timeout",
            Disconnect::NotReading => "not-reading",
            Disconnect::TooSlow => "slow",
            Disconnect::Deadline => "deadline",
            Disconnect::Stopping => "stopping",
            Disconnect::Evict => "evicted",
            Disconnect::ClearText => "clear-text",
            Disconnect::Tls(_) => "tls",
            Disconnect::Broken(_) => "broken",
        })
    }
}

impl std::error::Error for Disconnect {}

/// What TLS passed on from the wire, or found wrong itself.
impl From<io::Error> for Disconnect {
    fn from(e: io::Error) -> Disconnect {
        match e.downcast::<Disconnect>() {
            Ok(cut) => cut,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Disconnect::Tls(e),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Disconnect::Closed,
            Err(e) => Disconnect::Broken(e),
        }
    }
}

/// One connection with its buffers and deadlines.
#[derive(Debug)]
pub struct Stream {
    wire: ServerSocket,
    layer: Layer,
    peer: Peer,
    /// `input[start..end]` came and was not consumed yet.
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// Replies not sent yet.
    output: Vec<u8>,
    /// Why no reply can be sent any more, and nobody was told yet.
    gone: Option<Disconnect>,
    /// When the command line that has not come whole was first waited for.
    line_since: Option<Instant>,
    /// When the last mail data came, or was asked for.
    data_came: Instant,
    /// Up to when the mail data that came would have lasted at the slowest pace. It falls behind
    /// the clock as far as the client falls behind that pace.
    data_paid: Instant,
    /// Whether the server is under stress.
    overload: Arc<OverloadFlag>,
}

/// What lies between the buffers and the wire.
#[derive(Debug)]
enum Layer {
    Clear,
    Tls(Box<tls::TlsSession>),
    /// Nothing more is sent: a write or a handshake failed half way, and whatever followed would be
    /// taken for something else.
    Mute,
}

impl Stream {
    /// A stream over `socket`, for a session that begins now.
    ///
    /// # Errors
    /// The socket's options cannot be set: the client is gone already.
    pub fn new(
        socket: Socket,
        peer: Peer,
        timeout: Duration,
        session_timeout: Duration,
    ) -> io::Result<Stream> {
        let timeout = timeout.max(Duration::from_millis(2));
        let pause = pause(timeout);
        match &socket {
            Socket::Tcp(s) => {
                s.set_nodelay(true)?;
                s.set_read_timeout(Some(pause))?;
                s.set_write_timeout(Some(timeout))?;
            }
            Socket::Unix(s) => {
                s.set_read_timeout(Some(pause))?;
                s.set_write_timeout(Some(timeout))?;
            }
            Socket::Pipe { .. } => {}
        }
        let now = Instant::now();
        let shared = Arc::new(StreamShared::new(socket));
        Ok(Stream {
            wire: ServerSocket::new(shared, timeout, pause, now + session_timeout),
            layer: Layer::Clear,
            peer,
            input: vec![0; INPUT_SIZE].into_boxed_slice(),
            start: 0,
            end: 0,
            output: Vec::new(),
            gone: None,
            line_since: None,
            data_came: now,
            data_paid: now,
            overload: Arc::default(),
        })
    }

    /// From here on `overload` says whether mail data must keep the pace that stress asks for.
    pub fn watch_overload(&mut self, overload: Arc<OverloadFlag>) {
        self.overload = overload;
    }

    /// What says whether the server is under stress.
    pub fn overload(&self) -> &Arc<OverloadFlag> {
        &self.overload
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The means to end the session from another thread.
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(&self.wire.shared)
    }

    /// What has come of the next command line, at least one octet.
    pub fn peek_first_line(&mut self) -> Result<&[u8], Disconnect> {
        if self.start == self.end {
            self.fill_line()?;
        }
        Ok(&self.input[self.start..self.end])
    }

    /// The next command line with its CR LF, which alone ends it; None for one that was longer
    /// than `max` octets and is dropped, all of it.
    pub fn line(&mut self, max: usize) -> Result<Option<&[u8]>, Disconnect> {
        if let Some(notice) = self.wire.shared.notice() {
            return Err(notice.into());
        }
        let mut searched = 0;
        let mut too_long = false;
        loop {
            let unread = &self.input[self.start..self.end];
            if let Some(at) = memchr::memmem::find(&unread[searched..], b"\r\n") {
                let from = self.start;
                self.line_since = None;
                self.start += searched + at + 2;
                too_long |= self.start - from > max;
                return Ok((!too_long).then(|| &self.input[from..self.start]));
            }
            // The last octet may be the CR of a CR LF.
            searched = unread.len().saturating_sub(1);
            if unread.len() >= max.min(INPUT_SIZE) {
                too_long = true;
                self.start = self.end - 1;
                searched = 0;
            }
            self.fill_line()?;
        }
    }

    /// Reads more of a command line, for the whole of which there is one deadline.
    fn fill_line(&mut self) -> Result<(), Disconnect> {
        let since = *self.line_since.get_or_insert_with(Instant::now);
        self.fill(since + self.wire.timeout, WaitPhase::Command, since)
    }

    /// Mail data begins: its pace is counted from here.
    pub fn begin_data(&mut self) {
        self.data_came = Instant::now();
        self.data_paid = self.data_came;
    }

    /// Mail data that has come and was not consumed yet, at least one octet.
    pub fn data(&mut self) -> Result<&[u8], Disconnect> {
        if self.start == self.end {
            let (paid, dribbled) = (self.data_paid, self.data_paid < self.data_came);
            self.fill(paid + self.wire.pause, WaitPhase::Data, paid).map_err(|cut| match cut {
                Disconnect::TimedOut if dribbled => Disconnect::TooSlow,
                cut => cut,
            })?;
            let pace = if self.overload.is_on() { PACE_MIN_UNDER_STRESS } else { PACE_MIN };
            let lasts = Duration::from_micros(self.end as u64 * 1_000_000 / pace);
            self.data_came = Instant::now();
            // Nobody is ahead: who was fast once must not be slow for long.
            self.data_paid = self.data_came.min(paid + lasts);
        }
        Ok(&self.input[self.start..self.end])
    }

    /// `count` octets of what [`data`](Stream::data) gave are dealt with.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Whether the client has said something that nobody asked for yet: looks, and reads nothing.
    pub fn spoke_before_banner(&self) -> bool {
        self.has_unread() || self.wire.shared.socket.has_input()
    }

    /// Whether something has come that was not read yet.
    pub fn has_unread(&self) -> bool {
        self.start != self.end
    }

    /// Puts a reply behind those that wait to be sent: `write` appends it.
    pub fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Disconnect> {
        write(&mut self.output);
        if self.output.len() > OUTPUT_MAX { self.flush() } else { Ok(()) }
    }

    /// Sends the replies that wait.
    pub fn flush(&mut self) -> Result<(), Disconnect> {
        if self.output.is_empty() {
            return Ok(());
        }
        let until = Instant::now() + self.wire.timeout;
        let sent = match &mut self.layer {
            Layer::Clear => self.wire.write_all(&self.output, until),
            Layer::Tls(tls) => {
                tls.write_all(&mut self.wire.until(until), &self.output).map_err(Disconnect::from)
            }
            Layer::Mute => Ok(()),
        };
        self.output.clear();
        if sent.is_err() {
            self.layer = Layer::Mute;
        }
        sent
    }

    /// The same for a reply that may not wait. That the client is gone is told when more is to be
    /// read of it: what it said before it went is still heard, up to its last dot.
    pub fn flush_now(&mut self) -> Result<(), Disconnect> {
        match self.flush() {
            Err(gone @ Disconnect::Broken(_)) => {
                self.gone = Some(gone);
                Ok(())
            }
            sent => sent,
        }
    }

    /// Begins TLS: sends what waits, in clear text still, and makes the handshake, for which the
    /// client has the time-out or a minute, whichever is shorter.
    ///
    /// # Errors
    /// [`Disconnect::ClearText`] if something has come already: somebody between the client and us may
    /// have put it there, and must not have it taken for something said inside TLS. After that or
    /// any other error nothing more is sent: the client would not know how to read it.
    pub fn start_tls(&mut self, keys: &ServerCertificate) -> Result<tls::TlsInfo, Disconnect> {
        let facts = self.handshake(keys);
        if facts.is_err() {
            self.layer = Layer::Mute;
        }
        facts
    }

    fn handshake(&mut self, keys: &ServerCertificate) -> Result<tls::TlsInfo, Disconnect> {
        if self.has_unread() {
            return Err(Disconnect::ClearText);
        }
        self.flush()?;
        let mut tls = Box::new(keys.session()?);
        let until = Instant::now() + self.wire.timeout.min(HANDSHAKE);
        let before = self.wire.shared.wait(WaitPhase::Command, Instant::now())?;
        let result = tls.handshake(&mut self.wire.until(until));
        let notice = self.wire.shared.resume(before);
        let facts = result.map_err(|e| notice.map_or_else(|| e.into(), Disconnect::from))?;
        self.layer = Layer::Tls(tls);
        Ok(facts)
    }

    /// Sends what waits and closes. What the client sends and nobody reads turns the close into a
    /// reset, which may take our last reply with it; so with `linger`, or when something is known
    /// to be unread, input is read and dropped for at most a second.
    pub fn close(mut self, linger: bool) {
        let mut unread = linger || self.has_unread();
        if self.flush().is_err() {
            return;
        }
        let until = Instant::now() + LINGER;
        if let Layer::Tls(tls) = &mut self.layer {
            let _ = tls.end(&mut self.wire.until(until));
        }
        self.layer = Layer::Mute;
        if unread {
            self.wire.shared.socket.shutdown(Shutdown::Write);
        }
        let mut left = LINGER_MAX;
        while unread && left > 0 && Instant::now() < until {
            (self.start, self.end, self.wire.deadline) = (0, 0, until);
            unread = self.fill(until, WaitPhase::Data, Instant::now()).is_ok();
            left = left.saturating_sub(self.end);
        }
    }

    /// Reads once, after sending what waits: at least one octet of what the client has owed since
    /// `idle_since`, or why not.
    fn fill(
        &mut self,
        until: Instant,
        phase: WaitPhase,
        idle_since: Instant,
    ) -> Result<(), Disconnect> {
        self.flush()?;
        if let Some(gone) = self.gone.take() {
            return Err(gone);
        }
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let before = self.wire.shared.wait(phase, idle_since)?;
        let buffer = &mut self.input[self.end..];
        let read = match &mut self.layer {
            Layer::Tls(tls) => {
                tls.read(&mut self.wire.until(until), buffer).map_err(Disconnect::from)
            }
            Layer::Clear | Layer::Mute => self.wire.read(buffer, until),
        };
        let notice = self.wire.shared.resume(before);
        match read {
            Ok(0) => Err(notice.map_or(Disconnect::Closed, Disconnect::from)),
            Ok(n) => {
                self.end += n;
                Ok(())
            }
            Err(cut) => Err(cut),
        }
    }
}

/// How long mail data may pause, or fall behind its pace.
fn pause(timeout: Duration) -> Duration {
    timeout * 3 / 5
}

/// Octets read at once; more than any command line.
const INPUT_SIZE: usize = 16 * 1024;
/// Replies of a pipelining client that are held back at most.
const OUTPUT_MAX: usize = 8 * 1024;
/// How long a client may take for the handshake of TLS, which is four messages.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// How long, and how much, unread input is read and dropped at the end.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX: usize = 1024 * 1024;
