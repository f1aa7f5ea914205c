//! The writer is killed, or power is lost, at every call. What was acknowledged is whole in its
//! mailboxes, no message is torn or in some of its mailboxes only, and the next start repairs all.
//!
//! Each test prints how many crash points it tried. `MAILSLOT_FAULTS=N` tries N times as many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mailslot::deliver::disk::FileLock;
use mailslot::deliver::{DeliveryConfig, Outcome};

use crate::harness::ledger::{Ledger, Rewrite};
use crate::harness::message::{LARGE, LIMITS, TestMessage, content_file};
use crate::harness::random::Random;
use crate::harness::sim_disk::{Fault, Plan, SimMachine};
use crate::harness::sim_writer::{SPOOL, SimWriter, check_directories, config, machine, path};
use crate::logger;

/// Mailboxes at the start. The second one does not end as a mailbox should.
pub const BEFORE: &[(&str, &str)] = &[
    ("alice", "From old Thu Jan  1 00:00:00 1970\n\nold mail of alice\n\n"),
    ("bob", "From old Thu Jan  1 00:00:00 1970\n\nold mail of bob"),
    ("carol", ""),
];
const FOREIGN: &str = "From other Thu Jan  1 00:00:00 1970\n\nmail by another program\n\n";
pub const BOXES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Sends one message to one mailbox, one to three, two at a time, a large one, and one to a new
/// mailbox; some of them to the queue, alone or with mailboxes. They are enough to use both halves
/// of the journal.
pub fn deliver_some(server: &SimWriter, ledger: &mut Ledger<Outcome>) {
    ledger.send(server, TestMessage::new("one", &["alice"], 300));
    ledger.send(server, TestMessage::new("three", &["alice", "bob", "queue/three"], 6000));
    let pair = [("left", &["queue/left"][..]), ("right", &["bob", "alice"])];
    let pair = pair.map(|(id, to)| TestMessage::new(id, to, 500));
    ledger.send_together(server, pair.to_vec());
    ledger.send(server, TestMessage::new("large", &["bob", "alice"], LARGE));
    ledger.send(server, TestMessage::new("new", &["dave", "alice"], 400));
    ledger.send(server, TestMessage::new("large-new", &["erin", "dave", "queue/large-new"], LARGE));
    ledger.send(server, TestMessage::new("last", &["carol", "bob"], 400));
}

/// Runs until the fault. False if the run ended without it.
fn run(machine: &SimMachine, ledger: &mut Ledger<Outcome>, plan: Plan) -> bool {
    run_with(machine, ledger, plan, deliver_some)
}

fn run_with(
    machine: &SimMachine,
    ledger: &mut Ledger<Outcome>,
    plan: Plan,
    deliver: impl Fn(&SimWriter, &mut Ledger<Outcome>),
) -> bool {
    // RUST_LOG=warn shows what recovery did.
    logger::start();
    let disk = machine.process();
    disk.plan(Some(plan));
    if let Ok(server) = SimWriter::start(&disk) {
        deliver(&server, ledger);
        server.stop();
    }
    let fired = disk.fired();
    disk.kill();
    fired
}

/// Starts again, delivers one more message to each mailbox, and checks all.
pub fn restart_and_check(machine: &SimMachine, ledger: &mut Ledger<Outcome>) -> Result<(), String> {
    let server =
        SimWriter::start(&machine.process()).map_err(|e| format!("does not start: {e}"))?;
    for (n, name) in BOXES.into_iter().enumerate() {
        let outcome = ledger.send(&server, TestMessage::new(format!("after{n}"), &[name], 300));
        if outcome != Some(Outcome::Delivered) {
            return Err(format!("the next delivery to {name}: {outcome:?}"));
        }
    }
    server.stop();
    ledger.check(machine)?;
    check_directories(machine)
}

#[test]
fn killed_at_every_call() {
    let mut tried = 0;
    for fault in [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter] {
        tried += every_call(1, fault, restart_and_check);
    }
    println!("killed_at_every_call: {tried} crash points");
    assert!(tried > 400, "{tried}");
}

