//! The start of the writer, and recovery after a crash. Journals without a living owner are read,
//! and each record in them that is still needed is compared with the mailboxes, under their locks.
//!
//! For each copy of a message that is in the journal:
//!
//! | the mailbox | action |
//! | --- | --- |
//! | the record is done, and [`Verdict`] proves it | nothing; what is missing was removed |
//! | it has the whole copy where the record says | nothing |
//! | it ends within the copy or has zeros in it, and the rest matches | completed in place (*) |
//! | it ends at or before the copy | appended |
//! | it has other data there, but the whole message elsewhere | nothing |
//! | it has other data there | appended; the other data is left alone |
//!
//! (*) Only if a message ends before it. Otherwise the zeros may be from another place, because a
//! mail reader can move the zeros of a power loss.
//!
//! Newer records are examined first, because an older record may describe a range of the file that
//! was used again after a mail reader had emptied the mailbox. Appended mail goes through the
//! journal of this process like new mail, so its record is durable before the first byte. So
//! recovery may be killed at any point and start again. It then finds a message in two journals and
//! appends it once.
//!
//! A large message is redone from its file (`contents.rs`), in pieces. Without the file, or if its
//! content is not as it was recorded, the copy is left as it is, and the log says so.
//!
//! Bytes are compared one by one (`copies.rs`), so it does not matter where a disk has torn a
//! write.
//!
//! The messages of a journal are read again each time they are needed. So recovery has in memory
//! the marks of each record, the names of the mailboxes with the numbers of their records, and a
//! few numbers for each copy in the mailbox at hand.
//!
//! A mailbox that cannot be finished, because another program keeps it locked or its disk fails, is
//! suspended: its records stay, resolved for all other mailboxes, and are tried again when mail
//! arrives. Finished mailboxes are synced before the journal is reset and removed, because an old
//! record must not outlive new mail.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::DeliveryConfig;
use super::commit::{CommitResult, Committer, LockedMailboxes};
use super::contents::ContentSpool;
use super::copies::{DoubtfulCopy, MailboxRepair, read_message, rewrite_copies};
use super::disk::{ChangeTime, Disk};
use super::journal::{self, Draft, Journal, MESSAGES_MAX, Record};
use super::locks::{DotlockDirectory, Identity, TryLock};
use super::mailbox::{DestinationDirectories, LockedMailbox, MailboxStore};
use super::search::{SoughtMessages, find_messages};
use super::verdict::{Verdict, is_removed_entry};
use crate::message::{DestinationFile, Message, Owner};
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

/// Does the steps of [`open_committer`] before it takes journals over. A journal that the start
/// would create is created under another name and removed. Returns the error of a mail directory in
/// which no dotlock can be created, because the start does not need one.
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

