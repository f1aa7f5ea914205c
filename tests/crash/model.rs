//! Random steps: deliveries, readers, locks, faults, kills, power losses, clocks that step, and
//! restarts, of one server or two. After each step every mailbox contains what a simple model
//! predicts.
//!
//! A run that fails prints its seed. `MAILSLOT_SEED=S` repeats that run alone, `MAILSLOT_FAULTS=N`
//! makes N times as many runs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use mailslot::deliver::disk::FileLock;
use mailslot::deliver::{DeferReason, Outcome};
use nix::errno::Errno;

use crate::harness::ledger::{Ledger, Rewrite};
use crate::harness::message::{LIMITS, TestMessage};
use crate::harness::random::Random;
use crate::harness::sim_disk::{Fault, Part, Plan, SimMachine};
use crate::harness::sim_writer::{SimWriter, check_directories, config, machine, path};
use crate::logger;

const BOXES: [&str; 3] = ["alice", "bob", "carol"];
const BEFORE: &[(&str, &str)] = &[("alice", "From old Thu Jan  1 00:00:00 1970\n\nold mail\n\n")];
const STEPS: u64 = 100;
const RUNS: u64 = 24;

#[test]
fn random_steps_agree_with_the_model() {
    let number = |name| std::env::var(name).ok().and_then(|n: String| n.parse::<u64>().ok());
    let seeds = match number("MAILSLOT_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..RUNS * number("MAILSLOT_FAULTS").unwrap_or(1),
    };
    let (kinds, seeds) = (Mutex::new(BTreeMap::new()), Mutex::new(seeds));
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().unwrap().next() else { return };
                    run(seed, &kinds);
                }
            });
        }
    });
    let kinds = kinds.into_inner().unwrap();
    println!("steps: {} {kinds:?}", kinds.values().sum::<u64>());
    assert!(kinds.len() >= 12 || number("MAILSLOT_SEED").is_some(), "{kinds:?}");
}

fn run(seed: u64, kinds: &Mutex<BTreeMap<&'static str, u64>>) {
    logger::start();
    let _seed = PrintSeed(seed);
    let mut run = Run::new(seed);
    for step in 0..STEPS {
        let kind = run.step(step);
        *kinds.lock().unwrap().entry(kind).or_insert(0) += 1;
        if let Err(e) = run.check() {
            panic!("step {step}, {kind}: {e}\n{}", run.ledger.summary());
        }
    }
    run.stop_all();
    run.server(0);
    run.stop_all();
    let whole = run.ledger.check(&run.machine).and_then(|()| check_directories(&run.machine));
    assert_eq!(whole, Ok(()), "{}", run.ledger.summary());
}

/// Prints the seed of a run that fails.
struct PrintSeed(u64);

impl Drop for PrintSeed {
    fn drop(&mut self) {
        if thread::panicking() {
            println!("MAILSLOT_SEED={}", self.0);
        }
    }
}

