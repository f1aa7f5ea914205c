//! Accepts connections, keeps the pool of session threads, and stops.

use std::time::Duration;

use crate::session;

/// What the server is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What each session is told.
    pub session: session::Settings,
    /// Threads in the pool, and so sessions at once; at least 1.
    pub threads: usize,
    /// Sessions at once from one address or one IPv6 /64, and never more than half of the pool.
    /// Clients on this host are exempt.
    pub per_client: usize,
    /// How long a stop waits for messages in hand before it cuts the connections: 10 s.
    pub grace: Duration,
}
