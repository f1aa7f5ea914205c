//! `mailslot check` about privileges: as whom it would run, what that may, and what that may not.
//!
//! Whom root becomes is not asked, for check stays who it is: permissions are read off the bits. So
//! they are for root that stays root, since it gives up what sets it above them.

use std::fmt;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{AccessFlags, Group, Uid, User, access, getegid, geteuid};

use super::{advice, stops};
use crate::config::{Config, NameSet};
use crate::process::privilege::{Account, RunAs, Start};
use crate::route::{AliasProblem, LocalRoute, Route};
use crate::smtp::{ForwardPath, Mailbox};

/// As whom it would run, in words.
pub fn run_identity(config: &Config) -> String {
    let uid = geteuid();
    let who = match (Start::here(), &config.run_as) {
        (Start::Root, Some(run_as)) => format!("root, becomes {run_as}"),
        (Start::Root, None) => "root, stays root".to_owned(),
        (Start::Capable, _) => format!("uid {uid} with CAP_SETUID and CAP_SETGID"),
        (Start::Plain, _) => format!("uid {uid} without CAP_SETUID and CAP_SETGID"),
    };
    let owners = match (&config.users, Start::here()) {
        (NameSet::System, Start::Plain) => "writes to what its user and groups may",
        (NameSet::System, _) => "writes to each mailbox as its owner",
        _ => "owns all mailboxes",
    };
    format!("{who}; {owners}")
}

/// Whom it would run as; None: whoever asks.
pub fn account(config: &Config) -> Option<Account> {
    let stays = || Account { name: "root".to_owned(), uid: Uid::from_raw(0), gid: getegid() };
    match (Start::here(), &config.run_as) {
        (Start::Root, Some(run_as)) => run_as.find().ok(),
        (Start::Root, None) => Some(stays()),
        (Start::Capable | Start::Plain, _) => None,
    }
}

/// `account` for people.
pub fn name(account: Option<&Account>) -> String {
    account.map_or_else(|| format!("uid {}", geteuid()), |account| account.name.clone())
}

/// Whose a folder should be, for the cures: by name, whether there is such a user yet or not.
#[derive(Debug)]
pub struct FileOwner {
    user: String,
    group: Option<String>,
}

impl FileOwner {
    /// Of the mail folder of a host whose users make their own mailboxes.
    pub fn of_mail() -> FileOwner {
        FileOwner { user: "root".to_owned(), group: Some("mail".to_owned()) }
    }

    /// The command that makes a folder with this mode; its path goes behind.
    pub fn install(&self, mode: u32) -> String {
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

/// Whose the folders should be that only mailslot uses: whom it would run as.
pub fn owner_of(config: &Config) -> FileOwner {
    if let (Start::Root, Some(RunAs { user, group })) = (Start::here(), &config.run_as) {
        return FileOwner { user: user.clone(), group: group.clone() };
    }
    let (uid, gid) = (geteuid(), getegid());
    let user = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let group = Group::from_gid(gid).ok().flatten().map(|group| group.name);
    FileOwner {
        user: user.unwrap_or_else(|| uid.to_string()),
        group: Some(group.unwrap_or_else(|| gid.to_string())),
    }
}

/// Whether `account` may make files in the folder at `path`, which `meta` tells of.
pub fn may_write(path: &Path, meta: &Metadata, account: Option<&Account>) -> bool {
    match account {
        Some(account) => has(meta, account, 0o3),
        None => access(path, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
    }
}

/// Everything that is wrong.
pub fn problems(config: &Config, route: &LocalRoute) -> Vec<AliasProblem> {
    let mut found = Vec::new();
    let (start, uid) = (Start::here(), geteuid());
    if let Some(run_as) = &config.run_as {
        match run_as.find() {
            Err(_) if User::from_name(&run_as.user) == Ok(None) => found.push(stops(
                format!("run-as {run_as}: there is no user {}", run_as.user),
                &format!("{}  # or choose another with run-as", run_as.make()),
            )),
            Err(text) => found.push(stops(text, "correct run-as")),
            Ok(account) if start != Start::Root && account.uid != uid => found.push(stops(
                format!(
                    "run-as {run_as}: only root can become another user, and this is uid {uid}"
                ),
                "start as root, or take run-as out",
            )),
            Ok(account) if account.uid.is_root() => found.push(advice(
                "run-as root: a hole in mailslot would be a hole in the host".to_owned(),
                "let run-as name a user of its own",
            )),
            Ok(_) => {}
        }
    }
    if config.users == NameSet::System {
        match start {
            Start::Plain => found.push(stops(
                format!("uid {uid} cannot write to the mailboxes of other users"),
                "start as root, or with CAP_SETUID and CAP_SETGID (AmbientCapabilities= of \
                 systemd), or name the users with user: their mailboxes belong to who runs it",
            )),
            Start::Root | Start::Capable => {
                found.extend(not_for_users(&config.mail_dir));
                found.extend(mail_of_root(config, route));
            }
        }
    }
    if let (Some(tls), Some(account)) = (&config.tls, account(config)) {
        for (option, file) in [("tls-cert", &tls.cert), ("tls-key", &tls.key)] {
            let readable = fs::metadata(file).is_ok_and(|meta| has(&meta, &account, 0o4));
            if file.exists() && !readable {
                let (file, name, gid) = (file.display(), &account.name, account.gid);
                found.push(advice(
                    format!("{option} {file} is read at the start, but not again on HUP by {name}"),
                    &format!("chgrp {gid} {file} && chmod g+r {file}  # or restart to renew it"),
                ));
            }
        }
    }
    found
}

/// A folder in which users cannot make their own mailboxes.
fn not_for_users(path: &Path) -> Option<AliasProblem> {
    let meta = fs::metadata(path).ok().filter(Metadata::is_dir)?;
    let mail = Group::from_name("mail").ok().flatten();
    let by_group = mail.is_some_and(|g| g.gid.as_raw() == meta.gid()) && bits(&meta, 3) & 3 == 3;
    let shown = path.display();
    (!by_group && bits(&meta, 0) & 3 != 3).then(|| {
        advice(
            format!("mail-dir {shown}: users who have no mailbox yet cannot get one"),
            &format!("chown root:mail {shown} && chmod 2775 {shown}"),
        )
    })
}

/// Mail for root that could not be delivered, since nobody acts as root.
fn mail_of_root(config: &Config, route: &LocalRoute) -> Option<AliasProblem> {
    let NameSet::These(domains) = &config.domains else { return None };
    let root = Mailbox::parse(&format!("root@{}", domains.first()?)).ok()?;
    let to = route.resolve(&ForwardPath::Mailbox(root)).ok()?;
    let roots = to.local.iter().find(|to| to.owner.is_some_and(|owner| owner.uid == 0))?;
    let path = config.mail_dir.join(roots.mailbox.as_str());
    let writes = match (account(config), fs::metadata(&path)) {
        (Some(account), Ok(meta)) => has(&meta, &account, 0o2),
        (Some(account), Err(_)) => account.uid.is_root(),
        (None, _) => access(&path, AccessFlags::W_OK).is_ok(),
    };
    (!writes).then(|| {
        stops(
            format!("mail for root is put off: nobody acts as root to write {}", path.display()),
            "give root an alias, to whoever reads its mail; or make that file 0660 root:mail",
        )
    })
}

/// Whether `account` has all of `wanted` (4 to read, 2 to write, 1 to search) by the permission
/// bits.
pub fn has(meta: &Metadata, account: &Account, wanted: u32) -> bool {
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
            assert_eq!(has(&meta(mode), account, wanted), yes, "{mode:o} {account:?}");
        }
    }
}
