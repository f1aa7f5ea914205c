//! The dialogues of `tests/dialogues`: with the receiver without a network, turn by turn and split
//! at every byte; and with the real program over TCP, a pipe, and a socket that inetd passes. The
//! format is described in `tests/harness/dialogue.rs`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use mailslot::smtp::testing::Conversation;

use crate::harness::dialogue::{self, Dialogue, Pattern, Received, Turn};
use crate::harness::directory::TestDirectory;
use crate::harness::fixtures::{self, BetaHost};
use crate::harness::server::{Server, mailslot};
use crate::harness::{TIMEOUT, mbox};

#[test]
fn receiver_holds_every_dialogue() {
    for dialogue in dialogue::all() {
        let turn_by_turn = run(&dialogue);
        let sent = dialogue.turns.iter().filter_map(|turn| match turn {
            Turn::Send(bytes) => Some(bytes.as_slice()),
            _ => None,
        });
        let sent: Vec<u8> = sent.flatten().copied().collect();
        for cut in 0..=sent.len() {
            let (head, tail) = sent.split_at(cut);
            let mut machine = Conversation::new(fixtures::config(&dialogue.options), BetaHost);
            machine.feed(head);
            machine.feed(tail);
            assert_eq!(
                String::from_utf8_lossy(&machine.out),
                String::from_utf8_lossy(&turn_by_turn.out),
                "{} cut at {cut}",
                dialogue.name
            );
            assert_eq!(machine.messages, turn_by_turn.messages, "{} cut at {cut}", dialogue.name);
            assert_eq!(machine.replies, machine.replies_due, "{} cut at {cut}", dialogue.name);
        }
    }
}

/// Each reply code of the receiver comes up in some dialogue.
#[test]
fn every_reply_code_is_in_a_dialogue() {
    let mut seen = BTreeSet::new();
    for dialogue in dialogue::all() {
        let out = String::from_utf8(run(&dialogue).out).unwrap();
        seen.extend(out.lines().map(|line| line[..3].parse::<u16>().unwrap()));
    }
    let codes = [
        211, 214, 220, 221, 250, 252, 353, 354, 421, 450, 451, 452, 500, 501, 502, 503, 504, 530,
        550, 551, 552, 553, 554, 555,
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), codes);
}

/// Holds a dialogue turn by turn. Each reply is compared before anything more is sent.
fn run(dialogue: &Dialogue) -> Conversation<BetaHost> {
    let mut machine = Conversation::new(fixtures::config(&dialogue.options), BetaHost);
    let mut received = Received::default();
    let mut read = 0;
    let mut mail_line = 0;
    receive(&machine, &mut read, &mut received);
    for turn in &dialogue.turns {
        match turn {
            Turn::Send(bytes) => {
                assert!(received.lines.is_empty(), "{}: unexpected {received:?}", dialogue.name);
                machine.feed(bytes);
                receive(&machine, &mut read, &mut received);
                mail_line = 0;
            }
            Turn::Expect(pattern, place) => {
                received.take(pattern).unwrap_or_else(|came| panic!("{place}\nbut came: {came}"));
            }
            Turn::Mail(text) => {
                let lines = machine.messages.last().map(|message| &message.lines);
                let line = lines.and_then(|lines| lines.get(mail_line)).map(Vec::as_slice);
                assert_eq!(line, Some(text.as_bytes()), "{}: M: {text}", dialogue.name);
                mail_line += 1;
            }
        }
    }
    assert!(received.lines.is_empty(), "{}: unexpected {received:?}", dialogue.name);
    machine
}

/// Adds the reply lines that are new.
fn receive(machine: &Conversation<BetaHost>, read: &mut usize, received: &mut Received) {
    let text = String::from_utf8(machine.out[*read..].to_vec()).unwrap();
    received.lines.extend(text.split_terminator("\r\n").map(str::to_owned));
    received.closed = machine.closed;
    *read = machine.out.len();
}

/// The same dialogues with the real program. The replies are the same, and messages are in
/// mailboxes.
#[test]
fn program_holds_dialogues_over_tcp() {
    for dialogue in by_smtp().chain(by_lmtp()) {
        let directory = TestDirectory::new();
        let options = fixtures::set_up(directory.path(), &dialogue.options);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = Server::start_in(directory, &options);
        let address = server.lmtp().unwrap_or(server.address);
        for pace in [Pace::Turn, Pace::Byte] {
            let stream = TcpStream::connect_timeout(&address, TIMEOUT).unwrap();
            stream.set_nodelay(true).unwrap();
            let input = stream.try_clone().unwrap();
            hold(&dialogue, stream, input, pace, server.path());
        }
    }
}

