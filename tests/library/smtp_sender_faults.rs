//! Messages sent to servers that misbehave at every stage: the client returns in time, with the
//! right outcome for each recipient, and the next message is not affected.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use mailslot::relay::client::{ClientConfig, ServerAddress, connect};
use mailslot::smtp::Envelope;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::harness::TIMEOUT;
use crate::harness::outbound::{client_config, envelope, show_outcomes, with_mail};
use crate::harness::scripted_server::{Action, ScriptedServer, reply, usual};

const STAGES: [&str; 6] = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."];

/// Timeout of the stage under test, if the server sends nothing.
const SHORT: Duration = Duration::from_millis(200);

/// Returns a configuration with a short timeout at one stage.
fn with_short_timeout(stage: &str) -> ClientConfig {
    let mut config = client_config();
    let timeouts = &mut config.timeouts;
    *match stage {
        "greeting" => &mut timeouts.greeting,
        "DATA" => &mut timeouts.data,
        "." => &mut timeouts.dot,
        _ => &mut timeouts.command,
    } = SHORT;
    config
}

/// Connects and sends one message. Returns the outcomes, or why there was no connection.
fn send(server: &ScriptedServer, config: &ClientConfig, to: &Envelope<()>) -> Vec<String> {
    match connect(&server.target(), config) {
        Err(reason) => vec![format!("later {reason}")],
        Ok(mut connection) => {
            let outcomes = with_mail(to, b"Subject: x\n\n.\n", |mail| connection.send(mail));
            connection.quit();
            show_outcomes(&outcomes)
        }
    }
}

#[test]
fn every_fault_at_every_stage() {
    let acts = [
        (reply("450 4.2.1 not now"), "later 450 4.2.1 not now"),
        (reply("421 4.3.2 closing"), "later 421 4.3.2 closing"),
        (Action::ReplyAndClose("421 4.3.2 closing".into()), "later 421 4.3.2 closing"),
        (reply("150 strange"), "later received a line without a reply code"),
        (reply("350 strange"), "later received an unexpected reply (350 strange)"),
        (reply("hello"), "later received a line without a reply code"),
        (reply("250-a\r\n550 b"), "later received a reply with two codes"),
        (Action::Send(b"250 a\n".to_vec()), "later received a bare LF"),
        (Action::Send(vec![0; 4096]), "later received a line without a reply code"),
        (
            Action::SendEndlessly(b"250-more\r\n".to_vec()),
            "later received a reply that is too long",
        ),
        (Action::SendEndlessly(b"2".to_vec()), "later received a line without a reply code"),
        (Action::SendEndlessly(b"250 ".to_vec()), "later received a reply line that is too long"),
        (Action::SendEndlessly(b"250 ok\r\n".to_vec()), "later "),
        (Action::Close, "later the end of the connection"),
        (Action::Reset, "later Connection reset by peer (os error 104)"),
        (Action::Send(b"250-half".to_vec()), "later a timeout"),
        (Action::Send(b"250".to_vec()), "later a timeout"),
        (Action::Drip, "later a timeout"),
        (Action::Stall, "later a timeout"),
    ];
    let to = envelope(&["a@x.example", "b@x.example"]);
    for stage in STAGES {
        for (act, expected) in &acts {
            // At the last stage the first of endless replies is the answer.
            if matches!(act, Action::SendEndlessly(bytes) if bytes == b"250 ok\r\n") && stage == "."
            {
                continue;
            }
            // 354 is not strange there.
            if matches!(act, Action::Reply(reply) if reply == "350 strange") && stage == "DATA" {
                continue;
            }
            let (bad, at) = (act.clone(), stage);
            let server = ScriptedServer::start(move |_, command| match command.starts_with(at) {
                true => bad.clone(),
                false => usual(command),
            });
            let waits = expected.contains("timeout");
            let config = if waits { with_short_timeout(stage) } else { client_config() };
            let began = Instant::now();
            let found = send(&server, &config, &to);
            let opening = matches!(stage, "greeting" | "EHLO");
            // Of early replies, one that comes at the right moment passes for an answer, up to
            // DATA.
            let count = if opening { 1 } else { 2 };
            assert!(found.len() == count || *expected == "later ", "{stage} {act:?}: {found:?}");
            let expected = if opening && expected.contains("350") { "later 350" } else { expected };
            for outcome in &found {
                assert!(outcome.starts_with(expected), "{stage} {act:?}: {outcome}");
            }
            assert!(began.elapsed() < TIMEOUT, "{stage} {act:?}");
        }
    }
}

