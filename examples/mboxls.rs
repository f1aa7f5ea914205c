//! A simple mailbox reader: lists the messages, prints one, or checks the framing of all.
//!
//! ```text
//! mboxls FILE             number, bytes, sender, date and subject of each message
//! mboxls --cat N FILE     the Nth message without the quoting of the format
//! mboxls --check FILE     every error of the framing; exit status 1 if there is one
//! ```
//! It reads the format as the oldest mail readers do: every line that begins with `From ` begins a
//! message. It shares no code with mailslot, so that tests can compare the two. It takes no locks,
//! and has one message in memory at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;

/// A message in a mailbox.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// The offset of the From_ line in bytes.
    pub offset: u64,
    /// The From_ line, without its line end.
    pub from_line: String,
    /// The header and the body, without the empty line after the message.
    pub text: Vec<u8>,
    /// The errors of the framing.
    pub errors: Vec<String>,
}

impl Mail {
    /// Returns the sender in the From_ line.
    pub fn sender(&self) -> &str {
        self.from_line.split(' ').nth(1).unwrap_or_default()
    }
    /// Returns the date in the From_ line.
    pub fn date(&self) -> &str {
        self.from_line.splitn(3, ' ').nth(2).unwrap_or_default()
    }
    /// Returns the first line of the header field `name`.
    pub fn field(&self, name: &str) -> Option<String> {
        let header = self.text.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
        header.map(String::from_utf8_lossy).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
    /// Returns the text without quoting: `From ` for `>From `.
    pub fn unquoted(&self) -> Vec<u8> {
        let lines = self.text.split_inclusive(|b| *b == b'\n');
        lines
            .flat_map(|line| if quote_depth(line) > Some(0) { &line[1..] } else { line })
            .copied()
            .collect()
    }
}

/// A reader of a mailbox, which returns one message after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    /// The From_ line of the next message, which ended the last one.
    next_from_line: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Returns a reader of the mailbox `input`.
    pub fn new(input: R) -> Reader<R> {
        Reader { input, offset: 0, next_from_line: Vec::new() }
    }

    fn read_line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.offset += self.input.read_until(b'\n', &mut line)? as u64;
        Ok(line)
    }

    fn read_mail(&mut self) -> io::Result<Option<Mail>> {
        if self.next_from_line.is_empty() {
            self.next_from_line = self.read_line()?;
        }
        let from_line = std::mem::take(&mut self.next_from_line);
        if from_line.is_empty() {
            return Ok(None);
        }
        let mut mail = Mail { offset: self.offset - from_line.len() as u64, ..Mail::default() };
        mail.from_line = String::from_utf8_lossy(&from_line).trim_end_matches('\n').to_owned();
        if !is_from_line(&mail.from_line) {
            mail.errors.push(format!("no From_ line: {:?}", mail.from_line));
        }
        loop {
            let line = self.read_line()?;
            if line.is_empty() || quote_depth(&line) == Some(0) {
                self.next_from_line = line;
                break;
            }
            mail.text.extend(line);
        }
        if !from_line.ends_with(b"\n") || !(mail.text.is_empty() || mail.text.ends_with(b"\n")) {
            mail.errors.push("truncated: the last line has no line end".to_owned());
        } else if mail.text == b"\n" || mail.text.ends_with(b"\n\n") {
            mail.text.pop();
        } else {
            mail.errors.push("truncated: no empty line after the message".to_owned());
        }
        Ok(Some(mail))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = io::Result<Mail>;
    fn next(&mut self) -> Option<io::Result<Mail>> {
        self.read_mail().transpose()
    }
}

/// Returns the number of `>` before `From ` at the start of `line`, or None if it is another line.
fn quote_depth(line: &[u8]) -> Option<usize> {
    let n = line.iter().take_while(|b| **b == b'>').count();
    line[n..].starts_with(b"From ").then_some(n)
}

/// True if `line` has the form `From sender Tue Jul  1 08:52:37 2025`.
fn is_from_line(line: &str) -> bool {
    let Some((from, date)) = line.len().checked_sub(24).and_then(|i| line.split_at_checked(i))
    else {
        return false;
    };
    let (week, rest) = date.split_at_checked(4).unwrap_or_default();
    let (month, rest) = rest.split_at_checked(4).unwrap_or_default();
    let (day, rest) = rest.split_at_checked(3).unwrap_or_default();
    let (time, year) = rest.split_at_checked(9).unwrap_or_default();
    let number = |text: &str, most: u32| text.trim().parse::<u32>().is_ok_and(|n| n <= most);
    let clock: Vec<&str> = time.split(':').collect();
    from.split(' ').count() == 3
        && from.starts_with("From ")
        && from.ends_with(' ')
        && "Mon Tue Wed Thu Fri Sat Sun ".split_inclusive(' ').any(|name| name == week)
        && "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec "
            .split_inclusive(' ')
            .any(|n| n == month)
        && number(day, 31)
        && matches!(clock[..], [h, m, s] if number(h, 23) && number(m, 59) && number(s, 60))
        && number(year, 9999)
}

/// Returns `text` without control characters, for a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn run(args: &[&str]) -> io::Result<ExitCode> {
    let (check, cat, file) = match args {
        [file] => (false, None, file),
        ["--check", file] => (true, None, file),
        ["--cat", n, file] => (false, Some(n.parse::<usize>().map_err(io::Error::other)?), file),
        _ => return Err(io::Error::other("usage: mboxls [--check | --cat N] FILE")),
    };
    let (mut errors, mut out) = (0, io::stdout().lock());
    for (number, mail) in (1..).zip(Reader::new(BufReader::new(File::open(file)?))) {
        let mail = mail?;
        if cat == Some(number) {
            out.write_all(&mail.unquoted())?;
        } else if check {
            errors += mail.errors.len();
            for error in &mail.errors {
                writeln!(out, "message {number} at {}: {}", mail.offset, printable(error))?;
            }
        } else if cat.is_none() {
            let (size, sender) = (mail.text.len(), printable(mail.sender()));
            let subject = printable(&mail.field("Subject").unwrap_or_default());
            writeln!(
                out,
                "{number:5} {size:9} {sender:<30} {:24} {subject}",
                printable(mail.date())
            )?;
        }
    }
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run(&args).unwrap_or_else(|error| {
        eprintln!("mboxls: {error}");
        ExitCode::from(2)
    })
}
