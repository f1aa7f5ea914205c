//! Checks of privileges: the user that the server would run as, and its permissions.
//!
//! The rehearsal runs with the server's identity. The rules here evaluate the permission bits, to
//! explain the errors that it found. They do so for a server that stays root too, because it drops
//! the capability to override them.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{AccessFlags, Gid, Group, Uid, User, access, getegid, geteuid};

use super::{advice, evidence, problem, user_name};
use crate::config::{Config, NameSet};
use crate::process::privilege::{Account, AccountError, RunAs, StartPrivileges};
use crate::resolver::{AddressResolver, LocalResolver, Problem};
use crate::smtp::{ForwardPath, Mailbox};

/// Describes the identity that the server would run with.
pub fn run_identity(config: &Config) -> String {
    let name = user_name(geteuid());
    let identity = match (StartPrivileges::of_this_process(), &config.run_as) {
        (StartPrivileges::Root, Some(run_as)) => format!("root, becomes {run_as}"),
        (StartPrivileges::Root, None) => "root, stays root".to_owned(),
        (StartPrivileges::Capable, _) => format!("{name} with CAP_SETUID and CAP_SETGID"),
        (StartPrivileges::Unprivileged, _) => {
            format!("{name} without CAP_SETUID and CAP_SETGID")
        }
    };
    let mailboxes = match (&config.users, StartPrivileges::of_this_process()) {
        (NameSet::System, StartPrivileges::Unprivileged) => "writes mailboxes as itself",
        (NameSet::System, _) => "writes each mailbox as its owner",
        _ => "owns all mailboxes",
    };
    format!("{identity}; {mailboxes}")
}

/// Returns the account that the server would run as; None for the user of this process.
pub fn run_account(config: &Config) -> Option<Account> {
    let root = || Account { name: "root".to_owned(), uid: Uid::from_raw(0), gid: getegid() };
    match (StartPrivileges::of_this_process(), &config.run_as) {
        (StartPrivileges::Root, Some(run_as)) => run_as.look_up().ok(),
        (StartPrivileges::Root, None) => Some(root()),
        (StartPrivileges::Capable | StartPrivileges::Unprivileged, _) => None,
    }
}

/// Returns the name of `account`, or the uid of this process.
pub fn account_name(account: Option<&Account>) -> String {
    account.map_or_else(|| user_name(geteuid()), |account| account.name.clone())
}

/// Returns the name of the group `gid`, or the number if there is no such group.
pub fn group_name(gid: Gid) -> String {
    Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}

/// The owner that a directory should have, by name, because the user may not exist yet.
#[derive(Debug)]
pub struct FileOwner {
    user: String,
    group: Option<String>,
}

impl FileOwner {
    /// Returns the owner of a mail directory in which users create their own mailboxes.
    pub fn of_shared_mail_dir() -> FileOwner {
        FileOwner { user: "root".to_owned(), group: Some("mail".to_owned()) }
    }

    /// Returns the command that creates a directory with this mode, without the path at its end.
    pub fn install_command(&self, mode: u32) -> String {
        let group = self.group.as_ref().map(|group| format!(" -g {group}")).unwrap_or_default();
        format!("install -d -o {}{group} -m {mode:04o}", self.user)
    }
}

impl fmt::Display for FileOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

/// Returns the owner that mailslot's own directories should have: the user that the server would
/// run as.
pub fn expected_owner(config: &Config) -> FileOwner {
    if let (StartPrivileges::Root, Some(RunAs { user, group })) =
        (StartPrivileges::of_this_process(), &config.run_as)
    {
        return FileOwner { user: user.clone(), group: group.clone() };
    }
    let (uid, gid) = (geteuid(), getegid());
    let user = User::from_uid(uid).ok().flatten().map(|user| user.name);
    FileOwner { user: user.unwrap_or_else(|| uid.to_string()), group: Some(group_name(gid)) }
}

/// True if `account` may create files in the directory at `path`, described by `meta`.
pub fn may_write(path: &Path, meta: &Metadata, account: Option<&Account>) -> bool {
    match account {
        Some(account) => has_permission(meta, account, 0o3),
        None => access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
    }
}

