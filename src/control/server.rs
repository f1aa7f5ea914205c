//! The thread that answers requests on the control socket.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::unistd::geteuid;

use super::{
    ControlAnswer, ControlRequest, PROGRESS, REQUEST_MAX, TIMEOUT, control_socket,
    submission_socket,
};
use crate::message::peer::Peer;
use crate::net::deadline::time_left;
use crate::net::listen::{self, Accept, ListenAddress, Listener};
use crate::net::stream::Socket;
use crate::observe::events;
use crate::relay::hand_over;
use crate::relay::queue::list::ListView;
use crate::relay::queue::{FlushProgress, FlushSelection, QueueHandle};
use crate::resolver::LocalResolver;
use crate::sysexits::{EX_CONFIG, EX_DATAERR, EX_NOPERM, EX_OK, EX_TEMPFAIL, EX_USAGE};

/// The parts of the server that requests are about.
#[derive(Clone)]
pub struct ControlContext {
    /// The spool, which holds the queue.
    pub spool: PathBuf,
    /// The queue; None if the server has none.
    pub queue: Option<QueueHandle>,
    /// The aliases.
    pub resolver: Arc<LocalResolver>,
}

/// The thread of the control socket.
#[derive(Debug)]
pub struct ControlThread {
    /// The thread ends when this is closed.
    stop: UnixStream,
    thread: JoinHandle<()>,
}

/// Opens the control socket of a server with this spool. A socket that a killed server left is
/// replaced.
///
/// # Errors
/// The socket cannot be created, or another server listens there.
pub fn open(spool: &Path) -> io::Result<Listener> {
    open_socket(control_socket(spool))
}

/// Opens the SMTP socket for programs of this host, of a server with this spool.
///
/// # Errors
/// Those of [`open`].
pub fn open_submission(spool: &Path) -> io::Result<Listener> {
    open_socket(submission_socket(spool))
}

fn open_socket(path: PathBuf) -> io::Result<Listener> {
    let opened = listen::open(&[ListenAddress::Unix { path, mode: 0o666 }])?;
    opened.into_iter().next().ok_or_else(|| io::Error::other("no socket"))
}

/// Starts the thread, which answers the clients of `listener` until it is stopped.
///
/// # Errors
/// The thread cannot be started.
pub fn start(listener: Listener, context: ControlContext) -> io::Result<ControlThread> {
    let (stop, stopped) = UnixStream::pair()?;
    let answerer = Answerer { context, clients: Arc::default() };
    let thread = thread::Builder::new()
        .name("control".into())
        .spawn(move || answerer.accept(&listener, &stopped))?;
    Ok(ControlThread { stop, thread })
}

impl ControlThread {
    /// Stops the thread and removes the socket. Requests in progress get no answer.
    pub fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

/// The context of the thread, and the users of the clients that it has now.
#[derive(Clone)]
struct Answerer {
    context: ControlContext,
    clients: Arc<Mutex<Vec<u32>>>,
}

/// A guard that counts a client among those being answered, until it is dropped.
struct ClientPlace {
    uid: u32,
    clients: Arc<Mutex<Vec<u32>>>,
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = clients.iter().position(|uid| *uid == self.uid) {
            clients.swap_remove(at);
        }
    }
}

impl Answerer {
    /// Accepts clients until the other end of `stopped` is closed.
    fn accept(&self, listener: &Listener, stopped: &UnixStream) {
        loop {
            let mut fds = [
                PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            ];
            match nix::poll::poll(&mut fds, PollTimeout::NONE) {
                Ok(_) if fds[0].any() != Some(false) => return,
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return,
            }
            match listener.accept() {
                Ok((Socket::Unix(socket), peer)) => self.admit(socket, peer),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Out of descriptors. The connection waits.
                Err(_) => thread::sleep(ACCEPT_PAUSE),
            }
        }
    }

