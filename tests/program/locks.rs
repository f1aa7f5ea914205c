//! Other programs at the mailbox: they lock it for a while or for too long, replace it while mail
//! waits, or leave stale locks. Here the other program is the process of this test.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use fs2::FileExt;
use mailslot::deliver::disk::{Disk, HostDisk};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::harness::TIMEOUT;
use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::ledger::Ledger;
use crate::harness::message::TestMessage;
use crate::harness::server::Server;

/// A way to lock a mailbox.
#[derive(Clone, Copy, Debug)]
enum Lock {
    Dotlock,
    Fcntl,
    Flock,
}

const LOCKS: [Lock; 3] = [Lock::Dotlock, Lock::Fcntl, Lock::Flock];

/// A lock held by this process until it is dropped.
#[derive(Debug)]
enum HeldLock {
    Dotlock(PathBuf),
    File { _open: File },
}

impl HeldLock {
    /// Takes the lock. If the server holds it, waits.
    fn take(lock: Lock, mailbox: &Path) -> HeldLock {
        let until = Instant::now() + TIMEOUT;
        loop {
            match HeldLock::try_take(lock, mailbox) {
                Ok(holder) => return holder,
                Err(e) => assert!(Instant::now() < until, "{lock:?}: {e}"),
            }
        }
    }

    fn try_take(lock: Lock, mailbox: &Path) -> io::Result<HeldLock> {
        if let Lock::Dotlock = lock {
            let path = mailbox.with_extension("lock");
            File::create_new(&path)?;
            return Ok(HeldLock::Dotlock(path));
        }
        let open = File::options().read(true).write(true).open(mailbox)?;
        match lock {
            Lock::Flock => open.try_lock_exclusive()?,
            _ => {
                // A lock of the process, like that of lockf(3), and not of the open file.
                let whole = libc::flock {
                    l_type: libc::F_WRLCK as libc::c_short,
                    l_whence: libc::SEEK_SET as libc::c_short,
                    l_start: 0,
                    l_len: 0,
                    l_pid: 0,
                };
                fcntl(&open, FcntlArg::F_SETLK(&whole))?;
            }
        }
        Ok(HeldLock::File { _open: open })
    }
}

impl Drop for HeldLock {
    fn drop(&mut self) {
        if let HeldLock::Dotlock(path) = self {
            fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn short_lock_delays_only_its_mailbox() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--hold", "off"]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["alice"], 500));
    for lock in LOCKS {
        // Read before, because the process loses its fcntl lock when it closes any descriptor of
        // the file.
        let before = directory.mailbox_bytes("alice");
        let holder = HeldLock::take(lock, &directory.mailbox_path("alice"));
        let message = TestMessage::new(format!("{lock:?}"), &["alice", "carol"], 500);
        let began = Instant::now();
        let (code, took) = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let code = Client::open(server.address).unwrap().submit_for_code(&message);
                (code, began.elapsed())
            });
            let mut n = 0;
            while began.elapsed() < Duration::from_secs(1) {
                ledger.deliver(
                    server.address,
                    TestMessage::new(format!("{lock:?}-{n}"), &["bob"], 99),
                );
                n += 1;
            }
            assert!(n > 5, "{lock:?}: {n} for bob in a second");
            let len = fs::metadata(directory.mailbox_path("alice")).unwrap().len();
            assert_eq!(len, before.len() as u64, "{lock:?}: written to while it was locked");
            drop(holder);
            sending.join().unwrap()
        });
        assert!(took >= Duration::from_secs(1), "{lock:?}: {took:?}");
        assert_eq!(ledger.record(message, code), Some(250), "{lock:?}");
        ledger.assert_matches(&directory);
    }
    server.stop();
    directory.assert_clean(&ledger.mailboxes());
}

#[test]
fn long_lock_is_451() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--lock-timeout", "1", "--hold", "off"]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["alice"], 500));
    for lock in LOCKS {
        // To read it later would be to lose the fcntl lock when it is closed.
        let before = directory.mailbox_bytes("alice");
        let holder = HeldLock::take(lock, &directory.mailbox_path("alice"));
        let message = TestMessage::new(format!("{lock:?}"), &["carol", "alice"], 500);
        let began = Instant::now();
        let reply = Client::open(server.address).unwrap().submit(&message).unwrap();
        let took = began.elapsed();
        assert!(reply.starts_with("451 4.2.0 "), "{lock:?}: {reply}");
        assert!((1..8).contains(&took.as_secs()), "{lock:?}: {took:?}");
        let line = server.wait_for_log("mailbox-busy");
        let holder_named = line.contains(&format!("{lock:?}").to_lowercase());
        assert!(line.contains("/alice ") && holder_named, "{lock:?}: {line}");
        ledger.record(message, Some(451));
        drop(holder);
        assert!(before == directory.mailbox_bytes("alice"), "{lock:?}");
        ledger.deliver(server.address, TestMessage::new(format!("{lock:?}-2"), &["alice"], 500));
        ledger.assert_matches(&directory);
    }
}

