//! The program `mailslot`: wiring, and the only exit.
//!
//! Called as sendmail, mailq or newaliases it runs [`mailslot::sendmail`], and nothing below. The
//! rest is about `mailslot` itself.
//!
//! ```text
//! config -> startup (sockets, privileges, confinement) -> deliver (recovers) -> server
//! ```
//!
//! Errors go to standard error, and with `--log syslog` to syslog too. Under `--inetd` standard
//! error may be the client's socket, so they go to syslog alone, and the client gets 421 without
//! the reason.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mailslot::check;
use mailslot::config::options;
use mailslot::config::{Config, HostInfo, ProgramCommand, QueueCommand};
use mailslot::control::server::{ControlContext, ControlThread};
use mailslot::control::{self, ControlRequest};
use mailslot::deliver::disk::HostDisk;
use mailslot::deliver::{self, DeliveryConfig, WriterHandle, forward};
use mailslot::net::listen::{self, Accept, ListenAddress, Listener, Service};
use mailslot::net::stream;
use mailslot::net::tls::ServerCertificate;
use mailslot::observe::counters::Counters;
use mailslot::observe::events;
use mailslot::observe::logging::{self, LogTarget};
use mailslot::observe::metrics::Metrics;
use mailslot::observe::progress::ProgressLine;
use mailslot::process::privilege;
use mailslot::relay::hand_over;
use mailslot::relay::queue::list::{self, ListView};
use mailslot::relay::queue::{self, QueueHandle};
use mailslot::resolver::{Explanation, HomeForwardFiles, LocalResolver, Refusal};
use mailslot::sendmail;
use mailslot::server::{self, Server, SignalHandlers};
use mailslot::startup::{
    self, ConfinementWatch, PreparedStart, Rehearsal, RehearsalRequest, StartError, StartPurpose,
};
use mailslot::sysexits::{
    EX_CONFIG, EX_DATAERR, EX_IOERR, EX_NOPERM, EX_OK, EX_OSERR, EX_TEMPFAIL, EX_UNAVAILABLE,
    EX_USAGE,
};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if sendmail::is_called_by(&args) {
        return ExitCode::from(sendmail::run(&args));
    }
    let args = args.get(1..).unwrap_or_default();
    let status = run(args).unwrap_or_else(|e| {
        // At a terminal there is no client, so the error goes to standard error.
        let inetd = args.iter().any(|arg| arg == "--inetd") && !io::stdin().is_terminal();
        report(&e, inetd);
        e.status
    });
    // Another thread writes the log.
    log::logger().flush();
    ExitCode::from(status)
}

/// Runs the command that `args` select. Returns the exit status.
fn run(args: &[OsString]) -> Result<u8, StartError> {
    if let Some(request) = RehearsalRequest::find(args) {
        return print(&request.serve());
    }
    let config = Config::load(args).inspect_err(|e| {
        if asks_for_syslog(args) {
            log_start_failure(e);
        }
    })?;
    match &config.command {
        ProgramCommand::Help => print(&options::help()),
        ProgramCommand::Version => print(concat!("mailslot ", env!("CARGO_PKG_VERSION"), "\n")),
        ProgramCommand::Explain(addresses) => explain(&config, addresses),
        ProgramCommand::Check => check(&config, args),
        ProgramCommand::CheckSmarthost => check_smarthosts(&config),
        ProgramCommand::Queue(QueueCommand::List(format)) => {
            if let Some(status) = ask_server(&config, &ControlRequest::List(*format))? {
                return Ok(status);
            }
            let view = ListView::default();
            print(&hand_over::list_with_queue(&config.spool, *format, &view).map_err(queue_error)?)
        }
        ProgramCommand::Queue(QueueCommand::Show(id)) => {
            list::show(&config.spool, id, &mut io::stdout().lock()).map_err(queue_error)?;
            Ok(EX_OK)
        }
        ProgramCommand::Queue(QueueCommand::Remove(id)) => {
            list::remove(&config.spool, id).map_err(queue_error)?;
            print(&format!("{id} is removed\n"))
        }
        ProgramCommand::Queue(QueueCommand::Flush(ids)) => {
            match ask_server(&config, &ControlRequest::Flush(ids.clone()))? {
                Some(status) => Ok(status),
                None => serve(&config),
            }
        }
        ProgramCommand::Serve => serve(&config).inspect_err(|e| {
            if config.log == LogTarget::Syslog && !config.inetd {
                log_start_failure(&e.text);
            }
        }),
    }
}

