//! sendmail(1), mailq(1) and newaliases(1): how the programs of this host hand over a message.
//!
//! ```text
//! standard input --compose--> Letter --client--> the server: a Unix socket, or loopback
//! command line --flags--> envelope       outcomes --> exit status of sysexits.h
//! ```
//! It runs with the rights of its caller and needs none: whatever it says is judged by the server
//! as anybody's word is. There is no queue but the server's, for mail that leaves the host, and
//! that is shown to whoever may read it. What the server does not take is the caller's still, with
//! status 75 or one that is final, and a line that says why.
//!
//! | file | owns |
//! | --- | --- |
//! | `flags.rs` | the command line |
//! | `addresses.rs` | address lists |
//! | `compose.rs` | the message as it is read |

pub mod addresses;
pub mod compose;
pub mod flags;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use crate::config::{Config, ConfigError, NameSet};
use crate::message::trace;
use crate::net::listen::ListenAddress;
use crate::net::tls::Trust;
use crate::relay::client::{
    self, ClientConfig, ClientTls, Connection, OutgoingMessage, ServerAddress, Timeouts,
};
use crate::relay::queue;
use crate::route::{LocalRoute, Refusal, Route};
use crate::smtp::sender::RecipientOutcome;
use crate::smtp::{
    BodyType, Delivery, Domain, Envelope, ForwardPath, Mailbox, Recipient, ReversePath,
};
use crate::sysexits::{
    EX_CONFIG, EX_DATAERR, EX_IOERR, EX_NOPERM, EX_NOUSER, EX_OK, EX_OSERR, EX_TEMPFAIL,
    EX_UNAVAILABLE, EX_USAGE,
};
use compose::{ComposeError, ComposeOptions, ComposedMessage};
use flags::{Flags, Mode};

/// Why it ends without success: a status of sysexits.h, and a line for standard error.
type SendmailError = (u8, String);

/// Runs the program; `args` begins with the name that it was called by. Returns its exit status.
pub fn run(args: &[OsString]) -> u8 {
    let args: Vec<String> = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let name = args.first().map_or("sendmail", |name| name.rsplit('/').next().unwrap_or(name));
    let flags = flags::parse(name, args.get(1..).unwrap_or_default());
    let done = flags.map_err(|why| (EX_USAGE, why)).and_then(|flags| match flags.mode {
        Mode::Send => send(&flags),
        Mode::Smtp => speak(&flags),
        Mode::Verify => verify(&flags),
        Mode::Queue => show_queue(&flags),
        Mode::Flush => flush(&flags),
        // The server reads them when they change.
        Mode::Aliases => Ok(EX_OK),
        Mode::Help => print(flags::HELP),
        Mode::Version => print(concat!("mailslot-sendmail ", env!("CARGO_PKG_VERSION"), "\n")),
    });
    done.unwrap_or_else(|(status, why)| {
        complain(&why);
        status
    })
}

/// Reads a message, and hands it over.
fn send(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let domain = own_domain(&config);
    let caller = Caller::find();
    let own = Mailbox::new(&caller.name, domain.clone())
        .map_err(|e| (EX_OSERR, format!("who calls, {:?}, has no address: {e}", caller.name)))?;
    let from = match flags.from.as_deref().map(str::trim) {
        None => ReversePath::Mailbox(own.clone()),
        Some("" | "<>") => ReversePath::Null,
        Some(text) => ReversePath::Mailbox(one_address(text, &domain)?),
    };
    let author = match &from {
        ReversePath::Mailbox(mailbox) => mailbox,
        ReversePath::Null => &own,
    };
    let mut to = Vec::new();
    for operand in &flags.operands {
        let list = addresses::parse(operand, &domain);
        let list = list.map_err(|why| (EX_USAGE, format!("{operand:?} is no address: {why}")))?;
        add(&mut to, list.into_iter().map(|address| address.mailbox));
    }
    if to.is_empty() && !flags.recipients_in_header {
        return Err((EX_USAGE, "to whom? Give addresses, or -t if the header has them".to_owned()));
    }
    let how = ComposeOptions {
        dot_is_text: flags.dot_is_text,
        recipients_in_header: flags.recipients_in_header,
        domain: &domain,
        author,
        full_name: flags.full_name.as_deref().unwrap_or(&caller.full_name),
        now: &trace::now(),
        id: &format!("{}@{}", trace::IdGenerator::new().next_session_id(), config.hostname),
    };
    let letter = compose::read(&mut BufReader::new(io::stdin().lock()), &how);
    let letter = letter.map_err(|fault| match fault {
        ComposeError::Header | ComposeError::Field(..) => (EX_DATAERR, fault.to_string()),
        ComposeError::Io(_) => (EX_TEMPFAIL, fault.to_string()),
    })?;
    add(&mut to, letter.recipients.iter().cloned());
    if to.is_empty() {
        return Err((EX_DATAERR, "the header names no recipient".to_owned()));
    }
    let envelope = envelope(flags, from, &to, letter.eight_bit);
    let mut connection = connect(flags, &config)?;
    let outcomes = hand_over(&mut connection, &envelope, &letter);
    connection.quit();
    Ok(tell(flags, &to, &outcomes))
}

