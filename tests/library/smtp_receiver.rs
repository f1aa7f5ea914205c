//! The receiver apart from its replies: the envelope, the client, when to close.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;

use mailslot::smtp::command::COMMAND_LINE_MAX;
use mailslot::smtp::{
    BodyType, Delivery, Envelope, ForwardPath, Hello, Host, Protocol, Receiver, ReceiverConfig,
    Recipient, Reply, ReversePath, StartTlsMode, Step, reply,
};

use crate::harness::fixtures::{self, BetaHost};

/// Returns a receiver that was given `lines`, and its last step.
fn after_lines<H: Host>(host: H, lines: &[&str]) -> (Receiver<H>, Step) {
    let mut receiver = Receiver::new(fixtures::config(&[]), host);
    let mut step = Step::Reply(receiver.greeting());
    for line in lines {
        step = receiver.handle_line(format!("{line}\r\n").as_bytes());
    }
    (receiver, step)
}

/// The manual lists the extensions that EHLO offers with all options on, and no others.
#[test]
fn manual_lists_every_extension() {
    let mut config = fixtures::config(&[]);
    (config.terminals, config.etrn, config.tls) = (true, true, StartTlsMode::Offered);
    let step = Receiver::new(config, BetaHost).handle_line(b"EHLO alpha.arpa\r\n");
    let Step::Reply(reply) = step else { panic!("{step:?}") };
    let keyword = |line: &String| line.split(' ').next().unwrap().to_owned();
    let offered: BTreeSet<String> =
        reply.lines.iter().skip(1).map(|l| keyword(&l.to_string())).collect();

    let manual = include_str!("../../contrib/man/mailslot.8");
    let (_, section) = manual.split_once("\n.Sh EXTENSIONS\n").unwrap();
    let (section, _) = section.split_once("\n.Sh ").unwrap();
    let items = section.lines().filter_map(|line| line.strip_prefix(".It "));
    let listed: BTreeSet<String> =
        items.flat_map(|item| item.split(',')).map(|k| k.trim().to_owned()).collect();
    assert_eq!(listed, offered);
}

#[test]
fn envelope_of_a_transaction() {
    let (receiver, step) = after_lines(
        BetaHost,
        &[
            "EHLO alpha.arpa",
            "MAIL FROM:<Smith@Alpha.ARPA> SIZE=12 BODY=8BITMIME",
            "RCPT TO:<@alpha.arpa:\"Jones\"@Beta.ARPA>",
            "RCPT TO:<green@beta.arpa>",
            "RCPT TO:<postmaster>",
            "DATA",
        ],
    );
    assert_eq!(step, Step::Data(reply::start_mail_input()));
    let envelope = receiver.envelope().unwrap();
    assert_eq!(envelope.from.to_string(), "<Smith@Alpha.ARPA>", "case is kept");
    assert_eq!((envelope.size, envelope.body), (Some(12), BodyType::EightBitMime));
    let to: Vec<(String, &str)> =
        envelope.to.iter().map(|r| (r.path.to_string(), r.destination.as_str())).collect();
    let expected = [("<Jones@Beta.ARPA>", "jones"), ("<Postmaster>", "root")];
    assert_eq!(to, expected.map(|(path, destination)| (path.to_owned(), destination)));
}

#[test]
fn envelope_ends_with_data_rset_and_hello() {
    let open = ["EHLO alpha.arpa", "MAIL FROM:<>", "RCPT TO:<jones@beta.arpa>"];
    for (line, there) in [
        ("RSET", false),
        ("EHLO b", false),
        ("HELO b", false),
        ("NOOP", true),
        ("EHLO", true),
        ("MAIL FROM:<>", true),
    ] {
        let (mut receiver, _) = after_lines(BetaHost, &open);
        receiver.handle_line(format!("{line}\r\n").as_bytes());
        assert_eq!(receiver.envelope().is_some(), there, "{line}");
    }
    let (mut receiver, _) = after_lines(BetaHost, &open);
    assert_eq!(receiver.finish_data(reply::data_error()), Step::Reply(reply::data_error()));
    assert!(receiver.envelope().is_none());
}

