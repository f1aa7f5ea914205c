//! Two servers on the same mailboxes, one of them killed again and again under load.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::harness::outside::{Fate, Home, Ledger, Letter, Sender, examine, setting};

const LARGE: usize = 300 * 1024;

#[test]
fn one_of_two_servers_killed_under_load_harms_no_mailbox() {
    let home = Home::new();
    let rounds = setting("OUTSIDE_ROUNDS", 5);
    let ledger = Mutex::new(Ledger::default());
    let over = AtomicBool::new(false);
    let steady = home.start(&[]);
    let kills = thread::scope(|scope| {
        // Also when an assertion fails below: the senders would go on for ever.
        let _end = Raise(&over);
        scope.spawn(|| send_until(&over, &ledger, steady.address, "steady-1"));
        scope.spawn(|| send_until(&over, &ledger, steady.address, "steady-2"));
        let mut kills = 0;
        for round in 0..rounds {
            let victim = home.start(&[]);
            let before = ledger.lock().unwrap().0.len();
            thread::scope(|scope| {
                let (over, ledger, address) = (&over, &ledger, victim.address);
                for n in 0..2 {
                    scope.spawn(move || {
                        send_until(over, ledger, address, &format!("victim-{round}-{n}"));
                    });
                }
                // In the middle of the work, at no particular point of it.
                while ledger.lock().unwrap().0.len() < before + 20 + 7 * round {
                    thread::yield_now();
                }
                victim.signal(Signal::SIGKILL);
            });
            victim.ended();
            kills += 1;
        }
        kills
    });
    let ledger = ledger.into_inner().unwrap();
    let unknown = ledger.0.iter().filter(|(_, fate)| *fate == Fate::Unknown).count();
    println!("{kills} kills under load, {} letters, {unknown} without a reply", ledger.0.len());
    assert!(kills > 0 && unknown > 0 && ledger.count(250) > 20 * kills);
    let refused = ledger.0.len() - unknown - ledger.count(250);
    assert_eq!(refused, 0, "mail for which the wait was over");
    let (log, status) = steady.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    // What the last one left is nobody's until the next start.
    examine(&home, ledger, "two servers");
}

/// Raises a flag when it is dropped.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends letters, to one mailbox and to several, small ones and some large, until it is over or
/// the server is gone.
fn send_until(over: &AtomicBool, ledger: &Mutex<Ledger>, address: SocketAddr, name: &str) {
    let mut sender = Sender::open(address).unwrap();
    for n in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let to = [&["a"][..], &["a", "b", "c"], &["b"], &["c", "b"]][n % 4];
        let octets = if n % 10 == 9 { LARGE } else { 300 * (n % 7) };
        let letter = Letter::new(format!("{name}-{n}"), to, octets);
        let code = sender.send(&letter);
        if ledger.lock().unwrap().note(letter, code) == Fate::Unknown {
            return;
        }
    }
}
