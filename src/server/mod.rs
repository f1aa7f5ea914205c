//! The server: accepts connections, runs the pool of session threads, and stops.
//!
//! ```text
//! Accept --connection--> acceptor --bounded queue--> session thread 1..N --> SessionContext
//!                           |
//!                           +-- full: 421 at once, from here
//! ```
//! One thread, the caller of [`Server::run`], waits for all listeners. It never blocks on a client.
//! A connection gets a session thread, or it gets `421 4.3.2` and is closed; `admission.rs` decides
//! which, and which idle session is evicted when the pool is full or nearly so.
//!
//! After an accept that fails, mostly for lack of descriptors, the server pauses and tries again.
//! The failure is logged once. One descriptor is kept in reserve, so that a client that arrives
//! then gets a 421 too.
//!
//! **Stopping** ([`ServerHandle::stop`], or TERM and INT after [`SignalHandlers::serve`]): no more
//! connections are accepted. A session that waits for a command sends 421 at once, any other at its
//! next command, after the message in progress is finished and answered. If a client is silent in
//! the middle of mail data for a sixth of the grace period, its session sends 421 then. After half
//! of the grace period incomplete mail data is dropped, and a message that still waits for the
//! writer is answered 451. Connections that are open at the end are closed.
//!
//! | file | contains |
//! | --- | --- |
//! | `admission.rs` | limits on sessions for each client, eviction of idle sessions |
//! | `connection_queue.rs` | the admitted connections, from the acceptor to the session threads |
//! | `hand_over.rs` | the thread that takes messages from the hand-over directory |

mod admission;
mod connection_queue;
mod hand_over;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::deliver::WriterHandle;
use crate::message::peer::Peer;
use crate::net::listen::{self, Accept, Service};
use crate::net::stream::{Socket, Stream};
use crate::observe::counters::Counters;
use crate::observe::events;
use crate::process::descriptors;
use crate::resolver::AddressResolver;
use crate::session::{SessionConfig, SessionContext, SessionEnd};
use crate::smtp::reply;
use crate::sysexits::EX_TEMPFAIL;
use admission::{Admission, OverloadMonitor, SessionPermit};
use connection_queue::QueueInput;
use hand_over::HandOverThread;

/// Server configuration. The defaults are those of the options of mailslot.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Configuration of each session.
    pub session: SessionConfig,
    /// Threads in the pool, and so sessions at a time; at least 1. Default: 32.
    pub threads: usize,
    /// Sessions at a time from one address or one IPv6 /64 network, and never more than half of the
    /// pool. Programs of this host (127.0.0.1, ::1, Unix sockets) are exempt, and an eighth of the
    /// pool, but at least one thread, is kept for them. Default: 8.
    pub per_client: usize,
    /// Grace period: the longest time for messages in progress when the server stops. Default: 6 s.
    pub grace: Duration,
    /// The spool with the hand-over directory to take messages from, or None for no hand-over.
    /// Default: None.
    pub hand_over: Option<PathBuf>,
}

impl Default for ServerConfig {
    fn default() -> ServerConfig {
        ServerConfig {
            session: SessionConfig::default(),
            threads: 32,
            per_client: 8,
            grace: Duration::from_secs(6),
            hand_over: None,
        }
    }
}

/// A server, ready to run.
pub struct Server {
    shared: Arc<ServerShared>,
    /// Readable when the acceptor must handle an event that is not a connection.
    wake: UnixStream,
}

/// A handle that stops a server from any thread. Cheap to clone.
#[derive(Clone)]
pub struct ServerHandle(Arc<ServerShared>);

impl Server {
    /// Returns a server that is not running yet.
    ///
    /// # Errors
    /// There are no free descriptors.
    pub fn new(
        config: ServerConfig,
        resolver: Arc<dyn AddressResolver>,
        writer: WriterHandle,
        counters: Arc<Counters>,
    ) -> io::Result<Server> {
        let (wake, waker) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        let threads = config.threads.max(1);
        let hostname = &config.session.hostname;
        let mut busy = Vec::new();
        reply::closing(hostname, "too busy, try again later").write_to(&mut busy);
        let timeout = config.session.timeout;
        let admission = Admission::new(threads, config.per_client, timeout, Arc::clone(&counters));
        let shared = ServerShared {
            threads,
            admission: Arc::new(admission),
            grace: config.grace,
            hand_over: config.hand_over,
            size_max: config.session.size_max,
            timeout,
            session_timeout: config.session.session_timeout,
            busy_reply: busy,
            context: SessionContext::new(config.session, resolver, writer, Arc::clone(&counters)),
            counters,
            stopping: AtomicBool::new(false),
            waker,
        };
        Ok(Server { shared: Arc::new(shared), wake })
    }

