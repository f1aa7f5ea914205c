//! Handles to a session for other threads: for how long has its client kept it waiting, and end it.
//!
//! The stream says when it is about to block ([`StreamShared::begin_wait`]) and when it no longer
//! does. A handle acts either before that, and the stream sees its notice instead of blocking, or
//! after it, and wakes the stream by a shutdown of the socket. A session takes one lock for each
//! time that it blocks.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::disconnect::Disconnect;
use super::socket::Socket;

/// Whether the server is overloaded, shared by all streams that watch it.
#[derive(Debug, Default)]
pub struct OverloadFlag(AtomicBool);

impl OverloadFlag {
    /// Returns true during overload.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Begins or ends overload.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

/// A handle that ends a session from another thread. It may outlive its stream, and has no effect
/// then.
#[derive(Clone, Debug)]
pub struct SessionHandle(Weak<StreamShared>);

impl SessionHandle {
    pub(super) fn new(shared: &Arc<StreamShared>) -> SessionHandle {
        SessionHandle(Arc::downgrade(shared))
    }

    /// Ends the session at its next command, or now if it waits for one.
    pub fn stop(&self) {
        if let Some(shared) = self.0.upgrade() {
            let mut state = shared.lock();
            state.notice = Some(Notice::Stop);
            if matches!(state.waiting, Some(ClientWait { phase: WaitPhase::Command, .. })) {
                shared.socket.shutdown(Shutdown::Read);
            }
        }
    }

    /// Ends the session, even in mail data, if it has waited for its client for `least` or longer.
    /// A session that does not wait is left alone, because it has a complete message. Returns true
    /// if the session was not being ended in this way before.
    pub fn stop_if_waiting(&self, least: Duration) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        let mut state = shared.lock();
        match (state.waiting, state.notice) {
            (_, Some(Notice::StopNow)) => false,
            (Some(waiting), _) if waiting.since.elapsed() >= least => {
                state.notice = Some(Notice::StopNow);
                waiting.interrupt(&shared.socket);
                true
            }
            _ => false,
        }
    }

    /// Returns the time since which the session has been blocked by its client, or None while it
    /// works.
    pub fn waiting_since(&self) -> Option<Instant> {
        let shared = self.0.upgrade()?;
        let waiting = shared.lock().waiting;
        waiting.map(|waiting| waiting.since)
    }

    /// Returns for how long the client has not done its part: sent a whole command line, kept the
    /// pace of mail data, or read its replies. Single bytes of a command line do not count. Returns
    /// None while the session works, and when it is being ended.
    pub fn idle_for(&self) -> Option<Duration> {
        let shared = self.0.upgrade()?;
        let state = *shared.lock();
        state.idle_for()
    }

    /// Ends the session if its client has been idle for `least` or longer. Returns true if so.
    pub fn evict_if_idle(&self, least: Duration) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        let mut state = shared.lock();
        let is_idle = state.idle_for().is_some_and(|idle_for| idle_for >= least);
        if is_idle {
            state.notice = Some(Notice::Evict);
            state.waiting.iter().for_each(|waiting| waiting.interrupt(&shared.socket));
        }
        is_idle
    }

    /// Closes the connection, even if the session is using it.
    pub fn disconnect(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.lock().notice = Some(Notice::StopNow);
            shared.socket.shutdown(Shutdown::Both);
        }
    }
}

/// State that a stream and its handles share.
#[derive(Debug)]
pub(super) struct StreamShared {
    pub(super) socket: Socket,
    state: Mutex<WaitState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct WaitState {
    waiting: Option<ClientWait>,
    notice: Option<Notice>,
}

impl WaitState {
    fn idle_for(&self) -> Option<Duration> {
        match (self.waiting, self.notice) {
            (Some(waiting), None) => Some(waiting.idle_since.elapsed()),
            _ => None,
        }
    }
}

/// A stream that is blocked by its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientWait {
    phase: WaitPhase,
    since: Instant,
    /// The time since which the client should have done what the stream waits for.
    idle_since: Instant,
}

impl ClientWait {
    /// Wakes the stream.
    fn interrupt(&self, socket: &Socket) {
        // A client that does not read its replies would not read the last one either.
        let is_reading = self.phase != WaitPhase::Reply;
        socket.shutdown(if is_reading { Shutdown::Read } else { Shutdown::Both });
    }
}

/// The event that a stream waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitPhase {
    Command,
    Data,
    /// The client reading its replies.
    Reply,
}

/// A request from a handle to its stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    /// Ends the session at its next command.
    Stop,
    /// Ends the session at its next wait for its client.
    StopNow,
    Evict,
}

impl From<Notice> for Disconnect {
    fn from(notice: Notice) -> Disconnect {
        match notice {
            Notice::Stop | Notice::StopNow => Disconnect::Stopping,
            Notice::Evict => Disconnect::Evicted,
        }
    }
}

impl StreamShared {
    pub(super) fn new(socket: Socket) -> StreamShared {
        StreamShared { socket, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, WaitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notice(&self) -> Option<Notice> {
        self.lock().notice
    }

    /// Records that the stream is about to block for its client, which has been idle since
    /// `idle_since`. Returns the wait that this one interrupts, for
    /// [`end_wait`](StreamShared::end_wait).
    ///
    /// # Errors
    /// A notice came before. Mail data and replies that have begun are finished all the same after
    /// a [`Notice::Stop`].
    pub(super) fn begin_wait(
        &self,
        phase: WaitPhase,
        idle_since: Instant,
    ) -> Result<Option<ClientWait>, Disconnect> {
        let mut state = self.lock();
        match state.notice {
            Some(Notice::Stop) if phase != WaitPhase::Command => {}
            Some(notice) => return Err(notice.into()),
            None => {}
        }
        let before = state.waiting;
        state.waiting = Some(ClientWait { phase, since: Instant::now(), idle_since });
        Ok(before)
    }

    /// Records that the stream no longer blocks, and restores the wait `before` it. Returns the
    /// notice that came meanwhile.
    pub(super) fn end_wait(&self, before: Option<ClientWait>) -> Option<Notice> {
        let mut state = self.lock();
        state.waiting = before;
        state.notice
    }
}
