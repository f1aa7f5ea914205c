//! The table of options, and the syntax of the command line and of the configuration file.
//!
//! [`TABLE`] is the only list of options. The command line, the keys of the configuration file and
//! `--help` are made from it here. `tests/tidy.rs` compares the man pages and
//! `contrib/mailslot.conf` with it. A default in the table is parsed like a value that was given,
//! so that the documents agree with the program.
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
    /// The number of times it may be given, and where.
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    let found = options
        .parse(with_smarthost_word(args))
        .map_err(|fail| ConfigError::Usage(parse_error(fail)))?;
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

/// Replaces `check --smarthost` without a value by `check smarthost`, which means the same.
fn with_smarthost_word(args: &[OsString]) -> Vec<OsString> {
    let mut args = args.to_vec();
    let has_value = |next: Option<&OsString>| {
        next.is_some_and(|next| !next.as_encoded_bytes().starts_with(b"-"))
    };
    let check = args.iter().position(|arg| arg == "check").unwrap_or(args.len());
    let is_alone = |at: &usize| {
        args.get(*at).is_some_and(|arg| arg == "--smarthost") && !has_value(args.get(at + 1))
    };
    let option = (check..args.len()).find(is_alone);
    if let Some(arg) = option.and_then(|at| args.get_mut(at)) {
        *arg = "smarthost".into();
    }
    args
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

/// Returns the edit distance between `a` and `b` in bytes. Only 40 bytes of `a` are compared,
/// because no option is longer.
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
Usage: mailslot [OPTIONS]                  serve clients, deliver to mailboxes
       mailslot --inetd [OPTIONS]          serve one session on standard input
       mailslot check [OPTIONS]            print settings and problems
       mailslot check --smarthost          log in to the smarthost, send nothing
       mailslot explain ADDR... [OPTIONS]  print the destinations of addresses
       mailslot queue [--json] [OPTIONS]   list mail that waits for other hosts
       mailslot queue show ID [OPTIONS]    print one entry, and its message
       mailslot queue drop ID [OPTIONS]    remove one entry without a report
       mailslot queue flush [ID...] [OPTIONS]   try to send it now

Long names are also keys of the configuration file. Defaults are in brackets.

";

const HELP_FOOTER: &str = "
A SIZE is a number of bytes, or a number with K, M or G (powers of 1024). A TIME
is a number of seconds, or a number with s, m, h or d.
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
        Computed("/etc/mailslot.conf if it exists; none with --sandbox"),
        "",
        "Read settings from FILE. Options on the command line take precedence.",
    ),
    option(
        ("listen", "l"),
        "ADDR",
        Many,
        Fixed(&["127.0.0.1:25", "[::1]:25"]),
        "",
        "Listen for SMTP on HOST:PORT, [IPV6]:PORT or unix:PATH. Port 0 is any free port. \
         [::]:PORT is for IPv6 only if an IPv4 address with that port is given too. With the \
         prefix tls:, and on port 465 without the prefix plain:, TLS starts with the connection. \
         With ,mode=660 after PATH, the socket has these permissions instead of 666. Sockets that \
         a systemd socket unit passes are used too, and replace the default. If there are none \
         and only --lmtp is given, mailslot does not listen for SMTP.",
    ),
    option(
        ("lmtp", ""),
        "ADDR",
        Many,
        Computed("none"),
        "RFC 2033",
        "Listen for LMTP on unix:PATH, unix:PATH,mode=660 or HOST:PORT, for a mail server on this \
         host or on a private network. Port 25 is not allowed.",
    ),
    option(
        ("hostname", "n"),
        "NAME",
        Once,
        Computed("the host's full name"),
        "RFC 5321 4.3.1",
        "Name of this host in the greeting, in replies and in Received fields.",
    ),
    option(
        ("domain", "d"),
        "NAME",
        Many,
        Computed("the name in /etc/mailname, the hostname, and localhost"),
        "",
        "Mail for NAME is local. If this is given, no other domains are local.",
    ),
    option(
        ("user", "u"),
        "NAME",
        Many,
        Computed("the users of the system"),
        "",
        "NAME has a mailbox, which belongs to the user mailslot runs as. If this is given, no \
         other names have mailboxes.",
    ),
    option(
        ("aliases", "a"),
        "FILE",
        Once,
        Computed("/etc/aliases if it exists"),
        "RFC 5321 3.9",
        "File of aliases and lists, in the format of aliases(5); \"none\" disables aliases.",
    ),
    option(
        ("mail-dir", "m"),
        "DIR",
        Once,
        Fixed(&["/var/mail"]),
        "",
        "Directory of the mailboxes, one file for each user.",
    ),
    option(
        ("spool", "S"),
        "DIR",
        Once,
        Fixed(&["/var/spool/mailslot"]),
        "",
        "Directory for mailslot's own files: the journal, large messages and the queue.",
    ),
    option(
        ("hand-over", ""),
        "SWITCH",
        Once,
        Fixed(&["on"]),
        "",
        "Let mailslot-sendmail leave messages in the directory hand-over of the spool while the \
         server does not run. The server takes them when it starts.",
    ),
    option(
        ("sandbox", ""),
        "DIR",
        Arity::CommandLine,
        Computed("none"),
        "",
        "Try mailslot without privileges: listen on 127.0.0.1:2525, keep mailboxes in DIR/mail and \
         the spool in DIR/spool, and accept every local part at every domain, or only the names \
         given with --user and --domain. The user database, /etc/aliases and /etc/mailslot.conf \
         are not read.",
    ),
    option(
        ("lock", ""),
        "LIST",
        Once,
        Fixed(&["dotlock,fcntl,flock"]),
        "",
        "Locks to take on a mailbox: one or more of dotlock, fcntl and flock, separated by commas. \
         Every mail reader must use at least one of them.",
    ),
    option(
        ("lock-timeout", ""),
        "TIME",
        Once,
        Fixed(&["30"]),
        "RFC 5321 6.1",
        "How long a message waits for a mailbox that another program has locked, before it is \
         deferred with 451.",
    ),
    option(
        ("threads", "t"),
        "N",
        Once,
        Fixed(&["32"]),
        "RFC 5321 4.5.4.2",
        "Number of concurrent sessions. When all threads are busy, a new client replaces a slow or \
         idle session, or gets 421. An eighth of the threads is reserved for programs of this \
         host.",
    ),
    option(
        ("max-size", "s"),
        "SIZE",
        Once,
        Fixed(&["25M"]),
        "RFC 1870; RFC 5321 4.5.3.1.7",
        "Largest message; a larger one is refused with 552.",
    ),
    option(
        ("max-recipients", ""),
        "N",
        Once,
        Fixed(&["100"]),
        "RFC 5321 4.5.3.1.8",
        "Maximum number of recipients of a message; further ones get 452.",
    ),
    option(
        ("timeout", ""),
        "TIME",
        Once,
        Fixed(&["300"]),
        "RFC 5321 4.5.3.2.7",
        "How long a session waits for a complete command line, or for the client to read a reply. \
         Mail data may pause for three fifths of this time. During overload each is a thirtieth of \
         it, except for clients on this host.",
    ),
    option(
        ("session-timeout", ""),
        "TIME",
        Once,
        Fixed(&["1200"]),
        "",
        "Maximum duration of a session.",
    ),
    option(
        ("per-client", ""),
        "N",
        Once,
        Fixed(&["8"]),
        "RFC 5321 7.8",
        "Maximum number of concurrent sessions from one IPv4 address or one IPv6 /64, and never \
         more than half of the threads; 127.0.0.1 and ::1 are exempt.",
    ),
    option(
        ("mailbox-limit", ""),
        "SIZE",
        Once,
        Fixed(&["none"]),
        "RFC 5321 4.2.3",
        "Largest mailbox; a message that would make it larger is refused with 552.",
    ),
    option(
        ("delimiter", ""),
        "CHAR",
        Once,
        Fixed(&["+"]),
        "RFC 5233",
        "Separator between user and tag, as in user+tag@host; \"none\" disables tags.",
    ),
    option(
        ("vrfy", ""),
        "WHO",
        Once,
        Fixed(&["local"]),
        "RFC 5321 3.5, 7.3",
        "Clients that get answers to VRFY: on (all), off (none) or local (on this host). Others \
         get 252.",
    ),
    option(
        ("expn", ""),
        "WHO",
        Once,
        Fixed(&["local"]),
        "RFC 5321 3.5, 7.3",
        "Clients that may list the members of a list with EXPN: on, off or local. Others get 252.",
    ),
    option(
        ("forward-replies", ""),
        "WHO",
        Once,
        Fixed(&["local"]),
        "RFC 5321 3.4, 7.4",
        "Clients that get the new address, by 251 or 551, when an alias points to another host: \
         on, off or local. Others get 250 or 550.",
    ),
    option(
        ("terminals", ""),
        "WHO",
        Once,
        Fixed(&["off"]),
        "RFC 821 3.4",
        "Clients that may use SEND, SOML and SAML to write to the terminals of logged-in users who \
         accept messages (mesg y): on, off or local.",
    ),
    option(
        ("tls-cert", ""),
        "FILE",
        Once,
        Fixed(&["none"]),
        "RFC 3207",
        "Offer STARTTLS with the certificates in FILE, in PEM format: the server's own first, then \
         the intermediate ones. HUP reloads them.",
    ),
    option(
        ("tls-key", ""),
        "FILE",
        Once,
        Computed("the file of tls-cert"),
        "RFC 3207",
        "Private key of the first certificate, in PEM format, not encrypted.",
    ),
    option(
        ("tls-required", ""),
        "SWITCH",
        Once,
        Fixed(&["off"]),
        "RFC 3207 4",
        "With on, only EHLO, STARTTLS, NOOP and QUIT work before STARTTLS; other commands get 530. \
         Do not use this on a host that receives mail from the Internet.",
    ),
    option(
        ("run-as", ""),
        "USER[:GROUP]",
        Once,
        Computed("the user who starts it; for root mailslot:mail, unless --sandbox or --user"),
        "",
        "When started as root, switch to USER permanently after sockets are bound and keys are \
         read. The only privilege kept is to write each mailbox as its owner.",
    ),
    option(
        ("smarthost", ""),
        "HOST",
        Many,
        Fixed(&["none"]),
        "RFC 5321 2.1",
        "Relay mail for other hosts through this server: HOST, HOST:PORT, tls:HOST or unix:PATH. \
         On port 465 TLS starts with the connection, unless the prefix is plain:. \
         If several are given, they are tried in this order: the next one gets what those before \
         it defer, or all mail while they cannot be reached. Without a smarthost such mail is \
         refused.",
    ),
    option(
        ("route", ""),
        "DOMAIN TARGET",
        Many,
        Fixed(&["none"]),
        "RFC 5321 5.1",
        "Relay mail for DOMAIN to TARGET, such as \"a.example mx.example.org:587\", which is one \
         argument on the command line. DOMAIN may also be .a.example, for the domains below it, \
         or *. The most specific one is used, and for all others the smarthost. TARGET is a \
         server as for --smarthost, lmtp:unix:PATH, or mx for the hosts in the MX records of the \
         domain. A third word, verify, encrypt or may, replaces --smarthost-tls; with mx the \
         default is may. Several servers of one DOMAIN are tried in order, as smarthosts are.",
    ),
    option(
        ("connections", ""),
        "N",
        Once,
        Fixed(&["20"]),
        "",
        "Maximum number of connections to one smarthost, to the server of one route, or with mx \
         to the hosts of one domain. They are opened while mail waits. A server that refuses one \
         gets fewer.",
    ),
    option(
        ("smarthost-tls", ""),
        "WORD",
        Once,
        Fixed(&["verify"]),
        "RFC 3207 4.1",
        "verify: require TLS and a valid certificate for the name of the smarthost. encrypt: \
         require TLS with any certificate. may: use TLS if it is offered.",
    ),
    option(
        ("smarthost-ca", ""),
        "FILE",
        Once,
        Fixed(&["none"]),
        "RFC 5280",
        "Certificates to trust in place of those that this system trusts, in PEM format: of an \
         authority, or the smarthost's own. HUP reloads them.",
    ),
    option(
        ("smarthost-login", ""),
        "FILE",
        Once,
        Fixed(&["none"]),
        "RFC 4954",
        "File with lines HOST USER PASSWORD or, as in Postfix, [HOST]:PORT USER:PASSWORD. HOST may \
         be *, for any host. The file belongs to root (mode 0600, or 0640 with the group that \
         mailslot runs as) or to the user that mailslot runs as (mode 0600). Over TCP, a password \
         is sent only inside TLS.",
    ),
    option(
        ("smarthost-sender", ""),
        "SENDER",
        Once,
        Fixed(&["none"]),
        "",
        "Sender of mail that goes to the smarthost, for a provider that accepts its own addresses \
         only: an address, or a file with lines USER ADDRESS, where USER may be *. Only local \
         senders are replaced. They still get mailslot's own reports.",
    ),
    option(
        ("smarthost-from", ""),
        "SWITCH",
        Once,
        Fixed(&["off"]),
        "",
        "With on, smarthost-sender also replaces a local address in the From field, which becomes \
         the Reply-To field if there is none.",
    ),
    option(
        ("relay-from", ""),
        "NETWORK",
        Many,
        Computed("this host only"),
        "RFC 5321 3.6.2",
        "Network of clients that may also relay to other hosts, such as 192.0.2.0/24 or \
         2001:db8::/32.",
    ),
    option(
        ("forward-files", ""),
        "SWITCH",
        Once,
        Fixed(&["off"]),
        "",
        "With on, mail for a user goes to the addresses in ~/.forward, which is read with the \
         user's permissions. Programs and files are not supported there.",
    ),
    option(
        ("hold", ""),
        "WORD",
        Once,
        Fixed(&["local"]),
        "",
        "local: queue mail of clients on this host that cannot be delivered to a mailbox now, \
         because their programs do not retry. off: defer it, as mail of all other clients.",
    ),
    option(
        ("warn-after", ""),
        "TIME",
        Once,
        Fixed(&["4h"]),
        "RFC 5321 4.5.4.1",
        "Send the sender one delay notice after mail has been queued for this time.",
    ),
    option(
        ("give-up-after", ""),
        "TIME",
        Once,
        Fixed(&["5d"]),
        "RFC 5321 4.5.4.1",
        "Return mail to the sender after it has been queued for this time.",
    ),
    option(
        ("inetd", ""),
        "",
        Arity::CommandLine,
        Computed("off"),
        "",
        "Serve one SMTP session on standard input and output, a socket or a pipe.",
    ),
    option(
        ("json", ""),
        "",
        Arity::CommandLine,
        Computed("off"),
        "RFC 8259",
        "With the command queue: print one JSON object on each line.",
    ),
    option(
        ("log", ""),
        "WHERE",
        Once,
        Computed("stderr; syslog with --inetd"),
        "",
        "Destination of the log: stderr or syslog. With syslog, the reason why the server does not \
         start goes to both.",
    ),
    option(
        ("metrics-file", ""),
        "FILE",
        Once,
        Fixed(&["none"]),
        "",
        "Write the counters to FILE every 15 seconds, for the textfile collector of Prometheus \
         node_exporter, which reads files named *.prom in its directory. Not with --inetd.",
    ),
    option(
        ("verbose", "v"),
        "",
        Arity::CommandLine,
        Computed("off"),
        "",
        "Log details; given twice, log everything.",
    ),
    option(
        ("quiet", "q"),
        "",
        Arity::CommandLine,
        Computed("off"),
        "",
        "Log only warnings and errors, and print nothing at startup.",
    ),
    option(
        ("help", "h"),
        "",
        Arity::CommandLine,
        Computed("off"),
        "",
        "Print the options and exit.",
    ),
    option(
        ("version", "V"),
        "",
        Arity::CommandLine,
        Computed("off"),
        "",
        "Print the version and exit.",
    ),
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
