//! The mailbox format: what is written can be read by the simple reader of `examples/mboxls.rs`,
//! which shares no code with the library.

use std::sync::Arc;

use mailslot::deliver::disk::HostDisk;
use mailslot::deliver::{ContentSpool, mbox};
use mailslot::message::{Content, ContentBuilder};
use mailslot::smtp::data::LinePiece;
use mailslot::smtp::{Mailbox, ReversePath};
use proptest::prelude::*;

use crate::harness::mbox::mboxls;

fn sender(text: &str) -> ReversePath {
    ReversePath::Mailbox(Mailbox::parse(text).expect("a mailbox"))
}

#[test]
fn from_line_of_sender_and_time() {
    let line = |sender: &ReversePath, time| {
        String::from_utf8(mbox::from_line(sender, time)).expect("ASCII")
    };
    for (time, date) in [
        (0, "Thu Jan  1 00:00:00 1970"),
        (-1, "Thu Jan  1 00:00:00 1970"),
        (i64::MIN, "Thu Jan  1 00:00:00 1970"),
        (1_751_359_957, "Tue Jul  1 08:52:37 2025"),
        (1_752_137_557, "Thu Jul 10 08:52:37 2025"),
        (1_709_251_199, "Thu Feb 29 23:59:59 2024"),
        (2_147_483_648, "Tue Jan 19 03:14:08 2038"),
        (253_402_207_199, "Thu Dec 30 21:59:59 9999"),
        (253_402_300_800, "Thu Dec 30 22:00:00 9999"),
        (i64::MAX, "Thu Dec 30 22:00:00 9999"),
    ] {
        let got = line(&ReversePath::Null, time);
        assert_eq!(got, format!("From MAILER-DAEMON {date}\n"), "{time}");
        assert!(mbox::is_from_line(got.trim_end().as_bytes()), "{got}");
    }
    for (from, shown) in [
        ("smith@example.org", "smith@example.org"),
        ("Smith@Example.ORG", "Smith@Example.ORG"),
        ("smith@[192.0.2.7]", "smith@[192.0.2.7]"),
        ("\"john smith\"@example.org", "\"john-smith\"@example.org"),
        ("\"a  b\"@example.org", "\"a--b\"@example.org"),
    ] {
        let got = line(&sender(from), 0);
        assert_eq!(got, format!("From {shown} Thu Jan  1 00:00:00 1970\n"), "{from}");
        assert!(mbox::is_from_line(got.trim_end().as_bytes()), "{got}");
    }
}

#[test]
fn from_line_recognition() {
    for (line, is) in [
        ("From a@b Tue Jul  1 08:52:37 2025", true),
        ("From MAILER-DAEMON Thu Jan  1 00:00:00 1970", true),
        ("From a@b Tue Jul 01 08:52:37 2025", false),
        ("From a@b Tue Jul 1 08:52:37 2025", false),
        ("From a@b Wed Jul  1 08:52:37 2025", false),
        ("From a@b Tue Feb 30 08:52:37 2025", false),
        ("From a@b Tue Jul  1 24:00:00 2025", false),
        ("From a@b Tue Jul  1 08:52:37 2025 ", false),
        ("From a@b Tue Jul  1 08:52:37 2025 +0200", false),
        ("From a b Tue Jul  1 08:52:37 2025", false),
        ("From  Tue Jul  1 08:52:37 2025", false),
        ("From Tue Jul  1 08:52:37 2025", false),
        ("From a@bTue Jul  1 08:52:37 2025", false),
        (">From a@b Tue Jul  1 08:52:37 2025", false),
        ("From", false),
        ("From ", false),
        ("From here on", false),
        ("", false),
    ] {
        assert_eq!(mbox::is_from_line(line.as_bytes()), is, "{line:?}");
    }
}

#[test]
fn from_quoting_is_undone() {
    for (stored, was) in [
        (">From x", "From x"),
        (">>From x", ">From x"),
        ("From x", "From x"),
        ("> From x", "> From x"),
        (">From", ">From"),
        (">", ">"),
        ("", ""),
    ] {
        assert_eq!(mbox::unquote(stored.as_bytes()), was.as_bytes());
    }
}

