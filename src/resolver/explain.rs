//! Explanations of resolutions: how an address is delivered (`mailslot explain`), and the errors in
//! aliases and users (`mailslot check`). Both use the expansion that mail uses, so that they print
//! what happens to mail.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::alias_file::ReadError;
use super::aliases::{AliasEntry, AliasItem, AliasPlace, AliasTarget, Aliases};
use super::expand::{Expansion, ExpansionMode, POSTMASTER};
use super::users::User;
use super::{LocalResolver, Refusal, Resolution, alias_file};
use crate::message::MailboxName;

/// A problem that an administrator should fix, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The problem and its place.
    pub what: String,
    /// A command or advice that fixes it.
    pub fix: String,
    /// True if mail to some address is refused or deferred because of it.
    pub stops_mail: bool,
}

/// Writes the problem, and its fix on the next line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n   fix: {}", self.what, self.fix)
    }
}

/// The way of an address, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The expansion of its aliases, then the mailboxes, or the reply that a sender would get.
    /// Several lines, each with its line end.
    pub text: String,
    /// The refusal, if mail for the address is not accepted.
    pub refusal: Option<Refusal>,
}

impl LocalResolver {
    /// Describes how `address` is delivered.
    pub fn explain(&self, address: &str) -> Explanation {
        let mut text = format!("{}\n", address.escape_debug());
        let mut refused = None;
        let mut refuse = |refusal: Refusal| {
            let outcome = refusal.to_string();
            refused = Some(refusal);
            outcome
        };
        let outcome = match (self.parse_mailbox(address), self.current_aliases()) {
            (Err(error), _) => {
                refuse(Refusal::NameNotAllowed);
                format!("not an address: {error}")
            }
            (Ok(mailbox), _) if !self.is_local(mailbox.domain()) => {
                if self.is_relayed(&mailbox) {
                    "relayed, for clients that may relay".to_owned()
                } else {
                    refuse(Refusal::NotLocal)
                }
            }
            (_, Err(refusal)) => refuse(refusal),
            (Ok(mailbox), Ok(aliases)) => {
                let mut expansion = Expansion::new(self, &aliases, ExpansionMode::Explain);
                expansion.expand_name(mailbox.local(), &self.lookup_host(mailbox.domain()));
                for line in &expansion.lines {
                    text.push_str(line);
                    text.push('\n');
                }
                match (self.expand(&mailbox), expansion.finish()) {
                    (Ok((resolution, _)), Ok(_)) => describe(&resolution),
                    // The mail is for postmaster, and does not follow the aliases.
                    (Ok((resolution, _)), Err(refusal)) => {
                        format!("{}, because: {refusal}", describe(&resolution))
                    }
                    (Err(refusal), _) => refuse(refusal),
                }
            }
        };
        text += &format!("  = {outcome}\n");
        Explanation { text, refusal: refused }
    }

