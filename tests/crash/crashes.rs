//! Killed, or without power, at every call: what was acknowledged is in its mailboxes, whole; no
//! message is torn or in some of its mailboxes only; the next start needs no help.
//!
//! Each test prints how many crash points it tried. `MAILSLOT_FAULTS=N` tries N times as many.

use crate::harness::ledger::{LARGE, Ledger, Letter, Rewrite, SPOOL, Server, world};
use crate::harness::sim_disk::{Fault, Plan, Random, World};
use crate::logger;

/// What is in the mailboxes before. The second does not end as a mailbox should.
const BEFORE: &[(&str, &str)] = &[
    ("alice", "From old Thu Jan  1 00:00:00 1970\n\nold mail of alice\n\n"),
    ("bob", "From old Thu Jan  1 00:00:00 1970\n\nold mail of bob"),
    ("carol", ""),
];
const FOREIGN: &str = "From other Thu Jan  1 00:00:00 1970\n\nmail by another program\n\n";
const BOXES: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// One letter for one mailbox, one for three, two at a time, a large one, a new mailbox; some of
/// them for the queue, alone or with others; enough that both halves of the journal are used.
fn deliver_some(server: &Server, ledger: &mut Ledger) {
    ledger.send(server, Letter::new("one", &["alice"], 300));
    ledger.send(server, Letter::new("three", &["alice", "bob", "queue/three"], 6000));
    let pair = [("left", &["queue/left"][..]), ("right", &["bob", "alice"])];
    let pair = pair.map(|(id, to)| Letter::new(id, to, 500));
    ledger.send_together(server, pair.to_vec());
    ledger.send(server, Letter::new("large", &["bob", "alice"], LARGE));
    ledger.send(server, Letter::new("new", &["dave", "alice"], 400));
    ledger.send(server, Letter::new("large-new", &["erin", "dave", "queue/large-new"], LARGE));
    ledger.send(server, Letter::new("last", &["carol", "bob"], 400));
}

/// Runs until the fault; false if it did not come to that.
fn run(world: &World, ledger: &mut Ledger, plan: Plan) -> bool {
    // RUST_LOG=warn shows what recovery did.
    logger::start();
    let disk = world.process();
    disk.plan(Some(plan));
    if let Ok(server) = Server::start(&disk) {
        deliver_some(&server, ledger);
        server.stop();
    }
    let fired = disk.fired();
    disk.kill();
    fired
}

/// Starts again and delivers one more to each mailbox; all must be well.
fn go_on(world: &World, ledger: &mut Ledger) -> Result<(), String> {
    let server = Server::start(&world.process()).map_err(|e| format!("does not start: {e}"))?;
    for (n, name) in BOXES.into_iter().enumerate() {
        let outcome = ledger.send(&server, Letter::new(&format!("after{n}"), &[name], 300));
        if outcome != mailslot::deliver::Outcome::Delivered {
            return Err(format!("the next delivery to {name}: {outcome:?}"));
        }
    }
    server.stop();
    ledger.check(world)?;
    ledger.check_folders(world)
}

#[test]
fn killed_at_every_call() {
    let mut tried = 0;
    for fault in [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter] {
        tried += every_call(1, fault, go_on);
    }
    println!("killed_at_every_call: {tried} crash points");
    assert!(tried > 400, "{tried}");
}

#[test]
fn power_lost_at_every_call() {
    let mut tried = 0;
    for seed in 0..3 * factor() {
        tried += every_call(2, Fault::PowerBefore(seed), go_on);
        tried += every_call(2, Fault::PowerAfter(seed + 1000), go_on);
    }
    println!("power_lost_at_every_call: {tried} crash points");
    assert!(tried > 500, "{tried}");
}

#[test]
fn recovery_killed_at_every_call() {
    let mut tried = 0;
    for fault in [Fault::KillBefore, Fault::KillWithin] {
        every_call(30, fault, |world, ledger| killed_again(world, ledger, 1, &mut tried));
    }
    println!("recovery_killed_at_every_call: {tried} crash points");
    assert!(tried > 300, "{tried}");
}

