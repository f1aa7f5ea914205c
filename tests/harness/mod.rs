//! What the test programs share: servers, clients, messages, disks and hosts of a test's own.
#![allow(dead_code)] // each test program uses a part

pub mod abuse;
pub mod container;
pub mod delivery;
pub mod dialogue;
pub mod external;
pub mod fixtures;
pub mod ledger;
pub mod library;
pub mod mail_servers;
pub mod mbox;
pub mod outside;
pub mod scripted_server;
pub mod server;
pub mod sim_disk;
pub mod terminals;
pub mod test_host;
#[cfg(feature = "tls")]
pub mod tls;
