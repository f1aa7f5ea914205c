//! What fuzzers call: a server that says anything to a [`Sender`].

use super::super::envelope::{Envelope, Recipient};
use super::super::path::{ForwardPath, Mailbox};
use super::{Credentials, RecipientOutcome, Sender, SenderConfig, SenderStep, StartTlsPolicy};

/// What is said to a sender of two messages, line by line: the same comes of it at every cut, all
/// that the sender says is whole commands, and only replies of 2yz make an outcome done.
pub fn sender(input: &[u8]) {
    assert_eq!(trace(input, usize::MAX), trace(input, 1));
}

/// All that the sender said, and what became of the recipients.
fn trace(input: &[u8], cut: usize) -> String {
    let login = || Credentials { user: "jones".to_owned(), password: "secret".to_owned() };
    let mut sender = Sender::new(SenderConfig {
        hostname: "here.example".to_owned(),
        secure: input.len().is_multiple_of(2),
        start_tls: StartTlsPolicy::Offered,
        login: input.len().is_multiple_of(3).then(login),
    });
    let mut trace = String::new();
    let mut mails = 0;
    for line in input.split_inclusive(|octet| *octet == b'\n') {
        line.chunks(cut).for_each(|piece| sender.feed(piece));
        act(&mut sender, &mut mails, &mut trace);
        let said = String::from_utf8_lossy(&sender.output()).into_owned();
        assert!(said.is_empty() || said.ends_with("\r\n"), "{said:?}");
        assert!(!said.replace("\r\n", "").contains(char::is_control), "{said:?}");
        assert!(sender.step() != SenderStep::Close || said.is_empty(), "{said:?}");
        trace += &said;
    }
    trace
}

/// Does what the next steps are, up to one that waits for the server.
fn act(sender: &mut Sender, mails: &mut usize, trace: &mut String) {
    loop {
        let step = sender.step();
        if matches!(step, SenderStep::Ready | SenderStep::Close) {
            for outcome in sender.outcomes().into_iter().flatten() {
                let reason = outcome.reason();
                assert!(reason.text.len() <= 512 && !reason.text.contains(char::is_control));
                let is_done = matches!(outcome, RecipientOutcome::Done(_));
                let positive = reason.code.is_some_and(|code| code / 100 == 2);
                assert_eq!(is_done, positive, "{outcome:?}");
                *trace += &format!("{outcome:?}\n");
            }
        }
        match step {
            SenderStep::StartTls => sender.tls_started(),
            SenderStep::Data => sender.data_sent(),
            SenderStep::Ready if *mails < 2 => {
                *mails += 1;
                let chunk = sender.takes_chunk(3).then(|| b"a\r\n".to_vec());
                sender.begin(&envelope(), Vec::new(), 3, chunk);
            }
            SenderStep::Ready => sender.quit(),
            SenderStep::Read(_) | SenderStep::Close => return,
        }
    }
}

fn envelope() -> Envelope<()> {
    let mailbox = Mailbox::parse("j\u{fc}rgen@b").ok().map(ForwardPath::Mailbox);
    let recipient = |path| Recipient { path, destination: (), notify: None, original: None };
    Envelope {
        to: mailbox.into_iter().chain([ForwardPath::Postmaster]).map(recipient).collect(),
        ..Envelope::blank()
    }
}
