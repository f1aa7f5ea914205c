//! The interfaces for the administrator: the log and its events, the counters, the metrics, the
//! progress of long work, and the end of the process if a thread dies.

pub mod counters;
pub mod events;
mod line_queue;
pub mod logging;
pub mod metrics;
pub mod progress;
pub mod quote;
pub mod vital_thread;
