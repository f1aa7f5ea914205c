//! Address lists in headers and on command lines (RFC 5322 3.4, with the obsolete syntax of 4.4).
//!
//! ```text
//! "Smith, J." <js@example.org> (home), undisclosed: a@b, "c d"@[192.0.2.1];, root
//! ```
//! Display names, comments, group names and source routes are parsed and dropped. A bare name such
//! as `root` belongs to the host's own domain. Encoded words (RFC 2047) are not decoded, because
//! they occur in names and comments only. Beyond the grammar, a semicolon separates addresses as a
//! comma does, text after a `>` is a comment, and any white space of Unicode is a blank.

use crate::smtp::{Domain, Mailbox};

/// One address of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAddress {
    /// The mailbox, with the host's domain if the text has none.
    pub mailbox: Mailbox,
    /// The position in the text at which the domain is missing, if it is.
    pub domain_missing_at: Option<usize>,
}

/// The addresses of a list of which some elements may be invalid.
#[derive(Debug, Default)]
pub struct PartialList {
    /// The addresses in the valid elements.
    pub addresses: Vec<HeaderAddress>,
    /// The invalid elements, each with the error.
    pub invalid: Vec<(String, String)>,
}

/// Parses each element of the address list `text`, so that an invalid one does not keep mail from
/// the others. Bare names get `domain`.
pub fn parse_each(text: &str, domain: &Domain) -> PartialList {
    let mut list = PartialList::default();
    if let Ok(addresses) = parse(text, domain) {
        list.addresses = addresses;
        return list;
    }
    for element in split_elements(text) {
        match parse(element, domain) {
            Ok(addresses) => list.addresses.extend(addresses),
            Err(error) => list.invalid.push((element.trim().to_owned(), error)),
        }
    }
    list
}

/// Splits a list at its commas and semicolons that are not in quotes or comments. In text with a
/// quote or a comment that has no end, every comma and semicolon counts.
fn split_elements(text: &str) -> Vec<&str> {
    let mut elements = Vec::new();
    let (mut start, mut quoted, mut depth) = (0, false, 0_usize);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth = depth.saturating_sub(1),
            ',' | ';' if !quoted && depth == 0 => {
                elements.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
    }
    let rest = text.get(start..).unwrap_or_default();
    match quoted || depth > 0 {
        true => elements.extend(rest.split([',', ';'])),
        false => elements.push(rest),
    }
    elements
}

/// Parses the address list `text`. Bare names get `domain`. Empty elements are ignored.
///
/// # Errors
/// A text for the author of the list, if it is invalid.
pub fn parse(text: &str, domain: &Domain) -> Result<Vec<HeaderAddress>, String> {
    let tokens = tokenize(text)?;
    let mut found = Vec::new();
    let mut in_group = false;
    let mut rest = tokens.as_slice();
    loop {
        let end = rest.iter().position(|token| token.is_any(b",;:<")).unwrap_or(rest.len());
        let (words, after) = rest.split_at(end);
        let Some((delimiter, mut after)) = after.split_first() else {
            found.extend(parse_address(words, domain)?);
            break;
        };
        match delimiter.kind {
            // The words before it are the name of a group.
            TokenKind::Special(b':') if in_group => return Err("a group within a group".to_owned()),
            TokenKind::Special(b':') => in_group = true,
            // The words before it are a display name.
            TokenKind::Special(b'<') => {
                let close = after.iter().position(|token| token.is_any(b">"));
                let close = close.ok_or("a < without a >")?;
                let (inside, rest) = after.split_at(close);
                found.extend(parse_address(without_route(inside)?, domain)?);
                // What follows is a comment.
                let end = rest.iter().position(|token| token.is_any(b",;"));
                let Some((delimiter, rest)) = end.and_then(|end| rest.get(end..)?.split_first())
                else {
                    break;
                };
                in_group &= delimiter.is_any(b",");
                after = rest;
            }
            _ => {
                found.extend(parse_address(words, domain)?);
                in_group &= delimiter.is_any(b",");
            }
        }
        rest = after;
    }
    Ok(found)
}

