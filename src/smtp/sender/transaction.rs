//! One transaction of a [`Sender`], from MAIL to the end of mail data.
//!
//! ```text
//! RSET?  MAIL  RCPT RCPT ...  DATA    ->  354  mail data .   ->  one reply for all
//! RSET?  MAIL  RCPT RCPT ...  BDAT n LAST, mail data         ->  one reply for all
//! LMTP:  MAIL  RCPT RCPT ...  DATA    ->  354  mail data .   ->  one reply for each recipient
//! ```
//! If the server offers PIPELINING, each line above is one group of commands (RFC 2920 3.1). A
//! rejected recipient then costs no round trip. If all recipients are rejected and DATA is accepted
//! all the same, the mail data is a dot alone.

use std::collections::VecDeque;

use super::super::dsn;
use super::super::envelope::{BodyType, Envelope, Recipient};
use super::super::path::{Domain, ForwardPath, Mailbox, ReversePath};
use super::{
    AwaitedReply, Extensions, OutcomeReason, PIPELINE_MAX, PROTOCOL, RecipientOutcome, Sender,
    SenderPhase,
};

/// The state from MAIL to the end of mail data.
#[derive(Debug)]
pub(super) struct SenderTransaction {
    /// The outcome of each recipient of the envelope, or None if undecided or not tried.
    pub(super) outcomes: Vec<Option<RecipientOutcome>>,
    /// The MAIL command, if it was not sent yet.
    mail: Option<String>,
    /// The RCPT commands that were not sent yet, with the index of the recipient.
    rcpts: VecDeque<(usize, String)>,
    /// The recipients that this transaction includes.
    tried: Vec<usize>,
    /// The recipients that the server accepted.
    accepted: Vec<usize>,
    /// All mail data, to be sent by BDAT.
    chunk: Option<Vec<u8>>,
    /// Whether DATA or BDAT was sent.
    data_begun: bool,
    /// Whether MAIL was rejected, or nothing is to be sent.
    rejected: bool,
}

impl Sender {
    /// Sends the next group of commands, after all replies to the last one were received.
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

