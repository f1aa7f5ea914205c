//! The start of the server as a sequence of steps, which `mailslot check` rehearses.
//!
//! ```text
//! certificate, directories, smarthost, addresses -> privileges -> queue -> confinement -> writer
//! ```
//! Steps that need root are taken before any thread is started.
//!
//! The start and its rehearsal are the same functions. [`StartPurpose::Rehearse`] leaves out only
//! the effects that would disturb a running server: an address that it has is not opened, no
//! journal is taken over, and nothing is recovered. So a fault that stops the start stops the
//! rehearsal too, with the same text.
//!
//! | file | contains |
//! | --- | --- |
//! | `confinement_watch.rs` | files that the confinement does not cover any more |
//! | `error.rs` | the reason why a step failed, and its fix |
//! | `rehearsal.rs` | the rehearsal, in a separate process because steps cannot be undone |
//! | `service_unit.rs` | user and capabilities of the installed service of systemd |
//! | `service_view.rs` | the part of the file system that the service sees |

mod confinement_watch;
mod error;
mod rehearsal;
mod service_unit;
mod service_view;

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use nix::unistd::{Group, getegid, geteuid};

use crate::config::{Config, NameSet, ProgramCommand, TlsOptions};
use crate::control;
use crate::deliver::disk::HostDisk;
use crate::deliver::journal;
use crate::message::QUEUE_DIRECTORY;
use crate::net::kept;
use crate::net::listen::{self, Accept, Listener, Service};
use crate::net::tls::ServerCertificate;
use crate::observe::events;
use crate::observe::logging::PendingLog;
use crate::process::confinement::{self, ConfinementStrength};
use crate::process::descriptors;
use crate::process::privilege::{self, Account, StartPrivileges};
use crate::relay::hand_over;
use crate::relay::queue::{self, QueueConfig};
use crate::resolver::{LocalResolver, Problem};
use crate::session::Audience;
use crate::sysexits::{EX_CANTCREAT, EX_CONFIG, EX_NOPERM, EX_OSERR, EX_TEMPFAIL, EX_UNAVAILABLE};
pub use confinement_watch::ConfinementWatch;
pub use error::StartError;
pub use rehearsal::{Rehearsal, RehearsalRequest};
pub use service_unit::ServiceUnit;
pub use service_view::ServiceView;

/// The purpose of a run of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPurpose {
    /// The process serves afterwards.
    Serve,
    /// The process ends afterwards, and has changed nothing.
    Rehearse,
}

/// The results of the steps up to the confinement.
pub struct PreparedStart {
    /// The certificate and its key.
    pub keys: Option<Arc<ServerCertificate>>,
    /// The sockets to accept connections on; none in a rehearsal.
    pub listeners: Vec<Listener>,
    /// The control socket; none in a rehearsal.
    pub control: Option<Listener>,
    /// The configuration of the queue, if there is one. The default if another process works on it.
    pub queue: Option<QueueConfig>,
    /// True if the process is confined.
    pub is_confined: bool,
    /// The resolver of local addresses.
    pub resolver: Arc<LocalResolver>,
    /// Problems that do not stop the start, of a rehearsal.
    pub problems: Vec<Problem>,
}

/// Runs the steps up to the confinement, in their order, and starts the thread of `log`.
///
/// # Errors
/// The first step that failed.
pub fn prepare(
    config: &Config,
    purpose: StartPurpose,
    log: PendingLog,
) -> Result<PreparedStart, StartError> {
    let mut problems = Vec::new();
    descriptors::raise_limit();
    // Files and ports that may need root.
    let keys = config.tls.as_ref().map(load_certificate).transpose()?;
    if config.sandbox.is_some() {
        create_directory(&config.mail_dir)?;
        create_directory(&config.spool)?;
    }
    let queue = match (purpose, &config.command) {
        // Another process works on the queue, and the certificates that it trusts are hundreds of
        // files.
        (StartPurpose::Serve, ProgramCommand::Serve) if config.inetd => {
            config.has_queue().then(QueueConfig::default)
        }
        _ => config.queue_config().map_err(|e| StartError::from(e).at("smarthost"))?,
    };
    let listens = !config.inetd && !matches!(config.command, ProgramCommand::Queue(_));
    let mut listeners = match purpose {
        StartPurpose::Serve if listens => open_listeners(config)?,
        StartPurpose::Rehearse if listens => {
            problems.extend(rehearse_listeners(config)?);
            Vec::new()
        }
        _ => Vec::new(),
    };
    drop_privileges(config)?;
    let control = match purpose {
        StartPurpose::Serve if listens => open_spool_sockets(config, &mut listeners),
        _ => None,
    };
    // The receipts for messages of the hand-over directory are there, too.
    if queue.is_some() || config.hand_over {
        create_queue_directory(config, purpose)
            .map_err(|e| StartError::io(EX_CANTCREAT, "queue", &e).at("queue"))?;
    }
    // Under --inetd this could be a line for each session.
    if config.hand_over && !config.inetd && purpose == StartPurpose::Serve {
        // Mail received by SMTP does not depend on it.
        if let Err(e) = hand_over::create_directory(&config.spool) {
            events::hand_over_unavailable(e);
        }
    }
    // Reading again shows now whether the new user can read the files at HUP.
    if let Some(Err(why)) = keys.as_ref().map(|keys| keys.reload()) {
        if purpose == StartPurpose::Rehearse {
            let (what, fix) = why.split_once("; ").unwrap_or((&why, "restart after a renewal"));
            let what = format!("certificate and key are not read again on HUP: {what}");
            problems.push(Problem { what, fix: fix.to_owned(), stops_mail: false });
        }
        events::tls_reload_unavailable(why);
    }
    let resolver = Arc::new(LocalResolver::new(config.resolver_config()));
    for Problem { what, fix, .. } in resolver.doubtful_aliases() {
        events::setting_doubtful(what, fix);
    }
    let is_confined = confine(config, &resolver)? != ConfinementStrength::None;
    log.write().map_err(|e| StartError::io(EX_OSERR, "log", &e).at("log"))?;
    Ok(PreparedStart { keys, listeners, control, queue, is_confined, resolver, problems })
}

