//! The routes of the queue: several next hops for one message, mail hosts by MX records, outages of
//! one next hop, and several connections to one.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mailslot::relay::client::{self, ServerAddress};
use mailslot::relay::queue::{MxConfig, RelayRoute, RouteTarget, Smarthost};
use simple_dns::{RCODE, TYPE};

use super::queue::{Host, asked, code_by_name, envelope};
use crate::harness::name_server::{self, NameServer, a, mx};
use crate::harness::outbound::{self, client_config, show_outcomes, with_mail};
use crate::harness::scripted_server::{Action, ScriptedServer, reply, usual};
use crate::harness::{TIMEOUT, wait_until};

fn to_server(domains: &str, address: ServerAddress) -> RelayRoute {
    let server = Smarthost { address, config: client_config() };
    RelayRoute { pattern: domains.parse().unwrap(), target: RouteTarget::Servers(vec![server]) }
}

fn by_mx(domains: &str, resolv_conf: PathBuf, port: u16) -> RelayRoute {
    let client = client_config();
    let config = MxConfig { client, resolv_conf, port, detects_own_addresses: false };
    RelayRoute {
        pattern: domains.parse().unwrap(),
        target: RouteTarget::MailHosts(Box::new(config)),
    }
}

/// Returns an address that refuses connections.
fn closed() -> ServerAddress {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string().parse().unwrap()
}

#[test]
fn each_domain_goes_to_its_server() {
    let [smarthost, one, below, other] = std::array::from_fn(|_| code_by_name());
    let mut host = Host::new(&[&smarthost]);
    host.config.routes = vec![
        to_server(".y.example", below.target()),
        to_server("one.y.example", one.target()),
        to_server(".example", other.target()),
    ];
    let to =
        ["a@x.org", "b@one.y.example", "r450@two.y.example", "r550@y.example", "c@two.y.EXAMPLE"];
    host.put("m", &envelope("smith@here.example", &to));
    assert_eq!(host.flush(), 1);
    assert_eq!(asked(&smarthost), ["<a@x.org>"]);
    assert_eq!(asked(&one), ["<b@one.y.example>"]);
    assert_eq!(asked(&below), ["<r450@two.y.example>", "<c@two.y.EXAMPLE>"]);
    assert_eq!(asked(&other), ["<r550@y.example>"]);
    assert!(host.state("m").contains("\ngone 0 1 3 4\n"), "{}", host.state("m"));
    assert_eq!(host.reports("smith"), 1);
    // Only the recipient that is left is tried again.
    assert_eq!(host.flush(), 1);
    assert_eq!((asked(&below).len(), asked(&one).len()), (3, 1));
    assert!(host.state("m").contains("\ntries 2\n"), "{}", host.state("m"));
}

/// One destination that is down delays neither the other recipients of a message nor other mail.
#[test]
fn an_outage_delays_one_next_hop_alone() {
    let server = code_by_name();
    let mut host = Host::new(&[&server]);
    host.config.routes = vec![to_server("down.example", closed())];
    for n in 0..5 {
        let to: &[&str] =
            if n == 4 { &["b@down.example", "b@x.example"] } else { &["b@down.example"] };
        host.put(&format!("a-{n}"), &envelope("smith@here.example", to));
    }
    let (handle, queue) = host.start();
    wait_until("the second recipient has it", || asked(&server) == ["<b@x.example>"]);
    host.put("c", &envelope("smith@here.example", &["c@x.example"]));
    handle.entry_created("c");
    wait_until("later mail is sent", || asked(&server).len() == 2);
    wait_until("the outage is known", || handle.outages().len() == 1);
    let outage = handle.outages().remove(0);
    assert_eq!(outage.domains.to_string(), "down.example");
    assert!(outage.reason.contains("cannot connect"), "{}", outage.reason);
    queue.stop(TIMEOUT);
    assert!(host.state("a-4").contains("\ngone 1\n"), "{}", host.state("a-4"));
    assert!(!host.files().contains(&"a-0.state".to_owned()));
}

