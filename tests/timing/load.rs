//! The real program under load: a locked mailbox delays no other, many messages share one sync, and
//! memory and descriptors do not grow.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fs2::FileExt;
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::ledger::Ledger;
use crate::harness::message::TestMessage;
use crate::harness::random::Random;
use crate::harness::strace::{Strace, thread_of, threads};
use crate::harness::{TIMEOUT, env_number};

#[test]
fn locked_mailbox_does_not_slow_others() {
    let _machine = super::alone();
    let directory = TestDirectory::in_memory();
    let server = directory.start(&[]);
    let ledger = Mutex::new(Ledger::default());
    ledger.lock().unwrap().deliver(server.address, TestMessage::new("first", &["alice"], 500));
    // At least four fifths, measured again if the machine was busy with something else.
    let ratio = (0..3)
        .map(|attempt| free_to_held(&directory, server.address, attempt, &ledger))
        .find(|ratio| *ratio >= 0.8);
    assert!(ratio.is_some(), "below four fifths, three times");
    let ledger = ledger.into_inner().unwrap();
    assert_eq!(ledger.accepted(), ledger.len());
    ledger.assert_matches(&directory);
}

/// Compares mail for bob while the mailbox of alice is locked, and three sessions wait for it, with
/// mail for bob while it is not. Returns the median over pairs of rounds, so that other work on the
/// machine affects both.
fn free_to_held(
    directory: &TestDirectory,
    address: SocketAddr,
    attempt: usize,
    ledger: &Mutex<Ledger<u16>>,
) -> f64 {
    let round = Duration::from_millis(env_number("MAILSLOT_ROUND_MS", 300));
    let (mut free, mut held, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..env_number("MAILSLOT_PAIRS", 9) {
        let name = format!("{attempt}-{n}");
        let rate = rate_for_bob(address, round, &format!("free-{name}"), ledger);
        let file = File::open(directory.mailbox_path("alice")).unwrap();
        file.lock_exclusive().unwrap();
        let before = file.metadata().unwrap().len();
        let locked_rate = thread::scope(|scope| {
            for session in 0..3 {
                let message = TestMessage::new(format!("late-{name}-{session}"), &["alice"], 2000);
                scope.spawn(move || {
                    let code = Client::open(address).unwrap().submit_for_code(&message);
                    ledger.lock().unwrap().record(message, code)
                });
            }
            let rate = rate_for_bob(address, round, &format!("held-{name}"), ledger);
            assert_eq!(file.metadata().unwrap().len(), before, "written to while it was locked");
            drop(file);
            rate
        });
        free.push(rate);
        held.push(locked_rate);
        ratios.push(locked_rate / rate);
    }
    let ratio = median(ratios);
    let (free, held) = (median(free), median(held));
    println!("for bob {free:.0} messages/s, {held:.0} while alice's is locked: {ratio:.2}");
    ratio
}

/// Returns the messages that two sessions deliver to bob in a second.
fn rate_for_bob(
    address: SocketAddr,
    time: Duration,
    name: &str,
    ledger: &Mutex<Ledger<u16>>,
) -> f64 {
    let sent = AtomicUsize::new(0);
    let began = Instant::now();
    thread::scope(|scope| {
        for session in 0..2 {
            let sent = &sent;
            scope.spawn(move || {
                let mut sender = Client::open(address).unwrap();
                while began.elapsed() < time {
                    let n = sent.fetch_add(1, Ordering::Relaxed);
                    let message = TestMessage::new(format!("{name}-{session}-{n}"), &["bob"], 500);
                    let code = sender.submit_for_code(&message);
                    ledger.lock().unwrap().record(message, code);
                }
            });
        }
    });
    sent.into_inner() as f64 / began.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

#[test]
#[ignore = "needs strace"]
fn twenty_sessions_share_a_slow_sync() {
    let _machine = super::alone();
    let directory = TestDirectory::in_memory();
    let server = directory.start(&[]);
    let tids = [thread_of(server.pid(), "writer"), thread_of(server.pid(), "checkpoint")];
    let options = ["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=20000"];
    let strace = Strace::attach_with(&directory, &tids, &options);
    let ledger = Mutex::new(Ledger::default());
    let began = Instant::now();
    thread::scope(|scope| {
        for session in 0..20 {
            let (ledger, address) = (&ledger, server.address);
            scope.spawn(move || {
                let mailbox = format!("box-{session}");
                let mut sender = Client::open(address).unwrap();
                for n in 0..30 {
                    let message = TestMessage::new(format!("{session}-{n}"), &[&mailbox], 4000);
                    let code = sender.submit_for_code(&message);
                    ledger.lock().unwrap().record(message, code);
                }
            });
        }
    });
    let took = began.elapsed();
    let writer = format!("{} ", tids[0]);
    let calls = strace.detach();
    let of_writer = |l: &&str| l.starts_with(&writer) && l.contains("fdatasync(");
    let syncs = calls.lines().filter(of_writer).count();
    let ledger = ledger.into_inner().unwrap();
    let sent = ledger.accepted();
    let each = sent as f64 / syncs as f64;
    println!("{sent} messages with {syncs} syncs of the journal in {took:?}: {each:.1} for each");
    assert_eq!(sent, 600);
    assert!(each >= 10.0, "{each} messages for each sync");
    ledger.assert_matches(&directory);
}

#[test]
#[ignore = "needs strace"]
fn no_250_before_the_sync_of_its_record() {
    let _machine = super::alone();
    let directory = TestDirectory::in_memory();
    let server = directory.start(&["--threads", "8"]);
    // All threads have started.
    let _ = thread_of(server.pid(), "session-7");
    let writer = thread_of(server.pid(), "writer");
    let tids: Vec<Pid> = threads(server.pid()).into_iter().map(|(tid, _)| tid).collect();
    let trace = "trace=pwritev,fdatasync,sendto";
    let inject = "inject=fdatasync:delay_enter=3000";
    let strace = Strace::attach_with(&directory, &tids, &["-s", "9999", "-e", trace, "-e", inject]);
    thread::scope(|scope| {
        for session in 0..6 {
            let address = server.address;
            scope.spawn(move || {
                let mut sender = Client::open(address).unwrap();
                // Fewer than ten, so that no id is the beginning of another.
                for n in 0..env_number("MAILSLOT_PAIRS", 9) {
                    let bytes = if n == 7 { 300 * 1024 } else { 100 };
                    let message = TestMessage::new(format!("{session}-{n}"), &["a", "b"], bytes);
                    assert_eq!(sender.submit_for_code(&message).unwrap(), 250);
                }
            });
        }
    });
    let (mut written, mut durable, mut replies) = (String::new(), String::new(), 0);
    for line in strace.detach().lines() {
        let of_writer = line.starts_with(&format!("{writer} "));
        if of_writer && line.contains("mslotrec") {
            written += line;
        } else if of_writer && line.contains("fdatasync") && line.contains("= 0") {
            durable += &std::mem::take(&mut written);
        } else if let Some((_, rest)) = line.split_once("delivered as ") {
            let id = rest.split(['\\', '"']).next().unwrap();
            assert!(durable.contains(id), "{id} was answered before its sync: {line}");
            replies += 1;
        }
    }
    println!("{replies} replies, each after its sync");
    assert_eq!(replies, 54);
}

#[test]
#[ignore = "writes 800 MiB, twice"]
fn large_messages_take_little_memory() {
    let _machine = super::alone();
    let directory = TestDirectory::new();
    let server =
        directory.start(&["--threads", "34", "--max-size", "26M", "--lock-timeout", "120"]);
    server.after_ehlo().deliver("", &["box-0@localhost"], "Subject: x\r\n\r\nx\r\n", 250);
    let idle = peak_kib(server.pid());
    let sent = Barrier::new(32);
    let chunk = "seventy-eight bytes of a line that is sent over and over and stored as it is\r\n"
        .repeat(512);
    thread::scope(|scope| {
        for session in 0..32 {
            let (sent, chunk, mut client) = (&sent, &chunk, server.after_ehlo());
            scope.spawn(move || {
                client.command("MAIL FROM:<smith@example.org>", 250);
                client.command(&format!("RCPT TO:<box-{}@localhost>", session % 8), 250);
                client.command("DATA", 354);
                client.send(b"Subject: large\r\n\r\n");
                for _ in 0..(25 << 20) / chunk.len() {
                    client.send(chunk.as_bytes());
                }
                sent.wait();
                client.send(b".\r\n");
                // They are written by one thread, one after the other.
                client.set_timeout(4 * TIMEOUT);
                client.expect(250);
            });
        }
    });
    let peak = peak_kib(server.pid());
    let more = peak.saturating_sub(idle) / 1024;
    println!("{idle} KiB when idle, at most {peak} KiB: {more} MiB more");
    assert!(more < 32, "{more} MiB above idle");
    let all: u64 = (0..8)
        .map(|n| fs::metadata(directory.mailbox_path(&format!("box-{n}"))).unwrap().len())
        .sum();
    assert!(all > 32 * (24 << 20), "{all} bytes");
}

/// Returns the peak memory of a process, in KiB.
fn peak_kib(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn reset_connections_leave_no_resources() {
    let _machine = super::alone();
    let seed = env_number("MAILSLOT_SEED", 1);
    let count = env_number("MAILSLOT_RESETS", 5000) as usize;
    println!("seed {seed}");
    let directory = TestDirectory::in_memory();
    let server = directory.start(&["--lock-timeout", "5"]);
    let mut ledger = Ledger::default();
    let left = || {
        let fds = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        for fd in fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok()) {
            let name = fd.to_string_lossy().into_owned();
            // The names of sockets contain numbers.
            let kind = name.split(':').next().unwrap_or_default().to_owned();
            *names.entry(kind).or_default() += 1;
        }
        names.remove(&directory.mailbox_path("alice").to_string_lossy().into_owned());
        (names, threads(server.pid()).len(), directory.names("spool"))
    };
    let _ = thread_of(server.pid(), "session-31");
    let before = left();
    ledger.deliver(server.address, TestMessage::new("before", &["alice"], 500));
    let small = TestMessage::new("small", &["alice", "bob"], 2000).dialogue();
    let large = TestMessage::new("large", &["alice"], 600 * 1024).dialogue();
    let (done, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for part in 0..4 {
            let (small, large, done, over) = (&small, &large, &done, &over);
            let address = server.address;
            scope.spawn(move || {
                let mut random = Random(seed * 4 + part);
                while done.fetch_add(1, Ordering::Relaxed) < count {
                    let text = if random.below(20) == 0 { large } else { small };
                    // Before the final dot, so that no message is delivered.
                    let end = (text.len() - "\r\n.\r\nQUIT\r\n".len()) as u64;
                    let cut = random.below(end) as usize;
                    reset_after(address, &text.as_bytes()[..cut], random.below(3) as usize);
                }
                over.store(true, Ordering::Relaxed);
            });
        }
    });
    assert!(over.into_inner());
    let until = Instant::now() + TIMEOUT;
    while left() != before {
        assert!(Instant::now() < until, "seed {seed}: {before:?} before, {:?} now", left());
        thread::yield_now();
    }
    ledger.deliver(server.address, TestMessage::new("after", &["alice", "bob"], 500));
    ledger.assert_matches(&directory);
    println!("{count} connections reset");
}

/// Connects, sends these bytes, reads a little or nothing, and resets the connection.
fn reset_after(address: SocketAddr, bytes: &[u8], read: usize) {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, TIMEOUT) else { return };
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    if read > 0 {
        let _ = stream.read(&mut vec![0; read * 20]);
    }
    // The server may have closed the connection, after a 421 for too many.
    let _ = stream.write_all(bytes);
}

