//! Resolution of addresses for a session: RCPT, VRFY and EXPN with users, domains and aliases.

use mailslot::message::Owner;
use mailslot::resolver::users::{User, Users};
use mailslot::resolver::{
    AddressResolver, DomainPattern, LocalResolver, Member, Refusal, Resolution, ResolverConfig,
};
use mailslot::smtp::{ForwardPath, Mailbox};
use tempfile::TempDir;

/// A host for example.org and example.net, with users and aliases.
struct Host {
    local: LocalResolver,
    _dir: TempDir,
}

fn config(users: &[&str], aliases: &str) -> (ResolverConfig, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("aliases");
    std::fs::write(&file, aliases).unwrap();
    let config = ResolverConfig {
        domains: vec!["Example.org".to_owned(), "example.net".to_owned()],
        hostname: "mx.example.org".to_owned(),
        users: users.iter().map(|user| user.to_string()).collect(),
        sandbox: false,
        aliases: Some(file),
        delimiter: Some('+'),
        relays: Vec::new(),
    };
    (config, dir)
}

fn host(users: &[&str], aliases: &str) -> Host {
    let (config, dir) = config(users, aliases);
    Host { local: LocalResolver::new(config), _dir: dir }
}

/// Creates a sandbox host for these domains, or for every domain.
fn sandbox(users: &[&str], domains: &[&str]) -> Host {
    let (config, dir) = config(users, "");
    let domains = domains.iter().map(|domain| domain.to_string()).collect();
    Host {
        local: LocalResolver::new(ResolverConfig { sandbox: true, domains, ..config }),
        _dir: dir,
    }
}

impl Host {
    /// Returns the mailboxes, or the code and text of the refusal.
    fn rcpt(&self, to: &str) -> String {
        match self.local.resolve(&path(to)) {
            Ok(to) => to.local.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(" "),
            Err(refusal) => refusal.to_string(),
        }
    }

    fn delivered_to(&self, to: &str) -> String {
        let to = self.local.resolve(&path(to)).unwrap();
        to.local.iter().map(|d| &*d.delivered_to).collect::<Vec<_>>().join(" ")
    }

    fn vrfy(&self, name: &str) -> String {
        answer(self.local.vrfy(name).map(|member| vec![member]))
    }

    fn expn(&self, list: &str) -> String {
        answer(self.local.expn(list))
    }
}

fn path(to: &str) -> ForwardPath {
    match to {
        "postmaster" => ForwardPath::Postmaster,
        to => ForwardPath::Mailbox(Mailbox::parse(to).unwrap()),
    }
}

