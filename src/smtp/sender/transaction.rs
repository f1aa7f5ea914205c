//! One transaction of a [`Sender`], from MAIL to the end of mail data.
//!
//! ```text
//! RSET?  MAIL  RCPT RCPT ...  DATA    ->  354  mail data .   ->  one reply for all
//! RSET?  MAIL  RCPT RCPT ...  BDAT n LAST, mail data         ->  one reply for all
//! ```
//! Where the server offers PIPELINING, a line of these is one group (RFC 2920 3.1); a recipient
//! that is refused then does not hold up the others, and mail data that nobody is left to get is a
//! dot alone.

use std::collections::VecDeque;

use super::super::dsn;
use super::super::envelope::{BodyType, Envelope, Recipient};
use super::super::path::{Domain, ForwardPath, Mailbox, ReversePath};
use super::{
    AwaitedReply, Extensions, OutcomeReason, PIPELINE_MAX, PROTOCOL, RecipientOutcome, Sender,
    SenderPhase,
};

/// From MAIL to the end of mail data.
#[derive(Debug)]
pub(super) struct SenderTransaction {
    /// Of each recipient of the envelope; None: not decided, or not tried.
    pub(super) outcomes: Vec<Option<RecipientOutcome>>,
    /// MAIL, until it is said.
    mail: Option<String>,
    /// RCPT commands that were not said yet, and whose they are.
    rcpts: VecDeque<(usize, String)>,
    /// Recipients that were said, or will be.
    tried: Vec<usize>,
    /// Recipients that the server took.
    accepted: Vec<usize>,
    /// All mail data, to go by BDAT.
    chunk: Option<Vec<u8>>,
    /// Whether DATA or BDAT was said.
    ended: bool,
    /// Whether MAIL was refused.
    refused: bool,
}

impl Sender {
    /// Says what is due, once all that was said is answered.
    pub(super) fn continue_transaction(&mut self) {
        let Some(transaction) = &mut self.transaction else { return };
        if transaction.is_finished() {
            self.phase = SenderPhase::Ready;
            return;
        }
        let pipelining = self.extensions.pipelining;
        let mut group = 0;
        if self.transaction_open && transaction.mail.is_some() {
            self.transaction_open = false;
            self.send_command("RSET".to_owned(), AwaitedReply::Rset);
            if !pipelining {
                return;
            }
        }
        while let Some((line, awaited)) =
            self.transaction.as_mut().and_then(SenderTransaction::next_command)
        {
            self.transaction_open = true;
            let last = matches!(awaited, AwaitedReply::Data | AwaitedReply::Chunk);
            self.send_command(line, awaited);
            group += 1;
            if last {
                let chunk = self.transaction.as_mut().and_then(|t| t.chunk.take());
                self.output.extend_from_slice(&chunk.unwrap_or_default());
            }
            if last || !pipelining || group >= PIPELINE_MAX {
                break;
            }
        }
    }

    /// A reply to a command of a transaction.
    pub(super) fn handle_transaction_reply(
        &mut self,
        awaited: AwaitedReply,
        class: u16,
        reason: OutcomeReason,
    ) {
        let Some(transaction) = &mut self.transaction else { return };
        match (awaited, class) {
            (AwaitedReply::Mail, 2) => {}
            (AwaitedReply::Mail, 4 | 5) => {
                transaction.refused = true;
                transaction.decide_tried(class, &reason);
            }
            (AwaitedReply::Rcpt(_), 2 | 4 | 5) if transaction.refused => {}
            (AwaitedReply::Rcpt(recipient), 2 | 4 | 5) => {
                transaction.rcpt_replied(recipient, class, reason)
            }
            (AwaitedReply::Data, 3) if transaction.accepted.is_empty() => {
                // To nobody: the shortest mail data there is (RFC 2920 3.1).
                self.output.extend_from_slice(b".\r\n");
                self.awaited.push_back(AwaitedReply::Dot);
            }
            (AwaitedReply::Data, 3) => {
                self.phase = SenderPhase::Data;
            }
            (AwaitedReply::Dot, 2 | 4 | 5) => {
                self.transaction_open = false;
                transaction.decide_accepted(class, &reason);
            }
            (AwaitedReply::Chunk, 2) => {
                self.transaction_open = false;
                transaction.decide_accepted(class, &reason);
            }
            (AwaitedReply::Data | AwaitedReply::Chunk, 4 | 5) => {
                transaction.decide_accepted(class, &reason)
            }
            (awaited, _) => {
                self.awaited.push_front(awaited);
                self.fail(&format!("a reply without sense came ({reason})"), PROTOCOL);
            }
        }
    }
}

