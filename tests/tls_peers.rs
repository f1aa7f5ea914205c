//! TLS as others speak it: OpenSSL, swaks, curl, Python's smtplib; against the real program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;
mod tls_common;

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use support::Server;
use tls_common::{Pair, certify};

/// A program that serves with its own certificate, and where it takes TLS from the first octet.
struct Served {
    server: Server,
    pair: Pair,
    implicit: SocketAddr,
}

fn serve(certify: impl FnOnce(&std::path::Path) -> Pair) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let pair = certify(folder.path());
    let (cert, key) = (pair.cert.to_str().unwrap(), pair.key.to_str().unwrap());
    let options = ["--tls-cert", cert, "--tls-key", key, "-l", "tls:127.0.0.1:0"];
    let server = Server::start_in(folder, &options);
    let implicit = server.banner[0].split([' ', ',']).find_map(|word| word.strip_prefix("tls:"));
    let implicit = implicit.unwrap().parse().unwrap();
    Served { server, pair, implicit }
}

impl Served {
    fn new() -> Served {
        serve(|folder| certify(folder, "a"))
    }

    /// Runs a shell command, in which `$PORT`, `$TLS_PORT` and `$CERT` are what they say.
    fn run(&self, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-ec", script])
            .env("PORT", self.server.address.port().to_string())
            .env("TLS_PORT", self.implicit.port().to_string())
            .env("CERT", &self.pair.cert)
            .current_dir(self.server.folder())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{script}\n{text}");
        text
    }

    /// The message in `user`'s mailbox came inside TLS.
    fn assert_came(&self, user: &str, version: &str) {
        let mailbox = self.server.mailbox(user);
        let with = format!(" with ESMTPS (using {version} with cipher TLS_");
        assert!(mailbox.contains(&with) && mailbox.contains("Subject: by "), "{mailbox}");
    }
}

#[test]
#[ignore = "needs openssl"]
fn openssl_speaks_both_versions_and_no_older() {
    let served = Served::new();
    let client = "openssl s_client -quiet -no_ign_eof -crlf -CAfile $CERT -verify_return_error \
                  -verify_hostname here.example -servername here.example";
    for (version, shown) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        for (how, user) in [
            ("-starttls smtp -connect 127.0.0.1:$PORT", "starttls"),
            ("-connect 127.0.0.1:$TLS_PORT", "implicit"),
        ] {
            let user = format!("{user}{version}");
            // RCPT in lower case: s_client renegotiates at a line that begins with R.
            let script = format!(
                "{{ printf 'EHLO c.example\\nMAIL FROM:<a@b>\\nrcpt TO:<{user}@here.example>\\n\
                 DATA\\nSubject: by openssl\\n\\nhello\\n.\\nquit\\n'; sleep 2; }} | \
                 {client} {version} {how}"
            );
            let said = served.run(&script);
            assert!(said.contains("\r\n221 ") || said.contains("\n221 "), "{said}");
            served.assert_came(&user, shown);
        }
    }
    let old = "! openssl s_client -tls1_1 -cipher DEFAULT@SECLEVEL=0 -starttls smtp \
               -connect 127.0.0.1:$PORT </dev/null 2>&1";
    let said = served.run(old);
    assert!(said.contains("SSL alert number"), "{said}");
}

/// Keys of the kinds that people have, made by OpenSSL, in the forms in which it writes them.
#[test]
#[ignore = "needs openssl"]
fn keys_that_openssl_makes_are_read() {
    for make in [
        "openssl genrsa -traditional 2048",
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072",
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        "openssl ecparam -genkey -name prime256v1",
        "openssl genpkey -algorithm ED25519",
    ] {
        let served = serve(|folder| {
            let script = format!(
                "{make} >key.pem 2>/dev/null; openssl req -x509 -key key.pem -out cert.pem -days 9 \
                 -subj /CN=here.example -addext subjectAltName=DNS:here.example 2>/dev/null"
            );
            let made = Command::new("sh").args(["-ec", &script]).current_dir(folder).status();
            assert!(made.unwrap().success(), "{make}");
            let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
            Pair { cert, key, der: Vec::new().into() }
        });
        let said = served.run(
            "openssl s_client -starttls smtp -connect 127.0.0.1:$PORT -CAfile $CERT \
             -verify_return_error </dev/null",
        );
        assert!(said.contains("Verify return code: 0 (ok)"), "{make}: {said}");
        let (cert, key) = (served.pair.cert.to_str().unwrap(), served.pair.key.to_str().unwrap());
        let check = support::mailslot(&["check", "--sandbox", "/nonexistent", "-l", "127.0.0.1:0"])
            .args(["-n", "here.example", "-d", "here.example"])
            .args(["--tls-cert", cert, "--tls-key", key])
            .output()
            .unwrap();
        let text = String::from_utf8(check.stdout).unwrap();
        assert!(text.contains("cert.pem expires in "), "{make}: {text}");
    }
}

