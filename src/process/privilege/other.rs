//! Privileges where there are no capabilities: root has them all, and nobody else has any.

use std::io;

use nix::unistd::{Gid, Uid, geteuid, setgid, setuid};

use super::Account;

/// Becomes `account` for good, unless mailboxes are to be written to for others (`acts`): that
/// takes root here.
///
/// # Errors
/// The system refuses. Then the process should end.
pub fn settle(account: Option<&Account>, groups: &[Gid], acts: bool) -> io::Result<()> {
    match account {
        Some(_) if acts => log::warn!("running as root; only Linux can do with less"),
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
pub fn forgo() -> io::Result<()> {
    Ok(())
}

/// Nobody's: no thread acts as others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {}

impl Actor {
    /// None.
    pub fn here() -> Option<Actor> {
        None
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn act_as(self, _uid: Uid, _gid: Gid) -> io::Result<Acting> {
        match self {}
    }
}

/// The own identity, which stays.
#[derive(Debug, Default)]
pub struct Acting(());

/// Whether this process could become others.
pub fn may_act() -> bool {
    geteuid().is_root()
}
