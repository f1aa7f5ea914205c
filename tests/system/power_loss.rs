//! The real program on real file systems that lose power while it delivers.
//!
//! Under load the file system is shut down by the ioctl that drops what was not written. The server
//! is killed, the file system mounted again, and another server started: after another boot, or in
//! the same one, as if a disk was pulled out of a running host. Then nothing that was acknowledged
//! is missing, nothing is torn, and nothing is there twice. The same holds for messages that
//! sendmail has left in the hand-over directory, for a server that is stopped, or that is taking
//! them.
//!
//! Each test prints its counts. `MAILSLOT_ROUNDS=N` loses power N times in each, `MAILSLOT_SEED=S`
//! begins with another seed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::ledger::{Ledger, Mailboxes, Mismatch, MismatchKind};
use crate::harness::load::SetOnDrop;
use crate::harness::loop_disk::{FileSystem, LoopDisk};
use crate::harness::message::TestMessage;
use crate::harness::random::Random;
use crate::harness::scripted_server::{ScriptedServer, reply, usual};
use crate::harness::server::sendmail_path;
use crate::harness::{env_number, wait_until};

const BOXES: [&str; 4] = ["a", "b", "c", "d"];
const SESSIONS: u64 = 6;
/// Lengths at which something changes: a sector, blocks, the largest message in memory, a unit in
/// which mail data is written to a file, and sizes above all of them.
const LIMITS: [usize; 8] = [512, 1024, 4096, 8192, 65_536, 256 * 1024, 1024 * 1024, 3 << 20];

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn ext4_loses_power() {
    lose_power(FileSystem::Ext4, Boot::Next);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn ext4_is_lost_while_the_host_runs() {
    lose_power(FileSystem::Ext4, Boot::Same);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn fragmented_ext4_loses_power() {
    lose_power(FileSystem::Ext4Fragmented, Boot::Next);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn fragmented_ext4_is_lost_while_the_host_runs() {
    lose_power(FileSystem::Ext4Fragmented, Boot::Same);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn ext4_without_journal_loses_power() {
    lose_power(FileSystem::Ext4NoJournal, Boot::Next);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn ext4_without_journal_is_lost_while_the_host_runs() {
    lose_power(FileSystem::Ext4NoJournal, Boot::Same);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn xfs_loses_power() {
    lose_power(FileSystem::Xfs, Boot::Next);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn xfs_is_lost_while_the_host_runs() {
    lose_power(FileSystem::Xfs, Boot::Same);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn ext4_loses_power_during_hand_over() {
    lose_power_during_hand_over(FileSystem::Ext4);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn ext4_without_journal_loses_power_during_hand_over() {
    lose_power_during_hand_over(FileSystem::Ext4NoJournal);
}

#[test]
#[ignore = "needs root, loop devices, e2fsprogs and xfsprogs"]
fn xfs_loses_power_during_hand_over() {
    lose_power_during_hand_over(FileSystem::Xfs);
}

/// Boot in which the next server starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    Same,
    Next,
}

/// Loses power again and again, each time with empty mailboxes.
fn lose_power(kind: FileSystem, boot: Boot) {
    let mut disk = match LoopDisk::create(kind) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped, {kind:?} cannot be mounted here: {reason}"),
    };
    let (rounds, seed) = (env_number("MAILSLOT_ROUNDS", 4), env_number("MAILSLOT_SEED", 1));
    let (mut accepted, mut unanswered, mut mismatches) = (0, 0, Vec::new());
    for seed in seed..seed + rounds {
        let mut ledger = deliver_until_power_loss(&disk, seed);
        (accepted, unanswered) = (accepted + ledger.accepted(), unanswered + ledger.unanswered());
        disk.remount();
        if boot == Boot::Next {
            disk.boot();
        }
        mismatches.extend(restart(&disk, &mut ledger).into_iter().map(|found| (seed, found)));
        disk.remove_mailboxes();
    }
    let mut counts = BTreeMap::<MismatchKind, usize>::new();
    for (_, mismatch) in &mismatches {
        *counts.entry(mismatch.kind).or_default() += 1;
    }
    println!(
        "{kind:?}, {boot:?} boot: {rounds} power losses, {accepted} messages accepted, \
         {unanswered} without a reply; {counts:?}"
    );
    assert!(accepted as u64 > 10 * rounds, "{accepted}");
    let lines = mismatches.iter().map(|(seed, found)| format!("MAILSLOT_SEED={seed}: {found:?}\n"));
    assert!(mismatches.is_empty(), "{}", lines.take(20).collect::<String>());
}

/// Delivers until power is lost in the middle of the work, and kills the server.
fn deliver_until_power_loss(disk: &LoopDisk, seed: u64) -> Ledger<u16> {
    let mut random = Random(seed);
    let server = disk.start(&["--threads", "8"]);
    let ledger = Mutex::new(Ledger::default());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when an assertion fails, so that the threads end.
        let _end = SetOnDrop(&over);
        let (over, ledger, address) = (&over, &ledger, server.address);
        for n in 0..SESSIONS {
            let random = Random(random.next());
            scope.spawn(move || send_until(over, ledger, address, n, random));
        }
        // Without a journal, metadata that is written in part costs whole files: fsck(8) clears the
        // extents of a file whose tree it finds inconsistent, synced or not.
        if disk.kind != FileSystem::Ext4NoJournal {
            let (root, flusher) = (disk.root(), Random(random.next()));
            scope.spawn(move || write_back_until(over, &root, flusher));
        }
        let count = 20 + random.below(100) as usize;
        wait_until("messages are sent", || ledger.lock().unwrap().len() >= count);
        thread::sleep(Duration::from_micros(random.below(20_000)));
        disk.shut_down();
        // The server lives on for a while, and must not acknowledge anything.
        thread::sleep(Duration::from_millis(random.below(50)));
        server.kill();
    });
    ledger.into_inner().unwrap()
}

/// Starts a server, delivers one more message to each mailbox, and stops the server. Returns the
/// differences that it leaves.
fn restart(disk: &LoopDisk, ledger: &mut Ledger<u16>) -> Vec<Mismatch> {
    let server = disk.start(&[]);
    for name in BOXES {
        ledger.deliver(server.address, TestMessage::new(format!("after-{name}"), &[name], 500));
    }
    let (log, status) = server.stop();
    assert_eq!(status.code(), Some(0), "{log:#?}");
    let directories = ["mail", "spool"].map(|name| fs::read_dir(disk.root().join(name)).unwrap());
    for entry in directories.into_iter().flatten() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_of_spool = name.starts_with("journal-") || ["hand-over", "queue"].contains(&&*name);
        let expected = BOXES.contains(&&*name) || is_of_spool;
        assert!(expected, "left: {name}, log: {log:#?}");
    }
    let mismatches = ledger.mismatches(&MailDirectory(disk.root().join("mail")));
    if !mismatches.is_empty() {
        println!("{}", log.join("\n"));
    }
    mismatches
}

/// A directory of mailboxes.
struct MailDirectory(PathBuf);

impl Mailboxes for MailDirectory {
    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap_or_default()
    }
}

/// Sends messages of lengths on both sides of each limit, to one mailbox and to several, until one
/// is not accepted.
fn send_until(
    over: &AtomicBool,
    ledger: &Mutex<Ledger<u16>>,
    address: SocketAddr,
    session: u64,
    mut random: Random,
) {
    let Ok(mut client) = Client::open(address) else { return };
    for n in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let count = 1 + random.below(3) as usize;
        let first = random.below(4) as usize;
        let to: Vec<&str> = (0..count).map(|n| BOXES[(first + n) % BOXES.len()]).collect();
        // Large ones are rarer, so that most of the time is not spent with them.
        let most = if random.below(4) == 0 { LIMITS.len() } else { 4 };
        let limit = LIMITS[random.below(most as u64) as usize];
        let message = TestMessage::near(format!("m{session}-{n}"), &to, limit, &mut random);
        let code = client.submit_for_code(&message);
        if ledger.lock().unwrap().record(message, code) != Some(250) {
            return;
        }
    }
}

/// Writes parts of mailboxes to the disk until `over` is set, as the kernel may at any time. Most
/// are near the end of a mailbox, where they are part of what is being delivered.
fn write_back_until(over: &AtomicBool, root: &Path, mut random: Random) {
    let unrelated = File::create(root.join("unrelated")).unwrap();
    while !over.load(Ordering::Relaxed) {
        let name = BOXES[random.below(BOXES.len() as u64) as usize];
        if let Ok(file) = File::open(root.join("mail").join(name)) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let most = [4096, 65_536, 1 << 20][random.below(3) as usize];
            let back = random.below(length.min(most));
            let (from, part) = (length - back, 1 + random.below(128 * 1024));
            // What is not needed is written first.
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = posix_fadvise(&file, from as _, part as _, advice);
        }
        if random.below(8) == 0 {
            // Commits the metadata of all files. Both calls fail after the power loss.
            let _ = unrelated.set_len(random.below(1000)).and_then(|()| unrelated.sync_all());
        }
        thread::sleep(Duration::from_micros(random.below(2000)));
    }
}

/// Loses power while programs call sendmail. In every other round the server is stopped, in the
/// others it takes their messages. Each message is delivered once if its sendmail exited with 0.
fn lose_power_during_hand_over(kind: FileSystem) {
    let mut disk = match LoopDisk::create(kind) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped, {kind:?} cannot be mounted here: {reason}"),
    };
    // It defers all mail, so that sendmail leaves it at once.
    let deferring = ScriptedServer::start(|_, command| match command {
        mail if mail.starts_with("MAIL ") => reply("451 4.3.0 not now"),
        other => usual(other),
    });
    let directory = TestDirectory::new();
    let config = directory.join("conf");
    let text = format!(
        "listen {}\nhostname here.example\ndomain here.example\naliases none\nspool {}\n",
        deferring.address,
        disk.root().join("spool").display()
    );
    fs::write(&config, text).unwrap();
    let (rounds, seed) = (env_number("MAILSLOT_ROUNDS", 4), env_number("MAILSLOT_SEED", 1));
    let (mut left, mut refused) = (0, 0);
    for seed in seed..seed + rounds {
        let calls = call_sendmail_until_power_loss(&disk, &config, seed);
        disk.remount();
        disk.boot();
        let server = disk.start(&HAND_OVER_OPTIONS);
        let spool = disk.root().join("spool");
        let is_complete = |file: fs::DirEntry| file.metadata().is_ok_and(|m| m.mode() & 0o040 != 0);
        wait_until("all is taken", || {
            let mut waiting = fs::read_dir(spool.join("hand-over")).unwrap().flatten();
            let mut queue = fs::read_dir(spool.join("queue")).unwrap();
            !waiting.any(is_complete) && queue.next().is_none()
        });
        let (log, status) = server.stop();
        assert_eq!(status.code(), Some(0), "{log:#?}");
        let mailbox = fs::read_to_string(disk.root().join("mail/a")).unwrap_or_default();
        for (id, status) in &calls {
            let whole = format!("\n\n{}\n", hand_over_body(id));
            let subjects = mailbox.matches(&format!("\nSubject: {id}\n")).count();
            let copies = mailbox.matches(&whole).count();
            let least = usize::from(*status == Some(0));
            let context = format!("MAILSLOT_SEED={seed}, {id}, {status:?}");
            assert_eq!(subjects, copies, "torn, {context}");
            assert!(copies >= least, "lost, {context}");
            assert!(copies <= 1, "doubled, {context}");
            (left, refused) = (left + least, refused + 1 - least);
        }
        disk.remove_mailboxes();
    }
    println!(
        "{kind:?}: {rounds} power losses, {left} messages left by sendmail, {refused} refused"
    );
    assert!(left as u64 > 10 * rounds && refused > 0, "{left} {refused}");
}

