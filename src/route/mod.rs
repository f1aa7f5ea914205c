//! Policy: who is local, and where an address leads. RCPT, VRFY, EXPN and `mailslot explain` are
//! all answered from the one resolver here.
//!
//! | file | owns |
//! | --- | --- |
//! | `users.rs` | who has a mailbox: passwd, `--user`, anyone in a sandbox |
//! | `aliases.rs` | aliases(5), the format |
//! | `source.rs` | its files: read safely, and again when they change |
//! | `expand.rs` | from a name through the aliases to mailboxes |
//! | `forward.rs` | `~/.forward` |
//! | `report.rs` | the same for people: `mailslot explain`, `mailslot check` |
//!
//! What it promises:
//!
//! - One parser, one check: an address from the wire comes as a parsed [`Mailbox`] and is only ever
//!   compared. The percent hack, bang paths, quoted `@`, `|` and `/` are letters of a name that
//!   nobody has.
//! - All or nothing: an alias of which one part cannot be reached is refused as a whole. One that
//!   leads to a single mailbox elsewhere is told to the sender (551); one that leads here *and*
//!   elsewhere, or to several elsewhere, is refused (550) while nothing is relayed, because a
//!   sender who followed a 551 would reach only one of them. Where mail for other hosts has a way
//!   out ([`RouteConfig::relays`]) all of these go it, for every client; any other address elsewhere
//!   is for those who may relay, which is not judged here.
//! - What is unknown for sure is 550; what cannot be known now, or is wrong in the aliases, is 451,
//!   so that mail waits for the administrator instead of going back.
//! - Mail for postmaster is taken, whatever the aliases say.

pub mod alias_file;
pub mod aliases;
mod expand;
mod explain;
mod forward;
pub mod users;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::message::Destination;
use crate::observe::events;
use crate::smtp::path::SyntaxError;
use crate::smtp::{Domain, ForwardPath, Mailbox};
use aliases::{AliasTarget, Aliases};
use expand::{AliasError, Expansion, ExpansionMode, ExpansionTarget, Lookup, POSTMASTER};
pub use explain::Problem;
pub use forward::ForwardFiles;
use users::{AnyUser, CachedUsers, FixedUsers, Passwd, Users};

/// Why an address is not taken. The session turns it into a reply, in one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 550 5.1.1: no such user here.
    Unknown,
    /// 553 5.1.3: the local-part cannot be a mailbox's name here.
    NameNotAllowed,
    /// 550 5.7.1: the domain is not ours, and nothing is relayed.
    NotLocal,
    /// 551 5.1.6: an alias leads to this mailbox on another host, and nothing is relayed.
    Forward(Mailbox),
    /// 553 5.1.4: stands for several users.
    Ambiguous(Vec<Mailbox>),
    /// 451 4.3.0: could not be looked up now; the text is for the log, not for the client.
    Later(String),
    /// 451 4.3.5: the aliases are wrong (a loop, an unreadable include); for the log.
    Misconfigured(String),
}

/// A mailbox as VRFY and EXPN show it: `Full Name <user@host>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// From passwd's GECOS field; may be empty. Printable ASCII.
    pub full_name: String,
    /// With a full domain (RFC 5321 3.5.1).
    pub mailbox: Mailbox,
}

/// Where mail for one address goes, on this host and on others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// The mailboxes on this host, none twice.
    pub here: Vec<Destination>,
    /// The mailboxes on other hosts, none twice. Empty while nothing is relayed.
    pub elsewhere: Vec<Mailbox>,
    /// Whether the address itself is not ours, so that only those may use it who may relay.
    pub is_relay: bool,
    /// Who hears, in the sender's place, of what cannot be delivered elsewhere: `owner-LIST` of a
    /// list that has one (RFC 5321 3.9.2).
    pub owner: Option<Mailbox>,
}

/// Where mail goes. A server takes any implementation: [`LocalRoute`] is the host's own.
pub trait Route: Send + Sync {
    /// The mailboxes that mail for `to` is delivered to: at least one, none twice.
    fn resolve(&self, to: &ForwardPath) -> Result<Vec<Destination>, Refusal>;
    /// The same, and the mailboxes on other hosts, by a route that relays.
    fn way(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        self.resolve(to).map(|here| Resolution { here, ..Resolution::default() })
    }
    /// The user that `name` (a user name, or a mailbox) stands for.
    fn vrfy(&self, name: &str) -> Result<Member, Refusal> {
        let _ = name;
        Err(Refusal::Unknown)
    }
    /// The members of a mailing list.
    fn expn(&self, list: &str) -> Result<Vec<Member>, Refusal> {
        let _ = list;
        Err(Refusal::Unknown)
    }
    /// Reads aliases and users again (HUP). What cannot be read is logged, and the old stays.
    fn reload(&self) {}
}

