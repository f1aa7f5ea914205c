//! Readers that others wrote, on mailboxes that the real program fills: each finds every message,
//! with its text unchanged; and takes messages out while others arrive, without losing one.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::TIMEOUT;
use crate::harness::external::{
    self, difficult_messages, external, python, run, run_for_text, send_files, smtp_source,
    write_all,
};
use crate::harness::mbox::{self, Mail, assert_same};
use crate::harness::server::Server;

/// A server that has delivered the hard messages to Jones.
fn filled() -> (Server, Vec<Vec<u8>>) {
    let server = Server::start(&[]);
    let messages = difficult_messages();
    let files = write_all(&messages, &server.join("sent"));
    send_files(&server, "jones@localhost", &files);
    (server, messages)
}

/// A message as a reader shows it: all but the From_ line.
fn shown(text: Vec<u8>) -> Mail {
    Mail { text, ..Mail::default() }
}

/// The messages in `folder`, a file each: `0`, `1`, ...
fn exported(directory: &Path) -> Vec<Vec<u8>> {
    let count = fs::read_dir(directory).unwrap().count();
    (0..count).map(|number| fs::read(directory.join(number.to_string())).unwrap()).collect()
}

/// A message without the From_ line that must be there.
fn without_from(message: Vec<u8>) -> Vec<u8> {
    assert!(message.starts_with(b"From smith@example.org "));
    let end = message.iter().position(|octet| *octet == b'\n').unwrap() + 1;
    message[end..].to_vec()
}

/// Asserts that a reader that does not undo the quoting found all that was sent, in that order.
fn assert_read(found: Vec<Vec<u8>>, sent: &[Vec<u8>]) {
    assert_eq!(found.len(), sent.len());
    for (number, (found, sent)) in found.into_iter().zip(sent).enumerate() {
        let found = mbox::without_trace(&shown(found));
        assert_same(&found, &mbox::kept(sent), &format!("message {number}"));
    }
}

#[test]
#[ignore = "needs Python"]
fn python_reads() {
    let (server, sent) = filled();
    let directory = server.join("export");
    let mut export = python("mbox.py", server.path());
    run(export.arg("export").arg(server.mailbox_path("jones")).arg(&directory));
    assert_read(exported(&directory), &sent);
}

/// mutt, at a terminal of its own, told to take these keys for pressed.
fn mutt(server: &Server, settings: &str, keys: &str) -> Command {
    let file = server.join("muttrc");
    // None of its questions may eat a key.
    let all = "set folder=. confirmappend=no confirmcreate=no delete=yes move=no beep=no \
        wait_key=no sleep_time=0";
    fs::write(&file, format!("{all}\n{settings}\npush '{keys}'\n")).unwrap();
    let mut command = python("terminal.py", server.path());
    command.args(["mutt", "-n", "-F", "muttrc", "-f"]).arg(server.mailbox_path("jones"));
    command.env("TERM", "xterm");
    command
}

#[test]
#[ignore = "needs mutt and Python"]
fn mutt_reads() {
    let (server, sent) = filled();
    let directory = server.join("export");
    fs::create_dir(&directory).unwrap();
    let keys = "<tag-pattern>~A<enter><tag-prefix>\
        <pipe-message>cat >export/$(ls export | wc -l)<enter><exit>";
    run(&mut mutt(&server, "set pipe_split=yes pipe_decode=no", keys));
    // It ends each with one line more.
    let text = |message: Vec<u8>| without_from(message.strip_suffix(b"\n").unwrap().to_vec());
    assert_read(exported(&directory).into_iter().map(text).collect(), &sent);
}

/// It undoes the quoting, and ends each message with two lines more.
#[test]
#[ignore = "needs mailutils"]
fn mailutils_reads() {
    let (server, sent) = filled();
    let mailbox = server.mailbox_path("jones");
    let mut found = Vec::new();
    for number in 1..=sent.len() {
        let mut readmsg = external("readmsg", server.path());
        let text = run(readmsg.args(["--header", "-f"]).arg(&mailbox).arg(number.to_string()));
        found.push(text.strip_suffix(b"\n\n").unwrap().to_vec());
    }
    for (number, (found, sent)) in found.into_iter().zip(&sent).enumerate() {
        let found = mbox::below_trace(&without_from(found));
        assert_same(&found, &mbox::kept(sent), &format!("message {number}"));
    }
    let count = run_for_text(external("messages", server.path()).arg(&mailbox));
    assert!(count.trim_end().ends_with(&format!(": {}", sent.len())), "{count}");
    // Its status tells whether any of them is new.
    let subjects = external("frm", server.path()).arg("-l").arg(&mailbox).output().unwrap().stdout;
    let subjects = String::from_utf8(subjects).unwrap();
    let mut headers = external("mail.mailutils", server.path());
    let headers = run_for_text(headers.args(["--nosum", "--headers", "--file"]).arg(&mailbox));
    for number in 0..sent.len() {
        let subject = format!("hard {number}");
        let among = |lines: &str| lines.lines().any(|line| line.trim_end().ends_with(&subject));
        assert!(among(&subjects) && among(&headers), "{subject} in\n{subjects}\n{headers}");
    }
}

/// Dovecot's programs on Jones's mailbox, with no server behind them: `imap` speaks on a pipe.
struct Dovecot {
    directory: PathBuf,
}