/// Adds those that are not there yet.
fn add(to: &mut Vec<Mailbox>, more: impl Iterator<Item = Mailbox>) {
    for mailbox in more {
        if !to.contains(&mailbox) {
            to.push(mailbox);
        }
    }
}

fn envelope(flags: &Flags, from: ReversePath, to: &[Mailbox], eight_bit: bool) -> Envelope<()> {
    let recipient = |mailbox: &Mailbox| Recipient {
        path: ForwardPath::Mailbox(mailbox.clone()),
        destination: (),
        notify: flags.notify,
        original: None,
    };
    Envelope {
        delivery: Delivery::Mail,
        from,
        size: None,
        body: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
        utf8: false,
        ret: flags.ret,
        envid: flags.envid.clone(),
        to: to.iter().map(recipient).collect(),
    }
}

fn hand_over(
    connection: &mut Connection,
    envelope: &Envelope<()>,
    letter: &ComposedMessage,
) -> Vec<RecipientOutcome> {
    let open = || -> io::Result<Box<dyn Read + '_>> { Ok(letter.reader()) };
    connection.send(&OutgoingMessage { envelope, octets: letter.octets, content: &open })
}

/// Says what did not go well, and returns the status for it: one that is final only where trying
/// again would help nobody.
fn tell(flags: &Flags, to: &[Mailbox], outcomes: &[RecipientOutcome]) -> u8 {
    let mut status = EX_OK;
    for (mailbox, outcome) in to.iter().zip(outcomes) {
        let reason = outcome.reason();
        let this = match (outcome, reason.status) {
            (RecipientOutcome::Accepted(_), _) => EX_OK,
            (RecipientOutcome::Deferred(_), _) => EX_TEMPFAIL,
            (RecipientOutcome::Failed(_), (_, 1, _)) => EX_NOUSER,
            (RecipientOutcome::Failed(_), (_, 6, _) | (_, 3, 4)) => EX_DATAERR,
            (RecipientOutcome::Failed(_), _) => EX_UNAVAILABLE,
        };
        if this != EX_OK || flags.verbose {
            complain(&format!("{mailbox}: {reason}"));
        }
        if status != EX_TEMPFAIL && this != EX_OK {
            status = this;
        }
    }
    status
}

/// Connects to the server, by the first way that there is.
fn connect(flags: &Flags, config: &Config) -> Result<Connection, SendmailError> {
    let timeouts = Timeouts::default();
    // The server is this host's own, whatever its certificate says; it may insist on TLS.
    let insists = config.tls.as_ref().is_some_and(|tls| tls.required);
    let trust = insists.then(Trust::any_certificate).transpose().map_err(|why| (EX_CONFIG, why))?;
    let tls = trust.map(|trust| ClientTls { trust, required: true });
    let settings = ClientConfig { hostname: config.hostname.clone(), tls, login: None, timeouts };
    let mut why = String::new();
    for target in ways(config) {
        match client::connect(&target, &settings) {
            Ok(connection) => return Ok(connection),
            Err(reason) => why = reason.to_string(),
        }
    }
    if is_direct(flags)? {
        let socket = direct(flags).map_err(cannot_start)?;
        return client::over(socket, &settings).map_err(|reason| (EX_TEMPFAIL, reason.to_string()));
    }
    Err(no_server(&why))
}

