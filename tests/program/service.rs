//! The real program as its surroundings see it: signals, the service manager, passed sockets,
//! inetd.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::harness::library::{Client, LONG, codes};

/// The program in a sandbox of its own, on a free port.
struct Program {
    child: Child,
    address: SocketAddr,
    /// Its log.
    stderr: BufReader<std::process::ChildStderr>,
    manager: UnixDatagram,
    sandbox: tempfile::TempDir,
}

fn command(sandbox: &tempfile::TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mailslot"));
    command.arg("--sandbox").arg(sandbox.path()).env_remove("RUST_LOG");
    command
}

impl Program {
    fn start() -> Program {
        let sandbox = tempfile::tempdir().unwrap();
        let notify = sandbox.path().join("notify");
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(LONG)).unwrap();
        let mut child = command(&sandbox)
            .args(["--listen", "127.0.0.1:0"])
            .env("NOTIFY_SOCKET", &notify)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let program = Program { child, address, stderr, manager, sandbox };
        assert_eq!(program.told(), "READY=1");
        program
    }

    fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect_timeout(&self.address, LONG).unwrap())
    }

    fn told(&self) -> String {
        let mut message = [0; 64];
        let n = self.manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..n]).into_owned()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Reads the log up to a line with `text`.
    fn logged(&mut self, text: &str) -> String {
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {
            if line.contains(text) {
                return line;
            }
            line.clear();
        }
        panic!("{text:?} was not logged");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(child: &mut Child, limit: Duration) -> ExitStatus {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::yield_now();
    }
}

#[test]
fn term_finishes_what_is_in_hand_and_leaves() {
    let mut program = Program::start();
    let mut idle = program.connect();
    idle.expect("220");
    let mut in_data = program.connect();
    in_data.up_to_data("smith");
    in_data.send("half of");
    program.signal("TERM");
    assert_eq!(program.told(), "STOPPING=1");
    idle.expect("421 4.3.2");
    in_data.ask(" it\r\n.", "250");
    in_data.ask("NOOP", "421 4.3.2");
    assert_eq!(wait(&mut program.child, Duration::from_secs(10)).code(), Some(0));
    let mailbox = std::fs::read_to_string(program.sandbox.path().join("mail/smith")).unwrap();
    assert!(mailbox.contains("\nhalf of it\n"));
    assert!(program.logged("delivered ").contains(" to=<smith@"));
}

#[test]
fn a_second_term_does_not_wait() {
    let mut program = Program::start();
    let mut in_data = program.connect();
    in_data.up_to_data("smith");
    program.signal("TERM");
    assert_eq!(program.told(), "STOPPING=1");
    program.signal("TERM");
    assert_eq!(wait(&mut program.child, Duration::from_secs(5)).code(), Some(75));
}

#[test]
fn hup_reloads_and_usr1_counts_and_no_session_is_dropped() {
    let mut program = Program::start();
    let mut client = program.connect();
    client.expect("220");
    program.signal("HUP");
    program.logged("reload");
    program.signal("USR1");
    assert!(program.logged("counters ").contains(" sessions=1 "));
    program.signal("XFSZ");
    client.ask("NOOP", "250");
}

/// systemd passes listening sockets from descriptor 3 on.
#[test]
fn passed_sockets_are_listened_on() {
    let sandbox = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mail, spool) = (sandbox.path().join("mail"), sandbox.path().join("spool"));
    std::fs::create_dir(&mail).unwrap();
    std::fs::create_dir(&spool).unwrap();
    let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 0</dev/null";
    let mut child = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_mailslot"), "--config", "/dev/null"])
        .args([
            "--aliases",
            "none",
            "--user",
            "smith",
            "--domain",
            "here.example",
            "--hostname",
            "h",
        ])
        .args([std::ffi::OsStr::new("--mail-dir"), mail.as_os_str()])
        .args([std::ffi::OsStr::new("--spool"), spool.as_os_str()])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = Client::new(TcpStream::connect_timeout(&address, LONG).unwrap());
    client.up_to_data("smith");
    client.ask("hello\r\n.", "250");
    client.ask("QUIT", "221");
    child.kill().unwrap();
    child.wait().unwrap();
}

const DIALOGUE: &str =
    "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<smith@x>\r\nDATA\r\nhello\r\n.\r\nQUIT\r\n";

/// As inetd starts it: the socket is standard input, output and error; and what the client reads is
/// replies and nothing else, even though the log is asked for everything.
#[test]
fn inetd_serves_a_socket() {
    let sandbox = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let (our_unix, their_unix) = UnixStream::pair().unwrap();
    let (fd, unix_fd) = (OwnedFd::from(theirs), OwnedFd::from(their_unix));

    let serve = |fd: OwnedFd| {
        let copy = || Stdio::from(fd.try_clone().unwrap());
        let mut command = command(&sandbox);
        command.args(["--inetd", "-vv"]).stdin(copy()).stdout(copy()).stderr(copy());
        command.spawn().unwrap()
    };
    let mut child = serve(fd);
    let mut client = Client::new(ours);
    client.send(DIALOGUE);
    let mut replies = String::new();
    client.socket.read_to_string(&mut replies).unwrap();
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "354", "250", "221"], "{replies}");
    assert_eq!(wait(&mut child, LONG).code(), Some(0));
    let mailbox = std::fs::read_to_string(sandbox.path().join("mail/smith")).unwrap();
    assert!(mailbox.contains("([127.0.0.1])"), "{mailbox}");

    let mut child = serve(unix_fd);
    let mut client = Client::new(our_unix);
    client.send(DIALOGUE);
    let mut replies = String::new();
    client.socket.read_to_string(&mut replies).unwrap();
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "354", "250", "221"], "{replies}");
    assert_eq!(wait(&mut child, LONG).code(), Some(0));
}

/// As tcpserver starts it: two pipes, and the client's address in the environment.
#[test]
fn inetd_serves_a_pipe() {
    let sandbox = tempfile::tempdir().unwrap();
    let input = sandbox.path().join("dialogue");
    std::fs::write(&input, DIALOGUE).unwrap();
    let output = command(&sandbox)
        .arg("--inetd")
        .env("TCPREMOTEIP", "192.0.2.9")
        .stdin(std::fs::File::open(input).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let replies = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "354", "250", "221"], "{replies}");
    assert_eq!(output.stderr, b"");
    let mailbox = std::fs::read_to_string(sandbox.path().join("mail/smith")).unwrap();
    assert!(mailbox.contains("([192.0.2.9])"), "{mailbox}");
}

/// inetd configured with `wait` hands over the listening socket: told in the status, not a hang.
#[test]
fn inetd_with_wait_is_an_error() {
    let sandbox = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = command(&sandbox)
        .arg("--inetd")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(!wait(&mut child, LONG).success());
}
