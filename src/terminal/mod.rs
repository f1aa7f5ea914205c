//! Terminals: a message on the screens of a user who is logged in and accepts messages, as write(1)
//! and wall(1) show theirs.
//!
//! Who is logged in where is read from utmp(5). A host that keeps none (systems without 32-bit
//! times have begun to drop it) has nobody logged in, as far as this file knows.
//!
//! A user accepts messages on a terminal whose device is writable by its group: `mesg y`. What utmp
//! says is not trusted, other programs than login(1) write it too. A terminal is written to only
//! if it is
//! - below the folder of devices, with no `..` and no symbolic link on the way;
//! - a character device that the user owns, looked at before it is opened (opening some devices is
//!   an act) and after;
//! - a terminal, as isatty(3) says.
//!
//! **A terminal that is stopped, or that nobody reads, holds up nobody**: all terminals of a
//! message are written to at once, without blocking, for at most [`PATIENCE`] together. One that
//! did not take the whole text by then has not got it. Whoever calls waits so long; that is a
//! session's thread, never the writer's, so mail for others goes on.

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

use crate::message::Destination;
use crate::observe::events;
use render::RenderedMessage;

/// How long all terminals of one message together are waited for.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Where terminals are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terminals {
    /// The file of logins, utmp(5).
    pub utmp: PathBuf,
    /// The folder of devices, in which utmp names terminals.
    pub dev: PathBuf,
}

impl Default for Terminals {
    /// Those of this host: `/run/utmp` and `/dev`.
    fn default() -> Terminals {
        Terminals { utmp: UTMP.into(), dev: "/dev".into() }
    }
}

impl Terminals {
    /// Whether each of these users is logged in and accepts messages on a terminal, now.
    pub fn accept(&self, users: &[Destination]) -> bool {
        let logins = self.logins();
        users.iter().all(|user| !self.open_all(&logins, user).is_empty())
    }

    /// Shows `screen` on all terminals of these users that accept messages. For each user, whether
    /// one of theirs took it whole.
    pub fn show(&self, users: &[Destination], screen: &RenderedMessage) -> Vec<bool> {
        let logins = self.logins();
        let mut writings = Vec::new();
        for (user, destination) in users.iter().enumerate() {
            for terminal in self.open_all(&logins, destination) {
                let rest = screen.octets(takes_utf8(&terminal));
                writings.push(Writing { user, terminal, rest });
            }
            writings.truncate(OPEN_MAX);
        }
        let mut shown = vec![false; users.len()];
        let until = Instant::now() + PATIENCE;
        loop {
            writings.retain_mut(|writing| {
                let goes_on = writing.go_on();
                if let (true, Some(shown)) = (writing.rest.is_empty(), shown.get_mut(writing.user))
                {
                    *shown = true;
                }
                goes_on
            });
            if writings.is_empty() || !wait(&writings, until) {
                return shown;
            }
        }
    }

    /// Everybody who is logged in. A file that cannot be read has nobody in it.
    fn logins(&self) -> Vec<Login> {
        let mut octets = Vec::new();
        let read = File::open(&self.utmp).and_then(|f| f.take(UTMP_MAX).read_to_end(&mut octets));
        match read {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => events::utmp_unreadable(self.utmp.display(), e),
        }
        logins_in(&octets)
    }

