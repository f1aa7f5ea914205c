//! A locked mailbox, or a locked new entry of the queue: checked, appended to, truncated, released.
//!
//! The order is that of every careful mailer: dotlock, open, fcntl, flock. After that, with all
//! locks held, the name must still lead to the file that was opened. None of the locks is waited
//! for. If one is contended, all are released, and the writer tries again later.
//!
//! The mailbox itself is opened, created and removed as its owner (`process/privilege/`). The
//! dotlock is mailslot's own, because fs.protected_hardlinks forbids a link to another user's file,
//! and a sticky directory forbids removing one. An open file can be read, written and synced with
//! any identity, and counts against the quota of its owner.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, FileKind, OpenMode, Stat, write_all};
use super::locks::{Dotlock, DotlockDirectory, FileLockGuard, Locks, TryLock};
use super::mbox::{MESSAGE_END, MailboxCopy};
use super::outcome::{DeferReason, DeliveryError};
use crate::message::{Content, DestinationFile, Owner, QUEUE_DIRECTORY};

/// Policy for mailboxes and entries of the queue: their directories, locks, limit and ownership.
#[derive(Debug)]
pub struct MailboxStore {
    /// Disk of both directories.
    pub disk: Arc<dyn Disk>,
    /// Directories of the destinations.
    pub directories: DestinationDirectories,
    /// Dotlocks of the mail directory.
    pub dotlocks: DotlockDirectory,
    /// Locks to take on a mailbox.
    pub locks: Locks,
    /// Largest size of a mailbox in bytes.
    pub limit: Option<u64>,
    /// Owner of mailboxes that have no owner of their own: the user that mailslot runs as.
    pub uid: u32,
    /// Group `mail` if the mail directory has it. New mailboxes are then 0660 USER:mail, as in
    /// Debian Policy 11.6, and 0600 otherwise.
    pub group: Option<u32>,
}

/// Directories that destinations are in.
#[derive(Clone, Debug)]
pub struct DestinationDirectories {
    /// Directory of the mailboxes.
    pub mail: PathBuf,
    /// Directory of the queue's entries.
    pub queue: PathBuf,
}

impl DestinationDirectories {
    /// Returns the directories for a mail directory and a spool.
    pub fn new(mail: PathBuf, spool: &Path) -> DestinationDirectories {
        DestinationDirectories { mail, queue: spool.join(QUEUE_DIRECTORY) }
    }

    /// Returns the path of a destination.
    pub fn path_of(&self, file: &DestinationFile) -> PathBuf {
        match file {
            DestinationFile::Mailbox(name) => self.mail.join(name.as_str()),
            DestinationFile::QueueEntry(id) => self.queue.join(id.as_str()),
        }
    }

    /// Makes the names of `files` durable: syncs the directories that contain them.
    pub fn sync_names<'a>(
        &self,
        disk: &dyn Disk,
        files: impl IntoIterator<Item = &'a DestinationFile>,
    ) -> io::Result<()> {
        let (mut mail, mut queue) = (false, false);
        for file in files {
            match file {
                DestinationFile::Mailbox(_) => mail = true,
                DestinationFile::QueueEntry(_) => queue = true,
            }
        }
        if mail {
            disk.sync_directory(&self.mail)?;
        }
        if queue {
            disk.sync_directory(&self.queue)?;
        }
        Ok(())
    }
}

/// Open file of a mailbox, kept after the locks are released.
#[derive(Clone, Debug)]
pub struct OpenMailbox {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Its metadata when it was opened.
    pub stat: Stat,
}

/// Open and locked file, checked to be the mailbox.
struct LockedFile {
    guard: FileLockGuard,
    stat: Stat,
    created: bool,
}

/// Mailbox, locked until this is dropped.
#[derive(Debug)]
pub struct LockedMailbox {
    /// Destination that the file belongs to.
    pub name: DestinationFile,
    /// Metadata of the file when it was locked.
    pub stat: Stat,
    /// Current length in bytes.
    pub len: u64,
    /// Number of LFs, 0 to 2, that are missing at the end before a From_ line may follow.
    pub missing_newlines: usize,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Owner to impersonate when the file is opened or removed.
    owner: Option<Owner>,
    created: bool,
    // Fields are dropped in order, so the kernel locks are released before the dotlock.
    guard: FileLockGuard,
    _dotlock: Option<Dotlock>,
}

impl MailboxStore {
    /// Returns the path of a destination.
    pub fn path_of(&self, file: &DestinationFile) -> PathBuf {
        self.directories.path_of(file)
    }

