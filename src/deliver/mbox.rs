//! The format of a mailbox: mbox, of the kind called mboxrd (RFC 4155 A, and qmail's mbox(5)).
//!
//! ```text
//! From smith@example.org Tue Jul  1 08:52:37 2025       the From_ line
//! Return-Path: <smith@example.org>                      header: our fields, then the message's
//! Delivered-To: jones@example.com
//! Received: from relay.example.org ([192.0.2.7])
//!         by mx.example.com with ESMTP id 5k0hj2m8q1v7c3xd-7-1
//!         for <jones@example.com>; Tue, 1 Jul 2025 10:52:37 +0200
//! Subject: lunch
//!                                                       the empty line that ends the header
//! >From noon on I am there.                             was: From noon on
//! >>From you?                                           was: >From you?
//!                                                       the empty line that ends the message
//! From ...
//! ```
//!
//! - A mailbox is empty, or consists of messages. Each begins with its From_ line, at the start of
//!   the file or after an empty line, and ends with an empty line.
//! - Lines end in LF. They have any length and contain any byte but LF.
//! - A From_ line is `From `, the reverse-path without brackets, a blank, and the time of arrival
//!   in UTC in exactly 24 characters (the form of asctime, with the day padded by a blank). Each
//!   blank, control and non-ASCII character of the sender is replaced by a hyphen. The null
//!   reverse-path is written as MAILER-DAEMON.
//! - No other line begins with `From `: a line that reads `>*From ` gets one more `>` when it is
//!   stored, in the header (`From : joe`, an old form of the field) as in the body. So the quoting
//!   can be undone by [`unquote`]. [`ContentBuilder`](crate::message::ContentBuilder) adds it while
//!   the lines arrive.
//! - No length is written, and none is trusted: Content-Length is removed.
//!
//! Only large content is read from a file here. Nothing is written.

use std::borrow::Cow;
use std::io::{self, Write};
use std::iter::once;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::message::needs_from_quoting;
use crate::message::trace;
use crate::message::{Content, Destination, Message};
use crate::smtp::ReversePath;

/// One copy of a message, as it is appended to a mailbox or written as an entry of the queue.
///
/// ```text
///                                   0 to 2 LFs that are missing at the end of the file
/// From smith@example.org Tue ...    Message::head, from `head` below
/// Return-Path: <smith@example.org>
/// Delivered-To: jones@example.com   Destination::own_field; an entry of the queue has its envelope
/// Received: from ...                Message::content, from ContentBuilder, which adds Received,
/// Subject: lunch                    removes some fields and quotes `From `
/// ...
///                                   the empty line that ends the message
/// ```
#[derive(Debug)]
pub struct MailboxCopy<'a> {
    separator: &'static [u8],
    head: &'a [u8],
    own_field: [&'a [u8]; 4],
    content: &'a Content,
}

/// Empty line that ends a message.
pub const MESSAGE_END: &[u8] = b"\n";

impl<'a> MailboxCopy<'a> {
    /// Returns the copy of `message` for `to`, after a message without `missing_newlines` of the
    /// two LFs at its end.
    pub fn new(
        message: &'a Message,
        to: &'a Destination,
        missing_newlines: usize,
    ) -> MailboxCopy<'a> {
        MailboxCopy {
            separator: &b"\n\n"[..missing_newlines.min(2)],
            head: &message.head,
            own_field: to.own_field(),
            content: &message.content,
        }
    }

    /// Returns the bytes before the content, in pieces.
    pub fn before_content(&self) -> [&[u8]; 6] {
        let [name, colon, value, end] = self.own_field;
        [self.separator, self.head, name, colon, value, end]
    }

    /// Returns the content, which [`MESSAGE_END`] follows.
    pub fn content(&self) -> &'a Content {
        self.content
    }

    /// Returns all bytes of the copy in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = io::Result<Cow<'_, [u8]>>> {
        let before = once(Ok(Cow::Owned(self.before_content().concat())));
        before.chain(self.content.pieces(0)).chain(once(Ok(Cow::Borrowed(MESSAGE_END))))
    }

    /// Returns the length in bytes.
    pub fn size(&self) -> u64 {
        let before: usize = self.before_content().iter().map(|part| part.len()).sum();
        (before + MESSAGE_END.len()) as u64 + self.content.size()
    }
}

/// Returns the From_ line and the Return-Path field, with which every copy of a message begins.
pub fn head(sender: &ReversePath, unix_seconds: i64) -> Vec<u8> {
    let mut head = from_line(sender, unix_seconds);
    trace::write_return_path(sender, &mut head);
    head
}

/// Returns the From_ line with its LF: `From smith@example.org Tue Jul  1 08:52:37 2025`.
///
/// A time before 1970 or after the year 9999 is replaced by the nearest time in between, so that
/// the date keeps its 24 characters.
pub fn from_line(sender: &ReversePath, unix_seconds: i64) -> Vec<u8> {
    // Room for a Return-Path field as well.
    let mut line = Vec::with_capacity(160);
    line.extend_from_slice(b"From ");
    let start = line.len();
    // Writing to a vector does not fail, here and below.
    drop(match sender {
        ReversePath::Null => write!(line, "MAILER-DAEMON"),
        ReversePath::Mailbox(mailbox) => write!(line, "{mailbox}"),
    });
    line.iter_mut().skip(start).filter(|b| !b.is_ascii_graphic()).for_each(|b| *b = b'-');
    let time = Timestamp::from_second(unix_seconds.max(0)).unwrap_or(Timestamp::MAX);
    drop(writeln!(line, " {}", time.to_zoned(TimeZone::UTC).strftime(DATE)));
    line
}

/// True if `line`, without its LF, is a From_ line of the form above, and not only a line that
/// begins with `From `.
pub fn is_from_line(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"From ") else { return false };
    let Some((sender, date)) = rest.split_last_chunk::<DATE_LENGTH>() else { return false };
    let Some((b' ', sender)) = sender.split_last() else { return false };
    !sender.is_empty() && sender.iter().all(u8::is_ascii_graphic) && is_date(date)
}

/// Returns a stored line as it was received.
pub fn unquote(line: &[u8]) -> &[u8] {
    match line {
        [b'>', rest @ ..] if needs_from_quoting(rest) => rest,
        _ => line,
    }
}

/// True if `date` is written exactly as [`from_line`] writes it, weekday included.
fn is_date(date: &[u8]) -> bool {
    let Ok(date) = std::str::from_utf8(date) else { return false };
    DateTime::strptime(DATE, date).is_ok_and(|time| time.strftime(DATE).to_string() == date)
}

/// `Tue Jul  1 08:52:37 2025`
const DATE: &str = "%a %b %e %H:%M:%S %Y";
const DATE_LENGTH: usize = 24;
