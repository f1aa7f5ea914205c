//! Every call fails, once and from then on: the answer is honest, the mailboxes are as they were,
//! the log says why, others go on, and when the fault is over so is the trouble. No answer comes
//! before the sync that covers it.
//!
//! Each test prints how many faults there were. `MAILSLOT_FAULTS=N` tries N times as many.

use crate::harness::sim_disk;
use crate::logger;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::ledger::{HALF, LARGE, Ledger, Letter, Server, path, settings, world};
use crate::harness::sim_disk::{Fault, Op, Part, Plan, World};
use mailslot::deliver::{DeferReason, Outcome};
use nix::errno::Errno;

const BEFORE: &[(&str, &str)] = &[
    ("alice", "From old Thu Jan  1 00:00:00 1970\n\nold mail of alice\n\n"),
    ("bob", "From old Thu Jan  1 00:00:00 1970\n\nold mail of bob"),
];
const BOXES: [&str; 4] = ["alice", "bob", "carol", "dave"];
const ERRORS: [Errno; 8] = [
    Errno::ENOSPC,
    Errno::EDQUOT,
    Errno::EFBIG,
    Errno::EIO,
    Errno::EINTR,
    Errno::EAGAIN,
    Errno::EMFILE,
    Errno::EACCES,
];

fn letters(run: &str) -> Vec<Letter> {
    let letter =
        |id: &str, to: &[&'static str], octets| Letter::new(&format!("{run}-{id}"), to, octets);
    // Each has an entry of its own in the queue.
    let queued = |id: &str| &*Box::leak(format!("queue/{run}-{id}").into_boxed_str());
    vec![
        letter("one", &["alice"], 300),
        letter("three", &["alice", "bob", "carol"], 6000),
        letter("large", &["bob", "alice"], LARGE),
        letter("new", &["dave", "alice"], 400),
        letter("more", &["alice", "bob", queued("more")], 6000),
        letter("last", &[queued("last")], 6000),
    ]
}

#[test]
fn each_call_fails_once() {
    each_call_fails("once", 2, Fault::Once);
}

#[test]
fn each_call_fails_from_then_on() {
    each_call_fails("lasting", 3, Fault::FromThenOn);
}

/// Runs each error at each call, or at one in `step`, on a few threads: some wait for a suspended
/// mailbox to be tried again.
fn each_call_fails(name: &'static str, step: u64, fault: fn(Errno) -> Fault) {
    logger::start();
    let step = (step / factor()).max(1);
    let (next, tried) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (next, tried) = (next.clone(), tried.clone());
            thread::spawn(move || {
                loop {
                    // One worker tries one error at one of four strides of calls.
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&errno) = ERRORS.get(job / 4) else { return };
                    let first = 1 + (job as u64 % 4) * step;
                    for at in (first..).step_by(4 * step as usize) {
                        let run = format!("{name}-{errno:?}-{at}");
                        match fail(&run, errno, Plan { at, fault: fault(errno) }) {
                            Ok(0) => break,
                            Ok(n) => tried.fetch_add(n - 1, Ordering::Relaxed),
                            Err(e) => panic!("{errno:?} at call {at}: {e}"),
                        };
                    }
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let tried = tried.load(Ordering::Relaxed);
    println!("{name}: {tried} faults");
    assert!(tried > 100, "{tried}");
}

/// One run. 0: the fault was beyond its end; 1: the call cannot fail so; 2: it failed.
fn fail(run: &str, errno: Errno, plan: Plan) -> Result<u64, String> {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    ledger.send(&server, Letter::new(&format!("{run}-before"), &["alice"], 300));
    disk.plan(Some(plan));
    for letter in letters(run) {
        let before = contents(&world);
        let (id, to) = (letter.id.clone(), letter.to.clone());
        let outcome = ledger.send(&server, letter);
        if outcome == Outcome::Delivered {
            continue;
        }
        let quota = matches!(errno, Errno::EDQUOT | Errno::EFBIG);
        match &outcome {
            Outcome::OverQuota if quota => {}
            Outcome::Deferred(DeferReason::NoSpace) if quota || errno == Errno::ENOSPC => {}
            Outcome::Deferred(DeferReason::Unusable) if errno == Errno::EACCES => {}
            // Suspended, or broken in a way of its own.
            Outcome::Deferred(DeferReason::Io) => {}
            other => return Err(format!("{id}: {other:?}")),
        }
        // A disk that takes nothing takes no cut either.
        let takes_cuts = matches!(plan.fault, Fault::Once(_))
            || !matches!(errno, Errno::EIO | Errno::EAGAIN | Errno::EINTR);
        if takes_cuts && contents(&world) != before {
            return Err(format!("{id}: {outcome:?}, and the mailboxes have changed"));
        }
        let lines = logger::logged(&id);
        let told = lines.iter().filter(|line| to.iter().any(|name| line.contains(name))).count();
        if told != 1 {
            return Err(format!("{id}: {outcome:?}, in the log: {lines:?}"));
        }
    }
    let (fired, calls) = (disk.fired(), disk.calls());
    disk.plan(None);
    for name in BOXES {
        let began = Instant::now();
        for n in 0.. {
            let letter = Letter::new(&format!("{run}-{name}{n}"), &[name], 300);
            match ledger.send(&server, letter) {
                Outcome::Delivered => break,
                other if began.elapsed() > Duration::from_secs(60) => {
                    return Err(format!("the fault is over, and mail for {name}: {other:?}"));
                }
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
    ledger.check(&world)?;
    ledger.check_refused(&world)?;
    // What was said to be safe, is.
    ledger.power_lost();
    for seed in 0..3 {
        let (world, ledger) = (world.fork(), ledger.clone());
        match seed {
            0 => world.lose_all(),
            seed => world.lose_power(seed),
        }
        let again = Server::start(&world.process()).map_err(|e| e.to_string())?;
        ledger.check(&world).map_err(|e| {
            let calls = world.log();
            let calls: Vec<_> = calls.iter().map(|c| format!("{c:?}")).collect();
            format!("after power loss {seed}: {e}\n{}", calls.join("\n"))
        })?;
        again.stop();
    }
    server.stop();
    ledger.check(&world)?;
    let server = Server::start(&world.process()).unwrap();
    server.stop();
    ledger.check(&world)?;
    ledger.check_folders(&world)?;
    Ok(if calls < plan.at { 0 } else { 1 + u64::from(fired) })
}

fn contents(world: &World) -> Vec<Vec<u8>> {
    BOXES.iter().map(|name| world.read(&path(name)).unwrap_or_default()).collect()
}

#[test]
fn each_write_is_short() {
    let mut tried = 0;
    for part in [Part::One, Part::Half, Part::ButOne] {
        for at in 1.. {
            let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
            let disk = world.process();
            disk.plan(Some(Plan { at, fault: Fault::Short(part) }));
            // The line of a lock that is not written whole is not a lock.
            let server = Server::start(&disk).unwrap();
            for letter in letters("short") {
                let first = letter.id == "short-one";
                let outcome = ledger.send(&server, letter);
                assert!(outcome == Outcome::Delivered || first, "{part:?} at write {at}");
            }
            server.stop();
            ledger.check(&world).unwrap();
            if !disk.fired() {
                break;
            }
            tried += 1;
        }
    }
    println!("each_write_is_short: {tried} short writes");
    assert!(tried > 50, "{tried}");
}

#[test]
fn no_answer_before_the_sync_that_covers_it() {
    let world = world(BEFORE);
    world.slow_sync(Duration::from_millis(1));
    let server = Server::start(&world.process()).unwrap();
    let sessions: Vec<_> = (0..8)
        .map(|s| {
            let (world, server) = (world.clone(), server.clone());
            thread::spawn(move || {
                for n in 0..6 {
                    let to = [BOXES[s % 4], BOXES[(s + n + 1) % 4]];
                    let to = if to[0] == to[1] { &to[..1] } else { &to[..] };
                    let octets = if n == 3 { LARGE } else { 500 };
                    let mut ledger = Ledger::default();
                    let letter = Letter::new(&format!("m{s}-{n}"), to, octets);
                    assert_eq!(ledger.send(&server, letter), Outcome::Delivered);
                    // Had the power gone when the answer came:
                    let then = world.fork();
                    then.slow_sync(Duration::ZERO);
                    then.lose_all();
                    Server::start(&then.process()).unwrap().stop();
                    ledger.check_contains(&then).unwrap();
                }
            })
        })
        .collect();
    sessions.into_iter().for_each(|session| session.join().unwrap());
    server.stop();
}

#[test]
fn the_record_is_synced_before_the_mailbox_is_written() {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    let server = Server::start(&world.process()).unwrap();
    ledger.send(&server, Letter::new("one", &["alice"], 300));
    world.forget_log();
    assert_eq!(ledger.send(&server, Letter::new("two", &["alice"], 300)), Outcome::Delivered);
    let log = world.log();
    let is = |call: &&sim_disk::Call| matches!(call.op, Op::Write | Op::Sync);
    let order: Vec<String> = log
        .iter()
        .filter(is)
        .map(|call| format!("{:?} {}", call.op, call.path.file_name().unwrap().to_string_lossy()))
        .collect();
    // The last write is the mark that it is done.
    assert_eq!(
        order,
        ["Write journal-0", "Sync journal-0", "Write alice", "Write journal-0"],
        "{order:?}"
    );
    server.stop();
}

#[test]
fn twenty_sessions_share_their_syncs() {
    let world = world(&[]);
    // Slow enough that on a busy machine, too, the others have sent theirs by the next sync.
    world.slow_sync(Duration::from_millis(10));
    let mut settings = settings();
    settings.journal_segment = 32 * HALF;
    let server = Server::start_with(&world.process(), settings).unwrap();
    let before = server.counters.syncs.value();
    let sessions: Vec<_> = (0..20)
        .map(|s| {
            let server = server.clone();
            thread::spawn(move || {
                let name: &'static str = Box::leak(format!("user{s}").into_boxed_str());
                let mut ledger = Ledger::default();
                for n in 0..25 {
                    let letter = Letter::new(&format!("m{s}-{n}"), &[name], 4000);
                    assert_eq!(ledger.send(&server, letter), Outcome::Delivered);
                }
                ledger
            })
        })
        .collect();
    let ledgers: Vec<Ledger> =
        sessions.into_iter().map(|session| session.join().unwrap()).collect();
    let syncs = server.counters.syncs.value() - before;
    ledgers.iter().for_each(|ledger| ledger.check(&world).unwrap());
    println!("twenty_sessions_share_their_syncs: {syncs} syncs for 500 messages");
    assert!(syncs < 100, "{syncs} syncs for 500 messages");
    server.stop();
}

#[test]
fn mailboxes_are_synced_although_more_mail_arrives() {
    let (world, mut ledger) = (world(&[]), Ledger::default());
    let mut settings = settings();
    // One segment has room for all records, so that none of them forces a checkpoint.
    settings.journal_segment = 8 << 20;
    settings.checkpoint_age = Duration::from_millis(20);
    let server = Server::start_with(&world.process(), settings).unwrap();
    let is_synced = |world: &World| {
        world.log().iter().any(|c| c.op == Op::Sync && c.path.ends_with("mail/alice"))
    };
    for n in 0..300 {
        ledger.send(&server, Letter::new(&format!("m{n}"), &["alice"], 300));
        if is_synced(&world) {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(is_synced(&world), "never synced");
    server.stop();
}

#[test]
fn a_spool_over_its_quota_is_no_mailbox_over_quota() {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    ledger.send(&server, Letter::new("one", &["alice"], 300));
    world.forget_log();
    ledger.send(&server, Letter::new("two", &["alice"], 300));
    let is_record = |c: &sim_disk::Call| c.op == Op::Write && c.path.ends_with("journal-0");
    let at = 1 + world.log().iter().position(is_record).unwrap() as u64;
    disk.plan(Some(Plan { at, fault: Fault::Once(Errno::EDQUOT) }));
    let outcome = ledger.send(&server, Letter::new("three", &["alice"], 300));
    assert_eq!((disk.fired(), outcome), (true, Outcome::Deferred(DeferReason::NoSpace)));
    server.stop();
}

#[test]
fn a_small_message_after_a_refused_large_one_is_not_taken_for_its_beginning() {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    ledger.send(&server, Letter::new("one", &["alice"], 300));
    // The sync of the mailbox fails, so the large one is cut off again.
    world.forget_log();
    ledger.send(&server, Letter::new("large", &["alice"], LARGE));
    let is_sync = |c: &sim_disk::Call| c.op == Op::Sync && c.path.ends_with("alice");
    let at = 1 + world.log().iter().position(is_sync).unwrap() as u64;
    disk.plan(Some(Plan { at, fault: Fault::Once(Errno::EIO) }));
    let outcome = ledger.send(&server, Letter::new("large-2", &["alice"], LARGE));
    assert_eq!((disk.fired(), outcome), (true, Outcome::Deferred(DeferReason::Io)));
    // By the same sender in the same second: it begins alike, and is where the large one was.
    ledger.send(&server, Letter::new("small", &["alice"], 300));
    disk.kill();
    let server = Server::start(&world.process()).unwrap();
    ledger.check(&world).unwrap();
    server.stop();
}

/// `MAILSLOT_FAULTS`: how many times as many faults are tried.
fn factor() -> u64 {
    std::env::var("MAILSLOT_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// The checkpoint has the files that are open. Its failed sync was told what a large message's own
/// sync was to be told, and the message was acknowledged without its octets on the disk.
#[test]
fn a_large_message_has_a_descriptor_of_its_own() {
    let (world, mut ledger) = (world(BEFORE), Ledger::new(BEFORE));
    let server = Server::start(&world.process()).unwrap();
    for (id, octets) in [("one", 300), ("two", 300), ("large", LARGE), ("large-2", LARGE)] {
        let opened = || {
            let log = world.log();
            log.iter().filter(|c| c.op == Op::Open && c.path.ends_with("bob")).count()
        };
        let before = opened();
        let outcome = ledger.send(&server, Letter::new(id, &["bob"], octets));
        assert_eq!(outcome, Outcome::Delivered);
        let expected = usize::from(id != "two");
        assert_eq!(opened() - before, expected, "{id}");
    }
    server.stop();
    ledger.check(&world).unwrap();
}
