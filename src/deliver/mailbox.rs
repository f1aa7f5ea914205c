//! One mailbox while it is ours: locked, looked at, appended to, cut back, let go.
//!
//! The order is that of every careful mailer: dotlock, open, fcntl, flock; then look, with all
//! locks held, whether the name still leads to the file that was opened. None of the locks is
//! waited for while another is held: if one is busy all are let go, and the writer tries again
//! later.
//!
//! The mailbox itself is opened, created and removed as its owner (`privilege.rs`), the dotlock is
//! mailslot's own: fs.protected_hardlinks forbids to link somebody else's file, and a sticky folder
//! to remove one. What is open can be read, written and synced by whoever has the descriptor, and
//! counts against the quota of the file's owner.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, FileKind, FileLock, OpenMode, Stat};
use super::journal::BLOCK;
use super::locks::{Dotlock, DotlockDirectory, TryLock};
use super::{DeferReason, DeliveryError, Locks, Outcome};
use crate::message::{Content, MailboxName, Owner, QUEUE_FOLDER};

/// The mail folder: where mailboxes are and how they are locked and made.
#[derive(Debug)]
pub struct MailboxStore<D: Disk> {
    /// The disk it is on.
    pub disk: Arc<D>,
    /// Its path.
    pub path: PathBuf,
    /// The spool, which has the queue.
    pub spool: PathBuf,
    /// Its dotlocks.
    pub dotlocks: DotlockDirectory<D>,
    /// Which locks are taken.
    pub locks: Locks,
    /// The largest mailbox, in octets.
    pub limit: Option<u64>,
    /// The uid that mailboxes without an owner of their own must have: whoever runs mailslot.
    pub uid: u32,
    /// The folder's group, if it is group `mail`: new mailboxes are then 0660 USER:mail, by Debian
    /// Policy 11.6; else they are 0600.
    pub group: Option<u32>,
}

/// A mailbox's file, which may be kept open when the mailbox is let go.
type SharedFile<D> = Arc<<D as Disk>::File>;

/// A mailbox's file that is open, and as it was then.
#[derive(Debug)]
pub struct OpenMailbox<D: Disk> {
    /// The file.
    pub file: SharedFile<D>,
    /// Of when it was opened.
    pub stat: Stat,
}

/// A mailbox's file, locked and looked at.
struct LockedFile<D: Disk> {
    locked: FileLockGuard<D>,
    stat: Stat,
    made: bool,
}

/// The locks that an open file carries, until this is dropped. The file may stay open, to be
/// synced or for the next message, so its locks are given back in so many words.
#[derive(Debug)]
struct FileLockGuard<D: Disk> {
    file: SharedFile<D>,
    taken: Vec<FileLock>,
}

impl<D: Disk> Drop for FileLockGuard<D> {
    fn drop(&mut self) {
        for lock in self.taken.drain(..).rev() {
            let _ = self.file.unlock(lock);
        }
    }
}

/// A mailbox that nobody else may touch, until this is dropped.
#[derive(Debug)]
pub struct LockedMailbox<D: Disk> {
    /// Its name.
    pub name: MailboxName,
    /// As it was found.
    pub stat: Stat,
    /// Its length now, in octets.
    pub len: u64,
    /// Line ends that are missing at its end before a From_ line may follow: 0 to 2.
    pub repair: usize,
    /// It did not exist.
    pub made: bool,
    disk: Arc<D>,
    path: PathBuf,
    /// Given back in this order.
    locked: FileLockGuard<D>,
    _dotlock: Option<Dotlock<D>>,
    /// As whom it is opened.
    owner: Option<Owner>,
}

impl<D: Disk> MailboxStore<D> {
    /// The path of a mailbox, or of an entry of the queue.
    pub fn path_of(&self, name: &MailboxName) -> PathBuf {
        let directory = if name.queue_id().is_some() { &self.spool } else { &self.path };
        directory.join(name.as_str())
    }

