//! A load generator: sends many messages over many sessions, shows the progress, and at the end
//! rates and latencies. The options are those of Postfix's smtp-source(1).
//!
//! ```text
//! mailslot --sandbox ./mail &
//! smtp-source -s 20 -m 2000 -N 20 -d 127.0.0.1:2525
//! ```
//! A reply with another code than expected is shown, ends the session, and makes the exit status 1.
//! Each message is tried once. A message is a short header with its number, and a body that is the
//! same for all messages.

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use mailslot::observe::progress::ProgressLine;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// The options of the command line.
struct Settings {
    address: String,
    sessions: usize,
    messages: u64,
    length: usize,
    recipients: u64,
    mailboxes: u64,
    from: String,
    to: (String, String),
    many: bool,
    pipelining: bool,
}

/// The state that all sessions share.
struct Work {
    settings: Settings,
    body: Vec<u8>,
    started: AtomicU64,
    accepted: AtomicU64,
    failed: AtomicU64,
}

/// The measured latencies.
#[derive(Default)]
struct Times {
    /// The times from the final dot to its 250.
    dot: Vec<Duration>,
    /// The times from the connection to the reply to QUIT.
    session: Vec<Duration>,
}

fn main() -> ExitCode {
    match settings() {
        Ok(Some(settings)) => run(settings),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smtp-source: {error}");
            ExitCode::from(2)
        }
    }
}

fn settings() -> Fallible<Option<Settings>> {
    let mut options = getopts::Options::new();
    options
        .optopt("s", "sessions", "parallel sessions (1)", "N")
        .optopt("m", "messages", "total number of messages (1)", "N")
        .optopt("l", "length", "bytes of each body (4096)", "N")
        .optopt("r", "recipients", "recipients of each message (1)", "N")
        .optopt("f", "from", "sender (source@localhost)", "ADDRESS")
        .optopt("t", "to", "recipient (user@localhost)", "ADDRESS")
        .optopt("N", "mailboxes", "spread over user1@ ... userN@ (as many as -r, if above 1)", "N")
        .optflag("d", "many", "send many messages over each connection")
        .optflag("p", "pipelining", "send MAIL, RCPT and DATA together")
        .optflag("h", "help", "show this help");
    let given = options.parse(std::env::args().skip(1))?;
    if given.opt_present("h") {
        print!("{}", options.usage("smtp-source [OPTIONS] [HOST:PORT]   (127.0.0.1:2525)"));
        return Ok(None);
    }
    let to = given.opt_get_default("t", "user@localhost".to_owned())?;
    let recipients = given.opt_get_default("r", 1)?;
    let default_mailboxes = if recipients > 1 { recipients } else { 0 };
    Ok(Some(Settings {
        address: given.free.first().cloned().unwrap_or_else(|| "127.0.0.1:2525".to_owned()),
        sessions: given.opt_get_default("s", 1)?,
        messages: given.opt_get_default("m", 1)?,
        length: given.opt_get_default("l", 4096)?,
        recipients,
        mailboxes: given.opt_get_default("N", default_mailboxes)?,
        from: given.opt_get_default("f", "source@localhost".to_owned())?,
        to: to.rsplit_once('@').map(|(a, b)| (a.into(), b.into())).ok_or("-t has no @")?,
        many: given.opt_present("d"),
        pipelining: given.opt_present("p"),
    }))
}

