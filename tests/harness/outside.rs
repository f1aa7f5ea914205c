//! What is needed to test the real program from outside: a folder that servers come and go in,
//! letters that can be told apart, a ledger of what was promised about each, and strace.
//!
//! The rule that every test ends in is [`Ledger::check`]: a letter that got its 250 is whole in
//! each of its mailboxes, once; one that was refused is in none; one whose reply was lost is in all
//! of them or in none; and there is nothing else, torn least of all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailslot::deliver::mbox::is_from_line;
use memchr::memmem;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::server::{PATIENCE, Server};

/// A folder for servers, one after the other or several at once.
pub struct Home(Arc<TempDir>);

impl Home {
    /// An empty one.
    pub fn new() -> Home {
        Home(Arc::new(tempfile::tempdir().expect("a folder")))
    }

    /// The same on a file system in memory, if the host has one: where not the disk is tested but
    /// what is done with it.
    pub fn in_memory() -> Home {
        let made = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Home(Arc::new(made.expect("a folder")))
    }

    /// Starts a server in it.
    pub fn start(&self, options: &[&str]) -> Server {
        Server::start_in(self.0.clone(), options)
    }

    /// Starts a server by another program.
    pub fn start_by(
        &self,
        starter: &[&str],
        options: &[&str],
    ) -> Result<Server, (Vec<String>, ExitStatus)> {
        Server::start_by(starter, self.0.clone(), options)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file of a mailbox.
    pub fn mailbox(&self, name: &str) -> PathBuf {
        self.path().join("mail").join(name)
    }

    /// The octets of a mailbox; none if it is missing.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.mailbox(name)).unwrap_or_default()
    }

    /// The names in one of its folders, in order.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path().join(folder)).expect("the folder is there");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into()).collect();
        names.sort();
        names
    }

    /// With no server running, nothing may be there but mailboxes, of these names, and journals.
    pub fn assert_tidy(&self, mailboxes: &BTreeSet<String>) {
        let left: Vec<String> =
            self.names("mail").into_iter().filter(|n| !mailboxes.contains(n)).collect();
        assert!(left.is_empty(), "left in the mail folder: {left:?}");
        let mut spool = self.names("spool");
        spool.retain(|n| !n.starts_with("journal-"));
        assert!(spool.is_empty(), "left in the spool: {spool:?}");
    }

    /// Takes all mailboxes away.
    pub fn clear(&self) {
        for name in self.names("mail") {
            let path = self.mailbox(&name);
            let removed =
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.expect("a mailbox goes");
        }
    }
}

/// A message that no other is like.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its Subject.
    pub tag: String,
    /// Its mailboxes.
    pub to: Vec<String>,
    /// About how long it is.
    pub octets: usize,
}

impl Letter {
    /// A letter with this tag, of about this length.
    pub fn new(tag: impl Into<String>, to: &[&str], octets: usize) -> Letter {
        let to = to.iter().map(|name| (*name).to_owned()).collect();
        Letter { tag: tag.into(), to, octets }
    }

    /// What it ends with in a mailbox: all that the client sent, and the empty line.
    pub fn stored(&self) -> String {
        let mut text = format!("Subject: {0}\n\n>From {0} on\n", self.tag);
        while text.len() < self.octets {
            text += &format!("{} of {}, and so on to the end of the line\n", text.len(), self.tag);
        }
        text + "\n"
    }

    /// All that a client sends who does not wait for replies.
    pub fn dialogue(&self) -> String {
        let to: String = self.to.iter().map(|to| format!("RCPT TO:<{to}@localhost>\r\n")).collect();
        let (ehlo, mail) = ("EHLO client.example\r\n", "MAIL FROM:<smith@example.org>\r\n");
        format!("{ehlo}{mail}{to}DATA\r\n{}.\r\nQUIT\r\n", self.sent())
    }

    /// What the client sends, up to the dot.
    fn sent(&self) -> String {
        let stored = self.stored();
        let lines = stored.strip_suffix('\n').unwrap_or_default();
        lines.replace("\n>From ", "\nFrom ").replace('\n', "\r\n")
    }
}

/// A connection over which letters are sent.
pub struct Sender(BufReader<TcpStream>);

impl Sender {
    /// Connects and greets; again for a while if all places are taken, since one that was just
    /// left is free a moment later.
    pub fn open(address: SocketAddr) -> io::Result<Sender> {
        let until = Instant::now() + PATIENCE;
        loop {
            match Sender::try_open(address) {
                Err(e) if e.kind() == io::ErrorKind::QuotaExceeded && Instant::now() < until => {}
                result => return result,
            }
        }
    }

