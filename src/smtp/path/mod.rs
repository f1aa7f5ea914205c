//! Mailboxes, domains, address literals; reverse-path and forward-path (RFC 5321 4.1.2, 4.1.3).
//!
//! One parser, and every address from the wire goes through it; what it returns is typed and needs
//! no second look. It is strict: printable ASCII and UTF-8 only, and every limit of RFC 5321
//! 4.5.3.1, in octets. One thing is allowed beyond the grammar because it is common and harmless,
//! an underscore in a domain. One thing is refused that the grammar allows, the empty local-part
//! `""`.
//!
//! UTF-8 stands where RFC 6531 3.3 lets it: in local-parts, quoted or not, and in domains whose
//! labels have an A-label. Whether the client may use it is the receiver's to ask (`is_ascii`).
//!
//! Source routes, `<@relay,@relay:user@host>`, are read and dropped (RFC 5321 4.1.1.3, C).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An address literal, `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 4.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AddressLiteral {
    /// `[192.0.2.1]`
    V4(Ipv4Addr),
    /// `[IPv6:2001:db8::1]`
    V6(Ipv6Addr),
    /// `[tag:content]`, a form registered later than this program.
    General(String),
}

/// What stands behind the `@`. Names compare as DNS compares them: without regard to case, and
/// U-labels as their A-labels, so that `münchen.example` is `xn--mnchen-3ya.example`.
#[derive(Clone, Debug)]
pub enum Domain {
    /// A name, at most 255 octets (and as many in ASCII), as the client wrote it.
    Name(String),
    /// An address in brackets.
    Literal(AddressLiteral),
}

/// `local-part@domain`. The local-part is kept without its quotes and backslashes, so that
/// `"al"@x` and `al@x` are the same mailbox (RFC 5321 4.1.2); it is quoted again when written.
/// Local-parts compare exactly: only their own host may know that case does not matter (2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    local: String,
    domain: Domain,
}

/// The argument of MAIL FROM: a mailbox, or `<>` for a notification (RFC 5321 4.5.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`
    Null,
    /// `<user@host>`
    Mailbox(Mailbox),
}

/// The argument of RCPT TO: a mailbox, or `<postmaster>` alone (RFC 5321 4.1.1.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<Postmaster>`, in any case and without a domain.
    Postmaster,
    /// `<user@host>`
    Mailbox(Mailbox),
}

/// What ETRN names: a domain, and with `@` before it every domain below it too (RFC 1985 5.3).
/// (`#`, a queue by name, is nobody's here.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtrnNode {
    domain: String,
    below: bool,
}

/// Why an address is not one, in a few words for the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyntaxError(pub &'static str);

impl Mailbox {
    /// The mailbox of `local` (not quoted) at `domain`, if both keep to their limits.
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

    /// The local-part, unquoted: 1 to 64 octets, printable ASCII, blanks and UTF-8.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// The domain.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Whether it can be told to everybody (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }
}

impl Domain {
    /// Parses a name or an address literal, all of `text`.
    pub fn parse(text: &str) -> Result<Domain, SyntaxError> {
        Domain::parse_bytes(text.as_bytes())
    }

    /// Whether it can be told to everybody (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        match self {
            Domain::Name(name) => name.is_ascii(),
            Domain::Literal(_) => true,
        }
    }

    /// As DNS knows it: in lower case, and with A-labels for U-labels (RFC 5890). A literal is in
    /// lower case too.
    pub fn to_ascii(&self) -> String {
        match self {
            Domain::Name(name) => ascii_name(name).unwrap_or_else(|| name.to_lowercase()),
            Domain::Literal(literal) => literal.to_string().to_ascii_lowercase(),
        }
    }

    /// As [`Domain::parse`], of octets that may be anything.
    pub(super) fn parse_bytes(text: &[u8]) -> Result<Domain, SyntaxError> {
        let mut parser = Parser { rest: text };
        let domain = parser.domain()?;
        parser.expect_end(TEXT_AFTER_DOMAIN)?;
        Ok(domain)
    }
}