/// The mark that a stop leaves is not believed any more once the journal has a record again.
#[test]
fn after_a_stop_no_record_is_read_and_after_a_later_kill_all_are() {
    logger::start();
    for fault in [Fault::KillAfter, Fault::PowerAfter(1)] {
        let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
        let journal = format!("{SPOOL}/journal-0");
        let start = || {
            let before = machine.octets_read(&journal);
            let server = SimWriter::start(&machine.process()).unwrap();
            (server, machine.octets_read(&journal) - before)
        };
        let (server, _) = start();
        deliver_some(&server, &mut ledger);
        server.stop();
        let (server, read) = start();
        assert!(read < 16 * 1024, "{read} octets of the journal after a stop");
        // The record is durable after the second sync, that of the journal, or before it.
        server.disk.plan(Some(Plan { at: 12, fault }));
        ledger.send(&server, TestMessage::new("later", &["alice", "bob"], 6000));
        ledger.send(&server, TestMessage::new("latest", &["alice", "carol"], 6000));
        let fired = server.disk.fired();
        server.disk.kill();
        assert!(fired, "{fault:?}");
        let before = machine.octets_read(&journal);
        restart_and_check(&machine, &mut ledger).unwrap();
        let read = machine.octets_read(&journal) - before;
        assert!(read > config().journal_segment, "{read} octets of the journal after a kill");
    }
}

#[test]
fn power_lost_at_every_call() {
    let mut tried = 0;
    for seed in 0..3 * factor() {
        tried += every_call(2, Fault::PowerBefore(seed), restart_and_check);
        tried += every_call(2, Fault::PowerAfter(seed + 1000), restart_and_check);
    }
    println!("power_lost_at_every_call: {tried} crash points");
    assert!(tried > 500, "{tried}");
}

/// More messages for two mailboxes than a batch holds, so that the writer passes the locked
/// mailboxes from one batch to the next.
#[test]
fn killed_or_power_lost_while_mailboxes_are_passed_on() {
    let deliver = |server: &SimWriter, ledger: &mut Ledger<Outcome>| {
        let to = |n: usize| if n.is_multiple_of(3) { &["alice", "bob"][..] } else { &["alice"] };
        let all = (0..150).map(|n| TestMessage::new(format!("m{n}"), to(n), 100));
        ledger.send_together(server, all.collect());
    };
    let (mut tried, mut failures) = (0, Vec::new());
    for n in 0..4 {
        for at in (1 + n..).step_by((96 / factor()).max(1) as usize) {
            let fault = match n {
                0 => Fault::KillBefore,
                1 => Fault::KillWithin,
                _ => Fault::PowerBefore(n * 10_000 + at),
            };
            let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
            if !run_with(&machine, &mut ledger, Plan { at, fault }, deliver) {
                assert_eq!(ledger.accepted(), 150, "{}", ledger.summary());
                break;
            }
            tried += 1;
            if let Err(e) = restart_and_check(&machine, &mut ledger) {
                failures.push(format!("{fault:?} at call {at}: {e}"));
            }
        }
    }
    println!("killed_or_power_lost_while_mailboxes_are_passed_on: {tried} crash points");
    let count = failures.len();
    assert!(count == 0, "{count} of {tried}, the first: {}", failures[0]);
    assert!(tried > 20, "{tried}");
}

#[test]
fn power_lost_with_messages_of_each_size() {
    let (mut tried, mut failures) = (0, Vec::new());
    for (limit, seed) in LIMITS.into_iter().flat_map(|limit| (0..4).map(move |n| (limit, n))) {
        // Small before and after it, so that it is torn between others.
        let deliver = |server: &SimWriter, ledger: &mut Ledger<Outcome>| {
            let mut random = Random(seed);
            ledger.send(server, TestMessage::new("first", &["alice", "bob"], 300));
            ledger.send(server, TestMessage::near("sized", &["bob", "dave"], limit, &mut random));
            ledger.send(server, TestMessage::new("last", &["dave", "bob"], 300));
        };
        let step = (7 / factor()).max(1);
        for at in (1 + seed..).step_by(step as usize) {
            let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
            let fault = Fault::PowerBefore(seed * 10_000 + at);
            if !run_with(&machine, &mut ledger, Plan { at, fault }, deliver) {
                assert_eq!(ledger.accepted(), 3, "{}", ledger.summary());
                break;
            }
            tried += 1;
            if let Err(e) = restart_and_check(&machine, &mut ledger) {
                failures.push(format!("{limit}, {fault:?} at call {at}: {e}"));
            }
        }
    }
    println!("power_lost_with_messages_of_each_size: {tried} crash points");
    let count = failures.len();
    assert!(count == 0, "{count} of {tried}, the first: {}", failures[0]);
    assert!(tried > 300, "{tried}");
}

