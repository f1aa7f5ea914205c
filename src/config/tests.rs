//! Tests of the configuration: precedence, defaults that follow from the host, and limits.

use super::*;

fn host() -> HostInfo {
    HostInfo { name: "box.example.org".to_owned(), ..HostInfo::default() }
}

/// Returns the configuration for `words` on the command line and `file` in the file `f`.
fn config(words: &str, file: &str, host: &HostInfo) -> Result<Config, String> {
    let args: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
    let new = || {
        let line = options::parse_command_line(&args)?;
        let file = options::parse_file(Path::new("f"), file)?;
        Config::new(&line, file, host)
    };
    new().map_err(|e| match e {
        ConfigError::Usage(text) => format!("usage: {text}"),
        ConfigError::Config(text) => format!("config: {text}"),
    })
}

fn text(listen: &[ListenAddress]) -> Vec<String> {
    listen.iter().map(ListenAddress::to_string).collect()
}

#[test]
fn command_line_overrides_file_overrides_table() {
    for (words, file, threads, origin) in [
        ("", "", 32, "default"),
        ("", "\nthreads 4", 4, "f:2"),
        ("-t 5", "threads 4", 5, "command line"),
        ("--threads=5", "", 5, "command line"),
    ] {
        let config = config(words, file, &host()).unwrap();
        assert_eq!(config.threads, threads, "{words:?} {file:?}");
        assert_eq!(config.origin("threads").to_string(), origin, "{words:?} {file:?}");
    }
    // A repeatable option on the command line replaces all of the file's.
    let listen = config("-l h:1 -l h:2", "listen h:3\nlisten h:4", &host()).unwrap().listen;
    assert_eq!(text(&listen), ["h:1", "h:2"]);
}

#[test]
fn every_option_has_a_default() {
    let config = config("", "", &host()).unwrap();
    assert_eq!(text(&config.listen), ["127.0.0.1:25", "[::1]:25"]);
    assert_eq!(config.hostname, "box.example.org");
    assert_eq!(
        config.describe_recipients(),
        "the users of this host at box.example.org and localhost"
    );
    assert_eq!(config.mail_dir, Path::new("/var/mail"));
    assert_eq!((config.size_max, config.recipients_max), (25 << 20, 100));
    assert_eq!((config.mailbox_limit, config.delimiter), (None, Some('+')));
    assert_eq!(config.timeout, Duration::from_secs(300));
    assert_eq!(config.aliases, None);
    // Every setting is shown, once for each value, in the order of the table.
    let shown: Vec<&str> = config.shown.iter().map(|g| g.long).collect();
    let keys = options::TABLE.iter().filter(|r| r.arity != options::Arity::CommandLine);
    let mut once = shown.clone();
    once.dedup();
    assert_eq!(once, keys.map(|r| r.long).collect::<Vec<_>>());
}

#[test]
fn names_default_to_those_of_the_host() {
    let host = |name: &str, hosts: &str, mailname: Option<&str>| HostInfo {
        name: name.to_owned(),
        hosts: hosts.to_owned(),
        mailname: mailname.map(str::to_owned),
        ..HostInfo::default()
    };
    for (host, hostname, domains) in [
        (host("a.b", "", None), "a.b", "a.b, localhost"),
        (host("a", "", None), "a", "a, localhost"),
        (host("a", "127.0.1.1 a.example a", None), "a.example", "a.example, localhost"),
        (host("a", "127.0.1.1 a a.example # x", None), "a.example", "a.example, localhost"),
        (host("a", "127.0.1.1 a # a.example", None), "a", "a, localhost"),
        (host("a", "127.0.1.1 ab.example a", None), "a", "a, localhost"),
        (host("a.b", "", Some("example.org")), "a.b", "example.org, a.b, localhost"),
        (host("a.b", "", Some("A.B")), "a.b", "A.B, localhost"),
        (host("a.b", "", Some("localhost")), "a.b", "localhost, a.b"),
        // A closing dot is removed.
        (host("a.b.", "", Some("c.d.")), "a.b", "c.d, a.b, localhost"),
        (host("a.", "127.0.1.1 a.example. a", None), "a.example", "a.example, localhost"),
        (host("localhost", "", None), "localhost", "localhost"),
    ] {
        let config = config("", "", &host).unwrap();
        let shown: Vec<&str> =
            config.shown.iter().filter(|g| g.long == "domain").map(|g| &*g.value).collect();
        assert_eq!((&*config.hostname, shown), (hostname, vec![domains]), "{host:?}");
    }
    let unnamed = config("", "", &host("-", "", None));
    assert!(unnamed.clone().is_err_and(|e| e.contains("--hostname")), "{unnamed:?}");
    let mailname = config("", "", &host("a", "", Some("-"))).unwrap_err();
    assert!(mailname.starts_with("config: /etc/mailname: expected"), "{mailname}");
}

