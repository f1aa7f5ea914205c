//! Options with a default that is not a constant of the table but depends on the host, on
//! `--sandbox`, on `--inetd` or on other options.
//!
//! Each function returns the value in effect, and records it for `mailslot check`.

use std::path::{Path, PathBuf};

use super::host_info::{ALIASES, HostInfo, MAILNAME};
use super::lookup::OptionValues;
use super::options::{CommandLine, OptionValue, Origin};
use super::{ConfigError, NameSet, TlsOptions, parse};
use crate::net::listen::ListenAddress;
use crate::observe::logging::LogTarget;
use crate::process::privilege::RunAs;

/// Returns the values that `--sandbox DIR` sets, unless they are given.
pub(super) fn sandbox_values(line: &CommandLine) -> Vec<OptionValue> {
    let Some(dir) = line.value("sandbox") else { return Vec::new() };
    let inside = |name: &str| Path::new(dir).join(name).to_string_lossy().into_owned();
    [
        ("listen", "127.0.0.1:2525".to_owned()),
        ("hostname", "localhost".to_owned()),
        ("mail-dir", inside("mail")),
        ("spool", inside("spool")),
    ]
    .map(|(long, value)| OptionValue { long, value, origin: Origin::Sandbox })
    .to_vec()
}

/// Returns the addresses for LMTP: none under `--inetd`.
pub(super) fn lmtp(values: &mut OptionValues<'_>) -> Result<Vec<ListenAddress>, ConfigError> {
    if values.line.has("inetd") {
        values.show("lmtp", "none", Origin::Host("--inetd"));
        return Ok(Vec::new());
    }
    values.list_or("lmtp", "none", parse::lmtp_address)
}

/// Returns the addresses for SMTP. They default to none under `--inetd`, to none if systemd passes
/// sockets, and to none with LMTP addresses.
pub(super) fn listen(
    values: &mut OptionValues<'_>,
    host: &HostInfo,
    lmtp: &[ListenAddress],
) -> Result<Vec<ListenAddress>, ConfigError> {
    let (shown, origin) = match values.origin("listen") {
        _ if values.line.has("inetd") => ("standard input", Origin::Host("--inetd")),
        Origin::Default if host.sockets => ("sockets passed", Origin::Host("systemd")),
        Origin::Default if !lmtp.is_empty() => ("none, only LMTP", Origin::Default),
        _ => return values.list("listen", parse::listen_address),
    };
    values.show("listen", shown, origin);
    Ok(Vec::new())
}

/// Returns the hostname, by default the full name of the host.
pub(super) fn hostname(
    values: &mut OptionValues<'_>,
    host: &HostInfo,
) -> Result<String, ConfigError> {
    if values.origin("hostname") != Origin::Default {
        return values.single("hostname", parse::hostname);
    }
    let (name, origin) = host.full_name();
    let name = parse::hostname(name).map_err(|_| {
        let name = name.escape_debug();
        ConfigError::Config(format!(
            "the name of this host, \"{name}\", is not a domain name; set one with --hostname"
        ))
    })?;
    values.show("hostname", &name, origin);
    Ok(name)
}

/// Returns the local domains, by default the name in `/etc/mailname`, the hostname and `localhost`.
/// In the sandbox every domain is local.
pub(super) fn domains(
    values: &mut OptionValues<'_>,
    host: &HostInfo,
    hostname: &str,
) -> Result<NameSet, ConfigError> {
    if values.origin("domain") != Origin::Default {
        return Ok(NameSet::Listed(values.list("domain", parse::domain)?));
    }
    if values.line.has("sandbox") {
        values.show("domain", "any", Origin::Sandbox);
        return Ok(NameSet::Any);
    }
    let (first, origin) = match &host.mailname {
        Some(name) => {
            let wrong = |form| format!("{MAILNAME}: expected {form}; or set one with --domain");
            let name = parse::domain(name).map_err(|form| ConfigError::Config(wrong(form)))?;
            (name, Origin::Host(MAILNAME))
        }
        None => (hostname.to_owned(), Origin::Host("hostname")),
    };
    let mut names: Vec<String> = Vec::new();
    for name in [&first, hostname, "localhost"] {
        if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name.to_owned());
        }
    }
    values.show("domain", &names.join(", "), origin);
    Ok(NameSet::Listed(names))
}

