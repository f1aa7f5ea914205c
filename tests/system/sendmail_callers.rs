//! Programs that call sendmail(1), called for real, with `mailslot-sendmail` as theirs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::external::{open, peer, run, text};
use crate::harness::server::Server;

/// A server, and a program by the name of sendmail that leads to it.
struct House {
    server: Server,
    sendmail: PathBuf,
}

const BODY: &str = "Hello.\n.\n..dots\nFrom here\nj\u{fc}rgen\n";
/// As the mailbox has it.
const STORED: &str = "\nHello.\n.\n..dots\n>From here\nj\u{fc}rgen\n";

impl House {
    fn new() -> House {
        let server = Server::start(&["--domain", "here.example"]);
        let folder = server.folder();
        let config = folder.join("conf");
        let settings = "hostname mx.here.example\ndomain here.example";
        fs::write(&config, format!("listen {}\n{settings}\n", server.address)).unwrap();
        let sendmail = folder.join("sendmail");
        let program = env!("CARGO_BIN_EXE_mailslot-sendmail");
        let script = format!("#!/bin/sh\nexec {program} -C {} \"$@\"\n", config.display());
        fs::write(&sendmail, script).unwrap();
        fs::set_permissions(&sendmail, Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("body"), BODY).unwrap();
        House { server, sendmail }
    }

    fn path(&self) -> &str {
        self.sendmail.to_str().unwrap()
    }

    /// A program that reads the body.
    fn caller(&self, program: &str) -> Command {
        let mut command = peer(program, self.server.folder());
        command.stdin(open(&self.server.folder().join("body")));
        command
    }

    /// The one message for each of `users`, which holds `expected`; what is in the first's mailbox.
    fn arrived(&self, users: &[&str], expected: &[&str]) -> String {
        let mailbox = |user| fs::read_to_string(self.server.mailbox_path(user)).unwrap_or_default();
        for user in users {
            let text = mailbox(user);
            let header = text.split("\n\n").next().unwrap().to_lowercase();
            for name in ["received", "message-id", "date", "from", "to", "subject"] {
                assert_eq!(header.matches(&format!("\n{name}: ")).count(), 1, "{user}: {text}");
            }
            for expected in expected {
                assert!(text.contains(expected), "{user}, {expected:?}: {text}");
            }
        }
        mailbox(users[0])
    }
}

#[test]
#[ignore = "needs bsd-mailx"]
fn bsd_mailx_sends() {
    let house = House::new();
    let rc = house.server.folder().join("rc");
    fs::write(&rc, format!("set sendmail={}\n", house.path())).unwrap();
    let mut mailx = house.caller("bsd-mailx");
    mailx.env("MAILRC", &rc).args(["-s", "hello", "-c", "brown", "-b", "white"]);
    run(mailx.args(["smith", "jones@here.example"]));
    let expected = ["\nSubject: hello\n", "\nTo: jones@here.example, smith@here.example\n", STORED];
    house.arrived(&["smith", "jones", "brown", "white"], &expected);
}

#[test]
#[ignore = "needs s-nail"]
fn s_nail_sends() {
    let house = House::new();
    let mut nail = house.caller("s-nail");
    nail.args(["-:", "/", "-S", &format!("mta={}", house.path()), "-S", "ttycharset=utf-8"]);
    nail.args(["-s", "hello", "-c", "brown@here.example", "-b", "white@here.example"]);
    run(nail.arg("smith@here.example"));
    let encoded = "\nHello.\n=2E\n..dots\n=46rom here\nj=C3=BCrgen\n";
    let expected = ["\nSubject: hello\n", "\nTo: smith@here.example\n", encoded];
    let text = house.arrived(&["smith", "brown", "white"], &expected);
    assert!(!text.contains("white"), "{text}");
}

#[test]
#[ignore = "needs mailutils"]
fn mailutils_send() {
    let house = House::new();
    let mut mail = house.caller("mail.mailutils");
    mail.args(["-E", &format!("set sendmail=sendmail:{}", house.path()), "-E", "set nodot"]);
    run(mail.args(["-s", "hello", "smith@here.example", "jones@here.example"]));
    house.arrived(&["smith", "jones"], &["\nSubject: hello\n", STORED]);
}

