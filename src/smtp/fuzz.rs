//! What fuzzers call: octets in, invariants asserted. `tests/fuzz` drives these functions with
//! libFuzzer, `tests/smtp_fuzz.rs` with seeded random input.
//!
//! [`Machine`] joins receiver and decoder by a stream of octets as a session does, without I/O. It
//! serves the tests of dialogues too.

use std::mem;

use super::command::Command;
use super::data::{Decoder, End, Piece};
use super::path::{ForwardPath, Mailbox, ReversePath};
use super::receiver::{Host, LINE_MAX, Receiver, Settings, Step, Tls};
use super::reply::{self, Reply};

/// A connection without I/O: what the client sends goes in, all that was answered is in `out`.
pub struct Machine<H: Host> {
    receiver: Receiver<H>,
    size_max: u64,
    line: Vec<u8>,
    /// Whether octets of the line were dropped, and the last one that came.
    dropped: bool,
    last: u8,
    data: Option<(Decoder, Vec<Vec<u8>>)>,
    /// Greeting and replies as they go over the wire.
    pub out: Vec<u8>,
    /// Replies in `out`.
    pub replies: usize,
    /// Lines and ends of data that were answered, and one for the connection itself.
    pub asked: usize,
    /// Messages accepted.
    pub messages: Vec<Received>,
    /// Whether the receiver has closed. More input is ignored.
    pub closed: bool,
}

/// One message as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The reverse-path, with brackets.
    pub from: String,
    /// The forward-paths, with brackets.
    pub to: Vec<String>,
    /// The lines of the mail data.
    pub lines: Vec<Vec<u8>>,
}

impl<H: Host> Machine<H> {
    /// A connection that was greeted.
    pub fn new(settings: Settings, host: H) -> Machine<H> {
        let size_max = settings.size_max;
        let mut machine = Machine {
            receiver: Receiver::new(settings, host),
            size_max,
            line: Vec::new(),
            dropped: false,
            last: 0,
            data: None,
            out: Vec::new(),
            replies: 0,
            asked: 1,
            messages: Vec::new(),
            closed: false,
        };
        let greeting = machine.receiver.greeting();
        machine.take(Step::Reply(greeting));
        machine
    }

    /// Takes what the client sent, at any cut.
    pub fn feed(&mut self, mut input: &[u8]) {
        while !self.closed && !input.is_empty() {
            input = if self.data.is_some() { self.read_data(input) } else { self.read_line(input) };
        }
    }

