//! Dialogue files: what a client sends, the replies it must get, and what must have been received.
//!
//! ```text
//! # A comment. Empty lines mean nothing.
//! ! max-recipients 2            an option of the server that this dialogue needs
//! C: MAIL FROM:<a@b>            a line the client sends; CR LF is added
//! C: half a line\               a backslash at the end: no CR LF. Others: \r \n \t \0 \\ \xFF
//! S: 250 2.1.0 MAIL OK          a reply line, exactly
//! S: 250-SIZE*                  a reply line that begins so
//! S: 250*                       a whole reply of that code, however many lines
//! S: closed                     the server has closed the connection
//! M: Blah blah blah...          the next line of the mail data of the last message received
//! ```
//!
//! The greeting is the first reply, and is in the file. A runner sends all `C:` up to the next `S:`
//! at once.

use std::fs;
use std::path::{Path, PathBuf};

/// A dialogue file.
#[derive(Debug)]
pub struct Dialogue {
    pub name: String,
    /// Options and values, named as on the command line.
    pub options: Vec<(String, String)>,
    pub turns: Vec<Turn>,
}

/// A step of a dialogue.
#[derive(Debug)]
pub enum Turn {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Expects a reply line, a whole reply, or the end. With its place in the file.
    Expect(Pattern, String),
    /// Expects this as the next line of the last message.
    Mail(String),
}

/// An expected reply.
#[derive(Debug)]
pub enum Pattern {
    Line(String),
    Begin(String),
    Code(String),
    Closed,
}

/// Returns all dialogues in `tests/dialogues`, sorted by name.
pub fn all() -> Vec<Dialogue> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues");
    let entries =
        fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "smtp"));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Dialogue {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let (mut options, mut turns) = (Vec::new(), Vec::new());
    for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let (mark, text) = line.split_at(line.len().min(2));
        let text = text.strip_prefix(' ').unwrap_or(text);
        match mark {
            "" => {}
            "C:" => send(&mut turns, bytes(text, &place)),
            "S:" => turns.push(Turn::Expect(pattern(text), format!("{place}: {text}"))),
            "M:" => turns.push(Turn::Mail(text.to_owned())),
            "! " => {
                let (option, value) = text.split_once(' ').unwrap_or((text, ""));
                options.push((option.to_owned(), value.to_owned()));
            }
            _ if line.starts_with('#') => {}
            _ => panic!("{place}: neither C:, S:, M:, ! nor #"),
        }
    }
    Dialogue { name, options, turns }
}

/// Adds bytes to be sent to the last step if it sends, too.
fn send(turns: &mut Vec<Turn>, bytes: Vec<u8>) {
    match turns.last_mut() {
        Some(Turn::Send(sent)) => sent.extend(bytes),
        _ => turns.push(Turn::Send(bytes)),
    }
}

fn pattern(text: &str) -> Pattern {
    match text.strip_suffix('*') {
        None if text == "closed" => Pattern::Closed,
        None => Pattern::Line(text.to_owned()),
        Some(code) if code.len() == 3 => Pattern::Code(code.to_owned()),
        Some(begin) => Pattern::Begin(begin.to_owned()),
    }
}

/// Returns the bytes of a `C:` line, with CR LF unless a backslash ends it.
fn bytes(text: &str, place: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            all.push(byte);
            continue;
        }
        all.push(match rest.next() {
            None => return all,
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or_else(|_| panic!("{place}: \\x{digits}"))
            }
            Some(other) => panic!("{place}: \\{}", char::from(other)),
        });
    }
    all.extend(b"\r\n");
    all
}

/// Reply lines that were received and not yet expected, without CR LF.
#[derive(Debug, Default)]
pub struct Received {
    pub lines: std::collections::VecDeque<String>,
    pub closed: bool,
}

impl Received {
    /// Removes what `pattern` stands for, or returns what came instead.
    pub fn take(&mut self, pattern: &Pattern) -> Result<(), String> {
        let Some(line) = self.lines.pop_front() else {
            let fits = matches!(pattern, Pattern::Closed) && self.closed;
            return if fits { Ok(()) } else { Err(format!("no reply, closed: {}", self.closed)) };
        };
        match pattern {
            Pattern::Line(text) if line == *text => Ok(()),
            Pattern::Begin(text) if line.starts_with(text) => Ok(()),
            Pattern::Code(code) if line.starts_with(code) => {
                if line.as_bytes().get(3) == Some(&b'-') { self.take(pattern) } else { Ok(()) }
            }
            _ => Err(line),
        }
    }
}
