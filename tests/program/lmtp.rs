//! LMTP in the real program: its addresses and options, and how it differs from SMTP.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::server::{PROGRAM, Server, mailslot};

#[test]
fn lmtp_on_a_unix_socket_with_a_mode() {
    let directory = TestDirectory::new();
    let path = directory.join("lmtp");
    let address = format!("unix:{},mode=660", path.display());
    let server = Server::start_in(directory, &["--lmtp", &address]);
    assert!(server.banner[0].contains(&format!("lmtp:{address}")), "{:?}", server.banner);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);

    let mut client = Client::new(UnixStream::connect(&path).unwrap());
    client.expect("220 localhost LMTP");
    client.command("EHLO client.example", 500);
    client.command("LHLO client.example", 250);
    client.command("MAIL FROM:<a@b>", 250);
    client.command("RCPT TO:<smith@b>", 250);
    client.command("RCPT TO:<jones@b>", 250);
    client.command("DATA", 354);
    client.send("Subject: hello\r\n\r\nHello.\r\n.\r\n");
    client.expect("250 2.6.0");
    client.expect("250 2.6.0");
    client.command("QUIT", 221);
    client.expect_end();
    for user in ["smith", "jones"] {
        let text = server.mailbox(user);
        assert!(
            text.contains("Received: from client.example (local)\n\tby localhost with LMTP id")
        );
        assert!(!text.contains("\n\tfor "), "names another recipient: {text}");
    }
    // SMTP is served beside it.
    let mut client = server.greeted();
    client.command("LHLO client.example", 502);
    client.command("EHLO client.example", 250);
}

#[test]
fn lmtp_on_a_tcp_port() {
    let server = Server::start(&["--lmtp", "127.0.0.1:0"]);
    let mut client = Client::connect(server.lmtp().unwrap());
    client.expect(220);
    let lhlo = client.command("LHLO client.example", 250);
    assert!(!lhlo.lines.iter().any(|line| line == "DSN" || line == "PRDR"), "{lhlo:?}");
    client.command("MAIL FROM:<a@b> RET=HDRS", 555);
}

#[test]
fn lmtp_on_port_25_is_refused() {
    let said = mailslot(&["--lmtp", "127.0.0.1:25"]).output().unwrap();
    assert_eq!(said.status.code(), Some(64), "{PROGRAM}");
    let text = String::from_utf8(said.stderr).unwrap();
    let expected = "--lmtp \"127.0.0.1:25\": expected unix:PATH, or a port other than SMTP's 25\n";
    assert!(text.contains(expected), "{text}");
}