    /// Answers the client in a new thread, or refuses it.
    fn admit(&self, socket: UnixStream, peer: Peer) {
        let refuse = |socket: &UnixStream, status, text: &str| {
            let answer = ControlAnswer::new(status, format!("{text}\n"));
            let _ = socket.set_nonblocking(true);
            let mut socket = socket;
            let _ = socket.write(answer.lines().as_bytes());
        };
        let Some(uid) = peer.uid() else {
            return refuse(&socket, EX_NOPERM, "this system does not report the user");
        };
        let Some(place) = self.place(uid) else {
            return refuse(&socket, EX_TEMPFAIL, "the server has too many requests now");
        };
        let context = self.context.clone();
        // An error closes the connection, and the client reports that.
        let _ = thread::Builder::new().name("control-client".into()).spawn(move || {
            let place = place;
            let _ = context.serve(&socket, place.uid);
        });
    }

    /// Takes a place for a client of `uid`, if there is one.
    fn place(&self, uid: u32) -> Option<ClientPlace> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let own = clients.iter().filter(|other| **other == uid).count();
        let max = if is_privileged(uid) { CLIENTS_MAX } else { UNPRIVILEGED_MAX };
        if clients.len() >= max || (!is_privileged(uid) && own >= PER_USER_MAX) {
            return None;
        }
        clients.push(uid);
        Some(ClientPlace { uid, clients: self.clients.clone() })
    }
}

impl ControlContext {
    /// Reads one request of `uid`, and writes the answer.
    fn serve(&self, socket: &UnixStream, uid: u32) -> io::Result<()> {
        let line = read_line(socket)?;
        let mut reported_at: Option<Instant> = None;
        let mut report = |progress: FlushProgress| {
            if reported_at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
                reported_at = Some(Instant::now());
                // The flush continues without its client.
                let _ = write_answer(socket, format!("{PROGRESS}{progress}\n").as_bytes());
            }
        };
        let answer = match ControlRequest::parse(&line) {
            Some(request) => self.answer(&request, uid, &mut report),
            None => ControlAnswer::new(EX_USAGE, "unknown request\n"),
        };
        write_answer(socket, answer.lines().as_bytes())
    }

    /// Does what `request` of `uid` asks for. Calls `report` while a flush lasts.
    fn answer(
        &self,
        request: &ControlRequest,
        uid: u32,
        report: &mut dyn FnMut(FlushProgress),
    ) -> ControlAnswer {
        let submitter = (!is_privileged(uid)).then_some(uid);
        match request {
            ControlRequest::List(format) => {
                let outages = self.queue.as_ref().map(QueueHandle::outages).unwrap_or_default();
                let view = ListView { submitter, outages };
                match hand_over::list_with_queue(&self.spool, *format, &view) {
                    Ok(text) => ControlAnswer::new(EX_OK, text),
                    Err(e) => ControlAnswer::new(EX_TEMPFAIL, format!("queue: {e}\n")),
                }
            }
            ControlRequest::Flush(ids) => {
                let Some(queue) = &self.queue else {
                    return ControlAnswer::new(
                        EX_CONFIG,
                        "queue: no --smarthost is given, and --hold is off\n",
                    );
                };
                let selection = FlushSelection { ids: ids.clone(), submitter };
                match queue.flush_selected(selection, report) {
                    Some(left) => {
                        let status = if left == 0 { EX_OK } else { EX_TEMPFAIL };
                        ControlAnswer::new(status, format!("{left} left in the queue\n"))
                    }
                    None => ControlAnswer::new(EX_TEMPFAIL, "queue: busy, or stopping\n"),
                }
            }
            ControlRequest::ReloadAliases if submitter.is_some() => {
                ControlAnswer::new(EX_NOPERM, "only root may make the server read the aliases\n")
            }
            ControlRequest::ReloadAliases => {
                let errors = self.resolver.reload_aliases();
                events::aliases_reloaded(uid, errors.len());
                let text: String = errors.iter().map(|error| format!("{error}\n")).collect();
                ControlAnswer::new(if errors.is_empty() { EX_OK } else { EX_DATAERR }, text)
            }
        }
    }
}

