//! Log lines: those of a typical day, and what is in a line.

use nix::sys::signal::Signal;

use super::client::Client;
use super::directory::TestDirectory;
use super::inetd::inetd_session;
use super::server::Server;

/// Returns the log of a server on a quiet day.
pub fn typical_log() -> Vec<String> {
    let server = Server::start(&["--domain", "here.example", "--user", "smith", "--user", "jo"]);
    let mut client = server.after_ehlo();
    client.deliver("jones@client.example", &["smith@here.example"], "Subject: x\r\n\r\nx\r\n", 250);
    client.deliver("", &["smith@here.example", "jo@here.example"], "\r\nx\r\n", 250);
    client.deliver("\"odd \\\" one\"@client.example", &["jo@here.example"], "\r\nx\r\n", 250);
    // Mistyped.
    client.command("MAIL FROM:<jones@client.example>", 250);
    client.command("RCPT TO:<smyth@here.example>", 550);
    client.command("RCPT TO:<\"s m\\\"ith\"@here.example>", 550);
    client.command("RSET", 250);
    // Rejected after its data, reported to a sender here, not reported to one elsewhere, and
    // interrupted.
    client.deliver("a@b.example", &["jo@here.example"], "a bare\nline end\r\n", 554);
    let report = |client: &mut Client, from: &str| {
        client.command(&format!("MAIL FROM:<{from}>"), 250);
        client.command("RCPT TO:<jo@here.example> NOTIFY=SUCCESS", 250);
        client.command("DATA", 354);
        client.command("\r\nx\r\n.", 250);
    };
    report(&mut client, "smith@here.example");
    report(&mut client, "smith@else.example");
    client.command("MAIL FROM:<jones@client.example>", 250);
    client.command("RCPT TO:<smith@here.example>", 250);
    client.command("DATA", 354);
    client.send("half of it");
    drop(client);
    server.signal(Signal::SIGHUP);
    let mut log = Vec::new();
    // The two lines come in any order.
    let mut expected = vec!["abandoned ", "reloaded"];
    while !expected.is_empty() {
        let line = server.wait_for_log("");
        expected.retain(|word| !line.contains(word));
        log.push(line);
    }
    server.signal(Signal::SIGUSR1);
    log.push(server.wait_for_log("counters "));
    log.extend(server.stop().0);
    // Clients of other hosts that make a mistake now and then.
    let directory = TestDirectory::new();
    for (address, input) in [
        (
            "192.0.2.1",
            "EHLO c\r\nWIZ\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<x@here.example>\r\nQUIT\r\n",
        ),
        ("2001:db8::1", "HELO c\r\nVRFY root\r\nQUIT\r\n"),
        ("192.0.2.2", "EHLO c\r\nMAIL FROM:<a@b.example>\r\n"),
    ] {
        let options = ["--domain", "here.example", "--user", "smith"];
        log.extend(inetd_session(&directory, Some(address), input.as_bytes(), &options).log);
    }
    log
}

/// Splits a line of standard error into its date and its text. The level, between them, is dropped.
pub fn split_date(line: &str) -> (&str, &str) {
    let (date, rest) = line.split_once(' ').expect("a date");
    assert!(date.len() == 29 && date.as_bytes()[10] == b'T', "{line:?}");
    let (level, rest) = rest.split_at_checked(5).expect("a level");
    assert!(["ERROR", "WARN ", "INFO ", "DEBUG", "TRACE"].contains(&level), "{line:?}");
    (date, rest.strip_prefix(' ').expect("a blank"))
}

/// Returns a line of standard error as a syslog daemon writes it to a file: in the traditional
/// form, or with a date of RFC 5424.
pub fn as_in_syslog(line: &str, traditional: bool) -> String {
    let (date, text) = split_date(line);
    match traditional {
        true => format!("Nov  2 04:50:00 mx mailslot[4711]: {text}"),
        false => format!("{}000{} mx.example.org mailslot[4711]: {text}", &date[..23], &date[23..]),
    }
}

/// Splits a line into its event and the pairs after it. Fails the test unless the line has exactly
/// the form of log lines.
pub fn parse(line: &str) -> (String, Vec<(String, String)>) {
    assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
    let (_, mut rest) = split_date(line);
    let (mut words, mut pairs) = (Vec::new(), Vec::new());
    loop {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_,.:".contains(&b);
        assert!(!name.is_empty() && name.bytes().all(plain), "{name:?} in {line:?}");
        let after = if let Some(value) = after.strip_prefix('=') {
            let length = if value.starts_with('"') { quoted(value) } else { bare(value) };
            assert!(length > 0, "no value of {name} in {line:?}");
            pairs.push((name.to_owned(), value[..length].to_owned()));
            &value[length..]
        } else {
            assert!(pairs.is_empty(), "the word {name} after pairs in {line:?}");
            words.push(name);
            after
        };
        if after.is_empty() {
            return (words.join(" "), pairs);
        }
        rest = after.strip_prefix(' ').unwrap_or_else(|| panic!("{after:?} in {line:?}"));
    }
}

/// Returns the length of the quoted string that `text` begins with, or 0 if it does not end.
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

/// Returns the length of the value without quotes that `text` begins with.
fn bare(text: &str) -> usize {
    text.find([' ', '"', '\\']).unwrap_or(text.len())
}
