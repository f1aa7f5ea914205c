//! Outbound mail: the queue, the client that sends its entries, and the reports about them.

pub mod client;
pub mod dsn_message;
mod from_field;
pub mod queue;
mod sender_map;

pub use sender_map::SenderMap;
