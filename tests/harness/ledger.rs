//! The ledger: which messages were sent, what was answered, and whether the mailboxes agree.
//!
//! The rule that [`Ledger::check`] checks: a message that was accepted is whole in each of its
//! mailboxes, once; one that has lost its answer is in all of them or in none; nothing else is
//! there, and nothing is torn. Until the next crash a message that was refused is in none
//! ([`Ledger::check_refused`]). Mail readers may meanwhile take messages out; the ledger records
//! what they do.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use mailslot::deliver::Outcome;

use super::client::Client;
use super::directory::TestDirectory;
use super::message::{LARGE, TestMessage};
use super::sim_disk::SimMachine;
use super::sim_writer::{SimWriter, path};

/// An answer to a message: a reply code, or the writer's outcome.
pub trait Answer: Clone + Debug + PartialEq {
    fn is_accepted(&self) -> bool;
}

impl Answer for u16 {
    fn is_accepted(&self) -> bool {
        *self == 250
    }
}

impl Answer for Outcome {
    fn is_accepted(&self) -> bool {
        *self == Outcome::Delivered
    }
}

/// Something that takes messages and answers.
pub trait Submit {
    type Answer: Answer;

    /// Returns the answer, or None if the server was gone before it gave one.
    fn submit(&self, message: &TestMessage) -> Option<Self::Answer>;
}

/// Over a connection of its own.
impl Submit for SocketAddr {
    type Answer = u16;

    fn submit(&self, message: &TestMessage) -> Option<u16> {
        Client::open(*self).ok()?.submit_for_code(message)
    }
}

impl Submit for SimWriter {
    type Answer = Outcome;

    fn submit(&self, message: &TestMessage) -> Option<Outcome> {
        self.deliver(message)
    }
}

/// Mailboxes that can be read.
pub trait Mailboxes {
    /// Returns the bytes of a mailbox, none if it does not exist.
    fn bytes(&self, name: &str) -> Vec<u8>;
}

impl Mailboxes for TestDirectory {
    fn bytes(&self, name: &str) -> Vec<u8> {
        self.mailbox_bytes(name)
    }
}

impl Mailboxes for SimMachine {
    fn bytes(&self, name: &str) -> Vec<u8> {
        self.read(&path(name)).unwrap_or_default()
    }
}

impl Mailboxes for BTreeMap<String, Vec<u8>> {
    fn bytes(&self, name: &str) -> Vec<u8> {
        self.get(name).cloned().unwrap_or_default()
    }
}

/// Messages and answers.
#[derive(Clone, Debug)]
pub struct Ledger<A> {
    entries: Vec<(TestMessage, Option<A>)>,
    /// Mail of other programs, by mailbox. Each text must be there once.
    others: Vec<(String, String)>,
    /// Text that was torn in a mailbox when another program wrote after it.
    sealed: HashSet<String>,
    /// Copies that may be gone, because a reader emptied or removed the mailbox.
    taken: HashSet<(String, String)>,
    /// Large copies that a reader may have moved. If no other copy is whole, recovery does not look
    /// for one that was moved, and truncates the others.
    moved: HashSet<(String, String)>,
    /// Copies that a reader took out before power was lost, or together with the mailbox. They may
    /// be there again.
    again: HashSet<(String, String)>,
    /// Number of messages that were sent before the last recovery.
    recovered: usize,
}

impl<A> Default for Ledger<A> {
    fn default() -> Ledger<A> {
        Ledger {
            entries: Vec::new(),
            others: Vec::new(),
            sealed: HashSet::new(),
            taken: HashSet::new(),
            moved: HashSet::new(),
            again: HashSet::new(),
            recovered: 0,
        }
    }
}

impl<A: Answer> Ledger<A> {
    /// Creates a ledger of mailboxes that contain these texts already.
    pub fn new(boxes: &[(&str, &str)]) -> Ledger<A> {
        let mut ledger = Ledger::default();
        for (name, text) in boxes {
            ledger.add_others(name, text);
        }
        ledger
    }

