//! One connection: the one place where [`smtp`](crate::smtp), [`route`](crate::route) and
//! [`deliver`](crate::deliver) meet.
//!
//! ```text
//! Stream  --line-->  Receiver  --asks-->  Desk (route, room on disk)
//!    |                  |
//!    |  mail data       | Envelope
//!    +----> Decoder ----> Intake ----> Message ----> Post ----> Outcome ----> reply
//! ```
//! It promises one reply to each command, and after the final dot the truth: 250 only when the
//! writer said [`Delivered`](Outcome::Delivered). Whatever goes wrong here, a panic included, ends
//! this session and no other. It knows the words of the protocol only to translate: a refusal, an
//! outcome, a fault and a cut each become a reply in one function below.
//!
//! The log has a line for each message that was offered, `delivered`, `later`, `refused` or
//! `abandoned`, and one for each refused recipient; connections are details.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::deliver::{Outcome, Post, Why, mbox};
use crate::logging::value;
use crate::message::{Destination, Fault, Intake, Message};
use crate::route::{Member, Refusal, Route};
use crate::smtp::data::{Decoder, End as DataEnd};
use crate::smtp::receiver::{Host, LINE_MAX, Receiver, Settings as ReceiverSettings, Step};
use crate::smtp::{Envelope, ForwardPath, Reply};
use crate::stream::{Cut, Peer, Stream};
use crate::trace::{self, Ids, Received};

/// Who is told something that a stranger could misuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Every client.
    On,
    /// Nobody.
    Off,
    /// Clients on this host: loopback, Unix sockets, a pipe.
    Local,
}

impl Switch {
    fn allows(self, peer: Peer) -> bool {
        match self {
            Switch::On => true,
            Switch::Off => false,
            Switch::Local => peer.is_local(),
        }
    }
}

/// What a session is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name in the greeting, in replies and in Received lines.
    pub hostname: String,
    /// The largest message, in octets of the data as sent.
    pub size_max: u64,
    /// Recipients of one message; at least 100 (RFC 5321 4.5.3.1.8).
    pub recipients_max: usize,
    /// Commands in error before 421 and close.
    pub errors_max: u32,
    /// Who gets answers to VRFY; the others get 252.
    pub vrfy: Switch,
    /// Who gets answers to EXPN; the others get 252.
    pub expn: Switch,
    /// Who is told by 551 where a user has moved; the others get 550.
    pub forward_replies: Switch,
    /// Where mail data above [`MEMORY_MAX`](crate::message::MEMORY_MAX) waits; must have room.
    pub spool: PathBuf,
    /// Where the mailboxes are; must have room.
    pub mail_dir: PathBuf,
    /// How long a client may take for one command line, or be silent within mail data
    /// (RFC 5321 4.5.3.2.7 asks for 5 minutes), or not read what it was answered.
    pub timeout: Duration,
    /// How long a session may take.
    pub session_timeout: Duration,
    /// How long a session waits for the writer. Should be more than its lock time-out.
    pub patience: Duration,
}

/// What all sessions of a process share.
pub struct Office {
    settings: Settings,
    route: Arc<dyn Route>,
    post: Post,
    counters: Arc<Counters>,
    ids: Ids,
}

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// With QUIT.
    Quit,
    /// By the receiver: too many commands in error.
    TooManyErrors,
    /// By the client, the network, the clock, or from outside.
    Cut(Cut),
    /// By a panic, which was caught.
    Panicked,
}

impl End {
    /// The exit status of a process that served this session alone, as in sysexits.h.
    pub fn exit_status(&self) -> u8 {
        match self {
            End::Quit | End::Cut(Cut::Closed) => 0,
            End::Panicked => 70,            // EX_SOFTWARE
            End::Cut(Cut::Broken(_)) => 74, // EX_IOERR
            End::Cut(_) => 75,              // EX_TEMPFAIL
            End::TooManyErrors => 76,       // EX_PROTOCOL
        }
    }

