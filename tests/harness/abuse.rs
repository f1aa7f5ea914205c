//! Clients elsewhere, as the real program sees them: each a process of its own under tcpserver's
//! convention, where the address comes from the environment; and log lines, taken apart.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::harness::server::{Server, mailslot};

/// What was said to a client, and what was logged of it.
pub struct Heard {
    pub replies: String,
    pub log: Vec<String>,
}

/// Has a client at `address` say `input`, all of it at once, to a server in `sandbox`.
pub fn says(sandbox: &Path, address: &str, input: &[u8], options: &[&str]) -> Heard {
    assert!(address.parse::<IpAddr>().is_ok());
    let file = sandbox.join("input");
    fs::write(&file, input).unwrap();
    let folder = sandbox.to_str().unwrap();
    let output = mailslot(&["--sandbox", folder, "--inetd", "--log", "stderr"])
        .args(options)
        .env("TCPREMOTEIP", address)
        .env("TCPREMOTEPORT", "4000")
        .stdin(Stdio::from(File::open(file).unwrap()))
        .output()
        .unwrap();
    let text = |octets| String::from_utf8(octets).expect("ASCII");
    let log = text(output.stderr).lines().map(str::to_owned).collect();
    Heard { replies: text(output.stdout), log }
}

/// A day on a quiet host, and the lines it leaves.
pub fn ordinary_day() -> Vec<String> {
    let server = Server::start(&["--domain", "here.example", "--user", "smith", "--user", "jo"]);
    let mut client = server.after_ehlo();
    client.deliver("jones@client.example", &["smith@here.example"], "Subject: x\r\n\r\nx\r\n", 250);
    client.deliver("", &["smith@here.example", "jo@here.example"], "\r\nx\r\n", 250);
    client.deliver("\"odd \\\" one\"@client.example", &["jo@here.example"], "\r\nx\r\n", 250);
    // Mistyped.
    client.say("MAIL FROM:<jones@client.example>", 250);
    client.say("RCPT TO:<smyth@here.example>", 550);
    client.say("RCPT TO:<\"s m\\\"ith\"@here.example>", 550);
    client.say("RSET", 250);
    // Refused behind its data; reported; left half said.
    client.deliver("a@b.example", &["jo@here.example"], "a bare\nline end\r\n", 554);
    client.say("MAIL FROM:<smith@here.example>", 250);
    client.say("RCPT TO:<jo@here.example> NOTIFY=SUCCESS", 250);
    client.say("DATA", 354);
    client.say("\r\nx\r\n.", 250);
    client.say("MAIL FROM:<smith@else.example>", 250);
    client.say("RCPT TO:<jo@here.example> NOTIFY=SUCCESS", 250);
    client.say("DATA", 354);
    client.say("\r\nx\r\n.", 250);
    client.say("MAIL FROM:<jones@client.example>", 250);
    client.say("RCPT TO:<smith@here.example>", 250);
    client.say("DATA", 354);
    client.send(b"half of it");
    drop(client);
    server.signal(Signal::SIGHUP);
    let mut log = Vec::new();
    // Each by itself, so that none is lost in waiting for another.
    let mut expected = vec!["abandoned ", "reloaded"];
    while !expected.is_empty() {
        let line = server.wait_for_log("");
        expected.retain(|word| !line.contains(word));
        log.push(line);
    }
    server.signal(Signal::SIGUSR1);
    log.push(server.wait_for_log("counters "));
    log.extend(server.stop().0);
    // And clients elsewhere who err now and then.
    let sandbox = tempfile::tempdir().unwrap();
    for (address, input) in [
        (
            "192.0.2.1",
            "EHLO c\r\nWIZ\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@here.example>\r\nQUIT\r\n",
        ),
        ("2001:db8::1", "HELO c\r\nVRFY root\r\nQUIT\r\n"),
        ("192.0.2.2", "EHLO c\r\nMAIL FROM:<a@b.example>\r\n"),
    ] {
        let only = ["--domain", "here.example", "--user", "smith"];
        log.extend(says(sandbox.path(), address, input.as_bytes(), &only).log);
    }
    log
}

/// Date and level, which syslog keeps elsewhere, and the rest of a line on standard error.
pub fn without_date(line: &str) -> (&str, &str) {
    let (date, rest) = line.split_once(' ').expect("a date");
    assert!(date.len() == 29 && date.as_bytes()[10] == b'T', "{line:?}");
    let (level, rest) = rest.split_at_checked(5).expect("a level");
    assert!(["ERROR", "WARN ", "INFO ", "DEBUG", "TRACE"].contains(&level), "{line:?}");
    (date, rest.strip_prefix(' ').expect("a blank"))
}

