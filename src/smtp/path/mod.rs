//! Addresses: mailboxes, domains, address literals, reverse-path and forward-path (RFC 5321 4.1.2,
//! 4.1.3).
//!
//! Every address that a client or a server sends is parsed here, and the types need no further
//! check. The parser is strict: it accepts printable ASCII and UTF-8 only, and enforces limits in
//! octets, which are not below those of RFC 5321 4.5.3.1. It accepts an underscore in a domain,
//! which the grammar does not, because that is common and harmless. It rejects the empty local-part
//! `""`, which the grammar allows.
//!
//! UTF-8 is accepted where RFC 6531 3.3 allows it: in local-parts, quoted or not, and in domains
//! with labels that have an A-label. The receiver checks whether the client declared it
//! (`is_ascii`).
//!
//! Source routes, `<@relay,@relay:user@host>`, are parsed and dropped (RFC 5321 4.1.1.3, C).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AddressLiteral {
    /// An IPv4 address, `[192.0.2.1]`.
    V4(Ipv4Addr),
    /// An IPv6 address, `[IPv6:2001:db8::1]`.
    V6(Ipv6Addr),
    /// A literal of another kind, `[tag:content]`.
    General(String),
}

/// The part of an address after the `@`. Names compare as in DNS: in any case, and U-labels equal
/// to their A-labels, so that `münchen.example` is `xn--mnchen-3ya.example`.
#[derive(Clone, Debug)]
pub enum Domain {
    /// A name as it was sent, at most 255 octets, and in its ASCII form at most 255 as well.
    Name(String),
    /// An address in brackets.
    Literal(AddressLiteral),
}

/// An address `local-part@domain`.
///
/// The local-part is stored without quotes and backslashes, so that `"al"@x` and `al@x` are the
/// same mailbox (RFC 5321 4.1.2). It is quoted again when written. Local-parts compare exactly,
/// because only the host of the mailbox may decide that case does not matter (2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    local: String,
    domain: Domain,
}

/// The argument of MAIL FROM: a mailbox, or `<>` for a notification (RFC 5321 4.5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// The null reverse-path, `<>`.
    Null,
    /// A path to a mailbox, `<user@host>`.
    Mailbox(Mailbox),
}

/// The argument of RCPT TO: a mailbox, or `<postmaster>` alone (RFC 5321 4.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// The path `<Postmaster>`, in any case and without a domain.
    Postmaster,
    /// A path to a mailbox, `<user@host>`.
    Mailbox(Mailbox),
}

/// The argument of ETRN: a domain, or a domain and all its subdomains, `@domain` (RFC 1985 5.3).
/// The third form, the name of a queue after `#`, is not supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtrnNode {
    domain: String,
    /// Whether subdomains belong to the node.
    subdomains: bool,
}

/// The reason why an address is invalid, for the text of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError(pub &'static str);

impl Mailbox {
    /// Returns the mailbox of `local`, which is not quoted, at `domain`.
    ///
    /// # Errors
    /// One of them exceeds its limit or contains an invalid character.
    pub fn new(local: &str, domain: Domain) -> Result<Mailbox, SyntaxError> {
        if let Domain::Name(name) = &domain {
            check_name(name)?;
        }
        check_local(local)?;
        Ok(Mailbox { local: local.to_owned(), domain })
    }

    /// Parses `local-part@domain`, all of `text`.
    pub fn parse(text: &str) -> Result<Mailbox, SyntaxError> {
        let mut parser = Parser { rest: text.as_bytes() };
        let mailbox = parser.mailbox()?;
        parser.expect_end(TEXT_AFTER_DOMAIN)?;
        Ok(mailbox)
    }

    /// Returns the local-part without quotes: 1 to 255 octets of printable ASCII, blanks and UTF-8.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Returns the domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// True if it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }
}

impl Domain {
    /// Parses a name or an address literal, all of `text`.
    pub fn parse(text: &str) -> Result<Domain, SyntaxError> {
        Domain::parse_bytes(text.as_bytes())
    }

