//! Mail of this host's programs that cannot be delivered now, with the real program: it is
//! accepted, waits in the queue without a smarthost, and arrives once.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, run_mailslot};
use crate::harness::wait_until;

const TEXT: &str = "Subject: report\r\n\r\nThe disk is well.\r\n";

/// Runs `mailslot queue` with `words` in the sandbox `directory`.
fn queue(directory: &TestDirectory, words: &[&str]) -> (Option<i32>, String) {
    run_mailslot(&[&["queue"], words, &["--sandbox", directory.as_str(), "-q"]].concat())
}

/// Waits until an attempt at the only entry is recorded.
fn wait_for_attempt(directory: &TestDirectory) {
    wait_until("the attempt is recorded", || queue(directory, &[]).1.contains(" tries=1 "));
}

fn assert_empty(directory: &TestDirectory) {
    assert_eq!(queue(directory, &[]), (Some(0), "Mail queue is empty\n".to_owned()));
}

#[test]
fn mailbox_that_another_program_locks_for_long() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--lock-timeout", "1"]);
    let lock = directory.join("mail/smith.lock");
    server.after_ehlo().deliver("root@b", &["smith@b"], TEXT, 250);
    File::create_new(&lock).unwrap();
    server.after_ehlo().deliver("root@b", &["smith@b", "jones@b"], TEXT, 250);
    let line = server.wait_for_log("queued ");
    assert!(line.contains(" to=<smith@b> ") && line.contains(" error=\"451 4.2.0 "), "{line}");
    wait_until("jones has the message", || directory.count("jones") == 1);
    wait_for_attempt(&directory);
    let (_, listed) = queue(&directory, &[]);
    assert!(listed.contains("    to <smith@b>\n    last the mailbox is locked"), "{listed}");
    assert!(!listed.contains("jones"), "{listed}");
    // The queue survives a stop, and another process delivers it.
    server.stop();
    assert_eq!(queue(&directory, &["flush", "--lock-timeout", "1"]).0, Some(75));
    fs::remove_file(&lock).unwrap();
    let (code, printed) = queue(&directory, &["flush"]);
    assert_eq!((code, printed.as_str()), (Some(0), "0 left in the queue\n"));
    assert_eq!((directory.count("smith"), directory.count("jones")), (2, 1));
    directory.assert_clean(&["smith", "jones"].map(str::to_owned).into());
}

#[test]
fn next_start_delivers_what_waits() {
    let directory = TestDirectory::new();
    let options = ["--lock-timeout", "1", "--domain", "b"];
    let lock = directory.join("mail/smith.lock");
    let server = directory.start(&options);
    File::create_new(&lock).unwrap();
    server.after_ehlo().deliver("root@b", &["smith@b"], TEXT, 250);
    server.kill();
    fs::remove_file(&lock).unwrap();
    let server = directory.start(&options);
    wait_until("the queue is empty", || directory.queue().is_empty());
    assert_eq!(directory.count("smith"), 1);
    let (log, _) = server.stop();
    assert!(log.iter().any(|line| line.contains("held-delivered ")), "{log:#?}");
}

#[test]
fn aliases_with_an_error_and_a_mail_directory_that_is_gone() {
    let directory = TestDirectory::new();
    let aliases = directory.join("aliases");
    fs::write(&aliases, "ops: smith\n").unwrap();
    let options = ["--domain", "b", "--aliases", aliases.to_str().unwrap()];
    let server = directory.start(&options);
    fs::write(&aliases, "ops: someone\nsomeone: no-one-2\nno-one-2: ops\n").unwrap();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.wait_for_log("reloaded");
    server.after_ehlo().deliver("root@b", &["ops@b"], TEXT, 250);
    let line = server.wait_for_log("queued ");
    assert!(line.contains(" to=<ops@b> ") && line.contains(" error=\"451 4.3.5 "), "{line}");
    server.wait_for_log("held-deferred");
    // The mail directory is away, as when a disk is not mounted.
    fs::write(&aliases, "ops: smith\n").unwrap();
    fs::rename(directory.join("mail"), directory.join("away")).unwrap();
    server.after_ehlo().deliver("root@b", &["jones@b"], TEXT, 250);
    server.wait_for_log("held-deferred");
    fs::rename(directory.join("away"), directory.join("mail")).unwrap();
    server.stop();
    let flush = [&["flush"], &options[..]].concat();
    assert_eq!(queue(&directory, &flush), (Some(0), "0 left in the queue\n".to_owned()));
    assert_eq!((directory.count("smith"), directory.count("jones")), (1, 1));
    assert_empty(&directory);
}

#[test]
fn full_mailbox_waits_until_its_owner_has_read_it() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--mailbox-limit", "2000"]);
    fs::write(directory.mailbox_path("smith"), "x".repeat(2000)).unwrap();
    server.after_ehlo().deliver("root@b", &["smith@b"], TEXT, 250);
    wait_for_attempt(&directory);
    let (_, listed) = queue(&directory, &[]);
    assert!(listed.contains("    last the mailbox is full\n"), "{listed}");
    server.stop();
    fs::write(directory.mailbox_path("smith"), "").unwrap();
    assert_eq!(queue(&directory, &["flush", "--mailbox-limit", "2000"]).0, Some(0));
    assert_eq!(directory.count("smith"), 1);
}

/// A session on a pipe has no queue of its own. What it leaves is delivered by `queue flush`.
#[test]
fn inetd_session_leaves_it_to_the_next_flush() {
    let directory = TestDirectory::new();
    directory.start(&[]).stop();
    fs::create_dir(directory.mailbox_path("smith")).unwrap();
    let dialogue = directory.join("dialogue");
    let lines =
        ["EHLO c", "MAIL FROM:<a@b>", "RCPT TO:<smith@b>", "DATA", TEXT.trim_end(), ".", "QUIT"];
    fs::write(&dialogue, lines.join("\r\n") + "\r\n").unwrap();
    let printed = inetd(&directory, &dialogue);
    let replies = String::from_utf8(printed.stdout).unwrap();
    assert!(replies.contains("\n250 2.6.0 Message: OK, queued as "), "{replies}");
    let (_, listed) = queue(&directory, &[]);
    assert!(listed.contains(" tries=0 ") && listed.contains("    last 450 4.2.0 "), "{listed}");
    // Programs get the reason, too.
    let (_, listed) = queue(&directory, &["--json"]);
    assert!(listed.contains(",\"last\":\"450 4.2.0 "), "{listed}");
    fs::remove_dir(directory.mailbox_path("smith")).unwrap();
    assert_eq!(queue(&directory, &["flush"]).0, Some(0));
    assert_eq!(directory.count("smith"), 1);
}

fn inetd(directory: &TestDirectory, input: &Path) -> Output {
    let args = ["--inetd", "--log", "stderr", "--sandbox", directory.as_str()];
    let mut command: Command = crate::harness::server::mailslot(&args);
    command.stdin(File::open(input).unwrap()).output().unwrap()
}

#[test]
fn hold_off_has_no_queue() {
    let server = Server::start(&["--lock-timeout", "1", "--hold", "off"]);
    File::create_new(server.join("mail/smith.lock")).unwrap();
    server.after_ehlo().deliver("root@b", &["smith@b"], TEXT, 451);
    assert_eq!(server.queue(), [""; 0]);
    let (code, printed) = queue(&server, &["flush", "--hold", "off"]);
    assert_eq!(code, Some(78));
    assert!(printed.contains("no --smarthost is given, and --hold is off"), "{printed}");
}