    /// Sends a message and records the answer.
    pub fn send(&mut self, server: &impl Submit<Answer = A>, message: TestMessage) -> Option<A> {
        let answer = server.submit(&message);
        self.record(message, answer)
    }

    /// Records the answer to a message.
    pub fn record(&mut self, message: TestMessage, answer: Option<A>) -> Option<A> {
        self.entries.push((message, answer.clone()));
        answer
    }

    /// Returns how many messages were sent.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns how many messages were accepted.
    pub fn accepted(&self) -> usize {
        self.entries.iter().filter(|(_, answer)| is_accepted(answer)).count()
    }

    /// Returns how many messages have no answer.
    pub fn unanswered(&self) -> usize {
        self.entries.iter().filter(|(_, answer)| answer.is_none()).count()
    }

    /// Forgets the messages that were for the mailbox `name` alone.
    pub fn forget(&mut self, name: &str) {
        self.entries.retain(|(message, _)| message.to != [name]);
    }

    /// Returns the names of all mailboxes.
    pub fn mailboxes(&self) -> BTreeSet<String> {
        self.entries.iter().flat_map(|(message, _)| message.to.iter().cloned()).collect()
    }

    /// Returns each message with its answer, for a test that fails.
    pub fn summary(&self) -> String {
        let line = |(message, answer): &(TestMessage, Option<A>)| {
            format!("  {} to {:?}: {answer:?}\n", message.id, message.to)
        };
        self.entries.iter().map(line).collect()
    }

    /// Records that power was lost, or may be from now on.
    pub fn power_lost(&mut self) {
        self.again.extend(self.taken.iter().cloned());
    }

    /// Records that a server has recovered what another has left.
    pub fn recovered(&mut self) {
        let taken = self.taken.iter().filter(|(_, name)| self.is_interrupted(name)).cloned();
        self.again.extend(taken.collect::<Vec<_>>());
        self.recovered = self.entries.len();
    }

    /// True if a message to this mailbox has no answer. The server has perhaps ended in the middle
    /// of its delivery, when it had changed the mailbox and had not recorded the time. So nothing
    /// proves that what is missing was taken out by a reader, and it may be there again.
    fn is_interrupted(&self, name: &str) -> bool {
        let sent = self.entries.get(self.recovered..).unwrap_or_default().iter();
        sent.filter(|(_, answer)| answer.is_none())
            .any(|(message, _)| message.to.iter().any(|to| to == name))
    }

    /// Fails the test unless the mailboxes contain what they must, and nothing of what was refused.
    pub fn assert_matches(&self, mailboxes: &impl Mailboxes) {
        if let Err(e) = self.check(mailboxes).and_then(|()| self.check_refused(mailboxes)) {
            panic!("{e}\n{}", self.summary());
        }
    }

    /// Checks that every mailbox contains what it must and nothing else.
    pub fn check(&self, mailboxes: &impl Mailboxes) -> Result<(), String> {
        let first = self.mismatches(mailboxes).into_iter().next();
        first.map_or(Ok(()), |mismatch| Err(mismatch.text))
    }

    /// Returns all differences between the mailboxes and what they must contain.
    pub fn mismatches(&self, mailboxes: &impl Mailboxes) -> Vec<Mismatch> {
        let messages: HashMap<&str, &TestMessage> =
            self.entries.iter().map(|(message, _)| (message.id.as_str(), message)).collect();
        assert_eq!(messages.len(), self.entries.len(), "ids differ");
        let mut names = self.mailboxes();
        names.extend(self.others.iter().map(|(name, _)| name.clone()));
        let mut found = HashMap::new();
        let mut mismatches = Vec::new();
        for name in &names {
            let bytes = mailboxes.bytes(name);
            mismatches.extend(self.check_mailbox(name, &bytes, &messages, &mut found));
        }
        for (message, answer) in &self.entries {
            mismatches.extend(self.check_message(message, is_accepted(answer), &found).err());
        }
        mismatches
    }

