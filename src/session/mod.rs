//! One connection: the one place where [`smtp`](crate::smtp), [`route`](crate::route) and
//! [`deliver`](crate::deliver) meet.
//!
//! ```text
//! Stream  --line-->  Receiver  --asks-->  Desk (route, room on disk)
//!    |                  |
//!    |  mail data       | Envelope
//!    +----> Decoder ----> Intake ----> Message ----> Post ----> Outcome ----> reply
//! ```
//! It promises one reply to each command, and after the final dot the truth: 250 only when the
//! writer said [`Delivered`](crate::deliver::Outcome::Delivered), or, where SEND or SOML asked for
//! a terminal, when one shows it. Whatever goes wrong here, a panic included, ends this session and
//! no other. It knows the words of the protocol only to translate: a refusal, an outcome, a fault
//! and a cut each become a reply in one function.
//!
//! | file | owns |
//! | --- | --- |
//! | `host.rs` | what the receiver asks: who is local, is there room |
//! | `delivery.rs` | a message that came whole: delivered, answered, logged, reported |
//! | `end.rs` | how a session can end |
//! | `recipient_limiter.rs` | patience with a client that tries out names |
//! | `send.rs` | SEND, SOML and SAML: terminals |
//!
//! The log has a line for each message that was offered, `delivered`, `later`, `refused` or
//! `abandoned`, one for each refused recipient, and `abuse` for a client elsewhere whose session
//! had to be ended; connections are details.

mod delivery;
mod end;
mod host;
mod recipient_limiter;
mod terminal_delivery;

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Zoned;

use crate::deliver::{WriterHandle, mbox};
use crate::message::trace::{self, IdGenerator, ReceivedField};
use crate::message::{Content, ContentBuilder, ContentError, Destination, Message};
use crate::net::listen::Service;
use crate::net::stream::{Disconnect, Peer, Stream};
use crate::net::tls::ServerCertificate;
use crate::observe::counters::Counters;
use crate::observe::events::{self, MessageFields};
use crate::relay::queue;
use crate::route::{Resolution, Route};
use crate::smtp::chunk::Chunks;
use crate::smtp::command::{self, COMMAND_LINE_MAX};
use crate::smtp::data::{DataEnd, Decoder};
use crate::smtp::{Envelope, Receiver, ReceiverConfig, Reply, StartTlsMode, Step, reply};
use crate::terminal::Terminals;
use delivery::{DeliveryAttempt, MessageDelivery};
pub use end::SessionEnd;
use host::SessionHost;
use recipient_limiter::RecipientLimiter;

/// Who is told something that a stranger could misuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every client.
    On,
    /// Nobody.
    Off,
    /// Clients on this host: loopback, Unix sockets, a pipe.
    Local,
}

impl Audience {
    fn allows(self, peer: Peer) -> bool {
        match self {
            Audience::On => true,
            Audience::Off => false,
            Audience::Local => peer.is_local(),
        }
    }
}

/// What a session is told.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The name in the greeting, in replies and in Received lines.
    pub hostname: String,
    /// The largest message, in octets of the data as sent.
    pub size_max: u64,
    /// Recipients of one message; at least 100 (RFC 5321 4.5.3.1.8).
    pub recipients_max: usize,
    /// Commands in error before 421 and close.
    pub errors_max: u32,
    /// Who gets answers to VRFY; the others get 252.
    pub vrfy: Audience,
    /// Who gets answers to EXPN; the others get 252.
    pub expn: Audience,
    /// Who is told by 551 where a user has moved; the others get 550.
    pub forward_replies: Audience,
    /// Who may send to terminals; for the others SEND, SOML and SAML are 502.
    pub send: Audience,
    /// Where those are found.
    pub terminals: Terminals,
    /// Where mail data above [`MEMORY_MAX`](crate::message::MEMORY_MAX) waits; must have room.
    pub spool: PathBuf,
    /// Where the mailboxes are; must have room.
    pub mail_dir: PathBuf,
    /// How long a client may take for one command line, or be silent within mail data
    /// (RFC 5321 4.5.3.2.7 asks for 5 minutes), or not read what it was answered.
    pub timeout: Duration,
    /// How long a session may take.
    pub session_timeout: Duration,
    /// How long a session waits for the writer. Should be more than its lock time-out.
    pub outcome_timeout: Duration,
    /// What TLS is spoken with; None: STARTTLS is not offered.
    pub tls: Option<TlsPolicy>,
    /// How mail for other hosts leaves; None: it does not.
    pub relay: Option<RelayPolicy>,
}

