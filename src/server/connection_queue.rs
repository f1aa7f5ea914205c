//! The queue of admitted connections between the acceptor and the session threads.
//!
//! A thread without a connection sleeps at once. (The threads of a channel spin before they sleep,
//! and there is one such wait for each connection.)

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Returns the two ends of a queue for `max` items.
pub(super) fn bounded<T>(max: usize) -> (QueueInput<T>, QueueOutput<T>) {
    let state = ConnectionQueueState { items: VecDeque::with_capacity(max), max, is_closed: false };
    let queue = Arc::new(ConnectionQueue { state: Mutex::new(state), changed: Condvar::new() });
    (QueueInput(Arc::clone(&queue)), QueueOutput(queue))
}

struct ConnectionQueue<T> {
    state: Mutex<ConnectionQueueState<T>>,
    changed: Condvar,
}

struct ConnectionQueueState<T> {
    items: VecDeque<T>,
    max: usize,
    is_closed: bool,
}

impl<T> ConnectionQueue<T> {
    fn lock(&self) -> MutexGuard<'_, ConnectionQueueState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The acceptor's end. The queue is closed when it is dropped.
pub(super) struct QueueInput<T>(Arc<ConnectionQueue<T>>);

impl<T> QueueInput<T> {
    /// Adds an item, or returns it if the queue is full.
    pub fn try_send(&self, item: T) -> Result<(), T> {
        let mut state = self.0.lock();
        if state.items.len() >= state.max {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Drop for QueueInput<T> {
    fn drop(&mut self) {
        self.0.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

/// The end of the session threads.
pub(super) struct QueueOutput<T>(Arc<ConnectionQueue<T>>);

impl<T> Clone for QueueOutput<T> {
    fn clone(&self) -> QueueOutput<T> {
        QueueOutput(Arc::clone(&self.0))
    }
}

impl<T> Iterator for QueueOutput<T> {
    type Item = T;

    /// Waits for an item. Returns None when the queue is closed and empty.
    fn next(&mut self) -> Option<T> {
        let mut state = self.0.lock();
        loop {
            let item = state.items.pop_front();
            if item.is_some() || state.is_closed {
                return item;
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn each_item_is_received_once_also_after_the_queue_is_closed() {
        let (input, output) = bounded(2);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let output = output.clone();
                thread::spawn(move || output.collect::<Vec<u32>>())
            })
            .collect();
        for n in 0..1000 {
            let mut item = n;
            while let Err(back) = input.try_send(item) {
                item = back;
                thread::yield_now();
            }
        }
        drop(input);
        let mut received: Vec<u32> =
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        received.sort();
        assert_eq!(received, (0..1000).collect::<Vec<u32>>());
    }

    #[test]
    fn a_full_queue_returns_the_item() {
        let (input, mut output) = bounded(1);
        assert_eq!(input.try_send(1), Ok(()));
        assert_eq!(input.try_send(2), Err(2));
        assert_eq!(output.next(), Some(1));
        assert_eq!(input.try_send(3), Ok(()));
        drop(input);
        assert_eq!((output.next(), output.next()), (Some(3), None));
    }
}
