//! Held mail on the simulated disk: a message waits in the queue, is delivered to two mailboxes
//! with a receipt for each, and its entry is removed. Killed, or without power, at every call, each
//! mailbox has the message once, or no mailbox has it and it was not acknowledged.
//!
//! The queue itself works on real files. Here its steps are repeated in their order: copy and
//! receipt, removal of the entry, sync, removal of the receipts.

use std::path::Path;

use mailslot::deliver::Outcome;
use mailslot::deliver::disk::Disk;

use crate::harness::message::{LARGE, TestMessage};
use crate::harness::sim_disk::{Fault, Plan, SimDisk, SimMachine};
use crate::harness::sim_writer::{SimWriter, machine, path};

const ENTRY: &str = "queue/m-held";
/// Mailboxes that the message waits for. `carol` gets it at once.
const WAITING: [&str; 2] = ["alice", "bob"];

fn message(to: &[&str], length: usize) -> TestMessage {
    TestMessage::new("m", to, length)
}

fn receipt(n: usize) -> String {
    format!("{ENTRY}-done{n}")
}

/// True if the file has the message whole.
fn is_whole(machine: &SimMachine, file: &str, length: usize) -> bool {
    let text = machine.read(&path(file)).unwrap_or_default();
    message(&[], length).copy_length(&String::from_utf8_lossy(&text), file).is_some()
}

/// Makes an attempt at the entry, as the queue does after its start: receipts first. Returns None
/// if the process died meanwhile.
fn attempt(machine: &SimMachine, disk: &SimDisk, writer: &SimWriter, length: usize) -> Option<()> {
    for (n, user) in WAITING.into_iter().enumerate() {
        if !is_whole(machine, &receipt(n), length) {
            let outcome = writer.deliver(&message(&[user, &receipt(n)], length))?;
            assert_eq!(outcome, Outcome::Delivered, "{user}");
        }
    }
    let file = |name: &str| path(name);
    disk.unlink(Path::new(&file(ENTRY))).ok()?;
    disk.sync_directory(Path::new(&file("queue/"))).ok()?;
    for n in 0..WAITING.len() {
        disk.unlink(Path::new(&file(&receipt(n)))).ok()?;
    }
    Some(())
}

/// Runs the whole way of a message until the fault. Returns whether it was acknowledged, and
/// whether the fault came.
fn run(machine: &SimMachine, plan: Plan, length: usize) -> (bool, bool) {
    let disk = machine.process();
    disk.plan(Some(plan));
    let mut acknowledged = false;
    if let Ok(writer) = SimWriter::start(&disk) {
        let held = writer.deliver(&message(&["carol", ENTRY], length));
        acknowledged = held == Some(Outcome::Delivered);
        if acknowledged {
            let _ = attempt(machine, &disk, &writer, length);
        }
        writer.stop();
    }
    let fired = disk.fired();
    disk.kill();
    (acknowledged, fired)
}

/// Starts again, and tries the entry if it is there. Then each mailbox must have the message once,
/// or none if it was not acknowledged.
fn restart_and_check(machine: &SimMachine, acknowledged: bool, length: usize) {
    let disk = machine.process();
    let writer = SimWriter::start(&disk).unwrap();
    if is_whole(machine, ENTRY, length) {
        attempt(machine, &disk, &writer, length).unwrap();
    } else {
        // The queue removes receipts without an entry.
        (0..WAITING.len()).for_each(|n| drop(disk.unlink(Path::new(&path(&receipt(n))))));
    }
    writer.stop();
    let text = message(&[], length).stored();
    let count = |name: &str| {
        let mailbox = machine.read(&path(name)).unwrap_or_default();
        String::from_utf8_lossy(&mailbox).matches(&text).count()
    };
    let counts = ["carol", "alice", "bob"].map(count);
    assert!(counts == [1; 3] || !acknowledged && counts == [0; 3], "{counts:?} {acknowledged}");
    for name in [ENTRY, &receipt(0), &receipt(1)] {
        assert!(!is_whole(machine, name, length), "{name} is left");
    }
}

fn every_call(length: usize, faults: impl Fn(u64) -> Fault) -> u64 {
    let mut tried = 0;
    for at in 1.. {
        let machine = machine(&[]);
        let plan = Plan { at, fault: faults(at) };
        let (acknowledged, fired) = run(&machine, plan, length);
        if !fired {
            assert!(acknowledged);
            break;
        }
        let checked =
            std::panic::catch_unwind(|| restart_and_check(&machine, acknowledged, length));
        assert!(checked.is_ok(), "{:?} at call {at}, {length} octets", faults(at));
        tried += 1;
    }
    tried
}

#[test]
fn held_mail_is_delivered_once_if_killed_at_every_call() {
    let mut tried = 0;
    for length in [300, LARGE] {
        for fault in [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter] {
            tried += every_call(length, |_| fault);
        }
    }
    println!("held mail: killed at {tried} calls");
    assert!(tried > 100, "{tried}");
}

#[test]
fn held_mail_is_delivered_once_if_power_is_lost_at_every_call() {
    let mut tried = 0;
    for length in [300, LARGE] {
        for seed in 0..3 {
            tried += every_call(length, |at| Fault::PowerBefore(seed * 10_000 + at));
            tried += every_call(length, |at| Fault::PowerAfter((seed + 50) * 10_000 + at));
        }
    }
    println!("held mail: power lost at {tried} calls");
    assert!(tried > 500, "{tried}");
}
