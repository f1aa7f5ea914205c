//! The option `--route`: domains of other hosts, and the servers that take their mail.
//!
//! ```text
//! route  example.net   smtp.example.net:587       DOMAIN TARGET
//! route  .example.net  tls:192.0.2.9 encrypt      DOMAIN TARGET TLS
//! route  lists.example lmtp:unix:/run/lists/lmtp
//! route  *             mx
//! ```

use std::path::Path;
use std::str::FromStr;

use crate::net::tls::Trust;
use crate::relay::client::credentials::LoginFile;
use crate::relay::client::{ClientConfig, ClientTls, ServerAddress, Timeouts};
use crate::relay::queue::{MxConfig, RelayRoute, RouteTarget, Smarthost};
use crate::route::DomainPattern;
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

/// The configuration of connections that the routes share.
pub(super) struct RouteDefaults<'a> {
    /// The name of this host.
    pub hostname: &'a str,
    /// The TLS of servers.
    pub security: SmarthostSecurity,
    /// The file of the certificates to trust. If None, the roots of this system are trusted.
    pub ca: Option<&'a Path>,
    /// Users and passwords.
    pub login: Option<&'a LoginFile>,
}

impl RouteDefaults<'_> {
    /// Returns the routes with the configuration of connections.
    ///
    /// # Errors
    /// There are no certificates to trust.
    pub fn apply_to(&self, options: &[RouteOption]) -> Result<Vec<RelayRoute>, String> {
        let route = |option: &RouteOption| {
            let target = self.target(&option.target, option.security)?;
            Ok(RelayRoute { pattern: option.domains.clone(), target })
        };
        options.iter().map(route).collect()
    }

    fn target(
        &self,
        target: &TargetOption,
        security: Option<SmarthostSecurity>,
    ) -> Result<RouteTarget, String> {
        let client = |security, lmtp, credentials: Option<&Credentials>| {
            Ok::<_, String>(ClientConfig {
                hostname: self.hostname.to_owned(),
                lmtp,
                tls: client_tls(security, self.ca)?,
                credentials: credentials.cloned(),
                timeouts: Timeouts::default(),
            })
        };
        Ok(match target {
            TargetOption::Server { address, lmtp } => {
                // A line for any host is meant for the smarthosts.
                let is_tcp = matches!(address, ServerAddress::Tcp { .. });
                let login = self.login.filter(|_| is_tcp);
                let credentials = login.and_then(|file| file.find_named(address));
                let config = client(security.unwrap_or(self.security), *lmtp, credentials)?;
                RouteTarget::Servers(vec![Smarthost { address: address.clone(), config }])
            }
            TargetOption::Mx => RouteTarget::MailHosts(Box::new(MxConfig {
                // Most hosts of the Internet have a certificate that no authority has signed, or
                // for another name, and some have none (RFC 7435).
                client: client(security.unwrap_or(SmarthostSecurity::May), false, None)?,
                resolv_conf: RESOLV_CONF.into(),
                port: SMTP_PORT,
                detects_own_addresses: true,
            })),
        })
    }
}

/// Returns the client's TLS, which trusts the certificates in the file `ca`, or else the roots of
/// this system. Returns None for clear text, in a build without TLS.
///
/// # Errors
/// There are no certificates to trust.
pub(super) fn client_tls(
    security: SmarthostSecurity,
    ca: Option<&Path>,
) -> Result<Option<ClientTls>, String> {
    let (trust, required) = match (security, ca) {
        (SmarthostSecurity::Verify, None) => (Trust::system()?, true),
        (SmarthostSecurity::Verify, Some(file)) => {
            (Trust::file(file).map_err(|e| format!("smarthost-ca {e}"))?, true)
        }
        (SmarthostSecurity::Encrypt, _) => (Trust::any_certificate()?, true),
        (SmarthostSecurity::May, _) if cfg!(feature = "tls") => (Trust::any_certificate()?, false),
        (SmarthostSecurity::May, _) => return Ok(None),
    };
    Ok(Some(ClientTls { trust, required }))
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
}
