//! The command `mailslot queue`: lists, shows and removes entries.

use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use fs2::FileExt;

use super::OutageReport;
use super::entry::QueueEntry;
use super::held::entry_of_receipt;
use super::state::EntryState;
use crate::message::trace::{unix_time, zoned};
use crate::message::{QUEUE_DIRECTORY, QueueId};
use crate::observe::events;
use crate::smtp::{ForwardPath, ReversePath};

/// The form of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFormat {
    /// Lines to read.
    Text,
    /// One JSON object a line.
    Json,
}

/// A view of the queue: the entries to list, and the context to show with them.
#[derive(Clone, Debug, Default)]
pub struct ListView {
    /// The user that submitted the listed entries; None for every user.
    pub submitter: Option<u32>,
    /// The outages that the queue is in, known to the running server only.
    pub outages: Vec<OutageReport>,
}

/// Returns a listing of the queue in `spool`, the oldest entry first.
///
/// The text begins with a line about each outage, if there is an entry, `OUTAGES_MAX` at most.
/// Each entry has a line with id, age, size in bytes, number of attempts, next attempt, and sender;
/// a line for each recipient that is not finished; and the last reply. The last line is a summary.
/// JSON has an object for each outage and one for each entry, as mailslot(8) describes.
///
/// # Errors
/// The queue directory cannot be read.
pub fn list(spool: &Path, format: ListFormat, view: &ListView) -> io::Result<String> {
    let mut all = Vec::new();
    for id in ids(spool)? {
        // An entry that has been sent since is not listed.
        if let Ok((_, entry, mut state)) = read(spool, &id)
            && view.submitter.is_none_or(|uid| entry.envelope.submitter == Some(uid))
        {
            if state.last_reply.is_empty()
                && let Some(outage) = view.outages.iter().find(|outage| concerns(outage, &entry))
            {
                state.last_reply.clone_from(&outage.reason);
            }
            all.push((state.arrived_at.unwrap_or(entry.arrived_at), id, entry, state));
        }
    }
    all.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    let (mut text, mut size) = (String::new(), 0_u64);
    let listed = if all.is_empty() { 0 } else { OUTAGES_MAX };
    for OutageReport { reason, retry_at, .. } in view.outages.iter().take(listed) {
        let _ = match format {
            ListFormat::Text => {
                let next = zoned(*retry_at).strftime("%H:%M");
                writeln!(text, "{}, next try {next}", reason.escape_debug())
            }
            ListFormat::Json => {
                writeln!(text, "{{\"outage\":{},\"next\":{retry_at}}}", json(reason))
            }
        };
    }
    for (_, id, entry, state) in &all {
        size = size.saturating_add(entry.size);
        // Writing to a String does not fail.
        let _ = match format {
            ListFormat::Text => write_entry(&mut text, id, entry, state),
            ListFormat::Json => write_json(&mut text, id, entry, state),
        };
    }
    match (format, all.len()) {
        (ListFormat::Json, _) => {}
        (ListFormat::Text, 0) => text.push_str("Mail queue is empty\n"),
        (ListFormat::Text, n) => {
            let _ = writeln!(text, "{n} in the queue, {size} bytes");
        }
    }
    Ok(text)
}

/// Writes the entry `id` to `out`: the lines of [`list`], a blank line, and the message.
///
/// # Errors
/// The entry does not exist or cannot be read, or `out` failed.
pub fn show(spool: &Path, id: &str, out: &mut impl io::Write) -> io::Result<()> {
    let (file, entry, state) = read(spool, id)?;
    let mut text = String::new();
    let _ = write_entry(&mut text, id, &entry, &state);
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    io::copy(&mut entry.content(&file)?, out)?;
    Ok(())
}

/// Removes the entry `id`. Its sender gets no report.
///
/// # Errors
/// The entry does not exist, is being sent, or cannot be removed.
pub fn remove(spool: &Path, id: &str) -> io::Result<()> {
    let (file, entry, _) = read(spool, id)?;
    FileExt::try_lock_exclusive(&file).map_err(|_| io::Error::other("the entry is being sent"))?;
    EntryState::remove(&spool.join(QUEUE_DIRECTORY), id)?;
    events::queue_entry_dropped(id, &entry.envelope.from);
    Ok(())
}

/// True if recipients of the entry may wait because of the outage.
fn concerns(outage: &OutageReport, entry: &QueueEntry) -> bool {
    entry.envelope.to.iter().any(|recipient| match &recipient.path {
        ForwardPath::Mailbox(mailbox) => outage.domains.matches(&mailbox.domain().to_ascii()),
        ForwardPath::Postmaster => false,
    })
}

