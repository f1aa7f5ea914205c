//! The options for mail to other hosts, and the configuration of the queue.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::IpNet;

use super::routes::{
    RouteOption, SMTP_PORT, SmarthostSecurity, TargetOption, client_tls, relay_routes,
};
use super::{Config, ConfigError, OptionValues, parse};
use crate::relay::client::{self, ServerAddress, Timeouts, credentials};
use crate::relay::queue::{self, Smarthost};
use crate::route::DomainPattern;

/// The options for relaying to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// The servers to relay to. The first that can be reached gets the mail.
    pub smarthosts: Vec<ServerAddress>,
    /// The routes of single domains.
    pub routes: Vec<RouteOption>,
    /// Maximum number of connections to one server, or to the mail hosts of one domain.
    pub connections: usize,
    /// The TLS that servers must offer.
    pub security: SmarthostSecurity,
    /// The file of user names and passwords for the smarthosts.
    pub login: Option<PathBuf>,
    /// The networks of clients that may relay, in addition to this host.
    pub from: Vec<IpNet>,
}

/// Returns the options for relaying, or None without a smarthost and a route.
pub(super) fn relay(values: &mut OptionValues<'_>) -> Result<Option<RelayOptions>, ConfigError> {
    let smarthosts = values.list_or("smarthost", "none", smarthost)?;
    let relay = RelayOptions {
        routes: values.list_or("route", "none", str::parse)?,
        connections: values.single("connections", |t| parse::number(t, 1, 100))?,
        security: values.single("smarthost-tls", str::parse)?,
        login: values.optional("smarthost-login", parse::path)?,
        from: values.list_or("relay-from", "this host alone", network)?,
        smarthosts,
    };
    let is_empty = relay.smarthosts.is_empty() && relay.routes.is_empty();
    Ok(if is_empty { None } else { Some(relay) })
}

impl RelayOptions {
    /// Returns the domains that mail can be relayed to.
    pub fn domains(&self) -> Vec<DomainPattern> {
        let any = (!self.smarthosts.is_empty()).then_some(DomainPattern::Any);
        self.routes.iter().map(|route| route.domains.clone()).chain(any).collect()
    }

    /// Returns the TCP ports of the servers that mail is relayed to.
    pub fn ports(&self) -> BTreeSet<u16> {
        let port = |address: &ServerAddress| match address {
            ServerAddress::Tcp { port, .. } => Some(*port),
            ServerAddress::Unix(_) => None,
        };
        let routes = self.routes.iter().filter_map(|route| match &route.target {
            TargetOption::Server { address, .. } => port(address),
            TargetOption::Mx => Some(SMTP_PORT),
        });
        self.smarthosts.iter().filter_map(port).chain(routes).collect()
    }
}

impl Config {
    /// Returns the configuration of the queue, or None without a smarthost and with `--hold off`.
    /// Reads passwords, and
    /// the certificates that this system trusts.
    ///
    /// # Errors
    /// A file is wrong or cannot be read.
    pub fn queue_config(&self) -> Result<Option<queue::QueueConfig>, ConfigError> {
        if self.relay.is_none() && !self.hold {
            return Ok(None);
        }
        let smarthosts = self.relay.as_ref().map(|relay| self.smarthosts(relay)).transpose()?;
        let routes = self.relay.as_ref().map(|relay| {
            relay_routes(&relay.routes, relay.security, relay.login.as_deref(), &self.hostname)
        });
        let routes = routes.transpose().map_err(ConfigError::Config)?;
        Ok(Some(queue::QueueConfig {
            spool: self.spool.clone(),
            hostname: self.hostname.clone(),
            smarthosts: smarthosts.unwrap_or_default(),
            routes: routes.unwrap_or_default(),
            connections_max: self.relay.as_ref().map_or(1, |relay| relay.connections),
            warn_after: self.warn_after,
            give_up_after: self.give_up_after,
            timeout: self.lock_timeout + super::WRITE_TIMEOUT,
        }))
    }

    /// Returns the smarthosts with the configuration of connections to them.
    fn smarthosts(&self, relay: &RelayOptions) -> Result<Vec<Smarthost>, ConfigError> {
        let tls = client_tls(relay.security).map_err(ConfigError::Config)?;
        let mut smarthosts = Vec::new();
        for target in &relay.smarthosts {
            let host = match target {
                ServerAddress::Tcp { host, .. } => host.as_str(),
                ServerAddress::Unix(_) => "localhost",
            };
            let credentials = match &relay.login {
                Some(file) => credentials::load(file, host).map_err(ConfigError::Config)?,
                None => None,
            };
            smarthosts.push(Smarthost {
                address: target.clone(),
                settings: client::ClientConfig {
                    hostname: self.hostname.clone(),
                    lmtp: false,
                    tls: tls.clone(),
                    credentials,
                    timeouts: Timeouts::default(),
                },
            });
        }
        Ok(smarthosts)
    }
}

/// Parses the address of a smarthost.
fn smarthost(text: &str) -> Result<ServerAddress, String> {
    let form = "HOST, HOST:PORT, tls:HOST or unix:PATH, such as mail.example.org:587";
    text.parse().map_err(|_| form.to_owned())
}

/// Parses an address, or a network such as `192.0.2.0/24`.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| "an address or a network, such as 192.0.2.0/24".to_owned())
}
