//! A user's `~/.forward`, read as that user: what they may not read themselves is not read for
//! them, and what others may write is not believed.
//!
//! The writer reads it, being the one thread that can act as a user. So a home folder on a disk
//! that hangs keeps mail waiting, and forward files are off unless they are asked for.

use std::io;
use std::path::Path;

use super::disk::{Disk, DiskFile, FileKind, OpenMode, Stat};
use crate::message::Owner;

/// The most octets of a forward file.
pub const OCTETS_MAX: u64 = 4096;

/// What `.forward` in `home` says; None: there is none, or the user is root.
///
/// # Errors
/// It cannot be read, is too large, or could have been written by others than its owner: as
/// OpenSMTPD has it, home and file belong to the user or root, and nobody else may write to them.
pub fn read<D: Disk>(disk: &D, home: &Path, owner: Owner) -> io::Result<Option<Vec<u8>>> {
    if owner.uid == 0 {
        return Ok(None);
    }
    let _acting = disk.impersonate(Some(owner))?;
    let path = home.join(".forward");
    let file = match disk.look(&path) {
        Ok(stat) if stat.kind == FileKind::Regular => disk.open(&path, OpenMode::Read)?,
        Ok(_) => return Err(io::Error::other("it is not a regular file")),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    let stat = file.stat()?;
    trusted(&stat, owner, "it")?;
    // A link to a home elsewhere is the administrator's.
    let real = std::fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    trusted(&disk.look(&real)?, owner, "its folder")?;
    if stat.len > OCTETS_MAX {
        return Err(io::Error::other(format!("it is larger than {OCTETS_MAX} octets")));
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

fn trusted(stat: &Stat, owner: Owner, what: &str) -> io::Result<()> {
    if stat.uid != owner.uid && stat.uid != 0 {
        return Err(io::Error::other(format!("{what} belongs to uid {}", stat.uid)));
    }
    match stat.mode & 0o022 {
        0 => Ok(()),
        _ => Err(io::Error::other(format!("{what} can be written to by others"))),
    }
}
