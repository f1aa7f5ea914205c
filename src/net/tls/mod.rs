//! TLS for servers (RFC 3207, RFC 8314): certificate and key, and the TLS of one connection.
//! Versions 1.2 and 1.3, by rustls.
//!
//! ```text
//! ServerCertificate (one for a process) --session()--> TlsSession (one for a connection)
//!   certificate chain, key                               handshake, read, write_all, close_notify
//!   reload() on HUP                                      over anything that reads and writes
//! ```
//! A [`ServerCertificate`] is always usable: its chain parses, and the key belongs to the first
//! certificate. A [reload](ServerCertificate::reload) of files that are not keeps the old ones, and
//! sessions that run keep theirs. A [`TlsSession`] holds a bounded number of bytes for any input of
//! the client, because rustls takes no record above 16 KiB and no handshake message above 64 KiB.
//!
//! It opens no socket and measures no time; the caller's socket has deadlines. Clients are not
//! asked for certificates.
//!
//! | file | contains |
//! | --- | --- |
//! | `client.rs` | TLS for clients: trusted certificates, and the TLS of one connection |
//! | `verifier.rs` | the verifier of server certificates |
//! | `words.rs` | errors of TLS in plain words |
//! | `certificate.rs` | the dates of a certificate and its host |
//! | `names.rs` | the names in a certificate |
//! | `absent.rs` | the replacement of this directory without the feature `tls` |

mod certificate;
mod client;
mod names;
mod verifier;
mod words;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CommonState, ConnectionCommon, Error, InconsistentKeys, ProtocolVersion, ServerConfig,
    ServerConnection, SideData,
};

pub use certificate::{Certificate, examine};
pub use client::{PeerCertificate, TlsClientSession, Trust};

use crate::process::confinement;

/// Certificate chain and private key, from PEM files.
pub struct ServerCertificate {
    cert: PathBuf,
    key: PathBuf,
    config: Mutex<Arc<ServerConfig>>,
}

impl ServerCertificate {
    /// Reads the chain from the file `cert`, the server's own certificate first, and the private
    /// key from the file `key`, which may be the same.
    ///
    /// # Errors
    /// A file cannot be read or does not contain one, or the key does not belong to the
    /// certificate. The text names the option and the file, and how to fix it.
    pub fn load(cert: &Path, key: &Path) -> Result<ServerCertificate, String> {
        let config = Mutex::new(config(cert, key)?);
        Ok(ServerCertificate { cert: cert.to_owned(), key: key.to_owned(), config })
    }

    /// Reads the files again, for connections that begin after it.
    ///
    /// # Errors
    /// Those of [`load`](ServerCertificate::load). The old certificate and key are kept then.
    pub fn reload(&self) -> Result<(), String> {
        let config = config(&self.cert, &self.key)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Returns the server's side of TLS for a connection, before the handshake.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn session(&self) -> io::Result<TlsSession> {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        let state = ServerConnection::new(config).map_err(io::Error::other);
        let state = state.map_err(|e| words::in_words(e, CLIENT))?;
        Ok(TlsConnection { state, peer: CLIENT.to_owned() })
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("cert", &self.cert)
            .field("key", &self.key)
            .finish()
    }
}

/// TLS of one connection: a [`TlsSession`] or a [`TlsClientSession`].
#[derive(Debug)]
pub struct TlsConnection<C> {
    state: C,
    /// The other side, for errors: a host, or the client.
    peer: String,
}

/// The server's side of one connection.
pub type TlsSession = TlsConnection<ServerConnection>;

impl TlsSession {
    /// Makes the handshake over `socket`.
    ///
    /// # Errors
    /// Those of the socket. `InvalidData` if the client does not speak TLS, or has no version or
    /// cipher in common with this host; an alert was sent to it. `UnexpectedEof` if it closed the
    /// connection.
    pub fn handshake(&mut self, socket: &mut (impl Read + Write)) -> io::Result<TlsInfo> {
        let info = self.complete_handshake(socket)?;
        Ok(TlsInfo { sni: self.state.server_name().map(str::to_owned), ..info })
    }
}

impl<C, S> TlsConnection<C>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    S: SideData,
{
    fn complete_handshake(&mut self, socket: &mut (impl Read + Write)) -> io::Result<TlsInfo> {
        while self.state.is_handshaking() {
            self.state.complete_io(socket).map_err(|e| words::in_words(e, &self.peer))?;
        }
        Ok(tls_info(&self.state))
    }

