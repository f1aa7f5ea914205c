//! The state machine of one connection: a line in, a step out. No I/O.
//!
//! A connection, [`Receiver`], outlives its transactions: it knows who the client says it is, and
//! how often it erred. A transaction begins with MAIL and is over with the end of data, RSET or
//! another EHLO; it is one value that is there or not, so that nothing of it can stay behind. A
//! command that is refused changes nothing (RFC 5321 4.1.4).
//!
//! Whoever holds the receiver reads lines to their CR LF, at most [`COMMAND_LINE_MAX`](command::COMMAND_LINE_MAX) octets of them, and
//! mail data with a [`Decoder`](super::data::Decoder). Each line gets exactly one reply.

use std::fmt;

use super::command::{self, Command};
use super::config::{ReceiverConfig, StartTlsMode};
use super::envelope::{Delivery, Envelope, Recipient};
use super::parameter::{MailParameters, RcptParameters};
use super::path::{Domain, EtrnNode, ForwardPath, Mailbox, ReversePath};
use super::reply::{self, Reply};

/// What the receiver asks of the host it serves. Implemented by the session, by examples, by tests.
pub trait Host {
    /// What an accepted recipient leads to; carried in the envelope.
    type Destination;

    /// Is there room for a message of `size` octets (as declared, or unknown)? An `Err` is MAIL's
    /// reply (452 4.3.1).
    fn check_space(&self, size: Option<u64>) -> Result<(), Reply>;
    /// Where mail for `to` goes; an `Err` is RCPT's reply. `delivery` tells whether a mailbox is
    /// needed for it.
    fn resolve_recipient(
        &self,
        to: &ForwardPath,
        delivery: Delivery,
    ) -> Result<Self::Destination, Reply>;
    /// Whether everybody that this leads to is active now, at a terminal that accepts messages
    /// (RFC 821 3.4). Asked only where [`ReceiverConfig::terminals`] is on.
    fn is_active(&self, to: &Self::Destination) -> bool {
        let _ = to;
        false
    }
    /// The one mailbox on another host that mail is sent on to, if the client may hear of it.
    fn forward_mailbox<'d>(&self, to: &'d Self::Destination) -> Option<&'d Mailbox> {
        let _ = to;
        None
    }
    /// The answer to VRFY.
    fn vrfy(&self, name: &str) -> Reply;
    /// The answer to EXPN.
    fn expn(&self, list: &str) -> Reply;
    /// The answer to ETRN. Asked only where [`ReceiverConfig::etrn`] is on.
    fn etrn(&self, node: &EtrnNode) -> Reply {
        reply::cannot_queue(node)
    }
    /// The answer to HELP without a topic (211), or None for the receiver's own 214.
    fn help(&self) -> Option<Reply>;
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
    Single,
    /// By one reply for each recipient, in the order of their RCPT commands (RFC 2033 4.2).
    PerRecipient,
    /// By 353, one for each, and one for all (PRDR). Mail data that nobody can get is answered by
    /// one reply for all.
    Prdr,
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
    config: ReceiverConfig,
    /// The name the client gave, and how.
    client: Option<(String, Hello)>,
    /// Whether the connection is inside TLS.
    tls: bool,
    transaction: Option<Transaction<H::Destination>>,
    /// Commands in error so far.
    errors: u32,
    /// Commands since the last message that brought none nearer.
    junk_commands: u32,
    /// Whether the server is under stress.
    overloaded: bool,
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
    Announced(u64),
    /// A chunk was refused: until RSET, nothing good comes of the transaction (RFC 3030 2).
    Failed,
}

impl<H: Host> Receiver<H> {
    /// A receiver that has not greeted yet.
    pub fn new(config: ReceiverConfig, host: H) -> Receiver<H> {
        Receiver {
            host,
            config,
            client: None,
            tls: false,
            transaction: None,
            errors: 0,
            junk_commands: 0,
            overloaded: false,
        }
    }

    /// Whether the server is under stress from here on: then one error is answered and no more, and
    /// so is one command that brings no message nearer (NOOP, RSET, HELP, VRFY, EXPN), further ones
    /// of which are errors.
    pub fn set_overloaded(&mut self, overloaded: bool) {
        self.overloaded = overloaded;
    }

    /// 220
    pub fn greeting(&self) -> Reply {
        reply::greeting(&self.config.hostname, self.config.lmtp)
    }

