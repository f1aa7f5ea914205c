//! The decoder of mail data sent by DATA: finds its end, removes stuffed dots and CR LF, rejects
//! bare CR and LF, and counts octets (RFC 5321 4.1.1.4, 4.5.2, 2.3.8).
//!
//! The input may be divided anywhere; the lines that come out are the same. Only CR LF ends a line,
//! and only CR LF `.` CR LF ends the data. The decoder starts as if after a CR LF, so `.` CR LF
//! alone is an empty message. A receiver that also accepted `LF . LF`, `LF . CR LF` or `CR . CR` as
//! the end would let a client smuggle a second message through a relay that did not.
//!
//! An error does not end the data. The decoder reads on to the end, so that mail data is never
//! mistaken for commands, and returns [`DataEnd::BareLineEnd`] or [`DataEnd::TooLarge`] there,
//! whichever error was first.
//!
//! Lines that are whole in the input are not copied. Only a line that continues in the next input
//! is buffered, up to [`PIECE_MAX`] bytes of it.

use memchr::memchr2;

/// A line of mail data or a piece of one, without CR LF and without the stuffed dot.
///
/// A line of up to [`PIECE_MAX`] bytes is one piece, with `first` and `last` set. A longer line is
/// several pieces. All but the last have exactly [`PIECE_MAX`] bytes, and the last is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinePiece<'a> {
    /// The text, without CR and LF.
    pub bytes: &'a [u8],
    /// Whether the piece begins a line.
    pub first: bool,
    /// Whether the piece ends a line.
    pub last: bool,
}

/// The largest piece of a line, in bytes.
pub const PIECE_MAX: usize = 2048;

/// The result of decoding mail data to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataEnd {
    /// No error: all lines were passed on.
    Whole,
    /// A bare CR or LF, which gets 554 5.6.0. Nothing of the message may be delivered.
    BareLineEnd,
    /// More octets than the limit, which gets 552 5.3.4.
    TooLarge,
}

/// The decoder of one message's data.
#[derive(Debug)]
pub struct Decoder {
    state: DecoderState,
    /// Bytes of the current line that were not passed on, at most [`PIECE_MAX`].
    buffer: Vec<u8>,
    /// Whether a piece of the current line was passed on.
    in_line: bool,
    octets: u64,
    size_max: u64,
    /// Whether dots are stuffed and a dot alone ends the data. False for BDAT.
    dot_stuffing: bool,
    /// The first error, or [`DataEnd::Whole`].
    end: DataEnd,
}

/// The input since the last line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderState {
    /// `CR LF`, or no input yet.
    Start,
    /// `CR LF .`.
    Dot,
    /// `CR LF . CR`.
    DotCr,
    /// `CR LF`, text of a line.
    Text,
    /// `CR LF`, text of a line or none, `CR`.
    Cr,
    /// `CR LF . CR LF`.
    Ended,
}

impl Decoder {
    /// Returns a decoder of the input after the CR LF of the DATA command. `size_max` counts the
    /// octets that were sent, with CR LF as two, but without stuffed dots and the final line.
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

    /// Returns a decoder of data without stuffed dots and a final dot. The caller knows the length
    /// of the data and ends it with [`finish`](Decoder::finish).
    pub(super) fn without_dots() -> Decoder {
        Decoder { dot_stuffing: false, ..Decoder::new(u64::MAX) }
    }

    /// Decodes `input` and passes its lines to `sink`. Returns the number of bytes consumed, and
    /// the result if the data ended. All of `input` is consumed unless the data ended within it.
    /// After an error the decoder still looks for the end, but passes nothing more to `sink`. After
    /// the end it consumes nothing.
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
                // CR without LF is an error. The byte after it is read again as text.
                (DecoderState::Cr | DecoderState::DotCr, _) => {
                    self.set_error(DataEnd::BareLineEnd);
                    self.state = DecoderState::Text;
                }
                // A dot before other text was stuffed, and is dropped.
                (DecoderState::Start | DecoderState::Dot, _) => self.state = DecoderState::Text,
                (DecoderState::Text, _) => rest = self.read_text(rest, sink),
                (DecoderState::Ended, _) => break,
            }
        }
        (input.len() - rest.len(), (self.state == DecoderState::Ended).then_some(self.end))
    }

    /// Ends the data: passes a last line without CR LF to `sink`, and returns the result.
    pub(super) fn finish(mut self, sink: &mut dyn FnMut(LinePiece<'_>)) -> DataEnd {
        match self.state {
            DecoderState::Text if self.end == DataEnd::Whole => self.emit(b"", true, sink),
            DecoderState::Cr => self.set_error(DataEnd::BareLineEnd),
            _ => {}
        }
        self.end
    }

    /// Returns the first error so far, or [`DataEnd::Whole`].
    pub(super) fn end_so_far(&self) -> DataEnd {
        self.end
    }

    /// Returns the octets so far, counted as for `size_max`. After an error the count is not
    /// updated.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Reads text up to a CR LF, a CR or LF that may be bare, or the end of `input`. Returns the
    /// rest.
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
                self.set_error(DataEnd::BareLineEnd);
                after
            }
            None => end,
        }
    }

    /// Counts `text`, passes every complete piece to `sink`, and buffers the rest. If `last` is
    /// true, a CR LF follows, so that all of `text` is complete.
    fn pass_on(&mut self, mut text: &[u8], last: bool, sink: &mut dyn FnMut(LinePiece<'_>)) {
        if self.end != DataEnd::Whole {
            return;
        }
        // Text above the limit is cut off first. Otherwise the pieces passed on before the error
        // would depend on how the input is divided.
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
            self.set_error(DataEnd::TooLarge);
        } else if last {
            self.octets += 2;
            self.emit(text, true, sink);
        } else {
            self.buffer.extend_from_slice(text);
        }
    }

    /// Passes one piece to `sink`: the buffer and `text`.
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

    /// Records the first error and drops the buffer.
    fn set_error(&mut self, end: DataEnd) {
        if self.end == DataEnd::Whole {
            self.end = end;
            self.buffer = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests;
