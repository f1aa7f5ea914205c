//! What starts mailslot at boot, as far as Debian can run it: each on a machine of its own, where
//! it is installed from `contrib` as the documents say, on port 25, for the users of the system. A
//! message is delivered, the daemon is killed and comes back, and stops well when it is told to.
//! And the Debian package: installed, used as cron uses it, and purged.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::container::{Container, built};
use crate::harness::directory::TestDirectory;
use crate::harness::external::{run_for_text, unpack};

/// Sends a message to alice by SMTP on port 25, once somebody listens there.
const SEND: &str = "printf 'Subject: hello\\r\\n\\r\\nIt works.\\r\\n' | curl -sS --retry 30 \
    --retry-connrefused --retry-delay 1 smtp://127.0.0.1:25 --mail-from root@host.example \
    --mail-rcpt alice@host.example -T -";

/// How many messages alice has, in a mailbox of her own.
const COUNT: &str = "test \"$(stat -c '%U:%G %a' /var/mail/alice)\" = 'alice:mail 660' && \
                     grep -c '^Subject: hello$' /var/mail/alice";

/// Puts what was unpacked where it belongs, without asking for what it conflicts with.
const INSTALL: &str = "for dir in bin lib sbin usr; do
                           test ! -d $D/$dir || cp -a $D/$dir/. /$dir/ || exit 1
                       done; ldconfig";

/// Until a line of shell ends well, or 30 s have passed.
fn until(line: &str) -> String {
    format!("n=0; until {line}; do n=$((n + 1)); test $n -lt 300 || break; sleep 0.1; done; {line}")
}

/// A folder into which these packages are unpacked.
fn with_packages(names: &[&str]) -> TestDirectory {
    let directory = TestDirectory::new();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    if !names.is_empty() {
        unpack(names, directory.path());
    }
    directory
}

/// Delivers; kills the daemon, whose pid `pid` prints, and delivers again; stops it by `stop`.
fn live_through(machine: &mut Container, pid: &str, stop: &str) {
    machine.must(SEND);
    assert_eq!(machine.must(COUNT).trim(), "1");
    let first = machine.must(pid);
    machine.must(&format!("kill -KILL {first}"));
    machine.must(SEND);
    assert_eq!(machine.must(COUNT).trim(), "2");
    let second = machine.must(pid);
    assert_ne!(first, second);
    machine.must(stop);
    machine.must(&until(&format!("! kill -0 {} 2>/dev/null", second.trim())));
    let (_, status) = machine.run("curl -sS smtp://127.0.0.1:25");
    assert_eq!(status, 7, "nobody listens any more");
}

#[test]
#[ignore = "needs root, unshare, curl, and packages to unpack"]
fn runit_keeps_it() {
    let mut machine = Container::start(with_packages(&["runit"]));
    machine.must(INSTALL);
    machine.must("contrib/install --runit --programs $BUILT");
    machine.must("mkdir -p /etc/service && ln -s /etc/sv/mailslot /etc/service/");
    machine.must("runsvdir /etc/service >/tmp/runsvdir 2>&1 &");
    let pid = "cat /etc/sv/mailslot/supervise/pid";
    live_through(&mut machine, pid, "sv down /etc/sv/mailslot");
    machine.must(&until("grep -q delivered /var/log/mailslot/current"));
    // It stays down where starting it again is no use.
    machine.must("echo wrong >>/etc/mailslot.conf; sv up /etc/sv/mailslot; true");
    machine.must(&until("grep -q 'unknown key' /var/log/mailslot/current"));
    machine
        .must(&until("sv status /etc/sv/mailslot | grep -q '^down: [^ ]* [2-9]s, normally up;'"));
    machine.must("sv exit /etc/sv/mailslot; contrib/install --runit --uninstall");
    machine.must("! test -e /etc/sv/mailslot && ! test -e /usr/local/sbin/mailslot");
}

