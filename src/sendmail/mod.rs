//! The commands sendmail(1), mailq(1) and newaliases(1), by which local programs submit messages.
//! They are links to the program `mailslot`, which finds the command in the name it is called by.
//!
//! ```text
//! standard input --compose--> ComposedMessage --client--> the server: Unix socket, or loopback
//! command line --flags--> envelope                outcomes --> exit status of sysexits.h
//! ```
//! They run with the rights of their caller and need no others, because the server trusts them no
//! more than any other client. They have no queue of their own. If the server does not run, or
//! defers the message, sendmail leaves it in the hand-over directory (`relay/hand_over.rs`), from
//! which the server takes it. If that fails too, or the server rejects the message, the caller
//! keeps it: the exit status is 75 if trying again may help, or a final one, and a line on standard
//! error has the reason. The server's queue is for mail to other hosts, and for mail that cannot be
//! delivered now. `mailq` shows all users their own mail in it.
//!
//! | file | contains |
//! | --- | --- |
//! | `flags.rs` | the command line |
//! | `addresses.rs` | the address lists of headers and operands |
//! | `compose.rs` | the message on standard input |

pub mod addresses;
pub mod compose;
pub mod flags;

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User};

use crate::config::{Config, NameSet};
use crate::control::{self, ControlAnswer, ControlRequest};
use crate::message::trace;
use crate::net::listen::ListenAddress;
use crate::net::tls::Trust;
use crate::relay::client::{
    self, ClientConfig, ClientTls, Connection, OutgoingMessage, ServerAddress,
};
use crate::relay::hand_over;
use crate::relay::queue::list::{ListFormat, ListView};
use crate::resolver::LocalResolver;
use crate::server::ignore_file_size_signal;
use crate::smtp::sender::{OutcomeReason, RecipientOutcome};
use crate::smtp::{BodyType, Domain, Envelope, ForwardPath, Mailbox, Recipient, ReversePath};
use crate::sysexits::{
    EX_CONFIG, EX_DATAERR, EX_IOERR, EX_NOPERM, EX_NOUSER, EX_OK, EX_OSERR, EX_TEMPFAIL,
    EX_UNAVAILABLE, EX_USAGE,
};
use compose::{ComposeError, ComposeOptions, ComposedMessage};
use flags::{Flags, Mode};

/// The exit status of a failure (sysexits.h), and a line for standard error.
type SendmailError = (u8, String);

/// Returns true if `args` begins with the name of one of these commands: sendmail,
/// mailslot-sendmail, send-mail, mailq or newaliases, with or without a directory.
pub fn is_called_by(args: &[OsString]) -> bool {
    let name = command_name(args);
    name.ends_with("sendmail") || ["send-mail", "mailq", "newaliases"].contains(&&*name)
}

/// Returns the name in the first of `args`, without its directory.
fn command_name(args: &[OsString]) -> Cow<'_, str> {
    let path = args.first().map(Path::new);
    path.and_then(Path::file_name).unwrap_or_default().to_string_lossy()
}

/// Runs the command and returns its exit status. `args` begins with its name, which selects the
/// mode.
pub fn run(args: &[OsString]) -> u8 {
    let name = command_name(args);
    let operands = args.iter().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let flags = flags::parse(&name, &operands.collect::<Vec<String>>());
    // An error means that a file above the limit of the caller ends the process, as it would by
    // default.
    let _ = ignore_file_size_signal();
    let result = flags.map_err(|error| (EX_USAGE, error)).and_then(|flags| match flags.mode {
        Mode::Send => send(&flags),
        Mode::Smtp => proxy_smtp(&flags),
        Mode::Verify => verify(&flags),
        Mode::Queue => show_queue(&flags),
        Mode::Flush => flush(&flags),
        Mode::Aliases => reload_aliases(&flags),
        Mode::Help => print(flags::HELP),
        Mode::Version => print(concat!("mailslot-sendmail ", env!("CARGO_PKG_VERSION"), "\n")),
    });
    result.unwrap_or_else(|(status, error)| {
        print_error(&error);
        status
    })
}

