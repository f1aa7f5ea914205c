//! The server under attack: clients that occupy sessions without sending mail must not keep out
//! those that do.
//!
//! On Linux all of 127/8 are addresses of this host, so each client here can have its own.
//! 127.0.0.1 stands for local programs. The server treats the other addresses like any remote
//! client.

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

/// Behaviour of an attacker.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Sends nothing.
    Silent,
    /// Sends a byte every half second, so that it is never silent for a second.
    Slow,
    /// Sends commands and never reads a reply.
    NotReading,
}

const ALL: [Kind; 3] = [Kind::Silent, Kind::Slow, Kind::NotReading];

/// Connects from the address `source`.
fn connect_from(source: Ipv4Addr, to: SocketAddr, receives: Option<usize>) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    if let Some(bytes) = receives {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect_timeout(&to.into(), TIMEOUT).unwrap();
    socket.into()
}

/// An attacker, which connects again as soon as it is disconnected.
struct Attacker {
    kind: Kind,
    source: Ipv4Addr,
    stream: TcpStream,
    said: Instant,
    sent: usize,
}

impl Attacker {
    fn new(kind: Kind, source: Ipv4Addr, to: SocketAddr) -> Attacker {
        // Small, so that the replies soon fill the buffers.
        let receives = matches!(kind, Kind::NotReading).then_some(2048);
        let stream = connect_from(source, to, receives);
        stream.set_nonblocking(true).unwrap();
        Attacker { kind, source, stream, said: Instant::now(), sent: 0 }
    }

    /// Acts once. False if the server has closed the connection.
    fn act(&mut self) -> bool {
        let waits = |e: &std::io::Error| e.kind() == ErrorKind::WouldBlock;
        match self.kind {
            Kind::NotReading => {
                let asks = b"HELP\r\n".repeat(1000);
                self.stream.write(&asks).map_or_else(|e| waits(&e), |_| true)
            }
            Kind::Slow if self.said.elapsed() >= Duration::from_millis(500) => {
                self.said = Instant::now();
                self.sent += 1;
                // A command now and then.
                let line = b"EHLO attacker.example\r\n";
                let byte = &line[self.sent % line.len()..][..1];
                self.stream.write(byte).is_ok() && self.read_some()
            }
            Kind::Slow | Kind::Silent => self.read_some(),
        }
    }

    fn read_some(&mut self) -> bool {
        match self.stream.read(&mut [0; 4096]) {
            Ok(n) => n > 0,
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// Runs 200 attackers of these kinds from `sources` while `meanwhile` runs.
fn under_attack(to: SocketAddr, kinds: &[Kind], sources: &[Ipv4Addr], meanwhile: impl FnOnce()) {
    let one = |n: usize| Attacker::new(kinds[n % kinds.len()], sources[n % sources.len()], to);
    attack_by((0..200).map(one).collect(), meanwhile, |attacker| {
        *attacker = Attacker::new(attacker.kind, attacker.source, to);
    });
}

/// Runs `attackers` while `meanwhile` runs. Each that the server disconnects is given to
/// `disconnected`.
fn attack_by(
    mut attackers: Vec<Attacker>,
    meanwhile: impl FnOnce(),
    disconnected: impl Fn(&mut Attacker) + Send,
) {
    let over = AtomicBool::new(false);
    // Ends the attack even if `meanwhile` fails.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    std::thread::scope(|scope| {
        let _over = Over(&over);
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::SeqCst) {
                for attacker in &mut attackers {
                    if !attacker.act() {
                        disconnected(attacker);
                    }
                }
                std::thread::sleep(Duration::from_millis(100)); // the pace of the attackers
            }
        });
        meanwhile();
    });
}

/// Delivers a message from `source`, retrying after 421 as a real client does, only sooner. Returns
/// the time it took.
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
        assert!(began.elapsed() < limit, "{source} was refused for too long");
        std::thread::sleep(Duration::from_millis(100)); // the retry interval
    }
}

