//! The real program in a fresh folder, on a free port, and a plain client to talk to it.
//!
//! Nothing sleeps: the program's first line says where it listens, its log is read as it comes, and
//! every wait has a deadline, [`PATIENCE`], at which the test fails. What a [`Server`] made is gone
//! when it is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// How long anything may take before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The program that cargo built.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mailslot");

/// The command `mailslot`, cut off from the settings of the host and of the test's own run.
pub fn mailslot(args: &[&str]) -> Command {
    mailslot_by(&[], args)
}

/// The same, run by `starter`: a program and its own options, or nothing.
pub fn mailslot_by(starter: &[&str], args: &[&str]) -> Command {
    let words: Vec<&str> = [starter, &[PROGRAM], args].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    for name in ["RUST_LOG", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

/// A running `mailslot --sandbox`, stopped when it is dropped.
pub struct Server {
    /// What it printed at the start: where it listens, and how to send a first message.
    pub banner: Vec<String>,
    /// Where it listens.
    pub address: SocketAddr,
    folder: Arc<TempDir>,
    pid: Pid,
    log: Receiver<String>,
    end: Receiver<ExitStatus>,
}

impl Server {
    /// Starts it in a new folder, on a free port, with these options besides.
    pub fn start(options: &[&str]) -> Server {
        Server::start_in(tempfile::tempdir().expect("a folder"), options)
    }

    /// The same in a folder that was prepared, and that others may share; mailboxes are in its
    /// `mail`.
    pub fn start_in(folder: impl Into<Arc<TempDir>>, options: &[&str]) -> Server {
        Server::start_by(&[], folder, options)
            .unwrap_or_else(|(log, status)| panic!("not ready, {status}:\n{}", log.join("\n")))
    }

    /// The same by another program, which is given the command behind its own options and runs it
    /// under its own pid. What it logged, and how it ended, if it did before it was ready.
    pub fn start_by(
        starter: &[&str],
        folder: impl Into<Arc<TempDir>>,
        options: &[&str],
    ) -> Result<Server, (Vec<String>, ExitStatus)> {
        let folder = folder.into();
        let path = folder.path().to_str().expect("a UTF-8 path");
        let mut command = mailslot_by(starter, &["--sandbox", path, "--listen", "127.0.0.1:0"]);
        command.args(options);
        Server::start_command(command, folder, 2)
    }

    /// The same by a command that has all of its options already, and prints so many lines once it
    /// is ready.
    pub fn start_command(
        mut command: Command,
        folder: impl Into<Arc<TempDir>>,
        banner_lines: usize,
    ) -> Result<Server, (Vec<String>, ExitStatus)> {
        let folder = folder.into();
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let pid = Pid::from_raw(child.id().try_into().expect("a pid"));
        let printed = lines(child.stdout.take().expect("stdout is a pipe"));
        let log = lines(child.stderr.take().expect("stderr is a pipe"));
        let (ended, end) = channel();
        thread::spawn(move || ended.send(child.wait().expect("its own child")));

        let mut banner = Vec::new();
        while banner.len() < banner_lines {
            match printed.recv_timeout(PATIENCE) {
                Ok(line) => banner.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    let _ = kill(pid, Signal::SIGKILL);
                    panic!("not ready; log:\n{}", log.try_iter().collect::<Vec<_>>().join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = end.recv_timeout(PATIENCE).expect("it exits");
                    return Err((log.iter().collect(), status));
                }
            }
        }
        let places = banner[0].split_once("listens on ").map(|(_, places)| places);
        let address = places.and_then(|places| places.split([' ', ',']).next()?.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {banner:?}"));
        Ok(Server { banner, address, folder, pid, log, end })
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The folder it was given.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file of a mailbox.
    pub fn mailbox_path(&self, name: &str) -> PathBuf {
        self.folder().join("mail").join(name)
    }

    /// All of a mailbox; empty if there is none.
    pub fn mailbox(&self, name: &str) -> String {
        let octets = fs::read(self.mailbox_path(name)).unwrap_or_default();
        String::from_utf8_lossy(&octets).into_owned()
    }

    /// Where it listens for LMTP, if it was told to by TCP.
    pub fn lmtp(&self) -> Option<SocketAddr> {
        self.place("lmtp:")
    }

    /// Where TLS begins with the first octet, if it was told to listen so.
    pub fn implicit_tls(&self) -> Option<SocketAddr> {
        self.place("tls:")
    }

    fn place(&self, prefix: &str) -> Option<SocketAddr> {
        let (_, behind) = self.banner[0].split_once(prefix)?;
        behind.split([' ', ',']).next()?.parse().ok()
    }

    /// A client that has been greeted, and has said nothing yet.
    pub fn greeted(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.expect(220);
        client
    }

    /// A client that has greeted too, by EHLO.
    pub fn after_ehlo(&self) -> Client {
        let mut client = self.greeted();
        client.say("EHLO client.example", 250);
        client
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it runs");
    }

    /// The next log line that holds `word`; those before it are passed over.
    pub fn wait_for_log(&self, word: &str) -> String {
        self.wait_for_any_log(&[word])
    }

    /// The next log line that holds one of `words`; those before it are passed over.
    pub fn wait_for_any_log(&self, words: &[&str]) -> String {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if words.iter().any(|word| line.contains(word)) => return line,
                Ok(_) => {}
                Err(e) => panic!("none of {words:?} in the log: {e}"),
            }
        }
    }

    /// Stops it with TERM; what it left of the log, and how it exited.
    pub fn stop(self) -> (Vec<String>, ExitStatus) {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Waits until it exits by itself.
    pub fn ended(self) -> (Vec<String>, ExitStatus) {
        let status = self.end.recv_timeout(PATIENCE).expect("it exits");
        (self.log.iter().collect(), status)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Once its end was reported, the pid may be somebody else's.
        if self.end.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            let _ = kill(self.pid, Signal::SIGTERM);
            if self.end.recv_timeout(PATIENCE).is_err() {
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
    }
}

/// One reply of the server.
#[derive(Debug)]
pub struct Reply {
    /// Its three digits.
    pub code: u16,
    /// The text of its lines, codes and CR LF taken off.
    pub lines: Vec<String>,
}

/// A client that says what it is told to.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects; the greeting is not read yet.
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time-out");
        Client { stream: BufReader::new(stream) }
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) {
        self.stream.get_mut().write_all(octets).expect("the server reads");
    }

    /// Sends a line, and expects a reply with this code.
    pub fn say(&mut self, line: &str, code: u16) -> Reply {
        self.send(format!("{line}\r\n").as_bytes());
        let reply = self.reply();
        assert_eq!(reply.code, code, "{line:?} was answered {:?}", reply.lines);
        reply
    }

    /// Expects a reply with this code without having said anything.
    pub fn expect(&mut self, code: u16) -> Reply {
        let reply = self.reply();
        assert_eq!(reply.code, code, "{:?}", reply.lines);
        reply
    }

    /// The same, of a server that has much to do first.
    pub fn expect_within(&mut self, code: u16, time: Duration) -> Reply {
        self.stream.get_ref().set_read_timeout(Some(time)).expect("a time-out");
        self.expect(code)
    }

    /// Sends a message, `content` being lines with CR LF, and expects this code after the dot.
    pub fn deliver(&mut self, from: &str, to: &[&str], content: &str, code: u16) -> Reply {
        self.say(&format!("MAIL FROM:<{from}>"), 250);
        for to in to {
            self.say(&format!("RCPT TO:<{to}>"), 250);
        }
        self.say("DATA", 354);
        self.send(content.replace("\r\n.", "\r\n..").as_bytes());
        self.say(".", code)
    }

    /// Reads one reply, whole.
    pub fn reply(&mut self) -> Reply {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("a reply in time");
            let text = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("cut short: {line:?}"));
            let code = text.get(..3).and_then(|code| code.parse().ok());
            let code = code.unwrap_or_else(|| panic!("no reply: {text:?}"));
            lines.push(text.get(4..).unwrap_or("").to_owned());
            if text.as_bytes().get(3) != Some(&b'-') {
                return Reply { code, lines };
            }
        }
    }

    /// Whether the server has closed, and said nothing more.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }
}

/// The lines of a stream, as they come.
fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = channel();
    thread::spawn(move || {
        for text in BufReader::new(stream).lines().map_while(Result::ok) {
            // Nobody may be listening any more; the stream is read to its end all the same, so
            // that the program never waits for us.
            let _ = line.send(text);
        }
    });
    lines
}