#[test]
fn mail_hosts_are_tried_in_turn() {
    let server = code_by_name();
    let port = server.address.port();
    let names = NameServer::start(|query| {
        let records = match query.name.as_str() {
            "d.example" if query.is_for(TYPE::MX) => {
                vec![("d.example", mx(20, "b.example")), ("d.example", mx(10, "a.example"))]
            }
            // No server is at the first two addresses.
            "a.example" if query.is_for(TYPE::A) => {
                vec![("a.example", a([127, 0, 0, 2])), ("a.example", a([127, 0, 0, 3]))]
            }
            "b.example" if query.is_for(TYPE::A) => vec![("b.example", a([127, 0, 0, 1]))],
            "far.example" if query.is_for(TYPE::MX) => {
                vec![("far.example", mx(20, "b.example")), ("far.example", mx(10, "c.example"))]
            }
            // As many addresses as are tried.
            "c.example" if query.is_for(TYPE::A) => {
                (2..7).map(|n| ("c.example", a([127, 0, 0, n]))).collect()
            }
            "null.example" if query.is_for(TYPE::MX) => vec![("null.example", mx(0, "."))],
            "self.example" if query.is_for(TYPE::MX) => {
                vec![("self.example", mx(0, "here.example"))]
            }
            "gone.example" => {
                return vec![query.reply(RCODE::NameError).build_bytes_vec().unwrap()];
            }
            "ill.example" => {
                return vec![query.reply(RCODE::ServerFailure).build_bytes_vec().unwrap()];
            }
            _ => vec![],
        };
        vec![query.records(&records)]
    });
    let mut host = Host::new(&[]);
    let file = name_server::resolv_conf(host.store.path(), &[names.address]);
    host.config.routes = vec![by_mx("*", file, port)];
    let to = [
        "x@d.example",
        "x@null.example",
        "x@self.example",
        "x@gone.example",
        "x@ill.example",
        "x@none.example",
        "x@[127.0.0.1]",
        "x@far.example",
    ];
    host.put("m", &envelope("smith@here.example", &to));
    assert_eq!(host.flush(), 1);
    let mut found = asked(&server);
    found.sort();
    assert_eq!(found, ["<x@[127.0.0.1]>", "<x@d.example>"]);
    assert!(host.state("m").contains("\ngone 0 1 2 3 5 6\n"), "{}", host.state("m"));
    let reports = host.store.mailbox("smith");
    for (recipient, status) in [
        ("x@null.example", "5.1.10"),
        ("x@self.example", "5.4.6"),
        ("x@gone.example", "5.1.2"),
        ("x@none.example", "5.1.2"),
    ] {
        let fields =
            format!("Final-Recipient: rfc822;{recipient}\nAction: failed\nStatus: {status}\n");
        assert!(reports.contains(&fields), "{recipient}: {reports}");
    }
}

/// A label of the DNS can have any byte. With line ends in one, a domain could put fields of its
/// own into the report to the sender.
#[test]
fn mail_host_whose_name_is_no_host_name_is_not_used() {
    const NAME: &str = "x\naction: delivered\nforged: y.example";
    let server = ScriptedServer::start(|_, command| match command {
        command if command.starts_with("RCPT") => reply("550 5.7.1 no"),
        command => usual(command),
    });
    let names = NameServer::start(|query| {
        let records = match query.name.as_str() {
            "d.example" if query.is_for(TYPE::MX) => vec![("d.example", mx(10, NAME))],
            _ if query.is_for(TYPE::A) => vec![(NAME, a([127, 0, 0, 1]))],
            _ => vec![],
        };
        vec![query.records(&records)]
    });
    let mut host = Host::new(&[]);
    let file = name_server::resolv_conf(host.store.path(), &[names.address]);
    host.config.routes = vec![by_mx("*", file, server.address.port())];
    host.put("m", &envelope("smith@here.example", &["x@d.example"]));
    assert_eq!(host.flush(), 0);
    let report = host.store.mailbox("smith");
    assert!(report.contains("\nStatus: 5.4.4\n") && !report.contains("forged"), "{report}");
    assert_eq!((server.commands(), host.reports("smith")), (vec![], 1));
}

