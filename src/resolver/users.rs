//! The users that have a mailbox: those of the system, those named by `--user`, or, in a sandbox,
//! every plain name.
//!
//! A lookup has three results: the user, none, and an error. An error is never treated as none,
//! because a directory server that is down must cost a retry, not a bounce.
//!
//! A positive result is cached for one second ([`CachedUsers`]). A negative one is not, so that a
//! new user gets mail at once. The cache pays because under load the same few users are looked up
//! again and again: a passwd file of 10,000 lines takes 0.9 ms to search, one of 30 lines 6 us.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::User as Account;

use super::Refusal;
use crate::message::Owner;
use crate::process::confinement;

/// An account that has a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user name as the directory spells it. It names the mailbox.
    pub name: String,
    /// The required owner of the mailbox. None for the user that runs mailslot.
    pub owner: Option<Owner>,
    /// The name that VRFY and EXPN show: printable ASCII, may be empty.
    pub full_name: String,
}

/// A directory of users.
pub trait Users: Send + Sync {
    /// Returns the user of exactly this name. Case is not folded, and a tag is not removed.
    ///
    /// # Errors
    /// The directory cannot answer now. The text is for the log.
    fn find(&self, name: &str) -> Result<Option<User>, String>;

    /// Returns the users that can be listed cheaply, for VRFY of a full name.
    fn list(&self) -> Vec<User> {
        Vec::new()
    }

    /// Returns the only user among those of [`list`](Users::list) that has this name in any case.
    fn find_in_any_case(&self, name: &str) -> Option<User> {
        only_one(self.list().into_iter().filter(|user| user.name.eq_ignore_ascii_case(name)))
    }

    /// Returns the refusal for a name that is not found.
    fn refusal(&self) -> Refusal {
        Refusal::Unknown
    }
}

/// The users of the system, through NSS. System accounts are users too, because mail to root or
/// www-data is common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passwd;

impl Users for Passwd {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        // Some NSS modules build queries and paths from the name, so they get plain ones only.
        if !is_plain(name) || !name.is_ascii() {
            return Ok(None);
        }
        match Account::from_name(name) {
            Ok(account) => Ok(account.map(User::from)),
            Err(_) if confinement::blocks_reading(Path::new("/etc/passwd")) => {
                let error = "passwd: the file is new and outside of the confinement; \
                             restart mailslot";
                Err(error.to_owned())
            }
            // Some modules report an unknown user with these errors (getpwnam(3)). A passwd file
            // that is missing or cannot be read gives the same ones, but then root is not found
            // either.
            Err(Errno::ENOENT | Errno::ESRCH) => match Account::from_name("root") {
                Ok(Some(_)) => Ok(None),
                _ => Err("passwd: even root is not found".to_owned()),
            },
            Err(e) => Err(format!("passwd: {name}: {}", e.desc())),
        }
    }

    /// Returns the users in `/etc/passwd`. To list another directory may take too long.
    fn list(&self) -> Vec<User> {
        let mut text = Vec::new();
        let read =
            File::open("/etc/passwd").and_then(|f| f.take(PASSWD_MAX).read_to_end(&mut text));
        if read.is_err() {
            return Vec::new();
        }
        String::from_utf8_lossy(&text).lines().filter_map(parse_passwd_line).collect()
    }
}

/// A directory of users with a cache of the users found in the last second.
#[derive(Debug, Default)]
pub struct CachedUsers<U> {
    users: U,
    cache: Mutex<HashMap<String, (Instant, User)>>,
    /// Users with capital letters in their names, as they were listed then.
    capital: Mutex<Option<(Instant, Vec<User>)>>,
}

impl<U: Users> CachedUsers<U> {
    /// Creates an empty cache for `users`.
    pub fn new(users: U) -> CachedUsers<U> {
        CachedUsers { users, cache: Mutex::default(), capital: Mutex::default() }
    }

    fn find_at(&self, name: &str, now: Instant) -> Result<Option<User>, String> {
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, user)) = lock().get(name)
            && now.saturating_duration_since(*when) < CACHE_TIME
        {
            return Ok(Some(user.clone()));
        }
        // The lock is not held during the lookup, so that a slow one does not delay other sessions.
        let user = self.users.find(name)?;
        let mut found = lock();
        match &user {
            Some(user) => {
                if found.len() >= CACHE_MAX {
                    found.clear();
                }
                found.insert(name.to_owned(), (now, user.clone()));
            }
            None => drop(found.remove(name)),
        }
        Ok(user)
    }
}

