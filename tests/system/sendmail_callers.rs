//! Programs that call sendmail(1), with mailslot in its place.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::external::{external, open, run, run_for_text};
use crate::harness::is_true_within;
use crate::harness::namespace::Namespace;
use crate::harness::process::Daemon;
use crate::harness::server::{Server, sendmail_path};

/// A server, and a script named sendmail that leads to it.
struct SendmailHost {
    server: Server,
    sendmail: PathBuf,
}

const BODY: &str = "Hello.\n.\n..dots\nFrom here\nj\u{fc}rgen\n";
/// The body as the mailbox has it.
const STORED: &str = "\nHello.\n.\n..dots\n>From here\nj\u{fc}rgen\n";

impl SendmailHost {
    fn new() -> SendmailHost {
        let server = Server::start(&["--domain", "here.example"]);
        let directory = server.path();
        let config = directory.join("conf");
        let settings = "hostname mx.here.example\ndomain here.example";
        fs::write(&config, format!("listen {}\n{settings}\n", server.address)).unwrap();
        let sendmail = directory.join("sendmail");
        let script =
            format!("#!/bin/sh\nexec {} -C {} \"$@\"\n", sendmail_path(), config.display());
        fs::write(&sendmail, script).unwrap();
        fs::set_permissions(&sendmail, Permissions::from_mode(0o755)).unwrap();
        fs::write(directory.join("body"), BODY).unwrap();
        SendmailHost { server, sendmail }
    }

    fn path(&self) -> &str {
        self.sendmail.to_str().unwrap()
    }

    /// Returns a program that reads the body.
    fn caller(&self, program: &str) -> Command {
        let mut command = external(program, self.server.path());
        command.stdin(open(&self.server.join("body")));
        command
    }

