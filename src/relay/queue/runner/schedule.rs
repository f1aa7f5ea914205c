//! When each entry is due: the schedule, and the scan of the directory that fills it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::QueueRunner;
use crate::message::MailboxName;
use crate::observe::logging::value;
use crate::relay::queue::now;
use crate::relay::queue::state::{EntryState, retry_after};

/// What is known of an entry without reading it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// When it is tried.
    pub due: i64,
    /// When its sender has to be told something of its age.
    pub watch: i64,
    /// Whether it is tried then whatever its state says.
    pub forced: bool,
}

impl Schedule {
    /// Of an entry of which nothing is known.
    pub const NEW: Schedule = Schedule { due: 0, watch: 0, forced: false };
}

impl QueueRunner {
    /// Takes in what is in the folder, and clears away what a crash left there.
    pub(super) fn scan(&mut self) -> io::Result<()> {
        self.scanned = Instant::now();
        let mut names = HashSet::new();
        for file in fs::read_dir(&self.directory)? {
            names.extend(file?.file_name().into_string());
        }
        // A clock that was wrong then must not make mail wait for ever.
        let latest = latest();
        for name in &names {
            if let Some((id, _)) = EntryState::name(name) {
                // Its entry was there before it; and no id comes twice.
                if !names.contains(id) && !self.directory.join(id).exists() {
                    let _ = fs::remove_file(self.directory.join(name));
                }
            } else if MailboxName::in_queue(name).is_none() {
                log::warn!("queue-file-ignored name={} why=\"not an entry's name\"", value(name));
            } else if let Some(item) = self.items.get(name.as_str()) {
                if item.due > latest {
                    self.put(name, Schedule::NEW);
                }
            } else {
                // What cannot be read is seen to when its turn comes.
                let due = EntryState::read(&self.directory, name).map_or(0, |state| state.next);
                let due = if due > latest { 0 } else { due };
                self.put(name, Schedule { due, ..Schedule::NEW });
            }
        }
        let gone: Vec<Arc<str>> =
            self.items.keys().filter(|id| !names.contains(&***id)).cloned().collect();
        gone.iter().for_each(|id| self.forget(id));
        Ok(())
    }

    pub(super) fn put(&mut self, id: &str, item: Schedule) {
        let id: Arc<str> = id.into();
        if let Some(item) = self.items.remove(&id) {
            self.line.remove(&(item.due, id.clone()));
        }
        self.line.insert((item.due, id.clone()));
        self.items.insert(id, item);
    }

    pub(super) fn forget(&mut self, id: &Arc<str>) {
        self.unsaved.remove(id);
        if let Some(item) = self.items.remove(id) {
            self.line.remove(&(item.due, id.clone()));
        }
    }

    /// What is to be tried now, if anything is.
    pub(super) fn first_due(&self) -> Option<Arc<str>> {
        let resting = self.down.is_some_and(|(_, until)| Instant::now() < until);
        let (due, id) = self.line.first().filter(|_| !resting)?;
        (*due <= now()).then(|| id.clone())
    }

    /// How long there is nothing to do.
    pub(super) fn wait(&self) -> Duration {
        let due = self.line.first().map_or(i64::MAX, |(due, _)| *due);
        let due = Duration::from_secs(u64::try_from(due.saturating_sub(now())).unwrap_or(0));
        let until = self
            .down
            .map_or(Duration::ZERO, |(_, until)| until.saturating_duration_since(Instant::now()));
        due.max(until).clamp(Duration::from_millis(10), SCAN_EVERY)
    }
}

/// No entry waits longer, unless the clock was set back since.
pub(super) fn latest() -> i64 {
    now().saturating_add(retry_after(u32::MAX, u64::MAX))
}

/// How often the folder is looked through for what others put there.
pub(super) const SCAN_EVERY: Duration = Duration::from_secs(300);
