//! Messages sent to our own server, in clear text and inside TLS: what comes out of the mailbox is
//! what went in.

use std::net::{IpAddr, Ipv4Addr};

use crate::harness::library::{House, Running};
use crate::harness::scripted_server::{Act, Server, envelope, settings, shown, usual, with_mail};
use crate::harness::tls::{Pair, certify, certify_as};
use mailslot::net::listen;
use mailslot::net::tls::Trust;
use mailslot::relay::client::{ClientConfig, ClientTls, ServerAddress, connect};
use mailslot::smtp::sender::Credentials;
use mailslot::smtp::{BodyType, Envelope};

/// What a mailbox keeps of these lines below the header is what was sent: quoted, and ended.
const BODY: &str = ".\n..\n.a\n\nFrom here\n>From there\nj\u{fc}rgen\n\n.";
const STORED: &str = "\n\n.\n..\n.a\n\n>From here\n>>From there\nj\u{fc}rgen\n\n.\n\n";

fn target(running: &Running) -> ServerAddress {
    running.address.to_string().parse().unwrap()
}

/// Sends `content`; all shall be done.
fn deliver(target: &ServerAddress, settings: &ClientConfig, to: &Envelope<()>, content: &str) {
    let mut connection = connect(target, settings).unwrap();
    for _ in 0..2 {
        let outcomes = with_mail(to, content.as_bytes(), |mail| connection.send(mail));
        for outcome in shown(&outcomes) {
            assert!(outcome.starts_with("done 250 2.6.0 "), "{outcome}");
        }
    }
    connection.quit();
}

#[test]
fn what_is_sent_arrives() {
    let house = House::new();
    let running = house.run(house.settings(2));
    let to = envelope(&["smith@here.example", "jones@here.example"]);
    deliver(&target(&running), &settings(), &to, &format!("Subject: small\n\n{BODY}"));
    // Too large for a chunk: by DATA.
    let filling = format!("{}\n", "x".repeat(79)).repeat(500);
    let large = Envelope { body: BodyType::EightBitMime, ..envelope(&["large@here.example"]) };
    deliver(&target(&running), &settings(), &large, &format!("Subject: l\n\n{filling}{BODY}"));
    for (user, stored) in [
        ("smith", STORED.to_owned()),
        ("jones", STORED.to_owned()),
        ("large", format!("\n\n{filling}{}", STORED.strip_prefix("\n\n").unwrap())),
    ] {
        assert_eq!(house.count(user), 2, "{user}");
        assert_eq!(house.mailbox(user).matches(&stored).count(), 2, "{}", house.mailbox(user));
    }
    let mailbox = house.mailbox("smith");
    assert_eq!(mailbox.matches("by here.example with ESMTP id").count(), 2, "{mailbox}");
}

#[test]
fn recipients_have_their_own_outcomes() {
    let house = House::new();
    let running = house.run(house.settings(2));
    let to = envelope(&["nobody@here.example", "smith@here.example", "j\u{fc}rgen@here.example"]);
    let mut connection = connect(&target(&running), &settings()).unwrap();
    let outcomes = shown(&with_mail(&to, b"Subject: x\n\n", |mail| connection.send(mail)));
    assert!(outcomes[0].starts_with("never 550 5.1.1 "), "{outcomes:?}");
    assert!(outcomes[1].starts_with("done 250 2.6.0 "), "{outcomes:?}");
    assert!(outcomes[2].starts_with("done 250 2.6.0 "), "{outcomes:?}");
    assert_eq!((house.count("smith"), house.count("j\u{fc}rgen")), (1, 1));
    assert!(house.mailbox("smith").contains(" with UTF8SMTP id "));
    // The server is told of the size, and refuses at once.
    let large = b"0123456789abcde\n".repeat(1 << 16);
    let outcomes = shown(&with_mail(&to, &large, |mail| connection.send(mail)));
    assert_eq!(outcomes, ["never the message exceeds the size limit of the next server"; 3]);
    assert!(connection.is_open());
}

#[test]
fn over_a_unix_socket() {
    let house = House::new();
    let path = house.folder().join("smtp");
    let listeners = listen::open(&[format!("unix:{}", path.display()).parse().unwrap()]).unwrap();
    let address = listeners[0].local_addr().unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
    let _running = house.run_on(house.settings(2), listeners, address);
    let to = envelope(&["smith@here.example"]);
    deliver(&ServerAddress::Unix(path), &settings(), &to, "Subject: x\n\nx\n");
    assert_eq!(house.count("smith"), 2);
}