/// True if the command line asks for a log in syslog. It is not parsed, because it may have errors.
fn asks_for_syslog(args: &[OsString]) -> bool {
    let in_two_words = args.windows(2).any(|pair| pair[0] == "--log" && pair[1] == "syslog");
    let inetd = args.iter().any(|arg| arg == "--inetd");
    !inetd && (in_two_words || args.iter().any(|arg| arg == "--log=syslog"))
}

/// Logs in syslog why the server does not start: without a terminal it is seen nowhere else.
fn log_start_failure(error: impl fmt::Display) {
    // Fails if the log is already started, which is just as well.
    let _ = logging::start(LogTarget::Syslog, 0);
    events::start_failed(error);
}

/// Makes the running server do `request`, and prints its answer. Returns the exit status, or None
/// if there is no server that this user can reach.
fn ask_server(config: &Config, request: &ControlRequest) -> Result<Option<u8>, StartError> {
    let asked = control::client::ask_if_reachable(&config.spool, request);
    let asked = asked.map_err(|e| StartError::io(EX_TEMPFAIL, "", &e))?;
    let Some(answer) = asked else { return Ok(None) };
    match answer.status {
        // Entries that are left in the queue are no error.
        EX_OK | EX_TEMPFAIL => print(&answer.text).map(|_| Some(answer.status)),
        status => Err(StartError::new(status, answer.text.trim_end())),
    }
}

/// Prints the destinations of `addresses`. The exit status is that of the worst refusal.
fn explain(config: &Config, addresses: &[String]) -> Result<u8, StartError> {
    let resolver = LocalResolver::new(config.resolver_config());
    if config.forward_files {
        resolver.follow_forward_files(HomeForwardFiles::new(|home, owner| {
            forward::read(&HostDisk::new(), home, owner)
        }));
    }
    let explained: Vec<Explanation> = addresses.iter().map(|a| resolver.explain(a)).collect();
    let texts: Vec<&str> = explained.iter().map(|e| e.text.as_str()).collect();
    print(&texts.join("\n"))?;
    let statuses = explained.iter().filter_map(|e| e.refusal.as_ref()).map(Refusal::exit_status);
    Ok(statuses.max().unwrap_or(EX_OK))
}

/// Prints the configuration in effect and its problems, after a rehearsal of the start.
fn check(config: &Config, args: &[OsString]) -> Result<u8, StartError> {
    let report = check::run(config, &HostInfo::detect(), Rehearsal::run(config, args));
    print(&report.to_string())?;
    Ok(if report.error_count() == 0 { EX_OK } else { EX_CONFIG })
}

/// Connects to each smarthost, and prints its extensions and whether it can be used.
fn check_smarthosts(config: &Config) -> Result<u8, StartError> {
    let queue_config = config.queue_config()?.unwrap_or_default();
    if queue_config.smarthosts.is_empty() {
        return Err(StartError::new(EX_CONFIG, "check: no smarthost is configured"));
    }
    let (text, all_usable) = check::probe_smarthosts(&queue_config.smarthosts);
    print(&text)?;
    Ok(if all_usable { EX_OK } else { EX_UNAVAILABLE })
}

/// Converts an error of an operation on the queue.
fn queue_error(e: io::Error) -> StartError {
    let status = match e.kind() {
        ErrorKind::NotFound => EX_DATAERR,
        ErrorKind::PermissionDenied => EX_NOPERM,
        _ => EX_TEMPFAIL,
    };
    StartError::io(status, "queue", &e)
}

