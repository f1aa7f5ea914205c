//! Checks of the two directories that mailslot writes to: the mail directory and the spool.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getegid, geteuid};

use super::privilege::{self, FileOwner, group_name};
use super::{advice, evidence, problem, user_name};
use crate::config::{Config, NameSet};
use crate::deliver::JOURNAL_SEGMENT;
use crate::process::privilege::Account;
use crate::relay::hand_over::{HAND_OVER_DIRECTORY, HAND_OVER_MODE};
use crate::resolver::Problem;

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

/// Returns the reasons why the spool cannot be used. It must exist and be writable, and must not be
/// the mail directory. It must not be writable by others, because the server trusts its files.
pub fn explain_spool(config: &Config) -> Vec<Problem> {
    let path = &config.spool;
    let shown = path.display();
    let owner = privilege::expected_owner(config);
    let fix = may_change("spool", path, evidence::is_spool(config, path));
    // Users connect to the sockets in it, and leave messages in it. They cannot list it.
    let is_shared = config.users == NameSet::System || config.hand_over;
    let mode = if is_shared { 0o711 } else { 0o700 };
    let mut found = Vec::from_iter(check_directory("spool", path, config, &fix, &owner, mode));
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

/// Checks that every user can leave messages in the hand-over directory, and that only the server
/// can list and read them.
pub fn check_hand_over(config: &Config) -> Vec<Problem> {
    let spool = &config.spool;
    let Ok(spool_meta) = fs::metadata(spool) else { return Vec::new() };
    // Otherwise the programs of other users have no use for it.
    if !config.hand_over || config.inetd || config.users != NameSet::System {
        return Vec::new();
    }
    let mut found = Vec::new();
    if spool_meta.mode() & 0o001 == 0 {
        let shown = spool.display();
        found.push(advice(
            format!("users cannot leave mail in {shown} while the server does not run"),
            &format!("chmod 0711 {shown}  # or set hand-over off"),
        ));
    }
    let path = spool.join(HAND_OVER_DIRECTORY);
    let shown = path.display();
    let owner = privilege::expected_owner(config);
    let account = privilege::run_account(config);
    let account = account.map(|account| (account.uid, account.gid));
    let (uid, gid) = account.unwrap_or_else(|| (geteuid(), getegid()));
    match fs::symlink_metadata(&path) {
        // The first start creates it, if it may; the systemd unit does not allow that.
        Err(e) if e.kind() == ErrorKind::NotFound => {
            if has_journal(spool) {
                found.push(advice(
                    format!("{shown} does not exist, and the server could not create it"),
                    &format!("{} {shown}", owner.install_command(HAND_OVER_MODE)),
                ));
            }
        }
        Err(e) => found.push(advice(format!("{shown}: {e}"), "make it accessible")),
        Ok(meta) if !meta.is_dir() => found.push(advice(
            format!("{shown} is not a directory"),
            "remove it, and start the server again",
        )),
        Ok(meta)
            if (meta.uid(), meta.gid()) != (uid.as_raw(), gid.as_raw())
                || meta.mode() & 0o7777 != HAND_OVER_MODE =>
        {
            found.push(advice(
                format!(
                    "{shown} (owner {}:{}, mode {:o}) is not used, because it must belong to \
                     {owner} and have mode {HAND_OVER_MODE:o}",
                    meta.uid(),
                    meta.gid(),
                    meta.mode() & 0o7777,
                ),
                &format!("chown {owner} {shown} && chmod {HAND_OVER_MODE:o} {shown}"),
            ));
        }
        Ok(meta) if meta.dev() != spool_meta.dev() => found.push(advice(
            format!("{shown} is on another file system than {}", spool.display()),
            "unmount it, because its free space is that of the spool",
        )),
        Ok(_) => {}
    }
    found
}

/// True if a server has run with this spool.
fn has_journal(spool: &Path) -> bool {
    let mut files = fs::read_dir(spool).into_iter().flatten().flatten();
    files.any(|file| file.file_name().as_encoded_bytes().starts_with(b"journal-"))
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
    fn hand_over_directory_has_its_owner_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let spool = dir.path().join("spool");
        let path = spool.join(HAND_OVER_DIRECTORY);
        let config = |words: &[&str]| {
            let spool = spool.to_str().unwrap();
            config(&[&["-n", "a.b", "-S", spool], words].concat(), &host_named("a"))
        };
        let chmod = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(check_hand_over(&config(&[])), []);
        fs::create_dir(&spool).unwrap();
        chmod(&spool, 0o700);
        assert_found(&check_hand_over(&config(&[])), "users cannot leave mail in", false);
        assert_eq!(check_hand_over(&config(&[])).len(), 1);
        fs::write(spool.join("journal-0"), "").unwrap();
        assert_found(&check_hand_over(&config(&[])), "does not exist", false);
        chmod(&spool, 0o711);
        fs::create_dir(&path).unwrap();
        for mode in [0o700, 0o733, 0o1733, 0o3777, 0o3753] {
            chmod(&path, mode);
            assert_found(&check_hand_over(&config(&[])), "is not used", false);
        }
        for off in [&["--hand-over", "off"][..], &["--inetd"], &["-u", "al"]] {
            assert_eq!(check_hand_over(&config(off)), []);
        }
        chmod(&path, HAND_OVER_MODE);
        // Root would become another user, which does not own the directory.
        let owned = if geteuid().is_root() { config(&["--run-as", "root"]) } else { config(&[]) };
        assert_eq!(check_hand_over(&owned), []);
    }

    #[test]
    fn low_space_is_advice() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_space("spool", dir.path(), 0), None);
        let all = Vec::from_iter(check_space("spool", dir.path(), u64::MAX));
        assert_found(&all, "are free", false);
    }
}
