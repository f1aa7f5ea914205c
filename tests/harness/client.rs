//! An SMTP client over any stream, which sends what a test wants, and reads whole replies.

use std::fmt::{self, Debug, Display};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::TIMEOUT;
use super::message::TestMessage;

/// A stream with a limit for the time that a client waits.
pub trait Transport: Read + Write {
    fn set_timeout(&self, time: Duration);
}

impl Transport for TcpStream {
    fn set_timeout(&self, time: Duration) {
        self.set_read_timeout(Some(time)).unwrap();
        self.set_write_timeout(Some(time)).unwrap();
    }
}

impl Transport for UnixStream {
    fn set_timeout(&self, time: Duration) {
        self.set_read_timeout(Some(time)).unwrap();
        self.set_write_timeout(Some(time)).unwrap();
    }
}

/// One reply of the server. Dereferences to its whole text, with CR LF; that is empty at the end of
/// the connection.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Three digits; 0 at the end of the connection.
    pub code: u16,
    /// Text of the lines, without code and CR LF.
    pub lines: Vec<String>,
    text: String,
}

impl Deref for Reply {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Condition that a reply must meet: its code, or the beginning of its text.
pub trait Expected: Copy + Debug {
    fn fits(self, reply: &Reply) -> bool;
}

impl Expected for u16 {
    fn fits(self, reply: &Reply) -> bool {
        reply.code == self
    }
}

impl Expected for &str {
    fn fits(self, reply: &Reply) -> bool {
        reply.starts_with(self)
    }
}

/// A client over a stream.
pub struct Client<S: Transport = TcpStream> {
    stream: BufReader<S>,
}

/// Connects a socket that does not wait forever.
pub fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, TIMEOUT).expect("it listens");
    socket.set_nodelay(true).unwrap();
    socket.set_timeout(TIMEOUT);
    socket
}

impl Client {
    /// Connects. The greeting is not read yet.
    pub fn connect(address: SocketAddr) -> Client {
        Client::new(connect(address))
    }

    /// Connects and says EHLO. While the server has no place for another client, as just after one
    /// has left, tries again.
    pub fn open(address: SocketAddr) -> io::Result<Client> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let mut client = Client::new(TcpStream::connect_timeout(&address, TIMEOUT)?);
            client.stream.get_ref().set_nodelay(true)?;
            client.set_timeout(2 * TIMEOUT);
            let greeting = client.try_reply()?;
            if greeting.code < 400 || Instant::now() > deadline {
                client.try_command("EHLO client.example\r\n")?;
                return Ok(client);
            }
        }
    }
}

impl<S: Transport> Client<S> {
    /// Wraps a connected stream.
    pub fn new(stream: S) -> Client<S> {
        stream.set_timeout(TIMEOUT);
        Client { stream: BufReader::new(stream) }
    }

    /// Returns the stream. What the client has read ahead is not in it any more.
    pub fn stream(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    /// Gives the stream back. Fails the test if the server has sent more than was read.
    pub fn into_stream(self) -> S {
        assert_eq!(String::from_utf8_lossy(self.stream.buffer()), "", "read ahead");
        self.stream.into_inner()
    }

    /// Sets how long a read or write may take.
    pub fn set_timeout(&self, time: Duration) {
        self.stream.get_ref().set_timeout(time);
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("the server reads");
    }

    /// Sends a line and expects a reply.
    pub fn command(&mut self, line: &str, expected: impl Expected) -> Reply {
        self.send(format!("{line}\r\n"));
        let reply = self.reply();
        assert!(expected.fits(&reply), "{line:?}: expected {expected:?}, not {:?}", &*reply);
        reply
    }

    /// Expects a reply without sending anything.
    pub fn expect(&mut self, expected: impl Expected) -> Reply {
        let reply = self.reply();
        assert!(expected.fits(&reply), "expected {expected:?}, not {:?}", &*reply);
        reply
    }

    /// Expects that the server has closed the connection without another reply.
    pub fn expect_end(&mut self) {
        assert_eq!(&*self.reply(), "", "expected the end");
    }

    /// True if the server has closed the connection without another reply.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }

    /// Reads one reply, all lines of it; an empty one at the end of the connection.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|e| panic!("a reply in time: {e}"))
    }

