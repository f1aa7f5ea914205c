//! Messages on real terminals: which users see them, and that no terminal blocks the server.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use mailslot::deliver::ContentSpool;
use mailslot::deliver::disk::HostDisk;
use mailslot::message::{Content, MailboxName, Owner, UserMailbox};
use mailslot::terminal::render::{RenderedMessage, TEXT_MAX};
use mailslot::terminal::{Terminals, WRITE_TIMEOUT};
use nix::sys::termios::{InputFlags, OutputFlags};

use crate::harness::message::content_file;
use crate::harness::terminals::{Pty, write_utmp};

const SHOWN: &str = "\r\n\x07Message from <smith@alpha.arpa> at 14:05 ...\r\nlunch?\r\nEOF\r\n";

#[test]
fn message_is_shown_to_users_who_accept_messages() {
    let directory = tempfile::tempdir().unwrap();
    let (ann, bo, other) = (Pty::open(), Pty::open(), Pty::open());
    let terminals = write_utmp(
        directory.path(),
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
        assert_eq!(terminals.are_active(&[user(name)]), accepts, "{name}");
        assert_eq!(terminals.are_active(&[user("ann"), user(name)]), accepts, "{name} and ann");
    }
}

#[test]
fn terminal_that_refuses_messages_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(directory.path(), &[("ann", pty.line())]);
    pty.mesg(false);
    assert!(!terminals.are_active(&[user("ann")]));
    assert_eq!(terminals.show(&[user("ann")], &lunch()), [false]);
    assert_eq!(pty.screen(), "");
    // Also changed in between.
    pty.mesg(true);
    assert!(terminals.are_active(&[user("ann")]));
}

/// A terminal has one owner, even if utmp names another user.
#[test]
fn terminal_of_another_owner_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(directory.path(), &[("ann", pty.line())]);
    let uid = nix::unistd::geteuid().as_raw();
    for (uid, shown) in [(uid.wrapping_add(1), false), (uid, true)] {
        let ann = UserMailbox { owner: Some(Owner { uid, gid: 0 }), ..user("ann") };
        assert_eq!(terminals.are_active(std::slice::from_ref(&ann)), shown);
        assert_eq!(terminals.show(&[ann], &lunch()), [shown]);
    }
    assert_eq!(pty.screen(), SHOWN);
}

#[test]
fn each_terminal_of_a_user_shows_it_once() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two, closed) = (Pty::open(), Pty::open(), Pty::open());
    closed.mesg(false);
    // A login that ended abnormally has left its record.
    let lines = [one.line(), closed.line(), two.line(), one.line(), "pts/4294967295"];
    let terminals = write_utmp(directory.path(), &lines.map(|line| ("ann", line)));
    assert_eq!(terminals.show(&[user("ann")], &lunch()), [true]);
    assert_eq!([one.screen(), two.screen(), closed.screen()], [SHOWN, SHOWN, ""]);
}

#[test]
fn blocked_terminal_delays_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (stopped, full, reading, also) = (Pty::open(), Pty::open(), Pty::open(), Pty::open());
    stopped.stop();
    full.fill();
    // More than the kernel can buffer.
    let text = "x".repeat(TEXT_MAX - 1);
    let shown = SHOWN.replace("lunch?", &text);
    let terminals = write_utmp(
        directory.path(),
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
    // All of them are waited for at the same time.
    assert!(begun.elapsed() >= WRITE_TIMEOUT && begun.elapsed() < WRITE_TIMEOUT * 5 / 2);
    assert_eq!([reading.screen(), also.screen()], [shown.as_str(), &shown]);
    // Without blocked terminals there is no wait.
    let begun = Instant::now();
    assert_eq!(terminals.show(&users[2..3], &lunch()), [true]);
    assert!(begun.elapsed() < WRITE_TIMEOUT);
}

