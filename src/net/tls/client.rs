//! TLS for clients: trusted roots, and the TLS of one connection.
//!
//! ```text
//! Trust (made once) --session(host)--> TlsClientSession (one for a connection)
//! ```
//! A certificate is verified against the roots and against the host's name or address as it was
//! configured (RFC 6125), not the name by which the server greets. [`Trust::any_certificate`]
//! verifies neither, and protects against eavesdroppers only.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::{TlsConnection, TlsInfo, read};

/// Trusted roots.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Returns the roots that this system trusts.
    ///
    /// # Errors
    /// The system has none. The text says what to install.
    pub fn system() -> Result<Trust, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            let error = "this system has no root certificates; install the package \
                ca-certificates, or name a file with smarthost-ca";
            return Err(error.to_owned());
        }
        Trust::with_roots(roots)
    }

    /// Returns the roots in a PEM file, which may be servers' own certificates.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate in it. The text names the file.
    pub fn file(path: &Path) -> Result<Trust, String> {
        let error = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
        let text = read(path).map_err(|e| error(&e))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|e| error(&e))?;
            roots.add(certificate).map_err(|e| error(&e))?;
        }
        if roots.is_empty() {
            return Err(error(
                &"contains no certificate; a PEM file has -----BEGIN CERTIFICATE-----",
            ));
        }
        Trust::with_roots(roots)
    }

    /// Accepts any certificate, so that the connection is encrypted to an unknown server.
    ///
    /// # Errors
    /// The cryptographic provider has no usable protocol version.
    pub fn any_certificate() -> Result<Trust, String> {
        let provider = Arc::new(default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Trust(Arc::new(config)))
    }

    /// Returns the client's side of TLS for a connection to `host`, a name or an address, before
    /// the handshake.
    ///
    /// # Errors
    /// No certificate can have that name.
    pub fn session(&self, host: &str) -> io::Result<TlsClientSession> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(&self.0), name);
        session.map(TlsConnection).map_err(io::Error::other)
    }

    fn with_roots(roots: RootCertStore) -> Result<Trust, String> {
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust(Arc::new(config)))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").finish_non_exhaustive()
    }
}

/// The client's side of one connection.
pub type TlsClientSession = TlsConnection<ClientConnection>;

impl TlsClientSession {
    /// Makes the handshake over `socket`.
    ///
    /// # Errors
    /// Those of the socket. `InvalidData` if the server does not speak TLS or is not trusted; an
    /// alert was sent to it.
    pub fn handshake(&mut self, socket: &mut (impl Read + Write)) -> io::Result<TlsInfo> {
        self.complete_handshake(socket)
    }
}

/// Accepts any certificate, but verifies the handshake signature, so that the server has the key.
#[derive(Debug)]
struct AcceptAnyCertificate(Arc<CryptoProvider>);

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
