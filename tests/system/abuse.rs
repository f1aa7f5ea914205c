//! Tools against abuse with the real program: fail2ban reads its log, and scripts of nmap look for
//! faults of mail servers.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::directory::TestDirectory;
use crate::harness::external::{self, external, run, run_for_text};
use crate::harness::inetd::inetd_session;
use crate::harness::log_lines::{as_in_syslog, typical_log};
use crate::harness::server::Server;

/// Returns abuse by remote clients: the address, the input, and the number of log lines that
/// fail2ban must count.
fn abuses() -> Vec<(&'static str, String, usize)> {
    let transaction = "EHLO c\r\nMAIL FROM:<a@b.example>\r\n";
    let quoted = "client=192.0.2.99:1 end=errors";
    vec![
        ("192.0.2.10", "GET / HTTP/1.1\r\n\r\n".to_owned(), 1),
        ("2001:db8::10", "\u{16}\u{3}\u{1}".to_owned(), 1),
        ("192.0.2.11", "WIZ\r\n".repeat(30), 1),
        ("2001:db8:1:2:3:4:5:6", "WIZ\r\n".repeat(30), 1),
        ("192.0.2.12", transaction.to_owned() + &"RCPT TO:<x@here.example>\r\n".repeat(30), 1),
        // Relaying, with text that would ban another address.
        ("192.0.2.13", transaction.to_owned() + "RCPT TO:<a@else.example>\r\n", 1),
        ("2001:db8::13", format!("{transaction}RCPT TO:<\"{quoted}\"@else.example>\r\n"), 1),
        ("192.0.2.14", format!("{transaction}RCPT TO:<\"{quoted} \\\"\"@else.example>\r\n"), 1),
        ("192.0.2.15", format!("{transaction}RCPT TO:<\"abuse {quoted}\"@here.example>\r\n"), 0),
    ]
}

/// Returns the path of a file for fail2ban.
fn contributed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/fail2ban").join(file)
}

/// Returns the addresses that the filter finds in these lines, from a file or the journal.
fn found(lines: &[String], home: &Path, from: &str) -> Vec<String> {
    // In the directory of the file that it includes.
    let filter = home.join("mailslot.conf");
    fs::copy(contributed("filter.d/mailslot.conf"), &filter).unwrap();
    fs::copy("/etc/fail2ban/filter.d/common.conf", home.join("common.conf")).unwrap();
    let filter = format!("{}[logtype={from}]", filter.display());
    let log = home.join("mail.log");
    fs::write(&log, lines.join("\n") + "\n").unwrap();
    let mut regex = external("fail2ban-regex", home);
    let printed = run_for_text(regex.args(["--out", "ip"]).arg(log).arg(filter));
    printed.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs fail2ban"]
fn fail2ban_finds_abuse_and_nothing_else() {
    let directory = TestDirectory::new();
    let only = ["--domain", "here.example", "--user", "smith"];
    let (mut log, mut expected) = (Vec::new(), Vec::new());
    for (address, words, count) in abuses() {
        let session = inetd_session(&directory, Some(address), words.as_bytes(), &only);
        log.extend(session.log);
        expected.extend((0..count).map(|_| address.to_owned()));
    }
    for (traditional, from) in [(true, "file"), (false, "file"), (true, "journal")] {
        let home = TestDirectory::new();
        let lines: Vec<String> = log.iter().map(|line| as_in_syslog(line, traditional)).collect();
        assert_eq!(found(&lines, home.path(), from), expected, "in\n{}", lines.join("\n"));
        let day = typical_log();
        let lines: Vec<String> = day.iter().map(|line| as_in_syslog(line, traditional)).collect();
        assert_eq!(found(&lines, home.path(), from), [""; 0], "in\n{}", lines.join("\n"));
    }
}

/// fail2ban accepts the jail, without those of Debian.
#[test]
#[ignore = "needs fail2ban"]
fn fail2ban_accepts_the_jail() {
    let home = TestDirectory::new();
    let etc = home.path().join("fail2ban");
    run(external("cp", home.path()).args(["-r", "/etc/fail2ban"]).arg(&etc));
    for jail in external::files(&etc.join("jail.d"), |_| true) {
        fs::remove_file(jail).unwrap();
    }
    for file in ["filter.d/mailslot.conf", "jail.d/mailslot.conf"] {
        fs::copy(contributed(file), etc.join(file)).unwrap();
    }
    let mut client = external("fail2ban-client", home.path());
    let dump = run_for_text(client.arg("-c").arg(&etc).arg("-d"));
    assert!(dump.contains("['add', 'mailslot', 'systemd']"), "{dump}");
    assert!(dump.contains("['start', 'mailslot']"), "{dump}");
}

/// nmap, without smtp-strangeport, which reports every port but three.
#[test]
#[ignore = "needs nmap"]
fn nmap_finds_no_fault() {
    let server = Server::start(&[
        "--domain",
        "here.example",
        "--user",
        "smith",
        "--vrfy",
        "off",
        "--expn",
        "off",
    ]);
    let scripts = "+smtp-open-relay,+smtp-commands,+smtp-enum-users,+smtp-ntlm-info,+smtp-vuln-*";
    let mut nmap = external("nmap", server.path());
    nmap.args(["-Pn", "-n", "-sV", "--script", scripts]);
    let port = server.address.port().to_string();
    let printed = run_for_text(nmap.args(["-p", &port]).arg(server.address.ip().to_string()));
    assert!(printed.contains("open  smtp"), "{printed}");
    assert!(printed.contains("smtp-commands: localhost greets "), "{printed}");
    assert!(
        printed.contains("smtp-open-relay: Server doesn't seem to be an open relay"),
        "{printed}"
    );
    assert!(printed.contains("Couldn't find any accounts"), "{printed}");
    assert!(!printed.contains("smtp-ntlm-info"), "{printed}");
    let vulnerable = printed.matches("VULNERABLE").count();
    assert_eq!(vulnerable, printed.matches("NOT VULNERABLE").count(), "{printed}");
    // No mail of the scripts was delivered.
    assert_eq!(server.mailboxes(), [""; 0]);
}
