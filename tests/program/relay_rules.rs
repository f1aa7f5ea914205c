//! Relaying: which clients may send mail to other hosts, and how it gets there.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::external::difficult_messages;
use crate::harness::inetd::inetd_session;
use crate::harness::relay_addresses::RELAY_ADDRESSES;
use crate::harness::scripted_server::{ScriptedServer, usual};
use crate::harness::server::{Server, mailslot};
use crate::harness::{mbox, wait_until};

/// A host with the users smith and jones, and with aliases that lead to other hosts.
struct RelayHost {
    directory: TestDirectory,
    options: Vec<String>,
}

impl RelayHost {
    fn new(smarthost: &str) -> RelayHost {
        let directory = TestDirectory::new();
        let aliases = directory.join("aliases");
        let text = "postel: postel@there.example\nboth: smith, postel@there.example\n";
        fs::write(&aliases, text).unwrap();
        let words = ["--domain", "here.example", "--user", "smith", "--user", "jones", "--aliases"];
        let mut options: Vec<String> = words.map(str::to_owned).into();
        options.push(aliases.to_str().unwrap().to_owned());
        if !smarthost.is_empty() {
            options.extend(["--smarthost", smarthost, "--smarthost-tls", "may"].map(str::to_owned));
        }
        RelayHost { directory, options }
    }

    fn with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.options.iter().map(String::as_str).chain(more.iter().copied()).collect()
    }

    fn start(&self, more: &[&str]) -> Server {
        self.directory.start(&self.with(more))
    }

    /// Runs a session of a client on standard input, with this address or an unknown one. Returns
    /// the replies.
    fn session(&self, address: Option<&str>, input: &str, more: &[&str]) -> String {
        inetd_session(&self.directory, address, input.as_bytes(), &self.with(more)).replies
    }

    /// Runs `mailslot queue`. Returns what it printed, and whether it succeeded.
    fn queue(&self, words: &[&str]) -> (String, bool) {
        let directory = self.directory.as_str();
        let words = [&["queue"], words, &["--sandbox", directory, "-q"]].concat();
        let mut command = mailslot(&words);
        let output = command.args(self.with(&[])).stderr(Stdio::null()).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }
}

/// Returns an address on which no server listens.
fn unused_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Returns the reply to RCPT.
fn rcpt(client: &mut Client, to: &str) -> (u16, String) {
    client.command("MAIL FROM:<smith@here.example>", 250);
    client.send(format!("RCPT TO:<{to}>\r\n").as_bytes());
    let reply = client.reply();
    client.command("RSET", 250);
    (reply.code, reply.lines.join("\n"))
}

#[test]
fn without_a_smarthost_nothing_is_relayed() {
    let host = RelayHost::new("");
    let server = host.start(&[]);
    let mut client = server.after_ehlo();
    let (code, text) = rcpt(&mut client, "postel@there.example");
    assert!(code == 550 && text.contains("5.7.1") && text.contains("--smarthost"), "{text}");
    let (code, text) = rcpt(&mut client, "postel@here.example");
    assert_eq!((code, text.contains("<postel@there.example>")), (551, true), "{text}");
    client.command("ETRN there.example", 502);
    let input = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<x@there.example>\r\nQUIT\r\n";
    let replies = host.session(Some("192.0.2.9"), input, &[]);
    assert!(replies.contains("\r\n550 5.7.1 ") && !replies.contains("smarthost"), "{replies}");
    assert_eq!(host.directory.queue(), [""; 0]);
}

#[test]
fn clients_that_may_relay() {
    let smarthost = unused_address();
    let host = RelayHost::new(&smarthost);
    let input = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<x@there.example>\r\nQUIT\r\n";
    let stranger = Some("192.0.2.9");
    for (client, more, code) in [
        (Some("127.0.0.1"), &[][..], 250),
        (Some("::1"), &[], 250),
        (stranger, &[], 550),
        (None, &[], 550),
        (stranger, &["--relay-from", "192.0.2.9"], 250),
        (stranger, &["--relay-from", "192.0.2.0/24"], 250),
        (stranger, &["--relay-from", "192.0.2.10", "--relay-from", "2001:db8::/32"], 550),
        (Some("2001:db8::9"), &["--relay-from", "2001:db8::/32"], 250),
        (Some("2001:db9::9"), &["--relay-from", "2001:db8::/32"], 550),
        (None, &["--relay-from", "0.0.0.0/0", "--relay-from", "::/0"], 550),
    ] {
        let replies = host.session(client, input, more);
        let reply = replies.lines().rev().nth(1).unwrap();
        assert!(reply.starts_with(&code.to_string()), "{client:?} {more:?}: {replies}");
    }
}

