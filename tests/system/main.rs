//! Tests that need more than cargo: root, strace, namespaces, or programs of other projects. They
//! run with `--ignored`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

mod abuse;
mod bench;
mod boot;
mod clients;
mod completions;
mod control;
mod corpus;
mod debian_roots;
#[cfg(target_os = "linux")]
mod disk_faults;
#[cfg(target_os = "linux")]
mod hand_over;
mod held_callers;
#[cfg(target_os = "linux")]
mod held_kill;
#[cfg(target_os = "linux")]
mod inetd_kill;
#[cfg(target_os = "linux")]
mod kill;
#[cfg(feature = "tls")]
mod mail_servers;
mod mx_routes;
#[cfg(feature = "tls")]
mod mx_servers;
#[cfg(target_os = "linux")]
mod power_loss;
mod privilege;
#[cfg(target_os = "linux")]
mod queue_kill;
#[cfg(feature = "tls")]
mod queue_mail_servers;
mod queue_network;
mod readers;
#[cfg(target_os = "linux")]
mod readers_soak;
mod sendmail_callers;
mod smtp_sender;
mod super_servers;
#[cfg(target_os = "linux")]
mod systemd;
#[cfg(feature = "tls")]
mod tls_clients;
