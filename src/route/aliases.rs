//! aliases(5): the format, and a table of it.
//!
//! ```text
//! # A comment has a line of its own; blank lines mean nothing.
//! postmaster:    root
//! root:          alice, bob            several targets
//!     carol                            a line that begins with a blank continues the one before
//! "Fred Smith":  fred                  quoted names, on both sides
//! sales@example.org: dave              one domain's only; goes before `sales:`
//! staff:         :include:/etc/mail/staff, "mary ann"@example.com
//! alice:         alice, \bob           alice's own mailbox, and the user bob whatever his alias is
//! ```
//!
//! - A name is matched without regard to case. The first of two equal names counts.
//! - A target is a name, `user@host`, `Full Name <user@host>`, `\user` (the user, no alias), or
//!   `:include:/file`, a file that holds targets in the same form without `name:`. `(Comments)`
//!   may stand between.
//! - `|program`, `/file` and `:fail:` targets are not supported: mail goes into mailboxes.
//!
//! Nothing a client sends is ever read by this parser (hazard: programs as addresses from
//! strangers). What is wrong in one line costs that line only: a target that cannot be used is kept
//! as [`AliasTarget::Invalid`], so that mail for its alias is put off and not refused or misdelivered.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::users::is_hidden;
use crate::smtp::Mailbox;

/// One thing an alias leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasTarget {
    /// `bob`: an alias or a user of this host.
    Name(String),
    /// `bob@example.org`, here or elsewhere.
    Mailbox(Mailbox),
    /// `\bob`: the user, even if there is an alias of that name.
    User(String),
    /// `:include:/file`
    Include(PathBuf),
    /// Cannot be used.
    Invalid {
        /// As it stands in the file, escaped and cut short.
        text: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A target and the line it stands in, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasItem {
    /// The line.
    pub line: usize,
    /// What stands there.
    pub target: AliasTarget,
}

/// One alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasEntry {
    /// The name as written, unquoted if it is a name alone.
    pub name: String,
    /// For `user@host`: both, parsed.
    pub mailbox: Option<Mailbox>,
    /// The line it begins in, counted from 1.
    pub line: usize,
    /// What it leads to; may be empty.
    pub items: Vec<AliasItem>,
}

/// All aliases of one file.
#[derive(Debug, Default)]
pub struct Aliases {
    /// The file, for messages.
    pub path: PathBuf,
    /// In the order of the file.
    pub entries: Vec<AliasEntry>,
    /// Lines that are no alias, and second aliases of a name, with their line numbers.
    pub complaints: Vec<(usize, String)>,
    by_name: HashMap<String, usize>,
    /// `user@host`. Apart from the names, so that the name `"user@host"` (a quoted local-part, as a
    /// client may send it) never matches the mailbox user@host.
    by_mailbox: HashMap<String, usize>,
}

impl Aliases {
    /// The aliases in `text`, which was read from `path`. Any octets will do: what is not an alias
    /// becomes a complaint.
    pub fn parse(path: &Path, text: &[u8]) -> Aliases {
        let mut aliases = Aliases { path: path.to_owned(), ..Aliases::default() };
        let text = String::from_utf8_lossy(text);
        for (line, text) in logical_lines(&text) {
            match entry(line, &text) {
                Ok(entry) => aliases.add(entry),
                Err(why) => aliases.complaints.push((line, why)),
            }
        }
        aliases
    }

    /// The index of the alias for `name` at `host`: that of `name@host` first.
    pub fn find(&self, name: &str, host: &str) -> Option<usize> {
        // Most files have no such entry; then no key need be made.
        let exact = || self.by_mailbox.get(&mailbox_key(name, host)).copied();
        (!self.by_mailbox.is_empty())
            .then(exact)
            .flatten()
            .or_else(|| self.by_name.get(&name.to_lowercase()).copied())
    }