#[test]
fn program_holds_dialogues_on_a_pipe() {
    for dialogue in by_smtp() {
        let directory = TestDirectory::new();
        let mut child = inetd(&dialogue, &directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (output, input) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let end = hold(&dialogue, output, input, Pace::Turn, directory.path());
        assert_eq!(child.wait().unwrap().code(), Some(end), "{}", dialogue.name);
    }
}

#[test]
fn program_holds_dialogues_on_a_passed_socket() {
    for dialogue in by_smtp() {
        let directory = TestDirectory::new();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let copy = || Stdio::from(OwnedFd::from(theirs.try_clone().unwrap()));
        let mut child = inetd(&dialogue, &directory)
            .stdin(copy())
            .stdout(copy())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        drop(theirs);
        let input = ours.try_clone().unwrap();
        let end = hold(&dialogue, ours, input, Pace::Turn, directory.path());
        assert_eq!(child.wait().unwrap().code(), Some(end), "{}", dialogue.name);
    }
}

/// Returns the dialogues that a client without TLS can hold by SMTP.
fn by_smtp() -> impl Iterator<Item = Dialogue> {
    let plain = |dialogue: &Dialogue| !has(dialogue, "tls") && !has(dialogue, "lmtp");
    dialogue::all().into_iter().filter(plain)
}

/// Returns the dialogues by LMTP.
fn by_lmtp() -> impl Iterator<Item = Dialogue> {
    dialogue::all().into_iter().filter(|dialogue| has(dialogue, "lmtp"))
}

fn has(dialogue: &Dialogue, option: &str) -> bool {
    dialogue.options.iter().any(|(given, _)| given == option)
}

/// Returns the program, to serve one session of a dialogue.
fn inetd(dialogue: &Dialogue, directory: &TestDirectory) -> Command {
    // Otherwise its log goes to the syslog of the host that runs this test.
    let options = ["--inetd", "--log", "stderr", "--sandbox", directory.as_str()];
    let mut command = mailslot(&options);
    command.args(fixtures::set_up(directory.path(), &dialogue.options));
    command
}

/// Speed of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// All bytes of a turn at once.
    Turn,
    /// Byte by byte.
    Byte,
}

/// Holds a dialogue with a program that keeps its mailboxes in `directory`. Returns the exit status
/// that it must have if this was its only session.
fn hold(
    dialogue: &Dialogue,
    mut output: impl Write,
    input: impl Read + Send + 'static,
    pace: Pace,
    directory: &Path,
) -> i32 {
    let name = &dialogue.name;
    let mut replies = ReplyLines { lines: lines(input), last: String::new() };
    let mut message: Vec<String> = Vec::new();
    let mut delivered = None;
    let mut closed = false;
    for turn in &dialogue.turns {
        if !matches!(turn, Turn::Mail(_)) {
            check_mail(&mut message, &delivered, directory, name);
        }
        match turn {
            Turn::Send(bytes) if pace == Pace::Byte => {
                // The program may close in between, and the rest of what is sent is lost then.
                let _ = bytes.chunks(1).try_for_each(|byte| output.write_all(byte));
            }
            Turn::Send(bytes) => output.write_all(bytes).unwrap(),
            Turn::Expect(pattern, place) => {
                let mut received = Received::default();
                loop {
                    match replies.line() {
                        Some(line) => received.lines.push_back(line),
                        None => received.closed = true,
                    }
                    // Only a code can match more than one line.
                    let more = matches!(pattern, Pattern::Code(_))
                        && received
                            .lines
                            .back()
                            .is_some_and(|l| l.as_bytes().get(3) == Some(&b'-'));
                    if !more {
                        break;
                    }
                }
                closed = received.closed;
                received.take(pattern).unwrap_or_else(|came| {
                    panic!("{place}\nbut at pace {pace:?} came: {came}");
                });
                if let Some((_, id)) = replies.last.split_once("delivered as ") {
                    delivered = Some(id.to_owned());
                }
            }
            Turn::Mail(text) => message.push(text.clone()),
        }
    }
    check_mail(&mut message, &delivered, directory, name);
    if !closed {
        // No other reply must have come. The dialogue may have ended with QUIT.
        let _ = output.write_all(b"QUIT\r\n");
        let line = replies.line();
        let quit = line.as_ref().is_none_or(|line| line.starts_with("221 "));
        assert!(quit, "{name}: at the end came {line:?}");
        assert!(line.is_none() || replies.line().is_none(), "{name}: more after QUIT");
    }
    if replies.last.starts_with("221") { 0 } else { EX_PROTOCOL }
}

/// Lines that the client receives.
struct ReplyLines {
    lines: Receiver<Option<String>>,
    /// The last line.
    last: String,
}

impl ReplyLines {
    /// Returns the next reply line, or None at the end.
    fn line(&mut self) -> Option<String> {
        let line = self.lines.recv_timeout(TIMEOUT).expect("a line or an end in time");
        if let Some(line) = &line {
            self.last.clone_from(line);
        }
        line
    }
}

/// Compares the last message that was delivered with these lines, if there are any.
fn check_mail(lines: &mut Vec<String>, id: &Option<String>, directory: &Path, name: &str) {
    if lines.is_empty() {
        return;
    }
    let id = id.as_ref().unwrap_or_else(|| panic!("{name}: M: without a message"));
    let boxes = fixtures::MAILBOXES.iter().map(|name| directory.join("mail").join(name));
    let mut mails = boxes.flat_map(|mailbox| mbox::read(&mailbox));
    let found = mails.find(|mail| String::from_utf8_lossy(&mail.text).contains(&**id));
    let found = mbox::without_trace(&found.unwrap_or_else(|| panic!("{name}: no message {id}")));
    let expected = mbox::kept(format!("{}\n", lines.join("\n")).as_bytes());
    assert!(found.starts_with(&expected), "{name}: {:?}", String::from_utf8_lossy(&found));
    lines.clear();
}

/// Returns the reply lines of a stream as they come, without CR LF, and None at its end.
fn lines(stream: impl Read + Send + 'static) -> Receiver<Option<String>> {
    let (line, lines) = channel();
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        loop {
            let mut text = Vec::new();
            // A broken connection is an end, too.
            let _ = stream.read_until(b'\n', &mut text);
            let text = String::from_utf8_lossy(&text).into_owned();
            let whole = text.strip_suffix("\r\n").map(str::to_owned);
            assert!(whole.is_some() || text.is_empty(), "a line cut short: {text:?}");
            if line.send(whole.clone()).is_err() || whole.is_none() {
                return;
            }
        }
    });
    lines
}

/// Exit status after a 421 that the client caused.
const EX_PROTOCOL: i32 = 76;
