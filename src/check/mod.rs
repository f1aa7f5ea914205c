//! `mailslot check`: the values in effect with their origins, then every problem, each with its
//! fix.
//!
//! **The start is rehearsed** ([`startup`](crate::startup)), and only the rehearsal decides whether
//! the server would start. Rules about users, permissions, addresses and files explain a failure of
//! the rehearsal and give a fix for it. They are applied only after a failure, so that none of them
//! contradicts the start. The other checks are of things that the start does not check.
//!
//! Each check is a small function from a value or a file to [`Problem`]s. Checks change
//! nothing, take no lock, and read no mail except the last byte of a mailbox. So `mailslot
//! check` works before the first start, and while a server is running.
//!
//! A problem that stops mail (the server would not start, or would reject or defer mail) makes the
//! exit status 78. The others are advice, some of which need no fix. A fix that begins with a
//! command can be pasted into a shell: it changes only what evidently is mailslot's.
//!
//! | file | checks |
//! | --- | --- |
//! | `settings.rs` | limits, names, and single values |
//! | `privilege.rs` | the user to run as, and its permissions |
//! | `sendmail_program.rs` | the paths at which other programs call sendmail |
//! | `service.rs` | files that the unit hides from the server |
//! | `port.rs` | the addresses to listen on |
//! | `socket_unit.rs` | an enabled socket unit with conflicting addresses |
//! | `directory.rs` | mail directory, spool and hand-over directory |
//! | `evidence.rs` | none: evidence that a fix may change a directory |
//! | `mailbox.rs` | mailboxes and their locks |
//! | `journal.rs` | journals of dead processes in the spool |
//! | `tls.rs` | certificate and key |
//! | `smarthost.rs` | `check --smarthost`: a session with each smarthost |
//! | `resolver/explain.rs` | aliases and users, resolved as for a message |

mod directory;
mod evidence;
mod journal;
mod mailbox;
mod port;
mod privilege;
mod sendmail_program;
mod service;
mod settings;
mod smarthost;
mod socket_unit;
mod tls;

use std::fmt;
use std::path::Path;

use nix::unistd::{Uid, User, geteuid};

use crate::config::{Config, HostInfo};
use crate::resolver::{LocalResolver, Problem};
use crate::startup::{Rehearsal, StartError};
pub use smarthost::probe_smarthosts;

/// The output of `mailslot check`.
#[derive(Debug)]
pub struct CheckReport<'a> {
    config: &'a Config,
    identity: String,
    failed: Option<StartError>,
    problems: Vec<Problem>,
}

/// Checks `config` on this host, after a rehearsal of the start.
pub fn run<'a>(config: &'a Config, host: &HostInfo, rehearsal: Rehearsal) -> CheckReport<'a> {
    let mut effective = config.clone();
    let identity = match &rehearsal.service {
        Some(service) => {
            effective.run_as = Some(service.run_as());
            format!("{} of mailslot.service, {}", service.run_as(), service.capabilities.join(" "))
        }
        None => privilege::run_identity(config),
    };
    let problems = find_problems(&effective, host, &rehearsal);
    CheckReport { config, identity, failed: rehearsal.failed, problems }
}

impl CheckReport<'_> {
    /// Returns the number of problems that stop mail.
    pub fn error_count(&self) -> usize {
        self.problems.iter().filter(|p| p.stops_mail).count()
    }
}

