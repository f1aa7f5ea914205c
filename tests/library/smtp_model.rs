//! Random commands against a small reference model of the states: a greeting, a transaction, a
//! number of recipients. In any order, each reply has the code that the model predicts.

use mailslot::smtp::ReceiverConfig;
use mailslot::smtp::testing::Conversation;
use proptest::prelude::*;

use crate::harness::fixtures::{self, BetaHost};

const RECIPIENTS_MAX: usize = 3;
const ERRORS_MAX: u32 = 6;

/// State of a connection.
#[derive(Debug, Default)]
struct Model {
    greeted: bool,
    transaction: bool,
    accepted: usize,
    refused: bool,
    /// Whether SEND began the transaction.
    send: bool,
    /// Whether the last chunk was accepted; None before the first.
    chunks: Option<bool>,
    errors: u32,
    closed: bool,
}

/// Lines, and the code of the reply if it does not depend on the state; otherwise 0.
const LINES: &[(&str, u16)] = &[
    ("EHLO alpha.arpa", 250),
    ("HELO alpha.arpa", 250),
    ("EHLO", 501),
    ("MAIL FROM:<a@b>", 0),
    ("MAIL FROM:<> SIZE=5001", 0),
    ("MAIL FROM:<a@b> SIZE=10001", 0),
    ("MAIL FROM:<a@b", 501),
    ("SEND FROM:<a@b>", 0),
    ("SOML FROM:<a@b>", 0),
    ("SAML FROM:<a@b>", 0),
    ("MAIL FROM:<a@b> X=Y", 555),
    ("RCPT TO:<jones@beta.arpa>", 0),
    ("RCPT TO:<postmaster>", 0),
    ("RCPT TO:<green@beta.arpa>", 0),
    ("RCPT TO:<a@elsewhere>", 0),
    ("RCPT TO:jones", 501),
    ("DATA", 0),
    ("DATA x", 501),
    ("BDAT 0", 0),
    ("BDAT 0 LAST", 0),
    ("RSET", 250),
    ("NOOP", 250),
    ("VRFY smith", 250),
    ("EXPN nobody", 550),
    ("HELP", 211),
    ("HELP MAIL", 214),
    ("HELP x", 504),
    ("TURN", 502),
    ("WIZ", 500),
    ("QUIT", 221),
];

impl Model {
    /// Returns the code of the reply to `line`.
    fn reply(&mut self, line: &str, fixed: u16) -> u16 {
        let code = if fixed == 0 { self.code_by_state(line) } else { fixed };
        match line {
            "QUIT" => self.closed = true,
            "RSET" => self.end_transaction(),
            "EHLO alpha.arpa" | "HELO alpha.arpa" => {
                self.greeted = true;
                self.end_transaction();
            }
            _ => {}
        }
        // A chunk that was pipelined after a refusal does not count as another error.
        let follows = line.starts_with("BDAT") && self.transaction;
        if line == "BDAT 0 LAST" {
            self.end_transaction();
        }
        if matches!(code, 500..=504 | 555) && !follows {
            self.errors += 1;
            if self.errors > ERRORS_MAX {
                self.closed = true;
                return 421;
            }
        }
        code
    }

    fn code_by_state(&mut self, line: &str) -> u16 {
        let verb = match line.split(' ').next().unwrap() {
            "SEND" | "SOML" | "SAML" => "MAIL",
            verb => verb,
        };
        match (verb, self.greeted, self.transaction) {
            ("MAIL", false, _) | ("MAIL", _, true) => 503,
            ("RCPT" | "DATA" | "BDAT", _, false) => 503,
            ("RCPT" | "DATA", ..) if self.chunks.is_some() => 503,
            ("MAIL", ..) if line.ends_with("=10001") => 552,
            ("MAIL", ..) if line.ends_with("=5001") => 452,
            ("MAIL", ..) => {
                self.transaction = true;
                self.send = line.starts_with("SEND");
                250
            }
            ("RCPT", ..) if self.accepted == RECIPIENTS_MAX => 452,
            ("RCPT", ..) if line.contains("green") || line.contains("elsewhere") => {
                self.refused = true;
                550
            }
            // No user of the fixtures is at a terminal.
            ("RCPT", ..) if self.send => {
                self.refused = true;
                450
            }
            ("RCPT", ..) => {
                self.accepted += 1;
                250
            }
            ("BDAT", ..) => {
                let good = self.chunks != Some(false) && self.accepted > 0;
                let first = self.chunks.replace(good).is_none();
                match good {
                    true => 250,
                    false if first && self.refused => 554,
                    false => 503,
                }
            }
            ("DATA", ..) if self.accepted > 0 => 354,
            ("DATA", ..) if self.refused => 554,
            ("DATA", ..) => 503,
            _ => unreachable!("{line}"),
        }
    }

    fn end_transaction(&mut self) {
        (self.transaction, self.accepted, self.refused) = (false, 0, false);
        self.chunks = None;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_the_reference_model(
        picks in prop::collection::vec(prop::sample::select(LINES), 1..60),
        bare in any::<bool>(),
    ) {
        let config = ReceiverConfig {
            recipients_max: RECIPIENTS_MAX,
            errors_max: ERRORS_MAX,
            terminals: true,
            ..fixtures::config(&[])
        };
        let mut machine = Conversation::new(config, BetaHost);
        let mut model = Model::default();
        let mut expected = vec![220];
        for (line, fixed) in picks {
            if model.closed {
                break;
            }
            let code = model.reply(line, fixed);
            expected.push(code);
            machine.feed(format!("{line}\r\n").as_bytes());
            if code == 354 {
                machine.feed(if bare { b"a\nb\r\n.\r\n" } else { b"RSET\r\n.\r\n" });
                expected.push(if bare { 554 } else { 250 });
                model.end_transaction();
            }
        }
        prop_assert_eq!(codes(&machine.out), expected);
        prop_assert_eq!(machine.closed, model.closed);
    }
}

/// Returns the code of each reply.
fn codes(out: &[u8]) -> Vec<u16> {
    let text = std::str::from_utf8(out).unwrap();
    let last_lines = text.lines().filter(|line| line.as_bytes()[3] == b' ');
    last_lines.map(|line| line[..3].parse().unwrap()).collect()
}
