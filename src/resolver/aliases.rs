//! The format of aliases(5), and the table of a file's aliases.
//!
//! ```text
//! # A comment takes a whole line. Blank lines have no meaning.
//! postmaster:    root
//! root:          alice, bob            several targets
//!     carol                            a line that begins with a blank continues the line before
//! "Fred Smith":  fred                  quoted names, on both sides
//! sales@example.org: dave              for one domain; takes precedence over `sales:`
//! staff:         :include:/etc/mail/staff, "mary ann"@example.com
//! alice:         alice, \bob           alice's own mailbox, and bob's even if bob is an alias
//! ```
//!
//! - Names are compared without regard to case. Of two equal names the first is used.
//! - A target is a name, `user@host`, `Full Name <user@host>`, `\user` (the user, not an alias), or
//!   `:include:/file`, a file that holds targets in the same form without `name:`. `(Comments)`
//!   are allowed between them.
//! - There is no catch-all: `*` and `default` are names like others.
//! - `/dev/null` throws mail away. `|program`, other files and `:fail:` are not supported, because
//!   mail is delivered to mailboxes only. Mail for such an alias is rejected permanently.
//!
//! This parser never reads input from a client, so that a client cannot name a program. An error in
//! one line affects that line only. A target with an error is kept as [`AliasTarget::Invalid`], so
//! that mail for its alias is deferred, and not refused or delivered to the wrong mailbox.
//!
//! All lines are parsed once, for their errors. Only the text and the places of the aliases in it
//! stay in memory, 12 bytes for each, and an alias is parsed again when it is used. Parsed aliases
//! would take twelve times the memory of the text.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use super::users::is_hidden;
use crate::smtp::Mailbox;

/// One target of an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AliasTarget {
    /// `bob`: an alias or a user of this host.
    Name(String),
    /// `bob@example.org`, on this host or another.
    Mailbox(Mailbox),
    /// `\bob`: the user, even if there is an alias of that name.
    User(String),
    /// `:include:/file`
    Include(PathBuf),
    /// `/dev/null`: mail is thrown away.
    Null,
    /// A target of a kind that mailslot does not deliver to.
    Unsupported {
        /// The text in the file, escaped and truncated.
        text: String,
        /// The kind of target.
        kind: UnsupportedTarget,
    },
    /// A target that cannot be used.
    Invalid {
        /// The text in the file, escaped and truncated.
        text: String,
        /// The error, to follow the text: "is empty".
        error: String,
    },
}

/// A kind of target that other mail servers deliver to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsupportedTarget {
    /// `|program`
    Program,
    /// `/file`
    File,
    /// `:fail:`, `error:` and the like.
    Directive,
}

impl UnsupportedTarget {
    /// Returns why mail is rejected, to follow the target in a sentence.
    pub fn reason(self) -> &'static str {
        match self {
            UnsupportedTarget::Program => "is a program, and mailslot runs none",
            UnsupportedTarget::File => "is a file, and mailslot delivers to mailboxes only",
            UnsupportedTarget::Directive => "is a directive that mailslot does not support",
        }
    }

    /// Returns advice to the administrator.
    pub fn alternative(self) -> &'static str {
        match self {
            UnsupportedTarget::Program => {
                "let the alias lead to a user, and let cron run the program on that user's mailbox"
            }
            UnsupportedTarget::File => {
                "let the alias lead to a user with a mailbox file; /dev/null throws mail away"
            }
            UnsupportedTarget::Directive => {
                "remove the alias, so that mail for the name is rejected; /dev/null throws it away"
            }
        }
    }
}

/// A target and its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasItem {
    /// Counted from 1.
    pub line: usize,
    /// The target on that line.
    pub target: AliasTarget,
}

/// An alias and its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AliasEntry {
    /// The name as written; without quotes if it has no domain.
    pub name: String,
    /// The parsed name if it has a domain.
    pub mailbox: Option<Mailbox>,
    /// First line of the entry, counted from 1.
    pub line: usize,
    /// Targets, at least one.
    pub items: Vec<AliasItem>,
}