#[test]
fn sandbox_uses_nothing_of_the_host() {
    let host = HostInfo {
        mailname: Some("example.org".to_owned()),
        aliases: true,
        sockets: false,
        ..host()
    };
    let sandbox = config("--sandbox d", "", &host).unwrap();
    assert_eq!(text(&sandbox.listen), ["127.0.0.1:2525"]);
    assert_eq!(sandbox.hostname, "localhost");
    assert_eq!(sandbox.describe_recipients(), "every user at every domain");
    assert_eq!((sandbox.mail_dir, sandbox.spool), ("d/mail".into(), "d/spool".into()));
    assert_eq!(sandbox.aliases, None);
    // Options that are given take precedence.
    let given = config("--sandbox d -l h:1 -u al -u bo -d x -m m -a f", "", &host).unwrap();
    assert_eq!(text(&given.listen), ["h:1"]);
    assert_eq!(given.describe_recipients(), "al and bo at x");
    assert_eq!((given.mail_dir, given.aliases), ("m".into(), Some("f".into())));
}

#[test]
fn root_switches_user_only_for_users_of_the_system() {
    let root = HostInfo { root: true, ..host() };
    for (words, host, run_as) in [
        ("", &root, Some("mailslot:mail")),
        ("--inetd", &root, Some("mailslot:mail")),
        ("--run-as al", &root, Some("al")),
        ("--run-as root", &root, Some("root")),
        ("", &host(), None),
        ("--run-as al:mail", &host(), Some("al:mail")),
        // Mailboxes belong to the user of the process, so the default does not switch.
        ("--sandbox d", &root, None),
        ("-u al", &root, None),
        ("-u al --run-as bo", &root, Some("bo")),
    ] {
        let found = config(words, "", host).unwrap().run_as.map(|r| r.to_string());
        assert_eq!(found.as_deref(), run_as, "{words}");
    }
}

#[test]
fn sockets_may_come_from_systemd_or_inetd() {
    let systemd = HostInfo { sockets: true, ..host() };
    for (words, host, listen) in
        [("", &systemd, &[][..]), ("-l h:1", &systemd, &["h:1"]), ("--inetd", &host(), &[])]
    {
        assert_eq!(text(&config(words, "", host).unwrap().listen), listen, "{words}");
    }
    // LMTP does not change addresses that are given.
    for (words, host, listen) in [
        ("--lmtp unix:x", &host(), &[][..]),
        ("--lmtp h:24 -l h:1", &host(), &["h:1"]),
        ("--lmtp h:24", &systemd, &[]),
        ("--sandbox d --lmtp h:24", &host(), &["127.0.0.1:2525"]),
    ] {
        let config = config(words, "", host).unwrap();
        assert_eq!(
            (text(&config.listen), config.lmtp.len()),
            (listen.iter().map(|a| a.to_string()).collect(), 1),
            "{words}"
        );
    }
    let inetd = config("--inetd", "listen h:1\nlmtp h:24", &host()).unwrap();
    assert_eq!(inetd.lmtp, []);
    assert_eq!((text(&inetd.listen), inetd.log), (vec![], LogTarget::Syslog));
}

