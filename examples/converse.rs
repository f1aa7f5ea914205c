//! An SMTP server on standard input and output, without a network: type commands, read replies.
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

/// A host that accepts every recipient, and does not answer VRFY and EXPN.
struct AcceptAll;

impl Host for AcceptAll {
    type Destination = ();

    fn check_mail(&self, _from: &ReversePath, _size: Option<u64>) -> Result<(), Reply> {
        Ok(())
    }
    fn resolve_recipient(&self, _to: &ForwardPath, _delivery: Delivery) -> Result<(), Reply> {
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
    let config = ReceiverConfig { size_max: 1_000_000, ..ReceiverConfig::default() };
    let mut receiver = Receiver::new(config.clone(), AcceptAll);
    let mut input = Input::default();
    let mut chunks = Chunks::new();
    send(&receiver.greeting())?;

    while let Some(line) = input.read_line()? {
        let mut step = receiver.handle_line(&line);
        if !receiver.is_chunking() {
            chunks = Chunks::new();
        }
        if let Step::Data(go_ahead) = step {
            send(&go_ahead)?;
            let mut decoder = Decoder::new(config.size_max);
            let end = loop {
                let Some(line) = input.read_line()? else { return Ok(()) };
                if let (_, Some(end)) = decoder.feed(&line, &mut |_piece| {}) {
                    break end;
                }
            };
            step = receiver.finish_data(data_reply(end));
        } else if let Step::Chunk { octets, last } = step {
            chunks.begin_chunk(octets);
            let chunk = input.read_bytes(octets)?;
            chunks.feed(&chunk, &mut |_piece| {});
            step = if last {
                let end = std::mem::take(&mut chunks).finish(&mut |_piece| {});
                receiver.finish_data(data_reply(end))
            } else {
                receiver.finish_chunk(Ok(octets))
            };
        }
        match step {
            Step::Reply(reply) => send(&reply)?,
            Step::Skip(octets, replies) => {
                input.read_bytes(octets)?;
                replies.iter().try_for_each(send)?;
            }
            Step::Close(reply) => return send(&reply),
            // TLS is off by default, and the other steps were handled above.
            Step::StartTls(_) | Step::Data(_) | Step::Chunk { .. } => {}
        }
    }
    Ok(())
}

/// Returns the reply to the end of mail data.
fn data_reply(end: DataEnd) -> Reply {
    match end {
        DataEnd::Whole => reply::delivered("an example"),
        DataEnd::BareLineEnd => reply::data_bare_line_end(),
        DataEnd::TooLarge => reply::data_too_large(),
    }
}

/// Standard input, with CR LF for the LF that a terminal sends.
#[derive(Default)]
struct Input {
    unread: Vec<u8>,
}

impl Input {
    /// Reads one more line into the buffer. Returns false at the end of the input.
    fn fill(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        let is_open = io::stdin().read_line(&mut line)? > 0;
        self.unread.extend(line.trim_end_matches('\n').bytes());
        self.unread.extend(b"\r\n");
        Ok(is_open)
    }

    /// Returns the next line, or None at the end of the input.
    fn read_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.unread.is_empty() && !self.fill()? {
            return Ok(None);
        }
        let end = self.unread.iter().position(|byte| *byte == b'\n');
        let end = end.map_or(self.unread.len(), |at| at + 1);
        Ok(Some(self.unread.drain(..end).collect()))
    }

    /// Returns the next `count` bytes, or fewer at the end of the input.
    fn read_bytes(&mut self, count: u64) -> io::Result<Vec<u8>> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        while self.unread.len() < count && self.fill()? {}
        Ok(self.unread.drain(..count.min(self.unread.len())).collect())
    }
}

/// Writes a reply to standard output.
fn send(reply: &Reply) -> io::Result<()> {
    let mut out = Vec::new();
    reply.write_to(&mut out);
    io::stdout().write_all(&out)
}
