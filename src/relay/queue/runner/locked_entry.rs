//! An entry that this process works on: open, locked, and read.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fs2::FileExt;

use crate::observe::events;
use crate::relay::queue::entry::QueueEntry;
use crate::relay::queue::held::{is_held, take_over_receipts};
use crate::relay::queue::state::EntryState;
use crate::smtp::Envelope;

/// An entry and its state. The lock lasts as long as the value.
pub(super) struct LockedEntry {
    pub id: Arc<str>,
    pub file: File,
    pub entry: QueueEntry,
    pub state: EntryState,
}

/// A reason why an entry cannot be worked on.
pub(super) enum Unavailable {
    /// The entry does not exist.
    Removed,
    /// The entry is locked: by the writer, which has not committed the batch yet, or by another
    /// process that works on the queue.
    Busy,
    /// The entry or a receipt of it is cut short, and recovery has not repaired it yet.
    Incomplete,
}

impl LockedEntry {
    /// Opens and locks the entry `id`, and reads it. Its state is `unsaved`, or else read too. Held
    /// mail takes over its receipts, for which the journals were recovered at `recovered_at`.
    /// Removes an empty entry, which was created for a message of which no record was written.
    ///
    /// # Errors
    /// The entry or its state cannot be read.
    pub fn open(
        directory: &Path,
        id: &Arc<str>,
        unsaved: Option<&EntryState>,
        recovered_at: SystemTime,
    ) -> io::Result<Result<LockedEntry, Unavailable>> {
        let path = directory.join(&**id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Err(Unavailable::Removed)),
            Err(e) => return Err(e),
        };
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Err(Unavailable::Busy)),
            Err(e) => return Err(e),
        }
        let meta = file.metadata()?;
        // Another process may have sent the entry and removed it before the lock was ours.
        if meta.nlink() == 0 {
            return Ok(Err(Unavailable::Removed));
        }
        let Some(entry) = QueueEntry::read(&file)? else {
            if meta.len() == 0 && meta.modified()?.elapsed().is_ok_and(|age| age > ORPHAN_AGE) {
                fs::remove_file(&path)?;
                return Ok(Err(Unavailable::Removed));
            }
            events::queue_entry_incomplete(id, meta.len());
            return Ok(Err(Unavailable::Incomplete));
        };
        let mut state = match unsaved {
            Some(state) => state.clone(),
            None => EntryState::read(directory, id)?,
        };
        if is_held(id) && !take_over_receipts(directory, id, &entry, &mut state, recovered_at)? {
            return Ok(Err(Unavailable::Incomplete));
        }
        Ok(Ok(LockedEntry { id: id.clone(), file, entry, state }))
    }

    /// Returns the time of arrival, in seconds since 1970.
    pub fn arrived_at(&self) -> i64 {
        self.state.arrived_at.unwrap_or(self.entry.arrived_at)
    }

    /// Returns the indexes of the recipients that are not finished.
    pub fn pending(&self) -> Vec<usize> {
        let all = 0..self.entry.envelope.to.len();
        all.filter(|n| !self.state.finished.contains(n)).collect()
    }

    /// Returns the envelope for the recipients at these indexes.
    pub fn envelope_for(&self, indexes: &[usize]) -> Envelope<()> {
        let all = &self.entry.envelope;
        let to = indexes.iter().filter_map(|n| all.to.get(*n)).cloned().collect();
        all.with_recipients(to)
    }
}

/// Age from which an empty entry must be the remains of a crash.
const ORPHAN_AGE: Duration = Duration::from_secs(3600);
