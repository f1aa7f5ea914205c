//! The calls on files that delivery consists of, as two traits: [`HostDisk`] makes the system
//! calls, and the tests bring a simulated disk that fails, is killed or loses power at its n-th
//! call. The traits include questions about processes, because a simulated disk has simulated
//! processes, which die and reboot without the test itself.
//!
//! This file decides nothing. Names are never followed through symbolic links, descriptors are
//! close-on-exec, and opening never blocks, because a FIFO planted as a mailbox must not stop the
//! writer.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
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

/// Bytes in a block: the unit in which memory is paged and in which the journal is laid out.
pub const BLOCK: u64 = 4096;
/// Bytes in a sector: the most that every disk writes whole or not at all when power fails.
pub const SECTOR: u64 = 512;

/// File metadata, as lstat and fstat return it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device. Together with the inode it identifies the file.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// File type.
    pub kind: FileKind,
    /// Number of hard links.
    pub links: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Length in bytes.
    pub len: u64,
    /// Time of the last change of the content, by the file system's clock.
    pub modified: SystemTime,
    /// Time of the last change of the content or the metadata (ctime).
    pub changed: ChangeTime,
}

/// Time of a change by the file system's clock: seconds since 1970, and nanoseconds.
pub type ChangeTime = (i64, i64);

impl Stat {
    /// Returns device and inode.
    pub fn id(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }

    /// True if `other` is the same file with the same type, links, owner and permissions.
    pub fn has_same_access(&self, other: &Stat) -> bool {
        let access = |s: &Stat| (s.id(), s.kind, s.links, s.uid, s.gid, s.mode);
        access(self) == access(other)
    }
}

/// File type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Regular file.
    Regular,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// FIFO, socket or device.
    Other,
}

/// Access for which a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading.
    Read,
    /// Reading, and writing at given offsets.
    Write,
    /// Reading and appending.
    Append,
    /// Reading and appending to a new file. Fails if the name exists.
    Create {
        /// Permission bits, whatever the umask.
        mode: u32,
        /// Owner of the file, or None for the user that mailslot runs as.
        owner: Option<Owner>,
    },
}

/// Kernel lock that an open file carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileLock {
    /// Open-file-description lock over the whole file. Unlike a plain fcntl lock it is not lost
    /// when another descriptor of the file is closed.
    Fcntl,
    /// flock(2).
    Flock,
}

