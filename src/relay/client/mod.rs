//! The SMTP client: connections to another server, over which messages are sent. It does the I/O
//! for a [`Sender`].
//!
//! ```text
//! ServerAddress --connect()--> Connection --send()--> a RecipientOutcome for each recipient
//!  mx.example.org:25                      --send()--> ...
//!  tls:mx.example.org:465                 --quit()
//!  unix:/run/mailslot/smtp
//! ```
//! Promises:
//! - **No call blocks forever.** Every stage has a timeout (RFC 5321 4.5.3.2, see [`Timeouts`]),
//!   within which a reply must be complete.
//! - **All addresses of a name are tried**, after a lookup for each connection. An error before a
//!   message is sent defers the message, because the message did not cause it.
//! - **Limits of the server are kept.** [`Connection::send`] makes as many transactions as they
//!   require, and a new connection if the server has closed an idle one.
//! - **Memory does not grow with the message.** It is read, converted and sent in blocks of
//!   [`BLOCK_SIZE`].
//! - **Mail is converted only if it must be**, by the rules in `smtp/sender/survey.rs`.
//!
//! The client keeps no queue and does not look up MX records. With [`ClientConfig::lmtp`] it uses
//! LMTP.
//!
//! | file | contains |
//! | --- | --- |
//! | `client_socket.rs` | the socket, in clear text or TLS, with deadlines |
//! | `server_address.rs` | the address of a server, as options have it |
//! | `credentials.rs` | the file of users and passwords |
//! | `converting_reader.rs` | a reader that converts a message while it is sent |
//! | `probe.rs` | a connection that sends no message, for `check --smarthost` |

mod client_socket;
mod converting_reader;
pub mod credentials;
mod probe;
mod server_address;

use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::net::tls::{TlsInfo, Trust};
use crate::smtp::sender::{
    self, CHUNK_MAX, ContentSurvey, Conversion, Credentials, Encoder, OutcomeReason,
    RecipientOutcome, Sender, SenderStep, Stage, StartTlsPolicy,
};
use crate::smtp::{BodyType, Envelope};
use client_socket::ClientSocket;
pub use client_socket::connect_unix;
pub use probe::{ProbeResult, probe};
pub use server_address::ServerAddress;

/// Configuration of a connection. The default uses clear text and no AUTH.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The argument of EHLO.
    pub hostname: String,
    /// True for LMTP (RFC 2033).
    pub lmtp: bool,
    /// None for clear text.
    pub tls: Option<ClientTls>,
    /// User and password for AUTH, never sent in clear text over TCP.
    pub credentials: Option<Credentials>,
    /// Timeouts of the stages.
    pub timeouts: Timeouts,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            hostname: "localhost".to_owned(),
            lmtp: false,
            tls: None,
            credentials: None,
            timeouts: Timeouts::default(),
        }
    }
}

/// Configuration of TLS.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// The certificates to accept.
    pub trust: Trust,
    /// True if mail is sent inside TLS only, except over a Unix socket. Otherwise TLS is used if
    /// the server offers it.
    pub required: bool,
}

/// Maximum times for the stages of a connection (RFC 5321 4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Time for a connection to one address or to a Unix socket.
    pub connect: Duration,
    /// Time for the greeting.
    pub greeting: Duration,
    /// Time for the reply to MAIL, RCPT and other commands, and for a handshake.
    pub command: Duration,
    /// Time for the reply to DATA.
    pub data: Duration,
    /// Time for the server to accept a block of mail data, or a group of commands.
    pub block: Duration,
    /// Time for the reply to the end of mail data.
    pub dot: Duration,
    /// Time for the reply to QUIT. No outcome depends on it.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts {
            connect: seconds(30),
            greeting: seconds(300),
            command: seconds(300),
            data: seconds(120),
            block: seconds(180),
            dot: seconds(600),
            quit: seconds(10),
        }
    }
}

/// A message to be sent.
pub struct OutgoingMessage<'a, D> {
    /// Sender, recipients and parameters.
    pub envelope: &'a Envelope<D>,
    /// Size in octets on the wire, where a line end is two (RFC 1870). An estimate will do.
    pub size: u64,
    /// Opens the content: lines with LF, header first. Called for each transaction.
    pub content: &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>,
    /// The survey of the content, by which it is converted if it must be for this server. None if
    /// it is to be sent as it is.
    pub survey: Option<&'a ContentSurvey>,
}

