//! `mailslot --inetd`: one session on standard input, which is a pipe or a socket.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::harness::client::{Client, codes};
use crate::harness::directory::TestDirectory;
use crate::harness::server::{mailslot, run_mailslot};
use crate::harness::{TIMEOUT, wait_until};

const DIALOGUE: &str = "EHLO client.example\r\n\
    MAIL FROM:<smith@example.org>\r\n\
    RCPT TO:<jones@localhost>\r\n\
    DATA\r\n\
    Subject: by inetd\r\n\r\nhello\r\n.\r\n\
    QUIT\r\n";
const REPLIES: [&str; 7] = ["220", "250", "250", "250", "354", "250", "221"];

/// Returns the program, to serve one session in a sandbox.
fn inetd(directory: &TestDirectory) -> Command {
    // Otherwise its log goes to the syslog of the host that runs this test.
    let mut command = mailslot(&["--inetd", "--log", "stderr", "--sandbox", directory.as_str()]);
    command.stderr(Stdio::null());
    command
}

#[test]
fn session_on_a_pipe() {
    let directory = TestDirectory::new();
    let mut child = inetd(&directory)
        .env("TCPREMOTEIP", "192.0.2.7")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(DIALOGUE.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&text), REPLIES, "{text}");
    assert_eq!(output.status.code(), Some(0));
    let mailbox = directory.mailbox("jones");
    assert!(mailbox.contains("Subject: by inetd\n"), "{mailbox}");
    assert!(mailbox.contains("[192.0.2.7]"), "the client's address, from tcpserver: {mailbox}");
}

/// Logins and certificates are for the process that works on the queue, and hundreds of files.
#[test]
fn session_reads_no_file_of_the_queue() {
    let directory = TestDirectory::new();
    let missing = directory.join("missing");
    let missing = missing.to_str().unwrap();
    let options = ["--smarthost", "mx.test", "--smarthost-tls", "may", "--smarthost-login"];
    let mut command = inetd(&directory);
    command.args(options).arg(missing).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(DIALOGUE.as_bytes()).unwrap();
    let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(codes(&text), REPLIES, "{text}");
    // They are missed by `check`, and by the process that sends.
    for words in [&["check"][..], &["queue", "flush"]] {
        let sandbox = ["--inetd", "--sandbox", directory.as_str()];
        let (status, text) = run_mailslot(&[words, &sandbox, &options, &[missing]].concat());
        assert_eq!(status, Some(78), "{words:?}: {text}");
    }
}

#[test]
fn session_on_a_unix_socket() {
    let directory = TestDirectory::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(TIMEOUT)).unwrap();
    let output: OwnedFd = theirs.try_clone().unwrap().into();
    let mut child =
        inetd(&directory).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(output).spawn().unwrap();
    ours.write_all(DIALOGUE.as_bytes()).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(codes(&text), REPLIES, "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(directory.mailbox("jones").contains("Subject: by inetd\n"));
}

#[test]
fn session_on_a_tcp_socket_knows_its_peer() {
    let directory = TestDirectory::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_read_timeout(Some(TIMEOUT)).unwrap();
    let output: OwnedFd = theirs.try_clone().unwrap().into();
    let mut child =
        inetd(&directory).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(output).spawn().unwrap();
    ours.write_all(DIALOGUE.as_bytes()).unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(codes(&text), REPLIES, "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(directory.mailbox("jones").contains("[127.0.0.1]"));
}

/// inetd passes the socket as standard input, output and error. The client receives replies
/// and nothing else, even if the log is asked for everything.
#[test]
fn session_started_by_inetd() {
    let directory = TestDirectory::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let (our_unix, their_unix) = UnixStream::pair().unwrap();
    let serve = |fd: OwnedFd| {
        let copy = || Stdio::from(fd.try_clone().unwrap());
        let mut command = mailslot(&["--inetd", "-vv", "--sandbox", directory.as_str()]);
        command.stdin(copy()).stdout(copy()).stderr(copy());
        command.spawn().unwrap()
    };

    let mut child = serve(theirs.into());
    let mut client = Client::new(ours);
    client.send(DIALOGUE);
    let replies = client.rest();
    assert_eq!(codes(&replies), REPLIES, "{replies}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mailbox = directory.mailbox("jones");
    assert!(mailbox.contains("([127.0.0.1])"), "{mailbox}");

    let mut child = serve(their_unix.into());
    let mut client = Client::new(our_unix);
    client.send(DIALOGUE);
    let replies = client.rest();
    assert_eq!(codes(&replies), REPLIES, "{replies}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// tcpserver passes two pipes, and the address of the client in the environment.
#[test]
fn session_started_by_tcpserver() {
    let directory = TestDirectory::new();
    let input = directory.join("dialogue");
    fs::write(&input, DIALOGUE).unwrap();
    let output = mailslot(&["--inetd", "--sandbox", directory.as_str()])
        .env("TCPREMOTEIP", "192.0.2.9")
        .stdin(File::open(input).unwrap())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let replies = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&replies), REPLIES, "{replies}");
    assert_eq!(output.stderr, b"");
    let mailbox = directory.mailbox("jones");
    assert!(mailbox.contains("([192.0.2.9])"), "{mailbox}");
}

/// inetd that is configured with `wait` passes the listening socket. That is an error status, and
/// must not hang.
#[test]
fn listening_socket_is_an_error() {
    let directory = TestDirectory::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut child = mailslot(&["--inetd", "--sandbox", directory.as_str()])
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it ends", || child.try_wait().unwrap().is_some());
    assert!(!child.wait().unwrap().success());
}

#[test]
fn client_that_leaves_before_the_dot() {
    let directory = TestDirectory::new();
    let mut child = inetd(&directory).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let cut = DIALOGUE.split_once("\r\n.\r\n").unwrap().0;
    child.stdin.take().unwrap().write_all(cut.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&text)[..5], REPLIES[..5], "{text}");
    assert!(!directory.mailbox_path("jones").exists());
}

#[test]
fn configuration_error_is_421_without_details() {
    let directory = TestDirectory::new();
    let conf = directory.join("conf");
    fs::write(&conf, "threads none\n").unwrap();
    let mut command = inetd(&directory);
    let output = command.args(["-c", conf.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&text), ["421"], "{text}");
    assert!(!text.contains("threads"), "{text}");
}