impl SenderTransaction {
    pub(super) fn new<D>(
        extensions: &Extensions,
        envelope: &Envelope<D>,
        mut outcomes: Vec<Option<RecipientOutcome>>,
        octets: u64,
        chunk: Option<Vec<u8>>,
    ) -> SenderTransaction {
        outcomes.resize(envelope.to.len(), None);
        let mut transaction = SenderTransaction {
            outcomes,
            mail: None,
            rcpts: VecDeque::new(),
            tried: Vec::new(),
            accepted: Vec::new(),
            chunk,
            ended: false,
            refused: false,
        };
        let utf8 = needs_utf8(envelope) && extensions.utf8;
        let at_once = extensions.recipients_max.unwrap_or(usize::MAX);
        for (number, recipient) in envelope.to.iter().enumerate() {
            if transaction.outcomes.get(number) == Some(&None) && transaction.tried.len() < at_once
            {
                transaction.tried.push(number);
                match rcpt_command(extensions, recipient, utf8) {
                    Ok(line) => transaction.rcpts.push_back((number, line)),
                    Err(reason) => transaction.decide(number, 5, reason),
                }
            }
        }
        match mail_command(extensions, envelope, octets, utf8) {
            Ok(line) => transaction.mail = Some(line),
            Err(reason) => {
                transaction.refused = true;
                transaction.decide_tried(5, &reason);
            }
        }
        if transaction.rcpts.is_empty() {
            transaction.refused = true;
        }
        transaction
    }

    /// Whether nothing is left to be said, all replies being there.
    fn is_finished(&self) -> bool {
        let nobody = self.mail.is_none() && self.rcpts.is_empty() && self.accepted.is_empty();
        self.refused || self.ended || nobody
    }

    /// The next command, as far as replies are not needed to know it.
    fn next_command(&mut self) -> Option<(String, AwaitedReply)> {
        if let Some(mail) = self.mail.take() {
            return Some((mail, AwaitedReply::Mail));
        }
        if let Some((number, line)) = self.rcpts.pop_front() {
            return Some((line, AwaitedReply::Rcpt(number)));
        }
        if std::mem::replace(&mut self.ended, true) {
            return None;
        }
        Some(match &self.chunk {
            Some(chunk) => (format!("BDAT {} LAST", chunk.len()), AwaitedReply::Chunk),
            None => ("DATA".to_owned(), AwaitedReply::Data),
        })
    }

    /// A reply to RCPT.
    fn rcpt_replied(&mut self, number: usize, class: u16, reason: OutcomeReason) {
        if class == 2 {
            self.accepted.push(number);
        } else if matches!(reason.code, Some(452 | 552))
            && matches!(reason.status, (_, 0, 0) | (_, 5, 3))
            && !self.accepted.is_empty()
        {
            // Too many at a time, and not this one: it is tried in another transaction.
        } else if reason.code == Some(552) {
            // 552 is an old word for 452 (RFC 5321 4.5.3.1.10).
            self.decide(number, 4, reason);
        } else {
            self.decide(number, class, reason);
        }
    }

    /// The reply that decides over those that were accepted.
    pub(super) fn decide_accepted(&mut self, class: u16, reason: &OutcomeReason) {
        for number in std::mem::take(&mut self.accepted) {
            self.decide(number, class, reason.clone());
        }
    }

    /// No more replies come: what was not decided is for later.
    pub(super) fn defer_undecided(&mut self, reason: &OutcomeReason) {
        let undecided = 0..self.outcomes.len();
        undecided.for_each(|number| self.decide(number, 4, reason.clone()));
    }

    /// One reply for all that this transaction was to try.
    fn decide_tried(&mut self, class: u16, reason: &OutcomeReason) {
        for number in std::mem::take(&mut self.tried) {
            self.decide(number, class, reason.clone());
        }
    }

