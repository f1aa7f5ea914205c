//! The I/O of a [`Sender`]: connections to another server, over which messages are sent.
//!
//! ```text
//! Target --connect()--> Connection --send()--> one Outcome for each recipient
//!  mx.example.org:25                --send()--> ...
//!  tls:mx.example.org:465           --quit()
//!  unix:/run/mailslot/smtp
//! ```
//! Promises:
//! - No call blocks for ever: every stage has the time of RFC 5321 4.5.3.2, see [`Timeouts`]. A
//!   reply must be whole in its time, however slowly it comes.
//! - A name is looked up for each connection, and each of its addresses is tried in turn. What goes
//!   wrong before a message is sent is never the message's fault: it is for later.
//! - [`Connection::send`] takes as many transactions as the server's limits ask for, and a new
//!   connection where the server has closed one that was idle.
//! - Memory does not grow with the message: it is read, and sent, in pieces of [`PIECE`].
//!
//! It keeps no queue and knows no MX records: it is told to whom to connect.

mod client_socket;
pub mod credentials;
mod target;

use std::fmt;
use std::io::{self, Read};
use std::net::ToSocketAddrs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::net::tls::{TlsInfo, Trust};
use crate::smtp::Envelope;
use crate::smtp::sender::{
    self, CHUNK_MAX, Credentials, Encoder, OutcomeReason, RecipientOutcome, Sender, SenderStep,
    Stage, StartTlsPolicy,
};
use client_socket::ClientSocket;
pub use target::ServerAddress;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// What we call ourselves.
    pub hostname: String,
    /// TLS; None: all is in clear text.
    pub tls: Option<ClientTls>,
    /// Who we say we are; never in clear text over TCP.
    pub login: Option<Credentials>,
    /// How long to wait.
    pub timeouts: Timeouts,
}

/// Of TLS.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Whose certificates are believed.
    pub trust: Trust,
    /// Whether nothing is sent without, but over a Unix socket; or else TLS is used where it can be
    /// had.
    pub required: bool,
}

/// How long to wait (RFC 5321 4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a TCP connection, each address of a name.
    pub connect: Duration,
    /// For the greeting.
    pub greeting: Duration,
    /// For the reply to MAIL, RCPT and other commands, and for a handshake.
    pub command: Duration,
    /// For the reply to DATA.
    pub data: Duration,
    /// For the server to take a piece of mail data, or a group of commands.
    pub block: Duration,
    /// For the reply to the end of mail data.
    pub dot: Duration,
    /// For the reply to QUIT, of which nothing depends.
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

/// One message, as [`Connection::send`] takes it.
pub struct OutgoingMessage<'a, D> {
    /// From whom, to whom, and what was declared.
    pub envelope: &'a Envelope<D>,
    /// How long it is on the wire, each line end counted as two; as far as known (RFC 1870).
    pub octets: u64,
    /// Opens the content at its beginning: lines with LF, header first. It is opened for each
    /// transaction.
    pub content: &'a dyn Fn() -> io::Result<Box<dyn Read + 'a>>,
}

/// A connection whose session is open.
#[derive(Debug)]
pub struct Connection {
    target: ServerAddress,
    settings: ClientConfig,
    sender: Sender,
    wire: ClientSocket,
    tls: Option<TlsInfo>,
    /// Whether a transaction went over it.
    is_used: bool,
}

/// Connects to `target`, and introduces itself.
///
/// # Errors
/// Why that cannot be now. Nothing is wrong with any message.
pub fn connect(
    target: &ServerAddress,
    settings: &ClientConfig,
) -> Result<Connection, OutcomeReason> {
    let (host, port) = match target {
        ServerAddress::Unix(path) => {
            return attempt(target, settings, &|| ClientSocket::unix(path));
        }
        ServerAddress::Tcp { host, port, .. } => (host.as_str(), *port),
    };
    let addresses = (host, port).to_socket_addrs().map_err(|e| {
        OutcomeReason::local((4, 4, 3), &format!("{host} cannot be looked up: {e}"))
    })?;
    let mut why = OutcomeReason::local((4, 4, 3), &format!("{host} has no address"));
    for address in addresses {
        match attempt(target, settings, &|| ClientSocket::tcp(address, settings.timeouts.connect)) {
            Ok(connection) => return Ok(connection),
            Err(reason) => why = reason,
        }
    }
    Err(why)
}

