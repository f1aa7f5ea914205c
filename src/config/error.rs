//! The one error of reading the configuration. Its text names the option, the place where it was
//! given, and the expected form.

use std::fmt;

use super::options::{OptionValue, Origin};
use crate::sysexits::{EX_CONFIG, EX_USAGE};

/// The reason why there is no [`Config`](super::Config).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A wrong command line.
    Usage(String),
    /// A wrong configuration file, or a name or file of the host that cannot be used.
    Config(String),
}

impl ConfigError {
    /// Returns the exit status for this error: EX_USAGE or EX_CONFIG.
    pub fn exit_status(&self) -> u8 {
        match self {
            ConfigError::Usage(_) => EX_USAGE,
            ConfigError::Config(_) => EX_CONFIG,
        }
    }

    /// Rejects `given`: `--threads "x": expected ...`, or `FILE:3: threads "x": expected ...`.
    pub(super) fn unexpected(given: &OptionValue, expected: &str) -> ConfigError {
        ConfigError::about(given, &format!(": expected {expected}"))
    }

    /// Rejects `given` without `option`: `--tls-key "x" requires --tls-cert`.
    pub(super) fn missing(given: &OptionValue, option: &str) -> ConfigError {
        let dashes = if matches!(given.origin, Origin::File(..)) { "" } else { "--" };
        ConfigError::about(given, &format!(" requires {dashes}{option}"))
    }

    fn about(given: &OptionValue, problem: &str) -> ConfigError {
        let text = format!("{} \"{}\"{problem}", given.long, given.value.escape_debug());
        match &given.origin {
            Origin::File(..) => ConfigError::Config(format!("{}: {text}", given.origin)),
            _ => ConfigError::Usage(format!("--{text}")),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Usage(text) | ConfigError::Config(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ConfigError {}
