//! Signals and limits of the process while the server starts.

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, gettid, mkfifo};

use crate::harness::directory::TestDirectory;

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
