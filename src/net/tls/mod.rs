//! TLS as a server speaks it (RFC 3207, RFC 8314): certificate and key, and one connection's
//! session. Versions 1.2 and 1.3, by rustls. A client's side is in `tls/client.rs`.
//!
//! ```text
//! Keys (one for a process) --session()--> Session (one for a connection)
//!   certificate chain, key                  handshake, read, write, end
//!   reload() on HUP                         over anything that reads and writes
//! ```
//! It promises that [`ServerCertificate`] are good when there are any: the chain parses, and the key belongs to
//! its first certificate; a [reload](ServerCertificate::reload) that finds others keeps what it had, and
//! sessions that run keep theirs. A [`TlsSession`] holds a bounded number of octets, whatever the
//! client sends: rustls takes no record above 16 KiB and no handshake message above 64 KiB.
//!
//! It opens no socket and keeps no time: whoever calls gives it a wire with deadlines. Clients are
//! not asked for certificates. Built without the feature `tls`, `tls/absent.rs` is in its place.

mod certificate;
mod client;

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
pub use client::{TlsClientSession, Trust};

use crate::process::confinement;

/// Certificate chain and private key, from PEM files.
pub struct ServerCertificate {
    cert: PathBuf,
    key: PathBuf,
    config: Mutex<Arc<ServerConfig>>,
}

impl ServerCertificate {
    /// Reads the chain in `cert`, the server's own certificate first, and the private key in `key`.
    /// Both may be in one file.
    ///
    /// # Errors
    /// A file that cannot be read, holds no such thing, or the key does not belong to the
    /// certificate. The text names the option, the file and the cure.
    pub fn load(cert: &Path, key: &Path) -> Result<ServerCertificate, String> {
        let config = Mutex::new(config(cert, key)?);
        Ok(ServerCertificate { cert: cert.to_owned(), key: key.to_owned(), config })
    }

    /// Reads the files again, for the sessions that begin from now on.
    ///
    /// # Errors
    /// As [`load`](ServerCertificate::load); then what was there stays.
    pub fn reload(&self) -> Result<(), String> {
        let config = config(&self.cert, &self.key)?;
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// The server's side of a connection that begins.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn session(&self) -> io::Result<TlsSession> {
        let config = Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner));
        ServerConnection::new(config).map(TlsSession).map_err(io::Error::other)
    }
}

impl fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("cert", &self.cert).field("key", &self.key).finish()
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub struct TlsSession(ServerConnection);

impl TlsSession {
    /// Makes the handshake over `wire`.
    ///
    /// # Errors
    /// The wire's own. `InvalidData` for a client that does not speak TLS, or shares no version or
    /// cipher with us: it has been told by an alert. `UnexpectedEof` for one that left.
    pub fn handshake(&mut self, wire: &mut (impl Read + Write)) -> io::Result<TlsInfo> {
        while self.0.is_handshaking() {
            self.0.complete_io(wire)?;
        }
        let sni = self.0.server_name().map(str::to_owned);
        Ok(TlsInfo { sni, ..facts(&self.0) })
    }

    /// Reads from `wire` until there is something for `buffer`; 0 at the end of the connection,
    /// whether the client said that it ends (close_notify) or not: SMTP has QUIT.
    ///
    /// # Errors
    /// The wire's own. `InvalidData` for what is no TLS; the client has been told.
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

    /// Tells the client that nothing more comes, so that it can tell this end from a cut
    /// (close_notify, RFC 8446 6.1).
    ///
    /// # Errors
    /// The wire's own.
    pub fn end(&mut self, wire: &mut impl Write) -> io::Result<()> {
        self.0.send_close_notify();
        send(&mut self.0, wire)
    }
}

/// What a handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// As IANA registered it: `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The host that the client asked for (server_name, RFC 6066 3); a DNS name, or None.
    pub sni: Option<String>,
}

/// Writes what Received shows, in Postfix's words: `using TLSv1.3 with cipher
/// TLS_AES_256_GCM_SHA384`.
impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "using {} with cipher {}", self.version, self.cipher)
    }
}

