//! The hosts that take mail for a domain, by its MX and address records (RFC 5321 5.1):
//!
//! | records of the domain | hosts |
//! | --- | --- |
//! | MX records | in the order of preference; equal ones in random order, to share the load |
//! | no MX record | the domain itself, by its addresses |
//! | one MX record with the host `.` | none: the domain takes no mail (RFC 7505) |
//! | the domain does not exist | none |
//! | an alias (CNAME) | those of the name that it is an alias of |
//!
//! The list ends before this host, because a host of a worse preference would send the mail back
//! here. If this host is the first, the mail is in a loop. This host is known by its name and by
//! its addresses.
//!
//! The IPv4 addresses of a host come before its IPv6 addresses, because many servers refuse mail
//! from an IPv6 address without a reverse name.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::net::dns::{DnsError, DnsResolver, MailExchanger};
use crate::smtp::sender::{OutcomeReason, RecipientOutcome};

/// A host that takes mail for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailHost {
    /// Its name, which its certificate must have if the route asks for that.
    pub name: String,
    /// Its addresses, at least one.
    pub addresses: Vec<IpAddr>,
}

/// Lookups of records.
pub trait HostLookup {
    /// Returns the MX records of `domain`, which may be none.
    ///
    /// # Errors
    /// The domain does not exist, or there is no answer.
    fn mail_exchangers(&self, domain: &str) -> Result<Vec<MailExchanger>, DnsError>;

    /// Returns the addresses of `host` in the order in which they are tried. They may be none.
    ///
    /// # Errors
    /// The host does not exist, or there is no answer.
    fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError>;

    /// True if `address` is one of this host.
    fn is_own(&self, address: IpAddr) -> bool;
}

/// Lookups over the name servers of this host, all before one deadline.
#[derive(Debug)]
pub struct DnsLookup {
    resolver: DnsResolver,
    deadline: Instant,
    detects_own_addresses: bool,
}

impl DnsLookup {
    /// Returns lookups by the name servers in `resolv_conf`. Without `detects_own_addresses` no
    /// address counts as one of this host.
    pub fn new(resolv_conf: impl Into<PathBuf>, detects_own_addresses: bool) -> DnsLookup {
        let deadline = Instant::now() + LOOKUP_TIME_MAX;
        DnsLookup { resolver: DnsResolver::new(resolv_conf), deadline, detects_own_addresses }
    }
}

impl HostLookup for DnsLookup {
    fn mail_exchangers(&self, domain: &str) -> Result<Vec<MailExchanger>, DnsError> {
        self.resolver.mail_exchangers(domain, self.deadline)
    }

    fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
        let ipv4 = self.resolver.ipv4(host, self.deadline);
        if ipv4 == Err(DnsError::NoSuchName) {
            return ipv4;
        }
        match (ipv4, self.resolver.ipv6(host, self.deadline)) {
            (Ok(mut all), Ok(ipv6)) => {
                all.extend(ipv6);
                Ok(all)
            }
            // Some of the addresses are enough.
            (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.is_empty() => Ok(some),
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        // A socket can be bound to an address of this host only. A list of interfaces would need
        // another permission under systemd.
        if !self.detects_own_addresses || bound(address).is_err() {
            return false;
        }
        let (no_host, any): (IpAddr, IpAddr) = match address {
            IpAddr::V4(_) => (NO_HOST_V4.into(), Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => (NO_HOST_V6.into(), Ipv6Addr::UNSPECIFIED.into()),
        };
        // In a cluster any address can be bound (ip_nonlocal_bind). A connection to an address of
        // this host comes from that address, unless the interface has another one before it.
        let source = || {
            bound(any).and_then(|socket| {
                socket.connect((address, DISCARD_PORT))?;
                socket.local_addr()
            })
        };
        bound(no_host).is_err()
            || address.is_loopback()
            || source().is_ok_and(|source| source.ip() == address)
    }
}

/// Returns a socket that is bound to `address`.
fn bound(address: IpAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind((address, 0))
}

/// Returns the hosts that take mail for `domain`, which is in ASCII, in the order in which they are
/// tried. `own_name` is the name of this host.
///
/// # Errors
/// The outcome of all recipients in the domain: failed, or deferred if an answer is missing.
pub fn find(
    domain: &str,
    own_name: &str,
    lookup: &dyn HostLookup,
) -> Result<Vec<MailHost>, RecipientOutcome> {
    let mut exchangers = lookup.mail_exchangers(domain).map_err(|e| match e {
        DnsError::NoSuchName => failed((5, 1, 2), format!("the domain {domain} does not exist")),
        DnsError::Temporary(error) => deferred(domain, &error),
    })?;
    let is_implicit = exchangers.is_empty();
    if is_implicit {
        exchangers.push(MailExchanger { preference: 0, host: domain.to_owned() });
    }
    exchangers.retain(|exchanger| !exchanger.host.is_empty());
    if exchangers.is_empty() {
        let text = format!("the domain {domain} takes no mail (null MX)");
        return Err(failed((5, 1, 10), text));
    }
    shuffle(&mut exchangers);
    exchangers.sort_unstable_by_key(|exchanger| exchanger.preference);
    exchangers.truncate(HOSTS_MAX);
    let (mut hosts, mut error, mut own) = (Vec::new(), None, None);
    for MailExchanger { preference, host } in exchangers {
        if own.is_some_and(|own| preference > own) {
            break;
        }
        let addresses = match lookup.addresses(&host) {
            Ok(addresses) => addresses,
            Err(DnsError::NoSuchName) => Vec::new(),
            Err(DnsError::Temporary(e)) => {
                error = Some(deferred(&host, &e));
                Vec::new()
            }
        };
        let is_own = |address: &IpAddr| address.is_unspecified() || lookup.is_own(*address);
        if host.eq_ignore_ascii_case(own_name) || addresses.iter().any(is_own) {
            own = Some(preference);
        } else if !addresses.is_empty() {
            hosts.push((preference, MailHost { name: host, addresses }));
        }
    }
    // Hosts of the same preference as this one are of no use either.
    hosts.retain(|(preference, _)| own.is_none_or(|own| *preference < own));
    match (hosts.is_empty(), error, own) {
        (false, ..) => Ok(hosts.into_iter().map(|(_, host)| host).collect()),
        // A better host may be found later.
        (true, Some(error), _) => Err(error),
        (true, None, Some(_)) => {
            Err(failed((5, 4, 6), format!("mail for {domain} loops back to this host")))
        }
        (true, None, None) if is_implicit => {
            Err(failed((5, 1, 2), format!("the domain {domain} has no mail host and no address")))
        }
        (true, None, None) => {
            Err(failed((5, 4, 4), format!("no mail host of {domain} has an address")))
        }
    }
}

fn failed(status: (u8, u16, u16), text: String) -> RecipientOutcome {
    RecipientOutcome::Failed(OutcomeReason::local(status, &text))
}

fn deferred(name: &str, error: &str) -> RecipientOutcome {
    let text = format!("{name} cannot be looked up: {error}");
    RecipientOutcome::Deferred(OutcomeReason::local((4, 4, 3), &text))
}

/// Puts the elements in random order (Fisher and Yates).
fn shuffle<T>(all: &mut [T]) {
    let random = RandomState::new();
    for last in (1..all.len()).rev() {
        let other = random.hash_one(last) % (last as u64 + 1);
        all.swap(last, usize::try_from(other).unwrap_or(last));
    }
}

/// Time for all lookups of one domain.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(60);
/// An address that no host has (RFC 1112 4).
const NO_HOST_V4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
/// An address that no host has (RFC 6666).
const NO_HOST_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);
/// A port for a connection over which nothing is sent.
const DISCARD_PORT: u16 = 9;
/// Maximum number of hosts that are tried.
const HOSTS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Records as text: `a.example MX 10 m1.example`, `m1.example A 192.0.2.1`, `x.example ?` for a
    /// name without answer. The addresses of 192.0.2.200 and above are of this host.
    struct Records(&'static str);

    impl Records {
        fn of(&self, name: &str, wanted: &str) -> Result<Vec<Vec<&'static str>>, DnsError> {
            let lines = self.0.split(", ").map(|line| line.split(' ').collect::<Vec<_>>());
            let of_name: Vec<Vec<&str>> = lines.filter(|line| line[0] == name).collect();
            if of_name.iter().any(|line| line[1] == "?") {
                return Err(DnsError::Temporary("no answer".to_owned()));
            }
            if of_name.is_empty() {
                return Err(DnsError::NoSuchName);
            }
            Ok(of_name.into_iter().filter(|line| line[1] == wanted).collect())
        }
    }

