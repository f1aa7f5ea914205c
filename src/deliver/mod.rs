//! The disk: finished messages into mailboxes. Knows no SMTP verb.
//!
//! [`Post`] is the door: sessions hand it a [`Message`] and wait for its [`Outcome`]. Behind it one
//! thread, the writer, owns every mailbox while it is written to.

pub mod mbox;

use std::path::PathBuf;
use std::time::Duration;

use crate::message::Message;

/// What became of a message, for all of its destinations together. There is nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// In every mailbox, and safe on disk.
    Delivered,
    /// In none. The sender may try again.
    Later(Why),
    /// In none. Trying again is no use.
    Never(Why),
}

/// Why a message was not delivered. The log has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
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
pub struct Settings {
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
}

/// The sessions' end of the channel to the writer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Post {}

impl Post {
    /// Hands `message` over and waits for its outcome, at most `patience`. When that is over the
    /// outcome is `Later(GivenUp)` and the message is not delivered afterwards.
    pub fn deliver(&self, message: Message, patience: Duration) -> Outcome {
        let _ = (message, patience);
        todo!()
    }
}

/// The running writer; [`Writer::stop`] ends it once all that was handed over has its outcome.
#[derive(Debug)]
pub struct Writer {}

impl Writer {
    /// Ends the thread, after every message in hand has its outcome.
    pub fn stop(self) {
        todo!()
    }
}

/// Recovers what a crash left, then starts the writer's thread.
///
/// # Errors
/// The mail folder or the spool cannot be used; the text names the path and the cure.
pub fn start(
    settings: Settings,
    counters: std::sync::Arc<crate::counters::Counters>,
) -> std::io::Result<(Post, Writer)> {
    let _ = (settings, counters);
    todo!()
}
