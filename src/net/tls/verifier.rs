//! Verifiers of server certificates: one that returns the fault, and one that accepts any.

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

/// Verifies certificates against roots.
#[derive(Debug)]
pub struct RootVerifier {
    pub verifier: Arc<WebPkiServerVerifier>,
    /// Certificates that are trusted themselves, even if they say that they are authorities, as
    /// those do that `openssl req -x509` makes.
    pub pinned: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for RootVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verifier = &self.verifier;
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
        if is_authority && self.pinned.iter().any(|pinned| pinned == certificate) {
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
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Accepts any certificate, but verifies the handshake signature, so that the server has the key.
#[derive(Debug)]
pub struct AcceptAnyCertificate(pub Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
