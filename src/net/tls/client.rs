//! TLS as a client speaks it: whom it trusts, and one connection's session.
//!
//! ```text
//! Trust (made once) --session(host)--> ClientSession (one for a connection)
//! ```
//! A certificate is checked against authorities and against the host's name or address (RFC 6125),
//! as the host was configured and not as it calls itself; [`Trust::any_certificate`] checks neither, and
//! keeps out only those who listen.

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

use super::{TlsInfo, facts, read, read_from, send, write_all};

/// Whose certificates are believed.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// The authorities that this system trusts.
    ///
    /// # Errors
    /// There are none; the text names the cure.
    pub fn system() -> Result<Trust, String> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        match roots.is_empty() {
            true => Err("this system has no certificates of authorities; install the package \
                ca-certificates, or name a file"
                .to_owned()),
            false => Trust::of(roots),
        }
    }

    /// The authorities, or servers' own certificates, in a PEM file.
    ///
    /// # Errors
    /// It cannot be read, or holds none; the text names the file.
    pub fn file(path: &Path) -> Result<Trust, String> {
        let wrong = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
        let text = read(path).map_err(|e| wrong(&e))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|e| wrong(&e))?;
            roots.add(certificate).map_err(|e| wrong(&e))?;
        }
        match roots.is_empty() {
            true => Err(wrong(&"no certificate is in it; PEM has -----BEGIN CERTIFICATE-----")),
            false => Trust::of(roots),
        }
    }

    /// Everybody: the channel is encrypted, but nobody knows to whom.
    ///
    /// # Errors
    /// None that is known.
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

    /// The client's side of a connection to `host`, a name or an address, that begins.
    ///
    /// # Errors
    /// A certificate can have no such name.
    pub fn session(&self, host: &str) -> io::Result<TlsClientSession> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let session = ClientConnection::new(Arc::clone(&self.0), name);
        session.map(TlsClientSession).map_err(io::Error::other)
    }

    fn of(roots: RootCertStore) -> Result<Trust, String> {
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

/// One connection's TLS.
#[derive(Debug)]
pub struct TlsClientSession(ClientConnection);

impl TlsClientSession {
    /// Makes the handshake over `wire`.
    ///
    /// # Errors
    /// The wire's own. `InvalidData` for a server that does not speak TLS, or that is not believed:
    /// it has been told by an alert.
    pub fn handshake(&mut self, wire: &mut (impl Read + Write)) -> io::Result<TlsInfo> {
        while self.0.is_handshaking() {
            self.0.complete_io(wire)?;
        }
        Ok(facts(&self.0))
    }

    /// As [`TlsSession::read`](super::TlsSession::read).
    ///
    /// # Errors
    /// The wire's own. `InvalidData` for what is no TLS.
    pub fn read(&mut self, wire: &mut (impl Read + Write), buffer: &mut [u8]) -> io::Result<usize> {
        read_from(&mut self.0, wire, buffer)
    }

    /// Writes all of `bytes` to `wire`.
    ///
    /// # Errors
    /// The wire's own.
    pub fn write_all(&mut self, wire: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        write_all(&mut self.0, wire, bytes)
    }

    /// As [`TlsSession::end`](super::TlsSession::end).
    ///
    /// # Errors
    /// The wire's own.
    pub fn end(&mut self, wire: &mut impl Write) -> io::Result<()> {
        self.0.send_close_notify();
        send(&mut self.0, wire)
    }
}

/// Believes every certificate, and still wants to see that the server has its key.
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