fn answer(result: Result<Vec<Member>, Refusal>) -> String {
    let member = |m: &Member| format!("{} <{}>", m.full_name, m.mailbox).trim().to_owned();
    match result {
        Ok(members) => members.iter().map(member).collect::<Vec<_>>().join(", "),
        Err(Refusal::Ambiguous(all)) => {
            format!("553 {}", all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        }
        Err(refusal) => refusal.to_string(),
    }
}

/// Checks rows of an address, and its mailboxes or the beginning of its refusal.
fn check(host: &Host, rows: &[(&str, &str)]) {
    for (to, want) in rows {
        let got = host.rcpt(to);
        let refused = want.as_bytes().first().is_some_and(u8::is_ascii_digit);
        assert!(got == *want || refused && got.starts_with(want), "{to}: {got}, not {want}");
    }
}

#[test]
fn users_and_domains() {
    let host = host(&["alice", "Bob", "bob.lock", "a/b"], "");
    check(
        &host,
        &[
            ("alice@example.org", "alice"),
            ("alice@EXAMPLE.NET", "alice"),
            ("Alice@example.org", "alice"),
            ("\"alice\"@example.org", "alice"),
            ("bob@example.org", "Bob"),
            ("BOB@example.org", "Bob"),
            ("carol@example.org", "550 5.1.1"),
            // Other domains: the own host name is not local unless it is listed.
            ("alice@mx.example.org", "550 5.7.1"),
            ("alice@org", "550 5.7.1"),
            ("alice@example.org.example.com", "550 5.7.1"),
            ("alice@[127.0.0.1]", "alice"),
            ("alice@[127.1.2.3]", "alice"),
            ("alice@[IPv6:::1]", "alice"),
            ("alice@[192.0.2.1]", "550 5.7.1"),
            ("alice@[IPv6:2001:db8::1]", "550 5.7.1"),
            // Names that cannot be file names.
            ("bob.lock@example.org", "553 5.1.3"),
            ("\"a/b\"@example.org", "553 5.1.3"),
        ],
    );
}

#[test]
fn tags_and_letter_case() {
    let host = host(&["bob", "bob+vip", "ann"], "sales: ann\nsales+eu: bob\n");
    check(
        &host,
        &[
            ("bob+x@example.org", "bob"),
            ("bob+@example.org", "bob"),
            ("bob+x+y@example.org", "bob"),
            ("Bob+X@example.org", "bob"),
            ("bob+vip@example.org", "bob+vip"),
            ("BOB+VIP@example.org", "bob+vip"),
            ("sales+x@example.org", "ann"),
            ("SALES+EU@example.org", "bob"),
            ("+bob@example.org", "550 5.1.1"),
            ("\"+\"@example.org", "550 5.1.1"),
            ("carol+bob@example.org", "550 5.1.1"),
        ],
    );
    for (to, want) in [
        ("bob@example.net", "bob@example.org"),
        ("BOB+Lists@example.net", "bob+Lists@example.org"),
        ("\"bob+a b\"@example.net", "\"bob+a b\"@example.org"),
        ("sales+x@example.net", "ann@example.org"),
        ("bob@[127.0.0.1]", "bob@example.org"),
    ] {
        assert_eq!(host.delivered_to(to), want);
    }
    let (config, _dir) = config(&["bob"], "");
    let local = LocalResolver::new(ResolverConfig { delimiter: None, ..config });
    assert_eq!(local.resolve(&path("bob+x@example.org")), Err(Refusal::Unknown));
}

/// Addresses that made old servers relay, or run a program. They are ordinary characters of a name,
/// because RFC 5321 gives them no meaning.
#[test]
fn percent_bang_and_quotes_have_no_meaning() {
    let rows = [
        "bob%example.com@example.org",
        "example.com!bob@example.org",
        "\"bob@example.com\"@example.org",
        "\"bob@example.org\"@example.org",
        "\"|/bin/sh\"@example.org",
        "\"/etc/passwd\"@example.org",
        "\":include:/etc/passwd\"@example.org",
        "\"\\\\bob\"@example.org",
        "\"bob \"@example.org",
        "\"../bob\"@example.org",
        "\"bob,alice\"@example.org",
        "\"<bob>\"@example.org",
        "\"-bob\"@example.org",
        "\".\"@example.org",
        "\"..\"@example.org",
    ];
    let (usual, sandbox) = (host(&["bob"], "bob@example.com: bob\n"), sandbox(&[], &[]));
    for to in rows {
        check(&usual, &[(to, "550 5.1.1")]);
        check(&sandbox, &[(to, "553 5.1.3")]);
    }
}

#[test]
fn aliases() {
    let aliases = "\
        sales: bob, alice, BOB\n\
        sales@example.net: carol\n\
        a: b\nb: c\nc: carol\n\
        alice: alice, bob\n\
        bob: \\bob, \\carol\n\
        both: alice, carol\n\
        here: carol@example.net\n\
        literal: carol@[127.0.0.1]\n\
        \"mary ann\": carol\n\
        tagged: carol+x\n\
        x@example.com: carol\n\
        owner-sales: alice\n";
    let host = host(&["alice", "bob", "carol"], aliases);
    check(
        &host,
        &[
            ("Sales@example.org", "bob carol alice"),
            ("sales@example.net", "carol"),
            ("a@example.org", "carol"),
            // An alias that lists itself is the user. So this is alice, and bob by the alias of
            // bob.
            ("alice@example.org", "alice bob carol"),
            ("bob@example.org", "bob carol"),
            ("both@example.org", "alice bob carol"),
            ("here@example.org", "carol"),
            ("literal@example.org", "carol"),
            ("\"mary ann\"@example.org", "carol"),
            ("\"Mary Ann\"@example.net", "carol"),
            ("tagged@example.org", "carol"),
            ("owner-sales@example.org", "alice bob carol"),
            ("owner-both@example.org", "550 5.1.1"),
            ("x@example.org", "550 5.1.1"),
            ("x@example.com", "550 5.7.1"),
        ],
    );
    assert_eq!(host.delivered_to("tagged@example.net"), "carol+x@example.org");
}

#[test]
fn aliases_that_lead_to_other_hosts() {
    let aliases = "\
        gone: fred@example.com\n\
        twice: fred@example.com, fred@EXAMPLE.COM\n\
        chain: gone\n\
        mixed: alice, fred@example.com\n\
        two: fred@example.com, wilma@example.com\n\
        nested: gone, alice\n";
    let host = host(&["alice"], aliases);
    let forward = Refusal::Forward(Mailbox::parse("fred@example.com").unwrap());
    for to in ["gone@example.org", "GONE+x@example.net", "twice@example.org", "chain@example.org"] {
        assert_eq!(host.local.resolve(&path(to)), Err(forward.clone()), "{to}");
    }
    // A sender that followed a 551 would leave recipients out.
    for to in ["mixed@example.org", "two@example.org", "nested@example.org"] {
        assert_eq!(host.local.resolve(&path(to)), Err(Refusal::NotLocal), "{to}");
    }
}

#[test]
fn errors_in_aliases_defer_mail() {
    let aliases = "\
        a: b\nb: c\nc: a\n\
        typo: alcie\n\
        part: alice, alcie\n\
        empty:\n\
        inc: :include:/nonexistent/list\n\
        selfless: selfless\n\
        broken: \"alice\n";
    let host = host(&["alice"], aliases);
    for (to, word) in [
        ("a@example.org", "aliases:1: a loop: a -> b -> c -> a"),
        ("b@example.org", "aliases:1: a loop: a -> b -> c -> a"),
        ("c@example.org", "aliases:1: a loop: a -> b -> c -> a"),
        ("typo@example.org", "aliases:4: alias `typo` leads to `alcie`, no user"),
        ("part@example.org", "aliases:5: alias `part`"),
        ("empty@example.org", "leads nowhere"),
        ("inc@example.org", "/nonexistent/list cannot be opened"),
        ("selfless@example.org", "leads to `selfless`, no user"),
        ("broken@example.org", "is not a name"),
    ] {
        match host.local.resolve(&path(to)) {
            Err(Refusal::Misconfigured(why)) => assert!(why.contains(word), "{to}: {why}"),
            other => panic!("{to}: {other:?}"),
        }
    }
}

/// A client that gets 4yz tries again for days, and these aliases do not change by themselves.
#[test]
fn programs_and_files_in_aliases_reject_mail_for_good() {
    let aliases = "\
        prog: alice, |/bin/true\n\
        file: /tmp/x\n\
        via: file\n\
        dir: :fail: no\n";
    let host = host(&["alice"], aliases);
    for (to, word) in [
        ("prog@example.org", "aliases:1: alias `prog` leads to `|/bin/true`, which is a program"),
        ("file@example.org", "aliases:2: alias `file` leads to `/tmp/x`, which is a file"),
        ("via@example.org", "aliases:2: alias `file`"),
        ("dir@example.org", "directive"),
    ] {
        match host.local.resolve(&path(to)) {
            Err(refusal @ Refusal::Unsupported(_)) => {
                let text = refusal.to_string();
                assert!(text.starts_with("550 5.3.5") && text.contains(word), "{to}: {text}");
            }
            other => panic!("{to}: {other:?}"),
        }
    }
    let problems = host.local.problems();
    let fix = |n: usize| problems[n].fix.as_str();
    assert!(fix(0).contains("cron") && fix(1).contains("/dev/null"), "{problems:#?}");
}

#[test]
fn dev_null_in_aliases_throws_mail_away() {
    let host = host(&["alice"], "noreply: /dev/null\nvia: noreply\nkept: /dev/null, alice\n");
    for to in ["noreply@example.org", "via+x@example.org"] {
        assert_eq!(host.local.resolve(&path(to)), Ok(Resolution::default()), "{to}");
        assert!(host.local.explain(to).text.ends_with("  = thrown away\n"), "{to}");
    }
    assert_eq!(host.rcpt("kept@example.org"), "alice");
    assert_eq!(host.local.problems(), []);
}

#[test]
fn user_names_with_capitals_are_found_in_any_case_if_there_is_only_one() {
    let host = host(&["Ann", "BoB", "bOb", "Carl", "carl"], "");
    for (to, want) in [
        ("Ann@example.org", "Ann"),
        ("ann@example.org", "Ann"),
        ("aNN+x@example.org", "Ann"),
        ("BoB@example.org", "BoB"),
        ("CARL@example.org", "carl"),
        ("Carl@example.org", "Carl"),
    ] {
        assert_eq!(host.rcpt(to), want, "{to}");
    }
    assert_eq!(host.rcpt("BOB@example.org"), Refusal::Unknown.to_string());
}

/// Reports come from this name, so that people answer it.
#[test]
fn mail_for_mailer_daemon_goes_to_postmaster() {
    for (users, aliases, want) in [
        (&["ann", "root"] as &[&str], "", "root"),
        (&["ann", "bob"], "", "ann"),
        (&["ann", "bob"], "postmaster: bob\n", "bob"),
        (&["ann", "bob"], "mailer-daemon: ann\npostmaster: bob\n", "ann"),
        (&["ann", "bob"], "mailer-daemon: postmaster\npostmaster: bob\n", "bob"),
        (&["ann", "root"], "postmaster: mailer-daemon\n", "root"),
        (&["ann", "mailer-daemon"], "", "mailer-daemon"),
    ] {
        let host = host(users, aliases);
        for to in ["MAILER-DAEMON@example.org", "mailer-daemon@example.net"] {
            assert_eq!(host.rcpt(to), want, "{users:?} {aliases:?} {to}");
        }
    }
}

#[test]
fn postmaster() {
    for (users, aliases, want) in [
        (&["ann", "postmaster", "root"] as &[&str], "", "postmaster"),
        (&["ann", "root"], "", "root"),
        (&["ann", "bob"], "", "ann"),
        (&["post", "bob"], "", "post"),
        (&["ann", "root"], "root: ann\n", "ann"),
        (&["ann", "bob"], "postmaster: bob\n", "bob"),
        (&["ann", "bob"], "PostMaster: root\nroot: bob, ann\n", "bob ann"),
        // Aliases that lead to other hosts, in circles or to no user do not take postmaster away.
        (&["ann", "bob"], "postmaster: root\nroot: me@example.com\n", "ann"),
        (&["ann", "root"], "postmaster: root\nroot: postmaster\n", "root"),
        (&["ann", "root"], "postmaster: nobody\n", "root"),
        (&["ann", "root"], "postmaster: ann, |/bin/false\n", "root"),
        (&["ann", "root"], "root: postmaster\n", "root"),
    ] {
        let host = host(users, aliases);
        for to in ["postmaster", "postmaster@example.org", "POSTMASTER@example.net"] {
            assert_eq!(host.rcpt(to), want, "{users:?} {aliases:?} {to}");
        }
        assert_eq!(host.rcpt("postmaster@example.com"), Refusal::NotLocal.to_string());
    }
    // As a target, postmaster exists too.
    let host = host(&["ann"], "abuse: postmaster\n");
    assert_eq!(host.rcpt("abuse@example.org"), "ann");
    assert_eq!(sandbox(&[], &[]).rcpt("postmaster"), "postmaster");
    assert_eq!(sandbox(&[], &[]).rcpt("Postmaster@anywhere.example"), "postmaster");
    assert_eq!(sandbox(&["ann"], &[]).rcpt("postmaster"), "ann");
}

#[test]
fn sandbox_accepts_every_plain_name() {
    check(
        &sandbox(&[], &[]),
        &[
            ("bob@example.com", "bob"),
            ("Bob@anything.example", "bob"),
            ("bob@[192.0.2.1]", "bob"),
            ("bob@[IPv6:2001:db8::1]", "bob"),
            ("bob+x@example.com", "bob+x"),
            ("j.r-r_t=1~2'3@example.com", "j.r-r_t=1~2'3"),
            ("0@example.com", "0"),
            ("bob.lock@example.com", "553 5.1.3"),
            ("BOB.LOCK@example.com", "553 5.1.3"),
            ("a/b@example.com", "553 5.1.3"),
            ("a&b@example.com", "553 5.1.3"),
            ("-rf@example.com", "553 5.1.3"),
            ("\".hidden\"@example.com", "553 5.1.3"),
            ("\"a b\"@example.com", "553 5.1.3"),
        ],
    );
    check(
        &sandbox(&["bob"], &[]),
        &[
            ("bob@example.com", "bob"),
            ("BOB+x@example.net", "bob"),
            ("ann@example.com", "550 5.1.1"),
        ],
    );
    check(
        &sandbox(&[], &["example.com"]),
        &[("ann@EXAMPLE.com", "ann"), ("ann@[127.0.0.1]", "ann"), ("ann@example.org", "550 5.7.1")],
    );
    assert_eq!(sandbox(&[], &[]).delivered_to("Bob@Example.COM"), "bob@example.com");
    assert_eq!(sandbox(&[], &[]).delivered_to("bob@[192.0.2.1]"), "bob@[192.0.2.1]");
}

/// Users with the full names of RFC 5321 3.5.1, in a user database that can fail.
struct NamedUsers {
    works: bool,
}

impl NamedUsers {
    fn all() -> Vec<User> {
        let person = |name: &str, full_name: &str, uid| User {
            name: name.to_owned(),
            owner: Some(Owner { uid, gid: 100 }),
            full_name: full_name.to_owned(),
        };
        vec![
            person("jsmith", "Joe Smith", 1000),
            person("hsmith", "Harry Smith", 1001),
            person("dweep", "Melvin Smith", 1002),
            person("fred", "Fred Jones", 1003),
        ]
    }
}

impl Users for NamedUsers {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        match self.works {
            true => Ok(NamedUsers::all().into_iter().find(|user| user.name == name)),
            false => Err("the directory is down".to_owned()),
        }
    }

    fn list(&self) -> Vec<User> {
        NamedUsers::all()
    }
}

