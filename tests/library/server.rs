//! The server around the sessions: full, shared, failing, stopping.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mailslot::message::peer::Peer;
use mailslot::net::listen::Accept;
use mailslot::net::stream::Socket;

use nix::errno::Errno;

use crate::harness::library::{Client, Guests, House, LONG, stranger};

#[test]
fn a_full_server_says_421_at_once_and_serves_again() {
    let house = House::new();
    let mut settings = house.settings(2);
    settings.session.timeout = Duration::from_secs(3000); // nobody idles, on a slow machine either
    let running = house.run(settings);
    let mut busy: Vec<_> = (0..2).map(|_| running.connect()).collect();
    busy.iter_mut().for_each(|client| drop(client.expect("220")));
    for _ in 0..20 {
        let began = Instant::now();
        let mut refused = running.connect();
        refused.expect("421 4.3.2 here.example ");
        refused.expect_end();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert_eq!(house.counters.sessions_rejected.value(), 20);
    // Whoever has read a 221 finds the place free, each time.
    for _ in 0..200 {
        busy[0].ask("QUIT", "221");
        busy[0] = running.connect();
        busy[0].expect("220");
    }
    // The others were not disturbed.
    busy[1].ask("NOOP", "250");
}

#[test]
fn a_full_server_gives_up_who_idles() {
    let house = House::new();
    let mut settings = house.settings(2);
    settings.session.timeout = Duration::from_secs(3); // idle: after a tenth of a second
    let running = house.run(settings);
    let mut first = running.connect();
    first.expect("220");
    let mut second = running.connect();
    second.expect("220");
    let deadline = Instant::now() + LONG;
    let mut third = running.connect();
    while third.reply().starts_with("421 4.3.2") {
        assert!(Instant::now() < deadline);
        third = running.connect();
    }
    third.ask("NOOP", "250");
    first.expect("421 4.4.2 here.example ");
    first.expect_end();
}

#[test]
fn one_client_gets_its_share_and_no_more() {
    let v6 = |text: &str| Peer::ip(SocketAddr::new(text.parse().unwrap(), 4000));
    let table = [
        (stranger(1), "220"),
        (stranger(1), "220"),
        (stranger(1), "421 4.3.2"),
        (stranger(2), "220"),
        (v6("::ffff:192.0.2.2"), "220"),
        (v6("::ffff:192.0.2.2"), "421 4.3.2"), // it is 192.0.2.2
        (v6("2001:db8::1"), "220"),
        (v6("2001:db8::2:2"), "220"),
        (v6("2001:db8:0:0:ffff::"), "421 4.3.2"), // the same /64
        (v6("2001:db8:0:1::"), "220"),
        (v6("::1"), "220"),
        (v6("127.0.0.1"), "220"),
        (v6("127.0.0.1"), "220"),
        (v6("::ffff:127.0.0.1"), "220"), // the third, if it counted
        (v6("127.0.0.2"), "220"),
        (v6("::ffff:127.0.0.2"), "220"),
        (v6("127.0.0.2"), "421 4.3.2"), // the host's, but somebody in particular
        (Peer::Unix, "220"),
        (stranger(1), "220"), // one of his has gone by then
    ];
    let house = House::new();
    let mut settings = house.settings(32);
    settings.per_client = 2;
    let (guests, address) = Guests::new(table.iter().map(|(peer, _)| *peer).collect());
    let running = house.run_on(settings, vec![guests], address);
    let mut clients: Vec<Client<TcpStream>> = Vec::new();
    for (i, (peer, code)) in table.iter().enumerate() {
        if i + 1 == table.len() {
            clients[0].ask("QUIT", "221");
        }
        let mut client = running.connect();
        let reply = client.reply();
        assert!(reply.starts_with(code), "{i} from {peer}: {reply}");
        clients.push(client);
    }
}

#[test]
fn a_small_pool_is_never_one_clients_alone() {
    let house = House::new();
    let mut peers = vec![stranger(1); 64];
    peers.push(stranger(2));
    let (guests, address) = Guests::new(peers);
    let running = house.run_on(house.settings(8), vec![guests], address);
    let mut clients: Vec<_> = (0..64).map(|_| running.connect()).collect();
    let served = clients.iter_mut().filter(|client| {
        // 220 or 421, told apart without waiting for either.
        let mut first = [0; 3];
        client.socket.peek(&mut first).unwrap();
        &first == b"220"
    });
    assert_eq!(served.count(), 4);
    running.connect().expect("220");
}

/// Fails as often as it is told before it works.
struct Failing {
    listener: TcpListener,
    errors: Vec<Errno>,
    calls: AtomicUsize,
}

impl AsFd for Failing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Accept for Failing {
    fn accept(&self) -> io::Result<(Socket, Peer)> {
        if let Some(error) = self.errors.get(self.calls.fetch_add(1, Ordering::SeqCst)) {
            return Err((*error).into());
        }
        let (socket, address) = self.listener.accept()?;
        Ok((Socket::Tcp(socket), Peer::ip(address)))
    }
}

fn failing(errors: &[Errno]) -> (Failing, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (Failing { listener, errors: errors.to_vec(), calls: AtomicUsize::new(0) }, address)
}

#[test]
fn a_failing_accept_pauses_and_goes_on() {
    use Errno::{ECONNABORTED, EINTR, ENOBUFS, ENOMEM, EPROTO};
    let house = House::new();
    let (listener, address) = failing(&[ECONNABORTED, EPROTO, ENOBUFS, ENOMEM, EINTR, ENOBUFS]);
    let running = house.run_on(house.settings(4), vec![listener], address);
    let mut clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    clients.iter_mut().for_each(|client| drop(client.expect("220")));
}

#[test]
fn without_descriptors_a_client_hears_421() {
    let house = House::new();
    // The first client meets EMFILE, and then the descriptor in reserve; the second no error.
    let (listener, address) = failing(&[Errno::EMFILE]);
    let running = house.run_on(house.settings(4), vec![listener], address);
    let mut refused = running.connect();
    refused.expect("421 4.3.2 ");
    refused.expect_end();
    running.connect().expect("220");
}

#[test]
fn a_panic_ends_its_session_and_no_other() {
    let house = House::new();
    let running = house.run(house.settings(2));
    let mut other = running.connect();
    other.expect("220");
    // More panics than threads.
    for _ in 0..6 {
        let mut client = running.connect();
        client.expect("220");
        client.ask("EHLO c", "250");
        client.ask("MAIL FROM:<>", "250");
        client.ask("RCPT TO:<panic@here.example>", "421 4.3.0 here.example ");
        client.expect_end();
    }
    assert_eq!(house.counters.sessions_panicked.value(), 6);
    other.ask("NOOP", "250");
    let mut client = running.connect();
    client.up_to_data("smith");
    client.ask("hello\r\n.", "250");
}

#[test]
fn a_stop_ends_idle_sessions_and_finishes_messages() {
    let house = House::new();
    let running = house.run(house.settings(4));
    let mut idle = running.connect();
    idle.expect("220");
    let mut in_data = running.connect();
    in_data.up_to_data("smith");
    in_data.send("half of");
    let began = Instant::now();
    running.handle.stop();
    idle.expect("421 4.3.2 here.example ");
    idle.expect_end();
    in_data.ask(" it\r\n.", "250");
    in_data.ask("NOOP", "421 4.3.2 here.example ");
    in_data.expect_end();
    let address = running.address;
    running.join();
    assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    assert!(house.mailbox("smith").contains("\nhalf of it\n"));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let house = House::new();
    let mut settings = house.settings(4);
    settings.grace = Duration::from_millis(200);
    let running = house.run(settings);
    let mut in_data = running.connect();
    in_data.up_to_data("smith");
    in_data.send("never to end");
    running.handle.stop();
    running.join();
    assert!(!in_data.reply().starts_with("250"));
    assert_eq!(house.count("smith"), 0);
}

#[test]
fn a_stop_reaches_who_is_served_alone() {
    let house = House::new();
    let (client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    let alone = house.server(house.settings(1));
    let handle = alone.handle();
    let mut client = Client::new(client);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| alone.serve_one(Socket::Unix(server), Peer::Unix).unwrap());
        client.expect("220");
        handle.stop();
        client.expect("421 4.3.2");
        assert_eq!(served.join().unwrap().unwrap().exit_status(), 75);
    });
}
