//! One connection, from the greeting to its end: the place where [`smtp`](crate::smtp),
//! [`resolver`](crate::resolver) and [`deliver`](crate::deliver) meet.
//!
//! ```text
//! Stream  --line-->  Receiver  --asks-->  SessionHost (access, resolver, room on disk)
//!    |                  |
//!    |  mail data       | Envelope
//!    +----> Decoder ----> ContentBuilder ----> Message ----> writer ----> Outcome ----> Reply
//! ```
//! Each command gets one reply. The reply to the final dot is 250 only after the writer has
//! returned [`Delivered`](crate::deliver::Outcome::Delivered), or a terminal shows the message
//! where SEND or SOML asked for that. An error in a session, a panic included, ends this session
//! and no other.
//!
//! | file | contains |
//! | --- | --- |
//! | `mod.rs` | the loop over commands |
//! | `config.rs` | session configuration |
//! | `access.rs` | what the client may do |
//! | `host.rs` | what the receiver asks: is the recipient known, is there room |
//! | `free_space.rs` | the free space of the disks, asked for at each MAIL |
//! | `recipient_limiter.rs` | delays for a client that probes for users |
//! | `mail_data.rs` | mail data, read and turned into a message |
//! | `delivery.rs` | a message that was received whole: delivered, answered, reported |
//! | `delivery_log.rs` | the counters and log lines of a message |
//! | `terminal_delivery.rs` | SEND, SOML and SAML |
//! | `hand_over.rs` | a message in the hand-over directory: a session within the process |
//! | `replies.rs` | the replies to refusals, outcomes, content errors and the end of a session |
//! | `end.rs` | the end of a session |
//!
//! A message leaves a line in the log for each destination or recipient, a rejected recipient one,
//! and `abuse` is logged if the server had to end the session of a client on another host.
//! Connections are logged as details.

mod access;
mod config;
mod delivery;
mod delivery_log;
mod end;
mod free_space;
mod hand_over;
mod host;
mod mail_data;
mod recipient_limiter;
mod replies;
mod terminal_delivery;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;

use crate::deliver::WriterHandle;
use crate::message::peer::Peer;
use crate::message::trace::IdGenerator;
use crate::net::listen::Service;
use crate::net::stream::{Disconnect, Stream};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::resolver::AddressResolver;
use crate::smtp::chunk::Chunks;
use crate::smtp::command::{self, COMMAND_LINE_MAX};
use crate::smtp::{Receiver, Reply, Step, reply};
use access::Access;
pub use config::{Audience, RelayPolicy, SessionConfig, TlsPolicy};
pub use end::SessionEnd;
use free_space::FreeSpace;
use hand_over::HandOverTransaction;
pub use hand_over::{HandOverResult, ReceiptState, receipt_state, remove_receipt};
use host::SessionHost;
use mail_data::Incoming;
use recipient_limiter::RecipientLimiter;

/// State shared by all sessions of a process.
pub struct SessionContext {
    config: SessionConfig,
    resolver: Arc<dyn AddressResolver>,
    writer: WriterHandle,
    counters: Arc<Counters>,
    ids: IdGenerator,
    /// Free space for the spool.
    spool_space: FreeSpace,
    /// Free space for the mailboxes.
    mail_space: FreeSpace,
}

impl SessionContext {
    /// Returns a context for sessions that ask `resolver` about addresses and deliver by `writer`.
    pub fn new(
        config: SessionConfig,
        resolver: Arc<dyn AddressResolver>,
        writer: WriterHandle,
        counters: Arc<Counters>,
    ) -> SessionContext {
        let spool_space = FreeSpace::new(&config.spool);
        let mail_space = FreeSpace::new(&config.mail_dir);
        let ids = IdGenerator::new();
        SessionContext { config, resolver, writer, counters, ids, spool_space, mail_space }
    }

    /// Runs a session of SMTP over `stream`, from the greeting to its end, and leaves the last
    /// reply for [`Stream::close`] to send. Does not panic.
    pub fn serve(&self, stream: &mut Stream) -> SessionEnd {
        self.serve_as(Service::default(), stream)
    }

    /// Ends the wait of all sessions for the writer when the server stops. They reply 451.
    pub fn give_up_deliveries(&self) {
        self.writer.give_up();
    }

    /// Reloads certificate and key, for sessions that begin after it. On an error they keep what
    /// they had.
    pub fn reload_certificate(&self) {
        if let Some(TlsPolicy { certificate, .. }) = &self.config.tls
            && let Err(why) = certificate.reload()
        {
            events::tls_reload_failed(why);
        }
    }

    /// Runs a session like [`serve`](SessionContext::serve), of LMTP or inside TLS from the first
    /// byte (RFC 8314 3) as `service` says.
    pub fn serve_as(&self, service: Service, stream: &mut Stream) -> SessionEnd {
        self.serve_for(service, stream, None)
    }

