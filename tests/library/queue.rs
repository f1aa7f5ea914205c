//! The queue: entries in a spool, and a smarthost that follows a script.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use mailslot::deliver::{Outcome, mbox};
use mailslot::message::{Content, MailboxName, Message, UserMailbox};
use mailslot::relay::queue::{self, QueueConfig, QueueHandle, QueueThreads, Smarthost, list};
use mailslot::resolver::{AddressResolver, Member, Refusal, Resolution};
use mailslot::smtp::command::Command;
use mailslot::smtp::dsn::{DsnNotify, DsnReturn, OriginalRecipient};
use mailslot::smtp::{Envelope, EtrnNode, ForwardPath, Mailbox, Recipient, ReversePath};

use crate::harness::library::MailStore;
use crate::harness::outbound::{self, client_config};
use crate::harness::scripted_server::{Action, ScriptedServer, reply, usual};
use crate::harness::{TIMEOUT, wait_until};

/// Resolver of here.example to mailboxes, except `nobody`, and all other domains to the queue.
struct TestQueueResolver {
    /// Address of postmaster, if it is on another host.
    postmaster: Option<&'static str>,
}

impl AddressResolver for TestQueueResolver {
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        let to = match (to, self.postmaster) {
            (ForwardPath::Mailbox(to), _) => to.clone(),
            (ForwardPath::Postmaster, elsewhere) => {
                Mailbox::parse(elsewhere.unwrap_or("postmaster@here.example")).unwrap()
            }
        };
        if to.domain().to_string() != "here.example" {
            return Ok(Resolution { remote: vec![to], is_relay: true, ..Resolution::default() });
        }
        if to.local() == "nobody" {
            return Err(Refusal::Unknown);
        }
        let name = MailboxName::new(to.local()).unwrap();
        let local = vec![UserMailbox { name, owner: None, delivered_to: to.to_string().into() }];
        Ok(Resolution::local(local))
    }

    fn vrfy(&self, _: &str) -> Result<Member, Refusal> {
        Err(Refusal::Unknown)
    }

    fn expn(&self, _: &str) -> Result<Vec<Member>, Refusal> {
        Err(Refusal::Unknown)
    }
}

/// A host that runs its queue when a test asks for it.
pub struct Host {
    pub store: MailStore,
    pub config: QueueConfig,
    resolver: Arc<TestQueueResolver>,
}

impl Host {
    pub fn new(smarthosts: &[&ScriptedServer]) -> Host {
        let store = MailStore::new();
        let smarthost = |server: &&ScriptedServer| Smarthost {
            address: server.target(),
            config: client_config(),
        };
        let config = QueueConfig {
            spool: store.path().join("spool"),
            hostname: "here.example".to_owned(),
            smarthosts: smarthosts.iter().map(smarthost).collect(),
            warn_after: Duration::from_secs(4 * 3600),
            give_up_after: Duration::from_secs(5 * 24 * 3600),
            timeout: TIMEOUT,
            ..QueueConfig::default()
        };
        queue::create_directory(&config.spool).unwrap();
        Host { store, config, resolver: Arc::new(TestQueueResolver { postmaster: None }) }
    }

    /// Has the writer put an entry into the queue.
    pub fn put(&self, id: &str, envelope: &Envelope<()>) {
        self.put_content(id, envelope, format!("Subject: {id}\n\n>From {id} on\nlast line\n"));
    }

    /// Has the writer put an entry with this content into the queue.
    pub fn put_content(&self, id: &str, envelope: &Envelope<()>, content: impl AsRef<[u8]>) {
        let content = content.as_ref().to_vec();
        let to: Vec<_> = envelope.to.iter().cloned().map(elsewhere).collect();
        let to = queue::destinations(envelope, &to, None, id, content.len() as u64).unwrap();
        let head = mbox::head(&envelope.from, 0);
        let content = Content::Memory(content.into());
        let message = Message { id: id.to_owned(), head, content, to };
        assert_eq!(self.store.handle.deliver(message, TIMEOUT), Outcome::Delivered);
    }

    pub fn flush(&self) -> usize {
        let (post, counters) = (self.store.handle.clone(), self.store.counters.clone());
        queue::flush(self.config.clone(), self.resolver.clone(), post, counters, &[], |_| {})
            .unwrap()
    }