/// SMTP between standard input and output, and the server. Where the first line ends with LF, a CR
/// is put before each.
fn speak(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let mut why = String::new();
    let mut server = None;
    for target in ways(&config) {
        match dial(&target) {
            Ok(found) => {
                server = Some(found);
                break;
            }
            Err(e) => why = format!("cannot connect to {target}: {e}"),
        }
    }
    if server.is_none() && is_direct(flags)? {
        server = Some(File::from(OwnedFd::from(direct(flags).map_err(cannot_start)?)));
    }
    let Some(mut server) = server else {
        // Who speaks SMTP reads no standard error.
        let _ = io::stdout().write_all(b"421 4.3.2 localhost the mail server does not answer\r\n");
        return Err(no_server(&why));
    };
    let mut to_server = server.try_clone().map_err(|e| (EX_OSERR, e.to_string()))?;
    // It is left to itself: a caller that has said QUIT may wait for our end, and say nothing more.
    std::thread::spawn(move || {
        let _ = pass_lines(&mut io::stdin().lock(), &mut to_server);
        let _ =
            nix::sys::socket::shutdown(to_server.as_raw_fd(), nix::sys::socket::Shutdown::Write);
    });
    pass(&mut server, &mut io::stdout().lock())
        .map(|()| EX_OK)
        .map_err(|e| (EX_IOERR, e.to_string()))
}

/// Passes on what comes, at once. Not by io::copy: splice(2), which that may use, keeps the pipe to
/// itself while it waits, and nobody could read from it.
fn pass(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => output.write_all(buffer.get(..n).unwrap_or_default())?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        output.flush()?;
    }
}

/// Passes on what comes, at once; a client of LF from its first line on gets CR LF.
fn pass_lines(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut is_lf = None;
    let mut last = 0;
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let mut out = Vec::with_capacity(n + n / 16);
        for octet in buffer.get(..n).unwrap_or_default() {
            if *octet == b'\n' {
                let bare = last != b'\r';
                if *is_lf.get_or_insert(bare) && bare {
                    out.push(b'\r');
                }
            }
            out.push(*octet);
            last = *octet;
        }
        output.write_all(&out)?;
    }
}

/// Says where each address leads, as `mailslot explain`.
fn verify(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let domain = own_domain(&config);
    let route = LocalRoute::new(config.route_config());
    let mut status = EX_OK;
    for operand in &flags.operands {
        let mailbox = one_address(operand, &domain)?;
        print(&route.explain(&mailbox.to_string()))?;
        let this = match route.resolve(&ForwardPath::Mailbox(mailbox)) {
            Ok(_) => EX_OK,
            Err(Refusal::Later(_) | Refusal::Misconfigured(_)) => EX_TEMPFAIL,
            Err(Refusal::Unknown | Refusal::NameNotAllowed | Refusal::Ambiguous(_)) => EX_NOUSER,
            Err(_) => EX_UNAVAILABLE,
        };
        status = status.max(this);
    }
    Ok(status)
}

/// The queue, as `mailslot queue` shows it.
fn show_queue(flags: &Flags) -> Result<u8, SendmailError> {
    let text = queue::list::list(&config(flags)?.spool);
    print(&text.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => (EX_NOPERM, format!("the queue is not yours: {e}")),
        _ => (EX_IOERR, format!("the queue cannot be read: {e}")),
    })?)
}

/// Has all of the queue tried now, by `mailslot queue flush`, where there can be one.
fn flush(flags: &Flags) -> Result<u8, SendmailError> {
    if config(flags)?.relay.is_none() {
        return Ok(EX_OK);
    }
    let status = mailslot(flags, &["queue", "flush"]).and_then(|mut command| command.status());
    let status = status.map_err(cannot_start)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EX_TEMPFAIL))
}

/// Who calls.
struct Caller {
    name: String,
    full_name: String,
}

impl Caller {
    /// passwd(5) says.
    fn find() -> Caller {
        let uid = Uid::current();
        match User::from_uid(uid) {
            Ok(Some(user)) => {
                let gecos = user.gecos.to_string_lossy().into_owned();
                let full_name = gecos.split(',').next().unwrap_or_default();
                Caller { full_name: full_name.replace('&', &capital(&user.name)), name: user.name }
            }
            _ => Caller { name: format!("uid{uid}"), full_name: String::new() },
        }
    }
}

