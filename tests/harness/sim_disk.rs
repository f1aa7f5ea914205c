//! A disk in memory that fails, stops and loses power where a test wants it to.
//!
//! [`SimMachine`] holds files, names, locks and processes. [`SimDisk`] is the view that one process
//! has of it, the `Disk` that a writer is started on. Every call of a process is numbered and
//! logged, and a [`Plan`] says what happens at the n-th.
//!
//! A fault leaves this:
//! - A *kill* ends one process. From then on its calls fail and its locks are released, but all
//!   that it wrote, and every name that it created, stays. In the middle of a write it leaves whole
//!   pages.
//! - A *power loss* ends all processes. What was synced is there. Of the sectors, lengths and names
//!   that changed since then, nothing, all, a prefix or any subset is there, as the seed decides. A
//!   file that was extended ends at any of the new sectors. A sector that was written twice is the
//!   old, the first or the second. A length without its sectors reads as zeros, a name without a
//!   file is gone.
//! - A *lost file system* loses what a power loss loses, in some directories only, and nothing else
//!   happens. It may have the time of a change and not the change itself, because metadata are
//!   written on their own.
//! - A *sync that fails* marks pages clean, as Linux does: they can be read, but a power loss loses
//!   them nevertheless. A file that was open at that time reports the error once, at its own next
//!   sync. The sync after that one succeeds, as does that of a file opened later. Changed names of
//!   a directory remain to be synced, because they are metadata: a file system that cannot write
//!   its journal does not later report success.
//!
//! A process has a limit of descriptors ([`SimDisk::limit_descriptors`]), of which an open file has
//! one. Files get their times from a clock that can step ([`SimMachine::step_clock`]). After a loss
//! the file systems are other devices with the same inodes, as when a disk gets another name.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mailslot::deliver::disk::{ChangeTime, Disk, DiskFile, FileKind, FileLock, OpenMode, Stat};
use nix::errno::Errno;

use super::random::Random;

/// Length of a page, at whose end a write stops if the process is killed.
pub const PAGE: usize = 4096;
/// Length of a sector, which a power loss leaves whole or not at all.
pub const SECTOR: usize = 512;

/// An event at one call of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails.
    Once(Errno),
    /// The call fails, and all later ones that can fail with this error.
    FromThenOn(Errno),
    /// A write takes a part of what it was given.
    Short(Part),
    /// The process ends before the call.
    KillBefore,
    /// A write ends at a page boundary in the middle, and the process ends with it.
    KillWithin,
    /// The process ends after the call.
    KillAfter,
    /// Power is lost before the call. The seed decides what is kept.
    PowerBefore(u64),
    /// Power is lost after the call. The seed decides what is kept.
    PowerAfter(u64),
}

/// The part of a write that succeeds: one byte, half, or all but one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    One,
    Half,
    ButOne,
}

/// A fault, and the number of the call at which it happens. Calls are counted from 1: all of them,
/// or only the writes for a fault that only a write can have.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub at: u64,
    pub fault: Fault,
}

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Look,
    Open,
    Create,
    Link,
    Unlink,
    List,
    SyncDirectory,
    Stat,
    Read,
    Write,
    SetLen,
    Sync,
    Lock,
    Touch,
}

/// A call, logged when it returns.
#[derive(Clone, Debug)]
pub struct Call {
    pub pid: u32,
    pub op: Op,
    pub path: PathBuf,
    pub ok: bool,
}

/// A simulated machine. Clones are the same one.
#[derive(Clone, Debug)]
pub struct SimMachine(Arc<Mutex<State>>);

/// The disk as one process sees it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    machine: SimMachine,
    pid: u32,
}

