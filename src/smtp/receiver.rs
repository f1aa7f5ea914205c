//! The state machine of one connection to a server: a line goes in, the next step comes out.
//!
//! A [`Receiver`] lives as long as the connection. It stores the client's name and counts errors.
//! A transaction begins with MAIL and ends with the mail data, RSET or another EHLO. It is one
//! optional value, so nothing of it can remain after its end. A rejected command changes nothing
//! (RFC 5321 4.1.4).
//!
//! The caller reads lines up to CR LF, at most
//! [`COMMAND_LINE_MAX`](command::COMMAND_LINE_MAX) octets each, and mail data with a
//! [`Decoder`](super::data::Decoder) or [`Chunks`](super::chunk::Chunks). Each line gets exactly
//! one reply.

use std::fmt;

use super::client_name::ClientName;
use super::command::{self, Command};
use super::config::{ReceiverConfig, StartTlsMode};
use super::envelope::{Delivery, Envelope, Recipient};
use super::parameter::{MailParameters, RcptParameters};
use super::path::{EtrnNode, ForwardPath, Mailbox, ReversePath};
use super::reply::{self, Reply};

/// The host of a receiver: its users, its disk, and its policy.
pub trait Host {
    /// The destination of an accepted recipient, stored in the envelope.
    type Destination;

    /// Checks that mail from this sender is accepted, and that a message of `size` octets, or of
    /// unknown size, can be stored.
    ///
    /// # Errors
    /// The reply to MAIL, such as 452 4.3.1.
    fn check_mail(&self, from: &ReversePath, size: Option<u64>) -> Result<(), Reply>;
    /// Returns the destination of mail for `to`. `delivery` says whether it needs a mailbox.
    ///
    /// # Errors
    /// The reply to RCPT.
    fn resolve_recipient(
        &self,
        to: &ForwardPath,
        delivery: Delivery,
    ) -> Result<Self::Destination, Reply>;
    /// True if every user at `to` is active, on a terminal that accepts messages (RFC 821 3.4).
    /// Called only if [`ReceiverConfig::terminals`] is on.
    fn is_active(&self, to: &Self::Destination) -> bool {
        let _ = to;
        false
    }
    /// Returns the mailbox on another host to which mail for `to` is forwarded, if there is only
    /// one and the client may know it. RCPT then gets 251 instead of 250.
    fn forward_mailbox<'d>(&self, to: &'d Self::Destination) -> Option<&'d Mailbox> {
        let _ = to;
        None
    }
    /// Returns the reply to VRFY. Called only if [`ReceiverConfig::vrfy`] is on.
    fn vrfy(&self, name: &str) -> Reply;
    /// Returns the reply to EXPN. Called only if [`ReceiverConfig::expn`] is on.
    fn expn(&self, list: &str) -> Reply;
    /// Returns the reply to ETRN. Called only if [`ReceiverConfig::etrn`] is on.
    fn etrn(&self, node: &EtrnNode) -> Reply {
        reply::cannot_queue(node)
    }
    /// Returns the reply to HELP without a topic, 211, or None for the receiver's own, 214.
    fn help(&self) -> Option<Reply>;
}

/// The next action of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send the reply and read the next line.
    Reply(Reply),
    /// Send the reply, 354, read mail data to its end, then call [`Receiver::finish_data`].
    Data(Reply),
    /// Read a chunk of mail data, then call [`Receiver::finish_chunk`], or
    /// [`Receiver::finish_data`] for the last chunk.
    Chunk {
        /// The length of the chunk.
        octets: u64,
        /// Whether the message ends with this chunk.
        last: bool,
    },
    /// Read and drop that many bytes, then send the replies. LMTP may have several, or none.
    Skip(u64, Vec<Reply>),
    /// Close the connection if any clear text follows STARTTLS, because an attacker in the network
    /// may have inserted it to be read inside TLS. Otherwise send the reply, 220, flush, make the
    /// handshake, and call [`Receiver::begin_tls`].
    StartTls(Reply),
    /// Send the reply, flush, and close the connection.
    Close(Reply),
}