    /// The first outcome stays.
    fn decide(&mut self, number: usize, class: u16, reason: OutcomeReason) {
        if let Some(outcome @ None) = self.outcomes.get_mut(number) {
            *outcome = Some(match class {
                2 => RecipientOutcome::Accepted(reason),
                5 => RecipientOutcome::Failed(reason),
                _ => RecipientOutcome::Deferred(reason),
            });
        }
    }
}

/// `MAIL FROM:<...>` with what the server offers and the envelope needs; or why it cannot be.
fn mail_command<D>(
    extensions: &Extensions,
    envelope: &Envelope<D>,
    octets: u64,
    utf8: bool,
) -> Result<String, OutcomeReason> {
    if extensions.size_max.is_some_and(|max| octets > max) {
        return Err(OutcomeReason::local(
            (5, 3, 4),
            "the message is larger than the next server takes",
        ));
    }
    if envelope.body == BodyType::EightBitMime && !extensions.eight_bit_mime {
        return Err(OutcomeReason::local((5, 6, 3), "the next server does not take 8BITMIME"));
    }
    let path = match &envelope.from {
        ReversePath::Null => Some("<>".to_owned()),
        ReversePath::Mailbox(mailbox) => path(mailbox, utf8),
    };
    let path = path.filter(|_| utf8 || !envelope.utf8).ok_or_else(smtputf8_missing)?;
    let mut line = format!("MAIL FROM:{path}");
    if extensions.size {
        line += &format!(" SIZE={octets}");
    }
    if envelope.body == BodyType::EightBitMime {
        line += " BODY=8BITMIME";
    }
    if utf8 {
        line += " SMTPUTF8";
    }
    if extensions.dsn {
        if let Some(ret) = envelope.ret {
            line += &format!(" RET={ret}");
        }
        if let Some(envid) = &envelope.envid {
            line += &format!(" ENVID={}", dsn::encode_xtext(envid));
        }
    }
    Ok(line)
}

/// `RCPT TO:<...>`; or why it cannot be.
fn rcpt_command<D>(
    extensions: &Extensions,
    recipient: &Recipient<D>,
    utf8: bool,
) -> Result<String, OutcomeReason> {
    let path = match &recipient.path {
        ForwardPath::Postmaster => Some("<postmaster>".to_owned()),
        ForwardPath::Mailbox(mailbox) => path(mailbox, utf8),
    };
    let mut line = format!("RCPT TO:{}", path.ok_or_else(smtputf8_missing)?);
    if extensions.dsn {
        if let Some(notify) = recipient.notify {
            line += &format!(" NOTIFY={notify}");
        }
        if let Some(original) = &recipient.original {
            line += &format!(" ORCPT={}", original.encode(utf8));
        }
    }
    Ok(line)
}

/// Whether it needs SMTPUTF8: it was declared, or a local-part is not ASCII. A domain alone has an
/// ASCII form.
fn needs_utf8<D>(envelope: &Envelope<D>) -> bool {
    let from = match &envelope.from {
        ReversePath::Null => None,
        ReversePath::Mailbox(mailbox) => Some(mailbox),
    };
    let to = envelope.to.iter().filter_map(|recipient| match &recipient.path {
        ForwardPath::Postmaster => None,
        ForwardPath::Mailbox(mailbox) => Some(mailbox),
    });
    envelope.utf8 || to.chain(from).any(|mailbox| !mailbox.local().is_ascii())
}

/// `<user@host>`, in ASCII unless `utf8`; None if it has no such form.
fn path(mailbox: &Mailbox, utf8: bool) -> Option<String> {
    if utf8 || mailbox.is_ascii() {
        return Some(format!("<{mailbox}>"));
    }
    let domain = Domain::parse(&mailbox.domain().to_ascii()).ok()?;
    let mailbox = Mailbox::new(mailbox.local(), domain).ok()?;
    mailbox.is_ascii().then(|| format!("<{mailbox}>"))
}

fn smtputf8_missing() -> OutcomeReason {
    OutcomeReason::local((5, 6, 7), "the next server does not take SMTPUTF8")
}
