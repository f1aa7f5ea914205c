//! Tests that need more than cargo does: root, strace, or programs of others. They are ignored
//! unless `--ignored` asks for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

mod abuse;
mod boot;
mod clients;
mod corpus;
#[cfg(target_os = "linux")]
mod faults;
mod inetd;
#[cfg(target_os = "linux")]
mod kill;
#[cfg(target_os = "linux")]
mod locks_and_readers;
#[cfg(feature = "tls")]
mod mail_servers;
mod privilege;
#[cfg(target_os = "linux")]
mod queue_kill;
mod queue_link;
mod queue_mail_servers;
mod readers;
mod sendmail_callers;
mod smtp_sender;
#[cfg(feature = "tls")]
mod tls_clients;