struct Run {
    machine: SimMachine,
    ledger: Ledger<Outcome>,
    servers: [Option<SimWriter>; 2],
    random: Random,
    messages: u64,
    /// Whether power was lost and no server has recovered since.
    unrecovered: bool,
    /// Whether a call has failed since all servers were stopped. A failed sync is noticed by a
    /// later batch, perhaps when the fault is over. Its mailbox then takes no mail for a moment.
    may_defer: bool,
    /// Seconds by which the clock was stepped, in all, and the most so far.
    clock: i64,
    clock_max: i64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let (machine, ledger) = (machine(BEFORE), Ledger::new(BEFORE));
        Run {
            machine,
            ledger,
            servers: [None, None],
            random: Random(seed),
            messages: 0,
            unrecovered: false,
            may_defer: false,
            clock: 0,
            clock_max: 0,
        }
    }

    /// Makes one step. Returns its kind.
    fn step(&mut self, step: u64) -> &'static str {
        match self.random.below(42) {
            0..=11 => {
                let messages = vec![self.message(step)];
                self.deliver(messages);
                "one"
            }
            12..=15 => {
                let messages = (0..2 + self.random.below(4)).map(|_| self.message(step)).collect();
                self.deliver(messages);
                "together"
            }
            16..=18 => {
                self.read();
                "expunge"
            }
            19 => {
                self.rewrite();
                "rewrite"
            }
            20 | 21 => {
                if let Some(name) = self.unlocked_mailbox() {
                    let text = format!("From other Thu Jan  1 00:00:00 1970\n\nmail {step}\n\n");
                    self.ledger.foreign_append(&self.machine, name, &text);
                    self.machine.sync(&path(name));
                }
                "append"
            }
            22 => {
                self.lock(step);
                "lock"
            }
            23..=26 => {
                let errors =
                    [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG, Errno::EIO, Errno::EMFILE];
                let errno = errors[self.random.below(5) as usize];
                let part = [Part::One, Part::Half, Part::ButOne][self.random.below(3) as usize];
                let fault = match self.random.below(5) {
                    0 | 1 => Fault::Once(errno),
                    2 | 3 => Fault::FromThenOn(errno),
                    _ => Fault::Short(part),
                };
                self.fail(step, fault);
                "fault"
            }
            27..=31 => {
                let faults = [Fault::KillBefore, Fault::KillWithin, Fault::KillAfter];
                let fault = faults[self.random.below(3) as usize];
                self.crash(step, fault);
                "kill"
            }
            32..=34 => {
                let seed = self.random.next();
                self.crash(step, Fault::PowerBefore(seed));
                self.unrecovered = true;
                "power lost"
            }
            35 => {
                self.machine.lose_power(self.random.next());
                self.drop_dead();
                self.unrecovered = true;
                "power lost between"
            }
            36 => {
                self.crash_at_start();
                "killed at start"
            }
            37 | 38 => {
                self.stop_all();
                "stop"
            }
            39 | 40 => {
                // A clock that a time server sets, or one that was lost with the power.
                let seconds = self.random.below(4 * 86_400) as i64 - 2 * 86_400;
                self.machine.step_clock(seconds);
                self.clock += seconds;
                self.clock_max = self.clock_max.max(self.clock);
                "clock"
            }
            _ => {
                self.server(0);
                self.server(1);
                "two servers"
            }
        }
    }

    fn message(&mut self, step: u64) -> TestMessage {
        self.messages += 1;
        let first = self.random.below(3) as usize;
        let count = 1 + self.random.below(3) as usize;
        let to: Vec<&'static str> = (0..count).map(|n| BOXES[(first + n) % 3]).collect();
        // The largest are rarer, because each step looks at all that was delivered.
        let most = if self.random.below(4) == 0 { LIMITS.len() } else { 5 };
        let limit = LIMITS[self.random.below(most as u64) as usize];
        TestMessage::near(format!("m{}-{step}", self.messages), &to, limit, &mut self.random)
    }

    /// Returns a running server, started if necessary.
    fn server(&mut self, n: usize) -> SimWriter {
        self.note_power_loss();
        let (machine, ledger) = (&self.machine, &mut self.ledger);
        let server = self.servers[n].get_or_insert_with(|| {
            let mut config = config();
            config.lock_timeout = Duration::from_secs(3);
            let server = SimWriter::start_with(&machine.process(), config).unwrap();
            ledger.recovered();
            server
        });
        server.clone()
    }

    fn note_power_loss(&mut self) {
        if std::mem::take(&mut self.unrecovered) {
            self.ledger.power_lost();
        }
    }

    fn some_server(&mut self) -> (usize, SimWriter) {
        let n = usize::from(self.servers[1].is_some() && self.random.below(2) == 0);
        (n, self.server(n))
    }

    /// Delivers messages. Without a fault, all are delivered.
    fn deliver(&mut self, messages: Vec<TestMessage>) {
        let (_, server) = self.some_server();
        for outcome in self.ledger.send_together(&server, messages) {
            let deferred = outcome == Some(Outcome::Deferred(DeferReason::Io));
            let expected = outcome == Some(Outcome::Delivered) || deferred && self.may_defer;
            assert!(expected, "{outcome:?}, {}", self.ledger.summary());
        }
    }

    /// Returns a mailbox that is not locked, as a careful program sees it.
    fn unlocked_mailbox(&mut self) -> Option<&'static str> {
        let name = BOXES[self.random.below(3) as usize];
        let locked = self.machine.read(&format!("{}.lock", path(name))).is_some();
        let there = self.machine.read(&path(name)).is_some();
        (there && !locked).then_some(name)
    }

    fn read(&mut self) {
        let Some(name) = self.unlocked_mailbox() else { return };
        let mut random = Random(self.random.next());
        let some = 1 + random.below(3);
        self.ledger.foreign_expunge(&self.machine, name, || random.below(some) == 0);
        self.note_reader(name);
    }

    /// Notes that a reader has changed a mailbox. Only a time after that of each delivery proves
    /// it, which there is not while the clock is behind.
    fn note_reader(&mut self, name: &str) {
        if self.clock < self.clock_max {
            self.ledger.unproved(name);
        }
        self.machine.sync(&path(name));
    }

    fn rewrite(&mut self) {
        let Some(name) = self.unlocked_mailbox() else { return };
        let ways = [Rewrite::InPlace, Rewrite::Rename, Rewrite::Remove];
        let way = ways[self.random.below(3) as usize];
        let text = "From reader Thu Jan  1 00:00:00 1970\n\nkept\n\n";
        let text = (self.random.below(2) == 0).then_some(text);
        self.ledger.foreign_rewrite(&self.machine, name, text, way);
        self.note_reader(name);
    }

    /// Has another program hold a lock for longer than the lock timeout.
    fn lock(&mut self, step: u64) {
        let Some(name) = self.unlocked_mailbox() else { return };
        self.stop_all();
        self.note_power_loss();
        let mut config = config();
        config.lock_timeout = Duration::from_millis(60);
        let server = SimWriter::start_with(&self.machine.process(), config).unwrap();
        let dotlock = format!("{}.lock", path(name));
        match self.random.below(3) {
            0 => assert!(self.machine.lock(&path(name), FileLock::Fcntl)),
            1 => assert!(self.machine.lock(&path(name), FileLock::Flock)),
            _ => self.machine.rewrite(&dotlock, b"77\n"),
        }
        let before = BOXES.map(|name| self.machine.read(&path(name)).unwrap_or_default());
        self.messages += 1;
        let all = TestMessage::new(format!("locked{}-{step}", self.messages), &BOXES, 300);
        assert_eq!(self.ledger.send(&server, all), Some(Outcome::Deferred(DeferReason::Locked)));
        assert_eq!(before, BOXES.map(|name| self.machine.read(&path(name)).unwrap_or_default()));
        let others: Vec<&'static str> = BOXES.into_iter().filter(|other| *other != name).collect();
        let other = TestMessage::new(format!("free{}-{step}", self.messages), &others, 300);
        assert_eq!(self.ledger.send(&server, other), Some(Outcome::Delivered));
        self.machine.unlock_all();
        self.machine.remove(&dotlock);
        self.machine.sync(&dotlock);
        server.stop();
    }

    /// Has calls of one server fail for a while.
    fn fail(&mut self, step: u64, fault: Fault) {
        let (_, server) = self.some_server();
        let at = 1 + self.random.below(if matches!(fault, Fault::Short(_)) { 10 } else { 90 });
        server.disk.plan(Some(Plan { at, fault }));
        let messages = 1 + self.random.below(3);
        for _ in 0..messages {
            let message = self.message(step);
            self.ledger.send(&server, message);
        }
        server.disk.plan(None);
        self.may_defer = true;
        for name in BOXES {
            assert!(self.is_delivered(&server, &format!("over-{step}"), name), "{name}");
        }
        // A mailbox on a disk that failed is recovered as after a power loss.
        self.ledger.power_lost();
    }

    /// Kills one server, or all of them, while messages are delivered. A server that survives goes
    /// on.
    fn crash(&mut self, step: u64, fault: Fault) {
        let (n, server) = self.some_server();
        let at = 1 + self.random.below(if fault == Fault::KillWithin { 20 } else { 120 });
        server.disk.plan(Some(Plan { at, fault }));
        for _ in 0..3 {
            let messages = (0..1 + self.random.below(2)).map(|_| self.message(step)).collect();
            self.ledger.send_together(&server, messages);
        }
        server.disk.kill();
        server.stop();
        self.servers[n] = None;
        self.drop_dead();
    }

    fn crash_at_start(&mut self) {
        self.stop_all();
        let disk = self.machine.process();
        disk.plan(Some(Plan { at: 1 + self.random.below(60), fault: Fault::KillBefore }));
        if self.unrecovered {
            self.ledger.power_lost();
        }
        if let Ok(server) = SimWriter::start(&disk) {
            disk.kill();
            server.stop();
        }
        disk.kill();
    }

    /// Drops servers that died with the power.
    fn drop_dead(&mut self) {
        for server in &mut self.servers {
            if let Some(dead) = server.take_if(|server| server.disk.is_dead()) {
                dead.stop();
            }
        }
    }

    /// Sends mail for a mailbox. True if it is delivered, after a fault within a while.
    fn is_delivered(&mut self, server: &SimWriter, kind: &str, name: &str) -> bool {
        let began = Instant::now();
        loop {
            self.messages += 1;
            let message = TestMessage::new(format!("{kind}-{}", self.messages), &[name], 200);
            if self.ledger.send(server, message) == Some(Outcome::Delivered) {
                return true;
            }
            if !self.may_defer || began.elapsed() > Duration::from_secs(5) {
                return false;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn stop_all(&mut self) {
        self.may_defer = false;
        self.servers.iter_mut().filter_map(Option::take).for_each(SimWriter::stop);
    }

    /// Checks the mailboxes. They may be torn until a server has started and recovered them.
    fn check(&mut self) -> Result<(), String> {
        if self.servers.iter().all(Option::is_none) {
            if self.random.below(3) == 0 {
                // Not yet, so that any step can come first.
                return Ok(());
            }
            self.server(0);
        }
        let (_, server) = self.some_server();
        if self.random.below(4) == 0 {
            for name in BOXES {
                if !self.is_delivered(&server, "check", name) {
                    return Err(format!("mail for {name} is not delivered"));
                }
            }
            return self.ledger.check(&self.machine);
        }
        // A mailbox that is still locked by a dead server may be torn.
        let locked = |name: &&str| self.machine.read(&format!("{}.lock", path(name))).is_some();
        match BOXES.iter().any(locked) {
            true => Ok(()),
            false => self.ledger.check(&self.machine),
        }
    }
}
