//! Checks of single values: limits below those of the standards, names that contradict each other,
//! files that cannot be used.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{advice, privilege, problem};
use crate::config::options::Origin;
use crate::config::{Config, HostInfo, NameSet};
use crate::observe::logging::{self, LogTarget};
use crate::route::Problem;
use crate::session::Audience;
use crate::smtp::Domain;
use crate::terminal::Terminals;

/// Runs all checks of this file.
pub fn check(config: &Config, host: &HostInfo) -> Vec<Problem> {
    let mut found = check_limits(config);
    found.extend(check_names(config, host));
    found.extend(check_configuration_file(config));
    found.extend(check_terminals(config));
    found.extend(check_syslog(config));
    found.extend(check_metrics_file(config));
    found.extend(check_smarthosts(config));
    found
}

/// Checks the files that the configuration of the queue comes from.
fn check_smarthosts(config: &Config) -> Option<Problem> {
    let error = config.queue_config().err()?.to_string();
    let (what, fix) = error.split_once("; ").unwrap_or((&error, "correct the file"));
    Some(problem(what.to_owned(), fix))
}

/// Checks that there is a syslog daemon if the log goes to it.
fn check_syslog(config: &Config) -> Option<Problem> {
    let socket = logging::missing_syslog_socket()?;
    (config.log == LogTarget::Syslog).then(|| {
        advice(
            format!("log syslog: {socket} does not exist, so that nothing is logged"),
            "start a syslog daemon, or set log to stderr",
        )
    })
}

/// Checks for limits below those that the standards require of every receiver, and for timeouts
/// that do not work together.
pub fn check_limits(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut advise_if = |wrong: bool, what: String, fix: &str| {
        if wrong {
            found.push(advice(what, fix));
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

/// Checks for host names and domains that contradict each other.
fn check_names(config: &Config, host: &HostInfo) -> Vec<Problem> {
    let mut found = Vec::new();
    let NameSet::Listed(domains) = &config.domains else { return found };
    let local = |name: &str| domains.iter().any(|d| Domain::parse(d) == Domain::parse(name));
    if !local(&config.hostname) {
        found.push(advice(
            format!(
                "mail for user@{} is rejected, because the hostname is not a local domain",
                config.hostname
            ),
            &format!("add domain {}, unless another host takes its mail", config.hostname),
        ));
    }
    let mailname = host.mailname.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
    if let Some(mailname) = mailname.filter(|name| !local(name)) {
        found.push(advice(
            format!(
                "mail for user@{} is rejected, but programs send with this domain (/etc/mailname)",
                mailname.escape_debug()
            ),
            "add it as a domain, or correct /etc/mailname",
        ));
    }
    if !config.hostname.contains('.') && config.sandbox.is_none() {
        found.push(advice(
            format!("hostname {} has no dot; other hosts may reject its mail", config.hostname),
            "set hostname, or add the full name to /etc/hosts",
        ));
    }
    found
}

/// Checks that only its owner can change the configuration file.
fn check_configuration_file(config: &Config) -> Option<Problem> {
    let file = config.shown.iter().find_map(|given| match &given.origin {
        Origin::File(path, _) => Some(path),
        _ => None,
    })?;
    let mode = fs::metadata(file).ok()?.mode();
    let shown = file.display();
    (mode & 0o022 != 0).then(|| {
        advice(
            format!("{shown} (mode {:o}) is writable by others", mode & 0o777),
            &format!("chmod go-w {shown}"),
        )
    })
}

/// Checks that logged-in users can be found if messages go to terminals.
fn check_terminals(config: &Config) -> Option<Problem> {
    let utmp = Terminals::default().utmp;
    (config.terminals != Audience::Nobody && !utmp.exists()).then(|| {
        advice(
            format!("terminals: logged-in users cannot be found without {}", utmp.display()),
            "set terminals to off, or let login programs maintain that file",
        )
    })
}

/// Checks that the metrics file can be replaced in its directory.
fn check_metrics_file(config: &Config) -> Option<Problem> {
    let account = privilege::run_account(config);
    let account = account.as_ref();
    let directory = config.metrics_file.as_ref()?.parent()?;
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let meta = fs::metadata(directory);
    let writable = meta.is_ok_and(|meta| privilege::may_write(directory, &meta, account));
    (!writable).then(|| {
        advice(
            format!(
                "metrics-file: {} cannot write to {}",
                privilege::account_name(account),
                directory.display()
            ),
            &format!(
                "{} {}",
                privilege::expected_owner(config).install_command(0o755),
                directory.display()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, host_named};

    #[test]
    fn limits_below_the_standards_are_advice() {
        let host = host_named("a.b");
        assert_eq!(check_limits(&config(&[], &host)), []);
        for (words, what) in [
            (["--max-recipients", "99"], "max-recipients 99"),
            (["--max-size", "65535"], "max-size 65535"),
            (["--timeout", "299"], "timeout 299"),
            (["--session-timeout", "299"], "session-timeout"),
            (["--lock-timeout", "541"], "lock-timeout 541"),
            (["--lock", "flock"], "lock flock"),
        ] {
            assert_found(&check_limits(&config(&words, &host)), what, false);
        }
        let exact = ["--max-recipients", "100", "-s", "64K", "--timeout", "300"];
        assert_eq!(check_limits(&config(&exact, &host)), []);
    }

    #[test]
    fn hostname_and_mailname_must_be_local() {
        let mut host = host_named("a.b");
        assert_eq!(check_names(&config(&[], &host), &host), []);
        host.mailname = Some("m.b".to_owned());
        assert_eq!(check_names(&config(&[], &host), &host), []);
        host.mailname = Some("m.b.".to_owned());
        assert_eq!(check_names(&config(&[], &host), &host), []);
        host.mailname = Some("m.b".to_owned());
        assert_found(&check_names(&config(&["-d", "m.b"], &host), &host), "user@a.b", false);
        let found = check_names(&config(&["-d", "A.B"], &host), &host);
        assert_found(&found, "user@m.b", false);
        assert_eq!(found.len(), 1);
        let host = host_named("a");
        assert_found(&check_names(&config(&[], &host), &host), "has no dot", false);
        assert_eq!(check_names(&config(&["--sandbox", "d"], &host), &host), []);
    }
}