/// The line as a syslog daemon writes it to a file: in its traditional form, or with a date of
/// RFC 5424.
pub fn by_syslog(line: &str, traditional: bool) -> String {
    let (date, text) = without_date(line);
    match traditional {
        true => format!("Nov  2 04:50:00 mx mailslot[4711]: {text}"),
        false => format!("{}000{} mx.example.org mailslot[4711]: {text}", &date[..23], &date[23..]),
    }
}

/// The words of the event and the pairs behind them. Everything is as strict as a line can be.
pub fn parse(line: &str) -> (String, Vec<(String, String)>) {
    assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
    let (_, mut rest) = without_date(line);
    let (mut words, mut pairs) = (Vec::new(), Vec::new());
    loop {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_,.:".contains(&b);
        assert!(!name.is_empty() && name.bytes().all(plain), "{name:?} in {line:?}");
        let behind = if let Some(value) = behind.strip_prefix('=') {
            let length = if value.starts_with('"') { quoted(value) } else { bare(value) };
            assert!(length > 0, "no value of {name} in {line:?}");
            pairs.push((name.to_owned(), value[..length].to_owned()));
            &value[length..]
        } else {
            assert!(pairs.is_empty(), "the word {name} behind pairs in {line:?}");
            words.push(name);
            behind
        };
        if behind.is_empty() {
            return (words.join(" "), pairs);
        }
        rest = behind.strip_prefix(' ').unwrap_or_else(|| panic!("{behind:?} in {line:?}"));
    }
}

/// How long the quoted string at the beginning is; 0 if it does not end.
fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    0
}

fn bare(text: &str) -> usize {
    text.find([' ', '"', '\\']).unwrap_or(text.len())
}

/// Every way to write an address elsewhere so that a careless server takes it for its own.
pub const RELAY_TRICKS: &[&str] = &[
    // Plainly, and what looks like us.
    "<victim@else.example>",
    "<smith@else.example>",
    "<victim@here.example.else.example>",
    "<victim@xhere.example>",
    "<victim@else.example.>",
    "victim@else.example",
    "<victim@[192.0.2.1]>",
    "<victim@[IPv6:2001:db8::1]>",
    "<victim@\\[192.0.2.1\\]>",
    "<victim@3221225985>",
    // Percent.
    "<victim%else.example>",
    "<victim%else.example@here.example>",
    "<victim%else.example@[127.0.0.1]>",
    "<victim%else.example@localhost>",
    "<victim%else.example%here.example@here.example>",
    "<smith%else.example@here.example>",
    "<\"victim%else.example\"@here.example>",
    // Bang.
    "<else.example!victim>",
    "<else.example!victim@here.example>",
    "<else.example!victim@[127.0.0.1]>",
    "<here.example!else.example!victim@here.example>",
    "<else.example!smith@here.example>",
    // Source routes.
    "<@here.example:victim@else.example>",
    "<@here.example,@else.example:victim@else.example>",
    "<@[127.0.0.1]:victim@else.example>",
    "<@else.example:victim@else.example>",
    "<@here.example:@else.example:victim@else.example>",
    "<@here.example:victim%else.example@here.example>",
    "<@here.example:else.example!victim@here.example>",
    // A quoted @, nested.
    "<\"victim@else.example\">",
    "<\"victim@else.example\"@here.example>",
    "<\"victim@else.example\"@[127.0.0.1]>",
    "<\"victim\\@else.example\"@here.example>",
    "<\"@else.example:victim\"@here.example>",
    "<\"smith@here.example\"@else.example>",
    "<\"victim\"@else.example>",
    "<victim\\@else.example@here.example>",
    // More than one @.
    "<victim@else.example@here.example>",
    "<smith@here.example@else.example>",
    "<victim@else.example@[127.0.0.1]>",
    "<victim@else.example@>",
    "<victim@@else.example>",
    "<smith@>",
    "<@else.example>",
    // The tag is the user's, and leads nowhere.
    "<smith+victim@else.example@here.example>",
    "<smith+x@else.example>",
    // Several, and what is behind one.
    "<smith@here.example,victim@else.example>",
    "<smith@here.example>,<victim@else.example>",
    "<smith@here.example> <victim@else.example>",
    "<smith@here.example;victim@else.example>",
    "<smith@here.example\tvictim@else.example>",
    "<victim@else.example> NOTIFY=NEVER",
    // Programs, files, and folders.
    "<|/bin/sh@here.example>",
    "<\"|/bin/sh\"@here.example>",
    "</etc/passwd@here.example>",
    "<../smith@here.example>",
    "<\":include:/etc/passwd\"@here.example>",
];