    /// The terminals on which `user` is logged in and accepts messages, open for writing.
    fn open_all(&self, logins: &[Login], user: &Destination) -> Vec<File> {
        let name = user.mailbox.as_str();
        let uid = user.owner.map_or_else(|| nix::unistd::geteuid().as_raw(), |owner| owner.uid);
        let mut lines: Vec<&Path> = Vec::new();
        let mut terminals = Vec::new();
        for login in logins.iter().filter(|login| login.user == name) {
            // A login that ended badly leaves its record beside the next one's.
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

    /// The terminal at `line`, such as `pts/3`, if it is `uid`'s and accepts messages.
    fn open(&self, line: &Path, uid: u32) -> io::Result<File> {
        let mut names = Vec::new();
        for component in line.components() {
            match component {
                Component::Normal(name) => names.push(name),
                _ => return Err(io::Error::other("not a name below the devices")),
            }
        }
        let (device, folders) =
            names.split_last().ok_or_else(|| io::Error::other("no name of a terminal"))?;
        let folder_flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = nix::fcntl::open(&self.dev, folder_flags, Mode::empty())?;
        for name in folders {
            let flags = folder_flags | OFlag::O_NOFOLLOW;
            directory = openat(&directory, *name, flags, Mode::empty())?;
        }
        accepts(&fstatat(&directory, *device, AtFlags::AT_SYMLINK_NOFOLLOW)?, uid)?;
        let flags = OFlag::O_WRONLY
            | OFlag::O_NOCTTY
            | OFlag::O_NONBLOCK
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let terminal = openat(&directory, *device, flags, Mode::empty())?;
        accepts(&fstat(&terminal)?, uid)?;
        if !terminal.is_terminal() {
            return Err(io::Error::other("not a terminal"));
        }
        Ok(File::from(terminal))
    }
}

/// One user on one terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Login {
    user: String,
    /// Its place below the folder of devices.
    line: PathBuf,
}

/// The logins in the octets of a utmp file: records of a fixed size, the last perhaps cut short.
/// The layout is the one that the system's C library has on this machine.
fn logins_in(utmp: &[u8]) -> Vec<Login> {
    let login = |record: &[u8]| {
        let kind = record.get(offset_of!(libc::utmpx, ut_type)..)?.first_chunk()?;
        let text = |offset, length| text(record.get(offset..)?.get(..length)?);
        let user = text(offset_of!(libc::utmpx, ut_user), NAME_SIZE)?;
        let line = text(offset_of!(libc::utmpx, ut_line), LINE_SIZE)?;
        let is_login = i16::from_ne_bytes(*kind) == libc::USER_PROCESS;
        is_login.then(|| Login { user: user.to_owned(), line: line.into() })
    };
    utmp.chunks_exact(size_of::<libc::utmpx>()).filter_map(login).collect()
}

/// The text of a field: up to the first NUL, or all of it.
fn text(field: &[u8]) -> Option<&str> {
    let text = field.split(|octet| *octet == 0).next()?;
    std::str::from_utf8(text).ok().filter(|text| !text.is_empty())
}

/// Whether this is a device of `uid`'s that accepts messages: `mesg y` lets its group write.
fn accepts(stat: &FileStat, uid: u32) -> io::Result<()> {
    let mode = stat.st_mode;
    let why = if mode & SFlag::S_IFMT.bits() != SFlag::S_IFCHR.bits() {
        "not a character device"
    } else if stat.st_uid != uid {
        "not the user's own"
    } else if mode & Mode::S_IWGRP.bits() == 0 {
        "accepts no messages"
    } else {
        return Ok(());
    };
    Err(io::Error::other(why))
}

/// Whether a terminal says that it takes UTF-8, as those of our days do (termios(3), IUTF8).
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn takes_utf8(terminal: &File) -> bool {
    use nix::sys::termios::{InputFlags, tcgetattr};
    tcgetattr(terminal).is_ok_and(|settings| settings.input_flags.contains(InputFlags::IUTF8))
}

/// Elsewhere it cannot say so.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn takes_utf8(_: &File) -> bool {
    false
}

/// A text on its way to a terminal.
struct Writing<'a> {
    /// The number of the user whose terminal it is.
    user: usize,
    terminal: File,
    /// What is not yet written.
    rest: &'a [u8],
}

impl Writing<'_> {
    /// Writes what the terminal takes now. Whether there is more to come: not if it took all, nor
    /// if it is gone.
    fn go_on(&mut self) -> bool {
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

/// Waits until one of the terminals takes more; false when the time is over.
fn wait(writings: &[Writing<'_>], until: Instant) -> bool {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return false;
    }
    let terminals = writings.iter().map(|writing| writing.terminal.as_fd());
    let mut asked: Vec<_> = terminals.map(|fd| PollFd::new(fd, PollFlags::POLLOUT)).collect();
    // Rounded up, so that the last wait does not become many of no time at all.
    let left = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut asked, left) {
        Ok(ready) => ready > 0,
        Err(e) => e == Errno::EINTR,
    }
}

