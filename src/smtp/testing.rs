//! Entry points for fuzzers: each takes any bytes and asserts invariants. `tests/fuzz` calls them
//! with libFuzzer, `tests/library/smtp_fuzz.rs` with seeded random input.
//!
//! A [`Conversation`] connects receiver and decoders to a stream of bytes as a session does, but
//! without I/O. The tests of dialogues use it too.

use std::mem;

use super::chunk::Chunks;
use super::command::{COMMAND_LINE_MAX, Command, NameArgument};
use super::config::{ReceiverConfig, StartTlsMode};
use super::data::{DataEnd, Decoder, LinePiece};
use super::envelope::Delivery;
use super::path::{ForwardPath, Mailbox, ReversePath};
use super::receiver::{Host, Receiver, ReplyMode, Step};
use super::reply::{self, Reply};
pub use super::sender::testing::sender;

/// A connection without I/O: input of the client is fed, replies are collected in `out`.
pub struct Conversation<H: Host> {
    receiver: Receiver<H>,
    size_max: u64,
    line: Vec<u8>,
    /// Whether the line is longer than the limit, so that the rest of it was dropped.
    line_overflowed: bool,
    last_byte: u8,
    input_state: InputState,
    /// The lines of the current message.
    lines: Vec<Vec<u8>>,
    /// The state of BDAT, after its first chunk.
    chunks: Option<Chunks>,
    /// The greeting and all replies as they are sent.
    pub out: Vec<u8>,
    /// The number of replies in `out`.
    pub replies: usize,
    /// The number of replies that the client must get: one for the connection, and one for each
    /// line and each end of mail data.
    pub replies_due: usize,
    /// The accepted messages.
    pub messages: Vec<AcceptedMessage>,
    /// Whether the receiver has closed the connection. Then input is ignored.
    pub closed: bool,
}

/// The meaning of the next input.
enum InputState {
    Commands,
    Data(Decoder),
    Chunk { octets: u64, last: bool },
    Skip(u64, Vec<Reply>),
}

