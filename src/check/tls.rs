//! Checks of TLS: files, permissions, dates, names, and whether it is required.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::{advice, problem};
use crate::config::{Config, TlsOptions};
use crate::net::listen::ListenAddress;
use crate::net::tls::{Certificate, examine};
use crate::resolver::Problem;

/// Returns the reason why certificate and key cannot be used.
pub fn explain(config: &Config) -> Option<Problem> {
    let tls = config.tls.as_ref()?;
    let what = examine(&tls.cert, &tls.key, &config.hostname).err()?;
    Some(problem(what, "correct tls-cert and tls-key; the server does not start with these"))
}

/// Checks certificate and key, if TLS is configured.
pub fn check(config: &Config) -> Vec<Problem> {
    let Some(tls) = &config.tls else { return Vec::new() };
    let mut found = Vec::new();
    if let Ok(certificate) = examine(&tls.cert, &tls.key, &config.hostname) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        found.extend(check_dates(tls, &certificate, now));
        found.extend(check_name(config, tls, &certificate));
    }
    found.extend(check_key_mode(tls));
    found.extend(check_required_tls(config, tls));
    found
}

/// Checks that the chain is valid at `now`, and for some time after.
fn check_dates(tls: &TlsOptions, certificate: &Certificate, now: u64) -> Option<Problem> {
    let shown = tls.cert.display();
    let Certificate { not_before: begins, not_after: ends, .. } = *certificate;
    if now > ends {
        return Some(problem(
            format!("tls-cert {shown} expired at {}", date(ends)),
            "renew it, then send HUP; senders that verify it wait until then",
        ));
    }
    if now < begins {
        return Some(problem(
            format!("tls-cert {shown} is not valid before {}", date(begins)),
            "check the clock of this host, or wait",
        ));
    }
    let days = (ends - now) / DAY;
    (days < SOON).then(|| {
        advice(
            format!("tls-cert {shown} expires in {days} days, at {}", date(ends)),
            "renew it, then send HUP",
        )
    })
}

/// Checks that the certificate is valid for the hostname.
fn check_name(config: &Config, tls: &TlsOptions, certificate: &Certificate) -> Option<Problem> {
    (!certificate.names_host).then(|| {
        advice(
            format!("tls-cert {} is not valid for {}", tls.cert.display(), config.hostname),
            "get one with the hostname as a subjectAltName, or set hostname to a name in it",
        )
    })
}

/// Checks that the key is not accessible to all users.
fn check_key_mode(tls: &TlsOptions) -> Option<Problem> {
    let mode = fs::metadata(&tls.key).ok()?.mode();
    let shown = tls.key.display();
    (mode & 0o007 != 0).then(|| {
        advice(
            format!("tls-key {shown} (mode {:o}) is accessible to all users", mode & 0o777),
            &format!("chmod o= {shown}  # and replace the key if others may have read it"),
        )
    })
}

/// Checks that TLS is not required on a public port 25 (RFC 3207 4).
fn check_required_tls(config: &Config, tls: &TlsOptions) -> Option<Problem> {
    let public = |address: &ListenAddress| {
        let ListenAddress::Tcp { host, port: 25, tls: false } = address else { return false };
        !host.parse().map_or(host == "localhost", |ip: std::net::IpAddr| ip.is_loopback())
    };
    let public = config.listen.iter().find(|address| public(address))?;
    tls.required.then(|| {
        advice(
            format!("tls-required is on, so senders without TLS cannot send mail to {public}"),
            "set tls-required to off, unless every sender is known (RFC 3207 4)",
        )
    })
}

/// Formats a time in seconds since the epoch: `2025-07-01T08:52:37Z`.
pub(super) fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    at.map_or_else(|| "a time beyond calendars".to_owned(), |at| at.to_string())
}

const DAY: u64 = 86400;
/// Days before the expiry at which it is reported. certbot renews 30 days before it.
const SOON: u64 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_is_reported_in_time() {
        let tls = TlsOptions { cert: "c".into(), key: "k".into(), required: false };
        let (begins, ends) = (1_000_000_000, 1_100_000_000);
        let certificate = certificate(begins, ends);
        for (now, said) in [
            (begins - 1, Some("c is not valid before 2001-09-09T01:46:40Z")),
            (begins, None),
            (ends - 14 * DAY, None),
            (ends - 14 * DAY + 1, Some("c expires in 13 days, at 2004-11-09T11:33:20Z")),
            (ends, Some("c expires in 0 days")),
            (ends + 1, Some("c expired at 2004-11-09T11:33:20Z")),
        ] {
            let what = check_dates(&tls, &certificate, now).map(|problem| problem.what);
            match (&what, said) {
                (Some(what), Some(said)) => assert!(what.contains(said), "{now}: {what}"),
                _ => assert_eq!(what.as_deref(), said, "{now}"),
            }
        }
        assert_eq!(date(u64::MAX), "a time beyond calendars");
    }

    fn certificate(begins: u64, ends: u64) -> Certificate {
        Certificate { not_before: begins, not_after: ends, names_host: true }
    }
}
