//! A link to the smarthost that goes away while mail is on its way, and comes back: two hosts in
//! network namespaces of this test's own.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::server::{PATIENCE, PROGRAM};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Two network namespaces with a link between them, removed when this is dropped.
struct Hosts([String; 2]);

impl Hosts {
    fn new() -> Hosts {
        let pid = std::process::id();
        let hosts = Hosts(["near", "far"].map(|name| format!("mailslot-{pid}-{name}")));
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

    /// Takes the link away at its far end, or brings it back.
    fn link(&self, state: &str) {
        ip(&["-n", &self.0[1], "link", "set", "wire", state]);
    }

    /// A mailslot on one of them, once it serves on the Unix socket `smtp` in its folder.
    fn serve(&self, host: usize, folder: &Path, options: &[&str]) -> Served {
        let socket = format!("unix:{}", folder.join("smtp").display());
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0[host], PROGRAM, "-q", "--sandbox"]).arg(folder);
        command.args(["--listen", &socket]).args(options);
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let served = Served(child);
        wait_for(|| UnixStream::connect(folder.join("smtp")).is_ok(), "it does not serve");
        served
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn ip(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}: {status}");
}

fn wait_for(done: impl Fn() -> bool, what: &str) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Says each line over the socket, and expects its code.
fn say(folder: &Path, lines: &[(&str, &str)]) {
    let mut stream = BufReader::new(UnixStream::connect(folder.join("smtp")).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reply = String::new();
    stream.read_line(&mut reply).unwrap();
    for (line, code) in [("HELO here.example", "250")].iter().chain(lines) {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        reply.clear();
        stream.read_line(&mut reply).unwrap();
        assert!(reply.starts_with(code), "{line}: {reply}");
    }
}

fn send(folder: &Path, subject: &str) {
    say(
        folder,
        &[
            ("MAIL FROM:<me@here.example>", "250"),
            ("RCPT TO:<you@far.example>", "250"),
            ("DATA", "354"),
            (&format!("Subject: {subject}\r\n\r\ntext\r\n."), "250"),
        ],
    );
}

#[test]
#[ignore = "needs root, iproute2"]
fn mail_waits_for_a_link_that_goes_away() {
    let hosts = Hosts::new();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [near, far] = folders.each_ref().map(|folder| folder.path());
    let _far = hosts.serve(1, far, &["--listen", "10.99.99.2:2525"]);
    let relay = ["--smarthost", "10.99.99.2:2525", "--smarthost-tls", "may"];
    let _near = hosts.serve(0, near, &[&["--domain", "here.example"][..], &relay].concat());
    let there = |subject: &str| {
        let text = std::fs::read_to_string(far.join("mail/you")).unwrap_or_default();
        text.matches(&format!("Subject: {subject}\n")).count()
    };

    send(near, "one");
    wait_for(|| there("one") == 1, "not sent with the link there");
    // Two goes into a connection that is open, if that is fast; three and four find it so, or none.
    hosts.link("down");
    for subject in ["two", "three", "four"] {
        send(near, subject);
    }
    assert_eq!([there("two"), there("three"), there("four")], [0, 0, 0]);
    hosts.link("up");
    let all = || {
        say(near, &[("ETRN far.example", "250")]);
        ["two", "three", "four"].iter().all(|subject| there(subject) >= 1)
    };
    wait_for(all, "not sent with the link back");
    let queue = near.join("spool/queue");
    wait_for(|| std::fs::read_dir(&queue).unwrap().count() == 0, "something is left in the queue");
    // What was answered with a reply that did not come back may have been sent twice.
    assert_eq!([there("one"), there("three"), there("four")], [1, 1, 1]);
    assert!(there("two") <= 2);
}