#[test]
#[ignore = "needs root, unshare, curl, and packages to unpack"]
fn s6_keeps_it() {
    let packages = ["s6", "libs6-[0-9.]*", "libskarnet[0-9.]*", "libexecline[0-9.]*", "execline"];
    let mut machine = Container::start(with_packages(&packages));
    machine.must(INSTALL);
    machine.must("contrib/install --s6 --programs $BUILT");
    machine.must("mkdir /run/service && ln -s /etc/s6/sv/mailslot /run/service/");
    machine.must("s6-svscan /run/service >/tmp/s6-svscan 2>&1 &");
    let pid = "s6-svstat -o pid /run/service/mailslot";
    live_through(&mut machine, pid, "s6-svc -d /run/service/mailslot");
    machine.must(&until("grep -q delivered /var/log/mailslot/current"));
    machine.must("echo wrong >>/etc/mailslot.conf; s6-svc -u /run/service/mailslot");
    let status = "s6-svstat /run/service/mailslot | grep '^down (exitcode 78)'";
    machine.must(&until(&format!("{status} | grep -qv 'want up'")));
    machine.must("rm /run/service/mailslot; contrib/install --s6 --uninstall");
    machine.must("! test -e /etc/s6/sv/mailslot");
}

#[test]
#[ignore = "needs root, unshare, curl, and packages to unpack"]
fn xinetd_serves() {
    let mut machine = Container::start(with_packages(&["xinetd", "libtirpc3"]));
    machine.must(INSTALL);
    machine.must("contrib/install --xinetd --programs $BUILT");
    machine.must(
        "sed 's,^includedir.*,includedir /etc/xinetd.d,' $D/etc/xinetd.conf >/etc/xinetd.conf",
    );
    // Nothing but what was installed just now.
    machine.must("find /etc/xinetd.d -type f ! -name mailslot -delete");
    machine.must("xinetd -dontfork -f /etc/xinetd.conf >/tmp/xinetd 2>&1 & xinetd=$!");
    for number in 1..=3 {
        machine.must(SEND);
        assert_eq!(machine.must(COUNT).trim(), number.to_string());
    }
    machine.must("kill $xinetd; wait $xinetd; contrib/install --xinetd --uninstall");
    machine.must("! test -e /etc/xinetd.d/mailslot");
}

/// What `contrib/install` makes, it removes; of other people's things it removes nothing.
#[test]
#[ignore = "needs root and unshare"]
fn what_is_installed_is_uninstalled() {
    let all = "--systemd --openrc --rc.d --runit --s6 --xinetd --sendmail";
    let mut machine = Container::start(with_packages(&[]));
    let before = machine.changed();
    machine.must(&format!("contrib/install {all} --programs $BUILT"));
    let made = machine.changed();
    for path in ["etc/init.d/mailslot", "usr/local/etc/rc.d/mailslot", "etc/sv/mailslot/log/run"] {
        assert!(made.contains(path), "{path} in {made:#?}");
    }
    machine
        .must("! grep -rlF /usr/sbin/mailslot /etc/init.d/mailslot /etc/sv /etc/s6 /usr/local/lib");
    // Once more, and nothing changes.
    machine.must(&format!("contrib/install {all} --programs $BUILT"));
    assert_eq!(machine.changed(), made);
    machine.must(&format!("contrib/install {all} --uninstall"));
    machine.must("userdel mailslot; rmdir /var/spool/mailslot /var/log/mailslot");
    let left = machine.changed();
    let left: Vec<_> = left.difference(&before).filter(|path| !is_of_users(path)).collect();
    // Folders that others may use too are left.
    let files: Vec<_> = left.iter().filter(|path| !is_folder(&mut machine, path)).collect();
    assert!(files.is_empty(), "{files:#?}");
}

fn is_folder(machine: &mut Container, path: &str) -> bool {
    machine.run(&format!("test -d '/{path}'")).1 == 0
}

/// Whether useradd(8) and userdel(8) write it.
fn is_of_users(path: &str) -> bool {
    let names = ["passwd", "group", "shadow", "gshadow", "subuid", "subgid"];
    let name = path.trim_start_matches("etc/").trim_end_matches('-');
    path == "etc/.pwd.lock" || names.contains(&name)
}

