//! What a sender asks of delivery reports: RET and ENVID of MAIL, NOTIFY and ORCPT of RCPT
//! (RFC 3461 4).
//!
//! Here they are read and checked, and written for the next server; [`report`](crate::relay::dsn_message)
//! writes what was asked for. Values that travel as xtext come out decoded, and go out encoded.

use std::fmt::{self, Write};

use super::path;

/// RET: how much of the message a report of failure returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    /// `RET=FULL`: all of it.
    Full,
    /// `RET=HDRS`: the header.
    Headers,
}

/// NOTIFY: what shall be reported of one recipient. All false is `NOTIFY=NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DsnNotify {
    /// SUCCESS
    pub success: bool,
    /// FAILURE
    pub failure: bool,
    /// DELAY
    pub delay: bool,
}

/// ORCPT: whom the sender wrote to, `rfc822;jones@example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalRecipient {
    /// `rfc822`, or another type of address.
    pub addr_type: String,
    /// The address: printable ASCII and blanks; of the type `utf-8` UTF-8 too, or ASCII that stands
    /// for it, `j\x{FC}rgen@b` (RFC 6533 3).
    pub address: String,
}

impl DsnReturn {
    /// `FULL` or `HDRS`
    pub(crate) fn parse(value: &str) -> Option<DsnReturn> {
        match value.to_ascii_uppercase().as_str() {
            "FULL" => Some(DsnReturn::Full),
            "HDRS" => Some(DsnReturn::Headers),
            _ => None,
        }
    }
}

impl DsnNotify {
    /// `NEVER`, or a list of `SUCCESS`, `FAILURE` and `DELAY`.
    pub(crate) fn parse(value: &str) -> Option<DsnNotify> {
        let mut notify = DsnNotify::default();
        if value.eq_ignore_ascii_case("NEVER") {
            return Some(notify);
        }
        for element in value.split(',') {
            match element.to_ascii_uppercase().as_str() {
                "SUCCESS" => notify.success = true,
                "FAILURE" => notify.failure = true,
                "DELAY" => notify.delay = true,
                _ => return None,
            }
        }
        Some(notify)
    }
}

impl OriginalRecipient {
    /// `addr-type ";" xtext`
    pub(super) fn parse(value: &str) -> Option<OriginalRecipient> {
        let (kind, address) = value.split_once(';').filter(|_| value.len() <= ORCPT_MAX)?;
        let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if kind.is_empty() || !kind.bytes().all(is_atom) {
            return None;
        }
        let (kind, address) = if kind.eq_ignore_ascii_case("utf-8") && !address.is_ascii() {
            (kind, path::check_utf8(address.as_bytes()).ok()?.to_owned())
        } else {
            let bytes = decode_bytes(address)?;
            match printable_text(&bytes) {
                Some(text) => (kind, text),
                // Postfix says `rfc822;j+C3+BCrgen@b`, where `utf-8;j\x{FC}rgen@b` is meant.
                None if kind.eq_ignore_ascii_case("rfc822") && !bytes.is_ascii() => {
                    ("utf-8", escape_non_ascii(path::check_utf8(&bytes).ok()?))
                }
                None => return None,
            }
        };
        (!address.is_empty()).then(|| OriginalRecipient { addr_type: kind.to_owned(), address })
    }

    /// Whether it can be told to everybody (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.address.is_ascii()
    }

    /// As ORCPT has it; in ASCII, `utf-8;j\x{FC}rgen@b`, unless the server takes UTF-8 (RFC 6533
    /// 3).
    pub(super) fn encode(&self, utf8: bool) -> String {
        let address = match () {
            () if self.is_ascii() => encode_xtext(&self.address),
            () if utf8 => self.address.clone(),
            () => encode_xtext(&escape_non_ascii(&self.address)),
        };
        format!("{};{address}", self.addr_type)
    }
}

/// Writes `FULL` or `HDRS`.
impl fmt::Display for DsnReturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DsnReturn::Full => "FULL",
            DsnReturn::Headers => "HDRS",
        })
    }
}

/// Writes `NEVER`, or the list.
impl fmt::Display for DsnNotify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let given: Vec<&str> =
            all.into_iter().filter_map(|(on, word)| on.then_some(word)).collect();
        f.write_str(if given.is_empty() { "NEVER" } else { "" })?;
        f.write_str(&given.join(","))
    }
}

/// ENVID, decoded.
pub(super) fn parse_envid(value: &str) -> Option<String> {
    decode_xtext(value).filter(|_| value.len() <= ENVID_MAX)
}

/// What is told to a person: printable ASCII and blanks (RFC 3461 4.2, 4.4).
fn decode_xtext(xtext: &str) -> Option<String> {
    printable_text(&decode_bytes(xtext)?)
}

/// `+2B` is a plus, likewise any octet (RFC 3461 4, xtext).
fn decode_bytes(xtext: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = xtext.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            b'!'..=b'~' if byte != b'=' => byte,
            _ => return None,
        });
    }
    Some(bytes)
}

fn printable_text(bytes: &[u8]) -> Option<String> {
    let is_printable = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t');
    bytes.iter().all(is_printable).then(|| bytes.iter().copied().map(char::from).collect())
}

/// An address of the type `utf-8` as all can read it: `j\x{FC}rgen@b` (RFC 6533 3,
/// utf-8-addr-xtext).
fn escape_non_ascii(address: &str) -> String {
    let mut ascii = String::new();
    for c in address.chars() {
        match c {
            '!'..='~' if !matches!(c, '+' | '=' | '\\') => ascii.push(c),
            _ => ascii.push_str(&format!("\\x{{{:02X}}}", u32::from(c))),
        }
    }
    ascii
}

