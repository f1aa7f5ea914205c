//! Mail servers of other projects that relay to the real program: Postfix and Exim, by SMTP and by
//! LMTP, inside TLS, with the extensions that they support. Their logs show the dialogue.

use std::fs;

use nix::fcntl::{Flock, FlockArg};

use crate::harness::directory::TestDirectory;
use crate::harness::mail_servers::{
    Exim, Postfix, contributed, contributed_option, open_directory,
};
use crate::harness::server::Server;
use crate::harness::tls::TestCertificate;
use crate::harness::{mbox, wait_until};

/// Starts mailslot with a certificate, for some users. The mailbox of full has reached the limit,
/// and that of small almost.
fn serve(directory: &TestDirectory, options: &[&str]) -> Server {
    let certificate = TestCertificate::new(directory.path(), "a");
    let (cert, key) = (certificate.cert.to_str().unwrap(), certificate.key.to_str().unwrap());
    let mail = directory.join("mail");
    fs::create_dir(&mail).unwrap();
    for (name, length) in [("full", LIMIT), ("small", LIMIT - 400)] {
        let from = "From a@b Tue Nov  3 08:52:37 2026\n\n";
        let text = format!("{from}{}\n\n", "x".repeat(length - from.len() - 2));
        fs::write(mail.join(name), text).unwrap();
    }
    fs::write(mail.join("brown"), "").unwrap();
    let limit = LIMIT.to_string();
    let mut all = vec!["--tls-cert", cert, "--tls-key", key, "--mailbox-limit", &limit];
    all.extend(["--hold", "off"]);
    for user in ["smith", "jones", "brown", "full", "small", "j\u{fc}rgen"] {
        all.extend(["-u", user]);
    }
    all.extend(options);
    Server::start_in(directory.clone(), &all)
}

/// Returns the text of the last message in a mailbox.
fn last(server: &Server, user: &str) -> String {
    let mails = mbox::read(&server.mailbox_path(user));
    mails.last().map_or(String::new(), |mail| String::from_utf8_lossy(&mail.text).into_owned())
}

/// Waits for a message with these words, and returns it with line ends within paragraphs replaced
/// by spaces.
fn with_words(server: &Server, user: &str, words: &str) -> String {
    let mut found = String::new();
    wait_until(words, || {
        let mails = mbox::read(&server.mailbox_path(user));
        let texts = mails.iter().map(|mail| String::from_utf8_lossy(&mail.text).into_owned());
        let text = texts.map(|text| text.replace("\n    ", " ")).find(|text| text.contains(words));
        found = text.unwrap_or_default();
        !found.is_empty()
    });
    found
}

/// Asserts that all of `wanted` are in `text`, in this order.
fn assert_in_order(text: &str, wanted: &[&str]) {
    let mut rest = text;
    for wanted in wanted {
        let Some(at) = rest.find(wanted) else { panic!("no {wanted:?} in\n{rest}\nof\n{text}") };
        rest = &rest[at + wanted.len()..];
    }
}

/// Sends a message of smith to Postfix: with parameters of MAIL, recipients with parameters of
/// their own, and text.
fn submit(postfix: &Postfix, parameters: &str, to: &[&str], text: &str) {
    let mut client = postfix.after_ehlo();
    client.command(&format!("MAIL FROM:<smith@mail.example>{parameters}"), 250);
    for to in to {
        client.command(&format!("RCPT TO:{to}"), 250);
    }
    client.command("DATA", 354);
    client.send(text.replace("\r\n.", "\r\n..").as_bytes());
    client.command(".", 250);
    client.command("QUIT", 221);
}

