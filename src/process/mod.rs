//! The process itself: its privileges, its limit of descriptors, the threads that it cannot do
//! without, and the confinement that it applies to itself.

pub mod confinement;
pub mod descriptors;
pub mod privilege;
pub mod vital_thread;
