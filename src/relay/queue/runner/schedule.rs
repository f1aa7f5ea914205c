//! The schedule of the queue: which entries there are, and when each is due.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::message::QueueId;
use crate::observe::events;
use crate::relay::queue::held::entry_of_receipt;
use crate::relay::queue::state::{EntryState, retry_delay};
use crate::relay::queue::{EntryKind, now};

/// The entries of one kind in the queue, by id and by the time they are due.
#[derive(Debug)]
pub(super) struct Schedule {
    kind: EntryKind,
    entries: HashMap<Arc<str>, ScheduledEntry>,
    by_due: BTreeSet<(i64, Arc<str>)>,
}

/// The times of an entry, known without reading its file. In seconds since 1970.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScheduledEntry {
    /// Time of the next attempt.
    pub due: i64,
    /// Time at which the sender must get a report about the entry's age.
    pub report_due: i64,
    /// True if the next attempt is made even if the entry's state has a later time.
    pub forced: bool,
}

impl ScheduledEntry {
    /// A new entry, due at once.
    pub const NEW: ScheduledEntry = ScheduledEntry { due: 0, report_due: 0, forced: false };
    /// An entry for which an attempt was asked for.
    pub const FORCED: ScheduledEntry = ScheduledEntry { forced: true, ..ScheduledEntry::NEW };
}

impl Schedule {
    /// Returns a schedule without entries, for entries of this kind.
    pub fn new(kind: EntryKind) -> Schedule {
        Schedule { kind, entries: HashMap::new(), by_due: BTreeSet::new() }
    }

    /// Adds the entry `id`, or replaces its times.
    pub fn insert(&mut self, id: &str, entry: ScheduledEntry) {
        let id: Arc<str> = id.into();
        if let Some(replaced) = self.entries.insert(id.clone(), entry) {
            self.by_due.remove(&(replaced.due, id.clone()));
        }
        self.by_due.insert((entry.due, id));
    }

    pub fn remove(&mut self, id: &Arc<str>) {
        if let Some(entry) = self.entries.remove(id) {
            self.by_due.remove(&(entry.due, id.clone()));
        }
    }

    pub fn contains(&self, id: &str) -> bool {
        self.entries.contains_key(id)
    }

    pub fn is_forced(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.forced)
    }

    /// Returns the entry that is due first, and its time.
    pub fn first(&self) -> Option<(i64, &Arc<str>)> {
        self.by_due.first().map(|(due, id)| (*due, id))
    }

    /// Returns all ids in the order in which they are due.
    pub fn ids(&self) -> Vec<Arc<str>> {
        self.by_due.iter().map(|(_, id)| id.clone()).collect()
    }

    /// Returns the ids of the entries that must have their age reported at `now`.
    pub fn ids_to_report(&self, now: i64) -> Vec<Arc<str>> {
        let due = self.entries.iter().filter(|(_, entry)| entry.report_due <= now);
        due.map(|(id, _)| id.clone()).collect()
    }

    /// Adds the entries that are in `directory` and removes those that are not. Removes state files
    /// and receipts without an entry, which a crash can leave.
    ///
    /// # Errors
    /// The directory cannot be read. The schedule is as it was.
    pub fn scan(&mut self, directory: &Path) -> io::Result<()> {
        let mut names = HashSet::new();
        for file in fs::read_dir(directory)? {
            names.extend(file?.file_name().into_string());
        }
        // Guard against a time that was set while the clock was wrong.
        let latest = latest_due();
        for name in &names {
            if let Some((id, _)) = EntryState::parse_file_name(name) {
                // The entry may have come after the directory was read. It cannot have come after
                // its state, and no id is used twice.
                if !names.contains(id) && !directory.join(id).exists() {
                    let _ = fs::remove_file(directory.join(name));
                }
            } else if let Some(id) = entry_of_receipt(name) {
                if !names.contains(id) && !directory.join(id).exists() {
                    let _ = fs::remove_file(directory.join(name));
                }
            } else if QueueId::receipt_name(name).is_some() {
                // The thread that takes messages from the hand-over directory removes it.
            } else if EntryKind::of(name) != self.kind {
                // The other thread has it.
            } else if QueueId::new(name).is_none() {
                events::queue_file_ignored(directory.join(name).display());
            } else if let Some(entry) = self.entries.get(name.as_str()) {
                if entry.due > latest {
                    self.insert(name, ScheduledEntry::NEW);
                }
            } else {
                // An error is logged by the attempt, which reads the state again.
                let due = EntryState::read(directory, name).map_or(0, |state| state.retry_at);
                let due = if due > latest { 0 } else { due };
                self.insert(name, ScheduledEntry { due, ..ScheduledEntry::NEW });
            }
        }
        let missing: Vec<Arc<str>> =
            self.entries.keys().filter(|id| !names.contains(&***id)).cloned().collect();
        missing.iter().for_each(|id| self.remove(id));
        Ok(())
    }
}