    /// Whether the client may still be sending, and should be heard out for a moment, so that it
    /// can read our last reply (see [`Stream::close`]).
    pub fn lingers(&self) -> bool {
        !matches!(self, End::Quit | End::Cut(Cut::Closed | Cut::NotReading | Cut::Broken(_)))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            End::Quit => "quit",
            End::TooManyErrors => "errors",
            End::Panicked => "panic",
            End::Cut(cut) => return cut.fmt(f),
        })
    }
}

impl Office {
    /// The parts, put together.
    pub fn new(
        settings: Settings,
        route: Arc<dyn Route>,
        post: Post,
        counters: Arc<Counters>,
    ) -> Office {
        Office { settings, route, post, counters, ids: Ids::new() }
    }

    /// Holds one session over `stream`, from the greeting to its end, and leaves its last reply
    /// for [`Stream::close`] to send. Does not panic.
    pub fn serve(&self, stream: &mut Stream) -> End {
        self.counters.sessions.one();
        let id = self.ids.session();
        let peer = stream.peer();
        log::debug!("connected session={id} client={peer}");
        let result =
            panic::catch_unwind(AssertUnwindSafe(|| Session::new(self, &id, stream).converse()));
        let end = match result {
            Ok(Ok(end)) => end,
            Ok(Err(cut)) => End::Cut(cut),
            Err(panic) => {
                self.counters.sessions_panicked.one();
                let said = panic.downcast_ref::<&str>().copied();
                let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
                log::error!("panic session={id} said={}", value(said.unwrap_or("?")));
                End::Panicked
            }
        };
        if let Some(reply) = last_reply(&end, &self.settings.hostname) {
            // That it cannot be sent is no news: the session is over.
            let _ = stream.reply(|out| reply.write_to(out));
        }
        log::debug!("disconnected session={id} client={peer} end={end}");
        end
    }
}

/// One connection.
struct Session<'a> {
    office: &'a Office,
    id: &'a str,
    stream: &'a mut Stream,
    receiver: Receiver<Desk<'a>>,
    messages: u64,
}

