//! The configuration: one struct, made once from the command line, the configuration file and the
//! host, in this order of precedence. The rest of the program never sees an option.
//!
//! Every value is checked against its limits here. An error names the option, where it was given,
//! and the expected form. The origin of each value is kept for `mailslot check`
//! ([`Config::shown`]).
//!
//! | file | contains |
//! | --- | --- |
//! | `options.rs` | the table of options, and the syntax of command line and file |
//! | `command.rs` | the command: serve, check, explain, queue |
//! | `lookup.rs` | the values given for an option, by precedence |
//! | `parse.rs` | the text of a value to its type, and the expected forms |
//! | `computed.rs` | options with a default that depends on the host or on other options |
//! | `relay.rs` | options for mail to other hosts, and the configuration of the queue |
//! | `routes.rs` | the routes of single domains |
//! | `confinement.rs` | the files and ports that this configuration needs |
//! | `doubtful_settings.rs` | settings that are accepted, but hardly intended |
//! | `host_info.rs` | the names and files of the host that defaults depend on |
//! | `startup_message.rs` | the lines on standard output when the server starts |
//! | `error.rs` | the error of all of these |
//!
//! No socket is opened here, and no file created. Everything about the host is in [`HostInfo`], so
//! that tests can make hosts up.

mod command;
mod computed;
mod confinement;
mod doubtful_settings;
mod error;
mod host_info;
mod lookup;
pub mod options;
mod parse;
mod relay;
mod routes;
mod startup_message;

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
use crate::resolver;
use crate::server;
use crate::session::{self, Audience};
use crate::terminal::Terminals;
pub use command::{ProgramCommand, QueueCommand};
use command::{command, verbosity};
pub use error::ConfigError;
pub use host_info::HostInfo;
use host_info::read_text;
use lookup::OptionValues;
use options::{CommandLine, OptionValue, Origin};
pub use relay::{RelayOptions, SmarthostSender};
pub use routes::{RouteOption, SmarthostSecurity, TargetOption};

/// A set of local domains, or of local users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameSet {
    /// These names only.
    Listed(Vec<String>),
    /// The users in passwd, looked up through NSS. Never used for domains.
    System,
    /// Every valid name, as in the sandbox.
    Any,
}

/// The TLS options of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// The file of the certificate chain.
    pub cert: PathBuf,
    /// The file of the private key, which may be the same.
    pub key: PathBuf,
    /// True if clients in clear text get 530 (RFC 3207 4).
    pub required: bool,
}

/// The configuration in effect. Defaults are in [`options::TABLE`]; sizes are in bytes.
#[derive(Clone, Debug)]
pub struct Config {
    /// The command to run.
    pub command: ProgramCommand,
    /// True to serve one session on standard input instead of listening.
    pub inetd: bool,
    /// Addresses for SMTP. If empty, the server uses the sockets that systemd passed.
    pub listen: Vec<ListenAddress>,
    /// Addresses for LMTP (RFC 2033).
    pub lmtp: Vec<ListenAddress>,
    /// The name of this host in the greeting, in replies and in Received (RFC 5321 4.3.1, 4.4).
    pub hostname: String,
    /// The local domains (RFC 5321 2.3.5).
    pub domains: NameSet,
    /// The users with mailboxes.
    pub users: NameSet,
    /// The alias file.
    pub aliases: Option<PathBuf>,
    /// The directory of the mailboxes.
    pub mail_dir: PathBuf,
    /// The directory of mailslot's own files.
    pub spool: PathBuf,
    /// The directory of `--sandbox`.
    pub sandbox: Option<PathBuf>,
    /// The kinds of lock taken on a mailbox.
    pub locks: Locks,
    /// The time a message waits for a lock. The reply to the final dot waits as long, and clients
    /// give up after 10 minutes (RFC 5321 4.5.3.2.6; RFC 1047).
    pub lock_timeout: Duration,
    /// The number of concurrent sessions: at least two, so that one client cannot block all others
    /// (RFC 5321 4.5.4.2).
    pub threads: usize,
    /// The largest message (RFC 1870). Every receiver accepts 64K (RFC 5321 4.5.3.1.7).
    pub size_max: u64,
    /// The number of recipients of one message. Every receiver accepts 100 (RFC 5321 4.5.3.1.8).
    pub recipients_max: usize,
    /// The time one read or write may take: at least 5 minutes (RFC 5321 4.5.3.2.7).
    pub timeout: Duration,
    /// The time a session may last.
    pub session_timeout: Duration,
    /// The number of concurrent sessions of one client (RFC 5321 7.8).
    pub per_client: usize,
    /// The largest mailbox.
    pub mailbox_limit: Option<u64>,
    /// The separator between user and tag (RFC 5233).
    pub delimiter: Option<char>,
    /// The clients that may use VRFY (RFC 5321 7.3).
    pub vrfy: Audience,
    /// The clients that may use EXPN (RFC 5321 7.3).
    pub expn: Audience,
    /// The clients that get the new address of a user by 551 (RFC 5321 7.4).
    pub forward_replies: Audience,
    /// The clients that may send to terminals (RFC 821 3.4).
    pub terminals: Audience,
    /// Certificate and key; None for a server without TLS.
    pub tls: Option<TlsOptions>,
    /// Relaying to other hosts; None if mail for them is rejected.
    pub relay: Option<RelayOptions>,
    /// True if mail of clients on this host is queued if it cannot be delivered now.
    pub hold: bool,
    /// The age of mail in the queue at which the sender gets a delay notice.
    pub warn_after: Duration,
    /// The age at which mail in the queue is returned (RFC 5321 4.5.4.1).
    pub give_up_after: Duration,
    /// True if programs of this host may leave mail in the spool while the server does not run.
    pub hand_over: bool,
    /// True if `~/.forward` is followed.
    pub forward_files: bool,
    /// The account to switch to; None to stay.
    pub run_as: Option<RunAs>,
    /// The destination of the log.
    pub log: LogTarget,
    /// The file for metrics.
    pub metrics_file: Option<PathBuf>,
    /// The log level: -1 for warnings, 0 for events, 1 for more, 2 for all.
    pub verbosity: i32,
    /// Every value in effect with its origin, in the order of the table.
    pub shown: Vec<OptionValue>,
    /// The command line and the host, of which the values are made together with the file.
    source: (CommandLine, HostInfo),
}

