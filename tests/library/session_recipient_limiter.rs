//! Clients that try out recipients: slowed down if they are on other hosts.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mailslot::message::peer::Peer;
use mailslot::net::listen::Service;
use mailslot::net::stream::{OverloadFlag, Socket, Stream};
use mailslot::session::SessionEnd;

use crate::harness::TIMEOUT;
use crate::harness::client::codes;
use crate::harness::library::{MailStore, remote_peer};

/// Returns a transaction for `unknown` unknown recipients and one that exists.
fn transaction(unknown: usize) -> String {
    let unknown = "RCPT TO:<nobody@here.example>\r\n".repeat(unknown);
    format!(
        "MAIL FROM:<a@b.example>\r\n{unknown}RCPT TO:<smith@here.example>\r\nDATA\r\nx\r\n.\r\n"
    )
}

/// Runs a session of `peer`. Returns how it ended, the replies, and the time it took.
fn run_transaction(
    peer: Peer,
    lmtp: bool,
    overloaded: bool,
    input: &str,
) -> (SessionEnd, String, Duration) {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let (mut client, server) = UnixStream::pair().unwrap();
    let hello = if lmtp { "LHLO c" } else { "EHLO c" };
    client.write_all(format!("{hello}\r\n{input}").as_bytes()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut stream = Stream::new(Socket::Unix(server), peer, TIMEOUT, TIMEOUT).unwrap();
    let pressure = Arc::new(OverloadFlag::default());
    pressure.set(overloaded);
    stream.watch_overload(pressure);
    let began = Instant::now();
    let end = sessions.serve_as(Service { lmtp, ..Service::default() }, &mut stream);
    let took = began.elapsed();
    stream.close(false);
    let mut replies = String::new();
    client.read_to_string(&mut replies).unwrap();
    (end, replies, took)
}

#[test]
fn many_unknown_recipients_slow_and_end_the_session() {
    let (end, replies, took) = run_transaction(remote_peer(1), false, false, &transaction(100));
    let codes = codes(&replies);
    assert_eq!(codes[..3], ["220", "250", "250"]);
    assert_eq!(codes[3..23], ["550"; 20]);
    assert_eq!(codes[23..], ["421"]);
    assert!(matches!(end, SessionEnd::Errors(_)), "{end}");
    assert!(took >= Duration::from_secs(10), "{took:?}");
}

#[test]
fn under_overload_the_session_ends_without_delay() {
    let (_, replies, took) = run_transaction(remote_peer(1), false, true, &transaction(100));
    let codes = codes(&replies);
    assert_eq!(codes[3..13], ["550"; 10]);
    assert_eq!(codes[13..], ["421"]);
    assert!(took < TIMEOUT, "{took:?}");
}

/// A list with old members, a server that relays by LMTP, and local programs.
#[test]
fn ordinary_mail_is_not_slowed() {
    let list = transaction(10).repeat(10) + "QUIT\r\n";
    let many = transaction(50) + "QUIT\r\n";
    for (peer, lmtp, input, unknown) in [
        (remote_peer(1), false, &list, 100),
        (remote_peer(1), true, &many, 50),
        (Peer::Unix, false, &many, 50),
        ("127.0.0.1:4000".parse().map(Peer::ip).unwrap(), false, &many, 50),
    ] {
        let (end, replies, took) = run_transaction(peer, lmtp, false, input);
        assert!(matches!(end, SessionEnd::Quit), "{end}");
        assert_eq!(codes(&replies).iter().filter(|code| **code == "550").count(), unknown);
        assert!(took < Duration::from_secs(10), "{peer}: {took:?}");
    }
}
