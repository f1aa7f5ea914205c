//! Accepts connections, keeps the pool of session threads, and stops.
//!
//! ```text
//! Accept --connection--> acceptor --bounded channel--> session thread 1..N --> Office::serve
//!                           |
//!                           +-- full: 421 at once, from here
//! ```
//! One thread, the caller of [`Server::run`], waits for all listeners. It never blocks on a client:
//! a connection gets a session thread, or `421 4.3.2` and is closed. Who is let in, and who has to
//! leave when the pool is full or nearly so, is in `server/admission.rs`.
//!
//! An accept that fails (no descriptors left, mostly) pauses and goes on, and is logged once.
//! A descriptor is kept in reserve, so that such a client hears 421 as well.
//!
//! **Stopping** ([`ServerHandle::stop`], or TERM and INT after [`on_signals`]): nothing more is
//! accepted, sessions that wait for a command hear 421 now and the others at their next one,
//! messages in hand are finished and answered. What is not over within the grace is cut.

mod admission;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::deliver::WriterHandle;
use crate::net::listen::{self, Accept, Service};
use crate::net::stream::{Peer, Socket, Stream};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::route::Route;
use crate::session::{self, SessionContext, SessionEnd};
use crate::smtp::reply;
use crate::sysexits::EX_TEMPFAIL;
use admission::{Admission, OverloadMonitor, SessionPermit};

/// What the server is told.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What each session is told.
    pub session: session::SessionConfig,
    /// Threads in the pool, and so sessions at once; at least 1.
    pub threads: usize,
    /// Sessions at once from one address or one IPv6 /64, and never more than half of the pool.
    /// Programs of this host (127.0.0.1, ::1, Unix sockets) are exempt, and an eighth of the pool,
    /// but at least one thread, is kept for them.
    pub per_client: usize,
    /// How long a stop waits for messages in hand before it cuts the connections: 10 s.
    pub grace: Duration,
}

/// A server that is ready to run.
pub struct Server {
    shared: Arc<ServerShared>,
    /// Readable once the acceptor has something to see besides connections.
    wake: UnixStream,
}

/// Stops a server from anywhere. Cheap to clone.
#[derive(Clone)]
pub struct ServerHandle(Arc<ServerShared>);

impl Server {
    /// A server of these parts; nothing runs yet.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(
        settings: ServerConfig,
        route: Arc<dyn Route>,
        writer: WriterHandle,
        counters: Arc<Counters>,
    ) -> io::Result<Server> {
        let (wake, waker) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        let threads = settings.threads.max(1);
        let hostname = &settings.session.hostname;
        let mut busy = Vec::new();
        reply::closing(hostname, "too busy, try again later").write_to(&mut busy);
        let timeout = settings.session.timeout;
        let admission =
            Admission::new(threads, settings.per_client, timeout, Arc::clone(&counters));
        let shared = ServerShared {
            threads,
            admission: Arc::new(admission),
            grace: settings.grace,
            timeout,
            session_timeout: settings.session.session_timeout,
            busy_reply: busy,
            context: SessionContext::new(settings.session, route, writer, Arc::clone(&counters)),
            counters,
            stopping: AtomicBool::new(false),
            waker,
        };
        Ok(Server { shared: Arc::new(shared), wake })
    }

    /// The means to stop it.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(Arc::clone(&self.shared))
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
        let (wake, stress) = (&self.wake, OverloadMonitor::default());
        Acceptor { shared, queue, wake, stress, spare: spare(), pause: None, told: None }
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
    pub fn serve_one(mut self, socket: Socket, peer: Peer) -> io::Result<Option<SessionEnd>> {
        let (pool, queue) = Pool::start(&self.shared, 1)?;
        if let Ok(ticket) = self.shared.admission.admit(peer) {
            let service = Service::default();
            let _ = queue.try_send(Admitted { socket, peer, service, ticket });
        }
        drop(queue);
        // The session's end wakes us too.
        let _ = self.wake.read_exact(&mut [0]);
        Ok(pool.finish(&self.shared))
    }
}

impl ServerHandle {
    /// Stops the server, from any thread; see the top of this file.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.wake();
        self.0.admission.streams().for_each(|stream| stream.stop());
    }
}

/// Lets signals govern the server: TERM and INT stop it (a second one ends the process at once,
/// with status 75), HUP has `route` and TLS read their files again, USR1 writes `counters` to the
/// log. XFSZ is ignored, so that a file-size limit is an error of one write and not the end.
///
/// # Errors
/// A handler cannot be installed, or the thread not started.
pub fn on_signals(
    handle: ServerHandle,
    route: Arc<dyn Route>,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let impatient = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        let status = i32::from(EX_TEMPFAIL);
        signal_hook::flag::register_conditional_shutdown(signal, status, Arc::clone(&impatient))?;
    }
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            match signal {
                SIGHUP => {
                    route.reload();
                    handle.0.context.reload_keys();
                    events::reloaded();
                }
                SIGUSR1 => events::counters(&counters),
                _ => {
                    impatient.store(true, Ordering::SeqCst);
                    events::stopping(signal);
                    listen::notify("STOPPING=1");
                    handle.stop();
                }
            }
        }
    })?;
    Ok(())
}

