//! The state machine of one connection: a line in, a step out. No I/O.
//!
//! A connection, [`Receiver`], outlives its transactions: it knows who the client says it is, and
//! how often it erred. A transaction begins with MAIL and is over with the end of data, RSET or
//! another EHLO; it is one value that is there or not, so that nothing of it can stay behind. A
//! command that is refused changes nothing (RFC 5321 4.1.4).
//!
//! Whoever holds the receiver reads lines to their CR LF, at most [`LINE_MAX`] octets of them, and
//! mail data with a [`Decoder`](super::data::Decoder). Each line gets exactly one reply.

use std::fmt;

use super::command::{self, Command, EtrnNode};
use super::envelope::{Delivery, Envelope, Recipient};
use super::parameter::{MailParameters, RcptParameters};
use super::path::{Domain, ForwardPath, Mailbox, ReversePath};
use super::reply::{self, Reply};

/// What the receiver asks of the host it serves. Implemented by the session, by examples, by tests.
pub trait Host {
    /// What an accepted recipient leads to; carried in the envelope.
    type Destination;

    /// Checks a transaction that begins: its sender, and whether there is room for a message of
    /// `size` octets, None if the client declared no size. An `Err` is the reply to MAIL, such as
    /// 452 4.3.1.
    fn mail(&self, from: &ReversePath, size: Option<u64>) -> Result<(), Reply>;
    /// Where mail for `to` goes; an `Err` is RCPT's reply. `delivery` tells whether a mailbox is
    /// needed for it.
    fn recipient(&self, to: &ForwardPath, delivery: Delivery) -> Result<Self::Destination, Reply>;
    /// Whether everybody that this leads to is active now, at a terminal that accepts messages
    /// (RFC 821 3.4). Asked only where [`ReceiverConfig::terminals`] is on.
    fn is_active(&self, to: &Self::Destination) -> bool {
        let _ = to;
        false
    }
    /// The one mailbox on another host that mail is sent on to, if the client may hear of it.
    fn forward<'d>(&self, to: &'d Self::Destination) -> Option<&'d Mailbox> {
        let _ = to;
        None
    }
    /// The answer to VRFY.
    fn vrfy(&self, name: &str) -> Reply;
    /// The answer to EXPN.
    fn expn(&self, list: &str) -> Reply;
    /// The answer to ETRN. Asked only where [`ReceiverConfig::etrn`] is on.
    fn etrn(&self, node: &EtrnNode) -> Reply {
        reply::cannot_flush(node)
    }
    /// The answer to HELP without a topic (211), or None for the receiver's own 214.
    fn help(&self) -> Option<Reply>;
}

/// What the receiver is told of itself.
#[derive(Clone, Debug)]
pub struct ReceiverConfig {
    /// The name in the greeting and wherever a reply must begin with it (RFC 5321 4.2).
    pub hostname: String,
    /// The largest message, in octets; announced by SIZE (RFC 1870).
    pub size_max: u64,
    /// Recipients of one message; at least 100 (RFC 5321 4.5.3.1.8). Announced by LIMITS.
    pub recipients_max: usize,
    /// Whether VRFY answers. Off: 252, and EHLO does not name it.
    pub vrfy: bool,
    /// Whether EXPN answers. Off: 252, and EHLO does not name it.
    pub expn: bool,
    /// Whether SEND, SOML and SAML are carried out. Off: 502, and EHLO does not name them.
    pub terminals: bool,
    /// Whether ETRN is carried out (RFC 1985). Off: 502, and EHLO does not name it.
    pub etrn: bool,
    /// Commands in error (5yz of syntax, order or unknown) that are answered; the next one is 421
    /// and close.
    pub errors_max: u32,
    /// Whether it is LMTP (RFC 2033), and not SMTP.
    pub lmtp: bool,
    /// Whether a client of SMTP is offered a reply for each recipient (PRDR): see [`ReplyMode`].
    pub prdr: bool,
    /// Whether delivery reports are offered (DSN, RFC 3461). They are the host's to write.
    pub dsn: bool,
    /// Whether a client in clear text is offered STARTTLS, or has to use it (RFC 3207).
    pub tls: StartTlsMode,
}

