//! The acceptor and the pool of threads: full, shared among clients, failing, stopping.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mailslot::message::peer::Peer;
use mailslot::net::listen::Accept;
use mailslot::net::stream::Socket;
use nix::errno::Errno;

use crate::harness::TIMEOUT;
use crate::harness::client::Client;
use crate::harness::library::{FakePeers, MailStore, remote_peer};

#[test]
fn full_server_replies_421_at_once() {
    let store = MailStore::new();
    let mut config = store.server_settings(2);
    config.session.timeout = Duration::from_secs(3000); // no session is idle
    let running = store.run(config);
    let mut busy: Vec<_> = (0..2).map(|_| running.connect()).collect();
    busy.iter_mut().for_each(|client| drop(client.expect(220)));
    for _ in 0..20 {
        let began = Instant::now();
        let mut refused = running.connect();
        refused.expect("421 4.3.2 here.example ");
        refused.expect_end();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert_eq!(store.counters.sessions_rejected.value(), 20);
    // A client that has read a 221 finds the slot free, each time.
    for _ in 0..200 {
        busy[0].command("QUIT", 221);
        busy[0] = running.connect();
        busy[0].expect(220);
    }
    // The others were not disturbed.
    busy[1].command("NOOP", 250);
}

#[test]
fn full_server_evicts_an_idle_session() {
    let store = MailStore::new();
    let mut config = store.server_settings(2);
    config.session.timeout = Duration::from_secs(3); // idle after a tenth of a second
    let running = store.run(config);
    let mut first = running.greeted();
    let _second = running.greeted();
    let deadline = Instant::now() + TIMEOUT;
    let mut third = running.connect();
    while third.reply().starts_with("421 4.3.2") {
        assert!(Instant::now() < deadline);
        third = running.connect();
    }
    third.command("NOOP", 250);
    first.expect("421 4.4.2 here.example ");
    first.expect_end();
}

#[test]
fn limit_of_sessions_for_a_client() {
    let v6 = |text: &str| Peer::ip(SocketAddr::new(text.parse().unwrap(), 4000));
    let table = [
        (remote_peer(1), "220"),
        (remote_peer(1), "220"),
        (remote_peer(1), "421 4.3.2"),
        (remote_peer(2), "220"),
        (v6("::ffff:192.0.2.2"), "220"),
        (v6("::ffff:192.0.2.2"), "421 4.3.2"), // it is 192.0.2.2
        (v6("2001:db8::1"), "220"),
        (v6("2001:db8::2:2"), "220"),
        (v6("2001:db8:0:0:ffff::"), "421 4.3.2"), // the same /64
        (v6("2001:db8:0:1::"), "220"),
        (v6("::1"), "220"),
        (v6("127.0.0.1"), "220"),
        (v6("127.0.0.1"), "220"),
        (v6("::ffff:127.0.0.1"), "220"), // would be the third if it counted
        (v6("127.0.0.2"), "220"),
        (v6("::ffff:127.0.0.2"), "220"),
        (v6("127.0.0.2"), "421 4.3.2"), // an address of this host, but a particular client
        (Peer::Unix, "220"),
        (remote_peer(1), "220"), // one of its sessions has ended by then
    ];
    let store = MailStore::new();
    let mut config = store.server_settings(32);
    config.per_client = 2;
    let (peers, address) = FakePeers::new(table.iter().map(|(peer, _)| *peer).collect());
    let running = store.run_on(config, vec![peers], address);
    let mut clients: Vec<Client<TcpStream>> = Vec::new();
    for (i, (peer, code)) in table.iter().enumerate() {
        if i + 1 == table.len() {
            clients[0].command("QUIT", 221);
        }
        let mut client = running.connect();
        let reply = client.reply();
        assert!(reply.starts_with(code), "{i} from {peer}: {reply}");
        clients.push(client);
    }
}

#[test]
fn one_client_cannot_fill_a_small_pool() {
    let store = MailStore::new();
    let mut peers = vec![remote_peer(1); 64];
    peers.push(remote_peer(2));
    let (peers, address) = FakePeers::new(peers);
    let running = store.run_on(store.server_settings(8), vec![peers], address);
    let mut clients: Vec<_> = (0..64).map(|_| running.connect()).collect();
    let codes = clients.iter_mut().map(|client| client.reply().code);
    assert_eq!(codes.filter(|code| *code == 220).count(), 4);
    running.connect().expect(220);
}

/// A listener that fails with these errors before it works.
struct FailingListener {
    listener: TcpListener,
    errors: Vec<Errno>,
    calls: AtomicUsize,
}

impl AsFd for FailingListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Accept for FailingListener {
    fn accept(&self) -> io::Result<(Socket, Peer)> {
        if let Some(error) = self.errors.get(self.calls.fetch_add(1, Ordering::SeqCst)) {
            return Err((*error).into());
        }
        let (socket, address) = self.listener.accept()?;
        Ok((Socket::Tcp(socket), Peer::ip(address)))
    }
}

fn failing_listener(errors: &[Errno]) -> (FailingListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (FailingListener { listener, errors: errors.to_vec(), calls: AtomicUsize::new(0) }, address)
}

#[test]
fn failing_accept_is_retried() {
    use Errno::{ECONNABORTED, EINTR, ENOBUFS, ENOMEM, EPROTO};
    let store = MailStore::new();
    let (listener, address) =
        failing_listener(&[ECONNABORTED, EPROTO, ENOBUFS, ENOMEM, EINTR, ENOBUFS]);
    let running = store.run_on(store.server_settings(4), vec![listener], address);
    let mut clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.expect(220)));
}

