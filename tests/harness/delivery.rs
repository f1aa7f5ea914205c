//! For tests of delivery: a mail folder and a spool of their own, and messages to put in.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mailslot::deliver::{
    self, DeliveryConfig, JOURNAL_SEGMENT_SMALL, Locks, Outcome, WriterHandle, WriterThread,
};
use mailslot::message::{Content, Destination, MailboxName, Message, UserMailbox};
use mailslot::observe::counters::Counters;

/// A writer with folders of its own, all gone when it is dropped.
pub struct House {
    folder: Folder,
    post: WriterHandle,
    writer: Option<WriterThread>,
    pub counters: Arc<Counters>,
}

/// The folders, with or without a writer.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        let folder = Folder(tempfile::tempdir().unwrap());
        for sub in ["mail", "spool"] {
            fs::create_dir(folder.root().join(sub)).unwrap();
        }
        folder
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn settings(&self) -> DeliveryConfig {
        DeliveryConfig {
            mail_dir: self.root().join("mail"),
            spool: self.root().join("spool"),
            locks: Locks::ALL,
            lock_timeout: Duration::from_secs(30),
            mailbox_limit: None,
            queue: 32,
            journal_segment: JOURNAL_SEGMENT_SMALL,
            ..DeliveryConfig::default()
        }
    }

    pub fn mail(&self, name: &str) -> PathBuf {
        self.root().join("mail").join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.mail(name)).unwrap()
    }

    /// The messages of a mailbox, strictly framed: each from its From_ line to its empty line.
    pub fn messages(&self, name: &str) -> Vec<String> {
        split(&self.read(name))
    }

    pub fn names(&self, sub: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root().join(sub)).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl House {
    pub fn new() -> House {
        House::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut DeliveryConfig)) -> House {
        let folder = Folder::new();
        let mut settings = folder.settings();
        change(&mut settings);
        House::open(folder, settings)
    }

    pub fn open(folder: Folder, settings: DeliveryConfig) -> House {
        let counters = Arc::new(Counters::default());
        let (post, writer) = deliver::start(settings, counters.clone()).unwrap();
        House { folder, post, writer: Some(writer), counters }
    }

    pub fn deliver(&self, message: Message) -> Outcome {
        self.post.deliver(message, Duration::from_secs(120))
    }

    pub fn look(&self, name: &str) -> Result<(), Outcome> {
        self.post.precheck(&user_mailbox(name)).map_err(|e| e.outcome())
    }

    pub fn post(&self) -> &WriterHandle {
        &self.post
    }

    pub fn stop(mut self) -> Folder {
        self.writer.take().unwrap().stop();
        self.folder
    }
}

impl std::ops::Deref for House {
    type Target = Folder;

    fn deref(&self) -> &Folder {
        &self.folder
    }
}

pub fn user_mailbox(name: &str) -> UserMailbox {
    UserMailbox {
        name: MailboxName::new(name).unwrap(),
        owner: None,
        delivered_to: format!("{name}@example.org"),
    }
}

/// A message as a session makes it: `text` stands behind a Received line with the id.
pub fn message(id: &str, to: &[&str], text: &[u8]) -> Message {
    let mut content = format!("Received: by here id {id}; then\n").into_bytes();
    content.extend_from_slice(text);
    Message { content: Content::Memory(content.into()), ..empty(id, to) }
}

/// A message that is too large for the journal.
pub fn large_message(id: &str, to: &[&str], octets: usize) -> Message {
    let mut file = tempfile::tempfile().unwrap();
    let mut text = format!("Received: by here id {id}; then\n\n");
    while text.len() < octets {
        text += &format!("line of {id} at {}\n", text.len());
    }
    file.write_all(text.as_bytes()).unwrap();
    Message { content: Content::File(file.into(), text.len() as u64), ..empty(id, to) }
}

fn empty(id: &str, to: &[&str]) -> Message {
    let head = b"From s@example.org Thu Jan  1 00:00:00 1970\nReturn-Path: <s@example.org>\n";
    Message {
        id: id.into(),
        head: head.to_vec(),
        content: Content::Memory(Vec::new().into()),
        to: to.iter().map(|name| Destination::Mailbox(user_mailbox(name))).collect(),
    }
}

/// Splits a mailbox as a strict reader does; what does not fit the format fails the test.
pub fn split(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    assert!(text.starts_with("From "), "begins {:?}", text.get(..40));
    assert!(text.ends_with("\n\n"), "no empty line at the end");
    let parts: Vec<&str> = text.split("\n\nFrom ").collect();
    let count = parts.len();
    parts
        .into_iter()
        .enumerate()
        .map(|(i, part)| {
            let part = part.strip_suffix("\n\n").filter(|_| i + 1 == count).unwrap_or(part);
            assert!(!part.contains("\nFrom "), "a From_ line without an empty line before it");
            format!("{}{part}\n", if i == 0 { "" } else { "From " })
        })
        .collect()
}
