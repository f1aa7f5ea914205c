//! The Debian package in fresh roots of Debian 12 and 13, and the deploy hook of certbot.
//!
//! The package is judged by lintian, installed, used by cron for a user of the system, upgraded and
//! purged. Each root has processes and a loopback network of its own. A root that cannot be made,
//! because mmdebstrap or the archive is missing, is skipped with the reason.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::container::built;
use crate::harness::external::{external, run, run_for_text};
#[cfg(feature = "tls")]
use crate::harness::{container::Container, directory::TestDirectory};
use tempfile::TempDir;

/// Becomes the root `$1`, and runs the script `$2` in it.
const ENTER: &str = "
    mount --bind $1 $1 && cd $1
    mount -t proc none proc && mount --rbind /dev dev && mount -t tmpfs none run
    ip link set lo up && hostname host.example
    exec chroot . sh -euxc \"$2\"";

/// Starts mailslot and cron, and returns when the report of a job at the start of cron is in the
/// mailbox of alice `$1` times. Then stops both.
const CRON_DELIVERS: &str = "
    deliver() {
        rm -f /run/crond.reboot
        mailslot >>/tmp/log 2>&1 & mailslot=$!
        n=0; until mailslot-sendmail -bp; do n=$((n + 1)); test $n -lt 100; sleep 0.1; done
        cron -f & cron=$!
        n=0
        until test \"$(grep -c '^Subject: Cron <alice@' /var/mail/alice)\" = \"$1\"; do
            n=$((n + 1)); test $n -lt 300 || { cat /tmp/log; exit 1; }; sleep 0.1
        done
        kill $cron $mailslot; wait $mailslot
    }";

const LIFE: &str = "
    test ! -e /etc/aliases
    dpkg -i /tmp/1.deb
    grep -qx 'postmaster: root' /etc/aliases
    test \"$(stat -c '%U:%G %a' /var/mail/root)\" = 'root:mail 660'
    test \"$(readlink -f /usr/lib/sendmail)\" = /usr/sbin/mailslot
    test -L /etc/systemd/system/multi-user.target.wants/mailslot.service
    mailslot check
    useradd --create-home alice
    echo '@reboot echo the report' | crontab -u alice -
    deliver 1
    grep -qx 'the report' /var/mail/alice
    test \"$(stat -c %U:%G /var/mail/alice)\" = alice:mail
    echo 'threads 16' >>/etc/mailslot.conf
    dpkg -i /tmp/2.deb
    grep -qx 'threads 16' /etc/mailslot.conf
    deliver 2
    dpkg --purge mailslot
    test ! -e /etc/mailslot.conf && test ! -e /var/spool/mailslot && test ! -e /usr/sbin/sendmail
    test -z \"$(find /etc/systemd/system /var/lib/systemd -name 'mailslot*')\"
    test \"$(grep -c '^Subject: Cron' /var/mail/alice)\" = 2
    ! grep -E 'level=(warn|error)' /tmp/log";

#[test]
#[ignore = "needs root, unshare, mmdebstrap, and packages of Debian 12"]
fn debian_12_installs_upgrades_and_purges() {
    live_in("bookworm", "cron,ca-certificates,iproute2,init-system-helpers", LIFE);
}

#[test]
#[ignore = "needs root, unshare, mmdebstrap, and packages of Debian 13"]
fn debian_13_installs_upgrades_and_purges_without_an_error_of_lintian() {
    let script = format!("lintian --fail-on error /tmp/1.deb; {LIFE}");
    live_in("trixie", "cron,ca-certificates,iproute2,init-system-helpers,lintian", &script);
}

