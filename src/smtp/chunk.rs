//! Mail data in chunks, as BDAT brings it (RFC 3030): octets are counted, and no end is looked for.
//!
//! What is in the chunks is a message in lines as with DATA, only without stuffed dots: a line may
//! be cut over chunks, and the last may lack its CR LF. A bare CR or LF is refused here too
//! ([`DataEnd::BareLineEnd`]): a mailbox keeps text, and the message may travel on by DATA one day. The
//! size is the receiver's to judge, before a chunk is read; so `TooLarge` does not come from here.
//!
//! The pieces that come out are those of [`Decoder`], so whoever takes them cannot tell DATA from
//! BDAT.

use super::data::{DataEnd, Decoder, LinePiece};

/// The mail data of one transaction.
#[derive(Debug)]
pub struct Chunks {
    decoder: Decoder,
    /// Octets of the chunk in hand that have not come yet.
    remaining: u64,
    octets: u64,
}

impl Chunks {
    /// No chunk has come yet.
    pub fn new() -> Chunks {
        Chunks { decoder: Decoder::without_dots(), remaining: 0, octets: 0 }
    }

    /// A chunk of `octets` begins.
    pub fn begin_chunk(&mut self, octets: u64) {
        self.remaining = octets;
    }

    /// Octets of the chunk that are still to come: 0 when it is whole.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Takes what of `input` belongs to the chunk, gives its lines to `sink`, and returns how many
    /// octets that were. After a fault it goes on counting, but gives no more to `sink`.
    pub fn feed(&mut self, input: &[u8], sink: &mut dyn FnMut(LinePiece<'_>)) -> usize {
        let used = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(input.len());
        let (chunk, _) = input.split_at(used);
        self.decoder.feed(chunk, sink);
        self.remaining -= used as u64;
        self.octets += used as u64;
        used
    }

    /// How the mail data would end now. A fault that is known is told at the end of its chunk.
    pub fn end_so_far(&self) -> DataEnd {
        self.decoder.end_so_far()
    }

    /// The last chunk is whole: gives a last line without CR LF to `sink`, and says how it ended.
    pub fn finish(self, sink: &mut dyn FnMut(LinePiece<'_>)) -> DataEnd {
        self.decoder.finish(sink)
    }

    /// Octets that came so far, in all chunks.
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

    /// A piece that owns its octets.
    type Owned = (Vec<u8>, bool, bool);

    fn owned(piece: LinePiece<'_>) -> Owned {
        (piece.bytes.to_vec(), piece.first, piece.last)
    }

    /// The pieces of `data`, in chunks that end at `ends`, each fed in slices of `cut`.
    fn chunked(data: &[u8], ends: &[usize], cut: usize) -> (Vec<Owned>, DataEnd) {
        let mut chunks = Chunks::new();
        let mut pieces = Vec::new();
        let mut begin_chunk = 0;
        for end in ends.iter().copied().chain([data.len()]) {
            let end = end.clamp(begin_chunk, data.len());
            chunks.begin_chunk((end - begin_chunk) as u64);
            // What stands behind the chunk is not its own.
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

    /// The same message by DATA: dots stuffed, the last CR LF put where it lacks.
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
    fn every_chunking_gives_what_data_gives() {
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
    fn bare_line_ends_are_refused_wherever_chunks_end() {
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
        fn random_chunks_give_what_data_gives(
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
