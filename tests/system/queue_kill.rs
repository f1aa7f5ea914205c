//! The real program, killed at every system call of its queue while a message is relayed to one
//! recipient and refused for another, which is reported to the sender: in a mailbox, or by the
//! queue.
//!
//! strace kills it at the n-th call of each name. After each kill the server is started again until
//! the queue is empty. Then the message must be whole at the next server, and the failure reported,
//! each at least once, and no other file may be left.
//!
//! `MAILSLOT_STRIDE=N` takes every N-th call.

use nix::sys::signal::{Signal, kill};

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::server::Server;
use crate::harness::strace::{Strace, call_names, kill_at, thread_of};
use crate::harness::{env_number, wait_until};

const BODY: &str = "Subject: while\n\n>From here on\nto the end\n";

#[test]
#[ignore = "needs strace"]
fn killed_while_relaying_and_reporting() {
    kill_attempts("smith@here.example");
}

#[test]
#[ignore = "needs strace"]
fn killed_while_relaying_and_reporting_by_the_queue() {
    kill_attempts("smith@far.example");
}

fn kill_attempts(sender: &str) {
    let far_directory = TestDirectory::in_memory();
    let far =
        far_directory.start(&["--domain", "far.example", "--user", "good", "--user", "smith"]);
    let directory = TestDirectory::in_memory();
    let names = call_names(&attempt(&directory, &far_directory, &far, sender, None).1);
    for call in ["openat", "flock", "sendto", "fsync", "rename", "unlink"] {
        assert!(names.contains(call), "{call} is not one of {names:?}");
    }
    let stride = env_number("MAILSLOT_STRIDE", 1).max(1) as usize;
    let mut tried = 0;
    for (i, name) in names.iter().enumerate() {
        let from = 1 + i % stride;
        let killed =
            |n: &usize| attempt(&directory, &far_directory, &far, sender, Some((name, *n))).0;
        tried += (from..).step_by(stride).take_while(killed).count();
    }
    assert!(tried > 0, "nothing was killed");
    println!("killed at {tried} calls, sender {sender}: {names:?}");
}

/// Runs one attempt. Returns whether it was killed, and the calls.
fn attempt(
    directory: &TestDirectory,
    far_directory: &TestDirectory,
    far: &Server,
    sender: &str,
    at: Option<(&str, usize)>,
) -> (bool, String) {
    let address = far.address.to_string();
    let options = ["--threads", "2", "--domain", "here.example", "--smarthost", &address];
    let options = [&options[..], &["--smarthost-tls", "may"]].concat();
    let server = directory.start(&options);
    let inject = at.map(|(call, n)| kill_at(call, n));
    // A thread that has sent a message waits for another one for two seconds.
    let mut client = server.after_ehlo();
    client.deliver("smith@here.example", &["good@far.example"], "\r\nbefore\r\n", 250);
    wait_until("the first message is sent", || directory.queue().is_empty());
    far_directory.clear();
    let threads = ["queue", "sender"].map(|name| thread_of(server.pid(), name));
    let strace = Strace::attach(directory, &threads, inject);
    let mut client = Client::connect(server.address);
    client.expect(220);
    client.command("EHLO client.example", 250);
    client.command(&format!("MAIL FROM:<{sender}>"), 250);
    client.command("RCPT TO:<good@far.example>", 250);
    client.command("RCPT TO:<bad@far.example>", 250);
    client.command("DATA", 354);
    let sent = BODY.replace("\n>From", "\nFrom").replace('\n', "\r\n");
    client.send(sent.as_bytes());
    client.send(b".\r\n");
    // The reply 250, or the end of the connection. The queue gets the entry a moment before the
    // client gets the reply.
    let _ = client.is_closed();
    let program = format!("/proc/{}/exe", server.pid());
    let is_gone = || std::fs::read_link(&program).is_err();
    wait_until("the message is sent, or the server killed", || {
        is_gone() || directory.queue().is_empty()
    });
    let killed = is_gone();
    let calls = strace.detach();
    let _ = kill(server.pid(), Signal::SIGKILL);
    server.ended();

    let context = format!("killed at {at:?}");
    let server = directory.start(&options);
    wait_until(&format!("the queue is empty, {context}"), || directory.queue().is_empty());
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{context}: {log:#?}");
    let arrived = far_directory.messages("good");
    assert!(!arrived.is_empty(), "{context}: lost\n{log:#?}");
    for message in arrived {
        let text = String::from_utf8_lossy(&message.text);
        assert!(text.ends_with(BODY), "{context}: torn: {text}");
    }
    let (its, other) = if sender.ends_with("@far.example") {
        (far_directory, directory)
    } else {
        (directory, far_directory)
    };
    let reports = its.messages("smith");
    assert!(!reports.is_empty(), "{context}: not reported\n{log:#?}");
    for report in reports {
        let text = String::from_utf8_lossy(&report.text);
        assert!(text.contains("\nFinal-Recipient: rfc822;bad@far.example\n"), "{context}: {text}");
    }
    assert_eq!(other.mailbox("smith"), "", "{context}");
    let mut spool = directory.names("spool");
    spool.retain(|name| !name.starts_with("journal-"));
    assert_eq!(spool, ["hand-over", "queue"], "{context}");
    directory.clear();
    far_directory.clear();
    (killed, calls)
}
