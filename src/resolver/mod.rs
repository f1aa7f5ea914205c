//! Resolution of addresses: the domains and users that are local, and the destinations of an
//! address. RCPT, VRFY, EXPN and `mailslot explain` all use the [`LocalResolver`].
//!
//! | file | contains |
//! | --- | --- |
//! | `users.rs` | the users that have a mailbox: passwd, `--user`, any user in a sandbox |
//! | `aliases.rs` | the format of aliases(5) |
//! | `alias_file.rs` | alias files: read safely, and read again when they change |
//! | `domain_pattern.rs` | the domains of other hosts that mail is relayed to |
//! | `expand.rs` | one lookup, and the expansion of aliases to destinations |
//! | `forward.rs` | `~/.forward` |
//! | `explain.rs` | `mailslot explain`, and the aliases' part of `mailslot check` |
//!
//! Three words name the steps: a *lookup* finds the kind of one name (an alias, a user, unknown), a
//! [`Resolution`] has all destinations of an address, and a [`UserMailbox`] is one of them.
//!
//! Promises:
//!
//! - **One parser, one check.** An address from the network arrives as a parsed [`Mailbox`] and is
//!   only compared. The percent hack, bang paths, quoted `@`, `|` and `/` are characters of a name
//!   that no user has.
//! - **All or nothing.** An alias of which one target cannot be reached is refused as a whole. An
//!   alias with a single target, on another host, is answered 551 with the new address. An alias
//!   with targets on this host and on others, or with several on others, is answered 550 while
//!   nothing is relayed, because a sender that followed a 551 would reach only one of them. Where
//!   mail can be relayed ([`ResolverConfig::relays`]) all of these aliases are accepted from every
//!   client. An address that is itself on another host is only for clients that may relay
//!   ([`Resolution::is_relay`]); the session decides which ones those are.
//! - **No bounce by accident.** A name is answered 550 only if it is certainly unknown. A lookup
//!   that fails, or an error in the aliases, is answered 451, so that mail waits at the client
//!   until the administrator has fixed it.
//! - **Mail for postmaster is accepted**, regardless of the aliases (RFC 5321 4.5.1).

pub mod alias_file;
pub mod aliases;
mod domain_pattern;
mod expand;
mod explain;
mod forward;
pub mod users;

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use crate::message::UserMailbox;
use crate::observe::events;
use crate::smtp::path::SyntaxError;
use crate::smtp::{Domain, ForwardPath, Mailbox};
use crate::sysexits::{EX_NOUSER, EX_TEMPFAIL, EX_UNAVAILABLE};
use aliases::Aliases;
pub use domain_pattern::DomainPattern;
use expand::{Expansion, ExpansionMode, Lookup, POSTMASTER};
pub use explain::{Explanation, Problem};
pub use forward::{ForwardFiles, HomeForwardFiles};
use users::{AnyUser, CachedUsers, FixedUsers, Passwd, Users};

/// A reason to refuse an address. The session turns it into a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 550 5.1.1: no such user.
    Unknown,
    /// 553 5.1.3: the local-part cannot be the name of a mailbox on this host.
    NameNotAllowed,
    /// 550 5.7.1: the domain is not local, and nothing is relayed.
    NotLocal,
    /// 551 5.1.6: the target of an alias is this mailbox on another host, and nothing is relayed.
    Forward(Mailbox),
    /// 553 5.1.4: the name matches several users.
    Ambiguous(Vec<Mailbox>),
    /// 451 4.3.0: the lookup failed and may work later. The text is for the log, not for the
    /// client.
    LookupFailed(String),
    /// 451 4.3.5: the aliases are wrong (a loop, an include file that cannot be read). The text is
    /// for the log, not for the client.
    Misconfigured(String),
    /// 550 5.3.5: the target of an alias is a program or a file, which mailslot does not support.
    /// The text is for the log, not for the client.
    Unsupported(String),
}

impl Refusal {
    /// Returns the enhanced status code of the reply (RFC 3463). Class 4 means that the address may
    /// be accepted later.
    pub fn status(&self) -> (u8, u16, u16) {
        match self {
            Refusal::Unknown => (5, 1, 1),
            Refusal::NameNotAllowed => (5, 1, 3),
            Refusal::NotLocal => (5, 7, 1),
            Refusal::Forward(_) => (5, 1, 6),
            Refusal::Ambiguous(_) => (5, 1, 4),
            Refusal::LookupFailed(_) => (4, 3, 0),
            Refusal::Misconfigured(_) => (4, 3, 5),
            Refusal::Unsupported(_) => (5, 3, 5),
        }
    }

