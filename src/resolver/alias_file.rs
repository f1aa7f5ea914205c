//! Alias files: read whole, without blocking, and only if other users cannot change them.
//!
//! - [`read`] opens without blocking and accepts regular files only, so that a FIFO or a terminal
//!   in the place of a file cannot block a session.
//! - An `:include:` file must also be owned by root or by the user that runs mailslot, be writable
//!   by its owner only, and be neither a symbolic link nor a file with a second link. Other users
//!   could otherwise add addresses to the list, or have a file shown that they may not read.
//! - [`AliasFile`] holds the current aliases. It checks the file at most once a second while mail
//!   arrives, so that edits take effect without a signal. If the file cannot be read, the old
//!   aliases stay in use.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::OFlag;

use super::aliases::Aliases;
use crate::observe::events;
use crate::process::confinement;

/// A reason why a file was not read, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// The error, beginning with the path.
    pub what: String,
    /// Advice to the administrator, in a few words.
    pub fix: String,
}

/// The source of a file's name, which decides how strictly the file is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTrust {
    /// The configuration. The file may be a link, and may have [`ALIASES_MAX`] bytes.
    Configured,
    /// An `:include:` target. The rules above apply, and the file may have [`INCLUDE_MAX`] bytes.
    Included,
}

/// Returns the content of `path`, and its metadata at that time.
///
/// # Errors
/// The file cannot be opened or read, is no regular file, is too large, or is not trusted.
pub fn read(path: &Path, trust: FileTrust) -> Result<(Vec<u8>, Metadata), ReadError> {
    let name = path.display();
    let error = |what: &str, fix: &str| {
        Err(ReadError { what: format!("{name} {what}"), fix: fix.to_owned() })
    };
    let mut flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    if trust == FileTrust::Included {
        flags |= OFlag::O_NOFOLLOW;
    }
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let (file, meta) = match opened.and_then(|file| file.metadata().map(|meta| (file, meta))) {
        Ok(both) => both,
        Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => {
            return error("is a symbolic link", "name the file itself");
        }
        Err(_) if confinement::blocks_reading(path) => {
            let what = "is outside of the confinement that mailslot started with";
            return error(what, "restart mailslot");
        }
        Err(e) => {
            let what = format!("cannot be opened: {e}");
            return error(&what, "create the file, or let the user that mailslot runs as read it");
        }
    };
    if !meta.is_file() {
        return error("is not a regular file", "put a file there");
    }
    let size_max = match trust {
        FileTrust::Configured => ALIASES_MAX,
        FileTrust::Included => {
            if let Some((what, fix)) = distrust_reason(path, &meta) {
                return error(&what, &fix);
            }
            INCLUDE_MAX
        }
    };
    match content(file, meta.len(), size_max) {
        Ok(Some(text)) => Ok((text, meta)),
        Ok(None) => error(
            &format!("is larger than {} MiB", size_max >> 20),
            "split the file, or shorten it",
        ),
        Err(e) => error(&format!("cannot be read: {e}"), "check the disk"),
    }
}

/// Returns why an include file is not trusted, and the fix.
fn distrust_reason(path: &Path, meta: &Metadata) -> Option<(String, String)> {
    let shown = path.display();
    let (owner, us) = (meta.uid(), nix::unistd::geteuid().as_raw());
    if owner != 0 && owner != us {
        let what =
            format!("belongs to user id {owner}, not to root or the user that runs mailslot");
        return Some((what, format!("chown root {shown}")));
    }
    if writable_by_others(meta) {
        return Some((
            "is writable by others than its owner".to_owned(),
            format!("chmod go-w {shown}"),
        ));
    }
    if meta.nlink() != 1 {
        return Some(("has a second link".to_owned(), "replace it by a copy".to_owned()));
    }
    None
}

/// True if group or others may write to the file.
pub(super) fn writable_by_others(meta: &Metadata) -> bool {
    meta.mode() & 0o022 != 0
}

/// Reads all of `file`, which had `size` bytes and may grow meanwhile. Returns None if it is larger
/// than `size_max`.
fn content(file: File, size: u64, size_max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut text = Vec::with_capacity(size.min(size_max) as usize + 1);
    file.take(size_max + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= size_max).then_some(text))
}

/// An aliases file, read again when it has changed.
#[derive(Debug)]
pub struct AliasFile {
    /// None if no aliases are configured.
    path: Option<PathBuf>,
    state: RwLock<AliasFileState>,
    /// Time of the last check.
    checked: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct AliasFileState {
    /// None until the file was read for the first time.
    aliases: Option<Arc<Aliases>>,
    /// The version of the file in `aliases`. None after an error, so that it is read again.
    stamp: Option<Stamp>,
    /// The error of the last check, kept so that it is logged once and not every second.
    error: Option<ReadError>,
}

/// A version of a file, different after every change. The inode shows a file replaced by rename;
/// its size and change time, which no call can set, show one written in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        Stamp {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// True if the file has not changed for [`STABLE_AFTER`]. A change in the future, which is seen
    /// after the clock was set back, is mistaken for an old one.
    fn is_stable(&self, now: SystemTime) -> bool {
        let changed = Duration::from_secs(self.changed.0.try_into().unwrap_or(0));
        let age = now.duration_since(SystemTime::UNIX_EPOCH + changed);
        !matches!(age, Ok(age) if age < STABLE_AFTER)
    }
}

impl AliasFile {
    /// Reads `path`. A file that cannot be read is tried again at the next check.
    pub fn new(path: Option<PathBuf>) -> AliasFile {
        let none = path.is_none().then(Arc::default);
        let file = AliasFile {
            path,
            state: RwLock::new(AliasFileState { aliases: none, ..AliasFileState::default() }),
            checked: Mutex::new(Instant::now()),
        };
        file.reload();
        file
    }

