//! The option `--route`: domains of other hosts, and the servers that take their mail.
//!
//! ```text
//! route  example.net   smtp.example.net:587       DOMAIN TARGET
//! route  .example.net  tls:192.0.2.9 encrypt      DOMAIN TARGET TLS
//! route  lists.example lmtp:unix:/run/lists/lmtp
//! route  *             mx
//! ```

use std::cell::OnceCell;
use std::path::Path;
use std::str::FromStr;

use super::RelayOptions;
use crate::net::tls::Trust;
use crate::relay::client::credentials::LoginFile;
use crate::relay::client::{ClientConfig, ClientTls, ServerAddress, Timeouts};
use crate::relay::queue::{MxConfig, RelayRoute, RouteTarget, Smarthost};
use crate::resolver::DomainPattern;
use crate::smtp::sender::Credentials;

/// A route as an option has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteOption {
    /// The domains.
    pub domains: DomainPattern,
    /// The server, or the mail hosts by MX records.
    pub target: TargetOption,
    /// The TLS that the server must offer; None for the default of the target.
    pub security: Option<SmarthostSecurity>,
}

/// The target of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetOption {
    /// A server.
    Server {
        /// Its address.
        address: ServerAddress,
        /// True for LMTP.
        lmtp: bool,
    },
    /// The mail hosts of the domain.
    Mx,
}

impl FromStr for RouteOption {
    type Err = String;

    /// # Errors
    /// The text has another form, which the error describes.
    fn from_str(text: &str) -> Result<RouteOption, String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (domains, target, security) = match words[..] {
            [domains, target] => (domains, target, None),
            [domains, target, security] => (domains, target, Some(security)),
            _ => return Err(FORM.to_owned()),
        };
        let target = match (target, target.strip_prefix("lmtp:")) {
            ("mx", _) => TargetOption::Mx,
            (_, Some(address)) if !address.starts_with("unix:") => return Err(FORM.to_owned()),
            (address, None) | (_, Some(address)) => {
                let lmtp = target.starts_with("lmtp:");
                TargetOption::Server { address: address.parse().map_err(|_| FORM)?, lmtp }
            }
        };
        Ok(RouteOption {
            domains: domains.parse().map_err(|_| FORM)?,
            target,
            security: security.map(str::parse).transpose()?,
        })
    }
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

impl FromStr for SmarthostSecurity {
    type Err = String;

    /// # Errors
    /// The text is not `verify`, `encrypt` or `may`.
    fn from_str(text: &str) -> Result<SmarthostSecurity, String> {
        match text {
            "verify" => Ok(SmarthostSecurity::Verify),
            "encrypt" => Ok(SmarthostSecurity::Encrypt),
            "may" => Ok(SmarthostSecurity::May),
            _ => Err("verify, encrypt or may".to_owned()),
        }
    }
}

/// The configuration of connections that smarthosts and routes share.
pub(super) struct ClientDefaults<'a> {
    hostname: &'a str,
    security: SmarthostSecurity,
    /// The file of the certificates to trust. If None, the roots of this system are trusted.
    ca: Option<&'a Path>,
    login: Option<&'a LoginFile>,
    /// The certificates to trust, or the error. They are read once, when the first server needs
    /// them, because a system has hundreds.
    trusted: OnceCell<Result<Trust, String>>,
    any: OnceCell<Result<Trust, String>>,
}

impl<'a> ClientDefaults<'a> {
    /// Returns the configuration of the client named `hostname`, by `relay` and the lines of
    /// `login`.
    pub fn new(hostname: &'a str, relay: &'a RelayOptions, login: Option<&'a LoginFile>) -> Self {
        ClientDefaults {
            hostname,
            security: relay.security,
            ca: relay.ca.as_deref(),
            login,
            trusted: OnceCell::new(),
            any: OnceCell::new(),
        }
    }

    /// Returns the smarthosts with the configuration of connections.
    ///
    /// # Errors
    /// There are no certificates to trust.
    pub fn smarthosts(&self, addresses: &[ServerAddress]) -> Result<Vec<Smarthost>, String> {
        let smarthost = |address: &ServerAddress| {
            let credentials = self.login.and_then(|file| file.find(address));
            let config = self.client(self.security, false, credentials)?;
            Ok(Smarthost { address: address.clone(), config })
        };
        addresses.iter().map(smarthost).collect()
    }

    /// Returns the routes with the configuration of connections. Servers of the same domains are
    /// one route.
    ///
    /// # Errors
    /// There are no certificates to trust.
    pub fn routes(&self, options: &[RouteOption]) -> Result<Vec<RelayRoute>, String> {
        let mut routes: Vec<RelayRoute> = Vec::new();
        for RouteOption { domains, target, security } in options {
            let target = self.target(target, *security)?;
            let same = routes.iter_mut().find(|route| route.pattern == *domains);
            match (same.map(|route| &mut route.target), target) {
                (Some(RouteTarget::Servers(servers)), RouteTarget::Servers(more)) => {
                    servers.extend(more);
                }
                // The first of them alone, because MX records name all hosts of a domain.
                (Some(_), _) => {}
                (None, target) => routes.push(RelayRoute { pattern: domains.clone(), target }),
            }
        }
        Ok(routes)
    }

    /// Returns the certificates to trust, if a server needs them.
    pub fn trusted(&self) -> Option<Trust> {
        self.trusted.get()?.clone().ok()
    }

