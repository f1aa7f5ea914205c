//! The progress of an entry, in `queue/ID.state`.
//!
//! ```text
//! mailslot queue state 1
//! tries 3
//! arrived 1751359957                  time of arrival, if the clock was wrong when it was written
//! next 1751363557                     time of the next attempt, in seconds since 1970
//! warned                              the delay was reported to the sender
//! gone 0 2                            recipients that are finished, counted from 0
//! has smith                           a mailbox that has its copy (held mail), repeated
//! last 451 4.7.1 Greylisted           the last reply, for people
//! ```
//! The file is replaced as a whole: written under another name, synced, renamed, and its directory
//! synced. A crash therefore leaves the old or the new one. An entry without a state was not tried
//! yet. A state without an entry is left by a crash during their removal, and is removed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::seconds;
use crate::message::trace::EARLIEST_TIME;
use crate::observe::events;

/// The state of one entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntryState {
    /// Number of attempts so far.
    pub tries: u32,
    /// Time of arrival, in seconds since 1970, if that in the entry is of a clock that was wrong.
    pub arrived_at: Option<i64>,
    /// Time of the next attempt, in seconds since 1970.
    pub retry_at: i64,
    /// True if the delay was reported to the sender.
    pub warned: bool,
    /// Indexes of the recipients that are finished: sent, or reported as failed.
    pub finished: BTreeSet<usize>,
    /// Names of mailboxes, and addresses on other hosts, that got a copy of held mail since it is
    /// in the queue.
    pub has: BTreeSet<String>,
    /// The last reply, in one line. May be empty.
    pub last_reply: String,
}

impl EntryState {
    /// Reads the state of the entry `id` in the directory `queue`. If there is none, or its text is
    /// not valid, returns the default one, because to send a message twice is better than never.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn read(queue: &Path, id: &str) -> io::Result<EntryState> {
        match fs::read_to_string(queue.join(format!("{id}{SUFFIX}"))) {
            Ok(text) => Ok(EntryState::parse(&text).unwrap_or_else(|| EntryState::unreadable(id))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(EntryState::default()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(EntryState::unreadable(id)),
            Err(e) => Err(e),
        }
    }

    /// Writes the state of the entry `id` and syncs it.
    ///
    /// # Errors
    /// The state could not be written. The old one stays.
    pub fn write(&self, queue: &Path, id: &str) -> io::Result<()> {
        let new = queue.join(format!("{id}{SUFFIX}{NEW_SUFFIX}"));
        let mut file = File::create(&new)?;
        let written = file.write_all(self.to_string().as_bytes()).and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        fs::rename(&new, queue.join(format!("{id}{SUFFIX}")))?;
        File::open(queue)?.sync_all()
    }

    /// Removes the entry `id` and its state, and syncs the directory.
    ///
    /// # Errors
    /// The entry still exists, or may exist again after a power loss.
    pub fn remove(queue: &Path, id: &str) -> io::Result<()> {
        // The entry first, because without its state it would be sent again to all recipients.
        fs::remove_file(queue.join(id))?;
        match fs::remove_file(queue.join(format!("{id}{SUFFIX}"))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        File::open(queue)?.sync_all()
    }

    /// Returns the entry's id if `name` is the name of a state file, and whether the file was still
    /// being written.
    pub fn parse_file_name(name: &str) -> Option<(&str, bool)> {
        let (name, new) = name.strip_suffix(NEW_SUFFIX).map_or((name, false), |name| (name, true));
        name.strip_suffix(SUFFIX).map(|id| (id, new))
    }

    fn unreadable(id: &str) -> EntryState {
        events::queue_state_unreadable(id);
        EntryState::default()
    }

    fn parse(text: &str) -> Option<EntryState> {
        let mut lines = text.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let mut state = EntryState::default();
        for line in lines {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "tries" => state.tries = value.parse().ok()?,
                "arrived" => state.arrived_at = Some(value.parse().ok()?),
                "next" => state.retry_at = value.parse().ok()?,
                "warned" => state.warned = true,
                "gone" => {
                    let all: Result<_, _> = value.split_whitespace().map(str::parse).collect();
                    state.finished = all.ok()?;
                }
                "has" => drop(state.has.insert(value.to_owned())),
                "last" => state.last_reply = value.to_owned(),
                _ => return None,
            }
        }
        Some(state)
    }
}

impl std::fmt::Display for EntryState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{MAGIC}\ntries {}\nnext {}", self.tries, self.retry_at)?;
        if let Some(arrived_at) = self.arrived_at {
            writeln!(f, "arrived {arrived_at}")?;
        }
        if self.warned {
            writeln!(f, "warned")?;
        }
        let finished: Vec<String> = self.finished.iter().map(usize::to_string).collect();
        writeln!(f, "gone {}", finished.join(" "))?;
        self.has.iter().try_for_each(|name| writeln!(f, "has {name}"))?;
        let one_line = |c: char| if c.is_control() { ' ' } else { c };
        writeln!(f, "last {}", self.last_reply.chars().map(one_line).collect::<String>())
    }
}

