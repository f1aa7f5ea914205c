//! Held mail: mail from a program of this host for recipients of this host that cannot be delivered
//! now. It waits in the queue like mail for other hosts.
//!
//! The session puts the recipients of one message that must wait into one entry, `ID-held`, with
//! the reason. The runner resolves them again at each attempt, because the aliases may have been
//! corrected meanwhile, and passes the message to the writer.
//!
//! No mailbox gets a message twice. The copy for a mailbox and a receipt, the file `ID-held-doneN`,
//! are two destinations of one message, so the journal makes both durable or neither. An entry
//! that is opened takes over its receipts: recipient N is finished.
//!
//! | crash after | result |
//! | --- | --- |
//! | the receipt is created | an empty file, which means nothing |
//! | the record is synced | the writer completes mailbox and receipt; the recipient is finished |
//! | the new state is renamed | the recipient is finished, and the receipt is removed |
//! | the entry is removed | receipts without an entry are removed |
//!
//! A receipt is removed only after the state, or the removal of the entry, is synced.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::RECIPIENTS_MAX;
use super::entry::{self, HeldFields, QueueEntry};
use super::state::EntryState;
use crate::deliver::{DeferReason, Outcome};
use crate::message::trace::unix_time;
use crate::message::{Destination, QueueId};
use crate::smtp::sender::OutcomeReason;
use crate::smtp::{Envelope, Recipient};

/// Returns true if `id` is the id of an entry for recipients of this host.
pub fn is_held(id: &str) -> bool {
    id.ends_with(HELD_SUFFIX)
}

/// Returns the entry that a receipt named `name` belongs to, or None if `name` is not the name of a
/// receipt.
pub fn entry_of_receipt(name: &str) -> Option<&str> {
    let (id, n) = name.rsplit_once(RECEIPT_INFIX)?;
    (is_held(id) && !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())).then_some(id)
}

/// Returns the destinations of a message with the id `id` for recipients that must wait, each with
/// the reason: entries for at most [`RECIPIENTS_MAX`] recipients. `has` names the mailboxes, and
/// the addresses on other hosts, that get the message at the same time.
///
/// Returns None if a field cannot be encoded.
pub fn destinations<D, E>(
    envelope: &Envelope<D>,
    to: &[(&Recipient<E>, String)],
    has: &[String],
    id: &str,
    size: u64,
) -> Option<Vec<Destination>> {
    let arrived_at = unix_time();
    let entry = |(n, to): (usize, &[(&Recipient<E>, String)])| {
        let part = if n == 0 { String::new() } else { format!("-{n}") };
        // Only a control character could not be encoded, and replies to commands quote addresses.
        let reason = to.first().map(|(_, reason)| reason.replace(char::is_control, "?"));
        let held = HeldFields { reason, has: has.to_vec(), done: Vec::new() };
        let to: Vec<&Recipient<E>> = to.iter().map(|(recipient, _)| *recipient).collect();
        let envelope = entry::encode_held(envelope, &to, &held, arrived_at, size)?;
        Some(Destination::Queue {
            id: QueueId::new(&format!("{id}{part}{HELD_SUFFIX}"))?,
            envelope,
        })
    };
    to.chunks(RECIPIENTS_MAX).enumerate().map(entry).collect()
}

/// Returns the receipt of the entry `id` for the recipients with the indexes `done`, who have their
/// copies in the mailboxes `has`. Returns None if there are no recipients, or a field cannot be
/// encoded.
pub(super) fn receipt(
    id: &str,
    entry: &QueueEntry,
    done: &[usize],
    has: &[String],
) -> Option<Destination> {
    let name = receipt_name(id, *done.first()?);
    let held = HeldFields { reason: None, has: has.to_vec(), done: done.to_vec() };
    let to: [&Recipient<()>; 0] = [];
    let envelope = entry::encode_held(&entry.envelope, &to, &held, entry.arrived_at, entry.size)?;
    Some(Destination::Queue { id: QueueId::new(&name)?, envelope })
}

/// Adds the receipts of the entry `id` in the directory `queue` to its state. Returns false if one
/// is incomplete, so that it is not known yet whether its recipients have the message. An empty
/// one from before `recovered_at`, when this process had recovered all journals, has no record.
///
/// # Errors
/// A receipt cannot be read.
pub(super) fn take_over_receipts(
    queue: &Path,
    id: &str,
    entry: &QueueEntry,
    state: &mut EntryState,
    recovered_at: SystemTime,
) -> io::Result<bool> {
    for n in 0..entry.envelope.to.len() {
        let file = match File::open(queue.join(receipt_name(id, n))) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        match QueueEntry::read(&file)? {
            Some(receipt) => {
                state.finished.extend(receipt.held.done);
                state.has.extend(receipt.held.has);
            }
            None => {
                let meta = file.metadata()?;
                if meta.len() > 0 || meta.modified()? >= recovered_at {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// Removes the receipts of the finished recipients of the entry `id`. An error leaves a receipt,
/// which does no harm and is removed by a later scan.
pub(super) fn remove_receipts(queue: &Path, id: &str, finished: impl IntoIterator<Item = usize>) {
    for n in finished {
        let _ = fs::remove_file(queue.join(receipt_name(id, n)));
    }
}

/// Returns the reason for an outcome that is not `Delivered`.
pub fn outcome_reason(outcome: Outcome) -> OutcomeReason {
    let (status, text) = match outcome {
        Outcome::Delivered => ((2, 0, 0), "delivered"),
        Outcome::OverQuota => ((4, 2, 2), "the mailbox is full"),
        Outcome::Deferred(reason) => match reason {
            DeferReason::Locked => ((4, 2, 0), "the mailbox is locked by another program"),
            DeferReason::Unusable => ((4, 2, 0), "the mailbox cannot be written to"),
            DeferReason::NoSpace => ((4, 3, 1), "no space is left on the disk"),
            DeferReason::Io => ((4, 3, 0), "an error of the disk; the log has the details"),
            DeferReason::TimedOut => ((4, 3, 0), "the disk is too slow"),
            DeferReason::Stopping => ((4, 3, 2), "the server is stopping"),
        },
    };
    OutcomeReason::local(status, text)
}

fn receipt_name(id: &str, n: usize) -> String {
    format!("{id}{RECEIPT_INFIX}{n}")
}

const HELD_SUFFIX: &str = "-held";
const RECEIPT_INFIX: &str = "-done";
