//! The routes of mail for other hosts, the next hop of a recipient, and the connection to it.
//!
//! ```text
//! *             smarthosts               --smarthost
//! .example.net  [192.0.2.9]:587          --route '.example.net 192.0.2.9:587'
//! example.org   mx                       --route 'example.org mx'
//! ```
//! The most specific route of a domain is used. All recipients with one route have one next hop;
//! with `mx` those of one domain have.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{QueueConfig, Smarthost};
use crate::observe::events;
use crate::relay::client::{self, ClientConfig, Connection, ServerAddress};
use crate::relay::mail_hosts::{self, DnsLookup, HostLookup, MailHost};
use crate::route::DomainPattern;
use crate::smtp::sender::{OutcomeReason, RecipientOutcome};
use crate::smtp::{AddressLiteral, Domain, ForwardPath};

/// A route: domains, and the servers that take mail for them.
#[derive(Clone, Debug)]
pub struct RelayRoute {
    /// The domains.
    pub pattern: DomainPattern,
    /// Their servers.
    pub target: RouteTarget,
}

/// The servers of a route.
#[derive(Clone, Debug)]
pub enum RouteTarget {
    /// These. The first that can be reached is used.
    Servers(Vec<Smarthost>),
    /// The mail hosts of each domain by its MX records.
    MailHosts(Box<MxConfig>),
}

/// Configuration of a route by MX records.
#[derive(Clone, Debug)]
pub struct MxConfig {
    /// Configuration of connections to the hosts.
    pub client: ClientConfig,
    /// The file that names the name servers.
    pub resolv_conf: PathBuf,
    /// The port of the hosts, which is 25 but in tests.
    pub port: u16,
    /// True if an own address of this host in the records is a loop. False in tests alone, where
    /// all hosts are on the loopback.
    pub detects_own_addresses: bool,
}

/// Recipients that can share a connection. While one next hop cannot be reached, mail for the
/// others is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum NextHop {
    /// The entry was not read yet; or it is for this host.
    Unknown,
    /// The smarthosts.
    Smarthosts,
    /// The servers of the route with this index.
    Route(usize),
    /// The mail hosts of this domain, by the route with this index.
    Domain(usize, Arc<str>),
}

/// A reason why there is no connection.
pub(super) enum ConnectError {
    /// The next hop cannot be reached now.
    Unreachable {
        reason: OutcomeReason,
        /// The last server that was tried, or the domain that was looked up.
        server: String,
    },
    /// The recipients have failed for good.
    Failed(OutcomeReason),
}

impl QueueConfig {
    /// Returns the next hop of a recipient.
    pub(super) fn next_hop(&self, to: &ForwardPath) -> NextHop {
        let ForwardPath::Mailbox(mailbox) = to else { return NextHop::Smarthosts };
        let domain = mailbox.domain().to_ascii();
        let of_domain = self.routes.iter().enumerate().filter(|(_, r)| r.pattern.matches(&domain));
        // The first of equal ones. The smarthosts are the route of any domain without another.
        let best = of_domain.rev().max_by_key(|(_, route)| route.pattern.specificity());
        match best {
            None => NextHop::Smarthosts,
            Some((n, RelayRoute { target: RouteTarget::Servers(_), .. })) => NextHop::Route(n),
            Some((n, RelayRoute { target: RouteTarget::MailHosts(_), .. })) => {
                NextHop::Domain(n, domain.into())
            }
        }
    }

    /// Returns the domains that `hop` is for.
    pub(super) fn domains_of(&self, hop: &NextHop) -> DomainPattern {
        match hop {
            NextHop::Unknown | NextHop::Smarthosts => DomainPattern::Any,
            NextHop::Route(n) => {
                self.routes.get(*n).map_or(DomainPattern::Any, |route| route.pattern.clone())
            }
            NextHop::Domain(_, domain) => DomainPattern::Domain(domain.to_string()),
        }
    }

    /// Opens a connection to `hop`. Each server that cannot be used is passed to `report`.
    ///
    /// # Errors
    /// The reason why the last server cannot be used.
    pub(super) fn connect(
        &self,
        hop: &NextHop,
        report: &dyn Fn(&dyn fmt::Display, &OutcomeReason),
    ) -> Result<Connection, ConnectError> {
        let route = match hop {
            NextHop::Route(n) | NextHop::Domain(n, _) => self.routes.get(*n),
            NextHop::Unknown | NextHop::Smarthosts => None,
        };
        match (route.map(|route| &route.target), hop) {
            (Some(RouteTarget::MailHosts(config)), NextHop::Domain(_, domain)) => {
                self.connect_to_mail_host(domain, config, &[], report)
            }
            (Some(RouteTarget::Servers(servers)), _) => connect_to_first(servers, report),
            _ => connect_to_first(&self.smarthosts, report),
        }
    }