/// Returns the seconds until the next attempt after `tries` attempts: 5 minutes, then twice as long
/// each time, at most 4 hours (RFC 5321 4.5.4.1 asks for at least 30 minutes after the first ones).
/// `jitter` adds up to an eighth, so that messages that arrived together are not retried together.
pub fn retry_delay(tries: u32, jitter: u64) -> i64 {
    let delay = DELAY_MIN.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(DELAY_MAX);
    delay + (jitter % (delay as u64 / 8)) as i64
}

/// Returns the least number of attempts before a message is returned after `give_up_after` seconds.
/// It is the number that are due in half of that time, at most `TRIES_MIN`. It protects mail from a
/// clock that jumps.
pub fn tries_min(give_up_after: i64) -> u32 {
    let (mut tries, mut at) = (1, 0);
    while tries < TRIES_MIN {
        at += retry_delay(tries, 0);
        if at > give_up_after / 2 {
            break;
        }
        tries += 1;
    }
    tries
}

/// Returns the time of arrival `arrived_at`, or `now` if only a wrong clock can have shown it.
pub fn corrected_arrival(arrived_at: i64, now: i64) -> i64 {
    let earliest = seconds(EARLIEST_TIME);
    let is_too_early = arrived_at < earliest && now >= earliest;
    if arrived_at > now || is_too_early { now } else { arrived_at }
}

/// Observer of the clock, which steps when it is set and when a suspended laptop resumes.
#[derive(Clone, Copy, Debug)]
pub struct ClockObserver {
    last: (Instant, i64),
    stepped_at: Option<Instant>,
}

impl ClockObserver {
    /// Returns an observer that begins at `wall` seconds since 1970.
    pub fn new(monotonic: Instant, wall: i64) -> ClockObserver {
        ClockObserver { last: (monotonic, wall), stepped_at: None }
    }

    /// Returns true if the clock has not stepped in the last `SETTLE_TIME`.
    pub fn is_settled(&mut self, monotonic: Instant, wall: i64) -> bool {
        let passed = seconds(monotonic.saturating_duration_since(self.last.0));
        if wall.saturating_sub(self.last.1).abs_diff(passed) > STEP_MIN {
            self.stepped_at = Some(monotonic);
        }
        self.last = (monotonic, wall);
        self.stepped_at.is_none_or(|at| monotonic.saturating_duration_since(at) >= SETTLE_TIME)
    }
}

