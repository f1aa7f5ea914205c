//! The settings in force: one struct, made once from the command line, the configuration file and
//! the host, in this order of precedence. Nobody looks at options after it.
//!
//! It owns what is accepted: every value is checked against its limits, and a complaint names the
//! option, where it was given and the form that is expected. It remembers where each value came
//! from ([`Config::shown`]), for `mailslot check`.
//!
//! | file | owns |
//! | --- | --- |
//! | `command.rs` | what the words of the command line ask for |
//! | `host.rs` | what the host says of itself |
//! | `reach.rs` | which files stay in reach once the process has locked itself in |
//! | `relay.rs` | the settings of mail for other hosts |
//! | `value.rs` | what the text of a value means |
//! | `values.rs` | what was given for each option, and where |
//!
//! It opens no socket and makes no file. [`HostInfo`] is all it knows of the host, so that tests can
//! make hosts up.

mod command;
mod confinement;
mod host_info;
mod lookup;
pub mod options;
mod parse;
mod relay;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::deliver::{self, JOURNAL_SEGMENT, JOURNAL_SEGMENT_SMALL, Locks};
use crate::net::listen::ListenAddress;
use crate::net::tls::ServerCertificate;
use crate::observe::logging::LogTarget;
use crate::process::privilege::RunAs;
use crate::relay::queue;
use crate::route;
use crate::server;
use crate::session::{self, Audience};
use crate::terminal::Terminals;
pub use command::{ProgramCommand, QueueCommand};
use command::{command, verbosity};
pub use host_info::HostInfo;
use host_info::{ALIASES, MAILNAME, read_text};
use lookup::{OptionValues, refuse};
use options::{CommandLine, OptionValue, Origin};
pub use relay::{RelayOptions, SmarthostSecurity};

/// Which names there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameSet {
    /// These and no others.
    Listed(Vec<String>),
    /// Those of the system (users only): passwd through NSS.
    System,
    /// Every name that can be one; in the sandbox.
    Any,
}

/// Where TLS comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The file of the certificate chain.
    pub cert: PathBuf,
    /// The file of the private key, which may be the same.
    pub key: PathBuf,
    /// Whether clients in clear text hear 530 (RFC 3207 4).
    pub required: bool,
}

