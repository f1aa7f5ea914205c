//! The smarthost as an administrator configures it: logins, certificates, TLS.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::directory::TestDirectory;
use crate::harness::scripted_server::{ScriptedServer, reply, usual};
use crate::harness::server::{Server, run_mailslot};
use crate::harness::wait_until;

/// Writes a file of logins with the mode 0600.
fn write_login(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

/// Asserts that neither the start nor `check` passes, and that both say `what`.
fn assert_stops(options: &[&str], what: &str) {
    let directory = TestDirectory::new();
    let sandbox = ["--sandbox", directory.as_str(), "--listen", "127.0.0.1:0"];
    for command in [&[][..], &["check"]] {
        let (status, text) = run_mailslot(&[command, &sandbox, options].concat());
        assert_eq!(status, Some(78), "{command:?} {options:?}: {text}");
        assert!(text.contains(what), "{command:?} {options:?}: {text}");
    }
}

#[test]
fn login_file_without_a_usable_line_stops_check_and_start() {
    let directory = TestDirectory::new();
    let path = directory.join("login");
    let file = path.to_str().unwrap();
    let login = ["--smarthost-tls", "may", "--smarthost-login", file];
    let options = [&["--smarthost", "smtp.isp.test:587"], &login[..]].concat();
    for (text, what) in [
        ("", ": no line is for smtp.isp.test:587"),
        ("other.test bob secret\n", ": no line is for smtp.isp.test:587"),
        ("[smtp.isp.test]:25 bob:secret\n", ": no line is for smtp.isp.test:587"),
        ("[smtp.isp.test]:587 bob:secret\nbob\n", ":2: not a login"),
    ] {
        write_login(&path, text);
        assert_stops(&options, &format!("{file}{what}"));
    }
    write_login(&path, "[smtp.isp.test]:587 bob:secret\n");
    let two = [&options[..], &["--smarthost", "other.test"]].concat();
    let line = Server::start(&two).wait_for_log("setting-doubtful");
    assert!(line.contains("smarthost other.test:25 has no line in the file of "), "{line}");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_stops(&options, "readable or writable by other users");
}

/// A login that is missing is found by an administrator, so that no mail is returned for it.
#[test]
fn mail_waits_when_the_smarthost_requires_a_login() {
    let there = ScriptedServer::start(|_, command| match command {
        "MAIL FROM:<smith@here.example>" => reply("530 5.7.0 Authentication required"),
        _ => usual(command),
    });
    let address = there.address.to_string();
    let options = ["--domain", "here.example", "--smarthost", &address, "--smarthost-tls", "may"];
    let server = Server::start(&options);
    let mut client = server.after_ehlo();
    client.deliver("smith@here.example", &["jones@there.example"], "\r\nx\r\n", 250);
    assert!(server.wait_for_log("relay-").contains("relay-deferred"));
    assert!(!server.queue().is_empty());
    assert_eq!(server.mailbox("smith"), "");
}

/// Options of a host whose mail goes to the smarthost `there`.
fn relay_to<'a>(there: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let relay = ["--domain", "here.example", "--smarthost", there, "--smarthost-tls", "may"];
    [&relay[..], more].concat()
}

