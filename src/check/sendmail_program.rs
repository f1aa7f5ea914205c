//! Checks that the programs of this host which call sendmail(8) reach this server.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::advice;
use crate::config::{Config, NameSet};
use crate::resolver::Problem;

/// Checks that the usual paths of sendmail are mailslot. They rightly are not if another mail
/// server passes mail on by LMTP, or if the server is not for the users of the system.
pub fn check(config: &Config) -> Option<Problem> {
    if config.sandbox.is_some() || config.users != NameSet::System || !config.lmtp.is_empty() {
        return None;
    }
    PATHS.iter().find_map(|path| advice_on(Path::new(path)))
}

fn advice_on(path: &Path) -> Option<Problem> {
    let shown = path.display();
    let Ok(program) = fs::canonicalize(path) else {
        return Some(advice(
            format!("{shown} does not exist, so that cron and other programs cannot send mail"),
            "install mailslot-sendmail under that name (contrib/install --sendmail)",
        ));
    };
    // A link to this program, or to another copy of it.
    if is_this_program(&program) || program.ends_with("mailslot") {
        return None;
    }
    let package = package_of(&program).map(|name| format!(" of {name}")).unwrap_or_default();
    Some(advice(
        format!(
            "{shown} is {}{package}: mail of its callers is not for this server",
            program.display()
        ),
        "unless that is meant, remove it and install mailslot-sendmail by that name",
    ))
}

/// True if `file` is the program that runs.
fn is_this_program(file: &Path) -> bool {
    let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let running = std::env::current_exe().ok();
    running.and_then(|path| id(&path)).is_some_and(|running| id(file) == Some(running))
}

/// Returns the Debian package that has the file.
fn package_of(file: &Path) -> Option<String> {
    let output = Command::new("dpkg-query").arg("--search").arg(file).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (name, _) = text.split_once(": ")?;
    output.status.success().then(|| name.to_owned())
}

/// The paths that cron, PHP and others call.
const PATHS: &[&str] = &["/usr/sbin/sendmail", "/usr/lib/sendmail"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_sendmail_of_another_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sendmail");
        let what = || advice_on(&path).map(|problem| problem.what);
        assert!(what().unwrap().contains("sendmail does not exist"));
        fs::write(directory.path().join("exim4"), "").unwrap();
        symlink("exim4", &path).unwrap();
        assert!(what().unwrap().contains("/exim4: mail of its callers is not for this server"));
        fs::write(directory.path().join("mailslot"), "").unwrap();
        symlink("mailslot", directory.path().join("mailslot-sendmail")).unwrap();
        fs::remove_file(&path).unwrap();
        symlink("mailslot-sendmail", &path).unwrap();
        assert_eq!(what(), None);
        fs::remove_file(&path).unwrap();
        symlink(std::env::current_exe().unwrap(), &path).unwrap();
        assert_eq!(what(), None);
    }
}
