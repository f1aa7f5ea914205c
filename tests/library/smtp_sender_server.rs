//! Messages sent to our own server, in clear text and inside TLS, arrive unchanged.

use std::net::{IpAddr, Ipv4Addr};

use mailslot::net::listen;
use mailslot::net::tls::Trust;
use mailslot::relay::client::{ClientConfig, ClientTls, ServerAddress, connect};
use mailslot::smtp::sender::Credentials;
use mailslot::smtp::{BodyType, Envelope};

use crate::harness::library::{LibraryServer, MailStore};
use crate::harness::outbound::{client_config, envelope, show_outcomes, with_mail};
use crate::harness::scripted_server::{Action, ScriptedServer, usual};
use crate::harness::tls::TestCertificate;

/// Lines below the header, as they are sent and as a mailbox has them.
const BODY: &str = ".\n..\n.a\n\nFrom here\n>From there\nj\u{fc}rgen\n\n.";
const STORED: &str = "\n\n.\n..\n.a\n\n>From here\n>>From there\nj\u{fc}rgen\n\n.\n\n";

fn target(running: &LibraryServer) -> ServerAddress {
    running.address.to_string().parse().unwrap()
}

/// Sends `content` twice. All recipients must succeed.
fn deliver(target: &ServerAddress, config: &ClientConfig, to: &Envelope<()>, content: &str) {
    let mut connection = connect(target, config).unwrap();
    for _ in 0..2 {
        let outcomes = with_mail(to, content.as_bytes(), |mail| connection.send(mail));
        for outcome in show_outcomes(&outcomes) {
            assert!(outcome.starts_with("done 250 2.6.0 "), "{outcome}");
        }
    }
    connection.quit();
}

#[test]
fn messages_arrive_unchanged() {
    let store = MailStore::new();
    let running = store.run(store.server_settings(2));
    let to = envelope(&["smith@here.example", "jones@here.example"]);
    deliver(&target(&running), &client_config(), &to, &format!("Subject: small\n\n{BODY}"));
    // Too large for a chunk, so it is sent by DATA.
    let filling = format!("{}\n", "x".repeat(79)).repeat(500);
    let large = Envelope { body: BodyType::EightBitMime, ..envelope(&["large@here.example"]) };
    deliver(&target(&running), &client_config(), &large, &format!("Subject: l\n\n{filling}{BODY}"));
    for (user, stored) in [
        ("smith", STORED.to_owned()),
        ("jones", STORED.to_owned()),
        ("large", format!("\n\n{filling}{}", STORED.strip_prefix("\n\n").unwrap())),
    ] {
        assert_eq!(store.count(user), 2, "{user}");
        assert_eq!(store.mailbox(user).matches(&stored).count(), 2, "{}", store.mailbox(user));
    }
    let mailbox = store.mailbox("smith");
    assert_eq!(mailbox.matches("by here.example with ESMTP id").count(), 2, "{mailbox}");
}

#[test]
fn each_recipient_has_its_own_outcome() {
    let store = MailStore::new();
    let running = store.run(store.server_settings(2));
    let to = envelope(&["nobody@here.example", "smith@here.example", "j\u{fc}rgen@here.example"]);
    let mut connection = connect(&target(&running), &client_config()).unwrap();
    let outcomes = show_outcomes(&with_mail(&to, b"Subject: x\n\n", |mail| connection.send(mail)));
    assert!(outcomes[0].starts_with("never 550 5.1.1 "), "{outcomes:?}");
    assert!(outcomes[1].starts_with("done 250 2.6.0 "), "{outcomes:?}");
    assert!(outcomes[2].starts_with("done 250 2.6.0 "), "{outcomes:?}");
    assert_eq!((store.count("smith"), store.count("j\u{fc}rgen")), (1, 1));
    assert!(store.mailbox("smith").contains(" with UTF8SMTP id "));
    // The size is declared, so the server refuses at once.
    let large = b"0123456789abcde\n".repeat(1 << 16);
    let outcomes = show_outcomes(&with_mail(&to, &large, |mail| connection.send(mail)));
    assert_eq!(outcomes, ["never the message exceeds the size limit of the next server"; 3]);
    assert!(connection.is_open());
}

#[test]
fn delivery_over_a_unix_socket() {
    let store = MailStore::new();
    let path = store.path().join("smtp");
    let listeners = listen::open(&[format!("unix:{}", path.display()).parse().unwrap()]).unwrap();
    let address = listeners[0].local_addr().unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let _running = store.run_on(store.server_settings(2), listeners, address);
    let to = envelope(&["smith@here.example"]);
    deliver(&ServerAddress::Unix(path), &client_config(), &to, "Subject: x\n\nx\n");
    assert_eq!(store.count("smith"), 2);
}