    /// Makes it durable that these names are there: the folders that have them.
    pub fn sync_names<'a>(
        &self,
        names: impl IntoIterator<Item = &'a MailboxName>,
    ) -> io::Result<()> {
        sync_folders(&*self.disk, &self.path, &self.spool, names)
    }

    /// Locks `name` and looks at it; creates it if it is missing. Does not wait.
    ///
    /// `known` is the file as it was opened for an earlier message: it is taken if the name still
    /// leads to it and nobody has changed since who may write to it.
    ///
    /// # Errors
    /// The mailbox is not one that may be written to, or a call failed.
    pub fn take(
        &self,
        name: &MailboxName,
        owner: Option<Owner>,
        known: Option<&OpenMailbox<D>>,
    ) -> Result<TryLock<LockedMailbox<D>>, DeliveryError> {
        let path = self.path_of(name);
        // Only the queue's own thread reads an entry of the queue, and flock keeps it off.
        let queued = name.queue_id().is_some();
        let locks = if queued { QUEUE_LOCKS } else { self.locks };
        let dotlock = if locks.dotlock {
            match self.dotlocks.take(&path).map_err(|e| DeliveryError::io("dotlock", e))? {
                TryLock::Taken(lock) => Some(lock),
                TryLock::Busy(who) => return Ok(TryLock::Busy(who)),
                TryLock::Orphaned => return Ok(TryLock::Orphaned),
            }
        } else {
            None
        };
        let owner = owner.map(|o| Owner { gid: self.group.unwrap_or(o.gid), ..o });
        // On a network file system it is the fcntl lock that makes an open file's length true.
        let known = known.filter(|_| locks.fcntl);
        // Of a user who is another by now it is not the mailbox.
        let uid = owner.map_or(self.uid, |o| o.uid);
        let known = known.filter(|known| known.stat.uid == uid);
        let found = match known.map(|known| self.lock_known(&path, known, locks)).transpose()? {
            Some(TryLock::Taken(Some(found))) => found,
            Some(TryLock::Busy(who)) => return Ok(TryLock::Busy(who)),
            Some(TryLock::Taken(None) | TryLock::Orphaned) | None => {
                match self.lock_named(&path, owner, locks)? {
                    TryLock::Taken(found) => found,
                    TryLock::Busy(who) => return Ok(TryLock::Busy(who)),
                    TryLock::Orphaned => return Ok(TryLock::Orphaned),
                }
            }
        };
        let LockedFile { locked, stat, made } = found;
        let repair =
            missing_line_ends(&*locked.file, stat.len).map_err(|e| DeliveryError::io("read", e))?;
        Ok(TryLock::Taken(LockedMailbox {
            name: name.clone(),
            stat,
            len: stat.len,
            repair,
            made,
            disk: self.disk.clone(),
            path,
            locked,
            _dotlock: dotlock,
            owner,
        }))
    }

    /// Locks a file that is open already. None: it is no longer the mailbox, or not as it was.
    fn lock_known(
        &self,
        path: &Path,
        known: &OpenMailbox<D>,
        locks: Locks,
    ) -> Result<TryLock<Option<LockedFile<D>>>, DeliveryError> {
        let locked = match lock::<D>(&known.file, locks)? {
            TryLock::Taken(locked) => locked,
            TryLock::Busy(who) => return Ok(TryLock::Busy(who)),
            TryLock::Orphaned => return Ok(TryLock::Orphaned),
        };
        // The name, since it is the name that others change; and it tells the length as well.
        let same = self.disk.look(path).ok().filter(|now| now.is_like(&known.stat));
        Ok(TryLock::Taken(same.map(|stat| LockedFile { locked, stat, made: false })))
    }

    /// Opens what the name leads to, or makes it, and locks it.
    fn lock_named(
        &self,
        path: &Path,
        owner: Option<Owner>,
        locks: Locks,
    ) -> Result<TryLock<LockedFile<D>>, DeliveryError> {
        let Some((file, made)) = self.open(path, owner)? else {
            return Ok(TryLock::Busy("just made".into()));
        };
        let locked = match lock::<D>(&file, locks)? {
            TryLock::Taken(locked) => locked,
            TryLock::Busy(who) => return Ok(TryLock::Busy(who)),
            TryLock::Orphaned => return Ok(TryLock::Orphaned),
        };
        let uid = owner.map_or(self.uid, |o| o.uid);
        let stat = file.stat().map_err(|e| DeliveryError::io("stat", e))?;
        match self.disk.look(path) {
            Ok(named) if (named.dev, named.ino) == (stat.dev, stat.ino) => {}
            // Replaced or removed while we opened and locked: the new one is another attempt's.
            Ok(named) => {
                check(&named, uid)?;
                return Ok(TryLock::Busy("replaced".into()));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(TryLock::Busy("removed".into()));
            }
            Err(e) => return Err(DeliveryError::io("stat", e)),
        }
        check(&stat, uid)?;
        Ok(TryLock::Taken(LockedFile { locked, stat, made }))
    }

    /// The open file, and whether it was made just now. None: somebody else made it meanwhile.
    fn open(
        &self,
        path: &Path,
        owner: Option<Owner>,
    ) -> Result<Option<(SharedFile<D>, bool)>, DeliveryError> {
        let _acting =
            self.disk.impersonate(owner).map_err(|e| DeliveryError::io("act as its owner", e))?;
        match self.disk.open(path, OpenMode::Append) {
            Ok(file) => return Ok(Some((Arc::new(file), false))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(DeliveryError::io("open", e)),
        }
        let mode = if self.group.is_some() && owner.is_some() { 0o660 } else { 0o600 };
        match self.disk.open(path, OpenMode::Create { mode, owner }) {
            Ok(file) => Ok(Some((Arc::new(file), true))),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(DeliveryError::io("create", e)),
        }
    }
}

