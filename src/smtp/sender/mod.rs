//! The state machine of a client: input from the server goes in, commands and outcomes come out.
//!
//! A [`Sender`] lives as long as the connection. It begins with the greeting, EHLO or HELO, and
//! STARTTLS and AUTH as [`SenderConfig`] requires. Then the caller sends one transaction after the
//! other with [`begin_transaction`](Sender::begin_transaction), and ends with
//! [`quit`](Sender::quit). In between it performs the actions that [`step`](Sender::step) returns:
//!
//! ```text
//!          input --feed()--> Sender --step()--> Read, Data, StartTls, Ready, Close
//!                              |
//! server <--take_output()------+--take_outcomes()--> recipients accepted, deferred, failed
//! ```
//! It guarantees:
//! - If the server offers PIPELINING, a transaction is sent in groups of [`PIPELINE_MAX`] commands.
//!   With CHUNKING as well, a message that fits into one chunk takes one round trip. Otherwise each
//!   command waits for its reply.
//! - Every recipient has one outcome, which is the class of the reply that decided it. A recipient
//!   is accepted only by 2yz to the end of mail data. Input that is not a reply, an unsolicited
//!   reply, and one that is not valid for its command end the connection. Undecided recipients are
//!   then deferred.
//! - An extension is used only if the server offers it. DSN parameters are otherwise left out. A
//!   message that declares 8BITMIME or needs SMTPUTF8 fails without them, with 5.6.3 and 5.6.7
//!   (RFC 6152, RFC 6531). The caller can make an 8-bit message 7-bit before, and divide long lines
//!   (`survey.rs`). Undeclared 8-bit content is sent as it is.
//! - The password is sent only inside TLS, or if the channel is [`secure`](SenderConfig::secure).
//!   State from before TLS is dropped, and input between the 220 to STARTTLS and the handshake ends
//!   the connection (RFC 3207 4.2, 5).
//!
//! With [`lmtp`](SenderConfig::lmtp) the sender uses LMTP (RFC 2033): LHLO in place of EHLO, and
//! after the mail data one reply for each accepted recipient. It then sends mail data with DATA.
//!
//! | file | contains |
//! | --- | --- |
//! | `transaction.rs` | one transaction, from MAIL to the end of mail data |
//! | `reply_parser.rs` | the parser of replies |
//! | `extensions.rs` | the extensions in the reply to EHLO |
//! | `auth.rs` | the AUTH command |
//! | `survey.rs` | whether a message must be converted, and how |
//! | `converter.rs` | the conversion: folded lines, quoted-printable |
//! | `encoder.rs` | mail data on the wire: CR LF, stuffed dots |
//! | `testing.rs` | an entry point for fuzzers; not in a release |

mod auth;
mod converter;
mod encoder;
mod extensions;
mod reply_parser;
mod survey;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transaction;

use std::collections::VecDeque;
use std::fmt;

use super::envelope::Envelope;
pub use auth::Credentials;
pub use converter::Converter;
pub use encoder::Encoder;
pub use extensions::Extensions;
use reply_parser::{ReplyParser, ServerReply};
pub use survey::{ContentSurvey, Conversion};
use transaction::SenderTransaction;

/// Configuration of a [`Sender`]. The default uses clear text and no AUTH.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// The client's name in EHLO: a domain or an address literal (RFC 5321 4.1.1.1).
    pub hostname: String,
    /// Whether the channel is protected from its start, by TLS or because it is a Unix socket.
    pub secure: bool,
    /// True for LMTP.
    pub lmtp: bool,
    /// The use of STARTTLS. It must be Off inside TLS.
    pub start_tls: StartTlsPolicy,
    /// The user name and password for AUTH. If the server does not accept them, no message is sent.
    pub credentials: Option<Credentials>,
}

impl Default for SenderConfig {
    fn default() -> SenderConfig {
        SenderConfig {
            hostname: "localhost".to_owned(),
            secure: false,
            lmtp: false,
            start_tls: StartTlsPolicy::Off,
            credentials: None,
        }
    }
}

/// The use of STARTTLS by a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTlsPolicy {
    /// Never.
    Off,
    /// If the server offers it.
    Offered,
    /// Always. No message is sent to a server that does not offer it.
    Required,
}