    /// What has come of the first command line, which need not be all of it: the last reply, if
    /// that is no SMTP, and its line's end must not be waited for.
    pub fn check_opening(&self, opening: &[u8]) -> Option<Reply> {
        let reason = "this is SMTP";
        command::is_binary(opening).then(|| reply::client_error(&self.config.hostname, reason))
    }

    /// One command line as it came, CR LF included. Its limits and bare CR or LF are judged here.
    pub fn handle_line(&mut self, line: &[u8]) -> Step {
        if self.client.is_none() && command::is_other_protocol(line) {
            return Step::Close(reply::client_error(&self.config.hostname, "this is SMTP"));
        }
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(reply) => return self.count_error(reply),
        };
        let is_junk = command.is_junk();
        match self.execute(command) {
            Ok(Step::Reply(reply)) if is_junk => self.count_junk(reply),
            Ok(step) => step,
            Err(reply) => self.count_error(reply),
        }
    }

    /// A command line longer than [`COMMAND_LINE_MAX`](command::COMMAND_LINE_MAX) came, and was read and dropped to its CR LF (500).
    pub fn handle_long_line(&mut self) -> Step {
        self.count_error(reply::line_too_long())
    }

    /// The transaction whose mail data is being read.
    pub fn envelope(&self) -> Option<&Envelope<H::Destination>> {
        self.transaction.as_ref().map(|transaction| &transaction.envelope)
    }

    /// Whether the first chunks of a message have been taken. When they have not any more, those
    /// that were are to be dropped.
    pub fn is_chunking(&self) -> bool {
        let chunks = self.transaction.as_ref().map(|transaction| transaction.chunks);
        matches!(chunks, Some(Chunking::Announced(_)))
    }

    /// A chunk that is not the last one was read: `Ok` is how many octets it had, `Err` why the
    /// message cannot become one.
    pub fn end_of_chunk(&mut self, chunk: Result<u64, Reply>) -> Step {
        match chunk {
            Ok(octets) => Step::Reply(reply::chunk(octets)),
            Err(reply) => {
                self.fail_chunks();
                reply_or_close(reply)
            }
        }
    }

    /// How the end of the mail data is to be answered.
    pub fn reply_mode(&self) -> ReplyMode {
        match &self.transaction {
            Some(_) if self.config.lmtp => ReplyMode::PerRecipient,
            Some(Transaction { prdr: true, envelope, .. })
                if envelope.to.len() > 1 && envelope.delivery == Delivery::Mail =>
            {
                ReplyMode::Prdr
            }
            _ => ReplyMode::Single,
        }
    }

    /// The replies where `reply` holds for every recipient.
    pub fn repeat_per_recipient(&self, reply: Reply) -> Vec<Reply> {
        let recipients = self.envelope().map_or(1, |envelope| envelope.to.len());
        vec![reply; if self.config.lmtp { recipients } else { 1 }]
    }

    /// The mail data ended and `reply` is what became of it, after all other replies that
    /// [`answers`](Receiver::answers) asks for were said; the transaction is over.
    pub fn end_of_data(&mut self, reply: Reply) -> Step {
        self.transaction = None;
        self.junk_commands = 0;
        reply_or_close(reply)
    }

    /// The connection is inside TLS from here on, after STARTTLS or from its beginning: all that
    /// the client said before is forgotten (RFC 3207 4.2).
    pub fn begin_tls(&mut self) {
        self.tls = true;
        self.client = None;
        self.transaction = None;
    }

    /// 421 from outside: shutdown, time-out, overload. `reason` names it.
    pub fn closing(&self, reason: &'static str) -> Reply {
        reply::closing(&self.config.hostname, reason)
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
    fn execute(&mut self, command: Command) -> Result<Step, Reply> {
        let hostname = &self.config.hostname;
        match command {
            Command::Ehlo(_) | Command::Lhlo(_) => {}
            Command::StartTls | Command::Noop | Command::Quit => {}
            // Its chunk is to be read first.
            Command::Bdat { .. } => {}
            _ if self.config.tls != StartTlsMode::Required || self.tls => {}
            _ => return Err(reply::tls_required()),
        }
        match command {
            Command::Helo(_) | Command::Ehlo(_) if self.config.lmtp => Err(reply::lmtp_only()),
            Command::Lhlo(_) if !self.config.lmtp => Err(reply::not_implemented("LHLO")),
            Command::Lhlo(client) => {
                let reply = reply::ehlo(&self.config, self.tls, &client);
                Ok(self.hello(client, Hello::Lhlo, reply))
            }
            Command::Helo(client) => {
                let reply = reply::helo(hostname, &client);
                Ok(self.hello(client, Hello::Helo, reply))
            }
            Command::Ehlo(client) => {
                let reply = reply::ehlo(&self.config, self.tls, &client);
                Ok(self.hello(client, Hello::Ehlo, reply))
            }
            Command::StartTls if !self.is_enabled("STARTTLS") => {
                Err(reply::not_implemented("STARTTLS"))
            }
            Command::StartTls if self.tls => Err(reply::tls_already_active()),
            Command::StartTls => Ok(Step::StartTls(reply::start_tls())),
            Command::Mail(delivery, ..) if !self.is_enabled(delivery.verb()) => {
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
            Command::Vrfy(asked) if self.config.vrfy => {
                let reply = self.host.vrfy(&asked.name);
                Ok(reply_or_close(utf8_or(reply, asked.utf8, reply::cannot_show_name)))
            }
            Command::Vrfy(_) => Ok(Step::Reply(reply::cannot_vrfy())),
            Command::Expn(asked) if self.config.expn => {
                let reply = self.host.expn(&asked.name);
                Ok(reply_or_close(utf8_or(reply, asked.utf8, reply::cannot_show_name)))
            }
            Command::Expn(_) => Ok(Step::Reply(reply::cannot_expn())),
            Command::Help(None) => {
                let verbs = command::verbs().filter(|verb| self.is_enabled(verb));
                let own = || reply::help(verbs);
                Ok(reply_or_close(self.host.help().unwrap_or_else(own)))
            }
            Command::Help(Some(topic)) => {
                let topic = topic.to_ascii_uppercase();
                let form = command::syntax(&topic).filter(|_| self.is_enabled(&topic));
                let form = form.ok_or_else(reply::no_such_topic)?;
                Ok(Step::Reply(reply::help_topic(form)))
            }
            Command::Etrn(_) if !self.config.etrn => Err(reply::not_implemented("ETRN")),
            Command::Etrn(node) => Ok(reply_or_close(self.host.etrn(&node))),
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
    fn is_enabled(&self, verb: &str) -> bool {
        match verb {
            "SEND" | "SOML" | "SAML" => self.config.terminals,
            "ETRN" => self.config.etrn,
            "STARTTLS" => self.config.tls != StartTlsMode::Off,
            "HELO" | "EHLO" => !self.config.lmtp,
            "LHLO" => self.config.lmtp,
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
            return Err(reply::mail_before_hello(self.config.lmtp));
        }
        if self.transaction.is_some() {
            return Err(reply::mail_nested());
        }
        let MailParameters { utf8, prdr, .. } = parameters;
        if prdr && !self.config.offers_prdr() {
            return Err(reply::unknown_parameter("MAIL", "PRDR"));
        }
        if let Some(keyword) = parameters.dsn_keyword().filter(|_| !self.config.dsn) {
            return Err(reply::unknown_parameter("MAIL", keyword));
        }
        if !from.is_ascii() && !utf8 {
            return Ok(Step::Reply(reply::mail_not_ascii()));
        }
        if parameters.size.is_some_and(|size| size > self.config.size_max) {
            return Ok(Step::Reply(reply::declared_too_large()));
        }
        if let Err(reply) = self.host.check_space(parameters.size) {
            return Ok(reply_or_close(reply));
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
            return Err(reply::rcpt_after_bdat());
        }
        if let Some(keyword) = parameters.dsn_keyword().filter(|_| !self.config.dsn) {
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
        if accepted.len() >= self.config.recipients_max {
            return Ok(Step::Reply(reply::too_many_recipients()));
        }
        match self.host.resolve_recipient(&to, delivery) {
            Ok(destination) => {
                // The mailbox does for SOML and SAML; only SEND has nothing else.
                let reply = match delivery {
                    Delivery::Mail | Delivery::SendAndMail => {
                        let forward = self.host.forward_mailbox(&destination);
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
                    251 | 551 => utf8_or(reply, utf8, reply::moved_to_utf8),
                    _ => reply,
                };
                Ok(reply_or_close(reply))
            }
        }
    }

    fn data(&mut self) -> Result<Step, Reply> {
        let transaction = self.transaction.as_ref().ok_or_else(reply::data_before_mail)?;
        match (transaction.envelope.to.is_empty(), transaction.refused) {
            _ if transaction.chunks != Chunking::None => Err(reply::data_after_bdat()),
            (false, _) => Ok(Step::Data(reply::start_mail_input())),
            // LMTP wants 503 either way (RFC 2033 4.2).
            (true, true) if !self.config.lmtp => Ok(Step::Reply(reply::data_no_recipients())),
            (true, true) => Ok(Step::Reply(reply::data_before_rcpt())),
            (true, false) => Err(reply::data_before_rcpt()),
        }
    }

    /// Whatever is wrong, the chunk is read and dropped, so that no octet of it is taken for a
    /// command; unless nobody knows where it ends.
    fn bdat(&mut self, octets: Option<u64>, last: Option<bool>) -> Step {
        let Some(octets) = octets else {
            let reason = "the size of a chunk cannot be read";
            return Step::Close(reply::client_error(&self.config.hostname, reason));
        };
        let refusal = match self.accept_chunk(octets, last) {
            Ok(last) => return Step::Chunk { octets, last },
            Err(refusal) => refusal,
        };
        // What a client has pipelined behind a refusal is no further error of its own.
        if (last.is_none() || self.transaction.is_none())
            && let close @ Step::Close(_) = self.count_error(refusal.clone())
        {
            return close;
        }
        let replies = match last {
            Some(true) => self.repeat_per_recipient(refusal),
            _ => vec![refusal],
        };
        self.fail_chunks();
        if last != Some(false) {
            self.transaction = None;
        }
        Step::Skip(octets, replies)
    }

    /// Whether the chunk is taken, and is the last.
    fn accept_chunk(&mut self, octets: u64, last: Option<bool>) -> Result<bool, Reply> {
        if self.config.tls == StartTlsMode::Required && !self.tls {
            return Err(reply::tls_required());
        }
        let last = last.ok_or_else(|| reply::syntax(command::BDAT_SYNTAX))?;
        let transaction = self.transaction.as_mut().ok_or_else(reply::bdat_before_mail)?;
        let before = match (transaction.chunks, transaction.envelope.to.is_empty()) {
            (Chunking::Failed, _) => return Err(reply::bdat_failed()),
            (_, true) if transaction.refused => return Err(reply::bdat_no_recipients()),
            (_, true) => return Err(reply::bdat_before_rcpt()),
            (Chunking::None, _) => 0,
            (Chunking::Announced(octets), _) => octets,
        };
        let sum = before.saturating_add(octets);
        if sum > self.config.size_max {
            return Err(reply::bdat_too_large());
        }
        transaction.chunks = Chunking::Announced(sum);
        Ok(last)
    }

    fn fail_chunks(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Chunking::Failed;
        }
    }

    /// Counts a command that brought no message nearer; too many under stress are errors.
    fn count_junk(&mut self, reply: Reply) -> Step {
        self.junk_commands = self.junk_commands.saturating_add(1);
        if self.overloaded && self.junk_commands > 1 {
            self.count_error(reply)
        } else {
            Step::Reply(reply)
        }
    }

    /// Counts an error of the client.
    fn count_error(&mut self, reply: Reply) -> Step {
        self.errors = self.errors.saturating_add(1);
        let max = self.config.errors_max;
        if self.errors > if self.overloaded { max.min(1) } else { max } {
            return Step::Close(reply::client_error(&self.config.hostname, "too many errors"));
        }
        Step::Reply(reply)
    }
}

/// A reply in which a mailbox stands that may be UTF-8: told so where the client allows it, or
/// another reply (RFC 6531 3.7.4).
fn utf8_or(reply: Reply, allowed: bool, otherwise: fn() -> Reply) -> Reply {
    match (reply.is_ascii(), allowed) {
        (true, _) => reply,
        (false, true) => reply.with_utf8(),
        (false, false) => otherwise(),
    }
}

/// A reply that may be anything: after 421 the connection is closed, whoever said it.
fn reply_or_close(reply: Reply) -> Step {
    if reply.code == 421 { Step::Close(reply) } else { Step::Reply(reply) }
}
