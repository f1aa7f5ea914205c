//! The settings of mail for other hosts: which options there are for it, what their values mean,
//! and what the queue is told.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{Config, Values, Wrong, parse};
use crate::config::options::Origin;
use crate::net::tls::Trust;
use crate::relay::client::{self, Target, Timeouts, credentials};
use crate::relay::queue::{self, Smarthost};

/// How mail for other hosts leaves this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// The servers that take it; the first that can be reached.
    pub smarthosts: Vec<Target>,
    /// What of TLS they must have.
    pub security: Security,
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
pub enum Security {
    /// TLS, and a certificate in its name.
    Verify,
    /// TLS.
    Encrypt,
    /// Nothing; TLS is used where it is offered.
    May,
}

/// The settings given; None without a smarthost.
pub(super) fn relay(values: &mut Values<'_>) -> Result<Option<Relay>, Wrong> {
    let smarthosts = values.list("smarthost", "none", smarthost)?;
    let relay = Relay {
        security: values.one("smarthost-tls", security)?,
        login: values.optional("smarthost-login", "none", parse::path)?,
        from: values.list("relay-from", "this host alone", network)?,
        warn_after: values.one("warn-after", |t| parse::time(t, 1))?,
        give_up_after: values.one("give-up-after", |t| parse::time(t, 1))?,
        smarthosts,
    };
    Ok(Some(relay).filter(|relay| !relay.smarthosts.is_empty()))
}

impl Values<'_> {
    /// The values of an option that may be given several times; none: `words` say so.
    fn list<T>(
        &mut self,
        long: &'static str,
        words: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, Wrong> {
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
    pub fn queue(&self) -> Result<Option<queue::Settings>, String> {
        let Some(relay) = &self.relay else { return Ok(None) };
        let tls = match relay.security {
            Security::Verify => Some(client::Tls { trust: Trust::system()?, required: true }),
            Security::Encrypt => Some(client::Tls { trust: Trust::anybody()?, required: true }),
            Security::May if cfg!(feature = "tls") => {
                Some(client::Tls { trust: Trust::anybody()?, required: false })
            }
            Security::May => None,
        };
        let smarthost = |target: &Target| {
            let host = match target {
                Target::Tcp { host, .. } => host.as_str(),
                Target::Unix(_) => "localhost",
            };
            let login = relay.login.as_ref().map(|file| credentials::load(file, host));
            Ok(Smarthost {
                target: target.clone(),
                settings: client::Settings {
                    hostname: self.hostname.clone(),
                    tls: tls.clone(),
                    login: login.transpose()?.flatten(),
                    timeouts: Timeouts::default(),
                },
            })
        };
        Ok(Some(queue::Settings {
            spool: self.spool.clone(),
            hostname: self.hostname.clone(),
            smarthosts: relay.smarthosts.iter().map(smarthost).collect::<Result<_, String>>()?,
            warn_after: relay.warn_after,
            give_up_after: relay.give_up_after,
            patience: self.lock_timeout + super::WRITING,
        }))
    }
}

fn smarthost(text: &str) -> Result<Target, String> {
    let form = "HOST, HOST:PORT, tls:HOST or unix:PATH, such as mail.example.org:587";
    text.parse().map_err(|_| form.to_owned())
}

fn security(text: &str) -> Result<Security, String> {
    match text {
        "verify" => Ok(Security::Verify),
        "encrypt" => Ok(Security::Encrypt),
        "may" => Ok(Security::May),
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
