//! The results of a delivery: the [`Outcome`] that a session turns into a reply, and the
//! [`DeliveryError`] that adds a line for the log.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::observe::events;

/// Result for a message, for all of its destinations together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The message is in all of its mailboxes and durable.
    Delivered,
    /// The message is in none of its mailboxes. A later attempt may succeed.
    Deferred(DeferReason),
    /// The message is in none of its mailboxes, because one of them is over its owner's quota or
    /// its own limit: 552 5.2.2.
    OverQuota,
}

/// Reason for which a message was deferred. The log has the details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeferReason {
    /// Another program keeps a mailbox locked: 451 4.2.0.
    Locked,
    /// No space is left on the disk: 452 4.3.1.
    NoSpace,
    /// The mailbox is not a regular file, has a second link, belongs to another user, or may not
    /// be opened: 451 4.2.0, because an administrator can fix it.
    Unusable,
    /// A read, a write or a sync failed: 451 4.3.0.
    Io,
    /// The session's deadline passed before the writer was done: 451 4.3.0.
    TimedOut,
    /// The server is stopping: 451 4.3.2.
    Stopping,
}

/// Failed delivery to one mailbox: the outcome for the message, and the text for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryError {
    outcome: Outcome,
    text: String,
    /// Path of the destination, if it is known.
    path: Option<PathBuf>,
    /// Whether the process or the host has no free descriptor.
    is_out_of_descriptors: bool,
}

impl DeliveryError {
    fn new(outcome: Outcome, text: String) -> DeliveryError {
        DeliveryError { outcome, text, path: None, is_out_of_descriptors: false }
    }

    /// Makes an error for which the message is deferred for `reason`.
    pub(super) fn deferred(reason: DeferReason, text: String) -> DeliveryError {
        DeliveryError::new(Outcome::Deferred(reason), text)
    }

    /// Makes an error for which the message is rejected, because a mailbox is full.
    pub(super) fn over_quota(text: String) -> DeliveryError {
        DeliveryError::new(Outcome::OverQuota, text)
    }

    /// Makes an error of a system call that failed in `action`, such as `open`.
    pub(super) fn io(action: &str, error: io::Error) -> DeliveryError {
        let text = format!("{action}: {error}");
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EDQUOT | Errno::EFBIG) => DeliveryError::over_quota(text),
            Some(Errno::ENOSPC) => DeliveryError::deferred(DeferReason::NoSpace, text),
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
            ) => DeliveryError::deferred(DeferReason::Unusable, text),
            Some(Errno::EMFILE | Errno::ENFILE) => DeliveryError {
                is_out_of_descriptors: true,
                ..DeliveryError::deferred(DeferReason::Io, text)
            },
            _ => DeliveryError::deferred(DeferReason::Io, text),
        }
    }

    /// Makes an error of a failed system call on mailslot's own spool. The quota of the spool is
    /// not that of a user's mailbox, so the message is deferred, not rejected.
    pub(super) fn spool(action: &str, error: &io::Error) -> DeliveryError {
        let copy =
            error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
        let outcome = match DeliveryError::io(action, copy).outcome {
            Outcome::Deferred(reason) => Outcome::Deferred(reason),
            Outcome::OverQuota | Outcome::Delivered => Outcome::Deferred(DeferReason::NoSpace),
        };
        DeliveryError::new(outcome, format!("{action}: {error}"))
    }

    /// Adds the path of the destination.
    pub(super) fn on(self, path: PathBuf) -> DeliveryError {
        DeliveryError { path: Some(path), ..self }
    }

    /// True if the call failed because no descriptor is free.
    pub(super) fn is_out_of_descriptors(&self) -> bool {
        self.is_out_of_descriptors
    }

    /// Returns the cause for the log.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Logs that `message` was not delivered because of this error.
    pub(super) fn log(&self, message: &str) {
        events::delivery_failed(message, self.path.as_deref().map(Path::display), &self.text);
    }

    /// Returns the outcome for the message, which is never `Delivered`.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}
