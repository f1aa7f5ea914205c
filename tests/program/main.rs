//! Quick tests of the real program, as cargo built it: one module for each subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

mod abuse;
mod check;
mod check_agrees;
mod check_fixes;
mod control;
#[cfg(target_os = "linux")]
mod descriptors;
mod dialogues;
mod disk_faults;
mod dsn;
mod hand_over;
mod held;
mod inetd;
#[cfg(target_os = "linux")]
mod kill;
mod lmtp;
#[cfg(target_os = "linux")]
mod locks;
mod log;
#[cfg(target_os = "linux")]
mod memory;
mod metrics;
mod options;
mod prdr;
#[cfg(target_os = "linux")]
mod progress;
mod relay_lists;
mod relay_rules;
mod replies;
mod sandbox;
mod sendmail;
mod service;
mod signals;
mod smarthost;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
mod tls_absent;
#[cfg(feature = "tls")]
mod tls_dialogues;
mod utf8;