#[test]
#[ignore = "needs mutt"]
fn mutt_sends() {
    let house = House::new();
    let mut mutt = house.caller("mutt");
    mutt.args(["-n", "-F", "/dev/null", "-e"]);
    mutt.arg(format!(
        "set sendmail=\"{} -oem -oi\" use_envelope_from=yes copy=no dsn_notify=never",
        house.path()
    ));
    mutt.args(["-e", "set from=green@here.example realname=\"Mr. Green\" send_charset=utf-8"]);
    mutt.args(["-s", "hello", "-c", "brown@here.example", "-b", "white@here.example"]);
    run(mutt.args(["--", "smith@here.example"]));
    let expected = ["\nSubject: hello\n", "\nReturn-Path: <green@here.example>\n", STORED];
    let text = house.arrived(&["smith", "brown", "white"], &expected);
    assert!(!text.contains("white"), "{text}");
}

#[test]
#[ignore = "needs git, with send-email"]
fn git_send_email_sends() {
    let house = House::new();
    let patch = "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n\
        From: Green <green@here.example>\nDate: Sun, 22 Nov 2026 10:00:00 +0000\n\
        Subject: [PATCH] smtp: Say hello\n\nHello.\n---\n\
        diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-.\n+..\n";
    let file = house.server.folder().join("0001.patch");
    fs::write(&file, patch).unwrap();
    let mut git = peer("git", house.server.folder());
    git.env("GIT_CONFIG_NOSYSTEM", "1").args(["-c", "user.name=Green"]);
    git.args(["-c", "user.email=green@here.example", "send-email", "--confirm=never"]);
    git.arg("--envelope-sender=green@here.example");
    git.args(["--from=green@here.example", "--to=smith@here.example", "--cc=brown@here.example"]);
    run(git.arg(format!("--smtp-server={}", house.path())).arg(&file));
    let expected = [
        "\nSubject: [PATCH] smtp: Say hello\n",
        "\nReturn-Path: <green@here.example>\n",
        "\n-.\n+..\n",
    ];
    house.arrived(&["smith", "brown"], &expected);
}

#[test]
#[ignore = "needs php-cli"]
fn php_sends() {
    let house = House::new();
    let mut php = peer("php", house.server.folder());
    php.arg("-n").arg("-d").arg(format!("sendmail_path=\"{} -t -i\"", house.path()));
    let code = "var_dump(mail('smith@here.example', 'hello', \"Hello.\\n.\\n..dots\\nFrom here\\n\
        j\u{fc}rgen\\n\", \"Cc: brown@here.example\\r\\nBcc: white@here.example\", '-fgreen'));";
    let printed = text(php.args(["-r", code]));
    assert_eq!(printed, "bool(true)\n");
    let expected = ["\nSubject: hello\n", "\nReturn-Path: <green@here.example>\n", STORED];
    let text = house.arrived(&["smith", "brown", "white"], &expected);
    assert!(!text.contains("white"), "{text}");
}

/// A daemon that is killed when it is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's cron, which knows but /usr/sbin/sendmail: in a view of the file system that has ours
/// there, and one crontab.
#[test]
#[ignore = "needs root, unshare, cron"]
fn cron_sends() {
    let house = House::new();
    let folder = house.server.folder();
    for name in ["tabs", "empty", "run"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    let table = folder.join("tabs/root");
    fs::write(&table, "MAILTO=smith,jones@here.example\n* * * * * echo Hello.; echo .\n").unwrap();
    fs::set_permissions(&table, Permissions::from_mode(0o600)).unwrap();
    fs::write(folder.join("crontab"), "").unwrap();
    let mounts = [
        ("sendmail", "/usr/sbin/sendmail"),
        ("tabs", "/var/spool/cron/crontabs"),
        ("empty", "/etc/cron.d"),
        ("crontab", "/etc/crontab"),
        ("run", "/var/run"),
    ];
    let mut script = "set -e\ntest -e /usr/sbin/sendmail || touch /usr/sbin/sendmail\n".to_owned();
    for (ours, theirs) in mounts {
        script += &format!("mount --bind {}/{ours} {theirs}\n", folder.display());
    }
    script += "exec cron -f\n";
    let cron = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .spawn();
    let mut cron = Daemon(cron.unwrap());
    // It looks at its tables at each full minute.
    let until = Instant::now() + Duration::from_secs(150);
    while !house.server.mailbox_path("jones").exists() {
        assert!(Instant::now() < until, "cron has sent nothing");
        assert!(cron.0.try_wait().unwrap().is_none(), "cron has ended");
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(cron);
    // One message a minute, and there may have been two.
    let mailbox = fs::read_to_string(house.server.mailbox_path("smith")).unwrap();
    for expected in [
        "\nReturn-Path: <root@here.example>\n",
        "\nFrom: root@here.example (Cron Daemon)\n",
        "\nTo: smith@here.example,jones@here.example\n",
        "\nSubject: Cron <root@",
        "\n\nHello.\n.\n\n",
    ] {
        assert!(mailbox.contains(expected), "{expected:?}: {mailbox}");
    }
}
