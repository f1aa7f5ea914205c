//! The start of the writer, and recovery after a crash. Journals without a living owner are read,
//! and each record in them that is still needed is compared with the mailboxes, under their locks.
//!
//! For each copy of a message that is in the journal:
//!
//! | the mailbox | action |
//! | --- | --- |
//! | the record is done, no reboot since | nothing; a mail reader removed what is missing |
//! | it has the whole copy where the record says | nothing |
//! | it ends within the copy or has zeros in it, and the rest matches | completed in place |
//! | it ends at or before the copy | appended |
//! | it has other data there, but the whole message elsewhere | nothing |
//! | it has other data there | appended; the other data is left alone |
//!
//! Newer records are examined first, because an older record may describe a range of the file that
//! was used again after a mail reader had emptied the mailbox. What is appended goes through this
//! process's own journal like new mail, so its record is durable before the first byte. So recovery
//! may be killed at any point and start again. It then finds a message in two journals and appends
//! it once.
//!
//! A message in place is not in the journal. Copies that were begun are truncated, if all bytes
//! after that point are known to be ours. If one copy is whole where it was written, the others are
//! made from it. If none is, the message was never acknowledged.
//!
//! A mailbox that cannot be finished, because another program keeps it locked or its disk fails, is
//! suspended: its records stay, resolved for all other mailboxes, and are tried again when mail
//! arrives. Finished mailboxes are synced before the journal is reset and removed, because an old
//! record must not outlive new mail.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::DeliveryConfig;
use super::commit::{CommitResult, Committer, LockedMailboxes};
use super::disk::{Disk, DiskFile};
use super::journal::{self, Draft, Journal, MESSAGES_MAX, Placement, Record, RecordedMessage};
use super::locks::{DotlockDirectory, Identity, TryLock};
use super::mailbox::{DestinationDirectories, LockedMailbox, MailboxStore};
use super::mbox::{MESSAGE_END, MailboxCopy};
use super::search::{KnownContent, Pieces, contains_message};
use crate::message::{Content, DestinationFile, Message, Owner};
use crate::observe::counters::Counters;
use crate::observe::events;

/// Returns `e` with the path and the fix.
fn named(path: &Path, fix: &str, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}; {fix}", path.display()))
}

/// Checks both directories, and returns the mailboxes and the identity of this process.
fn open_store(
    disk: &Arc<dyn Disk>,
    config: &DeliveryConfig,
) -> io::Result<(MailboxStore, Identity)> {
    let identity = Identity::new(&**disk);
    // With a dot at its end the path is followed through a symbolic link, such as /var/mail.
    let mail = disk.lstat(&config.mail_dir.join("."));
    let mail = mail.map_err(|e| named(&config.mail_dir, "choose another with --mail-dir", e))?;
    check_spool(&**disk, config)?;
    let mail_group = nix::unistd::Group::from_name("mail").ok().flatten();
    let store = MailboxStore {
        disk: disk.clone(),
        directories: DestinationDirectories::new(config.mail_dir.clone(), &config.spool),
        dotlocks: DotlockDirectory::new(disk.clone(), &config.mail_dir, identity.clone()),
        locks: config.locks,
        limit: config.mailbox_limit,
        uid: nix::unistd::geteuid().as_raw(),
        group: mail_group.map(|g| g.gid.as_raw()).filter(|gid| *gid == mail.gid),
    };
    Ok((store, identity))
}

