//! Why a connection ends.

use std::fmt;
use std::io;

/// Why nothing more will be read or written.
#[derive(Debug)]
pub enum Disconnect {
    /// The client has closed its side.
    Closed,
    /// The client was silent for too long.
    TimedOut,
    /// The client did not read what it was answered.
    NotReading,
    /// Mail data came too slowly.
    TooSlow,
    /// The session has taken as long as any may.
    Deadline,
    /// [`SessionHandle::stop`] was called.
    Stopping,
    /// [`SessionHandle::evict_if_idle`] was called.
    Evicted,
    /// Something came in clear text where TLS was to begin.
    ClearText,
    /// No TLS, or none that both sides know, came where there should be some.
    Tls(io::Error),
    /// The connection broke.
    Broken(io::Error),
}

impl fmt::Display for Disconnect {
    /// One word for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disconnect::Closed => "closed",
            Disconnect::TimedOut => "timeout",
            Disconnect::NotReading => "not-reading",
            Disconnect::TooSlow => "slow",
            Disconnect::Deadline => "deadline",
            Disconnect::Stopping => "stopping",
            Disconnect::Evicted => "idle",
            Disconnect::ClearText => "clear-text",
            Disconnect::Tls(_) => "tls",
            Disconnect::Broken(_) => "broken",
        })
    }
}

impl std::error::Error for Disconnect {}

/// What TLS passed on from the wire, or found wrong itself.
impl From<io::Error> for Disconnect {
    fn from(e: io::Error) -> Disconnect {
        match e.downcast::<Disconnect>() {
            Ok(cut) => cut,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Disconnect::Tls(e),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Disconnect::Closed,
            Err(e) => Disconnect::Broken(e),
        }
    }
}
