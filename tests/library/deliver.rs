//! The writer on a real disk: what is handed to it is in the mailboxes.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use mailslot::deliver::{DeferReason, DeliveryConfig, Outcome, start, start_on};
use mailslot::message::Message;
use nix::fcntl::{Flock, FlockArg};

use crate::harness::TIMEOUT;
use crate::harness::directory::TestDirectory;
use crate::harness::hooked_disk::HookedDisk;
use crate::harness::library::MailStore;
use crate::harness::load::SetOnDrop;
use crate::harness::mbox::Mail;
use crate::harness::message::TestMessage;
use crate::harness::wait_until;

/// Returns a small message.
fn message(id: &str, to: &[&str]) -> Message {
    TestMessage::new(id, to, 0).message()
}

/// Returns a message that is too large for the journal.
fn large_message(store: &MailStore, id: &str, to: &[&str], length: usize) -> Message {
    TestMessage::new(id, to, length).message_in(&*store.handle.contents()).unwrap()
}

#[test]
fn one_message_to_three_mailboxes() {
    let store = MailStore::new();
    let m = TestMessage::new("m1", &["alice", "bob", "carol"], 300);
    assert_eq!(store.deliver(m.message()), Outcome::Delivered);
    for name in ["alice", "bob", "carol"] {
        let want = format!(
            "From s@example.org Thu Jan  1 00:00:00 1970\nReturn-Path: <s@example.org>\n\
             Delivered-To: {name}@example.org\n\
             Received: by here id m1; then\n{}",
            m.stored()
        );
        assert_eq!(store.mailbox(name), want);
        let stat = fs::metadata(store.mailbox_path(name)).unwrap();
        assert_eq!(stat.permissions().mode() & 0o777, 0o600);
        assert_eq!(stat.nlink(), 1);
    }
    let counters = &store.counters;
    assert_eq!((counters.copies.value(), counters.batches.value()), (3, 1));
    store.stop();
}

#[test]
fn no_files_are_left() {
    let store = MailStore::new();
    assert_eq!(store.deliver(message("m1", &["alice"])), Outcome::Delivered);
    assert_eq!(store.deliver(large_message(&store, "m2", &["bob"], 300_000)), Outcome::Delivered);
    let store = store.stop();
    assert_eq!(store.names("mail"), ["alice", "bob"]);
    assert_eq!(store.names("spool"), ["journal-0"]);
}

/// The writer passes a mailbox from one batch to the next as long as mail for it waits. It does so
/// for a short time only, so that a program that waits for the lock gets it while mail comes in.
#[test]
fn busy_mailbox_can_be_locked_by_others() {
    let store = MailStore::new();
    assert_eq!(store.deliver(message("first", &["alice"])), Outcome::Delivered);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = SetOnDrop(&over);
        // More than one batch holds, so that mail for the mailbox waits at the end of each.
        for sender in 0..200 {
            let (over, store) = (&over, &store);
            scope.spawn(move || {
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let message = message(&format!("{sender}-{n}"), &["alice"]);
                    assert_eq!(store.deliver(message), Outcome::Delivered);
                }
            });
        }
        let batches = || store.counters.batches.value();
        let counts: Vec<u64> = (0..5)
            .map(|_| {
                let before = batches();
                wait_until("mail comes in", || batches() > before + 20);
                // The kernel grants it when the writer unlocks.
                let mailbox = File::open(store.mailbox_path("alice")).unwrap();
                let asked = batches();
                let _lock = Flock::lock(mailbox, FlockArg::LockExclusive).unwrap();
                batches() - asked
            })
            .collect();
        println!("batches until the lock was granted: {counts:?}");
        // The least, because this thread may itself have waited for a processor.
        assert!(counts.iter().min().is_some_and(|least| *least < 500), "{counts:?}");
    });
    let messages = store.counters.copies.value();
    assert_eq!(store.stop().messages("alice").len() as u64, messages);
}

