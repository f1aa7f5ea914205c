//! A session's connection: bytes in and out, with limits and deadlines, over TCP, Unix sockets, or
//! standard input and output.
//!
//! A [`Stream`] has one buffer for each direction. Replies are collected in the outgoing one and
//! sent **when the stream is about to block** for more input. So a group of pipelined commands is
//! answered in one write (RFC 2920 3.2) and a single command at once.
//! [`flush_now`](Stream::flush_now) sends earlier.
//!
//! - No call blocks forever. A command line must be complete within the timeout, however slowly
//!   its bytes come. A client that does not read its replies is given up after it, and nothing
//!   outlasts the session's deadline. Each limit is kept to within an eighth of the timeout,
//!   because exact times would cost a system call for each read.
//! - Mail data must come at [`DATA_RATE_MIN`] bytes per second or more. A client may lag that rate,
//!   or pause, by three fifths of the timeout, and no burst buys it more. That is 3 minutes of 5,
//!   as long as a sender waits for the receiver to accept a block (RFC 5321 4.5.3.2.5). So when a
//!   network fails for a while, neither side gives up long before the other.
//! - Memory is bounded. An overlong line is read and dropped up to its CR LF within the same
//!   buffer. The buffer is small, because most sessions wait for a command, and grows once when
//!   mail data fills it.
//! - TLS begins with an empty buffer, and has the same deadlines, and one more for the handshake.
//!   After a handshake or a write that failed, nothing more is sent.
//!
//! Another thread may end a session through its [`SessionHandle`], and an overloaded server asks
//! for a higher data rate ([`OverloadFlag`]).

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use super::disconnect::Disconnect;
use super::server_socket::ServerSocket;
pub use super::session_handle::{OverloadFlag, SessionHandle};
use super::session_handle::{StreamShared, WaitPhase};
pub use super::socket::{Socket, standard_input};
use crate::message::peer::Peer;
use crate::net::tls::{ServerCertificate, TlsInfo, TlsSession};

/// Minimum rate of mail data, in bytes per second. The slowest links that still carry mail, a modem
/// of 1,200 bit/s or packet radio, reach it; GSM at 9,600 bit/s is ten times as fast.
pub const DATA_RATE_MIN: u64 = 100;
/// Minimum rate of mail data during overload, the same as Postfix's `smtpd_min_data_rate`. The
/// slowest GPRS, 8 kbit/s, is twice as fast.
pub const DATA_RATE_MIN_OVERLOAD: u64 = 500;

/// One connection with its buffers and deadlines.
#[derive(Debug)]
pub struct Stream {
    socket: ServerSocket,
    layer: Layer,
    peer: Peer,
    /// `input[start..end]` is unread.
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// Replies not sent yet.
    output: Vec<u8>,
    /// A write error that has not been returned to the caller yet.
    write_error: Option<Disconnect>,
    /// The time since which the stream has waited for the rest of a command line.
    line_since: Option<Instant>,
    /// The time at which mail data was last received, or was asked for.
    last_data: Instant,
    /// The time until which the mail data so far would have lasted at the minimum rate. It lags the
    /// clock as far as the client lags that rate.
    data_paced_until: Instant,
    /// Whether the server is overloaded.
    overload: Arc<OverloadFlag>,
}

/// The layer between the buffers and the socket.
#[derive(Debug)]
enum Layer {
    Clear,
    Tls(Box<TlsSession>),
    /// Input only. A write or a handshake failed half way, and the client would take anything that
    /// follows for something else.
    WriteClosed,
}

impl Stream {
    /// Returns a stream over `socket` for a session that begins now. `timeout` limits one read or
    /// write, `session_timeout` the session.
    ///
    /// # Errors
    /// The socket's options cannot be set, because the client is gone.
    pub fn new(
        socket: Socket,
        peer: Peer,
        timeout: Duration,
        session_timeout: Duration,
    ) -> io::Result<Stream> {
        let timeout = timeout.max(Duration::from_millis(2));
        let data_pause = timeout * 3 / 5;
        match &socket {
            Socket::Tcp(s) => {
                s.set_nodelay(true)?;
                s.set_read_timeout(Some(data_pause))?;
                s.set_write_timeout(Some(timeout))?;
            }
            Socket::Unix(s) => {
                s.set_read_timeout(Some(data_pause))?;
                s.set_write_timeout(Some(timeout))?;
            }
            Socket::Pipe { .. } => {}
        }
        let now = Instant::now();
        let shared = Arc::new(StreamShared::new(socket));
        Ok(Stream {
            socket: ServerSocket::new(shared, timeout, data_pause, now + session_timeout),
            layer: Layer::Clear,
            peer,
            input: vec![0; INPUT_SIZE_IDLE].into_boxed_slice(),
            start: 0,
            end: 0,
            output: Vec::new(),
            write_error: None,
            line_since: None,
            last_data: now,
            data_paced_until: now,
            overload: Arc::default(),
        })
    }

    /// Sets the flag that says whether mail data must keep the rate of overload.
    pub fn watch_overload(&mut self, overload: Arc<OverloadFlag>) {
        self.overload = overload;
    }