/// An open file description.
#[derive(Debug)]
pub struct SimFile {
    machine: SimMachine,
    pid: u32,
    ino: u64,
    description: u64,
    path: PathBuf,
    /// Number of failed syncs of the file that it has reported, or that came before it was opened.
    failed_syncs: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct State {
    boot: u64,
    /// Number of times that the disk was mounted. Each time it is another device.
    mounts: u64,
    /// True if the machine has no boot id to show, as without /proc.
    hides_boot_id: bool,
    next: u64,
    directories: BTreeSet<PathBuf>,
    /// Times of the last changes of names, by directory.
    directory_changed: HashMap<PathBuf, ChangeTime>,
    synced_directory_changed: HashMap<PathBuf, ChangeTime>,
    /// Number of bytes that were read, by path.
    octets_read: HashMap<PathBuf, u64>,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<(PathBuf, Option<u64>)>,
    inodes: HashMap<u64, Inode>,
    locks: HashMap<(u64, bool), (u64, u32)>,
    processes: HashMap<u32, Process>,
    log: Vec<Call>,
    sync_time: Duration,
    /// Seconds that the clock is ahead of the host's.
    clock_ahead: i64,
}

#[derive(Clone, Debug, Default)]
struct Process {
    dead: bool,
    calls: u64,
    writes: u64,
    plan: Option<Plan>,
    fired: bool,
    descriptors: usize,
    descriptors_max: Option<usize>,
}

#[derive(Clone, Debug)]
struct Inode {
    data: Vec<u8>,
    disk: Vec<u8>,
    disk_len: usize,
    changes: Vec<Change>,
    failed_syncs: u64,
    mode: u32,
    modified: SystemTime,
    changed: ChangeTime,
    synced_changed: ChangeTime,
}

#[derive(Clone, Debug)]
enum Change {
    Sector(usize, Vec<u8>),
    Len(usize),
}

impl SimMachine {
    /// Creates a machine with these directories.
    pub fn new(directories: &[&str]) -> SimMachine {
        let directories = directories.iter().map(PathBuf::from).collect();
        SimMachine(Arc::new(Mutex::new(State { directories, next: 100, ..State::default() })))
    }

    /// Copies the machine.
    pub fn fork(&self) -> SimMachine {
        SimMachine(Arc::new(Mutex::new(self.state().clone())))
    }

    /// Starts a process.
    pub fn process(&self) -> SimDisk {
        let mut state = self.state();
        state.next += 1;
        let pid = state.next as u32;
        state.processes.insert(pid, Process::default());
        SimDisk { machine: self.clone(), pid }
    }

    /// Makes a new process with the pid of `dead`.
    pub fn process_with_pid_of(&self, dead: &SimDisk) -> SimDisk {
        self.state().processes.insert(dead.pid, Process::default());
        SimDisk { machine: self.clone(), pid: dead.pid }
    }

    /// Shows no boot id from now on.
    pub fn hide_boot_id(&self) {
        self.state().hides_boot_id = true;
    }

    /// Returns the content of a file as every process sees it, synced or not.
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state();
        let ino = state.names.get(Path::new(path))?;
        Some(state.inodes[ino].data.clone())
    }

    /// Returns the sorted names in a directory.
    pub fn names(&self, directory: &str) -> Vec<String> {
        self.state().list(Path::new(directory))
    }

    /// Has another program replace the content of a file, without a new inode.
    pub fn rewrite(&self, path: &str, data: &[u8]) {
        let mut state = self.state();
        let now = state.now();
        let inode = state.open_or_create(Path::new(path));
        inode.set_len(0, now);
        inode.write(0, data, now);
    }

    /// Has another program append to a file.
    pub fn append(&self, path: &str, data: &[u8]) {
        let mut state = self.state();
        let now = state.now();
        let inode = state.open_or_create(Path::new(path));
        inode.write(inode.data.len(), data, now);
    }

    /// Has another program write a new file and rename it over the old one.
    pub fn replace(&self, path: &str, data: &[u8]) {
        let mut state = self.state();
        let now = state.now();
        let ino = state.create(Path::new(path), 0o600);
        state.inodes.get_mut(&ino).unwrap().write(0, data, now);
    }

    /// Has another program remove a name.
    pub fn remove(&self, path: &str) {
        self.state().rename(Path::new(path), None);
    }

