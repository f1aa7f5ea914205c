//! The real program while its disk fails: single calls that strace fails, and file systems that are
//! full or read-only.
//!
//! Each time the reply must be right, mailboxes must be unchanged unless it was 250, one log line
//! must name mailbox and cause, other mail must go on, and when the fault is over mail must be
//! delivered without a restart.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::harness::directory::TestDirectory;
use crate::harness::ledger::Ledger;
use crate::harness::message::TestMessage;
use crate::harness::namespace::Namespace;
use crate::harness::server::{PROGRAM, Server, copy_program};
use crate::harness::strace::{Strace, call_names, thread_of};
use crate::harness::wait_until;

const LARGE: usize = 300 * 1024;

/// Errors, the codes besides 451 that they may cause, their text in the log, and whether they may
/// last. No disk returns EINTR forever.
const ERRORS: &[(&str, u16, &str, bool)] = &[
    ("ENOSPC", 452, "No space left on device", true),
    ("EDQUOT", 552, "quota exceeded", true),
    ("EFBIG", 552, "File too large", true),
    ("EIO", 451, "Input/output error", true),
    ("EMFILE", 451, "Too many open files", true),
    ("EAGAIN", 451, "temporarily unavailable", true),
    ("EINTR", 451, "Interrupted system call", false),
];

#[test]
#[ignore = "needs strace"]
fn each_call_of_the_writer_fails_small_message() {
    fail_each_call(&["writer"], &["a", "b", "c"], 5000, 4);
}

#[test]
#[ignore = "needs strace"]
fn each_call_of_the_writer_fails_large_message() {
    fail_each_call(&["writer"], &["a", "b"], LARGE, 3);
}

#[test]
#[ignore = "needs strace"]
fn each_call_of_the_session_fails_large_message() {
    fail_each_call(&["session-0", "session-1"], &["a"], LARGE, 2);
}

/// Fails the calls on files that the threads `group` make during one delivery: each call, with each
/// error, the first `most` times once, and from the first and second time on.
fn fail_each_call(group: &[&str], to: &[&str], length: usize, most: usize) {
    let directory = TestDirectory::in_memory();
    let server = directory.start(&["--threads", "2", "--lock-timeout", "1", "--hold", "off"]);
    let mut ledger = Ledger::default();
    let mut runs = FaultRun { directory: &directory, server: &server, group, fired: 0 };
    ledger.deliver(server.address, TestMessage::new("first", &to[..1], 500));
    let (_, calls) = runs.run(&mut ledger, TestMessage::new("plain", to, length), None);
    let mut names = call_names(&calls);
    names.retain(|name| ON_FILES.contains(&name.as_str()));
    assert!(names.len() > 3, "{names:?}");
    let mut number = 0;
    let contents =
        || -> Vec<Vec<u8>> { to.iter().map(|name| directory.mailbox_bytes(name)).collect() };
    for name in &names {
        for &(error, code, words, lasts) in ERRORS {
            let once = (1..=most).map(|n| n.to_string());
            let lasting = (1..=2).filter(|_| lasts).map(|n| format!("{n}+"));
            for when in once.chain(lasting) {
                number += 1;
                let before = contents();
                let message = TestMessage::new(format!("try-{number}"), to, length);
                let inject = format!("inject={name}:error={error}:when={when}");
                let (answer, calls) = runs.run(&mut ledger, message, Some(&inject));
                let Some(code_of_reply) = answer else { panic!("{inject}: no reply") };
                let unsynced = name.ends_with("sync") && error != "EINTR";
                assert!(
                    code_of_reply != 250 || !unsynced || !calls.contains("(INJECTED)"),
                    "{inject}"
                );
                if code_of_reply != 250 {
                    assert!(
                        before == contents(),
                        "{inject}: {code_of_reply}, but a mailbox changed"
                    );
                    // The quota of a user does not apply to the journal and temporary files, so
                    // their errors are no 552.
                    let codes =
                        if group == ["writer"] { [451, 452, code] } else { [452, 450, code] };
                    assert!(
                        code_of_reply == 451 || codes.contains(&code_of_reply),
                        "{inject}: {code_of_reply}"
                    );
                    // For a lock, EAGAIN means that another process holds it.
                    server.wait_for_any_log(&[words, "mailbox-busy"]);
                }
                let next = TestMessage::new(format!("next-{number}"), to, 300);
                let answer = ledger.send(&server.address, next);
                assert_eq!(answer, Some(250), "after {inject}\n{}", tail(&calls));
                if !calls.contains("(INJECTED)") {
                    break; // there are no more calls of this name
                }
            }
        }
        ledger.assert_matches(&directory);
        if length > 10_000 {
            // Otherwise the mailboxes grow without limit. They are not open or locked.
            for name in to {
                fs::write(directory.mailbox_path(name), b"").unwrap();
            }
            ledger = Ledger::default();
        }
    }
    println!("{} faults in {group:?}, {number} tries, {length} bytes", runs.fired);
    assert!(runs.fired > 20);
    let (_, status) = server.stop();
    assert_eq!(status.code(), Some(0));
    ledger.assert_matches(&directory);
    // The next start removes content that could not be removed.
    directory.start(&[]).stop();
    directory.assert_clean(&to.iter().map(|name| (*name).to_owned()).collect());
}

