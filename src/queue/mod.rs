//! Mail for other hosts, until it is sent or its sender is told that it cannot be.
pub mod entry;
pub mod state;
