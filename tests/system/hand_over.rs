//! The hand-over directory: other users, and a kill or an error at every system call of a hand-over
//! and of taking a message.
//!
//! strace kills the program at the n-th call of each name, or has the call fail. After each, a
//! server is started. A message that sendmail returned 0 for must then be in each
//! mailbox once, and any other at most once, whole, and nothing may be left.
//!
//! `MAILSLOT_STRIDE=N` takes every N-th call.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};

use crate::harness::directory::TestDirectory;
use crate::harness::loop_disk::{FileSystem, LoopDisk};
use crate::harness::scripted_server::{ScriptedServer, reply, usual};
use crate::harness::server::{Server, sendmail_path};
use crate::harness::strace::{Strace, call_names, kill_at, thread_of};
use crate::harness::{env_number, wait_until};

/// A body that is not all in one write.
fn body() -> String {
    format!("Subject: whole\n\n{}to the end\n", "0123456789abcde\n".repeat(10_000))
}

/// A directory for servers, and a server that defers all mail, so that sendmail leaves it at once.
struct Host {
    directory: TestDirectory,
    config: PathBuf,
    deferring: ScriptedServer,
}

impl Host {
    fn new() -> Host {
        let directory = TestDirectory::in_memory();
        let deferring = ScriptedServer::start(|_, command| match command {
            mail if mail.starts_with("MAIL ") => reply("451 4.3.0 not now"),
            other => usual(other),
        });
        let config = directory.join("conf");
        let spool = directory.join("spool");
        let host = Host { directory, config, deferring };
        host.set_spool(&spool);
        host.start().stop();
        host
    }

    /// Has sendmail use this spool.
    fn set_spool(&self, spool: &Path) {
        let text = format!(
            "listen {}\nhostname here.example\ndomain here.example\naliases none\nspool {}\n",
            self.deferring.address,
            spool.display()
        );
        fs::write(&self.config, text).unwrap();
    }

    fn start(&self) -> Server {
        let users = ["--user", "smith", "--user", "jones", "--user", "green"];
        self.directory
            .start(&[&["--threads", "2", "--domain", "here.example"], &users[..]].concat())
    }

