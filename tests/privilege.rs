//! Least privilege, with real users: the program in a private mount namespace, where `/etc/passwd`
//! and `/etc/group` are this test's, started in each of the three ways: as root, with CAP_SETUID
//! and CAP_SETGID, with neither.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails so

mod support;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use support::{PATIENCE, PROGRAM, Server};
use tempfile::TempDir;

const MAIL: u32 = 8;
const MAILSLOT: u32 = 64900;
const ALICE: u32 = 64901;
const BOB: u32 = 64902;

/// How the program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As root, which becomes mailslot:mail.
    Root,
    /// As mailslot:mail, with the two capabilities as systemd gives them.
    Capable,
    /// As mailslot:mail.
    Plain,
}

/// Whether it can act as the recipients.
fn acts(mode: Mode) -> bool {
    mode != Mode::Plain
}

const MODES: [Mode; 3] = [Mode::Root, Mode::Capable, Mode::Plain];

/// A host's folders: its own users, a mail folder, a spool, and the program where all may run it.
struct Host {
    folder: Arc<TempDir>,
}

impl Host {
    fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        let user = |name: &str, uid: u32, gid: u32| {
            format!("{name}:x:{uid}:{gid}:{name}:/nonexistent:/usr/sbin/nologin\n")
        };
        let users = [
            user("root", 0, 0),
            user("mailslot", MAILSLOT, MAILSLOT),
            user("alice", ALICE, ALICE),
            user("bob", BOB, BOB),
        ];
        fs::write(path.join("passwd"), users.concat()).unwrap();
        fs::write(path.join("group"), "root:x:0:\ntty:x:5:\nmail:x:8:\n").unwrap();
        fs::write(path.join("conf"), "").unwrap();
        fs::copy(PROGRAM, path.join("mailslot")).unwrap();
        fs::create_dir(path.join("mail")).unwrap();
        fs::create_dir(path.join("spool")).unwrap();
        fs::set_permissions(path.join("spool"), Permissions::from_mode(0o700)).unwrap();
        chown(path.join("spool"), Some(MAILSLOT), Some(MAIL)).unwrap();
        let host = Host { folder: Arc::new(folder) };
        host.mail_folder(0o2775, 0, MAIL);
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn mail_folder(&self, mode: u32, uid: u32, gid: u32) {
        chown(self.path("mail"), Some(uid), Some(gid)).unwrap();
        fs::set_permissions(self.path("mail"), Permissions::from_mode(mode)).unwrap();
    }

    fn mailbox(&self, name: &str) -> PathBuf {
        self.path("mail").join(name)
    }

