//! What people are told: how an address is delivered (`mailslot explain`), and what is wrong with
//! aliases and users (`mailslot check`). Found by the same walk that mail takes, so that neither
//! can say anything else than what happens.

use std::collections::{BTreeMap, HashSet};

use super::aliases::{AliasItem, AliasTarget, Aliases};
use super::expand::{Expansion, ExpansionMode, POSTMASTER};
use super::users::User;
use super::{ExpansionResult, LocalRoute, Refusal, alias_file, verdict};
use crate::message::MailboxName;

/// Something an administrator should know before mail is lost in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, and where.
    pub what: String,
    /// What to do about it.
    pub fix: String,
    /// Whether mail to some address is refused or put off because of it.
    pub stops_mail: bool,
}

impl LocalRoute {
    /// How `address` is delivered, for people: the way through the aliases, and the mailboxes or
    /// the reply a sender would see. Several lines, each with its line end.
    pub fn explain(&self, address: &str) -> String {
        let mut text = format!("{}\n", address.escape_debug());
        let outcome = match (self.mailbox_of(address), self.current()) {
            (Err(why), _) => format!("not an address: {why}"),
            (Ok(mailbox), _) if !self.is_ours(mailbox.domain()) => match self.settings.relays {
                true => "sent on, for clients that may relay".to_owned(),
                false => Refusal::NotLocal.to_string(),
            },
            (_, Err(refusal)) => refusal.to_string(),
            (Ok(mailbox), Ok(aliases)) => {
                let mut walk = Expansion::new(self, &aliases, ExpansionMode::Explain);
                walk.start_at_name(mailbox.local(), &self.host(mailbox.domain()));
                for line in &walk.lines {
                    text.push_str(line);
                    text.push('\n');
                }
                let relays = self.settings.relays;
                match (self.ends(&mailbox, relays), verdict(walk, relays)) {
                    (Ok(ends), Ok(_)) => told(&ends),
                    // Only postmaster has another way.
                    (Ok(ends), Err(why)) => format!("{}, because: {why}", told(&ends)),
                    (Err(refusal), _) => refusal.to_string(),
                }
            }
        };
        text + "  = " + &outcome + "\n"
    }

    /// Everything that is wrong with aliases and users, for `mailslot check`. Walks through every
    /// alias: seconds, if there are very many.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(unread) = self.aliases.unread() {
            problems.push(Problem { what: unread.what, fix: unread.fix, stops_mail: true });
        }
        for name in &self.settings.users {
            if MailboxName::new(name).is_none() {
                problems.push(Problem {
                    what: format!("user `{}` has a name no mailbox can have", name.escape_debug()),
                    fix: "choose a name without `/`, blanks and a leading dot".to_owned(),
                    stops_mail: true,
                });
            }
        }
        if let Ok(aliases) = self.current() {
            self.alias_problems(&aliases, &mut problems);
        }
        problems
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
        // By line, and the same fault once, however many aliases lead to it.
        let mut found: BTreeMap<(usize, String), (String, bool)> = BTreeMap::new();
        for (line, why) in &aliases.complaints {
            let fix = "correct the line, or take it out".to_owned();
            found.insert((*line, format!("{file}:{line}: {why}")), (fix, true));
        }
        for (index, entry) in aliases.entries.iter().enumerate() {
            let mut add = |what: String, fix: &str, stops_mail: bool| {
                found.entry((entry.line, what)).or_insert((fix.to_owned(), stops_mail));
            };
            let here = format!("{file}:{}: alias `{}`", entry.line, entry.name);
            if entry.mailbox.as_ref().is_some_and(|mailbox| !self.is_ours(mailbox.domain())) {
                let what = format!("{here} is never used: its domain is not one of ours");
                add(what, "add the domain with --domain, or take the alias out", false);
            } else if self.shadows_user(aliases, index) {
                let what =
                    format!("{here} stands before the user of that name, who gets none of it");
                add(what, "if that is not meant, add the name to its own targets", false);
            }
            let mut walk = Expansion::new(self, aliases, ExpansionMode::Explain);
            walk.start_at_alias(index);
            for fault in &walk.faults {
                let what = match &fault.refusal {
                    Refusal::Misconfigured(what) | Refusal::Later(what) => what.clone(),
                    refusal => format!("{here}: {refusal}"),
                };
                add(what, &fault.fix, true);
            }
            if walk.faults.is_empty()
                && let Err(Refusal::NotLocal) = verdict(walk, self.settings.relays)
            {
                let what = format!("{here} leads to more than one address, not all of them here");
                add(
                    what,
                    "make it one address elsewhere, or only ours; or relay with --smarthost",
                    true,
                );
            }
        }
        let mut said = HashSet::new();
        for ((_, what), (fix, stops_mail)) in found {
            if said.insert(what.clone()) {
                problems.push(Problem { what, fix, stops_mail });
            }
        }
        self.postmaster_problem(aliases, problems);
    }

    /// Whether a person's user name is an alias that leaves the person out. (Aliases for system
    /// accounts are what everybody has.)
    fn shadows_user(&self, aliases: &Aliases, index: usize) -> bool {
        let Some(entry) = aliases.entries.get(index).filter(|e| e.mailbox.is_none()) else {
            return false;
        };
        let person = |user: &User| user.owner.is_none_or(|o| (1000..65534).contains(&o.uid));
        let itself = |item: &AliasItem| match &item.target {
            AliasTarget::Name(name) | AliasTarget::User(name) => {
                name.eq_ignore_ascii_case(&entry.name)
            }
            AliasTarget::Mailbox(mailbox) => mailbox.local().eq_ignore_ascii_case(&entry.name),
            // Who is in a file is not looked for.
            AliasTarget::Include(_) => true,
            AliasTarget::Invalid { .. } => false,
        };
        !entry.items.iter().any(itself)
            && matches!(self.users.find(&entry.name), Ok(Some(user)) if person(&user))
    }

    fn postmaster_problem(&self, aliases: &Aliases, problems: &mut Vec<Problem>) {
        let mut walk = Expansion::new(self, aliases, ExpansionMode::Resolve);
        walk.start_at_name(POSTMASTER, &self.primary);
        let Err(refusal) = verdict(walk, self.settings.relays) else { return };
        let (what, fix, stops_mail) =
            match self.ends_of(POSTMASTER, &self.primary, self.settings.relays) {
                Ok(ends) => {
                    let told = told(&ends);
                    let what =
                        format!("mail for postmaster is {told}, not by the alias: {refusal}");
                    (what, "let the alias lead to a user of this host", false)
                }
                Err(_) => {
                    let what = "nobody gets the mail for postmaster (RFC 5321 4.5.1)".to_owned();
                    (what, "add an alias `postmaster:` that leads to a user", true)
                }
            };
        problems.push(Problem { what, fix: fix.to_owned(), stops_mail });
    }
}

/// Where mail goes, for people.
fn told(ends: &ExpansionResult) -> String {
    let here: Vec<&str> = ends.here.iter().map(|(to, _)| to.mailbox.as_str()).collect();
    let elsewhere: Vec<String> = ends.elsewhere.iter().map(|to| format!("<{to}>")).collect();
    match (here.is_empty(), elsewhere.is_empty()) {
        (_, true) => format!("delivered to {}", here.join(", ")),
        (true, false) => format!("sent on to {}", elsewhere.join(", ")),
        (false, false) => {
            format!("delivered to {}, and sent on to {}", here.join(", "), elsewhere.join(", "))
        }
    }
}
