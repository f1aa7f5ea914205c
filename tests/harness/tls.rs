//! What the tests of TLS have in common: certificates made on the spot, and a client that types
//! inside TLS.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mailslot::net::tls::ServerCertificate;
use mailslot::session::TlsPolicy;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

/// Both versions that there are.
pub const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

/// A certificate and its key, in files.
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub der: CertificateDer<'static>,
}

/// Makes a certificate for here.example, in `folder`, called `name`.
pub fn certify(folder: &Path, name: &str) -> Pair {
    certify_as(folder, name, |_| {})
}

/// The same, with `change`s.
pub fn certify_as(
    folder: &Path,
    name: &str,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> Pair {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["here.example".to_owned()]).unwrap();
    change(&mut params);
    let cert = params.self_signed(&key).unwrap();
    let paths = ["cert", "key"].map(|kind| folder.join(format!("{name}-{kind}.pem")));
    let [cert_path, key_path] = paths;
    fs::write(&cert_path, cert.pem()).unwrap();
    fs::write(&key_path, key.serialize_pem()).unwrap();
    Pair { cert: cert_path, key: key_path, der: cert.der().clone() }
}

impl Pair {
    pub fn load(&self) -> Result<ServerCertificate, String> {
        ServerCertificate::load(&self.cert, &self.key)
    }

    /// What a session is told that offers STARTTLS.
    pub fn offered(&self) -> Option<TlsPolicy> {
        Some(TlsPolicy { certificate: Arc::new(self.load().unwrap()), required: false })
    }

    /// A client that trusts this certificate alone, and speaks `versions`.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = ServerName::try_from("here.example").unwrap();
        ClientConnection::new(Arc::new(config), host).unwrap()
    }

    /// A client inside TLS, over a socket where the server awaits the handshake.
    pub fn secure(
        &self,
        socket: TcpStream,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Secure {
        let mut stream = StreamOwned::new(self.client(versions), socket);
        stream.conn.complete_io(&mut stream.sock).unwrap();
        Secure { lines: BufReader::new(stream) }
    }
}

/// The first flight of a client: its hello.
pub fn hello(client: &mut ClientConnection) -> Vec<u8> {
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    flight
}

/// A socket that does not wait for ever.
pub fn connect(address: SocketAddr) -> TcpStream {
    let limit = Duration::from_secs(30);
    let socket = TcpStream::connect_timeout(&address, limit).unwrap();
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(limit)).unwrap();
    socket.set_write_timeout(Some(limit)).unwrap();
    socket
}

/// A socket on which the server has said 220 to STARTTLS.
pub fn at_starttls(address: SocketAddr) -> TcpStream {
    let mut socket = connect(address);
    assert!(reply(&mut socket).starts_with("220 "));
    socket.write_all(b"EHLO client.example\r\n").unwrap();
    let ehlo = reply(&mut socket);
    assert!(ehlo.contains("250-STARTTLS\r\n"), "{ehlo}");
    socket.write_all(b"STARTTLS\r\n").unwrap();
    assert!(reply(&mut socket).starts_with("220 2.0.0 "));
    socket
}

/// One reply, octet for octet: nothing behind it is read.
pub fn reply(socket: &mut TcpStream) -> String {
    let mut reply = Vec::new();
    loop {
        let begin = reply.len();
        while !reply[begin..].ends_with(b"\r\n") {
            let mut octet = [0];
            if socket.read(&mut octet).unwrap() == 0 {
                return String::from_utf8(reply).unwrap();
            }
            reply.push(octet[0]);
        }
        if reply.get(begin + 3) != Some(&b'-') {
            return String::from_utf8(reply).unwrap();
        }
    }
}

/// All that still comes; a reset is an end too.
pub fn rest(socket: &mut impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => rest,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => rest,
        Err(e) => panic!("{e}, after {rest:?}"),
    }
}

/// A client that types inside TLS.
pub struct Secure {
    lines: BufReader<StreamOwned<ClientConnection, TcpStream>>,
}

impl Secure {
    pub fn stream(&mut self) -> &mut StreamOwned<ClientConnection, TcpStream> {
        self.lines.get_mut()
    }

    pub fn send(&mut self, octets: &[u8]) {
        self.stream().write_all(octets).unwrap();
    }

    pub fn expect(&mut self, code: &str) -> String {
        let mut reply = String::new();
        loop {
            let begin = reply.len();
            self.lines.read_line(&mut reply).unwrap();
            if reply.as_bytes()[begin..].get(3) != Some(&b'-') {
                break;
            }
        }
        assert!(reply.starts_with(code), "expected {code}, not {reply:?}");
        reply
    }

    pub fn ask(&mut self, command: &str, code: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.expect(code)
    }

    pub fn up_to_data(&mut self, to: &str) {
        self.ask("EHLO client.example", "250");
        self.ask("MAIL FROM:<jones@client.example>", "250");
        self.ask(&format!("RCPT TO:<{to}@here.example>"), "250");
        self.ask("DATA", "354");
    }

    /// QUIT; the server says that nothing more comes, in SMTP and in TLS.
    pub fn quit(mut self) {
        self.ask("QUIT", "221");
        let mut rest = Vec::new();
        self.lines.read_to_end(&mut rest).expect("close_notify");
        assert_eq!(rest, b"");
    }
}
