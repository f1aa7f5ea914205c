//! A message on its way from a session to the writer: its id, its content and its destinations.
//!
//! | file | contains |
//! | --- | --- |
//! | `content.rs` | the content, built from the lines of mail data |
//! | `trace.rs` | the fields Received and Return-Path, dates, message ids |
//! | `peer.rs` | the other end of a connection |
//! | `encoded_word.rs` | UTF-8 in a header field in ASCII |

pub mod content;
pub mod encoded_word;
pub mod peer;
pub mod trace;

use std::fmt;
use std::sync::Arc;

pub use content::{
    Content, ContentBuilder, ContentDirectory, ContentError, ContentFile, HOPS_MAX, MEMORY_MAX,
    STRIPPED_FIELDS, SpoolFile, TEXT_LINE_MAX, field_name, needs_from_quoting,
};

/// Name of a mailbox's file in the mail directory. Never a path: it has 1 to 200 bytes without `/`,
/// blanks and control characters, no leading dot, and no `.lock` at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxName(Arc<str>);

impl MailboxName {
    /// Returns the name, or None if it is not allowed.
    pub fn new(name: &str) -> Option<MailboxName> {
        let fits = (1..=200).contains(&name.len())
            && !name.starts_with('.')
            && !name.ends_with(".lock")
            && name.chars().all(|c| c > ' ' && c != '/' && !c.is_control());
        fits.then(|| MailboxName(name.into()))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of an entry of the queue, which is the name of its file in the queue's directory: 1 to 100
/// letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(Arc<str>);

impl QueueId {
    /// Returns the id, or None if it is not allowed.
    pub fn new(id: &str) -> Option<QueueId> {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (plain && (1..=100).contains(&id.len())).then(|| QueueId(id.into()))
    }

    /// Returns the id of the receipt for the message `name` of the hand-over directory. A receipt
    /// is a file in the queue's directory that is never sent. It is one more destination of that
    /// message, so that it is there exactly if the message is in all the others.
    pub fn receipt(name: &str) -> Option<QueueId> {
        QueueId::new(&format!("{RECEIPT}{name}"))
    }

    /// Returns the name of the message that `id` is the receipt for, or None for an entry.
    pub fn receipt_name(id: &str) -> Option<&str> {
        id.strip_prefix(RECEIPT)
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Beginning of the ids of receipts. No message id begins so, because the first part of one has 16
/// characters.
const RECEIPT: &str = "taken-";

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of the queue's directory in the spool.
pub const QUEUE_DIRECTORY: &str = "queue";

/// Owner of a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Primary group id of the user.
    pub gid: u32,
}

/// Mailbox of a user, and the address for which a message is delivered to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMailbox {
    /// Name of its file.
    pub name: MailboxName,
    /// Owner of its file, or None for the user that mailslot runs as.
    pub owner: Option<Owner>,
    /// Address for the Delivered-To field, `user@host` without control characters.
    pub delivered_to: Arc<str>,
}

/// Place that a copy of a message is delivered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A mailbox in the mail directory.
    Mailbox(UserMailbox),
    /// A new entry of the queue.
    Queue {
        /// Id of the entry.
        id: QueueId,
        /// Envelope as the entry's [`QUEUE_FIELD`] has it (`queue/entry.rs`).
        envelope: String,
    },
}

impl Destination {
    /// Returns the file that the copy is written to.
    pub fn file(&self) -> DestinationFile {
        match self {
            Destination::Mailbox(mailbox) => DestinationFile::Mailbox(mailbox.name.clone()),
            Destination::Queue { id, .. } => DestinationFile::QueueEntry(id.clone()),
        }
    }

    /// Returns the owner of the file, or None for the user that mailslot runs as.
    pub fn owner(&self) -> Option<Owner> {
        match self {
            Destination::Mailbox(mailbox) => mailbox.owner,
            Destination::Queue { .. } => None,
        }
    }

    /// Returns the mailbox, or None for an entry of the queue.
    pub fn mailbox(&self) -> Option<&UserMailbox> {
        match self {
            Destination::Mailbox(mailbox) => Some(mailbox),
            Destination::Queue { .. } => None,
        }
    }

    /// Returns the id of the entry of the queue, or None for a mailbox.
    pub fn queue_id(&self) -> Option<&str> {
        match self {
            Destination::Mailbox(_) => None,
            Destination::Queue { id, .. } => Some(id.as_str()),
        }
    }

    /// Returns the header field that only this copy has, with its LF, in pieces. It follows
    /// Return-Path.
    pub fn own_field(&self) -> [&[u8]; 4] {
        let (name, value) = match self {
            Destination::Mailbox(mailbox) => ("Delivered-To", &*mailbox.delivered_to),
            Destination::Queue { envelope, .. } => (QUEUE_FIELD, envelope.as_str()),
        };
        [name.as_bytes(), b": ", value.as_bytes(), b"\n"]
    }
}

/// File of a [`Destination`]. The writer locks, appends to and syncs files by these names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationFile {
    /// In the mail directory.
    Mailbox(MailboxName),
    /// In the queue's directory in the spool.
    QueueEntry(QueueId),
}

impl fmt::Display for DestinationFile {
    /// Writes `user`, or `queue/ID`, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DestinationFile::Mailbox(name) => name.fmt(f),
            DestinationFile::QueueEntry(id) => write!(f, "{QUEUE_DIRECTORY}/{id}"),
        }
    }
}

/// Name of the field that an entry of the queue has in place of Delivered-To.
pub const QUEUE_FIELD: &str = "Mailslot-Queue";

/// A message that was received and is to be delivered.
#[derive(Debug)]
pub struct Message {
    /// The id, which no other message ever has. The Received field and the log show it.
    pub id: String,
    /// The From_ line and the Return-Path field, ready to be written.
    pub head: Vec<u8>,
    /// The rest of the message, ready to be written.
    pub content: Content,
    /// The destinations: at least one, and no two of the same mailbox.
    pub to: Vec<Destination>,
}
