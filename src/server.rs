//! Accepts connections, keeps the pool of session threads, and stops.
//!
//! ```text
//! Accept --connection--> acceptor --bounded channel--> session thread 1..N --> Office::serve
//!                           |
//!                           +-- full: 421 at once, from here
//! ```
//! One thread, the caller of [`Server::run`], waits for all listeners. It never blocks on a client:
//! a connection gets a session thread, or `421 4.3.2` and is closed. It is refused when
//! - every thread is busy. But first the session that has waited longest for its client, if that
//!   is more than a thirtieth of the time-out, gives up its place;
//! - its client (an IPv4 address, an IPv6 /64) has its share of sessions already. Clients on this
//!   host have no share.
//!
//! An accept that fails (no descriptors left, mostly) pauses and goes on, and is logged once.
//! A descriptor is kept in reserve, so that such a client hears 421 as well.
//!
//! **Stopping** ([`Handle::stop`], or TERM and INT after [`on_signals`]): nothing more is
//! accepted, sessions that wait for a command hear 421 now and the others at their next one,
//! messages in hand are finished and answered. What is not over within the grace is cut.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::counters::Counters;
use crate::deliver::Post;
use crate::listen::{self, Accept, Service};
use crate::logging::value;
use crate::route::Route;
use crate::session::{self, End, Office};
use crate::smtp::reply;
use crate::stream::{self, Peer, Socket, Stream};

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

/// A server that is ready to run.
pub struct Server {
    shared: Arc<Shared>,
    /// Readable once the acceptor has something to see besides connections.
    wake: UnixStream,
}

/// Stops a server from anywhere. Cheap to clone.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Server {
    /// A server of these parts; nothing runs yet.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(
        settings: Settings,
        route: Arc<dyn Route>,
        post: Post,
        counters: Arc<Counters>,
    ) -> io::Result<Server> {
        let (wake, waker) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        let threads = settings.threads.max(1);
        let hostname = &settings.session.hostname;
        let mut busy = Vec::new();
        reply::closing(hostname, "too busy, try again later").write_to(&mut busy);
        let shared = Shared {
            threads,
            per_client: settings.per_client.min(threads / 2).max(1),
            grace: settings.grace,
            timeout: settings.session.timeout,
            session_timeout: settings.session.session_timeout,
            busy_reply: busy,
            office: Office::new(settings.session, route, post, Arc::clone(&counters)),
            counters,
            stopping: AtomicBool::new(false),
            waker,
            places: (0..threads).map(|_| Mutex::new(None)).collect(),
            busy: AtomicUsize::new(0),
            clients: Mutex::default(),
        };
        Ok(Server { shared: Arc::new(shared), wake })
    }

    /// The means to stop it.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Serves the connections of `listeners` until it is stopped; then closes them, and returns
    /// when every session has ended, or the grace is over.
    ///
    /// # Errors
    /// The session threads cannot be started. Nothing that happens later is an error.
    pub fn run<L: Accept>(self, listeners: Vec<L>) -> io::Result<()> {
        let (pool, queue) = Pool::start(&self.shared, self.shared.threads)?;
        listen::notify("READY=1");
        let shared = &self.shared;
        Acceptor { shared, queue, wake: &self.wake, spare: spare(), pause: None, told: None }
            .run(&listeners);
        drop(listeners);
        pool.finish(&self.shared);
        Ok(())
    }

    /// Serves this one connection, as inetd and its kind start a process for, until it has ended;
    /// or, after a stop, the grace is over. How it ended is None in that case.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve_one(mut self, socket: Socket, peer: Peer) -> io::Result<Option<End>> {
        let (pool, queue) = Pool::start(&self.shared, 1)?;
        let _ = queue.try_send(self.shared.admit(socket, peer, Service::default()));
        drop(queue);
        // The session's end wakes us too.
        let _ = self.wake.read_exact(&mut [0]);
        Ok(pool.finish(&self.shared))
    }
}

impl Handle {
    /// Stops the server, from any thread; see the top of this file.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.wake();
        for place in &self.0.places {
            if let Some(stream) = lock(place).as_ref() {
                stream.stop();
            }
        }
    }
}

/// Lets signals govern the server: TERM and INT stop it (a second one ends the process at once,
/// with status 75), HUP has `route` and TLS read their files again, USR1 writes `counters` to the
/// log. XFSZ is ignored, so that a file-size limit is an error of one write and not the end.
///
/// # Errors
/// A handler cannot be installed, or the thread not started.
pub fn on_signals(
    handle: Handle,
    route: Arc<dyn Route>,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 75, Arc::clone(&impatient))?;
    }
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => {
                    route.reload();
                    handle.0.office.reload_keys();
                    log::info!("reload signal=HUP");
                }
                SIGUSR1 => log::info!("counters {counters}"),
                _ => {
                    impatient.store(true, Ordering::SeqCst);
                    log::info!("stopping signal={signal}");
                    listen::notify("STOPPING=1");
                    handle.stop();
                }
            }
        }
    })?;
    Ok(())
}

