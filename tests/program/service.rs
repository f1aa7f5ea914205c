//! The real program under a service manager: signals, notifications, and sockets that are passed.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::TIMEOUT;
use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::server::{PROGRAM, Server, mailslot};

/// A running program, and the socket on which it notifies its service manager.
struct Service {
    server: Server,
    manager: UnixDatagram,
}

impl Service {
    fn start() -> Service {
        let service = Service::start_in(TestDirectory::new());
        assert_eq!(service.notification(), "READY=1");
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

    /// Returns the next notification.
    fn notification(&self) -> String {
        let mut message = [0; 64];
        let n = self.manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..n]).into_owned()
    }
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
        let notification = service.notification();
        if notification != "READY=1" {
            assert_eq!(notification, "EXTEND_TIMEOUT_USEC=120000000");
            assert_eq!(service.notification(), "READY=1");
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
