//! Super-servers with the real program: a process for each session, started by tcpserver, inetd and
//! systemd (`Accept=yes`), or one server on a socket that systemd passes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::process::Daemon;
use crate::harness::server::PROGRAM;
use crate::harness::{external, mbox, wait_until};

/// Returns a port that was free a moment ago. These programs do not report which one they took.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Starts a super-server, and waits until it listens on `address`.
fn start(command: &mut Command, address: SocketAddr) -> Daemon {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon::spawn(command);
    wait_for(address);
    daemon
}

fn wait_for(address: SocketAddr) {
    wait_until("it listens", || TcpStream::connect(address).is_ok());
}

/// Returns the options of a session in a sandbox.
fn session(directory: &TestDirectory) -> [&str; 3] {
    ["--inetd", "--sandbox", directory.as_str()]
}

/// Delivers two messages in one session, and then many in concurrent sessions, so that as many
/// processes write to one mailbox.
fn deliver_some(address: SocketAddr, directory: &TestDirectory) {
    let mut client = Client::connect(address);
    client.expect(220);
    client.command("EHLO client.example", 250);
    for number in 1..=2 {
        let text = format!("Subject: {number}\r\n\r\nhello\r\n");
        client.deliver("smith@example.org", &["brown@localhost"], &text, 250);
    }
    client.command("QUIT", 221);
    assert!(client.is_closed());
    let mails = directory.messages("brown");
    let subjects: Vec<_> = mails.iter().map(|mail| mail.field("Subject").unwrap()).collect();
    assert_eq!(subjects, ["1", "2"]);
    let text = String::from_utf8_lossy(&mails[0].text);
    assert!(text.contains("client.example ([127.0.0.1])"), "{text}");

    external::smtp_source(address, directory.path(), "jones", "-s 10 -m 40 -l 4096").ended();
    let mails = directory.messages("jones");
    let texts: Vec<_> = mails.iter().map(mbox::without_trace).collect();
    external::assert_from_smtp_source(&texts, 40, 4096);
}

/// tcpserver logs how each process ended.
#[test]
#[ignore = "needs tcpserver, of ucspi-tcp, and smtp-source"]
fn tcpserver() {
    let directory = TestDirectory::new();
    let mut tcpserver = Command::new("tcpserver");
    tcpserver.args(["-v", "-1", "-R", "-H", "-l", "localhost", "127.0.0.1", "0", PROGRAM]);
    tcpserver.args(session(&directory)).args(["--log", "stderr"]).env_remove("RUST_LOG");
    tcpserver.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut daemon = Daemon::spawn(&mut tcpserver);
    let mut port = String::new();
    BufReader::new(daemon.child().stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = format!("127.0.0.1:{}", port.trim()).parse().unwrap();

    deliver_some(address, &directory);
    let mut client = Client::connect(address);
    client.expect(220);
    for _ in 0..100 {
        client.send(b"WIZ\r\n");
        if client.reply().code == 421 {
            break;
        }
    }
    assert!(client.is_closed());
    let mut stderr = BufReader::new(daemon.child().stderr.take().unwrap());
    let mut ends = Vec::new();
    // The first session, those of smtp-source, and the last one.
    while ends.len() < 42 {
        let mut line = String::new();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended; {ends:?}");
        // tcpserver: end 1234 status 0
        if let Some((_, status)) = line.split_once(" status ").filter(|_| line.contains(": end ")) {
            ends.push(status.trim().parse::<i32>().unwrap());
        }
    }
    let protocol = 76 << 8;
    assert!(ends[..41].iter().all(|status| *status == 0), "{ends:?}");
    assert_eq!(ends[41], protocol, "EX_PROTOCOL");
}

#[test]
#[ignore = "needs inetd, of openbsd-inetd, and smtp-source"]
fn inetd() {
    let directory = TestDirectory::new();
    let (address, _inetd) = start_inetd(&directory, &[]);
    deliver_some(address, &directory);
}

/// Starts an inetd with a mailslot for each connection, which has these options too.
pub(super) fn start_inetd(directory: &TestDirectory, options: &[&str]) -> (SocketAddr, Daemon) {
    let address = free_port();
    let user = User::from_uid(geteuid()).unwrap().expect("a user with a name").name;
    let conf = directory.join("inetd.conf");
    let line = format!(
        "127.0.0.1:{} stream tcp nowait.1000 {user} {PROGRAM} mailslot {}\n",
        address.port(),
        [&session(directory), options].concat().join(" ")
    );
    fs::write(&conf, line).unwrap();
    let inetd = start(Command::new("/usr/sbin/inetd").arg("-i").arg(&conf), address);
    (address, inetd)
}

/// A unit with `Accept=yes` and `StandardInput=socket`, with the tool of systemd.
#[test]
#[ignore = "needs systemd-socket-activate, of systemd, and smtp-source"]
fn systemd_starts_a_process_for_each_connection() {
    let directory = TestDirectory::new();
    let address = free_port();
    let mut systemd = Command::new("systemd-socket-activate");
    systemd.args(["--accept", "--inetd", "--listen", &address.to_string(), PROGRAM]);
    systemd.args(session(&directory)).args(["--log", "stderr"]);
    let _systemd = start(&mut systemd, address);
    deliver_some(address, &directory);
}

/// A socket unit without `Accept`. The server is started by the first connection.
#[test]
#[ignore = "needs systemd-socket-activate, of systemd, and smtp-source"]
fn systemd_passes_its_socket() {
    let directory = TestDirectory::with_mail_and_spool();
    let address = free_port();
    let mut systemd = Command::new("systemd-socket-activate");
    systemd.args(["--listen", &address.to_string(), PROGRAM, "--config", "/dev/null"]);
    systemd.args(["--aliases", "none", "--domain", "localhost", "--hostname", "localhost"]);
    systemd.args(["--user", "jones", "--user", "brown"]);
    for (option, name) in [("--mail-dir", "mail"), ("--spool", "spool")] {
        systemd.arg(option).arg(directory.join(name));
    }
    let mut daemon = start(&mut systemd, address);
    deliver_some(address, &directory);
    // systemd-socket-activate has become the server, which stops as a server does.
    assert_eq!(daemon.stop().code(), Some(0));
}

/// `FileDescriptorName=` of two socket units.
#[test]
#[ignore = "needs systemd-socket-activate, of systemd"]
fn systemd_names_its_sockets() {
    let directory = TestDirectory::with_mail_and_spool();
    let (smtp, lmtp) = (free_port(), free_port());
    let mut systemd = Command::new("systemd-socket-activate");
    for address in [smtp, lmtp] {
        systemd.args(["--listen", &address.to_string()]);
    }
    systemd.args(["--fdname", "mailslot.socket:lmtp"]);
    systemd.args([PROGRAM, "--config", "/dev/null", "--aliases", "none", "--user", "jones"]);
    systemd.args(["--domain", "localhost", "--hostname", "localhost"]);
    for (option, name) in [("--mail-dir", "mail"), ("--spool", "spool")] {
        systemd.arg(option).arg(directory.join(name));
    }
    let _systemd = start(&mut systemd, smtp);
    for (address, name, hello) in [(smtp, " ESMTP ", "EHLO"), (lmtp, " LMTP ", "LHLO")] {
        wait_for(address);
        let mut client = Client::connect(address);
        let greeting = client.expect(220);
        assert!(greeting.lines[0].contains(name), "{greeting:?}");
        client.command(&format!("{hello} client.example"), 250);
        client.command("QUIT", 221);
    }
}