/// Starts all services. Then serves until it is stopped, or one session under `--inetd`, or flushes
/// the queue.
fn serve(config: &Config) -> Result<u8, StartError> {
    let signals = match config.command {
        ProgramCommand::Serve => SignalHandlers::install().map(Some),
        _ => server::ignore_file_size_signal().map(|()| None),
    };
    let signals = signals.map_err(|e| StartError::io(EX_OSERR, "signals", &e))?;
    let log = logging::start(config.log, config.verbosity)
        .map_err(|e| StartError::io(EX_OSERR, "log", &e))?;
    // Under --inetd standard error may be the client's socket.
    if let (LogTarget::Syslog, false, Some(socket)) =
        (config.log, config.inetd, logging::missing_syslog_socket())
    {
        let text = format!("{socket} does not exist, so that nothing is logged");
        let _ = writeln!(io::stderr(), "mailslot: log syslog: {text}");
    }
    std::panic::set_hook(Box::new(|panic| events::panic(None::<&str>, panic)));
    for problem in config.doubtful_settings() {
        events::setting_doubtful(problem.what, problem.fix);
    }
    let PreparedStart {
        keys, listeners, control, queue: queue_config, is_confined, resolver, ..
    } = startup::prepare(config, StartPurpose::Serve, log)?;

    let counters = Arc::new(Counters::default());
    let delivery =
        DeliveryConfig { on_recovery_progress: extend_start_timeout, ..config.delivery_config() };
    let (writer, writer_thread) =
        deliver::start(delivery, counters.clone()).map_err(|e| startup::writer_error(&e))?;
    // The writer keeps its capabilities. This thread, and those it starts from now on, need none.
    let metrics = privilege::drop_capabilities().and_then(|()| {
        let file = config.metrics_file.clone();
        file.map(|file| Metrics::start(file, counters.clone())).transpose()
    });
    if config.forward_files {
        let writer = writer.clone();
        resolver.follow_forward_files(HomeForwardFiles::new(move |home, owner| {
            writer.forward_file(home, owner, FORWARD_TIMEOUT)
        }));
    }
    let services =
        Services { signals, listeners, control, is_confined, keys, resolver, writer, counters };
    let status = match (&metrics, &config.command) {
        (Err(e), _) => Err(StartError::io(EX_OSERR, "", e)),
        (Ok(_), ProgramCommand::Queue(QueueCommand::Flush(ids))) => {
            flush(services, queue_config, ids)
        }
        (Ok(_), _) => serve_with_queue(config, services, queue_config),
    };
    writer_thread.stop();
    if let Ok(Some(metrics)) = metrics {
        metrics.stop();
    }
    status
}

/// Asks the service manager for more time to start, because recovery works.
fn extend_start_timeout() {
    listen::notify("EXTEND_TIMEOUT_USEC=120000000");
}

/// The parts of a running server.
struct Services {
    /// Handlers of signals, unless the queue is flushed.
    signals: Option<SignalHandlers>,
    listeners: Vec<Listener>,
    /// The control socket.
    control: Option<Listener>,
    /// True if the process is confined.
    is_confined: bool,
    keys: Option<Arc<ServerCertificate>>,
    resolver: Arc<LocalResolver>,
    writer: WriterHandle,
    counters: Arc<Counters>,
}

/// Serves connections and runs the queue, if there is one. Under `--inetd` another process runs it.
fn serve_with_queue(
    config: &Config,
    services: Services,
    queue_config: Option<queue::QueueConfig>,
) -> Result<u8, StartError> {
    let Some(queue_config) = queue_config else {
        return serve_connections(config, services, None);
    };
    if config.inetd {
        return serve_connections(config, services, Some(QueueHandle::detached()));
    }
    let Services { resolver, writer, counters, .. } = &services;
    let started = queue::start(queue_config, resolver.clone(), writer.clone(), counters.clone());
    let (handle, queue) = started.map_err(|e| StartError::io(EX_OSERR, "queue", &e))?;
    let status = serve_connections(config, services, Some(handle));
    queue.stop(QUEUE_GRACE);
    status
}

/// Starts the thread of the control socket.
fn start_control(
    config: &Config,
    services: &mut Services,
    queue: Option<QueueHandle>,
) -> Option<ControlThread> {
    let (spool, resolver) = (config.spool.clone(), services.resolver.clone());
    let context = ControlContext { spool, queue, resolver };
    let thread = control::server::start(services.control.take()?, context);
    thread.map_err(events::control_unavailable).ok()
}

/// Tries once to send the queue's entries with these `ids`, or all if it is empty.
fn flush(
    services: Services,
    queue_config: Option<queue::QueueConfig>,
    ids: &[String],
) -> Result<u8, StartError> {
    let Services { resolver, writer, counters, .. } = services;
    let no_queue =
        || StartError::new(EX_CONFIG, "queue: no --smarthost is given, and --hold is off");
    let queue_config = queue_config.ok_or_else(no_queue)?;
    let mut progress = ProgressLine::on_terminal();
    let report = |tried| progress.show(tried);
    let left = queue::flush(queue_config, resolver, writer, counters, ids, report)
        .map_err(|e| StartError::io(EX_OSERR, "queue", &e))?;
    drop(progress);
    print(&format!("{left} left in the queue\n"))?;
    Ok(if left == 0 { EX_OK } else { EX_TEMPFAIL })
}

