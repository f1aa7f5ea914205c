//! Damaged journals: what can be read is recovered, and the file is kept under another name. Lost
//! files of large messages: the log says which, and all else is recovered.

use mailslot::deliver::Outcome;

use crate::harness::ledger::Ledger;
use crate::harness::message::{LARGE, TestMessage};
use crate::harness::sim_disk::{Fault, Plan, SimMachine};
use crate::harness::sim_writer::{SPOOL, SimWriter, machine};
use crate::logger;

const BLOCK: usize = 4096;

/// Delivers three messages, each with a record of its own, and loses power with only the journal
/// on the disk. Returns the machine, the ledger and the path of the journal.
fn three_records() -> (SimMachine, Ledger<Outcome>, String) {
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    for id in ["one", "two", "three"] {
        ledger.send(&server, TestMessage::new(id, &["alice"], 300));
    }
    let journal = format!("{SPOOL}/{}", machine.names(SPOOL)[0]);
    // The marks of the records too.
    machine.sync(&journal);
    disk.kill();
    server.stop();
    machine.lose_all();
    ledger.power_lost();
    (machine, ledger, journal)
}

fn flip_bit(machine: &SimMachine, path: &str, at: usize) {
    let mut bytes = machine.read(path).unwrap();
    bytes[at] ^= 1;
    machine.rewrite(path, &bytes);
    machine.sync(path);
}

/// Returns the names of the damaged journals that were kept.
fn kept(machine: &SimMachine) -> Vec<String> {
    let mut names = machine.names(SPOOL);
    names.retain(|name| name.contains(".damaged-"));
    names
}

/// Starts a server, stops it, and returns the mailbox.
fn recover(machine: &SimMachine) -> String {
    let server = SimWriter::start(&machine.process()).unwrap();
    server.stop();
    String::from_utf8(machine.read("/mail/alice").unwrap_or_default()).unwrap()
}

fn contains(mailbox: &str, id: &str) -> bool {
    mailbox.contains(&format!(" id {id};"))
}

#[test]
fn an_intact_journal_is_not_kept() {
    let (machine, ledger, _) = three_records();
    recover(&machine);
    ledger.check(&machine).unwrap();
    assert_eq!(kept(&machine), [""; 0]);
}

#[test]
fn records_after_a_damaged_header_are_recovered() {
    // The magic, the version, the segment, the checkpoint, the length of the owner and the owner.
    for at in [0, 7, 9, 16, 33, 37] {
        let (machine, ledger, journal) = three_records();
        flip_bit(&machine, &journal, at);
        recover(&machine);
        ledger.check(&machine).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        assert_eq!(kept(&machine).len(), 1, "byte {at}");
    }
}

#[test]
fn a_journal_whose_key_is_damaged_is_kept_as_it_is() {
    let (machine, _, journal) = three_records();
    flip_bit(&machine, &journal, 24);
    let bytes = machine.read(&journal).unwrap();
    recover(&machine);
    let name = kept(&machine).pop().expect("the journal is kept");
    assert_eq!(machine.read(&format!("{SPOOL}/{name}")), Some(bytes.clone()));
    // Once, and not again at the next start.
    recover(&machine);
    assert_eq!(kept(&machine).len(), 1);
    // Names are durable.
    machine.lose_all();
    assert_eq!(machine.read(&format!("{SPOOL}/{name}")), Some(bytes));
}

#[test]
fn records_after_a_damaged_record_are_recovered() {
    // A bit of the magic, the number, the length of the table, and the content of each record.
    for record in 0..3 {
        for at in [0, 8, 25, 400] {
            let (machine, _, journal) = three_records();
            // A record and its trailer take a block each.
            flip_bit(&machine, &journal, BLOCK * (1 + 2 * record) + at);
            let mailbox = recover(&machine);
            for (n, id) in ["one", "two", "three"].into_iter().enumerate() {
                assert_eq!(contains(&mailbox, id), n != record, "{id}, record {record}, byte {at}");
            }
            assert_eq!(kept(&machine).len(), 1, "record {record}, byte {at}");
        }
    }
}

#[test]
fn a_journal_that_is_cut_short_is_kept() {
    let (machine, ledger, journal) = three_records();
    let mut bytes = machine.read(&journal).unwrap();
    bytes.truncate(BLOCK * 7);
    machine.replace(&journal, &bytes);
    machine.sync_all();
    recover(&machine);
    ledger.check(&machine).unwrap();
    assert_eq!(kept(&machine).len(), 1);
}

#[test]
fn a_journal_of_another_version_is_kept() {
    let (machine, _, journal) = three_records();
    let mut bytes = machine.read(&journal).unwrap();
    let line = u32::from_le_bytes(bytes[32..36].try_into().unwrap()) as usize;
    bytes[7] = b'2';
    let crc = crc32fast::hash(&bytes[..36 + line]);
    bytes[36 + line..][..4].copy_from_slice(&crc.to_le_bytes());
    machine.rewrite(&journal, &bytes);
    machine.sync_all();
    assert_eq!(recover(&machine), "");
    let name = kept(&machine).pop().expect("the journal is kept");
    assert_eq!(machine.read(&format!("{SPOOL}/{name}")), Some(bytes));
}

#[test]
fn a_journal_that_was_never_filled_is_empty() {
    for octets in [0, 1, BLOCK, 3 * BLOCK] {
        let machine = machine(&[]);
        let journal = format!("{SPOOL}/journal-0");
        machine.rewrite(&journal, &vec![0; octets]);
        recover(&machine);
        assert_eq!(kept(&machine), [""; 0], "{octets}");
        assert_eq!(machine.names(SPOOL).len(), 1, "{octets}");
    }
}

