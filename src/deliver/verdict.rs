//! The proof that a mail reader removed the messages that are missing from a mailbox.
//!
//! A done mark alone does not prove this, because a disk may fail while the kernel keeps running:
//! it was pulled out, unmounted by force, or its server restarted. So the mark has the time (ctime)
//! of the last change that the writer made to the mailboxes. One of these is the proof that another
//! program has changed a mailbox since, and in doubt a message is delivered again:
//!
//! - The ctime of the mailbox is later than that of each record that was written to it. A record
//!   that is not done may have changed the mailbox at any time. A mailbox that is missing has no
//!   ctime.
//! - A newer copy is in the mailbox where the older one was, or the newer one was written to
//!   another file of that name.
//!
//! An entry of the queue is never changed, so if its file is without its content, it was lost. If
//! its file is missing, it was relayed and removed, provided that the directory of the queue was
//! changed after the entry was in it. Without this rule all messages of the last seconds would be
//! relayed again after each crash. A file system writes a directory and its ctime together, unless
//! it has no journal.

use std::collections::HashSet;
use std::hash::Hash;
use std::io;

use super::contents::ContentSpool;
use super::copies::{FoundCopy, find_copy, is_lost, read_message};
use super::disk::ChangeTime;
use super::journal::{Journal, Record, RecordedMessage};
use super::mailbox::LockedMailbox;
use super::mbox::MailboxCopy;
use crate::message::DestinationFile;

/// Records that are done although copies may be missing from a file, by their origin.
#[derive(Debug)]
pub struct Verdict<From> {
    /// Records with copies that another program removed, if they are missing.
    pub removed: HashSet<From>,
    /// Records with copies that are missing, and perhaps were lost by the disk.
    pub lost: Vec<From>,
}

impl<From: Copy + Eq + Hash> Verdict<From> {
    /// Returns the verdict on a file that is locked. All records of `newest` have copies for it.
    ///
    /// # Errors
    /// The mailbox, a journal or a content cannot be read.
    pub fn on(
        contents: &ContentSpool,
        locked: &LockedMailbox,
        newest: &[(From, &Journal, &Record)],
    ) -> io::Result<Verdict<From>> {
        let (mut removed, mut lost) = (HashSet::new(), Vec::new());
        if !newest.iter().any(|(_, _, record)| record.done) {
            return Ok(Verdict { removed, lost });
        }
        let changed_last = is_changed_later(locked, newest)?;
        let mut histories: Vec<JournalHistory<'_>> = Vec::new();
        for (from, journal, record) in newest {
            let Some(range) = WrittenRange::of(contents, locked, journal, record)? else {
                continue;
            };
            let known = histories.iter().position(|h| std::ptr::eq(h.journal, *journal));
            let known = known.unwrap_or_else(|| {
                histories.push(JournalHistory { journal, later: None, changed: changed_last });
                histories.len() - 1
            });
            let history = &mut histories[known];
            history.changed |= history.later.is_some_and(|later| later.replaces(&range));
            if record.done && history.changed {
                removed.insert(*from);
            } else if record.done && !range.is_whole {
                lost.push(*from);
            }
            if range.is_exact {
                history.later = Some(range);
            }
        }
        Ok(Verdict { removed, lost })
    }
}

impl<From> Default for Verdict<From> {
    fn default() -> Verdict<From> {
        Verdict { removed: HashSet::new(), lost: Vec::new() }
    }
}

/// True if `file` is an entry of the queue that was in the directory after `record` was written.
/// The entry is missing now, and the directory was changed last at `queue_changed`.
pub fn is_removed_entry(
    file: &DestinationFile,
    record: &Record,
    queue_changed: Option<ChangeTime>,
) -> bool {
    matches!(file, DestinationFile::QueueEntry(_))
        && queue_changed.is_some_and(|at| at > record.changed.queue)
}

/// True if another program has changed a mailbox after all `records` were written to it. An entry
/// of the queue is changed by no program.
fn is_changed_later<From>(
    locked: &LockedMailbox,
    records: &[(From, &Journal, &Record)],
) -> io::Result<bool> {
    if !matches!(locked.name, DestinationFile::Mailbox(_)) || locked.is_created() {
        return Ok(false);
    }
    for (_, journal, record) in records {
        let is_later = match record.done {
            true => locked.stat.changed > record.changed.mailboxes,
            // It may have changed the file, and the time is not known.
            false => {
                let messages = journal.messages_for(record, &locked.name)?;
                let mut copies = messages.iter().flat_map(RecordedMessage::placements);
                copies.all(|copy| copy.inode != locked.stat.ino)
            }
        };
        if !is_later {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Records of one journal for a mailbox, while they are examined from the newest to the oldest.
struct JournalHistory<'a> {
    journal: &'a Journal,
    /// Range of the last record with copies that are there.
    later: Option<WrittenRange>,
    /// True if another program has changed the mailbox since the record was written.
    changed: bool,
}

/// Range of a file that the copies of a record were written to.
#[derive(Clone, Copy)]
struct WrittenRange {
    inode: u64,
    from: u64,
    to: u64,
    /// True if the copies are there, perhaps with zeros in them.
    is_whole: bool,
    /// True if the copies are there.
    is_exact: bool,
}

impl WrittenRange {
    /// Returns the range in a mailbox, or None if the record has no copies for it.
    fn of(
        contents: &ContentSpool,
        locked: &LockedMailbox,
        journal: &Journal,
        record: &Record,
    ) -> io::Result<Option<WrittenRange>> {
        let mut range: Option<WrittenRange> = None;
        for entry in journal.messages_for(record, &locked.name)? {
            for (_, copy) in &entry.copies {
                let message = match read_message(contents, journal, &entry, copy) {
                    Ok(message) => message,
                    // Nothing can be done for it, removed or lost.
                    Err(e) if is_lost(&e) => continue,
                    Err(e) => return Err(e),
                };
                let octets = MailboxCopy::new(&message, &copy.to, copy.missing_newlines).size();
                let state = find_copy(locked, copy, &message)?;
                let (inode, from) = (copy.inode, copy.offset);
                let range = range.get_or_insert(WrittenRange {
                    inode,
                    from,
                    to: from,
                    is_whole: true,
                    is_exact: true,
                });
                range.from = range.from.min(from);
                range.to = range.to.max(from + octets);
                range.is_whole &= state != FoundCopy::None && locked.len >= from + octets;
                range.is_exact &= state == FoundCopy::Whole;
            }
        }
        Ok(range)
    }

    /// True if `older` was not there any more when this range was written.
    fn replaces(&self, older: &WrittenRange) -> bool {
        self.inode != older.inode || self.from < older.to
    }
}
