//! What fuzzers call: octets in, invariants asserted. `tests/fuzz` drives these functions with
//! libFuzzer, `tests/library/smtp_fuzz.rs` with seeded random input.
//!
//! [`Conversation`] joins receiver and decoder by a stream of octets as a session does, without I/O. It
//! serves the tests of dialogues too.

use std::mem;

use super::chunk::Chunks;
use super::command::{Command, VerbLookup};
use super::data::{DataEnd, Decoder, Piece};
use super::envelope::Delivery;
use super::path::{ForwardPath, Mailbox, ReversePath};
use super::receiver::{Host, LINE_MAX, Receiver, ReceiverConfig, ReplyMode, StartTlsMode, Step};
use super::reply::{self, Reply};
pub use super::sender::testing::sender;

/// A connection without I/O: what the client sends goes in, all that was answered is in `out`.
pub struct Conversation<H: Host> {
    receiver: Receiver<H>,
    size_max: u64,
    line: Vec<u8>,
    /// Whether octets of the line were dropped, and the last one that came.
    dropped: bool,
    last: u8,
    reading: InputState,
    /// The lines of the message in hand.
    lines: Vec<Vec<u8>>,
    /// Its chunks, if it comes in chunks.
    chunks: Option<Chunks>,
    /// Greeting and replies as they go over the wire.
    pub out: Vec<u8>,
    /// Replies in `out`.
    pub replies: usize,
    /// Lines and ends of data that were answered, and one for the connection itself.
    pub asked: usize,
    /// Messages accepted.
    pub messages: Vec<AcceptedMessage>,
    /// Whether the receiver has closed. More input is ignored.
    pub closed: bool,
}

/// What the next octets are.
enum InputState {
    Commands,
    Data(Decoder),
    Chunk { octets: u64, last: bool },
    Skip(u64, Vec<Reply>),
}

/// One message as it was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedMessage {
    /// The reverse-path, with brackets.
    pub from: String,
    /// The forward-paths, with brackets.
    pub to: Vec<String>,
    /// The lines of the mail data.
    pub lines: Vec<Vec<u8>>,
}

impl<H: Host> Conversation<H> {
    /// A connection that was greeted.
    pub fn new(settings: ReceiverConfig, host: H) -> Conversation<H> {
        let size_max = settings.size_max;
        let mut machine = Conversation {
            receiver: Receiver::new(settings, host),
            size_max,
            line: Vec::new(),
            dropped: false,
            last: 0,
            reading: InputState::Commands,
            lines: Vec::new(),
            chunks: None,
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
            input = match &mut self.reading {
                InputState::Commands => self.read_line(input),
                InputState::Data(_) => self.read_data(input),
                InputState::Chunk { .. } => self.read_chunk(input),
                InputState::Skip(left, _) => {
                    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= used as u64;
                    input.split_at(used).1
                }
            };
            self.end_of_counted();
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
        let InputState::Data(decoder) = &mut self.reading else { return input };
        let (used, end) = decoder.feed(input, &mut |piece| keep(&mut self.lines, piece));
        if let Some(end) = end {
            self.end_of_data(end);
        }
        input.split_at(used).1
    }

    /// Reads up to the end of the chunk.
    fn read_chunk<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let Some(chunks) = &mut self.chunks else { return input };
        let used = chunks.feed(input, &mut |piece| keep(&mut self.lines, piece));
        input.split_at(used).1
    }

    /// Octets that were counted have come, perhaps none.
    fn end_of_counted(&mut self) {
        match (&self.reading, &self.chunks) {
            (InputState::Chunk { octets, last }, Some(chunks)) if chunks.left() == 0 => {
                let (octets, last) = (*octets, *last);
                self.end_of_chunk(octets, last);
            }
            (InputState::Skip(0, replies), _) => {
                let replies = replies.clone();
                self.reading = InputState::Commands;
                self.asked = self.asked + replies.len() - 1;
                replies.into_iter().for_each(|reply| self.take(Step::Reply(reply)));
            }
            _ => {}
        }
    }

