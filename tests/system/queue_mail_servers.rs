//! Mail servers of other projects as the smarthost of the real program: Postfix with
//! authentication, and its `smtp-sink` with every kind of failure.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::mail_servers::{Exim, Postfix, open_directory, start_dovecot};
use crate::harness::process::Daemon;
use crate::harness::server::{Server, run_mailslot};
use crate::harness::tls::{TestAuthority, TestCertificate};
use crate::harness::wait_until;

/// Starts Dovecot as the authentication server, with these mechanisms: any user, with the password
/// `wonderland`.
fn dovecot(home: &Path, socket: &Path, mechanisms: &str) -> Daemon {
    let settings = format!(
        "protocols =\nauth_mechanisms = {mechanisms}\ndisable_plaintext_auth = no\n\
         passdb {{\n  driver = static\n  args = password=wonderland\n}}\n\
         userdb {{\n  driver = static\n  args = uid=65534 gid=65534 home=/nonexistent\n}}\n\
         service auth {{\n  unix_listener {} {{\n    mode = 0666\n  }}\n}}\n",
        socket.display()
    );
    start_dovecot(home, &settings, socket)
}

/// By STARTTLS with a private authority, with a password, PIPELINING and DSN, to a second mailslot
/// after it.
#[test]
#[ignore = "needs root, postfix, dovecot"]
fn postfix_requires_authentication() {
    for mechanisms in ["plain login", "login"] {
        authenticate_with_postfix(mechanisms);
    }
}

fn authenticate_with_postfix(mechanisms: &str) {
    let there = Server::start(&[]);
    let directory = open_directory();
    let home = directory.path();
    let authority = TestAuthority::new(home, "private");
    let TestCertificate { cert, key, .. } = TestCertificate::signed_by(home, "mail", &authority);
    let ca = authority.cert.to_str().unwrap();
    let mut postfix = Postfix::prepare(&directory);
    // The chroot of smtpd is the queue directory.
    let _dovecot = dovecot(home, &postfix.spool().join("private/auth"), mechanisms);
    postfix.start(&format!(
        "mydestination =\nrelayhost = [127.0.0.1]:{port}\n\
         smtpd_tls_security_level = may\nsmtpd_tls_auth_only = yes\n\
         smtpd_tls_cert_file = {cert}\nsmtpd_tls_key_file = {key}\n\
         smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\n\
         smtpd_sasl_path = private/auth\n\
         smtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
        port = there.address.port(),
        cert = cert.display(),
        key = key.display(),
    ));
    let login = home.join("login");
    let smarthost = postfix.address.to_string();
    for (password, tls) in [
        ("wonderland", &["--smarthost-ca", ca][..]),
        ("looking-glass", &["--smarthost-tls", "may"]),
    ] {
        fs::write(&login, format!("[127.0.0.1]:{} alice:{password}\n", postfix.address.port()))
            .unwrap();
        fs::set_permissions(&login, Permissions::from_mode(0o600)).unwrap();
        let options = ["--domain", "here.example", "--smarthost", &smarthost];
        let login = ["--smarthost-login", login.to_str().unwrap()];
        let server = Server::start(&[&options[..], tls, &login].concat());
        let mut client = server.after_ehlo();
        client.command("MAIL FROM:<smith@here.example> RET=HDRS ENVID=QQ314159", 250);
        client.command("RCPT TO:<jones@there.example> NOTIFY=SUCCESS", 250);
        client.command("RCPT TO:<brown@there.example> NOTIFY=NEVER", 250);
        client.command("DATA", 354);
        client.send("Subject: caf\u{e9}\r\n\r\nFrom here\r\n..\r\n".as_bytes());
        client.command(".", 250);
        let log = server.wait_for_any_log(&["relay-sent", "smarthost-unreachable"]);
        if password == "wonderland" {
            assert!(log.contains("queued as"), "{log}");
            wait_until("the queue is empty", || server.queue().is_empty());
            wait_until("all messages arrive", || {
                ["jones", "brown", "smith"].iter().all(|user| !there.mailbox(user).is_empty())
            });
        } else {
            assert!(log.contains("535 5.7.8"), "{log}");
            assert_eq!(server.queue().len(), 1);
        }
    }
    let method = if mechanisms == "login" { "LOGIN" } else { "PLAIN" };
    let said = format!("sasl_method={method}, sasl_username=alice");
    assert!(postfix.log().contains(&said), "{}", postfix.log());
    for user in ["jones", "brown"] {
        let [message] = &there.messages(user)[..] else { panic!("one message") };
        let text = String::from_utf8(message.unquoted()).unwrap();
        let head = text.strip_suffix("\n\nFrom here\n.\n").unwrap_or_else(|| panic!("{text}"));
        assert!(head.contains("\nSubject: caf\u{e9}\n"), "{text}");
        assert!(text.contains("\n\tby mail.example (Postfix) with ESMTPSA id "), "{text}");
    }
    // The last server reports, because all others passed the request on.
    let report = there.mailbox("smith");
    for line in ["Original-Envelope-Id: QQ314159", "Final-Recipient: rfc822;jones@there.example"] {
        assert!(report.contains(&format!("\n{line}\n")), "{report}");
    }
    assert!(!report.contains("Final-Recipient: rfc822;brown"), "{report}");
}

