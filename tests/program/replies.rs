//! Each reply of the program, caused over TCP by what really causes it: in [`TABLE`], and in the
//! tests below it the 421s of a timeout, of a full server and of a stop.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::server::Server;

/// A cause and its reply.
struct Row {
    /// Beginning of the last reply line.
    reply: &'static str,
    /// `DIR` stands for the sandbox directory, in which there is a file `aliases`.
    options: &'static [&'static str],
    /// Prepares the mail directory before the program starts.
    cause: fn(&Path),
    /// Lines that the client sends. All but the last get a reply below 400.
    said: &'static [&'static str],
}

const fn row(reply: &'static str, said: &'static [&'static str]) -> Row {
    Row { reply, options: &[], cause: |_| {}, said }
}

const HELLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<smith@example.org>";
const RCPT: &str = "RCPT TO:<jones@here.example>";
const TEXT: &str = "Subject: x\r\n\r\nhello\r\n.";

const TABLE: &[Row] = &[
    row("220 here.example ESMTP", &[]),
    row("221 2.0.0 here.example", &["QUIT"]),
    row("250 2.0.0", &["NOOP"]),
    row("250 2.0.0", &[HELLO, MAIL, "RSET"]),
    row("250 here.example greets", &["HELO client.example"]),
    row("250 HELP", &[HELLO]),
    row("250 2.1.0", &[HELLO, MAIL]),
    row("250 2.1.5", &[HELLO, MAIL, RCPT]),
    row("250 2.1.5 RCPT TO:<Postmaster>", &[HELLO, MAIL, "RCPT TO:<postmaster>"]),
    row("354 ", &[HELLO, MAIL, RCPT, "DATA"]),
    row("250 2.6.0", &[HELLO, MAIL, RCPT, "DATA", TEXT]),
    row("250 2.1.5 <jones@here.example>", &["VRFY jones"]),
    row("211 2.0.0", &["HELP"]),
    row("214 2.0.0", &["HELP MAIL"]),
    Row { options: &["--vrfy", "off"], ..row("252 2.5.0", &["VRFY jones"]) },
    Row { options: &["--expn", "off"], ..row("252 2.5.0", &["EXPN jones"]) },
    row("421 4.7.0 here.example", &["GET / HTTP/1.1"]),
    // The mailbox is not a file, or has another name.
    Row {
        cause: |mail| fs::create_dir(mail.join("jones")).unwrap(),
        ..row("450 4.2.0", &[HELLO, MAIL, RCPT])
    },
    Row {
        cause: |mail| symlink("/dev/null", mail.join("jones")).unwrap(),
        ..row("450 4.2.0", &[HELLO, MAIL, RCPT])
    },
    Row {
        cause: |mail| {
            File::create(mail.join("smith")).unwrap();
            fs::hard_link(mail.join("smith"), mail.join("jones")).unwrap();
        },
        ..row("450 4.2.0", &[HELLO, MAIL, RCPT])
    },
    // Locked by another program. The lock is new, so it is respected.
    Row {
        options: &["--lock-timeout", "1"],
        cause: |mail| drop(File::create(mail.join("jones.lock")).unwrap()),
        ..row("451 4.2.0", &[HELLO, MAIL, RCPT, "DATA", TEXT])
    },
    // Aliases that cannot be read, and that have an error.
    Row { options: &["--aliases", "/nowhere/aliases"], ..row("451 4.3.0", &[HELLO, MAIL, RCPT]) },
    Row {
        options: &["--aliases", "DIR/aliases"],
        ..row("451 4.3.5", &[HELLO, MAIL, "RCPT TO:<loop@x>"])
    },
    // More than any disk has free.
    Row {
        options: &["--max-size", "1000000G"],
        ..row("452 4.3.1", &[HELLO, "MAIL FROM:<> SIZE=1000000000000000"])
    },
    Row {
        options: &["--max-recipients", "1"],
        ..row("452 4.5.3", &[HELLO, MAIL, RCPT, "RCPT TO:<smith@x>"])
    },
    row("500 5.5.2", &["WIZ"]),
    row("500 5.5.2", &["NOOP\nNOOP"]),
    row("501 5.5.4", &["HELO"]),
    row("501 5.1.7", &[HELLO, "MAIL FROM:<smith@example.org"]),
    row("501 5.1.3", &[HELLO, MAIL, "RCPT TO:<jones@>"]),
    row("502 5.5.1", &["TURN"]),
    row("503 5.5.1", &[MAIL]),
    row("503 5.5.1", &[HELLO, MAIL, "DATA"]),
    row("504 5.5.4", &[HELLO, "MAIL FROM:<> BODY=BINARYMIME"]),
    row("504 5.5.4", &["HELP me"]),
    Row { options: &["-u", "jones"], ..row("550 5.1.1", &[HELLO, MAIL, "RCPT TO:<green@x>"]) },
    Row { options: &["-d", "beta.example"], ..row("550 5.7.1", &[HELLO, MAIL, RCPT]) },
    Row { options: &["-u", "jones"], ..row("550 5.1.1", &["VRFY green"]) },
    Row {
        options: &["-d", "x", "--aliases", "DIR/aliases"],
        ..row("551 5.1.6", &[HELLO, MAIL, "RCPT TO:<paul@x>"])
    },
    Row { options: &["-d", "x", "--aliases", "DIR/aliases"], ..row("551 5.1.6", &["VRFY paul"]) },
    Row { options: &["--max-size", "100"], ..row("552 5.3.4", &[HELLO, "MAIL FROM:<> SIZE=101"]) },
    Row {
        options: &["--max-size", "20"],
        ..row("552 5.3.4", &[HELLO, MAIL, RCPT, "DATA", "Subject: 0123456789\r\n."])
    },
    // The mailbox has reached its limit, or would exceed it with this message.
    Row {
        options: &["--mailbox-limit", "100"],
        cause: |mail| File::create(mail.join("jones")).unwrap().set_len(100).unwrap(),
        ..row("552 5.2.2", &[HELLO, MAIL, RCPT])
    },
    Row {
        options: &["--mailbox-limit", "100"],
        ..row("552 5.2.2", &[HELLO, MAIL, RCPT, "DATA", TEXT])
    },
    row("553 5.1.3", &[HELLO, MAIL, "RCPT TO:<a/b@here.example>"]),
    Row { options: &["-u", "a.miller", "-u", "b.miller"], ..row("553 5.1.4", &["VRFY miller"]) },
    row("554 5.6.0", &[HELLO, MAIL, RCPT, "DATA", "a\nb\r\n."]),
    row("555 5.5.4", &[HELLO, "MAIL FROM:<> COLOUR=green"]),
    row("555 5.5.4", &[HELLO, MAIL, "RCPT TO:<jones@here.example> COLOUR=green"]),
];

const ALIASES: &str = "paul: mockapetris@elsewhere.example\nloop: pool\npool: loop\n";

#[test]
fn every_reply_by_its_cause() {
    let mut codes = BTreeSet::new();
    for row in TABLE {
        let what = format!("{} {:?} {:?}", row.reply, row.options, row.said);
        let directory = TestDirectory::new();
        fs::create_dir(directory.join("mail")).unwrap();
        fs::write(directory.join("aliases"), ALIASES).unwrap();
        (row.cause)(&directory.join("mail"));
        let root = directory.as_str().to_owned();
        let options: Vec<String> = row.options.iter().map(|o| o.replace("DIR", &root)).collect();
        let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
        options.extend(["--hostname", "here.example", "--hold", "off"]);
        let server = Server::start_in(directory, &options);

        let mut client = Client::connect(server.address);
        let mut reply = client.reply();
        for line in row.said {
            assert!(reply.code < 400, "{what}: {reply:?}");
            client.send(format!("{line}\r\n").as_bytes());
            reply = client.reply();
        }
        let last = format!("{} {}", reply.code, reply.lines.last().unwrap());
        assert!(last.starts_with(row.reply), "{what}: {last}");
        codes.insert(reply.code);
        if row.said.last() == Some(&TEXT) {
            let stored = server.mailbox("jones").contains("hello");
            assert_eq!(stored, reply.code == 250, "{what}");
        }
    }
    let all = [
        211, 214, 220, 221, 250, 252, 354, 421, 450, 451, 452, 500, 501, 502, 503, 504, 550, 551,
        552, 553, 554, 555,
    ];
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), all);
}

