//! Which files the process still needs once it runs: what it may touch in its sandbox.

use std::path::{Path, PathBuf};

use super::{Config, Names};
use crate::net::listen::Address;
use crate::process::confinement::Reach;
use crate::relay::client::Target;
use crate::session::Switch;
use crate::terminal::Terminals;

impl Config {
    /// What stays in reach with these settings; `included` are the files that the aliases name.
    pub fn reach(&self, included: &[PathBuf]) -> Reach {
        let mut reach = Reach::new();
        reach.write(&self.mail_dir);
        reach.write(&self.spool);
        if self.users == Names::System {
            reach.look_up_users();
        }
        self.aliases.iter().for_each(|file| reach.read(file));
        included.iter().for_each(|file| reach.read_public(file));
        if let Some(tls) = &self.tls {
            reach.read(&tls.cert);
            reach.read(&tls.key);
        }
        let metrics = self.metrics_file.as_deref().and_then(Path::parent);
        metrics.into_iter().for_each(|folder| reach.write(folder));
        for address in self.listen.iter().chain(&self.lmtp) {
            if let Address::Unix { path, .. } = address {
                path.parent().into_iter().for_each(|folder| reach.remove_in(folder));
            }
        }
        for target in self.relay.iter().flat_map(|relay| &relay.smarthosts) {
            if let Target::Tcp { port, .. } = target {
                reach.connect(*port);
            }
        }
        if self.forward_files {
            reach.read_homes();
        }
        if self.terminals != Switch::Off {
            reach.write_terminals(&Terminals::default().utmp);
        }
        reach
    }
}
