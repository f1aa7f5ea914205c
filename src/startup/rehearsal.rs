//! The rehearsal of the start, in a separate process, because a process cannot undo its confinement
//! or get its privileges back.
//!
//! `mailslot check` runs its own program again with its own arguments, and after them the word
//! `rehearse-start` and the service that it rehearses, of which it takes the identity. The new
//! process reports on standard output, one record for each problem and one for the result.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{ServiceUnit, StartError};
use crate::config::Config;
use crate::observe::logging;
use crate::resolver::Problem;
use crate::sysexits::{EX_OSERR, EX_SOFTWARE};

/// The result of a rehearsal.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// The step at which the start would fail, if it would.
    pub failed: Option<StartError>,
    /// Problems that do not stop the start.
    pub problems: Vec<Problem>,
    /// The service that gave the rehearsal its identity; None for that of this process.
    pub service: Option<ServiceUnit>,
}

impl Rehearsal {
    /// Rehearses the start with `args`, the arguments of this process. Directories that it creates
    /// are removed.
    pub fn run(config: &Config, args: &[OsString]) -> Rehearsal {
        // A sandbox and a session for inetd are not the service.
        let of_service = nix::unistd::geteuid().is_root() && config.sandbox.is_none();
        let service = if of_service && !config.inetd { ServiceUnit::installed() } else { None };
        let missing = missing_directories(config);
        let word = service.as_ref().map_or_else(|| "-".to_owned(), ServiceUnit::to_word);
        let result = run_program(args, &word);
        for directory in missing.iter().rev() {
            // This fails for a directory that is not empty, and must.
            let _ = fs::remove_dir(directory);
        }
        let (failed, problems) = match result {
            Ok(output) => parse(&output),
            Err(error) => (Some(error), Vec::new()),
        };
        Rehearsal { failed, problems, service }
    }
}

/// Runs this program with `args` and the request. Returns its standard output.
fn run_program(args: &[OsString], service: &str) -> Result<String, StartError> {
    let failed = |text: &str| StartError::new(EX_OSERR, text).at("rehearsal");
    let run = |program: PathBuf| {
        let mut command = Command::new(program);
        command.args(args).args([REQUEST, service]).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET").output()
    };
    let output = std::env::current_exe()
        .and_then(run)
        .map_err(|e| failed(&format!("the start cannot be rehearsed: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains(PASSES) || text.contains(FAILS) {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().last().unwrap_or_default().to_owned();
    let end = match output.status.signal() {
        Some(signal) => format!("signal {signal}"),
        None => format!("status {}", output.status.code().unwrap_or(i32::from(EX_SOFTWARE))),
    };
    Err(failed(&format!("the rehearsal of the start ended with {end}: {last}")))
}

/// Returns the directories that the start would create, and those above them that are missing, from
/// the highest down.
fn missing_directories(config: &Config) -> Vec<PathBuf> {
    // Outside of the sandbox only the queue directory, which the rehearsal removes again.
    if config.sandbox.is_none() {
        return Vec::new();
    }
    let created = [&config.mail_dir, &config.spool];
    let mut missing: Vec<PathBuf> = created
        .into_iter()
        .flat_map(|path| path.ancestors())
        .filter(|path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err())
        .map(Path::to_owned)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    missing
}

/// The request to a process to rehearse the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RehearsalRequest {
    /// The arguments without the request.
    pub args: Vec<OsString>,
    service: Option<ServiceUnit>,
}

impl RehearsalRequest {
    /// Returns the request at the end of `args`, if there is one.
    pub fn find(args: &[OsString]) -> Option<RehearsalRequest> {
        let [args @ .., request, service] = args else { return None };
        let asked = request == OsStr::new(REQUEST) && args.iter().any(|word| word == "check");
        asked.then(|| RehearsalRequest {
            args: args.to_vec(),
            service: service.to_str().and_then(ServiceUnit::parse),
        })
    }

    /// Rehearses the start. Returns the text for standard output.
    pub fn serve(&self) -> String {
        let result = self.rehearse();
        // The log has a thread, which may still write.
        log::logger().flush();
        let mut text = String::new();
        match result {
            Ok(problems) => {
                for Problem { what, fix, stops_mail } in &problems {
                    let kind = if *stops_mail { "problem" } else { "advice" };
                    add_record(&mut text, &[kind, what, fix]);
                }
                add_record(&mut text, &[PASSES]);
            }
            Err(StartError { status, step, text: what, fix }) => {
                add_record(&mut text, &[FAILS, &status.to_string(), &step, &what, &fix]);
            }
        }
        text
    }

    fn rehearse(&self) -> Result<Vec<Problem>, StartError> {
        if let Some(service) = &self.service {
            service.become_it()?;
        }
        let config = Config::load(&self.args)?;
        // Warnings are for the parent alone, whatever the target of the log is.
        let log = logging::start(logging::LogTarget::Stderr, -1)
            .map_err(|e| StartError::io(EX_OSERR, "log", &e).at("log"))?;
        super::rehearse(&config, log)
    }
}

/// Adds a line of `fields` to `text`.
fn add_record(text: &mut String, fields: &[&str]) {
    let plain = fields.iter().map(|field| field.replace(|c: char| c.is_control(), " "));
    text.push_str(&plain.collect::<Vec<_>>().join("\t"));
    text.push('\n');
}

/// Parses the records.
fn parse(text: &str) -> (Option<StartError>, Vec<Problem>) {
    let (mut failed, mut problems) = (None, Vec::new());
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        match fields.as_slice() {
            [kind @ ("problem" | "advice"), what, fix] => problems.push(Problem {
                what: (*what).to_owned(),
                fix: (*fix).to_owned(),
                stops_mail: *kind == "problem",
            }),
            [kind, status, step, what, fix] if *kind == FAILS => {
                let status = status.parse().unwrap_or(EX_OSERR);
                failed = Some(StartError::new(status, what).at(step).with_fix(fix));
            }
            _ => {}
        }
    }
    (failed, problems)
}

/// The word that requests a rehearsal.
const REQUEST: &str = "rehearse-start";
/// The records of the result.
const PASSES: &str = "the-start-passes";
const FAILS: &str = "the-start-fails";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let mut text = String::new();
        add_record(&mut text, &["problem", "a\nb", ""]);
        add_record(&mut text, &["advice", "c", "d"]);
        add_record(&mut text, &[FAILS, "73", "writer", "no space", "buy a disk"]);
        let (failed, problems) = parse(&text);
        let failed = failed.unwrap();
        assert_eq!((failed.status, failed.step.as_str()), (73, "writer"));
        assert_eq!((failed.text.as_str(), failed.fix.as_str()), ("no space", "buy a disk"));
        assert_eq!(problems.len(), 2);
        assert_eq!((problems[0].what.as_str(), problems[0].stops_mail), ("a b", true));
        assert_eq!((problems[1].fix.as_str(), problems[1].stops_mail), ("d", false));
    }
}