/// Runs `script` in a new root of `suite`, where `/tmp/1.deb` is the package of this tree and
/// `/tmp/2.deb` the same with a later revision.
fn live_in(suite: &str, packages: &str, script: &str) {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    let Some(made) = new_root(suite, packages, &root) else {
        eprintln!("SKIPPED: mmdebstrap is not installed");
        return;
    };
    if !made.status.success() {
        eprintln!("SKIPPED: no root of {suite}: {}", String::from_utf8_lossy(&made.stderr));
        return;
    }
    let package = build(&home);
    let glibc = "dpkg-deb -f $1 Depends | sed 's/.*libc6 (>= \\([0-9.]*\\)).*/\\1/'";
    let needed = run_for_text(external("sh", home.path()).args(["-c", glibc, "", &package]));
    let mut has = external("chroot", home.path());
    has.arg(&root).args(["dpkg-query", "-W", "-f", "${Version}", "libc6"]);
    let has = run_for_text(&mut has);
    let mut newer = external("dpkg", home.path());
    newer.args(["--compare-versions", &has, "ge", needed.trim()]);
    if !newer.status().unwrap().success() {
        eprintln!("SKIPPED: {suite} has libc6 {has}, this host's programs need {needed}");
        return;
    }
    fs::copy(&package, root.join("tmp/1.deb")).unwrap();
    let revise = "dpkg-deb -R $1 next && sed -i '/^Version:/s/-1$/-2/' next/DEBIAN/control &&
                  dpkg-deb --root-owner-group -Znone -b next $2";
    let mut revised = external("sh", home.path());
    run(revised.args(["-c", revise, "", &package]).arg(root.join("tmp/2.deb")));
    let mut inside = external("unshare", home.path());
    inside.args(["--mount", "--uts", "--net", "--ipc", "--pid", "--fork", "--kill-child"]);
    inside.args(["--propagation", "private", "sh", "-euc", ENTER, ""]).arg(&root);
    run(inside.arg(format!("{CRON_DELIVERS}\n{script}")));
}

/// The result of mmdebstrap; nothing if it is not installed.
fn new_root(suite: &str, packages: &str, root: &Path) -> Option<Output> {
    let mut mmdebstrap = Command::new("timeout");
    mmdebstrap.args(["300", "mmdebstrap", "--mode=root", "--variant=minbase", "--quiet"]);
    mmdebstrap.arg(format!("--include={packages}")).arg(suite).arg(root);
    let output = mmdebstrap.output().unwrap();
    // timeout(1) did not find it.
    (output.status.code() != Some(127)).then_some(output)
}

/// Builds the package in `home` and returns its path.
fn build(home: &TempDir) -> String {
    let mut build = Command::new("contrib/debian/build");
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args([home.path(), &built()]);
    build.env("DEBFULLNAME", "The maintainer").env("DEBEMAIL", "maintainer@mailslot.org");
    run_for_text(&mut build).trim().to_owned()
}

