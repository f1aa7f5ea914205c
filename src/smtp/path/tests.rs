//! Tests of the parser with tables of boundary cases, and of parsing what was written.

use super::*;
use proptest::prelude::*;

fn reverse(text: &str) -> Result<String, SyntaxError> {
    ReversePath::read(text.as_bytes()).map(|(path, rest)| {
        assert!(rest.is_empty(), "{text}: not all was parsed");
        path.to_string()
    })
}

fn forward(text: &str) -> Result<String, SyntaxError> {
    ForwardPath::read(text.as_bytes()).map(|(path, rest)| {
        assert!(rest.is_empty(), "{text}: not all was parsed");
        path.to_string()
    })
}

/// Returns a path of `n` octets, with its brackets.
fn path_of(n: usize) -> String {
    let local = 255.min(n - 6);
    format!("<{}@{}.b>", "l".repeat(local), "d".repeat(n - 5 - local))
}

#[test]
fn paths_are_parsed_and_written() {
    let rows = [
        ("<Smith@Alpha.ARPA>", "<Smith@Alpha.ARPA>"),
        ("<a@b>", "<a@b>"),
        ("<a.b.c@d.e>", "<a.b.c@d.e>"),
        ("<!#$%&'*+-/=?^_`{|}~@d>", "<!#$%&'*+-/=?^_`{|}~@d>"),
        // Quotes are kept only where they are needed.
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
fn invalid_paths_are_rejected_with_the_reason() {
    let rows = [
        ("", NO_BRACKETS),
        ("@x:a@b", NO_BRACKETS),
        ("a", NO_DOMAIN),
        (">", NO_LOCAL),
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
        ("<.a@b>", BAD_DOT),
        ("<a.@b>", BAD_DOT),
        ("<a..b@c>", BAD_DOT),
        ("<\"\"@b>", NO_LOCAL),
        ("<\"a@b>", NO_CLOSING_QUOTE),
        ("<\"a\\", NO_ESCAPED),
        ("<\"a\"b@c>", NO_DOMAIN),
        // Domains.
        ("<a@b.>", BAD_DOMAIN),
        ("<a@.b>", BAD_DOMAIN),
        ("<a@b..c>", BAD_DOMAIN),
        ("<a@-b>", BAD_DOMAIN),
        ("<a@b-.c>", BAD_DOMAIN),
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
        // Bytes that are not valid in an address.
        ("<a\0@b>", NOT_PRINTABLE),
        ("<\"\\\u{e9}\"@b>", NOT_PRINTABLE),
        ("<\"\\\t\"@b>", NOT_PRINTABLE),
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
fn a_single_byte_outside_printable_ascii_is_rejected() {
    for byte in (0..=31).chain(127..=255u8) {
        for (before, after) in [
            (&b"<"[..], &b"@b>"[..]),
            (b"<a", b"@b>"),
            (b"<\"", b"\"@b>"),
            (b"<\"\\", b"\"@b>"),
            (b"<a@", b">"),
            (b"<a@b", b">"),
            (b"<a@[", b"]>"),
            (b"<@", b":a@b>"),
        ] {
            let path = [before, &[byte], after].concat();
            let read = ForwardPath::read(&path);
            let errors = [Err(NOT_PRINTABLE), Err(NOT_UTF8)];
            assert!(errors.contains(&read), "{}: {read:?}", path.escape_ascii());
        }
    }
}

/// RFC 6531 3.3
#[test]
fn utf8_is_parsed_and_written() {
    let rows = [
        "<j\u{fc}rgen@example>",
        "<j\u{fc}.\u{3b1}@b\u{fc}cher.example>",
        "<\"\u{fc} \u{fc}\"@b>",
        "<\u{938}@\u{921}\u{93e}\u{91f}\u{93e}\u{92e}\u{947}\u{932}.\u{92d}\u{93e}\u{930}\u{924}>",
        "<\u{1f4ee}@b>",
    ];
    for text in rows {
        assert_eq!(forward(text).as_deref(), Ok(text));
        assert_eq!(reverse(text).as_deref(), Ok(text));
        assert!(!ForwardPath::read(text.as_bytes()).unwrap().0.is_ascii(), "{text}");
    }
    assert!(ForwardPath::read(b"<a@xn--bcher-kva.example>").unwrap().0.is_ascii());
    assert_eq!(forward("<@b\u{fc}cher.example:u@c>").as_deref(), Ok("<u@c>"));
    let rows: &[(&[u8], SyntaxError)] = &[
        // Not UTF-8: a single byte, too short, overlong, a surrogate, beyond Unicode.
        (b"<\xfc@b>", NOT_UTF8),
        (b"<a\xc3@b>", NOT_UTF8),
        (b"<\xc0\xaf@b>", NOT_UTF8),
        (b"<\xed\xa0\x80@b>", NOT_UTF8),
        (b"<\xf4\x90\x80\x80@b>", NOT_UTF8),
        (b"<\"\xfc\"@b>", NOT_UTF8),
        (b"<a@\xfc>", NOT_UTF8),
        // Control characters beyond ASCII, and the line ends of Unicode.
        ("<a\u{85}@b>".as_bytes(), NOT_PRINTABLE),
        ("<\"a\u{9b}\"@b>".as_bytes(), NOT_PRINTABLE),
        ("<a\u{2028}@b>".as_bytes(), NOT_PRINTABLE),
        ("<a@b\u{2029}>".as_bytes(), NOT_PRINTABLE),
        // Invalid domains: only a combining mark, an empty label, a character that maps to `/`.
        ("<a@\u{301}>".as_bytes(), NOT_IDNA),
        ("<a@\u{fc}..b>".as_bytes(), BAD_DOMAIN),
        ("<a@b\u{ff0f}c>".as_bytes(), BAD_DOMAIN),
    ];
    for (text, error) in rows {
        assert_eq!(ForwardPath::read(text), Err(*error), "{}", text.escape_ascii());
    }
    // 255 octets are 127 umlauts. The ASCII form of a domain must fit as well.
    assert!(forward(&format!("<{}@b>", "\u{fc}".repeat(127))).is_ok());
    assert!(forward(&format!("<{}@b>", "\u{fc}".repeat(128))).is_err());
    let labels = |n: usize| vec!["\u{fc}"; n].join(".");
    assert!(Domain::parse(&labels(31)).is_ok(), "xn--tda, 7 octets and a dot");
    assert_eq!(Domain::parse(&labels(33)), Err(TOO_LONG_DOMAIN));
}

#[test]
fn u_labels_equal_their_a_labels() {
    let parse = |text: &str| Domain::parse(text).unwrap();
    for (a, b) in [
        ("b\u{fc}cher.example", "xn--bcher-kva.example"),
        ("B\u{dc}CHER.Example", "XN--BCHER-KVA.example"),
        ("bu\u{308}cher.example", "b\u{fc}cher.example"),
        ("xn--bcher-kva.b\u{fc}cher", "b\u{fc}cher.xn--bcher-kva"),
    ] {
        assert_eq!(parse(a), parse(b));
        assert_eq!(parse(a).to_ascii(), parse(b).to_ascii());
    }
    assert_eq!(parse("B\u{fc}cher.example").to_ascii(), "xn--bcher-kva.example");
    assert_eq!(parse("[IPv6:2001:DB8::1]").to_ascii(), "[ipv6:2001:db8::1]");
    assert_ne!(parse("b\u{fc}cher.example"), parse("bucher.example"));
    assert_ne!(parse("stra\u{df}e.example"), parse("strasse.example"), "not transitional");
}

#[test]
fn limits_count_octets() {
    let local = |n: usize| format!("<{}@b>", "l".repeat(n));
    let quoted = |n: usize| format!("<\"{}\"@b>", "\\ ".repeat(n));
    assert!(forward(&local(255)).is_ok());
    assert_eq!(forward(&local(256)), Err(TOO_LONG_LOCAL));
    assert!(forward(&quoted(64)).is_ok(), "quotes and backslashes are not counted");
    assert!(forward(&quoted(253)).is_ok(), "but in the path they are");
    assert_eq!(forward(&quoted(254)), Err(TOO_LONG_PATH));

    assert!(forward(&path_of(512)).is_ok());
    assert_eq!(forward(&path_of(513)), Err(TOO_LONG_PATH));

    let domain = |n: usize| "d".repeat(n);
    assert!(Domain::parse(&domain(255)).is_ok());
    assert!(Domain::parse(&domain(256)).is_err());
    assert!(Domain::parse(&format!("[t:{}]", domain(251))).is_ok());
    assert!(Domain::parse(&format!("[t:{}]", domain(252))).is_err());
}

#[test]
fn text_after_the_path_is_returned() {
    let read = ReversePath::read(b"<a@b> SIZE=1\r\n").unwrap();
    assert_eq!(read.1, b" SIZE=1\r\n");
    let read = ReversePath::read(b"<\"a> \"@b>>").unwrap();
    assert_eq!(read.1, b">");
}

#[test]
fn case_matters_in_local_parts_and_not_in_domains() {
    let parse = |text: &str| Mailbox::parse(text).unwrap();
    assert_eq!(parse("al@Beta.ARPA"), parse("al@bETA.arpa"));
    assert_eq!(parse("\"al\"@b"), parse("al@b"));
    assert_eq!(parse("al@[IPv6:0:0::1]"), parse("al@[ipv6:::1]"));
    assert_ne!(parse("al@b"), parse("Al@b"));
    assert_ne!(parse("al@192.0.2.1"), parse("al@[192.0.2.1]"));
}

#[test]
fn new_and_parse_both_check_a_mailbox() {
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
fn only_a_whole_quoted_string_is_unquoted() {
    assert_eq!(unquote(b"\"Fred \\\"F\\\" Smith\"").as_deref(), Some("Fred \"F\" Smith"));
    for text in [&b"smith"[..], b"\"smith", b"\"smith\"@b", b""] {
        assert_eq!(unquote(text), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every valid mailbox is parsed to the same after it was written.
    #[test]
    fn a_written_mailbox_parses_to_the_same(
        local in "[ -~]{1,64}|[ -~\u{a1}-\u{24f}\u{4e00}]{1,20}",
        domain in "[a-z0-9]([a-z0-9_.-]?[a-z0-9])*",
    ) {
        let mailbox = Mailbox::new(&local, Domain::Name(domain)).unwrap();
        prop_assert_eq!(Mailbox::parse(&mailbox.to_string()), Ok(mailbox));
    }
}