/// Serves connections until the server is stopped, or one session under `--inetd`.
fn serve_connections(
    config: &Config,
    mut services: Services,
    queue: Option<QueueHandle>,
) -> Result<u8, StartError> {
    let control = start_control(config, &mut services, queue.clone());
    let Services { signals, listeners, is_confined, keys, resolver, writer, counters, .. } =
        services;
    let system = |e: io::Error| StartError::io(EX_OSERR, "", &e);
    let server_config = config.server_config(keys, queue.clone());
    let server =
        Server::new(server_config, resolver.clone(), writer, counters.clone()).map_err(system)?;
    let handle_signals = || match signals {
        Some(signals) => {
            let config = config.clone();
            let reload = move || {
                queue.iter().for_each(QueueHandle::reload_trusted);
                report_changed_options(&config);
            };
            signals.serve(server.handle(), resolver.clone(), counters, reload).map_err(system)
        }
        None => Ok(()),
    };
    if config.inetd {
        let (socket, peer) = stream::standard_input().map_err(system)?;
        handle_signals()?;
        let end = server.serve_one(socket, peer).map_err(system)?;
        return Ok(end.map_or(EX_TEMPFAIL, |end| end.exit_status()));
    }
    handle_signals()?;
    let watch =
        ConfinementWatch::start(config, resolver, server.handle(), is_confined).map_err(system)?;
    print_startup_message(config, &listeners);
    let served = server.run(listeners).map_err(system);
    if let Some(control) = control {
        control.stop();
    }
    served?;
    Ok(if watch.stop() { EX_TEMPFAIL } else { EX_OK })
}

/// Logs the options that have other values in the configuration file now.
fn report_changed_options(config: &Config) {
    match config.changed_options() {
        Ok(changed) if changed.is_empty() => {}
        Ok(changed) => events::options_changed(changed.join(",")),
        Err(e) => events::configuration_invalid(e),
    }
}

/// Prints the startup message, unless `--quiet`. Errors are ignored: standard output may be closed.
fn print_startup_message(config: &Config, listeners: &[Listener]) {
    if config.verbosity < 0 {
        return;
    }
    let tcp_address = |l: &Listener| {
        let Service { lmtp, tls } = l.service();
        let (lmtp, tls) = (if lmtp { "lmtp:" } else { "" }, if tls { "tls:" } else { "" });
        l.local_addr().map(|address| format!("{lmtp}{tls}{address}"))
    };
    let mut addresses: Vec<String> = listeners.iter().filter_map(tcp_address).collect();
    let unix = |a: &&ListenAddress| matches!(a, ListenAddress::Unix { .. });
    addresses.extend(config.listen.iter().filter(unix).map(ListenAddress::to_string));
    addresses.extend(config.lmtp.iter().filter(unix).map(|address| format!("lmtp:{address}")));
    let smtp = listeners.iter().filter(|l| l.service() == Service::default());
    let first_smtp = smtp.filter_map(Listener::local_addr).next().map(|a| a.to_string());
    let text = config.startup_message(&addresses, first_smtp.as_deref());
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Prints the output of a command. Returns the exit status.
fn print(text: &str) -> Result<u8, StartError> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(EX_OK),
        // A reader such as head(1) stopped reading.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(EX_OK),
        Err(e) => Err(StartError::io(EX_IOERR, "standard output", &e)),
    }
}

/// Reports `error` on standard error, or under `--inetd` in syslog and by a 421 to the client.
fn report(error: &StartError, inetd: bool) {
    if inetd {
        log_start_failure(&error.text);
        let _ = io::stdout().write_all(b"421 4.3.5 localhost cannot serve, try later\r\n");
        return;
    }
    let mut text = format!("mailslot: {}\n", error.text);
    if !error.fix.is_empty() {
        text.push_str(&format!("mailslot: fix: {}\n", error.fix));
    }
    if error.status == EX_USAGE {
        text.push_str("mailslot: try mailslot --help\n");
    }
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The time a transfer in progress may take at shutdown. Then it is aborted and retried later.
const QUEUE_GRACE: Duration = Duration::from_secs(2);
/// The time the writer may take to read a forward file.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);
