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
//! - A *power loss* ends all processes. What was synced is there. Of the page writes, changes of
//!   length and changes of names since then, nothing, all, a prefix or any subset is there, as the
//!   seed decides. A length without its pages reads as zeros, a name without a file is gone.
//! - A *sync that fails* marks pages clean, as Linux does: they can be read, but a power loss loses
//!   them nevertheless. A file that was open at that time reports the error once, at its own next
//!   sync. The sync after that one succeeds, as does that of a file opened later. Changed names of
//!   a directory remain to be synced, because they are metadata: a file system that cannot write
//!   its journal does not later report success.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use mailslot::deliver::disk::{Disk, DiskFile, FileKind, FileLock, OpenMode, Stat};
use nix::errno::Errno;

use super::random::Random;

/// Length of a page, which is written whole or not at all.
pub const PAGE: usize = 4096;

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
    /// True if the machine has no boot id to show, as without /proc.
    hides_boot_id: bool,
    next: u64,
    directories: BTreeSet<PathBuf>,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    name_changes: Vec<(PathBuf, Option<u64>)>,
    inodes: HashMap<u64, Inode>,
    locks: HashMap<(u64, bool), (u64, u32)>,
    processes: HashMap<u32, Process>,
    log: Vec<Call>,
    sync_time: Duration,
}

#[derive(Clone, Debug, Default)]
struct Process {
    dead: bool,
    calls: u64,
    writes: u64,
    plan: Option<Plan>,
    fired: bool,
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
}

#[derive(Clone, Debug)]
enum Change {
    Page(usize, Vec<u8>),
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
        let ino = match state.names.get(Path::new(path)) {
            Some(ino) => *ino,
            None => state.create(Path::new(path), 0o600),
        };
        let inode = state.inodes.get_mut(&ino).unwrap();
        inode.set_len(0);
        inode.write(0, data);
    }

    /// Has another program append to a file.
    pub fn append(&self, path: &str, data: &[u8]) {
        let mut state = self.state();
        let ino = match state.names.get(Path::new(path)) {
            Some(ino) => *ino,
            None => state.create(Path::new(path), 0o600),
        };
        let inode = state.inodes.get_mut(&ino).unwrap();
        inode.write(inode.data.len(), data);
    }

    /// Has another program write a new file and rename it over the old one.
    pub fn replace(&self, path: &str, data: &[u8]) {
        let mut state = self.state();
        let ino = state.create(Path::new(path), 0o600);
        state.inodes.get_mut(&ino).unwrap().write(0, data);
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

    fn kill(&mut self, pid: u32) {
        self.processes.get_mut(&pid).unwrap().dead = true;
        self.locks.retain(|_, (_, holder)| *holder != pid);
    }

    fn lose_power(&mut self, seed: u64) {
        let mut random = Random(seed);
        let mode = Keep::new(&mut random);
        self.processes.values_mut().for_each(|p| p.dead = true);
        self.locks.clear();
        self.boot += 1;
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
            for change in mode.choose(changes, &mut random) {
                inode.apply(change);
            }
            inode.disk.resize(inode.disk_len, 0);
            inode.data = inode.disk.clone();
        }
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.inodes.retain(|ino, _| named.contains(ino));
    }

    fn create(&mut self, path: &Path, mode: u32) -> u64 {
        self.next += 1;
        let ino = self.next;
        let (data, disk) = (Vec::new(), Vec::new());
        let modified = SystemTime::now();
        let (changes, failed_syncs) = (Vec::new(), 0);
        let inode = Inode { data, disk, disk_len: 0, changes, failed_syncs, mode, modified };
        self.inodes.insert(ino, inode);
        self.rename(path, Some(ino));
        ino
    }

    fn rename(&mut self, path: &Path, ino: Option<u64>) {
        match ino {
            Some(ino) => self.names.insert(path.to_owned(), ino),
            None => self.names.remove(path),
        };
        self.name_changes.push((path.to_owned(), ino));
    }

    fn sync_directory(&mut self, directory: &Path) {
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
            dev: 1,
            ino,
            kind: FileKind::Regular,
            links: self.names.values().filter(|i| **i == ino).count() as u64,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            mode: inode.mode,
            len: inode.data.len() as u64,
            modified: inode.modified,
        }
    }
}

impl Inode {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        let longer = end > self.data.len();
        if longer {
            self.data.extend_from_slice(&vec![0; end - self.data.len()]);
        }
        self.data[at..end].copy_from_slice(bytes);
        self.modified = SystemTime::now();
        if bytes.is_empty() {
            return;
        }
        for page in at / PAGE..=(end - 1) / PAGE {
            let stretch = page * PAGE..self.data.len().min((page + 1) * PAGE);
            self.changes.push(Change::Page(page, self.data[stretch].to_vec()));
        }
        if longer {
            self.changes.push(Change::Len(end));
        }
    }

    fn set_len(&mut self, len: usize) {
        self.data.resize(len, 0);
        self.modified = SystemTime::now();
        self.changes.push(Change::Len(len));
    }

    fn sync(&mut self) {
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
            Change::Page(page, bytes) => {
                let at = page * PAGE;
                if let Some(more) = (at + bytes.len()).checked_sub(self.disk.len()) {
                    self.disk.extend_from_slice(&vec![0; more]);
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
    Subset,
}

impl Keep {
    fn new(random: &mut Random) -> Keep {
        match random.below(6) {
            0 => Keep::Nothing,
            1 => Keep::All,
            2 | 3 => Keep::Prefix,
            _ => Keep::Subset,
        }
    }

    fn choose<T>(&self, mut changes: Vec<T>, random: &mut Random) -> Vec<T> {
        match self {
            Keep::Nothing => changes.clear(),
            Keep::All => {}
            Keep::Prefix => changes.truncate(random.below(changes.len() as u64 + 1) as usize),
            Keep::Subset => changes.retain(|_| random.below(2) == 0),
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
                    dev: 1,
                    ino: 1 + n as u64,
                    kind,
                    links: 1,
                    uid,
                    gid,
                    mode: 0o755,
                    len: 0,
                    modified,
                });
            }
            state.find(path).map(|ino| state.stat(ino))
        })
    }

    fn open(&self, path: &Path, how: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let op = if matches!(how, OpenMode::Create { .. }) { Op::Create } else { Op::Open };
        let (ino, description, failed_syncs) = self.call(op, path, |state| {
            let ino = match (how, state.find(path)) {
                (OpenMode::Create { .. }, Ok(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                (OpenMode::Create { mode, .. }, Err(_)) => state.create(path, mode),
                (_, found) => found?,
            };
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
        self.call(Op::List, directory, |state| Ok(state.list(directory)))
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.call(Op::SyncDirectory, directory, |state| {
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
        state.inodes.get_mut(&self.ino).unwrap().write(at, &bytes[..n]);
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
            state.inodes.get_mut(&self.ino).unwrap().set_len(len as usize);
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
            state.inodes.get_mut(&self.ino).unwrap().modified = SystemTime::now();
            Ok(())
        })
    }
}

impl Drop for SimFile {
    /// Releases the locks, as closing a file does.
    fn drop(&mut self) {
        self.machine.state().locks.retain(|_, (description, _)| *description != self.description);
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

fn killed() -> io::Error {
    io::Error::other("killed")
}

fn joined(parts: &[IoSlice<'_>]) -> Vec<u8> {
    let mut all = Vec::new();
    parts.iter().for_each(|part| all.extend_from_slice(part));
    all
}
