//! The log: lines to standard error or syslog. The lines come from [`events`] alone, which quotes
//! their values; a control character in a line that a library logs is escaped here.
//!
//! Lines go through a bounded queue to a thread that writes them, so that a full pipe or a
//! stopped syslog daemon never delays mail. While [`QUEUE`] lines wait, further ones are dropped,
//! and their number is logged when there is room. A process that exits must therefore call
//! `log::logger().flush()` first, which waits at most a second. The program sets a panic hook that
//! logs, because the standard one writes to standard error.
//!
//! All lines that wait are written with one write(2), up to `WRITE_MAX` bytes, so that a busy
//! server does not wake the reader of the log for each line.
//!
//! On standard error a line begins with the date and the level. Under systemd, which
//! `JOURNAL_STREAM` indicates, it begins with `<priority>`, because the journal dates lines itself.
//! In syslog it has the facility mail and the identity `mailslot` with the process id. `RUST_LOG`,
//! if set, overrides the verbosity.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::syslog::{Facility, LogFlags, Priority, Severity};

use super::events;
use super::line_queue::LineQueue;
use crate::process::{privilege, time_zone};

/// Destination of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// The host's syslog daemon.
    Syslog,
}

/// Most lines that wait for a slow reader of the log.
pub const QUEUE: usize = 1024;

/// One message cannot fill the queue and so displace the lines of other sessions.
const _: () = assert!(events::LINES_MAX <= QUEUE / 2);

/// Starts the log of this process. At `verbosity` 0 it has the events of level info and above, at 1
/// debug, from 2 everything, at -1 warnings and errors, from -2 errors.
///
/// # Errors
/// The process has a log already.
pub fn start(target: LogTarget, verbosity: i32) -> io::Result<PendingLog> {
    let level = match verbosity {
        ..=-2 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2.. => LevelFilter::Trace,
    };
    let filter = env_logger::Builder::new().filter_level(level).parse_default_env().build();
    let style = match target {
        LogTarget::Syslog => LogStyle::Syslog,
        LogTarget::Stderr if stderr_is_the_journal() => LogStyle::Journal,
        LogTarget::Stderr => LogStyle::Dated,
    };
    if style == LogStyle::Syslog {
        #[cfg(target_os = "linux")]
        let identity = c"mailslot";
        #[cfg(not(target_os = "linux"))]
        let identity = "mailslot";
        nix::syslog::openlog(Some(identity), LogFlags::LOG_PID, Facility::LOG_MAIL)?;
    }
    let lines = Arc::new(LineQueue::new(QUEUE));
    let level = filter.filter();
    let queued = Queued { filter, lines: Arc::clone(&lines), dropped: AtomicU64::new(0) };
    log::set_max_level(level);
    log::set_boxed_logger(Box::new(queued)).map_err(io::Error::other)?;
    Ok(PendingLog(Some((lines, style))))
}

/// Returns the socket of the syslog daemon if it does not exist, so that the lines would be lost.
pub fn missing_syslog_socket() -> Option<&'static str> {
    missing_socket(SYSLOG_SOCKETS)
}

/// Returns the first of `sockets` if none of them exists.
fn missing_socket(sockets: &[&'static str]) -> Option<&'static str> {
    if sockets.iter().any(|socket| Path::new(socket).exists()) {
        return None;
    }
    sockets.first().copied()
}

/// The sockets of syslog(3): on Linux and most BSD systems, on FreeBSD and on macOS.
const SYSLOG_SOCKETS: &[&str] = &["/dev/log", "/var/run/log", "/var/run/syslog"];

/// A log that holds its lines until [`PendingLog::write`] is called or it is dropped. Its thread
/// starts only then, because a thread that exists when the process drops privileges keeps its own.
#[derive(Debug)]
pub struct PendingLog(Option<(Arc<LineQueue>, LogStyle)>);

impl PendingLog {
    /// Starts the thread that writes the lines.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn write(mut self) -> io::Result<()> {
        self.start_thread()
    }

    fn start_thread(&mut self) -> io::Result<()> {
        let Some((queue, style)) = self.0.take() else { return Ok(()) };
        let write = move || match privilege::drop_capabilities() {
            Ok(()) => {
                let (mut lines, mut buffer) = (Vec::new(), LineBuffer::new(style, write_text));
                loop {
                    queue.take(&mut lines);
                    buffer.write_all(&lines);
                }
            }
            Err(e) => {
                let (level, line) = events::log_failed(e);
                LineBuffer::new(style, write_text).write_all(&[(level, line)]);
            }
        };
        thread::Builder::new().name("log".into()).spawn(write).map(drop)
    }
}

impl Drop for PendingLog {
    /// Starts the thread for a program that ends early.
    fn drop(&mut self) {
        let _ = self.start_thread();
    }
}

/// The logger that filters lines and queues them. It never waits.
struct Queued {
    filter: env_logger::Logger,
    lines: Arc<LineQueue>,
    dropped: AtomicU64,
}

impl Log for Queued {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.filter.matches(record) {
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let (level, line) = events::log_full(dropped);
            if !self.lines.add(level, line) {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        if !self.lines.add(record.level(), one_line(record.args().to_string())) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        self.lines.flush(Duration::from_secs(1));
    }
}

/// The bytes of lines that are written together.
struct LineBuffer<W> {
    style: LogStyle,
    text: Vec<u8>,
    /// Writes whole lines.
    write: W,
}

impl<W: FnMut(&[u8])> LineBuffer<W> {
    fn new(style: LogStyle, write: W) -> LineBuffer<W> {
        LineBuffer { style, text: Vec::new(), write }
    }

    fn write_all(&mut self, lines: &[(Level, String)]) {
        let date = self.style.date();
        lines.iter().for_each(|(level, line)| self.add(&date, *level, line));
        self.flush();
    }

    /// Adds a line. For syslog, which takes one line at a time, writes it.
    fn add(&mut self, date: &str, level: Level, line: &str) {
        let before = self.text.len();
        match self.style.append(date, level, line, &mut self.text) {
            // Lines of several processes must not mix.
            true if before > 0 && self.text.len() > WRITE_MAX => {
                let (whole, last) = self.text.split_at(before);
                (self.write)(whole);
                self.text = last.to_vec();
            }
            true => {}
            // A line that cannot be written is lost, because there is no other place to report
            // that.
            false => drop(nix::syslog::syslog(priority(level), line)),
        }
    }

    /// Writes the lines in the buffer.
    fn flush(&mut self) {
        if !self.text.is_empty() {
            (self.write)(&self.text);
            self.text.clear();
        }
    }
}

/// Writes to standard error. A line that cannot be written is lost, because there is no other place
/// to report that.
fn write_text(text: &[u8]) {
    drop(io::stderr().write_all(text));
}

/// Most bytes of several lines that are written together: PIPE_BUF of Linux. A pipe takes so many
/// at once, so that the lines of several processes do not mix.
const WRITE_MAX: usize = 4096;

/// Returns `text` with control characters escaped.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let mut line = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() {
            line.push_str(&format!("\\x{:02x}", u32::from(c)));
        } else {
            line.push(c);
        }
    }
    line
}

