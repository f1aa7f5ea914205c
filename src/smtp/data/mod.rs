//! Mail data: finds its true end, takes off stuffed dots and CR LF, refuses bare CR and LF, counts
//! octets (RFC 5321 4.1.1.4, 4.5.2, 2.3.8).
//!
//! Bytes go in at any cut; lines come out, the same at every cut. Only CR LF ends a line and only
//! CR LF `.` CR LF ends the data; the decoder begins as if behind a CR LF, so `.` CR LF alone is an
//! empty message. A receiver that took `LF . LF`, `LF . CR LF` or `CR . CR` for the end as well
//! would let a sender smuggle a second message past whoever relayed the first.
//!
//! A fault does not end the data: the decoder reads on to the true end, so that mail data is never
//! taken for commands, and says [`DataEnd::BareLineEnd`] or [`DataEnd::TooLarge`] there. The first fault is
//! the one that is told.
//!
//! Nothing is copied while whole lines are in the input; only a line that is cut across two feeds
//! is held, up to [`PIECE_MAX`] octets of it.

use memchr::memchr2;

/// A line of mail data, or a piece of one, without CR LF and without the stuffed dot.
///
/// A line of up to [`PIECE_MAX`] octets comes in one piece, `first` and `last` both set. A longer
/// one comes in several, all of exactly [`PIECE_MAX`] octets but the last, which is never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePiece<'a> {
    /// The octets. No CR and no LF among them.
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
pub enum DataEnd {
    /// All of it was passed on.
    Whole,
    /// It held a bare CR or LF: 554 5.6.0. Nothing of it may be delivered.
    BareLineEnd,
    /// It was larger than the limit: 552 5.3.4.
    TooLarge,
}

/// The decoder of one message's data.
#[derive(Debug)]
pub struct Decoder {
    state: DecoderState,
    /// Octets of the line being read that were not passed on; at most [`PIECE_MAX`].
    buffer: Vec<u8>,
    /// Whether a piece of the line being read was passed on.
    in_line: bool,
    octets: u64,
    size_max: u64,
    /// Whether dots are stuffed and one alone ends the data, as DATA has it and BDAT has not.
    dot_stuffing: bool,
    /// [`DataEnd::Whole`] until the first fault.
    end: DataEnd,
}

/// What was read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    /// `CR LF`, or nothing yet
    Start,
    /// `CR LF .`
    Dot,
    /// `CR LF . CR`
    DotCr,
    /// text of a line
    Text,
    /// text of a line (or none of it), `CR`
    Cr,
    /// `CR LF . CR LF`
    Ended,
}

impl Decoder {
    /// A decoder that stands just behind the CR LF of the DATA command. `size_max` is in octets of
    /// the data as sent: dots unstuffed, CR LF counted as two, the final dot's line not counted.
    pub fn new(size_max: u64) -> Decoder {
        Decoder {
            state: DecoderState::Start,
            buffer: Vec::new(),
            in_line: false,
            octets: 0,
            size_max,
            dot_stuffing: true,
            end: DataEnd::Whole,
        }
    }

    /// A decoder of lines alone, for data whose length is known and whose dots are just dots: it
    /// sees no end by itself, and is told by [`finish`](Decoder::finish).
    pub(super) fn without_dots() -> Decoder {
        Decoder { dot_stuffing: false, ..Decoder::new(u64::MAX) }
    }

