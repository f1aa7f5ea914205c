//! The end of the process when a thread that it cannot do without dies.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::harness::directory::TestDirectory;
use crate::harness::hooked_disk::HookedDisk;
use crate::harness::message::user_mailbox;
use mailslot::deliver::{self, DeliveryConfig};
use mailslot::message::{Content, Destination, Message};

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
    let disk = HookedDisk::new(move |call, path| {
        // In the middle of a batch, with its locks, or of a checkpoint.
        let is_there = match thread {
            "writer" => call == "lstat" && path.ends_with("alice"),
            _ => call == "sync_directory",
        };
        assert!(!is_there || thread::current().name() != Some(thread), "a defect");
    });
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