/// Calls on files, not on sockets and threads. close is not among them, because the kernel releases
/// the descriptor and its locks whatever it returns, and strace would keep both.
const ON_FILES: &[&str] = &[
    "openat",
    "write",
    "writev",
    "pwritev",
    "pwrite64",
    "pread64",
    "fdatasync",
    "fsync",
    "fcntl",
    "flock",
    "linkat",
    "unlink",
    "unlinkat",
    "ftruncate",
    "statx",
    "lseek",
    "fchmod",
    "getdents64",
];

struct FaultRun<'a> {
    directory: &'a TestDirectory,
    server: &'a Server,
    group: &'a [&'a str],
    fired: usize,
}

impl FaultRun<'_> {
    /// Sends a message while a call fails. Returns the reply code, and the calls.
    fn run(
        &mut self,
        ledger: &mut Ledger<u16>,
        message: TestMessage,
        inject: Option<&str>,
    ) -> (Option<u16>, String) {
        let pid = self.server.pid();
        let tids: Vec<Pid> = self.group.iter().map(|name| thread_of(pid, name)).collect();
        let strace = Strace::attach(self.directory, &tids, inject);
        let answer = ledger.send(&self.server.address, message);
        let calls = strace.detach();
        self.fired += calls.matches("(INJECTED)").count();
        (answer, calls)
    }
}

/// Attaches strace to threads of the server, with these calls failing.
fn failing(directory: &TestDirectory, server: &Server, names: &[&str], injects: &[&str]) -> Strace {
    let tids: Vec<Pid> = names.iter().map(|name| thread_of(server.pid(), name)).collect();
    Strace::attach(directory, &tids, injects)
}

#[test]
#[ignore = "needs strace"]
fn failed_truncation_is_repeated_before_the_next_message() {
    for (call, length) in [("writev:error=EIO:when=2", 5000), ("writev:error=EIO:when=3", LARGE)] {
        let directory = TestDirectory::in_memory();
        let server = directory.start(&["--hold", "off"]);
        let mut ledger = Ledger::default();
        ledger.deliver(server.address, TestMessage::new("first", &["a", "b"], 500));
        let call = format!("inject={call}");
        let strace =
            failing(&directory, &server, &["writer"], &[&call, "inject=ftruncate:error=EIO"]);
        let answer = ledger.send(&server.address, TestMessage::new("torn", &["a", "b"], length));
        assert_eq!(answer, Some(451));
        let calls = strace.detach();
        assert!(calls.matches("(INJECTED)").count() >= 2, "{call}: {}", tail(&calls));
        let line = server.wait_for_log("/mail/a error=");
        assert!(line.contains("truncate-failed") && line.contains("Input/output"), "{line}");
        ledger.deliver(server.address, TestMessage::new("next", &["b", "a"], 500));
        ledger.assert_matches(&directory);
        server.stop();
        ledger.assert_matches(&directory);
    }
}