#[test]
fn mailbox_replaced_while_mail_waits() {
    type Change = fn(&Path);
    let changes: [(&str, Change, u16); 4] = [
        ("truncated", |path| File::create(path).map(drop).unwrap(), 250),
        ("unlinked", |path| fs::remove_file(path).unwrap(), 250),
        (
            "renamed over",
            |path| {
                fs::write(path.with_file_name("new"), b"").unwrap();
                fs::rename(path.with_file_name("new"), path).unwrap();
            },
            250,
        ),
        (
            "renamed over by a link",
            |path| {
                symlink(path.with_file_name("bob"), path.with_file_name("new")).unwrap();
                fs::rename(path.with_file_name("new"), path).unwrap();
            },
            451,
        ),
    ];
    for lock in LOCKS {
        for (what, change, expected) in changes {
            let directory = TestDirectory::in_memory();
            let server = directory.start(&["--hold", "off"]);
            let mut ledger = Ledger::default();
            Ledger::default().deliver(server.address, TestMessage::new("gone", &["alice"], 500));
            let holder = HeldLock::take(lock, &directory.mailbox_path("alice"));
            let message = TestMessage::new("late", &["alice", "carol"], 500);
            let code = thread::scope(|scope| {
                let sending =
                    scope.spawn(|| Client::open(server.address).unwrap().submit_for_code(&message));
                // Until the writer has found the lock.
                while !counters(&server).contains(" lock_waits=1 ") {}
                change(&directory.mailbox_path("alice"));
                drop(holder);
                sending.join().unwrap()
            });
            assert_eq!(ledger.record(message, code), Some(expected), "{lock:?}, {what}");
            if expected != 250 {
                assert_eq!(directory.mailbox_bytes("bob"), b"", "{lock:?}, {what}");
                fs::remove_file(directory.mailbox_path("alice")).unwrap();
            }
            ledger.deliver(server.address, TestMessage::new("next", &["alice"], 500));
            ledger.assert_matches(&directory);
        }
    }
}

/// Returns the counters in the log, with a space around each.
fn counters(server: &Server) -> String {
    server.signal(nix::sys::signal::Signal::SIGUSR1);
    format!(" {} ", server.wait_for_log("counters"))
}

