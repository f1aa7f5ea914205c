//! Mail servers of others, each in a folder of its own, that hand mail on to mailslot: Postfix, a
//! whole instance beside whatever the host has, and Exim, unpacked from Debian's packages (those of
//! the two cannot both be installed).
//!
//! Both run in a mount namespace of their own, in which `/etc` is a folder of the test: there are
//! their settings, where they look for them, and the users of the test are users of the system. So
//! they need root. What `contrib/lmtp` tells people to write is what they are given.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Group, Pid, Uid, User};
use tempfile::TempDir;

use crate::harness::external;
use crate::harness::server::{Client, PATIENCE};

/// Users that exist for these servers alone.
pub const USERS: [&str; 7] = ["smith", "jones", "brown", "full", "small", "ghost", "Debian-exim"];

/// The settings in a file of `contrib/lmtp`: its lines without the comments.
pub fn contributed(name: &str) -> String {
    let text = contribution(name);
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// What such a file says of mailslot's own option.
pub fn contributed_option(name: &str) -> String {
    let text = contribution(name);
    let line = text.lines().find_map(|line| line.strip_prefix("# mailslot:   lmtp "));
    line.unwrap().to_owned()
}

fn contribution(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/lmtp").join(name);
    fs::read_to_string(path).unwrap()
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
        make_etc(&home, "postfix");
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
        let etc = self.home.join("etc/postfix");
        write(&etc.join("main.cf"), main.as_bytes());
        write(&etc.join("master.cf"), master.as_bytes());
        let mut start = within_namespace(&self.home);
        let output = start.args(["/usr/lib/postfix/sbin/master", "-w"]).output().unwrap();
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

/// Exim, which runs when it is given a message, until it has tried to hand it on.
pub struct Exim {
    home: PathBuf,
    _folder: Arc<TempDir>,
}

impl Exim {
    /// Fetches and unpacks it.
    pub fn unpack(folder: &Arc<TempDir>) -> Exim {
        let home = folder.path().join("exim");
        make(&home, 0o755, None, None);
        external::unpack(&["exim4-daemon-light"], &home);
        make_etc(&home, "exim4");
        for name in ["spool", "log"] {
            make(&home.join(name), 0o750, Some(Exim::user()), None);
        }
        Exim { home, _folder: folder.clone() }
    }

    /// Its spool: `/var/spool/exim4`, where it is installed.
    pub fn spool(&self) -> PathBuf {
        self.home.join("spool")
    }

    /// Forgets what it has not got rid of, and its log.
    pub fn forget(&self) {
        fs::remove_dir_all(self.spool().join("input")).unwrap();
        fs::remove_dir_all(self.spool().join("db")).unwrap();
        fs::write(self.home.join("log/mainlog"), "").unwrap();
    }

    /// The user that it runs as.
    fn user() -> Uid {
        let number = USERS.iter().position(|user| *user == "Debian-exim").unwrap();
        Uid::from_raw(FIRST_ID + u32::try_from(number).unwrap())
    }

    /// Gives it a message by SMTP on standard input, `said` being all that the client says.
    /// `routers` and `transports` are those of its configuration. What it said itself to the client
    /// and, behind `SMTP>>`, to the next server.
    pub fn hand_on(&self, routers: &str, transports: &str, said: &str) -> String {
        let home = self.home.display();
        let text = format!(
            "exim_path = {home}/usr/sbin/exim4\nprimary_hostname = mail.example\n\
             spool_directory = {home}/spool\n\
             log_file_path = {home}/log/%slog\nkeep_environment =\nnever_users =\n\
             domainlist local_domains = mail.example\nlog_selector = +all\n\
             dsn_advertise_hosts = *\nacl_smtp_rcpt = rcpt\nbegin acl\nrcpt:\n  accept\n\
             begin routers\n{routers}\nbegin transports\n{transports}\n\
             begin retry\n* * F,1h,1h\n"
        );
        write(&self.home.join("etc/exim4/exim4.conf"), text.as_bytes());
        let mut exim = within_namespace(&self.home);
        exim.arg(self.home.join("usr/sbin/exim4")).args(["-v", "-odf", "-bs"]);
        let input = self.home.join("said");
        fs::write(&input, said).unwrap();
        let output = exim.stdin(external::open(&input)).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// What it says of a recipient, in its log; `sign` is `=>` or `->` where it is delivered, `**`
    /// where it is not and `==` where it will be tried again.
    pub fn fate(&self, sign: &str, recipient: &str) -> String {
        let octets = fs::read(self.home.join("log/mainlog")).unwrap_or_default();
        let log = String::from_utf8_lossy(&octets);
        let wanted = format!(" {sign} {recipient}");
        let line = log.lines().find(|line| line.contains(&wanted));
        line.unwrap_or_else(|| panic!("no {wanted:?} in\n{log}")).to_owned()
    }
}

/// Makes an `/etc` in the folder `home`, in which [`USERS`] are users of the system too, and where
/// a server's settings have the folder `settings`.
fn make_etc(home: &Path, settings: &str) {
    let etc = home.join("etc");
    make(&etc, 0o755, None, None);
    make(&etc.join(settings), 0o755, None, None);
    for name in ["hosts", "ld.so.cache", "localtime", "nsswitch.conf", "protocols", "services"] {
        if let Ok(octets) = fs::read(Path::new("/etc").join(name)) {
            write(&etc.join(name), &octets);
        }
    }
    for name in ["passwd", "group"] {
        let mut text = fs::read_to_string(Path::new("/etc").join(name)).unwrap();
        for (user, id) in USERS.iter().zip(FIRST_ID..) {
            text += &match name {
                "passwd" => format!("{user}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n"),
                _ => format!("{user}:x:{id}:\n"),
            };
        }
        write(&etc.join(name), text.as_bytes());
    }
}

/// A command that runs the one given to it where the `/etc` in `home` is that of the system.
fn within_namespace(home: &Path) -> Command {
    let mut command = external::peer("unshare", home);
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    command.args(["mount --bind \"$1\" /etc; shift; exec \"$@\"", "sh"]).arg(home.join("etc"));
    command
}

/// Writes a file that all may read.
fn write(path: &Path, octets: &[u8]) {
    fs::write(path, octets).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}

/// A folder with this mode and owner.
fn make(path: &Path, mode: u32, user: Option<Uid>, group: Option<Gid>) {
    fs::create_dir_all(path).unwrap();
    chown(path, user.map(Uid::as_raw), group.map(Gid::as_raw)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Waits for something that others do.
pub fn wait_until(what: &str, true_at_last: impl FnMut() -> bool) {
    assert!(within(PATIENCE, true_at_last), "not yet: {what}");
}

/// The user and group of the first of [`USERS`].
const FIRST_ID: u32 = 64000;

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
