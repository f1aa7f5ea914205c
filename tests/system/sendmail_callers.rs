//! Programs that call sendmail(1), with mailslot in its place: while the server runs, and while it
//! does not, so that they leave their mail in the hand-over directory.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::unistd::User;

use crate::harness::cron;
use crate::harness::directory::TestDirectory;
use crate::harness::external::{caller, external, run, run_for_text, unpack, write_sendmail};
use crate::harness::namespace::Namespace;
use crate::harness::process::Daemon;
use crate::harness::server::Server;
use crate::harness::{is_true_within, wait_until};

/// A directory with a server that may run, and a script named sendmail that leads to it.
struct SendmailHost {
    directory: TestDirectory,
    /// The address of the server, whenever it runs.
    address: String,
    server: Option<Server>,
    /// The path of the script.
    sendmail: String,
}

const BODY: &str = "Hello.\n.\n..dots\nFrom here\nj\u{fc}rgen\n";
/// The body as the mailbox has it.
const STORED: &str = "\nHello.\n.\n..dots\n>From here\nj\u{fc}rgen\n";

impl SendmailHost {
    /// Returns a host on which the server runs, and one on which it has run before.
    fn running_and_stopped() -> [SendmailHost; 2] {
        let stopped = SendmailHost { server: None, ..SendmailHost::new() };
        [SendmailHost::new(), stopped]
    }

    fn new() -> SendmailHost {
        let directory = TestDirectory::new();
        // The port is free again when the listener is dropped.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let server = start(&directory, &address);
        let config = format!(
            "listen {address}\nhostname mx.here.example\ndomain here.example\nspool {}\n",
            directory.join("spool").display(),
        );
        let sendmail = write_sendmail(&directory, &config, BODY);
        SendmailHost { directory, address, server: Some(server), sendmail }
    }

    /// Returns the number of messages that were left for the server.
    fn left(&self) -> usize {
        self.directory.names("spool/hand-over").len()
    }

    /// Starts the server if it does not run, and waits until it has all messages.
    fn have_mail_taken(&mut self) {
        if self.server.is_none() {
            assert!(self.left() > 0, "nothing was left for the server");
            self.server = Some(start(&self.directory, &self.address));
            wait_until("all messages are taken", || self.left() == 0);
        }
    }

