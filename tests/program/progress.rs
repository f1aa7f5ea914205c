//! Long work shows how far it has come, on a terminal in a line of its own, else in the log.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use crate::harness::TIMEOUT;
use crate::harness::directory::TestDirectory;
use crate::harness::scripted_server::{ScriptedServer, reply, usual};
use crate::harness::server::{PROGRAM, mailslot, run_mailslot};
use crate::harness::terminals::Pty;

/// A smarthost that defers the first `deferred` attempts, and replies to the next one when the
/// sender is used or dropped.
fn waiting_server(prefix: &'static str, deferred: usize) -> (ScriptedServer, Sender<()>) {
    let (go, wait) = channel();
    let (wait, seen) = (Mutex::new(wait), AtomicUsize::new(0));
    let server = ScriptedServer::start(move |_, command| {
        if !command.starts_with(prefix) {
            return usual(command);
        }
        if seen.fetch_add(1, Ordering::SeqCst) < deferred {
            return reply("451 later");
        }
        let _ = wait.lock().unwrap().recv_timeout(TIMEOUT);
        usual(command)
    });
    (server, go)
}

/// Starts a program with a terminal as its standard error.
fn on_terminal(mut command: Command, terminal: &Pty) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(terminal.stdio()).spawn().unwrap()
}

fn printed(child: Child) -> (Option<i32>, String) {
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

/// Has a server queue a message that its smarthost defers. Calls `flush` with the options of the
/// server, and lets the smarthost accept the message when the terminal shows the progress.
fn flush_shows_its_progress(with_server: bool) {
    let directory = TestDirectory::new();
    let (smarthost, go) = waiting_server("MAIL", 1);
    let address = smarthost.address.to_string();
    let relay = ["--domain", "here.example", "--smarthost", &address, "--smarthost-tls", "may"];
    let server = directory.start(&relay);
    server.after_ehlo().deliver("a@here.example", &["b@there.example"], "\r\nx\r\n", 250);
    server.wait_for_log("relay-deferred");
    let server = match with_server {
        true => Some(server),
        false => {
            assert!(server.stop().1.success());
            None
        }
    };
    let terminal = Pty::open();
    let flush = ["queue", "flush", "--quiet", "--sandbox", directory.as_str()];
    let child = on_terminal(mailslot(&[&flush[..], &relay].concat()), &terminal);
    let text = "0 of 1 tried";
    terminal.read_to(format!("\r{text}\r").as_bytes());
    go.send(()).unwrap();
    assert_eq!(printed(child), (Some(0), "0 left in the queue\n".to_owned()));
    terminal.read_to(format!("\r{:width$}\r", "", width = text.len()).as_bytes());
    drop(server);
}

#[test]
fn flush_by_a_server_shows_its_progress_on_a_terminal() {
    flush_shows_its_progress(true);
}

#[test]
fn flush_without_a_server_shows_its_progress_on_a_terminal() {
    flush_shows_its_progress(false);
}

/// The log has no line about a flush of less than 5 seconds.
#[test]
fn the_log_shows_the_progress_of_a_long_flush() {
    let directory = TestDirectory::new();
    let seen = AtomicUsize::new(0);
    let smarthost = ScriptedServer::start(move |_, command| {
        if command.starts_with("MAIL") {
            match seen.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => return reply("451 later"),
                2 => thread::sleep(Duration::from_millis(5100)),
                _ => {}
            }
        }
        usual(command)
    });
    let address = smarthost.address.to_string();
    let relay = ["--domain", "here.example", "--smarthost", &address, "--smarthost-tls", "may"];
    let server = directory.start(&relay);
    let mut client = server.after_ehlo();
    for _ in 0..2 {
        client.deliver("a@here.example", &["b@there.example"], "\r\nx\r\n", 250);
        server.wait_for_log("relay-deferred");
    }
    let flush = ["queue", "flush", "--sandbox", directory.as_str()];
    let flushed = run_mailslot(&[&flush[..], &relay].concat());
    assert_eq!(flushed, (Some(0), "0 left in the queue\n".to_owned()));
    let line = server.wait_for_log("queue-flush-progress");
    assert!(line.ends_with("queue-flush-progress tried=1 entries=2"), "{line}");
}

#[test]
#[ignore = "needs the example smtp-source, which cargo test builds"]
fn smtp_source_shows_its_progress_on_a_terminal() {
    let (server, go) = waiting_server("MAIL", 0);
    let terminal = Pty::open();
    let mut source = Command::new(Path::new(PROGRAM).with_file_name("examples/smtp-source"));
    source.args(["-m", "1", &server.address.to_string()]);
    let child = on_terminal(source, &terminal);
    terminal.read_to(b" s: 0 of 1 messages, 0/s, 0 failed\r");
    go.send(()).unwrap();
    let (status, result) = printed(child);
    assert!(status == Some(0) && result.starts_with("1 messages in "), "{status:?} {result}");
}
