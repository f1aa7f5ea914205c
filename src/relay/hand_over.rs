//! The hand-over directory: messages that programs of this host leave while the server does not
//! run, in files `hand-over/NAME` in the spool.
//!
//! ```text
//! mailslot-sendmail --leave()--> hand-over/NAME --open()--> server: session, mailbox or queue
//!   any user                       0640 user:group            reads by its group, then removes
//! ```
//! No program has setuid or setgid for this. The directory belongs to the server's user and has
//! mode 3733. Any user can create a file in it. Because of the sticky bit no user can remove or
//! rename the file of another, and without read permission no user can list the names, which are
//! random. Because of the setgid bit each file gets the group of the directory, which the server
//! has and users have not.
//!
//! ```text
//! mailslot-hand-over 1 0s7kq...          version, and the name of the file
//! c10:1751359957,z311:f17:...            the envelope, as an entry of the queue has it
//! Subject: ...                           the content: lines with LF, the header first
//! mailslot-end 9ae0c2f1                  CRC-32 of all bytes before this line
//! ```
//! A file is written with mode 0600, and gets 0640 when it is complete and synced. So a file with
//! mode 0640 and a wrong end is damaged, and one with mode 0600 is incomplete.
//!
//! A file proves its sender, because only its owner can have created it:
//!
//! | attack | fails because |
//! | --- | --- |
//! | symbolic link, FIFO, directory | it is opened with O_NOFOLLOW, and must be a regular file |
//! | hard link to the file of another user | it has two links |
//! | file of another user, moved here | it has another group, and no valid content with its name |
//! | huge file | its size is compared with `--max-size` before it is read |
//! | millions of files | some of each user are considered at a time; a disk quota counts them all |
//! | open file that is changed later | it is the message of the same user |

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt as _, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs2::FileExt;
use nix::fcntl::OFlag;

use super::queue::entry;
use super::queue::list::{self as queue_list, ListFormat, ListView};
use crate::message::trace::unix_time;
use crate::smtp::{Envelope, Mailbox, Recipient};

/// Name of the directory in the spool.
pub const HAND_OVER_DIRECTORY: &str = "hand-over";
/// Mode of the directory.
pub const HAND_OVER_MODE: u32 = 0o3733;

/// A message in the hand-over directory, complete and locked. The lock lasts as long as the value.
#[derive(Debug)]
pub struct HandedOverMessage {
    /// Name of its file.
    pub name: String,
    /// The user that left it.
    pub uid: u32,
    /// Time at which it was left, in seconds since 1970.
    pub left_at: i64,
    /// Size in octets on the wire, as its sender counted them.
    pub wire_size: u64,
    /// The envelope.
    pub envelope: Envelope<()>,
    file: File,
    content_at: u64,
    content_size: u64,
}

/// A reason why a file is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It has been removed, or another process is taking it.
    Busy,
    /// It is being written, or its writer was killed.
    Incomplete,
    /// It cannot be a message of its owner, for this reason.
    Foreign(&'static str),
    /// It was complete once and is not now, for this reason.
    Damaged(&'static str),
}

/// A file in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingFile {
    /// Its name.
    pub name: String,
    /// Its owner.
    pub uid: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Time of its last change, in seconds since 1970.
    pub changed_at: i64,
}

/// Creates the directory in `spool` if it is missing, and returns its path.
///
/// # Errors
/// The directory cannot be created with its mode, or there is a file with another type or mode. The
/// text has the reason.
pub fn create_directory(spool: &Path) -> io::Result<PathBuf> {
    let directory = spool.join(HAND_OVER_DIRECTORY);
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", directory.display()));
    match DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => {
            let permissions = Permissions::from_mode(HAND_OVER_MODE);
            if let Err(e) = fs::set_permissions(&directory, permissions) {
                // Without its mode it would be of no use, and would hide that it is missing.
                let _ = fs::remove_dir(&directory);
                return Err(named(e));
            }
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(named(e)),
    }
    check_directory(&directory).map_err(named)?;
    Ok(directory)
}

