//! Init systems and the Debian package, each in a container. mailslot is installed from `contrib`
//! as the documents say, on port 25, for the users of the system. A message is delivered, the
//! server is killed and restarted, and stopped. The Debian package is installed, used as cron uses
//! it, and purged.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::container::{Container, built};
use crate::harness::directory::TestDirectory;
use crate::harness::external::{run_for_text, unpack};

/// Shell that sends a message to alice by SMTP on port 25, as soon as a server listens there.
const SEND: &str = "printf 'Subject: hello\\r\\n\\r\\nIt works.\\r\\n' | curl -sS --retry 30 \
    --retry-connrefused --retry-delay 1 smtp://127.0.0.1:25 --mail-from root@host.example \
    --mail-rcpt alice@host.example -T -";

/// Shell that prints how many messages alice has, in a mailbox with the right owner and mode.
const COUNT: &str = "test \"$(stat -c '%U:%G %a' /var/mail/alice)\" = 'alice:mail 660' && \
                     grep -c '^Subject: hello$' /var/mail/alice";

/// Shell that installs what was unpacked, despite conflicts of packages.
const INSTALL: &str = "for dir in bin lib sbin usr; do
                           test ! -d $D/$dir || cp -a $D/$dir/. /$dir/ || exit 1
                       done; ldconfig";

/// Shell that replaces /dev, which the container shares with the host, and defines a syslog daemon
/// that writes to /tmp/syslog.
const OWN_DEV: &str = "
    mkdir /tmp/dev
    cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /tmp/dev/
    mount --rbind /tmp/dev /dev
    SYSLOGD='
