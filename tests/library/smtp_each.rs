//! Each recipient's own truth, by LMTP and by PRDR: one that fails does not fail the others, and
//! nobody waits for a reply that is known.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::thread;

use mailslot::message::peer::Peer;
use mailslot::net::listen::Service;
use mailslot::net::stream::{Socket, Stream};

use crate::harness::program::Server;
use crate::harness::server::{Client, House, LONG};

/// Holds a session over a socket: `types` is the client, greeted and in a transaction that `hello`
/// and `mail` begin.
fn hold(house: &House, hello: &str, mail: &str, types: impl FnOnce(&mut Client<UnixStream>)) {
    let office = house.office(house.session());
    let (client, server) = UnixStream::pair().unwrap();
    let service = Service { lmtp: hello.starts_with("LHLO"), ..Service::default() };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = Stream::new(Socket::Unix(server), Peer::Unix, LONG, LONG).unwrap();
            office.serve_as(service, &mut stream);
            stream.close(false);
        });
        let mut client = Client::new(client);
        client.expect("220");
        client.ask(hello, "250");
        client.ask(mail, "250");
        types(&mut client);
        client.ask("QUIT", "221");
        client.expect_end();
    });
}

fn name_recipients(client: &mut Client<UnixStream>, names: &[&str]) {
    for name in names {
        client.ask(&format!("RCPT TO:<{name}@here.example>"), "250");
    }
}

const LHLO: &str = "LHLO client.example";
const EHLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<jones@client.example>";
const PRDR: &str = "MAIL FROM:<jones@client.example> PRDR";
const TEXT: &str = "Subject: hello\r\n\r\nHello.\r\n";

