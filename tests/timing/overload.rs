//! The server under attack: clients that hold their places and do nothing for them must not keep
//! out those that bring mail.
//!
//! On Linux all of 127/8 is this host's, so that each client here can come from an address of its
//! own. 127.0.0.1 is where the host's own programs come from; to the server the others are clients
//! like any other.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::harness::client::Client;
use crate::harness::library::{FakePeers, MailStore, remote_peer};
use crate::harness::server::Server;
use crate::harness::{TIMEOUT, wait_until};

/// How an attacker holds its place.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// By saying nothing.
    Silent,
    /// By an octet every half second, so that it is never silent for one.
    Dribbling,
    /// By asking, and never reading an answer.
    Deaf,
}

const ALL: [Kind; 3] = [Kind::Silent, Kind::Dribbling, Kind::Deaf];

/// Connects from `source`.
fn connect_from(source: Ipv4Addr, to: SocketAddr, receives: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Some(octets) = receives {
        socket.set_recv_buffer_size(octets).unwrap();
    }
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), TIMEOUT).unwrap();
    socket.into()
}

/// One attacker, who comes again as soon as it is thrown out.
struct Attacker {
    kind: Kind,
    source: Ipv4Addr,
    stream: TcpStream,
    said: Instant,
    sent: usize,
}

impl Attacker {
    fn new(kind: Kind, source: Ipv4Addr, to: SocketAddr) -> Attacker {
        // So that the server's replies fill what there is to hold them.
        let receives = matches!(kind, Kind::Deaf).then_some(2048);
        let stream = connect_from(source, to, receives);
        stream.set_nonblocking(true).unwrap();
        Attacker { kind, source, stream, said: Instant::now(), sent: 0 }
    }

    /// Does what it does; false once the server has had enough of it.
    fn act(&mut self) -> bool {
        let waits = |e: &std::io::Error| e.kind() == ErrorKind::WouldBlock;
        match self.kind {
            Kind::Deaf => {
                let asks = b"HELP\r\n".repeat(1000);
                self.stream.write(&asks).map_or_else(|e| waits(&e), |_| true)
            }
            Kind::Dribbling if self.said.elapsed() >= Duration::from_millis(500) => {
                self.said = Instant::now();
                self.sent += 1;
                // Commands, now and then.
                let line = b"EHLO attacker.example\r\n";
                let octet = &line[self.sent % line.len()..][..1];
                self.stream.write(octet).is_ok() && self.hears()
            }
            Kind::Dribbling | Kind::Silent => self.hears(),
        }
    }

    fn hears(&mut self) -> bool {
        match self.stream.read(&mut [0; 4096]) {
            Ok(n) => n > 0,
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// 200 attackers of these kinds from `sources`, for as long as `meanwhile` takes.
fn under_attack(to: SocketAddr, kinds: &[Kind], sources: &[Ipv4Addr], meanwhile: impl FnOnce()) {
    let over = AtomicBool::new(false);
    // Also when `meanwhile` fails.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let one = |n: usize| Attacker::new(kinds[n % kinds.len()], sources[n % sources.len()], to);
    let mut attackers: Vec<Attacker> = (0..200).map(one).collect();
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                for attacker in &mut attackers {
                    if !attacker.act() {
                        *attacker = Attacker::new(attacker.kind, attacker.source, to);
                    }
                }
                std::thread::sleep(Duration::from_millis(100)); // their pace
            }
        });
        meanwhile();
    });
}

/// Delivers a message from `source`, coming again after 421 as a real client does, only sooner;
/// how long it took.
fn delivers(source: Ipv4Addr, to: SocketAddr, limit: Duration) -> Duration {
    let began = Instant::now();
    loop {
        let mut client = Client::new(connect_from(source, to, None));
        let greeting = client.reply();
        if greeting.starts_with("220") {
            client.command("EHLO client.example", 250);
            client.command("MAIL FROM:<jones@client.example>", 250);
            client.command("RCPT TO:<smith@here.example>", 250);
            client.command("DATA", 354);
            client.command("Subject: from here\r\n\r\nwell behaved\r\n.", 250);
            client.command("QUIT", 221);
            let took = began.elapsed();
            assert!(took < limit, "{source} took {took:?}");
            return took;
        }
        assert!(greeting.starts_with("421"), "{greeting}");
        assert!(began.elapsed() < limit, "{source} is kept out");
        std::thread::sleep(Duration::from_millis(100)); // its patience
    }
}