/// True if `uid` may see and do everything: root, and the user that the server runs as.
fn is_privileged(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

/// Reads up to the first LF, which is not returned.
fn read_line(socket: &UnixStream) -> io::Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    let mut line = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        socket.set_read_timeout(Some(time_left(deadline)?))?;
        let mut socket = socket;
        let n = socket.read(&mut buffer)?;
        let read = buffer.get(..n).unwrap_or_default();
        let end = memchr::memchr(b'\n', read);
        line.extend_from_slice(read.get(..end.unwrap_or(n)).unwrap_or_default());
        if end.is_some() {
            return String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData.into());
        }
        if n == 0 || line.len() as u64 > REQUEST_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// Writes the answer, for no longer than [`TIMEOUT`].
fn write_answer(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !bytes.is_empty() {
        socket.set_write_timeout(Some(time_left(deadline)?))?;
        let mut socket = socket;
        let n = socket.write(bytes)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(n..).unwrap_or_default();
    }
    Ok(())
}

/// Maximum number of clients at a time. The last two places are for root and the server's user.
const CLIENTS_MAX: usize = 8;
/// Maximum number of clients at which one of an ordinary user is admitted.
const UNPRIVILEGED_MAX: usize = CLIENTS_MAX - 2;
/// Maximum number of clients of one ordinary user.
const PER_USER_MAX: usize = 2;
/// Shortest time between two reports of the progress to a client.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);
/// Pause after an error of accept(2).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::queue::list::ListFormat;
    use crate::resolver::ResolverConfig;
    use std::fs;

    fn context(spool: &Path) -> ControlContext {
        let config = ResolverConfig {
            aliases: Some(spool.join("aliases")),
            sandbox: true,
            ..ResolverConfig::default()
        };
        let resolver = Arc::new(LocalResolver::new(config));
        ControlContext { spool: spool.to_owned(), queue: None, resolver }
    }

    /// Writes an entry as the writer does.
    fn add_entry(spool: &Path, id: &str, uid: Option<u32>) {
        let uid = uid.map(|uid| format!("s{}:{uid},", uid.to_string().len())).unwrap_or_default();
        let text = format!(
            "From a@b Tue Jul  1 08:52:37 2025\nReturn-Path: <a@b>\n\
             Mailslot-Queue: c1:1,z2:10,f3:a@b,{uid}t3:c@d,\nSubject: x\n"
        );
        let text = text.replace("z2:10", "z2:11") + "\n";
        fs::create_dir_all(spool.join("queue")).unwrap();
        fs::write(spool.join("queue").join(id), text).unwrap();
    }

    /// An id that is neither root's nor this process's.
    fn ordinary_uid() -> u32 {
        geteuid().as_raw() + 1000
    }

    #[test]
    fn a_user_sees_the_entries_of_that_user_alone() {
        let spool = tempfile::tempdir().unwrap();
        let context = context(spool.path());
        let uid = ordinary_uid();
        let listed = |uid| {
            let answer = context.answer(&ControlRequest::List(ListFormat::Text), uid, &mut |_| {});
            assert_eq!(answer.status, EX_OK);
            answer.text
        };
        assert_eq!(listed(uid), "Mail queue is empty\n");
        add_entry(spool.path(), "own-1", Some(uid));
        add_entry(spool.path(), "other-1", Some(uid + 1));
        add_entry(spool.path(), "unknown-1", None);
        let own = listed(uid);
        assert!(
            own.starts_with("own-1 ") && own.ends_with("\n1 in the queue, 11 bytes\n"),
            "{own}"
        );
        assert_eq!(listed(uid + 2), "Mail queue is empty\n");
        for uid in [0, geteuid().as_raw()] {
            assert!(listed(uid).ends_with("\n3 in the queue, 33 bytes\n"), "{}", listed(uid));
        }
        let json = context.answer(&ControlRequest::List(ListFormat::Json), uid, &mut |_| {}).text;
        assert_eq!(
            json,
            format!(
                "{{\"id\":\"own-1\",\"arrived\":1,\"size\":11,\"tries\":0,\"next\":0,\
                 \"from\":\"a@b\",\"to\":[\"c@d\"],\"last\":\"\",\"uid\":{uid}}}\n"
            )
        );
    }

    #[test]
    fn aliases_are_read_for_root_alone_and_errors_are_reported() {
        let spool = tempfile::tempdir().unwrap();
        let aliases = spool.path().join("aliases");
        fs::write(&aliases, "a: b\n").unwrap();
        let context = context(spool.path());
        let ask = |uid| context.answer(&ControlRequest::ReloadAliases, uid, &mut |_| {});
        assert_eq!(ask(0), ControlAnswer::new(EX_OK, ""));
        assert_eq!(ask(ordinary_uid()).status, EX_NOPERM);
        fs::write(&aliases, "a: b\nno colon\n").unwrap();
        let answer = ask(0);
        assert_eq!(answer.status, EX_DATAERR);
        let place = format!("{}:2: ", aliases.display());
        assert!(answer.text.starts_with(&place), "{}", answer.text);
        assert!(answer.text.contains("\n   fix: correct the line, or remove it\n"));
        fs::remove_file(&aliases).unwrap();
        assert_eq!(ask(0).status, EX_DATAERR);
    }

    #[test]
    fn one_user_cannot_take_all_places() {
        let spool = tempfile::tempdir().unwrap();
        let answerer = Answerer { context: context(spool.path()), clients: Arc::default() };
        let uid = ordinary_uid();
        let taken: Vec<_> = (0..5).filter_map(|_| answerer.place(uid)).collect();
        assert_eq!(taken.len(), PER_USER_MAX);
        let more: Vec<_> = (1..10).filter_map(|n| answerer.place(uid + n)).collect();
        assert_eq!(taken.len() + more.len(), UNPRIVILEGED_MAX);
        let root: Vec<_> = (0..5).filter_map(|_| answerer.place(0)).collect();
        assert_eq!(root.len(), CLIENTS_MAX - UNPRIVILEGED_MAX);
        drop(taken);
        drop(root);
        assert!(answerer.place(uid).is_some());
    }

    #[test]
    fn requests_on_the_socket_are_answered_until_the_stop() {
        let spool = tempfile::tempdir().unwrap();
        fs::write(spool.path().join("aliases"), "").unwrap();
        let listener = open(spool.path()).unwrap();
        let thread = start(listener, context(spool.path())).unwrap();
        let ask = |request| super::super::client::ask(spool.path(), &request).unwrap();
        let listed = ask(ControlRequest::List(ListFormat::Text)).unwrap();
        assert_eq!(listed, ControlAnswer::new(EX_OK, "Mail queue is empty\n"));
        assert_eq!(ask(ControlRequest::ReloadAliases).unwrap().status, EX_OK);
        assert_eq!(ask(ControlRequest::Flush(Vec::new())).unwrap().status, EX_CONFIG);
        // A client that sends nothing blocks no other.
        let silent = UnixStream::connect(control_socket(spool.path())).unwrap();
        assert!(ask(ControlRequest::ReloadAliases).is_some());
        for request in ["nonsense\n", "list text\nlist text\n"] {
            let mut socket = UnixStream::connect(control_socket(spool.path())).unwrap();
            socket.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            let _ = socket.read_to_string(&mut answer);
            assert!(answer.ends_with("end 64\n") || answer.ends_with("end 0\n"), "{answer}");
        }
        drop(silent);
        thread.stop();
        assert!(!control_socket(spool.path()).exists());
        assert_eq!(ask(ControlRequest::ReloadAliases), None);
    }
}
