//! Who is in: the sessions there are, who has too many, and who has to leave for others.
//!
//! A client is an IPv4 address or an IPv6 /64; programs of this host, from 127.0.0.1, ::1 and Unix
//! sockets, are nobody's client. (The other loopback addresses are: a program that takes one is
//! somebody in particular, and no system's cron does.)
//!
//! ```text
//! places    |<------------- clients ------------->|<- kept for this host, an eighth ->|
//! ```
//! - **Share.** A client has so many sessions at once, and never more than half of the pool.
//! - **Full.** A newcomer gets the place of the session whose client lags most: that has owed a
//!   command, its mail data or the reading of its replies for a sixtieth of the time-out (5 s of
//!   300), or a three-hundredth (1 s) if that client has two sessions more than the newcomer's.
//! - **Stress**, as Postfix has it (STRESS_README): from nine tenths of the places on, and until it
//!   was calmer for a fifth of the time-out (a minute), a client may lag by a thirtieth (10 s) and
//!   no more, mail data must come faster, and the second error ends a session. That lets nearly all
//!   honest clients in; the others come again, as they do after any 421. This host's own programs
//!   are spared.
//!
//! What lag is, [`stream::SessionHandle::idle_for`] says. Nothing here is done for each command.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::stream::{self, OverloadFlag, Peer};
use crate::observe::counters::Counters;
use crate::observe::events;

/// The sessions there are.
pub(super) struct Admission {
    threads: usize,
    /// Places that clients may take.
    clients_max: usize,
    per_client: usize,
    timeout: Duration,
    counters: Arc<Counters>,
    overload: Arc<OverloadFlag>,
    count: Mutex<SessionCounts>,
    /// For each thread, the session it serves.
    places: Vec<Mutex<Option<SessionSlot>>>,
}

/// Sessions admitted that have not ended.
#[derive(Default)]
struct SessionCounts {
    all: usize,
    of_clients: usize,
    /// How many each client has; none has 0.
    each: HashMap<ClientKey, usize>,
}

struct SessionSlot {
    stream: stream::SessionHandle,
    client: Option<ClientKey>,
}

/// Whom the sessions of one address count for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum ClientKey {
    V4([u8; 4]),
    /// The /64: what one customer has.
    V6([u8; 8]),
}

/// Counts a session while it lives.
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
            count: Mutex::default(),
            places: (0..threads).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Lets `peer` in, perhaps for somebody who has to leave, or says why not.
    pub fn admit(self: &Arc<Admission>, peer: Peer) -> Result<SessionPermit, &'static str> {
        let client = ClientKey::of(peer);
        let mut count = lock(&self.count);
        if client.is_some_and(|client| count.of(client) >= self.per_client) {
            return Err("client's share");
        }
        let clients_full = client.is_some() && count.of_clients >= self.clients_max;
        if (clients_full || count.all >= self.threads)
            && !self.evict_if_idle(&count, client, clients_full)
        {
            return Err("full");
        }
        count.add(client);
        Ok(SessionPermit { admission: Arc::clone(self), client })
    }

    /// Ends the session whose client lags most, if one lags enough; it leaves at once, as no thread
    /// of a lagging client is at work.
    fn evict_if_idle(
        &self,
        count: &SessionCounts,
        newcomer: Option<ClientKey>,
        clients_only: bool,
    ) -> bool {
        let has = newcomer.map_or(0, |client| count.of(client));
        let lagging = self.places.iter().filter_map(|place| {
            let place = lock(place);
            let SessionSlot { stream, client } = place.as_ref()?;
            if clients_only && client.is_none() {
                return None;
            }
            let crowds = client.is_some_and(|client| count.of(client) > has + 1);
            let least = self.timeout / if crowds { 300 } else { 60 };
            let idle_for = stream.idle_for().filter(|idle_for| *idle_for >= least)?;
            Some(((crowds, idle_for), stream.clone(), least))
        });
        let slowest = lagging.max_by_key(|(order, ..)| *order);
        let left = slowest.is_some_and(|(_, stream, least)| stream.evict_if_idle(least));
        if left {
            self.counters.sessions_evicted.one();
        }
        left
    }

    /// Under stress: ends the sessions of all clients that lag by more than stress allows.
    fn sweep(&self) {
        for place in &self.places {
            if let Some(SessionSlot { stream, client: Some(_) }) = &*lock(place)
                && stream.evict_if_idle(self.timeout_under_stress())
            {
                self.counters.sessions_evicted.one();
            }
        }
    }

    fn timeout_under_stress(&self) -> Duration {
        self.timeout / 30
    }

    /// Whether nine tenths of the places are taken.
    fn is_crowded(&self) -> bool {
        let count = lock(&self.count);
        let nearly = |taken: usize, of: usize| taken * 10 >= of * 9;
        nearly(count.all, self.threads) || nearly(count.of_clients, self.clients_max)
    }

    /// The session of thread `number` begins; a client's heeds stress.
    pub fn enter(&self, number: usize, stream: &mut stream::Stream, ticket: &SessionPermit) {
        let client = ticket.client;
        if client.is_some() {
            stream.watch_overload(Arc::clone(&self.overload));
        }
        if let Some(place) = self.places.get(number) {
            *lock(place) = Some(SessionSlot { stream: stream.handle(), client });
        }
    }

    /// The session of thread `number` is over.
    pub fn leave(&self, number: usize) {
        if let Some(place) = self.places.get(number) {
            *lock(place) = None;
        }
    }

    /// The sessions that are served.
    pub fn streams(&self) -> impl Iterator<Item = stream::SessionHandle> {
        let handle = |place: &SessionSlot| place.stream.clone();
        self.places.iter().filter_map(move |place| lock(place).as_ref().map(handle))
    }
}