/// Where logins are kept, `UTMPX_FILE`.
const UTMP: &str = "/run/utmp";
/// More than all logins of a host, in octets.
const UTMP_MAX: u64 = 1 << 20;
/// The most terminals of one user that are written to.
const USER_MAX: usize = 16;
/// The most terminals that are open for one message.
const OPEN_MAX: usize = 256;
/// What utmp(5) calls `UT_NAMESIZE` and `UT_LINESIZE`.
const NAME_SIZE: usize = 32;
const LINE_SIZE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, symlink};
    use std::process::Command;

    /// A record as login(1) writes it, its layout as utmp(5) shows it.
    fn record(kind: i16, user: &[u8], line: &[u8]) -> Vec<u8> {
        let mut record = vec![0; size_of::<libc::utmpx>()];
        record[..2].copy_from_slice(&kind.to_ne_bytes());
        record[4..8].copy_from_slice(&(std::process::id() as i32).to_ne_bytes());
        record[8..8 + line.len()].copy_from_slice(line);
        record[44..44 + user.len()].copy_from_slice(user);
        // ut_host lies behind, and is nobody's name.
        record[76..80].copy_from_slice(b"host");
        record
    }

    fn named(logins: &[Login]) -> Vec<String> {
        logins.iter().map(|l| format!("{} {}", l.user, l.line.display())).collect()
    }

    #[test]
    fn logins_are_read_from_records() {
        let full = [b'u'; 32];
        let full_text = format!("{0} {0}", "u".repeat(32));
        for (records, expected) in [
            (vec![], vec![]),
            (vec![record(7, b"ann", b"pts/0")], vec!["ann pts/0"]),
            // Fields that are full have no NUL.
            (vec![record(7, &full, &full)], vec![full_text.as_str()]),
            // Not logins: boot, getty's, ended; without a name, without a line, no UTF-8.
            (vec![record(2, b"reboot", b"~")], vec![]),
            (vec![record(6, b"LOGIN", b"tty1"), record(8, b"ann", b"pts/0")], vec![]),
            (vec![record(7, b"", b"pts/0"), record(7, b"ann", b"")], vec![]),
            (vec![record(7, b"\xff", b"pts/0"), record(7, b"ann", b"tty1")], vec!["ann tty1"]),
            // Behind a NUL there may be the rest of an older name.
            (vec![record(7, b"bo\0ris", b"tty1\0x")], vec!["bo tty1"]),
            (
                vec![record(7, b"ann", b"tty1"), record(7, b"bo", b"pts/1")],
                vec!["ann tty1", "bo pts/1"],
            ),
        ] {
            let mut octets = records.concat();
            assert_eq!(named(&logins_in(&octets)), expected);
            // A record that is being written, cut at every octet, is not seen yet.
            let next = record(7, b"late", b"pts/9");
            for cut in 0..next.len() {
                octets.truncate(records.concat().len());
                octets.extend_from_slice(&next[..cut]);
                assert_eq!(named(&logins_in(&octets)), expected, "cut at {cut}");
            }
        }
    }

    /// who(1), where there is one, reads the same file in the same way.
    #[test]
    fn who_reads_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let records =
            [record(7, b"ann", b"pts/0"), record(8, b"bo", b"pts/1"), record(7, b"cy", b"tty1")];
        file.as_file().write_all_at(&records.concat(), 0).unwrap();
        let Ok(who) = Command::new("who").arg(file.path()).output() else { return };
        let text = String::from_utf8(who.stdout).unwrap();
        let firsts = text.lines().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>());
        let who: Vec<String> = firsts.map(|words| words.join(" ")).collect();
        assert_eq!(named(&logins_in(&records.concat())), who);
    }

    /// Wherever a line of utmp leads that is no terminal of the user's, nothing is opened.
    #[test]
    fn only_devices_of_the_user_below_the_folder_are_opened() {
        let dev = tempfile::tempdir().unwrap();
        let path = |name: &str| dev.path().join(name);
        std::fs::create_dir(path("pts")).unwrap();
        std::fs::write(path("file"), "").unwrap();
        std::fs::write(path("pts/file"), "").unwrap();
        symlink("/dev/null", path("link")).unwrap();
        symlink("/dev", path("folder")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), Mode::S_IRWXU | Mode::S_IRWXG).unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        let here = Terminals { utmp: path("utmp"), dev: dev.path().to_owned() };
        let up = format!("pts/../{}", "../".repeat(20));
        for (line, why) in [
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
            // A symbolic link on the way; a file on the way; nothing there.
            ("folder/null", "ELOOP ENOTDIR"),
            ("file/x", "ENOTDIR"),
            ("gone", "ENOENT"),
            ("pts/gone", "ENOENT"),
            ("nul\0", "EINVAL"),
        ] {
            let error = here.open(Path::new(line), uid).unwrap_err();
            let said = match error.raw_os_error() {
                Some(number) => why.contains(&format!("{:?}", Errno::from_raw(number))),
                None => error.to_string().contains(why),
            };
            assert!(said, "{line:?}: {error}");
        }
        // Devices that are none of the user's, or no terminals.
        let host = Terminals { utmp: path("utmp"), dev: "/dev".into() };
        assert!(host.open(Path::new("null"), uid.wrapping_add(1)).is_err());
        assert!(host.open(Path::new("null"), uid).is_err());
    }
}