/// The settings in force. Defaults are in [`options::TABLE`], sizes in octets.
#[derive(Clone, Debug)]
pub struct Config {
    /// What to do.
    pub command: ProgramCommand,
    /// One session on standard input instead of listening.
    pub inetd: bool,
    /// Where to listen; empty: on the sockets that systemd passed, if it did.
    pub listen: Vec<ListenAddress>,
    /// Where to listen for LMTP (RFC 2033).
    pub lmtp: Vec<ListenAddress>,
    /// The name of this host in greeting, replies and Received (RFC 5321 4.3.1, 4.4).
    pub hostname: String,
    /// The domains that are local (RFC 5321 2.3.5).
    pub domains: NameSet,
    /// The users that have mailboxes.
    pub users: NameSet,
    /// The aliases file.
    pub aliases: Option<PathBuf>,
    /// The folder of the mailboxes.
    pub mail_dir: PathBuf,
    /// The folder of mailslot's own files.
    pub spool: PathBuf,
    /// The sandbox's folder.
    pub sandbox: Option<PathBuf>,
    /// How mailboxes are locked.
    pub locks: Locks,
    /// How long a message waits for a lock. The reply to the final dot waits as long, and clients
    /// give up after 10 minutes (RFC 5321 4.5.3.2.6; RFC 1047).
    pub lock_timeout: Duration,
    /// Sessions at one time; at least two, so that one client cannot keep all others out
    /// (RFC 5321 4.5.4.2).
    pub threads: usize,
    /// The largest message (RFC 1870); every receiver takes 64K (RFC 5321 4.5.3.1.7).
    pub size_max: u64,
    /// Recipients of one message; every receiver takes 100 (RFC 5321 4.5.3.1.8).
    pub recipients_max: usize,
    /// How long one read or write may take; at least 5 minutes (RFC 5321 4.5.3.2.7).
    pub timeout: Duration,
    /// How long a session may last.
    pub session_timeout: Duration,
    /// Sessions from one client at one time (RFC 5321 7.8).
    pub per_client: usize,
    /// The largest mailbox.
    pub mailbox_limit: Option<u64>,
    /// What parts user from tag (RFC 5233).
    pub delimiter: Option<char>,
    /// Whom VRFY answers (RFC 5321 7.3).
    pub vrfy: Audience,
    /// Whom EXPN answers (RFC 5321 7.3).
    pub expn: Audience,
    /// Who is told by 551 where a user has gone (RFC 5321 7.4).
    pub forward_replies: Audience,
    /// Who may send to terminals (RFC 821 3.4).
    pub terminals: Audience,
    /// Certificate and key; None: no TLS.
    pub tls: Option<TlsOptions>,
    /// How mail for other hosts leaves; None: it does not.
    pub relay: Option<RelayOptions>,
    /// Whether `~/.forward` of users is followed.
    pub forward_files: bool,
    /// Whom root becomes; None: nobody else.
    pub run_as: Option<RunAs>,
    /// Where the log goes.
    pub log: LogTarget,
    /// Where the counters are written to.
    pub metrics_file: Option<PathBuf>,
    /// How much is logged, from -1 (warnings) by 0 (what happened) to 2 (all).
    pub verbosity: i32,
    /// Every setting in the order of the table, as text, with its origin.
    pub shown: Vec<OptionValue>,
}

/// Why there is no [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The command line: EX_USAGE.
    Usage(String),
    /// The configuration file, or something on the host: EX_CONFIG.
    Config(String),
}

impl Config {
    /// The settings for the command line `args` (without the program's name) on this host. Reads
    /// the configuration file.
    ///
    /// # Errors
    /// A wrong option, a file that cannot be read or is wrong; the text says what and where.
    pub fn load(args: &[OsString]) -> Result<Config, ConfigError> {
        let line = options::parse_command_line(args).map_err(ConfigError::Usage)?;
        let named = line.given.iter().find(|g| g.long == "config");
        let path = Path::new(named.map_or(CONFIG, |g| g.value.as_str()));
        let unasked = line.count("sandbox") > 0 || line.count("help") + line.count("version") > 0;
        let file = match read_text(path) {
            _ if named.is_none() && unasked => Vec::new(),
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Ok(text) => options::parse_file(path, &text).map_err(ConfigError::Config)?,
            Err(e) => return Err(ConfigError::Config(format!("{}: {e}", path.display()))),
        };
        Config::new(&line, file, &HostInfo::detect())
    }