    /// Makes the names of `files` durable.
    pub fn sync_names<'a>(
        &self,
        files: impl IntoIterator<Item = &'a DestinationFile>,
    ) -> io::Result<()> {
        self.directories.sync_names(&*self.disk, files)
    }

    /// Returns the largest size that a destination may have.
    pub fn limit_of(&self, file: &DestinationFile) -> Option<u64> {
        match file {
            DestinationFile::Mailbox(_) => self.limit,
            DestinationFile::QueueEntry(_) => None,
        }
    }

    /// Returns the locks for a destination.
    fn locks_of(&self, file: &DestinationFile) -> Locks {
        match file {
            DestinationFile::Mailbox(_) => self.locks,
            // Only the queue's own thread reads an entry, and flock keeps it away.
            DestinationFile::QueueEntry(_) => Locks::FLOCK,
        }
    }

    /// Locks `name` and checks it. Creates it if it is missing. Does not wait.
    ///
    /// `open` is the file as it was opened for an earlier message. It is used again if the name
    /// still leads to it with the same owner and permissions.
    ///
    /// # Errors
    /// The mailbox must not be written to, or a call failed.
    pub fn try_lock(
        &self,
        name: &DestinationFile,
        owner: Option<Owner>,
        open: Option<&OpenMailbox>,
    ) -> Result<TryLock<LockedMailbox>, DeliveryError> {
        let path = self.path_of(name);
        let locks = self.locks_of(name);
        let dotlock = if locks.dotlock {
            match self.dotlocks.try_lock(&path).map_err(|e| DeliveryError::io("dotlock", e))? {
                TryLock::Acquired(lock) => Some(lock),
                TryLock::Contended(holder) => return Ok(TryLock::Contended(holder)),
                TryLock::HeldByMailslot(holder) => return Ok(TryLock::HeldByMailslot(holder)),
            }
        } else {
            None
        };
        let owner = owner.map(|o| Owner { gid: self.group.unwrap_or(o.gid), ..o });
        let uid = owner.map_or(self.uid, |o| o.uid);
        // Only under the fcntl lock is the length of an open file correct on a network file system.
        // And the user's uid may have changed since the file was opened.
        let open = open.filter(|open| locks.fcntl && open.stat.uid == uid);
        let locked = match open.map(|open| self.lock_open(&path, open, locks)).transpose()? {
            Some(TryLock::Acquired(Some(locked))) => locked,
            Some(TryLock::Contended(holder) | TryLock::HeldByMailslot(holder)) => {
                return Ok(TryLock::Contended(holder));
            }
            Some(TryLock::Acquired(None)) | None => match self.lock_named(&path, owner, locks)? {
                TryLock::Acquired(locked) => locked,
                TryLock::Contended(holder) | TryLock::HeldByMailslot(holder) => {
                    return Ok(TryLock::Contended(holder));
                }
            },
        };
        let LockedFile { guard, stat, created } = locked;
        let missing_newlines = count_missing_newlines(&**guard.file(), stat.len)
            .map_err(|e| DeliveryError::io("read", e))?;
        Ok(TryLock::Acquired(LockedMailbox {
            name: name.clone(),
            stat,
            len: stat.len,
            missing_newlines,
            disk: self.disk.clone(),
            path,
            owner,
            created,
            guard,
            _dotlock: dotlock,
        }))
    }

    /// Locks a file that is open already. Returns None if it is no longer the mailbox, or its owner
    /// or permissions have changed.
    fn lock_open(
        &self,
        path: &Path,
        open: &OpenMailbox,
        locks: Locks,
    ) -> Result<TryLock<Option<LockedFile>>, DeliveryError> {
        let guard = match lock_file(open.file.clone(), locks)? {
            TryLock::Acquired(guard) => guard,
            TryLock::Contended(holder) | TryLock::HeldByMailslot(holder) => {
                return Ok(TryLock::Contended(holder));
            }
        };
        // The metadata is that of the name, because other programs replace the file under it.
        let stat = self.disk.lstat(path).ok().filter(|now| now.has_same_access(&open.stat));
        Ok(TryLock::Acquired(stat.map(|stat| LockedFile { guard, stat, created: false })))
    }

    /// Opens the file that the name leads to, or creates it, and locks it.
    fn lock_named(
        &self,
        path: &Path,
        owner: Option<Owner>,
        locks: Locks,
    ) -> Result<TryLock<LockedFile>, DeliveryError> {
        let Some((file, created)) = self.open(path, owner)? else {
            return Ok(TryLock::Contended("just created".into()));
        };
        let guard = match lock_file(file, locks)? {
            TryLock::Acquired(guard) => guard,
            TryLock::Contended(holder) | TryLock::HeldByMailslot(holder) => {
                return Ok(TryLock::Contended(holder));
            }
        };
        let uid = owner.map_or(self.uid, |o| o.uid);
        let stat = guard.file().stat().map_err(|e| DeliveryError::io("stat", e))?;
        match self.disk.lstat(path) {
            Ok(named) if named.id() == stat.id() => {}
            // Another program replaced or removed the file between open and lock. The next attempt
            // opens the new one.
            Ok(named) => {
                check_access(&named, uid)?;
                return Ok(TryLock::Contended("replaced".into()));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(TryLock::Contended("removed".into()));
            }
            Err(e) => return Err(DeliveryError::io("stat", e)),
        }
        check_access(&stat, uid)?;
        Ok(TryLock::Acquired(LockedFile { guard, stat, created }))
    }

    /// Returns the open file, and whether this call created it. Returns None if another program
    /// created it between the two attempts.
    #[allow(clippy::type_complexity)]
    fn open(
        &self,
        path: &Path,
        owner: Option<Owner>,
    ) -> Result<Option<(Arc<dyn DiskFile>, bool)>, DeliveryError> {
        let _guard =
            self.disk.impersonate(owner).map_err(|e| DeliveryError::io("act as its owner", e))?;
        match self.disk.open(path, OpenMode::Append) {
            Ok(file) => return Ok(Some((file, false))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(DeliveryError::io("open", e)),
        }
        let mode = if self.group.is_some() && owner.is_some() { 0o660 } else { 0o600 };
        match self.disk.open(path, OpenMode::Create { mode, owner }) {
            Ok(file) => Ok(Some((file, true))),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(e) => Err(DeliveryError::io("create", e)),
        }
    }
}

