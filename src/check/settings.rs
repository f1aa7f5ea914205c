//! What is wrong with single settings: limits below what the standards ask, names that do not fit
//! together, files that cannot be used.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{advice, privilege};
use crate::config::options::Origin;
use crate::config::{Config, HostInfo, NameSet};
use crate::route::AliasProblem;
use crate::session::Audience;
use crate::smtp::Domain;
use crate::terminal::Terminals;

/// Everything that is wrong.
pub fn problems(config: &Config, facts: &HostInfo) -> Vec<AliasProblem> {
    let mut found = limits(config);
    found.extend(names(config, facts));
    found.extend(configuration_file(config));
    found.extend(terminals(config));
    found.extend(metrics_file(config));
    found
}

/// Limits below what the standards ask of every receiver, and waits that cannot work.
pub fn limits(config: &Config) -> Vec<AliasProblem> {
    let mut found = Vec::new();
    let mut low = |wrong: bool, what: String, fix: &str| {
        if wrong {
            found.push(advice(what, fix));
        }
    };
    low(
        config.recipients_max < 100,
        format!("max-recipients {} is below RFC 5321's 100", config.recipients_max),
        "set max-recipients to 100 or more",
    );
    low(
        config.size_max < 64 << 10,
        format!("max-size {} is below RFC 5321's 64K", config.size_max),
        "set max-size to 64K or more",
    );
    low(
        config.timeout < Duration::from_secs(300),
        format!("timeout {} is below RFC 5321's 5 minutes", config.timeout.as_secs()),
        "set timeout to 300 or more",
    );
    low(
        config.session_timeout < config.timeout,
        "session-timeout is shorter than timeout, which so never passes".to_owned(),
        "set session-timeout to timeout or more",
    );
    low(
        config.lock_timeout > Duration::from_secs(540),
        format!(
            "lock-timeout {}: clients give up after 10 minutes, and send the message again",
            config.lock_timeout.as_secs()
        ),
        "set lock-timeout to a minute or less",
    );
    low(
        !config.locks.dotlock && !config.locks.fcntl,
        "lock flock: most mail readers look for a dotlock or an fcntl lock only".to_owned(),
        "set lock to dotlock,fcntl,flock unless you know every reader",
    );
    found
}

/// Names that do not fit together.
fn names(config: &Config, facts: &HostInfo) -> Vec<AliasProblem> {
    let mut found = Vec::new();
    let NameSet::These(domains) = &config.domains else { return found };
    let local = |name: &str| domains.iter().any(|d| Domain::parse(d) == Domain::parse(name));
    if !local(&config.hostname) {
        found.push(advice(
            format!(
                "mail for user@{} is refused: the hostname is no local domain",
                config.hostname
            ),
            &format!("add domain {}, unless its mail goes elsewhere", config.hostname),
        ));
    }
    if let Some(mailname) = facts.mailname.as_deref().filter(|name| !local(name)) {
        found.push(advice(
            format!(
                "mail for user@{} is refused, though programs here send as that (/etc/mailname)",
                mailname.escape_debug()
            ),
            "add it as a domain, or correct /etc/mailname",
        ));
    }
    if !config.hostname.contains('.') && config.sandbox.is_none() {
        found.push(advice(
            format!(
                "hostname {} has no dot; other hosts may refuse to talk to it",
                config.hostname
            ),
            "set hostname, or name the host in full in /etc/hosts",
        ));
    }
    found
}

/// A configuration that others can change.
fn configuration_file(config: &Config) -> Option<AliasProblem> {
    let file = config.shown.iter().find_map(|given| match &given.origin {
        Origin::File(path, _) => Some(path),
        _ => None,
    })?;
    let mode = fs::metadata(file).ok()?.mode();
    let shown = file.display();
    (mode & 0o022 != 0).then(|| {
        advice(
            format!("{shown} (mode {:o}) is writable by others than its owner", mode & 0o777),
            &format!("chmod go-w {shown}"),
        )
    })
}

/// Terminals that nobody can be found at.
fn terminals(config: &Config) -> Option<AliasProblem> {
    let utmp = Terminals::default().utmp;
    let wanted = config.terminals != Audience::Nobody && !utmp.exists();
    wanted.then(|| {
        advice(
            format!("terminals: without {} nobody is seen to be logged in", utmp.display()),
            "set terminals to off, or have login programs keep utmp",
        )
    })
}

/// A folder in which the file of metrics cannot be replaced.
fn metrics_file(config: &Config) -> Option<AliasProblem> {
    let account = privilege::account(config);
    let account = account.as_ref();
    let directory = config.metrics_file.as_ref()?.parent()?;
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let meta = fs::metadata(directory);
    let writes = meta.is_ok_and(|meta| privilege::may_write(directory, &meta, account));
    (!writes).then(|| {
        advice(
            format!(
                "metrics-file: {} cannot write to {}",
                privilege::name(account),
                directory.display()
            ),
            &format!("{} {}", privilege::owner_of(config).install(0o755), directory.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, facts};

    #[test]
    fn limits_at_the_standard_are_silent_and_below_it_are_not() {
        let host = facts("a.b");
        assert_eq!(limits(&config(&[], &host)), []);
        for (words, what) in [
            (["--max-recipients", "99"], "max-recipients 99"),
            (["--max-size", "65535"], "max-size 65535"),
            (["--timeout", "299"], "timeout 299"),
            (["--session-timeout", "299"], "session-timeout"),
            (["--lock-timeout", "541"], "lock-timeout 541"),
            (["--lock", "flock"], "lock flock"),
        ] {
            assert_found(&limits(&config(&words, &host)), what, false);
        }
        let exact = ["--max-recipients", "100", "-s", "64K", "--timeout", "300"];
        assert_eq!(limits(&config(&exact, &host)), []);
    }

    #[test]
    fn names_must_fit_together() {
        let mut host = facts("a.b");
        assert_eq!(names(&config(&[], &host), &host), []);
        host.mailname = Some("m.b".to_owned());
        assert_found(&names(&config(&[], &host), &host), "user@a.b", false);
        let found = names(&config(&["-d", "A.B"], &host), &host);
        assert_found(&found, "user@m.b", false);
        assert_eq!(found.len(), 1);
        let host = facts("a");
        assert_found(&names(&config(&[], &host), &host), "has no dot", false);
        assert_eq!(names(&config(&["--sandbox", "d"], &host), &host), []);
    }
}
