//! Delivery by its front door, on a real disk: what goes in by `WriterHandle` stands in the mailboxes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::harness::delivery::{Folder, House, large_message, message};
use mailslot::deliver::{DeferReason, DeliveryConfig, Outcome, start};

#[test]
fn one_message_to_three_mailboxes() {
    let house = House::new();
    let m = message("m1", &["alice", "bob", "carol"], b"Subject: x\n\nhello\n");
    assert_eq!(house.deliver(m), Outcome::Delivered);
    for name in ["alice", "bob", "carol"] {
        let want = format!(
            "From s@example.org Thu Jan  1 00:00:00 1970\nReturn-Path: <s@example.org>\n\
             Delivered-To: {name}@example.org\n\
             Received: by here id m1; then\nSubject: x\n\nhello\n\n"
        );
        assert_eq!(house.read(name), want);
        let stat = fs::metadata(house.mail(name)).unwrap();
        assert_eq!(stat.permissions().mode() & 0o777, 0o600);
        assert_eq!(stat.nlink(), 1);
    }
    let counters = &house.counters;
    assert_eq!((counters.copies.value(), counters.batches.value()), (3, 1));
    house.stop();
}

#[test]
fn nothing_is_left_behind() {
    let house = House::new();
    assert_eq!(house.deliver(message("m1", &["alice"], b"a: b\n\nx\n")), Outcome::Delivered);
    assert_eq!(house.deliver(large_message("m2", &["bob"], 300_000)), Outcome::Delivered);
    let house = house.stop();
    assert_eq!(house.names("mail"), ["alice", "bob"]);
    assert_eq!(house.names("spool"), ["journal-0"]);
}

#[test]
fn twenty_sessions_and_one_mailbox() {
    let house = Arc::new(House::new());
    let sessions: Vec<_> = (0..20)
        .map(|s| {
            let house = house.clone();
            thread::spawn(move || {
                for n in 0..25 {
                    let body = format!("N: {s}/{n}\n\n{}", ">From x\n".repeat(s * n));
                    let m = message(&format!("m{s}-{n}"), &["alice"], body.as_bytes());
                    assert_eq!(house.deliver(m), Outcome::Delivered);
                }
            })
        })
        .collect();
    for session in sessions {
        session.join().unwrap();
    }
    let found = house.messages("alice");
    assert_eq!(found.len(), 500);
    for s in 0..20 {
        for n in 0..25 {
            let id = format!(" id m{s}-{n};");
            assert_eq!(found.iter().filter(|m| m.contains(&id)).count(), 1, "{id}");
        }
    }
}

#[test]
fn large_and_small_are_not_interleaved() {
    let house = Arc::new(House::new());
    let sessions: Vec<_> = (0..4)
        .map(|s| {
            let house = house.clone();
            thread::spawn(move || {
                for n in 0..4 {
                    let m = large_message(&format!("big{s}-{n}"), &["alice"], 1 << 20);
                    assert_eq!(house.deliver(m), Outcome::Delivered);
                    let m = message(&format!("small{s}-{n}"), &["alice"], b"a: b\n\nc\n");
                    assert_eq!(house.deliver(m), Outcome::Delivered);
                }
            })
        })
        .collect();
    for session in sessions {
        session.join().unwrap();
    }
    let found = house.messages("alice");
    assert_eq!(found.len(), 32);
    let big = found.iter().filter(|m| m.len() > 1 << 20).count();
    assert_eq!(big, 16);
}

