//! The routes of mail for other hosts, the next hop of a recipient, and the connection to it.
//!
//! ```text
//! *             smarthosts               --smarthost
//! .example.net  [192.0.2.9]:587          --route '.example.net 192.0.2.9:587'
//! example.org   mx                       --route 'example.org mx'
//! ```
//! The most specific route of a domain is used. All recipients with one route have one next hop;
//! with `mx` those of one domain have.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::{QueueConfig, Smarthost};
use crate::observe::events;
use crate::relay::client::{self, ClientConfig, Connection, ServerAddress};
use crate::relay::mail_hosts::{self, DnsLookup, HostLookup, MailHost};
use crate::resolver::DomainPattern;
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
    /// These, tried in their order.
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

/// The servers of a next hop that an attempt has left, in the order in which it tries them.
#[derive(Default)]
pub(super) struct HopServers<'a> {
    left: VecDeque<HopServer<'a>>,
    /// Maximum number of addresses found by DNS that are still tried.
    addresses_left: usize,
}

struct HopServer<'a> {
    address: ServerAddress,
    /// Its addresses by DNS. None if it is looked up for each connection.
    found: Option<Vec<SocketAddr>>,
    config: &'a ClientConfig,
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

    /// Returns the servers of `hop`, which are looked up if it is a domain.
    ///
    /// # Errors
    /// The domain takes no mail, or cannot be looked up now, which is logged.
    pub(super) fn servers(&self, hop: &NextHop) -> Result<HopServers<'_>, ConnectError> {
        let route = match hop {
            NextHop::Route(n) | NextHop::Domain(n, _) => self.routes.get(*n),
            NextHop::Unknown | NextHop::Smarthosts => None,
        };
        let servers = match (route.map(|route| &route.target), hop) {
            (Some(RouteTarget::MailHosts(config)), NextHop::Domain(_, domain)) => {
                return self.servers_of_domain(domain, config);
            }
            (Some(RouteTarget::Servers(servers)), _) => servers,
            _ => &self.smarthosts,
        };
        let servers = servers.iter().map(|Smarthost { address, config }| HopServer {
            address: address.clone(),
            found: None,
            config,
        });
        Ok(HopServers { left: servers.collect(), addresses_left: 0 })
    }

    fn servers_of_domain<'a>(
        &self,
        domain: &str,
        config: &'a MxConfig,
    ) -> Result<HopServers<'a>, ConnectError> {
        let hosts = self.mail_hosts(domain, config).map_err(|outcome| match outcome {
            RecipientOutcome::Failed(reason) => ConnectError::Failed(reason),
            RecipientOutcome::Deferred(reason) | RecipientOutcome::Accepted(reason) => {
                events::smarthost_unreachable(domain, &reason.text);
                ConnectError::Unreachable { reason, server: domain.to_owned() }
            }
        })?;
        let server = |MailHost { name, addresses }| HopServer {
            address: ServerAddress::Tcp { host: name, port: config.port, tls: false },
            found: Some(addresses.into_iter().map(|ip| SocketAddr::new(ip, config.port)).collect()),
            config: &config.client,
        };
        let left = hosts.into_iter().map(server).collect();
        Ok(HopServers { left, addresses_left: ADDRESSES_MAX })
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

impl HopServers<'_> {
    pub fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Removes the server at `address`, if it is left.
    pub fn remove(&mut self, address: &ServerAddress) {
        self.left.retain(|server| server.address != *address);
    }

    /// Opens a connection to the first server that can be used. It and those before it, which are
    /// logged, are not left afterwards.
    ///
    /// # Errors
    /// The reason why the last server cannot be used.
    pub fn connect(&mut self) -> Result<Connection, ConnectError> {
        let reason = OutcomeReason::local((4, 3, 5), "no route is configured for the domain");
        let mut last = ConnectError::Unreachable { reason, server: "none".to_owned() };
        while let Some(HopServer { address, found, config }) = self.left.pop_front() {
            let connected = match found {
                Some(_) if self.addresses_left == 0 => break,
                Some(found) => {
                    let left = &mut self.addresses_left;
                    let tried = found.into_iter().take(*left).inspect(|_| *left -= 1);
                    client::connect_to(&address, tried, config)
                }
                None => client::connect(&address, config),
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(reason) => {
                    events::smarthost_unreachable(&address, &reason.text);
                    last = ConnectError::Unreachable { reason, server: address.to_string() };
                }
            }
        }
        Err(last)
    }
}

/// Maximum number of addresses that are tried for one domain. If none of its hosts answers, the
/// attempt takes a few minutes.
const ADDRESSES_MAX: usize = 5;
