//! A server with its own recipients: a club whose members have mailboxes, and nobody else.
//!
//! ```text
//! cargo run --example embed -- ./club
//! curl smtp://127.0.0.1:2525 --mail-from a@b --mail-rcpt ann@club.example -T README.md --crlf
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mailslot::message::{Destination, MailboxName};
use mailslot::net::listen;
use mailslot::observe::counters;
use mailslot::route::{Refusal, Route};
use mailslot::server::Server;
use mailslot::session::Audience;
use mailslot::smtp::ForwardPath;
use mailslot::terminal::Terminals;
use mailslot::{deliver, server, session};

struct Club(&'static [&'static str]);

impl Route for Club {
    fn resolve(&self, to: &ForwardPath) -> Result<Vec<Destination>, Refusal> {
        let name = match to {
            ForwardPath::Postmaster => self.0.first(), // RFC 5321 4.5.1: there must be one
            ForwardPath::Mailbox(mailbox) => self.0.iter().find(|name| **name == mailbox.local()),
        };
        let mailbox = name.and_then(|name| MailboxName::new(name)).ok_or(Refusal::Unknown)?;
        let delivered_to = format!("{mailbox}@club.example");
        Ok(vec![Destination { mailbox, owner: None, delivered_to }])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: embed FOLDER")?;
    let (mail_dir, spool) = (Path::new(&folder).join("mail"), Path::new(&folder).join("spool"));
    std::fs::create_dir_all(&mail_dir)?;
    std::fs::create_dir_all(&spool)?;

    let counters = Arc::new(counters::Counters::default());
    let (post, writer) = deliver::start(
        deliver::DeliveryConfig {
            mail_dir: mail_dir.clone(),
            spool: spool.clone(),
            locks: deliver::Locks { dotlock: true, fcntl: true, flock: true },
            lock_timeout: Duration::from_secs(30),
            mailbox_limit: None,
            queue: 8,
            journal_segment: deliver::JOURNAL_SEGMENT_SMALL,
        },
        counters.clone(),
    )?;
    let session = session::SessionConfig {
        hostname: "club.example".to_owned(),
        size_max: 10 << 20,
        recipients_max: 100,
        errors_max: 20,
        vrfy: Audience::Off,
        expn: Audience::Off,
        forward_replies: Audience::Off,
        send: Audience::Off,
        terminals: Terminals::default(),
        spool,
        mail_dir,
        timeout: Duration::from_secs(300),
        session_timeout: Duration::from_secs(1200),
        outcome_timeout: Duration::from_secs(60),
        tls: None,
        relay: None,
    };
    let grace = Duration::from_secs(10);
    let settings = server::ServerConfig { session, threads: 8, per_client: 4, grace };

    let route = Arc::new(Club(&["ann", "bob"]));
    let server = Server::new(settings, route.clone(), post, counters.clone())?;
    server::on_signals(server.handle(), route, counters)?;
    server.run(listen::open(&["127.0.0.1:2525".parse()?])?)?;
    writer.stop(); // every message that was answered 250 is on disk before this, too
    Ok(())
}