/// Returns the reasons why the server cannot become its user, or that user cannot read a file.
/// A service, as which the start was rehearsed, never reads a file as root.
pub fn explain_start(config: &Config, by_service: bool) -> Vec<Problem> {
    let mut found = Vec::from_iter(config.run_as.as_ref().and_then(explain_run_as));
    if let (Some(tls), Some(account)) = (&config.tls, run_account(config)) {
        found.extend(explain_file("tls-cert", &tls.cert, &account, by_service));
        found.extend(explain_file("tls-key", &tls.key, &account, by_service));
    }
    found
}

/// Checks the user to run as, and its access to mailboxes.
pub fn check(config: &Config, resolver: &LocalResolver) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(Ok(account)) = config.run_as.as_ref().map(RunAs::look_up)
        && account.uid.is_root()
    {
        found.push(advice(
            "run-as root: a vulnerability would give root access".to_owned(),
            "set run-as to a user without other privileges",
        ));
    }
    if config.users == NameSet::System {
        match StartPrivileges::of_this_process() {
            StartPrivileges::Unprivileged => found.push(problem(
                format!("{} cannot write to the mailboxes of other users", user_name(geteuid())),
                "start as root, or with CAP_SETUID and CAP_SETGID (AmbientCapabilities= of \
                 systemd), or list the users with the option user",
            )),
            StartPrivileges::Root | StartPrivileges::Capable => {
                found.extend(check_user_access(config));
                found.extend(check_mail_for_root(config, resolver));
            }
        }
    }
    found
}

/// Returns the reason why the process cannot become the `--run-as` account.
fn explain_run_as(run_as: &RunAs) -> Option<Problem> {
    let (start, uid) = (StartPrivileges::of_this_process(), geteuid());
    match run_as.look_up() {
        Err(AccountError::NoUser(run_as)) => Some(problem(
            format!("run-as {run_as}: there is no user {}", run_as.user),
            &format!("{}  # or choose another with run-as", run_as.useradd_command()),
        )),
        Err(e) => Some(problem(e.to_string(), "correct run-as")),
        Ok(account) if start != StartPrivileges::Root && account.uid != uid => Some(problem(
            format!(
                "run-as {run_as}: only root can become another user, and this is {}",
                user_name(uid)
            ),
            "start as root, or remove run-as",
        )),
        Ok(_) => None,
    }
}

/// Returns the reason why `account` cannot read `file` of `option`: when the service starts, or for
/// a server that is started by root, when HUP is sent.
fn explain_file(option: &str, file: &Path, account: &Account, by_service: bool) -> Option<Problem> {
    let obstacle = obstacle(file, account)?;
    let (shown, name) = (file.display(), &account.name);
    let fix = certbot_hook(option, file).unwrap_or_else(|| {
        let group = group_name(account.gid);
        let restart = if by_service { "" } else { ", or restart after a renewal" };
        format!(
            "let group {group} read it, or have a copy made for mailslot \
             (contrib/certbot/mailslot){restart}"
        )
    });
    Some(if by_service {
        problem(format!("{option} {shown} cannot be read by {name}: {obstacle}"), &fix)
    } else {
        let when = "is read at the start, but not again on HUP,";
        advice(format!("{option} {shown} {when} by {name}: {obstacle}"), &fix)
    })
}

/// Returns the reason why `account` cannot read `file`: the mode of a directory above the file, or
/// above the file that a link leads to, or its own mode.
fn obstacle(file: &Path, account: &Account) -> Option<String> {
    let real = fs::canonicalize(file).ok()?;
    let directories = [file, &real].map(|path| path.ancestors().skip(1).collect::<Vec<_>>());
    for directory in directories.iter().flat_map(|above| above.iter().rev()) {
        let Ok(meta) = fs::metadata(directory) else { continue };
        if !has_permission(&meta, account, 0o1) {
            let mode = meta.mode() & 0o7777;
            return Some(format!("the directory {} has mode {mode:o}", directory.display()));
        }
    }
    let meta = fs::metadata(&real).ok()?;
    (!has_permission(&meta, account, 0o4))
        .then(|| format!("it has mode {:o}", meta.mode() & 0o7777))
}

