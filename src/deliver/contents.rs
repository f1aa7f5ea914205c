//! The files of large content in the spool: `content-NUMBER`, with a random number.
//!
//! A session creates the file, writes it and syncs it and its name before the writer gets the
//! message. The journal's record refers to it by number, size and checksum. Mailboxes are written
//! from it, and after a crash recovery does the same.
//!
//! | state of the file | removed by |
//! | --- | --- |
//! | locked (flock), because the process that received it lives | that process |
//! | referred to by a journal | the process, when a checkpoint on disk covers the record |
//! | neither: its process was killed | the next start, or the next recovery |
//!
//! A file is locked before the journals are searched for it. So a session that has it is seen, and
//! so is the record that the session's process has synced since. Recovery moves a message from the
//! journal of a dead process to its own, and syncs the new record before it resets the old journal.
//! The journals are searched twice, because a single search may read them between these two steps.
//! While a damaged journal is kept nothing is removed, because it may refer to any file.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::disk::{Disk, DiskFile, FileLock, OpenMode};
use super::journal::{self, ContentReference};
use crate::message::{ContentDirectory, ContentFile, SpoolFile};

/// Spool as the directory of large content.
#[derive(Clone, Debug)]
pub struct ContentSpool {
    /// Disk of the spool.
    pub disk: Arc<dyn Disk>,
    /// Path of the spool.
    pub directory: PathBuf,
    /// Whether there may be files that nothing needs.
    has_orphans: Arc<AtomicBool>,
}

impl ContentSpool {
    /// Returns the spool `directory` on `disk`.
    pub fn new(disk: Arc<dyn Disk>, directory: &Path) -> ContentSpool {
        let has_orphans = Arc::default();
        ContentSpool { disk, directory: directory.to_owned(), has_orphans }
    }

    /// Returns the path of a file.
    pub fn path_of(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{PREFIX}{number:016x}"))
    }

    /// Opens the content that a journal refers to.
    ///
    /// # Errors
    /// The file is missing or cannot be read, or is not as it was recorded.
    pub fn open(&self, content: ContentReference, size: u64) -> io::Result<ContentFile> {
        let path = self.path_of(content.number);
        let file = self.disk.open(&path, OpenMode::Read)?;
        let file = self.spool_file(content.number, path, file);
        ContentFile::recorded(Box::new(file), size, content.checksum)
    }

    /// Notes that there may be files that nothing needs.
    pub fn note_orphans(&self) {
        self.has_orphans.store(true, Ordering::Relaxed);
    }

    /// Removes the files that no living process has locked and no journal refers to, if there may
    /// be any.
    pub fn remove_orphans(&self) -> io::Result<()> {
        if !self.has_orphans.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mut orphans = Vec::new();
        for name in self.disk.read_directory(&self.directory)? {
            let number = name.strip_prefix(PREFIX).and_then(|n| u64::from_str_radix(n, 16).ok());
            let Some(number) = number else { continue };
            // On NFS only a file that is open for writing can be locked.
            let file = match self.disk.open(&self.path_of(number), OpenMode::Write) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            if file.try_lock(FileLock::Flock)? {
                orphans.push((number, file));
            }
        }
        if orphans.is_empty() {
            return Ok(());
        }
        let mut referenced = HashSet::new();
        for _ in 0..2 {
            match journal::referenced_contents(&*self.disk, &self.directory)? {
                Some(numbers) => referenced.extend(numbers),
                None => return Ok(()),
            }
        }
        for (number, _locked) in orphans.iter().filter(|(n, _)| !referenced.contains(n)) {
            match self.disk.unlink(&self.path_of(*number)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Locks a new file. Returns false if another process has found it without a lock, because that
    /// process removes it.
    fn lock_new(&self, path: &Path, file: &dyn DiskFile) -> io::Result<bool> {
        let opened = file.stat()?;
        Ok(file.try_lock(FileLock::Flock)?
            && self.disk.lstat(path).is_ok_and(|named| named.id() == opened.id()))
    }

    fn spool_file(&self, number: u64, path: PathBuf, file: Arc<dyn DiskFile>) -> OpenContent {
        OpenContent { spool: self.clone(), number, path, file }
    }
}

impl ContentDirectory for ContentSpool {
    fn create(&self) -> io::Result<Box<dyn SpoolFile>> {
        for _ in 0..ATTEMPTS {
            let number = RandomState::new().hash_one(SystemTime::now());
            let path = self.path_of(number);
            let file = match self.disk.open(&path, OpenMode::Create { mode: 0o600, owner: None }) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e),
            };
            match self.lock_new(&path, &*file) {
                Ok(true) => return Ok(Box::new(self.spool_file(number, path, file))),
                Ok(false) => {}
                Err(e) => {
                    self.note_orphans();
                    return Err(e);
                }
            }
        }
        Err(io::Error::other("no name for the content"))
    }
}

/// Open file of large content.
#[derive(Debug)]
struct OpenContent {
    spool: ContentSpool,
    number: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
}

impl SpoolFile for OpenContent {
    fn number(&self) -> u64 {
        self.number
    }

    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.file.append_all(&[bytes])
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()?;
        self.spool.disk.sync_directory(&self.spool.directory)
    }

    fn remove(&self) {
        if self.spool.disk.unlink(&self.path).is_err() {
            self.spool.note_orphans();
        }
    }
}

const PREFIX: &str = "content-";
/// Number of names to try.
const ATTEMPTS: usize = 100;
