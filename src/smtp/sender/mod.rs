//! The state machine of a client: octets of the server in, commands and outcomes out. No I/O.
//!
//! A connection, [`Sender`], outlives its transactions. It begins with greeting, EHLO (or HELO),
//! STARTTLS and AUTH as [`SenderConfig`] ask; then whoever holds it [`begin`](Sender::begin)s
//! transactions, one after the other, and [`quit`](Sender::quit)s. In between it does what
//! [`step`](Sender::step) says:
//!
//! ```text
//!        octets --heard()--> Sender --step()--> Read, Data, StartTls, Ready, Close
//!                              |
//!  mail server <--output()-----+--outcomes()--> of each recipient: done, later, never
//! ```
//! Promises:
//! - Where the server offers PIPELINING, a transaction is sent in groups of [`GROUP`] commands, and
//!   one round trip is a whole message that fits a chunk (CHUNKING); elsewhere each command waits
//!   for its reply.
//! - Every recipient has one outcome, from the code of the reply that decided over it. Done only
//!   after a reply of 2yz to the end of mail data. A reply that is none, that comes unasked or has
//!   no sense where it comes ends the connection, and what was not decided is for later.
//! - Nothing is said that the server did not offer. DSN parameters then are left out; what RFC 6152
//!   and RFC 6531 do not let through (declared 8BITMIME, SMTPUTF8) fails here, with 5.6.3 and
//!   5.6.7: nothing is converted. 8-bit content that was not declared is sent as it is.
//! - A password is said inside TLS, or where the channel is [`secure`](SenderConfig::secure), and
//!   nowhere else. What came before TLS is forgotten, and octets that came behind the 220 to
//!   STARTTLS end the connection (RFC 3207 4.2, 5).
//!
//! LMTP is not spoken.

mod auth;
mod encoder;
mod extensions;
mod reply_parser;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transaction;

use std::collections::VecDeque;
use std::fmt;

use super::envelope::Envelope;
pub use auth::Credentials;
pub use encoder::Encoder;
pub use extensions::Extensions;
use reply_parser::{ReplyParser, ServerReply};
use transaction::SenderTransaction;

/// What a sender is told of the connection.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// What it calls itself in EHLO: a domain, or an address literal (RFC 5321 4.1.1.1).
    pub hostname: String,
    /// Whether the channel can be overheard by nobody from its first octet: TLS, or a Unix socket.
    pub secure: bool,
    /// Whether STARTTLS is said; Off inside TLS.
    pub start_tls: StartTlsPolicy,
    /// Who it says it is, if anybody. Then a server that does not take it is of no use.
    pub login: Option<Credentials>,
}

/// Whether STARTTLS is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartTlsPolicy {
    /// Never.
    Off,
    /// Where it is offered.
    Offered,
    /// Always: a server without is of no use.
    Required,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderStep {
    /// Send the output, read, and give what came to [`Sender::feed`]. A reply is to be whole in
    /// the time its stage allows.
    Read(Stage),
    /// Send mail data by an [`Encoder`] for DATA, to its final dot, then call
    /// [`Sender::data_sent`].
    Data,
    /// Make the handshake, then call [`Sender::tls_started`].
    StartTls,
    /// The transaction is over, or none has begun: begin one, or quit.
    Ready,
    /// Nothing more will be said.
    Close,
}

/// What is waited for, with the time that RFC 5321 4.5.3.2 has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The greeting: 5 minutes.
    Greeting,
    /// The reply to MAIL, RCPT, or another command that has no time of its own: 5 minutes.
    Command,
    /// The reply to DATA: 2 minutes.
    Data,
    /// The reply to the end of mail data: 10 minutes.
    Dot,
    /// The reply to QUIT, of which nothing depends.
    Quit,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientOutcome {
    /// The server has taken responsibility.
    Done(FailureReason),
    /// Not now; it may be otherwise later.
    Later(FailureReason),
    /// Not, and trying again would not help.
    Never(FailureReason),
}

/// Why: a reply, or what happened instead of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureReason {
    /// The code of the reply; None: there was none, and the rest is our own.
    pub code: Option<u16>,
    /// RFC 3463.
    pub status: (u8, u16, u16),
    /// One line of at most 512 octets, UTF-8 without control characters: of a reply the code and
    /// all texts, `550 5.1.1 No such user`.
    pub text: String,
}

