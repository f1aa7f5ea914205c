//! A list with members on other hosts: its owner takes the sender's place there, and nowhere else.

use std::fs;

use crate::harness::directory::TestDirectory;
use crate::harness::server::Server;

#[test]
fn the_owner_of_a_list_takes_the_senders_place_elsewhere() {
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
    for _ in 0..3 {
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
        // What led there is told, and not what led others elsewhere.
        let via: Vec<&str> =
            text.lines().filter(|l| l.starts_with("Delivered-To:")).skip(1).collect();
        let led = match name {
            "bob" | "carol" => &["Delivered-To: list@here.example"][..],
            "dave" => &["Delivered-To: plain@here.example"],
            _ => &[],
        };
        assert_eq!(via, led, "{text}");
    }
    // A report must not come back to the list, nor go to its owner instead of to nobody.
    server.after_ehlo().deliver("", &to, "Subject: x\r\n\r\ny\r\n", 250);
    for _ in 0..3 {
        far.wait_for_log("delivered");
    }
    assert!(far.mailbox("bob").lines().any(|line| line == "Return-Path: <>"));
}

/// Two hosts whose aliases lead to each other, each by way of the other.
#[test]
fn what_comes_back_for_the_same_address_is_refused() {
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
        // It goes no further, or no further than its sender said.
        ("you@here.example", "Delivered-To: you@here.example\r\n", 250),
        ("me@far.example", "Delivered-To: me@far.example\r\n", 250),
    ] {
        let reply = server.after_ehlo().deliver("a@b.example", &[to], &text(delivered_to), code);
        assert_eq!(reply.lines[0].contains("5.4.6"), code == 554, "{to} {delivered_to}: {reply:?}");
    }
    // Not in the body.
    let body = "Subject: x\r\n\r\nDelivered-To: me@here.example\r\n";
    server.after_ehlo().deliver("a@b.example", &["me@here.example"], body, 250);
}
