//! The real program against what is tried on every host: relaying, harvesting, HTTP and TLS where
//! SMTP should be, and text that would forge its log or its headers.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::inetd::inetd_session;
use crate::harness::log_lines::{as_in_syslog, parse, split_date, typical_log};
use crate::harness::relay_addresses::RELAY_ADDRESSES;
use crate::harness::server::Server;

#[test]
fn nothing_is_relayed_however_it_is_written() {
    let server = Server::start(&["--domain", "here.example", "--user", "smith"]);
    for from in [
        "<spam@evil.example>",
        "<>",
        "<smith@here.example>",
        "<smith@[127.0.0.1]>",
        "<postmaster@localhost>",
        "<@here.example:spam@evil.example>",
    ] {
        for some in RELAY_ADDRESSES.chunks(8) {
            // So that the limit of errors is not what refuses.
            let mut client = server.after_ehlo();
            for to in some {
                client.command(&format!("MAIL FROM:{from}"), 250);
                client.send(format!("RCPT TO:{to}\r\n").as_bytes());
                let reply = client.reply();
                let refused = [501, 550, 553, 555].contains(&reply.code);
                assert!(refused, "from {from} to {to}: {} {:?}", reply.code, reply.lines);
                client.send(b"DATA\r\n");
                assert!(matches!(client.reply().code, 503 | 554), "{to}");
                client.command("RSET", 250);
            }
        }
    }
    // What leads here is taken, and goes no farther.
    let mut client = server.after_ehlo();
    let local = ["smith@here.example", "@else.example:smith@here.example", "smith+x@HERE.example"];
    for to in local {
        client.deliver("spam@evil.example", &[to], "\r\nhello\r\n", 250);
    }
    drop(client);
    assert_eq!(server.mailbox("smith").matches("\nhello\n").count(), local.len());
    assert_eq!(server.mailboxes(), ["smith"]);
}

#[test]
fn what_is_no_smtp_is_answered_421_and_closed() {
    let directory = TestDirectory::new();
    for opening in [
        &b"GET / HTTP/1.1\r\nHost: mx.example\r\n\r\nMAIL FROM:<a@b>\r\n"[..],
        b"POST / HTTP/1.1\r\n\r\nEHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<x@y>\r\nDATA\r\n\r\n.\r\n",
        b"CONNECT mx.example:25 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"\x16\x03\x01\r\nEHLO c\r\n",
        b"\0\0\0\0",
        b"\x80\x80\r\n",
        b"\xff\xf4\xff\xfd\x06",
    ] {
        let heard = inetd_session(&directory, Some("192.0.2.7"), opening, &[]);
        let codes: Vec<&str> = heard.replies.lines().map(|line| &line[..3]).collect();
        assert_eq!(codes, ["220", "421"], "{opening:?}: {}", heard.replies);
        let [line] = heard.log.as_slice() else { panic!("{opening:?}: {:?}", heard.log) };
        let (_, text) = split_date(line);
        assert!(text.starts_with("abuse session="), "{text}");
        assert!(text.contains(" client=192.0.2.7:4000 end=errors reply=\"421 4.7.0 "), "{text}");
        assert_eq!(unexpected(&[as_in_syslog(line, true)]), "", "it is the Internet's weather");
    }
    // NULs behind a verb are an error like others.
    let heard = inetd_session(&directory, Some("192.0.2.7"), b"EHLO c\r\nNOOP \0\r\nQUIT\r\n", &[]);
    assert!(heard.replies.contains("\n500 5.5.2 "), "{}", heard.replies);
    assert!(heard.replies.contains("\n221 "), "{}", heard.replies);
}

/// Text that would end a line, begin another, move a cursor or close a quote.
const HOSTILE: &[&[u8]] = &[
    b"\r\nfake session=fake",
    b"\nfake session=fake",
    b"\rfake session=fake",
    b"x\0y",
    b"\x1b[2J\x1b]0;owned\x07",
    b"\x1b[201~rm -rf ~",
    b"\x08\x08\x08\x7f",
    b"\" session=fake fake=\"",
    b"\\\" session=fake fake=\\",
    b"a b=c session=fake",
    b"%s%n%x%d",
    b"${jndi:ldap://x}`id`$(id)",
    b"<script>alert(1)</script>",
    "\u{85}\u{9b}31m\u{2028}session=fake\u{2029}\u{202e}".as_bytes(),
    "j\u{fc}rgen".as_bytes(),
    b"\xff\xfe\xc3(",
    b"client=192.0.2.99:1 end=errors",
    b"\tReceived: forged",
];

