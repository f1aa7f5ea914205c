//! Paths against tables of boundaries, and parsing against writing.

use super::*;
use proptest::prelude::*;

fn reverse(text: &str) -> Result<String, SyntaxError> {
    ReversePath::read(text.as_bytes()).map(|(path, rest)| {
        assert!(rest.is_empty(), "{text}: all is read");
        path.to_string()
    })
}

fn forward(text: &str) -> Result<String, SyntaxError> {
    ForwardPath::read(text.as_bytes()).map(|(path, rest)| {
        assert!(rest.is_empty(), "{text}: all is read");
        path.to_string()
    })
}

/// `<` of `n` octets with its brackets `>`.
fn path_of(n: usize) -> String {
    format!("<a@{}.b>", "d".repeat(n - 6))
}

#[test]
fn paths_are_read_and_written_again() {
    let rows = [
        ("<Smith@Alpha.ARPA>", "<Smith@Alpha.ARPA>"),
        ("<a@b>", "<a@b>"),
        ("<a.b.c@d.e>", "<a.b.c@d.e>"),
        ("<!#$%&'*+-/=?^_`{|}~@d>", "<!#$%&'*+-/=?^_`{|}~@d>"),
        // Quoted: the quotes stay only where they are needed.
        ("<\"al\"@b>", "<al@b>"),
        ("<\"a\\l\"@b>", "<al@b>"),
        ("<\"a b\"@c>", "<\"a b\"@c>"),
        ("<\"a@b\"@c>", "<\"a@b\"@c>"),
        ("<\"a>b\"@c>", "<\"a>b\"@c>"),
        ("<\"a..b\"@c>", "<\"a..b\"@c>"),
        ("<\"\\\"\\\\\"@c>", "<\"\\\"\\\\\"@c>"),
        ("<\"\\ \"@c>", "<\" \"@c>"),
        // Domains.
        ("<a@1.2.3.4>", "<a@1.2.3.4>"),
        ("<a@x_y.example>", "<a@x_y.example>"),
        ("<a@b--c.d>", "<a@b--c.d>"),
        ("<a@[192.0.2.1]>", "<a@[192.0.2.1]>"),
        ("<a@[ipv6:2001:DB8:0::1]>", "<a@[IPv6:2001:db8::1]>"),
        ("<a@[IPv6:::ffff:192.0.2.1]>", "<a@[IPv6:::ffff:192.0.2.1]>"),
        ("<a@[x-tag:any!thing]>", "<a@[x-tag:any!thing]>"),
        // Source routes are dropped.
        ("<@a:u@c>", "<u@c>"),
        ("<@a,@b.c,@[192.0.2.1]:u@c>", "<u@c>"),
    ];
    for (text, written) in rows {
        assert_eq!(forward(text).as_deref(), Ok(written), "{text}");
        assert_eq!(reverse(text).as_deref(), Ok(written), "{text}");
    }
}

#[test]
fn paths_without_a_mailbox() {
    assert_eq!(reverse("<>").as_deref(), Ok("<>"));
    assert_eq!(forward("<>"), Err(NO_LOCAL));
    for text in ["<postmaster>", "<Postmaster>", "<POSTMASTER>", "<\"postmaster\">"] {
        assert_eq!(forward(text).as_deref(), Ok("<Postmaster>"), "{text}");
        assert_eq!(reverse(text), Err(NO_DOMAIN), "{text}");
    }
    let at_host = forward("<postMASTER@b>");
    assert_eq!(at_host.as_deref(), Ok("<postMASTER@b>"), "the case is kept");
}