    /// The settings that `line`, `file` and `host` give together.
    ///
    /// # Errors
    /// A value that is not accepted; the text names the option, where it was given, and the form.
    pub fn new(
        line: &CommandLine,
        file: Vec<OptionValue>,
        host: &HostInfo,
    ) -> Result<Config, ConfigError> {
        let inetd = line.count("inetd") > 0;
        let command = command(line)?;
        let verbosity = verbosity(line)?;
        let mut values = OptionValues { line, file, sandbox: sandbox(line), shown: Vec::new() };
        let sandbox = values.list("sandbox", parse::path)?.pop();

        if let Some(long) = ["listen", "lmtp", "metrics-file"]
            .into_iter()
            .find(|long| inetd && line.count(long) > 0)
        {
            let why = "its one session is SMTP on standard input";
            return usage(&format!("--{long} and --inetd exclude each other: {why}"));
        }
        let lmtp = match values.origin("lmtp") {
            _ if inetd => values.show_instead("lmtp", "none", Origin::Host("--inetd")),
            Origin::Default => values.show_instead("lmtp", "none", Origin::Default),
            _ => values.list("lmtp", parse::lmtp_address)?,
        };
        let listen = match values.origin("listen") {
            _ if inetd => values.show_instead("listen", "standard input", Origin::Host("--inetd")),
            Origin::Default if host.sockets => {
                values.show_instead("listen", "the sockets passed", Origin::Host("systemd"))
            }
            Origin::Default if !lmtp.is_empty() => {
                values.show_instead("listen", "nowhere, but for LMTP", Origin::Default)
            }
            _ => values.list("listen", parse::listen_address)?,
        };

        let tls = tls(&mut values, &listen, &lmtp)?;

        let hostname = match values.origin("hostname") {
            Origin::Default => {
                let (name, origin) = host.full_name();
                let name = parse::hostname(name).map_err(|_| {
                    let name = name.escape_debug();
                    ConfigError::Config(format!(
                        "this host's name \"{name}\" is no domain name; give one with --hostname"
                    ))
                })?;
                values.show_found("hostname", vec![name], origin).remove(0)
            }
            _ => values.single("hostname", parse::hostname)?,
        };

        let domains = match (values.origin("domain"), &sandbox) {
            (Origin::Default, Some(_)) => values.show_wildcard("domain"),
            (Origin::Default, None) => {
                let (name, origin) = match &host.mailname {
                    Some(name) => {
                        (parse::domain(name).map_err(in_mailname)?, Origin::Host(MAILNAME))
                    }
                    None => (hostname.clone(), Origin::Host("hostname")),
                };
                let mut names = vec![name];
                if !names[0].eq_ignore_ascii_case("localhost") {
                    names.push("localhost".to_owned());
                }
                NameSet::Listed(values.show_found("domain", names, origin))
            }
            _ => NameSet::Listed(values.list("domain", parse::domain)?),
        };

        let users = match (values.origin("user"), &sandbox) {
            (Origin::Default, Some(_)) => values.show_wildcard("user"),
            (Origin::Default, None) => {
                values.show("user", "those of the system", Origin::Default);
                NameSet::System
            }
            _ => NameSet::Listed(values.list("user", parse::user)?),
        };

        let aliases = match values.origin("aliases") {
            Origin::Default => {
                let there = host.aliases && sandbox.is_none();
                let found = there.then(|| PathBuf::from(ALIASES));
                let origin = if sandbox.is_some() { Origin::Sandbox } else { Origin::Default };
                values.show("aliases", if there { ALIASES } else { "none" }, origin);
                found
            }
            _ => values.optional("aliases", "none", parse::path)?,
        };

        let log = match (values.origin("log"), inetd) {
            (Origin::Default, true) => {
                values.show("log", "syslog", Origin::Host("--inetd"));
                LogTarget::Syslog
            }
            (Origin::Default, false) => {
                values.show("log", "stderr", Origin::Default);
                LogTarget::Stderr
            }
            _ => values.single("log", parse::log_target)?,
        };

        let metrics_file = match inetd {
            // A process for each session has nothing to count.
            true => values.show_instead("metrics-file", "none", Origin::Host("--inetd")).pop(),
            false => values.optional("metrics-file", "none", parse::path)?,
        };

        let run_as = match (values.origin("run-as"), &users) {
            (Origin::Default, NameSet::System) if host.root => {
                values.show("run-as", RUN_AS, Origin::Host("started as root"));
                Some(parse::run_as(RUN_AS).map_err(ConfigError::Config)?)
            }
            (Origin::Default, _) => {
                values.show("run-as", "who starts it", Origin::Default);
                None
            }
            _ => Some(values.single("run-as", parse::run_as)?),
        };

        let mut config = Config {
            command,
            inetd,
            listen,
            lmtp,
            hostname,
            domains,
            users,
            aliases,
            mail_dir: values.single("mail-dir", parse::path)?,
            spool: values.single("spool", parse::path)?,
            sandbox,
            locks: values.single("lock", parse::locks)?,
            lock_timeout: values.single("lock-timeout", |t| parse::time(t, 0))?,
            threads: values.single("threads", |t| parse::number(t, 2, 4096))?,
            size_max: values.single("max-size", parse::size)?,
            recipients_max: values.single("max-recipients", |t| parse::number(t, 1, 100_000))?,
            timeout: values.single("timeout", |t| parse::time(t, 1))?,
            session_timeout: values.single("session-timeout", |t| parse::time(t, 1))?,
            per_client: values.single("per-client", |t| parse::number(t, 1, 4096))?,
            mailbox_limit: values.optional("mailbox-limit", "none", parse::size)?,
            delimiter: values.optional("delimiter", "none", parse::delimiter)?,
            vrfy: values.single("vrfy", parse::audience)?,
            expn: values.single("expn", parse::audience)?,
            forward_replies: values.single("forward-replies", parse::audience)?,
            terminals: values.single("terminals", parse::audience)?,
            tls,
            relay: relay::relay(&mut values)?,
            forward_files: values.single("forward-files", parse::on_off)?,
            run_as,
            log,
            metrics_file,
            verbosity,
            shown: Vec::new(),
        };
        let place = |g: &OptionValue| options::TABLE.iter().position(|row| row.long == g.long);
        values.shown.sort_by_key(place);
        config.shown = values.shown;
        Ok(config)
    }

