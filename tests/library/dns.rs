//! The resolver, against name servers that answer well, and ones that do not.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use mailslot::net::dns::{DnsError, DnsResolver, MailExchanger};
use proptest::prelude::*;
use simple_dns::{Name, PacketFlag, RCODE, TYPE};

use crate::harness::TIMEOUT;
use crate::harness::name_server::{self, DnsQuery, NameServer, a, cname, framed, mx};

/// Returns the MX records of d.example, after which so many queries have been made.
fn look_up(server: &NameServer) -> (Result<Vec<MailExchanger>, DnsError>, usize) {
    let directory = tempfile::tempdir().unwrap();
    let file = name_server::resolv_conf(directory.path(), &[server.address]);
    let before = server.queries();
    let found = DnsResolver::new(file).mail_exchangers("d.example", Instant::now() + TIMEOUT);
    (found, server.queries() - before)
}

fn exchanger(preference: u16, host: &str) -> MailExchanger {
    MailExchanger { preference, host: host.to_owned() }
}

fn good(query: &DnsQuery<'_>) -> Vec<u8> {
    query.records(&[("d.example", mx(10, "MX.example"))])
}

#[test]
fn records_are_found() {
    let server = NameServer::start(|query| {
        let records = match query.name.as_str() {
            "d.example" if query.is_for(TYPE::MX) => vec![
                ("D.example", mx(20, "b.example")),
                ("other.example", mx(5, "wrong.example")),
                ("d.example", mx(10, "A.example")),
                ("d.example", mx(0, ".")),
            ],
            // The chain in another order.
            "alias.example" => vec![
                ("c.example", a([192, 0, 2, 1])),
                ("b.example", cname("c.example")),
                ("alias.example", cname("b.example")),
            ],
            // The server knows the beginning of the chain alone.
            "part.example" => vec![("part.example", cname("c.example"))],
            "c.example" => vec![("c.example", a([192, 0, 2, 1])), ("c.example", a([192, 0, 2, 2]))],
            "gone.example" => {
                return vec![query.reply(RCODE::NameError).build_bytes_vec().unwrap()];
            }
            _ => vec![],
        };
        vec![query.records(&records)]
    });
    let expected = vec![exchanger(20, "b.example"), exchanger(10, "a.example"), exchanger(0, "")];
    assert_eq!(look_up(&server), (Ok(expected), 1));
    let directory = tempfile::tempdir().unwrap();
    let file = name_server::resolv_conf(directory.path(), &[server.address]);
    let resolver = DnsResolver::new(file);
    for (host, count) in [
        ("alias.example", Ok(1)),
        ("part.example", Ok(2)),
        ("c.example", Ok(2)),
        ("none.example", Ok(0)),
        ("gone.example", Err(DnsError::NoSuchName)),
        (&"x.".repeat(200), Err(DnsError::NoSuchName)),
        (&"x".repeat(64), Err(DnsError::NoSuchName)),
    ] {
        let found = resolver.ipv4(host, Instant::now() + TIMEOUT);
        assert_eq!(found.map(|found| found.len()), count, "{host}");
    }
}

/// Replies that do not answer the query are passed over: anybody can send them.
#[test]
fn forged_replies_are_ignored() {
    let server = NameServer::start(|query| {
        let forged = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut reply = query.records(&[("d.example", mx(1, "evil.example"))]);
            change(&mut reply);
            reply
        };
        let mut other = query.reply(RCODE::NoError);
        other.questions[0].qname = Name::new("e.example").unwrap();
        // From another port.
        let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
        outside.send_to(&forged(&|_| ()), query.client).unwrap();
        vec![
            forged(&|reply| reply[0] ^= 1),
            forged(&|reply| reply[1] ^= 0x80),
            // Not a reply; another kind of query; no question; two; another class.
            forged(&|reply| reply[2] &= 0x7f),
            forged(&|reply| reply[2] |= 0x10),
            forged(&|reply| reply[5] = 0),
            forged(&|reply| reply[5] = 2),
            forged(&|reply| reply[26] = 3),
            other.build_bytes_vec().unwrap(),
            vec![],
            good(query),
        ]
    });
    assert_eq!(look_up(&server), (Ok(vec![exchanger(10, "mx.example")]), 1));
}

#[test]
fn truncated_reply_is_asked_for_over_tcp() {
    let server = NameServer::start(|query| {
        if query.is_tcp {
            return vec![framed(&good(query))];
        }
        let mut reply = query.reply(RCODE::NoError);
        reply.set_flags(PacketFlag::TRUNCATION);
        vec![reply.build_bytes_vec().unwrap()]
    });
    assert_eq!(look_up(&server), (Ok(vec![exchanger(10, "mx.example")]), 2));
}