/// What the host's own routing is told.
#[derive(Clone, Debug, Default)]
pub struct RouteConfig {
    /// The names that are ours. The first is the primary one: it completes names in VRFY and
    /// Delivered-To.
    pub domains: Vec<String>,
    /// The primary name if there are no domains. It is not ours by itself: on many hosts mail for
    /// that name lives elsewhere.
    pub hostname: String,
    /// The users; empty: those of the system.
    pub users: Vec<String>,
    /// Every domain is ours, or just `domains`; and every name, or just `users`, has a mailbox.
    pub sandbox: bool,
    /// An aliases(5) file.
    pub aliases: Option<PathBuf>,
    /// What parts a user name from a tag, as in `user+tag`.
    pub delimiter: Option<char>,
    /// Mail for other hosts has a way out.
    pub relays: bool,
}

/// The host's own routing: its domains, users and aliases.
pub struct LocalRoute {
    settings: RouteConfig,
    /// In ASCII and lower case: a name is the same with U-labels and with A-labels (RFC 5890).
    domains: HashSet<String>,
    primary: String,
    users: Box<dyn Users>,
    aliases: alias_file::AliasFile,
    forwards: OnceLock<Box<dyn ForwardFiles>>,
}

impl LocalRoute {
    /// Routing by `settings`. Aliases that cannot be read do not stop it: they are logged, tried
    /// again, and until then everything local is answered `Later`.
    pub fn new(settings: RouteConfig) -> LocalRoute {
        let users: Box<dyn Users> = match (settings.users.as_slice(), settings.sandbox) {
            ([], true) => Box::new(AnyUser),
            ([], false) => Box::new(CachedUsers::new(Passwd)),
            (names, _) => Box::new(FixedUsers::new(names)),
        };
        LocalRoute::with_users(settings, users)
    }

    /// The same, with a directory of users of one's own.
    pub fn with_users(settings: RouteConfig, users: Box<dyn Users>) -> LocalRoute {
        let names = settings.domains.iter().chain([&settings.hostname]);
        let is_name = |name: &&String| matches!(Domain::parse(name), Ok(Domain::Name(_)));
        let primary = names.into_iter().find(is_name);
        LocalRoute {
            domains: settings.domains.iter().map(|name| in_ascii(name)).collect(),
            primary: primary.map_or_else(|| "localhost".to_owned(), |name| in_ascii(name)),
            aliases: alias_file::AliasFile::new(settings.aliases.clone()),
            forwards: OnceLock::new(),
            settings,
            users,
        }
    }

    /// From now on users' forward files are followed, as `files` reads them.
    pub fn follow_forward_files(&self, files: impl ForwardFiles + 'static) {
        let _ = self.forwards.set(Box::new(files));
    }

    /// The files that the aliases, as they are now, include.
    pub fn included(&self) -> Vec<PathBuf> {
        let Ok(aliases) = self.aliases.current() else { return Vec::new() };
        let items = aliases.entries.iter().flat_map(|entry| &entry.items);
        let files = items.filter_map(|item| match &item.target {
            AliasTarget::Include(path) => Some(path.clone()),
            _ => None,
        });
        files.collect()
    }

    /// Where mail for `mailbox`, one of ours, ends; elsewhere too only if `relays`.
    fn ends(&self, mailbox: &Mailbox, relays: bool) -> Result<ExpansionResult, Refusal> {
        if !self.is_ours(mailbox.domain()) {
            return Err(Refusal::NotLocal);
        }
        self.ends_of(mailbox.local(), &self.host(mailbox.domain()), relays)
    }

