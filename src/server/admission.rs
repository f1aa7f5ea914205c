//! Admission control: limits on sessions for each client, and eviction of idle sessions when the
//! server is full.
//!
//! A client is an IPv4 address or an IPv6 /64 network. Connections from programs of this host, that
//! is from 127.0.0.1, ::1 and Unix sockets, belong to no client. (Other loopback addresses do,
//! because the programs of a system do not use them unless they are configured to.)
//!
//! ```text
//! slots     |<------------- clients ------------->|<- kept for this host, an eighth ->|
//! ```
//! - **Share.** A client has at most so many sessions at a time, and never more than half of the
//!   pool.
//! - **Full.** A new connection gets the slot of the client that has been idle longest. It must
//!   have been idle for a sixtieth of the timeout (5 s of 300), or for a three-hundredth (1 s) if
//!   it has at least two sessions more than the new one's client.
//! - **Overload.** As Postfix does under stress (STRESS_README), the limits are lower from nine
//!   tenths of the slots on, until fewer have been taken for a fifth of the timeout (a minute). A
//!   client may be idle for at most a thirtieth of the timeout (10 s), mail data must come faster,
//!   and the second error ends a session. Nearly all legitimate clients are still served. The
//!   others retry, as after any 421. Programs of this host are exempt.
//!
//! [`stream::SessionHandle::idle_for`] defines idle. Nothing here is done for each command.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::message::peer::Peer;
use crate::net::stream::{self, OverloadFlag};
use crate::observe::counters::Counters;
use crate::observe::events;

/// The registry of sessions.
pub(super) struct Admission {
    threads: usize,
    /// Slots that clients may take.
    clients_max: usize,
    per_client: usize,
    timeout: Duration,
    counters: Arc<Counters>,
    overload: Arc<OverloadFlag>,
    counts: Mutex<SessionCounts>,
    /// For each thread, the session that it serves.
    slots: Vec<Mutex<Option<SessionSlot>>>,
}

/// Numbers of sessions that were admitted and have not ended.
#[derive(Default)]
struct SessionCounts {
    total: usize,
    of_clients: usize,
    /// Sessions of each client that has any.
    by_client: HashMap<ClientKey, usize>,
}

struct SessionSlot {
    session: stream::SessionHandle,
    client: Option<ClientKey>,
}

/// The unit that limits apply to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum ClientKey {
    V4([u8; 4]),
    /// The /64 network, because that is what one customer has.
    V6([u8; 8]),
}

/// The right to one session, which is counted until this is dropped.
pub(super) struct SessionPermit {
    admission: Arc<Admission>,
    client: Option<ClientKey>,
}

impl Admission {
    pub fn new(
        threads: usize,
        per_client: usize,
        timeout: Duration,
        counters: Arc<Counters>,
    ) -> Admission {
        let kept = (threads / 8).max(1);
        Admission {
            threads,
            clients_max: (threads - kept.min(threads)).max(1),
            per_client: per_client.min(threads / 2).max(1),
            timeout,
            counters,
            overload: Arc::default(),
            counts: Mutex::default(),
            slots: (0..threads).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Admits a session from `peer`, after evicting an idle one if that is necessary.
    ///
    /// # Errors
    /// The reason for the refusal, for the log.
    pub fn admit(self: &Arc<Admission>, peer: Peer) -> Result<SessionPermit, &'static str> {
        let client = ClientKey::of(peer);
        let mut counts = lock(&self.counts);
        if client.is_some_and(|client| counts.of(client) >= self.per_client) {
            return Err("client's share");
        }
        let clients_full = client.is_some() && counts.of_clients >= self.clients_max;
        if (clients_full || counts.total >= self.threads)
            && !self.evict_longest_idle(&counts, client, clients_full)
        {
            return Err("full");
        }
        counts.add(client);
        Ok(SessionPermit { admission: Arc::clone(self), client })
    }

    /// Ends the session that has been idle longest, if one has been so for long enough. Returns
    /// true if so. The slot is free at once, because the thread of an idle session is not at work.
    fn evict_longest_idle(
        &self,
        counts: &SessionCounts,
        new_client: Option<ClientKey>,
        clients_only: bool,
    ) -> bool {
        let sessions = new_client.map_or(0, |client| counts.of(client));
        let idle = self.slots.iter().filter_map(|slot| {
            let slot = lock(slot);
            let SessionSlot { session, client } = slot.as_ref()?;
            if clients_only && client.is_none() {
                return None;
            }
            // With a difference of one, two clients would evict each other forever.
            let has_more = client.is_some_and(|client| counts.of(client) > sessions + 1);
            let least = self.timeout / if has_more { 300 } else { 60 };
            let idle_for = session.idle_for()?;
            (idle_for >= least).then(|| ((has_more, idle_for), session.clone(), least))
        });
        let longest = idle.max_by_key(|(order, ..)| *order);
        // It may have become active since.
        let is_evicted = longest.is_some_and(|(_, session, least)| session.evict_if_idle(least));
        if is_evicted {
            self.counters.sessions_evicted.one();
        }
        is_evicted
    }

    /// Ends the sessions of all clients that have been idle for longer than overload allows.
    fn evict_slow(&self) {
        for slot in &self.slots {
            if let Some(SessionSlot { session, client: Some(_) }) = &*lock(slot)
                && session.evict_if_idle(self.overload_timeout())
            {
                self.counters.sessions_evicted.one();
            }
        }
    }

    fn overload_timeout(&self) -> Duration {
        self.timeout / 30
    }

    fn is_nearly_full(&self) -> bool {
        let counts = lock(&self.counts);
        let nearly = |taken: usize, of: usize| taken * 10 >= of * 9;
        nearly(counts.total, self.threads) || nearly(counts.of_clients, self.clients_max)
    }

    /// Registers the session of thread `number`.
    pub fn begin_session(
        &self,
        number: usize,
        stream: &mut stream::Stream,
        permit: &SessionPermit,
    ) {
        let client = permit.client;
        if client.is_some() {
            stream.watch_overload(Arc::clone(&self.overload));
        }
        if let Some(slot) = self.slots.get(number) {
            *lock(slot) = Some(SessionSlot { session: stream.handle(), client });
        }
    }

    /// Removes the session of thread `number`.
    pub fn end_session(&self, number: usize) {
        if let Some(slot) = self.slots.get(number) {
            *lock(slot) = None;
        }
    }

    /// Returns handles to the sessions that threads serve now.
    pub fn sessions(&self) -> impl Iterator<Item = stream::SessionHandle> {
        self.slots.iter().filter_map(|slot| lock(slot).as_ref().map(|slot| slot.session.clone()))
    }
}

impl SessionCounts {
    fn of(&self, client: ClientKey) -> usize {
        self.by_client.get(&client).copied().unwrap_or(0)
    }

