//! The program `mailslot`: wiring, and the only exit.
//!
//! ```text
//! options -> config -> keys, sockets -> another user -> route -> sandbox -> log
//!                                                     -> deliver (recovers) -> server
//! ```
//! What takes root comes first, and the first thread after that.
//!
//! Exit statuses are those of sysexits.h. Complaints go to standard error; under `--inetd`, where
//! that may be the client's socket, to syslog, and the client hears 421 and no reason.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mailslot::check;
use mailslot::config::options;
use mailslot::config::{
    Config, ConfigError, HostInfo, NameSet, ProgramCommand, QueueCommand, TlsFiles,
};
use mailslot::deliver::disk::HostDisk;
use mailslot::deliver::{self, WriterHandle, forward};
use mailslot::message::Owner;
use mailslot::net::listen::{self, Accept, ListenAddress, Listener, Service};
use mailslot::net::stream;
use mailslot::net::tls::ServerCertificate;
use mailslot::observe::counters::Counters;
use mailslot::observe::logging::{self, LogTarget, value};
use mailslot::observe::metrics::Metrics;
use mailslot::process::confinement::{self, ConfinementStrength};
use mailslot::process::privilege::{self, RunAs, Start};
use mailslot::relay::queue::{self, QueueHandle, list};
use mailslot::route::{ForwardFiles, LocalRoute};
use mailslot::server::{self, Server};
use mailslot::session::Audience;
use nix::unistd::{Group, User, getegid, geteuid};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let status = run(&args).unwrap_or_else(|failure| {
        // A person who tries --inetd at a terminal is told like everybody else.
        let inetd = args.iter().any(|arg| arg == "--inetd") && !io::stdin().is_terminal();
        failure.report(inetd);
        failure.status
    });
    // The log is written by a thread of its own.
    log::logger().flush();
    ExitCode::from(status)
}

fn run(args: &[OsString]) -> Result<u8, StartError> {
    let config = Config::load(args)?;
    match &config.command {
        ProgramCommand::Help => print(&options::help()),
        ProgramCommand::Version => print(concat!("mailslot ", env!("CARGO_PKG_VERSION"), "\n")),
        ProgramCommand::Explain(addresses) => {
            let route = LocalRoute::new(config.route());
            if config.forward_files {
                route.follow_forward_files(ForwardFileReader(None));
            }
            let ways: Vec<String> = addresses.iter().map(|a| route.explain(a)).collect();
            print(&ways.join("\n"))
        }
        ProgramCommand::Check => {
            let problems = check::problems(&config, &HostInfo::of_this_host());
            print(&check::report(&config, &problems))?;
            Ok(if check::error_count(&problems) == 0 { 0 } else { EX_CONFIG })
        }
        ProgramCommand::Queue(QueueCommand::List) => {
            print(&list::list(&config.spool).map_err(not_done)?)
        }
        ProgramCommand::Queue(QueueCommand::Show(id)) => {
            list::show(&config.spool, id, &mut io::stdout().lock()).map_err(not_done)?;
            Ok(0)
        }
        ProgramCommand::Queue(QueueCommand::Drop(id)) => {
            list::drop(&config.spool, id).map_err(not_done)?;
            print(&format!("{id} is removed\n"))
        }
        ProgramCommand::Queue(QueueCommand::Flush(_)) | ProgramCommand::Serve => serve(&config),
    }
}

/// Why something could not be done with the queue.
fn not_done(e: io::Error) -> StartError {
    match e.kind() {
        ErrorKind::NotFound => StartError::new(EX_DATAERR, "queue", &e),
        ErrorKind::PermissionDenied => StartError::new(EX_NOPERM, "queue", &e),
        _ => StartError::new(EX_TEMPFAIL, "queue", &e),
    }
}