/// The sender-SMTP of one connection.
#[derive(Debug)]
pub struct Sender {
    settings: SenderConfig,
    answers: ReplyParser,
    output: Vec<u8>,
    phase: SenderPhase,
    /// Commands that were said and not answered yet.
    awaited: VecDeque<AwaitedReply>,
    offers: Extensions,
    /// Whether STARTTLS was carried out.
    tls: bool,
    transaction: Option<SenderTransaction>,
    /// Whether the server may think that a transaction is open.
    is_open: bool,
    /// Transactions so far.
    mails: usize,
    /// Replies so far.
    replies: u64,
    /// Why the connection is of no use any more.
    failure: Option<FailureReason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SenderPhase {
    /// Replies are awaited, or a group of commands is due.
    Talking,
    /// 220 to STARTTLS came.
    Handshake,
    Ready,
    /// 354 came.
    Data,
    Over,
}

/// A command whose reply is awaited.
#[derive(Debug, PartialEq, Eq)]
enum AwaitedReply {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    /// With the lines that are to be sent for 334.
    Auth(VecDeque<String>),
    Rset,
    Mail,
    /// Of which recipient.
    Rcpt(usize),
    Data,
    /// The final dot.
    Dot,
    /// The only chunk, BDAT LAST.
    Chunk,
    Quit,
}

impl Sender {
    /// A sender that waits for the greeting.
    pub fn new(settings: SenderConfig) -> Sender {
        Sender {
            tls: false,
            settings,
            answers: ReplyParser::default(),
            output: Vec::new(),
            phase: SenderPhase::Talking,
            awaited: VecDeque::from([AwaitedReply::Greeting]),
            offers: Extensions::default(),
            transaction: None,
            is_open: false,
            mails: 0,
            replies: 0,
            failure: None,
        }
    }

    /// What to do next.
    pub fn step(&self) -> SenderStep {
        match self.phase {
            SenderPhase::Talking => {
                SenderStep::Read(self.awaited.front().map_or(Stage::Command, AwaitedReply::stage))
            }
            SenderPhase::Handshake => SenderStep::StartTls,
            SenderPhase::Ready => SenderStep::Ready,
            SenderPhase::Data => SenderStep::Data,
            SenderPhase::Over => SenderStep::Close,
        }
    }

    /// What is to be sent, taken away.
    pub fn output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Octets came from the server.
    pub fn feed(&mut self, octets: &[u8]) {
        self.answers.feed(octets);
        while self.phase != SenderPhase::Over {
            match self.answers.next() {
                Ok(Some(answer)) => {
                    self.replies += 1;
                    self.answer(answer);
                }
                Ok(None) => break,
                Err(garble) => self.lost(&format!("{garble} came"), PROTOCOL),
            }
        }
    }

    /// The connection is inside TLS from here on.
    pub fn tls_started(&mut self) {
        self.answers.clear();
        self.offers = Extensions::default();
        self.tls = true;
        self.say(format!("EHLO {}", self.settings.hostname), AwaitedReply::Ehlo);
    }

    /// Mail data was sent, up to its final dot.
    pub fn data_sent(&mut self) {
        if self.phase == SenderPhase::Data {
            self.phase = SenderPhase::Talking;
            self.awaited.push_back(AwaitedReply::Dot);
        }
    }

    /// Nothing can be sent or read any more, because of `why` ("timeout"), which has this status.
    pub fn lost(&mut self, why: &str, status: (u8, u16, u16)) {
        if self.phase == SenderPhase::Over {
            return;
        }
        let place = match (self.phase, self.awaited.front()) {
            (SenderPhase::Data, _) => "while mail data was sent",
            (SenderPhase::Handshake, _) => "where TLS was to begin",
            (_, awaited) => awaited.map_or("between messages", AwaitedReply::place),
        };
        self.over(FailureReason::own(status, &format!("{why} {place}")));
    }

    /// Why the connection is of no use, once it is not.
    pub fn failure(&self) -> Option<&FailureReason> {
        self.failure.as_ref()
    }

    /// What the server offers.
    pub fn offers(&self) -> &Extensions {
        &self.offers
    }

    /// How many replies came whole; each has a time of its own.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// Whether the server takes no further transaction on this connection (RFC 9422 MAILMAX).
    pub fn is_used_up(&self) -> bool {
        self.offers.mails_max.is_some_and(|most| self.mails >= most)
    }

    /// Whether `octets` of mail data are sent as one chunk, behind RCPT and without a wait.
    pub fn takes_chunk(&self, octets: usize) -> bool {
        self.offers.chunking && self.offers.pipelining && octets <= CHUNK_MAX
    }

