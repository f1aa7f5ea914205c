//! The writer on a simulated disk.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailslot::deliver::disk::Disk;
use mailslot::deliver::{
    DeferReason, DeliveryConfig, Outcome, WriterHandle, WriterThread, start_on,
};
use mailslot::message::ContentDirectory;
use mailslot::observe::counters::Counters;
use mailslot::observe::events;
use nix::errno::Errno;

use super::message::TestMessage;
use super::sim_disk::{SimDisk, SimMachine};

const MAIL: &str = "/mail";
const QUEUE: &str = "/spool/queue";
pub const SPOOL: &str = "/spool";
/// Length of half of the journal. Two or four records fill it.
pub const HALF: u64 = 32 * 1024;

/// Creates a machine with directories for mail, spool and queue, and these mailboxes.
pub fn machine(boxes: &[(&str, &str)]) -> SimMachine {
    let machine = SimMachine::new(&[MAIL, SPOOL, QUEUE]);
    for (name, text) in boxes {
        machine.rewrite(&path(name), text.as_bytes());
    }
    machine.sync_all();
    machine
}

/// Returns the path of a mailbox, or of an entry of the queue.
pub fn path(name: &str) -> String {
    let directory = if name.starts_with("queue/") { SPOOL } else { MAIL };
    format!("{directory}/{name}")
}

/// Returns the configuration that [`SimWriter::start`] uses.
pub fn config() -> DeliveryConfig {
    DeliveryConfig {
        mail_dir: MAIL.into(),
        spool: PathBuf::from(SPOOL),
        lock_timeout: Duration::from_secs(5),
        journal_segment: HALF,
        ..DeliveryConfig::default()
    }
}

/// Checks that only mailboxes and one journal are left.
pub fn check_directories(machine: &SimMachine) -> Result<(), String> {
    let spool = machine.names(SPOOL);
    if spool.len() != 1 || !spool[0].starts_with("journal-") {
        return Err(format!("in the spool: {spool:?}"));
    }
    let mail = machine.names(MAIL);
    match mail.iter().find(|name| name.starts_with('.') || name.ends_with(".lock")) {
        Some(left) => Err(format!("left in the mail directory: {left}")),
        None => Ok(()),
    }
}

/// A writer, one process of the simulated machine. Clones are the same one.
#[derive(Clone)]
pub struct SimWriter {
    pub disk: SimDisk,
    pub counters: Arc<Counters>,
    handle: WriterHandle,
    writer: Arc<Mutex<Option<WriterThread>>>,
}

impl SimWriter {
    pub fn start(disk: &SimDisk) -> std::io::Result<SimWriter> {
        SimWriter::start_with(disk, config())
    }

    pub fn start_with(disk: &SimDisk, config: DeliveryConfig) -> std::io::Result<SimWriter> {
        SimWriter::start_on(Arc::new(disk.clone()), disk, config)
    }

    /// Starts the writer of the process `disk` on `view`, through which it sees the disk.
    pub fn start_on(
        view: Arc<dyn Disk>,
        disk: &SimDisk,
        config: DeliveryConfig,
    ) -> std::io::Result<SimWriter> {
        let counters = Arc::new(Counters::default());
        let (handle, writer) = start_on(view, config, counters.clone())?;
        let writer = Arc::new(Mutex::new(Some(writer)));
        Ok(SimWriter { disk: disk.clone(), counters, handle, writer })
    }

    /// Delivers a message. Returns None if the process was dead by the time of the answer, because
    /// then no client has received it.
    pub fn deliver(&self, message: &TestMessage) -> Option<Outcome> {
        let outcome = match message.message_in(&*self.contents()) {
            Ok(message) => self.handle.deliver(message, Duration::from_secs(20)),
            // As the session, which replies 452 or 451.
            Err(e) => {
                events::spool_failed(&message.id, &e);
                match e.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::ENOSPC | Errno::EDQUOT) => Outcome::Deferred(DeferReason::NoSpace),
                    _ => Outcome::Deferred(DeferReason::Io),
                }
            }
        };
        Some(outcome).filter(|_| !self.disk.is_dead())
    }

    /// Returns the directory for the content of its messages.
    pub fn contents(&self) -> Arc<dyn ContentDirectory> {
        self.handle.contents()
    }

    pub fn stop(self) {
        self.writer.lock().unwrap().take().unwrap().stop();
    }
}
