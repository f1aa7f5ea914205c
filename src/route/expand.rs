//! From a name to mailboxes: one step ([`LocalRoute::look_up`]), and the walk through the aliases.
//!
//! A walk goes down the tree of targets, depth first, in the order of the file:
//!
//! ```text
//! staff ─┬─ alice            user: a mailbox
//!        ├─ bob ─── robert   alias, then user
//!        ├─ :include:/list ─┬─ staff   the list in itself: the *user* staff
//!        │                  └─ alice   already there: once is enough
//!        └─ fred@example.com           another host
//! ```
//!
//! - An alias among its own targets means the user of that name; a longer way back to an alias is a
//!   loop, and a fault.
//! - A fault anywhere spoils the whole (all or nothing): a list that has lost a member without
//!   anybody being told is worse than one that waits.
//! - A walk ends: at most [`LEVELS_MAX`] levels, [`ADDRESSES_MAX`] addresses and
//!   [`INCLUDES_MAX`] files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::alias_file::{self, FileTrust};
use super::aliases::{AliasEntry, AliasItem, AliasTarget, Aliases, parse_include};
use super::users::User;
use super::{LocalRoute, Member, Refusal};
use crate::message::{Destination, MailboxName};
use crate::smtp::{Domain, Mailbox};

/// Where a name leads, one step on.
#[derive(Debug)]
pub(super) enum Lookup {
    /// To this entry of the aliases.
    Alias(usize),
    /// To a user's mailbox.
    User(ExpansionTarget),
    /// Nowhere.
    Nobody,
}

/// An end of a walk, on this host.
#[derive(Clone, Debug)]
pub(super) enum ExpansionTarget {
    /// A mailbox, and its user.
    Mailbox(Destination, Member),
    /// An alias that was not followed any further (EXPN).
    List(Mailbox),
}

/// Something that spoils a walk.
#[derive(Clone, Debug)]
pub(super) struct AliasError {
    pub refusal: Refusal,
    /// What an administrator can do about it.
    pub fix: String,
}

impl LocalRoute {
    /// Whether mail for `domain` is ours. Of address literals only the loopback's are: a host of
    /// many addresses does not know them all.
    pub(super) fn is_ours(&self, domain: &Domain) -> bool {
        use crate::smtp::AddressLiteral::{General, V4, V6};
        let every = self.settings.sandbox && self.domains.is_empty();
        every
            || match domain {
                Domain::Name(_) => self.domains.contains(&domain.to_ascii()),
                Domain::Literal(V4(address)) => address.is_loopback(),
                Domain::Literal(V6(address)) => address.is_loopback(),
                Domain::Literal(General(_)) => false,
            }
    }

    /// The domain as lookups and Delivered-To name it: in ASCII. In the sandbox, where any may do,
    /// the one that was given; elsewhere a literal stands for the primary one.
    pub(super) fn host(&self, domain: &Domain) -> String {
        match domain {
            Domain::Literal(_) if !self.settings.sandbox => self.primary.clone(),
            Domain::Name(_) | Domain::Literal(_) => domain.to_ascii(),
        }
    }

    /// One step from `name` at `host`, without aliases if there are none to be asked. In this
    /// order: the alias `name@host`, the alias `name`, the user `name`, the user in lower case;
    /// then all of these again for what stands before the delimiter; and for postmaster, who always
    /// has a mailbox (RFC 5321 4.5.1), root and the first `--user`.
    ///
    /// # Errors
    /// `Later` if users cannot be looked up now, `NameNotAllowed` if the user has a name that
    /// cannot be a file's.
    pub(super) fn look_up(
        &self,
        aliases: Option<&Aliases>,
        name: &str,
        host: &str,
    ) -> Result<Lookup, Refusal> {
        let parted = self.settings.delimiter.and_then(|d| name.find(d)).map(|at| name.split_at(at));
        let parted = parted.filter(|(base, _)| !base.is_empty());
        let spellings = [(name, "")].into_iter().chain(parted).chain(self.fallbacks(name));
        for (spelling, tag) in spellings {
            if let Some(index) = aliases.and_then(|a| a.find(spelling, host)) {
                return Ok(Lookup::Alias(index));
            }
            if let Some(user) = self.user(spelling)? {
                return self.mailbox(user, tag, host).map(Lookup::User);
            }
        }
        Ok(Lookup::Nobody)
    }

    /// Who else gets the mail for postmaster.
    fn fallbacks(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let is_postmaster = name.eq_ignore_ascii_case(POSTMASTER);
        let names = ["root"].into_iter().chain(self.settings.users.first().map(String::as_str));
        names.filter(move |_| is_postmaster).map(|name| (name, ""))
    }

