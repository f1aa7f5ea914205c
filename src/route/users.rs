//! Who has a mailbox: the users of the system, those named by `--user`, or, in a sandbox, anyone.
//!
//! A lookup has three answers: the user, nobody, and "not now". The last is never turned into
//! nobody: a directory server that is down must cost a retry, not a bounce.
//!
//! A user who was found is believed for one second ([`CachedUsers`]); that somebody is nobody, never: a
//! new user gets mail at once. (A passwd file of 10,000 lines takes 0.9 ms to search, one of 30
//! lines 6 us, and under load the same few users are asked for again and again.)

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

/// One person or account with a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user name, in its one true spelling: it names the mailbox.
    pub name: String,
    /// Whose the mailbox must be; None: whoever runs mailslot.
    pub owner: Option<Owner>,
    /// For VRFY and EXPN; printable ASCII, may be empty.
    pub full_name: String,
}

/// A directory of users.
pub trait Users: Send + Sync {
    /// The user of exactly this name (no folding of case, no tags).
    ///
    /// # Errors
    /// It cannot be known now; the text, for the log, says why.
    fn find(&self, name: &str) -> Result<Option<User>, String>;

    /// All users, as far as they can be listed cheaply, for VRFY of a full name.
    fn list(&self) -> Vec<User> {
        Vec::new()
    }

    /// What the sender of mail to a name that is nobody's is told.
    fn refusal(&self) -> Refusal {
        Refusal::Unknown
    }
}

/// The users of the system, through NSS. System accounts too: mail to root or www-data is ordinary.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passwd;

impl Users for Passwd {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        // Some NSS modules build queries and paths from the name; they never see an odd one.
        if !is_plain(name) || !name.is_ascii() {
            return Ok(None);
        }
        match Account::from_name(name) {
            Ok(account) => Ok(account.map(User::from)),
            Err(_) if confinement::blocks_reading(Path::new("/etc/passwd")) => {
                Err("passwd: the file is new and outside of the sandbox; restart mailslot".into())
            }
            // getpwnam(3): some modules say "nobody" this way. But a passwd file that is missing
            // or out of reach looks the same, and then root is not found either.
            Err(Errno::ENOENT | Errno::ESRCH) => match Account::from_name("root") {
                Ok(Some(_)) => Ok(None),
                _ => Err("passwd: not even root is found".to_owned()),
            },
            Err(e) => Err(format!("passwd: {name}: {}", e.desc())),
        }
    }

    /// Those of `/etc/passwd`. Other directories can be asked, but are not walked through.
    fn list(&self) -> Vec<User> {
        let mut text = Vec::new();
        let read =
            File::open("/etc/passwd").and_then(|f| f.take(PASSWD_MAX).read_to_end(&mut text));
        if read.is_err() {
            return Vec::new();
        }
        String::from_utf8_lossy(&text).lines().filter_map(listed).collect()
    }
}

/// A directory whose users are believed for a second once they were found.
#[derive(Debug, Default)]
pub struct CachedUsers<U> {
    users: U,
    found: Mutex<HashMap<String, (Instant, User)>>,
}

impl<U: Users> CachedUsers<U> {
    /// Nothing of `users` is known yet.
    pub fn new(users: U) -> CachedUsers<U> {
        CachedUsers { users, found: Mutex::default() }
    }

    fn find_at(&self, name: &str, now: Instant) -> Result<Option<User>, String> {
        let lock = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, user)) = lock().get(name)
            && now.saturating_duration_since(*when) < BELIEVED
        {
            return Ok(Some(user.clone()));
        }
        // Looked up without the lock: a slow answer holds up nobody else.
        let user = self.users.find(name)?;
        let mut found = lock();
        match &user {
            Some(user) => {
                if found.len() >= RECENT_MAX {
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

    fn refusal(&self) -> Refusal {
        self.users.refusal()
    }
}

/// The users named by `--user`: these and no others, owned by whoever runs mailslot.
#[derive(Clone, Debug, Default)]
pub struct FixedUsers {
    names: Vec<String>,
    /// By exact name, and by folded name where that is nobody's exact one.
    index: HashMap<String, usize>,
}

impl FixedUsers {
    /// A directory of just `names`.
    pub fn new(names: &[String]) -> FixedUsers {
        let names = names.to_vec();
        let mut index: HashMap<String, usize> = HashMap::with_capacity(2 * names.len());
        for (i, name) in names.iter().enumerate() {
            index.entry(name.clone()).or_insert(i);
        }
        for (i, name) in names.iter().enumerate() {
            index.entry(name.to_lowercase()).or_insert(i);
        }
        FixedUsers { names, index }
    }
}

impl Users for FixedUsers {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        let found = self.index.get(name).and_then(|i| self.names.get(*i));
        Ok(found.map(|name| unowned(name)))
    }

    fn list(&self) -> Vec<User> {
        self.names.iter().map(|name| unowned(name)).collect()
    }
}

/// The sandbox's: every plain name in lower case is a user. (The resolver folds case when the exact
/// name is unknown, so `Bob` and `bob` share a mailbox.)
#[derive(Clone, Copy, Debug, Default)]
pub struct AnyUser;

impl Users for AnyUser {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        let folded = name == name.to_lowercase();
        Ok((folded && is_plain(name)).then(|| unowned(name)))
    }

    /// Only a name that cannot be a mailbox is not found here: 553.
    fn refusal(&self) -> Refusal {
        Refusal::NameNotAllowed
    }
}

