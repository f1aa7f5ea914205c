//! The thread that takes messages from the hand-over directory, at the start of the server and
//! while it runs.
//!
//! Several processes may take from one directory. Each locks (flock) a message while it takes it.
//! A message that cannot be taken now is tried again, after 5 s at first and then after twice as
//! long each time, at most 15 minutes. No user makes the others wait for more than
//! [`USER_MAX`] messages, and of each user at most [`LISTED_MAX`] files are considered at a time.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::ServerShared;
use crate::message::trace;
use crate::message::{QUEUE_DIRECTORY, QueueId};
use crate::observe::events;
use crate::relay::hand_over::{
    self, HAND_OVER_DIRECTORY, HandedOverMessage, NotTaken, POLL_INTERVAL, WaitingFile,
    WaitingFiles,
};
use crate::session::{self, HandOverResult, ReceiptState};

/// The running thread.
pub(super) struct HandOverThread {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl HandOverThread {
    /// Starts the thread for the directory in `spool`. The writer must have recovered.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(shared: Arc<ServerShared>, spool: PathBuf) -> io::Result<HandOverThread> {
        let (stop, stopped) = bounded(0);
        let thread = thread::Builder::new()
            .name("hand-over".into())
            .spawn(move || HandOverTaker::new(shared, spool).run(&stopped))?;
        Ok(HandOverThread { stop, thread })
    }