#[test]
fn recovery_killed_at_every_call() {
    let mut tried = 0;
    for fault in [Fault::KillBefore, Fault::KillWithin] {
        every_call(30, fault, |machine, ledger| killed_again(machine, ledger, 1, &mut tried));
    }
    println!("recovery_killed_at_every_call: {tried} crash points");
    assert!(tried > 300, "{tried}");
}

/// Kills recovery at each of its calls (by default, every other one), and sometimes the next
/// recovery, too.
fn killed_again(
    machine: &SimMachine,
    ledger: &Ledger<Outcome>,
    depth: u64,
    tried: &mut u64,
) -> Result<(), String> {
    let step = if depth > 0 { 2 } else { 7 };
    for at in (1..).step_by((step / factor()).max(1) as usize) {
        let (machine, mut ledger) = (machine.fork(), ledger.clone());
        let disk = machine.process();
        let fault = if at % 4 == 1 { Fault::KillAfter } else { Fault::KillBefore };
        disk.plan(Some(Plan { at, fault }));
        if let Ok(server) = SimWriter::start(&disk) {
            server.stop();
        }
        let fired = disk.fired();
        disk.kill();
        *tried += u64::from(fired);
        if fired && depth > 0 && at % 40 == 5 {
            killed_again(&machine, &ledger, depth - 1, tried)?;
        }
        restart_and_check(&machine, &mut ledger)
            .map_err(|e| format!("recovery killed at call {at}: {e}"))?;
        if !fired {
            break;
        }
    }
    Ok(())
}

/// Each message has a process of its own, as under `--inetd`, and some of them run together.
#[test]
fn one_process_for_each_message_is_killed_at_every_call() {
    let mut tried = 0;
    for fault in [Fault::KillBefore, Fault::KillAfter, Fault::PowerBefore(3)] {
        for at in (1..).step_by((3 / factor()).max(1) as usize) {
            let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
            let other = machine.process();
            let beside = SimWriter::start(&other).unwrap();
            let large = TestMessage::new("beside", &["bob", "carol"], LARGE);
            ledger.send(&beside, large);
            let mut fired = false;
            let messages = [("one", &["alice", "bob"][..]), ("two", &["carol", "alice", "dave"])];
            for (id, to) in messages {
                let disk = machine.process();
                let fault = match fault {
                    Fault::PowerBefore(seed) => Fault::PowerBefore(seed * 10_000 + at),
                    fault => fault,
                };
                disk.plan(Some(Plan { at, fault }).filter(|_| id == "one"));
                if let Ok(server) = SimWriter::start(&disk) {
                    ledger.send(&server, TestMessage::new(id, to, LARGE));
                    server.stop();
                }
                fired |= disk.fired();
                disk.kill();
            }
            beside.stop();
            if let Err(e) = restart_and_check(&machine, &mut ledger) {
                panic!("{fault:?} at call {at}: {e}\n{}", ledger.summary());
            }
            if !fired {
                break;
            }
            tried += 1;
        }
    }
    println!("one_process_for_each_message_is_killed_at_every_call: {tried} crash points");
    assert!(tried > 60, "{tried}");
}

