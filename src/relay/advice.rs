//! Advice for the sender of a message that was refused or is delayed, in the text of a report.
//!
//! ```text
//! 550 5.1.1 User unknown       -> UnknownUser     552 5.3.4 Too large        -> TooLarge
//! 452 4.2.2 Mailbox full       -> MailboxFull     cannot connect to mx:25    -> Unreachable
//! 554 5.7.1 Relay access denied -> RelayDenied
//! ```
//! The cause is found by the enhanced status code (RFC 3463) first, then by the code of the reply,
//! then by words that common servers use, because many send no or a vague enhanced code.

use crate::smtp::sender::OutcomeReason;

/// A common cause of failures and delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureCause {
    UnknownUser,
    UnknownDomain,
    MailboxFull,
    TooLarge,
    RelayDenied,
    SenderRefused,
    RejectedByPolicy,
    Unreachable,
    MailboxLocked,
}

/// Returns advice for the sender of a message that was not delivered for `reason`, as one
/// paragraph. Returns None if the cause is not a common one. `will_retry` is true if the message
/// waits for another attempt.
pub fn advice(reason: &OutcomeReason, will_retry: bool) -> Option<&'static str> {
    Some(match (cause(reason)?, will_retry) {
        (FailureCause::UnknownUser, _) => {
            "There is no mailbox with this address. Check how the address is spelled, or \
             ask the recipient for the right one."
        }
        (FailureCause::UnknownDomain, _) => {
            "The domain of the address takes no mail. Check how it is spelled."
        }
        (FailureCause::MailboxFull, true) => {
            "The mailbox of the recipient is full. The message can be delivered when there \
             is room in it."
        }
        (FailureCause::MailboxFull, false) => {
            "The mailbox of the recipient is full. Send the message again when the recipient \
             has made room in it."
        }
        (FailureCause::TooLarge, _) => {
            "The message is too large for that server or mailbox. Send it in parts, or put \
             large files in a place where the recipient can fetch them."
        }
        (FailureCause::RelayDenied, _) => {
            "That server does not relay the mail of this host, or requires another user name \
             and password. The administrator of this host must correct its configuration."
        }
        (FailureCause::SenderRefused, _) => {
            "That server does not accept mail from the address of the sender. Send from \
             another address, or ask the administrator of this host."
        }
        (FailureCause::RejectedByPolicy, _) => {
            "That server rejected the message by a rule of its own, for example against \
             spam. Its reply may name the rule. Ask the administrator of this host for help."
        }
        (FailureCause::Unreachable, true) => {
            "The server cannot be reached, or the connection was lost. You need not do \
             anything."
        }
        (FailureCause::Unreachable, false) => {
            "The server could not be reached, or the connection was lost. Send the message \
             again later, or ask the administrator of this host."
        }
        (FailureCause::MailboxLocked, true) => {
            "The mailbox was locked by another program each time, for example by a mail \
             reader that is open. The message is delivered when that program ends."
        }
        (FailureCause::MailboxLocked, false) => {
            "The mailbox was locked by another program each time, for example by a mail \
             reader that is open. End that program, then send the message again."
        }
    })
}

fn cause(reason: &OutcomeReason) -> Option<FailureCause> {
    let text = reason.text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let (_, subject, detail) = reason.status;
    Some(match (reason.code, subject, detail) {
        (None, 4, _) => FailureCause::Unreachable,
        (None, 2, 0) if has(&["locked"]) => FailureCause::MailboxLocked,
        (_, 2, 2) => FailureCause::MailboxFull,
        (_, 3, 4) | (_, 2, 3) => FailureCause::TooLarge,
        (_, 1, 1) => FailureCause::UnknownUser,
        (_, 1, 2 | 10) => FailureCause::UnknownDomain,
        (None, ..) => return None,
        (Some(530 | 534 | 535 | 538), ..) | (_, 7, 8) => FailureCause::RelayDenied,
        _ if has(&["relay", "authentication required", "must authenticate"]) => {
            FailureCause::RelayDenied
        }
        (_, 1, 7 | 8) => FailureCause::SenderRefused,
        (_, 7, _) => FailureCause::RejectedByPolicy,
        _ if has(&["unknown", "no such", "not exist", "invalid recipient", "no mailbox"]) => {
            FailureCause::UnknownUser
        }
        _ if has(&["quota", "full", "exceeded storage"]) => FailureCause::MailboxFull,
        _ if has(&["too large", "too big", "size"]) => FailureCause::TooLarge,
        _ if has(&["spam", "blocked", "black", "policy", "reputation", "denied"]) => {
            FailureCause::RejectedByPolicy
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replies of Postfix, Exim, sendmail, qmail, Exchange and large providers.
    #[test]
    fn causes_of_real_replies() {
        for (code, status, text, expected) in [
            (
                550,
                (5, 1, 1),
                "<x@y>: Recipient address rejected: User unknown in relay recipient table",
                Some(FailureCause::UnknownUser),
            ),
            (550, (5, 0, 0), "No Such User Here", Some(FailureCause::UnknownUser)),
            (554, (5, 7, 1), "<x@y>: Relay access denied", Some(FailureCause::RelayDenied)),
            (550, (5, 0, 0), "relay not permitted", Some(FailureCause::RelayDenied)),
            (550, (5, 7, 1), "Unable to relay for x@y", Some(FailureCause::RelayDenied)),
            (530, (5, 7, 0), "Must issue STARTTLS first", Some(FailureCause::RelayDenied)),
            (553, (5, 7, 1), "sorry, that domain isn't in my list", {
                Some(FailureCause::RejectedByPolicy)
            }),
            (552, (5, 2, 2), "The recipient's inbox is full", Some(FailureCause::MailboxFull)),
            (452, (4, 2, 2), "Mailbox full", Some(FailureCause::MailboxFull)),
            (552, (5, 0, 0), "message size exceeds maximum", Some(FailureCause::TooLarge)),
            (552, (5, 3, 4), "Message size exceeds fixed limit", Some(FailureCause::TooLarge)),
            (550, (5, 1, 8), "Sender domain not found", Some(FailureCause::SenderRefused)),
            (550, (5, 7, 26), "not authenticated: SPF", { Some(FailureCause::RejectedByPolicy) }),
            (550, (5, 7, 350), "classified as spam", Some(FailureCause::RejectedByPolicy)),
            (556, (5, 1, 10), "null MX", Some(FailureCause::UnknownDomain)),
            (451, (4, 3, 0), "try again later", None),
            (250, (2, 0, 0), "Ok", None),
        ] {
            let local = OutcomeReason::local(status, text);
            let reason = OutcomeReason { code: Some(code), ..local };
            assert_eq!(cause(&reason), expected, "{code} {text}");
        }
        let unreachable = OutcomeReason::local((4, 4, 1), "cannot connect to mx:25: refused");
        assert_eq!(cause(&unreachable), Some(FailureCause::Unreachable));
    }

    #[test]
    fn advice_depends_on_the_next_attempt() {
        let locked = OutcomeReason::local((4, 2, 0), "the mailbox is locked by another program");
        assert!(advice(&locked, true).unwrap().ends_with("delivered when that program ends."));
        assert!(advice(&locked, false).unwrap().ends_with("then send the message again."));
        assert_eq!(advice(&OutcomeReason::local((4, 3, 0), "disk"), true), None);
    }
}