/// Reads a message and sends it to the server.
fn send(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let domain = own_domain(&config);
    let caller = Caller::find();
    let own = Mailbox::new(&caller.name, domain.clone())
        .map_err(|e| (EX_OSERR, format!("user {:?} has no valid address: {e}", caller.name)))?;
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
        let list = list.map_err(|e| (EX_USAGE, format!("{operand:?} is not an address: {e}")))?;
        add_new(&mut to, list.into_iter().map(|address| address.mailbox));
    }
    if to.is_empty() && !flags.recipients_in_header {
        return Err((EX_USAGE, "no recipient: give addresses, or -t to use the header".to_owned()));
    }
    let options = ComposeOptions {
        dot_is_text: flags.dot_is_text,
        recipients_in_header: flags.recipients_in_header,
        domain: &domain,
        author,
        full_name: flags.full_name.as_deref().unwrap_or(&caller.full_name),
        now: &trace::now(),
        id: &format!("{}@{}", trace::IdGenerator::new().next_session_id(), config.hostname),
    };
    let message = compose::read(&mut BufReader::new(io::stdin().lock()), &options);
    let message = message.map_err(|error| match error {
        ComposeError::HeaderTooLarge => (EX_DATAERR, error.to_string()),
        ComposeError::Io(_) => (EX_TEMPFAIL, error.to_string()),
    })?;
    add_new(&mut to, message.recipients.iter().cloned());
    message.invalid_recipients.iter().for_each(|clause| print_error(clause));
    if to.is_empty() {
        return Err((EX_DATAERR, "the header names no recipient".to_owned()));
    }
    let envelope = envelope(flags, from, &to, message.eight_bit);
    let content = || -> io::Result<Box<dyn Read + '_>> { Ok(message.reader()) };
    let size = message.wire_size;
    // The local server converts a message if another server must, and no mailbox is to be changed.
    let survey = None;
    let outgoing = OutgoingMessage { envelope: &envelope, size, content: &content, survey };
    let status = match submit(flags, &config, &outgoing) {
        Ok(mut outcomes) => {
            if config.hand_over {
                leave_deferred(&config, &envelope, &message, &mut outcomes);
            }
            report_outcomes(flags, &to, &outcomes)
        }
        Err((EX_TEMPFAIL, error)) if config.hand_over => {
            let left = leave(&config, &envelope, &message);
            left.map_err(|(status, e)| (status, format!("{error}; {e}")))?;
            if flags.verbose {
                print_error(&format!("{error}; {LEFT}"));
            }
            EX_OK
        }
        Err(error) => return Err(error),
    };
    Ok(match status {
        // The caller learns of the addresses that got nothing, as from sendmail.
        EX_OK if !message.invalid_recipients.is_empty() => EX_NOUSER,
        status => status,
    })
}

/// Sends a message to the server. Tries again for [`RESTART_TIME`] if the server does not answer or
/// is stopping, as it does during a restart. Returns the outcomes of the recipients.
fn submit(
    flags: &Flags,
    config: &Config,
    message: &OutgoingMessage<'_, ()>,
) -> Result<Vec<RecipientOutcome>, SendmailError> {
    let is_restart = |outcome: &RecipientOutcome| match outcome {
        RecipientOutcome::Deferred(reason) => matches!(reason.code, None | Some(421)),
        RecipientOutcome::Accepted(_) | RecipientOutcome::Failed(_) => false,
    };
    let deadline = Instant::now() + RESTART_TIME;
    loop {
        let result = connect(flags, config).map(|mut connection| {
            let outcomes = connection.send(message);
            connection.quit();
            outcomes
        });
        let may_change = match &result {
            Ok(outcomes) => outcomes.iter().all(is_restart),
            Err((status, _)) => *status == EX_TEMPFAIL,
        };
        if !may_change || Instant::now() >= deadline {
            return result;
        }
        std::thread::sleep(RESTART_PAUSE);
    }
}