    /// True if it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        match self {
            Domain::Name(name) => name.is_ascii(),
            Domain::Literal(_) => true,
        }
    }

    /// Returns the domain in lower case, with A-labels for U-labels as in DNS (RFC 5890).
    pub fn to_ascii(&self) -> String {
        match self {
            Domain::Name(name) => ascii_name(name).unwrap_or_else(|| name.to_lowercase()),
            Domain::Literal(literal) => literal.to_string().to_ascii_lowercase(),
        }
    }

    /// Parses a name or an address literal, all of `text`, which may be any bytes.
    pub(super) fn parse_bytes(text: &[u8]) -> Result<Domain, SyntaxError> {
        let mut parser = Parser { rest: text };
        let domain = parser.domain()?;
        parser.expect_end(TEXT_AFTER_DOMAIN)?;
        Ok(domain)
    }
}

impl ReversePath {
    /// Parses the path at the start of `input`. Returns it and the text after its `>`.
    pub(super) fn read(input: &[u8]) -> Result<(ReversePath, &[u8]), SyntaxError> {
        match parse_path(input)? {
            (PathContent::Empty, rest) => Ok((ReversePath::Null, rest)),
            (PathContent::Mailbox(mailbox), rest) => Ok((ReversePath::Mailbox(mailbox), rest)),
            (PathContent::Postmaster, _) => Err(NO_DOMAIN),
        }
    }

    /// True if it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        match self {
            ReversePath::Null => true,
            ReversePath::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl ForwardPath {
    /// Returns the address without brackets: `user@host`, or `postmaster`.
    pub fn address(&self) -> String {
        match self {
            ForwardPath::Postmaster => "postmaster".to_owned(),
            ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
        }
    }

    /// Parses the path at the start of `input`. Returns it and the text after its `>`.
    pub(super) fn read(input: &[u8]) -> Result<(ForwardPath, &[u8]), SyntaxError> {
        match parse_path(input)? {
            (PathContent::Postmaster, rest) => Ok((ForwardPath::Postmaster, rest)),
            (PathContent::Mailbox(mailbox), rest) => Ok((ForwardPath::Mailbox(mailbox), rest)),
            (PathContent::Empty, _) => Err(NO_LOCAL),
        }
    }

    /// True if it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        match self {
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl EtrnNode {
    pub(super) fn parse(argument: &[u8]) -> Option<EtrnNode> {
        let (name, subdomains) = match argument.strip_prefix(b"@") {
            Some(name) => (name, true),
            None => (argument, false),
        };
        let domain = Domain::parse_bytes(name).ok()?;
        domain.is_ascii().then(|| EtrnNode { domain: domain.to_string(), subdomains })
    }

    /// True if mail for `domain` belongs to this node.
    pub fn matches(&self, domain: &str) -> bool {
        let at = domain.len().checked_sub(self.domain.len());
        let Some((prefix, suffix)) = at.and_then(|at| domain.split_at_checked(at)) else {
            return false;
        };
        let is_same = suffix.eq_ignore_ascii_case(&self.domain);
        is_same && (prefix.is_empty() || self.subdomains && prefix.ends_with('.'))
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Domain) -> bool {
        match (self, other) {
            (Domain::Name(a), Domain::Name(b)) if a.is_ascii() && b.is_ascii() => {
                a.eq_ignore_ascii_case(b)
            }
            (Domain::Name(_), Domain::Name(_)) => self.to_ascii() == other.to_ascii(),
            (Domain::Literal(a), Domain::Literal(b)) => a == b,
            _ => false,
        }
    }
}
impl Eq for Domain {}

/// Writes `user@host`, with the local-part in quotes if it needs them.
impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(self.local.as_bytes()) {
            f.write_str(&self.local)?;
        } else {
            let quoted = self.local.replace('\\', "\\\\").replace('"', "\\\"");
            write!(f, "\"{quoted}\"")?;
        }
        write!(f, "@{}", self.domain)
    }
}

/// Writes the name as it was sent, or the literal with its brackets.
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Name(name) => f.write_str(name),
            Domain::Literal(literal) => literal.fmt(f),
        }
    }
}