impl fmt::Display for CheckReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quiet = self.config.verbosity < 0;
        if !geteuid().is_root() && self.config.sandbox.is_none() && !quiet {
            let name = user_name(geteuid());
            writeln!(f, "checked as {name}; root sees more: sudo mailslot check\n")?;
        }
        if !quiet {
            let shown = &self.config.shown;
            let width = shown.iter().map(|g| g.value.len().min(40)).max().unwrap_or(0);
            for given in shown {
                let value = given.value.escape_debug().to_string();
                writeln!(f, "{:<16} {value:<width$}  {}", given.long, given.origin)?;
            }
            writeln!(f, "{:<16} {}", "privileges", self.identity)?;
            match &self.failed {
                None => writeln!(f, "{:<16} passes", "start")?,
                Some(e) => writeln!(f, "{:<16} fails: {}", "start", e.text)?,
            }
        }
        for Problem { what, fix, stops_mail } in &self.problems {
            let kind = if *stops_mail { "problem" } else { "advice" };
            writeln!(f, "\n{kind}: {what}")?;
            if !fix.is_empty() {
                writeln!(f, "   fix: {fix}")?;
            }
        }
        match self.problems.len() {
            _ if quiet => Ok(()),
            0 => writeln!(f, "\nno problems"),
            n => writeln!(f, "\n{n} found, {} stop mail", self.error_count()),
        }
    }
}

/// Returns every problem of `config` on this host.
fn find_problems(config: &Config, host: &HostInfo, rehearsal: &Rehearsal) -> Vec<Problem> {
    let resolver = LocalResolver::new(config.resolver_config());
    let mut found = settings::check(config, host);
    let troubles = troubles(rehearsal);
    let explanations =
        if troubles.is_empty() { Vec::new() } else { explain_start(config, rehearsal) };
    found.extend(troubles.into_iter().filter(|trouble| !is_explained(trouble, &explanations)));
    found.extend(explanations);
    found.extend(privilege::check(config, &resolver));
    found.extend(sendmail_program::check(config));
    found.extend(rehearsal.service.iter().flat_map(|service| service::check(config, service)));
    if !config.inetd {
        found.extend(socket_unit::check(config));
    }
    if !is_created_at_start(config, &config.mail_dir) {
        found.extend(directory::check_mail_dir(config));
        found.extend(mailbox::check(config));
    }
    if !is_created_at_start(config, &config.spool) {
        found.extend(directory::check_spool(config));
        found.extend(directory::check_hand_over(config));
        found.extend(journal::check(config));
    }
    found.extend(tls::check(config));
    if rehearsal.failed.is_some() {
        found.extend(resolver.problems());
    }
    let mut unique: Vec<Problem> = Vec::new();
    for problem in found {
        if !unique.iter().any(|other| other.what == problem.what) {
            unique.push(problem);
        }
    }
    unique
}

/// True if the start creates the directory `path`, as it does in the sandbox.
fn is_created_at_start(config: &Config, path: &Path) -> bool {
    config.sandbox.is_some() && !path.exists()
}

/// Returns the problems that the rehearsal found. The first is that which stops the start.
fn troubles(rehearsal: &Rehearsal) -> Vec<Problem> {
    let failed = rehearsal.failed.as_ref().map(|StartError { text, fix, .. }| {
        let service = rehearsal.service.as_ref();
        // Many errors name their fix.
        let (what, fix) = match text.split_once("; ") {
            _ if service.is_some_and(|s| s.view.read_only) && text.contains("Read-only file") => (
                text.split("; ").next().unwrap_or(text),
                "add the directory to ReadWritePaths= (systemctl edit mailslot)",
            ),
            Some((what, fix)) if !fix.is_empty() => (what, fix),
            _ => (text.as_str(), fix.as_str()),
        };
        problem(format!("the server does not start: {what}"), fix)
    });
    failed.into_iter().chain(rehearsal.problems.iter().cloned()).collect()
}

/// Returns the causes of the problems that a rehearsal found, with fixes.
fn explain_start(config: &Config, rehearsal: &Rehearsal) -> Vec<Problem> {
    // Before the directories, because their owner must exist first.
    let mut found = privilege::explain_start(config, rehearsal.service.is_some());
    let failed_at = |step: &str| rehearsal.failed.as_ref().is_some_and(|e| e.step == step);
    if failed_at("addresses") {
        found.extend(config.listen.iter().chain(&config.lmtp).filter_map(port::explain));
    }
    if !is_created_at_start(config, &config.mail_dir) {
        found.extend(directory::explain_mail_dir(config));
    }
    if !is_created_at_start(config, &config.spool) {
        found.extend(directory::explain_spool(config));
        found.extend(journal::explain(config));
    }
    found.extend(tls::explain(config));
    found
}