/// A mail host that always defers keeps no mail from the others of the domain (RFC 5321 5.1).
#[test]
fn mail_deferred_by_one_mail_host_is_sent_to_the_next() {
    // The first connection is to a.example, the second to b.example.
    let server = ScriptedServer::start(|n, command| match command {
        "RCPT TO:<b@d.example>" if n == 0 => reply("451 4.7.1 not now"),
        "RCPT TO:<c@d.example>" => reply("450 4.2.0 nowhere now"),
        "RCPT TO:<d@d.example>" => reply("550 5.1.1 no such user"),
        command => usual(command),
    });
    let names = NameServer::start(|query| {
        let records = match query.name.as_str() {
            "d.example" if query.is_for(TYPE::MX) => {
                vec![("d.example", mx(20, "b.example")), ("d.example", mx(10, "a.example"))]
            }
            "a.example" if query.is_for(TYPE::A) => {
                // The limit on addresses is one on those that are tried.
                (1..10).map(|_| ("a.example", a([127, 0, 0, 1]))).collect()
            }
            "b.example" if query.is_for(TYPE::A) => vec![("b.example", a([127, 0, 0, 1]))],
            _ => vec![],
        };
        vec![query.records(&records)]
    });
    let mut host = Host::new(&[]);
    let file = name_server::resolv_conf(host.store.path(), &[names.address]);
    host.config.routes = vec![by_mx("*", file, server.address.port())];
    let to = ["a@d.example", "b@d.example", "c@d.example", "d@d.example"];
    host.put("m", &envelope("smith@here.example", &to));
    assert_eq!(host.flush(), 1);
    let all = ["<a@d.example>", "<b@d.example>", "<c@d.example>", "<d@d.example>"];
    assert_eq!(asked(&server), [&all[..], &["<b@d.example>", "<c@d.example>"]].concat());
    assert_eq!(server.commands_after("QUIT").len(), 2);
    let state = host.state("m");
    assert!(state.contains("\ngone 0 1 3\n") && state.contains("\ntries 1\n"), "{state}");
    assert!(state.contains("450 4.2.0 nowhere now"), "{state}");
}

/// Another smarthost gets the message if the first does not take it now, whatever it does at which
/// command. It does not if the first has rejected the message, or may have accepted it.
#[test]
fn mail_deferred_by_one_smarthost_is_sent_to_the_next() {
    let plain = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."];
    let chunks = ["greeting", "EHLO", "MAIL", "RCPT", "BDAT"];
    for (extensions, stages) in [
        ("250 mx.example", &plain[..]),
        ("250-mx.example\r\n250 PIPELINING", &plain),
        ("250-mx.example\r\n250-PIPELINING\r\n250 CHUNKING", &chunks),
    ] {
        // The client sends a chunk with the commands before it.
        let sent_from = if stages == chunks { "MAIL" } else { "." };
        let mut is_sent = false;
        for (n, stage) in stages.iter().copied().enumerate() {
            is_sent |= stage == sent_from;
            for (action, expected) in [
                (reply("451 4.3.2 not now"), "sent to the next"),
                (Action::ReplyAndClose("421 4.3.2 not now".to_owned()), "sent to the next"),
                (reply("550 5.3.2 never"), if n < 2 { "sent to the next" } else { "returned" }),
                (Action::Close, if is_sent { "waits" } else { "sent to the next" }),
            ] {
                let case = format!("{extensions:?} {stage} {action:?}");
                let first = ScriptedServer::start(move |_, command| {
                    match command.split([' ', ':']).next().unwrap() {
                        verb if verb == stage => action.clone(),
                        "EHLO" => reply(extensions),
                        // Otherwise the client would go on without EHLO.
                        "HELO" => reply("550 5.3.2 never"),
                        _ => usual(command),
                    }
                });
                let second = code_by_name();
                let host = Host::new(&[&first, &second]);
                host.put("m", &envelope("smith@here.example", &["a@x.example"]));
                let left = host.flush();
                let found = match (left, second.commands_after(".").len(), host.reports("smith")) {
                    (0, 1, 0) => "sent to the next",
                    (0, 0, 1) => "returned",
                    (1, 0, 0) => "waits",
                    counts => panic!("{case}: {counts:?}"),
                };
                assert_eq!(found, expected, "{case}");
            }
        }
    }
}