#[test]
fn what_is_no_path_is_refused_with_its_reason() {
    let rows = [
        ("", NO_BRACKETS),
        ("a@b", NO_BRACKETS),
        ("a@b>", NO_BRACKETS),
        ("<", NO_LOCAL),
        ("<@", EMPTY_DOMAIN),
        ("<a", NO_DOMAIN),
        ("<a>", NO_DOMAIN),
        ("<a@", EMPTY_DOMAIN),
        ("<a@>", EMPTY_DOMAIN),
        ("<a@b", NO_CLOSING_BRACKET),
        ("<a@b c>", NO_CLOSING_BRACKET),
        ("<a@b@c>", NO_CLOSING_BRACKET),
        ("<@b>", BAD_ROUTE),
        ("<@b:>", NO_LOCAL),
        ("<@b,:a@c>", BAD_ROUTE),
        ("<@b,c:a@c>", BAD_ROUTE),
        ("<@b:postmaster>", NO_DOMAIN),
        ("< a@b>", NO_LOCAL),
        ("<a @b>", NO_DOMAIN),
        ("<a b@c>", NO_DOMAIN),
        ("<a\\@b@c>", NO_DOMAIN),
        ("<<a@b>>", NO_LOCAL),
        ("<(a)@b>", NO_LOCAL),
        ("<a@#123>", EMPTY_DOMAIN),
        // Local-parts.
        ("<.a@b>", SyntaxError("a dot stands between letters, or in quotes")),
        ("<a.@b>", SyntaxError("a dot stands between letters, or in quotes")),
        ("<a..b@c>", SyntaxError("a dot stands between letters, or in quotes")),
        ("<\"\"@b>", NO_LOCAL),
        ("<\"a@b>", SyntaxError("the closing quote is missing")),
        ("<\"a\\", SyntaxError("nothing behind the backslash")),
        ("<\"a\"b@c>", NO_DOMAIN),
        // Domains.
        ("<a@b.>", SyntaxError("a domain is letters, digits and hyphens, with dots between")),
        ("<a@.b>", SyntaxError("a domain is letters, digits and hyphens, with dots between")),
        ("<a@b..c>", SyntaxError("a domain is letters, digits and hyphens, with dots between")),
        ("<a@-b>", SyntaxError("a domain is letters, digits and hyphens, with dots between")),
        ("<a@b-.c>", SyntaxError("a domain is letters, digits and hyphens, with dots between")),
        // Literals.
        ("<a@[]>", BAD_LITERAL),
        ("<a@[192.0.2]>", BAD_LITERAL),
        ("<a@[192.0.2.256]>", BAD_LITERAL),
        ("<a@[2001:db8::1]>", BAD_LITERAL),
        ("<a@[IPv6:2001:db8::1::2]>", BAD_LITERAL),
        ("<a@[IPv6:]>", BAD_LITERAL),
        ("<a@[tag:]>", BAD_LITERAL),
        ("<a@[:x]>", BAD_LITERAL),
        ("<a@[t-:x]>", BAD_LITERAL),
        ("<a@[192.0.2.1>", BAD_LITERAL),
        ("<a@[192.0.2.1]b>", NO_CLOSING_BRACKET),
        // Octets that no address holds.
        ("<a\0@b>", NOT_PRINTABLE),
        ("<\u{e9}@b>", NOT_PRINTABLE),
        ("<\"\u{e9}\"@b>", NOT_PRINTABLE),
        ("<\"\\\t\"@b>", NOT_PRINTABLE),
        ("<a@\u{e9}>", NOT_PRINTABLE),
        ("<a@b\u{7f}>", NOT_PRINTABLE),
        ("<a@b\t>", NOT_PRINTABLE),
    ];
    for (text, error) in rows {
        assert_eq!(forward(text), Err(error), "{text:?}");
        if text != "<" {
            assert_eq!(reverse(text), Err(error), "{text:?}");
        }
    }
}

