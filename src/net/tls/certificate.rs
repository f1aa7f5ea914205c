//! Dates and host of a certificate, for `mailslot check`.
//!
//! rustls shows no dates, but its verifier names them in the error for a certificate that is not
//! valid yet or has expired. So the certificate is verified at times at which it cannot be valid.
//! This needs no parser of certificates, and a client that verifies gets the same result.

use std::path::Path;
use std::time::Duration;

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

use super::{certified_key, chain};

/// A certificate chain with its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The first second, since 1970, at which all certificates of the chain are valid.
    pub not_before: u64,
    /// The last second at which all are valid.
    pub not_after: u64,
    /// Whether the first certificate is for the host in question.
    pub names_host: bool,
}

/// Examines the chain in the file `cert` and the key in the file `key`, for a server named `host`.
///
/// # Errors
/// Those of [`ServerCertificate::load`](super::ServerCertificate::load), and a certificate that
/// cannot be parsed.
pub fn examine(cert: &Path, key: &Path, host: &str) -> Result<Certificate, String> {
    let chain = chain(cert)?;
    certified_key(&chain, cert, key, &default_provider())?;
    let mut found = Certificate { not_before: 0, not_after: u64::MAX, names_host: false };
    for (number, der) in chain.iter().enumerate() {
        let unparsable =
            || format!("tls-cert {}: cannot parse certificate {}", cert.display(), number + 1);
        let parsed = ParsedCertificate::try_from(der).map_err(|_| unparsable())?;
        let (not_before, not_after) = validity(&parsed).ok_or_else(unparsable)?;
        found.not_before = found.not_before.max(not_before);
        found.not_after = found.not_after.min(not_after);
        if number == 0 {
            found.names_host = ServerName::try_from(host)
                .is_ok_and(|host| verify_server_name(&parsed, &host).is_ok());
        }
    }
    Ok(found)
}

/// Returns the first and the last second, since 1970, at which a certificate is valid.
pub(super) fn validity(parsed: &ParsedCertificate<'_>) -> Option<(u64, u64)> {
    let at = |seconds| refusal(parsed, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    let not_after = match at(u64::MAX)? {
        CertificateError::ExpiredContext { not_after, .. } => not_after.as_secs(),
        _ => return None,
    };
    let not_before = match at(0) {
        Some(CertificateError::NotValidYetContext { not_before, .. }) => not_before.as_secs(),
        _ => 0,
    };
    Some((not_before, not_after))
}

/// Returns the error of a client without trusted roots at the time `now`. The verifier checks dates
/// before trust.
fn refusal(parsed: &ParsedCertificate<'_>, now: UnixTime) -> Option<CertificateError> {
    let no_roots = RootCertStore::empty();
    let no_intermediates: &[CertificateDer<'_>] = &[];
    let provider = default_provider();
    let algorithms = provider.signature_verification_algorithms.all;
    match verify_server_cert_signed_by_trust_anchor(
        parsed,
        &no_roots,
        no_intermediates,
        now,
        algorithms,
    ) {
        Err(Error::InvalidCertificate(why)) => Some(why),
        _ => None,
    }
}
