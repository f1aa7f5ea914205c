//! The verifier of server certificates, which returns the fault or accepts any certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::names::names;

/// An error of a certificate that rustls does not distinguish.
#[derive(Debug)]
pub enum CertificateFault {
    /// The certificate is its own issuer's.
    SelfSigned,
    /// The certificate says that it is an authority.
    Authority,
}

impl fmt::Display for CertificateFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CertificateFault::SelfSigned => "self-signed",
            CertificateFault::Authority => "an authority",
        })
    }
}

impl std::error::Error for CertificateFault {}

impl From<CertificateFault> for CertificateError {
    fn from(fault: CertificateFault) -> CertificateError {
        CertificateError::Other(OtherError(Arc::new(fault)))
    }
}

/// A verifier of servers: of their certificates against `roots`, and of the handshake signature,
/// because the server must have the key of its certificate.
#[derive(Debug)]
pub struct ServerVerifier {
    /// The roots, or None to accept any certificate.
    pub roots: Option<TrustedRoots>,
    pub provider: Arc<CryptoProvider>,
}

/// The certificates by which those of servers are verified.
#[derive(Debug)]
pub struct TrustedRoots {
    pub verifier: Arc<WebPkiServerVerifier>,
    /// Certificates that are trusted themselves, even if they say that they are authorities, as
    /// those do that `openssl req -x509` makes.
    pub pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(TrustedRoots { verifier, pinned }) = &self.roots else {
            return Ok(ServerCertVerified::assertion());
        };
        let result =
            verifier.verify_server_cert(certificate, intermediates, host, ocsp_response, now);
        let Err(Error::InvalidCertificate(
            error @ (CertificateError::UnknownIssuer
            // A root has the same name by chance.
            | CertificateError::BadSignature
            | CertificateError::Other(_)),
        )) = result
        else {
            return result;
        };
        // The verifier checks dates first, so that a certificate that says that it is an authority
        // is valid now.
        let is_authority = matches!(error, CertificateError::Other(_));
        if is_authority && pinned.iter().any(|pinned| pinned == certificate) {
            verify_server_name(&ParsedCertificate::try_from(certificate)?, host)?;
            return Ok(ServerCertVerified::assertion());
        }
        let is_self_signed = names(certificate).is_some_and(|names| names.are_equal);
        Err(Error::InvalidCertificate(match error {
            _ if is_self_signed => CertificateFault::SelfSigned.into(),
            CertificateError::Other(_) => CertificateFault::Authority.into(),
            error => error,
        }))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
