//! Who sent what, what was answered, and whether the mailboxes of a simulated disk agree.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mailslot::deliver::{
    DeferReason, DeliveryConfig, Locks, Outcome, WriterHandle, WriterThread, start_on,
};
use mailslot::message::{Content, Destination, MailboxName, Message, QueueId, UserMailbox};
use mailslot::observe::counters::Counters;

use crate::harness::sim_disk::{SimDisk, World};

pub const MAIL: &str = "/mail";
const QUEUE: &str = "/spool/queue";
/// A real folder too: large contents that recovery copies wait there, in files without a name.
pub const SPOOL: &str = "/tmp";
/// A content that does not go into the journal, in these tests, and is written in two pieces.
pub const LARGE: usize = 70_000;
/// Two or four records fill it.
pub const HALF: u64 = 32 * 1024;

/// Two folders, and the mail that is there already.
pub fn world(boxes: &[(&str, &str)]) -> World {
    let world = World::new(&[MAIL, SPOOL, QUEUE]);
    for (name, text) in boxes {
        world.rewrite(&path(name), text.as_bytes());
    }
    world.sync_all();
    world
}

/// The path of a mailbox, or of an entry of the queue.
pub fn path(name: &str) -> String {
    let folder = if name.starts_with("queue/") { SPOOL } else { MAIL };
    format!("{folder}/{name}")
}

pub fn settings() -> DeliveryConfig {
    DeliveryConfig {
        mail_dir: MAIL.into(),
        spool: PathBuf::from(SPOOL),
        locks: Locks::ALL,
        lock_timeout: Duration::from_secs(5),
        mailbox_limit: None,
        queue: 32,
        journal_segment: HALF,
        ..DeliveryConfig::default()
    }
}

/// A server on a simulated disk. Clones are the same one.
#[derive(Clone)]
pub struct Server {
    pub disk: SimDisk,
    pub post: WriterHandle,
    pub counters: Arc<Counters>,
    writer: Arc<Mutex<Option<WriterThread>>>,
}

impl Server {
    pub fn start(disk: &SimDisk) -> std::io::Result<Server> {
        Server::start_with(disk, settings())
    }

    pub fn start_with(disk: &SimDisk, settings: DeliveryConfig) -> std::io::Result<Server> {
        let counters = Arc::new(Counters::default());
        let (post, writer) = start_on(Arc::new(disk.clone()), settings, counters.clone())?;
        let writer = Arc::new(Mutex::new(Some(writer)));
        Ok(Server { disk: disk.clone(), post, counters, writer })
    }

    /// None: the process was dead by the time of the answer, and nobody has heard it.
    pub fn deliver(&self, letter: &Letter) -> Option<Outcome> {
        let outcome = self.post.deliver(letter.message(), PATIENCE);
        Some(outcome).filter(|_| !self.disk.is_dead())
    }

