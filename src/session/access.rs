//! What a client may do.

use super::config::RelayPolicy;
use crate::message::peer::Peer;

/// Who is told something that a stranger could misuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every client.
    Everyone,
    /// Nobody.
    Nobody,
    /// Clients on this host: loopback, Unix sockets, a pipe.
    Local,
}

impl Audience {
    pub(super) fn allows(self, peer: Peer) -> bool {
        match self {
            Audience::Everyone => true,
            Audience::Nobody => false,
            Audience::Local => peer.is_local(),
        }
    }
}

impl RelayPolicy {
    /// Whether `peer` may send mail to any host through this one. Nobody knows who is at the other
    /// end of a pipe.
    pub(super) fn allows(&self, peer: Peer) -> bool {
        match peer {
            Peer::Ip(client) => {
                peer.is_local() || self.from.iter().any(|net| net.contains(&client.ip()))
            }
            Peer::Unix => true,
            Peer::Pipe => false,
        }
    }
}
