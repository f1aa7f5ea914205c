//! The state machine of the sender against a server that is a table of commands and replies. Each
//! dialogue is repeated with the server's output split at several lengths, and must come out the
//! same.

use mailslot::smtp::dsn::{DsnNotify, DsnReturn, OriginalRecipient};
use mailslot::smtp::sender::{
    Credentials, Encoder, RecipientOutcome, Sender, SenderConfig, SenderStep, StartTlsPolicy,
};
use mailslot::smtp::{BodyType, Envelope, ReversePath};

use crate::harness::outbound::envelope;

/// Replies by the beginning of the command. The first row that fits counts, then [`USUAL`].
type Replies<'a> = &'a [(&'a str, &'a str)];

const USUAL: Replies<'static> = &[
    ("greeting", "220 mx.example ESMTP"),
    ("EHLO", "250 mx.example"),
    ("DATA", "354 go"),
    (".", "250 2.0.0 taken"),
    ("BDAT", "250 2.0.0 taken"),
    ("STARTTLS", "220 go"),
    ("AUTH", "235 welcome"),
    ("QUIT", "221 bye"),
    ("", "250 ok"),
];

const ALL: &str = "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n\
    250-SMTPUTF8\r\n250-DSN\r\n250 ENHANCEDSTATUSCODES";

/// A connection to a server that is a table.
struct Dialogue<'a> {
    sender: Sender,
    replies: Replies<'a>,
    cut: usize,
    /// All that was sent, a group of commands in one line: `[TLS]` for a handshake, `[mail data]`
    /// for content, and `.` for mail data without recipients.
    said: Vec<String>,
}