    /// Takes `input`, gives each line to `sink`, and returns how many octets it used (all of them,
    /// unless the data ended within) and how the data ended if it did. After a fault it goes on
    /// reading to the true end, but gives no more to `sink`. After the end it uses nothing.
    pub fn feed(
        &mut self,
        input: &[u8],
        sink: &mut dyn FnMut(LinePiece<'_>),
    ) -> (usize, Option<DataEnd>) {
        let mut rest = input;
        while self.state != DecoderState::Ended
            && let Some((&byte, after)) = rest.split_first()
        {
            match (self.state, byte) {
                (DecoderState::Start, b'.') if self.dot_stuffing => {
                    (self.state, rest) = (DecoderState::Dot, after)
                }
                (DecoderState::Dot, b'\r') => (self.state, rest) = (DecoderState::DotCr, after),
                (DecoderState::DotCr, b'\n') => (self.state, rest) = (DecoderState::Ended, after),
                (DecoderState::Cr, b'\n') => {
                    self.pass_on(b"", true, sink);
                    (self.state, rest) = (DecoderState::Start, after);
                }
                // CR and something else: that something is still to be looked at.
                (DecoderState::Cr | DecoderState::DotCr, _) => {
                    self.set_fault(DataEnd::BareLineEnd);
                    self.state = DecoderState::Text;
                }
                // A dot in front of other text was stuffed: it is gone.
                (DecoderState::Start | DecoderState::Dot, _) => self.state = DecoderState::Text,
                (DecoderState::Text, _) => rest = self.read_text(rest, sink),
                (DecoderState::Ended, _) => break,
            }
        }
        (input.len() - rest.len(), (self.state == DecoderState::Ended).then_some(self.end))
    }

    /// The data is over: gives a last line without CR LF to `sink`, and says how it ended.
    pub(super) fn finish(mut self, sink: &mut dyn FnMut(LinePiece<'_>)) -> DataEnd {
        match self.state {
            DecoderState::Text if self.end == DataEnd::Whole => self.emit(b"", true, sink),
            DecoderState::Cr => self.set_fault(DataEnd::BareLineEnd),
            _ => {}
        }
        self.end
    }

    /// How it would end now: [`DataEnd::Whole`] until the first fault.
    pub(super) fn end_so_far(&self) -> DataEnd {
        self.end
    }

    /// Octets counted so far, as for `size_max`. After a fault the count stands still.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Reads the text of a line up to its CR LF, a CR or LF that may be bare, or the end of
    /// `input`. Returns what is behind.
    fn read_text<'a>(&mut self, input: &'a [u8], sink: &mut dyn FnMut(LinePiece<'_>)) -> &'a [u8] {
        let Some((text, end)) =
            memchr2(b'\r', b'\n', input).and_then(|at| input.split_at_checked(at))
        else {
            self.pass_on(input, false, sink);
            return &[];
        };
        if let Some(after) = end.strip_prefix(b"\r\n") {
            self.pass_on(text, true, sink);
            self.state = DecoderState::Start;
            return after;
        }
        self.pass_on(text, false, sink);
        match end.split_first() {
            Some((b'\r', after)) => {
                self.state = DecoderState::Cr;
                after
            }
            Some((_, after)) => {
                self.set_fault(DataEnd::BareLineEnd);
                after
            }
            None => end,
        }
    }

    /// Counts `text`, passes on every piece that is complete, and holds the rest. `last`: a CR LF
    /// follows, so that all of it is complete.
    fn pass_on(&mut self, mut text: &[u8], last: bool, sink: &mut dyn FnMut(LinePiece<'_>)) {
        if self.end != DataEnd::Whole {
            return;
        }
        // What is over the limit is cut off first: the same pieces go out before the fault,
        // whether the octet too many comes alone or together with others.
        let room = self.size_max.saturating_sub(self.octets);
        let fits = usize::try_from(room).unwrap_or(usize::MAX).min(text.len());
        let (counted, over) = text.split_at(fits);
        text = counted;
        self.octets += fits as u64;

        while self.buffer.len() + text.len() > PIECE_MAX {
            let (head, tail) = text.split_at(PIECE_MAX - self.buffer.len());
            self.emit(head, false, sink);
            text = tail;
        }
        if !over.is_empty() || last && self.size_max - self.octets < 2 {
            self.set_fault(DataEnd::TooLarge);
        } else if last {
            self.octets += 2;
            self.emit(text, true, sink);
        } else {
            self.buffer.extend_from_slice(text);
        }
    }

    /// Gives one piece to `sink`: what is held, and `text`.
    fn emit(&mut self, text: &[u8], last: bool, sink: &mut dyn FnMut(LinePiece<'_>)) {
        let first = !self.in_line;
        if self.buffer.is_empty() {
            sink(LinePiece { bytes: text, first, last });
        } else {
            self.buffer.extend_from_slice(text);
            sink(LinePiece { bytes: &self.buffer, first, last });
            self.buffer.clear();
        }
        self.in_line = !last;
    }

    /// Remembers the first fault and drops what is held.
    fn set_fault(&mut self, end: DataEnd) {
        if self.end == DataEnd::Whole {
            self.end = end;
            self.buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
