//! Settings that the program accepts and an administrator hardly wants. The start logs them, and
//! `mailslot check` shows them.

use std::time::Duration;

use super::Config;
use crate::route::Problem;

impl Config {
    /// Returns the settings that are doubtful: limits below those that the standards require of
    /// every receiver, and values that do not work together or are dangerous.
    pub fn doubtful_settings(&self) -> Vec<Problem> {
        check_limits(self)
    }
}

/// Checks for limits below those that the standards require of every receiver, and for timeouts
/// that do not work together.
fn check_limits(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut advise_if = |wrong: bool, what: String, fix: &str| {
        if wrong {
            found.push(Problem { what, fix: fix.to_owned(), stops_mail: false });
        }
    };
    advise_if(
        config.recipients_max < 100,
        format!("max-recipients {} is below RFC 5321's 100", config.recipients_max),
        "set max-recipients to 100 or more",
    );
    advise_if(
        config.size_max < 64 << 10,
        format!("max-size {} is below RFC 5321's 64K", config.size_max),
        "set max-size to 64K or more",
    );
    advise_if(
        config.timeout < Duration::from_secs(300),
        format!("timeout {} is below RFC 5321's 5 minutes", config.timeout.as_secs()),
        "set timeout to 300 or more",
    );
    advise_if(
        config.session_timeout < config.timeout,
        "session-timeout is shorter than timeout, so timeout never applies".to_owned(),
        "set session-timeout to timeout or more",
    );
    advise_if(
        config.lock_timeout > Duration::from_secs(540),
        format!(
            "lock-timeout {}: clients time out after 10 minutes, and send the message again",
            config.lock_timeout.as_secs()
        ),
        "set lock-timeout to a minute or less",
    );
    advise_if(
        !config.locks.dotlock && !config.locks.fcntl,
        "lock flock: most mail readers use only dotlocks or fcntl locks".to_owned(),
        "set lock to dotlock,fcntl,flock unless you know every reader",
    );
    found
}
