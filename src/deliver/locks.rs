//! Dotlocks: `USER.lock` beside a mailbox, the lock that every mail program honours.
//!
//! A dotlock is taken with one link(2) from a file that this process keeps in the mail folder,
//! `.mailslot-PID-PROCESS`, synced once. So it appears at once and complete: there is no moment at
//! which a killed mailslot, or a power loss, leaves an empty lock that nobody can judge. Its one
//! line says who took it:
//!
//! ```text
//! 4711 6e1f…-boot-id/4026531836 k3f2a1c9 mailslot
//! pid  boot and pid namespace   process  end: without it the line is cut short, and not believed
//! ```
//!
//! A dotlock that is in the way is broken when
//! - it is our own, and could not be removed when it was let go; or
//! - its line is that of a mailslot that is dead and *buried*: its journal was found without an
//!   owner and is ours to recover, or there is none; or
//! - it is older than [`STALE_SECS`] by the file system's own clock.
//!
//! A lock whose line is of this boot and pid namespace, with no such process, but not yet buried,
//! stays: it keeps everybody off a mailbox that may end in half a message, until `recover.rs` has
//! set that right.
//!
//! Breaking is serialised by flock on the lock file itself, so that two mailslots that judge the
//! same stale lock cannot remove each other's fresh one.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;

use super::disk::{Disk, DiskFile, FileLock, OpenMode, Stat};
use crate::message::Owner;
use crate::observe::events;

/// Age in seconds at which a dotlock that tells nothing of its owner is stale: the 5 minutes of
/// lockfile(1) and Debian's policy.
pub const STALE_SECS: u64 = 300;

/// Who holds a lock: one process, for its life. See the file's header for the form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(String);

impl Identity {
    /// A new one, of the process that `disk` says we are.
    pub fn new<D: Disk>(disk: &D) -> Identity {
        let random = RandomState::new().hash_one(SystemTime::now()) as u32;
        Identity(format!("{} {} {random:08x} mailslot\n", disk.pid(), disk.place()))
    }

    /// Of no process: for what is left to the next start on purpose.
    pub fn none() -> Identity {
        Identity("0 nowhere 00000000 mailslot\n".into())
    }

    /// As it was read from a lock or a journal, if it is complete.
    pub fn parse(line: &[u8]) -> Option<Identity> {
        let text = std::str::from_utf8(line).ok()?;
        let fields = text.strip_suffix(" mailslot\n")?.split(' ').count();
        (fields == 3 && line.len() <= IDENTITY_MAX).then(|| Identity(text.to_owned()))
    }

    /// The line, with its end.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.field(0).parse().ok()
    }

    /// A number that differs between boots, for marks that a reboot must void.
    pub fn boot_mark(&self) -> u64 {
        let boot = self.field(1).split('/').next().unwrap_or_default();
        // FNV-1a: the same for every process of a boot, which a hasher with random keys is not.
        boot.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }

    /// Whether the process is known to be gone: same boot, same pid namespace, no such process.
    pub fn is_gone<D: Disk>(&self, disk: &D) -> bool {
        self.field(1) == disk.place() && self.pid().is_some_and(|pid| disk.is_gone(pid))
    }

    fn field(&self, n: usize) -> &str {
        self.0.split(' ').nth(n).unwrap_or_default()
    }
}

/// Longest identity line, in octets.
pub const IDENTITY_MAX: usize = 200;

/// How an attempt to take a lock ended.
#[derive(Debug)]
pub enum TryLock<T, B = String> {
    /// It is ours.
    Taken(T),
    /// Somebody else holds it; who, for the log.
    Busy(B),
    /// It was left by this mailslot, which died: first recover what else it left, then try again.
    Orphaned,
}

/// The dotlocks of one mail folder.
#[derive(Debug)]
pub struct DotlockDirectory<D: Disk> {
    disk: Arc<D>,
    directory: PathBuf,
    identity: Identity,
    shared: Mutex<DotlockState>,
}

#[derive(Debug, Default)]
struct DotlockState {
    /// The file that locks are links of, once it is made; and when its time was last set.
    link_source: Option<LinkSource>,
    /// Dead mailslots whose locks need not be respected.
    dead_owners: HashSet<Identity>,
    broken: u64,
}

#[derive(Clone, Debug)]
struct LinkSource {
    path: PathBuf,
    ino: u64,
    dirty: Instant,
}

/// A dotlock that is ours, until it is dropped.
#[derive(Debug)]
pub struct Dotlock<D: Disk> {
    disk: Arc<D>,
    path: PathBuf,
    ino: u64,
    since: Instant,
}

impl<D: Disk> DotlockDirectory<D> {
    /// For mailboxes in `directory`, taken in the name of `identity`.
    pub fn new(disk: Arc<D>, directory: &Path, identity: Identity) -> DotlockDirectory<D> {
        DotlockDirectory {
            disk,
            directory: directory.to_owned(),
            identity,
            shared: Mutex::default(),
        }
    }

