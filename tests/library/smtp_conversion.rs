//! Messages that the next server would not take as they are: long lines, NUL, 8-bit text.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use mailslot::relay::client::{ServerAddress, connect};
use mailslot::relay::queue::Smarthost;
use mailslot::smtp::{BodyType, Envelope};

use super::queue;
use crate::harness::outbound::{client_config, envelope, show_outcomes, with_surveyed_mail};

/// The MAIL command and the mail data of one message.
type Received = (String, Vec<u8>);

/// A server for one connection, which records the MAIL command and the mail data of each message,
/// without stuffed dots.
struct RecordingServer {
    address: ServerAddress,
    received: Arc<Mutex<Vec<Received>>>,
    session: JoinHandle<()>,
}

impl RecordingServer {
    fn start(extensions: &'static [&'static str]) -> RecordingServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let received: Arc<Mutex<Vec<Received>>> = Arc::default();
        let log = Arc::clone(&received);
        let session = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut input = BufReader::new(socket.try_clone().unwrap());
            let reply = |text: &str| (&socket).write_all(format!("{text}\r\n").as_bytes()).unwrap();
            reply("220 mx.example");
            let mut mail = String::new();
            loop {
                let mut command = String::new();
                if input.read_line(&mut command).unwrap() == 0 {
                    return;
                }
                match command.trim_end().split(' ').collect::<Vec<_>>()[..] {
                    ["EHLO", _] => {
                        reply("250-mx.example");
                        extensions.iter().for_each(|name| reply(&format!("250-{name}")));
                        reply("250 HELP");
                    }
                    ["BDAT", size, "LAST"] => {
                        let mut data = vec![0; size.parse().unwrap()];
                        input.read_exact(&mut data).unwrap();
                        log.lock().unwrap().push((mail.clone(), data));
                        reply("250 taken");
                    }
                    ["DATA"] => {
                        reply("354 go");
                        let data = read_data(&mut input);
                        log.lock().unwrap().push((mail.clone(), data));
                        reply("250 taken");
                    }
                    ["MAIL", ..] => {
                        mail = command.trim_end().to_owned();
                        reply("250 ok");
                    }
                    _ => reply("250 ok"),
                }
            }
        });
        RecordingServer { address, received, session }
    }

    /// Waits for the end of the connection, and returns what was received.
    fn received(self) -> Vec<Received> {
        self.session.join().unwrap();
        std::mem::take(&mut *self.received.lock().unwrap())
    }
}

/// Reads mail data to its end.
fn read_data(input: &mut impl BufRead) -> Vec<u8> {
    let mut data = Vec::new();
    loop {
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\r\n"), "{line:?}");
        match line.strip_prefix(b".") {
            Some(b"\r\n") => return data,
            Some(rest) => data.extend_from_slice(rest),
            None => data.extend_from_slice(&line),
        }
    }
}

/// Sends a message. Returns its outcome, and the MAIL command and the data that were received.
fn send(
    extensions: &'static [&'static str],
    envelope: &Envelope<()>,
    content: &[u8],
) -> (String, Option<Received>) {
    let server = RecordingServer::start(extensions);
    let mut connection = connect(&server.address, &client_config()).unwrap();
    let outcomes = with_surveyed_mail(envelope, content, |mail| connection.send(mail));
    connection.quit();
    let mut received = server.received();
    assert!(received.len() < 2);
    (show_outcomes(&outcomes).concat(), received.pop())
}

/// Returns the header and the body of mail data, with LF.
fn header_and_body(data: &[u8]) -> (String, Vec<u8>) {
    let data: Vec<u8> = data.iter().copied().filter(|byte| *byte != b'\r').collect();
    let end = data.windows(2).position(|pair| pair == b"\n\n").unwrap();
    (String::from_utf8(data[..=end].to_vec()).unwrap(), data[end + 2..].to_vec())
}

/// Decodes quoted-printable by simple means.
fn decoded(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).unwrap().replace("=\n", "");
    let mut parts = text.split('=');
    let mut out = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        out.push(u8::from_str_radix(digits, 16).unwrap());
        out.extend_from_slice(rest.as_bytes());
    }
    out
}

const EXTENSIONS: &[&[&str]] = &[
    &[],
    &["SIZE", "8BITMIME"],
    &["SIZE", "PIPELINING", "CHUNKING"],
    &["SIZE", "PIPELINING", "CHUNKING", "8BITMIME"],
];

#[test]
fn text_with_long_lines_arrives_encoded() {
    let small = format!(".\n{} end \n\nFrom x\0 =\u{fc}\n.\n", "word ".repeat(300));
    // Longer than each block and chunk.
    let large = format!("{}\n{}", "J\u{fc}rgen =".repeat(40_000), ".\n".repeat(20_000));
    for extensions in EXTENSIONS {
        for body in [&small, &large] {
            let header = format!("Subject: x\nReferences:{}\n", " <1@here.example>".repeat(100));
            let content = format!("{header}\n{body}");
            let to = envelope(&["a@x.example"]);
            let (outcome, received) = send(extensions, &to, content.as_bytes());
            assert_eq!(outcome, "done 250 taken", "{extensions:?}");
            let (mail, data) = received.unwrap();
            assert!(data.split(|byte| *byte == b'\n').all(|line| line.len() <= 998 + 1));
            if extensions.contains(&"SIZE") {
                assert!(mail.ends_with(&format!(" SIZE={}", data.len())), "{mail}: {}", data.len());
            }
            let (sent_header, sent_body) = header_and_body(&data);
            let added = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\
                Content-Transfer-Encoding: quoted-printable\n";
            let unfolded = sent_header.replace("\n ", " ");
            assert_eq!(unfolded, format!("{header}{added}"));
            assert!(decoded(&sent_body) == body.as_bytes(), "{extensions:?}");
        }
    }
}