    /// Reads from `socket` until there is something for `buffer`. Returns 0 at the end of the
    /// connection, even if the peer has not announced it (close_notify), because QUIT ends a
    /// session of SMTP and a truncated one is recognized.
    ///
    /// # Errors
    /// Those of the socket. `InvalidData` if the input is not TLS; an alert was sent.
    pub fn read(
        &mut self,
        socket: &mut (impl Read + Write),
        buffer: &mut [u8],
    ) -> io::Result<usize> {
        match rustls::Stream::new(&mut self.state, socket).read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            result => result.map_err(|e| words::in_words(e, &self.peer)),
        }
    }

    /// Writes all of `bytes` to `socket`.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn write_all(&mut self, socket: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
        // In pieces, because rustls buffers what the socket has not taken yet.
        for piece in bytes.chunks(PIECE) {
            self.state.writer().write_all(piece)?;
            self.write_records(socket)?;
        }
        Ok(())
    }

    /// Announces the end of the connection to the peer, which distinguishes it from a truncation
    /// (close_notify, RFC 8446 6.1).
    ///
    /// # Errors
    /// Those of the socket.
    pub fn close_notify(&mut self, socket: &mut impl Write) -> io::Result<()> {
        self.state.send_close_notify();
        self.write_records(socket)
    }

    fn write_records(&mut self, socket: &mut impl Write) -> io::Result<()> {
        while self.state.wants_write() {
            self.state.write_tls(socket)?;
        }
        Ok(())
    }
}

/// The result of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher's name in the IANA registry, `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The DNS name of the host that the client asked for (server_name, RFC 6066 3); always None on
    /// the client's side.
    pub sni: Option<String>,
}

/// Writes what a Received field shows, in the form of Postfix: `using TLSv1.3 with cipher
/// TLS_AES_256_GCM_SHA384`.
impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "using {} with cipher {}", self.version, self.cipher)
    }
}

fn tls_info(state: &CommonState) -> TlsInfo {
    let version = match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = state.negotiated_cipher_suite();
    let cipher = cipher.and_then(|c| c.suite().as_str()).unwrap_or("unknown");
    // rustls writes TLS13_AES_128_GCM_SHA256 where IANA has no 13.
    TlsInfo { version, cipher: cipher.replacen("TLS13_", "TLS_", 1), sni: None }
}

fn config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(default_provider());
    let certified_key = certified_key(&chain(cert)?, cert, key, &provider)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key)));
    Ok(Arc::new(config))
}

/// Reads the certificates in the file `cert`, at least one.
fn chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let error = |why: &dyn fmt::Display| format!("tls-cert {}: {why}", cert.display());
    let text = read(cert).map_err(|e| error(&e))?;
    let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|_| error(&"not in PEM form"))?;
    if chain.is_empty() {
        return Err(error(&"contains no certificate; a PEM file has -----BEGIN CERTIFICATE-----"));
    }
    Ok(chain)
}

/// Reads the key in the file `key`, and checks that it belongs to the first certificate of `chain`,
/// which was read from `cert`.
fn certified_key(
    chain: &[CertificateDer<'static>],
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let error = |why: &dyn fmt::Display| format!("tls-key {}: {why}", key.display());
    let text = read(key).map_err(|e| error(&e))?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
        PemError::NoItemsFound if contains(&text, b"ENCRYPTED") => {
            error(&"the key is encrypted; openssl pkey -in FILE -out FILE.plain decrypts it")
        }
        PemError::NoItemsFound => error(&"contains no private key"),
        _ => error(&"not in PEM form"),
    })?;
    CertifiedKey::from_der(chain.to_vec(), der, provider).map_err(|e| match e {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => error(&format!(
            "does not belong to the first certificate in {}, which must be the server's own",
            cert.display()
        )),
        Error::InvalidCertificate(_) => {
            format!("tls-cert {}: the first certificate is invalid", cert.display())
        }
        _ => error(&"the key is of a kind that is not supported; use RSA, ECDSA or Ed25519"),
    })
}

/// Reads a file of certificates or keys.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let opened = File::open(path).map_err(|e| match e.kind() {
        _ if confinement::blocks_reading(path) => io::Error::other(UNCONFINED),
        io::ErrorKind::PermissionDenied => io::Error::other(format!(
            "{e}; make it readable by the group that mailslot runs as (chgrp, chmod g+r)"
        )),
        _ => e,
    });
    opened?.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

const UNCONFINED: &str =
    "it is outside the confinement that was set up at the start; restart mailslot";
/// The other side of a server's connection.
const CLIENT: &str = "the client";
/// Bytes given to rustls at once: one record.
const PIECE: usize = 16 * 1024;
/// Bytes of a file that are read, which is hundreds of certificates.
const FILE_MAX: u64 = 1024 * 1024;
