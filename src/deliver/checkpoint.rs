//! The thread that syncs mailboxes while the writer works, so that a slow disk delays no delivery.
//! When the mailboxes of a record are synced, the journal does not need the record any more.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::disk::Disk;
use super::mailbox::{DestinationDirectories, OpenMailbox};
use crate::message::DestinationFile;
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::observe::vital_thread::VitalThread;
use crate::process::privilege;

/// Mailboxes to sync, open as they were when they were written to.
pub type DirtyMailboxes = Vec<(DestinationFile, OpenMailbox)>;

/// Handle to the checkpoint thread, which has at most one checkpoint to make.
#[derive(Debug)]
pub struct Checkpointer {
    work: Sender<Checkpoint>,
    results: Receiver<CheckpointResult>,
    running: bool,
}

/// Work for the thread: the mailboxes of all records up to `seq`.
#[derive(Debug)]
struct Checkpoint {
    seq: u64,
    mailboxes: DirtyMailboxes,
}

/// Finished checkpoint.
#[derive(Debug)]
pub struct CheckpointResult {
    /// Sequence number of the newest record that it covers.
    pub seq: u64,
    /// Mailboxes that could not be synced.
    pub failed: Vec<DestinationFile>,
}

impl Checkpointer {
    /// Starts the thread.
    pub fn start(
        disk: Arc<dyn Disk>,
        directories: DestinationDirectories,
        counters: Arc<Counters>,
    ) -> io::Result<Checkpointer> {
        let (work, tasks) = bounded::<Checkpoint>(1);
        let (done, results) = bounded(1);
        std::thread::Builder::new().name("checkpoint".into()).stack_size(256 * 1024).spawn(
            move || {
                let _vital = VitalThread::new("checkpoint");
                // Syncing needs no capability. The writer alone keeps them.
                if let Err(e) = privilege::drop_capabilities() {
                    events::checkpoint_failed(e);
                    return;
                }
                for Checkpoint { seq, mailboxes } in tasks {
                    let failed = sync_mailboxes(&*disk, &directories, &counters, mailboxes);
                    if done.send(CheckpointResult { seq, failed }).is_err() {
                        return;
                    }
                }
            },
        )?;
        Ok(Checkpointer { work, results, running: false })
    }

    /// True if a checkpoint was begun and its result was not collected.
    pub fn is_running(&self) -> bool {
        self.running
    }

    /// Begins a checkpoint of the records up to `seq`. Returns the mailboxes that will not be
    /// synced, which are all of them if the thread has died.
    pub fn begin(&mut self, seq: u64, mailboxes: DirtyMailboxes) -> Vec<DestinationFile> {
        match self.work.send(Checkpoint { seq, mailboxes }) {
            Ok(()) => self.running = true,
            Err(unsent) => return unsent.0.mailboxes.into_iter().map(|(name, _)| name).collect(),
        }
        Vec::new()
    }

    /// Returns the result of the running checkpoint, waiting for it if `wait` is true.
    pub fn collect(&mut self, wait: bool) -> Option<CheckpointResult> {
        if !self.running {
            return None;
        }
        let result = if wait { self.results.recv().ok() } else { self.results.try_recv().ok() };
        self.running = result.is_none() && !wait;
        result
    }
}

/// Syncs each mailbox and the directories that contain them. Returns the mailboxes that failed.
fn sync_mailboxes(
    disk: &dyn Disk,
    directories: &DestinationDirectories,
    counters: &Counters,
    mailboxes: DirtyMailboxes,
) -> Vec<DestinationFile> {
    let (mut failed, mut names) = (Vec::new(), Vec::with_capacity(mailboxes.len()));
    for (name, open) in mailboxes {
        counters.syncs.one();
        if let Err(e) = open.file.sync() {
            events::sync_failed(Some(directories.path_of(&name).display()), None::<&str>, e);
            failed.push(name.clone());
        }
        // The file is closed here, because the sync of a directory needs a descriptor.
        names.push(name);
    }
    // The directories always, because a mailbox may be new, or a mail reader may have put another
    // file under its name.
    if !names.is_empty() {
        counters.syncs.one();
        if let Err(e) = directories.sync_names(disk, &names) {
            events::sync_failed(None::<&str>, Some(directories.mail.display()), e);
            failed.extend(names);
        }
    }
    failed
}
