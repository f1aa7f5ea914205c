//! The real program while its disk fails: single calls that strace fails, and file systems and
//! mailboxes that are really full, read-only, or not what a mailbox is.
//!
//! What must hold each time: the reply is honest and of the design's table, the mailboxes have
//! their old octets unless it was a 250, one line of the log names mailbox and cause, others go
//! on, and when the fault is over mail flows again, without a restart.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::outside::{Fate, Home, Ledger, Letter, Strace, call_names, thread as tid_of};
use crate::harness::server::{PATIENCE, PROGRAM, Server};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

const LARGE: usize = 300 * 1024;

/// An error, the codes that it may be answered with besides 451, its words in the log, and whether
/// it may last: one that says "again" is not failed for ever by any disk.
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
fn each_call_of_the_writer_fails_for_a_small_message() {
    fail_each_call(&["writer"], &["a", "b", "c"], 5000, 4);
}

#[test]
#[ignore = "needs strace"]
fn each_call_of_the_writer_fails_for_a_large_message() {
    fail_each_call(&["writer"], &["a", "b"], LARGE, 3);
}

#[test]
#[ignore = "needs strace"]
fn each_call_of_the_session_fails_for_a_large_message() {
    fail_each_call(&["session-0", "session-1"], &["a"], LARGE, 2);
}

/// Fails the calls that `group` makes on files during one delivery: each name, each error, the
/// first `most` of its calls once, and from the first and second on.
fn fail_each_call(group: &[&str], to: &[&str], octets: usize, most: usize) {
    let home = Home::in_memory();
    let server = home.start(&["--threads", "2", "--lock-timeout", "1"]);
    let mut ledger = Ledger::default();
    let mut tries = Tries { home: &home, server: &server, group, fired: 0 };
    ledger.deliver(server.address, Letter::new("first", &to[..1], 500));
    let (_, calls) = tries.run(&mut ledger, Letter::new("plain", to, octets), None);
    let mut names = call_names(&calls);
    names.retain(|name| ON_FILES.contains(&name.as_str()));
    assert!(names.len() > 3, "{names:?}");
    let mut number = 0;
    let contents = || -> Vec<Vec<u8>> { to.iter().map(|name| home.read(name)).collect() };
    for name in &names {
        for &(error, code, words, lasts) in ERRORS {
            let once = (1..=most).map(|n| n.to_string());
            let lasting = (1..=2).filter(|_| lasts).map(|n| format!("{n}+"));
            for when in once.chain(lasting) {
                number += 1;
                let before = contents();
                let letter = Letter::new(format!("try-{number}"), to, octets);
                let inject = format!("inject={name}:error={error}:when={when}");
                let (fate, calls) = tries.run(&mut ledger, letter, Some(&inject));
                let Fate::Code(said) = fate else { panic!("{inject}: no reply") };
                let unsynced = name.ends_with("sync") && error != "EINTR";
                assert!(said != 250 || !unsynced || !calls.contains("(INJECTED)"), "{inject}");
                if said != 250 {
                    assert!(before == contents(), "{inject}: {said}, but a mailbox changed");
                    // Journal and temporary file are no user's: no quota of theirs makes a 552.
                    let codes =
                        if group == ["writer"] { [451, 452, code] } else { [452, 450, code] };
                    assert!(said == 451 || codes.contains(&said), "{inject}: {said}");
                    // A lock that says "again" is one that somebody holds.
                    server.wait_for_any_log(&[words, "mailbox-busy"]);
                }
                let next = Letter::new(format!("next-{number}"), to, 300);
                let fate = ledger.send(server.address, next);
                assert_eq!(fate, Fate::Code(250), "after {inject}\n{}", tail(&calls));
                if !calls.contains("(INJECTED)") {
                    break; // it makes no more calls of this name
                }
            }
        }
        ledger.check(&home);
        if octets > 10_000 {
            // Else they grow beyond bounds. Nobody has them open or locked.
            for name in to {
                fs::write(home.mailbox(name), b"").unwrap();
            }
            ledger = Ledger::default();
        }
    }
    println!("{} faults fired in {group:?}, {number} tries, {octets} octets", tries.fired);
    assert!(tries.fired > 20);
    let (_, status) = server.stop();
    assert_eq!(status.code(), Some(0));
    ledger.check(&home);
    home.assert_tidy(&to.iter().map(|name| (*name).to_owned()).collect());
}

