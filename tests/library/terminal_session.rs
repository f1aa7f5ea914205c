//! SEND, SOML and SAML in a session: what is shown, what is delivered, and the replies.

use std::fs;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use mailslot::message::peer::Peer;
use mailslot::net::stream::{Socket, Stream};
use mailslot::server;
use mailslot::session::{Audience, SessionConfig};
use mailslot::terminal::render::TEXT_MAX;

use crate::harness::TIMEOUT;
use crate::harness::client::{Client, codes};
use crate::harness::library::{MailStore, remote_peer, run_session};
use crate::harness::terminals::{Pty, write_utmp};

const SHOWN: &str = "Subject: lunch\r\n\r\nat noon?\r\nEOF\r\n";
const MESSAGE: &str = "Subject: lunch\r\n\r\nat noon?\r\n.\r\n";

/// ann and bo at their terminals, of which that of bo refuses messages. cy is not logged in.
struct TestTerminals {
    store: MailStore,
    ann: Pty,
    bo: Pty,
    config: SessionConfig,
}

impl TestTerminals {
    fn new() -> TestTerminals {
        let (store, ann, bo) = (MailStore::new(), Pty::open(), Pty::open());
        bo.mesg(false);
        let host_terminals = write_utmp(store.path(), &[("ann", ann.line()), ("bo", bo.line())]);
        let terminals = Audience::LocalClient;
        let config = SessionConfig { terminals, host_terminals, ..store.session_settings() };
        TestTerminals { store, ann, bo, config }
    }

    /// Returns the codes of the replies to the verb, to each RCPT, to DATA and to the final dot.
    fn codes(&self, verb: &str, to: &[&str], message: &str) -> Vec<String> {
        let rcpts: String =
            to.iter().map(|to| format!("RCPT TO:<{to}@here.example>\r\n")).collect();
        let input = format!("HELO a\r\n{verb} FROM:<me@a>\r\n{rcpts}DATA\r\n{message}QUIT\r\n");
        let sessions = self.store.sessions(self.config.clone());
        let (_, replies) = run_session(&sessions, Peer::Pipe, input.as_bytes());
        let all = codes(&replies);
        all[2..all.len() - 1].iter().map(|code| code.to_string()).collect()
    }

    /// Returns how often the message is on the terminal of ann, and in the mailboxes of all three.
    fn found(&self) -> (usize, [usize; 3]) {
        assert_eq!(self.bo.screen(), "");
        let counts = ["ann", "bo", "cy"].map(|user| self.store.count(user));
        (self.ann.screen().matches(SHOWN).count(), counts)
    }
}

/// Scenario 4 of RFC 821, appendix F, except for names.
#[test]
fn scenario_of_rfc_821() {
    let setup = TestTerminals::new();
    let sessions = setup.store.sessions(setup.config.clone());
    let input = b"HELO MIT-MC.ARPA\r\nVRFY ann\r\nSEND FROM:<EAK@MIT-MC.ARPA>\r\n\
        RCPT TO:<ann@here.example>\r\nDATA\r\n\
        Blah blah blah...\r\n...etc. etc. etc.\r\n.\r\nQUIT\r\n";
    let (_, replies) = run_session(&sessions, Peer::Pipe, input);
    assert_eq!(codes(&replies), ["220", "250", "250", "250", "250", "354", "250", "221"]);
    let screen = setup.ann.screen();
    let (first, text) = screen.split_once(" ...\r\n").unwrap();
    assert!(first.starts_with("\r\n\x07Message from <EAK@MIT-MC.ARPA> at "), "{first:?}");
    assert_eq!(text, "Blah blah blah...\r\n..etc. etc. etc.\r\nEOF\r\n");
    assert_eq!(setup.store.count("ann"), 0);
}

