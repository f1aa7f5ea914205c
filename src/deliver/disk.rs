//! The few calls on files that delivery is made of, as a trait: the real ones below, and in the
//! tests a disk that fails, stops or loses power at its n-th call. With them the three questions
//! about processes by which a lock that was left behind is judged: a simulated disk has simulated
//! processes, which die and reboot without this one.
//!
//! Nothing here decides anything. Names are never followed through symlinks, descriptors are
//! close-on-exec, opening never blocks (a FIFO planted as a mailbox must not hang the writer).

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use fs2::FileExt as _;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::kill;
use nix::sys::uio::pwritev;
use nix::unistd::Pid;

use crate::message::Owner;
use crate::process::privilege::{ImpersonationGuard, Impersonator};

/// What lstat and fstat tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device, and inode on it: together they say which file a name leads to.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// What it is.
    pub kind: FileKind,
    /// Hard links.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Length in octets.
    pub len: u64,
    /// Last change of the content, by the file system's clock.
    pub modified: SystemTime,
}

impl Stat {
    /// Whether it is the same file, and no other may write to it than before.
    pub fn is_like(&self, other: &Stat) -> bool {
        let rights = |s: &Stat| (s.dev, s.ino, s.kind, s.links, s.uid, s.gid, s.mode);
        rights(self) == rights(other)
    }
}

/// What a name can lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, a socket, a device.
    Other,
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading.
    Read,
    /// For reading and writing at given offsets.
    Write,
    /// For reading and appending.
    Append,
    /// A new one, for reading and appending; fails if the name exists.
    Create {
        /// Its permission bits, whatever the umask.
        mode: u32,
        /// Its owner; None: whoever runs mailslot.
        owner: Option<Owner>,
    },
}

/// The two locks that a descriptor carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLock {
    /// An open-file-description lock over the whole file: unlike a plain fcntl lock it is not lost
    /// when some other descriptor of the file is closed.
    Fcntl,
    /// flock(2)
    Flock,
}

/// The calls on names, and what is known of processes.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Takes the file-system identity of `owner` for the calls of this thread, until the result is
    /// dropped: the kernel then checks each of them against what `owner` may. Nothing changes where
    /// there is no owner, or no power to do so.
    fn impersonate(&self, _owner: Option<Owner>) -> io::Result<ImpersonationGuard> {
        Ok(ImpersonationGuard::default())
    }

    /// lstat: what the name itself is.
    fn look(&self, path: &Path) -> io::Result<Stat>;
    /// Opens or creates.
    fn open(&self, path: &Path, how: OpenMode) -> io::Result<Self::File>;
    /// A second name for a file; fails if `to` exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, directory: &Path) -> io::Result<()>;

    /// The id of this process.
    fn pid(&self) -> u32;
    /// Boot and pid namespace, `boot/namespace`, without blanks: within one such place a pid means
    /// one process.
    fn place(&self) -> String;
    /// Whether it is known that no process of this place has `pid`.
    fn is_gone(&self, pid: u32) -> bool;
}

