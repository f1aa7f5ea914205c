//! A network link to the smarthost that fails while mail is relayed, and comes back.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::process::Daemon;
use crate::harness::server::PROGRAM;
use crate::harness::wait_until;

/// Two network namespaces with a link between them, removed when this is dropped.
pub(super) struct Hosts(pub(super) [String; 2]);

impl Hosts {
    pub(super) fn new(name: &str) -> Hosts {
        let pid = std::process::id();
        let hosts = Hosts(["near", "far"].map(|end| format!("mailslot-{pid}-{name}-{end}")));
        let [near, far] = &hosts.0;
        for name in [near, far] {
            ip(&["netns", "add", name]);
        }
        ip(&[
            "-n", near, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", far,
        ]);
        for (name, address) in [(near, "10.99.99.1/24"), (far, "10.99.99.2/24")] {
            ip(&["-n", name, "address", "add", address, "dev", "wire"]);
            ip(&["-n", name, "link", "set", "wire", "up"]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
        }
        hosts
    }

    /// Adds an address to the far host.
    #[cfg(feature = "tls")]
    pub(super) fn add_far_address(&self, address: &str) {
        ip(&["-n", &self.0[1], "address", "add", &format!("{address}/24"), "dev", "wire"]);
    }

    /// Sets the link, at its far end, down or up.
    fn link(&self, state: &str) {
        ip(&["-n", &self.0[1], "link", "set", "wire", state]);
    }

    /// Starts a mailslot on a host. It also listens on the Unix socket `smtp` in its directory.
    pub(super) fn serve(&self, host: usize, directory: &Path, options: &[&str]) -> Daemon {
        let socket = format!("unix:{}", directory.join("smtp").display());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0[host], PROGRAM, "-q", "--sandbox"]).arg(directory);
        command.args(["--listen", &socket]).args(options);
        let daemon = Daemon::spawn(command.stdin(Stdio::null()));
        wait_until("it listens", || UnixStream::connect(directory.join("smtp")).is_ok());
        daemon
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}: {status}");
}

/// Sends each line over the socket and expects its reply.
pub(super) fn dialogue(directory: &Path, lines: &[(&str, u16)]) {
    let mut client = Client::new(UnixStream::connect(directory.join("smtp")).unwrap());
    client.expect(220);
    client.command("HELO here.example", 250);
    for (line, code) in lines {
        client.command(line, *code);
    }
}

pub(super) fn send(directory: &Path, to: &str, subject: &str) {
    dialogue(
        directory,
        &[
            ("MAIL FROM:<me@here.example>", 250),
            (&format!("RCPT TO:<{to}>"), 250),
            ("DATA", 354),
            (&format!("Subject: {subject}\r\n\r\ntext\r\n."), 250),
        ],
    );
}

#[test]
#[ignore = "needs root, iproute2"]
fn mail_waits_while_the_link_is_down() {
    let hosts = Hosts::new("link");
    let directories = [TestDirectory::new(), TestDirectory::new()];
    let [near, far] = directories.each_ref().map(|directory| directory.path());
    let _far = hosts.serve(1, far, &["--listen", "10.99.99.2:2525"]);
    let relay = ["--smarthost", "10.99.99.2:2525", "--smarthost-tls", "may"];
    let _near = hosts.serve(0, near, &[&["--domain", "here.example"][..], &relay].concat());
    let there = |subject: &str| {
        let text = std::fs::read_to_string(far.join("mail/you")).unwrap_or_default();
        text.matches(&format!("Subject: {subject}\n")).count()
    };

    send(near, "you@far.example", "one");
    wait_until("sent while the link is up", || there("one") == 1);
    // Message two may go into an open connection. Three and four may find it open, or none.
    hosts.link("down");
    for subject in ["two", "three", "four"] {
        send(near, "you@far.example", subject);
    }
    assert_eq!([there("two"), there("three"), there("four")], [0, 0, 0]);
    hosts.link("up");
    let all = || {
        dialogue(near, &[("ETRN far.example", 250)]);
        ["two", "three", "four"].iter().all(|subject| there(subject) >= 1)
    };
    wait_until("sent when the link is up again", all);
    let queue = near.join("spool/queue");
    wait_until("the queue is empty", || std::fs::read_dir(&queue).unwrap().count() == 0);
    // A message that has lost its reply may have been sent twice.
    assert_eq!([there("one"), there("three"), there("four")], [1, 1, 1]);
    assert!(there("two") <= 2);
}