/// A large message to many recipients is in all of their mailboxes or in none, and its file is not
/// left.
#[test]
fn large_message_to_many_is_killed_at_every_call() {
    let names: Vec<String> = (0..10).map(|n| format!("user{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut tried = 0;
    let faults = [
        Fault::KillBefore,
        Fault::KillWithin,
        Fault::KillAfter,
        Fault::PowerBefore(1),
        Fault::PowerBefore(2),
        Fault::PowerAfter(3),
    ];
    for fault in faults {
        for at in (1..).step_by((5 / factor()).max(1) as usize) {
            let (machine, mut ledger) = (machine(&[]), Ledger::new(&[]));
            let disk = machine.process();
            let fault = match fault {
                Fault::PowerBefore(seed) => Fault::PowerBefore(seed * 10_000 + at),
                Fault::PowerAfter(seed) => Fault::PowerAfter(seed * 10_000 + at),
                fault => fault,
            };
            let server = SimWriter::start(&disk).unwrap();
            disk.plan(Some(Plan { at, fault }));
            ledger.send(&server, TestMessage::new("many", &names, LARGE));
            ledger.send(&server, TestMessage::new("again", &names[..2], LARGE));
            server.stop();
            let fired = disk.fired();
            disk.kill();
            if let Err(e) = restart_and_check(&machine, &mut ledger) {
                panic!("{fault:?} at call {at}: {e}\n{}", ledger.summary());
            }
            if !fired {
                break;
            }
            tried += 1;
        }
    }
    println!("large_message_to_many_is_killed_at_every_call: {tried} crash points");
    assert!(tried > 100, "{tried}");
}

/// Content that a session is receiving stays, and so does content of a mailbox that is not
/// recovered yet. What a killed process left is removed at the next start.
#[test]
fn content_is_removed_only_when_nothing_needs_it() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let contents = || {
        let names = machine.names(SPOOL);
        names.iter().filter(|name| name.starts_with("content-")).count()
    };
    let disk = machine.process();
    let first = SimWriter::start(&disk).unwrap();
    let receiving = content_file(&*first.contents(), b"a part of a message").unwrap();
    SimWriter::start(&machine.process()).unwrap().stop();
    assert_eq!(contents(), 1, "a session has it");

    // The process is killed after its record was synced, and bob stays locked.
    ledger.send(&first, TestMessage::new("large", &["alice", "bob"], LARGE));
    disk.kill();
    drop(receiving);
    first.stop();
    machine.lose_all();
    ledger.power_lost();
    assert!(machine.lock(&path("bob"), FileLock::Flock));
    let mut config = config();
    config.lock_timeout = Duration::from_millis(20);
    let second = SimWriter::start_with(&machine.process(), config.clone()).unwrap();
    assert_eq!(contents(), 1, "the record for bob needs it");
    SimWriter::start_with(&machine.process(), config).unwrap().stop();
    assert_eq!(contents(), 1, "another process sees that, too");
    machine.unlock_all();
    while ledger.send(&second, TestMessage::new(next_id(), &["bob"], 300))
        != Some(Outcome::Delivered)
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    second.stop();
    restart_and_check(&machine, &mut ledger).unwrap();
}

/// Returns an id that no other message of this program has.
fn next_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("next{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

#[test]
fn power_lost_in_recovery_and_after_it() {
    let mut tried = 0;
    for seed in 0..2 * factor() {
        let mut random = Random(seed);
        let fault = if seed % 2 == 0 { Fault::KillBefore } else { Fault::PowerAfter(seed) };
        tried += every_call(4, fault, |machine, ledger| {
            ledger.power_lost();
            for _ in 0..3 {
                let (machine, mut ledger) = (machine.fork(), ledger.clone());
                let disk = machine.process();
                let (at, seed) = (random.below(150), random.next());
                disk.plan(Some(Plan { at, fault: Fault::PowerBefore(seed) }));
                if let Ok(server) = SimWriter::start(&disk) {
                    server.stop();
                }
                if !disk.fired() {
                    machine.lose_power(seed);
                }
                restart_and_check(&machine, &mut ledger)
                    .map_err(|e| format!("then power lost at {at}: {e}"))?;
            }
            Ok(())
        });
    }
    println!("power_lost_in_recovery_and_after_it: {} crash points", 3 * tried);
    assert!(tried > 100, "{tried}");
}

#[test]
fn other_programs_write_between_crash_and_restart() {
    let mut tried = 0;
    for kind in 0..7 {
        for (seed, fault) in [(0, Fault::KillAfter), (1, Fault::PowerBefore(kind))] {
            let mut random = Random(100 * kind + seed);
            tried += every_call(7, fault, |machine, ledger| {
                for name in ["alice", "bob", "dave"] {
                    let way = [Rewrite::InPlace, Rewrite::Rename][random.below(2) as usize];
                    let long = FOREIGN.repeat(1 + random.below(200) as usize);
                    match kind {
                        0 => ledger.foreign_append(machine, name, FOREIGN),
                        1 => ledger.foreign_append(machine, name, &long),
                        2 => ledger.foreign_rewrite(machine, name, Some(FOREIGN), way),
                        3 => ledger.foreign_rewrite(machine, name, Some(&long), way),
                        4 => ledger.foreign_rewrite(machine, name, None, way),
                        5 => ledger.foreign_rewrite(machine, name, None, Rewrite::Remove),
                        _ => ledger.foreign_expunge(machine, name, || random.below(3) == 0),
                    }
                }
                if seed == 1 {
                    ledger.power_lost();
                }
                restart_and_check(machine, ledger)
            });
        }
    }
    println!("other_programs_write_between_crash_and_restart: {tried} crash points");
    assert!(tried > 300, "{tried}");
}

#[test]
fn one_of_two_servers_is_killed() {
    let mut tried = 0;
    for fault in [Fault::KillAfter, Fault::KillWithin, Fault::PowerAfter(7)] {
        for at in (1..).step_by((7 / factor()).max(1) as usize) {
            let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
            let living = machine.process();
            let server = SimWriter::start(&living).unwrap();
            ledger.send(&server, TestMessage::new("before", &["alice", "bob"], 300));
            let fired = run(&machine, &mut ledger, Plan { at, fault });
            if !living.is_dead() {
                for name in BOXES {
                    let message = TestMessage::new(format!("meanwhile-{name}"), &[name], 300);
                    let outcome = ledger.send(&server, message);
                    assert_eq!(outcome, Some(Outcome::Delivered), "{fault:?} {at}");
                }
                let whole = ledger.check(&machine);
                assert_eq!(whole, Ok(()), "{fault:?} at {at}\n{}", ledger.summary());
            }
            let third = SimWriter::start(&machine.process()).unwrap();
            for name in BOXES {
                ledger.send(&third, TestMessage::new(format!("third-{name}"), &[name], 300));
            }
            server.stop();
            third.stop();
            if let Err(e) = restart_and_check(&machine, &mut ledger) {
                panic!("{fault:?} at call {at}: {e}\n{}", ledger.summary());
            }
            if !fired {
                break;
            }
            tried += 1;
        }
    }
    println!("one_of_two_servers_is_killed: {tried} crash points");
    assert!(tried > 50, "{tried}");
}

#[test]
fn recovery_syncs_applied_messages() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice", "dave"], 300));
    disk.kill();
    server.stop();
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    disk.kill();
    server.stop();
    // The journal is removed by now, so only the mailboxes contain the message.
    machine.lose_all();
    restart_and_check(&machine, &mut ledger).unwrap();
}

#[test]
fn marks_of_another_boot_do_not_count_without_a_boot_id() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    machine.hide_boot_id();
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice", "dave"], 300));
    for name in machine.names(SPOOL) {
        machine.sync(&format!("{SPOOL}/{name}"));
    }
    disk.kill();
    server.stop();
    machine.lose_all();
    ledger.power_lost();
    // As after the boot of a small host, the server has the pid that it had before.
    let server = SimWriter::start(&machine.process_with_pid_of(&disk)).unwrap();
    server.stop();
    restart_and_check(&machine, &mut ledger).unwrap();
}