/// Serves until it is stopped, or, under `--inetd`, one session; or tries what is in the queue.
fn serve(config: &Config) -> Result<u8, StartError> {
    let log = logging::start(config.log, config.verbosity)
        .map_err(|e| StartError::new(EX_OSERR, "log", &e))?;
    std::panic::set_hook(Box::new(|panic| log::error!("panic {}", value(panic))));
    for problem in check::limits(config) {
        log::warn!("limits problem={} cure={}", value(problem.what), value(problem.fix));
    }
    let keys = config.tls.as_ref().map(keys).transpose()?;
    if config.sandbox.is_some() {
        make_folder(&config.mail_dir)?;
        make_folder(&config.spool)?;
    }
    let relay = config.queue().map_err(|text| StartError::text(EX_CONFIG, &text))?;
    let serves = config.command == ProgramCommand::Serve;
    let listeners = if config.inetd || !serves { Vec::new() } else { listeners(config)? };
    settle(config)?;
    if relay.is_some() {
        queue::make_folder(&config.spool)
            .map_err(|e| StartError::new(EX_CANTCREAT, "queue", &e))?;
    }
    if let Some(Err(why)) = keys.as_ref().map(|keys| keys.reload()) {
        log::warn!("certificate and key will not be read again why={}", value(why));
    }
    let route = Arc::new(LocalRoute::new(config.route()));
    confine(config, &route)?;
    log.write().map_err(|e| StartError::new(EX_OSERR, "log", &e))?;

    let counters = Arc::new(Counters::default());
    let (writer, writer_thread) = deliver::start(config.deliver(), counters.clone())
        .map_err(|e| StartError::new(EX_CANTCREAT, "", &e))?;
    // The writer has what it takes to act as its recipients. This thread, and all that come,
    // need it no more.
    let metrics = privilege::drop_capabilities().and_then(|()| {
        let file = config.metrics_file.clone();
        file.map(|file| Metrics::start(file, counters.clone())).transpose()
    });
    if config.forward_files {
        route.follow_forward_files(ForwardFileReader(Some(writer.clone())));
    }
    let parts = Services { listeners, keys, route, writer, counters };
    let status = match (&metrics, &config.command) {
        (Err(e), _) => Err(StartError::new(EX_OSERR, "", e)),
        (Ok(_), ProgramCommand::Queue(QueueCommand::Flush(ids))) => flush(parts, relay, ids),
        (Ok(_), _) => serve_with_queue(config, parts, relay),
    };
    writer_thread.stop();
    if let Ok(Some(metrics)) = metrics {
        metrics.stop();
    }
    status
}

/// Becomes whom it is to run as, with no more powers than the writer needs.
fn settle(config: &Config) -> Result<(), StartError> {
    let start = Start::here();
    let account = config.run_as.as_ref().map(RunAs::find).transpose();
    let account = account.map_err(|text| StartError::text(EX_CONFIG, &text))?;
    let other = account.as_ref().filter(|account| account.uid != geteuid());
    if let (Some(account), Start::Capable | Start::Plain) = (other, start) {
        let name = &account.name;
        let text = format!("run-as {name}: only root with CAP_SETUID can become another user");
        return Err(StartError::text(EX_CONFIG, &text));
    }
    let acts = config.users == NameSet::System;
    let group = |name| Group::from_name(name).ok().flatten().map(|group| group.gid);
    let terminals = (config.terminals != Audience::Nobody).then(|| group("tty")).flatten();
    let root = (start == Start::Root).then_some(()).and(account.as_ref());
    privilege::drop_privileges(root, terminals.as_slice(), acts)
        .map_err(|e| StartError::new(EX_OSERR, "cannot give up privileges", &e))?;
    if geteuid().is_root() && config.sandbox.is_none() {
        log::warn!("running as root; let --run-as name a user that has no other powers");
    }
    // Not once for each session.
    let level = if config.inetd { log::Level::Debug } else { log::Level::Info };
    log::log!(level, "settled start={start:?} uid={} gid={} acts={acts}", geteuid(), getegid());
    Ok(())
}

/// Locks itself into what it needs from now on.
fn confine(config: &Config, route: &LocalRoute) -> Result<(), StartError> {
    match confinement::confine(&config.reach(&route.included())) {
        Ok(ConfinementStrength::Full) => {}
        // Not once for each session.
        Ok(_) if config.inetd => {}
        Ok(strength @ ConfinementStrength::Partial) => log::info!(
            "confined in part sandbox={strength:?} kernel={} why={}",
            value(kernel()),
            value("an older kernel has not all of Landlock")
        ),
        Ok(ConfinementStrength::None) => {
            log::warn!("not confined kernel={} why={}", value(kernel()), value("no Landlock"));
        }
        Err(why) => {
            return Err(StartError::text(EX_OSERR, &format!("cannot make a sandbox: {why}")));
        }
    }
    Ok(())
}

/// The kernel's release, such as `6.1.0`.
fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned())
}

/// Certificate and key, before anything begins that would have to be stopped.
fn keys(TlsFiles { cert, key, .. }: &TlsFiles) -> Result<Arc<ServerCertificate>, StartError> {
    ServerCertificate::load(cert, key)
        .map(Arc::new)
        .map_err(|text| StartError::text(EX_CONFIG, &text))
}

/// Reads forward files: through the writer, which reads them as their users; without one as whoever
/// runs this.
struct ForwardFileReader(Option<WriterHandle>);

