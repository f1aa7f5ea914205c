//! Messages on the terminals of users who are logged in, for SEND, SOML and SAML (RFC 821 3.4). It
//! is off unless `--terminals` turns it on. `render.rs` makes the text that is shown.
//!
//! Logins are read from utmp(5). On a host without that file (some systems have dropped it because
//! its times have 32 bits) no user is active.
//!
//! A user accepts messages on a terminal if its device is writable by its group (`mesg y`), as for
//! write(1). The contents of utmp are not trusted, because other programs than login(1) write to
//! it. A terminal is written to only if it is
//! - in the directory of devices, reached without `..` and without a symbolic link;
//! - a character device that the user owns, which is checked before it is opened, because opening
//!   some devices has an effect, and again after it;
//! - a terminal according to isatty(3).
//!
//! A terminal that is stopped or not read must not delay others. Therefore all terminals of a
//! message are written to at the same time, without blocking, for at most [`WRITE_TIMEOUT`] in all.
//! A terminal that has not accepted the whole text by then counts as not written to. The caller
//! waits that long. It is the thread of a session and not the writer, so other mail is not delayed.

pub mod render;

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::mem::{offset_of, size_of};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::message::UserMailbox;
use crate::observe::events;
use render::RenderedMessage;

/// The time to wait for all terminals of a message together.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// The files that list logins and contain terminals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminals {
    /// The file of logins, utmp(5).
    pub utmp: PathBuf,
    /// The directory of devices. The names of terminals in utmp are relative to it.
    pub dev: PathBuf,
}

impl Default for Terminals {
    /// Returns the files of this host, `/run/utmp` and `/dev`.
    fn default() -> Terminals {
        Terminals { utmp: UTMP.into(), dev: "/dev".into() }
    }
}

impl Terminals {
    /// True if each of these users is active: logged in on a terminal that accepts messages.
    pub fn are_active(&self, users: &[UserMailbox]) -> bool {
        let logins = self.logins();
        users.iter().all(|user| !self.open_all(&logins, user).is_empty())
    }

    /// Shows `rendered` on all terminals of these users that accept messages. Returns for each user
    /// whether at least one terminal accepted all of it.
    pub fn show(&self, users: &[UserMailbox], rendered: &RenderedMessage) -> Vec<bool> {
        let logins = self.logins();
        let mut writes = Vec::new();
        for (user, destination) in users.iter().enumerate() {
            for terminal in self.open_all(&logins, destination) {
                let rest = rendered.bytes(takes_utf8(&terminal));
                writes.push(TerminalWrite { user, terminal, rest });
            }
            writes.truncate(OPEN_MAX);
        }
        let mut shown = vec![false; users.len()];
        let deadline = Instant::now() + WRITE_TIMEOUT;
        loop {
            writes.retain_mut(|write| {
                let unfinished = write.write_some();
                if write.rest.is_empty()
                    && let Some(shown) = shown.get_mut(write.user)
                {
                    *shown = true;
                }
                unfinished
            });
            if writes.is_empty() || !wait_writable(&writes, deadline) {
                return shown;
            }
        }
    }

    /// Returns all logins, or none if the file cannot be read.
    fn logins(&self) -> Vec<UtmpLogin> {
        let mut bytes = Vec::new();
        let read = File::open(&self.utmp).and_then(|f| f.take(UTMP_MAX).read_to_end(&mut bytes));
        match read {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => events::utmp_unreadable(self.utmp.display(), e),
        }
        parse_utmp(&bytes)
    }

    /// Opens the terminals on which `user` is logged in and accepts messages.
    fn open_all(&self, logins: &[UtmpLogin], user: &UserMailbox) -> Vec<File> {
        let name = user.name.as_str();
        let uid = user.owner.map_or_else(|| nix::unistd::geteuid().as_raw(), |owner| owner.uid);
        let mut lines: Vec<&Path> = Vec::new();
        let mut terminals = Vec::new();
        for login in logins.iter().filter(|login| login.user == name) {
            // A login that was not ended properly leaves a record for the same terminal.
            if terminals.len() == USER_MAX || lines.contains(&login.line.as_path()) {
                continue;
            }
            lines.push(&login.line);
            match self.open(&login.line, uid) {
                Ok(terminal) => terminals.push(terminal),
                Err(e) => events::terminal_unusable(name, login.line.display(), e),
            }
        }
        terminals
    }

