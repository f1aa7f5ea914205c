//! The other end of a connection: its address for log lines and Received fields, and whether it is
//! on this host.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client over TCP. An IPv4-mapped IPv6 address is stored as the IPv4 address.
    Ip(SocketAddr),
    /// A process on this host, over a Unix socket.
    Unix,
    /// A process of the user with this id on this host, over a Unix socket.
    LocalUser(u32),
    /// An unknown process, over a pipe on standard input.
    Pipe,
    /// The user with this uid, by a message in the hand-over directory.
    HandOver(u32),
}

impl Peer {
    /// Returns the peer at `address`.
    pub fn ip(address: SocketAddr) -> Peer {
        Peer::Ip(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Returns the IP address, or None for a Unix socket or a pipe.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Peer::Ip(address) => Some(address.ip()),
            Peer::Unix | Peer::LocalUser(_) | Peer::Pipe | Peer::HandOver(_) => None,
        }
    }

    /// Returns the id of the user that the process at the other end runs as, if it is known.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Peer::LocalUser(uid) | Peer::HandOver(uid) => Some(*uid),
            Peer::Ip(_) | Peer::Unix | Peer::Pipe => None,
        }
    }

    /// Returns true if the peer is on this host: a loopback address, a Unix socket, or a pipe,
    /// which has no address to check.
    pub fn is_local(&self) -> bool {
        self.address().is_none_or(|ip| ip.is_loopback())
    }
}

/// Writes `192.0.2.7:4711`, `[2001:db8::7]:4711`, `unix`, `pipe`, or `uid:1000` for a hand-over.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => address.fmt(f),
            Peer::Unix | Peer::LocalUser(_) => f.write_str("unix"),
            Peer::Pipe => f.write_str("pipe"),
            Peer::HandOver(uid) => write!(f, "uid:{uid}"),
        }
    }
}
