//! The file of users and passwords for smarthosts. It is read only if its mode is 0600 or less.
//!
//! ```text
//! # HOST             USER    PASSWORD (the rest of the line)
//! smtp.example.org   jones   correct horse battery staple
//! *                  backup  secret
//! ```
//! The first line for the host is used. `*` stands for any host. A line that begins with `#` is a
//! comment.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use crate::smtp::sender::Credentials;

/// Returns the user and password for `host`, or None if the file has no line for it.
///
/// # Errors
/// The file cannot be read, other users can read it, its owner is neither root nor the user that
/// runs the program, or a line is invalid. The text names the file and the fix, and no password.
pub fn load(path: &Path, host: &str) -> Result<Option<Credentials>, String> {
    load_matching(path, |name| name == "*" || name.eq_ignore_ascii_case(host))
}

fn load_matching(
    path: &Path,
    matches: impl Fn(&str) -> bool,
) -> Result<Option<Credentials>, String> {
    let wrong = |error: &str| format!("{}: {error}", path.display());
    let text = read(path).map_err(|e| wrong(&e.to_string()))?;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, credentials)) = parse_line(line) else {
            return Err(wrong(&format!("line {}: expected HOST USER PASSWORD", number + 1)));
        };
        if matches(name) {
            return Ok(Some(credentials));
        }
    }
    Ok(None)
}

/// Returns the user and password for `host` from a line that names it. A line for any host is
/// passed over.
///
/// # Errors
/// As for [`load`].
pub fn load_named(path: &Path, host: &str) -> Result<Option<Credentials>, String> {
    load_matching(path, |name| name.eq_ignore_ascii_case(host))
}

/// Parses `HOST USER PASSWORD`. Only the password may hold blanks.
fn parse_line(line: &str) -> Option<(&str, Credentials)> {
    // NUL separates the fields of AUTH PLAIN (RFC 4616).
    if line.contains('\0') {
        return None;
    }
    let (host, rest) = line.split_once(char::is_whitespace)?;
    let (user, password) = rest.trim_start().split_once(char::is_whitespace)?;
    let (user, password) = (user.to_owned(), password.trim_start().to_owned());
    Some((host, Credentials { user, password }))
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(io::Error::other("readable or writable by other users; chmod 600 it"));
    }
    if meta.uid() != 0 && meta.uid() != geteuid().as_raw() {
        return Err(io::Error::other("owned by another user; chown it to root"));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Maximum number of bytes read, enough for thousands of hosts.
const FILE_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        let ask = |text: &str, host: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let login = load(&path, host);
            login.map(|login| login.map(|login| format!("{}:{}", login.user, login.password)))
        };
        let is = |text: &str| Ok(Some(text.to_owned()));
        let file = "# comment\n\n a.example\tal  x y # z \nB.example bo secret\r\n* any one\n";
        assert_eq!(ask(file, "a.example"), is("al:x y # z"));
        assert_eq!(ask(file, "b.EXAMPLE"), is("bo:secret"));
        assert_eq!(ask(file, "c.example"), is("any:one"));
        assert!(load_named(&path, "c.example").unwrap().is_none());
        assert!(load_named(&path, "a.example").unwrap().is_some());
        assert_eq!(ask("a.example al x\n", "b.example"), Ok(None));
        assert_eq!(ask("", "b.example"), Ok(None));
        for wrong in ["a.example\n", "a.example al\n", "a.example al x\0y\n"] {
            let said = ask(&format!("\n{wrong}"), "a.example").unwrap_err();
            assert!(said.ends_with("line 2: expected HOST USER PASSWORD"), "{said}");
        }
    }

    #[test]
    fn file_must_be_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        fs::write(&path, "* al x\n").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644, 0o666] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(load(&path, "h").unwrap_err().ends_with("chmod 600 it"), "{mode:o}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(load(&path, "h").unwrap().is_some());
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            assert!(load(&path, "h").unwrap_err().contains("another user"));
        }
        assert!(load(directory.path(), "h").unwrap_err().ends_with("not a regular file"));
        assert!(load(&directory.path().join("none"), "h").is_err());
    }
}
