//! Makes load: many messages over many sessions, with rates and latencies at the end. Its letters
//! are those of Postfix's smtp-source(1).
//!
//! ```text
//! mailslot --sandbox ./mail &
//! smtp-source -s 20 -m 2000 -N 20 -d 127.0.0.1:2525
//! ```
//! Every reply is checked: one that is not the expected code ends its session, is shown, and makes
//! the exit status 1. Each message is tried once. A message is a short header that holds its
//! number, and a body that is the same every time. It does not store or read mail.

use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// What the command line says.
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

/// What the sessions share.
struct Work {
    settings: Settings,
    body: Vec<u8>,
    begun: AtomicU64,
    accepted: AtomicU64,
    failed: AtomicU64,
}

/// How long things took.
#[derive(Default)]
struct Times {
    /// From the final dot's last octet to its 250.
    dot: Vec<Duration>,
    /// From the connection to the 221.
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
        .optopt("s", "sessions", "sessions at once (1)", "N")
        .optopt("m", "messages", "messages in all (1)", "N")
        .optopt("l", "length", "octets of each body (4096)", "N")
        .optopt("r", "recipients", "recipients of each message (1)", "N")
        .optopt("f", "from", "sender (source@localhost)", "ADDRESS")
        .optopt("t", "to", "recipient (user@localhost)", "ADDRESS")
        .optopt("N", "mailboxes", "spread over user1@ ... userN@ (as many as -r, if above 1)", "N")
        .optflag("d", "many", "many messages over one connection")
        .optflag("p", "pipelining", "send MAIL, RCPT and DATA together")
        .optflag("h", "help", "show this");
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

/// Runs all sessions, shows progress once a second, and the result.
fn run(settings: Settings) -> ExitCode {
    let work = Work {
        body: body(settings.length),
        settings,
        begun: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    };
    let started = Instant::now();
    let mut times = Times::default();
    thread::scope(|scope| {
        let (sender, ended) = mpsc::channel::<Times>();
        for _ in 0..work.settings.sessions {
            let (work, sender) = (&work, sender.clone());
            scope.spawn(move || sender.send(source(work)));
        }
        drop(sender);
        let (mut next, mut before) = (started + SECOND, 0);
        loop {
            match ended.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(more) => {
                    times.dot.extend(more.dot);
                    times.session.extend(more.session);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let accepted = work.accepted.load(Relaxed);
                    let (seconds, failed) =
                        (started.elapsed().as_secs(), work.failed.load(Relaxed));
                    let rate = accepted - before;
                    eprintln!("{seconds:5} s  {accepted:9} messages  {rate:7}/s  {failed} failed");
                    (next, before) = (next + SECOND, accepted);
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    report(&work, started.elapsed(), times);
    let (accepted, failed) = (work.accepted.load(Relaxed), work.failed.load(Relaxed));
    if failed == 0 && accepted == work.settings.messages {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(work: &Work, took: Duration, mut times: Times) {
    let Settings { sessions, length, recipients, .. } = work.settings;
    let (accepted, failed) = (work.accepted.load(Relaxed), work.failed.load(Relaxed));
    let seconds = took.as_secs_f64().max(1e-9);
    println!(
        "{accepted} messages in {seconds:.3} s: {:.0}/s, {:.1} MB/s; {failed} failed \
         ({sessions} sessions, {length} octets, {recipients} recipients)",
        accepted as f64 / seconds,
        (accepted * length as u64) as f64 / seconds / 1e6,
    );
    println!("{:14}{:>11}{:>11}{:>11}{:>11}", "milliseconds", "p50", "p95", "p99", "max");
    for (name, times) in [("dot to 250", &mut times.dot), ("session", &mut times.session)] {
        times.sort_unstable();
        print!("{name:14}");
        for per_mille in [500, 950, 990, 1000] {
            let rank = (times.len() * per_mille).div_ceil(1000).saturating_sub(1);
            let time = times.get(rank).copied().unwrap_or_default();
            print!("{:11.3}", time.as_secs_f64() * 1e3);
        }
        println!();
    }
}

/// One session after the other, until all messages have begun.
fn source(work: &Work) -> Times {
    let mut times = Times::default();
    while let Some(number) = work.next() {
        let begun = Instant::now();
        match session(work, number, &mut times.dot) {
            Ok(()) => times.session.push(begun.elapsed()),
            Err(error) => {
                if work.failed.fetch_add(1, Relaxed) < SHOWN_MAX {
                    eprintln!("smtp-source: {}: {error}", work.settings.address);
                }
            }
        }
    }
    times
}

fn session(work: &Work, number: u64, dots: &mut Vec<Duration>) -> Fallible<()> {
    let mut link = Link::open(&work.settings.address)?;
    link.expect("220")?;
    let extensions = link.ask("EHLO localhost\r\n", "250")?;
    if work.settings.pipelining && !extensions.iter().any(|line| line == "PIPELINING") {
        return Err("the server does not offer PIPELINING".into());
    }
    let mut next = Some(number);
    while let Some(number) = next {
        dots.push(transaction(work, number, &mut link)?);
        work.accepted.fetch_add(1, Relaxed);
        next = if work.settings.many { work.next() } else { None };
    }
    link.ask("QUIT\r\n", "221")?;
    Ok(())
}

/// Sends one message; returns how long its 250 took after the final dot.
fn transaction(work: &Work, number: u64, link: &mut Link) -> Fallible<Duration> {
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
        link.send(all.as_bytes())?;
        for (_, code) in commands {
            link.expect(code)?;
        }
    } else {
        for (command, code) in commands {
            link.ask(&command, code)?;
        }
    }
    let mut data = format!(
        "From: <{from}>\r\nTo: <{user}@{domain}>\r\nSubject: message {number}\r\n\
         Message-Id: <{number}@source.invalid>\r\n\r\n"
    )
    .into_bytes();
    data.extend_from_slice(&work.body);
    data.extend_from_slice(b".\r\n");
    link.send(&data)?;
    let dot = Instant::now();
    link.expect("250")?;
    Ok(dot.elapsed())
}

impl Work {
    /// The number of the next message, from 0, until there are enough.
    fn next(&self) -> Option<u64> {
        let number = self.begun.fetch_add(1, Relaxed);
        (number < self.settings.messages).then_some(number)
    }
}

/// A connection to the server.
struct Link {
    input: BufReader<TcpStream>,
}

impl Link {
    fn open(address: &str) -> Fallible<Link> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Link { input: BufReader::new(stream) })
    }

    fn send(&mut self, bytes: &[u8]) -> Fallible<()> {
        Ok(self.input.get_mut().write_all(bytes)?)
    }

    fn ask(&mut self, command: &str, code: &str) -> Fallible<Vec<String>> {
        self.send(command.as_bytes())?;
        self.expect(code)
    }

    /// Reads a reply that must have `code` on each line; returns its lines without it.
    fn expect(&mut self, code: &str) -> Fallible<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            (&mut self.input).take(REPLY_LINE_MAX).read_line(&mut line)?;
            let text = line.strip_suffix("\r\n").ok_or_else(|| format!("cut off: {line:?}"))?;
            let (more, rest) = match text.strip_prefix(code).map(|rest| rest.split_at_checked(1)) {
                Some(Some(("-", rest))) => (true, rest),
                Some(Some((" ", rest))) => (false, rest),
                Some(None) => (false, ""),
                _ => return Err(format!("{code} expected: {text}").into()),
            };
            lines.push(rest.to_owned());
            if !more {
                return Ok(lines);
            }
        }
    }
}

/// Lines of 78 characters, `length` octets with their CR LF (0, or at least 2).
fn body(length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length);
    while body.len() < length {
        let left = length - body.len();
        // Never leaves a single octet, which could not be a line.
        let line = if left == LINE + 1 { LINE - 1 } else { left.min(LINE) };
        body.extend((b'!'..=b'~').filter(|b| *b != b'.').cycle().take(line.saturating_sub(2)));
        body.extend_from_slice(b"\r\n");
    }
    body
}

const SECOND: Duration = Duration::from_secs(1);
/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// RFC 5321 4.5.3.1.5
const REPLY_LINE_MAX: u64 = 512;
/// Octets of a body's line with its CR LF.
const LINE: usize = 80;
/// How many failures are shown in words.
const SHOWN_MAX: u64 = 5;
