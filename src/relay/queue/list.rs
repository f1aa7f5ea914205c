//! The queue for people: `mailslot queue`.

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use fs2::FileExt;

use super::entry::QueueEntry;
use super::now;
use super::state::EntryState;
use crate::message::{MailboxName, QUEUE_FOLDER};
use crate::observe::events;

/// A line for each entry of the queue in `spool`, the oldest first, and a last one that sums up:
/// its id, its age, its size, how often it was tried, when it is tried next, from whom; then each
/// recipient that is not crossed off; then the last reply.
///
/// # Errors
/// The folder cannot be read.
pub fn list(spool: &Path) -> io::Result<String> {
    let mut all = Vec::new();
    for id in ids(spool)? {
        // One that is gone by now is not listed.
        if let Ok((_, entry, state)) = read(spool, &id) {
            all.push((entry.came, id, entry, state));
        }
    }
    all.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let (mut text, mut octets) = (String::new(), 0);
    for (_, id, entry, state) in &all {
        octets += entry.octets;
        // Writing to a String does not fail.
        let _ = write_entry(&mut text, id, entry, state);
    }
    match all.len() {
        0 => text.push_str("the queue is empty\n"),
        n => {
            let _ = writeln!(text, "{n} in the queue, {octets} octets");
        }
    }
    Ok(text)
}

/// One entry: as [`list`] has it, with its state, and the message.
///
/// # Errors
/// There is no such entry, or it cannot be read.
pub fn show(spool: &Path, id: &str, out: &mut impl io::Write) -> io::Result<()> {
    let (file, entry, state) = read(spool, id)?;
    let mut text = String::new();
    let _ = write_entry(&mut text, id, &entry, &state);
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    io::copy(&mut entry.content(&file)?, out)?;
    Ok(())
}

/// Removes an entry; nobody is told.
///
/// # Errors
/// There is none, it is being sent just now, or it cannot be removed.
pub fn drop(spool: &Path, id: &str) -> io::Result<()> {
    let (file, entry, _) = read(spool, id)?;
    FileExt::try_lock_exclusive(&file)
        .map_err(|_| io::Error::other("it is being sent just now"))?;
    EntryState::remove(&spool.join(QUEUE_FOLDER), id)?;
    events::queue_entry_dropped(id, &entry.envelope.from);
    Ok(())
}

/// The ids of the entries there are.
fn ids(spool: &Path) -> io::Result<Vec<String>> {
    let directory = match fs::read_dir(spool.join(QUEUE_FOLDER)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        directory => directory?,
    };
    let names = directory.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| MailboxName::in_queue(name).is_some()).collect())
}

fn read(spool: &Path, id: &str) -> io::Result<(File, QueueEntry, EntryState)> {
    let no_such = || io::Error::new(io::ErrorKind::NotFound, "no such entry in the queue");
    MailboxName::in_queue(id).ok_or_else(no_such)?;
    let queue = spool.join(QUEUE_FOLDER);
    let file = File::open(queue.join(id)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => no_such(),
        _ => e,
    })?;
    let entry = QueueEntry::read(&file)?.ok_or_else(|| io::Error::other("it is not whole"))?;
    let state = EntryState::read(&queue, id)?;
    Ok((file, entry, state))
}

fn write_entry(
    out: &mut String,
    id: &str,
    entry: &QueueEntry,
    state: &EntryState,
) -> std::fmt::Result {
    let now = now();
    let next = match state.next.saturating_sub(now) {
        ..=0 => "now".to_owned(),
        wait => format!("in {}", span(wait)),
    };
    writeln!(
        out,
        "{id} age={} size={} tries={} next={next:?} from={}",
        span(now.saturating_sub(entry.came)),
        entry.octets,
        state.tries,
        entry.envelope.from
    )?;
    for (n, recipient) in entry.envelope.to.iter().enumerate() {
        if !state.gone.contains(&n) {
            writeln!(out, "    to {}", recipient.path)?;
        }
    }
    if !state.last.is_empty() {
        writeln!(out, "    last {}", state.last)?;
    }
    Ok(())
}

/// Seconds, in the unit that fits: `45s`, `12m`, `3h`, `2d`.
fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ ..120 => format!("{s}s"),
        s @ ..7200 => format!("{}m", s / 60),
        s @ ..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let spans = [-1, 0, 119, 120, 7199, 7200, 172_799, 172_800].map(span);
        assert_eq!(spans, ["0s", "0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }

    #[test]
    fn no_queue_is_an_empty_one_and_no_id_is_a_path() {
        let spool = tempfile::tempdir().unwrap();
        assert_eq!(list(spool.path()).unwrap(), "the queue is empty\n");
        for id in ["", "x", "../x", "a/b", "journal-0", "x.state"] {
            let error = show(spool.path(), id, &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{id}");
            assert!(drop(spool.path(), id).is_err());
        }
    }
}
