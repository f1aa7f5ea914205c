//! Pseudo-terminals, and a utmp that says who is logged in on them.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mailslot::terminal::Terminals;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{USER_PROCESS, utmpx};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    FlowArg, InputFlags, SetArg, Termios, cfmakeraw, tcflow, tcgetattr, tcsetattr,
};

/// A terminal in raw mode that takes UTF-8 and accepts messages.
pub struct Pty {
    master: File,
    slave: File,
    path: PathBuf,
}

impl Pty {
    pub fn open() -> Pty {
        let pty = nix::pty::openpty(None, None).unwrap();
        let path = nix::unistd::ttyname(&pty.slave).unwrap();
        let pty = Pty { master: pty.master.into(), slave: pty.slave.into(), path };
        pty.mesg(true);
        pty.set(|settings| {
            cfmakeraw(settings);
            settings.input_flags.insert(InputFlags::IUTF8);
        });
        // So that neither the reader nor what fills the terminal can block the test.
        for end in [&pty.master, &pty.slave] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        pty
    }

    /// Returns the terminal as an output of a child.
    pub fn stdio(&self) -> Stdio {
        self.slave.try_clone().unwrap().into()
    }

    /// Accepts messages or refuses them, as `mesg y` and `mesg n` do.
    pub fn mesg(&self, accepts: bool) {
        let mode = if accepts { 0o620 } else { 0o600 };
        fs::set_permissions(&self.path, Permissions::from_mode(mode)).unwrap();
    }

    /// Changes the settings of the terminal.
    pub fn set(&self, change: impl FnOnce(&mut Termios)) {
        let mut settings = tcgetattr(&self.slave).unwrap();
        change(&mut settings);
        tcsetattr(&self.slave, SetArg::TCSANOW, &settings).unwrap();
    }

    /// Stops the output, as ^S does.
    pub fn stop(&self) {
        tcflow(&self.slave, FlowArg::TCOOFF).unwrap();
    }

    /// Writes until the terminal takes no more, as if its reader had stopped reading. The kernel
    /// may later find space for less than 4 KiB, because it moves what was written to the reader
    /// when it has time.
    pub fn fill(&self) {
        let mut asked = [PollFd::new(self.slave.as_fd(), PollFlags::POLLOUT)];
        while poll(&mut asked, PollTimeout::from(100_u8)).unwrap() > 0 {
            match (&self.slave).write(&[b'.'; 512]) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("fill: {e}"),
            }
        }
    }

    /// Returns all that was written to the terminal since the last call.
    pub fn screen(&self) -> String {
        (&self.slave).write_all(MARK).unwrap();
        let mut text = self.read_to(MARK);
        text.truncate(text.len() - MARK.len());
        String::from_utf8(text).unwrap()
    }

    /// Reads what was written to the terminal, up to `end`.
    pub fn read_to(&self, end: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut buffer = [0; 4096];
        while !text.ends_with(end) {
            match (&self.master).read(&mut buffer) {
                Ok(n) => text.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let mut asked = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
                    let ready = poll(&mut asked, PollTimeout::from(10_000_u16)).unwrap();
                    assert!(ready > 0, "read: {}", String::from_utf8_lossy(&text));
                }
                Err(e) => panic!("read: {e}"),
            }
        }
        text
    }

    /// Returns its name in utmp.
    pub fn line(&self) -> &str {
        self.path.strip_prefix("/dev").unwrap().to_str().unwrap()
    }
}

/// Writes a utmp of users and their terminals into `directory`.
pub fn write_utmp(directory: &Path, logins: &[(&str, &str)]) -> Terminals {
    let utmp = directory.join("utmp");
    let records: Vec<u8> = logins.iter().flat_map(|(user, line)| record(user, line)).collect();
    fs::write(&utmp, records).unwrap();
    Terminals { utmp, dev: "/dev".into() }
}

fn record(user: &str, line: &str) -> Vec<u8> {
    let mut record = vec![0; size_of::<utmpx>()];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &USER_PROCESS.to_ne_bytes());
    put(8, line.as_bytes());
    put(44, user.as_bytes());
    record
}

const MARK: &[u8] = b"\n<mark>";