/// lmtp(8) with the recommended settings, over a Unix socket and over TCP.
#[test]
#[ignore = "needs root and postfix"]
fn postfix_delivers_by_lmtp() {
    for tcp in [false, true] {
        let directory = open_directory();
        let mut postfix = Postfix::prepare(&directory);
        let spool = postfix.spool();
        let spool = spool.to_str().unwrap();
        let option = replace(&contributed_option("postfix-main.cf"), "/var/spool/postfix", spool);
        let place = if tcp { "127.0.0.1:0" } else { &option };
        let server = serve(&directory, &["--lmtp", place, "--lock-timeout", "1"]);
        let mut settings = contributed("postfix-main.cf");
        let cert = directory.join("a-cert.pem");
        settings += &format!("lmtp_tls_CAfile = {}\nlmtp_tls_loglevel = 1\n", cert.display());
        settings += "lmtp_tls_secure_cert_match = here.example\nlmtp_tls_security_level = secure\n";
        if let Some(address) = server.lmtp() {
            let place = format!("lmtp:inet:{address}");
            settings = settings.replace("lmtp:unix:private/mailslot", &place);
        }
        postfix.start(&settings);

        // Postfix itself refuses unknown users.
        let mut client = postfix.after_ehlo();
        client.command("MAIL FROM:<smith@mail.example>", 250);
        client.command("RCPT TO:<nobody-knows@mail.example>", 550);
        client.command("QUIT", 221);

        // A mail reader has locked the mailbox of brown.
        let brown = fs::File::open(server.mailbox_path("brown")).unwrap();
        let reading = Flock::lock(brown, FlockArg::LockExclusive).unwrap();
        let users = ["jones", "brown", "full", "small", "ghost"];
        let mut to = users.map(|user| format!("<{user}@mail.example>"));
        to[0] += " NOTIFY=SUCCESS";
        let text = format!("Subject: for five\r\n\r\n{}\r\n.dot\r\n", "x".repeat(500));
        submit(&postfix, "", &to.each_ref().map(String::as_str), &text);
        for (user, status, why) in [
            ("jones", "dsn=2.6.0, status=sent", "250 2.6.0 Message: OK, delivered as "),
            ("brown", "dsn=4.2.0, status=deferred", "(in reply to end of DATA command)"),
            ("full", "dsn=5.2.2, status=bounced", "(in reply to RCPT TO command)"),
            ("small", "dsn=5.2.2, status=bounced", "(in reply to end of DATA command)"),
            ("ghost", "dsn=5.1.1, status=bounced", "(in reply to RCPT TO command)"),
        ] {
            assert_in_order(
                &postfix.delivery_status(&format!("{user}@mail.example")),
                &[status, why],
            );
        }
        drop(reading);
        let bounce = with_words(&server, "smith", "Undelivered Mail Returned to Sender");
        for (user, status) in [("full", "5.2.2"), ("small", "5.2.2"), ("ghost", "5.1.1")] {
            let recipient = format!("Final-Recipient: rfc822; {user}@mail.example\n");
            assert_in_order(&bounce, &[&recipient, &format!("Status: {status}\n")]);
        }
        assert!(!bounce.contains("jones") && !bounce.contains("brown"), "{bounce}");
        // LMTP does not offer DSN, so Postfix reports the delivery.
        with_words(&server, "smith", "Successful Mail Delivery Report");
        assert!(last(&server, "jones").ends_with(&format!("\n\n{}\n.dot\n", "x".repeat(500))));

        // UTF-8 in the header.
        let utf8 = "From: Smith <smith@mail.example>\r\nSubject: Gr\u{fc}\u{df}e\r\n\r\nhello\r\n";
        submit(&postfix, " SMTPUTF8 BODY=8BITMIME", &["<jones@mail.example>"], utf8);
        let received = with_words(&server, "jones", "Gr\u{fc}\u{df}e");
        assert!(received.contains(" with UTF8LMTPS (using TLSv1.3 with cipher "), "{received}");

        let log = postfix.log();
        assert_in_order(&log, &["Verified TLS connection established to", "Using LMTP PIPELINING"]);
        assert_in_order(&log, &["got 1 of 3 end-of-data", "got 2 of 3", "got 3 of 3"]);
        assert!(log.contains("SMTPUTF8\n"), "{log}");
        assert!(log.lines().any(|line| line.contains(": > ") && line.contains(": LHLO")), "{log}");
    }
}

