//! Messages from samples in Debian packages, fetched when the test runs. Each one arrives unchanged
//! except as the mailbox format requires, or is refused for a reason that the test finds in the
//! message.

use std::fs;
use std::path::Path;

use crate::harness::directory::TestDirectory;
use crate::harness::external::{files, send_files, unpack};
use crate::harness::mbox::{self, assert_same};
use crate::harness::server::Server;

/// Packages with messages: tests of Python's email package, bounces of many servers, and spam.
const PACKAGES: &[&str] =
    &["libpython3[.][0-9]*-testsuite", "python3-flufl[.]bounce", "spamassassin"];

/// True if a file of these packages is a message.
fn is_message(path: &Path) -> bool {
    let path = path.to_string_lossy();
    let places = ["/test/test_email/data/msg_", "/flufl/bounce/tests/data/", "/examples/sample-"];
    path.ends_with(".txt") && places.iter().any(|place| path.contains(place))
}

#[test]
#[ignore = "needs Python, apt-get and the network"]
fn sample_messages_arrive_unchanged() {
    let packages = TestDirectory::new();
    unpack(PACKAGES, packages.path());
    let files = files(packages.path(), is_message);
    assert!(files.len() >= 150, "only {} messages", files.len());

    let server = Server::start(&["--max-size", "1G"]);
    let replies = send_files(&server, "jones@localhost", &files);
    let mut found = mbox::read(&server.mailbox_path("jones")).into_iter();
    let (mut delivered, mut refused, mut changed) = (0, 0, 0);
    for (file, reply) in files.iter().zip(replies.lines()) {
        let [path, code, text] = reply.splitn(3, '\t').collect::<Vec<_>>()[..] else {
            panic!("{reply}");
        };
        assert_eq!(Path::new(path), file);
        let sent = lines(&fs::read(file).unwrap());
        match (code, reason(&sent)) {
            ("250", None) => {
                let mail = found.next().expect("as many as were accepted");
                let kept = mbox::kept(&sent);
                assert_same(&mbox::without_trace(&mail), &kept, path);
                delivered += 1;
                changed += u32::from(kept != sent);
            }
            (_, Some(refusal)) if format!("{code} {text}").starts_with(refusal) => refused += 1,
            (_, refusal) => panic!("{path}: {code} {text}, expected {refusal:?}"),
        }
    }
    assert_eq!(found.count(), 0);
    assert_eq!(delivered + refused, files.len());
    println!("{delivered} arrived, {changed} of them without stripped fields; {refused} refused");
}

/// Returns the message with LF at the end of all lines.
fn lines(text: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(text.len() + 1);
    for (at, byte) in text.iter().enumerate() {
        if *byte != b'\r' || text.get(at + 1) != Some(&b'\n') {
            lines.push(*byte);
        }
    }
    if !lines.is_empty() && !lines.ends_with(b"\n") {
        lines.push(b'\n');
    }
    lines
}

/// Returns why a message must be refused, if it must.
fn reason(sent: &[u8]) -> Option<&'static str> {
    let has_late_from = |line: &[u8]| line.windows(5).skip(998).any(|five| five == b"From ");
    let header = sent.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let hops = header.filter(|l| l.to_ascii_lowercase().starts_with(b"received:")).count();
    if sent.contains(&b'\r') {
        Some("554 5.6.0 DATA: a bare CR")
    } else if hops > 100 {
        Some("554 5.4.6")
    } else if sent.split(|byte| *byte == b'\n').any(has_late_from) {
        Some("554 5.6.0 DATA: a long line")
    } else {
        None
    }
}
