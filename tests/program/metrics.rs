//! The metrics file of the real program. Its format is tested in the library.

use std::fs;

use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, mailslot};

#[test]
fn metrics_are_written_at_the_end() {
    let directory = TestDirectory::new();
    let path = directory.join("mailslot.prom");
    let server = Server::start(&["--metrics-file", path.to_str().unwrap()]);
    let mut client = server.after_ehlo();
    client.deliver("a@b.example", &["smith@here.example"], "\r\nhello\r\n", 250);
    drop(client);
    let (log, status) = server.stop();
    assert!(status.success());
    assert!(!log.iter().any(|line| line.contains("metrics")), "{log:?}");
    let text = fs::read_to_string(&path).unwrap();
    for line in
        ["mailslot_sessions_total 1", "mailslot_messages_total 1", "mailslot_copies_total 1"]
    {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary file is left");
}

#[test]
fn unwritable_file_is_logged_once() {
    let directory = TestDirectory::new();
    let path = directory.join("none").join("mailslot.prom");
    let server = Server::start(&["--metrics-file", path.to_str().unwrap()]);
    let line = server.wait_for_log("metrics");
    assert!(line.contains("WARN  metrics-failed file="), "{line}");
    let mut client = server.after_ehlo();
    client.deliver("a@b.example", &["smith@here.example"], "\r\nhello\r\n", 250);
    drop(client);
    let (log, status) = server.stop();
    assert!(status.success());
    assert!(!log.iter().any(|line| line.contains("metrics")), "{log:?}");
}

#[test]
fn inetd_refuses_a_metrics_file() {
    let output = mailslot(&["--inetd", "--metrics-file", "x.prom"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
}