/// smtp(8) as the relay of a host: by STARTTLS, and with implicit TLS.
#[test]
#[ignore = "needs root and postfix"]
fn postfix_relays_by_smtp() {
    for wrapped in [false, true] {
        let directory = open_directory();
        let mut postfix = Postfix::prepare(&directory);
        let server = serve(&directory, &["--listen", "tls:127.0.0.1:0"]);
        let (port, wrap) = match wrapped {
            false => (server.address.port(), "no"),
            true => (server.implicit_tls().unwrap().port(), "yes"),
        };
        postfix.start(&format!(
            "mydestination =\nrelayhost = [127.0.0.1]:{port}\nsmtp_tls_wrappermode = {wrap}\n\
             smtp_tls_CAfile = {}\nsmtp_tls_security_level = secure\nsmtp_tls_loglevel = 1\n\
             smtp_tls_secure_cert_match = here.example\n",
            directory.join("a-cert.pem").display()
        ));

        // 8BITMIME and DSN.
        let eight = "Subject: eight bits\r\n\r\nGr\u{fc}\u{df}e\r\n.\r\n..\r\n";
        submit(
            &postfix,
            " BODY=8BITMIME ENVID=QQ+2B314159 RET=HDRS",
            &["<jones@here.example> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first@here.example"],
            eight,
        );
        let status = postfix.delivery_status("jones@here.example");
        assert!(status.contains("dsn=2.6.0, status=sent (250 2.6.0 "), "{status}");
        let arrived = last(&server, "jones");
        assert!(arrived.contains(" with ESMTPS (using TLSv1.3 with cipher TLS_"), "{arrived}");
        assert!(arrived.ends_with("\n\nGr\u{fc}\u{df}e\n.\n..\n"), "{arrived}");
        let report = with_words(&server, "smith", "Original-Envelope-Id: QQ+314159\n");
        let wanted = ["Original-Recipient: rfc822;first@here.example\n", "Action: delivered\n"];
        assert_in_order(&report, &wanted);

        // SMTPUTF8, for a mailbox with a name in UTF-8.
        submit(
            &postfix,
            " SMTPUTF8",
            &["<j\u{fc}rgen@here.example> NOTIFY=SUCCESS"],
            "Subject: utf-8\r\n\r\nhello\r\n",
        );
        let status = postfix.delivery_status("j\u{fc}rgen@here.example");
        assert!(status.contains("status=sent"), "{status}\n{}", postfix.log());
        let arrived = last(&server, "j\u{fc}rgen");
        assert!(arrived.contains(" with UTF8SMTPS (using TLSv1.3 with"), "{arrived}");
        with_words(&server, "smith", r"Original-Recipient: utf-8;j\x{FC}rgen@here.example");

        // A large message that is refused at RCPT, refused at its end, and accepted.
        let line = "a line of text that is repeated, again and again\r\n.\r\n";
        let large = format!("Subject: large\r\n\r\n{}", line.repeat(30_000));
        let users = ["brown", "full", "ghost"].map(|user| format!("<{user}@here.example>"));
        submit(&postfix, "", &users.each_ref().map(String::as_str), &large);
        submit(&postfix, "", &["<small@here.example>"], &large);
        for (user, status, why) in [
            ("brown", "dsn=2.6.0, status=sent", "250 2.6.0 Message: OK, delivered as "),
            ("full", "dsn=5.2.2, status=bounced", "(in reply to RCPT TO command)"),
            ("ghost", "dsn=5.1.1, status=bounced", "(in reply to RCPT TO command)"),
            ("small", "dsn=5.2.2, status=bounced", "(in reply to end of DATA command)"),
        ] {
            assert_in_order(
                &postfix.delivery_status(&format!("{user}@here.example")),
                &[status, why],
            );
        }
        let arrived = last(&server, "brown");
        let (_, text) = arrived.split_once("\n\n").unwrap();
        let sent = line.repeat(30_000).replace("\r\n", "\n");
        mbox::assert_same(text.as_bytes(), sent.as_bytes(), "large");
        with_words(&server, "smith", "Final-Recipient: rfc822; small@here.example");

        let log = postfix.log();
        let dialogue: String = log.lines().filter(|line| line.contains(": > ")).collect();
        for word in [
            " BODY=8BITMIME ENVID=QQ+2B314159 RET=HDRS",
            " ORCPT=rfc822;first@here.example NOTIFY=SUCCESS,FAILURE",
            " SMTPUTF8",
        ] {
            assert!(dialogue.contains(word), "{word}: {log}");
        }
        assert_eq!(dialogue.contains(": STARTTLS"), !wrapped, "{dialogue}");
        assert!(log.contains("Verified TLS connection established to 127.0.0.1"), "{log}");
        assert!(log.contains("Using ESMTP PIPELINING"), "{log}");
    }
}

