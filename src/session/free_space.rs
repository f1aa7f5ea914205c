//! Free space of the disks that mail needs, asked for at each MAIL.
//!
//! The system is asked once a second. In between, the bytes that each MAIL needs are taken off what
//! it has answered. A transaction is refused on a fresh answer alone.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Free space on the disk of one directory.
#[derive(Debug)]
pub(super) struct FreeSpace {
    directory: PathBuf,
    answer: Mutex<Option<SpaceAnswer>>,
}

/// An answer of the system.
#[derive(Clone, Copy, Debug)]
struct SpaceAnswer {
    asked_at: Instant,
    /// Free bytes, less the bytes of the messages since.
    free: u64,
}

impl FreeSpace {
    /// Returns the free space on the disk of `directory`.
    pub fn new(directory: &Path) -> FreeSpace {
        FreeSpace { directory: directory.to_owned(), answer: Mutex::default() }
    }

    /// Takes `bytes` off the free space. Returns false if the disk has fewer, and takes nothing
    /// then.
    pub fn take(&self, bytes: u64) -> bool {
        self.take_at(Instant::now(), bytes, || free_bytes(&self.directory))
    }

    fn take_at(&self, now: Instant, bytes: u64, ask: impl FnOnce() -> u64) -> bool {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent =
            |known: &SpaceAnswer| now.saturating_duration_since(known.asked_at) < VALIDITY;
        if let Some(known) = answer.as_mut().filter(|known| is_recent(known))
            && known.free >= bytes
        {
            known.free -= bytes;
            return true;
        }
        let free = ask();
        let has_room = free >= bytes;
        *answer = has_room.then(|| SpaceAnswer { asked_at: now, free: free - bytes });
        has_room
    }
}

/// Returns the free bytes of the disk of `directory`. A disk that gives no answer, or that has no
/// size, has room for everything: the writer's own errors decide then.
fn free_bytes(directory: &Path) -> u64 {
    #[allow(clippy::useless_conversion)] // 32 bits where the system's are
    nix::sys::statvfs::statvfs(directory).map_or(u64::MAX, |disk| match disk.blocks() {
        0 => u64::MAX,
        _ => u64::from(disk.blocks_available()).saturating_mul(disk.fragment_size().into()),
    })
}

/// Time for which an answer of the system is used.
const VALIDITY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_system_is_asked_once_a_second_and_before_each_refusal() {
        let disk = FreeSpace::new(Path::new("/nonexistent"));
        let (start, asked) = (Instant::now(), Cell::new(0));
        let free = Cell::new(1000);
        let take = |ms, bytes| {
            disk.take_at(start + Duration::from_millis(ms), bytes, || {
                asked.set(asked.get() + 1);
                free.get()
            })
        };
        assert!(take(0, 400) && take(10, 400));
        assert_eq!(asked.get(), 1);
        // By the known answer there is too little left, but not by the system.
        assert!(take(20, 400));
        assert_eq!(asked.get(), 2);
        // Another program has filled the disk.
        free.set(100);
        assert!(take(30, 600) && !take(40, 101) && !take(50, 101));
        assert_eq!(asked.get(), 4);
        // There is room as soon as the disk has it.
        free.set(1000);
        assert!(take(70, 101));
        let before = asked.get();
        assert!(take(1069, 1) && asked.get() == before);
        assert!(take(1070, 1) && asked.get() == before + 1);
    }

    #[test]
    fn a_disk_that_gives_no_answer_has_room() {
        assert!(FreeSpace::new(Path::new("/nonexistent")).take(u64::MAX));
    }
}
