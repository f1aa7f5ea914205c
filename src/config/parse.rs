//! What the text of a value means, option by option.
//!
//! Each function takes the text and returns the value; or, for a text that it does not accept, the
//! form that it expects, to follow the word "expected" in the complaint.

use std::path::PathBuf;
use std::time::Duration;

use crate::deliver::Locks;
use crate::message::MailboxName;
use crate::net::listen::ListenAddress;
use crate::observe::logging::LogTarget;
use crate::process::privilege::RunAs;
use crate::route::users::is_plain;
use crate::session::Audience;
use crate::smtp::Domain;

/// A path: not empty, no NUL.
pub fn path(text: &str) -> Result<PathBuf, String> {
    match text.is_empty() || text.contains('\0') {
        true => Err("a path".to_owned()),
        false => Ok(PathBuf::from(text)),
    }
}

/// An address to listen on.
pub fn address(text: &str) -> Result<ListenAddress, String> {
    let form = "HOST:PORT, [IPV6]:PORT, tls:HOST:PORT or unix:PATH, such as 127.0.0.1:25";
    text.parse().map_err(|_| form.to_owned())
}

/// An address to listen on for LMTP, which keeps away from SMTP's port (RFC 2033 5).
pub fn lmtp_address(text: &str) -> Result<ListenAddress, String> {
    match address(text)? {
        ListenAddress::Tcp { port: 25, .. } => {
            Err("unix:PATH, or a port other than SMTP's 25".to_owned())
        }
        address => Ok(address),
    }
}

/// A domain's name by the grammar of RFC 5321 4.1.2, which the receiver parses with too.
pub fn domain(text: &str) -> Result<String, String> {
    match Domain::parse(text) {
        Ok(Domain::Name(name)) => Ok(name),
        _ => Err("a domain name, such as mail.example.org".to_owned()),
    }
}

/// The same in ASCII, for greeting and replies (RFC 6531 3.7.1).
pub fn hostname(text: &str) -> Result<String, String> {
    let name = domain(text)?;
    Ok(if name.is_ascii() { name } else { Domain::Name(name).to_ascii() })
}

/// A user's name that is fit for a mailbox's.
pub fn user(text: &str) -> Result<String, String> {
    let seen = text.is_ascii() || is_plain(text);
    let fits = MailboxName::new(text).is_some() && seen && !text.contains('@');
    if fits { Ok(text.to_owned()) } else { Err("a user's name, without a domain".to_owned()) }
}

/// `mailslot`, `mailslot:mail`
pub fn run_as(text: &str) -> Result<RunAs, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let plain = |name: &str| is_plain(name) && name.is_ascii();
    match plain(user) && group.is_none_or(plain) {
        true => Ok(RunAs { user: user.to_owned(), group: group.map(str::to_owned) }),
        false => Err("USER or USER:GROUP, such as mailslot:mail".to_owned()),
    }
}

/// `dotlock,fcntl,flock`, or some of them.
pub fn locks(text: &str) -> Result<Locks, String> {
    let mut locks = Locks { dotlock: false, fcntl: false, flock: false };
    for word in text.split(',') {
        let lock = match word.trim() {
            "dotlock" => &mut locks.dotlock,
            "fcntl" => &mut locks.fcntl,
            "flock" => &mut locks.flock,
            _ => return Err("one or more of dotlock, fcntl and flock, with commas".to_owned()),
        };
        *lock = true;
    }
    Ok(locks)
}

/// A number within its limits.
pub fn number(text: &str, min: usize, max: usize) -> Result<usize, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(n) if digits && (min..=max).contains(&n) => Ok(n),
        _ => Err(format!("a number from {min} to {max}")),
    }
}

/// Octets: `64K`, `25M`, `1G`, or a plain number; at least 1.
pub fn size(text: &str) -> Result<u64, String> {
    with_unit(text, &[('k', 1 << 10), ('m', 1 << 20), ('g', 1 << 30)])
        .filter(|n| (1..=SIZE_MAX).contains(n))
        .ok_or_else(|| "octets, or a number with K, M or G, such as 25M".to_owned())
}

/// Seconds: `300`, `5m`, `2h`, `1d`; at least `min` of them.
pub fn time(text: &str, min: u64) -> Result<Duration, String> {
    with_unit(text, &[('s', 1), ('m', 60), ('h', 3600), ('d', 86400)])
        .filter(|n| (min..=TIME_MAX).contains(n))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("seconds, or a number with s, m, h or d, from {min}s to 7d"))
}

/// A character that parts user from tag.
pub fn delimiter(text: &str) -> Result<char, String> {
    // What RFC 5321's atoms may hold besides letters and digits: the address needs no quotes then.
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(c), None) if "!#$%&'*+-/=?^_`{|}~".contains(c) => Ok(c),
        _ => Err("one of ! # $ % & ' * + - / = ? ^ _ ` { | } ~ or \"none\"".to_owned()),
    }
}

/// Who is told: `on`, `off` or `local`.
pub fn switch(text: &str) -> Result<Audience, String> {
    match text {
        "on" => Ok(Audience::Everyone),
        "local" => Ok(Audience::Local),
        "off" => Ok(Audience::Nobody),
        _ => Err("on, off or local".to_owned()),
    }
}

/// `on` or `off`.
pub fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("on or off".to_owned()),
    }
}

/// `stderr` or `syslog`.
pub fn log_to(text: &str) -> Result<LogTarget, String> {
    match text {
        "stderr" => Ok(LogTarget::Stderr),
        "syslog" => Ok(LogTarget::Syslog),
        _ => Err("stderr or syslog".to_owned()),
    }
}

/// A number, and its unit if there is one.
fn with_unit(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let last = text.chars().last()?.to_ascii_lowercase();
    let (digits, times) = match units.iter().find(|(unit, _)| *unit == last) {
        Some((_, times)) => (&text[..text.len() - 1], *times),
        None => (text, 1),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| plain)?.checked_mul(times)
}

/// More than any disk holds, and far from overflow.
const SIZE_MAX: u64 = 1 << 50;
const TIME_MAX: u64 = 7 * 86400;
