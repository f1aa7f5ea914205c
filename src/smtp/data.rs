//! Mail data: finds its true end, takes off stuffed dots, turns CR LF into LF, refuses bare CR and
//! LF, counts octets (RFC 5321 4.1.1.4, 4.5.2, 2.3.8).
//!
//! Bytes go in at any cut; whole lines come out, the same at every cut.

/// A line of mail data, or a piece of one, without CR LF and without the stuffed dot.
///
/// A line of up to [`PIECE_MAX`] octets comes in one piece, `first` and `last` both set. A longer
/// one comes in several; its first has exactly [`PIECE_MAX`] octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The octets.
    pub bytes: &'a [u8],
    /// Begins a line.
    pub first: bool,
    /// Ends a line.
    pub last: bool,
}

/// Octets of a line that are sure to be seen at once.
pub const PIECE_MAX: usize = 2048;

/// How the mail data ended, once its true end was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it was passed on.
    Whole,
    /// It held a bare CR or LF: 554 5.6.0. Nothing of it may be delivered.
    BareLineEnd,
    /// It was larger than the limit: 552 5.3.4.
    TooLarge,
}

/// The decoder of one message's data.
#[derive(Debug)]
pub struct Decoder {}

impl Decoder {
    /// A decoder that stands just behind the CR LF of the DATA command. `size_max` is in octets of
    /// the data as sent: dots unstuffed, CR LF counted as two.
    pub fn new(size_max: u64) -> Decoder {
        let _ = size_max;
        todo!()
    }

    /// Takes `input`, gives each line to `sink`, and returns how many octets it used (all of them,
    /// unless the data ended within) and how the data ended if it did. After a fault it goes on
    /// reading to the true end, but gives no more to `sink`.
    pub fn feed(&mut self, input: &[u8], sink: &mut dyn FnMut(Piece<'_>)) -> (usize, Option<End>) {
        let _ = (input, sink);
        todo!()
    }
}
