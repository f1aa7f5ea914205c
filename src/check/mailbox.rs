//! Checks of the mail directory: mailboxes that cannot be delivered to, mailboxes that a mail
//! reader misreads, and stale locks.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use nix::libc;
use nix::unistd::{User, geteuid};

use super::{advice, evidence, privilege, problem, user_name};
use crate::config::{Config, NameSet};
use crate::deliver::disk::HostDisk;
use crate::deliver::locks::{IDENTITY_MAX, Identity, STALE_SECS};
use crate::process::privilege::Account;
use crate::resolver::Problem;

/// Checks every mailbox and every lock in the mail directory, if it evidently is one.
pub fn check(config: &Config) -> Vec<Problem> {
    let shown = config.mail_dir.display();
    if config.mail_dir.is_dir() && !evidence::is_mail_directory(config, &config.mail_dir) {
        return vec![advice(
            format!("mail-dir {shown}: most of what is there is no mailbox"),
            "correct mail-dir, unless that is intended",
        )];
    }
    let account = privilege::run_account(config);
    let Ok(entries) = fs::read_dir(&config.mail_dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let Ok(meta) = entry.metadata() else { continue };
        if name.starts_with('.') {
            continue;
        } else if name.ends_with(".lock") {
            found.extend(check_dotlock(&path, &meta));
        } else {
            found.extend(check_mailbox(
                &path,
                &meta,
                expected_owner(config, &name, account.as_ref()),
            ));
            found.extend(config.mailbox_limit.and_then(|max| check_size(&path, &meta, max)));
        }
    }
    found.sort_unstable_by(|a, b| a.what.cmp(&b.what));
    found
}

/// Returns the uid that should own the mailbox `name`, or None if it belongs to no user.
fn expected_owner(config: &Config, name: &str, account: Option<&Account>) -> Option<u32> {
    match &config.users {
        NameSet::System => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
        NameSet::Listed(users) if !users.iter().any(|u| u == name) => None,
        NameSet::Listed(_) | NameSet::Any => Some(account.map_or(geteuid(), |a| a.uid).as_raw()),
    }
}

/// Checks that a mailbox can be delivered to by `owner`, and read.
fn check_mailbox(path: &Path, meta: &Metadata, owner: Option<u32>) -> Vec<Problem> {
    let shown = path.display();
    let kind = meta.file_type();
    let odd = [
        (kind.is_symlink(), "a symbolic link"),
        (kind.is_fifo(), "a FIFO"),
        (kind.is_socket(), "a socket"),
        (kind.is_dir(), "a directory"),
        (kind.is_block_device() || kind.is_char_device(), "a device"),
        (kind.is_file() && meta.nlink() > 1, "a file with a second hard link"),
    ];
    if let Some((_, odd)) = odd.iter().find(|(is, _)| *is) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // The name of a mailbox never begins with a dot.
        let aside = format!(".{name}.odd");
        return vec![problem(
            format!("mailbox {shown} is {odd}; mail for it is deferred"),
            &format!(
                "mv {shown} {}  # the next message creates a new mailbox",
                path.with_file_name(aside).display()
            ),
        )];
    }
    let mut found = Vec::new();
    if let Some(owner) = owner
        && owner != meta.uid()
    {
        found.push(problem(
            format!(
                "mailbox {shown} belongs to {}, not {}",
                user_name(meta.uid().into()),
                user_name(owner.into())
            ),
            &format!("chown {} {shown}  # check its contents first", user_name(owner.into())),
        ));
    }
    if owner == Some(meta.uid()) && meta.mode() & 0o600 != 0o600 {
        found.push(problem(
            format!(
                "mailbox {shown} (mode {:o}) is not readable and writable by its owner",
                meta.mode() & 0o777
            ),
            &format!("chmod u+rw {shown}"),
        ));
    }
    if meta.mode() & 0o007 != 0 {
        found.push(advice(
            format!("mailbox {shown} (mode {:o}) is accessible to all users", meta.mode() & 0o777),
            &format!("chmod o= {shown}"),
        ));
    }
    if let Ok(false) = ends_with_newline(path, meta.len()) {
        found.push(advice(
            format!(
                "mailbox {shown} does not end with a newline: its last message is incomplete, and \
                 the next delivery starts on a new line"
            ),
            "",
        ));
    }
    found
}

/// Checks that a mailbox is smaller than `max` bytes.
fn check_size(path: &Path, meta: &Metadata, max: u64) -> Option<Problem> {
    let shown = path.display();
    (meta.is_file() && meta.len() >= max).then(|| {
        problem(
            format!("mailbox {shown} ({} bytes) has reached mailbox-limit", meta.len()),
            "remove mail from it, or raise mailbox-limit",
        )
    })
}