/// Recovery dies at each of its calls (by default, every other), and then the one after it too.
fn killed_again(world: &World, ledger: &Ledger, depth: u64, tried: &mut u64) -> Result<(), String> {
    let step = if depth > 0 { 2 } else { 7 };
    for at in (1..).step_by((step / factor()).max(1) as usize) {
        let (world, mut ledger) = (world.fork(), ledger.clone());
        let disk = world.process();
        let fault = if at % 4 == 1 { Fault::KillAfter } else { Fault::KillBefore };
        disk.plan(Some(Plan { at, fault }));
        if let Ok(server) = Server::start(&disk) {
            server.stop();
        }
        let fired = disk.fired();
        disk.kill();
        *tried += u64::from(fired);
        if fired && depth > 0 && at % 40 == 5 {
            killed_again(&world, &ledger, depth - 1, tried)?;
        }
        go_on(&world, &mut ledger).map_err(|e| format!("recovery killed at call {at}: {e}"))?;
        if !fired {
            break;
        }
    }
    Ok(())
}

#[test]
fn power_lost_in_recovery_and_after_it() {
    let mut tried = 0;
    for seed in 0..2 * factor() {
        let mut random = Random(seed);
        let fault = if seed % 2 == 0 { Fault::KillBefore } else { Fault::PowerAfter(seed) };
        tried += every_call(4, fault, |world, ledger| {
            ledger.power_lost();
            for _ in 0..3 {
                let (world, mut ledger) = (world.fork(), ledger.clone());
                let disk = world.process();
                let (at, seed) = (random.below(150), random.next());
                disk.plan(Some(Plan { at, fault: Fault::PowerBefore(seed) }));
                if let Ok(server) = Server::start(&disk) {
                    server.stop();
                }
                if !disk.fired() {
                    world.lose_power(seed);
                }
                go_on(&world, &mut ledger).map_err(|e| format!("then power lost at {at}: {e}"))?;
            }
            Ok(())
        });
    }
    println!("power_lost_in_recovery_and_after_it: {} crash points", 3 * tried);
    assert!(tried > 100, "{tried}");
}

#[test]
fn others_write_between_death_and_restart() {
    let mut tried = 0;
    for kind in 0..7 {
        for (seed, fault) in [(0, Fault::KillAfter), (1, Fault::PowerBefore(kind))] {
            let mut random = Random(100 * kind + seed);
            tried += every_call(7, fault, |world, ledger| {
                for name in ["alice", "bob", "dave"] {
                    let way = [Rewrite::InPlace, Rewrite::Rename][random.below(2) as usize];
                    let long = FOREIGN.repeat(1 + random.below(200) as usize);
                    match kind {
                        0 => ledger.foreign_append(world, name, FOREIGN),
                        1 => ledger.foreign_append(world, name, &long),
                        2 => ledger.foreign_rewrite(world, name, Some(FOREIGN), way),
                        3 => ledger.foreign_rewrite(world, name, Some(&long), way),
                        4 => ledger.foreign_rewrite(world, name, None, way),
                        5 => ledger.foreign_rewrite(world, name, None, Rewrite::Remove),
                        _ => ledger.foreign_expunge(world, name, || random.below(3) == 0),
                    }
                }
                if seed == 1 {
                    ledger.power_lost();
                }
                go_on(world, ledger)
            });
        }
    }
    println!("others_write_between_death_and_restart: {tried} crash points");
    assert!(tried > 300, "{tried}");
}