/// Returns the users with mailboxes, by default those of the system. In the sandbox every name is a
/// user.
pub(super) fn users(values: &mut OptionValues<'_>) -> Result<NameSet, ConfigError> {
    if values.origin("user") != Origin::Default {
        return Ok(NameSet::Listed(values.list("user", parse::user)?));
    }
    if values.line.has("sandbox") {
        values.show("user", "any", Origin::Sandbox);
        return Ok(NameSet::Any);
    }
    values.show("user", "users of the system", Origin::Default);
    Ok(NameSet::System)
}

/// Returns the alias file, by default `/etc/aliases` if it exists. The sandbox has no default.
pub(super) fn aliases(
    values: &mut OptionValues<'_>,
    host: &HostInfo,
) -> Result<Option<PathBuf>, ConfigError> {
    if values.origin("aliases") != Origin::Default {
        return values.optional("aliases", parse::path);
    }
    if values.line.has("sandbox") {
        values.show("aliases", "none", Origin::Sandbox);
        return Ok(None);
    }
    let found = host.aliases.then_some(ALIASES);
    values.show("aliases", found.unwrap_or("none"), Origin::Default);
    Ok(found.map(PathBuf::from))
}

/// Returns the destination of the log: by default standard error, and syslog under `--inetd`, where
/// standard error may be the client's socket.
pub(super) fn log_target(values: &mut OptionValues<'_>) -> Result<LogTarget, ConfigError> {
    if values.origin("log") != Origin::Default {
        return values.single("log", parse::log_target);
    }
    if values.line.has("inetd") {
        values.show("log", "syslog", Origin::Host("--inetd"));
        return Ok(LogTarget::Syslog);
    }
    values.show("log", "stderr", Origin::Default);
    Ok(LogTarget::Stderr)
}

/// Returns the file for metrics. Under `--inetd` there is none, because a process that serves one
/// session has nothing to count.
pub(super) fn metrics_file(values: &mut OptionValues<'_>) -> Result<Option<PathBuf>, ConfigError> {
    if values.line.has("inetd") {
        values.show("metrics-file", "none", Origin::Host("--inetd"));
        return Ok(None);
    }
    values.optional("metrics-file", parse::path)
}

/// Returns the account to run as, by default `mailslot:mail` for root. If mailboxes belong to the
/// user that starts the server, there is no default.
pub(super) fn run_as(
    values: &mut OptionValues<'_>,
    host: &HostInfo,
    users: &NameSet,
) -> Result<Option<RunAs>, ConfigError> {
    if values.origin("run-as") != Origin::Default {
        return values.single("run-as", parse::run_as).map(Some);
    }
    if host.root && *users == NameSet::System {
        values.show("run-as", RUN_AS, Origin::Host("started as root"));
        return parse::run_as(RUN_AS).map(Some).map_err(ConfigError::Config);
    }
    values.show("run-as", "the user that starts it", Origin::Default);
    Ok(None)
}

/// Returns certificate and key, or None for a server without TLS.
///
/// # Errors
/// An option that needs TLS is given without `tls-cert`.
pub(super) fn tls(
    values: &mut OptionValues<'_>,
    listen: &[ListenAddress],
    lmtp: &[ListenAddress],
) -> Result<Option<TlsOptions>, ConfigError> {
    let cert = values.optional("tls-cert", parse::path)?;
    let key = if values.origin("tls-key") == Origin::Default {
        let shown = if cert.is_some() { "the file of tls-cert" } else { "none" };
        values.show("tls-key", shown, Origin::Default);
        None
    } else {
        Some(values.single("tls-key", parse::path)?)
    };
    let required = values.single("tls-required", parse::on_off)?;
    if let Some(cert) = cert {
        return Ok(Some(TlsOptions { key: key.unwrap_or_else(|| cert.clone()), cert, required }));
    }
    let has_tls = |addresses: &[ListenAddress]| {
        addresses.iter().any(|a| matches!(a, ListenAddress::Tcp { tls: true, .. }))
    };
    for (long, needs_tls) in [
        ("tls-key", key.is_some()),
        ("tls-required", required),
        ("listen", has_tls(listen)),
        ("lmtp", has_tls(lmtp)),
    ] {
        if let (true, Some(given)) = (needs_tls, values.lookup(long).last()) {
            return Err(ConfigError::missing(given, "tls-cert"));
        }
    }
    Ok(None)
}

/// The default account for a server that is started as root.
const RUN_AS: &str = "mailslot:mail";
