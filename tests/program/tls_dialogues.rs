//! The dialogues of `tests/dialogues` that are about STARTTLS, with the real program: behind its
//! 220 they go on inside TLS.

use crate::harness::dialogue;
use crate::harness::fixtures;
use std::io::Write;
use std::net::TcpStream;

use crate::harness::dialogue::{Dialogue, Heard, Turn};
use crate::harness::server::Server;
use crate::harness::tls::{Pair, Secure, VERSIONS, certify, connect, reply};

/// A client before STARTTLS, and after.
enum Wire {
    Clear(TcpStream),
    Secure(Box<Secure>),
}

impl Wire {
    fn send(&mut self, octets: &[u8]) {
        match self {
            Wire::Clear(socket) => socket.write_all(octets).unwrap(),
            Wire::Secure(client) => client.send(octets),
        }
    }

    /// One reply; empty at the end.
    fn reply(&mut self) -> String {
        match self {
            Wire::Clear(socket) => reply(socket),
            Wire::Secure(client) => client.expect(""),
        }
    }

    /// Makes the handshake.
    fn secured(self, pair: &Pair) -> Wire {
        match self {
            Wire::Clear(socket) => Wire::Secure(Box::new(pair.secure(socket, &VERSIONS))),
            Wire::Secure(_) => panic!("a second handshake"),
        }
    }
}

#[test]
fn the_program_goes_on_inside_tls() {
    let with_tls = |(option, value): &(String, String)| (option == "tls").then(|| value.clone());
    let mut count = 0;
    for mut dialogue in dialogue::all() {
        let Some(tls) = dialogue.options.iter().find_map(with_tls) else { continue };
        dialogue.options.retain(|(option, _)| option != "tls");
        let folder = tempfile::tempdir().unwrap();
        let pair = certify(folder.path(), "a");
        let required = if tls == "required" { "on" } else { "off" };
        let mut options = fixtures::furnish(folder.path(), &dialogue.options);
        for (option, value) in [("--tls-cert", &pair.cert), ("--tls-key", &pair.key)] {
            options.extend([option.to_owned(), value.to_str().unwrap().to_owned()]);
        }
        options.extend(["--tls-required".to_owned(), required.to_owned()]);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let server = Server::start_in(folder, &options);
        converse(&dialogue, Wire::Clear(connect(server.address)), &pair);
        count += 1;
    }
    assert!(count >= 2, "only {count}");
}

/// Goes through `dialogue`, turn by turn.
fn converse(dialogue: &Dialogue, mut wire: Wire, pair: &Pair) {
    let mut heard = Heard::default();
    for turn in &dialogue.turns {
        match turn {
            Turn::Send(octets) => {
                assert!(heard.lines.is_empty(), "{}: unexpected {heard:?}", dialogue.name);
                wire.send(octets);
            }
            Turn::Hear(pattern, place) => {
                if heard.lines.is_empty() {
                    let reply = wire.reply();
                    heard.closed = reply.is_empty();
                    heard.lines.extend(reply.split_terminator("\r\n").map(str::to_owned));
                    if reply.starts_with("220 2.0.0 STARTTLS: ") {
                        wire = wire.secured(pair);
                    }
                }
                heard.take(pattern).unwrap_or_else(|came| panic!("{place}\nbut came: {came}"));
            }
            Turn::Mail(text) => panic!("{}: M: {text}: not looked at here", dialogue.name),
        }
    }
    assert!(heard.lines.is_empty(), "{}: unexpected {heard:?}", dialogue.name);
}