    fn ends_of(&self, name: &str, host: &str, relays: bool) -> Result<ExpansionResult, Refusal> {
        let aliases = self.current()?;
        let mut walk = Expansion::new(self, &aliases, ExpansionMode::Resolve);
        walk.start_at_name(name, host);
        match verdict(walk, relays) {
            // An alias that cannot be followed here is no reason to refuse postmaster: straight to
            // a mailbox, past all aliases.
            Err(refusal)
                if name.eq_ignore_ascii_case(POSTMASTER)
                    && !matches!(refusal, Refusal::Later(_)) =>
            {
                match self.look_up(None, name, host)? {
                    Lookup::User(ExpansionTarget::Mailbox(to, member)) => {
                        events::postmaster_alias_ignored(
                            format_args!("<{}>", to.delivered_to),
                            refusal,
                        );
                        Ok(ExpansionResult { here: vec![(to, member)], elsewhere: Vec::new() })
                    }
                    _ => Err(refusal),
                }
            }
            verdict => verdict,
        }
    }

    /// The user or users whose name or full name `text` is a part of.
    fn by_full_name(&self, text: &str) -> Result<Member, Refusal> {
        let known = self.users.list();
        let mut members =
            known.iter().filter(|user| users::matches_vrfy(user, text)).filter_map(|user| {
                let mailbox = self.at_primary_domain(&user.name).ok()?;
                Some(Member { full_name: user.full_name.clone(), mailbox })
            });
        match (members.next(), members.next()) {
            (None, _) => Err(self.users.refusal()),
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) => {
                let all = [first, second].into_iter().chain(members).take(CANDIDATES_MAX);
                Err(Refusal::Ambiguous(all.map(|member| member.mailbox).collect()))
            }
        }
    }

    /// `user`, `user@host` or either in angle brackets, as a mailbox.
    fn mailbox_of(&self, text: &str) -> Result<Mailbox, SyntaxError> {
        let text = text.trim();
        let text = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(text);
        match Mailbox::parse(text) {
            Err(_) if !text.contains('@') => self.at_primary_domain(text),
            mailbox => mailbox,
        }
    }

    /// The owner of a list, if the aliases have both.
    fn owner_of(&self, list: &Mailbox) -> Result<Option<Mailbox>, Refusal> {
        let (aliases, host) = (self.current()?, self.host(list.domain()));
        let owner = format!("owner-{}", list.local());
        let both = aliases.find(list.local(), &host).and(aliases.find(&owner, &host));
        Ok(both.and_then(|_| Mailbox::new(&owner, list.domain().clone()).ok()))
    }

    /// `name` at the primary domain.
    fn at_primary_domain(&self, name: &str) -> Result<Mailbox, SyntaxError> {
        Mailbox::new(name, Domain::Name(self.primary.clone()))
    }

    fn current(&self) -> Result<Arc<Aliases>, Refusal> {
        self.aliases.current().map_err(|unread| Refusal::Later(unread.what))
    }
}

impl Route for LocalRoute {
    fn resolve(&self, to: &ForwardPath) -> Result<Vec<Destination>, Refusal> {
        let ends = match to {
            ForwardPath::Postmaster => self.ends_of(POSTMASTER, &self.primary, false)?,
            ForwardPath::Mailbox(mailbox) => self.ends(mailbox, false)?,
        };
        Ok(ends.here.into_iter().map(|(destination, _)| destination).collect())
    }

    fn way(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        let relays = self.settings.relays;
        let ends = match to {
            ForwardPath::Postmaster => self.ends_of(POSTMASTER, &self.primary, relays)?,
            ForwardPath::Mailbox(mailbox) if relays && !self.is_ours(mailbox.domain()) => {
                let elsewhere = vec![mailbox.clone()];
                return Ok(Resolution { elsewhere, is_relay: true, ..Resolution::default() });
            }
            ForwardPath::Mailbox(mailbox) => self.ends(mailbox, relays)?,
        };
        let here = ends.here.into_iter().map(|(destination, _)| destination).collect();
        let owner = match to {
            ForwardPath::Mailbox(list) if !ends.elsewhere.is_empty() => self.owner_of(list)?,
            _ => None,
        };
        Ok(Resolution { here, elsewhere: ends.elsewhere, is_relay: false, owner })
    }