/// How mail for other hosts leaves this one.
#[derive(Clone, Debug)]
pub struct RelayPolicy {
    /// Where clients may be that send such mail, besides this host.
    pub from: Vec<IpNet>,
    /// It is told of each entry that was made.
    pub queue: queue::QueueHandle,
}

impl RelayPolicy {
    /// Whether `peer` may send mail to any host through this one. Nobody knows who is at the other
    /// end of a pipe.
    fn allows(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(client) => {
                peer.is_local() || self.from.iter().any(|net| net.contains(&client.ip()))
            }
            Peer::Unix => true,
            Peer::Pipe => false,
        }
    }
}

/// How sessions come to TLS.
#[derive(Clone, Debug)]
pub struct TlsPolicy {
    /// Certificate and key, which may be read again while sessions run.
    pub keys: Arc<ServerCertificate>,
    /// Whether a client in clear text hears 530 until it says STARTTLS.
    pub required: bool,
}

/// What all sessions of a process share.
pub struct SessionContext {
    settings: SessionConfig,
    route: Arc<dyn Route>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    ids: IdGenerator,
}

impl SessionContext {
    /// The parts, put together.
    pub fn new(
        settings: SessionConfig,
        route: Arc<dyn Route>,
        writer: WriterHandle,
        counters: Arc<Counters>,
    ) -> SessionContext {
        SessionContext { settings, route, writer, counters, ids: IdGenerator::new() }
    }

    /// Holds one session over `stream`, from the greeting to its end, and leaves its last reply
    /// for [`Stream::close`] to send. Does not panic.
    pub fn serve(&self, stream: &mut Stream) -> SessionEnd {
        self.serve_as(Service::default(), stream)
    }

    /// Reads certificate and key again, for the sessions that begin from now on.
    pub fn reload_keys(&self) {
        if let Some(TlsPolicy { keys, .. }) = &self.settings.tls
            && let Err(why) = keys.reload()
        {
            events::tls_reload_failed(why);
        }
    }

    /// The same for LMTP, or inside TLS from the first octet on (RFC 8314 3).
    pub fn serve_as(&self, service: Service, stream: &mut Stream) -> SessionEnd {
        self.counters.sessions.one();
        let id = self.ids.next_session_id();
        let peer = stream.peer();
        events::connected(&id, peer);
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            Session::new(self, &id, service, stream).run(service)
        }));
        let end = match result {
            Ok(Ok(end)) => end,
            Ok(Err(cut)) => SessionEnd::Disconnect(cut),
            Err(panic) => {
                self.counters.sessions_panicked.one();
                let said = panic.downcast_ref::<&str>().copied();
                let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                events::panic(Some(&id), said.unwrap_or("?"));
                SessionEnd::Panicked
            }
        };
        if let Some(reply) = end.last_reply(&self.settings.hostname) {
            // That it cannot be sent is no news: the session is over.
            let _ = stream.reply(|out| reply.write_to(out));
        }
        events::disconnected(&id, peer, &end);
        if !peer.is_local() && end.is_abuse() {
            let reply = match &end {
                SessionEnd::GivenUp(reply) => Some(first_line(reply)),
                _ => None,
            };
            events::abuse(&id, peer, &end, reply);
        }
        end
    }
}

/// One connection.
struct Session<'a> {
    context: &'a SessionContext,
    id: &'a str,
    stream: &'a mut Stream,
    receiver: Receiver<SessionHost<'a>>,
    messages: u64,
    /// The message whose first chunks have come.
    chunked: Option<(Incoming, Chunks)>,
    /// What Received says of TLS, inside it.
    tls: Option<String>,
}

/// A message whose mail data is being read.
struct Incoming {
    id: String,
    at: Zoned,
    to: Vec<Destination>,
    intake: ContentBuilder,
    /// The reverse-path, for the log.
    from: String,
    /// Number of recipients, for the log.
    recipients: usize,
}