    /// Where the value of `long` came from.
    pub fn origin(&self, long: &str) -> Origin {
        self.shown.iter().find(|g| g.long == long).map_or(Origin::Default, |g| g.origin.clone())
    }

    /// What the writer is told.
    pub fn delivery_config(&self) -> deliver::DeliveryConfig {
        deliver::DeliveryConfig {
            mail_dir: self.mail_dir.clone(),
            spool: self.spool.clone(),
            locks: self.locks,
            lock_timeout: self.lock_timeout,
            mailbox_limit: self.mailbox_limit,
            queue: self.threads,
            journal_segment: if self.inetd { JOURNAL_SEGMENT_SMALL } else { JOURNAL_SEGMENT },
        }
    }

    /// What the host's own routing is told.
    pub fn route_config(&self) -> route::RouteConfig {
        let these = |names: &NameSet| match names {
            NameSet::Listed(names) => names.clone(),
            NameSet::System | NameSet::Any => Vec::new(),
        };
        route::RouteConfig {
            domains: these(&self.domains),
            hostname: self.hostname.clone(),
            users: these(&self.users),
            sandbox: self.sandbox.is_some(),
            aliases: self.aliases.clone(),
            delimiter: self.delimiter,
            relays: self.relay.is_some(),
        }
    }

    /// What each session is told; `keys` are those that [`tls`](Config::tls) leads to, `queue` is
    /// for [`relay`](Config::relay).
    pub fn session_config(
        &self,
        keys: Option<Arc<ServerCertificate>>,
        queue: Option<queue::QueueHandle>,
    ) -> session::SessionConfig {
        let from = self.relay.iter().flat_map(|relay| &relay.from).copied().collect();
        let required = self.tls.as_ref().is_some_and(|tls| tls.required);
        session::SessionConfig {
            hostname: self.hostname.clone(),
            size_max: self.size_max,
            recipients_max: self.recipients_max,
            errors_max: ERRORS_MAX,
            vrfy: self.vrfy,
            expn: self.expn,
            forward_replies: self.forward_replies,
            send: self.terminals,
            terminals: Terminals::default(),
            spool: self.spool.clone(),
            mail_dir: self.mail_dir.clone(),
            timeout: self.timeout,
            session_timeout: self.session_timeout,
            outcome_timeout: self.lock_timeout + WRITING,
            tls: keys.map(|keys| session::TlsPolicy { keys, required }),
            relay: queue.map(|queue| session::RelayPolicy { from, queue }),
        }
    }

