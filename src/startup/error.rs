//! The reason why a step of the start failed, and its fix.

use std::io;

use crate::config::ConfigError;

/// The reason why a command or a step of the start failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// The exit status of the program.
    pub status: u8,
    /// The name of the step, which may be empty.
    pub step: String,
    /// The error. It names the file, the address or the option.
    pub text: String,
    /// The fix, if the text does not say it.
    pub fix: String,
}

impl StartError {
    /// Returns an error with this exit status and text.
    pub fn new(status: u8, text: &str) -> StartError {
        StartError { status, step: String::new(), text: text.to_owned(), fix: String::new() }
    }

    /// Returns the error `e` of `what`, which may be empty if `e` names it.
    pub fn io(status: u8, what: &str, e: &io::Error) -> StartError {
        let text = if what.is_empty() { e.to_string() } else { format!("{what}: {e}") };
        StartError::new(status, &text)
    }

    /// Adds the name of the step that failed.
    pub fn at(self, step: &str) -> StartError {
        StartError { step: step.to_owned(), ..self }
    }

    /// Adds the fix.
    pub fn with_fix(self, fix: &str) -> StartError {
        StartError { fix: fix.to_owned(), ..self }
    }
}

impl From<ConfigError> for StartError {
    fn from(e: ConfigError) -> StartError {
        StartError::new(e.exit_status(), &e.to_string()).at("configuration")
    }
}