/// System calls on names, and questions about processes.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Takes the file-system identity of `owner` for the calls of this thread until the result is
    /// dropped, so that the kernel checks each of them against the permissions of `owner`. Does
    /// nothing without an owner, or without the capability.
    fn impersonate(&self, _owner: Option<Owner>) -> io::Result<ImpersonationGuard> {
        Ok(ImpersonationGuard::default())
    }

    /// Returns the metadata of the name itself (lstat).
    fn lstat(&self, path: &Path) -> io::Result<Stat>;
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Adds the name `to` to a file. Fails if `to` exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Returns the names in a directory.
    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;

    /// Returns the id of this process.
    fn pid(&self) -> u32;
    /// Returns `boot/namespace` without blanks: the boot id and the pid namespace within which a
    /// pid identifies one process. Returns None if the boot id is not known, as without /proc.
    fn pid_scope(&self) -> Option<String>;
    /// True if this pid scope certainly has no process `pid`.
    fn is_dead(&self, pid: u32) -> bool;
    /// True if a pid that a program wrote into a file in `directory` is known to be of this host
    /// and of this pid namespace.
    fn has_own_pids(&self, _directory: &Path) -> bool {
        false
    }
    /// Returns the time by this host's clock, which can step.
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// System calls on an open file.
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Returns the metadata (fstat).
    fn stat(&self) -> io::Result<Stat>;
    /// Reads at `offset`. Returns 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes at `offset`, perhaps less than all. Not for a file opened for appending.
    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Writes at the end, perhaps less than all.
    fn append(&self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Truncates or extends the file to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes content and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// Takes `lock` if it is free. Returns false if another process or descriptor has it.
    fn try_lock(&self, lock: FileLock) -> io::Result<bool>;
    /// Releases `lock`.
    fn unlock(&self, lock: FileLock) -> io::Result<()>;
    /// Sets the modification time to now.
    fn touch(&self) -> io::Result<()>;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter.
    fn read_exact_at(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, offset) {
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

    /// Writes all of `parts` at the end, in as few calls as the system allows.
    fn append_all(&self, parts: &[&[u8]]) -> io::Result<()> {
        write_all(parts, |rest| self.append(rest))
    }

    /// Writes all of `parts` from `offset`, in as few calls as the system allows.
    fn write_all_at(&self, parts: &[&[u8]], mut offset: u64) -> io::Result<()> {
        write_all(parts, |rest| {
            let n = self.write_at(rest, offset)?;
            offset += n as u64;
            Ok(n)
        })
    }
}

/// Calls `write` until all of `parts` is written or a call fails.
pub(super) fn write_all(
    parts: &[&[u8]],
    mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
    let mut rest = &mut slices[..];
    while rest.iter().any(|s| !s.is_empty()) {
        // IOV_MAX is 1024 on every current system.
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

/// The host's file system and processes.
#[derive(Debug, Default)]
pub struct HostDisk {
    /// The ability to act as a mailbox's owner, if this process has it.
    impersonator: Option<Impersonator>,
}

impl HostDisk {
    /// Creates a disk that can act as other users if the calling thread can.
    pub fn new() -> HostDisk {
        HostDisk { impersonator: Impersonator::of_this_thread() }
    }
}

impl Disk for HostDisk {
    fn impersonate(&self, owner: Option<Owner>) -> io::Result<ImpersonationGuard> {
        match (self.impersonator, owner) {
            (Some(impersonator), Some(Owner { uid, gid })) => {
                impersonator.impersonate(uid.into(), gid.into())
            }
            _ => Ok(ImpersonationGuard::default()),
        }
    }

    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        fs::symlink_metadata(path).map(|m| stat_of(&m))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        options.read(true).custom_flags(flags.bits());
        let file = match mode {
            OpenMode::Read => options.open(path)?,
            OpenMode::Write => options.write(true).open(path)?,
            OpenMode::Append => options.append(true).open(path)?,
            OpenMode::Create { mode, owner } => {
                // Created with 0600, because the group may only have access once the file has its
                // owner.
                let file = options.append(true).create_new(true).mode(0o600).open(path)?;
                if let Err(e) = set_access(&file, mode, owner) {
                    let _ = fs::remove_file(path);
                    return Err(e);
                }
                file
            }
        };
        Ok(Arc::new(file))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            // mailslot makes no name that is not UTF-8.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn pid(&self) -> u32 {
        std::process::id()
    }

    fn pid_scope(&self) -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits = |s: &str| s.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
        let (boot, namespace) = (digits(&boot), digits(&namespace.to_string_lossy()));
        (!boot.is_empty()).then(|| format!("{boot}/{namespace}"))
    }

    fn is_dead(&self, pid: u32) -> bool {
        let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0);
        pid.is_some_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
    }

    fn has_own_pids(&self, directory: &Path) -> bool {
        is_local(directory)
            && self.pid_scope().is_some_and(|scope| scope.ends_with(FIRST_PID_NAMESPACE))
    }
}

/// True if the directory is on a file system that other hosts do not mount.
#[cfg(target_os = "linux")]
fn is_local(directory: &Path) -> bool {
    use nix::sys::statfs;
    // nix has no name for it with musl.
    const XFS_SUPER_MAGIC: statfs::FsType = statfs::FsType(0x5846_5342);
    const LOCAL: [statfs::FsType; 6] = [
        statfs::EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        statfs::BTRFS_SUPER_MAGIC,
        statfs::F2FS_SUPER_MAGIC,
        statfs::TMPFS_MAGIC,
        statfs::OVERLAYFS_SUPER_MAGIC,
    ];
    statfs::statfs(directory).is_ok_and(|found| LOCAL.contains(&found.filesystem_type()))
}

/// Other systems number their file systems in other ways, so that nothing is known.
#[cfg(not(target_os = "linux"))]
fn is_local(_directory: &Path) -> bool {
    false
}

/// End of the pid scope in the pid namespace that the kernel makes at boot, and that has all
/// processes (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "/pid4026531836";

impl DiskFile for File {
    fn stat(&self) -> io::Result<Stat> {
        self.metadata().map(|m| stat_of(&m))
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        // Where off_t has 32 bits, pwritev(2) ends at 2 GiB. std writes beyond with pwrite64(2).
        match libc::off_t::try_from(offset) {
            Ok(offset) => Ok(pwritev(self, parts, offset)?),
            Err(_) => {
                let part = parts.iter().find(|part| !part.is_empty());
                part.map_or(Ok(0), |part| FileExt::write_at(self, part, offset))
            }
        }
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
            // POSIX allows EACCES as well as EAGAIN for a lock that is held.
            Err(e) if e.raw_os_error() == Some(Errno::EACCES as i32) => Ok(false),
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

/// Gives a new file its owner, then its permissions.
fn set_access(file: &File, mode: u32, owner: Option<Owner>) -> io::Result<()> {
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
    let whole_file = libc::flock {
        #[cfg(target_os = "freebsd")]
        l_sysid: 0,
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let call = FcntlArg::F_OFD_SETLK(&whole_file);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let call = FcntlArg::F_SETLK(&whole_file);
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
        changed: (m.ctime(), m.ctime_nsec()),
    }
}