impl Config {
    /// Returns the configuration for the command line `args` (without the program's name) on this
    /// host. Reads the configuration file.
    ///
    /// # Errors
    /// A wrong option, or a file that is wrong or cannot be read.
    pub fn load(args: &[OsString]) -> Result<Config, ConfigError> {
        let line = options::parse_command_line(args)?;
        let file = read_configuration_file(&line)?;
        Config::new(&line, file, &HostInfo::detect())
    }

    /// Returns the configuration that `line`, `file` and `host` result in.
    ///
    /// # Errors
    /// A value that is not accepted.
    pub fn new(
        line: &CommandLine,
        file: Vec<OptionValue>,
        host: &HostInfo,
    ) -> Result<Config, ConfigError> {
        let inetd = line.has("inetd");
        if inetd {
            reject_listeners(line)?;
        }
        let sandbox = computed::sandbox_values(line);
        let mut values = OptionValues { line, file, sandbox, shown: Vec::new() };
        let lmtp = computed::lmtp(&mut values)?;
        let listen = computed::listen(&mut values, host, &lmtp)?;
        let hostname = computed::hostname(&mut values, host)?;
        let users = computed::users(&mut values)?;
        let mut config = Config {
            command: command(line)?,
            inetd,
            tls: computed::tls(&mut values, &listen, &lmtp)?,
            listen,
            lmtp,
            domains: computed::domains(&mut values, host, &hostname)?,
            hostname,
            run_as: computed::run_as(&mut values, host, &users)?,
            users,
            aliases: computed::aliases(&mut values, host)?,
            mail_dir: values.single("mail-dir", parse::path)?,
            spool: values.single("spool", parse::path)?,
            sandbox: values.list("sandbox", parse::path)?.pop(),
            locks: values.single("lock", parse::locks)?,
            lock_timeout: values.single("lock-timeout", |t| parse::time(t, 0))?,
            threads: values.single("threads", |t| parse::number(t, 2, 4096))?,
            size_max: values.single("max-size", parse::size)?,
            recipients_max: values.single("max-recipients", |t| parse::number(t, 1, 100_000))?,
            timeout: values.single("timeout", |t| parse::time(t, 1))?,
            session_timeout: values.single("session-timeout", |t| parse::time(t, 1))?,
            per_client: values.single("per-client", |t| parse::number(t, 1, 4096))?,
            mailbox_limit: values.optional("mailbox-limit", parse::size)?,
            delimiter: values.optional("delimiter", parse::delimiter)?,
            vrfy: values.single("vrfy", parse::audience)?,
            expn: values.single("expn", parse::audience)?,
            forward_replies: values.single("forward-replies", parse::audience)?,
            terminals: values.single("terminals", parse::audience)?,
            relay: relay::relay(&mut values)?,
            hold: values.single("hold", parse::hold)?,
            warn_after: values.single("warn-after", |t| parse::time(t, 1))?,
            give_up_after: values.single("give-up-after", |t| parse::time(t, 1))?,
            hand_over: values.single("hand-over", parse::on_off)?,
            forward_files: values.single("forward-files", parse::on_off)?,
            log: computed::log_target(&mut values)?,
            metrics_file: computed::metrics_file(&mut values)?,
            verbosity: verbosity(line)?,
            shown: Vec::new(),
            source: (line.clone(), host.clone()),
        };
        for row in options::TABLE {
            config.shown.extend(values.shown.extract_if(.., |given| given.long == row.long));
        }
        Ok(config)
    }

