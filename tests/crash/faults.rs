//! Every call fails, once and from then on. The outcome is right, the mailboxes are unchanged, the
//! log names the cause, other mail goes on, and mail is delivered when the fault is over. No
//! outcome comes before the sync that covers it.
//!
//! Each test prints how many faults there were. `MAILSLOT_FAULTS=N` tries N times as many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mailslot::deliver::{DeferReason, DeliveryConfig, Outcome};
use nix::errno::Errno;

use crate::harness::ledger::Ledger;
use crate::harness::message::{LARGE, TestMessage};
use crate::harness::sim_disk::{Call, Fault, Op, Part, Plan, SimMachine};
use crate::harness::sim_writer::{HALF, SimWriter, check_directories, config, machine, path};
use crate::logger;

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

fn messages(run: &str) -> Vec<TestMessage> {
    let message =
        |id: &str, to: &[&str], length| TestMessage::new(format!("{run}-{id}"), to, length);
    // Each message has its own entry in the queue.
    let [more, last] = ["more", "last"].map(|id| format!("queue/{run}-{id}"));
    vec![
        message("one", &["alice"], 300),
        message("three", &["alice", "bob", "carol"], 6000),
        message("large", &["bob", "alice"], LARGE),
        message("new", &["dave", "alice"], 400),
        message("more", &["alice", "bob", &more], 6000),
        message("last", &[&last], 6000),
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

/// Runs each error at each call, or at one in `step`. Some runs wait for the retry of a suspended
/// mailbox, so several run at the same time.
fn each_call_fails(name: &'static str, step: u64, fault: fn(Errno) -> Fault) {
    logger::start();
    let step = (step / factor()).max(1);
    let (next, tried) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (next, tried) = (next.clone(), tried.clone());
            thread::spawn(move || {
                loop {
                    // One thread tries one error at one of four strides of calls.
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

/// Runs one fault. Returns 0 if the run ended before it, 1 if the call cannot fail so, and 2 if it
/// failed.
fn fail(run: &str, errno: Errno, plan: Plan) -> Result<u64, String> {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new(format!("{run}-before"), &["alice"], 300));
    disk.plan(Some(plan));
    for message in messages(run) {
        let before = contents(&machine);
        let (id, to) = (message.id.clone(), message.to.clone());
        let outcome = ledger.send(&server, message);
        if outcome == Some(Outcome::Delivered) {
            continue;
        }
        let quota = matches!(errno, Errno::EDQUOT | Errno::EFBIG);
        match &outcome {
            Some(Outcome::OverQuota) if quota => {}
            Some(Outcome::Deferred(DeferReason::NoSpace)) if quota || errno == Errno::ENOSPC => {}
            Some(Outcome::Deferred(DeferReason::Unusable)) if errno == Errno::EACCES => {}
            // The mailbox is suspended, or the error is of another kind.
            Some(Outcome::Deferred(DeferReason::Io)) => {}
            other => return Err(format!("{id}: {other:?}")),
        }
        // A disk that fails every write cannot truncate either.
        let takes_cuts = matches!(plan.fault, Fault::Once(_))
            || !matches!(errno, Errno::EIO | Errno::EAGAIN | Errno::EINTR);
        if takes_cuts && contents(&machine) != before {
            return Err(format!("{id}: {outcome:?}, and the mailboxes have changed"));
        }
        let lines = logger::logged(&id);
        let names = |line: &&String| {
            to.iter().any(|name| line.contains(name)) || line.contains("spool-failed")
        };
        let named = lines.iter().filter(names).count();
        if named != 1 {
            return Err(format!("{id}: {outcome:?}, in the log: {lines:?}"));
        }
    }
    let (fired, calls) = (disk.fired(), disk.calls());
    disk.plan(None);
    for name in BOXES {
        let began = Instant::now();
        for n in 0.. {
            let message = TestMessage::new(format!("{run}-{name}{n}"), &[name], 300);
            match ledger.send(&server, message) {
                Some(Outcome::Delivered) => break,
                other if began.elapsed() > Duration::from_secs(60) => {
                    return Err(format!("the fault is over, and mail for {name}: {other:?}"));
                }
                _ => thread::sleep(Duration::from_millis(100)),
            }
        }
    }
    ledger.check(&machine)?;
    ledger.check_refused(&machine)?;
    // What was acknowledged survives a power loss.
    ledger.power_lost();
    for seed in 0..3 {
        let (machine, ledger) = (machine.fork(), ledger.clone());
        match seed {
            0 => machine.lose_all(),
            seed => machine.lose_power(seed),
        }
        let again = SimWriter::start(&machine.process()).map_err(|e| e.to_string())?;
        ledger.check(&machine).map_err(|e| {
            let calls = machine.log();
            let calls: Vec<_> = calls.iter().map(|c| format!("{c:?}")).collect();
            format!("after power loss {seed}: {e}\n{}", calls.join("\n"))
        })?;
        again.stop();
    }
    server.stop();
    ledger.check(&machine)?;
    let server = SimWriter::start(&machine.process()).unwrap();
    server.stop();
    ledger.check(&machine)?;
    check_directories(&machine)?;
    Ok(if calls < plan.at { 0 } else { 1 + u64::from(fired) })
}

fn contents(machine: &SimMachine) -> Vec<Vec<u8>> {
    BOXES.iter().map(|name| machine.read(&path(name)).unwrap_or_default()).collect()
}

#[test]
fn short_writes() {
    let mut tried = 0;
    for part in [Part::One, Part::Half, Part::ButOne] {
        for at in 1.. {
            let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
            let disk = machine.process();
            disk.plan(Some(Plan { at, fault: Fault::Short(part) }));
            // A dotlock with an incomplete line is not a lock.
            let server = SimWriter::start(&disk).unwrap();
            for message in messages("short") {
                let first = message.id == "short-one";
                let outcome = ledger.send(&server, message);
                assert!(outcome == Some(Outcome::Delivered) || first, "{part:?} at write {at}");
            }
            server.stop();
            ledger.check(&machine).unwrap();
            if !disk.fired() {
                break;
            }
            tried += 1;
        }
    }
    println!("short_writes: {tried} short writes");
    assert!(tried > 50, "{tried}");
}

#[test]
fn no_outcome_before_its_sync() {
    let machine = machine(BEFORE);
    machine.slow_sync(Duration::from_millis(1));
    let server = SimWriter::start(&machine.process()).unwrap();
    let sessions: Vec<_> = (0..8)
        .map(|s| {
            let (machine, server) = (machine.clone(), server.clone());
            thread::spawn(move || {
                for n in 0..6 {
                    let to = [BOXES[s % 4], BOXES[(s + n + 1) % 4]];
                    let to = if to[0] == to[1] { &to[..1] } else { &to[..] };
                    let length = if n == 3 { LARGE } else { 500 };
                    let mut ledger = Ledger::default();
                    let message = TestMessage::new(format!("m{s}-{n}"), to, length);
                    assert_eq!(ledger.send(&server, message), Some(Outcome::Delivered));
                    // As if power had been lost at the time of the outcome.
                    let then = machine.fork();
                    then.slow_sync(Duration::ZERO);
                    then.lose_all();
                    SimWriter::start(&then.process()).unwrap().stop();
                    ledger.check_accepted(&then).unwrap();
                }
            })
        })
        .collect();
    sessions.into_iter().for_each(|session| session.join().unwrap());
    server.stop();
}

#[test]
fn record_is_synced_before_the_mailbox_is_written() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let server = SimWriter::start(&machine.process()).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    machine.forget_log();
    assert_eq!(
        ledger.send(&server, TestMessage::new("two", &["alice"], 300)),
        Some(Outcome::Delivered)
    );
    let log = machine.log();
    let is = |call: &&Call| matches!(call.op, Op::Write | Op::Sync);
    let order: Vec<String> = log
        .iter()
        .filter(is)
        .map(|call| format!("{:?} {}", call.op, call.path.file_name().unwrap().to_string_lossy()))
        .collect();
    // The last write is the commit marker.
    assert_eq!(
        order,
        ["Write journal-0", "Sync journal-0", "Write alice", "Write journal-0"],
        "{order:?}"
    );
    server.stop();
}

#[test]
fn twenty_sessions_share_their_syncs() {
    let machine = machine(&[]);
    // Slow enough that even on a busy machine the others have sent theirs by the next sync.
    machine.slow_sync(Duration::from_millis(10));
    let mut config = config();
    config.journal_segment = 32 * HALF;
    let server = SimWriter::start_with(&machine.process(), config).unwrap();
    let before = server.counters.syncs.value();
    let sessions: Vec<_> = (0..20)
        .map(|s| {
            let server = server.clone();
            thread::spawn(move || {
                let name = format!("user{s}");
                let mut ledger = Ledger::default();
                for n in 0..25 {
                    let message = TestMessage::new(format!("m{s}-{n}"), &[&name], 4000);
                    assert_eq!(ledger.send(&server, message), Some(Outcome::Delivered));
                }
                ledger
            })
        })
        .collect();
    let ledgers: Vec<Ledger<Outcome>> =
        sessions.into_iter().map(|session| session.join().unwrap()).collect();
    let syncs = server.counters.syncs.value() - before;
    ledgers.iter().for_each(|ledger| ledger.check(&machine).unwrap());
    println!("twenty_sessions_share_their_syncs: {syncs} syncs for 500 messages");
    assert!(syncs < 100, "{syncs} syncs for 500 messages");
    server.stop();
}

#[test]
fn mailboxes_are_synced_although_more_mail_arrives() {
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let mut config = config();
    // One segment has room for all records, so that none of them forces a checkpoint.
    config.journal_segment = 8 << 20;
    config.checkpoint_age = Duration::from_millis(20);
    let server = SimWriter::start_with(&machine.process(), config).unwrap();
    let is_synced = |machine: &SimMachine| {
        machine.log().iter().any(|c| c.op == Op::Sync && c.path.ends_with("mail/alice"))
    };
    for n in 0..300 {
        ledger.send(&server, TestMessage::new(format!("m{n}"), &["alice"], 300));
        if is_synced(&machine) {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert!(is_synced(&machine), "never synced");
    server.stop();
}

#[test]
fn spool_quota_is_no_space_and_not_over_quota() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    machine.forget_log();
    ledger.send(&server, TestMessage::new("two", &["alice"], 300));
    let is_record = |c: &Call| c.op == Op::Write && c.path.ends_with("journal-0");
    let at = 1 + machine.log().iter().position(is_record).unwrap() as u64;
    disk.plan(Some(Plan { at, fault: Fault::Once(Errno::EDQUOT) }));
    let outcome = ledger.send(&server, TestMessage::new("three", &["alice"], 300));
    assert_eq!((disk.fired(), outcome), (true, Some(Outcome::Deferred(DeferReason::NoSpace))));
    server.stop();
}

#[test]
fn small_message_after_a_refused_large_one_is_recovered() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("one", &["alice"], 300));
    // The last write to the mailbox fails, so the large message is truncated.
    machine.forget_log();
    ledger.send(&server, TestMessage::new("large", &["alice"], LARGE));
    let is_write = |c: &Call| c.op == Op::Write && c.path.ends_with("alice");
    let at = 1 + machine.log().iter().rposition(is_write).unwrap() as u64;
    disk.plan(Some(Plan { at, fault: Fault::Once(Errno::EIO) }));
    let outcome = ledger.send(&server, TestMessage::new("large-2", &["alice"], LARGE));
    assert_eq!((disk.fired(), outcome), (true, Some(Outcome::Deferred(DeferReason::Io))));
    // The small message has the same sender and second. It begins like the large one, at the same
    // place.
    ledger.send(&server, TestMessage::new("small", &["alice"], 300));
    disk.kill();
    let server = SimWriter::start(&machine.process()).unwrap();
    ledger.check(&machine).unwrap();
    server.stop();
}

#[test]
fn cached_files_are_closed_when_descriptors_run_out() {
    for limited in [false, true] {
        let (machine, mut ledger) = (machine(&[]), Ledger::default());
        let disk = machine.process();
        // A segment that is full would close them, too.
        let config = DeliveryConfig { journal_segment: 1 << 20, ..config() };
        let server = SimWriter::start_with(&disk, config).unwrap();
        let most = disk.descriptors() + 8;
        disk.limit_descriptors(Some(most).filter(|_| limited));
        for n in 0..30 {
            let name = format!("user{n}");
            let length = if n == 10 { LARGE } else { 300 };
            let outcome = ledger.send(&server, TestMessage::new(format!("m{n}"), &[&name], length));
            assert_eq!(outcome, Some(Outcome::Delivered), "{n}");
        }
        assert_eq!(disk.descriptors() > most, !limited, "{}", disk.descriptors());
        server.stop();
        assert_eq!(disk.descriptors(), 0);
        ledger.check(&machine).unwrap();
    }
}

/// A large message is no reason to open a mailbox again: no sync of it comes before the outcome.
#[test]
fn large_messages_use_the_open_mailbox() {
    let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
    let server = SimWriter::start(&machine.process()).unwrap();
    for (id, length) in [("one", 300), ("two", 300), ("large", LARGE), ("large-2", LARGE)] {
        let count = |op| {
            let log = machine.log();
            log.iter().filter(|c| c.op == op && c.path.ends_with("bob")).count()
        };
        let (opened, synced) = (count(Op::Open), count(Op::Sync));
        let outcome = ledger.send(&server, TestMessage::new(id, &["bob"], length));
        assert_eq!(outcome, Some(Outcome::Delivered));
        assert_eq!(count(Op::Open) - opened, usize::from(id == "one"), "{id}");
        assert_eq!(count(Op::Sync) - synced, 0, "{id}");
    }
    server.stop();
    ledger.check(&machine).unwrap();
}

/// Returns how many times as many faults are tried.
fn factor() -> u64 {
    std::env::var("MAILSLOT_FAULTS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
