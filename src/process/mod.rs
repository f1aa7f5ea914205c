//! The process itself: its privileges, its limit of descriptors, its time zone, and the confinement
//! that it applies to itself.
//!
//! | file | contains |
//! | --- | --- |
//! | `privilege/` | the switch to another user, and access to mailboxes as their owners |
//! | `confinement/` | Landlock: the files and ports that the process can open |
//! | `descriptors.rs` | the limit of open descriptors |
//! | `time_zone.rs` | the time zone: that of `TZ`, or of the host |

pub mod confinement;
pub mod descriptors;
pub mod privilege;
pub mod time_zone;
