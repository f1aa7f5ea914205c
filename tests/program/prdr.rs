//! PRDR in the real program: the reply for all recipients, and the recipients in a report.

use std::fs;

use crate::harness::server::Server;

const TEXT: &str = "Subject: hello\r\n\r\nHello.\r\n";

/// The reply for all must not make a client give up recipients that may get the message later.
#[test]
fn reply_for_all_recipients() {
    let server = Server::start(&["--mailbox-limit", "700", "--hold", "off"]);
    let mut client = server.after_ehlo();
    let large = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(200));
    client.deliver("a@b", &["full@b"], &large, 250);
    client.deliver("a@b", &["full2@b"], &large, 250);
    let mail = server.join("mail");
    let mut deliver = |to: &[&str], broken: &str, codes: &[u16]| {
        client.command("MAIL FROM:<a@b> PRDR", 250);
        to.iter().for_each(|to| drop(client.command(&format!("RCPT TO:<{to}@b>"), 250)));
        let _ = fs::create_dir(mail.join(broken));
        client.command("DATA", 354);
        client.send(large.as_bytes());
        client.command(".", 353);
        codes.iter().for_each(|code| drop(client.expect(*code)));
    };
    deliver(&["one", "two"], "unused", &[250, 250, 250]);
    deliver(&["full", "three"], "unused", &[552, 250, 250]);
    deliver(&["full", "broken"], "broken", &[552, 451, 451]);
    deliver(&["full", "full2"], "unused", &[552, 552, 554]);
}

#[test]
fn report_names_delivered_recipients_only() {
    let server = Server::start(&["--hold", "off"]);
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<alan@b> PRDR", 250);
    for name in ["broken", "smith", "brown"] {
        client.command(&format!("RCPT TO:<{name}@b> NOTIFY=SUCCESS"), 250);
    }
    fs::create_dir(server.join("mail/broken")).unwrap();
    client.command("DATA", 354);
    client.send(TEXT.as_bytes());
    client.command(".", 353);
    [451, 250, 250, 250].iter().for_each(|code| drop(client.expect(*code)));
    client.deliver("", &["probe@b"], TEXT, 250);
    let report = server.mailbox("alan");
    assert_eq!(report.matches("Final-Recipient: ").count(), 2, "{report}");
    assert!(!report.contains("broken"), "{report}");
}