/// Returns a client configuration with TLS that trusts `certificate`.
fn with_tls(certificate: &TestCertificate) -> ClientConfig {
    let trust = Trust::file(&certificate.cert).unwrap();
    ClientConfig { tls: Some(ClientTls { trust, required: true }), ..client_config() }
}

fn for_loopback(store: &MailStore) -> TestCertificate {
    let ip = rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    TestCertificate::with(store.path(), "ip", |params| params.subject_alt_names.push(ip))
}

#[test]
fn delivery_by_starttls_and_implicit_tls() {
    let store = MailStore::new();
    let certificate = for_loopback(&store);
    let mut server = store.server_settings(2);
    server.session.tls = certificate.offered();
    let running = store.run(server.clone());
    let to = envelope(&["smith@here.example"]);
    let content = format!("Subject: x\n\n{}", "x\n".repeat(100_000));
    deliver(&target(&running), &with_tls(&certificate), &to, &content);
    let listeners = listen::open(&["tls:127.0.0.1:0".parse().unwrap()]).unwrap();
    let address = listeners[0].local_addr().unwrap();
    let _implicit = store.run_on(server, listeners, address);
    deliver(&format!("tls:{address}").parse().unwrap(), &with_tls(&certificate), &to, &content);
    let mailbox = store.mailbox("smith");
    assert_eq!(mailbox.matches(" with ESMTPS (using TLSv1.3 with cipher TLS_").count(), 4);
    let connection = connect(&target(&running), &with_tls(&certificate)).unwrap();
    assert_eq!(connection.tls().unwrap().version, "TLSv1.3");
    assert!(connection.supports_dsn());
}

#[test]
fn certificates_are_checked_unless_configured_otherwise() {
    let store = MailStore::new();
    let named = TestCertificate::new(store.path(), "named");
    let right = for_loopback(&store);
    let stranger = TestCertificate::with(store.path(), "stranger", |params| {
        params.subject_alt_names.push(rcgen::SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    });
    let running = |certificate: &TestCertificate| {
        let mut server = store.server_settings(16);
        server.session.tls = certificate.offered();
        store.run(server)
    };
    // The certificate of another host, and one that is not trusted.
    for (server, trusted) in [(&named, &named), (&right, &stranger)] {
        let running = running(server);
        let reason = connect(&target(&running), &with_tls(trusted)).unwrap_err();
        assert_eq!(reason.status, (4, 7, 5));
        assert!(reason.text.contains(": the certificate of 127.0.0.1 is "), "{reason}");
        // Without required TLS the message is sent in clear text, but not a password.
        let mut lax = with_tls(trusted);
        lax.tls.as_mut().unwrap().required = false;
        assert!(connect(&target(&running), &lax).unwrap().tls().is_none());
        lax.credentials = Some(Credentials { user: "u".to_owned(), password: "p".to_owned() });
        let reason = connect(&target(&running), &lax).unwrap_err();
        assert_eq!(reason.text, "the password is not sent without TLS");
    }
    let any_certificate = ClientTls { trust: Trust::any_certificate().unwrap(), required: true };
    let config = ClientConfig { tls: Some(any_certificate), ..client_config() };
    for certificate in [&named, &stranger] {
        assert!(connect(&target(&running(certificate)), &config).unwrap().tls().is_some());
    }
    // The configured name counts, and not its address.
    let running = running(&named);
    let by_name = format!("localhost:{}", running.address.port()).parse().unwrap();
    assert!(connect(&by_name, &with_tls(&named)).is_err());
}

#[test]
fn required_tls_is_never_skipped() {
    let store = MailStore::new();
    let certificate = for_loopback(&store);
    let without = store.run(store.server_settings(2));
    let reason = connect(&target(&without), &with_tls(&certificate)).unwrap_err();
    assert_eq!(reason.text, "TLS is required, but the server does not offer STARTTLS");
    // A server that replies 220 and has no TLS, or sends something after its reply.
    for injected in ["", "\r\n250 injected"] {
        let reply = format!("220 go{injected}");
        let server = ScriptedServer::start(move |_, command| match command {
            "EHLO here.example" => Action::Reply("250-x\r\n250 STARTTLS".to_owned()),
            "STARTTLS" => Action::ReplyAndClose(reply.clone()),
            _ => usual(command),
        });
        let reason = connect(&server.target(), &with_tls(&certificate)).unwrap_err();
        let early = "received clear text before the TLS handshake";
        assert_eq!(reason.text == early, !injected.is_empty(), "{reason}");
        assert_eq!(server.commands(), ["EHLO here.example", "STARTTLS"]);
    }
}
