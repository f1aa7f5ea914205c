//! The locks of a mailbox: the dotlock `USER.lock` next to it, which every mail program respects,
//! and the two kernel locks of its open file.
//!
//! No attempt waits. It takes the lock, or returns the owner of the lock.
//!
//! A dotlock is taken with one link(2) from a file that this process keeps in the mail directory,
//! `.mailslot-PID-PROCESS`, which was synced once. So the lock appears complete: neither a killed
//! mailslot nor a power loss leaves an empty lock of unknown owner. Its line is the identity of the
//! process:
//!
//! ```text
//! 4711 6e1f…-boot-id/4026531836 k3f2a1c9 mailslot
//! pid  boot and pid namespace   process  end mark: without it the line is cut short and ignored
//! ```
//!
//! A dotlock that is in the way is stale, and is broken, if
//! - it is this process's own, because it could not be removed when it was released;
//! - its owner is a mailslot marked as dead, because its journal has been taken over or is empty;
//! - its owner is a mailslot without a journal in this spool, and its process is dead or the lock
//!   is old;
//! - it contains the pid of another program, and that process is dead on this host;
//! - it is of another program, and old: older than [`STALE_SECS`] by the file system's clock, or
//!   seen unchanged for that time.
//!
//! The pid and the age of a lock do not count if the owner is a mailslot with a journal, because
//! pids are used again, mean nothing in another pid namespace, and clocks step. Its lock is valid
//! as long as its journal is locked. The lock of a dead mailslot keeps every program away from a
//! mailbox that may end in half a message, until recovery has repaired it.
//!
//! A lock of another program is looked at twice, `SECOND_LOOK` apart, before it is broken. So a
//! lock that a living program has for a moment is not broken when the clock steps. Times in the
//! future or before 2020 are ignored, because they come from a wrong clock.
//!
//! Breaking is serialized by flock on the lock file itself, so that two mailslots that find the
//! same stale lock cannot remove each other's new one.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;

use super::disk::{Disk, DiskFile, FileLock, OpenMode, Stat};
use crate::message::Owner;
use crate::message::trace::EARLIEST_TIME;
use crate::observe::events;

/// Age in seconds at which a dotlock of unknown owner is stale: the 5 minutes of lockfile(1) and
/// Debian's policy.
pub const STALE_SECS: u64 = 300;

/// Set of locks to take on a mailbox, always in the order of the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locks {
    /// `USER.lock` in the directory of the mailbox.
    pub dotlock: bool,
    /// fcntl, as an open-file-description lock where the system has it.
    pub fcntl: bool,
    /// flock(2).
    pub flock: bool,
}

impl Locks {
    /// All three locks.
    pub const ALL: Locks = Locks { dotlock: true, fcntl: true, flock: true };
    /// No lock.
    pub const NONE: Locks = Locks { dotlock: false, fcntl: false, flock: false };
    /// flock alone: for the entries of the queue, which only mailslot reads.
    pub const FLOCK: Locks = Locks { flock: true, ..Locks::NONE };
}

/// Result of an attempt to take a lock.
#[derive(Debug)]
pub enum TryLock<T, B = String> {
    /// The lock is taken.
    Acquired(T),
    /// Another process has the lock; the log names it.
    Contended(B),
    /// A mailslot has the dotlock, or died with it, as its journal shows. The journal of a dead one
    /// must be recovered first.
    HeldByMailslot(B),
}

/// Kernel locks of an open file, held until this is dropped. The file may stay open for longer, so
/// the locks are released explicitly.
#[derive(Debug)]
pub(super) struct FileLockGuard {
    file: Arc<dyn DiskFile>,
    acquired: Vec<FileLock>,
}

impl FileLockGuard {
    /// Takes the kernel locks that `locks` asks for, or none of them.
    pub fn try_lock(file: Arc<dyn DiskFile>, locks: Locks) -> io::Result<TryLock<FileLockGuard>> {
        let mut guard = FileLockGuard { file, acquired: Vec::with_capacity(2) };
        let wanted = [(locks.fcntl, FileLock::Fcntl), (locks.flock, FileLock::Flock)];
        for (_, lock) in wanted.into_iter().filter(|(wanted, _)| *wanted) {
            if !guard.file.try_lock(lock)? {
                return Ok(TryLock::Contended(format!("{lock:?} lock").to_lowercase()));
            }
            guard.acquired.push(lock);
        }
        Ok(TryLock::Acquired(guard))
    }

    /// Returns the locked file.
    pub fn file(&self) -> &Arc<dyn DiskFile> {
        &self.file
    }
}