import os, socket
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind(\"/dev/log\")
os.chmod(\"/dev/log\", 0o666)
with open(\"/tmp/syslog\", \"ab\", 0) as file:
    while True:
        file.write(log.recv(65536).rstrip(b\"\\0\") + b\"\\n\")'
    export SYSLOGD";

/// Returns shell that repeats a line until it succeeds, for at most 30 s.
fn until(line: &str) -> String {
    format!("n=0; until {line}; do n=$((n + 1)); test $n -lt 300 || break; sleep 0.1; done; {line}")
}

/// Returns a directory into which these packages were unpacked.
fn with_packages(names: &[&str]) -> TestDirectory {
    let directory = TestDirectory::new();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    if !names.is_empty() {
        unpack(names, directory.path());
    }
    directory
}

/// Delivers, kills the server by the pid that the command `pid` prints, delivers again, and stops
/// the server by `stop`.
fn deliver_kill_and_stop(container: &mut Container, pid: &str, stop: &str) {
    container.must(SEND);
    assert_eq!(container.must(COUNT).trim(), "1");
    let first = container.must(pid);
    container.must(&format!("kill -KILL {first}"));
    // The kernel may still accept a connection for the dying process, and then resets it.
    container.must(&until(&format!("! kill -0 {} 2>/dev/null", first.trim())));
    container.must(SEND);
    assert_eq!(container.must(COUNT).trim(), "2");
    let second = container.must(pid);
    assert_ne!(first, second);
    container.must(stop);
    container.must(&until(&format!("! kill -0 {} 2>/dev/null", second.trim())));
    let (_, status) = container.run("curl -sS smtp://127.0.0.1:25");
    assert_eq!(status, 7, "it still listens");
}

#[test]
#[ignore = "needs root, unshare, curl, and packages to unpack"]
fn runit() {
    let mut container = Container::start(with_packages(&["runit"]));
    container.must(INSTALL);
    container.must("contrib/install --runit --programs $BUILT");
    container.must("mkdir -p /etc/service && ln -s /etc/sv/mailslot /etc/service/");
    container.must("runsvdir /etc/service >/tmp/runsvdir 2>&1 &");
    let pid = "cat /etc/sv/mailslot/supervise/pid";
    deliver_kill_and_stop(&mut container, pid, "sv down /etc/sv/mailslot");
    container.must(&until("grep -q delivered /var/log/mailslot/current"));
    // With a configuration error it must not be restarted.
    container.must("echo wrong >>/etc/mailslot.conf; sv up /etc/sv/mailslot; true");
    container.must(&until("grep -q 'unknown key' /var/log/mailslot/current"));
    container
        .must(&until("sv status /etc/sv/mailslot | grep -q '^down: [^ ]* [2-9]s, normally up;'"));
    container.must("sv exit /etc/sv/mailslot; contrib/install --uninstall");
    container.must("! test -e /etc/sv/mailslot && ! test -e /usr/local/sbin/mailslot");
}

#[test]
#[ignore = "needs root, unshare, curl, and packages to unpack"]
fn s6() {
    let packages = ["s6", "libs6-[0-9.]*", "libskarnet[0-9.]*", "libexecline[0-9.]*", "execline"];
    let mut container = Container::start(with_packages(&packages));
    container.must(INSTALL);
    container.must("contrib/install --s6 --programs $BUILT");
    container.must("mkdir /run/service && ln -s /etc/s6/sv/mailslot /run/service/");
    container.must("s6-svscan /run/service >/tmp/s6-svscan 2>&1 &");
    let pid = "s6-svstat -o pid /run/service/mailslot";
    deliver_kill_and_stop(&mut container, pid, "s6-svc -d /run/service/mailslot");
    container.must(&until("grep -q delivered /var/log/mailslot/current"));
    container.must("echo wrong >>/etc/mailslot.conf; s6-svc -u /run/service/mailslot");
    let status = "s6-svstat /run/service/mailslot | grep '^down (exitcode 78)'";
    container.must(&until(&format!("{status} | grep -qv 'want up'")));
    container.must("rm /run/service/mailslot; contrib/install --uninstall");
    container.must("! test -e /etc/s6/sv/mailslot");
}

/// A start in the background shows why it fails, and the log is in syslog, deliveries too.
#[test]
#[ignore = "needs root, unshare, curl, Python 3, and packages to unpack"]
fn openrc() {
    let mut container = Container::start(with_packages(&["openrc", "libeinfo1", "librc1"]));
    container.must(INSTALL);
    container.must(OWN_DEV);
    container.must("python3 -c \"$SYSLOGD\" & true");
    container.must(&until("test -S /dev/log"));
    container.must("contrib/install --openrc --programs $BUILT");
    // As its package and a boot would make them.
    container.must("cp -a $D/etc/. /etc/; touch /etc/insserv.conf");
    container.must("mkdir -p /etc/runlevels/default /run/openrc");
    container.must(
        "for name in starting started stopping inactive wasinactive failed hotplugged daemons \
                     options exclusive scheduled init.d tmp; do
             mkdir -p /run/openrc/$name
         done; touch /run/openrc/softlevel",
    );
    container.must("rc-update add mailslot default");
    let refused = container.run("contrib/install --uninstall").0;
    assert!(refused.contains("OpenRC starts it; stop that with: rc-service"), "{refused}");

    // It starts with a problem that does not stop it.
    container.must("rm -f /var/mail/root");
    let said = container.must("rc-service --nodeps mailslot start");
    assert!(said.contains("problem: mail for root is deferred"), "{said}");
    let logged = |word: &str| until(&format!("grep -q '{word}' /tmp/syslog"));
    container.must(SEND);
    assert_eq!(container.must(COUNT).trim(), "1");
    container.must(&logged("mailslot.*: delivered "));
    container.must("rc-service --nodeps mailslot reload");
    container.must(&logged("mailslot.*: reloaded"));
    container.must("rc-service --nodeps mailslot counters");
    container.must(&logged("mailslot.*: counters "));
    container.must("rc-service --nodeps mailslot restart");
    container.must(SEND);
    assert_eq!(container.must(COUNT).trim(), "2");
    container.must("rc-service --nodeps mailslot stop");
    assert_eq!(container.run("curl -sS smtp://127.0.0.1:25").1, 7, "it still listens");

    // With options of the administrator.
    container.must("mkdir -p /etc/conf.d; echo 'command_args=--verbose' >/etc/conf.d/mailslot");
    container.must("rc-service --nodeps mailslot start && rc-service --nodeps mailslot stop");
    container.must("echo wrong >>/etc/mailslot.conf");
    let (said, status) = container.run("rc-service --nodeps mailslot start");
    assert!(status != 0 && said.contains("unknown key \"wrong\""), "{said}");
    // What check does not see is in syslog, whatever the file says.
    container.run("/usr/local/sbin/mailslot --log syslog");
    container.must(&logged("mailslot.*: start-failed .*unknown key"));
    container.must("sed -i '$d' /etc/mailslot.conf; echo 'log syslog' >>/etc/mailslot.conf");
    container.must("rm -r /var/spool/mailslot; echo >/var/spool/mailslot");
    container.run("/usr/local/sbin/mailslot");
    container.must(&logged("mailslot.*: start-failed .*/var/spool/mailslot"));

    container.must("rc-update del mailslot default; contrib/install --uninstall");
    container.must("! test -e /etc/init.d/mailslot");
}

#[test]
#[ignore = "needs root, unshare, curl, and packages to unpack"]
fn xinetd() {
    let mut container = Container::start(with_packages(&["xinetd", "libtirpc3"]));
    container.must(INSTALL);
    container.must("contrib/install --xinetd --programs $BUILT");
    container.must(
        "sed 's,^includedir.*,includedir /etc/xinetd.d,' $D/etc/xinetd.conf >/etc/xinetd.conf",
    );
    // No other services.
    container.must("find /etc/xinetd.d -type f ! -name mailslot -delete");
    container.must("xinetd -dontfork -f /etc/xinetd.conf >/tmp/xinetd 2>&1 & xinetd=$!");
    for number in 1..=3 {
        container.must(SEND);
        assert_eq!(container.must(COUNT).trim(), number.to_string());
    }
    container.must("kill $xinetd; wait $xinetd; contrib/install --uninstall");
    container.must("! test -e /etc/xinetd.d/mailslot");
}

/// `contrib/install --uninstall` removes what `contrib/install` created, and nothing else.
#[test]
#[ignore = "needs root and unshare"]
fn uninstall_removes_what_install_created() {
    let all = "--systemd --openrc --rc.d --runit --s6 --xinetd --sendmail";
    let mut container = Container::start(with_packages(&[]));
    let before = container.changed();
    container.must(&format!("contrib/install {all} --programs $BUILT"));
    let made = container.changed();
    for path in ["etc/init.d/mailslot", "usr/local/etc/rc.d/mailslot", "etc/sv/mailslot/log/run"] {
        assert!(made.contains(path), "{path} in {made:#?}");
    }
    container
        .must("! grep -rlF /usr/sbin/mailslot /etc/init.d/mailslot /etc/sv /etc/s6 /usr/local/lib");
    // A second installation changes nothing.
    container.must(&format!("contrib/install {all} --programs $BUILT"));
    assert_eq!(container.changed(), made);
    // While it runs, nothing is stopped in silence and nothing is removed.
    container
        .must("/usr/local/sbin/mailslot --sandbox /tmp/box -q >/dev/null 2>&1 & echo $! >/tmp/pid");
    container.must(&until("test -d /tmp/box/mail"));
    let (refused, status) = container.run("contrib/install --uninstall");
    assert!(refused.contains("mailslot runs as process"), "{refused}");
    assert_eq!((container.changed(), status), (made.clone(), 1));
    container.must("kill $(cat /tmp/pid)");
    container.must(&until("! kill -0 $(cat /tmp/pid) 2>/dev/null"));
    // The flags of the installation are in its list.
    container.must("contrib/install --uninstall");
    container.must(
        "userdel mailslot; rmdir /var/spool/mailslot/hand-over \
         /var/spool/mailslot /var/log/mailslot",
    );
    let left = container.changed();
    let left: Vec<_> = left.difference(&before).filter(|path| !is_of_users(path)).collect();
    // Directories that other programs may use are left.
    let files: Vec<_> = left.iter().filter(|path| !is_directory(&mut container, path)).collect();
    assert!(files.is_empty(), "{files:#?}");
}

/// cron and PHP call `/usr/sbin/sendmail` or `/usr/lib/sendmail`, whatever the prefix is.
#[test]
#[ignore = "needs root and unshare"]
fn the_default_prefix_has_a_sendmail_for_cron() {
    let mut container = Container::start(with_packages(&[]));
    container.must("rm -f /usr/sbin/sendmail /usr/lib/sendmail");
    for root in ["", "/tmp/package"] {
        let install = format!("DESTDIR={root} contrib/install");
        container.must(&format!("{install} --sendmail --programs $BUILT"));
        for link in ["/usr/sbin/sendmail", "/usr/lib/sendmail"] {
            let to = container.must(&format!("readlink {root}{link}"));
            assert_eq!(to, "/usr/local/sbin/mailslot-sendmail\n", "{root}{link}");
        }
        container.must(&format!("{install} --uninstall"));
        container.must(&format!("! find {root}/usr/sbin {root}/usr/lib/sendmail | grep sendmail"));
    }
    // The sendmail of another program stays, and the administrator reads of it.
    container.must("echo other >/usr/sbin/sendmail");
    let said = container.must("contrib/install --sendmail --programs $BUILT");
    assert!(said.contains("WARNING: /usr/sbin/sendmail is not of mailslot"), "{said}");
    let said = container.run("/usr/local/sbin/mailslot check").0;
    assert!(said.contains("advice: /usr/sbin/sendmail is /usr/sbin/sendmail"), "{said}");
    container.must("contrib/install --uninstall");
    assert_eq!(container.must("cat /usr/sbin/sendmail"), "other\n");
}

/// A super-server that is installed from `contrib` does not listen to the network.
#[test]
fn super_servers_listen_on_loopback_only() {
    let tree = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let xinetd = fs::read_to_string(tree.join("xinetd.conf")).unwrap();
    let binds: Vec<_> = xinetd.lines().filter(|line| line.trim().starts_with("bind")).collect();
    assert_eq!(binds.len(), xinetd.matches("\nservice ").count(), "{binds:?}");
    assert!(binds.iter().all(|line| line.ends_with(" 127.0.0.1") || line.ends_with(" ::1")));
    let inetd = fs::read_to_string(tree.join("inetd.conf")).unwrap();
    for line in inetd.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("127.0.0.1:") || line.starts_with("[::1]:"), "{line}");
    }
}

fn is_directory(container: &mut Container, path: &str) -> bool {
    container.run(&format!("test -d '/{path}'")).1 == 0
}

/// True if useradd(8) and userdel(8) write this file.
fn is_of_users(path: &str) -> bool {
    let names = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];
    let name = path.trim_start_matches("etc/").trim_end_matches('-');
    path == "etc/.pwd.lock" || names.contains(&name)
}

#[test]
#[ignore = "needs root, unshare, curl, and dpkg-deb"]
fn debian_package() {
    let directory = with_packages(&[]);
    let tree = env!("CARGO_MANIFEST_DIR");
    let mut build = Command::new("contrib/debian/build");
    build.current_dir(tree).args([directory.path(), &built()]);
    let package = run_for_text(&mut build);
    let package = package.trim().to_owned();

    let mut container = Container::start(directory);
    // Only one mail transport agent can be installed.
    container.must(
        "for name in $(dpkg-query -W -f '${Package} ${Provides}\\n' |
                       sed -n 's/ .*mail-transport-agent.*//p'); do
             dpkg --purge --force-all $name || exit 1
         done; rm -f /usr/sbin/policy-rc.d /etc/mailname /var/mail/root; ls /etc/aliases || true",
    );
    container.must("echo 'postmaster: root' >/etc/aliases");
    let before = container.changed();
    let users = container.must("cat /etc/passwd");

    container.must(&format!("dpkg -i {package}"));
    assert_eq!(
        container.must(
            "cd /var; stat -c '%U:%G %a' spool/mailslot spool/mailslot/hand-over mail/root; \
             id -gn mailslot"
        ),
        "mailslot:mail 711\nmailslot:mail 3733\nroot:mail 660\nmail\n"
    );
    assert_eq!(container.must("dpkg --verify mailslot"), "");
    container.must("dpkg-query -W -f '${Provides}' mailslot | grep mail-transport-agent");
    // systemd does not run here, so the service was not started.
    assert_eq!(container.run("curl -sS smtp://127.0.0.1:25").1, 7);
    container.must("/usr/sbin/mailslot check");
    assert_eq!(started(&mut container, 101), "", "policy-rc.d forbids it");
    assert!(started(&mut container, 0).contains("start mailslot.service"));

    container.must("/usr/sbin/mailslot >/tmp/log 2>&1 & mailslot=$!");
    container.must(SEND);
    assert_eq!(container.must(COUNT).trim(), "1");
    // With the options of cron.
    for user in ["alice", "root"] {
        container.must(&format!(
            "printf 'From: root (Cron Daemon)\\nTo: {user}\\nSubject: Cron <{user}@host> date\\n\\n\
             Tue Jul  1 08:52:37 UTC 2025\\n' | /usr/sbin/sendmail -i -FCronDaemon -B8BITMIME -oem \
             {user}"
        ));
        let from = container.must(&format!("grep '^Subject: Cron' /var/mail/{user}"));
        assert_eq!(from, format!("Subject: Cron <{user}@host> date\n"));
    }
    assert_eq!(container.must("stat -c '%U:%G %a' /var/mail/root"), "root:mail 660\n");
    container.must("mailq; newaliases");
    container.must("kill $mailslot; wait $mailslot");

    // Installed again over itself. When it is removed, the settings are kept and used by the next
    // installation.
    container.must(&format!("echo 'threads 16' >>/etc/mailslot.conf; dpkg -i {package}"));
    container.must(&format!(
        "dpkg -r --force-depends mailslot && test -e /etc/mailslot.conf && dpkg -i {package}"
    ));
    container.must("grep -q 'threads 16' /etc/mailslot.conf");
    container.must("dpkg --purge --force-depends mailslot");
    let left = container.changed();
    let documented = ["var/mail/alice", "var/mail/root"];
    let others = ["var/lib/dpkg/", "var/log/dpkg.log", "var/cache/", "etc/ld.so.cache"];
    let left: Vec<_> = left
        .difference(&before)
        .filter(|path| !documented.contains(&path.as_str()) && !is_of_users(path))
        .filter(|path| !others.iter().any(|other| path.starts_with(other)))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    // The user is kept.
    let after = container.must("cat /etc/passwd");
    let added: Vec<_> = after.lines().filter(|line| !users.contains(line)).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    assert!(added[0].starts_with("mailslot:x:"), "{added:?}");
}

/// Returns how postinst asks systemctl to start the service, under this answer of policy-rc.d.
/// systemctl is replaced by a script.
fn started(container: &mut Container, policy: i32) -> String {
    container.must(&format!(
        "printf '#!/bin/sh\\nexit {policy}\\n' >/usr/sbin/policy-rc.d
         printf '#!/bin/sh\\necho enabled; echo \"$*\" >>/tmp/said\\n' >/usr/local/sbin/systemctl
         chmod 755 /usr/sbin/policy-rc.d /usr/local/sbin/systemctl
         mkdir -p /run/systemd/system; : >/tmp/said
         /var/lib/dpkg/info/mailslot.postinst configure ''
         rm -r /run/systemd /usr/sbin/policy-rc.d /usr/local/sbin/systemctl"
    ));
    let (said, _) = container.run("grep ' mailslot.service' /tmp/said | grep start");
    said
}
