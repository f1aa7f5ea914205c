//! The real program against common abuse: relaying, harvesting of addresses, HTTP and TLS instead
//! of SMTP, and text that would forge log lines or header fields.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::inetd::inetd_session;
use crate::harness::log_lines::{as_in_syslog, parse, split_date, typical_log};
use crate::harness::relay_addresses::RELAY_ADDRESSES;
use crate::harness::server::Server;

#[test]
fn no_form_of_address_is_relayed() {
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
            // A new session for each few, so that the limit of errors is not what refuses.
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
    // Addresses that lead here are accepted, and their mail goes no further.
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
fn other_protocols_are_421() {
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
        let session = inetd_session(&directory, Some("192.0.2.7"), opening, &[]);
        let codes: Vec<&str> = session.replies.lines().map(|line| &line[..3]).collect();
        assert_eq!(codes, ["220", "421"], "{opening:?}: {}", session.replies);
        let [line] = session.log.as_slice() else { panic!("{opening:?}: {:?}", session.log) };
        let (_, text) = split_date(line);
        assert!(text.starts_with("abuse session="), "{text}");
        assert!(text.contains(" client=192.0.2.7:4000 end=errors reply=\"421 4.7.0 "), "{text}");
        assert_eq!(reported_by_logcheck(&[as_in_syslog(line, true)]), "", "too common to report");
    }
    // A NUL after a verb is an ordinary error.
    let session =
        inetd_session(&directory, Some("192.0.2.7"), b"EHLO c\r\nNOOP \0\r\nQUIT\r\n", &[]);
    assert!(session.replies.contains("\n500 5.5.2 "), "{}", session.replies);
    assert!(session.replies.contains("\n221 "), "{}", session.replies);
}

/// Text that would end a line, begin another one, move a cursor or close a quote.
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

/// Returns a dialogue with `text` wherever a client can send some. It causes at most 19 errors.
fn dialogue_with(text: &[u8]) -> Vec<u8> {
    let mut input = b"EHLO c.example\r\n".to_vec();
    for (before, after) in [
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
        input.extend_from_slice(after.as_bytes());
        input.extend_from_slice(b"\r\n");
    }
    input.extend_from_slice(b"QUIT\r\n");
    input
}

#[test]
fn hostile_text_forges_no_log_line_or_field() {
    let directory = TestDirectory::new();
    let options = ["-vv", "--domain", "here.example"];
    let mut events = std::collections::BTreeSet::new();
    for text in HOSTILE {
        for address in ["192.0.2.7", "2001:db8::7", "127.0.0.1"] {
            for line in inetd_session(&directory, Some(address), &dialogue_with(text), &options).log
            {
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
    // The dialogue gets as far as a delivery.
    for event in ["connected", "recipient-rejected", "delivered", "disconnected"] {
        assert!(events.contains(event), "{event} in {events:?}");
    }
    assert!(!events.contains("fake"), "{events:?}");
    let mailbox = fs::read(directory.join("mail/smith")).unwrap();
    let head = |line: &[u8]| {
        let names = [&b"From "[..], b"Return-Path: ", b"Delivered-To: ", b"Received: ", b"\t"];
        names.iter().any(|name| line.starts_with(name))
    };
    // The fields that mailslot wrote, up to the first one of the client.
    let mut on_top = false;
    for line in mailbox.split(|byte| *byte == b'\n') {
        on_top = (on_top || line.starts_with(b"From ")) && !line.starts_with(b"Subject: ");
        if on_top {
            let shown = String::from_utf8_lossy(line);
            assert!(head(line), "{shown:?}");
            let text = shown.strip_prefix('\t').unwrap_or(&shown);
            assert!(!text.contains(char::is_control), "{shown:?}");
        }
    }
}

/// The rules for logcheck expect every line of a typical log, with either form of date.
#[test]
fn logcheck_rules_expect_a_typical_log() {
    let log = typical_log();
    let mut events: Vec<String> = log.iter().map(|line| parse(line).0).collect();
    events.sort();
    events.dedup();
    // Logged on old kernels only.
    events.retain(|event| event != "confinement-partial");
    let expected = [
        "abandoned",
        "counters",
        "delivered",
        "dsn-created",
        "dsn-suppressed",
        "recipient-rejected",
        "rejected",
        "reloaded",
        "running-as",
        "stopping",
    ];
    assert_eq!(events, expected);
    for traditional in [true, false] {
        let lines: Vec<String> = log.iter().map(|line| as_in_syslog(line, traditional)).collect();
        assert_eq!(reported_by_logcheck(&lines), "");
    }
    // The rules must not match everything.
    let odd =
        "Nov  2 04:50:00 mx mailslot[4711]: lock-broken lock=/var/mail/jo.lock pid=1 seconds=9";
    let forged = as_in_syslog(&log[0], true) + " and more";
    assert_eq!(
        reported_by_logcheck(&[odd.to_owned(), forged.clone()]),
        format!("{odd}\n{forged}\n")
    );
}

/// Returns the lines that logcheck would report.
fn reported_by_logcheck(lines: &[String]) -> String {
    let directory = TestDirectory::new();
    let log = directory.join("log");
    fs::write(&log, lines.join("\n") + "\n").unwrap();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/logcheck/mailslot");
    let mut grep = Command::new("grep");
    // With the options of logcheck.
    grep.args(["--text", "-E", "-v", "-f", rules]).arg(log).stderr(Stdio::inherit());
    let output = grep.output().unwrap();
    assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