/// A connection that was closed while idle is opened again, and the message is sent once.
#[test]
fn closed_idle_connection_is_reopened() {
    let to = envelope(&["a@x.example"]);
    for last in [
        Action::ReplyAndClose("250 taken".into()),
        Action::ReplyAndClose("250 taken\r\n421 idle".into()),
    ] {
        let server = ScriptedServer::start(move |number, command| match (number, command) {
            (0, ".") => last.clone(),
            _ => usual(command),
        });
        let mut connection = connect(&server.target(), &client_config()).unwrap();
        for _ in 0..3 {
            let found = with_mail(&to, b"x\n", |mail| connection.send(mail));
            assert!(show_outcomes(&found)[0].starts_with("done 250 "), "{found:?}");
        }
        connection.quit();
        let said = server.commands();
        assert_eq!(said.iter().filter(|command| command.starts_with("EHLO")).count(), 2);
        assert_eq!(said.iter().filter(|command| *command == ".").count(), 3, "{said:?}");
    }
}

/// A connection that is closed at each MAIL is tried twice.
#[test]
fn server_that_always_closes_defers() {
    let to = envelope(&["a@x.example"]);
    let server =
        ScriptedServer::start(|number, command| match command.starts_with("MAIL") && number > 0 {
            true => Action::Close,
            false if command.starts_with("MAIL") => usual(command),
            false if command == "." => Action::ReplyAndClose("250 taken".into()),
            false => usual(command),
        });
    let mut connection = connect(&server.target(), &client_config()).unwrap();
    assert_eq!(
        show_outcomes(&with_mail(&to, b"x\n", |mail| connection.send(mail))),
        ["done 250 taken"]
    );
    let found = show_outcomes(&with_mail(&to, b"x\n", |mail| connection.send(mail)));
    assert_eq!(found, ["later the end of the connection while waiting for the reply to MAIL"]);
    assert!(!connection.is_open());
}

#[test]
fn excess_recipients_go_in_another_transaction() {
    let to: Vec<String> = (0..25).map(|i| format!("u{i}@x.example")).collect();
    let to = envelope(&to.iter().map(String::as_str).collect::<Vec<_>>());
    for ehlo in ["250 x", "250-x\r\n250 PIPELINING", "250-x\r\n250-PIPELINING\r\n250 CHUNKING"] {
        let count = std::sync::atomic::AtomicUsize::new(0);
        let server = ScriptedServer::start(move |_, command| {
            use std::sync::atomic::Ordering::Relaxed;
            match command {
                _ if command.starts_with("MAIL") => count.store(0, Relaxed),
                _ if command.starts_with("EHLO") => return reply(ehlo),
                _ if command.starts_with("RCPT") && count.fetch_add(1, Relaxed) >= 10 => {
                    return reply("452 4.5.3 too many");
                }
                _ => {}
            }
            usual(command)
        });
        assert_eq!(send(&server, &client_config(), &to), ["done 250 2.0.0 taken"; 25]);
        let mails = server.commands().iter().filter(|command| command.starts_with("MAIL")).count();
        assert_eq!(mails, 3);
    }
}

/// The refusal comes while mail data is still being sent.
#[test]
fn refusal_during_mail_data() {
    let to = envelope(&["a@x.example"]);
    let server = ScriptedServer::start(|_, command| match command {
        "DATA" => Action::Send(b"354 go\r\n552 5.3.4 too much\r\n".to_vec()),
        _ => usual(command),
    });
    let mut connection = connect(&server.target(), &client_config()).unwrap();
    let content = b"0123456789abcdef\n".repeat(100_000);
    let found = show_outcomes(&with_mail(&to, &content, |mail| connection.send(mail)));
    assert_eq!(found, ["never 552 5.3.4 too much"]);
}