    /// Stops the thread. Waits up to `grace` for the message in progress. If it takes longer, the
    /// next start finishes it.
    pub(super) fn stop(self, grace: Duration) {
        drop(self.stop);
        let deadline = Instant::now() + grace;
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Takes messages from the directory in `spool` once, after the session of a process that serves
/// one. Without such a directory, does nothing.
pub(super) fn take_once(shared: &Arc<ServerShared>, spool: &Path) {
    if spool.join(HAND_OVER_DIRECTORY).exists() {
        // Nothing stops it, because it ends after one pass over the directory.
        let (_stop, stopped) = bounded(0);
        let mut taker = HandOverTaker::new(shared.clone(), spool.to_owned());
        taker.resolve_receipts();
        taker.take_all(&stopped);
    }
}

/// The state of the thread.
struct HandOverTaker {
    shared: Arc<ServerShared>,
    spool: PathBuf,
    directory: PathBuf,
    size_max: u64,
    /// Messages that were deferred, with the number of attempts and the time of the next.
    deferred: HashMap<String, (u32, Instant)>,
    /// Files that are not messages and have been logged.
    ignored: HashSet<String>,
    /// True while the directory cannot be read.
    is_unavailable: bool,
}

impl HandOverTaker {
    fn new(shared: Arc<ServerShared>, spool: PathBuf) -> HandOverTaker {
        HandOverTaker {
            directory: spool.join(HAND_OVER_DIRECTORY),
            size_max: shared.size_max,
            shared,
            spool,
            deferred: HashMap::new(),
            ignored: HashSet::new(),
            is_unavailable: false,
        }
    }

    fn run(&mut self, stopped: &Receiver<()>) {
        self.resolve_receipts();
        loop {
            let is_more = self.take_all(stopped);
            let pause = if is_more { Duration::ZERO } else { POLL_INTERVAL };
            if !matches!(stopped.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return;
            }
        }
    }

    /// Finishes what a killed process began. All journals are recovered now, so that a receipt that
    /// is not complete never will be, unless a living process is delivering its message.
    fn resolve_receipts(&self) {
        if let Err(e) = self.try_resolve_receipts() {
            events::hand_over_unavailable(e);
        }
    }

    fn try_resolve_receipts(&self) -> io::Result<()> {
        let names = match fs::read_dir(self.spool.join(QUEUE_DIRECTORY)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names?,
        };
        for found in names {
            let id = found?.file_name();
            let Some(name) = id.to_str().and_then(QueueId::receipt_name) else { continue };
            // The lock is held until the files are removed.
            let opened = hand_over::open(&self.directory, name, self.size_max)?;
            let is_gone = !self.directory.join(name).exists();
            if opened.is_err() && !is_gone {
                continue;
            }
            if is_gone || session::receipt_state(&self.spool, name)? == ReceiptState::Complete {
                hand_over::remove(&self.directory, name)?;
            }
            session::remove_receipt(&self.spool, name)?;
        }
        Ok(())
    }

    /// Takes the messages in the directory. Returns true if there may be more.
    fn take_all(&mut self, stopped: &Receiver<()>) -> bool {
        let WaitingFiles { files, is_complete } = match hand_over::list(&self.directory, LISTED_MAX)
        {
            Ok(files) => files,
            Err(e) => {
                if !std::mem::replace(&mut self.is_unavailable, true) {
                    let error = format!("{}: {e}", self.directory.display());
                    events::hand_over_unavailable(error);
                }
                return false;
            }
        };
        self.is_unavailable = false;
        let names: HashSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        self.deferred.retain(|name, _| names.contains(name.as_str()));
        self.ignored.retain(|name| names.contains(name.as_str()));
        let mut taken_of: HashMap<u32, usize> = HashMap::new();
        let mut is_more = false;
        for file in &files {
            if stopped.try_recv() != Err(TryRecvError::Empty) {
                return false;
            }
            if self.deferred.get(&file.name).is_some_and(|(_, at)| Instant::now() < *at) {
                continue;
            }
            let taken = taken_of.entry(file.uid).or_default();
            if *taken >= USER_MAX {
                is_more = true;
                continue;
            }
            let is_message = self.take(file).unwrap_or_else(|e| {
                self.defer(file, &e.to_string());
                true
            });
            *taken += usize::from(is_message);
        }
        is_more || !is_complete && taken_of.values().any(|taken| *taken > 0)
    }

    /// Takes one message. Returns false if the file is not a complete message.
    fn take(&mut self, file: &WaitingFile) -> io::Result<bool> {
        let WaitingFile { name, uid, size, .. } = file;
        // The lock is held until the files are removed.
        let message = match hand_over::open(&self.directory, name, self.size_max)? {
            Ok(message) => message,
            Err(NotTaken::Busy) => return Ok(false),
            Err(NotTaken::Incomplete) => {
                if hand_over::is_stale(file) {
                    hand_over::remove(&self.directory, name)?;
                    events::hand_over_incomplete(name, uid, size);
                }
                return Ok(false);
            }
            Err(NotTaken::Foreign(why)) => {
                if self.ignored.insert(name.clone()) {
                    events::hand_over_ignored(name, uid, why);
                }
                return Ok(false);
            }
            Err(NotTaken::Damaged(why)) => {
                let kept = hand_over::set_aside(&self.directory, name)?;
                events::hand_over_damaged(name, uid, kept.display(), why);
                return Ok(true);
            }
        };
        match session::receipt_state(&self.spool, name)? {
            ReceiptState::Complete => {}
            // A process that was killed may have it in its journal, and the next start of that
            // process decides. What this process deferred is in no journal.
            ReceiptState::Incomplete if !self.deferred.contains_key(name) => return Ok(false),
            ReceiptState::Incomplete | ReceiptState::Absent => {
                if let HandOverResult::Deferred(why) = self.shared.context.take_hand_over(&message)
                    && session::receipt_state(&self.spool, name)? != ReceiptState::Complete
                {
                    self.defer(file, &why);
                    return Ok(true);
                }
            }
        }
        finish(&self.directory, &self.spool, &message)?;
        self.deferred.remove(name);
        Ok(true)
    }

    /// Logs that a message waits, and sets the time of the next attempt.
    fn defer(&mut self, file: &WaitingFile, why: &str) {
        let (attempts, at) = self.deferred.entry(file.name.clone()).or_insert((0, Instant::now()));
        let wait = FIRST_RETRY * 2_u32.saturating_pow((*attempts).min(16));
        *attempts += 1;
        *at = Instant::now() + wait.min(LAST_RETRY);
        events::hand_over_deferred(&file.name, file.uid, why);
    }
}

/// Removes a message that was taken, and then its receipt.
fn finish(directory: &Path, spool: &Path, message: &HandedOverMessage) -> io::Result<()> {
    let HandedOverMessage { name, uid, left_at, envelope, .. } = message;
    hand_over::remove(directory, name)?;
    session::remove_receipt(spool, name)?;
    let seconds = trace::unix_time().saturating_sub(*left_at).max(0);
    events::hand_over_taken(name, uid, &envelope.from, seconds);
    Ok(())
}

/// Number of messages of one user that are taken before those of the others.
const USER_MAX: usize = 20;
/// Maximum number of files of one user that are considered at a time, so that a user who leaves
/// millions of files takes no more memory than others, and delays no mail but that user's own.
const LISTED_MAX: usize = 1000;
/// Time after which a deferred message is tried again first.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The longest time between two attempts.
const LAST_RETRY: Duration = Duration::from_secs(900);
