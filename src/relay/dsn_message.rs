//! The message that reports a delivery status to a sender: a DSN (RFC 3461 6, RFC 3464; RFC 6533 if
//! it contains UTF-8).
//!
//! ```text
//! Content-Type: multipart/report; report-type=delivery-status; boundary="..."
//!
//! 1  text/plain                 for people: the server, its reply, and advice
//! 2  message/delivery-status    for programs: Final-Recipient, Action, Status, Remote-MTA
//! 3  text/rfc822-headers        the header of the message; or message/rfc822, all of it
//! ```
//! A message that cannot be delivered on this host is refused within the session, so that the
//! client keeps it and reports the failure (RFC 5321 4.2.5). For local mailboxes only success is
//! therefore reported, if `NOTIFY=SUCCESS` asks for it. Delays and failures are reported for
//! messages in the queue only: mail for other hosts, and held mail.
//!
//! The report names the address in the envelope, even if it is an alias. It does not name the
//! mailboxes of the alias (RFC 3461 5.2.7.3 b, 5.2.7.4). Nothing is reported to the null
//! reverse-path.

use std::fmt::Write;
use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Zoned;

use super::advice::advice;
use super::report_subject::report_subject;
use crate::message::Content;
use crate::message::trace;
use crate::smtp::dsn::OriginalRecipient;
use crate::smtp::sender::OutcomeReason;
use crate::smtp::{Envelope, ForwardPath, Recipient};

/// A report about one message, for its sender.
#[derive(Debug)]
pub struct DsnMessage<'a> {
    /// The name of the reporting host.
    pub hostname: &'a str,
    /// The id of the report.
    pub id: &'a str,
    /// The date of the report.
    pub date: &'a Zoned,
    /// The time at which the message arrived.
    pub arrived: &'a Zoned,
    /// The address in the To field, in angle brackets.
    pub to: &'a str,
    /// The status of all recipients in the report.
    pub action: DsnAction,
    /// ENVID of the message.
    pub envid: Option<&'a str>,
    /// Recipients of the message, at least one.
    pub recipients: &'a [RecipientStatus<'a>],
    /// The part of the message that the report contains.
    pub returned: &'a ReturnedContent,
}

/// The status that a report is about (RFC 3464 2.3.3).
#[derive(Clone, Debug)]
pub enum DsnAction {
    /// The message is in local mailboxes.
    Delivered,
    /// A server that does not support DSN has accepted the message.
    Relayed,
    /// The message is retried until this time.
    Delayed(Zoned),
    /// The message will not be delivered.
    Failed,
}

/// One recipient in a report.
#[derive(Clone, Debug)]
pub struct RecipientStatus<'a> {
    /// The address in the envelope.
    pub path: &'a ForwardPath,
    /// ORCPT.
    pub original: Option<&'a OriginalRecipient>,
    /// The status code (RFC 3463).
    pub status: (u8, u16, u16),
    /// The reply of the other server, or the local reason. None if the message was delivered.
    pub reason: Option<&'a OutcomeReason>,
}

impl<'a> RecipientStatus<'a> {
    /// Returns the status of a recipient that has the message in the mailbox.
    pub fn delivered<D>(recipient: &'a Recipient<D>) -> RecipientStatus<'a> {
        let (path, original) = (&recipient.path, recipient.original.as_ref());
        RecipientStatus { path, original, status: (2, 0, 0), reason: None }
    }
}

/// The part of a message that the report about it contains.
#[derive(Clone, Debug)]
pub enum ReturnedContent {
    /// The header.
    Header(Vec<u8>),
    /// Header and body.
    Whole(Vec<u8>),
}

/// True if the sender of `envelope` wants a report when the message is delivered to `recipient`.
pub fn wants_success_report<D>(envelope: &Envelope<D>, recipient: &Recipient<D>) -> bool {
    let success = recipient.notify.is_some_and(|notify| notify.success);
    success && envelope.from != crate::smtp::ReversePath::Null
}

/// Returns the header of a message for a report about it: whole lines, at most 16 KiB.
///
/// # Errors
/// The file of the content cannot be read.
pub fn read_header(content: &Content) -> io::Result<Vec<u8>> {
    Ok(header_of(content.read(0, HEADER_MAX)?.into_owned()))
}

/// Returns the header in the first bytes of a message.
fn header_of(mut start: Vec<u8>) -> Vec<u8> {
    let empty_line = memchr::memmem::find(&start, b"\n\n").map(|at| at + 1);
    let whole_lines = || memchr::memrchr(b'\n', &start).map_or(0, |at| at + 1);
    start.truncate(empty_line.unwrap_or_else(whole_lines));
    start
}

impl ReturnedContent {
    /// Reads the part of a message of `size` bytes that a report contains (RFC 3461 4.3, 6.2). If
    /// `wants_whole`, that is the message, unless it is larger than 256 KiB.
    ///
    /// # Errors
    /// `content` cannot be read.
    pub fn read(content: impl Read, size: u64, wants_whole: bool) -> io::Result<ReturnedContent> {
        let is_whole = wants_whole && size <= RETURNED_MAX;
        let max = if is_whole { RETURNED_MAX } else { HEADER_MAX as u64 };
        let mut start = Vec::new();
        content.take(max).read_to_end(&mut start)?;
        Ok(if is_whole {
            ReturnedContent::Whole(start)
        } else {
            ReturnedContent::Header(header_of(start))
        })
    }
}

impl DsnMessage<'_> {
    /// Returns the report in the form of a mailbox, without Return-Path and Delivered-To.
    pub fn content(&self) -> Content {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        let mut bytes = text.into_bytes();
        match self.returned {
            ReturnedContent::Header(returned) | ReturnedContent::Whole(returned) => {
                bytes.extend_from_slice(returned)
            }
        }
        bytes.extend_from_slice(format!("\n--{}--\n", self.boundary()).as_bytes());
        Content::Memory(Arc::new(bytes))
    }