impl<D: Disk> LockedMailbox<D> {
    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file. It may outlive the locks.
    pub fn file(&self) -> &SharedFile<D> {
        &self.locked.file
    }

    /// Appends the line ends that are missing, then `parts`, `content` and a blank line. Returns
    /// how many octets that were.
    ///
    /// # Errors
    /// Part of it may have been written: the caller cuts back.
    pub fn append(&mut self, parts: [&[u8]; 2], content: &Content) -> io::Result<u64> {
        let before = self.len;
        let ends = &b"\n\n"[..self.repair.min(2)];
        match content {
            Content::Memory(bytes) => {
                self.write(&[ends, parts[0], parts[1], bytes, b"\n"])?;
            }
            Content::File(file, octets) => {
                self.append_large([ends, parts[0], parts[1]].concat(), file, *octets)?;
            }
        }
        self.repair = 0;
        Ok(self.len - before)
    }

    /// Appends `head`, the content in `file` and a blank line, in writes that end where blocks of
    /// the mailbox end: wherever a crash stops them, each block is whole or missing, and recovery
    /// can tell. (Through a buffer: the kernel's own copy refuses a file opened for appending.)
    fn append_large(&mut self, head: Vec<u8>, file: &File, octets: u64) -> io::Result<()> {
        let (mut buf, mut at) = (head, 0);
        loop {
            let from = self.len + buf.len() as u64;
            let n = ((from + PIECE) / BLOCK * BLOCK - from).min(octets - at);
            let filled = buf.len();
            buf.resize(filled + n as usize, 0);
            file.read_exact_at(buf.get_mut(filled..).unwrap_or_default(), at)?;
            at += n;
            if at == octets {
                buf.push(b'\n');
                return self.write(&[&buf]);
            }
            self.write(&[&buf])?;
            buf.clear();
        }
    }

    /// Appends all of `parts`, in as few calls as the system takes.
    pub fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let (file, len) = (&self.locked.file, &mut self.len);
        write_all(parts, |rest| {
            let n = file.append(rest)?;
            *len += n as u64;
            Ok(n)
        })
    }

    /// The same file once more, for writing at given offsets.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn rewritable(&self) -> io::Result<D::File> {
        let _acting = self.disk.impersonate(self.owner)?;
        self.disk.open(&self.path, OpenMode::Write)
    }

    /// Finds anew what is missing at the end.
    pub fn look_at_end(&mut self) -> io::Result<()> {
        self.repair = missing_line_ends(&**self.file(), self.len)?;
        Ok(())
    }

    /// Cuts the mailbox back to `len`; `repair` is what was missing at that end.
    ///
    /// Durably: a power loss that undid the cut alone would leave the tail of what was cut off
    /// behind what is appended next.
    pub fn cut_back(&mut self, len: u64, repair: usize) -> io::Result<()> {
        self.file().set_len(len)?;
        (self.len, self.repair) = (len, repair);
        self.file().sync()
    }
}

