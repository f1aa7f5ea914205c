//! The command that the words of the command line select.

use super::{ConfigError, usage};
use crate::config::options::CommandLine;
use crate::relay::queue::list::ListFormat;

/// The command that the program runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramCommand {
    /// No word: serve connections, or one session under `--inetd`.
    Serve,
    /// `check`: print the values in effect, and problems.
    Check,
    /// `check smarthost`: connect to the smarthosts, and print what they offer.
    CheckSmarthost,
    /// `explain ADDR...`: print the destinations of these addresses.
    Explain(Vec<String>),
    /// `queue ...`: show or change the queue.
    Queue(QueueCommand),
    /// `--help`
    Help,
    /// `--version`
    Version,
}

/// An operation on the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueCommand {
    /// `queue`: list the entries.
    List(ListFormat),
    /// `queue show ID`: print the entry with this id, and its message.
    Show(String),
    /// `queue drop ID`: remove the entry with this id.
    Remove(String),
    /// `queue flush [ID...]`: try to send these entries now, or all if empty.
    Flush(Vec<String>),
}

/// Returns the command that `line` selects.
pub(super) fn command(line: &CommandLine) -> Result<ProgramCommand, ConfigError> {
    if line.count("help") > 0 {
        return Ok(ProgramCommand::Help);
    }
    if line.count("version") > 0 {
        return Ok(ProgramCommand::Version);
    }
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    if line.has("json") && words != ["queue"] {
        return usage("--json is for the command \"queue\" alone");
    }
    match words.as_slice() {
        [] => Ok(ProgramCommand::Serve),
        ["check"] => Ok(ProgramCommand::Check),
        ["check", "smarthost"] => Ok(ProgramCommand::CheckSmarthost),
        ["help"] => Ok(ProgramCommand::Help),
        ["version"] => Ok(ProgramCommand::Version),
        ["check", more, ..] => usage(&format!("check takes no \"{}\"", more.escape_debug())),
        ["explain"] => usage("explain needs an address; expected \"explain USER@DOMAIN...\""),
        ["explain", rest @ ..] => {
            Ok(ProgramCommand::Explain(rest.iter().map(|a| a.to_string()).collect()))
        }
        ["queue"] if line.has("json") => {
            Ok(ProgramCommand::Queue(QueueCommand::List(ListFormat::Json)))
        }
        ["queue", rest @ ..] => queue_command(rest).map(ProgramCommand::Queue),
        [other, ..] => usage(&format!(
            "unknown command \"{}\"; expected none, \"check\", \"explain\" or \"queue\"",
            other.escape_debug()
        )),
    }
}

fn queue_command(words: &[&str]) -> Result<QueueCommand, ConfigError> {
    match words {
        [] => Ok(QueueCommand::List(ListFormat::Text)),
        ["show", id] => Ok(QueueCommand::Show(id.to_string())),
        ["drop", id] => Ok(QueueCommand::Remove(id.to_string())),
        ["flush", ids @ ..] => {
            Ok(QueueCommand::Flush(ids.iter().map(|id| id.to_string()).collect()))
        }
        _ => usage(
            "expected \"queue\", \"queue show ID\", \"queue drop ID\" or \"queue flush [ID...]\"",
        ),
    }
}

/// Returns the log level of `--quiet` and `--verbose`: -1 to 2.
pub(super) fn verbosity(line: &CommandLine) -> Result<i32, ConfigError> {
    match (line.count("quiet"), line.count("verbose")) {
        (0, more) => Ok(more.min(2) as i32),
        (_, 0) => Ok(-1),
        _ => usage("--quiet and --verbose exclude each other"),
    }
}
