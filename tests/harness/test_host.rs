//! A host with its own users, mail directory and spool. The program runs in a mount namespace in
//! which `/etc` is that of this host. Needs root, unshare(1) and setpriv(1).

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::directory::TestDirectory;
use super::namespace::Namespace;
use super::server::{Server, copy_program};

/// Group of the mail directory.
pub const MAIL: u32 = 8;
/// Users, and their groups of the same number.
pub const MAILSLOT: u32 = 64900;
pub const ALICE: u32 = 64901;
pub const BOB: u32 = 64902;

/// Identity in which the program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// Root, which becomes mailslot:mail.
    Root,
    /// mailslot:mail, with the two capabilities, as systemd starts it.
    Capable,
    /// mailslot:mail.
    Plain,
}

impl StartMode {
    pub const ALL: [StartMode; 3] = [StartMode::Root, StartMode::Capable, StartMode::Plain];

    /// True if the program can act as the recipients.
    pub fn impersonates(self) -> bool {
        self != StartMode::Plain
    }
}

/// Directory of a host: its `etc`, `mail` and `spool`, an empty configuration file `conf`, and a
/// copy of the program, which every user may run.
pub struct TestHost {
    directory: TestDirectory,
}

impl TestHost {
    /// Creates a host with a mail directory as Debian has it.
    pub fn new() -> TestHost {
        let directory = TestDirectory::with_mail_and_spool();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let users = [("root", 0), ("mailslot", MAILSLOT), ("alice", ALICE), ("bob", BOB)];
        let users = users.map(|(name, id)| passwd_line(name, id));
        let etc = directory.join("etc");
        fs::create_dir(&etc).unwrap();
        fs::write(etc.join("passwd"), users.concat()).unwrap();
        fs::write(etc.join("group"), "root:x:0:\ntty:x:5:\nmail:x:8:\n").unwrap();
        fs::write(etc.join("nsswitch.conf"), "passwd: files\ngroup: files\n").unwrap();
        fs::write(etc.join("shadow"), "bob\n").unwrap();
        fs::set_permissions(etc.join("shadow"), Permissions::from_mode(0o600)).unwrap();
        fs::write(directory.join("conf"), "").unwrap();
        copy_program(&directory.join("mailslot"));
        fs::set_permissions(directory.join("spool"), Permissions::from_mode(0o700)).unwrap();
        chown(directory.join("spool"), Some(MAILSLOT), Some(MAIL)).unwrap();
        let host = TestHost { directory };
        host.set_mail_directory(0o2775, 0, MAIL);
        host
    }

    pub fn directory(&self) -> &TestDirectory {
        &self.directory
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the path of a mailbox.
    pub fn mailbox(&self, name: &str) -> PathBuf {
        self.directory.mailbox_path(name)
    }

    /// Sets mode and owner of the mail directory.
    pub fn set_mail_directory(&self, mode: u32, uid: u32, gid: u32) {
        chown(self.path("mail"), Some(uid), Some(gid)).unwrap();
        fs::set_permissions(self.path("mail"), Permissions::from_mode(mode)).unwrap();
    }

    /// Creates a mailbox that contains a message.
    pub fn make_mailbox(&self, name: &str, uid: u32, gid: u32, mode: u32) {
        let path = self.mailbox(name);
        // The kernel may forbid even root to open the file of a user in a sticky directory.
        let _ = fs::remove_file(&path);
        fs::write(&path, "From a\n\nb\n\n").unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// Returns the namespace in which the users are those of this host.
    pub fn namespace(&self) -> Namespace {
        Namespace::new().bind(&self.path("etc"), "/etc")
    }

    /// Returns the command `mailslot` with `options`, run in the namespace of this host.
    pub fn command(&self, mode: StartMode, options: &[&str]) -> Command {
        self.command_in(&self.namespace(), &[], mode, options)
    }

    /// Returns the command `mailslot`, run in `namespace` and there by `starter`.
    pub fn command_in(
        &self,
        namespace: &Namespace,
        starter: &[&str],
        mode: StartMode,
        options: &[&str],
    ) -> Command {
        let mut command = namespace.command();
        let kept = if mode == StartMode::Capable { "-all,+setuid,+setgid" } else { "-all" };
        if mode != StartMode::Root {
            let (uid, gid) = (MAILSLOT.to_string(), MAIL.to_string());
            command.args(["setpriv", "--reuid", &uid, "--regid", &gid, "--clear-groups"]);
            command.args(["--inh-caps", kept, "--ambient-caps", kept, "--bounding-set", kept]);
        }
        command.args(starter).arg(self.path("mailslot"));
        for (option, file) in [("-c", "conf"), ("-m", "mail"), ("-S", "spool")] {
            command.arg(option).arg(self.path(file));
        }
        command.args(["-n", "host.example", "-d", "host.example"]);
        command.args(options).stdin(Stdio::null()).env_clear();
        command
    }

    /// Starts the program.
    pub fn start(&self, mode: StartMode, options: &[&str]) -> Server {
        let timeout = if options.contains(&"--lock-timeout") { &[][..] } else { &LOCK_TIMEOUT };
        let listen = [&["-l", "127.0.0.1:0"], timeout].concat();
        self.start_command(self.command(mode, &[&listen, options].concat()))
    }

    /// Starts the program by a command that has all of its options already.
    pub fn start_command(&self, command: Command) -> Server {
        Server::start_command(command, &self.directory, 1)
            .unwrap_or_else(|(log, status)| panic!("not ready, {status}:\n{}", log.join("\n")))
    }
}

/// Time for which a test waits for a mailbox that stays locked.
const LOCK_TIMEOUT: [&str; 2] = ["--lock-timeout", "1"];

/// Returns the line of a user in passwd(5).
pub fn passwd_line(name: &str, id: u32) -> String {
    format!("{name}:x:{id}:{id}:{name}:/nonexistent:/usr/sbin/nologin\n")
}