/// Delivers mail during the attack, to the program with its default options.
fn deliver_during_attack(kinds: &[Kind], attackers: &[Ipv4Addr]) {
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
fn attack_from_one_address() {
    let _machine = super::shared();
    deliver_during_attack(&ALL, &[Ipv4Addr::new(127, 0, 0, 2)]);
}

/// Attacks from enough addresses to take all threads that remote clients may have.
fn attack_from_many(kinds: &[Kind]) {
    let addresses: Vec<_> = (1..=25).map(|n| Ipv4Addr::new(127, 1, 0, n)).collect();
    deliver_during_attack(kinds, &addresses);
}

#[test]
fn attack_from_many_addresses() {
    let _machine = super::shared();
    attack_from_many(&ALL);
}

#[test]
fn attack_by_silent_clients() {
    let _machine = super::shared();
    attack_from_many(&[Kind::Silent]);
}

#[test]
fn attack_by_slow_clients() {
    let _machine = super::shared();
    attack_from_many(&[Kind::Slow]);
}

#[test]
fn attack_by_clients_that_never_read() {
    let _machine = super::shared();
    attack_from_many(&[Kind::NotReading]);
}

/// Programs of this host that never read take every thread of a small pool. The kernels take more
/// of the replies for many seconds, and that must not count as reading.
#[test]
fn a_newcomer_is_served_in_a_small_pool_of_clients_that_never_read() {
    let _machine = super::shared();
    let server = Server::start(&["--threads", "8"]);
    let to = server.address;
    let attacker = |_| Attacker::new(Kind::NotReading, Ipv4Addr::LOCALHOST, to);
    let newcomer = || {
        // An idle client loses its place after a sixtieth of the timeout, 5 s.
        let took = delivers(Ipv4Addr::LOCALHOST, to, Duration::from_secs(15));
        println!("a newcomer was served after {took:?}");
    };
    attack_by((0..8).map(attacker).collect(), newcomer, |_| {});
}

#[test]
fn a_thread_is_reserved_for_local_clients() {
    let _machine = super::shared();
    let store = MailStore::new();
    // One of 8 threads is reserved.
    let peers: Vec<_> =
        (1..=20).map(remote_peer).chain([mailslot::message::peer::Peer::Unix]).collect();
    let (peers, address) = FakePeers::new(peers);
    let running = store.run_on(store.server_settings(8), vec![peers], address);
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

/// Limits during overload, and after it.
#[test]
fn limits_during_overload() {
    let _machine = super::shared();
    let store = MailStore::new();
    let mut settings = store.server_settings(10);
    settings.session.timeout = Duration::from_secs(30);
    // One of ten threads is reserved for local clients. Nine sessions of remote ones are nine
    // tenths.
    let (peers, address) = FakePeers::new((1..=200).map(remote_peer).collect());
    let running = store.run_on(settings, vec![peers], address);
    let mut first = running.greeted();
    (0..3).for_each(|_| drop(first.command("WIZ", 500)));
    first.command("NOOP", 250);
    let mut crowd: Vec<_> = (1..9).map(|_| running.connect()).collect();
    crowd.iter_mut().for_each(|client| drop(client.expect(220)));
    let began = |n| store.counters.overloads.value() == n;
    wait_until("overload is detected", || began(1));
    // After a thirtieth of the timeout the slow clients are disconnected.
    for client in &mut crowd {
        client.expect("421 4.4.2 here.example closing transmission channel: idle or slow");
        client.expect_end();
    }
    assert!(store.counters.sessions_evicted.value() >= 8);
    let replies_to = |command: &str| {
        let mut client = running.greeted();
        (0..4)
            .map(|_| {
                // The server may have closed the connection.
                let _ = client.stream().write_all(format!("{command}\r\n").as_bytes());
                client.reply().get(..3).unwrap_or_default().to_owned()
            })
            .collect::<Vec<_>>()
    };
    // One error is allowed, and one command without effect.
    assert_eq!(replies_to("WIZ"), ["500", "421", "", ""]);
    assert_eq!(replies_to("NOOP"), ["250", "250", "421", ""]);
    // After a fifth of the timeout the limits are normal again.
    wait_until("overload ends", || replies_to("WIZ") == ["500"; 4]);
    assert_eq!(replies_to("NOOP"), ["250"; 4]);
    assert!(began(1));
}

#[test]
fn overload_is_logged() {
    let _machine = super::shared();
    // One of two threads is reserved.
    let server = Server::start(&["--threads", "2", "--timeout", "3"]);
    let mut only = Client::new(connect_from(Ipv4Addr::new(127, 0, 0, 2), server.address, None));
    only.expect(220);
    let line = server.wait_for_log("overload-started");
    assert!(line.ends_with("WARN  overload-started sessions=1 threads=2 timeout=0.1"), "{line}");
    drop(only);
    let line = server.wait_for_log("overload-");
    assert!(line.contains("INFO  overload-ended seconds="), "{line}");
}

/// Returns the threads, descriptors and KiB of memory of a process.
fn resources_of(pid: Pid) -> (usize, usize, usize) {
    let proc = format!("/proc/{pid}");
    let count = |what: &str| fs::read_dir(format!("{proc}/{what}")).unwrap().count();
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (count("task"), count("fd"), memory)
}

/// Makes connections as fast as possible, from eight addresses, 250 at a time.
fn burst(to: SocketAddr, count: usize) {
    std::thread::scope(|scope| {
        for client in 0..8 {
            let source = Ipv4Addr::new(127, 2, 0, client);
            scope.spawn(move || {
                for _ in 0..count / 8 / 250 {
                    let open: Vec<_> = (0..250).map(|_| connect_from(source, to, None)).collect();
                    for (n, mut stream) in open.into_iter().enumerate() {
                        match n % 3 {
                            // The server may have closed the connection.
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
fn twenty_thousand_connections_leave_no_resources() {
    let _machine = super::shared();
    let server = Server::start(&[]);
    let mut first = server.greeted();
    first.command("QUIT", 221);
    assert!(first.is_closed());
    let (threads, descriptors, _) = resources_of(server.pid());
    let over = || wait_until("it is over", || resources_of(server.pid()).1 == descriptors);
    // Stacks and log buffers that the first connections need are kept.
    burst(server.address, 2_000);
    over();
    let (.., memory) = resources_of(server.pid());
    let began = Instant::now();
    burst(server.address, 20_000);
    let took = began.elapsed();
    over();
    let (threads_after, _, memory_after) = resources_of(server.pid());
    println!(
        "{took:?}; {threads} threads, {descriptors} descriptors, {memory} KiB; {memory_after}"
    );
    assert_eq!(threads_after, threads);
    assert!(memory_after < memory + 4096, "{memory} KiB became {memory_after}");
    let mut client = server.after_ehlo();
    client.deliver("a@b.example", &["smith@here.example"], "\r\nstill here\r\n", 250);
}
