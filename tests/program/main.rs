//! Quick tests of the real program, as cargo built it: a module for each subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

mod abuse;
mod check;
mod check_cures;
mod dialogues;
mod dsn;
mod inetd;
mod lmtp;
mod metrics;
mod options;
mod queue_lists;
mod queue_rules;
mod replies;
mod sandbox;
mod sendmail;
mod server;
mod smtp_utf8;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
mod tls_absent;
#[cfg(feature = "tls")]
mod tls_dialogues;