#[test]
fn from_line_and_return_path() {
    let head = |sender: &ReversePath| String::from_utf8(mbox::head(sender, 0)).expect("ASCII");
    let date = "Thu Jan  1 00:00:00 1970";
    assert_eq!(head(&ReversePath::Null), format!("From MAILER-DAEMON {date}\nReturn-Path: <>\n"));
    assert_eq!(
        head(&sender("\"a b\"@c.org")),
        format!("From \"a-b\"@c.org {date}\nReturn-Path: <\"a b\"@c.org>\n")
    );
}

/// Without this test a reader that finds no fault would prove nothing.
#[test]
fn simple_reader_finds_torn_messages() {
    const FROM: &str = "From a@b Thu Jan  1 00:00:00 1970\n";
    for (stored, faults) in [
        (String::new(), &[][..]),
        (format!("{FROM}A: x\n\n"), &[0][..]),
        (format!("{FROM}\n"), &[0]),
        (format!("{FROM}A: x\n\ny\n\n{FROM}A: x\n\n"), &[0, 0]),
        (FROM.to_owned(), &[1]),
        (format!("{FROM}A: x\n"), &[1]),
        (format!("{FROM}A: x\n\ny"), &[1]),
        (format!("{FROM}A: x\n\ny\n"), &[1]),
        (format!("{FROM}A: x\n\ny\n{FROM}A: x\n\n"), &[1, 0]),
        (format!("{FROM}A: x\n\nFrom here\n\n"), &[0, 1]),
        (format!("A: x\n\n{FROM}A: x\n\n"), &[1, 0]),
        (format!("{FROM}A: x\n\n{}", FROM.trim_end()), &[0, 1]),
        (format!("{FROM}A: x\n\n\0\0\0\0"), &[1]),
    ] {
        let mails = read(stored.as_bytes());
        let got: Vec<usize> = mails.iter().map(|mail| mail.errors.len()).collect();
        assert_eq!(got, faults, "{stored:?}: {mails:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    /// Any message is found again, whole and unchanged.
    #[test]
    fn mailbox_round_trip(
        messages in prop::collection::vec(prop::collection::vec(line(), 0..12), 0..6),
        time in 0..4_000_000_000i64,
    ) {
        let spool = tempfile::tempdir().unwrap();
        let from = sender("smith@example.org");
        let mut stored = Vec::new();
        for lines in &messages {
            let contents = ContentSpool::new(Arc::new(HostDisk::new()), spool.path());
            let mut intake = ContentBuilder::new(Arc::new(contents), b"Received: x\n");
            let header: [&[u8]; 2] = [b"Subject: x", b""];
            for bytes in header.into_iter().chain(lines.iter().map(|l| &l[..])) {
                intake.push(LinePiece { bytes, first: true, last: true });
            }
            stored.extend(mbox::head(&from, time));
            match intake.finish() {
                Ok(Content::Memory(bytes)) => stored.extend(bytes.iter()),
                other => prop_assert!(false, "{:?}", other),
            }
            stored.push(b'\n');
        }
        let mails = read(&stored);
        prop_assert_eq!(mails.len(), messages.len());
        for (mail, lines) in mails.iter().zip(&messages) {
            prop_assert!(mail.errors.is_empty(), "{:?}", mail);
            prop_assert!(mbox::is_from_line(mail.from_line.as_bytes()));
            prop_assert_eq!(mail.sender(), "smith@example.org");
            let header = b"Return-Path: <smith@example.org>\nReceived: x\nSubject: x\n\n";
            let mut sent = header.to_vec();
            lines.iter().for_each(|line| sent.extend([line, &b"\n"[..]].concat()));
            prop_assert_eq!(mail.unquoted(), sent);
        }
    }
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let word =
        ["From ", "From", ">", ">From ", "x", " ", "\r", "\0", "a@b Thu Jan  1 00:00:00 1970"];
    let words = prop::collection::vec(prop::sample::select(word.to_vec()), 0..4);
    words.prop_map(|words| words.concat().into_bytes())
}

fn read(mailbox: &[u8]) -> Vec<mboxls::Mail> {
    mboxls::Reader::new(mailbox).map(|mail| mail.expect("memory can be read")).collect()
}