fn host_of_named_users(works: bool, aliases: &str) -> Host {
    let (config, dir) = config(&[], aliases);
    let users = Box::new(NamedUsers { works });
    Host { local: LocalResolver::with_users(config, users), _dir: dir }
}

/// A user that cannot be looked up now is never reported as unknown.
#[test]
fn failing_user_database_defers() {
    let host =
        host_of_named_users(false, "list: fred, jsmith\nfar: x@example.com\npostmaster: fred\n");
    for to in ["fred@example.org", "nobody@example.org", "list@example.org", "postmaster"] {
        match host.local.resolve(&path(to)) {
            Err(Refusal::LookupFailed(why)) => assert_eq!(why, "the directory is down"),
            other => panic!("{to}: {other:?}"),
        }
    }
    assert!(matches!(host.local.vrfy("fred"), Err(Refusal::LookupFailed(_))));
    assert!(matches!(host.local.expn("list"), Err(Refusal::LookupFailed(_))));
    // Addresses that need no lookup are resolved.
    check(&host, &[("far@example.org", "551"), ("x@example.com", "550 5.7.1")]);
    assert_eq!(host_of_named_users(true, "").rcpt("fred@example.org"), "fred");
}

#[test]
fn unreadable_aliases_defer() {
    let (config, dir) = config(&["bob"], "");
    let missing = Some(dir.path().join("missing"));
    let local = LocalResolver::new(ResolverConfig { aliases: missing, ..config });
    assert!(matches!(local.resolve(&path("bob@example.org")), Err(Refusal::LookupFailed(_))));
    assert_eq!(local.resolve(&path("bob@example.com")), Err(Refusal::NotLocal));
    assert!(matches!(local.vrfy("bob"), Err(Refusal::LookupFailed(_))));
    assert!(local.problems().iter().any(|p| p.stops_mail && p.what.contains("missing")));
}