/// Parses `local-part [ "@" domain ]`, which must be all of `tokens`. Returns None if there are
/// none.
fn parse_address(tokens: &[Token], own: &Domain) -> Result<Option<HeaderAddress>, String> {
    let Some(last) = tokens.last() else { return Ok(None) };
    let at = tokens.iter().position(|token| token.is_any(b"@"));
    let (local, domain) = match at {
        Some(at) => (tokens.get(..at), tokens.get(at + 1..)),
        None => (Some(tokens), None),
    };
    let local = join_words(local.unwrap_or_default())?;
    let domain = match domain {
        Some(domain) => Domain::parse(&join_words(domain)?).map_err(|e| e.to_string())?,
        None => own.clone(),
    };
    let mailbox = Mailbox::new(&local, domain).map_err(|e| e.to_string())?;
    let domain_missing_at = if at.is_none() { Some(last.end) } else { None };
    Ok(Some(HeaderAddress { mailbox, domain_missing_at }))
}

/// Joins the words of a local-part or a domain, which must have dots between them.
fn join_words(tokens: &[Token]) -> Result<String, String> {
    let mut text = String::new();
    let mut wants_word = true;
    for token in tokens {
        match &token.kind {
            TokenKind::Word(word) if wants_word => text.push_str(word),
            TokenKind::Special(b'.') if !wants_word => text.push('.'),
            TokenKind::Word(word) => {
                return Err(format!("a , or quotes are missing before {word:?}"));
            }
            TokenKind::Special(c) => {
                return Err(format!("a {} in the wrong place", *c as char));
            }
        }
        wants_word = !wants_word;
    }
    if wants_word {
        return Err("a part of the address is missing".to_owned());
    }
    Ok(text)
}

/// Returns the address after the source route in `@one,@two:user@host`.
fn without_route(tokens: &[Token]) -> Result<&[Token], String> {
    if !tokens.first().is_some_and(|token| token.is_any(b"@")) {
        return Ok(tokens);
    }
    let colon = tokens.iter().position(|token| token.is_any(b":"));
    let address = colon.and_then(|colon| tokens.get(colon + 1..));
    address.ok_or_else(|| "a route without a :".to_owned())
}

/// A token of the list, and the position of its end in the text.
#[derive(Debug)]
struct Token {
    kind: TokenKind,
    end: usize,
}

#[derive(Debug)]
enum TokenKind {
    /// An atom, a domain literal with its brackets, or a quoted string without its quotes.
    Word(String),
    /// One of `( ) < > [ ] : ; @ , .`
    Special(u8),
}

impl Token {
    fn is_any(&self, specials: &[u8]) -> bool {
        matches!(self.kind, TokenKind::Special(c) if specials.contains(&c))
    }
}

/// Splits `text` into tokens, without white space and comments.
fn tokenize(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let kind = match c {
            c if c.is_whitespace() => continue,
            '(' => {
                let mut depth = 1;
                while depth > 0 {
                    match chars.next().ok_or("a ( without a )")?.1 {
                        '(' => depth += 1,
                        ')' => depth -= 1,
                        '\\' => drop(chars.next()),
                        _ => {}
                    }
                }
                continue;
            }
            '"' => TokenKind::Word(read_quoted(&mut chars, '"').ok_or("a \" without another")?),
            '[' => {
                let inside = read_quoted(&mut chars, ']').ok_or("a [ without a ]")?;
                TokenKind::Word(format!("[{inside}]"))
            }
            ')' | ']' => return Err(format!("a {c} that ends nothing")),
            '<' | '>' | ':' | ';' | '@' | ',' | '.' => {
                TokenKind::Special(u8::try_from(c).unwrap_or_default())
            }
            c if c.is_control() => return Err("a control character".to_owned()),
            _ => {
                let is_atom =
                    |c: char| !c.is_whitespace() && !c.is_control() && !"()<>[]:;@,.\"".contains(c);
                while chars.next_if(|(_, c)| is_atom(*c)).is_some() {}
                let end = chars.peek().map_or(text.len(), |(end, _)| *end);
                TokenKind::Word(text.get(at..end).unwrap_or_default().to_owned())
            }
        };
        let end = chars.peek().map_or(text.len(), |(end, _)| *end);
        tokens.push(Token { kind, end });
    }
    Ok(tokens)
}

