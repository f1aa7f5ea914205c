//! A server with its own recipients: a club that has mailboxes for its members, and no other user.
//!
//! ```text
//! cargo run --example embed -- ./club
//! curl smtp://127.0.0.1:2525 --mail-from a@b --mail-rcpt ann@club.example -T README.md --crlf
//! ```

use std::path::Path;
use std::sync::Arc;

use mailslot::deliver::{self, DeliveryConfig};
use mailslot::message::{MailboxName, UserMailbox};
use mailslot::net::listen;
use mailslot::observe::counters::Counters;
use mailslot::resolver::{AddressResolver, Refusal, Resolution};
use mailslot::server::{self, Server, ServerConfig};
use mailslot::session::SessionConfig;
use mailslot::smtp::ForwardPath;

struct Club(&'static [&'static str]);

impl AddressResolver for Club {
    fn resolve(&self, to: &ForwardPath) -> Result<Resolution, Refusal> {
        let name = match to {
            ForwardPath::Postmaster => self.0.first(), // RFC 5321 4.5.1: there must be one
            ForwardPath::Mailbox(mailbox) => self.0.iter().find(|name| **name == mailbox.local()),
        };
        let name = name.and_then(|name| MailboxName::new(name)).ok_or(Refusal::Unknown)?;
        let delivered_to = format!("{name}@club.example").into();
        Ok(Resolution::local(vec![UserMailbox { name, owner: None, delivered_to }]))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let signals = server::SignalHandlers::install()?;
    let directory = std::env::args_os().nth(1).ok_or("usage: embed DIRECTORY")?;
    let (mail_dir, spool) =
        (Path::new(&directory).join("mail"), Path::new(&directory).join("spool"));
    std::fs::create_dir_all(&mail_dir)?;
    std::fs::create_dir_all(&spool)?;

    let counters = Arc::new(Counters::default());
    let (writer, writer_thread) = deliver::start(
        DeliveryConfig {
            mail_dir: mail_dir.clone(),
            spool: spool.clone(),
            ..DeliveryConfig::default()
        },
        counters.clone(),
    )?;
    let config = ServerConfig {
        session: SessionConfig {
            hostname: "club.example".to_owned(),
            mail_dir,
            spool,
            ..SessionConfig::default()
        },
        ..ServerConfig::default()
    };

    let resolver = Arc::new(Club(&["ann", "bob"]));
    let server = Server::new(config, resolver.clone(), writer, counters.clone())?;
    signals.serve(server.handle(), resolver, counters, || {})?;
    server.run(listen::open(&["127.0.0.1:2525".parse()?])?)?;
    writer_thread.stop(); // every message that was answered 250 is on disk before this, too
    Ok(())
}
