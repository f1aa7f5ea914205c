//! `~/.forward`: where a user wants their mail to go (off unless it is asked for).
//!
//! It holds addresses, one or more in a line; `\user`, or the user's own name, keeps a copy in the
//! mailbox. At most [`FORWARD_MAX`] of them; no programs, no files, no `:include:`. A user whose
//! mail is being forwarded already gets it in the mailbox, so that two who forward to each other
//! make no loop.
//!
//! A file that is of no use - unreadable, written by others, wrong, or leading where no mail can
//! go - changes nothing: the mail stays in the mailbox, and the log says why.

use std::path::Path;

use super::aliases::{AliasTarget, parse_include};
use super::expand::{Expansion, LEVELS_MAX};
use crate::message::Destination;
use crate::observe::events;

/// Who reads forward files.
pub trait ForwardFiles: Send + Sync {
    /// What the forward file of `user` says; None: there is none.
    ///
    /// # Errors
    /// It is not to be used; the text, for the log, says why.
    fn read(&self, user: &str) -> Result<Option<Vec<u8>>, String>;
}

impl Expansion<'_> {
    /// Follows the forward file of a user whose mailbox is `to`. Whether there was one.
    pub(super) fn forward(&mut self, to: &Destination) -> bool {
        let user = to.mailbox.as_str();
        let Some(files) = self.local.forwards.get().filter(|_| to.owner.is_some()) else {
            return false;
        };
        if self.forwarded.contains(user) {
            return true;
        }
        if self.forwarding.len() >= LEVELS_MAX || self.forwarding.iter().any(|u| u == user) {
            return false;
        }
        let followed = match files.read(user) {
            Ok(None) => return false,
            Ok(Some(text)) => self.follow(user, &text),
            Err(why) => Err(why),
        };
        if let Err(why) = &followed {
            events::forward_file_ignored(user, why);
            self.note(|| format!("! ~{user}/.forward is not used: {why}"));
        }
        followed.is_ok_and(|any| any)
    }

    /// Goes where `text` leads, or nowhere if any of it is wrong.
    fn follow(&mut self, user: &str, text: &[u8]) -> Result<bool, String> {
        let items = parse_include(text);
        if items.len() > FORWARD_MAX {
            return Err(format!("more than {FORWARD_MAX} addresses"));
        }
        for item in &items {
            match &item.target {
                AliasTarget::Name(_) | AliasTarget::Mailbox(_) | AliasTarget::User(_) => {}
                AliasTarget::Include(path) => return Err(format!(":include:{}", path.display())),
                AliasTarget::Invalid { text, why } => return Err(format!("`{text}` {why}")),
            }
        }
        let mut inner = Expansion::new(self.local, self.aliases, self.kind);
        inner.forwarding = self.forwarding.clone();
        inner.forwarding.push(user.to_owned());
        inner.forwarded = std::mem::take(&mut self.forwarded);
        inner.addresses = self.addresses;
        for item in &items {
            inner.item(item, Path::new(".forward"));
        }
        self.forwarded = std::mem::take(&mut inner.forwarded);
        self.addresses = inner.addresses;
        if let Some(fault) = inner.faults.first() {
            return Err(fault.refusal.to_string());
        }
        if !inner.remote.is_empty() && !self.local.settings.relays {
            return Err("it leads to another host, and nothing is relayed".to_owned());
        }
        self.note(|| format!("~{user}/.forward"));
        self.lines.append(&mut inner.lines);
        for found in inner.found {
            self.keep(found);
        }
        for mailbox in inner.remote {
            if !self.remote.contains(&mailbox) {
                self.remote.push(mailbox);
            }
        }
        self.forwarded.insert(user.to_owned());
        Ok(!items.is_empty())
    }
}

/// The most addresses in one file.
const FORWARD_MAX: usize = 100;