    /// Has another program sync a file and its directory.
    pub fn sync(&self, path: &str) {
        let mut state = self.state();
        let path = Path::new(path);
        if let Some(ino) = state.names.get(path).copied() {
            state.inodes.get_mut(&ino).unwrap().sync();
        }
        state.sync_directory(path.parent().unwrap());
    }

    /// Syncs all files and names.
    pub fn sync_all(&self) {
        let mut state = self.state();
        state.synced_names = state.names.clone();
        state.name_changes.clear();
        state.inodes.values_mut().for_each(Inode::sync);
    }

    /// Makes every later sync take `time`, as on a real disk.
    pub fn slow_sync(&self, time: Duration) {
        self.state().sync_time = time;
    }

    /// Steps the clock by `seconds`.
    pub fn step_clock(&self, seconds: i64) {
        self.state().clock_ahead += seconds;
    }

    /// Loses power, and all that was not synced.
    pub fn lose_all(&self) {
        let mut state = self.state();
        state.name_changes.clear();
        state.inodes.values_mut().for_each(|inode| inode.changes.clear());
        state.lose_power(0);
    }

    /// Loses power. The seed decides what is kept of what was not synced.
    pub fn lose_power(&self, seed: u64) {
        self.state().lose_power(seed);
    }

    /// Has the file system of `directories` lose what was not synced. The seed decides what is
    /// kept. No process may have files in them open.
    pub fn lose_file_system(&self, directories: &[&str], seed: u64) {
        let mut state = self.state();
        state.mounts += 1;
        for directory in directories {
            state.lose_directory(Path::new(directory), seed);
        }
    }

    /// Returns how many bytes of a file were read.
    pub fn octets_read(&self, path: &str) -> u64 {
        self.state().octets_read.get(Path::new(path)).copied().unwrap_or_default()
    }

    /// Has another program lock a mailbox. False if it is locked already.
    pub fn lock(&self, path: &str, lock: FileLock) -> bool {
        let mut state = self.state();
        let Some(&ino) = state.names.get(Path::new(path)) else { return false };
        let key = (ino, lock == FileLock::Flock);
        if state.locks.contains_key(&key) {
            return false;
        }
        state.locks.insert(key, (0, 0));
        true
    }

    /// Releases all locks of other programs.
    pub fn unlock_all(&self) {
        self.state().locks.retain(|_, (_, pid)| *pid != 0);
    }

    /// Returns the log so far.
    pub fn log(&self) -> Vec<Call> {
        self.state().log.clone()
    }