#[test]
fn power_lost_while_a_journal_is_filled_is_no_damage() {
    let mut tried = 0;
    for seed in 0..20 {
        for at in 1.. {
            let machine = machine(&[]);
            let disk = machine.process();
            let fault = Fault::PowerBefore(100 * seed + at);
            disk.plan(Some(Plan { at, fault }));
            if let Ok(server) = SimWriter::start(&disk) {
                server.stop();
            }
            if !disk.fired() {
                break;
            }
            tried += 1;
            recover(&machine);
            assert_eq!(kept(&machine), Vec::<String>::new(), "{fault:?} at call {at}");
        }
    }
    println!("power_lost_while_a_journal_is_filled_is_no_damage: {tried} power losses");
    assert!(tried > 200, "{tried}");
}

/// Delivers a small message and a large one, and loses power with only their records and content on
/// the disk. Returns the machine, the ledger and the path of the content.
fn large_record() -> (SimMachine, Ledger<Outcome>, String) {
    logger::start();
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("small", &["alice"], 300));
    ledger.send(&server, TestMessage::new("large", &["alice", "bob"], LARGE));
    disk.kill();
    server.stop();
    machine.lose_all();
    ledger.power_lost();
    let content = content_files(&machine).pop().expect("a content file");
    (machine, ledger, content)
}

/// Returns the paths of the content files.
fn content_files(machine: &SimMachine) -> Vec<String> {
    let names = machine.names(SPOOL).into_iter().filter(|name| name.starts_with("content-"));
    names.map(|name| format!("{SPOOL}/{name}")).collect()
}

#[test]
fn a_large_message_is_recovered_from_its_file() {
    let (machine, ledger, _) = large_record();
    recover(&machine);
    ledger.check(&machine).unwrap();
    assert_eq!(content_files(&machine), [""; 0]);
}

#[test]
fn lost_content_is_logged_and_the_rest_recovered() {
    for way in ["removed", "cut short", "longer", "changed"] {
        let (machine, _, content) = large_record();
        let mut bytes = machine.read(&content).unwrap();
        match way {
            "cut short" => drop(bytes.pop()),
            "longer" => bytes.push(b'x'),
            _ => bytes[LARGE / 2] ^= 1,
        }
        match way {
            "removed" => machine.remove(&content),
            _ => machine.rewrite(&content, &bytes),
        }
        machine.sync_all();
        logger::logged("large");
        let mailbox = recover(&machine);
        assert!(contains(&mailbox, "small"), "{way}");
        let lines = logger::logged("large");
        // What was recorded is there, whatever follows.
        if way == "longer" {
            assert!(contains(&mailbox, "large") && lines.is_empty(), "{lines:?}");
            continue;
        }
        assert!(!contains(&mailbox, "large"), "{way}");
        // One line for each mailbox, with the path and what to do.
        assert_eq!(lines.len(), 2, "{way}: {lines:?}");
        for (line, name) in lines.iter().zip(["alice", "bob"]) {
            assert!(line.contains(&content) && line.contains(&format!("mail/{name}")), "{line}");
            assert!(line.contains("kernel log"), "{line}");
        }
        // Once, and not again at the next start.
        recover(&machine);
        assert_eq!(logger::logged("large"), [""; 0], "{way}");
    }
}

#[test]
fn lost_content_of_a_message_that_was_written_is_not_logged() {
    logger::start();
    let (machine, mut ledger) = (machine(&[]), Ledger::default());
    let disk = machine.process();
    let server = SimWriter::start(&disk).unwrap();
    ledger.send(&server, TestMessage::new("written", &["alice"], LARGE));
    disk.kill();
    server.stop();
    let content = content_files(&machine).pop().expect("a content file");
    machine.remove(&content);
    recover(&machine);
    ledger.check(&machine).unwrap();
    assert_eq!(logger::logged("written"), [""; 0]);
}

#[test]
fn content_stays_while_a_damaged_journal_may_refer_to_it() {
    let (machine, _, content) = large_record();
    let journal = format!("{SPOOL}/journal-0");
    // A bit of the second record, which then cannot be read. Its trailer says that it was durable.
    let (machine, journal) = {
        let second = BLOCK * 3 + 60;
        let bytes = machine.read(&journal).unwrap();
        assert_eq!(&bytes[BLOCK * 3..][..8], b"mslotrec");
        flip_bit(&machine, &journal, second);
        let mut bytes = machine.read(&journal).unwrap();
        bytes[BLOCK * 4 + 16] = 1;
        machine.rewrite(&journal, &bytes);
        machine.sync_all();
        (machine, journal)
    };
    recover(&machine);
    assert_eq!(kept(&machine).len(), 1, "{journal}");
    assert_eq!(content_files(&machine), std::slice::from_ref(&content));
    // When the kept journal has been removed, nothing refers to it.
    machine.remove(&format!("{SPOOL}/{}", kept(&machine)[0]));
    recover(&machine);
    assert_eq!(content_files(&machine), [""; 0]);
}

/// A disk writes a sector whole or not at all, so a header that is written again is the old or the
/// new one.
#[test]
fn the_header_is_in_one_sector() {
    let (machine, _, journal) = three_records();
    let header = machine.read(&journal).unwrap()[..BLOCK].to_vec();
    assert!(header.starts_with(b"mslotjn"));
    assert!(header[512..].iter().all(|b| *b == 0), "{header:?}");
}
