//! Several processes on one spool, such as a daemon and servers started by inetd. One dies in the
//! middle of a message, and its death is known by the lock of its journal alone: its pid is used
//! again, means nothing to the others, or there is no dotlock that says anything.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use mailslot::deliver::disk::{Disk, DiskFile, OpenMode, Stat};
use mailslot::deliver::{DeferReason, DeliveryConfig, Locks, Outcome};

use super::crashes::{BEFORE, BOXES, deliver_some, factor, restart_and_check};
use crate::harness::ledger::Ledger;
use crate::harness::message::TestMessage;
use crate::harness::sim_disk::{Fault, Op, Plan, SimDisk, SimMachine};
use crate::harness::sim_writer::{SPOOL, SimWriter, config, machine};
use crate::logger;

/// The disk as a process of another kind sees it.
#[derive(Debug)]
struct View {
    disk: SimDisk,
    /// End of the pid scope, or None for that of the simulated machine.
    namespace: Option<&'static str>,
    /// Seconds by which the clock is ahead.
    ahead: Arc<AtomicI64>,
    /// True if pids in locks of other programs are those of the simulated machine.
    has_own_pids: bool,
}

impl View {
    fn of(disk: &SimDisk) -> View {
        let ahead = Arc::default();
        View { disk: disk.clone(), namespace: None, ahead, has_own_pids: false }
    }
}

impl Disk for View {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        self.disk.lstat(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, mode)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.read_directory(directory)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_directory(directory)
    }
    fn pid(&self) -> u32 {
        self.disk.pid()
    }
    fn pid_scope(&self) -> Option<String> {
        self.namespace.map(str::to_owned).or_else(|| self.disk.pid_scope())
    }
    fn is_dead(&self, pid: u32) -> bool {
        // In another namespace a process has this pid, whichever it is.
        self.namespace.is_none() && Disk::is_dead(&self.disk, pid)
    }
    fn has_own_pids(&self, _: &Path) -> bool {
        self.has_own_pids
    }
    fn now(&self) -> SystemTime {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let shift = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { SystemTime::now() - shift } else { SystemTime::now() + shift }
    }
}

const WITHOUT_DOTLOCK: Locks = Locks { dotlock: false, ..Locks::ALL };

/// A reason why nothing but its journal says that a process is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    /// Another process has its pid now.
    PidUsedAgain,
    /// The other process is in another pid namespace.
    OtherNamespace,
    /// Another program, which takes a dotlock of a dead pid for stale, has broken its dotlocks.
    DotlocksBroken,
    /// No process takes a dotlock.
    NoDotlock,
}

/// Kills one of two servers at its calls. The other one delivers, without a restart, and must not
/// append to half a message.
fn one_of_two_dies(death: Death) {
    logger::start();
    let locks = if death == Death::NoDotlock { WITHOUT_DOTLOCK } else { Locks::ALL };
    let config = || DeliveryConfig { locks, ..config() };
    let mut tried = 0;
    for fault in [Fault::KillWithin, Fault::KillAfter] {
        let step = if fault == Fault::KillWithin { 1 } else { 5 };
        for at in (1..).step_by((step / factor()).max(1) as usize) {
            let (machine, mut ledger) = (machine(BEFORE), Ledger::new(BEFORE));
            let living = machine.process();
            let namespace = (death == Death::OtherNamespace).then_some("boot0/other");
            let view = View { namespace, ..View::of(&living) };
            let server = SimWriter::start_on(Arc::new(view), &living, config()).unwrap();
            ledger.send(&server, TestMessage::new("before", &["alice", "bob"], 300));
            let dying = machine.process();
            dying.plan(Some(Plan { at, fault }));
            if let Ok(server) = SimWriter::start_with(&dying, config()) {
                deliver_some(&server, &mut ledger);
                server.stop();
            }
            let fired = dying.fired();
            dying.kill();
            match death {
                Death::PidUsedAgain => drop(machine.process_with_pid_of(&dying)),
                Death::DotlocksBroken => break_dotlocks(&machine),
                Death::OtherNamespace | Death::NoDotlock => {}
            }
            for name in BOXES {
                let message = TestMessage::new(format!("meanwhile-{name}"), &[name], 300);
                let outcome = ledger.send(&server, message);
                assert_eq!(outcome, Some(Outcome::Delivered), "{death:?}, {fault:?} {at}");
            }
            let whole = ledger.check(&machine);
            assert_eq!(whole, Ok(()), "{death:?}, {fault:?} at {at}\n{}", ledger.summary());
            server.stop();
            dying.kill();
            if let Err(e) = restart_and_check(&machine, &mut ledger) {
                panic!("{death:?}, {fault:?} at call {at}: {e}\n{}", ledger.summary());
            }
            if !fired {
                break;
            }
            tried += 1;
        }
    }
    println!("{death:?}: {tried} crash points");
    assert!(tried > 50, "{tried}");
}

fn break_dotlocks(machine: &SimMachine) {
    for name in machine.names("/mail").iter().filter(|name| name.ends_with(".lock")) {
        machine.remove(&format!("/mail/{name}"));
    }
}

#[test]
fn a_process_whose_pid_is_used_again_is_dead() {
    one_of_two_dies(Death::PidUsedAgain);
}

#[test]
fn a_process_of_another_pid_namespace_is_dead() {
    one_of_two_dies(Death::OtherNamespace);
}

#[test]
fn a_dead_process_is_recovered_although_its_dotlocks_were_broken() {
    one_of_two_dies(Death::DotlocksBroken);
}

