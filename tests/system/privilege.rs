//! Least privilege: the program with real users, started as root, with CAP_SETUID and CAP_SETGID,
//! and with neither.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use crate::harness::terminals::{Pty, write_utmp};
use crate::harness::test_host::{ALICE, BOB, MAIL, MAILSLOT, StartMode, TestHost, passwd_line};
use crate::harness::{TIMEOUT, wait_until};

/// State of the mailbox of alice before a message comes for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Missing,
    Private,
    Group,
    Foreign,
    Symlink,
    HardLink,
}

/// Every kind of mail directory with every kind of mailbox, in every mode. Mail is delivered with
/// the right owner and mode where that is possible, and links planted by users are not followed.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn mailboxes_are_written_as_their_owners() {
    use Kind::*;
    for (directory_mode, uid, gid, lock) in [
        (0o2775, 0, MAIL, "dotlock,fcntl,flock"),
        (0o1777, 0, 0, "dotlock,fcntl,flock"),
        // Only root can create a dotlock or a mailbox here.
        (0o755, 0, 0, "fcntl,flock"),
    ] {
        for mode in StartMode::ALL {
            let host = TestHost::new();
            host.set_mail_directory(directory_mode, uid, gid);
            let server = host.start(mode, &["--lock", lock, "--hold", "off"]);
            for kind in [Missing, Private, Group, Foreign, Symlink, HardLink] {
                let what = format!("{directory_mode:o} {mode:?} {kind:?}");
                let delivers = match kind {
                    Missing => mode.impersonates() && directory_mode != 0o755,
                    Private => mode.impersonates(),
                    Group => true,
                    Foreign | Symlink | HardLink => false,
                };
                let _ = fs::remove_file(host.mailbox("alice"));
                host.make_mailbox("bob", BOB, MAIL, 0o660);
                let mut client = server.after_ehlo();
                client.command("MAIL FROM:<a@a.example>", 250);
                client.command("RCPT TO:<alice@host.example>", 250);
                // After the check at RCPT, so that the writer has to find it.
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
                client.command("DATA", 354);
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
                // A link created in a set-group-ID directory has its group.
                assert_eq!(owner, expected, "{what}");
                assert!(!host.mailbox("alice.lock").exists(), "{what}");
            }
            let (log, status) = server.stop();
            assert!(status.success(), "{log:#?}");
        }
    }
}

/// The mailbox of root is never written to with privileges of root.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn mailbox_of_root_is_not_written_as_root() {
    for mode in [StartMode::Root, StartMode::Capable] {
        let host = TestHost::new();
        let server = host.start(mode, &["--hold", "off"]);
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

/// A stale dotlock of the user in a sticky directory is removed with the identity of the user. So
/// is an empty mailbox that was created for a message that did not fit.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn stale_dotlock_in_a_sticky_directory_is_removed() {
    for mode in [StartMode::Root, StartMode::Capable] {
        let host = TestHost::new();
        host.set_mail_directory(0o1777, 0, 0);
        let lock = host.mailbox("alice.lock");
        fs::write(&lock, "1\n").unwrap();
        chown(&lock, Some(ALICE), Some(ALICE)).unwrap();
        let then = std::time::SystemTime::now() - Duration::from_secs(1000);
        File::options().write(true).open(&lock).unwrap().set_modified(then).unwrap();
        // The server looks at a dotlock of another program two times, seconds apart.
        let options = ["--mailbox-limit", "1K", "--hold", "off", "--lock-timeout", "30"];
        let server = host.start(mode, &options);
        let mut client = server.after_ehlo();
        let text = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(900));
        client.deliver("a@a.example", &["alice@host.example"], &text, 552);
        assert!(!host.mailbox("alice").exists(), "{mode:?}");
        client.deliver("a@a.example", &["alice@host.example"], "Subject: x\r\n\r\n", 250);
        assert_eq!(fs::metadata(host.mailbox("alice")).unwrap().uid(), ALICE);
    }
}

/// Returns fields of `/proc/PID/task/*/status`: for each thread its name and these fields.
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