/// A connection with an open session.
#[derive(Debug)]
pub struct Connection {
    address: ServerAddress,
    /// The address to connect to again; None to look the server up again.
    peer: Option<SocketAddr>,
    config: ClientConfig,
    sender: Sender,
    socket: ClientSocket,
    tls: Option<TlsInfo>,
    /// True if a transaction has been made.
    is_used: bool,
}

/// A failure to open a session.
struct OpenError {
    reason: OutcomeReason,
    /// True if the session may be opened without TLS.
    retry_without_tls: bool,
}

/// Connects to `address`, and opens a session up to AUTH.
///
/// # Errors
/// The reason, which is temporary and concerns no message.
pub fn connect(
    address: &ServerAddress,
    config: &ClientConfig,
) -> Result<Connection, OutcomeReason> {
    let (host, port) = match address {
        ServerAddress::Unix(path) => {
            return open_with_fallback(address, config, &|| {
                ClientSocket::unix(path, config.timeouts.connect)
            });
        }
        ServerAddress::Tcp { host, port, .. } => (host.as_str(), *port),
    };
    let found = look_up(host, port)?;
    // A lost connection is made again after another lookup.
    connect_to(address, found, config).map(|connection| Connection { peer: None, ..connection })
}

/// Connects to the first of the addresses `found` of the server `address` that can be used, and
/// opens a session up to AUTH.
///
/// # Errors
/// The same as those of [`connect`].
pub fn connect_to(
    address: &ServerAddress,
    found: impl IntoIterator<Item = SocketAddr>,
    config: &ClientConfig,
) -> Result<Connection, OutcomeReason> {
    let mut last = no_address(address);
    for ip in found {
        let connect = || ClientSocket::tcp(ip, config.timeouts.connect);
        match open_with_fallback(address, config, &connect) {
            Ok(connection) => return Ok(Connection { peer: Some(ip), ..connection }),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

/// Looks up the addresses of a server.
fn look_up(
    host: &str,
    port: u16,
) -> Result<impl Iterator<Item = SocketAddr> + use<>, OutcomeReason> {
    let found = (host, port).to_socket_addrs();
    found.map_err(|e| OutcomeReason::local((4, 4, 3), &format!("{host} cannot be looked up: {e}")))
}

fn no_address(address: &ServerAddress) -> OutcomeReason {
    OutcomeReason::local((4, 4, 3), &format!("{address} has no address"))
}

fn cannot_connect(address: &ServerAddress, e: &io::Error) -> OutcomeReason {
    OutcomeReason::local((4, 4, 1), &format!("cannot connect to {address}: {e}"))
}

/// Opens a session over the socket that `connect` returns. If TLS does not work and is not
/// required, opens another one in clear text.
fn open_with_fallback(
    address: &ServerAddress,
    config: &ClientConfig,
    connect: &dyn Fn() -> io::Result<ClientSocket>,
) -> Result<Connection, OutcomeReason> {
    let open = |with_tls| {
        let socket = connect().map_err(|e| OpenError {
            reason: cannot_connect(address, &e),
            retry_without_tls: false,
        })?;
        Connection::open(address, config, socket, with_tls)
    };
    let opened = match open(true) {
        Err(OpenError { retry_without_tls: true, .. }) => open(false),
        opened => opened,
    };
    opened.map_err(|error| error.reason)
}

/// Opens a session over `socket`, which is connected to a server on this host.
///
/// # Errors
/// The reason, which is temporary and concerns no message.
pub fn connect_over(
    socket: UnixStream,
    config: &ClientConfig,
) -> Result<Connection, OutcomeReason> {
    let unnamed = ServerAddress::Unix(PathBuf::new());
    let opened = Connection::open(&unnamed, config, ClientSocket::connected(socket), true);
    opened.map_err(|error| error.reason)
}

impl Connection {
    fn open(
        address: &ServerAddress,
        config: &ClientConfig,
        socket: ClientSocket,
        with_tls: bool,
    ) -> Result<Connection, OpenError> {
        match Connection::begin(address, config, socket, with_tls) {
            (connection, None) => Ok(connection),
            (_, Some(error)) => Err(error),
        }
    }

    /// Opens a session as far as possible. Returns the error that ended it, if any.
    fn begin(
        address: &ServerAddress,
        config: &ClientConfig,
        socket: ClientSocket,
        with_tls: bool,
    ) -> (Connection, Option<OpenError>) {
        let implicit = matches!(address, ServerAddress::Tcp { tls: true, .. });
        let is_unix = matches!(address, ServerAddress::Unix(_));
        let start_tls = match &config.tls {
            _ if implicit => StartTlsPolicy::Off,
            // A Unix socket needs no TLS, because no other host can read it.
            Some(tls) if tls.required && !is_unix => StartTlsPolicy::Required,
            Some(_) if with_tls => StartTlsPolicy::Offered,
            _ => StartTlsPolicy::Off,
        };
        let sender = Sender::new(sender::SenderConfig {
            hostname: config.hostname.clone(),
            secure: implicit || is_unix,
            lmtp: config.lmtp,
            start_tls,
            credentials: config.credentials.clone(),
        });
        let mut connection = Connection {
            address: address.clone(),
            peer: None,
            config: config.clone(),
            sender,
            socket,
            tls: None,
            is_used: false,
        };
        let tls_failed = |e: &io::Error| {
            let text = format!("TLS handshake failed: {e}");
            let mut reason = OutcomeReason::local(TLS_FAILED, &text);
            reason.server = Some(address.server_name());
            OpenError { reason, retry_without_tls: start_tls == StartTlsPolicy::Offered }
        };
        if implicit && let Err(e) = connection.handshake() {
            return (connection, Some(tls_failed(&e)));
        }
        loop {
            match connection.exchange() {
                SenderStep::StartTls => match connection.handshake() {
                    Ok(()) => connection.sender.begin_tls(),
                    Err(e) => return (connection, Some(tls_failed(&e))),
                },
                SenderStep::Ready => return (connection, None),
                _ => break,
            }
        }
        let reason = connection.sender.failure().cloned();
        let mut reason = reason.unwrap_or_else(|| OutcomeReason::local(BAD_CONNECTION, CLOSED));
        reason.server = Some(address.server_name());
        (connection, Some(OpenError { reason, retry_without_tls: false }))
    }

    /// Sends one message. Returns an outcome for each recipient of its envelope, in their order.
    ///
    /// The connection may be closed afterwards ([`is_open`](Connection::is_open)). The next message
    /// then makes a new one.
    pub fn send<D>(&mut self, message: &OutgoingMessage<'_, D>) -> Vec<RecipientOutcome> {
        let mut outcomes = vec![None; message.envelope.to.len()];
        while outcomes.iter().any(Option::is_none) {
            if (!self.is_open() || self.sender.has_reached_limit())
                && let Err(reason) = self.reconnect()
            {
                return defer_rest(outcomes, &reason);
            }
            let replies = self.sender.reply_count();
            let new_outcomes = self.transact(message, outcomes.clone());
            if self.is_used && self.was_closed_while_idle(replies) {
                continue;
            }
            let server = self.address.server_name();
            let named = |(old, new): (&Option<_>, Option<RecipientOutcome>)| match old {
                Some(_) => new,
                None => new.map(|outcome| outcome.from_server(&server)),
            };
            outcomes = outcomes.iter().zip(new_outcomes).map(named).collect();
            self.is_used = true;
        }
        outcomes.into_iter().flatten().collect()
    }

    /// True if another message can be sent, as far as is known without a command.
    pub fn is_open(&self) -> bool {
        self.sender.step() == SenderStep::Ready
    }

    /// True if the connection was lost before the reply to the end of mail data, so that the server
    /// may have accepted the last message.
    pub fn may_have_accepted(&self) -> bool {
        self.sender.may_have_accepted()
    }

    /// Returns the address of the server.
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Returns the parameters of TLS, or None in clear text.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// True if the server supports DSN, so that it makes the reports that were asked for (RFC
    /// 3461).
    pub fn supports_dsn(&self) -> bool {
        self.sender.extensions().dsn
    }

    /// Sends QUIT, waits for the reply, and closes the connection.
    pub fn quit(mut self) {
        self.sender.quit();
        self.exchange();
        self.socket.end(Instant::now() + self.config.timeouts.quit);
    }

    fn reconnect(&mut self) -> Result<(), OutcomeReason> {
        let new = match self.peer {
            Some(peer) => connect_to(&self.address, [peer], &self.config)?,
            None => connect(&self.address, &self.config)?,
        };
        std::mem::replace(self, new).quit();
        Ok(())
    }

    /// True if the server closed the idle connection before it saw the transaction, which began
    /// after so many `replies`. The transaction can then be repeated.
    fn was_closed_while_idle(&self, replies: u64) -> bool {
        match self.sender.failure() {
            // The 421 may be in answer to MAIL (RFC 5321 3.8).
            Some(OutcomeReason { code: Some(421), .. }) => self.sender.reply_count() <= replies + 1,
            Some(_) => self.sender.reply_count() == replies,
            None => false,
        }
    }

    /// Makes one transaction for the recipients that have no outcome yet. Returns all outcomes.
    fn transact<D>(
        &mut self,
        message: &OutgoingMessage<'_, D>,
        outcomes: Vec<Option<RecipientOutcome>>,
    ) -> Vec<Option<RecipientOutcome>> {
        let eight_bit_mime = self.sender.extensions().eight_bit_mime;
        let conversion = message.survey.map(|survey| survey.conversion(eight_bit_mime));
        let conversion = conversion.unwrap_or(Conversion::Unchanged);
        let open = || Ok(converting_reader::convert((message.content)()?, &conversion));
        let size = match conversion {
            Conversion::Unchanged => Ok(message.size),
            // Before the content is opened again, because a file has one position.
            _ => open().and_then(wire_size),
        };
        // A message that fits a chunk is sent without waiting for DATA. To find out, read as much
        // as a chunk can hold, and one byte.
        let mut start = Vec::new();
        let opened = size.and_then(|size| {
            let mut content = open()?;
            if self.sender.accepts_chunk(0) {
                content.by_ref().take(CHUNK_MAX as u64 + 1).read_to_end(&mut start)?;
            }
            Ok((size, content))
        });
        let (size, rest) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                let reason = OutcomeReason::local(LOCAL_ERROR, &content_error(&e));
                return defer_rest(outcomes, &reason).into_iter().map(Some).collect();
            }
        };
        let mut chunk = None;
        if self.sender.accepts_chunk(start.len()) {
            let mut encoder = Encoder::for_chunks();
            let mut encoded = Vec::new();
            encoder.encode(&start, &mut encoded);
            encoder.finish(&mut encoded);
            // With CR LF it may be too large after all.
            if self.sender.accepts_chunk(encoded.len()) {
                chunk = Some(encoded);
            }
        }
        let size = chunk.as_ref().map_or(size, |chunk| chunk.len() as u64);
        let declared = message.envelope.body == BodyType::EightBitMime;
        match message.survey {
            Some(survey)
                if declared && !eight_bit_mime && survey.is_seven_bit_after(&conversion) =>
            {
                let envelope = seven_bit(message.envelope);
                self.sender.begin_transaction(&envelope, outcomes, size, chunk);
            }
            _ => self.sender.begin_transaction(message.envelope, outcomes, size, chunk),
        }
        if self.exchange() == SenderStep::Data {
            self.send_data(&mut start.chain(rest));
            self.exchange();
        }
        self.sender.take_outcomes()
    }

    /// Sends mail data after DATA.
    fn send_data(&mut self, content: &mut dyn Read) {
        let mut encoder = Encoder::for_data();
        let mut block = vec![0; BLOCK_SIZE];
        let mut encoded = Vec::with_capacity(BLOCK_SIZE + BLOCK_SIZE / 8);
        loop {
            match content.read(&mut block) {
                Ok(0) => break,
                Ok(n) => encoder.encode(block.get(..n).unwrap_or_default(), &mut encoded),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // The connection is closed without the final dot, so that the server does not take
                // a part for the message.
                Err(e) => return self.sender.fail(&content_error(&e), LOCAL_ERROR),
            }
            if !self.write(&encoded) {
                return;
            }
            encoded.clear();
        }
        encoder.finish(&mut encoded);
        if self.write(&encoded) {
            self.sender.finish_data();
        }
    }

    /// Sends commands and reads replies until the sender has another step.
    fn exchange(&mut self) -> SenderStep {
        let mut deadline = Instant::now();
        let mut buffer = vec![0; INPUT_SIZE];
        let mut replies = None;
        loop {
            let SenderStep::Read(stage) = self.sender.step() else { return self.sender.step() };
            let output = self.sender.take_output();
            if !output.is_empty() && !self.write(&output) {
                continue;
            }
            // Each reply has its own deadline. Input that completes none does not extend it.
            if !output.is_empty() || replies != Some(self.sender.reply_count()) {
                replies = Some(self.sender.reply_count());
                deadline = Instant::now() + self.timeout_for(stage);
            }
            match self.socket.read(&mut buffer, deadline) {
                Ok(0) => self.sender.fail(CLOSED, BAD_CONNECTION),
                Ok(n) => self.sender.feed(buffer.get(..n).unwrap_or_default()),
                Err(e) => self.sender.fail(&socket_error(&e), BAD_CONNECTION),
            }
        }
    }

    /// Writes `bytes`. Returns false after an error, with the connection closed.
    fn write(&mut self, bytes: &[u8]) -> bool {
        let deadline = Instant::now() + self.config.timeouts.block;
        let Err(e) = self.socket.write_all(bytes, deadline) else { return true };
        // The server may have sent a reply that says why, before it closed the connection.
        let deadline = Instant::now() + FINAL_REPLY_TIMEOUT;
        let mut buffer = vec![0; INPUT_SIZE];
        while self.sender.step() != SenderStep::Close {
            match self.socket.read(&mut buffer, deadline) {
                Ok(n) if n > 0 => self.sender.feed(buffer.get(..n).unwrap_or_default()),
                _ => self.sender.fail(&socket_error(&e), BAD_CONNECTION),
            }
        }
        false
    }

    fn handshake(&mut self) -> io::Result<()> {
        let Some(tls) = &self.config.tls else {
            return Err(io::Error::other("no TLS is configured"));
        };
        let host = match &self.address {
            ServerAddress::Tcp { host, .. } => host,
            ServerAddress::Unix(_) => "localhost",
        };
        let deadline = Instant::now() + self.config.timeouts.command;
        self.tls = Some(self.socket.start_tls(&tls.trust, host, deadline)?);
        Ok(())
    }

    fn timeout_for(&self, stage: Stage) -> Duration {
        let timeouts = &self.config.timeouts;
        match stage {
            Stage::Greeting => timeouts.greeting,
            Stage::Command => timeouts.command,
            Stage::Data => timeouts.data,
            Stage::Dot => timeouts.dot,
            Stage::Quit => timeouts.quit,
        }
    }
}

/// Returns a copy of `envelope` for content that is 7-bit.
fn seven_bit<D>(envelope: &Envelope<D>) -> Envelope<()> {
    let to = envelope.to.iter().map(|recipient| recipient.with_destination(())).collect();
    let copy = envelope.with_recipients(to);
    Envelope { body: BodyType::SevenBit, ..copy }
}

/// Returns the size of `content` in octets on the wire, where a line end is two.
fn wire_size(mut content: impl Read) -> io::Result<u64> {
    let (mut size, mut block) = (0, vec![0; BLOCK_SIZE]);
    loop {
        match content.read(&mut block)? {
            0 => return Ok(size),
            n => {
                let read = block.get(..n).unwrap_or_default();
                size += (n + memchr::memchr_iter(b'\n', read).count()) as u64;
            }
        }
    }
}

/// Defers the recipients that have no outcome yet.
fn defer_rest(
    outcomes: Vec<Option<RecipientOutcome>>,
    reason: &OutcomeReason,
) -> Vec<RecipientOutcome> {
    let deferred = || RecipientOutcome::Deferred(reason.clone());
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(deferred)).collect()
}

fn content_error(e: &io::Error) -> String {
    format!("the message cannot be read: {e}")
}

/// Returns the text of `e`, to be completed by [`Sender::fail`].
fn socket_error(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::TimedOut => "a timeout".to_owned(),
        _ => e.to_string(),
    }
}

/// Number of bytes of content that are read and sent at once.
pub const BLOCK_SIZE: usize = 32 * 1024;
/// Size of the input buffer in bytes, enough for the replies to a group of commands.
const INPUT_SIZE: usize = 4096;
/// Time for a last reply from a server that accepts no more output.
const FINAL_REPLY_TIMEOUT: Duration = Duration::from_secs(1);
const CLOSED: &str = "the end of the connection";
// RFC 3463: bad connection, cryptographic failure, other mail system status.
const BAD_CONNECTION: (u8, u16, u16) = (4, 4, 2);
const TLS_FAILED: (u8, u16, u16) = (4, 7, 5);
const LOCAL_ERROR: (u8, u16, u16) = (4, 3, 0);