#[test]
fn no_octet_outside_printable_ascii_stands_in_an_address() {
    for octet in (0..=31).chain(127..=255) {
        for (before, behind) in [
            (&b"<"[..], &b"@b>"[..]),
            (b"<a", b"@b>"),
            (b"<\"", b"\"@b>"),
            (b"<\"\\", b"\"@b>"),
            (b"<a@", b">"),
            (b"<a@b", b">"),
            (b"<a@[", b"]>"),
            (b"<@", b":a@b>"),
        ] {
            let path = [before, &[octet], behind].concat();
            let read = ForwardPath::read(&path);
            assert_eq!(read, Err(NOT_PRINTABLE), "{}", path.escape_ascii());
        }
    }
}

#[test]
fn limits_are_in_octets() {
    let local = |n: usize| format!("<{}@b>", "l".repeat(n));
    let quoted = |n: usize| format!("<\"{}\"@b>", "\\ ".repeat(n));
    assert!(forward(&local(64)).is_ok());
    assert_eq!(forward(&local(65)), Err(SyntaxError("a local-part is at most 64 octets")));
    assert!(forward(&quoted(64)).is_ok(), "quotes and backslashes do not count");
    assert_eq!(forward(&quoted(65)), Err(SyntaxError("a local-part is at most 64 octets")));

    assert!(forward(&path_of(256)).is_ok());
    assert_eq!(forward(&path_of(257)), Err(SyntaxError("a path is at most 256 octets")));

    let domain = |n: usize| "d".repeat(n);
    assert!(Domain::parse(&domain(255)).is_ok());
    assert!(Domain::parse(&domain(256)).is_err());
    assert!(Domain::parse(&format!("[t:{}]", domain(251))).is_ok());
    assert!(Domain::parse(&format!("[t:{}]", domain(252))).is_err());
}

#[test]
fn what_stands_behind_the_path_is_left() {
    let read = ReversePath::read(b"<a@b> SIZE=1\r\n").unwrap();
    assert_eq!(read.1, b" SIZE=1\r\n");
    let read = ReversePath::read(b"<\"a> \"@b>>").unwrap();
    assert_eq!(read.1, b">");
}

#[test]
fn domains_compare_without_case_and_local_parts_with_it() {
    let parse = |text: &str| Mailbox::parse(text).unwrap();
    assert_eq!(parse("al@Beta.ARPA"), parse("al@bETA.arpa"));
    assert_eq!(parse("\"al\"@b"), parse("al@b"));
    assert_eq!(parse("al@[IPv6:0:0::1]"), parse("al@[ipv6:::1]"));
    assert_ne!(parse("al@b"), parse("Al@b"));
    assert_ne!(parse("al@192.0.2.1"), parse("al@[192.0.2.1]"));
}

#[test]
fn a_mailbox_is_checked_however_it_is_made() {
    let name = |text: &str| Domain::Name(text.to_owned());
    assert_eq!(Mailbox::new("a b", name("c")).unwrap().to_string(), "\"a b\"@c");
    assert_eq!(Mailbox::new("", name("c")), Err(NO_LOCAL));
    assert_eq!(Mailbox::new("a\n", name("c")), Err(NOT_PRINTABLE));
    assert!(Mailbox::new("a", name("c d")).is_err());
    assert!(Mailbox::new("a", name("")).is_err());
    for text in ["", "a", "@b", "a@b>", "<a@b>", "a@b c", "a@b\n"] {
        assert!(Mailbox::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_quoted_string_is_unquoted_only_whole() {
    assert_eq!(unquote(b"\"Fred \\\"F\\\" Smith\"").as_deref(), Some("Fred \"F\" Smith"));
    for text in [&b"smith"[..], b"\"smith", b"\"smith\"@b", b""] {
        assert_eq!(unquote(text), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any local-part that may be one is read again as it was written.
    #[test]
    fn written_is_read_again(local in "[ -~]{1,64}", domain in "[a-z0-9]([a-z0-9_.-]?[a-z0-9])*") {
        let mailbox = Mailbox::new(&local, Domain::Name(domain)).unwrap();
        prop_assert_eq!(Mailbox::parse(&mailbox.to_string()), Ok(mailbox));
    }
}