    /// Begins a transaction, where the step is [`Ready`](SenderStep::Ready): `envelope`'s, for those of
    /// its recipients that have no outcome yet in `outcomes`. `octets` is how long the mail data is
    /// on the wire, dots not stuffed; `chunk` is all of it where
    /// [`takes_chunk`](Sender::takes_chunk) said so.
    pub fn begin<D>(
        &mut self,
        envelope: &Envelope<D>,
        outcomes: Vec<Option<RecipientOutcome>>,
        octets: u64,
        chunk: Option<Vec<u8>>,
    ) {
        self.transaction =
            Some(SenderTransaction::new(&self.offers, envelope, outcomes, octets, chunk));
        self.mails += 1;
        self.phase = SenderPhase::Talking;
        match self.answers.is_empty() {
            true => self.go_on(),
            false => self.lost("something came", PROTOCOL),
        }
    }

    /// What became of the recipients, after the transaction. One without an outcome was not tried:
    /// the server takes no more at a time, so that another transaction is to begin.
    pub fn outcomes(&mut self) -> Vec<Option<RecipientOutcome>> {
        self.transaction.take().map(|transaction| transaction.outcomes).unwrap_or_default()
    }

    /// Says QUIT.
    pub fn quit(&mut self) {
        if self.phase != SenderPhase::Over {
            self.say("QUIT".to_owned(), AwaitedReply::Quit);
        }
    }

    fn say(&mut self, line: String, awaited: AwaitedReply) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.awaited.push_back(awaited);
        self.phase = SenderPhase::Talking;
    }

    /// Takes one reply.
    fn answer(&mut self, answer: ServerReply) {
        if self.phase == SenderPhase::Data {
            return self.answer_too_early(&answer);
        }
        // What the output holds was not sent yet, so nobody can have answered it.
        let asked = self.output.is_empty().then(|| self.awaited.pop_front()).flatten();
        let Some(awaited) = asked else {
            return self.unasked(&answer);
        };
        let reason = FailureReason::of(&answer);
        // The server closes, whatever was asked (RFC 5321 3.8).
        if answer.code == 421 && awaited != AwaitedReply::Quit {
            self.awaited.push_front(awaited);
            return self.over(reason);
        }
        let class = answer.code / 100;
        match awaited {
            AwaitedReply::Greeting if class == 2 => {
                self.say(format!("EHLO {}", self.settings.hostname), AwaitedReply::Ehlo);
            }
            AwaitedReply::Ehlo if class == 2 => {
                self.offers = Extensions::read(&answer);
                self.introduce();
            }
            // It may know HELO (RFC 5321 4.1.1.1).
            AwaitedReply::Ehlo if class == 5 => {
                self.say(format!("HELO {}", self.settings.hostname), AwaitedReply::Helo);
            }
            AwaitedReply::Helo if class == 2 => self.introduce(),
            AwaitedReply::StartTls if class == 2 => self.start_tls(),
            AwaitedReply::StartTls if self.settings.start_tls == StartTlsPolicy::Offered => {
                self.log_in()
            }
            AwaitedReply::Auth(_) if class == 2 => self.phase = SenderPhase::Ready,
            AwaitedReply::Auth(mut lines) if class == 3 => match lines.pop_front() {
                Some(line) => self.say(line, AwaitedReply::Auth(lines)),
                None => self.over(FailureReason::own(PROTOCOL, "AUTH asks for more than there is")),
            },
            AwaitedReply::Greeting | AwaitedReply::Ehlo | AwaitedReply::Helo => {
                self.give_up(reason)
            }
            AwaitedReply::StartTls | AwaitedReply::Auth(_) => self.give_up(reason),
            AwaitedReply::Quit => self.phase = SenderPhase::Over,
            AwaitedReply::Rset if class == 2 => {}
            awaited => self.in_transaction(awaited, class, reason),
        }
        if self.phase == SenderPhase::Talking && self.awaited.is_empty() {
            self.go_on();
        }
    }

    /// What follows EHLO or HELO.
    fn introduce(&mut self) {
        match self.settings.start_tls {
            StartTlsPolicy::Offered | StartTlsPolicy::Required if self.tls => self.log_in(),
            StartTlsPolicy::Offered | StartTlsPolicy::Required if self.offers.start_tls => {
                self.say("STARTTLS".to_owned(), AwaitedReply::StartTls);
            }
            StartTlsPolicy::Required => {
                self.give_up(FailureReason::own(
                    SECURITY,
                    "STARTTLS is not offered, and required here",
                ));
            }
            StartTlsPolicy::Offered | StartTlsPolicy::Off => self.log_in(),
        }
    }

