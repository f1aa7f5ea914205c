//! The search for messages in a mailbox that another program has rewritten.
//!
//! A message is found by its From_ line, its id in the Received field, and its whole body. A mail
//! reader that rewrites a mailbox may add to the header, but not to the body.
//!
//! One pass over the mailbox searches for all messages, because a mailbox may have gigabytes, and a
//! journal thousands of messages.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::io;

use memchr::{memchr3, memmem};

use super::disk::DiskFile;
use crate::message::Content;

/// Messages to search for, which are not in memory.
pub struct SoughtMessages<M> {
    /// Messages by the hashes of their ids ([`id_hash`]).
    pub missing: HashMap<u64, M>,
    /// Bytes in the longest id.
    pub id_max: usize,
}

/// Returns a hash of the id of a message. Ids are random, so two ids have the same hash more rarely
/// than a torn record has the right checksum.
pub fn id_hash(id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    hasher.finish()
}

/// Returns the messages of `sought` that are in the file, by the hashes of their ids: a From_ line,
/// the id after it, and after that the whole body. Calls `progress` with the number of bytes that
/// are searched so far.
///
/// Reads the file once, and any part again that may be the body of one of the messages. `read`
/// returns the content of a message when its id was found.
pub fn find_messages<M>(
    file: &dyn DiskFile,
    sought: SoughtMessages<M>,
    read: impl Fn(&M) -> io::Result<Content>,
    progress: impl FnMut(u64),
) -> io::Result<HashSet<u64>> {
    find_in_pieces(file, sought, PIECE, read, progress)
}

/// Does the same as [`find_messages`], reading `piece` bytes at a time.
fn find_in_pieces<M>(
    file: &dyn DiskFile,
    sought: SoughtMessages<M>,
    piece: usize,
    read: impl Fn(&M) -> io::Result<Content>,
    mut progress: impl FnMut(u64),
) -> io::Result<HashSet<u64>> {
    let (before_id, empty_line) = (memmem::Finder::new(BEFORE_ID), memmem::Finder::new(EMPTY_LINE));
    let SoughtMessages { mut missing, id_max } = sought;
    if missing.is_empty() {
        return Ok(HashSet::new());
    }
    // The overlap is so large that some buffer has an id together with the bytes around it.
    let overlap = BEFORE_ID.len() + id_max + 1;
    let mut buf = vec![0; piece.max(2 * overlap)];
    // Offset of the buffer in the file, and the number of bytes in it.
    let (mut from, mut filled) = (0, 0);
    let mut found = HashSet::new();
    // Missing ids before the next empty line.
    let mut in_header: HashSet<u64> = HashSet::new();
    loop {
        let n = match file.read_at(&mut buf[filled..], from + filled as u64) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        filled += n;
        let bytes = &buf[..filled];
        // The bytes after `end` are searched when more bytes are there.
        let end = if n == 0 { filled } else { filled.saturating_sub(overlap) };
        let mut at = 0;
        while at < end {
            if missing.is_empty() {
                return Ok(found);
            }
            let line = match in_header.is_empty() {
                true => None,
                false => empty_line.find(&bytes[at..]).map(|n| at + n).filter(|line| *line < end),
            };
            let next_id = before_id.find(&bytes[at..]).map(|n| at + n);
            if let Some(id_at) = next_id.filter(|id_at| *id_at < line.unwrap_or(end)) {
                let id = read_id(&bytes[id_at + BEFORE_ID.len()..], id_max);
                if let Some(id) = id.map(id_hash).filter(|id| missing.contains_key(id))
                    && follows_from_line(file, from + id_at as u64)?
                {
                    in_header.insert(id);
                }
                at = id_at + 1;
                continue;
            }
            let Some(line) = line else { break };
            let body = from + (line + EMPTY_LINE.len()) as u64;
            for id in in_header.drain() {
                let Some(message) = missing.get(&id) else { continue };
                let content = read(message)?;
                if has_bytes(file, body, &content, body_offset(&content, &empty_line)?)? {
                    missing.remove(&id);
                    found.insert(id);
                }
            }
            at = line + 1;
        }
        progress(from + end as u64);
        if n == 0 {
            return Ok(found);
        }
        buf.copy_within(end..filled, 0);
        from += end as u64;
        filled -= end;
    }
}

/// Returns the id at the beginning of `bytes`, of at most `max` bytes. One id can be the beginning
/// of another, so it must be followed by a byte that is in no id.
fn read_id(bytes: &[u8], max: usize) -> Option<&[u8]> {
    let bytes = bytes.get(..bytes.len().min(max + 1))?;
    bytes.get(..memchr3(b'\n', b';', b' ', bytes)?)
}

