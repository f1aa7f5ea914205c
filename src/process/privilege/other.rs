//! Privileges on systems without capabilities: root has them all, other users have none.

use std::io;

use nix::unistd::{Gid, Uid, geteuid, setgid, setuid};

use super::Account;

/// Switches to `account` irrevocably, with `groups` as supplementary groups. If
/// `keep_impersonation`, stays root, because writing users' mailboxes needs root here.
///
/// # Errors
/// The system refused. The process must then exit.
pub fn drop_privileges(
    account: Option<&Account>,
    groups: &[Gid],
    keep_impersonation: bool,
) -> io::Result<()> {
    match account {
        Some(Account { uid, gid, .. }) if !keep_impersonation => {
            #[cfg(not(target_vendor = "apple"))]
            nix::unistd::setgroups(groups)?;
            setgid(*gid)?;
            setuid(*uid)?;
        }
        Some(_) | None => {}
    }
    let _ = groups;
    Ok(())
}

/// Becomes `account`. There are no capabilities to keep.
///
/// # Errors
/// The process is not root.
pub fn become_service(account: &Account, groups: &[Gid], _kept: &[String]) -> io::Result<()> {
    drop_privileges(Some(account), groups, false)
}

/// Does nothing.
///
/// # Errors
/// Never.
pub fn drop_capabilities() -> io::Result<()> {
    Ok(())
}

/// No value: no thread impersonates users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impersonator {}

impl Impersonator {
    /// Returns None.
    pub fn of_this_thread() -> Option<Impersonator> {
        None
    }

    /// Cannot be called.
    ///
    /// # Errors
    /// Never.
    pub fn impersonate(self, _uid: Uid, _gid: Gid) -> io::Result<ImpersonationGuard> {
        match self {}
    }
}

/// The process's own identity, which is never changed.
#[derive(Debug, Default)]
pub struct ImpersonationGuard(());

/// True if this process could become another user.
pub fn can_impersonate() -> bool {
    geteuid().is_root()
}
