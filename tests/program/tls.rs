//! The real program with TLS: how it starts, how it does not, what HUP changes, what `check` finds.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::library::House;
use crate::harness::server::{PATIENCE, PROGRAM, Server, mailslot};
use crate::harness::tls::{Pair, VERSIONS, at_starttls, certify, certify_as, connect, reply, rest};
use mailslot::net::listen;
use nix::sys::signal::Signal;

/// A running program with the certificate `a` of its own folder.
fn start(options: &[&str]) -> (Server, Pair) {
    let folder = tempfile::tempdir().unwrap();
    let pair = certify(folder.path(), "a");
    let server = Server::start_in(folder, &[&flags(&pair)[..], options].concat());
    (server, pair)
}

fn flags(pair: &Pair) -> [&str; 4] {
    ["--tls-cert", pair.cert.to_str().unwrap(), "--tls-key", pair.key.to_str().unwrap()]
}

#[test]
fn hup_changes_the_certificate_and_no_session_is_dropped() {
    let (server, a) = start(&[]);
    let mut old = a.secure(at_starttls(server.address), &VERSIONS);
    old.up_to_data("smith");

    let b = certify(server.folder(), "b");
    fs::copy(&b.cert, &a.cert).unwrap();
    fs::copy(&b.key, &a.key).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reloaded");
    old.ask("Subject: still here\r\n\r\n.", "250");
    // Whoever trusts b alone would not go on with a's.
    let mut new = b.secure(at_starttls(server.address), &VERSIONS);
    new.ask("NOOP", "250");

    fs::write(&a.key, "no key").unwrap();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for_log("tls-reload-failed");
    assert!(line.contains("contains no private key"), "{line}");
    b.secure(at_starttls(server.address), &VERSIONS).quit();
    old.quit();
    new.quit();
    assert!(server.mailbox("smith").contains("Subject: still here\n"));
}

#[test]
fn required_is_required() {
    let (server, pair) = start(&["--tls-required", "on"]);
    let mut client = server.after_ehlo();
    client.say("MAIL FROM:<a@b.example>", 530);
    pair.secure(at_starttls(server.address), &VERSIONS).up_to_data("smith");
}

#[test]
fn a_port_of_tls_is_announced_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let pair = certify(folder.path(), "a");
    let options = [&flags(&pair)[..], &["-l", "tls:127.0.0.1:0"]].concat();
    let server = Server::start_in(folder, &options);
    let implicit = server.banner[0].split([' ', ',']).find_map(|word| word.strip_prefix("tls:"));
    let implicit = implicit.unwrap_or_else(|| panic!("{:?}", server.banner)).parse().unwrap();
    let clear = format!("smtp://{}", server.address);
    assert!(server.banner[1].contains(&clear), "{:?}", server.banner);
    let mut client = pair.secure(connect(implicit), &VERSIONS);
    client.expect("220");
    client.quit();
}

#[test]
fn one_session_by_inetd_speaks_tls_too() {
    let folder = tempfile::tempdir().unwrap();
    let pair = certify(folder.path(), "a");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let path = folder.path().to_str().unwrap();
    let mut child = mailslot(&["--inetd", "--log", "stderr", "--sandbox", path])
        .args(flags(&pair))
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = client;
    assert!(reply(&mut client).starts_with("220 "));
    std::io::Write::write_all(&mut client, b"STARTTLS\r\n").unwrap();
    assert!(reply(&mut client).starts_with("220 "));
    let mut client = pair.secure(client, &VERSIONS);
    client.up_to_data("smith");
    client.ask(".", "250");
    client.quit();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mailbox = fs::read_to_string(folder.path().join("mail/smith")).unwrap();
    assert!(mailbox.contains(" with ESMTPS (using TLSv1.3 "), "{mailbox}");
}

/// How `mailslot` exits, and what it says.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = mailslot(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn start_fails_without_the_configured_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (certify(folder.path(), "a"), certify(folder.path(), "b"));
    let sandbox = folder.path().join("sandbox");
    let common = ["--sandbox", sandbox.to_str().unwrap(), "-l", "127.0.0.1:0"];
    let (cert, key) = (a.cert.to_str().unwrap(), b.key.to_str().unwrap());
    for (options, code, said) in [
        (&["--tls-cert", cert][..], 78, format!("tls-key {cert}: contains no private key")),
        (&["--tls-cert", cert, "--tls-key", key], 78, format!("tls-key {key}: does not belong")),
        (&["--tls-cert", "/none"], 78, "mailslot: tls-cert /none: No such file".to_owned()),
        (&["--tls-key", key], 64, format!("--tls-key \"{key}\" requires --tls-cert")),
        (&["--tls-required", "on"], 64, "--tls-required \"on\" requires --tls-cert".to_owned()),
        (&["-l", "tls:h:465"], 64, "--listen \"tls:h:465\" requires --tls-cert".to_owned()),
    ] {
        let (exit, text) = run(&[&common[..], options].concat());
        assert_eq!(exit, Some(code), "{options:?}: {text}");
        assert!(text.contains(&said), "{options:?}: {text}");
        assert!(!sandbox.exists(), "the sandbox was created first");
    }
}