#[test]
#[ignore = "needs strace"]
fn journal_is_replaced_after_a_failed_sync() {
    let directory = TestDirectory::in_memory();
    let server = directory.start(&["--hold", "off"]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["a", "b"], 500));
    let inode = || {
        let mut names = directory.names("spool");
        names.retain(|name| name.starts_with("journal-"));
        assert_eq!(names.len(), 1, "{names:?}");
        fs::metadata(directory.join("spool").join(&names[0])).unwrap().ino()
    };
    let before = inode();
    let inject = "inject=fdatasync:error=EIO:when=1";
    let strace = failing(&directory, &server, &["writer"], &[inject]);
    let answer = ledger.send(&server.address, TestMessage::new("unsynced", &["a", "b"], 500));
    assert_eq!(answer, Some(451));
    assert!(strace.detach().contains("(INJECTED)"));
    let line = server.wait_for_log("journal-failed");
    assert!(line.contains("journal-0") && line.contains("Input/output error"), "{line}");
    ledger.deliver(server.address, TestMessage::new("next", &["a", "b"], 500));
    assert_ne!(inode(), before);
    // The record may have been written, but must not be recovered.
    server.signal(Signal::SIGKILL);
    server.ended();
    let server = directory.start(&["--hold", "off"]);
    ledger.assert_matches(&directory);
    server.stop();
    directory.assert_clean(&ledger.mailboxes());
}

#[test]
#[ignore = "needs strace"]
fn mailbox_is_rewritten_after_a_failed_sync_then_suspended() {
    for (threads, suspended) in [(&["checkpoint"][..], false), (&["checkpoint", "writer"], true)] {
        let directory = TestDirectory::in_memory();
        let server = directory.start(&["--hold", "off"]);
        let mut ledger = Ledger::default();
        ledger.deliver(server.address, TestMessage::new("first", &["a"], 500));
        // After the sync of the record comes that of the mailbox, and then its retry.
        let inject = "inject=fdatasync:error=EIO:when=1";
        let strace = failing(&directory, &server, threads, &[inject]);
        let line = server.wait_for_log("sync-failed");
        assert!(line.contains("/mail/a ") && line.contains("Input/output error"), "{line}");
        if suspended {
            let line = server.wait_for_log("mailbox-suspended");
            assert!(line.contains("/a ") && line.contains("Input/output error"), "{line}");
        }
        assert!(strace.detach().contains("(INJECTED)"));
        // The fault is over, so the suspended mailbox is recovered when mail comes for it.
        ledger.deliver(server.address, TestMessage::new("bob", &["b"], 500));
        ledger.deliver(server.address, TestMessage::new("next", &["a"], 500));
        ledger.assert_matches(&directory);
        server.signal(Signal::SIGKILL);
        server.ended();
        let server = directory.start(&["--hold", "off"]);
        ledger.deliver(server.address, TestMessage::new("after", &["a", "b"], 500));
        ledger.assert_matches(&directory);
        server.stop();
        directory.assert_clean(&ledger.mailboxes());
    }
}

#[test]
#[ignore = "needs root"]
fn mailbox_of_another_user_is_450() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--hold", "off"]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["alice"], 300));
    std::os::unix::fs::chown(directory.mailbox_path("alice"), Some(65_534), None).unwrap();
    let answer = ledger.send(&server.address, TestMessage::new("theirs", &["alice"], 300));
    assert_eq!(answer, Some(450));
    let line = server.wait_for_log("mailbox-unavailable");
    assert!(line.contains("alice") && line.contains("belongs to uid 65534"), "{line}");
    ledger.deliver(server.address, TestMessage::new("bob", &["bob"], 300));
    std::os::unix::fs::chown(directory.mailbox_path("alice"), Some(0), None).unwrap();
    ledger.deliver(server.address, TestMessage::new("again", &["alice"], 300));
    ledger.assert_matches(&directory);
}