/// True if one of `explanations` is about a file, an address or the user that `trouble` names.
fn is_explained(trouble: &Problem, explanations: &[Problem]) -> bool {
    let is_subject = |word: &&str| word.contains('/') || word.contains(':') || *word == "run-as";
    let words = trouble.what.split_whitespace().map(|word| word.trim_end_matches([':', ',', ';']));
    let subjects: Vec<&str> = words.filter(is_subject).collect();
    explanations
        .iter()
        .filter(|other| other.stops_mail || !trouble.stops_mail)
        .any(|other| subjects.iter().any(|subject| other.what.contains(subject)))
}

/// Returns the name of the user `uid`, or the number if there is no such user.
fn user_name(uid: Uid) -> String {
    User::from_uid(uid).ok().flatten().map_or_else(|| format!("uid {uid}"), |user| user.name)
}

fn problem(what: String, fix: &str) -> Problem {
    Problem { what, fix: fix.to_owned(), stops_mail: true }
}

fn advice(what: String, fix: &str) -> Problem {
    Problem { what, fix: fix.to_owned(), stops_mail: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::options;

    pub fn config(words: &[&str], host: &HostInfo) -> Config {
        let args: Vec<_> = words.iter().map(std::ffi::OsString::from).collect();
        let line = options::parse_command_line(&args).unwrap();
        Config::new(&line, vec![], host).unwrap()
    }

    pub fn host_named(name: &str) -> HostInfo {
        HostInfo { name: name.to_owned(), ..HostInfo::default() }
    }

    /// Asserts that exactly one of `found` contains `word`, and whether it stops mail.
    pub fn assert_found(found: &[Problem], word: &str, stops_mail: bool) {
        let hits: Vec<_> = found.iter().filter(|p| p.what.contains(word)).collect();
        assert_eq!(hits.len(), 1, "{word:?} in {found:#?}");
        assert_eq!(hits[0].stops_mail, stops_mail, "{word:?}");
    }

    #[test]
    fn report_has_values_and_problems() {
        let sandbox = config(&["--sandbox", "d", "-t", "4"], &host_named("a"));
        let report = |config, problems| {
            let identity = "al".to_owned();
            CheckReport { config, identity, failed: None, problems }
        };
        let problems = vec![problem("x is y".into(), "make it z"), advice("v".into(), "")];
        let text = report(&sandbox, problems.clone()).to_string();
        for line in [
            "threads          4",
            "command line",
            "--sandbox",
            "start            passes\n",
            "\nproblem: x is y\n   fix: make it z\n",
            "\nadvice: v\n\n2 found, 1 stop mail\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(report(&sandbox, vec![]).to_string().ends_with("\nno problems\n"));
        let mut quiet = sandbox.clone();
        quiet.verbosity = -1;
        assert_eq!(report(&quiet, vec![]).to_string(), "");
        let text = report(&quiet, problems).to_string();
        assert_eq!(text, "\nproblem: x is y\n   fix: make it z\n\nadvice: v\n");
    }

    #[test]
    fn a_failure_is_shown_unless_a_rule_explains_it() {
        let trouble = problem("the server does not start: /var/mail: Permission denied".into(), "");
        for (what, stops_mail, explained) in [
            ("mail-dir /var/mail is not writable by mailslot", true, true),
            ("mail-dir /var/mail lets any user remove any mailbox", false, false),
            ("spool /var/spool/mailslot does not exist", true, false),
        ] {
            let other = Problem { what: what.into(), fix: String::new(), stops_mail };
            assert_eq!(is_explained(&trouble, &[other]), explained, "{what}");
        }
    }
}