    /// Writes the report up to the returned content.
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let DsnMessage { hostname, id, to, .. } = self;
        let (date, arrived) = (trace::format_date(self.date), trace::format_date(self.arrived));
        let boundary = self.boundary();
        let global = self.has_utf8();
        let (title, begin, end) = self.texts();
        let (ReturnedContent::Header(returned) | ReturnedContent::Whole(returned)) = self.returned;
        let subject = report_subject(title, returned);
        write!(
            out,
            "Received: by {hostname} id {id};\n\
             \t{date}\n\
             From: Mail Delivery System <MAILER-DAEMON@{hostname}>\n\
             To: {to}\n\
             Subject: {subject}\n\
             Date: {date}\n\
             Message-ID: <{id}@{hostname}>\n\
             Auto-Submitted: auto-replied\n\
             MIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=delivery-status;\n\
             \tboundary=\"{boundary}\"\n\
             \n\
             --{boundary}\n\
             {text}\
             \n\
             {begin}\n\n",
            text = part_header("text/plain; charset=utf-8", global),
        )?;
        for (n, recipient) in self.recipients.iter().enumerate() {
            if n > 0 && recipient.reason.is_some() {
                writeln!(out)?;
            }
            writeln!(out, "    {}", recipient.path)?;
            if let Some(reason) = recipient.reason {
                if recipient.status == EXPIRED {
                    writeln!(out, "\n    All attempts have failed.")?;
                }
                self.write_reason(out, reason)?;
            }
        }
        let kind =
            if global { "message/global-delivery-status" } else { "message/delivery-status" };
        write!(
            out,
            "\n\
             {end}\
             \n\
             --{boundary}\n\
             {kind}\
             \n\
             Reporting-MTA: {mta};{hostname}\n",
            kind = part_header(kind, global),
            mta = if hostname.contains('.') { "dns" } else { "x-local-hostname" },
        )?;
        if let Some(envid) = self.envid {
            writeln!(out, "Original-Envelope-Id: {envid}")?;
        }
        writeln!(out, "Arrival-Date: {arrived}")?;
        for recipient in self.recipients {
            self.write_recipient(out, recipient)?;
        }
        let (kind, is_ascii) = match self.returned {
            ReturnedContent::Header(header) if header.is_ascii() => ("text/rfc822-headers", true),
            ReturnedContent::Header(_) => ("message/global-headers", false),
            // A message with 8-bit content in its body is not a global message. Its own header
            // declares the content.
            ReturnedContent::Whole(whole) => ("message/rfc822", whole.is_ascii()),
        };
        write!(out, "\n--{boundary}\n{}\n", part_header(kind, !is_ascii))
    }

    /// Returns the texts for people: the subject, and the lines above and below the recipients.
    fn texts(&self) -> (&'static str, &'static str, String) {
        let hostname = self.hostname;
        let requested =
            format!("The mail system at {hostname} sends this notice because it was requested.\n");
        match &self.action {
            DsnAction::Delivered => (
                "Delivered",
                "Your message has been delivered to the mailboxes of",
                format!("{requested}It does not show whether the message has been read.\n"),
            ),
            DsnAction::Relayed => (
                "Relayed",
                "Your message has been relayed to a mail system that sends no such notices, for",
                requested,
            ),
            DsnAction::Delayed(until) => (
                "Delayed",
                "Your message has not been delivered yet to",
                format!(
                    "The mail system at {hostname} will try again until\n    {}\n\
                     You do not need to send the message again.\n",
                    trace::format_date(until)
                ),
            ),
            DsnAction::Failed => (
                "Not delivered",
                "Your message could not be delivered to",
                format!(
                    "The message arrived at {hostname} on\n    {}\n\
                     The mail system there will not try again.\n",
                    trace::format_date(self.arrived)
                ),
            ),
        }
    }

    /// Writes the server, its reply, and advice for the sender.
    fn write_reason(&self, out: &mut String, reason: &OutcomeReason) -> std::fmt::Result {
        let OutcomeReason { code, server, text, .. } = reason;
        match (code, server) {
            (Some(_), Some(server)) => writeln!(out, "\n    The server {server} replied:")?,
            (Some(_), None) => writeln!(out, "\n    The server replied:")?,
            (None, Some(server)) => writeln!(out, "\n    The reason, at the server {server}:")?,
            (None, None) => writeln!(out, "\n    The reason:")?,
        }
        write_wrapped(out, &one_line(text), "        ")?;
        let advice = match self.action {
            DsnAction::Delivered | DsnAction::Relayed => None,
            DsnAction::Delayed(_) => advice(reason, true),
            DsnAction::Failed => advice(reason, false),
        };
        if let Some(advice) = advice {
            writeln!(out)?;
            write_wrapped(out, advice, "    ")?;
        }
        Ok(())
    }

    /// Writes the fields of one recipient, after an empty line.
    fn write_recipient(
        &self,
        out: &mut String,
        recipient: &RecipientStatus<'_>,
    ) -> std::fmt::Result {
        writeln!(out)?;
        if let Some(original) = recipient.original {
            writeln!(out, "Original-Recipient: {};{}", original.addr_type, original.address)?;
        }
        let kind = if recipient.path.is_ascii() { "rfc822" } else { "utf-8" };
        let address = recipient.path.address();
        let action = match self.action {
            DsnAction::Delivered => "delivered",
            DsnAction::Relayed => "relayed",
            DsnAction::Delayed(_) => "delayed",
            DsnAction::Failed => "failed",
        };
        let (class, subject, detail) = recipient.status;
        write!(
            out,
            "Final-Recipient: {kind};{address}\nAction: {action}\n\
             Status: {class}.{subject}.{detail}\n"
        )?;
        if let Some(reason) = recipient.reason {
            if let Some(server) = &reason.server {
                writeln!(out, "Remote-MTA: {}", mta_name(server))?;
            }
            let kind = if reason.code.is_some() { "smtp" } else { "x-mailslot" };
            writeln!(out, "Diagnostic-Code: {kind}; {}", one_line(&reason.text))?;
            writeln!(out, "Last-Attempt-Date: {}", trace::format_date(self.date))?;
        }
        match &self.action {
            DsnAction::Delayed(until) => {
                writeln!(out, "Will-Retry-Until: {}", trace::format_date(until))
            }
            DsnAction::Delivered | DsnAction::Relayed | DsnAction::Failed => Ok(()),
        }
    }

    fn has_utf8(&self) -> bool {
        let is_ascii_reason = |reason: &OutcomeReason| {
            let server = reason.server.as_ref();
            reason.text.is_ascii() && server.is_none_or(|server| server.is_ascii())
        };
        let is_ascii = |status: &RecipientStatus<'_>| {
            status.path.is_ascii()
                && status.original.is_none_or(OriginalRecipient::is_ascii)
                && status.reason.is_none_or(is_ascii_reason)
        };
        !self.recipients.iter().all(is_ascii)
    }

    /// Returns the MIME boundary. The returned content cannot hold it, because it is older than the
    /// id of the report.
    fn boundary(&self) -> String {
        format!("=_{}", self.id)
    }
}

