//! The table of options, and the syntax of the command line and of the configuration file.
//!
//! [`TABLE`] is the only list of options. The command line, the keys of the configuration file and
//! `--help` are made from it here. `tests/tidy.rs` compares the documents with it. A default in the
//! table is parsed like a value that was given, so that the documents agree with the program.
//!
//! This file splits text into options and records where each was given ([`Origin`]).
//! [`Config`](crate::config::Config) parses and checks the values.
//!
//! ```text
//! # /etc/mailslot.conf
//! listen   192.0.2.1:25      # a comment begins with a # at the start of a word
//! listen   [2001:db8::1]:25
//! max-size 50M
//! ```

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use getopts::{Fail, HasArg, Occur};

use super::ConfigError;

/// One option.
#[derive(Debug)]
pub struct OptionRow {
    /// `--long`, and the key in the configuration file.
    pub long: &'static str,
    /// `-s`, or empty.
    pub short: &'static str,
    /// The name of its value in documents; empty for an option without a value.
    pub arg: &'static str,
    /// How often and where it may be given.
    pub arity: Arity,
    /// The value if it is not given.
    pub default: DefaultValue,
    /// The description: one sentence, or a few.
    pub help: &'static str,
    /// The standard that requires it, or empty.
    pub source: &'static str,
}

/// The number of times an option may be given, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// On the command line only.
    CommandLine,
    /// Once, on the command line or in the file.
    Once,
    /// Any number of times. Values on the command line replace those in the file.
    Many,
}

/// The value of an option that is not given.
#[derive(Clone, Copy, Debug)]
pub enum DefaultValue {
    /// These values, parsed as if they were given.
    Fixed(&'static [&'static str]),
    /// A value computed at the start, as these words describe.
    Computed(&'static str),
}

impl fmt::Display for DefaultValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DefaultValue::Fixed(values) => f.write_str(&values.join(" and ")),
            DefaultValue::Computed(words) => f.write_str(words),
        }
    }
}

/// The origin of a value, for `mailslot check` and for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table.
    Default,
    /// A file or property of this host, or how the program was started: `/etc/mailname`,
    /// `systemd`.
    Host(&'static str),
    /// `--sandbox`, which sets other options.
    Sandbox,
    /// The configuration file and the line in it.
    File(PathBuf, usize),
    /// The command line.
    CommandLine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Host(name) => f.write_str(name),
            Origin::Sandbox => f.write_str("--sandbox"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::CommandLine => f.write_str("command line"),
        }
    }
}

/// One value of an option, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionValue {
    /// The option, by [`OptionRow::long`].
    pub long: &'static str,
    /// The value; empty for an option without one.
    pub value: String,
    /// The place that gave it.
    pub origin: Origin,
}

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The options, in the order of the table.
    pub given: Vec<OptionValue>,
    /// The other words: a command and its operands.
    pub words: Vec<String>,
}

impl CommandLine {
    /// Returns how often the option `long` was given.
    pub fn count(&self, long: &str) -> usize {
        self.given.iter().filter(|g| g.long == long).count()
    }

    /// True if the option `long` was given.
    pub fn has(&self, long: &str) -> bool {
        self.count(long) > 0
    }

    /// Returns the first value of the option `long`.
    pub fn value(&self, long: &str) -> Option<&str> {
        self.given.iter().find(|g| g.long == long).map(|g| g.value.as_str())
    }
}

/// Parses a command line, given without the program's name.
///
/// # Errors
/// An option that is unknown, given twice or not UTF-8, or a value that is missing or not allowed.
/// The text suggests the most similar option.
pub fn parse_command_line(args: &[OsString]) -> Result<CommandLine, ConfigError> {
    let mut options = getopts::Options::new();
    for row in TABLE {
        let has_arg = if row.arg.is_empty() { HasArg::No } else { HasArg::Yes };
        let often = row.arity == Arity::Many || row.long == "verbose";
        let occur = if often { Occur::Multi } else { Occur::Optional };
        options.opt(row.short, row.long, row.help, row.arg, has_arg, occur);
    }
    let found = options.parse(args).map_err(|fail| ConfigError::Usage(parse_error(fail)))?;
    let mut given = Vec::new();
    for row in TABLE {
        let values = match row.arg {
            "" => vec![String::new(); found.opt_count(row.long)],
            _ => found.opt_strs(row.long),
        };
        let origin = Origin::CommandLine;
        let one = |value| OptionValue { long: row.long, value, origin: origin.clone() };
        given.extend(values.into_iter().map(one));
    }
    Ok(CommandLine { given, words: found.free })
}