impl<U: Users> Users for CachedUsers<U> {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        self.find_at(name, Instant::now())
    }

    fn list(&self) -> Vec<User> {
        self.users.list()
    }

    /// Lists the users once a second at most, because clients ask for unknown names often. Names in
    /// lower case were looked for before.
    fn find_in_any_case(&self, name: &str) -> Option<User> {
        let mut capital = self.capital.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_new = |(when, _): &&mut (Instant, Vec<User>)| {
            now.saturating_duration_since(*when) < CACHE_TIME
        };
        let users = match capital.as_mut().filter(is_new) {
            Some((_, users)) => users,
            None => {
                let mut users = self.users.list();
                users.retain(|user| user.name.contains(|c: char| c.is_ascii_uppercase()));
                &mut capital.insert((now, users)).1
            }
        };
        only_one(users.iter().filter(|user| user.name.eq_ignore_ascii_case(name))).cloned()
    }

    fn refusal(&self) -> Refusal {
        self.users.refusal()
    }
}

/// Returns the only item, or None if there are none or several.
fn only_one<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    first.filter(|_| items.next().is_none())
}

/// The users named by `--user`. Their mailboxes belong to the user that runs mailslot.
#[derive(Clone, Debug, Default)]
pub struct FixedUsers {
    names: Vec<String>,
    /// Indexes by exact name, and by lower-case name if only one user has that name in any case.
    index: HashMap<String, usize>,
}

impl FixedUsers {
    /// Creates a directory of just `names`.
    pub fn new(names: &[String]) -> FixedUsers {
        let names = names.to_vec();
        let mut index: HashMap<String, usize> = HashMap::with_capacity(2 * names.len());
        for (i, name) in names.iter().enumerate() {
            index.entry(name.clone()).or_insert(i);
        }
        let mut in_lower_case: HashMap<String, Vec<usize>> = HashMap::with_capacity(names.len());
        for (i, name) in names.iter().enumerate() {
            in_lower_case.entry(name.to_lowercase()).or_default().push(i);
        }
        for (name, of_name) in in_lower_case {
            if let [only] = of_name[..] {
                index.entry(name).or_insert(only);
            }
        }
        FixedUsers { names, index }
    }
}

impl Users for FixedUsers {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        let found = self.index.get(name).and_then(|i| self.names.get(*i));
        Ok(found.map(|name| user_without_owner(name)))
    }

    fn list(&self) -> Vec<User> {
        self.names.iter().map(|name| user_without_owner(name)).collect()
    }

    /// Returns None, because [`find`](Users::find) finds such a user by the name in lower case.
    fn find_in_any_case(&self, _name: &str) -> Option<User> {
        None
    }
}

/// The users of a sandbox: every plain name in lower case. The resolver folds case if the exact
/// name is unknown, so that `Bob` and `bob` share a mailbox.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyUser;

impl Users for AnyUser {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        let folded = name == name.to_lowercase();
        Ok((folded && is_plain(name)).then(|| user_without_owner(name)))
    }

    /// Returns `NameNotAllowed`, because only a name that is not plain is not found.
    fn refusal(&self) -> Refusal {
        Refusal::NameNotAllowed
    }
}

/// True if `name` is safe as the name of a mailbox:
///
/// - it consists of letters, digits, `. _ - + = ~ '`, and visible characters that are not ASCII;
/// - it begins with a letter, a digit, `_`, or a character that is not ASCII;
/// - it does not end with a dot or hold two in a row, which an address would have to quote;
/// - it does not end with `.lock`, which dotlocks do;
/// - it has at most 64 bytes (RFC 5321 4.5.3.1.1).
///
/// Characters are not normalized, so that two Unicode forms of a name are two names.
pub fn is_plain(name: &str) -> bool {
    let first = |c: char| {
        if c.is_ascii() { c == '_' || c.is_ascii_alphanumeric() } else { !is_hidden(c) }
    };
    name.len() <= 64
        && name.starts_with(first)
        && name.chars().all(|c| first(c) || ".-+=~'".contains(c))
        && !name.contains("..")
        && !name.ends_with('.')
        && !name.ends_with(".lock")
}

