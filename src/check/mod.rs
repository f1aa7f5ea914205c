//! `mailslot check`: the values in effect with their origins, then every problem, each with its
//! fix.
//!
//! Each check is a small function from a value or a file to [`Problem`]s. Checks change
//! nothing: they create no directory, take no lock, and of mail they read the last byte of a
//! mailbox. A port is bound for an instant to see whether that is allowed. So `mailslot check`
//! works before the first start, and while a server is running.
//!
//! A problem that stops mail (the server would not start, or would reject or defer mail) makes the
//! exit status 78. The others are advice. A fix that begins with a command can be pasted into a
//! shell.
//!
//! | file | checks |
//! | --- | --- |
//! | `check/settings.rs` | limits, names, and single values |
//! | `check/privilege.rs` | the user to run as, and its permissions |
//! | `check/port.rs` | the addresses to listen on |
//! | `check/socket_unit.rs` | an enabled socket unit that is in the way of them |
//! | `check/directory.rs` | mail directory and spool |
//! | `check/mailbox.rs` | mailboxes and their locks |
//! | `check/journal.rs` | journals of dead processes in the spool |
//! | `check/tls.rs` | certificate and key |
//! | `check/smarthost.rs` | `check --smarthost`: a session with each smarthost |
//! | `route/explain.rs` | aliases and users, resolved as for a message |

mod directory;
mod journal;
mod mailbox;
mod port;
mod privilege;
mod settings;
mod smarthost;
mod socket_unit;
mod tls;

use std::fmt::Write as _;
use std::path::Path;

use crate::config::{Config, HostInfo};
use crate::route::{LocalRoute, Problem};
pub use settings::check_limits;
pub use smarthost::probe_smarthosts;

/// Returns the output of `mailslot check`.
pub fn render(config: &Config, problems: &[Problem]) -> String {
    let mut text = String::new();
    let width = config.shown.iter().map(|g| g.value.len().min(40)).max().unwrap_or(0);
    for given in &config.shown {
        let shown = given.value.escape_debug().to_string();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:<16} {shown:<width$}  {}", given.long, given.origin);
    }
    let _ = writeln!(text, "{:<16} {}", "privileges", privilege::run_identity(config));
    for problem in problems {
        let kind = if problem.stops_mail { "problem" } else { "advice" };
        let _ = write!(text, "\n{kind}: {problem}\n");
    }
    let _ = match problems.len() {
        0 => writeln!(text, "\nno problems"),
        n => writeln!(text, "\n{n} found, {} stop mail", error_count(problems)),
    };
    text
}

/// Returns the number of `problems` that stop mail.
pub fn error_count(problems: &[Problem]) -> usize {
    problems.iter().filter(|p| p.stops_mail).count()
}

/// Returns every problem of `config` on this host.
pub fn find_problems(config: &Config, host: &HostInfo) -> Vec<Problem> {
    let route = LocalRoute::new(config.route_config());
    let mut found = settings::check(config, host);
    // Before the directories, because their owner must exist first.
    found.extend(privilege::check(config, &route));
    if !config.inetd {
        found.extend(config.listen.iter().chain(&config.lmtp).filter_map(port::check));
        found.extend(socket_unit::check(config));
    }
    // A server in the sandbox creates its directories.
    let created_at_start = |path: &Path| config.sandbox.is_some() && !path.exists();
    if !created_at_start(&config.mail_dir) {
        found.extend(directory::check_mail_dir(config));
        found.extend(mailbox::check(config));
    }
    if !created_at_start(&config.spool) {
        found.extend(directory::check_spool(config));
        found.extend(journal::check(config));
    }
    found.extend(tls::check(config));
    found.extend(route.problems());
    found
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
    fn rendered_text_has_values_and_problems() {
        let sandbox = config(&["--sandbox", "d", "-t", "4"], &host_named("a"));
        let text =
            render(&sandbox, &[problem("x is y".into(), "make it z"), advice("v".into(), "w")]);
        for line in [
            "threads          4",
            "command line",
            "--sandbox",
            "\nproblem: x is y\n   fix: make it z\n",
            "\nadvice: v\n",
            "\n2 found, 1 stop mail\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(render(&sandbox, &[]).ends_with("\nno problems\n"));
    }
}