    fn try_open(address: SocketAddr) -> io::Result<Sender> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(2 * PATIENCE))?;
        stream.set_write_timeout(Some(2 * PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut sender = Sender(BufReader::new(stream));
        if sender.code()?.starts_with('4') {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        sender.say("EHLO client.example\r\n")?;
        Ok(sender)
    }

    /// Sends a letter: the code of the reply after the dot, or of the first that refused it.
    pub fn send(&mut self, letter: &Letter) -> io::Result<u16> {
        self.reply_to(letter).map(|reply| reply[..3].parse().unwrap_or_default())
    }

    /// The same, the whole of that reply's last line.
    pub fn reply_to(&mut self, letter: &Letter) -> io::Result<String> {
        let mut commands = vec!["MAIL FROM:<smith@example.org>\r\n".to_owned()];
        commands.extend(letter.to.iter().map(|to| format!("RCPT TO:<{to}@localhost>\r\n")));
        commands.push("DATA\r\n".to_owned());
        for command in commands {
            let reply = self.say(&command)?;
            if !reply.starts_with(['2', '3']) {
                self.say("RSET\r\n")?;
                return Ok(reply);
            }
        }
        self.say(&(letter.sent() + ".\r\n"))
    }

    fn say(&mut self, text: &str) -> io::Result<String> {
        self.0.get_mut().write_all(text.as_bytes())?;
        self.code()
    }

    /// Reads a reply; its last line.
    fn code(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            match line.as_bytes().get(3) {
                Some(b' ') if line.ends_with("\r\n") => return Ok(line),
                Some(b'-') => {}
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// What became of a letter, as far as its sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It got this code.
    Code(u16),
    /// The server was gone before it replied.
    Unknown,
}

/// All letters that were sent, and what was said about them.
#[derive(Default)]
pub struct Ledger(pub Vec<(Letter, Fate)>);

impl Ledger {
    /// Sends a letter over a connection of its own and notes what comes of it.
    pub fn send(&mut self, address: SocketAddr, letter: Letter) -> Fate {
        let code = Sender::open(address).and_then(|mut sender| sender.send(&letter));
        self.note(letter, code)
    }

    /// Notes what came of a letter.
    pub fn note(&mut self, letter: Letter, code: io::Result<u16>) -> Fate {
        let fate = code.map_or(Fate::Unknown, Fate::Code);
        self.0.push((letter, fate));
        fate
    }

    /// Sends a letter that must be taken, within 10 s.
    pub fn deliver(&mut self, address: SocketAddr, letter: Letter) {
        let (began, tag) = (Instant::now(), letter.tag.clone());
        assert_eq!(self.send(address, letter), Fate::Code(250), "{tag}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{tag} took {took:?}");
    }

    /// How many got this code.
    pub fn count(&self, code: u16) -> usize {
        self.0.iter().filter(|(_, fate)| *fate == Fate::Code(code)).count()
    }

    /// The names of all mailboxes.
    pub fn mailboxes(&self) -> BTreeSet<String> {
        self.0.iter().flat_map(|(letter, _)| letter.to.iter().cloned()).collect()
    }

    /// Holds the mailboxes of `home` against what was said.
    pub fn check(&self, home: &Home) {
        let names = self.mailboxes();
        let boxes = names.iter().map(|name| (name.clone(), home.read(name))).collect();
        self.check_boxes(&boxes);
    }

    /// The same with the octets given: in a reader's hands there may be more than in the mailbox.
    pub fn check_boxes(&self, boxes: &BTreeMap<String, Vec<u8>>) {
        let letters: HashMap<&str, &Letter> =
            self.0.iter().map(|(letter, _)| (letter.tag.as_str(), letter)).collect();
        assert_eq!(letters.len(), self.0.len(), "tags differ");
        let mut found: HashMap<(&str, &str), usize> = HashMap::new();
        for (name, octets) in boxes {
            for message in messages(octets).unwrap_or_else(|e| panic!("{name}: {e}")) {
                let tag = tag_of(message);
                let letter = tag.and_then(|tag| letters.get(tag).copied());
                let shown = String::from_utf8_lossy(&message[..message.len().min(400)]);
                let letter = letter.unwrap_or_else(|| panic!("{name}: a stranger: {shown}"));
                let whole = message.ends_with(letter.stored().as_bytes());
                assert!(whole, "{name}: torn: {} of {} octets", letter.tag, message.len());
                *found.entry((name, &letter.tag)).or_default() += 1;
            }
        }
        for (letter, fate) in &self.0 {
            let copies: Vec<usize> = letter
                .to
                .iter()
                .map(|name| found.get(&(name, &letter.tag)).copied().unwrap_or_default())
                .collect();
            let (all, none) = (copies.iter().all(|n| *n == 1), copies.iter().all(|n| *n == 0));
            let holds = match fate {
                Fate::Code(250) => all,
                Fate::Code(_) => none,
                Fate::Unknown => all || none,
            };
            assert!(holds, "{} ({fate:?}) is {copies:?} times in {:?}", letter.tag, letter.to);
        }
    }
}

/// The messages of a mailbox, as a strict reader splits it, each with its empty line.
pub fn messages(octets: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut starts = Vec::new();
    if octets.starts_with(b"From ") {
        starts.push(0);
    } else if !octets.is_empty() {
        let start = String::from_utf8_lossy(&octets[..octets.len().min(80)]);
        return Err(format!("begins with {start:?}"));
    }
    for at in memmem::find_iter(octets, b"\nFrom ") {
        if at == 0 || octets[at - 1] != b'\n' {
            let around = String::from_utf8_lossy(&octets[at.saturating_sub(80)..at + 6]);
            return Err(format!("a From_ line without an empty line before it: {around:?}"));
        }
        starts.push(at + 1);
    }
    let ends = starts.iter().skip(1).copied().chain([octets.len()]);
    let found: Vec<&[u8]> = starts.iter().zip(ends).map(|(&from, to)| &octets[from..to]).collect();
    for message in &found {
        let line = message.split(|b| *b == b'\n').next().unwrap_or_default();
        if !is_from_line(line) {
            return Err(format!("no From_ line: {:?}", String::from_utf8_lossy(line)));
        }
        if !message.ends_with(b"\n\n") {
            let end = String::from_utf8_lossy(&message[message.len().saturating_sub(80)..]);
            return Err(format!("no empty line at the end: {end:?}"));
        }
    }
    Ok(found)
}

/// The Subject of a message.
pub fn tag_of(message: &[u8]) -> Option<&str> {
    let at = memmem::find(message, b"\nSubject: ")? + b"\nSubject: ".len();
    let line = message[at..].split(|b| *b == b'\n').next()?;
    std::str::from_utf8(line).ok()
}

/// The thread of this name in a process.
pub fn thread(pid: Pid, name: &str) -> Pid {
    let until = Instant::now() + PATIENCE;
    // A thread takes its name when it first runs, which may be a moment after the banner.
    while Instant::now() < until {
        if let Some((tid, _)) = threads(pid).into_iter().find(|(_, comm)| comm == name) {
            return tid;
        }
        std::thread::yield_now();
    }
    panic!("no thread {name}");
}

/// The threads of a process, with their names.
pub fn threads(pid: Pid) -> Vec<(Pid, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let tasks = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let comm = fs::read_to_string(task.join("comm")).ok()?;
        let tid = task.file_name()?.to_str()?.parse().ok()?;
        Some((Pid::from_raw(tid), comm.trim_end().to_owned()))
    });
    tasks.collect()
}

/// strace on some threads of a running program.
pub struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Attaches to `threads` with these options; returns once it has.
    pub fn attach(home: &Home, threads: &[Pid], options: &[&str]) -> Strace {
        let log = home.path().join("strace.log");
        let mut command = Command::new("strace");
        command.args(["-o", log.to_str().expect("a UTF-8 path")]).args(options);
        for thread in threads {
            command.args(["-p", &thread.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("strace is installed");
        let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        for _ in threads {
            let line = said.next().and_then(Result::ok).unwrap_or_default();
            assert!(line.contains("attached"), "{line}");
        }
        // What else it says nobody reads; it must not wait for us.
        std::thread::spawn(move || said.for_each(drop));
        Strace { child, log }
    }

    /// Lets the threads go; the calls that were seen.
    pub fn detach(mut self) -> String {
        let _ = kill(self.pid(), Signal::SIGINT);
        let _ = self.child.wait();
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().expect("a pid"))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.pid(), Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}

/// The names of the calls in a log of strace, in order, each once; threads' waiting left out.
pub fn call_names(log: &str) -> BTreeSet<String> {
    let names = log.lines().filter_map(|line| {
        // With several threads the line begins with a thread id.
        let call = line.split_once('(')?.0.rsplit(' ').next()?;
        let plain = call.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        (plain && !call.is_empty()).then(|| call.to_owned())
    });
    names.filter(|name| !MEMORY_AND_WAITING.contains(&name.as_str())).collect()
}

/// Calls that change nothing outside the process.
const MEMORY_AND_WAITING: &[&str] = &[
    "futex",
    "restart_syscall",
    "sched_yield",
    "madvise",
    "mmap",
    "munmap",
    "mprotect",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "nanosleep",
    "sigaltstack",
    "rt_sigprocmask",
    "exit",
    "getrandom",
    "mremap",
    "poll",
    "ppoll",
];

/// A number from the environment, or `default`: how long, how often, how dense.
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// After a crash: starts again, delivers one more message to each mailbox, checks, stops, looks
/// for what was left, and clears.
pub fn examine(home: &Home, mut ledger: Ledger, context: &str) {
    let _told = Told(context);
    let server = home.start(&["--threads", "2"]);
    for name in ledger.mailboxes() {
        ledger.deliver(server.address, Letter::new(format!("after-{name}"), &[&name], 500));
    }
    ledger.check(home);
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    ledger.check(home);
    home.assert_tidy(&ledger.mailboxes());
    home.clear();
}

/// Says what was being tried when a test fails.
struct Told<'a>(&'a str);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}
