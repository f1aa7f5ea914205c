//! Verifiers of server certificates: one that knows why it refuses, and one that accepts any.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::names::names;

/// The error that a certificate is its own issuer's.
#[derive(Debug)]
pub struct SelfSigned;

/// The error that a certificate says that it is an authority.
#[derive(Debug)]
pub struct OwnAuthority;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("self-signed")
    }
}

impl fmt::Display for OwnAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an authority")
    }
}

impl StdError for SelfSigned {}
impl StdError for OwnAuthority {}

/// Verifies certificates against roots.
#[derive(Debug)]
pub struct RootVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    /// Certificates that are trusted themselves, even if they say that they are authorities, as
    /// those do that `openssl req -x509` makes.
    pinned: Vec<CertificateDer<'static>>,
}

impl RootVerifier {
    pub fn new(
        verifier: Arc<WebPkiServerVerifier>,
        pinned: Vec<CertificateDer<'static>>,
    ) -> RootVerifier {
        RootVerifier { verifier, pinned }
    }
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
            _ if is_self_signed => CertificateError::Other(OtherError(Arc::new(SelfSigned))),
            CertificateError::Other(_) => {
                CertificateError::Other(OtherError(Arc::new(OwnAuthority)))
            }
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
