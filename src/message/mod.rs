//! A message on its way from a session to the writer: its id, its content and its destinations.

pub mod content;
pub mod trace;

use std::fmt;

pub use content::{
    Content, ContentBuilder, ContentError, HOPS_MAX, MEMORY_MAX, STRIPPED_FIELDS, TEXT_LINE_MAX,
    field_name, needs_from_quoting,
};

/// The name of a mailbox's file in the mail folder. Never a path: no `/`, no NUL, no control
/// character, no leading dot, no `.lock` at the end; 1 to 200 octets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MailboxName(String);

impl MailboxName {
    /// The name, if it may be one.
    pub fn new(name: &str) -> Option<MailboxName> {
        let fits = (1..=200).contains(&name.len())
            && !name.starts_with('.')
            && !name.ends_with(".lock")
            && name.chars().all(|c| c > ' ' && c != '/' && !c.is_control());
        fits.then(|| MailboxName(name.to_owned()))
    }

    /// An entry of the queue, `queue/ID`: not in the mail folder but in the spool, and no mailbox
    /// can have such a name. None unless `id` is letters, digits and hyphens, at most 100.
    pub fn in_queue(id: &str) -> Option<MailboxName> {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (plain && (1..=100).contains(&id.len())).then(|| MailboxName(format!("{QUEUE_PREFIX}{id}")))
    }

    /// What [`as_str`](MailboxName::as_str) gave.
    pub fn parse(name: &str) -> Option<MailboxName> {
        name.strip_prefix(QUEUE_PREFIX)
            .map_or_else(|| MailboxName::new(name), MailboxName::in_queue)
    }

    /// The id of an entry of the queue.
    pub fn queue_id(&self) -> Option<&str> {
        self.0.strip_prefix(QUEUE_PREFIX)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of the queue, in the spool.
pub const QUEUE_FOLDER: &str = "queue";
/// What the names of its entries begin with.
const QUEUE_PREFIX: &str = "queue/";

/// The user who owns a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user id.
    pub uid: u32,
    /// The primary group id of the user.
    pub gid: u32,
}

/// One mailbox that a message goes to, and for which address; or an entry of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The file in the mail folder, or in the queue.
    pub mailbox: MailboxName,
    /// Whose it must be; None: whoever runs mailslot.
    pub owner: Option<Owner>,
    /// The address for the Delivered-To line, `user@host`, without control characters. Of an entry
    /// of the queue what its Mailslot-Queue line says (`queue/entry.rs`).
    pub delivered_to: String,
}

impl Destination {
    /// The line that stands below Return-Path in this copy alone, with its LF.
    pub fn delivered_to_line(&self) -> Vec<u8> {
        let field = if self.mailbox.queue_id().is_some() { QUEUE_FIELD } else { "Delivered-To" };
        format!("{field}: {}\n", self.delivered_to).into_bytes()
    }
}

/// The name of the line that an entry of the queue has for Delivered-To.
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
