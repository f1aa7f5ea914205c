//! The dialogues of `tests/dialogues` about STARTTLS, held with the real program. After the reply
//! 220 to it they continue inside TLS.

use std::net::TcpStream;

use crate::harness::client::{Client, Reply};
use crate::harness::dialogue::{self, Dialogue, Received, Turn};
use crate::harness::directory::TestDirectory;
use crate::harness::fixtures;
use crate::harness::server::Server;
use crate::harness::tls::{TestCertificate, TlsStream, VERSIONS};

/// A client before STARTTLS, and after.
enum Connection {
    Clear(Client<TcpStream>),
    Secure(Box<Client<TlsStream>>),
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Connection::Clear(client) => client.send(bytes),
            Connection::Secure(client) => client.send(bytes),
        }
    }

    fn reply(&mut self) -> Reply {
        match self {
            Connection::Clear(client) => client.reply(),
            Connection::Secure(client) => client.reply(),
        }
    }

    /// Makes the handshake.
    fn start_tls(self, certificate: &TestCertificate) -> Connection {
        let Connection::Clear(client) = self else { panic!("a second handshake") };
        let client = certificate.handshake(client.into_stream(), &VERSIONS);
        Connection::Secure(Box::new(client))
    }
}

#[test]
fn program_holds_dialogues_with_starttls() {
    let with_tls = |(option, value): &(String, String)| (option == "tls").then(|| value.clone());
    let mut count = 0;
    for mut dialogue in dialogue::all() {
        let Some(tls) = dialogue.options.iter().find_map(with_tls) else { continue };
        dialogue.options.retain(|(option, _)| option != "tls");
        let directory = TestDirectory::new();
        let certificate = TestCertificate::new(directory.path(), "a");
        let required = if tls == "required" { "on" } else { "off" };
        let options = fixtures::set_up(directory.path(), &dialogue.options);
        let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
        options.extend(certificate.options());
        options.extend(["--tls-required", required]);
        let server = Server::start_in(directory, &options);
        hold(&dialogue, Connection::Clear(Client::connect(server.address)), &certificate);
        count += 1;
    }
    assert!(count >= 2, "only {count}");
}

/// Holds a dialogue, turn by turn.
fn hold(dialogue: &Dialogue, mut connection: Connection, certificate: &TestCertificate) {
    let mut received = Received::default();
    for turn in &dialogue.turns {
        match turn {
            Turn::Send(bytes) => {
                assert!(received.lines.is_empty(), "{}: unexpected {received:?}", dialogue.name);
                connection.send(bytes);
            }
            Turn::Expect(pattern, place) => {
                if received.lines.is_empty() {
                    let reply = connection.reply();
                    received.closed = reply.is_empty();
                    received.lines.extend(reply.split_terminator("\r\n").map(str::to_owned));
                    if reply.starts_with("220 2.0.0 STARTTLS: ") {
                        connection = connection.start_tls(certificate);
                    }
                }
                received.take(pattern).unwrap_or_else(|came| panic!("{place}\nbut came: {came}"));
            }
            Turn::Mail(text) => panic!("{}: M: {text}: not supported here", dialogue.name),
        }
    }
    assert!(received.lines.is_empty(), "{}: unexpected {received:?}", dialogue.name);
}