    /// Runs sendmail under `starter`. Returns its exit status, or None if it was killed.
    fn sendmail(&self, starter: &[&str], to: &[&str]) -> Option<i32> {
        let config = self.config.to_str().unwrap();
        let words = [starter, &[sendmail_path(), "-C", config, "-f", "green"], to].concat();
        let mut command = Command::new(words[0]);
        let command = command.args(&words[1..]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(body().as_bytes());
        child.wait().unwrap().code()
    }

    fn waiting(&self) -> Vec<String> {
        self.directory.names("spool/hand-over")
    }

    /// Starts a server, and asserts that it finishes what was left: each of `users` has the message
    /// `least` times or more, and at most once.
    fn assert_finishes(&self, least: usize, users: &[&str], context: &str) {
        let server = self.start();
        let path = self.directory.join("spool/hand-over");
        let is_complete =
            |name: &String| fs::metadata(path.join(name)).is_ok_and(|m| m.mode() & 0o040 != 0);
        wait_until(&format!("all is taken, {context}"), || {
            !self.waiting().iter().any(is_complete) && self.directory.queue().is_empty()
        });
        let (log, status) = server.stop();
        assert_eq!(status.code(), Some(0), "{context}: {log:#?}");
        for user in users {
            let messages = self.directory.messages(user);
            assert!(messages.len() >= least, "{context}: lost for {user}: {log:#?}");
            assert!(messages.len() <= 1, "{context}: doubled for {user}: {log:#?}");
            for message in messages {
                let text = String::from_utf8_lossy(&message.text);
                assert!(text.ends_with("\nto the end\n"), "{context}: torn for {user}");
            }
        }
        // A killed writer leaves its incomplete file, which is removed after a day.
        for name in self.waiting() {
            fs::remove_file(path.join(name)).unwrap();
        }
    }
}

/// Calls `attempt` with each call of `names`: the first, the second and so on, until one says that
/// there was no such call. Returns their number.
fn each_call(names: &BTreeSet<String>, mut attempt: impl FnMut(&str, usize) -> bool) -> usize {
    let stride = env_number("MAILSLOT_STRIDE", 1).max(1) as usize;
    let mut tried = 0;
    for (i, name) in names.iter().enumerate() {
        let from = 1 + i % stride;
        tried += (from..).step_by(stride).take_while(|n| attempt(name, *n)).count();
    }
    assert!(tried > 0, "nothing was tried");
    tried
}

/// Returns the names of the calls of sendmail from the start of the hand-over.
fn hand_over_calls(host: &Host) -> BTreeSet<String> {
    let log = host.directory.join("calls");
    let status = host.sendmail(&["strace", "-f", "-o", log.to_str().unwrap()], &["smith"]);
    assert_eq!(status, Some(0));
    let text = fs::read_to_string(&log).unwrap();
    let names = call_names(text.split_once("hand-over").unwrap().1);
    for call in ["openat", "write", "fsync", "fchmod", "syncfs"] {
        assert!(names.contains(call), "{call} is not one of {names:?}");
    }
    host.assert_finishes(1, &["smith"], "not killed");
    host.directory.clear();
    names
}

#[test]
#[ignore = "needs strace"]
fn killed_while_handing_over() {
    let host = Host::new();
    let names = hand_over_calls(&host);
    let log = host.directory.join("calls");
    let tried = each_call(&names, |call, n| {
        let inject = kill_at(call, n);
        let strace = ["strace", "-f", "-o", log.to_str().unwrap(), "-e", &inject];
        let status = host.sendmail(&strace, &["smith", "jones"]);
        let context = format!("killed at {call} {n}");
        assert!(matches!(status, None | Some(0)), "{context}: {status:?}");
        let least = usize::from(status == Some(0));
        host.assert_finishes(least, &["smith", "jones"], &context);
        host.directory.clear();
        status.is_none()
    });
    println!("killed at {tried} calls while handing over: {names:?}");
}

#[test]
#[ignore = "needs strace"]
fn errors_while_handing_over() {
    let host = Host::new();
    let names = hand_over_calls(&host);
    let log = host.directory.join("calls");
    let mut tried = 0;
    for call in ["openat", "write", "fsync", "fchmod", "syncfs"] {
        assert!(names.contains(call));
        for (n, error) in (1..).flat_map(|n| [(n, "ENOSPC"), (n, "EIO")]) {
            let inject = format!("inject={call}:error={error}:when={n}");
            let strace = ["strace", "-f", "-o", log.to_str().unwrap(), "-e", &inject];
            let status = host.sendmail(&strace, &["smith", "jones"]);
            let is_hit = fs::read_to_string(&log).unwrap().contains("(INJECTED)");
            let context = format!("{error} of {call} {n}: {status:?}");
            if status == Some(0) {
                host.assert_finishes(1, &["smith", "jones"], &context);
            } else {
                assert_eq!(host.waiting(), [""; 0], "{context}: a file is left");
            }
            host.directory.clear();
            if !is_hit {
                break;
            }
            tried += 1;
        }
    }
    println!("{tried} errors while handing over");
}

#[test]
#[ignore = "needs strace"]
fn killed_while_taking() {
    let host = Host::new();
    let (_, log) = take(&host, None);
    let names = call_names(&log);
    for call in ["openat", "flock", "fsync", "unlink"] {
        assert!(names.contains(call), "{call} is not one of {names:?}");
    }
    let tried = each_call(&names, |call, n| take(&host, Some((call, n))).0);
    println!("killed at {tried} calls while taking: {names:?}");
}

/// Has a server take a message for two users and an unknown one. Returns whether it was killed, and
/// the calls of the thread that takes messages and of the writer.
fn take(host: &Host, at: Option<(&str, usize)>) -> (bool, String) {
    assert_eq!(host.sendmail(&[], &["smith", "nobody", "jones"]), Some(0));
    let path = host.directory.join("spool/hand-over");
    let name = host.waiting().remove(0);
    let kept = host.directory.join("kept");
    fs::rename(path.join(&name), &kept).unwrap();
    let server = host.start();
    let threads = ["hand-over", "writer"].map(|thread| thread_of(server.pid(), thread));
    let inject = at.map(|(call, n)| kill_at(call, n));
    let strace = Strace::attach(&host.directory, &threads, inject);
    fs::rename(&kept, path.join(&name)).unwrap();
    let program = format!("/proc/{}/exe", server.pid());
    let is_gone = || fs::read_link(&program).is_err();
    wait_until("the message is taken, or the server killed", || {
        is_gone() || host.waiting().is_empty() && host.directory.queue().is_empty()
    });
    let killed = is_gone();
    let calls = strace.detach();
    let _ = kill(server.pid(), Signal::SIGKILL);
    server.ended();
    let context = format!("killed at {at:?}");
    host.assert_finishes(1, &["smith", "jones"], &context);
    let reports = host.directory.messages("green");
    assert!(!reports.is_empty(), "{context}: not reported");
    for report in reports {
        let text = String::from_utf8_lossy(&report.text);
        let failed = "\nFinal-Recipient: rfc822;nobody@here.example\n";
        assert!(text.contains(failed), "{context}: {text}");
    }
    assert_eq!(host.waiting(), [""; 0], "{context}");
    host.directory.clear();
    (killed, calls)
}

/// Several callers at once find room for one message each, and not for all of them. Those that find
/// none keep theirs, and nothing of it is left. A server that runs meanwhile takes all others when
/// there is room again.
#[test]
#[ignore = "needs root, loop devices and e2fsprogs"]
fn disk_becomes_full_while_handing_over() {
    let disk = match LoopDisk::create(FileSystem::Ext4) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped, ext4 cannot be mounted here: {reason}"),
    };
    let host = Host::new();
    host.set_spool(&disk.root().join("spool"));
    let users = ["--user", "smith", "--domain", "here.example", "--hold", "off"];
    disk.start(&users).stop();
    let [filler, waiting] = ["filler", "spool/hand-over"].map(|name| disk.root().join(name));
    let fill = |left: u64| {
        let free = nix::sys::statvfs::statvfs(&disk.root()).unwrap();
        let free = free.blocks_available() as u64 * free.fragment_size() as u64;
        let mut run = Command::new("fallocate");
        run.args(["-l", &(free - left).to_string()]).arg(&filler);
        assert!(run.status().unwrap().success());
    };
    fill(64 << 20);
    let body = |n: usize| format!("{n:015}\n").repeat(12 << 16);
    let results: Vec<(Option<i32>, String)> = thread::scope(|scope| {
        let send = |n| {
            let config = host.config.to_str().unwrap().to_owned();
            move || {
                let mut command = Command::new(sendmail_path());
                command.args(["-C", &config, "-f", "green", "smith"]).stdin(Stdio::piped());
                let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
                let text = format!("Subject: large\n\n{}", body(n));
                let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
                let output = child.wait_with_output().unwrap();
                (output.status.code(), String::from_utf8(output.stderr).unwrap())
            }
        };
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(send(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let left = results.iter().filter(|(status, _)| *status == Some(0)).count();
    assert!((1..8).contains(&left), "{results:?}");
    for (status, text) in results.iter().filter(|(status, _)| *status != Some(0)) {
        assert_eq!(*status, Some(75), "{results:?}");
        // The reply of the server, and why the message cannot wait.
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines[1].ends_with("451 4.3.0 not now"), "{results:?}");
        let is_full = ["No space left on device (os error 28)", ": the disk has no room"];
        assert!(is_full.iter().any(|words| lines[0].ends_with(words)), "{results:?}");
    }
    let modes = || {
        let files = fs::read_dir(&waiting).unwrap().map(|file| file.unwrap().metadata().unwrap());
        files.map(|meta| meta.mode() & 0o777).collect::<Vec<_>>()
    };
    assert_eq!(modes(), vec![0o640; left]);

    fs::remove_file(&filler).unwrap();
    fill(4 << 20);
    let server = disk.start(&users);
    server.wait_for_log("hand-over-deferred");
    assert_eq!(modes(), vec![0o640; left]);
    fs::remove_file(&filler).unwrap();
    wait_until("all are taken", || modes().is_empty());
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    let mailbox = fs::read_to_string(disk.root().join("mail/smith")).unwrap();
    for (n, (status, text)) in results.iter().enumerate() {
        let copies = mailbox.matches(&format!("\n\n{}\n", body(n))).count();
        assert_eq!(copies, usize::from(*status == Some(0)), "{n}: {text}");
    }
}

/// The uid and gid of the server, of two ordinary users.
const SERVER: u32 = 60_001;
const USERS: [u32; 2] = [60_002, 60_003];

#[test]
#[ignore = "needs root"]
fn other_users_cannot_list_read_replace_or_forge() {
    let host = Host::new();
    let directory = &host.directory;
    // Created again by the server, without root.
    fs::remove_dir_all(directory.join("spool")).unwrap();
    fs::remove_dir_all(directory.join("mail")).unwrap();
    for name in ["mail", "spool"] {
        fs::create_dir(directory.join(name)).unwrap();
        std::os::unix::fs::chown(directory.join(name), Some(SERVER), Some(SERVER)).unwrap();
    }
    for path in [directory.path().to_owned(), directory.join("spool")] {
        fs::set_permissions(path, Permissions::from_mode(0o711)).unwrap();
    }
    let ids = [format!("--reuid={SERVER}"), format!("--regid={SERVER}")];
    let setpriv = ["setpriv", &ids[0], &ids[1], "--clear-groups"];
    let start = || directory.start_by(&setpriv, &["--domain", "here.example"]).ok().unwrap();
    start().stop();
    let path = directory.join("spool/hand-over");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (SERVER, SERVER, 0o3733));

    let run = |user: u32, line: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", line]).uid(user).gid(user).current_dir("/");
        // Root's groups would stay.
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sendmail = directory.join("sendmail");
    fs::copy(sendmail_path(), &sendmail).unwrap();
    let (sendmail, config) = (sendmail.display(), host.config.display());
    for user in USERS {
        let line = format!("echo body-of-{user} | {sendmail} -C {config} smith");
        assert_eq!(run(user, &line), (true, String::new()), "{user}");
    }
    let names = host.waiting();
    assert_eq!(names.len(), 2);
    let owned_by = |user| {
        let owner = |name: &&String| fs::metadata(path.join(name)).unwrap().uid() == user;
        path.join(names.iter().find(owner).unwrap()).display().to_string()
    };
    let (first, second) = (owned_by(USERS[0]), owned_by(USERS[1]));
    let spool = path.display();
    // With the name, which no user can find out.
    for line in [
        format!("ls {spool}"),
        format!("ls {spool}/.."),
        format!("cat {first}"),
        format!("echo forged >{first}"),
        format!("echo forged >>{first}"),
        format!("chmod 666 {first}"),
        format!("rm -f {first}"),
        format!("mv {first} {first}x"),
        format!("mv {second} {first}"),
        format!("ln -f {second} {first}"),
        format!("rmdir {spool}"),
        format!("mv {spool} {spool}x"),
        format!("cat {spool}/../queue/*"),
    ] {
        let (done, printed) = run(USERS[1], &line);
        assert!(!done && printed.is_empty(), "{line}: {printed}");
    }
    // A copy under another name, and a link to a file that the user may not read.
    let copy = format!("{spool}/{}", "c".repeat(26));
    assert!(run(USERS[1], &format!("cp {second} {copy} && chmod 640 {copy}")).0);
    let link = format!("{spool}/{}", "d".repeat(26));
    assert!(run(USERS[1], &format!("ln -s /etc/shadow {link}")).0);

    let server = start();
    wait_until("the messages are taken", || host.waiting().len() == 2);
    let mailbox = directory.mailbox("smith");
    assert_eq!(directory.count("smith"), 2, "{mailbox}");
    for (one, other) in [(USERS[0], USERS[1]), (USERS[1], USERS[0])] {
        let text = mailbox.split("\nFrom ").find(|m| m.contains(&format!("body-of-{one}")));
        let text = text.unwrap();
        assert!(text.contains(&format!("(handed over by uid {one})")), "{mailbox}");
        assert!(!text.contains(&format!("{other}")), "{mailbox}");
    }
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("it is a symbolic link")), "{log:#?}");
    assert!(host.waiting().contains(&format!("damaged-{}", "c".repeat(26))), "{log:#?}");
}