    /// Asserts that each of `users` got one message, which contains `expected`. Returns the mailbox
    /// of the first.
    fn arrived(&self, users: &[&str], expected: &[&str]) -> String {
        let mailbox = |user| self.server.mailbox(user);
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
fn bsd_mailx() {
    let host = SendmailHost::new();
    let rc = host.server.join("rc");
    fs::write(&rc, format!("set sendmail={}\n", host.path())).unwrap();
    let mut mailx = host.caller("bsd-mailx");
    mailx.env("MAILRC", &rc).args(["-s", "hello", "-c", "brown", "-b", "white"]);
    run(mailx.args(["smith", "jones@here.example"]));
    let expected = ["\nSubject: hello\n", "\nTo: jones@here.example, smith@here.example\n", STORED];
    host.arrived(&["smith", "jones", "brown", "white"], &expected);
}

#[test]
#[ignore = "needs s-nail"]
fn s_nail() {
    let host = SendmailHost::new();
    let mut nail = host.caller("s-nail");
    nail.args(["-:", "/", "-S", &format!("mta={}", host.path()), "-S", "ttycharset=utf-8"]);
    nail.args(["-s", "hello", "-c", "brown@here.example", "-b", "white@here.example"]);
    run(nail.arg("smith@here.example"));
    let encoded = "\nHello.\n=2E\n..dots\n=46rom here\nj=C3=BCrgen\n";
    let expected = ["\nSubject: hello\n", "\nTo: smith@here.example\n", encoded];
    let text = host.arrived(&["smith", "brown", "white"], &expected);
    assert!(!text.contains("white"), "{text}");
}

#[test]
#[ignore = "needs mailutils"]
fn mailutils() {
    let host = SendmailHost::new();
    let mut mail = host.caller("mail.mailutils");
    mail.args(["-E", &format!("set sendmail=sendmail:{}", host.path()), "-E", "set nodot"]);
    run(mail.args(["-s", "hello", "smith@here.example", "jones@here.example"]));
    host.arrived(&["smith", "jones"], &["\nSubject: hello\n", STORED]);
}

#[test]
#[ignore = "needs mutt"]
fn mutt_as_a_sender() {
    let host = SendmailHost::new();
    let mut mutt = host.caller("mutt");
    mutt.args(["-n", "-F", "/dev/null", "-e"]);
    mutt.arg(format!(
        "set sendmail=\"{} -oem -oi\" use_envelope_from=yes copy=no dsn_notify=never",
        host.path()
    ));
    mutt.args(["-e", "set from=green@here.example realname=\"Mr. Green\" send_charset=utf-8"]);
    mutt.args(["-s", "hello", "-c", "brown@here.example", "-b", "white@here.example"]);
    run(mutt.args(["--", "smith@here.example"]));
    let expected = ["\nSubject: hello\n", "\nReturn-Path: <green@here.example>\n", STORED];
    let text = host.arrived(&["smith", "brown", "white"], &expected);
    assert!(!text.contains("white"), "{text}");
}

#[test]
#[ignore = "needs git, with send-email"]
fn git_send_email() {
    let host = SendmailHost::new();
    let patch = "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n\
        From: Green <green@here.example>\nDate: Sun, 22 Nov 2026 10:00:00 +0000\n\
        Subject: [PATCH] smtp: Say hello\n\nHello.\n---\n\
        diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-.\n+..\n";
    let file = host.server.join("0001.patch");
    fs::write(&file, patch).unwrap();
    let mut git = external("git", host.server.path());
    git.env("GIT_CONFIG_NOSYSTEM", "1").args(["-c", "user.name=Green"]);
    git.args(["-c", "user.email=green@here.example", "send-email", "--confirm=never"]);
    git.arg("--envelope-sender=green@here.example");
    git.args(["--from=green@here.example", "--to=smith@here.example", "--cc=brown@here.example"]);
    run(git.arg(format!("--smtp-server={}", host.path())).arg(&file));
    let expected = [
        "\nSubject: [PATCH] smtp: Say hello\n",
        "\nReturn-Path: <green@here.example>\n",
        "\n-.\n+..\n",
    ];
    host.arrived(&["smith", "brown"], &expected);
}

#[test]
#[ignore = "needs php-cli"]
fn php_mail() {
    let host = SendmailHost::new();
    let mut php = external("php", host.server.path());
    php.arg("-n").arg("-d").arg(format!("sendmail_path=\"{} -t -i\"", host.path()));
    let code = "var_dump(mail('smith@here.example', 'hello', \"Hello.\\n.\\n..dots\\nFrom here\\n\
        j\u{fc}rgen\\n\", \"Cc: brown@here.example\\r\\nBcc: white@here.example\", '-fgreen'));";
    let printed = run_for_text(php.args(["-r", code]));
    assert_eq!(printed, "bool(true)\n");
    let expected = ["\nSubject: hello\n", "\nReturn-Path: <green@here.example>\n", STORED];
    let text = host.arrived(&["smith", "brown", "white"], &expected);
    assert!(!text.contains("white"), "{text}");
}

/// cron of Debian, which always calls /usr/sbin/sendmail: in a mount namespace that has our program
/// there, and one crontab.
#[test]
#[ignore = "needs root, unshare, cron"]
fn cron_job() {
    let host = SendmailHost::new();
    let directory = host.server.path();
    for name in ["tabs", "empty", "run"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    let table = directory.join("tabs/root");
    fs::write(&table, "MAILTO=smith,jones@here.example\n* * * * * echo Hello.; echo .\n").unwrap();
    fs::set_permissions(&table, Permissions::from_mode(0o600)).unwrap();
    fs::write(directory.join("crontab"), "").unwrap();
    let mut namespace =
        Namespace::new().run("test -e /usr/sbin/sendmail || touch /usr/sbin/sendmail");
    for (ours, theirs) in [
        ("sendmail", "/usr/sbin/sendmail"),
        ("tabs", "/var/spool/cron/crontabs"),
        ("empty", "/etc/cron.d"),
        ("crontab", "/etc/crontab"),
        ("run", "/var/run"),
    ] {
        namespace = namespace.bind(&directory.join(ours), theirs);
    }
    let mut command = namespace.command();
    command.args(["cron", "-f"]).current_dir("/").stdin(Stdio::null());
    let mut cron = Daemon::spawn(&mut command);
    // cron looks at its tables at each full minute.
    let arrived = is_true_within(Duration::from_secs(150), || {
        assert!(cron.is_running(), "cron has ended");
        host.server.mailbox_path("jones").exists()
    });
    assert!(arrived, "cron has sent nothing");
    drop(cron);
    // cron sends one message a minute, so there may be two.
    let mailbox = host.server.mailbox("smith");
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
