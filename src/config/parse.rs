//! Parsers for the values of options.
//!
//! Each function returns the value, or else the expected form, which follows the word "expected" in
//! the error.

use std::path::PathBuf;
use std::time::Duration;

use crate::deliver::Locks;
use crate::message::MailboxName;
use crate::net::listen::ListenAddress;
use crate::observe::logging::LogTarget;
use crate::process::privilege::RunAs;
use crate::resolver::users::is_plain;
use crate::session::Audience;
use crate::smtp::Domain;

/// Parses a path: not empty, without NUL.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("a path".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Parses an address to listen on.
pub fn listen_address(text: &str) -> Result<ListenAddress, String> {
    let form = "HOST:PORT, [IPV6]:PORT, tls:HOST:PORT or unix:PATH, such as 127.0.0.1:25";
    text.parse().map_err(|_| form.to_owned())
}

/// Parses an address to listen on for LMTP, which must not use SMTP's port (RFC 2033 5).
pub fn lmtp_address(text: &str) -> Result<ListenAddress, String> {
    match listen_address(text)? {
        ListenAddress::Tcp { port: 25, .. } => {
            Err("unix:PATH, or a port other than SMTP's 25".to_owned())
        }
        address => Ok(address),
    }
}

/// Parses a domain name by the grammar of RFC 5321 4.1.2, as the receiver does. A closing dot,
/// which marks a complete name in DNS (RFC 1034 3.1), is removed.
pub fn domain(text: &str) -> Result<String, String> {
    match Domain::parse(text.strip_suffix('.').unwrap_or(text)) {
        Ok(Domain::Name(name)) => Ok(name),
        _ => Err("a domain name, such as mail.example.org".to_owned()),
    }
}

/// Parses a domain name and converts it to ASCII, for greeting and replies (RFC 6531 3.7.1).
pub fn hostname(text: &str) -> Result<String, String> {
    let name = domain(text)?;
    Ok(if name.is_ascii() { name } else { Domain::Name(name).to_ascii() })
}

/// Parses a user name that can name a mailbox.
pub fn user(text: &str) -> Result<String, String> {
    let printable = text.is_ascii() || is_plain(text);
    if printable && MailboxName::new(text).is_some() && !text.contains('@') {
        return Ok(text.to_owned());
    }
    Err("a user name without a domain".to_owned())
}

/// Parses `mailslot` or `mailslot:mail`.
pub fn run_as(text: &str) -> Result<RunAs, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let plain = |name: &str| is_plain(name) && name.is_ascii();
    if plain(user) && group.is_none_or(plain) {
        return Ok(RunAs { user: user.to_owned(), group: group.map(str::to_owned) });
    }
    Err("USER or USER:GROUP, such as mailslot:mail".to_owned())
}

/// Parses `dotlock,fcntl,flock`, or some of these.
pub fn locks(text: &str) -> Result<Locks, String> {
    let mut locks = Locks::NONE;
    for word in text.split(',') {
        let lock = match word.trim() {
            "dotlock" => &mut locks.dotlock,
            "fcntl" => &mut locks.fcntl,
            "flock" => &mut locks.flock,
            _ => {
                let form = "one or more of dotlock, fcntl and flock, separated by commas";
                return Err(form.to_owned());
            }
        };
        *lock = true;
    }
    Ok(locks)
}

/// Parses a number from `min` to `max`.
pub fn number(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n) if digits && (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("a number from {min} to {max}")),
    }
}

/// Parses a size in bytes: `64K`, `25M`, `1G`, or a number; at least 1.
pub fn size(text: &str) -> Result<u64, String> {
    with_unit(text, &[('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30)])
        .filter(|n| (1..=SIZE_MAX).contains(n))
        .ok_or_else(|| "a number of bytes, or a number with K, M or G, such as 25M".to_owned())
}

/// Parses a time of at least `min` seconds: `300`, `5m`, `2h`, `1d`.
pub fn time(text: &str, min: u64) -> Result<Duration, String> {
    with_unit(text, &[('s', 1), ('m', 60), ('h', 3600), ('d', 86400)])
        .filter(|n| (min..=TIME_MAX).contains(n))
        .map(Duration::from_secs)
        .ok_or_else(|| {
            format!("a number of seconds, or a number with s, m, h or d, from {min}s to 7d")
        })
}

/// Parses the separator between user and tag.
pub fn delimiter(text: &str) -> Result<char, String> {
    // The characters of an atom (RFC 5321 4.1.2) except letters and digits. An address with one
    // needs no quotes.
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if "!#$%&'*+-/=?^_`{|}~".contains(c) => Ok(c),
        _ => Err("one of ! # $ % & ' * + - / = ? ^ _ ` { | } ~ or \"none\"".to_owned()),
    }
}

/// Parses `on`, `off` or `local`.
pub fn audience(text: &str) -> Result<Audience, String> {
    match text {
        "on" => Ok(Audience::AnyClient),
        "local" => Ok(Audience::LocalClient),
        "off" => Ok(Audience::NoClient),
        _ => Err("on, off or local".to_owned()),
    }
}

/// Parses `on` or `off`.
pub fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// Parses `local` or `off`. Returns true for `local`.
pub fn hold(text: &str) -> Result<bool, String> {
    match text {
        "local" => Ok(true),
        "off" => Ok(false),
        _ => Err("local or off".to_owned()),
    }
}

/// Parses `stderr` or `syslog`.
pub fn log_target(text: &str) -> Result<LogTarget, String> {
    match text {
        "stderr" => Ok(LogTarget::Stderr),
        "syslog" => Ok(LogTarget::Syslog),
        _ => Err("stderr or syslog".to_owned()),
    }
}

/// Parses a number with an optional unit, and multiplies them. Units ignore case.
fn with_unit(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let last = text.chars().last()?.to_ascii_lowercase();
    let (digits, factor) = match units.iter().find(|(unit, _)| *unit == last) {
        Some((_, factor)) => (&text[..text.len() - 1], *factor),
        None => (text, 1),
    };
    // `parse` also accepts a leading plus.
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// More than any disk holds, and far from an overflow.
const SIZE_MAX: u64 = 1 << 50;
const TIME_MAX: u64 = 7 * 86400;