/// Opens a session over what `dial` gives. A server whose TLS does not work is tried again in clear
/// text, where that is enough.
fn attempt(
    target: &ServerAddress,
    settings: &ClientConfig,
    dial: &dyn Fn() -> io::Result<ClientSocket>,
) -> Result<Connection, OutcomeReason> {
    let open = |with_tls| {
        let wire = dial().map_err(|e| (failed(target, &e), false))?;
        Connection::open(target, settings, wire, with_tls)
    };
    let opened = match open(true) {
        Err((_, true)) => open(false),
        opened => opened,
    };
    opened.map_err(|(reason, _)| reason)
}

/// Introduces itself over `socket`, which leads to a server on this host.
///
/// # Errors
/// As for [`connect`].
pub fn over(socket: UnixStream, settings: &ClientConfig) -> Result<Connection, OutcomeReason> {
    let nowhere = ServerAddress::Unix(PathBuf::new());
    let opened = Connection::open(&nowhere, settings, ClientSocket::connected(socket), true);
    opened.map_err(|(reason, _)| reason)
}

impl Connection {
    /// Opens the session on `wire`. An error says whether it may go better without TLS.
    fn open(
        target: &ServerAddress,
        settings: &ClientConfig,
        wire: ClientSocket,
        with_tls: bool,
    ) -> Result<Connection, (OutcomeReason, bool)> {
        let implicit = matches!(target, ServerAddress::Tcp { tls: true, .. });
        let is_unix = matches!(target, ServerAddress::Unix(_));
        let start_tls = match &settings.tls {
            _ if implicit => StartTlsPolicy::Off,
            // A Unix socket is no worse.
            Some(tls) if tls.required && !is_unix => StartTlsPolicy::Required,
            Some(_) if with_tls => StartTlsPolicy::Offered,
            _ => StartTlsPolicy::Off,
        };
        let sender = Sender::new(sender::SenderConfig {
            hostname: settings.hostname.clone(),
            secure: implicit || is_unix,
            start_tls,
            credentials: settings.login.clone(),
        });
        let (target, settings) = (target.clone(), settings.clone());
        let mut connection =
            Connection { target, settings, sender, wire, tls: None, is_used: false };
        if implicit {
            let begun = connection.handshake();
            begun.map_err(|e| {
                (OutcomeReason::local(NO_TLS, &format!("TLS cannot begin: {e}")), false)
            })?;
        }
        let mut handshake_failed = false;
        loop {
            match connection.converse() {
                SenderStep::StartTls => match connection.handshake() {
                    Ok(()) => connection.sender.begin_tls(),
                    Err(e) => {
                        connection.sender.fail(&format!("{e} came"), NO_TLS);
                        handshake_failed = start_tls == StartTlsPolicy::Offered;
                    }
                },
                SenderStep::Ready => return Ok(connection),
                _ => break,
            }
        }
        let reason = connection.sender.failure().cloned();
        Err((reason.unwrap_or_else(closed), handshake_failed))
    }

