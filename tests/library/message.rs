//! The content stored of mail data: tables of boundary cases, and a simple reference model that
//! sees the whole message at once. Both must agree on random input, with lines split at any length.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use mailslot::deliver::ContentSpool;
use mailslot::deliver::disk::HostDisk;
use mailslot::message::{
    Content, ContentBuilder, ContentDirectory, ContentError, HOPS_MAX, MEMORY_MAX, STRIPPED_FIELDS,
    TEXT_LINE_MAX,
};
use mailslot::smtp::data::{DataEnd, Decoder, LinePiece, PIECE_MAX};
use proptest::prelude::*;

const RECEIVED: &[u8] = b"Received: from a ([192.0.2.1])\n\tby b with SMTP id 1;\n\tnow\n";

#[test]
fn header_and_body() {
    // Mail data, and what is stored of it below our own fields.
    let table: &[(&str, &str)] = &[
        // Empty, and almost empty.
        ("", "\n"),
        ("\n", "\n"),
        ("\n\n", "\n\n"),
        ("Subject: x\n", "Subject: x\n\n"),
        ("Subject: x\n\nbody\n", "Subject: x\n\nbody\n"),
        ("Subject: x\n y\n\n z\n", "Subject: x\n y\n\n z\n"),
        // Without a header, an empty line separates the text from our fields.
        ("body\n", "\nbody\n"),
        ("body\nStatus: RO\n", "\nbody\nStatus: RO\n"),
        (" x\n", "\n x\n"),
        ("\tx: y\n", "\n\tx: y\n"),
        (": x\n", "\n: x\n"),
        ("a b: x\n", "\na b: x\n"),
        ("caf\u{e9}: x\n", "\ncaf\u{e9}: x\n"),
        // The separator line of a mailbox does not end the header.
        ("From x Jul  1\nA: x\n\ny\n", "X-Mailbox-Line: From x Jul  1\nA: x\n\ny\n"),
        (">From x\n\nFrom y\n", "X-Mailbox-Line: >From x\n\n>From y\n"),
        ("Status: RO\nFrom x\n z\n", "X-Mailbox-Line: From x\n z\n\n"),
        ("From x\nFrom y\n", "X-Mailbox-Line: From x\n>From y\n\n"),
        // The obsolete syntax of fields.
        ("From : x\n", "X-Mailbox-Line: From : x\n\n"),
        ("Subject\t : x\n", "Subject\t : x\n\n"),
        // Stripped fields, each with its continuation, in any case.
        ("Status: RO\nSubject: x\n", "Subject: x\n\n"),
        ("Subject: x\nSTATUS:\n RO\n\tO\nTo: y\n", "Subject: x\nTo: y\n\n"),
        ("Subject: x\nx-uid \t:1\n", "Subject: x\n\n"),
        ("Return-Path: <x>\nX-Status: A\n\nStatus: RO\n", "\nStatus: RO\n"),
        ("Statuses: x\nX-Stat: y\n", "Statuses: x\nX-Stat: y\n\n"),
        ("Subject: x\n Status: RO\n", "Subject: x\n Status: RO\n\n"),
        // After stripped fields the next line counts as the first.
        ("Status: RO\n x\nbody\n", "\nbody\n"),
        ("Status: RO\n\nbody\n", "\nbody\n"),
        // A line that is not a field does not end the header for the filter.
        ("Subject: x\nbody\nStatus: RO\n", "Subject: x\nbody\n\n"),
        // From quoting, also in the header.
        ("A: x\nFrom y\n", "A: x\n>From y\n\n"),
        ("A: x\n\nFrom y\n", "A: x\n\n>From y\n"),
        ("A: x\n\n>From y\n>>From z\n", "A: x\n\n>>From y\n>>>From z\n"),
        ("A: x\n\nFrom\nfrom x\n From y\nFrom\tz\n", "A: x\n\nFrom\nfrom x\n From y\nFrom\tz\n"),
        ("A: x\n\n>From\n> From y\n>\n", "A: x\n\n>From\n> From y\n>\n"),
        // Any byte.
        ("A: \0\u{1}\u{7f}\u{e9}\n\n\0\n", "A: \0\u{1}\u{7f}\u{e9}\n\n\0\n"),
    ];
    for (sent, stored) in table {
        let got = store(&lines_of(sent.as_bytes()), PIECE_MAX).expect("no fault");
        assert_eq!(show(&got), *stored, "sent {sent:?}");
    }
}

