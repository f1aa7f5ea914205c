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
//! - A mailbox is empty, or messages one after the other. Each begins with its From_ line, at the
//!   start of the file or behind an empty line, and ends with an empty line of its own.
//! - Lines end in LF. They have any length and hold any octets but LF.
//! - A From_ line is `From `, the reverse-path without brackets, a blank, and the time of arrival
//!   in UTC in exactly 24 characters (asctime's form, the day padded by a blank). In the sender
//!   each blank, control and non-ASCII character is a hyphen; the null reverse-path is
//!   MAILER-DAEMON.
//! - No other line begins with `From `: one that reads `>*From ` got one more `>` when it was
//!   stored, in the header (`From : joe`, an old form of the field) as in the body. So the quoting
//!   can be undone, and [`unquote`] does. It is put on by
//!   [`ContentBuilder`](crate::message::ContentBuilder) as the lines come in.
//! - No length is written down and none is believed: Content-Length does not get in.
//!
//! This file knows the words, not the disk.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::message::needs_from_quoting;
use crate::message::trace;
use crate::smtp::ReversePath;

/// What a message begins with in every mailbox: the From_ line and the Return-Path line.
pub fn head(sender: &ReversePath, unix_seconds: i64) -> Vec<u8> {
    let mut head = from_line(sender, unix_seconds);
    head.extend(trace::return_path_line(sender));
    head
}

/// The From_ line, with its LF: `From smith@example.org Tue Jul  1 08:52:37 2025`.
///
/// A clock before 1970 or beyond the year 9999 is taken for the nearest time in between, so that
/// the date keeps its 24 characters.
pub fn from_line(sender: &ReversePath, unix_seconds: i64) -> Vec<u8> {
    let sender = match sender {
        ReversePath::Null => "MAILER-DAEMON".to_owned(),
        ReversePath::Mailbox(mailbox) => mailbox.to_string(),
    };
    let mut line = b"From ".to_vec();
    line.extend(sender.bytes().map(|b| if b.is_ascii_graphic() { b } else { b'-' }));
    let time = Timestamp::from_second(unix_seconds.max(0)).unwrap_or(Timestamp::MAX);
    let date = time.to_zoned(TimeZone::UTC).strftime(DATE);
    line.extend_from_slice(format!(" {date}\n").as_bytes());
    line
}

/// Whether `line`, without its LF, is a From_ line of the form above, and not just a line that
/// begins with `From `.
pub fn is_from_line(line: &[u8]) -> bool {
    let Some(rest) = line.strip_prefix(b"From ") else { return false };
    let Some((sender, date)) = rest.split_last_chunk::<DATE_LENGTH>() else { return false };
    let Some((b' ', sender)) = sender.split_last() else { return false };
    !sender.is_empty() && sender.iter().all(u8::is_ascii_graphic) && is_date(date)
}

/// A line as it was before it was stored.
pub fn unquote(line: &[u8]) -> &[u8] {
    match line {
        [b'>', rest @ ..] if needs_from_quoting(rest) => rest,
        _ => line,
    }
}

/// Whether `date` is written exactly as we write it, weekday included.
fn is_date(date: &[u8]) -> bool {
    let Ok(date) = std::str::from_utf8(date) else { return false };
    DateTime::strptime(DATE, date).is_ok_and(|time| time.strftime(DATE).to_string() == date)
}

/// `Tue Jul  1 08:52:37 2025`
const DATE: &str = "%a %b %e %H:%M:%S %Y";
const DATE_LENGTH: usize = 24;