/// Reads the text up to `close`, without backslashes and line ends.
fn read_quoted(chars: &mut impl Iterator<Item = (usize, char)>, close: char) -> Option<String> {
    let mut text = String::new();
    loop {
        match chars.next()?.1 {
            '\\' => text.push(chars.next()?.1),
            '\r' | '\n' => {}
            c if c == close => return Some(text),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let own = Domain::parse("here.example").unwrap();
        let found = parse(text, &own)?;
        Ok(found.iter().map(|address| address.mailbox.to_string()).collect())
    }

    #[test]
    fn lists() {
        for (text, expected) in [
            ("", &[][..]),
            (" , ,\n ", &[]),
            ("a@b", &["a@b"]),
            ("a@b,c@d", &["a@b", "c@d"]),
            (" a@b ,\n\t c@d,", &["a@b", "c@d"]),
            ("root", &["root@here.example"]),
            ("root, a@b", &["root@here.example", "a@b"]),
            ("a.b.c@d.e", &["a.b.c@d.e"]),
            ("a . b @ c . d", &["a.b@c.d"]),
            ("a(x).(y)b@(z)c", &["a.b@c"]),
            ("a+b%c!d=e@f", &["a+b%c!d=e@f"]),
            // Names
            ("J. Smith <js@x>", &["js@x"]),
            ("<js@x>", &["js@x"]),
            ("< js @ x >", &["js@x"]),
            ("<root>", &["root@here.example"]),
            ("\"Smith, J.\" <js@x>, b@y", &["js@x", "b@y"]),
            ("\"a \\\" , b\" <js@x>", &["js@x"]),
            ("=?utf-8?q?J=C3=BCrgen=2C_x?= <j@x>", &["j@x"]),
            ("J\u{fc}rgen <j\u{fc}@x>", &["j\u{fc}@x"]),
            ("a@b <c@d>", &["c@d"]),
            ("<>", &[]),
            ("Nobody <>, a@b", &["a@b"]),
            ("<@a,@b:c@d>", &["c@d"]),
            // Comments
            ("js@x (J. Smith)", &["js@x"]),
            ("(a, (b <c>) \\) d) js@x", &["js@x"]),
            ("(nobody)", &[]),
            // Quoted local-parts and literals
            ("\"a b\"@x", &["\"a b\"@x"]),
            ("\"a,b\"@x", &["\"a,b\"@x"]),
            ("\"a\".b@x", &["a.b@x"]),
            ("\"john doe\"", &["\"john doe\"@here.example"]),
            ("a@[192.0.2.1]", &["a@[192.0.2.1]"]),
            ("a@[IPv6:2001:db8::1], b@c", &["a@[IPv6:2001:db8::1]", "b@c"]),
            // Groups
            ("undisclosed-recipients:;", &[]),
            ("undisclosed-recipients: ;, a@b", &["a@b"]),
            ("g: a@b, C <c@d>; e@f", &["a@b", "c@d", "e@f"]),
            ("g: a@b; h:; i: c@d;", &["a@b", "c@d"]),
            ("My \"G:;\" (x): a@b", &["a@b"]),
            ("g: <a@b>;", &["a@b"]),
            // Beyond the grammar
            ("a@b; c@d", &["a@b", "c@d"]),
            ("<s@x> # v5.10+", &["s@x"]),
            ("<s@x> # 5.4+: abc, <t@y> z", &["s@x", "t@y"]),
            ("a@b,\u{a0}c@d\u{a0}", &["a@b", "c@d"]),
        ] {
            let expected: Vec<String> = expected.iter().map(|text| text.to_string()).collect();
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, why) in [
            ("a b", "missing before \"b\""),
            ("a@b c@d", "missing before \"c\""),
            ("a@", "missing"),
            ("@b", "missing"),
            ("a@b@c", "a @ in"),
            (".a@b", "a . in"),
            ("a..b@c", "a . in"),
            ("a.@c", "missing"),
            ("<a@b", "without a >"),
            ("a@b>", "a > in"),
            ("<@a>", "without a :"),
            ("<a b>", "missing before \"b\""),
            ("\"a@b", "without another"),
            ("(a@b", "without a )"),
            ("a)@b", "ends nothing"),
            ("a@[1.2.3.4", "without a ]"),
            ("a@[1.2.3]", ""),
            ("g: h: a@b;;", "within a group"),
            ("a\0b@c", "control character"),
            ("a@b_c d", "missing before \"d\""),
            ("a@-", ""),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
        assert!(read(&format!("{}@b", "x".repeat(256))).is_err());
    }

    #[test]
    fn one_invalid_element_leaves_the_others() {
        let own = Domain::parse("here.example").unwrap();
        for (text, addresses, invalid) in [
            ("a@b, c@d", &["a@b", "c@d"][..], &[][..]),
            ("foo..bar@x, a@b", &["a@b"], &["foo..bar@x"]),
            ("a@b, \"Smith <s@x>, c@d", &["a@b", "c@d"], &["\"Smith <s@x>"]),
            ("a@b, (c <s@x>, c@d", &["a@b", "c@d"], &["(c <s@x>"]),
            ("a b c, \"x, y\" <d@e>, f@g@h", &["d@e"], &["a b c", "f@g@h"]),
            ("g: a@b, c..d@e; f@g", &["a@b", "f@g"], &["c..d@e"]),
            ("(x, y) a@b, <c@d", &["a@b"], &["<c@d"]),
            ("a\0b@c", &[], &["a\0b@c"]),
        ] {
            let list = parse_each(text, &own);
            let found: Vec<_> = list.addresses.iter().map(|a| a.mailbox.to_string()).collect();
            let wrong: Vec<_> = list.invalid.iter().map(|(element, _)| element.as_str()).collect();
            assert_eq!(
                (found, wrong),
                (addresses.iter().map(|a| a.to_string()).collect(), invalid.to_vec()),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn addresses_read_back(
            words in prop::collection::vec(prop::sample::select(&[
                "a", "b.c", "@", "@d", ".", ",", ";", ":", "<", ">", "<a@b>", "\"", "\\", "(", ")",
                "[", "]", "[1.2.3.4]", " ", "\n ", "\u{fc}", "g:", "\"x y\"", "(x)", "\0",
            ]), 0..20),
        ) {
            let own = Domain::parse("here.example").unwrap();
            let text = words.concat();
            for address in parse(&text, &own).unwrap_or_default() {
                let again = parse(&address.mailbox.to_string(), &own).unwrap();
                prop_assert_eq!(&again[0].mailbox, &address.mailbox);
                prop_assert_eq!((again.len(), again[0].domain_missing_at), (1, None));
                let at = address.domain_missing_at;
                prop_assert!(at.is_none_or(|at| text.is_char_boundary(at)));
            }
        }
    }

    #[test]
    fn missing_domains_are_found() {
        let own = Domain::parse("here.example").unwrap();
        for text in
            ["root", " root ", "Root <root>", "\"a b\" (x)", "a@b, root (Cron), c@d", "g:a;"]
        {
            let mut completed = text.to_owned();
            let found = parse(text, &own).unwrap();
            for at in found.iter().rev().filter_map(|address| address.domain_missing_at) {
                completed.insert_str(at, "@here.example");
            }
            assert_ne!(completed, text);
            let again = parse(&completed, &own).unwrap();
            assert!(again.iter().all(|a| a.domain_missing_at.is_none()), "{completed}");
            let mailboxes = |list: &[HeaderAddress]| {
                list.iter().map(|address| address.mailbox.clone()).collect::<Vec<_>>()
            };
            assert_eq!(mailboxes(&again), mailboxes(&found), "{completed}");
        }
    }
}