/// True if a From_ line begins the header that has the id at offset `at`. It was lost with power if
/// there are zeros before the id, and then a mail reader does not show the message.
fn follows_from_line(file: &dyn DiskFile, at: u64) -> io::Result<bool> {
    let mut octets = FIRST_OCTETS as u64;
    loop {
        let from = at.saturating_sub(octets);
        let mut head = vec![0; (at - from) as usize];
        file.read_exact_at(&mut head, from)?;
        let line = match memmem::rfind(&head, b"\nFrom ") {
            Some(found) => Some(found + 1),
            None => (from == 0 && head.starts_with(b"From ")).then_some(0),
        };
        let rest = head.get(line.unwrap_or_default()..).unwrap_or_default();
        let is_broken = rest.contains(&0) || memmem::find(rest, EMPTY_LINE).is_some();
        if line.is_some() || is_broken || from == 0 || octets >= HEAD_MAX {
            return Ok(line.is_some() && !is_broken);
        }
        octets *= 2;
    }
}

/// Returns the offset of the body in the content, which is its end if there is no body.
fn body_offset(content: &Content, empty_line: &memmem::Finder<'_>) -> io::Result<u64> {
    let (mut at, mut last) = (0, None);
    for piece in content.pieces(0) {
        let piece = piece?;
        if (last, piece.first()) == (Some(b'\n'), Some(&b'\n')) {
            return Ok(at + 1);
        }
        if let Some(found) = empty_line.find(&piece) {
            return Ok(at + found as u64 + 2);
        }
        (at, last) = (at + piece.len() as u64, piece.last().copied());
    }
    Ok(at)
}

/// True if the file has the content from `body_at` on at `offset`. Reads little if the first bytes
/// differ.
fn has_bytes(
    file: &dyn DiskFile,
    mut offset: u64,
    content: &Content,
    body_at: u64,
) -> io::Result<bool> {
    let mut octets = FIRST_OCTETS;
    for piece in content.pieces(body_at) {
        for ours in piece?.chunks(octets) {
            let mut theirs = vec![0; ours.len()];
            match file.read_exact_at(&mut theirs, offset) {
                Ok(()) if theirs == ours => offset += ours.len() as u64,
                Ok(()) => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        octets = PIECE;
    }
    Ok(true)
}

/// Bytes before the id of a message in its Received field.
const BEFORE_ID: &[u8] = b" id ";
const EMPTY_LINE: &[u8] = b"\n\n";
/// Most bytes between a From_ line and the id: our own fields, and fields added by mail readers.
const HEAD_MAX: u64 = 64 * 1024;
/// Bytes of a header that are read first, and bytes of a body that are compared first.
const FIRST_OCTETS: usize = 512;
/// Bytes that are read from the mailbox at a time. After a larger buffer was freed, malloc of the C
/// library keeps more free memory.
const PIECE: usize = 120 * 1024;

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    /// Searches for one message as simply as possible.
    fn is_in(mailbox: &[u8], id: &str, content: &[u8]) -> bool {
        let body_at =
            content.windows(2).position(|w| w == EMPTY_LINE).map_or(content.len(), |n| n + 2);
        (0..mailbox.len()).any(|at| {
            let rest = mailbox[at..].strip_prefix(format!(" id {id}").as_bytes());
            let Some([b'\n' | b';' | b' ', ..]) = rest else { return false };
            let begins = |n: &usize| *n == 0 || mailbox[n - 1] == b'\n';
            let is_from_line = |n: &usize| mailbox[*n..at].starts_with(b"From ");
            let Some(begin) = (0..at).rev().find(|n| begins(n) && is_from_line(n)) else {
                return false;
            };
            let before = &mailbox[begin..at];
            let header = mailbox[at..].windows(2).position(|w| w == EMPTY_LINE);
            !before.contains(&0)
                && !before.windows(2).any(|w| w == EMPTY_LINE)
                && header.is_some_and(|n| mailbox[at + n + 2..].starts_with(&content[body_at..]))
        })
    }

    /// Pieces of mailboxes and contents, in which From_ lines, ids, ends of headers and bodies are
    /// frequent.
    fn text(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => ("[ab]{0,3}", "[;\n x]").prop_map(|(id, after)| format!(" id {id}{after}")),
            4 => Just("\nFrom x".to_owned()),
            3 => Just("\n\n".to_owned()),
            1 => Just("\n".to_owned()),
            2 => "[ab]{1,3}",
            1 => "[x\0]{1,40}",
            1 => "x{400,700}",
        ];
        prop::collection::vec(part, lengths).prop_map(|parts| parts.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn one_pass_finds_what_a_search_for_each_message_finds(
            mailbox in text(0..60),
            contents in prop::collection::hash_map("[ab]{0,3}", text(0..6), 0..8),
            piece in 1usize..40,
        ) {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&[&mailbox], 0).unwrap();
            let naive = contents.iter().filter(|(id, content)| is_in(&mailbox, id, content));
            let naive: HashSet<u64> = naive.map(|(id, _)| id_hash(id.as_bytes())).collect();
            let missing = contents.iter().map(|(id, c)| (id_hash(id.as_bytes()), c)).collect();
            let id_max = contents.keys().map(String::len).max().unwrap_or_default();
            let sought = SoughtMessages { missing, id_max };
            let read = |content: &&Vec<u8>| Ok(Content::Memory((*content).clone().into()));
            let mut searched = 0;
            let found = find_in_pieces(&file, sought, piece, read, |n| searched = n).unwrap();
            prop_assert_eq!(&found, &naive);
            prop_assert!(searched <= mailbox.len() as u64);
        }
    }
}
