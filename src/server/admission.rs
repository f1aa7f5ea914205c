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
//! What lag is, [`stream::Handle::lag`] says. Nothing here is done for each command.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::stream::{self, Peer, Pressure};
use crate::observe::counters::Counters;

/// The sessions there are.
pub(super) struct Crowd {
    threads: usize,
    /// Places that clients may take.
    clients_max: usize,
    per_client: usize,
    timeout: Duration,
    counters: Arc<Counters>,
    pressure: Arc<Pressure>,
    count: Mutex<Count>,
    /// For each thread, the session it serves.
    places: Vec<Mutex<Option<Place>>>,
}

/// Sessions admitted that have not ended.
#[derive(Default)]
struct Count {
    all: usize,
    of_clients: usize,
    /// How many each client has; none has 0.
    each: HashMap<Client, usize>,
}

struct Place {
    stream: stream::Handle,
    client: Option<Client>,
}

/// Whom the sessions of one address count for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    V4([u8; 4]),
    /// The /64: what one customer has.
    V6([u8; 8]),
}

/// Counts a session while it lives.
pub(super) struct Ticket {
    crowd: Arc<Crowd>,
    client: Option<Client>,
}

impl Crowd {
    pub fn new(
        threads: usize,
        per_client: usize,
        timeout: Duration,
        counters: Arc<Counters>,
    ) -> Crowd {
        let kept = (threads / 8).max(1);
        Crowd {
            threads,
            clients_max: (threads - kept.min(threads)).max(1),
            per_client: per_client.min(threads / 2).max(1),
            timeout,
            counters,
            pressure: Arc::default(),
            count: Mutex::default(),
            places: (0..threads).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Lets `peer` in, perhaps for somebody who has to leave, or says why not.
    pub fn admit(self: &Arc<Crowd>, peer: Peer) -> Result<Ticket, &'static str> {
        let client = Client::of(peer);
        let mut count = lock(&self.count);
        if client.is_some_and(|client| count.of(client) >= self.per_client) {
            return Err("client's share");
        }
        let clients_full = client.is_some() && count.of_clients >= self.clients_max;
        if (clients_full || count.all >= self.threads)
            && !self.make_room(&count, client, clients_full)
        {
            return Err("full");
        }
        count.add(client);
        Ok(Ticket { crowd: Arc::clone(self), client })
    }

    /// Ends the session whose client lags most, if one lags enough; it leaves at once, as no thread
    /// of a lagging client is at work.
    fn make_room(&self, count: &Count, newcomer: Option<Client>, clients_only: bool) -> bool {
        let has = newcomer.map_or(0, |client| count.of(client));
        let lagging = self.places.iter().filter_map(|place| {
            let place = lock(place);
            let Place { stream, client } = place.as_ref()?;
            if clients_only && client.is_none() {
                return None;
            }
            let crowds = client.is_some_and(|client| count.of(client) > has + 1);
            let least = self.timeout / if crowds { 300 } else { 60 };
            let lag = stream.lag().filter(|lag| *lag >= least)?;
            Some(((crowds, lag), stream.clone(), least))
        });
        let slowest = lagging.max_by_key(|(order, ..)| *order);
        let left = slowest.is_some_and(|(_, stream, least)| stream.make_room(least));
        if left {
            self.counters.sessions_given_up.one();
        }
        left
    }

    /// Under stress: ends the sessions of all clients that lag by more than stress allows.
    fn sweep(&self) {
        for place in &self.places {
            if let Some(Place { stream, client: Some(_) }) = &*lock(place)
                && stream.make_room(self.timeout_under_stress())
            {
                self.counters.sessions_given_up.one();
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
    pub fn enter(&self, number: usize, stream: &mut stream::Stream, ticket: &Ticket) {
        let client = ticket.client;
        if client.is_some() {
            stream.heed(Arc::clone(&self.pressure));
        }
        if let Some(place) = self.places.get(number) {
            *lock(place) = Some(Place { stream: stream.handle(), client });
        }
    }

    /// The session of thread `number` is over.
    pub fn leave(&self, number: usize) {
        if let Some(place) = self.places.get(number) {
            *lock(place) = None;
        }
    }

    /// The sessions that are served.
    pub fn streams(&self) -> impl Iterator<Item = stream::Handle> {
        let handle = |place: &Place| place.stream.clone();
        self.places.iter().filter_map(move |place| lock(place).as_ref().map(handle))
    }
}

impl Count {
    fn of(&self, client: Client) -> usize {
        self.each.get(&client).copied().unwrap_or(0)
    }

    fn add(&mut self, client: Option<Client>) {
        self.all += 1;
        if let Some(client) = client {
            self.of_clients += 1;
            *self.each.entry(client).or_default() += 1;
        }
    }

    fn remove(&mut self, client: Option<Client>) {
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

impl Ticket {
    /// Whether somebody else than this host has it.
    pub fn is_of_a_client(&self) -> bool {
        self.client.is_some()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.crowd.count).remove(self.client);
    }
}

impl Client {
    /// None for programs of this host.
    fn of(peer: Peer) -> Option<Client> {
        match peer.address()? {
            IpAddr::V4(Ipv4Addr::LOCALHOST) | IpAddr::V6(Ipv6Addr::LOCALHOST) => None,
            IpAddr::V4(ip) => Some(Client::V4(ip.octets())),
            IpAddr::V6(ip) => ip.octets().first_chunk().map(|net| Client::V6(*net)),
        }
    }
}

/// Stress as it comes and goes: looked after by the acceptor, which wakes for it once a
/// [`tick`](Stress::tick) while there is any.
#[derive(Default)]
pub(super) struct Stress {
    /// While there is stress: since when, and how many had been given up before.
    begun: Option<(Instant, u64)>,
    /// While there is stress: since when it has been calmer.
    calm: Option<Instant>,
    swept: Option<Instant>,
}

impl Stress {
    /// How long the acceptor may sleep; None: until somebody comes.
    pub fn tick(&self, crowd: &Crowd) -> Option<Duration> {
        self.begun.map(|_| (crowd.timeout / 300).max(Duration::from_millis(1)))
    }

    /// Begins or ends stress, with a log line each, and gives up who may not lag so long under it.
    pub fn look(&mut self, crowd: &Crowd) {
        let crowded = crowd.is_crowded();
        let given_up = crowd.counters.sessions_given_up.value();
        match self.begun {
            None if crowded => self.begin(crowd, given_up),
            None => {}
            Some(_) if crowded => self.calm = None,
            Some((since, before)) => {
                let calm = self.calm.get_or_insert_with(Instant::now).elapsed();
                if calm >= crowd.timeout / 5 {
                    *self = Stress::default();
                    crowd.pressure.set(false);
                    let (secs, given_up) = (since.elapsed().as_secs(), given_up - before);
                    log::info!("stress ends seconds={secs} given_up={given_up}");
                }
            }
        }
        let tick = self.tick(crowd);
        if tick.is_some_and(|tick| self.swept.is_none_or(|at| at.elapsed() >= tick)) {
            self.swept = Some(Instant::now());
            crowd.sweep();
        }
    }

    fn begin(&mut self, crowd: &Crowd, given_up: u64) {
        self.begun = Some((Instant::now(), given_up));
        crowd.pressure.set(true);
        crowd.counters.stresses.one();
        let (taken, of) = (lock(&crowd.count).all, crowd.threads);
        let timeout = crowd.timeout_under_stress().as_secs_f32();
        log::warn!("stress begins sessions={taken} threads={of} timeout={timeout} errors=1");
    }
}

/// Nothing here panics while it holds a lock; if it did, a count would be off by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
