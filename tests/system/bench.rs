//! The benchmark, `contrib/bench/run`: its pictures, and the progress that it shows.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::server::PROGRAM;
use crate::harness::terminals::Pty;

/// Returns the command that draws the chart of sessions from the shortest measurements.
fn bench(directory: &TestDirectory) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/bench/run"))
        .args(["--servers", "mailslot", "--charts", "sessions", "--rounds", "1"])
        .args(["--seconds", "0.01", "--mailslot", PROGRAM, "--source"])
        .arg(Path::new(PROGRAM).with_file_name("examples/smtp-source"))
        .args(["--dir", directory.as_str(), "--plot"])
        .arg(directory.join("pictures"))
        .stdin(Stdio::null());
    command
}

#[test]
#[ignore = "needs python3, and the example smtp-source, which cargo test builds"]
fn bench_draws_pictures_and_shows_its_progress_in_lines() {
    let directory = TestDirectory::new();
    let output = bench(&directory).output().unwrap();
    let progress = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{progress}");
    assert!(progress.starts_with("run: 0 of 5 done in "), "{progress}");
    assert!(progress.contains(" s: mailslot, 1 sessions, round 1 of 1\n"), "{progress}");
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("\n| sessions | mailslot | messages/s | "), "{table}");
    for name in ["sessions.svg", "scale.svg"] {
        let picture = fs::read_to_string(directory.join("pictures").join(name)).unwrap();
        assert!(picture.len() < 30_000 && picture.ends_with("</svg>\n"), "{picture}");
        for text in ["concurrent sessions</text>", ">256</text>", "<polyline points=\""] {
            assert!(picture.contains(text), "no {text}: {picture}");
        }
    }
    let left = directory.names("");
    assert_eq!(left, ["pictures"], "its work directory is removed");
}

#[test]
#[ignore = "needs python3, and the example smtp-source, which cargo test builds"]
fn bench_shows_its_progress_in_one_line_of_a_terminal() {
    let directory = TestDirectory::new();
    let terminal = Pty::open();
    let mut command = bench(&directory);
    let mut child = command.stdout(Stdio::null()).stderr(terminal.stdio()).spawn().unwrap();
    terminal.read_to(b" s: mailslot, 1 sessions, round 1 of 1\r");
    let rest = terminal.read_to(b"scale.svg\n");
    assert!(child.wait().unwrap().success());
    assert!(rest.windows(2).any(|end| end == b" \r"), "the line is erased");
}
