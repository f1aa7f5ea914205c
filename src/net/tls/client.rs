//! TLS for clients: trusted certificates, and the TLS of one connection.
//!
//! ```text
//! Trust (made once) --session(host)--> TlsClientSession (one for a connection)
//!   reload() on HUP
//! ```
//! A certificate is verified against the roots and against the host's name or address as it was
//! configured (RFC 6125), not the name by which the server greets. [`Trust::any_certificate`]
//! verifies neither, and protects against eavesdroppers only.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_native_certs::ErrorKind;

use super::certificate::validity;
use super::names::names;
use super::verifier::{ServerVerifier, TrustedRoots};
use super::words::in_words;
use super::{TlsConnection, TlsInfo, UNCONFINED, read};
use crate::process::confinement;

/// Trusted certificates. All clones share them.
#[derive(Clone)]
pub struct Trust(Arc<TrustStore>);

struct TrustStore {
    source: TrustSource,
    config: Mutex<Arc<ClientConfig>>,
}

/// The place from which trusted certificates are read.
enum TrustSource {
    /// The roots that this system trusts.
    System,
    /// A PEM file of roots, which may be servers' own certificates.
    File(PathBuf),
    /// None, because any certificate is trusted.
    AnyCertificate,
}

impl Trust {
    /// Returns the roots that this system trusts.
    ///
    /// # Errors
    /// The system has no roots. The text says what to install.
    pub fn system() -> Result<Trust, String> {
        Trust::new(TrustSource::System)
    }

    /// Returns the roots in a PEM file, which may be servers' own certificates.
    ///
    /// # Errors
    /// The file cannot be read or has no certificate in it. The text names the file.
    pub fn file(path: &Path) -> Result<Trust, String> {
        Trust::new(TrustSource::File(path.to_owned()))
    }

    /// Accepts any certificate, so that the connection is encrypted to an unknown server.
    ///
    /// # Errors
    /// The cryptographic provider has no usable protocol version.
    pub fn any_certificate() -> Result<Trust, String> {
        Trust::new(TrustSource::AnyCertificate)
    }

    fn new(source: TrustSource) -> Result<Trust, String> {
        let config = Mutex::new(source.read()?);
        Ok(Trust(Arc::new(TrustStore { source, config })))
    }

    /// Reads the certificates again, for connections that begin after it.
    ///
    /// # Errors
    /// Those of [`system`](Trust::system) and [`file`](Trust::file), or the confinement blocks a
    /// file. The old certificates are kept then.
    pub fn reload(&self) -> Result<(), String> {
        let config = self.0.source.read()?;
        *self.0.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Returns the client's side of TLS for a connection to `host`, a name or an address, before
    /// the handshake.
    ///
    /// # Errors
    /// No certificate can have that name.
    pub fn session(&self, host: &str) -> io::Result<TlsClientSession> {
        let no_name = || io::Error::other(format!("no certificate can be for the name {host}"));
        let name = ServerName::try_from(host.to_owned()).map_err(|_| no_name())?;
        let config = Arc::clone(&self.0.config.lock().unwrap_or_else(PoisonError::into_inner));
        let state = ClientConnection::new(config, name).map_err(io::Error::other);
        let state = state.map_err(|e| in_words(e, host))?;
        Ok(TlsConnection { state, peer: host.to_owned() })
    }
}

impl TrustSource {
    /// Reads the certificates, and returns the configuration that trusts them.
    fn read(&self) -> Result<Arc<ClientConfig>, String> {
        let provider = Arc::new(default_provider());
        let roots = match self {
            TrustSource::System => Some((system_roots()?, Vec::new())),
            TrustSource::File(path) => Some(roots_in(path)?),
            TrustSource::AnyCertificate => None,
        };
        let roots = roots.map(|(roots, pinned)| {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone());
            let verifier = verifier.build().map_err(|e| format!("TLS: {e}"))?;
            Ok::<_, String>(TrustedRoots { verifier, pinned })
        });
        let verifier = ServerVerifier { roots: roots.transpose()?, provider: provider.clone() };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| format!("TLS: {e}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// Returns the roots that this system trusts.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        // Some of the roots would not be enough for all servers.
        if let ErrorKind::Io { path, .. } = error.kind
            && confinement::blocks_reading(&path)
        {
            return Err(format!("{}: {UNCONFINED}", path.display()));
        }
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let error = "this system has no root certificates; install the package \
            ca-certificates, or name a file with smarthost-ca";
        return Err(error.to_owned());
    }
    Ok(roots)
}

/// Returns the roots in a PEM file, and all certificates in it.
fn roots_in(path: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let error = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    let text = read(path).map_err(|e| error(&e))?;
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|_| error(&"not in PEM form"))?;
        let number = certificates.len() + 1;
        let unusable = format!("certificate {number} cannot be parsed");
        roots.add(certificate.clone()).map_err(|_| error(&unusable))?;
        certificates.push(certificate);
    }
    if roots.is_empty() {
        return Err(error(&"contains no certificate; a PEM file has -----BEGIN CERTIFICATE-----"));
    }
    Ok((roots, certificates))
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

    /// Returns the server's certificate after the handshake.
    pub fn certificate(&self) -> Option<PeerCertificate> {
        let der = self.state.peer_certificates()?.first()?;
        let names = names(der)?;
        let (_, not_after) = validity(&ParsedCertificate::try_from(der).ok()?)?;
        Some(PeerCertificate { subject: names.subject, issuer: names.issuer, not_after })
    }
}

/// The certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The name of the server in it; may be empty.
    pub subject: String,
    /// The name of the authority that signed it.
    pub issuer: String,
    /// The last second, since 1970, at which it is valid.
    pub not_after: u64,
}
