//! The real program with TLS: its start, HUP, `check`, and passed sockets.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use mailslot::net::listen;
use nix::sys::signal::Signal;

use crate::harness::client::{Client, connect};
use crate::harness::directory::TestDirectory;
use crate::harness::library::MailStore;
use crate::harness::server::{PROGRAM, Server, mailslot, run_mailslot, sendmail_path};
use crate::harness::tls::{TestCertificate, VERSIONS, starttls};

/// Starts a program with the certificate `a` of its own directory.
fn start(options: &[&str]) -> (Server, TestCertificate) {
    let directory = TestDirectory::new();
    let certificate = TestCertificate::new(directory.path(), "a");
    let server = Server::start_in(directory, &[&certificate.options()[..], options].concat());
    (server, certificate)
}

#[test]
fn hup_reloads_the_certificate() {
    let (server, a) = start(&[]);
    let mut old = a.handshake(starttls(server.address), &VERSIONS);
    old.begin_data("smith");

    let b = TestCertificate::new(server.path(), "b");
    fs::copy(&b.cert, &a.cert).unwrap();
    fs::copy(&b.key, &a.key).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reloaded");
    old.command("Subject: still here\r\n\r\n.", 250);
    // A client that trusts only b would not accept a.
    let mut new = b.handshake(starttls(server.address), &VERSIONS);
    new.command("NOOP", 250);

    fs::write(&a.key, "no key").unwrap();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for_log("tls-reload-failed");
    assert!(line.contains("contains no private key"), "{line}");
    b.handshake(starttls(server.address), &VERSIONS).quit();
    old.quit();
    new.quit();
    assert!(server.mailbox("smith").contains("Subject: still here\n"));
}

#[test]
fn required_tls_is_530_without() {
    let (server, certificate) = start(&["--tls-required", "on"]);
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<a@b.example>", 530);
    certificate.handshake(starttls(server.address), &VERSIONS).begin_data("smith");
}

#[test]
fn banner_names_implicit_tls() {
    let directory = TestDirectory::new();
    let certificate = TestCertificate::new(directory.path(), "a");
    let options = [&certificate.options()[..], &["-l", "tls:127.0.0.1:0"]].concat();
    let server = Server::start_in(directory, &options);
    let implicit = server.banner[0].split([' ', ',']).find_map(|word| word.strip_prefix("tls:"));
    let implicit = implicit.unwrap_or_else(|| panic!("{:?}", server.banner)).parse().unwrap();
    let clear = format!("smtp://{}", server.address);
    assert!(server.banner[1].contains(&clear), "{:?}", server.banner);
    let mut client = certificate.handshake(connect(implicit), &VERSIONS);
    client.expect(220);
    client.quit();
}

#[test]
fn starttls_with_inetd() {
    let directory = TestDirectory::new();
    let certificate = TestCertificate::new(directory.path(), "a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(listener.local_addr().unwrap());
    let (socket, _) = listener.accept().unwrap();
    let path = directory.as_str();
    let mut child = mailslot(&["--inetd", "--log", "stderr", "--sandbox", path])
        .args(certificate.options())
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.expect(220);
    client.command("STARTTLS", 220);
    let mut client = certificate.handshake(client.into_stream(), &VERSIONS);
    client.begin_data("smith");
    client.command(".", 250);
    client.quit();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mailbox = directory.mailbox("smith");
    assert!(mailbox.contains(" with ESMTPS (using TLSv1.3 "), "{mailbox}");
}

#[test]
fn start_fails_without_usable_keys() {
    let directory = TestDirectory::new();
    let (a, b) =
        (TestCertificate::new(directory.path(), "a"), TestCertificate::new(directory.path(), "b"));
    let directory = directory.join("sandbox");
    let common = ["--sandbox", directory.to_str().unwrap(), "-l", "127.0.0.1:0"];
    let (cert, key) = (a.cert.to_str().unwrap(), b.key.to_str().unwrap());
    for (options, code, said) in [
        (&["--tls-cert", cert][..], 78, format!("tls-key {cert}: contains no private key")),
        (&["--tls-cert", cert, "--tls-key", key], 78, format!("tls-key {key}: does not belong")),
        (&["--tls-cert", "/none"], 78, "mailslot: tls-cert /none: No such file".to_owned()),
        (&["--tls-key", key], 64, format!("--tls-key \"{key}\" requires --tls-cert")),
        (&["--tls-required", "on"], 64, "--tls-required \"on\" requires --tls-cert".to_owned()),
        (&["-l", "tls:h:465"], 64, "--listen \"tls:h:465\" requires --tls-cert".to_owned()),
    ] {
        let (exit, text) = run_mailslot(&[&common[..], options].concat());
        assert_eq!(exit, Some(code), "{options:?}: {text}");
        assert!(text.contains(&said), "{options:?}: {text}");
        assert!(!directory.exists(), "the start changed the directory");
    }
}

/// Returns the program with three sockets that systemd passes, of these names.
fn passed(sockets: [OwnedFd; 3], names: &str, directory: &Path, options: &[&str]) -> Command {
    let script =
        "LISTEN_FDS=3 LISTEN_PID=$$ exec \"$@\" 3<&0 4<&1 5<&2 0</dev/null 1>&0 2>\"$LOG\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", PROGRAM, "--config", "/dev/null", "--aliases", "none"]);
    command.args(["--user", "smith", "--domain", "here.example", "--hostname", "h"]);
    for (option, name) in [("--mail-dir", "mail"), ("--spool", "spool")] {
        fs::create_dir_all(directory.join(name)).unwrap();
        command.arg(option).arg(directory.join(name));
    }
    let [first, second, third] = sockets.map(Stdio::from);
    command.args(options).stdin(first).stdout(second).stderr(third);
    command.env("LISTEN_FDNAMES", names).env("LOG", directory.join("log"));
    command
}

