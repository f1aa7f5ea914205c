//! A temporary directory in which servers keep mailboxes (`mail`) and journals (`spool`).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use tempfile::TempDir;

use super::mbox::{self, Mail};
use super::server::Server;

/// A temporary directory, removed with its last clone.
#[derive(Clone, Debug)]
pub struct TestDirectory(Arc<TempDir>);

impl TestDirectory {
    /// Creates an empty one.
    pub fn new() -> TestDirectory {
        tempfile::tempdir().unwrap().into()
    }

    /// Creates an empty one on a file system in memory, if the host has one. For tests of what is
    /// done with the disk, where the disk itself does not matter.
    pub fn in_memory() -> TestDirectory {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap().into()
    }

    /// Creates one with empty directories `mail` and `spool`.
    pub fn with_mail_and_spool() -> TestDirectory {
        let directory = TestDirectory::new();
        for name in ["mail", "spool"] {
            // Not writable by others, whatever the umask.
            DirBuilder::new().mode(0o700).create(directory.join(name)).unwrap();
        }
        directory
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the path as an option takes it.
    pub fn as_str(&self) -> &str {
        self.path().to_str().unwrap()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Returns the path of a mailbox.
    pub fn mailbox_path(&self, name: &str) -> PathBuf {
        self.join("mail").join(name)
    }

    /// Returns the bytes of a mailbox, none if it does not exist.
    pub fn mailbox_bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.mailbox_path(name)).unwrap_or_default()
    }

    /// Returns the text of a mailbox, empty if it does not exist.
    pub fn mailbox(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.mailbox_bytes(name)).into_owned()
    }

    /// Returns the messages of a mailbox. Fails the test if one of them is torn.
    pub fn messages(&self, name: &str) -> Vec<Mail> {
        mbox::read(&self.mailbox_path(name))
    }

    /// Returns the number of From_ lines in a mailbox.
    pub fn count(&self, name: &str) -> usize {
        self.mailbox(name).lines().filter(|line| line.starts_with("From ")).count()
    }

    /// Returns the sorted names in the directory `name`.
    pub fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Returns the sorted names of the mailboxes. The server's own files begin with a dot.
    pub fn mailboxes(&self) -> Vec<String> {
        let mut names = self.names("mail");
        names.retain(|name| !name.starts_with('.'));
        names
    }

    /// Returns the sorted names of the files in the queue, none if there is no queue.
    pub fn queue(&self) -> Vec<String> {
        if self.join("spool/queue").exists() { self.names("spool/queue") } else { Vec::new() }
    }

    /// Starts a server in it.
    pub fn start(&self, options: &[&str]) -> Server {
        Server::start_in(self, options)
    }

    /// Starts a server in it by another program, see [`Server::start_by`].
    pub fn start_by(
        &self,
        starter: &[&str],
        options: &[&str],
    ) -> Result<Server, (Vec<String>, ExitStatus)> {
        Server::start_by(starter, self, options)
    }

    /// Asserts, with no server running, that only these mailboxes, journals and an empty queue are
    /// there.
    pub fn assert_clean(&self, mailboxes: &BTreeSet<String>) {
        let mut mail = self.names("mail");
        mail.retain(|name| !mailboxes.contains(name));
        assert!(mail.is_empty(), "left in the mail directory: {mail:?}");
        let mut spool = self.names("spool");
        // A killed server leaves its sockets, and the next one replaces them.
        let expected =
            |name: &str| name.starts_with("journal-") || ["control", "smtp"].contains(&name);
        spool.retain(|name| !expected(name));
        // These are created at the start, and stay.
        let is_empty = |name: &String| self.names(&format!("spool/{name}")).is_empty();
        spool.retain(|name| !["hand-over", "queue"].contains(&name.as_str()) || !is_empty(name));
        assert!(spool.is_empty(), "left in the spool: {spool:?}");
        assert!(self.queue().is_empty(), "left in the queue: {:?}", self.queue());
    }

    /// Removes all mailboxes.
    pub fn clear(&self) {
        for name in self.names("mail") {
            let path = self.mailbox_path(&name);
            let removed =
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.unwrap();
        }
    }
}

impl From<TempDir> for TestDirectory {
    fn from(directory: TempDir) -> TestDirectory {
        TestDirectory(Arc::new(directory))
    }
}

impl From<&TestDirectory> for TestDirectory {
    fn from(directory: &TestDirectory) -> TestDirectory {
        directory.clone()
    }
}
