//! Mail readers that take messages out again and again while others arrive. No message may be lost
//! or duplicated.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::client::Client;
use crate::harness::directory::TestDirectory;
use crate::harness::env_number;
use crate::harness::ledger::Ledger;
use crate::harness::message::TestMessage;

/// Script that takes messages out with the module mailbox of Python, which locks by dotlock and
/// fcntl, and renames a new file over the old one. Every second message stays until the next round.
const PYTHON_MBOX: &str = "\
import mailbox, os, sys, time
path, taken, stop = sys.argv[1:]
ledger = open(taken, 'ab')
rounds = 0
while not os.path.exists(stop):
    try:
        box = mailbox.mbox(path, create=False)
        box.lock()
    except (mailbox.NoSuchMailboxError, mailbox.ExternalClashError):
        time.sleep(0.005)
        continue
    for key in list(box.keys())[::2]:
        start, end = box._lookup(key)
        box._file.seek(start)
        ledger.write(box._file.read(end - start) + b'\\n')
        box.discard(key)
    ledger.flush()
    box.flush()
    box.close()
    rounds += 1
    time.sleep(0.002)
print(rounds)
";

/// Script that takes messages out under one kernel lock, and writes the rest in place.
const PYTHON_IN_PLACE: &str = "\
import fcntl, os, re, sys, time
path, taken, stop, kind = sys.argv[1:]
lock = {'fcntl': fcntl.lockf, 'flock': fcntl.flock}[kind]
ledger = open(taken, 'ab')
rounds = 0
while not os.path.exists(stop):
    try:
        box = open(path, 'r+b', buffering=0)
    except FileNotFoundError:
        time.sleep(0.005)
        continue
    lock(box, fcntl.LOCK_EX)
    content = box.read()
    starts = [m.start() for m in re.finditer(rb'^From ', content, re.M)] + [len(content)]
    each = [content[a:b] for a, b in zip(starts, starts[1:])]
    ledger.write(b''.join(each[::2]))
    ledger.flush()
    box.seek(0)
    box.truncate()
    box.write(b''.join(each[1::2]))
    box.close()
    rounds += 1
    time.sleep(0.002)
print(rounds)
";

#[test]
#[ignore = "needs python3"]
fn python_mailbox_takes_messages_for_a_while() {
    soak(PYTHON_MBOX, &[]);
}

#[test]
#[ignore = "needs python3"]
fn reader_with_fcntl_lock_takes_messages_for_a_while() {
    soak(PYTHON_IN_PLACE, &["fcntl"]);
}

#[test]
#[ignore = "needs python3"]
fn reader_with_flock_takes_messages_for_a_while() {
    soak(PYTHON_IN_PLACE, &["flock"]);
}

/// Delivers mail for `MAILSLOT_SOAK` seconds (8 by default) while the script takes it out.
fn soak(script: &str, args: &[&str]) {
    let directory = TestDirectory::new();
    let server = directory.start(&[]);
    let (taken, stop) = (directory.join("taken"), directory.join("stop"));
    let reader = Command::new("python3")
        .args(["-c", script])
        .args([&directory.mailbox_path("alice"), &taken, &stop])
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let ledger = Mutex::new(Ledger::default());
    let over = AtomicBool::new(false);
    let time = Duration::from_secs(env_number("MAILSLOT_SOAK", 8));
    thread::scope(|scope| {
        for session in 0..3 {
            let (ledger, over, address) = (&ledger, &over, server.address);
            scope.spawn(move || {
                let mut sender = Client::open(address).unwrap();
                for n in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let length = if n % 50 == 49 { 300 * 1024 } else { 200 + 977 * (n % 13) };
                    let to = [&["alice"][..], &["alice", "bob"]][n % 2];
                    let message = TestMessage::new(format!("{session}-{n}"), to, length);
                    let code = sender.submit_for_code(&message);
                    let answer = ledger.lock().unwrap().record(message, code);
                    assert_eq!(answer, Some(250), "{session}-{n}");
                }
            });
        }
        thread::sleep(time);
        over.store(true, Ordering::Relaxed);
    });
    fs::write(&stop, b"").unwrap();
    let output = reader.wait_with_output().unwrap();
    assert!(output.status.success());
    let rounds: usize = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let ledger = ledger.into_inner().unwrap();
    let mut boxes = std::collections::BTreeMap::new();
    boxes.insert(
        "alice".to_owned(),
        [fs::read(&taken).unwrap(), directory.mailbox_bytes("alice")].concat(),
    );
    boxes.insert("bob".to_owned(), directory.mailbox_bytes("bob"));
    let sent = ledger.len();
    println!("{sent} messages in {time:?}, rewritten {rounds} times by {args:?}");
    assert!(rounds > 20 && sent > 20, "{rounds} rounds, {sent} messages");
    ledger.assert_matches(&boxes);
    let (_, status) = server.stop();
    assert_eq!(status.code(), Some(0));
    directory.assert_clean(&ledger.mailboxes());
}