/// `text`, printable ASCII and blanks, as xtext.
pub(super) fn encode_xtext(text: &str) -> String {
    let mut xtext = String::new();
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'+' && byte != b'=' => xtext.push(char::from(byte)),
            // Writing to a String does not fail.
            _ => drop(write!(xtext, "+{byte:02X}")),
        }
    }
    xtext
}

/// A digit of xtext: capitals only.
fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3461 4.4, as sent.
const ENVID_MAX: usize = 100;
/// RFC 3461 4.2, as sent.
const ORCPT_MAX: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xtext_is_decoded() {
        for (xtext, text) in [
            ("", Some("")),
            ("abc", Some("abc")),
            ("a+2Bb+3Dc", Some("a+b=c")),
            ("a+20b+09c", Some("a b\tc")),
            ("QQ314159", Some("QQ314159")),
            ("!#$%&'()*,-./~", Some("!#$%&'()*,-./~")),
            ("+", None),
            ("+2", None),
            ("+2b", None),
            ("+GG", None),
            ("a=b", None),
            ("a b", None),
            ("a+0Ab", None),
            ("a+7Fb", None),
            ("a+80b", None),
            ("a+00b", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(decode_xtext(xtext).as_deref(), text, "{xtext}");
        }
    }

    #[test]
    fn notify_is_never_or_a_list() {
        let (success, failure, delay) = (true, true, true);
        let none = DsnNotify::default();
        for (value, notify) in [
            ("NEVER", Some(none)),
            ("never", Some(none)),
            ("SUCCESS", Some(DsnNotify { success, ..none })),
            ("Failure,delay", Some(DsnNotify { failure, delay, ..none })),
            ("SUCCESS,FAILURE,DELAY", Some(DsnNotify { success, failure, delay })),
            ("SUCCESS,SUCCESS", Some(DsnNotify { success, ..none })),
            ("NEVER,SUCCESS", None),
            ("SUCCESS,NEVER", None),
            ("SUCCESS,", None),
            (",", None),
            ("ALWAYS", None),
        ] {
            assert_eq!(DsnNotify::parse(value), notify, "{value}");
        }
    }

    #[test]
    fn original_recipients_have_a_type() {
        let is = |value: &str| {
            OriginalRecipient::parse(value).map(|orcpt| (orcpt.addr_type, orcpt.address))
        };
        let some = |kind: &str, address: &str| Some((kind.to_owned(), address.to_owned()));
        assert_eq!(is("rfc822;Bob@Big-Bucks.COM"), some("rfc822", "Bob@Big-Bucks.COM"));
        assert_eq!(is("rfc822;a+2Bb@c"), some("rfc822", "a+b@c"));
        assert_eq!(is("x400;/c=us/"), None, "= is to be encoded");
        assert_eq!(is("x400;/c+3Dus/;x"), some("x400", "/c=us/;x"));
        assert_eq!(is("utf-8;j\u{fc}rgen@b"), some("utf-8", "j\u{fc}rgen@b"));
        assert_eq!(is("UTF-8;\\x{fc}@b"), some("UTF-8", "\\x{fc}@b"));
        for value in ["", ";", "rfc822", "rfc822;", ";a@b", "a b;c", "rfc822;j\u{fc}rgen@b"] {
            assert_eq!(is(value), None, "{value}");
        }
        // UTF-8 inside xtext, as Postfix sends it.
        assert_eq!(is("rfc822;j+C3+BCrgen@b"), some("utf-8", r"j\x{FC}rgen@b"));
        assert_eq!(
            is("RFC822;+F0+9F+93+AE+2B+5C+20@b"),
            some("utf-8", r"\x{1F4EE}\x{2B}\x{5C}\x{20}@b")
        );
        for value in ["rfc822;j+FCrgen@b", "rfc822;+C2+85@b", "rfc822;+C3+BC+0A@b", "x400;+C3+BC"] {
            assert_eq!(is(value), None, "{value}");
        }
        assert!(is(&format!("rfc822;{}", "x".repeat(493))).is_some());
        assert_eq!(is(&format!("rfc822;{}", "x".repeat(494))), None);
        assert!(parse_envid(&"x".repeat(100)).is_some());
        assert_eq!(parse_envid(&"x".repeat(101)), None);
        assert_eq!(parse_envid("a+0D+0ABcc:"), None);
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in ["", "abc", "a+b=c", "a b\tc", "++", "=", "!~"] {
            assert_eq!(decode_xtext(&encode_xtext(text)).as_deref(), Some(text), "{text}");
        }
        for value in ["NEVER", "SUCCESS", "SUCCESS,FAILURE,DELAY", "FAILURE,DELAY"] {
            assert_eq!(DsnNotify::parse(value).unwrap().to_string(), value);
        }
        for value in ["FULL", "HDRS"] {
            assert_eq!(DsnReturn::parse(value).unwrap().to_string(), value);
        }
        let rewritten = |value, utf8| OriginalRecipient::parse(value).unwrap().encode(utf8);
        for value in ["rfc822;a+2Bb@c", "x400;/c+3Dus/;x", "utf-8;j\u{fc}rgen@b"] {
            assert_eq!(rewritten(value, true), value);
        }
        assert_eq!(rewritten("utf-8;j\u{fc}rgen@b", false), "utf-8;j\\x{FC}rgen@b");
    }
}
