//! Expansion of a name to destinations: one lookup ([`LocalResolver::look_up`]), and the aliases
//! that it leads to.
//!
//! The targets of an alias form a tree. [`Expansion`] walks it depth first, in the order of the
//! file:
//!
//! ```text
//! staff ─┬─ alice            user: a mailbox
//!        ├─ bob ─── robert   alias, then user
//!        ├─ :include:/list ─┬─ staff   the list within itself: the *user* staff
//!        │                  └─ alice   already found: added once
//!        └─ fred@example.com           another host
//! ```
//!
//! - An alias among its own targets is the user of that name. An alias that is reached again by
//!   way of another one is a loop, and an error.
//! - One error makes the whole expansion fail, because a list that silently loses a member is worse
//!   than a list that waits.
//! - An expansion is bounded: at most [`LEVELS_MAX`] levels, [`ADDRESSES_MAX`] addresses and
//!   [`INCLUDES_MAX`] files.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::alias_file::{self, FileTrust};
use super::aliases::{AliasItem, AliasPlace, AliasTarget, Aliases, parse_include};
use super::users::User;
use super::{LocalResolver, Member, Refusal, Resolution};
use crate::message::{MailboxName, UserMailbox};
use crate::smtp::{Domain, Mailbox};

/// The result of looking up one name.
#[derive(Debug)]
pub(super) enum Lookup {
    /// The place of an alias.
    Alias(AliasPlace),
    /// A user's mailbox.
    User(UserMailbox, Member),
    Unknown,
}

/// An error that makes an expansion fail.
#[derive(Clone, Debug)]
pub(super) struct AliasError {
    pub refusal: Refusal,
    /// Advice to the administrator.
    pub fix: String,
}

impl LocalResolver {
    /// True if mail for `domain` is delivered here. Of address literals only those of the loopback
    /// are local, because a host with many addresses does not know them all.
    pub(super) fn is_local(&self, domain: &Domain) -> bool {
        use crate::smtp::AddressLiteral::{General, V4, V6};
        let every = self.config.sandbox && self.domains.is_empty();
        every
            || match domain {
                Domain::Name(_) => self.domains.contains(&domain.to_ascii()),
                Domain::Literal(V4(address)) => address.is_loopback(),
                Domain::Literal(V6(address)) => address.is_loopback(),
                Domain::Literal(General(_)) => false,
            }
    }

    /// True if mail for `mailbox` can be relayed to another host.
    pub(super) fn is_relayed(&self, mailbox: &Mailbox) -> bool {
        let patterns = &self.config.relays;
        if patterns.is_empty() || self.is_local(mailbox.domain()) {
            return false;
        }
        let domain = mailbox.domain().to_ascii();
        patterns.iter().any(|pattern| pattern.matches(&domain))
    }

    /// Returns the domain as lookups and Delivered-To use it, in ASCII: the primary one for a
    /// literal. In the sandbox, where every domain may be local, a literal stays.
    pub(super) fn lookup_host(&self, domain: &Domain) -> String {
        match domain {
            Domain::Literal(_) if !self.config.sandbox => self.primary.clone(),
            Domain::Name(_) | Domain::Literal(_) => domain.to_ascii(),
        }
    }

    /// Looks up `name` at `host`, among `aliases` if given, and the users. Tries in this order: the
    /// alias `name@host`, the alias `name`, the user `name`, the user in lower case, the only user
    /// of that name in any case; then the same for the part before the delimiter; and for
    /// postmaster, which always has a mailbox (RFC 5321 4.5.1), root and the first `--user`. Mail
    /// for MAILER-DAEMON, the author of reports, goes to postmaster.
    ///
    /// # Errors
    /// `LookupFailed` if the user database does not answer, `NameNotAllowed` if the user's name
    /// cannot be a file name.
    pub(super) fn look_up(
        &self,
        aliases: Option<&Aliases>,
        name: &str,
        host: &str,
    ) -> Result<Lookup, Refusal> {
        let parted = self.config.delimiter.and_then(|d| name.find(d)).map(|at| name.split_at(at));
        let parted = parted.filter(|(base, _)| !base.is_empty());
        let spellings = [(name, "")].into_iter().chain(parted).chain(self.substitutes(name));
        for (spelling, tag) in spellings {
            if let Some(place) = aliases.and_then(|a| a.find(spelling, host)) {
                return Ok(Lookup::Alias(place));
            }
            if let Some(user) = self.find_user(spelling)? {
                let (destination, member) = self.user_mailbox(user, tag, host)?;
                return Ok(Lookup::User(destination, member));
            }
        }
        Ok(Lookup::Unknown)
    }

