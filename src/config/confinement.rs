//! The files and ports that the process needs once it runs.

use std::path::{Path, PathBuf};

use super::{Config, NameSet, RelayOptions};
use crate::net::listen::ListenAddress;
use crate::process::confinement::ConfinementRules;
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
        // HUP reloads them, too.
        if let Some(relay) = &self.relay {
            match &relay.ca {
                Some(file) => rules.allow_read(file),
                None => rules.allow_read_roots(),
            }
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
        for port in self.relay.iter().flat_map(RelayOptions::ports) {
            rules.allow_connect(port);
        }
        if self.forward_files {
            rules.allow_read_homes();
        }
        if self.terminals != Audience::NoClient {
            rules.allow_terminals(&Terminals::default().utmp);
        }
        rules
    }

    /// Returns the files that lookups of users, aliases and hosts read, if they exist.
    pub fn lookup_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.aliases.iter().cloned().collect();
        if self.relay.as_ref().is_some_and(|relay| !relay.ports().is_empty()) {
            files.extend(["/etc/resolv.conf", "/etc/hosts"].map(PathBuf::from));
        }
        if self.users == NameSet::System {
            files.extend(["/etc/passwd", "/etc/group"].map(PathBuf::from));
        }
        files
    }

    /// Returns all files and directories without which the server defers mail, whether they exist
    /// or not.
    pub fn needed_files(&self) -> Vec<PathBuf> {
        let mut files = self.lookup_files();
        files.extend([self.mail_dir.clone(), self.spool.clone()]);
        files.extend(self.tls.iter().flat_map(|tls| [tls.cert.clone(), tls.key.clone()]));
        let metrics = self.metrics_file.as_deref().and_then(Path::parent);
        files.extend(metrics.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned));
        files
    }
}
