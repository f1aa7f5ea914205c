//! Mail readers of other projects on mailboxes of the real program. They find every message
//! unchanged, and take messages out while others arrive, without losing one.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::harness::TIMEOUT;
use crate::harness::directory::TestDirectory;
use crate::harness::external::{
    self, difficult_messages, external, python, run, run_for_text, send_files, smtp_source,
    write_all,
};
use crate::harness::mbox::{self, Mail, assert_same};
use crate::harness::server::Server;

/// Starts a server that has delivered the difficult messages to jones.
fn filled() -> (Server, Vec<Vec<u8>>) {
    let server = Server::start(&[]);
    let messages = difficult_messages();
    let files = write_all(&messages, &server.join("sent"));
    send_files(&server, "jones@localhost", &files);
    (server, messages)
}

/// Returns a message as a reader shows it, without the From_ line.
fn shown(text: Vec<u8>) -> Mail {
    Mail { text, ..Mail::default() }
}

/// Returns the messages in a directory, in the files `0`, `1`, and so on.
fn exported(directory: &Path) -> Vec<Vec<u8>> {
    let count = fs::read_dir(directory).unwrap().count();
    (0..count).map(|number| fs::read(directory.join(number.to_string())).unwrap()).collect()
}

/// Returns a message without its From_ line.
fn without_from(message: Vec<u8>) -> Vec<u8> {
    assert!(message.starts_with(b"From smith@example.org "));
    let end = message.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    message[end..].to_vec()
}

/// Asserts that a reader that does not undo the quoting found all messages, in order.
fn assert_read(found: Vec<Vec<u8>>, sent: &[Vec<u8>]) {
    assert_eq!(found.len(), sent.len());
    for (number, (found, sent)) in found.into_iter().zip(sent).enumerate() {
        let found = mbox::without_trace(&shown(found));
        assert_same(&found, &mbox::kept(sent), &format!("message {number}"));
    }
}

#[test]
#[ignore = "needs Python"]
fn python_finds_all_messages() {
    let (server, sent) = filled();
    let directory = server.join("export");
    let mut export = python("mbox.py", server.path());
    run(export.arg("export").arg(server.mailbox_path("jones")).arg(&directory));
    assert_read(exported(&directory), &sent);
}

/// Returns mutt, at a terminal of its own, with these keys pressed.
fn mutt(server: &Server, settings: &str, keys: &str) -> Command {
    let file = server.join("muttrc");
    // No question may take a key.
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
fn mutt_finds_all_messages() {
    let (server, sent) = filled();
    let directory = server.join("export");
    fs::create_dir(&directory).unwrap();
    let keys = "<tag-pattern>~A<enter><tag-prefix>\
        <pipe-message>cat >export/$(ls export | wc -l)<enter><exit>";
    run(&mut mutt(&server, "set pipe_split=yes pipe_decode=no", keys));
    // mutt ends each message with one more line.
    let text = |message: Vec<u8>| without_from(message.strip_suffix(b"\n").unwrap().to_vec());
    assert_read(exported(&directory).into_iter().map(text).collect(), &sent);
}

/// mailutils undoes the quoting, and ends each message with two more lines.
#[test]
#[ignore = "needs mailutils"]
fn mailutils_finds_all_messages() {
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
    // The exit status says whether a message is new.
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

/// Programs of Dovecot on the mailbox of jones, without its server: `imap` on a pipe.
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

    /// Returns the command line, for a shell. Dovecot does not serve root, so root takes another
    /// user id in a user namespace.
    fn command(&self, program: &str) -> String {
        let conf = self.directory.join("conf");
        let command = format!("{program} -c {}", conf.display());
        match nix::unistd::geteuid().is_root() {
            true => format!("unshare --user --map-user=1000 --map-group=1000 {command}"),
            false => command,
        }
    }

    /// Returns its log.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn imap(&self) -> String {
        self.command("/usr/lib/dovecot/imap")
    }
}