/// Writes the literal with its brackets.
impl fmt::Display for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressLiteral::V4(address) => write!(f, "[{address}]"),
            AddressLiteral::V6(address) => write!(f, "[IPv6:{address}]"),
            AddressLiteral::General(text) => write!(f, "[{text}]"),
        }
    }
}

/// Writes `<>` or `<user@host>`.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => f.write_str("<>"),
            ReversePath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

/// Writes `<Postmaster>` or `<user@host>`.
impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardPath::Postmaster => f.write_str("<Postmaster>"),
            ForwardPath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

impl fmt::Display for EtrnNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.subdomains { "@" } else { "" }, self.domain)
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl std::error::Error for SyntaxError {}

/// Removes quotes and backslashes from `text`. Returns None if it is not one quoted string.
pub(super) fn unquote(text: &[u8]) -> Option<String> {
    let mut parser = Parser { rest: text };
    let inside = parser.consume(b'"').then(|| parser.quoted())?.ok()?;
    parser.rest.is_empty().then_some(inside)
}

/// The text between `<` and `>`, parsed.
enum PathContent {
    Empty,
    Postmaster,
    Mailbox(Mailbox),
}

/// Parses `"<" [ source-route ":" ] mailbox ">"`, `<>` or `<postmaster>` at the start of `input`.
/// Returns the content and the text after the path. The brackets may be missing around a mailbox
/// and around `postmaster`, because many devices leave them out.
fn parse_path(input: &[u8]) -> Result<(PathContent, &[u8]), SyntaxError> {
    let mut parser = Parser { rest: input };
    let in_brackets = parser.consume(b'<');
    let inside = match parser.peek() {
        Some(b'>') if in_brackets => PathContent::Empty,
        Some(b'@') if in_brackets => {
            parser.source_route()?;
            PathContent::Mailbox(parser.mailbox()?)
        }
        None | Some(b'@') if !in_brackets => return Err(NO_BRACKETS),
        _ => {
            let local = parser.local_part()?;
            let is_end = match in_brackets {
                true => parser.peek() == Some(b'>'),
                false => parser.peek().is_none_or(|byte| byte.is_ascii_whitespace()),
            };
            if is_end && local.eq_ignore_ascii_case("postmaster") {
                PathContent::Postmaster
            } else {
                PathContent::Mailbox(parser.at_domain(local)?)
            }
        }
    };
    if in_brackets && !parser.consume(b'>') {
        return Err(parser.unexpected(NO_CLOSING_BRACKET));
    }
    let brackets = if in_brackets { 0 } else { "<>".len() };
    if input.len() - parser.rest.len() + brackets > PATH_MAX {
        return Err(TOO_LONG_PATH);
    }
    Ok((inside, parser.rest))
}