    /// Reads up to the CR LF of a command line.
    fn read_line<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let mut rest = input;
        while let Some((&octet, behind)) = rest.split_first() {
            rest = behind;
            let ends = octet == b'\n' && self.last == b'\r';
            self.last = octet;
            if self.line.len() < LINE_MAX {
                self.line.push(octet);
            } else {
                self.dropped = true;
            }
            if ends {
                let line = mem::take(&mut self.line);
                let too_long = mem::take(&mut self.dropped);
                self.asked += 1;
                let step = if too_long {
                    self.receiver.line_too_long()
                } else {
                    self.receiver.line(&line)
                };
                self.take(step);
                return rest;
            }
        }
        rest
    }

    /// Reads up to the end of the mail data.
    fn read_data<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let Some((decoder, lines)) = &mut self.data else { return input };
        let (used, end) = decoder.feed(input, &mut |piece| {
            assert!(!piece.bytes.contains(&b'\r') && !piece.bytes.contains(&b'\n'));
            if piece.first {
                lines.push(Vec::new());
            }
            lines.last_mut().into_iter().for_each(|line| line.extend_from_slice(piece.bytes));
        });
        if let Some(end) = end {
            let lines = mem::take(lines);
            self.data = None;
            self.asked += 1;
            let reply = self.accept(end, lines);
            let step = self.receiver.end_of_data(reply);
            assert!(self.receiver.envelope().is_none(), "the transaction is over");
            self.take(step);
        }
        input.split_at(used).1
    }

    fn accept(&mut self, end: End, lines: Vec<Vec<u8>>) -> Reply {
        match (end, self.receiver.envelope()) {
            (End::BareLineEnd, _) => reply::data_bare_line_end(),
            (End::TooLarge, _) => reply::data_too_large(),
            (End::Whole, None) => reply::data_error(),
            (End::Whole, Some(envelope)) => {
                self.messages.push(Received {
                    from: envelope.from.to_string(),
                    to: envelope.to.iter().map(|recipient| recipient.path.to_string()).collect(),
                    lines,
                });
                reply::delivered(&self.messages.len().to_string())
            }
        }
    }

    fn take(&mut self, step: Step) {
        let reply = match step {
            Step::Reply(reply) => reply,
            Step::Data(reply) => {
                let recipients = self.receiver.envelope().map_or(0, |envelope| envelope.to.len());
                assert!(recipients > 0, "354 is for somebody");
                self.data = Some((Decoder::new(self.size_max), Vec::new()));
                reply
            }
            // The handshake takes no octets here: what follows is inside TLS.
            Step::StartTls(reply) => {
                self.receiver.tls_started();
                assert!(self.receiver.client().is_none() && self.receiver.envelope().is_none());
                reply
            }
            Step::Close(reply) => {
                assert!(matches!(reply.code, 221 | 421), "closes with 221 or 421 only");
                self.closed = true;
                reply
            }
        };
        assert_eq!(reply.code == 354, self.data.is_some(), "354 and nothing else asks for data");
        self.replies += 1;
        check_reply(&reply);
        reply.write_to(&mut self.out);
    }
}

/// A command line: it is a command or it has its reply, and paths are written as they are read.
pub fn command(line: &[u8]) {
    match Command::parse(line) {
        Ok(Command::Mail(path, _)) => reread_reverse(&path),
        Ok(Command::Rcpt(path)) => reread_forward(&path),
        Ok(Command::Helo(client) | Command::Ehlo(client)) => {
            assert_eq!(super::Domain::parse(&client.to_string()), Ok(client));
        }
        Ok(Command::Vrfy(text) | Command::Expn(text) | Command::Help(Some(text))) => {
            assert!(!text.is_empty() && text.bytes().all(|octet| matches!(octet, b' '..=b'~')));
        }
        Ok(_) => {}
        Err(reply) => {
            assert!(matches!(reply.code, 500..=504 | 555), "{reply:?}");
            check_reply(&reply);
        }
    }
}

/// A path, or a mailbox.
pub fn path(text: &[u8]) {
    if let Ok((path, rest)) = ReversePath::read(text) {
        assert!(text.ends_with(rest));
        reread_reverse(&path);
    }
    if let Ok((path, rest)) = ForwardPath::read(text) {
        assert!(text.ends_with(rest));
        reread_forward(&path);
    }
    if let Ok(text) = str::from_utf8(text)
        && let Ok(mailbox) = Mailbox::parse(text)
    {
        check_mailbox(&mailbox);
    }
}

/// Mail data: the first octet chooses the limit, the second the cut; whole and cut come out alike.
pub fn data(input: &[u8]) {
    let [limit, cut, input @ ..] = input else { return };
    let size_max = if *limit == 0 { u64::MAX } else { u64::from(*limit) * 16 };
    let whole = decode(input, size_max, input.len());
    let (lines, used, end) = &whole;
    assert_eq!(whole, decode(input, size_max, usize::from(*cut)));
    assert_eq!(whole, decode(input, size_max, 1));
    assert!(lines.iter().all(|line| !line.contains(&b'\r') && !line.contains(&b'\n')));
    if end.is_some() {
        assert!(input.split_at(*used).0.ends_with(b".\r\n"));
    }
    if *end == Some(End::Whole) {
        let octets: usize = lines.iter().map(|line| line.len() + 2).sum();
        assert!(octets as u64 <= size_max);
        assert!(octets + 3 <= *used);
    }
}

