//! Sessions inside TLS (RFC 3207, RFC 8314): what is said, what is forgotten, what is delivered.

use crate::harness::tls;
use std::io::{Read, Write};

use crate::harness::library::{House, Running};
use crate::harness::tls::{Pair, VERSIONS, at_starttls, certify, connect, reply, rest};
use mailslot::net::listen::{self, Accept, ListenAddress};
use mailslot::server::ServerConfig;

/// A server that offers STARTTLS.
fn offering(house: &House) -> (Running, Pair) {
    let pair = certify(house.folder(), "a");
    let mut settings = house.settings(4);
    settings.session.tls = pair.offered();
    (house.run(settings), pair)
}

#[test]
fn mail_comes_in_by_starttls_in_both_versions() {
    let house = House::new();
    let (running, pair) = offering(&house);
    for (version, shown) in VERSIONS.into_iter().zip(["TLSv1.2", "TLSv1.3"]) {
        let mut client = pair.secure(at_starttls(running.address), &[version]);
        let ehlo = client.ask("EHLO client.example", "250");
        assert!(!ehlo.contains("STARTTLS"), "{ehlo}");
        client.ask("STARTTLS", "503");
        client.up_to_data(shown);
        client.ask("Subject: hello\r\n\r\nIt works.\r\n.", "250");
        client.quit();
        let mailbox = house.mailbox(shown);
        let with = format!(" with ESMTPS (using {shown} with cipher TLS_");
        assert!(mailbox.contains(&with), "{mailbox}");
        assert!(!mailbox.contains("TLS13_"), "{mailbox}");
        assert!(mailbox.ends_with("\nIt works.\n\n"), "{mailbox}");
    }
    assert_eq!((house.counters.tls_sessions.value(), house.counters.tls_failed.value()), (2, 0));
}

#[test]
fn what_was_said_before_is_forgotten() {
    let house = House::new();
    let (running, pair) = offering(&house);
    let mut socket = connect(running.address);
    reply(&mut socket);
    for (command, code) in [
        ("EHLO client.example", "250"),
        ("MAIL FROM:<a@b.example>", "250"),
        ("RCPT TO:<smith@here.example>", "250"),
        ("STARTTLS", "220"),
    ] {
        socket.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let said = reply(&mut socket);
        assert!(said.starts_with(code), "{command}: {said}");
    }
    let mut client = pair.secure(socket, &VERSIONS);
    client.ask("DATA", "503");
    client.ask("RCPT TO:<smith@here.example>", "503");
    client.ask("MAIL FROM:<a@b.example>", "503");
    client.ask("EHLO client.example", "250");
    client.ask("MAIL FROM:<a@b.example>", "250");
    client.quit();
}

/// CVE-2011-0411: octets in clear text behind STARTTLS must not be taken for said inside TLS. They
/// are not answered, in clear or inside, nor is STARTTLS itself.
#[test]
fn clear_text_behind_starttls_ends_the_session() {
    let house = House::new();
    let (running, pair) = offering(&house);
    let hello = tls::hello(&mut pair.client(&VERSIONS));
    for injected in [&b"\r"[..], b"\r\n", b"NOOP\r\n", b"RSET\r\nMAIL FROM:<evil@x>\r\n", &hello] {
        let mut socket = connect(running.address);
        reply(&mut socket);
        socket.write_all(&[b"NOOP\r\nSTARTTLS\r\n", injected].concat()).unwrap();
        let rest = rest(&mut socket);
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.starts_with("250 ") && rest.lines().count() == 1, "{rest:?}");
    }
    // What comes only once the server awaits the handshake is no handshake.
    let mut socket = at_starttls(running.address);
    socket.write_all(b"NOOP\r\n").unwrap();
    assert_alert(&rest(&mut socket));
}

/// At most an alert of TLS, and nothing in clear text.
fn assert_alert(rest: &[u8]) {
    assert!(rest.is_empty() || (rest[0] == 21 && rest.len() == 7), "{rest:?}");
}

#[test]
fn without_a_certificate_it_is_not_offered() {
    let house = House::new();
    let running = house.run(house.settings(2));
    let mut client = running.connect();
    client.expect("220");
    assert!(!client.ask("EHLO client.example", "250").contains("STARTTLS"));
    client.ask("STARTTLS", "502 5.5.1 ");
    client.ask("NOOP", "250");
}