impl<'a> Session<'a> {
    fn new(
        context: &'a SessionContext,
        id: &'a str,
        service: Service,
        stream: &'a mut Stream,
    ) -> Session<'a> {
        let settings = &context.settings;
        let peer = stream.peer();
        let overload = Arc::clone(stream.overload());
        let recipient_limiter = RecipientLimiter::new(!peer.is_local() && !service.lmtp, overload);
        // A mail server that has us deliver by LMTP sends its other mail by itself.
        let relay = settings.relay.as_ref().filter(|_| !service.lmtp);
        let may_relay = relay.is_some_and(|relay| relay.allows(peer));
        let receiver = Receiver::new(
            ReceiverConfig {
                size_max: settings.size_max,
                recipients_max: settings.recipients_max,
                vrfy: settings.vrfy.allows(peer),
                expn: settings.expn.allows(peer),
                terminals: settings.send.allows(peer) && !service.lmtp,
                etrn: relay.is_some() && peer.is_local(),
                errors_max: settings.errors_max,
                lmtp: service.lmtp,
                prdr: true,
                // Reports go to mailboxes of this host, or the way that mail of those goes who
                // may relay. Any other client that asks for one, LMTP's above all, sees that it
                // is not offered, and does what RFC 3461 5.2.2 has it do.
                dsn: (peer.is_local() || may_relay) && !service.lmtp,
                tls: match &settings.tls {
                    None => StartTlsMode::Off,
                    Some(TlsPolicy { required: false, .. }) => StartTlsMode::Offered,
                    Some(TlsPolicy { required: true, .. }) => StartTlsMode::Required,
                },
                ..ReceiverConfig::new(&settings.hostname)
            },
            SessionHost { context, session: id, peer, recipient_limiter, may_relay },
        );
        Session { context, id, stream, receiver, messages: 0, chunked: None, tls: None }
    }

    /// From the greeting, or the handshake before it, to the end.
    fn run(&mut self, service: Service) -> Result<SessionEnd, Disconnect> {
        if service.tls {
            self.start_tls()?;
        }
        let peer = self.stream.peer();
        if !peer.is_local() && !service.tls && self.stream.spoke_before_banner() {
            // It should have waited (RFC 5321 4.3.1). That is no proof of anything: a script that
            // pipes a dialogue does it too, and whether it is seen depends on the network.
            events::pregreet(self.id, peer);
        }
        self.say(&self.receiver.greeting())?;
        if let Some(reply) = self.receiver.check_opening(self.stream.peek_first_line()?) {
            self.say(&reply)?;
            return Ok(SessionEnd::GivenUp(reply));
        }
        loop {
            let handle_command = self.handle_command();
            if (!self.receiver.is_chunking() || handle_command.is_err())
                && let Some((incoming, _)) = self.chunked.take()
            {
                match &handle_command {
                    Err(cut) => incoming.abandoned(self.id, cut),
                    Ok(_) => incoming.abandoned(self.id, "reset"),
                }
            }
            if let Some(end) = handle_command? {
                return Ok(end);
            }
        }
    }

    /// One command and what belongs to it; how the session ended, if it did.
    fn handle_command(&mut self) -> Result<Option<SessionEnd>, Disconnect> {
        self.receiver.set_overloaded(self.stream.overload().is_on());
        let (step, mut may_wait) = match self.stream.line(COMMAND_LINE_MAX)? {
            Some(line) => (self.receiver.handle_line(line), command::may_delay_reply(line)),
            None => (self.receiver.handle_long_line(), false),
        };
        let step = match step {
            Step::Data(go_ahead) => {
                self.say_now(&go_ahead)?;
                let verdict = self.data()?;
                may_wait = true;
                self.receiver.finish_data(verdict)
            }
            Step::Chunk { octets, last } => self.chunk(octets, last)?,
            Step::Skip(octets, replies) => {
                self.skip(octets)?;
                return replies.iter().try_for_each(|reply| self.say(reply)).map(|()| None);
            }
            Step::StartTls(_) if self.stream.has_unread() => {
                return Err(Disconnect::ClearText);
            }
            Step::StartTls(_) if self.context.settings.tls.is_none() => {
                Step::Reply(reply::tls_unavailable())
            }
            Step::StartTls(go_ahead) => {
                self.say(&go_ahead)?;
                return self.start_tls().map(|()| None);
            }
            step => step,
        };
        match step {
            Step::Close(reply) => {
                self.say(&reply)?;
                Ok(Some(if reply.code == 221 {
                    SessionEnd::Quit
                } else {
                    SessionEnd::GivenUp(reply)
                }))
            }
            Step::Reply(reply) if may_wait => self.say(&reply).map(|()| None),
            Step::Reply(reply) => self.say_now(&reply).map(|()| None),
            // Dealt with above; and what follows a message is a reply.
            Step::Data(_) | Step::Chunk { .. } | Step::Skip(..) | Step::StartTls(_) => Ok(None),
        }
    }

    /// Makes the handshake; all that the client said before is forgotten.
    fn start_tls(&mut self) -> Result<(), Disconnect> {
        let SessionContext { settings, counters, .. } = self.context;
        let made = match &settings.tls {
            Some(TlsPolicy { keys, .. }) => self.stream.start_tls(keys),
            None => Err(Disconnect::Tls(io::ErrorKind::Unsupported.into())),
        };
        match made {
            Ok(facts) => {
                counters.tls_sessions.one();
                events::tls_started(self.id, facts.sni.as_deref(), &facts);
                self.tls = Some(facts.to_string());
                self.receiver.begin_tls();
                Ok(())
            }
            Err(cut) => {
                counters.tls_failed.one();
                let why = match &cut {
                    Disconnect::Tls(e) => e.to_string(),
                    cut => cut.to_string(),
                };
                events::tls_failed(self.id, why);
                Err(cut)
            }
        }
    }

    fn say(&mut self, reply: &Reply) -> Result<(), Disconnect> {
        say(self.stream, reply)
    }

    /// The same, for a reply that may not wait until the stream blocks.
    fn say_now(&mut self, reply: &Reply) -> Result<(), Disconnect> {
        self.say(reply)?;
        self.stream.flush_now()
    }

    /// Takes the mail data behind DATA, to its true end; what became of it.
    fn data(&mut self) -> Result<Reply, Disconnect> {
        let Some(mut incoming) = self.begin() else { return Ok(reply::data_error()) };
        let mut decoder = Decoder::new(self.context.settings.size_max);
        let mut octets = 0;
        self.stream.begin_data();
        let end = loop {
            let input = self.stream.data().inspect_err(|cut| incoming.abandoned(self.id, cut))?;
            let (used, end) = decoder.feed(input, &mut |piece| incoming.intake.push(piece));
            self.stream.consume(used);
            octets += used as u64;
            if let Some(end) = end {
                break end;
            }
        };
        self.conclude(incoming, end, octets)
    }

    /// Takes one chunk of mail data, and with the last one delivers the message.
    fn chunk(&mut self, octets: u64, last: bool) -> Result<Step, Disconnect> {
        let chunked = self.chunked.take().or_else(|| Some((self.begin()?, Chunks::new())));
        let Some((mut incoming, mut chunks)) = chunked else {
            self.skip(octets)?;
            return Ok(self.receiver.finish_chunk(Err(reply::data_error())));
        };
        chunks.begin_chunk(octets);
        self.stream.begin_data();
        while chunks.remaining() > 0 {
            let input = self.stream.data().inspect_err(|cut| incoming.abandoned(self.id, cut))?;
            let used = chunks.feed(input, &mut |piece| incoming.intake.push(piece));
            self.stream.consume(used);
        }
        let sum = chunks.octets();
        if last {
            let end = chunks.finish(&mut |piece| incoming.intake.push(piece));
            let verdict = self.conclude(incoming, end, sum)?;
            return Ok(self.receiver.finish_data(verdict));
        }
        if chunks.end_so_far() == DataEnd::Whole && !incoming.intake.has_failed() {
            self.chunked = Some((incoming, chunks));
            return Ok(self.receiver.finish_chunk(Ok(octets)));
        }
        // No need to wait for the last one.
        let reply = refusal_of(chunks.end_so_far(), incoming.intake.finish(), &incoming.id);
        self.note_failure(&incoming.id, &reply, sum, Instant::now());
        Ok(self.receiver.finish_chunk(Err(reply)))
    }

    /// Reads and drops.
    fn skip(&mut self, octets: u64) -> Result<(), Disconnect> {
        let mut left = octets;
        self.stream.begin_data();
        while left > 0 {
            let came = self.stream.data()?.len();
            let used = usize::try_from(left).unwrap_or(usize::MAX).min(came);
            self.stream.consume(used);
            left -= used as u64;
        }
        Ok(())
    }

    /// A message begins. None cannot be: the receiver asks for mail data only of a client that
    /// greeted and named a recipient.
    fn begin(&mut self) -> Option<Incoming> {
        let (envelope, (client, protocol)) =
            self.receiver.envelope().zip(self.receiver.client())?;
        let settings = &self.context.settings;
        self.messages += 1;
        let id = trace::message_id(self.id, self.messages);
        let at = trace::now();
        let to = destinations(envelope);
        let received = ReceivedField {
            client,
            origin: self.stream.peer().into(),
            hostname: &settings.hostname,
            protocol,
            tls: self.tls.as_deref(),
            id: &id,
            recipient: match envelope.to.as_slice() {
                [one] => Some(&one.path),
                _ => None,
            },
            at: &at,
        };
        let intake = ContentBuilder::new(&settings.spool, &received.to_bytes());
        let (from, recipients) = (envelope.from.to_string(), envelope.to.len());
        Some(Incoming { id, at, to, intake, from, recipients })
    }

    /// Counts and logs that no recipient gets the message `id`.
    fn note_failure(&self, id: &str, reply: &Reply, octets: u64, dot: Instant) {
        if let Some(envelope) = self.receiver.envelope() {
            let (context, session) = (self.context, self.id);
            DeliveryAttempt { context, session, message: id, envelope, octets, dot }
                .failed(&envelope.to, reply);
        }
    }

    /// The mail data was read, and ended so: delivers the message, and says what became of it, all
    /// but the last reply, which is returned.
    fn conclude(
        &mut self,
        incoming: Incoming,
        end: DataEnd,
        octets: u64,
    ) -> Result<Reply, Disconnect> {
        let Incoming { id, at, to, intake, .. } = incoming;
        let dot = Instant::now();
        let content = match self.receiver.envelope() {
            Some(envelope) if is_mail_loop(envelope, &intake) => Err(ContentError::Loop),
            _ => intake.finish(),
        };
        let (content, envelope) = match (end, content, self.receiver.envelope()) {
            (DataEnd::Whole, Ok(content), Some(envelope)) => (content, envelope),
            (end, content, _) => {
                let reply = refusal_of(end, content, &id);
                self.note_failure(&id, &reply, octets, dot);
                let mut replies = self.receiver.repeat_per_recipient(reply.clone());
                replies.pop();
                replies.iter().try_for_each(|reply| self.say(reply))?;
                return Ok(reply);
            }
        };

        let head = mbox::head(&envelope.from, at.timestamp().as_second());
        let message = Message { id: id.clone(), head, content, to };
        let delivery = MessageDelivery {
            context: self.context,
            session: self.id,
            envelope,
            at: &at,
            octets,
            dot,
        };
        let reply = delivery.deliver(self.stream, self.receiver.reply_mode(), message)?;
        if reply.is_positive() {
            self.receiver.host().recipient_limiter.reset();
        }
        Ok(reply)
    }
}