/// Leaves a message for the recipients that the server deferred, and changes their outcomes.
fn leave_deferred(
    config: &Config,
    envelope: &Envelope<()>,
    message: &ComposedMessage,
    outcomes: &mut [RecipientOutcome],
) {
    let is_deferred = |outcome: &RecipientOutcome| matches!(outcome, RecipientOutcome::Deferred(_));
    let deferred = envelope.to.iter().zip(&*outcomes).filter(|(_, outcome)| is_deferred(outcome));
    let deferred: Vec<Recipient<()>> = deferred.map(|(recipient, _)| recipient.clone()).collect();
    if deferred.is_empty() {
        return;
    }
    let reason = match leave(config, &envelope.with_recipients(deferred), message) {
        Ok(()) => LEFT.to_owned(),
        Err((_, error)) => {
            print_error(&error);
            return;
        }
    };
    for outcome in outcomes.iter_mut().filter(|outcome| is_deferred(outcome)) {
        let text = format!("{reason}, which replied: {}", outcome.reason());
        *outcome = RecipientOutcome::Accepted(OutcomeReason::local((2, 0, 0), &text));
    }
}

/// Leaves a message in the hand-over directory, from which the server takes it.
///
/// # Errors
/// It cannot be left there, or the server would reject it because of its size.
fn leave(
    config: &Config,
    envelope: &Envelope<()>,
    message: &ComposedMessage,
) -> Result<(), SendmailError> {
    let size_max = config.size_max;
    if message.wire_size > size_max {
        let error = format!("the message exceeds the size limit, {size_max} octets");
        return Err((EX_DATAERR, error));
    }
    let to = envelope.to.iter().filter_map(|recipient| match &recipient.path {
        ForwardPath::Mailbox(mailbox) => Some(recipient.with_destination(mailbox.clone())),
        ForwardPath::Postmaster => None,
    });
    let to: Vec<_> = to.collect();
    let size = message.wire_size;
    let left = hand_over::leave(&config.spool, envelope, &to, size, &mut message.reader());
    left.map(drop).map_err(|e| {
        let directory = config.spool.join(hand_over::HAND_OVER_DIRECTORY);
        (EX_TEMPFAIL, format!("it cannot be left in {}: {e}", directory.display()))
    })
}

/// Appends the mailboxes that `to` does not hold yet.
fn add_new(to: &mut Vec<Mailbox>, more: impl Iterator<Item = Mailbox>) {
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
        from,
        body: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
        ret: flags.ret,
        envid: flags.envid.clone(),
        to: to.iter().map(recipient).collect(),
        ..Envelope::blank()
    }
}

/// Prints a line for each recipient that was not accepted, or with -v for all. Returns the exit
/// status, which is final only if trying again would help no recipient.
fn report_outcomes(flags: &Flags, to: &[Mailbox], outcomes: &[RecipientOutcome]) -> u8 {
    let mut status = EX_OK;
    for (mailbox, outcome) in to.iter().zip(outcomes) {
        let reason = outcome.reason();
        let recipient_status = match (outcome, reason.status) {
            (RecipientOutcome::Accepted(_), _) => EX_OK,
            (RecipientOutcome::Deferred(_), _) => EX_TEMPFAIL,
            (RecipientOutcome::Failed(_), (_, 1, _)) => EX_NOUSER,
            (RecipientOutcome::Failed(_), (_, 6, _) | (_, 3, 4)) => EX_DATAERR,
            (RecipientOutcome::Failed(_), _) => EX_UNAVAILABLE,
        };
        if recipient_status != EX_OK || flags.verbose {
            print_error(&format!("{mailbox}: {reason}"));
        }
        if status != EX_TEMPFAIL && recipient_status != EX_OK {
            status = recipient_status;
        }
    }
    status
}

/// Connects to the server at the first address that works.
fn connect(flags: &Flags, config: &Config) -> Result<Connection, SendmailError> {
    let mut client_config =
        ClientConfig { hostname: config.hostname.clone(), ..ClientConfig::default() };
    if config.tls.as_ref().is_some_and(|tls| tls.required) {
        // Any certificate will do, because the server is on this host and its certificate is for
        // other names.
        let trust = Trust::any_certificate().map_err(|error| (EX_CONFIG, error))?;
        client_config.tls = Some(ClientTls { trust, required: true });
    }
    let mut last_error = String::new();
    for address in server_addresses(config) {
        match client::connect(&address, &client_config) {
            Ok(connection) => return Ok(connection),
            Err(reason) => last_error = reason.to_string(),
        }
    }
    if is_direct(flags)? {
        let socket = spawn_inetd(flags).map_err(cannot_start)?;
        return client::connect_over(socket, &client_config)
            .map_err(|reason| (EX_TEMPFAIL, reason.to_string()));
    }
    Err(no_server(&last_error))
}

