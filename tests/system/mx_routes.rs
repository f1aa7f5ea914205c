//! Mail by MX records of a real name server, dnsmasq, between two hosts on a network of their own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::queue_network::{Hosts, dialogue, send};
use crate::harness::directory::TestDirectory;
use crate::harness::external::unpack;
use crate::harness::namespace::Namespace;
use crate::harness::process::Daemon;
use crate::harness::server::PROGRAM;
use crate::harness::test_host::{StartMode, TestHost};
use crate::harness::wait_until;

/// Starts dnsmasq with these records, unpacked below `directory`, on the far host.
pub(super) fn serve_names(hosts: &Hosts, directory: &Path, records: &[String]) -> Daemon {
    let packages = ["dnsmasq-base", "libnetfilter-conntrack3", "libnftables1", "libnftnl11"];
    let more = ["libnfnetlink0", "libjansson4", "libxtables12"];
    unpack(&[&packages[..], &more].concat(), directory);
    let libraries = directory.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &hosts.0[1]]).arg(directory.join("usr/sbin/dnsmasq"));
    command.env("LD_LIBRARY_PATH", libraries);
    command.args(["--keep-in-foreground", "--user=root", "--conf-file=/dev/null", "--pid-file"]);
    command.args(["--no-resolv", "--no-hosts", "--local=/example/", "--bind-interfaces"]);
    command.args(["--listen-address=10.99.99.2", "--host-record=near.example,10.99.99.1"]);
    command.args(records);
    Daemon::spawn(command.stdin(Stdio::null()))
}

/// Starts a mailslot on the near host that finds all others by MX records. It listens on the Unix
/// socket `smtp` in its directory, and has its log there.
pub(super) fn serve_by_mx(hosts: &Hosts, directory: &Path) -> Daemon {
    let resolv_conf = directory.join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 10.99.99.2\noptions timeout:1\n").unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &hosts.0[0]]);
    command.args(Namespace::new().bind(&resolv_conf, "/etc/resolv.conf").words());
    command.args([PROGRAM, "-v", "--sandbox"]).arg(directory);
    command.arg("--listen").arg(format!("unix:{}", directory.join("smtp").display()));
    command.args(["--hostname", "here.example", "--domain", "here.example", "--route", "* mx"]);
    let log = fs::File::create(directory.join("log")).unwrap();
    let daemon = Daemon::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log));
    wait_until("it listens", || directory.join("smtp").exists());
    daemon
}

/// A network that comes up after the start, as an ordinary user: `/etc/resolv.conf` is a link to a
/// file that is not there yet. Mail that waits meanwhile is relayed without a restart.
#[test]
#[ignore = "needs root, iproute2, setpriv, apt-get"]
fn smarthost_is_found_once_resolv_conf_appears() {
    let hosts = Hosts::new("resolv");
    let [far, names] = [TestDirectory::new(), TestDirectory::new()];
    let _names =
        serve_names(&hosts, names.path(), &["--host-record=smart.test,10.99.99.2".to_owned()]);
    let _far = hosts.serve(1, far.path(), &["--listen", "10.99.99.2:2525"]);
    let host = TestHost::new();
    symlink("/run/NetworkManager/resolv.conf", host.path("etc/resolv.conf")).unwrap();
    let namespace = host.namespace().run("mount -t tmpfs none /run");
    let options = ["-l", "127.0.0.1:0", "--smarthost", "smart.test:2525", "--smarthost-tls", "may"];
    let inner = host.command_in(&namespace, &[], StartMode::Capable, &options);
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", hosts.0[0]));
    command.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null()).env_clear();
    let server = host.start_command(command);
    // Its socket for programs of this host is `smtp` in the spool.
    let spool = host.path("spool");
    send(&spool, "you@there.test", "one");
    let line = server.wait_for_log("smarthost-unreachable ");
    assert!(line.contains("smart.test cannot be looked up"), "{line}");

    let mut shell = Command::new("nsenter");
    shell.args(["--mount", "--target", &server.pid().to_string(), "sh", "-ec"]);
    let file = "/run/NetworkManager/resolv.conf";
    shell.arg(format!("mkdir /run/NetworkManager; echo nameserver 10.99.99.2 >{file}"));
    assert!(shell.status().unwrap().success());
    // Longer than the watch for files outside of the confinement waits.
    let watched_until = Instant::now() + Duration::from_secs(7);
    let mailbox = far.mailbox_path("you");
    wait_until("it is relayed", || {
        dialogue(&spool, &[("ETRN there.test", 250)]);
        fs::read_to_string(&mailbox).is_ok_and(|text| text.contains("Subject: one\n"))
    });
    std::thread::sleep(watched_until.saturating_duration_since(Instant::now()));
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("restart-needed")), "{log:#?}");
}

#[test]
#[ignore = "needs root, iproute2, apt-get"]
fn mail_finds_the_hosts_of_its_domain() {
    send_to_domains(&Hosts::new("mx"));
}

/// On a host of a cluster, where each address can be bound, no other host is taken for this one.
#[test]
#[ignore = "needs root, iproute2, apt-get"]
fn mail_finds_the_hosts_of_its_domain_where_any_address_can_be_bound() {
    let hosts = Hosts::new("bind");
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &hosts.0[0], "sysctl", "-w", "net.ipv4.ip_nonlocal_bind=1"]);
    assert!(command.status().unwrap().success());
    send_to_domains(&hosts);
}

/// Sends mail to several domains by MX records.
fn send_to_domains(hosts: &Hosts) {
    let directories = [TestDirectory::new(), TestDirectory::new(), TestDirectory::new()];
    let [near, far, names] = directories.each_ref().map(|directory| directory.path());
    let mut records = [
        // No host has the address of the first. The second takes mail.
        "--mx-host=d.example,mx1.d.example,10",
        "--mx-host=d.example,mx2.d.example,20",
        "--host-record=mx1.d.example,10.99.99.3",
        "--host-record=mx2.d.example,10.99.99.2",
        "--host-record=a.example,10.99.99.2",
        "--mx-host=loop.example,near.example,10",
        "--mx-host=loop.example,d.example,20",
        "--address=/hosts.big.example/10.99.99.2",
    ]
    .map(str::to_owned)
    .to_vec();
    // More than UDP can carry.
    records.extend(
        (0..40).map(|n| {
            format!("--mx-host=big.example,a-host-with-a-long-name-{n}.hosts.big.example")
        }),
    );
    let _names = serve_names(hosts, names, &records);
    let _far = hosts.serve(1, far, &["--listen", "10.99.99.2:25"]);
    let _near = serve_by_mx(hosts, near);

    let all = ["d.example", "a.example", "big.example", "loop.example", "gone.example"];
    for domain in all {
        send(near, &format!("you@{domain}"), domain);
    }
    let text = |file: &Path| fs::read_to_string(file).unwrap_or_default();
    let log = || text(&near.join("log"));
    let queue = near.join("spool/queue");
    let is_empty = || fs::read_dir(&queue).is_ok_and(|mut files| files.next().is_none());
    wait_until("the queue is empty", is_empty);
    let there = text(&far.join("mail/you"));
    let subjects = all.map(|domain| there.matches(&format!("Subject: {domain}\n")).count());
    assert_eq!(subjects, [1, 1, 1, 0, 0], "{}", log());
    let reports = text(&near.join("mail/me"));
    for status in ["5.4.6", "5.1.2"] {
        assert!(reports.contains(&format!("\nStatus: {status}\n")), "{status}: {}", log());
    }
}
