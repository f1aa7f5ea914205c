//! Mailboxes: the simple reader of `examples/mboxls.rs`, and a reference model of what mailslot
//! does to a message that it stores. No code here is shared with the program.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

#[path = "../../examples/mboxls.rs"]
pub mod mboxls;
pub use mboxls::Mail;

/// Returns the messages of a mailbox, none if there is no file. Fails the test if one is torn.
pub fn read(mailbox: &Path) -> Vec<Mail> {
    let Ok(file) = File::open(mailbox) else { return Vec::new() };
    let mails: Vec<Mail> =
        mboxls::Reader::new(BufReader::new(file)).map(|mail| mail.expect("a mailbox")).collect();
    for (mail, number) in mails.iter().zip(1..) {
        assert_eq!(mail.errors, [""; 0], "message {number} of {}", mailbox.display());
    }
    mails
}

/// Returns a message with its quoting undone and without mailslot's own fields above it. These must
/// be there, in their order.
pub fn without_trace(mail: &Mail) -> Vec<u8> {
    below_trace(&mail.unquoted())
}

/// Returns the text of a message below mailslot's own fields.
pub fn below_trace(text: &[u8]) -> Vec<u8> {
    let mut rest = text;
    for name in ["Return-Path: <", "Delivered-To: ", "Received: from "] {
        let line = take_line(&mut rest);
        assert!(line.starts_with(name.as_bytes()), "{:?} is not {name}", show(line));
    }
    while rest.starts_with(b"\t") {
        take_line(&mut rest);
    }
    rest.to_vec()
}

fn take_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
    let (line, after) = rest.split_at(end);
    *rest = after;
    line
}

/// Returns what [`without_trace`] must find of a message that was sent as `sent`, with LF at the
/// end of its lines: all but the fields that a sender must not set, an empty line above a text that
/// has no header and after a header without text, and the separator line of a mailbox as a field.
pub fn kept(sent: &[u8]) -> Vec<u8> {
    let mut kept: Vec<u8> = Vec::new();
    let (mut header, mut within, mut dropped) = (true, false, false);
    for line in sent.split_inclusive(|byte| *byte == b'\n') {
        if header && within && (line.starts_with(b" ") || line.starts_with(b"\t")) {
            if !dropped {
                kept.extend(line);
            }
            continue;
        }
        let after_marks = line.iter().position(|byte| *byte != b'>').unwrap_or(line.len());
        if header && kept.is_empty() && line[after_marks..].starts_with(b"From ") {
            kept.extend(b"X-Mailbox-Line: ");
            kept.extend(line);
            (within, dropped) = (true, false);
            continue;
        }
        let name = field_name(line).filter(|_| header);
        dropped = name.as_ref().is_some_and(|name| STRIPPED_FIELDS.contains(&name.as_str()));
        if dropped {
            within = true;
            continue;
        }
        if header && (line == b"\n" || name.is_none() && kept.is_empty()) {
            header = false;
            if line != b"\n" {
                kept.push(b'\n');
            }
        }
        within = header && (name.is_some() || !kept.is_empty());
        kept.extend(line);
    }
    if header {
        kept.push(b'\n');
    }
    kept
}

/// Returns the name of a field in lower case: `status` of `Status : RO`.
fn field_name(line: &[u8]) -> Option<String> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii_end();
    let graphic = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    // No other white space may come before the colon.
    let blanks = line[name.len()..colon].iter().all(|byte| matches!(byte, b' ' | b'\t'));
    (graphic && blanks).then(|| String::from_utf8_lossy(name).to_lowercase())
}

/// Fields that are left out.
const STRIPPED_FIELDS: [&str; 11] = [
    "content-length",
    "return-path",
    "status",
    "x-imap",
    "x-imapbase",
    "x-keywords",
    "x-mozilla-keys",
    "x-mozilla-status",
    "x-mozilla-status2",
    "x-status",
    "x-uid",
];

/// Asserts that two messages are the same. Shows only where they begin to differ.
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    if at < found.len().max(expected.len()) {
        let near = |text: &[u8]| show(&text[at.saturating_sub(60)..(at + 60).min(text.len())]);
        panic!(
            "{what}: {} bytes, expected {}; at {at}\n found    {:?}\n expected {:?}",
            found.len(),
            expected.len(),
            near(found),
            near(expected)
        );
    }
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
