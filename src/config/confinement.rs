//! The files and ports that the process needs once it runs.

use std::path::{Path, PathBuf};

use super::{Config, NameSet};
use crate::net::listen::ListenAddress;
use crate::process::confinement::ConfinementRules;
use crate::relay::client::ServerAddress;
use crate::session::Audience;
use crate::terminal::Terminals;

impl Config {
    /// Returns the confinement for this configuration. `included` are the files that the alias file
    /// includes.
    pub fn confinement_rules(&self, included: &[PathBuf]) -> ConfinementRules {
        let mut rules = ConfinementRules::new();
        rules.allow_write(&self.mail_dir);
        rules.allow_write(&self.spool);
        if self.users == NameSet::System {
            rules.allow_user_lookup();
        }
        // HUP compares it with the values in effect.
        if let Some(file) = self.file() {
            rules.allow_read(file);
        }
        if let Some(file) = &self.aliases {
            rules.allow_read(file);
        }
        for file in included {
            rules.allow_read_public(file);
        }
        if let Some(tls) = &self.tls {
            rules.allow_read(&tls.cert);
            rules.allow_read(&tls.key);
        }
        if let Some(directory) = self.metrics_file.as_deref().and_then(Path::parent) {
            rules.allow_write(directory);
        }
        for address in self.listen.iter().chain(&self.lmtp) {
            if let ListenAddress::Unix { path, .. } = address
                && let Some(directory) = path.parent()
            {
                rules.allow_remove(directory);
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
        if self.terminals != Audience::Nobody {
            rules.allow_terminals(&Terminals::default().utmp);
        }
        rules
    }
}
