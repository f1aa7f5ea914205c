//! Permissions of a client: one value, made from the peer, the service and the configuration.
//!
//! | field of [`Access`] | clients that have it |
//! | --- | --- |
//! | `relay` | clients on this host but for pipes, and `--relay-from`; not over LMTP |
//! | `vrfy`, `expn`, `forward_replies` | those of the option of that name |
//! | `terminals` | those of `--terminals`; not over LMTP |
//! | `dsn` | clients on this host, and clients that may relay; not over LMTP |
//! | `hold` | clients on this host, with `--hold local`; not over LMTP |
//! | `etrn` | clients on this host; not over LMTP |
//! | `suggest_smarthost`, `counters`, `is_trusted` | clients on this host |
//! | `unlimited_recipients` | clients on this host, and LMTP |
//!
//! No other file asks where a client is in order to permit something. A rule about clients, or
//! about the reverse-path that [`Host::check_mail`](crate::smtp::Host::check_mail) is given,
//! becomes a field here. The value can be made again for another peer during the session.

use ipnet::IpNet;

use super::config::{SessionConfig, TlsPolicy};
use crate::message::peer::Peer;
use crate::net::listen::Service;
use crate::smtp::{ReceiverConfig, StartTlsMode};

/// The permissions of one session's client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub peer: Peer,
    /// Whether the client speaks LMTP (RFC 2033).
    lmtp: bool,
    /// Whether it may send mail to any address on another host.
    pub relay: bool,
    /// Whether VRFY is answered; otherwise 252.
    pub vrfy: bool,
    /// Whether EXPN is answered; otherwise 252.
    pub expn: bool,
    /// Whether it gets the new address (251, 551) of a user on another host; otherwise 550.
    pub forward_replies: bool,
    /// Whether it may use SEND, SOML and SAML.
    pub terminals: bool,
    /// Whether it may ask for delivery status notifications (RFC 3461).
    pub dsn: bool,
    /// Whether its mail is queued if it cannot be delivered now, because programs of this host do
    /// not retry.
    pub hold: bool,
    /// Whether it may start a queue run with ETRN (RFC 1985).
    pub etrn: bool,
    /// Whether a reply that refuses to relay names the option `--smarthost`, because the
    /// administrator of this host probably reads it.
    pub suggest_smarthost: bool,
    /// Whether the reply to HELP shows the server's counters.
    pub counters: bool,
    /// Whether it is not slowed down for unknown recipients.
    pub unlimited_recipients: bool,
    /// Whether it is not logged as abusive, however its session ends.
    pub is_trusted: bool,
}

impl Access {
    /// Returns the permissions of a client at `peer` that uses `service`.
    pub fn new(peer: Peer, service: Service, config: &SessionConfig) -> Access {
        let is_local = peer.is_local();
        // A mail server that delivers by LMTP relays its other mail itself.
        let relay_policy = config.relay.as_ref().filter(|_| !service.lmtp);
        let relay = relay_policy.is_some_and(|policy| may_relay(peer, &policy.networks));
        Access {
            peer,
            lmtp: service.lmtp,
            relay,
            vrfy: config.vrfy.includes(peer),
            expn: config.expn.includes(peer),
            forward_replies: config.forward_replies.includes(peer),
            terminals: config.terminals.includes(peer) && !service.lmtp,
            // Reports go to mailboxes of this host, or to other hosts like the mail of relay
            // clients. Any other client sees that DSN is not offered, and reports to its sender
            // itself (RFC 3461 5.2.2).
            dsn: (is_local || relay) && !service.lmtp,
            // A mail server in front of LMTP has a queue.
            hold: config.hold.is_some() && is_local && !service.lmtp,
            etrn: relay_policy.is_some() && is_local,
            suggest_smarthost: config.relay.is_none() && is_local,
            counters: is_local,
            // The server in front of LMTP passes on recipients that others chose.
            unlimited_recipients: is_local || service.lmtp,
            is_trusted: is_local,
        }
    }