#[test]
fn where_it_is_required_nothing_goes_without() {
    let house = House::new();
    let pair = certify(house.folder(), "a");
    let mut settings = house.settings(2);
    settings.session.tls = pair.offered().map(|mut tls| {
        tls.required = true;
        tls
    });
    let running = house.run(settings);
    let mut client = running.connect();
    client.expect("220");
    client.ask("MAIL FROM:<a@b.example>", "530 5.7.0 ");
    client.ask("NOOP", "250");
    client.ask("QUIT", "221");
    let mut client = pair.secure(at_starttls(running.address), &VERSIONS);
    client.up_to_data("smith");
    client.ask(".", "250");
    client.quit();
    assert_eq!(house.count("smith"), 1);
}

/// RFC 8314 3.3.
#[test]
fn tls_from_the_first_octet() {
    let house = House::new();
    let pair = certify(house.folder(), "a");
    let mut settings = house.settings(2);
    settings.session.tls = pair.offered();
    let (running, _) = implicit(&house, settings);
    for version in VERSIONS {
        let mut client = pair.secure(connect(running.address), &[version]);
        client.expect("220");
        assert!(!client.ask("EHLO client.example", "250").contains("STARTTLS"));
        client.ask("STARTTLS", "503");
        client.up_to_data("smith");
        client.ask(".", "250");
        client.quit();
    }
    assert_eq!(house.mailbox("smith").matches(" with ESMTPS (using TLSv1.").count(), 2);
    // Who does not know is not answered in clear text.
    let mut socket = connect(running.address);
    socket.write_all(b"EHLO client.example\r\n").unwrap();
    assert_alert(&rest(&mut socket));
}

/// Runs it behind an address that begins with `tls:`.
fn implicit(house: &House, settings: ServerConfig) -> (Running, ListenAddress) {
    let address = "tls:127.0.0.1:0".parse::<ListenAddress>().unwrap();
    let listeners = listen::open(std::slice::from_ref(&address)).unwrap();
    assert!(listeners[0].service().tls);
    let at = listeners[0].local_addr().unwrap();
    (house.run_on(settings, listeners, at), address)
}

#[test]
fn who_gets_no_session_at_a_port_of_tls_hears_no_clear_text() {
    let house = House::new();
    let pair = certify(house.folder(), "a");
    let mut settings = house.settings(1);
    settings.session.tls = pair.offered();
    let (running, _) = implicit(&house, settings);
    let mut first = pair.secure(connect(running.address), &VERSIONS);
    first.expect("220");
    assert_eq!(rest(&mut connect(running.address)), b"");
    first.ask("NOOP", "250");
}

#[test]
fn a_large_message_comes_whole_through_tls() {
    let house = House::new();
    let pair = certify(house.folder(), "a");
    let mut settings = house.settings(2);
    settings.session.tls = pair.offered();
    settings.session.size_max = 16 << 20;
    let running = house.run(settings);
    let line: String = (0..70).map(|i| char::from(b'0' + i)).collect();
    for version in VERSIONS {
        let mut client = pair.secure(at_starttls(running.address), &[version]);
        client.up_to_data("large");
        let body = format!("{line}\r\n").repeat(4 << 20 >> 6);
        client.send(format!("Subject: large\r\n\r\n{body}").as_bytes());
        client.ask(".", "250");
        client.quit();
    }
    let mailbox = house.mailbox("large");
    assert_eq!(mailbox.lines().filter(|found| *found == line).count(), 2 * (4 << 20 >> 6));
    assert_eq!(house.count("large"), 2);
}

/// Records of every size, the smallest too, and commands cut by them: the session sees octets.
#[test]
fn records_may_cut_lines_anywhere() {
    let house = House::new();
    let (running, pair) = offering(&house);
    let dialogue =
        b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<cut@c>\r\nDATA\r\n\r\n..x\r\n.\r\nQUIT\r\n";
    let mut all = Vec::new();
    for size in [1, 2, 7, dialogue.len()] {
        let mut client = pair.secure(at_starttls(running.address), &VERSIONS);
        for piece in dialogue.chunks(size) {
            client.send(piece);
        }
        let mut replies = String::new();
        client.stream().read_to_string(&mut replies).unwrap();
        // All but the id of the message is the same.
        let codes: Vec<String> = replies.lines().map(|line| line[..4].to_owned()).collect();
        all.push(codes);
    }
    assert!(all.iter().all(|codes| codes == &all[0]), "{all:?}");
    assert_eq!(house.mailbox("cut").matches("\n.x\n").count(), 4);
}