impl ForwardFiles for ForwardFileReader {
    fn read(&self, user: &str) -> Result<Option<Vec<u8>>, String> {
        let account = User::from_name(user).map_err(|e| e.to_string())?;
        let Some(User { uid, gid, dir, .. }) = account else { return Ok(None) };
        let owner = Owner { uid: uid.as_raw(), gid: gid.as_raw() };
        let read = match &self.0 {
            Some(writer) => writer.forward_file(&dir, owner, FORWARD_PATIENCE),
            None => forward::read(&HostDisk::new(), &dir, owner),
        };
        read.map_err(|e| e.to_string())
    }
}

/// What serving is made of.
struct Services {
    listeners: Vec<Listener>,
    keys: Option<Arc<ServerCertificate>>,
    route: Arc<LocalRoute>,
    writer: WriterHandle,
    counters: Arc<Counters>,
}

/// Serves, with the queue running beside it if there is one. Under `--inetd` its entries are left
/// to another process.
fn serve_with_queue(
    config: &Config,
    parts: Services,
    relay: Option<queue::QueueConfig>,
) -> Result<u8, StartError> {
    let Some(settings) = relay else { return serve_connections(config, parts, None) };
    if config.inetd {
        return serve_connections(config, parts, Some(QueueHandle::of_others()));
    }
    let Services { route, writer, counters, .. } = &parts;
    let started = queue::start(settings, route.clone(), writer.clone(), counters.clone());
    let (handle, queue) = started.map_err(|e| StartError::new(EX_OSERR, "queue", &e))?;
    let status = serve_connections(config, parts, Some(handle));
    queue.stop(QUEUE_GRACE);
    status
}

/// Tries what is in the queue, once.
fn flush(
    parts: Services,
    relay: Option<queue::QueueConfig>,
    ids: &[String],
) -> Result<u8, StartError> {
    let Services { route, writer, counters, .. } = parts;
    let settings =
        relay.ok_or_else(|| StartError::text(EX_CONFIG, "queue: no --smarthost is given"))?;
    let left = queue::flush(settings, route, writer, counters, ids)
        .map_err(|e| StartError::new(EX_OSERR, "queue", &e))?;
    print(&format!("{left} left in the queue\n"))?;
    Ok(if left == 0 { 0 } else { EX_TEMPFAIL })
}

/// Serves the connections there are, with all that is behind them running.
fn serve_connections(
    config: &Config,
    parts: Services,
    queue: Option<QueueHandle>,
) -> Result<u8, StartError> {
    let Services { listeners, keys, route, writer, counters } = parts;
    let system = |e: io::Error| StartError::new(EX_OSERR, "", &e);
    let settings = config.server(keys, queue);
    let server = Server::new(settings, route.clone(), writer, counters.clone()).map_err(system)?;
    let signals = || server::on_signals(server.handle(), route, counters).map_err(system);
    if config.inetd {
        let (socket, peer) = stream::standard_input().map_err(system)?;
        signals()?;
        let end = server.serve_one(socket, peer).map_err(system)?;
        return Ok(end.map_or(EX_TEMPFAIL, |end| end.exit_status()));
    }
    // From here on a signal stops it well; before, it just ends.
    signals()?;
    announce(config, &listeners);
    server.run(listeners).map_err(system)?;
    Ok(0)
}

/// The sockets to listen on: those that were asked for, or those that systemd passed.
fn listeners(config: &Config) -> Result<Vec<Listener>, StartError> {
    let opened = match config.listen.as_slice() {
        [] => listen::passed(),
        addresses => listen::open(addresses),
    };
    let opened = opened.and_then(|mut listeners| {
        listeners.extend(listen::open(&config.lmtp)?.into_iter().map(Listener::lmtp));
        Ok(listeners)
    });
    let listeners = opened.map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => StartError::new(EX_UNAVAILABLE, "", &e),
        ErrorKind::PermissionDenied => StartError::new(EX_NOPERM, "", &e),
        ErrorKind::InvalidInput => StartError::new(EX_CONFIG, "", &e),
        _ => StartError::new(EX_OSERR, "", &e),
    })?;
    if listeners.is_empty() {
        return Err(StartError::text(EX_CONFIG, "systemd passed no sockets; give --listen"));
    }
    if config.tls.is_none() && listeners.iter().any(|l| l.service().tls) {
        let text = "systemd passed a socket by the name of tls; give --tls-cert";
        return Err(StartError::text(EX_CONFIG, text));
    }
    Ok(listeners)
}

/// A folder of the sandbox, for its owner alone. One that is there stays as it is.
fn make_folder(path: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| {
        StartError::new(EX_CANTCREAT, &format!("cannot make folder {}", path.display()), &e)
    })
}