#[test]
#[ignore = "needs root, unshare, curl, and dpkg-deb"]
fn the_debian_package_delivers_and_leaves_nothing() {
    let directory = with_packages(&[]);
    let tree = env!("CARGO_MANIFEST_DIR");
    let mut build = Command::new("contrib/debian/build");
    build.current_dir(tree).args([directory.path(), &built()]);
    let package = run_for_text(&mut build);
    let package = package.trim().to_owned();

    let mut machine = Container::start(directory);
    // There may be one mail transport agent only.
    machine.must(
        "for name in $(dpkg-query -W -f '${Package} ${Provides}\\n' |
                       sed -n 's/ .*mail-transport-agent.*//p'); do
             dpkg --purge --force-all $name || exit 1
         done; rm -f /usr/sbin/policy-rc.d /etc/mailname /var/mail/root; ls /etc/aliases || true",
    );
    machine.must("echo 'postmaster: root' >/etc/aliases");
    let before = machine.changed();
    let users = machine.must("cat /etc/passwd");

    machine.must(&format!("dpkg -i {package}"));
    assert_eq!(
        machine.must("stat -c '%U:%G %a' /var/spool/mailslot /var/mail/root; id -gn mailslot"),
        "mailslot:mail 700\nroot:mail 660\nmail\n"
    );
    assert_eq!(machine.must("dpkg --verify mailslot"), "");
    machine.must("dpkg-query -W -f '${Provides}' mailslot | grep mail-transport-agent");
    // Systemd does not run here, and nothing was started.
    assert_eq!(machine.run("curl -sS smtp://127.0.0.1:25").1, 7);
    machine.must("/usr/sbin/mailslot check");
    assert_eq!(started(&mut machine, 101), "", "policy-rc.d says no");
    assert!(started(&mut machine, 0).contains("start mailslot.service"));

    machine.must("/usr/sbin/mailslot >/tmp/log 2>&1 & mailslot=$!");
    machine.must(SEND);
    assert_eq!(machine.must(COUNT).trim(), "1");
    // As cron calls it.
    for user in ["alice", "root"] {
        machine.must(&format!(
            "printf 'From: root (Cron Daemon)\\nTo: {user}\\nSubject: Cron <{user}@host> date\\n\\n\
             Tue Jul  1 08:52:37 UTC 2025\\n' | /usr/sbin/sendmail -i -FCronDaemon -B8BITMIME -oem \
             {user}"
        ));
        let from = machine.must(&format!("grep '^Subject: Cron' /var/mail/{user}"));
        assert_eq!(from, format!("Subject: Cron <{user}@host> date\n"));
    }
    assert_eq!(machine.must("stat -c '%U:%G %a' /var/mail/root"), "root:mail 660\n");
    machine.must("mailq; newaliases");
    machine.must("kill $mailslot; wait $mailslot");

    // Again, over itself; removed, it leaves the settings, and comes back to them.
    machine.must(&format!("echo 'threads 16' >>/etc/mailslot.conf; dpkg -i {package}"));
    machine.must(&format!(
        "dpkg -r --force-depends mailslot && test -e /etc/mailslot.conf && dpkg -i {package}"
    ));
    machine.must("grep -q 'threads 16' /etc/mailslot.conf");
    machine.must("dpkg --purge --force-depends mailslot");
    let left = machine.changed();
    let documented = ["var/mail/alice", "var/mail/root"];
    let others = ["var/lib/dpkg/", "var/log/dpkg.log", "var/cache/", "etc/ld.so.cache"];
    let left: Vec<_> = left
        .difference(&before)
        .filter(|path| !documented.contains(&path.as_str()) && !is_of_users(path))
        .filter(|path| !others.iter().any(|other| path.starts_with(other)))
        .collect();
    assert!(left.is_empty(), "{left:#?}");
    // And the user.
    let after = machine.must("cat /etc/passwd");
    let added: Vec<_> = after.lines().filter(|line| !users.contains(line)).collect();
    assert_eq!(added.len(), 1, "{added:?}");
    assert!(added[0].starts_with("mailslot:x:"), "{added:?}");
}

/// How postinst asks systemctl, here one that does nothing, to start the service, under this answer
/// of policy-rc.d.
fn started(machine: &mut Container, policy: i32) -> String {
    machine.must(&format!(
        "printf '#!/bin/sh\\nexit {policy}\\n' >/usr/sbin/policy-rc.d
         printf '#!/bin/sh\\necho enabled; echo \"$*\" >>/tmp/said\\n' >/usr/local/sbin/systemctl
         chmod 755 /usr/sbin/policy-rc.d /usr/local/sbin/systemctl
         mkdir -p /run/systemd/system; : >/tmp/said
         /var/lib/dpkg/info/mailslot.postinst configure ''
         rm -r /run/systemd /usr/sbin/policy-rc.d /usr/local/sbin/systemctl"
    ));
    let (said, _) = machine.run("grep ' mailslot.service' /tmp/said | grep start");
    said
}
