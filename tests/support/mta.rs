//! Mail servers of others, each in a folder of its own, that hand mail on to mailslot: Postfix, a
//! whole instance beside whatever the host has, and Exim, unpacked from Debian's packages (those of
//! the two cannot both be installed).
//!
//! Both run in a mount namespace of their own, where the users of the test are users of the system;
//! so they need root. What `contrib/lmtp` tells people to write is what they are given.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails so

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Group, Pid, Uid, User};
use tempfile::TempDir;

use super::support::{Client, PATIENCE};

/// Users that exist for these servers alone.
pub const USERS: [&str; 6] = ["smith", "jones", "brown", "full", "small", "ghost"];

/// The settings in a file of `contrib/lmtp`: its lines without the comments.
pub fn contributed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/lmtp").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// A folder that the servers' own users may look into.
pub fn open_folder() -> Arc<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    Arc::new(folder)
}

/// Postfix: takes mail by SMTP at [`entrance`](Postfix::entrance), and hands it on as it is told.
pub struct Postfix {
    home: PathBuf,
    _folder: Arc<TempDir>,
    /// Where its smtpd(8) listens.
    pub entrance: SocketAddr,
    master: Option<Pid>,
}

impl Postfix {
    /// Makes its folders; mailslot may put a socket into one of them.
    pub fn lay(folder: &Arc<TempDir>) -> Postfix {
        let home = folder.path().join("postfix");
        let postfix = User::from_name("postfix").unwrap().expect("postfix is installed");
        let postdrop = Group::from_name("postdrop").unwrap().expect("postfix is installed").gid;
        make(&home, 0o755, None, None);
        make(&home.join("etc"), 0o755, None, None);
        make(&home.join("data"), 0o700, Some(postfix.uid), None);
        // What `postfix start` makes of an empty queue.
        let spool = home.join("spool");
        make(&spool, 0o755, None, None);
        make(&spool.join("pid"), 0o755, None, None);
        for queue in ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold"]
            .into_iter()
            .chain(["incoming", "private", "saved", "trace"])
        {
            make(&spool.join(queue), 0o700, Some(postfix.uid), None);
        }
        make(&spool.join("maildrop"), 0o730, Some(postfix.uid), Some(postdrop));
        make(&spool.join("public"), 0o710, Some(postfix.uid), Some(postdrop));
        // It does not tell which port it took.
        let entrance = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Postfix { home, _folder: folder.clone(), entrance, master: None }
    }

    /// Its queue: `/var/spool/postfix`, where it is installed.
    pub fn spool(&self) -> PathBuf {
        self.home.join("spool")
    }

    /// Starts it with these lines in its main.cf, in which the domain is mail.example.
    pub fn start(&mut self, settings: &str) {
        let (home, spool) = (self.home.display(), self.spool());
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {home}/spool\n\
             data_directory = {home}/data\nmaillog_file = {home}/log\n\
             maillog_file_prefixes = {home}\nmyhostname = mail.example\n\
             mydestination = mail.example\nmynetworks = 127.0.0.0/8\n\
             inet_interfaces = loopback-only\ninet_protocols = ipv4\nalias_maps =\n\
             smtpd_peername_lookup = no\ndisable_dns_lookups = yes\n\
             smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n{settings}"
        );
        // As Debian has them, chroot and all, but its smtpd; and the clients tell all they say.
        let services = fs::read_to_string("/usr/share/postfix/master.cf.dist").unwrap();
        let mut master = format!("{} inet n - y - - smtpd\n", self.entrance);
        for line in services.lines().filter(|line| !line.starts_with("smtp      inet")) {
            master += line;
            if line.starts_with("smtp ") || line.starts_with("lmtp ") {
                master += " -v";
            }
            master += "\n";
        }
        let etc = self.home.join("etc");
        fs::write(etc.join("main.cf"), main).unwrap();
        fs::write(etc.join("master.cf"), master).unwrap();
        let mut start = with_users(&self.home);
        let output = start.args(["/usr/lib/postfix/sbin/master", "-w", "-c"]).arg(&etc).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "master: {} {said}\n{}", output.status, self.log());
        let pid = fs::read_to_string(spool.join("pid/master.pid")).unwrap();
        self.master = Some(Pid::from_raw(pid.trim().parse().unwrap()));
        wait_until("Postfix listens", || TcpStream::connect(self.entrance).is_ok());
    }

    /// A client of its own that has greeted it.
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.entrance);
        client.expect(220);
        client.say("EHLO client.example", 250);
        client
    }

    /// Its log so far, with all that its clients said (`>`) and heard (`<`).
    pub fn log(&self) -> String {
        let octets = fs::read(self.home.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&octets).into_owned()
    }

    /// What it says of the delivery to `recipient`, once it does: a line of its log.
    pub fn fate(&self, recipient: &str) -> String {
        let to = format!(": to=<{recipient}>, ");
        let mut found = String::new();
        let told = || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(&to));
            found = line.unwrap_or_default().to_owned();
            line.is_some()
        };
        if !within(PATIENCE, told) {
            panic!("nothing of {recipient} in\n{}", self.log());
        }
        found
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let Some(master) = self.master else { return };
        // Those that it started end with it. It is init's child, who may take time to bury it.
        let _ = kill(master, Signal::SIGTERM);
        let program = format!("/proc/{master}/exe");
        if !within(PATIENCE, || fs::read_link(&program).is_err()) {
            let _ = kill(master, Signal::SIGKILL);
        }
    }
}

/// A command in a mount namespace in which [`USERS`] are users of the system too.
fn with_users(home: &Path) -> Command {
    let mut files = Vec::new();
    for (name, rest) in [("passwd", ":64000::/nonexistent:/usr/sbin/nologin"), ("group", ":")] {
        let mut text = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
        for (user, id) in USERS.iter().zip(64000..) {
            text += &format!("{user}:x:{id}{rest}\n");
        }
        let file = home.join(name);
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        files.push(file);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    command.arg("mount --bind \"$1\" /etc/passwd; mount --bind \"$2\" /etc/group; shift 2; \"$@\"");
    command.arg("sh").args(files).stdin(Stdio::null());
    command
}

/// A folder with this mode and owner.
fn make(path: &Path, mode: u32, user: Option<Uid>, group: Option<Gid>) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    chown(path, user.map(Uid::as_raw), group.map(Gid::as_raw)).unwrap();
}

/// Waits for something that others do.
pub fn wait_until(what: &str, true_at_last: impl FnMut() -> bool) {
    assert!(within(PATIENCE, true_at_last), "not yet: {what}");
}

fn within(time: Duration, mut true_at_last: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !true_at_last() {
        if begun.elapsed() > time {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}
