//! Costs of a message, of a session that waits and of the program, counted instead of timed, so
//! that a busy machine changes none of them. `costs.txt` has the counts of the last renewal. A test
//! fails if a count has grown by a tenth since then.
//!
//! `RENEW=1 cargo test --test costs -- --include-ignored` writes the table again; look at the diff.
//! A commit that raises a count gives the reason.
//!
//! This is a program of its own because it counts the allocations of its process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "harness/mod.rs"]
mod harness;

use std::alloc::System;
use std::fs;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};
use mailslot::deliver::disk::{Disk, DiskFile, HostDisk, OpenMode, Stat};
use mailslot::deliver::{self, DeliveryConfig};
use nix::sys::signal::Signal;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use crate::harness::client::connect;
use crate::harness::directory::TestDirectory;
use crate::harness::library::MailStore;
use crate::harness::server::{PROGRAM, Server};
use crate::harness::strace::Strace;
use crate::harness::wait_until;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Lock for the process and the table, because only one test at a time may allocate and renew.
static TURN: Mutex<()> = Mutex::new(());

/// A number of messages and of the connections that they take.
#[derive(Clone, Copy)]
struct Load {
    name: &'static str,
    connections: usize,
    /// Messages of each connection.
    messages: usize,
}

/// One message for each connection.
const W1: Load = Load { name: "W1", connections: 100, messages: 1 };
/// 100 messages for each connection.
const W3: Load = Load { name: "W3", connections: 2, messages: 100 };

#[test]
#[ignore = "needs strace"]
fn system_calls_for_a_message() {
    let _turn = turn();
    for load in [W1, W3] {
        // Threads that meet by chance add calls and never take one away, so the least count is
        // the cost of the program.
        let count = (0..3).map(|_| system_calls(load)).fold(f64::INFINITY, f64::min);
        compare(&format!("{} system calls a message", load.name), count);
    }
}

/// Returns the system calls of the real program for each message.
fn system_calls(load: Load) -> f64 {
    let directory = TestDirectory::in_memory();
    let server = directory.start(&["--threads", "2"]);
    warm_up(server.address);
    // With -f strace attaches to all threads of the process.
    let options = ["-f", "-e", "signal=none"];
    let strace = Strace::attach_with(&directory, &[server.pid()], &options);
    send(server.address, load);
    let calls = strace.detach();
    assert_eq!(directory.count("box"), WARM_UP + load.total());
    calls_in(&calls) as f64 / load.total() as f64
}

/// The journal is empty, and there are 10,000 aliases. The calls are those up to the end of the
/// process, which gets TERM when it listens.
#[test]
#[ignore = "needs strace"]
fn system_calls_of_a_start() {
    let _turn = turn();
    let directory = TestDirectory::in_memory();
    let aliases = directory.join("aliases");
    fs::write(&aliases, (0..10_000).map(|n| format!("a{n}: b{n}\n")).collect::<String>()).unwrap();
    let options = ["--aliases", aliases.to_str().unwrap(), "--threads", "8"];
    directory.start(&options).stop();
    let log = directory.join("strace");
    // With -D strace is another process than the one that is started.
    let strace = ["strace", "-D", "-f", "-q", "-o", log.to_str().unwrap()];
    let count = || {
        let server = directory.start_by(&strace, &options).unwrap();
        let pid = server.pid().to_string();
        server.stop();
        let mut calls = String::new();
        wait_until("the end of strace", || {
            calls = fs::read_to_string(&log).unwrap();
            // A process id of fewer than five digits is padded with spaces.
            calls.lines().any(|line| {
                line.strip_prefix(&pid)
                    .is_some_and(|rest| rest.trim_start().starts_with("+++ exited"))
            })
        });
        calls_in(&calls) as f64
    };
    compare("system calls of a start", (0..3).map(|_| count()).fold(f64::INFINITY, f64::min));
}

/// Returns the number of system calls in a log of strace.
fn calls_in(log: &str) -> usize {
    // A call that another thread interrupts has a second line, `<... futex resumed>`.
    log.lines().filter(|line| line.contains('(') && !line.contains("<...")).count()
}

#[test]
fn syncs_for_a_message() {
    let _turn = turn();
    for load in [W1, W3] {
        let server = Server::start(&["--threads", "2"]);
        warm_up(server.address);
        let before = syncs(&server);
        send(server.address, load);
        let made = syncs(&server) - before;
        compare(&format!("{} syncs a message", load.name), made as f64 / load.total() as f64);
    }
}

