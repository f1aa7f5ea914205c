//! The settings of mail for other hosts: which options there are for it, what their values mean,
//! and what the queue is told.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{Config, ConfigError, OptionValues, parse};
use crate::config::options::Origin;
use crate::net::tls::Trust;
use crate::relay::client::{self, ServerAddress, Timeouts, credentials};
use crate::relay::queue::{self, Smarthost};

/// How mail for other hosts leaves this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayOptions {
    /// The servers that take it; the first that can be reached.
    pub smarthosts: Vec<ServerAddress>,
    /// What of TLS they must have.
    pub security: SmarthostSecurity,
    /// The file with what we log in with.
    pub login: Option<PathBuf>,
    /// Where clients may be that send such mail, besides this host.
    pub from: Vec<IpNet>,
    /// The age at which a sender is told that it takes long.
    pub warn_after: Duration,
    /// The age at which it is given up (RFC 5321 4.5.4.1).
    pub give_up_after: Duration,
}

/// What of TLS a smarthost must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmarthostSecurity {
    /// TLS, and a certificate in its name.
    Verify,
    /// TLS.
    Encrypt,
    /// Nothing; TLS is used where it is offered.
    May,
}

/// The settings given; None without a smarthost.
pub(super) fn relay(values: &mut OptionValues<'_>) -> Result<Option<RelayOptions>, ConfigError> {
    let smarthosts = values.list("smarthost", "none", smarthost)?;
    let relay = RelayOptions {
        security: values.one("smarthost-tls", security)?,
        login: values.optional("smarthost-login", "none", parse::path)?,
        from: values.list("relay-from", "this host alone", network)?,
        warn_after: values.one("warn-after", |t| parse::time(t, 1))?,
        give_up_after: values.one("give-up-after", |t| parse::time(t, 1))?,
        smarthosts,
    };
    Ok(Some(relay).filter(|relay| !relay.smarthosts.is_empty()))
}

impl OptionValues<'_> {
    /// The values of an option that may be given several times; none: `words` say so.
    fn list<T>(
        &mut self,
        long: &'static str,
        words: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        match self.origin(long) {
            Origin::Default => Ok(self.instead(long, words, Origin::Default)),
            _ => self.all(long, parse),
        }
    }
}

impl Config {
    /// What the queue is told; None: there is none. Reads passwords, and the certificates that
    /// this system trusts.
    ///
    /// # Errors
    /// A file that cannot be read or is wrong; the text names it.
    pub fn queue(&self) -> Result<Option<queue::QueueConfig>, String> {
        let Some(relay) = &self.relay else { return Ok(None) };
        let tls = match relay.security {
            SmarthostSecurity::Verify => {
                Some(client::ClientTls { trust: Trust::system()?, required: true })
            }
            SmarthostSecurity::Encrypt => {
                Some(client::ClientTls { trust: Trust::any_certificate()?, required: true })
            }
            SmarthostSecurity::May if cfg!(feature = "tls") => {
                Some(client::ClientTls { trust: Trust::any_certificate()?, required: false })
            }
            SmarthostSecurity::May => None,
        };
        let smarthost = |target: &ServerAddress| {
            let host = match target {
                ServerAddress::Tcp { host, .. } => host.as_str(),
                ServerAddress::Unix(_) => "localhost",
            };
            let login = relay.login.as_ref().map(|file| credentials::load(file, host));
            Ok(Smarthost {
                address: target.clone(),
                settings: client::ClientConfig {
                    hostname: self.hostname.clone(),
                    tls: tls.clone(),
                    login: login.transpose()?.flatten(),
                    timeouts: Timeouts::default(),
                },
            })
        };
        Ok(Some(queue::QueueConfig {
            spool: self.spool.clone(),
            hostname: self.hostname.clone(),
            smarthosts: relay.smarthosts.iter().map(smarthost).collect::<Result<_, String>>()?,
            warn_after: relay.warn_after,
            give_up_after: relay.give_up_after,
            timeout: self.lock_timeout + super::WRITING,
        }))
    }
}

fn smarthost(text: &str) -> Result<ServerAddress, String> {
    let form = "HOST, HOST:PORT, tls:HOST or unix:PATH, such as mail.example.org:587";
    text.parse().map_err(|_| form.to_owned())
}

fn security(text: &str) -> Result<SmarthostSecurity, String> {
    match text {
        "verify" => Ok(SmarthostSecurity::Verify),
        "encrypt" => Ok(SmarthostSecurity::Encrypt),
        "may" => Ok(SmarthostSecurity::May),
        _ => Err("verify, encrypt or may".to_owned()),
    }
}

/// An address, or a network: `192.0.2.0/24`.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| "an address or a network, such as 192.0.2.0/24".to_owned())
}
