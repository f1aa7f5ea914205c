//! The part of the file system that a service of systemd sees (`ProtectSystem=`, `ProtectHome=`,
//! `PrivateTmp=`, `ReadWritePaths=`), made in a mount namespace of the process.

use std::io;

/// The settings of a service that change its view of the file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceView {
    /// `ProtectSystem=strict`: all is read-only except [`writable`](ServiceView::writable).
    pub read_only: bool,
    /// `ProtectHome=yes`: home directories are empty.
    pub hides_homes: bool,
    /// `PrivateTmp=yes`: directories of temporary files are others.
    pub private_tmp: bool,
    /// `ReadWritePaths=`, and `RuntimeDirectory=` below `/run`.
    pub writable: Vec<String>,
}

#[cfg(target_os = "linux")]
impl ServiceView {
    /// Gives this process, which must be root, the view. Other processes do not see it.
    ///
    /// # Errors
    /// `PermissionDenied` if the process may not mount. Any other error of a mount.
    pub(super) fn apply(&self) -> io::Result<()> {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};

        const NONE: Option<&str> = None;
        if *self == ServiceView::default() {
            return Ok(());
        }
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        // A path that does not exist stays missing, as for systemd.
        let exists = |path: &str| std::path::Path::new(path).exists();
        let hide = |path: &str, options: &str| {
            if !exists(path) {
                return Ok(());
            }
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options))
        };
        let writable: Vec<&str> =
            self.writable.iter().map(String::as_str).filter(|path| exists(path)).collect();
        for path in &writable {
            mount(Some(*path), *path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
        }
        if self.private_tmp {
            TMP.iter().try_for_each(|path| hide(path, "mode=1777"))?;
        }
        if self.hides_homes {
            HOMES.iter().try_for_each(|path| hide(path, "mode=0"))?;
        }
        if self.read_only {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
            let stays = [&writable[..], TMP, KERNEL].concat();
            let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
            for point in points.filter(|point| !is_below(point, &stays)) {
                let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
                // Names with blanks are escaped there, and a mount may be hidden by another.
                let _ = mount(NONE, point, NONE, flags, NONE);
            }
        }
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
impl ServiceView {
    /// Does nothing, because there is no systemd.
    pub(super) fn apply(&self) -> io::Result<()> {
        Ok(())
    }
}

/// True if `path` is one of `directories`, or below one.
#[cfg(target_os = "linux")]
fn is_below(path: &str, directories: &[&str]) -> bool {
    directories.iter().any(|directory| std::path::Path::new(path).starts_with(directory))
}

/// Directories of temporary files.
#[cfg(target_os = "linux")]
const TMP: &[&str] = &["/tmp", "/var/tmp"];
/// Directories that `ProtectHome=` is about.
#[cfg(target_os = "linux")]
const HOMES: &[&str] = &["/home", "/root", "/run/user"];
/// Directories of the kernel, which `ProtectSystem=strict` leaves alone.
#[cfg(target_os = "linux")]
const KERNEL: &[&str] = &["/dev", "/proc", "/sys"];
