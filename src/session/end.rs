//! The end of a session: the exit status under `--inetd`, and whether the client is reported as
//! abusive.

use std::fmt;

use crate::net::stream::Disconnect;
use crate::smtp::Reply;
use crate::sysexits::{EX_IOERR, EX_OK, EX_PROTOCOL, EX_SOFTWARE, EX_TEMPFAIL};

/// The end of a session.
#[derive(Debug)]
pub enum SessionEnd {
    /// QUIT.
    Quit,
    /// Too many errors, or input that is not SMTP. The receiver's last reply, 421.
    Errors(Reply),
    /// The client, the network, a timeout, or another thread of the server.
    Disconnect(Disconnect),
    /// A panic, which was caught.
    Panicked,
}

impl SessionEnd {
    /// Returns the exit status for a process that served only this session (sysexits.h).
    pub fn exit_status(&self) -> u8 {
        match self {
            SessionEnd::Quit | SessionEnd::Disconnect(Disconnect::Closed) => EX_OK,
            SessionEnd::Panicked => EX_SOFTWARE,
            SessionEnd::Disconnect(Disconnect::Broken(_)) => EX_IOERR,
            SessionEnd::Errors(_)
            | SessionEnd::Disconnect(Disconnect::ClearText | Disconnect::Tls(_)) => EX_PROTOCOL,
            SessionEnd::Disconnect(_) => EX_TEMPFAIL,
        }
    }

    /// Returns true if the client caused the end, so that a client that does it often is better
    /// blocked. It need not be malice, because a very slow network looks the same.
    pub(super) fn is_abuse(&self) -> bool {
        match self {
            SessionEnd::Errors(_) => true,
            SessionEnd::Disconnect(
                Disconnect::ClearText
                | Disconnect::Evicted
                | Disconnect::NotReading
                | Disconnect::TooSlow,
            ) => true,
            SessionEnd::Disconnect(_) | SessionEnd::Quit | SessionEnd::Panicked => false,
        }
    }

    /// Returns true if the client may still be sending, so that
    /// [`Stream::close`](crate::net::stream::Stream::close) must drain its input for the client to
    /// get the last reply.
    pub fn lingers(&self) -> bool {
        !matches!(
            self,
            SessionEnd::Quit
                | SessionEnd::Disconnect(
                    Disconnect::Closed | Disconnect::NotReading | Disconnect::Broken(_)
                )
        )
    }
}

/// Writes one word for the log.
impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SessionEnd::Quit => "quit",
            SessionEnd::Errors(_) => "errors",
            SessionEnd::Panicked => "panic",
            SessionEnd::Disconnect(disconnect) => return disconnect.fmt(f),
        })
    }
}
