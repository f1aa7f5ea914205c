//! Quick tests of the library, without the program: one module for each subject. No test here
//! starts a process. A child has copies of all descriptors until it runs its program, and with them
//! locks and ends of sockets of tests that run at the same time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

mod deliver;
mod dns;
mod held;
mod local_addresses;
mod log_events;
mod mbox;
mod message;
mod queue;
mod queue_routes;
mod reports;
mod route_aliases;
mod route_expand;
mod route_forward;
mod route_source;
mod server;
mod session;
mod session_recipient_limiter;
mod smtp_chunking;
mod smtp_conversion;
mod smtp_fuzz;
mod smtp_model;
mod smtp_per_recipient;
mod smtp_receiver;
mod smtp_sender;
mod smtp_sender_faults;
#[cfg(feature = "tls")]
mod smtp_sender_server;
mod terminal;
mod terminal_session;
#[cfg(feature = "tls")]
mod tls_faults;
#[cfg(feature = "tls")]
mod tls_session;
mod vital_thread;
