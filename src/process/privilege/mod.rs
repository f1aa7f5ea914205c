//! Who this process is, and as whom it touches mailboxes.
//!
//! Started as root it takes what only root may have (sockets, keys), then becomes another user for
//! good. What it keeps of root's powers are two, and only in one thread: the writer has
//! CAP_SETUID and CAP_SETGID, and with them takes the recipient's *file-system identity* (setfsuid,
//! setfsgid) for the few calls that open, create or remove a mailbox. The kernel then does the
//! checking: what the recipient may not write to is not written to, whatever is planted in the mail
//! folder, and what is written counts against the recipient's quota.
//!
//! ```text
//! started                     settle()                     forgo(), in all threads but the writer
//! as root                 ->  run-as user, the two left -> nothing left
//! with the two (ambient)  ->  same user, the two left   -> nothing left
//! with neither            ->  same user, nothing left
//! ```
//! Capabilities, `no_new_privs` and file-system identities belong to a *thread*, and new threads
//! inherit them: [`drop_privileges`] must come before the first thread is started, [`drop_capabilities`] before any that
//! is not the writer. The change of user is for the whole process.
//!
//! Only Linux has all of this. Elsewhere root that is to write to the mailboxes of others stays
//! root, and gives a new mailbox to its owner.
//!
//! **Nobody acts as uid 0.** Its file-system identity would be root's power over all files. Root's
//! mailbox is written to with the process's own rights, which group mail's are on Debian.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod sys;

use std::fmt;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, geteuid};

pub use sys::{ImpersonationGuard, Impersonator, drop_capabilities, drop_privileges};

/// `USER[:GROUP]`, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The user's name, or a number.
    pub user: String,
    /// The group's; None: the user's own.
    pub group: Option<String>,
}

impl RunAs {
    /// The command that makes such a user.
    pub fn useradd_command(&self) -> String {
        let group = self.group.as_ref().map(|group| format!(" --gid {group}")).unwrap_or_default();
        format!(
            "useradd --system{group} --no-create-home --home-dir /nonexistent \
             --shell /usr/sbin/nologin {}",
            self.user
        )
    }

    /// The account of that name.
    ///
    /// # Errors
    /// There is none, or it cannot be looked up; the text has the cure.
    pub fn look_up(&self) -> Result<Account, String> {
        let RunAs { user, group } = self;
        let failed = |e: Errno| format!("run-as {self}: {}", e.desc());
        let found = match user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(user),
        };
        let Some(found) = found.map_err(failed)? else {
            let make = self.useradd_command();
            return Err(format!(
                "run-as {self}: there is no user {user}; `{make}` makes one, or choose another \
                 with --run-as"
            ));
        };
        let gid = match group {
            None => found.gid,
            Some(group) => match Group::from_name(group).map_err(failed)? {
                Some(found) => found.gid,
                None => return Err(format!("run-as {self}: there is no group {group}")),
            },
        };
        Ok(Account { name: self.to_string(), uid: found.uid, gid })
    }
}

impl fmt::Display for RunAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.group {
            Some(group) => write!(f, "{}:{group}", self.user),
            None => f.write_str(&self.user),
        }
    }
}

/// A user and a group to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// As it was asked for.
    pub name: String,
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
}

/// What a process may do when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPrivileges {
    /// Become anybody.
    Root,
    /// Act as the recipients: it is not root, but has CAP_SETUID and CAP_SETGID.
    Capable,
    /// What its own user and groups may.
    Unprivileged,
}

impl StartPrivileges {
    /// Of the thread that asks.
    pub fn of_this_process() -> StartPrivileges {
        match (sys::can_impersonate(), geteuid().is_root()) {
            (true, true) => StartPrivileges::Root,
            (true, false) => StartPrivileges::Capable,
            (false, _) => StartPrivileges::Unprivileged,
        }
    }
}