    fn add(&mut self, entry: AliasEntry) {
        let (map, key) = match &entry.mailbox {
            Some(m) => (&mut self.by_mailbox, mailbox_key(m.local(), &m.domain().to_ascii())),
            None => (&mut self.by_name, entry.name.to_lowercase()),
        };
        match map.get(&key).and_then(|first| self.entries.get(*first)) {
            Some(first) => self.complaints.push((
                entry.line,
                format!("a second alias `{}`; the one in line {} counts", entry.name, first.line),
            )),
            None => {
                map.insert(key, self.entries.len());
                self.entries.push(entry);
            }
        }
    }
}

/// The targets in `text`, the content of an `:include:` file.
pub fn parse_include(text: &[u8]) -> Vec<AliasItem> {
    let text = String::from_utf8_lossy(text);
    logical_lines(&text).into_iter().flat_map(|(line, text)| items(line, &text)).collect()
}

/// As it would stand in the file.
impl fmt::Display for AliasTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AliasTarget::Name(name) => f.write_str(name),
            AliasTarget::Mailbox(mailbox) => mailbox.fmt(f),
            AliasTarget::User(name) => write!(f, "\\{name}"),
            AliasTarget::Include(path) => write!(f, ":include:{}", path.display()),
            AliasTarget::Invalid { text, .. } => f.write_str(text),
        }
    }
}

/// Lines joined with those that continue them, each with the number of its first. The line ends
/// within stay, so that a part's own line can be told; comments within are left empty.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.split('\n')) {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let content = line.trim_start_matches([' ', '\t']);
        let empty = content.is_empty() || content.starts_with('#');
        match lines.last_mut() {
            Some((_, before)) if empty => before.push('\n'),
            Some((_, before)) if content.len() < line.len() => {
                before.push('\n');
                before.push_str(line);
            }
            _ if empty => {}
            _ => lines.push((number, line.to_owned())),
        }
    }
    lines
}

/// `name: targets`
fn entry(line: usize, text: &str) -> Result<AliasEntry, String> {
    let colon =
        outside_quotes(text, ':').ok_or_else(|| format!("no colon in `{}`", shown(text)))?;
    let (name, rest) = text.split_at(colon);
    // Line ends before the colon count for the line numbers behind it.
    let first = line + name.matches('\n').count();
    let (name, rest) = (name.trim(), rest.strip_prefix(':').unwrap_or(rest));
    let (name, mailbox) = match target(name) {
        AliasTarget::Name(name) => (name, None),
        AliasTarget::Mailbox(mailbox) => (name.to_owned(), Some(mailbox)),
        AliasTarget::Invalid { text, why } => return Err(format!("`{text}` {why}")),
        AliasTarget::User(_) | AliasTarget::Include(_) => {
            return Err(format!("`{}` cannot be the name of an alias", shown(name)));
        }
    };
    let mut items = items(first, rest);
    if items.is_empty() {
        let (text, why) = (String::new(), "leads nowhere".to_owned());
        items.push(AliasItem { line, target: AliasTarget::Invalid { text, why } });
    }
    Ok(AliasEntry { name, mailbox, line, items })
}