    /// Reads one reply as [`reply`](Client::reply) does, or returns why that failed.
    pub fn try_reply(&mut self) -> io::Result<Reply> {
        let mut reply = Reply::default();
        loop {
            let begin = reply.text.len();
            self.stream.read_line(&mut reply.text)?;
            let line = &reply.text[begin..];
            if reply.text.is_empty() {
                return Ok(reply);
            }
            let text = line.strip_suffix("\r\n").ok_or(ErrorKind::UnexpectedEof)?;
            let code = text.get(..3).and_then(|code| code.parse().ok());
            reply.code = code.ok_or_else(|| io::Error::other(format!("no reply: {text:?}")))?;
            reply.lines.push(text.get(4..).unwrap_or_default().to_owned());
            if text.as_bytes().get(3) != Some(&b'-') {
                return Ok(reply);
            }
        }
    }

    /// Reads all that still comes. A reset is an end too.
    pub fn rest(&mut self) -> String {
        String::from_utf8(rest(&mut self.stream)).unwrap()
    }

    /// Says EHLO, MAIL, RCPT for a user of here.example, and DATA.
    pub fn begin_data(&mut self, user: &str) {
        self.command("EHLO client.example", 250);
        self.command("MAIL FROM:<jones@client.example>", 250);
        self.command(&format!("RCPT TO:<{user}@here.example>"), 250);
        self.command("DATA", 354);
    }

    /// Sends a message, `content` being lines with CR LF, and expects a reply to its final dot.
    pub fn deliver(
        &mut self,
        from: &str,
        to: &[&str],
        content: &str,
        expected: impl Expected,
    ) -> Reply {
        self.command(&format!("MAIL FROM:<{from}>"), 250);
        for to in to {
            self.command(&format!("RCPT TO:<{to}>"), 250);
        }
        self.command("DATA", 354);
        self.send(content.replace("\r\n.", "\r\n.."));
        self.command(".", expected)
    }

    /// Says QUIT, and expects nothing after the reply to it; inside TLS, a close_notify.
    pub fn quit(mut self) {
        self.command("QUIT", 221);
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("an orderly end");
        assert_eq!(rest, b"");
    }

    /// Sends a message. Returns the reply to its final dot, or the first that refused it.
    pub fn submit(&mut self, message: &TestMessage) -> io::Result<Reply> {
        let mut commands = vec!["MAIL FROM:<smith@example.org>\r\n".to_owned()];
        commands.extend(message.to.iter().map(|to| format!("RCPT TO:<{to}@localhost>\r\n")));
        commands.push("DATA\r\n".to_owned());
        for command in commands {
            let reply = self.try_command(&command)?;
            if reply.code >= 400 {
                self.try_command("RSET\r\n")?;
                return Ok(reply);
            }
        }
        self.try_command(&(message.smtp_content() + ".\r\n"))
    }

    /// Sends a message. Returns the code of the reply, or None if the connection ended before it.
    pub fn submit_for_code(&mut self, message: &TestMessage) -> Option<u16> {
        self.submit(message).ok().map(|reply| reply.code)
    }

    /// Sends text and reads a reply. The end of the connection is an error.
    fn try_command(&mut self, text: &str) -> io::Result<Reply> {
        self.stream.get_mut().write_all(text.as_bytes())?;
        let reply = self.try_reply()?;
        if reply.is_empty() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(reply) }
    }
}

/// Reads all that still comes. A reset is an end too.
pub fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => rest,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => rest,
        Err(e) => panic!("{e}, after {rest:?}"),
    }
}

/// Returns the codes of the replies in `text`, one for each reply.
pub fn codes(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).map(|l| &l[..3]).collect()
}