#[test]
fn mailboxes_that_are_none() {
    let house = House::new();
    let secret = house.root().join("secret");
    fs::write(&secret, "").unwrap();
    symlink(&secret, house.mail("symlink")).unwrap();
    symlink(house.root().join("nothing"), house.mail("dangling")).unwrap();
    fs::hard_link(&secret, house.mail("second")).unwrap();
    fs::create_dir(house.mail("folder")).unwrap();
    nix::unistd::mkfifo(&house.mail("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for name in ["symlink", "dangling", "second", "folder", "fifo"] {
        // With one that works beside it: all or nothing.
        let outcome = house.deliver(message("m1", &["alice", name], b"a: b\n\nx\n"));
        assert_eq!(outcome, Outcome::Deferred(DeferReason::Unusable), "{name}");
        assert_eq!(house.look(name), Err(Outcome::Deferred(DeferReason::Unusable)), "{name}");
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "");
    assert!(!house.mail("alice").exists() || house.read("alice").is_empty());
    assert!(!house.root().join("nothing").exists());
    assert_eq!(house.deliver(message("m2", &["alice"], b"a: b\n\nx\n")), Outcome::Delivered);
}

/// The writer keeps a mailbox's file open for a while, and must not go by that alone.
#[test]
fn what_others_do_to_a_mailbox_between_two_messages_counts() {
    let house = House::new();
    let mut number = 0;
    let mut deliver = || {
        number += 1;
        house.deliver(message(&format!("m{number}"), &["alice"], b"a: b\n\nx\n"))
    };
    let alice = house.mail("alice");
    assert_eq!(deliver(), Outcome::Delivered);
    // Moved away: mutt and movemail do.
    fs::rename(&alice, house.mail("moved")).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!((house.messages("alice").len(), house.messages("moved").len()), (1, 1));
    // Another file in its place.
    fs::write(house.mail("new"), "").unwrap();
    fs::rename(house.mail("new"), &alice).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(house.messages("alice").len(), 1);
    fs::remove_file(&alice).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(house.messages("alice").len(), 1);
    // Emptied in place.
    fs::write(&alice, "").unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(house.messages("alice").len(), 1);
    // A second name for it.
    fs::hard_link(&alice, house.mail("second")).unwrap();
    assert_eq!(deliver(), Outcome::Deferred(DeferReason::Unusable));
    fs::remove_file(house.mail("second")).unwrap();
    // Closed to its owner, which only root does not feel.
    fs::set_permissions(&alice, Permissions::from_mode(0o400)).unwrap();
    let may = nix::unistd::geteuid().is_root();
    assert_eq!(deliver() == Outcome::Delivered, may);
    fs::set_permissions(&alice, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(deliver(), Outcome::Delivered);
    assert_eq!(house.messages("alice").len(), if may { 3 } else { 2 });
}

#[test]
fn a_missing_last_line_end_is_mended() {
    for (before, between) in [("", ""), ("x", "\n\n"), ("x\n", "\n"), ("x\n\n", ""), ("\n", "\n")] {
        let house = House::new();
        fs::write(house.mail("alice"), before).unwrap();
        assert_eq!(house.deliver(message("m1", &["alice"], b"a: b\n\nx\n")), Outcome::Delivered);
        let start = format!("{before}{between}From s@example.org");
        assert!(house.read("alice").starts_with(&start), "{before:?}: {:?}", house.read("alice"));
    }
}

#[test]
fn the_limit_of_a_mailbox() {
    let house = House::with(|settings| settings.mailbox_limit = Some(1000));
    fs::write(house.mail("alice"), "x".repeat(990) + "\n\n").unwrap();
    let outcome = house.deliver(message("m1", &["alice", "bob"], b"a: b\n\nx\n"));
    assert_eq!(outcome, Outcome::OverQuota);
    assert_eq!(fs::metadata(house.mail("alice")).unwrap().len(), 992);
    assert_eq!(house.deliver(message("m2", &["bob"], b"a: b\n\nx\n")), Outcome::Delivered);
    fs::write(house.mail("carol"), "x".repeat(1000)).unwrap();
    assert_eq!(house.look("carol"), Err(Outcome::OverQuota));
    assert_eq!(house.look("bob"), Ok(()));
}

#[test]
fn a_locked_mailbox_holds_up_nobody_else() {
    let house = House::with(|settings| settings.lock_timeout = Duration::from_millis(400));
    fs::write(house.mail("alice.lock"), "").unwrap();
    let house = Arc::new(house);
    let waiting = {
        let house = house.clone();
        thread::spawn(move || house.deliver(message("a", &["bob", "alice"], b"a: b\n\nx\n")))
    };
    for n in 0..10 {
        let m = message(&format!("b{n}"), &["bob"], b"a: b\n\nx\n");
        assert_eq!(house.deliver(m), Outcome::Delivered);
    }
    assert_eq!(waiting.join().unwrap(), Outcome::Deferred(DeferReason::Locked));
    assert_eq!(house.messages("bob").len(), 10);
    fs::remove_file(house.mail("alice.lock")).unwrap();
    assert_eq!(house.deliver(message("c", &["alice"], b"a: b\n\nx\n")), Outcome::Delivered);
}

/// Twenty deliveries to a mailbox that is locked, each in a thread of its own.
fn crowd(house: &Arc<House>) -> Vec<thread::JoinHandle<Outcome>> {
    fs::write(house.mail("alice.lock"), "").unwrap();
    let deliver = |n: usize| {
        let house = house.clone();
        let m = message(&format!("m{n}"), &["alice"], b"a: b\n\nx\n");
        thread::spawn(move || house.deliver(m))
    };
    (0..20).map(deliver).collect()
}

#[test]
fn a_mailbox_that_is_locked_for_a_moment_turns_nobody_away() {
    let house = Arc::new(House::new());
    let crowd = crowd(&house);
    // Each has found it locked, unless one was sent away.
    while house.counters.lock_waits.value() < 20 && !crowd.iter().any(|sent| sent.is_finished()) {
        thread::yield_now();
    }
    fs::remove_file(house.mail("alice.lock")).unwrap();
    for sent in crowd {
        assert_eq!(sent.join().unwrap(), Outcome::Delivered);
    }
    assert_eq!(house.messages("alice").len(), 20);
}

#[test]
fn a_mailbox_that_stays_locked_keeps_a_quarter_of_the_sessions() {
    let house = Arc::new(House::new());
    let crowd = crowd(&house);
    let waiting = |crowd: &[thread::JoinHandle<Outcome>]| {
        crowd.iter().filter(|sent| !sent.is_finished()).count()
    };
    while waiting(&crowd) > 9 {
        thread::yield_now();
    }
    fs::remove_file(house.mail("alice.lock")).unwrap();
    let outcomes: Vec<Outcome> = crowd.into_iter().map(|sent| sent.join().unwrap()).collect();
    let delivered = outcomes.iter().filter(|outcome| **outcome == Outcome::Delivered).count();
    assert!((8..=9).contains(&delivered), "{outcomes:?}");
    assert_eq!(house.messages("alice").len(), delivered);
}

#[test]
fn a_session_that_gives_up_gets_nothing_delivered() {
    let house = House::with(|settings| settings.lock_timeout = Duration::from_secs(60));
    fs::write(house.mail("alice.lock"), "").unwrap();
    let m = message("m1", &["alice"], b"a: b\n\nx\n");
    assert_eq!(
        house.post().deliver(m, Duration::from_millis(100)),
        Outcome::Deferred(DeferReason::TimedOut)
    );
    fs::remove_file(house.mail("alice.lock")).unwrap();
    assert_eq!(house.deliver(message("m2", &["alice"], b"a: b\n\nx\n")), Outcome::Delivered);
    let found = house.messages("alice");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains(" id m2;"));
}

#[test]
fn a_spool_that_others_may_write_to_is_refused() {
    for mode in [0o770, 0o707, 0o1777] {
        let folder = Folder::new();
        let spool = folder.root().join("spool");
        fs::set_permissions(&spool, Permissions::from_mode(mode)).unwrap();
        let error = start(folder.settings(), Arc::default()).map(drop).unwrap_err().to_string();
        assert!(error.ends_with(&format!("chmod go-w {}", spool.display())), "{error}");
    }
}

#[test]
fn a_spool_that_is_the_mail_directory_is_refused() {
    let folder = Folder::new();
    let spool = folder.root().join("link");
    symlink(folder.root().join("mail"), &spool).unwrap();
    let settings = DeliveryConfig { spool, ..folder.settings() };
    let error = start(settings, Arc::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("it is the mail directory"), "{error}");
}

#[test]
fn a_journal_that_others_may_write_to_is_refused() {
    let folder = Folder::new();
    let journal = folder.root().join("spool/journal-0");
    fs::write(&journal, "").unwrap();
    fs::set_permissions(&journal, Permissions::from_mode(0o666)).unwrap();
    let error = start(folder.settings(), Arc::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("others may have written to it (mode 666)"), "{error}");
    assert!(journal.exists());
}
