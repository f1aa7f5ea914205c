//! TLS faults: handshakes that are split, stalled or garbage, connections that end without notice,
//! and unusable keys.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use mailslot::net::tls::{ServerCertificate, examine};
use rustls::StreamOwned;

use crate::harness::TIMEOUT;
use crate::harness::client::{codes, rest};
use crate::harness::library::{LibraryServer, MailStore};
use crate::harness::tls::{TestCertificate, VERSIONS, outgoing_records, starttls};

/// Runs a server that offers STARTTLS, with this timeout.
fn offering(store: &MailStore, timeout: Duration) -> (LibraryServer, TestCertificate) {
    let certificate = TestCertificate::new(store.path(), "a");
    let mut config = store.server_settings(4);
    config.session.timeout = timeout;
    config.session.tls = certificate.offered();
    (store.run(config), certificate)
}

/// Asserts that the next client is served.
fn assert_serves(running: &LibraryServer, certificate: &TestCertificate) {
    let mut client = certificate.handshake(starttls(running.address), &VERSIONS);
    client.command("EHLO client.example", 250);
    client.quit();
}

#[test]
fn handshake_byte_by_byte() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store, TIMEOUT);
    for version in VERSIONS {
        let mut socket = starttls(running.address);
        let mut client = certificate.connection(&[version]);
        while client.is_handshaking() {
            for byte in outgoing_records(&mut client) {
                socket.write_all(&[byte]).unwrap();
            }
            if client.is_handshaking() {
                client.read_tls(&mut socket).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        for byte in outgoing_records(&mut client) {
            socket.write_all(&[byte]).unwrap();
        }
        let mut stream = StreamOwned::new(client, socket);
        stream.write_all(b"NOOP\r\nQUIT\r\n").unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).unwrap();
        assert_eq!(codes(&replies), ["250", "221"]);
    }
}

#[test]
fn client_leaves_during_the_handshake() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store, TIMEOUT);
    for version in VERSIONS {
        let first = outgoing_records(&mut certificate.connection(&[version]));
        let cuts = (0..8).chain((8..first.len()).step_by(29)).chain([first.len()]);
        let mut left = 0;
        for cut in cuts {
            let mut socket = starttls(running.address);
            socket.write_all(&first[..cut]).unwrap();
            socket.shutdown(Shutdown::Write).unwrap();
            // If the hello was whole, TLS records; otherwise nothing; never clear text.
            let rest = rest(&mut socket);
            assert_eq!(rest.is_empty(), cut < first.len(), "{cut}: {rest:?}");
            assert!(rest.is_empty() || rest[0] == 22, "{cut}: {rest:?}");
            left += 1;
        }
        // The same in the second flight.
        let mut socket = starttls(running.address);
        let mut client = certificate.connection(&[version]);
        socket.write_all(&outgoing_records(&mut client)).unwrap();
        let mut second = Vec::new();
        while second.is_empty() {
            client.read_tls(&mut socket).unwrap();
            client.process_new_packets().unwrap();
            second = outgoing_records(&mut client);
        }
        socket.write_all(&second[..second.len() / 2]).unwrap();
        drop(socket);
        assert!(left > 10);
    }
    assert_serves(&running, &certificate);
}

#[test]
fn garbage_instead_of_a_handshake() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store, TIMEOUT);
    let old_version = {
        // A hello that offers only versions below 1.2.
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
        let mut socket = starttls(running.address);
        // The server may close before all is sent.
        let _ = socket.write_all(garbage);
        let said = rest(&mut socket);
        assert!(said.is_empty() || (said[0] == 21 && said.len() == 7), "{name}: {said:?}");
        assert_eq!(store.counters.tls_failed.value(), number as u64 + 1, "{name}");
    }
    assert_eq!(store.counters.sessions_panicked.value(), 0);
    assert_serves(&running, &certificate);
}

