//! Privileges as Linux has them: capabilities and file-system identities, for each thread.

use std::io;
use std::marker::PhantomData;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, getegid, geteuid, setfsgid, setfsuid, setgroups, setresgid, setresuid,
};

use super::Account;

/// Gives up, for good, what is not needed any more: becomes `account`, keeps no supplementary group
/// but `groups`, and of all capabilities CAP_SETUID and CAP_SETGID at most, and these only if
/// `keep_impersonation`. Never gains anything. Call it before the first thread is started.
///
/// # Errors
/// Something could not be given up. Then the process should end.
pub fn drop_privileges(
    account: Option<&Account>,
    groups: &[Gid],
    keep_impersonation: bool,
) -> io::Result<()> {
    let kept: CapsHashSet = if keep_impersonation && has_both(CapSet::Permitted) {
        IMPERSONATION_CAPABILITIES.into_iter().collect()
    } else {
        CapsHashSet::new()
    };
    if has(CapSet::Effective, Capability::CAP_SETGID) {
        setgroups(groups)?;
    }
    // What is in the bounding set a program with file capabilities could gain by exec. Only who
    // has CAP_SETPCAP may empty it; for others no_new_privs does the same.
    if has(CapSet::Effective, Capability::CAP_SETPCAP) {
        for capability in caps::runtime::thread_all_supported() {
            caps::drop(None, CapSet::Bounding, capability).map_err(io::Error::other)?;
        }
    }
    if let Some(Account { uid, gid, .. }) = account {
        prctl::set_keepcaps(true)?;
        setresgid(*gid, *gid, *gid)?;
        setresuid(*uid, *uid, *uid)?;
        prctl::set_keepcaps(false)?;
    }
    keep(&kept)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

/// Gives up every capability of this thread, and so of those that it starts from now on.
///
/// # Errors
/// The kernel refuses, which it has no reason to.
pub fn drop_capabilities() -> io::Result<()> {
    keep(&CapsHashSet::new())
}

/// A thread's power to act as others: proof that it had CAP_SETUID and CAP_SETGID in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impersonator {
    uid: Uid,
    gid: Gid,
}

impl Impersonator {
    /// That of the thread that asks; None if it has not that power.
    pub fn of_this_thread() -> Option<Impersonator> {
        has_both(CapSet::Effective).then(|| Impersonator { uid: geteuid(), gid: getegid() })
    }

    /// Takes the file-system identity `uid` and `gid` for this thread, until the result is dropped.
    /// Does nothing for the own identity, and for uid 0 (see the top of this file). One thread
    /// acts as one at a time.
    ///
    /// # Errors
    /// The kernel refuses: this thread has not the power that another had.
    pub fn impersonate(self, uid: Uid, gid: Gid) -> io::Result<ImpersonationGuard> {
        if uid.is_root() || (uid, gid) == (self.uid, self.gid) {
            return Ok(ImpersonationGuard::default());
        }
        // Made first: what was taken by half is given back as well.
        let guard = ImpersonationGuard(Some(self), PhantomData);
        // Each call tells the identity before it, and no errors: the second one tells whether the
        // first was obeyed.
        setfsgid(gid);
        setfsuid(uid);
        match setfsgid(gid) == gid && setfsuid(uid) == uid {
            true => Ok(guard),
            false => Err(Errno::EPERM.into()),
        }
    }
}

/// The file-system identity of somebody else, until this is dropped, however that comes about.
#[derive(Debug, Default)]
#[must_use = "the identity is given back when this is dropped"]
pub struct ImpersonationGuard(Option<Impersonator>, PhantomData<*const ()>); // Never to another thread.

impl Drop for ImpersonationGuard {
    fn drop(&mut self) {
        let Some(Impersonator { uid, gid }) = self.0 else { return };
        setfsuid(uid);
        setfsgid(gid);
        if setfsuid(uid) != uid || setfsgid(gid) != gid {
            // Going on would be to write the next user's mail as this one.
            log::error!("stuck in another's identity, aborting uid={uid} gid={gid}");
            log::logger().flush();
            std::process::abort();
        }
    }
}

/// Whether this thread could act as others.
pub fn can_impersonate() -> bool {
    has_both(CapSet::Permitted)
}

fn keep(kept: &CapsHashSet) -> io::Result<()> {
    let set = |which, value| caps::set(None, which, value).map_err(io::Error::other);
    let empty = CapsHashSet::new();
    // Kernels before 4.3 have none.
    let _ = caps::clear(None, CapSet::Ambient);
    set(CapSet::Inheritable, &empty)?;
    // Before the permitted ones: what is in effect must be permitted.
    set(CapSet::Effective, kept)?;
    set(CapSet::Permitted, kept)?;
    for which in [CapSet::Effective, CapSet::Permitted] {
        if caps::read(None, which).map_err(io::Error::other)? != *kept {
            return Err(io::Error::other(format!("capabilities are left in the {which:?} set")));
        }
    }
    Ok(())
}

fn has_both(set: CapSet) -> bool {
    IMPERSONATION_CAPABILITIES.into_iter().all(|capability| has(set, capability))
}

fn has(set: CapSet, capability: Capability) -> bool {
    caps::has_cap(None, set, capability).unwrap_or_else(|e| {
        log::error!("capabilities error={e:?}");
        false
    })
}

/// What it takes to act as any user.
const IMPERSONATION_CAPABILITIES: [Capability; 2] =
    [Capability::CAP_SETUID, Capability::CAP_SETGID];