/// Returns the counter `syncs` of a server.
fn syncs(server: &Server) -> u64 {
    server.signal(Signal::SIGUSR1);
    let line = server.wait_for_log(" syncs=");
    let field = line.split(' ').find_map(|field| field.strip_prefix("syncs="));
    field.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

#[test]
fn allocations_for_a_message() {
    let _turn = turn();
    format_log();
    for load in [W1, W3] {
        let store = MailStore::new();
        let server = store.run(store.server_settings(2));
        warm_up(server.address);
        let region = Region::new(ALLOCATOR);
        send(server.address, load);
        let change = region.change();
        let made = change.allocations + change.reallocations;
        compare(&format!("{} allocations a message", load.name), made as f64 / load.total() as f64);
    }
    log::set_max_level(LevelFilter::Off);
}

/// All messages are lost from their mailbox with power, so recovery compares them, searches for
/// them and appends them.
#[test]
fn memory_of_a_recovery_does_not_grow_with_the_messages() {
    const FEW: usize = 50;
    const MANY: usize = 500;
    let _turn = turn();
    let (few, many) = (memory_of_a_recovery(FEW), memory_of_a_recovery(MANY));
    let growth = many.saturating_sub(few) / (MANY - FEW);
    // A message has 4 KiB, and is alone in its record.
    assert!(growth < 700, "{few} bytes for {FEW} messages, {many} bytes for {MANY}");
}

/// Returns the largest number of bytes that a recovery of `messages` has at the lines of its log.
fn memory_of_a_recovery(messages: usize) -> usize {
    let directory = TestDirectory::new();
    let server = directory.start(&["--threads", "2"]);
    send(server.address, Load { name: "recovered", connections: 1, messages });
    server.kill();
    let mailbox = directory.join("mail/box");
    fs::File::options().write(true).open(&mailbox).unwrap().set_len(0).unwrap();
    let config = DeliveryConfig {
        mail_dir: directory.join("mail"),
        spool: directory.join("spool"),
        ..DeliveryConfig::default()
    };
    format_log();
    let before = allocated();
    PEAK.store(before, Ordering::Relaxed);
    let disk = Arc::new(OtherBoot(HostDisk::new()));
    let (_, writer) = deliver::start_on(disk, config, Arc::default()).unwrap();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    writer.stop();
    log::set_max_level(LevelFilter::Off);
    assert_eq!(directory.count("box"), messages);
    peak
}

/// The largest number of allocated bytes at a line of the log.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Returns the number of bytes that are allocated now.
fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

/// The host's disk after a reboot.
#[derive(Debug)]
struct OtherBoot(HostDisk);

impl Disk for OtherBoot {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        self.0.lstat(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path, mode)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.0.unlink(path)
    }
    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.read_directory(directory)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.0.sync_directory(directory)
    }
    fn pid(&self) -> u32 {
        self.0.pid()
    }
    fn pid_scope(&self) -> Option<String> {
        Some("another boot".to_owned())
    }
    fn is_dead(&self, pid: u32) -> bool {
        self.0.is_dead(pid)
    }
}

/// Formats the lines of the log as the program does, and drops them.
fn format_log() {
    // Another test of this program may have set it.
    let _ = log::set_boxed_logger(Box::new(FormattingLog));
    log::set_max_level(LevelFilter::Info);
}

/// A log that formats lines and drops them.
struct FormattingLog;

impl Log for FormattingLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        black_box(record.args().to_string());
        PEAK.fetch_max(allocated(), Ordering::Relaxed);
    }

    fn flush(&self) {}
}

#[test]
#[ignore = "needs minutes for a release build"]
fn size_of_the_program() {
    let _turn = turn();
    let file = build_release();
    let bytes = file.metadata().unwrap_or_else(|e| panic!("{}: {e}", file.display())).len();
    compare("KiB of the program", bytes as f64 / 1024.0);
}

/// The memory includes that of its thread, after EHLO and in the middle of mail data.
#[test]
#[ignore = "needs minutes for a release build"]
fn memory_of_a_session_that_waits() {
    const SESSIONS: usize = 300;
    let _turn = turn();
    let program = build_release();
    for (name, is_in_data) in
        [("KiB of an idle session", false), ("KiB of a session in DATA", true)]
    {
        let directory = TestDirectory::new();
        let mut command = Command::new(&program);
        command.args(["--sandbox", directory.as_str(), "--listen", "127.0.0.1:0"]);
        command.args(["--threads", "400"]).stdin(Stdio::null());
        let server = Server::start_command(command, directory, 2).ok().unwrap();
        let mut clients: Vec<TcpStream> = (0..SESSIONS).map(|_| connect(server.address)).collect();
        for client in &mut clients {
            expect(client, "220");
            ask(client, "EHLO client.example\r\n", "250");
            if is_in_data {
                ask(client, "MAIL FROM:<sender@example.org>\r\n", "250");
                ask(client, "RCPT TO:<box@localhost>\r\n", "250");
                ask(client, "DATA\r\n", "354");
                client.write_all(b"Subject: x\r\n").unwrap();
            }
        }
        compare(name, anonymous_memory(&server) / SESSIONS as f64);
    }
}