    /// A mailbox with a message's worth of text in it.
    fn make_mailbox(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        let path = self.mailbox(name);
        fs::write(&path, "From a\n\nb\n\n").unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// The command `mailslot` with `options`, where the users are those of this host.
    fn command(&self, mode: Mode, options: &[&str]) -> Command {
        const BIND: &str = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && \
                            shift 2 && exec \"$@\"";
        const BOTH: &str = "-all,+setuid,+setgid";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", BIND, "sh"]);
        command.args([self.path("passwd"), self.path("group")]);
        let kept = if mode == Mode::Capable { BOTH } else { "-all" };
        if mode != Mode::Root {
            let (uid, gid) = (MAILSLOT.to_string(), MAIL.to_string());
            command.args(["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"]);
            command.args(["--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept]);
        }
        command.arg(self.path("mailslot"));
        for (option, file) in [("-c", "conf"), ("-m", "mail"), ("-S", "spool")] {
            command.arg(option).arg(self.path(file));
        }
        command.args(["-n", "host.example", "-d", "host.example", "-a", "none"]);
        command.args(options).stdin(Stdio::null()).env_clear();
        command
    }

    fn start(&self, mode: Mode, options: &[&str]) -> Server {
        let listen = ["-l", "127.0.0.1:0", "--lock-timeout", "1"];
        let command = self.command(mode, &[&listen, options].concat());
        Server::start_command(command, Arc::clone(&self.folder), 1).unwrap_or_else(
            |(log, status)| panic!("{mode:?}: not ready, {status}:\n{}", log.join("\n")),
        )
    }
}

/// What the mail folder and the mailbox of alice are before a message comes for her.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Missing,
    Private,
    Group,
    Foreign,
    Symlink,
    HardLink,
}

/// Every kind of folder with every kind of mailbox, in every mode: who may, delivers, with the
/// right owner and mode; nothing planted is written to.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn mailboxes_are_written_to_as_their_owners() {
    use Kind::*;
    for (folder, uid, gid, lock) in [
        (0o2775, 0, MAIL, "dotlock,fcntl,flock"),
        (0o1777, 0, 0, "dotlock,fcntl,flock"),
        // Nobody but root makes a dotlock or a mailbox here.
        (0o755, 0, 0, "fcntl,flock"),
    ] {
        for mode in MODES {
            let host = Host::new();
            host.mail_folder(folder, uid, gid);
            let server = host.start(mode, &["--lock", lock]);
            for kind in [Missing, Private, Group, Foreign, Symlink, HardLink] {
                let what = format!("{folder:o} {mode:?} {kind:?}");
                let delivers = match kind {
                    Missing => acts(mode) && folder != 0o755,
                    Private => acts(mode),
                    Group => true,
                    Foreign | Symlink | HardLink => false,
                };
                let _ = fs::remove_file(host.mailbox("alice"));
                host.make_mailbox("bob", BOB, MAIL, 0o660);
                let mut client = server.after_ehlo();
                client.say("MAIL FROM:<a@a.example>", 250);
                client.say("RCPT TO:<alice@host.example>", 250);
                // Behind the look at RCPT, so that the writer has to find out.
                match kind {
                    Missing => {}
                    Private => host.make_mailbox("alice", ALICE, ALICE, 0o600),
                    Group => host.make_mailbox("alice", ALICE, MAIL, 0o660),
                    Foreign => host.make_mailbox("alice", BOB, MAIL, 0o666),
                    Symlink => symlink(host.mailbox("bob"), host.mailbox("alice")).unwrap(),
                    HardLink => {
                        fs::hard_link(host.mailbox("bob"), host.mailbox("alice")).unwrap();
                    }
                }
                client.say("DATA", 354);
                client.send(b"Subject: hello\r\n\r\nIt works.\r\n");
                let reply = {
                    client.send(b".\r\n");
                    client.reply()
                };
                assert_eq!(reply.code, if delivers { 250 } else { 451 }, "{what}: {reply:?}");

                let bob = fs::read_to_string(host.mailbox("bob")).unwrap();
                assert_eq!(bob, "From a\n\nb\n\n", "{what}");
                let alice = fs::read_to_string(host.mailbox("alice")).unwrap_or_default();
                assert_eq!(alice.contains("It works."), delivers, "{what}");
                let left = fs::symlink_metadata(host.mailbox("alice")).ok();
                let owner = left.map(|meta| (meta.uid(), meta.gid(), meta.mode() & 0o777));
                let expected = match kind {
                    Missing if !delivers => None,
                    Missing if gid == MAIL => Some((ALICE, MAIL, 0o660)),
                    Missing | Private => Some((ALICE, ALICE, 0o600)),
                    Group => Some((ALICE, MAIL, 0o660)),
                    Foreign => Some((BOB, MAIL, 0o666)),
                    Symlink => Some((0, gid, 0o777)),
                    HardLink => Some((BOB, MAIL, 0o660)),
                };
                // A link made in a set-group-ID folder has its group.
                assert_eq!(owner, expected, "{what}");
                assert!(!host.mailbox("alice.lock").exists(), "{what}");
            }
            let (log, status) = server.stop();
            assert!(status.success(), "{log:#?}");
        }
    }
}

/// Root's mailbox is never written to with root's rights.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn nobody_acts_as_root() {
    for mode in [Mode::Root, Mode::Capable] {
        let host = Host::new();
        let server = host.start(mode, &[]);
        for (permissions, code) in [(None, 451), (Some(0o600), 451), (Some(0o660), 250)] {
            let _ = fs::remove_file(host.mailbox("root"));
            if let Some(permissions) = permissions {
                host.make_mailbox("root", 0, MAIL, permissions);
            }
            let mut client = server.after_ehlo();
            client.deliver("a@a.example", &["root@host.example"], "Subject: x\r\n\r\n", code);
        }
    }
}

