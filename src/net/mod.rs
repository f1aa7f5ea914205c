//! Sockets: opened, read and written with deadlines, in clear text or through TLS.
//!
//! | file | contains |
//! | --- | --- |
//! | `listen.rs` | addresses to listen on, and listening sockets |
//! | `kept.rs` | listening sockets that the service manager passes, and keeps during a restart |
//! | `socket.rs` | a connection: TCP, a Unix socket, or standard input and output |
//! | `server_socket.rs` | a connection with deadlines |
//! | `stream.rs` | a session's connection: buffers, command lines, mail data, replies |
//! | `session_handle.rs` | what other threads may see of a session and do to it |
//! | `deadline.rs` | the time left until a deadline |
//! | `disconnect.rs` | why a connection ends |
//! | `dns/` | a DNS resolver: MX and address records |
//! | `tls/` | TLS for servers and clients |

pub mod deadline;
mod disconnect;
pub mod dns;
pub mod kept;
pub mod listen;
mod server_socket;
mod session_handle;
mod socket;
pub mod stream;
#[cfg_attr(not(feature = "tls"), path = "tls/absent.rs")]
pub mod tls;
