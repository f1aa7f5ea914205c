//! The real program, killed at every system call of a delivery, a stop or a recovery.
//!
//! strace kills it at the n-th call of each name, for n = 1, 2, 3 and so on, until a run ends
//! without a kill. The killed call is not made. strace counts the calls of each thread, so it is
//! attached to one thread at a time.
//!
//! After each kill the server must recover ([`Ledger::assert_recovers`]).
//!
//! By default recoveries are killed at every third call, beginning at one that differs between
//! names. `MAILSLOT_STRIDE=1` takes every call, and a larger number fewer, also for the other
//! tests.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::directory::TestDirectory;
use crate::harness::env_number;
use crate::harness::ledger::Ledger;
use crate::harness::message::TestMessage;
use crate::harness::server::mailslot;
use crate::harness::strace::{Strace, call_names, kill_at, thread_of};

/// A case: messages that are delivered before, and the message that is sent while the program is
/// killed.
struct Scenario {
    before: &'static [&'static [&'static str]],
    to: &'static [&'static str],
    length: usize,
}

const LARGE: usize = 300 * 1024;

#[test]
#[ignore = "needs strace"]
fn killed_while_delivering_to_one_mailbox() {
    kill_deliveries(&Scenario { before: &[&["a"], &["a"]], to: &["a"], length: 1000 });
}

#[test]
#[ignore = "needs strace"]
fn killed_while_delivering_to_three_mailboxes() {
    kill_deliveries(&Scenario { before: &[&["a", "c"]], to: &["a", "b", "c"], length: 5000 });
}

#[test]
#[ignore = "needs strace"]
fn killed_while_delivering_a_large_message() {
    kill_deliveries(&Scenario { before: &[&["a"]], to: &["a", "b"], length: LARGE });
}

#[test]
#[ignore = "needs strace"]
fn killed_while_creating_a_mailbox() {
    kill_deliveries(&Scenario { before: &[], to: &["a"], length: 10 });
}

/// Kills the writer, and the thread of the session, at each call of the delivery.
fn kill_deliveries(scenario: &Scenario) {
    let directory = TestDirectory::in_memory();
    let mut tried = 0;
    for threads in [&["writer"][..], &["session-0", "session-1"]] {
        let names = call_names(&delivery(&directory, scenario, threads, None).1);
        assert!(!names.is_empty(), "strace saw no call of {threads:?}");
        tried += each_call(&names, 1, |call, n| {
            delivery(&directory, scenario, threads, Some((call, n))).0
        });
    }
    println!("killed at {tried} calls: {:?}, {} bytes", scenario.to, scenario.length);
}

/// Calls `crash` for each name and n = 1, 2, 3 and so on until it returns false. Returns the number
/// of kills.
fn each_call(
    names: &BTreeSet<String>,
    stride: u64,
    mut crash: impl FnMut(&str, usize) -> bool,
) -> usize {
    let stride = env_number("MAILSLOT_STRIDE", stride).max(1) as usize;
    let mut tried = 0;
    for (i, name) in names.iter().enumerate() {
        let from = 1 + i % stride;
        tried += (from..).step_by(stride).take_while(|&n| crash(name, n)).count();
    }
    assert!(tried > 0, "nothing was killed");
    tried
}

/// Runs one delivery, killed at the n-th `call` of one of `threads`. Returns whether it was killed,
/// and the calls.
fn delivery(
    directory: &TestDirectory,
    scenario: &Scenario,
    threads: &[&str],
    at: Option<(&str, usize)>,
) -> (bool, String) {
    let mut ledger = Ledger::default();
    let server = directory.start(&["--threads", "2"]);
    for (i, to) in scenario.before.iter().enumerate() {
        ledger.deliver(server.address, TestMessage::new(format!("before-{i}"), to, 500));
    }
    let inject = at.map(|(call, n)| kill_at(call, n));
    let tids: Vec<_> = threads.iter().map(|name| thread_of(server.pid(), name)).collect();
    let strace = Strace::attach(directory, &tids, inject);
    let message = TestMessage::new("while", scenario.to, scenario.length);
    let answer = ledger.send(&server.address, message);
    let killed = answer.is_none();
    assert!(killed || answer == Some(250), "{at:?}: {answer:?}");
    let calls = strace.detach();
    // Killed now if it was not before, or killed after the reply.
    let _ = kill(server.pid(), Signal::SIGKILL);
    server.ended();
    let killed = killed || calls.contains("+++ killed by SIGKILL");
    ledger.assert_recovers(directory, &format!("{threads:?} killed at {at:?}"));
    (killed, calls)
}

