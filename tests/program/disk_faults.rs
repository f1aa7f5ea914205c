//! The real program with unusable mailboxes, and without its mail directory. Replies must be right,
//! other mail must go on, and when the fault is over mail must be delivered again without a
//! restart.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::directory::TestDirectory;
use crate::harness::ledger::Ledger;
use crate::harness::message::TestMessage;

/// Unusable mailboxes: a description, how to make one, and what the log says.
type Unusable = (&'static str, fn(&Path), &'static str);

const UNUSABLE: &[Unusable] = &[
    ("a symbolic link", |path| symlink(path.with_file_name("bob"), path).unwrap(), "symbolic link"),
    ("a dangling link", |path| symlink("/nonexistent", path).unwrap(), "symbolic link"),
    (
        "a second link of a mailbox",
        |path| {
            fs::write(path.with_file_name("dave"), b"").unwrap();
            fs::hard_link(path.with_file_name("dave"), path).unwrap();
        },
        "2 hard links",
    ),
    ("a FIFO", |path| mkfifo(path, Mode::from_bits_truncate(0o600)).unwrap(), "not a regular file"),
    ("a directory", |path| fs::create_dir(path).unwrap(), "is a directory"),
];

#[test]
fn unusable_mailbox_is_refused_and_logged() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--lock-timeout", "1", "--hold", "off"]);
    let mut ledger = Ledger::default();
    // One session has named its recipient before the fault, the other one names it after.
    for (i, (what, make, words)) in UNUSABLE.iter().enumerate() {
        let path = directory.mailbox_path("alice");
        let mut early = server.after_ehlo();
        early.command("MAIL FROM:<smith@example.org>", 250);
        early.command("RCPT TO:<alice@localhost>", 250);
        early.command("DATA", 354);
        make(&path);
        early.send(b"Subject: early\r\n\r\nearly\r\n");
        early.command(".", 451);
        let line = server.wait_for_log("delivery-failed");
        assert!(
            line.contains("alice") && (line.contains(words) || line.contains("open")),
            "{line}"
        );
        let late = TestMessage::new(format!("late-{i}"), &["alice"], 300);
        assert_eq!(ledger.send(&server.address, late), Some(450), "{what}");
        let line = server.wait_for_log("mailbox-unavailable");
        assert!(line.contains("alice") && line.contains(words), "{what}: {line}");
        ledger.deliver(server.address, TestMessage::new(format!("bob-{i}"), &["bob"], 300));
        match path.is_dir() && !path.is_symlink() {
            true => fs::remove_dir(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        ledger.deliver(server.address, TestMessage::new(format!("again-{i}"), &["alice"], 300));
        ledger.assert_matches(&directory);
        fs::remove_file(&path).unwrap();
        ledger.forget("alice");
        let _ = fs::remove_file(directory.mailbox_path("dave"));
    }
    server.stop();
    directory.assert_clean(&ledger.mailboxes());
}

#[test]
fn missing_mail_directory_is_451() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--lock-timeout", "1", "--hold", "off"]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["alice"], 300));
    fs::rename(directory.join("mail"), directory.join("away")).unwrap();
    let fate = ledger.send(&server.address, TestMessage::new("lost", &["alice"], 300));
    assert_eq!(fate, Some(451));
    let line = server.wait_for_log("delivery-failed");
    assert!(line.contains("alice") && line.contains("No such file"), "{line}");
    fs::rename(directory.join("away"), directory.join("mail")).unwrap();
    ledger.deliver(server.address, TestMessage::new("again", &["alice", "bob"], 300));
    ledger.assert_matches(&directory);
}
