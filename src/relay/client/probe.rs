//! A connection that sends no message, to see whether the server can be used.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use super::client_socket::ClientSocket;
use super::{ClientConfig, Connection, ServerAddress, Timeouts};
use crate::net::tls::{PeerCertificate, TlsInfo};
use crate::smtp::sender::{Extensions, OutcomeReason};

/// The state of a session after everything up to AUTH.
#[derive(Debug)]
pub struct ProbeResult {
    /// The address of the server, or None for a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The parameters of TLS, or None in clear text.
    pub tls: Option<TlsInfo>,
    /// The certificate of the server, inside TLS.
    pub certificate: Option<PeerCertificate>,
    /// The extensions that the server offers.
    pub extensions: Extensions,
    /// The error that ended the session. None if mail can be sent.
    pub error: Option<OutcomeReason>,
}

/// Connects to the first address of `address` that accepts a connection, opens a session up to AUTH
/// as for a message, and ends it. Each stage may take half a minute.
///
/// # Errors
/// The reason why there is no connection.
pub fn probe(address: &ServerAddress, config: &ClientConfig) -> Result<ProbeResult, OutcomeReason> {
    let timeouts =
        Timeouts { connect: PATIENCE, greeting: PATIENCE, command: PATIENCE, ..config.timeouts };
    let config = ClientConfig { timeouts, ..config.clone() };
    let (connection, error) = Connection::begin(address, &config, open_socket(address)?, true);
    let result = ProbeResult {
        peer: connection.socket.peer(),
        tls: connection.tls.clone(),
        certificate: connection.socket.certificate(),
        extensions: connection.sender.extensions().clone(),
        error: error.map(|error| error.reason),
    };
    // After an error the sender has sent QUIT, or the server does not understand it.
    if result.error.is_none() {
        connection.quit();
    }
    Ok(result)
}

fn open_socket(address: &ServerAddress) -> Result<ClientSocket, OutcomeReason> {
    let no_connection =
        |e| OutcomeReason::local((4, 4, 1), &format!("cannot connect to {address}: {e}"));
    let (host, port) = match address {
        ServerAddress::Unix(path) => {
            return ClientSocket::unix(path, PATIENCE).map_err(no_connection);
        }
        ServerAddress::Tcp { host, port, .. } => (host.as_str(), *port),
    };
    let found = (host, port).to_socket_addrs().map_err(|e| {
        OutcomeReason::local((4, 4, 3), &format!("{host} cannot be looked up: {e}"))
    })?;
    let mut last = OutcomeReason::local((4, 4, 3), &format!("{host} has no address"));
    for ip in found {
        match ClientSocket::tcp(ip, PATIENCE) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = no_connection(e),
        }
    }
    Err(last)
}

/// The time that each stage may take.
const PATIENCE: Duration = Duration::from_secs(30);
