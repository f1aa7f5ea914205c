//! The logger of this program. It keeps the lines about messages that were not delivered for the
//! tests, and prints what `RUST_LOG` selects: `RUST_LOG=warn` shows what recovery did.

use std::collections::HashMap;
use std::sync::{Mutex, Once, OnceLock};

/// Lines by the id of their message. The ids of each run are unique.
static LINES: OnceLock<Mutex<HashMap<String, Vec<String>>>> = OnceLock::new();

struct Logger {
    printer: env_logger::Logger,
}

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let events = ["delivery-failed", "mailbox-busy", "spool-failed", "content-lost"];
        let of_event = |event: &&str| line.strip_prefix(*event)?.strip_prefix(" message=");
        if let Some(rest) = events.iter().find_map(of_event) {
            let id = rest.split(' ').next().unwrap_or_default().to_owned();
            LINES.get_or_init(Mutex::default).lock().unwrap().entry(id).or_default().push(line);
        }
        self.printer.log(record);
    }

    fn flush(&self) {}
}

/// Starts the logger, unless another test has.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let quiet = env_logger::Env::default().default_filter_or("off");
        let printer = env_logger::Builder::from_env(quiet).build();
        log::set_max_level(printer.filter().max(log::LevelFilter::Info));
        log::set_boxed_logger(Box::new(Logger { printer })).unwrap();
    });
}

/// Removes and returns the log lines about a message.
pub fn logged(id: &str) -> Vec<String> {
    LINES.get_or_init(Mutex::default).lock().unwrap().remove(id).unwrap_or_default()
}