#[test]
fn values_are_accepted_up_to_their_limits() {
    let accepts = |words: &str| config(words, "", &host()).is_ok();
    for good in [
        "-s 1",
        "-s 64K",
        "-s 25m",
        "-s 1G",
        "-t 2",
        "-t 4096",
        "--timeout 1",
        "--timeout 5m",
        "--lock-timeout 0",
        "--lock-timeout 7d",
        "--lock fcntl",
        "--lock flock,dotlock",
        "--max-recipients 1",
        "--mailbox-limit none",
        "--mailbox-limit 1G",
        "--delimiter -",
        "--delimiter none",
        "--vrfy on",
        "--expn off",
        "--forward-replies local",
        "--terminals local",
        "--log syslog",
        "--tls-cert f",
        "--tls-cert f --tls-key g --tls-required on -l tls:h:465",
        "--tls-cert none --tls-required off",
        "--lmtp unix:/run/x,mode=660 --lmtp [::1]:24",
        "-l unix:/run/x",
        "-l [::1]:0",
        "-l localhost:65535",
        "-a none",
        "-u al.b-c_d",
        "-d a",
        "-d a.example",
        "-v",
        "-vv",
        "-q",
    ] {
        assert!(accepts(good), "{good}");
    }
    for bad in [
        "-s 0",
        "-s -1",
        "-s +1",
        "-s 1T",
        "-s 1MB",
        "-s K",
        "-s 99999999999999999999",
        "-s 17179869184G",
        "-t 1",
        "-t 4097",
        "-t 1e3",
        "--timeout 0",
        "--timeout 8d",
        "--timeout 1.5",
        "--lock ,",
        "--lock dot",
        "--max-recipients 0",
        "--delimiter ++",
        "--delimiter @",
        "--delimiter a",
        "--vrfy yes",
        "--log file",
        "--run-as a:b:c",
        "--run-as :mail",
        "--run-as a:",
        "--run-as none/",
        "--tls-key f",
        "--tls-cert none --tls-key f",
        "--tls-required on",
        "--tls-cert f --tls-required local",
        "-l tls:h:465",
        "--lmtp tls:h:24",
        "--lmtp 127.0.0.1:25",
        "--lmtp none",
        "--inetd --lmtp unix:x",
        "-l unix:",
        "-l 25",
        "-l :25",
        "-l h:65536",
        "-l ::1:25",
        "-u a/b",
        "-u ../x",
        "-u .x",
        "-u a@b",
        "-d [::1]",
        "-d a..b",
        "-d a@b",
        "-n -",
        "-m ",
        "-q -v",
        "check x",
        "explain",
        "serve",
        "--inetd -l h:1",
    ] {
        assert!(!accepts(bad), "{bad}");
    }
}

#[test]
fn errors_name_option_place_and_form() {
    for (words, file, error) in [
        ("-t x", "", "usage: --threads \"x\": expected a number from 2 to 4096"),
        ("", "\n\nthreads x", "config: f:3: threads \"x\": expected a number from 2 to 4096"),
        (
            "-s 25X",
            "",
            "usage: --max-size \"25X\": expected a number of bytes, or a number with K, M or G, \
             such as 25M",
        ),
        (
            "",
            "lock dotlock,lockf",
            "config: f:1: lock \"dotlock,lockf\": expected one or more of dotlock, fcntl and \
             flock, separated by commas",
        ),
        ("--tls-key f", "", "usage: --tls-key \"f\" requires --tls-cert"),
        ("", "listen tls:h:1", "config: f:1: listen \"tls:h:1\" requires tls-cert"),
    ] {
        assert_eq!(config(words, file, &host()).err().as_deref(), Some(error));
    }
}

