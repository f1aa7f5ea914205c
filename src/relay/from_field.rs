//! Another address in the From field of a message that leaves, with the old one in Reply-To.
//!
//! ```text
//! From: Jones <jones@here.example>      From: Jones <j.jones@provider.example>
//!                                       Reply-To: jones@here.example
//! ```
//! Names and comments stay. A field with several addresses, or with one that cannot be parsed,
//! stays as it is. Reply-To is added only if the message has none.

use std::io::{self, Cursor, Read};
use std::ops::Range;

use crate::smtp::{Domain, Mailbox};

/// Returns `content`, lines with LF and the header first, with the address of its From field
/// replaced by that which `replacement` returns, if it returns one. A bare name in the field
/// belongs to `domain`. At most [`HEADER_MAX`] bytes of the header are held in memory and examined.
///
/// # Errors
/// The content cannot be read.
pub fn replace_address<R: Read>(
    mut content: R,
    domain: &Domain,
    replacement: &dyn Fn(&Mailbox) -> Option<Mailbox>,
) -> io::Result<impl Read + use<R>> {
    let mut start = Vec::new();
    let mut read = 1;
    while read > 0 && start.len() < HEADER_MAX && header_end(&start).is_none() {
        read = content.by_ref().take(BLOCK_SIZE).read_to_end(&mut start)?;
    }
    let whole_lines = || memchr::memrchr(b'\n', &start).map_or(0, |at| at + 1);
    let end = header_end(&start).unwrap_or_else(whole_lines);
    if let Some((range, field)) =
        replace_in_header(start.get(..end).unwrap_or_default(), domain, replacement)
    {
        start.splice(range, field.into_bytes());
    }
    Ok(Cursor::new(start).chain(content))
}

/// Returns the position of the empty line that ends the header.
fn header_end(start: &[u8]) -> Option<usize> {
    match start.first() {
        Some(b'\n') => Some(0),
        _ => memchr::memmem::find(start, b"\n\n").map(|at| at + 1),
    }
}

/// Returns the new From field, and Reply-To if it is to be added, in place of the bytes in a range
/// of `header`.
fn replace_in_header(
    header: &[u8],
    domain: &Domain,
    replacement: &dyn Fn(&Mailbox) -> Option<Mailbox>,
) -> Option<(Range<usize>, String)> {
    let mut from = None;
    let mut has_reply_to = false;
    for range in fields(header) {
        let field = header.get(range.clone())?;
        let colon = memchr::memchr(b':', field)?;
        let name = field.get(..colon)?.trim_ascii_end();
        if name.eq_ignore_ascii_case(b"Reply-To") {
            has_reply_to = true;
        } else if name.eq_ignore_ascii_case(b"From") && from.is_none() {
            from = Some((range, colon + 1));
        }
    }
    let (range, value_at) = from?;
    let field = std::str::from_utf8(header.get(range.clone())?).ok()?;
    let value = field.get(value_at..)?;
    let address = find_address(value)?;
    let text = value.get(address.clone())?;
    let old = match Mailbox::parse(text) {
        Err(_) if !text.contains('@') => Mailbox::new(text, domain.clone()),
        parsed => parsed,
    };
    let old = old.ok()?;
    let new = replacement(&old)?;
    let (before, after) = (field.get(..value_at + address.start)?, value.get(address.end..)?);
    let reply_to = if has_reply_to { String::new() } else { format!("Reply-To: {old}\n") };
    Some((range, format!("{before}{new}{after}{reply_to}")))
}

/// Returns the ranges of the fields of `header`, each with its folded lines.
fn fields(header: &[u8]) -> Vec<Range<usize>> {
    let mut fields: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for line in header.split_inclusive(|byte| *byte == b'\n') {
        let end = at + line.len();
        match fields.last_mut() {
            Some(field) if matches!(line.first(), Some(b' ' | b'\t')) => field.end = end,
            _ => fields.push(at..end),
        }
        at = end;
    }
    fields
}

