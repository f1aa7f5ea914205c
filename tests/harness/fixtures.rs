//! The host `beta.arpa` of the dialogues, on which every reply has its cause: as [`BetaHost`] for a
//! receiver without a network, and as [`set_up`] prepares it for the real program.

use std::fs::{self, File};
use std::path::Path;

use mailslot::smtp::reply::{self, Reply};
use mailslot::smtp::{
    Delivery, ForwardPath, Host, Mailbox, ReceiverConfig, ReversePath, StartTlsMode,
};

/// Returns the configuration of a receiver that a dialogue's options ask for.
pub fn config(options: &[(String, String)]) -> ReceiverConfig {
    let mut config = ReceiverConfig {
        size_max: 10_000,
        vrfy: true,
        expn: true,
        prdr: true,
        dsn: true,
        ..ReceiverConfig::new("beta.arpa")
    };
    for (option, value) in options {
        match (option.as_str(), value.as_str()) {
            ("max-size", size) => config.size_max = size.parse().unwrap(),
            ("max-recipients", number) => config.recipients_max = number.parse().unwrap(),
            ("vrfy", value) => config.vrfy = value == "on",
            ("expn", value) => config.expn = value == "on",
            ("terminals", value) => config.terminals = value == "on",
            ("lmtp", "on") => (config.lmtp, config.dsn) = (true, false),
            ("tls", "offered") => config.tls = StartTlsMode::Offered,
            ("tls", "required") => config.tls = StartTlsMode::Required,
            (option, _) => panic!("! {option}: not an option of dialogues"),
        }
    }
    config
}

/// Prepares the sandbox directory of the real program. Returns the options to start it with.
pub fn set_up(directory: &Path, options: &[(String, String)]) -> Vec<String> {
    let mail = directory.join("mail");
    fs::create_dir(&mail).unwrap();
    // The mailbox of busy is a directory, and that of full is larger than the limit.
    fs::create_dir(mail.join("busy")).unwrap();
    File::create(mail.join("full")).unwrap().set_len(MAILBOX_MAX).unwrap();
    // The alias `later` leads to no user, so that its mail is deferred.
    let aliases = "paul@usc-isib.arpa: Mockapetris@USC-ISIF.ARPA\n\
        team: jones, brown\n\
        gruppe: jones, j\u{fc}rgen\n\
        moved: s\u{f8}ren@alph\u{e4}.arpa\n\
        later: someone-who-left\n";
    fs::write(directory.join("aliases"), aliases).unwrap();

    let aliases = directory.join("aliases").to_str().unwrap().to_owned();
    let limit = MAILBOX_MAX.to_string();
    let mut all = vec![
        ("hostname", "beta.arpa"),
        ("domain", "beta.arpa"),
        ("domain", "usc-isib.arpa"),
        ("domain", "b\u{fc}cher.arpa"),
        ("mailbox-limit", &limit),
        ("aliases", &aliases),
        ("hold", "off"),
    ];
    let cases = ["a.miller", "b.miller", "busy", "full"];
    all.extend(MAILBOXES.iter().chain(&cases).map(|user| ("user", *user)));
    all.extend(options.iter().map(|(option, value)| match option.as_str() {
        "lmtp" => ("lmtp", "127.0.0.1:0"),
        option => (option, value.as_str()),
    }));
    if !options.iter().any(|(option, _)| option == "max-size") {
        all.push(("max-size", "10000"));
    }
    all.into_iter().flat_map(|(option, value)| [format!("--{option}"), value.to_owned()]).collect()
}

/// The host without a network. jones, brown and smith have mailboxes; each other name is a case.
#[derive(Clone, Copy, Debug)]
pub struct BetaHost;

impl Host for BetaHost {
    type Destination = String;

    fn check_mail(&self, _from: &ReversePath, size: Option<u64>) -> Result<(), Reply> {
        if size.is_some_and(|size| size > DISK) { Err(reply::no_room()) } else { Ok(()) }
    }

    fn resolve_recipient(&self, to: &ForwardPath, _delivery: Delivery) -> Result<String, Reply> {
        let ForwardPath::Mailbox(mailbox) = to else { return Ok("root".to_owned()) };
        let local = mailbox.local().to_lowercase();
        match (local.as_str(), mailbox.domain().to_ascii().as_str()) {
            ("paul", "usc-isib.arpa") => {
                let moved = Mailbox::parse("Mockapetris@USC-ISIF.ARPA").unwrap();
                Err(reply::please_try(&moved))
            }
            (_, domain) if !matches!(domain, "beta.arpa" | "xn--bcher-kva.arpa") => {
                Err(reply::relaying_denied(to))
            }
            ("jones" | "brown" | "smith" | "j\u{fc}rgen" | "postmaster", _) => Ok(local),
            ("moved", _) => Err(reply::please_try(&moved_to_utf8())),
            ("busy", _) => Err(reply::mailbox_unavailable(to)),
            ("later", _) => Err(reply::misconfigured("RCPT")),
            ("full", _) => Err(reply::mailbox_full(to)),
            _ => Err(reply::no_such_user(to)),
        }
    }

    fn vrfy(&self, name: &str) -> Reply {
        match name.to_ascii_lowercase().as_str() {
            "smith" => reply::mailboxes(vec!["<smith@beta.arpa>".to_owned()]),
            "j\u{fc}rgen" => reply::mailboxes(vec!["<j\u{fc}rgen@beta.arpa>".to_owned()]),
            "moved" => reply::please_try(&moved_to_utf8()),
            "miller" => {
                let one = |name: &str| Mailbox::parse(&format!("{name}@beta.arpa")).unwrap();
                reply::ambiguous(&[one("a.miller"), one("b.miller")])
            }
            _ => reply::no_such_name("VRFY"),
        }
    }

    fn expn(&self, list: &str) -> Reply {
        match list {
            "team" => reply::mailboxes(vec![
                "<jones@beta.arpa>".to_owned(),
                "<brown@beta.arpa>".to_owned(),
            ]),
            "gruppe" => reply::mailboxes(vec![
                "<jones@beta.arpa>".to_owned(),
                "<j\u{fc}rgen@beta.arpa>".to_owned(),
            ]),
            _ => reply::no_such_name("EXPN"),
        }
    }

    fn help(&self) -> Option<Reply> {
        Some(reply::status(vec!["mailslot takes mail for beta.arpa".to_owned()]))
    }
}

fn moved_to_utf8() -> Mailbox {
    Mailbox::parse("s\u{f8}ren@alph\u{e4}.arpa").unwrap()
}

/// Users who get mail. Postmaster's goes to the first.
pub const MAILBOXES: [&str; 4] = ["jones", "brown", "smith", "j\u{fc}rgen"];
/// Bytes that [`BetaHost`] has free. A dialogue for the real program asks for more than any disk
/// has.
const DISK: u64 = 5_000;
/// Mailbox limit in bytes, larger than what the dialogues deliver.
const MAILBOX_MAX: u64 = 1 << 20;