    /// A user name, a mailbox, or else a full name or a word of one. A list that all of its members
    /// can be reached by is shown under its own name (RFC 5321 3.5.1).
    fn vrfy(&self, name: &str) -> Result<Member, Refusal> {
        let name = name.trim();
        let Ok(mailbox) = self.mailbox_of(name) else { return self.by_full_name(name) };
        match self.ends(&mailbox, self.settings.relays) {
            Ok(ends) => match (ends.here.as_slice(), ends.elsewhere.as_slice()) {
                ([(_, member)], []) => Ok(member.clone()),
                // Told with 251, as it is with 551 where nothing is relayed.
                ([], [only]) => Err(Refusal::Forward(only.clone())),
                _ => Ok(Member { full_name: String::new(), mailbox }),
            },
            Err(Refusal::Unknown | Refusal::NameNotAllowed) => self.by_full_name(name),
            Err(refusal) => Err(refusal),
        }
    }

    /// The targets of an alias as they are, aliases among them not followed; of a user the user. An
    /// alias that leads to one mailbox elsewhere is no list: 551.
    fn expn(&self, list: &str) -> Result<Vec<Member>, Refusal> {
        let mailbox = self.mailbox_of(list).map_err(|_| self.users.refusal())?;
        if !self.is_ours(mailbox.domain()) {
            return Err(Refusal::NotLocal);
        }
        let aliases = self.current()?;
        let mut walk = Expansion::new(self, &aliases, ExpansionMode::Members);
        walk.start_at_name(mailbox.local(), &self.host(mailbox.domain()));
        if let Some(fault) = walk.faults.into_iter().next() {
            return Err(fault.refusal);
        }
        if let ([], [only]) = (walk.found.as_slice(), walk.remote.as_slice()) {
            return Err(Refusal::Forward(only.clone()));
        }
        let nameless = |mailbox| Member { full_name: String::new(), mailbox };
        let ours = walk.found.into_iter().map(|found| match found {
            ExpansionTarget::Mailbox(_, member) => member,
            ExpansionTarget::List(mailbox) => nameless(mailbox),
        });
        let members: Vec<Member> = ours.chain(walk.remote.into_iter().map(nameless)).collect();
        match members.is_empty() {
            true => Err(Refusal::Misconfigured(format!("{mailbox} has no members"))),
            false => Ok(members),
        }
    }

    fn reload(&self) {
        self.aliases.reload();
    }
}

impl fmt::Display for Refusal {
    /// The reply's codes, and what the administrator wants to know.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown => f.write_str("550 5.1.1 no such user here"),
            Refusal::NameNotAllowed => f.write_str("553 5.1.3 not a name a mailbox can have here"),
            Refusal::NotLocal => {
                f.write_str("550 5.7.1 not on this host, or not all of it, and nothing is relayed")
            }
            Refusal::Forward(mailbox) => write!(f, "551 5.1.6 not local; try <{mailbox}>"),
            Refusal::Ambiguous(all) => write!(f, "553 5.1.4 ambiguous: {} users", all.len()),
            Refusal::Later(why) => write!(f, "451 4.3.0 not now ({why})"),
            Refusal::Misconfigured(why) => write!(f, "451 4.3.5 aliases are wrong ({why})"),
        }
    }
}

/// A domain's name as domains are compared here.
fn in_ascii(name: &str) -> String {
    Domain::parse(name).map_or_else(|_| name.to_lowercase(), |domain| domain.to_ascii())
}

/// Where a walk ended.
struct ExpansionResult {
    here: Vec<(Destination, Member)>,
    elsewhere: Vec<Mailbox>,
}

/// What a finished walk comes to.
fn verdict(walk: Expansion<'_>, relays: bool) -> Result<ExpansionResult, Refusal> {
    if let Some(AliasError { refusal, .. }) = walk.faults.into_iter().next() {
        return Err(refusal);
    }
    let here: Vec<_> = walk
        .found
        .into_iter()
        .filter_map(|found| match found {
            ExpansionTarget::Mailbox(destination, member) => Some((destination, member)),
            ExpansionTarget::List(_) => None,
        })
        .collect();
    match (here.is_empty(), walk.remote.as_slice()) {
        (true, []) => Err(Refusal::Misconfigured("a list without members".to_owned())),
        (_, []) => Ok(ExpansionResult { here, elsewhere: Vec::new() }),
        _ if relays => Ok(ExpansionResult { here, elsewhere: walk.remote }),
        (true, [only]) => Err(Refusal::Forward(only.clone())),
        _ => Err(Refusal::NotLocal),
    }
}

/// The most users an ambiguous name is answered with.
const CANDIDATES_MAX: usize = 20;