impl<'a> Session<'a> {
    fn new(office: &'a Office, id: &'a str, stream: &'a mut Stream) -> Session<'a> {
        let settings = &office.settings;
        let peer = stream.peer();
        let receiver = Receiver::new(
            ReceiverSettings {
                hostname: settings.hostname.clone(),
                size_max: settings.size_max,
                recipients_max: settings.recipients_max,
                vrfy: settings.vrfy.allows(peer),
                expn: settings.expn.allows(peer),
                errors_max: settings.errors_max,
            },
            Desk { office, session: id, peer },
        );
        Session { office, id, stream, receiver, messages: 0 }
    }

    fn converse(&mut self) -> Result<End, Cut> {
        self.say(&self.receiver.greeting())?;
        loop {
            let mut step = match self.stream.line(LINE_MAX)? {
                Some(line) => self.receiver.line(line),
                None => self.receiver.line_too_long(),
            };
            if let Step::Data(go_ahead) = &step {
                self.say(go_ahead)?;
                let verdict = self.message()?;
                step = self.receiver.end_of_data(verdict);
            }
            match step {
                Step::Reply(reply) | Step::Data(reply) => self.say(&reply)?,
                Step::Close(reply) => {
                    self.say(&reply)?;
                    return Ok(if reply.code == 221 { End::Quit } else { End::TooManyErrors });
                }
            }
        }
    }

    fn say(&mut self, reply: &Reply) -> Result<(), Cut> {
        self.stream.reply(|out| reply.write_to(out))
    }

    /// Takes the mail data of the transaction, delivers it, and returns what became of it.
    fn message(&mut self) -> Result<Reply, Cut> {
        let Office { settings, post, counters, .. } = self.office;
        let known = self.receiver.envelope().zip(self.receiver.client());
        // The receiver gives 354 only to a client that greeted and named a recipient.
        let Some((envelope, (client, protocol))) = known else { return Ok(local_error()) };
        self.messages += 1;
        let id = trace::message_id(self.id, self.messages);
        let at = trace::now();
        let to = destinations(envelope);
        let received = Received {
            client,
            peer: self.stream.peer().into(),
            hostname: &settings.hostname,
            protocol,
            id: &id,
            recipient: match envelope.to.as_slice() {
                [one] => Some(&one.path),
                _ => None,
            },
            at: &at,
        };
        let mut intake = Intake::new(&settings.spool, &received.line());
        let about = Line { session: self.id, message: &id, envelope, to: &to };

        let (end, octets) = match read_data(self.stream, settings.size_max, &mut intake) {
            Ok(read) => read,
            Err(cut) => {
                log::info!("abandoned {about} end={cut}");
                return Err(cut);
            }
        };
        let dot = Instant::now();
        let line = about.to_string();
        let reply = match (end, intake.finish()) {
            (DataEnd::BareLineEnd, _) => bare_line_end(),
            (DataEnd::TooLarge, _) => too_large(settings.size_max),
            (DataEnd::Whole, Err(fault)) => fault_reply(&fault),
            (DataEnd::Whole, Ok(content)) => {
                let head = mbox::head(&envelope.from, at.timestamp().as_second());
                let message = Message { id: id.clone(), head, content, to };
                outcome_reply(post.deliver(message, settings.patience), &id)
            }
        };
        let ms = u64::try_from(dot.elapsed().as_millis()).unwrap_or(u64::MAX);
        counters.slowest_ms.at_least(ms);
        match reply.code {
            ..400 => {
                counters.messages.one();
                counters.octets.add(octets);
                log::info!("delivered {line} size={octets} ms={ms}");
            }
            400..500 => {
                counters.messages_later.one();
                log::warn!("later {line} size={octets} ms={ms} reply={}", shown(&reply));
            }
            500.. => {
                counters.messages_never.one();
                log::info!("refused {line} size={octets} ms={ms} reply={}", shown(&reply));
            }
        }
        Ok(reply)
    }
}

/// Reads mail data into `intake`, to its true end; how it ended, and its octets as sent.
fn read_data(
    stream: &mut Stream,
    size_max: u64,
    intake: &mut Intake,
) -> Result<(DataEnd, u64), Cut> {
    let mut decoder = Decoder::new(size_max);
    let mut octets = 0;
    stream.begin_data();
    loop {
        let (used, end) = decoder.feed(stream.data()?, &mut |piece| intake.piece(piece));
        stream.consume(used);
        octets += used as u64;
        if let Some(end) = end {
            return Ok((end, octets));
        }
    }
}

/// Where the message goes: no mailbox twice, whatever aliases and lists lead there.
fn destinations(envelope: &Envelope<Vec<Destination>>) -> Vec<Destination> {
    let mut seen = HashSet::new();
    let all = envelope.to.iter().flat_map(|recipient| &recipient.destination);
    all.filter(|to| seen.insert(&to.mailbox)).cloned().collect()
}

/// What the receiver asks, and who answers: the route, the disk, the counters.
struct Desk<'a> {
    office: &'a Office,
    session: &'a str,
    peer: Peer,
}

impl Desk<'_> {
    fn refuse(&self, refusal: &Refusal, subject: &str) -> Reply {
        if let Refusal::Later(why) | Refusal::Misconfigured(why) = refusal {
            log::warn!("lookup session={} of={} why={}", self.session, value(subject), value(why));
        }
        let told = self.office.settings.forward_replies.allows(self.peer);
        refusal_reply(refusal, subject, told)
    }
}