    pub fn start(&self) -> (QueueHandle, QueueThreads) {
        let (post, counters) = (self.store.handle.clone(), self.store.counters.clone());
        queue::start(self.config.clone(), self.resolver.clone(), post, counters).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.config.spool.join("queue").join(name)
    }

    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.file("")).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    pub fn state(&self, id: &str) -> String {
        fs::read_to_string(self.file(&format!("{id}.state"))).unwrap_or_default()
    }

    /// Makes an entry older by so many seconds.
    pub fn age(&self, id: &str, seconds: i64) {
        let text = fs::read_to_string(self.file(id)).unwrap();
        let (before, rest) = text.split_once("Mailslot-Queue: c10:").unwrap();
        let (came, rest) = rest.split_at(10);
        let came = came.parse::<i64>().unwrap() - seconds;
        fs::write(self.file(id), format!("{before}Mailslot-Queue: c10:{came}{rest}")).unwrap();
    }

    /// Sets the number of attempts at an entry so far.
    fn set_tries(&self, id: &str, tries: u32) {
        let text = format!("mailslot queue state 1\ntries {tries}\nnext 0\ngone \nlast \n");
        fs::write(self.file(&format!("{id}.state")), text).unwrap();
    }

    /// Returns the number of reports in a mailbox.
    pub fn reports(&self, user: &str) -> usize {
        assert!(
            self.store.mailbox(user).is_empty() || self.store.mailbox(user).contains("/report;")
        );
        self.store.count(user)
    }
}

fn elsewhere(to: Recipient<()>) -> Recipient<Mailbox> {
    let Recipient { path, notify, original, .. } = to;
    let ForwardPath::Mailbox(destination) = path.clone() else { panic!("postmaster is local") };
    Recipient { path, destination, notify, original }
}

/// Returns an envelope from `from`, empty for the null sender.
pub fn envelope(from: &str, to: &[&str]) -> Envelope<()> {
    let from = match from {
        "" => ReversePath::Null,
        from => ReversePath::Mailbox(Mailbox::parse(from).unwrap()),
    };
    Envelope { from, ..outbound::envelope(to) }
}

/// Starts a server that answers RCPT with the code in its local part, as `r450`, or with 250.
pub fn code_by_name() -> ScriptedServer {
    ScriptedServer::start(|_, command| answer_by_name(command))
}

fn answer_by_name(command: &str) -> Action {
    let code = command.strip_prefix("RCPT TO:<r").and_then(|rest| rest.get(..3));
    match code.filter(|code| code.bytes().all(|b| b.is_ascii_digit())) {
        Some(code) => reply(&format!("{code} {}.1.1 so it is", &code[..1])),
        None => usual(command),
    }
}

/// Returns the RCPT commands that a server has received.
pub fn asked(server: &ScriptedServer) -> Vec<String> {
    server.commands_after("RCPT TO:")
}

