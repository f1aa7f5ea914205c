//! The schedule of the queue: which entries there are, for which next hops, and when each is due.
//!
//! An entry has a time at which it is due for each of its next hops. They are unknown until it is
//! due for the first time, because its file is read only then. Each next hop has its entries sorted
//! by time, so that a due entry is found without examining the others.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::message::QueueId;
use crate::message::trace::unix_time;
use crate::observe::events;
use crate::relay::queue::EntryKind;
use crate::relay::queue::held::entry_of_receipt;
use crate::relay::queue::next_hop::NextHop;
use crate::relay::queue::state::{EntryState, retry_delay};
use crate::smtp::sender::OutcomeReason;

/// The entries of one kind in the queue.
#[derive(Debug)]
pub(super) struct Schedule {
    kind: EntryKind,
    entries: HashMap<Arc<str>, ScheduledEntry>,
    hops: HashMap<NextHop, HopSchedule>,
}

/// An entry, as far as it is known without reading its file. Times are in seconds since 1970.
#[derive(Debug)]
struct ScheduledEntry {
    /// Time at which the sender must get a report about the entry's age.
    report_due: i64,
    /// True if the next attempt is made even if the entry's state has a later time.
    forced: bool,
    /// True while an attempt is made.
    busy: bool,
    /// Its next hops.
    hops: Vec<EntryHop>,
}

/// The times of an entry at one next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EntryHop {
    hop: NextHop,
    /// Time of the next attempt.
    due: i64,
    /// Number of attempts so far.
    tries: u32,
}

/// The entries for one next hop.
#[derive(Debug, Default)]
struct HopSchedule {
    by_due: BTreeSet<(i64, Arc<str>)>,
    /// Number of connections: those of attempts being made, and those kept by waiting threads.
    used: usize,
    /// Number of connections kept by waiting threads.
    idle: usize,
    /// True if a connection was opened since there is mail, and no outage came since.
    is_reachable: bool,
    /// Maximum number of connections, if the server accepts fewer than are configured.
    used_max: Option<usize>,
    outage: Option<Outage>,
    /// True if a flush was requested while an attempt was made, so that the next one follows at
    /// once.
    flush_again: bool,
}

/// A time in which a next hop cannot be reached.
#[derive(Debug)]
struct Outage {
    /// Failures after the first.
    failures: u32,
    retry_at: Instant,
    reason: OutcomeReason,
}

/// An attempt to be made. [`Schedule::end`] ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DueEntry {
    pub id: Arc<str>,
    pub hop: NextHop,
}

impl HopSchedule {
    fn is_paused(&self, at: Instant) -> bool {
        self.outage.as_ref().is_some_and(|outage| at < outage.retry_at)
    }

    /// Returns the maximum number of connections. One is enough to learn whether a server can be
    /// reached.
    fn used_max(&self, connections: usize) -> usize {
        match self.is_reachable {
            false => 1,
            true => self.used_max.unwrap_or(connections).min(connections),
        }
    }

    /// Returns the number of attempts being made.
    fn busy(&self) -> usize {
        self.used.saturating_sub(self.idle)
    }

    fn is_needless(&self, at: Instant) -> bool {
        self.by_due.is_empty() && self.used == 0 && !self.is_paused(at)
    }
}

impl Schedule {
    /// Returns a schedule without entries, for entries of this kind.
    pub fn new(kind: EntryKind) -> Schedule {
        Schedule { kind, entries: HashMap::new(), hops: HashMap::new() }
    }

    /// Adds the entry `id`, due at `due`, with its next hops unknown. Replaces its times if it is
    /// there. If `forced`, the next attempt is made whatever its state says.
    pub fn insert(&mut self, id: &str, due: i64, forced: bool) {
        let id: Arc<str> = id.into();
        let (report_due, busy) =
            self.entries.get(&id).map_or((0, false), |entry| (entry.report_due, entry.busy));
        self.remove(&id);
        self.add(&id, NextHop::Unknown, due);
        let hops = vec![EntryHop { hop: NextHop::Unknown, due, tries: 0 }];
        self.entries.insert(id, ScheduledEntry { report_due, forced, busy, hops });
    }

    /// Removes the entry `id`.
    pub fn remove(&mut self, id: &Arc<str>) {
        for EntryHop { hop, due, .. } in self.entries.remove(id).map(|e| e.hops).unwrap_or_default()
        {
            self.take_out(id, &hop, due);
        }
    }

