//! What is wrong in the mail folder: mailboxes that mail cannot be delivered to, or that a reader
//! will stumble over, and locks that nobody holds any more.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use nix::libc;
use nix::unistd::{User, geteuid};

use super::{advice, privilege, stops};
use crate::config::{Config, NameSet};
use crate::deliver::disk::HostDisk;
use crate::deliver::locks::{IDENTITY_MAX, Identity, STALE_SECS};
use crate::process::privilege::Account;
use crate::route::AliasProblem;

/// Every mailbox and every lock in the mail folder.
pub fn problems(config: &Config) -> Vec<AliasProblem> {
    let account = privilege::account(config);
    let Ok(entries) = fs::read_dir(&config.mail_dir) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let Ok(meta) = entry.metadata() else { continue };
        if name.starts_with('.') {
            continue;
        } else if name.ends_with(".lock") {
            found.extend(dotlock(&path, &meta));
        } else {
            found.extend(mailbox(&path, &meta, owner(config, &name, account.as_ref())));
            found.extend(config.mailbox_limit.and_then(|max| full(&path, &meta, max)));
        }
    }
    found.sort_by(|a, b| a.what.cmp(&b.what));
    found
}

/// Whose the mailbox `name` should be; None where that is nobody's business.
fn owner(config: &Config, name: &str, account: Option<&Account>) -> Option<u32> {
    match &config.users {
        NameSet::System => User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()),
        NameSet::These(users) if !users.iter().any(|u| u == name) => None,
        NameSet::These(_) | NameSet::Any => Some(account.map_or(geteuid(), |a| a.uid).as_raw()),
    }
}

/// What keeps mail out of one mailbox, or breaks its reader.
fn mailbox(path: &Path, meta: &Metadata, owner: Option<u32>) -> Vec<AliasProblem> {
    let shown = path.display();
    let kind = meta.file_type();
    let odd = [
        (kind.is_symlink(), "a symbolic link"),
        (kind.is_fifo(), "a FIFO"),
        (kind.is_socket(), "a socket"),
        (kind.is_dir(), "a folder"),
        (kind.is_block_device() || kind.is_char_device(), "a device"),
        (kind.is_file() && meta.nlink() > 1, "a file with a second name (hard link)"),
    ];
    if let Some((_, odd)) = odd.iter().find(|(is, _)| *is) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // No mailbox begins with a dot.
        let aside = format!(".{name}.odd");
        return vec![stops(
            format!("mailbox {shown} is {odd}; mail for it is put off"),
            &format!(
                "mv {shown} {}  # the next message makes a new mailbox",
                path.with_file_name(aside).display()
            ),
        )];
    }
    let mut found = Vec::new();
    if let Some(owner) = owner.filter(|&owner| owner != meta.uid()) {
        found.push(stops(
            format!("mailbox {shown} belongs to uid {}, not {owner}", meta.uid()),
            &format!("chown {owner} {shown}  # but look first at what is in it"),
        ));
    }
    if owner == Some(meta.uid()) && meta.mode() & 0o600 != 0o600 {
        found.push(stops(
            format!("mailbox {shown} (mode {:o}) is closed to its owner", meta.mode() & 0o777),
            &format!("chmod u+rw {shown}"),
        ));
    }
    if meta.mode() & 0o007 != 0 {
        found.push(advice(
            format!("mailbox {shown} (mode {:o}) is open to everybody", meta.mode() & 0o777),
            &format!("chmod o= {shown}"),
        ));
    }
    if let Ok(false) = ends_with_newline(path, meta.len()) {
        found.push(advice(
            format!("mailbox {shown} does not end with a line end: its last message was cut short"),
            "none needed: the next delivery begins on a line of its own",
        ));
    }
    found
}

/// A mailbox that has all it may have.
fn full(path: &Path, meta: &Metadata, max: u64) -> Option<AliasProblem> {
    let shown = path.display();
    (meta.is_file() && meta.len() >= max).then(|| {
        stops(
            format!("mailbox {shown} ({} octets) has reached mailbox-limit", meta.len()),
            "have its owner take mail out, or raise mailbox-limit",
        )
    })
}

fn ends_with_newline(path: &Path, len: u64) -> io::Result<bool> {
    let Some(last) = len.checked_sub(1) else { return Ok(true) };
    let mut octet = [0];
    open(path)?.read_exact_at(&mut octet, last)?;
    Ok(octet == [b'\n'])
}

