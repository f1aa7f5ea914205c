//! One request to the running server.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;

use super::{ANSWER_MAX, ControlAnswer, ControlRequest, PROGRESS, TIMEOUT, control_socket};
use crate::observe::progress::ProgressLine;
use crate::relay::client;

/// Asks the server with this spool. Returns None if there is none. Waits for a flush as long as it
/// takes, and shows its progress on a terminal.
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
    let mut lines = String::new();
    let answered = match asked {
        // A server that is busy answers without reading.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e),
        _ => read_lines(BufReader::new(socket.take(ANSWER_MAX)), &mut lines),
    };
    let answer = ControlAnswer::parse(&lines);
    match (answer, answered) {
        (Some(answer), _) => Ok(Some(answer)),
        (None, Err(e)) => Err(named(&path, e)),
        (None, Ok(_)) => Err(named(&path, io::Error::other("the answer is cut short"))),
    }
}

/// Appends the lines of an answer to `lines`, up to its end. Shows the lines about progress on a
/// terminal instead.
fn read_lines(mut answer: impl BufRead, lines: &mut String) -> io::Result<()> {
    let mut progress = ProgressLine::on_terminal();
    loop {
        let start = lines.len();
        if answer.read_line(lines)? == 0 {
            return Ok(());
        }
        let line = lines.get(start..).unwrap_or_default();
        if let Some(text) = line.strip_prefix(PROGRESS) {
            progress.show(text.trim_end());
            lines.truncate(start);
        }
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