/// A recursive descent parser that looks one byte ahead.
struct Parser<'a> {
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Consumes `byte` if it is next. Returns whether it was.
    fn consume(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, after)) if *first == byte => {
                self.rest = after;
                true
            }
            _ => false,
        }
    }

    /// Consumes and returns all bytes up to the first that does not fit.
    fn take_while(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.rest.iter().take_while(|byte| fits(**byte)).count();
        let (run, after) = self.rest.split_at(length);
        self.rest = after;
        run
    }

    /// Returns an error unless the input ends here.
    fn expect_end(&self, error: SyntaxError) -> Result<(), SyntaxError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.unexpected(error)) }
    }

    /// Returns `error`, or [`NOT_PRINTABLE`] if the next byte is not valid in an address.
    fn unexpected(&self, error: SyntaxError) -> SyntaxError {
        match self.peek() {
            Some(byte) if !matches!(byte, b' '..=b'~') => NOT_PRINTABLE,
            _ => error,
        }
    }

    /// Parses `@one,@two:` and drops it.
    fn source_route(&mut self) -> Result<(), SyntaxError> {
        loop {
            if !self.consume(b'@') {
                return Err(self.unexpected(BAD_ROUTE));
            }
            self.domain()?;
            if self.consume(b':') {
                return Ok(());
            }
            if !self.consume(b',') {
                return Err(self.unexpected(BAD_ROUTE));
            }
        }
    }

    /// Parses `local-part@domain`.
    fn mailbox(&mut self) -> Result<Mailbox, SyntaxError> {
        let local = self.local_part()?;
        self.at_domain(local)
    }

    /// Parses `@domain` after the local-part `local`.
    fn at_domain(&mut self, local: String) -> Result<Mailbox, SyntaxError> {
        if !self.consume(b'@') {
            return Err(self.unexpected(NO_DOMAIN));
        }
        Ok(Mailbox { local, domain: self.domain()? })
    }

    /// Parses `dotted.atoms` or `"quoted string"`.
    fn local_part(&mut self) -> Result<String, SyntaxError> {
        let local = if self.consume(b'"') {
            self.quoted()?
        } else {
            let text = self.take_while(|byte| is_atext(byte) || byte == b'.');
            if text.is_empty() {
                return Err(self.unexpected(NO_LOCAL));
            }
            if !is_dot_string(text) {
                return Err(BAD_DOT);
            }
            check_utf8(text)?.to_owned()
        };
        check_local(&local)?;
        Ok(local)
    }

    /// Parses a quoted string after its opening quote.
    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let mut text = String::new();
        loop {
            text +=
                check_utf8(self.take_while(|byte| is_printable(byte) && !b"\"\\".contains(&byte)))?;
            if self.consume(b'"') {
                return Ok(text);
            }
            if !self.consume(b'\\') {
                return Err(self.unexpected(NO_CLOSING_QUOTE));
            }
            match self.rest.split_first() {
                Some((&byte, after)) if matches!(byte, b' '..=b'~') => {
                    text.push(char::from(byte));
                    self.rest = after;
                }
                _ => return Err(self.unexpected(NO_ESCAPED)),
            }
        }
    }

    /// Parses `name.of.host` or `[literal]`.
    fn domain(&mut self) -> Result<Domain, SyntaxError> {
        if self.consume(b'[') {
            let text = self.take_while(|byte| byte.is_ascii_graphic() && !b"[\\]".contains(&byte));
            if !self.consume(b']') {
                return Err(self.unexpected(BAD_LITERAL));
            }
            return parse_literal(check_utf8(text)?).map(Domain::Literal).ok_or(BAD_LITERAL);
        }
        let text = check_utf8(self.take_while(|byte| is_name_byte(byte) || !byte.is_ascii()))?;
        if text.is_empty() {
            return Err(self.unexpected(EMPTY_DOMAIN));
        }
        check_name(text)?;
        Ok(Domain::Name(text.to_owned()))
    }
}

/// Parses the text between `[` and `]` (RFC 5321 4.1.3).
fn parse_literal(text: &str) -> Option<AddressLiteral> {
    let Some((tag, content)) = text.split_once(':') else {
        return text.parse().ok().map(AddressLiteral::V4);
    };
    if tag.eq_ignore_ascii_case("IPv6") {
        return content.parse().ok().map(AddressLiteral::V6);
    }
    // An IPv6 address without its tag is a mistake, not a literal with the tag "2001".
    if text.parse::<Ipv6Addr>().is_ok() {
        return None;
    }
    let tag_fits = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && tag.ends_with(|last: char| last.is_ascii_alphanumeric());
    (tag_fits && !content.is_empty() && text.len() <= DOMAIN_MAX - 2)
        .then(|| AddressLiteral::General(text.to_owned()))
}

/// Checks a local-part without its quotes.
fn check_local(local: &str) -> Result<(), SyntaxError> {
    check_utf8(local.as_bytes())?;
    match local.len() {
        0 => Err(NO_LOCAL),
        1..=LOCAL_MAX => Ok(()),
        _ => Err(TOO_LONG_LOCAL),
    }
}

/// Checks the name of a domain.
fn check_name(name: &str) -> Result<(), SyntaxError> {
    if name.len() > DOMAIN_MAX {
        return Err(TOO_LONG_DOMAIN);
    }
    if !name.is_ascii() {
        let ascii = ascii_name(name);
        return check_name(&ascii.ok_or(NOT_IDNA)?);
    }
    let is_label =
        |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    if !name.bytes().all(is_name_byte) || !name.split('.').all(is_label) {
        return Err(BAD_DOMAIN);
    }
    Ok(())
}

