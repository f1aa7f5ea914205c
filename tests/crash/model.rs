//! Anything in any order: deliveries, readers, locks, faults, kills, power losses, restarts, one
//! server or two; and after each step every mailbox holds what a simple model says.
//!
//! Prints the seed of a run that fails. `MAILSLOT_FAULTS=N` makes N times as many runs, and
//! `MAILSLOT_SEED=S` runs that one alone.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use mailslot::deliver::disk::FileLock;
use mailslot::deliver::{Outcome, Why};
use nix::errno::Errno;

use crate::harness::ledger::{Ledger, Rewrite};
use crate::harness::message::{LARGE, TestMessage};
use crate::harness::random::Random;
use crate::harness::sim_disk::{Fault, Part, Plan, SimMachine};
use crate::harness::sim_writer::{SimWriter, check_directories, machine, path, settings};

const BOXES: [&str; 3] = ["alice", "bob", "carol"];
const BEFORE: &[(&str, &str)] = &[("alice", "From old Thu Jan  1 00:00:00 1970\n\nold mail\n\n")];
const STEPS: u64 = 100;
const RUNS: u64 = 24;

#[test]
fn every_mailbox_holds_what_the_model_says() {
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
    assert!(kinds.len() >= 11 || number("MAILSLOT_SEED").is_some(), "{kinds:?}");
}