impl LockedMailbox {
    /// Returns the open file, which may outlive the locks.
    pub fn file(&self) -> &Arc<dyn DiskFile> {
        self.guard.file()
    }

    /// Appends `copy`, which must have been made for the current `missing_newlines`.
    ///
    /// # Errors
    /// A part of it may have been written. The caller truncates the mailbox.
    pub fn append(&mut self, copy: &MailboxCopy<'_>) -> io::Result<()> {
        match copy.content() {
            Content::Memory(content) => {
                let [separator, head, name, colon, value, end] = copy.before_content();
                let copy = [separator, head, name, colon, value, end, content, MESSAGE_END];
                self.write(&copy)?;
            }
            // Through a buffer, because the kernel's own copy refuses a file opened for appending.
            Content::File(content) => {
                self.write(&copy.before_content())?;
                content.copy(|piece| self.write(&[piece]))?;
                self.write(&[MESSAGE_END])?;
            }
        }
        self.missing_newlines = 0;
        Ok(())
    }

    /// Appends all of `parts`, in as few calls as the system allows.
    fn write(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        let (file, len) = (self.guard.file(), &mut self.len);
        write_all(parts, |rest| {
            let n = file.append(rest)?;
            *len += n as u64;
            Ok(n)
        })
    }

    /// True if the name still leads to the file, with the length after the last append and the same
    /// owner and permissions. A program that respects no lock may have changed it.
    pub fn is_unchanged(&self) -> bool {
        let now = self.disk.lstat(&self.path);
        now.is_ok_and(|now| now.has_same_access(&self.stat) && now.len == self.len)
    }