#[test]
fn destinations_of_each_command() {
    for (verb, to, codes, found) in [
        ("MAIL", &["ann"][..], &["250", "250", "354", "250"][..], (0, [1, 0, 0])),
        ("SEND", &["ann"], &["250", "250", "354", "250"], (1, [0, 0, 0])),
        ("SOML", &["ann"], &["250", "250", "354", "250"], (1, [0, 0, 0])),
        ("SAML", &["ann"], &["250", "250", "354", "250"], (1, [1, 0, 0])),
        // A terminal that refuses messages, and no terminal. The refused recipient leaves none for
        // DATA.
        ("SOML", &["bo"], &["250", "250", "354", "250"], (0, [0, 1, 0])),
        ("SAML", &["bo"], &["250", "250", "354", "250"], (0, [0, 1, 0])),
        ("SOML", &["cy"], &["250", "250", "354", "250"], (0, [0, 0, 1])),
        ("SAML", &["cy"], &["250", "250", "354", "250"], (0, [0, 0, 1])),
        // Several recipients, each where it is, and none twice.
        ("SEND", &["cy", "ann", "bo"], &["250", "450", "250", "450", "354", "250"], (1, [0; 3])),
        (
            "SOML",
            &["ann", "bo", "cy", "ann"],
            &["250", "250", "250", "250", "250", "354", "250"],
            (1, [0, 1, 1]),
        ),
        ("SAML", &["ann", "cy"], &["250", "250", "250", "354", "250"], (1, [1, 0, 1])),
        ("SAML", &["nobody", "ann"], &["250", "550", "250", "354", "250"], (1, [1, 0, 0])),
    ] {
        let setup = TestTerminals::new();
        assert_eq!(setup.codes(verb, to, MESSAGE), codes, "{verb} {to:?}");
        assert_eq!(setup.found(), found, "{verb} {to:?}");
    }
}

#[test]
fn send_without_a_terminal_is_450() {
    let setup = TestTerminals::new();
    for away in ["bo", "cy"] {
        assert_eq!(setup.codes("SEND", &[away], ""), ["250", "450", "554"]);
    }
    assert_eq!(setup.found(), (0, [0; 3]));
}

/// A message for a terminal needs no mailbox.
#[test]
fn unusable_mailbox_does_not_affect_the_terminal() {
    for (verb, to, codes) in [
        ("MAIL", "ann", &["250", "450", "554"][..]),
        ("SEND", "ann", &["250", "250", "354", "250"]),
        ("SOML", "ann", &["250", "250", "354", "250"]),
        ("SAML", "ann", &["250", "450", "554"]),
        ("SOML", "bo", &["250", "450", "554"]),
    ] {
        let setup = TestTerminals::new();
        for user in ["ann", "bo"] {
            fs::create_dir(setup.store.path().join("mail").join(user)).unwrap();
        }
        let taken = codes.contains(&"354");
        assert_eq!(
            setup.codes(verb, &[to], if taken { MESSAGE } else { "" }),
            codes,
            "{verb} {to}"
        );
        assert_eq!(setup.ann.screen().matches(SHOWN).count(), usize::from(taken), "{verb} {to}");
    }
}

/// A message that is too long for a screen is refused by SEND and delivered by the others.
#[test]
fn message_too_long_for_a_screen() {
    let message = format!("{}\r\n.\r\n", ["x".repeat(70).as_str(); TEXT_MAX / 70 + 1].join("\r\n"));
    for (verb, code, shown, mailed) in
        [("SEND", "552", false, 0), ("SOML", "250", true, 1), ("SAML", "250", true, 1)]
    {
        let setup = TestTerminals::new();
        assert_eq!(setup.codes(verb, &["ann"], &message).last().unwrap(), code, "{verb}");
        assert_eq!(setup.store.count("ann"), mailed, "{verb}");
        let screen = setup.ann.screen();
        assert_eq!(screen.ends_with("... the rest is in your mailbox\r\nEOF\r\n"), shown, "{verb}");
        assert_eq!(screen.is_empty(), !shown, "{verb}");
    }
}

