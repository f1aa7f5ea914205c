//! Messages sent to smtp-sink of Postfix, with every kind of failure that it offers.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mailslot::relay::client::{ServerAddress, connect};
use mailslot::smtp::{BodyType, Envelope};

use crate::harness::directory::TestDirectory;
use crate::harness::outbound::{
    client_config, envelope, show_outcomes, with_mail, with_surveyed_mail,
};
use crate::harness::process::Daemon;
use crate::harness::wait_until;

/// An smtp-sink, stopped when it is dropped.
struct Sink {
    _process: Daemon,
    directory: TestDirectory,
}

impl Sink {
    fn start(options: &[&str]) -> Sink {
        let directory = TestDirectory::new();
        let socket = directory.join("smtp");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).unwrap();
        let mut command = Command::new("smtp-sink");
        if nix::unistd::geteuid().is_root() {
            command.args(["-u", "postfix"]);
        }
        command
            .env("PATH", "/usr/sbin:/usr/bin:/bin:/usr/local/sbin")
            .current_dir(directory.path())
            .args(["-d", "dump."])
            .args(options)
            .arg(format!("unix:{}", socket.display()))
            .arg("8")
            .stderr(Stdio::null());
        let process = Daemon::spawn(&mut command);
        wait_until("smtp-sink listens", || UnixStream::connect(&socket).is_ok());
        Sink { _process: process, directory }
    }

    fn target(&self) -> ServerAddress {
        ServerAddress::Unix(self.directory.join("smtp"))
    }

    /// Returns what it recorded of each message.
    fn dumps(&self) -> Vec<String> {
        let is_dump = |path: &PathBuf| path.to_string_lossy().contains("dump.");
        let paths = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        paths.filter(is_dump).map(|path| text(&path)).collect()
    }
}

const CONTENT: &str = "Subject: x\n\n.\n..\nFrom x\nj\u{fc}rgen\n\nQUIT\n.";
const ARRIVED: &str = "Subject: x\n\n.\n..\nFrom x\nj\u{fc}rgen\n\nQUIT\n.\n";

/// Sends `content` twice, over one connection if possible. Returns the last outcomes.
fn send(sink: &Sink, to: &Envelope<()>, content: &str) -> Vec<String> {
    let mut connection = match connect(&sink.target(), &client_config()) {
        Ok(connection) => connection,
        Err(reason) => return vec![format!("later {reason}")],
    };
    let mut outcomes = Vec::new();
    for _ in 0..2 {
        outcomes = show_outcomes(&with_mail(to, content.as_bytes(), |mail| connection.send(mail)));
    }
    connection.quit();
    outcomes
}

#[test]
#[ignore = "needs smtp-sink, of Postfix"]
fn messages_arrive_unchanged() {
    let large = "0123456789abcdef\n".repeat(100_000);
    for (options, content, arrived) in [
        (&[][..], CONTENT, ARRIVED),
        (&["-p"], CONTENT, ARRIVED),
        (&["-8"], CONTENT, ARRIVED),
        (&["-e"], CONTENT, ARRIVED),
        (&["-N", "-E", "-a", "-F", "-C"], CONTENT, ARRIVED),
        (&["-P"], CONTENT, ARRIVED),
        (&["-w", "1"], CONTENT, ARRIVED),
        (&["-H", "1"], &large, &large),
    ] {
        let sink = Sink::start(options);
        let to = envelope(&["a@x.example", "b@x.example"]);
        let outcomes = send(&sink, &to, content);
        assert!(outcomes.iter().all(|outcome| outcome.starts_with("done 250 ")), "{outcomes:?}");
        let dumps = sink.dumps();
        assert_eq!(dumps.len(), 2, "{options:?}");
        for dump in dumps {
            assert!(dump.contains("\nX-Rcpt-Args: <b@x.example>"), "{dump}");
            assert!(dump.trim_end_matches('\n').ends_with(arrived.trim_end_matches('\n')));
        }
    }
}

#[test]
#[ignore = "needs smtp-sink, of Postfix"]
fn each_command_fails_in_each_mode() {
    let to = envelope(&["a@x.example", "b@x.example"]);
    for (command, opening, temporary) in [
        ("CONNECT", true, true),
        ("MAIL", false, false),
        ("RCPT", false, false),
        ("DATA", false, false),
        (".", false, false),
    ] {
        for (mode, expected) in [
            ("-r", "later 450 4.3.0 "),
            ("-f", if temporary { "later 5" } else { "never 500 5.3.0 " }),
            ("-q", "later "),
            ("-Q", "later 421 "),
        ] {
            let sink = Sink::start(&[mode, command]);
            let outcomes = send(&sink, &to, CONTENT);
            assert_eq!(outcomes.len(), if opening { 1 } else { 2 }, "{mode} {command}");
            for outcome in outcomes {
                assert!(outcome.starts_with(expected), "{mode} {command}: {outcome}");
            }
        }
    }
    // EHLO alone fails, and HELO succeeds.
    for mode in ["-f", "-r"] {
        let outcomes = send(&Sink::start(&[mode, "EHLO"]), &to, CONTENT);
        assert_eq!(outcomes[0].starts_with("done 250 "), mode == "-f", "{outcomes:?}");
    }
}

#[test]
#[ignore = "needs smtp-sink, of Postfix"]
fn mail_data_refused_half_way() {
    let sink = Sink::start(&["-A", "0"]);
    let large = "0123456789abcdef\n".repeat(100_000);
    let outcomes = send(&sink, &envelope(&["a@x.example"]), &large);
    assert!(outcomes[0].starts_with("never 550 "), "{outcomes:?}");
}

#[test]
#[ignore = "needs smtp-sink, of Postfix"]
fn declared_8bitmime_is_not_converted() {
    let to = Envelope { body: BodyType::EightBitMime, ..envelope(&["a@x.example"]) };
    let outcomes = send(&Sink::start(&["-8"]), &to, CONTENT);
    assert_eq!(outcomes, ["never the next server does not support 8BITMIME"]);
    let outcomes = send(&Sink::start(&[]), &to, CONTENT);
    assert!(outcomes[0].starts_with("done 250 "));
}

#[test]
#[ignore = "needs smtp-sink, of Postfix"]
fn long_lines_and_8_bit_text_are_encoded() {
    let body = format!("{}J\u{fc}rgen=\n\n.\n", "x".repeat(5000));
    for options in [&[][..], &["-8"], &["-p"]] {
        let sink = Sink::start(options);
        let mut connection = connect(&sink.target(), &client_config()).unwrap();
        let content = format!("Subject: x\n\n{body}");
        let outcomes = with_surveyed_mail(
            &Envelope { body: BodyType::EightBitMime, ..envelope(&["a@x.example"]) },
            content.as_bytes(),
            |mail| show_outcomes(&connection.send(mail)),
        );
        connection.quit();
        assert!(outcomes[0].starts_with("done 250 "), "{outcomes:?}");
        let dump = sink.dumps().concat();
        assert!(dump.lines().all(|line| line.len() <= 78), "{dump}");
        let encoded = dump.replace("=\n", "").replace("=3D", "=").replace("=C3=BC", "\u{fc}");
        assert!(encoded.contains(&format!("quoted-printable\n\n{body}")), "{encoded}");
    }
}
