//! The real program under a service manager: signals, notifications, and sockets that are passed.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::server::{PROGRAM, Server, mailslot, sendmail_path};
use crate::harness::{TIMEOUT, wait_until};

/// A running program, and the socket on which it notifies its service manager.
struct Service {
    server: Server,
    manager: UnixDatagram,
}

impl Service {
    fn start() -> Service {
        let service = Service::start_in(TestDirectory::new());
        service.expect_ready();
        service
    }

    fn start_in(directory: TestDirectory) -> Service {
        let notify = directory.join("notify");
        // Of a service before it.
        let _ = std::fs::remove_file(&notify);
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut command = mailslot(&["--sandbox", directory.as_str(), "--listen", "127.0.0.1:0"]);
        command.env("NOTIFY_SOCKET", &notify);
        let server = Server::start_command(command, directory, 2);
        let server = server.unwrap_or_else(|(log, status)| panic!("{status}: {log:#?}"));
        Service { server, manager }
    }

    /// Fails the test unless the next notifications keep the socket and say that it is ready.
    fn expect_ready(&self) {
        let name = kept_name(self.server.address);
        assert_eq!(self.notification(), format!("FDSTORE=1\nFDNAME={name}"));
        assert_eq!(self.notification(), "READY=1");
    }

    /// Returns the next notification.
    fn notification(&self) -> String {
        notification(&self.manager)
    }
}

/// Returns the next message to the service manager.
fn notification(manager: &UnixDatagram) -> String {
    let mut message = [0; 64];
    let n = manager.recv(&mut message).unwrap();
    String::from_utf8_lossy(&message[..n]).into_owned()
}

/// Returns the name under which the socket of a server is kept.
fn kept_name(address: SocketAddr) -> String {
    format!("kept-{}_{}", address.ip(), address.port())
}

/// Starts a server in a sandbox, with a socket that is passed under this name, as systemd does.
fn start_with_passed(
    directory: &TestDirectory,
    socket: &TcpListener,
    name: &str,
    options: &[&str],
    notify: Option<&Path>,
) -> Result<Server, (Vec<String>, ExitStatus)> {
    let script =
        format!("LISTEN_FDS=1 LISTEN_FDNAMES={name} LISTEN_PID=$$ exec \"$@\" 3<&0 0</dev/null");
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh", PROGRAM, "--sandbox", directory.as_str()]);
    command.args(options).stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
    if let Some(notify) = notify {
        command.env("NOTIFY_SOCKET", notify);
    }
    Server::start_command(command, directory, 2)
}

#[test]
fn term_finishes_messages_and_notifies() {
    let service = Service::start();
    let mut idle = service.server.greeted();
    let mut in_data = service.server.greeted();
    in_data.begin_data("smith");
    in_data.send("half of");
    service.server.signal(Signal::SIGTERM);
    assert_eq!(service.notification(), "STOPPING=1");
    idle.expect("421 4.3.2");
    in_data.command(" it\r\n.", 250);
    in_data.command("NOOP", "421 4.3.2");
    let directory = TestDirectory::from(&*service.server);
    let (log, status) = service.server.ended_within(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0));
    assert!(directory.mailbox("smith").contains("\nhalf of it\n"));
    let is_it = |line: &String| line.contains("delivered ") && line.contains(" to=<smith@");
    assert!(log.iter().any(is_it), "{log:#?}");
}

#[test]
fn second_term_stops_at_once() {
    let service = Service::start();
    let mut in_data = service.server.greeted();
    in_data.begin_data("smith");
    service.server.signal(Signal::SIGTERM);
    assert_eq!(service.notification(), "STOPPING=1");
    service.server.signal(Signal::SIGTERM);
    let (_, status) = service.server.ended_within(Duration::from_secs(5));
    assert_eq!(status.code(), Some(75));
}

#[test]
fn recovery_asks_for_more_time() {
    let mut service = Service::start();
    // A server that was killed some seconds after the delivery has nothing to recover.
    for _ in 0..10 {
        let mut client = service.server.greeted();
        client.begin_data("smith");
        client.command("hello\r\n.", 250);
        let directory = TestDirectory::from(&*service.server);
        service.server.kill();
        service = Service::start_in(directory);
        let mut notifications = Vec::new();
        while notifications.last().is_none_or(|last| last != "READY=1") {
            notifications.push(service.notification());
        }
        if notifications.iter().any(|line| line == "EXTEND_TIMEOUT_USEC=120000000") {
            return;
        }
    }
    panic!("no recovery");
}

#[test]
fn signals_do_not_end_sessions() {
    let service = Service::start();
    let mut client = service.server.greeted();
    service.server.signal(Signal::SIGHUP);
    service.server.wait_for_log("reload");
    service.server.signal(Signal::SIGUSR1);
    assert!(service.server.wait_for_log("counters ").contains(" sessions=1 "));
    service.server.signal(Signal::SIGXFSZ);
    client.command("NOOP", 250);
}