/// Parses the text of a configuration file.
///
/// # Errors
/// A key that is not in the table, has no value, or is given twice but allowed once. The text
/// begins with `FILE:LINE: `.
pub fn parse_file(path: &Path, text: &str) -> Result<Vec<OptionValue>, ConfigError> {
    let mut given: Vec<OptionValue> = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(i, line)| (i + 1, line)) {
        let line = without_comment(line).trim();
        if line.is_empty() {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let wrong =
            |what: String| Err(ConfigError::Config(format!("{}:{number}: {what}", path.display())));
        let Some(row) = TABLE.iter().find(|row| row.long == key) else {
            return wrong(format!("unknown key \"{}\"{}", key.escape_debug(), suggestion(key)));
        };
        if row.arity == Arity::CommandLine {
            return wrong(format!("{key} can be given on the command line only"));
        }
        let earlier = given.iter().find(|g| g.long == row.long);
        if let (Some(earlier), Arity::Once) = (earlier, row.arity) {
            return wrong(format!("{key} is given twice, first at {}", earlier.origin));
        }
        if value.trim().is_empty() {
            return wrong(format!("{key} has no value; expected \"{key} {}\"", row.arg));
        }
        let origin = Origin::File(path.to_owned(), number);
        given.push(OptionValue { long: row.long, value: value.trim().to_owned(), origin });
    }
    Ok(given)
}

/// Returns the row of the option `long`.
pub fn row(long: &str) -> Option<&'static OptionRow> {
    TABLE.iter().find(|row| row.long == long)
}

/// Returns the text of `--help`.
pub fn help() -> String {
    let mut text = HELP_HEADER.to_owned();
    for row in TABLE {
        let short = if row.short.is_empty() { "    ".into() } else { format!("-{}, ", row.short) };
        let many = if row.arity == Arity::Many { "..." } else { "" };
        text.push_str(format!("  {short}--{} {}{many}", row.long, row.arg).trim_end());
        text.push('\n');
        let mut about = row.help.to_owned();
        if !row.arg.is_empty() {
            about.push_str(&format!(" [{}]", row.default));
        }
        for line in wrap(&about, 70) {
            text.push_str(&format!("          {line}\n"));
        }
    }
    text.push_str(HELP_FOOTER);
    text
}

/// Wraps `text` at spaces into lines of at most `width` bytes.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Returns `key value # comment` without the comment. A `#` inside a word is part of the word.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

/// Describes an error of getopts in this program's words.
fn parse_error(fail: Fail) -> String {
    let dashed = |name: &str| match name.chars().count() {
        1 => format!("-{name}"),
        _ => format!("--{name}"),
    };
    match fail {
        Fail::ArgumentMissing(name) => {
            let arg =
                TABLE.iter().find(|r| r.long == name || r.short == name).map_or("", |r| r.arg);
            format!("{0} needs a value; expected \"{0} {arg}\"", dashed(&name))
        }
        Fail::UnrecognizedOption(name) => {
            let hint = if name.chars().count() > 1 { suggestion(&name) } else { String::new() };
            format!("unknown option {}{hint}", dashed(&name).escape_debug())
        }
        Fail::OptionDuplicated(name) => format!("{} is given twice", dashed(&name)),
        Fail::UnexpectedArgument(name) => format!("{} takes no value", dashed(&name)),
        other => other.to_string(),
    }
}

/// Returns `; did you mean "listen"?` if a name of the table is similar, else nothing.
fn suggestion(name: &str) -> String {
    let near = TABLE.iter().map(|row| (distance(name, row.long), row.long)).min();
    match near {
        Some((far, long)) if far <= 2.max(long.len() / 3) => format!("; did you mean \"{long}\"?"),
        _ => String::new(),
    }
}

/// Returns the edit distance between `a` and `b` in bytes. Only 40 bytes of `a` are compared, because
/// no option is longer.
fn distance(a: &str, b: &str) -> usize {
    let a = &a.as_bytes()[..a.len().min(40)];
    // costs[j] is the distance between the part of `a` read so far and the first j bytes of `b`.
    let mut costs: Vec<usize> = (0..=b.len()).collect();
    for x in a {
        let mut next = vec![costs[0] + 1];
        for (j, y) in b.bytes().enumerate() {
            let change = costs[j] + usize::from(*x != y);
            next.push(change.min(costs[j + 1] + 1).min(next[j] + 1));
        }
        costs = next;
    }
    costs[b.len()]
}

