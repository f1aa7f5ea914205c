//! Delivery reports: the message that tells a sender that a message was delivered, where
//! `NOTIFY=SUCCESS` asked for it (RFC 3461 5.2.3, 6; RFC 3464; RFC 6533 where UTF-8 is in it).
//!
//! ```text
//! Content-Type: multipart/report; report-type=delivery-status; boundary="..."
//!
//! 1  text/plain                 for people
//! 2  message/delivery-status    for programs: Final-Recipient, Action: delivered, Status
//! 3  text/rfc822-headers        the header of the message
//! ```
//! Only success is reported. What cannot be delivered is refused within the session, so that
//! whoever has the message still has it, and reports it (RFC 5321 4.2.5); nothing is ever accepted
//! that would have to be reported as failed later.
//!
//! Of a recipient that is an alias the address in the envelope is reported, not the mailboxes
//! behind it (RFC 3461 5.2.7.3 b, 5.2.7.4). Nothing is reported to the null reverse-path.

use std::fmt::Write;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use jiff::Zoned;

use crate::message::Content;
use crate::smtp::{Envelope, ForwardPath, Recipient};
use crate::trace;

/// One report, for the sender of one message.
#[derive(Debug)]
pub struct Report<'a, D> {
    /// Who reports.
    pub hostname: &'a str,
    /// The report's own id.
    pub id: &'a str,
    /// When it is written.
    pub at: &'a Zoned,
    /// When the message came.
    pub came: &'a Zoned,
    /// The envelope of the message.
    pub envelope: &'a Envelope<D>,
    /// To whom it was delivered, of those who are to be reported: see [`asks`].
    pub delivered: &'a [&'a Recipient<D>],
    /// The header of the message, see [`header`].
    pub header: &'a [u8],
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

impl<D> Report<'_, D> {
    /// The report as it stands in a mailbox below Return-Path and Delivered-To.
    pub fn content(&self) -> Content {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        let mut octets = text.into_bytes();
        octets.extend_from_slice(self.header);
        octets.extend_from_slice(format!("\n--{}--\n", self.boundary()).as_bytes());
        Content::Memory(Arc::new(octets))
    }

    /// All of it but the header of the message, and what stands behind.
    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Report { hostname, id, envelope, .. } = self;
        let (at, came) = (trace::date(self.at), trace::date(self.came));
        let boundary = self.boundary();
        let global = self.has_utf8();
        write!(
            out,
            "Received: by {hostname} id {id};\n\
             \t{at}\n\
             From: Mail Delivery System <MAILER-DAEMON@{hostname}>\n\
             To: {from}\n\
             Subject: Delivered: your message\n\
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
             Your message has been put into the mailboxes of\n\n",
            from = envelope.from,
            text = part("text/plain; charset=utf-8", global),
        )?;
        for recipient in self.delivered {
            writeln!(out, "    {}", recipient.path)?;
        }
        let kind =
            if global { "message/global-delivery-status" } else { "message/delivery-status" };
        write!(
            out,
            "\n\
             by the mail system at {hostname}. You have asked to be told so. It is\n\
             not known whether anybody has read it.\n\
             \n\
             --{boundary}\n\
             {kind}\
             \n\
             Reporting-MTA: {mta};{hostname}\n",
            kind = part(kind, global),
            mta = if hostname.contains('.') { "dns" } else { "x-local-hostname" },
        )?;
        if let Some(envid) = &envelope.envid {
            writeln!(out, "Original-Envelope-Id: {envid}")?;
        }
        writeln!(out, "Arrival-Date: {came}")?;
        for recipient in self.delivered {
            self.write_recipient(out, recipient)?;
        }
        let header_is_ascii = self.header.is_ascii();
        let kind = if header_is_ascii { "text/rfc822-headers" } else { "message/global-headers" };
        write!(out, "\n--{boundary}\n{}\n", part(kind, !header_is_ascii))
    }

    /// The fields of one recipient, below an empty line.
    fn write_recipient(&self, out: &mut String, recipient: &Recipient<D>) -> std::fmt::Result {
        writeln!(out)?;
        if let Some(original) = &recipient.original {
            writeln!(out, "Original-Recipient: {};{}", original.kind, original.address)?;
        }
        let kind = if recipient.path.is_ascii() { "rfc822" } else { "utf-8" };
        let address = match &recipient.path {
            ForwardPath::Postmaster => "postmaster".to_owned(),
            ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
        };
        write!(out, "Final-Recipient: {kind};{address}\nAction: delivered\nStatus: 2.0.0\n")
    }

    fn has_utf8(&self) -> bool {
        let is_ascii = |recipient: &&Recipient<D>| {
            recipient.path.is_ascii()
                && recipient.original.as_ref().is_none_or(|original| original.is_ascii())
        };
        !self.delivered.iter().all(is_ascii)
    }

    /// Nothing that was sent before the report can hold its id.
    fn boundary(&self) -> String {
        format!("=_{}", self.id)
    }
}

/// The header of one part.
fn part(kind: &str, eight_bit: bool) -> String {
    let encoding = if eight_bit { "Content-Transfer-Encoding: 8bit\n" } else { "" };
    format!("Content-Type: {kind}\n{encoding}")
}

/// Of a message's header so much is returned (RFC 3464 2: some portion of it).
pub const HEADER_MAX: usize = 16 * 1024;