/// The smtp transport of Exim: PRDR, CHUNKING, SMTPUTF8 and DSN, by STARTTLS and with implicit TLS.
#[test]
#[ignore = "needs root, apt-get and the network"]
fn exim_relays_by_smtp() {
    let directory = open_directory();
    let exim = Exim::fetch(&directory);
    let server = serve(&directory, &["--listen", "tls:127.0.0.1:0", "--lock-timeout", "1"]);
    for wrapped in [false, true] {
        let (port, protocol) = match wrapped {
            false => (server.address.port(), "smtp"),
            true => (server.implicit_tls().unwrap().port(), "smtps"),
        };
        let envid = format!("QQ{port}");
        let router = "all:\n  driver = accept\n  transport = out\n";
        let transport = format!(
            "out:\n  driver = smtp\n  protocol = {protocol}\n  hosts = 127.0.0.1\n\
             \x20 port = {port}\n  hosts_override\n  allow_localhost\n  multi_domain\n\
             \x20 hosts_require_tls = *\n  tls_verify_hosts = *\n  tls_verify_cert_hostnames =\n\
             \x20 tls_verify_certificates = {}\n  hosts_require_dane =\n  hosts_try_dane =\n",
            directory.join("a-cert.pem").display()
        );
        let line = "a line of text that is repeated, again and again\r\n..\r\n";
        let text = format!("Subject: large\r\n\r\n{}", line.repeat(10_000));
        let dialogue = format!(
            "EHLO client.example\r\nMAIL FROM:<smith@mail.example> RET=HDRS ENVID={envid}\r\n\
             RCPT TO:<jones@here.example> NOTIFY=SUCCESS ORCPT=rfc822;first@here.example\r\n\
             RCPT TO:<small@here.example>\r\nRCPT TO:<brown@here.example>\r\n\
             RCPT TO:<full@here.example>\r\nRCPT TO:<ghost@here.example>\r\n\
             DATA\r\n{text}.\r\nQUIT\r\n"
        );
        let brown = fs::File::open(server.mailbox_path("brown")).unwrap();
        let reading = Flock::lock(brown, FlockArg::LockExclusive).unwrap();
        let wire = exim.relay(router, &transport, &dialogue);
        drop(reading);
        let pipelined = [
            "\n  SMTP|> MAIL FROM:<smith@mail.example> SIZE=",
            &format!(" PRDR RET=HDRS ENVID={envid}\n"),
            "RCPT TO:<jones@here.example> NOTIFY=SUCCESS ORCPT=rfc822;first@here.example\n",
            "\n  SMTP+> BDAT 3",
            "\n  SMTP<< 250 2.1.0 MAIL",
            "\n  SMTP<< 552 5.2.2 RCPT TO:<full@here.example>: ",
            "\n  SMTP<< 550 5.1.1 RCPT TO:<ghost@here.example>: ",
            "\n  SMTP<< 250 2.0.0 BDAT: 3",
            "\n  SMTP+> BDAT 530000 LAST\n",
            "\n  SMTP<< 353 ",
            "\n  SMTP<< 250 2.6.0 ",
            "\n  SMTP<< 552 5.2.2 ",
            "\n  SMTP<< 451 4.2.0 ",
            "\n  SMTP<< 250 2.6.0 Message: OK, delivered to some",
        ];
        assert_in_order(&wire, &pipelined);
        assert_eq!(wire.contains("SMTP>> STARTTLS"), !wrapped, "{wire}");
        // L is PIPELINING, K is CHUNKING.
        let delivered = [" X=TLS1.3:", " CV=yes ", " L PRDR K C=\"250 2.6.0 "];
        assert_in_order(&exim.delivery_status("=>", "jones@here.example"), &delivered);
        let why = "PRDR error after BDAT 530000 LAST: 552 5.2.2 ";
        assert!(exim.delivery_status("**", "small@here.example").contains(why));
        let why = "PRDR error after BDAT 530000 LAST: 451 4.2.0 ";
        assert!(exim.delivery_status("==", "brown@here.example").contains(why));
        for user in ["full", "ghost"] {
            let recipient = format!("{user}@here.example");
            let why = format!("after RCPT TO:<{recipient}>: 55");
            assert!(exim.delivery_status("**", &recipient).contains(&why));
        }
        let arrived = last(&server, "jones");
        assert!(arrived.contains(" with ESMTPS (using TLSv1.3 with cipher TLS_"), "{arrived}");
        let sent = line.repeat(10_000).replace("\r\n..", "\r\n.").replace("\r\n", "\n");
        let (_, text) = arrived.split_once("\n\n").unwrap();
        mbox::assert_same(text.as_bytes(), sent.as_bytes(), "large");
        let report = with_words(&server, "smith", &format!("Original-Envelope-Id: {envid}\n"));
        let wanted = ["Original-Recipient: rfc822;first@here.example\n", "Action: delivered\n"];
        assert_in_order(&report, &wanted);
        with_words(&server, "smith", "Mail delivery failed: returning message to sender");

        let dialogue = "EHLO client.example\r\nMAIL FROM:<smith@mail.example> SMTPUTF8\r\n\
                    RCPT TO:<j\u{fc}rgen@here.example> NOTIFY=SUCCESS\r\nDATA\r\n\
                    Subject: utf-8\r\n\r\nhello\r\n.\r\nQUIT\r\n";
        let wire = exim.relay(router, &transport, dialogue);
        let wanted =
            [" SMTPUTF8\n", " RCPT TO:<j\u{fc}rgen@here.example> NOTIFY=SUCCESS", " LAST\n"];
        assert_in_order(&wire, &wanted);
        assert_in_order(
            &exim.delivery_status("=>", "j\u{fc}rgen@here.example"),
            &[" K C=\"250 2.6.0 "],
        );
        let arrived = last(&server, "j\u{fc}rgen");
        assert!(arrived.contains(" with UTF8SMTPS (using TLSv1.3 with"), "{arrived}");
        exim.clear();
    }
}

