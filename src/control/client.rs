//! One request to the running server.

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use super::{ANSWER_MAX, ControlAnswer, ControlRequest, TIMEOUT, control_socket};
use crate::relay::client;

/// Asks the server with this spool. Returns None if there is none. Waits for a flush as long as it
/// takes.
///
/// # Errors
/// The server does not answer, or its answer is cut short. `PermissionDenied` if this user cannot
/// reach the socket, so that it is not known whether there is a server.
pub fn ask(spool: &Path, request: &ControlRequest) -> io::Result<Option<ControlAnswer>> {
    let path = control_socket(spool);
    let mut socket = match client::connect_unix(&path, TIMEOUT) {
        Ok(socket) => socket,
        Err(e) if is_absent(&e) => return Ok(None),
        Err(e) => return Err(named(&path, e)),
    };
    let flushes = matches!(request, ControlRequest::Flush(_));
    let asked = socket
        .set_read_timeout(if flushes { None } else { Some(6 * TIMEOUT) })
        .and_then(|()| socket.set_write_timeout(Some(TIMEOUT)))
        .and_then(|()| socket.write_all(format!("{}\n", request.line()).as_bytes()));
    let mut lines = Vec::new();
    let answered = match asked {
        // A server that is busy answers without reading.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e),
        _ => socket.take(ANSWER_MAX).read_to_end(&mut lines),
    };
    let answer = String::from_utf8(lines).ok().and_then(|lines| ControlAnswer::parse(&lines));
    match (answer, answered) {
        (Some(answer), _) => Ok(Some(answer)),
        (None, Err(e)) => Err(named(&path, e)),
        (None, Ok(_)) => Err(named(&path, io::Error::other("the answer is cut short"))),
    }
}

/// True if an error of connect(2) means that no server listens there.
fn is_absent(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::NotFound
            | ErrorKind::ConnectionRefused
            | ErrorKind::NotADirectory
            | ErrorKind::InvalidInput
    )
}

/// Asks the server like [`ask`]. Returns None if this user cannot reach the socket, too, because
/// the user may then do the work without the server.
///
/// # Errors
/// The server does not answer, or its answer is cut short.
pub fn ask_if_reachable(
    spool: &Path,
    request: &ControlRequest,
) -> io::Result<Option<ControlAnswer>> {
    match ask(spool, request) {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(None),
        result => result,
    }
}

fn named(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}