#[test]
#[ignore = "needs dovecot-imapd"]
fn dovecot_finds_all_messages() {
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

/// Number of messages that arrive while a reader takes them out.
const ARRIVING: usize = 400;
/// Their length in bytes.
const LENGTH: usize = 4096;

/// Sends messages to jones while `take` runs.
fn while_mail_arrives(server: &Server, take: impl FnOnce()) {
    // Some readers cannot open a mailbox that does not exist.
    let mailbox = server.mailbox_path("jones");
    OpenOptions::new().append(true).create(true).mode(0o600).open(mailbox).unwrap();
    let options = format!("-s 10 -m {ARRIVING} -l {LENGTH}");
    let source = smtp_source(server.address, server.path(), "jones", &options);
    take();
    source.ended();
    // Some readers keep a message of their own there.
    let left = server.mailbox("jones");
    assert!(!left.contains("smith@example.org"), "left in the mailbox: {left}");
}

#[test]
#[ignore = "needs Python and smtp-source"]
fn python_takes_messages_while_others_arrive() {
    let server = Server::start(&[]);
    let directory = server.join("export");
    let mut take = python("mbox.py", server.path());
    take.arg("take").arg(server.mailbox_path("jones")).arg(&directory).arg(ARRIVING.to_string());
    while_mail_arrives(&server, || drop(run(&mut take)));
    external::assert_from_smtp_source(&exported(&directory), ARRIVING, LENGTH);
}

#[test]
#[ignore = "needs dovecot-imapd, Python and smtp-source"]
fn dovecot_takes_messages_while_others_arrive() {
    let server = Server::start(&[]);
    let dovecot = Dovecot::new(&server);
    let directory = server.join("export");
    let mut take = python("imap.py", server.path());
    take.args(["take", &dovecot.imap()]).arg(&directory).arg(ARRIVING.to_string());
    while_mail_arrives(&server, || drop(run(&mut take)));
    println!("dovecot's log:\n{}", dovecot.log());
    external::assert_from_smtp_source(&exported(&directory), ARRIVING, LENGTH);
}

/// Runs `once`, which moves messages to the mailbox `taken`, until all are there. Returns them.
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
fn mutt_takes_messages_while_others_arrive() {
    let server = Server::start(&[]);
    let keys = "<tag-pattern>~A<enter><tag-prefix><save-message>taken<enter><sync-mailbox><exit>";
    let mut mails = Vec::new();
    while_mail_arrives(&server, || {
        mails = moved(&server, |_| drop(run(&mut mutt(&server, "set mbox_type=mbox", keys))));
    });
    // If mail arrives between its copy and its removal, mutt leaves the mailbox unchanged, and
    // copies again the next time.
    let mut ids = BTreeSet::new();
    mails.retain(|mail| ids.insert(mail.field("Message-Id")));
    external::assert_from_smtp_source(&texts(mails), ARRIVING, LENGTH);
}

#[test]
#[ignore = "needs mailutils and smtp-source"]
fn movemail_takes_messages_while_others_arrive() {
    let server = Server::start(&[]);
    let mailbox = server.mailbox_path("jones");
    let mut mails = Vec::new();
    while_mail_arrives(&server, || {
        mails = moved(&server, |taken| {
            run(external("movemail", server.path()).arg(&mailbox).arg(taken));
        });
    });
    external::assert_from_smtp_source(&texts(mails), ARRIVING, LENGTH);
}

/// The reports in `tests/golden`, which a quick test compares with those that the queue makes.
#[test]
#[ignore = "needs python3"]
fn reports_are_read_by_python() {
    let home = TestDirectory::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let reports = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    let printed = run_for_text(python("report.py", home.path()).args(reports));
    let delayed = "Delayed: Monthly figures of the B\u{fc}cher-Abteilung, with a subject that has";
    assert!(printed.contains(delayed), "{printed}");
    assert_eq!(printed.lines().count(), 4, "{printed}");
}