/// Dotlocks that were left: a description, the content made from that of the running server, the
/// age in seconds, and whether the lock is broken.
type StaleDotlock = (&'static str, fn(&str) -> Option<String>, i64, bool);

/// Age of a file from 1970.
const SINCE_1970: i64 = i64::MAX;

/// The content is `PID BOOT/NAMESPACE RANDOM mailslot`. None stands for a directory.
const STALE_DOTLOCKS: &[StaleDotlock] = &[
    ("of a dead mailslot", |own| Some(with_pid(own, dead_pid())), 0, true),
    ("of a living process", |own| Some(with_pid(own, std::process::id())), 0, false),
    ("of a living process, old", |own| Some(with_pid(own, std::process::id())), 301, true),
    ("of a dead mailslot, cut short", |own| Some(with_pid(own, dead_pid())[..20].into()), 0, false),
    ("of another boot", |own| Some(own.replacen(' ', " 0", 1)), 0, false),
    ("of another boot, old", |own| Some(own.replacen(' ', " 0", 1)), 301, true),
    ("of another program", |_| Some(format!("{}\n", std::process::id())), 0, false),
    ("of another program, old", |_| Some(format!("{}\n", std::process::id())), 301, true),
    ("empty", |_| Some(String::new()), 0, false),
    ("empty, not quite old", |_| Some(String::new()), 280, false),
    ("empty, old", |_| Some(String::new()), 301, true),
    ("empty, from the future", |_| Some(String::new()), -86_400, false),
    ("empty, from 1970", |_| Some(String::new()), SINCE_1970, false),
    ("procmail's, old", |_| Some("0".into()), 3600, true),
    ("unremovable", |_| None, 3600, false),
];

#[test]
fn stale_dotlock_is_broken_by_owner_or_age() {
    // Longer than the time between two looks at a lock.
    let directory = TestDirectory::new();
    let server = directory.start(&["--lock-timeout", "6", "--threads", "40", "--hold", "off"]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("first", &["alice"], 500));
    let own = format!(".mailslot-{}-", server.pid());
    let mut names = fs::read_dir(directory.join("mail")).unwrap().map(|e| e.unwrap());
    let own = names.find(|e| e.file_name().to_string_lossy().starts_with(&own)).unwrap();
    let own = fs::read_to_string(own.path()).unwrap();
    let mailbox = |n: usize| format!("user{n}");
    for (n, &(_, line, age, _)) in STALE_DOTLOCKS.iter().enumerate() {
        let path = directory.mailbox_path(&format!("{}.lock", mailbox(n)));
        match line(&own) {
            Some(line) => fs::write(&path, line).unwrap(),
            // A directory cannot be unlinked.
            None => fs::create_dir(&path).unwrap(),
        }
        let shift = Duration::from_secs(age.unsigned_abs());
        let then = match age {
            SINCE_1970 => SystemTime::UNIX_EPOCH + Duration::from_secs(30),
            ..0 => SystemTime::now() + shift,
            _ => SystemTime::now() - shift,
        };
        File::open(&path).unwrap().set_modified(then).unwrap();
    }
    let replies: Vec<_> = thread::scope(|scope| {
        let send = |n: usize| {
            let message = TestMessage::new(STALE_DOTLOCKS[n].0, &[&mailbox(n)], 500);
            scope.spawn(move || {
                let code = Client::open(server.address).unwrap().submit_for_code(&message);
                (message, code)
            })
        };
        let sending: Vec<_> = (0..STALE_DOTLOCKS.len()).map(send).collect();
        sending.into_iter().map(|sent| sent.join().unwrap()).collect()
    });
    for (n, (message, code)) in replies.into_iter().enumerate() {
        let (what, _, _, broken) = STALE_DOTLOCKS[n];
        let path = directory.mailbox_path(&format!("{}.lock", mailbox(n)));
        let code = ledger.record(message, code);
        if broken {
            assert_eq!(code, Some(250), "{what}");
            assert!(!path.exists(), "{what}");
        } else {
            assert_eq!(code, Some(451), "{what}");
            match path.is_dir() {
                true => fs::remove_dir(&path).unwrap(),
                false => fs::remove_file(&path).unwrap(),
            }
        }
        ledger.deliver(server.address, TestMessage::new(format!("{what} 2"), &[&mailbox(n)], 500));
    }
    ledger.assert_matches(&directory);
    let (log, _) = server.stop();
    directory.assert_clean(&ledger.mailboxes());
    for (n, &(what, _, age, broken)) in STALE_DOTLOCKS.iter().enumerate() {
        let event = if broken { "lock-broken" } else { "mailbox-busy" };
        let name = format!("/{}{}", mailbox(n), if broken { ".lock" } else { " " });
        let line = log.iter().find(|line| line.contains(event) && line.contains(&name));
        let line = line.unwrap_or_else(|| panic!("{what}: {log:#?}"));
        if broken {
            let age_in_log: i64 = line.split("seconds=").nth(1).unwrap().trim().parse().unwrap();
            assert!((age..age + 30).contains(&age_in_log), "{what}: {line}");
        } else {
            assert!(line.contains("dotlock"), "{what}: {line}");
        }
    }
}

/// Whether the pid is known to be of this host depends on the host that the test runs on.
#[test]
fn dotlock_of_a_dead_program_is_broken_if_its_pid_is_of_this_host() {
    let directory = TestDirectory::new();
    let server = directory.start(&["--lock-timeout", "6", "--hold", "off"]);
    fs::write(directory.mailbox_path("alice.lock"), format!("{}\n", dead_pid())).unwrap();
    let is_known = HostDisk::default().has_own_pids(&directory.join("mail"));
    let message = TestMessage::new("one", &["alice"], 500);
    let code = Client::open(server.address).unwrap().submit_for_code(&message);
    assert_eq!(code, Some(if is_known { 250 } else { 451 }));
}

fn with_pid(own: &str, pid: u32) -> String {
    format!("{pid} {}", own.split_once(' ').unwrap().1)
}

/// Returns the pid of a process that has ended.
fn dead_pid() -> u32 {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}