    /// The user `name`, or that in lower case.
    fn user(&self, name: &str) -> Result<Option<User>, Refusal> {
        let find = |name: &str| self.users.find(name).map_err(Refusal::Later);
        let folded = name.to_lowercase();
        match find(name)? {
            None if folded != name => find(&folded),
            found => Ok(found),
        }
    }

    /// A user's mailbox. Delivered-To names the user, and keeps the tag.
    fn mailbox(&self, user: User, tag: &str, host: &str) -> Result<ExpansionTarget, Refusal> {
        let host = if self.settings.sandbox { host } else { &self.primary };
        let local = format!("{}{tag}", user.name);
        let address = Domain::parse(host).and_then(|domain| Mailbox::new(&local, domain));
        let (Some(mailbox), Ok(address)) = (MailboxName::new(&user.name), address) else {
            return Err(Refusal::NameNotAllowed);
        };
        let delivered_to = address.to_string();
        let destination = Destination { mailbox, owner: user.owner, delivered_to };
        Ok(ExpansionTarget::Mailbox(
            destination,
            Member { full_name: user.full_name, mailbox: address },
        ))
    }
}

/// A walk and what it has found so far.
pub(super) struct Expansion<'a> {
    pub(super) local: &'a LocalRoute,
    pub(super) aliases: &'a Aliases,
    pub(super) kind: ExpansionMode,
    /// The ends on this host, none twice.
    pub found: Vec<ExpansionTarget>,
    /// The ends on other hosts, none twice.
    pub remote: Vec<Mailbox>,
    /// What was wrong on the way. The first spoils the walk; an explaining one goes on.
    pub faults: Vec<AliasError>,
    /// The way, for people; only of an explaining walk.
    pub lines: Vec<String>,
    boxes: HashSet<MailboxName>,
    /// From the start to where the walk is now.
    path: Vec<ExpansionStep>,
    done: HashSet<ExpansionStep>,
    pub(super) addresses: usize,
    includes: usize,
    /// The users whose forward files the walk is in.
    pub(super) forwarding: Vec<String>,
    /// Those whose forward files were followed.
    pub(super) forwarded: HashSet<String>,
}

/// How a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpansionMode {
    /// To all ends, stopping at the first fault: RCPT and VRFY.
    Resolve,
    /// Only to an alias's own targets: EXPN.
    Members,
    /// To all ends and all faults, writing down the way: `explain` and `check`.
    Explain,
}

/// A place where a walk can come by twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ExpansionStep {
    Alias(usize),
    Include(PathBuf),
}

/// The file and line a target stands in.
#[derive(Clone, Copy)]
struct SourceLine<'a> {
    file: &'a Path,
    line: usize,
}