/// Calls on files, as opposed to sockets and threads.
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
    "close",
    "getdents64",
];

struct Tries<'a> {
    home: &'a Home,
    server: &'a Server,
    group: &'a [&'a str],
    fired: usize,
}

impl Tries<'_> {
    /// Sends a letter while these calls fail; what it was answered, and the calls.
    fn run(&mut self, ledger: &mut Ledger, letter: Letter, inject: Option<&str>) -> (Fate, String) {
        let pid = self.server.pid();
        let tids: Vec<Pid> = self.group.iter().map(|name| tid_of(pid, name)).collect();
        let options: Vec<&str> = inject.iter().flat_map(|inject| ["-e", *inject]).collect();
        let strace = Strace::attach(self.home, &tids, &options);
        let fate = ledger.send(self.server.address, letter);
        let calls = strace.detach();
        self.fired += calls.matches("(INJECTED)").count();
        (fate, calls)
    }
}

/// strace on threads of the server, with these calls failing.
fn failing(home: &Home, server: &Server, names: &[&str], injects: &[&str]) -> Strace {
    let tids: Vec<Pid> = names.iter().map(|name| tid_of(server.pid(), name)).collect();
    let options: Vec<&str> = injects.iter().flat_map(|inject| ["-e", *inject]).collect();
    Strace::attach(home, &tids, &options)
}

#[test]
#[ignore = "needs strace"]
fn a_mailbox_that_could_not_be_cut_back_is_before_the_next_message() {
    for (call, octets) in [("writev:error=EIO:when=2", 5000), ("writev:error=EIO:when=3", LARGE)] {
        let home = Home::in_memory();
        let server = home.start(&[]);
        let mut ledger = Ledger::default();
        ledger.deliver(server.address, Letter::new("first", &["a", "b"], 500));
        let call = format!("inject={call}");
        let strace = failing(&home, &server, &["writer"], &[&call, "inject=ftruncate:error=EIO"]);
        let fate = ledger.send(server.address, Letter::new("torn", &["a", "b"], octets));
        assert_eq!(fate, Fate::Code(451));
        let calls = strace.detach();
        assert!(calls.matches("(INJECTED)").count() >= 2, "{call}: {}", tail(&calls));
        let line = server.wait_for_log("/mail/a error=");
        assert!(line.contains("truncate-failed") && line.contains("Input/output"), "{line}");
        ledger.deliver(server.address, Letter::new("next", &["b", "a"], 500));
        ledger.check(&home);
        server.stop();
        ledger.check(&home);
    }
}

#[test]
#[ignore = "needs strace"]
fn a_journal_whose_sync_failed_is_not_synced_again_but_made_anew() {
    let home = Home::in_memory();
    let server = home.start(&[]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, Letter::new("first", &["a", "b"], 500));
    let inode = || {
        let names = home.names("spool");
        assert_eq!(names.len(), 1, "{names:?}");
        fs::metadata(home.path().join("spool").join(&names[0])).unwrap().ino()
    };
    let before = inode();
    let inject = "inject=fdatasync:error=EIO:when=1";
    let strace = failing(&home, &server, &["writer"], &[inject]);
    let fate = ledger.send(server.address, Letter::new("unsynced", &["a", "b"], 500));
    assert_eq!(fate, Fate::Code(451));
    assert!(strace.detach().contains("(INJECTED)"));
    let line = server.wait_for_log("journal-failed");
    assert!(line.contains("journal-0") && line.contains("Input/output error"), "{line}");
    ledger.deliver(server.address, Letter::new("next", &["a", "b"], 500));
    assert_ne!(inode(), before);
    // The record that was written, perhaps, must not come to life.
    server.signal(Signal::SIGKILL);
    server.ended();
    let server = home.start(&[]);
    ledger.check(&home);
    server.stop();
    home.assert_tidy(&ledger.mailboxes());
}