    /// What the server is told; `keys` and `queue` as for [`session`](Config::session_config).
    pub fn server_config(
        &self,
        keys: Option<Arc<ServerCertificate>>,
        queue: Option<queue::QueueHandle>,
    ) -> server::ServerConfig {
        server::ServerConfig {
            session: self.session_config(keys, queue),
            threads: self.threads,
            per_client: self.per_client,
            grace: GRACE,
        }
    }

    /// For whom there are mailboxes, in words: `al and bo at example.org`.
    pub fn describe_recipients(&self) -> String {
        let users = match &self.users {
            NameSet::Listed(names) => and(names),
            NameSet::System => "the users of this host".to_owned(),
            NameSet::Any => "every user".to_owned(),
        };
        let domains = match &self.domains {
            NameSet::Listed(names) => and(names),
            NameSet::System | NameSet::Any => "every domain".to_owned(),
        };
        format!("{users} at {domains}")
    }
}

/// Certificate and key, or neither: then nothing may ask for TLS.
fn tls(
    values: &mut OptionValues<'_>,
    listen: &[ListenAddress],
    lmtp: &[ListenAddress],
) -> Result<Option<TlsOptions>, ConfigError> {
    let cert = values.optional("tls-cert", "none", parse::path)?;
    let key = match (values.origin("tls-key"), &cert) {
        (Origin::Default, cert) => {
            let words = if cert.is_some() { "the file of tls-cert" } else { "none" };
            values.show("tls-key", words, Origin::Default);
            None
        }
        _ => values.list("tls-key", parse::path)?.pop(),
    };
    let required = values.single("tls-required", parse::on_off)?;
    if let Some(cert) = cert {
        return Ok(Some(TlsOptions { key: key.unwrap_or_else(|| cert.clone()), cert, required }));
    }
    let any =
        |of: &[ListenAddress]| of.iter().any(|a| matches!(a, ListenAddress::Tcp { tls: true, .. }));
    let asks = [
        ("tls-key", key.is_some()),
        ("tls-required", required),
        ("listen", any(listen)),
        ("lmtp", any(lmtp)),
    ];
    let asks = asks.into_iter().filter(|(_, asks)| *asks).flat_map(|(long, _)| values.lookup(long));
    match asks.last() {
        Some(given) => Err(refuse(&given, "tls-cert besides, without which there is no TLS")),
        None => Ok(None),
    }
}

/// What `--sandbox DIR` stands for.
fn sandbox(line: &CommandLine) -> Vec<OptionValue> {
    let Some(dir) = line.given.iter().find(|g| g.long == "sandbox") else { return Vec::new() };
    let inside = |name: &str| Path::new(&dir.value).join(name).to_string_lossy().into_owned();
    [
        ("listen", "127.0.0.1:2525".to_owned()),
        ("hostname", "localhost".to_owned()),
        ("mail-dir", inside("mail")),
        ("spool", inside("spool")),
    ]
    .map(|(long, value)| OptionValue { long, value, origin: Origin::Sandbox })
    .to_vec()
}

fn usage<T>(text: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Usage(text.to_owned()))
}

fn in_mailname(expected: String) -> ConfigError {
    ConfigError::Config(format!("{MAILNAME}: expected {expected}; or give --domain"))
}

/// `a`, `a and b`, `a, b and c`.
fn and(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The configuration file that is read unasked.
pub const CONFIG: &str = "/etc/mailslot.conf";
/// Commands in error before 421; people mistype less, harvesters more.
const ERRORS_MAX: u32 = 20;
/// Besides the wait for locks, how long the writer may take for one message on a slow disk.
const WRITING: Duration = Duration::from_secs(60);
/// How long a stop waits for messages in hand.
const GRACE: Duration = Duration::from_secs(10);
/// Whom root becomes unasked.
const RUN_AS: &str = "mailslot:mail";

#[cfg(test)]
mod tests;