/// The provider gets its own address, in the envelope and on request in the message. Others keep
/// theirs.
#[test]
fn provider_gets_the_sender_that_it_accepts() {
    let there = Server::start(&[]);
    let address = there.address.to_string();
    let directory = TestDirectory::new();
    let senders = directory.join("senders");
    fs::write(&senders, "smith  al.smith@isp.test\nroot   alerts@isp.test\n").unwrap();
    let sender = ["--smarthost-sender", senders.to_str().unwrap(), "--smarthost-from", "on"];
    let server = Server::start(&relay_to(&address, &sender));
    let mut client = server.after_ehlo();
    for (n, (from, field, sent_from, sent_fields)) in [
        (
            "smith@here.example",
            "From: Al <smith@here.example>",
            "al.smith@isp.test",
            "From: Al <al.smith@isp.test>\nReply-To: smith@here.example",
        ),
        // Each field by its own address.
        (
            "smith@here.example",
            "From: root (Cron)",
            "al.smith@isp.test",
            "From: alerts@isp.test (Cron)\nReply-To: root@here.example",
        ),
        (
            "smith@here.example",
            "From: me@other.test\r\nReply-To: x@y.test",
            "al.smith@isp.test",
            "From: me@other.test\nReply-To: x@y.test",
        ),
        // The file has no line.
        ("jones@here.example", "From: jones@here.example", "jones@here.example", ""),
        // Mail of others, and reports.
        ("smith@other.test", "From: smith@here.example", "smith@other.test", ""),
        ("", "From: smith@here.example", "", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let to = format!("user{n}");
        let content = format!("{field}\r\nSubject: x\r\n\r\nFrom: smith\r\n");
        client.deliver(from, &[&format!("{to}@there.example")], &content, 250);
        server.wait_for_log("relay-sent");
        let mailbox = there.mailbox(&to);
        let fields = if sent_fields.is_empty() { field } else { sent_fields };
        assert!(mailbox.contains(&format!("\nReturn-Path: <{sent_from}>\n")), "{mailbox}");
        let expected = format!("\n{fields}\nSubject: x\n\nFrom: smith\n");
        assert!(mailbox.contains(&expected), "{expected} in {mailbox}");
    }
}

/// A report of this host goes to the local sender, and the From field stays unless it is wanted.
#[test]
fn local_sender_gets_the_report_about_replaced_mail() {
    let there = ScriptedServer::start(|_, command| match command {
        "RCPT TO:<jones@there.example>" => reply("550 5.1.1 no such user"),
        _ => usual(command),
    });
    let address = there.address.to_string();
    let sender = ["--smarthost-sender", "me@isp.test"];
    let server = Server::start(&relay_to(&address, &sender));
    let mut client = server.after_ehlo();
    let content = "From: smith@here.example\r\n\r\nx\r\n";
    client.deliver("smith@here.example", &["jones@there.example"], content, 250);
    server.wait_for_log("relay-bounced");
    wait_until("the sender has a report", || !server.mailbox("smith").is_empty());
    let report = server.mailbox("smith");
    assert!(report.contains("\nDiagnostic-Code: smtp; 550 5.1.1 no such user\n"), "{report}");
    assert!(report.contains("\nFrom: smith@here.example\n"), "{report}");
    assert_eq!(there.commands_after("MAIL FROM:"), ["<me@isp.test>"]);
}

#[test]
fn sender_that_cannot_be_used_stops_check_and_start() {
    let directory = TestDirectory::new();
    let path = directory.join("senders");
    let file = path.to_str().unwrap();
    assert_stops(&relay_to("isp.test", &["--smarthost-sender", file]), file);
    fs::write(&path, "smith\n").unwrap();
    let what = ":1: not a sender; write USER ADDRESS";
    let options = relay_to("isp.test", &["--smarthost-sender", file]);
    let (status, text) = run_mailslot(&[&["--sandbox", directory.as_str()], &options[..]].concat());
    assert_eq!(status, Some(78), "{text}");
    assert!(text.contains(what), "{text}");
    assert_stops(&options, ":1: not a sender");
    let from = relay_to("isp.test", &["--smarthost-from", "on"]);
    assert_stops(&from, "smarthost-from requires smarthost-sender");
    let wrong = relay_to("isp.test", &["--smarthost-sender", "a@b@c"]);
    assert_eq!(run_mailslot(&[&["check"], &wrong[..]].concat()).0, Some(64));
}

#[cfg(feature = "tls")]
mod tls {
    use nix::sys::signal::Signal;

    use super::*;
    use crate::harness::scripted_server::Action;
    use crate::harness::server::{mailslot, printed};
    use crate::harness::tls::{TestAuthority, TestCertificate, VERSIONS, starttls};

    /// Returns the options for the smarthost `there`, whose authority is in the file `ca`.
    fn options<'a>(there: &'a str, ca: &'a Path) -> [&'a str; 6] {
        let ca = ca.to_str().unwrap();
        ["--domain", "here.example", "--smarthost", there, "--smarthost-ca", ca]
    }

    #[test]
    fn private_authority_is_trusted_by_smarthost_ca() {
        let directory = TestDirectory::new();
        let authority = TestAuthority::new(directory.path(), "ours");
        let certificate = TestCertificate::signed_by(directory.path(), "there", &authority);
        let there = ScriptedServer::start_tls(&certificate, |_, command| usual(command));
        let address = format!("tls:{}", there.address);
        let server = Server::start(&options(&address, &authority.cert));
        let mut client = server.after_ehlo();
        client.deliver("smith@here.example", &["jones@there.example"], "\r\nx\r\n", 250);
        server.wait_for_log("relay-sent");
        // Another authority of the same kind is not.
        let other = TestAuthority::new(directory.path(), "other");
        let server = Server::start(&options(&address, &other.cert));
        let mut client = server.after_ehlo();
        client.deliver("smith@here.example", &["jones@there.example"], "\r\nx\r\n", 250);
        server.wait_for_log("smarthost-unreachable");
        assert_eq!(there.commands_after("MAIL").len(), 1);
    }

    #[test]
    fn smarthost_ca_that_cannot_be_used_stops_check_and_start() {
        let directory = TestDirectory::new();
        let file = directory.join("ca");
        let options = options("smtp.isp.test", &file);
        assert_stops(&options, "smarthost-ca ");
        fs::write(&file, "no certificate\n").unwrap();
        assert_stops(&options, "contains no certificate");
        let may = [&options[..], &["--smarthost-tls", "may"]].concat();
        assert_stops(&may, "smarthost-ca has a meaning with smarthost-tls verify alone");
    }

    /// Authorities that the administrator adds to the file, or a package to the system, are trusted
    /// without a restart.
    #[test]
    fn hup_reloads_the_certificates_to_trust() {
        let directory = TestDirectory::new();
        let authority = TestAuthority::new(directory.path(), "ours");
        let other = TestAuthority::new(directory.path(), "other");
        let certificate = TestCertificate::signed_by(directory.path(), "there", &authority);
        let there = ScriptedServer::start_tls(&certificate, |_, command| usual(command));
        let address = format!("tls:{}", there.address);
        let roots = directory.join("roots");
        fs::create_dir(&roots).unwrap();
        let file = roots.join("ca.pem");
        let system = format!("SSL_CERT_FILE={}", file.display());
        let starter = ["env", "-u", "SSL_CERT_DIR", &system];
        let options = options(&address, &file);
        for (starter, options) in [(&[][..], &options[..]), (&starter, &options[..4])] {
            fs::copy(&other.cert, &file).unwrap();
            let server = Server::start_by(starter, TestDirectory::new(), options).unwrap();
            // As a package replaces it.
            let new = roots.join("new");
            fs::copy(&authority.cert, &new).unwrap();
            fs::rename(&new, &file).unwrap();
            server.signal(Signal::SIGHUP);
            server.wait_for_log("reloaded");
            let mut client = server.after_ehlo();
            client.deliver("smith@here.example", &["jones@there.example"], "\r\nx\r\n", 250);
            server.wait_for_log("relay-sent");
            // The new ones stay in use if there are none.
            fs::write(&file, "").unwrap();
            server.signal(Signal::SIGHUP);
            server.wait_for_log("tls-reload-failed");
            client.deliver("smith@here.example", &["jones@there.example"], "\r\nx\r\n", 250);
            server.wait_for_log("relay-sent");
        }
    }

    /// Mail hosts by MX records are not verified unless the route asks for it.
    #[test]
    fn root_certificates_are_needed_only_by_a_route_that_verifies() {
        let directory = TestDirectory::new();
        let missing = directory.join("missing");
        let sandbox = ["check", "--sandbox", directory.as_str(), "--listen", "127.0.0.1:0"];
        for (options, is_needed) in [
            (&["--route", "* mx"][..], false),
            (&["--route", "* mx verify"], true),
            (&["--route", "x.test mx.test may"], false),
            (&["--smarthost", "mx.test"], true),
            (&["--smarthost", "mx.test", "--smarthost-tls", "encrypt"], false),
        ] {
            let mut check = mailslot(&[&sandbox[..], options].concat());
            check.env("SSL_CERT_FILE", &missing).env("SSL_CERT_DIR", &missing);
            let (status, text) = printed(check.output().unwrap());
            assert_eq!(text.contains("no root certificates"), is_needed, "{options:?}: {text}");
            assert_eq!(status == Some(78), is_needed, "{options:?}: {text}");
        }
    }

    /// Runs `check --smarthost` with a login, and returns the exit status and the output.
    fn probe(there: &str, more: &[&str]) -> (Option<i32>, String) {
        let directory = TestDirectory::new();
        let login = directory.join("login");
        write_login(&login, "127.0.0.1 bob secret\n");
        let sandbox = ["check", "--sandbox", directory.as_str(), "--smarthost", there];
        let login = ["--smarthost-login", login.to_str().unwrap(), "--smarthost"];
        run_mailslot(&[&sandbox[..], more, &login].concat())
    }

    #[test]
    fn check_smarthost_shows_the_session_and_sends_nothing() {
        let directory = TestDirectory::new();
        let authority = TestAuthority::new(directory.path(), "ours");
        let certificate = TestCertificate::signed_by(directory.path(), "there", &authority);
        let there = ScriptedServer::start_tls(&certificate, |_, command| match command {
            "EHLO localhost" => reply("250-x\r\n250 AUTH LOGIN PLAIN"),
            _ => usual(command),
        });
        let address = format!("tls:{}", there.address);
        let ca = ["--smarthost-ca", authority.cert.to_str().unwrap()];
        let (status, text) = probe(&address, &ca);
        assert_eq!(status, Some(0), "{text}");
        for line in [
            format!("{address}\n  address      {}\n  tls          TLSv1.3 with ", there.address),
            "\n  certificate  rcgen self signed cert, signed by Authority ours, valid until "
                .into(),
            "\n  auth         PLAIN LOGIN\n  login        bob: accepted\n  = mail can be".into(),
        ] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
        let commands = ["EHLO localhost", "AUTH PLAIN AGJvYgBzZWNyZXQ=", "QUIT"];
        assert_eq!(there.commands(), commands);
    }

    #[test]
    fn check_smarthost_says_why_mail_cannot_be_sent() {
        let directory = TestDirectory::new();
        let authority = TestAuthority::new(directory.path(), "ours");
        let certificate = TestCertificate::signed_by(directory.path(), "there", &authority);
        let ca = ["--smarthost-ca", authority.cert.to_str().unwrap()];
        for (ehlo, auth, said) in [
            ("250-x\r\n250 AUTH PLAIN", "535 5.7.8 no", "= 535 5.7.8 no\n   fix: correct the user"),
            ("250-x\r\n250 AUTH XOAUTH2", "", "= the server offers neither AUTH PLAIN nor AUTH"),
        ] {
            let there = ScriptedServer::start_tls(&certificate, move |_, command| match command {
                "EHLO localhost" => reply(ehlo),
                auth_command if auth_command.starts_with("AUTH ") => reply(auth),
                _ => usual(command),
            });
            let (status, text) = probe(&format!("tls:{}", there.address), &ca);
            assert_eq!(status, Some(69), "{text}");
            assert!(text.contains(said) && text.contains("bob: not accepted"), "{text}");
        }
        let there = ScriptedServer::start(|_, command| usual(command));
        let address = there.address.to_string();
        let (status, text) = probe(&address, &["--smarthost-tls", "may"]);
        assert_eq!(status, Some(69), "{text}");
        let said = "= the password is not sent without TLS\n   fix: set smarthost-tls to ";
        assert!(text.contains("\n  tls          none\n") && text.contains(said), "{text}");
        drop(there);
        let (status, text) = probe(&address, &["--smarthost-tls", "may"]);
        assert_eq!(status, Some(69), "{text}");
        assert!(text.contains(&format!("= cannot connect to {address}: ")), "{text}");
        assert_eq!(run_mailslot(&["check", "smarthost", "--sandbox", "x"]).0, Some(78));
    }

    /// No library is named, and no certificate accepted that should not be.
    #[test]
    fn errors_of_tls_are_in_plain_words() {
        let directory = TestDirectory::new();
        let authority = TestAuthority::new(directory.path(), "ours");
        let other = TestAuthority::new(directory.path(), "other");
        let here = |params: &mut rcgen::CertificateParams| {
            let address = std::net::IpAddr::from([127, 0, 0, 1]);
            params.subject_alt_names.push(rcgen::SanType::IpAddress(address));
        };
        let new = |name: &str, change: &dyn Fn(&mut rcgen::CertificateParams)| {
            TestCertificate::with(directory.path(), name, |params| {
                here(params);
                change(params);
            })
        };
        let own = new("own", &|_| {});
        let own_authority = new("own-authority", &|params| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)
        });
        let past = new("past", &|params| params.not_after = rcgen::date_time_ymd(2020, 7, 1));
        let future = new("future", &|params| params.not_before = rcgen::date_time_ymd(2200, 7, 1));
        let stranger = TestCertificate::new(directory.path(), "stranger");
        let signed = TestCertificate::signed_by(directory.path(), "signed", &authority);
        for (certificate, ca, said) in [
            (&own, &other.cert, "the certificate of 127.0.0.1 is self-signed\n   fix: if it is"),
            (&own_authority, &other.cert, "the certificate of 127.0.0.1 is self-signed"),
            (&own, &own.cert, "mail can be sent"),
            (&own_authority, &own_authority.cert, "mail can be sent"),
            (
                &stranger,
                &stranger.cert,
                "the certificate of 127.0.0.1 is for another name: here.ex",
            ),
            (&past, &past.cert, "the certificate of 127.0.0.1 expired on 2020-07-01"),
            (&future, &future.cert, "the certificate of 127.0.0.1 is not valid before 2200-07-01"),
            (&signed, &other.cert, "an unknown authority has signed the certificate of 127.0.0.1"),
        ] {
            let there = ScriptedServer::start_tls(certificate, |_, command| match command {
                "EHLO localhost" => reply("250-x\r\n250 AUTH PLAIN"),
                _ => usual(command),
            });
            let ca = ["--smarthost-ca", ca.to_str().unwrap()];
            let (_, text) = probe(&format!("tls:{}", there.address), &ca);
            let end =
                if said == "mail can be sent" { "  = " } else { "  = TLS handshake failed: " };
            assert!(text.contains(&format!("{end}{said}")), "{said} in\n{text}");
        }
        let there = ScriptedServer::start(|_, _| Action::Send(b"220 x\r\n".to_vec()));
        let (_, text) = probe(&format!("tls:{}", there.address), &["--smarthost-tls", "encrypt"]);
        let said = "= TLS handshake failed: 127.0.0.1 sent something that is not TLS\n   fix: use";
        assert!(text.contains(said), "{text}");
        // The server's side.
        let options = [&signed.options()[..], &["-v", "-v"]].concat();
        let server = Server::start_in(directory.clone(), &options);
        let mut stranger = own.connection(&VERSIONS);
        let mut socket = starttls(server.address);
        assert!(stranger.complete_io(&mut socket).is_err());
        let log = server.wait_for_log("tls-failed");
        let said = "the client does not know the authority that signed the certificate";
        assert!(log.contains(said), "{log}");
    }

    /// A login is sent to the server of its line alone, whatever other servers ask for.
    #[test]
    fn login_goes_to_its_own_smarthost_alone() {
        let directory = TestDirectory::new();
        let authority = TestAuthority::new(directory.path(), "ours");
        let certificate = TestCertificate::signed_by(directory.path(), "there", &authority);
        let start = |stage: &'static str| {
            ScriptedServer::start_tls(&certificate, move |_, command| match command {
                command if command == stage => reply("421 4.3.2 use another server"),
                "EHLO localhost" => reply("250-x\r\n250 AUTH PLAIN LOGIN"),
                "RCPT TO:<jones@there.example>" => reply("551 5.1.6 use tls:127.0.0.1:1"),
                _ => usual(command),
            })
        };
        for (stage, logins) in [("greeting", 0), ("RCPT TO:<jones@there.example>", 1)] {
            let (first, second) = (start(stage), start("none"));
            let login = directory.join("login");
            let port = first.address.port();
            write_login(&login, &format!("[127.0.0.1]:{port} bob:secret\n"));
            let addresses = [&first, &second].map(|server| format!("tls:{}", server.address));
            let mut options = vec!["--domain", "here.example", "--smarthost-login"];
            options.extend([login.to_str().unwrap(), "--smarthost", &addresses[0]]);
            options.extend(["--smarthost", &addresses[1], "--smarthost-ca"]);
            options.push(authority.cert.to_str().unwrap());
            let server = Server::start(&options);
            let mut client = server.after_ehlo();
            client.deliver("smith@here.example", &["jones@there.example"], "\r\nx\r\n", 250);
            server.wait_for_log("relay-bounced");
            assert_eq!(first.commands_after("AUTH").len(), logins);
            assert_eq!(second.commands_after("AUTH"), [""; 0]);
        }
    }
}