    /// Sends one message; of each recipient of its envelope, in their order, what became of it.
    ///
    /// Afterwards the connection may be of no use any more ([`is_open`](Connection::is_open)); the
    /// next message then makes a new one.
    pub fn send<D>(&mut self, mail: &OutgoingMessage<'_, D>) -> Vec<RecipientOutcome> {
        let mut outcomes = vec![None; mail.envelope.to.len()];
        while outcomes.iter().any(Option::is_none) {
            if (!self.is_open() || self.sender.has_reached_limit())
                && let Err(reason) = self.reconnect()
            {
                return fill(outcomes, &reason);
            }
            let replies = self.sender.reply_count();
            let now = self.transact(mail, outcomes.clone());
            if self.is_used && self.was_closed_since(replies) {
                continue;
            }
            outcomes = now;
            self.is_used = true;
        }
        outcomes.into_iter().flatten().collect()
    }

    /// Whether another message can be sent over it, as far as is known without asking.
    pub fn is_open(&self) -> bool {
        self.sender.step() == SenderStep::Ready
    }

    /// To whom it leads.
    pub fn target(&self) -> &ServerAddress {
        &self.target
    }

    /// What TLS came to, if there is any.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// Whether delivery reports are left to the server (RFC 3461): it was told what was asked for.
    pub fn takes_dsn(&self) -> bool {
        self.sender.extensions().dsn
    }

    /// Says QUIT, waits for the answer a moment, and closes.
    pub fn quit(mut self) {
        self.sender.quit();
        self.converse();
        self.wire.end(Instant::now() + self.settings.timeouts.quit);
    }

    fn reconnect(&mut self) -> Result<(), OutcomeReason> {
        let new = connect(&self.target, &self.settings)?;
        std::mem::replace(self, new).quit();
        Ok(())
    }

    /// Whether the server had closed the connection, idle as it was, before it heard of a
    /// transaction; then there were so many `replies`.
    fn was_closed_since(&self, replies: u64) -> bool {
        match self.sender.failure() {
            Some(OutcomeReason { code: Some(421), .. }) => self.sender.reply_count() <= replies + 1,
            Some(_) => self.sender.reply_count() == replies,
            None => false,
        }
    }

    /// One transaction, for those that have no outcome yet.
    fn transact<D>(
        &mut self,
        mail: &OutgoingMessage<'_, D>,
        outcomes: Vec<Option<RecipientOutcome>>,
    ) -> Vec<Option<RecipientOutcome>> {
        let mut head = Vec::new();
        let opened = (mail.content)().and_then(|mut content| {
            if self.sender.accepts_chunk(0) {
                content.by_ref().take(CHUNK_MAX as u64 + 1).read_to_end(&mut head)?;
            }
            Ok(content)
        });
        let rest = match opened {
            Ok(rest) => rest,
            Err(e) => return fill(outcomes, &unreadable(&e)).into_iter().map(Some).collect(),
        };
        let mut chunk = None;
        if self.sender.accepts_chunk(head.len()) {
            let mut encoder = Encoder::for_chunks();
            let mut encoded = Vec::new();
            encoder.encode(&head, &mut encoded);
            encoder.finish(&mut encoded);
            chunk = Some(encoded).filter(|encoded| self.sender.accepts_chunk(encoded.len()));
        }
        let octets = chunk.as_ref().map_or(mail.octets, |chunk| chunk.len() as u64);
        self.sender.begin_transaction(mail.envelope, outcomes, octets, chunk);
        if self.converse() == SenderStep::Data {
            self.data(&mut head.chain(rest));
            self.converse();
        }
        self.sender.take_outcomes()
    }

