//! The parameters by which a client asks for delivery status notifications: RET and ENVID of MAIL,
//! NOTIFY and ORCPT of RCPT (RFC 3461 4).
//!
//! This file parses them, and writes them for the next server. `relay/dsn_message.rs` writes the
//! notifications. Values in xtext are decoded when parsed and encoded when written.

use std::fmt::{self, Write};

use super::path;

/// The value of RET: the part of the message that a failure report returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DsnReturn {
    /// `RET=FULL`, the whole message.
    Full,
    /// `RET=HDRS`, its header.
    Headers,
}

/// The value of NOTIFY: the events of one recipient to report. All false is `NOTIFY=NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DsnNotify {
    /// Delivery (`SUCCESS`).
    pub success: bool,
    /// Failure of delivery (`FAILURE`).
    pub failure: bool,
    /// Delay of delivery (`DELAY`).
    pub delay: bool,
}

/// The value of ORCPT: the recipient that the sender named, `rfc822;jones@example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalRecipient {
    /// The type of the address, such as `rfc822`.
    pub addr_type: String,
    /// The address, in printable ASCII and blanks. An address of the type `utf-8` may contain
    /// UTF-8, or the ASCII form of it, `j\x{FC}rgen@b` (RFC 6533 3).
    pub address: String,
}

impl DsnReturn {
    /// Parses `FULL` or `HDRS`, in any case.
    pub(crate) fn parse(value: &str) -> Option<DsnReturn> {
        match value.to_ascii_uppercase().as_str() {
            "FULL" => Some(DsnReturn::Full),
            "HDRS" => Some(DsnReturn::Headers),
            _ => None,
        }
    }
}

impl DsnNotify {
    /// Parses `NEVER`, or a list of `SUCCESS`, `FAILURE` and `DELAY`, in any case.
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
    /// Parses `addr-type ";" xtext`. Returns None if it is invalid or longer than [`ORCPT_MAX`].
    pub(super) fn parse(value: &str) -> Option<OriginalRecipient> {
        if value.len() > ORCPT_MAX {
            return None;
        }
        let (addr_type, address) = value.split_once(';')?;
        let is_atom = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if addr_type.is_empty() || !addr_type.bytes().all(is_atom) {
            return None;
        }
        let (addr_type, address) = if addr_type.eq_ignore_ascii_case("utf-8") && !address.is_ascii()
        {
            (addr_type, path::check_utf8(address.as_bytes()).ok()?.to_owned())
        } else {
            let bytes = decode_bytes(address)?;
            match printable_text(&bytes) {
                Some(text) => (addr_type, text),
                // Postfix sends `rfc822;j+C3+BCrgen@b` instead of `utf-8;j\x{FC}rgen@b`.
                None if addr_type.eq_ignore_ascii_case("rfc822") && !bytes.is_ascii() => {
                    ("utf-8", escape_non_ascii(path::check_utf8(&bytes).ok()?))
                }
                None => return None,
            }
        };
        (!address.is_empty())
            .then(|| OriginalRecipient { addr_type: addr_type.to_owned(), address })
    }

    /// True if it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.address.is_ascii()
    }

    /// Returns the value of ORCPT. Unless `utf8` is true, it is in ASCII: `utf-8;j\x{FC}rgen@b`
    /// (RFC 6533 3).
    pub(super) fn encode(&self, utf8: bool) -> String {
        let address = if self.is_ascii() {
            encode_xtext(&self.address)
        } else if utf8 {
            self.address.clone()
        } else {
            encode_xtext(&escape_non_ascii(&self.address))
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

/// Writes `NEVER`, or `SUCCESS,FAILURE,DELAY` or a part of it.
impl fmt::Display for DsnNotify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let given: Vec<&str> =
            all.into_iter().filter_map(|(on, word)| on.then_some(word)).collect();
        f.write_str(if given.is_empty() { "NEVER" } else { "" })?;
        f.write_str(&given.join(","))
    }
}

/// Decodes the value of ENVID. Returns None if it is invalid or longer than [`ENVID_MAX`].
pub(super) fn parse_envid(value: &str) -> Option<String> {
    if value.len() <= ENVID_MAX { decode_xtext(value) } else { None }
}

/// Decodes xtext that must be printable ASCII and blanks (RFC 3461 4.2, 4.4).
fn decode_xtext(xtext: &str) -> Option<String> {
    printable_text(&decode_bytes(xtext)?)
}

/// Decodes xtext (RFC 3461 4), in which `+2B` is the byte 0x2B.
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

/// Returns `bytes` as text, or None if one is not printable ASCII or a blank. A tab is rejected,
/// because an entry of the queue cannot contain it.
fn printable_text(bytes: &[u8]) -> Option<String> {
    bytes
        .iter()
        .all(|byte| matches!(byte, b' '..=b'~'))
        .then(|| bytes.iter().copied().map(char::from).collect())
}

/// Returns the ASCII form of a `utf-8` address: `j\x{FC}rgen@b` (RFC 6533 3, utf-8-addr-xtext).
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

/// Encodes `text`, which is printable ASCII and blanks, as xtext.
pub(super) fn encode_xtext(text: &str) -> String {
    let mut xtext = String::new();
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'+' && byte != b'=' => xtext.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(xtext, "+{byte:02X}")),
        }
    }
    xtext
}

/// Returns the value of a hexadecimal digit of xtext, which is in capitals only.
fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The longest ENVID, in octets as sent (RFC 3461 4.4).
const ENVID_MAX: usize = 100;
/// The longest ORCPT, in octets as sent (RFC 3461 4.2).
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
            ("a+20b", Some("a b")),
            ("a+09b", None),
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
        let some =
            |addr_type: &str, address: &str| Some((addr_type.to_owned(), address.to_owned()));
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
    fn written_values_parse_to_the_same() {
        for text in ["", "abc", "a+b=c", "a b c", "++", "=", "!~"] {
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
