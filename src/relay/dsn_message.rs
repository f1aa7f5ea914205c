//! Delivery reports: the message that tells a sender what became of a message (RFC 3461 6;
//! RFC 3464; RFC 6533 where UTF-8 is in it).
//!
//! ```text
//! Content-Type: multipart/report; report-type=delivery-status; boundary="..."
//!
//! 1  text/plain                 for people
//! 2  message/delivery-status    for programs: Final-Recipient, Action, Status
//! 3  text/rfc822-headers        the header of the message, or message/rfc822, all of it
//! ```
//! What cannot be delivered on this host is refused within the session, so that whoever has the
//! message still has it, and reports it (RFC 5321 4.2.5). So of mailboxes here only success is
//! reported, where `NOTIFY=SUCCESS` asked for it; failure and delay only of what waited in the
//! queue.
//!
//! Of a recipient that is an alias the address in the envelope is reported, not the mailboxes
//! behind it (RFC 3461 5.2.7.3 b, 5.2.7.4). Nothing is reported to the null reverse-path.

use std::fmt::Write;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use jiff::Zoned;

use crate::message::Content;
use crate::message::trace;
use crate::smtp::dsn::OriginalRecipient;
use crate::smtp::{Envelope, ForwardPath, Recipient};

/// One report, for the sender of one message.
#[derive(Debug)]
pub struct DsnMessage<'a> {
    /// Who reports.
    pub hostname: &'a str,
    /// The report's own id.
    pub id: &'a str,
    /// When it is written.
    pub at: &'a Zoned,
    /// When the message came.
    pub came: &'a Zoned,
    /// Who it is for, as its To field shows it.
    pub to: &'a str,
    /// What became of the message.
    pub action: DsnAction,
    /// ENVID of the message.
    pub envid: Option<&'a str>,
    /// For whom it became so; at least one.
    pub recipients: &'a [RecipientStatus<'a>],
    /// What of the message is in it.
    pub returned: &'a ReturnedContent,
}

/// What became of a message.
#[derive(Clone, Debug)]
pub enum DsnAction {
    /// It is in mailboxes here.
    Delivered,
    /// It was handed to a server that reports nothing.
    Relayed,
    /// It waits, and is tried until then.
    Delayed(Zoned),
    /// It will not be delivered.
    Failed,
}

/// One recipient of a report.
#[derive(Clone, Debug)]
pub struct RecipientStatus<'a> {
    /// As in the envelope.
    pub path: &'a ForwardPath,
    /// ORCPT.
    pub original: Option<&'a OriginalRecipient>,
    /// RFC 3463.
    pub status: (u8, u16, u16),
    /// What the other server said, or what happened instead; one line.
    pub why: Option<String>,
    /// Whether `why` is a reply.
    pub is_reply: bool,
}

impl<'a> RecipientStatus<'a> {
    /// A recipient whose mailbox has the message.
    pub fn delivered<D>(recipient: &'a Recipient<D>) -> RecipientStatus<'a> {
        let (path, original) = (&recipient.path, recipient.original.as_ref());
        RecipientStatus { path, original, status: (2, 0, 0), why: None, is_reply: false }
    }
}

/// What of a message is in the report on it.
#[derive(Clone, Debug)]
pub enum ReturnedContent {
    /// Its header.
    Header(Vec<u8>),
    /// All of it.
    Whole(Vec<u8>),
}

/// Whether the sender of this envelope asks for a report of this recipient's success.
pub fn asks<D>(envelope: &Envelope<D>, recipient: &Recipient<D>) -> bool {
    let success = recipient.notify.is_some_and(|notify| notify.success);
    success && envelope.from != crate::smtp::ReversePath::Null
}

/// The header of a message, as it is in mailboxes, for a report on it: its first
/// [`HEADER_MAX`] octets, whole lines.
///
/// # Errors
/// The file it waits in cannot be read.
pub fn header(content: &Content) -> io::Result<Vec<u8>> {
    let mut begin = match content {
        Content::Memory(octets) => octets.get(..HEADER_MAX).unwrap_or(octets).to_vec(),
        Content::File(file, _) => {
            let mut octets = vec![0; HEADER_MAX];
            let read = file.read_at(&mut octets, 0)?;
            octets.truncate(read);
            octets
        }
    };
    let empty_line = memchr::memmem::find(&begin, b"\n\n").map(|at| at + 1);
    let whole_lines = || memchr::memrchr(b'\n', &begin).map_or(0, |at| at + 1);
    begin.truncate(empty_line.unwrap_or_else(whole_lines));
    Ok(begin)
}

impl DsnMessage<'_> {
    /// The report as it stands in a mailbox below Return-Path and Delivered-To.
    pub fn content(&self) -> Content {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        let mut octets = text.into_bytes();
        match self.returned {
            ReturnedContent::Header(header) | ReturnedContent::Whole(header) => {
                octets.extend_from_slice(header)
            }
        }
        octets.extend_from_slice(format!("\n--{}--\n", self.boundary()).as_bytes());
        Content::Memory(Arc::new(octets))
    }

