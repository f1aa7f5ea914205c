//! Type SMTP at the receiver: commands on standard input, replies on standard output, no network.
//!
//! ```text
//! cargo run --example converse
//! EHLO me
//! MAIL FROM:<me@example.org>
//! RCPT TO:<you@example.org>
//! DATA
//! Hello.
//! .
//! QUIT
//! ```

use std::io::{self, BufRead, Write};

use mailslot::smtp::data::{Decoder, End};
use mailslot::smtp::{ForwardPath, Host, Receiver, Reply, Settings, Step, reply};

/// A host where everybody has a mailbox but nobody is told who that is.
struct Everybody;

impl Host for Everybody {
    type Destination = ();

    fn room(&self, _size: Option<u64>) -> Result<(), Reply> {
        Ok(())
    }
    fn recipient(&self, _to: &ForwardPath) -> Result<(), Reply> {
        Ok(())
    }
    fn vrfy(&self, _name: &str) -> Reply {
        reply::cannot_vrfy()
    }
    fn expn(&self, _list: &str) -> Reply {
        reply::cannot_expn()
    }
    fn help(&self) -> Option<Reply> {
        None
    }
}

fn main() -> io::Result<()> {
    let settings = Settings { size_max: 1_000_000, ..Settings::new("localhost") };
    let mut receiver = Receiver::new(settings.clone(), Everybody);
    say(&receiver.greeting())?;

    // The decoder of the mail data, while there is some.
    let mut data: Option<Decoder> = None;
    for line in io::stdin().lock().lines() {
        // A terminal ends lines with LF; on the wire only CR LF does.
        let line = format!("{}\r\n", line?);
        let step = match &mut data {
            None => receiver.line(line.as_bytes()),
            Some(decoder) => {
                let (_, end) = decoder.feed(line.as_bytes(), &mut |_piece| {});
                let reply = match end {
                    None => continue,
                    Some(End::Whole) => reply::delivered("an example"),
                    Some(End::BareLineEnd) => reply::data_bare_line_end(),
                    Some(End::TooLarge) => reply::data_too_large(),
                };
                data = None;
                receiver.end_of_data(reply)
            }
        };
        match step {
            Step::Reply(reply) => say(&reply)?,
            Step::Data(reply) => {
                say(&reply)?;
                data = Some(Decoder::new(settings.size_max));
            }
            // Settings::new offers no TLS.
            Step::StartTls(_) => say(&reply::tls_unavailable())?,
            Step::Close(reply) => return say(&reply),
        }
    }
    Ok(())
}

/// Writes one reply.
fn say(reply: &Reply) -> io::Result<()> {
    let mut out = Vec::new();
    reply.write_to(&mut out);
    io::stdout().write_all(&out)
}
