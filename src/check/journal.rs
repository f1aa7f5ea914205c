//! Checks the spool: journals of processes that are gone, and files of other users.
//!
//! No journal is locked, because a server that starts at the same moment must not find it taken.

use std::fs;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::{advice, privilege, problem};
use crate::config::Config;
use crate::deliver::disk::HostDisk;
use crate::deliver::journal::{self, OrphanSummary};
use crate::observe::quote::quoted;
use crate::process::privilege::Account;
use crate::route::Problem;

/// Returns the problems of the journals.
pub fn check(config: &Config) -> Vec<Problem> {
    let disk = HostDisk::default();
    // Another check reports a directory that is missing or unreadable.
    let Ok(journals) = journal::list(&disk, &config.spool) else { return Vec::new() };
    let account = privilege::run_account(config);
    let mut found = Vec::new();
    for path in journals {
        let shown = path.display();
        if !may_use(&path, account.as_ref()) {
            let name = privilege::account_name(account.as_ref());
            found.push(problem(
                format!(
                    "journal {shown} cannot be opened by {name}: the server ran as another user \
                     before"
                ),
                &format!(
                    "chown {} {shown} && chmod 0600 {shown}",
                    privilege::expected_owner(config)
                ),
            ));
            continue;
        }
        match journal::inspect(&disk, &path) {
            Ok(None | Some(OrphanSummary { messages: 0, .. })) => {}
            Ok(Some(OrphanSummary { pid, messages })) => {
                let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                let plural = if messages == 1 { "" } else { "s" };
                found.push(advice(
                    format!(
                        "journal {shown} was left by a process that is gone{pid}, with {messages} \
                         message{plural} in it"
                    ),
                    "none needed: the next start makes sure that they are in their mailboxes",
                ));
            }
            Err(e) => found.push(problem(
                format!("journal {shown} cannot be read: {}", quoted(e)),
                "check the disk; mail that is only in this journal is lost if you delete it",
            )),
        }
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