/// Attempts after which a message may be returned. They take a day.
const TRIES_MIN: u32 = 12;
/// Time after a step of the clock in which no message is returned for its age.
const SETTLE_TIME: Duration = Duration::from_secs(3600);
/// Difference in seconds between two clocks that counts as a step.
const STEP_MIN: u64 = 60;
const MAGIC: &str = "mailslot queue state 1";
const SUFFIX: &str = ".state";
const NEW_SUFFIX: &str = ".new";
/// First delay, in seconds.
const DELAY_MIN: i64 = 5 * 60;
/// Longest delay, in seconds.
const DELAY_MAX: i64 = 4 * 60 * 60;

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
            arrived_at: Some(1_751_359_957),
            retry_at: 1_751_363_557,
            warned: true,
            finished: [0, 2, 99].into(),
            has: ["jones".to_owned(), "smith@far.example".to_owned()].into(),
            last_reply: "451 4.7.1 gone 7\nnext 5".to_owned(),
        };
        state.write(queue, "a-1").unwrap();
        let last_reply = state.last_reply.replace('\n', " ");
        assert_eq!(EntryState::read(queue, "a-1").unwrap(), EntryState { last_reply, ..state });
        EntryState::default().write(queue, "a-1").unwrap();
        assert_eq!(EntryState::read(queue, "a-1").unwrap(), EntryState::default());
        let names: Vec<_> = fs::read_dir(queue).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["a-1.state"]);
        fs::write(queue.join("a-1"), "").unwrap();
        EntryState::remove(queue, "a-1").unwrap();
        assert_eq!(fs::read_dir(queue).unwrap().count(), 0);
    }

    #[test]
    fn invalid_state_is_none() {
        for text in ["", "mailslot queue state 2\n", "mailslot queue state 1\ngone x\n", "\u{0}"] {
            assert_eq!(EntryState::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn file_names() {
        assert_eq!(EntryState::parse_file_name("a-1"), None);
        assert_eq!(EntryState::parse_file_name("a-1.state"), Some(("a-1", false)));
        assert_eq!(EntryState::parse_file_name("a-1.state.new"), Some(("a-1", true)));
    }

    #[test]
    fn few_attempts_are_enough_for_a_short_time() {
        let days = |n: i64| n * 24 * 3600;
        let table = [(0, 1), (1, 1), (3600, 3), (4 * 3600, 5), (days(5), 12), (days(100), 12)];
        for (give_up_after, tries) in table {
            assert_eq!(tries_min(give_up_after), tries, "{give_up_after}");
        }
    }

    #[test]
    fn arrivals_of_a_wrong_clock_are_corrected() {
        let now = 1_751_363_557;
        let table = [(now, now), (now - 5, now - 5), (now + 1, now), (30, now), (i64::MAX, now)];
        for (arrived_at, corrected) in table {
            assert_eq!(corrected_arrival(arrived_at, now), corrected, "{arrived_at}");
        }
        assert_eq!(corrected_arrival(30, 40), 30, "the clock is not set yet");
    }

    #[test]
    fn clock_is_settled_an_hour_after_a_step() {
        let (began, wall) = (Instant::now(), 1_751_363_557);
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        for step in [-86_400, -63, 63, 86_400] {
            let mut clock = ClockObserver::new(began, wall);
            assert!(clock.is_settled(at(7200), wall + 7200), "two hours later");
            assert!(clock.is_settled(at(7201), wall + 7203), "a slow clock");
            let wall = wall + step;
            assert!(!clock.is_settled(at(7300), wall + 7300), "{step}");
            assert!(!clock.is_settled(at(10_899), wall + 10_899), "{step}");
            assert!(clock.is_settled(at(10_900), wall + 10_900), "{step}");
        }
    }

    #[test]
    fn delay_doubles_up_to_four_hours() {
        let delays: Vec<i64> =
            [0, 1, 2, 3, 6, 7, 8, 1000, u32::MAX].map(|n| retry_delay(n, 0)).into();
        assert_eq!(delays, [300, 300, 600, 1200, 9600, 14400, 14400, 14400, 14400]);
        for jitter in [1, 17, u64::MAX] {
            assert!((300..338).contains(&retry_delay(1, jitter)));
        }
    }
}