    /// Returns the current aliases.
    ///
    /// # Errors
    /// They were never read. No name is then certainly unknown, so that mail must be deferred.
    pub fn current(&self) -> Result<Arc<Aliases>, ReadError> {
        self.reload_if_changed(Instant::now(), SystemTime::now());
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match (&state.aliases, &state.error) {
            (Some(aliases), _) => Ok(Arc::clone(aliases)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(ReadError {
                what: "the aliases have not been read yet".to_owned(),
                fix: "wait".to_owned(),
            }),
        }
    }

    /// Reads the file now, even if it has not changed. The new aliases replace the old ones as a
    /// whole. An error is logged, and the old ones stay.
    pub fn reload(&self) {
        let Some(path) = &self.path else { return };
        let result = read(path, FileTrust::Configured)
            .map(|(text, meta)| (Arc::new(Aliases::parse(path, text)), Stamp::of(&meta)));
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok((aliases, stamp)) => {
                log_errors(&aliases);
                *state = AliasFileState { aliases: Some(aliases), stamp: Some(stamp), error: None };
            }
            Err(error) => {
                if state.error.as_ref() != Some(&error) {
                    let in_use = if state.aliases.is_some() { "old" } else { "none" };
                    events::aliases_unreadable(&error.what, in_use);
                }
                state.stamp = None;
                state.error = Some(error);
            }
        }
    }

    /// Returns the error of the last check, if there was one.
    pub fn error(&self) -> Option<ReadError> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).error.clone()
    }

    /// Reads the file again if it has changed, at most once in [`CHECK_INTERVAL`]. Waits until it
    /// is stable, because half a file would make known names unknown.
    fn reload_if_changed(&self, now: Instant, clock: SystemTime) {
        let Some(path) = &self.path else { return };
        match self.checked.try_lock() {
            Ok(mut checked) if now.saturating_duration_since(*checked) >= CHECK_INTERVAL => {
                *checked = now
            }
            // Not due, or another thread is checking.
            _ => return,
        }
        let loaded = self.state.read().unwrap_or_else(PoisonError::into_inner).stamp;
        let stamp = std::fs::metadata(path).ok().map(|meta| Stamp::of(&meta));
        if loaded.is_some() && loaded == stamp {
            return;
        }
        if stamp.is_none_or(|stamp| stamp.is_stable(clock)) {
            self.reload();
        }
    }
}

/// Logs the first errors in the file. A file of another kind may have one in every line.
fn log_errors(aliases: &Aliases) {
    for (line, why) in aliases.errors.iter().take(ERRORS_LOGGED_MAX) {
        events::aliases_invalid(aliases.path.display(), line, why);
    }
    let more = aliases.errors.len().saturating_sub(ERRORS_LOGGED_MAX);
    if more > 0 {
        events::aliases_invalid_omitted(aliases.path.display(), more);
    }
}

/// Maximum size of an aliases file in bytes. 100,000 aliases have about 4 MiB.
pub const ALIASES_MAX: u64 = 64 << 20;

/// Maximum size of an `:include:` file in bytes.
pub const INCLUDE_MAX: u64 = 1 << 20;

/// Minimum time between two checks of the aliases file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time without a change after which a file is stable. An editor writes a file in less.
const STABLE_AFTER: Duration = Duration::from_secs(2);

/// Maximum number of errors about a file that are logged. `mailslot check` prints all.
const ERRORS_LOGGED_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// The test brings its own clocks.
    #[test]
    fn changed_file_is_read_once_it_is_stable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aliases");
        std::fs::write(&path, "a: b\n").unwrap();
        let file = AliasFile::new(Some(path.clone()));
        let count =
            || file.state.read().unwrap().aliases.as_ref().map_or(0, |a| a.entries().count());
        let (start, clock) = (Instant::now(), SystemTime::now());
        let later = clock + STABLE_AFTER + CHECK_INTERVAL;
        assert_eq!(count(), 1);

        std::fs::write(&path, "a: b\nc: d\n").unwrap();
        file.reload_if_changed(start + CHECK_INTERVAL, clock);
        assert_eq!(count(), 1, "an editor may still be writing");
        file.reload_if_changed(start + CHECK_INTERVAL + CHECK_INTERVAL / 2, later);
        assert_eq!(count(), 1, "too early for another check");
        file.reload_if_changed(start + 2 * CHECK_INTERVAL, later);
        assert_eq!(count(), 2);

        // Replaced by rename, same length.
        let new = dir.path().join("new");
        std::fs::write(&new, "e: f\n# 567\n").unwrap();
        std::fs::rename(&new, &path).unwrap();
        file.reload_if_changed(start + 3 * CHECK_INTERVAL, later);
        assert_eq!(count(), 1);

        // Removed: the old aliases stay, and the error is known. Created again: read again.
        std::fs::remove_file(&path).unwrap();
        file.reload_if_changed(start + 4 * CHECK_INTERVAL, later);
        assert_eq!(count(), 1);
        assert!(file.error().is_some());
        std::fs::write(&path, "").unwrap();
        file.reload_if_changed(start + 5 * CHECK_INTERVAL, later);
        assert_eq!((count(), file.error()), (0, None));
    }

    #[test]
    fn clock_set_back_does_not_delay_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.as_file().metadata().unwrap());
        let now = SystemTime::now();
        assert!(!stamp.is_stable(now));
        assert!(stamp.is_stable(now + STABLE_AFTER + CHECK_INTERVAL));
        assert!(stamp.is_stable(now - Duration::from_secs(3600)));
    }

    #[test]
    fn without_a_file_there_are_no_aliases() {
        let file = AliasFile::new(None);
        file.reload();
        assert_eq!(file.current().unwrap().entries().count(), 0);
    }
}
