//! TLS clients of other projects with the real program: OpenSSL, swaks, curl, smtplib and
//! aiosmtplib of Python. And the other extensions, as those libraries use them.

use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::process::{Command, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::server::{self, Server};
use crate::harness::tls::TestCertificate;
use crate::harness::wait_until;

/// A server with its own certificate, and its address of implicit TLS.
struct TlsServer {
    server: Server,
    certificate: TestCertificate,
    implicit: SocketAddr,
}

fn serve(certify: impl FnOnce(&std::path::Path) -> TestCertificate) -> TlsServer {
    let directory = TestDirectory::new();
    let certificate = certify(directory.path());
    let listen = ["-l", "tls:127.0.0.1:0", "--lmtp", "127.0.0.1:0"];
    let server = Server::start_in(directory, &[&certificate.options()[..], &listen].concat());
    let implicit = server.implicit_tls().unwrap();
    TlsServer { server, certificate, implicit }
}

impl Deref for TlsServer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl TlsServer {
    fn new() -> TlsServer {
        serve(|directory| TestCertificate::new(directory, "a"))
    }

    /// Runs a shell command with the environment variables `PORT`, `TLS_PORT`, `LMTP_PORT` and
    /// `CERT`.
    fn run(&self, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-ec", script])
            .env("PORT", self.server.address.port().to_string())
            .env("TLS_PORT", self.implicit.port().to_string())
            .env("LMTP_PORT", self.server.lmtp().unwrap().port().to_string())
            .env("CERT", &self.certificate.cert)
            .current_dir(self.server.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(output.status.success(), "{script}\n{text}");
        text
    }

    /// Asserts that the message in the mailbox of `user` came inside TLS.
    fn assert_came(&self, user: &str, version: &str) {
        let mailbox = self.server.mailbox(user);
        let with = format!(" with ESMTPS (using {version} with cipher TLS_");
        assert!(mailbox.contains(&with) && mailbox.contains("Subject: by "), "{mailbox}");
    }
}

#[test]
#[ignore = "needs openssl"]
fn openssl_with_each_version() {
    let server = TlsServer::new();
    let client = "openssl s_client -quiet -no_ign_eof -crlf -CAfile $CERT -verify_return_error \
                  -verify_hostname here.example -servername here.example";
    for (version, shown) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        for (how, user) in [
            ("-starttls smtp -connect 127.0.0.1:$PORT", "starttls"),
            ("-connect 127.0.0.1:$TLS_PORT", "implicit"),
        ] {
            let user = format!("{user}{version}");
            // RCPT in lower case, because s_client renegotiates at a line that begins with R.
            let script = format!(
                "{{ printf 'EHLO c.example\\nMAIL FROM:<a@b>\\nrcpt TO:<{user}@here.example>\\n\
                 DATA\\nSubject: by openssl\\n\\nhello\\n.\\nquit\\n'; sleep 2; }} | \
                 {client} {version} {how}"
            );
            let printed = server.run(&script);
            assert!(printed.contains("\r\n221 ") || printed.contains("\n221 "), "{printed}");
            server.assert_came(&user, shown);
        }
    }
    let old = "! openssl s_client -tls1_1 -cipher DEFAULT@SECLEVEL=0 -starttls smtp \
               -connect 127.0.0.1:$PORT </dev/null 2>&1";
    let printed = server.run(old);
    assert!(printed.contains("SSL alert number"), "{printed}");
}

/// Keys of common kinds, created by OpenSSL in the formats that it writes.
#[test]
#[ignore = "needs openssl"]
fn keys_created_by_openssl() {
    for make in [
        "openssl genrsa -traditional 2048",
        "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072",
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        "openssl ecparam -genkey -name prime256v1",
        "openssl genpkey -algorithm ED25519",
    ] {
        let server = serve(|directory| {
            let script = format!(
                "{make} >key.pem 2>/dev/null; openssl req -x509 -key key.pem -out cert.pem -days 9 \
                 -subj /CN=here.example -addext subjectAltName=DNS:here.example 2>/dev/null"
            );
            let made = Command::new("sh").args(["-ec", &script]).current_dir(directory).status();
            assert!(made.unwrap().success(), "{make}");
            let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
            TestCertificate { cert, key, der: Vec::new().into() }
        });
        let printed = server.run(
            "openssl s_client -starttls smtp -connect 127.0.0.1:$PORT -CAfile $CERT \
             -verify_return_error </dev/null",
        );
        assert!(printed.contains("Verify return code: 0 (ok)"), "{make}: {printed}");
        let (cert, key) =
            (server.certificate.cert.to_str().unwrap(), server.certificate.key.to_str().unwrap());
        let check = server::mailslot(&["check", "--sandbox", "/nonexistent", "-l", "127.0.0.1:0"])
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
fn swaks() {
    let server = TlsServer::new();
    let common = "swaks --server 127.0.0.1 --from a@b.example --helo c.example \
                  --tls-verify --tls-ca-path $CERT --tls-sni here.example \
                  --header 'Subject: by swaks' --to";
    server.run(&format!("{common} one@here.example --port $PORT --tls"));
    server.run(&format!("{common} two@here.example --port $TLS_PORT --tls-on-connect"));
    server.assert_came("one", "TLSv1.3");
    server.assert_came("two", "TLSv1.3");
}

#[test]
#[ignore = "needs curl"]
fn curl() {
    let server = TlsServer::new();
    fs::write(server.join("mail.txt"), "Subject: by curl\r\n\r\nhello\r\n").unwrap();
    let common = "curl -sS --cacert $CERT --mail-from a@b.example -T mail.txt \
                  --connect-to here.example::127.0.0.1:";
    for (options, user, shown) in [
        ("--ssl-reqd --tls-max 1.2 smtp://here.example:$PORT", "one", "TLSv1.2"),
        ("--ssl-reqd smtp://here.example:$PORT", "two", "TLSv1.3"),
        ("smtps://here.example:$TLS_PORT", "three", "TLSv1.3"),
    ] {
        server.run(&format!("{common} --mail-rcpt {user}@here.example {options}"));
        server.assert_came(user, shown);
    }
}

#[test]
#[ignore = "needs python3"]
fn smtplib() {
    let server = TlsServer::new();
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
    server.run(script);
    server.assert_came("one", "TLSv1.3");
    server.assert_came("two", "TLSv1.3");
}

/// LMTP with STARTTLS, and a reply for each recipient.
#[test]
#[ignore = "needs openssl"]
fn openssl_by_lmtp() {
    let server = TlsServer::new();
    let printed = server.run(
        "{ printf 'LHLO c.example\\nMAIL FROM:<a@b>\\nrcpt TO:<one@here.example>\\n\
         rcpt TO:<two@here.example>\\nDATA\\nSubject: by openssl\\n\\nhello\\n.\\nquit\\n'; \
         sleep 2; } | openssl s_client -quiet -no_ign_eof -crlf -CAfile $CERT \
         -verify_return_error -starttls lmtp -connect 127.0.0.1:$LMTP_PORT",
    );
    assert_eq!(printed.matches("250 2.6.0 Message: OK, delivered as ").count(), 2, "{printed}");
    for user in ["one", "two"] {
        let mailbox = server.mailbox(user);
        assert!(mailbox.contains(" with LMTPS (using TLSv1.3 with cipher "), "{mailbox}");
    }
}

/// The package of Debian, with the Python of Debian.
#[test]
#[ignore = "needs python3-aiosmtplib"]
fn aiosmtplib() {
    let server = TlsServer::new();
    let script = r#"/usr/bin/python3 - <<'END'
import asyncio, os, ssl
from email.message import EmailMessage
from aiosmtplib import SMTP

trust = ssl.create_default_context(cafile=os.environ["CERT"])
# The certificate is for here.example, and it is at 127.0.0.1.
trust.check_hostname = False

async def send(client, to):
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@b.example", to, "by aiosmtplib"
    message.set_content("Gr\u00fc\u00dfe\n.\n..\n", cte="8bit")
    refused, said = await client.send_message(message)
    assert not refused and said.startswith("2.6.0 Message: OK, delivered as "), (refused, said)

async def main():
    port, tls_port = int(os.environ["PORT"]), int(os.environ["TLS_PORT"])
    common = dict(hostname="127.0.0.1", source_address="c.example", tls_context=trust)
    async with SMTP(port=port, start_tls=True, **common) as client:
        await client.ehlo()
        assert not client.supports_extension("starttls")
        await send(client, "one@here.example")
        await send(client, "j\u00fcrgen@here.example")
    async with SMTP(port=tls_port, use_tls=True, **common) as client:
        await send(client, "two@here.example")

asyncio.run(main())
END"#;
    server.run(script);
    for user in ["one", "two", "j\u{fc}rgen"] {
        let mailbox = server.mailbox(user);
        let with = if user.is_ascii() { " with ESMTPS (" } else { " with UTF8SMTPS (" };
        assert!(mailbox.contains(&format!("{with}using TLSv1.3 with cipher ")), "{mailbox}");
        assert!(mailbox.ends_with("\n\nGr\u{fc}\u{df}e\n.\n..\n\n"), "{mailbox}");
    }
}

/// Parameters of all extensions, and commands that smtplib has no function for.
#[test]
#[ignore = "needs python3"]
fn smtplib_with_every_extension() {
    let server = TlsServer::new();
    let script = r#"python3 - <<'END'
import os, smtplib
with smtplib.SMTP("127.0.0.1", int(os.environ["PORT"]), "c.example") as client:
    client.ehlo()
    for name in ("pipelining size 8bitmime enhancedstatuscodes chunking smtputf8 limits prdr dsn "
                 "starttls vrfy expn help").split():
        assert client.has_extn(name), name
    assert int(client.esmtp_features["size"]) > 0
    assert client.esmtp_features["limits"] == "RCPTMAX=100"
    text = "Subject: by smtplib\r\n\r\nGr\u00fc\u00dfe\r\n".encode()
    client.sendmail("a@here.example", ["one@here.example"], text,
                    ["BODY=8BITMIME", "RET=HDRS", "ENVID=QQ314159"],
                    ["NOTIFY=SUCCESS", "ORCPT=rfc822;first@here.example"])
    client.sendmail("a@here.example", ["j\u00fcrgen@here.example"], text,
                    ["SMTPUTF8", "BODY=8BITMIME"])
    # PRDR: after 353 a reply for each, and one for all.
    client.mail("a@here.example", ["PRDR"])
    for user in ("two", "three"):
        assert client.rcpt(user + "@here.example")[0] == 250
    code, said = client.data(text)
    assert code == 353, (code, said)
    assert [client.getreply()[0] for _ in range(3)] == [250, 250, 250]
    # BDAT: three chunks, of which the last is empty.
    client.mail("a@here.example")
    client.rcpt("four@here.example")
    for chunk, last in ((text[:5], b""), (text[5:], b""), (b"", b" LAST")):
        client.send(b"BDAT %d%s\r\n" % (len(chunk), last) + chunk)
        assert client.getreply()[0] == 250
    assert client.verify("one@here.example")[0] == 250
    assert client.help().startswith(b"2.0.0 mailslot ")
END"#;
    server.run(script);
    for user in ["one", "two", "three", "four", "j\u{fc}rgen"] {
        let mailbox = server.mailbox(user);
        assert!(mailbox.ends_with("\n\nGr\u{fc}\u{df}e\n\n"), "{user}: {mailbox}");
    }
    // The report is delivered after the sender got its reply.
    wait_until("the report arrives", || {
        server.mailbox("a").contains("\nOriginal-Envelope-Id: QQ314159\n")
    });
}

/// Session resumption, as Postfix and mail clients use it.
#[test]
#[ignore = "needs openssl"]
fn openssl_resumes_sessions() {
    let server = TlsServer::new();
    for version in ["-tls1_2", "-tls1_3"] {
        let client = format!(
            "(printf 'NOOP\\n'; sleep 1; printf 'quit\\n'; sleep 1) | openssl s_client -crlf \
             {version} -starttls smtp -connect 127.0.0.1:$PORT"
        );
        server.run(&format!("{client} -sess_out session.pem"));
        let printed = server.run(&format!("{client} -sess_in session.pem"));
        assert!(printed.contains("\nReused, "), "{printed}");
    }
}
