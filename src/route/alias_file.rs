//! The files behind the aliases: read whole, never waited for, believed only when they are ours.
//!
//! - [`read`] opens without blocking and takes regular files only, so a FIFO or a terminal in the
//!   place of a file cannot hang anyone.
//! - An `:include:` file must also be owned by root or by whoever runs mailslot, writable by its
//!   owner only, no symbolic link and no second link of a file: others could put their addresses
//!   into the list, or have a file shown that they may not read.
//! - [`AliasFile`] holds the aliases in force. It looks at the file at most once a second while mail
//!   comes in, so edits count without a signal; a file that cannot be read leaves the old ones in
//!   force.

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

/// A file that was not read: what is wrong, and what an administrator can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// With the path.
    pub what: String,
    /// In a few words.
    pub fix: String,
}

/// Who wrote a file's name into a list, and so how much it takes to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTrust {
    /// Named by the administrator on the command line: may be a link; at most [`ALIASES_MAX`].
    Named,
    /// An `:include:` file: the rules above; at most [`INCLUDE_MAX`].
    Included,
}

/// The content of `path`, and what it was when read.
///
/// # Errors
/// It cannot be opened or read, is no regular file, is too large, or may not be believed.
pub fn read(path: &Path, trust: FileTrust) -> Result<(Vec<u8>, Metadata), ReadError> {
    let name = path.display();
    let unread = |what: &str, fix: &str| {
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
            return unread("is a symbolic link", "name the file itself");
        }
        Err(_) if confinement::blocks_reading(path) => {
            let what = "is outside of the sandbox that mailslot has locked itself into";
            return unread(what, "restart mailslot, which makes it anew");
        }
        Err(e) => {
            let what = format!("cannot be opened: {e}");
            return unread(&what, "create the file, or let whom mailslot runs as read it");
        }
    };
    if !meta.is_file() {
        return unread("is not a regular file", "put a file there");
    }
    let size_max = match trust {
        FileTrust::Named => ALIASES_MAX,
        FileTrust::Included => {
            if let Some((what, fix)) = distrust_reason(path, &meta) {
                return unread(&what, &fix);
            }
            INCLUDE_MAX
        }
    };
    match content(file, size_max) {
        Ok(Some(text)) => Ok((text, meta)),
        Ok(None) => unread(
            &format!("is larger than {} MiB", size_max >> 20),
            "split it, or make it smaller",
        ),
        Err(e) => unread(&format!("cannot be read: {e}"), "look at the disk"),
    }
}

/// Why a file of this kind is not believed as a list, and the cure.
fn distrust_reason(path: &Path, meta: &Metadata) -> Option<(String, String)> {
    let shown = path.display();
    let (owner, us) = (meta.uid(), nix::unistd::geteuid().as_raw());
    if owner != 0 && owner != us {
        let what = format!("belongs to user id {owner}, not to root or to who runs mailslot");
        return Some((what, format!("chown root {shown}")));
    }
    if writable_by_others(meta) {
        return Some((
            "is writable by others than its owner".to_owned(),
            format!("chmod go-w {shown}"),
        ));
    }
    if meta.nlink() != 1 {
        return Some(("has a second link".to_owned(), "make it a file of its own".to_owned()));
    }
    None
}

/// Whether group or world may write to it.
pub(super) fn writable_by_others(meta: &Metadata) -> bool {
    meta.mode() & 0o022 != 0
}

/// All of `file`, or None if it is larger than `size_max`, whatever its length says.
fn content(file: File, size_max: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    file.take(size_max + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= size_max).then_some(text))
}

/// The aliases in force.
#[derive(Debug)]
pub struct AliasFile {
    /// None: there are no aliases.
    path: Option<PathBuf>,
    state: RwLock<AliasFileState>,
    /// When the file was last looked at.
    looked: Mutex<Instant>,
}

#[derive(Debug, Default)]
struct AliasFileState {
    /// None: the file was never read.
    aliases: Option<Arc<Aliases>>,
    /// What `aliases` was read from. None: the last look ended in an error; try again.
    stamp: Option<Stamp>,
    /// The last look's error, so that it is logged once and not every second.
    unread: Option<ReadError>,
}

/// Differs after every change: inode for a file replaced by rename, the inode's change time (which
/// nobody can set) and size for one written in place.
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

    /// Whether nothing has happened to the file for [`SETTLE`]; one from the future, once the clock
    /// was set, is taken for settled too.
    fn is_settled(&self, now: SystemTime) -> bool {
        let changed = Duration::from_secs(self.changed.0.try_into().unwrap_or(0));
        let age = now.duration_since(SystemTime::UNIX_EPOCH + changed);
        !matches!(age, Ok(age) if age < SETTLE)
    }
}

impl AliasFile {
    /// Reads `path`; a file that cannot be read is tried again when it is asked for.
    pub fn new(path: Option<PathBuf>) -> AliasFile {
        let none = path.is_none().then(Arc::default);
        let live = AliasFile {
            path,
            state: RwLock::new(AliasFileState { aliases: none, ..AliasFileState::default() }),
            looked: Mutex::new(Instant::now()),
        };
        live.reload();
        live
    }