    impl HostLookup for Records {
        fn mail_exchangers(&self, domain: &str) -> Result<Vec<MailExchanger>, DnsError> {
            let record = |line: Vec<&str>| MailExchanger {
                preference: line[2].parse().unwrap(),
                host: line[3].trim_end_matches('.').to_owned(),
            };
            Ok(self.of(domain, "MX")?.into_iter().map(record).collect())
        }

        fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, DnsError> {
            Ok(self.of(host, "A")?.iter().map(|line| line[2].parse().unwrap()).collect())
        }

        fn is_own(&self, address: IpAddr) -> bool {
            matches!(address, IpAddr::V4(v4) if v4.octets()[3] >= 200)
        }
    }

    fn find_in(records: &'static str) -> Result<Vec<String>, String> {
        match find("d", "me", &Records(records)) {
            Ok(hosts) => Ok(hosts.into_iter().map(|host| host.name).collect()),
            Err(RecipientOutcome::Failed(reason)) => {
                let (class, subject, detail) = reason.status;
                Err(format!("failed {class}.{subject}.{detail}"))
            }
            Err(outcome) => Err(format!("deferred {}", outcome.reason().text)),
        }
    }

    #[test]
    fn hosts_of_a_domain() {
        let no_answer = |name: &str| format!("deferred {name} cannot be looked up: no answer");
        for (records, hosts) in [
            ("d MX 20 b, d MX 10 a, a A 192.0.2.1, b A 192.0.2.2", Ok("a b")),
            ("d MX 10 a, d A 192.0.2.9, a A 192.0.2.1", Ok("a")),
            // No MX record.
            ("d A 192.0.2.9", Ok("d")),
            ("d TXT", Err("failed 5.1.2".to_owned())),
            ("e A 192.0.2.9", Err("failed 5.1.2".to_owned())),
            ("d ?", Err(no_answer("d"))),
            // Null MX.
            ("d MX 0 ., d A 192.0.2.9", Err("failed 5.1.10".to_owned())),
            ("d MX 0 ., d MX 10 a, a A 192.0.2.1", Ok("a")),
            // Hosts that cannot be found.
            ("d MX 10 x, d MX 20 a, a A 192.0.2.1", Ok("a")),
            ("d MX 10 x, d MX 20 y, y TXT", Err("failed 5.4.4".to_owned())),
            ("d MX 10 x, d MX 20 y, y ?", Err(no_answer("y"))),
            ("d MX 10 y, d MX 20 a, y ?, a A 192.0.2.1", Ok("a")),
            // This host, by name and by address.
            ("d MX 10 a, d MX 20 me, d MX 30 b, a A 192.0.2.1, b A 192.0.2.2", Ok("a")),
            ("d MX 10 a, d MX 20 ME, d MX 20 b, a A 192.0.2.1, b A 192.0.2.2", Ok("a")),
            (
                "d MX 10 a, d MX 20 c, d MX 30 b, a A 192.0.2.1, b A 192.0.2.2, c A 192.0.2.200",
                Ok("a"),
            ),
            ("d MX 10 me, d MX 20 b, b A 192.0.2.2", Err("failed 5.4.6".to_owned())),
            ("d MX 10 c, c A 192.0.2.1, c A 192.0.2.200", Err("failed 5.4.6".to_owned())),
            ("d MX 10 c, c A 0.0.0.0", Err("failed 5.4.6".to_owned())),
            ("d A 192.0.2.200", Err("failed 5.4.6".to_owned())),
            ("d MX 10 y, d MX 20 me, y ?", Err(no_answer("y"))),
        ] {
            let hosts = hosts.map(|names| names.split(' ').map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(find_in(records), hosts, "{records}");
        }
    }

    #[test]
    fn equal_preferences_are_in_any_order() {
        let records = "d MX 5 a, d MX 5 b, d MX 5 c, d MX 1 e, \
                       a A 192.0.2.1, b A 192.0.2.2, c A 192.0.2.3, e A 192.0.2.4";
        let orders: BTreeSet<Vec<String>> = (0..1000).map(|_| find_in(records).unwrap()).collect();
        assert_eq!(orders.len(), 6, "{orders:?}");
        assert!(orders.iter().all(|order| order[0] == "e" && order.len() == 4));
    }

    #[test]
    fn own_addresses_can_be_bound() {
        let lookup = DnsLookup::new("/dev/null", true);
        assert!(lookup.is_own("127.0.0.1".parse().unwrap()));
        assert!(!lookup.is_own("192.0.2.1".parse().unwrap()));
    }
}
