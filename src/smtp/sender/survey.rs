//! The survey of a message before it is sent: whether it must be converted, and how.
//!
//! A line may have 998 octets (RFC 5321 4.5.3.1.6) and no NUL (RFC 5322 2.2), and a server without
//! 8BITMIME takes 7-bit content only (RFC 6152). Programs such as cron and logwatch do not know
//! this. Their mail is converted as follows, and other mail is sent as it was received:
//!
//! | message | long line | NUL | 8-bit body, server without 8BITMIME |
//! | --- | --- | --- | --- |
//! | signed | unchanged | unchanged | unchanged; refused if declared |
//! | one part of text, not encoded | encoded | encoded | encoded |
//! | other, such as multipart | folded | blank | unchanged; refused if declared |
//! | header of any but signed | folded | blank | unchanged; refused if declared |
//!
//! Encoded means that the body becomes quoted-printable (RFC 2045 6.7), which every mail reader
//! decodes to the same text. Folded means that the line is divided at a blank, or where there is
//! none, as Postfix does, by an inserted line end and blank. A part of a multipart message is not
//! encoded, because it would have to be found by a MIME parser that agrees with the reader's. A
//! signed message is never changed, because its signature would become invalid: the next server
//! decides whether it takes the long line.

use memchr::{memchr, memchr_iter};

/// Facts about a message, collected from its content in one pass.
#[derive(Clone, Debug, Default)]
pub struct ContentSurvey {
    wire_size: u64,
    header: TextTraits,
    body: TextTraits,
    in_body: bool,
    /// Length so far of the current line.
    line_length: u64,
    /// The first bytes of the current header field, at most [`FIELD_MAX`].
    field: Vec<u8>,
    has_mime_version: bool,
    /// The media type of each Content-Type field, in lower case.
    media_types: Vec<String>,
    /// The value of each Content-Transfer-Encoding field, in lower case.
    encodings: Vec<String>,
    is_signed: bool,
    /// Whether a line of the header is no field, so that a server may take it for the body.
    has_malformed_header: bool,
    charset: CharsetObserver,
}

/// Properties of a header or a body.
#[derive(Clone, Copy, Debug, Default)]
struct TextTraits {
    has_long_line: bool,
    has_nul: bool,
    is_eight_bit: bool,
}

/// The conversion of a message on its way to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// None: it is sent as it was received.
    Unchanged,
    /// Long lines are folded, and a NUL becomes a blank.
    Fold,
    /// The same in the header. The body becomes quoted-printable, and these header fields are
    /// added: whole lines with LF.
    Encode(String),
}

impl ContentSurvey {
    /// Returns the survey of a message of which nothing was read yet.
    pub fn new() -> ContentSurvey {
        ContentSurvey::default()
    }

    /// Adds the next part of the content, divided anywhere: lines with LF, the header first.
    pub fn feed(&mut self, content: &[u8]) {
        let lines = memchr_iter(b'\n', content).count();
        self.wire_size += (content.len() + lines) as u64;
        let mut rest = content;
        while !self.in_body && !rest.is_empty() {
            let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let (piece, after) = rest.split_at(end);
            let begins_line = self.line_length == 0;
            self.header.add(piece, &mut self.line_length);
            self.add_header(piece, begins_line);
            rest = after;
        }
        if !rest.is_empty() {
            self.body.add(rest, &mut self.line_length);
            self.charset.add(rest);
        }
    }

    /// Returns the size in octets on the wire if the message is not converted, where a line end is
    /// two (RFC 1870).
    pub fn wire_size(&self) -> u64 {
        self.wire_size
    }

    /// Returns the conversion for a server, after all content was added. `eight_bit_mime` is true
    /// if the server offers 8BITMIME.
    pub fn conversion(&self, eight_bit_mime: bool) -> Conversion {
        let TextTraits { has_long_line, has_nul, is_eight_bit } = self.body;
        let in_body = has_long_line || has_nul;
        if self.is_signed {
            Conversion::Unchanged
        } else if (in_body || is_eight_bit && !eight_bit_mime) && self.is_plain_text() {
            Conversion::Encode(self.added_fields())
        } else if in_body || self.header.has_long_line || self.header.has_nul {
            Conversion::Fold
        } else {
            Conversion::Unchanged
        }
    }

    /// True if the message is 7-bit after `conversion`.
    pub fn is_seven_bit_after(&self, conversion: &Conversion) -> bool {
        let encoded = matches!(conversion, Conversion::Encode(_));
        !self.header.is_eight_bit && (encoded || !self.body.is_eight_bit)
    }

