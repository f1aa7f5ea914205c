//! mailslot receives mail by SMTP and stores it durably in the mailbox of a local user before the
//! sender gets `250`.
//!
//! ```text
//!  command line, file                                            another host
//!        |                                                            ^
//!        v                                                            |
//!      config ---> main                                             relay
//!                   |                                               ^   |
//!   net::listen -> server ---> session <-> smtp::Receiver           |   | reports
//!   (sockets)     (accept,     (one connection:  \                  |   v
//!                  admission,   bytes, deadlines) \-> route      queue entry
//!                  pool)          |                                   ^
//!                                 | Message = id, content, destinations
//!                                 v                                   |
//!                  WriterHandle ==bounded channel==> writer ---> journal, mailbox
//!                                 ^                    |
//!                                 +----- Outcome ------+   250 only after this
//! ```
//!
//! # Modules
//!
//! Imports go one way, from the rows below to the rows above; `tests/tidy.rs` holds it.
//!
//! | module | contains |
//! | --- | --- |
//! | [`smtp`] | the protocol without I/O: commands, replies, the receiver's and the sender's state machines |
//! | [`process`] | privileges, and the confinement that the process applies to itself |
//! | [`observe`] | log events, counters, metrics |
//! | [`message`] | a message and its content, the trace fields that a receiver adds |
//! | [`net`] | sockets: opened, read and written with deadlines, in clear text or TLS |
//! | [`route`] | which addresses are local, and where an address leads: users, aliases, forward files |
//! | [`terminal`] | SEND, SOML and SAML: messages on the terminals of users |
//! | [`deliver`] | the writer, its journal and recovery, mailboxes and their locks |
//! | [`relay`] | the queue, the client that empties it, the reports to senders |
//! | [`session`] | one connection: the place where the modules above meet |
//! | [`server`] | the acceptor, admission, the thread pool, signals and shutdown |
//! | [`config`] | the table of options, the configuration file, the values of both |
//! | [`sysexits`] | the exit statuses of both programs |
//! | [`check`], [`sendmail`] | `mailslot check`, and the sendmail(1) program |
//!
//! # How a message travels
//!
//! @WAY@
//!
//! # Glossary
//!
//! | word | meaning |
//! | --- | --- |
//! | admission | the decision whether a connection gets a thread, and which idle one loses its own |
//! | batch | messages that the writer commits with one sync |
//! | checkpoint | the sync of all mailboxes written to since the last one; the journal's older records are then not needed |
//! | client, server | the ends of an SMTP connection; mailslot is either |
//! | confinement | the Landlock rules that limit which files and ports the process can open |
//! | content | a message as the mailbox stores it, without the lines that differ between copies |
//! | deferred, rejected | answered 4yz (the client tries again), answered 5yz |
//! | destination | a mailbox, or an entry in the queue |
//! | dotlock | the file `USER.lock` beside a mailbox |
//! | DSN | a delivery status notification (RFC 3464): the report to a sender |
//! | entry | one message in the queue, for one or more recipients on other hosts |
//! | envelope | reverse-path, recipients and parameters of one transaction |
//! | journal | the file in the spool that makes a batch durable before the mailboxes are |
//! | mailbox | an mbox file, and in an address the part that names it |
//! | outcome | the writer's answer about one message: delivered, deferred, or over quota |
//! | overload | the state of a nearly full server, in which clients get less time |
//! | resolution | the destinations of one address |
//! | session | one connection, from the greeting to its end |
//! | smarthost | the server that takes mail for other hosts |
//! | spool | the directory of mailslot's own files: journals, large messages, the queue |
//! | transaction | MAIL, RCPT and DATA of one message |
//! | writer | the one thread that appends to mailboxes |
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod check;
pub mod config;
pub mod deliver;
pub mod message;
pub mod net;
pub mod observe;
pub mod process;
pub mod relay;
pub mod route;
pub mod sendmail;
pub mod server;
pub mod session;
pub mod smtp;
pub mod sysexits;
pub mod terminal;
