//! The confinement that the program applies to itself: what a confined thread can open, and files
//! that are named or replaced later. This is a program of its own because one test runs the program
//! again and confines it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "harness/mod.rs"]
mod harness;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::directory::TestDirectory;
use crate::harness::server::Server;
use crate::harness::test_host::{self, MAIL, StartMode, TestHost, passwd_line};

/// Environment variable of [`confined`] with the directory that it may use.
const CONFINED: &str = "MAILSLOT_TEST_CONFINED";

/// Tries what must fail in a confined thread. Run by the test below, in a process of its own.
#[test]
fn confined() {
    let Some(inside) = std::env::var_os(CONFINED).map(PathBuf::from) else { return };
    let outside = inside.with_file_name("outside");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rules = mailslot::process::confinement::ConfinementRules::new();
    rules.allow_write(&inside);
    let strength = mailslot::process::confinement::confine(&rules).unwrap();
    let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
    let tries = move || {
        let file = inside.join("file");
        fs::write(&file, "x").unwrap();
        File::options().append(true).open(&file).unwrap().set_len(0).unwrap();
        fs::hard_link(&file, inside.join("link")).unwrap();
        fs::remove_file(&file).unwrap();
        if strength == mailslot::process::confinement::ConfinementStrength::None {
            return println!("skipped: this kernel has no Landlock");
        }
        assert!(File::open("/etc/shadow").is_err_and(denied), "read shadow");
        assert!(fs::write(&outside, "x").is_err_and(denied), "write outside");
        assert!(fs::write(outside.with_file_name("new"), "x").is_err_and(denied), "make");
        assert!(fs::remove_file(&outside).is_err_and(denied), "remove");
        assert!(File::open(&outside).is_err_and(denied), "read");
        assert!(mailslot::process::confinement::blocks_reading(&outside));
        assert!(fs::read_dir(outside.with_file_name("")).is_err_and(denied), "list");
        assert!(fs::create_dir(inside.join("dir")).is_err_and(denied), "make a directory");
        assert!(fs::hard_link(inside.join("link"), outside.with_file_name("l")).is_err(), "link");
        assert!(symlink("/", inside.join("s")).is_err_and(denied), "make a link");
        assert!(Command::new("/bin/true").status().is_err_and(denied), "run a program");
        if strength == mailslot::process::confinement::ConfinementStrength::Full {
            let address = listener.local_addr().unwrap();
            assert!(TcpListener::bind("127.0.0.1:0").is_err_and(denied), "bind");
            assert!(TcpStream::connect(address).is_err_and(denied), "connect");
        }
        println!("all denied");
    };
    std::thread::spawn(tries).join().unwrap();
}

/// Runs as the user who runs the test, including root.
#[test]
fn confined_thread_is_denied_everything_else() {
    let text = run_confined();
    assert!(text.contains("all denied") || text.contains("skipped"), "{text}");
    print!("{text}");
}

