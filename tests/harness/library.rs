//! The library without the program: a writer with real mailboxes, sessions and a server in threads
//! of the test, and listeners that say where a client comes from.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mailslot::deliver::{self, Outcome, WriterHandle, WriterThread};
use mailslot::message::peer::Peer;
use mailslot::message::{MailboxName, Message, UserMailbox};
use mailslot::net::listen::{self, Accept, ListenAddress};
use mailslot::net::stream::{Socket, Stream};
use mailslot::observe::counters::Counters;
use mailslot::resolver::{AddressResolver, Member, Refusal, Resolution};
use mailslot::server::{self, ServerHandle};
use mailslot::session::{self, SessionContext, SessionEnd};
use mailslot::smtp::{ForwardPath, Mailbox};

use super::TIMEOUT;
use super::client::Client;
use super::directory::TestDirectory;
use super::message::user_mailbox;

/// Resolver of every local part at any domain to a mailbox of that name, except `nobody`, `moved`,
/// and `panic`, which panics.
struct TestResolver;

impl AddressResolver for TestResolver {
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        let (name, delivered_to) = match to {
            ForwardPath::Postmaster => ("postmaster", "postmaster@here".to_owned()),
            ForwardPath::Mailbox(mailbox) => (mailbox.local(), mailbox.to_string()),
        };
        match name {
            "nobody" => Err(Refusal::Unknown),
            "moved" => Err(Refusal::Forward(Mailbox::parse("new@elsewhere.example").unwrap())),
            "panic" => panic!("as the test asked"),
            _ => {
                let name = MailboxName::new(name).ok_or(Refusal::NameNotAllowed)?;
                let delivered_to = delivered_to.into();
                Ok(Resolution::local(vec![UserMailbox { name, owner: None, delivered_to }]))
            }
        }
    }

    fn vrfy(&self, name: &str) -> Result<Member, Refusal> {
        let mailbox = Mailbox::parse(&format!("{name}@here.example")).unwrap();
        Ok(Member { full_name: "Test User".to_owned(), mailbox })
    }

    fn expn(&self, list: &str) -> Result<Vec<Member>, Refusal> {
        Ok(vec![self.vrfy(list)?, self.vrfy("second")?])
    }
}

/// A directory with mail and spool, and a writer, stopped when this is dropped.
pub struct MailStore {
    pub counters: Arc<Counters>,
    /// Handle of the writer.
    pub handle: WriterHandle,
    writer: Option<WriterThread>,
    directory: TestDirectory,
}

impl MailStore {
    pub fn new() -> MailStore {
        MailStore::with(|_| {})
    }

    /// Creates one with a changed configuration of the writer.
    pub fn with(change: impl FnOnce(&mut deliver::DeliveryConfig)) -> MailStore {
        let directory = TestDirectory::with_mail_and_spool();
        let mut config = deliver::DeliveryConfig {
            mail_dir: directory.join("mail"),
            spool: directory.join("spool"),
            lock_timeout: TIMEOUT,
            journal_segment: deliver::JOURNAL_SEGMENT_SMALL,
            ..Default::default()
        };
        change(&mut config);
        let counters = Arc::new(Counters::default());
        let (handle, writer) = deliver::start(config, Arc::clone(&counters)).unwrap();
        MailStore { counters, handle, writer: Some(writer), directory }
    }

    /// Has the writer deliver a message.
    pub fn deliver(&self, message: Message) -> Outcome {
        self.handle.deliver(message, 4 * TIMEOUT)
    }

    /// Asks the writer whether it would refuse mail for the mailbox `name`.
    pub fn precheck(&self, name: &str) -> Result<(), Outcome> {
        self.handle.precheck(&user_mailbox(name)).map_err(|error| error.outcome())
    }

    /// Stops the writer.
    pub fn stop(mut self) -> TestDirectory {
        self.writer.take().unwrap().stop();
        self.directory.clone()
    }

