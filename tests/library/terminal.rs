//! Messages on real terminals: who is shown what, and that none of them can hold anything up.

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::Instant;

use mailslot::deliver::screen::{Screen, TEXT_MAX};
use mailslot::deliver::terminal::{PATIENCE, Terminals};
use mailslot::message::{BoxName, Content, Destination, Owner};
use nix::sys::termios::{InputFlags, OutputFlags};

use crate::harness::terminals::{Pty, write_utmp};

const SHOWN: &str = "\r\n\x07Message from <smith@alpha.arpa> at 14:05 ...\r\nlunch?\r\nEOF\r\n";

#[test]
fn who_accepts_messages_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let (ann, bo, other) = (Pty::open(), Pty::open(), Pty::open());
    let terminals = write_utmp(
        folder.path(),
        &[("ann", ann.line()), ("bo", bo.line()), ("anna", other.line())],
    );
    assert_eq!(
        terminals.show(&[user("ann"), user("cy"), user("bo")], &lunch()),
        [true, false, true]
    );
    assert_eq!(
        (ann.screen(), bo.screen(), other.screen()),
        (SHOWN.into(), SHOWN.into(), "".into())
    );
    for (name, accepts) in [("ann", true), ("bo", true), ("cy", false), ("an", false)] {
        assert_eq!(terminals.accept(&[user(name)]), accepts, "{name}");
        assert_eq!(terminals.accept(&[user("ann"), user(name)]), accepts, "{name} and ann");
    }
}

#[test]
fn who_accepts_none_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(folder.path(), &[("ann", pty.line())]);
    pty.mesg(false);
    assert!(!terminals.accept(&[user("ann")]));
    assert_eq!(terminals.show(&[user("ann")], &lunch()), [false]);
    assert_eq!(pty.screen(), "");
    // At any time, also in between.
    pty.mesg(true);
    assert!(terminals.accept(&[user("ann")]));
}

/// Whatever utmp says: a terminal has one owner.
#[test]
fn the_terminal_of_somebody_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(folder.path(), &[("ann", pty.line())]);
    let uid = nix::unistd::geteuid().as_raw();
    for (uid, shown) in [(uid.wrapping_add(1), false), (uid, true)] {
        let ann = Destination { owner: Some(Owner { uid, gid: 0 }), ..user("ann") };
        assert_eq!(terminals.accept(std::slice::from_ref(&ann)), shown);
        assert_eq!(terminals.show(&[ann], &lunch()), [shown]);
    }
    assert_eq!(pty.screen(), SHOWN);
}

#[test]
fn all_terminals_of_a_user_show_it_and_each_once() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two, closed) = (Pty::open(), Pty::open(), Pty::open());
    closed.mesg(false);
    // A login that ended badly has left its record.
    let lines = [one.line(), closed.line(), two.line(), one.line(), "pts/4294967295"];
    let terminals = write_utmp(folder.path(), &lines.map(|line| ("ann", line)));
    assert_eq!(terminals.show(&[user("ann")], &lunch()), [true]);
    assert_eq!([one.screen(), two.screen(), closed.screen()], [SHOWN, SHOWN, ""]);
}