/// Returns the range of the only address in the value of a From field, without angle brackets.
fn find_address(value: &str) -> Option<Range<usize>> {
    // The text outside of comments and quotes decides.
    let (mut quoted, mut depth) = (false, 0_usize);
    let (mut open, mut close) = (None, None);
    let (mut first, mut last) = (None, 0);
    let mut chars = value.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if quoted || depth > 0 => drop(chars.next()),
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => {
                depth = depth.checked_sub(1)?;
                continue;
            }
            '<' if !quoted && depth == 0 && open.is_none() => open = Some(at + 1),
            '>' if !quoted && depth == 0 && open.is_some() && close.is_none() => close = Some(at),
            '<' | '>' | ',' | ';' if !quoted && depth == 0 => return None,
            _ => {}
        }
        if depth == 0 && !c.is_whitespace() {
            first = first.or(Some(at));
            last = at + c.len_utf8();
        }
    }
    let (start, end) = match (open, close) {
        _ if quoted || depth > 0 => return None,
        (Some(open), Some(close)) => (open, close),
        (None, None) => (first?, last),
        _ => return None,
    };
    let text = value.get(start..end)?;
    let start = start + (text.len() - text.trim_start().len());
    Some(start..start + text.trim().len())
}

/// Maximum number of bytes of the header that are examined.
pub const HEADER_MAX: usize = 64 * 1024;
/// Number of bytes that are read at once.
const BLOCK_SIZE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(content: &[u8]) -> String {
        let domain = Domain::parse("here.example").unwrap();
        let replacement = |old: &Mailbox| {
            let is_local = old.domain().to_string() == "here.example";
            is_local.then(|| Mailbox::parse("me@provider.example").unwrap())
        };
        let mut reader = replace_address(content, &domain, &replacement).unwrap();
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[test]
    fn address_is_replaced_and_the_name_stays() {
        for (before, after) in [
            ("From: jones@here.example", "From: me@provider.example"),
            ("from : <jones@here.example>", "from : <me@provider.example>"),
            ("From: \"a <b>\" < jones@here.example >", "From: \"a <b>\" < me@provider.example >"),
            ("From: Al Jones\n <jones@here.example>", "From: Al Jones\n <me@provider.example>"),
            ("From: jones@here.example (Al, (jr))", "From: me@provider.example (Al, (jr))"),
            ("From: (Al) jones@here.example", "From: (Al) me@provider.example"),
            ("From: jones (Cron Daemon)", "From: me@provider.example (Cron Daemon)"),
            ("From: J\u{fc}rgen <jones>", "From: J\u{fc}rgen <me@provider.example>"),
        ] {
            let text = format!("Received: x\n y\n{before}\nTo: a@b\n\nFrom: jones\n");
            let reply_to = "Reply-To: jones@here.example";
            let expected =
                format!("Received: x\n y\n{after}\n{reply_to}\nTo: a@b\n\nFrom: jones\n");
            assert_eq!(replaced(text.as_bytes()), expected);
            let with_reply_to = format!("reply-to: x@y\n{text}");
            let expected = format!("reply-to: x@y\n{}", text.replace(before, after));
            assert_eq!(replaced(with_reply_to.as_bytes()), expected);
        }
    }

    #[test]
    fn other_messages_stay() {
        for text in [
            &b""[..],
            b"\n",
            b"\nFrom: jones@here.example\n",
            b"To: a@b\n\nFrom: jones@here.example\n",
            b"From: jones@there.example\n\n",
            b"From: jones@here.example, smith@here.example\n\n",
            b"From: jones@here.example> <x\n\n",
            b"From: \"jones@here.example\n\n",
            b"From: jones@here.example)\n\n",
            b"From: (jones@here.example\n\n",
            b"From: <>\n\n",
            b"From:\n\n",
            b"no field\nFrom: jones@here.example\n\n",
            b"Subject: \xff\nFrom: \xff <jones@here.example>\n\n",
        ] {
            assert_eq!(replaced(text), String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn long_header_is_examined_up_to_a_limit() {
        let filler = "X: y\n".repeat(HEADER_MAX);
        let first = format!("From: jones\n{filler}\nbody\n");
        let text = replaced(first.as_bytes());
        assert!(text.starts_with("From: me@provider.example\nReply-To: "), "{}", &text[..80]);
        assert!(text.ends_with(&filler[..1000]) || text.ends_with("X: y\n\nbody\n"));
        let last = format!("{filler}From: jones\n\nbody\n");
        assert_eq!(replaced(last.as_bytes()), last);
    }
}
