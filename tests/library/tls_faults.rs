//! TLS when something is wrong: handshakes cut, stalled, or made of garbage; ends without notice;
//! keys that are none.

use crate::harness::library;
use crate::harness::tls;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::harness::library::{House, LONG, Running};
use crate::harness::tls::{Pair, VERSIONS, at_starttls, certify, certify_as, hello, reply, rest};
use mailslot::net::tls::{ServerCertificate, examine};
use rustls::StreamOwned;

/// A server that offers STARTTLS, with this time-out.
fn offering(house: &House, timeout: Duration) -> (Running, Pair) {
    let pair = certify(house.folder(), "a");
    let mut settings = house.settings(4);
    settings.session.timeout = timeout;
    settings.session.tls = pair.offered();
    (house.run(settings), pair)
}

/// Whatever happened before, the next client is served.
fn assert_serves(running: &Running, pair: &Pair) {
    let mut client = pair.secure(at_starttls(running.address), &VERSIONS);
    client.ask("EHLO client.example", "250");
    client.quit();
}

#[test]
fn a_handshake_may_come_octet_by_octet() {
    let house = House::new();
    let (running, pair) = offering(&house, LONG);
    for version in VERSIONS {
        let mut socket = at_starttls(running.address);
        let mut client = pair.client(&[version]);
        while client.is_handshaking() {
            for octet in hello(&mut client) {
                socket.write_all(&[octet]).unwrap();
            }
            if client.is_handshaking() {
                client.read_tls(&mut socket).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        for octet in hello(&mut client) {
            socket.write_all(&[octet]).unwrap();
        }
        let mut stream = StreamOwned::new(client, socket);
        stream.write_all(b"NOOP\r\nQUIT\r\n").unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).unwrap();
        assert_eq!(library::codes(&replies), ["250", "221"]);
    }
}

#[test]
fn a_client_may_leave_at_any_octet_of_the_handshake() {
    let house = House::new();
    let (running, pair) = offering(&house, LONG);
    for version in VERSIONS {
        let first = hello(&mut pair.client(&[version]));
        let cuts = (0..8).chain((8..first.len()).step_by(29)).chain([first.len()]);
        let mut left = 0;
        for cut in cuts {
            let mut socket = at_starttls(running.address);
            socket.write_all(&first[..cut]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            // Records of TLS if the hello was whole, else nothing; never clear text.
            let rest = rest(&mut socket);
            assert_eq!(rest.is_empty(), cut < first.len(), "{cut}: {rest:?}");
            assert!(rest.is_empty() || rest[0] == 22, "{cut}: {rest:?}");
            left += 1;
        }
        // The second flight, cut too.
        let mut socket = at_starttls(running.address);
        let mut client = pair.client(&[version]);
        socket.write_all(&hello(&mut client)).unwrap();
        let mut second = Vec::new();
        while second.is_empty() {
            client.read_tls(&mut socket).unwrap();
            client.process_new_packets().unwrap();
            second = hello(&mut client);
        }
        socket.write_all(&second[..second.len() / 2]).unwrap();
        drop(socket);
        assert!(left > 10);
    }
    assert_serves(&running, &pair);
}

#[test]
fn garbage_is_no_handshake() {
    let house = House::new();
    let (running, pair) = offering(&house, LONG);
    let old_version = {
        // A hello whose only versions are below 1.2.
        let mut record = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x02".to_vec();
        record.extend([7; 32]);
        record.extend(b"\x00\x00\x02\xc0\x13\x01\x00");
        record
    };
    let table: [(&str, &[u8]); 9] = [
        ("commands", b"EHLO client.example\r\nMAIL FROM:<a@b>\r\n"),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: here.example\r\n\r\n"),
        ("zeros", &[0; 4096]),
        ("ones", &[0xff; 70_000]),
        ("SSL 2", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10\x01\x00\x80"),
        ("an endless record", b"\x16\x03\x01\xff\xff\x01"),
        ("an alert", b"\x15\x03\x01\x00\x02\x02\x28"),
        ("mail before the handshake", b"\x17\x03\x03\x00\x06NOOP\r\n"),
        ("TLS 1.1", &old_version),
    ];
    for (number, (name, garbage)) in table.iter().enumerate() {
        let mut socket = at_starttls(running.address);
        // The server may be gone before all is sent.
        let _ = socket.write_all(garbage);
        let said = rest(&mut socket);
        assert!(said.is_empty() || (said[0] == 21 && said.len() == 7), "{name}: {said:?}");
        assert_eq!(house.counters.tls_failed.value(), number as u64 + 1, "{name}");
    }
    assert_eq!(house.counters.sessions_panicked.value(), 0);
    assert_serves(&running, &pair);
}

#[test]
fn who_stalls_in_the_handshake_is_let_go() {
    let house = House::new();
    let timeout = Duration::from_millis(400);
    let (running, pair) = offering(&house, timeout);
    let first = hello(&mut pair.client(&VERSIONS));
    for sent in [0, 3, first.len() / 2] {
        let began = Instant::now();
        let mut socket = at_starttls(running.address);
        socket.write_all(&first[..sent]).unwrap();
        assert_eq!(rest(&mut socket), b"");
        assert!(began.elapsed() >= timeout * 7 / 8 && began.elapsed() < LONG / 2, "{sent}");
    }
    // Octet by octet is no way to stay.
    let mut socket = at_starttls(running.address);
    socket.set_read_timeout(Some(timeout / 10)).unwrap();
    let end = first.iter().position(|octet| {
        let sent = socket.write_all(&[*octet]).is_ok();
        let waited =
            matches!(socket.read(&mut [0; 16]), Err(e) if e.kind() == ErrorKind::WouldBlock);
        !(sent && waited)
    });
    assert!(end.is_some_and(|octets| octets < 40), "{end:?}");
}

/// A stop, and a pool that needs room, find a handshake like any wait; and nothing in clear text
/// follows it.
#[test]
fn a_handshake_gives_way() {
    let house = House::new();
    let pair = certify(house.folder(), "a");
    let mut settings = house.settings(2);
    settings.session.timeout = Duration::from_millis(600); // idle after 20 ms
    settings.session.session_timeout = LONG;
    settings.session.tls = pair.offered();
    let running = house.run(settings);
    let mut first = at_starttls(running.address);
    let mut second = at_starttls(running.address);
    let third = loop {
        let mut client = tls::connect(running.address);
        if reply(&mut client).starts_with("220") {
            break client;
        }
    };
    assert_eq!(rest(&mut first), b"");
    running.handle.stop();
    assert_eq!(rest(&mut second), b"");
    drop(third);
    running.join();
}

#[test]
fn an_end_within_mail_data_delivers_nothing() {
    let house = House::new();
    let (running, pair) = offering(&house, LONG);
    for version in VERSIONS {
        for says_so in [true, false] {
            let mut client = pair.secure(at_starttls(running.address), &[version]);
            client.up_to_data("smith");
            client.send(b"half of\r\n");
            let stream = client.stream();
            if says_so {
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            stream.sock.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert_eq!(rest, b"");
        }
    }
    assert_serves(&running, &pair);
    assert_eq!(house.mailbox("smith"), "");
}

/// A record that was tampered with ends the session: it is not a line, and not answered.
#[test]
fn a_forged_record_ends_the_session() {
    let house = House::new();
    let (running, pair) = offering(&house, LONG);
    for version in VERSIONS {
        let mut client = pair.secure(at_starttls(running.address), &[version]);
        client.ask("EHLO client.example", "250");
        let stream = client.stream();
        stream.conn.writer().write_all(b"NOOP\r\n").unwrap();
        let mut record = hello(&mut stream.conn);
        *record.last_mut().unwrap() ^= 1;
        stream.sock.write_all(&record).unwrap();
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_err(), "an alert");
        assert_eq!(rest, b"");
    }
    assert_serves(&running, &pair);
}

#[test]
fn keys_that_are_none_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (a, b) = (certify(folder.path(), "a"), certify(folder.path(), "b"));
    let (cert_a, key_a) = (fs::read(&a.cert).unwrap(), fs::read(&a.key).unwrap());
    let cert_b = fs::read(&b.cert).unwrap();
    fs::write(path("both"), [&key_a[..], &cert_a].concat()).unwrap();
    fs::write(path("chain"), [&cert_a[..], &cert_b].concat()).unwrap();
    fs::write(path("turned"), [&cert_b[..], &cert_a].concat()).unwrap();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("cut"), &cert_a[..cert_a.len() / 2]).unwrap();
    fs::write(path("der"), &a.der).unwrap();
    let strange = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(path("strange"), strange).unwrap();
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    fs::write(path("encrypted"), encrypted).unwrap();
    for (cert, key, why) in [
        ("a-cert.pem", "a-key.pem", None),
        ("both", "both", None),
        ("chain", "a-key.pem", None),
        ("none", "a-key.pem", Some("/none: No such file")),
        ("a-cert.pem", "none", Some("/none: No such file")),
        (".", "a-key.pem", Some("Is a directory")),
        ("empty", "a-key.pem", Some("contains no certificate")),
        ("a-key.pem", "a-key.pem", Some("contains no certificate")),
        ("der", "a-key.pem", Some("contains no certificate")),
        ("cut", "a-key.pem", Some("not in PEM form")),
        ("strange", "a-key.pem", Some("the first certificate is invalid")),
        ("a-cert.pem", "empty", Some("contains no private key")),
        ("a-cert.pem", "a-cert.pem", Some("contains no private key")),
        ("a-cert.pem", "encrypted", Some("the key is encrypted; openssl pkey")),
        ("a-cert.pem", "b-key.pem", Some("does not belong to the first certificate in ")),
        ("turned", "a-key.pem", Some("which must be the server's own")),
    ] {
        let (cert, key) = (path(cert), path(key));
        let loaded = ServerCertificate::load(&cert, &key).err();
        match why {
            None => assert_eq!(loaded, None, "{cert:?} {key:?}"),
            Some(why) => assert!(
                loaded.as_ref().is_some_and(|said| said.contains(why)),
                "{cert:?} {key:?}: {loaded:?}"
            ),
        }
        assert_eq!(examine(&cert, &key, "here.example").err(), loaded, "{cert:?} {key:?}");
    }
}

#[test]
fn what_a_certificate_says_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let year = rcgen::date_time_ymd;
    let dated = |from: i32, to: i32| {
        certify_as(folder.path(), &format!("{from}"), |params| {
            params.not_before = year(from, 1, 1);
            params.not_after = year(to, 1, 1);
        })
    };
    let (old, new) = (dated(1990, 2040), dated(2001, 2060));
    let found = examine(&old.cert, &old.key, "HERE.example").unwrap();
    assert_eq!((found.not_before, found.not_after), (631_152_000, 2_208_988_800));
    assert!(found.names_host);
    for host in ["there.example", "x.here.example", "localhost", "192.0.2.1", ""] {
        assert!(!examine(&old.cert, &old.key, host).unwrap().names_host, "{host}");
    }
    // A chain holds while all of it does. An authority's own certificate is read as well.
    let both = [fs::read(&old.cert).unwrap(), fs::read(&new.cert).unwrap()].concat();
    fs::write(&old.cert, both).unwrap();
    let found = examine(&old.cert, &old.key, "here.example").unwrap();
    assert_eq!((found.not_before, found.not_after), (978_307_200, 2_208_988_800));
    let authority = certify_as(folder.path(), "ca", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = year(1970, 1, 1);
    });
    let found = examine(&authority.cert, &authority.key, "here.example").unwrap();
    assert_eq!((found.not_before, found.names_host), (0, true));
}

#[test]
fn keys_that_go_bad_leave_the_old_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (certify(folder.path(), "a"), certify(folder.path(), "b"));
    let keys = a.load().unwrap();
    fs::copy(&b.cert, &a.cert).unwrap();
    assert!(keys.reload().is_err_and(|why| why.contains("does not belong")));
    fs::copy(&b.key, &a.key).unwrap();
    assert_eq!(keys.reload(), Ok(()));
    fs::remove_file(&a.key).unwrap();
    assert!(keys.reload().is_err());
    assert!(keys.session().is_ok());
}