/// The good clients beside 200 attackers, against the program as it is by default.
fn good_clients_get_in(kinds: &[Kind], attackers: &[Ipv4Addr]) {
    let server = Server::start(&[]);
    let to = server.address;
    under_attack(to, kinds, attackers, || {
        for round in 0..3 {
            let cron = delivers(Ipv4Addr::LOCALHOST, to, Duration::from_secs(2));
            let neighbour = delivers(Ipv4Addr::new(127, 0, 0, 3), to, Duration::from_secs(15));
            println!("{kinds:?} {round}: this host {cron:?}, another client {neighbour:?}");
        }
    });
    assert_eq!(server.mailbox("smith").matches("\nwell behaved\n").count(), 6);
}

#[test]
fn two_hundred_from_one_address_keep_nobody_out() {
    let _machine = super::shared();
    good_clients_get_in(&ALL, &[Ipv4Addr::new(127, 0, 0, 2)]);
}

/// Enough of them to take all places that others than this host may have.
fn from_many(kinds: &[Kind]) {
    let addresses: Vec<_> = (1..=25).map(|n| Ipv4Addr::new(127, 1, 0, n)).collect();
    good_clients_get_in(kinds, &addresses);
}

#[test]
fn two_hundred_from_many_addresses_keep_nobody_out() {
    let _machine = super::shared();
    from_many(&ALL);
}

#[test]
fn two_hundred_who_say_nothing_keep_nobody_out() {
    let _machine = super::shared();
    from_many(&[Kind::Silent]);
}

#[test]
fn two_hundred_who_dribble_keep_nobody_out() {
    let _machine = super::shared();
    from_many(&[Kind::Dribbling]);
}

#[test]
fn two_hundred_who_never_read_keep_nobody_out() {
    let _machine = super::shared();
    from_many(&[Kind::Deaf]);
}

#[test]
fn a_place_is_kept_for_this_host() {
    let _machine = super::shared();
    let store = MailStore::new();
    // Of 8 threads.
    let peers: Vec<_> = (1..=20).map(remote_peer).chain([mailslot::stream::Peer::Unix]).collect();
    let (guests, address) = FakePeers::new(peers);
    let running = store.run_on(store.server_settings(8), vec![guests], address);
    let mut clients: Vec<_> = (0..20).map(|_| running.connect()).collect();
    let served = clients.iter_mut().filter_map(|client| {
        let reply = client.reply();
        reply.starts_with("220").then_some(client)
    });
    let mut served: Vec<_> = served.collect();
    assert_eq!(served.len(), 7);
    served[0].command("NOOP", 250);
    running.connect().expect(220);
}

