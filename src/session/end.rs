//! How a session can end: what its client hears of it, what becomes of the process that served it
//! alone, and whether it is worth a line for those who keep abusers out.

use std::fmt;

use crate::net::stream::Disconnect;
use crate::smtp::{Reply, reply};
use crate::sysexits::{EX_IOERR, EX_OK, EX_PROTOCOL, EX_SOFTWARE, EX_TEMPFAIL};

/// How a session ended.
#[derive(Debug)]
pub enum SessionEnd {
    /// With QUIT.
    Quit,
    /// By the receiver, with this reply: too many errors, or no SMTP at all.
    GivenUp(Reply),
    /// By the client, the network, the clock, or from outside.
    Disconnect(Disconnect),
    /// By a panic, which was caught.
    Panicked,
}

impl SessionEnd {
    /// The exit status of a process that served this session alone, as in sysexits.h.
    pub fn exit_status(&self) -> u8 {
        match self {
            SessionEnd::Quit | SessionEnd::Disconnect(Disconnect::Closed) => EX_OK,
            SessionEnd::Panicked => EX_SOFTWARE,
            SessionEnd::Disconnect(Disconnect::Broken(_)) => EX_IOERR,
            SessionEnd::GivenUp(_)
            | SessionEnd::Disconnect(Disconnect::ClearText | Disconnect::Tls(_)) => EX_PROTOCOL,
            SessionEnd::Disconnect(_) => EX_TEMPFAIL,
        }
    }

    /// Whether the client's doing ended it, and one who does so often is better kept out. It need
    /// not be malice: a very slow network looks like it.
    pub(super) fn is_abuse(&self) -> bool {
        match self {
            SessionEnd::GivenUp(_) => true,
            SessionEnd::Disconnect(
                Disconnect::ClearText
                | Disconnect::Evict
                | Disconnect::NotReading
                | Disconnect::TooSlow,
            ) => true,
            SessionEnd::Disconnect(_) | SessionEnd::Quit | SessionEnd::Panicked => false,
        }
    }

    /// Whether the client may still be sending, and should be heard out for a moment, so that it
    /// can read our last reply (see [`close`](crate::net::stream::Stream::close)).
    pub fn lingers(&self) -> bool {
        !matches!(
            self,
            SessionEnd::Quit
                | SessionEnd::Disconnect(
                    Disconnect::Closed | Disconnect::NotReading | Disconnect::Broken(_)
                )
        )
    }

    /// What a client hears of the end of its session; None if it knows, or will not listen.
    pub(super) fn last_reply(&self, hostname: &str) -> Option<Reply> {
        let cut = match self {
            SessionEnd::Quit | SessionEnd::GivenUp(_) => return None,
            SessionEnd::Panicked => return Some(reply::internal_error(hostname)),
            SessionEnd::Disconnect(cut) => cut,
        };
        let slow = |why| Some(reply::timed_out(hostname, why));
        match cut {
            Disconnect::Closed
            | Disconnect::Broken(_)
            | Disconnect::NotReading
            | Disconnect::ClearText
            | Disconnect::Tls(_) => None,
            Disconnect::TimedOut => slow("nothing came for too long"),
            Disconnect::TooSlow => slow("mail data comes too slowly"),
            Disconnect::Deadline => slow("the session takes too long"),
            Disconnect::Evict => slow("idle or slow, and others are waiting"),
            Disconnect::Stopping => Some(reply::closing(hostname, "the service is stopping")),
        }
    }
}

impl fmt::Display for SessionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SessionEnd::Quit => "quit",
            SessionEnd::GivenUp(_) => "errors",
            SessionEnd::Panicked => "panic",
            SessionEnd::Disconnect(cut) => return cut.fmt(f),
        })
    }
}