#[test]
#[ignore = "needs strace"]
fn killed_while_stopping() {
    let directory = TestDirectory::in_memory();
    let mut tried = 0;
    for thread in ["writer", "checkpoint"] {
        let names = call_names(&stop(&directory, thread, None).1);
        assert!(!names.is_empty(), "strace saw no call of {thread}");
        tried += each_call(&names, 1, |call, n| stop(&directory, thread, Some((call, n))).0);
    }
    println!("killed at {tried} calls of a stop");
}

fn stop(directory: &TestDirectory, thread: &str, at: Option<(&str, usize)>) -> (bool, String) {
    let mut ledger = Ledger::default();
    let server = directory.start(&["--threads", "2"]);
    ledger.deliver(server.address, TestMessage::new("small", &["a", "b"], 500));
    ledger.deliver(server.address, TestMessage::new("large", &["b", "c"], LARGE));
    let inject = at.map(|(call, n)| kill_at(call, n));
    let strace = Strace::attach(directory, &[thread_of(server.pid(), thread)], inject);
    let (_, status) = server.stop();
    let calls = strace.detach();
    ledger.assert_recovers(directory, &format!("{thread} killed at {at:?} of the stop"));
    (!status.success(), calls)
}

/// State after a crash: the size of the message, the call of the writer at which it was killed, and
/// a change of the mailboxes after that.
struct CrashState {
    length: usize,
    killed_at: (&'static str, usize),
    then: fn(&TestDirectory),
}

/// Kills recovery at each call. The state is made anew for each run, because records name inodes.
fn kill_recoveries(state: &CrashState) {
    let directory = TestDirectory::in_memory();
    let names = call_names(&recovery(&directory, state, None).1);
    // Large messages are read and compared in many pieces.
    let stride = if state.length > 10_000 { 30 } else { 3 };
    let tried = each_call(&names, stride, |call, n| recovery(&directory, state, Some((call, n))).0);
    println!("killed at {tried} calls of a start that recovers from {:?}", state.killed_at);
}

fn recovery(
    directory: &TestDirectory,
    state: &CrashState,
    at: Option<(&str, usize)>,
) -> (bool, String) {
    let mut ledger = Ledger::default();
    let server = directory.start(&["--threads", "2"]);
    ledger.deliver(server.address, TestMessage::new("before", &["a", "b"], 500));
    let (call, n) = state.killed_at;
    let inject = kill_at(call, n);
    let writer = thread_of(server.pid(), "writer");
    let strace = Strace::attach(directory, &[writer], [inject]);
    let message = TestMessage::new("while", &["a", "b", "c"], state.length);
    assert_eq!(ledger.send(&server.address, message), None, "{call} {n} did not kill");
    server.ended();
    strace.detach();
    (state.then)(directory);

    // Without -f strace traces only the first thread, which is the one that recovers.
    let log = directory.join("recovery.log");
    let inject = at.map(|(call, n)| kill_at(call, n));
    let mut starter = vec!["strace", "-D", "-o", log.to_str().unwrap()];
    starter.extend(inject.iter().flat_map(|inject| ["-e", inject]));
    let killed = match directory.start_by(&starter, &["--threads", "2"]) {
        Ok(server) => {
            let _ = kill(server.pid(), Signal::SIGKILL);
            server.ended();
            false
        }
        Err((log, status)) => {
            assert!(!status.success() && status.code().is_none(), "{status}: {log:#?}");
            true
        }
    };
    let calls = fs::read_to_string(&log).unwrap();
    ledger.assert_recovers(directory, &format!("recovery from {call} {n} killed at {at:?}"));
    (killed, calls)
}

#[test]
#[ignore = "needs strace"]
fn recovery_killed_before_any_append() {
    kill_recoveries(&CrashState { length: 5000, killed_at: ("writev", 1), then: |_| {} });
}

#[test]
#[ignore = "needs strace"]
fn recovery_killed_with_a_truncated_mailbox() {
    // As if the second append was half done, which a kill at a call cannot cause.
    let cut = |directory: &TestDirectory| {
        let path = directory.mailbox_path("b");
        let len = fs::metadata(&path).unwrap().len();
        fs::File::options().write(true).open(path).unwrap().set_len(len - 2000).unwrap();
    };
    kill_recoveries(&CrashState { length: 5000, killed_at: ("writev", 3), then: cut });
}

#[test]
#[ignore = "needs strace"]
fn recovery_killed_with_a_torn_large_message() {
    kill_recoveries(&CrashState { length: LARGE, killed_at: ("writev", 3), then: |_| {} });
}

#[test]
#[ignore = "needs strace"]
fn recovery_killed_with_a_large_message_in_one_of_two_mailboxes() {
    kill_recoveries(&CrashState { length: LARGE, killed_at: ("writev", 7), then: |_| {} });
}

#[test]
#[ignore = "needs strace"]
fn recovery_keeps_mail_of_other_programs() {
    // Mail of another program, written after the crash: after what was appended, and in place of
    // it.
    let foreign = "From other@example.net Tue Jul  1 08:52:37 2025\nSubject: theirs\n\nhi\n\n";
    let directory = TestDirectory::in_memory();
    for (killed_at, n) in [("writev", 1), ("writev", 2), ("writev", 3), ("pwritev", 2)] {
        let mut ledger = Ledger::default();
        let server = directory.start(&["--threads", "2"]);
        ledger.deliver(server.address, TestMessage::new("before", &["a", "b"], 500));
        let inject = kill_at(killed_at, n);
        let writer = thread_of(server.pid(), "writer");
        let strace = Strace::attach(&directory, &[writer], [inject]);
        let message = TestMessage::new("while", &["a", "b", "c"], 5000);
        assert_eq!(ledger.send(&server.address, message), None);
        server.ended();
        strace.detach();
        let mut before = Vec::new();
        for name in ["a", "b", "c"] {
            let length = [directory.mailbox_bytes(name), foreign.into()].concat();
            fs::write(directory.mailbox_path(name), &length).unwrap();
            before.push((name, length));
        }
        let server = directory.start(&[]);
        for (name, length) in before {
            assert!(
                directory.mailbox_bytes(name).starts_with(&length),
                "{killed_at} {n}: {name} was changed"
            );
            // The ledger does not know that mail.
            let ours = directory.mailbox_bytes(name);
            let ours = String::from_utf8(ours).unwrap().replace(foreign, "");
            fs::write(directory.mailbox_path(name), ours).unwrap();
        }
        ledger.assert_matches(&directory);
        server.stop();
        directory.clear();
    }
}

#[test]
#[ignore = "needs strace"]
fn session_on_a_pipe_killed() {
    let directory = TestDirectory::in_memory();
    let mut tried = 0;
    for length in [1000, LARGE] {
        for thread in ["writer", "mailslot"] {
            let names = call_names(&inetd(&directory, length, thread, None).1);
            assert!(!names.is_empty(), "strace saw no call of {thread}");
            tried += each_call(&names, 2, |call, n| {
                inetd(&directory, length, thread, Some((call, n))).0
            });
        }
    }
    println!("killed at {tried} calls of a session on a pipe");
}

/// Runs one session on standard input. Its first thread serves it, another one writes.
fn inetd(
    directory: &TestDirectory,
    length: usize,
    thread: &str,
    at: Option<(&str, usize)>,
) -> (bool, String) {
    let mut ledger = Ledger::default();
    let path = directory.as_str();
    let mut child = mailslot(&["--inetd", "--log", "stderr", "--sandbox", path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut greeting = String::new();
    output.read_line(&mut greeting).unwrap();
    assert!(greeting.starts_with("220"), "{greeting}");
    let inject = at.map(|(call, n)| kill_at(call, n));
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let strace = Strace::attach(directory, &[thread_of(pid, thread)], inject);
    let message = TestMessage::new("while", &["a", "b"], length);
    // A killed program does not read all.
    let _ = child.stdin.take().unwrap().write_all(message.dialogue().as_bytes());
    let codes = output.lines().map_while(Result::ok).filter(|l| l.as_bytes().get(3) == Some(&b' '));
    // The reply that counts follows those to EHLO, MAIL, two RCPT and DATA.
    let code = codes.skip(5).map(|line| line[..3].parse().unwrap()).next();
    let status = child.wait().unwrap();
    ledger.record(message, code);
    let calls = strace.detach();
    ledger
        .assert_recovers(directory, &format!("inetd's {thread} killed at {at:?}, {length} bytes"));
    (!status.success(), calls)
}