/// A stale dotlock that the user left in a sticky folder is removed in the user's name; an empty
/// mailbox that was made for a message that did not fit is removed too.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn what_is_in_the_way_in_a_sticky_folder_goes() {
    for mode in [Mode::Root, Mode::Capable] {
        let host = Host::new();
        host.mail_folder(0o1777, 0, 0);
        let lock = host.mailbox("alice.lock");
        fs::write(&lock, "1\n").unwrap();
        chown(&lock, Some(ALICE), Some(ALICE)).unwrap();
        let then = std::time::SystemTime::now() - Duration::from_secs(1000);
        File::options().write(true).open(&lock).unwrap().set_modified(then).unwrap();
        let server = host.start(mode, &["--mailbox-limit", "1K"]);
        let mut client = server.after_ehlo();
        let text = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(900));
        client.deliver("a@a.example", &["alice@host.example"], &text, 552);
        assert!(!host.mailbox("alice").exists(), "{mode:?}");
        client.deliver("a@a.example", &["alice@host.example"], "Subject: x\r\n\r\n", 250);
        assert_eq!(fs::metadata(host.mailbox("alice")).unwrap().uid(), ALICE);
    }
}

/// The fields of `/proc/PID/task/*/status`, for each thread: its name, then those asked for.
fn threads(pid: Pid, fields: &[&str]) -> Vec<(String, Vec<String>)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("status")).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        (field("Name"), fields.iter().map(|name| field(name)).collect())
    };
    tasks.map(|task| status(task.unwrap())).collect()
}

/// Every thread but the writer has no capability, and no way to gain any.
fn assert_least_privileged(pid: Pid, uid: u32, gid: u32, what: &str) {
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    let names = ["Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapAmb", "CapPrm", "CapEff"];
    let threads = threads(pid, &names);
    for name in ["writer", "checkpoint", "log", "session-0"] {
        assert!(threads.iter().any(|(thread, _)| thread == name), "{what}: no {name}: {threads:?}");
    }
    let none = "0000000000000000";
    for (name, fields) in threads {
        // CAP_SETGID is 6, CAP_SETUID is 7.
        let kept = if name == "writer" { "00000000000000c0" } else { none };
        let (uid, gid) = (four(uid), four(gid));
        let expected = [uid.as_str(), &gid, "", "1", none, none, kept, kept];
        assert_eq!(fields, expected, "{what}: {name}: {names:?}");
    }
}

#[test]
#[ignore = "needs root, unshare, setpriv"]
fn the_writer_alone_keeps_two_capabilities() {
    for mode in [Mode::Root, Mode::Capable] {
        let host = Host::new();
        let server = host.start(mode, &[]);
        // It is as it will be once it is accepting.
        drop(server.greeted());
        assert_least_privileged(server.pid(), MAILSLOT, MAIL, &format!("{mode:?}"));
        if mode == Mode::Root {
            for (name, bounding) in threads(server.pid(), &["CapBnd"]) {
                assert_eq!(bounding, ["0000000000000000"], "{name}");
            }
        }
    }
    let host = Host::new();
    let server = host.start(Mode::Plain, &[]);
    drop(server.greeted());
    for (name, left) in threads(server.pid(), &["CapPrm", "NoNewPrivs"]) {
        assert_eq!(left, ["0000000000000000", "1"], "{name}");
    }
    // Root that stays root has no more than others.
    let host = Host::new();
    chown(host.path("spool"), Some(0), Some(0)).unwrap();
    let server = host.start(Mode::Root, &["--run-as", "root"]);
    drop(server.greeted());
    assert_least_privileged(server.pid(), 0, 0, "--run-as root");
    let mut client = server.after_ehlo();
    client.deliver("a@a.example", &["alice@host.example"], "Subject: x\r\n\r\n", 250);
    assert_eq!(fs::metadata(host.mailbox("alice")).unwrap().uid(), ALICE);
}