/// Checks that `directory` is a directory in which files get its group and belong to their writers
/// alone.
fn check_directory(directory: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(directory)?;
    if !meta.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    match meta.mode() & 0o7777 {
        HAND_OVER_MODE => Ok(()),
        mode => {
            let text = format!("its mode is {mode:04o} and must be {HAND_OVER_MODE:o}");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
    }
}

/// Leaves a message in the directory of `spool`, durable, and returns the name of its file.
/// `wire_size` is the size of `content` in octets on the wire.
///
/// # Errors
/// The directory is missing or does not have its mode, has no room, or cannot be written to. No
/// file is left.
pub fn leave<D>(
    spool: &Path,
    envelope: &Envelope<D>,
    to: &[Recipient<Mailbox>],
    wire_size: u64,
    content: &mut dyn Read,
) -> io::Result<String> {
    let directory = spool.join(HAND_OVER_DIRECTORY);
    check_directory(&directory)?;
    if !has_room(&directory, wire_size) {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "the disk has no room"));
    }
    let line = entry::encode(envelope, to, None, unix_time(), wire_size);
    let line = line.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let name = random_name()?;
    let path = directory.join(&name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let written = write(&file, &name, &line, content);
    if written.is_err() {
        let _ = fs::remove_file(&path);
    }
    written.map(|()| name)
}

/// Writes a file and makes it complete and durable.
fn write(file: &File, name: &str, envelope: &str, content: &mut dyn Read) -> io::Result<()> {
    let mut out = SummingWriter { file, crc: crc32fast::Hasher::new() };
    out.write_all(format!("{VERSION} {name}\n{envelope}\n").as_bytes())?;
    let mut block = vec![0; BLOCK_SIZE];
    loop {
        match content.read(&mut block) {
            Ok(0) => break,
            Ok(n) => out.write_all(block.get(..n).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let sum = out.crc.finalize();
    let mut file = file;
    file.write_all(format!("{END} {sum:08x}\n").as_bytes())?;
    // The content is synced before the mode marks it as complete.
    file.sync_all()?;
    file.set_permissions(Permissions::from_mode(COMPLETE_MODE))?;
    file.sync_all()?;
    sync_name(file)
}

/// Makes the name of a new file durable. The directory itself cannot be opened by its users, so the
/// whole file system is synced.
#[cfg(target_os = "linux")]
fn sync_name(file: &File) -> io::Result<()> {
    nix::unistd::syncfs(file).map_err(io::Error::from)
}

/// Makes the name of a new file durable. The directory itself cannot be opened by its users, so all
/// file systems are synced.
#[cfg(not(target_os = "linux"))]
fn sync_name(_: &File) -> io::Result<()> {
    nix::unistd::sync();
    Ok(())
}

/// Files in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingFiles {
    /// The files, the oldest first.
    pub files: Vec<WaitingFile>,
    /// True if these are all.
    pub is_complete: bool,
}

/// Returns the files in `directory` that have the name of a message, at most `user_max` of each
/// owner.
///
/// # Errors
/// The directory cannot be read.
pub fn list(directory: &Path, user_max: usize) -> io::Result<WaitingFiles> {
    let (mut files, mut is_complete) = (Vec::new(), true);
    let mut count_of: HashMap<u32, usize> = HashMap::new();
    for found in fs::read_dir(directory)? {
        let Ok(name) = found?.file_name().into_string() else { continue };
        if !is_name(&name) {
            continue;
        }
        let Ok(meta) = fs::symlink_metadata(directory.join(&name)) else { continue };
        let (uid, size) = (meta.uid(), meta.len());
        let count = count_of.entry(uid).or_default();
        if *count >= user_max {
            is_complete = false;
            continue;
        }
        *count += 1;
        files.push(WaitingFile { name, uid, size, changed_at: meta.mtime() });
    }
    files.sort_unstable_by(|a, b| (a.changed_at, &a.name).cmp(&(b.changed_at, &b.name)));
    Ok(WaitingFiles { files, is_complete })
}

/// Opens, locks and verifies the message in the file `name` of `directory`. Its content may have
/// `size_max` octets.
///
/// # Errors
/// The file cannot be read.
pub fn open(
    directory: &Path,
    name: &str,
    size_max: u64,
) -> io::Result<Result<HandedOverMessage, NotTaken>> {
    let group = fs::metadata(directory)?.gid();
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let path = directory.join(name);
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path);
    let file = match opened {
        Ok(file) => file,
        Err(e) => return unreadable(&path, e).map(Err),
    };
    let meta = file.metadata()?;
    if let Some(reason) = foreign(&meta, group) {
        return Ok(Err(reason));
    }
    match FileExt::try_lock_exclusive(&file) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Err(NotTaken::Busy)),
        Err(e) => return Err(e),
    }
    // Another process may have taken it, or its owner linked it, before the lock was ours.
    let meta = file.metadata()?;
    match meta.nlink() {
        0 => return Ok(Err(NotTaken::Busy)),
        1 => {}
        _ => return Ok(Err(TWO_LINKS)),
    }
    if meta.len() > size_max.saturating_add(PROLOGUE_MAX) {
        return Ok(Err(NotTaken::Foreign("it is larger than --max-size")));
    }
    verify(file, name, meta.uid(), meta.len())
}

