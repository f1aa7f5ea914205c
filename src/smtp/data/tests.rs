//! Tests of the decoder with tables of boundary cases, with the input divided everywhere, and
//! against a simple reference decoder that sees all of the data at once.

use super::*;
use proptest::prelude::*;

/// A piece that owns its bytes: (bytes, first, last).
type Owned = (Vec<u8>, bool, bool);

/// All output of a decoder.
#[derive(Debug, PartialEq, Eq)]
struct Output {
    pieces: Vec<Owned>,
    used: usize,
    end: Option<DataEnd>,
    octets: u64,
}

/// Decodes `data`, fed in slices of the lengths that `cut` returns.
fn decode(data: &[u8], size_max: u64, mut cut: impl FnMut() -> usize) -> Output {
    let mut decoder = Decoder::new(size_max);
    let (mut pieces, mut used, mut end) = (Vec::new(), 0, None);
    while used < data.len() && end.is_none() {
        let upto = data.len().min(used + cut().max(1));
        let (n, ended) = decoder.feed(&data[used..upto], &mut |piece| {
            pieces.push((piece.bytes.to_vec(), piece.first, piece.last));
        });
        assert!(ended.is_some() || n == upto - used, "all is consumed unless the data ended");
        (used, end) = (used + n, ended);
    }
    Output { pieces, used, end, octets: decoder.octets() }
}

fn whole(data: &[u8], size_max: u64) -> Output {
    decode(data, size_max, || usize::MAX / 2)
}

/// Decodes by simple means: finds the end first, splits the data into lines, and checks each line
/// as a whole.
fn reference(data: &[u8], size_max: u64) -> Output {
    let after_crlf = [b"\r\n", data].concat();
    let end_at = after_crlf.windows(5).position(|w| w == b"\r\n.\r\n");
    let used = end_at.map_or(data.len(), |at| at + 3);
    let mut output = Output { pieces: Vec::new(), used, end: None, octets: 0 };
    let mut error = None;
    let mut left = &data[..end_at.unwrap_or(data.len())];
    while error.is_none() && !left.is_empty() {
        let line_end = left.windows(2).position(|w| w == b"\r\n");
        let (line, complete) = (&left[..line_end.unwrap_or(left.len())], line_end.is_some());
        left = &left[line_end.map_or(left.len(), |at| at + 2)..];
        // A dot, or dot and CR, at the end of the input may still become the end of the data.
        if !complete && (line == b"." || line == b".\r") {
            break;
        }
        let line = line.strip_prefix(b".").unwrap_or(line);
        let mut bare = line.iter().position(|&b| b == b'\r' || b == b'\n');
        if !complete && bare == Some(line.len() - 1) && line.ends_with(b"\r") {
            bare = None; // not known yet
        }
        let text = &line[..bare.unwrap_or(line.len() - usize::from(line.ends_with(b"\r")))];
        let room = usize::try_from(size_max - output.octets).unwrap_or(usize::MAX);
        let text = if text.len() > room {
            error = Some(DataEnd::TooLarge);
            &text[..room]
        } else if bare.is_some() {
            error = Some(DataEnd::BareLineEnd);
            text
        } else {
            text
        };
        output.octets += text.len() as u64;
        if error.is_none() && complete && room - text.len() < 2 {
            error = Some(DataEnd::TooLarge);
        }
        let line_is_whole = error.is_none() && complete;
        output.octets += if line_is_whole { 2 } else { 0 };
        let chunks: Vec<&[u8]> =
            if text.is_empty() { vec![&[]] } else { text.chunks(PIECE_MAX).collect() };
        for (i, chunk) in chunks.iter().enumerate() {
            let last = i + 1 == chunks.len();
            if !last || line_is_whole {
                output.pieces.push((chunk.to_vec(), i == 0, last));
            }
        }
    }
    output.end = end_at.map(|_| error.unwrap_or(DataEnd::Whole));
    output
}