    /// Opens a connection to a mail host of `hop` other than `deferring`, the hosts that have
    /// deferred the message (RFC 5321 5.1). Returns None if no other can be used, or if `hop` is
    /// not a domain.
    pub(super) fn connect_to_other_mail_host(
        &self,
        hop: &NextHop,
        deferring: &[ServerAddress],
    ) -> Option<Connection> {
        let NextHop::Domain(n, domain) = hop else { return None };
        let RouteTarget::MailHosts(config) = &self.routes.get(*n)?.target else { return None };
        let report = |server: &dyn fmt::Display, reason: &OutcomeReason| {
            events::smarthost_unreachable(server, &reason.text);
        };
        self.connect_to_mail_host(domain, config, deferring, &report).ok()
    }

    /// Opens a connection to the first mail host of `domain` that can be used, except those in
    /// `excluded`.
    fn connect_to_mail_host(
        &self,
        domain: &str,
        config: &MxConfig,
        excluded: &[ServerAddress],
        report: &dyn Fn(&dyn fmt::Display, &OutcomeReason),
    ) -> Result<Connection, ConnectError> {
        let hosts = match self.mail_hosts(domain, config) {
            Ok(hosts) => hosts,
            Err(RecipientOutcome::Failed(reason)) => return Err(ConnectError::Failed(reason)),
            Err(RecipientOutcome::Deferred(reason) | RecipientOutcome::Accepted(reason)) => {
                report(&domain, &reason);
                return Err(ConnectError::Unreachable { reason, server: domain.to_owned() });
            }
        };
        let mut last =
            (OutcomeReason::local((4, 4, 4), "no mail host has an address"), domain.into());
        let mut left = ADDRESSES_MAX.saturating_sub(excluded.len());
        for MailHost { name, addresses } in hosts {
            let server = ServerAddress::Tcp { host: name, port: config.port, tls: false };
            if excluded.contains(&server) {
                continue;
            }
            let used = addresses.len().min(left);
            left -= used;
            let found = addresses.into_iter().take(used);
            let found = found.map(|address| SocketAddr::new(address, config.port));
            if used == 0 {
                break;
            }
            match client::connect_to(&server, found, &config.client) {
                Ok(connection) => return Ok(connection),
                Err(reason) => {
                    report(&server, &reason);
                    last = (reason, server.to_string());
                }
            }
        }
        let (reason, server) = last;
        Err(ConnectError::Unreachable { reason, server })
    }

    fn mail_hosts(
        &self,
        domain: &str,
        config: &MxConfig,
    ) -> Result<Vec<MailHost>, RecipientOutcome> {
        let lookup = DnsLookup::new(&config.resolv_conf, config.detects_own_addresses);
        if !domain.starts_with('[') {
            return mail_hosts::find(domain, &self.hostname, &lookup);
        }
        // An address literal is the address itself (RFC 5321 5.1).
        let address = match Domain::parse(domain) {
            Ok(Domain::Literal(AddressLiteral::V4(address))) => address.into(),
            Ok(Domain::Literal(AddressLiteral::V6(address))) => address.into(),
            _ => {
                let text = format!("{domain} is not an address of a known kind");
                return Err(RecipientOutcome::Failed(OutcomeReason::local((5, 1, 2), &text)));
            }
        };
        if lookup.is_own(address) {
            let text = format!("mail for {domain} loops back to this host");
            return Err(RecipientOutcome::Failed(OutcomeReason::local((5, 4, 6), &text)));
        }
        Ok(vec![MailHost { name: address.to_string(), addresses: vec![address] }])
    }
}

/// Opens a connection to the first of `servers` that can be reached.
fn connect_to_first(
    servers: &[Smarthost],
    report: &dyn Fn(&dyn fmt::Display, &OutcomeReason),
) -> Result<Connection, ConnectError> {
    let no_route = OutcomeReason::local((4, 3, 5), "no route is configured for the domain");
    let mut last = (no_route, "none".to_owned());
    for Smarthost { address, config } in servers {
        match client::connect(address, config) {
            Ok(connection) => return Ok(connection),
            Err(reason) => {
                report(address, &reason);
                last = (reason, address.to_string());
            }
        }
    }
    let (reason, server) = last;
    Err(ConnectError::Unreachable { reason, server })
}

/// Maximum number of addresses that are tried for one domain. If none of its hosts answers, the
/// attempt takes a few minutes.
const ADDRESSES_MAX: usize = 5;