/// An accepted message.
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
    /// Returns a connection after the greeting.
    pub fn new(config: ReceiverConfig, host: H) -> Conversation<H> {
        let size_max = config.size_max;
        let mut conversation = Conversation {
            receiver: Receiver::new(config, host),
            size_max,
            line: Vec::new(),
            line_overflowed: false,
            last_byte: 0,
            input_state: InputState::Commands,
            lines: Vec::new(),
            chunks: None,
            out: Vec::new(),
            replies: 0,
            replies_due: 1,
            messages: Vec::new(),
            closed: false,
        };
        let greeting = conversation.receiver.greeting();
        conversation.handle_step(Step::Reply(greeting));
        conversation
    }

    /// Handles input of the client, divided anywhere.
    pub fn feed(&mut self, mut input: &[u8]) {
        while !self.closed && !input.is_empty() {
            input = match &mut self.input_state {
                InputState::Commands => self.read_command(input),
                InputState::Data(_) => self.read_data(input),
                InputState::Chunk { .. } => self.read_chunk(input),
                InputState::Skip(left, _) => {
                    let used = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= used as u64;
                    input.split_at(used).1
                }
            };
            self.end_if_counted();
        }
    }

    /// Reads up to the CR LF of a command line.
    fn read_command<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let mut rest = input;
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            let ends = byte == b'\n' && self.last_byte == b'\r';
            self.last_byte = byte;
            if self.line.len() < COMMAND_LINE_MAX {
                self.line.push(byte);
            } else {
                self.line_overflowed = true;
            }
            if ends {
                let line = mem::take(&mut self.line);
                let too_long = mem::take(&mut self.line_overflowed);
                self.replies_due += 1;
                let step = if too_long {
                    self.receiver.handle_long_line()
                } else {
                    self.receiver.handle_line(&line)
                };
                self.handle_step(step);
                return rest;
            }
        }
        rest
    }

    /// Reads up to the end of the mail data.
    fn read_data<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let InputState::Data(decoder) = &mut self.input_state else { return input };
        let (used, end) = decoder.feed(input, &mut |piece| append_piece(&mut self.lines, piece));
        if let Some(end) = end {
            self.end_of_data(end);
        }
        input.split_at(used).1
    }

    /// Reads up to the end of the chunk.
    fn read_chunk<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let Some(chunks) = &mut self.chunks else { return input };
        let used = chunks.feed(input, &mut |piece| append_piece(&mut self.lines, piece));
        input.split_at(used).1
    }

    /// Ends a chunk or a skipped chunk if all its bytes were received. It may have none.
    fn end_if_counted(&mut self) {
        match (&self.input_state, &self.chunks) {
            (InputState::Chunk { octets, last }, Some(chunks)) if chunks.remaining() == 0 => {
                let (octets, last) = (*octets, *last);
                self.end_of_chunk(octets, last);
            }
            (InputState::Skip(0, replies), _) => {
                let replies = replies.clone();
                self.input_state = InputState::Commands;
                self.replies_due = self.replies_due + replies.len() - 1;
                replies.into_iter().for_each(|reply| self.handle_step(Step::Reply(reply)));
            }
            _ => {}
        }
    }

    fn end_of_chunk(&mut self, octets: u64, last: bool) {
        let Some(chunks) = self.chunks.take() else { return };
        self.input_state = InputState::Commands;
        if last {
            let end = chunks.finish(&mut |piece| append_piece(&mut self.lines, piece));
            return self.end_of_data(end);
        }
        let result = match chunks.end_so_far() {
            DataEnd::Whole => Ok(octets),
            _ => Err(reply::data_bare_line_end()),
        };
        self.chunks = Some(chunks);
        let step = self.receiver.finish_chunk(result);
        self.handle_step(step);
    }

    fn end_of_data(&mut self, end: DataEnd) {
        // The final dot of DATA gets a reply. The last chunk is answered by the reply to its BDAT.
        self.replies_due += usize::from(matches!(self.input_state, InputState::Data(_)));
        self.input_state = InputState::Commands;
        let lines = mem::take(&mut self.lines);
        let mut replies = self.accept_message(end, lines);
        self.replies_due += replies.len() - 1;
        let last = replies.pop().unwrap_or_else(reply::data_error);
        replies.into_iter().for_each(|reply| self.handle_step(Step::Reply(reply)));
        let step = self.receiver.finish_data(last);
        assert!(self.receiver.envelope().is_none(), "the transaction is over");
        self.handle_step(step);
    }

    fn accept_message(&mut self, end: DataEnd, lines: Vec<Vec<u8>>) -> Vec<Reply> {
        let envelope = match (end, self.receiver.envelope()) {
            (DataEnd::BareLineEnd, _) => {
                return self.receiver.repeat_per_recipient(reply::data_bare_line_end());
            }
            (DataEnd::TooLarge, _) => {
                return self.receiver.repeat_per_recipient(reply::data_too_large());
            }
            (DataEnd::Whole, None) => return vec![reply::data_error()],
            (DataEnd::Whole, Some(envelope)) => envelope,
        };
        let to: Vec<String> = envelope.to.iter().map(|to| to.path.to_string()).collect();
        let each = vec![reply::delivered("copy"); to.len()];
        self.messages.push(AcceptedMessage { from: envelope.from.to_string(), to, lines });
        let all = reply::delivered(&self.messages.len().to_string());
        match self.receiver.reply_mode() {
            ReplyMode::Single => vec![all],
            ReplyMode::PerRecipient => each,
            ReplyMode::Prdr => [vec![reply::each_recipient()], each, vec![all]].concat(),
        }
    }

    fn handle_step(&mut self, step: Step) {
        if !self.receiver.is_chunking() {
            self.chunks = None;
            self.lines.clear();
        }
        let reply = match step {
            Step::Reply(reply) => reply,
            Step::Data(reply) => {
                assert!(self.recipients() > 0, "354 without a recipient");
                self.input_state = InputState::Data(Decoder::new(self.size_max));
                reply
            }
            Step::Chunk { octets, last } => {
                assert!(self.recipients() > 0, "a chunk without a recipient");
                self.chunks.get_or_insert_default().begin_chunk(octets);
                self.input_state = InputState::Chunk { octets, last };
                return self.end_if_counted();
            }
            Step::Skip(octets, reply) => {
                self.input_state = InputState::Skip(octets, reply);
                return self.end_if_counted();
            }
            // The handshake consumes no input here. The bytes that follow are inside TLS.
            Step::StartTls(reply) => {
                self.receiver.begin_tls();
                assert!(self.receiver.client().is_none() && self.receiver.envelope().is_none());
                reply
            }
            Step::Close(reply) => {
                assert!(matches!(reply.code, 221 | 421), "closes with 221 or 421 only");
                self.closed = true;
                reply
            }
        };
        let awaits_data = matches!(self.input_state, InputState::Data(_));
        assert_eq!(reply.code == 354, awaits_data, "354 and nothing else asks for data");
        self.replies += 1;
        check_reply(&reply);
        reply.write_to(&mut self.out);
    }

    fn recipients(&self) -> usize {
        self.receiver.envelope().map_or(0, |envelope| envelope.to.len())
    }

    /// True if all input was answered. False while a chunk is incomplete.
    fn has_answered_all(&self) -> bool {
        !matches!(self.input_state, InputState::Chunk { .. } | InputState::Skip(..))
    }
}

/// Appends a piece to the lines of a message.
fn append_piece(lines: &mut Vec<Vec<u8>>, piece: LinePiece<'_>) {
    assert!(!piece.bytes.contains(&b'\r') && !piece.bytes.contains(&b'\n'));
    if piece.first {
        lines.push(Vec::new());
    }
    lines.last_mut().into_iter().for_each(|line| line.extend_from_slice(piece.bytes));
}

