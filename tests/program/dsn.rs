//! Delivery reports: a local sender who asks for one gets it, no other sender does, and clients of
//! other hosts are not offered DSN.

use mailslot::message::peer::Peer;

use crate::harness::client::{Client, codes};
use crate::harness::library::{MailStore, remote_peer, run_session};
use crate::harness::server::Server;

const MESSAGE: &str = "Subject: hello\r\n\tagain\r\nX-Mozilla-Status: 1\r\n\r\nHello.\r\n";

/// Sends [`MESSAGE`]. `mail` and `rcpts` are whole commands.
fn send(client: &mut Client, mail: &str, rcpts: &[&str]) {
    client.command(mail, 250);
    for rcpt in rcpts {
        client.command(rcpt, 250);
    }
    client.command("DATA", 354);
    client.send(MESSAGE.as_bytes());
    client.command(".", 250);
}

/// Returns the report in the mailbox of `user`. The writer got it before the message was answered,
/// so it is delivered before a later message.
fn report(server: &Server, client: &mut Client, user: &str) -> String {
    send(client, "MAIL FROM:<>", &["RCPT TO:<probe@beta.arpa>"]);
    server.mailbox(user)
}

/// Returns a report with its id and times replaced.
fn with_fixed_id_and_times(text: &str, id: &str) -> String {
    let mut text = text.replace(id, "ID");
    for field in ["\nDate: ", "\nArrival-Date: "] {
        let (_, after) = text.split_once(field).unwrap();
        let date = after.lines().next().unwrap().to_owned();
        text = text.replace(&date, "DATE");
    }
    let (from, rest) = text.split_once('\n').unwrap();
    assert!(from.starts_with("From MAILER-DAEMON "), "{from}");
    rest.to_owned()
}

#[test]
fn success_report_to_a_local_sender() {
    let server = Server::start(&["--hostname", "beta.arpa"]);
    let mut client = server.after_ehlo();
    let rcpts = [
        "RCPT TO:<jones@beta.arpa> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;J+2BJ@Beta.ARPA",
        "RCPT TO:<brown@beta.arpa> NOTIFY=FAILURE",
        "RCPT TO:<\"green\"@beta.arpa> NOTIFY=SUCCESS",
        "RCPT TO:<smith@beta.arpa>",
    ];
    client.command("MAIL FROM:<alan@beta.arpa> ENVID=QQ+2B1 RET=FULL", 250);
    rcpts.iter().for_each(|rcpt| drop(client.command(rcpt, 250)));
    client.command("DATA", 354);
    client.send(MESSAGE.as_bytes());
    let reply = client.command(".", 250);
    let id = reply.lines[0].rsplit(' ').next().unwrap().to_owned();

    let report = report(&server, &mut client, "alan");
    let expected = "\
Return-Path: <>
Delivered-To: alan@beta.arpa
Received: by beta.arpa id ID-r;
\tDATE
From: Mail Delivery System <MAILER-DAEMON@beta.arpa>
To: <alan@beta.arpa>
Subject: Delivered: hello again
Date: DATE
Message-ID: <ID-r@beta.arpa>
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
\tboundary=\"=_ID-r\"

--=_ID-r
Content-Type: text/plain; charset=utf-8

Your message has been delivered to the mailboxes of

    <jones@beta.arpa>
    <green@beta.arpa>

The mail system at beta.arpa sends this notice because it was requested.
It does not show whether the message has been read.

--=_ID-r
Content-Type: message/delivery-status

Reporting-MTA: dns;beta.arpa
Original-Envelope-Id: QQ+1
Arrival-Date: DATE

Original-Recipient: rfc822;J+J@Beta.ARPA
Final-Recipient: rfc822;jones@beta.arpa
Action: delivered
Status: 2.0.0

Final-Recipient: rfc822;green@beta.arpa
Action: delivered
Status: 2.0.0

--=_ID-r
Content-Type: text/rfc822-headers

Received: from client.example ([127.0.0.1])
\tby beta.arpa with ESMTP id ID;
\tDATE
Subject: hello
\tagain

--=_ID-r--

";
    assert_eq!(with_fixed_id_and_times(&report, &id), expected);
}