/// Runs [`confined`]. Returns what it printed.
fn run_confined() -> String {
    let directory = TestDirectory::new();
    fs::create_dir(directory.join("inside")).unwrap();
    fs::write(directory.join("outside"), "x").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "confined", "--nocapture"])
        .env(CONFINED, directory.join("inside"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    text.into_owned()
}

/// An `:include:` outside of the confinement defers mail, and the log names the file.
#[test]
fn include_outside_of_the_confinement_is_logged() {
    let directory = TestDirectory::new();
    let other = TestDirectory::new();
    let (lists, new) = (directory.join("lists"), other.path().join("new"));
    fs::write(&new, "bob\n").unwrap();
    fs::write(&lists, "shadow: :include:/etc/shadow\n").unwrap();
    let server = Server::start_in(directory, &["-a", lists.to_str().unwrap(), "--hold", "off"]);
    let confines = kernel_confines();
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<>", 250);
    if confines || !nix::unistd::geteuid().is_root() {
        client.command("RCPT TO:<shadow@x.example>", 451);
    }
    if confines && File::open("/etc/shadow").is_ok() {
        server.wait_for_log("/etc/shadow is outside of the confinement");
    }
    // A file that is named later.
    fs::write(&lists, format!("new: :include:{}\n", new.display())).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reload");
    if !confines {
        return println!("skipped: this kernel has no Landlock");
    }
    client.command("RCPT TO:<new@x.example>", 451);
    server.wait_for_log("new is outside of the confinement");
}

/// Delivers a message to `user`, which must be accepted.
fn deliver(server: &Server, user: &str) {
    let to = format!("{user}@host.example");
    server.after_ehlo().deliver("a@a.example", &[&to], "Subject: x\r\n\r\nx\r\n", 250);
}

/// Rules are for inodes: mail was deferred until a restart by hand.
#[test]
fn a_replaced_mail_directory_ends_the_process_with_75() {
    if !kernel_confines() {
        return println!("skipped: this kernel has no Landlock");
    }
    let server = Server::start(&[]);
    deliver(&server, "alice");
    fs::rename(server.join("mail"), server.join("old")).unwrap();
    fs::create_dir(server.join("mail")).unwrap();
    let line = server.wait_for_log("restart-needed");
    assert!(line.contains(server.join("mail").to_str().unwrap()), "{line}");
    assert!(line.contains("outside of the confinement"), "{line}");
    let directory = TestDirectory::clone(&server);
    let (log, status) = server.ended();
    assert_eq!(status.code(), Some(75), "{log:#?}");
    deliver(&Server::start_in(directory, &[]), "alice");
}

/// The journal in the old directory would be lost in a crash.
#[test]
fn a_replaced_spool_ends_the_process_with_75() {
    let server = Server::start(&[]);
    fs::rename(server.join("spool"), server.join("old")).unwrap();
    fs::create_dir(server.join("spool")).unwrap();
    let line = server.wait_for_log("restart-needed");
    assert!(line.contains("the spool was replaced"), "{line}");
    let (log, status) = server.ended();
    assert_eq!(status.code(), Some(75), "{log:#?}");
}

/// A link to the alias file that leads into another directory later.
#[test]
fn a_link_that_leads_elsewhere_ends_the_process_with_75() {
    if !kernel_confines() {
        return println!("skipped: this kernel has no Landlock");
    }
    let [first, second, directory] = [(); 3].map(|()| TestDirectory::new());
    for other in [&first, &second] {
        fs::write(other.join("aliases"), "sales: alice\n").unwrap();
    }
    let link = directory.join("aliases");
    symlink(first.join("aliases"), &link).unwrap();
    let server = Server::start_in(directory, &["-a", link.to_str().unwrap()]);
    deliver(&server, "sales");
    // In place, without a change of directory, it is followed.
    fs::write(first.join("new"), "sales: bob\n").unwrap();
    fs::rename(first.join("new"), first.join("aliases")).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reloaded");
    deliver(&server, "sales");
    assert!(server.mailbox("bob").contains("Subject: x"));
    fs::remove_file(&link).unwrap();
    symlink(second.join("aliases"), &link).unwrap();
    let line = server.wait_for_log("restart-needed");
    assert!(line.contains(link.to_str().unwrap()), "{line}");
    let (log, status) = server.ended();
    assert_eq!(status.code(), Some(75), "{log:#?}");
}

/// A file system that is mounted over the mail directory.
#[test]
#[ignore = "needs root, unshare, nsenter, setpriv"]
fn a_mail_directory_mounted_over_ends_the_process_with_75() {
    if !kernel_confines() {
        return println!("skipped: this kernel has no Landlock");
    }
    let host = TestHost::new();
    let server = host.start(StartMode::Root, &[]);
    deliver(&server, "alice");
    let mail = host.path("mail");
    let mut mount = Command::new("nsenter");
    mount.args(["--mount", "--target", &server.pid().to_string(), "mount", "-t", "tmpfs"]);
    mount.args(["-o", "mode=2775,gid=8", "none", mail.to_str().unwrap()]);
    assert!(mount.status().unwrap().success());
    server.wait_for_log("restart-needed");
    let (log, status) = server.ended();
    assert_eq!(status.code(), Some(75), "{log:#?}");
}

/// On Fedora, Arch and SUSE `/var/mail` is a link to `spool/mail`. The group was read from the
/// link, so that no mailbox could be created.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn a_mailbox_is_created_in_a_mail_directory_behind_a_link() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    for mode in [StartMode::Root, StartMode::Capable] {
        let host = TestHost::new();
        fs::create_dir(host.path("var")).unwrap();
        fs::rename(host.path("mail"), host.path("var/mail")).unwrap();
        symlink("var/mail", host.path("mail")).unwrap();
        let output = host.command(mode, &["check", "-l", "127.0.0.1:0"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("\nstart            passes"), "{text}");
        let server = host.start(mode, &[]);
        deliver(&server, "alice");
        let meta = fs::metadata(host.mailbox("alice")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (test_host::ALICE, MAIL), "{mode:?}");
        assert_eq!(meta.permissions().mode() & 0o777, 0o660, "{mode:?}");
    }
}