fn node(name: &str) -> EtrnNode {
    match Command::parse(format!("ETRN {name}\r\n").as_bytes()) {
        Ok(Command::Etrn(node)) => node,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_recipient_has_its_own_outcome() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    let mut mail =
        envelope("smith@here.example", &["a@x.example", "r450@x.example", "r550@x.example"]);
    mail.envid = Some("QQ314159".to_owned());
    let address = "jones+40x.example".to_owned();
    mail.to[2].original = Some(OriginalRecipient { addr_type: "rfc822".to_owned(), address });
    host.put("m", &mail);
    assert_eq!(host.flush(), 1);
    assert_eq!(asked(&server), ["<a@x.example>", "<r450@x.example>", "<r550@x.example>"]);
    let state = host.state("m");
    assert!(state.contains("\ntries 1\n") && state.contains("\ngone 0 2\n"), "{state}");
    assert!(state.contains("\nlast 450 4.1.1 so it is\n"), "{state}");
    // Permanent failures are reported once. Only the rest is retried.
    let report = host.store.mailbox("smith");
    for line in [
        "Return-Path: <>",
        "To: <smith@here.example>",
        "Auto-Submitted: auto-replied",
        "Original-Envelope-Id: QQ314159",
        "Original-Recipient: rfc822;jones+40x.example",
        "Final-Recipient: rfc822;r550@x.example",
        "Action: failed",
        "Status: 5.1.1",
        "Diagnostic-Code: smtp; 550 5.1.1 so it is",
        "Content-Type: text/rfc822-headers",
        "Subject: m",
    ] {
        assert!(report.contains(&format!("\n{line}\n")), "{line:?} is not in {report}");
    }
    assert!(!report.contains("r450") && !report.contains("a@x") && !report.contains("last line"));
    assert_eq!(host.flush(), 1);
    assert_eq!(asked(&server)[3..], ["<r450@x.example>"]);
    assert!(host.state("m").contains("\ntries 2\n"));
    assert_eq!(host.reports("smith"), 1);
    assert_eq!(server.commands_after("QUIT").len(), 2);
}

#[test]
fn accepted_messages_leave_no_files() {
    let server = code_by_name();
    let mut host = Host::new(&[&server]);
    host.config.connections_max = 1;
    for n in 0..20 {
        host.put(&format!("m-{n}"), &envelope("smith@here.example", &["a@x.example"]));
    }
    assert_eq!(host.flush(), 0);
    assert_eq!(host.files(), [""; 0]);
    assert_eq!(server.commands_after("EHLO").len(), 1, "one connection for them all");
    assert_eq!(server.commands_after(".").len(), 20);
    assert_eq!(host.reports("smith"), 0);
}

#[test]
fn reports_follow_notify_and_ret() {
    let never = Some(DsnNotify::default());
    let success = Some(DsnNotify { success: true, ..DsnNotify::default() });
    let failure = Some(DsnNotify { failure: true, ..DsnNotify::default() });
    for (to, notify, ret, dsn, action, in_it) in [
        ("r550@x.example", None, None, false, "failed", "text/rfc822-headers"),
        (
            "r550@x.example",
            failure,
            Some(DsnReturn::Headers),
            true,
            "failed",
            "text/rfc822-headers",
        ),
        (
            "r550@x.example",
            failure,
            Some(DsnReturn::Full),
            true,
            "failed",
            "message/rfc822\n\nSubject",
        ),
        ("r550@x.example", success, None, false, "", ""),
        ("r550@x.example", never, Some(DsnReturn::Full), false, "", ""),
        ("a@x.example", None, None, false, "", ""),
        ("a@x.example", failure, None, false, "", ""),
        ("a@x.example", never, None, false, "", ""),
        ("a@x.example", success, Some(DsnReturn::Full), false, "relayed", "text/rfc822-headers"),
        ("a@x.example", success, Some(DsnReturn::Headers), true, "", ""),
    ] {
        let server = ScriptedServer::start(move |_, command| match command {
            command if command.starts_with("EHLO") && dsn => reply("250-mx.example\r\n250 DSN"),
            command => answer_by_name(command),
        });
        let host = Host::new(&[&server]);
        let mut mail = envelope("smith@here.example", &[to]);
        (mail.to[0].notify, mail.ret) = (notify, ret);
        mail.envid = Some("E1".to_owned());
        host.put("m", &mail);
        let case = format!("{to} {notify:?} {ret:?} {dsn}");
        assert_eq!(host.flush(), 0, "{case}");
        let report = host.store.mailbox("smith");
        assert_eq!(host.reports("smith"), usize::from(!action.is_empty()), "{case}: {report}");
        assert!(report.is_empty() || report.contains(&format!("\nAction: {action}\n")), "{case}");
        assert!(report.contains(in_it), "{case}: {report}");
        let asks = (server.commands_after("MAIL ").concat(), asked(&server).concat());
        assert_eq!(asks.0.contains("ENVID=E1"), dsn, "{asks:?}");
        assert_eq!(asks.1.contains("NOTIFY="), dsn && notify.is_some(), "{asks:?}");
    }
}

#[test]
fn delay_is_reported_once_then_failure() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    host.put("m", &envelope("smith@here.example", &["r450@x.example"]));
    assert_eq!((host.flush(), host.reports("smith")), (1, 0));
    host.age("m", 4 * 3600);
    assert_eq!((host.flush(), host.reports("smith")), (1, 1));
    let report = host.store.mailbox("smith");
    assert!(report.contains("\nAction: delayed\nStatus: 4.1.1\n"), "{report}");
    assert!(report.contains("\nWill-Retry-Until: "), "{report}");
    assert_eq!((host.flush(), host.reports("smith")), (1, 1), "reported twice");
    host.age("m", 5 * 24 * 3600);
    let enough = host.state("m").replace("tries 3\n", "tries 11\n");
    fs::write(host.file("m.state"), enough).unwrap();
    assert_eq!((host.flush(), host.reports("smith")), (0, 2));
    let report = host.store.mailbox("smith");
    assert!(report.contains("\nAction: failed\nStatus: 5.4.7\n"), "{report}");
    assert_eq!(host.files(), [""; 0]);
}

