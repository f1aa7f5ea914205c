//! Held mail: what a client of this host sends and what cannot be delivered now waits in the queue,
//! and gets to each mailbox once.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailslot::message::peer::Peer;
use mailslot::message::{MailboxName, UserMailbox};
use mailslot::relay::queue::list::{self, ListFormat, ListView};
use mailslot::relay::queue::{self, QueueConfig, QueueHandle};
use mailslot::resolver::{AddressResolver, Refusal, Resolution};
use mailslot::session::{RelayPolicy, SessionConfig, SessionContext};
use mailslot::smtp::{ForwardPath, Mailbox};

use crate::harness::library::{MailStore, remote_peer, run_session};
use crate::harness::{TIMEOUT, wait_until};

/// Resolver of each local part to a mailbox of that name, and of `a+b` to two. The test says which
/// local parts cannot be looked up now, have an alias with an error, or do not exist.
#[derive(Default)]
pub struct TroubledResolver {
    failing: Mutex<BTreeSet<String>>,
    misconfigured: Mutex<BTreeSet<String>>,
    unknown: Mutex<BTreeSet<String>>,
}

impl AddressResolver for TroubledResolver {
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        let local = match to {
            ForwardPath::Postmaster => "postmaster",
            ForwardPath::Mailbox(mailbox) => mailbox.local(),
        };
        if self.failing.lock().unwrap().contains(local) {
            return Err(Refusal::LookupFailed("no answer".to_owned()));
        }
        if self.misconfigured.lock().unwrap().contains(local) {
            return Err(Refusal::Misconfigured("a loop".to_owned()));
        }
        if self.unknown.lock().unwrap().contains(local) {
            return Err(Refusal::Unknown);
        }
        if local == "away" {
            let remote = vec![Mailbox::parse("new@far.example").unwrap()];
            return Ok(Resolution { remote, ..Resolution::default() });
        }
        let mailbox = |name| UserMailbox {
            name: MailboxName::new(name).unwrap(),
            owner: None,
            delivered_to: format!("{name}@here.example").into(),
        };
        Ok(Resolution::local(local.split('+').map(mailbox).collect()))
    }
}

/// A host whose queue runs when a test asks for it.
pub struct Host {
    pub store: MailStore,
    resolver: Arc<TroubledResolver>,
    config: QueueConfig,
}

impl Host {
    pub fn new() -> Host {
        Host::with_limit(None)
    }

    fn with_limit(limit: Option<u64>) -> Host {
        let store = MailStore::with(|config| {
            config.lock_timeout = Duration::from_millis(300);
            config.mailbox_limit = limit;
        });
        let config = QueueConfig {
            spool: store.path().join("spool"),
            hostname: "here.example".to_owned(),
            timeout: TIMEOUT,
            ..QueueConfig::default()
        };
        queue::create_directory(&config.spool).unwrap();
        Host { store, resolver: Arc::default(), config }
    }

    fn sessions(&self, hold: bool) -> SessionContext {
        let hold = hold.then(QueueHandle::detached);
        let relay = None::<RelayPolicy>;
        let config = SessionConfig { hold, relay, ..self.store.session_settings() };
        let (writer, counters) = (self.store.handle.clone(), self.store.counters.clone());
        SessionContext::new(config, self.resolver.clone(), writer, counters)
    }

    /// Sends a message from a client at `peer`. Returns the codes of all replies.
    fn send_from(&self, peer: Peer, mail: &str, to: &[&str], hold: bool) -> String {
        let recipients: String = to.iter().map(|to| format!("RCPT TO:<{to}>\r\n")).collect();
        let input = format!(
            "EHLO client.example\r\nMAIL FROM:{mail}\r\n{recipients}DATA\r\n\
             Subject: hello\r\n\r\nFrom here\r\n.\r\nQUIT\r\n"
        );
        let (_, replies) = run_session(&self.sessions(hold), peer, input.as_bytes());
        let last = |line: &&str| line.as_bytes().get(3) == Some(&b' ');
        let codes: Vec<&str> = replies.lines().filter(last).map(|line| &line[..3]).collect();
        codes.join(" ")
    }

    /// Sends a message from a program of this host. Asserts that it is accepted for all of `to`.
    pub fn submit(&self, to: &[&str]) {
        let codes = self.send_from(Peer::Unix, "<smith@here.example>", to, true);
        let rcpt = "250 ".repeat(to.len());
        assert_eq!(codes, format!("220 250 250 {rcpt}354 250 221"));
    }

