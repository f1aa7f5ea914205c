//! Address lists as people and programs write them in headers and on command lines (RFC 5322 3.4,
//! with what 4.4 calls obsolete).
//!
//! ```text
//! "Smith, J." <js@example.org> (home), undisclosed: a@b, "c d"@[192.0.2.1];, root
//! ```
//! Display names, comments, groups' names and source routes are read and dropped. A bare name,
//! `root`, is one of the host's own domain. Encoded words (RFC 2047) stand in names and comments
//! alone, so that nobody has to look into them.

use crate::smtp::{Domain, Mailbox};

/// One address of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderAddress {
    /// Whose it is, with the host's domain if it had none.
    pub mailbox: Mailbox,
    /// Where in the text the domain is missing, if it is.
    pub bare_at: Option<usize>,
}

/// All addresses of the list `text`; `domain` is that of bare names. Empty elements are passed
/// over.
///
/// # Errors
/// What is wrong, in words for a person.
pub fn parse(text: &str, domain: &Domain) -> Result<Vec<HeaderAddress>, String> {
    let tokens = tokens(text)?;
    let mut found = Vec::new();
    let mut in_group = false;
    let mut rest = tokens.as_slice();
    loop {
        let end = rest.iter().position(|token| token.is_any(b",;:<")).unwrap_or(rest.len());
        let (words, behind) = rest.split_at(end);
        let Some((delimiter, mut behind)) = behind.split_first() else {
            found.extend(address(words, domain)?);
            break;
        };
        match delimiter.kind {
            // What stands before is the name of a group.
            TokenKind::Special(b':') if in_group => return Err("a group within a group".to_owned()),
            TokenKind::Special(b':') => in_group = true,
            TokenKind::Special(b';') if !in_group => {
                return Err("a ; that ends no group".to_owned());
            }
            // What stands before is a display name.
            TokenKind::Special(b'<') => {
                let close = behind.iter().position(|token| token.is_any(b">"));
                let close = close.ok_or("a < without a >")?;
                let (inside, after) = behind.split_at(close);
                found.extend(address(without_route(inside)?, domain)?);
                behind = after.get(1..).unwrap_or_default();
                match behind.first() {
                    None => break,
                    Some(token) if token.is_any(b",;") => {
                        in_group &= token.is_any(b",");
                        behind = behind.get(1..).unwrap_or_default();
                    }
                    Some(_) => return Err("something behind a >".to_owned()),
                }
            }
            _ => {
                found.extend(address(words, domain)?);
                in_group &= delimiter.is_any(b",");
            }
        }
        rest = behind;
    }
    Ok(found)
}

/// `local-part [ "@" domain ]`, all of `tokens`; None if there are none.
fn address(tokens: &[Token], own: &Domain) -> Result<Option<HeaderAddress>, String> {
    let Some(last) = tokens.last() else { return Ok(None) };
    let at = tokens.iter().position(|token| token.is_any(b"@"));
    let (local, domain) = match at {
        Some(at) => (tokens.get(..at), tokens.get(at + 1..)),
        None => (Some(tokens), None),
    };
    let local = words(local.unwrap_or_default())?;
    let domain = match domain {
        Some(domain) => Domain::parse(&words(domain)?).map_err(|e| e.to_string())?,
        None => own.clone(),
    };
    let mailbox = Mailbox::new(&local, domain).map_err(|e| e.to_string())?;
    Ok(Some(HeaderAddress { mailbox, bare_at: at.is_none().then_some(last.end) }))
}

/// The words of a local-part or a domain, dots between.
fn words(tokens: &[Token]) -> Result<String, String> {
    let mut text = String::new();
    let mut wants_word = true;
    for token in tokens {
        match &token.kind {
            TokenKind::Word(word) if wants_word => text.push_str(word),
            TokenKind::Special(b'.') if !wants_word => text.push('.'),
            TokenKind::Word(word) => {
                return Err(format!("a , or quotes are missing before {word:?}"));
            }
            TokenKind::Special(octet) => {
                return Err(format!("a {} in a strange place", *octet as char));
            }
        }
        wants_word = !wants_word;
    }
    match wants_word {
        true => Err("a part of the address is missing".to_owned()),
        false => Ok(text),
    }
}

/// `@one,@two:user@host` without what leads there.
fn without_route(tokens: &[Token]) -> Result<&[Token], String> {
    if !tokens.first().is_some_and(|token| token.is_any(b"@")) {
        return Ok(tokens);
    }
    let colon = tokens.iter().position(|token| token.is_any(b":"));
    let behind = colon.and_then(|colon| tokens.get(colon + 1..));
    behind.ok_or_else(|| "a route without a :".to_owned())
}

/// What an address is made of, and where it ends in the text.
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
        matches!(self.kind, TokenKind::Special(octet) if specials.contains(&octet))
    }
}

/// The tokens of `text`, white space and comments left out.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let kind = match c {
            ' ' | '\t' | '\r' | '\n' => continue,
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
            '"' => TokenKind::Word(quoted(&mut chars, '"').ok_or("a \" without another")?),
            '[' => {
                let inside = quoted(&mut chars, ']').ok_or("a [ without a ]")?;
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

/// What stands before `close`, backslashes and folds taken off.
fn quoted(chars: &mut impl Iterator<Item = (usize, char)>, close: char) -> Option<String> {
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
        ] {
            let expected: Vec<String> = expected.iter().map(|text| text.to_string()).collect();
            assert_eq!(read(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_says_why() {
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
            ("<a@b> c", "behind a >"),
            ("<@a>", "without a :"),
            ("<a b>", "missing before \"b\""),
            ("\"a@b", "without another"),
            ("(a@b", "without a )"),
            ("a)@b", "ends nothing"),
            ("a@[1.2.3.4", "without a ]"),
            ("a@[1.2.3]", ""),
            ("a;b", "ends no group"),
            ("g: h: a@b;;", "within a group"),
            ("a\0b@c", "control character"),
            ("a@b_c d", "missing before \"d\""),
            ("a@-", ""),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{text:?}: {said}");
        }
        assert!(read(&format!("{}@b", "x".repeat(65))).is_err());
    }

    proptest! {
        #[test]
        fn what_is_found_reads_back(
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
                prop_assert_eq!((again.len(), again[0].bare_at), (1, None));
                prop_assert!(address.bare_at.is_none_or(|at| text.is_char_boundary(at)));
            }
        }
    }

    #[test]
    fn where_a_domain_is_missing() {
        let own = Domain::parse("here.example").unwrap();
        for text in
            ["root", " root ", "Root <root>", "\"a b\" (x)", "a@b, root (Cron), c@d", "g:a;"]
        {
            let mut completed = text.to_owned();
            let found = parse(text, &own).unwrap();
            for at in found.iter().rev().filter_map(|address| address.bare_at) {
                completed.insert_str(at, "@here.example");
            }
            assert_ne!(completed, text);
            let again = parse(&completed, &own).unwrap();
            assert!(again.iter().all(|address| address.bare_at.is_none()), "{completed}");
            let mailboxes = |list: &[HeaderAddress]| {
                list.iter().map(|address| address.mailbox.clone()).collect::<Vec<_>>()
            };
            assert_eq!(mailboxes(&again), mailboxes(&found), "{completed}");
        }
    }
}