    fn end_of_chunk(&mut self, octets: u64, last: bool) {
        let Some(chunks) = self.chunks.take() else { return };
        self.reading = InputState::Commands;
        if last {
            let end = chunks.finish(&mut |piece| keep(&mut self.lines, piece));
            return self.end_of_data(end);
        }
        let result = match chunks.end_so_far() {
            DataEnd::Whole => Ok(octets),
            _ => Err(reply::data_bare_line_end()),
        };
        self.chunks = Some(chunks);
        let step = self.receiver.end_of_chunk(result);
        self.take(step);
    }

    fn end_of_data(&mut self, end: DataEnd) {
        // The dot is an answer of its own; a last chunk is answered as the command that it was.
        self.asked += usize::from(matches!(self.reading, InputState::Data(_)));
        self.reading = InputState::Commands;
        let lines = mem::take(&mut self.lines);
        let mut replies = self.accept(end, lines);
        self.asked += replies.len() - 1;
        let last = replies.pop().unwrap_or_else(reply::data_error);
        replies.into_iter().for_each(|reply| self.take(Step::Reply(reply)));
        let step = self.receiver.end_of_data(last);
        assert!(self.receiver.envelope().is_none(), "the transaction is over");
        self.take(step);
    }

    fn accept(&mut self, end: DataEnd, lines: Vec<Vec<u8>>) -> Vec<Reply> {
        let envelope = match (end, self.receiver.envelope()) {
            (DataEnd::BareLineEnd, _) => return self.receiver.for_all(reply::data_bare_line_end()),
            (DataEnd::TooLarge, _) => return self.receiver.for_all(reply::data_too_large()),
            (DataEnd::Whole, None) => return vec![reply::data_error()],
            (DataEnd::Whole, Some(envelope)) => envelope,
        };
        let to: Vec<String> = envelope.to.iter().map(|to| to.path.to_string()).collect();
        let each = vec![reply::delivered("copy"); to.len()];
        self.messages.push(AcceptedMessage { from: envelope.from.to_string(), to, lines });
        let all = reply::delivered(&self.messages.len().to_string());
        match self.receiver.answers() {
            ReplyMode::Together => vec![all],
            ReplyMode::Each => each,
            ReplyMode::EachAndTogether => [vec![reply::each_recipient()], each, vec![all]].concat(),
        }
    }