    /// The aliases in force.
    ///
    /// # Errors
    /// They were never read. Then nobody can say who is unknown, and mail must wait.
    pub fn current(&self) -> Result<Arc<Aliases>, ReadError> {
        self.look_if_due(Instant::now(), SystemTime::now());
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match (&state.aliases, &state.unread) {
            (Some(aliases), _) => Ok(Arc::clone(aliases)),
            (None, Some(unread)) => Err(unread.clone()),
            (None, None) => Err(ReadError {
                what: "the aliases are not read yet".to_owned(),
                fix: "wait".to_owned(),
            }),
        }
    }

    /// Reads the file now, whatever it looks like. The new aliases come into force at once and
    /// whole; an error is logged, and the old ones stay.
    pub fn reload(&self) {
        let Some(path) = &self.path else { return };
        let result = read(path, FileTrust::Named)
            .map(|(text, meta)| (Arc::new(Aliases::parse(path, &text)), Stamp::of(&meta)));
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok((aliases, stamp)) => {
                report(&aliases);
                *state =
                    AliasFileState { aliases: Some(aliases), stamp: Some(stamp), unread: None };
            }
            Err(unread) => {
                if state.unread.as_ref() != Some(&unread) {
                    let in_use = if state.aliases.is_some() { "old" } else { "none" };
                    events::aliases_unreadable(&unread.what, in_use);
                }
                state.stamp = None;
                state.unread = Some(unread);
            }
        }
    }

    /// The file's error at the last look, if there was one.
    pub fn unread(&self) -> Option<ReadError> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).unread.clone()
    }

    /// Reloads a file that has changed, at most once in [`LOOK_EVERY`], and not while somebody may
    /// still be writing it: half a file would have known names refused.
    fn look_if_due(&self, now: Instant, clock: SystemTime) {
        let Some(path) = &self.path else { return };
        match self.looked.try_lock() {
            Ok(mut looked) if now.saturating_duration_since(*looked) >= LOOK_EVERY => *looked = now,
            // Not due, or another thread is at it.
            _ => return,
        }
        let known = self.state.read().unwrap_or_else(PoisonError::into_inner).stamp;
        let stamp = std::fs::metadata(path).ok().map(|meta| Stamp::of(&meta));
        if known.is_some() && known == stamp {
            return;
        }
        if stamp.is_none_or(|stamp| stamp.is_settled(clock)) {
            self.reload();
        }
    }
}

/// Logs what is wrong in the file, but not a whole file of the wrong kind.
fn report(aliases: &Aliases) {
    for (line, why) in aliases.complaints.iter().take(COMPLAINTS_MAX) {
        events::aliases_invalid(aliases.path.display(), line, why);
    }
    let more = aliases.complaints.len().saturating_sub(COMPLAINTS_MAX);
    if more > 0 {
        events::aliases_invalid_omitted(aliases.path.display(), more);
    }
}

/// The largest aliases file, in octets; 100,000 aliases have about 4 MiB.
pub const ALIASES_MAX: u64 = 64 << 20;

/// The largest `:include:` file, in octets.
pub const INCLUDE_MAX: u64 = 1 << 20;

/// How often the aliases file is looked at while mail comes in.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a changed file must have been left alone; an editor writes in less.
const SETTLE: Duration = Duration::from_secs(2);

/// Complaints about one file that are logged; `mailslot check` prints all.
const COMPLAINTS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// A file being edited is left alone until it has been still for a while; then it counts
    /// without a signal. The clocks are the test's.
    #[test]
    fn changes_count_once_they_have_settled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aliases");
        std::fs::write(&path, "a: b\n").unwrap();
        let live = AliasFile::new(Some(path.clone()));
        let count = || live.state.read().unwrap().aliases.as_ref().map_or(0, |a| a.entries.len());
        let (start, clock) = (Instant::now(), SystemTime::now());
        let later = clock + SETTLE + LOOK_EVERY;
        assert_eq!(count(), 1);

        std::fs::write(&path, "a: b\nc: d\n").unwrap();
        live.look_if_due(start + LOOK_EVERY, clock);
        assert_eq!(count(), 1, "somebody may still be writing");
        live.look_if_due(start + LOOK_EVERY + LOOK_EVERY / 2, later);
        assert_eq!(count(), 1, "too early for another look");
        live.look_if_due(start + 2 * LOOK_EVERY, later);
        assert_eq!(count(), 2);

        // Replaced by rename, same length.
        let new = dir.path().join("new");
        std::fs::write(&new, "e: f\n# 567\n").unwrap();
        std::fs::rename(&new, &path).unwrap();
        live.look_if_due(start + 3 * LOOK_EVERY, later);
        assert_eq!(count(), 1);

        // Gone: the old stay, the error is known; back again: read again.
        std::fs::remove_file(&path).unwrap();
        live.look_if_due(start + 4 * LOOK_EVERY, later);
        assert_eq!(count(), 1);
        assert!(live.unread().is_some());
        std::fs::write(&path, "").unwrap();
        live.look_if_due(start + 5 * LOOK_EVERY, later);
        assert_eq!((count(), live.unread()), (0, None));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_hold_up_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stamp = Stamp::of(&file.as_file().metadata().unwrap());
        let now = SystemTime::now();
        assert!(!stamp.is_settled(now));
        assert!(stamp.is_settled(now + SETTLE + LOOK_EVERY));
        assert!(stamp.is_settled(now - Duration::from_secs(3600)));
    }

    #[test]
    fn no_file_no_aliases() {
        let live = AliasFile::new(None);
        live.reload();
        assert!(live.current().unwrap().entries.is_empty());
    }
}
