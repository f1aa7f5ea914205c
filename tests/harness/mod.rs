//! Modules that the test programs share: servers and clients, messages and the ledger of their
//! fate, disks, hosts, and programs of other projects.
#![allow(dead_code)] // each test program uses a part

pub mod client;
pub mod container;
pub mod cron;
pub mod dialogue;
pub mod directory;
pub mod external;
pub mod fixtures;
pub mod hooked_disk;
pub mod inetd;
pub mod ledger;
pub mod library;
pub mod load;
pub mod log_lines;
pub mod loop_disk;
pub mod mail_servers;
pub mod mbox;
pub mod message;
pub mod name_server;
pub mod namespace;
pub mod outbound;
pub mod process;
pub mod random;
pub mod relay_addresses;
pub mod scripted_server;
pub mod server;
pub mod shell;
pub mod sim_disk;
pub mod sim_writer;
pub mod strace;
pub mod terminals;
pub mod test_host;
#[cfg(feature = "tls")]
pub mod tls;

use std::time::{Duration, Instant};

/// Time after which something that a test waits for has failed. Longer than anything here takes,
/// even on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until `condition` is true. Fails the test after [`TIMEOUT`].
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    assert!(is_true_within(TIMEOUT, condition), "not within {TIMEOUT:?}: {what}");
}

/// Waits until `condition` is true, for at most `time`. True if it became true.
pub fn is_true_within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5)); // so that waiting is not a load itself
    }
    true
}

/// Returns the number in the environment variable `name`, or `default`.
pub fn env_number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