/// AUTH PLAIN, and LOGIN where it is the only one, by STARTTLS with a private authority.
#[test]
#[ignore = "needs root, and the Debian package exim4-daemon-light from the network"]
fn exim_requires_authentication() {
    let directory = open_directory();
    let home = directory.path();
    let exim = Exim::fetch(&directory);
    let authority = TestAuthority::new(home, "private");
    let certificate = TestCertificate::signed_by(home, "mail", &authority);
    fs::set_permissions(&certificate.key, Permissions::from_mode(0o644)).unwrap();
    let login = home.join("login");
    for plain in [true, false] {
        let (address, _daemon) = exim.serve_authenticated(&certificate, plain);
        let smarthost = address.to_string();
        let options = ["--domain", "here.example", "--smarthost", &smarthost, "--smarthost-ca"];
        let login_option = ["--smarthost-login", login.to_str().unwrap()];
        let options = [&options[..], &[authority.cert.to_str().unwrap()], &login_option].concat();
        for (password, event) in [("wonder land", "relay-sent"), ("x", "smarthost-unreachable")] {
            fs::write(&login, format!("127.0.0.1 alice {password}\n")).unwrap();
            fs::set_permissions(&login, Permissions::from_mode(0o600)).unwrap();
            let server = Server::start(&options);
            let check = ["check", "smarthost", "--sandbox", server.as_str()];
            let (status, text) = run_mailslot(&[&check[..], &options].concat());
            assert_eq!(status == Some(0), event == "relay-sent", "{text}");
            let offers = if plain { "auth         PLAIN LOGIN" } else { "auth         LOGIN" };
            assert!(text.contains(offers) && text.contains("signed by Authority priv"), "{text}");
            let mut client = server.after_ehlo();
            let to = ["jones@there.example"];
            client.deliver("smith@here.example", &to, "Subject: x\r\n\r\nx\r\n", 250);
            let log = server.wait_for_any_log(&["relay-sent", "smarthost-unreachable"]);
            assert!(log.contains(event), "{log}");
            assert!(event == "relay-sent" || log.contains("535 "), "{log}");
        }
    }
}

/// Starts smtp-sink in `directory`. Returns its address.
fn start_sink(directory: &Path, mode: &[&str]) -> (String, Daemon) {
    fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
    let socket = directory.join("smtp");
    let address = format!("unix:{}", socket.display());
    let mut command = Command::new("/usr/sbin/smtp-sink");
    if nix::unistd::geteuid().is_root() {
        command.args(["-u", "postfix"]);
    }
    command.args(mode).args([&address, "8"]).current_dir(directory);
    let sink = Daemon::spawn(command.stderr(Stdio::null()));
    wait_until("smtp-sink listens", || UnixStream::connect(&socket).is_ok());
    (address, sink)
}

