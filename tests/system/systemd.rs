//! The Debian package under a systemd of its own, in namespaces: connections wait while the service
//! restarts. Of the unit, only the options that need mounts in a nested root are switched off.

use std::process::Command;

use crate::harness::container::{built, start_shell};
use crate::harness::directory::TestDirectory;
use crate::harness::external::run_for_text;
use crate::harness::shell::Shell;

/// A host on which systemd runs, and a shell of root beside it. Nothing but empty cgroups is left
/// when it is dropped.
struct SystemdHost {
    shell: Shell,
    _directory: TestDirectory,
}

impl SystemdHost {
    /// Starts it. The directory `$D` is seen in it at the same path.
    fn start(directory: TestDirectory) -> SystemdHost {
        let shell = start_shell(&directory, SETUP, &["sh"]);
        SystemdHost { shell, _directory: directory }
    }

    /// Starts systemd, and defines the shell function `systemd`, which runs a command beside it.
    fn start_systemd(&mut self) {
        self.shell.must(
            "container=docker unshare --cgroup --pid --fork --kill-child --mount \
                 --propagation private sh -c '
                     mount -t proc none /proc
                     umount /sys/fs/cgroup/systemd
                     mount -t cgroup -o none,name=systemd none /sys/fs/cgroup/systemd
                     exec /lib/systemd/systemd --system --unit=basic.target' >/dev/null 2>&1 &
             starter=$!
             while ! init=$(cat /proc/$starter/task/$starter/children) || [ -z \"$init\" ]; do
                 sleep 0.1
             done
             systemd() { nsenter --all --root --wd --target ${init% } \"$@\"; }
             n=0
             until systemd systemctl list-units >/dev/null 2>&1; do
                 n=$((n + 1)); [ $n -lt 300 ] || exit 1; sleep 0.1
             done",
        );
    }
}

/// Shell that builds the root directory, and a cgroup in which systemd finds no other process.
const SETUP: &str = "
    mount -t tmpfs -o mode=755 none $LAYER
    mkdir $LAYER/up $LAYER/work $LAYER/root
    mount -t overlay -o lowerdir=/,upperdir=$LAYER/up,workdir=$LAYER/work none $LAYER/root
    cd $LAYER/root
    mount -t tmpfs none tmp
    mount -t tmpfs -o mode=755 none run
    mount -t proc none proc
    mount -t tmpfs -o mode=755 none dev
    for device in null:3 zero:5 full:7 random:8 urandom:9; do
        mknod -m 666 dev/${device%:*} c 1 ${device#*:}
    done
    ln -s /proc/self/fd dev/fd
    mkdir dev/shm dev/pts
    mkdir -p .$D
    mount --bind $D .$D
    mount -t sysfs none sys
    mount -t tmpfs -o mode=755 none sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd none sys/fs/cgroup/systemd
    mkdir -p sys/fs/cgroup/systemd/mailslot-test
    echo $$ >sys/fs/cgroup/systemd/mailslot-test/cgroup.procs
    ip link set lo up
    hostname host.example
    pivot_root . mnt
    cd /
    umount -l /mnt";

/// Options of the unit that mount file systems, which this nested root does not allow.
const WITHOUT_MOUNTS: &str = "[Service]\\nProtectSystem=no\\nReadWritePaths=\\nProtectHome=no\\n\
    PrivateTmp=no\\nPrivateDevices=no\\nProtectControlGroups=no\\nProtectHostname=no\\n\
    ProtectKernelLogs=no\\nProtectKernelModules=no\\nProtectKernelTunables=no\\nProtectClock=no\\n\
    ProtectProc=default\\nPrivateMounts=no\\nPrivateIPC=no\\n";

/// 500 calls of sendmail during ten restarts: no call finds the port closed, and each message is
/// delivered once. A call that the end of a session interrupts is made again.
#[test]
#[ignore = "needs root, unshare, dpkg-deb, and systemd"]
fn connections_wait_while_systemd_restarts_the_service() {
    let directory = TestDirectory::new();
    let mut build = Command::new("contrib/debian/build");
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args([directory.path(), &built()]);
    let package = run_for_text(&mut build).trim().to_owned();
    let mut host = SystemdHost::start(directory);
    let shell = &mut host.shell;
    shell.must(
        "for name in $(dpkg-query -W -f '${Package} ${Provides}\\n' |
                       sed -n 's/ .*mail-transport-agent.*//p'); do
             dpkg --purge --force-all $name || exit 1
         done; rm -f /usr/sbin/policy-rc.d /etc/mailname; useradd --create-home alice",
    );
    shell.must(&format!(
        "dpkg -i {package}
         mkdir /etc/systemd/system/mailslot.service.d
         printf '{WITHOUT_MOUNTS}' >/etc/systemd/system/mailslot.service.d/test.conf"
    ));
    host.start_systemd();
    let shell = &mut host.shell;
    shell.must("systemd systemctl start mailslot.service");
    let kept = "systemd systemctl show --property NFileDescriptorStore mailslot.service";
    assert_eq!(shell.must(kept), "NFileDescriptorStore=2\n");
    // Another address: the one that was kept is closed, and the new one is kept.
    shell.must("echo 'listen 0.0.0.0:25' >/etc/mailslot.conf");
    shell.must("systemd systemctl restart mailslot.service");
    assert_eq!(shell.must(kept), "NFileDescriptorStore=1\n");
    // By TCP alone, because a Unix socket is created again at each start.
    shell.must("printf 'listen 0.0.0.0:25\\nspool /nonexistent\\n' >/tmp/conf");
    let text = shell.must(
        "(for n in 1 2 3 4 5 6 7 8 9 10; do
              systemd systemctl restart mailslot.service || echo \"restart $n failed\"
              sleep 0.2
          done) & restarts=$!
         n=0
         while [ $n -lt 500 ]; do
             until printf 'Subject: x\\n\\nnumber %s.\\n' $n |
                   /usr/sbin/sendmail -C /tmp/conf alice 2>/tmp/error; do
                 cat /tmp/error
             done
             n=$((n + 1))
         done
         wait $restarts",
    );
    assert!(!text.contains("refused") && !text.contains("failed"), "{text}");
    println!("{} calls made again", text.lines().count());
    let mailbox = shell.must("cat /var/mail/alice");
    for n in 0..500 {
        assert_eq!(mailbox.matches(&format!("\nnumber {n}.\n")).count(), 1, "message {n}");
    }
    assert_eq!(shell.must(kept), "NFileDescriptorStore=1\n");
    // A stop closes the port.
    shell.must("systemd systemctl stop mailslot.service");
    assert_ne!(shell.run("echo | /usr/sbin/sendmail -C /tmp/conf alice").1, 0);
}