/// `/etc/resolv.conf` is a link into `/run` on most hosts. The names of smarthosts were never
/// found, because the confinement covered the link's directory alone.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn a_resolv_conf_behind_links_can_be_read() {
    if !kernel_confines() {
        return println!("skipped: this kernel has no Landlock");
    }
    for place in ["/run/NetworkManager", "/run/resolvconf", "/mnt/wsl"] {
        for mode in [StartMode::Root, StartMode::Capable] {
            let host = TestHost::new();
            symlink(format!("{place}/resolv.conf"), host.path("etc/resolv.conf")).unwrap();
            fs::write(host.path("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
            let namespace = host.namespace().run(&format!(
                "mount -t tmpfs none /run; mount -t tmpfs none /mnt; mkdir -p {place}
                 echo nameserver 127.0.0.53 >{place}/resolv.conf"
            ));
            let options = ["check", "-l", "127.0.0.1:0", "--smarthost", "smart.test:25"];
            let options = [&options[..], &["--smarthost-tls", "may"]].concat();
            let output = host.command_in(&namespace, &[], mode, &options).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("\nstart            passes"), "{place} {mode:?}\n{text}");
            assert!(!text.contains("outside of the confinement"), "{place} {mode:?}\n{text}");
        }
    }
}

/// Files in `/etc` of the host. As an ordinary user the program can read what its permissions
/// allow, and files that replace others. As root it can read what was there at the start, and what
/// all users may read.
#[test]
#[ignore = "needs root, unshare, setpriv"]
fn files_in_etc() {
    let root_is_confined = kernel_confines();
    for (mode, options, secret, user_later) in [
        (StartMode::Root, &[][..], "cannot be opened: Permission denied", 250),
        (StartMode::Capable, &[], "cannot be opened: Permission denied", 250),
        (StartMode::Root, &["--run-as", "root"], "is outside of the confinement", 451),
    ] {
        if options.contains(&"root") && !root_is_confined {
            println!("skipped: this kernel has no Landlock");
            continue;
        }
        let host = TestHost::new();
        let lists = "secret: :include:/etc/shadow\npublic: :include:/etc/list\n";
        fs::write(host.path("etc/aliases"), lists).unwrap();
        fs::write(host.path("etc/list"), "alice\n").unwrap();
        let owner = if options.is_empty() { test_host::MAILSLOT } else { 0 };
        chown(host.path("spool"), Some(owner), Some(MAIL)).unwrap();
        let server = host.start(mode, &[options, &["--hold", "off"]].concat());
        let mut client = server.after_ehlo();
        client.command("MAIL FROM:<>", 250);
        client.command("RCPT TO:<public@host.example>", 250);
        client.command("RCPT TO:<secret@host.example>", 451);
        server.wait_for_log(&format!("/etc/shadow {secret}"));
        client.command("RCPT TO:<carol@host.example>", 550);
        // As useradd(8) changes the file.
        let mut users = fs::read_to_string(host.path("etc/passwd")).unwrap();
        users.push_str(&passwd_line("carol", 64910));
        fs::write(host.path("etc/passwd+"), users).unwrap();
        fs::rename(host.path("etc/passwd+"), host.path("etc/passwd")).unwrap();
        client.command("RCPT TO:<carol@host.example>", user_later);
        if user_later == 451 {
            server.wait_for_log("outside of the confinement; restart mailslot");
        }
    }
}