#[test]
fn report_with_utf8_is_global() {
    let server = Server::start(&["--hostname", "beta"]);
    let mut client = server.after_ehlo();
    let rcpt = "RCPT TO:<j\u{fc}rgen@beta> NOTIFY=SUCCESS ORCPT=utf-8;J\u{fc}rgen@beta";
    client.command("MAIL FROM:<s\u{f8}ren@beta> SMTPUTF8", 250);
    client.command(rcpt, 250);
    client.command("DATA", 354);
    client.send("Subject: Gr\u{fc}\u{df}e\r\n\r\nHallo.\r\n".as_bytes());
    client.command(".", 250);
    let report = report(&server, &mut client, "s\u{f8}ren");
    for text in [
        "To: <s\u{f8}ren@beta>\n",
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n",
        "Content-Type: message/global-delivery-status\nContent-Transfer-Encoding: 8bit\n\n",
        "Reporting-MTA: x-local-hostname;beta\nArrival-Date: ",
        "Original-Recipient: utf-8;J\u{fc}rgen@beta\nFinal-Recipient: utf-8;j\u{fc}rgen@beta\n",
        "Content-Type: message/global-headers\nContent-Transfer-Encoding: 8bit\n\nReceived: ",
        "\nSubject: Gr\u{fc}\u{df}e\n\n--=_",
    ] {
        assert!(report.contains(text), "{text:?} in {report}");
    }
}

/// Postfix 3.7 puts UTF-8 into the xtext of the type rfc822. The report names the true type (RFC
/// 6533 3), in ASCII.
#[test]
fn utf8_in_orcpt_of_postfix() {
    let server = Server::start(&["--hostname", "beta"]);
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<alan@beta>", 250);
    client.command("RCPT TO:<jones@beta> NOTIFY=SUCCESS ORCPT=rfc822;j+C3+BCrgen@beta", 250);
    client.command("DATA", 354);
    client.command("Hello.\r\n.", 250);
    let report = report(&server, &mut client, "alan");
    let fields =
        "Original-Recipient: utf-8;j\\x{FC}rgen@beta\nFinal-Recipient: rfc822;jones@beta\n";
    assert!(report.contains(fields), "{report}");
    assert!(report.contains("Content-Type: message/delivery-status\n"), "{report}");
}

/// The message waits in a file, and its header is longer than what a report returns.
#[test]
fn long_header_is_cut_at_a_line() {
    let server = Server::start(&[]);
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<alan@b>", 250);
    client.command("RCPT TO:<jones@b> NOTIFY=SUCCESS", 250);
    client.command("DATA", 354);
    let field = format!("X-Long: {}\r\n", "x".repeat(500));
    client.send(field.repeat(1000).as_bytes());
    client.command(".", 250);
    let report = report(&server, &mut client, "alan");
    assert!(report.len() < 20_000);
    assert_eq!(report.matches("\nX-Long: ").count(), 31);
    assert!(report.contains("xxx\n\n--=_"), "{}", &report[report.len() - 200..]);
}

#[test]
fn other_senders_get_no_report() {
    let server = Server::start(&["--domain", "beta.arpa"]);
    let mut client = server.after_ehlo();
    let to = "RCPT TO:<jones@beta.arpa>";
    send(&mut client, "MAIL FROM:<none@beta.arpa>", &[to]);
    let rcpt = |notify: &str| format!("{to} NOTIFY={notify}");
    send(&mut client, "MAIL FROM:<none@beta.arpa>", &[&rcpt("NEVER"), &rcpt("FAILURE,DELAY")]);
    send(&mut client, "MAIL FROM:<>", &[&rcpt("SUCCESS")]);
    send(&mut client, "MAIL FROM:<alan@elsewhere.example>", &[&rcpt("SUCCESS")]);
    server.wait_for_log("dsn-suppressed");
    // A message that is refused is not reported. The reply says so.
    client.command("MAIL FROM:<none@beta.arpa>", 250);
    client.command(&rcpt("SUCCESS"), 250);
    client.command("DATA", 354);
    client.send(b"a\nb\r\n");
    client.command(".", 554);
    send(&mut client, "MAIL FROM:<last@beta.arpa>", &[&rcpt("SUCCESS")]);
    report(&server, &mut client, "last");
    assert_eq!(server.mailboxes(), ["jones", "last", "probe"]);
}

#[test]
fn dsn_is_not_offered_to_remote_clients() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let text =
        b"EHLO c\r\nMAIL FROM:<a@b> RET=FULL\r\nMAIL FROM:<a@b> ENVID=x\r\nMAIL FROM:<a@b>\r\n\
        RCPT TO:<smith@b> NOTIFY=SUCCESS\r\nRCPT TO:<smith@b> ORCPT=rfc822;a\r\nQUIT\r\n";
    let (_, replies) = run_session(&sessions, remote_peer(1), text);
    assert_eq!(codes(&replies), ["220", "250", "555", "555", "250", "555", "555", "221"]);
    assert!(!replies.contains("DSN"), "{replies}");
    let (_, replies) = run_session(&sessions, Peer::Unix, text);
    assert_eq!(codes(&replies), ["220", "250", "250", "503", "503", "250", "250", "221"]);
    assert!(replies.contains("250-DSN\r\n"), "{replies}");
}