    /// Tries to take `mailbox.lock`; does not wait.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn take(&self, mailbox: &Path) -> io::Result<TryLock<Dotlock<D>>> {
        let mut path = mailbox.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let mut judged = None;
        loop {
            match self.create(&path) {
                Ok(ino) => {
                    let (disk, since) = (self.disk.clone(), Instant::now());
                    return Ok(TryLock::Taken(Dotlock { disk, path, ino, since }));
                }
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                Err(_) => {}
            }
            // Once broken it is ours or the next one's.
            if let Some(who) = judged {
                return Ok(TryLock::Busy(who));
            }
            match self.break_if_stale(&path)? {
                TryLock::Taken(()) => judged = Some("dotlock, just taken".into()),
                TryLock::Busy(who) => return Ok(TryLock::Busy(who)),
                TryLock::Orphaned => return Ok(TryLock::Orphaned),
            }
        }
    }

    /// From now on every lock of `identity`, whose process is known to be dead, is stale.
    pub fn mark_dead(&self, identity: Identity) {
        self.shared().dead_owners.insert(identity);
    }

    /// Removes what dead mailslots left in the folder: their locks, and the files these were links
    /// of. Dead are those that are buried, and those that are gone and for which `recovered` says
    /// that nothing of theirs is left to recover.
    pub fn sweep(&self, recovered: impl Fn(&Identity) -> bool) -> io::Result<()> {
        for name in self.disk.list(&self.directory)? {
            let link_source = name.strip_prefix(MASTER_PREFIX);
            if link_source.is_none() && !name.ends_with(".lock") {
                continue;
            }
            let path = self.directory.join(&name);
            let Ok(stat) = self.disk.look(&path) else { continue };
            let holder = self.read(&path);
            let dead = match (&holder, link_source) {
                (Some(id), _) => self.is_buried(id) || id.is_gone(&*self.disk) && recovered(id),
                // Killed before its line was written. Should its maker live on another host, it
                // makes the file again.
                (None, Some(rest)) => {
                    let pid = rest.split('-').next().and_then(|pid| pid.parse().ok());
                    pid.is_some_and(|pid| self.disk.is_gone(pid))
                }
                (None, None) => false,
            };
            if !dead {
                continue;
            }
            if link_source.is_none() {
                self.log_broken(&path, holder.as_ref(), &stat);
            }
            let _ = self.remove_same(&path, &stat);
        }
        Ok(())
    }

    /// How many stale locks were broken so far.
    pub fn broken(&self) -> u64 {
        self.shared().broken
    }

    /// Removes this process's own file; no lock may be held.
    pub fn close(&self) {
        if let Some(link_source) = self.shared().link_source.take() {
            let _ = self.disk.unlink(&link_source.path);
        }
    }

    /// Makes the lock; its inode.
    fn create(&self, path: &Path) -> io::Result<u64> {
        let link_source = self.link_source()?;
        match self.disk.link(&link_source.path, path) {
            Ok(()) => Ok(link_source.ino),
            // Our own file was swept away by a stranger: make it anew, once.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.shared().link_source = None;
                let link_source = self.link_source()?;
                self.disk.link(&link_source.path, path).map(|()| link_source.ino)
            }
            // A file system without hard links: created and filled, complete or judged by age.
            Err(e) if no_links(&e) => self.write_new(path, false),
            Err(e) => Err(e),
        }
    }

    /// The file that locks are links of, its time fresh enough that nobody judges them old.
    fn link_source(&self) -> io::Result<LinkSource> {
        let mut shared = self.shared();
        if let Some(link_source) = &mut shared.link_source {
            if link_source.dirty.elapsed() < TOUCH_EVERY {
                return Ok(link_source.clone());
            }
            if let Ok(file) = self.disk.open(&link_source.path, OpenMode::Append)
                && file.stat()?.ino == link_source.ino
            {
                file.touch()?;
                link_source.dirty = Instant::now();
                return Ok(link_source.clone());
            }
        }
        let path = self.own_name("");
        match self.disk.unlink(&path) {
            // Too old, or not what we made.
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let link_source =
            LinkSource { ino: self.write_new(&path, true)?, path, dirty: Instant::now() };
        shared.link_source = Some(link_source.clone());
        Ok(link_source)
    }

    /// The path of a file of our own. A pid alone is not ours alone: containers and hosts that
    /// share the folder have the same.
    fn own_name(&self, end: &str) -> PathBuf {
        let (pid, process) = (self.identity.field(0), self.identity.field(2));
        self.directory.join(format!("{MASTER_PREFIX}{pid}-{process}{end}"))
    }

    fn write_new(&self, path: &Path, durable: bool) -> io::Result<u64> {
        let file = self.disk.open(path, OpenMode::Create { mode: 0o644, owner: None })?;
        let line = self.identity.as_bytes();
        let made = (|| {
            if file.append(&[IoSlice::new(line)])? < line.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if durable {
                file.sync()?;
            }
            file.stat().map(|stat| stat.ino)
        })();
        made.inspect_err(|_| drop(self.disk.unlink(path)))
    }

    /// The lock exists: is it stale? Taken: it was, and is broken.
    fn break_if_stale(&self, path: &Path) -> io::Result<TryLock<()>> {
        let stat = match self.disk.look(path) {
            Ok(stat) => stat,
            // Gone in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TryLock::Taken(())),
            Err(e) => return Err(e),
        };
        let holder = self.read(path);
        let stale = match &holder {
            // The one writer never takes a lock that it has.
            Some(id) if *id == self.identity => true,
            Some(id) if self.is_buried(id) => true,
            Some(id) if id.is_gone(&*self.disk) => return Ok(TryLock::Orphaned),
            _ => self.age(&stat).is_some_and(|age| age.as_secs() > STALE_SECS),
        };
        if stale {
            self.log_broken(path, holder.as_ref(), &stat);
            return Ok(match self.remove_same(path, &stat) {
                Ok(()) => TryLock::Taken(()),
                Err(e) => TryLock::Busy(format!("stale dotlock that cannot be removed: {e}")),
            });
        }
        let pid = holder.and_then(|id| id.pid());
        Ok(TryLock::Busy(pid.map_or("dotlock".into(), |pid| format!("dotlock of pid {pid}"))))
    }

    fn log_broken(&self, path: &Path, holder: Option<&Identity>, stat: &Stat) {
        let age = SystemTime::now().duration_since(stat.modified).unwrap_or_default().as_secs();
        events::lock_broken(path.display(), holder.and_then(Identity::pid), age);
        self.shared().broken += 1;
    }

    fn is_buried(&self, id: &Identity) -> bool {
        *id != self.identity && self.shared().dead_owners.contains(id)
    }

    fn read(&self, path: &Path) -> Option<Identity> {
        let file = self.disk.open(path, OpenMode::Read).ok()?;
        let mut line = [0; IDENTITY_MAX + 1];
        let n = file.read_at(&mut line, 0).ok()?;
        Identity::parse(line.get(..n)?)
    }

    /// Age by the file system's clock, which on a network mount is not ours: that of a file made
    /// now in the same folder. None if the file is not old by either clock.
    fn age(&self, stat: &Stat) -> Option<Duration> {
        SystemTime::now()
            .duration_since(stat.modified)
            .ok()
            .filter(|a| a.as_secs() > STALE_SECS)?;
        let probe = self.own_name("-clock");
        let made = self.disk.open(&probe, OpenMode::Create { mode: 0o600, owner: None });
        let now = made.and_then(|file| file.stat()).map(|s| s.modified);
        let _ = self.disk.unlink(&probe);
        now.ok()?.duration_since(stat.modified).ok()
    }

    /// Removes `path` if it still is the file that was judged.
    fn remove_same(&self, path: &Path, judged: &Stat) -> io::Result<()> {
        let file = match self.disk.open(path, OpenMode::Read) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Unreadable (mode 000, another user's): the look below is all there is.
            Err(_) => None,
        };
        if let Some(file) = &file
            && !file.try_lock(FileLock::Flock)?
        {
            return Ok(()); // another mailslot is breaking it
        }
        let now = match self.disk.look(path) {
            Ok(now) => now,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if (now.dev, now.ino, now.modified) != (judged.dev, judged.ino, judged.modified) {
            return Ok(());
        }
        match self.disk.unlink(path) {
            // In a sticky folder only its owner may: who may lock a mailbox may do as much.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let owner = Owner { uid: now.uid, gid: now.gid };
                let _acting = self.disk.impersonate(Some(owner))?;
                self.disk.unlink(path)
            }
            result => result,
        }
    }

    fn shared(&self) -> MutexGuard<'_, DotlockState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Disk> Drop for Dotlock<D> {
    fn drop(&mut self) {
        // Stopped for minutes (SIGSTOP, a suspended laptop) our lock may have been broken, and the
        // name may now be somebody else's.
        if self.since.elapsed() > TOUCH_EVERY
            && !self.disk.look(&self.path).is_ok_and(|now| now.ino == self.ino)
        {
            events::lock_lost(self.path.display());
            return;
        }
        if let Err(e) = self.disk.unlink(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            events::unlock_failed(self.path.display(), e);
        }
    }
}

fn no_links(e: &io::Error) -> bool {
    matches!(
        Errno::from_raw(e.raw_os_error().unwrap_or_default()),
        Errno::EPERM | Errno::ENOTSUP | Errno::EMLINK | Errno::ENOSYS | Errno::EXDEV
    )
}

/// Names of our own files in the mail folder; no mailbox begins with a dot.
const MASTER_PREFIX: &str = ".mailslot-";
/// Others judge our locks by the time of the file they are links of.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
