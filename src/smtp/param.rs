//! Parameters of MAIL and RCPT: `keyword` or `keyword=value`, blanks between (RFC 5321 4.1.1.11,
//! 4.1.2).
//!
//! MAIL takes SIZE (RFC 1870), BODY (RFC 6152) and SMTPUTF8 (RFC 6531); RCPT takes none. What is
//! known with a value that it cannot have, and what is given twice, is 501; a value that is not
//! carried out is 504; what is not known is 555. The first fault from the left is told.

use super::envelope::Body;
use super::reply::{self, Reply};

/// The parameters of MAIL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE in octets. A number above 64 bits is as good as the largest of them: too large.
    pub size: Option<u64>,
    /// BODY
    pub body: Option<Body>,
    /// SMTPUTF8
    pub utf8: bool,
}

impl MailParameters {
    /// Reads all that stands behind the reverse-path; an `Err` is MAIL's reply.
    pub(super) fn parse(text: &[u8]) -> Result<MailParameters, Reply> {
        let mut parameters = MailParameters::default();
        for parameter in split("MAIL", text) {
            let (keyword, value) = parameter?;
            if keyword.eq_ignore_ascii_case("SIZE") {
                set(&mut parameters.size, size(value)?, SIZE_FORM)?;
            } else if keyword.eq_ignore_ascii_case("BODY") {
                set(&mut parameters.body, body(value)?, BODY_FORM)?;
            } else if keyword.eq_ignore_ascii_case("SMTPUTF8") {
                if value.is_some() || parameters.utf8 {
                    return Err(reply::bad_parameter("MAIL", UTF8_FORM));
                }
                parameters.utf8 = true;
            } else {
                return Err(reply::unknown_parameter("MAIL", keyword));
            }
        }
        Ok(parameters)
    }
}

/// Reads all that stands behind the forward-path; an `Err` is RCPT's reply.
pub(super) fn parse_rcpt(text: &[u8]) -> Result<(), Reply> {
    match split("RCPT", text).next() {
        None => Ok(()),
        Some(parameter) => Err(reply::unknown_parameter("RCPT", parameter?.0)),
    }
}

/// Each `keyword` or `keyword=value`, in order.
fn split<'a>(
    verb: &'static str,
    text: &'a [u8],
) -> impl Iterator<Item = Result<(&'a str, Option<&'a str>), Reply>> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(move |word| {
        keyword_and_value(word).ok_or_else(|| reply::bad_parameter(verb, "KEYWORD=value"))
    })
}

/// `esmtp-keyword [ "=" esmtp-value ]` of RFC 5321 4.1.2 and RFC 6531 3.3.
fn keyword_and_value(word: &[u8]) -> Option<(&str, Option<&str>)> {
    let word = std::str::from_utf8(word).ok()?;
    let (keyword, value) = match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    };
    let keyword_fits = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
    let value_fits = value.is_none_or(|value| {
        !value.is_empty() && !value.contains(|c: char| c.is_control() || matches!(c, ' ' | '='))
    });
    (keyword_fits && value_fits).then_some((keyword, value))
}

/// `1*20DIGIT` (RFC 1870 4)
fn size(value: Option<&str>) -> Result<u64, Reply> {
    let digits = value.filter(|value| {
        (1..=20).contains(&value.len()) && value.bytes().all(|octet| octet.is_ascii_digit())
    });
    let digits = digits.ok_or_else(|| reply::bad_parameter("MAIL", SIZE_FORM))?;
    Ok(digits.parse().unwrap_or(u64::MAX))
}