    /// Adds a piece of a header line, with its LF if it is the end of the line.
    fn add_header(&mut self, piece: &[u8], begins_line: bool) {
        if begins_line && !matches!(piece.first(), Some(b' ' | b'\t')) {
            self.end_field();
        }
        let room = FIELD_MAX.saturating_sub(self.field.len());
        self.field.extend_from_slice(piece.get(..room).unwrap_or(piece));
        if matches!(self.field.as_slice(), b"\n" | b"\r\n") {
            self.in_body = true;
        }
    }

    /// Evaluates the field that was read.
    fn end_field(&mut self) {
        let field = std::mem::take(&mut self.field);
        if field.is_empty() {
            return;
        }
        let colon = memchr(b':', &field);
        let Some((name, value)) = colon.and_then(|at| field.split_at_checked(at)) else {
            self.has_malformed_header = true;
            return;
        };
        let name = String::from_utf8_lossy(name).trim_end().to_ascii_lowercase();
        if name.is_empty() || name.contains(|c: char| !c.is_ascii_graphic()) {
            self.has_malformed_header = true;
        }
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        let value = value.trim_start_matches(':').trim();
        match name.as_str() {
            "mime-version" => self.has_mime_version = true,
            "content-type" => {
                let media_type = value.split(';').next().unwrap_or_default().trim();
                self.is_signed |= media_type == "multipart/signed";
                self.media_types.push(media_type.to_owned());
            }
            "content-transfer-encoding" => self.encodings.push(value.to_owned()),
            "dkim-signature" | "domainkey-signature" | "arc-message-signature" => {
                self.is_signed = true
            }
            _ => {}
        }
    }

    /// True if the body is one part of text that is not encoded.
    fn is_plain_text(&self) -> bool {
        let is_text = match self.media_types.as_slice() {
            [] => true,
            [media_type] => media_type.starts_with("text/"),
            _ => false,
        };
        let is_encoded = match self.encodings.as_slice() {
            [] => false,
            [encoding] => !matches!(encoding.as_str(), "7bit" | "8bit" | "binary"),
            _ => true,
        };
        is_text && !is_encoded && !self.has_malformed_header
    }

    /// Returns the fields that declare a quoted-printable body.
    fn added_fields(&self) -> String {
        let mut fields = String::new();
        if !self.has_mime_version {
            fields += "MIME-Version: 1.0\n";
        }
        if self.media_types.is_empty() {
            let charset = self.charset.name(self.body.is_eight_bit);
            fields += &format!("Content-Type: text/plain; charset={charset}\n");
        }
        fields + "Content-Transfer-Encoding: quoted-printable\n"
    }
}

impl TextTraits {
    /// Adds text. `line_length` is that of the line so far, and is updated.
    fn add(&mut self, text: &[u8], line_length: &mut u64) {
        self.is_eight_bit |= !text.is_ascii();
        self.has_nul |= memchr(0, text).is_some();
        let mut start = 0;
        for end in memchr_iter(b'\n', text) {
            self.has_long_line |= *line_length + (end - start) as u64 > LINE_MAX as u64;
            (*line_length, start) = (0, end + 1);
        }
        *line_length += (text.len() - start) as u64;
        self.has_long_line |= *line_length > LINE_MAX as u64;
    }
}

/// An observer of a body's charset.
#[derive(Clone, Debug, Default)]
struct CharsetObserver {
    /// Whether the text so far is not UTF-8.
    is_other: bool,
    /// The start of a character that the next part completes, at most 3 bytes.
    incomplete: Vec<u8>,
}

impl CharsetObserver {
    fn add(&mut self, text: &[u8]) {
        if self.is_other || self.incomplete.is_empty() && text.is_ascii() {
            return;
        }
        let mut joined = std::mem::take(&mut self.incomplete);
        joined.extend_from_slice(text);
        if let Err(error) = std::str::from_utf8(&joined) {
            self.is_other = error.error_len().is_some();
            self.incomplete = joined.split_off(error.valid_up_to());
            self.incomplete.truncate(3);
        }
    }

    /// Returns the name for Content-Type (RFC 1428 if it is not known).
    fn name(&self, is_eight_bit: bool) -> &'static str {
        match (is_eight_bit, self.is_other || !self.incomplete.is_empty()) {
            (false, _) => "us-ascii",
            (true, false) => "utf-8",
            (true, true) => "unknown-8bit",
        }
    }
}