    pub fn flush(&self) -> usize {
        let (writer, counters) = (self.store.handle.clone(), self.store.counters.clone());
        queue::flush(self.config.clone(), self.resolver.clone(), writer, counters, &[], |_| {})
            .unwrap()
    }

    fn list(&self) -> String {
        list::list(&self.config.spool, ListFormat::Text, &ListView::default()).unwrap()
    }

    /// Returns the names of the files in the queue.
    fn files(&self) -> Vec<String> {
        self.store.names("spool/queue")
    }

    /// Returns the only entry of the queue.
    fn entry(&self) -> PathBuf {
        let mut entries = self.files();
        entries.retain(|name| name.ends_with("-held"));
        assert_eq!(entries.len(), 1, "{entries:?}");
        self.store.join("spool/queue").join(&entries[0])
    }

    /// Makes the only entry of the queue older by so many seconds.
    pub fn age(&self, seconds: i64) {
        let text = fs::read_to_string(self.entry()).unwrap();
        let (before, rest) = text.split_once("Mailslot-Queue: c10:").unwrap();
        let (came, rest) = rest.split_at(10);
        let came = came.parse::<i64>().unwrap() - seconds;
        fs::write(self.entry(), format!("{before}Mailslot-Queue: c10:{came}{rest}")).unwrap();
    }

    /// Makes the next attempt at the only entry one after which the message may be returned.
    pub fn set_enough_tries(&self) {
        let state = PathBuf::from(format!("{}.state", self.entry().display()));
        let text = fs::read_to_string(&state).unwrap_or_default();
        let text = match text.split_once("\ntries ") {
            Some((before, rest)) => {
                format!("{before}\ntries 20\n{}", rest.split_once('\n').unwrap().1)
            }
            None => "mailslot queue state 1\ntries 20\nnext 0\ngone \nlast \n".to_owned(),
        };
        fs::write(state, text).unwrap();
    }

    pub fn lock(&self, user: &str) -> ForeignLock {
        let path = self.store.join("mail").join(format!("{user}.lock"));
        File::create_new(&path).unwrap();
        ForeignLock(path)
    }

    fn counts<const N: usize>(&self, users: [&str; N]) -> [usize; N] {
        users.map(|user| self.store.count(user))
    }
}

/// The dotlock of another program.
pub struct ForeignLock(PathBuf);

