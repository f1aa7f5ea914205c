//! Sockets: opened, read and written with deadlines, in clear text or through TLS.

pub mod listen;
mod server_socket;
pub mod session_handle;
pub mod socket;
pub mod stream;
#[cfg_attr(not(feature = "tls"), path = "tls/absent.rs")]
pub mod tls;