    /// Returns a handle that stops the server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle(Arc::clone(&self.shared))
    }

    /// Serves the connections of `listeners` until the server is stopped. Then closes the
    /// listeners, and returns when every session has ended or the grace period is over.
    ///
    /// # Errors
    /// The session threads cannot be started. Later failures are not errors.
    pub fn run<L: Accept>(self, listeners: Vec<L>) -> io::Result<()> {
        let (pool, queue) = Pool::start(&self.shared, self.shared.threads)?;
        let hand_over = self.shared.hand_over.clone();
        let hand_over = hand_over.map(|spool| HandOverThread::start(self.shared.clone(), spool));
        let hand_over = hand_over.transpose()?;
        listen::notify("READY=1");
        let shared = &self.shared;
        let acceptor = Acceptor {
            shared,
            queue,
            wake: &self.wake,
            overload: OverloadMonitor::default(),
            reserve: reserve(),
            pause: None,
            last_refusal_logged: None,
        };
        acceptor.run(&listeners);
        drop(listeners);
        pool.finish(&self.shared);
        if let Some(hand_over) = hand_over {
            hand_over.stop(HAND_OVER_GRACE);
        }
        Ok(())
    }

    /// Serves one connection, for which inetd or another super-server started the process. Then
    /// takes messages from the hand-over directory. Returns the end of the session, or None if it
    /// had not ended when the grace period after a stop was over.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve_one(mut self, socket: Socket, peer: Peer) -> io::Result<Option<SessionEnd>> {
        let (pool, queue) = Pool::start(&self.shared, 1)?;
        if let Ok(permit) = self.shared.admission.admit(peer) {
            let service = Service::default();
            let _ = queue.try_send(Admitted { socket, peer, service, permit });
        }
        drop(queue);
        // The end of the session wakes this thread, too.
        let _ = self.wake.read_exact(&mut [0]);
        let end = pool.finish(&self.shared);
        if let Some(spool) = &self.shared.hand_over {
            hand_over::take_once(&self.shared, spool);
        }
        Ok(end)
    }
}

impl ServerHandle {
    /// Stops the server. The head of this file says how.
    pub fn stop(&self) {
        self.0.stopping.store(true, Ordering::SeqCst);
        self.0.wake();
        self.0.admission.sessions().for_each(|session| session.stop());
    }
}

/// Handlers of signals, installed before anything that takes time, such as recovery.
///
/// XFSZ is ignored, so that a file-size limit makes one write fail and does not end the process.
/// Until [`SignalHandlers::serve`], TERM and INT end the process as if there were no handlers, and
/// HUP and USR1 wait.
#[derive(Debug)]
pub struct SignalHandlers {
    signals: Signals,
    starting: Arc<AtomicBool>,
    stop_requested: Arc<AtomicBool>,
}

impl SignalHandlers {
    /// Installs the handlers. Starts no thread.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub fn install() -> io::Result<SignalHandlers> {
        ignore_file_size_signal()?;
        let starting = Arc::new(AtomicBool::new(true));
        let stop_requested = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT] {
            flag::register_conditional_default(signal, Arc::clone(&starting))?;
            let status = i32::from(EX_TEMPFAIL);
            flag::register_conditional_shutdown(signal, status, Arc::clone(&stop_requested))?;
        }
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1])?;
        Ok(SignalHandlers { signals, starting, stop_requested })
    }

    /// Starts the thread that acts on the signals: TERM and INT stop the server (a second one ends
    /// the process at once, with status 75), HUP makes `resolver` and TLS read their files again
    /// and calls `reload`, and USR1 writes `counters` to the log.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn serve(
        mut self,
        handle: ServerHandle,
        resolver: Arc<dyn AddressResolver>,
        counters: Arc<Counters>,
        reload: impl Fn() + Send + 'static,
    ) -> io::Result<()> {
        self.starting.store(false, Ordering::SeqCst);
        thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in self.signals.forever() {
                match signal {
                    SIGHUP => {
                        resolver.reload();
                        handle.0.context.reload_certificate();
                        reload();
                        events::reloaded();
                    }
                    SIGUSR1 => events::counters(&counters),
                    _ => {
                        self.stop_requested.store(true, Ordering::SeqCst);
                        events::stopping(signal);
                        listen::notify("STOPPING=1");
                        handle.stop();
                    }
                }
            }
        })?;
        Ok(())
    }
}

