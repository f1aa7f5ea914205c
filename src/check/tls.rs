//! What is wrong with TLS: files, permissions, dates, names, and where it is asked for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::{advice, stops};
use crate::config::{Config, TlsFiles};
use crate::net::listen::ListenAddress;
use crate::net::tls::{Certificate, examine};
use crate::route::AliasProblem;

/// Every problem with certificate and key; none where there is no TLS.
pub fn problems(config: &Config) -> Vec<AliasProblem> {
    let Some(tls) = &config.tls else { return Vec::new() };
    let mut found = Vec::new();
    match examine(&tls.cert, &tls.key, &config.hostname) {
        Err(what) => found.push(stops(what, "correct tls-cert and tls-key: it does not start so")),
        Ok(certificate) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            found.extend(dates(tls, &certificate, now));
            found.extend(name(config, tls, &certificate));
        }
    }
    found.extend(key_mode(tls));
    found.extend(required_tls(config, tls));
    found
}

/// Whether the chain holds at `now`, and for how long.
fn dates(tls: &TlsFiles, certificate: &Certificate, now: u64) -> Option<AliasProblem> {
    let shown = tls.cert.display();
    let Certificate { not_before: begins, not_after: ends, .. } = *certificate;
    if now > ends {
        return Some(stops(
            format!("tls-cert {shown} has expired, at {}", date(ends)),
            "renew it, then send HUP; senders that verify it keep their mail back",
        ));
    }
    if now < begins {
        return Some(stops(
            format!("tls-cert {shown} does not hold before {}", date(begins)),
            "look at this host's clock, or wait",
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

fn name(config: &Config, tls: &TlsFiles, certificate: &Certificate) -> Option<AliasProblem> {
    (!certificate.names_host).then(|| {
        advice(
            format!("tls-cert {} is not for {}", tls.cert.display(), config.hostname),
            "get one with this host's name as a subjectAltName, or set hostname to what it has",
        )
    })
}

/// Who else can read the key.
fn key_mode(tls: &TlsFiles) -> Option<AliasProblem> {
    let mode = fs::metadata(&tls.key).ok()?.mode();
    let shown = tls.key.display();
    (mode & 0o007 != 0).then(|| {
        advice(
            format!("tls-key {shown} (mode {:o}) is open to everybody", mode & 0o777),
            &format!("chmod o= {shown}  # and if it was so for long, get a new key"),
        )
    })
}

/// A host that takes mail from the Internet must not insist (RFC 3207 4).
fn required_tls(config: &Config, tls: &TlsFiles) -> Option<AliasProblem> {
    let public = |address: &ListenAddress| {
        let ListenAddress::Tcp { host, port: 25, tls: false } = address else { return false };
        !host.parse().map_or(host == "localhost", |ip: std::net::IpAddr| ip.is_loopback())
    };
    let public = config.listen.iter().find(|address| public(address))?;
    tls.required.then(|| {
        advice(
            format!("tls-required is on at {public}: senders without TLS cannot send mail here"),
            "set tls-required to off, unless every sender is known (RFC 3207 4)",
        )
    })
}

/// `2025-07-01T08:52:37Z`
fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    at.map_or_else(|| "a time beyond calendars".to_owned(), |at| at.to_string())
}

const DAY: u64 = 86400;
/// Days before the end at which to speak: certbot renews 30 days before it.
const SOON: u64 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_told_in_time() {
        let tls = TlsFiles { cert: "c".into(), key: "k".into(), required: false };
        let (begins, ends) = (1_000_000_000, 1_100_000_000);
        let certificate = certificate(begins, ends);
        for (now, said) in [
            (begins - 1, Some("c does not hold before 2001-09-09T01:46:40Z")),
            (begins, None),
            (ends - 14 * DAY, None),
            (ends - 14 * DAY + 1, Some("c expires in 13 days, at 2004-11-09T11:33:20Z")),
            (ends, Some("c expires in 0 days")),
            (ends + 1, Some("c has expired, at 2004-11-09T11:33:20Z")),
        ] {
            let what = dates(&tls, &certificate, now).map(|problem| problem.what);
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