impl ReceiverConfig {
    /// The least that every receiver must do (RFC 5321 4.5.3.1), and nothing optional.
    pub fn new(hostname: impl Into<String>) -> ReceiverConfig {
        ReceiverConfig {
            hostname: hostname.into(),
            size_max: 64 * 1024,
            recipients_max: 100,
            vrfy: false,
            expn: false,
            terminals: false,
            etrn: false,
            errors_max: 20,
            lmtp: false,
            prdr: false,
            dsn: false,
            tls: StartTlsMode::Off,
        }
    }

    /// LMTP has no use for it.
    pub(super) fn offers_prdr(&self) -> bool {
        self.prdr && !self.lmtp
    }
}

/// What a client in clear text is told of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTlsMode {
    /// There is none: STARTTLS is 502, and EHLO does not name it.
    Off,
    /// It may say STARTTLS.
    Offered,
    /// It hears 530 until it does. Not for a host that the Internet's MX records lead to (RFC 3207
    /// 4).
    Required,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it and go on.
    Reply(Reply),
    /// Send it (354), read mail data to its end, then call [`Receiver::end_of_data`].
    Data(Reply),
    /// Read so many octets of mail data as they are, a chunk of the transaction's message, then
    /// call [`Receiver::end_of_chunk`]; or, if it is the last one, [`Receiver::end_of_data`].
    Chunk {
        /// How many.
        octets: u64,
        /// Whether the message is whole with it.
        last: bool,
    },
    /// Read and drop so many octets, then send the replies: one, but in LMTP any number, and none.
    Skip(u64, Vec<Reply>),
    /// If anything has come in clear text behind STARTTLS, close without a word: whoever put it
    /// there must not have it taken for something said inside TLS. Otherwise send this (220),
    /// flush, make the handshake, and call [`Receiver::tls_started`].
    StartTls(Reply),
    /// Send it, flush, and close.
    Close(Reply),
}

/// How mail comes in: what Received says behind `with` (RFC 3848, RFC 6531 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// How the client greeted.
    pub hello: Hello,
    /// Whether inside TLS.
    pub tls: bool,
    /// Whether the transaction is one with SMTPUTF8.
    pub utf8: bool,
}

/// The commands by which a client says who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// HELO
    Helo,
    /// EHLO
    Ehlo,
    /// LHLO
    Lhlo,
}

/// How the end of mail data is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// By one reply for all recipients.
    Together,
    /// By one reply for each recipient, in the order of their RCPT commands (RFC 2033 4.2).
    Each,
    /// By 353, one for each, and one for all (PRDR). Mail data that nobody can get is answered by
    /// one reply for all.
    EachAndTogether,
}

/// Writes the registered name, `UTF8SMTPS`. HELO has none for TLS, and none for UTF-8.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.hello, self.utf8) {
            (Hello::Helo, false) => return f.write_str("SMTP"),
            (Hello::Ehlo, false) => "ESMTP",
            (Hello::Helo | Hello::Ehlo, true) => "UTF8SMTP",
            (Hello::Lhlo, false) => "LMTP",
            (Hello::Lhlo, true) => "UTF8LMTP",
        })?;
        f.write_str(if self.tls { "S" } else { "" })
    }
}

/// The receiver-SMTP of one connection.
pub struct Receiver<H: Host> {
    host: H,
    settings: ReceiverConfig,
    /// The name the client gave, and how.
    client: Option<(String, Hello)>,
    /// Whether the connection is inside TLS.
    tls: bool,
    transaction: Option<Transaction<H::Destination>>,
    /// Commands in error so far.
    errors: u32,
    /// Commands since the last message that brought none nearer.
    idle: u32,
    /// Whether the server is under stress.
    pressed: bool,
}

/// From MAIL to the end of data.
struct Transaction<D> {
    envelope: Envelope<D>,
    /// Whether the host refused a recipient.
    refused: bool,
    /// Whether PRDR was given.
    prdr: bool,
    chunks: Chunking,
}

/// How far BDAT has got in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunking {
    /// No BDAT came.
    None,
    /// So many octets were announced, and none refused.
    Coming(u64),
    /// A chunk was refused: until RSET, nothing good comes of the transaction (RFC 3030 2).
    Failed,
}

