//! The entry points of the fuzzers, on random input and on words of the grammar in random order.
//! `tests/fuzz` runs the same functions for as long as desired.

use mailslot::smtp::testing;
use proptest::prelude::*;
use proptest::sample::select;

/// Words of command lines, paths and dialogues.
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

/// Words of a server's replies.
const REPLIES: &[&str] = &[
    "220 x\r\n",
    "250 2.0.0 x\r\n",
    "250 x\r\n",
    "250-x\r\n250 PIPELINING\r\n",
    "250-x\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n",
    "250-x\r\n250-STARTTLS\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE 5\r\n",
    "250-x\r\n250-AUTH LOGIN\r\n250 LIMITS RCPTMAX=1 MAILMAX=1\r\n",
    "235 x\r\n",
    "251 x\r\n",
    "334 x\r\n",
    "354 x\r\n",
    "421 x\r\n",
    "452 x\r\n",
    "452 4.5.3 x\r\n",
    "552 x\r\n",
    "550 5.1.1 x\r\n",
    "550-x\r\n",
    "250",
    "-",
    " ",
    "\r\n",
    "\n",
    "\0",
    "\u{e9}",
];

/// Returns replies, most of them whole, after a greeting.
fn replies() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::collection::vec(select(REPLIES), 0..30);
    let any = prop::collection::vec(any::<u8>(), 0..50);
    (words, any)
        .prop_map(|(words, any)| [b"220 x\r\n", words.concat().as_bytes(), any.as_slice()].concat())
}

/// Returns any bytes, or words and now and then a long run of one letter.
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

/// Returns [`input`] after a beginning that the grammar accepts.
fn after(begins: &'static [&'static str], end: &'static str) -> impl Strategy<Value = Vec<u8>> {
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
    fn command(line in after(&["", "MAIL FROM:<", "RCPT TO:<", "EHLO ", "VRFY "], "\r\n")) {
        testing::command(&line);
    }

    #[test]
    fn path(text in after(&["", "<", "<a@", "<\"", "<@a:", "<a@["], "")) {
        testing::path(&text);
    }

    #[test]
    fn data(input in input(), limit in any::<u8>(), cut in any::<u8>()) {
        testing::data(&[&[limit, cut], input.as_slice()].concat());
    }

    #[test]
    fn sender(input in replies()) {
        testing::sender(&input);
    }

    #[test]
    fn receiver(input in after(
        &[
            "",
            "EHLO a\r\n",
            "EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nDATA\r\n",
            "LHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\nRCPT TO:<b@b>\r\n",
        ],
        "",
    )) {
        testing::receiver(&input);
    }
}
