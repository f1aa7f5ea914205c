//! No descriptor is left after many connections. This is a program of its own because it counts the
//! descriptors of its process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "harness/mod.rs"]
mod harness;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use crate::harness::TIMEOUT;
use crate::harness::library::MailStore;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn many_connections_leave_no_descriptor_and_no_session() {
    let store = MailStore::new();
    let before = descriptors();
    let running = store.run(store.server_settings(4));
    for round in 0..50 {
        let mut connections: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect(running.address).unwrap()).collect();
        for (i, client) in connections.iter_mut().enumerate() {
            // Some send commands, and leave with a reset because they have not read the greeting.
            if (i + round) % 3 == 0 {
                let _ =
                    client.write_all(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<x@y>\r\nDATA\r\nhalf");
            }
        }
    }
    // Then all four threads are free at the same time.
    let deadline = Instant::now() + TIMEOUT;
    let all_served = || {
        let mut four: Vec<_> = (0..4).map(|_| running.connect()).collect();
        four.iter_mut().all(|client| client.reply().starts_with("220"))
    };
    while !all_served() {
        assert!(Instant::now() < deadline, "threads are lost");
    }
    running.handle.stop();
    running.join();
    assert_eq!(descriptors(), before);
    assert_eq!(store.count("x"), 0);
}
