//! One session over every kind of stream: cut at each byte, in packets of one byte, pipelined,
//! slow, not reading, half-closed, over pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mailslot::message::peer::Peer;
use mailslot::net::listen::Service;
use mailslot::net::stream::{Disconnect, Socket, Stream};
use mailslot::session::{SessionContext, SessionEnd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::harness::TIMEOUT;
use crate::harness::client::{Client, codes};
use crate::harness::library::{MailStore, remote_peer, run_session};

const DIALOGUE: &[u8] = b"EHLO client.example\r\n\
    MAIL FROM:<jones@client.example>\r\n\
    RCPT TO:<smith@here.example>\r\n\
    DATA\r\n\
    Subject: hello\r\n\r\n..dot\r\nFrom here\r\n.\r\n\
    QUIT\r\n";

/// Returns the dialogue up to the middle of its mail data.
fn into_data() -> &'static [u8] {
    let colon = DIALOGUE.windows(2).position(|w| w == b": ").unwrap();
    &DIALOGUE[..colon]
}

#[test]
fn connection_lost_at_each_byte_delivers_only_after_the_dot() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let (_, whole) = run_session(&sessions, Peer::Unix, DIALOGUE);
    let whole = codes(&whole);
    assert_eq!(whole, ["220", "250", "250", "250", "354", "250", "221"]);
    let dot = DIALOGUE.windows(5).position(|w| w == b"\r\n.\r\n").unwrap() + 5;
    for length in 0..=DIALOGUE.len() {
        let before = store.count("smith");
        let (end, replies) = run_session(&sessions, Peer::Unix, &DIALOGUE[..length]);
        let replies = codes(&replies);
        assert_eq!(replies, whole[..replies.len()], "after {length}");
        let arrived = store.count("smith") - before;
        assert_eq!(arrived, usize::from(length >= dot), "after {length}");
        match length == DIALOGUE.len() {
            true => assert!(matches!(end, SessionEnd::Quit), "{end}"),
            false => assert!(matches!(end, SessionEnd::Disconnect(Disconnect::Closed)), "{end}"),
        }
    }
    assert!(store.mailbox("smith").contains("\n.dot\n>From here\n"));
}

#[test]
fn packets_of_one_byte() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let (client, server) = UnixStream::pair().unwrap();
    let mut stream = Stream::new(Socket::Unix(server), Peer::Unix, TIMEOUT, TIMEOUT).unwrap();
    let handle = stream.handle();
    let mut client = Client::new(client);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sessions.serve(&mut stream);
            stream.close(false);
        });
        let mut waited = None;
        for byte in DIALOGUE {
            // When the session waits again, it has read the byte before.
            while handle.waiting_since() <= waited {
                std::thread::yield_now();
            }
            waited = handle.waiting_since();
            client.send([*byte]);
        }
        for code in ["220", "250", "250", "250", "354", "250", "221"] {
            client.expect(code);
        }
        client.expect_end();
    });
    assert!(store.mailbox("smith").contains("\n.dot\n>From here\n"));
}

/// Returns the codes of the replies to `sent`, one list for each write. The socket keeps the bounds
/// of writes.
fn writes(sent: &[u8], lmtp: bool) -> Vec<Vec<String>> {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let (client, server) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
    let mut client = File::from(client);
    client.write_all(sent).unwrap();
    let server = Socket::Unix(UnixStream::from(server));
    let mut stream = Stream::new(server, Peer::Unix, TIMEOUT, TIMEOUT).unwrap();
    let end = sessions.serve_as(Service { lmtp, ..Service::default() }, &mut stream);
    stream.close(end.lingers());
    let mut records = Vec::new();
    let mut buffer = [0; 4096];
    while let n @ 1.. = client.read(&mut buffer).unwrap() {
        let text = std::str::from_utf8(&buffer[..n]).unwrap();
        records.push(codes(text).iter().map(|code| code.to_string()).collect());
    }
    records
}

