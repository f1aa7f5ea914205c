//! The state machine of one connection: a line in, a step out. No I/O.

use super::envelope::Envelope;
use super::path::ForwardPath;
use super::reply::Reply;

/// What the receiver asks of the host it serves. Implemented by the session, by examples, by tests.
pub trait Host {
    /// What an accepted recipient leads to; carried in the envelope.
    type Destination;

    /// Is there room for a message of `size` octets (as declared, or unknown)? An `Err` is MAIL's
    /// reply (452 4.3.1).
    fn room(&self, size: Option<u64>) -> Result<(), Reply>;
    /// Where mail for `to` goes; an `Err` is RCPT's reply.
    fn recipient(&self, to: &ForwardPath) -> Result<Self::Destination, Reply>;
    /// The answer to VRFY.
    fn vrfy(&self, name: &str) -> Reply;
    /// The answer to EXPN.
    fn expn(&self, list: &str) -> Reply;
    /// The answer to HELP without a topic (211), or None for the receiver's own 214.
    fn help(&self) -> Option<Reply>;
}

/// What the receiver is told of itself.
#[derive(Clone, Debug)]
pub struct Settings {
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
    /// Commands in error (5yz of syntax, order or unknown) before 421 and close.
    pub errors_max: u32,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it and go on.
    Reply(Reply),
    /// Send it (354), read mail data to its end, then call [`Receiver::end_of_data`].
    Data(Reply),
    /// Send it, flush, and close.
    Close(Reply),
}

/// How the client greeted, for the Received line's `with` (RFC 3848).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HELO
    Smtp,
    /// EHLO
    Esmtp,
}

/// The receiver-SMTP of one connection.
pub struct Receiver<H: Host> {
    host: H,
    #[allow(dead_code)]
    settings: Settings,
}

impl<H: Host> Receiver<H> {
    /// A receiver that has not greeted yet.
    pub fn new(settings: Settings, host: H) -> Receiver<H> {
        Receiver { host, settings }
    }
    /// 220
    pub fn greeting(&self) -> Reply {
        todo!()
    }
    /// One command line as it came, CR LF included. Its limits and bare CR or LF are judged here.
    pub fn line(&mut self, line: &[u8]) -> Step {
        let _ = line;
        todo!()
    }
    /// A command line longer than [`LINE_MAX`] came, and was read and dropped to its CR LF (500).
    pub fn line_too_long(&mut self) -> Step {
        todo!()
    }
    /// The transaction whose mail data is being read.
    pub fn envelope(&self) -> Option<&Envelope<H::Destination>> {
        todo!()
    }
    /// The mail data ended and `reply` is what became of it; the transaction is over.
    pub fn end_of_data(&mut self, reply: Reply) -> Step {
        let _ = reply;
        todo!()
    }
    /// 421 from outside: shutdown, time-out, overload. `why` names it.
    pub fn closing(&self, why: &'static str) -> Reply {
        let _ = why;
        todo!()
    }
    /// The name the client gave with HELO or EHLO, and how; None before.
    pub fn client(&self) -> Option<(&str, Protocol)> {
        todo!()
    }
    /// The host it serves.
    pub fn host(&self) -> &H {
        &self.host
    }
}

/// A command line with its CR LF, in octets: 512 by RFC 5321 4.5.3.1.4, and room for extensions.
pub const LINE_MAX: usize = 2048;