impl<H: Host> Receiver<H> {
    /// A receiver that has not greeted yet.
    pub fn new(settings: ReceiverConfig, host: H) -> Receiver<H> {
        Receiver {
            host,
            settings,
            client: None,
            tls: false,
            transaction: None,
            errors: 0,
            idle: 0,
            pressed: false,
        }
    }

    /// Whether the server is under stress from here on: then one error is answered and no more, and
    /// so is one command that brings no message nearer (NOOP, RSET, HELP, VRFY, EXPN), further ones
    /// of which are errors.
    pub fn set_overloaded(&mut self, pressed: bool) {
        self.pressed = pressed;
    }

    /// 220
    pub fn greeting(&self) -> Reply {
        reply::greeting(&self.settings.hostname, self.settings.lmtp)
    }

    /// What has come of the first command line, which need not be all of it: the last reply, if
    /// that is no SMTP, and its line's end must not be waited for.
    pub fn opening(&self, opening: &[u8]) -> Option<Reply> {
        let why = "this is SMTP";
        command::is_binary(opening).then(|| reply::giving_up(&self.settings.hostname, why))
    }

    /// One command line as it came, CR LF included. Its limits and bare CR or LF are judged here.
    pub fn line(&mut self, line: &[u8]) -> Step {
        if self.client.is_none() && command::is_foreign(line) {
            return Step::Close(reply::giving_up(&self.settings.hostname, "this is SMTP"));
        }
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(reply) => return self.in_error(reply),
        };
        let idles = command.is_idle();
        match self.carry_out(command) {
            Ok(Step::Reply(reply)) if idles => self.idled(reply),
            Ok(step) => step,
            Err(reply) => self.in_error(reply),
        }
    }

    /// A command line longer than [`LINE_MAX`] came, and was read and dropped to its CR LF (500).
    pub fn line_too_long(&mut self) -> Step {
        self.in_error(reply::line_too_long())
    }

    /// The transaction whose mail data is being read.
    pub fn envelope(&self) -> Option<&Envelope<H::Destination>> {
        self.transaction.as_ref().map(|transaction| &transaction.envelope)
    }

    /// Whether the first chunks of a message have been taken. When they have not any more, those
    /// that were are to be dropped.
    pub fn awaits_chunks(&self) -> bool {
        let chunks = self.transaction.as_ref().map(|transaction| transaction.chunks);
        matches!(chunks, Some(Chunking::Coming(_)))
    }

    /// A chunk that is not the last one was read: `Ok` is how many octets it had, `Err` why the
    /// message cannot become one.
    pub fn end_of_chunk(&mut self, chunk: Result<u64, Reply>) -> Step {
        match chunk {
            Ok(octets) => Step::Reply(reply::chunk(octets)),
            Err(reply) => {
                self.fail_chunks();
                answer(reply)
            }
        }
    }

    /// How the end of the mail data is to be answered.
    pub fn answers(&self) -> ReplyMode {
        match &self.transaction {
            Some(_) if self.settings.lmtp => ReplyMode::Each,
            Some(Transaction { prdr: true, envelope, .. })
                if envelope.to.len() > 1 && envelope.delivery == Delivery::Mail =>
            {
                ReplyMode::EachAndTogether
            }
            _ => ReplyMode::Together,
        }
    }

    /// The replies where `reply` holds for every recipient.
    pub fn for_all(&self, reply: Reply) -> Vec<Reply> {
        let recipients = self.envelope().map_or(1, |envelope| envelope.to.len());
        vec![reply; if self.settings.lmtp { recipients } else { 1 }]
    }

    /// The mail data ended and `reply` is what became of it, after all other replies that
    /// [`answers`](Receiver::answers) asks for were said; the transaction is over.
    pub fn end_of_data(&mut self, reply: Reply) -> Step {
        self.transaction = None;
        self.idle = 0;
        answer(reply)
    }

    /// The connection is inside TLS from here on, after STARTTLS or from its beginning: all that
    /// the client said before is forgotten (RFC 3207 4.2).
    pub fn tls_started(&mut self) {
        self.tls = true;
        self.client = None;
        self.transaction = None;
    }

    /// 421 from outside: shutdown, time-out, overload. `why` names it.
    pub fn closing(&self, why: &'static str) -> Reply {
        reply::closing(&self.settings.hostname, why)
    }

    /// The name the client gave with HELO or EHLO, and how; None before.
    pub fn client(&self) -> Option<(&str, Protocol)> {
        let (name, hello) = self.client.as_ref()?;
        let utf8 = self.envelope().is_some_and(|envelope| envelope.utf8);
        Some((name, Protocol { hello: *hello, tls: self.tls, utf8 }))
    }

    /// The host it serves.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// An `Err` is the client's error, and counted.
    fn carry_out(&mut self, command: Command) -> Result<Step, Reply> {
        let hostname = &self.settings.hostname;
        match command {
            Command::Ehlo(_) | Command::Lhlo(_) => {}
            Command::StartTls | Command::Noop | Command::Quit => {}
            // Its chunk is to be read first.
            Command::Bdat { .. } => {}
            _ if self.settings.tls != StartTlsMode::Required || self.tls => {}
            _ => return Err(reply::tls_required()),
        }
        match command {
            Command::Helo(_) | Command::Ehlo(_) if self.settings.lmtp => Err(reply::no_smtp()),
            Command::Lhlo(_) if !self.settings.lmtp => Err(reply::not_implemented("LHLO")),
            Command::Lhlo(client) => {
                let reply = reply::ehlo(&self.settings, self.tls, &client);
                Ok(self.hello(client, Hello::Lhlo, reply))
            }
            Command::Helo(client) => {
                let reply = reply::helo(hostname, &client);
                Ok(self.hello(client, Hello::Helo, reply))
            }
            Command::Ehlo(client) => {
                let reply = reply::ehlo(&self.settings, self.tls, &client);
                Ok(self.hello(client, Hello::Ehlo, reply))
            }
            Command::StartTls if !self.carries_out("STARTTLS") => {
                Err(reply::not_implemented("STARTTLS"))
            }
            Command::StartTls if self.tls => Err(reply::tls_again()),
            Command::StartTls => Ok(Step::StartTls(reply::start_tls())),
            Command::Mail(delivery, ..) if !self.carries_out(delivery.verb()) => {
                Err(reply::not_implemented(delivery.verb()))
            }
            Command::Mail(delivery, from, parameters) => self.mail(delivery, from, parameters),
            Command::Rcpt(to, parameters) => self.rcpt(to, parameters),
            Command::Data => self.data(),
            Command::Bdat { octets, last } => Ok(self.bdat(octets, last)),
            Command::Rset => {
                self.transaction = None;
                Ok(Step::Reply(reply::rset()))
            }
            Command::Vrfy(asked) if self.settings.vrfy => {
                let reply = self.host.vrfy(&asked.name);
                Ok(answer(in_utf8(reply, asked.utf8, reply::cannot_tell)))
            }
            Command::Vrfy(_) => Ok(Step::Reply(reply::cannot_vrfy())),
            Command::Expn(asked) if self.settings.expn => {
                let reply = self.host.expn(&asked.name);
                Ok(answer(in_utf8(reply, asked.utf8, reply::cannot_tell)))
            }
            Command::Expn(_) => Ok(Step::Reply(reply::cannot_expn())),
            Command::Help(None) => {
                let verbs = command::verbs().filter(|verb| self.carries_out(verb));
                let own = || reply::help(verbs);
                Ok(answer(self.host.help().unwrap_or_else(own)))
            }
            Command::Help(Some(topic)) => {
                let topic = topic.to_ascii_uppercase();
                let form = command::form(&topic).filter(|_| self.carries_out(&topic));
                let form = form.ok_or_else(reply::no_such_topic)?;
                Ok(Step::Reply(reply::help_topic(form)))
            }
            Command::Etrn(_) if !self.settings.etrn => Err(reply::not_implemented("ETRN")),
            Command::Etrn(node) => Ok(answer(self.host.etrn(&node))),
            Command::Noop => Ok(Step::Reply(reply::noop())),
            Command::Quit => Ok(Step::Close(reply::quit(hostname))),
        }
    }

    /// HELO or EHLO: from here on all is as if the connection had just begun (RFC 5321 4.1.4).
    fn hello(&mut self, client: Domain, hello: Hello, reply: Reply) -> Step {
        self.client = Some((client.to_string(), hello));
        self.transaction = None;
        Step::Reply(reply)
    }

    /// Whether the command of this name, one of [`command::verbs`], is switched on.
    fn carries_out(&self, verb: &str) -> bool {
        match verb {
            "SEND" | "SOML" | "SAML" => self.settings.terminals,
            "ETRN" => self.settings.etrn,
            "STARTTLS" => self.settings.tls != StartTlsMode::Off,
            "HELO" | "EHLO" => !self.settings.lmtp,
            "LHLO" => self.settings.lmtp,
            _ => true,
        }
    }

    fn mail(
        &mut self,
        delivery: Delivery,
        from: ReversePath,
        parameters: MailParameters,
    ) -> Result<Step, Reply> {
        if self.client.is_none() {
            return Err(reply::mail_before_hello(self.settings.lmtp));
        }
        if self.transaction.is_some() {
            return Err(reply::mail_nested());
        }
        let MailParameters { utf8, prdr, .. } = parameters;
        if prdr && !self.settings.offers_prdr() {
            return Err(reply::unknown_parameter("MAIL", "PRDR"));
        }
        if let Some(keyword) = parameters.of_dsn().filter(|_| !self.settings.dsn) {
            return Err(reply::unknown_parameter("MAIL", keyword));
        }
        if !from.is_ascii() && !utf8 {
            return Ok(Step::Reply(reply::mail_not_ascii()));
        }
        if parameters.size.is_some_and(|size| size > self.settings.size_max) {
            return Ok(Step::Reply(reply::declared_too_large()));
        }
        if let Err(reply) = self.host.mail(&from, parameters.size) {
            return Ok(answer(reply));
        }
        let reply = reply::mail(delivery, &from);
        let body = parameters.body.unwrap_or_default();
        let MailParameters { size, ret, envid, .. } = parameters;
        let envelope = Envelope { delivery, from, size, body, utf8, ret, envid, to: Vec::new() };
        self.transaction =
            Some(Transaction { envelope, refused: false, prdr, chunks: Chunking::None });
        Ok(Step::Reply(reply))
    }

    fn rcpt(&mut self, to: ForwardPath, parameters: RcptParameters) -> Result<Step, Reply> {
        let transaction = self.transaction.as_mut().ok_or_else(reply::rcpt_before_mail)?;
        if transaction.chunks != Chunking::None {
            return Err(reply::rcpt_behind_bdat());
        }
        if let Some(keyword) = parameters.of_dsn().filter(|_| !self.settings.dsn) {
            return Err(reply::unknown_parameter("RCPT", keyword));
        }
        let RcptParameters { notify, original } = parameters;
        let Envelope { delivery, utf8, .. } = transaction.envelope;
        if original.as_ref().is_some_and(|original| !original.is_ascii()) && !utf8 {
            return Err(reply::bad_parameter("RCPT", "ASCII without the SMTPUTF8 of MAIL"));
        }
        if !to.is_ascii() && !utf8 {
            transaction.refused = true;
            return Ok(Step::Reply(reply::rcpt_not_ascii()));
        }
        let accepted = &mut transaction.envelope.to;
        if accepted.len() >= self.settings.recipients_max {
            return Ok(Step::Reply(reply::too_many_recipients()));
        }
        match self.host.recipient(&to, delivery) {
            Ok(destination) => {
                // The mailbox does for SOML and SAML; only SEND has nothing else.
                let reply = match delivery {
                    Delivery::Mail | Delivery::SendAndMail => {
                        let forward = self.host.forward(&destination);
                        forward.map_or_else(|| reply::rcpt(&to), reply::will_forward)
                    }
                    _ if self.host.is_active(&destination) => reply::rcpt(&to),
                    Delivery::SendOrMail => reply::rcpt_not_active(&to),
                    Delivery::Send => {
                        transaction.refused = true;
                        return Ok(Step::Reply(reply::not_active(&to)));
                    }
                };
                accepted.push(Recipient { path: to, destination, notify, original });
                Ok(Step::Reply(reply))
            }
            Err(reply) => {
                transaction.refused = true;
                let reply = match reply.code {
                    251 | 551 => in_utf8(reply, utf8, reply::moved_to_utf8),
                    _ => reply,
                };
                Ok(answer(reply))
            }
        }
    }

    fn data(&mut self) -> Result<Step, Reply> {
        let transaction = self.transaction.as_ref().ok_or_else(reply::data_before_mail)?;
        match (transaction.envelope.to.is_empty(), transaction.refused) {
            _ if transaction.chunks != Chunking::None => Err(reply::data_behind_bdat()),
            (false, _) => Ok(Step::Data(reply::start_mail_input())),
            // LMTP wants 503 either way (RFC 2033 4.2).
            (true, true) if !self.settings.lmtp => Ok(Step::Reply(reply::data_no_recipients())),
            (true, true) => Ok(Step::Reply(reply::data_before_rcpt())),
            (true, false) => Err(reply::data_before_rcpt()),
        }
    }

    /// Whatever is wrong, the chunk is read and dropped, so that no octet of it is taken for a
    /// command; unless nobody knows where it ends.
    fn bdat(&mut self, octets: Option<u64>, last: Option<bool>) -> Step {
        let Some(octets) = octets else {
            let why = "the size of a chunk cannot be read";
            return Step::Close(reply::giving_up(&self.settings.hostname, why));
        };
        let refusal = match self.chunk(octets, last) {
            Ok(last) => return Step::Chunk { octets, last },
            Err(refusal) => refusal,
        };
        // What a client has pipelined behind a refusal is no further error of its own.
        if (last.is_none() || self.transaction.is_none())
            && let close @ Step::Close(_) = self.in_error(refusal.clone())
        {
            return close;
        }
        let replies = match last {
            Some(true) => self.for_all(refusal),
            _ => vec![refusal],
        };
        self.fail_chunks();
        if last != Some(false) {
            self.transaction = None;
        }
        Step::Skip(octets, replies)
    }

    /// Whether the chunk is taken, and is the last.
    fn chunk(&mut self, octets: u64, last: Option<bool>) -> Result<bool, Reply> {
        if self.settings.tls == StartTlsMode::Required && !self.tls {
            return Err(reply::tls_required());
        }
        let last = last.ok_or_else(|| reply::syntax(command::BDAT_FORM))?;
        let transaction = self.transaction.as_mut().ok_or_else(reply::bdat_before_mail)?;
        let before = match (transaction.chunks, transaction.envelope.to.is_empty()) {
            (Chunking::Failed, _) => return Err(reply::bdat_failed()),
            (_, true) if transaction.refused => return Err(reply::bdat_no_recipients()),
            (_, true) => return Err(reply::bdat_before_rcpt()),
            (Chunking::None, _) => 0,
            (Chunking::Coming(octets), _) => octets,
        };
        let sum = before.saturating_add(octets);
        if sum > self.settings.size_max {
            return Err(reply::bdat_too_large());
        }
        transaction.chunks = Chunking::Coming(sum);
        Ok(last)
    }

    fn fail_chunks(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Chunking::Failed;
        }
    }

    /// Counts a command that brought no message nearer; too many under stress are errors.
    fn idled(&mut self, reply: Reply) -> Step {
        self.idle = self.idle.saturating_add(1);
        if self.pressed && self.idle > 1 { self.in_error(reply) } else { Step::Reply(reply) }
    }

    /// Counts an error of the client.
    fn in_error(&mut self, reply: Reply) -> Step {
        self.errors = self.errors.saturating_add(1);
        let max = self.settings.errors_max;
        if self.errors > if self.pressed { max.min(1) } else { max } {
            return Step::Close(reply::giving_up(&self.settings.hostname, "too many errors"));
        }
        Step::Reply(reply)
    }
}

/// A reply in which a mailbox stands that may be UTF-8: told so where the client allows it, or
/// another reply (RFC 6531 3.7.4).
fn in_utf8(reply: Reply, allowed: bool, otherwise: fn() -> Reply) -> Reply {
    match (reply.is_ascii(), allowed) {
        (true, _) => reply,
        (false, true) => reply.in_utf8(),
        (false, false) => otherwise(),
    }
}

/// A reply that may be anything: after 421 the connection is closed, whoever said it.
fn answer(reply: Reply) -> Step {
    if reply.code == 421 { Step::Close(reply) } else { Step::Reply(reply) }
}

/// A command line with its CR LF, in octets: 512 by RFC 5321 4.5.3.1.4, and room for extensions.
pub const LINE_MAX: usize = 2048;
