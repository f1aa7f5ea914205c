//! strace(1) on the threads of a running program.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::directory::TestDirectory;
use super::wait_until;

/// Returns the thread of this name in a process. A thread takes its name when it first runs, which
/// may be a moment after the program says that it is ready.
pub fn thread_of(pid: Pid, name: &str) -> Pid {
    let mut found = None;
    wait_until(name, || {
        found = threads(pid).into_iter().find(|(_, thread)| thread == name);
        found.is_some()
    });
    found.unwrap().0
}

/// Returns the threads of a process and their names.
pub fn threads(pid: Pid) -> Vec<(Pid, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let tasks = tasks.filter_map(|task| {
        let task = task.ok()?.path();
        let name = fs::read_to_string(task.join("comm")).ok()?;
        let id = task.file_name()?.to_str()?.parse().ok()?;
        Some((Pid::from_raw(id), name.trim_end().to_owned()))
    });
    tasks.collect()
}

/// A running strace.
pub struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Attaches to `threads`. Each of `injects` is an option like `inject=CALL:error=EIO:when=2`.
    pub fn attach(
        directory: &TestDirectory,
        threads: &[Pid],
        injects: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Strace {
        let mut options = Vec::new();
        for inject in injects {
            options.extend(["-e".to_owned(), inject.as_ref().to_owned()]);
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Strace::attach_with(directory, threads, &options)
    }

    /// Attaches to `threads` with these options.
    pub fn attach_with(directory: &TestDirectory, threads: &[Pid], options: &[&str]) -> Strace {
        let log = directory.join("strace.log");
        let mut command = Command::new("strace");
        command.arg("-o").arg(&log).args(options);
        for thread in threads {
            command.args(["-p", &thread.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("strace is installed");
        let mut messages = BufReader::new(child.stderr.take().unwrap()).lines();
        for _ in threads {
            let line = messages.next().and_then(Result::ok).unwrap_or_default();
            assert!(line.contains("attached"), "{line}");
        }
        // What else it prints is read, so that it never waits for the test.
        std::thread::spawn(move || messages.for_each(drop));
        Strace { child, log }
    }

    /// Detaches. Returns the calls that were seen.
    pub fn detach(mut self) -> String {
        let _ = kill(self.pid(), Signal::SIGINT);
        let _ = self.child.wait();
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.pid(), Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}

/// Returns the option of strace that kills the process at the n-th call of a name.
pub fn kill_at(call: &str, n: usize) -> String {
    format!("inject={call}:signal=KILL:when={n}")
}

/// Returns the sorted names of the calls in a log of strace, without those of threads that wait.
pub fn call_names(log: &str) -> BTreeSet<String> {
    let names = log.lines().filter_map(|line| {
        // With several threads the line begins with a thread id.
        let call = line.split_once('(')?.0.rsplit(' ').next()?;
        let plain = call.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        (plain && !call.is_empty()).then(|| call.to_owned())
    });
    names.filter(|name| !MEMORY_AND_WAITING.contains(&name.as_str())).collect()
}

/// Calls that change nothing outside the process.
const MEMORY_AND_WAITING: &[&str] = &[
    "futex",
    "restart_syscall",
    "sched_yield",
    "madvise",
    "mmap",
    "munmap",
    "mprotect",
    "brk",
    "clock_gettime",
    "clock_nanosleep",
    "nanosleep",
    "sigaltstack",
    "rt_sigprocmask",
    "exit",
    "getrandom",
    "mremap",
    "poll",
    "ppoll",
];
