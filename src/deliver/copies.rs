//! The copies of recorded messages in a mailbox: found at their offsets, and written again there.
//!
//! Bytes are compared one by one, because after a power loss any sectors of a write may be missing.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::contents::ContentSpool;
use super::disk::DiskFile;
use super::journal::{Journal, Placement, Record, RecordedContent, RecordedMessage};
use super::mailbox::{LockedMailbox, count_missing_newlines};
use super::mbox::MailboxCopy;
use super::search::id_hash;
use crate::message::{Content, Message};
use crate::observe::events;

/// Results of [`rewrite_copies`].
pub struct MailboxRepair<From> {
    /// Hashes of the ids of messages that were found ([`id_hash`]).
    pub there: HashSet<u64>,
    /// Copies that were not found, in the order of `records`.
    pub doubtful: Vec<DoubtfulCopy<From>>,
    /// Bytes in the longest id of a doubtful copy.
    pub id_max: usize,
}

/// Copy that was not found at its offset. The journal has the message.
#[derive(Clone, Copy, Debug)]
pub struct DoubtfulCopy<From> {
    /// Record of the copy.
    pub from: From,
    /// Number in the record.
    pub number: u32,
    /// Hash of the message's id ([`id_hash`]).
    pub id: u64,
}

/// Copy that a mailbox has in part at its offset: the mailbox ends within it or has zeros in it.
struct PartialCopy<From> {
    copy: DoubtfulCopy<From>,
    /// Position of the record among those that are examined.
    position: usize,
    offset: u64,
    octets: u64,
}

/// Writes the copies in `records`, the newest first, again at their offsets in a mailbox, if they
/// are there in whole or, where `completed` returns true, in part. Where `removed` returns true, a
/// copy that is missing was removed by another program. Truncates the mailbox to remove an aborted
/// copy at its end.
///
/// A copy is written again even if it reads well and is done, because a sync that failed once
/// leaves data in memory that is not on the disk.
///
/// One message at a time is in memory, because a journal may have thousands.
pub fn rewrite_copies<From: std::marker::Copy>(
    contents: &ContentSpool,
    locked: &mut LockedMailbox,
    file: &Arc<dyn DiskFile>,
    records: &[(From, &Journal, &Record)],
    completed: impl Fn(&From) -> bool,
    removed: impl Fn(&From) -> bool,
) -> io::Result<MailboxRepair<From>> {
    let (mut there, mut doubtful, mut id_max) = (HashSet::new(), Vec::new(), 0);
    let mut partial: Vec<PartialCopy<From>> = Vec::new();
    let mut with_aborted = Vec::new();
    for (position, (from, journal, record)) in records.iter().enumerate() {
        let messages = journal.messages_for(record, &locked.name)?;
        if messages.iter().any(|entry| !entry.aborted.is_empty()) {
            with_aborted.push((journal, record));
        }
        for entry in messages.iter().rev() {
            let Some((number, copy)) = entry.copies.first() else { continue };
            let id = id_hash(entry.id.as_bytes());
            if there.contains(&id) || partial.iter().any(|p| p.copy.id == id) {
                continue;
            }
            let Some(message) = message_of(contents, locked, journal, record, entry, copy)? else {
                continue;
            };
            let octets = MailboxCopy::new(&message, &copy.to, copy.missing_newlines).size();
            // A newer copy may overlap an older one that a mail reader removed.
            let is_free = !partial
                .iter()
                .any(|p| p.offset < copy.offset + octets && copy.offset < p.offset + p.octets);
            let unfound = DoubtfulCopy { from: *from, number: *number as u32, id };
            id_max = id_max.max(entry.id.len());
            match find_copy(locked, copy, &message)? {
                FoundCopy::Whole => {
                    write_copy(file, copy, &message)?;
                    there.insert(id);
                }
                FoundCopy::Partial
                    if is_free && (completed(from) || locked.len >= copy.offset + octets) =>
                {
                    let offset = copy.offset;
                    partial.push(PartialCopy { copy: unfound, position, offset, octets });
                }
                _ if removed(from) => drop(there.insert(id)),
                _ => doubtful.push(unfound),
            }
        }
    }
    // In the order of the file, because the data before a copy may have been lost with it.
    partial.sort_by_key(|p| p.offset);
    for PartialCopy { copy: unfound, position, .. } in partial {
        let Some((from, journal, record)) = records.get(position) else { continue };
        let entry = journal.message_with(record, unfound.number as usize)?;
        let Some((_, copy)) = entry.copies.first() else { continue };
        if follows_message(locked, copy)? {
            write_copy(file, copy, &read_message(contents, journal, &entry, copy)?)?;
            locked.len = locked.file().stat()?.len;
            there.insert(unfound.id);
        } else if removed(from) {
            there.insert(unfound.id);
        } else {
            doubtful.push(unfound);
        }
    }
    for (journal, record) in with_aborted {
        for entry in journal.messages_for(record, &locked.name)?.iter().rev() {
            let Some(copy) = entry.aborted.first() else { continue };
            if there.contains(&id_hash(entry.id.as_bytes())) {
                continue;
            }
            let message = match read_message(contents, journal, entry, copy) {
                Ok(message) => message,
                Err(e) if is_lost(&e) => continue,
                Err(e) => return Err(e),
            };
            let octets = MailboxCopy::new(&message, &copy.to, copy.missing_newlines).size();
            if find_copy(locked, copy, &message)? != FoundCopy::None
                && locked.len <= copy.offset + octets
            {
                locked.truncate(copy.offset, copy.missing_newlines)?;
                events::truncated(&entry.id, locked.path().display());
            }
        }
    }
    Ok(MailboxRepair { there, doubtful, id_max })
}

