//! The confinement that the process applies to itself once it has started: Landlock, as far as the
//! kernel supports it (Linux 5.13 and later). The system calls are in `landlock.rs`; on other
//! systems `absent.rs` replaces it.
//!
//! No thread, not even one of root, can open, create, truncate, link or remove a file that the
//! [`ConfinementRules`] do not allow. No program can be executed. No TCP port can be bound, and
//! only the smarthosts' ports can be connected to (Linux 6.7). No process outside can be sent a
//! signal (Linux 6.12). Open sockets stay usable, and so do Unix sockets, so that syslog, nscd and
//! sssd can still be reached.
//!
//! Names are not hidden: lstat(2) is not restricted.
//!
//! **Rules name directories where possible.** A rule for a file is a rule for its inode. When an
//! editor, useradd(8) or a renewed certificate puts a new file in its place, the rule does not
//! cover the new one. So a rule for a file covers its directory, and a rule for user lookups covers
//! all of `/etc`, where permissions protect the secrets from an ordinary user. They do not protect
//! them from root. For uid 0 a rule in `/etc` therefore covers the file alone, and only if it is
//! world-readable. A file put in its place later cannot be read until the next start.
//!
//! **Links are followed to their end**: the directory of each link on the way has a rule, too. If
//! the end does not exist yet, as `/run/NetworkManager/resolv.conf` at boot, an ordinary user gets
//! a rule for the nearest directory above it.
//!
//! A directory that is replaced or mounted over has no rule. `startup/confinement_watch.rs` notices
//! that, and ends the process.

#[cfg_attr(target_os = "linux", path = "landlock.rs")]
#[cfg_attr(not(target_os = "linux"), path = "absent.rs")]
mod sys;

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

pub use sys::confine;