#[test]
fn stalled_handshake_times_out() {
    let store = MailStore::new();
    let timeout = Duration::from_millis(400);
    let (running, certificate) = offering(&store, timeout);
    let first = outgoing_records(&mut certificate.connection(&VERSIONS));
    for sent in [0, 3, first.len() / 2] {
        let began = Instant::now();
        let mut socket = starttls(running.address);
        socket.write_all(&first[..sent]).unwrap();
        assert_eq!(rest(&mut socket), b"");
        assert!(began.elapsed() >= timeout * 7 / 8 && began.elapsed() < TIMEOUT / 2, "{sent}");
    }
    // Sending byte by byte does not extend the time.
    let mut socket = starttls(running.address);
    socket.set_read_timeout(Some(timeout / 10)).unwrap();
    let end = first.iter().position(|byte| {
        let sent = socket.write_all(&[*byte]).is_ok();
        let waited =
            matches!(socket.read(&mut [0; 16]), Err(e) if e.kind() == ErrorKind::WouldBlock);
        !(sent && waited)
    });
    assert!(end.is_some_and(|length| length < 40), "{end:?}");
}

/// A stop, and a full pool, end a handshake like any wait. No clear text follows it.
#[test]
fn handshake_is_evicted_and_stopped() {
    let store = MailStore::new();
    let certificate = TestCertificate::new(store.path(), "a");
    let mut config = store.server_settings(2);
    config.session.timeout = Duration::from_millis(600); // idle after 20 ms
    config.session.session_timeout = TIMEOUT;
    config.session.tls = certificate.offered();
    let running = store.run(config);
    let mut first = starttls(running.address);
    let mut second = starttls(running.address);
    let third = loop {
        let mut client = running.connect();
        if client.reply().code == 220 {
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
fn connection_lost_within_mail_data_delivers_nothing() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store, TIMEOUT);
    for version in VERSIONS {
        for with_notice in [true, false] {
            let mut client = certificate.handshake(starttls(running.address), &[version]);
            client.begin_data("smith");
            client.send(b"half of\r\n");
            let stream = client.stream();
            if with_notice {
                stream.conn.send_close_notify();
                stream.conn.complete_io(&mut stream.sock).unwrap();
            }
            stream.sock.shutdown(Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert_eq!(rest, b"");
        }
    }
    assert_serves(&running, &certificate);
    assert_eq!(store.mailbox("smith"), "");
}

/// A record that was changed on the way ends the session. It is not a command and gets no reply.
#[test]
fn forged_record_ends_the_session() {
    let store = MailStore::new();
    let (running, certificate) = offering(&store, TIMEOUT);
    for version in VERSIONS {
        let mut client = certificate.handshake(starttls(running.address), &[version]);
        client.command("EHLO client.example", 250);
        let stream = client.stream();
        stream.conn.writer().write_all(b"NOOP\r\n").unwrap();
        let mut record = outgoing_records(&mut stream.conn);
        *record.last_mut().unwrap() ^= 1;
        stream.sock.write_all(&record).unwrap();
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_err(), "an alert");
        assert_eq!(rest, b"");
    }
    assert_serves(&running, &certificate);
}

#[test]
fn unusable_keys_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (a, b) =
        (TestCertificate::new(directory.path(), "a"), TestCertificate::new(directory.path(), "b"));
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
fn certificate_dates_and_names() {
    let directory = tempfile::tempdir().unwrap();
    let year = rcgen::date_time_ymd;
    let dated = |from: i32, to: i32| {
        TestCertificate::with(directory.path(), &format!("{from}"), |params| {
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
    // A chain is valid while all of its certificates are. The certificate of an authority is read
    // as well.
    let both = [fs::read(&old.cert).unwrap(), fs::read(&new.cert).unwrap()].concat();
    fs::write(&old.cert, both).unwrap();
    let found = examine(&old.cert, &old.key, "here.example").unwrap();
    assert_eq!((found.not_before, found.not_after), (978_307_200, 2_208_988_800));
    let authority = TestCertificate::with(directory.path(), "ca", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = year(1970, 1, 1);
    });
    let found = examine(&authority.cert, &authority.key, "here.example").unwrap();
    assert_eq!((found.not_before, found.names_host), (0, true));
}

#[test]
fn failed_reload_keeps_the_old_keys() {
    let directory = tempfile::tempdir().unwrap();
    let (a, b) =
        (TestCertificate::new(directory.path(), "a"), TestCertificate::new(directory.path(), "b"));
    let keys = a.load().unwrap();
    fs::copy(&b.cert, &a.cert).unwrap();
    assert!(keys.reload().is_err_and(|why| why.contains("does not belong")));
    fs::copy(&b.key, &a.key).unwrap();
    assert_eq!(keys.reload(), Ok(()));
    fs::remove_file(&a.key).unwrap();
    assert!(keys.reload().is_err());
    assert!(keys.session().is_ok());
}