    /// Returns the exit status of a program that asked about the address.
    pub fn exit_status(&self) -> u8 {
        match self {
            Refusal::LookupFailed(_) | Refusal::Misconfigured(_) => EX_TEMPFAIL,
            Refusal::Unknown | Refusal::NameNotAllowed | Refusal::Ambiguous(_) => EX_NOUSER,
            Refusal::NotLocal | Refusal::Forward(_) | Refusal::Unsupported(_) => EX_UNAVAILABLE,
        }
    }
}

/// A mailbox as VRFY and EXPN show it: `Full Name <user@host>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name in passwd's GECOS field: printable ASCII, may be empty.
    pub full_name: String,
    /// The mailbox, with a full domain (RFC 5321 3.5.1).
    pub mailbox: Mailbox,
}

/// The destinations of one address, on this host and on others. There is none if an alias leads to
/// `/dev/null` alone, and then mail is accepted and thrown away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Mailboxes on this host, each once.
    pub local: Vec<UserMailbox>,
    /// Mailboxes on other hosts, each once. Empty while nothing is relayed.
    pub remote: Vec<Mailbox>,
    /// True if the domain of the address itself is not local. Only clients that may relay may then
    /// use it.
    pub is_relay: bool,
    /// `owner-LIST`, for a list that has one. It gets the reports about [`remote`](Self::remote)
    /// in place of the sender (RFC 5321 3.9.2).
    pub owner: Option<Mailbox>,
    /// Reply because of which mail for the address waits in the queue, where it is resolved again;
    /// the other fields are empty then. An [`AddressResolver`] returns None.
    pub held: Option<String>,
}

impl Resolution {
    /// Returns the resolution of an address with mailboxes on this host alone.
    pub fn local(destinations: Vec<UserMailbox>) -> Resolution {
        Resolution { local: destinations, ..Resolution::default() }
    }
}

/// The rules by which a server delivers. [`LocalResolver`] is the host's own; a program that embeds
/// the server may bring another.
pub trait AddressResolver: Send + Sync {
    /// Resolves `to` to one or more destinations.
    ///
    /// # Errors
    /// A [`Refusal`] if mail for `to` is not accepted, now or at all.
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Refusal>;

    /// True if `address` belongs to this host, whether mail for it is accepted or not.
    fn is_local_address(&self, address: &Mailbox) -> bool {
        match self.resolve(&ForwardPath::Mailbox(address.clone())) {
            Ok(resolution) => !resolution.is_relay,
            Err(refusal) => refusal != Refusal::NotLocal,
        }
    }

    /// Returns the user with the `name`, a user name or a mailbox (VRFY).
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such user, or more than one.
    fn vrfy(&self, name: &str) -> Result<Member, Refusal> {
        let _ = name;
        Err(Refusal::Unknown)
    }

    /// Returns the members of a mailing list (EXPN).
    ///
    /// # Errors
    /// A [`Refusal`] if there is no such list.
    fn expn(&self, list: &str) -> Result<Vec<Member>, Refusal> {
        let _ = list;
        Err(Refusal::Unknown)
    }

    /// Reads aliases and users again (HUP). Errors are logged, and the old ones stay in use.
    fn reload(&self) {}
}

/// Configuration of a [`LocalResolver`]. The default has no domains, no aliases, and the users of
/// the system.
#[derive(Clone, Debug, Default)]
pub struct ResolverConfig {
    /// Local domains. The first is the primary one, which completes names in VRFY and in
    /// Delivered-To.
    pub domains: Vec<String>,
    /// The primary domain if `domains` is empty. It is local only if it is in `domains` too,
    /// because on many hosts mail for that name is delivered by another host.
    pub hostname: String,
    /// Local users. If empty, the users of the system.
    pub users: Vec<String>,
    /// True if an empty `domains` means every domain, and an empty `users` every name.
    pub sandbox: bool,
    /// An aliases(5) file.
    pub aliases: Option<PathBuf>,
    /// The separator between a user name and a tag, as in `user+tag`.
    pub delimiter: Option<char>,
    /// The domains of other hosts that mail can be relayed to. If there are none, nothing is
    /// relayed.
    pub relays: Vec<DomainPattern>,
}

/// Resolver of this host's addresses, by its domains, users and aliases.
pub struct LocalResolver {
    config: ResolverConfig,
    /// In ASCII and lower case, because U-labels and A-labels name the same domain (RFC 5890).
    domains: HashSet<String>,
    primary: String,
    users: Box<dyn Users>,
    aliases: alias_file::AliasFile,
    forward_files: OnceLock<Box<dyn ForwardFiles>>,
}