#[test]
fn data_without_recipients_is_554() {
    let server = Server::start(&["-u", "jones"]);
    let mut client = server.after_ehlo();
    client.command(MAIL, 250);
    client.command("RCPT TO:<green@x>", 550);
    assert!(client.command("DATA", 554).lines[0].starts_with("5.5.1"));
}

/// An error in mail data is reported at its end, and the next message is accepted.
#[test]
fn invalid_mail_data_is_554_at_its_end() {
    let server = Server::start(&[]);
    let mut client = server.after_ehlo();
    let long = |length| "x".repeat(length);
    let hops = |number| "Received: from a by b; now\r\n".repeat(number);
    for (text, code, why) in [
        (hops(100), 250, "2.6.0"),
        (hops(101), 554, "5.4.6"),
        (format!("{}From x\r\n", long(997)), 250, "2.6.0"),
        (format!("{}From x\r\n", long(998)), 554, "5.6.0"),
        (format!("{}\r\n", long(100_000)), 250, "2.6.0"),
        ("a\rb\r\n".to_owned(), 554, "5.6.0"),
        ("a\nb\r\n".to_owned(), 554, "5.6.0"),
        ("a\0b\r\n".to_owned(), 250, "2.6.0"),
    ] {
        let what = format!("{:.40}, {} bytes", text, text.len());
        let reply = client.deliver("smith@example.org", &["jones@here.example"], &text, code);
        assert!(reply.lines[0].starts_with(why), "{what}: {reply:?}");
    }
    assert_eq!(server.mailbox("jones").matches("\nReturn-Path: ").count(), 4);
}

