//! The search for a message in a mailbox that another program has rewritten.
//!
//! A message is found by its id in the Received field, followed by its whole body. A mail reader
//! that rewrites a mailbox may add to the header, but not to the body.

use std::io;

use memchr::memmem;

use super::disk::DiskFile;

/// Content of the message to search for.
pub enum KnownContent<'a> {
    /// In memory.
    Content(&'a [u8]),
    /// Range of a file: its offset and its length.
    Stretch(&'a dyn DiskFile, u64, u64),
}

/// True if the file contains the message: its id, and after it the whole body.
pub fn contains_message(
    file: &dyn DiskFile,
    id: &str,
    known: KnownContent<'_>,
) -> io::Result<bool> {
    let empty_line = memmem::Finder::new(b"\n\n");
    // Offset of the body in the content.
    let body = match &known {
        KnownContent::Content(content) => {
            empty_line.find(content).map_or(content.len(), |n| n + 2) as u64
        }
        KnownContent::Stretch(source, at, len) => {
            let end = find_at(*source, &empty_line, *at)?.map_or(at + len, |n| n + 2);
            end.min(at + len) - at
        }
    };
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
        let Some(header_end) = find_at(file, &empty_line, at)? else { continue };
        let is_same = match &known {
            KnownContent::Content(content) => {
                has_bytes(file, header_end + 2, content.get(body as usize..).unwrap_or_default())?
            }
            KnownContent::Stretch(source, start, len) => {
                let mut same_so_far = true;
                for (n, bytes) in Pieces::of(*source, start + body, len - body) {
                    same_so_far = has_bytes(file, header_end + 2 + (n - start - body), &bytes?)?;
                    if !same_so_far {
                        break;
                    }
                }
                same_so_far
            }
        };
        if is_same {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True if the file has `bytes` at `offset`.
fn has_bytes(file: &dyn DiskFile, offset: u64, bytes: &[u8]) -> io::Result<bool> {
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
