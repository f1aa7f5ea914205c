//! A reply for each recipient, by LMTP and by PRDR: a recipient that fails does not affect the
//! others, and no reply waits for a later one.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::thread;

use mailslot::message::peer::Peer;
use mailslot::net::listen::Service;
use mailslot::net::stream::{Socket, Stream};

use crate::harness::TIMEOUT;
use crate::harness::client::Client;
use crate::harness::library::MailStore;

/// Runs a session over a socket. `run` is the client, after the commands `hello` and `mail`.
fn with_session(
    store: &MailStore,
    hello: &str,
    mail: &str,
    run: impl FnOnce(&mut Client<UnixStream>),
) {
    let sessions = store.sessions(store.session_settings());
    let (client, server) = UnixStream::pair().unwrap();
    let service = Service { lmtp: hello.starts_with("LHLO"), ..Service::default() };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream =
                Stream::new(Socket::Unix(server), Peer::Unix, TIMEOUT, TIMEOUT).unwrap();
            sessions.serve_as(service, &mut stream);
            stream.close(false);
        });
        let mut client = Client::new(client);
        client.expect(220);
        client.command(hello, 250);
        client.command(mail, 250);
        run(&mut client);
        client.command("QUIT", 221);
        client.expect_end();
    });
}

fn name_recipients(client: &mut Client<UnixStream>, names: &[&str]) {
    for name in names {
        client.command(&format!("RCPT TO:<{name}@here.example>"), 250);
    }
}

const LHLO: &str = "LHLO client.example";
const EHLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<jones@client.example>";
const PRDR: &str = "MAIL FROM:<jones@client.example> PRDR";
const TEXT: &str = "Subject: hello\r\n\r\nHello.\r\n";

#[test]
fn one_recipient_fails_others_get_the_message() {
    for (hello, mail) in [(LHLO, MAIL), (EHLO, PRDR)] {
        for chunked in [false, true] {
            let store = MailStore::new();
            with_session(&store, hello, mail, |client| {
                name_recipients(client, &["first", "broken", "last"]);
                fs::create_dir(store.path().join("mail/broken")).unwrap();
                if chunked {
                    client.send(format!("BDAT {} LAST\r\n{TEXT}", TEXT.len()));
                } else {
                    client.command("DATA", 354);
                    client.send(format!("{TEXT}.\r\n"));
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
                client.command("NOOP", 250);
            });
            for (name, count) in [("first", 1), ("last", 1)] {
                assert_eq!(store.count(name), count, "{name}");
                let (_, text) = store.mailbox(name).split_once("\n\n").map(own).unwrap();
                assert_eq!(text, "Hello.\n\n");
            }
            assert_eq!(store.counters.messages.value(), 2);
            assert_eq!(store.counters.messages_deferred.value(), 1);
        }
    }
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// A large message waits in a file, which is read for each copy.
#[test]
fn large_message_reaches_each_recipient() {
    let store = MailStore::new();
    with_session(&store, LHLO, MAIL, |client| {
        name_recipients(client, &["a", "b", "c"]);
        client.command("DATA", 354);
        client.send(format!("Subject: x\r\n\r\n{}.\r\n", "0123456789\r\n".repeat(40_000)));
        (0..3).for_each(|_| drop(client.expect(250)));
    });
    for name in ["a", "b", "c"] {
        assert_eq!(store.mailbox(name).matches("\n0123456789").count(), 40_000, "{name}");
    }
}

/// The second mailbox stays locked until the first reply was read. If the first reply waited for
/// the second mailbox, the second reply would be 451.
#[test]
fn each_reply_is_sent_as_soon_as_it_is_known() {
    for (hello, mail) in [(LHLO, MAIL), (EHLO, PRDR)] {
        let store = MailStore::new();
        with_session(&store, hello, mail, |client| {
            name_recipients(client, &["free", "locked"]);
            let lock = store.path().join("mail/locked.lock");
            File::create(&lock).unwrap();
            client.command("DATA", 354);
            client.send(format!("{TEXT}.\r\n"));
            if mail == PRDR {
                client.expect(353);
            }
            client.expect(250);
            assert_eq!((store.count("free"), store.count("locked")), (1, 0));
            fs::remove_file(&lock).unwrap();
            client.expect(250);
            if mail == PRDR {
                client.expect(250);
            }
        });
        assert_eq!((store.count("free"), store.count("locked")), (1, 1));
    }
}

#[test]
fn duplicate_recipient_gets_one_copy_and_two_replies() {
    let store = MailStore::new();
    with_session(&store, LHLO, MAIL, |client| {
        name_recipients(client, &["smith", "brown", "smith", "broken", "broken"]);
        fs::create_dir(store.path().join("mail/broken")).unwrap();
        client.command("DATA", 354);
        client.send(format!("{TEXT}.\r\n"));
        [250, 250, 250, 451, 451].iter().for_each(|code| drop(client.expect(*code)));
    });
    assert_eq!((store.count("smith"), store.count("brown")), (1, 1));
}

#[test]
fn refused_message_gets_a_reply_for_each_by_lmtp_one_by_prdr() {
    let store = MailStore::new();
    for (hello, mail, replies) in [(LHLO, MAIL, 2), (EHLO, PRDR, 1)] {
        with_session(&store, hello, mail, |client| {
            name_recipients(client, &["a", "b"]);
            client.command("DATA", 354);
            client.send("a\nb\r\n.\r\n");
            (0..replies).for_each(|_| drop(client.expect("554 5.6.0")));
            client.command("NOOP", 250);
        });
        assert_eq!(store.count("a") + store.count("b"), 0);
    }
}
