//! sendmail(1), mailq(1) and newaliases(1): options, standard input, exit statuses, and what is
//! delivered.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::harness::directory::TestDirectory;
use crate::harness::server::{Server, sendmail_path};

/// A server, and the configuration file by which sendmail finds it.
struct SendmailHost {
    server: Server,
    config: PathBuf,
}

impl SendmailHost {
    fn new(options: &[&str]) -> SendmailHost {
        SendmailHost::started_by(&[], options)
    }

    /// The server is started by another program, which gets the command after its own options.
    fn started_by(starter: &[&str], options: &[&str]) -> SendmailHost {
        let options = [&["--domain", "here.example"], options].concat();
        let server = Server::start_by(starter, TestDirectory::new(), &options);
        let server = server.unwrap_or_else(|(log, status)| panic!("{status}: {log:#?}"));
        let config = server.join("conf");
        let text = format!(
            "listen {}\nhostname mx.here.example\ndomain here.example\naliases none\nhold off\n\
             spool {}\n",
            server.address,
            server.join("spool").display(),
        );
        fs::write(&config, text).unwrap();
        SendmailHost { server, config }
    }

    fn start(&self, args: &[&str]) -> Child {
        start(sendmail_path(), &[&["-C", self.config.to_str().unwrap()], args].concat())
    }

    /// Runs it with `input`. Returns its exit status and what it printed.
    fn run(&self, args: &[&str], input: &[u8]) -> (i32, String) {
        let mut child = self.start(args);
        // It may end without reading all.
        let _ = child.stdin.take().unwrap().write_all(input);
        said(child.wait_with_output().unwrap())
    }

    fn mailbox(&self, user: &str) -> String {
        self.server.mailbox(user)
    }
}