#[test]
fn one_that_fails_does_not_fail_the_others() {
    for (hello, mail) in [(LHLO, MAIL), (EHLO, PRDR)] {
        for chunked in [false, true] {
            let house = House::new();
            hold(&house, hello, mail, |client| {
                name_recipients(client, &["first", "broken", "last"]);
                fs::create_dir(house.folder().join("mail/broken")).unwrap();
                if chunked {
                    client.send(&format!("BDAT {} LAST\r\n{TEXT}", TEXT.len()));
                } else {
                    client.ask("DATA", "354");
                    client.send(&format!("{TEXT}.\r\n"));
                }
                if mail == PRDR {
                    client.expect("353 ");
                }
                client.expect("250 2.6.0 ");
                client.expect("451 4.2.0 ");
                client.expect("250 2.6.0 ");
                if mail == PRDR {
                    client.expect("250 2.6.0 Message: OK, delivered to some");
                }
                client.ask("NOOP", "250");
            });
            for (name, count) in [("first", 1), ("last", 1)] {
                assert_eq!(house.count(name), count, "{name}");
                let (_, text) = house.mailbox(name).split_once("\n\n").map(own).unwrap();
                assert_eq!(text, "Hello.\n\n");
            }
            assert_eq!(house.counters.messages.value(), 2);
            assert_eq!(house.counters.messages_later.value(), 1);
        }
    }
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// Large messages wait in a file, which all of its copies read.
#[test]
fn a_large_message_reaches_each() {
    let house = House::new();
    hold(&house, LHLO, MAIL, |client| {
        name_recipients(client, &["a", "b", "c"]);
        client.ask("DATA", "354");
        client.send(&format!("Subject: x\r\n\r\n{}.\r\n", "0123456789\r\n".repeat(40_000)));
        ["250", "250", "250"].iter().for_each(|code| drop(client.expect(code)));
    });
    for name in ["a", "b", "c"] {
        assert_eq!(house.mailbox(name).matches("\n0123456789").count(), 40_000, "{name}");
    }
}

/// The second mailbox stays locked until the first reply was read: if that waited for the second,
/// the second would end in 451.
#[test]
fn each_reply_is_sent_when_it_is_known() {
    for (hello, mail) in [(LHLO, MAIL), (EHLO, PRDR)] {
        let house = House::new();
        hold(&house, hello, mail, |client| {
            name_recipients(client, &["free", "locked"]);
            let lock = house.folder().join("mail/locked.lock");
            File::create(&lock).unwrap();
            client.ask("DATA", "354");
            client.send(&format!("{TEXT}.\r\n"));
            if mail == PRDR {
                client.expect("353");
            }
            client.expect("250");
            assert_eq!((house.count("free"), house.count("locked")), (1, 0));
            fs::remove_file(&lock).unwrap();
            client.expect("250");
            if mail == PRDR {
                client.expect("250");
            }
        });
        assert_eq!((house.count("free"), house.count("locked")), (1, 1));
    }
}

#[test]
fn a_mailbox_named_twice_gets_one_copy_and_two_replies() {
    let house = House::new();
    hold(&house, LHLO, MAIL, |client| {
        name_recipients(client, &["smith", "brown", "smith", "broken", "broken"]);
        fs::create_dir(house.folder().join("mail/broken")).unwrap();
        client.ask("DATA", "354");
        client.send(&format!("{TEXT}.\r\n"));
        ["250", "250", "250", "451", "451"].iter().for_each(|code| drop(client.expect(code)));
    });
    assert_eq!((house.count("smith"), house.count("brown")), (1, 1));
}

#[test]
fn what_is_refused_is_refused_to_each_by_lmtp_and_once_by_prdr() {
    let house = House::new();
    for (hello, mail, replies) in [(LHLO, MAIL, 2), (EHLO, PRDR, 1)] {
        hold(&house, hello, mail, |client| {
            name_recipients(client, &["a", "b"]);
            client.ask("DATA", "354");
            client.send("a\nb\r\n.\r\n");
            (0..replies).for_each(|_| drop(client.expect("554 5.6.0")));
            client.ask("NOOP", "250");
        });
        assert_eq!(house.count("a") + house.count("b"), 0);
    }
}

/// The reply for all must not make a client give up those who may get it later.
#[test]
fn the_reply_for_all_is_the_best_that_is_true() {
    let server = Server::start(&["--mailbox-limit", "700"]);
    let mut client = server.after_ehlo();
    let large = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(200));
    client.deliver("a@b", &["full@b"], &large, 250);
    client.deliver("a@b", &["full2@b"], &large, 250);
    let mail = server.folder().join("mail");
    let mut deliver = |to: &[&str], broken: &str, codes: &[u16]| {
        client.say("MAIL FROM:<a@b> PRDR", 250);
        to.iter().for_each(|to| drop(client.say(&format!("RCPT TO:<{to}@b>"), 250)));
        let _ = fs::create_dir(mail.join(broken));
        client.say("DATA", 354);
        client.send(large.as_bytes());
        client.say(".", 353);
        codes.iter().for_each(|code| drop(client.expect(*code)));
    };
    deliver(&["one", "two"], "unused", &[250, 250, 250]);
    deliver(&["full", "three"], "unused", &[552, 250, 250]);
    deliver(&["full", "broken"], "broken", &[552, 451, 451]);
    deliver(&["full", "full2"], "unused", &[552, 552, 554]);
}

#[test]
fn only_who_got_it_is_reported() {
    let server = Server::start(&[]);
    let mut client = server.after_ehlo();
    client.say("MAIL FROM:<alan@b> PRDR", 250);
    for name in ["broken", "smith", "brown"] {
        client.say(&format!("RCPT TO:<{name}@b> NOTIFY=SUCCESS"), 250);
    }
    fs::create_dir(server.folder().join("mail/broken")).unwrap();
    client.say("DATA", 354);
    client.send(TEXT.as_bytes());
    client.say(".", 353);
    [451, 250, 250, 250].iter().for_each(|code| drop(client.expect(*code)));
    client.deliver("", &["probe@b"], TEXT, 250);
    let report = fs::read_to_string(server.folder().join("mail/alan")).unwrap();
    assert_eq!(report.matches("Final-Recipient: ").count(), 2, "{report}");
    assert!(!report.contains("broken"), "{report}");
}
