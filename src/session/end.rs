//! How a session can end: what its client hears of it, what becomes of the process that served it
//! alone, and whether it is worth a line for those who keep abusers out.

use std::fmt;

use crate::net::stream::Cut;
use crate::smtp::{Reply, reply};

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// With QUIT.
    Quit,
    /// By the receiver, with this reply: too many errors, or no SMTP at all.
    GivenUp(Reply),
    /// By the client, the network, the clock, or from outside.
    Cut(Cut),
    /// By a panic, which was caught.
    Panicked,
}

impl End {
    /// The exit status of a process that served this session alone, as in sysexits.h.
    pub fn exit_status(&self) -> u8 {
        match self {
            End::Quit | End::Cut(Cut::Closed) => 0,
            End::Panicked => 70,            // EX_SOFTWARE
            End::Cut(Cut::Broken(_)) => 74, // EX_IOERR
            // EX_PROTOCOL
            End::GivenUp(_) | End::Cut(Cut::ClearText | Cut::Tls(_)) => 76,
            End::Cut(_) => 75, // EX_TEMPFAIL
        }
    }

    /// Whether the client's doing ended it, and one who does so often is better kept out. It need
    /// not be malice: a very slow network looks like it.
    pub(super) fn is_abuse(&self) -> bool {
        match self {
            End::GivenUp(_) => true,
            End::Cut(Cut::ClearText | Cut::MakeRoom | Cut::NotReading | Cut::TooSlow) => true,
            End::Cut(_) | End::Quit | End::Panicked => false,
        }
    }

    /// Whether the client may still be sending, and should be heard out for a moment, so that it
    /// can read our last reply (see [`close`](crate::net::stream::Stream::close)).
    pub fn lingers(&self) -> bool {
        !matches!(self, End::Quit | End::Cut(Cut::Closed | Cut::NotReading | Cut::Broken(_)))
    }

    /// What a client hears of the end of its session; None if it knows, or will not listen.
    pub(super) fn last_reply(&self, hostname: &str) -> Option<Reply> {
        let cut = match self {
            End::Quit | End::GivenUp(_) => return None,
            End::Panicked => return Some(reply::broken(hostname)),
            End::Cut(cut) => cut,
        };
        let slow = |why| Some(reply::timed_out(hostname, why));
        match cut {
            Cut::Closed | Cut::Broken(_) | Cut::NotReading | Cut::ClearText | Cut::Tls(_) => None,
            Cut::TimedOut => slow("nothing came for too long"),
            Cut::TooSlow => slow("mail data comes too slowly"),
            Cut::Deadline => slow("the session takes too long"),
            Cut::MakeRoom => slow("idle or slow, and others are waiting"),
            Cut::Stopping => Some(reply::closing(hostname, "the service is stopping")),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Quit => "quit",
            End::GivenUp(_) => "errors",
            End::Panicked => "panic",
            End::Cut(cut) => return cut.fmt(f),
        })
    }
}
