//! An entry point for fuzzers: a server that sends any bytes to a [`Sender`].

use super::super::envelope::{Envelope, Recipient};
use super::super::path::{ForwardPath, Mailbox};
use super::{Credentials, RecipientOutcome, Sender, SenderConfig, SenderStep, StartTlsPolicy};

/// Feeds `input`, line by line, to a sender of two messages. Checks that the division of the input
/// does not change the result, that the sender sends whole commands, and that a recipient is
/// accepted only by a reply of 2yz.
pub fn sender(input: &[u8]) {
    assert_eq!(trace(input, usize::MAX), trace(input, 1));
}

/// Returns all commands of the sender and the outcomes of the recipients.
fn trace(input: &[u8], cut: usize) -> String {
    let credentials = || Credentials { user: "jones".to_owned(), password: "secret".to_owned() };
    let mut sender = Sender::new(SenderConfig {
        hostname: "here.example".to_owned(),
        secure: input.len().is_multiple_of(2),
        lmtp: false,
        start_tls: StartTlsPolicy::Offered,
        credentials: input.len().is_multiple_of(3).then(credentials),
    });
    let mut trace = String::new();
    let mut transactions = 0;
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        line.chunks(cut).for_each(|piece| sender.feed(piece));
        perform_steps(&mut sender, &mut transactions, &mut trace);
        let output = String::from_utf8_lossy(&sender.take_output()).into_owned();
        assert!(output.is_empty() || output.ends_with("\r\n"), "{output:?}");
        assert!(!output.replace("\r\n", "").contains(char::is_control), "{output:?}");
        assert!(sender.step() != SenderStep::Close || output.is_empty(), "{output:?}");
        trace += &output;
    }
    trace
}

/// Performs steps until one waits for the server.
fn perform_steps(sender: &mut Sender, transactions: &mut usize, trace: &mut String) {
    loop {
        let step = sender.step();
        if matches!(step, SenderStep::Ready | SenderStep::Close) {
            for outcome in sender.take_outcomes().into_iter().flatten() {
                let reason = outcome.reason();
                assert!(reason.text.len() <= 512 && !reason.text.contains(char::is_control));
                let is_accepted = matches!(outcome, RecipientOutcome::Accepted(_));
                let positive = reason.code.is_some_and(|code| code / 100 == 2);
                assert_eq!(is_accepted, positive, "{outcome:?}");
                *trace += &format!("{outcome:?}\n");
            }
        }
        match step {
            SenderStep::StartTls => sender.begin_tls(),
            SenderStep::Data => sender.finish_data(),
            SenderStep::Ready if *transactions < 2 => {
                *transactions += 1;
                let chunk = sender.accepts_chunk(3).then(|| b"a\r\n".to_vec());
                sender.begin_transaction(&envelope(), Vec::new(), 3, chunk);
            }
            SenderStep::Ready => sender.quit(),
            SenderStep::Read(_) | SenderStep::Close => return,
        }
    }
}

fn envelope() -> Envelope<()> {
    let mailbox = Mailbox::parse("j\u{fc}rgen@b").ok().map(ForwardPath::Mailbox);
    let recipient = |path| Recipient::new(path, ());
    Envelope {
        to: mailbox.into_iter().chain([ForwardPath::Postmaster]).map(recipient).collect(),
        ..Envelope::blank()
    }
}