/// Makes a write above the file-size limit fail with an error. Otherwise it ends the process
/// without a log line.
///
/// # Errors
/// The handler cannot be installed.
pub fn ignore_file_size_signal() -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

/// State shared by the acceptor, the session threads and the handles.
struct ServerShared {
    context: SessionContext,
    counters: Arc<Counters>,
    threads: usize,
    admission: Arc<Admission>,
    grace: Duration,
    hand_over: Option<PathBuf>,
    size_max: u64,
    timeout: Duration,
    session_timeout: Duration,
    /// The 421 for connections that are refused, as sent.
    busy_reply: Vec<u8>,
    stopping: AtomicBool,
    waker: UnixStream,
}

impl ServerShared {
    fn wake(&self) {
        // An error means that the pipe is full, and so that the acceptor wakes anyway.
        let _ = (&self.waker).write(&[0]);
    }
}

/// An admitted connection, on its way to a session thread.
struct Admitted {
    socket: Socket,
    peer: Peer,
    service: Service,
    permit: SessionPermit,
}

/// The session threads.
struct Pool {
    threads: Vec<thread::JoinHandle<Option<SessionEnd>>>,
    /// A channel that is disconnected when the last thread has ended.
    ended: Receiver<()>,
}

impl Pool {
    fn start(shared: &Arc<ServerShared>, count: usize) -> io::Result<(Pool, QueueInput<Admitted>)> {
        let (input, queue) = connection_queue::bounded::<Admitted>(count);
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
        Ok((Pool { threads, ended }, input))
    }

    /// Waits for the threads to end, after the last connection was sent to them, and ends sessions
    /// as the head of this file says. Returns the end of the last session, if all have ended by the
    /// end of the grace period.
    fn finish(self, shared: &Arc<ServerShared>) -> Option<SessionEnd> {
        let (began, grace) = (Instant::now(), shared.grace);
        let mut ended_early = 0;
        let has_ended = loop {
            let poll = (grace / 60).max(Duration::from_millis(1));
            if self.ended.recv_timeout(poll) != Err(RecvTimeoutError::Timeout) {
                break true;
            }
            let passed = began.elapsed();
            if passed >= grace {
                break false;
            }
            let least = if passed < grace / 2 { grace / 6 } else { Duration::ZERO };
            // Sessions that waited before the stop get the same time.
            if passed >= grace / 6 {
                let sessions = shared.admission.sessions();
                ended_early += sessions.filter(|session| session.stop_if_waiting(least)).count();
            }
            if passed >= grace / 2 {
                shared.context.give_up_deliveries();
            }
            if passed >= grace * 9 / 10 {
                // The threads end at once, unless the writer does not return.
                shared.admission.sessions().for_each(|session| session.disconnect());
            }
        };
        if !has_ended {
            ended_early += shared.admission.sessions().count();
        }
        if ended_early > 0 {
            events::sessions_cut(ended_early);
        }
        if !has_ended {
            return None;
        }
        // No thread has panicked, because the session catches its panics.
        self.threads.into_iter().filter_map(|thread| thread.join().ok().flatten()).last()
    }
}

/// Runs a session in thread `number`. Returns its end, or None if the client was gone before it
/// began.
fn serve(shared: &Arc<ServerShared>, number: usize, admitted: Admitted) -> Option<SessionEnd> {
    let Admitted { socket, peer, service, permit } = admitted;
    let mut stream = open(shared, socket, peer)?;
    shared.admission.begin_session(number, &mut stream, &permit);
    // Must follow begin_session: either stop() finds this session or this thread sees the flag.
    if shared.stopping.load(Ordering::SeqCst) {
        stream.handle().stop();
    }
    let end = shared.context.serve_as(service, &mut stream);
    // A client that got 221 may connect again at once, so it must not be counted any more. A client
    // with input to be drained is counted until then, because it has the thread, and clients
    // must not take the threads that are kept for this host.
    let lingers = end.lingers() || stream.has_unread();
    let counted = (lingers && permit.is_of_a_client()).then_some(permit);
    stream.close(end.lingers());
    drop(counted);
    shared.admission.end_session(number);
    Some(end)
}

/// Returns the stream of a connection, on the heap because the stack of a thread never gets
/// smaller. Returns None if the client is gone.
#[inline(never)]
fn open(shared: &ServerShared, socket: Socket, peer: Peer) -> Option<Box<Stream>> {
    match Stream::new(socket, peer, shared.timeout, shared.session_timeout) {
        Ok(stream) => Some(Box::new(stream)),
        Err(e) => {
            events::connection_lost(peer, e);
            None
        }
    }
}