/// Each recipient ends at the first smarthost that does not defer it.
#[test]
fn smarthosts_are_tried_in_turn_for_what_is_deferred() {
    // The server replies to RCPT of `a` with the reply that is listed for `a`.
    let start = |replies: &'static [(&'static str, &'static str)]| {
        ScriptedServer::start(move |_, command| {
            let local = command.strip_prefix("RCPT TO:<").and_then(|to| to.get(..1));
            match replies.iter().find(|(to, _)| Some(*to) == local) {
                Some((_, text)) => reply(text),
                None => usual(command),
            }
        })
    };
    let one = start(&[("b", "451 4.7.1 b"), ("c", "450 4.2.0 c"), ("d", "550 5.1.1 d")]);
    let two = start(&[("b", "452 4.3.1 b"), ("c", "550 5.1.1 c")]);
    let three = start(&[("e", "450 4.2.0 at three")]);
    let mut host = Host::new(&[&one, &two, &three]);
    host.config.smarthosts.insert(1, Smarthost { address: closed(), config: client_config() });
    let to = ["a@x.example", "b@x.example", "c@x.example", "d@x.example"];
    host.put("m", &envelope("smith@here.example", &to));
    assert_eq!(host.flush(), 0);
    let to = |server: &ScriptedServer| -> String {
        asked(server).iter().filter_map(|to| to.get(1..2)).collect()
    };
    assert_eq!([to(&one), to(&two), to(&three)], ["abcd", "bc", "b"]);
    let report = host.store.mailbox("smith");
    for line in ["Final-Recipient: rfc822;c@x.example", "Final-Recipient: rfc822;d@x.example"] {
        assert!(report.contains(line), "{line} is not in {report}");
    }
    assert_eq!((report.matches("Final-Recipient").count(), host.reports("smith")), (2, 1));
}

/// A connection that was opened to the second smarthost, because the first was down, does not keep
/// a message from the first.
#[test]
fn deferred_mail_goes_from_a_kept_connection_to_every_other_smarthost() {
    let is_up = Arc::new(AtomicBool::new(false));
    let first_is_up = Arc::clone(&is_up);
    let first = ScriptedServer::start(move |_, command| match command {
        "greeting" if !first_is_up.load(Ordering::SeqCst) => reply("421 4.3.2 not now"),
        command => usual(command),
    });
    let second = ScriptedServer::start(move |_, command| match command {
        "RCPT TO:<a@x.example>" => {
            is_up.store(true, Ordering::SeqCst);
            usual(command)
        }
        "RCPT TO:<b@x.example>" => reply("451 4.7.1 not now"),
        command => usual(command),
    });
    let host = Host::new(&[&first, &second]);
    for to in ["a", "b"] {
        host.put(to, &envelope("smith@here.example", &[&format!("{to}@x.example")]));
    }
    assert_eq!(host.flush(), 0);
    assert_eq!(asked(&second), ["<a@x.example>", "<b@x.example>"]);
    assert_eq!(
        (asked(&first), second.commands_after("EHLO").len()),
        (vec!["<b@x.example>".to_owned()], 1)
    );
}

/// A message that the first of two smarthosts has accepted for a recipient is not sent to it again
/// if the process dies while it sends the message to the second.
#[test]
fn recipients_are_recorded_before_the_next_smarthost_is_tried() {
    let first = ScriptedServer::start(|_, command| match command {
        "RCPT TO:<b@x.example>" => reply("451 4.7.1 not now"),
        command => usual(command),
    });
    let mut host = Host::new(&[&first]);
    let state = host.config.spool.join("queue/m.state");
    let found: Arc<Mutex<String>> = Arc::default();
    let read = Arc::clone(&found);
    let second = ScriptedServer::start(move |_, command| {
        if command == "greeting" {
            *read.lock().unwrap() = std::fs::read_to_string(&state).unwrap_or_default();
        }
        usual(command)
    });
    host.config.smarthosts.push(Smarthost { address: second.target(), config: client_config() });
    host.put("m", &envelope("smith@here.example", &["a@x.example", "b@x.example"]));
    assert_eq!(host.flush(), 0);
    assert_eq!(asked(&second), ["<b@x.example>"]);
    let found = found.lock().unwrap().clone();
    assert!(found.contains("\ngone 0\n"), "{found:?}");
}

