//! Sessions inside TLS (RFC 3207, RFC 8314).

use std::io::Write;

use mailslot::net::listen::{self, Accept, ListenAddress};
use mailslot::server::ServerConfig;

use crate::harness::client::{connect, rest};
use crate::harness::library::{LibraryServer, MailStore};
use crate::harness::tls::{TestCertificate, VERSIONS, outgoing_records, starttls};

/// Runs a server that offers STARTTLS.
fn offering(store: &MailStore) -> (LibraryServer, TestCertificate) {
    let certificate = TestCertificate::new(store.path(), "a");
    let mut config = store.server_settings(4);
    config.session.tls = certificate.offered();
    (store.run(config), certificate)
}

#[test]
fn delivery_by_starttls_in_both_versions() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store);
    for (version, shown) in VERSIONS.into_iter().zip(["TLSv1.2", "TLSv1.3"]) {
        let mut client = certificate.handshake(starttls(running.address), &[version]);
        let ehlo = client.command("EHLO client.example", 250);
        assert!(!ehlo.contains("STARTTLS"), "{ehlo}");
        client.command("STARTTLS", 503);
        client.begin_data(shown);
        client.command("Subject: hello\r\n\r\nIt works.\r\n.", 250);
        client.quit();
        let mailbox = store.mailbox(shown);
        let with = format!(" with ESMTPS (using {shown} with cipher TLS_");
        assert!(mailbox.contains(&with), "{mailbox}");
        assert!(!mailbox.contains("TLS13_"), "{mailbox}");
        assert!(mailbox.ends_with("\nIt works.\n\n"), "{mailbox}");
    }
    assert_eq!((store.counters.tls_sessions.value(), store.counters.tls_failed.value()), (2, 0));
}

#[test]
fn starttls_resets_the_session() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store);
    let mut client = running.greeted();
    client.command("EHLO client.example", 250);
    client.command("MAIL FROM:<a@b.example>", 250);
    client.command("RCPT TO:<smith@here.example>", 250);
    client.command("STARTTLS", 220);
    let mut client = certificate.handshake(client.into_stream(), &VERSIONS);
    client.command("DATA", 503);
    client.command("RCPT TO:<smith@here.example>", 503);
    client.command("MAIL FROM:<a@b.example>", 503);
    client.command("EHLO client.example", 250);
    client.command("MAIL FROM:<a@b.example>", 250);
    client.quit();
}

/// CVE-2011-0411: clear text after STARTTLS must not be taken for commands inside TLS. Neither it
/// nor STARTTLS itself gets a reply.
#[test]
fn clear_text_after_starttls_ends_the_session() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store);
    let hello = outgoing_records(&mut certificate.connection(&VERSIONS));
    for injected in [&b"\r"[..], b"\r\n", b"NOOP\r\n", b"RSET\r\nMAIL FROM:<evil@x>\r\n", &hello] {
        let mut client = running.greeted();
        client.send([&b"NOOP\r\nSTARTTLS\r\n"[..], injected].concat());
        let rest = client.rest();
        assert!(rest.starts_with("250 ") && rest.lines().count() == 1, "{rest:?}");
    }
    // Clear text that comes when the server expects the handshake is not one.
    let mut socket = starttls(running.address);
    socket.write_all(b"NOOP\r\n").unwrap();
    assert_alert(&rest(&mut socket));
}

/// Asserts that nothing was sent but perhaps a TLS alert.
fn assert_alert(rest: &[u8]) {
    assert!(rest.is_empty() || (rest[0] == 21 && rest.len() == 7), "{rest:?}");
}

#[test]
fn starttls_needs_a_certificate() {
    let store = MailStore::new();
    let running = store.run(store.server_settings(2));
    let mut client = running.greeted();
    assert!(!client.command("EHLO client.example", 250).contains("STARTTLS"));
    client.command("STARTTLS", "502 5.5.1 ");
    client.command("NOOP", 250);
}