#[test]
fn stripped_fields_are_left_out() {
    for name in STRIPPED_FIELDS {
        for field in [format!("{name}: 1"), name.to_lowercase() + ":", name.to_uppercase() + " : x"]
        {
            let lines = [b"A: x".to_vec(), field.clone().into_bytes(), b" more".to_vec()];
            let got = store(&lines, PIECE_MAX).expect("no fault");
            assert_eq!(show(&got), "A: x\n\n", "{field}");
        }
    }
}

#[test]
fn too_many_hops() {
    let table = [(HOPS_MAX - 1, true), (HOPS_MAX, true), (HOPS_MAX + 1, false)];
    for (too_many_hops, fits) in table {
        let field = |n| if n % 2 == 0 { b"Received: x".to_vec() } else { b"RECEIVED : y".to_vec() };
        let mut lines: Vec<_> = (0..too_many_hops).map(field).collect();
        lines.extend([b"".to_vec(), b"Received: in the body".to_vec()]);
        match store(&lines, PIECE_MAX) {
            Ok(_) => assert!(fits, "{too_many_hops}"),
            Err(fault) => {
                assert!(!fits && matches!(fault, ContentError::Loop), "{too_many_hops}: {fault}")
            }
        }
    }
}

#[test]
fn hidden_from_line_is_refused() {
    // Columns at which `From ` begins in a line. It is refused beyond the limit.
    let columns = [
        0,
        1,
        TEXT_LINE_MAX - 5,
        TEXT_LINE_MAX - 1,
        TEXT_LINE_MAX,
        TEXT_LINE_MAX + 1,
        1022,
        4095,
        70_000,
    ]
    .into_iter()
    .chain(PIECE_MAX - 6..PIECE_MAX + 6);
    for column in columns {
        for place in ["body", "header"] {
            let mut line = vec![b'a'; column];
            line.extend_from_slice(b"From x");
            let header = if place == "body" { b"".to_vec() } else { b"A: x".to_vec() };
            for size in [1, 2, 3, 4, 5, 1000, 100_000] {
                let got = store(&[b"A: x".to_vec(), header.clone(), line.clone()], size);
                match got {
                    Ok(_) => assert!(column < TEXT_LINE_MAX, "{place} {column} {size}"),
                    Err(ContentError::HiddenFrom) => {
                        assert!(column >= TEXT_LINE_MAX, "{place} {column}")
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    // Similar text, none at all, a stripped line, and the first column of the next line.
    let far = |text: &str| [&[b'a'; TEXT_LINE_MAX], text.as_bytes()].concat();
    for lines in [
        vec![far("From"), b" x".to_vec()],
        vec![far("from x"), far("From\tx"), far("Fro"), b"m x".to_vec()],
        vec![far("Fro"), far("m x")],
        vec![b"A: x".to_vec(), [b"Status: ".to_vec(), far("From x")].concat()],
        vec![vec![b'a'; PIECE_MAX], b"From x".to_vec()],
        vec![[vec![b'a'; PIECE_MAX], b"Fro".to_vec()].concat(), b"m x".to_vec()],
    ] {
        store(&lines, 1).expect("nothing hidden");
    }
}

#[test]
fn long_lines_are_kept() {
    for length in
        [TEXT_LINE_MAX - 1, TEXT_LINE_MAX, TEXT_LINE_MAX + 1, 2047, 2048, 2049, 4096, 4097, 300_000]
    {
        for size in [1, 7, PIECE_MAX, 100_000] {
            let lines = [b"A: x".to_vec(), b"".to_vec(), vec![b'>'; length], b"last".to_vec()];
            let got = store(&lines, size).expect("no fault");
            assert!(got == [&b"A: x\n\n"[..], &lines[2], b"\nlast\n"].concat(), "{length} {size}");
        }
    }
}

#[test]
fn large_messages_wait_in_a_file() {
    let spool = tempfile::tempdir().unwrap();
    for (length, in_memory) in [
        (MEMORY_MAX - 1, true),
        (MEMORY_MAX, true),
        (MEMORY_MAX + 1, false),
        (MEMORY_MAX * 5 + 3, false),
    ] {
        let mut intake = ContentBuilder::new(directory(spool.path()), RECEIVED);
        let mut text = b"A: x\n\n".to_vec();
        text.extend(b"0123456\n".iter().cycle().take(length - RECEIVED.len() - text.len()));
        text.pop(); // The last line may be cut anywhere, but must end.
        text.push(b'\n');
        for line in lines_of(&text) {
            add_line(&mut intake, &line, PIECE_MAX);
        }
        let content = intake.finish().expect("no fault");
        assert_eq!(matches!(content, Content::Memory(_)), in_memory, "{length}");
        assert_eq!(content.size(), length as u64);
        assert!(read(&content) == [RECEIVED, &text].concat(), "{length}");
        let files = || std::fs::read_dir(spool.path()).unwrap().count();
        assert_eq!(files(), usize::from(!in_memory));
        drop(content);
        assert_eq!(files(), 0, "the file is removed with the content");
    }
}

#[test]
fn disk_failure_is_reported() {
    let mut intake = ContentBuilder::new(directory(Path::new("/nowhere/at/all")), RECEIVED);
    for _ in 0..MEMORY_MAX / 1000 {
        add_line(&mut intake, &[b'x'; 2000], PIECE_MAX);
    }
    match intake.finish() {
        Err(ContentError::Disk(error)) => assert_eq!(error.raw_os_error(), Some(2), "{error}"),
        other => panic!("{other:?}"),
    }
    // A small message needs no disk.
    let mut intake = ContentBuilder::new(directory(Path::new("/nowhere/at/all")), RECEIVED);
    add_line(&mut intake, b"A: x", PIECE_MAX);
    intake.finish().expect("no disk needed");
}

#[test]
fn decoded_data_is_the_same_at_every_split() {
    let long = "x".repeat(2 * PIECE_MAX + 5);
    let sent = format!(
        "Status: RO\r\n x\r\nSubject: y\r\n\r\n..\r\nFrom z\r\n..From z\r\n{long}\r\n.\r\n"
    );
    let stored = format!("Subject: y\n\n.\n>From z\n.From z\n{long}\n");
    for cut in [1, 2, 3, 5, 8, 13, 512, 4096, sent.len()] {
        let spool = tempfile::tempdir().unwrap();
        let mut intake = ContentBuilder::new(directory(spool.path()), RECEIVED);
        let mut decoder = Decoder::new(1 << 20);
        let mut end = None;
        for part in sent.as_bytes().chunks(cut) {
            end = decoder.feed(part, &mut |piece| intake.push(piece)).1;
        }
        assert_eq!(end, Some(DataEnd::Whole));
        let got = read(&intake.finish().expect("no fault"));
        assert_eq!(show(&got[RECEIVED.len()..]), stored, "cut {cut}");
    }
}

/// The reference model: the rules, applied to the whole message.
fn reference_model(lines: &[Vec<u8>]) -> Result<Vec<u8>, &'static str> {
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    let name = |line: &[u8]| -> Option<String> {
        // A field name must end within the first piece of its line.
        let line = &line[..line.len().min(PIECE_MAX)];
        let (name, _) = text(line).split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()))?;
        let name = name.trim_end_matches([' ', '\t']);
        let ok = !name.is_empty() && name.bytes().all(|b| (b'!'..=b'~').contains(&b));
        ok.then(|| name.to_lowercase())
    };
    let is_separator = |line: &[u8]| line.iter().skip_while(|b| **b == b'>').take(5).eq(b"From ");
    let hides_from = |line: &[u8]| {
        (TEXT_LINE_MAX..line.len()).any(|column| line[column..].starts_with(b"From "))
    };
    let mut stored: Vec<Vec<u8>> = Vec::new();
    let (mut in_header, mut dropping, mut too_many_hops) = (true, false, 0);
    for line in lines {
        let blank = line.first().is_some_and(|b| b" \t".contains(b));
        if in_header && line.is_empty() {
            in_header = false;
        } else if in_header && blank && (dropping || !stored.is_empty()) {
            if dropping {
                continue;
            }
        } else if in_header {
            let name = name(line);
            dropping = STRIPPED_FIELDS.iter().any(|s| Some(s.to_lowercase()) == name);
            if dropping {
                continue;
            }
            if is_separator(line) && stored.is_empty() {
                stored.push([b"X-Mailbox-Line: ", line.as_slice()].concat());
                if hides_from(line) {
                    return Err("hidden");
                }
                continue;
            }
            if name.is_none() && stored.is_empty() {
                stored.push(Vec::new());
                in_header = false;
            }
            too_many_hops += u32::from(name.as_deref() == Some("received"));
            if too_many_hops > HOPS_MAX {
                return Err("loop");
            }
        }
        if hides_from(line) {
            return Err("hidden");
        }
        stored.push([if is_separator(line) { b">".as_slice() } else { b"" }, line].concat());
    }
    if in_header {
        stored.push(Vec::new());
    }
    Ok(stored.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect())
}

/// Returns lines that are likely to matter: fields, continuations, separators, stripped fields, and
/// lengths around the limits.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let word = prop::sample::select(vec![
        "From ",
        "From",
        ">",
        ">From ",
        ":",
        " ",
        "\t",
        "Status",
        "X-UID",
        "Return-Path",
        "x",
        "Received: ",
        "Subject: ",
        "From :",
        "\u{e9}",
        "Content-Length : ",
        "sTATUS:",
    ]);
    let short = prop::collection::vec(word, 0..4).prop_map(|words| words.concat().into_bytes());
    let fill = prop_oneof![Just(b'a'), Just(b'>'), Just(b' ')];
    let around = prop_oneof![
        TEXT_LINE_MAX - 8..TEXT_LINE_MAX + 8,
        PIECE_MAX - 8..PIECE_MAX + 8,
        1..9000usize
    ];
    let long = (short.clone(), fill, around, short.clone(), 0..20usize, short.clone()).prop_map(
        |(head, fill, length, mid, gap, tail)| {
            [head, vec![fill; length], mid, vec![b'b'; gap], tail].concat()
        },
    );
    prop_oneof![
        2 => Just(Vec::new()),
        12 => short,
        4 => Just(b"Received: again".to_vec()),
        1 => long,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 512,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn agrees_with_the_reference_model(
        lines in prop_oneof![
            8 => prop::collection::vec(line(), 0..20),
            1 => prop::collection::vec(line(), 300..500),
        ],
        size in prop::sample::select(vec![1usize, 2, 3, 4, 5, 100, 2048, 100_000]),
    ) {
        match (reference_model(&lines), store(&lines, size)) {
            (Ok(expected), Ok(got)) => prop_assert_eq!(show(&got), show(&expected)),
            (Err("loop"), Err(ContentError::Loop)) => {}
            (Err("hidden"), Err(ContentError::HiddenFrom)) => {}
            (expected, got) => prop_assert!(false, "reference {:?}, got {:?}", expected, got),
        }
    }
}

