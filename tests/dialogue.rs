//! Runs the files of `tests/dialogues` against the receiver, without a network: once turn by turn,
//! then all at once and at every cut. The format is in `tests/support/dialogue.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/cast.rs"]
mod cast;
#[path = "support/dialogue.rs"]
mod dialogue;

use std::collections::BTreeSet;

use cast::Beta;
use dialogue::{Dialogue, Heard, Turn};
use mailslot::smtp::fuzz::Machine;

#[test]
fn every_dialogue_goes_as_it_is_written() {
    for dialogue in dialogue::all() {
        let turn_by_turn = run(&dialogue);
        let sent = dialogue.turns.iter().filter_map(|turn| match turn {
            Turn::Send(octets) => Some(octets.as_slice()),
            _ => None,
        });
        let sent: Vec<u8> = sent.flatten().copied().collect();
        for cut in 0..=sent.len() {
            let (head, tail) = sent.split_at(cut);
            let mut machine = Machine::new(cast::settings(&dialogue.options), Beta);
            machine.feed(head);
            machine.feed(tail);
            assert_eq!(
                String::from_utf8_lossy(&machine.out),
                String::from_utf8_lossy(&turn_by_turn.out),
                "{} cut at {cut}",
                dialogue.name
            );
            assert_eq!(machine.messages, turn_by_turn.messages, "{} cut at {cut}", dialogue.name);
            assert_eq!(machine.replies, machine.asked, "{} cut at {cut}", dialogue.name);
        }
    }
}

/// Each code that this receiver gives is provoked by its cause somewhere in the dialogues.
#[test]
fn every_reply_code_has_its_dialogue() {
    let mut seen = BTreeSet::new();
    for dialogue in dialogue::all() {
        let out = String::from_utf8(run(&dialogue).out).unwrap();
        seen.extend(out.lines().map(|line| line[..3].parse::<u16>().unwrap()));
    }
    let codes = [
        211, 214, 220, 221, 250, 252, 354, 421, 450, 451, 452, 500, 501, 502, 503, 504, 550, 551,
        552, 553, 554, 555,
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), codes);
}

/// Turn by turn: what is heard is compared before anything more is sent.
fn run(dialogue: &Dialogue) -> Machine<Beta> {
    let mut machine = Machine::new(cast::settings(&dialogue.options), Beta);
    let mut heard = Heard::default();
    let mut read = 0;
    let mut mail_line = 0;
    listen(&machine, &mut read, &mut heard);
    for turn in &dialogue.turns {
        match turn {
            Turn::Send(octets) => {
                assert!(heard.lines.is_empty(), "{}: unexpected {heard:?}", dialogue.name);
                machine.feed(octets);
                listen(&machine, &mut read, &mut heard);
                mail_line = 0;
            }
            Turn::Hear(pattern, place) => {
                heard.take(pattern).unwrap_or_else(|came| panic!("{place}\nbut came: {came}"));
            }
            Turn::Mail(text) => {
                let lines = machine.messages.last().map(|message| &message.lines);
                let line = lines.and_then(|lines| lines.get(mail_line)).map(Vec::as_slice);
                assert_eq!(line, Some(text.as_bytes()), "{}: M: {text}", dialogue.name);
                mail_line += 1;
            }
        }
    }
    assert!(heard.lines.is_empty(), "{}: unexpected {heard:?}", dialogue.name);
    machine
}

/// Takes the reply lines that are new.
fn listen(machine: &Machine<Beta>, read: &mut usize, heard: &mut Heard) {
    let text = String::from_utf8(machine.out[*read..].to_vec()).unwrap();
    heard.lines.extend(text.split_terminator("\r\n").map(str::to_owned));
    heard.closed = machine.closed;
    *read = machine.out.len();
}
