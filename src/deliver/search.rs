//! The search for a message in a mailbox that another program has rewritten.
//!
//! A message is found by its From_ line, its id in the Received field, and its whole body. A mail
//! reader that rewrites a mailbox may add to the header, but not to the body.

use std::borrow::Cow;
use std::io;

use memchr::memmem;

use super::disk::DiskFile;
use crate::message::Content;

/// True if the file contains the message: its id, and after it the whole body.
pub fn contains_message(file: &dyn DiskFile, id: &str, content: &Content) -> io::Result<bool> {
    let empty_line = memmem::Finder::new(b"\n\n");
    let body = body_offset(content, &empty_line)?;
    let needle = format!(" id {id}");
    let finder = memmem::Finder::new(&needle);
    let mut from = 0;
    while let Some(at) = find_at(file, &finder, from)? {
        from = at + 1;
        // One id can be the beginning of another.
        let mut next = [0];
        let ends = file.read_exact_at(&mut next, at + needle.len() as u64).is_ok();
        if !ends || !matches!(next, [b'\n' | b';' | b' ']) {
            continue;
        }
        if !follows_from_line(file, at)? {
            continue;
        }
        let Some(header_end) = find_at(file, &empty_line, at)? else { continue };
        if has_bytes(file, header_end + 2, content.pieces(body))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if a From_ line begins the header that has the id at offset `at`. It was lost with power if
/// there are zeros before the id, and then a mail reader does not show the message.
fn follows_from_line(file: &dyn DiskFile, at: u64) -> io::Result<bool> {
    let from = at.saturating_sub(HEAD_MAX);
    let mut head = vec![0; (at - from) as usize];
    file.read_exact_at(&mut head, from)?;
    let begin = match memmem::rfind(&head, b"\nFrom ") {
        Some(found) => found + 1,
        None if head.starts_with(b"From ") => 0,
        None => return Ok(false),
    };
    let head = head.get(begin..).unwrap_or_default();
    Ok(!head.contains(&0) && memmem::find(head, b"\n\n").is_none())
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

/// True if the file has `pieces` at `offset`.
fn has_bytes<'a>(
    file: &dyn DiskFile,
    mut offset: u64,
    pieces: impl Iterator<Item = io::Result<Cow<'a, [u8]>>>,
) -> io::Result<bool> {
    for piece in pieces {
        let piece = piece?;
        let mut theirs = vec![0; piece.len()];
        match file.read_exact_at(&mut theirs, offset) {
            Ok(()) if theirs == *piece => offset += piece.len() as u64,
            Ok(()) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
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

/// Most bytes between a From_ line and the id: our own fields, and what mail readers add to them.
const HEAD_MAX: u64 = 64 * 1024;