/// What acceptor, session threads and handles have in common.
struct Shared {
    office: Office,
    counters: Arc<Counters>,
    threads: usize,
    per_client: usize,
    grace: Duration,
    timeout: Duration,
    session_timeout: Duration,
    /// 421, ready to be written.
    busy_reply: Vec<u8>,
    stopping: AtomicBool,
    waker: UnixStream,
    /// For each thread, the session it serves.
    places: Vec<Mutex<Option<stream::Handle>>>,
    /// Sessions admitted that have not ended.
    busy: AtomicUsize,
    /// How many of them each client has; none has 0.
    clients: Mutex<HashMap<Client, usize>>,
}

impl Shared {
    fn wake(&self) {
        // Full means that it was woken before and has not looked yet.
        let _ = (&self.waker).write(&[0]);
    }

    fn admit(self: &Arc<Shared>, socket: Socket, peer: Peer, service: Service) -> Admitted {
        self.busy.fetch_add(1, Ordering::SeqCst);
        let client = Client::of(peer);
        if let Some(client) = client {
            *lock(&self.clients).entry(client).or_default() += 1;
        }
        Admitted { socket, peer, service, ticket: Ticket { shared: Arc::clone(self), client } }
    }

    /// Whether `peer` has as many sessions as it may.
    fn has_its_share(&self, peer: Peer) -> bool {
        let sessions = |client| lock(&self.clients).get(&client).copied().unwrap_or(0);
        Client::of(peer).is_some_and(|client| sessions(client) >= self.per_client)
    }

    /// Ends the session that has waited longest for its client, if that is long enough.
    fn make_room(&self) -> bool {
        let waiting = self.places.iter().filter_map(|place| {
            let stream = lock(place).clone()?;
            Some((stream.waiting_since()?, stream))
        });
        let longest = waiting.min_by_key(|(since, _)| *since);
        longest.is_some_and(|(since, stream)| {
            since.elapsed() >= self.timeout / 30 && stream.make_room(since)
        })
    }
}

/// Whom the sessions of one address count for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    V4([u8; 4]),
    /// The /64: what one customer has.
    V6([u8; 8]),
}

impl Client {
    /// None on this host.
    fn of(peer: Peer) -> Option<Client> {
        match peer.address().filter(|ip| !ip.is_loopback())? {
            IpAddr::V4(ip) => Some(Client::V4(ip.octets())),
            IpAddr::V6(ip) => ip.octets().first_chunk().map(|net| Client::V6(*net)),
        }
    }
}

/// A connection on its way to a session thread.
struct Admitted {
    socket: Socket,
    peer: Peer,
    service: Service,
    ticket: Ticket,
}

/// Counts a session while it lives.
struct Ticket {
    shared: Arc<Shared>,
    client: Option<Client>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(client) = self.client {
            let mut clients = lock(&self.shared.clients);
            if let Some(sessions) = clients.get_mut(&client) {
                *sessions -= 1;
                if *sessions == 0 {
                    clients.remove(&client);
                }
            }
        }
        self.shared.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The session threads.
struct Pool {
    threads: Vec<thread::JoinHandle<Option<End>>>,
    /// Disconnected when the last thread has ended.
    ended: Receiver<()>,
}

impl Pool {
    fn start(shared: &Arc<Shared>, count: usize) -> io::Result<(Pool, Sender<Admitted>)> {
        let (sender, queue) = bounded::<Admitted>(count);
        let (alive, ended) = bounded(0);
        let mut threads = Vec::with_capacity(count);
        for number in 0..count {
            let (shared, queue, alive) = (Arc::clone(shared), queue.clone(), alive.clone());
            let work = move || {
                let _alive: Sender<()> = alive;
                let mut last = None;
                for admitted in queue {
                    last = serve(&shared, number, admitted);
                }
                shared.wake();
                last
            };
            let thread = thread::Builder::new()
                .name(format!("session-{number}"))
                .stack_size(STACK_SIZE)
                .spawn(work);
            threads.push(thread.map_err(|e| {
                let text = format!("cannot start session thread {} of {count}: {e}", number + 1);
                io::Error::new(e.kind(), text)
            })?);
        }
        Ok((Pool { threads, ended }, sender))
    }

    /// Waits for the threads to end, once nothing more can reach them; cuts what is not over when
    /// the grace is. How the last session ended, if all did.
    fn finish(self, shared: &Arc<Shared>) -> Option<End> {
        let last_tenth = shared.grace / 10;
        let patience = shared.grace - last_tenth;
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            let streams = || shared.places.iter().filter_map(|place| lock(place).clone());
            log::warn!("cut sessions={} reason=grace-over", streams().count());
            streams().for_each(|stream| stream.cut());
            // The threads see it at once, unless the writer holds them.
            if self.ended.recv_timeout(last_tenth) == Err(RecvTimeoutError::Timeout) {
                return None;
            }
        }
        // A thread cannot have panicked: a session's panic is caught where it is served.
        self.threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).last()
    }
}