/// Returns the ids of all entries.
fn ids(spool: &Path) -> io::Result<Vec<String>> {
    let directory = match fs::read_dir(spool.join(QUEUE_DIRECTORY)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        directory => directory?,
    };
    let names = directory.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_entry = |name: &String| {
        QueueId::new(name).is_some()
            && entry_of_receipt(name).is_none()
            && QueueId::receipt_name(name).is_none()
    };
    Ok(names.filter(is_entry).collect())
}

fn read(spool: &Path, id: &str) -> io::Result<(File, QueueEntry, EntryState)> {
    let not_found = || io::Error::new(io::ErrorKind::NotFound, "no such entry in the queue");
    QueueId::new(id).ok_or_else(not_found)?;
    let queue = spool.join(QUEUE_DIRECTORY);
    let file = File::open(queue.join(id)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => not_found(),
        _ => e,
    })?;
    let incomplete = || io::Error::other("the entry is incomplete");
    let entry = QueueEntry::read(&file)?.ok_or_else(incomplete)?;
    let state = EntryState::read(&queue, id)?;
    Ok((file, entry, state))
}

fn write_entry(
    out: &mut String,
    id: &str,
    entry: &QueueEntry,
    state: &EntryState,
) -> std::fmt::Result {
    let now = unix_time();
    let next = match state.retry_at.saturating_sub(now) {
        ..=0 => "now".to_owned(),
        delay => format!("in {}", rounded(delay)),
    };
    writeln!(
        out,
        "{id} age={} size={} tries={} next={next:?} from={}",
        rounded(now.saturating_sub(state.arrived_at.unwrap_or(entry.arrived_at))),
        entry.size,
        state.tries,
        entry.envelope.from
    )?;
    for (n, recipient) in entry.envelope.to.iter().enumerate() {
        if !state.finished.contains(&n) {
            writeln!(out, "    to {}", recipient.path)?;
        }
    }
    match waiting_reason(entry, state) {
        "" => Ok(()),
        reason => writeln!(out, "    last {reason}"),
    }
}

/// Returns the last reply, or else the reason why held mail waits. May be empty.
fn waiting_reason<'a>(entry: &'a QueueEntry, state: &'a EntryState) -> &'a str {
    match state.last_reply.as_str() {
        "" => entry.held.reason.as_deref().unwrap_or_default(),
        last_reply => last_reply,
    }
}

/// Writes the entry as one JSON object and a line end.
fn write_json(
    out: &mut String,
    id: &str,
    entry: &QueueEntry,
    state: &EntryState,
) -> std::fmt::Result {
    let recipients = entry.envelope.to.iter().enumerate();
    let pending = recipients.filter(|(n, _)| !state.finished.contains(n));
    let to: Vec<String> = pending.map(|(_, to)| json(&to.path.address())).collect();
    let from = match &entry.envelope.from {
        ReversePath::Null => String::new(),
        ReversePath::Mailbox(mailbox) => mailbox.to_string(),
    };
    let uid = entry.envelope.submitter.map_or_else(|| "null".to_owned(), |uid| uid.to_string());
    writeln!(
        out,
        "{{\"id\":{},\"arrived\":{},\"size\":{},\"tries\":{},\"next\":{},\"from\":{},\"to\":[{}],\
         \"last\":{},\"uid\":{uid}}}",
        json(id),
        state.arrived_at.unwrap_or(entry.arrived_at),
        entry.size,
        state.tries,
        state.retry_at,
        json(&from),
        to.join(","),
        json(waiting_reason(entry, state)),
    )
}

/// Returns `text` as a JSON string (RFC 8259 7).
fn json(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// Returns a time of `seconds` in a suitable unit: `45s`, `12m`, `3h` or `2d`.
fn rounded(seconds: i64) -> String {
    match seconds.max(0) {
        s @ ..120 => format!("{s}s"),
        s @ ..7200 => format!("{}m", s / 60),
        s @ ..172_800 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// Maximum number of outages that are listed.
const OUTAGES_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_down() {
        let times = [-1, 0, 119, 120, 7199, 7200, 172_799, 172_800].map(rounded);
        assert_eq!(times, ["0s", "0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }

    #[test]
    fn json_strings_are_escaped() {
        assert_eq!(json("a\"b\\c\u{e4}\n\u{9b}"), "\"a\\\"b\\\\c\u{e4}\\u000a\\u009b\"");
    }

    #[test]
    fn missing_queue_is_empty_and_id_is_not_a_path() {
        let spool = tempfile::tempdir().unwrap();
        let listed = |format| list(spool.path(), format, &ListView::default()).unwrap();
        assert_eq!(listed(ListFormat::Text), "Mail queue is empty\n");
        assert_eq!(listed(ListFormat::Json), "");
        for id in ["", "x", "../x", "a/b", "journal-0", "x.state"] {
            let error = show(spool.path(), id, &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{id}");
            assert!(remove(spool.path(), id).is_err());
        }
    }
}
