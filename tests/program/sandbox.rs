//! The program as a new user meets it: one command, one message, and how it stops.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lettre::{Message, SmtpTransport, Transport};
use nix::sys::signal::Signal;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, mailslot};

#[test]
fn message_of_a_real_client_is_delivered() {
    let server = Server::start(&[]);
    let message = Message::builder()
        .from("Smith <smith@example.org>".parse().unwrap())
        .to("Jones <jones@example.com>".parse().unwrap())
        .subject("lunch")
        .body("At noon?\n.\nFrom noon on I am there.\n".to_owned())
        .unwrap();
    let client = SmtpTransport::builder_dangerous("127.0.0.1").port(server.address.port()).build();
    assert!(client.send(&message).unwrap().is_positive());

    let text = server.mailbox("jones");
    assert!(text.starts_with("From smith@example.org "), "{text}");
    for line in [
        "Return-Path: <smith@example.org>",
        "Delivered-To: jones@example.com",
        "Subject: lunch",
        "At noon?",
        ".",
        ">From noon on I am there.",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} in\n{text}");
    }
    assert!(text.ends_with("\n\n"), "{text:?}");
    let modes = ["mail", "spool", "mail/jones"]
        .map(|name| fs::metadata(server.join(name)).unwrap().permissions().mode() & 0o777);
    assert_eq!(modes, [0o700, 0o700, 0o600], "{modes:?}");
}

#[test]
fn banner_names_address_users_and_a_first_message() {
    let server = Server::start(&["-u", "jones"]);
    let directory = server.join("mail");
    assert_eq!(
        server.banner[0],
        format!(
            "mailslot listens on {} for jones at every domain, into {}",
            server.address,
            directory.display()
        )
    );
    assert!(server.banner[1].starts_with("printf 'From: "), "{}", server.banner[1]);
    // The first message is for the named user, because others would be refused.
    assert!(server.banner[1].contains(" --mail-rcpt jones@localhost "), "{}", server.banner[1]);
    server.after_ehlo().deliver(
        "me@localhost",
        &["jones@localhost"],
        "Subject: x\r\n\r\nx\r\n",
        250,
    );
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<>", 250);
    client.command("RCPT TO:<green@localhost>", 550);
}

#[test]
fn second_server_on_the_same_port_exits() {
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let directory = TestDirectory::new();
    let second = mailslot(&["--sandbox", directory.as_str(), "-l", &address]);
    let output = { second }.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(errors.contains(&address) && errors.contains("in use"), "{errors}");
    assert!(errors.contains("--listen"), "names the fix: {errors}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    // The first server is not affected.
    server.after_ehlo().command("NOOP", 250);
}

#[test]
fn term_finishes_messages_and_exits_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Server::start(&[]);
        let mut idle = server.after_ehlo();
        let mut busy = server.after_ehlo();
        busy.command("MAIL FROM:<smith@example.org>", 250);
        busy.command("RCPT TO:<jones@localhost>", 250);
        busy.command("DATA", 354);
        server.signal(signal);
        idle.expect(421);
        assert!(idle.is_closed());
        // A message that was begun may be finished.
        busy.send(b"Subject: last\r\n\r\nlast\r\n");
        busy.command(".", 250);
        assert!(server.mailbox("jones").contains("Subject: last\n"));
        let (log, status) = server.ended();
        assert_eq!(status.code(), Some(0), "{log:#?}");
    }
}

#[test]
fn hup_reloads_aliases_without_ending_sessions() {
    let directory = TestDirectory::new();
    let aliases = directory.join("aliases");
    fs::write(&aliases, "sales: smith\n").unwrap();
    let path = aliases.to_str().unwrap().to_owned();
    let server = Server::start_in(directory, &["-a", &path]);
    let mut client = server.after_ehlo();
    client.deliver("", &["sales@localhost"], "Subject: one\r\n\r\n1\r\n", 250);
    fs::write(&aliases, "sales: jones\n").unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("reload");
    client.deliver("", &["sales@localhost"], "Subject: two\r\n\r\n2\r\n", 250);
    assert!(server.mailbox("smith").contains("Subject: one"));
    assert!(!server.mailbox("smith").contains("Subject: two"));
    assert!(server.mailbox("jones").contains("Subject: two"));
}

#[test]
fn usr1_logs_the_counters() {
    let server = Server::start(&[]);
    let mut client = server.after_ehlo();
    client.deliver("", &["a@localhost", "b@localhost"], "Subject: x\r\n\r\nx\r\n", 250);
    server.signal(Signal::SIGUSR1);
    let line = server.wait_for_log("counters");
    for counted in ["sessions=1", "recipients=2"] {
        assert!(line.split(' ').any(|word| word == counted), "{counted} in {line}");
    }
    client.command("QUIT", 221);
}

#[test]
fn each_event_is_one_log_line() {
    let server = Server::start(&[]);
    server.after_ehlo().deliver(
        "smith@example.org",
        &["jones@localhost"],
        "Subject: x\r\n\r\nx\r\n",
        250,
    );
    let line = server.wait_for_log("delivered");
    for part in ["session=", "message=", "from=", "smith@example.org", "jones"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let mut client = Client::connect(server.address);
    client.expect(220);
    client.command("EHLO [127.0.0.1]", 250);
    client.command("QUIT", 221);
    let (log, _) = server.stop();
    assert!(!log.iter().any(|line| line.contains("panic")), "{log:#?}");
}
