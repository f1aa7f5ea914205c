//! Senders that keep a server busy while a test does something to it.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::client::Client;
use super::ledger::Ledger;
use super::message::TestMessage;

/// Length of the large messages, which go through a file of the spool.
const LARGE: usize = 300 * 1024;

/// Sets a flag when it is dropped.
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends small and large messages, to one mailbox and to several, until `over` is set or the server
/// is gone.
pub fn send_until(over: &AtomicBool, ledger: &Mutex<Ledger<u16>>, address: SocketAddr, name: &str) {
    // It may be killed before this thread runs.
    let Ok(mut sender) = Client::open(address) else { return };
    for n in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let to = [&["a"][..], &["a", "b", "c"], &["b"], &["c", "b"]][n % 4];
        let length = if n % 10 == 9 { LARGE } else { 300 * (n % 7) };
        let message = TestMessage::new(format!("{name}-{n}"), to, length);
        let code = sender.submit_for_code(&message);
        if ledger.lock().unwrap().record(message, code).is_none() {
            return;
        }
    }
}
