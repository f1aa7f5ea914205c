//! The end of the process when a thread that it cannot do without dies.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::harness::directory::TestDirectory;
use crate::harness::message::user_mailbox;
use mailslot::deliver::disk::{Disk, DiskFile, HostDisk, OpenMode, Stat};
use mailslot::deliver::{self, DeliveryConfig};
use mailslot::message::{Content, Destination, Message};

/// The host's disk with a defect: a thread panics in a call that it makes.
#[derive(Debug, Default)]
struct PanickingDisk {
    disk: HostDisk,
    /// Name of the thread.
    thread: &'static str,
}

impl PanickingDisk {
    fn panic_in_thread(&self, name: &str) {
        let defect = self.thread == name && thread::current().name() == Some(name);
        assert!(!defect, "a defect");
    }
}

impl Disk for PanickingDisk {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        // In the middle of a batch, with its locks.
        if path.ends_with("alice") {
            self.panic_in_thread("writer");
        }
        self.disk.lstat(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, mode)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.read_directory(directory)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.panic_in_thread("checkpoint");
        self.disk.sync_directory(directory)
    }
    fn pid(&self) -> u32 {
        self.disk.pid()
    }
    fn pid_scope(&self) -> Option<String> {
        self.disk.pid_scope()
    }
    fn is_dead(&self, pid: u32) -> bool {
        self.disk.is_dead(pid)
    }
}

/// Delivers a message on a disk with a defect in `thread`, in a process that is the test `name`
/// itself, started again. The process must end with status 70.
fn assert_ends_process(thread: &'static str, name: &str) {
    if std::env::var_os("MAILSLOT_TEST_DEFECT").is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env("MAILSLOT_TEST_DEFECT", "1");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(70), "{output:?}");
        return;
    }
    let directory = TestDirectory::with_mail_and_spool();
    let config = DeliveryConfig {
        mail_dir: directory.join("mail"),
        spool: directory.join("spool"),
        ..DeliveryConfig::default()
    };
    let disk = Arc::new(PanickingDisk { thread, ..PanickingDisk::default() });
    let (handle, writer) = deliver::start_on(disk, config, Arc::default()).expect("it starts");
    let message = Message {
        id: "id".into(),
        head: b"From a@b Tue Jul  1 08:52:37 2025\n".to_vec(),
        content: Content::Memory(b"Subject: x\n\nx\n".to_vec().into()),
        to: vec![Destination::Mailbox(user_mailbox("alice"))],
    };
    handle.deliver(message, Duration::from_secs(30));
    // The last checkpoint.
    writer.stop();
}

#[test]
fn a_checkpoint_thread_that_dies_ends_the_process_with_status_70() {
    assert_ends_process(
        "checkpoint",
        "vital_thread::a_checkpoint_thread_that_dies_ends_the_process_with_status_70",
    );
}

#[test]
fn a_writer_that_panics_in_a_batch_ends_the_process_with_status_70() {
    assert_ends_process(
        "writer",
        "vital_thread::a_writer_that_panics_in_a_batch_ends_the_process_with_status_70",
    );
}
