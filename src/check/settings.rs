//! Checks of single values that do not stop the start: names that contradict each other, files that
//! cannot be used. The checks that the start makes too are in `config/doubtful_settings.rs`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{advice, privilege};
use crate::config::options::Origin;
use crate::config::{Config, HostInfo, NameSet};
use crate::observe::logging::{self, LogTarget};
use crate::resolver::Problem;
use crate::session::Audience;
use crate::smtp::Domain;
use crate::terminal::Terminals;

/// Runs all checks of this file.
pub fn check(config: &Config, host: &HostInfo) -> Vec<Problem> {
    let mut found = config.doubtful_settings();
    found.extend(check_names(config, host));
    found.extend(check_configuration_file(config));
    found.extend(check_terminals(config));
    found.extend(check_syslog(config));
    found.extend(check_metrics_file(config));
    found
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
    (config.terminals != Audience::NoClient && !utmp.exists()).then(|| {
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
            &if directory.exists() {
                "let it, or name a file in a directory of mailslot's own".to_owned()
            } else {
                let owner = privilege::expected_owner(config);
                format!("{} {}", owner.install_command(0o755), directory.display())
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, host_named};

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