#[test]
fn twenty_sessions_deliver_to_one_mailbox() {
    let store = Arc::new(MailStore::new());
    let sessions: Vec<_> = (0..20)
        .map(|s| {
            let store = store.clone();
            thread::spawn(move || {
                for n in 0..25 {
                    let m = TestMessage::new(format!("m{s}-{n}"), &["alice"], 8 * s * n);
                    assert_eq!(store.deliver(m.message()), Outcome::Delivered);
                }
            })
        })
        .collect();
    for session in sessions {
        session.join().unwrap();
    }
    let found = store.messages("alice");
    assert_eq!(found.len(), 500);
    for s in 0..20 {
        for n in 0..25 {
            let id = format!("m{s}-{n}");
            let is_it = |mail: &&Mail| mail.field("Subject").as_ref() == Some(&id);
            assert_eq!(found.iter().filter(is_it).count(), 1, "{id}");
        }
    }
}

/// Copying a large message takes long, so small ones that came after it are delivered before it.
#[test]
fn small_messages_do_not_wait_for_large_ones() {
    let directory = TestDirectory::with_mail_and_spool();
    let config = DeliveryConfig {
        mail_dir: directory.join("mail"),
        spool: directory.join("spool"),
        ..DeliveryConfig::default()
    };
    let (reached, is_reached) = mpsc::channel();
    let (open, is_open) = mpsc::channel::<()>();
    let (is_open, mailboxes) = (Mutex::new(is_open), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&mailboxes);
    let disk = HookedDisk::new(move |call, path| {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
        if call != "lstat" || !["first", "big", "small"].contains(&name) {
            return;
        }
        if !seen.lock().unwrap().contains(&name.to_owned()) {
            seen.lock().unwrap().push(name.to_owned());
            if name == "first" {
                reached.send(()).unwrap();
                let _ = is_open.lock().unwrap().recv();
            }
        }
    });
    let (handle, writer) = start_on(disk, config, Arc::default()).unwrap();
    let mut pending = vec![handle.send(message("m", &["first"]), TIMEOUT)];
    is_reached.recv().unwrap();
    for n in 0..4 {
        let large = TestMessage::new(format!("l{n}"), &["big"], 1 << 20);
        let large = large.message_in(&*handle.contents()).unwrap();
        pending.push(handle.send(large, TIMEOUT));
    }
    pending.push(handle.send(message("s", &["small"]), TIMEOUT));
    drop(open);
    assert!(pending.into_iter().all(|pending| pending.wait() == Outcome::Delivered));
    assert_eq!(*mailboxes.lock().unwrap(), ["first", "small", "big"]);
    writer.stop();
}

#[test]
fn large_and_small_are_not_interleaved() {
    let store = Arc::new(MailStore::new());
    let sessions: Vec<_> = (0..4)
        .map(|s| {
            let store = store.clone();
            thread::spawn(move || {
                for n in 0..4 {
                    let m = large_message(&store, &format!("big{s}-{n}"), &["alice"], 1 << 20);
                    assert_eq!(store.deliver(m), Outcome::Delivered);
                    let m = message(&format!("small{s}-{n}"), &["alice"]);
                    assert_eq!(store.deliver(m), Outcome::Delivered);
                }
            })
        })
        .collect();
    for session in sessions {
        session.join().unwrap();
    }
    let found = store.messages("alice");
    assert_eq!(found.len(), 32);
    let big = found.iter().filter(|mail| mail.text.len() > 1 << 20).count();
    assert_eq!(big, 16);
}

