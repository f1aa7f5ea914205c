//! The options for mail to other hosts, and the configuration of the queue.

use std::path::PathBuf;

use ipnet::IpNet;

use super::{Config, ConfigError, OptionValues, parse};
use crate::net::tls::Trust;
use crate::relay::client::{self, ServerAddress, Timeouts, credentials};
use crate::relay::queue::{self, Smarthost};

/// The options for relaying to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// The servers to relay to. The first that can be reached gets the mail.
    pub smarthosts: Vec<ServerAddress>,
    /// The TLS they must offer.
    pub security: SmarthostSecurity,
    /// The file of user names and passwords for the smarthosts.
    pub login: Option<PathBuf>,
    /// The networks of clients that may relay, in addition to this host.
    pub from: Vec<IpNet>,
}

/// The TLS that a smarthost must offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmarthostSecurity {
    /// TLS with a trusted certificate for its name.
    Verify,
    /// TLS with any certificate.
    Encrypt,
    /// None. TLS is used if it is offered.
    May,
}

/// Returns the options for relaying, or None without a smarthost.
pub(super) fn relay(values: &mut OptionValues<'_>) -> Result<Option<RelayOptions>, ConfigError> {
    let smarthosts = values.list_or("smarthost", "none", smarthost)?;
    let relay = RelayOptions {
        security: values.single("smarthost-tls", security)?,
        login: values.optional("smarthost-login", parse::path)?,
        from: values.list_or("relay-from", "this host alone", network)?,
        smarthosts,
    };
    Ok(if relay.smarthosts.is_empty() { None } else { Some(relay) })
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
        Ok(Some(queue::QueueConfig {
            spool: self.spool.clone(),
            hostname: self.hostname.clone(),
            smarthosts: smarthosts.unwrap_or_default(),
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
                    tls: tls.clone(),
                    credentials,
                    timeouts: Timeouts::default(),
                },
            });
        }
        Ok(smarthosts)
    }
}

/// Returns the client's TLS for `security`; None for clear text, in a build without TLS.
fn client_tls(security: SmarthostSecurity) -> Result<Option<client::ClientTls>, String> {
    let (trust, required) = match security {
        SmarthostSecurity::Verify => (Trust::system()?, true),
        SmarthostSecurity::Encrypt => (Trust::any_certificate()?, true),
        SmarthostSecurity::May if cfg!(feature = "tls") => (Trust::any_certificate()?, false),
        SmarthostSecurity::May => return Ok(None),
    };
    Ok(Some(client::ClientTls { trust, required }))
}

/// Parses the address of a smarthost.
fn smarthost(text: &str) -> Result<ServerAddress, String> {
    let form = "HOST, HOST:PORT, tls:HOST or unix:PATH, such as mail.example.org:587";
    text.parse().map_err(|_| form.to_owned())
}

/// Parses `verify`, `encrypt` or `may`.
fn security(text: &str) -> Result<SmarthostSecurity, String> {
    match text {
        "verify" => Ok(SmarthostSecurity::Verify),
        "encrypt" => Ok(SmarthostSecurity::Encrypt),
        "may" => Ok(SmarthostSecurity::May),
        _ => Err("verify, encrypt or may".to_owned()),
    }
}

/// Parses an address, or a network such as `192.0.2.0/24`.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| "an address or a network, such as 192.0.2.0/24".to_owned())
}
