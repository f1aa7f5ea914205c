//! Messages that `mailslot-sendmail` leaves while the server does not run, and that the server
//! takes when it does.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, mailslot, printed, run_mailslot, sendmail_path};
use crate::harness::wait_until;

/// A directory for servers that come and go, and the configuration file by which sendmail finds
/// them.
struct Host {
    directory: TestDirectory,
    config: PathBuf,
    /// The address of every server.
    address: String,
}

impl Host {
    /// Returns a host on which a server has run once, so that the directories are there.
    fn new(settings: &str) -> Host {
        let directory = TestDirectory::new();
        // The port is free again when the listener is dropped.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = directory.join("conf");
        let spool = directory.join("spool");
        let text = format!(
            "listen {address}\nhostname mx.here.example\ndomain here.example\naliases none\n\
             spool {}\n{settings}",
            spool.display(),
        );
        fs::write(&config, text).unwrap();
        let host = Host { directory, config, address };
        host.start(&[]).stop();
        host
    }

    fn start(&self, options: &[&str]) -> Server {
        let options = [&["--domain", "here.example", "--listen", &self.address], options].concat();
        self.directory.start(&options)
    }

    fn sendmail(&self, args: &[&str], input: &[u8]) -> Child {
        let mut command = Command::new("timeout");
        command.args(["60", sendmail_path(), "-C", self.config.to_str().unwrap()]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may end without reading all.
        let _ = child.stdin.take().unwrap().write_all(input);
        child
    }

    /// Runs sendmail to its end. Returns its exit status and all that it printed.
    fn run(&self, args: &[&str], input: &[u8]) -> (i32, String) {
        let (status, text) = printed(self.sendmail(args, input).wait_with_output().unwrap());
        (status.unwrap(), text)
    }

    fn path(&self) -> PathBuf {
        self.directory.join("spool/hand-over")
    }

    fn waiting(&self) -> Vec<String> {
        self.directory.names("spool/hand-over")
    }

    /// Waits until all messages are taken and their receipts removed.
    fn wait_until_taken(&self) {
        wait_until("all messages are taken", || {
            self.waiting().is_empty() && self.directory.queue().is_empty()
        });
    }
}

#[test]
fn message_left_for_a_stopped_server_arrives_when_it_starts() {
    let host = Host::new("");
    let large = [b"Subject: large\n\n".to_vec(), b"0123456789abcde\n".repeat(50_000)].concat();
    let input = "Subject: x\nTo: smith, jones\nBcc: brown\n\n.a\nFrom b\nj\u{fc}rgen\n".as_bytes();
    assert_eq!(host.run(&["-ti", "-f", "green"], input), (0, String::new()));
    assert_eq!(host.run(&["-i", "white"], &large), (0, String::new()));
    assert_eq!(host.waiting().len(), 2);
    for name in host.waiting() {
        let meta = fs::metadata(host.path().join(name)).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!(meta.gid(), fs::metadata(host.path()).unwrap().gid());
    }
    let (status, listed) = run_mailslot(&["queue", "--config", host.config.to_str().unwrap()]);
    assert_eq!(status, Some(0));
    assert!(listed.contains("\n2 handed over, not taken yet, "), "{listed}");
    // mailq, which shows the same.
    let (status, listed) = host.run(&["-bp"], b"");
    assert!(status == 0 && listed.contains("\n2 handed over, not taken yet, "), "{listed}");

    let server = host.start(&[]);
    host.wait_until_taken();
    let uid = nix::unistd::getuid();
    for name in ["smith", "jones", "brown"] {
        let mailbox = host.directory.mailbox(name);
        assert_eq!(host.directory.count(name), 1, "{mailbox}");
        assert!(mailbox.contains("\nReturn-Path: <green@here.example>\n"), "{mailbox}");
        let received = format!("\nReceived: from localhost (handed over by uid {uid})\n");
        assert!(mailbox.contains(&received), "{mailbox}");
        assert!(mailbox.ends_with("\n\n.a\n>From b\nj\u{fc}rgen\n\n"), "{mailbox}");
        assert!(!mailbox.contains("Bcc"), "{mailbox}");
    }
    assert!(host.directory.mailbox_bytes("white").ends_with(&[&large[16..], b"\n"].concat()));
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    let taken = log.iter().filter(|line| line.contains("hand-over-taken ")).count();
    assert_eq!(taken, 2, "{log:#?}");
}

#[test]
fn running_server_takes_what_was_left() {
    let host = Host::new("");
    assert_eq!(host.run(&["smith"], b"\nx\n"), (0, String::new()));
    let kept = host.directory.join("kept");
    let name = host.waiting().remove(0);
    fs::rename(host.path().join(&name), &kept).unwrap();
    let _server = host.start(&[]);
    fs::rename(&kept, host.path().join(&name)).unwrap();
    host.wait_until_taken();
    assert_eq!(host.directory.count("smith"), 1);
}

#[test]
fn without_the_directory_the_caller_keeps_the_message() {
    let host = Host::new("");
    fs::set_permissions(host.path(), Permissions::from_mode(0o755)).unwrap();
    let (status, text) = host.run(&["smith"], b"\nx\n");
    assert_eq!(status, 75, "{text}");
    assert!(text.contains("its mode is 0755 and must be 3733"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    fs::remove_dir(host.path()).unwrap();
    let (status, text) = host.run(&["smith"], b"\nx\n");
    assert_eq!(status, 75, "{text}");
    assert!(text.contains("nothing was sent, because the mail server does not answer"), "{text}");
    assert!(text.contains("hand-over: No such file"), "{text}");
    let off = Host::new("hand-over off\n");
    let (status, text) = off.run(&["smith"], b"\nx\n");
    assert_eq!(status, 75, "{text}");
    assert!(!text.contains("hand-over"), "{text}");
    assert_eq!(off.waiting(), [""; 0]);
}

#[test]
fn message_that_does_not_fit_is_not_left() {
    let host = Host::new("max-size 100K\n");
    let input = b"0123456789abcde\n".repeat(10_000);
    let (status, text) = host.run(&["smith"], &input);
    assert_eq!(status, 65, "{text}");
    assert!(text.contains("the message exceeds the size limit, 102400 octets"), "{text}");
    // A limit of the caller's file size is an error like a full disk.
    let config = host.config.to_str().unwrap();
    let script = format!("ulimit -f 8; exec {} -C {config} smith", sendmail_path());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(&input[..50_000]);
    let (status, text) = printed(child.wait_with_output().unwrap());
    assert_eq!(status, Some(75), "{text}");
    assert!(text.contains("it cannot be left in "), "{text}");
    assert_eq!(host.waiting(), [""; 0]);
}

#[test]
fn rejected_recipients_are_reported_to_the_sender() {
    let host = Host::new("");
    let input = b"Subject: about that\n\nx\n";
    let users = ["--user", "smith", "--user", "jones"];
    assert_eq!(host.run(&["-f", "jones", "nobody", "smith"], input).0, 0);
    assert_eq!(host.run(&["-f", "jones", "-N", "never", "nobody"], input).0, 0);
    let server = host.start(&users);
    host.wait_until_taken();
    assert_eq!(host.directory.count("smith"), 1);
    let report = host.directory.mailbox("jones");
    assert_eq!(host.directory.count("jones"), 1, "{report}");
    assert!(report.contains("\nFinal-Recipient: rfc822;nobody@here.example\n"), "{report}");
    assert!(report.contains("\nSubject: about that\n"), "{report}");
    assert!(!report.contains("rfc822;smith@"), "{report}");
    server.stop();
}

#[test]
fn files_that_are_no_messages_of_their_owner_are_not_taken() {
    let host = Host::new("max-size 100K\n");
    let secret = host.directory.join("secret");
    assert_eq!(host.run(&["good"], b"\nx\n"), (0, String::new()));
    let good = host.waiting().remove(0);
    let bytes = fs::read(host.path().join(&good)).unwrap();
    let name = |letter: &str| letter.repeat(26);
    let put = |name: &str, bytes: &[u8], mode: u32| {
        let path = host.path().join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    fs::write(&secret, &bytes).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o640)).unwrap();
    // Not regular, not alone, not of the mode of a complete message, or not a message at all.
    symlink(&secret, host.path().join(name("a"))).unwrap();
    mkfifo(&host.path().join(name("b")), Mode::from_bits_truncate(0o640)).unwrap();
    fs::create_dir(host.path().join(name("c"))).unwrap();
    put(&name("d"), &bytes, 0o640);
    fs::hard_link(host.path().join(name("d")), host.directory.join("second")).unwrap();
    put(&name("e"), &bytes, 0o644);
    put(&name("f"), &bytes, 0o600);
    put(&name("g"), &vec![b'x'; 2 << 20], 0o640);
    // Damaged: under another name, cut short, changed, without an end, empty.
    put(&name("p"), &bytes, 0o640);
    put(&name("q"), &bytes[..bytes.len() - 1], 0o640);
    put(&name("r"), &[&bytes[..60], b"y", &bytes[61..]].concat(), 0o640);
    put(&name("s"), &bytes[..60], 0o640);
    put(&name("t"), b"", 0o640);
    // Names that no message has.
    put("short", &bytes, 0o640);
    put(&name("U"), &bytes, 0o640);

    let server = host.start(&["--max-size", "100K"]);
    for _ in 0..6 {
        server.wait_for_log("hand-over-ignored ");
    }
    wait_until("the damaged ones are set aside", || {
        host.waiting().iter().filter(|name| name.starts_with("damaged-")).count() == 5
    });
    wait_until("the good one is taken", || !host.waiting().contains(&good));
    let (log, _) = server.stop();
    assert_eq!(host.directory.count("good"), 1, "{log:#?}");
    for kept in ["a", "b", "c", "d", "e", "f", "g", "U"].map(name) {
        assert!(host.waiting().contains(&kept), "{kept}: {log:#?}");
    }
    for damaged in ["p", "q", "r", "s", "t"].map(name) {
        assert!(host.waiting().contains(&format!("damaged-{damaged}")), "{log:#?}");
    }
}

/// Sendmails that were killed, and other files of a user, keep no later message from being taken.
#[test]
fn files_that_are_not_taken_delay_no_message() {
    let host = Host::new("");
    for n in 0..60 {
        let path = host.path().join(format!("{n:026}"));
        fs::write(&path, "mailslot-hand-over 1").unwrap();
        let mode = [0o600, 0o644][n % 2];
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let file = fs::File::options().read(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }
    // All at the same time, because each tries the server first.
    let callers: Vec<Child> = (0..45).map(|_| host.sendmail(&["smith"], b"\nx\n")).collect();
    for caller in callers {
        assert!(caller.wait_with_output().unwrap().status.success());
    }
    assert_eq!(host.waiting().len(), 105);
    let server = host.start(&[]);
    wait_until("the messages are taken", || host.waiting().len() == 60);
    assert_eq!(host.directory.count("smith"), 45);
    let (log, _) = server.stop();
    assert_eq!(log.iter().filter(|line| line.contains("hand-over-ignored ")).count(), 30);
}

#[test]
fn session_under_inetd_takes_what_was_left() {
    let host = Host::new("");
    assert_eq!(host.run(&["smith"], b"\nx\n"), (0, String::new()));
    let options = ["--inetd", "--sandbox", host.directory.as_str(), "--domain", "here.example"];
    let mut session = mailslot(&options);
    let mut session = session.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    session.stdin.take().unwrap().write_all(b"QUIT\r\n").unwrap();
    assert!(session.wait_with_output().unwrap().status.success());
    assert_eq!(host.directory.count("smith"), 1);
    assert_eq!(host.waiting(), [""; 0]);
}

#[test]
fn incomplete_file_is_removed_after_a_day() {
    let host = Host::new("");
    let (young, old) = ("y".repeat(26), "z".repeat(26));
    for name in [&young, &old] {
        let path = host.path().join(name);
        fs::write(&path, "mailslot-hand-over 1").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    let day = Duration::from_secs(25 * 3600);
    let file = fs::File::options().write(true).open(host.path().join(&old)).unwrap();
    file.set_modified(SystemTime::now() - day).unwrap();
    let server = host.start(&[]);
    server.wait_for_log("hand-over-incomplete ");
    assert_eq!(host.waiting(), [young]);
}

#[test]
fn two_servers_on_one_spool_take_each_message_once() {
    let host = Host::new("");
    let count = 40;
    let mut callers = Vec::new();
    for n in 0..count {
        let args = ["-f", "green", "smith", "jones"];
        // All at the same time, because each tries the server first.
        callers.push(host.sendmail(&args, format!("Subject: {n}\n\nx\n").as_bytes()));
    }
    for caller in callers {
        assert!(caller.wait_with_output().unwrap().status.success());
    }
    assert_eq!(host.waiting().len(), count);
    let one = host.start(&[]);
    let two = host.directory.start(&["--domain", "here.example"]);
    host.wait_until_taken();
    for user in ["smith", "jones"] {
        assert_eq!(host.directory.count(user), count);
    }
    assert_eq!(one.stop().1.code(), Some(0));
    assert_eq!(two.stop().1.code(), Some(0));
}

#[test]
fn every_message_arrives_once_during_restarts() {
    let host = Host::new("");
    let calls = crate::harness::env_number("MAILSLOT_CALLS", 60) as usize;
    let restarts = crate::harness::env_number("MAILSLOT_RESTARTS", 3);
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= calls {
                        break;
                    }
                    let input = format!("Subject: call-{n}-\n\nx\n");
                    assert_eq!(host.run(&["smith"], input.as_bytes()), (0, String::new()));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for restart in 1..=restarts as usize {
            let server = host.start(&[]);
            let enough = calls * restart / (restarts as usize + 1);
            wait_until("some are sent", || done.load(Ordering::Relaxed) >= enough);
            assert_eq!(server.stop().1.code(), Some(0));
        }
    });
    let last = host.start(&[]);
    host.wait_until_taken();
    let mailbox = host.directory.mailbox("smith");
    for n in 0..calls {
        let copies = mailbox.matches(&format!("\nSubject: call-{n}-\n")).count();
        assert_eq!(copies, 1, "call {n} of {calls}, {restarts} restarts");
    }
    last.stop();
}
