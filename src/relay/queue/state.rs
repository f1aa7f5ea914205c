//! What was done with an entry of the queue so far: `queue/ID.state` beside it.
//!
//! ```text
//! mailslot queue state 1
//! tries 3
//! next 1751363557                     when it is tried again, in seconds since 1970
//! warned                              the sender was told that it takes long
//! gone 0 2                            the recipients that are crossed off, counted from 0
//! last 451 4.7.1 Greylisted           the last reply, for people
//! ```
//! It is replaced whole: written under another name, synced, renamed, its folder synced. So a crash
//! leaves the old or the new one. An entry without a state was not tried yet; a state without an
//! entry is what a crash left while both were removed, and goes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::observe::events;

/// The state of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryState {
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried again, in seconds since 1970.
    pub next: i64,
    /// Whether its sender was told that it takes long.
    pub warned: bool,
    /// The recipients that are done with: sent, or reported as failed.
    pub gone: BTreeSet<usize>,
    /// The last reply, one line; may be empty.
    pub last: String,
}

impl EntryState {
    /// The state of the entry `id` in the folder `queue`. One that cannot be understood is none:
    /// rather twice than never.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(queue: &Path, id: &str) -> io::Result<EntryState> {
        match fs::read_to_string(queue.join(format!("{id}{END}"))) {
            Ok(text) => Ok(EntryState::parse(&text).unwrap_or_else(|| EntryState::lost(id))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(EntryState::default()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(EntryState::lost(id)),
            Err(e) => Err(e),
        }
    }

    /// Makes this the state of the entry `id`, durably.
    ///
    /// # Errors
    /// It could not be written; the old one stays.
    pub fn write(&self, queue: &Path, id: &str) -> io::Result<()> {
        let new = queue.join(format!("{id}{END}{NEW}"));
        let mut file = File::create(&new)?;
        let written = file.write_all(self.to_string().as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        fs::rename(&new, queue.join(format!("{id}{END}")))?;
        File::open(queue)?.sync_all()
    }

    /// Removes an entry and its state, durably. The entry goes first: a state alone means nothing.
    ///
    /// # Errors
    /// The entry is there still, or may be after a power loss.
    pub fn remove(queue: &Path, id: &str) -> io::Result<()> {
        fs::remove_file(queue.join(id))?;
        match fs::remove_file(queue.join(format!("{id}{END}"))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        File::open(queue)?.sync_all()
    }

    /// If `name`, of a file in the queue, is that of a state: its entry's id, and whether it is one
    /// that was still being written.
    pub fn name(name: &str) -> Option<(&str, bool)> {
        let (name, new) = name.strip_suffix(NEW).map_or((name, false), |name| (name, true));
        name.strip_suffix(END).map(|id| (id, new))
    }

    /// What is made of one that cannot be understood.
    fn lost(id: &str) -> EntryState {
        events::queue_state_unreadable(id);
        EntryState::default()
    }

    fn parse(text: &str) -> Option<EntryState> {
        let mut lines = text.lines();
        (lines.next()? == MAGIC).then_some(())?;
        let mut state = EntryState::default();
        for line in lines {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "tries" => state.tries = value.parse().ok()?,
                "next" => state.next = value.parse().ok()?,
                "warned" => state.warned = true,
                "gone" => {
                    let all: Result<_, _> = value.split_whitespace().map(str::parse).collect();
                    state.gone = all.ok()?;
                }
                "last" => state.last = value.to_owned(),
                _ => return None,
            }
        }
        Some(state)
    }
}

impl std::fmt::Display for EntryState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{MAGIC}\ntries {}\nnext {}", self.tries, self.next)?;
        if self.warned {
            writeln!(f, "warned")?;
        }
        let gone: Vec<String> = self.gone.iter().map(usize::to_string).collect();
        writeln!(f, "gone {}", gone.join(" "))?;
        let last: String =
            self.last.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(f, "last {last}")
    }
}

/// When an entry that was tried `tries` times, and could not be sent now, is tried again: after 5
/// minutes, twice as long each time, at most 4 hours; and up to an eighth of it later, by `lot`, so
/// that what came together does not come back together (RFC 5321 4.5.4.1 asks for at least 30
/// minutes in the long run).
pub fn retry_after(tries: u32, lot: u64) -> i64 {
    let wait = FIRST_RETRY.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LAST_RETRY);
    wait + (lot % (wait as u64 / 8)) as i64
}

const MAGIC: &str = "mailslot queue state 1";
const END: &str = ".state";
const NEW: &str = ".new";
/// Seconds.
const FIRST_RETRY: i64 = 5 * 60;
/// Seconds.
const LAST_RETRY: i64 = 4 * 60 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let queue = directory.path();
        assert_eq!(EntryState::read(queue, "a-1").unwrap(), EntryState::default());
        let state = EntryState {
            tries: 3,
            next: 1_751_363_557,
            warned: true,
            gone: [0, 2, 99].into(),
            last: "451 4.7.1 gone 7\nnext 5".to_owned(),
        };
        state.write(queue, "a-1").unwrap();
        let last = state.last.replace('\n', " ");
        assert_eq!(EntryState::read(queue, "a-1").unwrap(), EntryState { last, ..state });
        EntryState::default().write(queue, "a-1").unwrap();
        assert_eq!(EntryState::read(queue, "a-1").unwrap(), EntryState::default());
        let names: Vec<_> = fs::read_dir(queue).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["a-1.state"]);
        fs::write(queue.join("a-1"), "").unwrap();
        EntryState::remove(queue, "a-1").unwrap();
        assert_eq!(fs::read_dir(queue).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_state_is_tried_again() {
        for text in ["", "mailslot queue state 2\n", "mailslot queue state 1\ngone x\n", "\u{0}"] {
            assert_eq!(EntryState::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(EntryState::name("a-1"), None);
        assert_eq!(EntryState::name("a-1.state"), Some(("a-1", false)));
        assert_eq!(EntryState::name("a-1.state.new"), Some(("a-1", true)));
    }

    #[test]
    fn waits_double_up_to_four_hours() {
        let waits: Vec<i64> =
            [0, 1, 2, 3, 6, 7, 8, 1000, u32::MAX].map(|n| retry_after(n, 0)).into();
        assert_eq!(waits, [300, 300, 600, 1200, 9600, 14400, 14400, 14400, 14400]);
        for lot in [1, 17, u64::MAX] {
            assert!((300..338).contains(&retry_after(1, lot)));
        }
    }
}