/// Runs all steps without serving, in the process that [`Rehearsal::run`] started. Returns the
/// problems that do not stop the start.
///
/// # Errors
/// The first step that failed.
pub fn rehearse(config: &Config, log: PendingLog) -> Result<Vec<Problem>, StartError> {
    let PreparedStart { resolver, mut problems, .. } =
        prepare(config, StartPurpose::Rehearse, log)?;
    let rehearsed = crate::deliver::rehearse(&config.delivery_config());
    if let Some(e) = rehearsed.map_err(|e| writer_error(&e))? {
        let shown = config.mail_dir.display();
        problems.push(Problem {
            what: format!("mail-dir {shown} cannot be written to: {e}; all mail is deferred"),
            fix: format!("let the user that mailslot runs as create files in {shown}"),
            stops_mail: true,
        });
    }
    privilege::drop_capabilities().map_err(|e| StartError::io(EX_OSERR, "", &e))?;
    for file in config.lookup_files() {
        if confinement::blocks_reading(&file) {
            let shown = file.display();
            problems.push(Problem {
                what: format!("{shown} is outside of the confinement"),
                fix: format!("put {shown} and the file it leads to where all users may read them"),
                stops_mail: true,
            });
        }
    }
    // After the confinement, because the server reads aliases and users with no more access.
    problems.extend(resolver.problems());
    Ok(problems)
}

/// Converts an error of the start of the writer.
pub fn writer_error(e: &io::Error) -> StartError {
    StartError::io(EX_CANTCREAT, "", e).at("writer")
}

/// Loads the certificate and its key.
fn load_certificate(tls: &TlsOptions) -> Result<Arc<ServerCertificate>, StartError> {
    let certificate = ServerCertificate::load(&tls.cert, &tls.key);
    certificate.map(Arc::new).map_err(|text| {
        StartError::new(EX_CONFIG, &text)
            .at("certificate")
            .with_fix("correct tls-cert and tls-key; the server does not start with these")
    })
}

/// Creates a directory of the sandbox with mode 0700. An existing one is not changed.
fn create_directory(path: &Path) -> Result<(), StartError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| {
        StartError::io(EX_CANTCREAT, &format!("cannot create directory {}", path.display()), &e)
            .at("directories")
    })
}

/// Creates the queue directory if it is missing. A rehearsal removes it again.
fn create_queue_directory(config: &Config, purpose: StartPurpose) -> io::Result<()> {
    let exists = config.spool.join(QUEUE_DIRECTORY).symlink_metadata().is_ok();
    let path = queue::create_directory(&config.spool)?;
    if purpose == StartPurpose::Rehearse && !exists {
        std::fs::remove_dir(path)?;
    }
    Ok(())
}

/// Opens the sockets to listen on, unless systemd passed them.
fn open_listeners(config: &Config) -> Result<Vec<Listener>, StartError> {
    let listeners = kept::open(&config.listen, &config.lmtp).map_err(|e| listen_error(&e))?;
    if listeners.is_empty() {
        return Err(StartError::new(EX_CONFIG, "systemd passed no sockets; give --listen"));
    }
    if config.tls.is_none() && listeners.iter().any(|l| l.service().tls) {
        let text = "systemd passed a socket with the name tls; give --tls-cert";
        return Err(StartError::new(EX_CONFIG, text));
    }
    Ok(listeners)
}