/// Returns the KiB of memory of a server that are of no file.
fn anonymous_memory(server: &Server) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Builds the release, unless it is up to date. Returns the program.
fn build_release() -> PathBuf {
    let build = ["build", "--release", "--locked", "--quiet", "--bins"];
    let built = Command::new(env!("CARGO")).args(build).current_dir(root()).status().unwrap();
    assert!(built.success());
    let (name, target) = (Path::new(PROGRAM).file_name(), Path::new(PROGRAM).ancestors().nth(2));
    target.unwrap().join("release").join(name.unwrap())
}

/// Compares a count with its row in the table, or writes the row if `RENEW` is set.
fn compare(name: &str, count: f64) {
    let path = root().join("tests/costs.txt");
    let table = fs::read_to_string(&path).unwrap();
    let bound = table.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    println!("{name}: {count:.2}, last time {bound:?}");
    if std::env::var_os("RENEW").is_some() {
        // So that a renewal changes no row by chance.
        if bound.is_some_and(|bound| (count / bound - 1.0).abs() < 0.02) {
            return;
        }
        let row = format!("{name:28}{count:10.2}");
        let mut rows: Vec<&str> = table.lines().filter(|line| !line.starts_with(name)).collect();
        rows.push(&row);
        let (mut head, mut counts): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|line| line.starts_with('#'));
        counts.sort_unstable();
        head.append(&mut counts);
        fs::write(&path, head.join("\n") + "\n").unwrap();
        return;
    }
    let bound = bound.unwrap_or_else(|| panic!("{name} is not in costs.txt; {HOW_TO_RENEW}"));
    assert!(
        count < bound * 1.1,
        "{name}: {count:.2}, but {bound:.2} before. If the growth has a reason, {HOW_TO_RENEW}"
    );
}

const HOW_TO_RENEW: &str = "write it into the commit, with what \
                            RENEW=1 cargo test --test costs -- --include-ignored changes";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Waits until no other test of this program runs.
fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages that are sent before counting. The mailbox and the journal then exist.
const WARM_UP: usize = 10;

fn warm_up(address: SocketAddr) {
    send(address, Load { name: "warm-up", connections: 2, messages: WARM_UP / 2 });
}

/// Sends the messages, one after the other, with a body of 4 KiB, to the mailbox `box`. Allocates
/// nothing for a message.
fn send(address: SocketAddr, load: Load) {
    let line = "x".repeat(78) + "\r\n";
    let body = format!("Subject: x\r\n\r\n{}.\r\n", line.repeat(51));
    for _ in 0..load.connections {
        let mut client = connect(address);
        expect(&mut client, "220");
        ask(&mut client, "EHLO client.example\r\n", "250");
        for _ in 0..load.messages {
            ask(&mut client, "MAIL FROM:<sender@example.org>\r\n", "250");
            ask(&mut client, "RCPT TO:<box@localhost>\r\n", "250");
            ask(&mut client, "DATA\r\n", "354");
            ask(&mut client, &body, "250");
        }
        ask(&mut client, "QUIT\r\n", "221");
    }
}

fn ask(client: &mut TcpStream, text: &str, code: &str) {
    client.write_all(text.as_bytes()).unwrap();
    expect(client, code);
}

/// Reads a reply to its last line, which must begin with `code` and a space.
fn expect(client: &mut TcpStream, code: &str) {
    let mut buffer = [0; 4096];
    let mut length = 0;
    loop {
        let n = client.read(&mut buffer[length..]).unwrap();
        length += n;
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let last = text.strip_suffix("\r\n").and_then(|text| text.rsplit("\r\n").next());
        if last.is_some_and(|line| line.starts_with(code) && line.as_bytes()[3] == b' ') {
            return;
        }
        assert!(n > 0, "expected {code}: {text}");
    }
}

impl Load {
    fn total(self) -> usize {
        self.connections * self.messages
    }
}