/// Certbot keeps `live` and `archive` 0700 of root and the key 0600, so that mailslot without root
/// reads neither. What the hook copies it reads, also after a renewal.
#[test]
#[cfg(feature = "tls")]
#[ignore = "needs root, unshare, setpriv and openssl"]
fn the_user_mailslot_reads_what_the_hook_of_certbot_copies() {
    let mut container = Container::start(TestDirectory::new());
    container.must("contrib/install --programs $BUILT");
    container
        .must("mkdir -p /etc/letsencrypt/live/host.example /etc/letsencrypt/archive/host.example");
    container.must("chmod 700 /etc/letsencrypt/live /etc/letsencrypt/archive");
    // As the service of systemd, and as root.
    container.must("mkdir -p /run/systemd/system; contrib/install --systemd --programs $BUILT");
    let in_live = "--tls-cert /etc/letsencrypt/live/host.example/fullchain.pem \
                   --tls-key /etc/letsencrypt/live/host.example/privkey.pem";
    let serve = "setpriv --reuid mailslot --regid mail --clear-groups mailslot -q \
                 -l 127.0.0.1:2525 \
                 --tls-cert /etc/DIR/host.example/fullchain.pem \
                 --tls-key /etc/DIR/host.example/privkey.pem";
    let renewed = |container: &mut Container, number: u32| {
        container.must(&format!(
            "cd /etc/letsencrypt/archive/host.example
             openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=host.example-{number} \
                 -keyout privkey{number}.pem -out fullchain{number}.pem 2>/dev/null
             chmod 600 privkey{number}.pem
             for name in privkey fullchain; do
                 ln -sf ../../archive/host.example/${{name}}{number}.pem \
                     ../../live/host.example/$name.pem
             done; cd $TREE"
        ));
        let hook = "RENEWED_LINEAGE=/etc/letsencrypt/live/host.example contrib/certbot/mailslot";
        container.must(hook)
    };
    let said = renewed(&mut container, 1);
    assert!(said.contains("does not use /etc/mailslot/tls/host.example"), "{said}");
    container.must("! test -e /etc/mailslot");
    let (said, status) = container.run(&serve.replace("DIR", "letsencrypt/live"));
    assert!(status != 0 && said.contains("ermission denied"), "the fault is here: {said}");
    let (said, status) = container.run(&format!("mailslot check -q {in_live}"));
    assert_eq!(status, 78, "{said}");
    for expected in [
        "problem: tls-key /etc/letsencrypt/live/host.example/privkey.pem cannot be read by \
         mailslot:mail: the directory /etc/letsencrypt/live has mode 700",
        "fix: set tls-key to /etc/mailslot/tls/host.example/privkey.pem",
        "RENEWED_LINEAGE=/etc/letsencrypt/live/host.example /etc/letsencrypt/renewal-hooks/deploy/",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    let metrics = "--metrics-file /var/lib/metrics/m.prom";
    let (said, _) = container.run(&format!("mailslot check -q --forward-files on {metrics}"));
    for expected in [
        "forward-files: ProtectHome= of mailslot.service hides every ~/.forward",
        "fix: install -D -m 644 /usr/local/share/mailslot/systemd/forward-files.conf",
        "metrics-file: mailslot.service may not write to /var/lib/metrics",
    ] {
        assert!(said.contains(expected), "{expected} in {said}");
    }
    container.must("rm -r /run/systemd/system");
    let (said, _) = container.run(&format!("mailslot check -q {in_live}"));
    let expected = "is read at the start, but not again on HUP, by mailslot:mail: the directory";
    assert!(said.contains(expected), "{said}");
    container.must(
        "echo 'tls-cert /etc/mailslot/tls/host.example/fullchain.pem' >>/etc/mailslot.conf
         echo 'tls-key /etc/mailslot/tls/host.example/privkey.pem' >>/etc/mailslot.conf",
    );
    renewed(&mut container, 1);
    assert_eq!(
        container.must("stat -c '%U:%G %a' /etc/mailslot/tls/host.example/*.pem"),
        "mailslot:mail 600\n".repeat(2)
    );
    container.must("mkdir -p /run/systemd/system; mailslot check -q; rm -r /run/systemd/system");
    let as_mailslot = serve.replace("DIR", "mailslot/tls");
    let as_root = as_mailslot.split_once("mailslot -q").unwrap().1;
    let as_root = format!("mailslot -q{as_root}");
    let mut number = 1;
    for serve in [&as_mailslot, &as_root] {
        container.must(&format!("{serve} >/tmp/log 2>&1 & echo $! >/run/mailslot.pid"));
        shows_certificate(&mut container, number);
        number += 1;
        renewed(&mut container, number);
        shows_certificate(&mut container, number);
        container.must("kill $(cat /run/mailslot.pid); wait $(cat /run/mailslot.pid)");
    }
}

/// Waits until the server shows this certificate.
#[cfg(feature = "tls")]
fn shows_certificate(container: &mut Container, number: u32) {
    container.must(&format!(
        "n=0; until openssl s_client -starttls smtp -connect 127.0.0.1:2525 </dev/null 2>&1 |
             grep -q 'host.example-{number}'; do
             n=$((n + 1)); test $n -lt 100 || {{ cat /tmp/log; false; break; }}; sleep 0.1
         done"
    ));
}