/// Opens the sockets in the spool: the control socket, which is returned, and unless `--listen` has
/// a Unix socket one for SMTP, by which the server knows the users of this host. Errors are logged,
/// because mail does not depend on these sockets.
fn open_spool_sockets(config: &Config, listeners: &mut Vec<Listener>) -> Option<Listener> {
    let smtp = |l: &Listener| l.service() == Service::default();
    let has_unix = listeners.iter().any(|l| smtp(l) && l.local_addr().is_none());
    if listeners.iter().any(smtp) && !has_unix {
        match control::server::open_submission(&config.spool) {
            Ok(listener) => listeners.push(listener),
            Err(e) => events::control_unavailable(e),
        }
    }
    control::server::open(&config.spool).map_err(events::control_unavailable).ok()
}

/// Opens the sockets to listen on for an instant, except those of a server that runs. Sockets that
/// systemd passes are not known before the start.
fn rehearse_listeners(config: &Config) -> Result<Vec<Problem>, StartError> {
    let runs = journal::has_living_owner(&HostDisk::default(), &config.spool);
    let notes = listen::rehearse(&config.listen, runs).and_then(|mut notes| {
        notes.extend(listen::rehearse(&config.lmtp, runs)?);
        Ok(notes)
    });
    let note = |what| Problem { what, fix: String::new(), stops_mail: false };
    Ok(notes.map_err(|e| listen_error(&e))?.into_iter().map(note).collect())
}

fn listen_error(e: &io::Error) -> StartError {
    let status = match e.kind() {
        io::ErrorKind::AddrInUse => EX_UNAVAILABLE,
        io::ErrorKind::PermissionDenied => EX_NOPERM,
        io::ErrorKind::InvalidInput => EX_CONFIG,
        // A name server may answer later.
        _ if e.to_string().contains("lookup address") => EX_TEMPFAIL,
        _ => EX_OSERR,
    };
    StartError::io(status, "", e).at("addresses")
}

/// Switches to the `--run-as` user and drops all capabilities that the writer does not need.
fn drop_privileges(config: &Config) -> Result<(), StartError> {
    let start = StartPrivileges::of_this_process();
    let account = account_to_become(config, start)?;
    let acts = config.users == NameSet::System;
    let mut groups = Vec::new();
    if config.terminals != Audience::NoClient {
        groups.extend(Group::from_name("tty").ok().flatten().map(|group| group.gid));
    }
    privilege::drop_privileges(account.as_ref(), &groups, acts)
        .map_err(|e| StartError::io(EX_OSERR, "cannot drop privileges", &e).at("privileges"))?;
    if geteuid().is_root() && config.sandbox.is_none() {
        events::running_as_root("let --run-as name a user that has no other powers");
    }
    // Under --inetd this would be a line for each session.
    if !config.inetd {
        events::running_as(format_args!("{start:?}"), geteuid(), getegid(), acts);
    }
    Ok(())
}

/// Returns the `--run-as` account if the process is to switch to it, which only root can.
fn account_to_become(
    config: &Config,
    start: StartPrivileges,
) -> Result<Option<Account>, StartError> {
    let Some(run_as) = &config.run_as else { return Ok(None) };
    let failed = |text: &str| StartError::new(EX_CONFIG, text).at("privileges");
    let account = run_as.look_up().map_err(|e| failed(&e.to_string()))?;
    if start == StartPrivileges::Root {
        return Ok(Some(account));
    }
    if account.uid != geteuid() {
        let name = account.name;
        let text = format!("run-as {name}: only root with CAP_SETUID can become another user");
        return Err(failed(&text).with_fix("start as root, or remove run-as"));
    }
    Ok(None)
}

/// Applies the confinement, and returns how strong it is.
fn confine(config: &Config, resolver: &LocalResolver) -> Result<ConfinementStrength, StartError> {
    let rules = config.confinement_rules(&resolver.included());
    let strength = confinement::confine(&rules).map_err(|e| {
        StartError::new(EX_OSERR, &format!("cannot confine: {e}")).at("confinement")
    })?;
    match strength {
        ConfinementStrength::Full => {}
        // Under --inetd this would be a line for each session.
        _ if config.inetd => {}
        ConfinementStrength::Partial => {
            events::confinement_partial(kernel(), "the kernel has an old version of Landlock");
        }
        ConfinementStrength::None => {
            events::confinement_absent(kernel(), "the kernel has no Landlock");
        }
    }
    Ok(strength)
}

/// Returns the kernel's release, such as `6.1.0`.
fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned())
}