/// The next action of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderStep {
    /// Send the output, read, and pass the input to [`Sender::feed`]. A whole reply must be
    /// received in the time of the stage.
    Read(Stage),
    /// Send mail data with [`Encoder::for_data`], then call [`Sender::finish_data`].
    Data,
    /// Make the handshake, then call [`Sender::begin_tls`].
    StartTls,
    /// Begin the next transaction, or quit.
    Ready,
    /// Close the connection.
    Close,
}

/// The stages of a connection, each with its timeout of RFC 5321 4.5.3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The greeting, 5 minutes.
    Greeting,
    /// The reply to MAIL, RCPT, and all commands not named here, 5 minutes.
    Command,
    /// The reply to DATA, 2 minutes.
    Data,
    /// The reply to the end of mail data, 10 minutes.
    Dot,
    /// The reply to QUIT, which changes nothing.
    Quit,
}

/// The outcome of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientOutcome {
    /// The server has accepted responsibility for the message.
    Accepted(OutcomeReason),
    /// The message was not accepted, and may be sent again later.
    Deferred(OutcomeReason),
    /// The message was not accepted, and will not be if it is sent again.
    Failed(OutcomeReason),
}

/// The reason of an outcome: a reply of the server, or an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomeReason {
    /// The code of the reply, or None for an error that is not a reply.
    pub code: Option<u16>,
    /// The enhanced status code (RFC 3463).
    pub status: (u8, u16, u16),
    /// One line of at most 512 bytes of UTF-8 without control characters. For a reply it is the
    /// code and all texts, `550 5.1.1 No such user`.
    pub text: String,
    /// The server of the connection, `mx.example.org`, `192.0.2.1` or `unix:PATH`, or None if there
    /// was no connection. The [`Sender`] does not know it; the client adds it.
    pub server: Option<String>,
}

/// The sender-SMTP of one connection (RFC 821 2).
#[derive(Debug)]
pub struct Sender {
    config: SenderConfig,
    parser: ReplyParser,
    output: Vec<u8>,
    phase: SenderPhase,
    /// Commands that were sent and not replied to yet.
    awaited: VecDeque<AwaitedReply>,
    extensions: Extensions,
    /// Whether the connection was upgraded by STARTTLS.
    tls: bool,
    transaction: Option<SenderTransaction>,
    /// Whether a transaction may be open at the server, so that RSET is needed.
    transaction_open: bool,
    /// The number of transactions so far.
    transactions: usize,
    /// The number of replies so far.
    replies: u64,
    /// The reason why the connection cannot be used any more.
    failure: Option<OutcomeReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SenderPhase {
    /// Commands are sent and replies are awaited.
    Exchange,
    /// STARTTLS was accepted.
    Handshake,
    /// No transaction is in progress.
    Ready,
    /// DATA was accepted.
    Data,
    Closed,
}

/// A command that was sent, or the connection itself, that awaits its reply.
#[derive(Debug, PartialEq, Eq)]
enum AwaitedReply {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// AUTH with the lines to send after each 334.
    Auth(VecDeque<String>),
    Rset,
    Mail,
    /// RCPT of the recipient with this index.
    Rcpt(usize),
    Data,
    /// The final dot of DATA.
    Dot,
    /// The only chunk, BDAT LAST.
    Chunk,
    Quit,
}

impl Sender {
    /// Returns a sender that waits for the greeting.
    pub fn new(config: SenderConfig) -> Sender {
        Sender {
            tls: false,
            config,
            parser: ReplyParser::default(),
            output: Vec::new(),
            phase: SenderPhase::Exchange,
            awaited: VecDeque::from([AwaitedReply::Greeting]),
            extensions: Extensions::default(),
            transaction: None,
            transaction_open: false,
            transactions: 0,
            replies: 0,
            failure: None,
        }
    }

    /// Returns the next action of the caller.
    pub fn step(&self) -> SenderStep {
        match self.phase {
            SenderPhase::Exchange => {
                SenderStep::Read(self.awaited.front().map_or(Stage::Command, AwaitedReply::stage))
            }
            SenderPhase::Handshake => SenderStep::StartTls,
            SenderPhase::Ready => SenderStep::Ready,
            SenderPhase::Data => SenderStep::Data,
            SenderPhase::Closed => SenderStep::Close,
        }
    }

    /// Removes and returns the output to send.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Handles input from the server.
    pub fn feed(&mut self, input: &[u8]) {
        self.parser.feed(input);
        while self.phase != SenderPhase::Closed {
            match self.parser.next() {
                Ok(Some(reply)) => {
                    self.replies += 1;
                    self.handle_reply(reply);
                }
                Ok(None) => break,
                Err(malformed) => self.fail(&format!("received {malformed}"), PROTOCOL),
            }
        }
    }

