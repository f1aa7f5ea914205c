//! Checks of the journals in the spool: journals of dead processes, damaged journals, and journals
//! that the server may not open.
//!
//! No journal is locked, because a server that starts at the same moment would not take over a
//! locked one.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{advice, privilege, problem};
use crate::config::Config;
use crate::deliver::disk::HostDisk;
use crate::deliver::journal::{self, OrphanSummary};
use crate::observe::quote::quoted;
use crate::process::privilege::Account;
use crate::resolver::Problem;

/// Returns the journals that the server may not open.
pub fn explain(config: &Config) -> Vec<Problem> {
    let journals = journal::list(&HostDisk::default(), &config.spool).unwrap_or_default();
    let account = privilege::run_account(config);
    let closed = journals.iter().filter(|path| !may_use(path, account.as_ref()));
    let report = |path: &PathBuf| {
        let shown = path.display();
        let name = privilege::account_name(account.as_ref());
        let owner = privilege::expected_owner(config);
        problem(
            format!(
                "journal {shown} cannot be opened by {name}: the server ran as another user before"
            ),
            &format!("chown {owner} {shown} && chmod 0600 {shown}"),
        )
    };
    closed.map(report).collect()
}

/// Returns the problems of the journals that the server may open.
pub fn check(config: &Config) -> Vec<Problem> {
    let disk = HostDisk::default();
    // Another check reports a directory that is missing or unreadable.
    let Ok(journals) = journal::list(&disk, &config.spool) else { return Vec::new() };
    let account = privilege::run_account(config);
    let mut found = Vec::new();
    for path in journals {
        let shown = path.display();
        if !may_use(&path, account.as_ref()) {
            continue;
        }
        match journal::inspect(&disk, &path) {
            Ok(Some(OrphanSummary { damage: Some(damage), messages, .. })) => {
                let plural = if messages == 1 { "" } else { "s" };
                found.push(problem(
                    format!(
                        "journal {shown} is damaged: {damage}; {messages} message{plural} can be \
                         read"
                    ),
                    "look for the cause in the kernel log; the next start recovers what can be \
                     read and keeps the file under another name",
                ));
            }
            Ok(None | Some(OrphanSummary { messages: 0, .. })) => {}
            Ok(Some(OrphanSummary { pid, messages, damage: None })) => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                let plural = if messages == 1 { "" } else { "s" };
                found.push(advice(
                    format!(
                        "journal {shown} was left by a process that is gone{pid}, with {messages} \
                         message{plural} in it, which the next start delivers"
                    ),
                    "",
                ));
            }
            Err(e) => found.push(problem(
                format!("journal {shown} cannot be read: {}", quoted(e)),
                "check the disk; mail that is only in this journal is lost if you delete it",
            )),
        }
    }
    for path in journal::list_damaged(&disk, &config.spool).unwrap_or_default() {
        let shown = path.display();
        found.push(advice(
            format!("{shown} is a damaged journal, and mail that was in it may be lost"),
            &format!(
                "look for the cause in the kernel log and for mail in the file, then rm {shown}"
            ),
        ));
    }
    found
}

fn may_use(path: &Path, account: Option<&Account>) -> bool {
    match account {
        // A journal that was removed meanwhile is no problem.
        Some(account) => {
            fs::metadata(path).map_or(true, |meta| privilege::has_permission(&meta, account, 0o6))
        }
        None => access(path, AccessFlags::R_OK | AccessFlags::W_OK).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, host_named};

    #[test]
    fn damaged_journals_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().to_str().unwrap();
        let config = config(&["-u", "al", "-n", "a.b", "-S", spool], &host_named("a"));
        let journal = dir.path().join("journal-0");
        // It was never filled.
        fs::write(&journal, [0; 8192]).unwrap();
        assert_eq!(check(&config), []);
        fs::write(&journal, [1; 8192]).unwrap();
        assert_found(&check(&config), "its header does not match its checksum", true);
        fs::rename(&journal, dir.path().join("journal-0.damaged-12")).unwrap();
        assert_found(&check(&config), "journal-0.damaged-12 is a damaged journal", false);
    }
}
