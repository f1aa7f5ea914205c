//! Dotlocks: `USER.lock` beside a mailbox, the lock that every mail program honours.
//!
//! A dotlock is taken with one link(2) from a file that this process keeps in the mail folder,
//! `.mailslot-PID`. So it appears at once and complete: there is no moment at which a killed
//! mailslot leaves an empty lock that nobody can judge. Its one line says who took it:
//!
//! ```text
//! 4711 6e1f…-boot-id/4026531836 k3f2a1c9 mailslot
//! pid  boot and pid namespace   process  end: without it the line is cut short, and not believed
//! ```
//!
//! A dotlock that is in the way is broken when
//! - it is our own, and could not be removed when it was let go, or
//! - its line is that of a mailslot known to be dead (its journal was found without an owner), or
//! - its line is complete, of this boot and pid namespace, and there is no such process, or
//! - it is older than [`STALE_SECS`] by the file system's own clock.
//!
//! Breaking is serialised by flock on the lock file itself, so that two mailslots that judge the
//! same stale lock cannot remove each other's fresh one.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::disk::{Disk, DiskFile, FileLock, Open, Stat};
use crate::logging::value;

/// Age in seconds at which a dotlock that tells nothing of its owner is stale: the 5 minutes of
/// lockfile(1) and Debian's policy.
pub const STALE_SECS: u64 = 300;

/// Who holds a lock: one process, for its life. See the file's header for the form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(String);

impl Identity {
    /// This process's.
    pub fn of_this_process() -> Identity {
        let random = RandomState::new().hash_one(SystemTime::now()) as u32;
        Identity(format!("{} {} {random:08x} mailslot\n", std::process::id(), place()))
    }

    /// Of no process: for what is left to the next start on purpose.
    pub fn nobody() -> Identity {
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
    pub fn pid(&self) -> Option<i32> {
        self.0.split(' ').next()?.parse().ok()
    }

    /// Whether the process is known to be gone: same boot, same pid namespace, no such process.
    pub fn is_dead(&self) -> bool {
        self.0.split(' ').nth(1) == Some(place()) && no_such_process(&self.0)
    }
}

/// Longest identity line, in octets.
pub const IDENTITY_MAX: usize = 200;

/// Boot id and pid namespace: within one such place a pid means one process.
fn place() -> &'static str {
    static PLACE: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    PLACE.get_or_init(|| {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let space = digits(&space.to_string_lossy());
        // Without /proc nothing is known of other processes, and only age can tell.
        match (digits(&boot), std::process::id()) {
            (boot, pid) if boot.is_empty() => format!("unknown{pid}/{space}"),
            (boot, _) => format!("{boot}/{space}"),
        }
    })
}