/// A server that does not read is given up, one that reads gets all mail data.
#[test]
fn server_that_does_not_read_mail_data_times_out() {
    let to = envelope(&["a@x.example"]);
    let content = b"0123456789abcdef\n".repeat(1_000_000);
    for (act, block, expected) in [
        (
            Action::SendAndStopReading(b"354 go\r\n".to_vec()),
            SHORT,
            "later a timeout while sending mail data",
        ),
        (reply("354 go"), TIMEOUT, "done 250 2.0.0 taken"),
    ] {
        let server = ScriptedServer::start(move |_, command| match command {
            "DATA" => act.clone(),
            _ => usual(command),
        });
        let mut config = client_config();
        config.timeouts.block = block;
        let mut connection = connect(&server.target(), &config).unwrap();
        let found = show_outcomes(&with_mail(&to, &content, |mail| connection.send(mail)));
        assert_eq!(found, [expected]);
    }
}

/// A message that fails to be read in the middle is not sent as if it ended there.
#[test]
fn unreadable_content_is_not_sent() {
    use mailslot::relay::client::OutgoingMessage;
    use std::io::{self, Read};
    struct Breaks(usize);
    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("the disk is gone"));
            }
            let n = buffer.len().min(self.0);
            buffer[..n].fill(b'x');
            self.0 -= n;
            Ok(n)
        }
    }
    for (ehlo, length) in [("250 x", 10), ("250 x", 100_000), (CHUNKS, 10), (CHUNKS, 100_000)] {
        let server = ScriptedServer::start(move |_, command| match command.starts_with("EHLO") {
            true => reply(ehlo),
            false => usual(command),
        });
        let mut connection = connect(&server.target(), &client_config()).unwrap();
        let open = || -> io::Result<Box<dyn Read>> { Ok(Box::new(Breaks(length))) };
        let to = envelope(&["a@x.example"]);
        let mail = OutgoingMessage { envelope: &to, size: 10, content: &open, survey: None };
        let found = show_outcomes(&connection.send(&mail));
        assert!(found[0].starts_with("later the message cannot be read: the disk is gone"));
        drop(connection);
        let said = server.commands();
        assert!(!said.iter().any(|line| line == "." || line.starts_with("BDAT")), "{said:?}");
    }
}

const CHUNKS: &str = "250-x\r\n250-PIPELINING\r\n250 CHUNKING";

#[test]
fn unreachable_server_defers() {
    let config = client_config();
    // A port on which no server listens.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let target = address.to_string().parse().unwrap();
    let reason = connect(&target, &config).unwrap_err();
    assert_eq!((reason.code, reason.status), (None, (4, 4, 1)), "{reason}");
    let target = "unix:/nonexistent/smtp".parse().unwrap();
    let reason = connect(&target, &config).unwrap_err();
    assert_eq!(reason.status, (4, 4, 1));
    // A label of 64 bytes fails without asking a name server.
    let target = format!("{}.invalid", "x".repeat(64)).parse().unwrap();
    let reason = connect(&target, &config).unwrap_err();
    assert_eq!(reason.status, (4, 4, 3), "{reason}");
}

/// Linux lets a connection wait while the backlog of the Unix socket is full.
#[cfg(target_os = "linux")]
#[test]
fn a_connect_to_a_unix_socket_that_accepts_nothing_has_a_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("smtp");
    let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        if socket.connect(&SockAddr::unix(&path).unwrap()).is_err() {
            break;
        }
        waiting.push(socket);
    }
    let mut config = client_config();
    config.timeouts.connect = Duration::from_millis(50);
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        let error = connect(&ServerAddress::Unix(path), &config).err();
        done.send(error.map(|reason| reason.text))
    });
    let text = result.recv_timeout(TIMEOUT).expect("a deadline").expect("an error");
    assert!(text.contains("timed out"), "{text}");
}