    /// Continues inside TLS after the handshake, with another EHLO.
    pub fn begin_tls(&mut self) {
        self.parser.clear();
        self.extensions = Extensions::default();
        self.tls = true;
        self.send_ehlo();
    }

    /// Continues after the final dot of the mail data was sent.
    pub fn finish_data(&mut self) {
        if self.phase == SenderPhase::Data {
            self.phase = SenderPhase::Exchange;
            self.awaited.push_back(AwaitedReply::Dot);
        }
    }

    /// Ends the connection because of `error`, such as "a timeout", with the enhanced status code
    /// `status`. Undecided recipients are deferred.
    pub fn fail(&mut self, error: &str, status: (u8, u16, u16)) {
        if self.phase == SenderPhase::Closed {
            return;
        }
        let stage = match (self.phase, self.awaited.front()) {
            (SenderPhase::Data, _) => "while sending mail data",
            (SenderPhase::Handshake, _) => "before the TLS handshake",
            (_, awaited) => awaited.map_or("between messages", AwaitedReply::description),
        };
        self.close(OutcomeReason::local(status, &format!("{error} {stage}")));
    }

    /// Returns the reason why the connection cannot be used any more.
    pub fn failure(&self) -> Option<&OutcomeReason> {
        self.failure.as_ref()
    }

    /// True if the connection was lost after the end of mail data was sent and before the reply to
    /// it, so that the server may have accepted the message.
    pub fn may_have_accepted(&self) -> bool {
        let is_end = |command: &_| matches!(command, AwaitedReply::Dot | AwaitedReply::Chunk);
        self.failure.is_some() && self.awaited.iter().any(is_end)
    }

    /// Returns the extensions that the server offers.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the number of whole replies so far. The timeout starts again after each.
    pub fn reply_count(&self) -> u64 {
        self.replies
    }

    /// True if the server accepts no more transactions on this connection (RFC 9422 MAILMAX).
    pub fn has_reached_limit(&self) -> bool {
        self.extensions.transactions_max.is_some_and(|max| self.transactions >= max)
    }

    /// True if `octets` of mail data can be sent as one chunk after RCPT, without waiting for
    /// replies.
    pub fn accepts_chunk(&self, octets: usize) -> bool {
        // With LMTP the number of replies to BDAT would depend on why it fails.
        let chunking = self.extensions.chunking && !self.config.lmtp;
        chunking && self.extensions.pipelining && octets <= CHUNK_MAX
    }

    /// Begins a transaction when the step is [`Ready`](SenderStep::Ready).
    ///
    /// The recipients are those of `envelope` that have no outcome in `outcomes`. `octets` is the
    /// size of the mail data as sent, without stuffed dots. `chunk` is all of it, encoded, if
    /// [`accepts_chunk`](Sender::accepts_chunk) returned true.
    pub fn begin_transaction<D>(
        &mut self,
        envelope: &Envelope<D>,
        outcomes: Vec<Option<RecipientOutcome>>,
        octets: u64,
        chunk: Option<Vec<u8>>,
    ) {
        self.transaction =
            Some(SenderTransaction::new(&self.extensions, envelope, outcomes, octets, chunk));
        self.transactions += 1;
        self.phase = SenderPhase::Exchange;
        if self.parser.is_empty() {
            self.continue_transaction();
        } else {
            self.fail("received unexpected input", PROTOCOL);
        }
    }

    /// Ends the transaction and returns the outcomes of its recipients. A recipient without an
    /// outcome needs another transaction, because the server limits the number of recipients.
    pub fn take_outcomes(&mut self) -> Vec<Option<RecipientOutcome>> {
        self.transaction.take().map(|transaction| transaction.outcomes).unwrap_or_default()
    }

    /// Sends QUIT.
    pub fn quit(&mut self) {
        if self.phase != SenderPhase::Closed {
            self.send_command("QUIT".to_owned(), AwaitedReply::Quit);
        }
    }

    fn send_ehlo(&mut self) {
        let verb = if self.config.lmtp { "LHLO" } else { "EHLO" };
        self.send_command(format!("{verb} {}", self.config.hostname), AwaitedReply::Ehlo);
    }

    fn send_command(&mut self, line: String, awaited: AwaitedReply) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.awaited.push_back(awaited);
        self.phase = SenderPhase::Exchange;
    }

