//! One command line to one command (RFC 5321 4.1.1).
//!
//! What comes out is typed and complete; a line that is no command comes out as the reply it gets.
//! Verbs and keywords are taken in any case (RFC 5321 2.4). Beyond the grammar, white space is
//! tolerated where it is harmless: more of it behind the verb, behind `FROM:` and `TO:`, between
//! parameters, and before CR LF. Every command may be as long as [`LINE_MAX`]: the 512 octets of
//! RFC 5321 4.5.3.1.4 are the least that must work.

use std::fmt;

use super::envelope::Delivery;
use super::parameter::{MailParameters, RcptParameters};
use super::path::{self, Domain, ForwardPath, ReversePath};
use super::receiver::LINE_MAX;
use super::reply::{self, Reply};

/// One command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// HELO, and the client's name.
    Helo(Domain),
    /// EHLO, and the client's name.
    Ehlo(Domain),
    /// LHLO (RFC 2033), and the client's name.
    Lhlo(Domain),
    /// STARTTLS
    StartTls,
    /// MAIL, SEND, SOML or SAML
    Mail(Delivery, ReversePath, MailParameters),
    /// RCPT
    Rcpt(ForwardPath, RcptParameters),
    /// DATA
    Data,
    /// BDAT
    Bdat {
        /// How long the chunk behind it is; None if that cannot be told.
        octets: Option<u64>,
        /// Whether it is the last; None if something else than LAST stands there.
        last: Option<bool>,
    },
    /// RSET
    Rset,
    /// VRFY, and a user name or mailbox.
    Vrfy(VerbLookup),
    /// EXPN, and the name of a list.
    Expn(VerbLookup),
    /// HELP, and a topic.
    Help(Option<String>),
    /// ETRN, and whose mail is asked for.
    Etrn(EtrnNode),
    /// NOOP. Its argument means nothing (RFC 5321 4.1.1.9).
    Noop,
    /// QUIT
    Quit,
}

/// The argument of VRFY and EXPN (RFC 6531 3.7.4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerbLookup {
    /// Without the angle brackets or quotes around it. Printable ASCII and UTF-8, not empty.
    pub name: String,
    /// Whether SMTPUTF8 stands behind it: the answer may be UTF-8.
    pub utf8: bool,
}

/// What ETRN names: a domain, and with `@` before it every domain below it too (RFC 1985 5.3).
/// (`#`, a queue by name, is nobody's here.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtrnNode {
    domain: String,
    below: bool,
}

impl EtrnNode {
    fn parse(argument: &[u8]) -> Option<EtrnNode> {
        let name = argument.strip_prefix(b"@");
        let domain = Domain::parse_octets(name.unwrap_or(argument)).ok()?;
        let domain = Some(domain).filter(Domain::is_ascii)?.to_string();
        Some(EtrnNode { domain, below: name.is_some() })
    }

    /// Whether mail for this domain is its mail.
    pub fn holds(&self, domain: &str) -> bool {
        let head = domain.len().checked_sub(self.domain.len());
        let Some((head, tail)) = head.and_then(|at| domain.split_at_checked(at)) else {
            return false;
        };
        let same = tail.eq_ignore_ascii_case(&self.domain);
        same && (head.is_empty() || self.below && head.ends_with('.'))
    }
}

impl fmt::Display for EtrnNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "@" } else { "" }, self.domain)
    }
}

impl Command {
    /// Whether it brings no message nearer.
    pub(super) fn is_idle(&self) -> bool {
        use Command::{Etrn, Expn, Help, Noop, Rset, Vrfy};
        matches!(self, Noop | Rset | Help(_) | Vrfy(_) | Expn(_) | Etrn(_))
    }

    /// Parses one line as it came, CR LF included; an `Err` is its reply.
    pub fn parse(line: &[u8]) -> Result<Command, Reply> {
        if line.len() > LINE_MAX {
            return Err(reply::line_too_long());
        }
        let line = line.strip_suffix(b"\r\n").ok_or_else(reply::bare_line_end)?;
        if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return Err(reply::bare_line_end());
        }
        let (verb, argument) = split_verb(line);
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        let Some((_, verb, form)) = VERBS.iter().find(|(name, ..)| is(name)) else {
            let known = NOT_IMPLEMENTED.iter().find(|name| is(name));
            return Err(known.map_or_else(reply::unknown_command, |n| reply::not_implemented(n)));
        };

