//! What the host says of itself: its names, and whether some files are there.
//!
//! Asked once, at the start. What cannot be read is as if it were not there: nothing of it is
//! needed where everything is configured.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::config::options::Origin;

/// What the host says of itself; read once.
#[derive(Clone, Debug, Default)]
pub struct HostInfo {
    /// gethostname(2).
    pub name: String,
    /// The text of `/etc/hosts`.
    pub hosts: String,
    /// The first word of `/etc/mailname`.
    pub mailname: Option<String>,
    /// Whether `/etc/aliases` is there.
    pub aliases: bool,
    /// Whether this is root.
    pub root: bool,
    /// Whether systemd passed sockets (`LISTEN_FDS`).
    pub sockets: bool,
}

impl HostInfo {
    /// Asks the host that this runs on.
    pub fn detect() -> HostInfo {
        let name = nix::unistd::gethostname().unwrap_or_default();
        let mailname = read_text(Path::new(MAILNAME)).unwrap_or_default();
        HostInfo {
            name: name.to_string_lossy().into_owned(),
            hosts: read_text(Path::new(HOSTS)).unwrap_or_default(),
            mailname: mailname.split_whitespace().next().map(str::to_owned),
            aliases: Path::new(ALIASES).exists(),
            root: nix::unistd::geteuid().is_root(),
            sockets: std::env::var_os("LISTEN_FDS").is_some(),
        }
    }

    /// The host's full name: its own if that has a dot, else the name that continues it on the same
    /// line of `/etc/hosts`, else its own.
    pub fn full_name(&self) -> (&str, Origin) {
        let short = self.name.as_str();
        let own = (short, Origin::Host("gethostname"));
        if short.contains('.') {
            return own;
        }
        for line in self.hosts.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let names = || line.split_whitespace().skip(1);
            let continues = |n: &&str| n.strip_prefix(short).is_some_and(|r| r.starts_with('.'));
            if let (true, Some(full)) = (names().any(|n| n == short), names().find(continues)) {
                return (full, Origin::Host(HOSTS));
            }
        }
        own
    }
}

/// A configuration or host file as text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(FILE_MAX + 1);
    file.read_to_string(&mut text)?;
    match text.len() as u64 > FILE_MAX {
        true => Err(io::Error::other("larger than 1 MiB, so no configuration")),
        false => Ok(text),
    }
}

/// The aliases file that is read unasked.
pub const ALIASES: &str = "/etc/aliases";
/// Where Debian keeps the name that mail from this host carries.
pub const MAILNAME: &str = "/etc/mailname";
const HOSTS: &str = "/etc/hosts";
/// More than any configuration has, in octets.
const FILE_MAX: u64 = 1 << 20;