impl<D: Disk> Drop for LockedMailbox<D> {
    /// A mailbox that would not exist without us, and is still empty, goes. Then the locks.
    fn drop(&mut self) {
        if self.made && self.file().stat().is_ok_and(|stat| stat.len == 0) {
            let _ = self.disk.impersonate(self.owner).map(|_acting| self.disk.unlink(&self.path));
        }
    }
}

/// Takes both locks of an open file, or neither.
fn lock<D: Disk>(
    file: &SharedFile<D>,
    locks: Locks,
) -> Result<TryLock<FileLockGuard<D>>, DeliveryError> {
    let mut locked = FileLockGuard { file: file.clone(), taken: Vec::with_capacity(2) };
    for (wanted, lock) in [(locks.fcntl, FileLock::Fcntl), (locks.flock, FileLock::Flock)] {
        if !wanted {
            continue;
        }
        if !file.try_lock(lock).map_err(|e| DeliveryError::io("lock", e))? {
            return Ok(TryLock::Busy(format!("{lock:?} lock").to_lowercase()));
        }
        locked.taken.push(lock);
    }
    Ok(TryLock::Taken(locked))
}

/// Makes it durable that `names` are there: in the mail folder, or in the queue.
pub fn sync_folders<'a, D: Disk>(
    disk: &D,
    mail: &Path,
    spool: &Path,
    names: impl IntoIterator<Item = &'a MailboxName>,
) -> io::Result<()> {
    let (mut mailboxes, mut entries) = (false, false);
    for name in names {
        match name.queue_id() {
            None => mailboxes = true,
            Some(_) => entries = true,
        }
    }
    if mailboxes {
        disk.sync_folder(mail)?;
    }
    if entries {
        disk.sync_folder(&spool.join(QUEUE_FOLDER))?;
    }
    Ok(())
}

/// Whether mail may be appended to what `stat` tells of: a regular file, one link, `uid`'s.
///
/// A link or somebody else's file would let its maker choose what we write to, or read what we
/// wrote.
pub fn check(stat: &Stat, uid: u32) -> Result<(), DeliveryError> {
    let wrong = match stat.kind {
        FileKind::Regular if stat.links > 1 => format!("has {} hard links", stat.links),
        FileKind::Regular if stat.uid != uid => format!("belongs to uid {}, not {uid}", stat.uid),
        FileKind::Regular => return Ok(()),
        FileKind::Directory => "is a folder".into(),
        FileKind::Symlink => "is a symbolic link".into(),
        FileKind::Other => "is not a regular file".into(),
    };
    Err(DeliveryError::new(Outcome::Later(DeferReason::Unusable), wrong))
}

/// How many line ends are missing before the next From_ line: a mailbox ends in an empty line.
fn missing_line_ends<F: DiskFile>(file: &F, len: u64) -> io::Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    let mut end = [0; 2];
    let want = if len == 1 { 1 } else { 2 };
    read_exact_at(file, &mut end[..want], len - want as u64)?;
    Ok(match (&end[..want], want) {
        ([b'\n', b'\n'], _) => 0,
        ([.., b'\n'], _) => 1,
        _ => 2,
    })
}

/// Fills `buf` from `offset`.
pub fn read_exact_at<F: DiskFile>(file: &F, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = buf.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Writes all of `parts` from `offset`, in as few calls as the system takes.
pub fn write_all_at<F: DiskFile>(file: &F, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
    write_all(parts, |rest| {
        let n = file.write_at(rest, offset)?;
        offset += n as u64;
        Ok(n)
    })
}

/// Calls `write` until all of `parts` is written or it fails.
fn write_all(
    parts: &[&[u8]],
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
    let mut rest = &mut slices[..];
    while rest.iter().any(|s| !s.is_empty()) {
        // IOV_MAX is 1024 on every system of today.
        let some = rest.len().min(1024);
        match write(rest.get(..some).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The locks of an entry of the queue.
const QUEUE_LOCKS: Locks = Locks { dotlock: false, fcntl: false, flock: true };
/// How much of a large message is written at once, in octets, up to the next block's end.
const PIECE: u64 = 64 * 1024;