    /// Returns the flag that says whether the server is overloaded.
    pub fn overload(&self) -> &Arc<OverloadFlag> {
        &self.overload
    }

    /// Returns the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Returns a handle that ends the session from another thread.
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(&self.socket.shared)
    }

    /// Waits for the next command line, and returns the part of it that has arrived, at least one
    /// byte, without consuming it.
    pub fn peek_first_line(&mut self) -> Result<&[u8], Disconnect> {
        if self.start == self.end {
            self.fill_line()?;
        }
        Ok(&self.input[self.start..self.end])
    }

    /// Reads the next command line with its CR LF. Returns None for a line of more than `max`
    /// bytes, which is dropped as a whole.
    ///
    /// Nothing else ends a line. But a client that ends its lines with LF alone waits for a reply
    /// after the first of them. If input ends with LF and nothing follows for `BARE_LF_PAUSE`,
    /// this returns it as it is, because the reply should explain the error.
    #[inline(never)]
    pub fn read_line(&mut self, max: usize) -> Result<Option<&[u8]>, Disconnect> {
        if let Some(notice) = self.socket.shared.notice() {
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
            // The last byte may be the CR of a CR LF.
            searched = unread.len().saturating_sub(1);
            if unread.len() >= max.min(INPUT_SIZE_COMMAND) {
                too_long = true;
                self.start = self.end - 1;
                searched = 0;
            }
            if unread.ends_with(b"\n") && self.pauses()? {
                let from = self.start;
                self.line_since = None;
                self.start = self.end;
                return Ok((!too_long).then(|| &self.input[from..self.start]));
            }
            self.fill_line()?;
        }
    }

    /// Sends the replies in the buffer, and returns true if the client then sends nothing for
    /// [`BARE_LF_PAUSE`].
    fn pauses(&mut self) -> Result<bool, Disconnect> {
        self.flush()?;
        let waited = self.socket.shared.socket.wait_for_input(BARE_LF_PAUSE);
        Ok(!waited.map_err(Disconnect::Broken)?)
    }

    /// Reads more of a command line, which has one deadline as a whole.
    fn fill_line(&mut self) -> Result<(), Disconnect> {
        let since = *self.line_since.get_or_insert_with(Instant::now);
        self.fill(since + self.socket.timeout, WaitPhase::Command, since)
    }

    /// Begins mail data: its rate is measured from now on.
    pub fn begin_data(&mut self) {
        self.last_data = Instant::now();
        self.data_paced_until = self.last_data;
        self.enlarge_input(INPUT_SIZE_COMMAND);
    }

    /// Returns mail data that has not been consumed, at least one byte. Blocks if there is none.
    pub fn read_data(&mut self) -> Result<&[u8], Disconnect> {
        if self.start == self.end {
            if self.end == self.input.len() && self.end < INPUT_SIZE_DATA {
                self.input = vec![0; INPUT_SIZE_DATA].into_boxed_slice();
                (self.start, self.end) = (0, 0);
            }
            let paced_until = self.data_paced_until;
            // Some data came, but less than the minimum rate.
            let is_slow = paced_until < self.last_data;
            let deadline = paced_until + self.socket.data_pause;
            self.fill(deadline, WaitPhase::Data, paced_until).map_err(|e| match e {
                Disconnect::TimedOut if is_slow => Disconnect::TooSlow,
                e => e,
            })?;
            let rate = if self.overload.is_on() { DATA_RATE_MIN_OVERLOAD } else { DATA_RATE_MIN };
            let lasts = Duration::from_micros(self.end as u64 * 1_000_000 / rate);
            self.last_data = Instant::now();
            // Bursts earn no credit, so a fast start cannot pay for a long stall.
            self.data_paced_until = self.last_data.min(paced_until + lasts);
        }
        Ok(&self.input[self.start..self.end])
    }

    /// Marks `count` bytes of what [`read_data`](Stream::read_data) returned as read.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Returns true if the client has sent something before the greeting. Reads nothing.
    pub fn spoke_before_banner(&self) -> bool {
        self.has_unread() || self.socket.shared.socket.has_input()
    }

    /// Returns true if there is unread input in the buffer.
    pub fn has_unread(&self) -> bool {
        self.start != self.end
    }

    /// Adds to the replies to be sent what `write` appends.
    pub fn reply(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Disconnect> {
        write(&mut self.output);
        if self.output.len() > OUTPUT_MAX { self.flush() } else { Ok(()) }
    }

    /// Sends the replies in the buffer.
    pub fn flush(&mut self) -> Result<(), Disconnect> {
        if self.output.is_empty() {
            return Ok(());
        }
        let until = Instant::now() + self.socket.timeout;
        let sent = match &mut self.layer {
            Layer::Clear => self.socket.write_all(&self.output, until),
            Layer::Tls(tls) => {
                tls.write_all(&mut self.socket.until(until), &self.output).map_err(Disconnect::from)
            }
            Layer::WriteClosed => Ok(()),
        };
        self.output.clear();
        if sent.is_err() {
            self.layer = Layer::WriteClosed;
        }
        sent
    }

    /// Sends the replies in the buffer although the stream is not about to block. A failure of the
    /// connection is returned by the next read that would block, so that input already received is
    /// still processed, up to the final dot of a message.
    pub fn flush_now(&mut self) -> Result<(), Disconnect> {
        match self.flush() {
            Err(error @ Disconnect::Broken(_)) => {
                self.write_error = Some(error);
                Ok(())
            }
            result => result,
        }
    }

    /// Begins TLS: sends the replies in the buffer, in clear text still, and makes the handshake.
    /// The client has the timeout or a minute for it, whichever is shorter.
    ///
    /// # Errors
    /// [`Disconnect::ClearText`] if there is unread input. An attacker between the client and this
    /// host may have inserted it, so that it is read as if the client had sent it inside TLS. After
    /// any error nothing more is sent, because it might be in clear text or not.
    pub fn start_tls(&mut self, certificate: &ServerCertificate) -> Result<TlsInfo, Disconnect> {
        let result = self.handshake(certificate);
        if result.is_err() {
            self.layer = Layer::WriteClosed;
        }
        result
    }

    fn handshake(&mut self, certificate: &ServerCertificate) -> Result<TlsInfo, Disconnect> {
        if self.has_unread() {
            return Err(Disconnect::ClearText);
        }
        self.flush()?;
        let mut tls = Box::new(certificate.session()?);
        let until = Instant::now() + self.socket.timeout.min(HANDSHAKE_TIMEOUT);
        let before = self.socket.shared.begin_wait(WaitPhase::Command, Instant::now())?;
        let result = tls.handshake(&mut self.socket.until(until));
        let notice = self.socket.shared.end_wait(before);
        let info = result.map_err(|e| notice.map_or_else(|| e.into(), Disconnect::from))?;
        self.layer = Layer::Tls(tls);
        Ok(info)
    }

    /// Sends the replies in the buffer and closes the connection. With `linger`, or if there is
    /// unread input, reads and drops input for at most a second, because unread input turns the
    /// close into a reset, which may destroy the last reply on its way.
    pub fn close(mut self, linger: bool) {
        let mut drains = linger || self.has_unread();
        if self.flush().is_err() {
            return;
        }
        let until = Instant::now() + LINGER_TIMEOUT;
        if let Layer::Tls(tls) = &mut self.layer {
            let _ = tls.close_notify(&mut self.socket.until(until));
        }
        self.layer = Layer::WriteClosed;
        if drains {
            self.socket.shared.socket.shutdown(Shutdown::Write);
        }
        let mut left = LINGER_MAX;
        while drains && left > 0 && Instant::now() < until {
            (self.start, self.end, self.socket.deadline) = (0, 0, until);
            drains = self.fill(until, WaitPhase::Data, Instant::now()).is_ok();
            left = left.saturating_sub(self.end);
        }
    }

    /// Makes the buffer of input at least `size` bytes large, and keeps what is unread in it.
    fn enlarge_input(&mut self, size: usize) {
        if self.input.len() < size {
            let mut input = std::mem::take(&mut self.input).into_vec();
            input.resize(size, 0);
            self.input = input.into_boxed_slice();
        }
    }

    /// Sends the replies in the buffer, and reads once, at least one byte. The client should have
    /// sent it since `idle_since`.
    fn fill(
        &mut self,
        until: Instant,
        phase: WaitPhase,
        idle_since: Instant,
    ) -> Result<(), Disconnect> {
        self.flush()?;
        if let Some(error) = self.write_error.take() {
            return Err(error);
        }
        let was_filled = self.end == self.input.len();
        if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if was_filled {
            self.enlarge_input(INPUT_SIZE_COMMAND);
        }
        let before = self.socket.shared.begin_wait(phase, idle_since)?;
        let buffer = &mut self.input[self.end..];
        let read = match &mut self.layer {
            Layer::Tls(tls) => {
                tls.read(&mut self.socket.until(until), buffer).map_err(Disconnect::from)
            }
            Layer::Clear | Layer::WriteClosed => self.socket.read(buffer, until),
        };
        let notice = self.socket.shared.end_wait(before);
        match read {
            Ok(0) => Err(notice.map_or(Disconnect::Closed, Disconnect::from)),
            Ok(n) => {
                self.end += n;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

/// Bytes of commands read at once before a read has filled the buffer. Most idle clients never do.
const INPUT_SIZE_IDLE: usize = 512;
/// Bytes of commands read at once, as many as the longest command line has.
const INPUT_SIZE_COMMAND: usize = 2 * 1024;
/// Bytes of mail data read at once, after a read that filled the smaller buffer.
const INPUT_SIZE_DATA: usize = 16 * 1024;
/// Pause after which input that ends with a bare LF is a whole line.
const BARE_LF_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of replies to a pipelining client above which they are sent.
const OUTPUT_MAX: usize = 8 * 1024;
/// Time for the TLS handshake, which is four messages.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for which, and bytes up to which, input is read and dropped at the end.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_MAX: usize = 1024 * 1024;