/// Format and destination of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogStyle {
    Dated,
    Journal,
    Syslog,
}

impl LogStyle {
    /// Returns the current time as lines of this style begin, or nothing if they have no date.
    fn date(self) -> String {
        match self {
            LogStyle::Journal | LogStyle::Syslog => String::new(),
            LogStyle::Dated => {
                let now = Timestamp::now().to_zoned(time_zone::local());
                now.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
            }
        }
    }

    /// Appends the line with its date or priority to `text`. Returns false if lines of this style
    /// are not text.
    fn append(self, date: &str, level: Level, line: &str, text: &mut Vec<u8>) -> bool {
        // Writing to a vector does not fail.
        drop(match self {
            LogStyle::Syslog => return false,
            LogStyle::Journal => writeln!(text, "<{}>{line}", severity(level) as i32),
            LogStyle::Dated => writeln!(text, "{date} {level:5} {line}"),
        });
        true
    }
}

/// True if standard error is the journal's socket, which `JOURNAL_STREAM` names as `device:inode`.
/// The variable alone does not suffice, because a shell below a service inherits it without the
/// socket.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    stderr
        .and_then(|file| file.metadata())
        .is_ok_and(|m| stream == format!("{}:{}", m.dev(), m.ino()))
}

fn priority(level: Level) -> Priority {
    Priority::new(severity(level), Facility::LOG_MAIL)
}

fn severity(level: Level) -> Severity {
    match level {
        Level::Error => Severity::LOG_ERR,
        Level::Warn => Severity::LOG_WARNING,
        Level::Info => Severity::LOG_INFO,
        Level::Debug | Level::Trace => Severity::LOG_DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_syslog_socket_is_found() {
        assert_eq!(
            missing_socket(&["/nonexistent/log", "/nonexistent/x"]),
            Some("/nonexistent/log")
        );
        assert_eq!(missing_socket(&["/nonexistent/log", "/dev/null"]), None);
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("plain".into()), "plain");
        assert_eq!(one_line("a\nb\u{7f}\u{9b}".into()), "a\\x0ab\\x7f\\x9b");
    }

    /// A writer that blocks forever does not delay the caller, and the lost lines are counted.
    #[test]
    fn a_blocked_log_does_not_block() {
        let lines = Arc::new(LineQueue::new(2));
        let queue = Arc::clone(&lines);
        let filter = env_logger::Builder::new().filter_level(LevelFilter::Info).build();
        let log = Queued { filter, lines, dropped: AtomicU64::new(0) };
        for _ in 0..5 {
            log.log(&Record::builder().level(Level::Info).args(format_args!("hello")).build());
        }
        assert_eq!(log.dropped.load(Ordering::Relaxed), 3);
        let mut taken = Vec::new();
        queue.take(&mut taken);
        assert_eq!(taken.len(), 2);
        log.log(&Record::builder().level(Level::Info).args(format_args!("again")).build());
        queue.take(&mut taken);
        let texts: Vec<_> = taken.into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["log-full lines=3", "again"]);
    }

    #[test]
    fn waiting_lines_are_written_together_and_whole() {
        let line = |n: usize| format!("{n:04} {}", "x".repeat(n % 500));
        let mut lines: Vec<_> = (0..200).map(|n| (Level::Info, line(n))).collect();
        lines.push((Level::Warn, "y".repeat(2 * WRITE_MAX)));
        let mut writes = Vec::new();
        LineBuffer::new(LogStyle::Journal, |text: &[u8]| {
            writes.push(String::from_utf8(text.to_vec()).unwrap());
        })
        .write_all(&lines);
        assert!(writes.iter().all(|text| text.ends_with('\n')));
        let long = writes.pop().unwrap();
        assert_eq!(long, format!("<4>{}\n", "y".repeat(2 * WRITE_MAX)));
        assert!(writes.iter().all(|text| text.len() <= WRITE_MAX));
        let expected: String = (0..200).map(|n| format!("<6>{}\n", line(n))).collect();
        assert_eq!(writes.concat(), expected);
        let fewest = expected.len().div_ceil(WRITE_MAX);
        assert!(writes.len() <= 2 * fewest, "{} writes, {fewest} would do", writes.len());
    }
}
