//! A DNS resolver for the hosts of a domain (RFC 1035). It asks the name servers of this host over
//! UDP, and over TCP for an answer that UDP cut short.
//!
//! | file | contains |
//! | --- | --- |
//! | `resolv_conf.rs` | the name servers, and how long to wait for them |
//! | `exchange.rs` | one query to one server: sockets, deadlines, and the check of the reply |
//!
//! Promises:
//! - **Every lookup ends** at its deadline. The number of servers, attempts and aliases is bounded,
//!   and so is the size of a reply.
//! - **A reply is used only if it answers the query**: from the server's address and port, with the
//!   random id of the query, and its question. Each query is sent from a new port, which the system
//!   chooses at random.
//! - **No answer is not the answer that there is nothing.** A server that fails, refuses or says
//!   nothing is a temporary error, after which the next server is asked.
//!
//! It keeps no cache, because the servers do. It does not check signatures (DNSSEC).

mod exchange;
mod resolv_conf;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Instant;

use simple_dns::rdata::RData;
use simple_dns::{Name, Packet, RCODE, ResourceRecord, TYPE};

use resolv_conf::NameServers;

/// A resolver that uses the name servers of a `resolv.conf`.
#[derive(Clone, Debug)]
pub struct DnsResolver {
    resolv_conf: PathBuf,
}

/// A server for the mail of a domain, as an MX record has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailExchanger {
    /// The preference. The lowest is tried first.
    pub preference: u16,
    /// The name of the host in lower case, without a closing dot. Empty for the root, with which a
    /// domain says that it takes no mail (RFC 7505).
    pub host: String,
}

/// An error of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// The name does not exist, or is not that of a host.
    NoSuchName,
    /// No server gave an answer. The text says why.
    Temporary(String),
}

impl fmt::Display for DnsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DnsError::NoSuchName => f.write_str("no such domain"),
            DnsError::Temporary(error) => f.write_str(error),
        }
    }
}

impl DnsResolver {
    /// Returns a resolver that reads the file `resolv_conf` for each lookup, so that it follows
    /// changes.
    pub fn new(resolv_conf: impl Into<PathBuf>) -> DnsResolver {
        DnsResolver { resolv_conf: resolv_conf.into() }
    }

    /// Returns the MX records of `domain`, which may be none.
    ///
    /// # Errors
    /// The domain does not exist, or there is no answer until `deadline`.
    pub fn mail_exchangers(
        &self,
        domain: &str,
        deadline: Instant,
    ) -> Result<Vec<MailExchanger>, DnsError> {
        self.lookup(domain, TYPE::MX, deadline, |data| match data {
            RData::MX(mx) => Some(MailExchanger {
                preference: mx.preference,
                host: mx.exchange.to_string().trim_end_matches('.').to_ascii_lowercase(),
            }),
            _ => None,
        })
    }

    /// Returns the IPv4 addresses of `host`, which may be none.
    ///
    /// # Errors
    /// The same as those of [`mail_exchangers`](DnsResolver::mail_exchangers).
    pub fn ipv4(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, DnsError> {
        self.lookup(host, TYPE::A, deadline, |data| match data {
            RData::A(a) => Some(Ipv4Addr::from_bits(a.address).into()),
            _ => None,
        })
    }

    /// Returns the IPv6 addresses of `host`, which may be none.
    ///
    /// # Errors
    /// The same as those of [`mail_exchangers`](DnsResolver::mail_exchangers).
    pub fn ipv6(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, DnsError> {
        self.lookup(host, TYPE::AAAA, deadline, |data| match data {
            RData::AAAA(a) => Some(Ipv6Addr::from_bits(a.address).into()),
            _ => None,
        })
    }

    /// Returns the records of `name`, and of the name that it is an alias of, for which `select`
    /// returns something. At most [`RECORDS_MAX`].
    fn lookup<T>(
        &self,
        name: &str,
        record_type: TYPE,
        deadline: Instant,
        select: impl Fn(&RData<'_>) -> Option<T>,
    ) -> Result<Vec<T>, DnsError> {
        // A label can have any byte (RFC 2181 11), which a log line or a report must not.
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
            return Err(DnsError::NoSuchName);
        }
        let servers = NameServers::read(&self.resolv_conf);
        let mut name = Name::new(name).map_err(|_| DnsError::NoSuchName)?.into_owned();
        // A server that knows only a part of the chain of aliases is asked for its end.
        for _ in 0..QUERIES_MAX {
            let reply = exchange::query(&servers, &name, record_type, deadline)?;
            let packet = Packet::parse(&reply)
                .map_err(|e| DnsError::Temporary(format!("invalid reply: {e}")))?;
            if packet.rcode() == RCODE::NameError {
                return Err(DnsError::NoSuchName);
            }
            let last = end_of_aliases(&name, &packet.answers)?;
            let of_last = packet.answers.iter().filter(|record| record.name == last);
            let found: Vec<T> =
                of_last.filter_map(|record| select(&record.rdata)).take(RECORDS_MAX).collect();
            if !found.is_empty() || last == name {
                return Ok(found);
            }
            name = last.into_owned();
        }
        Err(too_many_aliases())
    }
}

/// Returns the name that `name` is an alias of in `answers`, in whatever order they are; or `name`
/// itself.
///
/// # Errors
/// The chain of aliases is longer than [`ALIASES_MAX`].
fn end_of_aliases<'a>(
    name: &Name<'a>,
    answers: &[ResourceRecord<'a>],
) -> Result<Name<'a>, DnsError> {
    let mut last = name.clone();
    for _ in 0..ALIASES_MAX {
        let next = answers.iter().find_map(|record| match &record.rdata {
            RData::CNAME(alias) if record.name == last => Some(alias.0.clone()),
            _ => None,
        });
        match next {
            Some(next) => last = next,
            None => return Ok(last),
        }
    }
    Err(too_many_aliases())
}

fn too_many_aliases() -> DnsError {
    DnsError::Temporary("too many aliases (CNAME)".to_owned())
}

/// Maximum number of records that are used.
const RECORDS_MAX: usize = 100;
/// Maximum number of aliases that are followed in one reply.
const ALIASES_MAX: usize = 10;
/// Maximum number of queries for the ends of chains of aliases.
const QUERIES_MAX: usize = 4;
