//! mailslot: mail comes in by SMTP and lies, safely on disk, in the mailbox of a local user before
//! the sender is told `250`.
//!
//! ```text
//!  options -> config -> main
//!                        |
//!    listen  ->  server  ->  session  <---------->  smtp::Receiver bytes in, replies out, no I/O
//!   (sockets)   (accept,    (one connection:  \
//!                pool)       bytes, deadlines) \->  route          who is local? where does it go?
//!                               |
//!                               | Message = envelope + content + destinations
//!                               v
//!                        deliver::Post  ==bounded channel==>  deliver::writer  ->  mbox | queue
//!                               ^                                   |
//!                               +-------------- Outcome ------------+   250 only after this
//! ```
//!
//! Each room is a module, and imports go one way, from right to left:
//! `smtp < message < {route, deliver} < session < server < main`; `tests/tidy.rs` holds it.
//!
//! - [`smtp`] is the protocol's words and its state machine. It is pure: no socket, file or clock.
//! - [`message`] is what travels; [`trace`] writes the lines a receiver adds to it, and [`report`]
//!   the message that tells of its delivery.
//! - [`route`] says who is local and where an address leads.
//! - [`deliver`] is the disk. It knows no SMTP verb.
//! - [`session`] is the one place where these meet: one connection.
//! - [`server`] accepts, keeps the pool and stops; [`listen`] opens sockets, [`stream`] reads and
//!   writes with deadlines, in clear text or through [`tls`].
//! - [`client`] sends messages to another server; it does for [`smtp::Sender`] what the session
//!   does for the receiver.
//! - [`sendmail`] is a program of its own, by which others on this host hand over messages.
//! - [`queue`] is mail for other hosts: it waits for the client, or for its sender to be told.
//! - [`options`] and [`config`] turn the command line and the configuration file into one struct.
//! - [`privilege`] is who the process is, and as whom the writer touches a mailbox; [`confine`] is
//!   the sandbox that it locks itself into.
//! - [`counters`], [`metrics`] and [`logging`] are what an administrator sees.
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
pub mod terminal;