/// Returns `text`, which another server sent, without control characters.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Returns `server` as the value of a field, with its type (RFC 3464 2.1.2).
fn mta_name(server: &str) -> String {
    match (server.strip_prefix("unix:"), server.parse::<IpAddr>()) {
        (Some(path), _) => format!("x-unix-socket; {}", one_line(path)),
        (None, Ok(ip)) => format!("dns; [{ip}]"),
        (None, Err(_)) => format!("dns; {server}"),
    }
}

/// Writes `text` in lines of at most [`TEXT_MAX`] characters, divided at blanks, each after
/// `indent`.
fn write_wrapped(out: &mut String, text: &str, indent: &str) -> std::fmt::Result {
    let mut line = String::new();
    for word in text.split_whitespace() {
        let length = indent.len() + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && length > TEXT_MAX {
            writeln!(out, "{indent}{line}")?;
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    writeln!(out, "{indent}{line}")
}

/// Returns the MIME header of a part.
fn part_header(kind: &str, eight_bit: bool) -> String {
    let encoding = if eight_bit { "Content-Transfer-Encoding: 8bit\n" } else { "" };
    format!("Content-Type: {kind}\n{encoding}")
}

/// The status "delivery time expired" (RFC 3463 3.5).
pub const EXPIRED: (u8, u16, u16) = (5, 4, 7);
/// Maximum width of the text for people, in characters.
const TEXT_MAX: usize = 76;
/// Maximum size in bytes of a message that is returned whole.
const RETURNED_MAX: u64 = 256 * 1024;
/// Maximum size in bytes of a returned header. A portion of it will do (RFC 3464 2).
const HEADER_MAX: usize = 16 * 1024;