    /// Checks that one mailbox contains nothing but whole messages, and counts these in `found`.
    fn check_mailbox(
        &self,
        name: &str,
        bytes: &[u8],
        messages: &HashMap<&str, &TestMessage>,
        found: &mut HashMap<(String, String), usize>,
    ) -> Vec<Mismatch> {
        let mut mismatches = Vec::new();
        let mut others: Vec<&String> =
            self.others.iter().filter(|(n, _)| n == name).map(|(_, text)| text).collect();
        let text = String::from_utf8_lossy(bytes);
        let parts = split(&text);
        for part in &parts {
            // A whole message may be followed by a torn one without a From_ line between them, and
            // the torn one may have been completed since. Or it may be followed by zeros.
            let is_sealed = |rest: &str| {
                // They may have taken the place of its last newline alone.
                if rest.strip_prefix('\n').unwrap_or(rest).starts_with('\0') {
                    return self.sealed.contains(*part);
                }
                let rest = rest.strip_prefix("\n\n");
                rest.is_some_and(|rest| self.sealed.iter().any(|torn| torn.ends_with(rest)))
            };
            let is_whole = |length: usize| length == part.len() || is_sealed(&part[length..]);
            let message = id_of(part).and_then(|id| messages.get(id));
            let length = message.and_then(|message| message.copy_length(part, name));
            let other = |text: &&String| part.starts_with(text.as_str()) && is_whole(text.len());
            if let Some(message) = message.filter(|_| length.is_some_and(is_whole)) {
                *found.entry((message.id.clone(), name.to_owned())).or_default() += 1;
            } else if let Some(at) = others.iter().position(other) {
                others.remove(at);
            } else if !self.sealed.contains(*part) {
                let text = format!("{name}: torn, {} bytes: {}", part.len(), shorten(part));
                mismatches.push(Mismatch { kind: MismatchKind::Torn, text });
            }
        }
        if let Some(lost) = others.first() {
            let text = format!("{name}: mail of another program is gone: {}", shorten(lost));
            mismatches.push(Mismatch { kind: MismatchKind::Missing, text });
        }
        let last = parts.last().and_then(|part| id_of(part));
        if !text.ends_with("\n\n") && last.is_some_and(|id| messages.contains_key(id)) {
            let text = format!("{name}: no empty line at its end");
            mismatches.push(Mismatch { kind: MismatchKind::Torn, text });
        }
        mismatches
    }

    /// Checks that the copies that were found of a message are those that it must have.
    fn check_message(
        &self,
        message: &TestMessage,
        accepted: bool,
        found: &HashMap<(String, String), usize>,
    ) -> Result<(), Mismatch> {
        let id = &message.id;
        let mismatch = |kind, text| Err(Mismatch { kind, text });
        let mut counts = Vec::new();
        for name in &message.to {
            let key = (id.clone(), name.clone());
            let count = found.get(&key).copied().unwrap_or_default();
            let taken = self.taken.contains(&key);
            match count {
                0 if accepted && !taken => {
                    let text = format!("{id}: accepted, and not in {name}");
                    return mismatch(MismatchKind::Missing, text);
                }
                0 | 1 => {}
                n => {
                    let text = format!("{id}: {n} times in {name}");
                    return mismatch(MismatchKind::Repeated, text);
                }
            }
            let again = self.again.contains(&key) || self.is_interrupted(name);
            if accepted && taken && count > 0 && !again {
                let text = format!("{id}: a reader took it out of {name}, and it is back");
                return mismatch(MismatchKind::Repeated, text);
            }
            if !taken && (accepted || !self.moved.contains(&key)) {
                counts.push(count);
            }
        }
        if counts.iter().any(|n| *n != counts[0]) {
            let text = format!("{id}: in some of its mailboxes only: {counts:?}");
            return mismatch(MismatchKind::Partial, text);
        }
        Ok(())
    }

