//! Privileges on Linux: capabilities and file-system identities, which belong to each thread.

use std::io::{self, Write};
use std::marker::PhantomData;

use caps::{CapSet, Capability, CapsHashSet};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, getegid, geteuid, setfsgid, setfsuid, setgroups, setresgid, setresuid,
};

use super::Account;

/// Drops privileges irrevocably: switches to `account`, keeps only `groups` as supplementary
/// groups, and drops all capabilities. With `keep_impersonation` a thread that has both CAP_SETUID
/// and CAP_SETGID keeps these two. Must be called before the first thread is started.
///
/// # Errors
/// A privilege could not be dropped. The process must then exit.
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
    // A program with file capabilities gains them by exec if they are in the bounding set. Emptying
    // that set needs CAP_SETPCAP. Without it no_new_privs, set below, has the same effect.
    if has(CapSet::Effective, Capability::CAP_SETPCAP) {
        limit_bounding_set(&CapsHashSet::new())?;
    }
    if let Some(account) = account {
        switch_user(account)?;
    }
    set_capabilities(&kept)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

/// Becomes `account` with `groups` and the capabilities `kept`, as systemd starts a service with
/// `User=` and `AmbientCapabilities=`. Names of capabilities that are not known are ignored. Must
/// be called before the first thread is started.
///
/// # Errors
/// The process is not root.
pub fn become_service(account: &Account, groups: &[Gid], kept: &[String]) -> io::Result<()> {
    let kept: CapsHashSet = kept.iter().filter_map(|name| name.parse().ok()).collect();
    limit_bounding_set(&kept)?;
    setgroups(groups)?;
    switch_user(account)?;
    set_capabilities(&kept)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

/// Drops every capability of this thread, and so of the threads that it starts from now on.
///
/// # Errors
/// The kernel refused, which is not expected: dropping needs no privilege.
pub fn drop_capabilities() -> io::Result<()> {
    set_capabilities(&CapsHashSet::new())
}

/// Proof that a thread had CAP_SETUID and CAP_SETGID in effect, and so can impersonate users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impersonator {
    uid: Uid,
    gid: Gid,
}

impl Impersonator {
    /// Returns the impersonator of the calling thread, or None if it lacks the capabilities.
    pub fn of_this_thread() -> Option<Impersonator> {
        has_both(CapSet::Effective).then(|| Impersonator { uid: geteuid(), gid: getegid() })
    }

    /// Sets the file-system identity of this thread to `uid` and `gid`, until the guard is dropped.
    /// Does nothing for the process's own identity, and for uid 0 (see
    /// [`privilege`](crate::process::privilege)). A thread impersonates one user at a time.
    ///
    /// # Errors
    /// This thread does not have the capabilities.
    pub fn impersonate(self, uid: Uid, gid: Gid) -> io::Result<ImpersonationGuard> {
        if uid.is_root() || (uid, gid) == (self.uid, self.gid) {
            return Ok(ImpersonationGuard::default());
        }
        // Created first, so that an identity that was only half set is restored too.
        let guard = ImpersonationGuard(Some(self), PhantomData);
        // These calls report no errors, only the previous identity. The second pair of calls
        // therefore returns what the first pair set.
        setfsgid(gid);
        setfsuid(uid);
        if setfsgid(gid) == gid && setfsuid(uid) == uid {
            Ok(guard)
        } else {
            Err(Errno::EPERM.into())
        }
    }
}

/// The file-system identity of another user. Dropping it, also by a panic, restores the own one.
#[derive(Debug, Default)]
#[must_use = "the identity is restored when this is dropped"]
// Not Send, because the identity is this thread's.
pub struct ImpersonationGuard(Option<Impersonator>, PhantomData<*const ()>);

impl Drop for ImpersonationGuard {
    fn drop(&mut self) {
        let Some(Impersonator { uid, gid }) = self.0 else { return };
        setfsuid(uid);
        setfsgid(gid);
        if setfsuid(uid) != uid || setfsgid(gid) != gid {
            // The next user's mail would be written as this user.
            let _ = writeln!(io::stderr(), "cannot leave the identity of uid {uid}, gid {gid}");
            std::process::abort();
        }
    }
}

/// True if this thread could impersonate users.
pub fn can_impersonate() -> bool {
    has_both(CapSet::Permitted)
}

/// Switches all user and group ids to those of `account`, and keeps the permitted capabilities.
fn switch_user(account: &Account) -> io::Result<()> {
    let Account { uid, gid, .. } = *account;
    prctl::set_keepcaps(true)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    prctl::set_keepcaps(false)?;
    Ok(())
}

/// Removes all capabilities but `kept` from the bounding set.
fn limit_bounding_set(kept: &CapsHashSet) -> io::Result<()> {
    for capability in caps::runtime::thread_all_supported().difference(kept) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
    }
    Ok(())
}

fn set_capabilities(kept: &CapsHashSet) -> io::Result<()> {
    let set = |which, value| caps::set(None, which, value).map_err(io::Error::other);
    let empty = CapsHashSet::new();
    // Ignored: kernels before 4.3 have no ambient set.
    let _ = caps::clear(None, CapSet::Ambient);
    set(CapSet::Inheritable, &empty)?;
    // Effective before permitted, because effective capabilities must be permitted.
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
    // A system that cannot answer grants none.
    caps::has_cap(None, set, capability).unwrap_or(false)
}

/// The capabilities that impersonation needs.
const IMPERSONATION_CAPABILITIES: [Capability; 2] =
    [Capability::CAP_SETUID, Capability::CAP_SETGID];
