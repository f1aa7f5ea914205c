//! What the words of the command line ask for.

use super::{ConfigError, usage};
use crate::config::options::CommandLine;

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramCommand {
    /// Listen and deliver, or serve one session under `--inetd`.
    Serve,
    /// Print settings and problems.
    Check,
    /// Print where each of these addresses leads.
    Explain(Vec<String>),
    /// Look at the queue, or work on it.
    Queue(QueueCommand),
    /// `--help`
    Help,
    /// `--version`
    Version,
}

/// What is to be done with the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueCommand {
    /// Print what is in it.
    List,
    /// Print one entry.
    Show(String),
    /// Remove one entry.
    Drop(String),
    /// Try these entries now, or all.
    Flush(Vec<String>),
}

/// What the words on the command line ask for.
pub(super) fn command(line: &CommandLine) -> Result<ProgramCommand, ConfigError> {
    if line.count("help") > 0 {
        return Ok(ProgramCommand::Help);
    }
    if line.count("version") > 0 {
        return Ok(ProgramCommand::Version);
    }
    let words: Vec<&str> = line.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Ok(ProgramCommand::Serve),
        ["check"] => Ok(ProgramCommand::Check),
        ["check", more, ..] => usage(&format!("check takes no \"{}\"", more.escape_debug())),
        ["explain"] => usage("explain needs an address; expected \"explain USER@DOMAIN...\""),
        ["explain", rest @ ..] => {
            Ok(ProgramCommand::Explain(rest.iter().map(|a| a.to_string()).collect()))
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
        [] => Ok(QueueCommand::List),
        ["show", id] => Ok(QueueCommand::Show(id.to_string())),
        ["drop", id] => Ok(QueueCommand::Drop(id.to_string())),
        ["flush", ids @ ..] => {
            Ok(QueueCommand::Flush(ids.iter().map(|id| id.to_string()).collect()))
        }
        _ => usage(
            "expected \"queue\", \"queue show ID\", \"queue drop ID\" or \"queue flush [ID...]\"",
        ),
    }
}

pub(super) fn verbosity(line: &CommandLine) -> Result<i32, ConfigError> {
    match (line.count("quiet"), line.count("verbose")) {
        (0, more) => Ok(more.min(2) as i32),
        (_, 0) => Ok(-1),
        _ => usage("--quiet and --verbose exclude each other"),
    }
}