    /// Empties the log.
    pub fn forget_log(&self) {
        self.state().log.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimDisk {
    /// Sets what is to happen. Calls are counted from now on.
    pub fn plan(&self, plan: Option<Plan>) {
        let mut state = self.machine.state();
        let process = state.processes.get_mut(&self.pid).unwrap();
        (process.plan, process.fired) = (plan, false);
        (process.calls, process.writes) = (0, 0);
    }

    /// True if the plan has been carried out.
    pub fn fired(&self) -> bool {
        self.machine.state().processes[&self.pid].fired
    }

    /// Returns how many calls were made since the plan was set.
    pub fn calls(&self) -> u64 {
        self.machine.state().processes[&self.pid].calls
    }

    /// Sets how many descriptors the process may have, or removes the limit.
    pub fn limit_descriptors(&self, most: Option<usize>) {
        self.machine.state().processes.get_mut(&self.pid).unwrap().descriptors_max = most;
    }

    /// Returns how many descriptors the process has.
    pub fn descriptors(&self) -> usize {
        self.machine.state().processes[&self.pid].descriptors
    }

    /// Ends the process.
    pub fn kill(&self) {
        self.machine.state().kill(self.pid);
    }

    pub fn is_dead(&self) -> bool {
        self.machine.state().processes[&self.pid].dead
    }

    fn call<T>(
        &self,
        op: Op,
        path: &Path,
        run: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        self.machine.state().call(self.pid, op, path, run)
    }
}

impl State {
    /// Makes one numbered call, with what is planned for it.
    fn call<T>(
        &mut self,
        pid: u32,
        op: Op,
        path: &Path,
        run: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let after = self.before(pid, op)?;
        let result = run(self);
        self.log.push(Call { pid, op, path: path.to_owned(), ok: result.is_ok() });
        match after {
            Some(Fault::KillAfter) => self.kill(pid),
            Some(Fault::PowerAfter(seed)) => self.lose_power(seed),
            _ => return result,
        }
        Err(killed())
    }

    /// Does what is planned before a call. Returns what is planned within or after it.
    fn before(&mut self, pid: u32, op: Op) -> io::Result<Option<Fault>> {
        let process = self.processes.get_mut(&pid).unwrap();
        if process.dead {
            return Err(killed());
        }
        process.calls += 1;
        process.writes += u64::from(op == Op::Write);
        let Some(plan) = process.plan else { return Ok(None) };
        let (now, later) = (process.calls == plan.at, process.calls > plan.at);
        match plan.fault {
            Fault::Once(errno) if now && can_fail(op, errno) => {
                process.fired = true;
                Err(errno.into())
            }
            Fault::FromThenOn(errno) if (now || later) && can_fail(op, errno) => {
                process.fired = true;
                // No call is interrupted forever.
                match errno == Errno::EINTR && (process.calls - plan.at) % 2 == 1 {
                    true => Ok(None),
                    false => Err(errno.into()),
                }
            }
            Fault::KillBefore if now => {
                process.fired = true;
                self.kill(pid);
                Err(killed())
            }
            Fault::PowerBefore(seed) if now => {
                process.fired = true;
                self.lose_power(seed);
                Err(killed())
            }
            Fault::KillAfter | Fault::PowerAfter(_) if now => {
                process.fired = true;
                Ok(Some(plan.fault))
            }
            Fault::Short(_) | Fault::KillWithin if op == Op::Write && process.writes == plan.at => {
                process.fired = true;
                Ok(Some(plan.fault))
            }
            _ => Ok(None),
        }
    }

    fn now(&self) -> SystemTime {
        let step = Duration::from_secs(self.clock_ahead.unsigned_abs());
        let now = SystemTime::now();
        if self.clock_ahead < 0 { now - step } else { now + step }
    }

    /// Fails unless the process may have one more descriptor.
    fn check_descriptors(&self, pid: u32) -> io::Result<()> {
        let process = &self.processes[&pid];
        match process.descriptors_max.is_some_and(|most| process.descriptors >= most) {
            true => Err(Errno::EMFILE.into()),
            false => Ok(()),
        }
    }

    fn kill(&mut self, pid: u32) {
        self.processes.get_mut(&pid).unwrap().dead = true;
        self.locks.retain(|_, (_, holder)| *holder != pid);
    }

    fn lose_power(&mut self, seed: u64) {
        let mut random = Random(seed);
        let mode = Keep::new(&mut random);
        self.processes.values_mut().for_each(|p| p.dead = true);
        self.locks.clear();
        (self.boot, self.mounts) = (self.boot + 1, self.mounts + 1);
        let changes = std::mem::take(&mut self.name_changes);
        let mut names = self.synced_names.clone();
        for (path, ino) in mode.choose(changes, &mut random) {
            match ino {
                Some(ino) => names.insert(path, ino),
                None => names.remove(&path),
            };
        }
        self.synced_names = names.clone();
        self.names = names;
        let mut inos: Vec<u64> = self.inodes.keys().copied().collect();
        inos.sort_unstable();
        for ino in inos {
            let inode = self.inodes.get_mut(&ino).unwrap();
            let mode = Keep::new(&mut random);
            let changes = std::mem::take(&mut inode.changes);
            for change in mode.choose_of_file(changes, &mut random) {
                inode.apply(change);
            }
            inode.disk.resize(inode.disk_len, 0);
            inode.data = inode.disk.clone();
        }
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|ino, _| named.contains(ino));
    }

    fn lose_directory(&mut self, directory: &Path, seed: u64) {
        let mut random = Random(seed);
        let is_inside = |path: &Path| path.parent() == Some(directory);
        let changes = self.name_changes.extract_if(.., |(path, _)| is_inside(path));
        let changes: Vec<_> = changes.collect();
        let files = |names: &BTreeMap<PathBuf, u64>| -> BTreeMap<PathBuf, u64> {
            let inside = names.iter().filter(|(path, _)| is_inside(path));
            inside.map(|(path, ino)| (path.clone(), *ino)).collect()
        };
        let inos: BTreeSet<u64> = files(&self.names)
            .into_values()
            .chain(files(&self.synced_names).into_values())
            .collect();
        // The names of a directory and the time of their last change are written together.
        if random.below(2) == 0 {
            self.names.retain(|path, _| !is_inside(path));
            self.names.extend(files(&self.synced_names));
            let synced = self.synced_directory_changed.get(directory).copied().unwrap_or_default();
            self.directory_changed.insert(directory.to_owned(), synced);
        } else {
            self.name_changes.extend(changes);
            self.sync_directory(directory);
        }
        for ino in inos {
            let Some(inode) = self.inodes.get_mut(&ino) else { continue };
            let changes = std::mem::take(&mut inode.changes);
            for change in Keep::new(&mut random).choose(changes, &mut random) {
                inode.apply(change);
            }
            inode.disk.resize(inode.disk_len, 0);
            inode.data = inode.disk.clone();
            if random.below(2) == 0 {
                inode.changed = inode.synced_changed;
            }
        }
        let named: BTreeSet<u64> =
            self.names.values().chain(self.synced_names.values()).copied().collect();
        self.inodes.retain(|ino, _| named.contains(ino));
    }

    /// Returns the file at `path`, which is created if it is missing.
    fn open_or_create(&mut self, path: &Path) -> &mut Inode {
        let ino = match self.names.get(path) {
            Some(ino) => *ino,
            None => self.create(path, 0o600),
        };
        self.inodes.get_mut(&ino).unwrap()
    }

    fn create(&mut self, path: &Path, mode: u32) -> u64 {
        self.next += 1;
        let ino = self.next;
        let (data, disk) = (Vec::new(), Vec::new());
        let modified = self.now();
        let (changes, failed_syncs) = (Vec::new(), 0);
        let (changed, synced_changed) = (change_time(modified), (0, 0));
        let inode = Inode {
            data,
            disk,
            disk_len: 0,
            changes,
            failed_syncs,
            mode,
            modified,
            changed,
            synced_changed,
        };
        self.inodes.insert(ino, inode);
        self.rename(path, Some(ino));
        ino
    }

    fn rename(&mut self, path: &Path, ino: Option<u64>) {
        let changed = change_time(self.now());
        let renamed = ino.or(self.names.get(path).copied());
        if let Some(inode) = renamed.and_then(|ino| self.inodes.get_mut(&ino)) {
            inode.changed = changed;
        }
        self.directory_changed.insert(path.parent().unwrap().to_owned(), changed);
        match ino {
            Some(ino) => self.names.insert(path.to_owned(), ino),
            None => self.names.remove(path),
        };
        self.name_changes.push((path.to_owned(), ino));
    }

    fn sync_directory(&mut self, directory: &Path) {
        let changed = self.directory_changed.get(directory).copied().unwrap_or_default();
        self.synced_directory_changed.insert(directory.to_owned(), changed);
        let changes = std::mem::take(&mut self.name_changes);
        for (path, ino) in changes {
            if path.parent() != Some(directory) {
                self.name_changes.push((path, ino));
                continue;
            }
            match ino {
                Some(ino) => self.synced_names.insert(path, ino),
                None => self.synced_names.remove(&path),
            };
        }
    }

    fn list(&self, directory: &Path) -> Vec<String> {
        let inside = self.names.keys().filter(|p| p.parent() == Some(directory));
        inside.map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn stat(&self, ino: u64) -> Stat {
        let inode = &self.inodes[&ino];
        Stat {
            dev: self.mounts,
            ino,
            kind: FileKind::Regular,
            links: self.names.values().filter(|i| **i == ino).count() as u64,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mode: inode.mode,
            len: inode.data.len() as u64,
            modified: inode.modified,
            changed: inode.changed,
        }
    }
}

impl Inode {
    fn write(&mut self, at: usize, bytes: &[u8], now: SystemTime) {
        let (end, before) = (at + bytes.len(), self.data.len());
        if end > before {
            self.data.resize(end, 0);
        }
        self.data[at..end].copy_from_slice(bytes);
        (self.modified, self.changed) = (now, change_time(now));
        if bytes.is_empty() {
            return;
        }
        for sector in at / SECTOR..=(end - 1) / SECTOR {
            let stretch = sector * SECTOR..self.data.len().min((sector + 1) * SECTOR);
            let longer = (stretch.end > before).then_some(stretch.end);
            self.changes.push(Change::Sector(sector, self.data[stretch].to_vec()));
            self.changes.extend(longer.map(Change::Len));
        }
    }

    fn set_len(&mut self, len: usize, now: SystemTime) {
        self.data.resize(len, 0);
        (self.modified, self.changed) = (now, change_time(now));
        self.changes.push(Change::Len(len));
    }

    fn sync(&mut self) {
        self.synced_changed = self.changed;
        for change in std::mem::take(&mut self.changes) {
            self.apply(change);
        }
    }

    /// Fails a sync: pages are clean now, and lost. Lengths are metadata and remain to be synced.
    fn fail_sync(&mut self) {
        self.changes.retain(|c| matches!(c, Change::Len(_)));
        self.failed_syncs += 1;
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Sector(sector, bytes) => {
                let at = sector * SECTOR;
                if at + bytes.len() > self.disk.len() {
                    self.disk.resize(at + bytes.len(), 0);
                }
                self.disk[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Change::Len(len) => {
                if len < self.disk_len {
                    self.disk.truncate(len);
                }
                self.disk_len = len;
            }
        }
    }
}

/// The part of what was not synced that a power loss keeps.
enum Keep {
    Nothing,
    All,
    Prefix,
    /// Each change with a probability of n / 8.
    Subset(u64),
}

impl Keep {
    fn new(random: &mut Random) -> Keep {
        match random.below(6) {
            0 => Keep::Nothing,
            1 => Keep::All,
            2 | 3 => Keep::Prefix,
            _ => Keep::Subset(1 + random.below(7)),
        }
    }

    /// Returns the changes of a file that are kept. The last length that is kept is one that the
    /// file had, because a file system writes the lengths of a file in order.
    fn choose_of_file(&self, changes: Vec<Change>, random: &mut Random) -> Vec<Change> {
        let Keep::Subset(eighths) = self else { return self.choose(changes, random) };
        let lens_end = random.below(changes.len() as u64 + 1) as usize;
        let changes = changes.into_iter().enumerate();
        let kept = changes.filter(|(n, change)| match change {
            Change::Len(_) => *n < lens_end,
            Change::Sector(..) => random.below(8) < *eighths,
        });
        kept.map(|(_, change)| change).collect()
    }

    fn choose<T>(&self, mut changes: Vec<T>, random: &mut Random) -> Vec<T> {
        match self {
            Keep::Nothing => changes.clear(),
            Keep::All => {}
            Keep::Prefix => changes.truncate(random.below(changes.len() as u64 + 1) as usize),
            Keep::Subset(eighths) => changes.retain(|_| random.below(8) < *eighths),
        }
        changes
    }
}

impl Disk for SimDisk {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        self.call(Op::Look, path, |state| {
            if let Some(n) = state.directories.iter().position(|d| d == path) {
                let (uid, gid) = (nix::unistd::geteuid().as_raw(), u32::MAX);
                let kind = FileKind::Directory;
                // Each change of a name shows.
                let names = BuildHasherDefault::<DefaultHasher>::default();
                let names = Duration::from_nanos(names.hash_one(state.list(path)));
                let modified = SystemTime::UNIX_EPOCH + names;
                return Ok(Stat {
                    dev: state.mounts,
                    ino: 1 + n as u64,
                    kind,
                    links: 1,
                    uid,
                    gid,
                    mode: 0o755,
                    len: 0,
                    modified,
                    changed: state.directory_changed.get(path).copied().unwrap_or_default(),
                });
            }
            state.find(path).map(|ino| state.stat(ino))
        })
    }

    fn open(&self, path: &Path, how: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let op = if matches!(how, OpenMode::Create { .. }) { Op::Create } else { Op::Open };
        let (ino, description, failed_syncs) = self.call(op, path, |state| {
            state.check_descriptors(self.pid)?;
            let ino = match (how, state.find(path)) {
                (OpenMode::Create { .. }, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                (OpenMode::Create { mode, .. }, Err(_)) => state.create(path, mode),
                (_, found) => found?,
            };
            state.processes.get_mut(&self.pid).unwrap().descriptors += 1;
            state.next += 1;
            Ok((ino, state.next, state.inodes[&ino].failed_syncs))
        })?;
        let (machine, path) = (self.machine.clone(), path.to_owned());
        let failed_syncs = failed_syncs.into();
        Ok(Arc::new(SimFile { machine, pid: self.pid, ino, description, path, failed_syncs }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call(Op::Link, to, |state| {
            let ino = state.find(from)?;
            if state.find(to).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.rename(to, Some(ino));
            Ok(())
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.call(Op::Unlink, path, |state| {
            state.find(path)?;
            state.rename(path, None);
            Ok(())
        })
    }

    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.call(Op::List, directory, |state| {
            state.check_descriptors(self.pid)?;
            Ok(state.list(directory))
        })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.call(Op::SyncDirectory, directory, |state| {
            state.check_descriptors(self.pid)?;
            state.sync_directory(directory);
            Ok(())
        })
    }

    fn pid(&self) -> u32 {
        self.pid
    }

    fn pid_scope(&self) -> Option<String> {
        let state = self.machine.state();
        (!state.hides_boot_id).then(|| format!("boot{}/sim", state.boot))
    }

    fn now(&self) -> SystemTime {
        self.machine.state().now()
    }

    fn is_dead(&self, pid: u32) -> bool {
        self.machine.state().processes.get(&pid).is_none_or(|p| p.dead)
    }
}

impl SimFile {
    fn call<T>(&self, op: Op, run: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        self.machine.state().call(self.pid, op, &self.path, run)
    }

    /// Writes once, at an offset or at the end.
    fn write(&self, bytes: &[u8], at: Option<u64>) -> io::Result<usize> {
        let mut state = self.machine.state();
        let planned = state.before(self.pid, Op::Write)?;
        let at = at.map_or(state.inodes[&self.ino].data.len(), |at| at as usize);
        let n = match planned {
            Some(Fault::Short(Part::One)) => bytes.len().min(1),
            Some(Fault::Short(Part::Half)) => bytes.len().div_ceil(2),
            Some(Fault::Short(Part::ButOne)) => bytes.len().saturating_sub(1).max(1),
            Some(Fault::KillWithin) => {
                // The middle one of the page boundaries within.
                let (first, last) = (at / PAGE + 1, (at + bytes.len()).saturating_sub(1) / PAGE);
                if first <= last { (first + last) / 2 * PAGE - at } else { 0 }
            }
            _ => bytes.len(),
        };
        let n = n.min(bytes.len());
        let now = state.now();
        state.inodes.get_mut(&self.ino).unwrap().write(at, &bytes[..n], now);
        state.log.push(Call { pid: self.pid, op: Op::Write, path: self.path.clone(), ok: true });
        match planned {
            Some(Fault::KillAfter | Fault::KillWithin) => state.kill(self.pid),
            Some(Fault::PowerAfter(seed)) => state.lose_power(seed),
            _ => return Ok(n),
        }
        Err(killed())
    }
}

impl DiskFile for SimFile {
    fn stat(&self) -> io::Result<Stat> {
        self.call(Op::Stat, |state| Ok(state.stat(self.ino)))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.call(Op::Read, |state| {
            let data = &state.inodes[&self.ino].data;
            let from = data.len().min(offset as usize);
            let n = buf.len().min(data.len() - from);
            buf[..n].copy_from_slice(&data[from..from + n]);
            *state.octets_read.entry(self.path.clone()).or_default() += n as u64;
            Ok(n)
        })
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        self.write(&joined(parts), Some(offset))
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(&joined(parts), None)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call(Op::SetLen, |state| {
            let now = state.now();
            state.inodes.get_mut(&self.ino).unwrap().set_len(len as usize, now);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        let time = self.machine.state().sync_time;
        if !time.is_zero() {
            std::thread::sleep(time);
        }
        let mut state = self.machine.state();
        let dead = state.processes[&self.pid].dead;
        let mut planned = true;
        let result = state.call(self.pid, Op::Sync, &self.path, |state| {
            planned = false;
            let inode = state.inodes.get_mut(&self.ino).unwrap();
            inode.sync();
            match self.failed_syncs.swap(inode.failed_syncs, Ordering::Relaxed) {
                known if known == inode.failed_syncs => Ok(()),
                _ => Err(Errno::EIO.into()),
            }
        });
        if let Err(e) = &result
            && planned
            && !dead
            // A sync that was interrupted has tried nothing.
            && e.raw_os_error().is_some_and(|e| e != Errno::EINTR as i32)
            && let Some(inode) = state.inodes.get_mut(&self.ino)
        {
            inode.fail_sync();
            self.failed_syncs.store(inode.failed_syncs, Ordering::Relaxed);
            let call = Call { pid: self.pid, op: Op::Sync, path: self.path.clone(), ok: false };
            state.log.push(call);
        }
        result
    }

    fn try_lock(&self, lock: FileLock) -> io::Result<bool> {
        self.call(Op::Lock, |state| {
            let holder = (self.description, self.pid);
            let key = (self.ino, lock == FileLock::Flock);
            Ok(*state.locks.entry(key).or_insert(holder) == holder)
        })
    }

    fn unlock(&self, lock: FileLock) -> io::Result<()> {
        self.call(Op::Lock, |state| {
            let key = (self.ino, lock == FileLock::Flock);
            if state.locks.get(&key).is_some_and(|(d, _)| *d == self.description) {
                state.locks.remove(&key);
            }
            Ok(())
        })
    }

    fn touch(&self) -> io::Result<()> {
        self.call(Op::Touch, |state| {
            let now = state.now();
            let inode = state.inodes.get_mut(&self.ino).unwrap();
            (inode.modified, inode.changed) = (now, change_time(now));
            Ok(())
        })
    }
}

impl Drop for SimFile {
    /// Releases the descriptor and the locks, as closing a file does.
    fn drop(&mut self) {
        let mut state = self.machine.state();
        // A new process with the pid of a dead one has none of its files.
        let process = state.processes.get_mut(&self.pid).unwrap();
        process.descriptors = process.descriptors.saturating_sub(1);
        state.locks.retain(|_, (description, _)| *description != self.description);
    }
}

/// True if a call of this kind can fail with `errno`.
fn can_fail(op: Op, errno: Errno) -> bool {
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => {
            matches!(op, Op::Create | Op::Link | Op::Write | Op::Sync | Op::SyncDirectory)
        }
        Errno::EFBIG => op == Op::Write,
        Errno::EMFILE => matches!(op, Op::Open | Op::Create | Op::List | Op::SyncDirectory),
        Errno::EACCES => matches!(op, Op::Look | Op::Open | Op::Create | Op::Link | Op::Unlink),
        // For a lock it would only mean that another process holds it.
        Errno::EAGAIN => op != Op::Lock,
        _ => true,
    }
}

/// Returns a time as a file has it.
fn change_time(time: SystemTime) -> ChangeTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (since.as_secs() as i64, since.subsec_nanos().into())
}

fn killed() -> io::Error {
    io::Error::other("killed")
}

fn joined(parts: &[IoSlice<'_>]) -> Vec<u8> {
    let mut all = Vec::new();
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all
}