/// The user says `mesg n`, or stops the terminal, between RCPT and the final dot.
#[test]
fn terminal_lost_before_the_final_dot() {
    for (verb, code, mailed) in [("SEND", "451", 0), ("SOML", "250", 1), ("SAML", "250", 1)] {
        for stop in [false, true] {
            let setup = TestTerminals::new();
            let sessions = setup.store.sessions(setup.config.clone());
            let (client, server) = UnixStream::pair().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let (peer, socket) = (Peer::Unix, Socket::Unix(server));
                    let mut stream =
                        Stream::new(socket, peer, Duration::from_secs(300), TIMEOUT).unwrap();
                    let end = sessions.serve(&mut stream);
                    stream.close(end.lingers());
                });
                let mut client = Client::new(client);
                client.expect(220);
                client.command("EHLO a", 250);
                client.command(&format!("{verb} FROM:<me@a>"), 250);
                client.command("RCPT TO:<ann@here.example>", 250);
                client.command("DATA", 354);
                if stop {
                    setup.ann.stop()
                } else {
                    setup.ann.mesg(false)
                }
                client.send(MESSAGE);
                client.expect(code);
                client.command("QUIT", 221);
            });
            assert_eq!(setup.store.count("ann"), mailed, "{verb}");
        }
    }
}

/// Other mail is delivered while the server waits for a stopped terminal.
#[test]
fn stopped_terminal_delays_only_its_sender() {
    let setup = TestTerminals::new();
    let config = setup.store.server_settings(4);
    let running = setup.store.run(server::ServerConfig { session: setup.config.clone(), ..config });
    let (mut sender, mut other) = (running.connect(), running.connect());
    for client in [&mut sender, &mut other] {
        client.expect(220);
        client.command("EHLO a", 250);
    }
    setup.ann.stop();
    let mut other_is_first = || {
        for (client, verb, to) in [(&mut sender, "SEND", "ann"), (&mut other, "MAIL", "cy")] {
            client.command(&format!("{verb} FROM:<me@a>"), 250);
            client.command(&format!("RCPT TO:<{to}@here.example>"), 250);
            client.command("DATA", 354);
        }
        sender.send(MESSAGE);
        other.send(MESSAGE);
        other.expect(250);
        sender.stream().set_nonblocking(true).unwrap();
        let waits = sender.stream().peek(&mut [0]).is_err();
        sender.stream().set_nonblocking(false).unwrap();
        sender.expect("451 4.2.1");
        waits
    };
    // On a busy machine one delivery may take longer than the wait.
    assert!((0..5).any(|_| other_is_first()));
}

#[test]
fn clients_that_may_not_send_get_502() {
    let mut setup = TestTerminals::new();
    for (send, peer, may) in [
        (Audience::AnyClient, remote_peer(1), true),
        (Audience::LocalClient, remote_peer(1), false),
        (Audience::LocalClient, Peer::Unix, true),
        (Audience::NoClient, Peer::Unix, false),
    ] {
        setup.config.terminals = send;
        let sessions = setup.store.sessions(setup.config.clone());
        let input = b"EHLO a\r\nSEND FROM:<a@b>\r\nRSET\r\nSOML FROM:<a@b>\r\nRSET\r\n\
            SAML FROM:<a@b>\r\nHELP SEND\r\nQUIT\r\n";
        let (_, replies) = run_session(&sessions, peer, input);
        let (yes, help) = if may { ("250", "214") } else { ("502", "504") };
        let expected = ["220", "250", yes, "250", yes, "250", yes, help, "221"];
        assert_eq!(codes(&replies), expected, "{send:?} {peer}");
        for keyword in ["SEND", "SOML", "SAML"] {
            let named = replies.contains(&format!("250-{keyword}\r\n"));
            assert_eq!(named, may, "{send:?} {peer}");
        }
    }
}