/// True if `c` is invisible or changes how others look: control characters, white space, joiners,
/// direction marks, tags, and code points that are no characters.
pub(super) fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_graphic();
    }
    c.is_control()
        || c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..)
}

/// True if `text`, from a VRFY command, is the user's full name or a word of it, or a part of the
/// user name (`smith` of `j.smith`). Case is ignored.
pub(super) fn matches_vrfy(user: &User, text: &str) -> bool {
    let word = |w: &str| !text.is_empty() && w.eq_ignore_ascii_case(text);
    word(&user.full_name)
        || user.full_name.split([' ', '.']).any(word)
        || user.name.split(['.', '_', '-']).any(word)
}

impl From<Account> for User {
    fn from(account: Account) -> User {
        let owner = Owner { uid: account.uid.as_raw(), gid: account.gid.as_raw() };
        let full_name = full_name(&account.gecos.to_string_lossy(), &account.name);
        User { name: account.name, owner: Some(owner), full_name }
    }
}

/// Returns a user that is not one of the system's.
fn user_without_owner(name: &str) -> User {
    User { name: name.to_owned(), owner: None, full_name: String::new() }
}

/// Parses a line such as `smith:x:1000:1000:Fred Smith,Room 2:/home/smith:/bin/sh`.
fn parse_passwd_line(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let full_name = full_name(fields.next()?, name);
    let owner = Some(Owner { uid, gid });
    is_plain(name).then(|| User { name: name.to_owned(), owner, full_name })
}

/// Returns the full name in a GECOS field: up to the first comma, with `&` for the capitalized
/// login name (finger(1)). A character that is not printable ASCII becomes `?`. Characters that
/// have a meaning in an address are left out.
fn full_name(gecos: &str, login: &str) -> String {
    let name = gecos.split(',').next().unwrap_or_default();
    let mut text = String::new();
    for c in name.chars() {
        match c {
            '&' => {
                let mut login = login.chars();
                text.extend(login.next().map(|c| c.to_ascii_uppercase()));
                text.push_str(login.as_str());
            }
            '<' | '>' | '"' | '\\' | '(' | ')' | '@' => {}
            ' '..='~' => text.push(c),
            _ => text.push('?'),
        }
    }
    text.trim().chars().take(FULL_NAME_MAX).collect()
}

/// Time for which a user that was found stays in the cache.
const CACHE_TIME: Duration = Duration::from_secs(1);

/// Maximum number of users in the cache.
const CACHE_MAX: usize = 1024;

/// Maximum number of bytes of `/etc/passwd` read for VRFY, enough for more than 10,000 users.
const PASSWD_MAX: u64 = 4 << 20;

