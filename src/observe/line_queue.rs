//! The queue between the threads that log and the thread that writes the lines.
//!
//! Threads that log never wait for the writing thread. A line after a pause wakes it at once.
//! While lines follow each other, it sleeps for [`GATHER_TIME`] and takes all of them together,
//! because to wake it for each line would cost more than to write the line.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::Level;

/// Lines that wait to be written.
#[derive(Debug)]
pub struct LineQueue {
    max: usize,
    state: Mutex<LineQueueState>,
    added: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct LineQueueState {
    lines: Vec<(Level, String)>,
    /// Number of lines that were taken and are perhaps not written.
    in_hand: usize,
    /// Number of lines that are written.
    written: u64,
    /// Number of lines that wakes the writing thread, or None while it is awake.
    wakes_at: Option<usize>,
    /// The time at which the last lines were taken.
    taken_at: Option<Instant>,
    /// Number of calls that wait for a flush.
    flushes: usize,
}

impl LineQueueState {
    /// True if the writing thread is to take the lines now. It is awake then.
    fn wakes(&mut self) -> bool {
        let is_due = |least| self.lines.len() >= least || self.flushes > 0;
        let wakes = self.wakes_at.is_some_and(is_due) && !self.lines.is_empty();
        if wakes {
            self.wakes_at = None;
        }
        wakes
    }
}

impl LineQueue {
    /// Returns an empty queue for `max` lines.
    pub fn new(max: usize) -> LineQueue {
        let (state, added, written) = Default::default();
        LineQueue { max, state, added, written }
    }

    /// Adds a line. Returns false if the queue is full.
    pub fn add(&self, level: Level, line: String) -> bool {
        let mut state = self.lock();
        if state.lines.len() >= self.max {
            return false;
        }
        state.lines.push((level, line));
        let wakes = state.wakes();
        drop(state);
        if wakes {
            self.added.notify_one();
        }
        true
    }

    /// Waits for lines, and moves them to `taken`, which is cleared before. The lines of the last
    /// call are written then.
    pub fn take(&self, taken: &mut Vec<(Level, String)>) {
        taken.clear();
        let mut state = self.lock();
        if state.in_hand > 0 {
            state.written += state.in_hand as u64;
            state.in_hand = 0;
            self.written.notify_all();
        }
        while state.lines.is_empty() {
            state.wakes_at = Some(1);
            state = self.added.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let until = state.taken_at.map(|at| at + GATHER_TIME);
        while let Some(left) = until.and_then(|at| at.checked_duration_since(Instant::now()))
            && state.lines.len() < self.max / 4
            && state.flushes == 0
        {
            state.wakes_at = Some(self.max / 4);
            let waited = self.added.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wakes_at = None;
        state.taken_at = Some(Instant::now());
        std::mem::swap(&mut state.lines, taken);
        state.in_hand = taken.len();
    }

    /// Waits until the lines that are in the queue now are written, but no longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let mut state = self.lock();
        let last = state.written + (state.in_hand + state.lines.len()) as u64;
        state.flushes += 1;
        if state.wakes() {
            self.added.notify_one();
        }
        let waits = |state: &mut LineQueueState| state.written < last;
        let waited = self.written.wait_timeout_while(state, limit, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.flushes -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, LineQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time between two batches of lines.
const GATHER_TIME: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn a_flush_ends_after_the_lines_before_it_are_written() {
        let queue = Arc::new(LineQueue::new(10_000));
        let count = Arc::new(AtomicUsize::new(0));
        let writer = (Arc::clone(&queue), Arc::clone(&count));
        thread::spawn(move || {
            let mut lines = Vec::new();
            loop {
                writer.0.take(&mut lines);
                thread::yield_now();
                writer.1.fetch_add(lines.len(), Ordering::SeqCst);
            }
        });
        for n in 1..=1000 {
            assert!(queue.add(Level::Info, "line".into()));
            if n % 10 == 0 {
                queue.flush(Duration::from_secs(600));
                assert_eq!(count.load(Ordering::SeqCst), n);
            }
        }
    }

    #[test]
    fn the_writing_thread_is_woken_by_the_lines_it_waits_for_or_a_flush() {
        let mut state = LineQueueState { wakes_at: Some(2), ..LineQueueState::default() };
        let line = || (Level::Info, "line".to_owned());
        state.lines.push(line());
        assert!(!state.wakes());
        state.lines.push(line());
        assert!(state.wakes() && !state.wakes(), "once");
        let mut state =
            LineQueueState { wakes_at: Some(2), flushes: 1, ..LineQueueState::default() };
        assert!(!state.wakes(), "there is nothing to write");
        state.lines.push(line());
        assert!(state.wakes());
    }

    #[test]
    fn a_flush_without_a_writing_thread_has_a_limit() {
        let queue = LineQueue::new(1);
        queue.flush(Duration::from_secs(600)); // nothing waits
        assert!(queue.add(Level::Info, "line".into()));
        assert!(!queue.add(Level::Info, "one too many".into()));
        queue.flush(Duration::from_millis(1));
    }
}