    /// Returns the names that get the mail for `name` if it is no alias or user, with empty tags:
    /// root and the first `--user` for postmaster, and postmaster before them for MAILER-DAEMON.
    fn substitutes(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let is_daemon = name.eq_ignore_ascii_case(MAILER_DAEMON);
        let is_postmaster = is_daemon || name.eq_ignore_ascii_case(POSTMASTER);
        let users = ["root"].into_iter().chain(self.config.users.first().map(String::as_str));
        let postmaster = [POSTMASTER].into_iter().filter(move |_| is_daemon);
        postmaster.chain(users.filter(move |_| is_postmaster)).map(|name| (name, ""))
    }

    /// Finds the user `name`, the user of that name in lower case, or the only user that has the
    /// name in another case.
    fn find_user(&self, name: &str) -> Result<Option<User>, Refusal> {
        let find = |name: &str| self.users.find(name).map_err(Refusal::LookupFailed);
        if let Some(user) = find(name)? {
            return Ok(Some(user));
        }
        let folded = name.to_lowercase();
        let found = if folded == name { None } else { find(&folded)? };
        Ok(found.or_else(|| self.users.find_in_any_case(name)))
    }

    /// Returns the mailbox of `user`. Its Delivered-To address keeps the tag.
    fn user_mailbox(
        &self,
        user: User,
        tag: &str,
        host: &str,
    ) -> Result<(UserMailbox, Member), Refusal> {
        let host = if self.config.sandbox { host } else { &self.primary };
        let local = format!("{}{tag}", user.name);
        let address = Domain::parse(host).and_then(|domain| Mailbox::new(&local, domain));
        let (Some(name), Ok(address)) = (MailboxName::new(&user.name), address) else {
            return Err(Refusal::NameNotAllowed);
        };
        let delivered_to = address.to_string().into();
        let destination = UserMailbox { name, owner: user.owner, delivered_to };
        Ok((destination, Member { full_name: user.full_name, mailbox: address }))
    }
}

/// An expansion under way, and its results so far.
pub(super) struct Expansion<'a> {
    pub(super) resolver: &'a LocalResolver,
    pub(super) aliases: &'a Aliases,
    pub(super) mode: ExpansionMode,
    /// Local destinations, each once.
    pub destinations: Vec<UserMailbox>,
    /// A member for each of `destinations`; with [`ExpansionMode::Members`] also one for each
    /// target that is an alias.
    pub members: Vec<Member>,
    /// Mailboxes on other hosts, each once.
    pub remote: Vec<Mailbox>,
    /// True if a target throws mail away.
    pub discards: bool,
    /// Errors found. With [`ExpansionMode::Explain`] the expansion continues after the first.
    pub errors: Vec<AliasError>,
    /// The steps taken, for people. Only with [`ExpansionMode::Explain`].
    pub lines: Vec<String>,
    mailboxes: HashSet<MailboxName>,
    /// Aliases and files between the start and the current target.
    path: Vec<ExpansionStep>,
    expanded: HashSet<ExpansionStep>,
    pub(super) address_count: usize,
    include_count: usize,
    /// Users with forward files that lie between the start and the current target.
    pub(super) forward_path: Vec<String>,
    /// Users that have had their forward files followed.
    pub(super) forwarded_users: HashSet<String>,
}

/// The extent of an expansion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpansionMode {
    /// All destinations, up to the first error: RCPT and VRFY.
    Resolve,
    /// The targets of one alias: EXPN.
    Members,
    /// All destinations and all errors, with a line for each step: `explain` and `check`.
    Explain,
}

/// An alias or file that an expansion may reach more than once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum ExpansionStep {
    Alias(AliasPlace),
    Include(PathBuf),
}

/// The place of a target in a file.
#[derive(Clone, Copy)]
struct SourceLine<'a> {
    file: &'a Path,
    line: usize,
}

impl ExpansionStep {
    /// Returns the place of the alias, or None for a file.
    fn alias(&self) -> Option<AliasPlace> {
        match self {
            ExpansionStep::Alias(place) => Some(*place),
            ExpansionStep::Include(_) => None,
        }
    }
}