/// The longest line, without its line end (RFC 5321 4.5.3.1.6).
pub(super) const LINE_MAX: usize = 998;
/// Maximum number of bytes of a field that are evaluated, enough for its name and media type.
const FIELD_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(content: &[u8], cut: usize) -> ContentSurvey {
        let mut survey = ContentSurvey::new();
        content.chunks(cut).for_each(|part| survey.feed(part));
        survey
    }

    #[test]
    fn conversions() {
        let long = "x".repeat(999);
        let encode = |fields: &str| {
            Conversion::Encode(fields.to_owned() + "Content-Transfer-Encoding: quoted-printable\n")
        };
        let added = |charset: &str| {
            encode(&format!("MIME-Version: 1.0\nContent-Type: text/plain; charset={charset}\n"))
        };
        let (mime, text) = ("MIME-Version: 1.0\n", "Content-Type: Text/Plain; charset=x\n");
        let fit = "x".repeat(998);
        for (content, with_8bit, without_8bit) in [
            (format!("A: b\n\n{fit}\n"), Conversion::Unchanged, Conversion::Unchanged),
            (format!("A: b\n\n{long}\n"), added("us-ascii"), added("us-ascii")),
            (format!("A: b\n\n{long}"), added("us-ascii"), added("us-ascii")),
            (format!("A: b\n\n\u{e9}{long}\n"), added("utf-8"), added("utf-8")),
            ("A: b\n\na\0b\n".into(), added("us-ascii"), added("us-ascii")),
            ("A: b\n\n\u{e9}\n".into(), Conversion::Unchanged, added("utf-8")),
            ("A: b\r\n\r\n\u{e9}\r\n".into(), Conversion::Unchanged, added("utf-8")),
            (format!("{mime}{text}\n\u{e9}\n"), Conversion::Unchanged, encode("")),
            (format!("{text}\n{long}\n"), encode(mime), encode(mime)),
            (format!("A: {long}\n\n"), Conversion::Fold, Conversion::Fold),
            (format!("A: {long}\n\n\u{e9}\n"), Conversion::Fold, added("utf-8")),
            ("A: \0\n\n".into(), Conversion::Fold, Conversion::Fold),
            (format!("{text}{text}\n{long}\n"), Conversion::Fold, Conversion::Fold),
            (
                format!("{text}Content-Transfer-Encoding:\n base64\n\n{long}\n"),
                Conversion::Fold,
                Conversion::Fold,
            ),
            (
                format!("{mime}{text}content-transfer-encoding : 8BIT\n\n{long}\n"),
                encode(""),
                encode(""),
            ),
            (format!("A: b\nno field\n\n{long}\n"), Conversion::Fold, Conversion::Fold),
            (
                format!("Content-Type: multipart/mixed\n\n{long}\n"),
                Conversion::Fold,
                Conversion::Fold,
            ),
            (
                "Content-Type: multipart/mixed\n\n\u{e9}\n".into(),
                Conversion::Unchanged,
                Conversion::Unchanged,
            ),
            (
                format!("Content-Type:\n\tMultipart/Signed; x=y\nA: {long}\n\n\0{long}\u{e9}\n"),
                Conversion::Unchanged,
                Conversion::Unchanged,
            ),
            (
                format!("DKIM-Signature: v=1;\n b=x\nA: {long}\n\n{long}\0\u{e9}\n"),
                Conversion::Unchanged,
                Conversion::Unchanged,
            ),
        ] {
            for cut in [1, 2, 3, 7, content.len()] {
                let survey = survey(content.as_bytes(), cut);
                assert_eq!(survey.conversion(true), with_8bit, "{cut} {content}");
                assert_eq!(survey.conversion(false), without_8bit, "{cut} {content}");
                let wire_size = content.len() + content.matches('\n').count();
                assert_eq!(survey.wire_size(), wire_size as u64);
                let eight_bit = !content.is_ascii() && without_8bit == Conversion::Unchanged;
                assert_eq!(survey.is_seven_bit_after(&without_8bit), !eight_bit, "{content}");
            }
        }
    }

    #[test]
    fn charsets() {
        for (body, charset) in [
            (&b"\xc3\xa9"[..], "utf-8"),
            (b"\xf0\x9f\x98\x80 a \xe2\x82\xac", "utf-8"),
            (b"\xe9", "unknown-8bit"),
            (b"a \xe9 b\xc3\xa9", "unknown-8bit"),
            (b"\xf0\x9f\x98", "unknown-8bit"),
            (b"\xc3\xa9\xa9", "unknown-8bit"),
        ] {
            for cut in 1..=body.len() {
                let found = survey(&[b"A: b\n\n", body].concat(), cut).conversion(false);
                let Conversion::Encode(fields) = found else { panic!("{found:?}") };
                assert!(fields.contains(&format!("charset={charset}\n")), "{body:?}: {fields}");
            }
        }
    }
}
