//! Configuration of sessions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::access::Audience;
use crate::net::tls::ServerCertificate;
use crate::relay::queue;
use crate::terminal::Terminals;

/// What a session is told.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The name in the greeting, in replies and in Received lines.
    pub hostname: String,
    /// The largest message, in octets of the data as sent.
    pub size_max: u64,
    /// Recipients of one message; at least 100 (RFC 5321 4.5.3.1.8).
    pub recipients_max: usize,
    /// Commands in error before 421 and close.
    pub errors_max: u32,
    /// Who gets answers to VRFY; the others get 252.
    pub vrfy: Audience,
    /// Who gets answers to EXPN; the others get 252.
    pub expn: Audience,
    /// Who is told by 551 where a user has moved; the others get 550.
    pub forward_replies: Audience,
    /// Who may send to terminals; for the others SEND, SOML and SAML are 502.
    pub terminals: Audience,
    /// Where those are found.
    pub host_terminals: Terminals,
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
    pub outcome_timeout: Duration,
    /// What TLS is spoken with; None: STARTTLS is not offered.
    pub tls: Option<TlsPolicy>,
    /// How mail for other hosts leaves; None: it does not.
    pub relay: Option<RelayPolicy>,
}

/// How mail for other hosts leaves this one.
#[derive(Clone, Debug)]
pub struct RelayPolicy {
    /// Where clients may be that send such mail, besides this host.
    pub from: Vec<IpNet>,
    /// It is told of each entry that was made.
    pub queue: queue::QueueHandle,
}

/// How sessions come to TLS.
#[derive(Clone, Debug)]
pub struct TlsPolicy {
    /// Certificate and key, which may be read again while sessions run.
    pub keys: Arc<ServerCertificate>,
    /// Whether a client in clear text hears 530 until it says STARTTLS.
    pub required: bool,
}
