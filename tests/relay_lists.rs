//! A list with members on other hosts: its owner takes the sender's place there, and nowhere else.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails so

mod support;

use std::fs;
use std::sync::Arc;

use support::Server;

#[test]
fn the_owner_of_a_list_takes_the_senders_place_elsewhere() {
    let far = Server::start(&[]);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let aliases = folder.path().join("aliases");
    let text = "list: alice, bob@far.example, carol@far.example\nowner-list: alice\n\
                plain: dave@far.example\n";
    fs::write(&aliases, text).unwrap();
    let address = far.address.to_string();
    let aliases = aliases.to_str().unwrap();
    let options = ["--domain", "here.example", "--aliases", aliases, "--forward-replies", "off"];
    let relay = ["--smarthost", &address, "--smarthost-tls", "may"];
    let server = Server::start_in(folder.clone(), &[&options[..], &relay].concat());

    let to = ["list@here.example", "plain@here.example", "erin@far.example"];
    server.after_ehlo().deliver("me@here.example", &to, "Subject: x\r\n\r\ny\r\n", 250);
    for _ in 0..2 {
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
        assert_eq!(text.matches("Delivered-To:").count(), 1, "{text}");
    }
    // A report must not come back to the list, nor go to its owner instead of to nobody.
    server.after_ehlo().deliver("", &to, "Subject: x\r\n\r\ny\r\n", 250);
    far.wait_for_log("delivered");
    assert!(far.mailbox("bob").lines().any(|line| line == "Return-Path: <>"));
}
