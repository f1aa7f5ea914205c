//! Policy: who is local, and where an address leads. RCPT, VRFY, EXPN and `mailslot explain` are
//! all answered from the one resolver here.

use crate::message::Destination;
use crate::smtp::{ForwardPath, Mailbox};

/// Why an address is not taken. The session turns it into a reply, in one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 550 5.1.1: no such user here.
    Unknown,
    /// 553 5.1.3: the local-part cannot be a mailbox's name here.
    NameNotAllowed,
    /// 550 5.7.1: the domain is not ours, and nothing is relayed.
    NotLocal,
    /// 551 5.1.6: an alias leads to this mailbox on another host, and nothing is relayed.
    Forward(Mailbox),
    /// 553 5.1.4: stands for several users.
    Ambiguous(Vec<Mailbox>),
    /// 451 4.3.0: could not be looked up now; the text is for the log, not for the client.
    Later(String),
    /// 451 4.3.5: the aliases are wrong (a loop, an unreadable include); for the log.
    Misconfigured(String),
}

/// A mailbox as VRFY and EXPN show it: `Full Name <user@host>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// From passwd's GECOS field; may be empty. Printable ASCII.
    pub full_name: String,
    /// With a full domain (RFC 5321 3.5.1).
    pub mailbox: Mailbox,
}

/// Where mail goes. A server takes any implementation: [`Local`] is the host's own.
pub trait Route: Send + Sync {
    /// The mailboxes that mail for `to` is delivered to: at least one, none twice.
    fn resolve(&self, to: &ForwardPath) -> Result<Vec<Destination>, Refusal>;
    /// The user that `name` (a user name, or a mailbox) stands for.
    fn vrfy(&self, name: &str) -> Result<Member, Refusal> {
        let _ = name;
        Err(Refusal::Unknown)
    }
    /// The members of a mailing list.
    fn expn(&self, list: &str) -> Result<Vec<Member>, Refusal> {
        let _ = list;
        Err(Refusal::Unknown)
    }
    /// Reads aliases and users again (HUP). What cannot be read is logged, and the old stays.
    fn reload(&self) {}
}
