//! Signals and limits of the process while the server starts.

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, gettid, mkfifo};

use crate::harness::directory::TestDirectory;
use crate::harness::server::run_mailslot;

/// The aliases file is a FIFO, so the test learns when the server opens it, which is before
/// recovery. It is not used, because it is no regular file.
#[test]
fn hup_during_the_start_does_not_end_the_process() {
    let directory = TestDirectory::new();
    let aliases = directory.join("slow-aliases");
    mkfifo(&aliases, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let pid_file = directory.join("pid");
    let (ids, id) = channel();
    let writer = thread::spawn({
        let (aliases, pid_file) = (aliases.clone(), pid_file.clone());
        move || {
            ids.send(gettid()).unwrap();
            // Opening waits until the server opens the FIFO to read it.
            let fifo = OpenOptions::new().write(true).open(&aliases).unwrap();
            let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
            kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
            // The file that HUP makes the server read again.
            fs::remove_file(&aliases).unwrap();
            fs::write(&aliases, "list: bob\n").unwrap();
            drop(fifo);
        }
    });
    // The server opens the FIFO once, for a moment, so the thread must be waiting by then.
    let stat = format!("/proc/self/task/{}/stat", id.recv().unwrap());
    while !fs::read_to_string(&stat).unwrap().contains(") S ") {
        thread::yield_now();
    }
    let script = format!("echo $$ >{}; exec \"$@\"", pid_file.display());
    let options = ["--aliases", aliases.to_str().unwrap()];
    let server = directory.start_by(&["sh", "-c", &script, "sh"], &options);
    let server = server.unwrap_or_else(|(log, status)| panic!("{status}: {log:?}"));
    writer.join().unwrap();
    server.wait_for_log(" reloaded");
    server.after_ehlo().deliver("a@b.example", &["list@localhost"], "\r\nx\r\n", 250);
    assert!(directory.mailbox("bob").contains("\nx\n"));
}

#[test]
fn a_file_size_limit_at_the_start_is_reported_and_does_not_kill_the_process() {
    let directory = TestDirectory::new();
    let script = "ulimit -f 8 && exec \"$@\"";
    let started = directory.start_by(&["sh", "-c", script, "sh"], &[]);
    let Err((log, status)) = started else { panic!("there is no room for a journal") };
    assert_eq!((status.signal(), status.code()), (None, Some(73)), "{log:?}");
    assert!(log.iter().any(|line| line.contains(directory.as_str())), "{log:?}");
}

/// The configuration file is read at the start only. HUP says which of its options differ.
#[test]
fn hup_reports_options_that_need_a_restart() {
    let directory = TestDirectory::new();
    let config = directory.join("conf");
    fs::write(&config, "max-size 10M\ntimeout 5m\n").unwrap();
    let server = directory.start(&["--config", config.to_str().unwrap(), "--per-client", "4"]);
    server.signal(Signal::SIGHUP);
    server.wait_for_log(" reloaded");
    fs::write(&config, "max-size 20M\ntimeout 5m\nuser smith\nper-client 2\n").unwrap();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for_any_log(&["options-changed", "configuration-invalid"]);
    // per-client is on the command line, which takes precedence.
    assert!(line.ends_with("options-changed options=user,max-size"), "{line}");
    fs::write(&config, "max-size much\n").unwrap();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for_any_log(&["options-changed", "configuration-invalid"]);
    assert!(line.contains("configuration-invalid error=") && line.contains(":1: "), "{line}");
    fs::write(&config, "max-size 10M\ntimeout 300s\n").unwrap();
    server.signal(Signal::SIGHUP);
    let line = server.wait_for_log("options-changed");
    assert!(line.ends_with(" options=timeout"), "{line}");
    assert!(server.stop().1.success());
}

/// The log would be lost, and nothing in the log could say so.
#[test]
fn a_log_without_a_syslog_daemon_is_reported() {
    let is_missing = !["/dev/log", "/var/run/log", "/var/run/syslog"]
        .iter()
        .any(|p| std::path::Path::new(p).exists());
    let directory = TestDirectory::new();
    let options = ["--sandbox", directory.as_str(), "--listen", "127.0.0.1:0", "--log", "syslog"];
    let (_, checked) = run_mailslot(&[&["check"], &options[..]].concat());
    let what = "log syslog: /dev/log does not exist, so that nothing is logged";
    assert_eq!(checked.contains(&format!("advice: {what}\n")), is_missing, "{checked}");
    let server = directory.start(&options[4..]);
    let (log, status) = server.stop();
    assert!(status.success());
    assert_eq!(log.iter().any(|line| line.contains(what)), is_missing, "{log:?}");
}
