//! The options for mail to other hosts, and the configuration of the queue.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ipnet::IpNet;

use super::routes::{ClientDefaults, RouteOption, SMTP_PORT, SmarthostSecurity, TargetOption};
use super::{Config, ConfigError, OptionValues, parse};
use crate::relay::SenderMap;
use crate::relay::client::ServerAddress;
use crate::relay::client::credentials::LoginFile;
use crate::relay::queue;
use crate::resolver::DomainPattern;
use crate::smtp::Mailbox;

/// The options for relaying to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// The servers to relay to, in the order in which they are tried.
    pub smarthosts: Vec<ServerAddress>,
    /// The routes of single domains.
    pub routes: Vec<RouteOption>,
    /// Maximum number of connections to one server, or to the mail hosts of one domain.
    pub connections: usize,
    /// The TLS that servers must offer.
    pub security: SmarthostSecurity,
    /// The file of the certificates to trust. If None, the roots of this system are trusted.
    pub ca: Option<PathBuf>,
    /// The file of user names and passwords for the smarthosts.
    pub login: Option<PathBuf>,
    /// The senders that the smarthosts accept; None to keep the local ones.
    pub sender: Option<SmarthostSender>,
    /// True if the From field of messages gets that sender, too.
    pub maps_from_field: bool,
    /// The networks of clients that may relay, in addition to this host.
    pub from: Vec<IpNet>,
}

/// The senders that smarthosts accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmarthostSender {
    /// One address for all local senders.
    Address(Mailbox),
    /// A file with an address for each sender.
    File(PathBuf),
}

/// Returns the options for relaying, or None without a smarthost and a route.
pub(super) fn relay(values: &mut OptionValues<'_>) -> Result<Option<RelayOptions>, ConfigError> {
    let smarthosts = values.list_or("smarthost", "none", smarthost)?;
    let relay = RelayOptions {
        routes: values.list_or("route", "none", str::parse)?,
        connections: values.single("connections", |t| parse::number(t, 1, 100))?,
        security: values.single("smarthost-tls", str::parse)?,
        ca: values.optional("smarthost-ca", parse::path)?,
        login: values.optional("smarthost-login", parse::path)?,
        sender: values.optional("smarthost-sender", sender)?,
        maps_from_field: values.single("smarthost-from", parse::on_off)?,
        from: values.list_or("relay-from", "this host alone", network)?,
        smarthosts,
    };
    if relay.ca.is_some() && relay.security != SmarthostSecurity::Verify {
        let text = "smarthost-ca has a meaning with smarthost-tls verify alone";
        return Err(ConfigError::Config(text.to_owned()));
    }
    if relay.maps_from_field && relay.sender.is_none() {
        return Err(ConfigError::Config("smarthost-from requires smarthost-sender".to_owned()));
    }
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
    /// True if there is a queue, for mail to other hosts or for held mail.
    pub fn has_queue(&self) -> bool {
        self.relay.is_some() || self.hold
    }

    /// Returns the configuration of the queue, or None without a smarthost and with `--hold off`.
    /// Reads passwords, and the certificates that this system trusts.
    ///
    /// # Errors
    /// A file is wrong or cannot be read.
    pub fn queue_config(&self) -> Result<Option<queue::QueueConfig>, ConfigError> {
        if !self.has_queue() {
            return Ok(None);
        }
        let mut config = queue::QueueConfig {
            spool: self.spool.clone(),
            hostname: self.hostname.clone(),
            smarthosts: Vec::new(),
            routes: Vec::new(),
            trusted: None,
            connections_max: 1,
            senders: None,
            warn_after: self.warn_after,
            give_up_after: self.give_up_after,
            timeout: self.lock_timeout + super::WRITE_TIMEOUT,
        };
        if let Some(relay) = &self.relay {
            let login = self.login_file(relay).map_err(ConfigError::Config)?;
            let defaults = ClientDefaults::new(&self.hostname, relay, login.as_ref());
            config.smarthosts =
                defaults.smarthosts(&relay.smarthosts).map_err(ConfigError::Config)?;
            config.routes = defaults.routes(&relay.routes).map_err(ConfigError::Config)?;
            config.trusted = defaults.trusted();
            config.connections_max = relay.connections;
            config.senders = senders(relay)?;
        }
        Ok(Some(config))
    }

    /// Returns the smarthosts that have no line in the file of users and passwords, if that can be
    /// read and is for other smarthosts.
    pub(super) fn smarthosts_without_login(&self) -> Vec<&ServerAddress> {
        let Some(relay) = &self.relay else { return Vec::new() };
        let Ok(Some(login)) = self.login_file(relay) else { return Vec::new() };
        let is_tcp = |address: &&ServerAddress| matches!(address, ServerAddress::Tcp { .. });
        let addresses = relay.smarthosts.iter().filter(is_tcp);
        addresses.filter(|address| login.find(address).is_none()).collect()
    }

    /// Reads the file of users and passwords, if there is one.
    ///
    /// # Errors
    /// The file is wrong, cannot be read, or has a line for none of the smarthosts.
    fn login_file(&self, relay: &RelayOptions) -> Result<Option<LoginFile>, String> {
        let Some(path) = &relay.login else { return Ok(None) };
        // The user that this process will be, or that the server is.
        let account = self.run_as.as_ref().and_then(|run_as| run_as.look_up().ok());
        let file = LoginFile::read(path, account.map(|account| account.uid))?;
        if let [first, ..] = relay.smarthosts.as_slice()
            && relay.smarthosts.iter().all(|address| file.find(address).is_none())
        {
            let host = match first {
                ServerAddress::Tcp { .. } => first.to_string(),
                ServerAddress::Unix(_) => "localhost".to_owned(),
            };
            let file = path.display();
            let text = format!("{file}: no line is for {host}; add `{host} USER PASSWORD`");
            return Err(text);
        }
        Ok(Some(file))
    }
}

/// Parses the address of a smarthost.
fn smarthost(text: &str) -> Result<ServerAddress, String> {
    let form = "HOST, HOST:PORT, tls:HOST or unix:PATH, such as mail.example.org:587";
    text.parse().map_err(|_| form.to_owned())
}

/// Returns the senders that the smarthosts accept. Reads their file, if there is one.
fn senders(relay: &RelayOptions) -> Result<Option<SenderMap>, ConfigError> {
    match &relay.sender {
        None => Ok(None),
        Some(SmarthostSender::Address(address)) => {
            Ok(Some(SenderMap::single(address.clone(), relay.maps_from_field)))
        }
        Some(SmarthostSender::File(path)) => {
            let senders = SenderMap::read(path, relay.maps_from_field);
            senders.map(Some).map_err(|e| ConfigError::Config(format!("smarthost-sender {e}")))
        }
    }
}

/// Parses an address, or the name of a file, which has no `@` or begins with a slash.
fn sender(text: &str) -> Result<SmarthostSender, String> {
    if !text.contains('@') || text.starts_with('/') {
        return parse::path(text).map(SmarthostSender::File);
    }
    let form = "an address, such as me@example.org, or a FILE";
    Mailbox::parse(text).map(SmarthostSender::Address).map_err(|_| form.to_owned())
}

/// Parses an address, or a network such as `192.0.2.0/24`.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| "an address or a network, such as 192.0.2.0/24".to_owned())
}