#[test]
fn client_name_of_the_last_hello() {
    type Row<'a> = (&'a [&'a str], Option<(&'a str, &'a str)>);
    let rows: &[Row<'_>] = &[
        (&[], None),
        (&["EHLO"], None),
        (&["EHLO Alpha.ARPA"], Some(("Alpha.ARPA", "ESMTP"))),
        (&["HELO [127.0.0.1]"], Some(("[127.0.0.1]", "SMTP"))),
        (&["EHLO a", "HELO b"], Some(("b", "SMTP"))),
        (&["EHLO a", "HELO b c"], Some(("b?c", "SMTP"))),
        (&["EHLO a", "HELO"], Some(("a", "ESMTP"))),
    ];
    for (lines, client) in rows {
        assert_eq!(client_of(&after_lines(BetaHost, lines).0), client.map(owned), "{lines:?}");
    }
}

/// Returns the client's name, and the protocol in Received.
fn client_of<H: Host>(receiver: &Receiver<H>) -> Option<(String, String)> {
    receiver.client().map(|(name, protocol)| (name.to_owned(), protocol.to_string()))
}

fn owned((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// The registered names of protocols (RFC 3848, RFC 6531 4.3).
#[test]
fn protocol_names_in_received() {
    for (hello, tls, utf8, name) in [
        (Hello::Helo, false, false, "SMTP"),
        (Hello::Helo, true, false, "SMTP"),
        (Hello::Helo, false, true, "UTF8SMTP"),
        (Hello::Ehlo, false, false, "ESMTP"),
        (Hello::Ehlo, true, false, "ESMTPS"),
        (Hello::Ehlo, false, true, "UTF8SMTP"),
        (Hello::Ehlo, true, true, "UTF8SMTPS"),
        (Hello::Lhlo, false, false, "LMTP"),
        (Hello::Lhlo, true, false, "LMTPS"),
        (Hello::Lhlo, false, true, "UTF8LMTP"),
        (Hello::Lhlo, true, true, "UTF8LMTPS"),
    ] {
        assert_eq!(Protocol { hello, tls, utf8 }.to_string(), name);
    }
    let (receiver, _) = after_lines(BetaHost, &["EHLO a", "MAIL FROM:<> SMTPUTF8"]);
    assert_eq!(client_of(&receiver), Some(owned(("a", "UTF8SMTP"))));
}

/// The handshake discards all that the client said before (RFC 3207 4.2). It may say it again.
#[test]
fn starttls_resets_the_session() {
    let config = ReceiverConfig { tls: StartTlsMode::Offered, ..fixtures::config(&[]) };
    let mut receiver = Receiver::new(config, BetaHost);
    for line in ["EHLO evil", "MAIL FROM:<evil@alpha.arpa>", "RCPT TO:<jones@beta.arpa>"] {
        receiver.handle_line(format!("{line}\r\n").as_bytes());
    }
    assert_eq!(receiver.handle_line(b"starttls\r\n"), Step::StartTls(reply::start_tls()));
    receiver.begin_tls();
    assert!(receiver.client().is_none() && receiver.envelope().is_none());
    assert_eq!(
        receiver.handle_line(b"MAIL FROM:<>\r\n"),
        Step::Reply(reply::mail_before_hello(false))
    );
    receiver.handle_line(b"EHLO good\r\n");
    assert_eq!(client_of(&receiver), Some(owned(("good", "ESMTPS"))));
    receiver.handle_line(b"HELO good\r\n");
    assert_eq!(client_of(&receiver), Some(owned(("good", "SMTP"))), "HELO has no name for TLS");
}

#[test]
fn limit_of_errors_without_refused_recipients() {
    let errors_max = fixtures::config(&[]).errors_max as usize;
    let (mut receiver, step) = after_lines(BetaHost, &vec!["WIZ"; errors_max]);
    assert_eq!(step, Step::Reply(reply::unknown_command()));
    assert_eq!(receiver.handle_line(b"NOOP\r\n"), Step::Reply(reply::noop()));
    let step = receiver.handle_long_line();
    assert_eq!(step, Step::Close(reply::client_error("beta.arpa", "too many errors")));

    let (mut receiver, _) = after_lines(BetaHost, &["EHLO a", "MAIL FROM:<>"]);
    for _ in 0..=errors_max {
        let step = receiver.handle_line(b"RCPT TO:<green@beta.arpa>\r\n");
        assert!(matches!(step, Step::Reply(Reply { code: 550, .. })));
    }
}

#[test]
fn limit_of_line_length() {
    let (mut receiver, _) = after_lines(BetaHost, &[]);
    for (length, code) in [(512, 250), (COMMAND_LINE_MAX, 250), (COMMAND_LINE_MAX + 1, 500)] {
        let line = format!("NOOP {}\r\n", "x".repeat(length - 7));
        let Step::Reply(reply) = receiver.handle_line(line.as_bytes()) else { panic!("{length}") };
        assert_eq!(reply.code, code, "{length}");
    }
}

/// A host that is shutting down.
struct ClosingHost;

impl Host for ClosingHost {
    type Destination = ();

    fn check_mail(&self, _from: &ReversePath, _size: Option<u64>) -> Result<(), Reply> {
        Ok(())
    }
    fn resolve_recipient(&self, _to: &ForwardPath, _delivery: Delivery) -> Result<(), Reply> {
        Err(reply::closing("mx.example", "shutdown"))
    }
    fn vrfy(&self, _name: &str) -> Reply {
        reply::closing("mx.example", "shutdown")
    }
    fn expn(&self, _list: &str) -> Reply {
        reply::closing("mx.example", "shutdown")
    }
    fn help(&self) -> Option<Reply> {
        None
    }
}

#[test]
fn any_421_closes_the_session() {
    let closed = Step::Close(reply::closing("mx.example", "shutdown"));
    for lines in [&["EHLO a", "MAIL FROM:<>", "RCPT TO:<a@b>"][..], &["VRFY a"], &["EXPN a"]] {
        assert_eq!(after_lines(ClosingHost, lines).1, closed, "{lines:?}");
    }
    let (mut receiver, step) = after_lines(ClosingHost, &["HELP"]);
    assert!(matches!(step, Step::Reply(Reply { code: 214, .. })), "the receiver has its own help");
    assert_eq!(receiver.finish_data(reply::closing("beta.arpa", "shutdown")), {
        Step::Close(reply::closing("beta.arpa", "shutdown"))
    });
}

/// A destination that counts its copies.
#[derive(Default)]
struct Counted(Rc<Cell<usize>>);

impl Clone for Counted {
    fn clone(&self) -> Counted {
        self.0.set(self.0.get() + 1);
        Counted(self.0.clone())
    }
}

/// A copy of all recipients for each of them took 81 s at 15,000 recipients.
#[test]
fn an_envelope_for_each_of_many_recipients_copies_each_recipient_once() {
    const RECIPIENTS: usize = 1000;
    let count = Rc::new(Cell::new(0));
    let recipient = || Recipient::new(ForwardPath::Postmaster, Counted(count.clone()));
    let to = (0..RECIPIENTS).map(|_| recipient()).collect();
    let all = Envelope::<()> { envid: Some("id".into()), ..Envelope::blank() }.with_recipients(to);
    for recipient in &all.to {
        let one = all.with_recipients(vec![recipient.clone()]);
        assert_eq!((one.to.len(), one.envid.as_deref()), (1, Some("id")));
    }
    assert_eq!(count.get(), RECIPIENTS);
}