/// The protocol of a transaction, which the Received field shows after `with` (RFC 3848, RFC 6531
/// 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The command by which the client introduced itself.
    pub hello: Hello,
    /// Whether the connection is inside TLS.
    pub tls: bool,
    /// Whether MAIL had the parameter SMTPUTF8.
    pub utf8: bool,
}

/// The commands by which a client introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello {
    /// HELO of RFC 821.
    Helo,
    /// EHLO of RFC 5321.
    Ehlo,
    /// LHLO of LMTP (RFC 2033).
    Lhlo,
}

/// The number of replies to the end of mail data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyMode {
    /// One reply for all recipients.
    Single,
    /// One reply for each recipient, in the order of their RCPT commands (RFC 2033 4.2).
    PerRecipient,
    /// A 353, one reply for each recipient, and one for the message (PRDR). Mail data that is
    /// rejected for all recipients gets only one reply.
    Prdr,
}

/// Writes the registered name, such as `UTF8SMTPS`. There is none for HELO inside TLS.
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

/// The receiver-SMTP of one connection (RFC 821 2).
pub struct Receiver<H: Host> {
    host: H,
    config: ReceiverConfig,
    /// The client's name and the command that gave it.
    client: Option<(String, Hello)>,
    /// Whether the connection is inside TLS.
    tls: bool,
    transaction: Option<Transaction<H::Destination>>,
    /// The number of client errors so far.
    errors: u32,
    /// The number of commands since the last message that did not advance one.
    junk_commands: u32,
    /// Whether the server is overloaded.
    overloaded: bool,
}

/// The state from MAIL to the end of mail data.
struct Transaction<D> {
    envelope: Envelope<D>,
    /// Whether a recipient was rejected.
    rejected: bool,
    /// Whether MAIL had the parameter PRDR.
    prdr: bool,
    chunks: Chunking,
}

/// The state of BDAT in a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunking {
    /// No BDAT was received.
    None,
    /// Chunks of this many bytes in all were accepted.
    Announced(u64),
    /// A chunk was rejected, so that all commands but RSET are rejected too (RFC 3030 2).
    Failed,
}

impl<H: Host> Receiver<H> {
    /// Returns the receiver of a new connection.
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

    /// Sets whether the server is overloaded. Then only one client error is answered, and of the
    /// commands that do not advance a message (NOOP, RSET, HELP, VRFY, EXPN, ETRN) all but the
    /// first one count as errors.
    pub fn set_overloaded(&mut self, overloaded: bool) {
        self.overloaded = overloaded;
    }

    /// Returns the greeting, 220.
    pub fn greeting(&self) -> Reply {
        reply::greeting(&self.config.hostname, self.config.lmtp)
    }

    /// Checks the start of the first command line. Returns the last reply if it is not SMTP. The
    /// caller must not wait for the end of such a line, because there may be none.
    pub fn check_opening(&self, opening: &[u8]) -> Option<Reply> {
        command::is_binary(opening)
            .then(|| reply::client_error(&self.config.hostname, OTHER_PROTOCOL))
    }