    /// Returns the problems of aliases and users, for `mailslot check`. Expands every alias, which
    /// takes seconds if there are very many.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::from_iter(self.unreadable_aliases());
        for name in &self.config.users {
            if MailboxName::new(name).is_none() {
                problems.push(Problem {
                    what: format!("user `{}` has no valid mailbox name", name.escape_debug()),
                    fix: "choose a name without `/`, spaces and a leading dot".to_owned(),
                    stops_mail: true,
                });
            }
        }
        problems.extend(self.doubtful_aliases());
        if let Ok(aliases) = self.current_aliases() {
            self.alias_problems(&aliases, &mut problems);
        }
        problems
    }

    /// Reads the aliases file again, and returns its errors: why it cannot be read, or the lines
    /// that are ignored. If there are none, the aliases of the file are in use.
    pub fn reload_aliases(&self) -> Vec<Problem> {
        self.aliases.reload();
        if let Some(problem) = self.unreadable_aliases() {
            return vec![problem];
        }
        let Ok(aliases) = self.current_aliases() else { return Vec::new() };
        let file = aliases.path.display();
        let problem = |(line, error): &(usize, String)| Problem {
            what: format!("{file}:{line}: {error}"),
            fix: CORRECT_LINE.to_owned(),
            stops_mail: true,
        };
        aliases.errors.iter().map(problem).collect()
    }

    fn unreadable_aliases(&self) -> Option<Problem> {
        let ReadError { what, fix } = self.aliases.error()?;
        Some(Problem { what, fix, stops_mail: true })
    }

    /// Returns the aliases that look like a catch-all and are none, for `mailslot check` and the
    /// log of the start.
    pub fn doubtful_aliases(&self) -> Vec<Problem> {
        let Ok(aliases) = self.current_aliases() else { return Vec::new() };
        let looks_so = |name: &str| {
            let local = name.split('@').next().unwrap_or_default();
            local == "*" || local.eq_ignore_ascii_case("default")
        };
        let named = aliases.places().map(|place| (place, aliases.name(place)));
        let problem = |(place, name): (AliasPlace, String)| Problem {
            what: format!(
                "{}:{}: alias `{}` is for that address alone, and no catch-all; mail for unknown \
                 users is rejected",
                aliases.path.display(),
                place.line(),
                name
            ),
            fix: "remove the alias, and add one for each name that is to get mail".to_owned(),
            stops_mail: false,
        };
        named.filter(|(_, name)| looks_so(name)).map(problem).collect()
    }

    fn alias_problems(&self, aliases: &Aliases, problems: &mut Vec<Problem>) {
        let file = aliases.path.display();
        let exposed = std::fs::metadata(&aliases.path);
        if exposed.is_ok_and(|meta| alias_file::writable_by_others(&meta)) {
            problems.push(Problem {
                what: format!("{file} is writable by others than its owner"),
                fix: format!("chmod go-w {file}"),
                stops_mail: false,
            });
        }
        // Sorted by line. An error is shown once, however many aliases lead to it.
        let mut found: BTreeMap<(usize, String), (String, bool)> = BTreeMap::new();
        for (line, error) in &aliases.errors {
            let fix = CORRECT_LINE.to_owned();
            found.insert((*line, format!("{file}:{line}: {error}")), (fix, true));
        }
        for (place, entry) in aliases.entries() {
            let mut add = |what: String, fix: &str, stops_mail: bool| {
                found.entry((entry.line, what)).or_insert((fix.to_owned(), stops_mail));
            };
            let here = format!("{file}:{}: alias `{}`", entry.line, entry.name);
            if entry.mailbox.as_ref().is_some_and(|mailbox| !self.is_local(mailbox.domain())) {
                let what = format!("{here} is never used, because its domain is not local");
                add(what, "add the domain with --domain, or remove the alias", false);
            } else if self.shadows_user(&entry) {
                let what = format!("{here} hides the user of that name, so the user gets no mail");
                add(what, "unless that is intended, add the name to its own targets", false);
            }
            let mut expansion = Expansion::new(self, aliases, ExpansionMode::Explain);
            expansion.expand_alias(place);
            for error in &expansion.errors {
                let what = match &error.refusal {
                    Refusal::Misconfigured(text)
                    | Refusal::LookupFailed(text)
                    | Refusal::Unsupported(text) => text.clone(),
                    refusal => format!("{here}: {refusal}"),
                };
                add(what, &error.fix, true);
            }
            if expansion.errors.is_empty()
                && let Err(Refusal::NotLocal) = expansion.finish()
            {
                let what = format!("{here} leads to several addresses, not all of them local");
                add(
                    what,
                    "use one remote address, or only local ones; or relay with --smarthost",
                    true,
                );
            }
        }
        let mut shown = HashSet::new();
        for ((_, what), (fix, stops_mail)) in found {
            if shown.insert(what.clone()) {
                problems.push(Problem { what, fix, stops_mail });
            }
        }
        self.postmaster_problem(aliases, problems);
    }

    /// True if the alias has the name of a person's account and leaves that user out. Aliases for
    /// system accounts are normal.
    fn shadows_user(&self, entry: &AliasEntry) -> bool {
        let person = |user: &User| user.owner.is_none_or(|o| (1000..65534).contains(&o.uid));
        let itself = |item: &AliasItem| match &item.target {
            AliasTarget::Name(name) | AliasTarget::User(name) => {
                name.eq_ignore_ascii_case(&entry.name)
            }
            AliasTarget::Mailbox(mailbox) => mailbox.local().eq_ignore_ascii_case(&entry.name),
            // Include files are not searched for the user.
            AliasTarget::Include(_) => true,
            AliasTarget::Null | AliasTarget::Unsupported { .. } | AliasTarget::Invalid { .. } => {
                false
            }
        };
        entry.mailbox.is_none()
            && !entry.items.iter().any(itself)
            && matches!(self.users.find(&entry.name), Ok(Some(user)) if person(&user))
    }

    fn postmaster_problem(&self, aliases: &Aliases, problems: &mut Vec<Problem>) {
        let mut expansion = Expansion::new(self, aliases, ExpansionMode::Resolve);
        expansion.expand_name(POSTMASTER, &self.primary);
        let Err(refusal) = expansion.finish() else { return };
        let (what, fix, stops_mail) = match self.expand_name(POSTMASTER, &self.primary) {
            Ok((resolution, _)) => {
                let outcome = describe(&resolution);
                let what = format!("mail for postmaster is {outcome}, not by the alias: {refusal}");
                (what, "let the alias lead to a user of this host", false)
            }
            Err(_) => {
                let what = "mail for postmaster cannot be delivered (RFC 5321 4.5.1)".to_owned();
                (what, "add an alias `postmaster:` that leads to a user", true)
            }
        };
        problems.push(Problem { what, fix: fix.to_owned(), stops_mail });
    }
}

/// Describes the destinations of an address, for people.
fn describe(resolution: &Resolution) -> String {
    let local: Vec<&str> = resolution.local.iter().map(|to| to.name.as_str()).collect();
    let remote: Vec<String> = resolution.remote.iter().map(|to| format!("<{to}>")).collect();
    let (local_list, remote_list) = (local.join(", "), remote.join(", "));
    match (local.is_empty(), remote.is_empty()) {
        (true, true) => "thrown away".to_owned(),
        (false, true) => format!("delivered to {local_list}"),
        (true, false) => format!("relayed to {remote_list}"),
        (false, false) => format!("delivered to {local_list}, and relayed to {remote_list}"),
    }
}

/// The fix of a line that is no alias.
const CORRECT_LINE: &str = "correct the line, or remove it";
