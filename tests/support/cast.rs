//! The people of the dialogues: a host `beta.arpa` on which every reply has its cause.

use mailslot::smtp::reply::{self, Reply};
use mailslot::smtp::{ForwardPath, Host, Mailbox, Settings};

/// The settings that a dialogue's options ask for.
pub fn settings(options: &[(String, String)]) -> Settings {
    let mut settings = Settings {
        hostname: "beta.arpa".to_owned(),
        size_max: 10_000,
        recipients_max: 100,
        vrfy: true,
        expn: true,
        errors_max: 20,
    };
    for (option, value) in options {
        match (option.as_str(), value.as_str()) {
            ("max-size", size) => settings.size_max = size.parse().unwrap(),
            ("max-recipients", number) => settings.recipients_max = number.parse().unwrap(),
            ("vrfy", value) => settings.vrfy = value == "on",
            ("expn", value) => settings.expn = value == "on",
            (option, _) => panic!("! {option}: not an option of dialogues"),
        }
    }
    settings
}

/// The host. Jones, Brown and Smith have mailboxes; everybody else has a story.
#[derive(Clone, Copy, Debug)]
pub struct Beta;

impl Host for Beta {
    type Destination = String;

    fn room(&self, size: Option<u64>) -> Result<(), Reply> {
        if size.is_some_and(|size| size > 5_000) { Err(reply::no_room()) } else { Ok(()) }
    }

    fn recipient(&self, to: &ForwardPath) -> Result<String, Reply> {
        let ForwardPath::Mailbox(mailbox) = to else { return Ok("root".to_owned()) };
        let local = mailbox.local().to_ascii_lowercase();
        match (local.as_str(), mailbox.domain().to_string().to_ascii_lowercase().as_str()) {
            ("paul", "usc-isib.arpa") => {
                let moved = Mailbox::parse("Mockapetris@USC-ISIF.ARPA").unwrap();
                Err(reply::please_try(&moved))
            }
            (_, domain) if domain != "beta.arpa" => Err(reply::relaying_denied(to)),
            ("jones" | "brown" | "smith" | "postmaster", _) => Ok(local),
            ("busy", _) => Err(reply::mailbox_unavailable(to)),
            ("later", _) => Err(reply::lookup_failed("RCPT")),
            ("full", _) => Err(reply::mailbox_full(to)),
            ("a/b", _) => Err(reply::name_not_allowed(to)),
            _ => Err(reply::no_such_user(to)),
        }
    }

    fn vrfy(&self, name: &str) -> Reply {
        match name.to_ascii_lowercase().as_str() {
            "smith" => reply::members(vec!["Fred Smith <Smith@beta.arpa>".to_owned()]),
            "team" => {
                let one = |name: &str| Mailbox::parse(&format!("{name}@beta.arpa")).unwrap();
                reply::ambiguous(&[one("Jones"), one("Brown")])
            }
            _ => reply::nobody("VRFY"),
        }
    }

    fn expn(&self, list: &str) -> Reply {
        match list {
            "team" => reply::members(vec![
                "Alan Jones <Jones@beta.arpa>".to_owned(),
                "<Brown@beta.arpa>".to_owned(),
            ]),
            _ => reply::nobody("EXPN"),
        }
    }

    fn help(&self) -> Option<Reply> {
        Some(reply::status(vec!["mailslot takes mail for beta.arpa".to_owned()]))
    }
}
