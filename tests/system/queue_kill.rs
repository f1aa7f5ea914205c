//! The real program, killed at every system call that its queue makes while a message is sent on
//! to one recipient and refused for another, whose sender has to be told: in a mailbox, or by the
//! queue.
//!
//! strace kills it at the n-th call of each name. After each: start again, and wait until the
//! queue is empty. Then the message, which the queue cannot know of before it is synced, must be
//! whole in the mailbox at the next server, and its failure reported, each once at least; and
//! nothing may be left lying.
//!
//! A plain run takes every call; with `OUTSIDE_STRIDE` greater than 1 fewer.

use std::time::{Duration, Instant};

use crate::harness::outside::{Home, Strace, call_names, messages, setting, thread as tid_of};
use crate::harness::server::{Client, PATIENCE, Server};
use nix::sys::signal::{Signal, kill};

const BODY: &str = "Subject: while\n\n>From here on\nto the end\n\n";

#[test]
#[ignore = "needs strace"]
fn killed_at_each_call_of_an_attempt_and_a_report() {
    kill_attempts("smith@here.example");
}

#[test]
#[ignore = "needs strace"]
fn killed_at_each_call_of_an_attempt_and_a_report_by_the_queue() {
    kill_attempts("smith@far.example");
}

fn kill_attempts(sender: &str) {
    let far_home = Home::in_memory();
    let far = far_home.start(&["--domain", "far.example", "--user", "good", "--user", "smith"]);
    let home = Home::in_memory();
    let names = call_names(&attempt(&home, &far_home, &far, sender, None).1);
    for call in ["openat", "flock", "sendto", "fsync", "rename", "unlink"] {
        assert!(names.contains(call), "{call} is not one of {names:?}");
    }
    let stride = setting("OUTSIDE_STRIDE", 1).max(1);
    let mut tried = 0;
    for (i, name) in names.iter().enumerate() {
        let from = 1 + i % stride;
        let killed = |n: &usize| attempt(&home, &far_home, &far, sender, Some((name, *n))).0;
        tried += (from..).step_by(stride).take_while(killed).count();
    }
    assert!(tried > 0, "nothing was killed");
    println!("killed at {tried} calls, sender {sender}: {names:?}");
}

/// One run. Whether it was killed, and the calls seen.
fn attempt(
    home: &Home,
    far_home: &Home,
    far: &Server,
    sender: &str,
    at: Option<(&str, usize)>,
) -> (bool, String) {
    let address = far.address.to_string();
    let options = ["--threads", "2", "--domain", "here.example", "--smarthost", &address];
    let options = [&options[..], &["--smarthost-tls", "may"]].concat();
    let server = home.start(&options);
    let inject = at.map(|(call, n)| format!("inject={call}:signal=KILL:when={n}"));
    let injects: Vec<&str> = inject.iter().flat_map(|inject| ["-e", inject]).collect();
    let strace = Strace::attach(home, &[tid_of(server.pid(), "queue")], &injects);
    let mut client = Client::connect(server.address);
    client.expect(220);
    client.say("EHLO client.example", 250);
    client.say(&format!("MAIL FROM:<{sender}>"), 250);
    client.say("RCPT TO:<good@far.example>", 250);
    client.say("RCPT TO:<bad@far.example>", 250);
    client.say("DATA", 354);
    let sent = BODY.strip_suffix('\n').unwrap().replace("\n>From", "\nFrom").replace('\n', "\r\n");
    client.send(sent.as_bytes());
    client.send(b".\r\n");
    // Its 250, or the end: the queue hears of an entry that is synced a moment before the client.
    let _ = client.is_closed();
    let program = format!("/proc/{}/exe", server.pid());
    let is_gone = || std::fs::read_link(&program).is_err();
    wait_until("it is sent, or killed", || is_gone() || is_empty(home));
    let killed = is_gone();
    let calls = strace.detach();
    let _ = kill(server.pid(), Signal::SIGKILL);
    server.ended();

    let context = format!("killed at {at:?}");
    let server = home.start(&options);
    wait_until(&format!("the queue is empty, {context}"), || is_empty(home));
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{context}: {log:#?}");
    let good = far_home.read("good");
    let arrived = messages(&good).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(!arrived.is_empty(), "{context}: lost\n{log:#?}");
    for message in arrived {
        let text = String::from_utf8_lossy(message);
        assert!(text.ends_with(BODY), "{context}: torn: {text}");
    }
    let (its, other) =
        if sender.ends_with("@far.example") { (far_home, home) } else { (home, far_home) };
    let reports = its.read("smith");
    let reports = messages(&reports).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(!reports.is_empty(), "{context}: not reported\n{log:#?}");
    for report in reports {
        let text = String::from_utf8_lossy(report);
        assert!(text.contains("\nFinal-Recipient: rfc822;bad@far.example\n"), "{context}: {text}");
    }
    assert_eq!(other.read("smith"), b"", "{context}");
    let mut spool = home.names("spool");
    spool.retain(|name| !name.starts_with("journal-"));
    assert_eq!(spool, ["queue"], "{context}");
    home.clear();
    far_home.clear();
    (killed, calls)
}

fn is_empty(home: &Home) -> bool {
    home.names("spool/queue").is_empty()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not yet: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