#[test]
fn no_descriptors_is_421() {
    let store = MailStore::new();
    // Accepting the first client fails with EMFILE, and then uses the reserve descriptor. Accepting
    // the second one succeeds.
    let (listener, address) = failing_listener(&[Errno::EMFILE]);
    let running = store.run_on(store.server_settings(4), vec![listener], address);
    let mut refused = running.connect();
    refused.expect("421 4.3.2 ");
    refused.expect_end();
    running.connect().expect(220);
}

#[test]
fn panic_ends_only_its_session() {
    let store = MailStore::new();
    let running = store.run(store.server_settings(2));
    let mut other = running.greeted();
    // More panics than threads.
    for _ in 0..6 {
        let mut client = running.greeted();
        client.command("EHLO c", 250);
        client.command("MAIL FROM:<>", 250);
        client.command("RCPT TO:<panic@here.example>", "421 4.3.0 here.example ");
        client.expect_end();
    }
    assert_eq!(store.counters.sessions_panicked.value(), 6);
    other.command("NOOP", 250);
    let mut client = running.greeted();
    client.begin_data("smith");
    client.command("hello\r\n.", 250);
}

#[test]
fn stop_ends_idle_sessions_and_finishes_messages() {
    let store = MailStore::new();
    let mut config = store.server_settings(4);
    // A client that is silent for a sixth of it is not waited for.
    config.grace = Duration::from_secs(600);
    let running = store.run(config);
    let mut idle = running.greeted();
    let mut in_data = running.greeted();
    in_data.begin_data("smith");
    in_data.send("half of");
    let began = Instant::now();
    running.handle.stop();
    idle.expect("421 4.3.2 here.example ");
    idle.expect_end();
    in_data.command(" it\r\n.", 250);
    in_data.command("NOOP", "421 4.3.2 here.example ");
    in_data.expect_end();
    let address = running.address;
    running.join();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(store.mailbox("smith").contains("\nhalf of it\n"));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn stop_does_not_wait_for_clients_that_are_silent_in_mail_data() {
    let store = MailStore::new();
    let mut config = store.server_settings(8);
    config.grace = Duration::from_secs(12);
    let running = store.run(config);
    let mut silent: Vec<_> = (0..5).map(|_| running.greeted()).collect();
    for client in &mut silent {
        client.begin_data("smith");
        client.send("half of");
    }
    let began = Instant::now();
    running.handle.stop();
    for client in &mut silent {
        client.expect("421 4.3.2 here.example ");
        client.expect_end();
    }
    running.join();
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(store.count("smith"), 0);
}

#[test]
fn message_that_waits_for_the_writer_at_a_stop_gets_a_reply() {
    let store = MailStore::with(|config| config.lock_timeout = Duration::from_secs(600));
    let mut config = store.server_settings(4);
    config.grace = Duration::from_secs(2);
    config.session.outcome_timeout = Duration::from_secs(600);
    let running = store.run(config);
    let lock = store.mailbox_path("smith").with_extension("lock");
    std::fs::write(&lock, "").unwrap();
    let mut client = running.greeted();
    client.begin_data("smith");
    client.send("hello\r\n.\r\n");
    while store.counters.lock_waits.value() == 0 {
        std::thread::yield_now();
    }
    running.handle.stop();
    client.expect("451 4.3.2 ");
    running.join();
    std::fs::remove_file(&lock).unwrap();
    // The client tries again, so it is not delivered after that reply.
    let directory = store.stop();
    assert_eq!(directory.mailbox("smith"), "");
}

#[test]
fn stop_has_a_time_limit() {
    let store = MailStore::new();
    let mut config = store.server_settings(4);
    config.grace = Duration::from_millis(200);
    let running = store.run(config);
    let mut in_data = running.greeted();
    in_data.begin_data("smith");
    in_data.send("never to end");
    running.handle.stop();
    running.join();
    assert!(!in_data.reply().starts_with("250"));
    assert_eq!(store.count("smith"), 0);
}

#[test]
fn stop_ends_a_single_session() {
    let store = MailStore::new();
    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    let alone = store.server(store.server_settings(1));
    let handle = alone.handle();
    let mut client = Client::new(client);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| alone.serve_one(Socket::Unix(server), Peer::Unix).unwrap());
        client.expect(220);
        handle.stop();
        client.expect("421 4.3.2");
        assert_eq!(served.join().unwrap().unwrap().exit_status(), 75);
    });
}
