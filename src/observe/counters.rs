//! Counters for the administrator, from the start of the process on. SIGUSR1 writes them to the log
//! as one line, HELP shows them to clients on this host, and [`metrics`](super::metrics) writes
//! them to a file.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, or keeps its greatest value.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Sets the counter to `n` if that is greater.
    pub fn at_least(&self, n: u64) {
        self.0.fetch_max(n, Ordering::Relaxed);
    }
    /// Returns the number.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// All counters of one process.
        #[derive(Debug, Default)]
        pub struct Counters { $(#[doc = $doc] pub $name: Counter,)* }

        impl Counters {
            /// Returns the name, the meaning and the number of every counter, in a fixed order.
            pub fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $doc.trim_ascii(), self.$name.value()),)*]
            }
        }
    };
}

counters! {
    /// Sessions that began.
    sessions,
    /// Connections answered 421 or closed, because the server or the client's share was full.
    sessions_rejected,
    /// Sessions that were idle or slow and were ended for others, or in an overload.
    sessions_evicted,
    /// Overloads that began.
    overloads,
    /// Sessions ended by a panic that was caught.
    sessions_panicked,
    /// TLS handshakes that succeeded.
    tls_sessions,
    /// TLS handshakes that failed.
    tls_failed,
    /// Recipients accepted.
    recipients,
    /// Recipients answered 4yz or 5yz.
    recipients_rejected,
    /// Messages accepted (250 after the end of data).
    messages,
    /// Messages answered 4yz after the end of data.
    messages_deferred,
    /// Messages answered 5yz after the end of data.
    messages_rejected,
    /// Delivery status notifications created.
    dsns,
    /// Recipients on other hosts for which the next server accepted the message.
    relay_sent,
    /// Attempts for such a recipient that are to be repeated.
    relay_deferred,
    /// Such recipients that the next server rejected.
    relay_bounced,
    /// Recipients on this host for which mail was queued, because it could not be delivered then.
    held,
    /// Recipients that the queue delivered such mail to.
    held_delivered,
    /// Attempts at such mail that are to be repeated, one for each recipient.
    held_deferred,
    /// Recipients for which such mail was returned to its sender.
    held_bounced,
    /// Recipients with an alias of /dev/null alone.
    discarded,
    /// Copies appended to mailboxes and to the queue.
    copies,
    /// Bytes of the messages accepted.
    octets,
    /// Batches that the writer synced.
    batches,
    /// The largest batch, in messages.
    batch_max,
    /// fsync and fdatasync calls.
    syncs,
    /// Messages set aside because another process had locked a mailbox.
    lock_waits,
    /// Stale dotlocks broken.
    locks_broken,
    /// The slowest delivery from the end of data to its outcome, in milliseconds.
    slowest_ms,
}

impl fmt::Display for Counters {
    /// Writes `sessions=1 messages=2 ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, _, n)) in self.list().into_iter().enumerate() {
            write!(f, "{}{name}={n}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
