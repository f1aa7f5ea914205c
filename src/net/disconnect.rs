//! The reasons why a connection ends, each in one word for the log.

use std::fmt;
use std::io;

/// The reason why nothing more is read or written.
#[derive(Debug)]
pub enum Disconnect {
    /// The client closed its side.
    Closed,
    /// The client sent nothing for too long.
    TimedOut,
    /// The client did not read its replies.
    NotReading,
    /// Mail data came too slowly.
    TooSlow,
    /// The session reached its time limit.
    Deadline,
    /// [`SessionHandle::stop`](super::stream::SessionHandle::stop) was called.
    Stopping,
    /// [`SessionHandle::evict_if_idle`](super::stream::SessionHandle::evict_if_idle) was called.
    Evicted,
    /// Clear text came where TLS was to begin.
    ClearText,
    /// The TLS handshake or a TLS record failed.
    Tls(io::Error),
    /// The connection failed.
    Broken(io::Error),
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disconnect::Closed => "closed",
            Disconnect::TimedOut => "timeout",
            Disconnect::NotReading => "not-reading",
            Disconnect::TooSlow => "slow",
            Disconnect::Deadline => "deadline",
            Disconnect::Stopping => "stopping",
            Disconnect::Evicted => "evicted",
            Disconnect::ClearText => "clear-text",
            Disconnect::Tls(_) => "tls",
            Disconnect::Broken(_) => "broken",
        })
    }
}

impl std::error::Error for Disconnect {}

/// Converts an error of TLS: its own, or the `Disconnect` of the socket below it.
impl From<io::Error> for Disconnect {
    fn from(e: io::Error) -> Disconnect {
        match e.downcast::<Disconnect>() {
            Ok(disconnect) => disconnect,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Disconnect::Tls(e),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Disconnect::Closed,
            Err(e) => Disconnect::Broken(e),
        }
    }
}
