//! Evidence that a directory is mailslot's, or a mail directory. Without it no fix changes the
//! directory or anything in it, because a wrong path in the configuration would then wreck the
//! host.

use std::fs::{self, DirEntry, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::unistd::User;

use crate::config::{Config, NameSet};

/// True if `path` is evidently a directory of mailboxes: a usual one, or one in which most files
/// are mailboxes, or an empty one.
pub fn is_mail_directory(config: &Config, path: &Path) -> bool {
    let real = real_path(path);
    if config.sandbox.is_some() || USUAL.iter().any(|usual| real == Path::new(usual)) {
        return true;
    }
    if is_of_the_host(&real) {
        return false;
    }
    let Ok(entries) = fs::read_dir(path) else { return false };
    let visible = |entry: &DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
    let (mailboxes, others): (Vec<DirEntry>, Vec<DirEntry>) =
        entries.flatten().filter(visible).partition(|entry| is_mailbox(config, entry));
    mailboxes.len() > others.len() || others.is_empty()
}

/// True if `path` is evidently mailslot's spool: a directory with its name, one with a journal, or
/// an empty one.
pub fn is_spool(config: &Config, path: &Path) -> bool {
    let real = real_path(path);
    if config.sandbox.is_some() || real.ends_with("mailslot") {
        return true;
    }
    if is_of_the_host(&real) {
        return false;
    }
    let Ok(entries) = fs::read_dir(path) else { return false };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let journal = |name: &std::ffi::OsString| name.as_encoded_bytes().starts_with(b"journal-");
    names.is_empty() || names.iter().any(journal)
}

/// True if the entry is a dotlock, an mbox file, or something in the place of a user's mailbox.
fn is_mailbox(config: &Config, entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy().into_owned();
    let is_user = || match &config.users {
        NameSet::System => matches!(User::from_name(&name), Ok(Some(_))),
        NameSet::Listed(users) => users.contains(&name),
        NameSet::Any => true,
    };
    if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
        return is_user();
    }
    let mut begin = [0; 5];
    match File::open(entry.path()).and_then(|mut file| file.read(&mut begin)) {
        Ok(n) => name.ends_with(".lock") || b"From ".starts_with(&begin[..n]),
        // That of another user.
        Err(_) => is_user(),
    }
}

/// True for a directory that the host or a user needs for other purposes.
fn is_of_the_host(real: &Path) -> bool {
    let home = || {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        passwd.lines().filter_map(|line| line.split(':').nth(5)).any(|home| real == Path::new(home))
    };
    OF_THE_HOST.iter().any(|directory| real == Path::new(directory))
        || real.parent().is_some_and(|above| above == Path::new("/home"))
        || home()
}

/// Returns `path` without links, as far as it exists.
fn real_path(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// The usual directories of mailboxes.
const USUAL: &[&str] = &["/var/mail", "/var/spool/mail"];
/// Directories of the file system hierarchy (hier(7)).
const OF_THE_HOST: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{config, host_named};

    #[test]
    fn directories_of_the_host_are_not_mailslots() {
        let config = config(&["-u", "al", "-u", "bo"], &host_named("a"));
        for path in ["/etc", "/var/spool", "/home/ann", "/tmp", "/"] {
            assert!(!is_mail_directory(&config, Path::new(path)), "{path}");
            assert!(!is_spool(&config, Path::new(path)), "{path}");
        }
        assert!(is_mail_directory(&config, Path::new("/var/mail")));
        assert!(is_spool(&config, Path::new("/var/spool/mailslot")));
    }

    #[test]
    fn contents_are_evidence() {
        let config = config(&["-u", "al", "-u", "bo"], &host_named("a"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        assert!(is_mail_directory(&config, path) && is_spool(&config, path));
        write("al", "From a\n\nb\n\n");
        write("al.lock", "77");
        write("notes", "x");
        fs::create_dir(path.join("bo")).unwrap();
        assert!(is_mail_directory(&config, path) && !is_spool(&config, path));
        // As a home directory, or crontabs.
        fs::create_dir(path.join("Documents")).unwrap();
        write("bo.txt", "* * * * * x");
        assert!(!is_mail_directory(&config, path));
        write("journal-0", "");
        assert!(is_spool(&config, path));
    }
}