/// Directories of file systems that are lost while the host runs: that of the mailboxes alone, and
/// one of mailboxes and spool.
const LOST: [&[&str]; 2] = [&["/mail"], &["/mail", SPOOL, "/spool/queue"]];

#[test]
fn file_system_lost_in_the_same_boot() {
    let mut tried = 0;
    for seed in 0..6 * factor() {
        for directories in LOST {
            tried += every_call(5, Fault::KillAfter, |machine, ledger| {
                machine.lose_file_system(directories, seed);
                restart_and_check(machine, ledger)
            });
        }
    }
    println!("file_system_lost_in_the_same_boot: {tried} crash points");
    assert!(tried > 100, "{tried}");
}

#[test]
fn recovery_of_a_lost_file_system_killed_at_every_call() {
    let mut tried = 0;
    for seed in 0..3 {
        for directories in LOST {
            every_call(60, Fault::KillAfter, |machine, ledger| {
                machine.lose_file_system(directories, seed);
                killed_again(machine, ledger, 0, &mut tried)
            });
        }
    }
    println!("recovery_of_a_lost_file_system_killed_at_every_call: {tried} crash points");
    assert!(tried > 100, "{tried}");
}

#[test]
fn mailbox_created_by_a_killed_recovery_is_no_proof_of_a_reader() {
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    disk.kill();
    server.stop();
    machine.remove("/mail/alice");
    let mut at = 0;
    let created = loop {
        at += 1;
        let disk = machine.process();
        disk.plan(Some(Plan { at, fault: Fault::KillAfter }));
        let started = SimWriter::start(&disk);
        if machine.read("/mail/alice").is_some() {
            break started.is_err();
        }
    };
    assert!(created);
    restart_and_check(&machine, &mut ledger).unwrap();
}