/// A dialogue with `text` wherever a client may put some; at most 19 errors.
fn dialogue(text: &[u8]) -> Vec<u8> {
    let mut input = b"EHLO c.example\r\n".to_vec();
    for (before, behind) in [
        ("", ""),
        ("HELO ", ""),
        ("EHLO ", ""),
        ("VRFY ", ""),
        ("EXPN ", ""),
        ("HELP ", ""),
        ("NOOP ", ""),
        ("MAIL FROM:<", ">"),
        ("MAIL FROM:<\"", "\"@x.example>"),
        ("MAIL FROM:<\"", "\"@x.example> SMTPUTF8"),
        ("MAIL FROM:<a@b.example> ", ""),
        ("RSET\r\nMAIL FROM:<a@b.example> SMTPUTF8 ENVID=", ""),
        ("RSET\r\nMAIL FROM:<a@b.example> SMTPUTF8\r\nRCPT TO:<", "@else.example>"),
        ("RCPT TO:<\"", "\"@here.example>"),
        ("RCPT TO:<smith@", ">"),
        ("RCPT TO:<smith@here.example> ORCPT=rfc822;", ""),
        ("RSET\r\nMAIL FROM:<\"", "\"@x.example> SMTPUTF8\r\nRCPT TO:<smith@here.example>"),
        ("DATA\r\nSubject: ", "\r\n\r\nhello\r\n."),
    ] {
        input.extend_from_slice(before.as_bytes());
        input.extend_from_slice(text);
        input.extend_from_slice(behind.as_bytes());
        input.extend_from_slice(b"\r\n");
    }
    input.extend_from_slice(b"QUIT\r\n");
    input
}

#[test]
fn whatever_a_client_says_a_log_line_and_a_header_stay_one() {
    let directory = TestDirectory::new();
    let options = ["-vv", "--domain", "here.example"];
    let mut events = std::collections::BTreeSet::new();
    for text in HOSTILE {
        for address in ["192.0.2.7", "2001:db8::7", "127.0.0.1"] {
            for line in inetd_session(&directory, Some(address), &dialogue(text), &options).log {
                let (event, pairs) = parse(&line);
                let client = match address.contains(':') {
                    true => format!("[{address}]:4000"),
                    false => format!("{address}:4000"),
                };
                for (name, value) in pairs {
                    assert!(name != "session" || value.ends_with("-1"), "{line:?}");
                    assert!(name != "client" || value == client, "{line:?}");
                }
                events.insert(event);
            }
        }
    }
    // The dialogue gets somewhere.
    for event in ["connected", "recipient refused", "delivered", "disconnected"] {
        assert!(events.contains(event), "{event} in {events:?}");
    }
    assert!(!events.contains("fake"), "{events:?}");
    let mailbox = fs::read(directory.join("mail/smith")).unwrap();
    let head = |line: &[u8]| {
        let names = [&b"From "[..], b"Return-Path: ", b"Delivered-To: ", b"Received: ", b"\t"];
        names.iter().any(|name| line.starts_with(name))
    };
    // What mailslot put on top, up to the client's own field.
    let mut on_top = false;
    for line in mailbox.split(|octet| *octet == b'\n') {
        on_top = (on_top || line.starts_with(b"From ")) && !line.starts_with(b"Subject: ");
        if on_top {
            let shown = String::from_utf8_lossy(line);
            assert!(head(line), "{shown:?}");
            let text = shown.strip_prefix('\t').unwrap_or(&shown);
            assert!(!text.contains(char::is_control), "{shown:?}");
        }
    }
}

/// Every line of such a day is one that the rules for logcheck expect, however its date is written.
#[test]
fn an_ordinary_day_gives_logcheck_nothing_to_tell() {
    let log = typical_log();
    let mut events: Vec<String> = log.iter().map(|line| parse(line).0).collect();
    events.sort();
    events.dedup();
    // Where the kernel cannot do better.
    events.retain(|event| event != "confined in part");
    let expected = [
        "abandoned",
        "counters",
        "delivered",
        "no-report",
        "recipient refused",
        "refused",
        "reload",
        "report",
        "settled",
        "stopping",
    ];
    assert_eq!(events, expected);
    for traditional in [true, false] {
        let lines: Vec<String> = log.iter().map(|line| as_in_syslog(line, traditional)).collect();
        assert_eq!(unexpected(&lines), "");
    }
    // A rule that matched anything would be none.
    let odd = "Nov  2 04:50:00 mx mailslot[4711]: lock-broken path=/var/mail/jo.lock pid=1 age=99";
    let forged = as_in_syslog(&log[0], true) + " and more";
    assert_eq!(unexpected(&[odd.to_owned(), forged.clone()]), format!("{odd}\n{forged}\n"));
}

/// What logcheck would mail of these lines.
fn unexpected(lines: &[String]) -> String {
    let directory = TestDirectory::new();
    let log = directory.join("log");
    fs::write(&log, lines.join("\n") + "\n").unwrap();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/logcheck/mailslot");
    let mut grep = Command::new("grep");
    // As logcheck runs it.
    grep.args(["--text", "-E", "-v", "-f", rules]).arg(log).stderr(Stdio::inherit());
    let output = grep.output().unwrap();
    assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
