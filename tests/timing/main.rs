//! Tests that measure time, memory or descriptors of the program, and want the machine for
//! themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // so a test fails

#[path = "../harness/mod.rs"]
mod harness;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod overload;

/// Those that may run beside each other hold it to read, the others to write.
static MACHINE: RwLock<()> = RwLock::new(());

/// Has the machine for itself until it is dropped.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Shares the machine, until it is dropped, with others that share it.
fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
