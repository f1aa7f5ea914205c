//! Outbound mail: the queue, the client that sends it, and the reports about it.

pub mod client;
pub mod dsn_message;
pub mod queue;