#[test]
fn delay_is_reported_while_no_smarthost_is_reachable() {
    let server = ScriptedServer::start(|_, _| Action::Close);
    let host = Host::new(&[&server]);
    for (id, age) in [("new", 0), ("old", 5 * 3600), ("older", 6 * 24 * 3600)] {
        host.put(id, &envelope(&format!("{id}@here.example"), &["a@x.example"]));
        host.age(id, age);
    }
    host.set_tries("older", 11);
    assert_eq!(host.flush(), 2);
    let actions = ["new", "old", "older"].map(|user| {
        let text = host.store.mailbox(user);
        text.lines().find_map(|line| line.strip_prefix("Action: ")).unwrap_or("").to_owned()
    });
    assert_eq!(actions, ["", "delayed", "failed"]);
    assert!(host.store.mailbox("older").contains("\nStatus: 5.4.7\n"));
}

/// The clock has stepped by weeks, or was in 1970 when the message arrived: its age says nothing.
#[test]
fn no_message_is_returned_before_a_least_number_of_attempts() {
    let unreachable = ScriptedServer::start(|_, _| Action::Close);
    let server = code_by_name();
    for (smarthost, to) in [(&server, "r450@x.example"), (&unreachable, "a@x.example")] {
        let host = Host::new(&[smarthost]);
        host.put("m", &envelope("smith@here.example", &[to]));
        host.age("m", 30 * 24 * 3600);
        for tries in 1..12 {
            assert_eq!(host.flush(), 1, "{to}, attempt {tries}");
            let state = host.state("m");
            assert!(state.contains(&format!("\ntries {tries}\n")), "{to}: {state}");
        }
        assert_eq!(host.reports("smith"), 1, "the delay");
        assert_eq!((host.flush(), host.reports("smith")), (0, 2), "{to}");
    }
}

#[test]
fn arrivals_in_the_future_and_in_1970_are_corrected() {
    let server = code_by_name();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    for shift in [-10 * 365 * 24 * 3600, now - 1_000_000_030] {
        let host = Host::new(&[&server]);
        host.put("m", &envelope("smith@here.example", &["r450@x.example"]));
        host.age("m", shift);
        host.set_tries("m", 20);
        assert_eq!((host.flush(), host.reports("smith")), (1, 0), "{shift}");
        let state = host.state("m");
        let arrived = state.lines().find_map(|line| line.strip_prefix("arrived ")).unwrap();
        let arrived: i64 = arrived.parse().unwrap();
        assert!((now..now + 3600).contains(&arrived), "{arrived}, at {now}");
    }
}

#[test]
fn reports_go_to_the_sender_never_about_a_report() {
    for (from, user) in [("", "postmaster"), ("nobody@here.example", "postmaster")] {
        let server = code_by_name();
        let host = Host::new(&[&server]);
        host.put("m", &envelope(from, &["r550@x.example"]));
        assert_eq!((host.flush(), host.reports(user)), (0, 1), "{from:?}");
        // The entry is old, too, but a delay is not reported to the null sender.
        host.put("n", &envelope(from, &["r450@x.example"]));
        host.age("n", 5 * 3600);
        let more = usize::from(!from.is_empty());
        assert_eq!((host.flush(), host.reports(user)), (1, 1 + more), "{from:?}");
    }
    // The report goes to another host by the queue, with the null sender. If it is refused there,
    // postmaster gets it.
    for (sender, reports) in [("s@y.example", 0), ("r550@y.example", 1)] {
        let server = code_by_name();
        let host = Host::new(&[&server]);
        host.put("m", &envelope(sender, &["r550@x.example"]));
        assert_eq!(host.flush(), 1, "the report waits");
        assert_eq!(host.flush(), 0);
        let commands: Vec<String> =
            server.commands().into_iter().filter(|c| c.contains(":<")).collect();
        let mail = format!("MAIL FROM:<{sender}>");
        let to = format!("RCPT TO:<{sender}>");
        assert_eq!(commands, [&mail, "RCPT TO:<r550@x.example>", "MAIL FROM:<>", &to], "{sender}");
        assert_eq!(host.reports("postmaster"), reports);
    }
}