    fn target(
        &self,
        target: &TargetOption,
        security: Option<SmarthostSecurity>,
    ) -> Result<RouteTarget, String> {
        Ok(match target {
            TargetOption::Server { address, lmtp } => {
                // A line for any host is meant for the smarthosts.
                let is_tcp = matches!(address, ServerAddress::Tcp { .. });
                let login = self.login.filter(|_| is_tcp);
                let credentials = login.and_then(|file| file.find_named(address));
                let config = self.client(security.unwrap_or(self.security), *lmtp, credentials)?;
                RouteTarget::Servers(vec![Smarthost { address: address.clone(), config }])
            }
            TargetOption::Mx => RouteTarget::MailHosts(Box::new(MxConfig {
                // Most hosts of the Internet have a certificate that no authority has signed, or
                // for another name, and some have none (RFC 7435).
                client: self.client(security.unwrap_or(SmarthostSecurity::May), false, None)?,
                resolv_conf: RESOLV_CONF.into(),
                port: SMTP_PORT,
                detects_own_addresses: true,
            })),
        })
    }

    fn client(
        &self,
        security: SmarthostSecurity,
        lmtp: bool,
        credentials: Option<&Credentials>,
    ) -> Result<ClientConfig, String> {
        Ok(ClientConfig {
            hostname: self.hostname.to_owned(),
            lmtp,
            tls: self.tls(security)?,
            credentials: credentials.cloned(),
            timeouts: Timeouts::default(),
        })
    }

    /// Returns the client's TLS, or None for clear text, in a build without TLS.
    fn tls(&self, security: SmarthostSecurity) -> Result<Option<ClientTls>, String> {
        let trusted = || match self.ca {
            None => Trust::system(),
            Some(file) => Trust::file(file).map_err(|e| format!("smarthost-ca {e}")),
        };
        let (trust, required) = match security {
            SmarthostSecurity::Verify => (self.trusted.get_or_init(trusted), true),
            SmarthostSecurity::Encrypt => (self.any.get_or_init(Trust::any_certificate), true),
            SmarthostSecurity::May if cfg!(feature = "tls") => {
                (self.any.get_or_init(Trust::any_certificate), false)
            }
            SmarthostSecurity::May => return Ok(None),
        };
        Ok(Some(ClientTls { trust: trust.clone()?, required }))
    }
}

const FORM: &str = "DOMAIN TARGET or DOMAIN TARGET TLS, such as \"a.example b.example:587\"; \
    DOMAIN may be .example.org or *, TARGET HOST:PORT, tls:HOST, unix:PATH, lmtp:unix:PATH or mx, \
    and TLS verify, encrypt or may";
/// The port of mail hosts.
pub(super) const SMTP_PORT: u16 = 25;
/// The file that names the name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn routes() {
        use SmarthostSecurity::{Encrypt, May};
        let server = |text: &str| (Some(text.to_owned()), false);
        for (text, domains, target, security) in [
            ("Example.net h:587", "example.net", server("h:587"), None),
            (
                ".example.net\ttls:[::1]  encrypt",
                ".example.net",
                server("tls:[::1]:465"),
                Some(Encrypt),
            ),
            ("* unix:/a", "*", server("unix:/a"), None),
            ("a lmtp:unix:/a", "a", (Some("unix:/a".to_owned()), true), None),
            ("[192.0.2.1] mx may", "[192.0.2.1]", (None, false), Some(May)),
        ] {
            let route: RouteOption = text.parse().unwrap();
            let found = match route.target {
                TargetOption::Server { address, lmtp } => (Some(address.to_string()), lmtp),
                TargetOption::Mx => (None, false),
            };
            let found = (route.domains.to_string(), found, route.security);
            assert_eq!(found, (domains.to_owned(), target, security), "{text}");
        }
        for wrong in
            ["", "a", "a b c", "a b may x", "*.a h", "a h:x", "a lmtp:h", "a unix:", "a mx x"]
        {
            assert!(wrong.parse::<RouteOption>().is_err(), "{wrong:?}");
        }
    }

    fn options(routes: &[&str], ca: Option<PathBuf>) -> RelayOptions {
        RelayOptions {
            smarthosts: vec!["mx.test".parse().unwrap()],
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            connections: 1,
            security: SmarthostSecurity::Verify,
            ca,
            login: None,
            sender: None,
            maps_from_field: false,
            from: Vec::new(),
        }
    }

    #[test]
    fn servers_of_the_same_domains_are_one_route() {
        let lines =
            ["a b:1 may", "* mx", ".a c may", "a d may", "* e may", "a mx", "A unix:/f may"];
        let options = options(&lines, None);
        let routes = ClientDefaults::new("here.test", &options, None).routes(&options.routes);
        let shown = |route: &RelayRoute| match &route.target {
            RouteTarget::Servers(servers) => {
                let servers: Vec<_> = servers.iter().map(|s| s.address.to_string()).collect();
                format!("{} {}", route.pattern, servers.join(" "))
            }
            RouteTarget::MailHosts(_) => format!("{} mx", route.pattern),
        };
        let routes: Vec<String> = routes.unwrap().iter().map(shown).collect();
        assert_eq!(routes, ["a b:1 d:25 unix:/f", "* mx", ".a c:25"]);
    }

    /// A second route that trusts the same certificates does not read them again.
    #[cfg(feature = "tls")]
    #[test]
    fn certificates_are_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let ca = directory.path().join("ca");
        let certificate = rcgen::generate_simple_self_signed(vec!["mx.test".to_owned()]).unwrap();
        std::fs::write(&ca, certificate.cert.pem()).unwrap();
        let relay = options(&["a mx.test", "b mx.test verify"], Some(ca.clone()));
        let defaults = ClientDefaults::new("here.test", &relay, None);
        assert_eq!(defaults.smarthosts(&relay.smarthosts).unwrap().len(), 1);
        std::fs::remove_file(&ca).unwrap();
        assert_eq!(defaults.routes(&relay.routes).unwrap().len(), 2);
        assert!(ClientDefaults::new("here.test", &relay, None).routes(&relay.routes).is_err());
    }
}