/// Runs all sessions, and shows the progress and at the end the result.
fn run(settings: Settings) -> ExitCode {
    let work = Work {
        body: body(settings.length),
        settings,
        started: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    };
    let start = Instant::now();
    let mut times = Times::default();
    thread::scope(|scope| {
        let (sender, ended) = mpsc::channel::<Times>();
        for _ in 0..work.settings.sessions {
            let (work, sender) = (&work, sender.clone());
            scope.spawn(move || sender.send(run_sessions(work)));
        }
        drop(sender);
        let mut progress = ProgressLine::on_terminal_or_in_lines();
        loop {
            match ended.recv_timeout(LOOK_INTERVAL) {
                Ok(more) => {
                    times.dot.extend(more.dot);
                    times.session.extend(more.session);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let (accepted, failed) =
                        (work.accepted.load(Relaxed), work.failed.load(Relaxed));
                    let (messages, seconds) = (work.settings.messages, start.elapsed());
                    let rate = accepted as f64 / seconds.as_secs_f64().max(1e-9);
                    progress.show(format_args!(
                        "{} s: {accepted} of {messages} messages, {rate:.0}/s, {failed} failed",
                        seconds.as_secs()
                    ));
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    print_result(&work, start.elapsed(), times);
    let (accepted, failed) = (work.accepted.load(Relaxed), work.failed.load(Relaxed));
    if failed == 0 && accepted == work.settings.messages {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints the rate, and a table of the times in milliseconds.
fn print_result(work: &Work, elapsed: Duration, mut times: Times) {
    let Settings { sessions, length, recipients, .. } = work.settings;
    let (accepted, failed) = (work.accepted.load(Relaxed), work.failed.load(Relaxed));
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let mut text = format!(
        "{accepted} messages in {seconds:.3} s: {:.0}/s, {:.1} MB/s; {failed} failed \
         ({sessions} sessions, {length} bytes, {recipients} recipients)\n\
         milliseconds          p50        p95        p99        max\n",
        accepted as f64 / seconds,
        (accepted * length as u64) as f64 / seconds / 1e6,
    );
    for (name, times) in [("dot to 250", &mut times.dot), ("session", &mut times.session)] {
        times.sort_unstable();
        text += &format!("{name:14}");
        for per_mille in [500, 950, 990, 1000] {
            let rank = (times.len() * per_mille).div_ceil(1000).saturating_sub(1);
            let time = times.get(rank).copied().unwrap_or_default();
            text += &format!("{:11.3}", time.as_secs_f64() * 1e3);
        }
        text.push('\n');
    }
    // The reader may have gone, as in `| head`.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Runs one session after the other, until all messages are started.
fn run_sessions(work: &Work) -> Times {
    let mut times = Times::default();
    while let Some(number) = work.next() {
        let start = Instant::now();
        match run_session(work, number, &mut times.dot) {
            Ok(()) => times.session.push(start.elapsed()),
            Err(error) => {
                if work.failed.fetch_add(1, Relaxed) < SHOWN_MAX {
                    eprintln!("smtp-source: {}: {error}", work.settings.address);
                }
            }
        }
    }
    times
}

/// Sends the message `number`, and with `-d` further ones, over one connection.
fn run_session(work: &Work, number: u64, dots: &mut Vec<Duration>) -> Fallible<()> {
    let mut connection = Connection::open(&work.settings.address)?;
    connection.expect("220")?;
    let extensions = connection.ask("EHLO localhost\r\n", "250")?;
    if work.settings.pipelining && !extensions.iter().any(|line| line == "PIPELINING") {
        return Err("the server does not offer PIPELINING".into());
    }
    let mut next = Some(number);
    while let Some(number) = next {
        dots.push(send_message(work, number, &mut connection)?);
        work.accepted.fetch_add(1, Relaxed);
        next = if work.settings.many { work.next() } else { None };
    }
    connection.ask("QUIT\r\n", "221")?;
    Ok(())
}

/// Sends one message. Returns the time from the final dot to its 250.
fn send_message(work: &Work, number: u64, connection: &mut Connection) -> Fallible<Duration> {
    let Settings { from, to: (user, domain), recipients, mailboxes, .. } = &work.settings;
    let mut commands = vec![(format!("MAIL FROM:<{from}>\r\n"), "250")];
    for i in 0..*recipients {
        let to = match mailboxes {
            0 => format!("{user}@{domain}"),
            n => format!("{user}{}@{domain}", (number * recipients + i) % n + 1),
        };
        commands.push((format!("RCPT TO:<{to}>\r\n"), "250"));
    }
    commands.push(("DATA\r\n".to_owned(), "354"));
    if work.settings.pipelining {
        let all: String = commands.iter().map(|(command, _)| command.as_str()).collect();
        connection.send(all.as_bytes())?;
        for (_, code) in commands {
            connection.expect(code)?;
        }
    } else {
        for (command, code) in commands {
            connection.ask(&command, code)?;
        }
    }
    let mut data = format!(
        "From: <{from}>\r\nTo: <{user}@{domain}>\r\nSubject: message {number}\r\n\
         Message-Id: <{number}@source.invalid>\r\n\r\n"
    )
    .into_bytes();
    data.extend_from_slice(&work.body);
    data.extend_from_slice(b".\r\n");
    connection.send(&data)?;
    let dot = Instant::now();
    connection.expect("250")?;
    Ok(dot.elapsed())
}

impl Work {
    /// Returns the number of the next message, from 0, or None if all are started.
    fn next(&self) -> Option<u64> {
        let number = self.started.fetch_add(1, Relaxed);
        (number < self.settings.messages).then_some(number)
    }
}

/// A connection to the server.
struct Connection {
    input: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: &str) -> Fallible<Connection> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Connection { input: BufReader::new(stream) })
    }

    fn send(&mut self, bytes: &[u8]) -> Fallible<()> {
        Ok(self.input.get_mut().write_all(bytes)?)
    }

    fn ask(&mut self, command: &str, code: &str) -> Fallible<Vec<String>> {
        self.send(command.as_bytes())?;
        self.expect(code)
    }

    /// Reads a reply, which must have `code` on each line. Returns the lines without the code.
    fn expect(&mut self, code: &str) -> Fallible<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            (&mut self.input).take(REPLY_LINE_MAX).read_line(&mut line)?;
            let text =
                line.strip_suffix("\r\n").ok_or_else(|| format!("incomplete reply: {line:?}"))?;
            let (more, rest) = match text.strip_prefix(code).map(|rest| rest.split_at_checked(1)) {
                Some(Some(("-", rest))) => (true, rest),
                Some(Some((" ", rest))) => (false, rest),
                Some(None) => (false, ""),
                _ => return Err(format!("expected {code}, received: {text}").into()),
            };
            lines.push(rest.to_owned());
            if !more {
                return Ok(lines);
            }
        }
    }
}

/// Returns a body of `length` bytes, 0 or at least 2: lines of 78 characters and CR LF.
fn body(length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length);
    while body.len() < length {
        let left = length - body.len();
        // Never leaves a single byte, which would be too short for a line.
        let line = if left == LINE_LENGTH + 1 { LINE_LENGTH - 1 } else { left.min(LINE_LENGTH) };
        body.extend((b'!'..=b'~').filter(|b| *b != b'.').cycle().take(line.saturating_sub(2)));
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// Time between two looks at the progress.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// The timeout of a reply.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest reply line (RFC 5321 4.5.3.1.5).
const REPLY_LINE_MAX: u64 = 512;
/// The length of a line of the body with its CR LF, in bytes.
const LINE_LENGTH: usize = 80;
/// The most errors that are shown.
const SHOWN_MAX: u64 = 5;
