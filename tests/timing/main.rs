//! Tests that measure time, memory or descriptors of the program, so other work on the machine
//! could make them fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod overload;

/// Lock for the machine. Tests that may run at the same time hold it to read, others to write.
static MACHINE: RwLock<()> = RwLock::new(());

/// Waits until no other test of this program runs.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no test that must run alone is running.
fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