/// All aliases of one file.
#[derive(Debug, Default)]
pub struct Aliases {
    /// The file, for messages.
    pub path: PathBuf,
    /// Line numbers and errors of lines that are no alias, or a second alias of a name.
    pub errors: Vec<(usize, String)>,
    /// The files that the aliases include, in the order of the file.
    pub included: Vec<PathBuf>,
    text: String,
    /// The aliases, sorted by the hashes of their keys.
    places: Vec<AliasPlace>,
    /// Whether there is an alias for `user@host`.
    has_mailbox: bool,
}

/// The place of an alias in the text. Places are ordered as in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AliasPlace {
    at: u32,
    line: u32,
    hash: u32,
}

impl AliasPlace {
    /// Returns the first line of the alias, counted from 1.
    pub fn line(self) -> usize {
        self.line as usize
    }
}

impl Aliases {
    /// Parses `text`, which was read from `path`. It may hold any bytes: a line that is not an
    /// alias becomes a error.
    pub fn parse(path: &Path, text: Vec<u8>) -> Aliases {
        let text = String::from_utf8(text)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        let mut aliases = Aliases { path: path.to_owned(), text, ..Aliases::default() };
        for (line, at) in logical_lines(&aliases.text) {
            match parse_entry(line, &join_lines(aliases.text.get(at..).unwrap_or_default())) {
                Ok(entry) => {
                    aliases.has_mailbox |= entry.mailbox.is_some();
                    aliases.included.extend(entry.items.into_iter().filter_map(AliasItem::include));
                    let hash = crc32fast::hash(entry_key(&entry.name, &entry.mailbox).as_bytes());
                    aliases.places.push(AliasPlace { at: at as u32, line: line as u32, hash });
                }
                Err(error) => aliases.errors.push((line, error)),
            }
        }
        aliases.places.sort_unstable_by_key(|place| (place.hash, place.at));
        aliases.remove_second_aliases();
        aliases.places.shrink_to_fit();
        aliases
    }

    /// Returns the place of the alias for `name` at `host`. An alias for `name@host` takes
    /// precedence.
    pub fn find(&self, name: &str, host: &str) -> Option<AliasPlace> {
        // Most files have no alias with a domain, and then a lookup allocates no key for one.
        if self.has_mailbox
            && let Some(place) = self.find_key(&mailbox_key(name, host), true)
        {
            return Some(place);
        }
        self.find_key(&name.to_lowercase(), false)
    }

    /// Returns the alias at `place`, which [`find`](Aliases::find) returned.
    pub fn entry(&self, place: AliasPlace) -> Option<AliasEntry> {
        let text = self.text.get(place.at as usize..)?;
        parse_entry(place.line(), &join_lines(text)).ok()
    }

    /// Returns the name of the alias at `place`, as [`AliasEntry`] has it.
    pub fn name(&self, place: AliasPlace) -> String {
        let text = join_lines(self.text.get(place.at as usize..).unwrap_or_default());
        parse_name(&text).map(|(name, ..)| name).unwrap_or_default()
    }

    /// Returns the places of all aliases in the order of the file.
    pub fn places(&self) -> impl Iterator<Item = AliasPlace> {
        let mut places = self.places.clone();
        places.sort_unstable();
        places.into_iter()
    }

    /// Returns all aliases in the order of the file.
    pub fn entries(&self) -> impl Iterator<Item = (AliasPlace, AliasEntry)> {
        self.places().filter_map(|place| Some((place, self.entry(place)?)))
    }

    /// Finds the first alias with this key. Aliases for `user@host` are separate from the names, so
    /// that the name `"user@host"`, a quoted local-part that a client may send, never matches the
    /// mailbox user@host.
    fn find_key(&self, key: &str, is_mailbox: bool) -> Option<AliasPlace> {
        let hash = crc32fast::hash(key.as_bytes());
        let first = self.places.partition_point(|place| place.hash < hash);
        let same = self.places.get(first..)?.iter().take_while(|place| place.hash == hash);
        same.copied().find(|place| {
            self.key_of(*place)
                .is_some_and(|(found, mailbox)| (&*found, mailbox) == (key, is_mailbox))
        })
    }