#[test]
fn next_server_is_asked() {
    let failing = NameServer::start(|query| {
        vec![query.reply(RCODE::ServerFailure).build_bytes_vec().unwrap()]
    });
    let silent = NameServer::start(|_| vec![]);
    let server = NameServer::start(|query| vec![good(query)]);
    let directory = tempfile::tempdir().unwrap();
    let ask = |servers: &[&NameServer]| {
        let servers: Vec<_> = servers.iter().map(|server| server.address).collect();
        let file = name_server::resolv_conf(directory.path(), &servers);
        DnsResolver::new(file).mail_exchangers("d.example", Instant::now() + TIMEOUT)
    };
    assert_eq!(ask(&[&failing, &silent, &server]), Ok(vec![exchanger(10, "mx.example")]));
    let Err(DnsError::Temporary(error)) = ask(&[&silent, &failing]) else { panic!("an answer") };
    assert_eq!(error, "name server 127.0.0.1: error ServerFailure");
    assert_eq!((failing.queries(), silent.queries(), server.queries()), (2, 2, 1));
}

/// Whatever the server sends, the lookup ends with a temporary error.
#[test]
fn hostile_replies_end_the_lookup() {
    /// Returns a reply with these bytes after the question, which say how many records they are.
    fn with_answer(query: &DnsQuery<'_>, count: u16, bytes: &[u8]) -> Vec<u8> {
        let mut reply = query.reply(RCODE::NoError).build_bytes_vec().unwrap();
        reply[6..8].copy_from_slice(&count.to_be_bytes());
        reply.extend_from_slice(bytes);
        reply
    }
    type Script = fn(&DnsQuery<'_>) -> Vec<Vec<u8>>;
    let scripts: [(&str, Script); 9] = [
        ("pointer to itself", |query| {
            let at = query.reply(RCODE::NoError).build_bytes_vec().unwrap().len();
            vec![with_answer(query, 1, &[0xc0, at as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4])]
        }),
        ("pointers to each other", |query| {
            let at = query.reply(RCODE::NoError).build_bytes_vec().unwrap().len() as u8;
            vec![with_answer(query, 1, &[0xc0, at + 2, 0xc0, at, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])]
        }),
        ("more records than there are", |query| vec![with_answer(query, u16::MAX, &[0; 100])]),
        ("a record cut short", |query| {
            vec![with_answer(query, 1, &[0, 0, 15, 0, 1, 0, 0, 0, 0, 9])]
        }),
        ("an alias of itself", |query| vec![query.records(&[("d.example", cname("d.example"))])]),
        ("aliases of each other", |query| {
            let records = [("d.example", cname("e.example")), ("e.example", cname("d.example"))];
            vec![query.records(&records)]
        }),
        ("one alias after the other", |query| {
            let next = format!("x{}", query.name);
            vec![query.records(&[(&query.name, cname(&next))])]
        }),
        ("garbage over TCP", |query| {
            if query.is_tcp {
                return vec![framed(&[0xff; 1000])];
            }
            let mut reply = query.reply(RCODE::NoError);
            reply.set_flags(PacketFlag::TRUNCATION);
            vec![reply.build_bytes_vec().unwrap()]
        }),
        ("a reply over TCP that does not end", |query| {
            if query.is_tcp {
                return vec![framed(&good(query))[..20].to_owned()];
            }
            let mut reply = query.reply(RCODE::NoError);
            reply.set_flags(PacketFlag::TRUNCATION);
            vec![reply.build_bytes_vec().unwrap()]
        }),
    ];
    for (name, script) in scripts {
        let server = NameServer::start(script);
        let (found, queries) = look_up(&server);
        assert!(matches!(found, Err(DnsError::Temporary(_))), "{name}: {found:?}");
        assert!(queries <= 4, "{name}: {queries} queries");
    }
}

#[test]
fn deadline_ends_the_lookup() {
    let server = NameServer::start(|_| vec![]);
    let directory = tempfile::tempdir().unwrap();
    let file = name_server::resolv_conf(directory.path(), &[server.address; 3]);
    let deadline = Instant::now() + Duration::from_millis(50);
    let found = DnsResolver::new(file).mail_exchangers("d.example", deadline);
    assert!(matches!(found, Err(DnsError::Temporary(_))), "{found:?}");
    assert_eq!(server.queries(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A reply with the right head and any bytes after it, and a good reply with some bytes
    /// changed, give an answer or an error.
    #[test]
    fn any_reply_ends_the_lookup(
        counts in any::<[u8; 6]>(),
        tail in proptest::collection::vec(any::<u8>(), 0..300),
        changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8),
    ) {
        let server = NameServer::start(move |query| {
            let mut first = query.reply(RCODE::NoError).build_bytes_vec().unwrap();
            first[6..12].copy_from_slice(&counts);
            first.extend_from_slice(&tail);
            let mut second = good(query);
            let body = second.len() - 12;
            for (at, byte) in &changes {
                second[12 + usize::from(*at) % body] = *byte;
            }
            // The good one ends the wait for an answer.
            let all = [first, second, good(query)];
            all.into_iter().map(|m| if query.is_tcp { framed(&m) } else { m }).collect()
        });
        let _ = look_up(&server);
    }
}