impl<'a> Dialogue<'a> {
    fn new(config: SenderConfig, replies: Replies<'a>, cut: usize) -> Dialogue<'a> {
        let mut dialogue = Dialogue { sender: Sender::new(config), replies, cut, said: Vec::new() };
        dialogue.reply_to("greeting");
        dialogue.run();
        dialogue
    }

    fn reply_to(&mut self, command: &str) {
        let fits = |row: &&(&str, &'a str)| command.starts_with(row.0);
        let row = self.replies.iter().chain(USUAL).find(fits).unwrap();
        if row.1 == "(end)" {
            return self.sender.fail("the end", (4, 4, 2));
        }
        format!("{}\r\n", row.1).as_bytes().chunks(self.cut).for_each(|c| self.sender.feed(c));
    }

    /// Answers commands until the sender wants something else. Returns that.
    fn run(&mut self) -> SenderStep {
        loop {
            match self.sender.step() {
                SenderStep::Read(_) => {
                    let output = self.sender.take_output();
                    assert!(!output.is_empty(), "waits for nothing, after {:?}", self.said);
                    self.serve(&output);
                }
                SenderStep::StartTls => {
                    self.said.push("[TLS]".to_owned());
                    self.sender.begin_tls();
                }
                step => return step,
            }
        }
    }

    /// Sends one reply for each command of a group, after the whole group.
    fn serve(&mut self, group: &[u8]) {
        let text = String::from_utf8(group.to_vec()).unwrap();
        let mut rest = text.as_str();
        let mut commands = Vec::new();
        while let Some((line, after)) = rest.split_once("\r\n") {
            rest = after;
            if let Some(size) = line.strip_prefix("BDAT ").and_then(|l| l.strip_suffix(" LAST")) {
                rest = &rest[size.parse::<usize>().unwrap()..];
            }
            commands.push(line);
        }
        assert_eq!(rest, "", "whole lines");
        self.said.push(commands.join(" | "));
        commands.iter().for_each(|command| self.reply_to(command));
    }

    /// Runs one transaction. Returns its outcomes.
    fn send(&mut self, envelope: &Envelope<()>, chunk: Option<&str>) -> Vec<String> {
        self.send_rest(envelope, vec![], chunk)
    }

    fn send_rest(
        &mut self,
        envelope: &Envelope<()>,
        outcomes: Vec<Option<RecipientOutcome>>,
        chunk: Option<&str>,
    ) -> Vec<String> {
        self.sender.begin_transaction(
            envelope,
            outcomes,
            100,
            chunk.map(|c| c.as_bytes().to_vec()),
        );
        if self.run() == SenderStep::Data {
            let mut data = Vec::new();
            let mut encoder = Encoder::for_data();
            encoder.encode(b"Subject: x\n\n.\n", &mut data);
            encoder.finish(&mut data);
            assert_eq!(data, b"Subject: x\r\n\r\n..\r\n.\r\n");
            self.sender.finish_data();
            self.said.push("[mail data]".to_owned());
            self.reply_to(".");
            self.run();
        }
        self.sender.take_outcomes().iter().map(show_outcome).collect()
    }
}

fn show_outcome(outcome: &Option<RecipientOutcome>) -> String {
    if let Some(RecipientOutcome::Deferred(reason)) = outcome {
        assert_eq!(reason.status.0, 4, "{reason:?}");
    }
    match outcome {
        None => "untried".to_owned(),
        Some(RecipientOutcome::Accepted(reason)) => format!("done {reason}"),
        Some(RecipientOutcome::Deferred(reason)) => format!("later {reason}"),
        Some(RecipientOutcome::Failed(reason)) => format!("never {reason}"),
    }
}

fn config() -> SenderConfig {
    SenderConfig {
        lmtp: false,
        hostname: "here.example".to_owned(),
        secure: false,
        start_tls: StartTlsPolicy::Off,
        credentials: None,
    }
}

/// Runs a row: replies that differ from the usual ones. Returns the outcomes for a, b and c, the
/// commands and the last step.
fn outcomes(replies: Replies<'_>) -> (Vec<String>, Vec<String>, SenderStep) {
    let all = envelope(&["a@x.example", "b@x.example", "c@x.example"]);
    let at = |cut| {
        let mut dialogue = Dialogue::new(config(), replies, cut);
        let outcomes = match dialogue.sender.step() {
            SenderStep::Ready => dialogue.send(&all, None),
            _ => vec![format!("failure {}", dialogue.sender.failure().unwrap())],
        };
        (outcomes, std::mem::take(&mut dialogue.said), dialogue.sender.step())
    };
    let whole = at(usize::MAX);
    for cut in [1, 2, 3, 7] {
        assert_eq!(at(cut), whole, "{cut}");
    }
    whole
}

#[test]
fn outcome_of_each_reply() {
    let taken = "done 250 2.0.0 taken";
    let piped = ("EHLO", ALL);
    let rows: &[(Replies<'_>, &[&str], bool)] = &[
        (&[], &[taken, taken, taken], true),
        (&[("RCPT", "251 will forward")], &[taken, taken, taken], true),
        // Greeting and EHLO.
        (&[("greeting", "554 no")], &["failure 554 no"], false),
        (&[("greeting", "421 busy")], &["failure 421 busy"], false),
        (&[("greeting", "354 x")], &["failure 354 x"], false),
        (
            &[("greeting", "hello")],
            &["failure received a line without a reply code while waiting for the greeting"],
            false,
        ),
        (&[("EHLO", "502 what")], &[taken, taken, taken], true),
        (&[("EHLO", "450 later")], &["failure 450 later"], false),
        (&[("EHLO", "500 what"), ("HELO", "550 5.7.1 no")], &["failure 550 5.7.1 no"], false),
        // MAIL.
        (&[("MAIL", "451 4.3.0 x")], &["later 451 4.3.0 x"; 3], true),
        (&[("MAIL", "550 5.7.1 x")], &["never 550 5.7.1 x"; 3], true),
        (&[("MAIL", "552 5.3.4 x")], &["never 552 5.3.4 x"; 3], true),
        // A login or TLS is missing, which an administrator can correct.
        (&[("MAIL", "530 5.7.0 x")], &["later 530 5.7.0 x"; 3], true),
        (&[("RCPT TO:<b", "530 5.7.0 x")], &[taken, "later 530 5.7.0 x", taken], true),
        (&[("DATA", "530 5.7.0 x")], &["later 530 5.7.0 x"; 3], true),
        (
            &[("MAIL", "354 x")],
            &["later received an unexpected reply (354 x) while waiting for the reply to MAIL"; 3],
            false,
        ),
        (&[("MAIL", "421 x")], &["later 421 x"; 3], false),
        (&[("MAIL", "(end)")], &["later the end while waiting for the reply to MAIL"; 3], false),
        // Recipients have outcomes of their own.
        (
            &[("RCPT TO:<a", "450 4.2.1 x"), ("RCPT TO:<b", "550 5.1.1 y")],
            &["later 450 4.2.1 x", "never 550 5.1.1 y", taken],
            true,
        ),
        (&[("RCPT", "550 5.1.1 x")], &["never 550 5.1.1 x"; 3], true),
        (&[("RCPT TO:<b", "552 full")], &[taken, "untried", taken], true),
        (&[("RCPT TO:<a", "552 full")], &["later 552 full", taken, taken], true),
        (&[("RCPT TO:<b", "552 5.2.2 full")], &[taken, "later 552 5.2.2 full", taken], true),
        (&[("RCPT TO:<c", "452 4.5.3 many")], &[taken, taken, "untried"], true),
        (&[("RCPT TO:<c", "452 4.3.1 disk")], &[taken, taken, "later 452 4.3.1 disk"], true),
        (
            &[("RCPT TO:<a", "550 x"), ("RCPT TO:<b", "421 y")],
            &["never 550 x", "later 421 y", "later 421 y"],
            false,
        ),
        // DATA and its end.
        (&[("DATA", "451 x")], &["later 451 x"; 3], true),
        (&[("DATA", "554 x")], &["never 554 x"; 3], true),
        (
            &[("DATA", "250 x")],
            &["later received an unexpected reply (250 x) while waiting for the reply to DATA"; 3],
            false,
        ),
        (&[("DATA", "354 x\r\n552 y")], &["never 552 y"; 3], false),
        (
            &[("DATA", "354 x\r\n250 y")],
            &["later received a reply while sending mail data"; 3],
            false,
        ),
        (&[(".", "451 4.3.0 x")], &["later 451 4.3.0 x"; 3], true),
        (&[(".", "554 5.6.0 x")], &["never 554 5.6.0 x"; 3], true),
        (&[(".", "421 x")], &["later 421 x"; 3], false),
        (
            &[(".", "(end)")],
            &["later the end while waiting for the reply to the end of mail data; \
               the message may arrive twice"; 3],
            false,
        ),
        // A reply without a command ends the connection, but does not change outcomes.
        (&[(".", "250 2.0.0 taken\r\n250 x")], &[taken, taken, taken], false),
        (&[(".", "250 2.0.0 taken\r\n421 x")], &[taken, taken, taken], false),
        // The same with PIPELINING.
        (&[piped], &[taken, taken, taken], true),
        (
            &[piped, ("MAIL", "451 x"), ("RCPT", "503 y"), ("DATA", "503 z")],
            &["later 451 x"; 3],
            true,
        ),
        (&[piped, ("MAIL", "550 x")], &["never 550 x"; 3], true),
        (
            &[piped, ("RCPT TO:<a", "450 x"), ("RCPT TO:<b", "550 y")],
            &["later 450 x", "never 550 y", taken],
            true,
        ),
        (&[piped, ("RCPT", "550 x"), ("DATA", "554 y")], &["never 550 x"; 3], true),
        (&[piped, ("RCPT", "550 x")], &["never 550 x"; 3], true),
        (&[piped, ("RCPT", "550 x"), (".", "554 y")], &["never 550 x"; 3], true),
        (&[piped, ("DATA", "451 x")], &["later 451 x"; 3], true),
        (&[piped, ("RCPT TO:<b", "421 x")], &["later 421 x"; 3], false),
    ];
    for (replies, expected, ready) in rows {
        let (found, said, step) = outcomes(replies);
        assert_eq!(found, *expected, "{replies:?} {said:?}");
        assert_eq!(step == SenderStep::Ready, *ready, "{replies:?} {said:?}");
    }
}

#[test]
fn commands_of_a_transaction() {
    let (_, said, _) = outcomes(&[("EHLO", "502 what"), ("RCPT TO:<b", "550 x")]);
    let alone = [
        "EHLO here.example",
        "HELO here.example",
        "MAIL FROM:<me@here.example>",
        "RCPT TO:<a@x.example>",
        "RCPT TO:<b@x.example>",
        "RCPT TO:<c@x.example>",
        "DATA",
        "[mail data]",
    ];
    assert_eq!(said, alone);
    let (_, said, _) = outcomes(&[("EHLO", ALL)]);
    let group = "MAIL FROM:<me@here.example> SIZE=100 | RCPT TO:<a@x.example> | \
        RCPT TO:<b@x.example> | RCPT TO:<c@x.example> | DATA";
    assert_eq!(said, ["EHLO here.example", group, "[mail data]"]);
    // With no recipient left, only a dot is sent.
    for refused in ["RCPT", "MAIL"] {
        let (_, said, _) = outcomes(&[("EHLO", ALL), (refused, "550 x")]);
        assert_eq!(said, ["EHLO here.example", group, "."]);
    }
}

#[test]
fn open_transaction_is_reset() {
    let one = envelope(&["a@x.example"]);
    for (first, second, rset) in [
        (&[][..], "MAIL FROM:<me@here.example>", false),
        (&[("DATA", "451 x")], "RSET", true),
        (&[("RCPT", "550 x"), ("DATA", "503 y")], "RSET", true),
        (&[("MAIL", "550 x"), ("DATA", "503 y")], "RSET", true),
        (&[(".", "550 x")], "MAIL FROM:<me@here.example>", false),
    ] {
        for ehlo in ["250 x", "250-x\r\n250 PIPELINING"] {
            let replies = [first, &[("EHLO", ehlo)]].concat();
            let mut dialogue = Dialogue::new(config(), &replies, 1);
            dialogue.send(&one, None);
            let before = dialogue.said.len();
            dialogue.replies = &[];
            assert_eq!(dialogue.send(&one, None), ["done 250 2.0.0 taken"]);
            assert!(dialogue.said[before].starts_with(second), "{:?}", dialogue.said);
            assert_eq!(dialogue.said[before..].concat().matches("RSET").count(), usize::from(rset));
        }
    }
}

#[test]
fn large_groups_are_split_and_rcptmax_is_kept() {
    let many: Vec<String> = (0..120).map(|i| format!("u{i}@x.example")).collect();
    let many = envelope(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let mut dialogue = Dialogue::new(config(), &[("EHLO", "250-x\r\n250 PIPELINING")], usize::MAX);
    let found = dialogue.send(&many, None);
    assert!(found.iter().all(|outcome| outcome == "done 250 2.0.0 taken"));
    let counts: Vec<usize> =
        dialogue.said.iter().map(|group| group.matches(" | ").count()).collect();
    assert_eq!(counts, [0, 49, 49, 21, 0]);
    // The limit RCPTMAX.
    let limits = [("EHLO", "250-x\r\n250-LIMITS RCPTMAX=100 MAILMAX=2\r\n250 PIPELINING")];
    let mut dialogue = Dialogue::new(config(), &limits, usize::MAX);
    dialogue.sender.begin_transaction(&many, vec![], 100, None);
    assert_eq!(dialogue.run(), SenderStep::Data);
    dialogue.sender.finish_data();
    dialogue.reply_to(".");
    let first = dialogue.sender.take_outcomes();
    assert_eq!(first.iter().filter(|outcome| outcome.is_none()).count(), 20);
    assert!(!dialogue.sender.has_reached_limit());
    let found = dialogue.send_rest(&many, first, None);
    assert!(found.iter().all(|outcome| outcome == "done 250 2.0.0 taken"));
    assert!(dialogue.sender.has_reached_limit());
}

#[test]
fn small_message_is_one_chunk() {
    let ehlo = ("EHLO", "250-x\r\n250-PIPELINING\r\n250 CHUNKING");
    let two = envelope(&["a@x.example", "b@x.example"]);
    let chunk = Some("Subject: x\r\n\r\n.\r\n");
    for (reply, expected, open) in [
        (("BDAT", "250 ok"), ["done 250 ok"; 2], false),
        (("BDAT", "451 x"), ["later 451 x"; 2], true),
        (("BDAT", "554 x"), ["never 554 x"; 2], true),
        (("RCPT TO:<a", "550 x"), ["never 550 x", "done 250 2.0.0 taken"], false),
    ] {
        for cut in [1, 100] {
            let replies = [ehlo, reply];
            let mut dialogue = Dialogue::new(config(), &replies, cut);
            assert!(
                dialogue.sender.accepts_chunk(32 * 1024)
                    && !dialogue.sender.accepts_chunk(32 * 1024 + 1)
            );
            assert_eq!(dialogue.send(&two, chunk), expected);
            assert!(dialogue.said[1].ends_with("RCPT TO:<b@x.example> | BDAT 17 LAST"));
            dialogue.send(&two, chunk);
            assert_eq!(dialogue.said[2].starts_with("RSET"), open);
        }
    }
    let dialogue = Dialogue::new(config(), &[("EHLO", "250-x\r\n250 CHUNKING")], 1);
    assert!(!dialogue.sender.accepts_chunk(1), "without PIPELINING it saves nothing");
}

#[test]
fn parameters_need_an_offered_extension() {
    let mut envelope = envelope(&["a@x.example"]);
    envelope.ret = Some(DsnReturn::Headers);
    envelope.envid = Some("a+b c".to_owned());
    let original = OriginalRecipient { addr_type: "rfc822".into(), address: "A=1@x".into() };
    envelope.to[0].notify = Some(DsnNotify { success: true, failure: false, delay: true });
    envelope.to[0].original = Some(original);
    let mut dialogue = Dialogue::new(config(), &[("EHLO", "250 x")], 1);
    assert_eq!(dialogue.send(&envelope, None), ["done 250 2.0.0 taken"]);
    assert_eq!(dialogue.said[1..3], ["MAIL FROM:<me@here.example>", "RCPT TO:<a@x.example>"]);
    envelope.body = BodyType::EightBitMime;
    envelope.from = ReversePath::Null;
    let mut dialogue = Dialogue::new(config(), &[("EHLO", ALL)], 1);
    dialogue.send(&envelope, None);
    let group = "MAIL FROM:<> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=a+2Bb+20c | \
        RCPT TO:<a@x.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;A+3D1@x | DATA";
    assert_eq!(dialogue.said[1], group);
}

/// A message that needs an extension which is not offered fails at once, and nothing is sent.
#[test]
fn message_is_never_converted() {
    let size = "never the message exceeds the size limit of the next server";
    let eight = "never the next server does not support 8BITMIME";
    let utf8 = "never the next server does not support SMTPUTF8";
    let taken = "done 250 2.0.0 taken";
    let declared = Envelope { body: BodyType::EightBitMime, ..envelope(&["a@x"]) };
    let with_utf8 = Envelope { utf8: true, ..envelope(&["a@x"]) };
    let one = envelope(&["a@x"]);
    let mixed = envelope(&["j\u{fc}rgen@x", "a@m\u{fc}nchen.example"]);
    for (envelope, ehlo, expected, said) in [
        (&one, "250-x\r\n250 SIZE 99", vec![size], 1),
        (&one, "250-x\r\n250 SIZE 100", vec![taken], 5),
        (&one, "250-x\r\n250 SIZE 0", vec![taken], 5),
        (&declared, "250 x", vec![eight], 1),
        (&declared, "250-x\r\n250 8BITMIME", vec![taken], 5),
        (&with_utf8, "250 x", vec![utf8], 1),
        (&with_utf8, "250-x\r\n250 SMTPUTF8", vec![taken], 5),
        (&mixed, "250 x", vec![utf8, taken], 5),
        (&mixed, "250-x\r\n250 SMTPUTF8", vec![taken, taken], 6),
    ] {
        let replies = [("EHLO", ehlo)];
        let mut dialogue = Dialogue::new(config(), &replies, 1);
        assert_eq!(dialogue.send(envelope, None), expected, "{ehlo}");
        assert_eq!(dialogue.said.len(), said, "{:?}", dialogue.said);
        assert_eq!(dialogue.sender.step(), SenderStep::Ready);
        if envelope.to.len() == 2 {
            let to = if said == 5 { "xn--mnchen-3ya.example" } else { "m\u{fc}nchen.example" };
            assert_eq!(dialogue.said[said - 3], format!("RCPT TO:<a@{to}>"));
        }
    }
}

#[test]
fn starttls_and_auth() {
    let tls = "250-x\r\n250-STARTTLS\r\n250 AUTH PLAIN";
    let login = || Some(Credentials { user: "jones".to_owned(), password: "secret".to_owned() });
    let plain = "AUTH PLAIN AGpvbmVzAHNlY3JldA==";
    let ehlo = "EHLO here.example";
    let inside: &[&str] = &[ehlo, "STARTTLS", "[TLS]", ehlo];
    let inside_auth: &[&str] = &[ehlo, "STARTTLS", "[TLS]", ehlo, plain];
    type Row<'a> = (StartTlsPolicy, bool, bool, Replies<'a>, &'a [&'a str], &'a str);
    let rows: &[Row<'_>] = &[
        (StartTlsPolicy::Off, false, false, &[("EHLO", tls)], &[ehlo], ""),
        (StartTlsPolicy::Offered, false, false, &[("EHLO", tls)], inside, ""),
        (StartTlsPolicy::Offered, false, false, &[], &[ehlo], ""),
        (StartTlsPolicy::Offered, true, false, &[("EHLO", tls)], inside, ""),
        (StartTlsPolicy::Offered, true, false, &[], &[ehlo], ""),
        (
            StartTlsPolicy::Offered,
            false,
            false,
            &[("EHLO", tls), ("STARTTLS", "454 4.7.0 not now")],
            &[ehlo, "STARTTLS"],
            "",
        ),
        (
            StartTlsPolicy::Required,
            false,
            false,
            &[("EHLO", tls), ("STARTTLS", "454 4.7.0 not now")],
            &[ehlo, "STARTTLS", "QUIT"],
            "454 4.7.0 not now",
        ),
        (
            StartTlsPolicy::Required,
            false,
            false,
            &[],
            &[ehlo, "QUIT"],
            "TLS is required, but the server does not offer STARTTLS",
        ),
        // A reply injected after the 220, whole or in part.
        (
            StartTlsPolicy::Required,
            false,
            false,
            &[("EHLO", tls), ("STARTTLS", "220 go\r\n250 injected")],
            &[ehlo, "STARTTLS"],
            "received clear text before the TLS handshake",
        ),
        (StartTlsPolicy::Required, false, true, &[("EHLO", tls)], inside_auth, ""),
        (StartTlsPolicy::Off, true, true, &[("EHLO", tls)], &[ehlo, plain], ""),
        // No password in clear text.
        (
            StartTlsPolicy::Off,
            false,
            true,
            &[("EHLO", tls)],
            &[ehlo, "QUIT"],
            "the password is not sent without TLS",
        ),
        (
            StartTlsPolicy::Offered,
            false,
            true,
            &[("EHLO", tls), ("STARTTLS", "454 x")],
            &[ehlo, "STARTTLS", "QUIT"],
            "the password is not sent without TLS",
        ),
        (
            StartTlsPolicy::Off,
            true,
            true,
            &[],
            &[ehlo, "QUIT"],
            "the server offers neither AUTH PLAIN nor AUTH LOGIN",
        ),
        (
            StartTlsPolicy::Off,
            true,
            true,
            &[("EHLO", tls), ("AUTH", "535 5.7.8 no")],
            &[ehlo, plain, "QUIT"],
            "535 5.7.8 no",
        ),
        (
            StartTlsPolicy::Off,
            true,
            true,
            &[("EHLO", tls), ("AUTH", "334 ")],
            &[ehlo, plain],
            "the server sent too many challenges for AUTH",
        ),
        (
            StartTlsPolicy::Off,
            true,
            true,
            &[
                ("EHLO", "250-x\r\n250 AUTH LOGIN"),
                ("AUTH", "334 x"),
                ("am9", "334 y"),
                ("c2V", "235 z"),
            ],
            &[ehlo, "AUTH LOGIN", "am9uZXM=", "c2VjcmV0"],
            "",
        ),
    ];
    for (start_tls, secure, auth, replies, said, failure) in rows {
        let config = SenderConfig {
            start_tls: *start_tls,
            secure: *secure,
            credentials: if *auth { login() } else { None },
            ..config()
        };
        // A reply that is injected later comes within TLS and makes the handshake fail.
        let dialogue = Dialogue::new(config, replies, usize::MAX);
        assert_eq!(dialogue.said, *said, "{replies:?}");
        let found = dialogue.sender.failure().map(ToString::to_string).unwrap_or_default();
        assert_eq!(found, *failure, "{replies:?}");
        assert_eq!(dialogue.sender.step() == SenderStep::Ready, failure.is_empty());
    }
}

/// Extensions offered before the handshake are forgotten (RFC 3207 4.2).
#[test]
fn extensions_before_tls_are_forgotten() {
    let mut sender = Sender::new(SenderConfig { start_tls: StartTlsPolicy::Offered, ..config() });
    let mut exchange = |reply: &str, said: &str| {
        sender.feed(format!("{reply}\r\n").as_bytes());
        let dsn = sender.extensions().dsn;
        assert_eq!(String::from_utf8(sender.take_output()).unwrap(), said);
        if sender.step() == SenderStep::StartTls {
            sender.begin_tls();
            assert_eq!(sender.take_output(), b"EHLO here.example\r\n");
        }
        (dsn, sender.extensions().dsn)
    };
    assert_eq!(exchange("220 x", "EHLO here.example\r\n"), (false, false));
    assert_eq!(exchange("250-x\r\n250-DSN\r\n250 STARTTLS", "STARTTLS\r\n"), (true, true));
    assert_eq!(exchange("220 x", ""), (true, false));
    assert_eq!(exchange("502 x", "HELO here.example\r\n"), (false, false));
    assert_eq!(exchange("250 x", ""), (false, false));
    assert_eq!(sender.step(), SenderStep::Ready);
}

/// A reply that came before its command does not answer it.
#[test]
fn early_replies_are_errors() {
    for ahead in ["220 x\r\n250 y\r\n", "220 x\r\n250-y\r\n250 z\r\n"] {
        let mut sender = Sender::new(config());
        sender.feed(ahead.as_bytes());
        assert_eq!(sender.step(), SenderStep::Close);
        assert_eq!(sender.take_output(), b"");
    }
}