/// A group of commands is answered by one write. Replies that must not wait (RFC 2920 3.2) do not.
#[test]
fn pipelined_group_is_answered_in_one_write() {
    let expected = [&["220"][..], &["250"], &["250", "250", "354"], &["250", "221"]];
    assert_eq!(writes(DIALOGUE, false), expected);
    // With CHUNKING, a whole transaction in one group, and another one after a refused recipient.
    let chunks = "BDAT 3\r\na\r\nBDAT 3 LAST\r\nb\r\n";
    let transactions = format!(
        "RSET\r\nMAIL FROM:<>\r\nRCPT TO:<smith@x>\r\n{chunks}\
         MAIL FROM:<>\r\nRCPT TO:<nobody@x>\r\n{chunks}RSET\r\n"
    );
    let group = ["250", "250", "250", "250", "250", "250", "550", "554", "503", "250"];
    let sent = format!("EHLO c\r\n{transactions}NOOP\r\nWIZ\r\nVRFY x\r\nQUIT\r\n");
    let ends = [&[&group[..], &["250"]].concat()[..], &["500"], &["250"], &["221"]];
    let expected = [&[&["220"][..], &["250"]], &ends[..]].concat();
    assert_eq!(writes(sent.as_bytes(), false), expected);
    // The same by LMTP, but a reply does not wait for one that is not known yet.
    let sent = "LHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@x>\r\nRCPT TO:<b@x>\r\nDATA\r\n.\r\nQUIT\r\n";
    let records = writes(sent.as_bytes(), true);
    assert_eq!(records[..3], [&["220"][..], &["250"], &["250", "250", "250", "354"]]);
    assert_eq!(records[3..].concat(), ["250", "250", "221"]);
}

#[test]
fn overlong_line_is_one_error() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    for length in [2045, 2046, 2047, 2048, 16383, 16384, 16385, 100_000] {
        // The line must not be split where a buffer ends.
        let mut line = b"NOOP ".to_vec();
        line.extend(b"QUIT ".iter().cycle().take(length - line.len()));
        line.extend_from_slice(b"\r\nNOOP\r\n\rNOOP\r\nQUIT\r\n");
        let (_, replies) = run_session(&sessions, Peer::Unix, &line);
        let first = if length + 2 <= 2048 { "250" } else { "500" };
        assert_eq!(codes(&replies), ["220", first, "250", "500", "221"], "{length}");
    }
}

#[test]
fn half_closed_connection_is_answered() {
    let store = MailStore::new();
    let running = store.run(store.server_settings(2));
    for (rest, codes) in [("\r\n.\r\n", &["250"][..]), ("\r\n.\r\nQUIT\r\n", &["250", "221"])] {
        let mut client = running.greeted();
        client.begin_data("smith");
        client.send("hello");
        client.send(rest);
        client.stream().shutdown(Shutdown::Write).unwrap();
        for code in codes {
            client.expect(*code);
        }
        client.expect_end();
    }
    assert_eq!(store.count("smith"), 2);
}

/// Serves a client that runs in its own thread. Returns how the session ended, and after which
/// time.
fn serve_while(
    sessions: &SessionContext,
    timeout: Duration,
    session_timeout: Duration,
    client_thread: impl FnOnce(UnixStream) + Send,
) -> (SessionEnd, Duration) {
    let (client, server) = UnixStream::pair().unwrap();
    let began = Instant::now();
    let mut stream =
        Stream::new(Socket::Unix(server), remote_peer(1), timeout, session_timeout).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| client_thread(client));
        let end = sessions.serve(&mut stream);
        let took = began.elapsed();
        stream.close(false);
        (end, took)
    })
}

/// Sends bytes every few milliseconds until the other side closes.
fn send_slowly(client: &mut UnixStream, byte: &[u8]) {
    while client.write_all(byte).is_ok() {
        std::thread::sleep(Duration::from_millis(5)); // the client is slow
    }
}

#[test]
fn command_timeout_counts_from_its_first_byte() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let timeout = Duration::from_millis(300);
    let (end, took) =
        serve_while(&sessions, timeout, TIMEOUT, |mut client| send_slowly(&mut client, b"N"));
    assert!(matches!(end, SessionEnd::Disconnect(Disconnect::TimedOut)), "{end}");
    assert!(took >= timeout && took < TIMEOUT, "{took:?}");
    // The same for silence, before and within mail data.
    for (said, limit) in [(&b""[..], timeout), (into_data(), timeout * 3 / 5)] {
        let (end, took) = serve_while(&sessions, timeout, TIMEOUT, |mut client| {
            client.write_all(said).unwrap();
            let mut replies = String::new();
            client.read_to_string(&mut replies).unwrap();
            assert!(replies.ends_with("no input for too long\r\n"), "{replies}");
        });
        assert!(matches!(end, SessionEnd::Disconnect(Disconnect::TimedOut)), "{end}");
        assert!(took >= limit && took < TIMEOUT, "{took:?}");
    }
}

