//! What the test programs share: servers, clients, messages, disks and hosts of a test's own.
#![allow(dead_code)] // each test program uses a part

pub mod abuse;
pub mod cast;
pub mod delivery;
pub mod dialogue;
pub mod host;
pub mod ledger;
pub mod machine;
pub mod mail;
pub mod mta;
pub mod outside;
pub mod peers;
pub mod program;
pub mod ptys;
pub mod sender;
pub mod server;
pub mod sim;
#[cfg(feature = "tls")]
pub mod tls;
