//! The parser of alias files, line by line.

use std::path::Path;

use mailslot::resolver::aliases::{AliasEntry, AliasItem, AliasTarget, Aliases, parse_include};

fn parse(text: impl AsRef<[u8]>) -> Aliases {
    Aliases::parse(Path::new("/etc/aliases"), text.as_ref().to_vec())
}

/// Returns each alias as `name = kind:target kind:target`.
fn summary(aliases: &Aliases) -> Vec<String> {
    let entry = |(_, e): (_, AliasEntry)| {
        let items: Vec<String> = e.items.iter().map(item).collect();
        format!("{} = {}", e.name, items.join(" "))
    };
    aliases.entries().map(entry).collect()
}

fn item(item: &AliasItem) -> String {
    match &item.target {
        AliasTarget::Name(name) => format!("name:{name}"),
        AliasTarget::Mailbox(mailbox) => format!("mailbox:{mailbox}"),
        AliasTarget::User(name) => format!("user:{name}"),
        AliasTarget::Include(path) => format!("include:{}", path.display()),
        AliasTarget::Null => "null".to_owned(),
        AliasTarget::Unsupported { kind, .. } => format!("{kind:?}"),
        AliasTarget::Invalid { error: why, .. } => {
            format!("wrong:{}", why.split(' ').take(4).collect::<String>())
        }
    }
}

#[test]
fn alias_lines() {
    for (text, want) in [
        // Empty.
        ("", &[] as &[&str]),
        ("\n\n  \n\t\n# a: b\n   # a: b\n", &[]),
        // White space and line ends.
        ("a:b", &["a = name:b"]),
        ("a : b\n", &["a = name:b"]),
        ("a:\tb\r\n\r\nc: d\r\n", &["a = name:b", "c = name:d"]),
        ("a: b,c ,d,\n", &["a = name:b name:c name:d"]),
        ("a: ,,b\n", &["a = name:b"]),
        // Continuation lines, also after comments and empty lines.
        ("a: b,\n  c,\n\td\ne: f", &["a = name:b name:c name:d", "e = name:f"]),
        ("a:\n b\n", &["a = name:b"]),
        ("a: b,\n# comment\n\n  # another\n  c\n", &["a = name:b name:c"]),
        // Quotes.
        ("\"a b\": c\n", &["a b = name:c"]),
        ("\"a:b\": c\n", &["a:b = name:c"]),
        ("a: \"b c\", \"d,e\"\n", &["a = name:b c name:d,e"]),
        ("a: \"b\\\"c\"\n", &["a = name:b\"c"]),
        ("a: \"b c\"@example.org\n", &["a = mailbox:\"b c\"@example.org"]),
        // A quoted @ is part of a name.
        ("a: \"b@example.org\"\n", &["a = name:b@example.org"]),
        // Mailboxes, on both sides.
        ("a@example.org: b@example.com\n", &["a@example.org = mailbox:b@example.com"]),
        ("a: Fred Q. Smith <f@example.org>, <g>\n", &["a = mailbox:f@example.org name:g"]),
        ("a: \"Smith, Fred <x>\" <f@example.org>\n", &["a = mailbox:f@example.org"]),
        ("a: b (the boss), c(x (y) \\) z)\n", &["a = name:b name:c"]),
        // The user, not the alias.
        ("a: \\a, b\n", &["a = user:a name:b"]),
        // Files of targets.
        ("a: :include:/etc/list\n", &["a = include:/etc/list"]),
        ("a: \":include:/etc/a list\", :INCLUDE: /x\n", &["a = include:/etc/a list include:/x"]),
        ("a: :include:list\n", &["a = wrong:isnotthefull"]),
        // Mail is thrown away.
        ("a: /dev/null\n", &["a = null"]),
        ("a: \"/dev/null\", :BlackHole:, b\n", &["a = null null name:b"]),
        // Targets that are not supported are kept, so that mail for the alias is rejected.
        ("a: |/bin/prog\n", &["a = Program"]),
        ("a: \"|/bin/prog -x, y\", b\n", &["a = Program name:b"]),
        ("a: \"/var/mail/x y\"\n", &["a = File"]),
        ("a: :fail: gone away\n", &["a = Directive"]),
        ("a: error:550 gone\n", &["a = Directive"]),
        // Errors.
        ("a:\n", &["a = wrong:leadsnowhere"]),
        ("a: b c\n", &["a = wrong:isnotaname"]),
        ("a: b # comment\n", &["a = wrong:isnotaname"]),
        ("a: \"b\n", &["a = wrong:isnotaname"]),
        ("a: b (c\n", &["a = wrong:isnotaname"]),
        ("a: \"b\"c\n", &["a = wrong:isnotaname"]),
        ("a: \"\"\n", &["a = wrong:isempty"]),
        ("a: \\b@example.org\n", &["a = wrong:isnot`\\`and"]),
        ("a: b@\n", &["a = wrong:isnotanaddress:"]),
        ("a: @b\n", &["a = wrong:isnotanaddress:"]),
        ("a: b@c@d\n", &["a = wrong:isnotanaddress:"]),
        ("a: b\0c\n", &["a = wrong:isnotprintableASCII"]),
        ("a: b\u{e9}\n", &["a = name:b\u{e9}"]),
        ("a: b\rc\n", &["a = wrong:isnotprintableASCII"]),
    ] {
        let aliases = parse(text);
        assert_eq!(summary(&aliases), want, "{text:?}");
        assert_eq!(aliases.errors, [], "{text:?}");
    }
}