/// A dotlock whose owner is gone, or that is older than any delivery.
fn dotlock(path: &Path, meta: &Metadata) -> Option<AliasProblem> {
    let mut line = Vec::new();
    let longest = IDENTITY_MAX as u64 + 1;
    // One that cannot be read is judged by its age alone.
    let _ = open(path).map(|file| file.take(longest).read_to_end(&mut line));
    let holder = Identity::parse(&line);
    let digits = String::from_utf8_lossy(&line);
    let digits = digits.trim_start().split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    let pid = if digits.is_empty() { "pid unknown".into() } else { format!("pid {digits:.10}") };
    let age = meta.modified().ok().and_then(|m| SystemTime::now().duration_since(m).ok());
    let age = age.unwrap_or_default().as_secs();
    let dead = holder.is_some_and(|holder| holder.is_dead(&HostDisk::default()));
    (dead || age > STALE_SECS).then(|| {
        let why = if dead { "its process is gone" } else { "nobody holds one that long" };
        advice(
            format!("lock {} ({pid}, {age} s old) is stale: {why}", path.display()),
            "none needed: the next delivery breaks it; or remove it",
        )
    })
}

/// Opens for reading, never through a link and never waiting for a FIFO's writer.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::{assert_found, config, facts};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::time::Duration;

    #[test]
    fn mailboxes_are_regular_files_of_their_users() {
        let dir = tempfile::tempdir().unwrap();
        let mail = dir.path().join("mail");
        fs::create_dir(&mail).unwrap();
        let make = |name: &str, text: &str, mode: u32| -> PathBuf {
            let path = mail.join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let sandbox = config(&["--sandbox", dir.path().to_str().unwrap()], &facts("a"));
        make("good", "From a\n\nb\n\n", 0o600);
        make("empty", "", 0o660);
        make(".hidden", "x", 0o666);
        assert_eq!(problems(&sandbox), []);

        make("cut", "From a\n\nb", 0o600);
        make("open", "", 0o604);
        symlink("good", mail.join("link")).unwrap();
        fs::hard_link(make("one", "", 0o600), mail.join("two")).unwrap();
        fs::create_dir(mail.join("folder")).unwrap();
        nix::unistd::mkfifo(&mail.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let found = problems(&sandbox);
        for (word, stops_mail) in [
            ("cut does not end", false),
            ("open (mode 604)", false),
            ("link is a symbolic link", true),
            ("one is a file with a second name", true),
            ("two is a file with a second name", true),
            ("folder is a folder", true),
            ("fifo is a FIFO", true),
        ] {
            assert_found(&found, word, stops_mail);
        }
        assert_eq!(found.len(), 7, "{found:#?}");

        let meta = fs::symlink_metadata(mail.join("good")).unwrap();
        assert_found(&mailbox(&mail.join("good"), &meta, Some(meta.uid() + 1)), "belongs to", true);
        // Whose a box is does not matter where it is nobody's.
        assert_eq!(mailbox(&mail.join("good"), &meta, None), []);
    }

    #[test]
    fn a_lock_is_stale_by_its_process_or_its_age() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("al.lock");
        let ours = Identity::new(&HostDisk::default());
        let ours = String::from_utf8_lossy(ours.as_bytes()).into_owned();
        let pid = std::process::id().to_string();
        // No process has this pid: the kernel's pids end at 2^22.
        let dead = ours.replacen(&pid, "2000000000", 1);
        for (line, age, word) in [
            (ours.as_str(), 10, None),
            (&dead, 10, Some("pid 2000000000, 10 s old) is stale: its process is gone")),
            (&dead[..dead.len() - 2], 10, None),
            ("77\n", STALE_SECS - 10, None),
            ("77\n", STALE_SECS + 10, Some("pid 77, 310 s old) is stale: nobody")),
            ("", STALE_SECS + 10, Some("pid unknown, 310 s old)")),
        ] {
            fs::write(&path, line).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            OpenOptions::new().write(true).open(&path).unwrap().set_modified(then).unwrap();
            let found = Vec::from_iter(dotlock(&path, &fs::symlink_metadata(&path).unwrap()));
            match word {
                // A second may pass between writing and looking.
                Some(word) if found.len() == 1 => {
                    let what = found[0].what.replace("311 s", "310 s").replace("11 s", "10 s");
                    assert!(what.contains(word), "{what}");
                }
                word => assert_eq!((word, found), (None, vec![]), "{line:?}"),
            }
        }
    }
}
