//! Outbound mail: the queue, the client that sends its entries, and the reports about them.

mod advice;
pub mod client;
pub mod dsn_message;
pub mod queue;
mod report_subject;
