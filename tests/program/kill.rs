//! Two servers on the same mailboxes, one of them killed again and again under load.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;

use nix::sys::signal::Signal;

use crate::harness::directory::TestDirectory;
use crate::harness::env_number;
use crate::harness::ledger::Ledger;
use crate::harness::load::{SetOnDrop, send_until};

#[test]
fn one_of_two_servers_is_killed_under_load() {
    kill_one_of_two(&[]);
}

#[test]
fn one_of_two_servers_without_dotlocks_is_killed_under_load() {
    kill_one_of_two(&["--lock", "fcntl,flock"]);
}

fn kill_one_of_two(options: &[&str]) {
    let directory = TestDirectory::new();
    let rounds = env_number("MAILSLOT_ROUNDS", 5);
    let ledger = Mutex::new(Ledger::default());
    let over = AtomicBool::new(false);
    let steady = directory.start(options);
    let kills = thread::scope(|scope| {
        // Also when an assertion fails, so that the senders end.
        let _end = SetOnDrop(&over);
        scope.spawn(|| send_until(&over, &ledger, steady.address, "steady-1"));
        scope.spawn(|| send_until(&over, &ledger, steady.address, "steady-2"));
        let mut kills = 0;
        for round in 0..rounds {
            let killed = directory.start(options);
            let before = ledger.lock().unwrap().len();
            thread::scope(|scope| {
                let (over, ledger, address) = (&over, &ledger, killed.address);
                for n in 0..2 {
                    scope.spawn(move || {
                        send_until(over, ledger, address, &format!("victim-{round}-{n}"));
                    });
                }
                // In the middle of the work.
                while ledger.lock().unwrap().len() < before + 20 + 7 * round as usize {
                    thread::yield_now();
                }
                killed.signal(Signal::SIGKILL);
            });
            killed.ended();
            kills += 1;
        }
        kills
    });
    let ledger = ledger.into_inner().unwrap();
    let unknown = ledger.unanswered();
    println!("{kills} kills under load, {} messages, {unknown} without a reply", ledger.len());
    assert!(kills > 0 && unknown > 0 && ledger.accepted() > 20 * kills);
    let refused = ledger.len() - unknown - ledger.accepted();
    assert_eq!(refused, 0, "messages were refused");
    let (log, status) = steady.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    // What the last killed server left is recovered by the next start.
    ledger.assert_recovers(&directory, "two servers");
}