/// Returns `name` in lower case and with A-labels (UTS 46, not transitional), or None if it has no
/// such form.
fn ascii_name(name: &str) -> Option<String> {
    if name.is_ascii() {
        return Some(name.to_ascii_lowercase());
    }
    unicode_to_ascii(name)
}

/// Returns a name in Unicode with A-labels. It is a separate function because it needs much stack.
#[cold]
#[inline(never)]
fn unicode_to_ascii(name: &str) -> Option<String> {
    let ascii = idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::EMPTY).ok()?;
    Some(ascii.into_owned())
}

/// True if a local-part needs no quotes because it is atoms separated by single dots.
fn is_dot_string(local: &[u8]) -> bool {
    local
        .split(|byte| *byte == b'.')
        .all(|atom| !atom.is_empty() && atom.iter().all(|byte| is_atext(*byte)))
}

/// True for `atext` (RFC 5322 3.2.3, RFC 6531 3.3).
fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte) || !byte.is_ascii()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// True for printable ASCII, a blank, and any byte of a character in UTF-8.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') || !byte.is_ascii()
}

/// Returns `bytes` as text if they are UTF-8 (RFC 3629) without control characters. Those of
/// ASCII, U+0080 to U+009F, and the line ends of Unicode are not allowed.
pub(super) fn check_utf8(bytes: &[u8]) -> Result<&str, SyntaxError> {
    let text = str::from_utf8(bytes).map_err(|_| NOT_UTF8)?;
    let harmful = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if text.contains(harmful) { Err(NOT_PRINTABLE) } else { Ok(text) }
}

/// The longest local-part, in octets. RFC 5321 4.5.3.1.1 requires 64 and allows more, which senders
/// of VERP and SRS use.
const LOCAL_MAX: usize = 255;
/// The longest domain, in octets (RFC 5321 4.5.3.1.2).
const DOMAIN_MAX: usize = 255;
/// The longest path, in octets, with brackets and source route. RFC 5321 4.5.3.1.3 requires 256.
const PATH_MAX: usize = 512;

const NO_BRACKETS: SyntaxError = SyntaxError("expected an address in angle brackets: <user@host>");
const NO_CLOSING_BRACKET: SyntaxError = SyntaxError("the closing > is missing");
const NO_LOCAL: SyntaxError = SyntaxError("the local-part is missing: <user@host>");
const NO_DOMAIN: SyntaxError = SyntaxError("the domain is missing: <user@host>");
const EMPTY_DOMAIN: SyntaxError = SyntaxError("expected a domain or [address] after @");
const TEXT_AFTER_DOMAIN: SyntaxError = SyntaxError("unexpected text after the domain");
const BAD_ROUTE: SyntaxError = SyntaxError("expected a source route: <@host,@host:user@host>");
const BAD_LITERAL: SyntaxError =
    SyntaxError("expected an address literal: [192.0.2.1] or [IPv6:2001:db8::1]");
const BAD_DOT: SyntaxError =
    SyntaxError("a dot must be between other characters, or the local-part in quotes");
const NO_CLOSING_QUOTE: SyntaxError = SyntaxError("the closing quote is missing");
const NO_ESCAPED: SyntaxError = SyntaxError("expected a character after the backslash");
const BAD_DOMAIN: SyntaxError =
    SyntaxError("a domain is letters, digits and hyphens, separated by dots");
const NOT_IDNA: SyntaxError =
    SyntaxError("the domain contains characters that IDNA does not allow");
const TOO_LONG_PATH: SyntaxError = SyntaxError("a path is at most 512 octets");
const TOO_LONG_LOCAL: SyntaxError = SyntaxError("a local-part is at most 255 octets");
const TOO_LONG_DOMAIN: SyntaxError = SyntaxError("a domain is at most 255 octets");
const NOT_PRINTABLE: SyntaxError = SyntaxError("control characters are not allowed in an address");
const NOT_UTF8: SyntaxError = SyntaxError("an address must be ASCII or UTF-8");

#[cfg(test)]
mod tests;