impl ReversePath {
    /// Reads the path that `input` begins with; returns it and what is behind its `>`.
    pub(super) fn read(input: &[u8]) -> Result<(ReversePath, &[u8]), SyntaxError> {
        match path(input)? {
            (PathContent::Empty, rest) => Ok((ReversePath::Null, rest)),
            (PathContent::Mailbox(mailbox), rest) => Ok((ReversePath::Mailbox(mailbox), rest)),
            (PathContent::Postmaster, _) => Err(NO_DOMAIN),
        }
    }

    /// Whether it can be told to everybody (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        match self {
            ReversePath::Null => true,
            ReversePath::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl ForwardPath {
    /// The address without brackets: `user@host`, or `postmaster`.
    pub fn address(&self) -> String {
        match self {
            ForwardPath::Postmaster => "postmaster".to_owned(),
            ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
        }
    }

    /// Reads the path that `input` begins with; returns it and what is behind its `>`.
    pub(super) fn read(input: &[u8]) -> Result<(ForwardPath, &[u8]), SyntaxError> {
        match path(input)? {
            (PathContent::Postmaster, rest) => Ok((ForwardPath::Postmaster, rest)),
            (PathContent::Mailbox(mailbox), rest) => Ok((ForwardPath::Mailbox(mailbox), rest)),
            (PathContent::Empty, _) => Err(NO_LOCAL),
        }
    }

    /// Whether it can be told to everybody (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        match self {
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl EtrnNode {
    pub(super) fn parse(argument: &[u8]) -> Option<EtrnNode> {
        let name = argument.strip_prefix(b"@");
        let domain = Domain::parse_bytes(name.unwrap_or(argument)).ok()?;
        let domain = Some(domain).filter(Domain::is_ascii)?.to_string();
        Some(EtrnNode { domain, below: name.is_some() })
    }

    /// Whether mail for this domain is its mail.
    pub fn matches(&self, domain: &str) -> bool {
        let head = domain.len().checked_sub(self.domain.len());
        let Some((head, tail)) = head.and_then(|at| domain.split_at_checked(at)) else {
            return false;
        };
        let same = tail.eq_ignore_ascii_case(&self.domain);
        same && (head.is_empty() || self.below && head.ends_with('.'))
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

/// Writes `user@host`, the local-part in quotes where it needs them.
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

/// Writes the name as the client wrote it, or the literal with its brackets.
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Domain::Name(name) => f.write_str(name),
            Domain::Literal(literal) => literal.fmt(f),
        }
    }
}

/// Writes the brackets too.
impl fmt::Display for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressLiteral::V4(address) => write!(f, "[{address}]"),
            AddressLiteral::V6(address) => write!(f, "[IPv6:{address}]"),
            AddressLiteral::General(text) => write!(f, "[{text}]"),
        }
    }
}

/// Writes `<>` or `<user@host>`, brackets included.
impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => f.write_str("<>"),
            ReversePath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

/// Writes `<Postmaster>` or `<user@host>`, brackets included.
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
        write!(f, "{}{}", if self.below { "@" } else { "" }, self.domain)
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
impl std::error::Error for SyntaxError {}

/// Takes the quotes and backslashes off `text` if all of it is one quoted string.
pub(super) fn unquote(text: &[u8]) -> Option<String> {
    let mut parser = Parser { rest: text };
    let inside = parser.consume(b'"').then(|| parser.quoted())?.ok()?;
    parser.rest.is_empty().then_some(inside)
}

/// What stands between `<` and `>`.
enum PathContent {
    Empty,
    Postmaster,
    Mailbox(Mailbox),
}

/// `"<" [ source-route ":" ] mailbox ">"`, `<>` or `<postmaster>`, and what is behind it.
fn path(input: &[u8]) -> Result<(PathContent, &[u8]), SyntaxError> {
    let mut parser = Parser { rest: input };
    if !parser.consume(b'<') {
        return Err(NO_BRACKETS);
    }
    let inside = if parser.peek() == Some(b'>') {
        PathContent::Empty
    } else if parser.peek() == Some(b'@') {
        parser.source_route()?;
        PathContent::Mailbox(parser.mailbox()?)
    } else {
        let local = parser.local_part()?;
        if parser.peek() == Some(b'>') && local.eq_ignore_ascii_case("postmaster") {
            PathContent::Postmaster
        } else {
            PathContent::Mailbox(parser.at_domain(local)?)
        }
    };
    if !parser.consume(b'>') {
        return Err(parser.unexpected(NO_CLOSING_BRACKET));
    }
    if input.len() - parser.rest.len() > PATH_MAX {
        return Err(SyntaxError("a path is at most 256 octets"));
    }
    Ok((inside, parser.rest))
}