/// A number that differs between boots, for marks that a reboot must void.
pub fn boot_mark() -> u64 {
    let boot = place().split('/').next().unwrap_or_default();
    // FNV-1a: the same for every process of this boot, which a hasher with random keys is not.
    boot.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// How an attempt to take a lock ended.
#[derive(Debug)]
pub enum Attempt<T, B = String> {
    /// It is ours.
    Taken(T),
    /// Somebody else holds it; who, for the log.
    Busy(B),
    /// It was left by a mailslot that died: what that one left must be recovered, then try again.
    Orphaned,
}

/// The dotlocks of one mail folder.
#[derive(Debug)]
pub struct Dotlocks<D: Disk> {
    disk: Arc<D>,
    folder: PathBuf,
    identity: Identity,
    shared: Mutex<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The file that locks are links of, once it is made; and when its time was last set.
    master: Option<Master>,
    /// Mailslots whose journals had no owner.
    dead: HashSet<Identity>,
    broken: u64,
}

#[derive(Clone, Debug)]
struct Master {
    path: PathBuf,
    ino: u64,
    touched: Instant,
}

/// A dotlock that is ours, until it is dropped.
#[derive(Debug)]
pub struct Dotlock<D: Disk> {
    disk: Arc<D>,
    path: PathBuf,
    ino: u64,
    since: Instant,
}

impl<D: Disk> Dotlocks<D> {
    /// For mailboxes in `folder`, taken in the name of `identity`.
    pub fn new(disk: Arc<D>, folder: &Path, identity: Identity) -> Dotlocks<D> {
        Dotlocks { disk, folder: folder.to_owned(), identity, shared: Mutex::default() }
    }

    /// Tries to take `mailbox.lock`; does not wait.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn take(&self, mailbox: &Path) -> io::Result<Attempt<Dotlock<D>>> {
        let mut path = mailbox.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        match self.create(&path) {
            Ok(ino) => Ok(Attempt::Taken(Dotlock {
                disk: self.disk.clone(),
                path,
                ino,
                since: Instant::now(),
            })),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.judge(&path),
            Err(e) => Err(e),
        }
    }

    /// From now on every lock of `identity` is stale: its process is known to be dead.
    pub fn bury(&self, identity: Identity) {
        self.shared().dead.insert(identity);
    }

    /// Removes what dead mailslots left in the folder: their locks and the files these were links
    /// of. Called before the first delivery; a lock that appears later is judged when it is met.
    pub fn sweep(&self) -> io::Result<()> {
        for name in self.disk.list(&self.folder)? {
            if !name.starts_with(MASTER_PREFIX) && !name.ends_with(".lock") {
                continue;
            }
            let path = self.folder.join(&name);
            let Ok(stat) = self.disk.look(&path) else { continue };
            let dead = match (self.read(&path), name.strip_prefix(MASTER_PREFIX)) {
                (Some(id), _) => self.is_dead(&id),
                // Killed before its line was written. Should its maker live on another host, it
                // makes the file again.
                (None, Some(rest)) => no_such_process(rest),
                (None, None) => false,
            };
            if dead {
                let _ = self.remove_same(&path, &stat);
            }
        }
        Ok(())
    }

    /// How many stale locks were broken so far.
    pub fn broken(&self) -> u64 {
        self.shared().broken
    }

    /// Removes this process's own file; no lock may be held.
    pub fn close(&self) {
        if let Some(master) = self.shared().master.take() {
            let _ = self.disk.unlink(&master.path);
        }
    }

    /// Makes the lock; its inode.
    fn create(&self, path: &Path) -> io::Result<u64> {
        let master = self.master()?;
        match self.disk.link(&master.path, path) {
            Ok(()) => Ok(master.ino),
            // Our own file was swept away by a stranger: make it anew, once.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.shared().master = None;
                let master = self.master()?;
                self.disk.link(&master.path, path).map(|()| master.ino)
            }
            // A file system without hard links: created and filled, complete or judged by age.
            Err(e) if no_links(&e) => self.write_new(path),
            Err(e) => Err(e),
        }
    }

    /// The file that locks are links of, its time fresh enough that nobody judges them old.
    fn master(&self) -> io::Result<Master> {
        let mut shared = self.shared();
        if let Some(master) = &mut shared.master {
            if master.touched.elapsed() < TOUCH_EVERY {
                return Ok(master.clone());
            }
            if let Ok(file) = self.disk.open(&master.path, Open::Append)
                && file.stat()?.ino == master.ino
            {
                file.touch()?;
                master.touched = Instant::now();
                return Ok(master.clone());
            }
        }
        let pid = self.identity.pid().unwrap_or_default();
        let path = self.folder.join(format!("{MASTER_PREFIX}{pid}"));
        match self.disk.unlink(&path) {
            // Left by a dead process that had our pid.
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let master = Master { ino: self.write_new(&path)?, path, touched: Instant::now() };
        shared.master = Some(master.clone());
        Ok(master)
    }

    fn write_new(&self, path: &Path) -> io::Result<u64> {
        let file = self.disk.open(path, Open::Create { mode: 0o644, owner: None })?;
        let line = self.identity.as_bytes();
        let written = file.append(&[IoSlice::new(line)]);
        let whole = matches!(written, Ok(n) if n == line.len());
        match (whole, file.stat()) {
            (true, Ok(stat)) => Ok(stat.ino),
            (_, stat) => {
                let _ = self.disk.unlink(path);
                written?;
                stat?;
                Err(io::ErrorKind::WriteZero.into())
            }
        }
    }

    /// The lock exists: is it stale?
    fn judge(&self, path: &Path) -> io::Result<Attempt<Dotlock<D>>> {
        let stat = match self.disk.look(path) {
            Ok(stat) => stat,
            // Gone in the meantime; the next attempt gets it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Busy(gone())),
            Err(e) => return Err(e),
        };
        let holder = self.read(path);
        if let Some(id) = &holder
            && self.is_dead(id)
        {
            self.log_broken(path, holder.as_ref(), &stat);
            // Whatever it was doing to the mailbox must be mended before we append behind it.
            return match self.remove_same(path, &stat) {
                Ok(()) => Ok(Attempt::Orphaned),
                Err(e) => Ok(Attempt::Busy(format!("stale dotlock that cannot be removed: {e}"))),
            };
        }
        if holder.as_ref() == Some(&self.identity) {
            // The one writer never takes a lock that it has: an earlier one could not be removed.
            return match self.remove_same(path, &stat) {
                Ok(()) => Ok(Attempt::Busy(gone())),
                Err(e) => Ok(Attempt::Busy(format!("own dotlock that cannot be removed: {e}"))),
            };
        }
        if self.age(&stat).is_some_and(|age| age.as_secs() > STALE_SECS) {
            self.log_broken(path, holder.as_ref(), &stat);
            return match self.remove_same(path, &stat) {
                Ok(()) => Ok(Attempt::Busy(gone())),
                Err(e) => Ok(Attempt::Busy(format!("stale dotlock that cannot be removed: {e}"))),
            };
        }
        let pid = holder.and_then(|id| id.pid());
        Ok(Attempt::Busy(pid.map_or("dotlock".into(), |pid| format!("dotlock of pid {pid}"))))
    }

    fn log_broken(&self, path: &Path, holder: Option<&Identity>, stat: &Stat) {
        let age = SystemTime::now().duration_since(stat.modified).unwrap_or_default().as_secs();
        let pid = holder.and_then(Identity::pid).map_or("unknown".into(), |pid| pid.to_string());
        log::warn!("lock-broken path={} pid={pid} age={age}", value(path.display()));
        self.shared().broken += 1;
    }

    fn is_dead(&self, id: &Identity) -> bool {
        *id != self.identity && (id.is_dead() || self.shared().dead.contains(id))
    }

    fn read(&self, path: &Path) -> Option<Identity> {
        let file = self.disk.open(path, Open::Read).ok()?;
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
        let probe = self.folder.join(format!("{MASTER_PREFIX}{}-clock", std::process::id()));
        let made = self.disk.open(&probe, Open::Create { mode: 0o600, owner: None });
        let now = made.and_then(|file| file.stat()).map(|s| s.modified);
        let _ = self.disk.unlink(&probe);
        now.ok()?.duration_since(stat.modified).ok()
    }

    /// Removes `path` if it still is the file that was judged.
    fn remove_same(&self, path: &Path, judged: &Stat) -> io::Result<()> {
        let file = match self.disk.open(path, Open::Read) {
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
        let now = self.disk.look(path)?;
        if (now.dev, now.ino, now.modified) != (judged.dev, judged.ino, judged.modified) {
            return Ok(());
        }
        self.disk.unlink(path)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
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
            log::warn!("lock-lost path={}", value(self.path.display()));
            return;
        }
        if let Err(e) = self.disk.unlink(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            log::warn!("unlock-failed path={} error={}", value(self.path.display()), value(e));
        }
    }
}

/// Whether `text` begins with a pid that no process of this pid namespace has.
fn no_such_process(text: &str) -> bool {
    let digits = text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    let pid = digits.parse().ok().filter(|&pid: &i32| pid > 0);
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

fn gone() -> String {
    "dotlock, just released".into()
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