impl Drop for ForeignLock {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

#[test]
fn mail_for_a_locked_mailbox_waits_and_arrives_once() {
    let host = Host::new();
    let lock = host.lock("smith");
    host.submit(&["smith@here.example", "jones@here.example"]);
    let listed = host.list();
    assert!(listed.contains("    to <smith@here.example>\n"), "{listed}");
    assert!(listed.contains("    last 451 4.2.0 "), "{listed}");
    assert!(listed.ends_with(&format!("1 in the queue, {} bytes\n", size_of(&listed))), "{listed}");
    // The first attempt delivers to the other recipient.
    assert_eq!(host.flush(), 1);
    assert_eq!(host.counts(["smith", "jones"]), [0, 1]);
    let listed = host.list();
    assert!(!listed.contains("jones") && listed.contains(" tries=1 "), "{listed}");
    assert!(listed.contains("    last the mailbox is locked by another program\n"), "{listed}");
    drop(lock);
    assert_eq!(host.flush(), 0);
    assert_eq!(host.counts(["smith", "jones"]), [1, 1]);
    assert_eq!(host.files(), [""; 0]);
    let mailbox = host.store.mailbox("smith");
    assert!(mailbox.starts_with("From smith@here.example "), "{mailbox}");
    for line in ["Return-Path: <smith@here.example>", "Delivered-To: smith@here.example"] {
        assert!(mailbox.contains(&format!("\n{line}\n")), "{mailbox}");
    }
    assert!(mailbox.ends_with("\nSubject: hello\n\n>From here\n\n"), "{mailbox}");
    assert!(!mailbox.contains("Mailslot-Queue"), "{mailbox}");
}

fn size_of(listed: &str) -> &str {
    let (_, rest) = listed.split_once(" size=").unwrap();
    rest.split(' ').next().unwrap()
}

#[test]
fn clients_elsewhere_and_hold_off_are_deferred() {
    let host = Host::new();
    let _lock = host.lock("smith");
    let loopback = Peer::ip(SocketAddr::from(([127, 0, 0, 1], 4711)));
    for (peer, hold, last) in [
        (remote_peer(7), true, "451"),
        (Peer::Unix, false, "451"),
        (loopback, false, "451"),
        (loopback, true, "250"),
        (Peer::Pipe, true, "250"),
    ] {
        let codes = host.send_from(peer, "<a@b.example>", &["smith@here.example"], hold);
        assert_eq!(codes, format!("220 250 250 250 354 {last} 221"), "{peer} {hold}");
    }
    host.resolver.failing.lock().unwrap().insert("jones".to_owned());
    let codes = host.send_from(remote_peer(7), "<a@b.example>", &["jones@here.example"], true);
    assert!(codes.starts_with("220 250 250 451 "), "{codes}");
    assert_eq!(host.list().matches("    to ").count(), 2);
}

#[test]
fn an_address_that_cannot_be_looked_up_waits_as_it_was_given() {
    let host = Host::new();
    host.resolver.failing.lock().unwrap().insert("smith".to_owned());
    host.resolver.misconfigured.lock().unwrap().insert("postmaster".to_owned());
    host.submit(&["smith@here.example", "jones@here.example", "Postmaster"]);
    assert_eq!(host.counts(["smith", "jones", "postmaster"]), [0, 1, 0]);
    let listed = host.list();
    assert!(listed.contains("    to <smith@here.example>\n    to <Postmaster>\n"), "{listed}");
    assert!(listed.contains("    last 451 4.3.0 RCPT: "), "{listed}");
    assert_eq!(host.flush(), 1);
    assert!(host.list().contains("    last 451 4.3.5 error in the aliases (a loop)\n"));
    host.resolver.misconfigured.lock().unwrap().clear();
    assert_eq!(host.flush(), 1);
    assert_eq!(host.counts(["smith", "jones", "postmaster"]), [0, 1, 1]);
    host.resolver.failing.lock().unwrap().clear();
    assert_eq!(host.flush(), 0);
    assert_eq!(host.counts(["smith", "jones", "postmaster"]), [1, 1, 1]);
    assert_eq!(host.files(), [""; 0]);
}

#[test]
fn a_full_or_unusable_mailbox_is_waited_for() {
    let host = Host::with_limit(Some(100));
    let mailbox = host.store.mailbox_path("smith");
    fs::write(&mailbox, "x".repeat(100)).unwrap();
    fs::create_dir(host.store.mailbox_path("jones")).unwrap();
    host.submit(&["smith@here.example", "jones@here.example"]);
    let listed = host.list();
    assert!(listed.contains("    last 552 5.2.2 RCPT TO:<smith@here.example>: "), "{listed}");
    assert_eq!(host.flush(), 1);
    fs::remove_file(&mailbox).unwrap();
    assert_eq!(host.flush(), 1, "the limit of 100 octets is too small for the message");
    fs::remove_dir(host.store.mailbox_path("jones")).unwrap();
    assert_eq!(host.flush(), 1);
    assert_eq!(host.counts(["smith", "jones"]), [0, 0]);
}

#[test]
fn no_mailbox_gets_a_message_twice_by_two_addresses() {
    let host = Host::new();
    // The list has jones, who is a recipient too; its lookup fails at first.
    host.resolver.failing.lock().unwrap().insert("jones+smith".to_owned());
    host.submit(&["jones@here.example", "jones+smith@here.example"]);
    assert_eq!(host.counts(["smith", "jones"]), [0, 1]);
    host.resolver.failing.lock().unwrap().clear();
    assert_eq!(host.flush(), 0);
    assert_eq!(host.counts(["smith", "jones"]), [1, 1]);
    // Both wait for the same mailbox, and a third is delivered in between.
    let lock = host.lock("brown");
    host.submit(&["brown@here.example", "brown+smith@here.example", "smith@here.example"]);
    assert_eq!(host.flush(), 1);
    assert_eq!(host.counts(["brown", "smith"]), [0, 1], "smith shares a copy with brown");
    host.resolver.failing.lock().unwrap().insert("brown+smith".to_owned());
    drop(lock);
    assert_eq!(host.flush(), 1);
    assert_eq!(host.counts(["brown", "smith"]), [1, 2]);
    host.resolver.failing.lock().unwrap().clear();
    assert_eq!(host.flush(), 0);
    assert_eq!(host.counts(["brown", "smith"]), [1, 2]);
    assert_eq!(host.files(), [""; 0]);
}

#[test]
fn a_receipt_finishes_its_recipient_after_a_crash() {
    let host = Host::new();
    let lock = host.lock("smith");
    host.submit(&["smith@here.example", "jones@here.example"]);
    let (path, entry) = (host.entry(), fs::read(host.entry()).unwrap());
    let state = format!("{}.state", path.display());
    host.flush();
    // The state and the removal of the receipt are lost: what is left is what a crash after the
    // writer's sync leaves.
    fs::remove_file(&state).unwrap();
    let receipt = format!("{}-done1", path.display());
    let text = String::from_utf8(entry).unwrap();
    let (before, rest) = text.split_once(",w").unwrap();
    assert!(rest.contains("t18:jones@here.example,"), "{rest}");
    let (_, content) = rest.split_once('\n').unwrap();
    fs::write(&receipt, format!("{before},g1:1,h5:jones,\n{content}")).unwrap();
    drop(lock);
    assert_eq!(host.flush(), 0);
    assert_eq!(host.counts(["smith", "jones"]), [1, 1]);
    assert_eq!(host.files(), [""; 0]);
}

#[test]
fn a_receipt_that_is_cut_short_is_waited_for() {
    let host = Host::new();
    let lock = host.lock("smith");
    host.submit(&["smith@here.example"]);
    drop(lock);
    let receipt = PathBuf::from(format!("{}-done0", host.entry().display()));
    fs::write(&receipt, "From smith@here").unwrap();
    assert_eq!(host.flush(), 1);
    assert_eq!(host.counts(["smith"]), [0]);
    fs::write(&receipt, "").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(host.flush(), 0, "an empty receipt from before the start has no record");
    assert_eq!(host.counts(["smith"]), [1]);
    assert_eq!(host.files(), [""; 0]);
}

#[test]
fn delay_and_failure_are_reported_to_the_sender() {
    let host = Host::new();
    host.resolver.failing.lock().unwrap().insert("jones".to_owned());
    host.submit(&["jones@here.example"]);
    host.age(5 * 3600);
    assert_eq!(host.flush(), 1);
    assert!(host.store.mailbox("smith").contains("\nAction: delayed\n"));
    assert_eq!(host.flush(), 1);
    assert_eq!(host.store.count("smith"), 1, "one warning");
    host.age(5 * 24 * 3600);
    host.set_enough_tries();
    assert_eq!(host.flush(), 0);
    assert_eq!(host.store.count("smith"), 2);
    let reports = host.store.mailbox("smith");
    assert!(reports.contains("\nAction: failed\nStatus: 5.4.7\n"), "{reports}");
    // A user that was removed meanwhile is reported at the next attempt.
    host.submit(&["jones@here.example"]);
    host.resolver.failing.lock().unwrap().clear();
    host.resolver.unknown.lock().unwrap().insert("jones".to_owned());
    assert_eq!(host.flush(), 0);
    assert_eq!(host.store.count("smith"), 3);
    let reports = host.store.mailbox("smith");
    assert!(reports.contains("\nAction: failed\nStatus: 5.1.1\n"), "{reports}");
    assert_eq!(host.files(), [""; 0]);
}

#[test]
fn report_to_the_mailbox_that_is_locked_does_not_multiply() {
    let host = Host::new();
    let lock = host.lock("smith");
    host.submit(&["smith@here.example"]);
    host.age(6 * 24 * 3600);
    host.set_enough_tries();
    for _ in 0..3 {
        assert_eq!(host.flush(), 1);
        assert_eq!(host.files().iter().filter(|name| name.ends_with("-held")).count(), 1);
    }
    drop(lock);
    assert_eq!(host.flush(), 0);
    assert_eq!(host.files(), [""; 0]);
    // The message itself arrives, and no report is needed.
    assert_eq!(host.store.count("smith"), 1);
    assert!(host.store.mailbox("smith").ends_with("\n>From here\n\n"));
}

#[test]
fn failure_of_mail_without_a_sender_is_reported_to_postmaster() {
    let host = Host::new();
    host.resolver.failing.lock().unwrap().insert("jones".to_owned());
    host.send_from(Peer::Unix, "<>", &["jones@here.example"], true);
    host.age(6 * 24 * 3600);
    host.set_enough_tries();
    assert_eq!(host.flush(), 0);
    assert_eq!(host.store.count("postmaster"), 1);
}

#[test]
fn success_is_reported_when_the_queue_delivers() {
    let host = Host::new();
    let lock = host.lock("smith");
    let input = b"EHLO client.example\r\nMAIL FROM:<alan@here.example>\r\n\
        RCPT TO:<smith@here.example> NOTIFY=SUCCESS\r\nDATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n";
    let (_, replies) = run_session(&host.sessions(true), Peer::Unix, input);
    assert!(replies.contains("\n250 2.6.0 Message: OK, queued as "), "{replies}");
    host.flush();
    assert_eq!(host.store.count("alan"), 0);
    drop(lock);
    assert_eq!(host.flush(), 0);
    let report = host.store.mailbox("alan");
    assert!(report.contains("\nAction: delivered\n"), "{report}");
    assert_eq!(host.counts(["smith", "alan"]), [1, 1]);
}

#[test]
fn alias_that_leads_elsewhere_by_now_is_relayed() {
    let host = Host::new();
    host.resolver.failing.lock().unwrap().insert("away".to_owned());
    host.submit(&["away@here.example"]);
    host.resolver.failing.lock().unwrap().clear();
    assert_eq!(host.flush(), 1);
    let listed = host.list();
    assert!(listed.contains("    to <new@far.example>\n"), "{listed}");
    assert_eq!(host.files().iter().filter(|name| name.ends_with("-held")).count(), 0);
}

#[test]
fn prdr_has_one_reply_for_all_if_mail_is_held() {
    let host = Host::new();
    let lock = host.lock("smith");
    let input = b"EHLO client.example\r\nMAIL FROM:<a@here.example> PRDR\r\n\
        RCPT TO:<smith@here.example>\r\nRCPT TO:<jones@here.example>\r\n\
        DATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n";
    let (_, replies) = run_session(&host.sessions(true), Peer::Unix, input);
    let (_, after) = replies.split_once("\n353 ").unwrap();
    let codes: Vec<&str> = after.lines().skip(1).map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "250", "221"], "{replies}");
    drop(lock);
    assert_eq!(host.flush(), 0);
    assert_eq!(host.counts(["smith", "jones"]), [1, 1]);
}