/// What acceptor, session threads and handles have in common.
struct ServerShared {
    context: SessionContext,
    counters: Arc<Counters>,
    threads: usize,
    admission: Arc<Admission>,
    grace: Duration,
    timeout: Duration,
    session_timeout: Duration,
    /// 421, ready to be written.
    busy_reply: Vec<u8>,
    stopping: AtomicBool,
    waker: UnixStream,
}

impl ServerShared {
    fn wake(&self) {
        // Full means that it was woken before and has not looked yet.
        let _ = (&self.waker).write(&[0]);
    }
}

/// A connection on its way to a session thread.
struct Admitted {
    socket: Socket,
    peer: Peer,
    service: Service,
    ticket: SessionPermit,
}

/// The session threads.
struct Pool {
    threads: Vec<thread::JoinHandle<Option<SessionEnd>>>,
    /// Disconnected when the last thread has ended.
    ended: Receiver<()>,
}

impl Pool {
    fn start(shared: &Arc<ServerShared>, count: usize) -> io::Result<(Pool, Sender<Admitted>)> {
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
    fn finish(self, shared: &Arc<ServerShared>) -> Option<SessionEnd> {
        let last_tenth = shared.grace / 10;
        let timeout = shared.grace - last_tenth;
        if self.ended.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
            let admission = &shared.admission;
            events::sessions_cut(admission.streams().count());
            admission.streams().for_each(|stream| stream.cut());
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
fn serve(shared: &Arc<ServerShared>, number: usize, admitted: Admitted) -> Option<SessionEnd> {
    let Admitted { socket, peer, service, ticket } = admitted;
    let stream = Stream::new(socket, peer, shared.timeout, shared.session_timeout);
    let mut stream = match stream {
        Ok(stream) => stream,
        Err(e) => {
            events::connection_lost(peer, e);
            return None;
        }
    };
    shared.admission.enter(number, &mut stream, &ticket);
    // Behind the line above: a stop sees the place, or we see the stop.
    if shared.stopping.load(Ordering::SeqCst) {
        stream.handle().stop();
    }
    let end = shared.context.serve_as(service, &mut stream);
    // A client that has its 221 may come again at once, and finds its place free. Only where the
    // thread is not free yet is a client still counted, or lingering ones would take the places
    // that are kept for this host.
    let lingers = end.lingers() || stream.has_unread();
    let counted = Some(ticket).filter(|ticket| lingers && ticket.is_of_a_client());
    stream.close(end.lingers());
    drop(counted);
    shared.admission.leave(number);
    Some(end)
}

/// The loop that accepts.
struct Acceptor<'a> {
    shared: &'a Arc<ServerShared>,
    queue: Sender<Admitted>,
    wake: &'a UnixStream,
    stress: OverloadMonitor,
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
                    events::accept_resumed();
                }
                if let Some((socket, peer)) = accepted {
                    self.take(socket, peer, listener.service());
                }
            }
            self.stress.look(&self.shared.admission);
        }
    }

    /// The listeners that have a connection; while accept fails, all of them after the pause.
    fn wait<L: Accept>(&self, listeners: &[L]) -> Vec<usize> {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        if self.pause.is_none() {
            fds.extend(listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        }
        let wait = match self.pause.or_else(|| self.stress.tick(&self.shared.admission)) {
            Some(wait) => PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
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
        let ticket = match self.shared.admission.admit(peer) {
            Ok(ticket) => ticket,
            Err(why) => return self.refuse(&socket, peer, service.tls, why),
        };
        // The channel is full when sessions are over whose clients do not let go.
        if let Err(back) = self.queue.try_send(Admitted { socket, peer, service, ticket }) {
            self.refuse(&back.into_inner().socket, peer, service.tls, "full");
        }
    }

    /// 421, without ever blocking; nothing to a client that awaits TLS, for there is no time to
    /// speak it. It is counted, and logged at most once a minute: refusing must stay cheaper than
    /// connecting.
    fn refuse(&mut self, socket: &Socket, peer: Peer, tls: bool, why: &str) {
        let refused = &self.shared.counters.sessions_rejected;
        refused.one();
        if self.told.is_none_or(|at| at.elapsed() > TOLD_AGAIN) {
            self.told = Some(Instant::now());
            events::connection_rejected(peer, why, refused.value());
        }
        socket.send_at_once(if tls { b"" } else { &self.shared.busy_reply });
    }

    /// Pauses; with the spare descriptor, the client at the head of the line is told.
    fn failed<L: Accept>(&mut self, listener: &L, error: &io::Error) {
        if self.pause.is_none() {
            events::accept_paused(error);
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

/// For a session thread: its buffers are on the heap, but look-ups run modules of the C library,
/// and a time zone is read, which take some. What is never touched costs nothing.
const STACK_SIZE: usize = 1024 * 1024;
/// How long accept rests after an error, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often refusals are logged.
const TOLD_AGAIN: Duration = Duration::from_secs(60);