/// Otherwise each report about a report to postmaster would cause another one, without end.
#[test]
fn refused_report_to_a_remote_postmaster_is_dropped() {
    let server = code_by_name();
    let mut host = Host::new(&[&server]);
    host.resolver = Arc::new(TestQueueResolver { postmaster: Some("r550@y.example") });
    host.put("m", &envelope("", &["r550@x.example"]));
    assert_eq!(host.flush(), 1);
    assert_eq!(host.flush(), 0);
    assert_eq!(asked(&server), ["<r550@x.example>", "<r550@y.example>"]);
    assert_eq!(host.files(), [""; 0]);
}

#[test]
fn undeliverable_report_keeps_the_entry() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    host.put("m", &envelope("smith@here.example", &["r550@x.example"]));
    let mailbox = host.store.path().join("mail/smith");
    fs::create_dir(&mailbox).unwrap();
    assert_eq!(host.flush(), 1);
    fs::remove_dir(&mailbox).unwrap();
    assert_eq!((host.flush(), host.reports("smith")), (0, 1));
}

#[test]
fn unreachable_smarthost_is_probed_by_one_entry() {
    let (connections, is_up) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, up) = (Arc::clone(&connections), Arc::clone(&is_up));
    let server = ScriptedServer::start(move |_, command| match command {
        "greeting" => {
            let is_up = up.load(Ordering::SeqCst);
            count.fetch_add(1, Ordering::SeqCst);
            if is_up { usual(command) } else { Action::ReplyAndClose("421 no".to_owned()) }
        }
        command => usual(command),
    });
    let mut host = Host::new(&[&server]);
    host.config.connections_max = 1;
    for n in 0..20 {
        host.put(&format!("m-{n}"), &envelope("smith@here.example", &["a@x.example"]));
    }
    let (handle, queue) = host.start();
    let made = || connections.load(Ordering::SeqCst);
    wait_until("the first attempt", || made() == 1);
    // Within this test only ETRN causes the next attempt.
    assert!(handle.flush(&node("y.example")));
    for n in 20..30 {
        let id = format!("m-{n}");
        host.put(&id, &envelope("smith@here.example", &["a@x.example"]));
        handle.entry_created(&id);
    }
    assert!(handle.flush(&node("@example")));
    wait_until("the second attempt", || made() == 2);
    assert!(!host.files().iter().any(|name| name.contains("state")), "a state was written");
    is_up.store(true, Ordering::SeqCst);
    assert!(handle.flush(&node("X.EXAMPLE")));
    wait_until("all are sent", || host.files().is_empty());
    queue.stop(TIMEOUT);
    assert_eq!((made(), server.commands_after(".").len()), (3, 30));
}

#[test]
fn next_smarthost_if_the_first_is_unreachable() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (rude, good) = (ScriptedServer::start(|_, _| reply("554 not you")), code_by_name());
    let mut host = Host::new(&[&rude, &good]);
    let mut closed_host = host.config.smarthosts[0].clone();
    closed_host.address = closed.to_string().parse().unwrap();
    host.config.smarthosts.insert(0, closed_host);
    host.put("m", &envelope("smith@here.example", &["a@x.example", "r450@x.example"]));
    assert_eq!(host.flush(), 1);
    assert_eq!(asked(&good).len(), 2);
    // No other smarthost is left for what the last one defers.
    assert!(host.state("m").contains("\ngone 0\n"));
}

#[test]
fn schedule_survives_a_restart_but_not_a_wrong_clock() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    for id in ["waits", "astray"] {
        host.put(id, &envelope("smith@here.example", &[&format!("{id}@x.example")]));
    }
    let now = fs::metadata(host.file("waits")).unwrap().modified().unwrap();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (id, next) in [("waits", now + 3600), ("astray", now + 30 * 24 * 3600)] {
        let state = format!("mailslot queue state 1\ntries 3\nnext {next}\ngone \nlast \n");
        fs::write(host.file(&format!("{id}.state")), state).unwrap();
    }
    let (handle, queue) = host.start();
    wait_until("the entry scheduled by a wrong clock is sent", || {
        host.files() == ["waits", "waits.state"]
    });
    assert_eq!(asked(&server), ["<astray@x.example>"]);
    // Until ETRN asks for it.
    assert!(handle.flush(&node("x.example")));
    wait_until("the other entry is sent", || host.files().is_empty());
    queue.stop(TIMEOUT);
}

