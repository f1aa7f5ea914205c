//! Super-servers that others wrote, with the real program behind them: one process for each session
//! by tcpserver, inetd and systemd (`Accept=yes`), or one for all on a socket that systemd passes.

use crate::harness::external;
use crate::harness::mbox;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::harness::server::{Client, PATIENCE, PROGRAM};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;

/// A super-server, stopped when it is dropped.
struct Super {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl Super {
    /// Stops it; how it ended.
    fn stop(&mut self) -> ExitStatus {
        // Once it was waited for, its pid may be somebody else's.
        if self.child.try_wait().unwrap().is_none() {
            let _ = kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM);
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Super {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that was free a moment ago: these programs do not tell which one they took.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until somebody listens.
fn wait_for(address: SocketAddr) {
    let begun = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < PATIENCE, "nobody listens on {address}");
        std::thread::yield_now();
    }
}

/// The options of a session in the sandbox `folder`.
fn session(folder: &TempDir) -> [&str; 3] {
    ["--inetd", "--sandbox", folder.path().to_str().unwrap()]
}

/// Two messages in one session, then many sessions at the same time: as many processes write to
/// the one mailbox.
fn use_it(address: SocketAddr, folder: &Path) {
    let mut client = Client::connect(address);
    client.expect(220);
    client.say("EHLO client.example", 250);
    for number in 1..=2 {
        let text = format!("Subject: {number}\r\n\r\nhello\r\n");
        client.deliver("smith@example.org", &["brown@localhost"], &text, 250);
    }
    client.say("QUIT", 221);
    assert!(client.is_closed());
    let mails = mbox::read(&folder.join("mail/brown"));
    let subjects: Vec<_> = mails.iter().map(|mail| mail.field("Subject").unwrap()).collect();
    assert_eq!(subjects, ["1", "2"]);
    let text = String::from_utf8_lossy(&mails[0].text);
    assert!(text.contains("client.example ([127.0.0.1])"), "{text}");

    external::smtp_source(address, folder, "jones", "-s 10 -m 40 -l 4096").ended();
    let mails = mbox::read(&folder.join("mail/jones"));
    let texts: Vec<_> = mails.iter().map(mbox::without_trace).collect();
    external::assert_from_smtp_source(&texts, 40, 4096);
}

/// It tells how each process ended.
#[test]
#[ignore = "needs tcpserver, of ucspi-tcp, and smtp-source"]
fn tcpserver_serves() {
    let folder = tempfile::tempdir().unwrap();
    let mut tcpserver = Command::new("tcpserver");
    tcpserver.args(["-v", "-1", "-R", "-H", "-l", "localhost", "127.0.0.1", "0", PROGRAM]);
    tcpserver.args(session(&folder)).args(["--log", "stderr"]).env_remove("RUST_LOG");
    tcpserver.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tcpserver.spawn().unwrap();
    let mut port = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let address = format!("127.0.0.1:{}", port.trim()).parse().unwrap();
    let mut server = Super { child, address, folder };

    use_it(server.address, server.folder.path());
    let mut client = Client::connect(server.address);
    client.expect(220);
    for _ in 0..100 {
        client.send(b"WIZ\r\n");
        if client.reply().code == 421 {
            break;
        }
    }
    assert!(client.is_closed());
    let mut stderr = BufReader::new(server.child.stderr.take().unwrap());
    let mut ends = Vec::new();
    // The first session, those of smtp-source, and the last.
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
fn inetd_serves() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_port();
    let user = User::from_uid(geteuid()).unwrap().expect("a user with a name").name;
    let conf = folder.path().join("inetd.conf");
    let line = format!(
        "127.0.0.1:{} stream tcp nowait.1000 {user} {PROGRAM} mailslot {}\n",
        address.port(),
        session(&folder).join(" ")
    );
    fs::write(&conf, line).unwrap();
    let child = Command::new("/usr/sbin/inetd").arg("-i").arg(&conf).stdin(Stdio::null()).spawn();
    let server = Super { child: child.unwrap(), address, folder };
    wait_for(address);
    use_it(address, server.folder.path());
}

/// A unit with `Accept=yes` and `StandardInput=socket`, by systemd's own tool.
#[test]
#[ignore = "needs systemd-socket-activate, of systemd, and smtp-source"]
fn systemd_serves_each_connection() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_port();
    let mut systemd = Command::new("systemd-socket-activate");
    systemd.args(["--accept", "--inetd", "--listen", &address.to_string(), PROGRAM]);
    systemd.args(session(&folder)).args(["--log", "stderr"]);
    systemd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = Super { child: systemd.spawn().unwrap(), address, folder };
    wait_for(address);
    use_it(address, server.folder.path());
}

/// A socket unit without `Accept`: the daemon is started by the first connection, and takes over.
#[test]
#[ignore = "needs systemd-socket-activate, of systemd, and smtp-source"]
fn systemd_passes_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let address = free_port();
    let mut systemd = Command::new("systemd-socket-activate");
    systemd.args(["--listen", &address.to_string(), PROGRAM, "--config", "/dev/null"]);
    systemd.args(["--aliases", "none", "--domain", "localhost", "--hostname", "localhost"]);
    systemd.args(["--user", "jones", "--user", "brown"]);
    for (option, name) in [("--mail-dir", "mail"), ("--spool", "spool")] {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        systemd.arg(option).arg(path);
    }
    systemd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Super { child: systemd.spawn().unwrap(), address, folder };
    wait_for(address);
    use_it(address, server.folder.path());
    // It is the daemon now, and leaves as one.
    assert_eq!(server.stop().code(), Some(0));
}

/// `FileDescriptorName=` of two socket units.
#[test]
#[ignore = "needs systemd-socket-activate, of systemd"]
fn systemd_tells_the_names_of_its_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let (smtp, lmtp) = (free_port(), free_port());
    let mut systemd = Command::new("systemd-socket-activate");
    for address in [smtp, lmtp] {
        systemd.args(["--listen", &address.to_string()]);
    }
    systemd.args(["--fdname", "mailslot.socket:lmtp"]);
    systemd.args([PROGRAM, "--config", "/dev/null", "--aliases", "none", "--user", "jones"]);
    systemd.args(["--domain", "localhost", "--hostname", "localhost"]);
    for (option, name) in [("--mail-dir", "mail"), ("--spool", "spool")] {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        systemd.arg(option).arg(path);
    }
    systemd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Super { child: systemd.spawn().unwrap(), address: smtp, folder };
    for (address, name, hello) in [(smtp, " ESMTP ", "EHLO"), (lmtp, " LMTP ", "LHLO")] {
        wait_for(address);
        let mut client = Client::connect(address);
        let greeting = client.expect(220);
        assert!(greeting.lines[0].contains(name), "{greeting:?}");
        client.say(&format!("{hello} client.example"), 250);
        client.say("QUIT", 221);
    }
}
