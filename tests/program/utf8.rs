//! SMTPUTF8 in the real program: users and domains in UTF-8, and what is delivered.

use std::fs;

use crate::harness::server::Server;

#[test]
fn mailbox_with_a_utf8_name() {
    let server = Server::start(&["--hostname", "b\u{fc}cher.example"]);
    let mut client = server.greeted();
    let ehlo = client.command("EHLO client.example", 250);
    assert_eq!(ehlo.lines[0], "xn--bcher-kva.example greets client.example");
    assert!(ehlo.lines.iter().any(|line| line == "SMTPUTF8"), "{ehlo:?}");
    client.command("MAIL FROM:<s\u{f8}ren@alph\u{e4}.example> SMTPUTF8", 250);
    client.command("RCPT TO:<J\u{dc}RGEN@B\u{fc}cher.example>", 250);
    client.command("DATA", 354);
    client.send("Subject: Gr\u{fc}\u{df}e\r\n\r\nHallo!\r\n".as_bytes());
    client.command(".", 250);
    // Invisible characters cannot be part of a file name.
    client.command("MAIL FROM:<a@b> SMTPUTF8", 250);
    for hidden in ["a\u{200b}", "\u{202e}a", "a\u{a0}b", "\u{feff}"] {
        client.command(&format!("RCPT TO:<{hidden}@b>"), 553);
    }

    let mailbox = server.join("mail").join("j\u{fc}rgen");
    let text = fs::read_to_string(mailbox).unwrap();
    for line in [
        "From s--ren@alph--.example ",
        "\nReturn-Path: <s\u{f8}ren@alph\u{e4}.example>\n",
        "\nDelivered-To: j\u{fc}rgen@xn--bcher-kva.example\n",
        "\n\tby xn--bcher-kva.example with UTF8SMTP id ",
        "\n\tfor <J\u{dc}RGEN@B\u{fc}cher.example>; ",
        "\nSubject: Gr\u{fc}\u{df}e\n\nHallo!\n",
    ] {
        assert!(text.contains(line), "{line:?} in {text}");
    }
}

#[test]
fn users_and_domains_configured_in_utf8() {
    let options = ["--user", "j\u{fc}rgen", "--domain", "b\u{fc}cher.example"];
    let server = Server::start(&options);
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<a@b> SMTPUTF8", 250);
    for (to, code) in [
        ("j\u{fc}rgen@b\u{fc}cher.example", 250),
        ("J\u{dc}RGEN@xn--bcher-kva.example", 250),
        ("j\u{fc}rgen@XN--BCHER-KVA.example", 250),
        ("jurgen@b\u{fc}cher.example", 550),
        ("j\u{fc}rgen@bucher.example", 550),
    ] {
        client.command(&format!("RCPT TO:<{to}>"), code);
    }
}