#[test]
fn vrfy() {
    let host = host_of_named_users(
        true,
        "\
        one: fred\nmany: fred, jsmith\ngone: x@example.com\nbad: nobody\n\"Team Red\": dweep\n",
    );
    let smiths = "553 jsmith@example.org hsmith@example.org dweep@example.org";
    for (name, want) in [
        ("fred", "Fred Jones <fred@example.org>"),
        ("FRED", "Fred Jones <fred@example.org>"),
        ("<fred>", "Fred Jones <fred@example.org>"),
        (" fred@example.net ", "Fred Jones <fred@example.org>"),
        ("<fred@[127.0.0.1]>", "Fred Jones <fred@example.org>"),
        ("fred+x", "Fred Jones <fred+x@example.org>"),
        ("one", "Fred Jones <fred@example.org>"),
        ("many", "<many@example.org>"),
        ("Team Red", "Melvin Smith <dweep@example.org>"),
        // Full names, and words of them.
        ("Jones", "Fred Jones <fred@example.org>"),
        ("harry smith", "Harry Smith <hsmith@example.org>"),
        ("Smith", smiths),
        ("smith", smiths),
        // Refused.
        ("gone", "551 5.1.6 not local; try <x@example.com>"),
        ("nobody", "550 5.1.1"),
        ("smit", "550 5.1.1"),
        ("", "550 5.1.1"),
        ("@", "550 5.1.1"),
        ("fred@", "550 5.1.1"),
        ("<fred", "550 5.1.1"),
        ("fred@example.com", "550 5.7.1"),
        ("bad", "451 4.3.5"),
        (&"x".repeat(2000), "550 5.1.1"),
        ("\u{1b}[31m", "550 5.1.1"),
    ] {
        let got = host.vrfy(name);
        assert!(got == want || want.len() == 9 && got.starts_with(want), "{name}: {got}");
    }
    // With --user there are no full names, but parts of user names.
    let host = self::host(&["j.smith", "h.smith", "ann"], "");
    assert_eq!(host.vrfy("smith"), "553 j.smith@example.org h.smith@example.org");
    assert_eq!(host.vrfy("h"), "<h.smith@example.org>");
    assert_eq!(sandbox(&[], &[]).vrfy("Bob"), "<bob@mx.example.org>");
    assert_eq!(sandbox(&[], &[]).vrfy("Bob@example.com"), "<bob@example.com>");
    assert!(sandbox(&[], &[]).vrfy("a/b").starts_with("553"));
}