/// Exim with the recommended settings: its lmtp transport over a Unix socket, and its smtp
/// transport with `protocol = lmtp`, inside TLS.
#[test]
#[ignore = "needs root, apt-get and the network"]
fn exim_delivers_by_lmtp() {
    let directory = open_directory();
    let exim = Exim::fetch(&directory);
    let spool = exim.spool();
    let spool = spool.to_str().unwrap();
    let option = replace(&contributed_option("exim.conf"), "/var/spool/exim4", spool);
    let server =
        serve(&directory, &["--lmtp", &option, "--lmtp", "127.0.0.1:0", "--lock-timeout", "1"]);
    let settings = contributed("exim.conf");
    let [router, by_socket, by_tcp]: [&str; 3] =
        settings.trim().split("\n\n").collect::<Vec<_>>().try_into().unwrap();
    let by_socket = replace(by_socket, "/var/spool/exim4", spool);
    let address = server.lmtp().unwrap();
    let by_tcp = replace(by_tcp, "= mailbox.example.net", "= 127.0.0.1");
    let by_tcp = replace(&by_tcp, "port = 24", &format!("port = {}", address.port()));
    let by_tcp = format!(
        "{by_tcp}\n  allow_localhost\n  tls_verify_hosts = *\n  tls_verify_cert_hostnames =\n\
         \x20 tls_verify_certificates = {}\n",
        directory.join("a-cert.pem").display()
    );
    for tcp in [false, true] {
        let (router, transport) = match tcp {
            false => (router.to_owned(), &by_socket),
            true => {
                (replace(router, "transport = mailslot", "transport = mailslot_elsewhere"), &by_tcp)
            }
        };
        let brown = fs::File::open(server.mailbox_path("brown")).unwrap();
        let reading = Flock::lock(brown, FlockArg::LockExclusive).unwrap();
        let users = ["jones", "brown", "full", "small", "ghost"];
        let to = users.map(|user| format!("RCPT TO:<{user}@mail.example>\r\n")).concat();
        let dialogue = format!(
            "EHLO client.example\r\nMAIL FROM:<smith@mail.example>\r\n{to}DATA\r\n\
             Subject: for five\r\n\r\n{}\r\n.\r\nQUIT\r\n",
            "x".repeat(500)
        );
        let wire = exim.relay(&router, transport, &dialogue);
        drop(reading);
        // One transaction with a reply for each recipient.
        let replies = ["<< 250 2.6.0 ", "<< 451 4.2.0 ", "<< 552 5.2.2 ", "<< 221 "];
        match tcp {
            false => assert_in_order(&wire, &["  LMTP>> LHLO ", "  LMTP>> DATA"]),
            true => assert_in_order(&wire, &["SMTP>> STARTTLS", "SMTP>> LHLO ", "SMTP+> BDAT "]),
        }
        assert_in_order(&wire, &replies);
        for (sign, user, why) in [
            ("=>", "jones", " C=\"250 2.6.0 Message: OK, delivered as "),
            ("==", "brown", "LMTP error after "),
            ("**", "full", "after RCPT TO:<full@mail.example>: 552 5.2.2 "),
            ("**", "small", "LMTP error after "),
            ("**", "ghost", "after RCPT TO:<ghost@mail.example>: 550 5.1.1 "),
        ] {
            assert_in_order(&exim.delivery_status(sign, user), &[why]);
        }
        let arrived = last(&server, "jones");
        let with = if tcp { " with LMTPS (using TLSv1.3 with cipher " } else { " with LMTP id " };
        assert!(arrived.contains(with), "{arrived}");
        with_words(&server, "smith", "Mail delivery failed: returning message to sender");
        exim.clear();
    }
}

/// Replaces the only `from` in `text`.
fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in\n{text}");
    text.replace(from, to)
}

/// Mailbox limit in bytes.
const LIMIT: usize = 4_000_000;
