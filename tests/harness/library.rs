//! What the tests of the network side have in common: a server with its own recipients, real
//! mailboxes in a temporary folder, and a client that types.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mailslot::deliver::{self, WriterHandle, WriterThread};
use mailslot::message::peer::Peer;
use mailslot::message::{MailboxName, UserMailbox};
use mailslot::net::listen::{self, Accept, ListenAddress};
use mailslot::net::stream::{Socket, Stream};
use mailslot::observe::counters::Counters;
use mailslot::route::{Member, Refusal, Resolution, Route};
use mailslot::server::{self, Server, ServerHandle};
use mailslot::session::{self, SessionContext, SessionEnd};
use mailslot::smtp::{ForwardPath, Mailbox};

/// Longer than anything here takes, and shorter than a person waits.
pub const LONG: Duration = Duration::from_secs(30);

/// Every local part at any domain is a mailbox, but `nobody`, and `panic`, which panics.
pub struct Anybody;

impl Route for Anybody {
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        let (name, delivered_to) = match to {
            ForwardPath::Postmaster => ("postmaster", "postmaster@here".to_owned()),
            ForwardPath::Mailbox(mailbox) => (mailbox.local(), mailbox.to_string()),
        };
        match name {
            "nobody" => Err(Refusal::Unknown),
            "moved" => Err(Refusal::Forward(Mailbox::parse("new@elsewhere.example").unwrap())),
            "panic" => panic!("as asked"),
            _ => {
                let name = MailboxName::new(name).ok_or(Refusal::NameNotAllowed)?;
                Ok(Resolution::local(vec![UserMailbox { name, owner: None, delivered_to }]))
            }
        }
    }

    fn vrfy(&self, name: &str) -> Result<Member, Refusal> {
        let mailbox = Mailbox::parse(&format!("{name}@here.example")).unwrap();
        Ok(Member { full_name: "Somebody".to_owned(), mailbox })
    }

    fn expn(&self, list: &str) -> Result<Vec<Member>, Refusal> {
        Ok(vec![self.vrfy(list)?, self.vrfy("second")?])
    }
}

/// A folder for mail, and the writer into it.
pub struct House {
    pub counters: Arc<Counters>,
    pub post: WriterHandle,
    writer: Option<WriterThread>,
    folder: tempfile::TempDir,
}

impl House {
    pub fn new() -> House {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("mail")).unwrap();
        std::fs::create_dir(folder.path().join("spool")).unwrap();
        let counters = Arc::new(Counters::default());
        let settings = deliver::DeliveryConfig {
            mail_dir: folder.path().join("mail"),
            spool: folder.path().join("spool"),
            lock_timeout: Duration::from_secs(5),
            journal_segment: deliver::JOURNAL_SEGMENT_SMALL,
            ..Default::default()
        };
        let (post, writer) = deliver::start(settings, Arc::clone(&counters)).unwrap();
        House { counters, post, writer: Some(writer), folder }
    }

    /// The settings of a session: generous.
    pub fn session(&self) -> session::SessionConfig {
        session::SessionConfig {
            hostname: "here.example".to_owned(),
            size_max: 1024 * 1024,
            spool: self.folder.path().join("spool"),
            mail_dir: self.folder.path().join("mail"),
            outcome_timeout: LONG,
            ..Default::default()
        }
    }

    /// The settings of a server with `threads` threads.
    pub fn settings(&self, threads: usize) -> server::ServerConfig {
        server::ServerConfig {
            session: self.session(),
            threads,
            per_client: threads,
            grace: Duration::from_secs(10),
        }
    }

    pub fn server(&self, settings: server::ServerConfig) -> Server {
        Server::new(settings, Arc::new(Anybody), self.post.clone(), Arc::clone(&self.counters))
            .unwrap()
    }

    pub fn office(&self, settings: session::SessionConfig) -> SessionContext {
        SessionContext::new(
            settings,
            Arc::new(Anybody),
            self.post.clone(),
            Arc::clone(&self.counters),
        )
    }

    /// Runs a server on a free port of 127.0.0.1.
    pub fn run(&self, settings: server::ServerConfig) -> Running {
        let listeners = listen::open(&[localhost()]).unwrap();
        let address = listeners[0].local_addr().unwrap();
        self.run_on(settings, listeners, address)
    }

    pub fn run_on<L: Accept + Send + 'static>(
        &self,
        settings: server::ServerConfig,
        listeners: Vec<L>,
        address: SocketAddr,
    ) -> Running {
        let server = self.server(settings);
        let handle = server.handle();
        let thread = std::thread::spawn(move || server.run(listeners).unwrap());
        Running { address, handle, thread: Some(thread) }
    }

    /// What is in the mailbox of `user`.
    pub fn mailbox(&self, user: &str) -> String {
        std::fs::read_to_string(self.folder.path().join("mail").join(user)).unwrap_or_default()
    }

    /// How many messages are there.
    pub fn count(&self, user: &str) -> usize {
        self.mailbox(user).lines().filter(|line| line.starts_with("From ")).count()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.stop();
        }
    }
}