    /// Returns the configuration of sessions, with generous limits.
    pub fn session_settings(&self) -> session::SessionConfig {
        session::SessionConfig {
            hostname: "here.example".to_owned(),
            size_max: 1024 * 1024,
            spool: self.join("spool"),
            mail_dir: self.join("mail"),
            outcome_timeout: TIMEOUT,
            ..Default::default()
        }
    }

    /// Returns the configuration of a server with `threads` threads.
    pub fn server_settings(&self, threads: usize) -> server::ServerConfig {
        server::ServerConfig {
            session: self.session_settings(),
            threads,
            per_client: threads,
            hand_over: None,
            grace: Duration::from_secs(10),
        }
    }

    /// Creates a server that delivers here.
    pub fn server(&self, config: server::ServerConfig) -> server::Server {
        let (handle, counters) = (self.handle.clone(), Arc::clone(&self.counters));
        server::Server::new(config, Arc::new(TestResolver), handle, counters).unwrap()
    }

    /// Creates what sessions that deliver here share.
    pub fn sessions(&self, config: session::SessionConfig) -> SessionContext {
        let (handle, counters) = (self.handle.clone(), Arc::clone(&self.counters));
        SessionContext::new(config, Arc::new(TestResolver), handle, counters)
    }

    /// Runs a server on a free port of 127.0.0.1.
    pub fn run(&self, config: server::ServerConfig) -> LibraryServer {
        let any_port = ListenAddress::Tcp { host: "127.0.0.1".to_owned(), port: 0, tls: false };
        let listeners = listen::open(&[any_port]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        self.run_on(config, listeners, address)
    }

    /// Runs a server on these listeners, of which the test connects to `address`.
    pub fn run_on<L: Accept + Send + 'static>(
        &self,
        config: server::ServerConfig,
        listeners: Vec<L>,
        address: SocketAddr,
    ) -> LibraryServer {
        let server = self.server(config);
        let handle = server.handle();
        let thread = std::thread::spawn(move || server.run(listeners).unwrap());
        LibraryServer { address, handle, thread: Some(thread) }
    }
}

impl Deref for MailStore {
    type Target = TestDirectory;

    fn deref(&self) -> &TestDirectory {
        &self.directory
    }
}

impl Drop for MailStore {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.stop();
        }
    }
}

/// A server in a thread, stopped when this is dropped.
pub struct LibraryServer {
    pub address: SocketAddr,
    pub handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl LibraryServer {
    /// Returns a client that has not read the greeting yet.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Returns a client that has been greeted.
    pub fn greeted(&self) -> Client {
        let mut client = self.connect();
        client.expect(220);
        client
    }

    /// Waits for the end, after a stop.
    pub fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for LibraryServer {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// A listener that reports these peers, one after the other, instead of the true ones.
pub struct FakePeers {
    listener: TcpListener,
    peers: Vec<Peer>,
    next: AtomicUsize,
}

impl FakePeers {
    pub fn new(peers: Vec<Peer>) -> (FakePeers, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (FakePeers { listener, peers, next: AtomicUsize::new(0) }, address)
    }
}

impl AsFd for FakePeers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Accept for FakePeers {
    fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (socket, _) = self.listener.accept()?;
        let next = self.next.fetch_add(1, Ordering::SeqCst);
        Ok((Socket::Tcp(socket), self.peers[next % self.peers.len()]))
    }
}

/// Returns the peer 192.0.2.`last`, a client of another host.
pub fn remote_peer(last: u8) -> Peer {
    Peer::ip(SocketAddr::from(([192, 0, 2, last], 4000)))
}

/// Runs one session with a client that sends all of `input` and closes its side. Returns how the
/// session ended and what the client read. Input and replies must fit into the socket's buffers.
pub fn run_session(sessions: &SessionContext, peer: Peer, input: &[u8]) -> (SessionEnd, String) {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(input).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut stream =
        Stream::new(Socket::Unix(server), peer, Duration::from_secs(300), TIMEOUT).unwrap();
    let end = sessions.serve(&mut stream);
    stream.close(end.lingers());
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    (end, replies)
}
