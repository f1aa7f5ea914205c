//! Lists the messages of a mailbox, prints one, or checks the framing of all: the naive reader.
//!
//! ```text
//! mboxls FILE             number, octets, sender, date and subject of each message
//! mboxls --cat N FILE     the Nth message as it was before it was quoted
//! mboxls --check FILE     every fault of framing; exit 1 if there is one
//! ```
//! It knows the format as the oldest readers do (every line that begins with `From ` begins a
//! message) and shares no code with mailslot, so that the tests can hold the two against each
//! other. It takes no locks, and holds one message in memory at a time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::process::ExitCode;

/// One message as it lies in the mailbox.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// Where its From_ line begins, in octets.
    pub offset: u64,
    /// The From_ line, without its line end.
    pub from_line: String,
    /// Header and body, without the empty line that ends the message.
    pub text: Vec<u8>,
    /// What is wrong with its framing.
    pub faults: Vec<String>,
}

impl Mail {
    /// The sender in the From_ line.
    pub fn sender(&self) -> &str {
        self.from_line.split(' ').nth(1).unwrap_or_default()
    }
    /// The date in the From_ line.
    pub fn date(&self) -> &str {
        self.from_line.splitn(3, ' ').nth(2).unwrap_or_default()
    }
    /// The first line of the field `name`.
    pub fn field(&self, name: &str) -> Option<String> {
        let header = self.text.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
        header.map(String::from_utf8_lossy).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
    /// The text as it was before it was quoted: `>From ` was `From `.
    pub fn unquoted(&self) -> Vec<u8> {
        let lines = self.text.split_inclusive(|b| *b == b'\n');
        lines
            .flat_map(|line| if quotes(line) > Some(0) { &line[1..] } else { line })
            .copied()
            .collect()
    }
}

/// Reads a mailbox, message by message.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    /// The line that ended the last message: the From_ line of the next.
    ahead: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// A reader of the mailbox that `input` stands at the start of.
    pub fn new(input: R) -> Reader<R> {
        Reader { input, offset: 0, ahead: Vec::new() }
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.offset += self.input.read_until(b'\n', &mut line)? as u64;
        Ok(line)
    }

    fn mail(&mut self) -> io::Result<Option<Mail>> {
        if self.ahead.is_empty() {
            self.ahead = self.line()?;
        }
        let from_line = std::mem::take(&mut self.ahead);
        if from_line.is_empty() {
            return Ok(None);
        }
        let mut mail = Mail { offset: self.offset - from_line.len() as u64, ..Mail::default() };
        mail.from_line = String::from_utf8_lossy(&from_line).trim_end_matches('\n').to_owned();
        if !is_from_line(&mail.from_line) {
            mail.faults.push(format!("no From_ line: {:?}", mail.from_line));
        }
        loop {
            let line = self.line()?;
            if line.is_empty() || quotes(&line) == Some(0) {
                self.ahead = line;
                break;
            }
            mail.text.extend(line);
        }
        if !from_line.ends_with(b"\n") || !(mail.text.is_empty() || mail.text.ends_with(b"\n")) {
            mail.faults.push("torn: its last line has no end".to_owned());
        } else if mail.text == b"\n" || mail.text.ends_with(b"\n\n") {
            mail.text.pop();
        } else {
            mail.faults.push("torn: no empty line behind it".to_owned());
        }
        Ok(Some(mail))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = io::Result<Mail>;
    fn next(&mut self) -> Option<io::Result<Mail>> {
        self.mail().transpose()
    }
}

/// How many `>` stand before the `From ` that `line` begins with, if it does.
fn quotes(line: &[u8]) -> Option<usize> {
    let n = line.iter().take_while(|b| **b == b'>').count();
    line[n..].starts_with(b"From ").then_some(n)
}

/// `From sender Tue Jul  1 08:52:37 2025`, by its columns.
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

/// Text fit for a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn run(args: &[&str]) -> io::Result<ExitCode> {
    let (check, cat, file) = match args {
        [file] => (false, None, file),
        ["--check", file] => (true, None, file),
        ["--cat", n, file] => (false, Some(n.parse::<usize>().map_err(io::Error::other)?), file),
        _ => return Err(io::Error::other("usage: mboxls [--check | --cat N] FILE")),
    };
    let (mut faults, mut out) = (0, io::stdout().lock());
    for (number, mail) in (1..).zip(Reader::new(BufReader::new(File::open(file)?))) {
        let mail = mail?;
        if cat == Some(number) {
            out.write_all(&mail.unquoted())?;
        } else if check {
            faults += mail.faults.len();
            for fault in &mail.faults {
                writeln!(out, "message {number} at {}: {}", mail.offset, plain(fault))?;
            }
        } else if cat.is_none() {
            let (size, sender) = (mail.text.len(), plain(mail.sender()));
            let subject = plain(&mail.field("Subject").unwrap_or_default());
            writeln!(out, "{number:5} {size:9} {sender:<30} {:24} {subject}", plain(mail.date()))?;
        }
    }
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run(&args).unwrap_or_else(|error| {
        eprintln!("mboxls: {error}");
        ExitCode::from(2)
    })
}