/// Returns what is stored of `lines` below our own field. Long lines are given in pieces of `size`
/// bytes.
fn store(lines: &[Vec<u8>], size: usize) -> Result<Vec<u8>, ContentError> {
    let spool = tempfile::tempdir().unwrap();
    let mut intake = ContentBuilder::new(directory(spool.path()), RECEIVED);
    for line in lines {
        add_line(&mut intake, line, size);
    }
    let stored = read(&intake.finish()?);
    Ok(stored.strip_prefix(RECEIVED).expect("our own field first").to_vec())
}

fn add_line(intake: &mut ContentBuilder, line: &[u8], size: usize) {
    if line.len() <= PIECE_MAX {
        return intake.push(LinePiece { bytes: line, first: true, last: true });
    }
    let (first, rest) = line.split_at(PIECE_MAX);
    intake.push(LinePiece { bytes: first, first: true, last: false });
    let pieces = rest.chunks(size);
    let last = pieces.len() - 1;
    for (i, bytes) in pieces.enumerate() {
        intake.push(LinePiece { bytes, first: false, last: i == last });
    }
}

fn read(content: &Content) -> Vec<u8> {
    let pieces = content.pieces(0).map(|piece| piece.expect("the content can be read"));
    let bytes: Vec<u8> = pieces.flat_map(Cow::into_owned).collect();
    assert_eq!(bytes.len() as u64, content.size());
    bytes
}

fn directory(spool: &Path) -> Arc<dyn ContentDirectory> {
    Arc::new(ContentSpool::new(Arc::new(HostDisk::new()), spool))
}

fn lines_of(text: &[u8]) -> Vec<Vec<u8>> {
    text.split_inclusive(|b| *b == b'\n')
        .map(|l| l.strip_suffix(b"\n").unwrap_or(l).to_vec())
        .collect()
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
