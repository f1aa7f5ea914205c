//! One connection: the one place where `smtp`, `route` and `deliver` meet.

use std::path::PathBuf;
use std::time::Duration;

/// Who is told something that a stranger could misuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Every client.
    On,
    /// Nobody.
    Off,
    /// Clients on this host: loopback, Unix sockets, a pipe.
    Local,
}

/// What a session is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in the greeting, in replies and in Received lines.
    pub hostname: String,
    /// The largest message, in octets of the data as sent.
    pub size_max: u64,
    /// Recipients of one message; at least 100 (RFC 5321 4.5.3.1.8).
    pub recipients_max: usize,
    /// Commands in error before 421 and close.
    pub errors_max: u32,
    /// Who gets answers to VRFY; the others get 252.
    pub vrfy: Switch,
    /// Who gets answers to EXPN; the others get 252.
    pub expn: Switch,
    /// Who is told by 551 where a user has moved; the others get 550.
    pub forward_replies: Switch,
    /// Where mail data above [`MEMORY_MAX`](crate::message::MEMORY_MAX) waits; must have room.
    pub spool: PathBuf,
    /// Where the mailboxes are; must have room.
    pub mail_dir: PathBuf,
    /// How long a client may take for one command line, or be silent within mail data
    /// (RFC 5321 4.5.3.2.7 asks for 5 minutes), or not read what it was answered.
    pub timeout: Duration,
    /// How long a session may take.
    pub session_timeout: Duration,
    /// How long a session waits for the writer. Should be more than its lock time-out.
    pub patience: Duration,
}