/// A whole connection: each line is answered once, and the same at every cut.
pub fn receiver(input: &[u8]) {
    let settings = Settings {
        size_max: 1000,
        recipients_max: 3,
        vrfy: true,
        tls: Tls::Offered,
        ..Settings::new("mx.example")
    };
    let mut whole = Machine::new(settings.clone(), Everyone);
    whole.feed(input);
    let mut cut = Machine::new(settings, Everyone);
    input.iter().for_each(|octet| cut.feed(&[*octet]));
    assert_eq!(whole.out, cut.out);
    assert_eq!(whole.messages, cut.messages);
    assert_eq!(whole.closed, cut.closed);
    assert_eq!(whole.replies, whole.asked, "one reply to each command");
}

/// A host that takes mail for all but those whose name begins with x.
struct Everyone;

impl Host for Everyone {
    type Destination = ();

    fn room(&self, size: Option<u64>) -> Result<(), Reply> {
        if size.is_some_and(|size| size > 900) { Err(reply::no_room()) } else { Ok(()) }
    }
    fn recipient(&self, to: &ForwardPath) -> Result<(), Reply> {
        match to {
            ForwardPath::Mailbox(mailbox) if mailbox.local().starts_with('x') => {
                Err(reply::no_such_user(to))
            }
            _ => Ok(()),
        }
    }
    fn vrfy(&self, name: &str) -> Reply {
        Reply::new(250, (2, 1, 5), name.to_owned())
    }
    fn expn(&self, _list: &str) -> Reply {
        reply::nobody("EXPN")
    }
    fn help(&self) -> Option<Reply> {
        None
    }
}

/// What a decoder gave: its pieces joined to lines, the octets it used, and its end.
type Decoded = (Vec<Vec<u8>>, usize, Option<End>);

fn decode(input: &[u8], size_max: u64, cut: usize) -> Decoded {
    let mut decoder = Decoder::new(size_max);
    let (mut lines, mut used, mut end) = (Vec::<Vec<u8>>::new(), 0, None);
    for slice in input.chunks(cut.max(1)) {
        let sink = &mut |piece: Piece<'_>| {
            if piece.first {
                lines.push(Vec::new());
            }
            lines.last_mut().into_iter().for_each(|line| line.extend_from_slice(piece.bytes));
        };
        let (n, ended) = decoder.feed(slice, sink);
        assert!(ended.is_some() || n == slice.len());
        used += n;
        end = ended;
        if end.is_some() {
            break;
        }
    }
    (lines, used, end)
}

fn reread_reverse(path: &ReversePath) {
    if let ReversePath::Mailbox(mailbox) = path {
        check_mailbox(mailbox);
    }
    let written = path.to_string();
    assert_eq!(ReversePath::read(written.as_bytes()), Ok((path.clone(), &[][..])));
}

fn reread_forward(path: &ForwardPath) {
    if let ForwardPath::Mailbox(mailbox) = path {
        check_mailbox(mailbox);
    }
    let written = path.to_string();
    assert_eq!(ForwardPath::read(written.as_bytes()), Ok((path.clone(), &[][..])));
}

fn check_mailbox(mailbox: &Mailbox) {
    assert!((1..=64).contains(&mailbox.local().len()));
    assert!(mailbox.domain().to_string().len() <= 255);
    let written = mailbox.to_string();
    assert!(written.bytes().all(|octet| matches!(octet, b' '..=b'~')));
    assert_eq!(Mailbox::parse(&written).as_ref(), Ok(mailbox));
}

fn check_reply(reply: &Reply) {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let Some(text) = wire.strip_suffix(b"\r\n") else { unreachable!("a reply ends with CR LF") };
    let lines: Vec<&[u8]> = text.split(|octet| *octet == b'\n').collect();
    assert_eq!(lines.len(), reply.lines.len());
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() <= reply::LINE_MAX - 2);
        assert!(line.iter().all(|octet| matches!(octet, b' '..=b'~')));
        assert!(line.starts_with(reply.code.to_string().as_bytes()));
    }
}
