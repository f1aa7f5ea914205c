//! Information about the host: its names, and whether some files exist.
//!
//! Read once, at the start. A file that cannot be read counts as missing, because nothing here is
//! needed if everything is configured.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::config::options::Origin;
use crate::net::kept;

/// The properties of the host that defaults depend on.
#[derive(Clone, Debug, Default)]
pub struct HostInfo {
    /// The host name of gethostname(2).
    pub name: String,
    /// The text of `/etc/hosts`.
    pub hosts: String,
    /// The first word of `/etc/mailname`.
    pub mailname: Option<String>,
    /// True if `/etc/aliases` exists.
    pub aliases: bool,
    /// True if the process is root.
    pub root: bool,
    /// True if systemd passed sockets of a socket unit (`LISTEN_FDS`).
    pub sockets: bool,
}

impl HostInfo {
    /// Reads the properties of the host that the process runs on.
    pub fn detect() -> HostInfo {
        let name = nix::unistd::gethostname().unwrap_or_default();
        let mailname = read_text(Path::new(MAILNAME)).unwrap_or_default();
        HostInfo {
            name: name.to_string_lossy().into_owned(),
            hosts: read_text(Path::new(HOSTS)).unwrap_or_default(),
            mailname: mailname.split_whitespace().next().map(str::to_owned),
            aliases: Path::new(ALIASES).exists(),
            root: nix::unistd::geteuid().is_root(),
            sockets: std::env::var_os("LISTEN_FDS").is_some()
                && !kept::are_all_kept(&std::env::var("LISTEN_FDNAMES").unwrap_or_default()),
        }
    }

    /// Returns the fully qualified name, and its origin: the host name if it has a dot, else the
    /// name that extends it on its line of `/etc/hosts`, else the host name.
    pub fn full_name(&self) -> (&str, Origin) {
        // A complete name may have a closing dot (RFC 1034 3.1).
        let short = self.name.strip_suffix('.').unwrap_or(&self.name);
        let own = (short, Origin::Host("gethostname"));
        if short.contains('.') {
            return own;
        }
        for line in self.hosts.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let names = || line.split_whitespace().skip(1);
            let extends = |n: &&str| n.strip_prefix(short).is_some_and(|r| r.starts_with('.'));
            if let (true, Some(full)) = (names().any(|n| n == short), names().find(extends)) {
                return (full, Origin::Host(HOSTS));
            }
        }
        own
    }
}

/// Reads a file of at most 1 MiB as text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(FILE_MAX + 1);
    file.read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::other("configuration file exceeds 1 MiB"));
    }
    Ok(text)
}

/// The default alias file.
pub const ALIASES: &str = "/etc/aliases";
/// The file in which Debian keeps the domain of mail from this host.
pub const MAILNAME: &str = "/etc/mailname";
const HOSTS: &str = "/etc/hosts";
/// More bytes than any configuration has.
const FILE_MAX: u64 = 1 << 20;