    /// Checks that messages that were refused are in no mailbox. True only until the next crash.
    pub fn check_refused(&self, mailboxes: &impl Mailboxes) -> Result<(), String> {
        let refused = |answer: &Option<A>| answer.is_some() && !is_accepted(answer);
        self.check_presence(mailboxes, refused, false)
    }

    /// Checks that messages that were accepted are in their mailboxes. Others may be there too.
    pub fn check_accepted(&self, mailboxes: &impl Mailboxes) -> Result<(), String> {
        self.check_presence(mailboxes, is_accepted, true)
    }

    fn check_presence(
        &self,
        mailboxes: &impl Mailboxes,
        which: impl Fn(&Option<A>) -> bool,
        expected: bool,
    ) -> Result<(), String> {
        for (message, answer) in self.entries.iter().filter(|(_, answer)| which(answer)) {
            for name in &message.to {
                let bytes = mailboxes.bytes(name);
                let text = String::from_utf8_lossy(&bytes);
                let is_copy = |part: &&str| message.copy_length(part, name) == Some(part.len());
                if split(&text).iter().any(is_copy) != expected {
                    let not = if expected { " not" } else { "" };
                    return Err(format!("{} is{not} in {name}: {answer:?}", message.id));
                }
            }
        }
        Ok(())
    }

    pub fn add_others(&mut self, name: &str, text: &str) {
        self.others.extend(split(text).into_iter().map(|part| (name.to_owned(), part.to_owned())));
    }

    /// Records that what is torn now stays torn, because another program writes after it.
    fn seal(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        self.sealed.extend(split(&text).into_iter().map(str::to_owned));
    }
}

impl Ledger<u16> {
    /// Sends a message that must be accepted, within 10 s.
    pub fn deliver(&mut self, address: SocketAddr, message: TestMessage) {
        let (began, id) = (Instant::now(), message.id.clone());
        assert_eq!(self.send(&address, message), Some(250), "{id}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(10), "{id} took {took:?}");
    }

    /// After a crash: starts a server in `directory`, delivers one more message to each mailbox,
    /// checks the mailboxes, stops the server, and looks for files that were left.
    pub fn assert_recovers(mut self, directory: &TestDirectory, context: &str) {
        let _context = ShowOnFailure(context);
        let server = directory.start(&["--threads", "2"]);
        for name in self.mailboxes() {
            let message = TestMessage::new(format!("after-{name}"), &[&name], 500);
            self.deliver(server.address, message);
        }
        self.assert_matches(directory);
        let (log, status) = server.stop();
        assert_eq!(status.code(), Some(0), "{log:#?}");
        self.assert_matches(directory);
        directory.assert_clean(&self.mailboxes());
        directory.clear();
    }
}

/// Prints what was being tried when a test fails.
struct ShowOnFailure<'a>(&'a str);

impl Drop for ShowOnFailure<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

impl Ledger<Outcome> {
    /// Sends messages, each by a thread of its own.
    pub fn send_together(
        &mut self,
        writer: &SimWriter,
        messages: Vec<TestMessage>,
    ) -> Vec<Option<Outcome>> {
        let threads: Vec<_> = messages
            .into_iter()
            .map(|message| {
                let writer = writer.clone();
                thread::spawn(move || {
                    let outcome = writer.deliver(&message);
                    (message, outcome)
                })
            })
            .collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.map(|(message, outcome)| self.record(message, outcome)).collect()
    }

    /// Has another program append `text`, which begins on a line of its own.
    pub fn foreign_append(&mut self, machine: &SimMachine, name: &str, text: &str) {
        let before = machine.bytes(name);
        self.seal(&before);
        let ends = match before.as_slice() {
            [] | [.., b'\n', b'\n'] => "",
            [.., b'\n'] => "\n",
            _ => "\n\n",
        };
        machine.append(&path(name), format!("{ends}{text}").as_bytes());
        self.add_others(name, text);
    }

