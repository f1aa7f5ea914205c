//! The protocol, without I/O (RFC 821, RFC 5321): no socket, file, clock or thread is used here.
//!
//! The [`Receiver`] is the state machine of a server. Command lines and mail data go in, a
//! [`Reply`] and an [`Envelope`] come out. The [`Sender`] is the state machine of a client.
//!
//! | file | contains |
//! | --- | --- |
//! | `config.rs` | the configuration of a receiver |
//! | `client_name.rs` | the name in HELO, EHLO and LHLO |
//! | `path/` | mailboxes, domains, address literals, reverse-path and forward-path |
//! | `parameter.rs` | the `KEYWORD=value` parameters of MAIL and RCPT |
//! | `command/` | the parser of command lines |
//! | `reply.rs` | all replies of the server |
//! | `data/` | mail data sent by DATA: its end, dots, line ends, size |
//! | `chunk.rs` | mail data sent by BDAT |
//! | `dsn.rs` | the parameters that ask for delivery status notifications |
//! | `envelope.rs` | reverse-path, recipients and parameters of a transaction |
//! | `receiver.rs` | the state machine of one connection to a server |
//! | `sender/` | the state machine of one connection to another server |
//! | `testing.rs` | entry points for fuzzers and for tests of dialogues; not in a release |

pub mod chunk;
pub mod client_name;
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

pub use client_name::ClientName;
pub use config::{ReceiverConfig, StartTlsMode};
pub use envelope::{BodyType, Delivery, Envelope, Recipient};
pub use path::{AddressLiteral, Domain, EtrnNode, ForwardPath, Mailbox, ReversePath};
pub use receiver::{Hello, Host, Protocol, Receiver, ReplyMode, Step};
pub use reply::Reply;
pub use sender::Sender;
