//! The process itself: its privileges, and the confinement that it applies to itself.

pub mod confinement;
pub mod privilege;
