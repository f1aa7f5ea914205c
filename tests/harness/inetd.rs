//! The real program with `--inetd`: a process for each session, which finds the client's address in
//! the environment, as tcpserver sets it.

use std::fs::{self, File};
use std::net::IpAddr;
use std::process::Stdio;

use super::directory::TestDirectory;
use super::server::mailslot;

/// Result of a session.
pub struct InetdSession {
    /// All that the client received.
    pub replies: String,
    /// Lines of the log.
    pub log: Vec<String>,
}

/// Runs a session in the sandbox `directory` for a client that sends `input` at once. The client
/// has this address, or an unknown one.
pub fn inetd_session(
    directory: &TestDirectory,
    address: Option<&str>,
    input: &[u8],
    options: &[&str],
) -> InetdSession {
    let file = directory.join("input");
    fs::write(&file, input).unwrap();
    let mut command = mailslot(&["--sandbox", directory.as_str(), "--inetd", "--log", "stderr"]);
    if let Some(address) = address {
        assert!(address.parse::<IpAddr>().is_ok());
        command.env("TCPREMOTEIP", address).env("TCPREMOTEPORT", "4000");
    }
    let input = Stdio::from(File::open(file).unwrap());
    let output = command.args(options).stdin(input).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let log = text(output.stderr).lines().map(str::to_owned).collect();
    InetdSession { replies: text(output.stdout), log }
}
