//! Mail servers of other projects, each in a directory of its own, that relay mail to mailslot or
//! get mail from it: Postfix, a whole instance beside the one that the host may have, Exim,
//! unpacked from Debian's package (Postfix and Exim cannot both be installed), and Dovecot.
//!
//! Postfix and Exim run in a mount namespace of their own, in which `/etc` is a directory of the
//! test. It has their settings, and the users of the test are users of the system there. So they
//! need root. They get the settings that `contrib/lmtp` recommends.

use std::fs::{self, Permissions};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Group, Pid, Uid, User};

use super::client::Client;
use super::directory::TestDirectory;
use super::external::{external, open, unpack};
use super::namespace::Namespace;
use super::process::Daemon;
use super::{TIMEOUT, is_true_within, wait_until};

/// Users that exist for these servers only.
pub const USERS: [&str; 7] = ["smith", "jones", "brown", "full", "small", "ghost", "Debian-exim"];

/// Returns the settings in a file of `contrib/lmtp`: its lines without the comments.
pub fn contributed(name: &str) -> String {
    let text = contribution(name);
    text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// Returns the value of mailslot's own option that such a file recommends.
pub fn contributed_option(name: &str) -> String {
    let text = contribution(name);
    let line = text.lines().find_map(|line| line.strip_prefix("# mailslot:   lmtp "));
    line.unwrap().to_owned()
}

fn contribution(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/lmtp").join(name);
    fs::read_to_string(path).unwrap()
}

/// Creates a directory that the servers' own users may read.
pub fn open_directory() -> TestDirectory {
    let directory = TestDirectory::new();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

/// Postfix. It takes mail by SMTP and relays it.
pub struct Postfix {
    home: PathBuf,
    _directory: TestDirectory,
    /// Address where its smtpd(8) listens.
    pub address: SocketAddr,
    /// Name of the network namespace that it runs in; None for that of the test.
    pub network: Option<String>,
    master: Option<Pid>,
}

impl Postfix {
    /// Creates its directories. mailslot may put a socket into one of them.
    pub fn prepare(directory: &TestDirectory) -> Postfix {
        let home = directory.join("postfix");
        let postfix = User::from_name("postfix").unwrap().expect("postfix is installed");
        let postdrop = Group::from_name("postdrop").unwrap().expect("postfix is installed").gid;
        make(&home, 0o755, None, None);
        make_etc(&home, "postfix");
        make(&home.join("data"), 0o700, Some(postfix.uid), None);
        // As `postfix start` creates an empty queue.
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
        // Postfix does not report which port it took.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Postfix { home, _directory: directory.clone(), address, network: None, master: None }
    }

    /// Returns the directory that is `/var/spool/postfix` where Postfix is installed.
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
             inet_interfaces = {ip}\ninet_protocols = ipv4\nalias_maps =\n\
             smtpd_peername_lookup = no\ndisable_dns_lookups = yes\n\
             smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination\n{settings}",
            ip = self.address.ip()
        );
        // As Debian has them, chroot and all, except smtpd. The clients log the whole dialogue.
        let services = fs::read_to_string("/usr/share/postfix/master.cf.dist").unwrap();
        let mut master = format!("{} inet n - y - - smtpd\n", self.address);
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
        let mut start = within_namespace(&self.home, self.network.as_deref());
        let output = start.args(["/usr/lib/postfix/sbin/master", "-w"]).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "master: {} {errors}\n{}", output.status, self.log());
        let pid = fs::read_to_string(spool.join("pid/master.pid")).unwrap();
        self.master = Some(Pid::from_raw(pid.trim().parse().unwrap()));
        // It listens by now. Nothing outside its network can connect.
        if self.network.is_none() {
            wait_until("Postfix listens", || TcpStream::connect(self.address).is_ok());
        }
    }

    /// Returns a client that has said EHLO.
    pub fn after_ehlo(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.expect(220);
        client.command("EHLO client.example", 250);
        client
    }

    /// Returns its log so far, with all that its clients sent (`>`) and received (`<`).
    pub fn log(&self) -> String {
        let bytes = fs::read(self.home.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits for the line of its log about the delivery to `recipient`, and returns it.
    pub fn delivery_status(&self, recipient: &str) -> String {
        let to = format!(": to=<{recipient}>, ");
        let mut found = String::new();
        let is_logged = || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(&to));
            found = line.unwrap_or_default().to_owned();
            line.is_some()
        };
        if !is_true_within(TIMEOUT, is_logged) {
            panic!("nothing about {recipient} in\n{}", self.log());
        }
        found
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        let Some(master) = self.master else { return };
        // Its own children end with it. It is a child of init, which may take time to wait for it.
        let _ = kill(master, Signal::SIGTERM);
        let program = format!("/proc/{master}/exe");
        if !is_true_within(TIMEOUT, || fs::read_link(&program).is_err()) {
            let _ = kill(master, Signal::SIGKILL);
        }
    }
}

