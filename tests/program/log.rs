//! The lines that a message leaves in the log: one for each mailbox, each address on another host,
//! or each recipient that was deferred or rejected.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::log_lines::parse;
use crate::harness::server::Server;

const OPTIONS: [&str; 2] = ["--domain", "here.example"];

/// Starts a server with these aliases.
fn start(aliases: &str, options: &[&str]) -> Server {
    let directory = TestDirectory::new();
    let path = directory.join("aliases");
    fs::write(&path, aliases).unwrap();
    let aliases = ["--aliases", path.to_str().unwrap()];
    Server::start_in(directory, &[&OPTIONS[..], &aliases, options].concat())
}

/// Returns the next lines of these events, each with the values of these fields.
fn lines<const N: usize>(server: &Server, events: &[&str], fields: [&str; N]) -> Vec<[String; N]> {
    let mut found = Vec::new();
    for event in events {
        let (name, pairs) = parse(&server.wait_for_log(&format!(" {event} ")));
        assert_eq!(name, *event);
        found.push(fields.map(|field| {
            let pair = pairs.iter().find(|(name, _)| name == field);
            pair.map_or(String::new(), |(_, value)| value.clone())
        }));
    }
    found
}

#[test]
fn a_delivery_names_the_address_the_alias_and_the_mailbox_of_each_recipient() {
    let server = start("sales: smith, jo\n", &["--user", "smith", "--user", "jo"]);
    let to = ["sales@here.example", "Smith@HERE.example", "jo+tag@here.example"];
    server.after_ehlo().deliver("a@b.example", &to, "\r\nx\r\n", 250);
    let found = lines(&server, &["delivered"; 4], ["from", "to", "orig_to", "mailbox"]);
    let mailbox = |name: &str| server.mailbox_path(name).display().to_string();
    let line = |to: &str, orig_to: &str, name: &str| {
        ["<a@b.example>".to_owned(), to.to_owned(), orig_to.to_owned(), mailbox(name)]
    };
    let expected = [
        line("<smith@here.example>", "<sales@here.example>", "smith"),
        line("<jo@here.example>", "<sales@here.example>", "jo"),
        line("<smith@here.example>", "<Smith@HERE.example>", "smith"),
        line("<jo+tag@here.example>", "", "jo"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn mail_for_another_host_is_queued_and_not_delivered() {
    let relay = ["--smarthost", "127.0.0.1:1", "--smarthost-tls", "may"];
    let server = start("list: smith, bob@far.example\n", &relay);
    let to = ["list@here.example", "erin@far.example"];
    server.after_ehlo().deliver("a@b.example", &to, "\r\nx\r\n", 250);
    let events = ["delivered", "queued", "queued"];
    let found = lines(&server, &events, ["to", "orig_to", "queue_id"]);
    let mut entries: Vec<_> = fs::read_dir(server.join("spool/queue"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.contains('.'))
        .collect();
    entries.sort();
    let [erin, bob] = entries.as_slice() else { panic!("{entries:?}") };
    let expected = [
        ["<smith@here.example>", "<list@here.example>", ""],
        ["<erin@far.example>", "", erin],
        ["<bob@far.example>", "<list@here.example>", bob],
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_rejected_message_names_each_recipient() {
    let server = start("", &[]);
    let mut client = server.after_ehlo();
    let to = ["smith@here.example", "jo@here.example"];
    client.deliver("a@b.example", &to, "a bare\nline end\r\n", 554);
    let found = lines(&server, &["rejected"; 2], ["to", "reply"]);
    for ([to, reply], expected) in found.iter().zip(["<smith@here.example>", "<jo@here.example>"]) {
        assert_eq!(to, expected);
        assert!(reply.starts_with("\"554 5.6.0 "), "{reply}");
    }
    client.command("MAIL FROM:<a@b.example>", 250);
    client.command("RCPT TO:<smith@here.example>", 250);
    client.command("DATA", 354);
    drop(client);
    let [[recipients, error]] = &lines(&server, &["abandoned"], ["recipients", "error"])[..] else {
        panic!("one line")
    };
    assert_eq!((recipients.as_str(), error.as_str()), ("1", "closed"));
}

#[test]
fn a_large_list_has_a_bounded_number_of_lines() {
    let members: Vec<String> = (0..600).map(|n| format!("u{n}@far.example")).collect();
    let relay = ["--smarthost", "127.0.0.1:1", "--smarthost-tls", "may"];
    let server = start(&format!("list: {}\n", members.join(", ")), &relay);
    server.after_ehlo().deliver("a@b.example", &["list@here.example"], "\r\nx\r\n", 250);
    let found = lines(&server, &["queued"; 512], ["to"]);
    assert_eq!(found[511], ["<u511@far.example>"]);
    assert_eq!(lines(&server, &["recipients-omitted"], ["recipients"]), [["88"]]);
    let (log, _) = server.stop();
    assert!(!log.iter().any(|line| line.contains(" queued ")), "{log:?}");
}

#[test]
fn mail_that_is_deferred_for_lack_of_room_is_logged() {
    let server = start("", &["--max-size", "1000000G"]);
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<a@b.example> SIZE=1000000000000000", 452);
    let found = lines(&server, &["no-room"], ["from", "size"]);
    assert_eq!(found, [["<a@b.example>", "1000000000000000"]]);
}

/// Over SMTP, where all recipients share an outcome, and over LMTP, where each has its own.
#[test]
fn mail_for_dev_null_is_accepted_logged_and_counted() {
    let options = ["--user", "smith", "--lmtp", "127.0.0.1:0"];
    let server = start("noreply: /dev/null\n", &options);
    let to = ["noreply@here.example", "smith@here.example"];
    let mut client = server.after_ehlo();
    client.deliver("a@b.example", &to[..1], "\r\nx\r\n", 250);
    client.deliver("a@b.example", &to, "\r\nx\r\n", 250);
    let found = lines(&server, &["discarded", "delivered", "discarded"], ["to"]);
    let expected = ["<noreply@here.example>", "<smith@here.example>", "<noreply@here.example>"];
    assert_eq!(found, expected.map(|to| [to.to_owned()]));

    let mut lmtp = Client::connect(server.lmtp().unwrap());
    lmtp.expect(220);
    lmtp.command("LHLO client.example", 250);
    lmtp.deliver("a@b.example", &to, "\r\nx\r\n", 250);
    lmtp.expect(250);
    assert_eq!(lines(&server, &["discarded", "delivered"], ["to"]).len(), 2);
    assert_eq!(server.mailbox("smith").matches("\nFrom ").count(), 1);
    server.signal(Signal::SIGUSR1);
    assert!(server.wait_for_log(" discarded=").contains(" discarded=3 "));
}

#[test]
fn an_alias_for_a_program_rejects_mail_and_is_logged() {
    let server = start("prog: |/bin/true\n", &[]);
    let mut client = server.after_ehlo();
    client.command("MAIL FROM:<a@b.example>", 250);
    client.command("RCPT TO:<prog@here.example>", "550 5.3.5");
    let [[error]] = &lines(&server, &["lookup-failed"], ["error"])[..] else { panic!("one line") };
    assert!(error.contains("is a program"), "{error}");
}
