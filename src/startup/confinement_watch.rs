//! The watch for files that the confinement of this process does not cover, although they are
//! needed: those that were replaced, mounted over or created after the start.
//!
//! Rules of the confinement are for inodes, and cannot be extended. So the server would defer all
//! mail for ever after its mail directory is replaced. The watch logs the file and stops the
//! server, which ends with status 75, so that its supervisor starts it again, with rules for the
//! new files. A file that the confinement did not cover at the start does not count, because a new
//! start would not change that.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use crate::config::Config;
use crate::observe::events;
use crate::process::confinement;
use crate::resolver::LocalResolver;
use crate::server::ServerHandle;

/// A running watch.
#[derive(Debug)]
pub struct ConfinementWatch {
    stop: Sender<()>,
    thread: JoinHandle<()>,
    fired: Arc<AtomicBool>,
}

impl ConfinementWatch {
    /// Starts the watch of the files of `config` and `resolver`. It stops the server of `handle`
    /// when a file cannot be reached any more, when the spool is another directory, or, if the
    /// process `is_confined`, the mail directory. The latter could still be read, if its parent may
    /// be.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        config: &Config,
        resolver: Arc<LocalResolver>,
        handle: ServerHandle,
        is_confined: bool,
    ) -> io::Result<ConfinementWatch> {
        let files = config.needed_files();
        // The journal that makes mail durable is in the old spool.
        let mut directories = vec![(config.spool.clone(), "the spool was replaced")];
        directories.extend(is_confined.then(|| (config.mail_dir.clone(), NOT_COVERED)));
        let directories = directories.into_iter().map(|(path, why)| (id_of(&path), path, why));
        let directories: Vec<_> = directories.collect();
        let all = |files: &[PathBuf]| [files, &resolver.included()].concat();
        let blocked_at_start: HashSet<PathBuf> =
            all(&files).into_iter().filter(|file| confinement::blocks_reading(file)).collect();
        let (stop, stopped) = bounded(0);
        let fired = Arc::new(AtomicBool::new(false));
        let is_fired = Arc::clone(&fired);
        let watch = move || {
            let all = |files: &[PathBuf]| [files, &resolver.included()].concat();
            while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let blocks = |file: &PathBuf| {
                    !blocked_at_start.contains(file) && confinement::blocks_reading(file)
                };
                let blocked = all(&files).into_iter().find(blocks);
                let replaced = directories
                    .iter()
                    .find(|(id, path, _)| id_of(path).is_some_and(|now| Some(now) != *id));
                match (blocked, replaced) {
                    (_, Some((_, path, why))) => events::restart_needed(path.display(), why),
                    (Some(file), _) => events::restart_needed(file.display(), NOT_COVERED),
                    (None, None) => continue,
                }
                is_fired.store(true, Ordering::SeqCst);
                return handle.stop();
            }
        };
        let thread = thread::Builder::new().name("watch".into()).spawn(watch)?;
        Ok(ConfinementWatch { stop, thread, fired })
    }

    /// Ends the watch. Returns true if it has stopped the server.
    pub fn stop(self) -> bool {
        drop(self.stop);
        // A panic was logged.
        let _ = self.thread.join();
        self.fired.load(Ordering::SeqCst)
    }
}

/// Returns device and inode of the directory at `path`, through symbolic links.
fn id_of(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

const NOT_COVERED: &str = "outside of the confinement, because it is newer than the start";
/// The time between two checks of the files, each of which costs a few system calls.
const INTERVAL: Duration = Duration::from_secs(5);