#[test]
fn large_message_is_held_and_delivered_whole() {
    let host = Host::new();
    let lock = host.lock("smith");
    let line = format!("{}\r\n", "y".repeat(500));
    let mut input = b"EHLO client.example\r\nMAIL FROM:<a@here.example>\r\n\
        RCPT TO:<smith@here.example>\r\nDATA\r\nSubject: x\r\n\r\n"
        .to_vec();
    let (mut client, server) = std::os::unix::net::UnixStream::pair().unwrap();
    input.extend(line.repeat(1000).into_bytes());
    input.extend(b".\r\nQUIT\r\n");
    let writer = std::thread::spawn(move || {
        std::io::Write::write_all(&mut client, &input).unwrap();
        let mut replies = String::new();
        std::io::Read::read_to_string(&mut client, &mut replies).unwrap();
        replies
    });
    let socket = mailslot::net::stream::Socket::Unix(server);
    let mut stream =
        mailslot::net::stream::Stream::new(socket, Peer::Unix, TIMEOUT, TIMEOUT).unwrap();
    let end = host.sessions(true).serve(&mut stream);
    stream.close(end.lingers());
    let replies = writer.join().unwrap();
    assert!(replies.contains("queued as"), "{replies}");
    drop(lock);
    assert_eq!(host.flush(), 0);
    let mailbox = host.store.mailbox("smith");
    assert!(mailbox.ends_with(&format!("\n\n{}\n", line.replace('\r', "").repeat(1000))));
}

#[test]
fn running_queue_delivers_without_a_smarthost() {
    let host = Host::new();
    let (writer, counters) = (host.store.handle.clone(), host.store.counters.clone());
    let (queue, thread) =
        queue::start(host.config.clone(), host.resolver.clone(), writer, counters).unwrap();
    let lock = host.lock("smith");
    host.submit(&["smith@here.example", "jones@here.example"]);
    let id = host.entry().file_name().unwrap().to_str().unwrap().to_owned();
    queue.entry_created(&id);
    wait_until("jones has the message", || host.store.count("jones") == 1);
    wait_until("the attempt is recorded", || host.list().contains(" tries=1 "));
    drop(lock);
    thread.stop(TIMEOUT);
    assert_eq!(host.flush(), 0);
    assert_eq!(host.counts(["smith", "jones"]), [1, 1]);
}