/// Says on standard output where it listens, for whom, into which folder; and in the sandbox, as a
/// second line, a command that sends a first message. Nobody may be reading.
fn announce(config: &Config, listeners: &[Listener]) {
    if config.verbosity < 0 {
        return;
    }
    let place = |l: &Listener| {
        let Service { lmtp, tls } = l.service();
        let (lmtp, tls) = (if lmtp { "lmtp:" } else { "" }, if tls { "tls:" } else { "" });
        l.local_addr().map(|address| format!("{lmtp}{tls}{address}"))
    };
    let mut places: Vec<String> = listeners.iter().filter_map(place).collect();
    let unix = |a: &&ListenAddress| matches!(a, ListenAddress::Unix { .. });
    places.extend(config.listen.iter().filter(unix).map(ListenAddress::to_string));
    places.extend(config.lmtp.iter().filter(unix).map(|address| format!("lmtp:{address}")));
    if places.is_empty() {
        places.push("the sockets it was passed".to_owned());
    }
    let (places, whom, directory) = (places.join(", "), config.whom(), config.mail_dir.display());
    let mut text = format!("mailslot listens on {places} for {whom}, into {directory}\n");
    let smtp = listeners.iter().filter(|l| l.service() == Service::default());
    let tcp = smtp.filter_map(Listener::local_addr).next();
    if let (Some(address), Some(_)) = (tcp, &config.sandbox) {
        text.push_str(&first_message(config, &address.to_string()));
    }
    let _ = io::stdout().write_all(text.as_bytes());
}

/// A shell command that sends a message to a user there is.
fn first_message(config: &Config, address: &str) -> String {
    let user = match &config.users {
        // A name that the shell or printf would read as something else is left to its owner.
        NameSet::These(users) => users.iter().find(|user| is_plain(user)).map(String::as_str),
        NameSet::System | NameSet::Any => Some("you"),
    };
    let user = user.unwrap_or("postmaster");
    let domain = match &config.domains {
        NameSet::These(domains) => domains.first().map_or("localhost", String::as_str),
        NameSet::System | NameSet::Any => "localhost",
    };
    let to = format!("{user}@{domain}");
    let header = format!("From: me@localhost\\r\\nTo: {to}\\r\\nSubject: hello\\r\\n");
    format!(
        "printf '{header}\\r\\nIt works.\\r\\n' | \
         curl -sS smtp://{address} --mail-from me@localhost --mail-rcpt {to} -T -\n"
    )
}

fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Prints what was asked for.
fn print(text: &str) -> Result<u8, StartError> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        // The reader, head(1) perhaps, has seen enough.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(0),
        Err(e) => Err(StartError::new(EX_IOERR, "standard output", &e)),
    }
}

/// Why the program ends before it should.
struct StartError {
    status: u8,
    text: String,
}

impl StartError {
    fn text(status: u8, text: &str) -> StartError {
        StartError { status, text: text.to_owned() }
    }

    fn new(status: u8, what: &str, error: &io::Error) -> StartError {
        let text = if what.is_empty() { error.to_string() } else { format!("{what}: {error}") };
        StartError { status, text }
    }

    /// Tells whom it may concern.
    fn report(&self, inetd: bool) {
        if inetd {
            // Already started, perhaps; the line goes to the log either way.
            let _ = logging::start(LogTarget::Syslog, 0);
            log::error!("not-serving error={}", value(&self.text));
            let _ = io::stdout().write_all(b"421 4.3.5 localhost cannot serve, try later\r\n");
            return;
        }
        // Nobody is left to tell if standard error is closed.
        let mut text = format!("mailslot: {}\n", self.text);
        if self.status == EX_USAGE {
            text.push_str("mailslot: try mailslot --help\n");
        }
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

impl From<ConfigError> for StartError {
    fn from(wrong: ConfigError) -> StartError {
        match wrong {
            ConfigError::Usage(text) => StartError { status: EX_USAGE, text },
            ConfigError::Config(text) => StartError { status: EX_CONFIG, text },
        }
    }
}

// sysexits.h
const EX_USAGE: u8 = 64;
const EX_DATAERR: u8 = 65;
const EX_UNAVAILABLE: u8 = 69;
const EX_OSERR: u8 = 71;
const EX_CANTCREAT: u8 = 73;
const EX_IOERR: u8 = 74;
const EX_TEMPFAIL: u8 = 75;
const EX_NOPERM: u8 = 77;
const EX_CONFIG: u8 = 78;

/// What is being sent when the server stops has so long to end; else it is sent again.
const QUEUE_GRACE: Duration = Duration::from_secs(2);
/// How long the writer may take to read a forward file.
const FORWARD_PATIENCE: Duration = Duration::from_secs(10);
