//! Checks of the two directories that mailslot writes to: the mail directory and the spool.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::privilege::{self, FileOwner, group_name};
use super::{advice, evidence, problem, user_name};
use crate::config::{Config, NameSet};
use crate::deliver::JOURNAL_SEGMENT;
use crate::process::privilege::Account;
use crate::route::Problem;

/// Returns the reason why the mail directory cannot be used.
pub fn explain_mail_dir(config: &Config) -> Option<Problem> {
    // Mailboxes that belong to the users of the system are created with the users' permissions.
    let (owner, mode) = match config.users {
        NameSet::System => (FileOwner::of_shared_mail_dir(), 0o2775),
        NameSet::Listed(_) | NameSet::Any => (privilege::expected_owner(config), 0o700),
    };
    let path = &config.mail_dir;
    let fix = may_change("mail-dir", path, evidence::is_mail_directory(config, path));
    check_directory("mail-dir", path, config, &fix, &owner, mode)
}

/// Checks that the mail directory does not let users remove the mailboxes of others, and has room.
pub fn check_mail_dir(config: &Config) -> Vec<Problem> {
    let path = &config.mail_dir;
    let shown = path.display();
    let mut found = Vec::new();
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
        && meta.mode() & 0o1002 == 0o002
    {
        found.push(advice(
            format!("mail-dir {shown} lets any user remove any mailbox"),
            &or_question(
                &may_change("mail-dir", path, evidence::is_mail_directory(config, path)),
                format!("chmod +t {shown}"),
            ),
        ));
    }
    found.extend(check_space("mail-dir", path, config.size_max));
    found
}

/// Returns the reasons why the spool cannot be used: it must exist, be writable, not be writable by
/// others, because its files are believed, and not be the mail directory.
pub fn explain_spool(config: &Config) -> Vec<Problem> {
    let path = &config.spool;
    let shown = path.display();
    let owner = privilege::expected_owner(config);
    let fix = may_change("spool", path, evidence::is_spool(config, path));
    let mut found = Vec::from_iter(check_directory("spool", path, config, &fix, &owner, 0o700));
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
    {
        if meta.mode() & 0o022 != 0 {
            found.push(problem(
                format!("spool {shown} is writable by others"),
                &or_question(&fix, format!("chmod go-w {shown}")),
            ));
        }
        let id = |meta: &Metadata| (meta.dev(), meta.ino());
        if fs::metadata(&config.mail_dir).is_ok_and(|mail| id(&mail) == id(&meta)) {
            found.push(problem(
                format!("spool {shown} is the mail directory too"),
                "correct spool or mail-dir",
            ));
        }
    }
    found
}

/// Checks that the spool has room.
pub fn check_spool(config: &Config) -> Option<Problem> {
    check_space("spool", &config.spool, 2 * JOURNAL_SEGMENT + config.size_max)
}

/// Returns a question instead of a fix if it is not evident that `path` is the directory meant.
fn may_change(option: &str, path: &Path, is_evident: bool) -> Option<String> {
    let shown = path.display();
    let question = || {
        format!(
            "is {shown} the directory meant? It has another purpose, as it seems; then correct \
             {option}"
        )
    };
    (!is_evident).then(question)
}

/// Returns the question if there is one, or else `fix`.
fn or_question(question: &Option<String>, fix: String) -> String {
    question.clone().unwrap_or(fix)
}

