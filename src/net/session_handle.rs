//! What other threads may know of a stream, and do to it: how long its client has owed what the
//! session waits for, and the means to end it.
//!
//! The stream says when it is about to block ([`Shared::wait`]) and when it no longer does; what a
//! handle does comes either before, and is seen by the stream, or after, and finds the socket to
//! wake. Nothing here costs a session more than one lock for each time it blocks.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::socket::Socket;
use super::stream::Cut;

/// Whether the server is under stress: one switch for all streams that heed it.
#[derive(Debug, Default)]
pub struct Pressure(AtomicBool);

impl Pressure {
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
pub struct Handle(Weak<Shared>);

impl Handle {
    pub(super) fn new(shared: &Arc<Shared>) -> Handle {
        Handle(Arc::downgrade(shared))
    }

    /// The session is to end at its next command; if it waits for one, now.
    pub fn stop(&self) {
        if let Some(shared) = self.0.upgrade() {
            let mut state = shared.lock();
            state.notice = Some(Notice::Stop);
            if matches!(state.waiting, Some(Waiting { phase: Phase::Command, .. })) {
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
    pub fn lag(&self) -> Option<Duration> {
        let shared = self.0.upgrade()?;
        let state = *shared.lock();
        state.lag()
    }

    /// Ends the session if its client lags by `least` or more; whether it did.
    pub fn make_room(&self, least: Duration) -> bool {
        let Some(shared) = self.0.upgrade() else { return false };
        let mut state = shared.lock();
        let lags = state.lag().is_some_and(|lag| lag >= least);
        if lags {
            state.notice = Some(Notice::MakeRoom);
            // Who does not read need not be written to.
            let deaf = matches!(state.waiting, Some(Waiting { phase: Phase::Reply, .. }));
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
pub(super) struct Shared {
    pub(super) socket: Socket,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    waiting: Option<Waiting>,
    notice: Option<Notice>,
}

impl State {
    fn lag(&self) -> Option<Duration> {
        let waiting = self.waiting.filter(|_| self.notice.is_none())?;
        Some(waiting.owed.elapsed())
    }
}

/// The stream is blocked by its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    phase: Phase,
    since: Instant,
    /// Since when the client has owed what is waited for.
    owed: Instant,
}

/// What the client owes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Command,
    Data,
    /// That it reads what it was answered.
    Reply,
}

/// What a handle has told the stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice {
    Stop,
    MakeRoom,
}

impl From<Notice> for Cut {
    fn from(notice: Notice) -> Cut {
        match notice {
            Notice::Stop => Cut::Stopping,
            Notice::MakeRoom => Cut::MakeRoom,
        }
    }
}

impl Shared {
    pub(super) fn new(socket: Socket) -> Shared {
        Shared { socket, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notice(&self) -> Option<Notice> {
        self.lock().notice
    }

    /// The stream is about to block for what the client has owed since `owed`; what it waited for
    /// before, which [`resume`](Shared::resume) takes. A notice that came before is an error, but
    /// mail data and replies that have begun are finished when the server stops.
    pub(super) fn wait(&self, phase: Phase, owed: Instant) -> Result<Option<Waiting>, Cut> {
        let mut state = self.lock();
        match state.notice {
            Some(Notice::Stop) if phase != Phase::Command => {}
            Some(notice) => return Err(notice.into()),
            None => {}
        }
        let before = state.waiting;
        state.waiting = Some(Waiting { phase, since: Instant::now(), owed });
        Ok(before)
    }

    /// The stream has stopped blocking, for this at least; what it was told meanwhile.
    pub(super) fn resume(&self, before: Option<Waiting>) -> Option<Notice> {
        let mut state = self.lock();
        state.waiting = before;
        state.notice
    }
}