/// Whatever the first of two smarthosts does, the second gets what the first cannot have.
#[test]
#[ignore = "needs smtp-sink, of Postfix"]
fn smtp_sink_with_every_failure_and_another_without() {
    let [connect, mail, rcpt, data, dot] = ["CONNECT", "MAIL", "RCPT", "DATA", "."];
    let (soft, close, reply_and_close, hard) = ("-r", "-q", "-Q", "-f");
    for (mode, at, event) in [
        (soft, connect, "sent"),
        (close, connect, "sent"),
        (soft, mail, "sent"),
        (close, mail, "sent"),
        (reply_and_close, mail, "sent"),
        (hard, mail, "bounced"),
        (soft, rcpt, "sent"),
        (close, rcpt, "sent"),
        (hard, rcpt, "bounced"),
        (soft, data, "sent"),
        (close, data, "sent"),
        (hard, data, "bounced"),
        (soft, dot, "sent"),
        (reply_and_close, dot, "sent"),
        (hard, dot, "bounced"),
        // It may have the message.
        (close, dot, "deferred"),
    ] {
        let directories = [TestDirectory::new(), TestDirectory::new()];
        let (first, _first) = start_sink(directories[0].path(), &[mode, at]);
        let (second, _second) = start_sink(directories[1].path(), &[]);
        let smarthosts = ["--smarthost", &first, "--smarthost", &second];
        let options = ["--domain", "here.example", "--smarthost-tls", "may"];
        let server = Server::start(&[&smarthosts[..], &options].concat());
        let mut client = server.after_ehlo();
        let to = ["jones@there.example"];
        client.deliver("smith@here.example", &to, "Subject: x\r\n\r\nx\r\n", 250);
        let log = server.wait_for_log(&format!("relay-{event} "));
        assert!(log.contains(if event == "sent" { &second } else { &first }), "{mode} {at}: {log}");
        let left = if event == "deferred" { 2 } else { 0 };
        wait_until("the attempt is finished", || server.queue().len() == left);
    }
}

#[test]
#[ignore = "needs smtp-sink, of Postfix"]
fn smtp_sink_with_every_failure() {
    for (mode, event, left) in [
        (&["-e"][..], "sent ", 0),
        (&["-p"], "sent ", 0),
        (&["-F"], "sent ", 0),
        (&["-N", "-8"], "sent ", 0),
        (&["-w", "1"], "sent ", 0),
        (&["-r", "CONNECT"], "smarthost-unreachable ", 1),
        (&["-q", "CONNECT"], "smarthost-unreachable ", 1),
        (&["-f", "MAIL"], "relay-bounced ", 0),
        (&["-r", "MAIL"], "relay-deferred ", 2),
        (&["-q", "MAIL"], "relay-deferred ", 2),
        (&["-f", "RCPT"], "relay-bounced ", 0),
        (&["-r", "RCPT"], "relay-deferred ", 2),
        (&["-Q", "RCPT"], "relay-deferred ", 2),
        (&["-f", "DATA"], "relay-bounced ", 0),
        (&["-Q", "DATA"], "relay-deferred ", 2),
        (&["-f", "."], "relay-bounced ", 0),
        (&["-r", "."], "relay-deferred ", 2),
        (&["-q", "."], "relay-deferred ", 2),
        (&["-Q", "."], "relay-deferred ", 2),
    ] {
        let directory = TestDirectory::new();
        let (smarthost, _sink) = start_sink(directory.path(), mode);
        let options = ["--domain", "here.example", "--smarthost", &smarthost];
        let server = Server::start(&[&options[..], &["--smarthost-tls", "may"]].concat());
        let mut client = server.after_ehlo();
        let to = ["jones@there.example"];
        client.deliver("smith@here.example", &to, "Subject: x\r\n\r\nx\r\n", 250);
        let events = ["relay-sent ", "smarthost-unreachable ", "relay-bounced ", "relay-deferred "];
        let log = server.wait_for_any_log(&events);
        assert!(log.contains(event), "{mode:?}: {log}");
        wait_until("the attempt is finished", || server.queue().len() == left);
        let reported = server.mailbox("smith").contains("\nAction: failed\n");
        assert_eq!(reported, event == "relay-bounced ", "{mode:?}");
    }
}