impl Host for Desk<'_> {
    type Destination = Vec<Destination>;

    fn room(&self, size: Option<u64>) -> Result<(), Reply> {
        let Settings { spool, mail_dir, .. } = &self.office.settings;
        let needed = size.unwrap_or(0).saturating_add(ROOM_MIN);
        match has_room(spool, needed) && has_room(mail_dir, needed) {
            true => Ok(()),
            false => Err(no_room()),
        }
    }

    fn recipient(&self, to: &ForwardPath) -> Result<Vec<Destination>, Reply> {
        let Office { route, counters, .. } = self.office;
        match route.resolve(to) {
            Ok(destinations) => {
                counters.recipients.one();
                Ok(destinations)
            }
            Err(refusal) => {
                counters.recipients_refused.one();
                let reply = self.refuse(&refusal, &to.to_string());
                log::info!(
                    "recipient refused session={} client={} to={} reply={}",
                    self.session,
                    self.peer,
                    value(to),
                    shown(&reply)
                );
                Err(reply)
            }
        }
    }

    fn vrfy(&self, name: &str) -> Reply {
        match self.office.route.vrfy(name) {
            Ok(member) => members_reply(&[member]),
            Err(refusal) => self.refuse(&refusal, name),
        }
    }

    fn expn(&self, list: &str) -> Reply {
        match self.office.route.expn(list) {
            Ok(members) => members_reply(&members),
            Err(refusal) => self.refuse(&refusal, list),
        }
    }

    fn help(&self) -> Option<Reply> {
        let counters = self.peer.is_local().then(|| self.office.counters.list())?;
        let title = concat!("mailslot ", env!("CARGO_PKG_VERSION"), ", since it started:");
        let mut reply = Reply::new(211, (2, 0, 0), title);
        reply.lines.extend(counters.iter().map(|(name, n)| format!("{name} {n}").into()));
        reply.lines.push("HELP with a command's name tells about it".into());
        Some(reply)
    }
}

impl From<Peer> for trace::Peer {
    fn from(peer: Peer) -> trace::Peer {
        match peer {
            Peer::Ip(address) => trace::Peer::Address(address.ip()),
            Peer::Unix => trace::Peer::Local,
            Peer::Pipe => trace::Peer::Unknown,
        }
    }
}

/// Whether the disk that holds `folder` has `octets` free. A disk that cannot be asked, or knows no
/// size, has: the writer will see.
fn has_room(folder: &Path, octets: u64) -> bool {
    nix::sys::statvfs::statvfs(folder).map_or(true, |disk| {
        let free = disk.blocks_available() as u64 * disk.fragment_size() as u64;
        disk.blocks() == 0 || free >= octets
    })
}

/// What a recipient, or the name in VRFY and EXPN, hears; `told` whether a new address is told.
fn refusal_reply(refusal: &Refusal, subject: &str, told: bool) -> Reply {
    match refusal {
        Refusal::Forward(to) if told => {
            Reply::new(551, (5, 1, 6), format!("User not local; please try <{to}>"))
        }
        Refusal::Unknown | Refusal::Forward(_) => {
            Reply::new(550, (5, 1, 1), format!("{subject}: no such user here"))
        }
        Refusal::NameNotAllowed => {
            Reply::new(553, (5, 1, 3), format!("{subject}: mailbox name not allowed"))
        }
        Refusal::NotLocal => {
            Reply::new(550, (5, 7, 1), format!("{subject}: not local, and nothing is relayed"))
        }
        Refusal::Ambiguous(users) => {
            let mut reply = Reply::new(553, (5, 1, 4), format!("{subject}: ambiguous; it may be"));
            reply.lines.extend(users.iter().map(|user| format!("<{user}>").into()));
            reply
        }
        Refusal::Later(_) => {
            Reply::new(451, (4, 3, 0), format!("{subject}: cannot be looked up now, try later"))
        }
        Refusal::Misconfigured(_) => {
            Reply::new(451, (4, 3, 5), format!("{subject}: aliases are in disorder, try later"))
        }
    }
}

/// What the sender hears after the dot.
fn outcome_reply(outcome: Outcome, id: &str) -> Reply {
    let (code, status, text) = match outcome {
        Outcome::Delivered => return Reply::new(250, (2, 0, 0), format!("Delivered, id {id}")),
        Outcome::Later(Why::OverQuota) => (452, (4, 2, 2), "Mailbox full, try later"),
        Outcome::Never(Why::OverQuota) => (552, (5, 2, 2), "Mailbox full"),
        Outcome::Never(_) => (554, (5, 3, 0), "Cannot be delivered"),
        Outcome::Later(Why::Busy) => (451, (4, 2, 0), "Mailbox in use, try later"),
        Outcome::Later(Why::Unusable) => (451, (4, 2, 0), "Mailbox out of order, try later"),
        Outcome::Later(Why::NoSpace) => (452, (4, 3, 1), "Disk full, try later"),
        Outcome::Later(Why::Stopping) => (451, (4, 3, 2), "Stopping, try later"),
        Outcome::Later(Why::Io | Why::GivenUp) => return local_error(),
    };
    Reply::new(code, status, text)
}