/// Returns the latest time that an entry can be due, unless the clock was set back since.
pub(super) fn latest_due() -> i64 {
    now().saturating_add(retry_delay(u32::MAX, u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_one_time() {
        let mut schedule = Schedule::new(EntryKind::Relayed);
        let at = |due| ScheduledEntry { due, report_due: due, forced: false };
        for (id, due) in [("a", 5), ("b", 3), ("a", 1), ("c", 3), ("b", 9)] {
            schedule.insert(id, at(due));
        }
        assert_eq!(schedule.first(), Some((1, &"a".into())));
        assert_eq!(schedule.ids(), ["a".into(), "c".into(), "b".into()]);
        assert_eq!(schedule.ids_to_report(0), []);
        assert_eq!(schedule.ids_to_report(1), ["a".into()]);
        schedule.remove(&"a".into());
        schedule.remove(&"a".into());
        assert_eq!((schedule.ids().len(), schedule.contains("a")), (2, false));
        schedule.insert("b", ScheduledEntry::FORCED);
        assert!(schedule.is_forced("b") && !schedule.is_forced("c"));
        assert_eq!(schedule.ids(), ["b".into(), "c".into()]);
    }

    #[test]
    fn scan_follows_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let queue = directory.path();
        let file = |name: &str| queue.join(name);
        for name in ["a-1", "b-1", "b-1.state", "gone.state", "gone.state.new", "not.an.entry"] {
            fs::write(file(name), "").unwrap();
        }
        let state = EntryState { retry_at: now() + 60, ..EntryState::default() };
        state.write(queue, "b-1").unwrap();
        let mut schedule = Schedule::new(EntryKind::Relayed);
        schedule.scan(queue).unwrap();
        assert_eq!(schedule.ids(), ["a-1".into(), "b-1".into()]);
        assert!(!file("gone.state").exists() && !file("gone.state.new").exists());
        assert!(file("not.an.entry").exists());

        for name in ["c-1-held", "c-1-held-done0", "gone-held-done3"] {
            fs::write(file(name), "").unwrap();
        }
        let mut held = Schedule::new(EntryKind::Held);
        held.scan(queue).unwrap();
        assert_eq!(held.ids(), ["c-1-held".into()]);
        assert!(file("c-1-held-done0").exists() && !file("gone-held-done3").exists());
        schedule.scan(queue).unwrap();
        assert_eq!(schedule.ids(), ["a-1".into(), "b-1".into()]);
        ["c-1-held", "c-1-held-done0"].iter().for_each(|name| fs::remove_file(file(name)).unwrap());

        // A time set by a clock that was wrong.
        schedule.insert("b-1", ScheduledEntry { due: i64::MAX, ..ScheduledEntry::NEW });
        fs::remove_file(file("a-1")).unwrap();
        schedule.scan(queue).unwrap();
        assert_eq!(schedule.first(), Some((0, &"b-1".into())));
        assert_eq!(schedule.ids().len(), 1);
    }
}
