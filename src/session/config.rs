//! Session configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::message::peer::Peer;
use crate::net::tls::ServerCertificate;
use crate::relay::queue::QueueHandle;
use crate::terminal::Terminals;

/// The clients that an option admits to a feature that a stranger could misuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every client.
    AnyClient,
    /// No client.
    NoClient,
    /// Clients on this host: loopback addresses, Unix sockets and pipes.
    LocalClient,
}

impl Audience {
    /// Returns true if a client at `peer` is among them.
    pub(super) fn includes(self, peer: Peer) -> bool {
        match self {
            Audience::AnyClient => true,
            Audience::NoClient => false,
            Audience::LocalClient => peer.is_local(),
        }
    }
}

/// Session configuration. The defaults are those of the options of mailslot.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The name in the greeting, in replies and in Received fields. Default: `localhost`.
    pub hostname: String,
    /// The largest message, in octets as sent. Default: 25 MiB.
    pub size_max: u64,
    /// Recipients of one message; at least 100 (RFC 5321 4.5.3.1.8). Default: 100.
    pub recipients_max: usize,
    /// Commands in error that are answered. The next one ends the session with 421. Default: 20.
    pub errors_max: u32,
    /// Clients that get answers to VRFY; the others get 252. Default: local clients.
    pub vrfy: Audience,
    /// Clients that get answers to EXPN; the others get 252. Default: local clients.
    pub expn: Audience,
    /// Clients that get the new address of a user (551); the others get 550. Default: local
    /// clients.
    pub forward_replies: Audience,
    /// Clients that may use SEND, SOML and SAML; the others get 502. Default: none.
    pub terminals: Audience,
    /// The terminals of this host.
    pub host_terminals: Terminals,
    /// Spool of the writer, which takes mail data above [`MEMORY_MAX`](crate::message::MEMORY_MAX).
    /// MAIL is deferred while its disk is full. Default: `/var/spool/mailslot`.
    pub spool: PathBuf,
    /// Directory of the mailboxes. MAIL is deferred while its disk is full. Default: `/var/mail`.
    pub mail_dir: PathBuf,
    /// Time for the client to send one command line, or to read its replies. Mail data may pause
    /// for three fifths of it. Default: 300 s, the least by RFC 5321 4.5.3.2.7.
    pub timeout: Duration,
    /// Time for the whole session. Default: 1,200 s.
    pub session_timeout: Duration,
    /// Time for the writer to deliver a message. It must be longer than the writer's lock timeout.
    /// Default: 90 s.
    pub outcome_timeout: Duration,
    /// TLS, or None for sessions without STARTTLS. Default: None.
    pub tls: Option<TlsPolicy>,
    /// Relaying to other hosts, or None if mail is delivered to this host only. Default: None.
    pub relay: Option<RelayPolicy>,
    /// The queue for mail of clients on this host that cannot be delivered now, or None to defer
    /// it as for all other clients. Default: None.
    pub hold: Option<QueueHandle>,
}

/// Relaying to other hosts.
#[derive(Clone, Debug)]
pub struct RelayPolicy {
    /// Networks of clients that may relay, in addition to this host.
    pub networks: Vec<IpNet>,
    /// The queue, which is notified of each new entry.
    pub queue: QueueHandle,
}

/// TLS in sessions.
#[derive(Clone, Debug)]
pub struct TlsPolicy {
    /// Certificate and key, which can be reloaded while sessions run.
    pub certificate: Arc<ServerCertificate>,
    /// Whether a client gets 530 to its commands until it has used STARTTLS.
    pub required: bool,
}

impl Default for SessionConfig {
    fn default() -> SessionConfig {
        SessionConfig {
            hostname: "localhost".to_owned(),
            size_max: 25 << 20,
            recipients_max: 100,
            errors_max: 20,
            vrfy: Audience::LocalClient,
            expn: Audience::LocalClient,
            forward_replies: Audience::LocalClient,
            terminals: Audience::NoClient,
            host_terminals: Terminals::default(),
            spool: "/var/spool/mailslot".into(),
            mail_dir: "/var/mail".into(),
            timeout: Duration::from_secs(300),
            session_timeout: Duration::from_secs(1200),
            outcome_timeout: Duration::from_secs(90),
            tls: None,
            relay: None,
            hold: None,
        }
    }
}
