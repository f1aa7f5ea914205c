//! The parameters of MAIL and RCPT: `keyword` or `keyword=value`, separated by blanks (RFC 5321
//! 4.1.1.11, 4.1.2).
//!
//! MAIL accepts SIZE (RFC 1870), BODY (RFC 6152), SMTPUTF8 (RFC 6531), RET and ENVID (RFC 3461),
//! and PRDR (draft-hall-prdr). RCPT accepts NOTIFY and ORCPT (RFC 3461). The reply names the first
//! error from the left:
//!
//! | parameter | reply |
//! | --- | --- |
//! | known, but its value is invalid, or it is given twice with a value | 501 |
//! | known, but its value is not implemented | 504 |
//! | unknown | 555 |

use super::dsn::{self, DsnNotify, DsnReturn, OriginalRecipient};
use super::envelope::BodyType;
use super::reply::{self, Reply};

/// The parameters of MAIL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// The value of SIZE in octets. A number above 64 bits becomes the largest one.
    pub size: Option<u64>,
    /// The value of BODY.
    pub body: Option<BodyType>,
    /// Whether SMTPUTF8 is given.
    pub utf8: bool,
    /// The value of RET.
    pub ret: Option<DsnReturn>,
    /// The value of ENVID, decoded.
    pub envid: Option<String>,
    /// Whether PRDR is given.
    pub prdr: bool,
}

/// The parameters of RCPT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RcptParameters {
    /// The value of NOTIFY.
    pub notify: Option<DsnNotify>,
    /// The value of ORCPT, decoded.
    pub original: Option<OriginalRecipient>,
}

impl MailParameters {
    /// Parses the text after the reverse-path.
    ///
    /// # Errors
    /// The reply to MAIL.
    pub(super) fn parse(text: &[u8]) -> Result<MailParameters, Reply> {
        let mut parameters = MailParameters::default();
        let MailParameters { size, body, utf8, ret, envid, prdr } = &mut parameters;
        for parameter in split_parameters("MAIL", text) {
            let (keyword, value) = parameter?;
            let given = KnownParameter { verb: "MAIL", value };
            match keyword.to_ascii_uppercase().as_str() {
                "SIZE" => given.set(size, parse_size, SIZE_SYNTAX)?,
                "BODY" if is(value, "BINARYMIME") => return Err(reply::no_binarymime()),
                "BODY" => given.set(body, parse_body, BODY_SYNTAX)?,
                "SMTPUTF8" if value.is_none() => *utf8 = true,
                "SMTPUTF8" => return Err(reply::bad_parameter("MAIL", UTF8_SYNTAX)),
                "PRDR" if value.is_none() => *prdr = true,
                "PRDR" => return Err(reply::bad_parameter("MAIL", PRDR_SYNTAX)),
                "RET" => given.set(ret, DsnReturn::parse, RET_SYNTAX)?,
                "ENVID" => given.set(envid, dsn::parse_envid, ENVID_SYNTAX)?,
                _ => return Err(reply::unknown_parameter("MAIL", keyword)),
            }
        }
        Ok(parameters)
    }

    /// Returns the keyword of a given parameter that belongs to DSN.
    pub(super) fn dsn_keyword(&self) -> Option<&'static str> {
        let ret = self.ret.map(|_| "RET");
        ret.or(self.envid.as_ref().map(|_| "ENVID"))
    }
}

impl RcptParameters {
    /// Parses the text after the forward-path.
    ///
    /// # Errors
    /// The reply to RCPT.
    pub(super) fn parse(text: &[u8]) -> Result<RcptParameters, Reply> {
        let mut parameters = RcptParameters::default();
        let RcptParameters { notify, original } = &mut parameters;
        for parameter in split_parameters("RCPT", text) {
            let (keyword, value) = parameter?;
            let given = KnownParameter { verb: "RCPT", value };
            match keyword.to_ascii_uppercase().as_str() {
                "NOTIFY" => given.set(notify, DsnNotify::parse, NOTIFY_SYNTAX)?,
                "ORCPT" => given.set(original, OriginalRecipient::parse, ORCPT_SYNTAX)?,
                _ => return Err(reply::unknown_parameter("RCPT", keyword)),
            }
        }
        Ok(parameters)
    }

    /// Returns the keyword of a given parameter that belongs to DSN.
    pub(super) fn dsn_keyword(&self) -> Option<&'static str> {
        let notify = self.notify.map(|_| "NOTIFY");
        notify.or(self.original.as_ref().map(|_| "ORCPT"))
    }
}

/// A known parameter.
struct KnownParameter<'a> {
    verb: &'static str,
    value: Option<&'a str>,
}

impl KnownParameter<'_> {
    /// Sets `slot` to the parsed value.
    ///
    /// # Errors
    /// The reply, with `syntax`, if `slot` is set already or `parse` rejects the value.
    fn set<T>(
        &self,
        slot: &mut Option<T>,
        parse: fn(&str) -> Option<T>,
        syntax: &str,
    ) -> Result<(), Reply> {
        match self.value.and_then(parse) {
            Some(value) if slot.is_none() => {
                *slot = Some(value);
                Ok(())
            }
            _ => Err(reply::bad_parameter(self.verb, syntax)),
        }
    }
}

/// Returns each `keyword` or `keyword=value` of `text` in order.
fn split_parameters<'a>(
    verb: &'static str,
    text: &'a [u8],
) -> impl Iterator<Item = Result<(&'a str, Option<&'a str>), Reply>> {
    text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(move |word| {
        keyword_and_value(word).ok_or_else(|| reply::bad_parameter(verb, "KEYWORD=value"))
    })
}

