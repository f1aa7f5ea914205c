//! The counters in a file, for node_exporter's text collector (Prometheus text format 0.0.4).
//!
//! ```text
//! # HELP mailslot_sessions_total Sessions that began.
//! # TYPE mailslot_sessions_total counter
//! mailslot_sessions_total 42
//! ```
//! A separate thread writes the file when it starts, every [`INTERVAL`], and when it stops, so mail
//! does not wait for it. The file is readable by all users (0644), and a rename puts it in place,
//! so a reader never sees a part of it. A failure is logged once, and so is its end.
//!
//! Names follow the conventions of Prometheus. A number that only grows ends in `_total`; units are
//! seconds and bytes. The greatest value since the start is a gauge and ends in `_max`.

use std::fmt::{self, Write as _};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::counters::Counters;
use super::events;

/// Time between two writes of the file; a Prometheus server by default asks for it as often.
pub const INTERVAL: Duration = Duration::from_secs(15);

/// The thread that writes the file.
#[derive(Debug)]
pub struct Metrics {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Metrics {
    /// Starts to write `counters` to the file `path`, which is replaced. A file that cannot be
    /// written is logged.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(path: PathBuf, counters: Arc<Counters>) -> io::Result<Metrics> {
        Metrics::start_every(INTERVAL, path, counters)
    }

    fn start_every(
        interval: Duration,
        path: PathBuf,
        counters: Arc<Counters>,
    ) -> io::Result<Metrics> {
        let since = SystemTime::now();
        let (stop, stopped) = bounded(0);
        let thread = thread::Builder::new().name("metrics".into()).spawn(move || {
            let mut wait = Duration::ZERO;
            let mut fails = false;
            loop {
                let last = stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
                let written = replace(&path, text(&counters, since).as_bytes());
                log_change(&path, &written, fails);
                fails = written.is_err();
                if last {
                    break;
                }
                wait = interval;
            }
        })?;
        Ok(Metrics { stop, thread })
    }

    /// Waits until the file is written a last time.
    pub fn stop(self) {
        drop(self.stop);
        // A panic was logged.
        let _ = self.thread.join();
    }
}

/// Returns the text of the file; `since` is the time at which the process started.
pub fn text(counters: &Counters, since: SystemTime) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, value: &dyn fmt::Display| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "# HELP mailslot_{name} {help}");
        let _ = writeln!(text, "# TYPE mailslot_{name} {kind}");
        let _ = writeln!(text, "mailslot_{name} {value}");
    };
    for (name, help, n) in counters.list() {
        match name {
            "octets" => metric("message_bytes_total", "counter", help, &n),
            "batch_max" => metric("batch_messages_max", "gauge", help, &n),
            "slowest_ms" => {
                let help = "The slowest delivery from the end of data to its outcome.";
                metric("delivery_seconds_max", "gauge", help, &(n as f64 / 1000.0));
            }
            name => metric(&format!("{name}_total"), "counter", help, &n),
        }
    }
    let start = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metric("start_time_seconds", "gauge", "Start of the process since 1970.", &start.as_secs());
    text
}

/// Replaces the file `path` by one with these bytes. A temporary file that a killed process left is
/// removed, and so is a link in its place, which is not followed.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    // The collector reads only names that end in .prom.
    temporary.push(".new");
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
    // The umask may be stricter, and the collector runs as another user.
    let written = file
        .set_permissions(Permissions::from_mode(0o644))
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Logs that the file cannot be written any more, or can be written again.
fn log_change(path: &Path, written: &io::Result<()>, failed_before: bool) {
    match written {
        Err(e) if !failed_before => events::metrics_failed(path.display(), e),
        Ok(()) if failed_before => events::metrics_restored(path.display()),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Returns name, type and value of each metric. It is as strict as the documented format.
    fn parse(text: &str) -> Vec<(String, String, f64)> {
        let mut names = HashSet::new();
        assert!(text.ends_with('\n'));
        let lines: Vec<&str> = text.strip_suffix('\n').unwrap().split('\n').collect();
        let (metrics, rest) = lines.as_chunks::<3>();
        assert!(rest.is_empty());
        let parsed = metrics.iter().map(|[help, kind, sample]| {
            let (name, help) =
                help.strip_prefix("# HELP ").and_then(|help| help.split_once(' ')).unwrap();
            assert!(!help.is_empty() && !help.contains('\\'), "{help}");
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            let value = sample.strip_prefix(&format!("{name} ")).unwrap();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(["counter", "gauge"].contains(&kind), "{kind}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            assert!(names.insert(name.to_owned()), "{name} twice");
            (name.to_owned(), kind.to_owned(), value.parse().unwrap())
        });
        parsed.collect()
    }

    #[test]
    fn every_counter_is_a_metric() {
        let counters = Counters::default();
        counters.sessions.add(3);
        counters.octets.add(u64::MAX);
        counters.slowest_ms.at_least(1234);
        counters.batch_max.at_least(7);
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_751_359_957);
        let text = text(&counters, since);
        let metrics = parse(&text);
        assert_eq!(metrics.len(), counters.list().len() + 1);
        let is = |name: &str, kind: &str, value: f64| {
            assert!(metrics.contains(&(name.to_owned(), kind.to_owned(), value)), "{name}\n{text}");
        };
        is("mailslot_sessions_total", "counter", 3.0);
        is("mailslot_messages_total", "counter", 0.0);
        is("mailslot_message_bytes_total", "counter", u64::MAX as f64);
        is("mailslot_batch_messages_max", "gauge", 7.0);
        is("mailslot_delivery_seconds_max", "gauge", 1.234);
        is("mailslot_start_time_seconds", "gauge", 1_751_359_957.0);
        assert!(text.starts_with(
            "# HELP mailslot_sessions_total Sessions that began.\n\
             # TYPE mailslot_sessions_total counter\nmailslot_sessions_total 3\n"
        ));
    }

    #[test]
    fn the_file_is_replaced_and_readable_by_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mailslot.prom");
        let precious = directory.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        // A link in the place of the temporary file must not be followed.
        std::os::unix::fs::symlink(&precious, directory.path().join("mailslot.prom.new")).unwrap();
        let counters = Arc::new(Counters::default());
        let interval = Duration::from_millis(1);
        let metrics = Metrics::start_every(interval, path.clone(), counters.clone()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        let sessions = || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            if text.is_empty() { None } else { Some(parse(&text)[0].2) }
        };
        counters.sessions.one();
        while sessions() != Some(1.0) {
            assert!(std::time::Instant::now() < deadline);
        }
        counters.sessions.one();
        metrics.stop();
        assert_eq!(sessions(), Some(2.0), "the last word");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