    /// Has a reader take out all messages and write `text` instead.
    pub fn foreign_rewrite(
        &mut self,
        machine: &SimMachine,
        name: &str,
        text: Option<&str>,
        how: Rewrite,
    ) {
        self.others.retain(|(n, _)| n != name);
        for (message, _) in &self.entries {
            self.taken.insert((message.id.clone(), name.to_owned()));
        }
        let text = text.unwrap_or_default();
        match how {
            Rewrite::InPlace => machine.rewrite(&path(name), text.as_bytes()),
            Rewrite::Rename => machine.replace(&path(name), text.as_bytes()),
            Rewrite::Remove => machine.remove(&path(name)),
        }
        match how {
            // Nothing proves that a mailbox that is missing was not lost by the disk.
            Rewrite::Remove => self.unproved(name),
            Rewrite::InPlace | Rewrite::Rename => self.add_others(name, text),
        }
    }

    /// Records that nothing proves that a reader took copies out of a mailbox, so that they may be
    /// delivered again.
    pub fn unproved(&mut self, name: &str) {
        self.again.extend(self.taken.iter().filter(|(_, from)| from == name).cloned());
    }

    /// Has a reader take out the messages for which `out` returns true, and move the others up.
    pub fn foreign_expunge(
        &mut self,
        machine: &SimMachine,
        name: &str,
        mut out: impl FnMut() -> bool,
    ) {
        let Some(bytes) = machine.read(&path(name)) else { return };
        self.seal(&bytes);
        let large = self.entries.iter().filter(|(message, _)| message.stored().len() >= LARGE);
        self.moved.extend(large.map(|(message, _)| (message.id.clone(), name.to_owned())));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut kept = String::new();
        for part in split(&text) {
            let is_copy = |message: &TestMessage| {
                message.copy_length(part, name).is_some_and(|length| length == part.len())
            };
            let other = (name.to_owned(), part.to_owned());
            let message = self.entries.iter().map(|(message, _)| message).find(|m| is_copy(m));
            if (message.is_some() || self.others.contains(&other)) && out() {
                if let Some(message) = message {
                    self.taken.insert((message.id.clone(), name.to_owned()));
                }
                self.others.retain(|known| *known != other);
            } else {
                kept += &format!("{part}\n\n");
            }
        }
        machine.rewrite(&path(name), kept.as_bytes());
    }
}

/// Difference between what a mailbox contains and what it must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub kind: MismatchKind,
    pub text: String,
}

/// Kind of a [`Mismatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MismatchKind {
    /// A message was accepted, and is not in the mailbox.
    Missing,
    /// The mailbox contains a part of a message, or something unknown.
    Torn,
    /// A message is in the mailbox twice, or again.
    Repeated,
    /// A message without a reply is in some of its mailboxes, and not in others.
    Partial,
}

/// Way in which a reader writes a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    InPlace,
    Rename,
    Remove,
}

fn is_accepted<A: Answer>(answer: &Option<A>) -> bool {
    answer.as_ref().is_some_and(Answer::is_accepted)
}

/// Splits a mailbox, torn or not, into messages without the line ends at their end.
fn split(text: &str) -> Vec<&str> {
    let text = text.trim_end_matches('\n');
    let starts = text.match_indices("\n\nFrom ").map(|(at, _)| at + 2);
    let starts: Vec<usize> = [0].into_iter().chain(starts).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let parts = starts.iter().zip(ends).map(|(&from, to)| text[from..to].trim_end_matches('\n'));
    parts.filter(|part| !part.is_empty()).collect()
}

/// Returns the id of a message, which is its Subject.
fn id_of(part: &str) -> Option<&str> {
    part.split_once("\nSubject: ")?.1.split_once('\n').map(|(id, _)| id)
}

/// Returns the beginning and the end of a text.
fn shorten(text: &str) -> String {
    let head: String = text.chars().take(300).collect();
    let tail: String = text.chars().rev().take(80).collect::<Vec<_>>().into_iter().rev().collect();
    format!("{head:?} ... {tail:?}")
}
