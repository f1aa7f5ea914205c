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

use std::io::{self, Write};

use mailslot::smtp::chunk::Chunks;
use mailslot::smtp::data::{DataEnd, Decoder};
use mailslot::smtp::{
    Delivery, ForwardPath, Host, Receiver, ReceiverConfig, Reply, ReversePath, Step, reply,
};

/// A host where everybody has a mailbox but nobody is told who that is.
struct Everybody;

impl Host for Everybody {
    type Destination = ();

    fn mail(&self, _from: &ReversePath, _size: Option<u64>) -> Result<(), Reply> {
        Ok(())
    }
    fn recipient(&self, _to: &ForwardPath, _delivery: Delivery) -> Result<(), Reply> {
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
    let settings = ReceiverConfig { size_max: 1_000_000, ..ReceiverConfig::new("localhost") };
    let mut receiver = Receiver::new(settings.clone(), Everybody);
    let mut typed = Typed::default();
    // Mail data that has begun to come in chunks.
    let mut chunks = Chunks::new();
    say(&receiver.greeting())?;

    while let Some(line) = typed.line()? {
        let mut step = receiver.line(&line);
        if !receiver.awaits_chunks() {
            chunks = Chunks::new();
        }
        if let Step::Data(go_ahead) = step {
            say(&go_ahead)?;
            let mut decoder = Decoder::new(settings.size_max);
            let end = loop {
                let Some(line) = typed.line()? else { return Ok(()) };
                if let (_, Some(end)) = decoder.feed(&line, &mut |_piece| {}) {
                    break end;
                }
            };
            step = receiver.end_of_data(verdict(end));
        } else if let Step::Chunk { octets, last } = step {
            chunks.begin(octets);
            let chunk = typed.octets(octets)?;
            chunks.feed(&chunk, &mut |_piece| {});
            step = if last {
                receiver.end_of_data(verdict(std::mem::take(&mut chunks).finish(&mut |_piece| {})))
            } else {
                receiver.end_of_chunk(Ok(octets))
            };
        }
        match step {
            Step::Reply(reply) => say(&reply)?,
            Step::Skip(octets, replies) => {
                typed.octets(octets)?;
                replies.iter().try_for_each(say)?;
            }
            Step::Close(reply) => return say(&reply),
            // ReceiverConfig::new offers no TLS; the others were dealt with.
            Step::StartTls(_) | Step::Data(_) | Step::Chunk { .. } => {}
        }
    }
    Ok(())
}

/// What is said after the mail data.
fn verdict(end: DataEnd) -> Reply {
    match end {
        DataEnd::Whole => reply::delivered("an example"),
        DataEnd::BareLineEnd => reply::data_bare_line_end(),
        DataEnd::TooLarge => reply::data_too_large(),
    }
}

/// Standard input. A terminal ends lines with LF; on the wire only CR LF does.
#[derive(Default)]
struct Typed {
    unread: Vec<u8>,
}

impl Typed {
    /// One more line is there; false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        let there = io::stdin().read_line(&mut line)? > 0;
        self.unread.extend(line.trim_end_matches('\n').bytes());
        self.unread.extend(b"\r\n");
        Ok(there)
    }

    /// The next line; None at the end.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.unread.is_empty() && !self.more()? {
            return Ok(None);
        }
        let end = self.unread.iter().position(|octet| *octet == b'\n');
        let end = end.map_or(self.unread.len(), |at| at + 1);
        Ok(Some(self.unread.drain(..end).collect()))
    }

    /// So many octets, or what there is.
    fn octets(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        while self.unread.len() < count && self.more()? {}
        Ok(self.unread.drain(..count.min(self.unread.len())).collect())
    }
}

/// Writes one reply.
fn say(reply: &Reply) -> io::Result<()> {
    let mut out = Vec::new();
    reply.write_to(&mut out);
    io::stdout().write_all(&out)
}
