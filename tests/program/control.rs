//! The control socket: mailq, newaliases and `mailslot queue` beside a running server, and without
//! one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, printed, run_mailslot, sendmail_path};
use crate::harness::wait_until;

/// Runs sendmail(1) with this configuration file. Returns its exit status and what it
/// printed, standard output first.
fn sendmail(config: &Path, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(sendmail_path());
    command.arg("-C").arg(config).args(args).stdin(Stdio::null());
    printed(command.output().unwrap())
}

/// A server with an aliases file and a smarthost that cannot be reached, and a configuration file
/// for sendmail.
fn start(directory: &TestDirectory, more: &[&str]) -> Server {
    let aliases = directory.join("aliases");
    if !aliases.exists() {
        fs::write(&aliases, "first: smith\n").unwrap();
    }
    let options = ["--user", "smith", "--domain", "here.example", "--aliases"];
    let options = [&options[..], &[aliases.to_str().unwrap()], more].concat();
    let server = directory.start(&options);
    let text = format!(
        "listen {}\nhostname h\ndomain here.example\nuser smith\naliases {}\nspool {}\n\
         smarthost 127.0.0.1:1\nsmarthost-tls may\n",
        server.address,
        aliases.display(),
        directory.join("spool").display()
    );
    fs::write(directory.join("conf"), text).unwrap();
    server
}

const RELAY: [&str; 4] = ["--smarthost", "127.0.0.1:1", "--smarthost-tls", "may"];

/// Aliases are otherwise read again only after they have not changed for two seconds.
#[test]
fn newaliases_returns_when_the_server_uses_the_file() {
    let directory = TestDirectory::new();
    let server = start(&directory, &[]);
    let (config, aliases) = (directory.join("conf"), directory.join("aliases"));
    let mut client = server.after_ehlo();
    for n in 0..20 {
        fs::write(&aliases, format!("name{n}: smith\n")).unwrap();
        assert_eq!(sendmail(&config, &["-bi"]), (Some(0), String::new()));
        let to = format!("name{n}@here.example");
        client.deliver("a@b.example", &[&to], "\r\nx\r\n", 250);
    }
    assert!(server.wait_for_log("aliases-reloaded").contains(" errors=0"));
}

#[test]
fn newaliases_reports_errors_with_line_and_fix() {
    let directory = TestDirectory::new();
    let server = start(&directory, &[]);
    let (config, aliases) = (directory.join("conf"), directory.join("aliases"));
    let file = aliases.display();
    let mut server = Some(server);
    loop {
        fs::write(&aliases, "good: smith\nno colon here\n").unwrap();
        let (status, text) = sendmail(&config, &["-bi"]);
        assert_eq!(status, Some(65), "{text}");
        assert!(text.starts_with(&format!("mailslot-sendmail: {file}:2: ")), "{text}");
        assert!(text.ends_with("   fix: correct the line, or remove it\n"), "{text}");
        fs::remove_file(&aliases).unwrap();
        let (status, text) = sendmail(&config, &["-bi"]);
        assert_eq!(status, Some(65), "{text}");
        assert!(text.contains(&format!("{file} cannot be opened")), "{text}");
        fs::write(&aliases, "good: smith\n").unwrap();
        assert_eq!(sendmail(&config, &["-bi"]), (Some(0), String::new()));
        // Then without a server.
        match server.take() {
            Some(server) => assert!(server.stop().1.success()),
            None => break,
        }
    }
}