/// One session, in thread `number`; None if its client was gone before it began.
fn serve(shared: &Arc<Shared>, number: usize, admitted: Admitted) -> Option<End> {
    let Admitted { socket, peer, service, ticket } = admitted;
    let stream = Stream::new(socket, peer, shared.timeout, shared.session_timeout);
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(e) => {
            log::debug!("gone client={peer} why={e}");
            return None;
        }
    };
    let place = shared.places.get(number)?;
    *lock(place) = Some(stream.handle());
    // Behind the line above: a stop sees the place, or we see the stop.
    if shared.stopping.load(Ordering::SeqCst) {
        stream.handle().stop();
    }
    let end = shared.office.serve_as(service, &mut stream);
    // A client that has its 221 may come again at once, and finds its place free.
    drop(ticket);
    stream.close(end.lingers());
    *lock(place) = None;
    Some(end)
}

/// The loop that accepts.
struct Acceptor<'a> {
    shared: &'a Arc<Shared>,
    queue: Sender<Admitted>,
    wake: &'a UnixStream,
    /// A descriptor to let go of when there are no others.
    spare: Option<File>,
    /// While accept fails: how long to wait before the next.
    pause: Option<Duration>,
    /// When a refusal was last logged.
    told: Option<Instant>,
}

impl Acceptor<'_> {
    fn run<L: Accept>(mut self, listeners: &[L]) {
        while !self.shared.stopping.load(Ordering::SeqCst) {
            for number in self.wait(listeners) {
                let Some(listener) = listeners.get(number) else { continue };
                let accepted = match listener.accept() {
                    Ok(connection) => Some(connection),
                    Err(e) if is_nothing(&e) => None,
                    Err(e) => {
                        self.failed(listener, &e);
                        break;
                    }
                };
                if self.pause.take().is_some() {
                    log::info!("accepting again");
                }
                if let Some((socket, peer)) = accepted {
                    self.take(socket, peer, listener.service());
                }
            }
        }
    }

    /// The listeners that have a connection; while accept fails, all of them after the pause.
    fn wait<L: Accept>(&self, listeners: &[L]) -> Vec<usize> {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        let wait = match self.pause {
            Some(pause) => PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX),
            None => {
                fds.extend(listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
                PollTimeout::NONE
            }
        };
        match nix::poll::poll(&mut fds, wait) {
            Ok(_) if self.pause.is_some() => (0..listeners.len()).collect(),
            Ok(_) => {
                let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
                fds.iter().skip(1).enumerate().filter(|(_, fd)| ready(fd)).map(|(i, _)| i).collect()
            }
            // EINTR; nothing else can be.
            Err(_) => Vec::new(),
        }
    }

    /// A session for the connection, or 421.
    fn take(&mut self, socket: Socket, peer: Peer, service: Service) {
        let shared = self.shared;
        if shared.has_its_share(peer) {
            return self.refuse(&socket, peer, service.tls, "client's share");
        }
        if shared.busy.load(Ordering::SeqCst) >= shared.threads && !shared.make_room() {
            return self.refuse(&socket, peer, service.tls, "full");
        }
        // The channel is full when sessions are over whose clients do not let go.
        if let Err(back) = self.queue.try_send(shared.admit(socket, peer, service)) {
            self.refuse(&back.into_inner().socket, peer, service.tls, "full");
        }
    }

    /// 421, without ever blocking; nothing to a client that awaits TLS, for there is no time to
    /// speak it. It is counted, and logged at most once a minute: refusing must stay cheaper than
    /// connecting.
    fn refuse(&mut self, socket: &Socket, peer: Peer, tls: bool, why: &str) {
        let refused = &self.shared.counters.sessions_refused;
        refused.one();
        if self.told.is_none_or(|at| at.elapsed() > TOLD_AGAIN) {
            self.told = Some(Instant::now());
            log::warn!("refused client={peer} why={} so_far={}", value(why), refused.value());
        }
        socket.send_at_once(if tls { b"" } else { &self.shared.busy_reply });
    }

    /// Pauses; with the spare descriptor, the client at the head of the line is told.
    fn failed<L: Accept>(&mut self, listener: &L, error: &io::Error) {
        if self.pause.is_none() {
            log::warn!("cannot accept, pausing why={error}");
        }
        if is_out_of_descriptors(error) && self.spare.take().is_some() {
            if let Ok((socket, peer)) = listener.accept() {
                self.refuse(&socket, peer, listener.service().tls, "descriptors");
            }
            self.spare = spare();
        }
        self.pause = Some(self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX)));
    }
}

/// No connection after all, or a signal.
fn is_nothing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn is_out_of_descriptors(e: &io::Error) -> bool {
    let full = [nix::Error::EMFILE as i32, nix::Error::ENFILE as i32];
    e.raw_os_error().is_some_and(|code| full.contains(&code))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Nothing here panics while it holds a lock; if it did, a count would be off by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a session thread: its buffers are on the heap, but look-ups run modules of the C library,
/// and a time zone is read, which take some. What is never touched costs nothing.
const STACK_SIZE: usize = 1024 * 1024;
/// How long accept rests after an error, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often refusals are logged.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