/// Returns why a file that cannot be opened is not taken.
fn unreadable(path: &Path, e: io::Error) -> io::Result<NotTaken> {
    match (e.kind(), fs::symlink_metadata(path)) {
        (_, Err(gone)) if gone.kind() == io::ErrorKind::NotFound => Ok(NotTaken::Busy),
        (_, Ok(meta)) if meta.is_symlink() => Ok(NotTaken::Foreign("it is a symbolic link")),
        (_, Ok(meta)) if !meta.is_file() => Ok(NOT_REGULAR),
        (io::ErrorKind::PermissionDenied, Ok(meta)) if meta.mode() & 0o7777 == WRITING_MODE => {
            Ok(NotTaken::Incomplete)
        }
        (io::ErrorKind::PermissionDenied, Ok(_)) => {
            Ok(NotTaken::Foreign("the server may not read it"))
        }
        _ => Err(e),
    }
}

/// Returns why a file with this metadata is not a complete message of its owner, or None if it can
/// be one.
fn foreign(meta: &fs::Metadata, group: u32) -> Option<NotTaken> {
    if !meta.is_file() {
        Some(NOT_REGULAR)
    } else if meta.nlink() > 1 {
        Some(TWO_LINKS)
    } else if meta.gid() != group {
        Some(NotTaken::Foreign("it does not have the group of the directory"))
    } else {
        match meta.mode() & 0o7777 {
            COMPLETE_MODE => None,
            WRITING_MODE => Some(NotTaken::Incomplete),
            _ => Some(NotTaken::Foreign("its mode is not 0640")),
        }
    }
}

/// Reads a whole file of `len` bytes and compares its checksum.
fn verify(
    file: File,
    name: &str,
    uid: u32,
    len: u64,
) -> io::Result<Result<HandedOverMessage, NotTaken>> {
    let damaged = |why| Ok(Err(NotTaken::Damaged(why)));
    let Some(end_at) = len.checked_sub(END_SIZE) else { return damaged("it is too short") };
    let mut end = [0; END_SIZE as usize];
    file.read_exact_at(&mut end, end_at)?;
    let sum = std::str::from_utf8(&end).ok().and_then(|end| {
        let sum = end.strip_prefix(END)?.strip_prefix(' ')?.strip_suffix('\n')?;
        u32::from_str_radix(sum, 16).ok()
    });
    let Some(sum) = sum else { return damaged("it has no end mark") };
    let mut crc = crc32fast::Hasher::new();
    let mut input = RangeReader { file: &file, at: 0, end: end_at };
    let mut block = vec![0; BLOCK_SIZE];
    loop {
        match input.read(&mut block)? {
            0 => break,
            n => crc.update(block.get(..n).unwrap_or_default()),
        }
    }
    if crc.finalize() != sum {
        return damaged("its checksum is wrong");
    }
    let mut prologue = Vec::new();
    let input = RangeReader { file: &file, at: 0, end: end_at.min(PROLOGUE_MAX) };
    let mut input = BufReader::new(input);
    for _ in 0..2 {
        input.read_until(b'\n', &mut prologue)?;
    }
    let content_at = prologue.len() as u64;
    let decoded = std::str::from_utf8(&prologue).ok().and_then(|prologue| {
        let (version, envelope) = prologue.strip_suffix('\n')?.split_once('\n')?;
        let named = version.strip_prefix(VERSION)?.strip_prefix(' ')?;
        (named == name).then(|| entry::decode(envelope, content_at))?
    });
    let Some(decoded) = decoded else { return damaged("its first lines are not valid") };
    Ok(Ok(HandedOverMessage {
        name: name.to_owned(),
        uid,
        left_at: decoded.arrived_at,
        wire_size: decoded.size,
        envelope: decoded.envelope,
        file,
        content_at,
        content_size: end_at - content_at,
    }))
}

