//! `~/.forward`: the addresses to which a user wants mail to go. Off by default.
//!
//! The file holds one or more addresses in a line, at most [`FORWARD_MAX`] in all. `\user`, or the
//! user's own name, keeps a copy in the mailbox. Programs, files and `:include:` are not supported.
//! The file of a user is followed once on a path, so that two users who forward to each other make
//! no loop: the second gets the mail in the mailbox.
//!
//! A file that cannot be used changes nothing, whether it is unreadable, writable by others, wrong,
//! or leads to an address that is refused: the mail stays in the mailbox, and the reason is logged.

use std::io;
use std::path::Path;

use nix::unistd::User as Account;

use super::aliases::{AliasTarget, parse_include};
use super::expand::{Expansion, LEVELS_MAX};
use crate::message::{Owner, UserMailbox};
use crate::observe::events;

/// A reader of users' forward files.
pub trait ForwardFiles: Send + Sync {
    /// Returns the content of the forward file of `user`, or None if there is none.
    ///
    /// # Errors
    /// A text for the log, if the file is not to be used.
    fn read(&self, user: &str) -> Result<Option<Vec<u8>>, String>;
}

/// Forward files in the home directories of the system's users. Its function reads the file in a
/// home directory with the identity of its user.
pub struct HomeForwardFiles<F>(F);

impl<F> HomeForwardFiles<F>
where
    F: Fn(&Path, Owner) -> io::Result<Option<Vec<u8>>> + Send + Sync,
{
    /// Creates a reader that calls `read` with a user's home directory and ids.
    pub fn new(read: F) -> HomeForwardFiles<F> {
        HomeForwardFiles(read)
    }
}

impl<F> ForwardFiles for HomeForwardFiles<F>
where
    F: Fn(&Path, Owner) -> io::Result<Option<Vec<u8>>> + Send + Sync,
{
    fn read(&self, user: &str) -> Result<Option<Vec<u8>>, String> {
        let account = Account::from_name(user).map_err(|e| e.to_string())?;
        let Some(Account { uid, gid, dir, .. }) = account else { return Ok(None) };
        let owner = Owner { uid: uid.as_raw(), gid: gid.as_raw() };
        (self.0)(&dir, owner).map_err(|e| e.to_string())
    }
}

impl Expansion<'_> {
    /// Adds the targets of the forward file of the user at `to`. Returns false if there is no
    /// usable file, so that the mail is for the mailbox.
    pub(super) fn follow_forward_file(&mut self, to: &UserMailbox) -> bool {
        let user = to.name.as_str();
        // Users that are not the system's have no home directory.
        let (Some(files), true) = (self.resolver.forward_files.get(), to.owner.is_some()) else {
            return false;
        };
        if self.forwarded_users.contains(user) {
            return true;
        }
        if self.forward_path.len() >= LEVELS_MAX || self.forward_path.iter().any(|u| u == user) {
            return false;
        }
        let followed = match files.read(user) {
            Ok(None) => return false,
            Ok(Some(text)) => self.expand_forward_file(user, &text),
            Err(error) => Err(error),
        };
        if let Err(why) = &followed {
            events::forward_file_ignored(user, why);
            self.explain_line(|| format!("! ~{user}/.forward is not used: {why}"));
        }
        followed.is_ok_and(|has_addresses| has_addresses)
    }

    /// Adds the destinations of the addresses in `text`, or none of them if any is wrong. Returns
    /// whether it holds an address.
    fn expand_forward_file(&mut self, user: &str, text: &[u8]) -> Result<bool, String> {
        let items = parse_include(text);
        if items.len() > FORWARD_MAX {
            return Err(format!("more than {FORWARD_MAX} addresses"));
        }
        for item in &items {
            match &item.target {
                AliasTarget::Name(_)
                | AliasTarget::Mailbox(_)
                | AliasTarget::User(_)
                | AliasTarget::Null => {}
                AliasTarget::Unsupported { text, kind } => {
                    return Err(format!("`{text}` {}", kind.reason()));
                }
                AliasTarget::Include(path) => return Err(format!(":include:{}", path.display())),
                AliasTarget::Invalid { text, error } => return Err(format!("`{text}` {error}")),
            }
        }
        // A separate expansion, because an error in the user's file must not make that of the
        // alias fail.
        let mut nested = Expansion::new(self.resolver, self.aliases, self.mode);
        nested.forward_path = self.forward_path.clone();
        nested.forward_path.push(user.to_owned());
        nested.forwarded_users = std::mem::take(&mut self.forwarded_users);
        nested.address_count = self.address_count;
        for item in &items {
            nested.add_target(item, Path::new(".forward"));
        }
        self.forwarded_users = std::mem::take(&mut nested.forwarded_users);
        self.address_count = nested.address_count;
        if let Some(error) = nested.errors.first() {
            return Err(error.refusal.to_string());
        }
        if !nested.remote.iter().all(|mailbox| self.resolver.is_relayed(mailbox)) {
            return Err("it leads to another host, and nothing is relayed there".to_owned());
        }
        self.explain_line(|| format!("~{user}/.forward"));
        self.lines.append(&mut nested.lines);
        for (destination, member) in nested.destinations.into_iter().zip(nested.members) {
            self.add_mailbox(destination, member);
        }
        for mailbox in &nested.remote {
            self.add_remote(mailbox);
        }
        self.discards |= nested.discards;
        self.forwarded_users.insert(user.to_owned());
        Ok(!items.is_empty())
    }
}

/// Maximum number of addresses in one file.
const FORWARD_MAX: usize = 100;