/// Reads the grammar from left to right, one octet ahead.
struct Parser<'a> {
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Takes `byte` if it is next.
    fn consume(&mut self, byte: u8) -> bool {
        let taken = self.rest.split_first().filter(|(first, _)| **first == byte);
        self.rest = taken.map_or(self.rest, |(_, after)| after);
        taken.is_some()
    }

    /// Takes all octets up to the first that does not fit.
    fn take_while(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.rest.iter().take_while(|byte| fits(**byte)).count();
        let (run, after) = self.rest.split_at(length);
        self.rest = after;
        run
    }

    /// Nothing may be left.
    fn expect_end(&self, error: SyntaxError) -> Result<(), SyntaxError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.unexpected(error)) }
    }

    /// `error`, unless the next octet is one that no address may hold here.
    fn unexpected(&self, error: SyntaxError) -> SyntaxError {
        match self.peek() {
            Some(byte) if !matches!(byte, b' '..=b'~') => NOT_PRINTABLE,
            _ => error,
        }
    }

    /// `@one,@two:`
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

    /// `local-part@domain`
    fn mailbox(&mut self) -> Result<Mailbox, SyntaxError> {
        let local = self.local_part()?;
        self.at_domain(local)
    }

    /// `@domain`
    fn at_domain(&mut self, local: String) -> Result<Mailbox, SyntaxError> {
        if !self.consume(b'@') {
            return Err(self.unexpected(NO_DOMAIN));
        }
        Ok(Mailbox { local, domain: self.domain()? })
    }

    /// `dotted.atoms` or `"quoted string"`
    fn local_part(&mut self) -> Result<String, SyntaxError> {
        let local = if self.consume(b'"') {
            self.quoted()?
        } else {
            let text = self.take_while(|byte| is_atext(byte) || byte == b'.');
            if text.is_empty() {
                return Err(self.unexpected(NO_LOCAL));
            }
            if !is_dot_string(text) {
                return Err(SyntaxError("a dot stands between letters, or in quotes"));
            }
            check_utf8(text)?.to_owned()
        };
        check_local(&local)?;
        Ok(local)
    }

    /// The inside of a quoted string, and its closing quote.
    fn quoted(&mut self) -> Result<String, SyntaxError> {
        let mut text = String::new();
        loop {
            text +=
                check_utf8(self.take_while(|byte| is_printable(byte) && !b"\"\\".contains(&byte)))?;
            if self.consume(b'"') {
                return Ok(text);
            }
            if !self.consume(b'\\') {
                return Err(self.unexpected(SyntaxError("the closing quote is missing")));
            }
            match self.rest.split_first() {
                Some((&byte, after)) if matches!(byte, b' '..=b'~') => {
                    text.push(char::from(byte));
                    self.rest = after;
                }
                _ => return Err(self.unexpected(SyntaxError("nothing behind the backslash"))),
            }
        }
    }

    /// `name.of.host` or `[literal]`
    fn domain(&mut self) -> Result<Domain, SyntaxError> {
        if self.consume(b'[') {
            let text = self.take_while(|byte| byte.is_ascii_graphic() && !b"[\\]".contains(&byte));
            if !self.consume(b']') {
                return Err(self.unexpected(BAD_LITERAL));
            }
            return literal(check_utf8(text)?).map(Domain::Literal).ok_or(BAD_LITERAL);
        }
        let text = check_utf8(self.take_while(|byte| is_name_byte(byte) || !byte.is_ascii()))?;
        if text.is_empty() {
            return Err(self.unexpected(EMPTY_DOMAIN));
        }
        check_name(text)?;
        Ok(Domain::Name(text.to_owned()))
    }
}