#[test]
fn mailq_shows_the_outage_and_the_last_reply() {
    let directory = TestDirectory::new();
    let server = start(&directory, &RELAY);
    let config = directory.join("conf");
    assert_eq!(sendmail(&config, &["-bp"]), (Some(0), "Mail queue is empty\n".to_owned()));
    assert_eq!(sendmail(&config, &["a@elsewhere.example"]), (Some(0), String::new()));
    server.wait_for_log("smarthost-unreachable");
    // It is known a moment after that line.
    wait_until("the outage is listed", || sendmail(&config, &["-bp"]).1.contains(", next try "));
    let (status, listed) = sendmail(&config, &["-bp"]);
    assert_eq!(status, Some(0), "{listed}");
    let head = listed.lines().next().unwrap();
    assert!(head.starts_with("127.0.0.1:1: ") && head.contains(", next try "), "{listed}");
    assert!(listed.contains("    to <a@elsewhere.example>\n    last "), "{listed}");
    let in_sandbox = ["queue", "--json", "--sandbox", directory.as_str()];
    let (status, objects) = run_mailslot(&in_sandbox);
    assert_eq!(status, Some(0), "{objects}");
    let [outage, entry] = &objects.lines().collect::<Vec<_>>()[..] else { panic!("{objects}") };
    assert!(outage.starts_with("{\"outage\":\"127.0.0.1:1: "), "{outage}");
    let uid = format!("\"uid\":{}}}", nix::unistd::geteuid());
    assert!(entry.contains("\"to\":[\"a@elsewhere.example\"]") && entry.ends_with(&uid), "{entry}");
    // Without the server, the spool says all but the outage.
    assert!(server.stop().1.success());
    let (status, listed) = sendmail(&config, &["-bp"]);
    assert_eq!(status, Some(0), "{listed}");
    assert!(!listed.contains(", next try ") && listed.contains("\n1 in the queue, "), "{listed}");
    assert_eq!(run_mailslot(&["queue", "show", "x", "--json"]).0, Some(64));
}

/// The server has read the passwords at its start, so that the flush needs no access to them.
#[test]
fn flush_asks_the_server_and_needs_no_credentials() {
    let directory = TestDirectory::new();
    let login = directory.join("login");
    fs::write(&login, "* user password\n").unwrap();
    fs::set_permissions(&login, Permissions::from_mode(0o600)).unwrap();
    let login_option = ["--smarthost-login", login.to_str().unwrap()];
    let server = start(&directory, &[&RELAY[..], &login_option].concat());
    let config = directory.join("conf");
    assert_eq!(sendmail(&config, &["a@elsewhere.example"]), (Some(0), String::new()));
    server.wait_for_log("smarthost-unreachable");
    fs::remove_file(&login).unwrap();
    let flush = [&["queue", "flush", "--sandbox", directory.as_str()], &RELAY[..], &login_option];
    assert_eq!(run_mailslot(&flush.concat()), (Some(75), "1 left in the queue\n".to_owned()));
    server.wait_for_log("smarthost-unreachable");
    assert_eq!(sendmail(&config, &["-q"]), (Some(75), "1 left in the queue\n".to_owned()));
    server.wait_for_log("smarthost-unreachable");
    assert!(server.stop().1.success());
    assert_eq!(run_mailslot(&flush.concat()).0, Some(78), "the file is needed without a server");
}

/// Mail does not depend on the control socket.
#[test]
fn a_server_without_a_control_socket_serves_and_says_so() {
    let directory = TestDirectory::with_mail_and_spool();
    let _other = UnixListener::bind(directory.join("spool/control")).unwrap();
    let server = start(&directory, &[]);
    assert!(server.wait_for_log("control-unavailable").contains("spool/control"));
    server.after_ehlo().deliver("a@b.example", &["smith@here.example"], "\r\nx\r\n", 250);
    assert!(directory.mailbox("smith").contains("\nx\n"));
}

/// A server that was killed leaves its sockets, and the next one replaces them.
#[test]
fn sockets_of_a_killed_server_are_replaced() {
    let directory = TestDirectory::new();
    start(&directory, &[]).kill();
    assert!(directory.join("spool/control").exists() && directory.join("spool/smtp").exists());
    let server = start(&directory, &[]);
    let config = directory.join("conf");
    assert_eq!(sendmail(&config, &["-bi"]), (Some(0), String::new()));
    assert!(server.stop().1.success());
    assert!(!directory.join("spool/control").exists() && !directory.join("spool/smtp").exists());
}