/// `FileDescriptorName=` of a socket unit selects the protocol.
#[test]
fn passed_sockets_are_used_by_name() {
    let directory = TestDirectory::new();
    let certificate = TestCertificate::new(directory.path(), "a");
    let tcp = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [clear, implicit] = tcp.each_ref().map(|socket| socket.local_addr().unwrap());
    let lmtp = directory.join("lmtp");
    let unix = OwnedFd::from(UnixListener::bind(&lmtp).unwrap());
    let [first, second] = tcp.map(OwnedFd::from);
    let sockets = [first, second, unix];
    let mut command =
        passed(sockets, "mailslot.socket:tls:lmtp", directory.path(), &certificate.options());
    let mut child = command.spawn().unwrap();
    drop(command);

    assert!(Client::connect(clear).expect(220).contains(" ESMTP "));
    let mut client = certificate.handshake(connect(implicit), &VERSIONS);
    client.expect(220);
    client.begin_data("smith");
    client.command("hello\r\n.", 250);
    client.quit();
    let mut client = Client::new(UnixStream::connect(&lmtp).unwrap());
    client.send("EHLO c\r\nLHLO c\r\nQUIT\r\n");
    let said = client.rest();
    assert!(said.starts_with("220 h LMTP ") && said.contains("\r\n500 "), "{said}");
    assert!(said.contains("\r\n250 HELP\r\n221 "), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn passed_socket_named_tls_needs_a_certificate() {
    let directory = TestDirectory::new();
    let sockets = [(); 3].map(|()| OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()));
    let status = passed(sockets, "a.socket:lmtp:tls", directory.path(), &[]).status().unwrap();
    assert_eq!(status.code(), Some(78));
    let log = fs::read_to_string(directory.join("log")).unwrap();
    assert!(log.contains("systemd passed a socket with the name tls; give --tls-cert"), "{log}");
}

#[test]
fn check_examines_certificates_and_keys() {
    let directory = TestDirectory::new();
    let good = TestCertificate::new(directory.path(), "good");
    let expired = TestCertificate::with(directory.path(), "expired", |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    });
    let future = TestCertificate::with(directory.path(), "future", |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    });
    let open = TestCertificate::new(directory.path(), "open");
    for certificate in [&good, &expired, &future] {
        fs::set_permissions(&certificate.key, Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&open.key, Permissions::from_mode(0o644)).unwrap();
    let mismatch =
        TestCertificate { cert: good.cert.clone(), key: open.key.clone(), der: good.der.clone() };
    let directory = directory.join("sandbox");
    let directory = directory.to_str().unwrap();
    for (certificate, hostname, code, found) in [
        (&good, "here.example", 0, None),
        (&good, "there.example", 0, Some("good-cert.pem is not valid for there.example")),
        (&expired, "here.example", 78, Some("expired at 2020-01-02T00:00:00Z")),
        (&future, "here.example", 78, Some("is not valid before 4000-01-01T00:00:00Z")),
        (&open, "here.example", 0, Some("open-key.pem (mode 644) is accessible to all users")),
        (&mismatch, "here.example", 78, Some("does not belong to the first certificate")),
    ] {
        let common =
            ["check", "--sandbox", directory, "-l", "127.0.0.1:0", "-n", hostname, "-d", hostname];
        let (exit, text) = run_mailslot(&[&common[..], &certificate.options()].concat());
        assert_eq!(exit, Some(code), "{text}");
        match found {
            None => assert!(text.ends_with("\nno problems\n"), "{text}"),
            Some(found) => assert!(text.contains(found) && text.contains("   fix: "), "{text}"),
        }
    }
}

/// sendmail can connect, by either address, where TLS is required.
#[test]
fn sendmail_where_tls_is_required() {
    let store = MailStore::new();
    let certificate = TestCertificate::new(store.path(), "certificate");
    let mut server = store.server_settings(2);
    server.session.tls =
        certificate.offered().map(|tls| mailslot::session::TlsPolicy { required: true, ..tls });
    let path = store.join("smtp").display().to_string();
    let listeners = ["127.0.0.1:0".to_owned(), format!("unix:{path}")].map(|a| a.parse().unwrap());
    let listeners = listen::open(&listeners).unwrap();
    let address = listeners[0].local_addr().unwrap();
    let _running = store.run_on(server, listeners, address);
    for place in [address.to_string(), format!("unix:{path}")] {
        let cert = certificate.cert.display();
        let text =
            format!("hostname h.example\ntls-cert {cert}\ntls-required on\nlisten {place}\n");
        let config = store.join("conf");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(sendmail_path());
        command.arg("-C").arg(&config).arg("smith@here.example");
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(store.mailbox("smith").matches(" with ESMTPS (using TLSv1.3 ").count(), 2);
}
