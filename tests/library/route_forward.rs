//! `~/.forward`: where mail goes, and what keeps the file from being followed.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use mailslot::deliver::disk::HostDisk;
use mailslot::deliver::forward;
use mailslot::message::Owner;
use mailslot::resolver::users::{User, Users};
use mailslot::resolver::{
    AddressResolver, DomainPattern, ForwardFiles, LocalResolver, ResolverConfig,
};
use mailslot::smtp::{ForwardPath, Mailbox};

/// Users with owners, like those of the system.
struct OwnedUsers(&'static [&'static str]);

impl Users for OwnedUsers {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        let owner = Some(Owner { uid: 1000, gid: 1000 });
        let user = |name: &str| User { name: name.to_owned(), owner, full_name: String::new() };
        Ok(self.0.contains(&name).then(|| user(name)))
    }
}

struct TestForwardFiles(HashMap<&'static str, Result<String, &'static str>>);

impl ForwardFiles for TestForwardFiles {
    fn read(&self, user: &str) -> Result<Option<Vec<u8>>, String> {
        let file = self.0.get(user).cloned().transpose();
        file.map(|text| text.map(String::into_bytes)).map_err(str::to_owned)
    }
}

/// Returns where mail for `to` goes: mailboxes here, and addresses of other hosts.
fn way(files: &[(&'static str, &str)], relays: bool, to: &str) -> (String, String) {
    let domains = vec!["here.example".to_owned()];
    let relays = if relays { vec![DomainPattern::Any] } else { Vec::new() };
    let config = ResolverConfig { domains, relays, ..ResolverConfig::default() };
    let local =
        LocalResolver::with_users(config, Box::new(OwnedUsers(&["alice", "bob", "carol", "dave"])));
    let files = files.iter().map(|(user, text)| match text.strip_prefix("error: ") {
        Some(_) => (*user, Err("cannot be read")),
        None => (*user, Ok(text.to_string())),
    });
    local.follow_forward_files(TestForwardFiles(files.collect()));
    let to = ForwardPath::Mailbox(Mailbox::parse(to).unwrap());
    let way = local.resolve(&to).unwrap();
    let mut local: Vec<String> = way.local.iter().map(|to| to.name.to_string()).collect();
    let mut elsewhere: Vec<String> = way.remote.iter().map(Mailbox::to_string).collect();
    local.sort();
    elsewhere.sort();
    (local.join(" "), elsewhere.join(" "))
}

#[test]
fn forward_targets() {
    for (files, here, elsewhere) in [
        (&[][..], "alice", ""),
        (&[("alice", "")], "alice", ""),
        (&[("alice", "# nothing\n\n")], "alice", ""),
        (&[("alice", "bob")], "bob", ""),
        (&[("alice", "bob, carol\ndave@here.example\n")], "bob carol dave", ""),
        (&[("alice", "x@far.example\n")], "", "x@far.example"),
        (&[("alice", "\\alice, x@far.example\n")], "alice", "x@far.example"),
        (&[("alice", "alice, x@far.example\n")], "alice", "x@far.example"),
        (&[("alice", "alice@here.example\n")], "alice", ""),
        (&[("alice", "\\bob"), ("bob", "carol")], "bob", ""),
        (&[("alice", "bob"), ("bob", "carol"), ("carol", "y@far.example")], "", "y@far.example"),
        // Two that lead to each other, and a ring.
        (&[("alice", "bob"), ("bob", "alice")], "alice", ""),
        (&[("alice", "bob"), ("bob", "carol"), ("carol", "alice")], "alice", ""),
        (&[("alice", "bob, carol"), ("bob", "dave"), ("carol", "dave, bob")], "dave", ""),
    ] {
        let expected = (here.to_owned(), elsewhere.to_owned());
        assert_eq!(way(files, true, "alice@here.example"), expected, "{files:?}");
    }
}

#[test]
fn unusable_file_is_ignored() {
    let many = "bob\n".repeat(101);
    for text in [
        "error: not read",
        "|/bin/sh",
        "bob, |/bin/sh",
        "\"|exec /bin/cat\"",
        "/var/tmp/file",
        ":include:/etc/passwd",
        "nobody-here",
        "nobody-here@here.example",
        "bob, nobody-here",
        "not an address@",
        &many,
    ] {
        for relays in [false, true] {
            let expected = ("alice".to_owned(), String::new());
            assert_eq!(way(&[("alice", text)], relays, "alice@here.example"), expected, "{text:?}");
        }
    }
    // Without relaying no mail leaves the host.
    let expected = ("alice".to_owned(), String::new());
    assert_eq!(way(&[("alice", "bob, x@far.example")], false, "alice@here.example"), expected);
    // An error in one user's file does not affect another's.
    let files = [("alice", "bob, carol"), ("bob", "|sh")];
    assert_eq!(way(&files, true, "alice@here.example").0, "bob carol");
}

#[test]
fn file_writable_by_others_is_not_read() {
    let root = nix::unistd::geteuid().is_root();
    let us = Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    let owner = if root { Owner { uid: 12_345, gid: 12_345 } } else { us };
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let home = directory.path().join("home");
    let file = home.join(".forward");
    let make = |home_mode: u32, mode: u32, text: &str| {
        let _ = fs::remove_dir_all(&home);
        fs::create_dir(&home).unwrap();
        fs::write(&file, text).unwrap();
        for (path, mode) in [(&file, mode), (&home, home_mode)] {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            if root {
                chown(path, Some(owner.uid), Some(owner.gid)).unwrap();
            }
        }
    };
    let disk = HostDisk::new();
    let read = |home: &Path| forward::read(&disk, home, owner).map_err(|e| e.to_string());

    make(0o700, 0o600, "x@y");
    assert_eq!(read(&home), Ok(Some(b"x@y".to_vec())));
    make(0o755, 0o644, &"x".repeat(4096));
    assert_eq!(read(&home).unwrap().unwrap().len(), 4096);
    for (home_mode, mode, text, why) in [
        (0o755, 0o664, "x@y", "it can be written to by others"),
        (0o755, 0o646, "x@y", "it can be written to by others"),
        (0o775, 0o644, "x@y", "its directory can be written to by others"),
        (0o757, 0o644, "x@y", "its directory can be written to by others"),
        (0o755, 0o644, &"x".repeat(4097)[..], "it is larger than 4096 bytes"),
    ] {
        make(home_mode, mode, text);
        assert_eq!(read(&home), Err(why.to_owned()), "{home_mode:o} {mode:o}");
    }
    make(0o755, 0o644, "x@y");
    fs::remove_file(&file).unwrap();
    assert_eq!(read(&home), Ok(None));
    assert_eq!(read(&home.join("nothing")), Ok(None));
    symlink("/etc/passwd", &file).unwrap();
    assert_eq!(read(&home), Err("it is not a regular file".to_owned()));
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(read(&home), Err("it is not a regular file".to_owned()));
    // A symbolic link to a home directory was made by the administrator.
    make(0o755, 0o644, "x@y");
    symlink(&home, directory.path().join("link")).unwrap();
    assert_eq!(read(&directory.path().join("link")), Ok(Some(b"x@y".to_vec())));
    // Mail of root is not forwarded by a file in a directory that another user may own.
    assert_eq!(forward::read(&disk, &home, Owner { uid: 0, gid: 0 }).unwrap(), None);
    if root {
        make(0o755, 0o644, "x@y");
        chown(&file, Some(54_321), None).unwrap();
        assert_eq!(read(&home), Err("it belongs to uid 54321".to_owned()));
    }
}