#[test]
#[ignore = "needs root"]
fn mailbox_without_permission_is_451() {
    let directory = TestDirectory::new();
    // The program runs as a user that permissions apply to. It is a copy, because that user may not
    // read cargo's directory.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let copy = directory.join("mailslot");
    copy_program(&copy);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let copy_instead = ["sh", "-c", "shift && exec \"$0\" \"$@\"", copy.to_str().unwrap()];
    let server = directory.start_by(&[&nobody[..], &copy_instead].concat(), &["--hold", "off"]);
    let server = server.unwrap_or_else(|(log, _)| panic!("{log:#?}"));
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["alice"], 300));
    let allow = |mode| {
        fs::set_permissions(directory.mailbox_path("alice"), fs::Permissions::from_mode(mode))
            .unwrap();
    };
    for mode in [0o000, 0o400] {
        allow(mode);
        let message = TestMessage::new(format!("mode-{mode:o}"), &["bob", "alice"], 300);
        assert_eq!(ledger.send(&server.address, message), Some(451));
        let line = server.wait_for_log("delivery-failed");
        assert!(line.contains("alice") && line.contains("Permission denied"), "{line}");
        ledger.deliver(server.address, TestMessage::new(format!("bob-{mode:o}"), &["bob"], 300));
        allow(0o600);
        ledger
            .deliver(server.address, TestMessage::new(format!("again-{mode:o}"), &["alice"], 300));
    }
    ledger.assert_matches(&directory);
}

/// Starts a server in a mount namespace of its own, in which the directory `name` is a tmpfs.
fn start_on_tmpfs(directory: &TestDirectory, name: &str, size: &str) -> Server {
    for name in ["mail", "spool"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    let path = directory.join(name);
    let mount = format!("mount -t tmpfs -o size={size},mode=700 tmpfs '{}'", path.display());
    let starter = Namespace::new().run(&mount).words();
    let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
    let started = directory.start_by(&starter, &["--lock-timeout", "1", "--hold", "off"]);
    started.unwrap_or_else(|(log, _)| panic!("{log:#?}"))
}

/// Checks the mailboxes as the server sees them.
fn check_inside(directory: &TestDirectory, server: &Server, ledger: &Ledger<u16>) {
    let mail = format!("/proc/{}/root{}/mail", server.pid(), directory.as_str());
    let read = |name: String| {
        let bytes = fs::read(Path::new(&mail).join(&name)).unwrap_or_default();
        (name, bytes)
    };
    ledger.assert_matches(&ledger.mailboxes().into_iter().map(read).collect::<BTreeMap<_, _>>());
}

/// Mounts the directory `name` again with these options, as soon as no file in it is open for
/// writing.
fn remount(directory: &TestDirectory, server: &Server, name: &str, options: &str) {
    let (pid, path) = (server.pid().to_string(), directory.join(name));
    wait_until(&format!("mounted with {options}"), || {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "mount", "-o", &format!("remount,{options}")]);
        command.arg(&path).stderr(Stdio::null()).status().unwrap().success()
    });
}

#[test]
#[ignore = "needs root"]
fn full_mail_directory_is_452() {
    let directory = TestDirectory::new();
    let server = start_on_tmpfs(&directory, "mail", "1m");
    let mut ledger = Ledger::default();
    let mut refused = 0;
    for n in 0..60 {
        // Small and large messages, to one mailbox and to two, so that the disk also fills within
        // one.
        let length = [30_000, LARGE, 4000, 90_000][n % 4];
        let to = [&["alice"][..], &["alice", "bob"]][n / 2 % 2];
        match ledger.send(&server.address, TestMessage::new(format!("message-{n}"), to, length)) {
            Some(250) => {}
            Some(452) => refused += 1,
            other => panic!("message {n}: {other:?}"),
        }
        check_inside(&directory, &server, &ledger);
    }
    assert!(refused > 10 && ledger.accepted() > 5, "{refused} of 60 refused");
    let line = server.wait_for_log("delivery-failed");
    let named = line.contains("/alice ") || line.contains("/bob ");
    assert!(line.contains("No space left") && named, "{line}");
    remount(&directory, &server, "mail", "size=8m");
    ledger.deliver(server.address, TestMessage::new("again", &["alice", "bob"], LARGE));
    check_inside(&directory, &server, &ledger);
    println!("a full tmpfs: {refused} refused, {} accepted", ledger.accepted());
}