/// Passes SMTP between standard input and output and the server. If the first line of the input
/// ends with LF alone, adds CR to all lines.
fn proxy_smtp(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let mut last_error = String::new();
    let mut server = server_addresses(&config).iter().find_map(|address| {
        let socket = connect_socket(address);
        socket.map_err(|e| last_error = format!("cannot connect to {address}: {e}")).ok()
    });
    if server.is_none() && is_direct(flags)? {
        server = Some(File::from(OwnedFd::from(spawn_inetd(flags).map_err(cannot_start)?)));
    }
    let Some(mut server) = server else {
        // A reply too, because a caller that speaks SMTP may ignore standard error.
        let _ = io::stdout().write_all(b"421 4.3.2 localhost the mail server does not answer\r\n");
        return Err(no_server(&last_error));
    };
    let mut to_server = server.try_clone().map_err(|e| (EX_OSERR, e.to_string()))?;
    // This thread is not joined, because a caller that has sent QUIT may keep standard input open
    // until this program ends.
    std::thread::spawn(move || {
        let _ = copy_lines(&mut io::stdin().lock(), &mut to_server);
        let _ =
            nix::sys::socket::shutdown(to_server.as_raw_fd(), nix::sys::socket::Shutdown::Write);
    });
    copy(&mut server, &mut io::stdout().lock(), |bytes| bytes.to_vec())
        .map(|()| EX_OK)
        .map_err(|e| (EX_IOERR, e.to_string()))
}

/// Copies input to output without delay, converted by `convert`. `io::copy` may use splice(2),
/// which locks the pipe while it waits for input, so that the caller could not read from the pipe.
fn copy(
    input: &mut dyn Read,
    output: &mut dyn Write,
    mut convert: impl FnMut(&[u8]) -> Vec<u8>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => output.write_all(&convert(buffer.get(..n).unwrap_or_default()))?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        output.flush()?;
    }
}

/// Copies input to output without delay. If the first line ends with LF alone, adds CR to all lines
/// that have none.
fn copy_lines(input: &mut dyn Read, output: &mut dyn Write) -> io::Result<()> {
    let mut is_lf = None;
    let mut last = 0;
    copy(input, output, |bytes| {
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 16);
        for byte in bytes {
            if *byte == b'\n' {
                let bare = last != b'\r';
                if *is_lf.get_or_insert(bare) && bare {
                    out.push(b'\r');
                }
            }
            out.push(*byte);
            last = *byte;
        }
        out
    })
}

/// Prints where each address leads, as `mailslot explain` does.
fn verify(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let domain = own_domain(&config);
    let resolver = LocalResolver::new(config.resolver_config());
    let mut status = EX_OK;
    for operand in &flags.operands {
        let mailbox = one_address(operand, &domain)?;
        let explanation = resolver.explain(&mailbox.to_string());
        print(&explanation.text)?;
        status = status.max(explanation.refusal.map_or(EX_OK, |refusal| refusal.exit_status()));
    }
    Ok(status)
}

/// Prints the queue, as `mailslot queue` does.
fn show_queue(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let request = ControlRequest::List(ListFormat::Text);
    let answer = control::client::ask_if_reachable(&config.spool, &request).map_err(no_answer)?;
    if let Some(answer) = answer {
        return print_answer(&answer);
    }
    let text = hand_over::list_with_queue(&config.spool, ListFormat::Text, &ListView::default());
    print(&text.map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => (EX_NOPERM, format!("you may not read the queue: {e}")),
        _ => (EX_IOERR, format!("the queue cannot be read: {e}")),
    })?)
}