#[test]
fn unusable_mailbox_defers_the_message() {
    let store = MailStore::new();
    let secret = store.path().join("secret");
    fs::write(&secret, "").unwrap();
    symlink(&secret, store.mailbox_path("symlink")).unwrap();
    symlink(store.path().join("nothing"), store.mailbox_path("dangling")).unwrap();
    fs::hard_link(&secret, store.mailbox_path("second")).unwrap();
    fs::create_dir(store.mailbox_path("directory")).unwrap();
    nix::unistd::mkfifo(&store.mailbox_path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["symlink", "dangling", "second", "directory", "fifo"] {
        // Together with a mailbox that works, because a message goes to all or to none.
        let outcome = store.deliver(message("m1", &["alice", name]));
        assert_eq!(outcome, Outcome::Deferred(DeferReason::Unusable), "{name}");
        assert_eq!(store.precheck(name), Err(Outcome::Deferred(DeferReason::Unusable)), "{name}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "");
    assert!(!store.mailbox_path("alice").exists() || store.mailbox("alice").is_empty());
    assert!(!store.path().join("nothing").exists());
    assert_eq!(store.deliver(message("m2", &["alice"])), Outcome::Delivered);
}

/// The writer keeps the file of a mailbox open for a while. It must notice when the name leads to
/// another file.
#[test]
fn mailbox_replaced_between_two_messages() {
    let store = MailStore::new();
    let mut number = 0;
    let mut deliver = || {
        number += 1;
        store.deliver(message(&format!("m{number}"), &["alice"]))
    };
    let alice = store.mailbox_path("alice");
    assert_eq!(deliver(), Outcome::Delivered);
    // Moved away, as mutt and movemail do.
    fs::rename(&alice, store.mailbox_path("moved")).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!((store.messages("alice").len(), store.messages("moved").len()), (1, 1));
    // Another file in its place.
    fs::write(store.mailbox_path("new"), "").unwrap();
    fs::rename(store.mailbox_path("new"), &alice).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(store.messages("alice").len(), 1);
    fs::remove_file(&alice).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(store.messages("alice").len(), 1);
    // Emptied in place.
    fs::write(&alice, "").unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(store.messages("alice").len(), 1);
    // A second hard link.
    fs::hard_link(&alice, store.mailbox_path("second")).unwrap();
    assert_eq!(deliver(), Outcome::Deferred(DeferReason::Unusable));
    fs::remove_file(store.mailbox_path("second")).unwrap();
    // Not writable for its owner, which matters to every user but root.
    fs::set_permissions(&alice, Permissions::from_mode(0o400)).unwrap();
    let may = nix::unistd::geteuid().is_root();
    assert_eq!(deliver() == Outcome::Delivered, may);
    fs::set_permissions(&alice, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(store.messages("alice").len(), if may { 3 } else { 2 });
}

#[test]
fn missing_newlines_are_added() {
    for (before, between) in [("", ""), ("x", "\n\n"), ("x\n", "\n"), ("x\n\n", ""), ("\n", "\n")] {
        let store = MailStore::new();
        fs::write(store.mailbox_path("alice"), before).unwrap();
        assert_eq!(store.deliver(message("m1", &["alice"])), Outcome::Delivered);
        let start = format!("{before}{between}From s@example.org");
        assert!(
            store.mailbox("alice").starts_with(&start),
            "{before:?}: {:?}",
            store.mailbox("alice")
        );
    }
}

#[test]
fn mailbox_limit() {
    let store = MailStore::with(|config| config.mailbox_limit = Some(1000));
    fs::write(store.mailbox_path("alice"), "x".repeat(990) + "\n\n").unwrap();
    let outcome = store.deliver(message("m1", &["alice", "bob"]));
    assert_eq!(outcome, Outcome::OverQuota);
    assert_eq!(fs::metadata(store.mailbox_path("alice")).unwrap().len(), 992);
    assert_eq!(store.deliver(message("m2", &["bob"])), Outcome::Delivered);
    fs::write(store.mailbox_path("carol"), "x".repeat(1000)).unwrap();
    assert_eq!(store.precheck("carol"), Err(Outcome::OverQuota));
    assert_eq!(store.precheck("bob"), Ok(()));
}

#[test]
fn locked_mailbox_does_not_delay_others() {
    let store = MailStore::with(|config| config.lock_timeout = Duration::from_millis(400));
    fs::write(store.mailbox_path("alice.lock"), "").unwrap();
    let store = Arc::new(store);
    let waiting = {
        let store = store.clone();
        thread::spawn(move || store.deliver(message("a", &["bob", "alice"])))
    };
    for n in 0..10 {
        let m = message(&format!("b{n}"), &["bob"]);
        assert_eq!(store.deliver(m), Outcome::Delivered);
    }
    assert_eq!(waiting.join().unwrap(), Outcome::Deferred(DeferReason::Locked));
    assert_eq!(store.messages("bob").len(), 10);
    fs::remove_file(store.mailbox_path("alice.lock")).unwrap();
    assert_eq!(store.deliver(message("c", &["alice"])), Outcome::Delivered);
}

/// Starts twenty deliveries to a mailbox that is locked, each in a thread of its own.
fn deliver_to_locked_mailbox(store: &Arc<MailStore>) -> Vec<thread::JoinHandle<Outcome>> {
    fs::write(store.mailbox_path("alice.lock"), "").unwrap();
    let deliver = |n: usize| {
        let store = store.clone();
        let m = message(&format!("m{n}"), &["alice"]);
        thread::spawn(move || store.deliver(m))
    };
    (0..20).map(deliver).collect()
}

#[test]
fn short_lock_defers_no_message() {
    let store = Arc::new(MailStore::new());
    let deliveries = deliver_to_locked_mailbox(&store);
    // Each has found the mailbox locked, unless one was deferred.
    while store.counters.lock_waits.value() < 20
        && !deliveries.iter().any(|sent| sent.is_finished())
    {
        thread::yield_now();
    }
    fs::remove_file(store.mailbox_path("alice.lock")).unwrap();
    for sent in deliveries {
        assert_eq!(sent.join().unwrap(), Outcome::Delivered);
    }
    assert_eq!(store.messages("alice").len(), 20);
}

#[test]
fn long_lock_keeps_a_quarter_of_the_sessions_waiting() {
    let store = Arc::new(MailStore::new());
    let deliveries = deliver_to_locked_mailbox(&store);
    let waiting = |deliveries: &[thread::JoinHandle<Outcome>]| {
        deliveries.iter().filter(|sent| !sent.is_finished()).count()
    };
    while waiting(&deliveries) > 9 {
        thread::yield_now();
    }
    fs::remove_file(store.mailbox_path("alice.lock")).unwrap();
    let outcomes: Vec<Outcome> = deliveries.into_iter().map(|sent| sent.join().unwrap()).collect();
    let delivered = outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count();
    assert!((8..=9).contains(&delivered), "{outcomes:?}");
    assert_eq!(store.messages("alice").len(), delivered);
}

#[test]
fn message_of_a_session_that_gave_up_is_not_delivered() {
    let store = MailStore::with(|config| config.lock_timeout = Duration::from_secs(60));
    fs::write(store.mailbox_path("alice.lock"), "").unwrap();
    let m = message("m1", &["alice"]);
    assert_eq!(
        store.handle.deliver(m, Duration::from_millis(100)),
        Outcome::Deferred(DeferReason::TimedOut)
    );
    fs::remove_file(store.mailbox_path("alice.lock")).unwrap();
    assert_eq!(store.deliver(message("m2", &["alice"])), Outcome::Delivered);
    let found = store.messages("alice");
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].field("Subject").unwrap(), "m2");
}

/// Returns the configuration of a writer in `directory`.
fn config(directory: &TestDirectory) -> DeliveryConfig {
    DeliveryConfig {
        mail_dir: directory.join("mail"),
        spool: directory.join("spool"),
        ..DeliveryConfig::default()
    }
}

/// Returns the error of a writer that does not start.
fn start_error(config: DeliveryConfig) -> String {
    start(config, Arc::default()).map(drop).unwrap_err().to_string()
}

#[test]
fn spool_writable_by_others_is_refused() {
    for mode in [0o770, 0o707, 0o1777] {
        let directory = TestDirectory::with_mail_and_spool();
        let spool = directory.join("spool");
        fs::set_permissions(&spool, Permissions::from_mode(mode)).unwrap();
        let error = start_error(config(&directory));
        assert!(error.ends_with("choose one of mailslot's own"), "{error}");
    }
}

#[test]
fn spool_that_is_the_mail_directory_is_refused() {
    let directory = TestDirectory::with_mail_and_spool();
    let spool = directory.join("link");
    symlink(directory.join("mail"), &spool).unwrap();
    let error = start_error(DeliveryConfig { spool, ..config(&directory) });
    assert!(error.contains("it is the mail directory"), "{error}");
}

#[test]
fn journal_writable_by_others_is_refused() {
    let directory = TestDirectory::with_mail_and_spool();
    let journal = directory.join("spool/journal-0");
    fs::write(&journal, "").unwrap();
    fs::set_permissions(&journal, Permissions::from_mode(0o666)).unwrap();
    let error = start_error(config(&directory));
    assert!(error.contains("others may have written to it (mode 666)"), "{error}");
    assert!(journal.exists());
}
