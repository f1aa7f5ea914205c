//! Replacement of `tls/mod.rs` without the feature `tls`: the same names, of types that have no
//! value.
//!
//! [`ServerCertificate::load`] and the constructors of [`Trust`] return an error, so that a
//! configuration that asks for TLS is refused. All else needs a value that cannot exist, which the
//! compiler knows, and it leaves the code out.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;

/// Certificate chain and private key.
#[derive(Debug)]
pub struct ServerCertificate(Infallible);

impl ServerCertificate {
    /// Returns an error.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: &Path, _: &Path) -> Result<ServerCertificate, String> {
        Err(ABSENT.to_owned())
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn reload(&self) -> Result<(), String> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn session(&self) -> io::Result<TlsSession> {
        match self.0 {}
    }
}

/// TLS of one connection.
#[derive(Debug)]
pub struct TlsSession(Infallible);

impl TlsSession {
    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn handshake(&mut self, _: &mut (impl Read + Write)) -> io::Result<TlsInfo> {
        match self.0 {}
    }

    /// Cannot be called.
    pub fn certificate(&self) -> Option<PeerCertificate> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn read(&mut self, _: &mut (impl Read + Write), _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn write_all(&mut self, _: &mut impl Write, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn close_notify(&mut self, _: &mut impl Write) -> io::Result<()> {
        match self.0 {}
    }
}

/// Trusted certificates.
#[derive(Clone, Debug)]
pub struct Trust(Infallible);

impl Trust {
    /// Returns an error.
    ///
    /// # Errors
    /// Always.
    pub fn system() -> Result<Trust, String> {
        Err(NO_CLIENT.to_owned())
    }

    /// Returns an error.
    ///
    /// # Errors
    /// Always.
    pub fn file(_: &Path) -> Result<Trust, String> {
        Err(NO_CLIENT.to_owned())
    }

    /// Returns an error.
    ///
    /// # Errors
    /// Always.
    pub fn any_certificate() -> Result<Trust, String> {
        Err(NO_CLIENT.to_owned())
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn reload(&self) -> Result<(), String> {
        match self.0 {}
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// None.
    pub fn session(&self, _: &str) -> io::Result<TlsClientSession> {
        match self.0 {}
    }
}

/// The client's side of one connection.
pub type TlsClientSession = TlsSession;

/// The result of a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// TLS version.
    pub version: &'static str,
    /// Cipher suite.
    pub cipher: String,
    /// Host that the client asked for.
    pub sni: Option<String>,
    never: Infallible,
}

impl fmt::Display for TlsInfo {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

/// The certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Name of the server.
    pub subject: String,
    /// Name of the authority.
    pub issuer: String,
    /// Last second at which it is valid.
    pub not_after: u64,
}

/// A certificate chain with its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// First second at which it is valid.
    pub not_before: u64,
    /// Last second at which it is valid.
    pub not_after: u64,
    /// Whether it is for the host.
    pub names_host: bool,
}

/// Returns an error.
///
/// # Errors
/// Always.
pub fn examine(_: &Path, _: &Path, _: &str) -> Result<Certificate, String> {
    Err(ABSENT.to_owned())
}

const ABSENT: &str = "tls-cert: this mailslot was built without TLS; build it with --features tls";
const NO_CLIENT: &str = "this mailslot was built without TLS; build it with --features tls";