    /// Sends mail data by DATA.
    fn data(&mut self, content: &mut dyn Read) {
        let mut encoder = Encoder::for_data();
        let mut piece = vec![0; PIECE];
        let mut encoded = Vec::with_capacity(PIECE + PIECE / 8);
        loop {
            match content.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => encoder.encode(piece.get(..n).unwrap_or_default(), &mut encoded),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // Without its last dot it is no message.
                Err(e) => return self.sender.fail(&unreadable(&e).text, LOCAL),
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

    /// Talks until there is something else to do.
    fn converse(&mut self) -> SenderStep {
        let mut until = Instant::now();
        let mut buffer = vec![0; INPUT_SIZE];
        let mut replies = None;
        loop {
            let SenderStep::Read(stage) = self.sender.step() else { return self.sender.step() };
            let output = self.sender.take_output();
            if !output.is_empty() && !self.write(&output) {
                continue;
            }
            if !output.is_empty() || replies != Some(self.sender.reply_count()) {
                replies = Some(self.sender.reply_count());
                until = Instant::now() + self.time_for(stage);
            }
            match self.wire.read(&mut buffer, until) {
                Ok(0) => self.sender.fail(CLOSED, BAD_CONNECTION),
                Ok(n) => self.sender.feed(buffer.get(..n).unwrap_or_default()),
                Err(e) => self.sender.fail(&what_came(&e), BAD_CONNECTION),
            }
        }
    }

    /// Sends `octets`; whether it could. A server that closes has perhaps said why.
    fn write(&mut self, octets: &[u8]) -> bool {
        let Err(e) = self.wire.write_all(octets, Instant::now() + self.settings.timeouts.block)
        else {
            return true;
        };
        let until = Instant::now() + LAST_WORDS;
        let mut buffer = vec![0; INPUT_SIZE];
        while self.sender.step() != SenderStep::Close {
            match self.wire.read(&mut buffer, until) {
                Ok(n) if n > 0 => self.sender.feed(buffer.get(..n).unwrap_or_default()),
                _ => self.sender.fail(&what_came(&e), BAD_CONNECTION),
            }
        }
        false
    }

    fn handshake(&mut self) -> io::Result<()> {
        let Some(tls) = &self.settings.tls else {
            return Err(io::Error::other("no TLS is configured"));
        };
        let host = match &self.target {
            ServerAddress::Tcp { host, .. } => host,
            ServerAddress::Unix(_) => "localhost",
        };
        let until = Instant::now() + self.settings.timeouts.command;
        self.tls = Some(self.wire.start_tls(&tls.trust, host, until)?);
        Ok(())
    }

    fn time_for(&self, stage: Stage) -> Duration {
        let timeouts = &self.settings.timeouts;
        match stage {
            Stage::Greeting => timeouts.greeting,
            Stage::Command => timeouts.command,
            Stage::Data => timeouts.data,
            Stage::Dot => timeouts.dot,
            Stage::Quit => timeouts.quit,
        }
    }
}

/// `reason` for all that have no outcome yet.
fn fill(outcomes: Vec<Option<RecipientOutcome>>, reason: &OutcomeReason) -> Vec<RecipientOutcome> {
    let later = || RecipientOutcome::Deferred(reason.clone());
    outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(later)).collect()
}

fn failed(place: &dyn fmt::Display, e: &io::Error) -> OutcomeReason {
    OutcomeReason::local((4, 4, 1), &format!("cannot connect to {place}: {e}"))
}

fn unreadable(e: &io::Error) -> OutcomeReason {
    OutcomeReason::local(LOCAL, &format!("the message cannot be read: {e}"))
}

fn closed() -> OutcomeReason {
    OutcomeReason::local(BAD_CONNECTION, CLOSED)
}

fn what_came(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::TimedOut => "a timeout".to_owned(),
        _ => e.to_string(),
    }
}

/// How much is read and sent at once, in octets.
pub const PIECE: usize = 32 * 1024;
/// Room for the replies to a group of commands, in octets.
const INPUT_SIZE: usize = 4096;
/// How long a server that takes nothing more is listened to.
const LAST_WORDS: Duration = Duration::from_secs(1);
const CLOSED: &str = "the end of the connection";
/// RFC 3463: bad connection, cryptographic failure, other mail system status.
const BAD_CONNECTION: (u8, u16, u16) = (4, 4, 2);
const NO_TLS: (u8, u16, u16) = (4, 7, 5);
const LOCAL: (u8, u16, u16) = (4, 3, 0);