#[test]
fn processes_do_not_send_twice() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    for n in 0..40 {
        host.put(&format!("m-{n}"), &envelope("smith@here.example", &[&format!("a{n}@x.example")]));
    }
    let running: Vec<_> = (0..2).map(|_| host.start()).collect();
    host.flush();
    wait_until("all are sent", || host.files().is_empty());
    running.into_iter().for_each(|(_, queue)| queue.stop(TIMEOUT));
    let mut all = asked(&server);
    assert_eq!(all.len(), 40);
    all.sort();
    all.dedup();
    assert_eq!((all.len(), server.commands_after(".").len()), (40, 40));
}

/// One process had tried the entry. The other one would have retried it a second later.
#[test]
fn entry_deferred_by_another_process_is_not_retried_early() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    host.put("m", &envelope("smith@here.example", &["r450@x.example"]));
    let (_first, one) = host.start();
    wait_until("the first attempt", || host.state("m").contains("\ntries 1\n"));
    let (handle, two) = host.start();
    handle.entry_created("m");
    host.put("n", &envelope("smith@here.example", &["a@x.example"]));
    handle.entry_created("n");
    wait_until("the later entry is sent", || !host.files().contains(&"n".to_owned()));
    one.stop(TIMEOUT);
    two.stop(TIMEOUT);
    assert_eq!(asked(&server), ["<r450@x.example>", "<a@x.example>"]);
}

/// Otherwise, on a full disk, a recipient that was served would get the message again every few
/// minutes.
#[test]
fn finished_recipients_are_remembered_without_a_state_file() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    host.put("m", &envelope("smith@here.example", &["a@x.example", "r450@x.example"]));
    let in_the_way = host.file("m.state.new");
    fs::create_dir(&in_the_way).unwrap();
    let (handle, queue) = host.start();
    wait_until("an attempt", || asked(&server).len() == 2);
    assert!(handle.flush(&node("x.example")));
    wait_until("another attempt", || asked(&server).len() == 3);
    fs::remove_dir(&in_the_way).unwrap();
    assert!(handle.flush(&node("x.example")));
    wait_until("a third attempt", || host.state("m").contains("\ngone 0\n"));
    queue.stop(TIMEOUT);
    let tried = asked(&server);
    assert_eq!(tried[..3], ["<a@x.example>", "<r450@x.example>", "<r450@x.example>"]);
    assert_eq!(tried.iter().filter(|to| *to == "<a@x.example>").count(), 1);
}

#[test]
fn invalid_entries_are_kept_and_block_nothing() {
    let server = code_by_name();
    let host = Host::new(&[&server]);
    let mail = envelope("smith@here.example", &["a@x.example"]);
    for id in ["a", "b", "c", "good"] {
        host.put(id, &mail);
    }
    let whole = fs::read(host.file("a")).unwrap();
    fs::write(host.file("a"), &whole[..whole.len() - 5]).unwrap();
    fs::write(host.file("b"), "").unwrap();
    fs::write(host.file("c"), "garbage\n").unwrap();
    // A copy made by a user is not sent.
    for name in ["good.bak", "copy of good", ".good"] {
        fs::write(host.file(name), &whole).unwrap();
    }
    fs::create_dir(host.file("directory")).unwrap();
    for (name, text) in [("good", "mailslot queue state 9\n"), ("gone", "x"), ("a", "\0\0\0")] {
        fs::write(host.file(&format!("{name}.state")), text).unwrap();
    }
    fs::write(host.file("gone.state.new"), "").unwrap();
    assert_eq!(host.flush(), 4);
    assert_eq!(asked(&server), ["<a@x.example>"]);
    let left = [".good", "a", "a.state", "b", "c", "copy of good", "directory", "good.bak"];
    assert_eq!(host.files(), left);
    assert_eq!(fs::read(host.file("a")).unwrap(), whole[..whole.len() - 5]);
    // Restored, the entry is sent.
    fs::write(host.file("a"), &whole).unwrap();
    host.flush();
    assert_eq!(asked(&server).len(), 2);
    let view = list::ListView::default();
    let listed = list::list(&host.config.spool, list::ListFormat::Text, &view).unwrap();
    assert!(listed.contains("Mail queue is empty"));
}
