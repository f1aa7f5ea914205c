//! TLS for tests: certificates, created by the tests themselves, and clients inside TLS.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mailslot::net::tls::ServerCertificate;
use mailslot::session::TlsPolicy;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use super::client::{Client, Transport};

/// All versions of TLS that are spoken.
pub const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

/// Stream inside TLS.
pub type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Transport for TlsStream {
    fn set_timeout(&self, time: Duration) {
        self.sock.set_timeout(time);
    }
}

/// A certificate and its key, in files.
pub struct TestCertificate {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub der: CertificateDer<'static>,
}

impl TestCertificate {
    /// Creates a certificate for here.example, in `NAME-cert.pem` and `NAME-key.pem`.
    pub fn new(directory: &Path, name: &str) -> TestCertificate {
        TestCertificate::with(directory, name, |_| {})
    }

    /// Creates a certificate for here.example, with changes.
    pub fn with(
        directory: &Path,
        name: &str,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> TestCertificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["here.example".to_owned()]).unwrap();
        change(&mut params);
        let cert = params.self_signed(&key).unwrap();
        TestCertificate::write(directory, name, &cert, &key)
    }

    /// Creates a certificate for 127.0.0.1 and here.example that `authority` has signed.
    pub fn signed_by(directory: &Path, name: &str, authority: &TestAuthority) -> TestCertificate {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "here.example"].map(str::to_owned);
        let params = rcgen::CertificateParams::new(names).unwrap();
        let cert = params.signed_by(&key, &authority.issuer).unwrap();
        TestCertificate::write(directory, name, &cert, &key)
    }

    fn write(
        directory: &Path,
        name: &str,
        cert: &rcgen::Certificate,
        key: &rcgen::KeyPair,
    ) -> TestCertificate {
        let paths = ["cert", "key"].map(|kind| directory.join(format!("{name}-{kind}.pem")));
        let [cert_path, key_path] = paths;
        fs::write(&cert_path, cert.pem()).unwrap();
        fs::write(&key_path, key.serialize_pem()).unwrap();
        TestCertificate { cert: cert_path, key: key_path, der: cert.der().clone() }
    }

    /// Returns the options by which the program finds it.
    pub fn options(&self) -> [&str; 4] {
        ["--tls-cert", self.cert.to_str().unwrap(), "--tls-key", self.key.to_str().unwrap()]
    }

    pub fn load(&self) -> Result<ServerCertificate, String> {
        ServerCertificate::load(&self.cert, &self.key)
    }

    /// Returns the configuration of a server of another project.
    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let chain =
            CertificateDer::pem_file_iter(&self.cert).unwrap().map(Result::unwrap).collect();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        Arc::new(config.with_single_cert(chain, key).unwrap())
    }

    /// Returns the configuration of sessions that offer STARTTLS.
    pub fn offered(&self) -> Option<TlsPolicy> {
        Some(TlsPolicy { certificate: Arc::new(self.load().unwrap()), required: false })
    }

    /// Returns the TLS state of a client that trusts only this certificate.
    pub fn connection(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConnection {
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

    /// Makes the handshake over a socket on which the server expects it.
    pub fn handshake(
        &self,
        socket: TcpStream,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Client<TlsStream> {
        let mut stream = StreamOwned::new(self.connection(versions), socket);
        stream.conn.complete_io(&mut stream.sock).unwrap();
        Client::new(stream)
    }
}

/// A private certificate authority, with its certificate in a file.
pub struct TestAuthority {
    pub cert: PathBuf,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl TestAuthority {
    /// Creates an authority, with its certificate in `NAME-ca.pem`.
    pub fn new(directory: &Path, name: &str) -> TestAuthority {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("Authority {name}"));
        let cert = directory.join(format!("{name}-ca.pem"));
        fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
        TestAuthority { cert, issuer: rcgen::Issuer::new(params, key) }
    }
}

/// Returns the records that a client has to send next; at first, its hello.
pub fn outgoing_records(client: &mut ClientConnection) -> Vec<u8> {
    let mut records = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut records).unwrap();
    }
    records
}

/// Returns a socket on which the server has answered STARTTLS with 220.
pub fn starttls(address: SocketAddr) -> TcpStream {
    let mut client = Client::connect(address);
    client.expect(220);
    let ehlo = client.command("EHLO client.example", 250);
    assert!(ehlo.contains("250-STARTTLS\r\n"), "{ehlo:?}");
    client.command("STARTTLS", "220 2.0.0 ");
    client.into_stream()
}
