//! Deadlines of sockets that have only timeouts for a single call.

use std::io;
use std::time::{Duration, Instant};

/// Returns the time until `deadline`, which is the timeout for the next call.
///
/// # Errors
/// `TimedOut` if there is none, because zero would be an invalid timeout of a socket.
pub fn time_left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// True if a call that failed must be repeated while there is time left, because a timeout of the
/// socket may come a little before the deadline.
pub fn is_early(e: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(e.kind(), Interrupted | TimedOut | WouldBlock)
}