/// What the sender hears of mail data that could not be taken in.
fn fault_reply(fault: &Fault) -> Reply {
    match fault {
        Fault::Loop => Reply::new(554, (5, 4, 6), "Too many Received fields: a mail loop"),
        Fault::HiddenFrom => Reply::new(554, (5, 6, 0), "A long line hides a From_ line"),
        Fault::Disk(e) => {
            log::warn!("spool: {e}");
            match e.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_room(),
                _ => local_error(),
            }
        }
    }
}

/// What a client hears of the end of its session; None if it will not listen, or has its 221.
fn last_reply(end: &End, hostname: &str) -> Option<Reply> {
    let (status, text) = match end {
        End::Quit | End::TooManyErrors => return None,
        End::Cut(Cut::Closed | Cut::Broken(_) | Cut::NotReading) => return None,
        End::Panicked => ((4, 3, 0), "internal error"),
        End::Cut(Cut::TimedOut) => ((4, 4, 2), "nothing came for too long"),
        End::Cut(Cut::TooSlow) => ((4, 4, 2), "mail data comes too slowly"),
        End::Cut(Cut::Deadline) => ((4, 4, 2), "the session takes too long"),
        End::Cut(Cut::MakeRoom) => ((4, 4, 2), "idle, and others are waiting"),
        End::Cut(Cut::Stopping) => ((4, 3, 2), "stopping"),
    };
    Some(Reply::new(421, status, format!("{hostname} closing: {text}")))
}

/// VRFY's and EXPN's 250: `Full Name <user@host>` (RFC 5321 3.5.2).
fn members_reply(members: &[Member]) -> Reply {
    let lines = members.iter().map(|Member { full_name, mailbox }| match full_name.as_str() {
        "" => format!("<{mailbox}>").into(),
        name => format!("{name} <{mailbox}>").into(),
    });
    Reply { lines: lines.collect(), ..Reply::new(250, (2, 1, 5), "") }
}

fn no_room() -> Reply {
    Reply::new(452, (4, 3, 1), "Disk full, try later")
}

fn local_error() -> Reply {
    Reply::new(451, (4, 3, 0), "Local error, try later")
}

fn bare_line_end() -> Reply {
    Reply::new(554, (5, 6, 0), "Bare CR or LF in mail data; only CR LF ends a line")
}

fn too_large(size_max: u64) -> Reply {
    Reply::new(552, (5, 3, 4), format!("Larger than {size_max} octets"))
}

/// The last line of a reply as a value for the log: `"451 4.2.0 Mailbox in use"`.
fn shown(reply: &Reply) -> impl fmt::Display + use<> {
    let mut wire = Vec::new();
    reply.write_to(&mut wire);
    let text = String::from_utf8_lossy(&wire);
    value(text.lines().next().unwrap_or_default().to_owned())
}

/// What every log line about a message begins with.
struct Line<'a> {
    session: &'a str,
    message: &'a str,
    envelope: &'a Envelope<Vec<Destination>>,
    to: &'a [Destination],
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut to: Vec<&str> = self.to.iter().take(SHOWN).map(|d| d.mailbox.as_str()).collect();
        if self.to.len() > SHOWN {
            to.push("...");
        }
        let (session, message) = (self.session, self.message);
        let (from, to) = (value(&self.envelope.from), value(to.join(",")));
        write!(f, "session={session} message={message} from={from} to={to}")?;
        write!(f, " mailboxes={}", self.to.len())
    }
}

/// Free octets below which no message is taken.
const ROOM_MIN: u64 = 64 * 1024;
/// Mailboxes that a log line names.
const SHOWN: usize = 10;