#[test]
fn expn() {
    let host = host_of_named_users(
        true,
        "\
        list: fred, jsmith, inner, x@example.com, fred\n\
        inner: dweep, hsmith\n\
        jsmith: jsmith, fred\n\
        gone: x@example.com\nbad: fred, nobody\n\"Team Red\": list, \"Team Red@x\"\n",
    );
    for (list, want) in [
        (
            "list",
            "Fred Jones <fred@example.org>, <jsmith@example.org>, <inner@example.org>, \
             <x@example.com>",
        ),
        ("INNER@example.net", "Melvin Smith <dweep@example.org>, Harry Smith <hsmith@example.org>"),
        ("jsmith", "Joe Smith <jsmith@example.org>, Fred Jones <fred@example.org>"),
        ("fred", "Fred Jones <fred@example.org>"),
        ("gone", "551 5.1.6 not local; try <x@example.com>"),
        ("bad", "451 4.3.5"),
        ("nobody", "550 5.1.1"),
        ("", "550 5.1.1"),
        ("list@example.com", "550 5.7.1"),
        ("Team Red", "451 4.3.5"),
    ] {
        let got = host.expn(list);
        assert!(got == want || want.len() == 9 && got.starts_with(want), "{list}: {got}");
    }
}

/// The users of the system, on a host like most.
#[test]
fn users_of_the_system() {
    let config =
        ResolverConfig { domains: vec!["example.org".to_owned()], ..ResolverConfig::default() };
    let local = LocalResolver::new(config);
    let root = local.resolve(&path("root@example.org")).unwrap().local;
    assert_eq!(root[0].owner.map(|o| o.uid), Some(0));
    assert_eq!(*root[0].delivered_to, *"root@example.org");
    assert_eq!(local.resolve(&ForwardPath::Postmaster).unwrap().local[0].name.as_str(), "root");
    assert_eq!(local.resolve(&path("no-such-user-x@example.org")), Err(Refusal::Unknown));
}