    /// Handles a reply to a command of the transaction.
    pub(super) fn handle_transaction_reply(
        &mut self,
        awaited: AwaitedReply,
        class: u16,
        reason: OutcomeReason,
    ) {
        let Some(transaction) = &mut self.transaction else { return };
        // 530 asks for AUTH or STARTTLS (RFC 4954 6, RFC 3207 4). The message waits, because an
        // administrator can correct that.
        let class = if reason.code == Some(530) { 4 } else { class };
        match (awaited, class) {
            (AwaitedReply::Mail, 2) => {}
            (AwaitedReply::Mail, 4 | 5) => {
                transaction.rejected = true;
                transaction.decide_tried(class, &reason);
            }
            (AwaitedReply::Rcpt(_), 2 | 4 | 5) if transaction.rejected => {}
            (AwaitedReply::Rcpt(recipient), 2 | 4 | 5) => {
                transaction.rcpt_replied(recipient, class, reason)
            }
            // With LMTP there would be no reply to it.
            (AwaitedReply::Data, 3) if transaction.accepted.is_empty() && !self.config.lmtp => {
                // No recipient was accepted, so the mail data is empty (RFC 2920 3.1).
                self.output.extend_from_slice(b".\r\n");
                self.awaited.push_back(AwaitedReply::Dot);
            }
            (AwaitedReply::Data, 3) if !transaction.accepted.is_empty() => {
                self.phase = SenderPhase::Data;
            }
            (AwaitedReply::Dot, 2 | 4 | 5) if self.config.lmtp => {
                self.transaction_open = false;
                if transaction.decide_first_accepted(class, reason) {
                    self.awaited.push_front(AwaitedReply::Dot);
                }
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
                self.fail(&format!("received an unexpected reply ({reason})"), PROTOCOL);
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
            data_begun: false,
            rejected: false,
        };
        let utf8 = needs_utf8(envelope) && extensions.utf8;
        let recipients_max = extensions.recipients_max.unwrap_or(usize::MAX);
        for (index, recipient) in envelope.to.iter().enumerate() {
            if transaction.outcomes.get(index) == Some(&None)
                && transaction.tried.len() < recipients_max
            {
                transaction.tried.push(index);
                match rcpt_command(extensions, recipient, utf8) {
                    Ok(line) => transaction.rcpts.push_back((index, line)),
                    Err(reason) => transaction.decide(index, 5, reason),
                }
            }
        }
        match mail_command(extensions, envelope, octets, utf8) {
            Ok(line) => transaction.mail = Some(line),
            Err(reason) => {
                transaction.rejected = true;
                transaction.decide_tried(5, &reason);
            }
        }
        if transaction.rcpts.is_empty() {
            transaction.rejected = true;
        }
        transaction
    }

    /// True if no command is left to send. All replies to earlier ones were received.
    fn is_finished(&self) -> bool {
        let no_recipients =
            self.mail.is_none() && self.rcpts.is_empty() && self.accepted.is_empty();
        self.rejected || self.data_begun || no_recipients
    }

    /// Returns the next command, or None if it depends on replies.
    fn next_command(&mut self) -> Option<(String, AwaitedReply)> {
        if let Some(mail) = self.mail.take() {
            return Some((mail, AwaitedReply::Mail));
        }
        if let Some((index, line)) = self.rcpts.pop_front() {
            return Some((line, AwaitedReply::Rcpt(index)));
        }
        if std::mem::replace(&mut self.data_begun, true) {
            return None;
        }
        Some(match &self.chunk {
            Some(chunk) => (format!("BDAT {} LAST", chunk.len()), AwaitedReply::Chunk),
            None => ("DATA".to_owned(), AwaitedReply::Data),
        })
    }

    /// Handles the reply to RCPT.
    fn rcpt_replied(&mut self, index: usize, class: u16, reason: OutcomeReason) {
        if class == 2 {
            self.accepted.push(index);
        } else if matches!(reason.code, Some(452 | 552))
            && matches!(reason.status, (_, 0, 0) | (_, 5, 3))
            && !self.accepted.is_empty()
        {
            // Too many recipients in this transaction. The recipient is tried in another one.
        } else if reason.code == Some(552) {
            // Old servers send 552 instead of 452 (RFC 5321 4.5.3.1.10).
            self.decide(index, 4, reason);
        } else {
            self.decide(index, class, reason);
        }
    }

    /// Decides all accepted recipients.
    pub(super) fn decide_accepted(&mut self, class: u16, reason: &OutcomeReason) {
        for index in std::mem::take(&mut self.accepted) {
            self.decide(index, class, reason.clone());
        }
    }

    /// Decides the accepted recipient of the first RCPT. Returns true if there are others.
    fn decide_first_accepted(&mut self, class: u16, reason: OutcomeReason) -> bool {
        if !self.accepted.is_empty() {
            let index = self.accepted.remove(0);
            self.decide(index, class, reason);
        }
        !self.accepted.is_empty()
    }

    /// Defers all undecided recipients.
    pub(super) fn defer_undecided(&mut self, reason: &OutcomeReason) {
        let undecided = 0..self.outcomes.len();
        undecided.for_each(|index| self.decide(index, 4, reason.clone()));
    }

    /// Decides all recipients of this transaction.
    fn decide_tried(&mut self, class: u16, reason: &OutcomeReason) {
        for index in std::mem::take(&mut self.tried) {
            self.decide(index, class, reason.clone());
        }
    }

    /// Decides one recipient, unless it is decided already.
    fn decide(&mut self, index: usize, class: u16, reason: OutcomeReason) {
        if let Some(outcome @ None) = self.outcomes.get_mut(index) {
            *outcome = Some(match class {
                2 => RecipientOutcome::Accepted(reason),
                5 => RecipientOutcome::Failed(reason),
                // A report of a delay has a status of this class (RFC 3464 2.3.4).
                _ => RecipientOutcome::Deferred(OutcomeReason {
                    status: (4, reason.status.1, reason.status.2),
                    ..reason
                }),
            });
        }
    }
}

/// Returns the MAIL command with the parameters that the envelope needs and the server supports.
///
/// # Errors
/// The reason why the server cannot accept the message.
fn mail_command<D>(
    extensions: &Extensions,
    envelope: &Envelope<D>,
    octets: u64,
    utf8: bool,
) -> Result<String, OutcomeReason> {
    if extensions.size_max.is_some_and(|max| octets > max) {
        return Err(OutcomeReason::local(
            (5, 3, 4),
            "the message exceeds the size limit of the next server",
        ));
    }
    if envelope.body == BodyType::EightBitMime && !extensions.eight_bit_mime {
        return Err(OutcomeReason::local((5, 6, 3), "the next server does not support 8BITMIME"));
    }
    if envelope.utf8 && !utf8 {
        return Err(smtputf8_missing());
    }
    let path = match &envelope.from {
        ReversePath::Null => "<>".to_owned(),
        ReversePath::Mailbox(mailbox) => path(mailbox, utf8).ok_or_else(smtputf8_missing)?,
    };
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

/// Returns the RCPT command with the parameters that the server supports.
///
/// # Errors
/// The reason why the server cannot accept the recipient.
fn rcpt_command<D>(
    extensions: &Extensions,
    recipient: &Recipient<D>,
    utf8: bool,
) -> Result<String, OutcomeReason> {
    let path = match &recipient.path {
        ForwardPath::Postmaster => "<postmaster>".to_owned(),
        ForwardPath::Mailbox(mailbox) => path(mailbox, utf8).ok_or_else(smtputf8_missing)?,
    };
    let mut line = format!("RCPT TO:{path}");
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

/// True if the message needs SMTPUTF8, because it was declared or a local-part is not ASCII. A
/// domain always has an ASCII form.
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

/// Returns `<user@host>`, in ASCII unless `utf8` is true, or None if it has no ASCII form.
fn path(mailbox: &Mailbox, utf8: bool) -> Option<String> {
    if utf8 || mailbox.is_ascii() {
        return Some(format!("<{mailbox}>"));
    }
    let domain = Domain::parse(&mailbox.domain().to_ascii()).ok()?;
    let mailbox = Mailbox::new(mailbox.local(), domain).ok()?;
    mailbox.is_ascii().then(|| format!("<{mailbox}>"))
}

fn smtputf8_missing() -> OutcomeReason {
    OutcomeReason::local((5, 6, 7), "the next server does not support SMTPUTF8")
}