/// What stands between `[` and `]` (RFC 5321 4.1.3).
fn literal(text: &str) -> Option<AddressLiteral> {
    let Some((tag, content)) = text.split_once(':') else {
        return text.parse().ok().map(AddressLiteral::V4);
    };
    if tag.eq_ignore_ascii_case("IPv6") {
        return content.parse().ok().map(AddressLiteral::V6);
    }
    // An IPv6 address that lacks its tag is a slip, not a literal of some kind "2001".
    if text.parse::<Ipv6Addr>().is_ok() {
        return None;
    }
    let tag_fits = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && tag.ends_with(|last: char| last.is_ascii_alphanumeric());
    (tag_fits && !content.is_empty() && text.len() <= DOMAIN_MAX - 2)
        .then(|| AddressLiteral::General(text.to_owned()))
}

/// A local-part without its quotes.
fn check_local(local: &str) -> Result<(), SyntaxError> {
    check_utf8(local.as_bytes())?;
    match local.len() {
        0 => Err(NO_LOCAL),
        1..=LOCAL_MAX => Ok(()),
        _ => Err(SyntaxError("a local-part is at most 64 octets")),
    }
}

/// A domain's name.
fn check_name(name: &str) -> Result<(), SyntaxError> {
    if name.len() > DOMAIN_MAX {
        return Err(TOO_LONG_DOMAIN);
    }
    if !name.is_ascii() {
        let ascii = ascii_name(name);
        return check_name(&ascii.ok_or(SyntaxError("a domain in UTF-8 has letters IDNA knows"))?);
    }
    let is_label =
        |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    if !name.bytes().all(is_name_byte) || !name.split('.').all(is_label) {
        return Err(SyntaxError("a domain is letters, digits and hyphens, with dots between"));
    }
    Ok(())
}

/// A name in lower case and with A-labels (UTS 46, not transitional); None if it has none.
fn ascii_name(name: &str) -> Option<String> {
    if name.is_ascii() {
        return Some(name.to_ascii_lowercase());
    }
    let ascii = idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::EMPTY).ok()?;
    Some(ascii.into_owned())
}

/// Whether a local-part needs no quotes: atoms, with single dots between.
fn is_dot_string(local: &[u8]) -> bool {
    local
        .split(|byte| *byte == b'.')
        .all(|atom| !atom.is_empty() && atom.iter().all(|byte| is_atext(*byte)))
}

/// RFC 5322 3.2.3, and RFC 6531 3.3.
fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte) || !byte.is_ascii()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// Printable ASCII, a blank, or of a character in UTF-8.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') || !byte.is_ascii()
}

/// Octets that are to be UTF-8 (RFC 3629), without control characters: those of ASCII, those
/// behind it, and the line ends that Unicode has besides.
pub(super) fn check_utf8(bytes: &[u8]) -> Result<&str, SyntaxError> {
    let text = str::from_utf8(bytes).map_err(|_| NOT_UTF8)?;
    let harmful = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    if text.contains(harmful) { Err(NOT_PRINTABLE) } else { Ok(text) }
}

/// RFC 5321 4.5.3.1.1
const LOCAL_MAX: usize = 64;
/// RFC 5321 4.5.3.1.2
const DOMAIN_MAX: usize = 255;
/// RFC 5321 4.5.3.1.3, brackets and source route included
const PATH_MAX: usize = 256;

const NO_BRACKETS: SyntaxError = SyntaxError("an address stands in angle brackets: <user@host>");
const NO_CLOSING_BRACKET: SyntaxError = SyntaxError("the closing > is missing");
const NO_LOCAL: SyntaxError = SyntaxError("the local-part is missing: <user@host>");
const NO_DOMAIN: SyntaxError = SyntaxError("the domain is missing: <user@host>");
const EMPTY_DOMAIN: SyntaxError = SyntaxError("a domain or [address] stands behind @");
const TEXT_AFTER_DOMAIN: SyntaxError = SyntaxError("something stands behind the domain");
const BAD_ROUTE: SyntaxError = SyntaxError("a source route is <@host,@host:user@host>");
const BAD_LITERAL: SyntaxError =
    SyntaxError("an address literal is [192.0.2.1] or [IPv6:2001:db8::1]");
const TOO_LONG_DOMAIN: SyntaxError = SyntaxError("a domain is at most 255 octets");
const NOT_PRINTABLE: SyntaxError = SyntaxError("an address holds no control characters");
const NOT_UTF8: SyntaxError = SyntaxError("an address is ASCII or UTF-8");

#[cfg(test)]
mod tests;
