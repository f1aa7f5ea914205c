//! `mailslot --inetd`: one session on standard input, which is a pipe or a socket.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use crate::harness::server::{PATIENCE, mailslot};

const DIALOGUE: &str = "EHLO client.example\r\n\
    MAIL FROM:<smith@example.org>\r\n\
    RCPT TO:<jones@localhost>\r\n\
    DATA\r\n\
    Subject: by inetd\r\n\r\nhello\r\n.\r\n\
    QUIT\r\n";

/// The program, to serve one session in the sandbox `folder`.
fn inetd(folder: &tempfile::TempDir) -> Command {
    // Its log would go to the syslog of the host that runs this test.
    mailslot(&["--inetd", "--log", "stderr", "--sandbox", folder.path().to_str().unwrap()])
}

/// The codes of the replies in `text`, one for each.
fn codes(text: &str) -> Vec<&str> {
    let last = |line: &&str| line.as_bytes().get(3) != Some(&b'-');
    text.split_terminator("\r\n").filter(last).map(|line| &line[..3]).collect()
}

fn mailbox(folder: &tempfile::TempDir) -> String {
    fs::read_to_string(folder.path().join("mail/jones")).unwrap()
}

#[test]
fn a_pipe_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = inetd(&folder)
        .env("TCPREMOTEIP", "192.0.2.7")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(DIALOGUE.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&text), ["220", "250", "250", "250", "354", "250", "221"], "{text}");
    assert_eq!(output.status.code(), Some(0));
    let mailbox = mailbox(&folder);
    assert!(mailbox.contains("Subject: by inetd\n"), "{mailbox}");
    assert!(mailbox.contains("[192.0.2.7]"), "the client's address, from tcpserver: {mailbox}");
}

#[test]
fn a_unix_socket_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let output: OwnedFd = theirs.try_clone().unwrap().into();
    let mut child = inetd(&folder)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    ours.write_all(DIALOGUE.as_bytes()).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(codes(&text), ["220", "250", "250", "250", "354", "250", "221"], "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(mailbox(&folder).contains("Subject: by inetd\n"));
}

#[test]
fn a_tcp_socket_is_served_and_its_peer_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let output: OwnedFd = theirs.try_clone().unwrap().into();
    let mut child = inetd(&folder)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    ours.write_all(DIALOGUE.as_bytes()).unwrap();
    ours.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(codes(&text), ["220", "250", "250", "250", "354", "250", "221"], "{text}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(mailbox(&folder).contains("[127.0.0.1]"));
}

#[test]
fn a_client_that_leaves_before_the_dot_has_delivered_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = inetd(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let cut = DIALOGUE.split_once("\r\n.\r\n").unwrap().0;
    child.stdin.take().unwrap().write_all(cut.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&text)[..5], ["220", "250", "250", "250", "354"], "{text}");
    assert!(!folder.path().join("mail/jones").exists());
}

#[test]
fn a_wrong_configuration_is_a_421_and_no_word_more_to_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let conf = folder.path().join("conf");
    fs::write(&conf, "threads none\n").unwrap();
    let mut command = inetd(&folder);
    let output = command.args(["-c", conf.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(codes(&text), ["421"], "{text}");
    assert!(!text.contains("threads"), "{text}");
}