impl Drop for FileLockGuard {
    fn drop(&mut self) {
        for lock in self.acquired.drain(..).rev() {
            let _ = self.file.unlock(lock);
        }
    }
}

/// Identity of a process for its lifetime, as dotlocks and journals have it. The head of the file
/// shows its form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(String);

impl Identity {
    /// Returns a new identity for the process that `disk` belongs to.
    pub fn new(disk: &dyn Disk) -> Identity {
        let random = RandomState::new().hash_one(SystemTime::now());
        // Without a boot id nothing is known of other processes, so only the age of a lock counts,
        // and nothing is known of the boot of a mark. A pid would be used again after a reboot.
        let scope = disk.pid_scope().unwrap_or_else(|| format!("unknown{random:016x}/"));
        Identity(format!("{} {scope} {:08x} mailslot\n", disk.pid(), random as u32))
    }

    /// Returns the identity of no process, for a journal that is left to the next start.
    pub fn none() -> Identity {
        Identity("0 nowhere 00000000 mailslot\n".into())
    }

    /// Parses the line of a dotlock or a journal. Returns None if it is incomplete.
    pub fn parse(line: &[u8]) -> Option<Identity> {
        let text = std::str::from_utf8(line).ok()?;
        let fields = text.strip_suffix(" mailslot\n")?.split(' ').count();
        (fields == 3 && line.len() <= IDENTITY_MAX).then(|| Identity(text.to_owned()))
    }

    /// Returns the line with its LF.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the process id.
    pub fn pid(&self) -> Option<u32> {
        self.field(0).parse().ok()
    }

    /// Returns a number that differs between boots, for marks that a reboot must invalidate. If the
    /// boot is not known, it differs between processes.
    pub fn boot_mark(&self) -> u64 {
        let boot = self.field(1).split('/').next().unwrap_or_default();
        // FNV-1a, because every process of a boot must get the same number.
        boot.bytes()
            .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
    }

    /// True if the process is certainly dead: same boot, same pid namespace, no such process.
    pub fn is_dead(&self, disk: &dyn Disk) -> bool {
        disk.pid_scope().is_some_and(|scope| scope == self.field(1))
            && self.pid().is_some_and(|pid| disk.is_dead(pid))
    }

    fn field(&self, n: usize) -> &str {
        self.0.split(' ').nth(n).unwrap_or_default()
    }
}

/// Longest identity line in bytes.
pub const IDENTITY_MAX: usize = 200;

/// Dotlocks of one mail directory.
#[derive(Debug)]
pub struct DotlockDirectory {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    identity: Identity,
    /// True if the pids that other programs write into their locks are those of this host.
    has_own_pids: bool,
    state: Mutex<DotlockState>,
}

#[derive(Debug, Default)]
struct DotlockState {
    link_source: Option<LinkSource>,
    /// Dead mailslots. Their locks need not be respected.
    dead_owners: HashSet<Identity>,
    /// Locks of others that were in the way, until they are gone.
    sightings: HashMap<PathBuf, Sighting>,
    /// Number of stale locks broken.
    broken: u64,
}

/// Lock as it was seen first.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    id: (u64, u64),
    modified: SystemTime,
    since: Instant,
}

/// Owner of a dotlock, as far as its content shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LockOwner {
    Mailslot(Identity),
    /// Another program, which wrote its pid.
    Program(u32),
    /// Not known, because the file is empty, cut short, or of another form.
    Unknown,
}

impl LockOwner {
    fn parse(content: &[u8]) -> LockOwner {
        if let Some(identity) = Identity::parse(content) {
            return LockOwner::Mailslot(identity);
        }
        let text = str::from_utf8(content).unwrap_or_default().trim();
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(pid) if digits && pid > 0 => LockOwner::Program(pid),
            _ => LockOwner::Unknown,
        }
    }

    fn pid(&self) -> Option<u32> {
        match self {
            LockOwner::Mailslot(identity) => identity.pid(),
            LockOwner::Program(pid) => Some(*pid),
            LockOwner::Unknown => None,
        }
    }
}

/// Moment by both clocks. The monotonic one does not run while a laptop is suspended, and the other
/// one steps.
#[derive(Clone, Copy, Debug)]
struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now(disk: &dyn Disk) -> Moment {
        Moment { monotonic: Instant::now(), wall: disk.now() }
    }

    /// True if less than [`TOUCH_INTERVAL`] has passed by both clocks.
    fn is_recent(&self, disk: &dyn Disk) -> bool {
        self.monotonic.elapsed() < TOUCH_INTERVAL
            && disk.now().duration_since(self.wall).is_ok_and(|passed| passed < TOUCH_INTERVAL)
    }
}

