//! The sandbox that the process locks itself into once it has started: Landlock, as far as the
//! kernel has it (Linux 5.13 and later).
//!
//! Outside of the [`ConfinementRules`] that is named here no file can be opened, made, cut, linked or removed
//! any more, by any thread, whoever it is: not even root is excepted. Nothing can be executed at
//! all. No TCP port can be bound, and none but a smarthost's connected to (Linux 6.7); no process
//! outside can be sent a signal (6.12). Sockets that are open stay usable, and so do Unix sockets:
//! a syslog daemon, nscd or sssd can be talked to.
//!
//! What it cannot do is hide a name: lstat(2) is not restricted.
//!
//! **Rules are for folders where that is possible.** A rule for a file is a rule for its inode:
//! when an editor, useradd(8) or a renewed certificate puts a new file in its place, that one is
//! out of reach. So a file that is named brings its folder with it; and who looks up users may read
//! all of `/etc`, in which the permissions of an ordinary user guard what is secret. Root has no
//! such permissions: for uid 0 a file in `/etc` is in reach alone, and only if everybody may read
//! it. A file put in its place later is not read until the next start; the log says so.

#[cfg_attr(target_os = "linux", path = "landlock.rs")]
#[cfg_attr(not(target_os = "linux"), path = "absent.rs")]
mod sys;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

pub use sys::confine;

/// What stays in reach. What is not there is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfinementRules {
    root: bool,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
    remove: Vec<PathBuf>,
    devices: Vec<PathBuf>,
    ports: BTreeSet<u16>,
}

impl ConfinementRules {
    /// What every process needs: the time zones, the boot's id, `/dev/null`.
    pub fn new() -> ConfinementRules {
        let mut rules = ConfinementRules {
            root: geteuid().is_root(),
            read: BASE_FILES.iter().map(PathBuf::from).collect(),
            write: Vec::new(),
            remove: Vec::new(),
            devices: Vec::new(),
            ports: BTreeSet::new(),
        };
        rules.allow_read_public(Path::new("/etc/localtime"));
        rules
    }

    /// Files below `directory` may be read, written, made and removed.
    pub fn allow_write(&mut self, directory: &Path) {
        self.write.push(or_current_directory(directory));
    }

    /// `file`, which the administrator named, may be read; and what will be in its place.
    pub fn allow_read(&mut self, file: &Path) {
        self.allow_read_in_place(file, true);
    }

    /// The same for a file whose name came from another file.
    pub fn allow_read_public(&mut self, file: &Path) {
        self.allow_read_in_place(file, false);
    }

    /// Users may be looked up, through whatever module of the C library.
    pub fn allow_user_lookup(&mut self) {
        self.read.extend(NSS_MODULES.iter().map(PathBuf::from));
        match self.root {
            false => self.read.push("/etc".into()),
            true => USER_DATABASES.iter().for_each(|file| self.allow_read_public(Path::new(file))),
        }
    }

    /// A TCP `port` of any host may be connected to, and the host looked up by its name.
    pub fn allow_connect(&mut self, port: u16) {
        self.ports.extend([port, DNS_PORT]);
        self.allow_user_lookup();
        if self.root {
            HOST_DATABASES.iter().for_each(|file| self.allow_read_public(Path::new(file)));
        }
        self.read.push("/run/systemd/resolve".into());
    }

    /// What is in the homes of users may be read, by whoever has the rights of the user: `/home`,
    /// and those of people that `/etc/passwd` has now.
    pub fn allow_read_homes(&mut self) {
        self.read.push("/home".into());
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let home = |line: &str| {
            let mut fields = line.split(':').skip(2);
            let uid: u32 = fields.next()?.parse().ok()?;
            fields.nth(2).filter(|_| uid >= FIRST_REGULAR_UID).map(PathBuf::from)
        };
        let homes = passwd.lines().filter_map(home);
        self.read.extend(homes.filter(|home| home.is_absolute() && !is_shared(home)));
    }

    /// Names in `directory` may be removed: a socket that was made there.
    pub fn allow_remove(&mut self, directory: &Path) {
        self.remove.push(or_current_directory(directory));
    }

    /// Terminals may be written to; `logins` is the file that tells whose they are.
    pub fn allow_terminals(&mut self, logins: &Path) {
        self.allow_read_public(logins);
        self.devices.push("/dev/pts".into());
        // Nothing else that is in /dev.
        let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
        let ttys = entries.filter(|e| e.file_name().as_encoded_bytes().starts_with(b"tty"));
        self.devices.extend(ttys.map(|e| e.path()));
    }

    fn allow_read_in_place(&mut self, file: &Path, named: bool) {
        let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        // A link is followed to wherever it leads by then: both folders.
        for path in [file, &real] {
            match path.parent() {
                Some(directory) if !self.root || !is_shared(directory) => {
                    self.read.push(or_current_directory(directory));
                }
                _ if named || is_public(path) => self.read.push(path.to_owned()),
                _ => {}
            }
        }
    }
}

impl Default for ConfinementRules {
    fn default() -> ConfinementRules {
        ConfinementRules::new()
    }
}

/// How much of it the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfinementStrength {
    /// All that is told at the top of this file.
    Full,
    /// Files at least.
    Partial,
    /// Nothing: it has no Landlock, or that is switched off.
    None,
}

/// Whether it is the sandbox that keeps `file` from being read, and not its permissions: access(2)
/// knows these only.
pub fn blocks_reading(file: &Path) -> bool {
    let refused = File::open(file).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    refused && access(file, AccessFlags::R_OK).is_ok()
}

/// The folder of a name without one.
fn or_current_directory(directory: &Path) -> PathBuf {
    let here = directory.as_os_str().is_empty();
    if here { PathBuf::from(".") } else { directory.to_owned() }
}

/// Whether a folder is so full of other things that root must not get all of it with one file.
fn is_shared(directory: &Path) -> bool {
    ["/", "/etc", "/root", "/home", "/run", "/var"]
        .iter()
        .any(|shared| directory == Path::new(shared))
}

fn is_public(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o004 != 0)
}

/// Read by every process.
const BASE_FILES: &[&str] =
    &["/usr/share/zoneinfo", "/proc/sys/kernel/random/boot_id", "/dev/null"];
/// The modules of nsswitch.conf(5), and what those of sssd, systemd and libnss-extrausers read.
const NSS_MODULES: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/var/lib/extrausers",
    "/var/lib/sss",
    "/run/systemd/userdb",
];
/// The uids below are the system's own (Debian Policy 9.2.2).
const FIRST_REGULAR_UID: u32 = 1000;
/// What is read in `/etc` to look up a host.
const HOST_DATABASES: &[&str] = &["/etc/hosts", "/etc/resolv.conf", "/etc/gai.conf"];
/// For answers that are too long for UDP.
const DNS_PORT: u16 = 53;
/// What is read in `/etc` to look up a user.
const USER_DATABASES: &[&str] =
    &["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/host.conf"];
