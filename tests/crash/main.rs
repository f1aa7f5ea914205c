//! The writer on a simulated disk that fails, is killed and loses power at every call.
//! `MAILSLOT_FAULTS=N` tries N times as many faults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

mod crashes;
mod damage;
mod faults;
mod held;
mod logger;
mod model;
mod shared_spool;
