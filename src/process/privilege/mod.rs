//! The privileges of the process, and the user identity under which it accesses mailboxes.
//!
//! A process started as root opens the sockets and keys that need root, then switches to the
//! `--run-as` user irrevocably. One thread, the writer, keeps two capabilities: CAP_SETUID and
//! CAP_SETGID. With them it impersonates the recipient: it sets the recipient's *file-system
//! identity* (setfsuid, setfsgid) for the few calls that open, create or remove a mailbox. The
//! kernel then checks the recipient's permissions, even if an attacker has put files into the mail
//! directory, and counts the mailbox against the recipient's quota.
//!
//! ```text
//! started                drop_privileges()            drop_capabilities(), in all other threads
//! as root            ->  run-as user, the two kept -> none
//! with both, ambient ->  same user, the two kept   -> none
//! with neither       ->  same user, none
//! ```
//! Capabilities, `no_new_privs` and file-system identities belong to a *thread*, and new threads
//! inherit them. [`drop_privileges`] must therefore precede the first thread, and
//! [`drop_capabilities`] every thread but the writer. The user changes for the whole process.
//!
//! On other systems a server that writes users' mailboxes must stay root; it gives a new mailbox to
//! its owner. `linux.rs` and `other.rs` have the system calls.
//!
//! **Uid 0 is never impersonated**, because its file-system identity can access every file. Root's
//! mailbox is written with the process's own permissions, on Debian those of group mail.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "other.rs")]
mod sys;

use std::fmt;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, geteuid};

pub use sys::{
    ImpersonationGuard, Impersonator, become_service, drop_capabilities, drop_privileges,
};

/// The value of `--run-as`, `USER[:GROUP]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// The user: a name, or a uid.
    pub user: String,
    /// The group's name; None for the user's own group.
    pub group: Option<String>,
}

impl RunAs {
    /// Returns the shell command that creates the user.
    pub fn useradd_command(&self) -> String {
        let group = self.group.as_ref().map(|group| format!(" --gid {group}")).unwrap_or_default();
        format!(
            "useradd --system{group} --no-create-home --home-dir /nonexistent \
             --shell /usr/sbin/nologin {}",
            self.user
        )
    }

    /// Looks up the user and the group.
    ///
    /// # Errors
    /// One of them does not exist, or the lookup failed.
    pub fn look_up(&self) -> Result<Account, AccountError> {
        let RunAs { user, group } = self;
        let failed = |e: Errno| AccountError::Lookup(self.clone(), e);
        let found = match user.parse() {
            Ok(uid) => User::from_uid(Uid::from_raw(uid)),
            Err(_) => User::from_name(user),
        };
        let found = found.map_err(failed)?.ok_or_else(|| AccountError::NoUser(self.clone()))?;
        let gid = match group {
            None => found.gid,
            Some(group) => match Group::from_name(group).map_err(failed)? {
                Some(found) => found.gid,
                None => return Err(AccountError::NoGroup(self.clone())),
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
    /// The name in the configuration: `USER[:GROUP]`.
    pub name: String,
    /// The user's id.
    pub uid: Uid,
    /// The group's id.
    pub gid: Gid,
}

/// The reason why there is no [`Account`] for a [`RunAs`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountError {
    /// The user does not exist.
    NoUser(RunAs),
    /// The group does not exist.
    NoGroup(RunAs),
    /// The lookup failed.
    Lookup(RunAs, Errno),
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccountError::NoUser(run_as) => write!(
                f,
                "run-as {run_as}: there is no user {}; create it with `{}`, or choose another \
                 with --run-as",
                run_as.user,
                run_as.useradd_command()
            ),
            AccountError::NoGroup(run_as) => {
                let group = run_as.group.as_deref().unwrap_or_default();
                write!(f, "run-as {run_as}: there is no group {group}")
            }
            AccountError::Lookup(run_as, e) => write!(f, "run-as {run_as}: {}", e.desc()),
        }
    }
}

impl std::error::Error for AccountError {}

/// The privileges of a process when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPrivileges {
    /// Root, with CAP_SETUID and CAP_SETGID: it can become any user.
    Root,
    /// Another user with CAP_SETUID and CAP_SETGID: it can impersonate recipients.
    Capable,
    /// No privileges beyond those of its user and groups.
    Unprivileged,
}

impl StartPrivileges {
    /// Returns the privileges of the calling thread.
    pub fn of_this_process() -> StartPrivileges {
        match (sys::can_impersonate(), geteuid().is_root()) {
            (true, true) => StartPrivileges::Root,
            (true, false) => StartPrivileges::Capable,
            (false, _) => StartPrivileges::Unprivileged,
        }
    }
}
