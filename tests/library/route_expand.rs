//! Alias expansion: against a simple reference model on random graphs, at its limits, and with very
//! many aliases.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mailslot::resolver::users::{FixedUsers, User, Users};
use mailslot::resolver::{AddressResolver, LocalResolver, Refusal, ResolverConfig};
use mailslot::smtp::{ForwardPath, Mailbox};

/// Creates a host with these users and aliases. Also returns the number of lookups in its user
/// database.
fn host(users: &[String], aliases: &str) -> (LocalResolver, Arc<AtomicUsize>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), aliases).unwrap();
    let config = ResolverConfig {
        domains: vec!["example.org".to_owned()],
        users: users.to_vec(),
        aliases: Some(file.path().to_owned()),
        delimiter: Some('+'),
        relays: Vec::new(),
        ..ResolverConfig::default()
    };
    let lookups = Arc::new(AtomicUsize::new(0));
    let users = CountingUsers { users: FixedUsers::new(users), lookups: Arc::clone(&lookups) };
    (LocalResolver::with_users(config, Box::new(users)), lookups)
}

struct CountingUsers {
    users: FixedUsers,
    lookups: Arc<AtomicUsize>,
}

impl Users for CountingUsers {
    fn find(&self, name: &str) -> Result<Option<User>, String> {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.users.find(name)
    }
}

fn to(name: &str) -> ForwardPath {
    ForwardPath::Mailbox(Mailbox::parse(&format!("{name}@example.org")).unwrap())
}

fn boxes(local: &LocalResolver, name: &str) -> Result<BTreeSet<String>, Refusal> {
    let to = local.resolve(&to(name))?;
    let boxes: BTreeSet<String> = to.local.iter().map(|d| d.name.to_string()).collect();
    assert_eq!(boxes.len(), to.local.len(), "{name}: a mailbox twice");
    Ok(boxes)
}

/// Result of an expansion.
#[derive(Debug, PartialEq)]
enum Expansion {
    Boxes(BTreeSet<String>),
    Forward(String),
    NotLocal,
    Unknown,
    ConfigError,
}

fn expansion(result: Result<BTreeSet<String>, Refusal>) -> Expansion {
    match result {
        Ok(boxes) => Expansion::Boxes(boxes),
        Err(Refusal::Forward(mailbox)) => Expansion::Forward(mailbox.to_string()),
        Err(Refusal::NotLocal) => Expansion::NotLocal,
        Err(Refusal::Unknown) => Expansion::Unknown,
        Err(Refusal::Misconfigured(_)) => Expansion::ConfigError,
        Err(other) => panic!("{other:?}"),
    }
}

/// The reference model: it follows every path to its end and remembers nothing.
struct ReferenceModel {
    users: BTreeSet<String>,
    aliases: BTreeMap<String, Vec<String>>,
}

impl ReferenceModel {
    fn expansion(&self, name: &str) -> Expansion {
        if !self.aliases.contains_key(name) && !self.users.contains(name) {
            return Expansion::Unknown;
        }
        let mut ends = BTreeSet::new();
        if self.walk(name, &[], &mut ends).is_none() {
            return Expansion::ConfigError;
        }
        let (remote, boxes): (BTreeSet<String>, _) =
            ends.into_iter().partition(|e| e.contains('@'));
        match (boxes.is_empty(), remote.len()) {
            (_, 0) => Expansion::Boxes(boxes),
            (true, 1) => Expansion::Forward(remote.into_iter().collect()),
            _ => Expansion::NotLocal,
        }
    }

    fn walk(&self, name: &str, path: &[&str], ends: &mut BTreeSet<String>) -> Option<()> {
        if name.contains('@') {
            ends.insert(name.to_owned());
            return Some(());
        }
        let user = name.strip_prefix('\\');
        let itself = path.last() == Some(&name);
        match (user, self.aliases.get(name)) {
            (None, Some(targets)) if !itself => {
                if path.contains(&name) {
                    return None;
                }
                targets.iter().try_for_each(|t| self.walk(t, &[path, &[name]].concat(), ends))
            }
            _ => {
                let user = user.unwrap_or(name);
                self.users.get(user).map(|user| ends.extend([user.clone()]))
            }
        }
    }
}