#[test]
fn a_terminal_that_does_not_read_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (stopped, full, reading, also) = (Pty::open(), Pty::open(), Pty::open(), Pty::open());
    stopped.stop();
    full.fill();
    // More than the kernel can find room for.
    let text = "x".repeat(TEXT_MAX - 1);
    let shown = SHOWN.replace("lunch?", &text);
    let terminals = write_utmp(
        folder.path(),
        &[
            ("ann", stopped.line()),
            ("bo", full.line()),
            ("cy", reading.line()),
            ("dan", stopped.line()),
            ("dan", also.line()),
        ],
    );
    let begun = Instant::now();
    let users = ["ann", "bo", "cy", "dan"].map(user);
    assert_eq!(terminals.show(&users, &screen(&text)), [false, false, true, true]);
    // One wait for all of them together.
    assert!(begun.elapsed() >= PATIENCE && begun.elapsed() < PATIENCE * 5 / 2);
    assert_eq!([reading.screen(), also.screen()], [shown.as_str(), &shown]);
    // Without those that are stuck there is no wait.
    let begun = Instant::now();
    assert_eq!(terminals.show(&users[2..3], &lunch()), [true]);
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn a_terminal_that_reads_slowly_gets_it_all() {
    let folder = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(folder.path(), &[("ann", pty.line())]);
    let text = format!("{}<end>", "x".repeat(TEXT_MAX - 10));
    pty.fill();
    thread::scope(|scope| {
        let reader = scope.spawn(|| pty.read_to(b"<end>\r\nEOF\r\n"));
        assert_eq!(terminals.show(&[user("ann")], &screen(&text)), [true]);
        assert!(String::from_utf8(reader.join().unwrap()).unwrap().contains(&text));
    });
}

#[test]
fn a_terminal_that_is_gone_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(folder.path(), &[("ann", pty.line())]);
    assert!(terminals.accept(&[user("ann")]));
    drop(pty);
    assert!(!terminals.accept(&[user("ann")]));
    assert_eq!(terminals.show(&[user("ann")], &lunch()), [false]);
    // Nobody is logged in where nobody says so.
    fs::remove_file(&terminals.utmp).unwrap();
    assert!(!terminals.accept(&[user("ann")]));
}

#[test]
fn no_symbolic_link_leads_to_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    symlink(format!("/dev/{}", pty.line()), folder.path().join("link")).unwrap();
    symlink("/dev", folder.path().join("dev")).unwrap();
    let inside = format!("dev/{}", pty.line());
    let outside = format!("../../../../../../dev/{}", pty.line());
    let absolute = format!("/dev/{}", pty.line());
    for line in ["link", &inside, &outside, &absolute] {
        let utmp = write_utmp(folder.path(), &[("ann", line)]).utmp;
        let terminals = Terminals { utmp, dev: folder.path().to_owned() };
        assert_eq!(terminals.show(&[user("ann")], &lunch()), [false], "{line}");
    }
    assert_eq!(pty.screen(), "");
}

/// Octets of UTF-8 are controls to a terminal that knows none.
#[test]
fn a_terminal_gets_what_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let (modern, old, cooked) = (Pty::open(), Pty::open(), Pty::open());
    old.set(|settings| settings.input_flags.remove(InputFlags::IUTF8));
    cooked.set(|settings| settings.output_flags.insert(OutputFlags::OPOST | OutputFlags::ONLCR));
    let lines = [modern.line(), old.line(), cooked.line()];
    let terminals = write_utmp(folder.path(), &lines.map(|line| ("ann", line)));
    let text = "caf\u{e9} \u{db}2J \u{9b}2J \x1b[2J \x07 \x08";
    assert_eq!(terminals.show(&[user("ann")], &screen(text)), [true]);
    let head = SHOWN.split_once("lunch?").unwrap().0;
    let utf8 = format!("{head}caf\u{e9} \u{db}2J M-^[2J ^[[2J ^G ^H\r\nEOF\r\n");
    assert_eq!(modern.screen(), utf8);
    assert_eq!(old.screen(), format!("{head}caf? ?2J M-^[2J ^[[2J ^G ^H\r\nEOF\r\n"));
    // A second CR does nothing.
    assert_eq!(cooked.screen().replace("\r\r\n", "\r\n").trim_end(), utf8.trim_end());
}

fn user(name: &str) -> Destination {
    Destination {
        mailbox: BoxName::new(name).unwrap(),
        owner: None,
        delivered_to: format!("{name}@beta.arpa"),
    }
}

fn lunch() -> Screen {
    screen("lunch?")
}

fn screen(text: &str) -> Screen {
    let content = Content::Memory(format!("\n{text}\n").into_bytes().into());
    Screen::new("<smith@alpha.arpa>", "14:05", &content).unwrap()
}
