//! The real program, run in a temporary directory on a free port.
//!
//! Nothing sleeps: the first line that the program prints says where it listens, its log is read as
//! it comes, and every wait ends after [`TIMEOUT`], at which the test fails. What a [`Server`]
//! created is removed when it is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Once;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::TIMEOUT;
use super::client::Client;
use super::directory::TestDirectory;

/// Path of the program that cargo built.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_mailslot");

/// Returns the path of a link to the program by which it is sendmail(1). Each test program creates
/// it anew, because the program may be another one since the last run.
pub fn sendmail_path() -> &'static str {
    const LINK: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/sendmail");
    static CREATED: Once = Once::new();
    CREATED.call_once(|| {
        // By rename, because test programs run at the same time.
        let new = format!("{LINK}.{}", std::process::id());
        symlink(PROGRAM, &new).unwrap();
        fs::rename(new, LINK).unwrap();
    });
    LINK
}

/// Copies the program to `path`. A child writes the copy, because another thread may fork at that
/// time. Its child would inherit the open file, and a file that is open for writing cannot be run
/// (ETXTBSY).
pub fn copy_program(path: &Path) {
    assert!(Command::new("cp").arg("-p").arg(PROGRAM).arg(path).status().unwrap().success());
}

/// Returns the command `mailslot`, cut off from the settings of the host and of the test's own run.
pub fn mailslot(args: &[&str]) -> Command {
    mailslot_by(&[], args)
}

/// Returns the command `mailslot`, run by `starter`: a program and its own options, or nothing.
fn mailslot_by(starter: &[&str], args: &[&str]) -> Command {
    let words: Vec<&str> = [starter, &[PROGRAM], args].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    for name in ["RUST_LOG", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

/// Runs `mailslot` to its end. Returns the exit status and all that it printed, standard output
/// first.
pub fn run_mailslot(args: &[&str]) -> (Option<i32>, String) {
    printed(mailslot(args).output().unwrap())
}

/// Returns the exit status of a program and all that it printed, standard output first.
pub fn printed(output: Output) -> (Option<i32>, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// A running `mailslot`, stopped when it is dropped.
pub struct Server {
    /// Lines that it printed at the start: where it listens, and how to send a first message.
    pub banner: Vec<String>,
    /// Address where it listens for SMTP.
    pub address: SocketAddr,
    directory: TestDirectory,
    pid: Pid,
    log: Receiver<String>,
    end: Receiver<ExitStatus>,
}

impl Server {
    /// Starts `mailslot --sandbox` in a new directory, on a free port, with more options.
    pub fn start(options: &[&str]) -> Server {
        Server::start_in(TestDirectory::new(), options)
    }

    /// Starts it in a directory that was prepared, and that others may share.
    pub fn start_in(directory: impl Into<TestDirectory>, options: &[&str]) -> Server {
        Server::start_by(&[], directory, options)
            .unwrap_or_else(|(log, status)| panic!("not ready, {status}:\n{}", log.join("\n")))
    }

    /// Starts it by another program, which gets the command after its own options and runs it under
    /// its own pid. Returns the log and how it ended if it did before it was ready.
    pub fn start_by(
        starter: &[&str],
        directory: impl Into<TestDirectory>,
        options: &[&str],
    ) -> Result<Server, (Vec<String>, ExitStatus)> {
        let directory = directory.into();
        let sandbox = ["--sandbox", directory.as_str(), "--listen", "127.0.0.1:0"];
        let mut command = mailslot_by(starter, &sandbox);
        command.args(options);
        Server::start_command(command, directory, 2)
    }

    /// Starts it by a command that has all of its options already. It is ready when it has printed
    /// `banner_lines` lines.
    pub fn start_command(
        mut command: Command,
        directory: impl Into<TestDirectory>,
        banner_lines: usize,
    ) -> Result<Server, (Vec<String>, ExitStatus)> {
        let directory = directory.into();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let stdout = lines(child.stdout.take().unwrap());
        let log = lines(child.stderr.take().unwrap());
        let (ended, end) = channel();
        thread::spawn(move || ended.send(child.wait().unwrap()));

        let mut banner = Vec::new();
        while banner.len() < banner_lines {
            match stdout.recv_timeout(TIMEOUT) {
                Ok(line) => banner.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    let _ = kill(pid, Signal::SIGKILL);
                    panic!("not ready; log:\n{}", log.try_iter().collect::<Vec<_>>().join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = end.recv_timeout(TIMEOUT).expect("it exits");
                    return Err((log.iter().collect(), status));
                }
            }
        }
        let places = banner[0].split_once("listens on ").map(|(_, places)| places);
        let address = places.and_then(|places| places.split([' ', ',']).next()?.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {banner:?}"));
        Ok(Server { banner, address, directory, pid, log, end })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Returns the address where it listens for LMTP by TCP.
    pub fn lmtp(&self) -> Option<SocketAddr> {
        self.listens_on("lmtp:")
    }

    /// Returns the address where TLS begins at once.
    pub fn implicit_tls(&self) -> Option<SocketAddr> {
        self.listens_on("tls:")
    }

    fn listens_on(&self, prefix: &str) -> Option<SocketAddr> {
        let (_, rest) = self.banner[0].split_once(prefix)?;
        rest.split([' ', ',']).next()?.parse().ok()
    }

    /// Returns a client that has been greeted.
    pub fn greeted(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.expect(220);
        client
    }

    /// Returns a client that has said EHLO.
    pub fn after_ehlo(&self) -> Client {
        let mut client = self.greeted();
        client.command("EHLO client.example", 250);
        client
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it runs");
    }

    /// Returns the next log line that contains `word`. Those before it are skipped.
    pub fn wait_for_log(&self, word: &str) -> String {
        self.wait_for_any_log(&[word])
    }

    /// Returns the next log line that contains one of `words`. Those before it are skipped.
    pub fn wait_for_any_log(&self, words: &[&str]) -> String {
        loop {
            match self.log.recv_timeout(TIMEOUT) {
                Ok(line) if words.iter().any(|word| line.contains(word)) => return line,
                Ok(_) => {}
                Err(e) => panic!("none of {words:?} in the log: {e}"),
            }
        }
    }

    /// Stops it with TERM. Returns the rest of the log, and how it exited.
    pub fn stop(self) -> (Vec<String>, ExitStatus) {
        self.signal(Signal::SIGTERM);
        self.ended()
    }

    /// Kills it.
    pub fn kill(self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        self.ended();
    }

    /// Waits until it exits. Returns the rest of the log, and how it exited.
    pub fn ended(self) -> (Vec<String>, ExitStatus) {
        self.ended_within(TIMEOUT)
    }

    /// Waits until it exits, for at most `time`.
    pub fn ended_within(self, time: Duration) -> (Vec<String>, ExitStatus) {
        let status = self.end.recv_timeout(time).expect("it exits");
        (self.log.iter().collect(), status)
    }
}

impl Deref for Server {
    type Target = TestDirectory;

    fn deref(&self) -> &TestDirectory {
        &self.directory
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Once its end was reported, another process may have its pid.
        if self.end.try_recv() == Err(TryRecvError::Empty) {
            let _ = kill(self.pid, Signal::SIGTERM);
            if self.end.recv_timeout(TIMEOUT).is_err() {
                let _ = kill(self.pid, Signal::SIGKILL);
            }
        }
    }
}

/// Returns the lines of a stream as they come. The stream is read to its end even if the lines are
/// not, so that the program never waits for the test.
pub fn lines(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (line, lines) = channel();
    thread::spawn(move || {
        for text in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = line.send(text);
        }
    });
    lines
}
