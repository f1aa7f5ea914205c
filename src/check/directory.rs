//! What is wrong with the two folders mailslot writes to: the mail folder and its spool.

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
use crate::route::AliasProblem;

/// The folder of the mailboxes: there, ours to write, and nobody else's to play with.
pub fn check_mail_dir(config: &Config) -> Vec<AliasProblem> {
    let path = &config.mail_dir;
    let shown = path.display();
    // Where each mailbox is a user's own, users must be able to make them.
    let (owner_of, mode) = match config.users {
        NameSet::System => (FileOwner::of_shared_mail_dir(), 0o2775),
        NameSet::Listed(_) | NameSet::Any => (privilege::expected_owner(config), 0o700),
    };
    let mut found = Vec::from_iter(check_directory("mail-dir", path, config, &owner_of, mode));
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
        && meta.mode() & 0o1002 == 0o002
    {
        found.push(advice(
            format!("mail-dir {shown} lets everybody remove everybody's mailbox"),
            &format!("chmod +t {shown}"),
        ));
    }
    found.extend(check_space("mail-dir", path, config.size_max));
    found
}

/// The folder of our own files, which hold mail on its way.
pub fn check_spool(config: &Config) -> Vec<AliasProblem> {
    let path = &config.spool;
    let shown = path.display();
    let mut found = Vec::from_iter(check_directory(
        "spool",
        path,
        config,
        &privilege::expected_owner(config),
        0o700,
    ));
    if let Ok(meta) = fs::metadata(path)
        && meta.is_dir()
        && meta.mode() & 0o022 != 0
    {
        found.push(advice(
            format!("spool {shown} can be written to by others"),
            &format!("chmod go-w {shown}"),
        ));
    }
    found.extend(check_space("spool", path, 2 * JOURNAL_SEGMENT + config.size_max));
    found
}

/// What is wrong with a folder that we must be able to make files in; it would better be
/// `owner_of`'s, with `mode`.
fn check_directory(
    option: &str,
    path: &Path,
    config: &Config,
    owner_of: &FileOwner,
    mode: u32,
) -> Option<AliasProblem> {
    let shown = path.display();
    let account = privilege::run_account(config);
    let who = privilege::account_name(account.as_ref());
    if let Some(closed) = account.as_ref().and_then(|account| inaccessible_ancestor(path, account))
    {
        let closed = closed.display();
        return Some(problem(
            format!("{option} {shown} cannot be reached by {who}: {closed} is closed to it"),
            &format!("chmod o+x {closed}"),
        ));
    }
    let give = || format!("chown {owner_of} {shown} && chmod {mode:04o} {shown}");
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Some(problem(
            format!("{option} {shown} is not there"),
            &format!("{} {shown}", owner_of.install_command(mode)),
        )),
        Err(e) => Some(problem(format!("{option} {shown}: {e}"), "make it accessible")),
        Ok(meta) if !meta.is_dir() => {
            Some(problem(format!("{option} {shown} is no folder"), &format!("correct {option}")))
        }
        Ok(meta) if privilege::may_write(path, &meta, account.as_ref()) => None,
        Ok(meta) => Some(problem(
            format!(
                "{option} {shown} (owner {}:{}, mode {:o}) cannot be written to by {who}",
                meta.uid(),
                meta.gid(),
                meta.mode() & 0o7777,
            ),
            &give(),
        )),
    }
}

/// The first folder on the way to `path` that `account` cannot pass.
fn inaccessible_ancestor<'a>(path: &'a Path, account: &Account) -> Option<&'a Path> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|p| p.is_absolute()).collect();
    above.reverse();
    let closed = |meta: &Metadata| meta.is_dir() && !privilege::has_permission(meta, account, 0o1);
    above.into_iter().find(|directory| fs::metadata(directory).is_ok_and(|meta| closed(&meta)))
}

/// A file system that takes no more mail, or soon will not.
fn check_space(option: &str, path: &Path, wanted: u64) -> Option<AliasProblem> {
    let stat = statvfs(path).ok()?;
    let shown = path.display();
    if stat.flags().contains(FsFlags::ST_RDONLY) {
        return Some(problem(
            format!("{option} {shown} is on a file system that is mounted read-only"),
            &format!("look into the kernel's log for why, then: mount -o remount,rw, for {shown}"),
        ));
    }
    // The types of both differ between systems.
    #[allow(clippy::useless_conversion)]
    let free = u64::from(stat.blocks_available()).saturating_mul(u64::from(stat.fragment_size()));
    (free < wanted).then(|| {
        let (free, wanted) = (free >> 20, wanted >> 20);
        let what = format!("{option} {shown}: {free} MiB are free, and {wanted} may be needed");
        let fix = "make room on that file system, or put the folder on another";
        if free == 0 { problem(what, fix) } else { advice(what, fix) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, host_named};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn folders_are_there_and_ours() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            let path = path.to_str().unwrap();
            config(&["-u", "al", "-n", "a.b", "-m", path, "-S", path], &host_named("a"))
        };
        assert_found(&check_mail_dir(&at("none")), "is not there", true);
        assert_found(&check_spool(&at("none")), "is not there", true);
        fs::write(dir.path().join("file"), "").unwrap();
        assert_found(&check_mail_dir(&at("file")), "is no folder", true);
        let path = dir.path().join("dir");
        fs::create_dir(&path).unwrap();
        for (mode, in_mail, in_spool) in
            [(0o700, 0, 0), (0o2775, 0, 1), (0o1777, 0, 1), (0o777, 1, 1), (0o755, 0, 0)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(check_mail_dir(&at("dir")).len(), in_mail, "{mode:o}");
            assert_eq!(check_spool(&at("dir")).len(), in_spool, "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o500)).unwrap();
        assert_found(&check_mail_dir(&at("dir")), "cannot be written to", true);
    }

    #[test]
    fn space_is_told_before_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_space("spool", dir.path(), 0), None);
        let all = Vec::from_iter(check_space("spool", dir.path(), u64::MAX));
        assert_found(&all, "are free", false);
    }
}