const HELP_HEADER: &str = "\
Usage: mailslot [OPTIONS]                  listen, deliver to local mailboxes
       mailslot --inetd [OPTIONS]          serve one session on standard input
       mailslot check [OPTIONS]            print settings and problems found
       mailslot explain ADDR... [OPTIONS]  print where each address leads
       mailslot queue [OPTIONS]            print what waits for other hosts
       mailslot queue show ID [OPTIONS]    print one entry, and its message
       mailslot queue drop ID [OPTIONS]    remove one entry; nobody is told
       mailslot queue flush [ID...] [OPTIONS]   try to send it now

Long names are also keys of the configuration file. Defaults are in brackets.

";

const HELP_FOOTER: &str = "
A SIZE is octets, or a number with K, M or G (powers of 1024). A TIME is
seconds, or a number with s, m, h or d.
";

const fn option(
    names: (&'static str, &'static str),
    arg: &'static str,
    arity: Arity,
    default: DefaultValue,
    source: &'static str,
    help: &'static str,
) -> OptionRow {
    OptionRow { long: names.0, short: names.1, arg, arity, default, help, source }
}

use Arity::{Many, Once};
use DefaultValue::{Computed, Fixed};

/// All options, in the order of the documents.
pub const TABLE: &[OptionRow] = &[
    option(
        ("config", "c"),
        "FILE",
        Arity::CommandLine,
        Computed("/etc/mailslot.conf if there; none with --sandbox"),
        "",
        "Read settings from FILE. The command line wins.",
    ),
    option(
        ("listen", "l"),
        "ADDR",
        Many,
        Fixed(&["127.0.0.1:25", "[::1]:25"]),
        "",
        "Listen on HOST:PORT, [IPV6]:PORT or unix:PATH; port 0 is any free one. With tls: in \
         front, as in tls:HOST:465, TLS begins with the first octet. Not given: on the sockets \
         that systemd passes, if it does; or, with --lmtp, nowhere.",
    ),
    option(
        ("lmtp", ""),
        "ADDR",
        Many,
        Computed("none"),
        "RFC 2033",
        "Listen for LMTP, from a mail server on this host or on a network of its own: on \
         unix:PATH, with ,mode=660 for its permissions, or on HOST:PORT, but never on port 25.",
    ),
    option(
        ("hostname", "n"),
        "NAME",
        Once,
        Computed("the host's full name"),
        "RFC 5321 4.3.1",
        "The name in the greeting, in replies and in Received lines.",
    ),
    option(
        ("domain", "d"),
        "NAME",
        Many,
        Computed("the name in /etc/mailname, or the hostname; and localhost"),
        "",
        "Mail for NAME is local. Given: these names and no others.",
    ),
    option(
        ("user", "u"),
        "NAME",
        Many,
        Computed("the users of the system"),
        "",
        "NAME has a mailbox, owned by whom mailslot runs as. Given: these users and no others.",
    ),
    option(
        ("aliases", "a"),
        "FILE",
        Once,
        Computed("/etc/aliases if there"),
        "RFC 5321 3.9",
        "Aliases and lists, as in aliases(5); \"none\" for none.",
    ),
    option(
        ("mail-dir", "m"),
        "DIR",
        Once,
        Fixed(&["/var/mail"]),
        "",
        "The folder of the mailboxes, one file for each user.",
    ),
    option(
        ("spool", "S"),
        "DIR",
        Once,
        Fixed(&["/var/spool/mailslot"]),
        "",
        "The folder of mailslot's own files.",
    ),
    option(
        ("sandbox", ""),
        "DIR",
        Arity::CommandLine,
        Computed("none"),
        "",
        "Try it out without privileges: listen on 127.0.0.1:2525, mailboxes in DIR/mail, spool in \
         DIR/spool; every local part at every domain is a mailbox, unless --user or --domain name \
         some; passwd, /etc/aliases and /etc/mailslot.conf are not looked at.",
    ),
    option(
        ("lock", ""),
        "LIST",
        Once,
        Fixed(&["dotlock,fcntl,flock"]),
        "",
        "How mailboxes are locked: one or more of dotlock, fcntl and flock, with commas. Every \
         reader must use one of them.",
    ),
    option(
        ("lock-timeout", ""),
        "TIME",
        Once,
        Fixed(&["30"]),
        "RFC 5321 6.1",
        "How long a message waits for a mailbox that somebody else keeps locked, before 451.",
    ),
    option(
        ("threads", "t"),
        "N",
        Once,
        Fixed(&["32"]),
        "RFC 5321 4.5.4.2",
        "Sessions at one time. One more takes the place of one that lags, or is answered 421. An \
         eighth of them is kept for programs of this host.",
    ),
    option(
        ("max-size", "s"),
        "SIZE",
        Once,
        Fixed(&["25M"]),
        "RFC 1870; RFC 5321 4.5.3.1.7",
        "The largest message, before 552.",
    ),
    option(
        ("max-recipients", ""),
        "N",
        Once,
        Fixed(&["100"]),
        "RFC 5321 4.5.3.1.8",
        "Recipients of one message, before 452.",
    ),
    option(
        ("timeout", ""),
        "TIME",
        Once,
        Fixed(&["300"]),
        "RFC 5321 4.5.3.2.7",
        "How long a session waits for a whole command line, or for the client to read a reply. \
         Mail data may pause for three fifths of it; under stress, all may take a thirtieth.",
    ),
    option(
        ("session-timeout", ""),
        "TIME",
        Once,
        Fixed(&["1200"]),
        "",
        "How long a whole session may last.",
    ),
    option(
        ("per-client", ""),
        "N",
        Once,
        Fixed(&["8"]),
        "RFC 5321 7.8",
        "Sessions from one address, or one IPv6 /64, at one time, and never more than half of \
         threads; 127.0.0.1 and ::1 are exempt.",
    ),
    option(
        ("mailbox-limit", ""),
        "SIZE",
        Once,
        Fixed(&["none"]),
        "RFC 5321 4.2.3",
        "The largest mailbox; a message that would make it larger is answered 552.",
    ),
    option(
        ("delimiter", ""),
        "CHAR",
        Once,
        Fixed(&["+"]),
        "RFC 5233",
        "What parts user from tag in user+tag@host; \"none\" for nothing.",
    ),
    option(
        ("vrfy", ""),
        "WHO",
        Once,
        Fixed(&["local"]),
        "RFC 5321 3.5, 7.3",
        "Whom VRFY tells about users: on (everybody), off (nobody) or local (loopback).",
    ),
    option(
        ("expn", ""),
        "WHO",
        Once,
        Fixed(&["local"]),
        "RFC 5321 3.5, 7.3",
        "Whom EXPN shows the members of a list: on, off or local.",
    ),
    option(
        ("forward-replies", ""),
        "WHO",
        Once,
        Fixed(&["local"]),
        "RFC 5321 3.4, 7.4",
        "Who hears by 551 where an alias leads off the host: on, off or local; others hear 550.",
    ),
    option(
        ("terminals", ""),
        "WHO",
        Once,
        Fixed(&["off"]),
        "RFC 821 3.4",
        "Whose SEND, SOML and SAML reach the terminals of users who are logged in and accept \
         messages (mesg y): on, off or local.",
    ),
    option(
        ("tls-cert", ""),
        "FILE",
        Once,
        Fixed(&["none"]),
        "RFC 3207",
        "Offer STARTTLS with the certificates in FILE: PEM, the server's own first, then those \
         that lead to its authority. HUP reads them again.",
    ),
    option(
        ("tls-key", ""),
        "FILE",
        Once,
        Computed("the file of tls-cert"),
        "RFC 3207",
        "The private key of the first certificate: PEM, not encrypted.",
    ),
    option(
        ("tls-required", ""),
        "SWITCH",
        Once,
        Fixed(&["off"]),
        "RFC 3207 4",
        "on: a client must say STARTTLS before anything else, or hears 530. Not for a host that \
         takes mail from the whole Internet.",
    ),
    option(
        ("run-as", ""),
        "USER[:GROUP]",
        Once,
        Computed("mailslot:mail if started as root; who starts it with --sandbox or --user"),
        "",
        "Started as root: become USER for good, once sockets are bound and keys are read. What is \
         left of root's powers is to write to each mailbox as its owner.",
    ),
    option(
        ("smarthost", ""),
        "HOST",
        Many,
        Fixed(&["none"]),
        "RFC 5321 2.1",
        "Send mail for other hosts to this one: HOST, HOST:PORT, tls:HOST or unix:PATH; if it \
         cannot be reached, to the next one given. None: such mail is refused.",
    ),
    option(
        ("smarthost-tls", ""),
        "WORD",
        Once,
        Fixed(&["verify"]),
        "RFC 3207 4.1",
        "verify: a smarthost must have TLS and a certificate in its name. encrypt: just TLS. may: \
         TLS if it has it.",
    ),
    option(
        ("smarthost-login", ""),
        "FILE",
        Once,
        Fixed(&["none"]),
        "RFC 4954",
        "Lines HOST USER PASSWORD, * for any host; mode 0600. Never sent in clear text.",
    ),
    option(
        ("relay-from", ""),
        "NETWORK",
        Many,
        Computed("this host alone"),
        "RFC 5321 3.6.2",
        "Who else may send to other hosts through this one: 192.0.2.0/24, 2001:db8::/32.",
    ),
    option(
        ("forward-files", ""),
        "SWITCH",
        Once,
        Fixed(&["off"]),
        "",
        "on: mail for a user goes where ~/.forward says; it is read as the user. Addresses only.",
    ),
    option(
        ("warn-after", ""),
        "TIME",
        Once,
        Fixed(&["4h"]),
        "RFC 5321 4.5.4.1",
        "Tell a sender, once, that mail could not be sent on for so long.",
    ),
    option(
        ("give-up-after", ""),
        "TIME",
        Once,
        Fixed(&["5d"]),
        "RFC 5321 4.5.4.1",
        "Return mail that could not be sent on for so long.",
    ),
    option(
        ("inetd", ""),
        "",
        Arity::CommandLine,
        Computed("off"),
        "",
        "Serve one session of SMTP on standard input and output: a socket or a pipe.",
    ),
    option(
        ("log", ""),
        "WHERE",
        Once,
        Computed("stderr; syslog with --inetd"),
        "",
        "Where the log goes: stderr or syslog.",
    ),
    option(
        ("metrics-file", ""),
        "FILE",
        Once,
        Fixed(&["none"]),
        "",
        "Write the counters to FILE every 15 seconds, for the text collector of Prometheus' \
         node_exporter: a name that ends in .prom, in its folder. Not with --inetd.",
    ),
    option(("verbose", "v"), "", Arity::CommandLine, Computed("off"), "", "Log more; twice: all."),
    option(
        ("quiet", "q"),
        "",
        Arity::CommandLine,
        Computed("off"),
        "",
        "Log warnings and errors only; print nothing at the start.",
    ),
    option(("help", "h"), "", Arity::CommandLine, Computed("off"), "", "Print this."),
    option(("version", "V"), "", Arity::CommandLine, Computed("off"), "", "Print the version."),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Vec<(&'static str, String)>, String> {
        let given = parse_file(Path::new("f"), text).map_err(|e| e.to_string())?;
        Ok(given.into_iter().map(|g| (g.long, g.value)).collect())
    }

    #[test]
    fn a_file_is_keys_values_and_comments() {
        for (text, expected) in [
            ("", vec![]),
            ("\n  \n# note\n   # note\n", vec![]),
            ("threads 4", vec![("threads", "4")]),
            ("  threads\t 4 \t\r\n", vec![("threads", "4")]),
            ("threads 4 # four", vec![("threads", "4")]),
            ("mail-dir /a#b", vec![("mail-dir", "/a#b")]),
            ("mail-dir /a b", vec![("mail-dir", "/a b")]),
            ("domain a\ndomain b", vec![("domain", "a"), ("domain", "b")]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(k, v)| (k, v.to_owned())).collect();
            assert_eq!(file(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn file_errors_name_the_line() {
        for (text, expected) in [
            ("\nthread 4", "f:2: unknown key \"thread\"; did you mean \"threads\"?"),
            ("lisen 1:2", "f:1: unknown key \"lisen\"; did you mean \"listen\"?"),
            ("zzzzzzzzzzzz 1", "f:1: unknown key \"zzzzzzzzzzzz\""),
            ("thr\u{1b}eads 1", "f:1: unknown key \"thr\\u{1b}eads\"; did you mean \"threads\"?"),
            ("threads", "f:1: threads has no value; expected \"threads N\""),
            ("threads # 4", "f:1: threads has no value; expected \"threads N\""),
            ("threads 4\n\nthreads 5", "f:3: threads is given twice, first at f:1"),
            ("inetd yes", "f:1: inetd can be given on the command line only"),
            ("sandbox /tmp", "f:1: sandbox can be given on the command line only"),
        ] {
            assert_eq!(file(text), Err(expected.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> =
            TABLE.iter().flat_map(|r| [r.long, r.short]).filter(|n| !n.is_empty()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn distance_counts_edits() {
        for (a, b, n) in
            [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), n, "{a} {b}");
        }
    }
}