/// Maximum length of a full name in a reply in octets. A reply line has 512 (RFC 5321 4.5.3.1.5).
const FULL_NAME_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn plain_names() {
        let longest = "a".repeat(64);
        let too_long = "a".repeat(65);
        for name in [
            "é",
            "jürgen",
            "संपर्क",
            "用户+tag",
            "a",
            "0",
            "_apt",
            "www-data",
            "j.smith",
            "bob+tag",
            "o'hara",
            "x=y~z",
            &longest,
        ] {
            assert!(is_plain(name), "{name:?}");
        }
        for name in [
            "",
            ".",
            "..",
            ".bob",
            "-rf",
            "+bob",
            "~root",
            "=x",
            "a/b",
            "../x",
            "a b",
            "a\tb",
            "a\0",
            "a\n",
            "a%b",
            "a!b",
            "a@b",
            "a|b",
            "a\\b",
            "a:b",
            "a$",
            "*",
            "bob.lock",
            "a.",
            "a..b",
            "a\u{85}",
            "a\u{a0}b",
            "a\u{202e}b",
            "\u{200b}",
            "a\u{e0061}",
            &"é".repeat(33),
            &too_long,
        ] {
            assert!(!is_plain(name), "{name:?}");
        }
    }

    #[test]
    fn full_names() {
        for (gecos, want) in [
            ("", ""),
            (",,,", ""),
            ("Fred Smith", "Fred Smith"),
            ("Fred Smith,Room 2,555", "Fred Smith"),
            ("& Smith", "Smith Smith"),
            (" J\u{fc}rgen ", "J?rgen"),
            ("a\r\nb\0c\x1b[31m", "a??b?c?[31m"),
            ("<x@y> \"q\\\" (c)", "xy q c"),
        ] {
            assert_eq!(full_name(gecos, "smith"), want, "{gecos:?}");
        }
        assert_eq!(full_name(&"x".repeat(5000), "smith").len(), FULL_NAME_MAX);
        assert_eq!(full_name("&", ""), "");
    }

    #[test]
    fn passwd_finds_root_and_no_odd_names() {
        let root = Passwd.find("root").unwrap().unwrap();
        assert_eq!((root.name.as_str(), root.owner.map(|o| o.uid)), ("root", Some(0)));
        for name in ["no-such-user-here", "", "../etc", "root:x", "root\0", "+", "root\n"] {
            assert_eq!(Passwd.find(name), Ok(None), "{name:?}");
        }
        assert!(Passwd.list().iter().any(|u| u.name == "root"));
    }

    /// Finds every name `a...`, fails for `later`, and counts the lookups.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Users for Counting {
        fn find(&self, name: &str) -> Result<Option<User>, String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match name {
                "later" => Err("down".to_owned()),
                name => Ok(name.starts_with('a').then(|| user_without_owner(name))),
            }
        }
    }

    #[test]
    fn only_positive_results_are_cached_and_not_for_long() {
        let users = CachedUsers::new(Counting::default());
        let start = Instant::now();
        for (name, after, questions) in [
            ("ann", Duration::ZERO, 1),
            ("ann", Duration::ZERO, 1),
            ("ann", CACHE_TIME - Duration::from_nanos(1), 1),
            ("ann", CACHE_TIME, 2),
            ("nobody", CACHE_TIME, 3),
            ("nobody", CACHE_TIME, 4),
            ("later", CACHE_TIME, 5),
            ("later", CACHE_TIME, 6),
        ] {
            let found = users.find_at(name, start + after);
            assert_eq!(found.clone().is_ok_and(|u| u.is_some()), name == "ann", "{name}");
            assert_eq!(found.is_err(), name == "later");
            assert_eq!(users.users.0.load(Ordering::Relaxed), questions, "{name} {after:?}");
        }
        for i in 0..3 * CACHE_MAX {
            users.find_at(&format!("a{i}"), start).unwrap();
        }
        assert!(users.cache.lock().unwrap().len() <= CACHE_MAX);
    }

    #[test]
    fn passwd_lines() {
        let user =
            parse_passwd_line("smith:x:1000:1001:Fred Smith,,,:/home/smith:/bin/sh").unwrap();
        assert_eq!(user.full_name, "Fred Smith");
        assert_eq!(user.owner, Some(Owner { uid: 1000, gid: 1001 }));
        for line in ["", "smith", "smith:x", "smith:x:a:b:c", "+::::::", "# x", "a/b:x:1:1:n:/:/"] {
            assert_eq!(parse_passwd_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn named_users_fold_only_when_the_exact_name_is_free() {
        let users = FixedUsers::new(&["Bob".into(), "bob".into(), "Ann".into()]);
        let name = |n: &str| users.find(n).unwrap().map(|u| u.name);
        assert_eq!(name("Bob").as_deref(), Some("Bob"));
        assert_eq!(name("bob").as_deref(), Some("bob"));
        assert_eq!(name("ann").as_deref(), Some("Ann"));
        assert_eq!(name("ANN"), None, "folding is the resolver's");
        assert_eq!(name(""), None);
    }

    #[test]
    fn any_plain_name_in_lower_case_is_a_user() {
        assert!(AnyUser.find("bob").unwrap().is_some());
        assert_eq!(AnyUser.find("Bob"), Ok(None));
        assert_eq!(AnyUser.find("a/b"), Ok(None));
        assert_eq!(AnyUser.refusal(), Refusal::NameNotAllowed);
    }

    #[test]
    fn words_of_a_name() {
        let smith = User { full_name: "Fred Q. Smith".into(), ..user_without_owner("fq.smith-2") };
        for text in ["smith", "SMITH", "Fred", "fred q. smith", "fq", "2"] {
            assert!(matches_vrfy(&smith, text), "{text:?}");
        }
        for text in ["smi", "fred smith", "fq.smit", "x"] {
            assert!(!matches_vrfy(&smith, text), "{text:?}");
        }
        assert!(!matches_vrfy(&user_without_owner("a-"), ""), "an empty word is in many names");
    }
}