#[test]
fn slow_terminal_gets_the_whole_message() {
    let directory = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(directory.path(), &[("ann", pty.line())]);
    let text = format!("{}<end>", "x".repeat(TEXT_MAX - 10));
    pty.fill();
    thread::scope(|scope| {
        let reader = scope.spawn(|| pty.read_to(b"<end>\r\nEOF\r\n"));
        assert_eq!(terminals.show(&[user("ann")], &screen(&text)), [true]);
        assert!(String::from_utf8(reader.join().unwrap()).unwrap().contains(&text));
    });
}

#[test]
fn closed_terminal_is_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    let terminals = write_utmp(directory.path(), &[("ann", pty.line())]);
    assert!(terminals.are_active(&[user("ann")]));
    drop(pty);
    assert!(!terminals.are_active(&[user("ann")]));
    assert_eq!(terminals.show(&[user("ann")], &lunch()), [false]);
    // Without a utmp file no user is logged in.
    fs::remove_file(&terminals.utmp).unwrap();
    assert!(!terminals.are_active(&[user("ann")]));
}

#[test]
fn symbolic_links_to_terminals_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let pty = Pty::open();
    symlink(format!("/dev/{}", pty.line()), directory.path().join("link")).unwrap();
    symlink("/dev", directory.path().join("dev")).unwrap();
    let inside = format!("dev/{}", pty.line());
    let outside = format!("../../../../../../dev/{}", pty.line());
    let absolute = format!("/dev/{}", pty.line());
    for line in ["link", &inside, &outside, &absolute] {
        let utmp = write_utmp(directory.path(), &[("ann", line)]).utmp;
        let terminals = Terminals { utmp, dev: directory.path().to_owned() };
        assert_eq!(terminals.show(&[user("ann")], &lunch()), [false], "{line}");
    }
    assert_eq!(pty.screen(), "");
}

/// A terminal without UTF-8 takes bytes of UTF-8 for control characters.
#[test]
fn control_characters_depend_on_the_terminal() {
    let directory = tempfile::tempdir().unwrap();
    let (modern, old, cooked) = (Pty::open(), Pty::open(), Pty::open());
    old.set(|config| config.input_flags.remove(InputFlags::IUTF8));
    cooked.set(|config| config.output_flags.insert(OutputFlags::OPOST | OutputFlags::ONLCR));
    let lines = [modern.line(), old.line(), cooked.line()];
    let terminals = write_utmp(directory.path(), &lines.map(|line| ("ann", line)));
    let text = "caf\u{e9} \u{db}2J \u{9b}2J \x1b[2J \x07 \x08";
    assert_eq!(terminals.show(&[user("ann")], &screen(text)), [true]);
    let head = SHOWN.split_once("lunch?").unwrap().0;
    let utf8 = format!("{head}caf\u{e9} \u{db}2J M-^[2J ^[[2J ^G ^H\r\nEOF\r\n");
    assert_eq!(modern.screen(), utf8);
    assert_eq!(old.screen(), format!("{head}caf? ?2J M-^[2J ^[[2J ^G ^H\r\nEOF\r\n"));
    // A second CR has no effect.
    assert_eq!(cooked.screen().replace("\r\r\n", "\r\n").trim_end(), utf8.trim_end());
}

fn user(name: &str) -> UserMailbox {
    UserMailbox {
        name: MailboxName::new(name).unwrap(),
        owner: None,
        delivered_to: format!("{name}@beta.arpa").into(),
    }
}

#[test]
fn content_in_a_file_is_shown_as_content_in_memory_is() {
    let directory = tempfile::tempdir().unwrap();
    let contents = ContentSpool::new(Arc::new(HostDisk::new()), directory.path());
    let bytes = format!("\n{}\n", "x".repeat(1000)).into_bytes();
    let in_file = Content::File(content_file(&contents, &bytes).unwrap().into());
    let render = |content| RenderedMessage::new("<s@a>", "14:05", &content).unwrap();
    assert_eq!(render(in_file), render(Content::Memory(bytes.into())));
}

fn lunch() -> RenderedMessage {
    screen("lunch?")
}

fn screen(text: &str) -> RenderedMessage {
    let content = Content::Memory(format!("\n{text}\n").into_bytes().into());
    RenderedMessage::new("<smith@alpha.arpa>", "14:05", &content).unwrap()
}