/// Whether `name` makes a file name without surprises: letters, digits and `. _ - + = ~ '`, of
/// which a letter, a digit or `_` comes first, and what is not ASCII and can be seen; no dot at the
/// end and no two together, which an address must quote; at most 64 octets (RFC 5321 4.5.3.1.1); no
/// `.lock` at the end, which is how dotlocks are named.
///
/// Characters are taken as they came: a name in another of Unicode's normal forms is another name.
pub fn is_plain(name: &str) -> bool {
    let first = |c: char| match c.is_ascii() {
        true => c == '_' || c.is_ascii_alphanumeric(),
        false => !is_hidden(c),
    };
    name.len() <= 64
        && name.starts_with(first)
        && name.chars().all(|c| first(c) || ".-+=~'".contains(c))
        && !name.contains("..")
        && !name.ends_with('.')
        && !name.ends_with(".lock")
}

/// Whether `c` cannot be seen, or changes how others are seen: control characters, blanks, joiners,
/// signs of direction, tags, and what is no character.
pub(super) fn is_hidden(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..)
}

/// Whether `text`, as given to VRFY, is the user's full name or a word of it, or a part of the user
/// name (`smith` of `j.smith`), in any case.
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

/// A user who is not one of the system's.
fn unowned(name: &str) -> User {
    User { name: name.to_owned(), owner: None, full_name: String::new() }
}

/// `smith:x:1000:1000:Fred Smith,Room 2:/home/smith:/bin/sh`
fn listed(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let full_name = full_name(fields.next()?, name);
    let owner = Some(Owner { uid, gid });
    is_plain(name).then(|| User { name: name.to_owned(), owner, full_name })
}

/// The full name in a GECOS field: up to the first comma, `&` standing for the login name in
/// capitals (finger(1)). What is not printable ASCII becomes `?`; what could be taken for an
/// address or a quote is left out.
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

/// How long a user who was found is taken to be there still.
const BELIEVED: Duration = Duration::from_secs(1);

/// The most users remembered.
const RECENT_MAX: usize = 1024;

/// The most octets read of `/etc/passwd` for VRFY: 10,000 users and more.
const PASSWD_MAX: u64 = 4 << 20;

/// The longest full name in a reply, in octets; a reply line has 512 (RFC 5321 4.5.3.1.5).
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
    fn passwd_finds_root_and_nobody_else() {
        let root = Passwd.find("root").unwrap().unwrap();
        assert_eq!((root.name.as_str(), root.owner.map(|o| o.uid)), ("root", Some(0)));
        for name in ["no-such-user-here", "", "../etc", "root:x", "root\0", "+", "root\n"] {
            assert_eq!(Passwd.find(name), Ok(None), "{name:?}");
        }
        assert!(Passwd.list().iter().any(|u| u.name == "root"));
    }

    /// Says yes to `a...`, not now to `later`, and counts the questions.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Users for Counting {
        fn find(&self, name: &str) -> Result<Option<User>, String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match name {
                "later" => Err("down".to_owned()),
                name => Ok(name.starts_with('a').then(|| unowned(name))),
            }
        }
    }

    #[test]
    fn only_who_was_found_is_remembered_and_not_for_long() {
        let users = CachedUsers::new(Counting::default());
        let start = Instant::now();
        for (name, after, questions) in [
            ("ann", Duration::ZERO, 1),
            ("ann", Duration::ZERO, 1),
            ("ann", BELIEVED - Duration::from_nanos(1), 1),
            ("ann", BELIEVED, 2),
            ("nobody", BELIEVED, 3),
            ("nobody", BELIEVED, 4),
            ("later", BELIEVED, 5),
            ("later", BELIEVED, 6),
        ] {
            let found = users.find_at(name, start + after);
            assert_eq!(found.clone().is_ok_and(|u| u.is_some()), name == "ann", "{name}");
            assert_eq!(found.is_err(), name == "later");
            assert_eq!(users.users.0.load(Ordering::Relaxed), questions, "{name} {after:?}");
        }
        for i in 0..3 * RECENT_MAX {
            users.find_at(&format!("a{i}"), start).unwrap();
        }
        assert!(users.found.lock().unwrap().len() <= RECENT_MAX);
    }

    #[test]
    fn passwd_lines() {
        let user = listed("smith:x:1000:1001:Fred Smith,,,:/home/smith:/bin/sh").unwrap();
        assert_eq!(user.full_name, "Fred Smith");
        assert_eq!(user.owner, Some(Owner { uid: 1000, gid: 1001 }));
        for line in ["", "smith", "smith:x", "smith:x:a:b:c", "+::::::", "# x", "a/b:x:1:1:n:/:/"] {
            assert_eq!(listed(line), None, "{line:?}");
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
    fn anyone_is_a_plain_name_in_lower_case() {
        assert!(AnyUser.find("bob").unwrap().is_some());
        assert_eq!(AnyUser.find("Bob"), Ok(None));
        assert_eq!(AnyUser.find("a/b"), Ok(None));
        assert_eq!(AnyUser.refusal(), Refusal::NameNotAllowed);
    }

    #[test]
    fn words_of_a_name() {
        let smith = User { full_name: "Fred Q. Smith".into(), ..unowned("fq.smith-2") };
        for text in ["smith", "SMITH", "Fred", "fred q. smith", "fq", "2"] {
            assert!(matches_vrfy(&smith, text), "{text:?}");
        }
        for text in ["smi", "fred smith", "fq.smit", "x"] {
            assert!(!matches_vrfy(&smith, text), "{text:?}");
        }
        assert!(!matches_vrfy(&unowned("a-"), ""), "an empty word is in many names");
    }
}