#[test]
fn entry_that_was_relayed_is_not_queued_again() {
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["queue/one"], 300));
    machine.remove("/spool/queue/one");
    ledger.send(&server, TestMessage::new("two", &["queue/two"], 300));
    disk.kill();
    server.stop();
    SimWriter::start(&machine.process()).unwrap().stop();
    assert_eq!(machine.names("/spool/queue"), ["two"]);
}

#[test]
fn message_removed_by_a_reader_before_the_next_delivery_does_not_come_back() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    ledger.send(&server, TestMessage::new("two", &["alice"], 300));
    ledger.foreign_expunge(&machine, "alice", || true);
    ledger.send(&server, TestMessage::new("three", &["alice"], 300));
    disk.kill();
    server.stop();
    restart_and_check(&machine, &mut ledger).unwrap();
}

#[test]
fn thousand_records_are_searched_for_in_one_pass() {
    let count = 1000;
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let config = || DeliveryConfig {
        journal_segment: 16 << 20,
        checkpoint_age: Duration::from_secs(3600),
        ..config()
    };
    let disk = machine.process();
    let server = SimWriter::start_with(&disk, config()).unwrap();
    for n in 0..count {
        ledger.send(&server, TestMessage::new(format!("m{n}"), &["alice"], 300));
    }
    disk.kill();
    server.stop();
    machine.sync_all();
    // In another boot, so that nothing proves that what is missing was removed.
    machine.lose_power(1);
    let old =
        TestMessage::new("old", &["alice"], 4 << 20).stored().replace(" id old;", " id old2;");
    let old = format!("From old Thu Jan  1 00:00:00 1970\n{old}\n");
    let mailbox = machine.read("/mail/alice").unwrap();
    machine.rewrite("/mail/alice", &[old.as_bytes(), &mailbox].concat());
    let octets = (old.len() + mailbox.len()) as u64;
    let before = machine.octets_read("/mail/alice");
    let disk = machine.process();
    let server = SimWriter::start_with(&disk, config()).unwrap();
    let read = machine.octets_read("/mail/alice") - before;
    assert!((octets..2 * octets).contains(&read), "{read} of {octets} bytes");
    disk.kill();
    server.stop();
    let text = String::from_utf8(machine.read("/mail/alice").unwrap()).unwrap();
    assert_eq!(text.matches("\nSubject: m").count(), count);
}

#[test]
fn message_that_was_found_is_not_searched_for_again() {
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice", "bob"], 300));
    disk.kill();
    server.stop();
    machine.sync_all();
    machine.lose_power(1);
    let old = format!("From old Thu Jan  1 00:00:00 1970\n\n{}\n\n", "old\n".repeat(1 << 18));
    let mailbox = machine.read("/mail/alice").unwrap();
    machine.rewrite("/mail/alice", &[old.as_bytes(), &mailbox].concat());
    ledger.add_others("alice", &old);
    // Recovery cannot finish the second mailbox, so the journal stays.
    assert!(machine.lock("/mail/bob", FileLock::Flock));
    let config = DeliveryConfig { lock_timeout: Duration::ZERO, ..config() };
    for searched in [true, false] {
        let before = machine.octets_read("/mail/alice");
        let disk = machine.process();
        let server = SimWriter::start_with(&disk, config.clone()).unwrap();
        disk.kill();
        server.stop();
        let read = machine.octets_read("/mail/alice") - before;
        assert_eq!(read >= old.len() as u64, searched, "{read}");
    }
    machine.unlock_all();
    restart_and_check(&machine, &mut ledger).unwrap();
}