impl HandedOverMessage {
    /// Returns a reader of the content: lines with LF, the header first. Each reader begins at the
    /// start.
    pub fn content(&self) -> impl Read + '_ {
        let end = self.content_at + self.content_size;
        RangeReader { file: &self.file, at: self.content_at, end }
    }

    /// Returns the number of bytes of the content.
    pub fn content_size(&self) -> u64 {
        self.content_size
    }
}

/// Renames the damaged file `name` so that it is kept and not taken again. Returns its new path.
///
/// # Errors
/// The file cannot be renamed.
pub fn set_aside(directory: &Path, name: &str) -> io::Result<PathBuf> {
    let kept = directory.join(format!("{SET_ASIDE}{name}"));
    fs::rename(directory.join(name), &kept)?;
    Ok(kept)
}

/// Removes the file `name`, which has been taken, and makes the removal durable.
///
/// # Errors
/// The file cannot be removed, or the directory cannot be synced.
pub fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    File::open(directory)?.sync_all()
}

/// True if a file that is not complete is so old that its writer must have been killed.
pub fn is_stale(file: &WaitingFile) -> bool {
    unix_time().saturating_sub(file.changed_at) > STALE_AGE
}

/// Returns the listing of the queue in `spool`, and in a view for all users also of the messages in
/// the directory.
///
/// # Errors
/// One of the directories cannot be read.
pub fn list_with_queue(spool: &Path, format: ListFormat, view: &ListView) -> io::Result<String> {
    let queue = queue_list::list(spool, format, view)?;
    match view.submitter {
        None => Ok(queue + &render_list(spool, format)?),
        Some(_) => Ok(queue),
    }
}

/// Returns the lines for the messages in the directory of `spool`, which may be none. As JSON there
/// is an object with the members `handed_over`, `age`, `size` and `uid` for each message.
///
/// # Errors
/// The directory cannot be read.
fn render_list(spool: &Path, format: ListFormat) -> io::Result<String> {
    let directory = spool.join(HAND_OVER_DIRECTORY);
    let files = match list(&directory, usize::MAX) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        listed => listed?.files,
    };
    let mut text = String::new();
    for file in &files {
        let age = unix_time().saturating_sub(file.changed_at).max(0);
        let WaitingFile { name, uid, size, .. } = file;
        // A name is letters and digits, which need no escape in JSON.
        let line = match format {
            ListFormat::Text => {
                format!("{HAND_OVER_DIRECTORY}/{name} age={age}s size={size} uid={uid}\n")
            }
            ListFormat::Json => format!(
                "{{\"handed_over\":\"{name}\",\"age\":{age},\"size\":{size},\"uid\":{uid}}}\n"
            ),
        };
        text.push_str(&line);
    }
    if !files.is_empty() && format == ListFormat::Text {
        let bytes: u64 = files.iter().fold(0, |sum, file| sum.saturating_add(file.size));
        text.push_str(&format!("{} handed over, not taken yet, {bytes} bytes\n", files.len()));
    }
    Ok(text)
}

/// A writer to a file that computes the checksum of all bytes.
struct SummingWriter<'a> {
    file: &'a File,
    crc: crc32fast::Hasher,
}