/// The files and ports that stay accessible. Paths that do not exist are ignored.
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
    /// Returns the rules that every process needs: time zones, the boot id, `/dev/null`.
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

    /// Allows reading, writing, creating and removing files below `directory`.
    pub fn allow_write(&mut self, directory: &Path) {
        self.write.push(or_current_directory(directory));
    }

    /// Allows reading `file`, which the administrator named, and a file that replaces it.
    pub fn allow_read(&mut self, file: &Path) {
        self.allow_read_in_place(file, true);
    }

    /// Allows reading `file`, which another file names. For root it must be world-readable.
    pub fn allow_read_public(&mut self, file: &Path) {
        self.allow_read_in_place(file, false);
    }

    /// Allows looking up users, through any NSS module of the C library.
    pub fn allow_user_lookup(&mut self) {
        self.read.extend(NSS_MODULES.iter().map(PathBuf::from));
        USER_DATABASES.iter().for_each(|file| self.allow_read_public(Path::new(file)));
        if !self.root {
            self.read.push("/etc".into());
        }
    }

    /// Allows connecting to TCP `port` of any host, and looking up the host's name.
    pub fn allow_connect(&mut self, port: u16) {
        self.ports.extend([port, DNS_PORT]);
        self.allow_user_lookup();
        HOST_DATABASES.iter().for_each(|file| self.allow_read_public(Path::new(file)));
        self.read.push("/run/systemd/resolve".into());
    }

    /// Allows reading the root certificates of this system, also those that `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name.
    pub fn allow_read_roots(&mut self) {
        self.read.extend(ROOT_CERTIFICATES.iter().map(PathBuf::from));
        if let Some(file) = env::var_os("SSL_CERT_FILE") {
            self.allow_read(Path::new(&file));
        }
        if let Some(directories) = env::var_os("SSL_CERT_DIR") {
            self.read.extend(env::split_paths(&directories));
        }
    }

    /// Allows reading below `/home`, and below the home directories that `/etc/passwd` lists now
    /// for regular users. File permissions still apply.
    pub fn allow_read_homes(&mut self) {
        self.read.push("/home".into());
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let home = |line: &str| {
            let mut fields = line.split(':').skip(2);
            let uid: u32 = fields.next()?.parse().ok()?;
            let home = fields.nth(2)?;
            (uid >= FIRST_REGULAR_UID).then(|| PathBuf::from(home))
        };
        let homes = passwd.lines().filter_map(home);
        self.read.extend(homes.filter(|home| home.is_absolute() && !is_shared(home)));
    }

    /// Allows removing names in `directory`: a socket that was created there.
    pub fn allow_remove(&mut self, directory: &Path) {
        self.remove.push(or_current_directory(directory));
    }

    /// Allows writing to terminals, and reading `logins`, the file that lists their users.
    pub fn allow_terminals(&mut self, logins: &Path) {
        self.allow_read_public(logins);
        self.devices.push("/dev/pts".into());
        // A rule for all of /dev would allow writing to disks.
        let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
        let ttys = entries.filter(|e| e.file_name().as_encoded_bytes().starts_with(b"tty"));
        self.devices.extend(ttys.map(|e| e.path()));
    }

    fn allow_read_in_place(&mut self, file: &Path, named: bool) {
        for path in links_of(file) {
            match path.parent() {
                Some(directory) if !self.root || !is_shared(directory) => {
                    let directory = or_current_directory(directory);
                    self.read.push(if self.root { directory } else { nearest(directory) });
                }
                _ if named || is_public(&path) => self.read.push(path),
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

/// The extent to which the kernel enforces the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfinementStrength {
    /// All that is listed at the top of this file.
    Full,
    /// Files at least.
    Partial,
    /// Nothing, because the kernel has no Landlock or it is disabled.
    None,
}

/// True if the confinement prevents `file` from being read, and its permissions do not: access(2)
/// checks permissions only.
pub fn blocks_reading(file: &Path) -> bool {
    let refused = File::open(file).is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied);
    refused && access(file, AccessFlags::R_OK).is_ok()
}

/// Returns `directory`, or `.` for the empty parent of a bare file name.
fn or_current_directory(directory: &Path) -> PathBuf {
    if directory.as_os_str().is_empty() { PathBuf::from(".") } else { directory.to_owned() }
}

/// Returns `file`, the paths that it leads to through symbolic links, and the path of its end
/// without any link.
fn links_of(file: &Path) -> Vec<PathBuf> {
    let mut paths = vec![file.to_owned()];
    let mut path = file.to_owned();
    while let Ok(target) = fs::read_link(&path)
        && paths.len() < LINKS_MAX
    {
        // The target is relative to the directory of the link.
        path = path.parent().unwrap_or(Path::new("/")).join(target);
        paths.push(path.clone());
    }
    paths.extend(fs::canonicalize(file));
    paths
}

/// Returns `directory`, or the nearest directory above it that exists. Never returns the root
/// directory in its place.
fn nearest(directory: PathBuf) -> PathBuf {
    let existing = directory.ancestors().find(|path| path.is_dir());
    let existing = existing.filter(|path| path.parent().is_some()).map(Path::to_owned);
    existing.unwrap_or(directory)
}

/// True if a directory has so many unrelated files that root must not get access to all of them
/// because of one.
fn is_shared(directory: &Path) -> bool {
    ["/", "/etc", "/root", "/home", "/run", "/var"]
        .iter()
        .any(|shared| directory == Path::new(shared))
}

fn is_public(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o004 != 0)
}

/// Files that every process reads.
const BASE_FILES: &[&str] =
    &["/usr/share/zoneinfo", "/proc/sys/kernel/random/boot_id", "/dev/null"];
/// The modules of nsswitch.conf(5), and the files that those of sssd, systemd and
/// libnss-extrausers read.
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
/// Directories of root certificates, and those that their links lead to, in Debian, Fedora, Arch,
/// Alpine and openSUSE.
const ROOT_CERTIFICATES: &[&str] = &[
    "/etc/ssl/certs",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates/extracted",
    "/var/lib/ca-certificates",
];
/// The number of symbolic links that the kernel follows in one path (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// The first uid of regular users; those below are system accounts (Debian Policy 9.2.2).
const FIRST_REGULAR_UID: u32 = 1000;
/// Files in `/etc` that a host lookup reads.
const HOST_DATABASES: &[&str] = &["/etc/hosts", "/etc/resolv.conf", "/etc/gai.conf"];
/// DNS over TCP, for answers that are too long for UDP.
const DNS_PORT: u16 = 53;
/// Files in `/etc` that a user lookup reads.
const USER_DATABASES: &[&str] =
    &["/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/host.conf"];
