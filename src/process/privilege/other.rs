//! Privileges where there are no capabilities: root has them all, and nobody else has any.

use std::io;

use nix::unistd::{Gid, Uid, geteuid, setgid, setuid};

use super::Account;

/// Becomes `account` for good, unless mailboxes are to be written to for others (`keep_impersonation`): that
/// takes root here.
///
/// # Errors
/// The system refuses. Then the process should end.
pub fn drop_privileges(
    account: Option<&Account>,
    groups: &[Gid],
    keep_impersonation: bool,
) -> io::Result<()> {
    match account {
        Some(_) if keep_impersonation => log::warn!("running as root; only Linux can do with less"),
        Some(Account { uid, gid, .. }) => {
            #[cfg(not(target_vendor = "apple"))]
            nix::unistd::setgroups(groups)?;
            setgid(*gid)?;
            setuid(*uid)?;
        }
        None => {}
    }
    let _ = groups;
    Ok(())
}

/// Does nothing.
///
/// # Errors
/// None.
pub fn drop_capabilities() -> io::Result<()> {
    Ok(())
}

/// Nobody's: no thread acts as others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Impersonator {}

impl Impersonator {
    /// None.
    pub fn of_this_thread() -> Option<Impersonator> {
        None
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn impersonate(self, _uid: Uid, _gid: Gid) -> io::Result<ImpersonationGuard> {
        match self {}
    }
}

/// The own identity, which stays.
#[derive(Debug, Default)]
pub struct ImpersonationGuard(());

/// Whether this process could become others.
pub fn can_impersonate() -> bool {
    geteuid().is_root()
}
