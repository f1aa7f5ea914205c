//! A connection that sends no message, to see whether the server can be used.

use std::net::SocketAddr;
use std::time::Duration;

use super::client_socket::ClientSocket;
use super::{
    ClientConfig, Connection, ServerAddress, Timeouts, cannot_connect, look_up, no_address,
};
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
    let timeouts = Timeouts {
        connect: STAGE_TIMEOUT,
        greeting: STAGE_TIMEOUT,
        command: STAGE_TIMEOUT,
        ..config.timeouts
    };
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
    let (host, port) = match address {
        ServerAddress::Unix(path) => {
            let connected = ClientSocket::unix(path, STAGE_TIMEOUT);
            return connected.map_err(|e| cannot_connect(address, &e));
        }
        ServerAddress::Tcp { host, port, .. } => (host.as_str(), *port),
    };
    let mut last = no_address(address);
    for ip in look_up(host, port)? {
        match ClientSocket::tcp(ip, STAGE_TIMEOUT) {
            Ok(socket) => return Ok(socket),
            Err(e) => last = cannot_connect(address, &e),
        }
    }
    Err(last)
}

/// The time that each stage may take.
const STAGE_TIMEOUT: Duration = Duration::from_secs(30);