/// File that dotlocks are hard links of.
#[derive(Clone, Debug)]
struct LinkSource {
    path: PathBuf,
    ino: u64,
    touched: Moment,
}

/// Dotlock of this process, held until this is dropped.
#[derive(Debug)]
pub struct Dotlock {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    ino: u64,
    since: Moment,
}

impl DotlockDirectory {
    /// Prepares to lock mailboxes in `directory` in the name of `identity`.
    pub fn new(disk: Arc<dyn Disk>, directory: &Path, identity: Identity) -> DotlockDirectory {
        DotlockDirectory {
            has_own_pids: disk.has_own_pids(directory),
            disk,
            directory: directory.to_owned(),
            identity,
            state: Mutex::default(),
        }
    }

    /// Tries to take `mailbox.lock`, breaking it once if it is stale.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn try_lock(&self, mailbox: &Path) -> io::Result<TryLock<Dotlock>> {
        let mut path = mailbox.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let mut broken = false;
        loop {
            match self.create(&path) {
                Ok(ino) => {
                    self.state().sightings.remove(&path);
                    let (disk, since) = (self.disk.clone(), Moment::now(&*self.disk));
                    return Ok(TryLock::Acquired(Dotlock { disk, path, ino, since }));
                }
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                Err(_) => {}
            }
            // After one stale lock is broken, the next lock is another process's.
            if broken {
                return Ok(TryLock::Contended("dotlock, just taken".into()));
            }
            match self.break_if_stale(&path)? {
                TryLock::Acquired(()) => broken = true,
                TryLock::Contended(owner) => return Ok(TryLock::Contended(owner)),
                TryLock::HeldByMailslot(owner) => return Ok(TryLock::HeldByMailslot(owner)),
            }
        }
    }

    /// Marks the process with `identity` as dead, so that its locks are stale.
    pub fn mark_dead(&self, identity: Identity) {
        self.state().dead_owners.insert(identity);
    }

    /// Removes from the directory the locks of dead mailslots and the files these were links of. A
    /// mailslot counts as dead if it is marked so. If `has_no_journal` returns true, it also counts
    /// as dead if its process is dead, and its lock is also removed if it is old.
    pub fn remove_dead(&self, has_no_journal: impl Fn(&Identity) -> bool) -> io::Result<()> {
        for name in self.disk.read_directory(&self.directory)? {
            let link_source = name.strip_prefix(LINK_SOURCE_PREFIX);
            if link_source.is_none() && !name.ends_with(".lock") {
                continue;
            }
            let path = self.directory.join(&name);
            let Ok(stat) = self.disk.lstat(&path) else { continue };
            let owner = self.read(&path);
            let dead = match (&owner, link_source) {
                (LockOwner::Mailslot(id), _) if *id == self.identity => false,
                (LockOwner::Mailslot(id), _) => {
                    let is_old = || link_source.is_none() && self.is_old(&path, &stat);
                    self.is_marked_dead(id)
                        || has_no_journal(id) && (id.is_dead(&*self.disk) || is_old())
                }
                // The process was killed before it wrote the line. If it lives on another host
                // after all, it creates the file again.
                (_, Some(rest)) => {
                    let pid = rest.split('-').next().and_then(|pid| pid.parse().ok());
                    pid.is_some_and(|pid| self.disk.is_dead(pid))
                }
                (_, None) => false,
            };
            if !dead {
                continue;
            }
            if link_source.is_none() {
                self.log_broken(&path, &owner, &stat);
            }
            let _ = self.remove_same(&path, &stat);
        }
        Ok(())
    }

    /// Returns the number of stale locks broken so far.
    pub fn broken(&self) -> u64 {
        self.state().broken
    }

    /// Checks that dotlocks can be created in the directory. Leaves nothing there.
    ///
    /// # Errors
    /// The directory cannot be written to.
    pub fn probe(&self) -> io::Result<()> {
        self.link_source()?;
        self.close();
        Ok(())
    }

    /// Removes this process's link source. No lock may be held.
    pub fn close(&self) {
        if let Some(link_source) = self.state().link_source.take() {
            let _ = self.disk.unlink(&link_source.path);
        }
    }

    /// Creates the lock and returns its inode.
    fn create(&self, path: &Path) -> io::Result<u64> {
        let link_source = self.link_source()?;
        match self.disk.link(&link_source.path, path) {
            Ok(()) => Ok(link_source.ino),
            // Another program has removed our link source; recreate it once.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.state().link_source = None;
                let link_source = self.link_source()?;
                self.disk.link(&link_source.path, path).map(|()| link_source.ino)
            }
            // Without hard links the lock is created and then filled. A crash in between leaves a
            // lock that is stale by age alone.
            Err(e) if has_no_links(&e) => self.write_new(path, false),
            Err(e) => Err(e),
        }
    }

    /// Returns the link source, with a recent modification time so that no other program considers
    /// our locks stale.
    fn link_source(&self) -> io::Result<LinkSource> {
        let mut state = self.state();
        if let Some(link_source) = &mut state.link_source {
            if link_source.touched.is_recent(&*self.disk) {
                return Ok(link_source.clone());
            }
            if let Ok(file) = self.disk.open(&link_source.path, OpenMode::Append)
                && file.stat()?.ino == link_source.ino
            {
                file.touch()?;
                link_source.touched = Moment::now(&*self.disk);
                return Ok(link_source.clone());
            }
        }
        let path = self.own_name("");
        match self.disk.unlink(&path) {
            // It could not be touched, or is not the file that we created.
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let ino = self.write_new(&path, true)?;
        let link_source = LinkSource { path, ino, touched: Moment::now(&*self.disk) };
        state.link_source = Some(link_source.clone());
        Ok(link_source)
    }

    /// Returns the path of a file of this process. The pid alone would not do, because containers
    /// and hosts that share the directory can have the same.
    fn own_name(&self, suffix: &str) -> PathBuf {
        let (pid, process) = (self.identity.field(0), self.identity.field(2));
        self.directory.join(format!("{LINK_SOURCE_PREFIX}{pid}-{process}{suffix}"))
    }

    fn write_new(&self, path: &Path, durable: bool) -> io::Result<u64> {
        let file = self.disk.open(path, OpenMode::Create { mode: 0o644, owner: None })?;
        let line = self.identity.as_bytes();
        let written = (|| {
            if file.append(&[IoSlice::new(line)])? < line.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if durable {
                file.sync()?;
            }
            file.stat().map(|stat| stat.ino)
        })();
        written.inspect_err(|_| drop(self.disk.unlink(path)))
    }

    /// Breaks the lock at `path` if it is stale. `Acquired` means that it is gone.
    fn break_if_stale(&self, path: &Path) -> io::Result<TryLock<()>> {
        let stat = match self.disk.lstat(path) {
            Ok(stat) => stat,
            // Released in the meantime.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TryLock::Acquired(())),
            Err(e) => return Err(e),
        };
        let owner = self.read(path);
        let holder = owner.pid().map_or("dotlock".into(), |pid| format!("dotlock of pid {pid}"));
        let stale = match &owner {
            // The writer never takes a lock that it holds, so this one was not removed on release.
            LockOwner::Mailslot(id) if *id == self.identity || self.is_marked_dead(id) => true,
            LockOwner::Mailslot(_) => return Ok(TryLock::HeldByMailslot(holder)),
            LockOwner::Program(pid) if self.has_own_pids && self.disk.is_dead(*pid) => {
                self.seen_for(path, &stat) >= SECOND_LOOK
            }
            LockOwner::Program(_) | LockOwner::Unknown => self.is_old(path, &stat),
        };
        if stale {
            self.log_broken(path, &owner, &stat);
            return Ok(match self.remove_same(path, &stat) {
                Ok(()) => TryLock::Acquired(()),
                Err(e) => TryLock::Contended(format!("stale dotlock that cannot be removed: {e}")),
            });
        }
        Ok(TryLock::Contended(holder))
    }

    fn log_broken(&self, path: &Path, owner: &LockOwner, stat: &Stat) {
        let age = self.disk.now().duration_since(stat.modified).unwrap_or_default().as_secs();
        events::lock_broken(path.display(), owner.pid(), age);
        self.state().broken += 1;
    }

    /// Returns the time since the lock at `path` was seen first, unchanged.
    fn seen_for(&self, path: &Path, stat: &Stat) -> Duration {
        let (id, modified, since) = (stat.id(), stat.modified, Instant::now());
        let mut state = self.state();
        let sighting = Sighting { id, modified, since };
        let first = state.sightings.entry(path.to_owned()).or_insert(sighting);
        if (first.id, first.modified) != (id, modified) {
            *first = sighting;
        }
        first.since.elapsed()
    }

    /// True if the lock is too old to be that of a living program.
    fn is_old(&self, path: &Path, stat: &Stat) -> bool {
        let seen_for = self.seen_for(path, stat);
        seen_for >= SECOND_LOOK && is_old(self.age(stat), seen_for)
    }

    fn is_marked_dead(&self, id: &Identity) -> bool {
        *id != self.identity && self.state().dead_owners.contains(id)
    }

    fn read(&self, path: &Path) -> LockOwner {
        let mut line = [0; IDENTITY_MAX + 1];
        let file = self.disk.open(path, OpenMode::Read);
        let read = file.and_then(|file| file.read_at(&mut line, 0)).unwrap_or_default();
        LockOwner::parse(line.get(..read).unwrap_or_default())
    }

    /// Returns the age by the file system's clock, which on a network mount is not ours: it is read
    /// off a file created now in the same directory. Returns None if the file is not old by our
    /// clock, if its time is that of a wrong clock, or the age is unknown.
    fn age(&self, stat: &Stat) -> Option<Duration> {
        stat.modified.duration_since(SystemTime::UNIX_EPOCH + EARLIEST_TIME).ok()?;
        self.disk.now().duration_since(stat.modified).ok().filter(|a| a.as_secs() > STALE_SECS)?;
        let probe = self.own_name("-clock");
        let created = self.disk.open(&probe, OpenMode::Create { mode: 0o600, owner: None });
        let now = created.and_then(|file| file.stat()).map(|s| s.modified);
        let _ = self.disk.unlink(&probe);
        now.ok()?.duration_since(stat.modified).ok()
    }

    /// Removes `path` if it is still the file that `examined` describes.
    fn remove_same(&self, path: &Path, examined: &Stat) -> io::Result<()> {
        let file = match self.disk.open(path, OpenMode::Read) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Unreadable, such as another user's with mode 000: only the check below remains.
            Err(_) => None,
        };
        if let Some(file) = &file
            && !file.try_lock(FileLock::Flock)?
        {
            return Ok(()); // Another mailslot is breaking it.
        }
        let now = match self.disk.lstat(path) {
            Ok(now) => now,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        if (now.id(), now.modified) != (examined.id(), examined.modified) {
            return Ok(());
        }
        match self.disk.unlink(path) {
            // In a sticky directory only the owner of the lock may remove it. A user who may lock a
            // mailbox may as well remove the lock.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let owner = Owner { uid: now.uid, gid: now.gid };
                let _guard = self.disk.impersonate(Some(owner))?;
                self.disk.unlink(path)
            }
            result => result,
        }
    }

    fn state(&self) -> MutexGuard<'_, DotlockState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Dotlock {
    fn drop(&mut self) {
        // If this process was stopped for minutes (SIGSTOP, a suspended laptop), the lock may have
        // been broken, and the name may now be another program's lock.
        if !self.since.is_recent(&*self.disk)
            && !self.disk.lstat(&self.path).is_ok_and(|now| now.ino == self.ino)
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

fn has_no_links(e: &io::Error) -> bool {
    matches!(
        Errno::from_raw(e.raw_os_error().unwrap_or_default()),
        Errno::EPERM | Errno::ENOTSUP | Errno::EMLINK | Errno::ENOSYS | Errno::EXDEV
    )
}

/// True if a lock of this age by the file system's clock, seen unchanged for `seen_for`, is stale.
/// The monotonic clock alone counts if the age is unknown.
fn is_old(age: Option<Duration>, seen_for: Duration) -> bool {
    age.unwrap_or_default().max(seen_for).as_secs() > STALE_SECS
}

/// Time between two looks at a lock of another program before it is broken.
const SECOND_LOOK: Duration = Duration::from_secs(3);
/// Prefix of the names of mailslot's own files in the mail directory. No mailbox begins with a dot.
const LINK_SOURCE_PREFIX: &str = ".mailslot-";
/// Interval after which the modification time of the link source is renewed.
const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_of_dotlocks() {
        let mailslot = Identity::none();
        for (content, owner) in [
            (mailslot.as_bytes(), LockOwner::Mailslot(mailslot.clone())),
            (b"4711\n", LockOwner::Program(4711)),
            (b"      4711", LockOwner::Program(4711)),
            (b"", LockOwner::Unknown),
            (b"0", LockOwner::Unknown),
            (b"+7\n", LockOwner::Unknown),
            (b"-7\n", LockOwner::Unknown),
            (b"4711 host.example\n", LockOwner::Unknown),
            (b"99999999999\n", LockOwner::Unknown),
            (b"\xff", LockOwner::Unknown),
        ] {
            assert_eq!(LockOwner::parse(content), owner);
        }
    }

    #[test]
    fn a_lock_without_a_credible_age_is_old_when_it_was_seen_for_five_minutes() {
        let (short, long) = (Duration::from_secs(STALE_SECS), Duration::from_secs(STALE_SECS + 1));
        assert!(is_old(Some(long), SECOND_LOOK) && is_old(None, long) && is_old(Some(short), long));
        assert!(!is_old(None, short) && !is_old(Some(short), short));
    }
}
