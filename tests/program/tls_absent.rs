//! A build without the feature `tls`: options for TLS are refused, and STARTTLS is not offered.

use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, mailslot};

#[test]
fn tls_options_are_refused() {
    let directory = TestDirectory::new();
    let path = directory.as_str();
    let common = ["--sandbox", path, "-l", "127.0.0.1:0", "--tls-cert", "cert.pem"];
    let output = mailslot(&common).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("built without TLS"), "{text}");
    let output = mailslot(&[&["check"][..], &common].concat()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(78), "{text}");
    assert!(text.contains("built without TLS"), "{text}");
}

#[test]
fn starttls_is_not_offered() {
    let server = Server::start(&[]);
    let mut client = server.greeted();
    assert!(!client.command("EHLO client.example", 250).lines.contains(&"STARTTLS".to_owned()));
    client.command("STARTTLS", 502);
}
