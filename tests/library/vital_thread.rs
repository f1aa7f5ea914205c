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

/// The host's disk with a defect: the thread of the checkpoint panics.
#[derive(Debug, Default)]
struct PanickingDisk(HostDisk);

impl Disk for PanickingDisk {
    fn lstat(&self, path: &Path) -> io::Result<Stat> {
        self.0.lstat(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.0.open(path, mode)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.link(from, to)
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.0.unlink(path)
    }
    fn read_directory(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.read_directory(directory)
    }
    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        assert_ne!(thread::current().name(), Some("checkpoint"), "a defect");
        self.0.sync_directory(directory)
    }
    fn pid(&self) -> u32 {
        self.0.pid()
    }
    fn pid_scope(&self) -> String {
        self.0.pid_scope()
    }
    fn is_dead(&self, pid: u32) -> bool {
        self.0.is_dead(pid)
    }
}

/// The process is the test itself, started again.
#[test]
fn a_checkpoint_thread_that_dies_ends_the_process_with_status_70() {
    const NAME: &str =
        "vital_thread::a_checkpoint_thread_that_dies_ends_the_process_with_status_70";
    if std::env::var_os("MAILSLOT_TEST_DEFECT").is_none() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture"]).env("MAILSLOT_TEST_DEFECT", "1");
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
    let disk = Arc::new(PanickingDisk::default());
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
