//! The control socket and users without privileges: each sees the own entries, and no others.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::server::{printed, sendmail_path};

/// Users that need not exist.
const ONE: &str = "61001";
const TWO: &str = "61002";

/// Runs sendmail(1) as this user, with `input`. Returns its exit status and what it
/// printed, standard output first.
fn sendmail_as(
    uid: &str,
    directory: &TestDirectory,
    args: &[&str],
    input: &str,
) -> (Option<i32>, String) {
    let mut child = Command::new("setpriv")
        .args(["--reuid", uid, "--regid", uid, "--clear-groups"])
        .arg(directory.join("sendmail"))
        .arg("-C")
        .arg(directory.join("conf"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    printed(child.wait_with_output().unwrap())
}

#[test]
#[ignore = "needs root"]
fn users_see_and_flush_the_entries_of_their_own() {
    let directory = TestDirectory::new();
    let server = directory.start(&[
        "--domain",
        "here.example",
        "--smarthost",
        "127.0.0.1:1",
        "--smarthost-tls",
        "may",
    ]);
    for open in [directory.path().to_owned(), directory.join("spool")] {
        fs::set_permissions(open, Permissions::from_mode(0o711)).unwrap();
    }
    fs::copy(sendmail_path(), directory.join("sendmail")).unwrap();
    let text = format!(
        "listen {}\nhostname h\ndomain here.example\naliases none\nspool {}\n\
         smarthost 127.0.0.1:1\nsmarthost-tls may\n",
        server.address,
        directory.join("spool").display()
    );
    fs::write(directory.join("conf"), text).unwrap();
    let run = |uid, args: &[&str], input| sendmail_as(uid, &directory, args, input);
    let empty = (Some(0), "Mail queue is empty\n".to_owned());
    assert_eq!(run(ONE, &["-bp"], ""), empty);
    for (uid, to) in [(ONE, "one@there.example"), (TWO, "two@there.example")] {
        assert_eq!(run(uid, &[to], "Subject: x\n\nx\n"), (Some(0), String::new()));
    }
    // Over TCP the server does not know the user, so that no user but root sees the entry.
    let to = ["third@there.example"];
    server.after_ehlo().deliver("a@here.example", &to, "\r\nx\r\n", 250);
    server.wait_for_log("smarthost-unreachable");
    for (uid, own) in [(ONE, "one"), (TWO, "two")] {
        let (status, listed) = run(uid, &["-bp"], "");
        assert_eq!(status, Some(0), "{listed}");
        assert!(listed.contains(&format!("    to <{own}@there.example>\n")), "{listed}");
        assert!(listed.contains("\n1 in the queue, "), "{listed}");
        assert_eq!(run(uid, &["-q"], ""), (Some(75), "1 left in the queue\n".to_owned()));
        let (status, text) = run(uid, &["-bi"], "");
        assert_eq!(status, Some(77), "{text}");
    }
    assert_eq!(run("61003", &["-bp"], ""), empty);
    assert_eq!(run("61003", &["-q"], ""), (Some(0), "0 left in the queue\n".to_owned()));
    let (_, listed) = run("0", &["-bp"], "");
    assert!(listed.contains("\n3 in the queue, "), "{listed}");
    assert_eq!(run("0", &["-bi"], ""), (Some(0), String::new()));
    // Without a server a user cannot know, and gets an error.
    assert!(server.stop().1.success());
    let (status, text) = run(ONE, &["-bp"], "");
    assert_eq!(status, Some(77), "{text}");
}
