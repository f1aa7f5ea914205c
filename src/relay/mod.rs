//! Outbound mail: the queue, the client that sends its entries, and the reports about them; and the
//! directory in which programs of this host leave mail while the server does not run.

mod advice;
pub mod client;
pub mod dsn_message;
mod from_field;
pub mod hand_over;
pub mod queue;
mod report_subject;
mod sender_map;

pub use sender_map::SenderMap;
