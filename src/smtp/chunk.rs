//! Mail data sent in chunks by BDAT (RFC 3030). Each chunk has a given number of bytes, so there
//! is no end to look for.
//!
//! The chunks of a message are lines of text as with DATA, but without stuffed dots. A line may
//! continue in the next chunk, and the last line may have no CR LF. A bare CR or LF is an error
//! ([`DataEnd::BareLineEnd`]) as with DATA, because a mailbox stores lines of text and the message
//! may be relayed by DATA later. The receiver checks the size before it accepts a chunk, so
//! [`DataEnd::TooLarge`] does not occur here.
//!
//! The output is that of [`Decoder`], so later steps do not distinguish DATA from BDAT.

use super::data::{DataEnd, Decoder, LinePiece};

/// The mail data of one transaction.
#[derive(Debug)]
pub struct Chunks {
    decoder: Decoder,
    /// Bytes of the current chunk that were not received yet.
    remaining: u64,
    octets: u64,
}

impl Chunks {
    /// Returns the state before the first chunk.
    pub fn new() -> Chunks {
        Chunks { decoder: Decoder::without_dots(), remaining: 0, octets: 0 }
    }

    /// Begins a chunk of `octets`.
    pub fn begin_chunk(&mut self, octets: u64) {
        self.remaining = octets;
    }

    /// Returns how many bytes of the chunk were not received yet: 0 at its end.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Consumes the part of `input` that belongs to the chunk, passes its lines to `sink`, and
    /// returns the number of bytes consumed. After an error it still counts, but passes nothing
    /// more to `sink`.
    pub fn feed(&mut self, input: &[u8], sink: &mut dyn FnMut(LinePiece<'_>)) -> usize {
        let used = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
        let (chunk, _) = input.split_at(used);
        self.decoder.feed(chunk, sink);
        self.remaining -= used as u64;
        self.octets += used as u64;
        used
    }

    /// Returns the first error so far, or [`DataEnd::Whole`]. Lets an error be reported at the end
    /// of its chunk instead of the end of the message.
    pub fn end_so_far(&self) -> DataEnd {
        self.decoder.end_so_far()
    }

    /// Ends the mail data after its last chunk: passes a last line without CR LF to `sink`, and
    /// returns the first error or [`DataEnd::Whole`].
    pub fn finish(self, sink: &mut dyn FnMut(LinePiece<'_>)) -> DataEnd {
        self.decoder.finish(sink)
    }

    /// Returns the number of bytes received so far, in all chunks.
    pub fn octets(&self) -> u64 {
        self.octets
    }
}

impl Default for Chunks {
    fn default() -> Chunks {
        Chunks::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::data::PIECE_MAX;
    use super::*;
    use proptest::prelude::*;

    /// A piece that owns its bytes: (bytes, first, last).
    type Owned = (Vec<u8>, bool, bool);

    fn owned(piece: LinePiece<'_>) -> Owned {
        (piece.bytes.to_vec(), piece.first, piece.last)
    }

    /// Returns the pieces of `data`, sent in chunks that end at `ends`, each fed in slices of
    /// `cut` bytes.
    fn chunked(data: &[u8], ends: &[usize], cut: usize) -> (Vec<Owned>, DataEnd) {
        let mut chunks = Chunks::new();
        let mut pieces = Vec::new();
        let mut begin_chunk = 0;
        for end in ends.iter().copied().chain([data.len()]) {
            let end = end.clamp(begin_chunk, data.len());
            chunks.begin_chunk((end - begin_chunk) as u64);
            // The input continues after the chunk, as it does on a connection.
            let mut input = &data[begin_chunk..];
            while chunks.remaining() > 0 {
                let slice = &input[..cut.clamp(1, input.len())];
                let used = chunks.feed(slice, &mut |piece| pieces.push(owned(piece)));
                input = &input[used..];
            }
            begin_chunk = end;
        }
        assert_eq!(chunks.octets(), data.len() as u64);
        let end = chunks.finish(&mut |piece| pieces.push(owned(piece)));
        (pieces, end)
    }

    /// Returns the pieces of the same message sent by DATA, with dots stuffed and the last CR LF
    /// added if it is missing.
    fn by_data(message: &[u8]) -> (Vec<Owned>, DataEnd) {
        let mut data = Vec::new();
        let mut at_start = true;
        for byte in message {
            if at_start && *byte == b'.' {
                data.push(b'.');
            }
            data.push(*byte);
            at_start = data.ends_with(b"\r\n");
        }
        if !at_start {
            data.extend(b"\r\n");
        }
        data.extend(b".\r\n");
        let mut decoder = Decoder::new(u64::MAX);
        let mut pieces = Vec::new();
        let (used, end) = decoder.feed(&data, &mut |piece| pieces.push(owned(piece)));
        assert_eq!(used, data.len());
        (pieces, end.unwrap())
    }

    #[test]
    fn every_division_into_chunks_gives_the_lines_of_data() {
        let long = [vec![b'x'; PIECE_MAX + 1], b"\r\n.y".to_vec()].concat();
        for message in [
            &b""[..],
            b"a",
            b".",
            b".\r\n",
            b"\r\n",
            b"\r\n.\r\n",
            b"..\r\n.a\r\n\r\nFrom b\r\n.",
            b"a\r\n.\r\nQUIT\r\n",
            &long,
        ] {
            let expected = by_data(message);
            assert_eq!(expected.1, DataEnd::Whole);
            for first in 0..=message.len().min(40) {
                for second in first..=message.len().min(40) {
                    let ends = [first, second, second];
                    assert_eq!(chunked(message, &ends, 1), expected, "{ends:?} {message:?}");
                    assert_eq!(chunked(message, &ends, 9999), expected, "{ends:?} {message:?}");
                }
            }
        }
    }

    #[test]
    fn bare_line_ends_are_rejected_wherever_chunks_end() {
        for message in [&b"a\nb"[..], b"a\rb", b"\n", b"\r", b"a\r\r\n", b"a\r\n\r", b"\r\n\n"] {
            for end in 0..=message.len() {
                assert_eq!(
                    chunked(message, &[end], 1).1,
                    DataEnd::BareLineEnd,
                    "{message:?} {end}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn random_chunks_give_the_lines_of_data(
            words in prop::collection::vec(
                prop::sample::select(&[".", "\r\n", "a", "From ", "\u{e9}", "\0", "\r\n.\r\n"]),
                0..40,
            ),
            ends in prop::collection::vec(0usize..100, 0..8),
            cut in 1usize..20,
        ) {
            let message = words.concat().into_bytes();
            let mut ends = ends;
            ends.sort_unstable();
            prop_assert_eq!(chunked(&message, &ends, cut), by_data(&message));
        }
    }
}