    /// Opens the terminal at `line`, such as `pts/3`.
    ///
    /// # Errors
    /// It does not belong to `uid`, does not accept messages, is not a terminal, or cannot be
    /// opened.
    fn open(&self, line: &Path, uid: u32) -> io::Result<File> {
        let mut names = Vec::new();
        for component in line.components() {
            match component {
                Component::Normal(name) => names.push(name),
                _ => return Err(io::Error::other("not a name in the directory of devices")),
            }
        }
        let (device, directories) =
            names.split_last().ok_or_else(|| io::Error::other("no name"))?;
        let directory_flags = SEARCH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = nix::fcntl::open(&self.dev, directory_flags, Mode::empty())?;
        for name in directories {
            let flags = directory_flags | OFlag::O_NOFOLLOW;
            directory = openat(&directory, *name, flags, Mode::empty())?;
        }
        check_device(&fstatat(&directory, *device, AtFlags::AT_SYMLINK_NOFOLLOW)?, uid)?;
        let flags = OFlag::O_WRONLY
            | OFlag::O_NOCTTY
            | OFlag::O_NONBLOCK
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let terminal = openat(&directory, *device, flags, Mode::empty())?;
        check_device(&fstat(&terminal)?, uid)?;
        if !terminal.is_terminal() {
            return Err(io::Error::other("not a terminal"));
        }
        Ok(File::from(terminal))
    }
}

/// A login of a user on a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UtmpLogin {
    user: String,
    /// The name of the terminal, relative to the directory of devices.
    line: PathBuf,
}

/// Parses the contents of a utmp file: records of a fixed size, the last of which may be
/// incomplete. The layout is that of the C library of this machine.
fn parse_utmp(utmp: &[u8]) -> Vec<UtmpLogin> {
    let login = |record: &[u8]| {
        let kind = record.get(offset_of!(libc::utmpx, ut_type)..)?.first_chunk()?;
        let text = |offset, length| text(record.get(offset..)?.get(..length)?);
        let user = text(USER_OFFSET, NAME_SIZE)?;
        let line = text(offset_of!(libc::utmpx, ut_line), LINE_SIZE)?;
        let is_login = *kind == libc::USER_PROCESS.to_ne_bytes();
        is_login.then(|| UtmpLogin { user: user.to_owned(), line: line.into() })
    };
    utmp.chunks_exact(size_of::<libc::utmpx>()).filter_map(login).collect()
}

/// Returns the text of a field up to its first NUL, or None if it is empty or not UTF-8.
fn text(field: &[u8]) -> Option<&str> {
    let text = field.split(|byte| *byte == 0).next()?;
    if text.is_empty() { None } else { std::str::from_utf8(text).ok() }
}

/// Checks that a file is a device that belongs to `uid` and accepts messages: `mesg y` makes it
/// writable by its group.
fn check_device(stat: &FileStat, uid: u32) -> io::Result<()> {
    let mode = stat.st_mode;
    let reason = if mode & SFlag::S_IFMT.bits() != SFlag::S_IFCHR.bits() {
        "not a character device"
    } else if stat.st_uid != uid {
        "owned by another user"
    } else if mode & Mode::S_IWGRP.bits() == 0 {
        "messages are off"
    } else {
        return Ok(());
    };
    Err(io::Error::other(reason))
}

/// The mode in which a directory is opened to open files in it.
#[cfg(any(target_os = "linux", target_os = "freebsd"))]
const SEARCH: OFlag = OFlag::O_PATH;
/// Reading, because other systems have no `O_PATH`. Users may read the directory of devices.
#[cfg(not(any(target_os = "linux", target_os = "freebsd")))]
const SEARCH: OFlag = OFlag::O_RDONLY;

