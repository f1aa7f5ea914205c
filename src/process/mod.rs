//! The process itself: its privileges, its limit of descriptors, its time zone, and the confinement
//! that it applies to itself.

pub mod confinement;
pub mod descriptors;
pub mod privilege;
pub mod time_zone;