/// systemd passes listening sockets from descriptor 3 on.
#[test]
fn passed_socket_is_used() {
    let directory = TestDirectory::with_mail_and_spool();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\" 3<&0 0</dev/null";
    let mut child = Command::new("sh")
        .args(["-c", script, "sh", PROGRAM, "--config", "/dev/null", "--aliases", "none"])
        .args(["--user", "smith", "--domain", "here.example", "--hostname", "h"])
        .arg("--mail-dir")
        .arg(directory.join("mail"))
        .arg("--spool")
        .arg(directory.join("spool"))
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = Client::connect(address);
    client.expect(220);
    client.begin_data("smith");
    client.command("hello\r\n.", 250);
    client.command("QUIT", 221);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The addresses of --listen that the passed sockets do not cover are opened beside them.
#[test]
fn addresses_beside_passed_sockets_are_opened() {
    for name in ["mailslot.socket", "kept-name"] {
        let directory = TestDirectory::new();
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = passed.local_addr().unwrap();
        let options = ["--listen", &address.to_string(), "--listen", "127.0.0.2:0"];
        let server = start_with_passed(&directory, &passed, name, &options, None);
        let server = server.unwrap_or_else(|(log, status)| panic!("{status}: {log:#?}"));
        assert_eq!(server.address, address, "{name}");
        let (_, other) = server.banner[0].split_once(", ").expect("two addresses");
        let other = other.split([' ', ',']).next().unwrap().parse().unwrap();
        for address in [address, other] {
            Client::connect(address).expect(220);
        }
        assert!(server.stop().1.success());
    }
}

/// systemd holds a socket for one address, so that the wildcard cannot be opened by the server.
#[test]
fn a_collision_with_the_socket_unit_is_reported_with_its_fix() {
    let directory = TestDirectory::new();
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    let wildcard = format!("0.0.0.0:{}", address.port());
    let options = ["--listen", &wildcard];
    let server = start_with_passed(&directory, &passed, "mailslot.socket", &options, None);
    let Err((log, status)) = server else { panic!("it started") };
    assert_eq!(status.code(), Some(69), "{log:?}");
    let all = log.join("\n");
    assert!(all.contains(&format!("systemd passed {address}, so give the address")), "{all}");
}

/// The socket of an address that the configuration has no longer is not served, and is given up.
#[test]
fn a_kept_socket_of_another_address_is_released() {
    let directory = TestDirectory::new();
    let notify = directory.join("notify");
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(TIMEOUT)).unwrap();
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = kept_name(passed.local_addr().unwrap());
    let options = ["--listen", "127.0.0.1:0"];
    let server = start_with_passed(&directory, &passed, &name, &options, Some(&notify));
    let server = server.unwrap_or_else(|(log, status)| panic!("{status}: {log:#?}"));
    assert_ne!(server.address, passed.local_addr().unwrap());
    assert_eq!(notification(&manager), format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    let own = kept_name(server.address);
    assert_eq!(notification(&manager), format!("FDSTORE=1\nFDNAME={own}"));
    assert_eq!(notification(&manager), "READY=1");
    assert!(server.stop().1.success());
}

/// Calls sendmail `calls` times while the server is stopped and started `restarts` times on a
/// socket that the test keeps. No call finds the port closed. A call that the end of a session
/// interrupts is made again, as its caller would.
fn call_during_restarts(calls: usize, restarts: usize) {
    let directory = TestDirectory::new();
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = passed.local_addr().unwrap();
    let config = directory.join("conf");
    let spool = directory.join("spool");
    let text = format!("listen {address}\nhostname h\ndomain h\naliases none\n");
    fs::write(&config, format!("{text}spool {}\n", spool.display())).unwrap();
    let options = ["--listen", &address.to_string(), "-q"];
    let start = || {
        let script =
            "LISTEN_FDS=1 LISTEN_FDNAMES=kept-test LISTEN_PID=$$ exec \"$@\" 3<&0 0</dev/null";
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh", PROGRAM, "--sandbox", directory.as_str()]);
        command.args(options).stdin(Stdio::from(OwnedFd::from(passed.try_clone().unwrap())));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let next = AtomicUsize::new(0);
    let again = AtomicUsize::new(0);
    let call = |n: usize| loop {
        let mut child = Command::new(sendmail_path())
            .arg("-C")
            .arg(&config)
            .arg("smith")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("Subject: x\n\nnumber {n}.\n");
        let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("refused"), "{said}");
        match output.status.code() {
            Some(0) => break,
            Some(75) => again.fetch_add(1, Ordering::Relaxed),
            status => panic!("{status:?}: {said}"),
        };
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= calls {
                        break;
                    }
                    call(n);
                }
            });
        }
        for turn in 1..=restarts {
            let mut server = start();
            let share = calls * turn / (restarts + 1);
            wait_until("calls were made", || next.load(Ordering::Relaxed) >= share.min(calls));
            kill(Pid::from_raw(server.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
            server.wait().unwrap();
        }
        let mut server = start();
        wait_until("all calls were made", || next.load(Ordering::Relaxed) >= calls + 4);
        kill(Pid::from_raw(server.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        server.wait().unwrap();
    });
    println!("{calls} calls, {restarts} restarts, {} calls made again", again.into_inner());
    let mailbox = directory.mailbox("smith");
    for n in 0..calls {
        let count = mailbox.matches(&format!("\nnumber {n}.\n")).count();
        assert_eq!(count, 1, "message {n}");
    }
}

#[test]
fn no_sendmail_call_finds_the_port_closed_during_restarts() {
    call_during_restarts(40, 3);
}

#[test]
#[ignore = "needs both cores for some seconds"]
fn no_sendmail_call_of_500_is_lost_during_ten_restarts() {
    call_during_restarts(500, 10);
}
