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
//! | `facts.rs` | what the host says of itself |
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
    These(Vec<String>),
    /// Those of the system (users only): passwd through NSS.
    System,
    /// Every name that can be one; in the sandbox.
    Any,
}

/// Where TLS comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
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
    pub tls: Option<TlsFiles>,
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
        Config::new(&line, file, &HostInfo::of_this_host())
    }

    /// The settings that `line`, `file` and `facts` give together.
    ///
    /// # Errors
    /// A value that is not accepted; the text names the option, where it was given, and the form.
    pub fn new(
        line: &CommandLine,
        file: Vec<OptionValue>,
        facts: &HostInfo,
    ) -> Result<Config, ConfigError> {
        let inetd = line.count("inetd") > 0;
        let command = command(line)?;
        let verbosity = verbosity(line)?;
        let mut values = OptionValues { line, file, sandbox: sandbox(line), shown: Vec::new() };
        let sandbox = values.all("sandbox", parse::path)?.pop();

        if let Some(long) = ["listen", "lmtp", "metrics-file"]
            .into_iter()
            .find(|long| inetd && line.count(long) > 0)
        {
            let why = "its one session is SMTP on standard input";
            return usage(&format!("--{long} and --inetd exclude each other: {why}"));
        }
        let lmtp = match values.origin("lmtp") {
            _ if inetd => values.instead("lmtp", "none", Origin::Host("--inetd")),
            Origin::Default => values.instead("lmtp", "none", Origin::Default),
            _ => values.all("lmtp", parse::lmtp_address)?,
        };
        let listen = match values.origin("listen") {
            _ if inetd => values.instead("listen", "standard input", Origin::Host("--inetd")),
            Origin::Default if facts.sockets => {
                values.instead("listen", "the sockets passed", Origin::Host("systemd"))
            }
            Origin::Default if !lmtp.is_empty() => {
                values.instead("listen", "nowhere, but for LMTP", Origin::Default)
            }
            _ => values.all("listen", parse::address)?,
        };

        let tls = tls(&mut values, &listen, &lmtp)?;

        let hostname = match values.origin("hostname") {
            Origin::Default => {
                let (name, origin) = facts.full_name();
                let name = parse::hostname(name).map_err(|_| {
                    let name = name.escape_debug();
                    ConfigError::Config(format!(
                        "this host's name \"{name}\" is no domain name; give one with --hostname"
                    ))
                })?;
                values.found("hostname", vec![name], origin).remove(0)
            }
            _ => values.one("hostname", parse::hostname)?,
        };

        let domains = match (values.origin("domain"), &sandbox) {
            (Origin::Default, Some(_)) => values.any("domain"),
            (Origin::Default, None) => {
                let (name, origin) = match &facts.mailname {
                    Some(name) => {
                        (parse::domain(name).map_err(in_mailname)?, Origin::Host(MAILNAME))
                    }
                    None => (hostname.clone(), Origin::Host("hostname")),
                };
                let mut names = vec![name];
                if !names[0].eq_ignore_ascii_case("localhost") {
                    names.push("localhost".to_owned());
                }
                NameSet::These(values.found("domain", names, origin))
            }
            _ => NameSet::These(values.all("domain", parse::domain)?),
        };

        let users = match (values.origin("user"), &sandbox) {
            (Origin::Default, Some(_)) => values.any("user"),
            (Origin::Default, None) => {
                values.show("user", "those of the system", Origin::Default);
                NameSet::System
            }
            _ => NameSet::These(values.all("user", parse::user)?),
        };

        let aliases = match values.origin("aliases") {
            Origin::Default => {
                let there = facts.aliases && sandbox.is_none();
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
            _ => values.one("log", parse::log_to)?,
        };

        let metrics_file = match inetd {
            // A process for each session has nothing to count.
            true => values.instead("metrics-file", "none", Origin::Host("--inetd")).pop(),
            false => values.optional("metrics-file", "none", parse::path)?,
        };

        let run_as = match (values.origin("run-as"), &users) {
            (Origin::Default, NameSet::System) if facts.root => {
                values.show("run-as", RUN_AS, Origin::Host("started as root"));
                Some(parse::run_as(RUN_AS).map_err(ConfigError::Config)?)
            }
            (Origin::Default, _) => {
                values.show("run-as", "who starts it", Origin::Default);
                None
            }
            _ => Some(values.one("run-as", parse::run_as)?),
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
            mail_dir: values.one("mail-dir", parse::path)?,
            spool: values.one("spool", parse::path)?,
            sandbox,
            locks: values.one("lock", parse::locks)?,
            lock_timeout: values.one("lock-timeout", |t| parse::time(t, 0))?,
            threads: values.one("threads", |t| parse::number(t, 2, 4096))?,
            size_max: values.one("max-size", parse::size)?,
            recipients_max: values.one("max-recipients", |t| parse::number(t, 1, 100_000))?,
            timeout: values.one("timeout", |t| parse::time(t, 1))?,
            session_timeout: values.one("session-timeout", |t| parse::time(t, 1))?,
            per_client: values.one("per-client", |t| parse::number(t, 1, 4096))?,
            mailbox_limit: values.optional("mailbox-limit", "none", parse::size)?,
            delimiter: values.optional("delimiter", "none", parse::delimiter)?,
            vrfy: values.one("vrfy", parse::switch)?,
            expn: values.one("expn", parse::switch)?,
            forward_replies: values.one("forward-replies", parse::switch)?,
            terminals: values.one("terminals", parse::switch)?,
            tls,
            relay: relay::relay(&mut values)?,
            forward_files: values.one("forward-files", parse::on_off)?,
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
    pub fn deliver(&self) -> deliver::DeliveryConfig {
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
    pub fn route(&self) -> route::RouteConfig {
        let these = |names: &NameSet| match names {
            NameSet::These(names) => names.clone(),
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
    pub fn session(
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
            outcome_timeout: self.lock_timeout + WRITING,
            tls: keys.map(|certificate| session::TlsPolicy { certificate, required }),
            relay: queue.map(|queue| session::RelayPolicy { networks: from, queue }),
        }
    }

    /// What the server is told; `keys` and `queue` as for [`session`](Config::session).
    pub fn server(
        &self,
        keys: Option<Arc<ServerCertificate>>,
        queue: Option<queue::QueueHandle>,
    ) -> server::ServerConfig {
        server::ServerConfig {
            session: self.session(keys, queue),
            threads: self.threads,
            per_client: self.per_client,
            grace: GRACE,
        }
    }

    /// For whom there are mailboxes, in words: `al and bo at example.org`.
    pub fn whom(&self) -> String {
        let users = match &self.users {
            NameSet::These(names) => and(names),
            NameSet::System => "the users of this host".to_owned(),
            NameSet::Any => "every user".to_owned(),
        };
        let domains = match &self.domains {
            NameSet::These(names) => and(names),
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
) -> Result<Option<TlsFiles>, ConfigError> {
    let cert = values.optional("tls-cert", "none", parse::path)?;
    let key = match (values.origin("tls-key"), &cert) {
        (Origin::Default, cert) => {
            let words = if cert.is_some() { "the file of tls-cert" } else { "none" };
            values.show("tls-key", words, Origin::Default);
            None
        }
        _ => values.all("tls-key", parse::path)?.pop(),
    };
    let required = values.one("tls-required", parse::on_off)?;
    if let Some(cert) = cert {
        return Ok(Some(TlsFiles { key: key.unwrap_or_else(|| cert.clone()), cert, required }));
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
mod tests {
    use super::*;

    fn facts() -> HostInfo {
        HostInfo { name: "box.example.org".to_owned(), ..HostInfo::default() }
    }

    /// The settings for `words` on the command line and `file` in the file `f`.
    fn config(words: &str, file: &str, facts: &HostInfo) -> Result<Config, String> {
        let args: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let line = options::parse_command_line(&args)?;
        let file = options::parse_file(Path::new("f"), file)?;
        Config::new(&line, file, facts).map_err(|wrong| match wrong {
            ConfigError::Usage(text) => format!("usage: {text}"),
            ConfigError::Config(text) => format!("config: {text}"),
        })
    }

    fn text(listen: &[ListenAddress]) -> Vec<String> {
        listen.iter().map(ListenAddress::to_string).collect()
    }

    #[test]
    fn the_command_line_wins_over_the_file_over_the_table() {
        for (words, file, threads, origin) in [
            ("", "", 32, "default"),
            ("", "\nthreads 4", 4, "f:2"),
            ("-t 5", "threads 4", 5, "command line"),
            ("--threads=5", "", 5, "command line"),
        ] {
            let config = config(words, file, &facts()).unwrap();
            assert_eq!(config.threads, threads, "{words:?} {file:?}");
            assert_eq!(config.origin("threads").to_string(), origin, "{words:?} {file:?}");
        }
        // A repeatable option on the command line replaces all of the file's.
        let listen = config("-l h:1 -l h:2", "listen h:3\nlisten h:4", &facts()).unwrap().listen;
        assert_eq!(text(&listen), ["h:1", "h:2"]);
    }

    #[test]
    fn nothing_given_is_enough() {
        let config = config("", "", &facts()).unwrap();
        assert_eq!(text(&config.listen), ["127.0.0.1:25", "[::1]:25"]);
        assert_eq!(config.hostname, "box.example.org");
        assert_eq!(config.whom(), "the users of this host at box.example.org and localhost");
        assert_eq!(config.mail_dir, Path::new("/var/mail"));
        assert_eq!((config.size_max, config.recipients_max), (25 << 20, 100));
        assert_eq!((config.mailbox_limit, config.delimiter), (None, Some('+')));
        assert_eq!(config.timeout, Duration::from_secs(300));
        assert_eq!(config.aliases, None);
        // Every setting is shown, once for each value, in the order of the table.
        let shown: Vec<&str> = config.shown.iter().map(|g| g.long).collect();
        let keys = options::TABLE.iter().filter(|r| r.place != options::Arity::CommandLine);
        let mut once = shown.clone();
        once.dedup();
        assert_eq!(once, keys.map(|r| r.long).collect::<Vec<_>>());
    }

    #[test]
    fn the_host_is_asked_for_names() {
        let host = |name: &str, hosts: &str, mailname: Option<&str>| HostInfo {
            name: name.to_owned(),
            hosts: hosts.to_owned(),
            mailname: mailname.map(str::to_owned),
            ..HostInfo::default()
        };
        for (facts, hostname, domains) in [
            (host("a.b", "", None), "a.b", "a.b, localhost"),
            (host("a", "", None), "a", "a, localhost"),
            (host("a", "127.0.1.1 a.example a", None), "a.example", "a.example, localhost"),
            (host("a", "127.0.1.1 a a.example # x", None), "a.example", "a.example, localhost"),
            (host("a", "127.0.1.1 a # a.example", None), "a", "a, localhost"),
            (host("a", "127.0.1.1 ab.example a", None), "a", "a, localhost"),
            (host("a.b", "", Some("example.org")), "a.b", "example.org, localhost"),
            (host("localhost", "", None), "localhost", "localhost"),
        ] {
            let config = config("", "", &facts).unwrap();
            let shown: Vec<&str> =
                config.shown.iter().filter(|g| g.long == "domain").map(|g| &*g.value).collect();
            assert_eq!((&*config.hostname, shown), (hostname, vec![domains]), "{facts:?}");
        }
        let unnamed = config("", "", &host("-", "", None));
        assert!(unnamed.clone().is_err_and(|e| e.contains("--hostname")), "{unnamed:?}");
        let mailname = config("", "", &host("a", "", Some("-"))).unwrap_err();
        assert!(mailname.starts_with("config: /etc/mailname: expected"), "{mailname}");
    }

    #[test]
    fn the_sandbox_touches_nothing_of_the_host() {
        let facts = HostInfo {
            mailname: Some("example.org".to_owned()),
            aliases: true,
            sockets: false,
            ..facts()
        };
        let sandbox = config("--sandbox d", "", &facts).unwrap();
        assert_eq!(text(&sandbox.listen), ["127.0.0.1:2525"]);
        assert_eq!(sandbox.hostname, "localhost");
        assert_eq!(sandbox.whom(), "every user at every domain");
        assert_eq!((sandbox.mail_dir, sandbox.spool), ("d/mail".into(), "d/spool".into()));
        assert_eq!(sandbox.aliases, None);
        // What is given holds all the same.
        let given = config("--sandbox d -l h:1 -u al -u bo -d x -m m -a f", "", &facts).unwrap();
        assert_eq!(text(&given.listen), ["h:1"]);
        assert_eq!(given.whom(), "al and bo at x");
        assert_eq!((given.mail_dir, given.aliases), ("m".into(), Some("f".into())));
    }

    #[test]
    fn root_becomes_another_user_where_users_are_the_system_s() {
        let root = HostInfo { root: true, ..facts() };
        for (words, facts, run_as) in [
            ("", &root, Some("mailslot:mail")),
            ("--inetd", &root, Some("mailslot:mail")),
            ("--run-as al", &root, Some("al")),
            ("--run-as root", &root, Some("root")),
            ("", &facts(), None),
            ("--run-as al:mail", &facts(), Some("al:mail")),
            // Mailboxes belong to who runs it: that is not changed unasked.
            ("--sandbox d", &root, None),
            ("-u al", &root, None),
            ("-u al --run-as bo", &root, Some("bo")),
        ] {
            let found = config(words, "", facts).unwrap().run_as.map(|r| r.to_string());
            assert_eq!(found.as_deref(), run_as, "{words}");
        }
    }

    #[test]
    fn sockets_come_from_systemd_or_inetd() {
        let systemd = HostInfo { sockets: true, ..facts() };
        for (words, facts, listen) in
            [("", &systemd, &[][..]), ("-l h:1", &systemd, &["h:1"]), ("--inetd", &facts(), &[])]
        {
            assert_eq!(text(&config(words, "", facts).unwrap().listen), listen, "{words}");
        }
        // LMTP takes nothing away from what was asked for.
        for (words, facts, listen) in [
            ("--lmtp unix:x", &facts(), &[][..]),
            ("--lmtp h:24 -l h:1", &facts(), &["h:1"]),
            ("--lmtp h:24", &systemd, &[]),
            ("--sandbox d --lmtp h:24", &facts(), &["127.0.0.1:2525"]),
        ] {
            let config = config(words, "", facts).unwrap();
            assert_eq!(
                (text(&config.listen), config.lmtp.len()),
                (listen.iter().map(|a| a.to_string()).collect(), 1),
                "{words}"
            );
        }
        let inetd = config("--inetd", "listen h:1\nlmtp h:24", &facts()).unwrap();
        assert_eq!(inetd.lmtp, []);
        assert_eq!((text(&inetd.listen), inetd.log), (vec![], LogTarget::Syslog));
    }

    #[test]
    fn values_are_accepted_up_to_their_limits() {
        let accepts = |words: &str| config(words, "", &facts()).is_ok();
        for good in [
            "-s 1",
            "-s 64K",
            "-s 25m",
            "-s 1G",
            "-t 2",
            "-t 4096",
            "--timeout 1",
            "--timeout 5m",
            "--lock-timeout 0",
            "--lock-timeout 7d",
            "--lock fcntl",
            "--lock flock,dotlock",
            "--max-recipients 1",
            "--mailbox-limit none",
            "--mailbox-limit 1G",
            "--delimiter -",
            "--delimiter none",
            "--vrfy on",
            "--expn off",
            "--forward-replies local",
            "--terminals local",
            "--log syslog",
            "--tls-cert f",
            "--tls-cert f --tls-key g --tls-required on -l tls:h:465",
            "--tls-cert none --tls-required off",
            "--lmtp unix:/run/x,mode=660 --lmtp [::1]:24",
            "-l unix:/run/x",
            "-l [::1]:0",
            "-l localhost:65535",
            "-a none",
            "-u al.b-c_d",
            "-d a",
            "-d a.example",
            "-v",
            "-vv",
            "-q",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in [
            "-s 0",
            "-s -1",
            "-s +1",
            "-s 1T",
            "-s 1MB",
            "-s K",
            "-s 99999999999999999999",
            "-s 17179869184G",
            "-t 1",
            "-t 4097",
            "-t 1e3",
            "--timeout 0",
            "--timeout 8d",
            "--timeout 1.5",
            "--lock ,",
            "--lock dot",
            "--max-recipients 0",
            "--delimiter ++",
            "--delimiter @",
            "--delimiter a",
            "--vrfy yes",
            "--log file",
            "--run-as a:b:c",
            "--run-as :mail",
            "--run-as a:",
            "--run-as none/",
            "--tls-key f",
            "--tls-cert none --tls-key f",
            "--tls-required on",
            "--tls-cert f --tls-required local",
            "-l tls:h:465",
            "--lmtp tls:h:24",
            "--lmtp 127.0.0.1:25",
            "--lmtp none",
            "--inetd --lmtp unix:x",
            "-l unix:",
            "-l 25",
            "-l :25",
            "-l h:65536",
            "-l ::1:25",
            "-u a/b",
            "-u ../x",
            "-u .x",
            "-u a@b",
            "-d [::1]",
            "-d a..b",
            "-d a@b",
            "-n -",
            "-m ",
            "-q -v",
            "check x",
            "explain",
            "serve",
            "--inetd -l h:1",
        ] {
            assert!(!accepts(bad), "{bad}");
        }
    }

    #[test]
    fn a_complaint_names_option_place_and_form() {
        for (words, file, complaint) in [
            ("-t x", "", "usage: --threads \"x\": expected a number from 2 to 4096"),
            ("", "\n\nthreads x", "config: f:3: threads \"x\": expected a number from 2 to 4096"),
            (
                "-s 25X",
                "",
                "usage: --max-size \"25X\": expected octets, or a number with K, M or G, such as \
                 25M",
            ),
            (
                "",
                "lock dotlock,lockf",
                "config: f:1: lock \"dotlock,lockf\": expected one or more of dotlock, fcntl and \
                 flock, with commas",
            ),
        ] {
            assert_eq!(config(words, file, &facts()).err().as_deref(), Some(complaint));
        }
    }
}
