//! Errors of TLS in plain words, with the certificate or the peer that causes them.

use std::io;

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::verifier::CertificateFault;

/// Returns the error `e` of a connection with `peer`, a host or `the client`, in plain words.
pub fn in_words(e: io::Error, peer: &str) -> io::Error {
    let text = match e.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(error) => describe(error, peer),
        None => return e,
    };
    io::Error::new(e.kind(), text)
}

/// Describes an error of the handshake with `peer`, or of the connection after it.
fn describe(error: &Error, peer: &str) -> String {
    let no_common = format!("{peer} and this host have no TLS version or cipher in common");
    match error {
        Error::InvalidCertificate(error) => describe_certificate(error, peer),
        Error::NoCertificatesPresented => format!("{peer} has no certificate"),
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. }
        | Error::PeerSentOversizedRecord => format!("{peer} sent something that is not TLS"),
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => format!("{peer} has no TLS version from 1.2 on"),
        Error::PeerIncompatible(_) => no_common,
        Error::PeerMisbehaved(_) => format!("{peer} violates the TLS protocol"),
        Error::DecryptError => format!("{peer} sent something that cannot be decrypted"),
        Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA => {
                format!("{peer} does not know the authority that signed the certificate")
            }
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown => {
                format!("{peer} does not accept the certificate")
            }
            AlertDescription::DecryptError => format!("{peer} cannot verify a signature"),
            AlertDescription::CertificateExpired => format!("{peer} finds the certificate expired"),
            AlertDescription::CertificateRevoked => format!("{peer} finds the certificate revoked"),
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity => no_common,
            AlertDescription::UnrecognisedName => {
                format!("{peer} has no certificate for the name that was asked for")
            }
            AlertDescription::CertificateRequired => {
                format!("{peer} requires a certificate of this host, which has none")
            }
            alert => format!("{peer} ended TLS with the alert {alert:?}"),
        },
        Error::FailedToGetRandomBytes => "this system has no randomness".to_owned(),
        Error::FailedToGetCurrentTime => "this system has no clock".to_owned(),
        error => format!("TLS with {peer} failed: {error}"),
    }
}

/// Describes an error of the certificate of `peer`.
fn describe_certificate(error: &CertificateError, peer: &str) -> String {
    let certificate = format!("the certificate of {peer}");
    let unknown =
        format!("{certificate} cannot be parsed, or uses something that is not supported");
    match error {
        CertificateError::Expired => format!("{certificate} has expired"),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("{certificate} expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => format!("{certificate} is not valid yet"),
        CertificateError::NotValidYetContext { not_before, .. } => {
            let date = date(*not_before);
            format!("{certificate} is not valid before {date}, or the clock of this host is wrong")
        }
        CertificateError::NotValidForName => format!("{certificate} is for another name"),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // `DnsName("mx.example.org")`
            let name = |text: &String| {
                let quoted = text.split('"').nth(1);
                quoted.unwrap_or(text).to_owned()
            };
            match presented.iter().take(NAMES_MAX).map(name).collect::<Vec<_>>() {
                names if names.is_empty() => format!("{certificate} is for no name"),
                names => format!("{certificate} is for another name: {}", names.join(", ")),
            }
        }
        CertificateError::UnknownIssuer => {
            format!("an unknown authority has signed {certificate}")
        }
        CertificateError::Revoked => format!("{certificate} is revoked"),
        CertificateError::BadSignature => format!("{certificate} has a wrong signature"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("{certificate} is not for a server")
        }
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(CertificateFault::SelfSigned) => format!("{certificate} is self-signed"),
            Some(CertificateFault::Authority) => {
                format!("{certificate} is that of an authority, and not of a server")
            }
            None => unknown,
        },
        _ => unknown,
    }
}

/// Formats a time: `2025-07-01`.
fn date(time: UnixTime) -> String {
    let at = i64::try_from(time.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok());
    at.map_or_else(|| "a day beyond calendars".to_owned(), |at| at.strftime("%F").to_string())
}

/// Maximum number of names that an error shows.
const NAMES_MAX: usize = 5;