#[test]
#[ignore = "needs swaks"]
fn swaks_sends() {
    let served = Served::new();
    let common = "swaks --server 127.0.0.1 --from a@b.example --helo c.example \
                  --tls-verify --tls-ca-path $CERT --tls-sni here.example \
                  --header 'Subject: by swaks' --to";
    served.run(&format!("{common} one@here.example --port $PORT --tls"));
    served.run(&format!("{common} two@here.example --port $TLS_PORT --tls-on-connect"));
    served.assert_came("one", "TLSv1.3");
    served.assert_came("two", "TLSv1.3");
}

#[test]
#[ignore = "needs curl"]
fn curl_sends() {
    let served = Served::new();
    fs::write(served.server.folder().join("mail.txt"), "Subject: by curl\r\n\r\nhello\r\n")
        .unwrap();
    let common = "curl -sS --cacert $CERT --mail-from a@b.example -T mail.txt \
                  --connect-to here.example::127.0.0.1:";
    for (options, user, shown) in [
        ("--ssl-reqd --tls-max 1.2 smtp://here.example:$PORT", "one", "TLSv1.2"),
        ("--ssl-reqd smtp://here.example:$PORT", "two", "TLSv1.3"),
        ("smtps://here.example:$TLS_PORT", "three", "TLSv1.3"),
    ] {
        served.run(&format!("{common} --mail-rcpt {user}@here.example {options}"));
        served.assert_came(user, shown);
    }
}

#[test]
#[ignore = "needs python3"]
fn pythons_smtplib_sends() {
    let served = Served::new();
    let script = r#"python3 - <<'END'
import os, smtplib, ssl
trust = ssl.create_default_context(cafile=os.environ["CERT"])
# The certificate is for here.example, and it is at 127.0.0.1.
trust.check_hostname = False
with smtplib.SMTP("127.0.0.1", int(os.environ["PORT"]), "c.example") as client:
    client.starttls(context=trust)
    assert not client.has_extn("starttls")
    client.ehlo()
    assert not client.has_extn("starttls")
    client.sendmail("a@b.example", ["one@here.example"], "Subject: by python\r\n\r\nhello\r\n")
    try:
        client.starttls(context=trust)
        raise SystemExit("offered twice")
    except smtplib.SMTPNotSupportedError:
        pass
with smtplib.SMTP_SSL("127.0.0.1", int(os.environ["TLS_PORT"]), "c.example",
                      context=trust) as client:
    client.sendmail("a@b.example", ["two@here.example"], "Subject: by python\r\n\r\nhello\r\n")
END"#;
    served.run(script);
    served.assert_came("one", "TLSv1.3");
    served.assert_came("two", "TLSv1.3");
}

/// A session resumed, as Postfix and browsers of mail do: the second handshake is a short one.
#[test]
#[ignore = "needs openssl"]
fn sessions_are_resumed() {
    let served = Served::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let client = format!(
            "(printf 'NOOP\\n'; sleep 1; printf 'quit\\n'; sleep 1) | openssl s_client -crlf \
             {version} -starttls smtp -connect 127.0.0.1:$PORT"
        );
        served.run(&format!("{client} -sess_out session.pem"));
        let said = served.run(&format!("{client} -sess_in session.pem"));
        assert!(said.contains("\nReused, "), "{said}");
    }
}
