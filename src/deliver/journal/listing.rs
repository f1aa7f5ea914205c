//! The list of the journals in a spool, read again only after the spool has changed.
//!
//! A new name changes the times of its directory, but two changes within one tick of the file
//! system's clock give it the same ones. So times are trusted only after they have stayed the same
//! for [`SETTLING_TIME`] by the monotonic clock.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::deliver::disk::{Disk, Stat};

/// List of the journals in one spool.
#[derive(Debug, Default)]
pub struct JournalListing {
    paths: Vec<PathBuf>,
    /// State of the directory when the list was read, or None before the first time.
    read_at: Option<DirectoryState>,
}

/// Metadata of a directory, and since when it is known.
#[derive(Clone, Copy, Debug)]
struct DirectoryState {
    stat: Stat,
    since: Instant,
    /// Whether a change after the list was read would show in the metadata.
    is_settled: bool,
}

impl JournalListing {
    /// Returns the paths of all journals in `spool`, which is always the same directory.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn update(&mut self, disk: &dyn Disk, spool: &Path) -> io::Result<&[PathBuf]> {
        self.update_at(Instant::now(), disk, spool)
    }

    fn update_at(&mut self, now: Instant, disk: &dyn Disk, spool: &Path) -> io::Result<&[PathBuf]> {
        // With a dot at its end the path is followed through a symbolic link.
        let stat = disk.lstat(&spool.join("."))?;
        let known = self.read_at.filter(|known| known.stat == stat);
        if known.is_some_and(|known| known.is_settled) {
            return Ok(&self.paths);
        }
        let since = known.map_or(now, |known| known.since);
        let is_settled = now.saturating_duration_since(since) >= SETTLING_TIME;
        self.read_at = None;
        self.paths = super::list(disk, spool)?;
        self.read_at = Some(DirectoryState { stat, since, is_settled });
        Ok(&self.paths)
    }
}

/// Time without a change after which the times of a directory are trusted. No file system with
/// locks and permissions has a clock of more than a second a tick.
const SETTLING_TIME: Duration = Duration::from_millis(1500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::disk::HostDisk;
    use std::fs;

    #[test]
    fn a_new_journal_is_listed_and_an_unchanged_spool_is_not_read_again() {
        let spool = tempfile::tempdir().unwrap();
        let (disk, spool) = (HostDisk::new(), spool.path());
        let start = Instant::now();
        let mut listing = JournalListing::default();
        let mut list = |seconds| {
            let now = start + Duration::from_secs(seconds);
            let count = listing.update_at(now, &disk, spool).unwrap().len();
            (count, listing.read_at.unwrap().is_settled)
        };
        fs::write(spool.join("journal-0"), "").unwrap();
        assert_eq!(list(0), (1, false));
        // Perhaps in the same tick.
        fs::write(spool.join("journal-1"), "").unwrap();
        assert_eq!(list(1), (2, false));
        assert_eq!(list(3), (2, true));
        assert_eq!(list(6), (2, true), "from memory");
        fs::remove_file(spool.join("journal-0")).unwrap();
        assert_eq!(list(7), (1, false));
        fs::rename(spool.join("journal-1"), spool.join("journal-2")).unwrap();
        assert_eq!(list(8), (1, false));
    }

    #[test]
    fn times_of_a_symbolic_link_to_the_spool_are_not_those_of_the_spool() {
        let parent = tempfile::tempdir().unwrap();
        let (spool, link) = (parent.path().join("spool"), parent.path().join("link"));
        fs::create_dir(&spool).unwrap();
        std::os::unix::fs::symlink(&spool, &link).unwrap();
        let (disk, start) = (HostDisk::new(), Instant::now());
        let mut listing = JournalListing::default();
        for seconds in [0, 4, 5] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(listing.update_at(now, &disk, &link).unwrap().len(), 0);
        }
        std::thread::sleep(Duration::from_millis(20)); // longer than a tick
        fs::write(spool.join("journal-0"), "").unwrap();
        let now = start + Duration::from_secs(6);
        assert_eq!(listing.update_at(now, &disk, &link).unwrap().len(), 1);
    }
}