/// A key that the group of `--run-as` may read is reloaded. One that only root may read is not, and
/// the log says so at the start. Files that replace the old ones can be read.
#[cfg(feature = "tls")]
#[test]
#[ignore = "needs root, unshare"]
fn key_of_the_group_is_reloaded() {
    use std::os::unix::fs::PermissionsExt;
    for (permissions, again) in [(0o640, true), (0o600, false)] {
        let host = TestHost::new();
        let make = || {
            let made = rcgen::generate_simple_self_signed(["host.example".to_owned()]).unwrap();
            let pem = made.cert.pem() + &made.signing_key.serialize_pem();
            fs::write(host.path("new"), pem).unwrap();
            chown(host.path("new"), Some(0), Some(MAIL)).unwrap();
            fs::set_permissions(host.path("new"), fs::Permissions::from_mode(permissions)).unwrap();
            fs::create_dir_all(host.path("certs")).unwrap();
            fs::rename(host.path("new"), host.path("certs/both.pem")).unwrap();
        };
        make();
        let pem = host.path("certs/both.pem");
        let server = host.start(StartMode::Root, &["--tls-cert", pem.to_str().unwrap()]);
        if !again {
            let line = server.wait_for_log("tls-reload-unavailable");
            assert!(line.contains("chgrp"), "{line}");
        }
        make();
        server.signal(Signal::SIGHUP);
        let line = server.wait_for_any_log(&["tls-reload-failed", "reloaded"]);
        assert_eq!(line.contains("reloaded"), again, "{line}");
        assert_eq!(server.after_ehlo().command("STARTTLS", 220).code, 220);
    }
}

/// The units of systemd: their exposure, and that the filter allows every call that is made.
#[test]
#[ignore = "needs root, unshare, setpriv, strace, systemd-analyze"]
fn systemd_unit_allows_the_calls_that_are_made() {
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).env_remove("LESS").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    for unit in ["mailslot.service", "mailslot-inetd@.service"] {
        let unit = root.join("contrib/systemd").join(unit);
        let security = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
        let text = run("systemd-analyze", &security);
        let score = text.lines().find(|line| line.contains("Overall exposure level")).unwrap();
        println!("{score}");
        let figure = score.split_whitespace().find_map(|word| word.parse::<f32>().ok()).unwrap();
        assert!(figure < 2.0, "{text}");
    }

    let unit = fs::read_to_string(root.join("contrib/systemd/mailslot.service")).unwrap();
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (takes, words) = match line.strip_prefix('~') {
            Some(words) => (false, words),
            None => (true, line),
        };
        for word in words.split_whitespace() {
            for call in members(word, &|group| run("systemd-analyze", &["syscall-filter", group])) {
                if takes {
                    allowed.insert(call);
                } else {
                    allowed.remove(&call);
                }
            }
        }
    }
    let host = TestHost::new();
    // Between setpriv and the program, so that only the calls of the program are traced. -D keeps
    // the pid that of the program.
    let strace = ["strace", "-D", "-f", "-qq"];
    let options = ["-l", "127.0.0.1:0"];
    let mut command = host.command_in(&host.namespace(), &strace, StartMode::Capable, &options);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let server = host.start_command(command);
    let mut client = server.after_ehlo();
    let text = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(500));
    client.deliver("a@a.example", &["alice@host.example"], &text, 250);
    client.command("QUIT", 221);
    let large = text.repeat(1000);
    server.after_ehlo().deliver("a@a.example", &["bob@host.example"], &large, 250);
    server.signal(Signal::SIGHUP);
    let (log, _) = server.stop();
    let made: BTreeSet<String> = log.iter().filter_map(|line| call_of(line)).collect();
    assert!(made.contains("setfsuid") && made.contains("fdatasync"), "{made:?}");
    let refused: Vec<&String> = made.difference(&allowed).collect();
    // Called by strace to start the program.
    assert!(refused.iter().all(|call| *call == "execve"), "{refused:?}");
}

/// Returns the system calls that a word of SystemCallFilter= stands for.
fn members(word: &str, group: &dyn Fn(&str) -> String) -> Vec<String> {
    if !word.starts_with('@') {
        return vec![word.to_owned()];
    }
    let text = group(word);
    let names = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    names.filter(|name| *name != word).flat_map(|name| members(name, group)).collect()
}

/// Returns the call in a line of strace, `[pid 4711] setfsuid(64901) = 64900`.
fn call_of(line: &str) -> Option<String> {
    let call = line.strip_prefix("[pid").and_then(|rest| rest.split_once(']'));
    let call = call.map_or(line, |(_, call)| call);
    let (name, _) = call.trim_start().split_once('(')?;
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    (plain && !name.is_empty()).then(|| name.to_owned())
}

/// True if the kernel supports the confinement.
fn kernel_confines() -> bool {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    // If that file system is not mounted, the kernel is tried.
    modules.contains("landlock") || run_confined().contains("all denied")
}
