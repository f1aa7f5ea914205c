//! What the tests of the sending side have in common: a server that does to each command whatever a
//! test says, over real sockets, and messages to send to it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mailslot::relay::client::{ClientConfig, OutgoingMessage, ServerAddress, Timeouts};
use mailslot::smtp::sender::RecipientOutcome;
use mailslot::smtp::{BodyType, Delivery, Envelope, ForwardPath, Mailbox, Recipient, ReversePath};
use nix::sys::socket::{setsockopt, sockopt};

/// Longer than anything here takes.
pub const LONG: Duration = Duration::from_secs(30);

/// What a server does to a command. `greeting` is a command too, and `.` the end of mail data.
#[derive(Clone, Debug)]
pub enum Act {
    /// Replies; the CR LF is put behind.
    Say(String),
    /// Replies, and then goes.
    Leave(String),
    /// Says these octets, and nothing more.
    Octets(Vec<u8>),
    /// Says them again and again, as long as it can.
    Endless(Vec<u8>),
    /// Says an octet of a reply now and then, and never all of it.
    Drip,
    /// Goes without a word.
    Close,
    /// The same, rudely.
    Reset,
    /// Does nothing any more, but read.
    Stall,
    /// Says these octets, and does not even read any more.
    Deaf(Vec<u8>),
}

/// Replies.
pub fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

/// What an ordinary server without extensions does.
pub fn usual(command: &str) -> Act {
    say(match command.split(' ').next().unwrap() {
        "greeting" => "220 mx.example ESMTP",
        "EHLO" => "250 mx.example",
        "DATA" => "354 go",
        "QUIT" => "221 bye",
        "." | "BDAT" => "250 2.0.0 taken",
        _ => "250 ok",
    })
}

/// A server that runs until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// `act` decides, by the number of the connection, from 0, and the command.
    pub fn start(act: impl Fn(usize, &str) -> Act + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&said);
        let act = Arc::new(act);
        // Sockets that nobody reads from, kept open.
        let held: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let acceptor = std::thread::spawn(move || {
            let mut sessions = Vec::new();
            for (number, socket) in listener.incoming().enumerate() {
                let socket = socket.unwrap();
                let (act, log, held) = (Arc::clone(&act), Arc::clone(&log), Arc::clone(&held));
                if log.lock().unwrap().last().is_some_and(|last| last == STOP) {
                    break;
                }
                sessions.push(std::thread::spawn(move || {
                    // A client that goes is no fault of the test's.
                    let _ = serve(socket, &log, &held, |command| act(number, command));
                }));
            }
            sessions.into_iter().for_each(|session| session.join().unwrap());
        });
        Server { address, said, acceptor: Some(acceptor) }
    }

    /// To connect to it.
    pub fn target(&self) -> ServerAddress {
        self.address.to_string().parse().unwrap()
    }

    /// All commands so far, of all connections.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.said.lock().unwrap().push(STOP.to_owned());
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let ended = acceptor.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

const STOP: &str = "(stop)";

fn serve(
    socket: TcpStream,
    log: &Mutex<Vec<String>>,
    held: &Mutex<Vec<TcpStream>>,
    act: impl Fn(&str) -> Act,
) -> io::Result<()> {
    socket.set_read_timeout(Some(LONG))?;
    socket.set_write_timeout(Some(LONG))?;
    socket.set_nodelay(true)?;
    let mut lines = BufReader::new(socket.try_clone()?);
    let mut command = "greeting".to_owned();
    loop {
        let started = match act(&command) {
            Act::Say(reply) => {
                (&socket).write_all(format!("{reply}\r\n").as_bytes())?;
                command == "DATA" && reply.starts_with('3')
            }
            act => return misbehave(&socket, act, held),
        };
        let mut line = Vec::new();
        if started {
            // Mail data, to its end.
            while !line.ends_with(b"\r\n.\r\n") && line != b".\r\n" {
                if lines.read_until(b'\n', &mut line)? == 0 {
                    return Ok(());
                }
            }
            command = ".".to_owned();
        } else {
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            command = String::from_utf8(line).unwrap().trim_end().to_owned();
            if let Some(size) = command.strip_prefix("BDAT ") {
                let size = size.split(' ').next().unwrap().parse().unwrap();
                lines.by_ref().take(size).read_to_end(&mut Vec::new())?;
            }
        }
        log.lock().unwrap().push(command.clone());
    }
}

fn misbehave(mut socket: &TcpStream, act: Act, held: &Mutex<Vec<TcpStream>>) -> io::Result<()> {
    match act {
        Act::Leave(reply) => socket.write_all(format!("{reply}\r\n").as_bytes()),
        Act::Octets(octets) => {
            socket.write_all(&octets)?;
            misbehave(socket, Act::Stall, held)
        }
        Act::Endless(octets) => loop {
            socket.write_all(&octets)?;
        },
        Act::Drip => loop {
            socket.write_all(b"2")?;
            std::thread::sleep(Duration::from_millis(20));
        },
        Act::Reset => {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            Ok(setsockopt(&socket, sockopt::Linger, &linger)?)
        }
        Act::Stall => socket.read_to_end(&mut Vec::new()).map(drop),
        Act::Deaf(octets) => {
            socket.write_all(&octets)?;
            held.lock().unwrap().push(socket.try_clone()?);
            Ok(())
        }
        Act::Say(_) | Act::Close => Ok(()),
    }
}

/// How the tests connect: in clear text, with time.
pub fn settings() -> ClientConfig {
    let timeouts = Timeouts {
        connect: LONG,
        greeting: LONG,
        command: LONG,
        data: LONG,
        block: LONG,
        dot: LONG,
        quit: LONG,
    };
    ClientConfig { hostname: "here.example".to_owned(), timeouts, ..ClientConfig::default() }
}

/// An envelope from me@here.example.
pub fn envelope(to: &[&str]) -> Envelope<()> {
    let recipient = |to: &&str| Recipient {
        path: ForwardPath::Mailbox(Mailbox::parse(to).unwrap()),
        destination: (),
        notify: None,
        original: None,
    };
    Envelope {
        delivery: Delivery::Mail,
        from: ReversePath::Mailbox(Mailbox::parse("me@here.example").unwrap()),
        size: None,
        body: BodyType::SevenBit,
        utf8: false,
        ret: None,
        envid: None,
        to: to.iter().map(recipient).collect(),
    }
}

/// Has `send` called with a message whose content is `content`.
pub fn with_mail<R>(
    envelope: &Envelope<()>,
    content: &[u8],
    send: impl FnOnce(&OutgoingMessage<'_, ()>) -> R,
) -> R {
    let open = || -> io::Result<Box<dyn Read + '_>> { Ok(Box::new(content)) };
    let lines = content.iter().filter(|octet| **octet == b'\n').count();
    send(&OutgoingMessage { envelope, size: (content.len() + lines) as u64, content: &open })
}

/// `done`, `later` or `never`, and the reason.
pub fn shown(outcomes: &[RecipientOutcome]) -> Vec<String> {
    let word = |outcome: &RecipientOutcome| match outcome {
        RecipientOutcome::Accepted(_) => "done",
        RecipientOutcome::Deferred(_) => "later",
        RecipientOutcome::Failed(_) => "never",
    };
    outcomes.iter().map(|outcome| format!("{} {}", word(outcome), outcome.reason())).collect()
}
