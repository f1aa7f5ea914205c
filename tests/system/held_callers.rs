//! Programs that call sendmail(1) once, with mailslot in its place, while a mailbox is
//! locked and while the disk of the mailboxes is full. Each must end with status 0, and its mail
//! must arrive once when the trouble is over.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use crate::harness::cron;
use crate::harness::directory::TestDirectory;
use crate::harness::external::{caller, external, run, write_sendmail};
use crate::harness::namespace::Namespace;
use crate::harness::server::{Server, run_mailslot};
use crate::harness::{is_true_within, wait_until};

/// A reason why mail for smith cannot be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    LockedMailbox,
    FullDisk,
}

/// A server in trouble, and a script named sendmail that leads to it.
struct TroubledHost {
    server: Server,
    directory: TestDirectory,
    /// The path of the script.
    sendmail: String,
    trouble: Trouble,
}

impl TroubledHost {
    fn new(trouble: Trouble) -> TroubledHost {
        let directory = TestDirectory::with_mail_and_spool();
        let options = ["--domain", "here.example", "--lock-timeout", "1"];
        let starter = match trouble {
            Trouble::LockedMailbox => {
                File::create_new(directory.join("mail/smith.lock")).unwrap();
                Vec::new()
            }
            Trouble::FullDisk => {
                let mail = directory.join("mail");
                let mail = mail.display();
                let mount = format!("mount -t tmpfs -o size=64k,mode=777 none '{mail}'");
                let fill = format!("dd if=/dev/zero of='{mail}/full' 2>/dev/null || true");
                Namespace::new().run(&mount).run(&fill).words()
            }
        };
        let starter: Vec<&str> = starter.iter().map(String::as_str).collect();
        let started = Server::start_by(&starter, &directory, &options);
        let server = started.unwrap_or_else(|(log, _)| panic!("{log:#?}"));
        let config = "hostname mx.here.example\ndomain here.example\nlisten";
        let config = format!("{config} {}\n", server.address);
        let sendmail = write_sendmail(&directory, &config, "Hello.\n");
        TroubledHost { server, directory, sendmail, trouble }
    }

    /// Ends the trouble, delivers what waits, and asserts that smith has one message that contains
    /// `expected`.
    fn arrives(self, what: &str, expected: &str) {
        let trouble = self.trouble;
        assert_eq!(self.directory.count("smith"), 0, "{what}, {trouble:?}");
        // The next attempt of the server is five minutes away. The directory below the full disk
        // is seen without the server's mounts.
        wait_until("the attempt is recorded", || {
            let words = ["queue", "--sandbox", self.directory.as_str(), "-q"];
            run_mailslot(&words).1.contains(" tries=1 ")
        });
        self.server.stop();
        let _ = fs::remove_file(self.directory.join("mail/smith.lock"));
        let words = ["queue", "flush", "--sandbox", self.directory.as_str(), "-q"];
        let (code, printed) = run_mailslot(&[&words[..], &["--domain", "here.example"]].concat());
        assert_eq!(code, Some(0), "{what}, {trouble:?}: {printed}");
        assert_eq!(self.directory.count("smith"), 1, "{what}, {trouble:?}");
        let mailbox = self.directory.mailbox("smith");
        assert!(mailbox.contains(expected), "{what}, {trouble:?}: {mailbox}");
    }
}

/// Runs `call` on a host with each trouble.
fn in_trouble(what: &str, expected: &str, call: impl Fn(&TroubledHost)) {
    for trouble in [Trouble::LockedMailbox, Trouble::FullDisk] {
        let host = TroubledHost::new(trouble);
        call(&host);
        host.arrives(what, expected);
    }
}

#[test]
#[ignore = "needs root, unshare, bsd-mailx"]
fn bsd_mailx_in_trouble() {
    in_trouble("bsd-mailx", "\nSubject: hello\n", |host| {
        let rc = host.directory.join("rc");
        fs::write(&rc, format!("set sendmail={} sendwait\n", host.sendmail)).unwrap();
        let mut mailx = caller("bsd-mailx", &host.directory);
        run(mailx.env("MAILRC", &rc).args(["-s", "hello", "smith@here.example"]));
    });
}

#[test]
#[ignore = "needs root, unshare, s-nail"]
fn s_nail_in_trouble() {
    in_trouble("s-nail", "\nSubject: hello\n", |host| {
        let mut nail = caller("s-nail", &host.directory);
        nail.args(["-:", "/", "-S", &format!("mta={}", host.sendmail), "-S", "sendwait"]);
        run(nail.args(["-s", "hello", "smith@here.example"]));
    });
}

#[test]
#[ignore = "needs root, unshare, php-cli"]
fn php_mail_in_trouble() {
    in_trouble("PHP", "\nSubject: hello\n", |host| {
        let mut php = external("php", host.directory.path());
        php.arg("-n").arg("-d").arg(format!("sendmail_path=\"{} -t -i\"", host.sendmail));
        let code = "exit(mail('smith@here.example', 'hello', 'Hello.') ? 0 : 1);";
        run(php.args(["-r", code]));
    });
}

#[test]
#[ignore = "needs root, unshare, git with send-email"]
fn git_send_email_in_trouble() {
    in_trouble("git send-email", "\nSubject: [PATCH] hello\n", |host| {
        let patch = "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\n\
            From: Green <green@here.example>\nDate: Sun, 22 Nov 2026 10:00:00 +0000\n\
            Subject: [PATCH] hello\n\nHello.\n---\n\
            diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-.\n+..\n";
        let file = host.directory.join("0001.patch");
        fs::write(&file, patch).unwrap();
        let mut git = external("git", host.directory.path());
        git.env("GIT_CONFIG_NOSYSTEM", "1").args(["-c", "user.name=Green"]);
        git.args(["-c", "user.email=green@here.example", "send-email", "--confirm=never"]);
        git.args(["--from=green@here.example", "--to=smith@here.example"]);
        git.args(["--suppress-cc=all", &format!("--smtp-server={}", host.sendmail)]);
        run(git.arg(&file));
    });
}

/// cron of Debian, which always calls /usr/sbin/sendmail: in a mount namespace that has our program
/// there.
#[test]
#[ignore = "needs root, unshare, cron"]
fn cron_in_trouble() {
    in_trouble("cron", "\nSubject: Cron <root@", |host| {
        let directory = host.directory.path();
        let mut cron = cron::start(directory, "MAILTO=smith@here.example\n* * * * * echo Hello.\n");
        // cron looks at its tables at each full minute.
        let queued = is_true_within(Duration::from_secs(150), || {
            assert!(cron.is_running(), "cron has ended");
            !held_entries(directory).is_empty()
        });
        assert!(queued, "cron has sent nothing");
    });
}

fn held_entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory.join("spool/queue")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.ends_with("-held")).collect()
}
