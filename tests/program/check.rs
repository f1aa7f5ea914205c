//! `mailslot check` and `mailslot explain`, run in temporary directories.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, mailslot};

/// Returns the exit status and what was printed.
fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = mailslot(args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Runs `check --sandbox` in a directory, with a port that cannot be in use.
fn check(directory: &Path, more: &[&str]) -> (Option<i32>, String) {
    let directory = directory.to_str().unwrap();
    run(&[&["check", "--sandbox", directory, "-l", "127.0.0.1:0"], more].concat())
}

#[test]
fn check_shows_each_setting_with_its_origin() {
    let directory = TestDirectory::new();
    let conf = directory.join("conf");
    fs::write(&conf, "# ours\nthreads 7\nmax-size 64K\n").unwrap();
    let conf = conf.to_str().unwrap();
    let (code, text) = check(directory.path(), &["-c", conf, "-s", "1M"]);
    assert_eq!(code, Some(0), "{text}");
    for (key, value, origin) in [
        ("threads", "7", format!("{conf}:2").as_str()),
        ("max-size", "1M", "command line"),
        ("listen", "127.0.0.1:0", "command line"),
        ("hostname", "localhost", "--sandbox"),
        ("max-recipients", "100", "default"),
        ("mail-dir", directory.join("mail").to_str().unwrap(), "--sandbox"),
    ] {
        let shows = |line: &str| {
            line.split_whitespace().take(2).eq([key, value])
                && line.ends_with(&format!("  {origin}"))
        };
        assert!(text.lines().any(shows), "{key} {value} {origin} in\n{text}");
    }
    assert!(text.ends_with("\nno problems\n"), "{text}");
    // check creates nothing.
    assert!(!directory.join("mail").exists());
}

#[test]
fn advice_exits_0_problems_exit_78() {
    let directory = TestDirectory::new();
    let (code, text) = check(directory.path(), &["--metrics-file", "/none/x.prom"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("cannot write to /none\n   fix: install -d "), "{text}");
    let (code, text) = check(directory.path(), &["--max-recipients", "3"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("\nadvice: max-recipients 3 is below RFC 5321's 100\n   fix: "),
        "{text}"
    );

    let mail = directory.join("mail");
    fs::create_dir(&mail).unwrap();
    fs::write(mail.join("good"), "").unwrap();
    symlink("good", mail.join("jones")).unwrap();
    let (code, text) = check(directory.path(), &[]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("jones is a symbolic link"), "{text}");
    assert!(text.ends_with("\n1 found, 1 stop mail\n") || text.contains(" found, 1 "), "{text}");
}

#[test]
fn check_recognizes_a_running_server() {
    let server = Server::start(&[]);
    let address = server.address.to_string();
    let directory = server.as_str();
    let (code, text) = run(&["check", "--sandbox", directory, "-l", &address]);
    assert!(text.contains("in use by a running mailslot"), "{text}");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn check_finds_errors_in_aliases() {
    let directory = TestDirectory::new();
    let aliases = directory.join("aliases");
    fs::write(&aliases, "a: b\nb: a\npipe: \"|/bin/cat\"\n").unwrap();
    let (code, text) = check(directory.path(), &["-a", aliases.to_str().unwrap()]);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.matches("\n   fix: ").count() >= 2, "{text}");
}

#[test]
fn explain_prints_the_destination() {
    let directory = TestDirectory::new();
    let aliases = directory.join("aliases");
    fs::write(&aliases, "sales: smith\ngone: jones@elsewhere.example\n").unwrap();
    let aliases = aliases.to_str().unwrap();
    let dir = directory.as_str();
    let options = ["--sandbox", dir, "-a", aliases, "-u", "smith", "-d", "localhost"];
    for (address, end, status) in [
        ("smith@localhost", "delivered to smith", 0),
        ("sales@localhost", "delivered to smith", 0),
        ("smith+tag@localhost", "delivered to smith", 0),
        ("gone@localhost", "551 5.1.6", 69),
        ("nobody-at-all@localhost", "550 5.1.1", 67),
        ("smith@elsewhere.example", "550 5.7.1", 69),
        ("a..b@localhost", "not an address", 67),
    ] {
        let (code, text) = run(&[&["explain", address], &options[..]].concat());
        assert_eq!(code, Some(status), "{text}");
        let both = run(&[&["explain", address, "smith@localhost"], &options[..]].concat());
        assert_eq!(both.0, Some(status), "{both:?}");
        assert!(text.starts_with(address) && text.contains(end), "{end:?} in\n{text}");
    }
    let (_, text) =
        run(&[&["explain", "smith@localhost", "sales@localhost"], &options[..]].concat());
    assert!(text.contains("smith@localhost") && text.contains("sales@localhost"), "{text}");
}