    /// Runs a session like [`serve_as`](SessionContext::serve_as), for `hand_over` if there is one.
    fn serve_for(
        &self,
        service: Service,
        stream: &mut Stream,
        hand_over: Option<&HandOverTransaction>,
    ) -> SessionEnd {
        self.counters.sessions.one();
        let id = self.ids.next_session_id();
        let access = Access::new(stream.peer(), service, &self.config);
        let (peer, is_trusted) = (access.peer, access.is_trusted);
        events::connected(&id, peer);
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            Session::boxed(self, &id, access, stream, hand_over).run(service)
        }));
        let end = self.end_of(&id, result);
        self.report_end(&id, peer, is_trusted, stream, &end);
        end
    }

    /// Returns the end of session `id`, and logs a panic.
    #[inline(never)]
    fn end_of(
        &self,
        id: &str,
        result: thread::Result<Result<SessionEnd, Disconnect>>,
    ) -> SessionEnd {
        match result {
            Ok(Ok(end)) => end,
            Ok(Err(disconnect)) => SessionEnd::Disconnect(disconnect),
            Err(panic) => {
                self.counters.sessions_panicked.one();
                let said = panic.downcast_ref::<&str>().copied();
                let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                events::panic(Some(id), said.unwrap_or("?"));
                SessionEnd::Panicked
            }
        }
    }

    /// Replies at the end of session `id`, and logs it.
    #[inline(never)]
    fn report_end(
        &self,
        id: &str,
        peer: Peer,
        is_trusted: bool,
        stream: &mut Stream,
        end: &SessionEnd,
    ) {
        if let Some(reply) = replies::for_session_end(end, &self.config.hostname) {
            // An error changes nothing, because the session is over.
            let _ = write_reply(stream, &reply);
        }
        events::disconnected(id, peer, end);
        if !is_trusted && end.is_abuse() {
            let reply = match end {
                SessionEnd::Errors(reply) => Some(replies::first_line(reply)),
                _ => None,
            };
            events::abuse(id, peer, end, reply);
        }
    }
}

/// One connection.
struct Session<'a> {
    context: &'a SessionContext,
    id: &'a str,
    stream: &'a mut Stream,
    receiver: Receiver<SessionHost<'a>>,
    /// Messages so far, which number the ids.
    messages: u64,
    /// The message of which some chunks were read (BDAT).
    chunked: Option<(Incoming, Chunks)>,
    /// True after a command line that ended with LF alone.
    has_bare_lf: bool,
    /// Version and cipher for Received fields, inside TLS.
    tls_info: Option<String>,
}