/// Returns the body of a message, which is more than one write for some.
fn hand_over_body(id: &str) -> String {
    format!("{id} to the end\n").repeat(1 + id.bytes().map(usize::from).sum::<usize>() % 7 * 1000)
}

/// Calls sendmail again and again, in several threads, until power is lost. Returns the ids of the
/// messages and the exit statuses.
fn call_sendmail_until_power_loss(
    disk: &LoopDisk,
    config: &Path,
    seed: u64,
) -> Vec<(String, Option<i32>)> {
    let mut random = Random(seed);
    // It creates the directory.
    let server = disk.start(&HAND_OVER_OPTIONS);
    let server = if seed.is_multiple_of(2) {
        Some(server)
    } else {
        server.stop();
        None
    };
    let calls = Mutex::new(Vec::new());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when an assertion fails, so that the threads end.
        let _end = SetOnDrop(&over);
        for thread in 0..4 {
            let (over, calls) = (&over, &calls);
            scope.spawn(move || {
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let id = format!("m{thread}-{n}");
                    let status = call_sendmail(config, &id);
                    calls.lock().unwrap().push((id, status));
                }
            });
        }
        let count = 20 + random.below(60) as usize;
        wait_until("messages are left", || calls.lock().unwrap().len() >= count);
        // The server looks into the directory every 2 s.
        let time = if server.is_some() { 2_500_000 } else { 20_000 };
        thread::sleep(Duration::from_micros(random.below(time)));
        disk.shut_down();
        // Calls that begin now must not succeed.
        let count = calls.lock().unwrap().len() + 8;
        wait_until("calls fail", || calls.lock().unwrap().len() >= count);
        if let Some(server) = server {
            server.kill();
        }
    });
    calls.into_inner().unwrap()
}

/// Sends a message by sendmail. Returns the exit status.
fn call_sendmail(config: &Path, id: &str) -> Option<i32> {
    let mut command = Command::new(sendmail_path());
    command.arg("-C").arg(config).args(["-f", "b", "a"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let text = format!("Subject: {id}\n\n{}", hand_over_body(id));
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait().unwrap().code()
}

/// Options of the server that takes the messages.
const HAND_OVER_OPTIONS: [&str; 2] = ["--domain", "here.example"];