/// What the handshake came to, but for what only a server knows.
fn facts(state: &CommonState) -> TlsInfo {
    let version = match state.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = state.negotiated_cipher_suite();
    let cipher = cipher.and_then(|c| c.suite().as_str()).unwrap_or("unknown");
    // rustls writes TLS13_AES_128_GCM_SHA256 where IANA has no 13.
    TlsInfo { version, cipher: cipher.replacen("TLS13_", "TLS_", 1), sni: None }
}

/// Reads as either side does.
fn read_from<C, S>(
    session: &mut C,
    wire: &mut (impl Read + Write),
    buffer: &mut [u8],
) -> io::Result<usize>
where
    C: DerefMut + Deref<Target = ConnectionCommon<S>>,
    S: SideData,
{
    match rustls::Stream::new(session, wire).read(buffer) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        result => result,
    }
}

/// Writes as either side does.
fn write_all<S: SideData>(
    session: &mut ConnectionCommon<S>,
    wire: &mut impl Write,
    bytes: &[u8],
) -> io::Result<()> {
    // In pieces, for the session holds what the wire has not taken.
    for piece in bytes.chunks(PIECE) {
        session.writer().write_all(piece)?;
        send(session, wire)?;
    }
    Ok(())
}

fn send<S: SideData>(session: &mut ConnectionCommon<S>, wire: &mut impl Write) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(wire)?;
    }
    Ok(())
}

/// What all sessions begin with.
fn config(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(default_provider());
    let keys = certified_key(&chain(cert)?, cert, key, &provider)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS: {e}"))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(keys)));
    Ok(Arc::new(config))
}

/// The certificates in `cert`, at least one.
fn chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: &dyn fmt::Display| format!("tls-cert {}: {why}", cert.display());
    let text = read(cert).map_err(|e| wrong(&e))?;
    let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|e| wrong(&format!("it is not in PEM form: {e}")))?;
    match chain.is_empty() {
        true => Err(wrong(&"no certificate is in it; PEM has -----BEGIN CERTIFICATE-----")),
        false => Ok(chain),
    }
}

/// The key in `key`, if it belongs to the first certificate of `chain`, which came from `cert`.
fn certified_key(
    chain: &[CertificateDer<'static>],
    cert: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let wrong = |why: &dyn fmt::Display| format!("tls-key {}: {why}", key.display());
    let text = read(key).map_err(|e| wrong(&e))?;
    let der = PrivateKeyDer::from_pem_slice(&text).map_err(|e| match e {
        PemError::NoItemsFound if contains(&text, b"ENCRYPTED") => {
            wrong(&"the key is encrypted; openssl pkey -in FILE -out FILE.plain decrypts it")
        }
        PemError::NoItemsFound => wrong(&"no private key is in it"),
        e => wrong(&format!("it is not in PEM form: {e}")),
    })?;
    CertifiedKey::from_der(chain.to_vec(), der, provider).map_err(|e| match e {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => wrong(&format!(
            "it does not belong to the first certificate in {}; the server's own comes first",
            cert.display()
        )),
        Error::InvalidCertificate(e) => {
            format!("tls-cert {}: the first certificate is not good: {e:?}", cert.display())
        }
        e => wrong(&e),
    })
}

/// The text of a file of keys, which are never long.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let opened = File::open(path).map_err(|e| match e.kind() {
        _ if confinement::blocks_reading(path) => {
            io::Error::other("it is outside of the sandbox that was made at the start; restart")
        }
        io::ErrorKind::PermissionDenied => io::Error::other(format!(
            "{e}; it must be readable by the group that mailslot runs as (chgrp, chmod g+r)"
        )),
        _ => e,
    });
    opened?.take(FILE_MAX).read_to_end(&mut text)?;
    Ok(text)
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    memchr::memmem::find(text, word).is_some()
}

/// What is given to TLS at once.
const PIECE: usize = 16 * 1024;
/// Octets of a file that are read: room for hundreds of certificates.
const FILE_MAX: u64 = 1024 * 1024;