#[test]
fn a_dead_process_is_recovered_although_no_dotlock_is_used() {
    one_of_two_dies(Death::NoDotlock);
}

/// Delivers to alice, with a deadline.
fn outcome(server: &SimWriter, id: &str) -> Option<Outcome> {
    server.deliver(&TestMessage::new(id, &["alice"], 300))
}

/// Leaves the dotlock of alice, with the link source, as a process that lives and holds it has it.
fn hold_dotlock(machine: &SimMachine, holder: &SimDisk) {
    let source = machine
        .names("/mail")
        .into_iter()
        .find(|name| name.starts_with(&format!(".mailslot-{}-", holder.pid())));
    let source = format!("/mail/{}", source.expect("it has locked a mailbox"));
    holder.link(Path::new(&source), Path::new("/mail/alice.lock")).unwrap();
}

#[test]
fn the_dotlock_of_a_living_server_stays_whatever_the_clocks_say() {
    for ahead in [-400, 400, 40 * 365 * 86_400, -40 * 365 * 86_400] {
        let machine = machine(BEFORE);
        let (one, other) = (machine.process(), machine.process());
        let holder = SimWriter::start(&one).unwrap();
        assert_eq!(outcome(&holder, "one"), Some(Outcome::Delivered));
        hold_dotlock(&machine, &one);
        let view = View::of(&other);
        view.ahead.store(ahead, Ordering::Relaxed);
        let lock_timeout = Duration::from_secs(4);
        let config = DeliveryConfig { lock_timeout, ..config() };
        let server = SimWriter::start_on(Arc::new(view), &other, config).unwrap();
        let locked = Some(Outcome::Deferred(DeferReason::Locked));
        assert_eq!(outcome(&server, "two"), locked, "{ahead}");
        assert!(machine.names("/mail").contains(&"alice.lock".to_owned()), "{ahead}");
        // Without its process, the same lock is stale.
        one.kill();
        assert_eq!(outcome(&server, "three"), Some(Outcome::Delivered), "{ahead}");
        holder.stop();
        server.stop();
    }
}

#[test]
fn dotlocks_are_touched_when_the_clock_steps() {
    let machine = machine(BEFORE);
    let disk = machine.process();
    let view = View::of(&disk);
    let ahead = view.ahead.clone();
    let server = SimWriter::start_on(Arc::new(view), &disk, config()).unwrap();
    let touches = || machine.log().iter().filter(|call| call.op == Op::Touch).count();
    for (n, (now, expected)) in [(0, 0), (0, 0), (400, 1), (400, 1), (-400, 2)].iter().enumerate() {
        ahead.store(*now, Ordering::Relaxed);
        assert_eq!(outcome(&server, &format!("m{n}")), Some(Outcome::Delivered));
        assert_eq!(touches(), *expected, "{now} s ahead");
    }
    server.stop();
}

/// Starts a server that gives up after `seconds`, beside a dotlock of alice with this content.
fn server_beside_lock(content: &str, has_own_pids: bool, seconds: u64) -> (SimMachine, SimWriter) {
    let machine = machine(BEFORE);
    let disk = machine.process();
    machine.rewrite("/mail/alice.lock", content.as_bytes());
    let view = View { has_own_pids, ..View::of(&disk) };
    let lock_timeout = Duration::from_secs(seconds);
    let config = DeliveryConfig { lock_timeout, ..config() };
    (machine, SimWriter::start_on(Arc::new(view), &disk, config).unwrap())
}

#[test]
fn the_dotlock_of_another_program_that_is_dead_on_this_host_is_broken_soon() {
    // No simulated process has this pid.
    let (machine, server) = server_beside_lock("99\n", true, 30);
    assert_eq!(outcome(&server, "one"), Some(Outcome::Delivered));
    assert!(!machine.names("/mail").contains(&"alice.lock".to_owned()));
    server.stop();
}

#[test]
fn the_dotlock_of_another_program_stays_if_its_pid_may_be_of_another_host() {
    let (machine, server) = server_beside_lock("99\n", false, 4);
    assert_eq!(outcome(&server, "one"), Some(Outcome::Deferred(DeferReason::Locked)));
    assert!(machine.names("/mail").contains(&"alice.lock".to_owned()));
    server.stop();
}

#[test]
fn a_dotlock_that_is_looked_at_once_stays() {
    let (_, server) = server_beside_lock("99\n", true, 1);
    assert_eq!(outcome(&server, "one"), Some(Outcome::Deferred(DeferReason::Locked)));
    server.stop();
}

#[test]
fn an_empty_journal_that_no_process_has_delays_no_mail() {
    let machine = machine(BEFORE);
    let server = SimWriter::start(&machine.process()).unwrap();
    // A process with a journal of another size leaves it for the next one of its kind.
    let small = DeliveryConfig { journal_segment: 16 * 1024, ..config() };
    let disk = machine.process();
    SimWriter::start_with(&disk, small).unwrap().stop();
    assert_eq!(machine.names(SPOOL).len(), 2);
    for n in 0..3 {
        machine.forget_log();
        assert_eq!(outcome(&server, &format!("m{n}")), Some(Outcome::Delivered));
        let log = machine.log();
        // Once it is examined, it is only looked for.
        let listed = log.iter().filter(|c| c.op == Op::List && c.path.ends_with("spool")).count();
        assert!(n == 0 || listed == 1, "{n}: {listed}");
    }
    server.stop();
}
