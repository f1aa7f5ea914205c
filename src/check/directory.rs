//! Checks of the two directories that mailslot writes to: the mail directory and the spool.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::privilege::{self, FileOwner};
use super::{advice, problem};
use crate::config::{Config, NameSet};
use crate::deliver::JOURNAL_SEGMENT;
use crate::process::privilege::Account;
use crate::route::Problem;

/// Checks that the mail directory exists, is writable, and does not let users remove the mailboxes
/// of others.
pub fn check_mail_dir(config: &Config) -> Vec<Problem> {
    let path = &config.mail_dir;
    let shown = path.display();
    // Mailboxes that belong to the users of the system are created with the users' permissions.
    let (owner, mode) = match config.users {
        NameSet::System => (FileOwner::of_shared_mail_dir(), 0o2775),
        NameSet::Listed(_) | NameSet::Any => (privilege::expected_owner(config), 0o700),
    };
    let mut found = Vec::from_iter(check_directory("mail-dir", path, config, &owner, mode));
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
        && meta.mode() & 0o1002 == 0o002
    {
        found.push(advice(
            format!("mail-dir {shown} lets any user remove any mailbox"),
            &format!("chmod +t {shown}"),
        ));
    }
    found.extend(check_space("mail-dir", path, config.size_max));
    found
}

/// Checks that the spool exists, is writable, is not writable by others, because its files are
/// believed, and is not the mail directory.
pub fn check_spool(config: &Config) -> Vec<Problem> {
    let path = &config.spool;
    let shown = path.display();
    let mut found = Vec::from_iter(check_directory(
        "spool",
        path,
        config,
        &privilege::expected_owner(config),
        // Users connect to the sockets in it. They cannot list it.
        if config.users == NameSet::System { 0o711 } else { 0o700 },
    ));
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
    {
        if meta.mode() & 0o022 != 0 {
            found.push(problem(
                format!("spool {shown} is writable by others"),
                &format!("chmod go-w {shown}"),
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
    found.extend(check_space("spool", path, 2 * JOURNAL_SEGMENT + config.size_max));
    found
}

/// Checks that files can be created in a directory. A fix gives it to `owner`, with `mode`.
fn check_directory(
    option: &str,
    path: &Path,
    config: &Config,
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
            &format!("chmod o+x {ancestor}"),
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
                meta.uid(),
                meta.gid(),
                meta.mode() & 0o7777,
            ),
            &format!("chown {owner} {shown} && chmod {mode:04o} {shown}"),
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
        assert_found(&check_mail_dir(&at("none")), "does not exist", true);
        assert_found(&check_spool(&at("none")), "does not exist", true);
        fs::write(dir.path().join("file"), "").unwrap();
        assert_found(&check_mail_dir(&at("file")), "is not a directory", true);
        let path = dir.path().join("dir");
        fs::create_dir(&path).unwrap();
        for (mode, in_mail, in_spool) in
            [(0o700, 0, 0), (0o2775, 0, 1), (0o1777, 0, 1), (0o777, 1, 1), (0o755, 0, 0)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_mail_dir(&at("dir")).len(), in_mail, "{mode:o}");
            let found = check_spool(&at("dir"));
            assert_found(&found, "is the mail directory too", true);
            assert_eq!(found.len(), 1 + in_spool, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
        assert_found(&check_mail_dir(&at("dir")), "is not writable by", true);
    }

    #[test]
    fn low_space_is_advice() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_space("spool", dir.path(), 0), None);
        let all = Vec::from_iter(check_space("spool", dir.path(), u64::MAX));
        assert_found(&all, "are free", false);
    }
}