    /// Returns the configuration of the receiver for this client.
    pub fn receiver_config(&self, config: &SessionConfig) -> ReceiverConfig {
        // Its recipients were accepted as a whole, and the connection is within the process.
        let is_handed_over = matches!(self.peer, Peer::HandOver(_));
        let unlimited = |max| if is_handed_over { usize::MAX } else { max };
        ReceiverConfig {
            size_max: config.size_max,
            recipients_max: unlimited(config.recipients_max),
            errors_max: if is_handed_over { u32::MAX } else { config.errors_max },
            vrfy: self.vrfy,
            expn: self.expn,
            terminals: self.terminals,
            etrn: self.etrn,
            dsn: self.dsn,
            prdr: true,
            lmtp: self.lmtp,
            submitter: self.peer.uid(),
            tls: match &config.tls {
                _ if is_handed_over => StartTlsMode::Off,
                None => StartTlsMode::Off,
                Some(TlsPolicy { required: false, .. }) => StartTlsMode::Offered,
                Some(TlsPolicy { required: true, .. }) => StartTlsMode::Required,
            },
            ..ReceiverConfig::new(&config.hostname)
        }
    }
}

/// A pipe may not relay, because nothing is known about the process at its other end.
fn may_relay(peer: Peer, networks: &[IpNet]) -> bool {
    match peer {
        Peer::Ip(client) => {
            peer.is_local() || networks.iter().any(|network| network.contains(&client.ip()))
        }
        Peer::Unix | Peer::LocalUser(_) | Peer::HandOver(_) => true,
        Peer::Pipe => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::queue::QueueHandle;

    fn access(peer: &str, lmtp: bool) -> Access {
        let peer = match peer {
            "unix" => Peer::Unix,
            "user" => Peer::LocalUser(1000),
            "pipe" => Peer::Pipe,
            address => Peer::ip(address.parse().unwrap()),
        };
        Access::new(peer, Service { lmtp, tls: false }, &SessionConfig::default())
    }

    #[test]
    fn networks_of_relay_clients() {
        let networks = ["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        for (peer, expected) in [
            (Peer::ip("192.0.2.7:4711".parse().unwrap()), true),
            (Peer::ip("[::ffff:192.0.2.7]:4711".parse().unwrap()), true),
            (Peer::ip("[2001:db8::7]:4711".parse().unwrap()), true),
            (Peer::ip("198.51.100.7:4711".parse().unwrap()), false),
            (Peer::ip("127.0.0.1:4711".parse().unwrap()), true),
            (Peer::ip("[::1]:4711".parse().unwrap()), true),
            (Peer::Unix, true),
            (Peer::LocalUser(1000), true),
            (Peer::Pipe, false),
        ] {
            assert_eq!(may_relay(peer, &networks), expected, "{peer}");
        }
    }

    #[test]
    fn local_clients_may_more_than_remote_ones() {
        for peer in ["127.0.0.1:4711", "[::1]:4711", "unix", "user", "pipe"] {
            let access = access(peer, false);
            assert!(access.vrfy && access.expn && access.forward_replies, "{peer}");
            assert!(access.dsn && access.counters && access.is_trusted, "{peer}");
            assert!(access.unlimited_recipients && access.suggest_smarthost, "{peer}");
            assert!(!access.hold, "there is no queue");
            // Without a relay configuration no client has these, wherever it is.
            assert!(!access.relay && !access.etrn && !access.terminals, "{peer}");
        }
        let remote = access("192.0.2.7:4711", false);
        assert!(!remote.vrfy && !remote.expn && !remote.forward_replies);
        assert!(!remote.dsn && !remote.counters && !remote.is_trusted);
        assert!(!remote.unlimited_recipients && !remote.suggest_smarthost);
        assert!(!remote.relay && !remote.etrn && !remote.terminals);
    }

    #[test]
    fn mail_is_held_for_local_clients_alone() {
        let config =
            SessionConfig { hold: Some(QueueHandle::detached()), ..SessionConfig::default() };
        for (peer, lmtp, expected) in [
            (Peer::ip("127.0.0.1:4711".parse().unwrap()), false, true),
            (Peer::ip("[::1]:4711".parse().unwrap()), false, true),
            (Peer::Unix, false, true),
            (Peer::Pipe, false, true),
            (Peer::ip("192.0.2.7:4711".parse().unwrap()), false, false),
            (Peer::Unix, true, false),
        ] {
            let access = Access::new(peer, Service { lmtp, tls: false }, &config);
            assert_eq!(access.hold, expected, "{peer}");
        }
    }

    #[test]
    fn lmtp_clients_are_not_limited_and_get_no_reports() {
        let remote = access("192.0.2.7:4711", true);
        assert!(remote.unlimited_recipients && !remote.dsn);
        assert!(!access("unix", true).dsn);
    }
}