/// Returns the fix for a file of certbot, which keeps its directories and keys to root.
fn certbot_hook(option: &str, file: &Path) -> Option<String> {
    let mut below = file.strip_prefix(CERTBOT).ok()?.iter();
    let lineage = below.next()?.to_string_lossy();
    let name = below.next()?.to_string_lossy();
    let installed = if Path::new(HOOK).exists() { "" } else { "  # from contrib/certbot" };
    Some(format!(
        "set {option} to /etc/mailslot/tls/{lineage}/{name}, which the deploy hook of certbot \
         keeps up to date, and run it once: RENEWED_LINEAGE={CERTBOT}/{lineage} {HOOK}{installed}"
    ))
}

/// The directory of the certificates in use, and the deploy hook.
const CERTBOT: &str = "/etc/letsencrypt/live";
const HOOK: &str = "/etc/letsencrypt/renewal-hooks/deploy/mailslot";

/// Checks that users can create their own mailboxes in the mail directory.
fn check_user_access(config: &Config) -> Option<Problem> {
    let path = &config.mail_dir;
    let meta = fs::metadata(path).ok()?;
    if !meta.is_dir() {
        return None;
    }
    let mail = Group::from_name("mail").ok().flatten();
    let by_group = mail.is_some_and(|g| g.gid.as_raw() == meta.gid()) && bits(&meta, 3) & 3 == 3;
    let shown = path.display();
    (!by_group && bits(&meta, 0) & 3 != 3).then(|| {
        let fix = if evidence::is_mail_directory(config, path) {
            format!("chown root:mail {shown} && chmod 2775 {shown}")
        } else {
            format!("correct mail-dir, unless {shown} is the directory meant")
        };
        advice(format!("mail-dir {shown}: users without a mailbox cannot create one"), &fix)
    })
}

/// Checks that mail for root can be delivered, because root is never impersonated.
fn check_mail_for_root(config: &Config, resolver: &LocalResolver) -> Option<Problem> {
    let NameSet::Listed(domains) = &config.domains else { return None };
    let root = Mailbox::parse(&format!("root@{}", domains.first()?)).ok()?;
    let to = resolver.resolve(&ForwardPath::Mailbox(root)).ok()?;
    let roots = to.local.iter().find(|to| to.owner.is_some_and(|owner| owner.uid == 0))?;
    let path = config.mail_dir.join(roots.name.as_str());
    let writes = match (run_account(config), fs::metadata(&path)) {
        (Some(account), Ok(meta)) => has_permission(&meta, &account, 0o2),
        (Some(account), Err(_)) => account.uid.is_root(),
        (None, _) => access(&path, AccessFlags::W_OK).is_ok(),
    };
    (!writes).then(|| {
        problem(
            format!("mail for root is deferred, because only root may write {}", path.display()),
            "add an alias for root, or make that file 0660 root:mail",
        )
    })
}

/// True if the permission bits give `account` all of `wanted`: 4 to read, 2 to write, 1 to search.
pub fn has_permission(meta: &Metadata, account: &Account, wanted: u32) -> bool {
    let shift = match account {
        Account { uid, .. } if uid.as_raw() == meta.uid() => 6,
        Account { gid, .. } if gid.as_raw() == meta.gid() => 3,
        _ => 0,
    };
    bits(meta, shift) & wanted == wanted
}

fn bits(meta: &Metadata, shift: u32) -> u32 {
    meta.mode() >> shift & 7
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn permissions_are_those_of_owner_group_or_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let meta = |mode| {
            file.as_file().set_permissions(fs::Permissions::from_mode(mode)).unwrap();
            file.as_file().metadata().unwrap()
        };
        let ours = meta(0o600);
        let account = |uid: u32, gid: u32| Account {
            name: String::new(),
            uid: Uid::from_raw(uid),
            gid: gid.into(),
        };
        let owner = account(ours.uid(), ours.gid() + 1);
        let group = account(ours.uid() + 1, ours.gid());
        let other = account(ours.uid() + 1, ours.gid() + 1);
        for (mode, account, wanted, yes) in [
            (0o600, &owner, 0o2, true),
            (0o060, &owner, 0o2, false),
            (0o060, &group, 0o2, true),
            (0o606, &group, 0o2, false),
            (0o606, &other, 0o2, true),
            (0o660, &other, 0o2, false),
            (0o700, &owner, 0o3, true),
            (0o600, &owner, 0o3, false),
        ] {
            assert_eq!(has_permission(&meta(mode), account, wanted), yes, "{mode:o} {account:?}");
        }
    }
}