/// The program, with three sockets that systemd passed, of these names.
fn passed(sockets: [OwnedFd; 3], names: &str, folder: &Path, options: &[&str]) -> Command {
    let script =
        "LISTEN_FDS=3 LISTEN_PID=$$ exec \"$@\" 3<&0 4<&1 5<&2 0</dev/null 1>&0 2>\"$LOG\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", PROGRAM, "--config", "/dev/null", "--aliases", "none"]);
    command.args(["--user", "smith", "--domain", "here.example", "--hostname", "h"]);
    for (option, name) in [("--mail-dir", "mail"), ("--spool", "spool")] {
        fs::create_dir_all(folder.join(name)).unwrap();
        command.arg(option).arg(folder.join(name));
    }
    let [first, second, third] = sockets.map(Stdio::from);
    command.args(options).stdin(first).stdout(second).stderr(third);
    command.env("LISTEN_FDNAMES", names).env("LOG", folder.join("log"));
    command
}

/// `FileDescriptorName=` of a socket unit says what is spoken there.
#[test]
fn sockets_that_systemd_passes_serve_what_they_are_called() {
    let folder = tempfile::tempdir().unwrap();
    let pair = certify(folder.path(), "a");
    let tcp = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [clear, implicit] = tcp.each_ref().map(|socket| socket.local_addr().unwrap());
    let lmtp = folder.path().join("lmtp");
    let unix = OwnedFd::from(UnixListener::bind(&lmtp).unwrap());
    let [first, second] = tcp.map(OwnedFd::from);
    let sockets = [first, second, unix];
    let mut command = passed(sockets, "mailslot.socket:tls:lmtp", folder.path(), &flags(&pair));
    let mut child = command.spawn().unwrap();
    drop(command);

    assert!(reply(&mut connect(clear)).contains(" ESMTP "));
    let mut client = pair.secure(connect(implicit), &VERSIONS);
    client.expect("220");
    client.up_to_data("smith");
    client.ask("hello\r\n.", "250");
    client.quit();
    let mut client = UnixStream::connect(&lmtp).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"EHLO c\r\nLHLO c\r\nQUIT\r\n").unwrap();
    let said = String::from_utf8(rest(&mut client)).unwrap();
    assert!(said.starts_with("220 h LMTP ") && said.contains("\r\n500 "), "{said}");
    assert!(said.contains("\r\n250 HELP\r\n221 "), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_socket_called_tls_needs_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let sockets = [(); 3].map(|()| OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap()));
    let status = passed(sockets, "a.socket:lmtp:tls", folder.path(), &[]).status().unwrap();
    assert_eq!(status.code(), Some(78));
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("systemd passed a socket with the name tls; give --tls-cert"), "{log}");
}

#[test]
fn check_looks_at_key_chain_dates_names_and_permissions() {
    let folder = tempfile::tempdir().unwrap();
    let good = certify(folder.path(), "good");
    let expired = certify_as(folder.path(), "expired", |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    });
    let future = certify_as(folder.path(), "future", |params| {
        params.not_before = rcgen::date_time_ymd(4000, 1, 1);
    });
    let open = certify(folder.path(), "open");
    for pair in [&good, &expired, &future] {
        fs::set_permissions(&pair.key, Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(&open.key, Permissions::from_mode(0o644)).unwrap();
    let mismatch = Pair { cert: good.cert.clone(), key: open.key.clone(), der: good.der.clone() };
    let sandbox = folder.path().join("sandbox");
    let sandbox = sandbox.to_str().unwrap();
    for (pair, hostname, code, found) in [
        (&good, "here.example", 0, None),
        (&good, "there.example", 0, Some("good-cert.pem is not valid for there.example")),
        (&expired, "here.example", 78, Some("expired at 2020-01-02T00:00:00Z")),
        (&future, "here.example", 78, Some("is not valid before 4000-01-01T00:00:00Z")),
        (&open, "here.example", 0, Some("open-key.pem (mode 644) is accessible to all users")),
        (&mismatch, "here.example", 78, Some("does not belong to the first certificate")),
    ] {
        let common =
            ["check", "--sandbox", sandbox, "-l", "127.0.0.1:0", "-n", hostname, "-d", hostname];
        let (exit, text) = run(&[&common[..], &flags(pair)].concat());
        assert_eq!(exit, Some(code), "{text}");
        match found {
            None => assert!(text.ends_with("\nno problems\n"), "{text}"),
            Some(found) => assert!(text.contains(found) && text.contains("   fix: "), "{text}"),
        }
    }
}

/// The programs of the host come in also where TLS is required of everybody, by either way.
#[test]
fn sendmail_where_tls_is_required() {
    let house = House::new();
    let pair = certify(house.folder(), "pair");
    let mut server = house.settings(2);
    server.session.tls =
        pair.offered().map(|tls| mailslot::session::TlsPolicy { required: true, ..tls });
    let path = house.folder().join("smtp").display().to_string();
    let listeners = ["127.0.0.1:0".to_owned(), format!("unix:{path}")].map(|a| a.parse().unwrap());
    let listeners = listen::open(&listeners).unwrap();
    let address = listeners[0].local_addr().unwrap();
    let _running = house.run_on(server, listeners, address);
    for place in [address.to_string(), format!("unix:{path}")] {
        let cert = pair.cert.display();
        let text =
            format!("hostname h.example\ntls-cert {cert}\ntls-required on\nlisten {place}\n");
        let config = house.folder().join("conf");
        std::fs::write(&config, text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_mailslot-sendmail"));
        command.arg("-C").arg(&config).arg("smith@here.example");
        let output = command.stdin(std::process::Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    assert_eq!(house.mailbox("smith").matches(" with ESMTPS (using TLSv1.3 ").count(), 2);
}
