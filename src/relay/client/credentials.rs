//! The file of users and passwords for smarthosts.
//!
//! ```text
//! # HOST                    USER    PASSWORD (the rest of the line)
//! smtp.example.org          jones   correct horse battery staple
//! [smtp.example.net]:587    smith:secret
//! *                         backup  secret
//! ```
//! The first line for the host is used. `*` matches any host, and a line without a port any port.
//! The second line has the form of Postfix's smtp_sasl_password_maps, in which the user ends at the
//! first colon. A line that begins with `#` is a comment.
//!
//! One rule about the owner holds for every process that reads the file. The owner is root, or the
//! user that the server runs as. Other users have no access. The group may read the file if root
//! owns it, because root has then chosen the group.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::net::Ipv6Addr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Group, Uid, getegid, geteuid};

use super::ServerAddress;
use crate::smtp::sender::Credentials;

/// The lines of a file of users and passwords.
#[derive(Debug)]
pub struct LoginFile(Vec<LoginLine>);

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
struct LoginLine {
    /// The host, without brackets; `*` for any.
    host: String,
    /// The port, or None for any.
    port: Option<u16>,
    credentials: Credentials,
}

impl LoginFile {
    /// Reads the file at `path`. `server` is the user that the server runs as, which may be another
    /// than the user of this process.
    ///
    /// # Errors
    /// The file cannot be read, its owner or its mode is wrong, or a line is invalid. The text
    /// names the file, the line and the fix, and no password.
    pub fn read(path: &Path, server: Option<Uid>) -> Result<LoginFile, String> {
        let shown = path.display();
        let text = read(path, server).map_err(|e| format!("{shown}: {e}"))?;
        let mut lines = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = || {
                let form = "HOST USER PASSWORD, or [HOST]:PORT USER:PASSWORD";
                format!("{shown}:{}: not a login; write {form}", number + 1)
            };
            lines.push(parse_line(line).ok_or_else(wrong)?);
        }
        Ok(LoginFile(lines))
    }

    /// Returns the user and password for `server`, or None if no line is for it. The host of a
    /// Unix socket is `localhost`.
    pub fn find(&self, server: &ServerAddress) -> Option<&Credentials> {
        self.0
            .iter()
            .find(|line| line.host == "*" && line.has_port(server) || line.names(server))
            .map(|line| &line.credentials)
    }

    /// Returns the user and password for `server` from a line that names it. A line for any host is
    /// passed over.
    pub fn find_named(&self, server: &ServerAddress) -> Option<&Credentials> {
        self.0.iter().find(|line| line.names(server)).map(|line| &line.credentials)
    }
}

impl LoginLine {
    fn names(&self, server: &ServerAddress) -> bool {
        let host = match server {
            ServerAddress::Tcp { host, .. } => host.as_str(),
            ServerAddress::Unix(_) => "localhost",
        };
        self.host.eq_ignore_ascii_case(host) && self.has_port(server)
    }

    fn has_port(&self, server: &ServerAddress) -> bool {
        let port = match server {
            ServerAddress::Tcp { port, .. } => Some(*port),
            ServerAddress::Unix(_) => None,
        };
        self.port.is_none() || self.port == port
    }
}

/// Parses `HOST USER PASSWORD`, in which only the password may hold blanks, or `HOST
/// USER:PASSWORD`.
fn parse_line(line: &str) -> Option<LoginLine> {
    // NUL separates the fields of AUTH PLAIN (RFC 4616).
    if line.contains('\0') {
        return None;
    }
    let (host, login) = line.split_once(char::is_whitespace)?;
    let (host, port) = parse_host(host)?;
    let login = login.trim_start();
    let (user, password) =
        login.split_once(char::is_whitespace).or_else(|| login.split_once(':'))?;
    let (user, password) = (user.to_owned(), password.trim_start().to_owned());
    let is_whole = !user.is_empty() && !password.is_empty();
    is_whole.then_some(LoginLine { host, port, credentials: Credentials { user, password } })
}

/// Parses `HOST`, `HOST:PORT`, `[HOST]`, `[HOST]:PORT`, any of them after `tls:`, or `*`.
fn parse_host(text: &str) -> Option<(String, Option<u16>)> {
    let text = text.strip_prefix("tls:").unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => (host, None),
            (host, port) => (host, Some(port.strip_prefix(':')?)),
        },
        None if text.parse::<Ipv6Addr>().is_ok() => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        None => None,
        Some("smtp") => Some(25),
        Some("submission") => Some(587),
        Some("submissions" | "smtps") => Some(465),
        Some(number) => Some(number.parse().ok()?),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn read(path: &Path, server: Option<Uid>) -> io::Result<String> {
    let file = File::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => {
            let gid = getegid();
            let group = Group::from_gid(gid).ok().flatten().map(|group| group.name);
            let group = group.unwrap_or_else(|| gid.to_string());
            io::Error::other(format!("{e}; let root own it, the group be {group}, the mode 0640"))
        }
        _ => e,
    })?;
    check_owner(&file.metadata()?, server).map_err(io::Error::other)?;
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Checks that no other user can read or change the passwords.
fn check_owner(meta: &Metadata, server: Option<Uid>) -> Result<(), &'static str> {
    let (mode, owner) = (meta.mode(), Uid::from_raw(meta.uid()));
    if !meta.is_file() {
        return Err("not a regular file");
    }
    if !owner.is_root() && owner != geteuid() && Some(owner) != server {
        return Err("owned by another user; chown it to root");
    }
    if mode & 0o027 != 0 {
        return Err("readable or writable by other users; chmod 600 it");
    }
    if mode & 0o040 != 0 && !owner.is_root() {
        return Err("its group can read it; chmod 600 it, or chown it to root");
    }
    Ok(())
}