impl Incoming {
    /// Logs that the message does not come to its end.
    fn abandoned(&self, session: &str, error: impl fmt::Display) {
        let message = MessageFields { session, message: &self.id, from: &self.from };
        events::abandoned(message, self.recipients, error);
    }
}

/// Leaves a reply for the stream to send when it is about to block.
fn say(stream: &mut Stream, reply: &Reply) -> Result<(), Disconnect> {
    stream.reply(|out| reply.write_to(out))
}

/// Where the message goes on this host: no mailbox twice, whatever aliases and lists lead there.
fn destinations(envelope: &Envelope<Resolution>) -> Vec<Destination> {
    let mut seen = HashSet::new();
    let all = envelope.to.iter().flat_map(|recipient| &recipient.destination.here);
    all.filter(|to| seen.insert(&to.mailbox)).cloned().collect()
}

/// Whether the message comes back for an address that sends it on.
fn is_mail_loop(envelope: &Envelope<Resolution>, intake: &ContentBuilder) -> bool {
    let leads_on = |to: &Resolution| !to.is_relay && !to.elsewhere.is_empty();
    let mut led = envelope.to.iter().filter(|recipient| leads_on(&recipient.destination));
    led.any(|recipient| intake.has_delivered_to(&recipient.path.address()))
}

