//! The host's disk, with calls of the test before some of its own.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use mailslot::deliver::disk::{Disk, DiskFile, HostDisk, OpenMode, Stat};

/// A function of a test, for the name of a call and its path.
type Hook = dyn Fn(&str, &Path) + Send + Sync;

/// The host's disk with a hook.
pub struct HookedDisk {
    disk: HostDisk,
    hook: Box<Hook>,
}

impl HookedDisk {
    /// Returns a disk that calls `hook` before `lstat` and `sync_directory`, with the name and the
    /// path of the call.
    pub fn new(hook: impl Fn(&str, &Path) + Send + Sync + 'static) -> Arc<HookedDisk> {
        Arc::new(HookedDisk { disk: HostDisk::default(), hook: Box::new(hook) })
    }
}

impl fmt::Debug for HookedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl Disk for HookedDisk {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        (self.hook)("lstat", path);
        self.disk.lstat(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, mode)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.read_directory(directory)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        (self.hook)("sync_directory", directory);
        self.disk.sync_directory(directory)
    }
    fn pid(&self) -> u32 {
        self.disk.pid()
    }
    fn pid_scope(&self) -> Option<String> {
        self.disk.pid_scope()
    }
    fn is_dead(&self, pid: u32) -> bool {
        self.disk.is_dead(pid)
    }
}