    /// Reads the configuration file again. Returns the options that have other values now, which
    /// take effect at the next start.
    ///
    /// # Errors
    /// The file is wrong or cannot be read.
    pub fn changed_options(&self) -> Result<Vec<&'static str>, ConfigError> {
        let (line, host) = &self.source;
        let new = Config::new(line, read_configuration_file(line)?, host)?;
        let values = |config: &Config, long: &str| -> Vec<String> {
            let all = config.shown.iter().filter(|given| given.long == long);
            all.map(|given| given.value.clone()).collect()
        };
        let all = options::TABLE.iter().map(|row| row.long);
        Ok(all.filter(|long| values(self, long) != values(&new, long)).collect())
    }

    /// Returns the configuration file that is read, whether it exists or not.
    pub fn file(&self) -> Option<&Path> {
        configuration_file(&self.source.0).map(|(path, _)| path)
    }

    /// Returns the origin of the value of `long`.
    pub fn origin(&self, long: &str) -> Origin {
        self.shown.iter().find(|g| g.long == long).map_or(Origin::Default, |g| g.origin.clone())
    }

    /// Returns the configuration of the writer.
    pub fn delivery_config(&self) -> deliver::DeliveryConfig {
        deliver::DeliveryConfig {
            mail_dir: self.mail_dir.clone(),
            spool: self.spool.clone(),
            locks: self.locks,
            lock_timeout: self.lock_timeout,
            mailbox_limit: self.mailbox_limit,
            queue: self.threads,
            journal_segment: if self.inetd { JOURNAL_SEGMENT_SMALL } else { JOURNAL_SEGMENT },
            ..deliver::DeliveryConfig::default()
        }
    }

    /// Returns the configuration of the resolver.
    pub fn resolver_config(&self) -> resolver::ResolverConfig {
        let listed = |names: &NameSet| match names {
            NameSet::Listed(names) => names.clone(),
            NameSet::System | NameSet::Any => Vec::new(),
        };
        resolver::ResolverConfig {
            domains: listed(&self.domains),
            hostname: self.hostname.clone(),
            users: listed(&self.users),
            sandbox: self.sandbox.is_some(),
            aliases: self.aliases.clone(),
            delimiter: self.delimiter,
            relays: self.relay.as_ref().map(RelayOptions::domains).unwrap_or_default(),
        }
    }

    /// Returns the configuration of each session. `keys` were loaded from the files of
    /// [`tls`](Config::tls), and `queue` was started for
    /// [`queue_config`](Config::queue_config).
    fn session_config(
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
            terminals: self.terminals,
            host_terminals: Terminals::default(),
            spool: self.spool.clone(),
            mail_dir: self.mail_dir.clone(),
            timeout: self.timeout,
            session_timeout: self.session_timeout,
            outcome_timeout: self.lock_timeout + WRITE_TIMEOUT,
            tls: keys.map(|certificate| session::TlsPolicy { certificate, required }),
            hold: queue.clone().filter(|_| self.hold),
            relay: queue
                .filter(|_| self.relay.is_some())
                .map(|queue| session::RelayPolicy { networks: from, queue }),
        }
    }

    /// Returns the configuration of the server. For `keys` and `queue` see
    /// [`session_config`](Config::session_config).
    pub fn server_config(
        &self,
        keys: Option<Arc<ServerCertificate>>,
        queue: Option<queue::QueueHandle>,
    ) -> server::ServerConfig {
        server::ServerConfig {
            session: self.session_config(keys, queue),
            threads: self.threads,
            per_client: self.per_client,
            grace: SHUTDOWN_GRACE,
            hand_over: self.hand_over.then(|| self.spool.clone()),
        }
    }
}

/// Reads the file of `--config`, or else the default file if it exists.
fn read_configuration_file(line: &CommandLine) -> Result<Vec<OptionValue>, ConfigError> {
    let Some((path, is_named)) = configuration_file(line) else { return Ok(Vec::new()) };
    match read_text(path) {
        Ok(text) => options::parse_file(path, &text),
        Err(e) if !is_named && e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(ConfigError::Config(format!("{}: {e}", path.display()))),
    }
}

/// Returns the configuration file to read, and whether `--config` names it.
fn configuration_file(line: &CommandLine) -> Option<(&Path, bool)> {
    let is_word = line.words == ["help"] || line.words == ["version"];
    let ignores_default = is_word || line.has("sandbox") || line.has("help") || line.has("version");
    match line.value("config") {
        Some(named) => Some((Path::new(named), true)),
        None if ignores_default => None,
        None => Some((Path::new(CONFIG), false)),
    }
}

/// Rejects options that have no meaning for one session on standard input.
fn reject_listeners(line: &CommandLine) -> Result<(), ConfigError> {
    for long in ["listen", "lmtp", "metrics-file"] {
        if line.has(long) {
            return usage(&format!("--{long} and --inetd exclude each other"));
        }
    }
    Ok(())
}

fn usage<T>(text: &str) -> Result<T, ConfigError> {
    Err(ConfigError::Usage(text.to_owned()))
}

/// The default configuration file.
const CONFIG: &str = "/etc/mailslot.conf";
/// Rejected commands before 421: more than typing errors, fewer than a harvester needs.
const ERRORS_MAX: u32 = 20;
/// The time the writer may take for one message on a slow disk, in addition to waiting for locks.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// The time that shutdown waits for messages being received. With the graces of the queue and the
/// writer, 2 s each, it is 10 s.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests;