#[test]
#[ignore = "needs root"]
fn full_spool_is_452_for_large_messages_only() {
    let directory = TestDirectory::new();
    let server = start_on_tmpfs(&directory, "spool", "20m");
    let mut ledger = Ledger::default();
    for n in 0..5 {
        let message = TestMessage::new(format!("huge-{n}"), &["alice"], 5 << 20);
        assert_eq!(ledger.send(&server.address, message), Some(452));
        ledger.deliver(server.address, TestMessage::new(format!("small-{n}"), &["alice"], 3000));
        // A smaller message still fits, when the one before has been synced and has left the spool.
        let mut tries = 0;
        wait_until("a large message fits", || {
            tries += 1;
            let id = format!("large-{n}-{tries}");
            let message = TestMessage::new(id, &["alice"], 2 << 20);
            ledger.send(&server.address, message) == Some(250)
        });
    }
    ledger.assert_matches(&directory);
}

#[test]
#[ignore = "needs root"]
fn read_only_mail_directory_is_451() {
    let directory = TestDirectory::new();
    let server = start_on_tmpfs(&directory, "mail", "8m");
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["alice"], 300));
    remount(&directory, &server, "mail", "ro");
    for length in [300, LARGE] {
        let message = TestMessage::new(format!("lost-{length}"), &["alice", "bob"], length);
        assert_eq!(ledger.send(&server.address, message), Some(451));
        let line = server.wait_for_log("delivery-failed");
        assert!(line.contains("alice") && line.contains("Read-only file system"), "{line}");
    }
    remount(&directory, &server, "mail", "rw");
    ledger.deliver(server.address, TestMessage::new("again", &["alice", "bob"], LARGE));
    check_inside(&directory, &server, &ledger);
}

const HELLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<smith@example.org>";
const RCPT: &str = "RCPT TO:<jones@here.example>";
const TEXT: &str = "Subject: x\r\n\r\nhello\r\n.";

/// The mail directory is a disk of 100 KiB.
#[test]
#[ignore = "needs root, to mount a disk that is soon full"]
fn full_disk_is_452_with_inetd() {
    let directory = TestDirectory::new();
    fs::create_dir(directory.join("mail")).unwrap();
    let message = |size: &str, text: &str| format!("{MAIL}{size}\r\n{RCPT}\r\nDATA\r\n{text}\r\n");
    let big = format!("Subject: big\r\n\r\n{}.", "0123456789\r\n".repeat(9_000));
    let dialogue = [
        format!("{HELLO}\r\n"),
        message("", TEXT),
        format!("{MAIL} SIZE=80000\r\n"),
        message("", &big),
        message(" SIZE=20", TEXT),
        "QUIT\r\n".to_owned(),
    ];
    fs::write(directory.join("dialogue"), dialogue.concat()).unwrap();
    let script = "\"$2\" --inetd --hold off --log stderr --sandbox \"$1\" <\"$1/dialogue\"; \
        cat \"$1/mail/jones\"";
    let mail = directory.join("mail");
    let output = Namespace::new()
        .run(&format!("mount -t tmpfs -o size=100k none '{}'", mail.display()))
        .command()
        .args(["sh", "-ec", script, "sh", directory.as_str(), PROGRAM])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (replies, mailbox) = text.split_at(text.find("From smith").expect("a mailbox"));
    let ends: Vec<&str> = replies
        .lines()
        .filter(|line| line.as_bytes()[3] == b' ')
        .map(|line| &line[..line.len().min(9)])
        .collect();
    let taken = ["250 2.1.0", "250 2.1.5", "354 Start", "250 2.6.0"];
    let refused = ["250 2.1.0", "250 2.1.5", "354 Start", "452 4.3.1"];
    let expected = [&taken[..], &["452 4.3.1"], &refused, &taken, &["221 2.0.0"]].concat();
    assert_eq!(ends[2..], expected, "{replies}");
    assert_eq!(mailbox.matches("From smith").count(), 2);
    assert!(!mailbox.contains("big"), "{mailbox:.2000}");
}

fn tail(calls: &str) -> String {
    let lines: Vec<&str> = calls.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