impl<'a> Session<'a> {
    /// Returns a new session, on the heap. A thread keeps every page of its stack that it has used,
    /// so long-lived data, and the functions below which the stack gets deep, use little of it.
    #[inline(never)]
    fn boxed(
        context: &'a SessionContext,
        id: &'a str,
        access: Access,
        stream: &'a mut Stream,
        hand_over: Option<&'a HandOverTransaction>,
    ) -> Box<Session<'a>> {
        let overload = Arc::clone(stream.overload());
        let recipient_limiter = RecipientLimiter::new(access.unlimited_recipients, overload);
        let receiver = Receiver::new(
            access.receiver_config(&context.config),
            SessionHost { context, session: id, access, recipient_limiter, hand_over },
        );
        Box::new(Session {
            context,
            id,
            stream,
            receiver,
            messages: 0,
            chunked: None,
            has_bare_lf: false,
            tls_info: None,
        })
    }

    fn access(&self) -> &Access {
        &self.receiver.host().access
    }

    /// Runs the session, from the greeting or the TLS handshake before it.
    #[inline(never)]
    fn run(&mut self, service: Service) -> Result<SessionEnd, Disconnect> {
        if let Some(end) = self.greet(service)? {
            return Ok(end);
        }
        loop {
            let result = self.handle_command();
            // A message in chunks is lost with its transaction, or with the connection.
            if self.chunked.is_some() && (result.is_err() || !self.receiver.is_chunking()) {
                self.abandon_chunks(result.as_ref().err());
            }
            if let Some(end) = result? {
                return Ok(end);
            }
        }
    }

    /// Drops the message of which some chunks were read.
    #[inline(never)]
    fn abandon_chunks(&mut self, disconnect: Option<&Disconnect>) {
        if let Some((incoming, _)) = self.chunked.take() {
            match disconnect {
                None => incoming.log_abandoned(self.id, "reset"),
                Some(disconnect) => incoming.log_abandoned(self.id, disconnect),
            }
        }
    }

    /// Sends the greeting, after the TLS handshake if there is one before it. Returns the end of
    /// the session if the client does not speak SMTP.
    #[inline(never)]
    fn greet(&mut self, service: Service) -> Result<Option<SessionEnd>, Disconnect> {
        if service.tls {
            self.start_tls()?;
        }
        let Access { peer, is_trusted, .. } = *self.access();
        if !is_trusted && !service.tls && self.stream.spoke_before_banner() {
            // A client must wait for the greeting (RFC 5321 4.3.1). The session continues, because
            // scripts that pipe a dialogue do not wait either, and because the network decides
            // whether it is noticed.
            events::pregreet(self.id, peer);
        }
        self.reply(&self.receiver.greeting())?;
        if let Some(reply) = self.receiver.check_opening(self.stream.peek_first_line()?) {
            self.reply(&reply)?;
            return Ok(Some(SessionEnd::Errors(reply)));
        }
        Ok(None)
    }

    /// Reads one command and carries it out, with the mail data or the handshake that follows it.
    /// Returns the end of the session, or None if it continues.
    #[inline(never)]
    fn handle_command(&mut self) -> Result<Option<SessionEnd>, Disconnect> {
        let (step, may_wait) = self.next_step()?;
        self.carry_out(step, may_wait)
    }

    /// Reads one command and passes it to the receiver. Returns the step that it asks for, and
    /// whether its reply may wait for those of the next commands.
    #[inline(never)]
    fn next_step(&mut self) -> Result<(Step, bool), Disconnect> {
        self.receiver.set_overloaded(self.stream.overload().is_on());
        // A reply may wait unless the client waits for it.
        Ok(match self.stream.read_line(COMMAND_LINE_MAX)? {
            Some(line) => {
                if !line.ends_with(b"\r\n") && !self.has_bare_lf {
                    self.has_bare_lf = true;
                    log_bare_lf(self.id, self.receiver.host().access.peer);
                }
                (self.receiver.handle_line(line), command::may_delay_reply(line))
            }
            None => (self.receiver.handle_long_line(), false),
        })
    }

    /// Carries out a step. Its reply may wait if `may_wait`.
    #[inline(never)]
    fn carry_out(
        &mut self,
        step: Step,
        mut may_wait: bool,
    ) -> Result<Option<SessionEnd>, Disconnect> {
        let step = match step {
            Step::Data(go_ahead) => {
                self.reply_now(&go_ahead)?;
                let reply = self.data()?;
                may_wait = true;
                self.receiver.finish_data(reply)
            }
            Step::Chunk { octets, last } => self.chunk(octets, last)?,
            Step::Skip(octets, replies) => {
                self.skip(octets)?;
                replies.iter().try_for_each(|reply| self.reply(reply))?;
                return Ok(None);
            }
            // An attacker between the client and this host may have inserted unread clear text, so
            // that it is read as if the client had sent it inside TLS.
            Step::StartTls(_) if self.stream.has_unread() => {
                return Err(Disconnect::ClearText);
            }
            Step::StartTls(_) if self.context.config.tls.is_none() => {
                Step::Reply(reply::tls_unavailable())
            }
            Step::StartTls(go_ahead) => {
                self.reply(&go_ahead)?;
                self.start_tls()?;
                return Ok(None);
            }
            step => step,
        };
        match step {
            Step::Close(reply) => {
                self.reply(&reply)?;
                let is_quit = reply.code == 221;
                Ok(Some(if is_quit { SessionEnd::Quit } else { SessionEnd::Errors(reply) }))
            }
            Step::Reply(reply) if may_wait => self.reply(&reply).map(|()| None),
            Step::Reply(reply) => self.reply_now(&reply).map(|()| None),
            // These were handled above, and mail data ends in a reply.
            Step::Data(_) | Step::Chunk { .. } | Step::Skip(..) | Step::StartTls(_) => Ok(None),
        }
    }

    /// Makes the TLS handshake. The receiver drops the state from before it (RFC 3207 4.2).
    fn start_tls(&mut self) -> Result<(), Disconnect> {
        let SessionContext { config, counters, .. } = self.context;
        let result = match &config.tls {
            Some(TlsPolicy { certificate, .. }) => self.stream.start_tls(certificate),
            None => Err(Disconnect::Tls(io::ErrorKind::Unsupported.into())),
        };
        match result {
            Ok(info) => {
                counters.tls_sessions.one();
                events::tls_started(self.id, info.sni.as_deref(), &info);
                self.tls_info = Some(info.to_string());
                self.receiver.begin_tls();
                Ok(())
            }
            Err(disconnect) => {
                counters.tls_failed.one();
                let why = match &disconnect {
                    Disconnect::Tls(e) => e.to_string(),
                    other => other.to_string(),
                };
                events::tls_failed(self.id, why);
                Err(disconnect)
            }
        }
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), Disconnect> {
        write_reply(self.stream, reply)
    }

    /// Sends a reply that the client waits for, at once.
    fn reply_now(&mut self, reply: &Reply) -> Result<(), Disconnect> {
        self.reply(reply)?;
        self.stream.flush_now()
    }
}

/// Logs a line that ended with LF alone. It is a separate function because it needs much stack.
#[cold]
#[inline(never)]
fn log_bare_lf(id: &str, peer: Peer) {
    events::bare_lf(id, peer);
}

/// Writes a reply to the stream's buffer, which is sent when the stream is about to block.
fn write_reply(stream: &mut Stream, reply: &Reply) -> Result<(), Disconnect> {
    stream.reply(|out| reply.write_to(out))
}