#[test]
fn limit_of_command_line_length() {
    let server = Server::start(&[]);
    let mut client = server.after_ehlo();
    // The minimum of RFC 5321 4.5.3.1.4 is 512 octets with CR LF, and more with extensions.
    client.command(&format!("NOOP {}", "x".repeat(512 - 7)), 250);
    assert!(client.command(&"x".repeat(100_000), 500).lines[0].starts_with("5.5.2"));
    client.command("NOOP", 250);
}

#[test]
fn too_many_errors_are_421() {
    let server = Server::start(&[]);
    let mut client = server.after_ehlo();
    let codes: Vec<u16> = (0..100)
        .map_while(|_| {
            client.send(b"WIZ\r\n");
            Some(client.reply().code)
        })
        .take_while(|code| *code == 500)
        .collect();
    assert!((10..100).contains(&codes.len()), "{}", codes.len());
    assert!(client.is_closed());
}

#[test]
fn silent_client_is_421() {
    let server = Server::start(&["--timeout", "1"]);
    let mut client = server.after_ehlo();
    assert!(client.expect(421).lines[0].starts_with("4.4.2"));
    assert!(client.is_closed());
    let mut client = server.after_ehlo();
    client.command(MAIL, 250);
    client.command(RCPT, 250);
    client.command("DATA", 354);
    client.send(b"Subject: x\r\n");
    assert!(client.expect(421).lines[0].starts_with("4.4.2"));
    assert_eq!(server.mailbox("jones"), "");
}

#[test]
fn stopping_server_is_421() {
    let server = Server::start(&[]);
    let mut client = server.after_ehlo();
    server.signal(Signal::SIGTERM);
    assert!(client.expect(421).lines[0].starts_with("4.3.2"));
    assert!(client.is_closed());
}

#[test]
fn full_server_is_421() {
    let server = Server::start(&["--threads", "2"]);
    let mut busy = [server.after_ehlo(), server.after_ehlo()];
    for client in &mut busy {
        client.command(MAIL, 250);
        client.command(RCPT, 250);
        client.command("DATA", 354);
    }
    let mut late = Client::connect(server.address);
    let reply = late.expect(421);
    assert!(reply.lines[0].starts_with("4.3.2"), "{reply:?}");
    assert!(late.is_closed());
    for client in &mut busy {
        client.command(TEXT, 250);
        client.command("QUIT", 221);
    }
}

/// A client that ends its lines with LF alone waits for a reply after the first one.
#[test]
fn lines_that_end_with_lf_alone_are_explained_and_logged() {
    let server = Server::start(&[]);
    let mut client = server.greeted();
    for line in ["EHLO client.example\n", "HELO client.example\nNOOP\n"] {
        client.send(line);
        let reply = client.reply();
        assert!(reply.to_string().contains("only CR LF ends a line"), "{reply}");
    }
    // It is not too late for CR LF, and no line before it counts as a part of this one.
    client.command("EHLO client.example", 250);
    client.send("NOOP\nRSET\r\n");
    client.expect(500);
    client.quit();
    server.wait_for_log(" bare-lf ");
    let (log, _) = server.stop();
    assert!(!log.iter().any(|line| line.contains(" bare-lf ")), "one line for a session");
}