/// Under `--inetd` all of it has happened before the client is greeted.
#[test]
#[ignore = "needs root, unshare"]
fn a_session_of_inetd_has_no_privileges() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (served, _) = listener.accept().unwrap();
    let socket = OwnedFd::from(served);
    let mut command = host.command(Mode::Root, &["--inetd", "--log", "stderr"]);
    command.stdin(socket.try_clone().unwrap()).stdout(socket).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut greeting = [0; 4];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ");
    assert_least_privileged(Pid::from_raw(child.id() as i32), MAILSLOT, MAIL, "--inetd");
    client.write_all(b"HELO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<bob@host.example>\r\n").unwrap();
    client.write_all(b"DATA\r\nSubject: x\r\n\r\nIt works.\r\n.\r\nQUIT\r\n").unwrap();
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    assert!(child.wait().unwrap().success(), "{replies}");
    let left = fs::metadata(host.mailbox("bob")).unwrap();
    assert_eq!((left.uid(), left.gid()), (BOB, MAIL), "{replies}");
}

/// Killed at any moment under load, and started again, it completes what it was writing as the
/// users it was writing for.
#[test]
#[ignore = "needs root, unshare"]
fn what_a_kill_leaves_is_recovered_with_the_right_owners() {
    let host = Host::new();
    let mut acknowledged = 0;
    for round in 0..3 {
        let server = host.start(Mode::Root, &["--threads", "8"]);
        let address = server.address;
        let clients: Vec<_> = (0..4)
            .map(|n| {
                std::thread::spawn(move || {
                    let mut sent = 0;
                    // Until the server is gone.
                    while send(address, &format!("id-{round}-{n}-{sent}.")).is_ok() {
                        sent += 1;
                    }
                    (0..sent).map(|i| format!("id-{round}-{n}-{i}.")).collect::<Vec<_>>()
                })
            })
            .collect();
        let until = Instant::now() + PATIENCE;
        while fs::metadata(host.mailbox("alice")).map_or(0, |meta| meta.len()) < 20_000 {
            assert!(Instant::now() < until, "no mail");
            std::thread::sleep(Duration::from_millis(5));
        }
        server.signal(Signal::SIGKILL);
        let _ = server.ended();
        let sent: Vec<String> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
        drop(host.start(Mode::Root, &[]));
        for (name, uid) in [("alice", ALICE), ("bob", BOB)] {
            let left = fs::metadata(host.mailbox(name)).unwrap();
            assert_eq!((left.uid(), left.gid(), left.mode() & 0o777), (uid, MAIL, 0o660));
            let text = fs::read_to_string(host.mailbox(name)).unwrap();
            for id in &sent {
                assert!(text.contains(id), "{id} was acknowledged, and is not in {name}");
            }
        }
        acknowledged += sent.len();
        fs::remove_file(host.mailbox("alice")).unwrap();
    }
    assert!(acknowledged > 0);
}

/// One message for alice and bob, acknowledged.
fn send(address: std::net::SocketAddr, id: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let text = format!(
        "HELO c.example\r\nMAIL FROM:<>\r\nRCPT TO:<alice@host.example>\r\n\
         RCPT TO:<bob@host.example>\r\nDATA\r\n\
         Subject: {id}\r\n\r\n{}\r\n.\r\nQUIT\r\n",
        "x".repeat(200)
    );
    stream.write_all(text.as_bytes())?;
    let mut replies = String::new();
    stream.read_to_string(&mut replies)?;
    match replies.lines().nth(6).is_some_and(|line| line.starts_with("250")) {
        true => Ok(()),
        false => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// It does not stay root because a user is missing, and does not pretend to be able to change.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn a_user_that_cannot_be_had_is_told() {
    let host = Host::new();
    for (mode, options, told) in [
        (Mode::Root, ["--run-as", "nobody-here"], "there is no user nobody-here; `useradd"),
        (Mode::Root, ["--run-as", "mailslot:none"], "there is no group none"),
        (Mode::Plain, ["--run-as", "alice"], "only root can become another user"),
    ] {
        let options = [&["-l", "127.0.0.1:0"][..], &options].concat();
        let output = host.command(mode, &options).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && text.contains(told), "{text}");
    }
}