/// TLS for 127.0.0.1 from `pair`.
fn with_tls(pair: &Pair) -> ClientConfig {
    let trust = Trust::file(&pair.cert).unwrap();
    ClientConfig { tls: Some(ClientTls { trust, required: true }), ..settings() }
}

fn for_loopback(house: &House) -> Pair {
    let ip = rcgen::SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    certify_as(house.folder(), "ip", |params| params.subject_alt_names.push(ip))
}

#[test]
fn by_starttls_and_by_tls_from_the_first_octet() {
    let house = House::new();
    let pair = for_loopback(&house);
    let mut server = house.settings(2);
    server.session.tls = pair.offered();
    let running = house.run(server.clone());
    let to = envelope(&["smith@here.example"]);
    let content = format!("Subject: x\n\n{}", "x\n".repeat(100_000));
    deliver(&target(&running), &with_tls(&pair), &to, &content);
    let listeners = listen::open(&["tls:127.0.0.1:0".parse().unwrap()]).unwrap();
    let address = listeners[0].local_addr().unwrap();
    let _implicit = house.run_on(server, listeners, address);
    deliver(&format!("tls:{address}").parse().unwrap(), &with_tls(&pair), &to, &content);
    let mailbox = house.mailbox("smith");
    assert_eq!(mailbox.matches(" with ESMTPS (using TLSv1.3 with cipher TLS_").count(), 4);
    let connection = connect(&target(&running), &with_tls(&pair)).unwrap();
    assert_eq!(connection.tls().unwrap().version, "TLSv1.3");
    assert!(connection.supports_dsn());
}

#[test]
fn certificates_are_checked_unless_told_otherwise() {
    let house = House::new();
    let named = certify(house.folder(), "named");
    let right = for_loopback(&house);
    let stranger = certify_as(house.folder(), "stranger", |params| {
        params.subject_alt_names.push(rcgen::SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    });
    let running = |pair: &Pair| {
        let mut server = house.settings(16);
        server.session.tls = pair.offered();
        house.run(server)
    };
    // Another host's, and one that nobody vouches for.
    for (server, trusted) in [(&named, &named), (&right, &stranger)] {
        let running = running(server);
        let reason = connect(&target(&running), &with_tls(trusted)).unwrap_err();
        assert_eq!(reason.status, (4, 7, 5));
        assert!(reason.text.contains("invalid peer certificate"), "{reason}");
        // Where clear text would do, so does this; but a password is not sent then.
        let mut lax = with_tls(trusted);
        lax.tls.as_mut().unwrap().required = false;
        assert!(connect(&target(&running), &lax).unwrap().tls().is_none());
        lax.credentials = Some(Credentials { user: "u".to_owned(), password: "p".to_owned() });
        let reason = connect(&target(&running), &lax).unwrap_err();
        assert_eq!(reason.text, "the password is not sent without TLS");
    }
    let any_certificate = ClientTls { trust: Trust::any_certificate().unwrap(), required: true };
    let settings = ClientConfig { tls: Some(any_certificate), ..settings() };
    for pair in [&named, &stranger] {
        assert!(connect(&target(&running(pair)), &settings).unwrap().tls().is_some());
    }
    // A name that is configured is what counts, whatever it leads to.
    let running = running(&named);
    let by_name = format!("localhost:{}", running.address.port()).parse().unwrap();
    assert!(connect(&by_name, &with_tls(&named)).is_err());
}

#[test]
fn where_tls_is_required_nothing_goes_without() {
    let house = House::new();
    let pair = for_loopback(&house);
    let without = house.run(house.settings(2));
    let reason = connect(&target(&without), &with_tls(&pair)).unwrap_err();
    assert_eq!(reason.text, "TLS is required, but the server does not offer STARTTLS");
    // A server that says 220 and speaks no TLS, or has something put behind its reply.
    for behind in ["", "\r\n250 injected"] {
        let reply = format!("220 go{behind}");
        let server = Server::start(move |_, command| match command {
            "EHLO here.example" => Act::Say("250-x\r\n250 STARTTLS".to_owned()),
            "STARTTLS" => Act::Leave(reply.clone()),
            _ => usual(command),
        });
        let reason = connect(&server.target(), &with_tls(&pair)).unwrap_err();
        let injected = "received clear text before the TLS handshake";
        assert_eq!(reason.text == injected, !behind.is_empty(), "{reason}");
        assert_eq!(server.said(), ["EHLO here.example", "STARTTLS"]);
    }
}