/// Makes the server read the aliases again, and prints their errors. Without a server, checks the
/// file.
fn reload_aliases(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    let request = ControlRequest::ReloadAliases;
    let answer = control::client::ask(&config.spool, &request).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => {
            (EX_NOPERM, format!("you may not make the server read the aliases: {e}"))
        }
        _ => no_answer(e),
    })?;
    if let Some(answer) = answer {
        print_lines(&answer.text);
        return Ok(answer.status);
    }
    let errors = LocalResolver::new(config.resolver_config()).reload_aliases();
    errors.iter().for_each(|error| print_lines(&error.to_string()));
    Ok(if errors.is_empty() { EX_OK } else { EX_DATAERR })
}

/// Makes the server try the queue now. Without a server, runs `mailslot queue flush`. Does nothing
/// if no mail is relayed or held, so that there is no queue.
fn flush(flags: &Flags) -> Result<u8, SendmailError> {
    let config = config(flags)?;
    if config.relay.is_none() && !config.hold {
        return Ok(EX_OK);
    }
    let request = ControlRequest::Flush(Vec::new());
    let answer = control::client::ask_if_reachable(&config.spool, &request).map_err(no_answer)?;
    if let Some(answer) = answer {
        return print_answer(&answer);
    }
    let status = mailslot(flags, &["queue", "flush"]).and_then(|mut command| command.status());
    let status = status.map_err(cannot_start)?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EX_TEMPFAIL))
}

/// The user that runs the program.
struct Caller {
    name: String,
    full_name: String,
}

impl Caller {
    /// Looks up the caller in passwd(5).
    fn find() -> Caller {
        let uid = Uid::current();
        match User::from_uid(uid) {
            Ok(Some(user)) => {
                let gecos = user.gecos.to_string_lossy().into_owned();
                let full_name = gecos.split(',').next().unwrap_or_default();
                let full_name = full_name.replace('&', &capitalize(&user.name));
                Caller { full_name, name: user.name }
            }
            _ => Caller { name: format!("uid{uid}"), full_name: String::new() },
        }
    }
}

/// Capitalizes `name`, as `&` in a GECOS field does (finger(1)).
fn capitalize(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

fn one_address(text: &str, domain: &Domain) -> Result<Mailbox, SendmailError> {
    let wrong = |error: &str| (EX_USAGE, format!("{text:?} is not an address: {error}"));
    let mut list = addresses::parse(text, domain).map_err(|error| wrong(&error))?;
    match (list.pop(), list.is_empty()) {
        (Some(address), true) => Ok(address.mailbox),
        _ => Err(wrong("expected one")),
    }
}

/// Reads the configuration file of the server. Options of its command line are not known here.
fn config(flags: &Flags) -> Result<Config, SendmailError> {
    let file = flags.config.iter().flat_map(|file| ["--config", file]);
    let args: Vec<OsString> = file.map(OsString::from).collect();
    Config::load(&args).map_err(|error| (EX_CONFIG, error.to_string()))
}

/// Returns the domain for bare names, which is the first local one.
fn own_domain(config: &Config) -> Domain {
    let first = match &config.domains {
        NameSet::Listed(names) => names.first(),
        NameSet::System | NameSet::Any => None,
    };
    Domain::Name(first.unwrap_or(&config.hostname).clone())
}

/// Returns the addresses at which the server may listen: first Unix sockets, because over them the
/// server knows the user.
fn server_addresses(config: &Config) -> Vec<ServerAddress> {
    let mut unix = Vec::new();
    let mut tcp = Vec::new();
    if Path::new(SOCKET).exists() {
        unix.push(ServerAddress::Unix(SOCKET.into()));
    }
    let submission = control::submission_socket(&config.spool);
    if submission.exists() {
        unix.push(ServerAddress::Unix(submission));
    }
    for address in &config.listen {
        match address {
            ListenAddress::Unix { path, .. } => unix.push(ServerAddress::Unix(path.clone())),
            // A certificate for other names would be refused.
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
        // systemd passes the sockets, most likely for the standard port.
        tcp.push(ServerAddress::Tcp { host: "127.0.0.1".to_owned(), port: 25, tls: false });
    }
    unix.extend(tcp);
    unix
}

fn connect_socket(address: &ServerAddress) -> io::Result<File> {
    let socket = match address {
        ServerAddress::Unix(path) => OwnedFd::from(client::connect_unix(path, CONNECT_TIMEOUT)?),
        ServerAddress::Tcp { host, port, .. } => {
            OwnedFd::from(TcpStream::connect((host.as_str(), *port))?)
        }
    };
    Ok(File::from(socket))
}

/// True if the message may be delivered without the server.
///
/// # Errors
/// Only root may do that.
fn is_direct(flags: &Flags) -> Result<bool, SendmailError> {
    if flags.direct && !Uid::effective().is_root() {
        return Err((EX_NOPERM, "--deliver-direct is for root".to_owned()));
    }
    Ok(flags.direct)
}

/// Returns a command for the program mailslot in the directory of this one, with the same
/// configuration file.
fn mailslot(flags: &Flags, args: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?.with_file_name("mailslot"));
    command.args(args).args(flags.config.iter().flat_map(|file| ["--config", file]));
    Ok(command)
}

/// Starts `mailslot --inetd`, and returns a socket that is connected to it.
fn spawn_inetd(flags: &Flags) -> io::Result<UnixStream> {
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

fn no_answer(e: io::Error) -> SendmailError {
    (EX_TEMPFAIL, format!("the mail server does not answer: {e}"))
}

/// Prints the answer of the server, on standard error if it is an error. The number of entries that
/// are left after a flush is none.
fn print_answer(answer: &ControlAnswer) -> Result<u8, SendmailError> {
    match answer.status {
        EX_OK | EX_TEMPFAIL => print(&answer.text).map(|_| answer.status),
        status => {
            print_lines(&answer.text);
            Ok(status)
        }
    }
}

fn no_server(error: &str) -> SendmailError {
    (EX_TEMPFAIL, format!("nothing was sent, because the mail server does not answer: {error}"))
}

fn print(text: &str) -> Result<u8, SendmailError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err((EX_IOERR, e.to_string())),
        _ => Ok(EX_OK),
    }
}