    /// Handles one reply.
    fn handle_reply(&mut self, reply: ServerReply) {
        if self.phase == SenderPhase::Data {
            return self.handle_early_reply(&reply);
        }
        // A reply before the output was sent cannot be a reply to it.
        if !self.output.is_empty() {
            return self.handle_unsolicited_reply(&reply);
        }
        let Some(awaited) = self.awaited.pop_front() else {
            return self.handle_unsolicited_reply(&reply);
        };
        let reason = OutcomeReason::of(&reply);
        // After 421 to any command the server closes the connection (RFC 5321 3.8).
        if reply.code == 421 && awaited != AwaitedReply::Quit {
            self.awaited.push_front(awaited);
            return self.close(reason);
        }
        let class = reply.code / 100;
        match awaited {
            AwaitedReply::Greeting if class == 2 => self.send_ehlo(),
            AwaitedReply::Ehlo if class == 2 => {
                self.extensions = Extensions::parse(&reply);
                self.start_tls_or_log_in();
            }
            // An old server may support HELO only (RFC 5321 4.1.1.1).
            AwaitedReply::Ehlo if class == 5 && !self.config.lmtp => {
                self.send_command(format!("HELO {}", self.config.hostname), AwaitedReply::Helo);
            }
            AwaitedReply::Helo if class == 2 => self.start_tls_or_log_in(),
            AwaitedReply::StartTls if class == 2 => self.start_tls(),
            AwaitedReply::StartTls if self.config.start_tls == StartTlsPolicy::Offered => {
                self.log_in()
            }
            AwaitedReply::Auth(_) if class == 2 => self.phase = SenderPhase::Ready,
            AwaitedReply::Auth(mut lines) if class == 3 => match lines.pop_front() {
                Some(line) => self.send_command(line, AwaitedReply::Auth(lines)),
                None => self.close(OutcomeReason::local(
                    PROTOCOL,
                    "the server sent too many challenges for AUTH",
                )),
            },
            AwaitedReply::Greeting | AwaitedReply::Ehlo | AwaitedReply::Helo => {
                self.fail_and_quit(reason)
            }
            AwaitedReply::StartTls | AwaitedReply::Auth(_) => self.fail_and_quit(reason),
            AwaitedReply::Quit => self.phase = SenderPhase::Closed,
            AwaitedReply::Rset if class == 2 => {}
            awaited => self.handle_transaction_reply(awaited, class, reason),
        }
        if self.phase == SenderPhase::Exchange && self.awaited.is_empty() {
            self.continue_transaction();
        }
    }

    /// Sends STARTTLS or AUTH after EHLO or HELO, if one is due.
    fn start_tls_or_log_in(&mut self) {
        match self.config.start_tls {
            StartTlsPolicy::Offered | StartTlsPolicy::Required if self.tls => self.log_in(),
            StartTlsPolicy::Offered | StartTlsPolicy::Required if self.extensions.start_tls => {
                self.send_command("STARTTLS".to_owned(), AwaitedReply::StartTls);
            }
            StartTlsPolicy::Required => {
                self.fail_and_quit(OutcomeReason::local(
                    SECURITY,
                    "TLS is required, but the server does not offer STARTTLS",
                ));
            }
            StartTlsPolicy::Offered | StartTlsPolicy::Off => self.log_in(),
        }
    }

    fn start_tls(&mut self) {
        self.phase = SenderPhase::Handshake;
        // An attacker in the network may have inserted it to be read inside TLS.
        if !self.parser.is_empty() {
            self.fail("received clear text", SECURITY);
        }
    }

    fn log_in(&mut self) {
        let Some(credentials) = &self.config.credentials else {
            self.phase = SenderPhase::Ready;
            return;
        };
        if !self.tls && !self.config.secure {
            return self.fail_and_quit(OutcomeReason::local(
                SECURITY,
                "the password is not sent without TLS",
            ));
        }
        match credentials.auth_lines(&self.extensions).map(VecDeque::from) {
            Some(mut lines) => {
                let first = lines.pop_front().unwrap_or_default();
                self.send_command(first, AwaitedReply::Auth(lines));
            }
            None => self.fail_and_quit(OutcomeReason::local(
                SECURITY,
                "the server offers neither AUTH PLAIN nor AUTH LOGIN",
            )),
        }
    }