impl<'a> Expansion<'a> {
    pub fn new(
        resolver: &'a LocalResolver,
        aliases: &'a Aliases,
        mode: ExpansionMode,
    ) -> Expansion<'a> {
        Expansion {
            resolver,
            aliases,
            mode,
            destinations: Vec::new(),
            members: Vec::new(),
            remote: Vec::new(),
            discards: false,
            errors: Vec::new(),
            lines: Vec::new(),
            mailboxes: HashSet::new(),
            path: Vec::new(),
            expanded: HashSet::new(),
            address_count: 0,
            include_count: 0,
            forward_path: Vec::new(),
            forwarded_users: HashSet::new(),
        }
    }

    /// Expands a name that a client or a person gave.
    pub fn expand_name(&mut self, name: &str, host: &str) {
        self.add_name(name, host, None);
    }

    /// Returns the resolution that the expansion has found, and the members that VRFY shows.
    ///
    /// # Errors
    /// The first error of the expansion. `Forward` or `NotLocal` if there are destinations on other
    /// hosts and nothing is relayed.
    pub fn finish(self) -> Result<(Resolution, Vec<Member>), Refusal> {
        if let Some(AliasError { refusal, .. }) = self.errors.into_iter().next() {
            return Err(refusal);
        }
        let (local, remote) = (self.destinations, self.remote);
        match (local.is_empty(), remote.as_slice()) {
            (true, []) if self.discards => {}
            (true, []) => {
                return Err(Refusal::Misconfigured("a list without members".to_owned()));
            }
            (_, []) => {}
            _ if remote.iter().all(|mailbox| self.resolver.is_relayed(mailbox)) => {}
            (true, [only]) => return Err(Refusal::Forward(only.clone())),
            _ => return Err(Refusal::NotLocal),
        }
        Ok((Resolution { local, remote, ..Resolution::default() }, self.members))
    }

    /// Adds the destinations of `name`. `from` is its place if it is the target of an alias.
    fn add_name(&mut self, name: &str, host: &str, from: Option<SourceLine<'_>>) {
        let (resolver, aliases) = (self.resolver, self.aliases);
        let mut lookup = resolver.look_up(Some(aliases), name, host);
        // In `alice: alice, bob` the target alice is the user, not the alias again. The same holds
        // if the target is in an include file of that alias.
        let current = self.path.iter().rev().find_map(ExpansionStep::alias);
        if let (Ok(Lookup::Alias(place)), Some(current)) = (&lookup, current)
            && *place == current
        {
            lookup = resolver.look_up(None, name, host);
        }
        match lookup {
            Ok(Lookup::Alias(place)) => self.expand_alias(place),
            Ok(Lookup::User(destination, member)) => self.add_user(destination, member),
            Ok(Lookup::Unknown) => self.add_unknown(name, resolver.users.refusal(), from),
            Err(refusal) => self.add_unknown(name, refusal, from),
        }
    }

    /// Adds the error that `name` is no user or alias, or that its lookup failed.
    fn add_unknown(&mut self, name: &str, refusal: Refusal, from: Option<SourceLine<'_>>) {
        match (refusal, from) {
            (refusal @ Refusal::LookupFailed(_), _) => {
                self.add_error(refusal, "check the system's user database (getent passwd)");
            }
            (_, Some(from)) => self.target_error(
                from,
                &format!("leads to `{}`, no user or alias here", name.escape_debug()),
                "correct the name, add the user, or remove the name",
            ),
            (refusal @ Refusal::NameNotAllowed, None) => {
                self.add_error(refusal, "choose another name");
            }
            (refusal, None) => self.add_error(refusal, "add the user, or an alias of that name"),
        }
    }

    /// Adds the destinations in the user's forward file, or the mailbox if there is none.
    fn add_user(&mut self, destination: UserMailbox, member: Member) {
        if self.mode == ExpansionMode::Members || !self.follow_forward_file(&destination) {
            self.add_mailbox(destination, member);
        }
    }

    /// Adds the mailbox itself, and ignores the user's forward file.
    pub(super) fn add_mailbox(&mut self, destination: UserMailbox, member: Member) {
        let new = self.mailboxes.insert(destination.name.clone());
        let again = if new { "" } else { " (again)" };
        let UserMailbox { name, delivered_to, .. } = &destination;
        self.explain_line(|| format!("{delivered_to}: mailbox {name}{again}"));
        if new {
            self.destinations.push(destination);
            self.members.push(member);
        }
    }

    /// Adds a mailbox on another host.
    pub(super) fn add_remote(&mut self, mailbox: &Mailbox) {
        if !self.remote.contains(mailbox) {
            self.remote.push(mailbox.clone());
        }
    }

    pub fn expand_alias(&mut self, place: AliasPlace) {
        let aliases = self.aliases;
        let Some(entry) = aliases.entry(place) else { return };
        if self.mode == ExpansionMode::Members && !self.path.is_empty() {
            let list = match &entry.mailbox {
                Some(mailbox) => Ok(mailbox.clone()),
                None => self.resolver.at_primary_domain(&entry.name),
            };
            if let Ok(mailbox) = list {
                self.members.push(Member { full_name: String::new(), mailbox });
            }
            return;
        }
        self.explain_line(|| {
            let (name, file, line) = (&entry.name, aliases.path.display(), entry.line);
            format!("alias {name} ({file}:{line}) -> {}", list_targets(&entry.items))
        });
        self.expand_list(ExpansionStep::Alias(place), &entry.items, &aliases.path);
    }

    fn expand_include(&mut self, path: &Path, from: SourceLine<'_>) {
        self.explain_line(|| format!(":include:{}", path.display()));
        let step = ExpansionStep::Include(path.to_owned());
        // A file that would not be expanded again need not be read again.
        if self.path.contains(&step) || self.expanded.contains(&step) {
            return self.expand_list(step, &[], path);
        }
        self.include_count += 1;
        if self.include_count > INCLUDES_MAX {
            let what = format!("leads to more than {INCLUDES_MAX} :include: files");
            return self.limit_error(&what, "use fewer files");
        }
        match alias_file::read(path, FileTrust::Included) {
            Ok((text, _)) => self.expand_list(step, &parse_include(&text), path),
            Err(error) => {
                let what = format!("includes a file that is not read: {}", error.what);
                self.target_error(from, &what, &error.fix);
            }
        }
    }

    /// Expands the targets at `step`, unless that has been done or is being done.
    fn expand_list(&mut self, step: ExpansionStep, items: &[AliasItem], file: &Path) {
        if let Some(start) = self.path.iter().position(|on_path| *on_path == step) {
            let what = format!("a loop: {}", self.describe_loop(start));
            return self.error_at(self.loop_source_line(start), &what, "remove one of its names");
        }
        if self.path.len() >= LEVELS_MAX {
            let what = format!("leads on for more than {LEVELS_MAX} levels");
            return self.limit_error(&what, "name the users themselves");
        }
        if !self.expanded.insert(step.clone()) {
            return self.explain_line(|| "  (as above)".to_owned());
        }
        self.path.push(step);
        for item in items {
            if self.should_stop() {
                break;
            }
            self.add_target(item, file);
        }
        self.path.pop();
    }

    pub(super) fn add_target(&mut self, item: &AliasItem, file: &Path) {
        let from = SourceLine { file, line: item.line };
        self.address_count += 1;
        if self.address_count > ADDRESSES_MAX {
            let what = format!("leads to more than {ADDRESSES_MAX} addresses");
            return self.limit_error(&what, "use a program made for lists of that size");
        }
        let resolver = self.resolver;
        match &item.target {
            AliasTarget::Name(name) => self.add_name(name, &resolver.primary, Some(from)),
            AliasTarget::User(name) => match resolver.look_up(None, name, &resolver.primary) {
                Ok(Lookup::User(destination, member)) => self.add_mailbox(destination, member),
                Ok(_) => self.add_unknown(name, Refusal::Unknown, Some(from)),
                Err(refusal) => self.add_unknown(name, refusal, Some(from)),
            },
            AliasTarget::Mailbox(mailbox) if resolver.is_local(mailbox.domain()) => {
                self.add_name(mailbox.local(), &resolver.lookup_host(mailbox.domain()), Some(from));
            }
            AliasTarget::Mailbox(mailbox) => {
                self.explain_line(|| format!("{mailbox}: on another host"));
                self.add_remote(mailbox);
            }
            AliasTarget::Include(path) => self.expand_include(path, from),
            AliasTarget::Null => {
                self.explain_line(|| "/dev/null: thrown away".to_owned());
                self.discards = true;
            }
            AliasTarget::Unsupported { text, kind } => {
                let what = format!("leads to `{text}`, which {}", kind.reason());
                let what = self.in_current_alias(from, &what);
                self.explain_line(|| format!("! {what}"));
                self.add_error(Refusal::Unsupported(what), kind.alternative());
            }
            AliasTarget::Invalid { text, error } if text.is_empty() => {
                self.target_error(from, error, "add a target, or remove the alias");
            }
            AliasTarget::Invalid { text, error } => {
                let what = format!("leads to `{text}`, which {error}");
                self.target_error(from, &what, "correct the line");
            }
        }
    }

    /// True if looking at further targets is of no use.
    fn should_stop(&self) -> bool {
        self.address_count > ADDRESSES_MAX
            || (self.mode != ExpansionMode::Explain && !self.errors.is_empty())
            // Each further name would wait for the database again.
            || matches!(
                self.errors.last(),
                Some(AliasError { refusal: Refusal::LookupFailed(_), .. })
            )
    }

    /// Adds an error in a target of the current alias.
    fn target_error(&mut self, from: SourceLine<'_>, what: &str, fix: &str) {
        let what = self.in_current_alias(from, what);
        self.add_misconfigured(what, fix);
    }

    /// Returns `what`, an error in a target of the current alias, with its place and the alias.
    fn in_current_alias(&self, from: SourceLine<'_>, what: &str) -> String {
        let current = self.path.iter().rev().find_map(ExpansionStep::alias);
        let name = current.map(|place| self.aliases.name(place)).unwrap_or_default();
        format!("{}:{}: alias `{name}` {what}", from.file.display(), from.line)
    }

    /// Adds the error that a limit was exceeded. It names the alias that the expansion started
    /// from, because the target that happened to exceed the limit is not to blame.
    fn limit_error(&mut self, what: &str, fix: &str) {
        let Some(alias) = self.path.first().and_then(ExpansionStep::alias) else { return };
        let place = SourceLine { file: &self.aliases.path, line: alias.line() };
        self.error_at(place, &format!("alias `{}` {what}", self.aliases.name(alias)), fix);
    }

    fn error_at(&mut self, place: SourceLine<'_>, what: &str, fix: &str) {
        self.add_misconfigured(format!("{}:{}: {what}", place.file.display(), place.line), fix);
    }

    fn add_misconfigured(&mut self, what: String, fix: &str) {
        self.explain_line(|| format!("! {what}"));
        self.add_error(Refusal::Misconfigured(what), fix);
    }

    fn add_error(&mut self, refusal: Refusal, fix: &str) {
        self.errors.push(AliasError { refusal, fix: fix.to_owned() });
    }

    /// Returns the loop at `path[start..]` as `a -> b -> a`. It begins with the alias that comes
    /// first in the file, so that the text of a loop does not depend on the name that led into it.
    fn describe_loop(&self, start: usize) -> String {
        let steps = self.path.get(start..).unwrap_or_default();
        let first = self.loop_start(steps);
        let ring = steps.iter().cycle().skip(first).take(steps.len() + 1);
        let names: Vec<String> = ring
            .map(|step| match step {
                ExpansionStep::Alias(place) => self.aliases.name(*place),
                ExpansionStep::Include(path) => format!(":include:{}", path.display()),
            })
            .collect();
        names.join(" -> ")
    }

    /// Returns the line of the alias that the loop's text begins with.
    fn loop_source_line(&self, start: usize) -> SourceLine<'a> {
        let steps = self.path.get(start..).unwrap_or_default();
        let first = steps.get(self.loop_start(steps)).or(self.path.first());
        let line = first.and_then(ExpansionStep::alias).map_or(1, AliasPlace::line);
        SourceLine { file: &self.aliases.path, line }
    }

    /// Returns the index of the step with the alias that comes first in the file.
    fn loop_start(&self, steps: &[ExpansionStep]) -> usize {
        let order = |step: &ExpansionStep| (step.alias().is_none(), step.alias());
        (0..steps.len()).min_by_key(|i| steps.get(*i).map(order)).unwrap_or(0)
    }

    /// Adds a line, indented by the depth, if the steps are to be shown.
    pub(super) fn explain_line(&mut self, text: impl FnOnce() -> String) {
        if self.mode == ExpansionMode::Explain {
            self.lines.push(format!("{:1$}{2}", "", 2 * (self.path.len() + 1), text()));
        }
    }
}

/// Returns the first few targets, for people.
fn list_targets(items: &[AliasItem]) -> String {
    let mut names: Vec<String> =
        items.iter().take(LISTED_MAX).map(|item| item.target.to_string()).collect();
    if items.len() > LISTED_MAX {
        names.push(format!("{} more", items.len() - LISTED_MAX));
    }
    names.join(", ")
}

/// The name that has a mailbox on every host (RFC 5321 4.5.1).
pub(super) const POSTMASTER: &str = "postmaster";
/// The name in the From field of reports. By custom it is an alias of postmaster.
const MAILER_DAEMON: &str = "MAILER-DAEMON";

/// Maximum depth of aliases within aliases, and of files within files.
pub(super) const LEVELS_MAX: usize = 20;

/// Maximum number of targets for one recipient.
const ADDRESSES_MAX: usize = 1000;

/// Maximum number of files read for one recipient.
const INCLUDES_MAX: usize = 16;

/// Number of targets that `explain` shows on an alias's line.
const LISTED_MAX: usize = 10;