/// Asserts that no thread but the writer has a capability, or can gain one. A thread that has not
/// run yet has the name of the first thread, and perhaps more capabilities, so the threads are
/// waited for.
fn assert_least_privileged(pid: Pid, uid: u32, gid: u32, what: &str) {
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
    let (uid, gid) = (four(uid), four(gid));
    let names = ["Uid", "Gid", "Groups", "NoNewPrivs", "CapInh", "CapAmb", "CapPrm", "CapEff"];
    let none = "0000000000000000";
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let threads = threads(pid, &names);
        let is_there = |name: &&str| threads.iter().any(|(thread, _)| thread == name);
        let begun = ["writer", "checkpoint", "log", "session-0"].iter().all(is_there);
        let wrong = threads.iter().find(|(name, fields)| {
            // CAP_SETGID is 6, CAP_SETUID is 7.
            let kept = if name == "writer" { "00000000000000c0" } else { none };
            *fields != [uid.as_str(), &gid, "", "1", none, none, kept, kept]
        });
        if begun && wrong.is_none() {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {names:?}: {wrong:?}, begun: {begun}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
#[ignore = "needs root, unshare, setpriv"]
fn only_the_writer_has_capabilities() {
    for mode in [StartMode::Root, StartMode::Capable] {
        let host = TestHost::new();
        let server = host.start(mode, &[]);
        // The final state is reached once clients are accepted.
        drop(server.greeted());
        assert_least_privileged(server.pid(), MAILSLOT, MAIL, &format!("{mode:?}"));
        if mode == StartMode::Root {
            for (name, bounding) in threads(server.pid(), &["CapBnd"]) {
                assert_eq!(bounding, ["0000000000000000"], "{name}");
            }
        }
    }
    let host = TestHost::new();
    let server = host.start(StartMode::Plain, &[]);
    drop(server.greeted());
    for (name, left) in threads(server.pid(), &["CapPrm", "NoNewPrivs"]) {
        assert_eq!(left, ["0000000000000000", "1"], "{name}");
    }
    // A server that stays root has no more capabilities.
    let host = TestHost::new();
    chown(host.path("spool"), Some(0), Some(0)).unwrap();
    let server = host.start(StartMode::Root, &["--run-as", "root"]);
    drop(server.greeted());
    assert_least_privileged(server.pid(), 0, 0, "--run-as root");
    let mut client = server.after_ehlo();
    client.deliver("a@a.example", &["alice@host.example"], "Subject: x\r\n\r\n", 250);
    assert_eq!(fs::metadata(host.mailbox("alice")).unwrap().uid(), ALICE);
}

/// With `--inetd` privileges are dropped before the greeting.
#[test]
#[ignore = "needs root, unshare"]
fn inetd_session_has_no_privileges() {
    let host = TestHost::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    let (served, _) = listener.accept().unwrap();
    let socket = OwnedFd::from(served);
    let mut command = host.command(StartMode::Root, &["--inetd", "--log", "stderr"]);
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

/// A server that was killed under load recovers, after its restart, with the identity of the users.
#[test]
#[ignore = "needs root, unshare"]
fn recovery_keeps_owners() {
    let host = TestHost::new();
    let mut acknowledged = 0;
    for round in 0..3 {
        let server = host.start(StartMode::Root, &["--threads", "8"]);
        let address = server.address;
        let clients: Vec<_> = (0..4)
            .map(|n| {
                std::thread::spawn(move || {
                    let mut sent = 0;
                    // Until the server is killed.
                    while send(address, &format!("id-{round}-{n}-{sent}.")).is_ok() {
                        sent += 1;
                    }
                    (0..sent).map(|i| format!("id-{round}-{n}-{i}.")).collect::<Vec<_>>()
                })
            })
            .collect();
        wait_until("mail has arrived", || {
            fs::metadata(host.mailbox("alice")).map_or(0, |meta| meta.len()) >= 20_000
        });
        server.kill();
        let sent: Vec<String> = clients.into_iter().flat_map(|c| c.join().unwrap()).collect();
        drop(host.start(StartMode::Root, &[]));
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

/// Sends one message to alice and bob, which must be accepted.
fn send(address: std::net::SocketAddr, id: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
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

/// The server does not stay root if the user is missing, and does not start if it cannot change its
/// user.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn unusable_user_is_reported() {
    let host = TestHost::new();
    for (mode, options, expected) in [
        (
            StartMode::Root,
            ["--run-as", "nobody-here"],
            "there is no user nobody-here; create it with `useradd",
        ),
        (StartMode::Root, ["--run-as", "mailslot:none"], "there is no group none"),
        (
            StartMode::Plain,
            ["--run-as", "alice"],
            "only root with CAP_SETUID can become another user",
        ),
    ] {
        let options = [&["-l", "127.0.0.1:0"][..], &options].concat();
        let output = host.command(mode, &options).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && text.contains(expected), "{text}");
    }
}

/// Terminals belong to the group tty, which is the only group of the session.
#[test]
#[ignore = "needs root, unshare"]
fn terminals_are_written_to_as_group_tty() {
    let host = TestHost::new();
    let pty = Pty::open();
    let path = std::path::Path::new("/dev").join(pty.line());
    chown(&path, Some(ALICE), Some(5)).unwrap();
    pty.mesg(true);
    write_utmp(host.directory().path(), &[("alice", pty.line())]);
    let utmp = host.path("utmp");
    let namespace = host
        .namespace()
        .run("mount -t tmpfs none /run")
        .run(&format!("cp '{}' /run/utmp", utmp.display()));
    let options = ["-l", "127.0.0.1:0", "--terminals", "local"];
    let server = host.start_command(host.command_in(&namespace, &[], StartMode::Root, &options));
    let mut client = server.after_ehlo();
    client.command("SEND FROM:<bob@host.example>", 250);
    client.command("RCPT TO:<alice@host.example>", 250);
    client.command("DATA", 354);
    client.send(b"Subject: lunch\r\n\r\nat noon?\r\n");
    client.command(".", 250);
    assert!(pty.screen().contains("at noon?"));
    for (name, groups) in threads(server.pid(), &["Groups"]) {
        assert_eq!(groups, ["5"], "{name}");
    }
    assert!(!host.mailbox("alice").exists());
}

/// `check` prints the identity that the server would have, and what prevents it.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn check_prints_the_run_identity() {
    let host = TestHost::new();
    let check = |mode: StartMode, options: &[&str]| {
        let options = [&["check", "-l", "127.0.0.1:0"], options].concat();
        let output = host.command(mode, &options).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for (mode, identity) in [
        (StartMode::Root, "root, becomes mailslot:mail; writes each mailbox as its owner"),
        (StartMode::Capable, "mailslot with CAP_SETUID and CAP_SETGID; writes each mailbox as its"),
        (
            StartMode::Plain,
            "mailslot without CAP_SETUID and CAP_SETGID; writes mailboxes as itself",
        ),
    ] {
        let text = check(mode, &[]);
        assert!(text.contains(&format!("\nprivileges       {identity}")), "{text}");
        assert!(text.contains("mail for root is deferred") != (mode == StartMode::Plain), "{text}");
    }
    fs::write(host.path("etc/aliases"), "root: alice\n").unwrap();
    let text = check(StartMode::Root, &[]);
    assert!(!text.contains("\nproblem: "), "{text}");

    chown(host.path("spool"), Some(0), Some(0)).unwrap();
    host.set_mail_directory(0o755, 0, 0);
    for (options, expected) in [
        (&[][..], "is not writable by mailslot:mail\n   fix: chown mailslot:mail "),
        (&[], "mail (owner root:root, mode 755) is not writable by mailslot:mail\n   fix: chown"),
        (&[], "users without a mailbox cannot create one"),
        (&["--run-as", "nobody"], "there is no user nobody\n   fix: useradd --system "),
        (&["--run-as", "root"], "run-as root: a vulnerability would give root access"),
    ] {
        let text = check(StartMode::Root, options);
        assert!(text.contains(expected), "{expected:?} in {text}");
    }
    let text = check(StartMode::Plain, &["--run-as", "alice"]);
    assert!(text.contains("only root can become another user, and this is mailslot"), "{text}");
    assert!(text.contains("cannot write to the mailboxes of other users"), "{text}");
}

/// A forward file that only its user may read is followed if the writer can act as the user.
/// Otherwise mail is delivered to the mailbox.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn forward_files_are_read_as_their_users() {
    for mode in StartMode::ALL {
        let host = TestHost::new();
        let home = host.path("home");
        fs::create_dir(&home).unwrap();
        fs::write(home.join(".forward"), "bob\n").unwrap();
        for (path, permissions) in [(home.join(".forward"), 0o600), (home.clone(), 0o700)] {
            fs::set_permissions(&path, Permissions::from_mode(permissions)).unwrap();
            chown(&path, Some(ALICE), Some(ALICE)).unwrap();
        }
        let passwd = fs::read_to_string(host.path("etc/passwd")).unwrap();
        let line = passwd_line("alice", ALICE);
        let moved = line.replace("/nonexistent", home.to_str().unwrap());
        fs::write(host.path("etc/passwd"), passwd.replace(&line, &moved)).unwrap();
        host.make_mailbox("alice", ALICE, MAIL, 0o660);
        host.make_mailbox("bob", BOB, MAIL, 0o660);
        for (switch, to_bob) in [("off", false), ("on", mode.impersonates())] {
            let server = host.start(mode, &["--forward-files", switch]);
            let before = fs::read_to_string(host.mailbox("bob")).unwrap().len();
            let content = "Subject: x\r\n\r\nIt works.\r\n";
            server.after_ehlo().deliver("a@a.example", &["alice@host.example"], content, 250);
            let after = fs::read_to_string(host.mailbox("bob")).unwrap().len();
            assert_eq!(after > before, to_bob, "{mode:?} {switch}");
            let (log, status) = server.stop();
            assert!(status.success(), "{log:#?}");
            let expected =
                log.iter().any(|line| line.contains("forward-file-ignored user=alice error="));
            assert_eq!(expected, switch == "on" && !mode.impersonates(), "{mode:?}: {log:#?}");
        }
    }
}