    /// All of it but what is returned of the message, and what stands behind.
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let DsnMessage { hostname, id, to, .. } = self;
        let (at, came) = (trace::format_date(self.at), trace::format_date(self.came));
        let boundary = self.boundary();
        let global = self.has_utf8();
        let (subject, begin, end) = self.words();
        write!(
            out,
            "Received: by {hostname} id {id};\n\
             \t{at}\n\
             From: Mail Delivery System <MAILER-DAEMON@{hostname}>\n\
             To: {to}\n\
             Subject: {subject}\n\
             Date: {at}\n\
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
            text = part("text/plain; charset=utf-8", global),
        )?;
        for recipient in self.recipients {
            writeln!(out, "    {}", recipient.path)?;
            if let Some(why) = &recipient.why {
                writeln!(out, "        {}", quoted(why))?;
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
            kind = part(kind, global),
            mta = if hostname.contains('.') { "dns" } else { "x-local-hostname" },
        )?;
        if let Some(envid) = self.envid {
            writeln!(out, "Original-Envelope-Id: {envid}")?;
        }
        writeln!(out, "Arrival-Date: {came}")?;
        for recipient in self.recipients {
            self.write_recipient(out, recipient)?;
        }
        let (kind, is_ascii) = match self.returned {
            ReturnedContent::Header(header) if header.is_ascii() => ("text/rfc822-headers", true),
            ReturnedContent::Header(_) => ("message/global-headers", false),
            // Its own header says what its body is; 8 bits in that are no global message.
            ReturnedContent::Whole(whole) => ("message/rfc822", whole.is_ascii()),
        };
        write!(out, "\n--{boundary}\n{}\n", part(kind, !is_ascii))
    }

    /// For people: the subject, what stands above the recipients, and what below.
    fn words(&self) -> (&'static str, &'static str, String) {
        let hostname = self.hostname;
        match &self.action {
            DsnAction::Delivered => (
                "Delivered: your message",
                "Your message has been put into the mailboxes of",
                format!(
                    "by the mail system at {hostname}. You have asked to be told so. It is\n\
                     not known whether anybody has read it.\n"
                ),
            ),
            DsnAction::Relayed => (
                "Sent on: your message",
                "Your message has been sent on, to a mail system that reports nothing back, for",
                format!("by the mail system at {hostname}. You have asked to be told so.\n"),
            ),
            DsnAction::Delayed(until) => (
                "Waiting: your message",
                "Your message could not be sent on yet for",
                format!(
                    "The mail system at {hostname} tries again until\n    {}\n\
                     There is nothing you need to do.\n",
                    trace::format_date(until)
                ),
            ),
            DsnAction::Failed => (
                "Not delivered: your message",
                "Your message could not be delivered to",
                format!(
                    "The mail system at {hostname} will not try again. The reply above, if there\n\
                     is one, is that of the server that did not take it.\n"
                ),
            ),
        }
    }

    /// The fields of one recipient, below an empty line.
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
        if let Some(why) = &recipient.why {
            let kind = if recipient.is_reply { "smtp" } else { "x-mailslot" };
            writeln!(out, "Diagnostic-Code: {kind}; {}", quoted(why))?;
        }
        match &self.action {
            DsnAction::Delayed(until) => {
                writeln!(out, "Will-Retry-Until: {}", trace::format_date(until))
            }
            DsnAction::Delivered | DsnAction::Relayed | DsnAction::Failed => Ok(()),
        }
    }

    fn has_utf8(&self) -> bool {
        let is_ascii = |told: &RecipientStatus<'_>| {
            told.path.is_ascii()
                && told.original.is_none_or(OriginalRecipient::is_ascii)
                && told.why.as_ref().is_none_or(|why| why.is_ascii())
        };
        !self.recipients.iter().all(is_ascii)
    }

    /// Nothing that was sent before the report can hold its id.
    fn boundary(&self) -> String {
        format!("=_{}", self.id)
    }
}

/// What somebody else said, on a line of its own: one line, whatever it is.
fn quoted(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The header of one part.
fn part(kind: &str, eight_bit: bool) -> String {
    let encoding = if eight_bit { "Content-Transfer-Encoding: 8bit\n" } else { "" };
    format!("Content-Type: {kind}\n{encoding}")
}

/// Of a message's header so much is returned (RFC 3464 2: some portion of it).
pub const HEADER_MAX: usize = 16 * 1024;