impl<'a> Expansion<'a> {
    /// A walk that has not begun.
    pub fn new(local: &'a LocalRoute, aliases: &'a Aliases, kind: ExpansionMode) -> Expansion<'a> {
        Expansion {
            local,
            aliases,
            kind,
            found: Vec::new(),
            remote: Vec::new(),
            faults: Vec::new(),
            lines: Vec::new(),
            boxes: HashSet::new(),
            path: Vec::new(),
            done: HashSet::new(),
            addresses: 0,
            includes: 0,
            forwarding: Vec::new(),
            forwarded: HashSet::new(),
        }
    }

    /// Goes from a name that a client or a person gave.
    pub fn start_at_name(&mut self, name: &str, host: &str) {
        self.name(name, host, None);
    }

    /// Goes from an alias.
    pub fn start_at_alias(&mut self, index: usize) {
        self.alias(index);
    }

    fn name(&mut self, name: &str, host: &str, from: Option<SourceLine<'_>>) {
        let (local, aliases) = (self.local, self.aliases);
        let mut lead = local.look_up(Some(aliases), name, host);
        // `alice: alice, bob` is the user alice; also by way of a list in a file of its own.
        let holder = self.path.iter().rev().find_map(|node| match node {
            ExpansionStep::Alias(index) => Some(*index),
            ExpansionStep::Include(_) => None,
        });
        if let (Ok(Lookup::Alias(index)), Some(holder)) = (&lead, holder)
            && *index == holder
        {
            lead = local.look_up(None, name, host);
        }
        match lead {
            Ok(Lookup::Alias(index)) => self.alias(index),
            lead => self.end(name, lead, from),
        }
    }

    /// Takes a user's mailbox, or the fault that there is none.
    fn end(&mut self, name: &str, lead: Result<Lookup, Refusal>, from: Option<SourceLine<'_>>) {
        match (lead, from) {
            (Ok(Lookup::User(found)), _) => self.take(found),
            (Err(refusal @ Refusal::Later(_)), _) => {
                self.fault(refusal, "look at the system's user database (getent passwd)");
            }
            (_, Some(from)) => self.wrong(
                from,
                &format!("leads to `{}`, no user or alias here", name.escape_debug()),
                "correct the name, add the user, or take the name out",
            ),
            (Err(refusal), None) => self.fault(refusal, "choose another name"),
            (Ok(_), None) => {
                self.fault(self.local.users.refusal(), "add the user, or an alias of that name");
            }
        }
    }

    /// A user's mail goes where the user wants it, or into the mailbox.
    fn take(&mut self, found: ExpansionTarget) {
        match &found {
            ExpansionTarget::Mailbox(to, _)
                if self.kind != ExpansionMode::Members && self.forward(to) => {}
            _ => self.keep(found),
        }
    }

    /// The mailbox itself, whatever its user's forward file says.
    pub(super) fn keep(&mut self, found: ExpansionTarget) {
        let ExpansionTarget::Mailbox(to, _) = &found else { return };
        let new = self.boxes.insert(to.mailbox.clone());
        let again = if new { "" } else { " (again)" };
        self.note(|| format!("{}: mailbox {}{again}", to.delivered_to, to.mailbox));
        if new {
            self.found.push(found);
        }
    }

    fn alias(&mut self, index: usize) {
        let aliases = self.aliases;
        let Some(entry) = aliases.entries.get(index) else { return };
        if self.kind == ExpansionMode::Members && !self.path.is_empty() {
            let list = match &entry.mailbox {
                Some(mailbox) => Ok(mailbox.clone()),
                None => self.local.at_primary_domain(&entry.name),
            };
            self.found.extend(list.ok().map(ExpansionTarget::List));
            return;
        }
        self.note(|| {
            let file = aliases.path.display();
            format!("alias {} ({file}:{}) -> {}", entry.name, entry.line, listed(&entry.items))
        });
        self.descend(ExpansionStep::Alias(index), &entry.items, &aliases.path);
    }

    fn include(&mut self, path: &Path, from: SourceLine<'_>) {
        self.note(|| format!(":include:{}", path.display()));
        let node = ExpansionStep::Include(path.to_owned());
        if self.path.contains(&node) || self.done.contains(&node) {
            return self.descend(node, &[], path);
        }
        self.includes += 1;
        if self.includes > INCLUDES_MAX {
            let what = format!("leads to more than {INCLUDES_MAX} :include: files");
            return self.too_much(&what, "use fewer files");
        }
        match alias_file::read(path, FileTrust::Included) {
            Ok((text, _)) => self.descend(node, &parse_include(&text), path),
            Err(unread) => {
                let what = format!("includes a file that is not read: {}", unread.what);
                self.wrong(from, &what, &unread.fix);
            }
        }
    }

    /// Follows the targets at `node`, unless the walk is there or was there.
    fn descend(&mut self, node: ExpansionStep, items: &[AliasItem], file: &Path) {
        if let Some(start) = self.path.iter().position(|on_path| *on_path == node) {
            let what = format!("a loop: {}", self.loop_from(start));
            return self.wrong_at(self.loop_place(start), &what, "take one of its names out");
        }
        if self.path.len() >= LEVELS_MAX {
            let what = format!("leads on for more than {LEVELS_MAX} levels");
            return self.too_much(&what, "name the users themselves");
        }
        if !self.done.insert(node.clone()) {
            return self.note(|| "  (as above)".to_owned());
        }
        self.path.push(node);
        for item in items {
            if self.is_over() {
                break;
            }
            self.item(item, file);
        }
        self.path.pop();
    }

    pub(super) fn item(&mut self, item: &AliasItem, file: &Path) {
        let from = SourceLine { file, line: item.line };
        self.addresses += 1;
        if self.addresses > ADDRESSES_MAX {
            let what = format!("leads to more than {ADDRESSES_MAX} addresses");
            return self.too_much(&what, "use a program made for lists of that size");
        }
        let local = self.local;
        match &item.target {
            AliasTarget::Name(name) => self.name(name, &local.primary, Some(from)),
            AliasTarget::User(name) => match local.look_up(None, name, &local.primary) {
                Ok(Lookup::User(found)) => self.keep(found),
                lead => self.end(name, lead, Some(from)),
            },
            AliasTarget::Mailbox(mailbox) if local.is_ours(mailbox.domain()) => {
                self.name(mailbox.local(), &local.host(mailbox.domain()), Some(from));
            }
            AliasTarget::Mailbox(mailbox) => {
                self.note(|| format!("{mailbox}: on another host"));
                if !self.remote.contains(mailbox) {
                    self.remote.push(mailbox.clone());
                }
            }
            AliasTarget::Include(path) => self.include(path, from),
            AliasTarget::Invalid { text, why } if text.is_empty() => {
                self.wrong(from, why, "name somebody, or take the alias out");
            }
            AliasTarget::Invalid { text, why } => {
                self.wrong(from, &format!("leads to `{text}`, which {why}"), "correct the line");
            }
        }
    }

    /// Whether going on is no use.
    fn is_over(&self) -> bool {
        self.addresses > ADDRESSES_MAX
            || (self.kind != ExpansionMode::Explain && !self.faults.is_empty())
            // A database that does not answer would be waited for at every name.
            || matches!(self.faults.last(), Some(AliasError { refusal: Refusal::Later(_), .. }))
    }

    /// A fault in a target of the alias that the walk is in.
    fn wrong(&mut self, from: SourceLine<'_>, what: &str, fix: &str) {
        let holder = self.path.iter().rev().find_map(|node| self.entry(node));
        let name = holder.map_or("", |entry| entry.name.as_str());
        self.wrong_at(from, &format!("alias `{name}` {what}"), fix);
    }

    /// A limit was passed: by the alias that the walk began with, not by the last straw.
    fn too_much(&mut self, what: &str, fix: &str) {
        let Some(entry) = self.path.first().and_then(|node| self.entry(node)) else { return };
        let place = SourceLine { file: &self.aliases.path, line: entry.line };
        self.wrong_at(place, &format!("alias `{}` {what}", entry.name), fix);
    }

    fn wrong_at(&mut self, place: SourceLine<'_>, what: &str, fix: &str) {
        let what = format!("{}:{}: {what}", place.file.display(), place.line);
        self.note(|| format!("! {what}"));
        self.fault(Refusal::Misconfigured(what), fix);
    }

    fn fault(&mut self, refusal: Refusal, fix: &str) {
        self.faults.push(AliasError { refusal, fix: fix.to_owned() });
    }

    /// `a -> b -> a`, beginning with the first in the file, wherever the walk came in: so that the
    /// same loop is always told in the same words.
    fn loop_from(&self, start: usize) -> String {
        let nodes = self.path.get(start..).unwrap_or_default();
        let first = self.first_of(nodes);
        let ring = nodes.iter().cycle().skip(first).take(nodes.len() + 1);
        let names: Vec<String> = ring
            .map(|node| match node {
                ExpansionStep::Alias(_) => {
                    self.entry(node).map(|e| e.name.clone()).unwrap_or_default()
                }
                ExpansionStep::Include(path) => format!(":include:{}", path.display()),
            })
            .collect();
        names.join(" -> ")
    }

    /// Where that loop begins.
    fn loop_place(&self, start: usize) -> SourceLine<'a> {
        let nodes = self.path.get(start..).unwrap_or_default();
        let first = nodes.get(self.first_of(nodes)).or(self.path.first());
        let line = first.and_then(|node| self.entry(node)).map_or(1, |entry| entry.line);
        SourceLine { file: &self.aliases.path, line }
    }

    /// Of a loop's nodes the one to begin with: the alias that comes first in the file.
    fn first_of(&self, nodes: &[ExpansionStep]) -> usize {
        let order = |node: &ExpansionStep| match node {
            ExpansionStep::Alias(index) => *index,
            ExpansionStep::Include(_) => usize::MAX,
        };
        (0..nodes.len()).min_by_key(|i| nodes.get(*i).map(order)).unwrap_or(0)
    }

    fn entry(&self, node: &ExpansionStep) -> Option<&'a AliasEntry> {
        match node {
            ExpansionStep::Alias(index) => self.aliases.entries.get(*index),
            ExpansionStep::Include(_) => None,
        }
    }

    pub(super) fn note(&mut self, text: impl FnOnce() -> String) {
        if self.kind == ExpansionMode::Explain {
            self.lines.push(format!("{:1$}{2}", "", 2 * (self.path.len() + 1), text()));
        }
    }
}

/// Targets for people, the first few of them.
fn listed(items: &[AliasItem]) -> String {
    let mut names: Vec<String> =
        items.iter().take(LISTED_MAX).map(|item| item.target.to_string()).collect();
    if items.len() > LISTED_MAX {
        names.push(format!("{} more", items.len() - LISTED_MAX));
    }
    names.join(", ")
}

/// Has a mailbox on every host (RFC 5321 4.5.1).
pub(super) const POSTMASTER: &str = "postmaster";

/// Aliases within aliases, and files within files.
pub(super) const LEVELS_MAX: usize = 20;

/// Targets looked at for one recipient.
const ADDRESSES_MAX: usize = 1000;

/// Files read for one recipient.
const INCLUDES_MAX: usize = 16;

/// Targets that `explain` shows on an alias's line.
const LISTED_MAX: usize = 10;
