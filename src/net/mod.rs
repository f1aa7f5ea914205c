//! Sockets: opened, read and written with deadlines, in clear text or through TLS.

mod disconnect;
pub mod listen;
mod server_socket;
mod session_handle;
mod socket;
pub mod stream;
#[cfg_attr(not(feature = "tls"), path = "tls/absent.rs")]
pub mod tls;
