//! `mailslot check`: the settings in force with where each came from, then every problem found,
//! each with its cure.
//!
//! Each check is a small function from a setting or a file to [`AliasProblem`]s. They look and
//! change nothing: no folder is made, no lock taken, no mail read but for the last octet of a
//! mailbox. A port is bound for an instant to see whether that is allowed. So it works before the
//! first start, and beside a running server.
//!
//! A problem that stops mail (the server would not start, or would refuse or put off mail) makes
//! the exit status 78; the others are advice. A cure that begins with a command can be pasted into
//! a shell as it is.
//!
//! | what is looked at | in |
//! | --- | --- |
//! | limits, names, and single settings | `check/settings.rs` |
//! | as whom it runs, and what that may | `check/privilege.rs` |
//! | the addresses to listen on | `check/port.rs` |
//! | mail folder and spool | `check/directory.rs` |
//! | mailboxes, and the locks beside them | `check/mailbox.rs` |
//! | journals that were left in the spool | `check/journal.rs` |
//! | certificate and key | `check/tls.rs` |
//! | aliases and users | `route/report.rs`, for that knows the way mail takes |

mod directory;
mod journal;
mod mailbox;
mod port;
mod privilege;
mod settings;
mod tls;

use std::fmt::Write as _;
use std::path::Path;

use crate::config::{Config, HostInfo};
use crate::route::{AliasProblem, LocalRoute};
pub use settings::check_limits;

/// What `mailslot check` prints.
pub fn render(config: &Config, problems: &[AliasProblem]) -> String {
    let mut text = String::new();
    let width = config.shown.iter().map(|g| g.value.len().min(40)).max().unwrap_or(0);
    for given in &config.shown {
        let shown = given.value.escape_debug().to_string();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{:<16} {shown:<width$}  {}", given.long, given.origin);
    }
    let _ = writeln!(text, "{:<16} {}", "privileges", privilege::run_identity(config));
    for problem in problems {
        let weight = if problem.stops_mail { "problem" } else { "advice" };
        let _ = write!(text, "\n{weight}: {}\n   cure: {}\n", problem.what, problem.fix);
    }
    let _ = match problems.len() {
        0 => writeln!(text, "\nno problems"),
        n => writeln!(text, "\n{n} found, {} stop mail", error_count(problems)),
    };
    text
}

/// How many of `problems` stop mail.
pub fn error_count(problems: &[AliasProblem]) -> usize {
    problems.iter().filter(|p| p.stops_mail).count()
}

/// Every problem there is with `config` on this host.
pub fn find_problems(config: &Config, host: &HostInfo) -> Vec<AliasProblem> {
    let route = LocalRoute::new(config.route_config());
    let mut found = settings::check(config, host);
    // Before the folders: whom they should belong to must be there first.
    found.extend(privilege::check(config, &route));
    if !config.inetd {
        found.extend(config.listen.iter().chain(&config.lmtp).filter_map(port::check));
    }
    // The sandbox makes its folders when it starts.
    let made_at_start = |path: &Path| config.sandbox.is_some() && !path.exists();
    if !made_at_start(&config.mail_dir) {
        found.extend(directory::check_mail_dir(config));
        found.extend(mailbox::check(config));
    }
    if !made_at_start(&config.spool) {
        found.extend(directory::check_spool(config));
        found.extend(journal::check(config));
    }
    found.extend(tls::check(config));
    found.extend(route.problems());
    found
}

fn problem(what: String, fix: &str) -> AliasProblem {
    AliasProblem { what, fix: fix.to_owned(), stops_mail: true }
}

fn advice(what: String, fix: &str) -> AliasProblem {
    AliasProblem { what, fix: fix.to_owned(), stops_mail: false }
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

    /// `word` is in exactly one of `found`, and that one stops mail or not.
    pub fn assert_found(found: &[AliasProblem], word: &str, stops_mail: bool) {
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
            "\nproblem: x is y\n   cure: make it z\n",
            "\nadvice: v\n",
            "\n2 found, 1 stop mail\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(render(&sandbox, &[]).ends_with("\nno problems\n"));
    }
}