/// Does what [`open_committer`] does to the point where it would take the journals over. A journal
/// that the start would create is created under another name and removed. Returns the error of a
/// mail directory in which no dotlock can be created, because the start does not need one.
///
/// # Errors
/// The same as those of [`open_committer`].
pub fn rehearse(disk: &Arc<dyn Disk>, config: &DeliveryConfig) -> io::Result<Option<io::Error>> {
    let (store, identity) = open_store(disk, config)?;
    let (spool, fix) = (&config.spool, "choose another with --spool");
    let mut is_needed = true;
    for path in journal::list(&**disk, spool).map_err(|e| named(spool, fix, e))? {
        let segment = journal::probe(&**disk, &path).map_err(|e| named(spool, fix, e))?;
        is_needed &= segment != Some(config.journal_segment);
    }
    let names = disk.read_directory(&config.mail_dir).map(drop);
    let names = names.and_then(|()| disk.sync_directory(&config.mail_dir));
    names.map_err(|e| named(&config.mail_dir, "see mailslot check", e))?;
    // The running server needs the space.
    if is_needed {
        let made = Journal::rehearse(&**disk, spool, config.journal_segment, &identity);
        made.and_then(|()| disk.sync_directory(spool)).map_err(|e| named(spool, fix, e))?;
    }
    Ok(if config.locks.dotlock { store.dotlocks.probe().err() } else { None })
}

/// Takes over what dead processes left, recovers it, and returns a committer with an empty journal.
///
/// # Errors
/// The mail directory or the spool cannot be used. The text names the path and the fix.
pub fn open_committer(
    disk: &Arc<dyn Disk>,
    config: &DeliveryConfig,
    counters: &Arc<Counters>,
) -> io::Result<Committer> {
    let (store, identity) = open_store(disk, config)?;
    let spool = &config.spool;
    let fix = "choose another with --spool";
    let found = take_over_journals(&store, spool, &identity).map_err(|e| named(spool, fix, e))?;
    // The dotlocks of dead processes must be gone for certain before their journals are reset,
    // because then nothing says any more that their owners are dead, and a power loss would bring
    // back what was not removed durably.
    let removed = store.dotlocks.remove_dead(|_| false);
    let removed = removed.and_then(|()| disk.sync_directory(&config.mail_dir));
    removed.map_err(|e| named(&config.mail_dir, "see mailslot check", e))?;
    let (mut journal, mut examined) = (None, HashMap::new());
    for (empty, owner) in found.empty {
        if journal.is_none() && empty.segment() == config.journal_segment {
            journal = Some(empty);
        } else if empty.segment() == config.journal_segment || empty.segment() == 0 {
            // One journal is enough, and one whose process was killed before it was filled is of
            // no use. One of another size belongs to the next process of its kind.
            disk.unlink(&empty.path).map_err(|e| named(&empty.path, "remove it", e))?;
        } else if let Ok(id) = empty.file_id() {
            examined.insert(id, owner);
        }
    }
    let mut journal = match journal {
        Some(journal) => journal,
        None => Journal::create(&**disk, spool, config.journal_segment, &identity)
            .map_err(|e| named(spool, fix, e))?,
    };
    // The process that created it may have been killed before its name was durable.
    let reset = journal.reset(&identity).and_then(|()| disk.sync_directory(spool));
    reset.map_err(|e| named(&journal.path, fix, e))?;
    let (spool, age) = (spool.clone(), config.checkpoint_age);
    let mut committer = Committer::new(store, spool, identity, counters.clone(), journal, age)?;
    committer.examined = examined;
    committer.recover(found.orphans, Instant::now() + config.lock_timeout);
    if let Err(e) = committer.checkpoint_all() {
        events::journal_failed(None::<&str>, e);
    }
    let removed = committer.remove_dead_locks();
    removed.map_err(|e| named(&config.mail_dir, "see mailslot check", e))?;
    // Now, so that the list counts as settled when the first mail comes.
    committer.journals.update(&**disk, &config.spool).map_err(|e| named(&config.spool, fix, e))?;
    Ok(committer)
}