/// Splits `esmtp-keyword [ "=" esmtp-value ]` (RFC 5321 4.1.2, RFC 6531 3.3).
fn keyword_and_value(word: &[u8]) -> Option<(&str, Option<&str>)> {
    let word = std::str::from_utf8(word).ok()?;
    let (keyword, value) = match word.split_once('=') {
        Some((keyword, value)) => (keyword, Some(value)),
        None => (word, None),
    };
    let keyword_fits = keyword.starts_with(|c: char| c.is_ascii_alphanumeric())
        && keyword.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let value_fits = value.is_none_or(|value| {
        !value.is_empty() && !value.contains(|c: char| c.is_control() || matches!(c, ' ' | '='))
    });
    (keyword_fits && value_fits).then_some((keyword, value))
}

/// Parses `1*20DIGIT` (RFC 1870 4).
fn parse_size(digits: &str) -> Option<u64> {
    let fits = (1..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Parses `7BIT` or `8BITMIME` (RFC 6152).
fn parse_body(value: &str) -> Option<BodyType> {
    match value.to_ascii_uppercase().as_str() {
        "7BIT" => Some(BodyType::SevenBit),
        "8BITMIME" => Some(BodyType::EightBitMime),
        _ => None,
    }
}

fn is(value: Option<&str>, word: &str) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case(word))
}

const SIZE_SYNTAX: &str = "SIZE=octets, up to 20 digits, once";
const BODY_SYNTAX: &str = "BODY=7BIT or BODY=8BITMIME, once";
const UTF8_SYNTAX: &str = "SMTPUTF8, without a value";
const PRDR_SYNTAX: &str = "PRDR, without a value";
const RET_SYNTAX: &str = "RET=FULL or RET=HDRS, once";
const ENVID_SYNTAX: &str = "ENVID=xtext, up to 100 octets, once";
const NOTIFY_SYNTAX: &str = "NOTIFY=NEVER or some of SUCCESS,FAILURE,DELAY, once";
const ORCPT_SYNTAX: &str = "ORCPT=rfc822;xtext, up to 500 octets, once";

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Result<MailParameters, u16> {
        MailParameters::parse(text.as_bytes()).map_err(|reply| reply.code)
    }

    fn none() -> MailParameters {
        MailParameters::default()
    }

    #[test]
    fn mail_parameters() {
        let given = |size, body| Ok(MailParameters { size, body, ..none() });
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
            (" BODY=7BIT", given(None, Some(BodyType::SevenBit))),
            (" body=8bitMIME", given(None, Some(BodyType::EightBitMime))),
            (" BODY=8BITMIME  SIZE=5", given(Some(5), Some(BodyType::EightBitMime))),
            (" BODY=BINARYMIME", Err(504)),
            (" BODY=9BIT", Err(501)),
            (" BODY", Err(501)),
            (" BODY=7BIT BODY=8BITMIME", Err(501)),
            // SMTPUTF8
            (" SmtpUtf8", Ok(MailParameters { utf8: true, ..none() })),
            (" SMTPUTF8=1", Err(501)),
            (" SMTPUTF8=", Err(501)),
            // Two times, as Python's smtplib can send it.
            (" SMTPUTF8 SMTPUTF8", Ok(MailParameters { utf8: true, ..none() })),
            // PRDR
            (" prdr", Ok(MailParameters { prdr: true, ..none() })),
            (" PRDR=1", Err(501)),
            (" PRDR PRDR", Ok(MailParameters { prdr: true, ..none() })),
            // RET and ENVID
            (" RET=full", Ok(MailParameters { ret: Some(DsnReturn::Full), ..none() })),
            (" ENVID=a+2Bb", Ok(MailParameters { envid: Some("a+b".to_owned()), ..none() })),
            (" RET=HDRS RET=HDRS", Err(501)),
            (" ENVID=a ENVID=b", Err(501)),
            (" RET=ALL", Err(501)),
            (" RET", Err(501)),
            (" ENVID", Err(501)),
            (" ENVID=+", Err(501)),
            (" ENVID=+0A", Err(501)),
            // Unknown, or not a parameter.
            (" NOTIFY=NEVER", Err(555)),
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
            // The first error decides.
            (" X=5 SIZE=a", Err(555)),
            (" SIZE=a X=5", Err(501)),
        ];
        for (text, expected) in rows {
            assert_eq!(code(text), expected, "{text:?}");
        }
    }

    #[test]
    fn rcpt_parameters() {
        let success = Some(DsnNotify { success: true, ..DsnNotify::default() });
        let original = OriginalRecipient::parse("rfc822;a@b");
        let rows = [
            ("", Ok(RcptParameters::default())),
            (" ", Ok(RcptParameters::default())),
            (" NOTIFY=SUCCESS", Ok(RcptParameters { notify: success, original: None })),
            (" orcpt=rfc822;a@b notify=success", Ok(RcptParameters { notify: success, original })),
            (" NOTIFY=NEVER NOTIFY=NEVER", Err(501)),
            (" ORCPT=rfc822;a ORCPT=rfc822;a", Err(501)),
            (" NOTIFY", Err(501)),
            (" NOTIFY=NEVER,DELAY", Err(501)),
            (" ORCPT=a@b", Err(501)),
            (" RET=FULL", Err(555)),
            (" =", Err(501)),
        ];
        for (text, expected) in rows {
            let parsed = RcptParameters::parse(text.as_bytes()).map_err(|reply| reply.code);
            assert_eq!(parsed, expected, "{text:?}");
        }
    }
}
