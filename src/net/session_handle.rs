//! What other threads may know of a stream, and do to it: how long its client has owed what the
//! session waits for, and the means to end it.
//!
//! The stream says when it is about to block ([`StreamShared::wait`]) and when it no longer does; what a
//! handle does comes either before, and is seen by the stream, or after, and finds the socket to
//! wake. Nothing here costs a session more than one lock for each time it blocks.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::socket::Socket;
use super::stream::Disconnect;

/// Whether the server is under stress: one switch for all streams that heed it.
#[derive(Debug, Default)]
pub struct OverloadFlag(AtomicBool);

impl OverloadFlag {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Turns it on or off.
    pub fn set(&self, on: bool) {
        self.0.store(on, Ordering::Relaxed);
    }
}

/// Ends a session from another thread. Outlives its stream, and then does nothing.
#[derive(Clone, Debug)]
pub struct SessionHandle(Weak<StreamShared>);

impl SessionHandle {
    pub(super) fn new(shared: &Arc<StreamShared>) -> SessionHandle {
        SessionHandle(Arc::downgrade(shared))
    }

    /// The session is to end at its next command; if it waits for one, now.
    pub fn stop(&self) {
        if let Some(shared) = self.0.upgrade() {
            let mut state = shared.lock();
            state.notice = Some(Notice::Stop);
            if matches!(state.waiting, Some(ClientWait { phase: WaitPhase::Command, .. })) {
                shared.socket.shutdown(Shutdown::Read);
            }
        }
    }

    /// Since when the session has been blocked by its client; None while it is at work.
    pub fn waiting_since(&self) -> Option<Instant> {
        let shared = self.0.upgrade()?;
        let waiting = shared.lock().waiting;
        waiting.map(|waiting| waiting.since)
    }

    /// How long the client has owed what the session is blocked for: a whole command line, mail
    /// data that keeps its pace, or to read its replies. Octets that dribble in change nothing.
    /// None while the session is at work, and once it is being ended.
    pub fn idle_for(&self) -> Option<Duration> {
        let shared = self.0.upgrade()?;
        let state = *shared.lock();
        state.idle_for()
    }

    /// Ends the session if its client lags by `least` or more; whether it did.
    pub fn evict_if_idle(&self, least: Duration) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        let mut state = shared.lock();
        let lags = state.idle_for().is_some_and(|idle_for| idle_for >= least);
        if lags {
            state.notice = Some(Notice::Evict);
            // Who does not read need not be written to.
            let deaf = matches!(state.waiting, Some(ClientWait { phase: WaitPhase::Reply, .. }));
            shared.socket.shutdown(if deaf { Shutdown::Both } else { Shutdown::Read });
        }
        lags
    }

    /// Cuts the connection, whatever the session is doing.
    pub fn cut(&self) {
        if let Some(shared) = self.0.upgrade() {
            shared.lock().notice = Some(Notice::Stop);
            shared.socket.shutdown(Shutdown::Both);
        }
    }
}

/// What a stream and its handles have in common.
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
        let waiting = self.waiting.filter(|_| self.notice.is_none())?;
        Some(waiting.idle_since.elapsed())
    }
}

/// The stream is blocked by its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientWait {
    phase: WaitPhase,
    since: Instant,
    /// Since when the client has owed what is waited for.
    idle_since: Instant,
}

/// What the client owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitPhase {
    Command,
    Data,
    /// That it reads what it was answered.
    Reply,
}

/// What a handle has told the stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    Stop,
    Evict,
}

impl From<Notice> for Disconnect {
    fn from(notice: Notice) -> Disconnect {
        match notice {
            Notice::Stop => Disconnect::Stopping,
            Notice::Evict => Disconnect::Evict,
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

    /// The stream is about to block for what the client has owed since `idle_since`; what it waited for
    /// before, which [`resume`](StreamShared::resume) takes. A notice that came before is an error, but
    /// mail data and replies that have begun are finished when the server stops.
    pub(super) fn wait(
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

    /// The stream has stopped blocking, for this at least; what it was told meanwhile.
    pub(super) fn resume(&self, before: Option<ClientWait>) -> Option<Notice> {
        let mut state = self.lock();
        state.waiting = before;
        state.notice
    }
}