    fn add(&mut self, client: Option<ClientKey>) {
        self.total += 1;
        if let Some(client) = client {
            self.of_clients += 1;
            *self.by_client.entry(client).or_default() += 1;
        }
    }

    fn remove(&mut self, client: Option<ClientKey>) {
        self.total -= 1;
        if let Some(client) = client {
            self.of_clients -= 1;
            if let Some(sessions) = self.by_client.get_mut(&client) {
                *sessions -= 1;
                if *sessions == 0 {
                    self.by_client.remove(&client);
                }
            }
        }
    }
}

impl SessionPermit {
    /// Returns true for a client's session, false for one of a program of this host.
    pub fn is_of_a_client(&self) -> bool {
        self.client.is_some()
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        lock(&self.admission.counts).remove(self.client);
    }
}

impl ClientKey {
    /// Returns None for programs of this host.
    fn of(peer: Peer) -> Option<ClientKey> {
        match peer.address()? {
            IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => None,
            IpAddr::V4(ip) => Some(ClientKey::V4(ip.octets())),
            IpAddr::V6(ip) => ip.octets().first_chunk().map(|net| ClientKey::V6(*net)),
        }
    }
}

/// The detector of overload. The acceptor updates it after each connection, and during overload
/// once in each [`poll_interval`](OverloadMonitor::poll_interval).
#[derive(Default)]
pub(super) struct OverloadMonitor {
    /// During overload: its begin, and the evictions counted before.
    overload: Option<(Instant, u64)>,
    /// During overload: the time since which the server has no longer been nearly full.
    calm_since: Option<Instant>,
    last_eviction: Option<Instant>,
}

impl OverloadMonitor {
    /// Returns how long the acceptor may wait for a connection, or None for any time.
    pub fn poll_interval(&self, admission: &Admission) -> Option<Duration> {
        self.overload.map(|_| (admission.timeout / 300).max(Duration::from_millis(1)))
    }

    /// Begins or ends overload, and evicts clients that have been idle too long for it.
    pub fn update(&mut self, admission: &Admission) {
        let is_nearly_full = admission.is_nearly_full();
        let evictions = admission.counters.sessions_evicted.value();
        match self.overload {
            None if is_nearly_full => self.begin(admission, evictions),
            None => {}
            Some(_) if is_nearly_full => self.calm_since = None,
            Some((since, evictions_before)) => {
                let calm_for = self.calm_since.get_or_insert_with(Instant::now).elapsed();
                if calm_for >= admission.timeout / 5 {
                    *self = OverloadMonitor::default();
                    admission.overload.set(false);
                    events::overload_ended(since.elapsed().as_secs(), evictions - evictions_before);
                }
            }
        }
        let interval = self.poll_interval(admission);
        let is_due = |interval| self.last_eviction.is_none_or(|at| at.elapsed() >= interval);
        if interval.is_some_and(is_due) {
            self.last_eviction = Some(Instant::now());
            admission.evict_slow();
        }
    }

    fn begin(&mut self, admission: &Admission, evictions: u64) {
        self.overload = Some((Instant::now(), evictions));
        admission.overload.set(true);
        admission.counters.overloads.one();
        let (taken, of) = (lock(&admission.counts).total, admission.threads);
        let timeout = admission.overload_timeout().as_secs_f32();
        events::overload_started(taken, of, timeout);
    }
}

/// Nothing here panics while it holds a lock. If it did, a count would be off by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
