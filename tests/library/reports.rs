//! The reports about delay, failure and relay, compared with the files in `tests/golden`.
//!
//! `RENEW=1 cargo test --test library reports` writes the files; look at the diff.

use std::fs;
use std::path::Path;

use mailslot::smtp::dsn::DsnNotify;

use super::{held, queue};
use crate::harness::scripted_server::{ScriptedServer, reply, usual};

/// Compares the last report in a mailbox with a file, or writes the file.
fn compare(file: &str, mailbox: &str) {
    let start = mailbox.rfind("\nReturn-Path: <>\n").expect(mailbox) + 1;
    let report = with_fixed_id_and_dates(&mailbox[start..]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("RENEW").is_some() {
        fs::write(path, report).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    let renew = "RENEW=1 cargo test --test library reports; git diff";
    assert!(report == expected, "{file} differs; see: {renew}\n{report}");
}

/// Returns a report with other ids, and with one date for all.
fn with_fixed_id_and_dates(report: &str) -> String {
    let id = |after| {
        report.split_once(after).and_then(|(_, rest)| rest.split(['@', ';', '\n', ' ']).next())
    };
    let report_id = id("\nMessage-ID: <").expect("a message id");
    let mut text = report.replace(report_id, "REPORT-ID");
    if let Some(message_id) = id("with ESMTP id ") {
        text = text.replace(message_id, "MESSAGE-ID");
    }
    let days = ["Mon, ", "Tue, ", "Wed, ", "Thu, ", "Fri, ", "Sat, ", "Sun, "];
    let lines = text.lines().map(|line| match days.iter().find_map(|day| line.find(day)) {
        Some(at) => format!("{}Sat, 1 Nov 2025 12:00:00 +0000\n", &line[..at]),
        None => format!("{line}\n"),
    });
    lines.collect()
}

const CONTENT: &str = "\
Received: from client.example ([192.0.2.7])
\tby here.example with ESMTP id 20251101-1;
\tSat, 1 Nov 2025 12:00:00 +0000
From: smith@here.example
To: jones@x.example
Subject: Monthly figures of the =?utf-8?q?B=C3=BCcher-Abteilung?=, with a subject
 that has two lines
Message-ID: <1@here.example>

The figures.
";

/// Starts a server that replies to RCPT as known servers do.
fn server() -> ScriptedServer {
    ScriptedServer::start(|_, command| match command.split_once("TO:<") {
        Some((_, to)) => reply(match to.split('@').next().unwrap() {
            "unknown" => {
                "550-5.1.1 The email account that you tried to reach does not exist. Please try\r\n\
                 550-5.1.1 double-checking the recipient's email address for typos or\r\n\
                 550 5.1.1 unnecessary spaces."
            }
            "full" => "452 4.2.2 <full@x.example>: Mailbox full",
            "relay" => "554 5.7.1 <relay@x.example>: Relay access denied",
            "large" => "554 5.3.4 Message too big for system",
            _ => "250 2.1.5 Ok",
        }),
        None => usual(command),
    })
}

#[test]
fn report_of_failure() {
    let (server, to) = (server(), ["unknown@x.example", "relay@x.example", "large@x.example"]);
    let host = queue::Host::new(&[&server]);
    host.put_content("m", &queue::envelope("smith@here.example", &to), CONTENT);
    assert_eq!(host.flush(), 0);
    compare("report-failed.eml", &host.store.mailbox("smith"));
}

#[test]
fn report_of_delay() {
    let server = server();
    let host = queue::Host::new(&[&server]);
    host.put_content("m", &queue::envelope("smith@here.example", &["full@x.example"]), CONTENT);
    host.age("m", 4 * 3600);
    assert_eq!(host.flush(), 1);
    compare("report-delayed.eml", &host.store.mailbox("smith"));
}

#[test]
fn report_of_relay() {
    let server = server();
    let host = queue::Host::new(&[&server]);
    let mut mail = queue::envelope("smith@here.example", &["jones@x.example"]);
    mail.to[0].notify = Some(DsnNotify { success: true, ..DsnNotify::default() });
    host.put_content("m", &mail, CONTENT);
    assert_eq!(host.flush(), 0);
    compare("report-relayed.eml", &host.store.mailbox("smith"));
}

#[test]
fn report_of_a_locked_mailbox() {
    let host = held::Host::new();
    let _lock = host.lock("jones");
    host.submit(&["jones@here.example"]);
    host.age(6 * 24 * 3600);
    host.set_enough_tries();
    assert_eq!(host.flush(), 0);
    compare("report-locked.eml", &host.store.mailbox("smith"));
}