impl SessionCounts {
    fn of(&self, client: ClientKey) -> usize {
        self.each.get(&client).copied().unwrap_or(0)
    }

    fn add(&mut self, client: Option<ClientKey>) {
        self.all += 1;
        if let Some(client) = client {
            self.of_clients += 1;
            *self.each.entry(client).or_default() += 1;
        }
    }

    fn remove(&mut self, client: Option<ClientKey>) {
        self.all -= 1;
        if let Some(client) = client {
            self.of_clients -= 1;
            if let Some(sessions) = self.each.get_mut(&client) {
                *sessions -= 1;
                if *sessions == 0 {
                    self.each.remove(&client);
                }
            }
        }
    }
}

impl SessionPermit {
    /// Whether somebody else than this host has it.
    pub fn is_of_a_client(&self) -> bool {
        self.client.is_some()
    }
}

impl Drop for SessionPermit {
    fn drop(&mut self) {
        lock(&self.admission.count).remove(self.client);
    }
}

impl ClientKey {
    /// None for programs of this host.
    fn of(peer: Peer) -> Option<ClientKey> {
        match peer.address()? {
            IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => None,
            IpAddr::V4(ip) => Some(ClientKey::V4(ip.octets())),
            IpAddr::V6(ip) => ip.octets().first_chunk().map(|net| ClientKey::V6(*net)),
        }
    }
}

/// Stress as it comes and goes: looked after by the acceptor, which wakes for it once a
/// [`tick`](OverloadMonitor::tick) while there is any.
#[derive(Default)]
pub(super) struct OverloadMonitor {
    /// While there is stress: since when, and how many had been given up before.
    begun: Option<(Instant, u64)>,
    /// While there is stress: since when it has been calmer.
    calm: Option<Instant>,
    swept: Option<Instant>,
}

impl OverloadMonitor {
    /// How long the acceptor may sleep; None: until somebody comes.
    pub fn tick(&self, admission: &Admission) -> Option<Duration> {
        self.begun.map(|_| (admission.timeout / 300).max(Duration::from_millis(1)))
    }

    /// Begins or ends stress, with a log line each, and gives up who may not lag so long under it.
    pub fn look(&mut self, admission: &Admission) {
        let crowded = admission.is_crowded();
        let given_up = admission.counters.sessions_evicted.value();
        match self.begun {
            None if crowded => self.begin(admission, given_up),
            None => {}
            Some(_) if crowded => self.calm = None,
            Some((since, before)) => {
                let calm = self.calm.get_or_insert_with(Instant::now).elapsed();
                if calm >= admission.timeout / 5 {
                    *self = OverloadMonitor::default();
                    admission.overload.set(false);
                    events::overload_ended(since.elapsed().as_secs(), given_up - before);
                }
            }
        }
        let tick = self.tick(admission);
        if tick.is_some_and(|tick| self.swept.is_none_or(|at| at.elapsed() >= tick)) {
            self.swept = Some(Instant::now());
            admission.sweep();
        }
    }

    fn begin(&mut self, admission: &Admission, given_up: u64) {
        self.begun = Some((Instant::now(), given_up));
        admission.overload.set(true);
        admission.counters.overloads.one();
        let (taken, of) = (lock(&admission.count).all, admission.threads);
        let timeout = admission.timeout_under_stress().as_secs_f32();
        events::overload_started(taken, of, timeout);
    }
}

/// Nothing here panics while it holds a lock; if it did, a count would be off by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
