//! In the place of `tls.rs` where the feature `tls` is off: the same names, and no value of any.
//!
//! [`ServerCertificate::load`] and all that would make a [`Trust`] refuse, so that nobody who asks for TLS goes
//! without. Everything behind them needs what cannot be; the compiler knows, and leaves it out.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;

/// Certificate chain and private key.
#[derive(Debug)]
pub struct ServerCertificate(Infallible);

impl ServerCertificate {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn load(_: &Path, _: &Path) -> Result<ServerCertificate, String> {
        Err(ABSENT.to_owned())
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn reload(&self) -> Result<(), String> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn session(&self) -> io::Result<TlsSession> {
        match self.0 {}
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub struct TlsSession(Infallible);

impl TlsSession {
    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn handshake(&mut self, _: &mut (impl Read + Write)) -> io::Result<TlsInfo> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn read(&mut self, _: &mut (impl Read + Write), _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn write_all(&mut self, _: &mut impl Write, _: &[u8]) -> io::Result<()> {
        match self.0 {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn end(&mut self, _: &mut impl Write) -> io::Result<()> {
        match self.0 {}
    }
}

/// Whose certificates are believed.
#[derive(Clone, Debug)]
pub struct Trust(Infallible);

impl Trust {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn system() -> Result<Trust, String> {
        Err(NO_CLIENT.to_owned())
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn file(_: &Path) -> Result<Trust, String> {
        Err(NO_CLIENT.to_owned())
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn any_certificate() -> Result<Trust, String> {
        Err(NO_CLIENT.to_owned())
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn session(&self, _: &str) -> io::Result<TlsClientSession> {
        match self.0 {}
    }
}

/// A client's session is none either.
pub type TlsClientSession = TlsSession;

/// What a handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsInfo {
    /// The version.
    pub version: &'static str,
    /// The cipher.
    pub cipher: String,
    /// The host that the client asked for.
    pub sni: Option<String>,
    never: Infallible,
}

impl fmt::Display for TlsInfo {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.never {}
    }
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// From when it holds.
    pub begins: u64,
    /// Until when.
    pub ends: u64,
    /// Whether it is for the host.
    pub names_host: bool,
}

/// Refuses.
///
/// # Errors
/// Always.
pub fn examine(_: &Path, _: &Path, _: &str) -> Result<Certificate, String> {
    Err(ABSENT.to_owned())
}

const ABSENT: &str = "tls-cert: this mailslot was built without TLS; build it with --features tls";
const NO_CLIENT: &str = "this mailslot was built without TLS; build it with --features tls";