impl Dovecot {
    fn new(server: &Server) -> Dovecot {
        let directory = server.join("dovecot");
        fs::create_dir(&directory).unwrap();
        let inbox = server.mailbox_path("jones");
        let (root, inbox) = (directory.display(), inbox.display());
        let settings = format!(
            "base_dir = {root}\nlog_path = {root}/log\nprotocols =\nssl = no\n\
             mail_location = mbox:{root}/mail:INBOX={inbox}\n\
             mail_privileged_group =\nmail_access_groups =\nstats_writer_socket_path =\n"
        );
        fs::write(directory.join("conf"), settings).unwrap();
        Dovecot { directory }
    }

    /// The command line, for a shell. Dovecot serves everybody but root, so root takes another
    /// name, in a namespace of its own.
    fn command(&self, program: &str) -> String {
        let conf = self.directory.join("conf");
        let command = format!("{program} -c {}", conf.display());
        match nix::unistd::geteuid().is_root() {
            true => format!("unshare --user --map-user=1000 --map-group=1000 {command}"),
            false => command,
        }
    }

    /// What it complains of.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn imap(&self) -> String {
        self.command("/usr/lib/dovecot/imap")
    }
}

#[test]
#[ignore = "needs dovecot-imapd"]
fn dovecot_reads() {
    let (server, sent) = filled();
    let dovecot = Dovecot::new(&server);
    let directory = server.join("export");
    let mut export = python("imap.py", server.path());
    run(export.args(["export", &dovecot.imap()]).arg(&directory));
    assert_read(exported(&directory), &sent);
    let status = dovecot.command("doveadm") + " mailbox status messages INBOX";
    let status = run_for_text(external("sh", server.path()).args(["-c", &status]));
    assert_eq!(status.trim_end(), format!("INBOX messages={}", sent.len()));
}

/// How many messages arrive while a reader takes them out.
const ARRIVING: usize = 400;
/// Their octets.
const OCTETS: usize = 4096;

/// Sends to Jones while `take` runs.
fn while_mail_arrives(server: &Server, take: impl FnOnce()) {
    // Some readers cannot open a mailbox that is not there yet.
    let mailbox = server.mailbox_path("jones");
    OpenOptions::new().append(true).create(true).mode(0o600).open(mailbox).unwrap();
    let options = format!("-s 10 -m {ARRIVING} -l {OCTETS}");
    let source = smtp_source(server.address, server.path(), "jones", &options);
    take();
    source.ended();
    // Dovecot and others may keep a message of their own there.
    let left = server.mailbox("jones");
    assert!(!left.contains("smith@example.org"), "left behind: {left}");
}

#[test]
#[ignore = "needs Python and smtp-source"]
fn python_takes_messages_out_while_others_arrive() {
    let server = Server::start(&[]);
    let directory = server.join("export");
    let mut take = python("mbox.py", server.path());
    take.arg("take").arg(server.mailbox_path("jones")).arg(&directory).arg(ARRIVING.to_string());
    while_mail_arrives(&server, || drop(run(&mut take)));
    external::assert_from_smtp_source(&exported(&directory), ARRIVING, OCTETS);
}

#[test]
#[ignore = "needs dovecot-imapd, Python and smtp-source"]
fn dovecot_takes_messages_out_while_others_arrive() {
    let server = Server::start(&[]);
    let dovecot = Dovecot::new(&server);
    let directory = server.join("export");
    let mut take = python("imap.py", server.path());
    take.args(["take", &dovecot.imap()]).arg(&directory).arg(ARRIVING.to_string());
    while_mail_arrives(&server, || drop(run(&mut take)));
    println!("dovecot's log:\n{}", dovecot.log());
    external::assert_from_smtp_source(&exported(&directory), ARRIVING, OCTETS);
}

/// Runs `once`, which moves what it finds to the mailbox `taken`, until all messages are there.
/// Returns them.
fn moved(server: &Server, mut once: impl FnMut(&Path)) -> Vec<Mail> {
    let taken = server.join("taken");
    let deadline = Instant::now() + TIMEOUT;
    loop {
        once(&taken);
        let mails = mbox::read(&taken);
        let ids: BTreeSet<_> = mails.iter().map(|mail| mail.field("Message-Id")).collect();
        if ids.len() == ARRIVING && server.mailbox("jones").is_empty() {
            return mails;
        }
        assert!(Instant::now() < deadline, "{} of {ARRIVING}", ids.len());
    }
}

fn texts(mails: Vec<Mail>) -> Vec<Vec<u8>> {
    mails.into_iter().map(|mail| mail.text).collect()
}

#[test]
#[ignore = "needs mutt, Python and smtp-source"]
fn mutt_takes_messages_out_while_others_arrive() {
    let server = Server::start(&[]);
    let keys = "<tag-pattern>~A<enter><tag-prefix><save-message>taken<enter><sync-mailbox><exit>";
    let mut mails = Vec::new();
    while_mail_arrives(&server, || {
        mails = moved(&server, |_| drop(run(&mut mutt(&server, "set mbox_type=mbox", keys))));
    });
    // When mail arrives between its copy and its removal it leaves the mailbox as it is, and copies
    // again the next time.
    let mut ids = BTreeSet::new();
    mails.retain(|mail| ids.insert(mail.field("Message-Id")));
    external::assert_from_smtp_source(&texts(mails), ARRIVING, OCTETS);
}

#[test]
#[ignore = "needs mailutils and smtp-source"]
fn movemail_takes_messages_out_while_others_arrive() {
    let server = Server::start(&[]);
    let mailbox = server.mailbox_path("jones");
    let mut mails = Vec::new();
    while_mail_arrives(&server, || {
        mails = moved(&server, |taken| {
            run(external("movemail", server.path()).arg(&mailbox).arg(taken));
        });
    });
    external::assert_from_smtp_source(&texts(mails), ARRIVING, OCTETS);
}
