//! A user's `~/.forward`, read with the identity of that user. A file that the user may not read is
//! not read for them, and a file that others may write to is not trusted.
//!
//! The writer reads it, because it is the only thread that can act as a user. So a home directory
//! on a disk that hangs delays all mail, and forward files are off by default.

use std::io;
use std::path::Path;

use super::disk::{Disk, FileKind, OpenMode, Stat};
use crate::message::Owner;

/// Largest size of a forward file in bytes.
const OCTETS_MAX: u64 = 4096;

/// Returns the content of `.forward` in `home`, or None if there is none or the user is root.
///
/// # Errors
/// The file cannot be read, is too large, or could have been written by another user. As in
/// OpenSMTPD, home and file must belong to the user or to root, and only they may write to them.
pub fn read(disk: &dyn Disk, home: &Path, owner: Owner) -> io::Result<Option<Vec<u8>>> {
    if owner.uid == 0 {
        return Ok(None);
    }
    let _guard = disk.impersonate(Some(owner))?;
    let path = home.join(".forward");
    let file = match disk.lstat(&path) {
        Ok(stat) if stat.kind == FileKind::Regular => disk.open(&path, OpenMode::Read)?,
        Ok(_) => return Err(io::Error::other("it is not a regular file")),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let stat = file.stat()?;
    check_trusted(&stat, owner, "it")?;
    // Only an administrator can make a home directory a symbolic link, so the link is followed.
    let real = std::fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    check_trusted(&disk.lstat(&real)?, owner, "its directory")?;
    if stat.len > OCTETS_MAX {
        return Err(io::Error::other(format!("it is larger than {OCTETS_MAX} bytes")));
    }
    let mut text = vec![0; OCTETS_MAX as usize + 1];
    let mut filled = 0;
    loop {
        let rest = text.get_mut(filled..).unwrap_or_default();
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    text.truncate(filled);
    Ok(Some(text))
}

/// Checks that `file` belongs to the user or to root, and that no other user may write to it.
fn check_trusted(stat: &Stat, owner: Owner, file: &str) -> io::Result<()> {
    if stat.uid != owner.uid && stat.uid != 0 {
        return Err(io::Error::other(format!("{file} belongs to uid {}", stat.uid)));
    }
    match stat.mode & 0o022 {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("{file} can be written to by others"))),
    }
}
