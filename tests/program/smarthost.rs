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
    drop(Server::start(&options));
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
    assert_eq!((server.queue().len() > 0, server.mailbox("smith")), (true, String::new()));
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
    use super::*;
    use crate::harness::tls::{TestAuthority, TestCertificate};

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
}