/// True if the terminal is set to UTF-8 (termios(3), IUTF8).
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn takes_utf8(terminal: &File) -> bool {
    use nix::sys::termios::{InputFlags, tcgetattr};
    tcgetattr(terminal).is_ok_and(|settings| settings.input_flags.contains(InputFlags::IUTF8))
}

/// Returns false, because other systems have no such flag.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn takes_utf8(_: &File) -> bool {
    false
}

/// The state of writing to one terminal.
struct TerminalWrite<'a> {
    /// The index of the user.
    user: usize,
    terminal: File,
    /// The text that was not written yet.
    rest: &'a [u8],
}

impl TerminalWrite<'_> {
    /// Writes as much as the terminal accepts now. Returns whether to continue later: false if all
    /// is written, or after an error.
    fn write_some(&mut self) -> bool {
        while !self.rest.is_empty() {
            match self.terminal.write(self.rest) {
                Ok(0) => return true,
                Ok(n) => self.rest = self.rest.get(n..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == ErrorKind::WouldBlock,
            }
        }
        false
    }
}

/// Waits until one of the terminals accepts more. Returns false after the timeout.
fn wait_writable(writes: &[TerminalWrite<'_>], deadline: Instant) -> bool {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        return false;
    }
    let terminals = writes.iter().map(|write| write.terminal.as_fd());
    let mut polled: Vec<_> = terminals.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)).collect();
    // Rounded up, because a wait of less than a millisecond would be a busy loop.
    let remaining =
        PollTimeout::try_from(remaining + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, remaining) {
        Ok(ready) => ready > 0,
        Err(e) => e == Errno::EINTR,
    }
}