/// Exim. It runs when it is given a message, until it has tried to relay it.
pub struct Exim {
    home: PathBuf,
    _directory: TestDirectory,
}

impl Exim {
    /// Fetches and unpacks it.
    pub fn fetch(directory: &TestDirectory) -> Exim {
        let home = directory.join("exim");
        make(&home, 0o755, None, None);
        unpack(&["exim4-daemon-light"], &home);
        make_etc(&home, "exim4");
        for name in ["spool", "log"] {
            make(&home.join(name), 0o750, Some(Exim::user()), None);
        }
        Exim { home, _directory: directory.clone() }
    }

    /// Returns the directory that is `/var/spool/exim4` where Exim is installed.
    pub fn spool(&self) -> PathBuf {
        self.home.join("spool")
    }

    /// Removes its queue and its log.
    pub fn clear(&self) {
        fs::remove_dir_all(self.spool().join("input")).unwrap();
        fs::remove_dir_all(self.spool().join("db")).unwrap();
        fs::write(self.home.join("log/mainlog"), "").unwrap();
    }

    /// Returns the user that it runs as.
    fn user() -> Uid {
        let number = USERS.iter().position(|user| *user == "Debian-exim").unwrap();
        Uid::from_raw(FIRST_ID + u32::try_from(number).unwrap())
    }

