//! The disk: finished messages into mailboxes; and the terminals of users. Knows no SMTP verb.
//!
//! [`WriterHandle`] is the door: sessions hand it a [`Message`](crate::message::Message) and wait for its
//! [`Outcome`]. Behind it one thread, the writer, owns every mailbox while it is written to.
//!
//! | file | owns |
//! | --- | --- |
//! | `mbox.rs` | the format of a mailbox |
//! | `disk.rs` | the calls on files, as a trait that tests can make fail |
//! | `lock.rs` | dotlocks: taken at once and complete, stale ones recognised |
//! | `mailbox.rs` | one mailbox while it is ours: locked, looked at, appended to, cut back |
//! | `journal.rs` | a batch durable with one sync: the format of the file, reading and writing it |
//! | `committer.rs` | a batch: recorded, appended, taken back where it fails; written back later |
//! | `recover.rs` | what a crash left, set right |
//! | `writer.rs` | the thread: batches, messages set aside, answers |
//! | `forward.rs` | a user's `~/.forward`, read as that user |
//! | `terminal.rs` | the terminals of who is logged in: found, and written to without waiting |
//! | `screen.rs` | a message as a terminal shows it |

mod commit;
pub mod disk;
pub mod forward;
pub mod journal;
pub mod locks;
pub mod mailbox;
pub mod mbox;
mod recover;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::observe::counters::Counters;
use crate::observe::events;
pub use writer::{PendingOutcome, WriterHandle, WriterThread, start_on};

/// What became of a message, for all of its destinations together. There is nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In every mailbox, and safe on disk.
    Delivered,
    /// In none. The sender may try again.
    Later(DeferReason),
    /// In none. Trying again is no use.
    Never(DeferReason),
}

/// Why a message was not delivered. The log has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeferReason {
    /// Somebody keeps a mailbox locked: 451 4.2.0.
    Busy,
    /// No space on the disk: 452 4.3.1.
    NoSpace,
    /// The user's quota or the mailbox's limit: 552 5.2.2.
    OverQuota,
    /// The mailbox is no regular file, is a link, is somebody else's, or may not be opened: 451
    /// 4.2.0, since an administrator can mend it.
    Unusable,
    /// A read, a write or a sync failed: 451 4.3.0.
    Io,
    /// The session's deadline passed before the writer was done: 451 4.3.0.
    GivenUp,
    /// The server is stopping: 451 4.3.2.
    Stopping,
}

/// Which locks are taken, always in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locks {
    /// `USER.lock` beside the mailbox.
    pub dotlock: bool,
    /// fcntl, as an open-file-description lock where the system has it.
    pub fcntl: bool,
    /// flock(2).
    pub flock: bool,
}

/// What the writer is told.
#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    /// Where the mailboxes are.
    pub mail_dir: PathBuf,
    /// Where mailslot keeps its own files.
    pub spool: PathBuf,
    /// Which locks are taken.
    pub locks: Locks,
    /// How long a message waits for a mailbox that somebody else keeps locked.
    pub lock_timeout: Duration,
    /// The largest mailbox, in octets; None for no limit of our own.
    pub mailbox_limit: Option<u64>,
    /// How many messages may be waiting for the writer; the number of sessions is enough.
    pub queue: usize,
    /// Octets in each half of the journal: [`JOURNAL_SEGMENT`] for a server.
    pub journal_segment: u64,
}

/// Half of a server's journal: two thousand messages of 4 KiB between two checkpoints.
pub const JOURNAL_SEGMENT: u64 = 8 << 20;
/// Half of the journal of a process that serves one session: room for the largest message that
/// goes into a journal at all.
pub const JOURNAL_SEGMENT_SMALL: u64 = 1 << 20;

/// Recovers what a crash left, then starts the writer's thread on the host's own disk.
///
/// # Errors
/// The mail folder or the spool cannot be used; the text names the path and the cure.
pub fn start(
    settings: DeliveryConfig,
    counters: Arc<Counters>,
) -> io::Result<(WriterHandle, WriterThread)> {
    start_on(Arc::new(disk::HostDisk::new()), settings, counters)
}

/// Why one mailbox could not be written to: what the sender hears, and one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryError {
    /// What becomes of the message.
    pub outcome: Outcome,
    /// For the log: what was tried, and the system's own words.
    pub text: String,
    /// Path of the mailbox, if it is known.
    pub mailbox: Option<PathBuf>,
}

impl DeliveryError {
    /// Returns an error of a mailbox that is not known here.
    pub fn new(outcome: Outcome, text: String) -> DeliveryError {
        DeliveryError { outcome, text, mailbox: None }
    }

    /// Returns the error of a system call that failed when it tried to do `what`.
    pub fn io(what: &str, error: io::Error) -> DeliveryError {
        DeliveryError::new(DeliveryError::outcome_of(&error), format!("{what}: {error}"))
    }

    /// Returns the same error with the path of its mailbox.
    pub fn on(self, mailbox: PathBuf) -> DeliveryError {
        DeliveryError { mailbox: Some(mailbox), ..self }
    }

    /// Logs that `message` failed with this error.
    pub fn log(&self, message: &str) {
        let mailbox = self.mailbox.as_deref().map(Path::display);
        events::delivery_failed(message, mailbox, &self.text);
    }

    /// What a failed system call means for the message.
    pub fn outcome_of(error: &io::Error) -> Outcome {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EDQUOT | Errno::EFBIG) => Outcome::Never(DeferReason::OverQuota),
            Some(Errno::ENOSPC) => Outcome::Later(DeferReason::NoSpace),
            Some(
                Errno::EACCES
                | Errno::EPERM
                | Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::ELOOP
                | Errno::EISDIR
                | Errno::ENXIO
                | Errno::ENODEV
                | Errno::ETXTBSY,
            ) => Outcome::Later(DeferReason::Unusable),
            _ => Outcome::Later(DeferReason::Io),
        }
    }
}
