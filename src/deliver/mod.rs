//! Delivery to disk: complete messages are appended to mailboxes or become entries of the queue.
//!
//! Sessions pass a [`Message`](crate::message::Message) to a [`WriterHandle`] and wait for its
//! [`Outcome`]. One thread, the writer, makes all changes to mailboxes.
//!
//! | file | contains |
//! | --- | --- |
//! | `writer.rs` | the writer's thread: batches, and messages that wait for a lock |
//! | `handle.rs` | the sessions' end of the channel to the writer, and the outcome |
//! | `recover.rs` | the start of the writer, and recovery after a crash |
//! | `verdict.rs` | the proof that a mail reader removed the messages missing from a mailbox |
//! | `copies.rs` | the copies of recorded messages, found in a mailbox and written again |
//! | `search.rs` | the search for messages in a mailbox that another program has rewritten |
//! | `commit.rs` | a batch: recorded, appended, undone where it fails |
//! | `checkpoint.rs` | the thread that syncs mailboxes, after which their records are not needed |
//! | `contents.rs` | the files of large messages in the spool |
//! | `journal/` | the file that makes a batch durable with one sync |
//! | `mailbox.rs` | one locked mailbox: checked, appended to, truncated |
//! | `locks.rs` | dotlocks and kernel locks |
//! | `mbox.rs` | the format of a mailbox |
//! | `forward.rs` | a user's `~/.forward`, read as that user |
//! | `outcome.rs` | the results of a delivery |
//! | `disk.rs` | the system calls, as traits that a simulated disk implements |
//!
//! Imports go from the top of the table to the bottom.

mod checkpoint;
mod commit;
mod contents;
mod copies;
pub mod disk;
pub mod forward;
mod handle;
pub mod journal;
pub mod locks;
mod mailbox;
pub mod mbox;
mod outcome;
mod recover;
mod search;
mod verdict;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::observe::counters::Counters;
pub use contents::ContentSpool;
pub use handle::{PendingOutcome, WriterHandle};
pub use locks::Locks;
pub use outcome::{DeferReason, DeliveryError, Outcome};
pub use writer::{WriterThread, start_on};

/// Configuration of the writer.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// Directory of the mailboxes.
    pub mail_dir: PathBuf,
    /// Directory of mailslot's own files.
    pub spool: PathBuf,
    /// Locks to take on a mailbox.
    pub locks: Locks,
    /// Time that a message waits for a mailbox that another program keeps locked.
    pub lock_timeout: Duration,
    /// Largest size of a mailbox in bytes, or None for no limit.
    pub mailbox_limit: Option<u64>,
    /// Number of messages that may wait for the writer. The number of sessions is enough.
    pub queue: usize,
    /// Bytes in each of the journal's two segments: [`JOURNAL_SEGMENT`] for a server.
    pub journal_segment: u64,
    /// Age of a record at which its mailboxes are synced although more mail arrives.
    pub checkpoint_age: Duration,
    /// Called when recovery at the start begins, and every few seconds while it works.
    pub on_recovery_progress: fn(),
}

impl Default for DeliveryConfig {
    /// Returns the defaults of the options of mailslot.
    fn default() -> DeliveryConfig {
        DeliveryConfig {
            mail_dir: "/var/mail".into(),
            spool: "/var/spool/mailslot".into(),
            locks: Locks::ALL,
            lock_timeout: Duration::from_secs(30),
            mailbox_limit: None,
            queue: 32,
            journal_segment: JOURNAL_SEGMENT,
            checkpoint_age: CHECKPOINT_AGE,
            on_recovery_progress: || (),
        }
    }
}

/// Age at which a record's mailboxes are synced. After a power loss, deleted mail may reappear and
/// relayed mail may be relayed again, if its record is still needed.
const CHECKPOINT_AGE: Duration = Duration::from_secs(10);
/// Bytes in a segment of a server's journal: two thousand messages of 4 KiB between two
/// checkpoints.
pub const JOURNAL_SEGMENT: u64 = 8 << 20;
/// Bytes in a segment of the journal of a process that serves one session: room for the largest
/// message that is copied into a journal.
pub const JOURNAL_SEGMENT_SMALL: u64 = 1 << 20;

/// Recovers after a crash if necessary, then starts the writer's thread on the host's disk.
///
/// # Errors
/// The mail directory or the spool cannot be used. The text names the path and the fix.
pub fn start(
    config: DeliveryConfig,
    counters: Arc<Counters>,
) -> io::Result<(WriterHandle, WriterThread)> {
    start_on(Arc::new(disk::HostDisk::new()), config, counters)
}

/// Does the steps of [`start`] before the first one that changes a file. Returns the error of a
/// mail directory that the start accepts, but to which no mail can be delivered.
///
/// # Errors
/// The same as those of [`start`].
pub fn rehearse(config: &DeliveryConfig) -> io::Result<Option<io::Error>> {
    let disk: Arc<dyn disk::Disk> = Arc::new(disk::HostDisk::new());
    recover::rehearse(&disk, config)
}
