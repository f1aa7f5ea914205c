//! The log: lines to standard error or syslog. The lines come from [`events`] alone, which quotes
//! their values; a control character in a line that a library logs is escaped here.
//!
//! Lines go through a bounded channel to a thread that writes them, so that a full pipe or a
//! stopped syslog daemon never delays mail. While [`QUEUE`] lines wait, further ones are dropped,
//! and their number is logged when there is room. A process that exits must therefore call
//! `log::logger().flush()` first, which waits at most a second. The program sets a panic hook that
//! logs, because the standard one writes to standard error.
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use jiff::Timestamp;
use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::syslog::{Facility, LogFlags, Priority, Severity};

use super::events;
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
    let (lines, queue) = bounded(QUEUE);
    log::set_max_level(filter.filter());
    log::set_boxed_logger(Box::new(Queued { filter, lines, dropped: AtomicU64::new(0) }))
        .map_err(io::Error::other)?;
    Ok(PendingLog(Some((queue, style))))
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
pub struct PendingLog(Option<(Receiver<LogItem>, LogStyle)>);

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
            Ok(()) => write_lines(&queue, |level, line| style.write(level, line)),
            Err(e) => {
                let (level, line) = events::log_failed(e);
                drop(style.write(level, &line));
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

/// A request to the writing thread.
#[derive(Debug)]
enum LogItem {
    Line(Level, String),
    /// Is answered when everything before it is written.
    Flush(Sender<()>),
}

/// The logger that filters lines and queues them. It never waits.
struct Queued {
    filter: env_logger::Logger,
    lines: Sender<LogItem>,
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
            if self.lines.try_send(LogItem::Line(level, line)).is_err() {
                self.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
        let line = LogItem::Line(record.level(), one_line(record.args().to_string()));
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        let (done, wait) = bounded(1);
        let limit = Duration::from_secs(1);
        if self.lines.send_timeout(LogItem::Flush(done), limit).is_ok() {
            let _ = wait.recv_timeout(limit);
        }
    }
}

/// Writes the queued lines. A line that cannot be written is lost, because there is no other place
/// to report that.
fn write_lines(queue: &Receiver<LogItem>, write: impl Fn(Level, &str) -> io::Result<()>) {
    for item in queue {
        match item {
            LogItem::Line(level, line) => drop(write(level, &line)),
            LogItem::Flush(done) => drop(done.send(())),
        }
    }
}

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
    fn write(self, level: Level, line: &str) -> io::Result<()> {
        let severity = severity(level);
        if self == LogStyle::Syslog {
            nix::syslog::syslog(Priority::new(severity, Facility::LOG_MAIL), line)?;
            return Ok(());
        }
        // One write(2) for a line, because lines of several processes must not mix.
        let text = match self {
            LogStyle::Journal => format!("<{}>{line}\n", severity as i32),
            _ => {
                let now = Timestamp::now().to_zoned(time_zone::local());
                let now = now.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z");
                format!("{now} {level:5} {line}\n")
            }
        };
        io::stderr().write_all(text.as_bytes())
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
        let (lines, queue) = bounded(2);
        let filter = env_logger::Builder::new().filter_level(LevelFilter::Info).build();
        let log = Queued { filter, lines, dropped: AtomicU64::new(0) };
        for _ in 0..5 {
            log.log(&Record::builder().level(Level::Info).args(format_args!("hello")).build());
        }
        assert_eq!(log.dropped.load(Ordering::Relaxed), 3);
        assert_eq!(queue.try_iter().count(), 2);
        log.log(&Record::builder().level(Level::Info).args(format_args!("again")).build());
        let texts = queue.try_iter().map(|item| match item {
            LogItem::Line(_, text) => text,
            LogItem::Flush(_) => "flush".into(),
        });
        assert_eq!(texts.collect::<Vec<_>>(), ["log-full lines=3", "again"]);
    }
}