/// Data with its end, the lines that come out, and the result.
type Row = (&'static [u8], &'static [&'static [u8]], DataEnd);

const ROWS: &[Row] = &[
    // Empty and nearly empty.
    (b".\r\n", &[], DataEnd::Whole),
    (b"\r\n.\r\n", &[b""], DataEnd::Whole),
    (b"\r\n\r\n.\r\n", &[b"", b""], DataEnd::Whole),
    (b"a\r\n.\r\n", &[b"a"], DataEnd::Whole),
    // Dots.
    (b"..\r\n.\r\n", &[b"."], DataEnd::Whole),
    (b"...\r\n.\r\n", &[b".."], DataEnd::Whole),
    (b".a\r\n.\r\n", &[b"a"], DataEnd::Whole),
    (b"a.\r\n.\r\n", &[b"a."], DataEnd::Whole),
    (b"a\r\n..\r\n. \r\n.\r\n", &[b"a", b".", b" "], DataEnd::Whole),
    // Bytes that are not line ends.
    (b"\0\x0b\x0c\x85\xff\r\n.\r\n", &[b"\0\x0b\x0c\x85\xff"], DataEnd::Whole),
    // Bare LF, and all known ways to smuggle with it.
    (b"a\nb\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"a\n.\nb\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"a\n.\r\nMAIL FROM:<b@b>\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"a\r\n.\nMAIL FROM:<b@b>\r\n.\r\n", &[b"a"], DataEnd::BareLineEnd),
    (b"\n.\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b".\n.\r\n.\r\n", &[], DataEnd::BareLineEnd),
    // Bare CR, likewise.
    (b"a\rb\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"a\r.\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"a\r\n.\rb\r\n.\r\n", &[b"a"], DataEnd::BareLineEnd),
    (b"a\r\n.\r\r\n.\r\n", &[b"a"], DataEnd::BareLineEnd),
    (b"a\r\n\r.\r\n.\r\n", &[b"a"], DataEnd::BareLineEnd),
    (b"a\r\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"\r\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"a\r\n.\r\0\n.\r\n.\r\n", &[b"a"], DataEnd::BareLineEnd),
    (b"a\n\r\n.\r\n", &[], DataEnd::BareLineEnd),
    (b"a\n\r.\n\r.\r\n.\r\n", &[], DataEnd::BareLineEnd),
];

#[test]
fn lines_are_passed_on_and_the_end_is_found() {
    for &(data, lines, end) in ROWS {
        let pieces: Vec<Owned> = lines.iter().map(|l| (l.to_vec(), true, true)).collect();
        let output = whole(&[data, b"QUIT\r\n"].concat(), u64::MAX);
        assert_eq!(output.pieces, pieces, "{}", data.escape_ascii());
        assert_eq!((output.used, output.end), (data.len(), Some(end)), "{}", data.escape_ascii());
    }
}

#[test]
fn other_sequences_do_not_end_the_data() {
    let rows: &[&[u8]] =
        &[b"", b".", b".\r", b"a\r\n.\r", b"a\n.\n", b"a\n.\r\n", b"a\r.\r", b"a\r\n.\r\r\n"];
    for &data in rows {
        assert_eq!(whole(data, u64::MAX).end, None, "{}", data.escape_ascii());
    }
}

#[test]
fn output_does_not_depend_on_the_division_of_input() {
    for &(data, ..) in ROWS {
        for size_max in [0, 1, 2, 3, 4, 5, u64::MAX] {
            let data = [data, b"x.\r\n"].concat();
            let expected = whole(&data, size_max);
            for cut in 0..data.len() {
                let mut cuts = [cut, data.len()].into_iter();
                let output = decode(&data, size_max, || cuts.next().unwrap_or(1));
                assert_eq!(output, expected, "{} cut at {cut}", data.escape_ascii());
            }
            let output = decode(&data, size_max, || 1);
            assert_eq!(output, expected, "{} byte by byte", data.escape_ascii());
        }
    }
}

#[test]
fn size_counts_as_sent_without_stuffed_dots() {
    let rows: &[(&[u8], u64)] = &[
        (b".\r\n", 0),
        (b"\r\n.\r\n", 2),
        (b"ab\r\n.\r\n", 4),
        (b"..\r\n.\r\n", 3),
        (b"..a\r\nb\r\n.\r\n", 7),
    ];
    for &(data, octets) in rows {
        let fits = whole(data, octets);
        assert_eq!(
            (fits.end, fits.octets),
            (Some(DataEnd::Whole), octets),
            "{}",
            data.escape_ascii()
        );
        if let Some(less) = octets.checked_sub(1) {
            let output = whole(data, less);
            assert_eq!(output.end, Some(DataEnd::TooLarge), "{}", data.escape_ascii());
            assert_eq!(output.used, data.len(), "{}", data.escape_ascii());
        }
    }
}

#[test]
fn the_first_error_is_returned_and_nothing_is_passed_on_after_it() {
    let output = whole(b"ab\r\nc\nd\r\ne\r\n.\r\n", 5);
    assert_eq!(output.end, Some(DataEnd::BareLineEnd));
    assert_eq!(output.pieces, [(b"ab".to_vec(), true, true)]);
    assert_eq!(whole(b"abcdef\ng\r\n.\r\n", 5).end, Some(DataEnd::TooLarge));
}

#[test]
fn long_lines_come_in_full_pieces() {
    let rows: &[(usize, &[usize])] = &[
        (PIECE_MAX - 1, &[PIECE_MAX - 1]),
        (PIECE_MAX, &[PIECE_MAX]),
        (PIECE_MAX + 1, &[PIECE_MAX, 1]),
        (2 * PIECE_MAX, &[PIECE_MAX, PIECE_MAX]),
        (2 * PIECE_MAX + 1, &[PIECE_MAX, PIECE_MAX, 1]),
    ];
    for &(length, pieces) in rows {
        for stuffed in ["", "."] {
            let text = if stuffed.is_empty() { "x" } else { "." }.repeat(length);
            let data = format!("{stuffed}{text}\r\nnext\r\n.\r\n").into_bytes();
            for cut in [1, 7, PIECE_MAX - 1, PIECE_MAX, PIECE_MAX + 1, data.len()] {
                let output = decode(&data, u64::MAX, || cut);
                let (next, long) = output.pieces.split_last().unwrap();
                assert_eq!(long.iter().map(|p| p.0.len()).collect::<Vec<_>>(), pieces);
                for (i, piece) in long.iter().enumerate() {
                    assert_eq!((piece.1, piece.2), (i == 0, i + 1 == pieces.len()));
                }
                assert_eq!(next, &(b"next".to_vec(), true, true));
            }
        }
    }
}

#[test]
fn after_the_end_nothing_is_consumed() {
    let mut decoder = Decoder::new(10);
    let sink = &mut |_: LinePiece<'_>| panic!("a line was passed on");
    assert_eq!(decoder.feed(b".\r\nQUIT\r\n", sink), (3, Some(DataEnd::Whole)));
    assert_eq!(decoder.feed(b"QUIT\r\n", sink), (0, Some(DataEnd::Whole)));
}

/// Returns data of bytes and sequences that matter to the decoder, with some lines of about
/// [`PIECE_MAX`].
fn shaped() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        8 => prop::sample::select(vec!["\r\n", ".", "\r", "\n", "a", "\r\n.", "\r\n.\r\n", "bc"])
            .prop_map(|s| s.as_bytes().to_vec()),
        1 => (PIECE_MAX - 2..PIECE_MAX + 3).prop_map(|n| vec![b'y'; n]),
        1 => any::<u8>().prop_map(|b| vec![b]),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn agrees_with_the_reference_decoder(
        data in shaped(),
        cuts in prop::collection::vec(1usize..40, 1..8),
        size_max in prop_oneof![0u64..40, 2000u64..6000, Just(u64::MAX)],
    ) {
        let expected = reference(&data, size_max);
        prop_assert_eq!(&whole(&data, size_max), &expected);
        let mut lengths = cuts.iter().cycle();
        let output = decode(&data, size_max, || *lengths.next().unwrap_or(&1));
        prop_assert_eq!(&output, &expected);
    }
}