#[test]
#[ignore = "needs strace"]
fn a_mailbox_whose_sync_fails_is_written_again_and_suspended_if_that_fails() {
    for (threads, suspended) in [(&["checkpoint"][..], false), (&["checkpoint", "writer"], true)] {
        let home = Home::in_memory();
        let server = home.start(&[]);
        let mut ledger = Ledger::default();
        ledger.deliver(server.address, Letter::new("first", &["a"], 500));
        // The journal's record is synced; what comes next is the mailbox, and its second try.
        let inject = "inject=fdatasync:error=EIO:when=1";
        let strace = failing(&home, &server, threads, &[inject]);
        let line = server.wait_for_log("sync-failed");
        assert!(line.contains("/mail/a ") && line.contains("Input/output error"), "{line}");
        if suspended {
            let line = server.wait_for_log("mailbox-suspended");
            assert!(line.contains("/a ") && line.contains("Input/output error"), "{line}");
        }
        assert!(strace.detach().contains("(INJECTED)"));
        // The fault is over: what was suspended is recovered when mail comes for it.
        ledger.deliver(server.address, Letter::new("bob", &["b"], 500));
        ledger.deliver(server.address, Letter::new("next", &["a"], 500));
        ledger.check(&home);
        server.signal(Signal::SIGKILL);
        server.ended();
        let server = home.start(&[]);
        ledger.deliver(server.address, Letter::new("after", &["a", "b"], 500));
        ledger.check(&home);
        server.stop();
        home.assert_tidy(&ledger.mailboxes());
    }
}

#[test]
#[ignore = "needs root"]
fn a_mailbox_of_somebody_else_is_refused() {
    let home = Home::new();
    let server = home.start(&[]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, Letter::new("first", &["alice"], 300));
    std::os::unix::fs::chown(home.mailbox("alice"), Some(65_534), None).unwrap();
    let fate = ledger.send(server.address, Letter::new("theirs", &["alice"], 300));
    assert_eq!(fate, Fate::Code(450));
    let line = server.wait_for_log("mailbox-unavailable");
    assert!(line.contains("alice") && line.contains("belongs to uid 65534"), "{line}");
    ledger.deliver(server.address, Letter::new("bob", &["bob"], 300));
    std::os::unix::fs::chown(home.mailbox("alice"), Some(0), None).unwrap();
    ledger.deliver(server.address, Letter::new("again", &["alice"], 300));
    ledger.check(&home);
}

#[test]
#[ignore = "needs root"]
fn a_mailbox_that_may_not_be_opened_is_a_451() {
    let home = Home::new();
    // The program as somebody to whom permissions mean something; a copy, since the one that cargo
    // built may be in a folder that is closed to others.
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let copy = home.path().join("mailslot");
    fs::copy(PROGRAM, &copy).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let instead = ["sh", "-c", "shift && exec \"$0\" \"$@\"", copy.to_str().unwrap()];
    let server = home.start_by(&[&nobody[..], &instead].concat(), &[]);
    let server = server.unwrap_or_else(|(log, _)| panic!("{log:#?}"));
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, Letter::new("first", &["alice"], 300));
    let allow = |mode| {
        fs::set_permissions(home.mailbox("alice"), fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o000, 0o400] {
        allow(mode);
        let letter = Letter::new(format!("mode-{mode:o}"), &["bob", "alice"], 300);
        assert_eq!(ledger.send(server.address, letter), Fate::Code(451));
        let line = server.wait_for_log("delivery-failed");
        assert!(line.contains("alice") && line.contains("Permission denied"), "{line}");
        ledger.deliver(server.address, Letter::new(format!("bob-{mode:o}"), &["bob"], 300));
        allow(0o600);
        ledger.deliver(server.address, Letter::new(format!("again-{mode:o}"), &["alice"], 300));
    }
    ledger.check(&home);
}

/// A server in a mount namespace of its own, which ends with it, `folder` being a tmpfs.
fn start_on_tmpfs(home: &Home, folder: &str, size: &str) -> Server {
    for name in ["mail", "spool"] {
        fs::create_dir(home.path().join(name)).unwrap();
    }
    let mount = format!("mount -t tmpfs -o size={size} tmpfs \"$0/{folder}\" && exec \"$@\"");
    let starter = ["unshare", "-m", "sh", "-c", &mount, home.path().to_str().unwrap()];
    let started = home.start_by(&starter, &["--lock-timeout", "1"]);
    started.unwrap_or_else(|(log, _)| panic!("{log:#?}"))
}

/// The mailboxes as the server sees them.
fn check_inside(home: &Home, server: &Server, ledger: &Ledger) {
    let folder = format!("/proc/{}/root{}/mail", server.pid(), home.path().display());
    let read = |name: String| {
        let octets = fs::read(Path::new(&folder).join(&name)).unwrap_or_default();
        (name, octets)
    };
    ledger.check_boxes(&ledger.mailboxes().into_iter().map(read).collect());
}