/// The calls on an open file.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// fstat
    fn stat(&self) -> io::Result<Stat>;
    /// Reads at `offset`; 0 at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`, perhaps less than all. Not on a file opened for appending.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Writes at the end, perhaps less than all.
    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Cuts or extends to `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// fdatasync
    fn sync(&self) -> io::Result<()>;
    /// Takes the lock if it is free.
    fn try_lock(&self, lock: FileLock) -> io::Result<bool>;
    /// Gives the lock back.
    fn unlock(&self, lock: FileLock) -> io::Result<()>;
    /// Sets the time of the last change to now.
    fn touch(&self) -> io::Result<()>;
}

/// The host's own disk.
#[derive(Debug, Default)]
pub struct HostDisk {
    /// How this process acts as a mailbox's owner; None: it cannot.
    actor: Option<Impersonator>,
}

impl HostDisk {
    /// With the power to act as others, if the thread that asks has it.
    pub fn new() -> HostDisk {
        HostDisk { actor: Impersonator::of_this_thread() }
    }
}

impl Disk for HostDisk {
    type File = File;

    fn impersonate(&self, owner: Option<Owner>) -> io::Result<ImpersonationGuard> {
        match (self.actor, owner) {
            (Some(actor), Some(Owner { uid, gid })) => actor.impersonate(uid.into(), gid.into()),
            _ => Ok(ImpersonationGuard::default()),
        }
    }

    fn look(&self, path: &Path) -> io::Result<Stat> {
        fs::symlink_metadata(path).map(|m| stat_of(&m))
    }

    fn open(&self, path: &Path, how: OpenMode) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        options.read(true).custom_flags(flags.bits());
        match how {
            OpenMode::Read => options.open(path),
            OpenMode::Write => options.write(true).open(path),
            OpenMode::Append => options.append(true).open(path),
            OpenMode::Create { mode, owner } => {
                // Created closed to everyone else; opened to the group only once it has its owner.
                let file = options.append(true).create_new(true).mode(0o600).open(path)?;
                match give(&file, mode, owner) {
                    Ok(()) => Ok(file),
                    Err(e) => {
                        let _ = fs::remove_file(path);
                        Err(e)
                    }
                }
            }
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_folder(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn place(&self) -> String {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let space = digits(&space.to_string_lossy());
        // Without /proc nothing is known of other processes, and only age can tell.
        match digits(&boot) {
            boot if boot.is_empty() => format!("unknown{}/{space}", self.pid()),
            boot => format!("{boot}/{space}"),
        }
    }

    fn is_gone(&self, pid: u32) -> bool {
        let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0);
        pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
    }
}

impl DiskFile for File {
    fn stat(&self) -> io::Result<Stat> {
        self.metadata().map(|m| stat_of(&m))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        Ok(pwritev(self, parts, offset)?)
    }

    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut file = self;
        file.write_vectored(parts)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn try_lock(&self, lock: FileLock) -> io::Result<bool> {
        let taken = match lock {
            FileLock::Flock => self.try_lock_exclusive(),
            FileLock::Fcntl => set_fcntl_lock(self, true),
        };
        match taken {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // POSIX allows either for a lock that somebody else holds.
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn unlock(&self, lock: FileLock) -> io::Result<()> {
        match lock {
            FileLock::Flock => fs2::FileExt::unlock(self),
            FileLock::Fcntl => set_fcntl_lock(self, false),
        }
    }

    fn touch(&self) -> io::Result<()> {
        self.set_modified(SystemTime::now())
    }
}

fn give(file: &File, mode: u32, owner: Option<Owner>) -> io::Result<()> {
    if let Some(owner) = owner {
        let now = file.metadata()?;
        if (now.uid(), now.gid()) != (owner.uid, owner.gid) {
            std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))?;
        }
    }
    if mode != 0o600 {
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn set_fcntl_lock(file: &File, locked: bool) -> io::Result<()> {
    let kind = if locked { libc::F_WRLCK } else { libc::F_UNLCK };
    let whole = libc::flock {
        #[cfg(target_os = "freebsd")]
        l_sysid: 0,
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let call = FcntlArg::F_OFD_SETLK(&whole);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let call = FcntlArg::F_SETLK(&whole);
    fcntl(file, call).map(drop).map_err(io::Error::from)
}

fn stat_of(m: &fs::Metadata) -> Stat {
    let t = m.file_type();
    Stat {
        dev: m.dev(),
        ino: m.ino(),
        kind: if t.is_file() {
            FileKind::Regular
        } else if t.is_dir() {
            FileKind::Directory
        } else if t.is_symlink() {
            FileKind::Symlink
        } else {
            FileKind::Other
        },
        links: m.nlink(),
        uid: m.uid(),
        gid: m.gid(),
        mode: m.mode() & 0o7777,
        len: m.len(),
        modified: m.modified().unwrap_or(SystemTime::UNIX_EPOCH),
    }
}
