//! Counters for the administrator: what happened since the start. Every room may count; USR1 writes
//! them to the log as one line, HELP tells them to clients on this host, and
//! [`metrics`](crate::observe::metrics) puts them into a file.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows (or keeps its greatest value).
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn one(&self) {
        self.add(1);
    }
    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// Keeps the greater of what it holds and `n`.
    pub fn at_least(&self, n: u64) {
        self.0.fetch_max(n, Ordering::Relaxed);
    }
    /// The number now.
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
            /// Every counter: its name, what it counts, and the number now; in a fixed order.
            pub fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $doc.trim_ascii(), self.$name.value()),)*]
            }
        }
    };
}

counters! {
    /// Sessions begun.
    sessions,
    /// Connections answered 421 because the server or the client's share was full.
    sessions_refused,
    /// Sessions that lagged and were ended for others, or under stress.
    sessions_given_up,
    /// How often stress began.
    stresses,
    /// Sessions ended by a panic that was caught.
    sessions_panicked,
    /// Handshakes of TLS made.
    tls,
    /// Handshakes of TLS that failed.
    tls_failed,
    /// Recipients accepted.
    recipients,
    /// Recipients refused.
    recipients_refused,
    /// Messages delivered (250 after the dot).
    messages,
    /// Messages that ended 4yz after the dot.
    messages_later,
    /// Messages that ended 5yz after the dot.
    messages_never,
    /// Delivery reports handed to the writer.
    reports,
    /// Recipients on other hosts that mail was sent on to.
    sent,
    /// Tries of such a recipient that are to be repeated later.
    put_off,
    /// Such recipients that mail was given up for.
    returned,
    /// Copies appended to mailboxes.
    copies,
    /// Octets of content of the messages delivered.
    octets,
    /// Batches the writer made durable.
    batches,
    /// The largest batch, in messages.
    batch_max,
    /// fsync and fdatasync calls.
    syncs,
    /// Messages set aside because a mailbox was locked by somebody else.
    lock_waits,
    /// Stale dotlocks broken.
    locks_broken,
    /// The slowest delivery from the dot to its outcome, in milliseconds.
    slowest_ms,
}

impl fmt::Display for Counters {
    /// `sessions=1 messages=2 ...`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, _, n)) in self.list().into_iter().enumerate() {
            write!(f, "{}{name}={n}", if i == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}