#[test]
fn complaints_name_the_line() {
    for (text, line, word) in [
        ("a: b\nno colon here\n", 2, "no colon"),
        ("# x\n\n: b\n", 3, "empty"),
        ("a: b\na: c\n", 2, "second alias `a`; the one in line 1"),
        ("a: b\nA: c\n", 2, "second alias `A`"),
        ("\"a\": b\n\na: c\n", 3, "second alias"),
        ("a@x.org: b\nA@X.ORG: c\n", 2, "second alias"),
        ("a b: c\n", 1, "not a name"),
        ("@example.org: c\n", 1, "not an address"),
        ("|x: c\n", 1, "program"),
        ("\\x: c\n", 1, "cannot be the name"),
        ("a\u{7f}: c\n", 1, "printable ASCII"),
        ("\u{feff}a: c\n", 1, "printable ASCII"),
        ("\"a: b\n", 1, "no colon"),
    ] {
        let aliases = parse(text);
        let [(number, why)] = aliases.errors.as_slice() else {
            panic!("{text:?}: {:?}", aliases.errors)
        };
        assert!(*number == line && why.contains(word), "{text:?}: {number} {why}");
        assert!(why.bytes().all(|b| matches!(b, b' '..=b'~')), "{why:?}");
    }
}

#[test]
fn non_utf8_bytes_invalidate_only_their_line() {
    let aliases = parse(b"a: b\nc: \xff\xfe\n# \xff\nd\xff: e\nf: g\n");
    assert_eq!(summary(&aliases), ["a = name:b", "c = wrong:isnotprintableASCII", "f = name:g"]);
    assert_eq!(aliases.errors.len(), 1);
    assert_eq!(aliases.errors[0].0, 4);
}

#[test]
fn line_numbers() {
    let aliases = parse("# 1\na: b,\n  c, # no\n\n  (4\n 6) d,\n\te\n\nf:\n\n g\n");
    let lines = |(_, entry): (_, AliasEntry)| -> (usize, Vec<usize>) {
        (entry.line, entry.items.iter().map(|item| item.line).collect())
    };
    let found: Vec<_> = aliases.entries().map(lines).collect();
    assert_eq!(found, [(2, vec![2, 3, 3, 7]), (9, vec![11])]);
}

#[test]
fn find_prefers_the_mailbox_and_ignores_case() {
    let aliases = parse("Sales: a\nsales@Example.ORG: b\n\"x@y.org\": c\nx@y.org: d\n");
    for (name, host, want) in [
        ("sales", "example.org", Some(2)),
        ("SALES", "EXAMPLE.org", Some(2)),
        ("sales", "other.org", Some(1)),
        ("sales ", "other.org", None),
        ("", "", None),
        // In `"x@y.org"@z.org` the name contains an @. It is never the mailbox x@y.org.
        ("x@y.org", "z.org", Some(3)),
        ("x", "y.org", Some(4)),
        ("x", "z.org", None),
    ] {
        let found = aliases.find(name, host).and_then(|place| aliases.entry(place));
        assert_eq!(found.map(|entry| entry.line), want, "{name} {host}");
    }
}

#[test]
fn included_lines_are_lists() {
    let items = parse_include(b"# staff\nalice, bob\r\n\nFred <f@example.org>\n  , carol\n|prog\n");
    let got: Vec<(usize, String)> = items.iter().map(|i| (i.line, item(i))).collect();
    let want = [
        (2, "name:alice"),
        (2, "name:bob"),
        (4, "mailbox:f@example.org"),
        (5, "name:carol"),
        (6, "Program"),
    ];
    assert_eq!(got, want.map(|(line, text)| (line, text.to_owned())));
}

/// No input panics. A line of 1 MiB is parsed in one pass; quadratic work would take minutes.
#[test]
fn random_input_does_not_panic() {
    let seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut state = seed;
    let mut random = |n: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let alphabet = b"ab@.:,\"\\()<>#|/ \t\r\n\0\xc3\xa9-";
    for round in 0..3000 {
        let text: Vec<u8> =
            (0..random(60)).map(|_| alphabet[random(alphabet.len() as u64) as usize]).collect();
        let aliases = parse(&text);
        let lines = text.iter().filter(|b| **b == b'\n').count() + 1;
        for (_, entry) in aliases.entries() {
            assert!((1..=lines).contains(&entry.line), "seed {seed} round {round} {text:?}");
            assert!(!entry.items.is_empty(), "seed {seed} round {round} {text:?}");
        }
        parse_include(&text);
    }
    for byte in alphabet {
        let run = vec![*byte; 1 << 20];
        parse(&run);
        parse([b"a:", run.as_slice()].concat());
    }
}