    /// Returns the key of the alias at `place`, and whether it is for `user@host`.
    fn key_of(&self, place: AliasPlace) -> Option<(String, bool)> {
        let text = join_lines(self.text.get(place.at as usize..)?);
        let (name, mailbox, _) = parse_name(&text).ok()?;
        Some((entry_key(&name, &mailbox), mailbox.is_some()))
    }

    /// Removes each alias with the key of an earlier one, and adds a error. Equal keys have
    /// equal hashes, and so are neighbours or nearly so.
    fn remove_second_aliases(&mut self) {
        let mut kept: Vec<AliasPlace> = Vec::with_capacity(self.places.len());
        for place in std::mem::take(&mut self.places) {
            let same = kept.iter().rev().take_while(|first| first.hash == place.hash);
            let key = same.clone().next().and_then(|_| self.key_of(place));
            let first = key.and_then(|key| {
                same.copied().find(|first| self.key_of(*first).as_ref() == Some(&key))
            });
            let Some(first) = first else {
                kept.push(place);
                continue;
            };
            let (name, first) = (self.name(place), first.line);
            let text = format!("a second alias `{name}`; the one in line {first} is used");
            self.errors.push((place.line(), text));
        }
        self.places = kept;
        self.errors.sort_by_key(|(line, _)| *line);
    }
}

impl AliasItem {
    /// Returns the file that the target includes.
    fn include(self) -> Option<PathBuf> {
        match self.target {
            AliasTarget::Include(path) => Some(path),
            _ => None,
        }
    }
}

/// Parses the content of an `:include:` file.
pub fn parse_include(text: &[u8]) -> Vec<AliasItem> {
    let text = String::from_utf8_lossy(text);
    let lines = logical_lines(&text);
    let targets = |(line, at)| parse_targets(line, &join_lines(text.get(at..).unwrap_or_default()));
    lines.flat_map(targets).collect()
}

/// Writes the target in the form of the file.
impl fmt::Display for AliasTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AliasTarget::Name(name) => f.write_str(name),
            AliasTarget::Mailbox(mailbox) => mailbox.fmt(f),
            AliasTarget::User(name) => write!(f, "\\{name}"),
            AliasTarget::Include(path) => write!(f, ":include:{}", path.display()),
            AliasTarget::Null => f.write_str(NULL_FILE),
            AliasTarget::Unsupported { text, .. } | AliasTarget::Invalid { text, .. } => {
                f.write_str(text)
            }
        }
    }
}

/// Returns the number and the offset of each line that does not continue the line before.
fn logical_lines(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let (mut at, mut is_first) = (0, true);
    (1..).zip(text.split('\n')).filter_map(move |(number, line)| {
        let begin = at;
        at += line.len() + 1;
        let begins = match kind_of(line) {
            LineKind::Empty => false,
            LineKind::Indented => is_first,
            LineKind::Other => true,
        };
        is_first &= !begins;
        begins.then_some((number, begin))
    })
}

/// Returns the first line of `text` joined with the lines that continue it. Line ends within are
/// kept, so that the line of each target can be counted. Comments within become empty lines.
fn join_lines(text: &str) -> Cow<'_, str> {
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let mut joined = Cow::Borrowed(lines.next().unwrap_or_default());
    for line in lines {
        match kind_of(line) {
            LineKind::Empty => joined.to_mut().push('\n'),
            LineKind::Indented => joined.to_mut().extend(["\n", line]),
            LineKind::Other => break,
        }
    }
    joined
}

/// A kind of line.
enum LineKind {
    /// Blank, or a comment.
    Empty,
    /// Beginning with a blank.
    Indented,
    Other,
}