/// True if the file at `path`, of `len` bytes, is empty or ends with a newline.
fn ends_with_newline(path: &Path, len: u64) -> io::Result<bool> {
    let Some(last) = len.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    open(path)?.read_exact_at(&mut byte, last)?;
    Ok(byte == [b'\n'])
}

/// Checks for a dotlock that has a dead owner or is older than any delivery.
fn check_dotlock(path: &Path, meta: &Metadata) -> Option<Problem> {
    let mut line = Vec::new();
    let longest = IDENTITY_MAX as u64 + 1;
    // Ignored: a lock that cannot be read may still be stale by its age.
    let _ = open(path).map(|file| file.take(longest).read_to_end(&mut line));
    let holder = Identity::parse(&line);
    let digits = String::from_utf8_lossy(&line);
    let digits = digits.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    let pid = if digits.is_empty() { "pid unknown".into() } else { format!("pid {digits:.10}") };
    let age = meta.modified().ok().and_then(|m| SystemTime::now().duration_since(m).ok());
    let age = age.unwrap_or_default().as_secs();
    let dead = holder.is_some_and(|holder| holder.is_dead(&HostDisk::default()));
    (dead || age > STALE_SECS).then(|| {
        let why = if dead { "its process is dead" } else { "no delivery takes that long" };
        advice(
            format!(
                "lock {} ({pid}, {age} s old) is stale: {why}; the next delivery removes it",
                path.display()
            ),
            "",
        )
    })
}

/// Opens a file for reading. Does not follow a link, and does not wait for the writer of a FIFO.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, host_named};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::time::Duration;

    #[test]
    fn mailboxes_must_be_regular_files_of_their_users() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("mail");
        fs::create_dir(&mail).unwrap();
        let make = |name: &str, text: &str, mode: u32| -> PathBuf {
            let path = mail.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let sandbox = config(&["--sandbox", dir.path().to_str().unwrap()], &host_named("a"));
        make("good", "From a\n\nb\n\n", 0o600);
        make("empty", "", 0o660);
        make(".hidden", "x", 0o666);
        assert_eq!(check(&sandbox), []);

        make("cut", "From a\n\nb", 0o600);
        make("open", "", 0o604);
        symlink("good", mail.join("link")).unwrap();
        fs::hard_link(make("one", "", 0o600), mail.join("two")).unwrap();
        fs::create_dir(mail.join("directory")).unwrap();
        nix::unistd::mkfifo(&mail.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let found = check(&sandbox);
        for (word, stops_mail) in [
            ("cut does not end", false),
            ("open (mode 604)", false),
            ("link is a symbolic link", true),
            ("one is a file with a second hard link", true),
            ("two is a file with a second hard link", true),
            ("directory is a directory", true),
            ("fifo is a FIFO", true),
        ] {
            assert_found(&found, word, stops_mail);
        }
        assert_eq!(found.len(), 7, "{found:#?}");

        let meta = fs::symlink_metadata(mail.join("good")).unwrap();
        assert_found(
            &check_mailbox(&mail.join("good"), &meta, Some(meta.uid() + 1)),
            "belongs to",
            true,
        );
        // The owner does not matter for a mailbox that belongs to no user.
        assert_eq!(check_mailbox(&mail.join("good"), &meta, None), []);
    }

    #[test]
    fn locks_are_stale_by_process_or_age() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("al.lock");
        let ours = Identity::new(&HostDisk::default());
        let ours = String::from_utf8_lossy(ours.as_bytes()).into_owned();
        let pid = std::process::id().to_string();
        // No process has this pid: the kernel's pids end at 2^22.
        let dead = ours.replacen(&pid, "2000000000", 1);
        for (line, age, word) in [
            (ours.as_str(), 10, None),
            (&dead, 10, Some("pid 2000000000, 10 s old) is stale: its process is dead")),
            (&dead[..dead.len() - 2], 10, None),
            ("77\n", STALE_SECS - 10, None),
            ("77\n", STALE_SECS + 10, Some("pid 77, 310 s old) is stale: no delivery")),
            ("", STALE_SECS + 10, Some("pid unknown, 310 s old)")),
        ] {
            fs::write(&path, line).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            OpenOptions::new().write(true).open(&path).unwrap().set_modified(then).unwrap();
            let found = Vec::from_iter(check_dotlock(&path, &fs::symlink_metadata(&path).unwrap()));
            match word {
                // A second may pass between the write and the check.
                Some(word) if found.len() == 1 => {
                    let what = found[0].what.replace("311 s", "310 s").replace("11 s", "10 s");
                    assert!(what.contains(word), "{what}");
                }
                word => assert_eq!((word, found), (None, vec![]), "{line:?}"),
            }
        }
    }
}