/// `7BIT` or `8BITMIME`; BINARYMIME (RFC 3030) is known, and not kept by a mailbox of text.
fn body(value: Option<&str>) -> Result<Body, Reply> {
    match value {
        Some(value) if value.eq_ignore_ascii_case("7BIT") => Ok(Body::SevenBit),
        Some(value) if value.eq_ignore_ascii_case("8BITMIME") => Ok(Body::EightBitMime),
        Some(value) if value.eq_ignore_ascii_case("BINARYMIME") => {
            Err(reply::parameter_not_implemented("MAIL", "BODY=BINARYMIME"))
        }
        _ => Err(reply::bad_parameter("MAIL", BODY_FORM)),
    }
}

/// Sets what was not set before.
fn set<T>(slot: &mut Option<T>, value: T, form: &str) -> Result<(), Reply> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(reply::bad_parameter("MAIL", form)),
    }
}

const SIZE_FORM: &str = "SIZE=octets, up to 20 digits, once";
const UTF8_FORM: &str = "SMTPUTF8, without a value, once";
const BODY_FORM: &str = "BODY=7BIT or BODY=8BITMIME, once";

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Result<MailParameters, u16> {
        MailParameters::parse(text.as_bytes()).map_err(|reply| reply.code)
    }

    #[test]
    fn mail_parameters() {
        let given = |size, body| Ok(MailParameters { size, body, utf8: false });
        let rows = [
            ("", given(None, None)),
            (" \t ", given(None, None)),
            // SIZE
            (" SIZE=0", given(Some(0), None)),
            (" size=1000 ", given(Some(1000), None)),
            (" SIZE=00000000000000000007", given(Some(7), None)),
            (" SIZE=18446744073709551615", given(Some(u64::MAX), None)),
            (" SIZE=18446744073709551616", given(Some(u64::MAX), None)),
            (" SIZE=99999999999999999999", given(Some(u64::MAX), None)),
            (" SIZE=000000000000000000007", Err(501)),
            (" SIZE", Err(501)),
            (" SIZE=", Err(501)),
            (" SIZE=-1", Err(501)),
            (" SIZE=+1", Err(501)),
            (" SIZE=1k", Err(501)),
            (" SIZE=1=1", Err(501)),
            (" SIZE=1 SIZE=1", Err(501)),
            // BODY
            (" BODY=7BIT", given(None, Some(Body::SevenBit))),
            (" body=8bitMIME", given(None, Some(Body::EightBitMime))),
            (" BODY=8BITMIME  SIZE=5", given(Some(5), Some(Body::EightBitMime))),
            (" BODY=BINARYMIME", Err(504)),
            (" BODY=9BIT", Err(501)),
            (" BODY", Err(501)),
            (" BODY=7BIT BODY=8BITMIME", Err(501)),
            // SMTPUTF8
            (" SmtpUtf8", Ok(MailParameters { utf8: true, ..MailParameters::default() })),
            (" SMTPUTF8=1", Err(501)),
            (" SMTPUTF8=", Err(501)),
            (" SMTPUTF8 SMTPUTF8", Err(501)),
            // Not known, or no parameter.
            (" RET=FULL", Err(555)),
            (" X=\u{e9}", Err(555)),
            (" X=\u{85}", Err(501)),
            (" SIZES=5", Err(555)),
            (" 8BIT", Err(555)),
            (" X-\u{e9}", Err(501)),
            (" =5", Err(501)),
            (" -X=5", Err(501)),
            (" X=", Err(501)),
            (" X=a\0", Err(501)),
            (" SIZE = 5", Err(501)),
            // The first fault is told.
            (" X=5 SIZE=a", Err(555)),
            (" SIZE=a X=5", Err(501)),
        ];
        for (text, expected) in rows {
            assert_eq!(code(text), expected, "{text:?}");
        }
    }

    #[test]
    fn rcpt_knows_no_parameter() {
        let rows = [("", None), (" ", None), (" NOTIFY=NEVER", Some(555)), (" =", Some(501))];
        for (text, expected) in rows {
            let refused = parse_rcpt(text.as_bytes()).err().map(|reply| reply.code);
            assert_eq!(refused, expected, "{text:?}");
        }
    }
}