/// Mounts the folder anew with these options; again while files on it are open for writing.
fn remount(home: &Home, server: &Server, folder: &str, options: &str) {
    let (pid, path) = (server.pid().to_string(), home.path().join(folder));
    let until = Instant::now() + PATIENCE;
    loop {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "mount", "-o", &format!("remount,{options}")]);
        let output = command.arg(&path).output().unwrap();
        if output.status.success() {
            return;
        }
        assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&output.stderr));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root"]
fn a_full_file_system_is_a_452_until_there_is_room() {
    let home = Home::new();
    let server = start_on_tmpfs(&home, "mail", "1m");
    let mut ledger = Ledger::default();
    let mut refused = 0;
    for n in 0..60 {
        // Small ones and large ones, to one mailbox and to two: some end in the middle of one.
        let octets = [30_000, LARGE, 4000, 90_000][n % 4];
        let to = [&["alice"][..], &["alice", "bob"]][n / 2 % 2];
        match ledger.send(server.address, Letter::new(format!("letter-{n}"), to, octets)) {
            Fate::Code(250) => {}
            Fate::Code(452) => refused += 1,
            other => panic!("letter {n}: {other:?}"),
        }
        check_inside(&home, &server, &ledger);
    }
    assert!(refused > 10 && ledger.count(250) > 5, "{refused} of 60 refused");
    let line = server.wait_for_log("delivery-failed");
    let named = line.contains("/alice ") || line.contains("/bob ");
    assert!(line.contains("No space left") && named, "{line}");
    remount(&home, &server, "mail", "size=8m");
    ledger.deliver(server.address, Letter::new("again", &["alice", "bob"], LARGE));
    check_inside(&home, &server, &ledger);
    println!("a full tmpfs: {refused} refused, {} taken", ledger.count(250));
}

#[test]
#[ignore = "needs root"]
fn a_full_spool_is_a_452_for_a_large_message_and_nothing_for_a_small_one() {
    let home = Home::new();
    let server = start_on_tmpfs(&home, "spool", "20m");
    let mut ledger = Ledger::default();
    for n in 0..5 {
        let letter = Letter::new(format!("huge-{n}"), &["alice"], 5 << 20);
        assert_eq!(ledger.send(server.address, letter), Fate::Code(452));
        ledger.deliver(server.address, Letter::new(format!("small-{n}"), &["alice"], 3000));
        // What the first left, the second finds.
        ledger.deliver(server.address, Letter::new(format!("large-{n}"), &["alice"], 2 << 20));
    }
    ledger.check(&home);
}

#[test]
#[ignore = "needs root"]
fn a_file_system_that_goes_read_only_is_a_451_until_it_is_writable() {
    let home = Home::new();
    let server = start_on_tmpfs(&home, "mail", "8m");
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, Letter::new("first", &["alice"], 300));
    remount(&home, &server, "mail", "ro");
    for octets in [300, LARGE] {
        let letter = Letter::new(format!("lost-{octets}"), &["alice", "bob"], octets);
        assert_eq!(ledger.send(server.address, letter), Fate::Code(451));
        let line = server.wait_for_log("delivery-failed");
        assert!(line.contains("alice") && line.contains("Read-only file system"), "{line}");
    }
    remount(&home, &server, "mail", "rw");
    ledger.deliver(server.address, Letter::new("again", &["alice", "bob"], LARGE));
    check_inside(&home, &server, &ledger);
}

const HELLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<smith@example.org>";
const RCPT: &str = "RCPT TO:<jones@here.example>";
const TEXT: &str = "Subject: x\r\n\r\nhello\r\n.";

/// The mailboxes on a disk of 100 KiB, in a mount namespace that goes with the program.
#[test]
#[ignore = "needs root, to mount a disk that is soon full"]
fn a_full_disk_is_452_and_the_mailbox_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mail")).unwrap();
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
    fs::write(folder.path().join("dialogue"), dialogue.concat()).unwrap();
    let script = "set -e; mount -t tmpfs -o size=100k none \"$1/mail\"; \
        \"$2\" --inetd --log stderr --sandbox \"$1\" <\"$1/dialogue\"; cat \"$1/mail/jones\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh", folder.path().to_str().unwrap(), PROGRAM])
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