impl LocalResolver {
    /// Creates the resolver that `config` describes. Aliases that cannot be read are logged and
    /// tried again later; until then every local address is refused with
    /// [`Refusal::LookupFailed`].
    pub fn new(config: ResolverConfig) -> LocalResolver {
        let users: Box<dyn Users> = match (config.users.as_slice(), config.sandbox) {
            ([], true) => Box::new(AnyUser),
            ([], false) => Box::new(CachedUsers::new(Passwd)),
            (names, _) => Box::new(FixedUsers::new(names)),
        };
        LocalResolver::with_users(config, users)
    }

    /// Creates the resolver that `config` describes, with another directory of users.
    pub fn with_users(config: ResolverConfig, users: Box<dyn Users>) -> LocalResolver {
        let names = config.domains.iter().chain([&config.hostname]);
        let is_name = |name: &&String| matches!(Domain::parse(name), Ok(Domain::Name(_)));
        let primary = names.into_iter().find(is_name);
        LocalResolver {
            domains: config.domains.iter().map(|name| in_ascii(name)).collect(),
            primary: primary.map_or_else(|| "localhost".to_owned(), |name| in_ascii(name)),
            aliases: alias_file::AliasFile::new(config.aliases.clone()),
            forward_files: OnceLock::new(),
            config,
            users,
        }
    }

    /// Follows users' forward files from now on, as `files` reads them. Only the first call has an
    /// effect.
    pub fn follow_forward_files(&self, files: impl ForwardFiles + 'static) {
        let _ = self.forward_files.set(Box::new(files));
    }

    /// Returns the files that the current aliases include.
    pub fn included(&self) -> Vec<PathBuf> {
        self.aliases.current().map(|aliases| aliases.included.clone()).unwrap_or_default()
    }

    /// Expands `mailbox`, which may be of another domain, to its destinations, and to the members
    /// that VRFY shows: one for each local destination.
    fn expand(&self, mailbox: &Mailbox) -> Result<(Resolution, Vec<Member>), Refusal> {
        if !self.is_local(mailbox.domain()) {
            return Err(Refusal::NotLocal);
        }
        self.expand_name(mailbox.local(), &self.lookup_host(mailbox.domain()))
    }

    /// Expands `name` at `host`, which is a local domain.
    fn expand_name(&self, name: &str, host: &str) -> Result<(Resolution, Vec<Member>), Refusal> {
        let aliases = self.current_aliases()?;
        let mut expansion = Expansion::new(self, &aliases, ExpansionMode::Resolve);
        expansion.expand_name(name, host);
        let refusal = match expansion.finish() {
            Err(refusal) if name.eq_ignore_ascii_case(POSTMASTER) => refusal,
            result => return result,
        };
        // Postmaster must accept mail even if the alias is wrong: skip all aliases. A user database
        // that does not answer now is another matter, because mail can wait for it.
        if matches!(refusal, Refusal::LookupFailed(_)) {
            return Err(refusal);
        }
        match self.look_up(None, name, host)? {
            Lookup::User(destination, member) => {
                let address = format_args!("<{}>", destination.delivered_to);
                events::postmaster_alias_ignored(address, refusal);
                Ok((Resolution::local(vec![destination]), vec![member]))
            }
            Lookup::Alias(_) | Lookup::Unknown => Err(refusal),
        }
    }