/// The file of logins, `UTMPX_FILE` in C.
const UTMP: &str = "/run/utmp";
/// The most bytes of it that are read.
const UTMP_MAX: u64 = 1 << 20;
/// The most terminals of one user that are written to.
const USER_MAX: usize = 16;
/// The most terminals that are open for one message.
const OPEN_MAX: usize = 256;
/// The place of the user's name in a record.
#[cfg(not(target_os = "netbsd"))]
const USER_OFFSET: usize = offset_of!(libc::utmpx, ut_user);
#[cfg(target_os = "netbsd")]
const USER_OFFSET: usize = offset_of!(libc::utmpx, ut_name);
/// The sizes of names in a record, `UT_NAMESIZE` and `UT_LINESIZE` in utmp(5).
const NAME_SIZE: usize = 32;
const LINE_SIZE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, symlink};
    use std::process::Command;

    /// Returns a record as login(1) writes it, with the layout in utmp(5).
    fn record(kind: i16, user: &[u8], line: &[u8]) -> Vec<u8> {
        let mut record = vec![0; size_of::<libc::utmpx>()];
        record[..2].copy_from_slice(&kind.to_ne_bytes());
        record[4..8].copy_from_slice(&(std::process::id() as i32).to_ne_bytes());
        record[8..8 + line.len()].copy_from_slice(line);
        record[44..44 + user.len()].copy_from_slice(user);
        // ut_host follows, which must not become part of a name.
        record[76..80].copy_from_slice(b"host");
        record
    }

    fn named(logins: &[UtmpLogin]) -> Vec<String> {
        logins.iter().map(|l| format!("{} {}", l.user, l.line.display())).collect()
    }

    #[test]
    fn logins_are_parsed_from_records() {
        let full = [b'u'; 32];
        let full_text = format!("{0} {0}", "u".repeat(32));
        for (records, expected) in [
            (vec![], vec![]),
            (vec![record(7, b"ann", b"pts/0")], vec!["ann pts/0"]),
            // A field that is full has no NUL.
            (vec![record(7, &full, &full)], vec![full_text.as_str()]),
            // Not logins: boot, getty, ended; without a name, without a line, not UTF-8.
            (vec![record(2, b"reboot", b"~")], vec![]),
            (vec![record(6, b"LOGIN", b"tty1"), record(8, b"ann", b"pts/0")], vec![]),
            (vec![record(7, b"", b"pts/0"), record(7, b"ann", b"")], vec![]),
            (vec![record(7, b"\xff", b"pts/0"), record(7, b"ann", b"tty1")], vec!["ann tty1"]),
            // The rest of an older name may follow the NUL.
            (vec![record(7, b"bo\0ris", b"tty1\0x")], vec!["bo tty1"]),
            (
                vec![record(7, b"ann", b"tty1"), record(7, b"bo", b"pts/1")],
                vec!["ann tty1", "bo pts/1"],
            ),
        ] {
            let mut bytes = records.concat();
            assert_eq!(named(&parse_utmp(&bytes)), expected);
            // A record that is incomplete because it is being written is ignored.
            let next = record(7, b"late", b"pts/9");
            for cut in 0..next.len() {
                bytes.truncate(records.concat().len());
                bytes.extend_from_slice(&next[..cut]);
                assert_eq!(named(&parse_utmp(&bytes)), expected, "cut at {cut}");
            }
        }
    }

    /// who(1), if it is installed, shows the same logins.
    #[test]
    #[cfg_attr(target_env = "musl", ignore = "who may be of glibc, which has another utmpx")]
    fn who_shows_the_same_logins() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let records =
            [record(7, b"ann", b"pts/0"), record(8, b"bo", b"pts/1"), record(7, b"cy", b"tty1")];
        file.as_file().write_all_at(&records.concat(), 0).unwrap();
        let Ok(who) = Command::new("who").arg(file.path()).output() else { return };
        let text = String::from_utf8(who.stdout).unwrap();
        let firsts = text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
        let who: Vec<String> = firsts.map(|words| words.join(" ")).collect();
        assert_eq!(named(&parse_utmp(&records.concat())), who);
    }

    /// A line of utmp that does not name a terminal of the user is not opened.
    #[test]
    fn only_terminals_of_the_user_in_the_directory_are_opened() {
        let dev = tempfile::tempdir().unwrap();
        let path = |name: &str| dev.path().join(name);
        std::fs::create_dir(path("pts")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        std::fs::write(path("pts/file"), "").unwrap();
        symlink("/dev/null", path("link")).unwrap();
        symlink("/dev", path("dir")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU | Mode::S_IRWXG).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let here = Terminals { utmp: path("utmp"), dev: dev.path().to_owned() };
        let up = format!("pts/../{}", "../".repeat(20));
        for (line, reason) in [
            ("", "no name"),
            (".", "not a name"),
            ("/dev/null", "not a name"),
            ("../dev/null", "not a name"),
            (&format!("{up}dev/null"), "not a name"),
            ("file", "not a character device"),
            ("pts", "not a character device"),
            ("pts/file", "not a character device"),
            ("fifo", "not a character device"),
            ("link", "not a character device"),
            // A symbolic link in the path; a file in the path; no such file.
            ("dir/null", "ELOOP ENOTDIR"),
            ("file/x", "ENOTDIR"),
            ("gone", "ENOENT"),
            ("pts/gone", "ENOENT"),
            ("nul\0", "EINVAL"),
        ] {
            let error = here.open(Path::new(line), uid).unwrap_err();
            let matches = match error.raw_os_error() {
                Some(number) => reason.contains(&format!("{:?}", Errno::from_raw(number))),
                None => error.to_string().contains(reason),
            };
            assert!(matches, "{line:?}: {error}");
        }
        // A device of another user, and one that is not a terminal.
        let host = Terminals { utmp: path("utmp"), dev: "/dev".into() };
        assert!(host.open(Path::new("null"), uid.wrapping_add(1)).is_err());
        assert!(host.open(Path::new("null"), uid).is_err());
    }
}
