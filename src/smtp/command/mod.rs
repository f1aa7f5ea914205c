//! The parser of command lines (RFC 5321 4.1.1).
//!
//! A line becomes a [`Command`] with all its arguments parsed, or the reply that rejects it. Verbs
//! and keywords match in any case (RFC 5321 2.4). White space beyond the grammar is accepted where
//! it is harmless: after the verb, after `FROM:` and `TO:`, between parameters, and before CR LF.
//! So are any name of the client ([`ClientName`]) and addresses without angle brackets. A line of
//! any command may be as long as [`COMMAND_LINE_MAX`].

use super::client_name::ClientName;
use super::envelope::Delivery;
use super::parameter::{MailParameters, RcptParameters};
use super::path::{self, EtrnNode, ForwardPath, ReversePath};
use super::reply::{self, Reply};

/// One command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// HELO with the client's name.
    Helo(ClientName),
    /// EHLO with the client's name.
    Ehlo(ClientName),
    /// LHLO (RFC 2033) with the client's name.
    Lhlo(ClientName),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// MAIL, SEND, SOML or SAML with the reverse-path.
    Mail(Delivery, ReversePath, MailParameters),
    /// RCPT with the forward-path.
    Rcpt(ForwardPath, RcptParameters),
    /// DATA.
    Data,
    /// BDAT (RFC 3030), with the chunk that follows it.
    Bdat {
        /// The length of the chunk, or None if the argument is no number.
        octets: Option<u64>,
        /// True for the last chunk, or None if the second argument is not LAST.
        last: Option<bool>,
    },
    /// RSET.
    Rset,
    /// VRFY with the name of a user or a mailbox.
    Vrfy(NameArgument),
    /// EXPN with the name of a list.
    Expn(NameArgument),
    /// HELP with an optional topic.
    Help(Option<String>),
    /// ETRN (RFC 1985) with the domains for which mail is to be sent.
    Etrn(EtrnNode),
    /// NOOP. Its argument is ignored (RFC 5321 4.1.1.9).
    Noop,
    /// QUIT.
    Quit,
}

/// The argument of VRFY and EXPN (RFC 6531 3.7.4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameArgument {
    /// The name without angle brackets or quotes: printable ASCII and UTF-8, not empty.
    pub name: String,
    /// Whether SMTPUTF8 follows the name, so that the reply may be in UTF-8.
    pub utf8: bool,
}

impl Command {
    /// True if it does not advance a message. An overloaded server limits such commands.
    pub(super) fn is_junk(&self) -> bool {
        use Command::{Etrn, Expn, Help, Noop, Rset, Vrfy};
        matches!(self, Noop | Rset | Help(_) | Vrfy(_) | Expn(_) | Etrn(_))
    }

    /// Parses one line with its CR LF.
    ///
    /// # Errors
    /// The reply that rejects the line.
    pub fn parse(line: &[u8]) -> Result<Command, Reply> {
        if line.len() > COMMAND_LINE_MAX {
            return Err(reply::line_too_long());
        }
        let line = line.strip_suffix(b"\r\n").ok_or_else(reply::bare_line_end)?;
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(reply::bare_line_end());
        }
        let (verb, argument) = split_verb(line);
        let is = |name: &str| verb.eq_ignore_ascii_case(name.as_bytes());
        let Some((_, verb, usage)) = VERBS.iter().find(|(name, ..)| is(name)) else {
            let known = NOT_IMPLEMENTED.iter().find(|name| is(name));
            return Err(known.map_or_else(reply::unknown_command, |n| reply::not_implemented(n)));
        };

        let syntax = || reply::syntax(usage);
        let without_argument =
            |command| if argument.is_empty() { Ok(command) } else { Err(syntax()) };
        let client = || ClientName::read(argument).ok_or_else(syntax);
        match verb {
            Verb::Helo => Ok(Command::Helo(client()?)),
            Verb::Ehlo => Ok(Command::Ehlo(client()?)),
            Verb::Lhlo => Ok(Command::Lhlo(client()?)),
            Verb::StartTls => without_argument(Command::StartTls),
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
            Verb::Data => without_argument(Command::Data),
            Verb::Bdat if argument.is_empty() => Err(syntax()),
            Verb::Bdat => Ok(parse_bdat(argument)),
            Verb::Rset => without_argument(Command::Rset),
            Verb::Vrfy => Ok(Command::Vrfy(parse_name_argument(argument).ok_or_else(syntax)?)),
            Verb::Expn => Ok(Command::Expn(parse_name_argument(argument).ok_or_else(syntax)?)),
            Verb::Help if argument.is_empty() => Ok(Command::Help(None)),
            Verb::Help => Ok(Command::Help(Some(parse_name(argument).ok_or_else(syntax)?))),
            Verb::Etrn => Ok(Command::Etrn(EtrnNode::parse(argument).ok_or_else(syntax)?)),
            Verb::Noop => Ok(Command::Noop),
            Verb::Quit => without_argument(Command::Quit),
        }
    }
}

/// Returns the syntax of the command `name` for HELP, or None if there is no such command.
pub fn syntax(name: &str) -> Option<&'static str> {
    VERBS.iter().find(|(verb, ..)| verb.eq_ignore_ascii_case(name)).map(|(.., usage)| *usage)
}

/// Returns every implemented verb, in capitals.
pub fn verbs() -> impl Iterator<Item = &'static str> {
    VERBS.iter().map(|(verb, ..)| *verb)
}

