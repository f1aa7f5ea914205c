//! The smarthost as an administrator configures it: logins, certificates, TLS.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::directory::TestDirectory;
use crate::harness::scripted_server::{ScriptedServer, reply, usual};
use crate::harness::server::{Server, run_mailslot};

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