#[test]
fn required_tls_is_530_without() {
    let store = MailStore::new();
    let certificate = TestCertificate::new(store.path(), "a");
    let mut config = store.server_settings(2);
    config.session.tls = certificate.offered().map(|mut tls| {
        tls.required = true;
        tls
    });
    let running = store.run(config);
    let mut client = running.greeted();
    client.command("MAIL FROM:<a@b.example>", "530 5.7.0 ");
    client.command("NOOP", 250);
    client.command("QUIT", 221);
    let mut client = certificate.handshake(starttls(running.address), &VERSIONS);
    client.begin_data("smith");
    client.command(".", 250);
    client.quit();
    assert_eq!(store.count("smith"), 1);
}

/// Implicit TLS (RFC 8314 3.3).
#[test]
fn implicit_tls() {
    let store = MailStore::new();
    let certificate = TestCertificate::new(store.path(), "a");
    let mut config = store.server_settings(2);
    config.session.tls = certificate.offered();
    let (running, _) = run_implicit(&store, config);
    for version in VERSIONS {
        let mut client = certificate.handshake(connect(running.address), &[version]);
        client.expect(220);
        assert!(!client.command("EHLO client.example", 250).contains("STARTTLS"));
        client.command("STARTTLS", 503);
        client.begin_data("smith");
        client.command(".", 250);
        client.quit();
    }
    assert_eq!(store.mailbox("smith").matches(" with ESMTPS (using TLSv1.").count(), 2);
    // A client without TLS gets no reply in clear text.
    let mut socket = connect(running.address);
    socket.write_all(b"EHLO client.example\r\n").unwrap();
    assert_alert(&rest(&mut socket));
}

/// Runs a server on an address that begins with `tls:`.
fn run_implicit(store: &MailStore, config: ServerConfig) -> (LibraryServer, ListenAddress) {
    let address = "tls:127.0.0.1:0".parse::<ListenAddress>().unwrap();
    let listeners = listen::open(std::slice::from_ref(&address)).unwrap();
    assert!(listeners[0].service().tls);
    let at = listeners[0].local_addr().unwrap();
    (store.run_on(config, listeners, at), address)
}

#[test]
fn refused_client_of_implicit_tls_gets_no_clear_text() {
    let store = MailStore::new();
    let certificate = TestCertificate::new(store.path(), "a");
    let mut config = store.server_settings(1);
    config.session.tls = certificate.offered();
    let (running, _) = run_implicit(&store, config);
    let mut first = certificate.handshake(connect(running.address), &VERSIONS);
    first.expect(220);
    assert_eq!(rest(&mut connect(running.address)), b"");
    first.command("NOOP", 250);
}

#[test]
fn large_message_through_tls() {
    let store = MailStore::new();
    let certificate = TestCertificate::new(store.path(), "a");
    let mut config = store.server_settings(2);
    config.session.tls = certificate.offered();
    config.session.size_max = 16 << 20;
    let running = store.run(config);
    let line: String = (0..70).map(|i| char::from(b'0' + i)).collect();
    for version in VERSIONS {
        let mut client = certificate.handshake(starttls(running.address), &[version]);
        client.begin_data("large");
        let body = format!("{line}\r\n").repeat(4 << 20 >> 6);
        client.send(format!("Subject: large\r\n\r\n{body}").as_bytes());
        client.command(".", 250);
        client.quit();
    }
    let mailbox = store.mailbox("large");
    assert_eq!(mailbox.lines().filter(|found| *found == line).count(), 2 * (4 << 20 >> 6));
    assert_eq!(store.count("large"), 2);
}

/// Records of any size may split commands anywhere.
#[test]
fn records_may_split_lines_anywhere() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store);
    let dialogue =
        b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<cut@c>\r\nDATA\r\n\r\n..x\r\n.\r\nQUIT\r\n";
    let mut all = Vec::new();
    for size in [1, 2, 7, dialogue.len()] {
        let mut client = certificate.handshake(starttls(running.address), &VERSIONS);
        for piece in dialogue.chunks(size) {
            client.send(piece);
        }
        let replies = client.rest();
        // All is the same except for the id of the message.
        let codes: Vec<String> = replies.lines().map(|line| line[..4].to_owned()).collect();
        all.push(codes);
    }
    assert!(all.iter().all(|codes| codes == &all[0]), "{all:?}");
    assert_eq!(store.mailbox("cut").matches("\n.x\n").count(), 4);
}