/// The loop that accepts connections.
struct Acceptor<'a> {
    shared: &'a Arc<ServerShared>,
    queue: QueueInput<Admitted>,
    wake: &'a UnixStream,
    overload: OverloadMonitor,
    /// A descriptor to give up when there are no others.
    reserve: Option<File>,
    /// While accept fails: the pause before the next one.
    pause: Option<Duration>,
    /// The time of the last log line about a refusal.
    last_refusal_logged: Option<Instant>,
}

impl Acceptor<'_> {
    fn run<L: Accept>(mut self, listeners: &[L]) {
        while !self.shared.stopping.load(Ordering::SeqCst) {
            for number in self.wait(listeners) {
                let Some(listener) = listeners.get(number) else { continue };
                let accepted = match listener.accept() {
                    Ok(connection) => Some(connection),
                    Err(e) if is_transient(&e) => None,
                    Err(e) => {
                        self.handle_error(listener, &e);
                        break;
                    }
                };
                if self.pause.take().is_some() {
                    events::accept_resumed();
                }
                if let Some((socket, peer)) = accepted {
                    self.dispatch(socket, peer, listener.service());
                }
            }
            self.overload.update(&self.shared.admission);
        }
    }

    /// Waits for connections. Returns the indexes of the listeners that have one, or of all
    /// listeners after a pause.
    fn wait<L: Accept>(&self, listeners: &[L]) -> Vec<usize> {
        let mut fds = vec![PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        if self.pause.is_none() {
            fds.extend(listeners.iter().map(|l| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        }
        let wait = match self.pause.or_else(|| self.overload.poll_interval(&self.shared.admission))
        {
            Some(wait) => PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match nix::poll::poll(&mut fds, wait) {
            Ok(_) if self.pause.is_some() => (0..listeners.len()).collect(),
            Ok(_) => {
                let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
                fds.iter().skip(1).enumerate().filter(|(_, fd)| ready(fd)).map(|(i, _)| i).collect()
            }
            // Only EINTR is possible here.
            Err(_) => Vec::new(),
        }
    }

    /// Sends the connection to a session thread, or refuses it.
    fn dispatch(&mut self, socket: Socket, peer: Peer, service: Service) {
        let permit = match self.shared.admission.admit(peer) {
            Ok(permit) => permit,
            Err(why) => return self.refuse(&socket, peer, service.tls, why),
        };
        // The channel is full while threads drain the input of sessions that are not counted.
        if let Err(back) = self.queue.try_send(Admitted { socket, peer, service, permit }) {
            self.refuse(&back.socket, peer, service.tls, "full");
        }
    }

    /// Sends 421 without blocking, or nothing to a client that expects TLS, because a handshake
    /// would take too long. Logs at most once a minute, because refusing must stay cheaper than
    /// connecting.
    fn refuse(&mut self, socket: &Socket, peer: Peer, tls: bool, why: &str) {
        let refused = &self.shared.counters.sessions_rejected;
        refused.one();
        if self.last_refusal_logged.is_none_or(|at| at.elapsed() > REFUSAL_LOG_INTERVAL) {
            self.last_refusal_logged = Some(Instant::now());
            events::connection_rejected(peer, why, refused.value());
        }
        socket.send_at_once(if tls { b"" } else { &self.shared.busy_reply });
    }

    /// Pauses after an error of accept. Refuses the next client by means of the reserve, if there
    /// are no descriptors.
    fn handle_error<L: Accept>(&mut self, listener: &L, error: &io::Error) {
        if self.pause.is_none() {
            events::accept_paused(error);
        }
        if descriptors::are_exhausted(error) && self.reserve.take().is_some() {
            if let Ok((socket, peer)) = listener.accept() {
                self.refuse(&socket, peer, listener.service().tls, "descriptors");
            }
            self.reserve = reserve();
        }
        self.pause = Some(self.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX)));
    }
}

/// Returns true if there is no connection after all, or a signal interrupted the call.
fn is_transient(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// The time that a message of the hand-over directory may take when the server stops.
const HAND_OVER_GRACE: Duration = Duration::from_secs(1);
/// Stack of a session thread. Its buffers are on the heap, but user lookups run modules of the C
/// library, which need some. Pages that are never touched cost nothing.
const STACK_SIZE: usize = 1024 * 1024;
/// Pause after an error of accept, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Time between two log lines about refusals.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);