    /// Sets the next hops of the entry `id`, of which `tries` attempts were made. They are due when
    /// the entry was.
    pub fn set_hops(&mut self, id: &Arc<str>, hops: Vec<NextHop>, tries: u32) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let due = entry.hops.iter().map(|hop| hop.due).min().unwrap_or_default();
        // One copy of the name of each domain is enough.
        let shared = |hop: NextHop| self.hops.get_key_value(&hop).map_or(hop, |(k, _)| k.clone());
        let hops: Vec<NextHop> = hops.into_iter().map(shared).collect();
        let new = hops.iter().map(|hop| EntryHop { hop: hop.clone(), due, tries }).collect();
        for EntryHop { hop, due, .. } in std::mem::replace(&mut entry.hops, new) {
            self.take_out(id, &hop, due);
        }
        hops.into_iter().for_each(|hop| self.add(id, hop, due));
    }

    /// Sets the time of the next attempt at `hop`, after `tries` attempts, and that of a report.
    pub fn set_due(&mut self, id: &Arc<str>, hop: &NextHop, due: i64, tries: u32, report_due: i64) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.report_due = report_due;
        let Some(times) = entry.hops.iter_mut().find(|times| times.hop == *hop) else { return };
        entry.forced = false;
        let old = std::mem::replace(&mut times.due, due);
        times.tries = tries;
        self.take_out(id, hop, old);
        self.add(id, hop.clone(), due);
    }

    /// Sets the time of the next attempt at all next hops of the entry `id`.
    pub fn postpone(&mut self, id: &Arc<str>, due: i64) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let hops = entry.hops.iter_mut();
        let olds: Vec<(NextHop, i64)> =
            hops.map(|times| (times.hop.clone(), std::mem::replace(&mut times.due, due))).collect();
        for (hop, old) in olds {
            self.take_out(id, &hop, old);
            self.add(id, hop, due);
        }
    }

    /// Removes a next hop of the entry `id`, because its recipients are finished.
    pub fn remove_hop(&mut self, id: &Arc<str>, hop: &NextHop) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Some(at) = entry.hops.iter().position(|times| times.hop == *hop) else { return };
        let EntryHop { due, .. } = entry.hops.remove(at);
        self.take_out(id, hop, due);
    }

    fn add(&mut self, id: &Arc<str>, hop: NextHop, due: i64) {
        self.hops.entry(hop).or_default().by_due.insert((due, id.clone()));
    }

    fn take_out(&mut self, id: &Arc<str>, hop: &NextHop, due: i64) {
        if let Some(entries) = self.hops.get_mut(hop) {
            entries.by_due.remove(&(due, id.clone()));
            if entries.is_needless(Instant::now()) {
                self.hops.remove(hop);
            }
        }
    }

    pub fn contains(&self, id: &str) -> bool {
        self.entries.contains_key(id)
    }

    pub fn is_forced(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.forced)
    }

    pub fn is_busy(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.busy)
    }

    /// Returns the number of attempts at the entry `id` at `hop`; None if that is not known.
    pub fn tries(&self, id: &str, hop: &NextHop) -> Option<u32> {
        let times = self.entries.get(id)?.hops.iter().find(|times| times.hop == *hop)?;
        Some(times.tries)
    }

    /// Returns the next hops of the entry `id`.
    pub fn hops_of(&self, id: &str) -> Vec<NextHop> {
        let hops = self.entries.get(id).map(|entry| entry.hops.as_slice()).unwrap_or_default();
        hops.iter().map(|times| times.hop.clone()).collect()
    }

    /// Returns the first time at which the entry `id` is due at a next hop other than `hop`.
    pub fn due_elsewhere(&self, id: &str, hop: &NextHop) -> Option<i64> {
        let hops = &self.entries.get(id)?.hops;
        hops.iter().filter(|times| times.hop != *hop).map(|times| times.due).min()
    }

    /// Returns the attempt to be made now, if any, and marks it as being made: one at the next hop
    /// `kept`, to which the thread has a connection, or else the attempt that is due first. There
    /// are at most `connections` to each next hop.
    pub fn take(&mut self, connections: usize, kept: Option<&NextHop>) -> Option<DueEntry> {
        let due = self.find_due(connections, kept)?;
        self.begin(&due, kept);
        Some(due)
    }

    /// Returns the attempt that [`take`](Schedule::take) would return.
    pub fn find_due(&self, connections: usize, kept: Option<&NextHop>) -> Option<DueEntry> {
        let (at, now) = (Instant::now(), unix_time());
        if let Some(hop) = kept
            && let Some((_, id)) = self.due_at(self.hops.get(hop)?, at, now)
        {
            return Some(DueEntry { id: id.clone(), hop: hop.clone() });
        }
        let has_room = |entries: &HopSchedule| entries.used < entries.used_max(connections);
        let all = self.hops.iter().filter(|(_, entries)| has_room(entries));
        let due = all.filter_map(|(hop, entries)| Some((self.due_at(entries, at, now)?, hop)));
        let ((_, id), hop) = due.min()?;
        Some(DueEntry { id: id.clone(), hop: hop.clone() })
    }

    /// True if a thread that waits, or a new one, can make an attempt now.
    pub fn is_due(&self, connections: usize) -> bool {
        let (at, now) = (Instant::now(), unix_time());
        let has_room = |entries: &&HopSchedule| entries.busy() < entries.used_max(connections);
        self.hops.values().filter(has_room).any(|e| self.due_at(e, at, now).is_some())
    }

    /// Returns the first entry that is due at a next hop and not tried at another.
    fn due_at<'a>(
        &self,
        entries: &'a HopSchedule,
        at: Instant,
        now: i64,
    ) -> Option<&'a (i64, Arc<str>)> {
        if entries.is_paused(at) {
            return None;
        }
        let mut due = entries.by_due.iter().take_while(|(due, _)| *due <= now);
        due.find(|(_, id)| !self.is_busy(id))
    }

    /// Marks an attempt as being made by a thread that has a connection to `kept`.
    pub fn begin(&mut self, due: &DueEntry, kept: Option<&NextHop>) {
        if let Some(entry) = self.entries.get_mut(&due.id) {
            entry.busy = true;
        }
        if kept != Some(&due.hop) {
            let entries = self.hops.entry(due.hop.clone()).or_default();
            entries.used += 1;
            // This attempt begins after the flush, so no other need follow it.
            entries.flush_again &= entries.used > 1;
        }
    }

    /// Ends an attempt. The thread has a connection to `kept` now.
    pub fn end(&mut self, due: &DueEntry, kept: Option<&NextHop>) {
        if let Some(entry) = self.entries.get_mut(&due.id) {
            entry.busy = false;
        }
        if kept != Some(&due.hop) {
            self.connection_closed(&due.hop);
        }
    }

    /// Makes room for another connection to `hop`.
    pub fn connection_closed(&mut self, hop: &NextHop) {
        if let Some(entries) = self.hops.get_mut(hop) {
            entries.used = entries.used.saturating_sub(1);
            if entries.is_needless(Instant::now()) {
                self.hops.remove(hop);
            }
        }
    }

    /// Records that a thread with a connection to `hop` waits, or waits no more.
    pub fn set_idle(&mut self, hop: &NextHop, waits: bool) {
        if let Some(entries) = self.hops.get_mut(hop) {
            let idle = entries.idle;
            entries.idle = if waits { idle + 1 } else { idle.saturating_sub(1) };
        }
    }

    /// Returns the time until an attempt can be made; None if that depends on attempts under way.
    pub fn time_until_due(&self, connections: usize) -> Option<Duration> {
        let at = Instant::now();
        let mut next: Option<Duration> = None;
        for entries in self.hops.values() {
            let Some((due, _)) = entries.by_due.first() else { continue };
            let until_due = u64::try_from(due.saturating_sub(unix_time())).unwrap_or(0);
            let pause = entries
                .outage
                .as_ref()
                .map_or(Duration::ZERO, |outage| outage.retry_at.saturating_duration_since(at));
            // A next hop with attempts in progress is examined again after them.
            if entries.busy() < entries.used_max(connections) {
                let wait = Duration::from_secs(until_due).max(pause);
                next = Some(next.map_or(wait, |next| next.min(wait)));
            }
        }
        next
    }

    /// Returns all ids in the order in which they are due.
    pub fn ids(&self) -> Vec<Arc<str>> {
        let first_due = |entry: &ScheduledEntry| entry.hops.iter().map(|times| times.due).min();
        let mut all: Vec<_> =
            self.entries.iter().map(|(id, entry)| (first_due(entry), id)).collect();
        all.sort_unstable();
        all.into_iter().map(|(_, id)| id.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the ids of the entries for `hop` that must have their age reported at `now`, and of
    /// which no attempt is made, except for `current`.
    pub fn ids_to_report(&self, hop: &NextHop, current: &str, now: i64) -> Vec<Arc<str>> {
        let Some(entries) = self.hops.get(hop) else { return Vec::new() };
        let is_due = |id: &Arc<str>| {
            let is_free = |entry: &ScheduledEntry| !entry.busy || **id == *current;
            self.entries.get(id).is_some_and(|entry| entry.report_due <= now && is_free(entry))
        };
        entries.by_due.iter().map(|(_, id)| id).filter(|id| is_due(id)).cloned().collect()
    }

    /// Removes the next hops without mail, with their outages. Returns a function that says whether
    /// a next hop is left.
    pub fn retain_hops(&mut self) -> impl Fn(&NextHop) -> bool {
        let at = Instant::now();
        self.hops.retain(|_, entries| !entries.is_needless(at));
        |hop| self.hops.contains_key(hop)
    }

    /// Begins or extends the outage of `hop`, in which only one attempt is made after each pause.
    /// Returns the length of the pause. Returns None if other attempts are made at the moment: the
    /// server then accepts no more connections than these, and `hop` is not paused.
    pub fn back_off(&mut self, hop: &NextHop, reason: OutcomeReason) -> Option<Duration> {
        let entries = self.hops.entry(hop.clone()).or_default();
        if entries.is_reachable && entries.used > 1 {
            entries.used_max = Some(entries.used - 1);
            return None;
        }
        entries.is_reachable = false;
        let failures =
            entries.outage.as_ref().map_or(0, |outage| outage.failures.saturating_add(1));
        let pause = match std::mem::take(&mut entries.flush_again) {
            true => Duration::ZERO,
            false => (BACK_OFF_MIN * (1 << failures.min(8))).min(BACK_OFF_MAX),
        };
        entries.outage = Some(Outage { failures, retry_at: Instant::now() + pause, reason });
        Some(pause)
    }

    /// Records that `hop` can be reached. Returns true if this ends an outage.
    pub fn set_reachable(&mut self, hop: &NextHop) -> bool {
        let Some(entries) = self.hops.get_mut(hop) else { return false };
        entries.is_reachable = true;
        entries.flush_again = false;
        entries.outage.take().is_some()
    }

    /// Ends the pause of `hop`, so that it is tried at once, or after the attempts under way.
    pub fn end_pause(&mut self, hop: &NextHop) {
        let Some(entries) = self.hops.get_mut(hop) else { return };
        entries.flush_again = entries.busy() > 0;
        if let Some(outage) = &mut entries.outage {
            outage.retry_at = Instant::now();
        }
    }

    /// Returns the reason why `hop` is not to be tried now.
    pub fn pause_reason(&self, hop: &NextHop) -> Option<OutcomeReason> {
        let entries = self.hops.get(hop).filter(|entries| entries.is_paused(Instant::now()))?;
        entries.outage.as_ref().map(|outage| outage.reason.clone())
    }

    /// Updates the schedule to the entries that are in `directory`. Removes state files and
    /// receipts without an entry, which a crash can leave.
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
                if entry.hops.iter().any(|times| times.due > latest) {
                    self.insert(name, 0, false);
                }
            } else {
                // An error is logged by the attempt, which reads the state again.
                let due = EntryState::read(directory, name).map_or(0, |state| state.retry_at);
                let due = if due > latest { 0 } else { due };
                self.insert(name, due, false);
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
    unix_time().saturating_add(retry_delay(u32::MAX, u64::MAX))
}

/// First pause of an outage. Each further one is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_secs(60);
/// Longest pause of an outage.
const BACK_OFF_MAX: Duration = Duration::from_secs(900);

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(name: &str) -> NextHop {
        NextHop::Domain(0, name.into())
    }

    fn reason() -> OutcomeReason {
        OutcomeReason::local((4, 4, 1), "cannot connect")
    }

    #[test]
    fn an_entry_has_one_time_at_each_next_hop() {
        let mut schedule = Schedule::new(EntryKind::Relayed);
        for (id, due) in [("a", 5), ("b", 3), ("a", 1), ("c", 3), ("b", 9)] {
            schedule.insert(id, due, false);
        }
        assert_eq!(schedule.ids(), ["a".into(), "c".into(), "b".into()]);
        let (x, y) = (domain("x"), domain("y"));
        schedule.set_hops(&"b".into(), vec![x.clone(), y.clone()], 2);
        assert_eq!(schedule.hops_of("b"), [x.clone(), y.clone()]);
        schedule.set_due(&"b".into(), &x, 4, 3, 20);
        assert_eq!((schedule.tries("b", &x), schedule.tries("b", &y)), (Some(3), Some(2)));
        assert_eq!(schedule.due_elsewhere("b", &x), Some(9));
        assert_eq!(schedule.ids_to_report(&x, "", 19), []);
        assert_eq!(schedule.ids_to_report(&x, "", 20), ["b".into()]);
        schedule.remove_hop(&"b".into(), &x);
        assert_eq!((schedule.hops_of("b"), schedule.hops.contains_key(&x)), (vec![y], false));
        schedule.remove(&"a".into());
        schedule.remove(&"a".into());
        assert_eq!((schedule.len(), schedule.contains("a")), (2, false));
        schedule.insert("b", 0, true);
        assert!(schedule.is_forced("b") && !schedule.is_forced("c"));
        assert_eq!((schedule.ids(), schedule.hops.len()), (vec!["b".into(), "c".into()], 1));
    }

    #[test]
    fn an_outage_delays_its_next_hop_alone() {
        let mut schedule = Schedule::new(EntryKind::Relayed);
        let (x, y) = (domain("x"), domain("y"));
        for id in ["a", "b", "c"] {
            schedule.insert(id, 0, false);
            let hop = if id == "b" { &y } else { &x };
            schedule.set_hops(&id.into(), vec![hop.clone()], 0);
        }
        let first = schedule.take(4, None).unwrap();
        assert_eq!(schedule.take(4, Some(&y)).unwrap().id, "b".into());
        // The first attempt at x fails, and then one more.
        assert_eq!(schedule.back_off(&x, reason()), Some(BACK_OFF_MIN));
        schedule.end(&first, None);
        let paused = [&x, &y].map(|hop| schedule.pause_reason(hop).is_some());
        assert_eq!((paused, schedule.is_due(4)), ([true, false], false));
        schedule.end_pause(&x);
        let again = schedule.take(4, None).unwrap();
        assert_eq!((&again.hop, schedule.take(4, None)), (&x, None), "one attempt is enough");
        assert_eq!(schedule.back_off(&x, reason()), Some(BACK_OFF_MIN * 2));
        assert!(schedule.set_reachable(&x) && !schedule.set_reachable(&x));
        assert_eq!(schedule.take(4, None).map(|due| due.hop), Some(x));
    }

    #[test]
    fn flush_during_an_attempt_has_another_follow_at_once() {
        let mut schedule = Schedule::new(EntryKind::Relayed);
        let x = domain("x");
        for id in ["a", "b"] {
            schedule.insert(id, 0, false);
            schedule.set_hops(&id.into(), vec![x.clone()], 0);
        }
        for pause in [Duration::ZERO, BACK_OFF_MIN * 2] {
            let due = schedule.take(4, None).unwrap();
            if pause.is_zero() {
                schedule.end_pause(&x);
            }
            assert_eq!(schedule.back_off(&x, reason()), Some(pause));
            schedule.end(&due, None);
            assert_eq!(schedule.is_due(4), pause.is_zero());
        }
    }

    #[test]
    fn connections_to_a_next_hop_are_bounded() {
        let mut schedule = Schedule::new(EntryKind::Relayed);
        for n in 0..9 {
            schedule.insert(&n.to_string(), 0, false);
            schedule.set_hops(&n.to_string().as_str().into(), vec![domain("x")], 0);
        }
        let mut taken: Vec<DueEntry> = std::iter::from_fn(|| schedule.take(4, None)).collect();
        assert_eq!(taken.len(), 1, "until it can be reached");
        schedule.set_reachable(&domain("x"));
        taken.extend(std::iter::from_fn(|| schedule.take(4, None)));
        assert_eq!(taken.len(), 4);
        // The server refuses the fourth connection.
        assert_eq!(schedule.back_off(&domain("x"), reason()), None);
        taken.iter().for_each(|due| schedule.end(due, None));
        let taken: Vec<DueEntry> = std::iter::from_fn(|| schedule.take(4, None)).collect();
        assert_eq!(taken.len(), 3);
        // A connection that is kept leaves no room for others, and is used by its thread.
        let hop = domain("x");
        schedule.end(&taken[0], Some(&hop));
        schedule.remove(&taken[0].id);
        assert_eq!((schedule.take(4, None), schedule.is_due(4)), (None, false));
        schedule.set_idle(&hop, true);
        assert_eq!((schedule.take(4, None), schedule.is_due(4)), (None, true));
        schedule.set_idle(&hop, false);
        assert!(schedule.take(4, Some(&hop)).is_some());
    }

    #[test]
    fn scan_follows_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let queue = directory.path();
        let file = |name: &str| queue.join(name);
        for name in ["a-1", "b-1", "b-1.state", "gone.state", "gone.state.new", "not.an.entry"] {
            fs::write(file(name), "").unwrap();
        }
        let state = EntryState { retry_at: unix_time() + 60, ..EntryState::default() };
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
        schedule.insert("b-1", i64::MAX, false);
        fs::remove_file(file("a-1")).unwrap();
        schedule.scan(queue).unwrap();
        assert_eq!((schedule.ids(), schedule.is_due(1)), (vec!["b-1".into()], true));
    }
}