/// Maximum number of bytes read, enough for thousands of hosts.
const FILE_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    fn address(text: &str) -> ServerAddress {
        text.parse().unwrap()
    }

    #[test]
    fn lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        let ask = |text: &str, host: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let login = |file: LoginFile| {
                let login = file.find(&address(host));
                login.map(|login| format!("{}:{}", login.user, login.password))
            };
            LoginFile::read(&path, None).map(login)
        };
        let is = |text: &str| Ok(Some(text.to_owned()));
        let file = "# comment\n\n a.example\tal  x y # z \nB.example bo secret\r\n* any one\n";
        assert_eq!(ask(file, "a.example"), is("al:x y # z"));
        assert_eq!(ask(file, "tls:b.EXAMPLE"), is("bo:secret"));
        assert_eq!(ask(file, "c.example"), is("any:one"));
        assert_eq!(ask("a.example al x\n", "b.example"), Ok(None));
        assert_eq!(ask("", "b.example"), Ok(None));
        assert_eq!(ask("localhost al x\n", "unix:/run/smtp"), is("al:x"));
        for wrong in ["a.example\n", "a.example al\n", "a.example al x\0y\n", "a:x al x\n"]
            .into_iter()
            .chain(["[a al x\n", "[a]587 al x\n", "[] al x\n", ":25 al x\n", "a al:\n", "a :x\n"])
        {
            // A broken line is reported even after the line that is used.
            let text = format!("b.example al x\n{wrong}");
            let said = ask(&text, "b.example").unwrap_err();
            assert!(said.contains(":2: not a login; write HOST USER PASSWORD, or "), "{said}");
        }
    }

    #[test]
    fn lines_in_the_form_of_postfix() {
        let line = |text| parse_line(text).unwrap();
        let credentials = |user: &str, password: &str| Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        for (text, host, port, user, password) in [
            ("[smtp.isp.test]:587 bob:secret", "smtp.isp.test", Some(587), "bob", "secret"),
            ("[smtp.isp.test]:submission\tbob@x:a:b", "smtp.isp.test", Some(587), "bob@x", "a:b"),
            ("[smtp.isp.test] bob:secret", "smtp.isp.test", None, "bob", "secret"),
            ("smtp.isp.test:465 bob secret", "smtp.isp.test", Some(465), "bob", "secret"),
            ("tls:smtp.isp.test bob:secret", "smtp.isp.test", None, "bob", "secret"),
            ("[2001:db8::1]:25 bob:secret", "2001:db8::1", Some(25), "bob", "secret"),
            ("2001:db8::1 bob secret", "2001:db8::1", None, "bob", "secret"),
        ] {
            let expected =
                LoginLine { host: host.into(), port, credentials: credentials(user, password) };
            assert_eq!(line(text), expected, "{text}");
        }
        let file = LoginFile(vec![line("[h]:587 bob:one"), line("h ann:two")]);
        for (server, password) in [("h:587", "one"), ("tls:h", "two"), ("h", "two")] {
            assert_eq!(file.find(&address(server)).unwrap().password, password, "{server}");
        }
        assert!(file.find(&address("unix:/h")).is_none());
    }

    #[test]
    fn file_must_be_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passwords");
        fs::write(&path, "* al x\n").unwrap();
        let with = |mode| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            LoginFile::read(&path, None).map(|_| ())
        };
        for mode in [0o604, 0o620, 0o644, 0o666, 0o660] {
            assert!(with(mode).unwrap_err().ends_with("chmod 600 it"), "{mode:o}");
        }
        assert_eq!(with(0o400), Ok(()));
        assert!(LoginFile::read(directory.path(), None).unwrap_err().ends_with("regular file"));
        assert!(LoginFile::read(&directory.path().join("none"), None).is_err());
        if !geteuid().is_root() {
            assert!(with(0o640).unwrap_err().contains("its group can read it"));
            return;
        }
        // Root may choose the group; the user of the server is no other user.
        assert_eq!(with(0o640), Ok(()));
        chown(&path, Some(0), Some(65534)).unwrap();
        assert_eq!(with(0o640), Ok(()));
        chown(&path, Some(65534), None).unwrap();
        assert!(with(0o600).unwrap_err().contains("another user"));
        let read = |uid| LoginFile::read(&path, Some(Uid::from_raw(uid))).map(|_| ());
        assert_eq!(read(65534), Ok(()));
        assert!(read(65533).unwrap_err().contains("another user"));
        assert!(with(0o640).unwrap_err().contains("another user"));
        assert!(read(65534).unwrap_err().contains("its group can read it"));
    }
}