/// A listener whose connections come from where the test says, one after the other, and then from
/// the first again.
pub struct Guests {
    listener: TcpListener,
    peers: Vec<Peer>,
    next: AtomicUsize,
}

impl Guests {
    pub fn new(peers: Vec<Peer>) -> (Guests, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        (Guests { listener, peers, next: AtomicUsize::new(0) }, address)
    }
}

impl AsFd for Guests {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Accept for Guests {
    fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (socket, _) = self.listener.accept()?;
        let next = self.next.fetch_add(1, Ordering::SeqCst);
        Ok((Socket::Tcp(socket), self.peers[next % self.peers.len()]))
    }
}

pub fn localhost() -> ListenAddress {
    ListenAddress::Tcp { host: "127.0.0.1".to_owned(), port: 0, tls: false }
}

/// A server that runs; dropped, it stops.
pub struct Running {
    pub address: SocketAddr,
    pub handle: ServerHandle,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn connect(&self) -> Client<TcpStream> {
        Client::new(TcpStream::connect_timeout(&self.address, LONG).unwrap())
    }

    /// Waits for the end, after a stop.
    pub fn join(mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

/// What a client's socket can do besides reading and writing.
pub trait Wire: Read + Write + Sized {
    fn clone_of(&self) -> Self;
    fn limit(&self);
    fn close_write(&self);
}

impl Wire for TcpStream {
    fn clone_of(&self) -> TcpStream {
        self.try_clone().unwrap()
    }
    fn limit(&self) {
        self.set_nodelay(true).unwrap();
        self.set_read_timeout(Some(LONG)).unwrap();
        self.set_write_timeout(Some(LONG)).unwrap();
    }
    fn close_write(&self) {
        self.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

impl Wire for UnixStream {
    fn clone_of(&self) -> UnixStream {
        self.try_clone().unwrap()
    }
    fn limit(&self) {
        self.set_read_timeout(Some(LONG)).unwrap();
        self.set_write_timeout(Some(LONG)).unwrap();
    }
    fn close_write(&self) {
        self.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

/// A client that types, and reads whole replies.
pub struct Client<W: Wire> {
    pub socket: W,
    lines: BufReader<W>,
}

impl<W: Wire> Client<W> {
    pub fn new(socket: W) -> Client<W> {
        socket.limit();
        let lines = BufReader::new(socket.clone_of());
        Client { socket, lines }
    }

    pub fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).unwrap();
    }

    /// The next reply, all lines of it; empty at the end of the connection.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let begin = reply.len();
            self.lines.read_line(&mut reply).unwrap();
            if reply.as_bytes()[begin..].get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    /// Expects a reply that begins with `code`.
    pub fn expect(&mut self, code: &str) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(code), "expected {code}, not {reply:?}");
        reply
    }

    /// Sends a command and expects its reply.
    pub fn ask(&mut self, command: &str, code: &str) -> String {
        self.send(&format!("{command}\r\n"));
        self.expect(code)
    }

    /// Nothing more comes.
    pub fn expect_end(&mut self) {
        assert_eq!(self.reply(), "");
    }

    /// From the greeting to where mail data is awaited.
    pub fn up_to_data(&mut self, to: &str) {
        self.expect("220");
        self.ask("EHLO client.example", "250");
        self.ask("MAIL FROM:<jones@client.example>", "250");
        self.ask(&format!("RCPT TO:<{to}@here.example>"), "250");
        self.ask("DATA", "354");
    }
}

/// Has `office` serve a client that sends all of `input` and closes its side; returns how that
/// ended and what the client read. `input` and the replies must fit into the socket's buffers.
pub fn converse(office: &SessionContext, peer: Peer, input: &[u8]) -> (SessionEnd, String) {
    let (mut client, server) = UnixStream::pair().unwrap();
    client.write_all(input).unwrap();
    client.close_write();
    let mut stream =
        Stream::new(Socket::Unix(server), peer, Duration::from_secs(300), LONG).unwrap();
    let end = office.serve(&mut stream);
    stream.close(end.lingers());
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    (end, replies)
}

/// The codes of all replies, one each.
pub fn codes(replies: &str) -> Vec<&str> {
    replies.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).map(|l| &l[..3]).collect()
}

/// A client elsewhere.
pub fn stranger(last: u8) -> Peer {
    Peer::ip(SocketAddr::from(([192, 0, 2, last], 4000)))
}