/// Checks that files can be created in a directory. A fix gives it to `owner`, with `mode`, unless
/// there is a `question`.
fn check_directory(
    option: &str,
    path: &Path,
    config: &Config,
    question: &Option<String>,
    owner: &FileOwner,
    mode: u32,
) -> Option<Problem> {
    let shown = path.display();
    let account = privilege::run_account(config);
    let user = privilege::account_name(account.as_ref());
    let ancestor = account.as_ref().and_then(|account| inaccessible_ancestor(path, account));
    if let Some(ancestor) = ancestor {
        let ancestor = ancestor.display();
        return Some(problem(
            format!("{option} {shown} cannot be reached: {ancestor} is not searchable by {user}"),
            &format!("let {user} search {ancestor}, or choose another {option}"),
        ));
    }
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Some(problem(
            format!("{option} {shown} does not exist"),
            &format!("{} {shown}", owner.install_command(mode)),
        )),
        Err(e) => Some(problem(format!("{option} {shown}: {e}"), "make it accessible")),
        Ok(meta) if !meta.is_dir() => Some(problem(
            format!("{option} {shown} is not a directory"),
            &format!("correct {option}"),
        )),
        Ok(meta) if privilege::may_write(path, &meta, account.as_ref()) => None,
        Ok(meta) => Some(problem(
            format!(
                "{option} {shown} (owner {}:{}, mode {:o}) is not writable by {user}",
                user_name(meta.uid().into()),
                group_name(meta.gid().into()),
                meta.mode() & 0o7777,
            ),
            &or_question(question, format!("chown {owner} {shown} && chmod {mode:04o} {shown}")),
        )),
    }
}

/// Returns the first directory on the path to `path` that `account` cannot search.
fn inaccessible_ancestor<'a>(path: &'a Path, account: &Account) -> Option<&'a Path> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|p| p.is_absolute()).collect();
    above.reverse();
    let closed = |meta: &Metadata| meta.is_dir() && !privilege::has_permission(meta, account, 0o1);
    above.into_iter().find(|directory| fs::metadata(directory).is_ok_and(|meta| closed(&meta)))
}

/// Checks that the file system of `path` is writable and has `wanted` bytes free.
fn check_space(option: &str, path: &Path, wanted: u64) -> Option<Problem> {
    let stat = statvfs(path).ok()?;
    let shown = path.display();
    if stat.flags().contains(FsFlags::ST_RDONLY) {
        return Some(problem(
            format!("{option} {shown} is on a file system that is mounted read-only"),
            &format!("find the cause in the kernel log, then mount -o remount,rw, for {shown}"),
        ));
    }
    // The types of both fields differ between systems.
    #[allow(clippy::useless_conversion)]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    (free < wanted).then(|| {
        let (free, wanted) = (free >> 20, wanted >> 20);
        let what = format!("{option} {shown}: {free} MiB are free, but {wanted} may be needed");
        let fix = "free space on that file system, or move the directory to another";
        if free == 0 { problem(what, fix) } else { advice(what, fix) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, host_named};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn directories_exist_and_are_writable() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            let path = path.to_str().unwrap();
            config(&["-u", "al", "-n", "a.b", "-m", path, "-S", path], &host_named("a"))
        };
        assert_found(&Vec::from_iter(explain_mail_dir(&at("none"))), "does not exist", true);
        assert_found(&explain_spool(&at("none")), "does not exist", true);
        fs::write(dir.path().join("file"), "").unwrap();
        assert_found(&Vec::from_iter(explain_mail_dir(&at("file"))), "is not a directory", true);
        let path = dir.path().join("dir");
        fs::create_dir(&path).unwrap();
        for (mode, in_mail, in_spool) in
            [(0o700, 0, 0), (0o2775, 0, 1), (0o1777, 0, 1), (0o777, 1, 1), (0o755, 0, 0)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_mail_dir(&at("dir")).len(), in_mail, "{mode:o}");
            let found = explain_spool(&at("dir"));
            assert_found(&found, "is the mail directory too", true);
            assert_eq!(found.len(), 1 + in_spool, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
        assert_found(&Vec::from_iter(explain_mail_dir(&at("dir"))), "is not writable by", true);
    }

    #[test]
    fn low_space_is_advice() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_space("spool", dir.path(), 0), None);
        let all = Vec::from_iter(check_space("spool", dir.path(), u64::MAX));
        assert_found(&all, "are free", false);
    }
}
