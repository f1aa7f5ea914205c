//! Damaged journals: what can be read is recovered, and the file is kept under another name.

use crate::harness::ledger::{Ledger, Letter, SPOOL, Server, world};
use crate::harness::sim_disk::World;

const BLOCK: usize = 4096;

/// Delivers three letters, each with a record of its own, and loses power with only the journal
/// on the disk. Returns the machine, the ledger and the path of the journal.
fn three_records() -> (World, Ledger, String) {
    let (world, mut ledger) = (world(&[]), Ledger::default());
    let disk = world.process();
    let server = Server::start(&disk).unwrap();
    for id in ["one", "two", "three"] {
        ledger.send(&server, Letter::new(id, &["alice"], 300));
    }
    let journal = format!("{SPOOL}/{}", world.names(SPOOL)[0]);
    // The marks of the records too.
    world.sync(&journal);
    disk.kill();
    server.stop();
    world.lose_all();
    ledger.power_lost();
    (world, ledger, journal)
}

fn flip_bit(world: &World, path: &str, at: usize) {
    let mut bytes = world.read(path).unwrap();
    bytes[at] ^= 1;
    world.rewrite(path, &bytes);
    world.sync(path);
}

/// Returns the names of the damaged journals that were kept.
fn kept(world: &World) -> Vec<String> {
    let mut names = world.names(SPOOL);
    names.retain(|name| name.contains(".damaged-"));
    names
}

/// Starts a server, stops it, and returns the mailbox.
fn recover(world: &World) -> String {
    let server = Server::start(&world.process()).unwrap();
    server.stop();
    String::from_utf8(world.read("/mail/alice").unwrap_or_default()).unwrap()
}

fn contains(mailbox: &str, id: &str) -> bool {
    mailbox.contains(&format!(" id {id};"))
}

#[test]
fn an_intact_journal_is_not_kept() {
    let (world, ledger, _) = three_records();
    recover(&world);
    ledger.check(&world).unwrap();
    assert_eq!(kept(&world), [""; 0]);
}

#[test]
fn records_after_a_damaged_header_are_recovered() {
    // The magic, the version, the segment, the checkpoint, the length of the owner and the owner.
    for at in [0, 7, 9, 16, 33, 37] {
        let (world, ledger, journal) = three_records();
        flip_bit(&world, &journal, at);
        recover(&world);
        ledger.check(&world).unwrap_or_else(|e| panic!("byte {at}: {e}"));
        assert_eq!(kept(&world).len(), 1, "byte {at}");
    }
}

#[test]
fn a_journal_whose_key_is_damaged_is_kept_as_it_is() {
    let (world, _, journal) = three_records();
    flip_bit(&world, &journal, 24);
    let bytes = world.read(&journal).unwrap();
    recover(&world);
    let name = kept(&world).pop().expect("the journal is kept");
    assert_eq!(world.read(&format!("{SPOOL}/{name}")), Some(bytes.clone()));
    // Once, and not again at the next start.
    recover(&world);
    assert_eq!(kept(&world).len(), 1);
    // Names are durable.
    world.lose_all();
    assert_eq!(world.read(&format!("{SPOOL}/{name}")), Some(bytes));
}

#[test]
fn records_after_a_damaged_record_are_recovered() {
    // A bit of the magic, the number, the length of the table, and the content of each record.
    for record in 0..3 {
        for at in [0, 8, 25, 400] {
            let (world, _, journal) = three_records();
            // A record and its trailer take a block each.
            flip_bit(&world, &journal, BLOCK * (1 + 2 * record) + at);
            let mailbox = recover(&world);
            for (n, id) in ["one", "two", "three"].into_iter().enumerate() {
                assert_eq!(contains(&mailbox, id), n != record, "{id}, record {record}, byte {at}");
            }
            assert_eq!(kept(&world).len(), 1, "record {record}, byte {at}");
        }
    }
}

#[test]
fn a_journal_that_is_cut_short_is_kept() {
    let (world, ledger, journal) = three_records();
    let mut bytes = world.read(&journal).unwrap();
    bytes.truncate(BLOCK * 7);
    world.replace(&journal, &bytes);
    world.sync_all();
    recover(&world);
    ledger.check(&world).unwrap();
    assert_eq!(kept(&world).len(), 1);
}

#[test]
fn a_journal_of_another_version_is_kept() {
    let (world, _, journal) = three_records();
    let mut bytes = world.read(&journal).unwrap();
    let line = u32::from_le_bytes(bytes[32..36].try_into().unwrap()) as usize;
    bytes[7] = b'3';
    let crc = crc32fast::hash(&bytes[..36 + line]);
    bytes[36 + line..][..4].copy_from_slice(&crc.to_le_bytes());
    world.rewrite(&journal, &bytes);
    world.sync_all();
    assert_eq!(recover(&world), "");
    let name = kept(&world).pop().expect("the journal is kept");
    assert_eq!(world.read(&format!("{SPOOL}/{name}")), Some(bytes));
}

#[test]
fn a_journal_that_was_never_filled_is_empty() {
    for octets in [0, 1, BLOCK, 3 * BLOCK] {
        let world = world(&[]);
        let journal = format!("{SPOOL}/journal-0");
        world.rewrite(&journal, &vec![0; octets]);
        recover(&world);
        assert_eq!(kept(&world), [""; 0], "{octets}");
        assert_eq!(world.names(SPOOL).len(), 1, "{octets}");
    }
}
