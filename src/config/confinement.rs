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
    pub fn reach(&self, included: &[PathBuf]) -> ConfinementRules {
        let mut reach = ConfinementRules::new();
        reach.write(&self.mail_dir);
        reach.write(&self.spool);
        if self.users == NameSet::System {
            reach.look_up_users();
        }
        self.aliases.iter().for_each(|file| reach.read(file));
        included.iter().for_each(|file| reach.read_public(file));
        if let Some(tls) = &self.tls {
            reach.read(&tls.cert);
            reach.read(&tls.key);
        }
        let metrics = self.metrics_file.as_deref().and_then(Path::parent);
        metrics.into_iter().for_each(|directory| reach.write(directory));
        for address in self.listen.iter().chain(&self.lmtp) {
            if let ListenAddress::Unix { path, .. } = address {
                path.parent().into_iter().for_each(|directory| reach.remove_in(directory));
            }
        }
        for target in self.relay.iter().flat_map(|relay| &relay.smarthosts) {
            if let ServerAddress::Tcp { port, .. } = target {
                reach.connect(*port);
            }
        }
        if self.forward_files {
            reach.read_homes();
        }
        if self.terminals != Audience::Nobody {
            reach.write_terminals(&Terminals::default().utmp);
        }
        reach
    }
}
