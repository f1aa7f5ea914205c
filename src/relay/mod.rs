//! Outbound mail: the queue, the client that sends its entries, and the reports about them; and the
//! directory in which programs of this host leave mail while the server does not run.
//!
//! | file | contains |
//! | --- | --- |
//! | `queue/` | the entries of the queue, and the threads that send them |
//! | `client/` | the SMTP client, and the logins for smarthosts |
//! | `mail_hosts.rs` | the hosts that take mail for a domain, by DNS |
//! | `sender_map.rs` | the senders that a smarthost accepts, for local senders |
//! | `from_field.rs` | the replacement of the address in the From field |
//! | `dsn_message.rs` | the message that reports a delivery status |
//! | `report_subject.rs` | the subject of a report |
//! | `advice.rs` | the advice for the sender in a report |
//! | `hand_over.rs` | the hand-over directory |

mod advice;
pub mod client;
pub mod dsn_message;
mod from_field;
pub mod hand_over;
pub mod mail_hosts;
pub mod queue;
mod report_subject;
mod sender_map;

pub use sender_map::SenderMap;