#[test]
fn messages_moved_by_a_reader_are_found() {
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    ledger.send(&server, TestMessage::new("two", &["alice"], 300));
    let mut first = true;
    ledger.foreign_expunge(&machine, "alice", || std::mem::take(&mut first));
    machine.sync_all();
    server.stop();
    machine.lose_power(1);
    ledger.power_lost();
    restart_and_check(&machine, &mut ledger).unwrap();
}

#[test]
fn message_that_lost_its_from_line_is_not_taken_for_whole() {
    let (machine, mut ledger) = (machine(&[]), Ledger::<Outcome>::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    disk.kill();
    server.stop();
    // The sector with its beginning was lost with power, and a reader has moved the rest.
    let mut torn = machine.read("/mail/alice").unwrap();
    torn[..100].fill(0);
    machine.rewrite("/mail/alice", &[FOREIGN.as_bytes(), &torn].concat());
    machine.sync_all();
    machine.lose_all();
    SimWriter::start(&machine.process()).unwrap().stop();
    let mailbox = String::from_utf8(machine.read("/mail/alice").unwrap()).unwrap();
    assert_eq!(mailbox.matches("Subject: one\n").count(), 2, "{mailbox:?}");
    assert!(mailbox.contains("\n\nFrom s@example.org "), "{mailbox:?}");
}

#[test]
fn hole_over_several_messages_is_filled() {
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let config = DeliveryConfig { journal_segment: 1 << 20, ..config() };
    let server = SimWriter::start_with(&disk, config.clone()).unwrap();
    for n in 0..6 {
        ledger.send(&server, TestMessage::new(format!("m{n}"), &["alice"], 3000));
    }
    disk.kill();
    server.stop();
    // The disk has written the last sectors, and none of those in the middle.
    let mut torn = machine.read("/mail/alice").unwrap();
    let length = torn.len();
    torn[length / 6 / 512 * 512..length * 4 / 6 / 512 * 512].fill(0);
    machine.rewrite("/mail/alice", &torn);
    machine.sync_all();
    machine.lose_all();
    ledger.power_lost();
    SimWriter::start_with(&machine.process(), config).unwrap().stop();
    ledger.check(&machine).unwrap();
    assert_eq!(machine.read("/mail/alice").unwrap().len(), length);
}

#[test]
fn mailbox_renamed_by_a_reader_is_durable() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let server = SimWriter::start(&machine.process()).unwrap();
    ledger.foreign_rewrite(&machine, "alice", Some(FOREIGN), Rewrite::Rename);
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    ledger.send(&server, TestMessage::new("large", &["alice"], LARGE));
    // A stop checkpoints everything.
    server.stop();
    machine.lose_all();
    restart_and_check(&machine, &mut ledger).unwrap();
}

/// Tries `fault` at every call, or at one in `step`, until a run ends without it. After each fault
/// `then` checks the result. Returns the number of faults. Fails the test when all were tried, so
/// that it says how many of them are not survived.
fn every_call(
    step: u64,
    fault: Fault,
    mut then: impl FnMut(&SimMachine, &mut Ledger<Outcome>) -> Result<(), String>,
) -> u64 {
    let step = (step / factor()).max(1);
    let (mut tried, mut failures) = (0, Vec::new());
    for at in (1..).step_by(step as usize) {
        let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
        let fault = match fault {
            // Each call has its own seed.
            Fault::PowerBefore(seed) => Fault::PowerBefore(seed * 10_000 + at),
            Fault::PowerAfter(seed) => Fault::PowerAfter(seed * 10_000 + at),
            fault => fault,
        };
        if !run(&machine, &mut ledger, Plan { at, fault }) {
            assert_eq!(ledger.accepted(), 8, "{}", ledger.summary());
            break;
        }
        tried += 1;
        if let Err(e) = then(&machine, &mut ledger) {
            failures.push(format!("{fault:?} at call {at}: {e}\n{}", ledger.summary()));
        }
    }
    let count = failures.len();
    assert!(count == 0, "{count} of {tried} {fault:?}, the first:\n{}", failures[0]);
    tried
}

/// Returns how many times as many crash points are tried.
pub fn factor() -> u64 {
    std::env::var("MAILSLOT_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
