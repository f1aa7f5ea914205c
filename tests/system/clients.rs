//! SMTP clients of other projects with the real program. Every message is compared.

use std::collections::BTreeSet;

use crate::harness::external::{
    self, difficult_messages, external, open, run, run_for_text, send_files, with_crlf, write_all,
};
use crate::harness::mbox::{self, assert_same};
use crate::harness::server::Server;

/// Returns the messages of a mailbox without the fields that mailslot added.
fn arrived(server: &Server, name: &str) -> Vec<Vec<u8>> {
    mbox::read(&server.mailbox_path(name)).iter().map(mbox::without_trace).collect()
}

/// Runs an smtp-source for each user, all at the same time.
fn smtp_source(server: &Server, users: &[&str], options: &str) {
    let start = |user: &&str| external::smtp_source(server.address, server.path(), user, options);
    let running: Vec<_> = users.iter().map(start).collect();
    running.into_iter().for_each(|source| source.ended());
}

/// Asserts that all messages arrived, in order.
fn assert_arrived(server: &Server, name: &str, sent: &[Vec<u8>]) {
    let found = arrived(server, name);
    for (number, (found, sent)) in found.iter().zip(sent).enumerate() {
        assert_same(found, &mbox::kept(sent), &format!("message {number}"));
    }
    assert_eq!(found.len(), sent.len());
}

/// The command in the second line of the banner.
#[test]
#[ignore = "needs curl"]
fn command_in_the_banner() {
    let server = Server::start(&[]);
    assert_eq!(run_for_text(external("sh", server.path()).args(["-c", &server.banner[1]])), "");
    let sent = b"From: me@localhost\nTo: you@localhost\nSubject: hello\n\nIt works.\n";
    assert_arrived(&server, "you", &[sent.to_vec()]);
}

#[test]
#[ignore = "needs curl"]
fn curl() {
    let server = Server::start(&[]);
    let messages = difficult_messages();
    for file in write_all(&messages, &server.join("sent")) {
        let mut curl = external("curl", server.path());
        curl.args(["-sS", "--mail-from", "smith@example.org", "--mail-rcpt", "jones@localhost"]);
        curl.arg(format!("smtp://{}/client.example", server.address));
        run(curl.arg("--upload-file").arg(with_crlf(&file)));
    }
    assert_arrived(&server, "jones", &messages);
}

#[test]
#[ignore = "needs swaks"]
fn swaks() {
    let server = Server::start(&[]);
    let mut messages = difficult_messages();
    // swaks ends the last line itself, and adds another empty line to a message without a body.
    messages.retain(|message| !message.ends_with(b"\n\n"));
    let ends = |message: &Vec<u8>| message.strip_suffix(b"\n").unwrap().to_vec();
    let unended: Vec<Vec<u8>> = messages.iter().map(ends).collect();
    for file in write_all(&unended, &server.join("sent")) {
        let mut swaks = external("swaks", server.path());
        swaks.args(["--server", &server.address.to_string(), "--silent", "2"]);
        swaks.args(["--from", "smith@example.org", "--to", "jones@localhost,brown@localhost"]);
        run(swaks.args(["--data", "-"]).stdin(open(&file)));
    }
    assert_arrived(&server, "jones", &messages);
    assert_arrived(&server, "brown", &messages);
}

#[test]
#[ignore = "needs Python"]
fn smtplib() {
    let server = Server::start(&[]);
    let messages = difficult_messages();
    let files = write_all(&messages, &server.join("sent"));
    let replies = send_files(&server, "jones@localhost", &files);
    assert_eq!(replies.matches("\t250\t2.6.0 ").count(), messages.len(), "{replies}");
    assert_arrived(&server, "jones", &messages);
}

/// Asserts that a mailbox contains `count` messages of smtp-source, each once and unchanged.
fn assert_from_smtp_source(server: &Server, user: &str, count: usize, length: usize) {
    let found = arrived(server, user);
    external::assert_from_smtp_source(&found, count, length);
    let names = |message: &Vec<u8>| {
        let text = String::from_utf8_lossy(message);
        let header = text.lines().take_while(|line| !line.is_empty());
        header.map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let fields = ["From", "To", "Date", "Message-Id"];
    assert!(found.iter().all(|message| names(message) == fields), "{user}");
}

#[test]
#[ignore = "needs smtp-source, of Postfix"]
fn smtp_source_sends_2000_to_one_mailbox() {
    for (options, length) in [
        ("-s 20 -m 2000 -l 4096", 4096),
        ("-s 20 -m 2000 -l 4096 -d", 4096),
        ("-s 4 -m 20 -l 1048576", 1 << 20),
        ("-s 4 -m 20 -l 1048576 -d", 1 << 20),
    ] {
        let server = Server::start(&[]);
        smtp_source(&server, &["jones"], options);
        let count = if length == 4096 { 2000 } else { 20 };
        assert_from_smtp_source(&server, "jones", count, length);
    }
}

#[test]
#[ignore = "needs smtp-source, of Postfix"]
fn smtp_source_sends_2000_to_twenty_mailboxes() {
    let users: Vec<String> = (1..=20).map(|number| format!("user{number}")).collect();
    let users: [&str; 20] = std::array::from_fn(|number| users[number].as_str());
    for (options, count, length) in [
        ("-s 1 -m 100 -l 4096", 100, 4096),
        ("-s 1 -m 100 -l 4096 -d", 100, 4096),
        ("-s 1 -m 1 -l 1048576", 1, 1 << 20),
    ] {
        let server = Server::start(&[]);
        smtp_source(&server, &users, options);
        for user in users {
            assert_from_smtp_source(&server, user, count, length);
        }
    }
}

/// A message for twenty recipients is in all twenty mailboxes.
#[test]
#[ignore = "needs smtp-source, of Postfix"]
fn smtp_source_sends_to_twenty_recipients() {
    let server = Server::start(&[]);
    smtp_source(&server, &["u"], "-s 4 -m 40 -r 20 -l 4096 -d");
    let mut ids = BTreeSet::new();
    let names = server.mailboxes();
    assert_eq!(names.len(), 20, "{names:?}");
    for name in names {
        let mails = mbox::read(&server.mailbox_path(&name));
        assert_eq!(mails.len(), 40, "{name}");
        ids.extend(mails.iter().map(|mail| mail.field("Message-Id").unwrap()));
    }
    assert_eq!(ids.len(), 40);
}
