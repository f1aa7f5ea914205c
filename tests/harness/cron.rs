//! cron of Debian, which always calls `/usr/sbin/sendmail`, in a namespace that has another program
//! there. Needs root, unshare(1) and cron(8).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use crate::harness::namespace::Namespace;
use crate::harness::process::Daemon;

/// Starts cron with this table of root alone. The file `sendmail` in `directory` is its sendmail.
pub fn start(directory: &Path, table: &str) -> Daemon {
    for name in ["tabs", "empty", "run"] {
        fs::create_dir(directory.join(name)).unwrap();
    }
    let file = directory.join("tabs/root");
    fs::write(&file, table).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    fs::write(directory.join("crontab"), "").unwrap();
    let mut namespace =
        Namespace::new().run("test -e /usr/sbin/sendmail || touch /usr/sbin/sendmail");
    for (ours, theirs) in [
        ("sendmail", "/usr/sbin/sendmail"),
        ("tabs", "/var/spool/cron/crontabs"),
        ("empty", "/etc/cron.d"),
        ("crontab", "/etc/crontab"),
        ("run", "/var/run"),
    ] {
        namespace = namespace.bind(&directory.join(ours), theirs);
    }
    let mut command = namespace.command();
    command.args(["cron", "-f"]).current_dir("/").stdin(Stdio::null());
    Daemon::spawn(&mut command)
}
