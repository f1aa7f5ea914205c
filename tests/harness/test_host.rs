//! A host of the test's own: its users, mail folder and spool, and the program in a private mount
//! namespace where `/etc` is this host's. Needs root, unshare(1) and setpriv(1).

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use crate::harness::server::{PROGRAM, Server};

/// The group of the mail folder.
pub const MAIL: u32 = 8;
/// Users, and their groups.
pub const MAILSLOT: u32 = 64900;
pub const ALICE: u32 = 64901;
pub const BOB: u32 = 64902;

/// How the program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As root, which becomes mailslot:mail.
    Root,
    /// As mailslot:mail, with the two capabilities as systemd gives them.
    Capable,
    /// As mailslot:mail.
    Plain,
}

/// Whether it can act as the recipients.
pub fn acts(mode: Mode) -> bool {
    mode != Mode::Plain
}

/// All of them.
pub const MODES: [Mode; 3] = [Mode::Root, Mode::Capable, Mode::Plain];

/// A host's folders: its own users, a mail folder, a spool, and the program where all may run it.
pub struct Host {
    folder: Arc<TempDir>,
}

impl Host {
    /// With a mail folder as Debian has it.
    pub fn new() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        let users = [("root", 0), ("mailslot", MAILSLOT), ("alice", ALICE), ("bob", BOB)];
        let users = users.map(|(name, id)| passwd_line(name, id));
        let etc = path.join("etc");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("passwd"), users.concat()).unwrap();
        fs::write(etc.join("group"), "root:x:0:\ntty:x:5:\nmail:x:8:\n").unwrap();
        fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\n").unwrap();
        fs::write(etc.join("shadow"), "bob\n").unwrap();
        fs::set_permissions(etc.join("shadow"), Permissions::from_mode(0o600)).unwrap();
        fs::write(path.join("conf"), "").unwrap();
        fs::copy(PROGRAM, path.join("mailslot")).unwrap();
        fs::create_dir(path.join("mail")).unwrap();
        fs::create_dir(path.join("spool")).unwrap();
        fs::set_permissions(path.join("spool"), Permissions::from_mode(0o700)).unwrap();
        chown(path.join("spool"), Some(MAILSLOT), Some(MAIL)).unwrap();
        let host = Host { folder: Arc::new(folder) };
        host.mail_folder(0o2775, 0, MAIL);
        host
    }

    /// All that it has.
    pub fn folder(&self) -> Arc<TempDir> {
        Arc::clone(&self.folder)
    }

    /// Of a file of this host.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whose the mail folder is.
    pub fn mail_folder(&self, mode: u32, uid: u32, gid: u32) {
        chown(self.path("mail"), Some(uid), Some(gid)).unwrap();
        fs::set_permissions(self.path("mail"), Permissions::from_mode(mode)).unwrap();
    }

    /// The path of a mailbox.
    pub fn mailbox(&self, name: &str) -> PathBuf {
        self.path("mail").join(name)
    }

    /// A mailbox with a message's worth of text in it.
    pub fn make_mailbox(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        let path = self.mailbox(name);
        fs::write(&path, "From a\n\nb\n\n").unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// The command `mailslot` with `options`, where the users are those of this host.
    pub fn command(&self, mode: Mode, options: &[&str]) -> Command {
        const BIND: &str = "mount --bind \"$0\" /etc && exec \"$@\"";
        const BOTH: &str = "-all,+setuid,+setgid";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", BIND]);
        command.arg(self.path("etc"));
        let kept = if mode == Mode::Capable { BOTH } else { "-all" };
        if mode != Mode::Root {
            let (uid, gid) = (MAILSLOT.to_string(), MAIL.to_string());
            command.args(["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"]);
            command.args(["--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept]);
        }
        command.arg(self.path("mailslot"));
        for (option, file) in [("-c", "conf"), ("-m", "mail"), ("-S", "spool")] {
            command.arg(option).arg(self.path(file));
        }
        command.args(["-n", "host.example", "-d", "host.example"]);
        command.args(options).stdin(Stdio::null()).env_clear();
        command
    }

    /// A program that runs, and has said so.
    pub fn start(&self, mode: Mode, options: &[&str]) -> Server {
        let listen = ["-l", "127.0.0.1:0", "--lock-timeout", "1"];
        let command = self.command(mode, &[&listen, options].concat());
        Server::start_command(command, Arc::clone(&self.folder), 1).unwrap_or_else(
            |(log, status)| panic!("{mode:?}: not ready, {status}:\n{}", log.join("\n")),
        )
    }
}

/// A user in passwd(5).
pub fn passwd_line(name: &str, id: u32) -> String {
    format!("{name}:x:{id}:{id}:{name}:/nonexistent:/usr/sbin/nologin\n")
}