    pub fn stop(self) {
        self.writer.lock().unwrap().take().unwrap().stop();
    }
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Letter {
    pub id: String,
    pub to: Vec<&'static str>,
    content: String,
    large: bool,
}

impl Letter {
    pub fn new(id: &str, to: &[&'static str], octets: usize) -> Letter {
        let mut content = format!("Received: by here id {id}; then\nSubject: {id}\n\n");
        while content.len() < octets {
            content += &format!("line of {id} at {}\n", content.len());
        }
        let large = octets >= LARGE;
        Letter { id: id.into(), to: to.to_vec(), content, large }
    }

    fn message(&self) -> Message {
        let content = if self.large {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(self.content.as_bytes()).unwrap();
            Content::File(file.into(), self.content.len() as u64)
        } else {
            Content::Memory(self.content.clone().into_bytes().into())
        };
        let to = self.to.iter().map(|name| match name.strip_prefix("queue/") {
            Some(id) => Destination::Queue {
                id: QueueId::new(id).unwrap(),
                envelope: format!("{name}@example.org"),
            },
            None => Destination::Mailbox(UserMailbox {
                name: MailboxName::new(name).unwrap(),
                owner: None,
                delivered_to: format!("{name}@example.org"),
            }),
        });
        Message { id: self.id.clone(), head: HEAD.into(), content, to: to.collect() }
    }

    /// The copy in `name`, without the line ends at its end.
    fn copy(&self, name: &str) -> String {
        let field = if name.starts_with("queue/") { "Mailslot-Queue" } else { "Delivered-To" };
        let copy = format!("{HEAD}{field}: {name}@example.org\n{}", self.content);
        copy.trim_end_matches('\n').to_owned()
    }
}

const HEAD: &str = "From s@example.org Thu Jan  1 00:00:00 1970\nReturn-Path: <s@example.org>\n";

/// What was sent, and what the mailboxes held before.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    letters: Vec<(Letter, Option<Outcome>)>,
    /// Other mail, by mailbox: each text must stand there once.
    others: Vec<(String, String)>,
    /// What stood in a mailbox torn when some other program wrote behind it.
    sealed: HashSet<String>,
    /// Copies that may be gone: a reader emptied or removed the mailbox.
    taken: HashSet<(String, String)>,
    /// Large copies that a reader may have moved. Where no other is whole, recovery does not look
    /// for one that moved, and cuts the others off.
    moved: HashSet<(String, String)>,
    /// Copies that a reader took out before power was lost: they may be there again.
    again: HashSet<(String, String)>,
}

impl Ledger {
    pub fn new(boxes: &[(&str, &str)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (name, text) in boxes {
            for part in split(text) {
                ledger.others.push((name.to_string(), part));
            }
        }
        ledger
    }

    /// Sends one letter and notes its outcome.
    pub fn send(&mut self, server: &Server, letter: Letter) -> Outcome {
        let outcome = server.deliver(&letter);
        self.letters.push((letter, outcome));
        outcome.unwrap_or(Outcome::Deferred(DeferReason::Io))
    }

    /// Sends letters all at once.
    pub fn send_together(&mut self, server: &Server, letters: Vec<Letter>) -> Vec<Outcome> {
        let threads: Vec<_> = letters
            .into_iter()
            .map(|letter| {
                let server = server.clone();
                thread::spawn(move || {
                    let outcome = server.deliver(&letter);
                    (letter, outcome)
                })
            })
            .collect();
        let mut outcomes = Vec::new();
        for thread in threads {
            let (letter, outcome) = thread.join().unwrap();
            outcomes.push(outcome.unwrap_or(Outcome::Deferred(DeferReason::Io)));
            self.letters.push((letter, outcome));
        }
        outcomes
    }

    /// What was answered to whom, for a failing test.
    pub fn summary(&self) -> String {
        let line = |(letter, outcome): &(Letter, Option<Outcome>)| {
            format!("  {} to {:?}: {outcome:?}\n", letter.id, letter.to)
        };
        self.letters.iter().map(line).collect()
    }

    /// How many letters were answered with `Delivered`.
    pub fn delivered(&self) -> usize {
        self.letters.iter().filter(|(_, o)| *o == Some(Outcome::Delivered)).count()
    }

    /// Power was lost, or may be from now on.
    pub fn power_lost(&mut self) {
        self.again.extend(self.taken.iter().cloned());
    }

    /// Some other program, careful enough to begin on a line of its own, appends.
    pub fn foreign_append(&mut self, world: &World, name: &str, text: &str) {
        let before = world.read(&path(name)).unwrap_or_default();
        self.seal(&before);
        let ends = match before.as_slice() {
            [] | [.., b'\n', b'\n'] => "",
            [.., b'\n'] => "\n",
            _ => "\n\n",
        };
        world.append(&path(name), format!("{ends}{text}").as_bytes());
        self.others.extend(split(text).into_iter().map(|part| (name.to_owned(), part)));
    }

    /// A reader takes out everything, and writes `text` instead.
    pub fn foreign_rewrite(&mut self, world: &World, name: &str, text: Option<&str>, how: Rewrite) {
        self.others.retain(|(n, _)| n != name);
        for (letter, _) in &self.letters {
            self.taken.insert((letter.id.clone(), name.to_owned()));
        }
        let text = text.unwrap_or_default();
        match how {
            Rewrite::InPlace => world.rewrite(&path(name), text.as_bytes()),
            Rewrite::Rename => world.replace(&path(name), text.as_bytes()),
            Rewrite::Remove => world.remove(&path(name)),
        }
        if how != Rewrite::Remove {
            self.others.extend(split(text).into_iter().map(|part| (name.to_owned(), part)));
        }
    }

    /// A reader takes out the messages for which `out` says so, and moves the others up.
    pub fn foreign_expunge(&mut self, world: &World, name: &str, mut out: impl FnMut() -> bool) {
        let Some(bytes) = world.read(&path(name)) else { return };
        self.seal(&bytes);
        let large = self.letters.iter().filter(|(letter, _)| letter.large);
        self.moved.extend(large.map(|(letter, _)| (letter.id.clone(), name.to_owned())));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let mut kept = String::new();
        for part in split(&text) {
            let whole = self.others.iter().any(|(n, p)| (n.as_str(), p) == (name, &part))
                || self.letters.iter().any(|(letter, _)| letter.copy(name) == part);
            if whole && out() {
                self.others.retain(|(n, p)| (n.as_str(), p) != (name, &part));
                for (letter, _) in &self.letters {
                    if letter.copy(name) == part {
                        self.taken.insert((letter.id.clone(), name.to_owned()));
                    }
                }
            } else {
                kept += &format!("{part}\n\n");
            }
        }
        world.rewrite(&path(name), kept.as_bytes());
    }

    /// What is torn now is not ours to mend once somebody else has written behind it.
    fn seal(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        self.sealed.extend(split(&text));
    }

    /// Whether every mailbox holds what it must and nothing else.
    pub fn check(&self, world: &World) -> Result<(), String> {
        let mut names: Vec<String> =
            self.letters.iter().flat_map(|(l, _)| &l.to).map(|n| n.to_string()).collect();
        names.extend(self.others.iter().map(|(n, _)| n.clone()));
        names.sort();
        names.dedup();
        let mut found: BTreeMap<(String, String), usize> = BTreeMap::new();
        let letters: HashMap<&str, &Letter> =
            self.letters.iter().map(|(letter, _)| (letter.id.as_str(), letter)).collect();
        for name in &names {
            let mut others: Vec<&String> =
                self.others.iter().filter(|(n, _)| n == name).map(|(_, text)| text).collect();
            let bytes = world.read(&path(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            for part in split(&text) {
                let sealed = self.sealed.contains(&part);
                // A whole one may stand before what is torn, with no From_ line between, and may
                // have been completed since.
                let begins = |copy: &String| {
                    let rest = part.strip_prefix(&format!("{copy}\n\n"));
                    rest.is_some_and(|rest| self.sealed.iter().any(|s| s.ends_with(rest)))
                };
                let letter = id_of(&part).and_then(|id| letters.get(id));
                let copy = letter.map(|letter| letter.copy(name));
                let whole = copy.is_some_and(|copy| copy == part || begins(&copy));
                let whole = letter.filter(|_| whole).map(|letter| &letter.id);
                if let Some(id) = whole {
                    *found.entry((id.to_string(), name.clone())).or_default() += 1;
                } else if let Some(at) = others.iter().position(|o| **o == part || begins(o)) {
                    others.remove(at);
                } else if !sealed {
                    let copy = letter.map(|letter| letter.copy(name)).unwrap_or_default();
                    let same = part.bytes().zip(copy.bytes()).take_while(|(a, b)| a == b).count();
                    return Err(format!(
                        "{name}: torn, {} octets, the first {same} as they must be of {}: {}\n{}",
                        part.len(),
                        copy.len(),
                        short(&part),
                        self.summary()
                    ));
                }
            }
            if let Some(lost) = others.first() {
                return Err(format!("{name}: other mail is gone: {}", short(lost)));
            }
            let ours = |part: String| id_of(&part).is_some_and(|id| letters.contains_key(id));
            if !text.is_empty() && !text.ends_with("\n\n") && ours(last(&text)) {
                return Err(format!("{name}: no empty line at its end"));
            }
        }
        for (letter, outcome) in &self.letters {
            let acknowledged = *outcome == Some(Outcome::Delivered);
            let mut counts = Vec::new();
            for name in &letter.to {
                let key = (letter.id.clone(), name.to_string());
                let count = found.get(&key).copied().unwrap_or_default();
                let (taken, id) = (self.taken.contains(&key), &letter.id);
                match count {
                    0 if acknowledged && !taken => {
                        return Err(format!("{id}: acknowledged, and not in {name}"));
                    }
                    0 | 1 => {}
                    n => return Err(format!("{id}: {n} times in {name}")),
                }
                if acknowledged && taken && count > 0 && !self.again.contains(&key) {
                    return Err(format!("{id}: a reader took it out of {name}, and it is back"));
                }
                if !taken && (acknowledged || !self.moved.contains(&key)) {
                    counts.push(count);
                }
            }
            if counts.iter().any(|n| *n != counts[0]) {
                return Err(format!("{}: in some mailboxes only: {counts:?}", letter.id));
            }
        }
        Ok(())
    }

    /// Whether what was refused is in no mailbox. True only until the next crash.
    pub fn check_refused(&self, world: &World) -> Result<(), String> {
        self.check_each(world, |outcome| *outcome != Some(Outcome::Delivered), false)
    }

    /// Whether what was delivered is in its mailboxes, whatever else may be there.
    pub fn check_contains(&self, world: &World) -> Result<(), String> {
        self.check_each(world, |outcome| *outcome == Some(Outcome::Delivered), true)
    }

    fn check_each(
        &self,
        world: &World,
        which: impl Fn(&Option<Outcome>) -> bool,
        there: bool,
    ) -> Result<(), String> {
        for (letter, outcome) in self.letters.iter().filter(|(_, outcome)| which(outcome)) {
            for name in &letter.to {
                let bytes = world.read(&path(name)).unwrap_or_default();
                if split(&String::from_utf8_lossy(&bytes)).contains(&letter.copy(name)) != there {
                    return Err(format!(
                        "{} is{} in {name}: {outcome:?}",
                        letter.id,
                        if there { " not" } else { "" }
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether nothing lies about but mailboxes and one journal.
    pub fn check_folders(&self, world: &World) -> Result<(), String> {
        let spool = world.names(SPOOL);
        if spool.len() != 1 || !spool[0].starts_with("journal-") {
            return Err(format!("in the spool: {spool:?}"));
        }
        let mail = world.names(MAIL);
        match mail.iter().find(|n| n.starts_with('.') || n.ends_with(".lock")) {
            Some(left) => Err(format!("left in the mail folder: {left}")),
            None => Ok(()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    InPlace,
    Rename,
    Remove,
}

/// The messages of a mailbox, each without the line ends behind it.
fn split(text: &str) -> Vec<String> {
    let text = text.trim_end_matches('\n');
    let parts = text.split("\n\nFrom ").enumerate();
    let parts = parts.map(|(i, part)| match i {
        0 => part.to_owned(),
        _ => format!("From {part}"),
    });
    parts.map(|p| p.trim_end_matches('\n').to_owned()).filter(|p| !p.is_empty()).collect()
}

/// The id in the Received line of a message.
fn id_of(part: &str) -> Option<&str> {
    part.split_once("Received: by here id ")?.1.split_once(';').map(|(id, _)| id)
}

fn last(text: &str) -> String {
    split(text).pop().unwrap_or_default()
}

fn short(text: &str) -> String {
    let head: String = text.chars().take(300).collect();
    let tail: String = text.chars().rev().take(80).collect::<Vec<_>>().into_iter().rev().collect();
    format!("{head:?} ... {tail:?}")
}

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