    /// Asserts that each of `users` got one message, which contains `expected`. Returns the mailbox
    /// of the first.
    fn arrived(&mut self, users: &[&str], expected: &[&str]) -> String {
        self.have_mail_taken();
        let mailbox = |user| self.directory.mailbox(user);
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

/// Starts a server in `directory` that listens on `address`.
fn start(directory: &TestDirectory, address: &str) -> Server {
    directory.start(&["--domain", "here.example", "--listen", address])
}

#[test]
#[ignore = "needs bsd-mailx"]
fn bsd_mailx() {
    for mut host in SendmailHost::running_and_stopped() {
        let rc = host.directory.join("rc");
        fs::write(&rc, format!("set sendmail={}\n", host.sendmail)).unwrap();
        let mut mailx = caller("bsd-mailx", &host.directory);
        mailx.env("MAILRC", &rc).args(["-s", "hello", "-c", "brown", "-b", "white"]);
        run(mailx.args(["smith", "jones@here.example"]));
        let expected =
            ["\nSubject: hello\n", "\nTo: jones@here.example, smith@here.example\n", STORED];
        host.arrived(&["smith", "jones", "brown", "white"], &expected);
    }
}

#[test]
#[ignore = "needs s-nail"]
fn s_nail() {
    for mut host in SendmailHost::running_and_stopped() {
        let mut nail = caller("s-nail", &host.directory);
        nail.args(["-:", "/", "-S", &format!("mta={}", host.sendmail), "-S", "ttycharset=utf-8"]);
        nail.args(["-s", "hello", "-c", "brown@here.example", "-b", "white@here.example"]);
        run(nail.arg("smith@here.example"));
        let encoded = "\nHello.\n=2E\n..dots\n=46rom here\nj=C3=BCrgen\n";
        let expected = ["\nSubject: hello\n", "\nTo: smith@here.example\n", encoded];
        let text = host.arrived(&["smith", "brown", "white"], &expected);
        assert!(!text.contains("white"), "{text}");
    }
}

#[test]
#[ignore = "needs mailutils"]
fn mailutils() {
    for mut host in SendmailHost::running_and_stopped() {
        let mut mail = caller("mail.mailutils", &host.directory);
        mail.args(["-E", &format!("set sendmail=sendmail:{}", host.sendmail), "-E", "set nodot"]);
        run(mail.args(["-s", "hello", "smith@here.example", "jones@here.example"]));
        host.arrived(&["smith", "jones"], &["\nSubject: hello\n", STORED]);
    }
}

#[test]
#[ignore = "needs mutt"]
fn mutt_as_a_sender() {
    for mut host in SendmailHost::running_and_stopped() {
        let mut mutt = caller("mutt", &host.directory);
        mutt.args(["-n", "-F", "/dev/null", "-e"]);
        mutt.arg(format!(
            "set sendmail=\"{} -oem -oi\" use_envelope_from=yes copy=no dsn_notify=never",
            host.sendmail
        ));
        mutt.args(["-e", "set from=green@here.example realname=\"Mr. Green\" send_charset=utf-8"]);
        mutt.args(["-s", "hello", "-c", "brown@here.example", "-b", "white@here.example"]);
        run(mutt.args(["--", "smith@here.example"]));
        let expected = ["\nSubject: hello\n", "\nReturn-Path: <green@here.example>\n", STORED];
        let text = host.arrived(&["smith", "brown", "white"], &expected);
        assert!(!text.contains("white"), "{text}");
    }
}

#[test]
#[ignore = "needs git, with send-email"]
fn git_send_email() {
    for mut host in SendmailHost::running_and_stopped() {
        let patch = "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n\
            From: Green <green@here.example>\nDate: Sun, 22 Nov 2026 10:00:00 +0000\n\
            Subject: [PATCH] smtp: Say hello\n\nHello.\n---\n\
            diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-.\n+..\n";
        let file = host.directory.join("0001.patch");
        fs::write(&file, patch).unwrap();
        let mut git = external("git", host.directory.path());
        git.env("GIT_CONFIG_NOSYSTEM", "1").args(["-c", "user.name=Green"]);
        git.args(["-c", "user.email=green@here.example", "send-email", "--confirm=never"]);
        git.arg("--envelope-sender=green@here.example");
        git.args([
            "--from=green@here.example",
            "--to=smith@here.example",
            "--cc=brown@here.example",
        ]);
        run(git.arg(format!("--smtp-server={}", host.sendmail)).arg(&file));
        let expected = [
            "\nSubject: [PATCH] smtp: Say hello\n",
            "\nReturn-Path: <green@here.example>\n",
            "\n-.\n+..\n",
        ];
        host.arrived(&["smith", "brown"], &expected);
    }
}

#[test]
#[ignore = "needs php-cli"]
fn php_mail() {
    for mut host in SendmailHost::running_and_stopped() {
        let mut php = external("php", host.directory.path());
        php.arg("-n").arg("-d").arg(format!("sendmail_path=\"{} -t -i\"", host.sendmail));
        let code = "var_dump(mail('smith@here.example', 'hello', \"Hello.\\n.\\n..dots\\n\
            From here\\nj\u{fc}rgen\\n\", \"Cc: brown@here.example\\r\\n\
            Bcc: white@here.example\", '-fgreen'));";
        let printed = run_for_text(php.args(["-r", code]));
        assert_eq!(printed, "bool(true)\n");
        let expected = ["\nSubject: hello\n", "\nReturn-Path: <green@here.example>\n", STORED];
        let text = host.arrived(&["smith", "brown", "white"], &expected);
        assert!(!text.contains("white"), "{text}");
    }
}

/// cron of Debian, which always calls /usr/sbin/sendmail: in a mount namespace that has our program
/// there, and one crontab.
#[test]
#[ignore = "needs root, unshare, cron"]
fn cron_job() {
    for mut host in SendmailHost::running_and_stopped() {
        let directory = host.directory.path();
        let mut cron = cron::start(
            directory,
            "MAILTO=smith,jones@here.example\n* * * * * echo Hello.; echo .\n",
        );
        // cron looks at its tables at each full minute.
        let arrived = is_true_within(Duration::from_secs(150), || {
            assert!(cron.is_running(), "cron has ended");
            host.directory.count("smith") > 0 || host.left() > 0
        });
        assert!(arrived, "cron has sent nothing");
        drop(cron);
        host.have_mail_taken();
        // cron sends one message a minute, so there may be two.
        let mailbox = host.directory.mailbox("smith");
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
}

/// at of Debian, unpacked. Its daemon always calls /usr/sbin/sendmail: in a namespace that has our
/// program there.
#[test]
#[ignore = "needs root, unshare, and the Debian package at from the network"]
fn at_job() {
    for mut host in SendmailHost::running_and_stopped() {
        let packages = host.directory.join("packages");
        fs::create_dir(&packages).unwrap();
        unpack(&["at"], &packages);
        // As the package creates them when it is installed.
        let daemon = User::from_name("daemon").unwrap().expect("Debian has this user");
        let cron = host.directory.join("cron");
        for name in ["", "atjobs", "atspool"] {
            fs::create_dir(cron.join(name)).unwrap();
        }
        fs::write(cron.join("atjobs/.SEQ"), "").unwrap();
        for name in ["atjobs", "atspool", "atjobs/.SEQ"] {
            let path = cron.join(name);
            chown(&path, Some(daemon.uid.as_raw()), Some(daemon.gid.as_raw())).unwrap();
        }
        let mut namespace = Namespace::new()
            .run("mount -t tmpfs none /run")
            .run("test -e /usr/sbin/sendmail || touch /usr/sbin/sendmail")
            .bind(Path::new(&host.sendmail), "/usr/sbin/sendmail")
            .bind(&cron, "/var/spool/cron")
            .run("chmod 1770 /var/spool/cron/*");
        let [at, atd] = ["usr/bin/at", "usr/sbin/atd"].map(|path| packages.join(path));
        // atd finds the job of an at that has ended before.
        namespace =
            namespace.run(&format!("echo echo Hello. | '{}' now 2>/dev/null", at.display()));
        let mut command = namespace.command();
        command.arg(&atd).args(["-f", "-l", "100"]).current_dir("/").stdin(Stdio::null());
        let mut atd = Daemon::spawn(&mut command);
        let arrived = is_true_within(Duration::from_secs(90), || {
            assert!(atd.is_running(), "atd has ended");
            host.directory.mailbox_path("root").exists() || host.left() > 0
        });
        assert!(arrived, "atd has sent nothing");
        drop(atd);
        host.have_mail_taken();
        let mailbox = host.directory.mailbox("root");
        for expected in ["\nSubject: Output from your job ", "\n\nHello.\n\n"] {
            assert_eq!(mailbox.matches(expected).count(), 1, "{expected:?}: {mailbox}");
        }
    }
}