    fn take(&mut self, step: Step) {
        if !self.receiver.awaits_chunks() {
            self.chunks = None;
            self.lines.clear();
        }
        let reply = match step {
            Step::Reply(reply) => reply,
            Step::Data(reply) => {
                assert!(self.recipients() > 0, "354 is for somebody");
                self.reading = InputState::Data(Decoder::new(self.size_max));
                reply
            }
            Step::Chunk { octets, last } => {
                assert!(self.recipients() > 0, "a chunk is for somebody");
                self.chunks.get_or_insert_default().begin(octets);
                self.reading = InputState::Chunk { octets, last };
                return self.end_of_counted();
            }
            Step::Skip(octets, reply) => {
                self.reading = InputState::Skip(octets, reply);
                return self.end_of_counted();
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
        let awaits_data = matches!(self.reading, InputState::Data(_));
        assert_eq!(reply.code == 354, awaits_data, "354 and nothing else asks for data");
        self.replies += 1;
        check_reply(&reply);
        reply.write_to(&mut self.out);
    }

    fn recipients(&self) -> usize {
        self.receiver.envelope().map_or(0, |envelope| envelope.to.len())
    }

    /// Whether every line was answered: not while a chunk is awaited.
    pub fn is_settled(&self) -> bool {
        !matches!(self.reading, InputState::Chunk { .. } | InputState::Skip(..))
    }
}

/// Adds a piece to the lines of a message.
fn keep(lines: &mut Vec<Vec<u8>>, piece: Piece<'_>) {
    assert!(!piece.bytes.contains(&b'\r') && !piece.bytes.contains(&b'\n'));
    if piece.first {
        lines.push(Vec::new());
    }
    lines.last_mut().into_iter().for_each(|line| line.extend_from_slice(piece.bytes));
}

/// A command line: it is a command or it has its reply, and paths are written as they are read.
pub fn command(line: &[u8]) {
    match Command::parse(line) {
        Ok(Command::Mail(_, path, _)) => reread_reverse(&path),
        Ok(Command::Rcpt(path, _)) => reread_forward(&path),
        Ok(Command::Helo(client) | Command::Ehlo(client)) => {
            assert_eq!(super::Domain::parse(&client.to_string()), Ok(client));
        }
        Ok(Command::Vrfy(VerbLookup { name, .. }) | Command::Expn(VerbLookup { name, .. }))
        | Ok(Command::Help(Some(name))) => {
            assert!(!name.is_empty() && !name.contains(char::is_control));
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
    if *end == Some(DataEnd::Whole) {
        let octets: usize = lines.iter().map(|line| line.len() + 2).sum();
        assert!(octets as u64 <= size_max);
        assert!(octets + 3 <= *used);
    }
}

/// A whole connection: each line is answered once, and the same at every cut; by SMTP and by LMTP,
/// where the end of a message has as many replies as recipients.
pub fn receiver(input: &[u8]) {
    hold(input, false);
    hold(input, true);
}

fn hold(input: &[u8], lmtp: bool) {
    let settings = ReceiverConfig {
        lmtp,
        prdr: true,
        size_max: 1000,
        recipients_max: 3,
        vrfy: true,
        dsn: true,
        tls: StartTlsMode::Offered,
        terminals: true,
        ..ReceiverConfig::new("mx.example")
    };
    let mut whole = Conversation::new(settings.clone(), AcceptAllHost);
    whole.feed(input);
    let mut cut = Conversation::new(settings, AcceptAllHost);
    input.iter().for_each(|octet| cut.feed(&[*octet]));
    assert_eq!(whole.out, cut.out);
    assert_eq!(whole.messages, cut.messages);
    assert_eq!(whole.closed, cut.closed);
    let awaited = usize::from(!whole.is_settled());
    assert_eq!(whole.replies + awaited, whole.asked, "one reply to each command");
}

/// A host that takes mail for all but those whose name begins with x.
struct AcceptAllHost;

impl Host for AcceptAllHost {
    type Destination = ();

    fn mail(&self, _from: &ReversePath, size: Option<u64>) -> Result<(), Reply> {
        if size.is_some_and(|size| size > 900) { Err(reply::no_room()) } else { Ok(()) }
    }
    fn recipient(&self, to: &ForwardPath, _delivery: Delivery) -> Result<(), Reply> {
        match to {
            ForwardPath::Mailbox(mailbox) if mailbox.local().starts_with('x') => {
                Err(reply::no_such_user(to))
            }
            _ => Ok(()),
        }
    }
    fn vrfy(&self, name: &str) -> Reply {
        reply::members(vec![name.to_owned()])
    }
    fn expn(&self, _list: &str) -> Reply {
        reply::nobody("EXPN")
    }
    fn help(&self) -> Option<Reply> {
        None
    }
}

/// What a decoder gave: its pieces joined to lines, the octets it used, and its end.
type Decoded = (Vec<Vec<u8>>, usize, Option<DataEnd>);

fn decode(input: &[u8], size_max: u64, cut: usize) -> Decoded {
    let mut decoder = Decoder::new(size_max);
    let (mut lines, mut used, mut end) = (Vec::<Vec<u8>>::new(), 0, None);
    for slice in input.chunks(cut.max(1)) {
        let (n, ended) = decoder.feed(slice, &mut |piece| keep(&mut lines, piece));
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
    assert!(!written.contains(char::is_control));
    assert_eq!(written.is_ascii(), mailbox.is_ascii());
    let in_ascii = mailbox.domain().to_ascii();
    assert!(in_ascii.is_ascii() && in_ascii.len() <= 255);
    assert_eq!(super::Domain::parse(&in_ascii).as_ref(), Ok(mailbox.domain()));
    assert_eq!(Mailbox::parse(&written).as_ref(), Ok(mailbox));
}

fn check_reply(reply: &Reply) {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let Ok(text) = str::from_utf8(&wire) else { unreachable!("a reply is ASCII or UTF-8") };
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines.last(), Some(&""), "a reply ends with CR LF");
    assert_eq!(lines.len(), reply.lines.len() + 1);
    for line in lines.iter().take(reply.lines.len()) {
        assert!(line.len() <= reply::LINE_MAX - 2 && !line.contains(char::is_control));
        assert!(line.starts_with(&reply.code.to_string()));
    }
}
