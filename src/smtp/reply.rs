//! The server's whole voice: every reply it can give, named, in one file (RFC 5321 4.2, RFC 3463).

use std::borrow::Cow;

/// One reply: a code, an enhanced status code where RFC 2034 asks for one, and its lines of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits, 2yz to 5yz.
    pub code: u16,
    /// RFC 3463: class, subject, detail. None on greeting, HELO/EHLO and 3yz.
    pub enhanced: Option<(u8, u16, u16)>,
    /// At least one; printable ASCII; a reply line with code and CR LF is at most 512 octets.
    pub lines: Vec<Cow<'static, str>>,
}

impl Reply {
    /// A reply of one line. Control characters in `text` become `?`; it is cut to fit 512 octets.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: Some(enhanced), lines: vec![text.into()] }
    }

    /// Appends the reply as it goes over the wire, each line with code, `-` or blank, and CR LF.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let _ = out;
        todo!()
    }

    /// Whether the code is 2yz or 3yz.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }
}
