//! A fake SMTP server that does to each command what a test says, over real sockets.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mailslot::relay::client::ServerAddress;
use nix::sys::socket::{setsockopt, sockopt};

use super::TIMEOUT;
use super::client::Transport;

/// Reaction to a command. `greeting` is a command too, and `.` the end of mail data.
#[derive(Clone, Debug)]
pub enum Action {
    /// Replies with this text; CR LF is added.
    Reply(String),
    /// Replies and closes the connection.
    ReplyAndClose(String),
    /// Sends these bytes, and nothing more.
    Send(Vec<u8>),
    /// Sends these bytes again and again, as long as the client takes them.
    SendEndlessly(Vec<u8>),
    /// Sends one byte of a reply now and then, and never the whole reply.
    Drip,
    /// Closes the connection.
    Close,
    /// Resets the connection.
    Reset,
    /// Reads, and sends nothing.
    Stall,
    /// Sends these bytes, and reads nothing any more.
    SendAndStopReading(Vec<u8>),
}

/// Returns the action that sends this reply.
pub fn reply(text: &str) -> Action {
    Action::Reply(text.to_owned())
}

/// Returns the action of an ordinary server without extensions.
pub fn usual(command: &str) -> Action {
    reply(match command.split(' ').next().unwrap() {
        "greeting" => "220 mx.example ESMTP",
        "EHLO" => "250 mx.example",
        "DATA" => "354 go",
        "QUIT" => "221 bye",
        "." | "BDAT" => "250 2.0.0 taken",
        _ => "250 ok",
    })
}

/// A server that runs until it is dropped.
pub struct ScriptedServer {
    pub address: SocketAddr,
    commands: Arc<Mutex<Vec<String>>>,
    acceptor: Option<JoinHandle<()>>,
}

impl ScriptedServer {
    /// Starts it. `script` returns the action for a connection, numbered from 0, and a command.
    pub fn start(script: impl Fn(usize, &str) -> Action + Send + Sync + 'static) -> ScriptedServer {
        ScriptedServer::start_inside(script, Ok)
    }

    /// Starts it inside TLS from the first byte, with this certificate.
    #[cfg(feature = "tls")]
    pub fn start_tls(
        certificate: &super::tls::TestCertificate,
        script: impl Fn(usize, &str) -> Action + Send + Sync + 'static,
    ) -> ScriptedServer {
        let config = certificate.server_config();
        ScriptedServer::start_inside(script, move |socket| {
            let session = rustls::ServerConnection::new(Arc::clone(&config));
            let mut stream = rustls::StreamOwned::new(session.unwrap(), socket);
            stream.conn.complete_io(&mut stream.sock)?;
            Ok(stream)
        })
    }

    fn start_inside<S: Read + Write>(
        script: impl Fn(usize, &str) -> Action + Send + Sync + 'static,
        wrap: impl Fn(TcpStream) -> io::Result<S> + Send + Sync + 'static,
    ) -> ScriptedServer {
        let wrap = Arc::new(wrap);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let commands: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = Arc::clone(&commands);
        let script = Arc::new(script);
        // Sockets that are not read any more, kept open.
        let held: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let acceptor = std::thread::spawn(move || {
            let mut sessions = Vec::new();
            for (number, socket) in listener.incoming().enumerate() {
                let socket = socket.unwrap();
                let (script, log, held) =
                    (Arc::clone(&script), Arc::clone(&log), Arc::clone(&held));
                let wrap = Arc::clone(&wrap);
                if log.lock().unwrap().last().is_some_and(|last| last == STOP) {
                    break;
                }
                sessions.push(std::thread::spawn(move || {
                    // A client may leave at any time.
                    let _ = serve(socket, &*wrap, &log, &held, |command| script(number, command));
                }));
            }
            sessions.into_iter().for_each(|session| session.join().unwrap());
        });
        ScriptedServer { address, commands, acceptor: Some(acceptor) }
    }

    /// Returns the address as a client takes it.
    pub fn target(&self) -> ServerAddress {
        self.address.to_string().parse().unwrap()
    }

    /// Returns all commands so far, of all connections.
    pub fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }

    /// Returns the rest of all commands so far that begin with `prefix`.
    pub fn commands_after(&self, prefix: &str) -> Vec<String> {
        let all = self.commands().into_iter();
        all.filter_map(|command| command.strip_prefix(prefix).map(str::to_owned)).collect()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.commands.lock().unwrap().push(STOP.to_owned());
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let ended = acceptor.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

const STOP: &str = "(stop)";

fn serve<S: Read + Write>(
    socket: TcpStream,
    wrap: &dyn Fn(TcpStream) -> io::Result<S>,
    log: &Mutex<Vec<String>>,
    held: &Mutex<Vec<TcpStream>>,
    script: impl Fn(&str) -> Action,
) -> io::Result<()> {
    socket.set_timeout(TIMEOUT);
    socket.set_nodelay(true)?;
    let mut lines = BufReader::new(wrap(socket.try_clone()?)?);
    let mut command = "greeting".to_owned();
    loop {
        let started = match script(&command) {
            Action::Reply(reply) => {
                lines.get_mut().write_all(format!("{reply}\r\n").as_bytes())?;
                command == "DATA" && reply.starts_with('3')
            }
            action => return misbehave(&socket, action, held),
        };
        let mut line = Vec::new();
        if started {
            // Mail data, to its end.
            while !line.ends_with(b"\r\n.\r\n") && line != b".\r\n" {
                if lines.read_until(b'\n', &mut line)? == 0 {
                    return Ok(());
                }
            }
            command = ".".to_owned();
        } else {
            if lines.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            command = String::from_utf8(line).unwrap().trim_end().to_owned();
            if let Some(size) = command.strip_prefix("BDAT ") {
                let size = size.split(' ').next().unwrap().parse().unwrap();
                lines.by_ref().take(size).read_to_end(&mut Vec::new())?;
            }
        }
        log.lock().unwrap().push(command.clone());
    }
}

fn misbehave(
    mut socket: &TcpStream,
    action: Action,
    held: &Mutex<Vec<TcpStream>>,
) -> io::Result<()> {
    match action {
        Action::ReplyAndClose(reply) => socket.write_all(format!("{reply}\r\n").as_bytes()),
        Action::Send(bytes) => {
            socket.write_all(&bytes)?;
            misbehave(socket, Action::Stall, held)
        }
        Action::SendEndlessly(bytes) => loop {
            socket.write_all(&bytes)?;
        },
        Action::Drip => loop {
            socket.write_all(b"2")?;
            std::thread::sleep(Duration::from_millis(20));
        },
        Action::Reset => {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            Ok(setsockopt(&socket, sockopt::Linger, &linger)?)
        }
        Action::Stall => socket.read_to_end(&mut Vec::new()).map(drop),
        Action::SendAndStopReading(bytes) => {
            socket.write_all(&bytes)?;
            held.lock().unwrap().push(socket.try_clone()?);
            Ok(())
        }
        Action::Reply(_) | Action::Close => Ok(()),
    }
}