/// The targets of a list with commas between, comments taken out.
fn items(mut line: usize, text: &str) -> Vec<AliasItem> {
    let mut items = Vec::new();
    let mut raw = String::new();
    let mut raw_line = line;
    let (mut begun, mut quoted, mut depth) = (false, false, 0_usize);
    let mut octets = text.chars();
    let mut end = |raw: &mut String, line: usize| {
        if !raw.trim().is_empty() {
            items.push(AliasItem { line, target: target(raw.trim()) });
        }
        raw.clear();
    };
    while let Some(c) = octets.next() {
        if !begun {
            raw_line = line;
        }
        begun |= depth == 0 && !c.is_whitespace() && c != '(' && c != ',';
        match c {
            '\n' => line += 1,
            '\\' if depth > 0 => {
                octets.next();
                continue;
            }
            '\\' => {
                raw.push(c);
                raw.extend(octets.next());
                continue;
            }
            '"' if depth == 0 => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if depth > 0 => {
                depth -= 1;
                continue;
            }
            ',' if !quoted && depth == 0 => {
                end(&mut raw, raw_line);
                begun = false;
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            raw.push(if c == '\n' { ' ' } else { c });
        }
    }
    if depth > 0 {
        raw.push('(');
    }
    end(&mut raw, raw_line);
    items
}

/// One target, without the blanks around it.
fn target(text: &str) -> AliasTarget {
    let wrong = |why: &str| AliasTarget::Invalid { text: shown(text), why: why.to_owned() };
    // `Full Name <user@host>`
    let text = match text.strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
        Some((_, inner)) => inner.trim(),
        None => text,
    };
    let unquoted = unquote(text);
    let plain = unquoted.as_deref().unwrap_or(text);
    if plain.is_empty() {
        return wrong("is empty");
    }
    if plain.chars().any(|c| c != ' ' && is_hidden(c)) {
        return wrong("is not printable ASCII or UTF-8");
    }
    if plain.starts_with('|') {
        return wrong("is a program, and mailslot runs none");
    }
    if plain.starts_with('/') {
        return wrong("is a file, and mailslot delivers to mailboxes only");
    }
    if let Some(path) = strip_include(plain) {
        return match Path::new(path) {
            path if path.is_absolute() => AliasTarget::Include(path.to_owned()),
            _ => wrong("is not the full path of a file"),
        };
    }
    if plain.starts_with(':') || strip_prefix_ignore_case(plain, "error:").is_some() {
        return wrong("is a directive that mailslot does not have");
    }
    if unquoted.is_some() {
        return match plain.len() {
            0..=NAME_MAX => AliasTarget::Name(plain.to_owned()),
            _ => wrong("is too long for a name"),
        };
    }
    if let Some(user) = text.strip_prefix('\\') {
        return match is_bare_name(user) {
            true => AliasTarget::User(user.to_owned()),
            false => wrong("is not `\\` and a user name"),
        };
    }
    if outside_quotes(text, '@').is_some() {
        return match Mailbox::parse(text) {
            Ok(mailbox) => AliasTarget::Mailbox(mailbox),
            Err(e) => wrong(&format!("is not an address: {}", e.0)),
        };
    }
    match is_bare_name(text) {
        true => AliasTarget::Name(text.to_owned()),
        false => wrong("is not a name (quotes around it? a comma or a line of its own?)"),
    }
}

/// A name that needs no quotes.
fn is_bare_name(text: &str) -> bool {
    let special = |c: char| c.is_control() || c.is_whitespace() || "\"\\(),:;<>@".contains(c);
    (1..=NAME_MAX).contains(&text.len()) && !text.contains(special)
}

/// `:include:/file`, in any case, with or without a blank before the file.
fn strip_include(text: &str) -> Option<&str> {
    strip_prefix_ignore_case(text, ":include:").map(str::trim)
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// What is between the quotes, if `text` is one quoted string and nothing else; `\x` becomes `x`.
fn unquote(text: &str) -> Option<String> {
    let mut inside = text.strip_prefix('"')?.chars();
    let mut plain = String::new();
    loop {
        match inside.next()? {
            '"' => return inside.as_str().is_empty().then_some(plain),
            '\\' => plain.push(inside.next()?),
            c => plain.push(c),
        }
    }
}

/// Where `wanted` first stands outside of quotes.
fn outside_quotes(text: &str, wanted: char) -> Option<usize> {
    let mut quoted = false;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '"' => quoted = !quoted,
            c if c == wanted && !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Unique: a domain, here in ASCII, holds no `@`, so the last one parts the two.
fn mailbox_key(local: &str, host: &str) -> String {
    format!("{local}@{host}").to_lowercase()
}

/// `text` for a message: on one line, what is not printable ASCII escaped, not too much of it.
fn shown(text: &str) -> String {
    let mut shown = String::new();
    for (n, c) in text.trim().chars().enumerate() {
        match c {
            _ if n == SHOWN_MAX => {
                shown.push_str("...");
                break;
            }
            ' '..='~' => shown.push(c),
            _ => shown.extend(c.escape_default()),
        }
    }
    shown
}

/// The longest name, in octets (a local-part: RFC 5321 4.5.3.1.1).
const NAME_MAX: usize = 64;

/// The most characters of a faulty line that a message repeats.
const SHOWN_MAX: usize = 60;