    /// Handles one command line with its CR LF. A line that contains a bare CR or LF is rejected.
    pub fn handle_line(&mut self, line: &[u8]) -> Step {
        if self.client.is_none() && command::is_other_protocol(line) {
            return Step::Close(reply::client_error(&self.config.hostname, OTHER_PROTOCOL));
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

    /// Rejects a command line longer than [`COMMAND_LINE_MAX`](command::COMMAND_LINE_MAX), which
    /// the caller has read and dropped up to its CR LF.
    pub fn handle_long_line(&mut self) -> Step {
        self.count_error(reply::line_too_long())
    }

    /// Returns the envelope of the current transaction.
    pub fn envelope(&self) -> Option<&Envelope<H::Destination>> {
        self.transaction.as_ref().map(|transaction| &transaction.envelope)
    }

    /// True between the first and the last chunk of a message. When it becomes false without
    /// [`finish_data`](Receiver::finish_data), the caller must drop the chunks that were read.
    pub fn is_chunking(&self) -> bool {
        let chunks = self.transaction.as_ref().map(|transaction| transaction.chunks);
        matches!(chunks, Some(Chunking::Announced(_)))
    }

    /// Ends a chunk that is not the last one. `chunk` is its length, or the reply that rejects the
    /// message.
    pub fn finish_chunk(&mut self, chunk: Result<u64, Reply>) -> Step {
        match chunk {
            Ok(octets) => Step::Reply(reply::chunk(octets)),
            Err(reply) => {
                self.fail_chunks();
                reply_or_close(reply)
            }
        }
    }

    /// Returns the number of replies that the end of the mail data needs.
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

    /// Returns `reply` as many times as the client expects it: for LMTP once for each recipient.
    pub fn repeat_per_recipient(&self, reply: Reply) -> Vec<Reply> {
        let recipients = self.envelope().map_or(1, |envelope| envelope.to.len());
        vec![reply; if self.config.lmtp { recipients } else { 1 }]
    }

    /// Ends the transaction after its mail data. `reply` is the last one to it; the caller has sent
    /// all others that [`reply_mode`](Receiver::reply_mode) requires.
    pub fn finish_data(&mut self, reply: Reply) -> Step {
        self.transaction = None;
        self.junk_commands = 0;
        reply_or_close(reply)
    }

    /// Begins TLS, after STARTTLS or at the start of the connection. All state that the client set
    /// in clear text is dropped (RFC 3207 4.2).
    pub fn begin_tls(&mut self) {
        self.tls = true;
        self.client = None;
        self.transaction = None;
    }

    /// Returns the name in HELO, EHLO or LHLO and the protocol, or None before these commands.
    pub fn client(&self) -> Option<(&str, Protocol)> {
        let (name, hello) = self.client.as_ref()?;
        let utf8 = self.envelope().is_some_and(|envelope| envelope.utf8);
        Some((name, Protocol { hello: *hello, tls: self.tls, utf8 }))
    }

    /// Returns the host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// Executes a command.
    ///
    /// # Errors
    /// A reply that counts as an error of the client.
    fn execute(&mut self, command: Command) -> Result<Step, Reply> {
        let hostname = &self.config.hostname;
        match command {
            Command::Ehlo(_) | Command::Lhlo(_) => {}
            Command::StartTls | Command::Noop | Command::Quit => {}
            // The chunk that follows must be read before BDAT is rejected.
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
            Command::Vrfy(argument) if self.config.vrfy => {
                let reply = self.host.vrfy(&argument.name);
                Ok(reply_or_close(utf8_or(reply, argument.utf8, reply::cannot_show_name)))
            }
            Command::Vrfy(_) => Ok(Step::Reply(reply::cannot_vrfy())),
            Command::Expn(argument) if self.config.expn => {
                let reply = self.host.expn(&argument.name);
                Ok(reply_or_close(utf8_or(reply, argument.utf8, reply::cannot_show_name)))
            }
            Command::Expn(_) => Ok(Step::Reply(reply::cannot_expn())),
            Command::Help(None) => {
                let verbs = command::verbs().filter(|verb| self.is_enabled(verb));
                let default_help = || reply::help(verbs);
                Ok(reply_or_close(self.host.help().unwrap_or_else(default_help)))
            }
            Command::Help(Some(topic)) => {
                let topic = topic.to_ascii_uppercase();
                match command::syntax(&topic) {
                    Some(syntax) if self.is_enabled(&topic) => {
                        Ok(Step::Reply(reply::help_topic(syntax)))
                    }
                    _ => Err(reply::no_such_topic()),
                }
            }
            Command::Etrn(_) if !self.config.etrn => Err(reply::not_implemented("ETRN")),
            Command::Etrn(node) => Ok(reply_or_close(self.host.etrn(&node))),
            Command::Noop => Ok(Step::Reply(reply::noop())),
            Command::Quit => Ok(Step::Close(reply::quit(hostname))),
        }
    }

    /// Handles HELO, EHLO or LHLO, which reset the transaction (RFC 5321 4.1.4).
    fn hello(&mut self, client: ClientName, hello: Hello, reply: Reply) -> Step {
        self.client = Some((client.to_string(), hello));
        self.transaction = None;
        Step::Reply(reply)
    }

    /// True if `verb`, one of [`command::verbs`], is enabled by the configuration.
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
        if !self.config.dsn
            && let Some(keyword) = parameters.dsn_keyword()
        {
            return Err(reply::unknown_parameter("MAIL", keyword));
        }
        if !from.is_ascii() && !utf8 {
            return Ok(Step::Reply(reply::mail_not_ascii()));
        }
        if parameters.size.is_some_and(|size| size > self.config.size_max) {
            return Ok(Step::Reply(reply::declared_too_large()));
        }
        if let Err(reply) = self.host.check_mail(&from, parameters.size) {
            return Ok(reply_or_close(reply));
        }
        let reply = reply::mail(delivery, &from);
        let body = parameters.body.unwrap_or_default();
        let MailParameters { size, ret, envid, .. } = parameters;
        let submitter = self.config.submitter;
        let to = Vec::new();
        let envelope = Envelope { delivery, from, size, body, utf8, ret, envid, submitter, to };
        self.transaction =
            Some(Transaction { envelope, rejected: false, prdr, chunks: Chunking::None });
        Ok(Step::Reply(reply))
    }

    fn rcpt(&mut self, to: ForwardPath, parameters: RcptParameters) -> Result<Step, Reply> {
        let transaction = self.transaction.as_mut().ok_or_else(reply::rcpt_before_mail)?;
        if transaction.chunks != Chunking::None {
            return Err(reply::rcpt_after_bdat());
        }
        if !self.config.dsn
            && let Some(keyword) = parameters.dsn_keyword()
        {
            return Err(reply::unknown_parameter("RCPT", keyword));
        }
        let RcptParameters { notify, original } = parameters;
        let Envelope { delivery, utf8, .. } = transaction.envelope;
        if original.as_ref().is_some_and(|original| !original.is_ascii()) && !utf8 {
            return Err(reply::bad_parameter(
                "RCPT",
                "ORCPT in ASCII, because MAIL has no SMTPUTF8",
            ));
        }
        if !to.is_ascii() && !utf8 {
            transaction.rejected = true;
            return Ok(Step::Reply(reply::rcpt_not_ascii()));
        }
        let accepted = &mut transaction.envelope.to;
        if accepted.len() >= self.config.recipients_max {
            return Ok(Step::Reply(reply::too_many_recipients()));
        }
        match self.host.resolve_recipient(&to, delivery) {
            Ok(destination) => {
                // SOML and SAML have the mailbox for a user who is not active. SEND has not.
                let reply = match delivery {
                    Delivery::Mail | Delivery::SendAndMail => {
                        let forward = self.host.forward_mailbox(&destination);
                        forward.map_or_else(|| reply::rcpt(&to), reply::will_forward)
                    }
                    _ if self.host.is_active(&destination) => reply::rcpt(&to),
                    Delivery::SendOrMail => reply::rcpt_not_active(&to),
                    Delivery::Send => {
                        transaction.rejected = true;
                        return Ok(Step::Reply(reply::not_active(&to)));
                    }
                };
                // Most messages have one.
                accepted.reserve_exact(usize::from(accepted.is_empty()));
                accepted.push(Recipient { path: to, destination, notify, original });
                Ok(Step::Reply(reply))
            }
            Err(reply) => {
                transaction.rejected = true;
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
        match (transaction.envelope.to.is_empty(), transaction.rejected) {
            _ if transaction.chunks != Chunking::None => Err(reply::data_after_bdat()),
            (false, _) => Ok(Step::Data(reply::start_mail_input())),
            // LMTP requires 503 in both cases (RFC 2033 4.2).
            (true, true) if !self.config.lmtp => Ok(Step::Reply(reply::data_no_recipients())),
            (true, true) => Ok(Step::Reply(reply::data_before_rcpt())),
            (true, false) => Err(reply::data_before_rcpt()),
        }
    }

    /// Handles BDAT. The chunk of a rejected BDAT is read and dropped, so that nothing of it is
    /// mistaken for a command. If its size is unknown, the connection must be closed.
    fn bdat(&mut self, octets: Option<u64>, last: Option<bool>) -> Step {
        let Some(octets) = octets else {
            return Step::Close(reply::client_error(&self.config.hostname, "invalid chunk size"));
        };
        let rejection = match self.accept_chunk(octets, last) {
            Ok(last) => return Step::Chunk { octets, last },
            Err(rejection) => rejection,
        };
        // A chunk that the client sent before it received the rejection of RCPT or of an earlier
        // chunk is not another error.
        if (last.is_none() || self.transaction.is_none())
            && let close @ Step::Close(_) = self.count_error(rejection.clone())
        {
            return close;
        }
        let replies = match last {
            Some(true) => self.repeat_per_recipient(rejection),
            _ => vec![rejection],
        };
        self.fail_chunks();
        if last != Some(false) {
            self.transaction = None;
        }
        Step::Skip(octets, replies)
    }

    /// Accepts a chunk of `octets`. Returns whether it is the last.
    ///
    /// # Errors
    /// The reply that rejects it.
    fn accept_chunk(&mut self, octets: u64, last: Option<bool>) -> Result<bool, Reply> {
        if self.config.tls == StartTlsMode::Required && !self.tls {
            return Err(reply::tls_required());
        }
        let last = last.ok_or_else(|| reply::syntax(command::BDAT_SYNTAX))?;
        let transaction = self.transaction.as_mut().ok_or_else(reply::bdat_before_mail)?;
        let before = match (transaction.chunks, transaction.envelope.to.is_empty()) {
            (Chunking::Failed, _) => return Err(reply::bdat_failed()),
            (_, true) if transaction.rejected => return Err(reply::bdat_no_recipients()),
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

    /// Counts a command that did not advance a message. During overload all but the first one are
    /// errors.
    fn count_junk(&mut self, reply: Reply) -> Step {
        self.junk_commands = self.junk_commands.saturating_add(1);
        if self.overloaded && self.junk_commands > 1 {
            self.count_error(reply)
        } else {
            Step::Reply(reply)
        }
    }

    /// Counts an error of the client. Returns `reply`, or the end of the connection after too many.
    fn count_error(&mut self, reply: Reply) -> Step {
        self.errors = self.errors.saturating_add(1);
        let max = self.config.errors_max;
        let max = if self.overloaded { max.min(1) } else { max };
        if self.errors > max {
            return Step::Close(reply::client_error(&self.config.hostname, "too many errors"));
        }
        Step::Reply(reply)
    }
}

/// Returns `reply`, which may contain a mailbox in UTF-8. If the client does not accept UTF-8,
/// returns the reply of `otherwise` instead (RFC 6531 3.7.4).
fn utf8_or(reply: Reply, allowed: bool, otherwise: fn() -> Reply) -> Reply {
    match (reply.is_ascii(), allowed) {
        (true, _) => reply,
        (false, true) => reply.with_utf8(),
        (false, false) => otherwise(),
    }
}

/// Returns the step for a reply of the host. The connection is closed after 421.
fn reply_or_close(reply: Reply) -> Step {
    if reply.code == 421 { Step::Close(reply) } else { Step::Reply(reply) }
}

/// The reason given to a client of another protocol.
const OTHER_PROTOCOL: &str = "this is SMTP";
