//! What a certificate says of itself, for `mailslot check`: from when to when, and for which host.
//!
//! rustls shows no dates, but its verifier names them when it refuses one for its date; so it is
//! asked for times at which it must. That spares a parser of certificates, and what is told here is
//! what a client that verifies will find.

use std::path::Path;
use std::time::Duration;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

use super::{certified_key, chain};

/// A chain of certificates whose key was found to belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The second, since 1970, from which all certificates of the chain hold.
    pub begins: u64,
    /// The last second at which all hold.
    pub ends: u64,
    /// Whether the first certificate is for the host it was examined for.
    pub names_host: bool,
}

/// Looks at the chain in `cert` and the key in `key`, for a server called `host`.
///
/// # Errors
/// As [`ServerCertificate::load`](super::ServerCertificate::load), and for a certificate that is not understood.
pub fn examine(cert: &Path, key: &Path, host: &str) -> Result<Certificate, String> {
    let chain = chain(cert)?;
    certified_key(&chain, cert, key, &default_provider())?;
    let mut found = Certificate { begins: 0, ends: u64::MAX, names_host: false };
    for (number, der) in chain.iter().enumerate() {
        let strange =
            || format!("tls-cert {}: certificate {} is not understood", cert.display(), number + 1);
        let parsed = ParsedCertificate::try_from(der).map_err(|_| strange())?;
        let (begins, ends) = validity(&parsed).ok_or_else(strange)?;
        found.begins = found.begins.max(begins);
        found.ends = found.ends.min(ends);
        if number == 0 {
            found.names_host = ServerName::try_from(host)
                .is_ok_and(|host| verify_server_name(&parsed, &host).is_ok());
        }
    }
    Ok(found)
}

/// The seconds since 1970 from and up to which a certificate holds.
fn validity(parsed: &ParsedCertificate<'_>) -> Option<(u64, u64)> {
    let at = |seconds| refusal(parsed, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    let ends = match at(u64::MAX)? {
        CertificateError::ExpiredContext { not_after, .. } => not_after.as_secs(),
        _ => return None,
    };
    let begins = match at(0) {
        Some(CertificateError::NotValidYetContext { not_before, .. }) => not_before.as_secs(),
        _ => 0,
    };
    Some((begins, ends))
}

/// Why a client that trusts nobody would refuse it at `now`: dates come before trust.
fn refusal(parsed: &ParsedCertificate<'_>, now: UnixTime) -> Option<CertificateError> {
    let nobody = RootCertStore::empty();
    let alone: &[CertificateDer<'_>] = &[];
    let provider = default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(parsed, &nobody, alone, now, algorithms) {
        Err(Error::InvalidCertificate(why)) => Some(why),
        _ => None,
    }
}