    /// Gives it a message by SMTP on standard input, where `dialogue` is all that the client sends.
    /// `routers` and `transports` are those of its configuration. Returns what it sent to the
    /// client and, after `SMTP>>`, to the next server.
    pub fn relay(&self, routers: &str, transports: &str, dialogue: &str) -> String {
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
        let mut exim = within_namespace(&self.home, None);
        exim.arg(self.home.join("usr/sbin/exim4")).args(["-v", "-odf", "-bs"]);
        let input = self.home.join("dialogue");
        fs::write(&input, dialogue).unwrap();
        let output = exim.stdin(open(&input)).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Starts it as a server that requires a login inside TLS and throws the messages away: alice,
    /// with the password `wonder land`, by AUTH LOGIN and, if `plain`, AUTH PLAIN.
    #[cfg(feature = "tls")]
    pub fn serve_authenticated(
        &self,
        certificate: &super::tls::TestCertificate,
        plain: bool,
    ) -> (SocketAddr, Daemon) {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let port = address.port();
        let (cert, key) = (certificate.cert.display(), certificate.key.display());
        let is = |user: u8, password: u8| {
            format!(
                "${{if and{{{{eq{{$auth{user}}}{{alice}}}}\
                 {{eq{{$auth{password}}}{{wonder land}}}}}}}}"
            )
        };
        let plain_section = format!(
            "plain:\n  driver = plaintext\n  public_name = PLAIN\n  server_prompts = :\n  \
             server_condition = {}\n  server_set_id = $auth2\n",
            is(2, 3)
        );
        let login_section = format!(
            "login:\n  driver = plaintext\n  public_name = LOGIN\n  \
             server_prompts = Username:: : Password::\n  server_condition = {}\n  \
             server_set_id = $auth1\n",
            is(1, 2)
        );
        let text = format!(
            "daemon_smtp_ports = {port}\nlocal_interfaces = 127.0.0.1\n\
             tls_advertise_hosts = *\ntls_certificate = {cert}\n\
             tls_privatekey = {key}\nauth_advertise_hosts = ${{if def:tls_in_cipher{{*}}}}\n\
             host_lookup =\nacl_smtp_rcpt = rcpt\nbegin acl\nrcpt:\n  \
             accept authenticated = *\n  deny\nbegin routers\ndiscard:\n  \
             driver = redirect\n  data = :blackhole:\nbegin authenticators\n{}{login_section}",
            if plain { &plain_section } else { "" }
        );
        let daemon = self.serve(None, &text);
        wait_until("Exim listens", || TcpStream::connect(address).is_ok());
        (address, daemon)
    }

    /// Starts it as a server with these settings, in this network namespace or in that of the test.
    pub fn serve(&self, network: Option<&str>, settings: &str) -> Daemon {
        let home = self.home.display();
        let text = format!(
            "exim_path = {home}/usr/sbin/exim4\nprimary_hostname = mail.example\n\
             spool_directory = {home}/spool\nlog_file_path = {home}/log/%slog\n\
             keep_environment =\nnever_users =\n{settings}"
        );
        write(&self.home.join("etc/exim4/exim4.conf"), text.as_bytes());
        let mut exim = within_namespace(&self.home, network);
        Daemon::spawn(exim.arg(self.home.join("usr/sbin/exim4")).args(["-bdf"]))
    }

    /// Returns its log so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.home.join("log/mainlog")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the line of its log about a recipient. `sign` is `=>` or `->` for a delivery, `**`
    /// for a failure and `==` for a delivery that will be retried.
    pub fn delivery_status(&self, sign: &str, recipient: &str) -> String {
        let log = self.log();
        let wanted = format!(" {sign} {recipient}");
        let line = log.lines().find(|line| line.contains(&wanted));
        line.unwrap_or_else(|| panic!("no {wanted:?} in\n{log}")).to_owned()
    }
}

/// Starts Dovecot in a directory `dovecot` of `home` with these settings, by which it listens on
/// `socket`.
pub fn start_dovecot(home: &Path, settings: &str, socket: &Path) -> Daemon {
    let directory = home.join("dovecot");
    fs::create_dir(&directory).unwrap();
    let shown = directory.display();
    let settings = format!(
        "base_dir = {shown}/run\nstate_dir = {shown}/state\nlog_path = {shown}/log\nssl = no\n\
         {settings}"
    );
    let file = directory.join("dovecot.conf");
    fs::write(&file, settings).unwrap();
    let mut command = Command::new("/usr/sbin/dovecot");
    command.args(["-F", "-c"]).arg(&file).stdin(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon::spawn(&mut command);
    wait_until("Dovecot listens", || UnixStream::connect(socket).is_ok());
    daemon
}

/// Creates an `etc` in the directory `home`, in which [`USERS`] are users of the system too, with a
/// directory `settings` for the settings of a server.
fn make_etc(home: &Path, settings: &str) {
    let etc = home.join("etc");
    make(&etc, 0o755, None, None);
    make(&etc.join(settings), 0o755, None, None);
    for name in ["hosts", "ld.so.cache", "localtime", "nsswitch.conf", "protocols", "services"] {
        if let Ok(bytes) = fs::read(Path::new("/etc").join(name)) {
            write(&etc.join(name), &bytes);
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

/// Returns a command that runs the one added to it in a namespace in which `etc` of `home` is
/// `/etc`, and in the network namespace `network` if there is one.
fn within_namespace(home: &Path, network: Option<&str>) -> Command {
    let mut words = Namespace::new().bind(&home.join("etc"), "/etc").words();
    if let Some(name) = network {
        words.splice(..0, ["nsenter".to_owned(), format!("--net=/run/netns/{name}")]);
    }
    let mut command = external(&words[0], home);
    command.args(&words[1..]);
    command
}

/// Creates a directory for mailboxes below `directory`, as `/var/mail` is on many systems.
pub fn make_mail_directory(directory: &TestDirectory, name: &str) -> PathBuf {
    let path = directory.join(name);
    make(&path, 0o1777, None, None);
    path
}

/// Writes a file that all users may read.
fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
}

/// Creates a directory with this mode and owner.
fn make(path: &Path, mode: u32, user: Option<Uid>, group: Option<Gid>) {
    fs::create_dir_all(path).unwrap();
    chown(path, user.map(Uid::as_raw), group.map(Gid::as_raw)).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Id of the first of [`USERS`], and of its group.
const FIRST_ID: u32 = 64000;
