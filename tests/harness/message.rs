//! The message that tests send: known by its id, and different from every other.

use std::io;

use mailslot::deliver::mbox::is_from_line;
use mailslot::message::{
    Content, ContentDirectory, ContentFile, Destination, MailboxName, Message, QueueId, UserMailbox,
};

use super::random::Random;

/// Length from which [`TestMessage::message_in`] writes the content to a file. A record in the
/// journal of the simulated disk has room for less.
pub const IN_FILE: usize = 20_000;
/// Length of a large message, which is written in two pieces.
pub const LARGE: usize = 70_000;

/// Lengths at which something changes on the simulated disk: a sector, a block, a quarter and half
/// of a segment of the journal, [`IN_FILE`], a piece of a file, and the most that a server has in
/// memory.
pub const LIMITS: [usize; 9] =
    [512, 4096, 8 << 10, 16 << 10, IN_FILE, 64 << 10, 255 << 10, 256 << 10, 257 << 10];

/// Header that the session writes above the content, without Delivered-To.
const HEAD: &str = "From s@example.org Thu Jan  1 00:00:00 1970\nReturn-Path: <s@example.org>\n";

/// A message with an id.
#[derive(Clone, Debug)]
pub struct TestMessage {
    /// Also its Subject.
    pub id: String,
    /// Names of its mailboxes, or of entries of the queue: `queue/NAME`.
    pub to: Vec<String>,
    /// Header and body as a mailbox has them, without the empty line that ends the message.
    content: String,
}

impl TestMessage {
    /// Creates a message of about `length` bytes.
    pub fn new(id: impl Into<String>, to: &[&str], length: usize) -> TestMessage {
        let id = id.into();
        let to = to.iter().map(|name| (*name).to_owned()).collect();
        let mut content = format!("Subject: {id}\n\n>From {id} on\n");
        while content.len() < length {
            let at = content.len();
            content += &format!("{at} of {id}, and so on to the end of the line\n");
        }
        TestMessage { id, to, content }
    }

    /// Creates a message of exactly `length` bytes, if that is enough for its header.
    pub fn exact(id: impl Into<String>, to: &[&str], length: usize) -> TestMessage {
        let mut message = TestMessage::new(id, to, 0);
        let rest = length.saturating_sub(message.content.len());
        let line = format!("{} of {rest} bytes, and so on to the end of the line\n", message.id);
        message.content += &line.repeat(rest / line.len());
        if let Some(rest) = (rest % line.len()).checked_sub(1) {
            message.content += &format!("{}\n", "x".repeat(rest));
        }
        message
    }

    /// Creates a message whose length is near `limit`: above or below it, with or without the lines
    /// that are written above the content.
    pub fn near(
        id: impl Into<String>,
        to: &[&str],
        limit: usize,
        random: &mut Random,
    ) -> TestMessage {
        let length = limit + random.below(320) as usize;
        TestMessage::exact(id, to, length.saturating_sub(256))
    }

    /// Returns what the message ends with in a mailbox: its content and an empty line.
    pub fn stored(&self) -> String {
        format!("{}\n", self.content)
    }

    /// Returns the mail data of SMTP, up to the final dot.
    pub fn smtp_content(&self) -> String {
        self.content.replace("\n>From ", "\nFrom ").replace('\n', "\r\n")
    }

    /// Returns all that a client sends that does not wait for replies.
    pub fn dialogue(&self) -> String {
        let to: String = self.to.iter().map(|to| format!("RCPT TO:<{to}@localhost>\r\n")).collect();
        let (ehlo, mail) = ("EHLO client.example\r\n", "MAIL FROM:<smith@example.org>\r\n");
        format!("{ehlo}{mail}{to}DATA\r\n{}.\r\nQUIT\r\n", self.smtp_content())
    }

    /// Returns the message as a session hands it to the writer, with its content in memory.
    pub fn message(&self) -> Message {
        let content = format!("Received: by here id {}; then\n{}", self.id, self.content);
        let to = self.to.iter().map(|name| destination(name)).collect();
        let content = Content::Memory(content.into_bytes().into());
        Message { id: self.id.clone(), head: HEAD.into(), content, to }
    }

    /// Returns the message as a session hands it to the writer. If it is large, its content is in a
    /// file in `directory`.
    pub fn message_in(&self, directory: &dyn ContentDirectory) -> io::Result<Message> {
        let mut message = self.message();
        if let Content::Memory(bytes) = &message.content
            && bytes.len() >= IN_FILE
        {
            message.content = Content::File(content_file(directory, bytes)?.into());
        }
        Ok(message)
    }

    /// Returns the length of the copy of this message that `text` begins with, without the line
    /// ends at its end. None if `text` does not begin with a whole one as `mailbox` must have it.
    pub fn copy_length(&self, text: &str, mailbox: &str) -> Option<usize> {
        let above = trace_length(text, mailbox)?;
        let content = self.content.trim_end_matches('\n');
        text[above..].starts_with(content).then_some(above + content.len())
    }
}

/// Returns a content file with these bytes.
pub fn content_file(directory: &dyn ContentDirectory, bytes: &[u8]) -> io::Result<ContentFile> {
    let mut file = ContentFile::create(directory)?;
    bytes.chunks(60_000).try_for_each(|piece| file.append(piece))?;
    file.sync()?;
    Ok(file)
}

/// Returns where mail for the mailbox `name`, or the entry `queue/NAME`, goes.
pub fn destination(name: &str) -> Destination {
    match name.strip_prefix("queue/") {
        Some(id) => Destination::Queue {
            id: QueueId::new(id).unwrap(),
            envelope: format!("{name}@example.org"),
        },
        None => Destination::Mailbox(user_mailbox(name)),
    }
}

/// Returns the mailbox `name`.
pub fn user_mailbox(name: &str) -> UserMailbox {
    UserMailbox {
        name: MailboxName::new(name).unwrap(),
        owner: None,
        delivered_to: format!("{name}@example.org").into(),
    }
}

/// Returns the length of what the server writes above a message: From_ line, Return-Path,
/// Delivered-To or the line of the queue, and Received.
fn trace_length(text: &str, mailbox: &str) -> Option<usize> {
    let field = if mailbox.starts_with("queue/") { "Mailslot-Queue" } else { "Delivered-To" };
    let delivered_to = format!("{field}: {mailbox}@");
    let mut lines = text.split_inclusive('\n');
    let from = lines.next()?;
    let mut length = from.len();
    if !is_from_line(from.trim_end_matches('\n').as_bytes()) {
        return None;
    }
    for begin in ["Return-Path: <", &delivered_to, "Received: "] {
        let line = lines.next().filter(|line| line.starts_with(begin) && line.ends_with('\n'))?;
        length += line.len();
    }
    Some(length + lines.take_while(|line| line.starts_with('\t')).map(str::len).sum::<usize>())
}
