//! Settings that the program accepts and an administrator hardly wants. The start logs them, and
//! `mailslot check` shows them.

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use ipnet::IpNet;

use super::Config;
use crate::net::listen::ListenAddress;
use crate::relay::client::ServerAddress;
use crate::resolver::Problem;

impl Config {
    /// Returns the settings that are doubtful: limits below those that the standards require of
    /// every receiver, and values that do not work together or are dangerous.
    pub fn doubtful_settings(&self) -> Vec<Problem> {
        let mut found = check_limits(self);
        found.extend(check_relay_clients(self));
        found.extend(check_smarthosts(self));
        found.extend(self.smarthosts_without_login().iter().map(|address| {
            doubt(
                format!("smarthost {address} has no line in the file of smarthost-login"),
                "add a line, unless it needs no login",
            )
        }));
        found
    }
}

/// Checks for limits below those that the standards require of every receiver, and for timeouts
/// that do not work together.
fn check_limits(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut advise_if = |wrong: bool, what: String, fix: &str| {
        if wrong {
            found.push(doubt(what, fix));
        }
    };
    advise_if(
        config.recipients_max < 100,
        format!("max-recipients {} is below RFC 5321's 100", config.recipients_max),
        "set max-recipients to 100 or more",
    );
    advise_if(
        config.size_max < 64 << 10,
        format!("max-size {} is below RFC 5321's 64K", config.size_max),
        "set max-size to 64K or more",
    );
    advise_if(
        config.timeout < Duration::from_secs(300),
        format!("timeout {} is below RFC 5321's 5 minutes", config.timeout.as_secs()),
        "set timeout to 300 or more",
    );
    advise_if(
        config.session_timeout < config.timeout,
        "session-timeout is shorter than timeout, so timeout never applies".to_owned(),
        "set session-timeout to timeout or more",
    );
    advise_if(
        config.lock_timeout > Duration::from_secs(540),
        format!(
            "lock-timeout {}: clients time out after 10 minutes, and send the message again",
            config.lock_timeout.as_secs()
        ),
        "set lock-timeout to a minute or less",
    );
    if config.has_queue() {
        advise_if(
            config.warn_after >= config.give_up_after,
            format!(
                "warn-after {} is not below give-up-after {}, so no delay notice is sent",
                config.warn_after.as_secs(),
                config.give_up_after.as_secs()
            ),
            "set warn-after to a time below give-up-after",
        );
    }
    advise_if(
        !config.locks.dotlock && !config.locks.fcntl,
        "lock flock: most mail readers use only dotlocks or fcntl locks".to_owned(),
        "set lock to dotlock,fcntl,flock unless you know every reader",
    );
    found
}

/// Checks that clients of the whole internet cannot relay.
fn check_relay_clients(config: &Config) -> Option<Problem> {
    let relay = config.relay.as_ref()?;
    let network = relay.from.iter().find(|network| is_public(network))?;
    let is_open = |address: &&ListenAddress| match address {
        ListenAddress::Tcp { host, .. } => !is_loopback(host),
        ListenAddress::Unix { .. } => false,
    };
    let addresses = config.listen.iter().chain(&config.lmtp);
    let address = match addresses.clone().find(is_open) {
        Some(address) => address.to_string(),
        // Sockets that systemd passes may have any address.
        None if config.listen.is_empty() && !config.inetd => "sockets that were passed".to_owned(),
        None => return None,
    };
    Some(doubt(
        format!(
            "relay-from {network}: clients of the internet may relay through {address}, so this is \
             an open relay"
        ),
        "set relay-from to the networks of your own clients",
    ))
}

/// Checks that no smarthost is this server, because mail would go round until it is returned.
fn check_smarthosts(config: &Config) -> Vec<Problem> {
    let relay = config.relay.iter();
    let own = relay.flat_map(|relay| &relay.smarthosts).filter(|target| is_own(config, target));
    let doubt = |target: &ServerAddress| {
        doubt(
            format!("smarthost {target} is this server, so mail for other hosts goes in a circle"),
            "set smarthost to the mail server of your provider or of your network",
        )
    };
    own.map(doubt).collect()
}

/// True if `target` is an address that this server listens on. Names other than those of this host
/// are not looked up, because a name server may not answer.
fn is_own(config: &Config, target: &ServerAddress) -> bool {
    let (host, port) = match target {
        ServerAddress::Unix(path) => {
            let same = |address: &ListenAddress| match address {
                ListenAddress::Unix { path: other, .. } => other == path,
                ListenAddress::Tcp { .. } => false,
            };
            return config.listen.iter().chain(&config.lmtp).any(same);
        }
        ServerAddress::Tcp { host, port, .. } => (host, *port),
    };
    let is_port = |address: &ListenAddress| match address {
        ListenAddress::Tcp { port: other, .. } => *other == port,
        ListenAddress::Unix { .. } => false,
    };
    let passed = config.listen.is_empty() && !config.inetd && port == 25;
    if !passed && !config.listen.iter().any(is_port) {
        return false;
    }
    match host.parse::<IpAddr>() {
        // Only an address of this host can be bound.
        Ok(ip) => ip.is_loopback() || TcpListener::bind((ip, 0)).is_ok(),
        Err(_) => is_loopback(host) || host.eq_ignore_ascii_case(&config.hostname),
    }
}

/// True if `network` is larger than any private one, such as `0.0.0.0/0`.
fn is_public(network: &IpNet) -> bool {
    match network {
        IpNet::V4(network) => network.prefix_len() < 8,
        IpNet::V6(network) => network.prefix_len() < 7,
    }
}

fn is_loopback(host: &str) -> bool {
    host.parse().map_or(host.eq_ignore_ascii_case("localhost"), |ip: IpAddr| ip.is_loopback())
}

fn doubt(what: String, fix: &str) -> Problem {
    Problem { what, fix: fix.to_owned(), stops_mail: false }
}