/// Starts a program that is killed if it takes too long.
fn start(program: &str, args: &[&str]) -> Child {
    let mut command = Command::new("timeout");
    command
        .args(["60", program])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn said(output: Output) -> (i32, String) {
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn message_reaches_its_recipients() {
    let host = SendmailHost::new(&[]);
    let input = b"Subject: x\nTo: smith, jones@here.example\nBcc: brown\n\n.a\nb\n.\nc\n";
    assert_eq!(host.run(&["-i", "white"], input), (0, String::new()));
    assert_eq!(host.run(&["-t"], input), (0, String::new()));
    assert_eq!(host.run(&["-ti", "-f", "green", "-F", "Mr. Green"], input), (0, String::new()));
    let white = host.mailbox("white");
    assert!(white.ends_with("\n\n.a\nb\n.\nc\n\n"), "{white}");
    assert!(!white.contains("brown"), "{white}");
    assert!(white.contains("\nTo: smith@here.example, jones@here.example\n"), "{white}");
    for name in ["smith", "jones", "brown"] {
        let mailbox = host.mailbox(name);
        assert_eq!(mailbox.matches("\nSubject: x\n").count(), 2, "{name}: {mailbox}");
        assert!(mailbox.contains("\n\n.a\nb\n\n"), "{mailbox}");
        assert!(mailbox.ends_with("\n\n.a\nb\n.\nc\n\n"), "{mailbox}");
        assert!(mailbox.contains("\nReturn-Path: <green@here.example>\n"), "{mailbox}");
        assert!(mailbox.contains("\nFrom: \"Mr. Green\" <green@here.example>\n"), "{mailbox}");
        assert_eq!(mailbox.matches("\nDate: ").count(), 2, "{mailbox}");
        assert_eq!(mailbox.matches("\nMessage-ID: <").count(), 2, "{mailbox}");
        assert!(!mailbox.contains("Bcc"), "{mailbox}");
    }
}

#[test]
fn sender_is_the_caller_or_the_option() {
    let host = SendmailHost::new(&[]);
    let uid = nix::unistd::getuid();
    // In a container the user may have no name.
    let me = nix::unistd::User::from_uid(uid).unwrap();
    let me = me.map_or_else(|| format!("uid{uid}"), |user| user.name);
    for (args, path) in [
        (&["a"][..], format!("<{me}@here.example>")),
        (&["-f", "x@y.example", "a"], "<x@y.example>".to_owned()),
        (&["-fx", "a"], "<x@here.example>".to_owned()),
        (&["-r", "X <x@y.example>", "a"], "<x@y.example>".to_owned()),
        (&["-f", "", "a"], "<>".to_owned()),
        (&["-f", "<>", "a"], "<>".to_owned()),
    ] {
        let before = host.mailbox("a").len();
        assert_eq!(host.run(args, b"\nx\n"), (0, String::new()), "{args:?}");
        let mailbox = &host.mailbox("a")[before..];
        assert!(mailbox.contains(&format!("\nReturn-Path: {path}\n")), "{args:?} {mailbox}");
    }
}

#[test]
fn exit_statuses() {
    let host = SendmailHost::new(&["--user", "smith", "--max-size", "100K"]);
    let large = vec![b'x'; 200_000];
    for (args, input, status, says) in [
        (&["smith"][..], &b"x\n"[..], 0, ""),
        (&["-v", "smith"], b"x\n", 0, "smith@here.example: 250 2.6.0 "),
        (&["nobody"], b"x\n", 67, "nobody@here.example: 550 5.1.1 "),
        (&["smith", "nobody"], b"x\n", 67, "nobody@here.example: 550 5.1.1 "),
        (&["a@elsewhere.example"], b"x\n", 69, "a@elsewhere.example: 550 5.7.1 "),
        (&["smith"], &large, 65, "smith@here.example: the message exceeds"),
        (&[], b"x\n", 64, "no recipient: "),
        (&["-t"], b"Subject: x\n\n", 65, "the header names no recipient"),
        (&["-t"], b"To: a b c\n\n", 65, "To: \"a b c\" is not an address: "),
        (&["-t"], b"To: smith, foo..bar@x\n\n", 67, "To: \"foo..bar@x\" is not an address: "),
        (&["-t"], b"Cc: <smith> # v5.10+\n\n", 0, ""),
        (&["a b"], b"x\n", 64, "\"a b\" is not an address"),
        (&["-f", "a, b", "smith"], b"x\n", 64, "\"a, b\" is not an address: expected one"),
        (&["--what", "smith"], b"x\n", 64, "no such option: --what"),
        (&["-C", "/nonexistent", "smith"], b"x\n", 78, "/nonexistent: "),
        (&["-bv", "smith"], b"", 0, "smith"),
        (&["-bv", "nobody"], b"", 67, "nobody"),
        (&["-bp"], b"", 0, "Mail queue is empty\n"),
        (&["-bi"], b"", 0, ""),
        (&["-q"], b"", 0, ""),
        (&["--help"], b"", 0, "Usage: sendmail "),
        (&["--version"], b"", 0, "mailslot-sendmail "),
    ] {
        if args.contains(&"-bv") {
            // This is answered from the host's own files, which do not have the users of the
            // sandbox.
            fs::write(
                host.server.join("v"),
                "hostname h\ndomain here.example\naliases none\nuser smith\n",
            )
            .unwrap();
            let config = host.server.join("v");
            let all = [&["-C", config.to_str().unwrap()], args].concat();
            let found = said(start(sendmail_path(), &all).wait_with_output().unwrap());
            assert_eq!(found.0, status, "{args:?}: {}", found.1);
            assert!(found.1.contains(says), "{}", found.1);
            continue;
        }
        let (found, text) = host.run(args, input);
        assert_eq!(found, status, "{args:?}: {text}");
        let text = text.strip_prefix("mailslot-sendmail: ").unwrap_or(&text);
        assert!(text.starts_with(says), "{args:?}: {text}");
    }
}

/// The exit status agrees with the text: an address that will be relayed is good.
#[test]
fn an_invalid_address_in_the_header_keeps_no_mail_from_the_others() {
    let host = SendmailHost::new(&["--user", "smith", "--user", "jo"]);
    let header = "To: \"Smith <smith>, jo; root@\nCc: smith,\u{a0}a..b@c\nSubject: partial\n\nx\n";
    let (status, text) = host.run(&["-t"], header.as_bytes());
    assert_eq!(status, 67, "{text}");
    for element in ["To: \"\\\"Smith <smith>\"", "To: \"root@\"", "Cc: \"a..b@c\""] {
        assert!(text.contains(&format!("mailslot-sendmail: {element} is not")), "{text}");
    }
    for user in ["smith", "jo"] {
        assert_eq!(host.server.mailbox(user).matches("\nSubject: partial\n").count(), 1, "{user}");
    }
}

#[test]
fn verify_accepts_an_address_that_is_relayed() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("conf");
    for (relay, status, text) in [
        ("", 69, "= 550 5.7.1 "),
        ("smarthost 127.0.0.1:1\n", 0, "= relayed, for clients that may relay"),
    ] {
        let options = format!("hostname h\ndomain here.example\naliases none\n{relay}");
        fs::write(&config, options).unwrap();
        let args = ["-C", config.to_str().unwrap(), "-bv", "a@elsewhere.example"];
        let (found, printed) = said(start(sendmail_path(), &args).wait_with_output().unwrap());
        assert_eq!(found, status, "{printed}");
        assert!(printed.contains(text), "{printed}");
    }
}

#[test]
fn mailq_and_newaliases() {
    let host = SendmailHost::new(&[]);
    for (name, printed) in [("mailq", "Mail queue is empty\n"), ("newaliases", "")] {
        let path = host.server.join(name);
        symlink(sendmail_path(), &path).unwrap();
        let config = ["-C", host.config.to_str().unwrap()];
        let output = start(path.to_str().unwrap(), &config).wait_with_output().unwrap();
        assert_eq!(said(output), (0, printed.to_owned()), "{name}");
    }
}

#[test]
fn without_a_server_it_exits_75() {
    let host = SendmailHost::new(&[]);
    let SendmailHost { server, config } = host;
    let directory = TestDirectory::new();
    let copy = directory.join("conf");
    fs::copy(config, &copy).unwrap();
    let (_, status) = server.stop();
    assert!(status.success());
    let config = copy.to_str().unwrap();
    for args in [&["-C", config, "smith"][..], &["-C", config, "-bs"]] {
        let mut child = start(sendmail_path(), args);
        let _ = child.stdin.take().unwrap().write_all(b"x\n");
        let (status, text) = said(child.wait_with_output().unwrap());
        assert_eq!(status, 75, "{text}");
        assert!(text.contains("the mail server does not answer"), "{text}");
        assert_eq!(text.starts_with("421 4.3.2 "), args.contains(&"-bs"), "{text}");
    }
}

/// Unix sockets are tried before other addresses.
#[test]
fn delivery_over_a_unix_socket() {
    let directory = TestDirectory::new();
    let socket = format!("unix:{}", directory.join("smtp").display());
    let host = SendmailHost::new(&["--listen", &socket]);
    let text = fs::read_to_string(&host.config).unwrap();
    fs::write(&host.config, format!("{text}listen {socket}\n")).unwrap();
    assert_eq!(host.run(&["smith"], b"x\n"), (0, String::new()));
    let mailbox = host.mailbox("smith");
    assert!(mailbox.contains("Received: from mx.here.example (local)"), "{mailbox}");
}

#[test]
fn smtp_on_standard_input_and_output() {
    let host = SendmailHost::new(&[]);
    for end in ["\n", "\r\n"] {
        let mut child = host.start(&["-bs"]);
        let mut input = child.stdin.take().unwrap();
        let mut replies = BufReader::new(child.stdout.take().unwrap());
        let mut reply = |expected: &str| loop {
            let mut line = String::new();
            replies.read_line(&mut line).unwrap();
            assert!(line.starts_with(expected), "{expected}: {line}");
            if line.as_bytes()[3] == b' ' {
                break;
            }
        };
        reply("220");
        for (line, expected) in [
            ("EHLO client.example", "250"),
            ("MAIL FROM:<a@b.example>", "250"),
            ("RCPT TO:<smith@here.example>", "250"),
            ("DATA", "354"),
            ("Subject: x", ""),
            ("", ""),
            ("STARTTLS", ""),
            ("..", ""),
            (".", "250"),
            ("QUIT", "221"),
        ] {
            input.write_all(format!("{line}{end}").as_bytes()).unwrap();
            if !expected.is_empty() {
                reply(expected);
            }
        }
        // It ends while standard input is still open.
        assert!(child.wait().unwrap().success());
        let mut rest = String::new();
        replies.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        drop(input);
    }
    assert_eq!(host.mailbox("smith").matches("\nSubject: x\n\nSTARTTLS\n.\n\n").count(), 2);
}

/// A message that is too large for memory waits in a file.
#[test]
fn large_message_is_delivered() {
    let host = SendmailHost::new(&[]);
    let body = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n".repeat(1 << 16);
    let input = format!("Subject: large\n\n{body}");
    assert_eq!(host.run(&["smith"], input.as_bytes()), (0, String::new()));
    assert!(host.mailbox("smith").ends_with(&format!("\n\n{body}\n")));
}

/// Mail for another host is put into the queue, listed and tried.
#[test]
fn mail_for_other_hosts_is_queued() {
    // With this a build without TLS can do it, too.
    let host = SendmailHost::new(&["--smarthost", "127.0.0.1:1", "--smarthost-tls", "may"]);
    assert_eq!(host.run(&["a@elsewhere.example"], b"Subject: x\n\n"), (0, String::new()));
    let (status, listed) = host.run(&["-bp"], b"");
    assert_eq!(status, 0, "{listed}");
    assert!(listed.contains("to <a@elsewhere.example>\n"), "{listed}");
    assert!(listed.contains("\n1 in the queue, "), "{listed}");
    let text = fs::read_to_string(&host.config).unwrap();
    let mail_dir = host.server.join("mail");
    let relay = "smarthost 127.0.0.1:1\nsmarthost-tls may\n";
    let more = format!("{relay}user smith\nmail-dir {}\n", mail_dir.display());
    fs::write(&host.config, text + &more).unwrap();
    let (status, said) = host.run(&["-q"], b"");
    assert_eq!(status, 75, "{said}");
    assert!(said.contains("1 left in the queue\n"), "{said}");
}

/// More recipients than one transaction takes.
#[test]
fn many_recipients_take_several_transactions() {
    let host = SendmailHost::new(&["--max-recipients", "10"]);
    let to: Vec<String> = (0..25).map(|n| format!("u{n}")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    assert_eq!(host.run(&to, b"Subject: x\n\n"), (0, String::new()));
    for user in to {
        assert_eq!(host.mailbox(user).matches("\nSubject: x\n").count(), 1, "{user}");
    }
}

/// Only root may deliver without a server.
#[test]
fn direct_delivery_is_for_root() {
    let directory = TestDirectory::new();
    let at = |name: &str| directory.join(name).display().to_string();
    fs::create_dir(at("mail")).unwrap();
    fs::create_dir(at("spool")).unwrap();
    let text = format!(
        "listen 127.0.0.1:1\nhostname h\ndomain here.example\naliases none\nuser smith\n\
         mail-dir {}\nspool {}\n",
        at("mail"),
        at("spool"),
    );
    fs::write(at("conf"), text).unwrap();
    let mut child = start(sendmail_path(), &["-C", &at("conf"), "--deliver-direct", "smith"]);
    child.stdin.take().unwrap().write_all(b"Subject: x\n\nx\n").unwrap();
    let (status, said) = said(child.wait_with_output().unwrap());
    if !nix::unistd::geteuid().is_root() {
        assert_eq!((status, said.contains("is for root")), (77, true), "{said}");
        return;
    }
    assert_eq!((status, said), (0, String::new()));
    let mailbox = directory.mailbox("smith");
    assert!(mailbox.ends_with("\n\nx\n\n"), "{mailbox}");
}

/// Date is of sendmail, Received of the server, which is confined by then. date(1) has the zones of
/// the C library.
#[test]
fn dates_have_the_offset_of_the_time_zone() {
    for zone in
        ["Europe/Berlin", "EST5EDT", ":Asia/Kolkata", "XYZ-3:30", "CET-1CEST,M3.5.0,M10.5.0/3"]
    {
        let tz = format!("TZ={zone}");
        let host = SendmailHost::started_by(&["env", &tz], &[]);
        let config = host.config.to_str().unwrap();
        let mut child = start("env", &[&tz, sendmail_path(), "-C", config, "smith"]);
        child.stdin.take().unwrap().write_all(b"Subject: x\n\nx\n").unwrap();
        assert_eq!(said(child.wait_with_output().unwrap()), (0, String::new()));
        let offset = said(Command::new("date").arg("+%z").env("TZ", zone).output().unwrap()).1;
        let mailbox = host.mailbox("smith");
        let ends = |line: &&str| line.ends_with(&format!(" {}", offset.trim()));
        let of_server = mailbox.lines().filter(|line| line.contains("for <smith@here.example>; "));
        let of_sendmail = mailbox.lines().filter(|line| line.starts_with("Date: "));
        assert_eq!(of_server.filter(ends).count(), 1, "{zone}: {mailbox}");
        assert_eq!(of_sendmail.filter(ends).count(), 1, "{zone}: {mailbox}");
    }
}