/// True if the reply to `line` may be held back and sent together with the replies to the commands
/// after it (RFC 2920 3.2). A reply to any other command must be sent at once. BDAT may be
/// pipelined as well (RFC 3030 4.2).
pub fn may_delay_reply(line: &[u8]) -> bool {
    let (verb, _) = split_verb(line);
    let is = |name: &&[u8]| verb.eq_ignore_ascii_case(name);
    [&b"RSET"[..], b"MAIL", b"SEND", b"SOML", b"SAML", b"RCPT", b"BDAT"].iter().any(is)
}

/// True if `line` is not SMTP: it is binary, as a TLS handshake is, or an HTTP request. A browser
/// can be made to send an HTTP request with SMTP commands in its body.
pub(super) fn is_other_protocol(line: &[u8]) -> bool {
    let (verb, argument) = split_verb(line);
    is_binary(line) || HTTP_METHODS.contains(&verb) && !argument.is_empty()
}

/// True if the first byte cannot begin a command. The input may then never contain a line end, as
/// a TLS handshake does not.
pub(super) fn is_binary(opening: &[u8]) -> bool {
    opening.first().is_some_and(|first| match first {
        b'\t' | b'\n' | b'\r' => false,
        byte => byte.is_ascii_control() || !byte.is_ascii(),
    })
}

/// Splits a line into its first word and the trimmed rest.
fn split_verb(line: &[u8]) -> (&[u8], &[u8]) {
    let end = line.iter().position(u8::is_ascii_whitespace).unwrap_or(line.len());
    let (verb, argument) = line.split_at(end);
    (verb, argument.trim_ascii())
}

/// Returns the text after `keyword`, which is `FROM:` or `TO:`, and white space.
fn strip_keyword<'a>(argument: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (head, text) = argument.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then_some(text.trim_ascii_start())
}

/// Returns `rest`, the text after a path, if it is empty or begins with white space.
fn parameters(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(|byte| byte.is_ascii_whitespace()).then_some(rest)
}

/// Parses `chunk-size [ SP end-marker ]` (RFC 3030 2). An invalid end marker is not an error here,
/// because the receiver can still skip the chunk if the size is known.
fn parse_bdat(argument: &[u8]) -> Command {
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

/// Parses `String [ SP "SMTPUTF8" ]` (RFC 6531 3.7.4.2).
fn parse_name_argument(argument: &[u8]) -> Option<NameArgument> {
    let parameter = b"SMTPUTF8";
    let split = argument.len().checked_sub(parameter.len()).map(|at| argument.split_at(at));
    match split {
        Some((text, last)) if last.eq_ignore_ascii_case(parameter) && text.ends_with(b" ") => {
            Some(NameArgument { name: parse_name(text.trim_ascii_end())?, utf8: true })
        }
        _ => Some(NameArgument { name: parse_name(argument)?, utf8: false }),
    }
}

/// Parses `String` (RFC 5321 4.1.2), or a path in angle brackets: at least one printable character.
fn parse_name(argument: &[u8]) -> Option<String> {
    if let Some(unquoted) = path::unquote(argument) {
        return Some(unquoted).filter(|name| !name.is_empty());
    }
    let inside = argument.strip_prefix(b"<").and_then(|text| text.strip_suffix(b">"));
    let text = path::check_utf8(inside.unwrap_or(argument)).ok()?;
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

/// All implemented verbs, each with the syntax that HELP and a 501 show.
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
    ("SEND", Verb::Mail(Delivery::Send), "SEND FROM:<user@host> (to a terminal)"),
    (
        "SOML",
        Verb::Mail(Delivery::SendOrMail),
        "SOML FROM:<user@host> (to a terminal or the mailbox)",
    ),
    (
        "SAML",
        Verb::Mail(Delivery::SendAndMail),
        "SAML FROM:<user@host> (to a terminal and the mailbox)",
    ),
    ("RCPT", Verb::Rcpt, RCPT_SYNTAX),
    ("DATA", Verb::Data, "DATA, then the message, then a dot alone on a line"),
    ("BDAT", Verb::Bdat, BDAT_SYNTAX),
    ("RSET", Verb::Rset, "RSET"),
    ("VRFY", Verb::Vrfy, "VRFY user or VRFY user@host [SMTPUTF8]"),
    ("EXPN", Verb::Expn, "EXPN list [SMTPUTF8]"),
    ("HELP", Verb::Help, "HELP [command]"),
    ("ETRN", Verb::Etrn, "ETRN host.example or ETRN @host.example"),
    ("NOOP", Verb::Noop, "NOOP [anything]"),
    ("QUIT", Verb::Quit, "QUIT"),
];

const RCPT_SYNTAX: &str = "RCPT TO:<user@host> or RCPT TO:<postmaster> \
    [NOTIFY=NEVER|SUCCESS,FAILURE,DELAY] [ORCPT=rfc822;xtext]";
pub(super) const BDAT_SYNTAX: &str = "BDAT octets [LAST], then that many octets of the message";

/// The longest command line with its CR LF, in octets. RFC 5321 4.5.3.1.4 requires 512, and its
/// extensions add to it.
pub const COMMAND_LINE_MAX: usize = 2048;

/// Commands of the standards that get 502 instead of 500 (RFC 5321 4.2.4): TURN of RFC 821, and
/// commands of extensions that EHLO does not list.
const NOT_IMPLEMENTED: &[&str] = &["TURN", "ATRN", "AUTH"];

const HTTP_METHODS: &[&[u8]] =
    &[b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];

#[cfg(test)]
mod tests;
