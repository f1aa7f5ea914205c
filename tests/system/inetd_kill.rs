//! Sessions that inetd starts beside a running daemon, on one spool and the same mailboxes, both
//! killed again and again under load.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super_servers::start_inetd;
use crate::harness::directory::TestDirectory;
use crate::harness::ledger::Ledger;
use crate::harness::load::{SetOnDrop, send_until};
use crate::harness::random::Random;
use crate::harness::{env_number, wait_until};

#[test]
#[ignore = "needs inetd, of openbsd-inetd"]
fn inetd_and_a_daemon_are_killed_with_dotlocks() {
    kill_both("dotlock,fcntl");
}

#[test]
#[ignore = "needs inetd, of openbsd-inetd"]
fn inetd_and_a_daemon_are_killed_without_dotlocks() {
    kill_both("fcntl,flock");
}

/// Kills a session of inetd, the daemon, or both in each round. Nothing that was accepted is lost,
/// nothing is torn, and nothing is appended after a half message.
fn kill_both(locks: &str) {
    let directory = TestDirectory::new();
    let options = ["--lock", locks];
    let mut random = Random(env_number("MAILSLOT_SEED", 1));
    let rounds = 3 * env_number("MAILSLOT_ROUNDS", 5);
    let ledger = Mutex::new(Ledger::default());
    let over = AtomicBool::new(false);
    let (address, mut inetd) = start_inetd(&directory, &options);
    let inetd_pid = Pid::from_raw(inetd.child().id().try_into().unwrap());
    let mut killed = [0, 0];
    let daemon = thread::scope(|scope| {
        // Also when an assertion fails, so that the senders end.
        let _end = SetOnDrop(&over);
        for n in 0..2 {
            let (over, ledger) = (&over, &ledger);
            scope.spawn(move || {
                for session in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    send_until(over, ledger, address, &format!("inetd-{n}-{session}"));
                }
            });
        }
        let mut daemon = directory.start(&options);
        for round in 0..rounds {
            let before = ledger.lock().unwrap().len();
            let ended = AtomicBool::new(false);
            let kills_daemon = round % 3 != 0;
            thread::scope(|scope| {
                let _end = SetOnDrop(&ended);
                for n in 0..2 {
                    let (ended, ledger, address) = (&ended, &ledger, daemon.address);
                    scope.spawn(move || {
                        send_until(ended, ledger, address, &format!("daemon-{round}-{n}"));
                    });
                }
                // In the middle of the work.
                wait_until("messages are accepted", || ledger.lock().unwrap().len() > before + 30);
                thread::sleep(Duration::from_micros(random.below(20_000)));
                if kills_daemon {
                    daemon.signal(Signal::SIGKILL);
                    killed[0] += 1;
                }
                if round % 3 != 1 {
                    for session in sessions(inetd_pid).iter().take(1 + round as usize % 2) {
                        killed[1] += usize::from(kill(*session, Signal::SIGKILL).is_ok());
                    }
                }
            });
            if kills_daemon {
                daemon.ended();
                daemon = directory.start(&options);
            }
        }
        daemon
    });
    wait_until("all sessions have ended", || sessions(inetd_pid).is_empty());
    inetd.stop();
    let (log, status) = daemon.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    let ledger = ledger.into_inner().unwrap();
    let unknown = ledger.unanswered();
    println!("killed {killed:?}, {} messages, {unknown} without a reply", ledger.len());
    assert!(killed.iter().all(|kills| *kills > 0) && unknown > 0);
    let refused = ledger.len() - unknown - ledger.accepted();
    assert_eq!(refused, 0, "messages were refused");
    ledger.assert_recovers(&directory, locks);
}

/// Returns the processes that inetd has started and that have not ended.
fn sessions(inetd: Pid) -> BTreeSet<Pid> {
    let children = fs::read_to_string(format!("/proc/{inetd}/task/{inetd}/children")).unwrap();
    children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}