        let syntax = || reply::syntax(form);
        let alone = |command| if argument.is_empty() { Ok(command) } else { Err(syntax()) };
        let client = || match Domain::parse_octets(argument) {
            // Before EHLO's reply no client knows whether UTF-8 is taken (RFC 6531 3.7.1).
            Ok(domain) if domain.is_ascii() => Ok(domain),
            _ => Err(syntax()),
        };
        match verb {
            Verb::Helo => Ok(Command::Helo(client()?)),
            Verb::Ehlo => Ok(Command::Ehlo(client()?)),
            Verb::Lhlo => Ok(Command::Lhlo(client()?)),
            Verb::StartTls => alone(Command::StartTls),
            Verb::Mail(delivery) => {
                let text = strip_keyword(argument, b"FROM:").ok_or_else(syntax)?;
                let (from, rest) = ReversePath::read(text).map_err(reply::bad_reverse_path)?;
                let parameters = parameters(rest).ok_or_else(syntax)?;
                Ok(Command::Mail(*delivery, from, MailParameters::parse(parameters)?))
            }
            Verb::Rcpt => {
                let text = strip_keyword(argument, b"TO:").ok_or_else(syntax)?;
                let (to, rest) = ForwardPath::read(text).map_err(reply::bad_forward_path)?;
                let parameters = parameters(rest).ok_or_else(syntax)?;
                Ok(Command::Rcpt(to, RcptParameters::parse(parameters)?))
            }
            Verb::Data => alone(Command::Data),
            Verb::Bdat if argument.is_empty() => Err(syntax()),
            Verb::Bdat => Ok(bdat(argument)),
            Verb::Rset => alone(Command::Rset),
            Verb::Vrfy => Ok(Command::Vrfy(asked(argument).ok_or_else(syntax)?)),
            Verb::Expn => Ok(Command::Expn(asked(argument).ok_or_else(syntax)?)),
            Verb::Help if argument.is_empty() => Ok(Command::Help(None)),
            Verb::Help => Ok(Command::Help(Some(name(argument).ok_or_else(syntax)?))),
            Verb::Etrn => Ok(Command::Etrn(EtrnNode::parse(argument).ok_or_else(syntax)?)),
            Verb::Noop => Ok(Command::Noop),
            Verb::Quit => alone(Command::Quit),
        }
    }
}

/// The form of the command with this name, for HELP; None if there is none.
pub fn form(name: &str) -> Option<&'static str> {
    VERBS.iter().find(|(verb, ..)| verb.eq_ignore_ascii_case(name)).map(|(.., form)| *form)
}

/// Every verb that is carried out, in capitals.
pub fn verbs() -> impl Iterator<Item = &'static str> {
    VERBS.iter().map(|(verb, ..)| *verb)
}

/// Whether the reply to `line` may wait for those of the commands behind it, and be sent with them:
/// any other goes out at once (RFC 2920 3.2). BDAT is one of them: it needs no answer before what
/// follows it (RFC 3030 4.2).
pub fn may_wait(line: &[u8]) -> bool {
    let (verb, _) = split_verb(line);
    let is = |name: &&[u8]| verb.eq_ignore_ascii_case(name);
    [&b"RSET"[..], b"MAIL", b"SEND", b"SOML", b"SAML", b"RCPT", b"BDAT"].iter().any(is)
}

/// Whether `line` is no SMTP at all: it begins with an octet that no verb begins with, as a TLS
/// handshake does, or with the method of an HTTP request, which a browser can be made to send with
/// commands in its body.
pub(super) fn is_foreign(line: &[u8]) -> bool {
    let (verb, argument) = split_verb(line);
    is_binary(line) || HTTP_METHODS.contains(&verb) && !argument.is_empty()
}

/// Whether what begins so is binary. It may never have a line's end, as a TLS handshake has none.
pub(super) fn is_binary(opening: &[u8]) -> bool {
    opening.first().is_some_and(|first| match first {
        b'\t' | b'\n' | b'\r' => false,
        octet => octet.is_ascii_control() || !octet.is_ascii(),
    })
}

/// The first word, and what is behind it without the white space around.
fn split_verb(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (verb, argument) = line.split_at(end);
    (verb, argument.trim_ascii())
}

/// What is behind `FROM:` or `TO:` and white space.
fn strip_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, text) = argument.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then_some(text.trim_ascii_start())
}

/// What is behind a path: nothing, or white space and parameters.
fn parameters(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|octet| octet.is_ascii_whitespace()).then_some(rest)
}