fn kind_of(line: &str) -> LineKind {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let content = line.trim_start_matches([' ', '\t']);
    match content.len() {
        _ if content.is_empty() || content.starts_with('#') => LineKind::Empty,
        length if length < line.len() => LineKind::Indented,
        _ => LineKind::Other,
    }
}

/// Parses the name in `name: targets`. Returns it as [`AliasEntry`] has it, and the offset of the
/// colon.
fn parse_name(text: &str) -> Result<(String, Option<Mailbox>, usize), String> {
    let colon =
        find_unquoted(text, ':').ok_or_else(|| format!("no colon in `{}`", printable(text)))?;
    let name = text.get(..colon).unwrap_or_default().trim();
    let (name, mailbox) = match parse_target(name) {
        AliasTarget::Name(name) => (name, None),
        AliasTarget::Mailbox(mailbox) => (name.to_owned(), Some(mailbox)),
        AliasTarget::Invalid { text, error } => return Err(format!("`{text}` {error}")),
        AliasTarget::Unsupported { text, kind } => {
            return Err(format!("`{text}` {}", kind.reason()));
        }
        AliasTarget::User(_) | AliasTarget::Include(_) | AliasTarget::Null => {
            return Err(format!("`{}` cannot be the name of an alias", printable(name)));
        }
    };
    Ok((name, mailbox, colon))
}

/// Parses `name: targets`.
fn parse_entry(line: usize, text: &str) -> Result<AliasEntry, String> {
    let (name, mailbox, colon) = parse_name(text)?;
    // Line ends before the colon count for the line numbers after it.
    let first = line + text.get(..colon).unwrap_or_default().matches('\n').count();
    let mut items = parse_targets(first, text.get(colon + 1..).unwrap_or_default());
    if items.is_empty() {
        let (text, error) = (String::new(), "leads nowhere".to_owned());
        items.push(AliasItem { line, target: AliasTarget::Invalid { text, error } });
    }
    Ok(AliasEntry { name, mailbox, line, items })
}

/// Parses a list of targets separated by commas, without its comments.
fn parse_targets(mut line: usize, text: &str) -> Vec<AliasItem> {
    let mut items = Vec::new();
    let mut raw = String::new();
    let mut raw_line = line;
    let (mut in_target, mut quoted, mut comment_depth) = (false, false, 0_usize);
    let mut chars = text.chars();
    let mut add = |raw: &mut String, line: usize| {
        if !raw.trim().is_empty() {
            items.push(AliasItem { line, target: parse_target(raw.trim()) });
        }
        raw.clear();
    };
    while let Some(c) = chars.next() {
        if !in_target {
            raw_line = line;
        }
        in_target |= comment_depth == 0 && !c.is_whitespace() && c != '(' && c != ',';
        match c {
            '\n' => line += 1,
            '\\' if comment_depth > 0 => {
                chars.next();
                continue;
            }
            '\\' => {
                raw.push(c);
                raw.extend(chars.next());
                continue;
            }
            '"' if comment_depth == 0 => quoted = !quoted,
            '(' if !quoted => comment_depth += 1,
            ')' if comment_depth > 0 => {
                comment_depth -= 1;
                continue;
            }
            ',' if !quoted && comment_depth == 0 => {
                add(&mut raw, raw_line);
                in_target = false;
                continue;
            }
            _ => {}
        }
        if comment_depth == 0 {
            raw.push(if c == '\n' { ' ' } else { c });
        }
    }
    if comment_depth > 0 {
        // The comment has no end: let the target be invalid.
        raw.push('(');
    }
    add(&mut raw, raw_line);
    items
}