#[test]
fn remote_client_cannot_relay_any_form_of_address() {
    let smarthost = unused_address();
    let host = RelayHost::new(&smarthost);
    for from in ["<spam@evil.example>", "<>", "<smith@here.example>"] {
        for some in RELAY_ADDRESSES.chunks(4) {
            let mut input = "EHLO c\r\n".to_owned();
            for to in some {
                input += &format!("MAIL FROM:{from}\r\nRCPT TO:{to}\r\nDATA\r\nRSET\r\n");
            }
            let replies = host.session(Some("192.0.2.9"), &(input + "QUIT\r\n"), &[]);
            let codes: Vec<&str> = replies
                .lines()
                .filter(|line| line.as_bytes().get(3) == Some(&b' '))
                .map(|line| &line[..3])
                .skip(2)
                .collect();
            for (to, codes) in some.iter().zip(codes.chunks(4)) {
                assert!(["501", "550", "553", "555"].contains(&codes[1]), "{from} {to}: {replies}");
                assert!(["503", "554"].contains(&codes[2]), "{from} {to}: {replies}");
            }
        }
    }
    assert_eq!(host.directory.queue(), [""; 0]);
}

/// Forwarding, with or without the new address (RFC 821 3.2, example 2), and VRFY.
#[test]
fn alias_to_another_host_is_forwarded() {
    let smarthost = unused_address();
    let host = RelayHost::new(&smarthost);
    let server = host.start(&["--lmtp", "127.0.0.1:0"]);
    let mut client = server.after_ehlo();
    let (code, text) = rcpt(&mut client, "Postel@here.example");
    assert_eq!(
        (code, &*text),
        (251, "2.1.5 User not local; will forward to <postel@there.example>")
    );
    assert_eq!(rcpt(&mut client, "both@here.example").0, 250, "one of its mailboxes is local");
    assert_eq!(rcpt(&mut client, "postel@there.example").0, 250, "the sender knows the address");
    client.command("VRFY postel", 251);
    let input = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<postel@here.example>\r\nQUIT\r\n";
    for (address, more, code) in [
        ("127.0.0.1", &["--forward-replies", "off"][..], "250 2.1.5 RCPT"),
        ("127.0.0.1", &["--forward-replies", "on"], "251 2.1.5 User not local"),
        ("192.0.2.9", &["--forward-replies", "on"], "251 2.1.5 User not local"),
        ("192.0.2.9", &[], "250 2.1.5 RCPT"),
        ("192.0.2.9", &["--forward-replies", "off"], "250 2.1.5 RCPT"),
    ] {
        let replies = host.session(Some(address), input, more);
        assert!(replies.contains(&format!("\r\n{code}")), "{address} {more:?}: {replies}");
    }
    // A mail server that delivers by LMTP sends its other mail itself.
    let mut lmtp = Client::connect(server.lmtp().unwrap());
    lmtp.expect(220);
    let hello = lmtp.command("LHLO c", 250);
    assert!(!hello.lines.contains(&"ETRN".to_owned()));
    assert_eq!(rcpt(&mut lmtp, "postel@here.example").0, 251);
    assert_eq!(rcpt(&mut lmtp, "x@there.example").0, 550);
}

#[test]
fn etrn_is_for_local_clients() {
    let there = Server::start(&["--domain", "there.example"]);
    let address = there.address.to_string();
    let host = RelayHost::new(&address);
    // From a client that leaves delivery to the queue.
    let input = "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<postel@there.example>\r\nDATA\r\n\r\nx\r\n.\r\n\
        ETRN there.example\r\nQUIT\r\n";
    let replies = host.session(Some("127.0.0.1"), input, &[]);
    assert!(
        replies.contains("\r\n250-ETRN\r\n") && replies.contains("\r\n458 4.3.0 "),
        "{replies}"
    );
    let replies = host.session(Some("192.0.2.9"), "EHLO c\r\nETRN there.example\r\n", &[]);
    assert!(!replies.contains("250-ETRN") && replies.contains("\r\n502 5.5.1 "), "{replies}");
    let [id] = &host.directory.queue()[..] else { panic!("one entry") };
    // The entry is scheduled in an hour.
    let next = fs::metadata(host.directory.join("spool")).unwrap().modified().unwrap();
    let next = next.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3600;
    let state = format!("mailslot queue state 1\ntries 3\nnext {next}\ngone \nlast 450 busy\n");
    fs::write(host.directory.join(format!("spool/queue/{id}.state")), state).unwrap();
    let server = host.start(&[]);
    let mut client = server.after_ehlo();
    assert!(client.command("HELP ETRN", 214).lines[0].contains("ETRN @host.example"));
    client.command("TURN", 502);
    client.command("ETRN", 501);
    client.command("ETRN other.example", 250);
    client.command("ETRN @example", 250);
    server.wait_for_log("relay-sent");
    wait_until("the queue is empty", || host.directory.queue().is_empty());
    assert!(there.mailbox("postel").contains("\n\nx\n"));
}

