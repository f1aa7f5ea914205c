//! Lists with members on other hosts. For these the owner of the list replaces the sender.

use std::fs;

use crate::harness::directory::TestDirectory;
use crate::harness::server::Server;

#[test]
fn list_owner_replaces_the_sender_for_remote_members() {
    let far = Server::start(&[]);
    let directory = TestDirectory::new();
    let aliases = directory.join("aliases");
    let text = "list: alice, bob@far.example, carol@far.example\nowner-list: alice\n\
                plain: dave@far.example\n";
    fs::write(&aliases, text).unwrap();
    let address = far.address.to_string();
    let aliases = aliases.to_str().unwrap();
    let options = ["--domain", "here.example", "--aliases", aliases, "--forward-replies", "off"];
    let relay = ["--smarthost", &address, "--smarthost-tls", "may"];
    let server = Server::start_in(directory.clone(), &[&options[..], &relay].concat());

    let to = ["list@here.example", "plain@here.example", "erin@far.example"];
    server.after_ehlo().deliver("me@here.example", &to, "Subject: x\r\n\r\ny\r\n", 250);
    for _ in 0..4 {
        far.wait_for_log("delivered");
    }
    let sender = |text: &str| text.lines().nth(1).unwrap().to_owned();
    assert_eq!(sender(&server.mailbox("alice")), "Return-Path: <me@here.example>");
    for (name, from) in [
        ("bob", "owner-list@here.example"),
        ("carol", "owner-list@here.example"),
        ("dave", "me@here.example"),
        ("erin", "me@here.example"),
    ] {
        let text = far.mailbox(name);
        assert_eq!(sender(&text), format!("Return-Path: <{from}>"), "{name}");
        // The aliases that led to this recipient are named, and not those that led to others.
        let via: Vec<&str> =
            text.lines().filter(|l| l.starts_with("Delivered-To:")).skip(1).collect();
        let led = match name {
            "bob" | "carol" => &["Delivered-To: list@here.example"][..],
            "dave" => &["Delivered-To: plain@here.example"],
            _ => &[],
        };
        assert_eq!(via, led, "{text}");
    }
    // A report must not come back to the list or its owner.
    server.after_ehlo().deliver("", &to, "Subject: x\r\n\r\ny\r\n", 250);
    for _ in 0..4 {
        far.wait_for_log("delivered");
    }
    assert!(far.mailbox("bob").lines().any(|line| line == "Return-Path: <>"));
}

/// Two hosts with aliases that lead to each other.
#[test]
fn mail_loop_is_refused() {
    let directory = TestDirectory::new();
    let aliases = directory.join("aliases");
    fs::write(&aliases, "me: me@far.example\n").unwrap();
    let aliases = aliases.to_str().unwrap();
    let options = ["--domain", "here.example", "--aliases", aliases, "--forward-replies", "off"];
    let relay = ["--smarthost", "127.0.0.1:1", "--smarthost-tls", "may"];
    let server = Server::start_in(directory.clone(), &[&options[..], &relay].concat());
    let text = |delivered_to: &str| format!("{delivered_to}Subject: x\r\n\r\ny\r\n");
    for (to, delivered_to, code) in [
        ("me@here.example", "", 250),
        ("me@here.example", "Delivered-To: other@here.example\r\n", 250),
        ("me@here.example", "Delivered-To: me@here.example\r\n", 554),
        ("me@here.example", "delivered-to:ME@HERE.example \r\n", 554),
        // Delivered here, or relayed to where the sender said.
        ("you@here.example", "Delivered-To: you@here.example\r\n", 250),
        ("me@far.example", "Delivered-To: me@far.example\r\n", 250),
    ] {
        let reply = server.after_ehlo().deliver("a@b.example", &[to], &text(delivered_to), code);
        assert_eq!(
            reply.lines[0].contains("5.4.6 Message: it was here before"),
            code == 554,
            "{to} {delivered_to}: {reply:?}"
        );
    }
    // The body is not examined.
    let body = "Subject: x\r\n\r\nDelivered-To: me@here.example\r\n";
    server.after_ehlo().deliver("a@b.example", &["me@here.example"], body, 250);
}