/// What is allowed under stress, and again when it is over.
#[test]
fn stress_begins_and_ends() {
    let _machine = super::shared();
    let store = MailStore::new();
    let mut settings = store.server_settings(10);
    settings.session.timeout = Duration::from_secs(30);
    // One of ten is kept for this host; of the other nine, nine are nine tenths and more.
    let (guests, address) = FakePeers::new((1..=200).map(remote_peer).collect());
    let running = store.run_on(settings, vec![guests], address);
    let mut first = running.greeted();
    (0..3).for_each(|_| drop(first.command("WIZ", 500)));
    first.command("NOOP", 250);
    let mut crowd: Vec<_> = (1..9).map(|_| running.connect()).collect();
    crowd.iter_mut().for_each(|client| drop(client.expect(220)));
    let began = |n| store.counters.stresses.value() == n;
    wait_until("overload is detected", || began(1));
    // A thirtieth of the time-out, and the slow ones are out.
    for client in &mut crowd {
        client.expect("421 4.4.2 here.example closing transmission channel: idle or slow");
        client.expect_end();
    }
    assert!(store.counters.sessions_given_up.value() >= 8);
    let says = |command: &str| {
        let mut client = running.greeted();
        (0..4)
            .map(|_| {
                // It may be closed already.
                let _ = client.stream().write_all(format!("{command}\r\n").as_bytes());
                client.reply().get(..3).unwrap_or_default().to_owned()
            })
            .collect::<Vec<_>>()
    };
    // One error is answered, and one command that is for nothing is no error.
    assert_eq!(says("WIZ"), ["500", "421", "", ""]);
    assert_eq!(says("NOOP"), ["250", "250", "421", ""]);
    // After a fifth of the time-out all is as it was.
    wait_until("overload ends", || says("WIZ") == ["500"; 4]);
    assert_eq!(says("NOOP"), ["250"; 4]);
    assert!(began(1));
}

#[test]
fn the_log_tells_when_stress_begins_and_ends() {
    let _machine = super::shared();
    // Of two threads one is kept for this host.
    let server = Server::start(&["--threads", "2", "--timeout", "3"]);
    let mut only = Client::new(connect_from(Ipv4Addr::new(127, 0, 0, 2), server.address, None));
    only.expect(220);
    let line = server.wait_for_log("stress begins");
    assert!(
        line.ends_with("WARN  stress begins sessions=1 threads=2 timeout=0.1 errors=1"),
        "{line}"
    );
    drop(only);
    let line = server.wait_for_log("stress ");
    assert!(line.contains("INFO  stress ends seconds="), "{line}");
}

/// What a process has: threads, descriptors, and KiB of memory.
fn holds(pid: Pid) -> (usize, usize, usize) {
    let proc = format!("/proc/{pid}");
    let count = |what: &str| fs::read_dir(format!("{proc}/{what}")).unwrap().count();
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (count("task"), count("fd"), memory)
}

/// Connections as fast as they can be made, from eight addresses, 250 at a time.
fn burst(to: SocketAddr, count: usize) {
    std::thread::scope(|scope| {
        for client in 0..8 {
            let source = Ipv4Addr::new(127, 2, 0, client);
            scope.spawn(move || {
                for _ in 0..count / 8 / 250 {
                    let open: Vec<_> = (0..250).map(|_| connect_from(source, to, None)).collect();
                    for (n, mut stream) in open.into_iter().enumerate() {
                        match n % 3 {
                            // It is thrown out perhaps, and then it cannot be written to.
                            0 => drop(stream.write_all(b"EHLO c\r\nMAIL FROM:<>\r\n")),
                            1 => drop(stream.read(&mut [0; 512])),
                            _ => {}
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn twenty_thousand_connections_leave_nothing_behind() {
    let _machine = super::shared();
    let server = Server::start(&[]);
    let mut first = server.greeted();
    first.command("QUIT", 221);
    assert!(first.is_closed());
    let (threads, descriptors, _) = holds(server.pid());
    let over = || wait_until("it is over", || holds(server.pid()).1 == descriptors);
    // What the first ones need stays: stacks, buffers of the log.
    burst(server.address, 2_000);
    over();
    let (.., memory) = holds(server.pid());
    let began = Instant::now();
    burst(server.address, 20_000);
    let took = began.elapsed();
    over();
    let (threads_after, _, memory_after) = holds(server.pid());
    println!(
        "{took:?}; {threads} threads, {descriptors} descriptors, {memory} KiB; {memory_after}"
    );
    assert_eq!(threads_after, threads);
    assert!(memory_after < memory + 4096, "{memory} KiB became {memory_after}");
    let mut client = server.after_ehlo();
    client.deliver("a@b.example", &["smith@here.example"], "\r\nstill here\r\n", 250);
}