/// Messages with both kinds of recipients, relayed by one mailslot to another.
#[test]
fn relayed_messages_are_unchanged() {
    let there = Server::start(&["--domain", "there.example"]);
    let address = there.address.to_string();
    let host = RelayHost::new(&address);
    let server = host.start(&[]);
    let mut messages = difficult_messages();
    // What RFC 5322 does not allow on the wire is converted.
    let is_valid = |line: &[u8]| line.len() <= 998 && !line.contains(&0);
    messages.retain(|message| message.split(|byte| *byte == b'\n').all(is_valid));
    assert!(messages.len() > 5);
    let mut client = server.after_ehlo();
    for message in &messages {
        client.command("MAIL FROM:<jones@here.example>", 250);
        client.command("RCPT TO:<both@here.example>", 250);
        client.command("RCPT TO:<mockapetris@there.example>", 250);
        client.command("DATA", 354);
        for line in message.split_inclusive(|byte| *byte == b'\n') {
            let dot: &[u8] = if line[0] == b'.' { b"." } else { b"" };
            client.send([dot, line.strip_suffix(b"\n").unwrap(), b"\r\n"].concat());
        }
        client.command(".", 250);
    }
    wait_until("the queue is empty", || host.directory.queue().is_empty());
    let texts = |mailbox: &Path| {
        let mails = mbox::read(mailbox);
        let begin = b"From: Smith <smith@example.org>\nSubject: hard ";
        let text = |mail: &mbox::Mail| {
            let bytes = mail.unquoted();
            let at = memchr::memmem::find(&bytes, begin).unwrap();
            bytes[at..].to_vec()
        };
        let mut texts: Vec<_> = mails.iter().map(text).collect();
        texts.sort();
        texts
    };
    let mut expected = messages.clone();
    expected.sort();
    for (who, mailbox) in [
        ("smith", server.mailbox_path("smith")),
        ("postel", there.mailbox_path("postel")),
        ("mockapetris", there.mailbox_path("mockapetris")),
    ] {
        assert!(texts(&mailbox) == expected, "{who}");
    }
    assert_eq!(server.mailbox("jones"), "", "nothing to report");
}

#[test]
fn queue_is_listed_flushed_and_dropped() {
    let smarthost = unused_address();
    let host = RelayHost::new(&smarthost);
    assert_eq!(host.queue(&[]), ("Mail queue is empty\n".to_owned(), true));
    let server = host.start(&[]);
    let mut client = server.after_ehlo();
    let to = ["a@there.example", "b@there.example"];
    client.deliver("smith@here.example", &to, "Subject: one\r\n\r\nFrom here\r\n", 250);
    client.deliver("", &to[..1], "Subject: two\r\n\r\nx\r\n", 250);
    server.wait_for_log("smarthost-unreachable");
    let (list, done) = host.queue(&[]);
    assert!(
        done && list.contains(" from=<smith@here.example>\n    to <a@there.example>\n"),
        "{list}"
    );
    assert!(list.contains(" from=<>\n") && list.contains("\n2 in the queue, "), "{list}");
    let [one, two] = &host.directory.queue()[..] else { panic!("{list}") };
    let (shown, done) = host.queue(&["show", one]);
    assert!(
        done && shown.starts_with(one) && shown.ends_with("Subject: one\n\nFrom here\n"),
        "{shown}"
    );
    assert_eq!(host.queue(&["drop", two]), (format!("{two} is removed\n"), true));
    for words in [&["show", two][..], &["drop", two], &["drop", "../x"]] {
        assert_eq!(host.queue(words), (String::new(), false), "{words:?}");
    }
    assert_eq!(host.queue(&["flush"]), ("1 left in the queue\n".to_owned(), false));
    drop(client);
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:?}");
    assert_eq!(host.queue(&["flush"]), ("1 left in the queue\n".to_owned(), false));
    // Without a server, through another smarthost.
    let there = ScriptedServer::start(|_, command| usual(command));
    let address = there.address.to_string();
    let reached =
        RelayHost { directory: host.directory.clone(), options: RelayHost::new(&address).options };
    assert_eq!(reached.queue(&["flush", one]), ("0 left in the queue\n".to_owned(), true));
    assert_eq!(there.commands_after(".").len(), 1);
    assert_eq!(host.directory.queue(), [""; 0]);
}