/// `chunk-size [ SP end-marker ]` (RFC 3030 2). Whoever can tell where the chunk ends can drop it
/// and go on, whatever else is wrong.
fn bdat(argument: &[u8]) -> Command {
    let mut words = argument.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let digits = words.next().filter(|word| word.iter().all(u8::is_ascii_digit));
    let octets = digits.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
    let last = match (words.next(), words.next()) {
        (None, _) => Some(false),
        (Some(word), None) if word.eq_ignore_ascii_case(b"LAST") => Some(true),
        _ => None,
    };
    Command::Bdat { octets, last }
}

/// `String [ SP "SMTPUTF8" ]`
fn asked(argument: &[u8]) -> Option<VerbLookup> {
    let parameter = b"SMTPUTF8";
    let split = argument.len().checked_sub(parameter.len()).map(|at| argument.split_at(at));
    match split {
        Some((text, last)) if last.eq_ignore_ascii_case(parameter) && text.ends_with(b" ") => {
            Some(VerbLookup { name: name(text.trim_ascii_end())?, utf8: true })
        }
        _ => Some(VerbLookup { name: name(argument)?, utf8: false }),
    }
}

/// `String` of RFC 5321 4.1.2: at least one printable character.
fn name(argument: &[u8]) -> Option<String> {
    if let Some(unquoted) = path::unquote(argument) {
        return Some(unquoted).filter(|name| !name.is_empty());
    }
    let inside = argument.strip_prefix(b"<").and_then(|text| text.strip_suffix(b">"));
    let text = path::utf8(inside.unwrap_or(argument)).ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Helo,
    Ehlo,
    Lhlo,
    StartTls,
    Mail(Delivery),
    Rcpt,
    Data,
    Bdat,
    Rset,
    Vrfy,
    Expn,
    Help,
    Etrn,
    Noop,
    Quit,
}

/// Each verb with the form that HELP and a 501 tell.
const VERBS: &[(&str, Verb, &str)] = &[
    ("HELO", Verb::Helo, "HELO host.example or HELO [192.0.2.1]"),
    ("EHLO", Verb::Ehlo, "EHLO host.example or EHLO [192.0.2.1]"),
    ("LHLO", Verb::Lhlo, "LHLO host.example or LHLO [192.0.2.1]"),
    ("STARTTLS", Verb::StartTls, "STARTTLS"),
    (
        "MAIL",
        Verb::Mail(Delivery::Mail),
        "MAIL FROM:<user@host> [SIZE=octets] [BODY=7BIT|8BITMIME] [SMTPUTF8] \
     [RET=FULL|HDRS] [ENVID=xtext] [PRDR]",
    ),
    ("SEND", Verb::Mail(Delivery::Send), "SEND FROM:<user@host> sends to a terminal"),
    ("SOML", Verb::Mail(Delivery::SendOrMail), "SOML FROM:<user@host> sends, or else mails"),
    ("SAML", Verb::Mail(Delivery::SendAndMail), "SAML FROM:<user@host> sends and mails"),
    ("RCPT", Verb::Rcpt, RCPT_FORM),
    ("DATA", Verb::Data, "DATA, then the message, then a dot alone on a line"),
    ("BDAT", Verb::Bdat, BDAT_FORM),
    ("RSET", Verb::Rset, "RSET"),
    ("VRFY", Verb::Vrfy, "VRFY user or VRFY user@host [SMTPUTF8]"),
    ("EXPN", Verb::Expn, "EXPN list [SMTPUTF8]"),
    ("HELP", Verb::Help, "HELP [command]"),
    ("ETRN", Verb::Etrn, "ETRN host.example or ETRN @host.example"),
    ("NOOP", Verb::Noop, "NOOP [anything]"),
    ("QUIT", Verb::Quit, "QUIT"),
];

/// See [`VERBS`].
const RCPT_FORM: &str = "RCPT TO:<user@host> or RCPT TO:<postmaster> \
    [NOTIFY=NEVER|SUCCESS,FAILURE,DELAY] [ORCPT=rfc822;xtext]";
/// See [`VERBS`].
pub(super) const BDAT_FORM: &str = "BDAT octets [LAST], then so many octets of the message";

/// Commands of the standards that are recognised and not carried out (RFC 5321 4.2.4): TURN
/// (RFC 821), and extensions that EHLO does not name.
const NOT_IMPLEMENTED: &[&str] = &["TURN", "ATRN", "AUTH"];

const HTTP_METHODS: &[&[u8]] =
    &[b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];

#[cfg(test)]
mod tests;