/// Returns a message as it was recorded, for one destination. Returns None if its content is lost,
/// and logs that if the record is not done.
fn message_of(
    contents: &ContentSpool,
    locked: &LockedMailbox,
    journal: &Journal,
    record: &Record,
    entry: &RecordedMessage,
    copy: &Placement,
) -> io::Result<Option<Message>> {
    match (read_message(contents, journal, entry, copy), entry.content) {
        (Err(e), RecordedContent::File(file)) if is_lost(&e) => {
            if !record.done {
                let path = contents.path_of(file.number);
                let fix = "see whether the message is in the mailbox, and look for the cause in \
                           the kernel log";
                let error = format!("{e}; {fix}");
                events::content_lost(&entry.id, locked.path().display(), path.display(), error);
            }
            Ok(None)
        }
        (message, _) => message.map(Some),
    }
}

/// Returns a message as it was recorded, for one destination.
///
/// # Errors
/// The content cannot be read, or [`is_lost`].
pub fn read_message(
    contents: &ContentSpool,
    journal: &Journal,
    entry: &RecordedMessage,
    copy: &Placement,
) -> io::Result<Message> {
    let content = match entry.content {
        RecordedContent::Journal(at) => Content::Memory(journal.content(at, entry.octets)?.into()),
        RecordedContent::File(file) => Content::File(contents.open(file, entry.octets)?.into()),
    };
    let (id, head) = (entry.id.clone(), entry.head.clone());
    Ok(Message { id, head, content, to: vec![copy.to.clone()] })
}

/// True if no later attempt can find the content.
pub fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}

/// State of a copy in a mailbox, at its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundCopy {
    Whole,
    /// The mailbox ends within it or has zeros in it, and the rest matches.
    Partial,
    /// The mailbox ends before it or has other data there.
    None,
}

/// Compares a mailbox with a copy, byte by byte.
pub fn find_copy(
    locked: &LockedMailbox,
    copy: &Placement,
    message: &Message,
) -> io::Result<FoundCopy> {
    if locked.stat.ino != copy.inode || locked.len <= copy.offset {
        return Ok(FoundCopy::None);
    }
    let (mut at, mut whole) = (copy.offset, true);
    for piece in MailboxCopy::new(message, &copy.to, copy.missing_newlines).pieces() {
        let piece = piece?;
        let there = locked.len.saturating_sub(at).min(piece.len() as u64);
        let mut theirs = vec![0; there as usize];
        locked.file().read_exact_at(&mut theirs, at)?;
        if *theirs != *piece {
            whole = false;
            if !theirs.iter().zip(piece.iter()).all(|(a, b)| a == b || *a == 0) {
                return Ok(FoundCopy::None);
            }
        }
        at += piece.len() as u64;
    }
    Ok(if whole { FoundCopy::Whole } else { FoundCopy::Partial })
}

/// True if the bytes before a copy are the end of a message, as they were when it was recorded.
/// They are not if a mail reader moved zeros there, which are not ours to write over.
fn follows_message(locked: &LockedMailbox, copy: &Placement) -> io::Result<bool> {
    let missing = count_missing_newlines(&**locked.file(), copy.offset)?;
    Ok(missing == copy.missing_newlines)
}

/// Writes a copy at its offset.
fn write_copy(file: &Arc<dyn DiskFile>, copy: &Placement, message: &Message) -> io::Result<()> {
    let mut at = copy.offset;
    for piece in MailboxCopy::new(message, &copy.to, copy.missing_newlines).pieces() {
        let piece = piece?;
        file.write_all_at(&[&piece], at)?;
        at += piece.len() as u64;
    }
    Ok(())
}
