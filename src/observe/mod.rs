//! The interfaces for the administrator: the log and its events, the counters, the metrics.

pub mod counters;
pub mod events;
pub mod logging;
pub mod metrics;
pub mod quote;
