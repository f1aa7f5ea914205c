//! The protocol's words and its state machine (RFC 821, RFC 5321). Pure: no socket, no file, no
//! clock, no thread. Bytes and lines come in, [`Reply`]s and an [`Envelope`] go out; and the other
//! way round in the [`Sender`].
//!
//! | file | owns |
//! | --- | --- |
//! | `path.rs` | mailboxes, domains, address literals, reverse-path and forward-path |
//! | `param.rs` | the `KEY=value` parameters of MAIL and RCPT |
//! | `command.rs` | one command line to one [`Command`](command::Command) |
//! | `reply.rs` | the server's whole voice |
//! | `data.rs` | mail data: end of data, dots, line ends, sizes |
//! | `chunk.rs` | mail data in chunks |
//! | `dsn.rs` | what a sender asks of delivery reports |
//! | `envelope.rs` | the transaction: who from, who to |
//! | `receiver.rs` | the state machine of one connection |
//! | `sender.rs` | the other end: the state machine of a client |
//! | `fuzz.rs` | what fuzzers and the tests of dialogues call |

pub mod chunk;
pub mod command;
pub mod config;
pub mod data;
pub mod dsn;
pub mod envelope;
pub mod parameter;
pub mod path;
pub mod receiver;
pub mod reply;
pub mod sender;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use config::{ReceiverConfig, StartTlsMode};
pub use envelope::{BodyType, Delivery, Envelope, Recipient};
pub use path::{AddressLiteral, Domain, EtrnNode, ForwardPath, Mailbox, ReversePath};
pub use receiver::{Hello, Host, Protocol, Receiver, ReplyMode, Step};
pub use reply::Reply;
pub use sender::Sender;
