//! The control socket: requests of local users to the running server.
//!
//! ```text
//! mailslot queue, mailq, newaliases --> client --one line--> SPOOL/control --> server
//!                                             <-- lines, status --
//! ```
//! A request is one line. The answer is lines that begin with a space, then `end STATUS`, where
//! STATUS is an exit status of sysexits.h. While a flush lasts, lines like `progress 3 of 5 tried`
//! come before.
//!
//! | request | answer | allowed for |
//! | --- | --- | --- |
//! | `list text`, `list json` | the queue | all users; most of them get their own entries alone |
//! | `flush [ID...]` | the number of entries left, after an attempt | likewise |
//! | `aliases` | the errors in the aliases file, which was read again | root, the server's user |
//!
//! The kernel reports the user at the other end (SO_PEERCRED, or getpeereid(3)), so a request
//! needs no password. Every local user may connect. The server's work for them is bounded: a few
//! connections at a time, fewer for one user, each with a deadline.
//!
//! The server also listens for SMTP at `SPOOL/smtp`, so that it knows the user who submits a
//! message ([`Peer::LocalUser`](crate::message::peer::Peer)), and can show that user the entry.
//!
//! | file | contains |
//! | --- | --- |
//! | `server.rs` | the thread that answers |
//! | `client.rs` | one request |

pub mod client;
pub mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::relay::queue::list::ListFormat;

/// A request to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// List the queue.
    List(ListFormat),
    /// Try the entries with these ids now, or all if there are none.
    Flush(Vec<String>),
    /// Read the aliases file again.
    ReloadAliases,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlAnswer {
    /// An exit status (sysexits.h).
    pub status: u8,
    /// Lines with their line ends: the output, or the error.
    pub text: String,
}

impl ControlRequest {
    /// Parses the line of a request, without its line end.
    pub fn parse(line: &str) -> Option<ControlRequest> {
        let mut words = line.split(' ');
        match (words.next()?, words.collect::<Vec<_>>().as_slice()) {
            ("list", ["text"]) => Some(ControlRequest::List(ListFormat::Text)),
            ("list", ["json"]) => Some(ControlRequest::List(ListFormat::Json)),
            ("flush", ids) => {
                Some(ControlRequest::Flush(ids.iter().map(|id| id.to_string()).collect()))
            }
            ("aliases", []) => Some(ControlRequest::ReloadAliases),
            _ => None,
        }
    }

    /// Returns the line of the request, without its line end.
    pub fn line(&self) -> String {
        match self {
            ControlRequest::List(ListFormat::Text) => "list text".to_owned(),
            ControlRequest::List(ListFormat::Json) => "list json".to_owned(),
            ControlRequest::Flush(ids) => {
                let words = ["flush"].into_iter().chain(ids.iter().map(String::as_str));
                words.collect::<Vec<_>>().join(" ")
            }
            ControlRequest::ReloadAliases => "aliases".to_owned(),
        }
    }
}

impl ControlAnswer {
    /// Returns the answer with this status and text.
    pub fn new(status: u8, text: impl Into<String>) -> ControlAnswer {
        ControlAnswer { status, text: text.into() }
    }

    /// Parses the lines of an answer. Returns None if its end is missing.
    fn parse(lines: &str) -> Option<ControlAnswer> {
        let (body, end) = match lines.strip_suffix('\n')?.rsplit_once('\n') {
            Some((body, end)) => (body, end),
            None => ("", lines.strip_suffix('\n')?),
        };
        let status = end.strip_prefix("end ")?.parse().ok()?;
        let mut text = String::with_capacity(body.len());
        for line in body.lines() {
            text.push_str(line.strip_prefix(' ')?);
            text.push('\n');
        }
        Some(ControlAnswer { status, text })
    }

    /// Returns the lines of the answer.
    fn lines(&self) -> String {
        let mut lines = String::with_capacity(self.text.len() + 16);
        for line in self.text.lines() {
            lines.push(' ');
            lines.push_str(line);
            lines.push('\n');
        }
        lines + &format!("end {}\n", self.status)
    }
}

/// Returns the path of the control socket of the server with this spool.
pub fn control_socket(spool: &Path) -> PathBuf {
    spool.join("control")
}

/// Returns the path of the SMTP socket for programs of this host, of the server with this spool.
pub fn submission_socket(spool: &Path) -> PathBuf {
    spool.join("smtp")
}

/// Beginning of a line that reports how far the work has come.
const PROGRESS: &str = "progress ";
/// Time for a request to come, and for its answer to be read.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of bytes of a request.
const REQUEST_MAX: u64 = 64 * 1024;
/// Maximum number of bytes of an answer.
const ANSWER_MAX: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_as_they_were_written() {
        for request in [
            ControlRequest::List(ListFormat::Text),
            ControlRequest::List(ListFormat::Json),
            ControlRequest::Flush(Vec::new()),
            ControlRequest::Flush(vec!["a-1".to_owned(), "b-2".to_owned()]),
            ControlRequest::ReloadAliases,
        ] {
            assert_eq!(ControlRequest::parse(&request.line()), Some(request));
        }
        for line in ["", "list", "list xml", "aliases now", "LIST text", "stop"] {
            assert_eq!(ControlRequest::parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn an_answer_is_complete_or_none() {
        for text in ["", "a\n", "a\n\n end 0\nend 1\n"] {
            let answer = ControlAnswer::new(75, text);
            let lines = answer.lines();
            assert_eq!(ControlAnswer::parse(&lines), Some(answer), "{text:?}");
            for cut in 0..lines.len() {
                assert_eq!(ControlAnswer::parse(&lines[..cut]), None, "{text:?} {cut}");
            }
        }
        for lines in ["end\n", "end 256\n", "x\nend 0\n", " x\nend 0"] {
            assert_eq!(ControlAnswer::parse(lines), None, "{lines:?}");
        }
    }
}
