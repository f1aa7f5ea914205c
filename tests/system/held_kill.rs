//! The real program, killed at every system call that queues mail of this host because its mailbox
//! is locked, and at every call of the delivery afterwards.
//!
//! strace kills it at the n-th call of each name, in one thread at a time. After each kill
//! `mailslot queue flush` recovers and delivers what waits. Then each mailbox must have the message
//! once, or no mailbox has it and the client got no reply.
//!
//! `MAILSLOT_STRIDE=N` takes every N-th call.

use std::fs::{self, File};

use nix::sys::signal::{Signal, kill};

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::message::TestMessage;
use crate::harness::server::run_mailslot;
use crate::harness::strace::{Strace, call_names, kill_at, thread_of};
use crate::harness::{env_number, is_true_within};

/// The work in which the program is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// The session queues the message.
    Queueing,
    /// The queue delivers it.
    Delivery,
}

#[test]
#[ignore = "needs strace"]
fn killed_while_queueing_held_mail() {
    kill_attempts(Work::Queueing, &[&["writer"], &["session-0", "session-1"]], 300);
}

#[test]
#[ignore = "needs strace"]
fn killed_while_delivering_held_mail() {
    kill_attempts(Work::Delivery, &[&["writer"], &["held"]], 300);
}

#[test]
#[ignore = "needs strace"]
fn killed_while_delivering_large_held_mail() {
    kill_attempts(Work::Delivery, &[&["writer"], &["held"]], 300 * 1024);
}

fn kill_attempts(work: Work, threads: &[&[&str]], length: usize) {
    let directory = TestDirectory::in_memory();
    let stride = env_number("MAILSLOT_STRIDE", 1).max(1) as usize;
    let mut tried = 0;
    for threads in threads {
        let names = call_names(&attempt(&directory, work, threads, length, None).1);
        assert!(!names.is_empty(), "strace saw no call of {threads:?}");
        for (i, name) in names.iter().enumerate() {
            let from = 1 + i % stride;
            let killed = |n: &usize| attempt(&directory, work, threads, length, Some((name, *n))).0;
            tried += (from..).step_by(stride).take_while(killed).count();
        }
    }
    assert!(tried > 0, "nothing was killed");
    println!("{work:?}: killed at {tried} calls, {length} bytes");
}

/// Sends a message to two users, of which one has a locked mailbox. Returns whether the program was
/// killed at the n-th `call` of one of `threads`, and the calls.
fn attempt(
    directory: &TestDirectory,
    work: Work,
    threads: &[&str],
    length: usize,
    at: Option<(&str, usize)>,
) -> (bool, String) {
    let lock = directory.join("mail/smith.lock");
    let options = ["--threads", "2", "--lock-timeout", "1"];
    let server = directory.start(&options);
    let trace = || {
        let tids: Vec<_> = threads.iter().map(|name| thread_of(server.pid(), name)).collect();
        Strace::attach(directory, &tids, at.map(|(call, n)| kill_at(call, n)))
    };
    File::create_new(&lock).unwrap();
    let before = (work == Work::Queueing).then(trace);
    let message = TestMessage::new("held", &["smith", "jones"], length);
    let answer = Client::open(server.address).ok().and_then(|mut c| c.submit_for_code(&message));
    // The queue tries the message at once, and the writer waits a second for the lock.
    let strace = before.unwrap_or_else(trace);
    let _ = fs::remove_file(&lock);
    let program = format!("/proc/{}/exe", server.pid());
    let is_gone = || fs::read_link(&program).is_err();
    is_true_within(std::time::Duration::from_secs(4), || is_gone() || directory.queue().is_empty());
    let killed = is_gone();
    let calls = strace.detach();
    let _ = kill(server.pid(), Signal::SIGKILL);
    server.ended();
    let killed = killed || calls.contains("+++ killed by SIGKILL");

    let context = format!("{work:?}, {threads:?} killed at {at:?}");
    let words = ["queue", "flush", "-q", "--sandbox", directory.as_str()];
    let (_, printed) = run_mailslot(&words);
    let acknowledged = answer == Some(250);
    let empty = |name: &String| {
        let path = directory.join("spool/queue").join(name);
        fs::metadata(&path).unwrap().len() == 0 && fs::remove_file(path).is_ok()
    };
    // Without a record there is no mail. The queue removes such an empty file after an hour.
    let left = directory.queue();
    assert!(left.is_empty() || !acknowledged && left.iter().all(empty), "{context}: {printed}");
    let text = message.stored();
    let count = |user: &str| directory.mailbox(user).matches(&text).count();
    let counts = ["smith", "jones"].map(count);
    assert!(acknowledged || answer.is_none(), "{context}: {answer:?}");
    assert!(counts == [1; 2] || !acknowledged && counts == [0; 2], "{context}: {counts:?}");
    directory.assert_clean(&["smith", "jones"].map(str::to_owned).into());
    directory.clear();
    (killed, calls)
}