#[test]
fn relaying_host_forwards_aliases() {
    let aliases = "off: fred@elsewhere.example\nmixed: alice, fred@elsewhere.example\n\
                   list: fred@elsewhere.example, alice\nowner-list: alice\n\
                   inside: alice\nowner-inside: alice\n";
    let (config, _dir) = config(&["alice"], aliases);
    let relaying =
        LocalResolver::new(ResolverConfig { relays: vec![DomainPattern::Any], ..config });
    let ways = |to: &str| {
        let way = relaying.resolve(&path(to)).unwrap();
        let local: Vec<String> = way.local.iter().map(|to| to.name.to_string()).collect();
        let elsewhere: Vec<String> = way.remote.iter().map(Mailbox::to_string).collect();
        (local.join(","), elsewhere.join(","), way.is_relay)
    };
    let fred = "fred@elsewhere.example".to_owned();
    assert_eq!(ways("off@example.org"), (String::new(), fred.clone(), false));
    assert_eq!(ways("mixed@example.org"), ("alice".to_owned(), fred.clone(), false));
    assert_eq!(ways("alice@example.org"), ("alice".to_owned(), String::new(), false));
    assert_eq!(ways("fred@elsewhere.example"), (String::new(), fred.clone(), true));
    // Not taken for a local address because it contains one.
    for trick in ["alice%example.org@elsewhere.example", "example.org!alice@elsewhere.example"] {
        assert_eq!(ways(trick), (String::new(), trick.to_owned(), true));
    }
    let owner =
        |to: &str| relaying.resolve(&path(to)).unwrap().owner.map(|owner| owner.to_string());
    assert_eq!(owner("mixed@example.org"), None);
    assert_eq!(owner("list@example.net"), Some("owner-list@example.net".to_owned()));
    assert_eq!(owner("inside@example.net"), None, "all members are local");
    assert_eq!(relaying.resolve(&path("nobody@example.org")), Err(Refusal::Unknown));
    let forward = Refusal::Forward(Mailbox::parse(&fred).unwrap());
    assert_eq!(relaying.vrfy("off").unwrap_err(), forward);
    for (address, expected) in [
        ("off", "relayed to <fred@elsewhere.example>"),
        ("mixed", "delivered to alice, and relayed to <fred@elsewhere.example>"),
        ("x@elsewhere.example", "relayed, for clients that may relay"),
    ] {
        let text = relaying.explain(address).text;
        assert!(text.ends_with(&format!("= {expected}\n")), "{text}");
    }
}
