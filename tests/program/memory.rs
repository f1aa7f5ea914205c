//! The memory of a server that waits: after its start, with large aliases, after a recovery, and
//! with sessions.
//!
//! Only private memory counts (`RssAnon` in `/proc`), because the pages of the program depend on
//! how it was built.

use std::fs;
use std::thread;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::server::Server;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Returns the private memory of a server in bytes.
fn memory(server: &Server) -> usize {
    status(server, "RssAnon:")
}

/// Returns a field of `/proc/PID/status` in bytes.
fn status(server: &Server, field: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
}

#[test]
fn aliases_take_little_more_memory_than_their_file() {
    let directory = TestDirectory::new();
    let before = memory(&directory.start(&["--aliases", "none"]));
    let file = directory.join("aliases");
    let lines = (0..30_000).map(|n| format!("alias{n}: user{n}, other{n}@far.example\n"));
    let text: String = lines.collect();
    fs::write(&file, &text).unwrap();
    let server = directory.start(&["--aliases", file.to_str().unwrap()]);
    let taken = memory(&server).saturating_sub(before);
    assert!(taken < 2 * text.len(), "{taken} bytes for a file of {}", text.len());
}

#[test]
fn recovery_reads_large_batches_in_pieces() {
    let directory = TestDirectory::new();
    let server = directory.start(&[]);
    let before = (memory(&server), status(&server, "VmHWM:"));
    let content = format!("{}\r\n", "x".repeat(998)).repeat(250);
    let clients: Vec<Client> = (0..30).map(|_| server.after_ehlo()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            let content = &content;
            scope.spawn(move || {
                client.deliver("a@client.example", &["jones@here.example"], content, 250)
            });
        }
    });
    server.kill();
    let server = directory.start(&[]);
    server.wait_for_log("recovery-ended");
    let taken = memory(&server).saturating_sub(before.0);
    assert!(taken < 2 * MIB, "{taken} bytes more than after a first start");
    let peak = status(&server, "VmHWM:").saturating_sub(before.1);
    assert!(peak < 2 * MIB, "at its peak {peak} bytes more than after a first start");
}

/// Most sessions wait for a command, or for the first line of mail data.
#[test]
#[cfg_attr(target_env = "musl", ignore = "the figure is of the allocator of glibc")]
fn a_session_that_waits_has_small_buffers() {
    const SESSIONS: usize = 200;
    let server = Server::start(&["--threads", "250"]);
    let before = heap(&server);
    let mut clients: Vec<Client> = (0..SESSIONS).map(|_| server.greeted()).collect();
    clients.iter_mut().for_each(|client| client.begin_data("jones"));
    let taken = heap(&server).saturating_sub(before) / SESSIONS;
    assert!(taken < 12 * KIB, "{taken} bytes for each session");
}

/// Returns the private memory of a server in bytes, without the stacks of its session threads.
/// Their depth depends on how the program was built.
fn heap(server: &Server) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", server.pid())).unwrap();
    let kib = |field: &str| -> Vec<usize> {
        let values = maps.lines().filter_map(|line| line.strip_prefix(field));
        values.map(|value| value.trim().trim_end_matches(" kB").parse().unwrap()).collect()
    };
    let sizes = kib("Size:").into_iter().zip(kib("Anonymous:"));
    sizes.filter(|(size, _)| *size != STACK_KIB).map(|(_, anonymous)| anonymous * KIB).sum()
}

/// The size of the stack of a session thread.
const STACK_KIB: usize = 1024;