impl Write for SummingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.crc.update(bytes.get(..n).unwrap_or_default());
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader of a part of a file, with its own position.
struct RangeReader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for RangeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let n = self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Returns a name of [`NAME_LENGTH`] random letters and digits.
fn random_name() -> io::Result<String> {
    let mut bytes = [0; NAME_LENGTH];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let letter = |byte: u8| char::from(ALPHABET[usize::from(byte) % ALPHABET.len()]);
    Ok(bytes.into_iter().map(letter).collect())
}

/// True if `name` can be the name of a message.
fn is_name(name: &str) -> bool {
    name.len() == NAME_LENGTH && name.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// True if the disk of `directory` has room for a message of `bytes`, and for the server to take
/// it. A disk that gives no answer, or that has no size, passes.
fn has_room(directory: &Path, bytes: u64) -> bool {
    #[allow(clippy::useless_conversion)] // 32 bits where the system's are
    nix::sys::statvfs::statvfs(directory).map_or(true, |disk| {
        let free = u64::from(disk.blocks_available()).saturating_mul(disk.fragment_size().into());
        disk.blocks() == 0 || free / 2 >= bytes.saturating_add(ROOM_MIN)
    })
}

const NOT_REGULAR: NotTaken = NotTaken::Foreign("it is not a regular file");
const TWO_LINKS: NotTaken = NotTaken::Foreign("it has more than one link");
/// The beginning of the first line.
const VERSION: &str = "mailslot-hand-over 1";
/// The beginning of the last line.
const END: &str = "mailslot-end";
/// Size of the last line: [`END`], a blank, eight digits and LF.
const END_SIZE: u64 = 22;
/// Mode of a file that is complete.
const COMPLETE_MODE: u32 = 0o640;
/// Mode of a file that is being written.
const WRITING_MODE: u32 = 0o600;
/// Beginning of the names of damaged files.
const SET_ASIDE: &str = "damaged-";
/// Length of a name. With 32 letters it has 130 bits.
const NAME_LENGTH: usize = 26;
/// The letters of a name. Their number divides 256, so that each is as likely as the others.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Maximum number of bytes above the content.
const PROLOGUE_MAX: u64 = 1024 * 1024;
const BLOCK_SIZE: usize = 64 * 1024;
/// Age in seconds at which a file that is not complete is removed.
const STALE_AGE: i64 = 24 * 3600;
/// Free bytes that must be left on the disk after the message is written, for the server's files.
const ROOM_MIN: u64 = 8 << 20;
/// Time between two checks of the directory while nothing waits.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::dsn::{DsnNotify, DsnReturn};
    use crate::smtp::{BodyType, ForwardPath, ReversePath};

    fn recipient(address: &str) -> Recipient<Mailbox> {
        let mailbox = Mailbox::parse(address).unwrap();
        Recipient::new(ForwardPath::Mailbox(mailbox.clone()), mailbox)
    }

    /// Returns a spool with its directory, of which the message's name is returned.
    fn left(content: &[u8]) -> (tempfile::TempDir, PathBuf, String) {
        let spool = tempfile::tempdir().unwrap();
        let directory = create_directory(spool.path()).unwrap();
        let mut two = recipient("\"a,t5:b\"@c.example");
        two.notify = Some(DsnNotify { success: true, failure: false, delay: true });
        let envelope = Envelope::<()> {
            from: ReversePath::Mailbox(Mailbox::parse("jürgen@here.example").unwrap()),
            body: BodyType::EightBitMime,
            ret: Some(DsnReturn::Full),
            envid: Some("QQ1".to_owned()),
            ..Envelope::blank()
        };
        let to = [recipient("smith@here.example"), two];
        let name = leave(spool.path(), &envelope, &to, 77, &mut &content[..]).unwrap();
        (spool, directory, name)
    }

    #[test]
    fn message_is_read_as_it_was_left() {
        for content in [&b""[..], b"\n", b"Subject: x\n\nmailslot-end 00000000\n", &[b'x'; 200_000]]
        {
            let (spool, directory, name) = left(content);
            assert_eq!(list(&directory, 1).unwrap().files.len(), 1);
            assert!(render_list(spool.path(), ListFormat::Text).unwrap().contains(&name));
            let message = open(&directory, &name, 1 << 20).unwrap().unwrap();
            assert_eq!(message.uid, nix::unistd::getuid().as_raw());
            assert_eq!((message.wire_size, message.content_size()), (77, content.len() as u64));
            for _ in 0..2 {
                let mut read = Vec::new();
                message.content().read_to_end(&mut read).unwrap();
                assert_eq!(read, content);
            }
            let envelope = &message.envelope;
            assert_eq!(envelope.from.to_string(), "<jürgen@here.example>");
            assert_eq!(envelope.body, BodyType::EightBitMime);
            assert_eq!(
                (envelope.ret, envelope.envid.as_deref()),
                (Some(DsnReturn::Full), Some("QQ1"))
            );
            assert_eq!(envelope.to[1].path.to_string(), "<\"a,t5:b\"@c.example>");
            assert!(envelope.to[1].notify.unwrap().success);
            // The lock lasts as long as the message.
            assert_eq!(open(&directory, &name, 1 << 20).unwrap().unwrap_err(), NotTaken::Busy);
            drop(message);
            remove(&directory, &name).unwrap();
            assert_eq!(open(&directory, &name, 1 << 20).unwrap().unwrap_err(), NotTaken::Busy);
            assert_eq!(render_list(spool.path(), ListFormat::Text).unwrap(), "");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_damage() {
        let (_spool, directory, name) = left(b"Subject: x\n\ntext\n");
        let path = directory.join(&name);
        let whole = fs::read(&path).unwrap();
        let opened = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            open(&directory, &name, 1000).unwrap()
        };
        for at in 0..whole.len() {
            let damaged = opened(&whole[..at]).unwrap_err();
            assert!(matches!(damaged, NotTaken::Damaged(_)), "cut at {at}: {damaged:?}");
            let mut changed = whole.clone();
            changed[at] ^= 1;
            let damaged = opened(&changed).unwrap_err();
            assert!(matches!(damaged, NotTaken::Damaged(_)), "changed at {at}: {damaged:?}");
        }
        assert!(opened(&whole).is_ok());
        let kept = set_aside(&directory, &name).unwrap();
        assert_eq!(fs::read(kept).unwrap(), whole);
        assert_eq!(list(&directory, 1).unwrap().files, []);
    }

    #[test]
    fn few_files_of_one_user_are_listed() {
        let (_spool, directory, first) = left(b"");
        for n in 0..20 {
            fs::write(directory.join(format!("{n:026}")), "").unwrap();
        }
        let listed = list(&directory, 20).unwrap();
        assert_eq!((listed.files.len(), listed.is_complete), (20, false));
        fs::remove_file(directory.join(first)).unwrap();
        let listed = list(&directory, 20).unwrap();
        assert_eq!((listed.files.len(), listed.is_complete), (20, true));
    }

    #[test]
    fn names_are_random_and_no_paths() {
        let names: Vec<String> = (0..100).map(|_| random_name().unwrap()).collect();
        assert!(names.iter().all(|name| is_name(name)));
        let different: std::collections::HashSet<&String> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        for name in ["", "../../../../../../etc/shadow", "a", &"U".repeat(26), &"/".repeat(26)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn directory_must_have_its_mode() {
        let spool = tempfile::tempdir().unwrap();
        let send = || {
            let to = [recipient("a@b.c")];
            leave(spool.path(), &Envelope::<()>::blank(), &to, 1, &mut &b"x\n"[..])
        };
        assert_eq!(send().unwrap_err().kind(), io::ErrorKind::NotFound);
        let directory = create_directory(spool.path()).unwrap();
        assert!(send().is_ok());
        for mode in [0o1733, 0o2733, 0o3777, 0o700] {
            fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
            assert!(send().unwrap_err().to_string().contains("must be 3733"), "{mode:o}");
            assert!(create_directory(spool.path()).is_err(), "{mode:o}");
        }
    }
}