impl From<Peer> for trace::ClientOrigin {
    fn from(peer: Peer) -> trace::ClientOrigin {
        match peer {
            Peer::Ip(address) => trace::ClientOrigin::Address(address.ip()),
            Peer::Unix => trace::ClientOrigin::Local,
            Peer::Pipe => trace::ClientOrigin::Unknown,
        }
    }
}

/// What the sender hears of mail data that ended so, and of which nothing can be delivered.
fn refusal_of(end: DataEnd, content: Result<Content, ContentError>, id: &str) -> Reply {
    match (end, content) {
        (DataEnd::BareLineEnd, _) => reply::data_bare_line_end(),
        (DataEnd::TooLarge, _) => reply::data_too_large(),
        (DataEnd::Whole, Ok(_)) => reply::data_error(),
        (DataEnd::Whole, Err(fault)) => {
            // The reply says it of the others.
            if let ContentError::Disk(e) = &fault {
                events::spool_failed(id, e);
            }
            fault_reply(&fault)
        }
    }
}

/// What the sender hears of mail data that could not be taken in.
fn fault_reply(fault: &ContentError) -> Reply {
    match fault {
        ContentError::Loop => reply::data_loop(),
        ContentError::HiddenFrom => reply::data_hidden_from(),
        ContentError::Disk(e) => match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => reply::data_no_room(),
            _ => reply::data_error(),
        },
    }
}

/// Returns the first line of a reply for the log, such as `451 4.2.0 Mailbox in use`.
fn first_line(reply: &Reply) -> String {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let text = String::from_utf8_lossy(&wire);
    text.lines().next().unwrap_or_default().to_owned()
}