/// In the environment of [`confined`], the folder that is in reach.
const CONFINED: &str = "MAILSLOT_TEST_CONFINED";

/// What is tried in the sandbox, by another thread; run by the test below, in a process of its own.
#[test]
fn confined() {
    let Some(inside) = std::env::var_os(CONFINED).map(PathBuf::from) else { return };
    let outside = inside.with_file_name("outside");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut reach = mailslot::confine::Reach::new();
    reach.write(&inside);
    let strength = mailslot::confine::confine(&reach).unwrap();
    let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    let tries = move || {
        let file = inside.join("file");
        fs::write(&file, "x").unwrap();
        File::options().append(true).open(&file).unwrap().set_len(0).unwrap();
        fs::hard_link(&file, inside.join("link")).unwrap();
        fs::remove_file(&file).unwrap();
        if strength == mailslot::confine::Strength::None {
            return println!("skipped: this kernel has no Landlock");
        }
        assert!(File::open("/etc/shadow").is_err_and(denied), "read shadow");
        assert!(fs::write(&outside, "x").is_err_and(denied), "write outside");
        assert!(fs::write(outside.with_file_name("new"), "x").is_err_and(denied), "make");
        assert!(fs::remove_file(&outside).is_err_and(denied), "remove");
        assert!(File::open(&outside).is_err_and(denied), "read");
        assert!(mailslot::confine::is_out_of_reach(&outside));
        assert!(fs::read_dir("/etc").is_err_and(denied), "list");
        assert!(fs::create_dir(inside.join("dir")).is_err_and(denied), "make a folder");
        assert!(fs::hard_link(inside.join("link"), outside.with_file_name("l")).is_err(), "link");
        assert!(symlink("/", inside.join("s")).is_err_and(denied), "make a link");
        assert!(Command::new("/bin/true").status().is_err_and(denied), "run a program");
        if strength == mailslot::confine::Strength::Full {
            let address = listener.local_addr().unwrap();
            assert!(TcpListener::bind("127.0.0.1:0").is_err_and(denied), "bind");
            assert!(TcpStream::connect(address).is_err_and(denied), "connect");
        }
        println!("all denied");
    };
    std::thread::spawn(tries).join().unwrap();
}

/// As whoever runs the test, root too.
#[test]
fn a_thread_in_the_sandbox_cannot_leave_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("inside")).unwrap();
    fs::write(folder.path().join("outside"), "x").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "confined", "--nocapture"])
        .env(CONFINED, folder.path().join("inside"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("all denied") || text.contains("skipped"), "{text}");
    print!("{text}");
}

/// An `:include:` that leads out of the sandbox: mail waits, and the log names what keeps it.
#[test]
fn an_include_outside_of_the_sandbox_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (lists, new) = (folder.path().join("lists"), other.path().join("new"));
    fs::write(&new, "bob\n").unwrap();
    fs::write(&lists, "shadow: :include:/etc/shadow\n").unwrap();
    let server = Server::start_in(folder, &["-a", lists.to_str().unwrap()]);
    let strength = mailslot_has_landlock();
    let mut client = server.after_ehlo();
    client.say("MAIL FROM:<>", 250);
    if strength || !nix::unistd::geteuid().is_root() {
        client.say("RCPT TO:<shadow@x.example>", 451);
    }
    if strength && File::open("/etc/shadow").is_ok() {
        server.wait_for_log("/etc/shadow is outside of the sandbox");
    }
    // One that is named later.
    fs::write(&lists, format!("new: :include:{}\n", new.display())).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reload");
    if !strength {
        return println!("skipped: this kernel has no Landlock");
    }
    client.say("RCPT TO:<new@x.example>", 451);
    server.wait_for_log("new is outside of the sandbox");
}

/// Whether the kernel confines at all.
fn mailslot_has_landlock() -> bool {
    fs::read_to_string("/sys/kernel/security/lsm").map_or_else(
        |_| Path::new("/proc/sys/kernel/landlock_restrict").exists(),
        |modules| modules.contains("landlock"),
    )
}