    /// True if the file was missing and this attempt created it.
    pub fn is_created(&self) -> bool {
        self.created
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the same file again, for writing at given offsets.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn reopen_for_writing(&self) -> io::Result<Arc<dyn DiskFile>> {
        let _guard = self.disk.impersonate(self.owner)?;
        self.disk.open(&self.path, OpenMode::Write)
    }

    /// Counts the missing LFs at the end again.
    pub fn update_missing_newlines(&mut self) -> io::Result<()> {
        self.missing_newlines = count_missing_newlines(&**self.file(), self.len)?;
        Ok(())
    }

    /// Truncates the mailbox to `len`, where `missing_newlines` were missing. Leaves a file that is
    /// not longer as it is, because another program that respects no lock may have truncated it.
    ///
    /// The new length is synced. Otherwise a power loss could undo the truncation alone and leave
    /// the removed data before the next message.
    pub fn truncate(&mut self, len: u64, missing_newlines: usize) -> io::Result<()> {
        let present = self.file().stat()?.len;
        if present > len {
            self.file().set_len(len)?;
        }
        (self.len, self.missing_newlines) = (len, missing_newlines);
        if present < len {
            self.len = present;
            self.update_missing_newlines()?;
        }
        self.file().sync()
    }
}

impl Drop for LockedMailbox {
    /// Removes a mailbox that this attempt created if nothing was written to it, and if the name
    /// still leads to it. The locks are held until then.
    fn drop(&mut self) {
        let is_ours = || self.disk.lstat(&self.path).is_ok_and(|now| now.id() == self.stat.id());
        if self.created && self.file().stat().is_ok_and(|stat| stat.len == 0) && is_ours() {
            let _ = self.disk.impersonate(self.owner).map(|_guard| self.disk.unlink(&self.path));
        }
    }
}

fn lock_file(
    file: Arc<dyn DiskFile>,
    locks: Locks,
) -> Result<TryLock<FileLockGuard>, DeliveryError> {
    FileLockGuard::try_lock(file, locks).map_err(|e| DeliveryError::io("lock", e))
}

/// Checks that mail may be appended to the file: it is regular, has one link, and belongs to `uid`.
///
/// The maker of a link or of another user's file could choose the file that mailslot writes to, or
/// read the mail.
pub fn check_access(stat: &Stat, uid: u32) -> Result<(), DeliveryError> {
    let text = match stat.kind {
        FileKind::Regular if stat.links > 1 => format!("has {} hard links", stat.links),
        FileKind::Regular if stat.uid != uid => format!("belongs to uid {}, not {uid}", stat.uid),
        FileKind::Regular => return Ok(()),
        FileKind::Directory => "is a directory".into(),
        FileKind::Symlink => "is a symbolic link".into(),
        FileKind::Other => "is not a regular file".into(),
    };
    Err(DeliveryError::deferred(DeferReason::Unusable, text))
}

/// Counts the LFs that are missing before the next From_ line, because a mailbox ends with an empty
/// line.
pub(super) fn count_missing_newlines(file: &dyn DiskFile, len: u64) -> io::Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    let mut end = [0; 2];
    let want = if len == 1 { 1 } else { 2 };
    file.read_exact_at(&mut end[..want], len - want as u64)?;
    Ok(match (&end[..want], want) {
        ([b'\n', b'\n'], _) => 0,
        ([.., b'\n'], _) => 1,
        _ => 2,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::disk::HostDisk;
    use crate::deliver::locks::Identity;
    use crate::message::MailboxName;
    use std::fs;

    /// Returns the locked mailbox `alice` in `directory`.
    fn lock(directory: &Path) -> LockedMailbox {
        let disk: Arc<dyn Disk> = Arc::new(HostDisk::default());
        let identity = Identity::new(&*disk);
        let store = MailboxStore {
            directories: DestinationDirectories::new(directory.into(), directory),
            dotlocks: DotlockDirectory::new(disk.clone(), directory, identity),
            locks: Locks::ALL,
            limit: None,
            uid: nix::unistd::geteuid().as_raw(),
            group: None,
            disk,
        };
        let name = DestinationFile::Mailbox(MailboxName::new("alice").unwrap());
        match store.try_lock(&name, None, None) {
            Ok(TryLock::Acquired(locked)) => locked,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn truncation_never_extends_a_mailbox() {
        let directory = tempfile::tempdir().unwrap();
        let alice = directory.path().join("alice");
        fs::write(&alice, "From a\n\nbody\n\n").unwrap();
        let mut locked = lock(directory.path());
        let before = locked.len;
        locked.write(&[b"From b\n\nhalf"]).unwrap();
        locked.truncate(before, 0).unwrap();
        assert_eq!(fs::read_to_string(&alice).unwrap(), "From a\n\nbody\n\n");

        locked.write(&[b"From b\n\nhalf"]).unwrap();
        // A program that respects no lock.
        fs::write(&alice, "From a\n").unwrap();
        locked.truncate(before, 0).unwrap();
        assert_eq!(fs::read_to_string(&alice).unwrap(), "From a\n");
        assert_eq!((locked.len, locked.missing_newlines), (7, 1));
    }

    #[test]
    fn an_empty_mailbox_is_only_removed_while_it_is_the_one_that_was_created() {
        let directory = tempfile::tempdir().unwrap();
        let alice = directory.path().join("alice");
        drop(lock(directory.path()));
        assert!(!alice.exists(), "nothing was written to it");

        let locked = lock(directory.path());
        fs::write(directory.path().join("new"), "From a\n\nbody\n\n").unwrap();
        fs::rename(directory.path().join("new"), &alice).unwrap();
        drop(locked);
        assert_eq!(fs::read_to_string(&alice).unwrap(), "From a\n\nbody\n\n");

        fs::remove_file(&alice).unwrap();
        let locked = lock(directory.path());
        fs::write(&alice, "x").unwrap();
        drop(locked);
        assert!(alice.exists(), "another program has written to it");
    }
}