    /// Returns the only user that has `text` as the full name, or as a word of a name.
    fn find_by_full_name(&self, text: &str) -> Result<Member, Refusal> {
        let users = self.users.list();
        let mut members =
            users.iter().filter(|user| users::matches_vrfy(user, text)).filter_map(|user| {
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

    /// Parses `user`, `user@host`, or either in angle brackets.
    fn parse_mailbox(&self, text: &str) -> Result<Mailbox, SyntaxError> {
        let text = text.trim();
        let text = text.strip_prefix('<').and_then(|t| t.strip_suffix('>')).unwrap_or(text);
        match Mailbox::parse(text) {
            Err(_) if !text.contains('@') => self.at_primary_domain(text),
            mailbox => mailbox,
        }
    }

    /// Returns `owner-LIST` if both it and the list are aliases.
    fn owner_of(&self, list: &Mailbox) -> Result<Option<Mailbox>, Refusal> {
        let (aliases, host) = (self.current_aliases()?, self.lookup_host(list.domain()));
        let owner = format!("owner-{}", list.local());
        let both = aliases.find(list.local(), &host).and(aliases.find(&owner, &host));
        Ok(both.and_then(|_| Mailbox::new(&owner, list.domain().clone()).ok()))
    }

    fn at_primary_domain(&self, name: &str) -> Result<Mailbox, SyntaxError> {
        Mailbox::new(name, Domain::Name(self.primary.clone()))
    }

    fn current_aliases(&self) -> Result<Arc<Aliases>, Refusal> {
        self.aliases.current().map_err(|error| Refusal::LookupFailed(error.what))
    }
}

impl AddressResolver for LocalResolver {
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        let mailbox = match to {
            ForwardPath::Postmaster => {
                return Ok(self.expand_name(POSTMASTER, &self.primary)?.0);
            }
            ForwardPath::Mailbox(mailbox) => mailbox,
        };
        if self.is_relayed(mailbox) {
            let remote = vec![mailbox.clone()];
            return Ok(Resolution { remote, is_relay: true, ..Resolution::default() });
        }
        let (mut resolution, _) = self.expand(mailbox)?;
        if !resolution.remote.is_empty() {
            resolution.owner = self.owner_of(mailbox)?;
        }
        Ok(resolution)
    }

    fn is_local_address(&self, address: &Mailbox) -> bool {
        self.is_local(address.domain())
    }

    /// Accepts a user name, a mailbox, or else a full name or a word of one. A list of which all
    /// members can be reached is shown under its own name (RFC 5321 3.5.1).
    fn vrfy(&self, name: &str) -> Result<Member, Refusal> {
        let name = name.trim();
        let Ok(mailbox) = self.parse_mailbox(name) else { return self.find_by_full_name(name) };
        match self.expand(&mailbox) {
            Ok((resolution, members)) => match (members.as_slice(), resolution.remote.as_slice()) {
                ([member], []) => Ok(member.clone()),
                // The session answers 251 if it relays, and 551 if not.
                ([], [only]) => Err(Refusal::Forward(only.clone())),
                _ => Ok(Member { full_name: String::new(), mailbox }),
            },
            Err(Refusal::Unknown | Refusal::NameNotAllowed) => self.find_by_full_name(name),
            Err(refusal) => Err(refusal),
        }
    }

    /// Returns the targets of an alias, without expanding aliases among them, or the user with that
    /// name. An alias for one mailbox on another host is no list, and is answered 551.
    fn expn(&self, list: &str) -> Result<Vec<Member>, Refusal> {
        let mailbox = self.parse_mailbox(list).map_err(|_| self.users.refusal())?;
        if !self.is_local(mailbox.domain()) {
            return Err(Refusal::NotLocal);
        }
        let aliases = self.current_aliases()?;
        let mut expansion = Expansion::new(self, &aliases, ExpansionMode::Members);
        expansion.expand_name(mailbox.local(), &self.lookup_host(mailbox.domain()));
        if let Some(error) = expansion.errors.into_iter().next() {
            return Err(error.refusal);
        }
        let (mut members, remote) = (expansion.members, expansion.remote);
        if let ([], [only]) = (members.as_slice(), remote.as_slice()) {
            return Err(Refusal::Forward(only.clone()));
        }
        let nameless = |mailbox| Member { full_name: String::new(), mailbox };
        members.extend(remote.into_iter().map(nameless));
        if members.is_empty() {
            return Err(Refusal::Misconfigured(format!("{mailbox} has no members")));
        }
        Ok(members)
    }

    fn reload(&self) {
        self.aliases.reload();
    }
}

/// Writes the codes of the reply, and a text for the administrator.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown => f.write_str("550 5.1.1 no such user here"),
            Refusal::NameNotAllowed => f.write_str("553 5.1.3 not a valid mailbox name here"),
            Refusal::NotLocal => f.write_str(
                "550 5.7.1 not on this host, or only some of it, and nothing is relayed",
            ),
            Refusal::Forward(mailbox) => write!(f, "551 5.1.6 not local; try <{mailbox}>"),
            Refusal::Ambiguous(all) => write!(f, "553 5.1.4 ambiguous: {} users", all.len()),
            Refusal::LookupFailed(error) => write!(f, "451 4.3.0 lookup failed ({error})"),
            Refusal::Misconfigured(error) => write!(f, "451 4.3.5 error in the aliases ({error})"),
            Refusal::Unsupported(error) => {
                write!(f, "550 5.3.5 not supported in the aliases ({error})")
            }
        }
    }
}

/// Returns the form in which domains are compared.
fn in_ascii(name: &str) -> String {
    Domain::parse(name).map_or_else(|_| name.to_lowercase(), |domain| domain.to_ascii())
}

/// Maximum number of users in the reply to an ambiguous name.
const CANDIDATES_MAX: usize = 20;