    fn start_tls(&mut self) {
        self.phase = SenderPhase::Handshake;
        // Whoever is between the server and us may have put it there, to be taken for something
        // said inside TLS.
        if !self.answers.is_empty() {
            self.lost("something came in clear text", SECURITY);
        }
    }

    fn log_in(&mut self) {
        let Some(login) = &self.settings.login else {
            self.phase = SenderPhase::Ready;
            return;
        };
        if !self.tls && !self.settings.secure {
            return self.give_up(FailureReason::own(SECURITY, "no password is sent without TLS"));
        }
        match login.lines(&self.offers).map(VecDeque::from) {
            Some(mut lines) => {
                let first = lines.pop_front().unwrap_or_default();
                self.say(first, AwaitedReply::Auth(lines));
            }
            None => self
                .give_up(FailureReason::own(SECURITY, "neither AUTH PLAIN nor LOGIN is offered")),
        }
    }

    /// A reply while mail data is sent: a refusal is one, and anything else is not to be believed.
    fn answer_too_early(&mut self, answer: &ServerReply) {
        match answer.code / 100 {
            4 | 5 => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.data_answered(answer.code / 100, &FailureReason::of(answer));
                }
                // What is left of the mail data must not be taken for commands.
                self.over(FailureReason::of(answer));
            }
            _ => self.lost("a reply came", PROTOCOL),
        }
    }

    fn unasked(&mut self, answer: &ServerReply) {
        match answer.code {
            421 => self.over(FailureReason::of(answer)),
            _ => self.lost("a reply came unasked", PROTOCOL),
        }
    }

    /// The server is of no use, and told so.
    fn give_up(&mut self, reason: FailureReason) {
        self.failure = Some(reason);
        self.quit();
    }

    /// Nothing more can be said.
    fn over(&mut self, reason: FailureReason) {
        self.phase = SenderPhase::Over;
        self.output.clear();
        if let Some(transaction) = &mut self.transaction {
            transaction.lost(&reason);
        }
        // The first reason is the one that counts.
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

    fn place(&self) -> &'static str {
        match self {
            AwaitedReply::Greeting => "in place of a greeting",
            AwaitedReply::Ehlo => "in place of a reply to EHLO",
            AwaitedReply::Helo => "in place of a reply to HELO",
            AwaitedReply::StartTls => "in place of a reply to STARTTLS",
            AwaitedReply::Auth(_) => "in place of a reply to AUTH",
            AwaitedReply::Rset => "in place of a reply to RSET",
            AwaitedReply::Mail => "in place of a reply to MAIL",
            AwaitedReply::Rcpt(_) => "in place of a reply to RCPT",
            AwaitedReply::Data => "in place of a reply to DATA",
            AwaitedReply::Dot | AwaitedReply::Chunk => {
                "in place of a reply to the end of mail data; it may arrive twice"
            }
            AwaitedReply::Quit => "in place of a reply to QUIT",
        }
    }
}

impl FailureReason {
    /// One of ours, without a reply.
    pub fn own(status: (u8, u16, u16), text: &str) -> FailureReason {
        let mut text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        reply_parser::shorten(&mut text);
        FailureReason { code: None, status, text }
    }

    fn of(answer: &ServerReply) -> FailureReason {
        let class = u8::try_from(answer.code / 100).unwrap_or(5);
        FailureReason {
            code: Some(answer.code),
            status: answer.enhanced().unwrap_or((class, 0, 0)),
            text: answer.text(),
        }
    }
}

impl RecipientOutcome {
    /// Why.
    pub fn reason(&self) -> &FailureReason {
        match self {
            RecipientOutcome::Done(reason)
            | RecipientOutcome::Later(reason)
            | RecipientOutcome::Never(reason) => reason,
        }
    }
}

/// Writes the text.
impl fmt::Display for FailureReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// RCPT commands that are sent without waiting: what they and their replies need fits into the
/// buffers of any two hosts, so that no two wait for each other to read (RFC 2920 3.1).
pub const GROUP: usize = 50;
/// The most octets of mail data that are sent before a recipient is known to be taken.
pub const CHUNK_MAX: usize = 32 * 1024;
/// Other or undefined protocol status (RFC 3463).
const PROTOCOL: (u8, u16, u16) = (4, 5, 0);
/// Security features not supported (RFC 3463).
const SECURITY: (u8, u16, u16) = (4, 7, 4);