/// Checks one command line: it is a valid command, or it has a reply; and a written path parses to
/// the same.
pub fn command(line: &[u8]) {
    match Command::parse(line) {
        Ok(Command::Mail(_, path, _)) => check_reverse_path(&path),
        Ok(Command::Rcpt(path, _)) => check_forward_path(&path),
        Ok(Command::Helo(client) | Command::Ehlo(client)) => {
            let name = client.as_str();
            assert!((1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic()));
        }
        Ok(Command::Vrfy(NameArgument { name, .. }) | Command::Expn(NameArgument { name, .. }))
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

/// Checks a path, or a mailbox.
pub fn path(text: &[u8]) {
    if let Ok((path, rest)) = ReversePath::read(text) {
        assert!(text.ends_with(rest));
        check_reverse_path(&path);
    }
    if let Ok((path, rest)) = ForwardPath::read(text) {
        assert!(text.ends_with(rest));
        check_forward_path(&path);
    }
    if let Ok(text) = str::from_utf8(text)
        && let Ok(mailbox) = Mailbox::parse(text)
    {
        check_mailbox(&mailbox);
    }
}

/// Checks mail data. The first byte is the limit, the second the length of the parts that the rest
/// is divided into, which must not change the result.
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

/// Checks a whole connection, by SMTP and by LMTP: each line gets one reply, the end of a message
/// as many as it needs, and the division of the input does not change the replies.
pub fn receiver(input: &[u8]) {
    check_conversation(input, false);
    check_conversation(input, true);
}

fn check_conversation(input: &[u8], lmtp: bool) {
    let config = ReceiverConfig {
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
    let mut whole = Conversation::new(config.clone(), AcceptAllHost);
    whole.feed(input);
    let mut cut = Conversation::new(config, AcceptAllHost);
    input.iter().for_each(|byte| cut.feed(&[*byte]));
    assert_eq!(whole.out, cut.out);
    assert_eq!(whole.messages, cut.messages);
    assert_eq!(whole.closed, cut.closed);
    let incomplete = usize::from(!whole.has_answered_all());
    assert_eq!(whole.replies + incomplete, whole.replies_due, "one reply to each command");
}

/// A host that accepts all recipients except those with names that begin with x.
struct AcceptAllHost;

impl Host for AcceptAllHost {
    type Destination = ();

    fn check_mail(&self, _from: &ReversePath, size: Option<u64>) -> Result<(), Reply> {
        if size.is_some_and(|size| size > 900) { Err(reply::no_room()) } else { Ok(()) }
    }
    fn resolve_recipient(&self, to: &ForwardPath, _delivery: Delivery) -> Result<(), Reply> {
        match to {
            ForwardPath::Mailbox(mailbox) if mailbox.local().starts_with('x') => {
                Err(reply::no_such_user(to))
            }
            _ => Ok(()),
        }
    }
    fn vrfy(&self, name: &str) -> Reply {
        reply::mailboxes(vec![name.to_owned()])
    }
    fn expn(&self, _list: &str) -> Reply {
        reply::no_such_name("EXPN")
    }
    fn help(&self) -> Option<Reply> {
        None
    }
}

/// The output of a decoder: lines, the number of bytes consumed, and the result.
type Decoded = (Vec<Vec<u8>>, usize, Option<DataEnd>);

fn decode(input: &[u8], size_max: u64, cut: usize) -> Decoded {
    let mut decoder = Decoder::new(size_max);
    let (mut lines, mut used, mut end) = (Vec::<Vec<u8>>::new(), 0, None);
    for slice in input.chunks(cut.max(1)) {
        let (n, ended) = decoder.feed(slice, &mut |piece| append_piece(&mut lines, piece));
        assert!(ended.is_some() || n == slice.len());
        used += n;
        end = ended;
        if end.is_some() {
            break;
        }
    }
    (lines, used, end)
}

fn check_reverse_path(path: &ReversePath) {
    if let ReversePath::Mailbox(mailbox) = path {
        check_mailbox(mailbox);
    }
    let written = path.to_string();
    assert_eq!(ReversePath::read(written.as_bytes()), Ok((path.clone(), &[][..])));
}

fn check_forward_path(path: &ForwardPath) {
    if let ForwardPath::Mailbox(mailbox) = path {
        check_mailbox(mailbox);
    }
    let written = path.to_string();
    assert_eq!(ForwardPath::read(written.as_bytes()), Ok((path.clone(), &[][..])));
}

fn check_mailbox(mailbox: &Mailbox) {
    assert!((1..=255).contains(&mailbox.local().len()));
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
        assert!(line.len() <= reply::REPLY_LINE_MAX - 2 && !line.contains(char::is_control));
        assert!(line.starts_with(&reply.code.to_string()));
    }
}