/// `jones` for `&` in its gecos field: `Jones`.
fn capital(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn one_address(text: &str, domain: &Domain) -> Result<Mailbox, SendmailError> {
    let wrong = |why: &str| (EX_USAGE, format!("{text:?} is no address: {why}"));
    let mut list = addresses::parse(text, domain).map_err(|why| wrong(&why))?;
    match (list.pop(), list.is_empty()) {
        (Some(address), true) => Ok(address.mailbox),
        _ => Err(wrong("it is not one")),
    }
}

/// The settings that the server has too, as far as they are in the file.
fn config(flags: &Flags) -> Result<Config, SendmailError> {
    let file = flags.config.iter().flat_map(|file| ["--config", file]);
    let args: Vec<OsString> = file.map(OsString::from).collect();
    Config::load(&args).map_err(|wrong| match wrong {
        ConfigError::Usage(why) | ConfigError::Config(why) => (EX_CONFIG, why),
    })
}

/// The domain of bare names: the first that is local.
fn own_domain(config: &Config) -> Domain {
    let first = match &config.domains {
        NameSet::Listed(names) => names.first(),
        NameSet::System | NameSet::Any => None,
    };
    Domain::Name(first.unwrap_or(&config.hostname).clone())
}

/// The ways to the server: Unix sockets first, for then it knows who calls.
fn ways(config: &Config) -> Vec<ServerAddress> {
    let mut unix = Vec::new();
    let mut tcp = Vec::new();
    if Path::new(SOCKET).exists() {
        unix.push(ServerAddress::Unix(SOCKET.into()));
    }
    for address in &config.listen {
        match address {
            ListenAddress::Unix { path, .. } => unix.push(ServerAddress::Unix(path.clone())),
            // Its certificate is for others.
            ListenAddress::Tcp { tls: true, .. } => {}
            ListenAddress::Tcp { host, port, .. } => {
                let host = match host.as_str() {
                    "0.0.0.0" => "127.0.0.1",
                    "::" => "::1",
                    host => host,
                };
                tcp.push(ServerAddress::Tcp { host: host.to_owned(), port: *port, tls: false });
            }
        }
    }
    if config.listen.is_empty() {
        // On the sockets that systemd has.
        tcp.push(ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: 25, tls: false });
    }
    unix.extend(tcp);
    unix
}

fn dial(target: &ServerAddress) -> io::Result<File> {
    let socket = match target {
        ServerAddress::Unix(path) => OwnedFd::from(UnixStream::connect(path)?),
        ServerAddress::Tcp { host, port, .. } => {
            OwnedFd::from(TcpStream::connect((host.as_str(), *port))?)
        }
    };
    Ok(File::from(socket))
}

/// Whether the message is to be delivered without the server.
fn is_direct(flags: &Flags) -> Result<bool, SendmailError> {
    match flags.direct && !Uid::effective().is_root() {
        true => Err((EX_NOPERM, "--deliver-direct is for root".to_owned())),
        false => Ok(flags.direct),
    }
}

/// The program mailslot, which is where this one is, with the same configuration.
fn mailslot(flags: &Flags, args: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("mailslot"));
    command.args(args).args(flags.config.iter().flat_map(|file| ["--config", file]));
    Ok(command)
}

/// A session with `mailslot --inetd`.
fn direct(flags: &Flags) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    let mut command = mailslot(flags, &["--inetd"])?;
    command.stdin(Stdio::from(theirs.try_clone()?)).stdout(Stdio::from(theirs));
    command.spawn()?;
    Ok(ours)
}

fn cannot_start(e: io::Error) -> SendmailError {
    (EX_OSERR, format!("mailslot cannot be started: {e}"))
}

fn no_server(why: &str) -> SendmailError {
    (EX_TEMPFAIL, format!("the mail server does not answer, nothing was sent: {why}"))
}

fn print(text: &str) -> Result<u8, SendmailError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err((EX_IOERR, e.to_string())),
        _ => Ok(EX_OK),
    }
}

/// One line on standard error, if anybody is left to read it.
fn complain(why: &str) {
    let _ = io::stderr().write_all(format!("mailslot-sendmail: {why}\n").as_bytes());
}

/// Where the server listens for programs of this host, if it does.
const SOCKET: &str = "/run/mailslot/smtp";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_lf_become_lines_of_cr_lf() {
        for (input, output) in [
            (&b"EHLO a\nQUIT\n"[..], &b"EHLO a\r\nQUIT\r\n"[..]),
            (b"EHLO a\r\nx\ny\r\n", b"EHLO a\r\nx\ny\r\n"),
            (b"EHLO a\nx\r\ny\n", b"EHLO a\r\nx\r\ny\r\n"),
            (b"a", b"a"),
            (b"\n\n", b"\r\n\r\n"),
        ] {
            let mut found = Vec::new();
            pass_lines(&mut &input[..], &mut found).unwrap();
            assert_eq!(found, output);
        }
    }

    #[test]
    fn gecos_may_name_its_user() {
        assert_eq!("Mrs. &".replace('&', &capital("jones")), "Mrs. Jones");
        assert_eq!(capital(""), "");
    }
}