/// Parses one target, without the blanks around it.
fn parse_target(text: &str) -> AliasTarget {
    let invalid =
        |error: &str| AliasTarget::Invalid { text: printable(text), error: error.to_owned() };
    let unsupported = |kind| AliasTarget::Unsupported { text: printable(text), kind };
    // `Full Name <user@host>`
    let text = match text.strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
        Some((_, inner)) => inner.trim(),
        None => text,
    };
    let unquoted = unquote(text);
    let plain = unquoted.as_deref().unwrap_or(text);
    if plain.is_empty() {
        return invalid("is empty");
    }
    if plain.chars().any(|c| c != ' ' && is_hidden(c)) {
        return invalid("is not printable ASCII or UTF-8");
    }
    if plain.starts_with('|') {
        return unsupported(UnsupportedTarget::Program);
    }
    if plain == NULL_FILE || plain.eq_ignore_ascii_case(":blackhole:") {
        return AliasTarget::Null;
    }
    if plain.starts_with('/') {
        return unsupported(UnsupportedTarget::File);
    }
    if let Some(path) = strip_include_prefix(plain) {
        return match Path::new(path) {
            path if path.is_absolute() => AliasTarget::Include(path.to_owned()),
            _ => invalid("is not the full path of a file"),
        };
    }
    if plain.starts_with(':') || strip_prefix_ignore_case(plain, "error:").is_some() {
        return unsupported(UnsupportedTarget::Directive);
    }
    if unquoted.is_some() {
        return match plain.len() {
            0..=NAME_MAX => AliasTarget::Name(plain.to_owned()),
            _ => invalid("is too long for a name"),
        };
    }
    if let Some(user) = text.strip_prefix('\\') {
        if is_bare_name(user) {
            return AliasTarget::User(user.to_owned());
        }
        return invalid("is not `\\` and a user name");
    }
    if find_unquoted(text, '@').is_some() {
        return match Mailbox::parse(text) {
            Ok(mailbox) => AliasTarget::Mailbox(mailbox),
            Err(e) => invalid(&format!("is not an address: {}", e.0)),
        };
    }
    if is_bare_name(text) {
        return AliasTarget::Name(text.to_owned());
    }
    invalid("is not a name (are quotes or a comma missing?)")
}

/// True if `text` is a name that needs no quotes.
fn is_bare_name(text: &str) -> bool {
    let special = |c: char| {
        matches!(c, '"' | '\\' | '(' | ')' | ',' | ':' | ';' | '<' | '>' | '@')
            || c.is_control()
            || c.is_whitespace()
    };
    (1..=NAME_MAX).contains(&text.len()) && !text.contains(special)
}

/// Returns the path in `:include:/file`, which may be in any case and have a blank before the path.
fn strip_include_prefix(text: &str) -> Option<&str> {
    strip_prefix_ignore_case(text, ":include:").map(str::trim)
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Returns the text between the quotes if `text` is one quoted string and nothing else. `\x`
/// becomes `x`.
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

/// Returns the position of the first `wanted` outside of quotes.
fn find_unquoted(text: &str, wanted: char) -> Option<usize> {
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

/// Returns the key of an alias, which is the same for all spellings of its name.
fn entry_key(name: &str, mailbox: &Option<Mailbox>) -> String {
    match mailbox {
        Some(mailbox) => mailbox_key(mailbox.local(), &mailbox.domain().to_ascii()),
        None => name.to_lowercase(),
    }
}

/// Returns the key of a mailbox. It is unique because a domain in ASCII holds no `@`, so that the
/// last one separates the parts.
fn mailbox_key(local: &str, host: &str) -> String {
    format!("{local}@{host}").to_lowercase()
}

/// Returns `text` for a message: on one line, truncated, and escaped where it is not printable
/// ASCII.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (n, c) in text.trim().chars().enumerate() {
        match c {
            _ if n == PRINTED_MAX => {
                shown.push_str("...");
                break;
            }
            ' '..='~' => shown.push(c),
            _ => shown.extend(c.escape_default()),
        }
    }
    shown
}

/// The target of an alias for mail that is thrown away.
const NULL_FILE: &str = "/dev/null";

/// Maximum length of a name in bytes, which is that of a local-part.
const NAME_MAX: usize = 255;

/// Maximum number of characters of a line that a message repeats.
const PRINTED_MAX: usize = 60;