#[test]
#[ignore = "needs strace"]
fn calls_do_not_depend_on_mailbox_size() {
    let _machine = super::alone();
    let directory = TestDirectory::in_memory();
    let server = directory.start(&[]);
    let mut ledger = Ledger::default();
    ledger.deliver(server.address, TestMessage::new("warm", &["other"], 500));
    let mut calls = Vec::new();
    for (name, len) in [("small", 10 << 20), ("huge", 10_u64 << 30)] {
        let file = File::create_new(directory.mailbox_path(name)).unwrap();
        file.set_len(len).unwrap();
        file.write_all_at(b"\n\n", len - 2).unwrap();
        let strace = Strace::attach_with(&directory, &[thread_of(server.pid(), "writer")], &[]);
        let began = Instant::now();
        let fate = ledger.send(&server.address, TestMessage::new(name, &[name], 500));
        let took = began.elapsed();
        assert_eq!(fate, Some(250));
        assert!(took < Duration::from_secs(5), "{name}: {took:?}");
        let log = strace.detach();
        let names = log.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name);
        let names: Vec<&str> =
            names.filter(|n| !["futex", "restart_syscall"].contains(n)).collect();
        assert!(names.len() > 10, "{log}");
        calls.push(names.join(" "));
        fs::remove_file(directory.mailbox_path(name)).unwrap();
    }
    assert_eq!(calls[0], calls[1], "the same calls for any length");
}