/// A misspelt key in one of these files would look up nothing.
#[test]
fn keys_used_are_those_of_the_table() {
    let sources = [
        include_str!("command.rs"),
        include_str!("computed.rs"),
        include_str!("mod.rs"),
        include_str!("relay.rs"),
    ];
    let calls =
        ["has", "count", "value", "origin", "show", "single", "list", "list_or", "optional"];
    let mut used = std::collections::BTreeSet::new();
    for source in sources {
        for call in calls {
            for rest in source.split(&format!(".{call}(")).skip(1) {
                let argument = rest.trim_start().strip_prefix('"');
                used.extend(argument.and_then(|text| text.split('"').next()));
            }
        }
    }
    let rows: std::collections::BTreeSet<&str> = options::TABLE.iter().map(|r| r.long).collect();
    assert_eq!(used, rows);
}

#[test]
fn defaults_of_the_library_are_those_of_the_options() {
    let config = config("", "", &host()).unwrap();
    let mut server = config.server_config(None, None);
    // The host's name is looked up by the program alone.
    server.session.hostname = "localhost".to_owned();
    // Only the programs of the host leave mail in the spool.
    server.hand_over = None;
    assert_eq!(format!("{server:?}"), format!("{:?}", server::ServerConfig::default()));
    let delivery = config.delivery_config();
    assert_eq!(format!("{delivery:?}"), format!("{:?}", deliver::DeliveryConfig::default()));
}

/// Asserts that exactly one of the doubtful settings contains `what`.
fn assert_doubtful(words: &str, what: &str) {
    let found = config(words, "", &host()).unwrap().doubtful_settings();
    let hits: Vec<_> = found.iter().filter(|problem| problem.what.contains(what)).collect();
    assert_eq!(hits.len(), 1, "{words}: {what:?} in {found:#?}");
    assert!(!hits[0].stops_mail && !hits[0].fix.is_empty(), "{hits:?}");
}

#[test]
fn dangerous_settings_are_doubtful() {
    for (words, what) in [
        ("-l 0.0.0.0:25 --smarthost a.test --relay-from 0.0.0.0/0", "open relay"),
        ("-l [::]:25 --smarthost a.test --relay-from ::/0", "open relay"),
        ("-l [::]:25 --smarthost a.test --relay-from 10.0.0.0/8 --relay-from 2000::/3", "2000::/3"),
        ("-l 0.0.0.0:25 --smarthost localhost", "smarthost localhost:25 is this server"),
        ("--smarthost [::1]:25", "smarthost [::1]:25 is this server"),
        ("--smarthost BOX.example.org", "is this server"),
        ("-l 127.0.0.1:26 -l unix:/run/s --smarthost unix:/run/s", "unix:/run/s is this server"),
        ("--smarthost a.test --warn-after 5d", "warn-after 432000 is not below give-up-after"),
        ("--smarthost a.test --give-up-after 1h", "warn-after 14400"),
    ] {
        assert_doubtful(words, what);
    }
    for words in [
        "--smarthost a.test --relay-from 0.0.0.0/0",
        "-l 0.0.0.0:25 --smarthost a.test --relay-from 10.0.0.0/8 --relay-from fc00::/7",
        "-l 0.0.0.0:25 --relay-from 0.0.0.0/0",
        "-l 127.0.0.1:25 --smarthost 127.0.0.1:10025",
        "--smarthost 192.0.2.77",
        "--hold off --warn-after 7d",
    ] {
        assert_eq!(config(words, "", &host()).unwrap().doubtful_settings(), [], "{words}");
    }
}

#[test]
fn limits_below_the_standards_are_doubtful() {
    for (words, what) in [
        ("--max-recipients 99", "max-recipients 99"),
        ("--max-size 65535", "max-size 65535"),
        ("--timeout 299", "timeout 299"),
        ("--session-timeout 299", "session-timeout"),
        ("--lock-timeout 541", "lock-timeout 541"),
        ("--lock flock", "lock flock"),
    ] {
        assert_doubtful(words, what);
    }
    for words in ["", "--max-recipients 100 -s 64K --timeout 300"] {
        assert_eq!(config(words, "", &host()).unwrap().doubtful_settings(), []);
    }
}