/// Prints lines on standard error.
fn print_lines(text: &str) {
    text.lines().for_each(print_error);
}

/// Prints a line on standard error, which may be closed.
fn print_error(error: &str) {
    let _ = io::stderr().write_all(format!("mailslot-sendmail: {error}\n").as_bytes());
}

/// The socket at which a server listens for local programs.
const SOCKET: &str = "/run/mailslot/smtp";
/// Time for which a server that does not answer is tried again: a restart takes as long.
const RESTART_TIME: Duration = Duration::from_secs(3);
/// Time between two attempts.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// Outcome of a message that was left for the server.
const LEFT: &str = "left for the mail server";
/// Time for a connection to a Unix socket.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_selects_the_command() {
        for (name, expected) in [
            ("/usr/sbin/sendmail", true),
            ("sendmail", true),
            ("-sendmail", true),
            ("./mailslot-sendmail", true),
            ("send-mail", true),
            ("/usr/bin/mailq", true),
            ("newaliases", true),
            ("/usr/sbin/mailslot", false),
            ("/srv/sendmail/mailslot", false),
            ("mailslot-0.1", false),
            ("smtpd", false),
            ("", false),
        ] {
            assert_eq!(is_called_by(&[name.into()]), expected, "{name}");
        }
        assert!(!is_called_by(&[]));
    }

    #[test]
    fn lf_becomes_cr_lf() {
        for (input, output) in [
            (&b"EHLO a\nQUIT\n"[..], &b"EHLO a\r\nQUIT\r\n"[..]),
            (b"EHLO a\r\nx\ny\r\n", b"EHLO a\r\nx\ny\r\n"),
            (b"EHLO a\nx\r\ny\n", b"EHLO a\r\nx\r\ny\r\n"),
            (b"a", b"a"),
            (b"\n\n", b"\r\n\r\n"),
        ] {
            let mut found = Vec::new();
            copy_lines(&mut &input[..], &mut found).unwrap();
            assert_eq!(found, output);
        }
    }

    #[test]
    fn ampersand_in_gecos_is_the_capitalized_name() {
        assert_eq!("Mrs. &".replace('&', &capitalize("jones")), "Mrs. Jones");
        assert_eq!(capitalize(""), "");
    }
}