    /// Handles a reply while mail data is being sent. Only a rejection is valid.
    fn handle_early_reply(&mut self, reply: &ServerReply) {
        match reply.code / 100 {
            4 | 5 => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.decide_accepted(reply.code / 100, &OutcomeReason::of(reply));
                }
                // The connection is closed, because the server would take the rest of the mail
                // data for commands.
                self.close(OutcomeReason::of(reply));
            }
            _ => self.fail("received a reply", PROTOCOL),
        }
    }

    /// Handles a reply to no command. Only 421 is valid (RFC 5321 3.8).
    fn handle_unsolicited_reply(&mut self, reply: &ServerReply) {
        match reply.code {
            421 => self.close(OutcomeReason::of(reply)),
            _ => self.fail("received an unsolicited reply", PROTOCOL),
        }
    }

    /// Ends the connection with QUIT because of `reason`.
    fn fail_and_quit(&mut self, reason: OutcomeReason) {
        self.failure = Some(reason);
        self.quit();
    }

    /// Ends the connection at once because of `reason`.
    fn close(&mut self, reason: OutcomeReason) {
        self.phase = SenderPhase::Closed;
        self.output.clear();
        if let Some(transaction) = &mut self.transaction {
            transaction.defer_undecided(&reason);
        }
        // The first reason is kept.
        self.failure.get_or_insert(reason);
    }
}

impl AwaitedReply {
    fn stage(&self) -> Stage {
        match self {
            AwaitedReply::Greeting => Stage::Greeting,
            AwaitedReply::Data => Stage::Data,
            AwaitedReply::Dot | AwaitedReply::Chunk => Stage::Dot,
            AwaitedReply::Quit => Stage::Quit,
            _ => Stage::Command,
        }
    }

    /// Returns the end of an error text.
    fn description(&self) -> &'static str {
        match self {
            AwaitedReply::Greeting => "while waiting for the greeting",
            AwaitedReply::Ehlo => "while waiting for the reply to EHLO",
            AwaitedReply::Helo => "while waiting for the reply to HELO",
            AwaitedReply::StartTls => "while waiting for the reply to STARTTLS",
            AwaitedReply::Auth(_) => "while waiting for the reply to AUTH",
            AwaitedReply::Rset => "while waiting for the reply to RSET",
            AwaitedReply::Mail => "while waiting for the reply to MAIL",
            AwaitedReply::Rcpt(_) => "while waiting for the reply to RCPT",
            AwaitedReply::Data => "while waiting for the reply to DATA",
            AwaitedReply::Dot | AwaitedReply::Chunk => {
                "while waiting for the reply to the end of mail data; the message may arrive twice"
            }
            AwaitedReply::Quit => "while waiting for the reply to QUIT",
        }
    }
}

impl OutcomeReason {
    /// Returns the reason for an error that is not a reply.
    pub fn local(status: (u8, u16, u16), text: &str) -> OutcomeReason {
        let mut text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        reply_parser::truncate_text(&mut text);
        OutcomeReason { code: None, status, text, server: None }
    }

    fn of(reply: &ServerReply) -> OutcomeReason {
        let class = u8::try_from(reply.code / 100).unwrap_or(5);
        OutcomeReason {
            code: Some(reply.code),
            status: reply.enhanced().unwrap_or((class, 0, 0)),
            text: reply.text(),
            server: None,
        }
    }
}

impl RecipientOutcome {
    /// Returns the outcome with the server that caused it.
    pub fn from_server(mut self, server: &str) -> RecipientOutcome {
        let (RecipientOutcome::Accepted(reason)
        | RecipientOutcome::Deferred(reason)
        | RecipientOutcome::Failed(reason)) = &mut self;
        reason.server = Some(server.to_owned());
        self
    }

    /// Returns the reason of the outcome.
    pub fn reason(&self) -> &OutcomeReason {
        match self {
            RecipientOutcome::Accepted(reason)
            | RecipientOutcome::Deferred(reason)
            | RecipientOutcome::Failed(reason) => reason,
        }
    }
}

/// Writes the text of the reason.
impl fmt::Display for OutcomeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The most commands that are sent without waiting for replies. They and their replies fit into the
/// socket buffers of any hosts, so that client and server cannot block each other (RFC 2920 3.1).
pub const PIPELINE_MAX: usize = 50;
/// The most octets of mail data that are sent before a recipient is accepted.
pub const CHUNK_MAX: usize = 32 * 1024;
/// The status "other or undefined protocol status" (RFC 3463).
const PROTOCOL: (u8, u16, u16) = (4, 5, 0);
/// The status "security features not supported" (RFC 3463).
const SECURITY: (u8, u16, u16) = (4, 7, 4);