fn run(seed: u64, kinds: &Mutex<BTreeMap<&'static str, u64>>) {
    let _seed = Told(seed);
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

/// Tells the seed of a run that fails, wherever it does.
struct Told(u64);

impl Drop for Told {
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
    /// Power was lost, and no server has recovered since.
    dark: bool,
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
            dark: false,
        }
    }

    /// One step; what kind it was.
    fn step(&mut self, step: u64) -> &'static str {
        match self.random.below(40) {
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
                if let Some(name) = self.free_box() {
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
                self.die(step, fault);
                "kill"
            }
            32..=34 => {
                let seed = self.random.next();
                self.die(step, Fault::PowerBefore(seed));
                self.dark = true;
                "power lost"
            }
            35 => {
                self.machine.lose_power(self.random.next());
                self.bury();
                self.dark = true;
                "power lost between"
            }
            36 => {
                self.die_at_start();
                "killed at start"
            }
            37 | 38 => {
                self.stop_all();
                "stop"
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
        let sizes = [200, 200, 1000, 3000, 9000, LARGE];
        let octets = sizes[self.random.below(6) as usize];
        TestMessage::new(format!("m{}-{step}", self.messages), &to, octets)
    }

    /// A server that runs; started if need be.
    fn server(&mut self, n: usize) -> SimWriter {
        self.lighten();
        let machine = &self.machine;
        let server = self.servers[n].get_or_insert_with(|| {
            let mut settings = settings();
            settings.lock_timeout = Duration::from_secs(3);
            SimWriter::start_with(&machine.process(), settings).unwrap()
        });
        server.clone()
    }

    fn lighten(&mut self) {
        if std::mem::take(&mut self.dark) {
            self.ledger.power_lost();
        }
    }

    fn some_server(&mut self) -> (usize, SimWriter) {
        let n = usize::from(self.servers[1].is_some() && self.random.below(2) == 0);
        (n, self.server(n))
    }

    /// With nothing in the way, everything is delivered at once.
    fn deliver(&mut self, messages: Vec<TestMessage>) {
        let (_, server) = self.some_server();
        for outcome in self.ledger.send_together(&server, messages) {
            assert_eq!(outcome, Some(Outcome::Delivered), "{}", self.ledger.summary());
        }
    }

    /// A mailbox that nobody has locked, as a careful program sees it.
    fn free_box(&mut self) -> Option<&'static str> {
        let name = BOXES[self.random.below(3) as usize];
        let locked = self.machine.read(&format!("{}.lock", path(name))).is_some();
        let there = self.machine.read(&path(name)).is_some();
        (there && !locked).then_some(name)
    }

    fn read(&mut self) {
        let Some(name) = self.free_box() else { return };
        let mut random = Random(self.random.next());
        let some = 1 + random.below(3);
        self.ledger.foreign_expunge(&self.machine, name, || random.below(some) == 0);
        self.machine.sync(&path(name));
    }

    fn rewrite(&mut self) {
        let Some(name) = self.free_box() else { return };
        let ways = [Rewrite::InPlace, Rewrite::Rename, Rewrite::Remove];
        let way = ways[self.random.below(3) as usize];
        let text = "From reader Thu Jan  1 00:00:00 1970\n\nkept\n\n";
        let text = (self.random.below(2) == 0).then_some(text);
        self.ledger.foreign_rewrite(&self.machine, name, text, way);
        self.machine.sync(&path(name));
    }

    /// Some other program holds a lock for longer than anybody waits.
    fn lock(&mut self, step: u64) {
        let Some(name) = self.free_box() else { return };
        self.stop_all();
        self.lighten();
        let mut settings = settings();
        settings.lock_timeout = Duration::from_millis(60);
        let server = SimWriter::start_with(&self.machine.process(), settings).unwrap();
        let dotlock = format!("{}.lock", path(name));
        match self.random.below(3) {
            0 => assert!(self.machine.lock(&path(name), FileLock::Fcntl)),
            1 => assert!(self.machine.lock(&path(name), FileLock::Flock)),
            _ => self.machine.rewrite(&dotlock, b"77\n"),
        }
        let before = BOXES.map(|name| self.machine.read(&path(name)).unwrap_or_default());
        self.messages += 1;
        let all = TestMessage::new(format!("locked{}-{step}", self.messages), &BOXES, 300);
        assert_eq!(self.ledger.send(&server, all), Some(Outcome::Later(Why::Busy)));
        assert_eq!(before, BOXES.map(|name| self.machine.read(&path(name)).unwrap_or_default()));
        let others: Vec<&'static str> = BOXES.into_iter().filter(|other| *other != name).collect();
        let other = TestMessage::new(format!("free{}-{step}", self.messages), &others, 300);
        assert_eq!(self.ledger.send(&server, other), Some(Outcome::Delivered));
        self.machine.unlock_all();
        self.machine.remove(&dotlock);
        self.machine.sync(&dotlock);
        server.stop();
    }

    /// Calls of one server fail for a while.
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
        // Over: each mailbox takes mail again, in its time.
        for name in BOXES {
            let began = Instant::now();
            loop {
                self.messages += 1;
                let message =
                    TestMessage::new(format!("over{}-{step}", self.messages), &[name], 200);
                match self.ledger.send(&server, message) {
                    Some(Outcome::Delivered) => break,
                    other => assert!(began.elapsed() < Duration::from_secs(5), "{other:?}"),
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        // What a mailbox needs whose disk failed is redone as after a power loss.
        self.ledger.power_lost();
    }

    /// One server dies, or all do, over some messages. The other one, if it lives, goes on.
    fn die(&mut self, step: u64, fault: Fault) {
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
        self.bury();
    }

    fn die_at_start(&mut self) {
        self.stop_all();
        let disk = self.machine.process();
        disk.plan(Some(Plan { at: 1 + self.random.below(60), fault: Fault::KillBefore }));
        if self.dark {
            self.ledger.power_lost();
        }
        if let Ok(server) = SimWriter::start(&disk) {
            disk.kill();
            server.stop();
        }
        disk.kill();
    }

    /// Lets go of servers that died with the power.
    fn bury(&mut self) {
        for server in &mut self.servers {
            if let Some(dead) = server.take_if(|server| server.disk.is_dead()) {
                dead.stop();
            }
        }
    }

    fn stop_all(&mut self) {
        self.servers.iter_mut().filter_map(Option::take).for_each(SimWriter::stop);
    }

    /// What lies torn is no one's fault until somebody has recovered it: a server that starts.
    fn check(&mut self) -> Result<(), String> {
        if self.servers.iter().all(Option::is_none) {
            if self.random.below(3) == 0 {
                // Not yet: let the next step come first, whatever it is.
                return Ok(());
            }
            self.server(0);
        }
        let (_, server) = self.some_server();
        if self.random.below(4) == 0 {
            for name in BOXES {
                self.messages += 1;
                let message = TestMessage::new(format!("check{}", self.messages), &[name], 200);
                if self.ledger.send(&server, message) != Some(Outcome::Delivered) {
                    return Err(format!("mail for {name} is not delivered"));
                }
            }
            return self.ledger.check(&self.machine);
        }
        // A box that a dead server has locked may still be torn: nobody needed it since.
        let locked = |name: &&str| self.machine.read(&format!("{}.lock", path(name))).is_some();
        match BOXES.iter().any(locked) {
            true => Ok(()),
            false => self.ledger.check(&self.machine),
        }
    }
}