#[test]
fn slow_mail_data_ends_the_session() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let (end, took) = serve_while(&sessions, Duration::from_secs(2), TIMEOUT, |mut client| {
        client.write_all(into_data()).unwrap();
        while client.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50)); // 20 bytes a second
        }
    });
    assert!(matches!(end, SessionEnd::Disconnect(Disconnect::TooSlow)), "{end}");
    assert!(took >= Duration::from_millis(400) && took < TIMEOUT, "{took:?}");
    assert_eq!(store.count("smith"), 0);
}

/// A burst of bytes that is worth half an hour at the minimum rate earns no more than a pause.
#[test]
fn burst_of_mail_data_earns_no_credit() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let (end, took) = serve_while(&sessions, Duration::from_secs(1), TIMEOUT, |mut client| {
        client.write_all(into_data()).unwrap();
        client.write_all(&b"0123456789abcdef\r\n".repeat(10_000)).unwrap();
        while client.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50)); // 20 bytes a second
        }
    });
    assert!(matches!(end, SessionEnd::Disconnect(Disconnect::TooSlow)), "{end}");
    assert!(took < TIMEOUT, "{took:?}");
}

#[test]
fn client_that_speaks_before_the_greeting_is_served() {
    let store = MailStore::new();
    let (mut client, server) = UnixStream::pair().unwrap();
    let mut stream = Stream::new(Socket::Unix(server), remote_peer(1), TIMEOUT, TIMEOUT).unwrap();
    assert!(!stream.spoke_before_banner());
    client.write_all(DIALOGUE).unwrap();
    assert!(stream.spoke_before_banner());
    let end = store.sessions(store.session_settings()).serve(&mut stream);
    assert!(matches!(end, SessionEnd::Quit), "{end}");
    stream.close(false);
    assert_eq!(store.count("smith"), 1);
}

/// A TLS record has no line end that the server could wait for.
#[test]
fn unexpected_tls_handshake_is_answered_at_once() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let mut replies = String::new();
    let (end, took) = serve_while(&sessions, TIMEOUT, TIMEOUT, |mut client| {
        client.write_all(b"\x16\x03\x01\x02\0\x01").unwrap();
        client.read_to_string(&mut replies).unwrap();
    });
    assert!(matches!(end, SessionEnd::Errors(_)), "{end}");
    assert_eq!(codes(&replies), ["220", "421"]);
    assert!(took < TIMEOUT, "{took:?}");
}

#[test]
fn session_timeout() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let limit = Duration::from_millis(300);
    let (end, took) = serve_while(&sessions, TIMEOUT, limit, |mut client| {
        while client.write_all(b"NOOP\r\n").is_ok() {
            let _ = client.read(&mut [0; 4096]);
        }
    });
    assert!(matches!(end, SessionEnd::Disconnect(Disconnect::Deadline)), "{end}");
    assert!(took >= limit && took < TIMEOUT, "{took:?}");
}

#[test]
fn client_that_never_reads_is_disconnected() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let timeout = Duration::from_millis(300);
    let (end, took) = serve_while(&sessions, timeout, TIMEOUT, |mut client| {
        while client.write_all(b"NOOP\r\n".repeat(1000).as_slice()).is_ok() {}
    });
    assert!(matches!(end, SessionEnd::Disconnect(Disconnect::NotReading)), "{end}");
    assert!(took >= timeout && took < TIMEOUT, "{took:?}");
}

/// Creates a socket that consists of two pipes. Returns it, and the client's ends.
fn pipes() -> (Socket, std::io::PipeWriter, std::io::PipeReader) {
    let (input, client_writes) = std::io::pipe().unwrap();
    let (client_reads, output) = std::io::pipe().unwrap();
    let file = |fd: OwnedFd| File::from(fd);
    let socket = Socket::Pipe { input: file(input.into()), output: file(output.into()) };
    (socket, client_writes, client_reads)
}

#[test]
fn session_over_pipes() {
    let store = MailStore::new();
    let (socket, mut client_writes, mut client_reads) = pipes();
    client_writes.write_all(DIALOGUE).unwrap();
    let end =
        store.server(store.server_settings(1)).serve_one(socket, Peer::Pipe).unwrap().unwrap();
    assert_eq!(end.exit_status(), 0, "{end}");
    let mut replies = String::new();
    client_reads.read_to_string(&mut replies).unwrap();
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "354", "250", "221"]);
    assert_eq!(store.count("smith"), 1);
    assert!(store.mailbox("smith").contains("(unknown)"), "{}", store.mailbox("smith"));
}

