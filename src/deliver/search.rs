//! The search for messages in a mailbox that another program has rewritten.
//!
//! A message is found by its id in the Received field, followed by its whole body. A mail reader
//! that rewrites a mailbox may add to the header, but not to the body.
//!
//! One pass over the mailbox searches for all messages, because a mailbox may have gigabytes, and a
//! journal thousands of messages.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::io;

use memchr::{memchr3, memmem};

use super::disk::DiskFile;

/// Message to search for.
pub struct SoughtMessage<'a> {
    /// Id of the message.
    pub id: &'a str,
    /// Its content.
    pub content: KnownContent<'a>,
}

/// Content of the message to search for.
pub enum KnownContent<'a> {
    /// In memory.
    Content(&'a [u8]),
    /// Range of a file: its offset and its length.
    Stretch(&'a dyn DiskFile, u64, u64),
}

impl KnownContent<'_> {
    fn octets(&self) -> u64 {
        match self {
            KnownContent::Content(content) => content.len() as u64,
            KnownContent::Stretch(_, _, octets) => *octets,
        }
    }

    /// Returns the offset of the body, which follows the first empty line.
    fn body_at(&self) -> io::Result<u64> {
        let empty_line = memmem::Finder::new(EMPTY_LINE);
        let header = match self {
            KnownContent::Content(content) => empty_line.find(content).map(|n| n as u64),
            KnownContent::Stretch(file, at, _) => {
                find_at(*file, &empty_line, *at)?.map(|end| end - at)
            }
        };
        let body = header.map_or(u64::MAX, |n| n + EMPTY_LINE.len() as u64);
        Ok(body.min(self.octets()))
    }

    /// Returns `octets` bytes at `at`.
    fn bytes(&self, at: u64, octets: usize) -> io::Result<Cow<'_, [u8]>> {
        match self {
            KnownContent::Content(content) => {
                let bytes = content.get(at as usize..at as usize + octets);
                Ok(Cow::Borrowed(bytes.unwrap_or_default()))
            }
            KnownContent::Stretch(file, start, _) => {
                let mut bytes = vec![0; octets];
                file.read_exact_at(&mut bytes, start + at)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// True if the file contains the message: its id, and after it the whole body.
pub fn contains_message(
    file: &dyn DiskFile,
    id: &str,
    content: KnownContent<'_>,
) -> io::Result<bool> {
    Ok(!find_messages(file, &[SoughtMessage { id, content }], |_| ())?.is_empty())
}

/// Returns the ids of the messages that are in the file: the id, and after it the whole body. All
/// messages of `sought` have different ids. Calls `progress` with the number of bytes that are
/// searched so far.
///
/// Reads the file once, and again what may be the body of one of the messages.
pub fn find_messages<'a>(
    file: &dyn DiskFile,
    sought: &[SoughtMessage<'a>],
    progress: impl FnMut(u64),
) -> io::Result<HashSet<&'a str>> {
    find_in_pieces(file, sought, PIECE, progress)
}

/// Does the same as [`find_messages`], reading `piece` bytes at a time.
fn find_in_pieces<'a>(
    file: &dyn DiskFile,
    sought: &[SoughtMessage<'a>],
    piece: usize,
    mut progress: impl FnMut(u64),
) -> io::Result<HashSet<&'a str>> {
    let (before_id, empty_line) = (memmem::Finder::new(BEFORE_ID), memmem::Finder::new(EMPTY_LINE));
    let mut missing = HashMap::with_capacity(sought.len());
    for message in sought {
        missing.insert(message.id.as_bytes(), (message, message.content.body_at()?));
    }
    let id_max = missing.keys().map(|id| id.len()).max().unwrap_or_default();
    // An id, what is before it and the byte after it are in the buffer together.
    let overlap = BEFORE_ID.len() + id_max + 1;
    let mut buf = vec![0; piece.max(2 * overlap)];
    // Offset of the buffer in the file, and the number of bytes in it.
    let (mut from, mut filled) = (0, 0);
    let mut found = HashSet::new();
    // Missing ids before the next empty line.
    let mut in_header: HashSet<&'a str> = HashSet::new();
    loop {
        let n = match file.read_at(&mut buf[filled..], from + filled as u64) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        filled += n;
        let bytes = &buf[..filled];
        // What begins after it is searched when more bytes are there.
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
                in_header.extend(id.and_then(|id| missing.get(id)).map(|(message, _)| message.id));
                at = id_at + 1;
                continue;
            }
            let Some(line) = line else { break };
            let body = from + (line + EMPTY_LINE.len()) as u64;
            for id in in_header.drain() {
                let Some((message, body_at)) = missing.get(id.as_bytes()) else { continue };
                if has_body(file, body, &message.content, *body_at)? {
                    missing.remove(id.as_bytes());
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
/// of another, so the byte after it is one that is in no id.
fn read_id(bytes: &[u8], max: usize) -> Option<&[u8]> {
    let bytes = bytes.get(..bytes.len().min(max + 1))?;
    bytes.get(..memchr3(b'\n', b';', b' ', bytes)?)
}

/// True if the file has the content from `body_at` on at `offset`. Reads little if the first bytes
/// differ.
fn has_body(
    file: &dyn DiskFile,
    offset: u64,
    content: &KnownContent<'_>,
    body_at: u64,
) -> io::Result<bool> {
    let (mut at, mut piece) = (body_at, 512);
    while at < content.octets() {
        let n = (content.octets() - at).min(piece);
        if !has_bytes(file, offset + (at - body_at), &content.bytes(at, n as usize)?)? {
            return Ok(false);
        }
        at += n;
        piece = (2 * piece).min(PIECE as u64);
    }
    Ok(true)
}

/// True if the file has `bytes` at `offset`.
pub fn has_bytes(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<bool> {
    let mut theirs = vec![0; bytes.len()];
    match file.read_exact_at(&mut theirs, offset) {
        Ok(()) => Ok(theirs == bytes),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

/// Iterator over a range of a file in pieces of 64 KiB, each with its offset.
pub struct Pieces<'a> {
    file: &'a dyn DiskFile,
    at: u64,
    end: u64,
}

impl<'a> Pieces<'a> {
    pub fn of(file: &'a dyn DiskFile, at: u64, len: u64) -> Self {
        Pieces { file, at, end: at + len }
    }
}

impl Iterator for Pieces<'_> {
    type Item = (u64, io::Result<Vec<u8>>);

    fn next(&mut self) -> Option<Self::Item> {
        let (at, n) = (self.at, (self.end - self.at).min(64 * 1024));
        if n == 0 {
            return None;
        }
        self.at += n;
        let mut bytes = vec![0; n as usize];
        let read = self.file.read_exact_at(&mut bytes, at);
        Some((at, read.map(|()| bytes)))
    }
}

/// Returns the offset of the finder's needle at or after `from`.
fn find_at(
    file: &dyn DiskFile,
    finder: &memmem::Finder<'_>,
    mut from: u64,
) -> io::Result<Option<u64>> {
    let overlap = finder.needle().len() - 1;
    let mut buf = vec![0; 256 * 1024];
    let mut filled = 0;
    loop {
        let n = match file.read_at(&mut buf[filled..], from + filled as u64) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        if let Some(at) = finder.find(&buf[..filled + n]) {
            return Ok(Some(from + at as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        filled += n;
        let keep = filled.min(overlap);
        buf.copy_within(filled - keep..filled, 0);
        from += (filled - keep) as u64;
        filled = keep;
    }
}

/// Bytes before the id of a message in its Received field.
const BEFORE_ID: &[u8] = b" id ";
const EMPTY_LINE: &[u8] = b"\n\n";
/// Bytes that are read from the mailbox at a time.
const PIECE: usize = 256 * 1024;

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
            let header = mailbox[at..].windows(2).position(|w| w == EMPTY_LINE);
            header.is_some_and(|n| mailbox[at + n + 2..].starts_with(&content[body_at..]))
        })
    }

    /// Pieces of mailboxes and contents, in which ids, ends of headers and bodies are frequent.
    fn text(lengths: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => ("[ab]{0,3}", "[;\n x]").prop_map(|(id, after)| format!(" id {id}{after}")),
            3 => Just("\n\n".to_owned()),
            1 => Just("\n".to_owned()),
            2 => "[ab]{1,3}",
            1 => "x{1,40}",
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
            let [file, journal] = [(); 2].map(|()| tempfile::tempfile().unwrap());
            file.write_all_at(&[&mailbox], 0).unwrap();
            let naive = contents.iter().filter(|(id, content)| is_in(&mailbox, id, content));
            let naive: HashSet<&str> = naive.map(|(id, _)| id.as_str()).collect();
            let (mut sought, mut in_file, mut at) = (Vec::new(), Vec::new(), 0);
            for (id, content) in &contents {
                sought.push(SoughtMessage { id, content: KnownContent::Content(content) });
                journal.write_all_at(&[content], at).unwrap();
                let stretch = KnownContent::Stretch(&journal, at, content.len() as u64);
                in_file.push(SoughtMessage { id, content: stretch });
                at += content.len() as u64;
            }
            let mut searched = 0;
            let found = find_in_pieces(&file, &sought, piece, |n| searched = n).unwrap();
            prop_assert_eq!(&found, &naive);
            prop_assert!(searched <= mailbox.len() as u64);
            let found = find_in_pieces(&file, &in_file, piece, |_| ()).unwrap();
            prop_assert_eq!(&found, &naive);
        }
    }
}