/// Mail that waits for one server leaves over several connections, and never over more than that.
#[test]
fn several_connections_where_mail_waits() {
    // The number of connections that are at the end of mail data, and the most so far.
    let gate: Arc<(Mutex<(usize, usize)>, Condvar)> = Arc::default();
    let (inside, connections) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&connections);
    let server = ScriptedServer::start(move |_, command| {
        if command == "greeting" {
            count.fetch_add(1, Ordering::SeqCst);
        }
        if command == "." {
            let (state, changed) = &*inside;
            let mut state = state.lock().unwrap();
            state.0 += 1;
            state.1 = state.1.max(state.0);
            changed.notify_all();
            // The server answers once three connections are here.
            let waited = changed.wait_timeout_while(state, TIMEOUT, |state| state.1 < 3);
            waited.unwrap().0.0 -= 1;
        }
        usual(command)
    });
    let mut host = Host::new(&[&server]);
    host.config.connections_max = 3;
    for n in 0..30 {
        host.put(&format!("m-{n}"), &envelope("smith@here.example", &["a@x.example"]));
    }
    let (_handle, queue) = host.start();
    wait_until("all are sent", || host.files().is_empty());
    queue.stop(TIMEOUT);
    assert_eq!(gate.0.lock().unwrap().1, 3);
    assert_eq!((connections.load(Ordering::SeqCst), server.commands_after(".").len()), (3, 30));
}

/// A server that takes one connection at a time is no outage.
#[test]
fn fewer_connections_if_the_server_refuses_more() {
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let server = ScriptedServer::start(move |n, command| match command {
        "greeting" if n > 0 && count.load(Ordering::SeqCst) < 20 => {
            reply("421 4.7.0 one connection is enough")
        }
        "." => {
            count.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
            usual(command)
        }
        command => usual(command),
    });
    let host = Host::new(&[&server]);
    for n in 0..20 {
        host.put(&format!("m-{n}"), &envelope("smith@here.example", &["a@x.example"]));
    }
    let (handle, queue) = host.start();
    wait_until("all are sent", || host.files().is_empty());
    assert_eq!(handle.outages(), []);
    queue.stop(TIMEOUT);
    assert_eq!(server.commands_after(".").len(), 20);
}

#[test]
fn lmtp_gives_each_recipient_its_reply() {
    let server = ScriptedServer::start(|_, command| match command {
        "LHLO here.example" => reply("250-mx.example\r\n250-PIPELINING\r\n250 CHUNKING"),
        "RCPT TO:<b@x.example>" => reply("550 5.1.1 unknown"),
        "." => reply("250 2.0.0 a\r\n452 4.2.2 c\r\n552 5.2.2 d"),
        "EHLO here.example" => reply("500 this is LMTP"),
        command => usual(command),
    });
    let config = client::ClientConfig { lmtp: true, ..client_config() };
    let mut connection = client::connect(&server.target(), &config).unwrap();
    let to = outbound::envelope(&["a@x.example", "b@x.example", "c@x.example", "d@x.example"]);
    for _ in 0..2 {
        let outcomes = with_mail(&to, b"Subject: x\n\ntext\n", |mail| connection.send(mail));
        let expected = [
            "done 250 2.0.0 a",
            "never 550 5.1.1 unknown",
            "later 452 4.2.2 c",
            "never 552 5.2.2 d",
        ];
        assert_eq!(show_outcomes(&outcomes), expected);
        assert!(connection.is_open());
    }
    connection.quit();
}
