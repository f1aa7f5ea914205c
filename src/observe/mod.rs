//! What an administrator sees: the log and the counters.

pub mod counters;
pub mod logging;
pub mod metrics;