/// The client leaves before it reads the reply to its final dot (RFC 1047). The message is
/// delivered.
#[test]
fn closed_output_pipe_keeps_the_message() {
    let store = MailStore::new();
    for (stored, greeted, text, status) in [
        (0, false, DIALOGUE, 74),
        (1, true, DIALOGUE, 0),
        (2, true, DIALOGUE.strip_suffix(b"QUIT\r\n").unwrap(), 74),
    ] {
        let (socket, mut client_writes, client_reads) = pipes();
        // A client that is not greeted has left before the server begins.
        let client_reads = greeted.then_some(client_reads);
        let server = store.server(store.server_settings(1));
        let end = std::thread::scope(|scope| {
            let served = scope.spawn(|| server.serve_one(socket, Peer::Pipe).unwrap().unwrap());
            if let Some(mut client_reads) = client_reads {
                client_reads.read_exact(&mut [0; 20]).unwrap();
            }
            // Without a greeting the server may have ended.
            let _ = client_writes.write_all(text);
            drop(client_writes);
            served.join().unwrap()
        });
        assert_eq!(end.exit_status(), status, "{end}");
        assert_eq!(store.count("smith"), stored);
    }
}

#[test]
fn silent_pipe_times_out() {
    let store = MailStore::new();
    let (socket, _client_writes, mut client_reads) = pipes();
    let mut config = store.server_settings(1);
    config.session.timeout = Duration::from_millis(200);
    let end = store.server(config).serve_one(socket, Peer::Pipe).unwrap().unwrap();
    assert!(matches!(end, SessionEnd::Disconnect(Disconnect::TimedOut)), "{end}");
    let mut replies = String::new();
    client_reads.read_to_string(&mut replies).unwrap();
    assert_eq!(codes(&replies), ["220", "421"]);
}

#[test]
fn vrfy_expn_and_forward_replies_are_for_local_clients() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let asks = b"HELO c\r\nVRFY smith\r\nEXPN list\r\nHELP\r\nMAIL FROM:<>\r\n\
        RCPT TO:<moved@here.example>\r\nRCPT TO:<nobody@here.example>\r\nQUIT\r\n";
    let (_, local) = run_session(&sessions, Peer::Unix, asks);
    let expected = ["220", "250", "250", "250", "211", "250", "551", "550", "221"];
    assert_eq!(codes(&local), expected, "{local}");
    for line in [
        "250 2.1.5 Test User <smith@here.example>\r\n",
        "250-2.1.5 Test User <list@here.example>\r\n250 2.1.5 Test User <second@here.example>\r\n",
        "211-2.0.0 sessions 1\r\n",
        "551 5.1.6 User not local; please try <new@elsewhere.example>\r\n",
    ] {
        assert!(local.contains(line), "{line} in {local}");
    }
    let (_, remote) = run_session(&sessions, remote_peer(1), asks);
    let expected = ["220", "250", "252", "252", "214", "250", "550", "550", "221"];
    assert_eq!(codes(&remote), expected, "{remote}");
}

#[test]
fn duplicate_recipient_gets_one_copy() {
    let store = MailStore::new();
    let sessions = store.sessions(store.session_settings());
    let (_, replies) = run_session(
        &sessions,
        Peer::Unix,
        b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<smith@a.example>\r\nRCPT TO:<smith@b.example>\r\n\
          DATA\r\n\r\nhello\r\n.\r\nQUIT\r\n",
    );
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "250", "354", "250", "221"]);
    assert_eq!(store.count("smith"), 1);
    // With two recipients, neither is named to the other.
    assert!(!store.mailbox("smith").contains("\n\tfor "));
}

#[test]
fn invalid_mail_data_is_refused_at_its_end() {
    let store = MailStore::new();
    let mut config = store.session_settings();
    config.size_max = 2000;
    let sessions = store.sessions(config);
    let hops = "Received: x\r\n".repeat(101);
    for (data, reply) in [
        ("a\nb\r\n", "554 5.6.0"),
        ("a\n.\nQUIT\r\n", "554 5.6.0"),
        (&*"0123456789012345678\r\n".repeat(96), "552 5.3.4"),
        (&*hops, "554 5.4.6"),
    ] {
        let input = format!(
            "EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<smith@x>\r\nDATA\r\n{data}.\r\nNOOP\r\nQUIT\r\n"
        );
        let (_, replies) = run_session(&sessions, Peer::Unix, input.as_bytes());
        let expected = ["220", "250", "250", "250", "354", &reply[..3], "250", "221"];
        assert_eq!(codes(&replies), expected, "{replies}");
        assert!(replies.contains(reply), "{replies}");
        assert_eq!(store.count("smith"), 0);
    }
    assert_eq!(store.counters.messages_rejected.value(), 4);
}
