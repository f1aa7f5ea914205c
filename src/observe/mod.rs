//! The interfaces for the administrator: the log and its events, the counters, the metrics, the
//! progress of long work, and the end of the process if a thread dies.
//!
//! | file | contains |
//! | --- | --- |
//! | `events.rs` | the events of the log, one function for each |
//! | `logging.rs` | the log: lines to standard error or syslog |
//! | `line_queue.rs` | the lines between the threads that log and the thread that writes |
//! | `quote.rs` | quoting of values for log lines and shell commands |
//! | `counters.rs` | the counters |
//! | `metrics.rs` | the counters in a file for Prometheus |
//! | `progress.rs` | a line that shows the progress of long work |
//! | `vital_thread.rs` | threads without which the process is of no use |

pub mod counters;
pub mod events;
mod line_queue;
pub mod logging;
pub mod metrics;
pub mod progress;
pub mod quote;
pub mod vital_thread;
