//! What travels from a session to the writer.

use std::fmt;
use std::fs::File;

/// The most octets of content that are held in memory; more waits in a file without a name.
pub const MEMORY_MAX: usize = 256 * 1024;

/// The name of a mailbox's file in the mail folder. Never a path: no `/`, no NUL, no control
/// character, no leading dot, no `.lock` at the end; 1 to 200 octets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoxName(String);

impl BoxName {
    /// The name, if it may be one.
    pub fn new(name: &str) -> Option<BoxName> {
        let fits = (1..=200).contains(&name.len())
            && !name.starts_with('.')
            && !name.ends_with(".lock")
            && name.bytes().all(|b| b > b' ' && b != b'/' && b != 0x7f);
        fits.then(|| BoxName(name.to_owned()))
    }
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BoxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who owns a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// The user's primary group id.
    pub gid: u32,
}

/// One mailbox that a message goes to, and for which address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The file in the mail folder.
    pub mailbox: BoxName,
    /// Whose it must be; None: whoever runs mailslot.
    pub owner: Option<Owner>,
    /// The address for the Delivered-To line, `user@host`, printable ASCII.
    pub delivered_to: String,
}

/// Content ready for a mailbox: LF line ends, mboxrd-quoted, the Received line on top, and a last
/// line end; without From_ line, Return-Path and Delivered-To, and without the blank line behind.
#[derive(Debug)]
pub enum Content {
    /// Up to [`MEMORY_MAX`] octets.
    Memory(Vec<u8>),
    /// More: a file without a name, and its length.
    File(File, u64),
}

/// One message on its way to its mailboxes.
#[derive(Debug)]
pub struct Message {
    /// Unique for ever; stands in the Received line's `id` and in every log line.
    pub id: String,
    /// The From_ line and the Return-Path line, ready to be written.
    pub head: Vec<u8>,
    /// The rest, ready to be written.
    pub content: Content,
    /// At least one, none twice.
    pub to: Vec<Destination>,
}