#[test]
fn agrees_with_the_reference_model_on_random_graphs() {
    let seed = 821_u64;
    let mut state = seed;
    let mut random = |n: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut seen = [0; 5];
    for round in 0..2000 {
        // Each of n0 to n8 may be an alias, a user, both or neither. Low ones mostly lead to higher
        // ones, so that not every graph has a loop.
        let names: Vec<String> = (0..9).map(|i| format!("n{i}")).collect();
        let users = names.iter().enumerate().filter(|(i, _)| *i > 4 || random(3) == 0);
        let users: Vec<String> = users.map(|(_, name)| name.clone()).collect();
        let mut aliases = BTreeMap::new();
        for i in 0..7 {
            let mut targets = Vec::new();
            for _ in 0..=random(3) {
                let target = match random(24) {
                    0 => names[random(9)].clone(),
                    1 => names[i].clone(),
                    2 => format!("\\{}", names[random(9)]),
                    3 => format!("x{}@example.com", random(2)),
                    _ => names[i + 1 + random(8 - i)].clone(),
                };
                targets.push(target);
            }
            if random(4) > 0 {
                aliases.insert(names[i].clone(), targets);
            }
        }
        let file: String = aliases
            .iter()
            .map(|(name, targets)| format!("{name}: {}\n", targets.join(", ")))
            .collect();
        let (local, _) = host(&users, &file);
        let model = ReferenceModel { users: users.into_iter().collect(), aliases };
        for name in &names {
            let (got, want) = (expansion(boxes(&local, name)), model.expansion(name));
            assert_eq!(got, want, "seed {seed} round {round} {name}\n{file}{:?}", model.users);
            seen[match want {
                Expansion::Boxes(_) => 0,
                Expansion::Forward(_) => 1,
                Expansion::NotLocal => 2,
                Expansion::Unknown => 3,
                Expansion::ConfigError => 4,
            }] += 1;
        }
    }
    assert!(seen.iter().all(|n| *n > 50), "not every kind of result came up: {seen:?}");
}

#[test]
fn limit_of_levels() {
    let chain = |n: usize| -> String { (1..=n).map(|i| format!("a{i}: a{}\n", i + 1)).collect() };
    // a1 to an are aliases, one level each, and a(n+1) is a user.
    for (n, fine) in [(1, true), (19, true), (20, true), (21, false), (100, false), (5000, false)] {
        let (local, _) = host(&[format!("a{}", n + 1)], &chain(n));
        match boxes(&local, "a1") {
            Ok(boxes) => assert!(fine, "{n}: {boxes:?}"),
            Err(Refusal::Misconfigured(why)) => {
                assert!(!fine && why.contains("`a1`"), "{n}: {why}")
            }
            other => panic!("{n}: {other:?}"),
        }
        local.explain("a1");
    }
}

#[test]
fn limit_of_addresses() {
    for (n, fine) in [(1, true), (999, true), (1000, true), (1001, false), (50_000, false)] {
        let users: Vec<String> = (0..n).map(|i| format!("u{i}")).collect();
        let (local, lookups) = host(&users, &format!("all: {}\n", users.join(",\n  ")));
        match boxes(&local, "all") {
            Ok(boxes) => assert!(fine && boxes.len() == n),
            Err(Refusal::Misconfigured(why)) => assert!(!fine && why.contains("1000"), "{why}"),
            other => panic!("{other:?}"),
        }
        assert!(lookups.load(Ordering::Relaxed) <= 1000, "the work has no limit");
    }
}

/// Every alias leads to the next one twice. That makes 2^18 paths, which must not all be walked.
#[test]
fn many_paths_to_one_mailbox() {
    let aliases: String = (0..18).map(|i| format!("a{i}: a{0}, a{0}\n", i + 1)).collect();
    let (local, lookups) = host(&["a18".to_owned()], &aliases);
    assert_eq!(boxes(&local, "a0").unwrap().len(), 1);
    assert!(lookups.load(Ordering::Relaxed) <= 2);
    assert!(local.explain("a0").text.lines().count() < 100);
}

/// A lookup among 100,000 aliases and 10,000 users costs what it costs among ten.
#[test]
fn lookup_time_does_not_grow_with_size() {
    let hosts: Vec<_> = [10, 100_000]
        .iter()
        .map(|n| {
            let users: Vec<String> = (0..n / 10).map(|i| format!("user{i}")).collect();
            let aliases: String =
                (0..*n).map(|i| format!("alias{i}: user{}\n", i % (n / 10))).collect();
            (*n, host(&users, &aliases))
        })
        .collect();
    let times: Vec<Duration> = hosts
        .iter()
        .map(|(n, (local, lookups))| {
            let run = || {
                let start = Instant::now();
                for i in 0..1000 {
                    let last = format!("alias{}", n - 1 - i % n);
                    assert_eq!(boxes(local, &last).unwrap().len(), 1);
                    assert_eq!(boxes(local, "Nobody+x"), Err(Refusal::Unknown));
                }
                start.elapsed()
            };
            lookups.store(0, Ordering::Relaxed);
            let time = (0..3).map(|_| run()).min().unwrap();
            // Nobody+x, nobody+x, Nobody, nobody, and the user of the alias.
            assert_eq!(lookups.load(Ordering::Relaxed), 3 * 1000 * 5, "{n}");
            time
        })
        .collect();
    // A linear search would take thousands of times as long.
    assert!(times[1] < times[0] * 50, "{times:?}");
}