/// Takes over the journals of dead processes, recovers their mail, and returns a committer with an
/// empty journal.
///
/// # Errors
/// The mail directory or the spool cannot be used. The text names the path and the fix.
pub fn open_committer(
    contents: &ContentSpool,
    config: &DeliveryConfig,
    counters: &Arc<Counters>,
) -> io::Result<Committer> {
    let disk = &contents.disk;
    let (store, identity) = open_store(disk, config)?;
    let spool = &config.spool;
    let fix = "choose another with --spool";
    let found = take_over_journals(&store, spool, &identity).map_err(|e| named(spool, fix, e))?;
    // The dotlocks of dead processes must be removed durably before their journals are reset. A
    // power loss could bring a dotlock back, and without the journal nothing shows that its owner
    // is dead.
    let removed = store.dotlocks.remove_dead(|_| false);
    let removed = removed.and_then(|()| disk.sync_directory(&config.mail_dir));
    removed.map_err(|e| named(&config.mail_dir, "see mailslot check", e))?;
    let (mut journal, mut examined) = (None, HashMap::new());
    for (empty, owner) in found.empty {
        if journal.is_none() && empty.segment() == config.journal_segment {
            journal = Some(empty);
        } else if empty.segment() == config.journal_segment || empty.segment() == 0 {
            // One journal is enough, and a journal that was never filled is of no use. A journal of
            // another size is for the next process of its kind.
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
    contents.note_orphans();
    let (contents, counters) = (contents.clone(), counters.clone());
    let age = config.checkpoint_age;
    let mut committer = Committer::new(store, contents, identity, counters, journal, age)?;
    committer.examined = examined;
    let until = Instant::now() + config.lock_timeout;
    let recovered = committer.recover(found.orphans, until, config.on_recovery_progress);
    recovered.map_err(|e| named(spool, fix, e))?;
    if let Err(e) = committer.checkpoint_all() {
        events::journal_failed(None::<&str>, e);
    }
    let removed = committer.remove_dead_locks();
    removed.map_err(|e| named(&config.mail_dir, "see mailslot check", e))?;
    // Now, so that the list counts as settled when the first mail comes.
    committer.journals.update(&**disk, &config.spool).map_err(|e| named(&config.spool, fix, e))?;
    Ok(committer)
}

/// Checks that only this user can write to the spool, because its files are trusted, and that it is
/// not the mail directory.
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
    /// Journals without records, and their last owners. Their locks are stale.
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
    /// program keeps locked. Suspends the mailboxes that could not be finished. Calls `on_progress`
    /// at once, and every few seconds.
    ///
    /// # Errors
    /// The records cannot be read. Nothing was changed.
    pub fn recover(
        &mut self,
        mut orphans: Vec<OrphanedJournal>,
        until: Instant,
        on_progress: fn(),
    ) -> io::Result<()> {
        if orphans.is_empty() {
            return Ok(());
        }
        let mailboxes = list_destinations(&orphans)?;
        on_progress();
        let mut progress = RecoveryProgress { on_progress, reported: Instant::now() };
        for OrphanedJournal { journal, records, owner } in &orphans {
            events::recovery_started(journal.path.display(), records.len());
            self.journal.skip_to(journal.seq());
            owner.iter().for_each(|owner| self.store.dotlocks.mark_dead(owner.clone()));
        }
        // The records may be in memory only. Without this sync a power loss during recovery would
        // leave a message in only those mailboxes that were finished by then.
        let mut unfinished = HashSet::new();
        for (o, OrphanedJournal { journal, .. }) in orphans.iter_mut().enumerate() {
            if let Err(e) = journal.sync() {
                events::recovery_failed(Some(journal.path.display()), None::<&str>, e);
                let its = mailboxes.iter().filter(|(_, mailbox)| mailbox.has_records_in(o));
                unfinished.extend(its.map(|(name, _)| name.clone()));
            }
        }
        // Before any file is created, which is a change of its directory.
        let mut missing = match self.judge_missing(&mut orphans, mailboxes.keys()) {
            Ok(missing) => missing,
            Err(e) => {
                events::recovery_failed(None::<&str>, None::<&str>, e);
                unfinished.extend(mailboxes.keys().cloned());
                BTreeMap::new()
            }
        };
        for (name, mailbox) in &mailboxes {
            if !unfinished.contains(name) {
                let missing = missing.remove(name);
                let redone = self.redo(&mut orphans, name, mailbox, until, missing, &mut progress);
                self.note(name, redone, &mut unfinished);
            }
        }
        // Before the journals go, because without them nothing says that the owner of a lock is
        // dead.
        let swept = self.remove_dead_locks();
        if let Err(e) = swept.and_then(|()| self.store.sync_names(mailboxes.keys())) {
            events::recovery_failed(None::<&str>, None::<&str>, e);
            unfinished.extend(mailboxes.keys().cloned());
        }
        for (o, OrphanedJournal { mut journal, .. }) in orphans.into_iter().enumerate() {
            let finished = !unfinished
                .iter()
                .any(|name| mailboxes.get(name).is_some_and(|m| m.has_records_in(o)));
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
        self.content_spool.note_orphans();
        Ok(())
    }

    /// Returns the time of the last change of the queue's directory, if there is one.
    fn queue_changed(&self) -> Option<ChangeTime> {
        let stat = self.store.disk.lstat(&self.store.directories.queue).ok();
        stat.map(|stat| stat.changed)
    }

    /// Removes a journal if all its records are in their mailboxes. A damaged one is not reset,
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

    /// Recovers the journals of processes that died while this one runs, and removes their locks.
    pub fn recover_orphans(&mut self) -> io::Result<()> {
        let found = take_over_journals(&self.store, &self.spool, &self.identity);
        let until = Instant::now() + ORPHAN_TIMEOUT;
        let recovered = found.and_then(|found| self.recover(found.orphans, until, || ()));
        recovered.inspect_err(|_| self.examined.clear())?;
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
    fn remove_dead_locks(&self) -> io::Result<()> {
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

    /// Returns the verdicts on those of `files` that do not exist. Removes the done marks of
    /// records that were lost with them.
    fn judge_missing<'a>(
        &self,
        orphans: &mut [OrphanedJournal],
        files: impl Iterator<Item = &'a DestinationFile>,
    ) -> io::Result<BTreeMap<DestinationFile, Verdict<RecordNumber>>> {
        let mut verdicts = BTreeMap::new();
        for file in files {
            match self.store.disk.lstat(&self.store.path_of(file)) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    verdicts.insert(file.clone(), Verdict::default());
                }
                // It is met again when the file is locked.
                Err(_) => {}
            }
        }
        let (queue_changed, mut lost) = (self.queue_changed(), Vec::new());
        if verdicts.is_empty() {
            return Ok(verdicts);
        }
        for from in newest_first(orphans) {
            let (journal, record) = record_of(orphans, from);
            if !record.done {
                continue;
            }
            let mut any_lost = false;
            journal.visit(record, |message| {
                for (_, copy) in &message.copies {
                    let Some(verdict) = verdicts.get_mut(&copy.file) else { continue };
                    match is_removed_entry(&copy.file, record, queue_changed) {
                        true => drop(verdict.removed.insert(from)),
                        false => any_lost = true,
                    }
                }
            })?;
            lost.extend(any_lost.then_some(from));
        }
        forget_done(orphans, lost)?;
        Ok(verdicts)
    }

    /// Writes the copies again that are in the journals and missing in the mailbox `name`.
    /// `missing` is the verdict on a mailbox that did not exist before recovery.
    fn redo(
        &mut self,
        orphans: &mut [OrphanedJournal],
        name: &DestinationFile,
        mailbox: &RecordedDestination,
        until: Instant,
        missing: Option<Verdict<RecordNumber>>,
        progress: &mut RecoveryProgress,
    ) -> io::Result<()> {
        let path = self.store.path_of(name);
        let mut locked = self.lock_with_deadline(name, mailbox.owner, until)?;
        progress.report(&path, 0, locked.len);
        let rewritable = locked.reopen_for_writing()?;
        let removed = match missing {
            Some(verdict) => verdict.removed,
            None => {
                let contents = &self.content_spool;
                let verdict = Verdict::on(contents, &locked, &mailbox.records(orphans))?;
                forget_done(orphans, verdict.lost)?;
                verdict.removed
            }
        };
        let MailboxRepair { mut there, mut doubtful, id_max } = rewrite_copies(
            &self.content_spool,
            &mut locked,
            &rewritable,
            &mailbox.records(orphans),
            |from| !removed.contains(from),
            |from| removed.contains(from),
        )?;
        rewritable.sync()?;
        locked.update_missing_newlines()?;
        let missing = doubtful.iter().filter(|copy| !there.contains(&copy.id));
        let missing = missing.map(|copy| (copy.id, *copy)).collect();
        there.extend(find_messages(
            &**locked.file(),
            SoughtMessages { missing, id_max },
            |copy| Ok(self.message_of(orphans, copy)?.content),
            |at| progress.report(locked.path(), at, locked.len),
        )?);
        let known: Vec<_> = doubtful.extract_if(.., |copy| there.contains(&copy.id)).collect();
        if !known.is_empty() {
            // The mark may be on the disk before the file that a reader has put under the name.
            self.store.sync_names([name])?;
            resolve(orphans, &known)?;
        }
        drop(known);
        // The oldest first, each message once.
        doubtful.reverse();
        doubtful.retain(|copy| there.insert(copy.id));
        let mut mailboxes = LockedMailboxes::from([(name.clone(), locked)]);
        let mut missing = &doubtful[..];
        while !missing.is_empty() {
            let messages = self.read_batch(orphans, missing)?;
            let (batch, rest) = missing.split_at(messages.len());
            let messages: Vec<&Message> = messages.iter().collect();
            for done in self.commit(&mut mailboxes, &messages) {
                if !matches!(done, CommitResult::Delivered(_)) {
                    return Err(io::Error::other(format!("not appended: {done:?}")));
                }
            }
            for message in messages {
                events::recovered(&message.id, path.display());
            }
            resolve(orphans, batch)?;
            progress.report(&path, 0, 0);
            missing = rest;
        }
        Ok(())
    }

    /// Reads the messages of the first of `copies`, which are some: as many as belong in a batch.
    fn read_batch(
        &self,
        orphans: &[OrphanedJournal],
        copies: &[DoubtfulCopy<RecordNumber>],
    ) -> io::Result<Vec<Message>> {
        let (mut batch, mut octets) = (Vec::new(), 0);
        let octets_max = BATCH_OCTETS.min(self.journal.segment() / 2);
        for copy in copies.iter().take(MESSAGES_MAX) {
            let message = self.message_of(orphans, copy)?;
            octets += Draft::octets_max(&message);
            if octets > octets_max && !batch.is_empty() {
                break;
            }
            batch.push(message);
        }
        Ok(batch)
    }

    /// Reads the message of a copy from its journal, for the destination of the copy.
    fn message_of(
        &self,
        orphans: &[OrphanedJournal],
        copy: &DoubtfulCopy<RecordNumber>,
    ) -> io::Result<Message> {
        let (journal, record) = record_of(orphans, copy.from);
        let entry = journal.message_with(record, copy.number as usize)?;
        let Some((_, placement)) = entry.copies.first() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        read_message(&self.content_spool, journal, &entry, placement)
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

    /// Repairs a mailbox after a failed sync: writes it again from the journal and syncs it. Does
    /// not wait for its locks.
    ///
    /// # Errors
    /// The sync failed again, or mail is missing that no other program has removed.
    pub(super) fn repair(&mut self, name: &DestinationFile) -> io::Result<TryLock<()>> {
        let (mut records, mut owner) = (Vec::new(), None);
        for record in self.journal.read()? {
            let messages = self.journal.messages_for(&record, name)?;
            if let Some(copy) = messages.first().and_then(|m| m.placements().next()) {
                if records.is_empty() {
                    owner = copy.to.owner();
                }
                records.push(record);
            }
        }
        let queue_changed = self.queue_changed();
        let mut locked = match self.store.try_lock(name, owner, None) {
            Ok(TryLock::Acquired(locked)) => locked,
            Ok(TryLock::Contended(holder)) => return Ok(TryLock::Contended(holder)),
            Ok(TryLock::HeldByMailslot(holder)) => return Ok(TryLock::HeldByMailslot(holder)),
            Err(fault) => return Err(io::Error::other(fault.text())),
        };
        let rewritable = locked.reopen_for_writing()?;
        records.retain(|record| !self.journal.has_failed(record));
        let newest = records.iter().enumerate().rev();
        let newest: Vec<_> = newest.map(|(r, record)| (r, &self.journal, record)).collect();
        let is_relayed = |from: &usize| {
            let record = records.get(*from);
            locked.is_created()
                && record.is_some_and(|record| is_removed_entry(name, record, queue_changed))
        };
        if !Verdict::on(&self.content_spool, &locked, &newest)?.lost.iter().all(is_relayed) {
            return Err(io::Error::other("mail is missing that was written to it"));
        }
        // The writes below make the mailbox newer than its records.
        for record in &mut records {
            self.journal.forget_done(record)?;
        }
        let newest = records.iter().enumerate().rev();
        let newest: Vec<_> = newest.map(|(r, record)| (r, &self.journal, record)).collect();
        // A message that a mail reader removed or moved since then is left alone.
        rewrite_copies(
            &self.content_spool,
            &mut locked,
            &rewritable,
            &newest,
            |_| false,
            |r| records.get(*r).is_some_and(|record| record.done),
        )?;
        rewritable.sync()?;
        self.store.sync_names([name])?;
        Ok(TryLock::Acquired(()))
    }
}

/// Numbers of a journal and of a record in it.
type RecordNumber = (u32, u32);

/// Destination of copies in the journals.
struct RecordedDestination {
    owner: Option<Owner>,
    /// Records with copies for it, the newest first.
    numbers: Vec<RecordNumber>,
}

impl RecordedDestination {
    /// True if a record of journal `o` has copies for it.
    fn has_records_in(&self, o: usize) -> bool {
        self.numbers.iter().any(|(journal, _)| *journal as usize == o)
    }

    /// Returns its records with their numbers and journals, the newest first.
    fn records<'a>(
        &self,
        orphans: &'a [OrphanedJournal],
    ) -> Vec<(RecordNumber, &'a Journal, &'a Record)> {
        let records = self.numbers.iter().map(|from| {
            let (journal, record) = record_of(orphans, *from);
            (*from, journal, record)
        });
        records.collect()
    }
}

fn record_of(orphans: &[OrphanedJournal], (o, r): RecordNumber) -> (&Journal, &Record) {
    let OrphanedJournal { journal, records, .. } = &orphans[o as usize];
    (journal, &records[r as usize])
}

/// Returns the numbers of the records of all journals, the newest first.
fn newest_first(orphans: &[OrphanedJournal]) -> Vec<RecordNumber> {
    let mut newest = Vec::new();
    for (o, orphan) in orphans.iter().enumerate() {
        newest.extend((0..orphan.records.len()).map(|r| (o as u32, r as u32)));
    }
    newest.sort_by_key(|from| std::cmp::Reverse(record_of(orphans, *from).1.seq));
    newest
}

/// Returns the destinations of all copies that are not resolved, aborted ones included.
fn list_destinations(
    orphans: &[OrphanedJournal],
) -> io::Result<BTreeMap<DestinationFile, RecordedDestination>> {
    let mut destinations: BTreeMap<DestinationFile, RecordedDestination> = BTreeMap::new();
    for from in newest_first(orphans) {
        let (journal, record) = record_of(orphans, from);
        journal.visit(record, |message| {
            for copy in message.placements() {
                match destinations.entry(copy.file.clone()) {
                    Entry::Vacant(entry) => {
                        let (owner, numbers) = (copy.to.owner(), vec![from]);
                        entry.insert(RecordedDestination { owner, numbers });
                    }
                    Entry::Occupied(mut entry) => {
                        let numbers = &mut entry.get_mut().numbers;
                        if numbers.last() != Some(&from) {
                            numbers.push(from);
                        }
                    }
                }
            }
        })?;
    }
    Ok(destinations)
}

/// Marks copies as resolved, with one write for each record. The marks are not synced.
fn resolve(
    orphans: &mut [OrphanedJournal],
    copies: &[DoubtfulCopy<RecordNumber>],
) -> io::Result<()> {
    // The copies of a record follow one another, if no partial one is among them.
    for copies in copies.chunk_by(|a, b| a.from == b.from) {
        let Some(DoubtfulCopy { from: (o, r), .. }) = copies.first() else { continue };
        let OrphanedJournal { journal, records, .. } = &mut orphans[*o as usize];
        let numbers: Vec<usize> = copies.iter().map(|copy| copy.number as usize).collect();
        journal.resolve(&mut records[*r as usize], &numbers)?;
    }
    Ok(())
}

/// Removes the done marks of records with lost copies, and syncs that. Otherwise the changes
/// that recovery makes would be taken for those of another program after the next crash.
fn forget_done(orphans: &mut [OrphanedJournal], lost: Vec<RecordNumber>) -> io::Result<()> {
    let mut journals = BTreeSet::new();
    for (o, r) in lost {
        let OrphanedJournal { journal, records, .. } = &mut orphans[o as usize];
        journal.forget_done(&mut records[r as usize])?;
        journals.insert(o as usize);
    }
    journals.into_iter().try_for_each(|o| orphans[o].journal.sync())
}

/// Reporter of a recovery that takes long.
struct RecoveryProgress {
    on_progress: fn(),
    /// Time of the last report.
    reported: Instant,
}

impl RecoveryProgress {
    /// Reports every few seconds that `searched` of the `size` bytes of a mailbox are searched.
    fn report(&mut self, path: &Path, searched: u64, size: u64) {
        if self.reported.elapsed() >= PROGRESS_INTERVAL {
            self.reported = Instant::now();
            (self.on_progress)();
            events::recovery_progress(path.display(), searched, size);
        }
    }
}

/// Bytes that the messages of a batch may take in the journal, unless it is one message.
const BATCH_OCTETS: u64 = 1 << 20;
/// Time to wait for locked mailboxes while the mail for all others waits too.
const ORPHAN_TIMEOUT: Duration = Duration::from_millis(200);
/// Interval between two reports of a recovery that takes long.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Interval between two attempts at a lock.
const LOCK_RETRY: Duration = Duration::from_millis(10);