#[test]
fn two_servers_one_killed() {
    let mut tried = 0;
    for fault in [Fault::KillAfter, Fault::KillWithin, Fault::PowerAfter(7)] {
        for at in (1..).step_by((7 / factor()).max(1) as usize) {
            let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
            let living = world.process();
            let server = Server::start(&living).unwrap();
            ledger.send(&server, Letter::new("before", &["alice", "bob"], 300));
            let fired = run(&world, &mut ledger, Plan { at, fault });
            if !living.is_dead() {
                for name in BOXES {
                    let letter = Letter::new(&format!("meanwhile-{name}"), &[name], 300);
                    let outcome = ledger.send(&server, letter);
                    assert_eq!(outcome, mailslot::deliver::Outcome::Delivered, "{fault:?} {at}");
                }
                let whole = ledger.check(&world);
                assert_eq!(whole, Ok(()), "{fault:?} at {at}\n{}", ledger.summary());
            }
            let third = Server::start(&world.process()).unwrap();
            for name in BOXES {
                ledger.send(&third, Letter::new(&format!("third-{name}"), &[name], 300));
            }
            server.stop();
            third.stop();
            if let Err(e) = go_on(&world, &mut ledger) {
                panic!("{fault:?} at call {at}: {e}\n{}", ledger.summary());
            }
            if !fired {
                break;
            }
            tried += 1;
        }
    }
    println!("two_servers_one_killed: {tried} crash points");
    assert!(tried > 50, "{tried}");
}

#[test]
fn recovery_syncs_what_was_done_too() {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    ledger.send(&server, Letter::new("one", &["alice", "dave"], 300));
    disk.kill();
    server.stop();
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    disk.kill();
    server.stop();
    // Its journal is gone by now, and nothing but the mailboxes stands in for the message.
    world.lose_all();
    go_on(&world, &mut ledger).unwrap();
}

#[test]
fn marks_of_another_boot_do_not_count_without_a_boot_id() {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    world.hide_boot_id();
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    ledger.send(&server, Letter::new("one", &["alice", "dave"], 300));
    for name in world.names(SPOOL) {
        world.sync(&format!("{SPOOL}/{name}"));
    }
    disk.kill();
    server.stop();
    world.lose_all();
    ledger.power_lost();
    // As after the boot of a small host, the server has the pid that it had before.
    let server = Server::start(&world.process_with_pid_of(&disk)).unwrap();
    server.stop();
    go_on(&world, &mut ledger).unwrap();
}

#[test]
fn what_a_reader_moved_up_is_found_again() {
    let (world, mut ledger) = (world(&[]), Ledger::default());
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    ledger.send(&server, Letter::new("one", &["alice"], 300));
    ledger.send(&server, Letter::new("two", &["alice"], 300));
    let mut first = true;
    ledger.foreign_expunge(&world, "alice", || std::mem::take(&mut first));
    world.sync_all();
    server.stop();
    world.lose_power(1);
    ledger.power_lost();
    go_on(&world, &mut ledger).unwrap();
}

#[test]
fn the_name_of_a_mailbox_that_a_reader_renamed_is_durable() {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    let server = Server::start(&world.process()).unwrap();
    ledger.foreign_rewrite(&world, "alice", Some(FOREIGN), Rewrite::Rename);
    ledger.send(&server, Letter::new("one", &["alice"], 300));
    ledger.send(&server, Letter::new("large", &["alice"], LARGE));
    // Everything is written back, and forgotten.
    server.stop();
    world.lose_all();
    go_on(&world, &mut ledger).unwrap();
}

/// Tries `fault` at every call, or at one in `step`, until the run comes to its end without it, and
/// has `then` judge what comes of it. How many there were.
fn every_call(
    step: u64,
    fault: Fault,
    mut then: impl FnMut(&World, &mut Ledger) -> Result<(), String>,
) -> u64 {
    let step = (step / factor()).max(1);
    let mut tried = 0;
    for at in (1..).step_by(step as usize) {
        let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
        let fault = match fault {
            // Each call its own seed.
            Fault::PowerBefore(seed) => Fault::PowerBefore(seed * 10_000 + at),
            Fault::PowerAfter(seed) => Fault::PowerAfter(seed * 10_000 + at),
            fault => fault,
        };
        if !run(&world, &mut ledger, Plan { at, fault }) {
            assert_eq!(ledger.delivered(), 8, "{}", ledger.summary());
            break;
        }
        tried += 1;
        if let Err(e) = then(&world, &mut ledger) {
            panic!("{fault:?} at call {at}: {e}\n{}", ledger.summary());
        }
    }
    tried
}

/// `MAILSLOT_FAULTS`: how many times as many crash points are tried.
fn factor() -> u64 {
    std::env::var("MAILSLOT_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