#[test]
fn ordinary_messages_arrive_unchanged() {
    let content = format!("Subject: x\n\n{}\nGr\u{fc}\u{df}e\n", "x".repeat(998));
    for extensions in [EXTENSIONS[1], EXTENSIONS[3]] {
        let to = Envelope { body: BodyType::EightBitMime, ..envelope(&["a@x.example"]) };
        let (mail, data) = send(extensions, &to, content.as_bytes()).1.unwrap();
        assert!(mail.ends_with(" BODY=8BITMIME"), "{mail}");
        assert_eq!(String::from_utf8(data).unwrap(), content.replace('\n', "\r\n"));
    }
}

/// A change would make the signature invalid.
#[test]
fn signed_messages_arrive_unchanged() {
    for signature in [
        "DKIM-Signature: v=1; b=x",
        "Content-Type: multipart/signed; boundary=b\nMIME-Version: 1.0",
    ] {
        let content = format!("{signature}\n\n{}\0\n", "\u{fc}".repeat(1000));
        let (_, received) = send(&[], &envelope(&["a@x.example"]), content.as_bytes());
        let (_, data) = received.unwrap();
        assert_eq!(String::from_utf8(data).unwrap(), content.replace('\n', "\r\n"));
    }
}

#[test]
fn multipart_messages_arrive_folded() {
    let long = "word ".repeat(600);
    let content = format!(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n{long}\n{}\n--b--\n",
        "x".repeat(2000)
    );
    let (_, received) = send(&["8BITMIME"], &envelope(&["a@x.example"]), content.as_bytes());
    let (_, data) = received.unwrap();
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    assert!(lines.iter().all(|line| line.len() <= 998 + 1));
    assert!(lines.contains(&&b"--b--\r"[..]));
    let words = |text: &[u8]| String::from_utf8(text.to_vec()).unwrap();
    assert_eq!(words(&data).replace("\r\n", "").matches("word ").count(), 600);
    assert_eq!(words(&data).matches('x').count(), content.matches('x').count());
}

#[test]
fn declared_8_bit_text_is_encoded_for_a_server_without_8bitmime() {
    let to = Envelope { body: BodyType::EightBitMime, ..envelope(&["a@x.example"]) };
    let refused = ("never the next server does not support 8BITMIME".to_owned(), None);
    let text = "MIME-Version: 1.0\nContent-Type: text/html; charset=iso-8859-1\n\
        Content-Transfer-Encoding: 8bit\n";
    let content = [text.as_bytes(), b"\n<p>J\xfcrgen\n"].concat();
    let (outcome, received) = send(&["SIZE"], &to, &content);
    assert_eq!(outcome, "done 250 taken");
    let (mail, data) = received.unwrap();
    assert!(!mail.contains("BODY="), "{mail}");
    let (header, body) = header_and_body(&data);
    assert_eq!(header, text.replace("8bit", "quoted-printable"));
    assert_eq!(body, b"<p>J=FCrgen\n");
    // It was declared, but it is 7-bit.
    let (outcome, received) = send(&[], &to, b"Content-Type: multipart/mixed\n\nx\n");
    assert_eq!(outcome, "done 250 taken");
    assert_eq!(received.unwrap().0, "MAIL FROM:<me@here.example>");
    // What is signed or has parts is returned, and so is an 8-bit header.
    for header in ["Content-Type: multipart/mixed", "DKIM-Signature: x", "Subject: J\u{fc}rgen"] {
        let content = format!("{header}\n\nJ\u{fc}rgen\n");
        assert_eq!(send(&[], &to, content.as_bytes()), refused, "{header}");
    }
    // Undeclared 8-bit content of this kind is sent as it is.
    let content = "Content-Type: multipart/mixed\n\nJ\u{fc}rgen\n";
    let (outcome, received) = send(&[], &envelope(&["a@x.example"]), content.as_bytes());
    assert_eq!(outcome, "done 250 taken");
    assert_eq!(received.unwrap().1, content.replace('\n', "\r\n").as_bytes());
}

#[test]
fn queue_converts_a_long_line() {
    let server = RecordingServer::start(&["SIZE", "8BITMIME"]);
    let mut host = queue::Host::new(&[]);
    let address = server.address.clone();
    host.config.smarthosts = vec![Smarthost { address, config: client_config() }];
    let body = format!("{}\n>From here\n", "x".repeat(300_000));
    let mail = queue::envelope("smith@here.example", &["a@x.example"]);
    host.put_content("m", &mail, format!("Subject: x\n\n{body}"));
    assert_eq!(host.flush(), 0);
    let (mail, data) = server.received().pop().unwrap();
    assert!(mail.ends_with(&format!(" SIZE={}", data.len())), "{mail}");
    let (_, sent) = header_and_body(&data);
    assert!(sent.split(|byte| *byte == b'\n').all(|line| line.len() <= 76));
    assert!(decoded(&sent) == body.replace(">From", "From").as_bytes());
}
