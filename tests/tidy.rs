//! The rules of the source, as tests: the order of imports between modules, the head and the width
//! of files, banned words, and documents that repeat a table of the source.
//!
//! `RENEW=1 cargo test --test tidy` writes the tables into the documents; review the diff.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails so

#[path = "tidy/completions.rs"]
mod completions;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mailslot::config::options::{Arity, DefaultValue, OptionRow, TABLE, wrap};

/// The modules, lowest first. A module imports from the rows above its own, never from its own or
/// from below.
const LAYERS: &[&[&str]] = &[
    &["process", "smtp", "sysexits"],
    &["message", "observe"],
    &["deliver", "net", "resolver", "terminal"],
    &["relay"],
    &["session"],
    &["server"],
    &["control"],
    &["config"],
    &["startup"],
    &["check", "sendmail"],
    &["main", "bin"],
];

/// Parts of std that a module without I/O does not use.
const IMPURE: &[&str] =
    &["std::fs", "std::io", "std::net::Tcp", "std::thread", "std::time", "log::"];

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        let module = top_module(&file);
        let Some(layer) = layer(&module) else {
            if module != "lib" {
                wrong.push(format!("{}: add {module} to LAYERS", file.display()));
            }
            continue;
        };
        for imported in imports(&text) {
            let fits = imported == module || self::layer(&imported).is_some_and(|l| l < layer);
            if !fits {
                wrong.push(format!("{}: imports {imported}", file.display()));
            }
        }
        if module == "smtp" {
            let used = IMPURE.iter().filter(|word| code(&text).any(|l| l.contains(*word)));
            wrong.extend(used.map(|word| format!("{}: uses {word}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A name is used for one type only, so that it is clear without its path. Files that replace each
/// other on other systems or with other features define the same names.
#[test]
fn type_names_are_unique() {
    let replaced = ["src/net/tls/absent.rs", "src/process/privilege/other.rs"];
    let mut defined: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        if replaced.iter().any(|r| Path::new(r) == file) {
            continue;
        }
        for name in code(&text).filter_map(type_name) {
            if let Some(first) = defined.insert(name.clone(), file.clone()) {
                wrong.push(format!("{name}: in {} and {}", first.display(), file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns the name that `line` defines at the left margin: a struct, an enum, a trait or a type.
fn type_name(line: &str) -> Option<String> {
    let line = match line.strip_prefix("pub") {
        Some(rest) => rest.trim_start_matches("(super)").trim_start_matches("(crate)").trim_start(),
        None => line,
    };
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    let kind = words.next()?;
    ["struct", "enum", "trait", "type"].contains(&kind).then(|| words.next().map(str::to_owned))?
}

/// Every line of the log is an event of `observe/events.rs`, so that mailslot(8) can list them all.
#[test]
fn only_events_write_to_the_log() {
    let mut wrong = Vec::new();
    let macros =
        ["log::error!", "log::warn!", "log::info!", "log::debug!", "log::trace!", "log::log!"];
    for (file, text) in sources("src") {
        if file != Path::new("src/observe/events.rs") {
            let found = macros.iter().filter(|name| code(&text).any(|line| line.contains(*name)));
            wrong.extend(found.map(|name| format!("{}: {name}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The files and directories of one directory import each other one way, too.
#[test]
fn siblings_do_not_import_in_circles() {
    let mut wrong = Vec::new();
    let mut imported: BTreeMap<PathBuf, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (file, text) in sources("src") {
        let (Some(dir), Some(name)) = (file.parent(), module_name(&file)) else { continue };
        if dir == Path::new("src") {
            continue;
        }
        let path: Vec<_> = dir.iter().skip(1).map(|p| p.to_string_lossy()).collect();
        let prefixes = ["super::".to_owned(), format!("crate::{}::", path.join("::"))];
        let text: String = code(&text).collect();
        let found = imported.entry(dir.to_owned()).or_default().entry(name.clone()).or_default();
        for (at, prefix) in prefixes.iter().flat_map(|p| text.match_indices(p.as_str())) {
            // `super::super::` leaves the directory.
            if prefix == "super::" && text[..at].ends_with("super::") {
                continue;
            }
            let rest = &text[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(heads(group)),
                None => found.extend(word(rest)),
            }
        }
        found.remove(&name);
    }
    for (dir, edges) in &imported {
        for name in edges.keys() {
            let mut seen = BTreeSet::new();
            let mut next: Vec<&String> = edges[name].iter().collect();
            while let Some(other) = next.pop() {
                if other == name {
                    wrong.push(format!("{}: {name} imports itself", dir.display()));
                    break;
                }
                if seen.insert(other) {
                    next.extend(edges.get(other).into_iter().flatten());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns `path` for `src/smtp/path.rs`; nothing for `mod.rs` and tests, which may import all.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_stem()?.to_string_lossy().into_owned();
    (name != "mod" && name != "tests").then_some(name)
}

/// The head of each `mod.rs` lists the files and directories next to it.
#[test]
fn modules_list_their_files() {
    let mut wrong = Vec::new();
    let files = sources("src");
    for (file, text) in files.iter().filter(|(file, _)| file.ends_with("mod.rs")) {
        let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let dir = file.parent().unwrap();
        let below = files.iter().filter_map(|(file, _)| file.strip_prefix(dir).ok());
        let names: BTreeSet<_> = below
            .filter(|path| !path.ends_with("mod.rs") || path.components().count() > 1)
            .map(|path| {
                let first = path.iter().next().unwrap().to_string_lossy();
                if path.components().count() > 1 { format!("{first}/") } else { first.into() }
            })
            .filter(|name| name != "tests.rs")
            .collect();
        for name in names.iter().filter(|name| !head.contains(name.as_str())) {
            wrong.push(format!("{}: does not list {name}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_open_with_their_manual_and_fit_the_width() {
    let mut wrong = Vec::new();
    for dir in ["src", "tests", "examples"] {
        for (file, text) in sources(dir) {
            if !text.starts_with("//! ") {
                wrong.push(format!("{}:1: no //! at the top", file.display()));
            }
            if !text.ends_with('\n') || text.ends_with("\n\n") {
                wrong.push(format!("{}: does not end with one line end", file.display()));
            }
            for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
                let at = format!("{}:{number}", file.display());
                if line.chars().count() > 100 {
                    wrong.push(format!("{at}: wider than 100"));
                }
                if line.contains('\t') || line.ends_with(' ') {
                    wrong.push(format!("{at}: tab or trailing blank"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_unfinished_or_unsafe_stays() {
    // In two pieces, so that this file does not name them.
    let words =
        [["TO", "DO"], ["FIX", "ME"], ["to", "do!("], ["unimple", "mented!("], ["unsa", "fe "]];
    let mut wrong = Vec::new();
    for dir in ["src", "tests", "examples"] {
        for (file, text) in sources(dir) {
            for (number, line) in text.lines().enumerate() {
                let found = words.iter().map(|w| w.concat()).filter(|w| line.contains(w));
                wrong.extend(found.map(|w| format!("{}:{}: {w}", file.display(), number + 1)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Words that the project replaced by plainer ones. They stay out of code, comments and documents.
const BANNED: &[(&str, &str)] = &[
    ("folder", "directory"),
    ("folders", "directories"),
    ("somebody", "a client, a program, another user"),
    ("everybody", "all clients, all users"),
    ("whoever", "the client that"),
    ("whom", "that"),
    ("told", "reported, returned, logged"),
    ("tells", "reports, returns, says"),
    ("hears", "receives, gets"),
    ("cure", "fix"),
    ("cures", "fixes"),
    ("mend", "repair, fix"),
    ("mended", "repaired, fixed"),
];

#[test]
fn words_are_plain() {
    let mut wrong = Vec::new();
    let mut texts: Vec<_> =
        ["src", "tests", "examples"].iter().flat_map(|dir| sources(dir)).collect();
    texts.retain(|(file, _)| file != Path::new("tests/tidy.rs"));
    for file in DOCUMENTS {
        texts.push((file.into(), fs::read_to_string(root().join(file)).unwrap()));
    }
    for (file, text) in texts {
        for (number, line) in text.lines().enumerate() {
            for word in line.split(|c: char| !c.is_alphabetic()) {
                let word = word.to_lowercase();
                // `set folder=` is mutt's own.
                if line.contains("set folder=") {
                    continue;
                }
                if let Some((banned, plain)) = BANNED.iter().find(|(banned, _)| *banned == word) {
                    let at = format!("{}:{}", file.display(), number + 1);
                    wrong.push(format!("{at}: {banned}; better: {plain}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Documents that people read.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "tests/README.md",
    "contrib/man/mailslot.8",
    "contrib/man/mailslot.conf.5",
    "contrib/man/mailslot-sendmail.8",
    "contrib/man/mailslot-mbox.5",
];

#[test]
fn documents_show_the_table_of_options() {
    let in_file = |row: &&OptionRow| row.arity != Arity::CommandLine;
    let options: String = TABLE.iter().map(|row| mdoc(row, &flag(row))).collect();
    let keys: String = TABLE.iter().filter(in_file).map(|row| mdoc(row, &key(row))).collect();
    let sample: String = TABLE.iter().filter(in_file).map(sample).collect();
    for (file, begin, end, table) in [
        ("contrib/man/mailslot.8", ".\\\" options\n", ".\\\" end of options\n", options),
        ("contrib/man/mailslot.conf.5", ".\\\" options\n", ".\\\" end of options\n", keys),
        ("contrib/mailslot.conf", "# Options\n", "# End of options\n", sample),
    ] {
        let path = root().join(file);
        let text = fs::read_to_string(&path).unwrap();
        let (before, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{file}: no {begin}"));
        let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("{file}: no {end}"));
        compare(file, &format!("{before}{begin}{table}{end}{after}"));
    }
}

#[test]
fn completions_have_the_table_of_options() {
    for (file, text) in completions::files() {
        compare(&format!("contrib/completions/{file}"), &text);
    }
}

/// Compares a file that is made from the table, or writes it if that is wanted.
fn compare(file: &str, expected: &str) {
    let path = root().join(file);
    if std::env::var_os("RENEW").is_some() {
        fs::write(&path, expected).unwrap();
    } else if fs::read_to_string(&path).unwrap_or_default() != expected {
        panic!("{file} differs from the table; see: RENEW=1 cargo test --test tidy; git diff");
    }
}

/// A key in the configuration that is installed: with its default, as a comment.
fn sample(row: &OptionRow) -> String {
    let mut text = String::from("\n");
    for line in wrap(row.help, 98) {
        text.push_str(&format!("# {line}\n"));
    }
    match row.default {
        DefaultValue::Fixed(values) => {
            for value in values {
                text.push_str(&format!("#{} {value}\n", row.long));
            }
        }
        DefaultValue::Computed(words) => {
            text.push_str(&format!("# Default: {words}.\n#{} {}\n", row.long, row.arg));
        }
    }
    text
}

/// The head of an option in mdoc(7).
fn flag(row: &OptionRow) -> String {
    let short = if row.short.is_empty() { String::new() } else { format!("{} , Fl ", row.short) };
    format!("Fl {short}-{}", row.long)
}

/// The head of a key in mdoc(7).
fn key(row: &OptionRow) -> String {
    format!("Ic {}", row.long)
}

/// One item of a list in mdoc(7), where each sentence begins a line.
fn mdoc(row: &OptionRow, head: &str) -> String {
    let arg = if row.arg.is_empty() { String::new() } else { format!(" Ar {}", row.arg) };
    let mut text = format!(".It {head}{arg}\n");
    for sentence in row.help.split_inclusive(". ") {
        text.push_str(&format!("{}\n", wrap(sentence.trim(), 78).join("\n")));
    }
    if row.arity == Arity::Many {
        text.push_str("May be given several times.\n");
    }
    if !row.source.is_empty() {
        text.push_str(&format!("See {}.\n", row.source));
    }
    if !row.arg.is_empty() {
        text.push_str(&format!("Default: {}.\n", row.default));
    }
    text
}

/// Returns the top module of a file: `smtp` for `src/smtp/path.rs`.
fn top_module(file: &Path) -> String {
    let parts: Vec<_> = file.iter().map(|p| p.to_string_lossy()).collect();
    parts[1].trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

/// Returns the top modules that `text` names: `crate::smtp::Reply`, `crate::{message, resolver}`,
/// and in the program `mailslot::config`.
fn imports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let text: String = code(text).collect();
    for prefix in ["crate::", "mailslot::"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(heads(group)),
                None => found.extend(word(rest)),
            }
        }
    }
    found
}

/// The first words of `a::b, c::{d, e}}`: a and c.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut found, mut start) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && c.is_alphanumeric() => {
                found.extend(word(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    found
}

/// The word at the start of `text`, unless it is no module's name.
fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty() && word.chars().all(|c| c.is_lowercase() || c == '_')).then_some(word)
}

/// The lines of `text` that are no comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

/// Every Rust file under `dir`, as a path below the root, with its text.
fn sources(dir: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from(dir)];
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = fs::read_dir(root().join(&dir)) else { continue };
        for entry in entries {
            let entry = entry.unwrap();
            let path = dir.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() && entry.file_name() != "target" {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push((path.clone(), fs::read_to_string(root().join(path)).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_reader_of_imports_reads() {
    for (text, expected) in [
        ("use crate::smtp::Reply;", &["smtp"][..]),
        (
            "use crate::{message, smtp::{Reply, Step}, resolver::AddressResolver};",
            &["message", "resolver", "smtp"],
        ),
        ("// use crate::smtp;\nuse crate::observe::counters::Counters;", &["observe"]),
        ("let x = crate::deliver::start(a);", &["deliver"]),
        ("crate::Error", &[]),
    ] {
        assert_eq!(imports(text).iter().collect::<Vec<_>>(), expected, "{text}");
    }
}
