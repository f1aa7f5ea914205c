//! Outbound mail: the queue, the client that sends its entries, and the reports about them.

pub mod client;
pub mod dsn_message;
pub mod mail_hosts;
pub mod queue;