/// Checks that only this user can write to the spool, because its files are believed, and that it
/// is not the mail directory.
fn check_spool(disk: &dyn Disk, config: &DeliveryConfig) -> io::Result<()> {
    let shown = config.spool.display();
    // With a dot at its end the path is followed through a symbolic link.
    let spool = disk.lstat(&config.spool.join(".")).map_err(|e| {
        io::Error::new(e.kind(), format!("{shown}: {e}; choose another with --spool"))
    })?;
    let mail = disk.lstat(&config.mail_dir.join("."))?;
    if spool.id() == mail.id() {
        let text = format!("{shown}: it is the mail directory; choose another with --spool");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if spool.mode & 0o022 != 0 {
        let text = format!("{shown}: it is writable by others; choose one of mailslot's own");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    Ok(())
}

/// Journal of a dead process, locked by this one, with the records that are still needed.
#[derive(Debug)]
pub struct OrphanedJournal {
    journal: Journal,
    records: Vec<Record>,
    owner: Option<Identity>,
}

/// Journals that no living process has.
#[derive(Debug)]
struct OrphanedJournals {
    /// Journals without records, and their last owners, whose locks are stale.
    empty: Vec<(Journal, Option<Identity>)>,
    /// Journals with records. The locks of their owners keep every program away from the mailboxes
    /// until [`Committer::recover`] begins.
    orphans: Vec<OrphanedJournal>,
}

/// Takes over, in the name of `us`, every journal in `spool` that no living process has.
fn take_over_journals(
    store: &MailboxStore,
    spool: &Path,
    us: &Identity,
) -> io::Result<OrphanedJournals> {
    let (mut empty, mut orphans) = (Vec::new(), Vec::new());
    for path in journal::list(&*store.disk, spool)? {
        let taken = Journal::take_over(&*store.disk, &path, us)?;
        let Some((mut journal, owner)) = taken else { continue };
        let records = journal.read()?;
        if let Some(damage) = journal.damage() {
            let (kept, new) = journal.keep_damaged(&*store.disk)?;
            if new {
                let fix = "what can be read is recovered; look for the rest in the kept file, and \
                           for the cause in the kernel log";
                let (path, kept) = (path.display(), kept.display());
                events::journal_damaged(path, kept, format!("{damage}; {fix}"));
            }
            if records.is_empty() {
                owner.into_iter().for_each(|owner| store.dotlocks.mark_dead(owner));
                store.disk.unlink(&path)?;
                continue;
            }
        }
        if !records.is_empty() {
            orphans.push(OrphanedJournal { journal, records, owner });
            continue;
        }
        owner.iter().for_each(|owner| store.dotlocks.mark_dead(owner.clone()));
        empty.push((journal, owner));
    }
    Ok(OrphanedJournals { empty, orphans })
}

impl Committer {
    /// Recovers everything that `orphans` hold, waiting up to `until` for mailboxes that another
    /// program keeps locked. What could not be finished is suspended.
    pub fn recover(&mut self, mut orphans: Vec<OrphanedJournal>, until: Instant) {
        if orphans.is_empty() {
            return;
        }
        for OrphanedJournal { journal, records, owner } in &orphans {
            events::recovery_started(journal.path.display(), records.len());
            self.journal.skip_to(journal.seq());
            owner.iter().for_each(|owner| self.store.dotlocks.mark_dead(owner.clone()));
        }
        let mut mailboxes: BTreeMap<DestinationFile, Option<Owner>> = BTreeMap::new();
        for copy in orphans.iter().flat_map(|o| &o.records).flat_map(Record::placements) {
            mailboxes.insert(copy.file.clone(), copy.to.owner());
        }
        // The records may be in memory only. Without this sync a power loss during recovery would
        // leave a message in only those mailboxes that were finished by then.
        let mut unfinished = HashSet::new();
        for OrphanedJournal { journal, records, .. } in &orphans {
            if let Err(e) = journal.sync() {
                events::recovery_failed(Some(journal.path.display()), None::<&str>, e);
                let copies = records.iter().flat_map(Record::placements);
                unfinished.extend(copies.map(|c| c.file.clone()));
            }
        }
        // Torn messages are removed first, because nothing may be appended after one.
        for entry in orphans.iter().flat_map(OrphanedJournal::in_place) {
            for (_, copy) in &entry.copies {
                if unfinished.contains(&copy.file) {
                    continue;
                }
                let cut = self.truncate_torn(entry, copy, until);
                self.note(&copy.file, cut, &mut unfinished);
            }
        }
        for (name, owner) in &mailboxes {
            if !unfinished.contains(name) {
                let redone = self.redo(&mut orphans, name, *owner, until);
                self.note(name, redone, &mut unfinished);
            }
        }
        for entry in orphans.iter().flat_map(OrphanedJournal::in_place) {
            if entry.copies.iter().any(|(_, copy)| unfinished.contains(&copy.file)) {
                unfinished.extend(entry.copies.iter().map(|(_, copy)| copy.file.clone()));
            } else if let Err(e) = self.complete(entry, until) {
                for (_, copy) in &entry.copies {
                    let error = io::Error::new(e.kind(), e.to_string());
                    self.note(&copy.file, Err(error), &mut unfinished);
                }
            }
        }
        // Before the journals go, because without them nothing says that the owner of a lock is
        // dead.
        let swept = self.remove_dead_locks();
        if let Err(e) = swept.and_then(|()| self.store.sync_names(mailboxes.keys())) {
            events::recovery_failed(None::<&str>, None::<&str>, e);
            unfinished.extend(mailboxes.into_keys());
        }
        for OrphanedJournal { mut journal, records, .. } in orphans {
            let finished =
                !records.iter().flat_map(Record::placements).any(|c| unfinished.contains(&c.file));
            let ended = match finished {
                true => self.remove_recovered(&mut journal),
                false => journal.retain_for(&unfinished, false).and_then(|()| {
                    self.examined.insert(journal.file_id()?, Some(Identity::none()));
                    Ok(())
                }),
            };
            match ended {
                Ok(()) => events::recovery_ended(journal.path.display(), finished),
                Err(e) => events::journal_not_removed(journal.path.display(), e),
            }
        }
        self.suspended.extend(unfinished);
    }

    /// Removes a journal whose records are all in their mailboxes. A damaged one is not reset,
    /// because it stays under its second name as it was found.
    fn remove_recovered(&self, journal: &mut Journal) -> io::Result<()> {
        let disk = &self.store.disk;
        if journal.is_kept()? {
            disk.unlink(&journal.path)?;
            return disk.sync_directory(&self.spool);
        }
        journal.reset(&Identity::none())?;
        disk.unlink(&journal.path)
    }

    /// Recovers what processes left that died while this one runs, and removes their locks.
    pub fn recover_orphans(&mut self) -> io::Result<()> {
        let found = take_over_journals(&self.store, &self.spool, &self.identity);
        let found = found.inspect_err(|_| self.examined.clear())?;
        self.recover(found.orphans, Instant::now() + ORPHAN_TIMEOUT);
        self.remove_dead_locks()
    }

    /// Returns true if the journal of another process has lost its process since the last call, so
    /// that [`Committer::recover_orphans`] must follow.
    ///
    /// A dead process may have left half a message, with no dotlock that says so: it took none, or
    /// another program has broken it. So this is asked before each append, after the mailboxes are
    /// locked, because a living process has no half message in a mailbox that it has not locked.
    pub fn finds_orphans(&mut self) -> io::Result<bool> {
        let disk = &*self.store.disk;
        let mut unowned = HashMap::new();
        let is_ours = |path: &Path| {
            self.abandoned.iter().chain([&self.journal]).any(|journal| journal.path == path)
        };
        for path in self.journals.update(disk, &self.spool)? {
            if !is_ours(path) {
                unowned.extend(journal::find_unowned(disk, path)?);
            }
        }
        let is_new = unowned.iter().any(|(id, owner)| self.examined.get(id) != Some(owner));
        self.examined = unowned;
        Ok(is_new)
    }

    /// Removes the locks that dead processes left.
    pub fn remove_dead_locks(&self) -> io::Result<()> {
        let (disk, spool) = (&*self.store.disk, &self.spool);
        let owners = journal::list(disk, spool)?.into_iter();
        let owners: Vec<Identity> = owners.filter_map(|path| journal::owner(disk, &path)).collect();
        // A journal that is still there is being recovered by another process.
        self.store.dotlocks.remove_dead(|id| !owners.contains(id))
    }

    /// Adds `name` to the unfinished mailboxes and logs the error, if there is one.
    fn note(
        &self,
        name: &DestinationFile,
        result: io::Result<()>,
        unfinished: &mut HashSet<DestinationFile>,
    ) {
        if let Err(e) = result
            && unfinished.insert(name.clone())
        {
            let path = self.store.path_of(name);
            events::recovery_failed(None::<&str>, Some(path.display()), e);
        }
    }

    /// Writes again what is missing in the mailbox `name` and is in the journals.
    fn redo(
        &mut self,
        orphans: &mut [OrphanedJournal],
        name: &DestinationFile,
        owner: Option<Owner>,
        until: Instant,
    ) -> io::Result<()> {
        let mut locked = self.lock_with_deadline(name, owner, until)?;
        let rewritable = locked.reopen_for_writing()?;
        let mut records = Vec::new();
        for (o, OrphanedJournal { journal, records: all, .. }) in orphans.iter().enumerate() {
            records.extend(all.iter().enumerate().map(|(r, record)| ((o, r), journal, record)));
        }
        records.sort_by_key(|(_, _, record)| std::cmp::Reverse(record.seq));
        let (mut there, doubtful) =
            rewrite_copies(&mut locked, &rewritable, &records, |r| !r.done)?;
        rewritable.sync()?;
        locked.update_missing_newlines()?;
        let mut missing = Vec::new();
        for ((o, r), number, message) in doubtful.into_iter().rev() {
            let Content::Memory(content) = &message.content else { continue };
            if !there.contains(&message.id)
                && !contains_message(&**locked.file(), &message.id, KnownContent::Content(content))?
            {
                there.insert(message.id.clone());
                missing.push((o, r, number, message));
            }
        }
        let mut mailboxes = LockedMailboxes::from([(name.clone(), locked)]);
        while !missing.is_empty() {
            let mut octets = 0;
            let fits = |(_, _, _, message): &&(usize, usize, usize, Message)| {
                octets += Draft::octets_max(message, self.journal.segment());
                octets <= self.journal.segment() / 2
            };
            let n = missing.iter().take(MESSAGES_MAX).take_while(fits).count().max(1);
            let batch: Vec<_> = missing.drain(..n).collect();
            let messages: Vec<&Message> = batch.iter().map(|(_, _, _, message)| message).collect();
            for done in self.commit(&mut mailboxes, &messages) {
                if !matches!(done, CommitResult::Delivered(_)) {
                    return Err(io::Error::other(format!("not appended: {done:?}")));
                }
            }
            for (o, r, number, message) in batch {
                events::recovered(message.id, self.store.path_of(name).display());
                let OrphanedJournal { journal, records, .. } = &mut orphans[o];
                journal.resolve(&mut records[r], &[number])?;
            }
        }
        Ok(())
    }

    /// Cuts off a message in place that was begun in one of its mailboxes.
    fn truncate_torn(
        &mut self,
        entry: &RecordedMessage,
        copy: &Placement,
        until: Instant,
    ) -> io::Result<()> {
        let mut locked = self.lock_with_deadline(&copy.file, copy.to.owner(), until)?;
        if in_place_state(&locked, copy, entry)? == InPlace::Torn {
            locked.truncate(copy.offset, copy.missing_newlines)?;
            events::truncated(&entry.id, locked.path().display());
        }
        Ok(())
    }

    /// Makes the copies of a message in place that are missing from one that is whole.
    fn complete(&mut self, entry: &RecordedMessage, until: Instant) -> io::Result<()> {
        let mut copies: Vec<&Placement> = entry.copies.iter().map(|(_, copy)| copy).collect();
        copies.sort_by(|a, b| a.file.cmp(&b.file));
        let mut locked = Vec::with_capacity(copies.len());
        let (mut whole, mut others) = (None, Vec::new());
        for (n, copy) in copies.iter().enumerate() {
            locked.push(self.lock_with_deadline(&copy.file, copy.to.owner(), until)?);
            let len = in_place_octets(entry, copy);
            match in_place_state(&locked[n], copy, entry)? {
                InPlace::Whole => {
                    // In memory; on the disk perhaps not, and a sync that failed is not repeated.
                    let file = locked[n].reopen_for_writing()?;
                    for (at, bytes) in Pieces::of(&**locked[n].file(), copy.offset, len) {
                        file.write_all_at(&[&bytes?], at)?;
                    }
                    file.sync()?;
                    whole = Some(n);
                }
                InPlace::Torn | InPlace::Missing | InPlace::Other => others.push(n),
            }
        }
        let Some(whole) = whole.filter(|_| !others.is_empty()) else { return Ok(()) };
        let lines =
            copies[whole].missing_newlines + entry.head.len() + copies[whole].to.own_field().len();
        let (source, at) = (locked[whole].file().clone(), copies[whole].offset + lines as u64);
        let mut to = Vec::new();
        for n in others {
            let known = KnownContent::Stretch(&*source, at, entry.octets);
            if !contains_message(&**locked[n].file(), &entry.id, known)? {
                to.push(copies[n].to.clone());
            }
        }
        if to.is_empty() {
            return Ok(());
        }
        let mut file = tempfile::tempfile_in(&self.spool)?;
        for (_, bytes) in Pieces::of(&*source, at, entry.octets) {
            file.write_all(&bytes?)?;
        }
        let content = Content::File(file.into(), entry.octets);
        let message = Message { id: entry.id.clone(), head: entry.head.clone(), content, to };
        let mut mailboxes: LockedMailboxes =
            locked.into_iter().map(|h| (h.name.clone(), h)).collect();
        match self.commit(&mut mailboxes, &[&message]).pop() {
            Some(CommitResult::Delivered(_)) => Ok(()),
            done => Err(io::Error::other(format!("not appended: {done:?}"))),
        }
    }

    /// Locks a mailbox, waiting until `until` if another program has it locked.
    fn lock_with_deadline(
        &mut self,
        name: &DestinationFile,
        owner: Option<Owner>,
        until: Instant,
    ) -> io::Result<LockedMailbox> {
        loop {
            let holder = match self.store.try_lock(name, owner, None) {
                Ok(TryLock::Acquired(locked)) => return Ok(locked),
                Ok(TryLock::HeldByMailslot(holder)) => {
                    self.remove_dead_locks()?;
                    holder
                }
                Ok(TryLock::Contended(holder)) => holder,
                Err(fault) => return Err(io::Error::other(fault.text())),
            };
            if Instant::now() >= until {
                return Err(io::Error::other(format!("locked: {holder}")));
            }
            thread::sleep(LOCK_RETRY);
        }
    }

    /// Repairs a mailbox whose sync failed: writes it again from the journal and syncs it. Does not
    /// wait for its locks.
    ///
    /// # Errors
    /// The sync failed again.
    pub(super) fn repair(&mut self, name: &DestinationFile) -> io::Result<TryLock<()>> {
        let records = self.journal.read()?;
        let owner = records.iter().flat_map(Record::placements).find(|c| c.file == *name);
        let owner = owner.and_then(|copy| copy.to.owner());
        let mut locked = match self.store.try_lock(name, owner, None) {
            Ok(TryLock::Acquired(locked)) => locked,
            Ok(TryLock::Contended(holder)) => return Ok(TryLock::Contended(holder)),
            Ok(TryLock::HeldByMailslot(holder)) => return Ok(TryLock::HeldByMailslot(holder)),
            Err(fault) => return Err(io::Error::other(fault.text())),
        };
        let rewritable = locked.reopen_for_writing()?;
        let records = records.iter().rev().filter(|record| !self.journal.has_failed(record));
        let records: Vec<_> = records.map(|record| ((), &self.journal, record)).collect();
        // What a mail reader removed or moved since then stays as the reader left it.
        rewrite_copies(&mut locked, &rewritable, &records, |_| false)?;
        rewritable.sync()?;
        self.store.sync_names([name])?;
        Ok(TryLock::Acquired(()))
    }
}

impl OrphanedJournal {
    /// The messages in place that a crash may have interrupted. Only the last record can hold any:
    /// those before it were durable before it was written.
    fn in_place(&self) -> impl Iterator<Item = &RecordedMessage> {
        let last = self.records.last().filter(|r| !r.done);
        last.into_iter().flat_map(|r| &r.messages).filter(|e| e.content_at.is_none())
    }
}

/// Ids that were found in a mailbox, and the messages that were not, each with its origin and its
/// number in the record.
type MailboxRepair<From> = (HashSet<String>, Vec<(From, usize, Message)>);

/// Writes the copies in `records`, the newest first, again at their offsets in a mailbox, if they
/// are there in whole or, where `completed` returns true, in part. Truncates the mailbox to remove
/// an aborted copy at its end.
///
/// A copy is written again even if it reads well and is done, because a sync that failed once
/// leaves data in memory that is not on the disk.
fn rewrite_copies<From: std::marker::Copy>(
    locked: &mut LockedMailbox,
    file: &Arc<dyn DiskFile>,
    records: &[(From, &Journal, &Record)],
    completed: impl Fn(&Record) -> bool,
) -> io::Result<MailboxRepair<From>> {
    let (mut there, mut doubtful) = (HashSet::new(), Vec::new());
    for (from, journal, record) in records {
        for entry in record.messages.iter().rev() {
            if there.contains(&entry.id) {
                continue;
            }
            let copy = entry.copies.iter().find(|(_, c)| c.file == locked.name);
            let Some((number, copy)) = copy else { continue };
            let Some(message) = message_of(journal, entry, copy)? else { continue };
            if rewrite(locked, file, copy, &message, completed(record))? {
                locked.len = locked.file().stat()?.len;
                there.insert(message.id);
            } else if record.done {
                there.insert(message.id);
            } else {
                doubtful.push((*from, *number, message));
            }
        }
    }
    for (_, journal, record) in records {
        for entry in record.messages.iter().rev().filter(|e| !there.contains(&e.id)) {
            let aborted = entry.aborted.iter().find(|c| c.file == locked.name);
            let Some(copy) = aborted else { continue };
            let (ours, len) = match message_of(journal, entry, copy)? {
                Some(message) => matches_placement(locked, copy, &message)?,
                None => {
                    let state = in_place_state(locked, copy, entry)?;
                    (matches!(state, InPlace::Whole | InPlace::Torn), in_place_octets(entry, copy))
                }
            };
            if ours && locked.len > copy.offset && locked.len <= copy.offset + len {
                locked.truncate(copy.offset, copy.missing_newlines)?;
                events::truncated(&entry.id, locked.path().display());
            }
        }
    }
    Ok((there, doubtful))
}

/// Returns a message as it was recorded, for one destination. Returns None for a message in place.
fn message_of(
    journal: &Journal,
    entry: &RecordedMessage,
    copy: &Placement,
) -> io::Result<Option<Message>> {
    Ok(journal.content(entry)?.map(|content| Message {
        id: entry.id.clone(),
        head: entry.head.clone(),
        content: Content::Memory(content.into()),
        to: vec![copy.to.clone()],
    }))
}

/// Returns whether the mailbox, as far as it goes, has the copy or zeros at its offset, and the
/// length of the copy.
fn matches_placement(
    locked: &LockedMailbox,
    copy: &Placement,
    message: &Message,
) -> io::Result<(bool, u64)> {
    let ours = bytes_of(message, copy.missing_newlines);
    let len = ours.len() as u64;
    if locked.stat.id() != copy.file_id {
        return Ok((false, len));
    }
    let mut theirs = vec![0; locked.len.saturating_sub(copy.offset).min(len) as usize];
    locked.file().read_exact_at(&mut theirs, copy.offset)?;
    Ok((theirs.iter().zip(&ours).all(|(a, b)| a == b || *a == 0), len))
}

/// Writes the copy at its offset, if the mailbox matches it as far as it goes. Unless it is to be
/// `completed`, the whole copy must be there. If a mail reader removed the copy, what matches its
/// first byte may be the empty line that ends the message before. Returns true if it was written.
fn rewrite(
    locked: &LockedMailbox,
    file: &Arc<dyn DiskFile>,
    copy: &Placement,
    message: &Message,
    completed: bool,
) -> io::Result<bool> {
    let (ours, len) = matches_placement(locked, copy, message)?;
    let whole = locked.len >= copy.offset + len;
    if !ours || locked.len <= copy.offset || !(whole || completed) {
        return Ok(false);
    }
    file.write_all_at(&[&bytes_of(message, copy.missing_newlines)], copy.offset)?;
    Ok(true)
}

/// State of the range that a message in place was to fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InPlace {
    /// The message is there whole.
    Whole,
    /// A part of the message is there, and nothing that could be from another program.
    Torn,
    /// The file ends before the range.
    Missing,
    /// Bytes of another program are there, or a part of the message with such bytes after it.
    Other,
}

/// Compares the range with the recorded checksums. A chunk that the end of the file cuts short is
/// not taken for ours, because it may be the whole of a short message that came since. Our writes
/// end where chunks do.
fn in_place_state(
    locked: &LockedMailbox,
    copy: &Placement,
    entry: &RecordedMessage,
) -> io::Result<InPlace> {
    let Some(sums) = copy.sums.as_ref().filter(|_| locked.stat.id() == copy.file_id) else {
        return Ok(InPlace::Other);
    };
    if locked.len <= copy.offset {
        return Ok(InPlace::Missing);
    }
    let len = in_place_octets(entry, copy);
    let (mut whole, mut ours) = (locked.len >= copy.offset + len, locked.len <= copy.offset + len);
    let mut buf = Vec::new();
    for (at, octets, crc) in sums.chunks(copy.offset, len) {
        if at >= locked.len {
            break;
        }
        let stands = octets.min(locked.len - at);
        buf.resize(usize::try_from(stands).unwrap_or_default(), 0);
        locked.file().read_exact_at(&mut buf, at)?;
        let right = stands == octets && crc32fast::hash(&buf) == crc;
        whole &= right;
        ours &= right || buf.iter().all(|b| *b == 0);
    }
    Ok(match (whole, ours) {
        (true, _) => InPlace::Whole,
        (false, true) => InPlace::Torn,
        (false, false) => InPlace::Other,
    })
}

fn in_place_octets(entry: &RecordedMessage, copy: &Placement) -> u64 {
    let lines = copy.missing_newlines + entry.head.len() + copy.to.own_field().len() + 1;
    lines as u64 + entry.octets
}

/// Returns the bytes of the copy of a message in memory.
fn bytes_of(message: &Message, missing_newlines: usize) -> Vec<u8> {
    let (Content::Memory(content), Some(to)) = (&message.content, message.to.first()) else {
        return Vec::new();
    };
    let copy = MailboxCopy::new(message, to, missing_newlines);
    let [separator, head, own_field] = copy.before_content();
    [separator, head, own_field, content, MESSAGE_END].concat()
}

/// Time to wait for locked mailboxes while the mail for all others waits too.
const ORPHAN_TIMEOUT: Duration = Duration::from_millis(200);
/// Interval between two attempts at a lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);
