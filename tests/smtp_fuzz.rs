//! The fuzzers' entry points on random and on shaped input: octets that are likely to matter to
//! the grammar, in any order. `tests/fuzz` runs the same functions for as long as one likes.

use mailslot::smtp::fuzz;
use proptest::prelude::*;
use proptest::sample::select;

/// What command lines, paths and dialogues are made of.
const WORDS: &[&str] = &[
    "EHLO ",
    "HELO ",
    "MAIL FROM:",
    "RCPT TO:",
    "DATA",
    "RSET",
    "NOOP",
    "QUIT",
    "LHLO ",
    " PRDR",
    "VRFY ",
    "EXPN ",
    "HELP ",
    "TURN",
    "BDAT 0",
    "BDAT 3\r\n",
    "bdat 5 last\r\n",
    "BDAT ",
    " LAST",
    "STARTTLS",
    "SEND FROM:",
    "SOML FROM:<>",
    "POST / HTTP/1.1",
    "<",
    ">",
    "<>",
    "<a@b>",
    "<x@b>",
    "<postmaster>",
    "@",
    "a",
    "@a:",
    "@a,@b:",
    "\"",
    "\\",
    "\\\"",
    ".",
    "..",
    ",",
    ":",
    "[",
    "]",
    "[127.0.0.1]",
    "[IPv6:::1]",
    "[t:c]",
    "-",
    "_",
    " ",
    "  ",
    "\t",
    "SIZE=",
    "SIZE=1",
    " RET=HDRS",
    " ENVID=+2B",
    " NOTIFY=SUCCESS,DELAY",
    " ORCPT=rfc822;a+20b",
    " ORCPT=utf-8;\u{fc}",
    "BODY=8BITMIME",
    "=",
    "X=Y",
    "18446744073709551616",
    "\r",
    "\n",
    "\r\n",
    "\r\n.\r\n",
    "\n.\n",
    ".\r\n",
    "\0",
    "\u{7f}",
    "\u{e9}",
    "\u{4e00}",
    "\u{85}",
    "xn--",
    "\u{fc}.",
    " SMTPUTF8",
    "mail from:<a@b>\r\n",
    "rcpt to:<a@b>\r\n",
    "data\r\n",
    "ehlo a\r\n",
];

/// Octets of any kind, or words and now and then a long run.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        20 => select(WORDS).prop_map(|word| word.as_bytes().to_vec()),
        1 => (60usize..70).prop_map(|n| vec![b'l'; n]),
        1 => (250usize..260).prop_map(|n| vec![b'd'; n]),
        1 => (2040usize..2056).prop_map(|n| vec![b'n'; n]),
    ];
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200),
        4 => prop::collection::vec(word, 0..30).prop_map(|words| words.concat()),
    ]
}

/// As [`input`], with what lets a grammar's first part pass.
fn behind(begins: &'static [&'static str], end: &'static str) -> impl Strategy<Value = Vec<u8>> {
    (select(begins), input())
        .prop_map(move |(begin, rest)| [begin.as_bytes(), &rest, end.as_bytes()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn command(line in behind(&["", "MAIL FROM:<", "RCPT TO:<", "EHLO ", "VRFY "], "\r\n")) {
        fuzz::command(&line);
    }

    #[test]
    fn path(text in behind(&["", "<", "<a@", "<\"", "<@a:", "<a@["], "")) {
        fuzz::path(&text);
    }

    #[test]
    fn data(input in input(), limit in any::<u8>(), cut in any::<u8>()) {
        fuzz::data(&[&[limit, cut], input.as_slice()].concat());
    }

    #[test]
    fn receiver(input in behind(
        &[
            "",
            "EHLO a\r\n",
            "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n",
            "LHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<b@b>\r\n",
        ],
        "",
    )) {
        fuzz::receiver(&input);
    }
}
