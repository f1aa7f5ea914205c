//! Which files the process still needs once it runs: what it may touch in its sandbox.

use std::path::{Path, PathBuf};

use super::{Config, NameSet};
use crate::net::listen::ListenAddress;
use crate::process::confinement::ConfinementRules;
use crate::relay::client::ServerAddress;
use crate::session::Audience;
use crate::terminal::Terminals;

impl Config {
    /// What stays in reach with these settings; `included` are the files that the aliases name.
    pub fn confinement_rules(&self, included: &[PathBuf]) -> ConfinementRules {
        let mut rules = ConfinementRules::new();
        rules.allow_write(&self.mail_dir);
        rules.allow_write(&self.spool);
        if self.users == NameSet::System {
            rules.allow_user_lookup();
        }
        self.aliases.iter().for_each(|file| rules.allow_read(file));
        included.iter().for_each(|file| rules.allow_read_public(file));
        if let Some(tls) = &self.tls {
            rules.allow_read(&tls.cert);
            rules.allow_read(&tls.key);
        }
        let metrics = self.metrics_file.as_deref().and_then(Path::parent);
        metrics.into_iter().for_each(|directory| rules.allow_write(directory));
        for address in self.listen.iter().chain(&self.lmtp) {
            if let ListenAddress::Unix { path, .. } = address {
                path.parent().into_iter().for_each(|directory| rules.allow_remove(directory));
            }
        }
        for target in self.relay.iter().flat_map(|relay| &relay.smarthosts) {
            if let ServerAddress::Tcp { port, .. } = target {
                rules.allow_connect(*port);
            }
        }
        if self.forward_files {
            rules.allow_read_homes();
        }
        if self.terminals != Audience::Off {
            rules.allow_terminals(&Terminals::default().utmp);
        }
        rules
    }
}
